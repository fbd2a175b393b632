/* What the fields of each family mean here. Names, defaults and meanings are those of transformers'
 * configuration classes (LlamaConfig, MistralConfig, Qwen2Config, BertConfig, GPT2Config). */
#include <stdio.h>
#include <string.h>

#include "../base/plural_.h"
#include "io_.h"

/* No published model comes near; beyond them a byte count could overflow. */
enum {
    MOST_WIDTH = 1 << 20,
    MOST_FFN = 1 << 22,
    MOST_LAYERS = 10000,
    MOST_HEADS = 1 << 16,
    MOST_VOCAB = 1 << 26,
    MOST_POSITIONS = 1 << 28,
    MOST_TYPES = 1 << 16,
    USUAL_SEQ = 2048
};

/* ---- Of every family ------------------------------------------------------------------------- */

/* They say nothing about memory or mathematics of training: tokens, generation, provenance, heads for other
 * tasks, and what concerns other programs. */
/* clang-format off */
static const char *const harmless[] = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled",
    "_name_or_path", "_num_labels", "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "classifier_activation", "classifier_dropout", "cls_token_id", "decoder_start_token_id",
    "directionality", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_range", "is_composition", "is_llama_config", "keys_to_ignore_at_inference", "label2id",
    "length_penalty", "mask_token_id", "max_length", "max_new_tokens", "max_sequence_length",
    "min_length", "model_max_length", "name_or_path", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_labels", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_past", "output_scores", "pad_token_id", "pooler_fc_size", "pooler_num_attention_heads",
    "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "predict_special_tokens", "prefix",
    "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
    "tokenizer_model_max_length", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "typical_p", "unk_token_id", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_cache", "use_return_dict", "xla_device", NULL
};
/* clang-format on */

int families_ignore(const char *name)
{
    for (const char *const *known = harmless; *known; known++)
        if (!strcmp(*known, name))
            return 1;
    return 0;
}

static void read_refusals(Fields *f)
{
    static const char *const quantized[] = {"quantization_config", "quantization", "compression_config"};
    for (int i = 0; i < 3; i++)
        fields_empty(f, quantized[i], "quantized weights are not computed; take the unquantized file");
    fields_must(f, "is_encoder_decoder", 0, "models of an encoder and a decoder are not computed");
    fields_must(f, "add_cross_attention", 0, "cross-attention is not computed");
    fields_must(f, "tie_encoder_decoder", 0, "models of an encoder and a decoder are not computed");
    fields_empty(f, "cross_attention_hidden_size", "cross-attention is not computed");
    fields_empty(f, "pruned_heads", "pruned heads are not computed");
    fields_empty(f, "per_layer_config", "layers that differ from each other are not computed");
    fields_only(f, "chunk_size_feed_forward", 0, "the feed-forward is not cut into chunks here");
}

/* The file may be of another head on the same body, or of code that comes with it. */
static void read_architectures(Fields *f, const char *expected)
{
    const json_t *list = fields_get(f, "architectures");
    if (list && !json_is_null(list) && !json_is_array(list))
        fields_refuse(f, "architectures", "a list of strings");
    const json_t *first = json_array_get(list, 0);
    if (first && !json_is_string(first))
        fields_refuse(f, "architectures", "a list of strings");
    if (json_is_string(first) && strcmp(json_string_value(first), expected))
        model_note(f->model, "%s is read as %s.", string_text(json_string_value(first)).text, expected);
    if (json_object_size(fields_get(f, "auto_map")))
        model_note(f->model, "auto_map names code of its own, which is not read.");
}

static void note_attention_dropout(Fields *f, const char *name, double otherwise)
{
    double p = fields_null(f, name) ? 0 : fields_probability(f, name, otherwise);
    if (p > 0)
        model_note(f->model, "Attention has no dropout here (%s %g).", name, p);
}

static void read_activation(Fields *f, const char *name, const char *const *known, const char *wanted)
{
    const char *act = fields_text(f, name, known[0]);
    for (; *known; known++)
        if (!strcmp(*known, act))
            return;
    fields_refuse(f, name, "%s", wanted);
}

/* ---- Heads ----------------------------------------------------------------------------------- */

static int largest_divisor(int n, int most)
{
    int d = most < n ? most : n;
    while (d > 1 && n % d)
        d--;
    return d > 1 ? d : 1;
}

static void check_heads(Fields *f, const char *heads_name, int heads, const char *width_name, int width)
{
    if (width % heads)
        fields_fail(f, "%s %d does not divide %s %d; %d would", heads_name, heads, width_name, width,
                    largest_divisor(width, heads));
}

