/* Modules: what models consist of, how they are initialised and named, what configurations they refuse, and
 * modules of one's own. */
#include <limits.h>
#include <math.h>

#include "support.h"

/* ---- Parameter counts ------------------------------------------------------------------------ */

static void test_parameter_counts(void **state)
{
    (void)state;
    static const struct {
        const char *preset;
        int64_t count;
    } counts[] = {
        {"mlp", 669706},
        {"llama-tiny", 6123168},
        {"gpt2-tiny", 5066752},
        {"mixtral-tiny", 7577280},
        {"mixtral-8x7b", 46702792704},
        {"mixtral-8x22b", 140620634112},
        {"qwen3-30b-a3b", 30532122624},
        {"qwen1.5-moe-a2.7b", 14315784192},
        {"qwen2-57b-a14b", 57408658944},
        {"qwen3-235b-a22b", 235093634560},
        {"bert-tiny", 3424260},
        {"gpt2", 124439808},
        {"gpt2-medium", 354823168},
        {"gpt2-large", 774030080},
        {"gpt2-xl", 1557611200},
        {"bert-base", 109514298}, /* with the masked-language-model head and without the pooler */
        {"bert-large", 335174458},
        {"roberta-base", 124697433}, /* as transformers counts them, which has no pooler there */
        {"roberta-large", 355412057},
        {"distilroberta-base", 82170201},
        {"distilbert-base", 66985530},
        {"modernbert-base", 149655232},
        {"modernbert-large", 395881664},
        {"xlm-roberta-base", 278295186},
        {"xlm-roberta-large", 560142482},
        {"llama-2-7b", 6738415616},
        {"llama-2-13b", 13015864320},
        {"llama-2-70b", 68976648192},
        {"llama-3.2-1b", 1235814400},
        {"llama-3.2-3b", 3212749824},
        {"llama-3.1-8b", 8030261248},
        {"llama-3.1-70b", 70553706496},
        {"llama-3.1-405b", 405853388800},
        {"tinyllama-1.1b", 1100048384},
        {"smollm2-135m", 134515008},
        {"smollm2-360m", 361821120},
        {"smollm2-1.7b", 1711376384},
        {"mistral-7b", 7241732096},
        {"mistral-7b-v0.2", 7241732096},
        {"mistral-7b-v0.3", 7248023552},
        {"qwen2-0.5b", 494032768},
        {"qwen2-7b", 7615616512},
        {"qwen2.5-0.5b", 494032768},
        {"qwen2.5-1.5b", 1543714304},
        {"qwen2.5-3b", 3085938688},
        {"qwen2.5-7b", 7615616512},
        {"qwen2.5-14b", 14770033664},
        {"qwen2.5-32b", 32763876352},
        {"qwen2.5-72b", 72706203648},
        {"deepseek-r1-distill-qwen-1.5b", 1777088000},
        {"deepseek-r1-distill-qwen-7b", 7615616512},
        {"deepseek-r1-distill-qwen-14b", 14770033664},
        {"deepseek-r1-distill-qwen-32b", 32763876352},
        {"deepseek-r1-distill-llama-8b", 8030261248},
        {"deepseek-r1-distill-llama-70b", 70553706496},
        {"qwen3-0.6b", 596049920},
        {"qwen3-1.7b", 1720574976},
        {"qwen3-4b", 4022468096},
        {"qwen3-8b", 8190735360},
        {"qwen3-14b", 14768307200},
        {"qwen3-32b", 32762123264},
        {"smollm3-3b", 3075098624},
        {"olmo2-1b", 1484916736},
        {"olmo2-7b", 7298617344},
        {"olmo2-13b", 13716198400},
        {"olmo2-32b", 32234279936},
        {"granite-3.1-2b", 2533531648},
        {"granite-3.1-8b", 8170848256},
        {"pythia-70m", 70426624},
        {"pythia-160m", 162322944},
        {"pythia-410m", 405334016},
        {"pythia-1b", 1011781632},
        {"pythia-1.4b", 1414647808},
        {"pythia-2.8b", 2775208960},
        {"pythia-6.9b", 6857302016},
        {"pythia-12b", 11846072320},
        {"gpt-neox-20b", 20554567680},
        {"textbook-10b", 10005893120},
        {"bench-mlp", 669706},
        {"bench-gpt2", 124439808},
    };
    for (size_t i = 0; i < COUNT(counts); i++) {
        const ModelPreset *preset = nn_preset(counts[i].preset);
        assert_non_null(preset);
        Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
        Module *model = nn_model(preset);
        if (nn_parameter_count(model) != counts[i].count)
            fail_msg("%s has %lld parameters, not %lld", counts[i].preset,
                     (long long)nn_parameter_count(model), (long long)counts[i].count);
        uint64_t bytes = 0; /* of the parameters alone, each rounded */
        for (int k = 0; k < nn_parameters(model).count; k++)
            bytes += rounded(tensor_numel(nn_parameters(model).items[k]));
        assert_int_equal(books()->live_by[MEM_PARAMETER], bytes);
        assert_int_equal(books()->live, bytes);
        leave(v);
    }
}

