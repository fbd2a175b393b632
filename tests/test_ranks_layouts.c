/* Files of ranks that compute a layer together, and of stages: whatever the layout, what is read and written
 * again is equal to the byte, and is what one process writes. */
#include <errno.h>
#include <math.h>

#include "../io/adapter.h"
#include "../io/weights.h"
#include "../nn/lora.h"
#include "ranks_support.h"
#include "resume_support.h"

enum { MOST_RANKS = 8 };

typedef struct Layout {
    int ranks, tensor, stages;
    RankStrategy strategy;
} Layout;

static const Layout layouts[] = {{2, 2, 1, RANKS_DDP},   {4, 4, 1, RANKS_DDP},   {2, 1, 2, RANKS_DDP},
                                 {4, 2, 2, RANKS_DDP},   {4, 2, 1, RANKS_ZERO1}, {4, 2, 1, RANKS_ZERO3},
                                 {6, 2, 1, RANKS_ZERO2}, {4, 1, 2, RANKS_ZERO3}, {8, 2, 2, RANKS_ZERO2}};

typedef struct Job {
    Setting setting;
    const char *precision; /* NULL = fp32 */
    int tied, eight_bit;
    Layout layout;                      /* no ranks: one process */
    int64_t steps;                      /* to train to */
    const char *from, *weights_from;    /* a saved run, weights; NULL = none */
    const char *again, *to, *export_to; /* saved as soon as it is loaded; saved, exported at the end */
    const char *lora; /* layers with adapters; NULL = none: then these are read and written */
    const char *adapter_from;
    int (*at_end)(struct Job *job, const Ranks *ranks, const SavedRun *run);
    char error[MOST_RANKS][RANK_ERROR];
} Job;

static const Job jobs[] = {{.setting = {.family = MODEL_LLAMA, .dropout = 0.1f}, .tied = 1},
                           {.setting = {.family = MODEL_GPT2, .dropout = 0.1f}},
                           {.setting = {.family = MODEL_BERT}},
                           {.setting = {.family = MODEL_LLAMA}, .precision = "bf16-mixed"},
                           {.setting = {.family = MODEL_GPT2}, .precision = "bf16"},
                           {.setting = {.family = MODEL_LLAMA}, .eight_bit = 1},
                           {.setting = {.family = MODEL_GPT2}, .lora = "all"},
                           {.setting = {.family = MODEL_LLAMA}, .lora = "q_proj,down_proj,embed_tokens"}};

typedef struct Part {
    Job *job;
    const Ranks *ranks;
} Part;

/* Heads that four ranks divide; and a hidden width of which two have whole blocks of 8-bit states. */
static ModelPreset preset_of(const Job *job)
{
    ModelPreset preset = preset_of_text(&job->setting, job->tied);
    if (job->setting.family != MODEL_LLAMA)
        return preset;
    LlamaConfig *c = &preset.config.llama;
    c->heads = 8;
    c->kv_heads = 4;
    c->hidden = job->eight_bit ? 2 * DYNAMIC8_BLOCK : 48;
    c->qkv_bias = c->o_bias = c->mlp_bias = job->tied;
    return preset;
}

static void train(const Job *job, const SavedRun *run)
{
    for (int64_t step = optim_steps(run->optimizer); step < job->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(run->loader));)
            nn_backward(run->model, b);
        optim_step(run->optimizer);
        optim_zero_grad(run->optimizer);
        tensor_scope_end(scope);
    }
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    if (job->precision) {
        Precision wide = *precision_by_name(job->precision);
        wide.gradients = DTYPE_F32;
        tensor_set_precision(&wide);
    }
    ModelPreset preset = preset_of(job);
    SavedRun run = {.keep = 9};
    float masked = is_masked(job->setting.family) ? 0.3f : 0;
    run.loader = data_text("builtin", &(TextOptions){.batch = 1,
                                                     .seq = SMALL_SEQ,
                                                     .accumulate = 2,
                                                     .seed = 1,
                                                     .held_out = -1,
                                                     .mask_probability = masked});
    run.model = nn_model(&preset);
    if (job->adapter_from)
        io_load_adapter(run.model, job->adapter_from, NULL, NULL);
    else if (job->lora)
        nn_add_lora(run.model, &(Lora){.rank = 3, .targets = job->lora});
    run.optimizer = job->eight_bit ? optim_adamw8bit(nn_parameters(run.model), &(AdamW8bit){.lr = 1e-3f})
                                   : optim_adamw(nn_parameters(run.model), &(AdamW){.lr = 1e-3f});
    if (job->weights_from)
        io_load_weights(run.model, job->weights_from, NULL, NULL);
    if (job->from)
        io_load_run(job->from, &run, NULL);
    if (job->again)
        io_save_run(job->again, &run);
    train(job, &run);
    if (job->to)
        io_save_run(job->to, &run);
    if (job->export_to && job->lora)
        io_save_adapter(run.model, job->export_to, NULL);
    else if (job->export_to)
        io_save_weights(run.model, &preset, job->export_to, &(WeightsSaving){.shard = 20000});
    if (job->at_end && !context_is_meta(context_current()) && !error_code())
        return job->at_end(job, part->ranks, &run);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Plan plan;
    return plan_and_run(script, &(Part){job, ranks}, ranks, &plan, job->error[ranks->rank]);
}

