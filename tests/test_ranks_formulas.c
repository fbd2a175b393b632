/* What a rank holds and sends, as exact integers: the formulas of data parallel and ZeRO 1 to 3, and what
 * published estimators say beside them, each difference itemised. */
#include "../data/data.h"
#include "../nn/nn.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "../ranks/ranks.h"
#include "support.h"

enum { VOCAB = 512, DIM = 64, LAYERS = 3, HIDDEN = 192, MOST = 64 };

typedef struct Job {
    LlamaConfig model;
    int checkpoint, micros;
    const Precision *precision; /* NULL = fp32 */
    /* found */
    int64_t n[MOST]; /* elements of each parameter */
    int in_block[MOST], count;
} Job;

static int script(void *config)
{
    Job *job = config;
    if (job->precision)
        tensor_set_precision(job->precision);
    Loader *data = data_text(
        "builtin", &(TextOptions){.batch = 1, .seq = 16, .accumulate = job->micros, .held_out = -1});
    Module *model = nn_llama(&job->model);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->checkpoint);
    TensorList list = nn_parameters(model);
    job->count = list.count;
    for (int i = 0; i < list.count; i++) {
        job->n[i] = tensor_numel(list.items[i]);
        job->in_block[i] = i > 0 && i < list.count - 2; /* embedding; blocks; norm and head */
    }
    Optimizer *optimizer = optim_adamw(list, NULL);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static Plan plan_as(Job *job, const Ranks *ranks)
{
    Plan plan;
    assert_int_equal(plan_script(script, job, &(RunOptions){.threads = 1, .quiet = 1, .ranks = ranks}, &plan),
                     0);
    plan_free(&plan);
    return plan;
}

static Plan plan_of(Job *job, RankStrategy strategy, int size)
{
    return plan_as(job, &(Ranks){.size = size, .strategy = strategy});
}

/* ---- By hand --------------------------------------------------------------------------------- */

static int64_t up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Elements a rank; 0: the parameter stays whole. */
static int64_t each(int64_t n, int size)
{
    return n < 16 * size ? 0 : up((n + size - 1) / size, 16);
}

typedef struct Held {
    int64_t parameters, gradients, states, gathered;
} Held;

/* Arrays are rounded up to 64 bytes. The head comes first in backward and the embedding last; when its whole
 * gradient is there, so are the parts of all others, and its own. */
static Held by_hand(const Job *job, const Ranks *ranks)
{
    Held h = {0};
    RankStrategy strategy = ranks->strategy;
    int shards = ranks->size / ranks->replicas; /* that divide */
    for (int i = 0; i < job->count; i++) {
        int64_t n = job->n[i], part = each(n, shards), divided = strategy != RANKS_DDP && part;
        int apart = strategy == RANKS_ZERO3 && n >= ranks->replicate_below;
        int64_t whole = up(4 * (divided ? part * shards : n), 64), mine = up(4 * (divided ? part : n), 64);
        h.parameters += apart ? mine : whole;
        h.gradients += strategy >= RANKS_ZERO2 ? mine : up(4 * n, 64);
        h.states += 2 * mine;
        if (apart && divided && whole > h.gathered)
            h.gathered = whole;
    }
    if (strategy >= RANKS_ZERO2)
        h.gradients += each(job->n[0], shards) ? up(4 * job->n[0], 64) : 0;
    return h;
}

/* Of one step. Data parallel and ZeRO-1: each part goes to who sums it, and comes back summed, or updated.
 * ZeRO-2: the first in each micro-batch. ZeRO-3: each read gathers: forward, again where a block is
 * recomputed, and backward but for the embedding, whose gradient needs no weights; weights that stay whole
 * are those of ZeRO-2. The sum of a part goes from replica to replica and back to all, 2 (R - 1) times for R
 * of them. Then 64 bytes that all agree on. */
static int64_t sent_by_hand(const Job *job, const Ranks *ranks)
{
    RankStrategy strategy = ranks->strategy;
    int size = ranks->size, replicas = ranks->replicas, shards = size / replicas;
    int64_t sent = 64 * (size - 1);
    for (int i = 0; i < job->count; i++) {
        int64_t n = job->n[i], part = each(n, shards), times = 2;
        if (strategy == RANKS_DDP || !part) {
            int64_t ordered = 2 * (size - 1) * 4 * up((n + size - 1) / size, 16);
            sent += size > 16 ? 2 * (size - 1) * 4 * n / size : ordered;
            continue;
        }
        if (strategy >= RANKS_ZERO2)
            times = job->micros + 1;
        if (strategy == RANKS_ZERO3 && n >= ranks->replicate_below)
            times = job->micros * (1 + (i > 0 ? 2 : 1) + (job->checkpoint && job->in_block[i]));
        sent += times * (shards - 1) * 4 * part;
        sent += (strategy >= RANKS_ZERO2 ? job->micros : 1) * (2 * (replicas - 1) * 4 * part / replicas);
    }
    return sent;
}