static void test_bert_with_pooler(void **state)
{
    (void)state;
    static const int64_t counts[] = {109482240, 335141888};
    static const char *const names[] = {"bert-base", "bert-large"};
    for (int i = 0; i < 2; i++) {
        ModelPreset preset = *nn_preset(names[i]);
        preset.config.bert.pooler = 1;
        Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
        assert_int_equal(nn_parameter_count(nn_model(&preset)), counts[i]);
        leave(v);
    }
}

static void test_presets(void **state)
{
    (void)state;
    assert_null(nn_preset("no-such-model"));
    assert_null(nn_preset_at(-1));
    int count = 0;
    for (const ModelPreset *p; (p = nn_preset_at(count)); count++) {
        assert_ptr_equal(nn_preset(p->name), p); /* names are unique */
        assert_true(strlen(p->about) > 3);
        assert_true(p->batch > 0);
        assert_int_equal(p->family == MODEL_MLP, p->seq == 0);
        assert_true(p->seq <= nn_preset_max_seq(p));
        assert_true(nn_preset_vocab(p) >= 10);
    }
    assert_true(count >= 21);
    assert_int_equal(nn_preset_max_seq(nn_preset("llama-tiny")), 4096);
    assert_int_equal(nn_preset_max_seq(nn_preset("gpt2")), 1024);
    assert_int_equal(nn_preset_max_seq(nn_preset("bert-base")), 512);
    assert_int_equal(nn_preset_vocab(nn_preset("mlp")), 10);
    assert_int_equal(nn_preset_vocab(nn_preset("llama-3.1-8b")), 128256);
    for (ModelFamily f = MODEL_MLP; f <= MODEL_LLAMA; f++) {
        ModelPreset p = small_preset(&(Setting){.family = f});
        nn_preset_set_attention(&p, ATTENTION_EAGER);
        nn_preset_set_dropout(&p, 0.5f);
        AttentionKind kinds[] = {[MODEL_MLP] = ATTENTION_EAGER,
                                 [MODEL_BERT] = p.config.bert.attention,
                                 [MODEL_GPT2] = p.config.gpt2.attention,
                                 [MODEL_LLAMA] = p.config.llama.attention};
        assert_int_equal(kinds[f], ATTENTION_EAGER);
        float dropouts[] = {[MODEL_MLP] = p.config.mlp.dropout,
                            [MODEL_BERT] = p.config.bert.dropout,
                            [MODEL_GPT2] = p.config.gpt2.dropout,
                            [MODEL_LLAMA] = 0.5f};
        assert_float_equal(dropouts[f], 0.5, 0);
    }
}

/* ---- Names ----------------------------------------------------------------------------------- */

