/* The benchmark: brim's training step against the replay of its products, the physical limit and PyTorch
 * eager, in interleaved rounds, so that what disturbs the machine disturbs everyone; and how much each
 * process grows. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/times.h>
#include <sys/utsname.h>

#include "../base/clock_.h"
#include "replay.h"
#include "rounds.h"
#include "tracking.h"

typedef struct BenchShape {
    const char *name, *preset, *torch;
    double replay_target, torch_target, growth_target; /* at most, at least, at most */
    int skips_unlabelled; /* not what PyTorch computes: beside the ratio that counts, of all rows */
} BenchShape;

static const BenchShape shapes[] = {
    {"mlp", "bench-mlp", "mlp", 1.3, 2.0, 0.5, 0},
    {"bert-tiny", "bench-bert-tiny", "bert-tiny", 1.2, 1.8, 0.5, 0},
    {"bert-labelled", "bench-bert-tiny", "bert-tiny", 1.2, 1.8, 0.5, 1},
    {"llama-tiny", "bench-llama-tiny", "llama-tiny", 1.2, 1.8, 0.5, 0},
    {"gpt2", "bench-gpt2", "gpt2-124m", 1.2, 1.8, 0.85, 0},
    {"llama-small", "bench-llama-small", "llama-small", 1.2, 1.4, 0.55, 0},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

typedef struct Options {
    int threads, rounds, json, no_torch;
    double turn; /* seconds that one side's turn in a round takes, at least one step */
    const char *python, *script;
    int chosen[SHAPES], any;
} Options;

typedef struct Result {
    const BenchShape *shape;
    char error[256];
    double brim, replay, torch;     /* seconds, medians over all steps */
    double over_replay, torch_over; /* medians over rounds of ratios within the round */
    Limit limit;
    double growth, torch_growth; /* MiB */
    double tracking;             /* seconds a step */
    size_t events;
    int steps; /* timed, of brim */
    double loss;
} Result;

static Side sides[3];
enum { BRIM, REPLAY, TORCH };

/* ---- PyTorch --------------------------------------------------------------------------------- */

/* PyTorch has products of its own (MKL). Passive, so that its threads sleep while others are measured. */
static json_t *torch_start(Child *child, const Options *o, const char *shape, char *settings, size_t size)
{
    char threads[16];
    PeerSetting aten = peer_vectors();
    snprintf(threads, sizeof threads, "%d", o->threads);
    snprintf(settings, size, "%s OMP_WAIT_POLICY=passive", aten.text);
    const char *argv[] = {
        "env", aten.text, "OMP_WAIT_POLICY=passive", o->python, o->script, shape, "--threads", threads, NULL};
    if (child_start(child, argv) != 0)
        return NULL;
    return child_answer(child);
}

static int torch_turn(Child *child, int steps, Side *side, double *growth)
{
    int count = peer_turn(child, steps, side, growth);
    usleep(60000); /* OpenBLAS's own threads spin for some 30 ms before they sleep */
    return count;
}

/* ---- Growth: in a process of its own --------------------------------------------------------- */

/* Growth after the model was made. The reservation is touched at once, so what it holds beyond the model at
 * that moment counts as growth; PyTorch's growth likewise begins before gradients and optimizer state. */
static int growth_main(const BenchShape *shape, int threads)
{
    const ModelPreset *preset = nn_preset(shape->preset);
    Plan plan;
    session_skips_unlabelled = shape->skips_unlabelled;
    if (!preset || plan_script(session_script, (void *)preset, &(RunOptions){.threads = threads}, &plan) != 0)
        return 1;
    uint64_t needs = plan.memory.stats.needs;
    Context *context =
        context_create(&(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = needs, .threads = threads});
    if (!context)
        return 1;
    memtrack_ledger_follow(context_ledger(context), plan.hints);
    context_use(context);
    Session s;
    session_open(&s, preset);
    for (int i = 0; i < 4; i++)
        session_step(&s);
    uint64_t before = s.model_resident - (needs - s.model_bytes);
    printf("{\"growth\": %.3f, \"error\": %d}\n",
           ((double)memtrack_process_resident_peak() - (double)before) / (1 << 20), error_code());
    context_destroy(context);
    plan_free(&plan);
    return 0;
}

static double growth_of(const BenchShape *shape, int threads)
{
    char number[16];
    snprintf(number, sizeof number, "%d", threads);
    return own_growth((const char *[]){NULL, "--growth", shape->name, "--threads", number, NULL});
}

/* ---- One shape ------------------------------------------------------------------------------- */

static void brim_turn(Session *s, int steps)
{
    for (int i = 0; i < steps; i++)
        side_add(&sides[BRIM], session_step(s));
    side_round(&sides[BRIM], steps);
}

static void replay_turn(Replay *r, int steps)
{
    replay_refresh(r);
    for (int i = 0; i < steps; i++)
        side_add(&sides[REPLAY], replay_run(r));
    side_round(&sides[REPLAY], steps);
}

static void run_rounds(const Options *o, Session *s, Replay *r, Child *torch, Result *result)
{
    session_step(s);
    double step = session_step(s), torch_step = 0, growth = 0;
    replay_refresh(r);
    replay_run(r);
    if (torch->to) {
        torch_turn(torch, 1, NULL, &growth);
        double begin = clock_now();
        torch_turn(torch, 1, NULL, &growth);
        torch_step = clock_now() - begin - 0.06;
    }
    int steps = turn_steps(step, o->turn),
        torch_steps = turn_steps(torch_step > 1e-4 ? torch_step : 1e-4, o->turn);
    for (int round = 0; round < o->rounds; round++) {
        if (round % 2)
            replay_turn(r, steps);
        brim_turn(s, steps);
        if (round % 2 == 0)
            replay_turn(r, steps);
        if (torch->to) {
            usleep(20000); /* our own threads spin for some milliseconds before they sleep */
            side_round(&sides[TORCH], torch_turn(torch, torch_steps, &sides[TORCH], &result->torch_growth));
        }
    }
}

static void run_shape(const Options *o, const BenchShape *shape, Child *torch, Result *result)
{
    const ModelPreset *preset = nn_preset(shape->preset);
    static Replay replay;
    static Session session;
    Plan plan;
    memset(sides, 0, sizeof sides);
    replay = (Replay){0};
    session_skips_unlabelled = shape->skips_unlabelled;
    result->tracking = tracking_seconds(preset, o->threads, &result->events);
    plan_script(session_script, (void *)preset, &(RunOptions){.threads = o->threads}, &plan);
    if (plan.status) {
        snprintf(result->error, sizeof result->error, "%.250s", plan.error);
        return;
    }
    uint64_t needs = plan.memory.stats.needs;
    Context *context = context_create(
        &(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = needs, .threads = o->threads});
    if (!context) {
        plan_free(&plan);
        snprintf(result->error, sizeof result->error, "no memory");
        return;
    }
    memtrack_ledger_follow(context_ledger(context), plan.hints);
    context_use(context);
    if (session_open(&session, preset) == 0 && session_step(&session) > 0 &&
        replay_record(&replay, &session, needs) == 0) {
        run_rounds(o, &session, &replay, torch, result);
        result->limit = limit_of(&replay);
    }
    snprintf(result->error, sizeof result->error, "%.250s", error_message());
    result->loss = session.loss;
    result->steps = sides[BRIM].count;
    result->brim = median(sides[BRIM].all, sides[BRIM].count);
    result->replay = median(sides[REPLAY].all, sides[REPLAY].count);
    result->torch = median(sides[TORCH].all, sides[TORCH].count);
    result->over_replay = ratio_of_rounds(sides[BRIM].round, sides[REPLAY].round, sides[BRIM].rounds);
    result->torch_over = ratio_of_rounds(sides[TORCH].round, sides[BRIM].round, sides[TORCH].rounds);
    context_use(NULL);
    context_destroy(context);
    plan_free(&plan);
    replay_close(&replay);
}

/* ---- Neighbours ------------------------------------------------------------------------------ */

/* Seconds that all processors spent on work so far, or 0 where the system does not say. */
static double machine_busy(void)
{
    unsigned long long t[8] = {0}; /* user nice system idle iowait irq softirq steal */
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return 0;
    int read = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4],
                      &t[5], &t[6], &t[7]);
    fclose(file);
    return read == 8 ? (double)(t[0] + t[1] + t[2] + t[5] + t[6] + t[7]) / (double)sysconf(_SC_CLK_TCK) : 0;
}

