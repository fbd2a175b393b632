/* Models from config.json: the published ones have their published sizes, and every field is read, ignored
 * with reason, or refused with a message that says what and where. */
#include <math.h>

#include "../data/data.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "io_support.h"

/* ---- Published models ------------------------------------------------------------------------ */

/* Counts: the safetensors of the models on the hub; BERT's with its masked-language-model head and without
 * its pooler, GPT-2's with the head tied. The preset of the same name is the same model. */
static void test_published_models(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t count;
        const char *preset, *about;
    } models[] = {
        {LLAMA_2("4096", "32", "32", "11008"), 6738415616, "llama-2-7b", "llama, 32 layers of 4096"},
        {LLAMA_2("5120", "40", "40", "13824"), 13015864320, "llama-2-13b", "llama, 40 layers of 5120"},
        {LLAMA_3("4096", "32", "32", "14336", "8.0", ""), 8030261248, "llama-3.1-8b", "32 layers"},
        {LLAMA_3("8192", "64", "80", "28672", "8.0", ""), 70553706496, "llama-3.1-70b", "80 layers"},
        {LLAMA_3("16384", "128", "126", "53248", "8.0", ""), 405853388800, "llama-3.1-405b", "126 layers"},
        {LLAMA_3("2048", "32", "16", "8192", "32.0", "'head_dim': 64, 'tie_word_embeddings': true,"),
         1235814400, "llama-3.2-1b", "16 layers"},
        {LLAMA_3("3072", "24", "28", "8192", "32.0", "'head_dim': 128, 'tie_word_embeddings': true,"),
         3212749824, "llama-3.2-3b", "28 layers"},
        {MISTRAL_7B, 7241732096, "mistral-7b", "mistral, 32 layers of 4096"},
        {QWEN2_57B_A14B, 57408658944, "qwen2-57b-a14b", "qwen2_moe, 28 layers of 3584"},
        {MIXTRAL_8X7B, 46702792704, "mixtral-8x7b", "mixtral, 32 layers of 4096"},
        {QWEN3_30B_A3B, 30532122624, "qwen3-30b-a3b", "qwen3_moe, 48 layers of 2048"},
        {MISTRAL_NEMO, 12247782400, NULL, "mistral, 40 layers of 5120"},
        {QWEN2("896", "14", "2", "24", "4864", "true", "151936"), 494032768, "qwen2-0.5b", "qwen2, 24"},
        {QWEN2("3584", "28", "4", "28", "18944", "false", "152064"), 7615616512, "qwen2-7b", "qwen2, 28"},
        {GPT2("768", "12", "12"), 124439808, "gpt2", "gpt2, 12 layers of 768"},
        {GPT2("1024", "16", "24"), 354823168, "gpt2-medium", "gpt2"},
        {GPT2("1280", "20", "36"), 774030080, "gpt2-large", "gpt2"},
        {GPT2("1600", "25", "48"), 1557611200, "gpt2-xl", "gpt2"},
        {BERT("768", "12", "12", "3072"), 109514298, "bert-base", "bert, 12 layers of 768"},
        {BERT("1024", "16", "24", "4096"), 335174458, "bert-large", "bert"},
        {ROBERTA("roberta", "Roberta", "768", "12", "12", "3072", "50265"), 124697433, "roberta-base",
         "roberta, 12 layers of 768"},
        {ROBERTA("roberta", "Roberta", "768", "12", "6", "3072", "50265"), 82170201, "distilroberta-base",
         "roberta, 6 layers of 768"},
        {ROBERTA("roberta", "Roberta", "1024", "16", "24", "4096", "50265"), 355412057, "roberta-large",
         "roberta"},
        {ROBERTA("xlm-roberta", "XLMRoberta", "768", "12", "12", "3072", "250002"), 278295186,
         "xlm-roberta-base", "xlm-roberta, 12 layers of 768"},
        {ROBERTA("xlm-roberta", "XLMRoberta", "1024", "16", "24", "4096", "250002"), 560142482,
         "xlm-roberta-large", "xlm-roberta"},
        {ROBERTA("camembert", "Camembert", "768", "12", "12", "3072", "32005"), 110655493, NULL, "camembert"},
    };
    for (size_t i = 0; i < COUNT(models); i++) {
        IoModel model = good(models[i].text);
        if (parameters(&model.preset) != models[i].count)
            fail_msg("%s has %lld parameters, not %lld", models[i].about,
                     (long long)parameters(&model.preset), (long long)models[i].count);
        assert_string_equal(model.name, folder + strlen("/tmp/")); /* of a config.json its directory's */
        assert_non_null(strstr(model.about, models[i].about));
        assert_true(nn_preset_vocab(&model.preset) > 30000);
        if (!models[i].preset)
            continue;
        const ModelPreset *preset = nn_preset(models[i].preset);
        assert_int_equal(parameters(preset), models[i].count);
        assert_int_equal(preset->family, model.preset.family);
        if (preset->family == MODEL_LLAMA) {
            const LlamaConfig *a = &preset->config.llama, *b = &model.preset.config.llama;
            assert_int_equal(a->layers, b->layers);
            assert_int_equal(a->heads, b->heads);
            assert_int_equal(a->kv_heads ? a->kv_heads : a->heads, b->kv_heads);
            assert_int_equal(a->qkv_bias, b->qkv_bias);
            assert_int_equal(a->tied, b->tied);
            assert_float_equal(a->rope_theta ? a->rope_theta : 10000, b->rope_theta, 0);
            assert_float_equal(a->norm_eps ? a->norm_eps : 1e-5f, b->norm_eps, 0);
            assert_memory_equal(&a->rope_scaling, &b->rope_scaling, sizeof a->rope_scaling);
        }
        assert_int_equal(nn_preset_max_seq(preset), nn_preset_max_seq(&model.preset));
    }
}