static void test_names(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
    Tensor *k = nn_parameter(model, "model.layers.1.self_attn.k_proj.weight");
    assert_non_null(k);
    assert_string_equal(tensor_name(k), "model.layers.1.self_attn.k_proj.weight");
    assert_int_equal(tensor_dim(k, 0), 16); /* 2 of 4 heads */
    assert_null(nn_parameter(model, "model.layers.2.self_attn.k_proj.weight"));
    assert_null(nn_parameter(NULL, "weight"));
    assert_int_equal(nn_parameters(NULL).count, 0);
    assert_int_equal(nn_parameter_count(NULL), 0);
    assert_int_equal(nn_block_count(model), 2);
    assert_null(nn_block(model, 2));
    assert_null(nn_block(model, -1));
    TensorList whole = nn_parameters(model), block = nn_parameters(nn_block(model, 1));
    assert_int_equal(whole.count, 1 + 2 * 9 + 2);
    assert_int_equal(block.count, 9);
    assert_ptr_equal(nn_parameter(nn_block(model, 1), "self_attn.k_proj.weight"), k);
    assert_ptr_equal(nn_parameter(model, "model.layers.1.self_attn.k_proj.weight"), k); /* as before */
    assert_ptr_equal(nn_parameters(model).items, whole.items); /* valid while the model does not change */
    assert_string_equal(nn_class_name(model), "llama");
    assert_string_equal(nn_class_name(nn_block(model, 0)), "llama_block");
    assert_string_equal(nn_class_name(NULL), "");
}

/* Memory is charged to the module that made it. */
static void test_places(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_GPT2});
    assert_int_equal(live_at("transformer.h.1.attn", MEM_PARAMETER),
                     rounded(32 * 96) + rounded(96) + rounded(32 * 32) + rounded(32));
    assert_int_equal(live_at("transformer.wte", MEM_PARAMETER), rounded(SMALL_VOCAB * 32));
    Batch batch = small_batch(MODEL_GPT2, 0, 0, 2);
    tensor_backward(nn_loss(model, &batch));
    assert_int_equal(live_at("transformer.h.1.attn", MEM_GRADIENT),
                     live_at("transformer.h.1.attn", MEM_PARAMETER));
    assert_int_equal(memtrack_path(context_tracker(context_current())), 0);
    assert_non_null(nn_add(nn_block(model, 1), "more", nn_linear(4, 4, 0))); /* and back where we were */
    assert_int_equal(memtrack_path(context_tracker(context_current())), 0);
    assert_int_equal(live_at("transformer.h.1.more", MEM_PARAMETER), 64);
}

/* ---- Initial values -------------------------------------------------------------------------- */

typedef struct Moments {
    double mean, std, largest;
} Moments;

static Moments moments(Tensor *t)
{
    assert_non_null(t);
    Moments m = {0};
    const float *x = tensor_f32(t);
    int64_t n = tensor_numel(t);
    for (int64_t i = 0; i < n; i++) {
        m.mean += x[i] / (double)n;
        m.largest = fmax(m.largest, fabs(x[i]));
    }
    for (int64_t i = 0; i < n; i++)
        m.std += (x[i] - m.mean) * (x[i] - m.mean) / (double)n;
    m.std = sqrt(m.std);
    return m;
}

static void assert_normal(Tensor *t, double std)
{
    Moments m = moments(t);
    double sample = sqrt(1.0 / (double)tensor_numel(t));
    if (fabs(m.mean) > 4 * std * sample || fabs(m.std / std - 1) > 4 * sample || m.largest > 6 * std)
        fail_msg("%s: mean %g, std %g (not %g), largest %g", tensor_name(t), m.mean, m.std, std, m.largest);
}

static void assert_constant(Tensor *t, float value)
{
    for (int64_t i = 0; i < tensor_numel(t); i++)
        assert_float_equal(tensor_f32(t)[i], value, 0);
}

/* Weights normal(0, 0.02), norms 1, biases 0; GPT-2's projections into the residual stream by 1/sqrt(2
 * layers) smaller. */
