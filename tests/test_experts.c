/* A mixture of experts as an operation: the loss that balances experts, over several layers, checkpointed or
 * not; that a run is its plan and each allocation may fail; quantised experts, each by itself; ranks that
 * divide them; and what is refused. Gradients of the operation itself: test_ops_gradients.c. */
#include <math.h>

#include "../base/quant_layout_.h"
#include "../kernels/kernels.h"
#include "experts_support.h"

/* ---- The loss that balances experts ---------------------------------------------------------- */

/* From its definition, over all layers' logits (TOKENS,EXPERTS); chosen: those by which experts are chosen.
 */
static double balance_of(const Job *job, const float *const *logits, const float *chosen)
{
    double count[EXPERTS] = {0}, sum[EXPERTS] = {0}, tokens = 0, loss = 0;
    for (int i = 0; i < LAYERS * TOKENS; i++) {
        const float *row = logits[i / TOKENS] + i % TOKENS * EXPERTS, *choice = chosen + i * EXPERTS;
        double all = 0;
        if (job->masked && i % TOKENS % SEQ >= 5 + i % TOKENS / SEQ)
            continue;
        tokens++;
        for (int e = 0; e < EXPERTS; e++)
            all += exp((double)row[e]);
        for (int e = 0; e < EXPERTS; e++) {
            int larger = 0;
            for (int o = 0; o < EXPERTS; o++)
                larger += choice[o] > choice[e];
            count[e] += larger < job->active;
            sum[e] += exp((double)row[e]) / all;
        }
    }
    for (int e = 0; e < EXPERTS; e++)
        loss += count[e] / tokens * sum[e] / tokens;
    return EXPERTS * loss;
}

/* Experts that make zeros, so that the gradient of the logits is that of the balance alone. */
static void check_balance(const Job *job)
{
    int scope = tensor_scope_begin();
    Tensor *balance = tensor_zeros(DTYPE_F32, SHAPE(3, EXPERTS), MEM_BUFFER);
    Tensor *up = tensor_zeros(DTYPE_F32, SHAPE(EXPERTS, 2, 3), MEM_INPUT);
    Tensor *down = tensor_zeros(DTYPE_F32, SHAPE(EXPERTS, 3, 1), MEM_INPUT);
    Tensor *x = values(SHAPE(TOKENS, 3), 1, 1), *router[LAYERS], *loss = NULL;
    ExpertsOptions options = {.active = job->active,
                              .normalise = job->normalise,
                              .balance = balance,
                              .mask = job->masked ? mask_new() : NULL};
    const float *logits[LAYERS];
    tensor_balance_begin(balance);
    for (int i = 0; i < LAYERS; i++) {
        router[i] = leaf(SHAPE(TOKENS, EXPERTS), 2 + (uint32_t)i, 2);
        logits[i] = tensor_f32(router[i]);
        Tensor *term = tensor_sum(tensor_experts(x, router[i], up, down, &options));
        loss = loss ? tensor_add(loss, term) : term;
    }
    loss = tensor_balance_loss(loss, balance, job->active, 0.5f);
    assert_fine();
    static float chosen[LAYERS * TOKENS * EXPERTS];
    for (int i = 0; i < LAYERS; i++)
        memcpy(chosen + i * TOKENS * EXPERTS, logits[i], TOKENS * EXPERTS * sizeof *chosen);
    double expected = 0.5 * balance_of(job, logits, chosen);
    assert_true(fabs((double)tensor_item(loss) - expected) < 1e-6 * expected);
    context_current()->loss_scale.next = 1024;
    assert_int_equal(tensor_backward(loss), 0);
    context_current()->loss_scale.next = 0;
    for (int i = 0; i < LAYERS * TOKENS * EXPERTS; i++) {
        float *at = tensor_f32(router[i / (TOKENS * EXPERTS)]) + i % (TOKENS * EXPERTS), old = *at;
        const float h = 1.0f / 1024;
        *at = old + h;
        double more = balance_of(job, logits, chosen);
        *at = old - h;
        double slope = 0.5 * (more - balance_of(job, logits, chosen)) / (2.0 * (double)h);
        *at = old;
        double found = (double)grad_f32(router[i / (TOKENS * EXPERTS)])[i % (TOKENS * EXPERTS)] / 1024;
        if (fabs(found - slope) > 2e-5 * (1 + fabs(slope)) * 0.1)
            fail_msg("the gradient of logit %d is %g, finite differences say %g", i, found, slope);
    }
    tensor_scope_end(scope);
}