static const char *text_of(const Job *job)
{
    static char text[256];
    const Layout *l = &job->layout;
    snprintf(text, sizeof text, "%s%s%s %s, %d ranks, %d compute a layer, %d stages, %s",
             setting_text(&job->setting), job->tied ? " tied" : "",
             job->eight_bit ? " 8-bit states"
             : job->lora    ? " adapters"
                            : "",
             job->precision ? job->precision : "fp32", l->ranks, l->tensor, l->stages,
             ranks_strategy_name(l->strategy));
    return text;
}

static void run(Job *job)
{
    const Layout *l = &job->layout;
    Ranks ranks = {.size = l->ranks ? l->ranks : 1,
                   .tensor = l->tensor,
                   .stages = l->stages,
                   .strategy = l->strategy,
                   .unit = job->eight_bit ? DYNAMIC8_BLOCK : 0};
    int failed = as_these_ranks(&ranks, body, job);
    for (int r = 0; r < ranks.size; r++)
        if (job->error[r][0] && !strstr(job->error[r], "a rank has stopped"))
            fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
}

static int same_directories(const char *a, const char *b)
{
    char command[600];
    snprintf(command, sizeof command, "diff -rq %s %s", a, b);
    return system(command) == 0;
}

static int fits(const Job *job, const Layout *layout)
{
    return !job->eight_bit || layout->tensor < 4;
}

/* What one process has trained, read and written by ranks of every layout. */
static void test_read_and_written_again(void **state)
{
    (void)state;
    for (size_t j = 0; j < COUNT(jobs); j++) {
        Job one = jobs[j];
        one.steps = 2;
        one.to = at("one");
        one.export_to = at("weights");
        run(&one);
        for (size_t i = j % 3; i < COUNT(layouts); i += 3) { /* a third of them each: all, with each kind */
            Job job = jobs[j];
            job.layout = layouts[i];
            if (!fits(&job, &layouts[i]))
                continue;
            job.from = at("one");
            job.again = at("again");
            job.export_to = at("exported");
            job.adapter_from = job.lora ? at("weights") : NULL;
            run(&job);
            if (!same_saved_run(at("one/step-00000002"), at("again/step-00000002")))
                fail_msg("%s: what was loaded and saved is not what one process saved", text_of(&job));
            if (!same_directories(at("weights"), at("exported")))
                fail_msg("%s: an export is not that of one process", text_of(&job));
            empty(at("again"));
            empty(at("exported"));
        }
        empty(at("one"));
        empty(at("weights"));
    }
}

/* "random" and "data" of a state. */
static char *where_it_was(const char *saved)
{
    size_t size;
    char path[4200];
    snprintf(path, sizeof path, "%s/state.json", saved);
    char *text = slurp(path, &size);
    text[size] = '\0';
    char *random = strstr(text, "\"random\""), *end = random ? strchr(random, '}') : NULL;
    assert_non_null(end);
    memmove(text, random, (size_t)(end - random));
    text[end - random] = '\0';
    return text;
}

/* What every layout has trained is read by one process, which writes it again, and goes on as a process would
 * that has trained alone. */
