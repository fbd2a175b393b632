/* A text written by ranks that compute each layer together: the tokens are those of one process, on every
 * rank; each has the keys and values of its heads; and each rank's plan is its run. */
#include "../nn/lora.h"
#include "../nn/sample.h"
#include "ranks_support.h"

enum { MOST_RANKS = 4, MOST_TOKENS = 64 };

typedef struct Job {
    ModelFamily family;
    DType weights; /* and of the cache */
    int tensor, batch, prompt, tokens, context, prefill, tied;
    float temperature;
    int32_t written[MOST_RANKS][MOST_TOKENS]; /* of each rank, position by position */
    int count[MOST_RANKS];
    MemStats planned[MOST_RANKS];
    char error[MOST_RANKS][RANK_ERROR];
} Job;

typedef struct Part {
    Job *job;
    int rank;
} Part;

enum { LAYERS = 2, WIDTH = 64, HEADS = 8, KV_HEADS = 4, HEAD = WIDTH / HEADS };

static Module *model_of(const Job *job)
{
    nn_set_weights(&(Weights){.dtype = job->weights, .frozen = job->weights != DTYPE_F32});
    return job->family == MODEL_GPT2
               ? nn_gpt2(&(Gpt2Config){
                     .vocab = 257, .dim = WIDTH, .layers = LAYERS, .heads = HEADS, .ffn = 96, .max_seq = 64})
               : nn_llama(&(LlamaConfig){.vocab = 257,
                                         .dim = WIDTH,
                                         .layers = LAYERS,
                                         .heads = HEADS,
                                         .kv_heads = KV_HEADS,
                                         .hidden = 96,
                                         .tied = job->tied,
                                         .qkv_bias = job->tied});
}

static int note(void *user, const int32_t *tokens, int batch)
{
    const Part *part = user;
    Job *job = part->job;
    for (int b = 0; b < batch && job->count[part->rank] < MOST_TOKENS; b++)
        job->written[part->rank][job->count[part->rank]++] = tokens[b];
    return 0;
}

static int script(void *config)
{
    static const int32_t prompt[] = {84, 104, 101, 32, 7, 200, 256, 31, 90, 4, 18, 77};
    Part *part = config;
    const Job *job = part->job;
    Module *model = model_of(job);
    return nn_generate(model, &(GenerateOptions){.prompt = prompt,
                                                 .prompt_tokens = job->prompt,
                                                 .tokens = job->tokens,
                                                 .batch = job->batch,
                                                 .context = job->context,
                                                 .prefill = job->prefill,
                                                 .cached = job->weights,
                                                 .sample = {.temperature = job->temperature, .seed = 3},
                                                 .written = note,
                                                 .user = part});
}

/* A plan has one forward of each kind, a run as many as there are tokens: of two tokens behind a prompt that
 * is read at once all events are equal. */
static int plan_and_write(Script what, Part *part, const Ranks *ranks, Plan *plan)
{
    char *error = part->job->error[part->rank];
    Ranks alone = *ranks;
    alone.transport = NULL;
    RunOptions o = {.threads = 1, .seed = 5, .quiet = 1, .ranks = &alone};
    RunResult result;
    if (plan_script(what, part, &o, plan) != 0)
        return snprintf(error, RANK_ERROR, "plan: %.480s", plan->error);
    o.ranks = ranks;
    plan_execute(what, part, &o, plan, &result);
    plan_free(plan);
    const MemStats *run = &result.memory.stats, *planned = &plan->memory.stats;
    if (result.status)
        return snprintf(error, RANK_ERROR, "run: %.480s", result.error);
    if (run->peak != planned->peak || run->needs != planned->needs || result.segments_off_plan ||
        (part->job->tokens == 2 && run->event_hash != planned->event_hash))
        return snprintf(error, RANK_ERROR, "the run is not its plan");
    return 0;
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Part part = {job, ranks->rank};
    Plan plan;
    int failed = plan_and_write(script, &part, ranks, &plan);
    job->planned[ranks->rank] = plan.memory.stats;
    return failed;
}

static void write_alone(Job *job)
{
    Part part = {job, 0};
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
    if (script(&part) != 0)
        fail_msg("alone: %s", error_message());
    leave(v);
}

