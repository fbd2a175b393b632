/* An hour of training that looks at itself: three kinds of run with everything on, one after the other in one
 * process. After each thing they do the books and the process are compared with what they were after the same
 * thing before. A table at the end; exit code 1 when anything changed that must not. docs/reliability.md says
 * what is in the table; --plant makes a fault, to see that it is found. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <sys/prctl.h>

#include "../base/clock_.h"
#include "drift.h"
#include "soak_run.h"

/* ---- Phases ---------------------------------------------------------------------------------- */

static int run_once(Phase *p)
{
    RunOptions o = {.quiet = 1, .threads = soak.threads, .seed = 1};
    RunResult result;
    Plan plan;
    char why[256] = "";
    if (!(outline = report_outline_create()) || plan_script(train_script, p, &o, &plan)) {
        fprintf(stderr, "soak: %s: %s\n", p->name, outline ? plan.error : "no memory");
        report_outline_destroy(outline);
        return -1;
    }
    json_t *run = json_pack("{s:s}", "model", p->preset->name);
    run_log = report_log_open(soak.log, run, outline, why, sizeof why);
    json_decref(run);
    if (run_log && plan_execute(train_script, p, &o, &plan, &result) == 0) {
        report_log_end(run_log, &(RunLogEnd){.steps = result.steps, .seconds = result.seconds});
        p->off_plan += result.segments_off_plan;
        p->loss_first = p->rounds ? p->loss_first : result.loss_first;
        p->loss_last = result.loss_last;
    } else {
        watch_fail(&p->watch, "%s", run_log ? result.error : why);
    }
    report_log_close(run_log);
    report_outline_destroy(outline);
    plan_free(&plan);
    return p->watch.failures && !p->done ? -1 : 0;
}

static void run_rounds(Phase *p)
{
    while (time_is_left(p)) {
        double cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID), wall = clock_now();
        if (run_once(p))
            return;
        cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        note_times(p->times, cpu, clock_now() - wall);
        p->watch.warm = ++p->rounds > 3;
        watch_look(&p->watch, DEED_RUN);
    }
}

static void empty_saves(void)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s", soak.saves);
    if (system(command))
        fprintf(stderr, "soak: %s cannot be removed\n", soak.saves);
}

static void run_phase(Phase *p)
{
    uint64_t live = memtrack_process_live();
    p->watch.name = p->name;
    p->started = clock_now();
    p->seconds = (soak.only ? 1 : p->share) * 60 * soak.minutes;
    empty_saves();
    if (p->steps)
        run_rounds(p);
    else
        run_once(p);
    watch_same(&p->watch, DEED_RUN, "tracked bytes at the phase's end", memtrack_process_live(), live);
    if (p->off_plan)
        watch_fail(&p->watch, "%" PRId64 " segments went off the plan", p->off_plan);
    if (!p->watch.compared)
        watch_fail(&p->watch, "too little was done to compare");
    if (p->entries_most > KEEP + 1 || (p->saves && p->disk_most > (KEEP + 1) * (p->save_bytes + 4096)))
        watch_fail(&p->watch, "%d saves of %" PRIu64 " bytes took %" PRIu64, p->entries_most, p->save_bytes,
                   p->disk_most);
}

/* ---- What it works on ------------------------------------------------------------------------ */

static int write_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    int failed = !file || fwrite(bytes, 1, count, file) != count;
    return (file ? fclose(file) : 0) || failed;
}

/* Images of noise with a brighter row where the label says; IDX is big-endian. */
static int make_images(const char *part, uint32_t count)
{
    enum { PIXELS = 784 };
    static unsigned char images[16 + 4000 * PIXELS], labels[8 + 4000];
    const uint32_t heads[] = {0x803, count, 28, 28, 0x801, count};
    char path[256];
    for (size_t i = 0; i < 6; i++)
        for (size_t b = 0; b < 4; b++)
            (i < 4 ? images + 4 * i : labels + 4 * (i - 4))[b] = (unsigned char)(heads[i] >> (24 - 8 * b));
    uint32_t state = count;
    for (uint32_t i = 0; i < count; i++) {
        labels[8 + i] = (unsigned char)(i % 10);
        for (uint32_t j = 0; j < PIXELS; j++) {
            state = state * 1664525u + 1013904223u;
            images[16 + i * PIXELS + j] = (unsigned char)((state >> 26) + (j / 56 == i % 10 ? 120 : 0));
        }
    }
    snprintf(path, sizeof path, "%s/%s-images-idx3-ubyte", soak.images, part);
    int failed = write_file(path, images, 16 + (size_t)count * PIXELS);
    snprintf(path, sizeof path, "%s/%s-labels-idx1-ubyte", soak.images, part);
    return failed | write_file(path, labels, 8 + count);
}

