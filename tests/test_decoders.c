/* The families of decoders that are made of Llama's parts: what their config.json decides, what is refused,
 * and what each computes otherwise than Llama. Values: tests/huggingface/decoders.py. */
#include <math.h>

#include "../io/weights.h"
#include "io_support.h"

/* ---- Configurations -------------------------------------------------------------------------- */

#define SIZES                                                                                                \
    "'vocab_size': 50, 'hidden_size': 24, 'num_hidden_layers': 5, 'num_attention_heads': 6, "                \
    "'num_key_value_heads': 2, 'intermediate_size': 40, 'max_position_embeddings': 64, "

/* The parameters of a block without norms: heads of 4 unless given. */
static int64_t block(int head_dim, int biases)
{
    int64_t q = 6 * head_dim, kv = 2 * head_dim;
    return 24 * q + 2 * 24 * kv + q * 24 + 3 * 24 * 40 + (biases ? q + 2 * kv + 24 : 0);
}

static void assert_count(const IoModel *model, int64_t blocks, int64_t rest)
{
    assert_int_equal(parameters(&model->preset), 5 * blocks + rest);
}

static void test_qwen3_fields(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'qwen3', " SIZES "'head_dim': 10, 'attention_bias': true, "
                     "'tie_word_embeddings': true, 'rope_theta': 1e6, 'rms_norm_eps': 1e-3}");
    const LlamaConfig *c = &m.preset.config.llama;
    assert_int_equal(m.preset.family, MODEL_QWEN3);
    assert_true(c->head_dim == 10 && c->qkv_bias && c->o_bias && !c->mlp_bias && c->tied);
    assert_float_equal(c->rope_theta, 1e6, 0);
    assert_count(&m, block(10, 1) + 2 * 24 + 2 * 10, 50 * 24 + 24);
    assert_string_equal(m.about, "qwen3, 5 layers of 24");
    assert_int_equal(good("{'model_type': 'qwen3'}").preset.config.llama.head_dim, 128);
}

static void test_olmo2_fields(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'olmo2', " SIZES "'attention_bias': false}");
    assert_int_equal(m.preset.family, MODEL_OLMO2);
    assert_float_equal(m.preset.config.llama.norm_eps, 1e-5f, 0);
    assert_count(&m, block(4, 0) + 2 * 24 + 24 + 8, 2 * 50 * 24 + 24);
}

static void assert_not_rotated(const IoModel *model, const char *layers)
{
    for (int i = 0; layers[i]; i++)
        assert_int_equal(layer_in(&model->preset.config.llama.no_rope, i), layers[i] == '0');
}

static void test_smollm3_fields(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'smollm3', " SIZES "'attention_bias': true, 'mlp_bias': true}");
    assert_int_equal(m.preset.family, MODEL_SMOLLM3);
    assert_not_rotated(&m, "11101");
    assert_float_equal(m.preset.config.llama.rope_theta, 2e6, 0);
    assert_true(m.preset.config.llama.tied);
    assert_count(&m, block(4, 1) + 2 * 40 + 24 + 2 * 24, 50 * 24 + 24);
    m = good("{'model_type': 'smollm3', " SIZES "'no_rope_layer_interval': 2}");
    assert_not_rotated(&m, "10101");
    m = good("{'model_type': 'smollm3', " SIZES
             "'no_rope_layers': [0, 0, 1, 1, 0, 1, 0]}"); /* may be longer */
    assert_not_rotated(&m, "00110");
}

static void test_granite_fields(void **state)
{
    (void)state;
    IoModel m =
        good("{'model_type': 'granite', " SIZES "'embedding_multiplier': 12, 'residual_multiplier': 0.22, "
             "'attention_multiplier': 0.25, 'logits_scaling': 8.0}");
    const LlamaConfig *c = &m.preset.config.llama;
    assert_int_equal(m.preset.family, MODEL_GRANITE);
    assert_true(c->embedding_factor == 12 && c->branch_factor == 0.22f && c->attention_scale == 0.25f &&
                c->logits_divisor == 8);
    assert_count(&m, block(4, 0) + 2 * 24, 2 * 50 * 24 + 24);
    m = good("{'model_type': 'granite'}");
    assert_true(c->embedding_factor == 1 && c->attention_scale == 1); /* not 1/sqrt(head_dim) */
}