static void check(Job *job, Ranks ranks)
{
    ranks.replicas = ranks.replicas ? ranks.replicas : 1;
    Plan plan = plan_as(job, &ranks);
    Held h = by_hand(job, &ranks);
    const uint64_t *own = plan.memory.stats.own_peak;
    int64_t got[] = {(int64_t)own[MEM_PARAMETER], (int64_t)own[MEM_GRADIENT], (int64_t)own[MEM_OPTIMIZER],
                     (int64_t)own[MEM_GATHERED], (int64_t)plan.step_sent};
    int64_t want[] = {h.parameters, h.gradients, h.states, h.gathered, sent_by_hand(job, &ranks)};
    static const char *const names[] = {"parameters", "gradients", "states", "gathered", "sent"};
    for (size_t i = 0; i < COUNT(got); i++)
        if (got[i] != want[i])
            fail_msg("%s, %d ranks, %d replicas, below %lld, %d micro-batches, checkpoint %d: %s are %lld "
                     "bytes, by hand %lld",
                     ranks_strategy_name(ranks.strategy), ranks.size, ranks.replicas,
                     (long long)ranks.replicate_below, job->micros, job->checkpoint, names[i],
                     (long long)got[i], (long long)want[i]);
}

static Job even(void)
{
    return (Job){.model = {.vocab = VOCAB, .dim = DIM, .layers = LAYERS, .heads = 4, .hidden = HIDDEN},
                 .micros = 1};
}

static void held_and_sent_are_the_formulas(void **state)
{
    (void)state;
    static const int sizes[] = {2, 3, 4, 7, 8, 16, 17, 32, 200};
    for (int uneven = 0; uneven < 2; uneven++)
        for (int s = 0; s < RANK_STRATEGY_COUNT; s++)
            for (size_t i = 0; i < COUNT(sizes); i++)
                for (int form = 0; form < 4; form++) {
                    Job job = even();
                    job.checkpoint = form % 2;
                    job.micros = 1 + form / 2 * 2;
                    if (uneven) {
                        job.model.vocab = 523;
                        job.model.hidden = 77;
                    }
                    check(&job, (Ranks){.size = sizes[i], .strategy = (RankStrategy)s});
                }
}

/* Each replica divides as its ranks would alone. */
static void replicas_and_whole_weights_are_the_formulas(void **state)
{
    (void)state;
    static const int shapes[][2] = {{4, 2}, {6, 2}, {6, 3}, {8, 4}, {32, 4}, {200, 10}};
    for (int uneven = 0; uneven < 2; uneven++)
        for (int s = RANKS_ZERO1; s <= RANKS_ZERO3; s++)
            for (size_t i = 0; i < COUNT(shapes); i++)
                for (int form = 0; form < 4; form++) {
                    Job job = even();
                    job.checkpoint = form % 2;
                    job.micros = 1 + form / 2 * 2;
                    if (uneven) {
                        job.model.vocab = 523;
                        job.model.hidden = 77;
                    }
                    Ranks ranks = {
                        .size = shapes[i][0], .replicas = shapes[i][1], .strategy = (RankStrategy)s};
                    check(&job, ranks);
                    ranks.replicate_below = s == RANKS_ZERO3 ? DIM * DIM + form : 0;
                    check(&job, ranks);
                    ranks.replicas = 1;
                    check(&job, ranks);
                }
}

/* ---- As they are published ------------------------------------------------------------------- */

typedef struct Sizes {
    int64_t all, largest;
} Sizes;

/* Of a model whose every array is whole units on each rank, so that nothing is padded. */
static Sizes sizes_of(Job *job, int size)
{
    Sizes sizes = {0};
    plan_of(job, RANKS_DDP, size);
    for (int i = 0; i < job->count; i++) {
        assert_int_equal(job->n[i] % (16 * size), 0);
        sizes.all += job->n[i];
        sizes.largest = job->n[i] > sizes.largest ? job->n[i] : sizes.largest;
    }
    return sizes;
}