static void check_llama_heads(Fields *f, const LlamaConfig *c)
{
    if (!c->head_dim)
        check_heads(f, "num_attention_heads", c->heads, "hidden_size", c->dim);
    check_heads(f, "num_key_value_heads", c->kv_heads, "num_attention_heads", c->heads);
    int head_dim = c->head_dim ? c->head_dim : c->dim / c->heads;
    if (head_dim % 2)
        fields_fail(f, "the width of a head (%s) is %d; rotary positions need an even one",
                    c->head_dim ? "head_dim" : "hidden_size / num_attention_heads", head_dim);
    if ((int64_t)c->heads * head_dim > MOST_FFN)
        fields_fail(f, "num_attention_heads %d x head_dim %d is more than %d", c->heads, head_dim, MOST_FFN);
}

/* ---- Rotary positions ------------------------------------------------------------------------ */

/* Kinds that are not computed. ("dynamic" changes positions beyond max_position_embeddings only, which no
 * sequence here reaches.) */
static int is_other_scaling(const char *type)
{
    static const char *const kinds[] = {"ntk", "yarn", "longrope", "su"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kinds[i], type))
            return 1;
    return 0;
}

/* A number above 0; where the kind needs it, it must be there. */
static double scaling_number(Fields *f, const char *name, int needed)
{
    if (fields_null(f, name) && !needed)
        return 0;
    double x = fields_number(f, name, 0, 0, 1e9);
    if (needed && x <= 0)
        fields_refuse(f, name, "a number above 0");
    return x;
}

/* The numbers of a scaling; those that its kind does not need are only checked. */
static RopeScaling read_scaling(Fields *f, const char *type)
{
    static const char *const others[] = {"attention_factor", "beta_fast", "beta_slow", "mscale",
                                         "mscale_all_dim"};
    int linear = !strcmp(type, "linear"), llama3 = !strcmp(type, "llama3");
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!fields_null(f, others[i]))
            fields_number(f, others[i], 1, 0, 1e9);
    RopeScaling s = {.kind = linear   ? ROPE_SCALING_LINEAR
                             : llama3 ? ROPE_SCALING_LLAMA3
                                      : ROPE_SCALING_NONE,
                     .factor = (float)scaling_number(f, "factor", linear || llama3),
                     .low_freq_factor = (float)scaling_number(f, "low_freq_factor", llama3),
                     .high_freq_factor = (float)scaling_number(f, "high_freq_factor", llama3)};
    s.original_max_seq = fields_optional(f, "original_max_position_embeddings", 0, 0, MOST_POSITIONS);
    if (llama3 && !f->failed && s.high_freq_factor <= s.low_freq_factor)
        fields_fail(f, "%shigh_freq_factor must be above low_freq_factor %g, not %g", f->within,
                    (double)s.low_freq_factor, (double)s.high_freq_factor);
    if (llama3 && !s.original_max_seq)
        fields_refuse(f, "original_max_position_embeddings", "a whole number from 1 to %d", MOST_POSITIONS);
    return s.kind == ROPE_SCALING_NONE ? (RopeScaling){0} : s;
}

/* The nested object: how positions are stretched, and in newer files the base too. */
static void read_rope_object(Fields *f, const char *name, double *theta, RopeScaling *scaling)
{
    static const char *const ignored[] = {"short_factor", "long_factor", "truncate", "finetuned", NULL};
    const json_t *object = fields_get(f, name);
    if (!object || json_is_null(object))
        return;
    if (!json_is_object(object)) {
        fields_refuse(f, name, "an object or null");
        return;
    }
    char within[32];
    snprintf(within, sizeof within, "%s.", name);
    Fields nested = {.file = f->file, .within = within, .object = object, .model = f->model};
    const char *type = fields_text(&nested, "rope_type", fields_text(&nested, "type", "default"));
    const char *older = fields_text(&nested, "type", type);
    if (strcmp(older, type))
        fields_fail(&nested, "%srope_type is %s and type is %s; keep one", within, string_text(type).text,
                    string_text(older).text);
    int computed = !strcmp(type, "linear") || !strcmp(type, "dynamic") || !strcmp(type, "llama3");
    if (strcmp(type, "default") && !computed && !is_other_scaling(type))
        fields_refuse(&nested, json_object_get(object, "rope_type") ? "rope_type" : "type",
                      "default, linear, dynamic, yarn, longrope or llama3");
    RopeScaling read = read_scaling(&nested, type);
    if (read.kind)
        *scaling = read;
    fields_only(&nested, "partial_rotary_factor", 1, "all of a head is rotated here");
    *theta = fields_number(&nested, "rope_theta", *theta, 1, 1e12);
    fields_leftover(&nested, ignored);
    f->failed = f->failed ? f->failed : nested.failed;
    if (is_other_scaling(type))
        model_note(
            f->model,
            "Rotary positions are not scaled (%s): memory is exact and training from scratch fine, but "
            "trained weights would see other positions.",
            type);
}

