/* GPT-NeoX: its config.json, the names of its tensors in files both ways, and what its blocks compute:
 * branches side by side or one after the other, beside the same written out by operations. Values against
 * transformers: tests/huggingface/decoders.py. */
#include <math.h>

#include "../io/io.h"
#include "../io/safetensors.h"
#include "../nn/module_.h"
#include "weights_support.h"

/* ---- config.json ----------------------------------------------------------------------------- */

#define SIZES                                                                                                \
    "'model_type': 'gpt_neox', 'vocab_size': 50, 'hidden_size': 32, 'num_hidden_layers': 3, "                \
    "'num_attention_heads': 4, 'intermediate_size': 40, 'max_position_embeddings': 64"

static int read_fields(const char *fields, IoModel *model)
{
    char text[1024];
    snprintf(text, sizeof text, "{" SIZES "%s%s}", *fields ? ", " : "", fields);
    put_text("config.json", text);
    return io_read_config(at("config.json"), model);
}

static LlamaConfig good(const char *fields)
{
    IoModel model;
    if (read_fields(fields, &model))
        fail_msg("%s: %s", fields, error_message());
    assert_int_equal(model.preset.family, MODEL_GPT_NEOX);
    assert_string_equal(model.note, "");
    return model.preset.config.llama;
}

static void test_fields(void **state)
{
    (void)state;
    LlamaConfig c = good("");
    assert_true(c.vocab == 50 && c.dim == 32 && c.layers == 3 && c.heads == 4 && c.hidden == 40);
    assert_true(c.max_seq == 64 && c.kv_heads == 4 && !c.head_dim && !c.tied && !c.window);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias && !c.sequential && !c.gelu_tanh);
    assert_true(c.partial_rotary == 0.25f && c.rope_theta == 10000 && c.norm_eps == 1e-5f);
    c = good("'rotary_pct': 0.5, 'rotary_emb_base': 500, 'layer_norm_eps': 1e-3, 'attention_bias': false, "
             "'use_parallel_residual': false, 'hidden_act': 'gelu_fast', 'tie_word_embeddings': true, "
             "'hidden_dropout': 0.0, 'attention_dropout': 0.0, 'classifier_dropout': 0.1");
    assert_true(!c.qkv_bias && !c.o_bias && c.mlp_bias && c.sequential && c.gelu_tanh && c.tied);
    assert_true(c.partial_rotary == 0.5f && c.rope_theta == 500 && c.norm_eps == 1e-3f);
    /* As version 5 says it, which goes before what stands beside it. */
    c = good("'rope_parameters': {'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 700.0, "
             "'partial_rotary_factor': 0.75}, 'rotary_pct': 0.5");
    assert_true(c.partial_rotary == 0.75f && c.rope_theta == 700);
    assert_true(c.rope_scaling.kind == ROPE_SCALING_LINEAR && c.rope_scaling.factor == 2);
    c = good("'rope_scaling': null, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000}");
    assert_true(c.partial_rotary == 0.25f);
    static const char *const names[] = {"gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"};
    for (int i = 0; i < 5; i++) {
        char text[64];
        snprintf(text, sizeof text, "'hidden_act': '%s'", names[i]);
        assert_int_equal(good(text).gelu_tanh, i > 1);
    }
}

