/* Ranks over MPI: this program starts itself by mpirun. All that a transport does, a training, and what
 * becomes of the others where one rank fails: they end within seconds, with a status that is not 0, and a
 * sentence says why. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../data/data.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "../ranks/launcher_.h"
#include "../tensor/ranks_.h"
#include "support.h"

enum { OUTPUT = 16384, WEIGHTS = 200000, STEPS = 3, LATE = 3, GONE = 20 };

/* ---- What a rank does --------------------------------------------------------------------------- */

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            return fprintf(stderr, "rank %d: line %d: %s: %s\n", ranks->rank, __LINE__, #condition,          \
                           ranks->transport->why(ranks->transport->self));                                   \
    } while (0)

/* What rank r has at byte i. */
static unsigned char byte_of(int rank, uint64_t i)
{
    return (unsigned char)(hash32((uint32_t)i * 31u + (uint32_t)rank) >> 5);
}

static void fill(unsigned char *to, int rank, uint64_t first, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        to[i] = byte_of(rank, first + i);
}

static int is_filled(const unsigned char *from, int rank, uint64_t first, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (from[i] != byte_of(rank, first + i))
            return 0;
    return 1;
}

/* `me` of `size` in this group; names[r] is the rank of its member r. */
static int gather_and_exchange(const Ranks *ranks, RankGroup group, int me, int size, const int *names)
{
    static const uint64_t sizes[] = {64, 64 * 37, (1 << 20) + 64};
    const Transport *t = ranks->transport;
    for (size_t s = 0; s < COUNT(sizes); s++) {
        uint64_t bytes = sizes[s];
        unsigned char *from = test_calloc((size_t)size, bytes), *to = test_calloc((size_t)size, bytes);
        fill(to + (uint64_t)me * bytes, names[me], 0, bytes);
        MUST(t->gather(t->self, group, to, bytes) == 0);
        for (int r = 0; r < size; r++)
            MUST(is_filled(to + (uint64_t)r * bytes, names[r], 0, bytes));
        for (int r = 0; r < size; r++)
            fill(from + (uint64_t)r * bytes, names[me], (uint64_t)r, bytes);
        MUST(t->exchange(t->self, group, from, to, bytes) == 0);
        for (int r = 0; r < size; r++)
            MUST(is_filled(to + (uint64_t)r * bytes, names[r], (uint64_t)me, bytes));
        test_free(from);
        test_free(to);
    }
    return 0;
}

static int broadcast_and_sum(const Ranks *ranks, RankGroup group, int me, int size)
{
    static const uint64_t sizes[] = {1, 63, 100003};
    const Transport *t = ranks->transport;
    for (size_t s = 0; s < COUNT(sizes); s++) {
        uint64_t n = sizes[s];
        int root = (int)s % size;
        unsigned char *bytes = test_calloc(n, 1);
        float *from = test_calloc((size_t)size * n, sizeof *from), *to = test_calloc(n, sizeof *to);
        if (me == root)
            fill(bytes, root, 0, n);
        MUST(t->broadcast(t->self, group, bytes, n, root) == 0);
        MUST(is_filled(bytes, root, 0, n));
        for (uint64_t i = 0; i < (uint64_t)size * n; i++)
            from[i] =
                (float)(i % 100 * (unsigned)(me + 1)); /* small whole numbers: every order has this sum */
        MUST(t->sum_parts(t->self, group, from, to, n) == 0);
        unsigned times = (unsigned)(size * (size + 1) / 2);
        for (uint64_t i = 0; i < n; i++)
            MUST(to[i] == (float)(((uint64_t)me * n + i) % 100 * times));
        MUST(t->sum(t->self, group, from, (uint64_t)size * n) == 0);
        for (uint64_t i = 0; i < (uint64_t)size * n; i++)
            MUST(from[i] == (float)(i % 100 * times));
        test_free(bytes);
        test_free(from);
        test_free(to);
    }
    return 0;
}