static void test_initial_values(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++) {
        Module *model = small_model(&(Setting){.family = family, .layers = 3});
        TensorList list = nn_parameters(model);
        for (int i = 0; i < list.count; i++) {
            Tensor *t = list.items[i];
            const char *name = tensor_name(t);
            int residual = family == MODEL_GPT2 && strstr(name, "c_proj.weight");
            if (tensor_shape(t).ndim == 2)
                assert_normal(t, residual ? 0.02 / sqrt(6) : 0.02);
            else
                assert_constant(t, strstr(name, "weight") ? 1 : 0);
        }
        module_free(model);
    }
    Module *linear = nn_linear(100, 300, 1);
    Moments m = moments(nn_parameter(linear, "weight"));
    assert_true(m.largest <= 0.1 && m.largest > 0.0995 && fabs(m.std - 0.1 / sqrt(3)) < 0.001);
    m = moments(nn_parameter(linear, "bias"));
    assert_true(m.largest <= 0.1 && m.largest > 0.09);
    assert_normal(nn_parameter(nn_embedding(50, 60), "weight"), 1);
    Module *norm = nn_layer_norm(7, 0);
    assert_constant(nn_parameter(norm, "weight"), 1);
    assert_constant(nn_parameter(norm, "bias"), 0);
    assert_null(nn_parameter(nn_rms_norm(7, 0), "bias"));
    assert_null(nn_parameter(nn_linear(3, 4, 0), "bias"));
}

static void test_seed_decides(void **state)
{
    (void)state;
    float first[3][4];
    for (int i = 0; i < 3; i++) {
        Visit v = visit(&(ContextOptions){.threads = 1 + i % 2, .seed = i == 2 ? 8 : 7});
        Module *model = small_model(&(Setting){.family = MODEL_BERT});
        memcpy(first[i], tensor_f32(nn_parameters(model).items[5]), sizeof first[i]);
        leave(v);
    }
    assert_memory_equal(first[0], first[1], sizeof first[0]);
    assert_memory_not_equal(first[0], first[2], sizeof first[0]);
}

/* ---- Train and eval -------------------------------------------------------------------------- */

static void test_train_and_eval(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_GPT2, .dropout = 0.5f});
    Module *plain = small_model(&(Setting){.family = MODEL_GPT2});
    for (int i = 0; i < nn_parameters(model).count; i++)
        memcpy(tensor_f32(nn_parameters(plain).items[i]), tensor_f32(nn_parameters(model).items[i]),
               (size_t)tensor_numel(nn_parameters(plain).items[i]) * sizeof(float));
    Batch batch = small_batch(MODEL_GPT2, 0, 0, 2);
    assert_true(nn_is_training(model) && nn_is_training(nn_block(model, 1)));
    tensor_no_grad_begin();
    Tensor *dropped = nn_forward(model, NULL, &batch), *again = nn_forward(model, NULL, &batch);
    nn_eval(model);
    assert_false(nn_is_training(model) || nn_is_training(nn_block(model, 1)));
    Tensor *quiet = nn_forward(model, NULL, &batch), *expected = nn_forward(plain, NULL, &batch);
    nn_train(model);
    assert_true(nn_is_training(nn_block(model, 1)));
    Tensor *last = nn_forward(model, NULL, &batch);
    tensor_no_grad_end();
    size_t bytes = (size_t)tensor_numel(quiet) * sizeof(float);
    assert_memory_equal(tensor_f32(quiet), tensor_f32(expected), bytes);
    assert_memory_not_equal(tensor_f32(dropped), tensor_f32(quiet), bytes);
    assert_memory_equal(tensor_f32(dropped), tensor_f32(again), bytes); /* one step, one mask */
    assert_memory_equal(tensor_f32(dropped), tensor_f32(last), bytes);
    nn_train(NULL);
    nn_eval(NULL);
    assert_false(nn_is_training(NULL));
}

/* ---- Sequential, and modules of one's own ---------------------------------------------------- */

