/* The adapter benchmark: a LoRA step on a base of every type, with activations in fp32 and in bf16, against
 * the same step on an fp32 base, in interleaved rounds; how much the process of a bf16 base grows, beside
 * PEFT's; and, by hand, a model that takes most of the machine, with adapters or trained whole. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>

#include "adapted_large.h"
#include "rounds.h"
#include "runner.h"

enum { SHAPES = 2 };

typedef struct TuningShape {
    const char *name, *preset;
    int batch, seq;
    double nf4_target, growth_target, growth_in_bf16_target; /* at most; 0 = only shown */
} TuningShape;

/* In the first products dominate; the second is so small that much else counts. */
static const TuningShape shapes[SHAPES] = {
    {"llama-small", "bench-llama-small", 1, 256, 1.15, 0.95, 0.6},
    {"llama-tiny", "bench-llama-tiny", 8, 256, 0, 0, 0.6},
};

/* PyTorch's attention, each with a process of its own. */
static const char *const attentions[] = {"eager", "sdpa"};
enum { PEERS = sizeof attentions / sizeof attentions[0] };

typedef struct Options {
    int threads, rounds, no_torch;
    double turn; /* seconds that one side's turn in a round takes, at least one step */
    const char *python, *script;
    int batch, seq, rank; /* 0 = the shape's; the rank's is 16 */
    float dropout;
    int chosen[SHAPES], any;
    int growth;        /* the shape whose growth this process measures, or -1 */
    const char *model; /* by hand */
    const char *quantize, *weights;
    const char *precision; /* by hand, and of the growth of a bf16 base: NULL = fp32 */
    int steps, no_checkpoint, full, eight_bit;
} Options;

static Side sides[BASES + PEERS];

static Adapted adapted_of(const Options *o, const TuningShape *shape, const Base *base)
{
    Adapted a = {.preset = *nn_preset(shape->preset), .base = *base, .lr = 3e-4f};
    a.preset.batch = o->batch ? o->batch : shape->batch;
    a.preset.seq = o->seq ? o->seq : shape->seq;
    a.lora = (Lora){.rank = o->rank, .alpha = 2 * (float)o->rank, .dropout = o->dropout};
    return a;
}

/* As a child is told. */
typedef struct Numbers {
    char threads[16], batch[16], seq[16], rank[16], dropout[24];
} Numbers;

static Numbers numbers_of(const Options *o, const Adapted *a)
{
    Numbers n;
    snprintf(n.threads, sizeof n.threads, "%d", o->threads);
    snprintf(n.batch, sizeof n.batch, "%d", a->preset.batch);
    snprintf(n.seq, sizeof n.seq, "%d", a->preset.seq);
    snprintf(n.rank, sizeof n.rank, "%d", a->lora.rank);
    snprintf(n.dropout, sizeof n.dropout, "%g", (double)a->lora.dropout);
    return n;
}

/* ---- PEFT ------------------------------------------------------------------------------------ */

/* Its threads sleep while others are measured. */
static json_t *peft_start(Child *child, const Options *o, const Adapted *a, const char *attention)
{
    const LlamaConfig *c = &a->preset.config.llama;
    char sizes[128];
    PeerSetting aten = peer_vectors();
    Numbers n = numbers_of(o, a);
    snprintf(sizes, sizeof sizes, "%d,%d,%d,%d,%d", c->vocab, c->dim, c->layers, c->heads, c->hidden);
    const char *argv[] = {"env",       aten.text, "OMP_WAIT_POLICY=passive",
                          o->python,   o->script, sizes,
                          "--threads", n.threads, "--batch",
                          n.batch,     "--seq",   n.seq,
                          "--rank",    n.rank,    "--dropout",
                          n.dropout,   "--attn",  attention,
                          NULL};
    if (child_start(child, argv) != 0)
        return NULL;
    return child_answer(child);
}

/* ---- Growth: in a process of its own --------------------------------------------------------- */

/* Growth after the model and its adapters were made; optimizer states count. The reservation is touched at
 * once, so what it holds beyond the model at that moment is growth. */
static int growth_main(const Options *o)
{
    Adapted a = adapted_of(o, &shapes[o->growth], &bases[o->precision ? BASE_BF16_IN_BF16 : BASE_BF16]);
    char why[256];
    Plan plan = {0};
    Context *context = adapted_context(&a, o->threads, &plan, why, sizeof why);
    if (!context)
        return 1;
    Session s;
    adapted_open(&s, &a);
    for (int i = 0; i < 4; i++)
        session_step(&s);
    uint64_t before = s.model_resident - (plan.memory.stats.needs - s.model_bytes);
    printf("{\"growth\": %.3f, \"error\": %d}\n",
           ((double)memtrack_process_resident_peak() - (double)before) / (1 << 20), error_code());
    context_destroy(context);
    plan_free(&plan);
    return 0;
}