/* A block's, which go on together: more than the plugin has at a time. */
static int gathers_together(const Ranks *ranks)
{
    enum { GATHERS = 150 };
    const Transport *t = ranks->transport;
    unsigned char *data[GATHERS];
    MUST(t->begin(t->self) == 0);
    for (int i = 0; i < GATHERS; i++) {
        uint64_t bytes = (i % 2 ? 64 : 4) * (uint64_t)(1 + i * 7 % 100);
        data[i] = test_calloc((size_t)ranks->size, bytes);
        fill(data[i] + (uint64_t)ranks->rank * bytes, ranks->rank, (uint64_t)i, bytes);
        MUST(t->gather(t->self, RANKS_ALL, data[i], bytes) == 0);
    }
    MUST(t->later(t->self) == 0);
    MUST(t->barrier(t->self, RANKS_ALL) == 0); /* is over, while they go on */
    MUST(t->end(t->self) == 0);
    for (int i = 0; i < GATHERS; i++) {
        uint64_t bytes = (i % 2 ? 64 : 4) * (uint64_t)(1 + i * 7 % 100);
        for (int r = 0; r < ranks->size; r++)
            MUST(is_filled(data[i] + (uint64_t)r * bytes, r, (uint64_t)i, bytes));
        test_free(data[i]);
    }
    return 0;
}

/* Around a ring, two messages at a time; and one of another size than expected. */
static int point_to_point(const Ranks *ranks)
{
    enum { BYTES = 100001 };
    const Transport *t = ranks->transport;
    int next = (ranks->rank + 1) % ranks->size, before = (ranks->rank + ranks->size - 1) % ranks->size;
    unsigned char *sent = test_calloc(2, BYTES), *got = test_calloc(2, BYTES);
    fill(sent, ranks->rank, 0, 2 * BYTES);
    MUST(t->wait(t->self, 5) == 0); /* nothing was started */
    MUST(t->start(t->self, RANKS_ALL, sent, BYTES, next, 5) == 0);
    MUST(t->start(t->self, RANKS_ALL, sent + BYTES, BYTES, next, TRANSPORT_TAGS - 1) == 0);
    MUST(t->start(t->self, RANKS_ALL, sent, BYTES, next, 5) != 0); /* its buffer is busy */
    MUST(t->receive(t->self, RANKS_ALL, got + BYTES, BYTES, before, TRANSPORT_TAGS - 1) == 0);
    MUST(t->receive(t->self, RANKS_ALL, got, BYTES, before, 5) == 0);
    MUST(t->wait(t->self, 5) == 0 && t->wait(t->self, TRANSPORT_TAGS - 1) == 0);
    MUST(is_filled(got, before, 0, 2 * BYTES));
    MUST(t->start(t->self, RANKS_ALL, sent, 64, next, 6) == 0);
    MUST(t->receive(t->self, RANKS_ALL, got, 128, before, 6) != 0);
    MUST(strstr(t->why(t->self), "different sizes"));
    MUST(t->wait(t->self, 6) == 0);
    test_free(sent);
    test_free(got);
    return 0;
}

static int collectives(const Ranks *ranks)
{
    const Transport *t = ranks->transport;
    int all[] = {0, 1, 2, 3}, group[4], size = 0, me = 0;
    MUST(ranks->size <= 4 && ranks->node_size == ranks->size && ranks->node_rank == ranks->rank);
    for (int g = RANKS_ALL; g <= RANKS_DATA; g++) /* groups are all ranks until they are divided */
        if (gather_and_exchange(ranks, (RankGroup)g, ranks->rank, ranks->size, all))
            return 1;
    if (broadcast_and_sum(ranks, RANKS_ALL, ranks->rank, ranks->size) || gathers_together(ranks) ||
        point_to_point(ranks))
        return 1;
    for (int r = ranks->size - 1; r >= 0;
         r--) /* the even and the odd ranks, each from the last to the first */
        if (r % 2 == ranks->rank % 2) {
            me = r == ranks->rank ? size : me;
            group[size++] = r;
        }
    MUST(t->divide(t->self, RANKS_ALL, 0, 0) != 0);
    MUST(t->divide(t->self, RANKS_DATA, ranks->rank % 2, -ranks->rank + 10) == 0);
    if (gather_and_exchange(ranks, RANKS_DATA, me, size, group) ||
        broadcast_and_sum(ranks, RANKS_DATA, me, size) ||
        gather_and_exchange(ranks, RANKS_TENSOR, ranks->rank, ranks->size, all))
        return 1;
    MUST(t->exchange(t->self, RANKS_ALL, all, group, 12) != 0 && strstr(t->why(t->self), "64"));
    MUST(t->barrier(t->self, RANKS_DATA) == 0 && t->barrier(t->self, RANKS_ALL) == 0);
    return 0;
}

