/* Files and ranks: what several ranks write together is, byte for byte, what one process writes; any number
 * of them reads it back; and what stops one of them stops all, with the saves before it as they were. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>

#include "../io/adapter.h"
#include "../io/weights.h"
#include "../nn/lora.h"
#include "ranks_support.h"
#include "resume_support.h"

enum { MOST_RANKS = 4, JOBS = 8, ADAPTERS = 6 };

typedef struct Job {
    Setting setting;
    const char *precision; /* NULL = fp32 */
    int tied, eight_bit, lora, ranks, accumulate;
    RankStrategy strategy;
    int64_t steps;                   /* to train to */
    const char *from, *weights_from; /* a saved run, weights; NULL = none */
    const char *again, *to,
        *export; /* saved as soon as it is loaded; saved, exported at the end; NULL = not */
    SafetensorsType type;
    float *weights; /* every rank writes its part */
    int (*at_end)(struct Job *job, const Ranks *ranks, const SavedRun *run);
    const char *directory, *other; /* for that */
    const char *adapter_from, *adapter;
    int alone; /* one process, that keeps micro-batches apart */
    int replicas;
    char error[MOST_RANKS][RANK_ERROR];
} Job;

typedef struct Part {
    Job *job;
    const Ranks *ranks;
} Part;

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    float masked = is_masked(job->setting.family) ? 0.3f : 0;
    Loader *data = data_text("builtin", &(TextOptions){.batch = 2,
                                                       .seq = SMALL_SEQ,
                                                       .accumulate = job->accumulate,
                                                       .seed = 1,
                                                       .held_out = -1,
                                                       .mask_probability = masked});
    if (job->precision) { /* its gradients in fp32, so that sums of small parameters are rounded nowhere */
        Precision wide = *precision_by_name(job->precision);
        wide.gradients = DTYPE_F32;
        tensor_set_precision(&wide);
    }
    ModelPreset preset = preset_of_text(&job->setting, job->tied);
    Module *model = nn_model(&preset);
    if (job->adapter_from)
        io_load_adapter(model, job->adapter_from, NULL, NULL);
    else if (job->lora)
        nn_add_lora(model, &(Lora){.rank = 4, .targets = "q_proj,down_proj,embed_tokens"});
    Optimizer *optimizer =
        job->eight_bit ? optim_adamw8bit(nn_parameters(model), &(AdamW8bit){.lr = 1e-3f})
                       : optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f, .weight_decay = 0.1f});
    SavedRun run = {.model = model, .optimizer = optimizer, .loader = data, .keep = 9};
    if (job->weights_from)
        io_load_weights(model, job->weights_from, NULL, NULL);
    if (job->from)
        io_load_run(job->from, &run, NULL);
    if (job->again)
        io_save_run(job->again, &run);
    for (int64_t step = optim_steps(optimizer); step < job->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    if (job->to)
        io_save_run(job->to, &run);
    if (job->export)
        io_save_weights(model, &preset, job->export, &(WeightsSaving){.type = job->type, .shard = 20000});
    if (job->adapter)
        io_save_adapter(model, job->adapter, NULL);
    if (job->at_end && !meta && !error_code())
        return job->at_end(job, part->ranks, &run);
    if (!meta && !error_code() && job->weights)
        write_parts(nn_parameters(model), job->weights);
    return error_code();
}

/* What reads and writes files changes neither plan nor run. */
static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Ranks own = *ranks;
    Part part = {job, ranks};
    Plan plan;
    own.unit = job->eight_bit ? DYNAMIC8_BLOCK : 0;
    return plan_and_run(script, &part, &own, &plan, job->error[ranks->rank]);
}

static const char *text_of(const Job *job)
{
    static char text[256];
    snprintf(text, sizeof text, "%s%s%s %s, %s, %d ranks", setting_text(&job->setting),
             job->tied ? " tied" : "",
             job->eight_bit ? " 8-bit states"
             : job->lora    ? " adapters"
                            : "",
             job->precision ? job->precision : "fp32", ranks_strategy_name(job->strategy), job->ranks);
    return text;
}