static void test_sequential(void **state)
{
    (void)state;
    Module *chain = nn_sequential();
    nn_append(chain, nn_linear(5, 7, 1));
    nn_append(chain, nn_activation(TENSOR_GELU));
    nn_append(chain, nn_dropout(0));
    nn_append(chain, nn_layer_norm(7, 0));
    nn_append(chain, nn_linear_act(7, 3, 0, TENSOR_RELU));
    assert_non_null(nn_parameter(chain, "0.weight"));
    assert_non_null(nn_parameter(chain, "3.bias"));
    assert_non_null(nn_parameter(chain, "4.weight"));
    assert_int_equal(nn_parameters(chain).count, 5);
    Tensor *x = leaf(SHAPE(2, 5), 1, 1);
    Tensor *h = tensor_linear(x, nn_parameter(chain, "0.weight"), nn_parameter(chain, "0.bias"), TENSOR_GELU);
    h = tensor_layer_norm(h, nn_parameter(chain, "3.weight"), nn_parameter(chain, "3.bias"), 1e-5f);
    Tensor *expected = tensor_linear(h, nn_parameter(chain, "4.weight"), NULL, TENSOR_RELU);
    Tensor *y = nn_forward(chain, x, NULL);
    assert_true(difference(tensor_f32(expected), tensor_f32(y), 6) < 1e-6);
    assert_non_null(tensor_f32(x)); /* the caller's own tensor stays */
    nn_append(chain, nn_embedding(2, 2));
    assert_int_equal(nn_parameters(chain).count, 6); /* the list follows */
    assert_null(nn_append(chain, NULL));
    assert_null(nn_append(NULL, NULL));
    nn_forward(chain, leaf(SHAPE(2, 4), 1, 1), NULL);
    assert_error(ERROR_SHAPE, "at module '0' (linear)"); /* a child without a name of its own */
    nn_forward(chain, x, NULL);
    assert_error(ERROR_ARGUMENT, "at module '5' (embedding)");
    assert_ptr_equal(nn_forward(nn_sequential(), x, NULL), x);
    assert_null(nn_forward(NULL, x, NULL));
    module_free(NULL);
}

typedef struct Gate {
    Module *linear;
    Tensor *weight;
    int calls;
} Gate;

static Tensor *gate_forward(Module *module, Tensor *x, const Batch *batch)
{
    Gate *self = nn_state(module);
    (void)batch;
    self->calls++;
    return tensor_mul(nn_forward(self->linear, x, batch), self->weight);
}

static const ModuleClass gate_class = {"gate", sizeof(Gate), gate_forward};

static Module *gate(void)
{
    Module *module = nn_module(&gate_class);
    Gate *self = nn_state(module);
    if (!self)
        return NULL;
    self->linear = nn_add(module, "inner", nn_linear(4, 4, 0));
    self->weight = nn_add_parameter(module, "scale", SHAPE(2, 4));
    tensor_fill(self->weight, 3);
    return module;
}

static void test_own_module(void **state)
{
    (void)state;
    Module *root = nn_sequential();
    Module *own = nn_append(root, gate());
    assert_string_equal(nn_class_name(own), "gate");
    nn_mark_block(root, own);
    nn_set_checkpoint(nn_block(root, 0), 1);
    assert_non_null(nn_parameter(root, "0.scale"));
    assert_non_null(nn_parameter(root, "0.inner.weight"));
    Tensor *x = leaf(SHAPE(2, 4), 1, 1), *y = tensor_keep(nn_forward(root, x, NULL));
    assert_int_equal(tensor_backward(tensor_sum(y)), 0);
    assert_int_equal(((Gate *)nn_state(own))->calls, 2);
    for (int i = 0; i < 8; i++) /* y = linear * scale, scale 3: its gradient is the linear layer's output */
        assert_float_equal(tensor_f32(y)[i], 3 * grad_f32(nn_parameter(root, "0.scale"))[i], 1e-5);
    assert_null(nn_add_parameter(NULL, "x", SHAPE(1)));
    assert_null(nn_add_parameter(own, "bad", SHAPE(0)));
    assert_error(ERROR_SHAPE, "0");
    assert_null(nn_state(NULL));
}

/* A module that stays in its scope goes with it; one in a parent goes with the parent. */
static void test_ownership(void **state)
{
    (void)state;
    uint64_t live = memtrack_process_live();
    int scope = tensor_scope_begin();
    Module *chain = nn_sequential();
    nn_append(chain, nn_linear(8, 8, 1));
    nn_linear(8, 8, 1); /* never added */
    assert_true(books()->live > 0);
    tensor_scope_end(scope);
    assert_int_equal(books()->live, 0);
    scope = tensor_scope_begin();
    Module *model = small_model(&(Setting){.family = MODEL_BERT});
    nn_parameters(model);
    module_free(model);
    assert_int_equal(books()->live, 0);
    tensor_scope_end(scope);
    assert_true(memtrack_process_live() < live + 20000); /* the places' names stay */
}

