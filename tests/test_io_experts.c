/* Mixtral and Qwen3-MoE from config.json: the fields about experts. */
#include "io_support.h"

static void test_experts_fields(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'mixtral', 'num_hidden_layers': 2, 'num_local_experts': 5, "
                     "'num_experts_per_tok': 3, 'output_router_logits': true, 'router_aux_loss_coef': 0.25, "
                     "'router_jitter_noise': 0.0, 'intermediate_size': 64, 'num_experts': 0}");
    const ExpertsConfig *e = &m.preset.config.llama.experts;
    assert_int_equal(e->count, 5);
    assert_int_equal(e->active, 3);
    assert_int_equal(e->normalise, 1);
    assert_float_equal(e->balance, 0.25, 0);
    assert_int_equal(m.preset.config.llama.hidden, 64);
    assert_string_equal(m.note, "");
    /* The number by either name; layers without experts by either rule. */
    static const char *const counts[] = {"'num_experts': 9", "'num_local_experts': 9",
                                         "'num_experts': 9, 'num_local_experts': 9"};
    for (int i = 0; i < 3; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "{'model_type': 'qwen3_moe', 'num_hidden_layers': 5, 'decoder_sparse_step': 2, "
                 "'mlp_only_layers': [3, 70], 'moe_intermediate_size': 24, %s}",
                 counts[i]);
        m = good(text);
        e = &m.preset.config.llama.experts;
        assert_int_equal(e->count, 9);
        assert_int_equal(e->active, 8);
        assert_int_equal(e->hidden, 24);
        assert_int_equal(e->normalise, 0);
        assert_float_equal(e->balance, 0, 0); /* nobody asks for the logits of routers */
        assert_int_equal(e->dense.bits[0], 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4);
        assert_int_equal(m.preset.config.llama.hidden, 6144);
    }
    m = good("{'model_type': 'mixtral', 'sliding_window': 100}");
    assert_int_equal(nn_preset_window(&m.preset), 100);
    m = good("{'model_type': 'qwen3_moe', 'sliding_window': 100}");
    assert_int_equal(nn_preset_window(&m.preset), 0);
    m = good("{'model_type': 'qwen3_moe', 'sliding_window': 100, 'use_sliding_window': true}");
    assert_int_equal(nn_preset_window(&m.preset), 100);
}

static void test_shared_expert(void **state)
{
    (void)state;
    IoModel m = good("{'model_type': 'qwen2_moe'}");
    const LlamaConfig *c = &m.preset.config.llama;
    assert_int_equal(c->experts.count, 60);
    assert_int_equal(c->experts.active, 4);
    assert_int_equal(c->experts.hidden, 1408);
    assert_int_equal(c->experts.shared_hidden, 5632);
    assert_true(c->qkv_bias && !c->o_bias && !c->experts.normalise && !c->window);
    m = good(
        "{'model_type': 'qwen2_moe', 'qkv_bias': false, 'shared_expert_intermediate_size': 24, "
        "'norm_topk_prob': true, 'decoder_sparse_step': 2, 'sliding_window': 9, 'max_window_layers': 21}");
    assert_int_equal(c->experts.shared_hidden, 24);
    assert_true(!c->qkv_bias && c->experts.normalise && layer_in(&c->experts.dense, 0) && !c->window);
    /* Of the first layers every second one. */
    m = good("{'model_type': 'qwen2_moe', 'use_sliding_window': true, 'sliding_window': 9, "
             "'max_window_layers': 4, 'num_hidden_layers': 6}");
    assert_int_equal(c->window, 9);
    assert_int_equal(c->sliding.bits[0], 1 << 0 | 1 << 2);
    m = good(
        "{'model_type': 'qwen2_moe', 'use_sliding_window': true, 'sliding_window': 9, 'max_window_layers': "
        "0, 'num_hidden_layers': 2, 'layer_types': ['full_attention', 'sliding_attention']}");
    assert_int_equal(c->sliding.bits[0], 1 << 1);
    m = good(
        "{'model_type': 'qwen2_moe', 'use_sliding_window': true, 'sliding_window': 9, 'max_window_layers': "
        "0}");
    assert_int_equal(c->window, 0);
    static const Refusal refusals[] = {
        {"'shared_expert_intermediate_size': 0", "shared_expert_intermediate_size", "not 0"},
        {"'num_hidden_layers': 1, 'layer_types': ['sliding_attention']", "use_sliding_window is not true",
         "layer_types"},
        {"'attention_bias': true", "attention_bias", "unknown"},
        {"'n_shared_experts': 2", "n_shared_experts", "mixtral, qwen2_moe and qwen3_moe"},
    };
    refuse_each("qwen2_moe", refusals, COUNT(refusals));
}

static void test_not_computed(void **state)
{
    (void)state;
    static const Refusal mixtral[] = {
        {"'router_jitter_noise': 0.1", "router_jitter_noise must be 0", "noisy"},
        {"'attention_bias': true", "attention_bias is true", "Mixtral"},
        {"'num_experts_per_tok': 9", "num_experts_per_tok 9", "8 experts"},
        {"'num_local_experts': 0", "num_local_experts", "1 to 1024"},
        {"'num_local_experts': 2000", "num_local_experts", "1 to 1024"},
        {"'router_aux_loss_coef': -1", "router_aux_loss_coef", "-1"},
        {"'shared_expert_intermediate_size': 5", "shared_expert_intermediate_size", "experts"},
    };
    refuse_each("mixtral", mixtral, COUNT(mixtral));
    static const Refusal qwen3_moe[] = {
        {"'num_experts': 4, 'num_local_experts': 5", "num_local_experts is 5", "keep one"},
        {"'mlp_only_layers': 3", "mlp_only_layers", "a list"},
        {"'mlp_only_layers': ['x']", "mlp_only_layers", "numbers"},
        {"'mlp_only_layers': [-1]", "mlp_only_layers", "numbers"},
        {"'decoder_sparse_step': 0", "decoder_sparse_step", "not 0"},
        {"'num_hidden_layers': 300, 'mlp_only_layers': [299]", "layer 299 has no experts", "first 256"},
    };
    refuse_each("qwen3_moe", qwen3_moe, COUNT(qwen3_moe));
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_experts_fields), TEST(test_shared_expert),
                                       TEST(test_not_computed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
