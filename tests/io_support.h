/* What the tests of io share: a folder with a config.json, and the published configurations. */
#ifndef TEST_IO_SUPPORT_H
#define TEST_IO_SUPPORT_H

#include <unistd.h>

#include "../io/io.h"
#include "support.h"

/* ---- Files ----------------------------------------------------------------------------------- */

static char folder[64], file[96];

static inline int make_folder(void **state)
{
    strcpy(folder, "/tmp/brim-config-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(file, sizeof file, "%s/config.json", folder);
    return fresh_context(state);
}

static inline int remove_folder(void **state)
{
    unlink(file);
    return rmdir(folder) != 0 || leave_context(state);
}

static inline void write_bytes(const char *bytes, size_t n)
{
    unlink(file); /* writing over a file makes some file systems wait for the disk */
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Fields written with ' for ", so that they can be read here. */
static inline const char *quoted(const char *text)
{
    static char out[1 << 14];
    size_t n = strlen(text);
    assert_true(n < sizeof out);
    for (size_t i = 0; i <= n; i++)
        out[i] = text[i] == '\'' ? '"' : text[i];
    return out;
}

static inline int read_text(const char *text, IoModel *model)
{
    const char *json = quoted(text);
    write_bytes(json, strlen(json));
    return io_read_config(file, model);
}

static inline IoModel good(const char *text)
{
    IoModel model;
    if (read_text(text, &model))
        fail_msg("%s\n%s", text, error_message());
    return model;
}

static inline int64_t parameters(const ModelPreset *preset)
{
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
    int64_t count = nn_parameter_count(nn_model(preset));
    assert_fine();
    leave(v);
    return count;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

/* ---- Published configurations ---------------------------------------------------------------- */

#define LLAMA_2(hidden, heads, layers, ffn)                                                                  \
    "{'_name_or_path': 'meta-llama/Llama-2', 'architectures': ['LlamaForCausalLM'], 'bos_token_id': 1, "     \
    "'eos_token_id': 2, 'hidden_act': 'silu', 'hidden_size': " hidden ", 'initializer_range': 0.02, "        \
    "'intermediate_size': " ffn ", 'max_position_embeddings': 4096, 'model_type': 'llama', "                 \
    "'num_attention_heads': " heads ", 'num_hidden_layers': " layers ", 'num_key_value_heads': " heads ", "  \
    "'pretraining_tp': 1, 'rms_norm_eps': 1e-05, 'rope_scaling': null, 'tie_word_embeddings': false, "       \
    "'torch_dtype': 'float16', 'transformers_version': '4.31.0.dev0', 'use_cache': true, 'vocab_size': "     \
    "32000}"

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

/* As it lies on the hub. */
#define MIXTRAL_8X7B                                                                                         \
    "{'architectures': ['MixtralForCausalLM'], 'attention_dropout': 0.0, 'bos_token_id': 1, "                \
    "'eos_token_id': 2, 'hidden_act': 'silu', 'hidden_size': 4096, 'initializer_range': 0.02, "              \
    "'intermediate_size': 14336, 'max_position_embeddings': 32768, 'model_type': 'mixtral', "                \
    "'num_attention_heads': 32, 'num_experts_per_tok': 2, 'num_hidden_layers': 32, "                         \
    "'num_key_value_heads': 8, 'num_local_experts': 8, 'output_router_logits': false, 'rms_norm_eps': "      \
    "1e-05, 'rope_theta': 1000000.0, 'router_aux_loss_coef': 0.02, 'sliding_window': null, "                 \
    "'tie_word_embeddings': false, 'torch_dtype': 'bfloat16', 'transformers_version': '4.36.0.dev0', "       \
    "'use_cache': true, 'vocab_size': 32000}"

#define QWEN3_30B_A3B                                                                                        \
    "{'architectures': ['Qwen3MoeForCausalLM'], 'attention_bias': false, 'attention_dropout': 0.0, "         \
    "'bos_token_id': 151643, 'decoder_sparse_step': 1, 'eos_token_id': 151645, 'head_dim': 128, "            \
    "'hidden_act': 'silu', 'hidden_size': 2048, 'initializer_range': 0.02, 'intermediate_size': 6144, "      \
    "'max_position_embeddings': 40960, 'max_window_layers': 48, 'mlp_only_layers': [], 'model_type': "       \
    "'qwen3_moe', 'moe_intermediate_size': 768, 'norm_topk_prob': true, 'num_attention_heads': 32, "         \
    "'num_experts': 128, 'num_experts_per_tok': 8, 'num_hidden_layers': 48, 'num_key_value_heads': 4, "      \
    "'output_router_logits': false, 'rms_norm_eps': 1e-06, 'rope_scaling': null, 'rope_theta': 1000000.0, "  \
    "'router_aux_loss_coef': 0.001, 'sliding_window': null, 'tie_word_embeddings': false, 'torch_dtype': "   \
    "'bfloat16', 'transformers_version': '4.51.0', 'use_cache': true, 'use_sliding_window': false, "         \
    "'vocab_size': 151936}"

#define QWEN2_57B_A14B                                                                                       \
    "{'architectures': ['Qwen2MoeForCausalLM'], 'attention_dropout': 0.0, 'bos_token_id': 151643, "          \
    "'eos_token_id': 151643, 'hidden_act': 'silu', 'hidden_size': 3584, 'initializer_range': 0.02, "         \
    "'intermediate_size': 18944, 'max_position_embeddings': 131072, 'max_window_layers': 28, 'model_type': " \
    "'qwen2_moe', 'num_attention_heads': 28, 'num_hidden_layers': 28, 'num_key_value_heads': 4, "            \
    "'rms_norm_eps': 1e-06, 'rope_theta': 1000000.0, 'sliding_window': 65536, 'tie_word_embeddings': "       \
    "false, 'torch_dtype': 'bfloat16', 'transformers_version': '4.40.1', 'use_cache': true, "                \
    "'use_sliding_window': false, 'vocab_size': 151936, 'decoder_sparse_step': 1, 'moe_intermediate_size': " \
    "2560, 'shared_expert_intermediate_size': 20480, 'num_experts_per_tok': 8, 'num_experts': 64, "          \
    "'norm_topk_prob': false, 'output_router_logits': false, 'router_aux_loss_coef': 0.001, "                \
    "'mlp_only_layers': []}"

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
    "'transformers_version': '4.40.1', 'use_cache': true, 'use_sliding_window': false, 'vocab_size': " vocab \
    "}"

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

#define ROBERTA(type, class, width, heads, layers, ffn, vocab)                                               \
    "{'architectures': ['" class "ForMaskedLM'], 'attention_probs_dropout_prob': 0.1, 'bos_token_id': 0, "   \
                                 "'eos_token_id': 2, 'hidden_act': 'gelu', 'hidden_dropout_prob': 0.1, "     \
                                 "'hidden_size': " width ", "                                                \
                                 "'initializer_range': 0.02, 'intermediate_size': " ffn                      \
                                 ", 'layer_norm_eps': 1e-05, "                                               \
                                 "'max_position_embeddings': 514, 'model_type': '" type                      \
                                 "', 'num_attention_heads': " heads ", "                                     \
                                 "'num_hidden_layers': " layers                                              \
                                 ", 'output_past': true, 'pad_token_id': 1, 'type_vocab_size': 1, "          \
                                 "'vocab_size': " vocab "}"

/* Fields of a config.json, and two words of what is said of them. */
typedef struct Refusal {
    const char *fields, *word, *other;
} Refusal;

static inline void refuse_each(const char *type, const Refusal *refusals, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char text[512];
        snprintf(text, sizeof text, "{'model_type': '%s', %s}", type, refusals[i].fields);
        IoModel m;
        memset(&m, 1, sizeof m);
        if (read_text(text, &m) != ERROR_DATA)
            fail_msg("%s is read as %s", text, m.about);
        if (!strstr(error_message(), refusals[i].word) || !strstr(error_message(), refusals[i].other))
            fail_msg("%s: %s", text, error_message());
        assert_error(ERROR_DATA, "config.json: ");
        assert_int_equal(m.preset.batch, 0);
        assert_string_equal(m.name, "");
    }
}

#endif
