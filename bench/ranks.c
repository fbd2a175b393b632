/* Two ranks of a thread each beside one process of two threads with twice the batch, and what the exchange
 * between them takes.
 *
 *     ranks [--quick] [--rounds N] [--ranks N] [PRESET]
 *
 * A round is two processes after each other: one that trains alone, and the ranks, which take turns between
 * the same steps without the others (compute), the exchange of all gradients without a step, ddp, and zero3
 * with a block's weights gathered in one call, and with those of the next block on their way. So what waits
 * for a rank never takes time from a process that trains alone. Ranks begin a turn together, and the slowest
 * of them counts. */
#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "../ranks/ranks.h"
#include "rounds.h"
#include "runner.h"

typedef enum Sort { ALONE, COMPUTE, EXCHANGE, DDP, ZERO3, NEXT, SORTS } Sort;

static const char *const names[SORTS] = {"one process", "compute",     "exchange",
                                         "ddp",         "zero3 block", "zero3 next"};

enum { MICROS = 4 /* of a turn */, TURNS = 3, ACCUMULATE = 4 };
static const int accumulates[] = {1, ACCUMULATE};
enum { LENGTHS = sizeof accumulates / sizeof *accumulates };

/* What a side of the contest runs. */
typedef struct Work {
    ModelPreset preset;
    Sort sort;
    int accumulate, ranks; /* that divide the samples */
} Work;

typedef struct Player {
    Work work;
    Runner runner;
    TensorList parameters;
    uint64_t sent; /* a step */
} Player;

typedef struct Options {
    const char *preset, *turn; /* of a child: "alone" or "together" */
    int rounds, ranks;
} Options;

/* ---- Steps ----------------------------------------------------------------------------------- */

static int open_work(Session *s, const Work *w)
{
    if (session_open(s, &w->preset) != 0)
        return error_code();
    nn_set_gather_blocks(s->model, w->sort == NEXT ? 2 : w->sort == ZERO3);
    s->batch.micros = w->accumulate;
    s->batch.labels_total = s->batch.labels_counted * w->accumulate * w->ranks;
    return error_code();
}

static double work_step(Session *s, const Work *w, const TensorList *parameters)
{
    double begin = clock_now();
    int scope = tensor_scope_begin();
    for (s->batch.micro = 0; s->batch.micro < w->accumulate && w->sort != EXCHANGE; s->batch.micro++)
        tensor_backward(nn_loss(s->model, &s->batch));
    if (w->sort == EXCHANGE) {
        for (int i = 0; i < parameters->count; i++)
            tensor_reduce_(parameters->items[i]);
    } else {
        optim_step(s->optimizer);
        optim_zero_grad(s->optimizer);
    }
    tensor_scope_end(scope);
    return clock_now() - begin;
}

/* Gradients to exchange are those of a backward. */
static void make_gradients(Session *s, const Work *w)
{
    int scope = tensor_scope_begin();
    if (w->sort == EXCHANGE)
        tensor_backward(nn_loss(s->model, &s->batch));
    tensor_scope_end(scope);
}

static int work_script(void *work)
{
    const Work *w = work;
    Session s;
    if (open_work(&s, w) != 0)
        return error_code();
    TensorList all = nn_parameters(s.model);
    make_gradients(&s, w);
    for (int i = 0; i < 3 && !error_code(); i++)
        work_step(&s, w, &all);
    return error_code();
}

static double player_step(void *player)
{
    Player *p = player;
    return work_step(&p->runner.session, &p->work, &p->parameters);
}

/* In just the memory that its plan says. 0, or -1 with the reason on the screen. */
static int player_open(Player *p, const Work *work, const Ranks *ranks, int threads)
{
    Ranks planned = ranks ? *ranks : (Ranks){0};
    Runner *r = &p->runner;
    planned.transport = NULL;
    *p = (Player){.work = *work};
    RunOptions options = {.threads = threads, .quiet = 1, .ranks = ranks ? &planned : NULL};
    if (plan_script(work_script, &p->work, &options, &r->plan) != 0)
        return fprintf(stderr, "ranks: %s: %s\n", names[work->sort], r->plan.error), -1;
    r->context = context_create(&(ContextOptions){.memory = MEMTRACK_RESERVED,
                                                  .capacity = r->plan.memory.stats.needs,
                                                  .threads = threads,
                                                  .ranks = ranks});
    if (!r->context)
        return fprintf(stderr, "ranks: %s: no memory\n", names[work->sort]), -1;
    memtrack_ledger_follow(context_ledger(r->context), r->plan.hints);
    context_use(r->context);
    if (open_work(&r->session, &p->work) == 0) {
        p->parameters = nn_parameters(r->session.model);
        make_gradients(&r->session, &p->work);
        uint64_t before = context_traffic_(r->context).sent;
        player_step(p);
        p->sent = context_traffic_(r->context).sent - before;
    }
    if (error_code())
        return fprintf(stderr, "ranks: %s: %s\n", names[work->sort], error_message()), -1;
    return 0;
}

