/* All families in files of others: which there are, and what is the same in each. Names, defaults and
 * meanings of fields are those of transformers' PretrainedConfig. */
#include <stdio.h>
#include <string.h>

#include "../base/plural_.h"
#include "family_.h"

enum { USUAL_SEQ = 2048 };

#define FILES_ROW(id, config, name) [id] = &name##_files,
static const FamilyFiles *const families[MODEL_FAMILY_COUNT] = {MODEL_FAMILIES(FILES_ROW)};

const FamilyFiles *family_files(ModelFamily family)
{
    return (unsigned)family < MODEL_FAMILY_COUNT ? families[family] : NULL;
}

const FamilyFiles *family_files_named(const char *model)
{
    for (int i = 0; i < MODEL_FAMILY_COUNT; i++)
        if (!strcmp(nn_family((ModelFamily)i)->name, model))
            return families[i];
    return NULL;
}

/* ---- Fields of every family -------------------------------------------------------------------- */

/* They say nothing about memory or mathematics of training: tokens, generation, provenance, heads for other
 * tasks, and what concerns other programs. */
/* clang-format off */
static const char *const harmless[] = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled",
    "_name_or_path", "_num_labels", "attn_implementation", "bad_words_ids", "base_model_name_or_path",
    "begin_suppress_tokens", "bos_token", "bos_token_id", "classifier_activation", "classifier_bias",
    "classifier_dropout", "classifier_pooling", "cls_token", "cls_token_id", "custom_pipelines",
    "decoder_start_token_id",
    "directionality", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing",
    "id2label", "initializer_range", "is_composition", "is_llama_config", "keys_to_ignore_at_inference",
    "label2id", "length_penalty", "mask_token", "mask_token_id", "max_length", "max_new_tokens",
    "max_seq_length", "max_sequence_length", "min_length", "model_max_length", "name_or_path",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_past", "output_scores", "pad_token",
    "pad_token_id", "padding_side", "pooler_fc_size", "pooler_num_attention_heads",
    "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "predict_special_tokens", "prefix",
    "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sentence_transformers", "sep_token", "sep_token_id",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tokenizer_class", "tokenizer_model_max_length", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "typical_p", "unk_token", "unk_token_id",
    "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "use_flash_attention",
    "use_flash_attn", "use_return_dict", "xla_device", NULL
};
/* clang-format on */

static void read_refusals(Fields *f)
{
    static const char *const quantized[] = {"quantization", "compression_config"};
    for (int i = 0; i < 2; i++)
        fields_empty(f, quantized[i],
                     "quantised weights are not computed; take the file that is not quantised");
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

void note_attention_dropout(Fields *f, const char *name, double otherwise)
{
    double p = fields_null(f, name) ? 0 : fields_probability(f, name, otherwise);
    if (p > 0)
        model_note(f->model, "%s %g is not applied: attention has no dropout here.", name, p);
}

void read_activation(Fields *f, const char *name, const char *const *known, const char *wanted)
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

void check_heads(Fields *f, const char *heads_name, int heads, const char *width_name, int width)
{
    if (width % heads)
        fields_fail(f, "%s %d does not divide %s %d; %d would", heads_name, heads, width_name, width,
                    largest_divisor(width, heads));
}

/* ---- Writing --------------------------------------------------------------------------------- */

void config_put(json_t **object, const char *name, json_t *value)
{
    if (json_object_set_new(*object, name, value) != 0) {
        json_decref(*object);
        *object = NULL;
    }
}

json_t *config_decimal(float value)
{
    char text[32];
    double shortest = (double)value;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (sscanf(text, "%lf", &shortest) == 1 && (float)shortest == value)
            break;
    }
    return json_real(shortest);
}

const char *config_class(const ConfigType *type, const ModelPreset *preset)
{
    int classes = nn_family(preset->family)->classes_at && nn_preset_classes(preset);
    return classes && type->classifier ? type->classifier : type->architecture;
}

/* ---- Reading --------------------------------------------------------------------------------- */

const ConfigType *config_type(const char *name, ModelFamily *family)
{
    for (int i = 0; i < MODEL_FAMILY_COUNT; i++)
        for (int k = 0; k < FAMILY_TYPES && name && families[i]->types[k].model_type; k++)
            if (!strcmp(families[i]->types[k].model_type, name)) {
                *family = (ModelFamily)i;
                return &families[i]->types[k];
            }
    return NULL;
}

typedef struct TypeList {
    char text[512]; /* "bert, gpt2, llama or mistral" */
} TypeList;

static TypeList known_types(void)
{
    TypeList list = {""};
    const char *last = NULL;
    size_t used = 0;
    for (int i = 0; i < MODEL_FAMILY_COUNT; i++)
        for (int k = 0; k < FAMILY_TYPES && families[i]->types[k].model_type; k++) {
            if (last)
                used += (size_t)snprintf(list.text + used, sizeof list.text - used, "%s%s", used ? ", " : "",
                                         last);
            last = families[i]->types[k].model_type;
        }
    snprintf(list.text + used, sizeof list.text - used, " or %s", last ? last : "");
    return list;
}

static void describe(IoModel *model, const char *type)
{
    ModelSizes sizes = nn_preset_sizes(&model->preset);
    snprintf(model->about, sizeof model->about, "%s, %d layer%s of %d", type, sizes.layers,
             plural(sizes.layers), sizes.dim);
    model->preset.batch = 1;
    model->preset.seq = sizes.max_seq < USUAL_SEQ ? sizes.max_seq : USUAL_SEQ;
}

void families_read(Fields *f)
{
    if (!json_object_get(f->object, "model_type")) {
        fields_fail(f, "there is no model_type, which says what the other fields mean: %s",
                    known_types().text);
        return;
    }
    const char *name = fields_text(f, "model_type", "");
    if (f->failed)
        return;
    const ConfigType *type = config_type(name, &f->model->preset.family);
    const char *class = type || !f->near ? NULL : approximate_read(f, name);
    if (!type && !class) {
        if (!unread_family(f, name))
            fields_refuse(f, "model_type", "%s", known_types().text);
        return;
    }
    if (type) {
        type->read(f, type->kind);
        read_classes(f, type);
        class = config_class(type, &f->model->preset);
    }
    read_refusals(f);
    if (!f->model->approximate.type)
        quantization_read(f);
    read_architectures(f, class);
    fields_leftover(f, harmless);
    describe(f->model, name);
}