static void test_refused_fields(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *says;
    } refused[] = {
        {"'hidden_act': 'relu'", "hidden_act must be \"gelu\", which is what is computed, not \"relu\""},
        {"'hidden_dropout': 0.1", "embeddings and branches have no dropout here"},
        {"'rotary_pct': 0.4", "rotary_pct 0.4 of a head of 8 is 3 elements; an even number can turn"},
        {"'rotary_pct': 0", "rotary_pct 0 of a head of 8 is 0 elements"},
        {"'rotary_pct': 1.5", "rotary_pct must be a number from 0 to 1"},
        {"'rope_parameters': {'partial_rotary_factor': 0.1}", "rope_parameters.partial_rotary_factor 0.1"},
        {"'rotary_emb_base': 0", "rotary_emb_base must be a number from 1"},
        {"'rotary_emb_base': 500, 'rope_parameters': {'rope_theta': 600}",
         "rotary_emb_base is 500, and 600 in the nested object; keep one"},
        {"'use_parallel_residual': 1", "use_parallel_residual must be true or false"},
        {"'num_key_value_heads': 4", "\"num_key_value_heads\" is unknown"},
        {"'rms_norm_eps': 1e-6", "\"rms_norm_eps\" is unknown"},
        {"'hidden_size': 30", "does not divide hidden_size"},
        {"'hidden_size': 36", "rotary positions need an even one"},
        {"'sliding_window': 8", "\"sliding_window\" is unknown"},
    };
    for (size_t i = 0; i < COUNT(refused); i++) {
        IoModel m;
        if (strstr(refused[i].fields, "hidden_size")) { /* in the place of what is there */
            char text[512];
            snprintf(text, sizeof text, "{'model_type': 'gpt_neox', 'num_attention_heads': 4, %s}",
                     refused[i].fields);
            put_text("config.json", text);
            assert_int_equal(io_read_config(at("config.json"), &m), ERROR_DATA);
        } else if (read_fields(refused[i].fields, &m) != ERROR_DATA) {
            fail_msg("%s is read", refused[i].fields);
        }
        assert_error(ERROR_DATA, refused[i].says);
    }
}

/* Published files are the presets of their names. */
static void test_published(void **state)
{
    (void)state;
    static const struct {
        const char *preset, *config;
    } published[] = {
        {"pythia-70m",
         "{'architectures': ['GPTNeoXForCausalLM'], 'bos_token_id': 0, 'eos_token_id': 0, 'hidden_act': "
         "'gelu', "
         "'hidden_size': 512, 'initializer_range': 0.02, 'intermediate_size': 2048, 'layer_norm_eps': 1e-05, "
         "'max_position_embeddings': 2048, 'model_type': 'gpt_neox', 'num_attention_heads': 8, "
         "'num_hidden_layers': 6, 'rotary_emb_base': 10000, 'rotary_pct': 0.25, 'tie_word_embeddings': "
         "false, "
         "'torch_dtype': 'float16', 'transformers_version': '4.24.0', 'use_cache': true, "
         "'use_parallel_residual': true, 'vocab_size': 50304}"},
        {"pythia-12b",
         "{'architectures': ['GPTNeoXForCausalLM'], 'attention_bias': true, 'attention_dropout': 0.0, "
         "'classifier_dropout': 0.1, 'hidden_act': 'gelu', 'hidden_dropout': 0.0, 'hidden_size': 5120, "
         "'intermediate_size': 20480, 'layer_norm_eps': 1e-05, 'max_position_embeddings': 2048, "
         "'model_type': "
         "'gpt_neox', 'num_attention_heads': 40, 'num_hidden_layers': 36, 'rope_parameters': "
         "{'partial_rotary_factor': 0.25, 'rope_theta': 10000.0, 'rope_type': 'default'}, 'dtype': "
         "'float16', "
         "'tie_word_embeddings': false, 'transformers_version': '5.24.0', 'vocab_size': 50688}"},
        {"gpt-neox-20b",
         "{'architectures': ['GPTNeoXForCausalLM'], 'attention_probs_dropout_prob': 0, 'bos_token_id': 0, "
         "'eos_token_id': 0, 'hidden_act': 'gelu_fast', 'hidden_dropout_prob': 0, 'hidden_size': 6144, "
         "'initializer_range': 0.02, 'intermediate_size': 24576, 'layer_norm_eps': 1e-05, "
         "'max_position_embeddings': 2048, 'model_type': 'gpt_neox', 'num_attention_heads': 64, "
         "'num_hidden_layers': 44, 'rotary_emb_base': 10000, 'rotary_pct': 0.25, 'tie_word_embeddings': "
         "false, "
         "'torch_dtype': 'float16', 'use_cache': true, 'vocab_size': 50432}"},
    };
    for (size_t i = 0; i < COUNT(published); i++) {
        IoModel m, named;
        put_text("config.json", published[i].config);
        assert_int_equal(io_read_config(at("config.json"), &m), 0);
        assert_string_equal(m.note, "");
        LlamaConfig c = nn_preset(published[i].preset)->config.llama;
        c.kv_heads = c.heads; /* what a file says in place of what is usual */
        c.rope_theta = 10000;
        c.norm_eps = 1e-5f;
        assert_memory_equal(&m.preset.config.llama, &c, sizeof c);
        char name[64];
        snprintf(name, sizeof name, "EleutherAI/%s", published[i].preset);
        assert_int_equal(io_find_model(name, &named), 0);
        assert_string_equal(named.preset.name, published[i].preset);
    }
    IoModel named;
    assert_int_equal(io_find_model("EleutherAI/pythia-410m-deduped", &named), 0);
    assert_string_equal(named.preset.name, "pythia-410m");
}