/* ---- A child's turn: its sides one after another, and a line of JSON ---------------------------- */

/* The slowest rank's. */
static double slowest(const Ranks *ranks, double seconds)
{
    double all[64] = {seconds};
    if (!ranks || ranks_gather(ranks, &(double[8]){seconds}, sizeof(double), all) != 0)
        return seconds;
    for (int r = 0; r < ranks->size; r++)
        seconds = all[r] > seconds ? all[r] : seconds;
    return seconds;
}

/* Non-zero: a step has failed, and the reason is on the screen. */
static int take_turn(Player *p, Side *side, const Ranks *ranks)
{
    double seconds[MICROS], room[MICROS];
    int steps = MICROS / p->work.accumulate;
    slowest(ranks, 0); /* all are there */
    context_use(p->runner.context);
    for (int i = 0; i < steps; i++)
        seconds[i] = player_step(p);
    side_add(side, slowest(ranks, order_median(seconds, steps, room)));
    if (error_code())
        fprintf(stderr, "ranks: %s: %s\n", names[p->work.sort], error_message());
    return error_code();
}

/* {"ddp": {"seconds": [at accumulate 1, at 4], "sent": [bytes a step, …]}, …} */
static int child_main(const Options *o, const Ranks *ranks)
{
    static Player players[SORTS][LENGTHS];
    static Side sides[SORTS][LENGTHS];
    Sort first = ranks ? COMPUTE : ALONE, last = ranks ? NEXT : ALONE;
    int failed = 0;
    for (Sort sort = first; sort <= last && !failed; sort++)
        for (int l = 0; l < LENGTHS && !failed; l++) {
            Ranks as = ranks ? *ranks : (Ranks){0};
            Work work = {.preset = *nn_preset(o->preset), .sort = sort, .accumulate = accumulates[l]};
            work.ranks = sort == COMPUTE || !ranks ? 1 : o->ranks;
            work.preset.batch *= ranks ? 1 : o->ranks;
            as.strategy = sort >= ZERO3 ? RANKS_ZERO3 : RANKS_DDP;
            failed = player_open(&players[sort][l], &work, work.ranks > 1 ? &as : NULL, ranks ? 1 : o->ranks);
        }
    for (int turn = 0; turn < TURNS && !failed; turn++)
        for (Sort sort = first; sort <= last && !failed; sort++)
            for (int l = 0; l < LENGTHS && !failed; l++)
                failed = take_turn(&players[sort][l], &sides[sort][l], ranks);
    json_t *answer = json_object();
    for (Sort sort = first; sort <= last && !failed; sort++) {
        json_t *times = json_array(), *sent = json_array();
        for (int l = 0; l < LENGTHS; l++) {
            json_array_append_new(times, json_real(median(sides[sort][l].all, TURNS)));
            json_array_append_new(sent, json_integer((json_int_t)players[sort][l].sent));
        }
        json_object_set_new(answer, names[sort], json_pack("{s:o,s:o}", "seconds", times, "sent", sent));
    }
    if (!failed && (!ranks || ranks->rank == 0) && json_dumpf(answer, stdout, 0) == 0)
        putchar('\n');
    json_decref(answer);
    for (Sort sort = first; sort <= last; sort++)
        for (int l = 0; l < LENGTHS; l++)
            runner_close(&players[sort][l].runner);
    return failed != 0;
}

/* ---- Rounds ---------------------------------------------------------------------------------- */

typedef struct Measured {
    double seconds[SORTS][LENGTHS][MAX_ROUNDS];
    uint64_t sent[SORTS][LENGTHS];
} Measured;

/* 0, or -1: the child gave no answer, and has said why. */
static int ask(const Options *o, const char *turn, int round, Measured *m)
{
    char path[4096], ranks[16];
    Child child;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    snprintf(ranks, sizeof ranks, "%d", o->ranks);
    const char *const argv[] = {path, "--turn", turn, "--ranks", ranks, o->preset, NULL};
    if (child_start(&child, argv) != 0)
        return -1;
    json_t *answer = child_answer(&child);
    child_end(&child);
    for (Sort sort = ALONE; sort < SORTS && answer; sort++) {
        const json_t *side = json_object_get(answer, names[sort]);
        for (size_t l = 0; l < LENGTHS && side; l++) {
            m->seconds[sort][l][round] = json_real_value(json_array_get(json_object_get(side, "seconds"), l));
            m->sent[sort][l] = (uint64_t)json_integer_value(json_array_get(json_object_get(side, "sent"), l));
        }
    }
    int failed = !answer;
    json_decref(answer);
    return failed ? -1 : 0;
}