static void run(Job *job)
{
    const Ranks is = {
        .size = job->ranks, .replicas = job->replicas, .strategy = job->alone ? RANKS_ZERO2 : job->strategy};
    int failed = as_these_ranks(&is, body, job);
    for (int r = 0; r < job->ranks; r++) /* others say that they were left alone */
        if (job->error[r][0] && !strstr(job->error[r], "a rank has stopped"))
            fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
}

/* The names of a directory; how many. */
static int names_in(const char *directory)
{
    int count = 0;
    DIR *dir = opendir(directory);
    for (const struct dirent *entry; dir && (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return count;
}

static Job job_of(int i)
{
    static const Job jobs[] = {{.setting = {.family = MODEL_LLAMA, .dropout = 0.1f}},
                               {.setting = {.family = MODEL_LLAMA}, .tied = 1},
                               {.setting = {.family = MODEL_BERT, .dropout = 0.1f}},
                               {.setting = {.family = MODEL_LLAMA}, .eight_bit = 1},
                               {.setting = {.family = MODEL_LLAMA}, .precision = "bf16-mixed"},
                               {.setting = {.family = MODEL_GPT2}, .precision = "bf16"},
                               {.setting = {.family = MODEL_LLAMA}, .lora = 1},
                               {.setting = {.family = MODEL_MIXTRAL}}};
    return jobs[i];
}

/* ---- Saved runs ------------------------------------------------------------------------------ */

/* Two steps by N ranks, one micro-batch each, and the same by one process that accumulates them apart. */
static void test_saved_by_any_ranks(void **state)
{
    (void)state;
    for (int i = 0; i < JOBS; i++)
        for (int ranks = 1; ranks <= 3; ranks++) {
            Job one = job_of(i);
            one.ranks = one.alone = 1;
            one.accumulate = ranks;
            one.steps = 2;
            one.to = at("one");
            run(&one);
            for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++) {
                Job job = job_of(i);
                job.ranks = ranks;
                job.accumulate = 1;
                job.strategy = (RankStrategy)strategy;
                job.steps = 2;
                job.to = at("many");
                run(&job);
                if (!same_saved_run(at("one/step-00000002"), at("many/step-00000002")))
                    fail_msg("%s: the files are not those of one process", text_of(&job));
                assert_int_equal(names_in(at("many")), 1);
                assert_int_equal(names_in(at("many/step-00000002")), 3);
                empty(at("many"));
            }
            empty(at("one"));
        }
}

/* Four micro-batches a step, of 1, 2 or 4 ranks with any strategy: what is read and saved again is equal to
 * the byte, and two more steps are those of the run that was not stopped, where sums have the same order to
 * the bit. */
static void test_resumed_by_any_ranks(void **state)
{
    (void)state;
    for (int i = 0; i < JOBS; i++) {
        Job saver = job_of(i);
        saver.ranks = 4;
        saver.accumulate = 1;
        saver.strategy = RANKS_ZERO3;
        saver.steps = 2;
        saver.to = at("run");
        run(&saver);
        saver.steps = 4;
        saver.to = NULL;
        saver.weights = numbers_new();
        run(&saver); /* from its first step on */
        for (int ranks = 1; ranks <= 4; ranks *= 2)
            for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++) {
                Job job = job_of(i);
                job.ranks = ranks;
                job.accumulate = 4 / ranks;
                job.alone = ranks == 1 && strategy == RANKS_ZERO2;
                job.strategy = (RankStrategy)strategy;
                job.from = at("run");
                job.again = at("again");
                job.steps = 4;
                job.weights = numbers_new();
                run(&job);
                if (!same_saved_run(at("run/step-00000002"), at("again/step-00000002")))
                    fail_msg("%s: what was loaded is not what was saved", text_of(&job));
                double d = numbers_apart(job.weights, saver.weights);
                int same_order = ranks == 4 || job.alone;
                double most = same_order ? 0
                              : job.precision || job.eight_bit
                                  ? 1e-5 /* a code or a half may be rounded otherwise */
                                  : 1e-6;
                if (!(d <= most))
                    fail_msg("%s: weights are %g apart from those of the run that was not stopped",
                             text_of(&job), d);
                test_free(job.weights);
                empty(at("again"));
            }
        test_free(saver.weights);
        empty(at("run"));
    }
}

static int same_directories(const char *a, const char *b)
{
    char command[600];
    snprintf(command, sizeof command, "diff -rq %s %s", a, b);
    return system(command) == 0;
}