static void read_rotary(Fields *f, LlamaConfig *c)
{
    double top = fields_number(f, "rope_theta", 10000, 1, 1e12), theta = top;
    read_rope_object(f, "rope_scaling", &theta, &c->rope_scaling);
    read_rope_object(f, "rope_parameters", &theta, &c->rope_scaling);
    if (json_object_size(fields_get(f, "rope_scaling")) && json_object_size(fields_get(f, "rope_parameters")))
        fields_fail(f, "rope_scaling and rope_parameters say the same thing; keep one");
    if (fields_get(f, "rope_theta") && theta != top)
        fields_fail(f, "rope_theta is %g, and %g in the nested object; keep one", top, theta);
    fields_optional(f, "original_max_position_embeddings", 0, 0, MOST_POSITIONS);
    fields_only(f, "partial_rotary_factor", 1, "all of a head is rotated here");
    fields_must(f, "rope_interleaved", 0, "rotary positions turn pairs half a head apart here");
    fields_must(f, "use_mrope", 0, "positions of several axes are not computed");
    c->rope_theta = (float)theta;
}

/* ---- Llama, Mistral, Qwen2 ------------------------------------------------------------------- */

typedef struct LlamaKind {
    const char *model_type, *architecture;
    int vocab, hidden, kv_heads, max_seq; /* defaults; kv_heads 0 = heads */
    int window;                           /* sliding_window where absent; 0 = none */
    int always_slides, qkv_bias, bias_fields;
} LlamaKind;

/* Layers that slide, by layer_types: -1 when the field is absent. */
static int sliding_layers(Fields *f, int layers)
{
    const json_t *list = fields_get(f, "layer_types"), *item;
    size_t i;
    int sliding = 0;
    if (!list || json_is_null(list))
        return -1;
    if (!json_is_array(list) || json_array_size(list) != (size_t)layers) {
        fields_fail(f, "layer_types must be a list of num_hidden_layers (%d) strings, not %s", layers,
                    json_is_array(list) ? "a list of another length" : value_text(list).text);
        return 0;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        const char *type = json_is_string(item) ? json_string_value(item) : "";
        if (!strcmp(type, "sliding_attention"))
            sliding++;
        else if (strcmp(type, "full_attention"))
            fields_fail(f, "layer_types[%zu] must be \"full_attention\" or \"sliding_attention\", not %s", i,
                        value_text(item).text);
    }
    return sliding;
}

/* Up to the window's length a sliding window is plain causal attention, which is what is computed. */
static void read_window(Fields *f, const LlamaKind *kind, LlamaConfig *c)
{
    int qwen2 = kind->qkv_bias;
    int window = fields_optional(f, "sliding_window", kind->window, 0, MOST_POSITIONS);
    int slides = fields_flag(f, "use_sliding_window", !qwen2) || kind->always_slides;
    int first = fields_null(f, "max_window_layers")
                    ? MOST_LAYERS
                    : fields_count(f, "max_window_layers", qwen2 ? 28 : 0, 0, MOST_LAYERS);
    int sliding = sliding_layers(f, c->layers);
    if (sliding < 0 || kind->always_slides)
        sliding = slides && (!qwen2 || first < c->layers);
    if (!sliding || !window || window >= c->max_seq)
        return;
    c->window = window;
    model_note(f->model, "Sequences end at %d, the sliding window: attention with a window is not computed.",
               window);
}

static void read_biases(Fields *f, const LlamaKind *kind, LlamaConfig *c)
{
    c->qkv_bias = kind->qkv_bias;
    if (kind->bias_fields) {
        c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
        c->mlp_bias = fields_flag(f, "mlp_bias", 0);
        return;
    }
    fields_must(f, "attention_bias", kind->qkv_bias,
                kind->qkv_bias ? "Qwen2 always has biases on q, k and v" : "Mistral has no biases");
    fields_must(f, "mlp_bias", 0, "only Llama's feed-forward may have biases");
}