/* A small LLaMA; each rank writes its parts of the weights into one file. */
typedef struct Job {
    int accumulate, file, sleeper;
    const Ranks *ranks;
} Job;

static int train(void *config)
{
    const Job *job = config;
    Setting setting = {.family = MODEL_LLAMA};
    ModelPreset preset = small_preset(&setting);
    preset.config.llama.vocab = 257;
    Loader *data = data_text(
        "builtin",
        &(TextOptions){
            .batch = 2, .seq = SMALL_SEQ, .accumulate = job->accumulate, .seed = 1, .held_out = -1});
    Module *model = nn_model(&preset);
    TensorList list = nn_parameters(model);
    Optimizer *optimizer = optim_adamw(list, &(AdamW){.lr = 1e-2f, .weight_decay = 0.1f});
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        if (step == 1 && job->ranks && job->ranks->rank == job->sleeper &&
            !context_is_meta(context_current()))
            sleep(60);
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    int64_t at = 0;
    for (int i = 0; i < list.count && !context_is_meta(context_current()) && !error_code(); i++) {
        TensorPart part = tensor_part_(list.items[i]);
        ssize_t bytes = (ssize_t)(part.count > 0 ? part.count : 0) * (ssize_t)sizeof(float);
        if (bytes && pwrite(job->file, storage_f32(part.weights) + part.at, (size_t)bytes,
                            (at + part.first) * (int64_t)sizeof(float)) != bytes)
            return error_raise(ERROR_FILE, "the weights cannot be written");
        at += tensor_numel(list.items[i]);
    }
    return error_code();
}

static int training(const Ranks *ranks, const char *file, int sleeper)
{
    Job job = {
        .accumulate = 1, .file = open(file, O_RDWR | O_CREAT, 0600), .sleeper = sleeper, .ranks = ranks};
    RunOptions options = {.threads = 1, .seed = 5, .quiet = 1, .ranks = ranks};
    Plan plan;
    RunResult result;
    MUST(plan_script(train, &job, &options, &plan) == 0);
    int status = plan_execute(train, &job, &options, &plan, &result);
    if (status)
        fprintf(stderr, "rank %d: %s\n", ranks->rank, result.error);
    MUST(status ||
         (result.memory.stats.event_hash == plan.memory.stats.event_hash && !result.segments_off_plan));
    plan_free(&plan);
    close(job.file);
    return status;
}

static void too_late(const char *sentence, void *user)
{
    fprintf(stderr, "%s: %s\n", (const char *)user, sentence);
}

static int job_of(const Ranks *ranks, char **words)
{
    const Transport *t = ranks->transport;
    char why[512];
    if (!strcmp(words[0], "collectives"))
        return collectives(ranks);
    if (!strcmp(words[0], "training"))
        return training(ranks, words[1], -1);
    if (!strcmp(words[0], "late")) {
        MUST(ranks_watch(ranks, LATE, too_late, "watch", why, sizeof why) == 0);
        return training(ranks, words[1], 1);
    }
    if (!strcmp(words[0], "who"))
        return printf("rank %d of %d, %s\n", ranks->rank, ranks->size, t->version(t->self)) < 0;
    MUST(t->barrier(t->self, RANKS_ALL) == 0);
    if (ranks->rank == 1 && !strcmp(words[0], "killed"))
        raise(SIGKILL);
    if (ranks->rank == 1 && !strcmp(words[0], "error")) {
        fprintf(stderr, "rank 1: its data are damaged\n");
        return 7;
    }
    return t->barrier(t->self, RANKS_ALL);
}

/* mpirun … PROGRAM rank EXPECTED JOB…  */
static int be_a_rank(char **words)
{
    char why[1024];
    Ranks ranks;
    int status = ranks_join(&ranks, RANKS_ZERO3, atoi(words[0]), why, sizeof why);
    if (status) {
        fprintf(stderr, "%s\n", why);
        return status;
    }
    status = job_of(&ranks, words + 1);
    ranks_leave(&ranks, status);
    return status;
}

/* ---- Started from the test ---------------------------------------------------------------------- */