/* Of replicas the first writes, and all read. */
static void test_replicas_write_once(void **state)
{
    (void)state;
    for (int i = 0; i < JOBS; i += 2) {
        Job one = job_of(i), job = one, reader;
        one.ranks = one.alone = 1;
        one.accumulate = 4;
        one.steps = job.steps = 1;
        one.to = at("one");
        one.adapter = i == ADAPTERS ? at("alone") : NULL;
        run(&one);
        job.ranks = 4;
        job.replicas = 2;
        job.accumulate = 1;
        job.strategy = i % 4 ? RANKS_ZERO2 : RANKS_ZERO3;
        reader = job;
        job.to = at("many");
        job.adapter = i == ADAPTERS ? at("together") : NULL;
        run(&job);
        if (!same_saved_run(at("one/step-00000001"), at("many/step-00000001")))
            fail_msg("%s: the files are not those of one process", text_of(&job));
        reader.from = at("one");
        reader.again = at("again");
        run(&reader);
        if (!same_saved_run(at("one/step-00000001"), at("again/step-00000001")))
            fail_msg("%s: what was loaded is not what was saved", text_of(&reader));
        if (i == ADAPTERS)
            assert_true(same_directories(at("alone"), at("together")));
        empty(at("one"));
        empty(at("many"));
        empty(at("again"));
    }
}

/* ---- Weights --------------------------------------------------------------------------------- */

/* Shards, of every type, by ranks that have a third of each parameter, and by one process; and read by ranks
 * again. */
static void test_weights_by_ranges(void **state)
{
    (void)state;
    for (int i = 0; i < ADAPTERS; i++)
        for (int type = SAFETENSORS_F32; type <= SAFETENSORS_BF16; type++) {
            Job one = job_of(i), many = one, reader = one;
            one.ranks = one.alone = 1;
            one.accumulate = 3;
            many.ranks = reader.ranks = 3;
            many.accumulate = reader.accumulate = 1;
            many.strategy = reader.strategy = RANKS_ZERO3;
            one.type = many.type = reader.type = (SafetensorsType)type;
            one.steps = many.steps = 1;
            one.export = at("one");
            many.export = at("many");
            run(&one);
            run(&many);
            assert_true(names_in(at("one")) > 3); /* shards, their index, a configuration */
            if (!same_directories(at("one"), at("many")))
                fail_msg("%s: an export as %s is not that of one process", text_of(&many),
                         safetensors_type_name((SafetensorsType)type));
            reader.weights_from = at("one");
            reader.export = at("read");
            run(&reader);
            if (!same_directories(at("one"), at("read")))
                fail_msg("%s: what was read is not what was written", text_of(&reader));
            empty(at("one"));
            empty(at("many"));
            empty(at("read"));
        }
}

/* Adapters: an embedding's first matrix lies the other way round in the file. */
static void test_adapters_by_ranges(void **state)
{
    (void)state;
    Job one = job_of(ADAPTERS), many = one, reader = one;
    one.ranks = one.alone = 1;
    one.accumulate = 3;
    many.ranks = reader.ranks = 3;
    many.accumulate = reader.accumulate = 1;
    many.strategy = reader.strategy = RANKS_ZERO3;
    one.steps = many.steps = 2;
    one.adapter = at("one");
    many.adapter = at("many");
    run(&one);
    run(&many);
    if (!same_directories(at("one"), at("many")))
        fail_msg("an adapter is not that of one process");
    reader.adapter_from = at("one");
    reader.adapter = at("read");
    run(&reader);
    if (!same_directories(at("one"), at("read")))
        fail_msg("the adapter that was read is not what was written");
}

/* Reading gathers nothing: all that a rank has are its parts, and what is too small for one. */
static int look_at_books(Job *job, const Ranks *ranks, const SavedRun *run)
{
    int64_t whole = 0;
    for (int i = 0; i < nn_parameters(run->model).count; i++)
        whole += tensor_numel(nn_parameters(run->model).items[i]) * (int64_t)sizeof(float);
    const MemStats *stats = memtrack_stats(context_here()->ledger);
    uint64_t gathered = stats->own_peak[MEM_GATHERED], parameters = stats->own_peak[MEM_PARAMETER];
    if (gathered || parameters * 2 > (uint64_t)whole)
        snprintf(job->error[ranks->rank], sizeof job->error[0],
                 "%llu bytes gathered, and %llu of %llu are here", (unsigned long long)gathered,
                 (unsigned long long)parameters, (unsigned long long)whole);
    return 0;
}

