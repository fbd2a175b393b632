/* The benchmark, in two contests. In fp32: brim's training step against the replay of its products, the
 * physical limit and PyTorch. In 16 bit: the same step in bf16-mixed against brim's own fp32 step and
 * PyTorch's autocast. Sides take turns in rounds, so that what disturbs the machine disturbs everyone; how
 * much a process grows is measured in processes of their own. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/utsname.h>

#include "../base/clock_.h"
#include "machine.h"
#include "replay.h"
#include "rounds.h"
#include "runner.h"
#include "tracking.h"

typedef struct BenchShape {
    const char *name, *preset, *torch;
    double replay_target, torch_target, growth_target; /* at most, at least, at most */
    double mixed_growth_target;                        /* at most; of autocast's; 0 = only shown */
    int skips_unlabelled; /* not what PyTorch computes: beside the ratio that counts, of all rows */
} BenchShape;

static const BenchShape shapes[] = {
    {"mlp", "bench-mlp", "mlp", 1.3, 2.0, 0.5, 0, 0},
    {"bert-tiny", "bench-bert-tiny", "bert-tiny", 1.2, 1.8, 0.5, 0, 0},
    {"bert-labelled", "bench-bert-tiny", "bert-tiny", 1.2, 1.8, 0.5, 0, 1},
    {"llama-tiny", "bench-llama-tiny", "llama-tiny", 1.2, 1.8, 0.5, 0.6, 0},
    {"gpt2", "bench-gpt2", "gpt2-124m", 1.2, 1.8, 0.85, 0.65, 0},
    {"llama-small", "bench-llama-small", "llama-small", 1.2, 1.4, 0.55, 0.6, 0},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* Who takes turns. */
typedef enum { BRIM, MIXED, REPLAY, EAGER, BEST, AUTOCAST, AUTOCAST_BEST, SIDES } SideKind;
enum { PLACES = 4 };

/* brim's own two first, of which its fp32 step is one of both. */
static const struct Contest {
    const char *name;
    int sides[PLACES];
} contests[] = {
    {"fp32", {BRIM, REPLAY, EAGER, BEST}},
    {"16", {BRIM, MIXED, AUTOCAST, AUTOCAST_BEST}},
};
enum { IN_FP32, IN_16_BIT, CONTESTS };

/* What PyTorch's sides are started with. "Best" is compiled, with its own attention and fused AdamW. */
static const char *const torch_arguments[SIDES][5] = {
    [BEST] = {"--fused", "--sdpa", "--compile"},
    [AUTOCAST] = {"--autocast"},
    [AUTOCAST_BEST] = {"--autocast", "--fused", "--sdpa", "--compile"},
};

typedef struct Options {
    int threads, rounds, json, no_torch, no_compile;
    double turn; /* seconds that one side's turn in a round takes, at least one step */
    const char *python, *script;
    const Precision *precision; /* of the 16-bit side */
    int chosen[SHAPES], any, contest[CONTESTS];
} Options;

typedef struct Result {
    const BenchShape *shape;
    char error[256];
    double seconds[SIDES];                          /* medians over all steps */
    double over_replay, to_fp32, torch_over[SIDES]; /* medians over rounds of ratios within the round */
    double by_work, replay_by_work;                 /* to_fp32 and over_replay of processor time */
    double growth[SIDES];                           /* MiB */
    Limit limit;
    double tracking; /* seconds a step */
    size_t events;
    int steps; /* timed, of brim */
    double loss, mixed_loss;
} Result;

static Side sides[SIDES];

/* ---- PyTorch --------------------------------------------------------------------------------- */

/* PyTorch has products of its own (MKL). Passive, so that its threads sleep while others are measured. */
static json_t *torch_start(Child *child, const Options *o, const char *shape, int side)
{
    enum { FIXED = 8 };
    char threads[16];
    PeerSetting aten = peer_vectors();
    snprintf(threads, sizeof threads, "%d", o->threads);
    const char *argv[FIXED + 6] = {
        "env", aten.text, "OMP_WAIT_POLICY=passive", o->python, o->script, shape, "--threads", threads};
    for (int i = 0, n = FIXED; i < 5 && torch_arguments[side][i]; i++)
        if (!o->no_compile || strcmp(torch_arguments[side][i], "--compile"))
            argv[n++] = torch_arguments[side][i];
    json_t *answer = child_start(child, argv) == 0 ? child_answer(child) : NULL;
    if (!answer)
        child_end(child);
    return answer;
}

static int torch_turn(Child *child, int steps, Side *side, double *growth)
{
    int count = peer_turn(child, steps, side, growth);
    usleep(60000); /* OpenBLAS's own threads spin for some 30 ms before they sleep */
    return count;
}

/* ---- brim ------------------------------------------------------------------------------------ */

/* A session in just the memory that its plan says, current. Returns 0, or -1 with the reason in `why`. */
static int runner_open(Runner *r, const BenchShape *shape, const Precision *precision, int threads, char *why,
                       size_t size)
{
    const ModelPreset *preset = nn_preset(shape->preset);
    *r = (Runner){0};
    session_skips_unlabelled = shape->skips_unlabelled;
    session_precision = precision;
    if (plan_script(session_script, (void *)preset, &(RunOptions){.threads = threads}, &r->plan) != 0) {
        snprintf(why, size, "%.250s", r->plan.error);
        return -1;
    }
    uint64_t needs = r->plan.memory.stats.needs;
    r->context =
        context_create(&(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = needs, .threads = threads});
    if (!r->context) {
        snprintf(why, size, "no memory");
        return -1;
    }
    memtrack_ledger_follow(context_ledger(r->context), r->plan.hints);
    context_use(r->context);
    if (session_open(&r->session, preset) == 0)
        return 0;
    snprintf(why, size, "%.250s", error_message());
    return -1;
}

/* Growth after the model was made, in a process of its own. The reservation is touched at once, so what it
 * holds beyond the model at that moment counts as growth; PyTorch's growth likewise begins before gradients
 * and optimizer state. A master is part of the model. */
static int growth_main(const BenchShape *shape, const Options *o)
{
    static Runner r;
    char why[256] = "";
    if (runner_open(&r, shape, o->precision, o->threads, why, sizeof why) != 0) {
        fprintf(stderr, "%s: %s\n", shape->name, why);
        return 1;
    }
    for (int i = 0; i < 4; i++)
        session_step(&r.session);
    uint64_t before = r.session.model_resident - (r.plan.memory.stats.needs - r.session.model_bytes);
    printf("{\"growth\": %.3f, \"error\": %d}\n",
           ((double)memtrack_process_resident_peak() - (double)before) / (1 << 20), error_code());
    runner_close(&r);
    return 0;
}

static double growth_of(const BenchShape *shape, const char *precision, int threads)
{
    char number[16];
    snprintf(number, sizeof number, "%d", threads);
    return own_growth(
        (const char *[]){NULL, "--precision", precision, "--threads", number, "--growth", shape->name, NULL});
}

/* ---- One contest of one shape ---------------------------------------------------------------- */

static double replay_step(void *replay)
{
    return replay_run(replay);
}

typedef struct Players {
    Runner runner[2]; /* BRIM, MIXED */
    Replay replay;
    Child torch[SIDES];
    json_t *about[SIDES];
} Players;

/* brim's own sides. */
static void own_turn(Players *p, int side, int steps)
{
    if (side == REPLAY) {
        replay_refresh(&p->replay);
        side_turn(&sides[side], steps, replay_step, &p->replay);
        return;
    }
    context_use(p->runner[side].context);
    side_turn(&sides[side], steps, runner_step, &p->runner[side]);
}

/* The order of the first two turns round by round. */
static void run_rounds(const Options *o, const struct Contest *contest, Players *p, Result *result)
{
    int torch_steps[SIDES];
    own_turn(p, contest->sides[1], 2);
    own_turn(p, BRIM, 2);
    int steps = turn_steps(sides[BRIM].all[1], o->turn);
    for (int i = 2; i < PLACES; i++) {
        int side = contest->sides[i];
        if (!p->torch[side].to)
            continue;
        torch_turn(&p->torch[side], 1, NULL, &result->growth[side]);
        double begin = clock_now();
        torch_turn(&p->torch[side], 1, NULL, &result->growth[side]);
        double took = clock_now() - begin - 0.06;
        torch_steps[side] = turn_steps(took > 1e-4 ? took : 1e-4, o->turn);
    }
    memset(sides, 0, sizeof sides);
    for (int round = 0; round < o->rounds; round++) {
        for (int i = 0; i < 2; i++)
            own_turn(p, contest->sides[round % 2 ? 1 - i : i], steps);
        usleep(20000); /* our own threads spin for some milliseconds before they sleep */
        for (int i = 2; i < PLACES; i++) {
            int side = contest->sides[i];
            if (p->torch[side].to)
                side_round(&sides[side], torch_turn(&p->torch[side], torch_steps[side], &sides[side],
                                                    &result->growth[side]));
        }
    }
}

/* Returns 0, or -1 with result->error set. */
static int players_open(const Options *o, const struct Contest *contest, Players *p, Result *result)
{
    Runner *brim = &p->runner[BRIM];
    if (runner_open(brim, result->shape, NULL, o->threads, result->error, sizeof result->error) != 0)
        return -1;
    if (contest->sides[1] == MIXED)
        return runner_open(&p->runner[MIXED], result->shape, o->precision, o->threads, result->error,
                           sizeof result->error);
    session_step(&brim->session);
    if (replay_record(&p->replay, &brim->session, brim->plan.memory.stats.needs) == 0)
        return 0;
    snprintf(result->error, sizeof result->error, "%.250s", error_code() ? error_message() : "no memory");
    return -1;
}

static void players_close(Players *p)
{
    if (p->replay.tracker)
        replay_close(&p->replay);
    for (int i = 0; i < 2; i++)
        runner_close(&p->runner[i]);
    for (int i = 0; i < SIDES; i++) {
        child_end(&p->torch[i]);
        json_decref(p->about[i]);
        p->about[i] = NULL;
    }
}

static void players_result(const struct Contest *contest, const Players *p, Result *result)
{
    for (int i = 0; i < 2; i++) {
        if (!p->runner[i].context)
            continue;
        context_use(p->runner[i].context);
        if (error_code() && !result->error[0])
            snprintf(result->error, sizeof result->error, "%.250s", error_message());
    }
    int ours = contest->sides[1] == MIXED ? MIXED : BRIM;
    for (int i = 0; i < PLACES; i++) {
        int side = contest->sides[i];
        result->seconds[side] = median(sides[side].all, sides[side].count);
        if (i >= 2)
            result->torch_over[side] =
                ratio_of_rounds(sides[side].round, sides[ours].round, sides[side].rounds);
    }
    if (ours == MIXED) {
        result->to_fp32 = ratio_of_rounds(sides[MIXED].round, sides[BRIM].round, sides[MIXED].rounds);
        result->by_work = ratio_of_rounds(sides[MIXED].work, sides[BRIM].work, sides[MIXED].rounds);
    } else {
        result->over_replay = ratio_of_rounds(sides[BRIM].round, sides[REPLAY].round, sides[REPLAY].rounds);
        result->replay_by_work = ratio_of_rounds(sides[BRIM].work, sides[REPLAY].work, sides[REPLAY].rounds);
    }
    result->steps = sides[BRIM].count;
    result->loss = p->runner[BRIM].session.loss;
    result->mixed_loss = p->runner[MIXED].session.loss;
}

static void run_contest(const Options *o, const struct Contest *contest, Players *p, Result *result)
{
    memset(sides, 0, sizeof sides);
    session_precision = NULL;
    session_skips_unlabelled = result->shape->skips_unlabelled;
    if (contest->sides[1] == REPLAY)
        result->tracking = tracking_seconds(nn_preset(result->shape->preset), o->threads, &result->events);
    if (players_open(o, contest, p, result) == 0) {
        run_rounds(o, contest, p, result);
        if (contest->sides[1] == REPLAY)
            result->limit = limit_of(&p->replay);
    }
    players_result(contest, p, result);
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void print_machine(const Options *o)
{
    struct utsname system;
    double load[1] = {0};
    uname(&system);
    if (getloadavg(load, 1) < 1)
        load[0] = 0;
    printf("machine   %s, %d of %ld processors, %s %s, load before: %.2f\n", machine_name().text, o->threads,
           sysconf(_SC_NPROCESSORS_ONLN), system.sysname, system.release, load[0]);
    printf("brim      %s, %d threads, kernels %s\n", kernels_blas_name(), o->threads,
           kernels_cpu(NULL)->name);
    if (kernels_blas_warning())
        printf("          warning: %s\n", kernels_blas_warning());
}

static void print_torch(const Options *o, const struct Contest *contest, json_t *const about[SIDES])
{
    const json_t *plain = about[contest->sides[2]], *best = about[contest->sides[3]];
    if (!plain) {
        printf("PyTorch   %s\n", o->no_torch ? "left out" : "not there: its columns need tools/python-env");
        return;
    }
    printf("PyTorch   %s eager %s, %d threads, CPU capability %s, products by %s\n",
           json_string_value(json_object_get(plain, "torch")),
           contest->sides[2] == AUTOCAST ? "bf16 by autocast (weights fp32)" : "fp32",
           (int)json_integer_value(json_object_get(plain, "threads")),
           json_string_value(json_object_get(plain, "cpu_capability")),
           json_string_value(json_object_get(plain, "blas")));
    const char *why = json_string_value(json_object_get(best, "not_compiled"));
    int compiled = json_is_true(json_object_get(best, "compiled"));
    printf("its best  scaled_dot_product_attention, fused AdamW, %storch.compile%s%s\n",
           compiled ? "" : "no ", why ? ": " : "", why ? why : "");
}

static void print_header(const Options *o, const struct Contest *contest, json_t *const about[SIDES])
{
    print_torch(o, contest, about);
    printf(
        "step      forward, loss, backward, AdamW, zero_grad; %d rounds of turns of about %.1f s; medians\n",
        o->rounds, o->turn);
    if (contest->sides[1] == MIXED) {
        printf("by work   the ratio of processor times: what others do on the machine counts less\n"
               "growth    of the process from after the model and its masters were made (optimizer state "
               "included) to its highest, MiB\n\n");
        printf("%-13s %9s %9s  %-19s %7s  %9s %5s %9s %5s  %8s %9s  %-19s %8s %5s  %7s %7s\n", "shape",
               "fp32 ms", o->precision->name, "to fp32", "by work", "autocast", "x", "best ms", "x", "growth",
               "autocast", "ratio", "best's", "ratio", "loss", "fp32's");
        return;
    }
    printf(
        "replay    the step's products, through the same kernels, and its AdamW pass, nothing else\n"
        "by work   the ratio of processor times: what others do on the machine counts less\n"
        "limit     the products at the fastest one's rate, AdamW at the rate of a pass that only moves its "
        "bytes\n"
        "growth    of the process from after the model was made (optimizer state included) to its highest, "
        "MiB\nlabelled  as bert-tiny, but brim computes the head only for the 15 %% of rows with a label "
        "(--skip-unlabelled),\n          and PyTorch for all: the ratio to compare is bert-tiny's\n\n");
    printf("%-13s %9s %9s  %-19s %7s  %9s  %-19s %9s %9s %9s %7s %8s  %8s %8s  %-19s %s\n", "shape",
           "brim ms", "replay ms", "brim/replay", "by work", "torch ms", "torch/brim", "best ms", "best/brim",
           "limit ms", "x limit", "GFLOP/s", "growth", "torch's", "ratio", "tracking");
}

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void print_fp32(const Result *r)
{
    const BenchShape *s = r->shape;
    printf(
        "%-13s %9.2f %9.2f  %-19s %7.3f  %9.2f  %-19s %9.2f %9.2f %9.2f %7.2f %8.0f  %8.1f %8.1f  %-19s %.3f "
        "%%%s\n",
        s->name, 1e3 * r->seconds[BRIM], 1e3 * r->seconds[REPLAY],
        verdict(r->over_replay, s->replay_target, 1), r->replay_by_work, 1e3 * r->seconds[EAGER],
        verdict(r->torch_over[EAGER], s->torch_target, 0), 1e3 * r->seconds[BEST], r->torch_over[BEST],
        1e3 * r->limit.seconds, over(r->seconds[BRIM], r->limit.seconds), 1e-9 * r->limit.rate,
        r->growth[BRIM], r->growth[EAGER],
        verdict(over(r->growth[BRIM], r->growth[EAGER]), s->growth_target, 1),
        100 * over(r->tracking, r->seconds[BRIM]), r->tracking < 0.01 * r->seconds[BRIM] ? "" : " MISS");
}

/* Dot instructions of 16 bit do twice the arithmetic of fp32. */
static double mixed_target(void)
{
    return strstr(kernels_cpu(NULL)->name, "bf16") ? 0.75 : 1.15;
}

static void print_mixed(const Result *r)
{
    const BenchShape *s = r->shape;
    printf("%-13s %9.2f %9.2f  %-19s %7.2f  %9.2f %5.2f %9.2f %5.2f  %8.1f %9.1f  %-19s %8.1f %5.2f  %7.4f "
           "%7.4f\n",
           s->name, 1e3 * r->seconds[BRIM], 1e3 * r->seconds[MIXED], verdict(r->to_fp32, mixed_target(), 1),
           r->by_work, 1e3 * r->seconds[AUTOCAST], r->torch_over[AUTOCAST], 1e3 * r->seconds[AUTOCAST_BEST],
           r->torch_over[AUTOCAST_BEST], r->growth[MIXED], r->growth[AUTOCAST],
           verdict(over(r->growth[MIXED], r->growth[AUTOCAST]), s->mixed_growth_target, 1),
           r->growth[AUTOCAST_BEST], over(r->growth[MIXED], r->growth[AUTOCAST_BEST]), r->mixed_loss,
           r->loss);
}

static json_t *row_json(const Result *r)
{
    static const char *const keys[SIDES] = {"brim",       "mixed",    "replay",       "torch",
                                            "torch_best", "autocast", "autocast_best"};
    json_t *row = json_pack(
        "{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f}", "shape",
        r->shape->name, "error", r->error, "steps", r->steps, "loss", r->loss, "mixed_loss", r->mixed_loss,
        "limit_ms", 1e3 * r->limit.seconds, "brim_over_replay", r->over_replay, "brim_over_replay_by_work",
        r->replay_by_work, "replay_target", r->shape->replay_target, "torch_target", r->shape->torch_target,
        "mixed_over_fp32", r->to_fp32, "mixed_over_fp32_by_work", r->by_work, "growth_target",
        r->shape->growth_target, "gflops", 1e-9 * r->limit.rate, "memory_gb_per_second",
        1e-9 * r->limit.memory_rate, "events", (json_int_t)r->events, "tracking_us", 1e6 * r->tracking);
    for (int i = 0; i < SIDES; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s_ms", keys[i]);
        json_object_set_new(row, key, json_real(1e3 * r->seconds[i]));
        snprintf(key, sizeof key, "%s_growth_mib", keys[i]);
        if (i != REPLAY)
            json_object_set_new(row, key, json_real(r->growth[i]));
        snprintf(key, sizeof key, "%s_over_%s", keys[i], i < AUTOCAST ? "brim" : "mixed");
        if (i > REPLAY)
            json_object_set_new(row, key, json_real(r->torch_over[i]));
    }
    return row;
}

/* ---- Command --------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: bench [--quick] [--json] [--threads N] [--rounds N] [--contest fp32|16] [--precision NAME]\n"
    "             [--no-torch] [--no-compile] [--python PATH] [--script PATH] [shape…]\n"
    "shapes: mlp bert-tiny bert-labelled llama-tiny gpt2 llama-small (all)\n"
    "--precision: of the 16-bit side, bf16-mixed unless told. --quick leaves out torch.compile.\n";

static int find_shape(const char *name)
{
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].name, name) || !strcmp(shapes[i].preset, name))
            return i;
    return -1;
}

static int find_contest(const char *name)
{
    for (int i = 0; i < CONTESTS; i++)
        if (!strcmp(contests[i].name, name))
            return i;
    return -1;
}

/* Returns 0 to go on, 2 for bad usage; *growth is the shape whose growth this process measures, or -1. */
static int parse(int argc, char **argv, Options *o, int *growth)
{
    static const struct option names[] = {
        {"quick", 0, 0, 'q'},      {"json", 0, 0, 'j'},    {"threads", 1, 0, 't'},   {"rounds", 1, 0, 'r'},
        {"no-torch", 0, 0, 'n'},   {"python", 1, 0, 'p'},  {"script", 1, 0, 's'},    {"growth", 1, 0, 'g'},
        {"no-compile", 0, 0, 'c'}, {"contest", 1, 0, 'C'}, {"precision", 1, 0, 'P'}, {0}};
    int contest = -1;
    *growth = -1;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'q')
            o->rounds = 2, o->turn = 0.1, o->no_compile = 1;
        else if (c == 'j')
            o->json = 1;
        else if (c == 't')
            o->threads = atoi(optarg);
        else if (c == 'r')
            o->rounds = atoi(optarg);
        else if (c == 'n')
            o->no_torch = 1;
        else if (c == 'c')
            o->no_compile = 1;
        else if (c == 'p')
            o->python = optarg;
        else if (c == 's')
            o->script = optarg;
        else if (c == 'P' && (o->precision = precision_by_name(optarg)) == NULL)
            return 2;
        else if (c == 'C' && (contest = find_contest(optarg)) < 0)
            return 2;
        else if (c == '?' || (c == 'g' && (*growth = find_shape(optarg)) < 0))
            return 2;
    }
    for (int i = 0; i < CONTESTS; i++)
        o->contest[i] = contest < 0 || contest == i;
    for (; optind < argc; optind++) {
        int i = find_shape(argv[optind]);
        if (i < 0)
            return 2;
        o->chosen[i] = o->any = 1;
    }
    return o->threads < 1 || o->rounds < 1 || o->rounds > MAX_ROUNDS ? 2 : 0;
}