/* Two parents would both free it. */
static void test_one_parent(void **state)
{
    (void)state;
    int scope = tensor_scope_begin();
    Module *a = nn_sequential(), *b = nn_sequential(), *shared = nn_append(a, nn_linear(8, 8, 1));
    assert_null(nn_append(b, shared));
    assert_error(ERROR_ARGUMENT, "linear", "one parent");
    assert_null(nn_append(a, a));
    assert_error(ERROR_ARGUMENT, "sequential", "one parent");
    tensor_scope_end(scope);
    assert_int_equal(books()->live, 0);
}

/* ---- What models refuse ---------------------------------------------------------------------- */

#define assert_no_model(call, ...)                                                                           \
    do {                                                                                                     \
        int scope_ = tensor_scope_begin();                                                                   \
        assert_null(call);                                                                                   \
        assert_error(ERROR_ARGUMENT, __VA_ARGS__);                                                           \
        tensor_scope_end(scope_);                                                                            \
        assert_int_equal(books()->live, 0);                                                                  \
    } while (0)

#define LLAMA(...)                                                                                           \
    nn_llama(&(LlamaConfig){.vocab = 9, .dim = 12, .layers = 1, .heads = 3, .hidden = 8, __VA_ARGS__})
#define GPT2(...) nn_gpt2(&(Gpt2Config){.vocab = 9, .dim = 12, .layers = 1, .heads = 3, __VA_ARGS__})
#define BERT(...) nn_bert(&(BertConfig){.vocab = 9, .dim = 12, .layers = 1, .heads = 3, __VA_ARGS__})
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"

static void test_llama_refuses(void **state)
{
    (void)state;
    assert_no_model(LLAMA(.vocab = 0), "llama", "vocab", "0");
    assert_no_model(LLAMA(.dim = -12), "llama", "dim", "-12");
    assert_no_model(LLAMA(.layers = 0), "llama", "layers");
    assert_no_model(LLAMA(.hidden = INT_MIN), "llama", "hidden");
    assert_no_model(LLAMA(.heads = 0), "llama", "heads", "0");
    assert_no_model(LLAMA(.heads = 5), "llama", "5 heads", "width 12");
    assert_no_model(LLAMA(.kv_heads = 2), "llama", "2 key-value heads", "3 heads");
    assert_no_model(LLAMA(.kv_heads = -1), "llama", "kv_heads", "-1");
    assert_no_model(LLAMA(.heads = 4), "llama", "even", "3");
    assert_no_model(LLAMA(.head_dim = 5), "llama", "even", "5");
    assert_no_model(LLAMA(.head_dim = -4), "llama", "head_dim", "-4");
    assert_no_model(LLAMA(.head_dim = INT_MAX - 1), "llama", "head");
    assert_no_model(LLAMA(.max_seq = -1), "llama", "max_seq", "-1");
}

static void test_others_refuse(void **state)
{
    (void)state;
    assert_no_model(GPT2(.heads = 5), "gpt2", "5 heads", "width 12");
    assert_no_model(GPT2(.vocab = -1), "gpt2", "vocab", "-1");
    assert_no_model(GPT2(.ffn = -1), "gpt2", "ffn", "-1");
    assert_no_model(GPT2(.max_seq = -1), "gpt2", "max_seq", "-1");
    assert_no_model(GPT2(.layers = 0), "gpt2", "layers");
    assert_no_model(GPT2(.dropout = 1), "dropout", "1");
    assert_no_model(GPT2(.dropout = -0.1f), "dropout", "-0.1");
    assert_no_model(GPT2(.dim = INT_MAX, .heads = 1), "gpt2", "ffn");
    assert_no_model(BERT(.heads = -3), "bert", "heads", "-3");
    assert_no_model(BERT(.dim = 0), "bert", "dim");
    assert_no_model(BERT(.types = -2), "bert", "types", "-2");
    assert_no_model(BERT(.max_seq = -512), "bert", "max_seq", "-512");
    assert_no_model(BERT(.dropout = 2), "dropout", "2");
    assert_no_model(BERT(.dim = INT_MAX, .heads = 1), "bert", "ffn");
    assert_no_model(nn_mlp(&(MlpConfig){.sizes = {5}}), "mlp", "there are 1");
    assert_no_model(nn_mlp(&(MlpConfig){.dropout = 0}), "mlp", "there are 0");
    assert_no_model(nn_mlp(&(MlpConfig){.sizes = {5, -3, 2}}), "mlp", "-3");
    assert_no_model(nn_mlp(&(MlpConfig){.sizes = {5, 3, 2}, .dropout = 1}), "dropout");
    assert_no_model(nn_mlp(&(MlpConfig){.sizes = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}), "mlp",
                    "16");
}
#pragma GCC diagnostic pop

