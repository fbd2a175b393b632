/* Precision as a policy of the context: which type each tensor has in each convention, what masters hold,
 * what the states take, how long autocast's copies live, and how far 16-bit models are from fp32. */
#include "../kernels/kernels.h"
#include "../tensor/tensor_.h"
#include "count.h"
#include "lora_support.h"

#define CONVENTIONS 7 /* of the CPU */

static void use(const char *name)
{
    assert_int_equal(tensor_set_precision(name ? precision_by_name(name) : NULL), 0);
}

/* ---- The policy ------------------------------------------------------------------------------ */

static void test_conventions(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int weights, master, gradients, states, activations; /* bytes of an element */
    } rows[] = {
        {"fp32", 4, 0, 4, 4, 4},          {"tf32", 4, 0, 4, 4, 4},          {"bf16", 2, 0, 2, 2, 2},
        {"bf16-states32", 2, 0, 2, 4, 2}, {"bf16-mixed", 2, 4, 2, 4, 2},    {"bf16-autocast", 4, 0, 4, 4, 2},
        {"fp16-mixed", 2, 4, 2, 4, 2},    {"fp16-autocast", 4, 0, 4, 4, 2},
    };
    for (int i = 0; i < (int)COUNT(rows); i++) {
        const Precision *p = precision_at(i);
        assert_string_equal(p->name, rows[i].name);
        assert_ptr_equal(precision_by_name(rows[i].name), p);
        assert_int_equal(dtype_bytes(p->weights, 1, 1), rows[i].weights);
        assert_int_equal(dtype_bytes(p->gradients, 1, 1), rows[i].gradients);
        assert_int_equal(dtype_bytes(p->states, 1, 1), rows[i].states);
        assert_int_equal(dtype_bytes(p->activations, 1, 1), rows[i].activations);
        assert_int_equal(4 * p->master, rows[i].master);
        assert_int_equal(p->stochastic, p->weights == DTYPE_BF16 && !p->master);
        assert_int_equal(p->tf32, !strcmp(p->name, "tf32"));
        if (p->tf32)
            continue;
        use(rows[i].name);
        assert_string_equal(tensor_precision()->name, rows[i].name);
    }
    assert_null(precision_at(COUNT(rows)));
    assert_null(precision_at(-1));
    use(NULL);
    assert_string_equal(tensor_precision()->name, "fp32");
    assert_null(precision_by_name("bf17"));
    assert_error(ERROR_ARGUMENT, "'bf17'", "bf16-mixed");
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        Precision p;
        const char *word;
    } rows[] = {
        {{.weights = DTYPE_F16, .gradients = DTYPE_F16, .activations = DTYPE_F16}, "master"},
        {{.weights = DTYPE_INT8}, "f32, bf16 or f16"},
        {{.activations = DTYPE_NF4}, "f32, bf16 or f16"},
        {{.gradients = DTYPE_BF16}, "f32 weights have f32 gradients"},
        {{.master = 1}, "no master"},
        {{.weights = DTYPE_BF16, .gradients = DTYPE_F16, .activations = DTYPE_BF16}, "gradients"},
        {{.weights = DTYPE_BF16, .states = DTYPE_F16, .activations = DTYPE_BF16}, "states"},
        {{.weights = DTYPE_BF16}, "activations"},
        {{.activations = DTYPE_BF16, .tf32 = 1}, "goes with f32 activations"},
        {{.tf32 = 1}, "on the CPU fp32 trains in the same memory"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_int_equal(tensor_set_precision(&rows[i].p), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "tensor_set_precision", rows[i].word);
    }
    assert_string_equal(tensor_precision()->name, "fp32");
}

/* ---- Parameters ------------------------------------------------------------------------------ */

static uint64_t rounded_up(uint64_t bytes)
{
    return (bytes + MEMTRACK_ALIGN - 1) / MEMTRACK_ALIGN * MEMTRACK_ALIGN;
}