static void test_balance(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++)
        check_balance(&(Job){.active = 1 + i % 3, .normalise = i % 2, .masked = i / 4});
    assert_fine();
}

/* Without a token that counts there is nothing to balance. */
static void test_balance_of_nothing(void **state)
{
    (void)state;
    Tensor *balance = tensor_zeros(DTYPE_F32, SHAPE(3, EXPERTS), MEM_BUFFER), *w = leaf(SHAPE(1), 1, 1);
    Tensor *loss = tensor_balance_loss(tensor_scale(w, 3), balance, 2, 1);
    assert_true(tensor_item(loss) == 3 * tensor_f32(w)[0]);
    assert_int_equal(tensor_backward(loss), 0);
    assert_true(grad_f32(w)[0] == 3);
    for (int i = 0; i < 3 * EXPERTS; i++)
        assert_true(tensor_f32(balance)[i] == 0);
}

/* ---- Training -------------------------------------------------------------------------------- */

static float *train(Job job, int threads, float *loss)
{
    job.numbers = numbers_new();
    Visit v = visit(&(ContextOptions){.threads = threads, .seed = 5});
    if (script(&job) != 0)
        fail_msg("%s", error_message());
    leave(v);
    if (loss)
        memcpy(loss, job.loss, sizeof job.loss);
    return job.numbers;
}

static void assert_same_training(Job a, Job b, int threads)
{
    float loss[2][STEPS], *x = train(a, 1, loss[0]), *y = train(b, threads, loss[1]);
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    assert_true(numbers_apart(x, y) == 0);
    test_free(x);
    test_free(y);
}

/* Layers that backward runs again are counted once, and train the same; for any number of threads. */
static void test_checkpointed(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        Job job = {.active = 1 + i % 3,
                   .normalise = i % 2,
                   .coefficient = 0.1f,
                   .masked = i / 3,
                   .precision = i == 4   ? "bf16-mixed"
                                : i == 5 ? "fp16-mixed"
                                         : NULL};
        Job again = job;
        again.checkpoint = 1;
        assert_same_training(job, again, 1 + i % 4);
    }
}

static const DType quantized[] = {DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};

static void test_plan_is_run(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        Job job = {.active = 2,
                   .normalise = i % 2,
                   .coefficient = i % 3 ? 0.1f : 0,
                   .masked = i % 3 == 2,
                   .checkpoint = i / 2 % 2,
                   .weights = i < 5 ? 0 : quantized[i - 5],
                   .precision = i == 4 ? "bf16" : NULL};
        RunOptions o = {.threads = 1 + i % 2, .seed = 5, .quiet = 1};
        Plan plan;
        RunResult result;
        if (plan_script(script, &job, &o, &plan) != 0)
            fail_msg("plan: %s", plan.error);
        if (plan_execute(script, &job, &o, &plan, &result) != 0)
            fail_msg("run: %s", result.error);
        assert_int_equal(result.segments_off_plan, 0);
        assert_int_equal(result.memory.stats.event_hash, plan.memory.stats.event_hash);
        assert_int_equal(result.memory.stats.peak, plan.memory.stats.peak);
        plan_free(&plan);
    }
}

/* Every n-th allocation of a training fails: an error with a message, and nothing is left. */
static void test_failing_allocations(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++)
        for (int n = 1, passed = 0; !passed; n++) {
            Job job = {.active = 2, .coefficient = 0.1f, .checkpoint = 1, .weights = kind ? DTYPE_NF4 : 0};
            uint64_t live = memtrack_process_live();
            memtrack_fail_nth((uint64_t)n);
            Context *context = context_create(&(ContextOptions){.threads = 1, .seed = 5}), *before;
            int failed = 1;
            if (context) {
                before = context_use(context);
                failed = script(&job);
                assert_true(!failed || strlen(error_message()) > 10);
                context_use(before);
                context_destroy(context);
            }
            passed = memtrack_fail_pending();
            memtrack_fail_nth(0);
            assert_int_equal(memtrack_process_live(), live);
            assert_true(!passed || (!failed && n > 20));
        }
}