typedef struct Mpi {
    const char *name, *launchers[3];
    char launcher[64], plugin[PLUGIN_PATH];
} Mpi;

static Mpi mpis[] = {{.name = "openmpi", .launchers = {"mpirun.openmpi", "mpirun"}},
                     {.name = "mpich", .launchers = {"mpirun.mpich", "mpiexec.hydra"}},
                     {.name = "", .launchers = {"mpirun"}}};
static char program[PLUGIN_PATH], folder[] = "/tmp/brim-mpi-XXXXXX";

static int find(Mpi *mpi)
{
    char command[128];
    if (!plugin_find_(mpi->name, mpi->plugin))
        return 0;
    for (int i = 0; i < 3 && mpi->launchers[i]; i++) {
        snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", mpi->launchers[i]);
        if (system(command) == 0)
            return snprintf(mpi->launcher, sizeof mpi->launcher, "%s", mpi->launchers[i]);
    }
    return 0;
}

/* Those that are here, in the order of the table; the first serves where one suffices. */
static const Mpi *here(int i)
{
    for (size_t m = 0; m < COUNT(mpis); m++)
        if (*mpis[m].launcher && i-- == 0)
            return &mpis[m];
    return NULL;
}

static int setup(void **state)
{
    (void)state;
    int found = 0;
    if (launcher_program_(program) != 0 || !mkdtemp(folder))
        return -1;
    for (size_t m = 0; m < COUNT(mpis); m++)
        found += find(&mpis[m]) > 0;
    if (!found) {
        const char *skipped = getenv("BRIM_SKIPPED");
        FILE *f = skipped ? fopen(skipped, "a") : NULL;
        if (f) {
            fprintf(f, "tests of ranks over MPI: there is no mpirun, or no mpicc that built a plugin\n");
            fclose(f);
        }
    }
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 1);
    setenv("OMP_NUM_THREADS", "1", 1);
    if (SANITIZED) /* MPI leaves memory to the end of the process */
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Runs a shell's line with a limit; what it printed, its status, and how long it took. */
typedef struct Outcome {
    char text[OUTPUT];
    int status;
    double seconds;
} Outcome;

static const Outcome *shell(const char *line)
{
    static Outcome outcome;
    double start = seconds();
    FILE *f = popen(line, "r");
    assert_non_null(f);
    size_t bytes = fread(outcome.text, 1, OUTPUT - 1, f);
    outcome.text[bytes] = 0;
    while (fgetc(f) != EOF)
        ;
    int status = pclose(f);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.seconds = seconds() - start;
    return &outcome;
}

/* before: variables for the ranks. */
static const Outcome *ranks_of(const Mpi *mpi, int ranks, int expected, const char *before, const char *job)
{
    char line[3 * PLUGIN_PATH];
    snprintf(line, sizeof line, "timeout -k 1 60 env %s %s -n %d '%s' rank %d %s 2>&1", before, mpi->launcher,
             ranks, program, expected, job);
    return shell(line);
}

static void assert_success(const Outcome *o)
{
    if (o->status)
        fail_msg("status %d: %s", o->status, o->text);
}

/* All have ended soon, with a sentence and a status that is not 0: in 2 s where nothing else runs. */
static void assert_gone(const Outcome *o, const char *sentence, double after)
{
    if (!strstr(o->text, sentence))
        fail_msg("'%s' is not in: %s", sentence, o->text);
    assert_int_not_equal(o->status, 0);
    if (o->seconds > after + GONE)
        fail_msg("they took %.1f s to end: %s", o->seconds, o->text);
}

#define NEEDS_MPI()                                                                                          \
    do {                                                                                                     \
        if (!here(0))                                                                                        \
            skip();                                                                                          \
    } while (0)

static void test_every_collective(void **state)
{
    (void)state;
    NEEDS_MPI();
    for (int i = 0; here(i); i++) /* MPICH's ranks take a processor while they wait */
        assert_success(ranks_of(here(i), i ? 2 : 3, i ? 2 : 3, "", "collectives"));
}

static float *read_weights(const char *file, int *count)
{
    float *weights = test_calloc(WEIGHTS, sizeof *weights);
    int f = open(file, O_RDONLY);
    ssize_t bytes = read(f, weights, WEIGHTS * sizeof *weights);
    close(f);
    *count = bytes > 0 ? (int)(bytes / (ssize_t)sizeof *weights) : 0;
    return weights;
}

