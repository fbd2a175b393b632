/* Runs saved and resumed in every precision: weights, masters, states of every type, the loss scale and what
 * is rounded at random go on as if the run had never stopped, to the last bit. */
#include "resume_support.h"

#include <math.h>

#include "../base/half_.h"
#include "../base/quant_layout_.h"

static const struct {
    const char *precision, *optimizer;
    int wide, scaled; /* scaled: the loss, by a number, or dynamically (2) */
} cases[] = {
    {"fp32", "adamw", 0, 0},        {"fp32", "adamw8bit", 0, 2},       {"bf16", "adamw", 0, 0},
    {"bf16", "sgd-momentum", 0, 1}, {"bf16", "adam8bit", 0, 0},        {"bf16-states32", "rmsprop", 1, 0},
    {"bf16-mixed", "adamw", 0, 0},  {"bf16-mixed", "adamw8bit", 1, 0}, {"bf16-autocast", "adagrad", 0, 0},
    {"fp16-mixed", "adamw", 0, 2},  {"fp16-mixed", "sgd", 1, 1},       {"fp16-autocast", "adam", 0, 2},
};
enum { CASES = sizeof cases / sizeof *cases, STEPS = 6, CUT = 3 };

typedef struct Made {
    Visit visit;
    Module *model;
    Optimizer *optimizer;
    SavedRun run;
} Made;

static Made make(int i)
{
    Made m = {.visit = visit(&(ContextOptions){.threads = 1, .seed = 5})};
    Precision precision = *precision_by_name(cases[i].precision);
    if (cases[i].wide)
        precision.gradients = DTYPE_F32;
    assert_int_equal(tensor_set_precision(&precision), 0);
    m.model = nn_mlp(&(MlpConfig){.sizes = {65, 79, 3}}); /* 5135 elements in the first matrix */
    m.optimizer = optim_by_name(cases[i].optimizer, nn_parameters(m.model), 0.01f, 0);
    optim_set_schedule(m.optimizer, &(Schedule){.kind = SCHEDULE_LINEAR, .warmup = 1, .total = STEPS + 1});
    if (cases[i].scaled)
        optim_set_loss_scale(m.optimizer, cases[i].scaled == 2 ? 0 : 512);
    m.run = (SavedRun){.model = m.model, .optimizer = m.optimizer, .keep = 100};
    assert_fine();
    return m;
}

static void end(Made *m)
{
    leave(m->visit);
}

/* Gradients by formula, of their type; one that is infinite in the second step, where that is skipped. */
static void give_gradients(Made *m, int i, int step)
{
    TensorList list = optim_parameters(m->optimizer);
    for (int k = 0; k < list.count; k++) {
        Tensor *p = list.items[k];
        DType type = gradient_type(p);
        int64_t n = tensor_numel(p);
        gradient_set(p, storage_new(context_current(), (int64_t)dtype_bytes(type, 1, n), MEM_GRADIENT));
        for (int64_t j = 0; j < n; j++) {
            float value = value_at((uint32_t)(100 * step + k), (uint32_t)j, 0.1, 0);
            if (cases[i].scaled && step == 1 && k == 1 && j == 2)
                value = INFINITY;
            uint16_t half = type == DTYPE_F16 ? half_to_f16(value) : half_to_bf16(value);
            if (type == DTYPE_F32)
                storage_f32(p->grad)[j] = value;
            else
                ((uint16_t *)storage_data(p->grad))[j] = half;
        }
    }
}

static void train(Made *m, int i, int64_t to)
{
    while (optim_steps(m->optimizer) < to) {
        give_gradients(m, i, (int)optim_steps(m->optimizer));
        assert_int_equal(optim_step(m->optimizer), 0);
        optim_zero_grad(m->optimizer);
    }
}

static void assert_tensors(const Tensor *a, const Tensor *b)
{
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(a->storage->block.requested, b->storage->block.requested);
    assert_memory_equal(storage_data(a->storage), storage_data(b->storage), a->storage->block.requested);
    assert_int_equal(a->master != NULL, b->master != NULL);
    if (a->master)
        assert_memory_equal(storage_data(a->master), storage_data(b->master), a->master->block.requested);
}