/* A text of some epochs in the time there is, a tokenizer of its own, and images. */
static int make_data(void)
{
    static char text[1 << 20];
    size_t bytes = is_short() ? 1 << 14 : soak.minutes < 30 ? 1 << 18 : sizeof text;
    strcpy(soak.folder, "/tmp/brim-soak-XXXXXX");
    if (!mkdtemp(soak.folder))
        return -1;
    snprintf(soak.text, sizeof soak.text, "%s/text", soak.folder);
    snprintf(soak.tokenizer, sizeof soak.tokenizer, "%s/tokenizer.json", soak.folder);
    snprintf(soak.images, sizeof soak.images, "%s/images", soak.folder);
    snprintf(soak.saves, sizeof soak.saves, "%s/saves", soak.folder);
    snprintf(soak.log, sizeof soak.log, "%s/log.jsonl", soak.folder);
    data_corpus(1, text, bytes);
    return write_file(soak.text, text, bytes) || mkdir(soak.images, 0700) ||
           tokenizer_train(soak.text, soak.tokenizer, &(TokenizerTraining){.vocab = 512}) ||
           make_images("train", is_short() ? 1000 : 4000) || make_images("t10k", 256);
}

/* ---- The table ------------------------------------------------------------------------------- */

static double room[TIMES];

/* Bytes a step in the first and in the last third: numbers grow by a digit, nothing else may. */
static void log_growth(const Phase *p, double *early, double *late)
{
    const Times *t = p->times;
    int third = t->count / 3, last = t->count - 1;
    *early = *late = 0;
    if (third < 10 || p->steps)
        return;
    *early = (double)(t->log_bytes[third] - t->log_bytes[3]) / (third - 3);
    *late = (double)(t->log_bytes[last] - t->log_bytes[last - third]) / third;
}

static void print_phase(Phase *p)
{
    Watch *w = &p->watch;
    double early, late;
    log_growth(p, &early, &late);
    if (late > 1.1 * early + 16)
        watch_fail(w, "the log grows by %.0f bytes a step, before by %.0f", late, early);
    printf("\n%s: %s, %.1f minutes\n", p->name, p->about, p->seconds / 60);
    printf("  done                     %" PRId64 " steps, %" PRId64 " epochs, %" PRId64
           " evaluations, %" PRId64 " saves, %" PRId64 " tokens written",
           p->done, p->epochs, p->evaluations, p->saves, p->written);
    if (p->rounds)
        printf(", %" PRId64 " rounds", p->rounds);
    printf("; loss %.2f -> %.2f", p->loss_first, p->loss_last);
    printf("\n  compared                 %" PRId64 " times%s\n", w->compared,
           p->steps ? "" : ", and the books from the first step on");
    printf("  tracked bytes            %" PRIu64 " -> %" PRIu64 "\n", w->first.tracked, w->last.tracked);
    printf("  bytes malloc has given   %" PRIu64 " -> %" PRIu64 ", at most %" PRIu64 "\n", w->first.heap,
           w->last.heap, w->most.heap);
    printf("  resident, its own        %" PRIu64 " -> %" PRIu64 ", at most %" PRIu64 "\n", w->first.own,
           w->last.own, w->most.own);
    printf("  files, threads           %d, %d -> %d, %d\n", w->first.files, w->first.threads, w->last.files,
           w->last.threads);
    if (p->saves)
        printf("  disk                     %" PRIu64 " a save, %d kept, at most %" PRIu64 " in %d\n",
               p->save_bytes, KEEP, p->disk_most, p->entries_most);
    if (early > 0)
        printf("  log                      %.1f bytes a step in the first third, %.1f in the last\n", early,
               late);
    printf("  faults found             %d\n", w->failures);
}

static Drift print_drift(const char *what, const double *values, int count, double unit)
{
    Drift d = drift_of(values, count, room);
    printf("  %-24s %9.3f %9.3f %9.3f", what, d.third[0] * unit, d.third[1] * unit, d.third[2] * unit);
    if (d.blocks >= 8)
        printf("   %+6.2f %%  (%+.2f to %+.2f)", 100 * d.most, 100 * d.low, 100 * d.high);
    printf("\n");
    return d;
}

/* A slow-down is one that the steps show by themselves and beside the control, each with all of its interval:
 * the machine alone makes the first, a control that happened to become faster the second. */