/* What is written of a configuration is read as the same. */
static void test_written_is_read(void **state)
{
    (void)state;
    static const char *const fields[] = {
        "", "'rotary_pct': 1.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}",
        ("'use_parallel_residual': false, 'rotary_pct': 0.5, 'rotary_emb_base': 500, 'hidden_act': "
         "'gelu_new', 'layer_norm_eps': 1e-3, 'attention_bias': false, 'tie_word_embeddings': true")};
    for (int i = 0; i < 3; i++) {
        IoModel m, again;
        assert_int_equal(read_fields(fields[i], &m), 0);
        assert_int_equal(io_write_config(&m.preset, at("again.json"), SAFETENSORS_F32), 0);
        assert_int_equal(io_read_config(at("again.json"), &again), 0);
        assert_memory_equal(&again.preset.config, &m.preset.config, sizeof m.preset.config);
    }
    ModelPreset whole = family(MODEL_GPT_NEOX); /* 0 is all of a head, whatever a file would take */
    whole.config.llama.partial_rotary = 0;
    IoModel again;
    assert_int_equal(io_write_config(&whole, at("again.json"), SAFETENSORS_F32), 0);
    assert_int_equal(io_read_config(at("again.json"), &again), 0);
    assert_float_equal(again.preset.config.llama.partial_rotary, 1, 0);
}

