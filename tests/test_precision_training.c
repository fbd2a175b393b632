/* How the conventions train: the same small model, data and start in each. At a small learning rate an update
 * is less than half a step of bf16, and rounding to nearest loses it; a master keeps it, and stochastic
 * rounding keeps it on average. Micro-batches with f32 gradients are the larger batch. */
#include <math.h>

#include "../optim/optim.h"
#include "../tensor/tensor_.h"
#include "support.h"

enum { VOCAB = 64, SEQ = 32, BATCH = 8, STEPS = 250, LAST = 20 };

/* With the same start whenever it is made. */
static Module *small_llama(void)
{
    context_here()->random.fills = 0;
    return nn_model(&(ModelPreset){.name = "small",
                                   .family = MODEL_LLAMA,
                                   .config.llama = {.vocab = VOCAB,
                                                    .dim = 64,
                                                    .layers = 2,
                                                    .heads = 4,
                                                    .kv_heads = 4,
                                                    .hidden = 128,
                                                    .max_seq = 64}});
}

/* Tokens of a chain in which each has four successors; what comes next is the label. */
static Batch chain_batch(int step, int first, int count)
{
    int32_t ids[BATCH * SEQ], labels[BATCH * SEQ];
    for (int b = 0; b < count; b++) {
        uint32_t sample = hash32((uint32_t)(step * 100 + first + b) + 77u);
        int32_t token = (int32_t)(sample % VOCAB);
        for (int t = 0; t < SEQ; t++) {
            uint32_t which = hash32(sample + (uint32_t)t) % 4;
            ids[b * SEQ + t] = token;
            token = (int32_t)(hash32((uint32_t)token * 4 + which) % VOCAB);
            labels[b * SEQ + t] = token;
        }
    }
    Batch batch = {.step = step, .first_sample = first, .tokens = count * SEQ};
    batch.ids = tensor_from(DTYPE_I32, SHAPE(count, SEQ), MEM_INPUT, ids);
    batch.labels = tensor_from(DTYPE_I32, SHAPE(count, SEQ), MEM_INPUT, labels);
    batch.labels_counted = count * SEQ;
    batch.labels_total = BATCH * SEQ;
    return batch;
}

/* The mean loss of the last steps. */
static double trained(const char *precision, int stochastic, float lr)
{
    Precision p = *precision_by_name(precision);
    p.stochastic = stochastic;
    assert_int_equal(tensor_set_precision(&p), 0);
    int scope = tensor_scope_begin();
    Module *model = small_llama();
    Optimizer *optimizer =
        optim_adamw(nn_parameters(model), &(AdamW){.lr = lr, .beta2 = 0.95f, .weight_decay = -1});
    optim_set_clip(optimizer, 1);
    if (p.activations == DTYPE_F16)
        optim_set_loss_scale(optimizer, 0);
    double sum = 0;
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int inner = tensor_scope_begin();
        Batch batch = chain_batch(step, 0, BATCH);
        tensor_backward(nn_loss(model, &batch));
        sum += step >= STEPS - LAST ? tensor_step_loss() : 0;
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(inner);
    }
    assert_fine();
    tensor_scope_end(scope);
    return sum / LAST;
}

static void small_updates(void **state)
{
    (void)state;
    static const char *const kept[] = {"bf16-mixed",    "bf16-autocast", "fp16-mixed",
                                       "fp16-autocast", "bf16-states32", "bf16"};
    const float lr = 3e-5f;
    double fp32 = trained("fp32", 0, lr);
    assert_true(fp32 > 3 && fp32 < 4.1); /* it learns: log 64 is 4.16 */
    for (size_t i = 0; i < COUNT(kept); i++) {
        double loss = trained(kept[i], precision_by_name(kept[i])->stochastic, lr);
        if (!(fabs(loss - fp32) < 0.01))
            fail_msg("%s: loss %.4f, in fp32 %.4f", kept[i], loss, fp32);
    }
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "bf16" : "bf16-states32";
        double loss = trained(name, 0, lr);
        if (!(loss > fp32 + 0.1))
            fail_msg("%s rounded to nearest: loss %.4f, in fp32 %.4f", name, loss, fp32);
    }
}

/* ---- Micro-batches --------------------------------------------------------------------------- */

typedef struct Gradients {
    float *at[64];
    TensorList list;
} Gradients;

static Gradients gradients_of(const Precision *precision, int micro)
{
    Gradients g = {0};
    tensor_set_precision(precision);
    Module *model = small_llama();
    for (int first = 0; first < BATCH; first += BATCH / micro) {
        Batch batch = chain_batch(3, first, BATCH / micro);
        tensor_backward(nn_loss(model, &batch));
    }
    assert_fine();
    g.list = nn_parameters(model);
    for (int i = 0; i < g.list.count; i++) {
        const Tensor *gradient = tensor_grad(g.list.items[i]);
        int64_t n = tensor_numel(gradient);
        g.at[i] = tensor_f32(tensor_zeros(DTYPE_F32, SHAPE(n), MEM_INPUT));
        tensor_decode_(gradient, 0, n, g.at[i]);
    }
    return g;
}

/* How far eight micro-batches of one sample are from one batch of eight, relative to it. */
static double micro_off(const Precision *precision)
{
    int scope = tensor_scope_begin();
    Gradients one = gradients_of(precision, 1), eight = gradients_of(precision, BATCH);
    double off = 0, size = 0;
    for (int i = 0; i < one.list.count; i++)
        for (int64_t k = 0; k < tensor_numel(one.list.items[i]); k++) {
            double apart = (double)one.at[i][k] - (double)eight.at[i][k];
            off += apart * apart;
            size += (double)one.at[i][k] * (double)one.at[i][k];
        }
    tensor_scope_end(scope);
    return sqrt(off / size);
}

/* A convention's own noise, that of its activations, is in both. */
static void micro_batches(void **state)
{
    (void)state;
    for (int i = 0; cpu_precision(i); i++) {
        Precision p = *cpu_precision(i);
        double own = micro_off(&p);
        p.gradients = DTYPE_F32;
        double f32 = micro_off(&p), allowed = p.activations == DTYPE_BF16 ? 4e-3
                                              : p.activations             ? 6e-4
                                                                          : 1e-6;
        if (!(f32 <= allowed))
            fail_msg("%s with f32 gradients: micro-batches are off by %g", p.name, f32);
        if (p.weights && !(own > 1.2 * f32))
            fail_msg("%s: gradients of 16 bit are off by %g, of 32 by %g", p.name, own, f32);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(small_updates, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(micro_batches, fresh_context, leave_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