static int64_t states_of(Job *job, RankStrategy strategy, int size)
{
    Plan plan = plan_of(job, strategy, size);
    const uint64_t *own = plan.memory.stats.own_peak;
    return (int64_t)(own[MEM_PARAMETER] + own[MEM_MASTER] + own[MEM_GRADIENT] + own[MEM_OPTIMIZER] +
                     own[MEM_GATHERED]);
}

/* P parameters, N ranks; L: the largest parameter, whose whole gradient, and under ZeRO-3 whole weights, are
 * there. */
static void the_sums_of_the_papers(void **state)
{
    (void)state;
    for (int size = 2; size <= 4; size += 2) {
        Job job = even();
        Sizes s = sizes_of(&job, size);
        assert_int_equal(states_of(&job, RANKS_DDP, size), 16 * s.all);
        assert_int_equal(states_of(&job, RANKS_ZERO1, size), 8 * s.all + 8 * s.all / size);
        assert_int_equal(states_of(&job, RANKS_ZERO2, size), 4 * s.all + 12 * s.all / size + 4 * s.largest);
        assert_int_equal(states_of(&job, RANKS_ZERO3, size), 16 * s.all / size + 8 * s.largest);
        assert_int_equal(plan_of(&job, RANKS_DDP, size).step_sent,
                         2 * 4 * s.all * (size - 1) / size + 64 * (size - 1));
        assert_int_equal(plan_of(&job, RANKS_ZERO3, size).step_sent,
                         4 * (3 * s.all - s.largest) * (size - 1) / size + 64 * (size - 1));
    }
}

/* ---- Beside published estimators ------------------------------------------------------------- */

/* Whole units of 64 bytes in 16 bits too. */
static Job wide(const Precision *precision)
{
    Job job = even();
    job.model.dim = 2 * DIM;
    job.precision = precision;
    return job;
}

/* Megatron Core's table of its distributed optimizer, d ranks, "theoretical number of bytes per parameter":
 * fp16 weights and gradients 4 + 16/d, bf16 weights and fp32 gradients 6 + 12/d, all fp32 8 + 8/d
 * (docs.nvidia.com/megatron-core, api-guide/dist_optimizer). */
typedef struct MegatronRow {
    const char *precision;
    DType gradients;
    int whole, divided;
    int more; /* divided bytes a parameter that are not here */
} MegatronRow;

static void beside_megatrons_distributed_optimizer(void **state)
{
    (void)state;
    static const MegatronRow rows[] = {
        {"fp32", DTYPE_F32, 8, 8, 0},
        {"bf16-mixed", DTYPE_F32, 6, 12, 0},
        /* Before the update it copies its part of 16-bit gradients to fp32. Here they are converted as they
           are read. */
        {"fp16-mixed", DTYPE_F16, 4, 16, 4},
        {"bf16-mixed", DTYPE_BF16, 4, 16, 4},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int size = 2; size <= 4; size += 2) {
            Precision precision = *precision_by_name(rows[i].precision);
            precision.gradients = rows[i].gradients;
            Job job = wide(&precision);
            Sizes s = sizes_of(&job, size);
            int64_t published = rows[i].whole * s.all + rows[i].divided * s.all / size;
            assert_int_equal(published - states_of(&job, RANKS_ZERO1, size), rows[i].more * s.all / size);
        }
}

/* DeepSpeed 0.19.8, estimate_zero2_model_states_mem_needs and estimate_zero3_…, without offload: bytes on the
 * GPU. Weights in 16 bits; gradients in 16 and in 32, weights and two states in 32, divided. */
static int64_t deepspeed_zero2(int64_t parameters, int size)
{
    return 2 * parameters + 18 * parameters / size;
}

static int64_t deepspeed_zero3(int64_t parameters, int64_t largest_layer, int size)
{
    return 4 * largest_layer + 18 * parameters / size;
}