static void print_speed(Phase *p)
{
    const Times *t = p->times;
    printf("\n%s: %d %s timed; medians by thirds, change over the run (95 %%)\n", p->name, t->count,
           p->rounds ? "rounds" : "steps");
    print_drift("ms of the clock", t->wall, t->count, 1000);
    Drift own = print_drift("ms of processors", t->cpu, t->count, 1000);
    print_drift("ms, control", t->control, t->count, 1000);
    Drift beside = print_drift("processors / control", t->ratio, t->count, 1);
    if (own.blocks < 8)
        printf("  too few to tell\n");
    else if (100 * fmin(own.low, beside.low) > soak.allow)
        watch_fail(&p->watch,
                   "slower by %.1f %% (%.1f to %.1f), beside the control by %.1f %% (%.1f to %.1f)",
                   100 * own.most, 100 * own.low, 100 * own.high, 100 * beside.most, 100 * beside.low,
                   100 * beside.high);
    else
        printf("  no slow-down beyond noise; one of %.1f %% would have been seen\n",
               soak.allow + 100 * fmax(own.most - own.low, beside.most - beside.low));
}

/* ---- Start ----------------------------------------------------------------------------------- */

static Phase phases[] = {
    {.name = "text",
     .about = "gpt2, tokenizer, dropout, accumulation, checkpointing, a chunked head, clipping, log, saves",
     .share = 0.6,
     .accumulate = 2,
     .loss_chunk = 64,
     .evaluate_every = 40,
     .write_every = 50,
     .save_every = 100},
    {.name = "images",
     .about = "mlp, dropout, accumulation, log, saves",
     .share = 0.15,
     .accumulate = 2,
     .evaluate_every = 100,
     .save_every = 500},
    {.name = "rounds",
     .about = "each plans, loads, trains 6 steps of llama, saves, evaluates, writes, and frees everything",
     .share = 0.25,
     .accumulate = 2,
     .evaluate_every = ROUND_STEPS,
     .write_every = ROUND_STEPS,
     .save_every = ROUND_STEPS,
     .steps = ROUND_STEPS},
};
enum { PHASES = sizeof phases / sizeof phases[0] };

static Times times[PHASES];
static ModelPreset presets[PHASES] = {
    {.name = "gpt2-soak",
     .family = MODEL_GPT2,
     .batch = 4,
     .seq = 64,
     .config.gpt2 = {.vocab = 512, .dim = 128, .layers = 4, .heads = 4, .max_seq = 128, .dropout = 0.1f}},
    {.name = "mlp-soak",
     .family = MODEL_MLP,
     .batch = 64,
     .config.mlp = {.sizes = {784, 256, 128, 10}, .dropout = 0.1f}},
    {.name = "llama-soak",
     .family = MODEL_LLAMA,
     .batch = 4,
     .seq = 32,
     .config.llama =
         {.vocab = 512, .dim = 64, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 128, .max_seq = 128}},
};

/* As deep as a product may go. */
static void __attribute__((noinline)) touch_stack(void)
{
    volatile char deep[384 << 10];
    for (size_t i = 0; i < sizeof deep; i += 1024)
        deep[i] = 1;
}

/* The BLAS library's buffers and the threads' stacks are touched as far as the largest product needs: else a
 * thread that meets its largest late would look like a leak. The library takes as many buffers as products
 * run at the same time, so these last long enough to meet, on a busy machine too. */
static int touch_threads(void)
{
    enum { ROWS = 8192, SIDE = 1024, ROUNDS = 3 };
    int threads = thread_count();
    size_t out = (size_t)threads * ROWS * SIDE, floats = out + (size_t)ROWS * SIDE;
    float *x = memtrack_host_calloc(NULL, floats * sizeof *x);
    kernels_blas_start(threads);
    if (!x)
        return -1;
#pragma omp parallel num_threads(threads)
    {
        touch_stack();
        for (int round = 0; round < ROUNDS; round++) {
#pragma omp barrier
#pragma omp for schedule(static, 1)
            for (int t = 0; t < threads; t++)
                kernels_cpu(NULL)->gemm(0, 1, ROWS, SIDE, SIDE, 1, x + out, SIDE, x + out, SIDE, 0,
                                        x + (size_t)t * ROWS * SIDE, SIDE, &(KernelRun){.threads = 1});
        }
    }
    memtrack_host_free(NULL, x, floats * sizeof *x);
    return 0;
}

static int chosen(const Phase *p)
{
    return !soak.only || !strcmp(p->name, soak.only);
}