static void test_trained_by_ranks(void **state)
{
    (void)state;
    for (size_t j = 0; j < COUNT(jobs); j += j == 2 ? 5 : 1) {
        Job one = jobs[j];
        one.steps = 2;
        one.to = at("one");
        run(&one);
        char *expected = where_it_was(at("one/step-00000002"));
        for (size_t i = j % 4; i < COUNT(layouts); i += 4) {
            Job job = jobs[j], reader = jobs[j];
            job.layout = layouts[i];
            job.steps = 2;
            job.to = reader.from = at("many");
            run(&job);
            reader.again = at("again");
            run(&reader);
            if (!same_saved_run(at("many/step-00000002"), at("again/step-00000002")))
                fail_msg("%s: what one process reads and writes is not what was saved", text_of(&job));
            int data = layouts[i].ranks / layouts[i].tensor / layouts[i].stages;
            char *got = where_it_was(at("many/step-00000002"));
            if (data == 1)
                assert_string_equal(got, expected);
            test_free(got);
            empty(at("many"));
            empty(at("again"));
        }
        test_free(expected);
        empty(at("one"));
    }
}

/* ---- What goes wrong ------------------------------------------------------------------------- */

static FileCalls real;
static _Thread_local int full; /* this rank's disk is */

static ssize_t full_write(int file, const void *bytes, size_t count)
{
    errno = ENOSPC;
    return full ? -1 : real.write(file, bytes, count);
}

/* Nobody goes on before all are here. */
static void meet(void)
{
    ranks_agree_error_(context_here(), NULL);
}

static int complain(Job *job, const Ranks *ranks, const char *what)
{
    snprintf(job->error[ranks->rank], RANK_ERROR, "%s (%d: %.300s)", what, error_code(), error_message());
    return 1;
}

/* Whichever allocation of the rank fails, all ranks have the error, and the save before is whole. */
static int fail_allocations(Job *job, const Ranks *ranks, const SavedRun *run)
{
    static _Atomic int over;
    int victim = ranks->rank == ranks->size - 1;
    over = 0;
    meet();
    for (uint64_t n = 1; !over; n++) {
        meet();
        if (victim)
            memtrack_fail_nth(n);
        meet();
        int saved = io_save_run(job->to, run);
        meet();
        if (victim && memtrack_fail_pending())
            over = 1;
        meet();
        if (victim)
            memtrack_fail_nth(0);
        if ((saved == ERROR_NONE) != (over != 0) || (saved && saved != ERROR_HOST_MEMORY))
            return complain(job, ranks, "memory failed at one rank, and this one does not know");
        error_clear();
        SavedRunFound found;
        if (io_find_saved_run(job->to, &found) || !found.path[0] || found.note[0])
            return complain(job, ranks, "the save before is not whole");
    }
    full = victim;
    int saved = io_save_run(job->to, run);
    full = 0;
    if (saved != ERROR_FILE || !strstr(error_message(), "No space left"))
        return complain(job, ranks, "a full disk of one rank is not everybody's");
    error_clear();
    return io_load_run(job->to, run, NULL) ? complain(job, ranks, "the save before is gone") : 0;
}

static void test_one_rank_fails(void **state)
{
    (void)state;
    Job job = jobs[0];
    job.layout = (Layout){4, 2, 2, RANKS_DDP};
    job.to = at("run");
    job.at_end = fail_allocations;
    real = file_calls;
    file_calls.write = full_write;
    run(&job);
    file_calls = real;
}

/* Blocks of 256 of a part that are none of the whole: the plan says so. */
static void test_blocks_of_states(void **state)
{
    (void)state;
    Job job = jobs[5];
    Ranks ranks = {.size = 4, .tensor = 4, .unit = DYNAMIC8_BLOCK};
    RunOptions o = {.threads = 1, .seed = 5, .quiet = 1, .ranks = &ranks};
    Plan plan;
    job.to = at("run");
    assert_int_not_equal(plan_script(script, &(Part){&job, &ranks}, &o, &plan), 0);
    assert_non_null(strstr(plan.error, "8-bit states are in blocks of 256"));
    assert_non_null(strstr(plan.error, "down_proj"));
    plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_read_and_written_again), TEST(test_trained_by_ranks),
                                       TEST(test_one_rank_fails), TEST(test_blocks_of_states)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