/* What is kept and needed depends on tokens times experts a token, and not on how many experts there are. */
static void test_sizes(void **state)
{
    (void)state;
    uint64_t kept[2], flops[2];
    for (int i = 0; i < 2; i++) {
        int64_t experts = i ? 16 : 4;
        Visit v = visit(&(ContextOptions){.threads = 1, .meta = 1});
        Tensor *x = leaf(SHAPE(64, 32), 1, 1), *router = leaf(SHAPE(64, experts), 2, 1);
        Tensor *up = leaf(SHAPE(experts, 48, 32), 3, 1), *down = leaf(SHAPE(experts, 32, 24), 4, 1);
        uint64_t before = books()->live_by[MEM_ACTIVATION];
        double counted = context_current()->flops;
        assert_non_null(tensor_experts(x, router, up, down, &(ExpertsOptions){.active = 2, .normalise = 1}));
        kept[i] = books()->live_by[MEM_ACTIVATION] - before;
        flops[i] = (uint64_t)(context_current()->flops - counted);
        leave(v);
    }
    assert_int_equal(flops[0], 2 * 3 * 128 * 32 * 24);
    assert_int_equal(flops[1], flops[0]);
    assert_int_equal(kept[0], rounded(128 * 48) + rounded(4 * 128 + 5));
    assert_int_equal(kept[1], rounded(128 * 48) + rounded(4 * 128 + 17));
}

/* A norm in front that is recomputed in backward, where gradients are written over it, changes no bit. */
static void test_recomputed(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(WIDTH), 1, 1), *x = leaf(SHAPE(TOKENS, WIDTH), 2, 1), *gradient[2], *kept[2];
    Tensor *gate = leaf(SHAPE(EXPERTS, WIDTH), 3, 1), *up = leaf(SHAPE(EXPERTS, 2 * HIDDEN, WIDTH), 4, 1);
    Tensor *down = leaf(SHAPE(EXPERTS, WIDTH, HIDDEN), 5, 1);
    for (int i = 0; i < 2; i++) {
        Tensor *normed = tensor_rms_norm(tensor_scale(x, 1), w, 1e-5f);
        if (i)
            tensor_recompute(normed);
        Tensor *router = tensor_linear(normed, gate, NULL, TENSOR_IDENTITY);
        Tensor *y = tensor_experts(tensor_donate(normed), tensor_donate(router), up, down,
                                   &(ExpertsOptions){.active = 2});
        assert_int_equal(tensor_backward(tensor_sum(tensor_mul(y, y))), 0);
        gradient[i] = copy_of(grad_f32(x), TOKENS * WIDTH);
        kept[i] = copy_of(grad_f32(up), tensor_numel(up));
        tensor_drop_grad(x);
        tensor_drop_grad(up);
    }
    assert_memory_equal(tensor_f32(gradient[0]), tensor_f32(gradient[1]), TOKENS * WIDTH * sizeof(float));
    assert_memory_equal(tensor_f32(kept[0]), tensor_f32(kept[1]), (size_t)tensor_numel(up) * sizeof(float));
    assert_fine();
}

/* ---- Quantised ------------------------------------------------------------------------------- */

static int from_array(void *user, int64_t first, int64_t count, float *to)
{
    memcpy(to, (const float *)user + first, (size_t)count * sizeof *to);
    return 0;
}