static int usage(void)
{
    fprintf(stderr, "usage: soak [--minutes N] [--allow PERCENT] [--threads N] [--only text|images|rounds] "
                    "[--plant FAULT]\nfaults:");
    for (int i = 1; i < PLANTS; i++)
        fprintf(stderr, " %s", plant_names[i]);
    fprintf(stderr, "\n");
    return 2;
}

static int read_plant(const char *name)
{
    for (int i = 0; i < PLANTS; i++)
        if (!strcmp(name, plant_names[i]))
            return i;
    return -1;
}

static int read_arguments(int argc, char **argv)
{
    static const struct option options[] = {
        {"minutes", required_argument, NULL, 'm'}, {"allow", required_argument, NULL, 'a'},
        {"threads", required_argument, NULL, 't'}, {"plant", required_argument, NULL, 'p'},
        {"only", required_argument, NULL, 'o'},    {0}};
    int plant = PLANT_NONE;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (c) {
        case 'm':
            soak.minutes = atof(optarg);
            break;
        case 'a':
            soak.allow = atof(optarg);
            break;
        case 't':
            soak.threads = atoi(optarg);
            break;
        case 'o':
            soak.only = optarg;
            break;
        case 'p':
            plant = read_plant(optarg);
            break;
        default:
            return -1;
        }
    soak.plant = plant < 0 ? PLANT_NONE : (Plant)plant;
    return plant < 0 || optind < argc || !(soak.minutes > 0) ? -1 : 0;
}

/* What is written later is touched now: its pages are part of the beginning. */
static void prepare_phases(void)
{
    for (int i = 0; i < PHASES; i++) {
        phases[i].preset = &presets[i];
        phases[i].images = presets[i].family == MODEL_MLP;
        phases[i].times = &times[i];
        memset(&times[i], 1, sizeof times[i]);
        times[i].count = 0;
        if (is_short() && !phases[i].steps) {
            phases[i].evaluate_every = 4;
            phases[i].write_every = phases[i].write_every ? 5 : 0;
            phases[i].save_every = 6;
        }
    }
    memset(control_data, 0, sizeof control_data);
    memset(room, 1, sizeof room);
    memset(watch_text, 1, sizeof watch_text);
}

/* malloc's cache of freed blocks fills for hours and counts as given: without it every byte that is given is
 * in use. Its one heap is not given back, so that what is touched of it stays. It is set before a process
 * begins. Huge pages would be resident beyond what is touched, whenever the kernel finds one. */
static void with_plain_malloc(char **argv)
{
    static const char plain[] = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1:"
                                "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1073741824";
    const char *now = getenv("GLIBC_TUNABLES");
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    if (now && !strcmp(now, plain))
        return;
    setenv("GLIBC_TUNABLES", plain, 1);
    execv("/proc/self/exe", argv);
}

/* Further than malloc's heap will reach: a block that comes to lie elsewhere in it, with as many bytes given
 * as before, meets no page that was not touched. */
static int touch_heap(void)
{
    enum { BLOCKS = 512, BYTES = 1 << 16 };
    static void *blocks[BLOCKS];
    int failed = 0;
    for (int i = 0; i < BLOCKS; i++)
        if (!(blocks[i] = malloc(BYTES)))
            failed = -1;
        else
            memset(blocks[i], 1, BYTES);
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    return failed;
}

int main(int argc, char **argv)
{
    char command[128];
    with_plain_malloc(argv);
    if (read_arguments(argc, argv))
        return usage();
    prepare_phases();
    if (make_data() || touch_heap() || touch_threads()) {
        fprintf(stderr, "soak: %s: %s\n", soak.folder, error_code() ? error_message() : strerror(errno));
        return 1;
    }
    context_destroy(context_use(NULL));
    real_calls = file_calls;
    file_calls.rename = look_and_rename;
    for (int i = 0; i < PHASES; i++)
        if (chosen(&phases[i]))
            run_phase(&phases[i]);
    printf("brim %s, %d threads, %s: %g minutes\n", BRIM_VERSION, thread_count(), kernels_blas_name(),
           soak.minutes);
    for (int i = 0; i < PHASES; i++)
        if (chosen(&phases[i]))
            print_phase(&phases[i]);
    for (int i = 0; i < PHASES; i++)
        if (chosen(&phases[i]))
            print_speed(&phases[i]);
    if (memtrack_process_live())
        watch_fail(&phases[0].watch, "%" PRIu64 " bytes are live at the end", memtrack_process_live());
    printf("\n%" PRIu64 " bytes live at the end; %d faults\n", memtrack_process_live(), watch_failures);
    snprintf(command, sizeof command, "rm -rf %s", soak.folder);
    return system(command) || watch_failures;
}