/* Seconds of processor time of this process and the children it has waited for. */
static double own_busy(void)
{
    struct tms t;
    times(&t);
    return (double)(t.tms_utime + t.tms_stime + t.tms_cutime + t.tms_cstime) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void print_header(const Options *o, json_t *torch, const char *settings)
{
    char cpu[128] = "", line[256];
    FILE *info = fopen("/proc/cpuinfo", "re");
    while (info && fgets(line, sizeof line, info))
        if (sscanf(line, "model name : %127[^\n]", cpu) == 1)
            break;
    if (info)
        fclose(info);
    struct utsname system;
    uname(&system);
    printf("machine   %s, %d of %ld processors, %s %s\n", cpu, o->threads, sysconf(_SC_NPROCESSORS_ONLN),
           system.sysname, system.release);
    printf("brim      %s, %d threads, kernels %s\n", kernels_blas_name(), o->threads,
           kernels_cpu(NULL)->name);
    if (kernels_blas_warning())
        printf("          warning: %s\n", kernels_blas_warning());
    if (torch)
        printf("PyTorch   %s eager fp32, %d threads, CPU capability %s, products by %s (%s)\n",
               json_string_value(json_object_get(torch, "torch")),
               (int)json_integer_value(json_object_get(torch, "threads")),
               json_string_value(json_object_get(torch, "cpu_capability")),
               json_string_value(json_object_get(torch, "blas")), settings);
    else
        printf("PyTorch   %s\n", o->no_torch ? "left out" : "not there: its columns need tools/python-env");
    printf(
        "step      forward, loss, backward, AdamW, zero_grad; %d rounds of turns of about %.1f s; medians\n"
        "replay    the step's products (through the same gemm) and its AdamW pass, nothing else\n"
        "limit     the products at the fastest one's rate, AdamW at the rate of a pass that only moves its "
        "bytes\n"
        "growth    of the process from after the model was made (optimizer state included) to its highest, "
        "MiB\nlabelled  as bert-tiny, but brim computes the head only for the 15 %% of rows with a label "
        "(--skip-unlabelled),\n          and PyTorch for all: the ratio to compare is bert-tiny's\n\n",
        o->rounds, o->turn);
    printf("%-13s %9s %9s  %-19s %9s  %-19s %9s %7s %8s  %8s %8s  %-19s %s\n", "shape", "brim ms",
           "replay ms", "brim/replay", "torch ms", "torch/brim", "limit ms", "x limit", "GFLOP/s", "growth",
           "torch's", "ratio", "tracking");
    fflush(stdout);
}

static void print_row(const Result *r)
{
    const BenchShape *s = r->shape;
    double ratio = r->torch_growth > 0 ? r->growth / r->torch_growth : 0;
    if (r->error[0]) {
        printf("%-13s failed: %s\n", s->name, r->error);
        return;
    }
    printf("%-13s %9.2f %9.2f  %-19s %9.2f  %-19s %9.2f %7.2f %8.0f  %8.1f %8.1f  %-19s %.3f %%%s\n", s->name,
           1e3 * r->brim, 1e3 * r->replay, verdict(r->over_replay, s->replay_target, 1), 1e3 * r->torch,
           verdict(r->torch_over, s->torch_target, 0), 1e3 * r->limit.seconds, r->brim / r->limit.seconds,
           1e-9 * r->limit.rate, r->growth, r->torch_growth, verdict(ratio, s->growth_target, 1),
           100 * r->tracking / r->brim, r->tracking < 0.01 * r->brim ? "" : " MISS");
    fflush(stdout);
}

static json_t *row_json(const Result *r)
{
    return json_pack(
        "{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f}",
        "shape", r->shape->name, "error", r->error, "steps", r->steps, "loss", r->loss, "brim_ms",
        1e3 * r->brim, "replay_ms", 1e3 * r->replay, "torch_ms", 1e3 * r->torch, "limit_ms",
        1e3 * r->limit.seconds, "brim_over_replay", r->over_replay, "replay_target", r->shape->replay_target,
        "torch_over_brim", r->torch_over, "torch_target", r->shape->torch_target, "growth_mib", r->growth,
        "torch_growth_mib", r->torch_growth, "growth_target", r->shape->growth_target, "gflops",
        1e-9 * r->limit.rate, "memory_gb_per_second", 1e-9 * r->limit.memory_rate, "events",
        (json_int_t)r->events, "tracking_us", 1e6 * r->tracking);
}

/* ---- Command --------------------------------------------------------------------------------- */

static const char usage[] = "usage: bench [--quick] [--json] [--threads N] [--rounds N] [--no-torch] "
                            "[--python PATH] [--script PATH] [shape…]\n"
                            "shapes: mlp bert-tiny bert-labelled llama-tiny gpt2 llama-small (all)\n";

static int find_shape(const char *name)
{
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].name, name) || !strcmp(shapes[i].preset, name))
            return i;
    return -1;
}