/* Each expert's matrix has the values that it has when it is a tensor by itself, made so or converted. */
static void test_matrices_by_themselves(void **state)
{
    (void)state;
    enum { N = 3, ROWS = 7, COLS = 95 };
    for (int kind = 0; kind < 6; kind++) {
        int scope = tensor_scope_begin();
        DType type = quantized[kind % 3];
        static float values[N * ROWS * COLS];
        float expected[ROWS * COLS];
        fill_values(values, N * ROWS * COLS, 9, 1, 0.1);
        Tensor *stack = tensor_parameter_(kind < 3 ? type : DTYPE_F32, SHAPE(N, ROWS, COLS), 1);
        if (kind < 3) {
            assert_int_equal(tensor_store_(stack, from_array, values), 0);
        } else {
            tensor_write(stack, 0, (int64_t)sizeof values, values);
            assert_int_equal(tensor_convert_(stack, type), 0);
        }
        assert_int_equal(tensor_dtype(stack), type);
        assert_int_equal(shape_bytes(type, SHAPE(N, ROWS, COLS)), N * quant_stride(type, ROWS, COLS));
        for (int e = 0; e < N; e++) {
            Tensor *matrix = tensor_parameter_(DTYPE_F32, SHAPE(ROWS, COLS), 1);
            tensor_write(matrix, 0, (int64_t)sizeof expected, values + e * ROWS * COLS);
            assert_int_equal(tensor_convert_(matrix, type), 0);
            tensor_decode_(matrix, 0, ROWS * COLS, expected);
            tensor_free(matrix);
            float found[ROWS * COLS];
            tensor_decode_(stack, e * ROWS * COLS, ROWS * COLS, found);
            assert_memory_equal(found, expected, sizeof found);
        }
        float across[100];
        tensor_decode_(stack, ROWS * COLS - 50, 100, across);
        tensor_decode_(stack, ROWS * COLS, 50, expected);
        assert_memory_equal(across + 50, expected, 50 * sizeof *expected);
        tensor_free(stack);
        tensor_scope_end(scope);
    }
    assert_fine();
}

/* Quantised experts give what their decoded values give. */
static void test_quantised_forward(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        int scope = tensor_scope_begin();
        Tensor *up = tensor_parameter_(quantized[kind], SHAPE(4, 66, 17), 1);
        Tensor *down = tensor_parameter_(quantized[kind], SHAPE(4, 17, 33), 1);
        tensor_fill_normal(up, 0, 1);
        tensor_fill_normal(down, 0, 1);
        Tensor *wide_up = tensor_new(DTYPE_F32, SHAPE(4, 66, 17), MEM_INPUT);
        Tensor *wide_down = tensor_new(DTYPE_F32, SHAPE(4, 17, 33), MEM_INPUT);
        tensor_decode_(up, 0, tensor_numel(up), tensor_f32(wide_up));
        tensor_decode_(down, 0, tensor_numel(down), tensor_f32(wide_down));
        Tensor *x = leaf(SHAPE(21, 17), 1, 1), *router = values(SHAPE(21, 4), 2, 2), *grad[2];
        for (int i = 0; i < 2; i++) {
            ExpertsOptions options = {.active = 2, .normalise = 1};
            Tensor *y = tensor_experts(x, router, i ? wide_up : up, i ? wide_down : down, &options);
            assert_int_equal(tensor_backward(tensor_sum(tensor_mul(y, y))), 0);
            grad[i] = copy_of(grad_f32(x), 21 * 17);
            tensor_drop_grad(x);
        }
        assert_true(difference(tensor_f32(grad[0]), tensor_f32(grad[1]), 21 * 17) < 1e-5);
        tensor_free(up);
        tensor_free(down);
        tensor_scope_end(scope);
    }
    assert_fine();
}

/* ---- Ranks ----------------------------------------------------------------------------------- */

static int body(const Ranks *ranks, void *user)
{
    Job *job = user, own = *job;
    Plan plan;
    if (ranks->rank > 0)
        own.base = NULL;
    return plan_and_run(script, &own, ranks, &plan, job->error[ranks->rank]);
}

static void run_as_ranks(Job *job, int ranks)
{
    job->numbers = numbers_new();
    job->base = test_calloc(RANK_NUMBERS, sizeof(float));
    int failed = as_ranks(ranks, job->strategy, body, job);
    for (int r = 0; r < ranks; r++)
        if (job->error[r][0])
            fail_msg("%s: rank %d: %s", ranks_strategy_name(job->strategy), r, job->error[r]);
    assert_int_equal(failed, 0);
}

/* Experts that are divided among ranks, and gathered by the layer that reads them, train the same; and each
 * rank's run is its plan. */