static void test_layers_refuse(void **state)
{
    (void)state;
    assert_no_model(nn_linear(0, 5, 1), "linear", "in", "0");
    assert_no_model(nn_linear(5, -1, 1), "linear", "out", "-1");
    assert_no_model(nn_linear(5, (int64_t)INT_MAX + 1, 1), "linear", "out", "2147483648");
    assert_no_model(nn_embedding(0, 5), "embedding", "vocab");
    assert_no_model(nn_embedding(5, 0), "embedding", "dim");
    assert_no_model(nn_layer_norm(0, 0), "layer_norm", "dim");
    assert_no_model(nn_rms_norm(-1, 0), "rms_norm", "dim");
    assert_no_model(nn_dropout(1), "dropout", "1");
    assert_no_model(nn_dropout(NAN), "dropout");
    assert_no_model(nn_swiglu(0, 4), "linear", "in");
    assert_no_model(nn_attention(NULL), "attention", "NULL");
    assert_no_model(nn_mlp(NULL), "mlp", "NULL");
    assert_no_model(nn_bert(NULL), "bert", "NULL");
    assert_no_model(nn_gpt2(NULL), "gpt2", "NULL");
    assert_no_model(nn_llama(NULL), "llama", "NULL");
    assert_no_model(nn_llama_block(NULL), "llama block", "NULL");
    assert_no_model(nn_model(nn_preset("no such")), "model", "NULL");
    AttentionConfig c = {.style = ATTENTION_LLAMA, .dim = 12, .heads = 5};
    assert_no_model(nn_attention(&c), "attention", "5 heads", "12");
    c = (AttentionConfig){.style = ATTENTION_LLAMA, .dim = 12, .heads = 3, .kv_heads = 2, .head_dim = 4};
    assert_no_model(nn_attention(&c), "attention", "2 key-value heads");
    c = (AttentionConfig){.style = ATTENTION_LLAMA, .dim = 12, .heads = 3, .head_dim = -4};
    assert_no_model(nn_attention(&c), "attention", "head_dim", "-4");
    c = (AttentionConfig){.style = ATTENTION_BERT, .dim = 0, .heads = 3};
    assert_no_model(nn_attention(&c), "attention", "dim");
    c = (AttentionConfig){.style = ATTENTION_LLAMA, .dim = 12, .heads = 4};
    assert_no_model(nn_attention(&c), "attention", "even", "3"); /* no rotary pairs in a head of 3 */
}