static void beside_deepspeeds_estimators(void **state)
{
    (void)state;
    for (int size = 2; size <= 4; size += 2) {
        Job job = even();
        Sizes s = sizes_of(&job, size);
        assert_int_equal(deepspeed_zero2(s.all, size) - states_of(&job, RANKS_ZERO2, size),
                         6 * s.all / size - 2 * s.all - 4 * s.largest);
        assert_int_equal(deepspeed_zero3(s.all, s.largest, size) - states_of(&job, RANKS_ZERO3, size),
                         2 * s.all / size - 4 * s.largest);
        /* In the precision that it is about there remain the gradients that it has twice, in 16 and in 32
         * bits. It counts no gradient whole under ZeRO-2; under ZeRO-3 one layer's weights and gradients, in
         * 16 bits. */
        Precision mixed = *precision_by_name("bf16-mixed");
        job = wide(&mixed);
        s = sizes_of(&job, size);
        assert_int_equal(deepspeed_zero2(s.all, size) - states_of(&job, RANKS_ZERO2, size),
                         2 * s.all / size - 2 * s.largest);
        assert_int_equal(deepspeed_zero3(s.all, s.largest, size) - states_of(&job, RANKS_ZERO3, size),
                         2 * s.all / size);
    }
}

/* ---- Activations of a layer under tensor parallel -------------------------------------------- */

typedef struct Gpt {
    Gpt2Config model;
    int batch, seq;
} Gpt;

static int gpt(void *config)
{
    Gpt *job = config;
    Loader *data = data_text("builtin", &(TextOptions){.batch = job->batch, .seq = job->seq, .held_out = -1});
    Module *model = nn_gpt2(&job->model);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static int64_t activations_of(Gpt job, int layers, int tensor, int sequence)
{
    Plan plan;
    Ranks ranks = {.size = tensor, .tensor = tensor, .sequence = sequence};
    job.model.layers = layers;
    assert_int_equal(plan_script(gpt, &job, &(RunOptions){.threads = 1, .quiet = 1, .ranks = &ranks}, &plan),
                     0);
    plan_free(&plan);
    return (int64_t)plan.memory.stats.own_peak[MEM_ACTIVATION];
}

/* Korthikanti et al., arXiv 2205.05198, table 2: a layer in 16 bits with T-way tensor parallel keeps
 * sbh (10 + 24/t + 5as/(ht)). Of the 10, two are masks of dropout, a byte each; here they are drawn again.
 * The rest is twice as large in fp32. Instead of scores, their softmax and its mask, 5as/(ht), flash
 * attention keeps a number a row and head. What it leaves out are mean and deviation of two norms. With
 * sequence parallel it is sbh (34 + 5as/h) / t: all of it is divided. */
static void beside_korthikantis_table(void **state)
{
    (void)state;
    for (int way = 0; way < 5; way++)
        for (int eager = 0; eager < 2; eager++) {
            int t = 1 << (way + 1) / 2, sequence = way > 0 && way % 2 == 0, rows = sequence ? t : 1;
            Gpt job = {.model = {.vocab = 256,
                                 .dim = 64,
                                 .heads = 8,
                                 .ffn = 256,
                                 .max_seq = 32,
                                 .attention = eager ? ATTENTION_EAGER : ATTENTION_FLASH},
                       .batch = 2,
                       .seq = 32};
            int64_t s = job.seq, b = job.batch, h = job.model.dim, a = job.model.heads;
            int64_t published = s * b * (10 * h / rows + 24 * h / t + 5 * a * s / t);
            int64_t masks = 2 * s * b * h / rows, scores = 5 * a * s * s * b / t;
            int64_t kept = eager ? 4 * a * s * s * b / t : 4 * a * s * b / t,
                    norms = 2 * 2 * 4 * s * b / rows;
            assert_int_equal(activations_of(job, 3, t, sequence) - activations_of(job, 2, t, sequence),
                             2 * (published - masks - scores) + kept + norms);
        }
}

static void the_textbooks_model_has_ten_billion(void **state)
{
    (void)state;
    const LlamaConfig *c = &nn_preset("textbook-10b")->config.llama;
    int64_t block = 4 * c->dim * c->dim + 3 * c->dim * c->hidden + 2 * c->dim;
    int64_t all = 2 * c->vocab * c->dim + c->layers * block + c->dim;
    assert_true(all > 9990000000 && all < 10010000000);
    assert_int_equal(nn_preset("textbook-10b")->batch, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_and_sent_are_the_formulas),
        cmocka_unit_test(replicas_and_whole_weights_are_the_formulas),
        cmocka_unit_test(the_sums_of_the_papers),
        cmocka_unit_test(beside_megatrons_distributed_optimizer),
        cmocka_unit_test(beside_deepspeeds_estimators),
        cmocka_unit_test(beside_korthikantis_table),
        cmocka_unit_test(the_textbooks_model_has_ten_billion),
    };
    return cmocka_run_group_tests_name("ranks formulas", tests, NULL, NULL);
}