static void test_parameters(void **state)
{
    (void)state;
    for (int i = 0; i < CONVENTIONS * FAMILIES; i++) {
        const Precision *p = cpu_precision(i / FAMILIES);
        const MemStats *s = memtrack_stats(context_ledger(context_current()));
        tensor_set_precision(p);
        int scope = tensor_scope_begin();
        TensorList list = nn_parameters(small_model(&(Setting){.family = (ModelFamily)(i % FAMILIES)}));
        uint64_t weights = 0, masters = 0;
        for (int k = 0; k < list.count; k++) {
            const Tensor *t = list.items[k];
            assert_int_equal(t->dtype, p->weights);
            assert_int_equal(gradient_type(t), p->gradients);
            assert_true(t->requires_grad);
            assert_int_equal(t->master != NULL, p->master);
            weights += rounded_up(dtype_bytes(p->weights, 1, tensor_numel(t)));
            masters += rounded_up(4 * (uint64_t)tensor_numel(t));
        }
        assert_int_equal(s->live_by[MEM_PARAMETER], weights);
        assert_int_equal(s->live_by[MEM_MASTER], p->master ? masters : 0);
        tensor_scope_end(scope);
        assert_int_equal(s->live, 0);
    }
}

/* What a master and its copy hold, whoever wrote them. */
static void check_master(Tensor *t, const float *expected)
{
    int64_t n = tensor_numel(t);
    float *master = storage_f32(t->master), *read = tensor_f32(tensor_zeros(DTYPE_F32, SHAPE(n), MEM_INPUT));
    const uint16_t *copy = t->storage->block.data;
    tensor_decode_(t, 0, n, read);
    for (int64_t i = 0; i < n; i++) {
        StoredArray one = {&copy[i], t->dtype, 1, 1};
        float value;
        t->item.context->kernels->decode(&one, 0, 1, &value, &t->item.context->run);
        assert_true(master[i] == expected[i] && read[i] == expected[i]);
        assert_true(value == as_stored(t->dtype, expected[i]));
    }
}

static int give(void *user, int64_t first, int64_t count, float *values)
{
    memcpy(values, (const float *)user + first, (size_t)count * sizeof *values);
    return 0;
}

static void test_masters(void **state)
{
    (void)state;
    static const char *const mixed[] = {"bf16-mixed", "fp16-mixed"};
    for (size_t i = 0; i < COUNT(mixed); i++) {
        use(mixed[i]);
        int scope = tensor_scope_begin();
        const Precision *p = tensor_precision();
        float expected[5 * 7];
        fill_values(expected, 35, 4, 1, 0.3);
        Tensor *t = tensor_parameter_(p->weights, SHAPE(5, 7), 0);
        assert_int_equal(tensor_store_(t, give, expected), 0);
        check_master(t, expected);
        uint16_t bits[35];
        tensor_read(t, 0, sizeof bits, bits);
        tensor_write(t, 11 * 2, 3 * 2, bits + 20); /* some elements: the others keep what they have */
        for (int k = 0; k < 3; k++)
            expected[11 + k] = as_stored(t->dtype, expected[20 + k]);
        check_master(t, expected);
        tensor_read(t, 0, sizeof bits, bits);
        tensor_write(t, 0, sizeof bits, bits); /* what is written in 16 bit is all that is known then */
        for (int k = 0; k < 35; k++)
            expected[k] = as_stored(t->dtype, expected[k]);
        check_master(t, expected);
        tensor_set_requires_grad(t, 0); /* frozen parameters have none */
        assert_null(t->master);
        assert_int_equal(memtrack_stats(context_ledger(context_current()))->live_by[MEM_MASTER], 0);
        tensor_set_requires_grad(t, 1);
        check_master(t, expected);
        tensor_free(t);
        Tensor *frozen = tensor_parameter_(p->weights, SHAPE(5, 7), 1);
        assert_null(frozen->master);
        tensor_free(frozen);
        tensor_scope_end(scope);
    }
    use("fp16-mixed");
    float large[2] = {1, 1e6f};
    Tensor *t = tensor_parameter_(DTYPE_F16, SHAPE(2), 0);
    assert_int_equal(tensor_store_(t, give, large), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "f16 cannot hold 1e+06", "element 1");
    tensor_free(t);
}