static void test_batches_refused(void **state)
{
    (void)state;
    Batch empty = {.labels_total = 1, .labels = integers(SHAPE(1), 1, 2)};
    for (ModelFamily f = MODEL_MLP; f <= MODEL_LLAMA; f++) {
        Module *model = small_model(&(Setting){.family = f});
        const char *says = f == MODEL_MLP ? "features" : "token ids";
        assert_null(nn_loss(model, &empty));
        assert_error(ERROR_DATA, nn_family(f)->name, says);
        assert_null(nn_forward(model, NULL, NULL));
        assert_error(ERROR_DATA, nn_family(f)->name, says);
        if (f == MODEL_MLP)
            continue;
        Batch batch = {
            .ids = integers(SHAPE(1, 25), 1, 9), .labels = integers(SHAPE(1, 25), 1, 9), .labels_total = 25};
        assert_null(nn_loss(model, &batch));
        assert_error(ERROR_SHAPE, "sequence of 25", "24");
        batch = (Batch){
            .ids = integers(SHAPE(1, 24), 1, 9), .labels = integers(SHAPE(1, 24), 1, 9), .labels_total = 24};
        assert_non_null(nn_loss(model, &batch));
        tensor_i32(batch.ids)[3] = SMALL_VOCAB;
        assert_null(nn_loss(model, &batch));
        assert_error(ERROR_INDEX, "embedding", "element 3 is 40");
        batch = (Batch){.ids = values(SHAPE(1, 24), 1, 9), .labels = batch.labels, .labels_total = 24};
        assert_null(nn_loss(model, &batch));
        assert_error(ERROR_ARGUMENT, "embedding", "i32");
    }
    assert_null(nn_loss(NULL, &empty));
    assert_fine();
}

/* Blocks stand alone, keep the shape, and give every parameter a gradient. */
static void test_blocks_alone(void **state)
{
    (void)state;
    Module *blocks[] = {nn_llama_block(&(LlamaConfig){.dim = 12, .heads = 3, .kv_heads = 1, .hidden = 20}),
                        nn_gpt2_block(&(Gpt2Config){.dim = 12, .heads = 3}),
                        nn_bert_block(&(BertConfig){.dim = 12, .heads = 3})};
    assert_fine();
    for (int i = 0; i < 3; i++) {
        Tensor *y = nn_forward(blocks[i], values(SHAPE(2, 5, 12), 1, 9), NULL);
        assert_int_equal(tensor_numel(y), 2 * 5 * 12);
        assert_int_equal(tensor_backward(tensor_sum(tensor_mul(y, values(SHAPE(2, 5, 12), 1, 10)))), 0);
        TensorList list = nn_parameters(blocks[i]);
        assert_true(list.count >= 9);
        for (int k = 0; k < list.count; k++)
            assert_true(tensor_has_grad(list.items[k]));
    }
    assert_null(nn_gpt2_block(&(Gpt2Config){.dim = 12, .heads = 5}));
    assert_error(ERROR_ARGUMENT, "5 heads");
}

/* Stretched without end, positions are all the same: a block's last row does not see the order of those
 * before it. Both q and k must be stretched for that. */
static void test_positions_stretch(void **state)
{
    (void)state;
    for (int stretched = 0; stretched < 2; stretched++) {
        ModelPreset p = small_preset(&(Setting){.family = MODEL_LLAMA, .layers = 1});
        if (stretched)
            p.config.llama.rope_scaling = (RopeScaling){.kind = ROPE_SCALING_LINEAR, .factor = 1e12f};
        Module *model = nn_model(&p);
        TensorList list = nn_parameters(model);
        for (int i = 0; i < list.count; i++)
            fill_values(tensor_f32(list.items[i]), tensor_numel(list.items[i]), (uint32_t)i, 1, 0);
        const float *last[2];
        for (int order = 0; order < 2; order++) {
            const int32_t ids[] = {order ? 9 : 3, 5, order ? 3 : 9, 7};
            Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(1, 4), MEM_INPUT, ids)};
            last[order] = tensor_f32(nn_forward(model, NULL, &batch)) + 3 * SMALL_VOCAB;
        }
        double d = difference(last[0], last[1], SMALL_VOCAB);
        assert_true(stretched ? d < 1e-5 : d > 1e-3);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_parameter_counts), TEST(test_bert_with_pooler),
        TEST(test_presets),          TEST(test_names),
        TEST(test_places),           TEST(test_initial_values),
        TEST(test_seed_decides),     TEST(test_train_and_eval),
        TEST(test_sequential),       TEST(test_own_module),
        TEST(test_ownership),        TEST(test_llama_refuses),
        TEST(test_others_refuse),    TEST(test_layers_refuse),
        TEST(test_batches_refused),  TEST(test_blocks_alone),
        TEST(test_one_parent),       TEST(test_positions_stretch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