static double growth_of(const Options *o, const TuningShape *shape, const Base *base)
{
    Adapted a = adapted_of(o, shape, base);
    Numbers n = numbers_of(o, &a);
    return own_growth((const char *[]){NULL, "--growth", shape->name, "--threads", n.threads, "--batch",
                                       n.batch, "--seq", n.seq, "--rank", n.rank, "--dropout", n.dropout,
                                       base->precision ? "--precision" : NULL, base->precision, NULL});
}

/* ---- One shape ------------------------------------------------------------------------------- */

typedef struct Result {
    char error[256];
    double growth[BASES], peft_growth[PEERS]; /* MiB; of the bf16 bases only */
    double loss[BASES];
    uint64_t needs[BASES];
} Result;

static void base_turn(Runner *runners, int base, int steps)
{
    context_use(runners[base].context);
    side_turn(&sides[base], steps, runner_step, &runners[base]);
}

/* The order turns round by round, so that no side always follows the same other. */
static void run_rounds(const Options *o, Runner *runners, Child *peers, Result *result)
{
    int steps = 1;
    for (int i = 0; i < BASES; i++) {
        context_use(runners[i].context);
        session_step(&runners[i].session);
        double took = session_step(&runners[i].session);
        steps = i == BASE_FP32 ? turn_steps(took, o->turn) : steps;
    }
    for (int i = 0; i < PEERS; i++)
        if (peers[i].to)
            peer_turn(&peers[i], 2, NULL, &result->peft_growth[i]);
    for (int round = 0; round < o->rounds; round++) {
        for (int i = 0; i < BASES; i++)
            base_turn(runners, round % 2 ? BASES - 1 - i : i, steps);
        usleep(60000); /* threads spin for some milliseconds before they sleep */
        for (int i = 0; i < PEERS; i++)
            if (peers[i].to)
                side_round(&sides[BASES + i],
                           peer_turn(&peers[i], 1 + steps / 4, &sides[BASES + i], &result->peft_growth[i]));
    }
}

