/* Adapters, quantised weights and their optimizers, as PEFT and bitsandbytes have them: what stays on the
 * card, of which kind, until when. The traces (test_pytorch_traces.c) have the order; this has the sums. */
#include <string.h>

#include "../estimate/pytorch/dialect_.h"
#include "support.h"

/* ---- bitsandbytes' kernels of NF4 -------------------------------------------------------------- */

/* The most rows that _gemm_4bit_use_custom_cuda of bitsandbytes 0.50.2 gives to the kernel: compute
 * capability, multiprocessors, N, K, rows; in float16. One product for each limit that a card has. */
static const struct {
    int sm, processors;
    int64_t N, K, rows;
} limits[] = {
    {75, 40, 2560, 1536, 4},      {75, 40, 256, 40000, 32},     {75, 40, 2048, 11008, 64},
    {75, 40, 2048, 768, 96},      {75, 40, 9216, 512, 128},     {75, 40, 8192, 128, 320},
    {80, 108, 3072, 8192, 5},     {80, 108, 2560, 9216, 7},     {80, 108, 1536, 40000, 16},
    {80, 108, 64, 2048, 32},      {80, 108, 14336, 1024, 64},   {80, 108, 28672, 768, 128},
    {80, 108, 128, 64, 384},      {80, 108, 2560, 1024, 512},   {80, 108, 2048, 64, 1536},
    {86, 82, 2048, 14336, 16},    {86, 82, 64, 2560, 23},       {86, 82, 256, 128, 32},
    {86, 82, 3072, 5120, 64},     {86, 82, 28672, 2560, 128},   {86, 82, 5120, 512, 192},
    {86, 82, 768, 64, 320},       {89, 128, 5120, 5120, 8},     {89, 128, 1536, 4096, 10},
    {89, 128, 768, 11008, 12},    {89, 128, 2048, 2048, 16},    {89, 128, 1536, 2560, 23},
    {89, 128, 2048, 1536, 32},    {89, 128, 9216, 2560, 64},    {89, 128, 8192, 14336, 128},
    {89, 128, 3072, 1024, 192},   {89, 128, 28672, 768, 256},   {89, 128, 5120, 256, 320},
    {90, 132, 2560, 32768, 5},    {90, 132, 768, 40000, 7},     {90, 132, 8192, 3072, 16},
    {90, 132, 256, 128, 32},      {90, 132, 32768, 40000, 64},  {90, 132, 4096, 128, 320},
    {90, 132, 2560, 64, 512},     {100, 148, 2560, 1024, 4},    {100, 148, 14336, 512, 8},
    {100, 148, 40000, 11008, 32}, {120, 170, 4096, 32768, 8},   {120, 170, 5120, 14336, 16},
    {120, 170, 64, 9216, 23},     {120, 170, 2048, 1536, 32},   {120, 170, 14336, 3072, 64},
    {120, 170, 11008, 40000, 96}, {120, 170, 28672, 2560, 128}, {120, 170, 5120, 768, 192},
    {120, 170, 32768, 2048, 256}, {120, 170, 5120, 64, 320},
};

static void nf4_products_take_the_kernel_up_to_a_limit(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(limits); i++) {
        PytorchCard card = {.capability = limits[i].sm, .processors = limits[i].processors};
        int64_t N = limits[i].N, K = limits[i].K, rows = limits[i].rows;
        assert_true(torch_nf4_kernel(&card, TORCH_F16, rows, N, K));
        assert_false(torch_nf4_kernel(&card, TORCH_F16, rows + 1, N, K));
        assert_true(torch_nf4_kernel(&card, TORCH_F32, 7, N, K));
        assert_false(torch_nf4_kernel(&card, TORCH_F32, 8, N, K));
        assert_false(torch_nf4_kernel(&card, TORCH_F16, 1, N, K + 1)); /* blocks would end within a row */
    }
}

/* ---- What is alive ----------------------------------------------------------------------------- */

enum { MOST = 1 << 16, VOCAB = 1024, DIM = 128, INNER = 256, LAYERS = 2, RANK = 4 };

static PytorchJob job_of(PytorchQuantize quantize)
{
    return (PytorchJob){.model = {.family = PYTORCH_LLAMA,
                                  .vocab = VOCAB,
                                  .hidden = DIM,
                                  .layers = LAYERS,
                                  .heads = 4,
                                  .kv_heads = 4,
                                  .head_dim = 32,
                                  .intermediate = INNER,
                                  .positions = 64},
                        .precision = PYTORCH_BF16,
                        .quantize = quantize,
                        .capability = 90,
                        .batch = 2,
                        .seq = 48,
                        .accumulate = 1,
                        .steps = 2,
                        .clip = 1,
                        .lora_rank = RANK,
                        .lora_targets = PYTORCH_ALL_LINEAR};
}