/* ---- Fields ---------------------------------------------------------------------------------- */

static void test_llama_fields(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'llama', 'vocab_size': 1000, 'hidden_size': 60, 'num_hidden_layers': 3, "
                     "'num_attention_heads': 6, 'num_key_value_heads': 2, 'head_dim': 12, "
                     "'intermediate_size': 77, 'max_position_embeddings': 99, 'tie_word_embeddings': true, "
                     "'rope_theta': 5e5, 'rms_norm_eps': 1e-3, 'attention_bias': true, 'mlp_bias': true, "
                     "'hidden_act': 'swish', 'pretraining_tp': null, 'attention_dropout': null, "
                     "'sliding_window': null, 'rope_scaling': null, 'auto_map': {}, 'is_decoder': false, "
                     "'layer_types': null, 'pruned_heads': {}, 'rope_interleaved': false, "
                     "'chunk_size_feed_forward': 0, 'quantization_config': null, 'architectures': null}");
    const LlamaConfig *c = &m.preset.config.llama;
    assert_int_equal(m.preset.family, MODEL_LLAMA);
    assert_int_equal(m.preset.batch, 1);
    assert_int_equal(m.preset.seq, 99);
    assert_int_equal(c->vocab, 1000);
    assert_int_equal(c->dim, 60);
    assert_int_equal(c->layers, 3);
    assert_int_equal(c->heads, 6);
    assert_int_equal(c->kv_heads, 2);
    assert_int_equal(c->head_dim, 12);
    assert_int_equal(c->hidden, 77);
    assert_int_equal(c->max_seq, 99);
    assert_int_equal(c->tied, 1);
    assert_true(c->qkv_bias && c->o_bias && c->mlp_bias);
    assert_float_equal(c->rope_theta, 5e5, 0);
    assert_float_equal(c->norm_eps, 1e-3f, 0);
    assert_string_equal(m.note, "");
    int64_t attention = 60 * 72 + 72 + 2 * (60 * 24 + 24) + 72 * 60 + 60;
    int64_t mlp = 2 * (60 * 77 + 77) + 77 * 60 + 60;
    assert_int_equal(parameters(&m.preset), 1000 * 60 + 3 * (attention + mlp + 2 * 60) + 60);
}