static void read_llama(Fields *f, const LlamaKind *kind)
{
    static const char *const silu[] = {"silu", "swish", NULL};
    LlamaConfig *c = &f->model->preset.config.llama;
    f->model->preset.family = MODEL_LLAMA;
    c->vocab = fields_count(f, "vocab_size", kind->vocab, 1, MOST_VOCAB);
    c->dim = fields_count(f, "hidden_size", 4096, 1, MOST_WIDTH);
    c->layers = fields_count(f, "num_hidden_layers", 32, 1, MOST_LAYERS);
    c->heads = fields_count(f, "num_attention_heads", 32, 1, MOST_HEADS);
    c->kv_heads = fields_optional(f, "num_key_value_heads", kind->kv_heads ? kind->kv_heads : c->heads,
                                  c->heads, MOST_HEADS);
    c->head_dim = fields_optional(f, "head_dim", 0, 0, MOST_HEADS);
    c->hidden = fields_count(f, "intermediate_size", kind->hidden, 1, MOST_FFN);
    c->max_seq = fields_count(f, "max_position_embeddings", kind->max_seq, 1, MOST_POSITIONS);
    c->tied = fields_flag(f, "tie_word_embeddings", 0);
    c->norm_eps = (float)fields_number(f, "rms_norm_eps", 1e-6, 1e-30, 1);
    check_llama_heads(f, c);
    read_activation(f, "hidden_act", silu, "\"silu\", the gate that is computed");
    read_biases(f, kind, c);
    read_rotary(f, c);
    read_window(f, kind, c);
    fields_flag(f, "is_decoder", 1);
    if (!fields_null(f, "pretraining_tp"))
        fields_count(f, "pretraining_tp", 1, 1, MOST_WIDTH); /* splits products, which are the same */
    note_attention_dropout(f, "attention_dropout", 0);
}

/* ---- BERT ------------------------------------------------------------------------------------ */

static void read_bert(Fields *f)
{
    static const char *const gelu[] = {"gelu", "gelu_python", NULL};
    BertConfig *c = &f->model->preset.config.bert;
    f->model->preset.family = MODEL_BERT;
    c->vocab = fields_count(f, "vocab_size", 30522, 1, MOST_VOCAB);
    c->dim = fields_count(f, "hidden_size", 768, 1, MOST_WIDTH);
    c->layers = fields_count(f, "num_hidden_layers", 12, 1, MOST_LAYERS);
    c->heads = fields_count(f, "num_attention_heads", 12, 1, MOST_HEADS);
    c->ffn = fields_count(f, "intermediate_size", 3072, 1, MOST_FFN);
    c->max_seq = fields_count(f, "max_position_embeddings", 512, 1, MOST_POSITIONS);
    c->types = fields_count(f, "type_vocab_size", 2, 1, MOST_TYPES);
    c->norm_eps = (float)fields_number(f, "layer_norm_eps", 1e-12, 1e-30, 1);
    c->dropout = (float)fields_probability(f, "hidden_dropout_prob", 0.1);
    check_heads(f, "num_attention_heads", c->heads, "hidden_size", c->dim);
    read_activation(f, "hidden_act", gelu, "\"gelu\", which is what is computed");
    if (strcmp(fields_text(f, "position_embedding_type", "absolute"), "absolute"))
        fields_refuse(f, "position_embedding_type", "\"absolute\", learned positions");
    fields_must(f, "is_decoder", 0, "BERT as a decoder is not computed");
    fields_must(f, "tie_word_embeddings", 1, "the head of BERT is its embedding here");
    note_attention_dropout(f, "attention_probs_dropout_prob", 0.1);
}

/* ---- GPT-2 ----------------------------------------------------------------------------------- */

/* transformers knows some fields by two names. */
static int either(Fields *f, const char *name, const char *other, int otherwise, int most)
{
    int n = fields_count(f, name, otherwise, 1, most);
    if (!fields_get(f, other))
        return n;
    int second = fields_count(f, other, otherwise, 1, most);
    if (fields_get(f, name) && n != second)
        fields_fail(f, "%s is %d and %s is %d, two names of one field; keep one", name, n, other, second);
    return second;
}

static void read_gpt2_dropout(Fields *f, Gpt2Config *c)
{
    double residual = fields_probability(f, "resid_pdrop", 0.1);
    double embedding = fields_probability(f, "embd_pdrop", 0.1);
    if (residual != embedding)
        fields_fail(f, "resid_pdrop is %g and embd_pdrop %g; GPT-2 has one dropout for both here", residual,
                    embedding);
    c->dropout = (float)residual;
    note_attention_dropout(f, "attn_pdrop", 0.1);
}