/* What is absent is what transformers takes: counts of its own models on its meta device. */
static void test_defaults(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        int64_t count;
    } defaults[] = {{"gpt_neox", 20554567680},
                    {"qwen3", 12049461248},
                    {"olmo2", 6888624128},
                    {"smollm3", 3075098624},
                    {"granite", 6738415616}};
    for (size_t i = 0; i < COUNT(defaults); i++) {
        char text[64];
        snprintf(text, sizeof text, "{'model_type': '%s'}", defaults[i].type);
        IoModel m = good(text);
        assert_int_equal(parameters(&m.preset), defaults[i].count);
        assert_string_equal(m.note, "");
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *word;
    } refused[] = {
        {"'model_type': 'qwen3', 'head_dim': 7", "even"},
        {"'model_type': 'qwen3', 'hidden_act': 'gelu'", "silu"},
        {"'model_type': 'qwen3', 'mlp_bias': true", "mlp_bias"},
        {"'model_type': 'olmo2', 'clip_qkv': 8", "clip_qkv"},
        {"'model_type': 'smollm3', 'no_rope_layers': [1, 1]", "at least num_hidden_layers (5)"},
        {"'model_type': 'smollm3', 'no_rope_layers': [1, 1, 2, 1, 1]", "no_rope_layers[2] must be 0"},
        {"'model_type': 'smollm3', 'no_rope_layers': 4", "not 4"},
        {"'model_type': 'smollm3', 'no_rope_layer_interval': 0", "no_rope_layer_interval"},
        {"'model_type': 'granite', 'residual_multiplier': 0", "residual_multiplier"},
        {"'model_type': 'granite', 'logits_scaling': 'x'", "logits_scaling"},
    };
    for (size_t i = 0; i < COUNT(refused); i++) {
        char text[512];
        IoModel m;
        snprintf(text, sizeof text, "{" SIZES "%s}", refused[i].fields);
        if (read_text(text, &m) != ERROR_DATA)
            fail_msg("%s is read as %s", text, m.about);
        assert_error(ERROR_DATA, refused[i].word);
    }
}

/* Biases that a family of transformers cannot have are not written. */
static void test_biases_to_write(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_QWEN3, MODEL_OLMO2, MODEL_SMOLLM3, MODEL_GRANITE};
    for (size_t i = 0; i < COUNT(families); i++) {
        ModelPreset preset = small_preset(&(Setting){.family = families[i]});
        preset.config.llama.qkv_bias = 1;
        assert_int_equal(io_write_config(&preset, file, SAFETENSORS_F32), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "qkv_bias but no o_bias");
        preset.config.llama.o_bias = 1;
        preset.config.llama.mlp_bias = 1;
        int may = families[i] == MODEL_SMOLLM3 || families[i] == MODEL_GRANITE;
        assert_int_equal(io_write_config(&preset, file, SAFETENSORS_F32), may ? 0 : ERROR_ARGUMENT);
        error_clear();
    }
}

/* Nor are factors that its files have no fields for. */
static void test_factors_to_write(void **state)
{
    (void)state;
    for (int family = 0; family < MODEL_FAMILY_COUNT; family++) {
        if (!nn_family((ModelFamily)family)->decoder)
            continue;
        for (int field = 0; field < 6; field++) {
            ModelPreset preset = small_preset(&(Setting){.family = (ModelFamily)family});
            LlamaConfig *c = &preset.config.llama;
            float *at[] = {&c->embedding_factor, &c->branch_factor, &c->logits_divisor,
                           &c->attention_scale,  &c->attention_cap, &c->logits_cap};
            int granite = family == MODEL_GRANITE, gemma = family == MODEL_GEMMA2 || family == MODEL_GEMMA3;
            int may = field < 3 ? granite : field == 3 ? granite || gemma : gemma;
            assert_int_equal(io_write_config(&preset, file, SAFETENSORS_F32), 0);
            *at[field] = 0.25f;
            assert_int_equal(io_write_config(&preset, file, SAFETENSORS_F32), may ? 0 : ERROR_ARGUMENT);
            if (!may)
                assert_error(ERROR_ARGUMENT, "transformers has no", "of its own");
        }
    }
}