static void test_bert_and_gpt2_fields(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'bert', 'vocab_size': 100, 'hidden_size': 12, 'num_hidden_layers': 2, "
                     "'num_attention_heads': 3, 'intermediate_size': 20, 'max_position_embeddings': 30, "
                     "'type_vocab_size': 5, 'layer_norm_eps': 1e-6, 'hidden_dropout_prob': 0.25, "
                     "'attention_probs_dropout_prob': 0, 'is_decoder': false}");
    const BertConfig *b = &m.preset.config.bert;
    assert_int_equal(m.preset.family, MODEL_BERT);
    assert_int_equal(b->ffn, 20);
    assert_int_equal(b->max_seq, 30);
    assert_int_equal(b->types, 5);
    assert_int_equal(b->pooler, 0);
    assert_float_equal(b->norm_eps, 1e-6f, 0);
    assert_float_equal(nn_preset_dropout(&m.preset), 0.25, 0);
    assert_string_equal(m.note, "");
    m = good("{'model_type': 'xlm-roberta', 'hidden_size': 12, 'num_attention_heads': 3, 'pad_token_id': 4, "
             "'max_position_embeddings': 30, 'type_vocab_size': 1, 'attention_probs_dropout_prob': 0}");
    b = &m.preset.config.roberta;
    assert_int_equal(m.preset.family, MODEL_ROBERTA);
    assert_int_equal(b->first_position, 5);
    assert_int_equal(b->max_seq, 25); /* of 30 rows */
    assert_int_equal(nn_preset_max_seq(&m.preset), 25);
    assert_int_equal(b->types, 1);
    assert_string_equal(m.note, "");
    m = good(
        "{'model_type': 'gpt2', 'vocab_size': 100, 'n_embd': 12, 'n_layer': 2, 'n_head': 3, 'n_inner': 20, "
        "'n_positions': 30, 'n_ctx': 30, 'layer_norm_epsilon': 1e-6, 'resid_pdrop': 0.5, 'embd_pdrop': 0.5, "
        "'attn_pdrop': 0, 'activation_function': 'gelu_pytorch_tanh', 'scale_attn_weights': true}");
    const Gpt2Config *g = &m.preset.config.gpt2;
    assert_int_equal(m.preset.family, MODEL_GPT2);
    assert_int_equal(g->ffn, 20);
    assert_int_equal(g->max_seq, 30);
    assert_float_equal(g->norm_eps, 1e-6f, 0);
    assert_float_equal(nn_preset_dropout(&m.preset), 0.5, 0);
    assert_string_equal(m.note, "");
    assert_int_equal(parameters(&m.preset),
                     130 * 12 + 2 * (4 * 12 + 12 * 36 + 36 + 12 * 12 + 12 + 2 * 12 * 20 + 20 + 12) + 2 * 12);
    m = good("{'model_type': 'gpt2', 'hidden_size': 24, 'num_hidden_layers': 5, 'num_attention_heads': 4, "
             "'max_position_embeddings': 77, 'n_embd': 24}"); /* the other names of the same fields */
    g = &m.preset.config.gpt2;
    assert_int_equal(g->dim, 24);
    assert_int_equal(g->layers, 5);
    assert_int_equal(g->heads, 4);
    assert_int_equal(g->max_seq, 77);
    assert_int_equal(g->ffn, 96);
}

/* Which layers have which window: "." has none. */
static void test_windows(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int window;
        const char *layers; /* NULL: all */
    } cases[] = {
        {MISTRAL_7B, 4096, NULL},
        {MISTRAL_NEMO, 0, NULL},
        {"{'model_type': 'mistral'}", 4096, NULL},
        {"{'model_type': 'mistral', 'num_hidden_layers': 1, 'layer_types': ['full_attention']}", 4096,
         NULL}, /* transformers' Mistral does not read layer_types */
        {"{'model_type': 'ministral'}", 4096, NULL},
        {"{'model_type': 'ministral', 'num_hidden_layers': 3, 'sliding_window': 8, 'layer_types': "
         "['sliding_attention', 'full_attention', 'sliding_attention']}",
         8, "s.s"},
        {"{'model_type': 'mistral', 'sliding_window': 99, 'max_position_embeddings': 99}", 0, NULL},
        {"{'model_type': 'qwen2'}", 0, NULL},
        {"{'model_type': 'qwen2', 'use_sliding_window': true, 'num_hidden_layers': 30}", 4096,
         "............................ss"},
        {"{'model_type': 'qwen2', 'use_sliding_window': true, 'max_window_layers': 32}", 0, NULL},
        {"{'model_type': 'qwen3', 'use_sliding_window': true, 'max_window_layers': 0}", 4096, NULL},
        {"{'model_type': 'qwen2', 'num_hidden_layers': 2, 'sliding_window': 7, 'layer_types': "
         "['full_attention', 'sliding_attention']}",
         7, ".s"},
        {"{'model_type': 'qwen2', 'num_hidden_layers': 2, 'sliding_window': 7, 'layer_types': "
         "['full_attention', 'full_attention']}",
         0, NULL},
        {"{'model_type': 'smollm3', 'num_hidden_layers': 5, 'use_sliding_window': true, 'sliding_window': 8}",
         8, "...s."},
        {"{'model_type': 'smollm3', 'num_hidden_layers': 5, 'sliding_window': 8}", 0, NULL},
        {"{'model_type': 'llama', 'sliding_window': 512}", 0, NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        IoModel m = good(cases[i].text);
        const LlamaConfig *c = &m.preset.config.llama;
        assert_int_equal(c->window, cases[i].window);
        assert_int_equal(nn_preset_window(&m.preset), cases[i].window);
        for (int k = 0; k < LAYER_SET_MOST; k++) {
            const char *layers = cases[i].layers;
            assert_int_equal(layer_in(&c->sliding, k), layers && k < c->layers && layers[k] == 's');
        }
    }
    IoModel m;
    assert_int_equal(
        read_text("{'model_type': 'qwen2', 'num_hidden_layers': 300, 'use_sliding_window': true}", &m),
        ERROR_DATA);
    assert_error(ERROR_DATA, "windows in 272 of 300 layers", "up to 256");
}

