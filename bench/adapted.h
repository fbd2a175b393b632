/* A model with adapters on a base of some type, or trained whole, its optimizer and one fixed batch: what a
 * step of training needs, on meta and for real. */
#ifndef BRIM_BENCH_ADAPTED_H
#define BRIM_BENCH_ADAPTED_H

#include "../nn/lora.h"
#include "session.h"

/* What the base is stored as, and what is computed on it in. */
typedef struct Base {
    const char *name;
    DType dtype, quantized; /* as in Weights */
    const char *precision;  /* whose activations; NULL = fp32 */
} Base;

static const Base bases[] = {
    {"fp32", DTYPE_F32, 0, NULL},           {"bf16", DTYPE_BF16, 0, NULL},
    {"int8", DTYPE_BF16, DTYPE_INT8, NULL}, {"nf4", DTYPE_BF16, DTYPE_NF4, NULL},
    {"bf16", DTYPE_BF16, 0, "bf16-mixed"},  {"nf4", DTYPE_BF16, DTYPE_NF4, "bf16-mixed"},
};
enum {
    BASES = sizeof bases / sizeof bases[0],
    BASE_FP32 = 0,
    BASE_BF16 = 1,
    BASE_NF4 = 3,
    BASE_BF16_IN_BF16
};

typedef struct Adapted {
    ModelPreset preset;
    Base base;
    Lora lora;
    float lr;
    int checkpoint; /* 1: every block */
    int full;       /* 1: no adapters; all parameters are trained, in the precision's types */
} Adapted;

/* In the current context. Returns error_code(). */
static int adapted_open(Session *s, const Adapted *a)
{
    memset(s, 0, sizeof *s);
    tensor_set_precision(a->base.precision ? precision_by_name(a->base.precision) : NULL);
    if (!a->full)
        nn_set_weights(&(Weights){.dtype = a->base.dtype, .quantized = a->base.quantized, .frozen = 1});
    s->model = nn_model(&a->preset);
    if (!a->full)
        nn_add_lora(s->model, &a->lora);
    if (a->checkpoint && !error_code())
        nn_set_checkpoint_every(s->model, 1);
    return error_code() ? error_code() : session_ready(s, &a->preset, a->lr);
}

/* A Script. Its second step's events are those of all later ones. */
static int adapted_script(void *adapted)
{
    Session s;
    if (adapted_open(&s, adapted) == 0)
        for (int i = 0; i < 3 && !error_code(); i++)
            session_step(&s);
    return error_code();
}

/* A context with just the memory that the plan says, current. NULL with the reason in `why`. The caller ends
 * it with context_destroy, and the plan, which it follows, after that. */
static Context *adapted_context(const Adapted *a, int threads, Plan *plan, char *why, size_t size)
{
    plan_script(adapted_script, (void *)a, &(RunOptions){.threads = threads}, plan);
    if (plan->status) {
        snprintf(why, size, "%.250s", plan->error);
        return NULL;
    }
    uint64_t needs = plan->memory.stats.needs;
    Context *context =
        context_create(&(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = needs, .threads = threads});
    if (!context) {
        snprintf(why, size, "no memory for %s", report_size(needs).text);
        return NULL;
    }
    memtrack_ledger_follow(context_ledger(context), plan->hints);
    context_use(context);
    return context;
}

/* Of all bytes that training must not change: FNV-1a over words of 64 bits, of one parameter after the other.
 */
static uint64_t frozen_hash(const Module *model, uint64_t *bytes)
{
    TensorList all = nn_parameters((Module *)model);
    uint64_t hash = 0xcbf29ce484222325u;
    *bytes = 0;
    for (int i = 0; i < all.count; i++) {
        const Tensor *t = all.items[i];
        if (tensor_requires_grad(t) || !t->storage)
            continue;
        const unsigned char *at = storage_data(t->storage);
        uint64_t size = shape_bytes(t->dtype, t->shape), word;
        for (uint64_t k = 0; at && k < size; k += sizeof word) {
            word = 0;
            memcpy(&word, at + k, size - k < sizeof word ? (size_t)(size - k) : sizeof word);
            hash = (hash ^ word) * 0x100000001b3u;
        }
        *bytes += size;
    }
    return hash;
}

#endif
