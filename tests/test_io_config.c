/* Models from config.json: the published ones have their published sizes, every field is read or refused, every
 * bad file is an error that says what and where, and no file does harm. */
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "../io/io.h"
#include "../kernels/philox.h"
#include "support.h"

/* ---- Files ----------------------------------------------------------------------------------- */

static char folder[64], file[96];

static int make_folder(void **state)
{
    strcpy(folder, "/tmp/brim-config-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(file, sizeof file, "%s/config.json", folder);
    return fresh_context(state);
}

static int remove_folder(void **state)
{
    unlink(file);
    return rmdir(folder) != 0 || leave_context(state);
}

static void write_bytes(const char *bytes, size_t n)
{
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Fields written with ' for ", so that they can be read here. */
static const char *quoted(const char *text)
{
    static char out[1 << 14];
    size_t n = strlen(text);
    assert_true(n < sizeof out);
    for (size_t i = 0; i <= n; i++)
        out[i] = text[i] == '\'' ? '"' : text[i];
    return out;
}

static int read_text(const char *text, IoModel *model)
{
    const char *json = quoted(text);
    write_bytes(json, strlen(json));
    return io_read_config(file, model);
}

static IoModel good(const char *text)
{
    IoModel model;
    if (read_text(text, &model))
        fail_msg("%s\n%s", text, error_message());
    return model;
}

static int64_t parameters(const ModelPreset *preset)
{
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
    int64_t count = nn_parameter_count(nn_model(preset));
    assert_fine();
    leave(v);
    return count;
}

/* ---- Published models ------------------------------------------------------------------------ */

#define LLAMA_2(hidden, heads, layers, ffn)                                                                  \
    "{'_name_or_path': 'meta-llama/Llama-2', 'architectures': ['LlamaForCausalLM'], 'bos_token_id': 1, "     \
    "'eos_token_id': 2, 'hidden_act': 'silu', 'hidden_size': " hidden ", 'initializer_range': 0.02, "        \
    "'intermediate_size': " ffn ", 'max_position_embeddings': 4096, 'model_type': 'llama', "                 \
    "'num_attention_heads': " heads ", 'num_hidden_layers': " layers ", 'num_key_value_heads': " heads ", "  \
    "'pretraining_tp': 1, 'rms_norm_eps': 1e-05, 'rope_scaling': null, 'tie_word_embeddings': false, "       \
    "'torch_dtype': 'float16', 'transformers_version': '4.31.0.dev0', 'use_cache': true, 'vocab_size': 32000}"

#define LLAMA_3(hidden, heads, layers, ffn, factor, more)                                                    \
    "{'architectures': ['LlamaForCausalLM'], 'attention_bias': false, 'attention_dropout': 0.0, "            \
    "'bos_token_id': 128000, 'eos_token_id': [128001, 128008, 128009], 'hidden_act': 'silu', "               \
    "'hidden_size': " hidden ", 'initializer_range': 0.02, 'intermediate_size': " ffn ", "                   \
    "'max_position_embeddings': 131072, 'mlp_bias': false, 'model_type': 'llama', "                          \
    "'num_attention_heads': " heads ", 'num_hidden_layers': " layers ", 'num_key_value_heads': 8, "          \
    "'pretraining_tp': 1, 'rms_norm_eps': 1e-05, 'rope_scaling': {'factor': " factor ", "                    \
    "'low_freq_factor': 1.0, 'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192, "            \
    "'rope_type': 'llama3'}, 'rope_theta': 500000.0, " more " 'torch_dtype': 'bfloat16', "                   \
    "'transformers_version': '4.43.0.dev0', 'use_cache': true, 'vocab_size': 128256}"

#define MISTRAL_7B                                                                                           \
    "{'architectures': ['MistralForCausalLM'], 'bos_token_id': 1, 'eos_token_id': 2, 'hidden_act': 'silu', " \
    "'hidden_size': 4096, 'initializer_range': 0.02, 'intermediate_size': 14336, "                           \
    "'max_position_embeddings': 32768, 'model_type': 'mistral', 'num_attention_heads': 32, "                 \
    "'num_hidden_layers': 32, 'num_key_value_heads': 8, 'rms_norm_eps': 1e-05, 'rope_theta': 10000.0, "      \
    "'sliding_window': 4096, 'tie_word_embeddings': false, 'torch_dtype': 'bfloat16', "                      \
    "'transformers_version': '4.34.0.dev0', 'use_cache': true, 'vocab_size': 32000}"

#define MISTRAL_NEMO                                                                                         \
    "{'architectures': ['MistralForCausalLM'], 'attention_dropout': 0.0, 'bos_token_id': 1, "                \
    "'eos_token_id': 2, 'head_dim': 128, 'hidden_act': 'silu', 'hidden_size': 5120, "                        \
    "'initializer_range': 0.02, 'intermediate_size': 14336, 'max_position_embeddings': 131072, "             \
    "'model_type': 'mistral', 'num_attention_heads': 32, 'num_hidden_layers': 40, "                          \
    "'num_key_value_heads': 8, 'rms_norm_eps': 1e-05, 'rope_theta': 1000000.0, 'sliding_window': null, "     \
    "'tie_word_embeddings': false, 'torch_dtype': 'bfloat16', 'transformers_version': '4.43.0.dev0', "       \
    "'use_cache': true, 'vocab_size': 131072}"

#define QWEN2(hidden, heads, kv, layers, ffn, tied, vocab)                                                   \
    "{'architectures': ['Qwen2ForCausalLM'], 'attention_dropout': 0.0, 'bos_token_id': 151643, "             \
    "'eos_token_id': 151643, 'hidden_act': 'silu', 'hidden_size': " hidden ", 'initializer_range': 0.02, "   \
    "'intermediate_size': " ffn ", 'max_position_embeddings': 131072, 'max_window_layers': " layers ", "     \
    "'model_type': 'qwen2', 'num_attention_heads': " heads ", 'num_hidden_layers': " layers ", "             \
    "'num_key_value_heads': " kv ", 'rms_norm_eps': 1e-06, 'rope_theta': 1000000.0, "                        \
    "'sliding_window': 131072, 'tie_word_embeddings': " tied ", 'torch_dtype': 'bfloat16', "                 \
    "'transformers_version': '4.40.1', 'use_cache': true, 'use_sliding_window': false, 'vocab_size': " vocab "}"

#define GPT2(width, heads, layers)                                                                           \
    "{'activation_function': 'gelu_new', 'architectures': ['GPT2LMHeadModel'], 'attn_pdrop': 0.1, "          \
    "'bos_token_id': 50256, 'embd_pdrop': 0.1, 'eos_token_id': 50256, 'initializer_range': 0.02, "           \
    "'layer_norm_epsilon': 1e-05, 'model_type': 'gpt2', 'n_ctx': 1024, 'n_embd': " width ", "                \
    "'n_head': " heads ", 'n_layer': " layers ", 'n_positions': 1024, 'n_special': 0, "                      \
    "'predict_special_tokens': true, 'resid_pdrop': 0.1, 'summary_activation': null, "                       \
    "'summary_first_dropout': 0.1, 'summary_proj_to_labels': true, 'summary_type': 'cls_index', "            \
    "'summary_use_proj': true, 'task_specific_params': {'text-generation': {'do_sample': true, "             \
    "'max_length': 50}}, 'vocab_size': 50257}"

#define BERT(width, heads, layers, ffn)                                                                      \
    "{'architectures': ['BertForMaskedLM'], 'attention_probs_dropout_prob': 0.1, "                           \
    "'gradient_checkpointing': false, 'hidden_act': 'gelu', 'hidden_dropout_prob': 0.1, "                    \
    "'hidden_size': " width ", 'initializer_range': 0.02, 'intermediate_size': " ffn ", "                    \
    "'layer_norm_eps': 1e-12, 'max_position_embeddings': 512, 'model_type': 'bert', "                        \
    "'num_attention_heads': " heads ", 'num_hidden_layers': " layers ", 'pad_token_id': 0, "                 \
    "'position_embedding_type': 'absolute', 'transformers_version': '4.6.0.dev0', 'type_vocab_size': 2, "    \
    "'use_cache': true, 'vocab_size': 30522}"

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
        {MISTRAL_NEMO, 12247782400, NULL, "mistral, 40 layers of 5120"},
        {QWEN2("896", "14", "2", "24", "4864", "true", "151936"), 494032768, "qwen2-0.5b", "qwen2, 24"},
        {QWEN2("3584", "28", "4", "28", "18944", "false", "152064"), 7615616512, "qwen2-7b", "qwen2, 28"},
        {GPT2("768", "12", "12"), 124439808, "gpt2", "gpt2, 12 layers of 768"},
        {GPT2("1024", "16", "24"), 354823168, "gpt2-medium", "gpt2"},
        {GPT2("1280", "20", "36"), 774030080, "gpt2-large", "gpt2"},
        {GPT2("1600", "25", "48"), 1557611200, "gpt2-xl", "gpt2"},
        {BERT("768", "12", "12", "3072"), 109514298, "bert-base", "bert, 12 layers of 768"},
        {BERT("1024", "16", "24", "4096"), 335174458, "bert-large", "bert"},
    };
    for (size_t i = 0; i < COUNT(models); i++) {
        IoModel model = good(models[i].text);
        if (parameters(&model.preset) != models[i].count)
            fail_msg("%s has %lld parameters, not %lld", models[i].about,
                     (long long)parameters(&model.preset), (long long)models[i].count);
        assert_string_equal(model.name, "config.json");
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
        }
        assert_int_equal(nn_preset_max_seq(preset), nn_preset_max_seq(&model.preset));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_published_models, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
