/* Families that are not read, taken as one that is: which, as what, how many parameters they have otherwise
 * (those that transformers counts on its meta device), and what is refused. */
#include "io_support.h"

static int read_near(const char *text, IoModel *model)
{
    const char *json = quoted(text);
    write_bytes(json, strlen(json));
    return io_find_model_near(file, model);
}

static IoModel near(const char *text)
{
    IoModel model;
    if (read_near(text, &model))
        fail_msg("%s\n%s", text, error_message());
    return model;
}

/* Defaults but for what stands here. */
static const struct {
    const char *config, *as, *differs;
    int64_t parameters; /* transformers' */
} known[] = {
    {"{'model_type': 'ministral3', 'rope_parameters': {'rope_type': 'yarn', 'llama_4_scaling_beta': 0.1}}",
     "mistral", "queries are scaled", 8489553920},
    {"{'model_type': 'gpt_oss', 'num_hidden_layers': 24, 'num_local_experts': 32, 'swiglu_limit': 7.0, "
     "'quantization_config': {'quant_method': 'mxfp4'}, 'architectures': ['GptOssForCausalLM']}",
     "mixtral", "attention sinks", 20914757184},
    {"{'model_type': 'olmoe', 'clip_qkv': null}", "qwen3_moe", "over all heads", 13361612800},
    {"{'model_type': 'granitemoe', 'hidden_size': 1024, 'intermediate_size': 512, 'num_hidden_layers': 24, "
     "'num_attention_heads': 16, 'num_key_value_heads': 8, 'num_local_experts': 32, 'num_experts_per_tok': "
     "8, "
     "'tie_word_embeddings': true}",
     "mixtral", "other names", 1317061632},
    {"{'model_type': 'phimoe', 'attention_bias': true, 'lm_head_bias': true, 'router_jitter_noise': 0.01}",
     "mixtral", "have biases", 41873153344},
    {"{'model_type': 'olmo', 'clip_qkv': 8.0}", "llama", "have no weights", 6888095744},
    {"{'model_type': 'stablelm', 'layer_norm_eps': 1e-5}", "llama", "have biases", 2795443200},
    {"{'model_type': 'stablelm', 'use_qkv_bias': true, 'use_parallel_residual': true, 'qk_layernorm': true}",
     "llama", "have biases", 2795688960},
    {"{'model_type': 'glm'}", "llama", "one projection", 9399951360},
    {"{'model_type': 'glm4', 'attention_bias': false}", "llama", "behind both branches", 9400094720},
    {"{'model_type': 'exaone4', 'num_key_value_heads': 8}", "olmo2", "over each head", 8623763456},
};

static void test_parameters(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(known); i++) {
        IoModel m = near(known[i].config);
        assert_string_equal(m.approximate.as, known[i].as);
        assert_non_null(strstr(m.approximate.differs, known[i].differs));
        assert_true(m.approximate.kept >= 0);
        assert_int_equal(parameters(&m.preset) + m.approximate.parameters, known[i].parameters);
        assert_string_equal(m.note, "");
        /* Nobody takes it for what it is not, unless asked. */
        assert_int_equal(read_text(known[i].config, &m), ERROR_DATA);
        assert_error(ERROR_DATA, "is not read", "`brim plan --approximate` plans it as ", known[i].as);
        assert_null(m.approximate.type);
    }
}

/* What a layer, and a token, has otherwise. */
static void test_differences(void **state)
{
    (void)state;
    IoModel m = near("{'model_type': 'ministral3', 'num_hidden_layers': 3, 'num_attention_heads': 4, "
                     "'num_key_value_heads': 2, 'head_dim': 6, 'hidden_size': 24}");
    assert_int_equal(m.approximate.kept, 3 * 4 * 6);
    assert_int_equal(m.approximate.parameters, 0);
    m = near(
        "{'model_type': 'gpt_oss', 'num_hidden_layers': 2, 'num_local_experts': 4, 'hidden_size': 32, "
        "'intermediate_size': 8, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'sliding_window': 16}");
    assert_int_equal(m.approximate.parameters, 2 * (4 * (2 * 8 + 32 + 1) + 4));
    assert_int_equal(m.approximate.kept, 2 * 4);
    const LlamaConfig *c = &m.preset.config.llama;
    assert_true(c->qkv_bias && c->o_bias && c->experts.normalise && c->window == 16);
    assert_int_equal(c->sliding.bits[0], 1); /* every second layer, from the first on */
    m = near("{'model_type': 'olmo', 'num_hidden_layers': 2, 'hidden_size': 16, 'num_attention_heads': 2}");
    assert_int_equal(m.approximate.parameters, -5 * 16);
    assert_int_equal(m.approximate.kept, 5);
    m = near("{'model_type': 'exaone4', 'num_hidden_layers': 4, 'sliding_window': 8, "
             "'sliding_window_pattern': 4}");
    assert_int_equal(c->window, 8);
    assert_int_equal(c->sliding.bits[0], 7);
    m = near("{'model_type': 'exaone4', 'num_hidden_layers': 4, 'sliding_window': null}");
    assert_int_equal(c->window, 0);
}

/* A family that is read, and a name, are what they are. */
static void test_exact_stays_exact(void **state)
{
    (void)state;
    IoModel m = near("{'model_type': 'llama', 'num_hidden_layers': 2}"), n;
    assert_null(m.approximate.type);
    assert_int_equal(m.preset.config.llama.layers, 2);
    assert_int_equal(io_find_model_near("gpt2", &n), 0);
    assert_null(n.approximate.type);
    assert_int_equal(io_find_model_near(NULL, &n), ERROR_ARGUMENT);
    error_clear();
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *config, *says, *other;
    } refused[] = {
        {"{'model_type': 'mamba2'}", "without attention", "no small part"},
        {"{'model_type': 'qwen3_next'}", "linear attention", "no small part"},
        {"{'model_type': 'deepseek_v3'}", "latent attention", "no small part"},
        {"{'model_type': 'nonsense'}", "model_type must be", "not \"nonsense\""},
        /* What nobody knows may change memory here too. */
        {"{'model_type': 'olmo', 'extra_adapters': 3}", "extra_adapters", "unknown"},
        {"{'model_type': 'gpt_oss', 'num_experts_per_tok': 200}", "num_experts_per_tok", "200"},
        {"{'model_type': 'phimoe', 'num_experts_per_tok': 20}", "num_experts_per_tok", "1 to 16"},
        {"{'model_type': 'glm', 'hidden_act': 'relu'}", "hidden_act", "relu"},
        {"{'model_type': 'stablelm', 'hidden_dropout': 2}", "hidden_dropout", "2"},
    };
    IoModel m;
    for (size_t i = 0; i < COUNT(refused); i++) {
        assert_int_equal(read_near(refused[i].config, &m), ERROR_DATA);
        assert_error(ERROR_DATA, refused[i].says, refused[i].other);
        assert_null(m.approximate.type);
    }
}

static void test_every_allocation_fails(void **state)
{
    (void)state;
    IoModel m;
    uint64_t live = memtrack_process_live();
    near(known[1].config);
    for (int n = 1, passed = 0; !passed; n++) {
        memtrack_fail_nth((uint64_t)n);
        int status = io_find_model_near(file, &m);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_parameters), TEST(test_differences),
                                       TEST(test_exact_stays_exact), TEST(test_refusals),
                                       TEST(test_every_allocation_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