static void run_shape(const Options *o, const TuningShape *shape, Child *peers, Result *result)
{
    static Runner runners[BASES];
    memset(runners, 0, sizeof runners);
    memset(sides, 0, sizeof sides);
    int made = 0;
    for (; made < BASES && !result->error[0]; made++) {
        Adapted a = adapted_of(o, shape, &bases[made]);
        Plan *plan = &runners[made].plan;
        runners[made].context = adapted_context(&a, o->threads, plan, result->error, sizeof result->error);
        result->needs[made] = plan->memory.stats.needs;
        if (runners[made].context && adapted_open(&runners[made].session, &a) != 0)
            snprintf(result->error, sizeof result->error, "%.250s", error_message());
    }
    if (!result->error[0])
        run_rounds(o, runners, peers, result);
    for (int i = 0; i < made; i++) {
        if (!runners[i].context)
            continue;
        context_use(runners[i].context);
        if (error_code() && !result->error[0])
            snprintf(result->error, sizeof result->error, "%.250s", error_message());
        result->loss[i] = runners[i].session.loss;
        runner_close(&runners[i]);
    }
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void print_shape(const Options *o, const TuningShape *shape, const Adapted *a, const Result *r)
{
    printf("\n%s, batch %d x %d, LoRA r %d, all layers%s\n", shape->name, a->preset.batch, a->preset.seq,
           a->lora.rank, o->dropout > 0 ? ", with dropout" : "");
    if (r->error[0]) {
        printf("failed: %s\n", r->error);
        return;
    }
    printf("  %-12s %-11s %10s   %-18s %8s %10s %11s %-19s %-19s %7s\n", "base", "activations", "ms a step",
           "to fp32", "by work", "needs MiB", "growth MiB", " fp32 ones' to it", " bf16 ones' to it", "loss");
    for (int i = 0; i < BASES; i++) {
        const Side *fp32 = &sides[BASE_FP32], *side = &sides[i];
        double ratio = ratio_of_rounds(side->round, fp32->round, side->rounds),
               by_work = ratio_of_rounds(side->work, fp32->work, side->rounds);
        char growth[24] = "";
        if (r->growth[i] > 0)
            snprintf(growth, sizeof growth, "%.1f", r->growth[i]);
        printf("  %-12s %-11s %10.1f   %-18s %8.2f %10.1f %11s %-19s %-19s %7.4f\n", bases[i].name,
               bases[i].precision ? "bf16" : "fp32", 1e3 * median(side->all, side->count),
               i == BASE_FP32 ? "" : verdict(ratio, i == BASE_NF4 ? shape->nf4_target : 0, 1), by_work,
               (double)r->needs[i] / (1 << 20), growth, "", "", r->loss[i]);
    }
    for (int i = 0; i < PEERS && sides[BASES + i].rounds; i++) {
        char name[32];
        const Side *peer = &sides[BASES + i];
        double to = r->peft_growth[i] > 0 ? 1 / r->peft_growth[i] : 0;
        snprintf(name, sizeof name, "PEFT %s", attentions[i]);
        printf("  %-12s %-11s %10.1f   %-18s %8s %10s %11.1f  %-18s  %-18s\n", name, "bf16",
               1e3 * median(peer->all, peer->count), "", "", "", r->peft_growth[i],
               verdict(to * r->growth[BASE_BF16], shape->growth_target, 1),
               verdict(to * r->growth[BASE_BF16_IN_BF16], shape->growth_in_bf16_target, 1));
    }
    fflush(stdout);
}

static void print_header(const Options *o, const json_t *peft)
{
    double load[3] = {0};
    if (getloadavg(load, 3) < 1)
        load[0] = 0;
    printf("brim      %s, %d threads, kernels %s; load of the machine before: %.2f\n", kernels_blas_name(),
           o->threads, kernels_cpu(NULL)->name, load[0]);
    if (peft)
        printf("PEFT      %s, PyTorch %s, transformers %s; base bf16, adapters fp32\n",
               json_string_value(json_object_get(peft, "peft")),
               json_string_value(json_object_get(peft, "torch")),
               json_string_value(json_object_get(peft, "transformers")));
    else
        printf("PEFT      %s\n", o->no_torch ? "left out" : "not there: its rows need tools/python-env");
    printf(
        "step      forward, loss, backward, AdamW, zero_grad; %d rounds of turns of about %.1f s; medians; "
        "ratios within a round\n"
        "base      quantised ones hold the rest in bf16\n"
        "growth    of the process from after model and adapters were made (optimizer states included) to its "
        "highest, bf16 bases; below, brim's with fp32 and with bf16 activations to PEFT's\n",
        o->rounds, o->turn);
    fflush(stdout);
}

static void run_all(const Options *o)
{
    int headed = 0;
    for (int i = 0; i < SHAPES; i++) {
        if (o->any && !o->chosen[i])
            continue;
        Adapted a = adapted_of(o, &shapes[i], &bases[BASE_BF16]);
        Child peers[PEERS] = {0};
        json_t *about = NULL;
        Result result = {.growth = {0}};
        for (int b = 0; b < BASES; b++)
            if (b == BASE_BF16 || b == BASE_BF16_IN_BF16)
                result.growth[b] = growth_of(o, &shapes[i], &bases[b]);
        for (int p = 0; p < PEERS && !o->no_torch; p++) {
            json_t *answer = peft_start(&peers[p], o, &a, attentions[p]);
            if (!answer)
                child_end(&peers[p]);
            json_decref(about);
            about = answer;
        }
        if (!headed++)
            print_header(o, about);
        run_shape(o, &shapes[i], peers, &result);
        for (int p = 0; p < PEERS; p++)
            child_end(&peers[p]);
        json_decref(about);
        print_shape(o, &shapes[i], &a, &result);
    }
}

/* ---- Command --------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: tuning [--quick] [--threads N] [--rounds N] [--rank N] [--dropout P] [--batch N] [--seq N]\n"
    "              [--no-torch] [--python PATH] [--script PATH] [llama-small] [llama-tiny]\n"
    "       tuning --model PRESET [--quantize nf4|nf4-plain|int8|none] [--weights bf16|fp16|fp32]\n"
    "              [--rank N] [--dropout P] [--precision NAME] [--optimizer adamw|adamw8bit] [--seq N]\n"
    "              [--batch N] [--steps N] [--no-checkpoint] [--threads N]\n"
    "       tuning --model PRESET --full [--precision NAME] …\n"
    "The second form trains adapters of one large model from random weights on one repeated batch, and\n"
    "compares with the plan what was measured. It fails unless the books are as planned and the frozen\n"
    "bytes as they were. The third trains all parameters, without adapters.\n";

static int find_shape(const char *name)
{
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].name, name) || !strcmp(shapes[i].preset, name))
            return i;
    return -1;
}

static const struct option names[] = {
    {"quick", 0, 0, 'q'},     {"threads", 1, 0, 't'},   {"rounds", 1, 0, 'r'},  {"no-torch", 0, 0, 'n'},
    {"python", 1, 0, 'p'},    {"script", 1, 0, 's'},    {"growth", 1, 0, 'g'},  {"rank", 1, 0, 'k'},
    {"dropout", 1, 0, 'd'},   {"batch", 1, 0, 'b'},     {"seq", 1, 0, 'l'},     {"model", 1, 0, 'm'},
    {"steps", 1, 0, 'e'},     {"quantize", 1, 0, 'Q'},  {"weights", 1, 0, 'w'}, {"no-checkpoint", 0, 0, 'c'},
    {"precision", 1, 0, 'P'}, {"optimizer", 1, 0, 'O'}, {"full", 0, 0, 'f'},    {0}};

/* An option that has a number or a flag; returns 0 for another. */
static int parse_number(int c, Options *o)
{
    int *const fields[] = {&o->threads, &o->rounds, &o->rank, &o->batch, &o->seq, &o->steps};
    static const char letters[] = "trkble";
    const char *at = strchr(letters, c);
    if (at && (*fields[at - letters] = atoi(optarg)) < 1)
        return -1;
    return at != NULL;
}

/* An option that has a text or is a switch; returns 2 for bad usage. */
static int parse_other(int c, Options *o)
{
    if (c == 'q')
        o->rounds = 2, o->turn = 0.1;
    else if (c == 'n')
        o->no_torch = 1;
    else if (c == 'c')
        o->no_checkpoint = 1;
    else if (c == 'f')
        o->full = 1;
    else if (c == 'p')
        o->python = optarg;
    else if (c == 's')
        o->script = optarg;
    else if (c == 'd')
        o->dropout = strtof(optarg, NULL);
    else if (c == 'm')
        o->model = optarg;
    else if (c == 'Q')
        o->quantize = optarg;
    else if (c == 'w')
        o->weights = optarg;
    else if (c == 'P')
        return precision_by_name(o->precision = optarg) ? 0 : 2;
    else if (c == 'O')
        return (o->eight_bit = !strcmp(optarg, "adamw8bit")) || !strcmp(optarg, "adamw") ? 0 : 2;
    else if (c == 'g')
        return (o->growth = find_shape(optarg)) < 0 ? 2 : 0;
    return 0;
}

static int parse(int argc, char **argv, Options *o)
{
    for (int c, number; (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
        if (c == '?' || (number = parse_number(c, o)) < 0 || (!number && parse_other(c, o) != 0))
            return 2;
    for (; optind < argc; optind++) {
        int i = find_shape(argv[optind]);
        if (i < 0)
            return 2;
        o->chosen[i] = o->any = 1;
    }
    return o->rounds > MAX_ROUNDS || o->steps > LARGE_STEPS || (o->model && !nn_preset(o->model)) ? 2 : 0;
}

/* "fp16" and "f16" alike. Returns -1 for a name of none. */
static int type_of(const char *name)
{
    for (int type = 0; type < DTYPE_COUNT; type++)
        if (!strcmp(dtype_name((DType)type), name) ||
            (name[0] == 'f' && name[1] == 'p' && !strcmp(dtype_name((DType)type) + 1, name + 2)))
            return type;
    return -1;
}

static int large_main(const Options *o)
{
    static Large l;
    int none = !strcmp(o->quantize, "none"), weights = type_of(o->weights), quantized = type_of(o->quantize);
    if (weights < 0 || dtype_is_quantized((DType)weights) || weights == DTYPE_I32 ||
        (!none && (quantized < 0 || !dtype_is_quantized((DType)quantized)))) {
        fputs(usage, stderr);
        return 2;
    }
    l.adapted = (Adapted){.preset = *nn_preset(o->model),
                          .base = {"", (DType)weights, none ? 0 : (DType)quantized, o->precision},
                          .lora = {.rank = o->rank, .alpha = 2 * (float)o->rank, .dropout = o->dropout},
                          .lr = o->full ? 3e-4f : 1e-3f,
                          .checkpoint = !o->no_checkpoint,
                          .full = o->full};
    session_eight_bit = o->eight_bit;
    l.adapted.preset.batch = o->batch ? o->batch : 1;
    l.adapted.preset.seq = o->seq ? o->seq : 256;
    l.steps = o->steps;
    l.threads = o->threads;
    return large_run(&l);
}

int main(int argc, char **argv)
{
    Options o = {.threads = 2,
                 .rounds = 7,
                 .turn = 0.5,
                 .rank = 16,
                 .steps = 10,
                 .growth = -1,
                 .quantize = "nf4",
                 .weights = "bf16",
                 .python = "/usr/bin/python3",
                 .script = "bench/peft_bench.py"};
    if (parse(argc, argv, &o) != 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (o.model)
        return large_main(&o);
    if (o.growth >= 0)
        return growth_main(&o);
    signal(SIGPIPE, SIG_IGN);
    run_all(&o);
    return 0;
}