typedef struct Alive {
    uint64_t bytes[MOST]; /* by serial */
    unsigned char kind[MOST];
    uint64_t of_kind[PYTORCH_KINDS], total;
    PytorchPhase phase; /* stops where this phase of this step begins */
    int step, emptied;
} Alive;

static int follow(void *user, const PytorchEvent *e)
{
    Alive *a = user;
    if (e->phase == a->phase && e->step == a->step)
        return 2;
    if (e->action == PYTORCH_EMPTY_CACHE) {
        a->emptied++;
        return 0;
    }
    assert_true(e->serial < MOST);
    if (e->action == PYTORCH_MARK && e->kind == PYTORCH_ACTIVATION && a->kind[e->serial] != PYTORCH_TEMPORARY)
        return 0;
    a->of_kind[a->kind[e->serial]] -= a->bytes[e->serial];
    a->total -= a->bytes[e->serial];
    a->bytes[e->serial] = e->action == PYTORCH_FREE ? 0 : e->bytes;
    a->kind[e->serial] = (unsigned char)e->kind;
    a->of_kind[e->kind] += a->bytes[e->serial];
    a->total += a->bytes[e->serial];
    return 0;
}

/* What is alive when a phase begins. */
static const Alive *alive(const PytorchJob *job, PytorchPhase phase, int step)
{
    static Alive a;
    memset(&a, 0, sizeof a);
    a.phase = phase;
    a.step = step;
    assert_int_equal(estimate_pytorch_job(job, follow, &a), 2);
    assert_int_equal(memtrack_process_live(), 0);
    return &a;
}

enum {
    ATTENTION = 4 * DIM * DIM,
    FORWARD = 3 * DIM * INNER,
    LINEAR = LAYERS * (ATTENTION + FORWARD),
    REST = 2 * VOCAB * DIM + (2 * LAYERS + 1) * DIM, /* embeddings, head, norms */
    ADAPTERS = LAYERS * RANK * (4 * 2 * DIM + 3 * (DIM + INNER)),
    MATRICES = LAYERS * 7
};

/* The packed values, a scale for 64 in 8 bits, a scale for 256 scales, two tables and an offset. */
static uint64_t nf4_bytes(int64_t count)
{
    return (uint64_t)(count / 2 + count / 64 + (count / 64 + 255) / 256 * 4 + 16 * 4 + 256 * 4 + 4);
}

static void adapters_are_trained_and_the_rest_is_frozen(void **state)
{
    (void)state;
    PytorchJob job = job_of(PYTORCH_PLAIN);
    const Alive *a = alive(&job, PYTORCH_DATA, 0);
    assert_int_equal(a->of_kind[PYTORCH_FROZEN], 2 * (LINEAR + REST));
    assert_int_equal(a->of_kind[PYTORCH_PARAMETER], 4 * ADAPTERS);
    a = alive(&job, PYTORCH_STEP, 0);
    assert_int_equal(a->of_kind[PYTORCH_GRADIENT], 4 * ADAPTERS);
    a = alive(&job, PYTORCH_DATA, 1);
    assert_int_equal(a->of_kind[PYTORCH_GRADIENT], 0);
    assert_int_equal(a->of_kind[PYTORCH_OPTIMIZER_STATE], 2 * 4 * ADAPTERS);
    job.lora_in_base_type = 1;
    assert_int_equal(alive(&job, PYTORCH_DATA, 0)->of_kind[PYTORCH_PARAMETER], 2 * ADAPTERS);
    job.lora_targets = PYTORCH_Q | PYTORCH_V;
    assert_int_equal(alive(&job, PYTORCH_DATA, 0)->of_kind[PYTORCH_PARAMETER],
                     2 * LAYERS * RANK * 2 * 2 * DIM);
}

static void a_classifier_is_trained_as_a_copy(void **state)
{
    (void)state;
    PytorchJob job = job_of(PYTORCH_PLAIN);
    job.model.labels = 3;
    const Alive *a = alive(&job, PYTORCH_DATA, 0);
    assert_int_equal(a->of_kind[PYTORCH_FROZEN], 2 * (LINEAR + REST - VOCAB * DIM + 3 * DIM));
    assert_int_equal(a->of_kind[PYTORCH_PARAMETER], 4 * ADAPTERS + 2 * 3 * DIM);
    a = alive(&job, PYTORCH_STEP, 0);
    assert_int_equal(a->of_kind[PYTORCH_GRADIENT], 4 * ADAPTERS + 2 * 3 * DIM);
}