/* What is absent is what transformers would take. */
static void test_defaults(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t count;
        int max_seq;
        float dropout;
    } defaults[] = {
        {"{'model_type': 'llama'}", 6738415616, 2048, 0},
        {"{'model_type': 'mistral'}", 7241732096, 131072, 0},
        {"{'model_type': 'mistral', 'num_key_value_heads': null}", 7241732096 + 32ll * 2 * 4096 * 3072,
         131072, 0},
        {"{'model_type': 'mistral', 'sliding_window': null}", 7241732096, 131072, 0},
        {"{'model_type': 'mixtral'}", 46702792704, 131072, 0},
        {"{'model_type': 'qwen3_moe'}", 15350731776, 32768, 0},
        {"{'model_type': 'bert'}", 109514298, 512, 0.1f},
        {"{'model_type': 'roberta'}", 124697433 - 768, 510, 0.1f}, /* 512 rows of positions, and 2 types */
        {"{'model_type': 'xlm-roberta'}", 109514298, 510, 0.1f},
        {"{'model_type': 'camembert'}", 109514298, 510, 0.1f},
        {"{'model_type': 'gpt2'}", 124439808, 1024, 0.1f},
        {"{'model_type': 'gpt2', 'n_inner': null}", 124439808, 1024, 0.1f},
        {"{'model_type': 'qwen2'}",
         2 * 151936ll * 4096 + 32 * (4 * 4096ll * 4096 + 3 * 4096 + 3 * 4096ll * 22016 + 2 * 4096) + 4096,
         32768, 0},
    };
    for (size_t i = 0; i < COUNT(defaults); i++) {
        IoModel m = good(defaults[i].text);
        assert_int_equal(parameters(&m.preset), defaults[i].count);
        assert_int_equal(nn_preset_max_seq(&m.preset), defaults[i].max_seq);
        assert_float_equal(nn_preset_dropout(&m.preset), defaults[i].dropout, 0);
        assert_true(m.preset.seq <= defaults[i].max_seq && m.preset.seq <= 2048);
    }
    const LlamaConfig c = good("{'model_type': 'llama'}").preset.config.llama;
    assert_float_equal(c.norm_eps, 1e-6f, 0);
    assert_float_equal(c.rope_theta, 10000, 0);
    assert_false(c.qkv_bias || c.o_bias || c.mlp_bias || c.tied);
    assert_float_equal(nn_preset_dropout(NULL), 0, 0);
    assert_float_equal(nn_preset_dropout(&(ModelPreset){.config.mlp.dropout = 0.5f}), 0.5, 0);
}

/* ---- What is not computed, but does no harm -------------------------------------------------- */