/* Adapters are f32 whatever the precision, beside frozen weights of nn_set_weights' type. */
static void test_adapters_stay(void **state)
{
    (void)state;
    for (int i = 0; i < CONVENTIONS; i++) {
        tensor_set_precision(cpu_precision(i));
        int scope = tensor_scope_begin();
        nn_set_weights(&(Weights){.dtype = DTYPE_BF16, .frozen = 1});
        Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
        nn_set_weights(NULL);
        assert_int_equal(nn_add_lora(model, &(Lora){.rank = 2}), 14);
        TensorList list = nn_parameters(model);
        for (int k = 0; k < list.count; k++) {
            const Tensor *t = list.items[k];
            int adapter = strstr(tensor_name(t), "lora_") != NULL;
            assert_int_equal(t->dtype, adapter ? DTYPE_F32 : DTYPE_BF16);
            assert_int_equal(t->requires_grad, adapter);
            assert_null(t->master);
            if (adapter)
                assert_int_equal(gradient_type(t), DTYPE_F32);
        }
        tensor_scope_end(scope);
    }
}

/* ---- Training -------------------------------------------------------------------------------- */

/* Everything of a parameter that has an AdamW step: exact, block by block. */
static void test_bytes_a_parameter(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int grad32, bytes;
    } rows[] = {
        {"fp32", 0, 16},       {"bf16", 0, 8},           {"bf16-states32", 0, 12}, {"bf16-mixed", 0, 16},
        {"bf16-mixed", 1, 18}, {"bf16-autocast", 0, 16}, {"fp16-mixed", 0, 16},    {"fp16-mixed", 1, 18},
    };
    for (size_t i = 0; i < COUNT(rows) * FAMILIES; i++) {
        Precision p = *precision_by_name(rows[i / FAMILIES].name);
        const MemStats *s = memtrack_stats(context_ledger(context_current()));
        if (rows[i / FAMILIES].grad32)
            p.gradients = DTYPE_F32;
        tensor_set_precision(&p);
        int scope = tensor_scope_begin();
        Module *model = small_model(&(Setting){.family = (ModelFamily)(i % FAMILIES)});
        TensorList list = nn_parameters(model);
        Optimizer *optimizer = optim_adamw(list, NULL);
        int step = tensor_scope_begin();
        Batch batch = small_batch((ModelFamily)(i % FAMILIES), 0, 0, 4);
        tensor_backward(nn_loss(model, &batch));
        assert_fine();
        tensor_scope_end(step);
        uint64_t expected = 0, n = 0;
        for (int k = 0; k < list.count; k++) {
            uint64_t count = (uint64_t)tensor_numel(list.items[k]);
            uint64_t weight = rounded_up(dtype_bytes(p.weights, 1, (int64_t)count)),
                     gradient = rounded_up(dtype_bytes(p.gradients, 1, (int64_t)count)),
                     states = rounded_up(dtype_bytes(p.weights ? p.states : DTYPE_F32, 1, (int64_t)count));
            expected += weight + gradient + 2 * states + (p.master ? rounded_up(4 * count) : 0);
            n += count;
        }
        assert_int_equal(s->live, expected);
        assert_true(expected >= n * (uint64_t)rows[i / FAMILIES].bytes);
        assert_true(expected < n * (uint64_t)rows[i / FAMILIES].bytes + 5 * 64 * (uint64_t)list.count);
        assert_int_equal(optim_step(optimizer), 0);
        tensor_scope_end(scope);
        assert_int_equal(s->live, 0);
    }
}

/* A linear layer's 16-bit copy is there from its forward to its backward; without a gradient only meanwhile.
 */
static void test_autocast_copies(void **state)
{
    (void)state;
    const MemStats *s = memtrack_stats(context_ledger(context_current()));
    use("bf16-autocast");
    Module *layer = nn_linear(48, 32, 0);
    Tensor *x = tensor_cast(leaf(SHAPE(5, 48), 3, 1), DTYPE_BF16);
    uint64_t before = s->live, copy = 2 * 48 * 32, y = rounded_up(2 * 5 * 32);
    tensor_no_grad_begin();
    int scope = tensor_scope_begin();
    nn_forward(layer, x, NULL);
    assert_int_equal(s->live, before + y);
    tensor_scope_end(scope);
    tensor_no_grad_end();
    Tensor *out = nn_forward(layer, x, NULL);
    assert_int_equal(tensor_dtype(out), DTYPE_BF16);
    assert_int_equal(s->live, before + y + copy);
    tensor_backward(tensor_sum(tensor_cast(out, DTYPE_F32)));
    assert_fine();
    const Tensor *gradient = tensor_grad(nn_parameters(layer).items[0]);
    assert_int_equal(tensor_dtype(gradient), DTYPE_F32);
    assert_int_equal(s->live_by[MEM_GRADIENT], 4 * 48 * 32);
    assert_int_equal(s->live_by[MEM_ACTIVATION], 0);
}