/* Returns 0 to go on, 2 for bad usage; *growth is the shape whose growth this process measures, or -1. */
static int parse(int argc, char **argv, Options *o, int *growth)
{
    static const struct option names[] = {
        {"quick", 0, 0, 'q'},  {"json", 0, 0, 'j'},     {"threads", 1, 0, 't'},
        {"rounds", 1, 0, 'r'}, {"no-torch", 0, 0, 'n'}, {"python", 1, 0, 'p'},
        {"script", 1, 0, 's'}, {"growth", 1, 0, 'g'},   {0}};
    *growth = -1;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'q')
            o->rounds = 2, o->turn = 0.1;
        else if (c == 'j')
            o->json = 1;
        else if (c == 't')
            o->threads = atoi(optarg);
        else if (c == 'r')
            o->rounds = atoi(optarg);
        else if (c == 'n')
            o->no_torch = 1;
        else if (c == 'p')
            o->python = optarg;
        else if (c == 's')
            o->script = optarg;
        else if (c != 'g' || (*growth = find_shape(optarg)) < 0)
            return 2;
    }
    for (; optind < argc; optind++) {
        int i = find_shape(argv[optind]);
        if (i < 0)
            return 2;
        o->chosen[i] = o->any = 1;
    }
    return o->threads < 1 || o->rounds < 1 || o->rounds > MAX_ROUNDS ? 2 : 0;
}