/* `about`: what the last PyTorch said of itself. */
static void run_one(const Options *o, int which, Result *result, int *headed, json_t **about)
{
    static Players p;
    const struct Contest *contest = &contests[which];
    const BenchShape *shape = result->shape;
    int ours = contest->sides[1] == MIXED ? MIXED : BRIM;
    memset(&p, 0, sizeof p);
    result->growth[ours] = growth_of(shape, ours == MIXED ? o->precision->name : "fp32", o->threads);
    for (int i = 2; i < PLACES && !o->no_torch; i++) {
        int side = contest->sides[i];
        p.about[side] = torch_start(&p.torch[side], o, shape->torch, side);
    }
    if (!*about && p.about[contest->sides[2]])
        *about = json_incref(p.about[contest->sides[2]]);
    if (!(*headed)++ && !o->json)
        print_header(o, contest, p.about);
    run_contest(o, contest, &p, result);
    players_close(&p);
    if (o->json)
        return;
    if (result->error[0])
        printf("%-13s failed: %s\n", shape->name, result->error);
    else if (ours == MIXED)
        print_mixed(result);
    else
        print_fp32(result);
    fflush(stdout);
}

static void run_all(const Options *o)
{
    static Result results[SHAPES];
    json_t *about = NULL;
    double begin = clock_now(), machine = machine_busy(), own = own_busy();
    if (!o->json)
        print_machine(o);
    for (int c = 0; c < CONTESTS; c++) {
        int headed = 0;
        for (int i = 0; i < SHAPES && o->contest[c]; i++) {
            results[i].shape = &shapes[i];
            if (!o->any || o->chosen[i])
                run_one(o, c, &results[i], &headed, &about);
        }
        if (headed && !o->json)
            puts("");
    }
    double capacity = (clock_now() - begin) * (double)sysconf(_SC_NPROCESSORS_ONLN);
    double others = 100 * (machine_busy() - machine - (own_busy() - own)) / capacity;
    if (!o->json && others > 5)
        printf("Other processes used %.0f %% of the processors meanwhile: of the ratios, trust those between "
               "brim's own sides.\n",
               others);
    if (o->json) {
        json_t *rows = json_array();
        for (int i = 0; i < SHAPES; i++)
            if (!o->any || o->chosen[i])
                json_array_append_new(rows, row_json(&results[i]));
        json_t *all = json_pack("{s:s, s:s, s:i, s:i, s:s, s:f, s:o, s:o}", "blas", kernels_blas_name(),
                                "kernels", kernels_cpu(NULL)->name, "threads", o->threads, "rounds",
                                o->rounds, "precision", o->precision->name, "others_percent", others, "torch",
                                about ? json_incref(about) : json_null(), "shapes", rows);
        json_dumpf(all, stdout, JSON_INDENT(1));
        puts("");
        json_decref(all);
    }
    json_decref(about);
}

int main(int argc, char **argv)
{
    Options o = {.threads = 2,
                 .rounds = 7,
                 .turn = 0.5,
                 .python = "/usr/bin/python3",
                 .script = "bench/torch_bench.py",
                 .precision = precision_by_name("bf16-mixed")};
    int growth;
    if (parse(argc, argv, &o, &growth) != 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (growth >= 0)
        return growth_main(&shapes[growth], &o);
    signal(SIGPIPE, SIG_IGN);
    run_all(&o);
    return 0;
}