static void test_notes(void **state)
{
    (void)state;
    static const struct {
        const char *text, *note;
    } notes[] = {
        {LLAMA_3("2048", "32", "16", "8192", "32.0", ""), ""},
        {"{'model_type': 'llama', 'rope_scaling': {'type': 'linear', 'factor': 2.0}}", ""},
        {"{'model_type': 'llama', 'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}", ""},
        {"{'model_type': 'llama', 'rope_parameters': {'rope_type': 'ntk', 'factor': 4, 'rope_theta': 1e6}}",
         "not scaled (ntk)"},
        {"{'model_type': 'llama', 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}}", ""},
        {"{'model_type': 'llama', 'attention_dropout': 0.1}",
         "attention_dropout 0.1 is not applied: attention has no dropout here."},
        {"{'model_type': 'gpt2'}", "attn_pdrop 0.1 is not applied"},
        {"{'model_type': 'bert'}", "attention_probs_dropout_prob 0.1"},
        {"{'model_type': 'bert', 'architectures': ['BertModel']}",
         "\"BertModel\" is read as BertForMaskedLM."},
        {"{'model_type': 'gpt2', 'n_ctx': 512}", "n_ctx 512 is not used"},
        {"{'model_type': 'llama', 'auto_map': {'AutoModel': 'own.Model'}}", "auto_map names code of its own"},
        {MISTRAL_7B, ""},
        {"{'model_type': 'llama', 'sliding_window': 512}",
         "sliding_window 512 is not used: Llama's attention has no window."},
    };
    for (size_t i = 0; i < COUNT(notes); i++) {
        IoModel m = good(notes[i].text);
        if (notes[i].note[0] ? !strstr(m.note, notes[i].note) : m.note[0] != 0)
            fail_msg("%s: the note is '%s'", notes[i].text, m.note);
        assert_true(!m.note[0] || m.note[strlen(m.note) - 1] == '.');
    }
    IoModel m = good("{'model_type': 'mistral', 'rope_theta': 7000, 'rope_scaling': {'rope_type': 'ntk'}, "
                     "'attention_dropout': 0.5, 'architectures': ['MistralForSequenceClassification'], "
                     "'auto_map': {'a': 'b'}}"); /* more notes than there is room for */
    assert_float_equal(m.preset.config.llama.rope_theta, 7000, 0);
    assert_true(strlen(m.note) > 100 && m.note[strlen(m.note) - 1] == '.');
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void test_wrong_values(void **state)
{
    (void)state;
    static const Refusal refusals[] = {
        {"'hidden_size': '4096'", "hidden_size must be a whole number from 1 to 1048576", "not \"4096\""},
        {"'hidden_size': 4096.0", "hidden_size", "not 4096.0"},
        {"'hidden_size': 0", "hidden_size", "not 0"},
        {"'hidden_size': -4096", "hidden_size", "not -4096"},
        {"'hidden_size': null", "hidden_size", "not null"},
        {"'hidden_size': true", "hidden_size", "not true"},
        {"'hidden_size': [4096]", "hidden_size", "not a list"},
        {"'hidden_size': {}", "hidden_size", "not an object"},
        {"'hidden_size': 9223372036854775807", "hidden_size", "9223372036854775807"},
        {"'vocab_size': 100000000000", "vocab_size", "100000000000"},
        {"'num_hidden_layers': 4294967297", "num_hidden_layers", "4294967297"},
        {"'num_hidden_layers': 1e30", "num_hidden_layers", "1e+30"},
        {"'intermediate_size': 0.5", "intermediate_size", "0.5"},
        {"'max_position_embeddings': -1", "max_position_embeddings", "-1"},
        {"'num_attention_heads': 7", "num_attention_heads 7 does not divide hidden_size 4096", "4 would"},
        {"'num_key_value_heads': 5", "num_key_value_heads 5 does not divide num_attention_heads 32",
         "4 would"},
        {"'num_key_value_heads': 64", "num_key_value_heads 64", "32 would"},
        {"'num_key_value_heads': 0", "num_key_value_heads", "not 0"},
        {"'head_dim': 33", "head_dim", "33; rotary positions need an even one"},
        {"'hidden_size': 96", "hidden_size / num_attention_heads", "is 3"},
        {"'head_dim': 65536, 'num_attention_heads': 65536, 'num_key_value_heads': 1", "x head_dim", "65536"},
        {"'tie_word_embeddings': 1", "tie_word_embeddings must be true or false", "not 1"},
        {"'rms_norm_eps': 0", "rms_norm_eps must be a number from 1e-30 to 1", "not 0"},
        {"'rms_norm_eps': '1e-5'", "rms_norm_eps", "\"1e-5\""},
        {"'rope_theta': 0", "rope_theta", "not 0"},
        {"'rope_theta': null", "rope_theta", "null"},
        {"'attention_bias': 'yes'", "attention_bias", "\"yes\""},
        {"'attention_dropout': 1", "attention_dropout", "below 1"},
        {"'attention_dropout': -0.5", "attention_dropout", "-0.5"},
        {"'pretraining_tp': 0", "pretraining_tp", "not 0"},
        {"'hidden_act': 3", "hidden_act must be a string", "not 3"},
        {"'architectures': 'LlamaForCausalLM'", "architectures must be a list", "\"LlamaForCausalLM\""},
        {"'architectures': [3]", "architectures must be a list of strings", ""},
    };
    refuse_each("llama", refusals, COUNT(refusals));
}

/* What says that there is nothing of a kind, and what concerns others, changes neither memory nor values. */
static void test_nothing_said(void **state)
{
    (void)state;
    static const char *const nothing[] = {
        "'num_experts': null",
        "'num_experts': 0, 'num_experts_per_tok': 8, 'router_aux_loss_coef': 0.001, 'moe_intermediate_size': "
        "64, "
        "'output_router_logits': false",
        "'num_local_experts': null, 'n_routed_experts': 0, 'n_shared_experts': 2",
        "'attn_logit_softcapping': null, 'final_logit_softcapping': null, 'anything_at_all': null",
        "'num_nextn_predict_layers': 0, 'n_group': 0",
        "'sentence_transformers': {'version': '4.0.1', 'activation_fn': 'torch.nn.Identity'}",
        "'use_flash_attn': true, 'pad_token': '<pad>', 'padding_side': 'left', 'base_model_name_or_path': "
        "'x'",
        "'attention_bias': null, 'mlp_bias': null, 'tie_word_embeddings': null, 'is_decoder': null, "
        "'add_cross_attention': null, 'is_encoder_decoder': null, 'use_sliding_window': null",
        "'partial_rotary_factor': null, 'head_dim': null, 'num_key_value_heads': null, 'rope_scaling': null, "
        "'rope_parameters': null, 'sliding_window': null, 'max_window_layers': null, 'layer_types': null, "
        "'attention_dropout': null, 'pretraining_tp': null, 'chunk_size_feed_forward': null, "
        "'quantization_config': null, 'architectures': null, 'torch_dtype': null, 'auto_map': null",
        "'model_max_length': 1000000000000000019884624838656, 'max_length': -99999999999999999999",
    };
    IoModel plain = good("{'model_type': 'llama'}");
    for (size_t i = 0; i < COUNT(nothing); i++) {
        char text[1024];
        snprintf(text, sizeof text, "{'model_type': 'llama', %s}", nothing[i]);
        IoModel model = good(text);
        assert_string_equal(model.note, "");
        model.preset.config.llama.kv_heads = plain.preset.config.llama.kv_heads; /* 32 or as many as heads */
        assert_memory_equal(&model.preset.config, &plain.preset.config, sizeof plain.preset.config);
    }
    good("{'model_type': 'gpt2', 'n_ctx': null, 'n_inner': null, 'reorder_and_upcast_attn': null, "
         "'n_special': null}");
    good("{'model_type': 'bert', 'is_decoder': null, 'attention_probs_dropout_prob': null, 'n_experts': 0}");
}

static void test_not_computed(void **state)
{
    (void)state;
    static const Refusal llama[] = {
        {"'hidden_act': 'relu'", "hidden_act must be \"silu\"", "not \"relu\""},
        {"'quantization_config': {'bits': 4}", "quantization_config", "not quantised"},
        {"'num_local_experts': 8", "num_local_experts", "mixtures of experts"},
        {"'num_experts_per_tok': 2", "num_experts_per_tok", "mixtures of experts"},
        {"'moe_intermediate_size': 2", "moe_intermediate_size", "mixtures of experts"},
        {"'router_aux_loss_coef': 0.1", "router_aux_loss_coef", "mixtures of experts"},
        {"'num_experts': 4, 'num_local_experts': null", "num_experts", "mixtures of experts"},
        {"'num_experts': 0, 'logit_scale': 2", "logit_scale", "unknown"},
        {"'logit_scale': 0", "logit_scale", "unknown"}, /* no count: it would decide values */
        {"'attn_logit_softcapping': 50.0", "attn_logit_softcapping", "unknown"},
        {"'is_encoder_decoder': true", "is_encoder_decoder is true", "encoder"},
        {"'add_cross_attention': true", "add_cross_attention", "cross-attention"},
        {"'cross_attention_hidden_size': 5", "cross_attention_hidden_size", "cross-attention"},
        {"'pruned_heads': {'0': [1]}", "pruned_heads", "not computed"},
        {"'per_layer_config': {'0': {'hidden_size': 1}}", "per_layer_config", "differ"},
        {"'chunk_size_feed_forward': 64", "chunk_size_feed_forward must be 0", "not 64"},
        {"'layer_types': ['full_attention']", "layer_types must be a list of num_hidden_layers (32)",
         "length"},
        {"'layer_types': 3", "layer_types", "not 3"},
        {"'num_hidden_layers': 1, 'layer_types': ['linear_attention']", "layer_types[0]",
         "\"linear_attention\""},
    };
    refuse_each("llama", llama, COUNT(llama));
    static const Refusal bert[] = {
        {"'is_decoder': true", "is_decoder is true", "BERT as a decoder"},
        {"'add_cross_attention': true", "add_cross_attention", "cross-attention"},
        {"'hidden_act': 'relu'", "hidden_act must be \"gelu\"", "\"relu\""},
        {"'hidden_act': 'gelu_new'", "hidden_act", "\"gelu_new\""},
        {"'position_embedding_type': 'relative_key'", "position_embedding_type", "\"absolute\""},
        {"'tie_word_embeddings': false", "tie_word_embeddings is false", "embedding"},
        {"'num_attention_heads': 5", "num_attention_heads 5 does not divide hidden_size 768", "4 would"},
        {"'hidden_dropout_prob': 1.0", "hidden_dropout_prob", "below 1"},
        {"'hidden_dropout_prob': 0.99999999999", "hidden_dropout_prob", "below 1"},
        {"'type_vocab_size': 0", "type_vocab_size", "not 0"},
        {"'attention_probs_dropout_prob': 'x'", "attention_probs_dropout_prob", "\"x\""},
    };
    refuse_each("bert", bert, COUNT(bert));
    static const Refusal roberta[] = {
        {"'is_decoder': true", "is_decoder is true", "RoBERTa as a decoder"},
        {"'tie_word_embeddings': false", "tie_word_embeddings is false", "head of RoBERTa"},
        {"'pad_token_id': null", "pad_token_id", "null"},
        {"'pad_token_id': -1", "pad_token_id", "-1"},
        {"'max_position_embeddings': 5, 'pad_token_id': 4", "max_position_embeddings 5 leaves no position",
         "pad_token_id 4"},
    };
    refuse_each("roberta", roberta, COUNT(roberta));
    static const Refusal gpt2[] = {
        {"'activation_function': 'relu'", "activation_function must be \"gelu_new\"", "\"relu\""},
        {"'scale_attn_weights': false", "scale_attn_weights is false", "always scaled"},
        {"'scale_attn_by_inverse_layer_idx': true", "scale_attn_by_inverse_layer_idx", "layer"},
        {"'tie_word_embeddings': false", "tie_word_embeddings", "embedding"},
        {"'embd_pdrop': 0.2", "resid_pdrop is 0.1 and embd_pdrop 0.2", "one dropout"},
        {"'n_embd': 768, 'hidden_size': 769", "n_embd is 768 and hidden_size is 769", "keep one"},
        {"'n_head': 7", "n_head 7 does not divide n_embd 768", "6 would"},
        {"'n_inner': 0", "n_inner", "not 0"},
        {"'n_ctx': 'x'", "n_ctx", "\"x\""},
        {"'n_special': 5", "n_special must be 0", "not 5"},
    };
    refuse_each("gpt2", gpt2, COUNT(gpt2));
    static const Refusal others[] = {{"'attention_bias': true", "attention_bias is true", "Mistral"},
                                     {"'mlp_bias': true", "mlp_bias is true", "only Llama"},
                                     {"'sliding_window': 0", "sliding_window", "not 0"}};
    refuse_each("mistral", others, COUNT(others));
    refuse_each("qwen2", &(Refusal){"'attention_bias': false", "attention_bias is false", "Qwen2 always"}, 1);
    assert_int_equal(good("{'model_type': 'qwen2', 'attention_bias': true}").preset.config.llama.o_bias, 0);
}

static void test_unknown_fields(void **state)
{
    (void)state;
    static const Refusal refusals[] = {
        {"'use_qk_norm': true", "the field \"use_qk_norm\" is unknown", "may change memory"},
        {"'hiden_size': 64", "\"hiden_size\" is unknown", "is hidden_size meant?"},
        {"'num_hidden_layer': 4", "\"num_hidden_layer\"", "is num_hidden_layers meant?"},
        {"'': 4", "the field \"\" is unknown", "copy"},
        {"'a\\nb': 4", "\"a?b\"", "unknown"},
        {"'n_embd': 64", "\"n_embd\"", "unknown"}, /* GPT-2's */
        {"'äöüäöüäöüäöüäöüäöüäöüäöüäöüäöüäöüäöüäöüäöüäöüäöü': 1", "ä…", "unknown"},
    };
    refuse_each("llama", refusals, COUNT(refusals));
    refuse_each("nonsense", &(Refusal){"'hidden_size': 'x'", "model_type must be bert, ", "not \"nonsense\""},
                1);
    static const char *const unread[] = {"qwen3_next", "phi",         "gptj", "falcon",  "opt",
                                         "cohere",     "deepseek_v3", "t5",       "mamba",   "whisper",
                                         "gemma3n",    "electra",     "albert",   "gpt_oss", "llama4"};
    for (size_t i = 0; i < COUNT(unread); i++) {
        char what[64];
        snprintf(what, sizeof what, "the model_type \"%s\" is not read: ", unread[i]);
        refuse_each(unread[i], &(Refusal){"'hidden_size': 'x'", what, " is not read: "}, 1);
    }
    refuse_each("deepseek_v3", &(Refusal){"'a': 1", "latent attention", "qwen2-57b-a14b"}, 1);
    refuse_each("", &(Refusal){"'a': 1", "model_type", "not \"\""}, 1);
    IoModel m;
    assert_int_equal(read_text("{'hidden_size': 64}", &m), ERROR_DATA);
    assert_error(ERROR_DATA, "no model_type", "gpt2, llama, mistral, ");
    assert_int_equal(read_text("{'model_type': ['llama']}", &m), ERROR_DATA);
    assert_error(ERROR_DATA, "model_type must be a string, not a list");
}

/* ---- A whole step ---------------------------------------------------------------------------- */

/* The biases of a small Qwen2 of a file have gradients. */
static void test_trains(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'qwen2', 'vocab_size': 40, 'hidden_size': 32, 'num_hidden_layers': 2, "
                     "'num_attention_heads': 4, 'num_key_value_heads': 2, 'intermediate_size': 48, "
                     "'max_position_embeddings': 16, 'tie_word_embeddings': true}");
    Module *model = nn_model(&m.preset);
    Batch batch = small_batch(MODEL_LLAMA, 0, 0, 2);
    assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
    static const char *const biases[] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.1.self_attn.%s_proj.bias", biases[i]);
        Tensor *bias = nn_parameter(model, name);
        assert_non_null(bias);
        float sum = 0;
        for (int64_t k = 0; k < tensor_numel(bias); k++)
            sum += fabsf(grad_f32(bias)[k]);
        assert_true(sum > 1e-6f);
    }
    assert_null(nn_parameter(model, "model.layers.0.self_attn.o_proj.bias"));
    module_free(model);
}