static void test_a_training_is_that_of_one_process(void **state)
{
    (void)state;
    NEEDS_MPI();
    char alone[64], job[96], together[64];
    int count, counted;
    snprintf(alone, sizeof alone, "%s/alone", folder);
    snprintf(together, sizeof together, "%s/together", folder);
    snprintf(job, sizeof job, "training %s", together);
    assert_success(ranks_of(here(0), 3, 3, "", job));
    Ranks one = {.size = 1, .strategy = RANKS_ZERO2};
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .ranks = &one});
    Job config = {.accumulate = 3, .file = open(alone, O_RDWR | O_CREAT, 0600)};
    assert_int_equal(train(&config), 0);
    close(config.file);
    leave(v);
    float *a = read_weights(alone, &count), *b = read_weights(together, &counted);
    assert_int_equal(counted, count);
    assert_true(count > 1000);
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
    test_free(a);
    test_free(b);
}

static void test_the_others_end_where_one_fails(void **state)
{
    (void)state;
    NEEDS_MPI();
    for (int i = 0; here(i); i++) {
        assert_gone(ranks_of(here(i), i ? 2 : 3, 0, "", "killed"), "9",
                    0); /* the launcher's sentence, with the signal */
        const Outcome *o = ranks_of(here(i), i ? 2 : 3, 0, "", "error");
        assert_gone(o, "rank 1: its data are damaged", 0);
        assert_int_equal(o->status, 7);
    }
}

static void test_other_numbers_are_refused(void **state)
{
    (void)state;
    NEEDS_MPI();
    assert_gone(ranks_of(here(0), 2, 3, "", "who"), "3 ranks are expected", 0);
}

/* The plugin of one MPI under the launcher of the other. */
static void test_another_mpi_is_refused(void **state)
{
    (void)state;
    if (!here(1))
        skip();
    for (int i = 0; i < 2; i++) {
        char before[PLUGIN_PATH + 16];
        snprintf(before, sizeof before, "BRIM_MPI='%s'", here(1 - i)->plugin);
        const Outcome *o = ranks_of(here(i), 2, 2, before, "who");
        assert_gone(o, "belongs to another MPI than the launcher", 0);
        assert_non_null(strstr(o->text, "rank 0 of 1"));
        assert_non_null(strstr(o->text, plugin_file_(here(1 - i)->plugin)));
    }
}

static void test_a_rank_that_keeps_others_waiting(void **state)
{
    (void)state;
    NEEDS_MPI();
    char job[96];
    snprintf(job, sizeof job, "late %s/late", folder);
    assert_gone(ranks_of(here(0), 2, 2, "", job), "has waited 3 s for the others while ", LATE);
}

static void test_a_program_starts_its_ranks(void **state)
{
    (void)state;
    NEEDS_MPI();
    char line[2 * PLUGIN_PATH];
    snprintf(line, sizeof line, "timeout -k 1 60 '%s' launch 3 who 2>&1", program);
    const Outcome *o = shell(line);
    assert_success(o);
    for (int r = 0; r < 3; r++) {
        snprintf(line, sizeof line, "rank %d of 3, ", r);
        assert_non_null(strstr(o->text, line));
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_collective),
        cmocka_unit_test(test_a_training_is_that_of_one_process),
        cmocka_unit_test(test_the_others_end_where_one_fails),
        cmocka_unit_test(test_other_numbers_are_refused),
        cmocka_unit_test(test_another_mpi_is_refused),
        cmocka_unit_test(test_a_rank_that_keeps_others_waiting),
        cmocka_unit_test(test_a_program_starts_its_ranks),
    };
    if (argc > 3 && !strcmp(argv[1], "rank"))
        return be_a_rank(argv + 2);
    if (argc > 3 && !strcmp(argv[1], "launch")) {
        char why[1024];
        if (ranks_launched())
            return be_a_rank(argv + 2);
        int status = ranks_launch(atoi(argv[2]), argv, why, sizeof why);
        fprintf(stderr, "%s\n", why);
        return status;
    }
    return cmocka_run_group_tests(tests, setup, teardown);
}