static void test_reading_gathers_nothing(void **state)
{
    (void)state;
    Job one = job_of(0), many = one;
    one.ranks = one.alone = one.accumulate = 1;
    one.export = at("one");
    run(&one);
    many.ranks = 4;
    many.accumulate = 1;
    many.strategy = RANKS_ZERO3;
    many.weights_from = at("one");
    many.at_end = look_at_books;
    run(&many);
}

/* ---- What goes wrong ------------------------------------------------------------------------- */

static FileCalls real;
static _Thread_local int bad; /* this rank's calls of writing fail */

static int bad_open(const char *path, int flags, mode_t mode)
{
    if (bad == 1 && (flags & O_ACCMODE) == O_WRONLY) {
        errno = EACCES;
        return -1;
    }
    return real.open(path, flags, mode);
}

static ssize_t bad_write(int file, const void *bytes, size_t count)
{
    if (bad == 2) {
        errno = ENOSPC;
        return -1;
    }
    return real.write(file, bytes, count);
}

static int bad_fsync(int file)
{
    if (bad == 3) {
        errno = EIO;
        return -1;
    }
    return real.fsync(file);
}

static int bad_rename(const char *from, const char *to)
{
    if (bad == 4) {
        errno = EROFS;
        return -1;
    }
    return real.rename(from, to);
}

static int complain(Job *job, const Ranks *ranks, const char *what)
{
    snprintf(job->error[ranks->rank], sizeof job->error[0], "%s (%d: %.300s)", what, error_code(),
             error_message());
    return 1;
}

/* Nobody goes on before all are here. */
static void meet(void)
{
    ranks_agree_error_(context_here(), NULL);
}

/* Every rank knows, and all that was there is there still; then it works again. */
static int refuse_files(Job *job, const Ranks *ranks, const SavedRun *run)
{
    static const char *const why[] = {"Permission denied", "No space left", "Input/output error",
                                      "Read-only"};
    for (int kind = 1; kind <= 4; kind++)
        for (int r = 0; r < (kind == 4 ? 1 : ranks->size); r++) { /* only rank 0 moves files */
            bad = ranks->rank == r ? kind : 0;
            int status = io_save_run(job->directory, run);
            bad = 0;
            if (status != ERROR_FILE || !strstr(error_message(), why[kind - 1]))
                return complain(job, ranks, "a rank that cannot write is not everybody's error");
            char told[32];
            snprintf(told, sizeof told, "rank %d: ", r);
            if (ranks->rank != r && strncmp(error_message(), told, strlen(told)) != 0)
                return complain(job, ranks, "the message does not say which rank");
            error_clear();
            bad = ranks->rank == r ? kind : 0;
            status = io_save_weights(run->model, NULL, job->other, NULL);
            bad = 0;
            if (status != ERROR_FILE)
                return complain(job, ranks, "an export is written though a rank cannot write");
            error_clear();
            meet();
            if (names_in(job->directory) != 1 || names_in(job->other) != 0)
                return complain(job, ranks, "something is left of a failed save");
            meet();
        }
    optim_set_steps(run->optimizer, 2);
    if (io_save_run(job->directory, run) || io_save_weights(run->model, NULL, job->other, NULL))
        return complain(job, ranks, "saving does not work again");
    return 0;
}

static void test_one_rank_cannot_write(void **state)
{
    (void)state;
    real = file_calls;
    file_calls.open = bad_open;
    file_calls.write = bad_write;
    file_calls.fsync = bad_fsync;
    file_calls.rename = bad_rename;
    Job job = job_of(0);
    job.ranks = 3;
    job.accumulate = 1;
    job.strategy = RANKS_ZERO3;
    job.steps = 1;
    job.to = job.directory = at("run");
    job.other = at("out");
    job.at_end = refuse_files;
    assert_int_equal(mkdir(job.other, 0777), 0);
    run(&job);
    file_calls = real;
}