/* An overflow of an activation: an error that says which operation made it and where, not a step that is
 * skipped. */
static void test_forward_overflow(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_LLAMA, MODEL_GPT2, MODEL_BERT};
    static const char *const weights[] = {"model.layers.0.mlp.up_proj.weight",
                                          "transformer.h.0.mlp.c_fc.weight",
                                          "bert.encoder.layer.0.intermediate.dense.weight"};
    static const char *const places[] = {"layers.0", "h.0", "layer.0"};
    use("fp16-mixed");
    for (size_t i = 0; i < COUNT(families); i++) {
        int scope = tensor_scope_begin();
        Module *model = small_model(&(Setting){.family = families[i]});
        Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
        optim_set_loss_scale(optimizer, 0);
        Tensor *weight = nn_parameter(model, weights[i]);
        assert_non_null(weight);
        tensor_fill_uniform(weight, -60000, 60000);
        Batch batch = small_batch(families[i], 0, 0, 2);
        tensor_backward(nn_loss(model, &batch));
        assert_error(ERROR_NONFINITE, "the first value that is not finite was made by", places[i]);
        assert_int_equal(optim_skipped(optimizer), 0);
        tensor_scope_end(scope);
    }
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static void train_a_step(const Precision *precision, ModelFamily family)
{
    tensor_set_precision(precision);
    Module *model = small_model(&(Setting){.family = family, .layers = 1});
    Optimizer *optimizer = error_code() ? NULL : optim_adamw8bit(nn_parameters(model), NULL);
    if (precision->activations == DTYPE_F16)
        optim_set_loss_scale(optimizer, 0);
    for (int micro = 0; micro < 2 && !error_code(); micro++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(family, 0, micro, 1);
        Tensor *loss = error_code() ? NULL : nn_loss(model, &batch);
        if (loss)
            tensor_backward(loss);
        tensor_scope_end(scope);
    }
    optim_step(optimizer);
}

/* Every allocation in turn, that of a master and of a copy included: an error, and nothing is left. */
static void test_no_memory(void **state)
{
    (void)state;
    for (int i = 1; i < CONVENTIONS; i++) {
        int n = 1;
        for (int passed = 0; !passed; n++) {
            Visit v = visit(&(ContextOptions){.threads = 1});
            memtrack_fail_nth((uint64_t)n);
            train_a_step(cpu_precision(i), (ModelFamily)(i % FAMILIES));
            passed = memtrack_fail_pending();
            memtrack_fail_nth(0);
            if (passed ? error_code() : error_code() != ERROR_HOST_MEMORY && error_code() != ERROR_MEMORY)
                fail_msg("%s, allocation %d: '%s'", cpu_precision(i)->name, n, error_message());
            error_clear();
            leave(v);
        }
        count_more(COUNTED_ALLOCATIONS, n - 1);
        assert_true(n > 50);
    }
}

/* ---- Against fp32 ---------------------------------------------------------------------------- */

typedef struct Result {
    double loss;
    TensorList list;
    float *gradient[64];
} Result;

static Result result_of(const char *family, const char *precision)
{
    Result result = {0};
    use(precision);
    Module *model = base_model(family);
    char which[32];
    snprintf(which, sizeof which, "%s_default", family);
    Safetensors *run = run_of(which);
    Batch batch = batch_of(run, is_causal(family));
    Tensor *loss = nn_loss(model, &batch);
    assert_fine();
    assert_int_equal(tensor_dtype(loss), DTYPE_F32);
    result.loss = (double)tensor_item(loss);
    tensor_backward(loss);
    assert_fine();
    result.list = nn_parameters(model);
    for (int i = 0; i < result.list.count; i++) {
        const Tensor *gradient = tensor_grad(result.list.items[i]);
        int64_t n = tensor_numel(gradient);
        result.gradient[i] = tensor_f32(tensor_zeros(DTYPE_F32, SHAPE(n), MEM_INPUT));
        tensor_decode_(gradient, 0, n, result.gradient[i]);
    }
    safetensors_close(run);
    use(NULL);
    return result;
}