static int64_t cache_of(const Job *job, int ranks)
{
    int heads = job->family == MODEL_GPT2 ? HEADS : KV_HEADS;
    int context = job->context ? job->context : job->prompt + job->tokens - 1;
    return (int64_t)2 * LAYERS * heads / ranks * HEAD * context * job->batch *
           (int64_t)dtype_bytes(job->weights, 1, 1);
}

static void assert_as_one(Job job)
{
    Job alone = job;
    write_alone(&alone);
    int failed = as_these_ranks(&(Ranks){.size = job.tensor, .tensor = job.tensor}, body, &job);
    for (int r = 0; r < job.tensor; r++) {
        if (job.error[r][0])
            fail_msg("%d ranks: rank %d: %s", job.tensor, r, job.error[r]);
        assert_int_equal(job.count[r], job.tokens * job.batch);
        for (int i = 0; i < job.count[r]; i++)
            if (job.written[r][i] != alone.written[0][i])
                fail_msg("rank %d of %d: token %d is %d, and %d of one process", r, job.tensor, i,
                         job.written[r][i], alone.written[0][i]);
        assert_int_equal(job.planned[r].own_peak[MEM_KV_CACHE], cache_of(&job, job.tensor));
        assert_int_equal(job.planned[r].event_hash, job.planned[0].event_hash);
    }
    assert_int_equal(failed, 0);
}

static const Job llama = {.family = MODEL_LLAMA, .batch = 1, .prompt = 12, .tokens = 16, .prefill = 5};

static void test_greedy_text_is_that_of_one_process(void **state)
{
    (void)state;
    for (int tensor = 2; tensor <= 4; tensor += 2) {
        Job job = llama;
        job.tensor = tensor;
        assert_as_one(job);
        job.tied = 1;
        job.batch = 2;
        assert_as_one(job);
        job.family = MODEL_GPT2;
        assert_as_one(job);
        job.tokens = 2; /* and a prompt that is read at once */
        job.prefill = 0;
        assert_as_one(job);
    }
}

static void test_drawn_text_is_that_of_one_process(void **state)
{
    (void)state;
    Job job = llama;
    job.tensor = 2;
    job.batch = 3;
    job.temperature = 0.9f;
    assert_as_one(job);
}

/* Half of it is read again. */
static void test_past_the_cache(void **state)
{
    (void)state;
    Job job = llama;
    job.tensor = 2;
    job.tokens = 30;
    job.context = 16;
    assert_as_one(job);
}

/* A part of a sum is rounded to 16 bits on its way, so tokens may differ from one process's; not among ranks.
 */
static void test_weights_of_16_bits(void **state)
{
    (void)state;
    Job job = llama;
    job.tensor = 2;
    job.weights = DTYPE_BF16;
    assert_int_equal(as_these_ranks(&(Ranks){.size = 2, .tensor = 2}, body, &job), 0);
    assert_int_equal(job.count[0], job.tokens);
    assert_memory_equal(job.written[1], job.written[0], sizeof job.written[0]);
    assert_int_equal(job.planned[1].own_peak[MEM_KV_CACHE], cache_of(&job, 2));
}

/* ---- What is refused --------------------------------------------------------------------------- */

/* Every rank reads a prompt of its own: they would write different texts. */
static int other_prompt(void *config)
{
    Part *part = config;
    Job *job = part->job;
    Module *model = model_of(job);
    int32_t prompt[] = {5, 6, 7 + 20 * part->rank};
    nn_generate(model, &(GenerateOptions){.prompt = prompt, .prompt_tokens = 3, .tokens = 8});
    return error_code();
}

static int differing(const Ranks *ranks, void *user)
{
    Job *job = user;
    Part part = {job, ranks->rank};
    Plan plan;
    return plan_and_write(other_prompt, &part, ranks, &plan);
}

static void test_ranks_that_write_different_texts(void **state)
{
    (void)state;
    Job job = llama;
    int found = 0;
    assert_true(as_these_ranks(&(Ranks){.size = 2, .tensor = 2}, differing, &job) > 0);
    for (int r = 0; r < 2; r++)
        found += strstr(job.error[r], "compute each layer together and have read or drawn other tokens") != NULL;
    assert_true(found > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_text_is_that_of_one_process),
        cmocka_unit_test(test_drawn_text_is_that_of_one_process), cmocka_unit_test(test_past_the_cache),
        cmocka_unit_test(test_weights_of_16_bits), cmocka_unit_test(test_ranks_that_write_different_texts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