static void run_all(const Options *o)
{
    json_t *rows = json_array(), *about = NULL;
    int headed = 0;
    double begin = clock_now(), machine = machine_busy(), own = own_busy();
    for (int i = 0; i < SHAPES; i++) {
        if (o->any && !o->chosen[i])
            continue;
        Result result = {.shape = &shapes[i]};
        char settings[160] = "";
        Child torch = {0};
        result.growth = growth_of(&shapes[i], o->threads);
        json_t *answer =
            o->no_torch ? NULL : torch_start(&torch, o, shapes[i].torch, settings, sizeof settings);
        if (!answer)
            child_end(&torch);
        if (!headed++ && !o->json)
            print_header(o, answer, settings);
        if (!about && answer)
            about = json_incref(answer);
        run_shape(o, &shapes[i], &torch, &result);
        child_end(&torch);
        json_decref(answer);
        if (!o->json)
            print_row(&result);
        json_array_append_new(rows, row_json(&result));
    }
    double capacity = (clock_now() - begin) * (double)sysconf(_SC_NPROCESSORS_ONLN);
    double others = 100 * (machine_busy() - machine - (own_busy() - own)) / capacity;
    if (!o->json && others > 5)
        printf("\nOther processes used %.0f %% of the processors meanwhile: of the ratios, trust those to "
               "the replay.\n",
               others);
    if (o->json) {
        json_t *all =
            json_pack("{s:s, s:s, s:i, s:i, s:f, s:o, s:o}", "blas", kernels_blas_name(), "kernels",
                      kernels_cpu(NULL)->name, "threads", o->threads, "rounds", o->rounds, "others_percent",
                      others, "torch", about ? json_incref(about) : json_null(), "shapes", json_incref(rows));
        json_dumpf(all, stdout, JSON_INDENT(1));
        puts("");
        json_decref(all);
    }
    json_decref(about);
    json_decref(rows);
}

int main(int argc, char **argv)
{
    Options o = {.threads = 2,
                 .rounds = 7,
                 .turn = 0.5,
                 .python = "/usr/bin/python3",
                 .script = "bench/torch_bench.py"};
    int growth;
    if (parse(argc, argv, &o, &growth) != 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (growth >= 0)
        return growth_main(&shapes[growth], o.threads);
    signal(SIGPIPE, SIG_IGN);
    run_all(&o);
    return 0;
}