static void assert_same(const Made *a, const Made *b)
{
    TensorList p = optim_parameters(a->optimizer), q = optim_parameters(b->optimizer);
    for (int i = 0; i < p.count; i++) {
        assert_tensors(p.items[i], q.items[i]);
        assert_int_equal(optim_updates(a->optimizer, i), optim_updates(b->optimizer, i));
        for (int k = 0; k < optim_state_arrays(a->optimizer); k++)
            assert_tensors(optim_state(a->optimizer, i, k), optim_state(b->optimizer, i, k));
    }
    LossScale x = optim_scaling(a->optimizer), y = optim_scaling(b->optimizer);
    assert_true(x.scale == y.scale && x.dynamic == y.dynamic && x.good == y.good && x.bad == y.bad &&
                x.skipped == y.skipped);
    assert_int_equal(optim_steps(a->optimizer), optim_steps(b->optimizer));
    assert_true(optim_lr(a->optimizer) == optim_lr(b->optimizer));
}

static void test_resume(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        Made whole = make(i);
        train(&whole, i, CUT);
        assert_int_equal(io_save_run(at("%d", i), &whole.run), 0);
        train(&whole, i, STEPS);
        assert_int_equal(optim_skipped(whole.optimizer), cases[i].scaled != 0);
        Made resumed = make(i);
        SavedRunFound found;
        uint64_t allocations = books()->allocations;
        io_load_run(at("%d", i), &resumed.run, &found);
        assert_fine();
        assert_int_equal(found.step, CUT);
        assert_int_equal(books()->allocations, allocations); /* nothing tracked */
        train(&resumed, i, STEPS);
        assert_same(&whole, &resumed);
        end(&resumed);
        end(&whole);
    }
}

/* What the files hold is what the tensors are: types, and the bytes that were announced. */
static void test_files(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        Made m = make(i);
        train(&m, i, 1);
        IoSize size = io_saved_run_size(m.model, m.optimizer);
        assert_int_equal(io_save_run(at("f%d", i), &m.run), 0);
        static const char *const names[] = {"model", "optimizer"};
        for (int k = 0; k < 2; k++) {
            size_t bytes;
            test_free(slurp(at("f%d/step-00000001/%s.safetensors", i, names[k]), &bytes));
            assert_int_equal(bytes, k ? size.optimizer : size.model);
        }
        Safetensors *file = safetensors_open(at("f%d/step-00000001/model.safetensors", i));
        const Tensor *p = nn_parameters(m.model).items[0];
        const SafetensorsEntry *entry = safetensors_find(file, tensor_name(p));
        assert_int_equal(entry->type,
                         p->dtype == DTYPE_F32 || p->master ? SAFETENSORS_F32 : SAFETENSORS_BF16);
        if (strstr(cases[i].optimizer, "8bit")) {
            char name[96];
            const Tensor *codes = optim_state(m.optimizer, 0, 0);
            file = safetensors_open(at("f%d/step-00000001/optimizer.safetensors", i));
            snprintf(name, sizeof name, "%s.exp_avg", tensor_name(p));
            entry = safetensors_find(file, name);
            assert_int_equal(entry->type, SAFETENSORS_U8);
            assert_int_equal(entry->ndim, 2);
            assert_memory_equal(entry->data, storage_data(codes->storage), (size_t)entry->numel);
            snprintf(name, sizeof name, "%s.exp_avg.absmax", tensor_name(p));
            entry = safetensors_find(file, name);
            assert_int_equal(entry->type, SAFETENSORS_F32);
            assert_int_equal(entry->numel, 21);
            uint64_t scales = quant_layout(DTYPE_DYNAMIC8, 1, 5135).scales;
            assert_memory_equal(entry->data, (const char *)storage_data(codes->storage) + scales, 84);
        }
        end(&m);
    }
}

/* A run of another kind is told from this one, and nothing is loaded. */
static void test_other_runs(void **state)
{
    static const struct {
        int saved, here;
        const char *text;
    } pairs[] = {
        {0, 2, "is not BF16"},
        {2, 0, "is not F32"},
        {1, 0, "is adamw, was adamw8bit"},
        {6, 7, "is adamw8bit, was adamw"},
        {9, 6, "loss scale is none, was dynamic"},
        {6, 9, "loss scale is dynamic, was none"},
    };
    (void)state;
    for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
        Made there = make(pairs[k].saved);
        train(&there, pairs[k].saved, 1);
        assert_int_equal(io_save_run(at("o%d", (int)k), &there.run), 0);
        end(&there);
        Made here = make(pairs[k].here);
        assert_int_equal(io_load_run(at("o%d", (int)k), &here.run, NULL), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, pairs[k].text);
        assert_int_equal(optim_updates(here.optimizer, 0), 0);
        end(&here);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_resume), TEST(test_files), TEST(test_other_runs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