static double square(double x)
{
    return x * x;
}

/* PyTorch itself, on the same models and batch, is off by at most 8.6e-4 in the loss, 1.2e-2 in all gradients
 * and 2.2e-2 in one of them in bf16; 7e-4, 1.6e-3 and 2.8e-3 in fp16. Its loss of a bf16 BERT is off by
 * 1.9e-2: few rows count, and each has the rounding of its logits. */
static void check_against_fp32(const char *family, const char *precision)
{
    Result fp32 = result_of(family, "fp32"), half = result_of(family, precision);
    int bf16 = precision[0] == 'b';
    double off = 0, all = 0, scale = 0;
    double loss_off = !bf16 ? 1e-3 : strcmp(family, "bert") != 0 ? 2e-3 : 8e-3;
    if (!(fabs(half.loss - fp32.loss) <= loss_off))
        fail_msg("%s %s: loss %g, not %g", family, precision, half.loss, fp32.loss);
    for (int i = 0; i < fp32.list.count; i++) {
        int64_t n = tensor_numel(fp32.list.items[i]);
        double apart = 0, size = 0;
        for (int64_t k = 0; k < n; k++) {
            apart += square((double)half.gradient[i][k] - (double)fp32.gradient[i][k]);
            size += square((double)fp32.gradient[i][k]);
        }
        off += apart;
        all += size;
        scale = sqrt(size);
        if (scale > 1e-6 && !(sqrt(apart) <= (bf16 ? 4e-2 : 6e-3) * scale))
            fail_msg("%s %s: gradient of %s is off by %g of itself", family, precision,
                     tensor_name(fp32.list.items[i]), sqrt(apart) / scale);
    }
    if (!(sqrt(off) <= (bf16 ? 2e-2 : 3e-3) * sqrt(all)))
        fail_msg("%s %s: gradients are off by %g", family, precision, sqrt(off / all));
}

static void test_models(void **state)
{
    (void)state;
    static const char *const families[] = {"llama", "gpt2", "bert"};
    for (size_t f = 0; f < COUNT(families); f++)
        for (int i = 1; i < CONVENTIONS; i++) {
            int scope = tensor_scope_begin();
            check_against_fp32(families[f], cpu_precision(i)->name);
            tensor_scope_end(scope);
        }
}

/* ---- cast ------------------------------------------------------------------------------------ */

static void test_cast(void **state)
{
    (void)state;
    static const DType types[] = {DTYPE_BF16, DTYPE_F16};
    for (size_t i = 0; i < COUNT(types); i++) {
        Tensor *x = leaf(SHAPE(3, 7), 8, 2), *same = tensor_cast(x, DTYPE_F32);
        assert_ptr_equal(x, same);
        Tensor *half = tensor_cast(x, types[i]);
        assert_int_equal(tensor_dtype(half), types[i]);
        float values_of[21], back[21];
        tensor_decode_(half, 0, 21, values_of);
        for (int k = 0; k < 21; k++)
            assert_true(values_of[k] == as_stored(types[i], tensor_f32(x)[k]));
        Tensor *again = tensor_cast(half, DTYPE_F32);
        tensor_decode_(again, 0, 21, back);
        assert_memory_equal(back, values_of, sizeof back);
        tensor_backward(tensor_sum(tensor_scale(again, 3)));
        assert_fine();
        for (int k = 0; k < 21; k++)
            assert_true(tensor_f32(tensor_grad(x))[k] == 3);
    }
    assert_null(tensor_cast(leaf(SHAPE(2), 1, 1), DTYPE_INT8));
    assert_error(ERROR_ARGUMENT, "cast", "int8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_conventions),
        TEST(test_refused),
        TEST(test_parameters),
        TEST(test_masters),
        TEST(test_adapters_stay),
        TEST(test_bytes_a_parameter),
        TEST(test_autocast_copies),
        TEST(test_forward_overflow),
        TEST(test_no_memory),
        TEST(test_models),
        TEST(test_cast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