static double middle(const Measured *m, Sort sort, int length, int rounds)
{
    return median(m->seconds[sort][length], rounds);
}

static void print_ratio(const char *what, const double *a, const double *b, int rounds, double target)
{
    printf("%-46s %s\n", what, verdict(ratio_of_rounds(a, b, rounds), target, 1));
}

static void print_results(const Options *o, const Measured *m)
{
    double expected[MAX_ROUNDS];
    printf("%s, %d ranks of one thread beside a process of %d; medians of %d rounds\n\n", o->preset, o->ranks,
           o->ranks, o->rounds);
    printf("%-14s %12s %12s %18s %18s\n", "ms a step", "accumulate 1", "accumulate 4", "sent a step, 1",
           "sent a step, 4");
    for (Sort sort = ALONE; sort < SORTS; sort++)
        printf("%-14s %12.1f %12.1f %18llu %18llu\n", names[sort], 1e3 * middle(m, sort, 0, o->rounds),
               1e3 * middle(m, sort, 1, o->rounds), (unsigned long long)m->sent[sort][0],
               (unsigned long long)m->sent[sort][1]);
    printf("\nThe exchange carries %.2f GB/s a rank.\n\n",
           1e-9 * (double)m->sent[EXCHANGE][0] / middle(m, EXCHANGE, 0, o->rounds));
    for (int r = 0; r < o->rounds; r++)
        expected[r] = m->seconds[COMPUTE][0][r] + m->seconds[EXCHANGE][0][r];
    print_ratio("ddp / one process, accumulate 4", m->seconds[DDP][1], m->seconds[ALONE][1], o->rounds, 1.1);
    print_ratio("ddp / one process, accumulate 1", m->seconds[DDP][0], m->seconds[ALONE][0], o->rounds, 1.15);
    print_ratio("ddp / (compute + exchange), accumulate 1", m->seconds[DDP][0], expected, o->rounds, 1.05);
    print_ratio("zero3 block / ddp, accumulate 1", m->seconds[ZERO3][0], m->seconds[DDP][0], o->rounds, 1.25);
    print_ratio("zero3 block / ddp, accumulate 4", m->seconds[ZERO3][1], m->seconds[DDP][1], o->rounds, 0);
    print_ratio("zero3 next / zero3 block, accumulate 1", m->seconds[NEXT][0], m->seconds[ZERO3][0],
                o->rounds, 0);
}

/* ---- The program ----------------------------------------------------------------------------- */

/* One rank of the ranks' turn; without a launcher it starts them. */
static int together(const Options *o, char **argv)
{
    char why[1024];
    Ranks ranks;
    if (!ranks_launched())
        ranks_launch(o->ranks, argv, why, sizeof why);
    else if (ranks_join(&ranks, RANKS_DDP, o->ranks, why, sizeof why) == 0) {
        int failed = child_main(o, &ranks);
        ranks_leave(&ranks, failed);
        return failed;
    }
    fprintf(stderr, "ranks: %s\n", why);
    return 1;
}

static int usage(void)
{
    fprintf(stderr, "ranks [--quick] [--rounds N] [--ranks N] [PRESET]\n");
    return 2;
}

static int read_options(int argc, char **argv, Options *o)
{
    static const struct option known[] = {{"quick", 0, NULL, 'q'},
                                          {"rounds", 1, NULL, 'r'},
                                          {"ranks", 1, NULL, 'n'},
                                          {"turn", 1, NULL, 't'},
                                          {0}};
    *o = (Options){.preset = "llama-tiny", .rounds = 7, .ranks = 2};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'q')
            o->rounds = 1;
        else if (c == 'r')
            o->rounds = atoi(optarg);
        else if (c == 'n')
            o->ranks = atoi(optarg);
        else if (c == 't')
            o->turn = optarg;
        else
            return -1;
    }
    if (optind < argc)
        o->preset = argv[optind];
    return o->rounds < 1 || o->rounds > MAX_ROUNDS || o->ranks < 2 || o->ranks > 64 || !nn_preset(o->preset)
               ? -1
               : 0;
}

int main(int argc, char **argv)
{
    static Measured measured;
    Options o;
    if (read_options(argc, argv, &o) != 0)
        return usage();
    if (o.turn)
        return strcmp(o.turn, "alone") ? together(&o, argv) : child_main(&o, NULL);
    for (int round = 0; round < o.rounds; round++)
        if (ask(&o, "alone", round, &measured) != 0 || ask(&o, "together", round, &measured) != 0)
            return 1;
    print_results(&o, &measured);
    return 0;
}