static int train(void *argument)
{
    Loader *data =
        data_text("builtin", &(TextOptions){.batch = 2, .seq = 12, .seed = 1, .corpus_bytes = 2000});
    Module *model = nn_model(argument);
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f});
    for (int step = 0; step < 3 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
    }
    return error_code();
}

/* With every bias there is, the plan is the run. */
static void test_plan_of_biases(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'llama', 'vocab_size': 256, 'hidden_size': 36, 'num_hidden_layers': 2, "
                     "'num_attention_heads': 6, 'num_key_value_heads': 2, 'intermediate_size': 50, "
                     "'attention_bias': true, 'mlp_bias': true}");
    RunOptions options = {.threads = 1, .quiet = 1};
    Plan plan;
    RunResult run;
    assert_int_equal(plan_script(train, &m.preset, &options, &plan), 0);
    assert_int_equal(plan_execute(train, &m.preset, &options, &plan, &run), 0);
    assert_int_equal(run.segments_off_plan, 0);
    assert_int_equal(run.steps, 3);
    assert_int_equal(plan.memory.stats.peak, run.memory.stats.peak);
    assert_int_equal(plan.memory.stats.needs, run.memory.stats.needs);
    assert_true(run.loss_last < run.loss_first);
    plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_published_models), TEST(test_llama_fields), TEST(test_bert_and_gpt2_fields),
        TEST(test_windows),          TEST(test_defaults),     TEST(test_notes),
        TEST(test_wrong_values),     TEST(test_nothing_said), TEST(test_not_computed),
        TEST(test_unknown_fields),   TEST(test_trains),       TEST(test_plan_of_biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