/* What transformers cannot have is not written. */
static void test_refused_to_write(void **state)
{
    (void)state;
    static const char *const says[] = {"no biases in the feed-forward", "qkv_bias but no o_bias", "a window",
                                       "heads that are not dim together"};
    for (int i = 0; i < 4; i++) {
        ModelPreset preset = family(MODEL_GPT_NEOX);
        LlamaConfig *c = &preset.config.llama;
        assert_int_equal(io_write_config(&preset, at("config.json"), SAFETENSORS_F32), 0);
        i == 0 ? (c->mlp_bias = 0) : i == 1 ? (c->o_bias = 0) : i == 2 ? (c->window = 3) : (c->head_dim = 4);
        assert_int_equal(io_write_config(&preset, at("config.json"), SAFETENSORS_F32), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, says[i]);
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* A file with the tensors of another under other names, and some that are no parameters. */
static void write_renamed(const char *to, const Safetensors *file, int without_prefix, const char *head)
{
    enum { MOST = 64 };
    static char names[MOST][128];
    static const char *const buffers[] = {"gpt_neox.layers.0.attention.bias",
                                          "layers.1.attention.masked_bias",
                                          "gpt_neox.layers.0.attention.rotary_emb.inv_freq"};
    SafetensorsItem items[MOST] = {{0}};
    int count = safetensors_count(file);
    assert_true(count + 3 < MOST);
    for (int i = 0; i < count; i++) {
        const SafetensorsEntry *e = safetensors_at(file, i);
        int prefix = without_prefix && !strncmp(e->name, "gpt_neox.", 9) ? 9 : 0;
        snprintf(names[i], sizeof names[i], "%s",
                 !strcmp(e->name, "embed_out.weight") ? head : e->name + prefix);
        items[i] = (SafetensorsItem){.name = names[i], .type = e->type, .ndim = e->ndim, .data = e->data};
        memcpy(items[i].dim, e->dim, sizeof items[i].dim);
    }
    for (int i = 0; i < 3; i++) {
        static const float ones[4] = {1, 1, 1, 1};
        items[count] = (SafetensorsItem){.name = buffers[i], .ndim = 1, .data = ones};
        items[count++].dim[0] = 4;
    }
    assert_int_equal(safetensors_write(to, items, count), 0);
}

static void assert_same_values(Module *a, Module *b)
{
    TensorList x = nn_parameters(a), y = nn_parameters(b);
    for (int i = 0; i < x.count; i++)
        assert_memory_equal(tensor_f32(x.items[i]), tensor_f32(y.items[i]),
                            (size_t)tensor_numel(x.items[i]) * sizeof(float));
}

/* Files call the head embed_out, transformers 5's module is lm_head; both are read, one is written. */
static void test_names(void **state)
{
    (void)state;
    static const char *const heads[] = {"embed_out.weight", "lm_head.weight"};
    for (int tied = 0; tied < 2; tied++) {
        ModelPreset preset = family(MODEL_GPT_NEOX);
        preset.config.llama.tied = tied;
        Module *model = model_of(&preset, 1);
        assert_int_equal(io_save_weights(model, &preset, at("m"), &(WeightsSaving){.overwrite = 1}), 0);
        Safetensors *file = safetensors_open(at("m"));
        assert_int_equal(safetensors_find(file, "embed_out.weight") != NULL, !tied);
        assert_null(safetensors_find(file, "lm_head.weight"));
        assert_non_null(safetensors_find(file, "gpt_neox.final_layer_norm.bias"));
        const SafetensorsEntry *qkv =
            safetensors_find(file, "gpt_neox.layers.1.attention.query_key_value.weight");
        const float *weight =
            tensor_f32(nn_parameter(model, "gpt_neox.layers.1.attention.query_key_value.weight"));
        assert_memory_equal(qkv->data, weight, 3 * 32 * 32 * sizeof *weight); /* row for row */
        for (int i = 0; i < 4; i++) {
            Module *other = model_of(&preset, 500);
            WeightsReport report;
            write_renamed(at("n.safetensors"), file, i / 2, heads[i % 2]);
            assert_int_equal(io_load_weights(other, at("n.safetensors"), NULL, &report), 0);
            assert_same_values(model, other);
            assert_int_equal(report.ignored, 3);
        }
        safetensors_close(file);
    }
}

/* What is missing is called as files call it; a head that is there twice is refused. */
static void test_missing(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT_NEOX);
    Module *model = model_of(&preset, 1);
    assert_int_equal(io_save_weights(model, &preset, at("m"), &(WeightsSaving){.overwrite = 1}), 0);
    Safetensors *file = safetensors_open(at("m"));
    write_renamed(at("n.safetensors"), file, 0, "score.weight");
    assert_int_equal(io_load_weights(model, at("n.safetensors"), NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "1 parameter is missing: embed_out.weight");
    safetensors_close(file);
    static const int64_t rows = 2;
    static const float values[2] = {1, 2};
    SafetensorsItem twice[] = {{.name = "embed_out.weight", .ndim = 1, .data = values},
                               {.name = "lm_head.weight", .ndim = 1, .data = values}};
    twice[0].dim[0] = twice[1].dim[0] = rows;
    assert_int_equal(safetensors_write(at("t.safetensors"), twice, 2), 0);
    assert_int_equal(io_load_weights(model, at("t.safetensors"), NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "embed_out.weight", "lm_head.weight");
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

static Tensor *linear(Module *block, const char *name, Tensor *x, TensorActivation act)
{
    char path[128];
    snprintf(path, sizeof path, "%s.weight", name);
    Tensor *weight = nn_parameter(block, path);
    snprintf(path, sizeof path, "%s.bias", name);
    return tensor_linear(x, weight, nn_parameter(block, path), act);
}

static Tensor *norm(Module *block, const char *name, Tensor *x)
{
    char path[128];
    snprintf(path, sizeof path, "%s.weight", name);
    Tensor *weight = nn_parameter(block, path);
    snprintf(path, sizeof path, "%s.bias", name);
    return tensor_layer_norm(x, weight, nn_parameter(block, path), 1e-5f);
}

/* Of (B,T,heads,3,D) the part `which` of each head, as (B,T,heads D). */
static Tensor *take_part(Tensor *qkv, int heads, int size, int which)
{
    int64_t rows = tensor_dim(qkv, 0) * tensor_dim(qkv, 1);
    Tensor *part =
        tensor_zeros(DTYPE_F32, SHAPE(tensor_dim(qkv, 0), tensor_dim(qkv, 1), heads * size), MEM_INPUT);
    for (int64_t i = 0; i < rows * heads; i++)
        memcpy(tensor_f32(part) + i * size, tensor_f32(qkv) + (3 * i + which) * size,
               (size_t)size * sizeof(float));
    return part;
}

/* What a block gives, of separate arrays. */
static Tensor *block_by_hand(Module *block, const LlamaConfig *c, Tensor *x)
{
    int size = c->dim / c->heads;
    RopeOptions rope = {.heads = c->heads, .theta = 10000, .rotary_dim = size / 2};
    Tensor *qkv =
        linear(block, "attention.query_key_value", norm(block, "input_layernorm", x), TENSOR_IDENTITY);
    Tensor *q = tensor_rope_with(take_part(qkv, c->heads, size, 0), &rope);
    Tensor *k = tensor_rope_with(take_part(qkv, c->heads, size, 1), &rope);
    Tensor *seen = tensor_attention(q, k, take_part(qkv, c->heads, size, 2),
                                    &(AttentionOptions){.heads = c->heads, .causal = 1});
    Tensor *middle = tensor_add(x, linear(block, "attention.dense", seen, TENSOR_IDENTITY));
    Tensor *hidden = linear(block, "mlp.dense_h_to_4h",
                            norm(block, "post_attention_layernorm", c->sequential ? middle : x),
                            c->gelu_tanh ? TENSOR_GELU_TANH : TENSOR_GELU);
    return tensor_add(middle, linear(block, "mlp.dense_4h_to_h", hidden, TENSOR_IDENTITY));
}

static void test_block(void **state)
{
    (void)state;
    const float *before = NULL;
    for (int i = 0; i < 4; i++) {
        ModelPreset preset = family(MODEL_GPT_NEOX);
        LlamaConfig *c = &preset.config.llama;
        c->sequential = i & 1;
        c->gelu_tanh = i >> 1;
        Module *model = model_of(&preset, 1), *block = nn_block(model, 0);
        Tensor *x = values(SHAPE(2, 7, 32), 3, 1);
        tensor_no_grad_begin();
        const float *y = tensor_f32(tensor_keep(nn_forward(block, x, &(Batch){0})));
        const float *expected = tensor_f32(block_by_hand(block, c, x));
        tensor_no_grad_end();
        assert_fine();
        for (int e = 0; e < 2 * 7 * 32; e++)
            assert_float_equal(y[e], expected[e], 2e-5 * (1 + fabs((double)expected[e])));
        assert_true(!before || memcmp(y, before, 2 * 7 * 32 * sizeof *y) != 0); /* each field acts */
        before = y;
    }
}

/* An adapter where PEFT has one by default, and of every layer. */
static void test_adapted(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT_NEOX);
    assert_int_equal(nn_add_lora(model_of(&preset, 1), &(Lora){.targets = "query_key_value"}), 2);
    assert_int_equal(nn_add_lora(model_of(&preset, 1), NULL), 2 * 4);
    Module *model = model_of(&preset, 1);
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "q_proj"}), -1);
    assert_error(ERROR_ARGUMENT, "query_key_value");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_fields),           TEST(test_published),
        TEST(test_refused_fields),   TEST(test_written_is_read),
        TEST(test_refused_to_write), TEST(test_names),
        TEST(test_missing),          TEST(test_block),
        TEST(test_adapted),
    };
    return cmocka_run_group_tests_name("GPT-NeoX", tests, NULL, NULL);
}