static void quantised_weights_are_what_bitsandbytes_keeps(void **state)
{
    (void)state;
    uint64_t map = 256 * 4; /* of all layers */
    PytorchJob job = job_of(PYTORCH_NF4);
    uint64_t nf4 = LAYERS * (4 * nf4_bytes(DIM * DIM) + 3 * nf4_bytes(DIM * INNER)) + map;
    assert_int_equal(alive(&job, PYTORCH_DATA, 0)->of_kind[PYTORCH_FROZEN], 2 * REST + nf4);
    job.quantize = PYTORCH_NF4_SINGLE;
    uint64_t single = LINEAR / 2 + LINEAR / 64 * 4 + MATRICES * 16 * 4;
    assert_int_equal(alive(&job, PYTORCH_DATA, 0)->of_kind[PYTORCH_FROZEN], 2 * REST + single);
    job.quantize = PYTORCH_INT8;
    uint64_t int8 = LINEAR + LAYERS * 4 * (6 * DIM - DIM + 2 * INNER);
    const Alive *a = alive(&job, PYTORCH_DATA, 0);
    assert_int_equal(a->of_kind[PYTORCH_FROZEN], 2 * REST + int8);
    assert_int_equal(a->emptied, 0);
    job.kbit_prepare = 1;
    a = alive(&job, PYTORCH_DATA, 0);
    assert_int_equal(a->of_kind[PYTORCH_FROZEN], 4 * REST + int8);
    assert_int_equal(a->emptied, 1);
}

/* MatMul8bitLt keeps its inputs outside of the saved tensors: they die with the graph, in the next step. */
static void inputs_of_int8_products_outlive_their_step(void **state)
{
    (void)state;
    PytorchJob job = job_of(PYTORCH_NF4);
    assert_int_equal(alive(&job, PYTORCH_DATA, 1)->of_kind[PYTORCH_ACTIVATION], 0);
    job.quantize = PYTORCH_INT8;
    uint64_t rows = 2 * 2 * 48;
    uint64_t kept = alive(&job, PYTORCH_DATA, 1)->of_kind[PYTORCH_ACTIVATION];
    assert_true(kept >= rows * DIM * LAYERS);
    job.checkpoint = PYTORCH_CHECKPOINT; /* whose hooks see saved tensors only */
    assert_true(alive(&job, PYTORCH_BACKWARD, 0)->of_kind[PYTORCH_ACTIVATION] >= rows * DIM * LAYERS);
}

/* ---- Optimizers -------------------------------------------------------------------------------- */

static uint64_t states(PytorchJob *job, PytorchOptimizer optimizer)
{
    job->optimizer = optimizer;
    return alive(job, PYTORCH_ZERO, 1)->of_kind[PYTORCH_OPTIMIZER_STATE];
}

static void states_of_8_bits_are_small_paged_or_wide(void **state)
{
    (void)state;
    PytorchJob job = job_of(PYTORCH_PLAIN);
    job.lora_rank = 0;
    uint64_t norms = (2 * LAYERS + 1) * DIM, large = 2 * VOCAB * DIM, maps = 2 * 256 * 4;
    uint64_t eight = 2 * (LINEAR + large) + 2 * (LINEAR + large) / 256 * 4 + 2 * 4 * norms + maps;
    assert_int_equal(states(&job, PYTORCH_ADAMW_8BIT), eight);
    assert_int_equal(states(&job, PYTORCH_ADAMW_8BIT_PAGED),
                     eight - 2 * large); /* 100,000 elements and more */
    assert_int_equal(states(&job, PYTORCH_SGD_MOMENTUM), 2 * (LINEAR + REST));
    assert_int_equal(states(&job, PYTORCH_ADAMW_SINGLE), 2 * 2 * (LINEAR + REST));
    assert_int_equal(states(&job, PYTORCH_SGD), 0);
}

/* ---- Host memory ------------------------------------------------------------------------------- */

static int ignore(void *user, const PytorchEvent *e)
{
    (void)user, (void)e;
    return 0;
}

static void each_allocation_of_the_host_fails_once(void **state)
{
    (void)state;
    PytorchJob job = job_of(PYTORCH_NF4);
    job.model.labels = 2;
    job.optimizer = PYTORCH_ADAMW_8BIT;
    job.kbit_prepare = job.steps = 1;
    job.checkpoint = PYTORCH_CHECKPOINT_REENTRANT;
    int failures = 0;
    for (uint64_t n = 1;; n++, failures++) {
        memtrack_fail_nth(n);
        int result = estimate_pytorch_job(&job, ignore, NULL), over = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), 0);
        assert_int_equal(result, over ? 0 : -1);
        if (over)
            break;
    }
    assert_true(failures > 5);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(nf4_products_take_the_kernel_up_to_a_limit),
        cmocka_unit_test(adapters_are_trained_and_the_rest_is_frozen),
        cmocka_unit_test(a_classifier_is_trained_as_a_copy),
        cmocka_unit_test(quantised_weights_are_what_bitsandbytes_keeps),
        cmocka_unit_test(inputs_of_int8_products_outlive_their_step),
        cmocka_unit_test(states_of_8_bits_are_small_paged_or_wide),
        cmocka_unit_test(each_allocation_of_the_host_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