/* Whichever allocation of a rank fails, all ranks have the error, and the save before is whole. */
static int fail_allocations(Job *job, const Ranks *ranks, const SavedRun *run)
{
    static _Atomic int over_saving, over_loading;
    over_saving = over_loading = 0;
    meet();
    for (uint64_t n = 1; !over_saving; n++) {
        meet();
        if (ranks->rank == 0)
            memtrack_fail_nth(n);
        meet();
        int saved = io_save_run(job->directory, run);
        meet();
        if (ranks->rank == 0 && memtrack_fail_pending())
            over_saving = 1;
        meet();
        if (saved != ERROR_NONE && saved != ERROR_HOST_MEMORY)
            return complain(job, ranks, "another error than that of memory");
        if ((saved == ERROR_NONE) != (over_saving != 0))
            return complain(job, ranks, "memory failed at one rank, and this one saved");
        error_clear();
        if (ranks->rank == 0)
            memtrack_fail_nth(0);
        meet();
        SavedRunFound found;
        if (io_find_saved_run(job->directory, &found) || !found.path[0] || found.note[0] ||
            names_in(job->directory) != 1)
            return complain(job, ranks, "the save before is not whole");
    }
    for (uint64_t n = 1; !over_loading; n++) {
        meet();
        if (ranks->rank == 0)
            memtrack_fail_nth(n);
        meet();
        int loaded = io_load_run(job->directory, run, NULL);
        meet();
        if (ranks->rank == 0 && memtrack_fail_pending())
            over_loading = 1;
        meet();
        if ((loaded == ERROR_NONE) != (over_loading != 0))
            return complain(job, ranks, "memory failed at one rank, and this one loaded");
        error_clear();
        if (ranks->rank == 0)
            memtrack_fail_nth(0);
        meet();
    }
    return 0;
}

static void test_every_allocation_fails(void **state)
{
    (void)state;
    Job job = job_of(0);
    job.ranks = 2;
    job.accumulate = 1;
    job.strategy = RANKS_ZERO3;
    job.steps = 1;
    job.to = job.directory = at("run");
    job.at_end = fail_allocations;
    run(&job);
}

/* What one rank finds damaged, all pass over; and a directory that is another one elsewhere is no run of all.
 */
static int find_damage(Job *job, const Ranks *ranks, const SavedRun *run)
{
    SavedRunFound found;
    if (io_load_run(job->directory, run, &found) || found.step != 1 || !strstr(found.note, "is damaged"))
        return complain(job, ranks, "the damaged save is not passed over");
    char path[300];
    snprintf(path, sizeof path, ranks->rank ? "%s/step-00000001" : "%s/step-00000002",
             ranks->rank ? job->directory : job->other);
    int status = io_load_run(path, run, &found);
    if (status != ERROR_FILE || !strstr(error_message(), "all ranks must see the same directory"))
        return complain(job, ranks, "two directories are taken for one");
    error_clear();
    return 0;
}

static void test_damage(void **state)
{
    (void)state;
    size_t size;
    Job job = job_of(0);
    job.ranks = 3;
    job.accumulate = 1;
    job.strategy = RANKS_ZERO2;
    for (job.steps = 1; job.steps <= 2; job.steps++) {
        job.to = at("run");
        run(&job);
    }
    job.steps = 1;
    job.to = at("other");
    run(&job);
    char *bytes = slurp(at("run/step-00000002/optimizer.safetensors"), &size);
    bytes[size / 2] = (char)(bytes[size / 2] ^ 1);
    spill(at("run/step-00000002/optimizer.safetensors"), bytes, size);
    test_free(bytes);
    job.steps = 2;
    job.to = at("more"); /* its step 2 is whole */
    run(&job);
    job.steps = 0;
    job.to = NULL;
    job.directory = at("run");
    job.other = at("more");
    job.at_end = find_damage;
    run(&job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_saved_by_any_ranks),      TEST(test_resumed_by_any_ranks),
                                       TEST(test_weights_by_ranges),       TEST(test_adapters_by_ranges),
                                       TEST(test_reading_gathers_nothing), TEST(test_one_rank_cannot_write),
                                       TEST(test_every_allocation_fails),  TEST(test_damage),
                                       TEST(test_replicas_write_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