static void read_gpt2(Fields *f)
{
    static const char *const gelu[] = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast", NULL};
    Gpt2Config *c = &f->model->preset.config.gpt2;
    f->model->preset.family = MODEL_GPT2;
    c->vocab = fields_count(f, "vocab_size", 50257, 1, MOST_VOCAB);
    c->dim = either(f, "n_embd", "hidden_size", 768, MOST_WIDTH);
    c->layers = either(f, "n_layer", "num_hidden_layers", 12, MOST_LAYERS);
    c->heads = either(f, "n_head", "num_attention_heads", 12, MOST_HEADS);
    c->max_seq = either(f, "n_positions", "max_position_embeddings", 1024, MOST_POSITIONS);
    c->ffn = fields_optional(f, "n_inner", 4 * c->dim, 4 * c->dim, MOST_FFN);
    c->norm_eps = (float)fields_number(f, "layer_norm_epsilon", 1e-5, 1e-30, 1);
    check_heads(f, "n_head", c->heads, "n_embd", c->dim);
    read_activation(f, "activation_function", gelu, "\"gelu_new\", which is what is computed");
    int context = fields_count(f, "n_ctx", c->max_seq, 1, MOST_POSITIONS);
    if (context != c->max_seq)
        model_note(f->model, "n_ctx %d is not used: n_positions %d is.", context, c->max_seq);
    fields_must(f, "scale_attn_weights", 1, "attention is always scaled here");
    fields_must(f, "scale_attn_by_inverse_layer_idx", 0,
                "attention is not scaled by the layer's number here");
    fields_flag(f, "reorder_and_upcast_attn", 0); /* the same in fp32 */
    fields_only(f, "n_special", 0, "vocab_size counts every token");
    fields_flag(f, "is_decoder", 1);
    fields_must(f, "tie_word_embeddings", 1, "the head of GPT-2 is its embedding here");
    read_gpt2_dropout(f, c);
}

/* ---- All ------------------------------------------------------------------------------------- */

static const LlamaKind llama_kinds[] = {
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .vocab = 32000,
     .hidden = 11008,
     .max_seq = 2048,
     .bias_fields = 1},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .vocab = 32000,
     .hidden = 14336,
     .kv_heads = 8,
     .max_seq = 131072,
     .window = 4096,
     .always_slides = 1},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .vocab = 151936,
     .hidden = 22016,
     .kv_heads = 32,
     .max_seq = 32768,
     .window = 4096,
     .qkv_bias = 1},
};

/* Reads by model_type; returns the class of transformers that is meant, NULL when there is none. */
static const char *read_by_type(Fields *f, const char *type)
{
    for (size_t i = 0; i < sizeof llama_kinds / sizeof llama_kinds[0]; i++)
        if (!strcmp(llama_kinds[i].model_type, type)) {
            read_llama(f, &llama_kinds[i]);
            return llama_kinds[i].architecture;
        }
    if (!strcmp(type, "bert")) {
        read_bert(f);
        return "BertForMaskedLM";
    }
    if (!strcmp(type, "gpt2")) {
        read_gpt2(f);
        return "GPT2LMHeadModel";
    }
    return NULL;
}

static void describe(IoModel *model, const char *type)
{
    const LlamaConfig *llama = &model->preset.config.llama;
    const BertConfig *bert = &model->preset.config.bert;
    const Gpt2Config *gpt2 = &model->preset.config.gpt2;
    int layers = llama->layers, dim = llama->dim;
    if (model->preset.family == MODEL_BERT)
        layers = bert->layers, dim = bert->dim;
    else if (model->preset.family == MODEL_GPT2)
        layers = gpt2->layers, dim = gpt2->dim;
    snprintf(model->about, sizeof model->about, "%s, %d layer%s of %d", type, layers, plural(layers), dim);
    int seq = nn_preset_max_seq(&model->preset);
    model->preset.batch = 1;
    model->preset.seq = seq < USUAL_SEQ ? seq : USUAL_SEQ;
}

void families_read(Fields *f)
{
    static const char known[] = "llama, mistral, qwen2, bert or gpt2";
    if (!json_object_get(f->object, "model_type")) {
        fields_fail(f, "there is no model_type, which says what the other fields mean: %s", known);
        return;
    }
    const char *type = fields_text(f, "model_type", "");
    if (f->failed)
        return;
    const char *architecture = read_by_type(f, type);
    if (!architecture) {
        fields_refuse(f, "model_type", "%s", known);
        return;
    }
    read_refusals(f);
    read_architectures(f, architecture);
    fields_leftover(f, harmless);
    describe(f->model, type);
}