/* What is written of a configuration, without the file that it came from, is read as the same. */
static void test_written_is_read(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "'model_type': 'llama', 'attention_bias': true, 'mlp_bias': true",
        "'model_type': 'mistral', 'sliding_window': 7, 'head_dim': 4",
        "'model_type': 'ministral', 'head_dim': 4, 'sliding_window': 7, 'layer_types': ['sliding_attention', "
        "'full_attention', 'full_attention', 'sliding_attention', 'full_attention']",
        "'model_type': 'qwen2', 'use_sliding_window': true, 'sliding_window': 7, 'max_window_layers': 3",
        "'model_type': 'qwen3', 'head_dim': 10, 'use_sliding_window': true, 'sliding_window': 7, "
        "'max_window_layers': 0, 'attention_bias': true",
        "'model_type': 'smollm3', 'no_rope_layers': [0, 1, 1, 0, 1], 'use_sliding_window': true, "
        "'sliding_window': 9, 'mlp_bias': true, 'attention_bias': true",
        "'model_type': 'olmo2', 'attention_bias': true",
        "'model_type': 'olmo3', 'sliding_window': 9, 'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0, "
        "'original_max_position_embeddings': 16, 'attention_factor': 1.25}",
        "'model_type': 'granite', 'embedding_multiplier': 12, 'residual_multiplier': 0.22, "
        "'attention_multiplier': 0.25, 'logits_scaling': 8",
        "'model_type': 'phi3', 'sliding_window': 9, 'partial_rotary_factor': 0.5, "
        "'original_max_position_embeddings': 32, 'rope_scaling': {'type': 'longrope', 'short_factor': [1.5], "
        "'long_factor': [4.0]}",
        "'model_type': 'gemma', 'head_dim': 8",
        "'model_type': 'gemma2', 'head_dim': 8, 'sliding_window': 9, 'query_pre_attn_scalar': 12, "
        "'attn_logit_softcapping': null",
        "'model_type': 'gemma3_text', 'head_dim': 8, 'sliding_window': 9, 'sliding_window_pattern': 2, "
        "'rope_scaling': {'rope_type': 'linear', 'factor': 8.0}, 'rope_local_base_freq': 300.0, "
        "'query_pre_attn_scalar': 12",
        "'model_type': 'mixtral', 'num_local_experts': 4, 'num_experts_per_tok': 3, 'head_dim': 4, "
        "'output_router_logits': true, 'router_aux_loss_coef': 0.5",
        "'model_type': 'qwen3_moe', 'head_dim': 10, 'num_experts': 4, 'num_experts_per_tok': 2, "
        "'moe_intermediate_size': 12, 'mlp_only_layers': [1], 'norm_topk_prob': true",
        "'model_type': 'qwen2_moe', 'num_experts': 4, 'num_experts_per_tok': 2, 'moe_intermediate_size': 12, "
        "'shared_expert_intermediate_size': 10, 'mlp_only_layers': [1], 'qkv_bias': false, "
        "'use_sliding_window': true, 'sliding_window': 9, 'max_window_layers': 3",
    };
    for (size_t i = 0; i < COUNT(configs); i++) {
        char text[1024];
        IoModel again;
        snprintf(text, sizeof text, "{" SIZES "%s}", configs[i]);
        IoModel m = good(text);
        assert_int_equal(io_write_config(&m.preset, file, SAFETENSORS_F32), 0);
        if (io_read_config(file, &again))
            fail_msg("%s\n%s", text, error_message());
        assert_string_equal(again.about, m.about);
        if (memcmp(&again.preset.config, &m.preset.config, sizeof m.preset.config) != 0)
            fail_msg("%s is another model when it is written and read", text);
    }
}

/* ---- Values ---------------------------------------------------------------------------------- */

static double loss_of(const ModelPreset *preset)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
    Module *model = nn_model(preset);
    TensorList list = nn_parameters(model);
    for (int p = 0; p < list.count; p++)
        tensor_fill_normal(list.items[p], tensor_shape(list.items[p]).ndim == 1 ? 1 : 0, 0.1f);
    Batch batch = small_batch(preset->family, 0, 0, 2);
    double loss = (double)tensor_item(nn_loss(model, &batch));
    assert_fine();
    leave(v);
    return loss;
}

/* Each field changes what is computed: none is read and forgotten. */
static void test_fields_act(void **state)
{
    (void)state;
    ModelPreset granite = small_preset(&(Setting){.family = MODEL_GRANITE}), other;
    double before = loss_of(&granite);
    assert_float_equal(loss_of(&granite), before, 0);
    for (int field = 0; field < 4; field++) {
        other = granite;
        float *at[] = {&other.config.llama.embedding_factor, &other.config.llama.branch_factor,
                       &other.config.llama.logits_divisor, &other.config.llama.attention_scale};
        *at[field] *= 1.5f;
        assert_true(fabs(loss_of(&other) - before) > 1e-5);
    }
    /* A program's own factor goes before the root of the width. */
    ModelPreset gemma = small_preset(&(Setting){.family = MODEL_GEMMA});
    before = loss_of(&gemma);
    gemma.config.llama.embedding_factor = sqrtf(32);
    assert_float_equal(loss_of(&gemma), before, 0);
    gemma.config.llama.embedding_factor = 3;
    assert_true(fabs(loss_of(&gemma) - before) > 1e-5);
    ModelPreset smollm3 = small_preset(&(Setting){.family = MODEL_SMOLLM3});
    before = loss_of(&smollm3);
    smollm3.config.llama.no_rope = (LayerSet){{0}};
    assert_true(fabs(loss_of(&smollm3) - before) > 1e-5);
}

static void test_layer_sets(void **state)
{
    (void)state;
    LayerSet set = {{5, 0, 0, (uint64_t)1 << 63}};
    assert_true(layer_in(&set, 0) && !layer_in(&set, 1) && layer_in(&set, 2) && layer_in(&set, 255));
    assert_false(layer_in(&set, 256) || layer_in(&set, 1 << 20) || layer_in(&set, -1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_qwen3_fields),    TEST(test_olmo2_fields),     TEST(test_smollm3_fields),
        TEST(test_granite_fields),  TEST(test_defaults),         TEST(test_refused),
        TEST(test_biases_to_write), TEST(test_factors_to_write), TEST(test_written_is_read),
        TEST(test_fields_act),      TEST(test_layer_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