static void test_ranks(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++)
        for (int ranks = 2; ranks <= 3; ranks++) {
            Job first = {.active = 2,
                         .normalise = 1,
                         .coefficient = 0.1f,
                         .checkpoint = kind % 2,
                         .strategy = RANKS_DDP,
                         .weights = kind ? quantized[kind - 1] : 0};
            run_as_ranks(&first, ranks);
            for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++) {
                Job job = first;
                job.strategy = (RankStrategy)strategy;
                run_as_ranks(&job, ranks);
                double apart = numbers_apart(job.numbers, first.numbers);
                if (apart > 0)
                    fail_msg("kind %d, %d ranks, %s: parameters are %g apart", kind, ranks,
                             ranks_strategy_name(job.strategy), apart);
                assert_memory_equal(job.base, first.base, RANK_NUMBERS * sizeof(float));
                test_free(job.numbers);
                test_free(job.base);
            }
            test_free(first.numbers);
            test_free(first.base);
        }
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    (void)state;
    Tensor *x = values(SHAPE(2, 3, 8), 1, 1), *router = values(SHAPE(2, 3, 4), 2, 1);
    Tensor *up = values(SHAPE(4, 6, 8), 3, 1), *down = values(SHAPE(4, 8, 3), 4, 1);
    Tensor *stats = tensor_zeros(DTYPE_F32, SHAPE(3, 4), MEM_BUFFER);
    ExpertsOptions two = {.active = 2};
    assert_non_null(tensor_experts(x, router, up, down, &two));
    assert_null(tensor_experts(NULL, router, up, down, &two));
    assert_null(tensor_experts(x, NULL, up, down, &two));
    assert_null(tensor_experts(x, router, NULL, down, &two));
    assert_null(tensor_experts(x, router, up, NULL, &two));
    assert_fine();
    assert_null(tensor_experts(x, router, down, up, &two));
    assert_error(ERROR_SHAPE, "experts", "gate_up must be (experts,2 hidden,8)", "(2,3,8)", "(4,8,3)");
    assert_null(tensor_experts(x, router, up, values(SHAPE(4, 8, 4), 5, 1), &two));
    assert_error(ERROR_SHAPE, "experts", "down must be (4,8,3)", "(4,8,4)");
    assert_null(tensor_experts(x, values(SHAPE(2, 3, 5), 2, 1), up, down, &two));
    assert_error(ERROR_SHAPE, "experts", "router must have 4 logits a token", "(2,3,5)");
    assert_null(tensor_experts(x, router, up, down, &(ExpertsOptions){.active = 5}));
    assert_error(ERROR_ARGUMENT, "experts", "5 of 4 experts; 1 to 4");
    assert_null(tensor_experts(x, router, up, down, &(ExpertsOptions){0}));
    assert_error(ERROR_ARGUMENT, "experts", "0 of 4 experts");
    assert_null(tensor_experts(x, router, up, down, &(ExpertsOptions){.active = 1, .act = 99}));
    assert_error(ERROR_ARGUMENT, "experts", "no activation 99");
    assert_null(tensor_experts(x, router, up, down, &(ExpertsOptions){.active = 1, .balance = up}));
    assert_error(ERROR_SHAPE, "experts", "balance must be (3,4)");
    ExpertsOptions counted = {.active = 1, .balance = stats, .mask = integers(SHAPE(2, 4), 5, 2)};
    assert_null(tensor_experts(x, router, up, down, &counted));
    assert_error(ERROR_SHAPE, "experts", "mask must have 6 elements", "(2,4)");
    counted.mask = x;
    assert_null(tensor_experts(x, router, up, down, &counted));
    assert_error(ERROR_ARGUMENT, "experts", "mask");
    assert_null(tensor_experts(integers(SHAPE(2, 3, 8), 1, 2), router, up, down, &two));
    assert_error(ERROR_ARGUMENT, "experts", "x must be f32, bf16 or f16, not i32");
    assert_null(tensor_balance_loss(x, stats, 2, 1));
    assert_error(ERROR_SHAPE, "balance_loss", "loss must be (1)", "(2,3,8)");
    assert_null(tensor_balance_loss(tensor_sum(x), stats, 0, 1));
    assert_error(ERROR_ARGUMENT, "balance_loss", "1 expert or more");
    assert_null(tensor_balance_loss(NULL, stats, 2, 1));
    tensor_balance_begin(NULL);
    assert_fine();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_balance),
        TEST(test_balance_of_nothing),
        TEST(test_checkpointed),
        TEST(test_plan_is_run),
        TEST(test_failing_allocations),
        TEST(test_sizes),
        TEST(test_recomputed),
        TEST(test_matrices_by_themselves),
        TEST(test_quantised_forward),
        TEST(test_ranks),
        TEST(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
