/* One training step, moment by moment: a small MLP trained for two steps, and what lived at the highest
 * moment of every stretch of the second; then the same forward without backward.      one_step [BATCH [HIDDEN
 * LAYERS]] */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 784, HIDDEN = 512, CLASSES = 10, HIDDEN_MAX = 13, SAMPLES = 2048, EVENTS = 4096, BAR = 50 };

typedef struct Config {
    int batch, hidden;
} Config;

/* ---- The log, folded into stretches of one phase and layer ------------------------------------ */

static uint64_t sum(const uint64_t by[MEM_COMPONENT_COUNT])
{
    uint64_t all = 0;
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        all += by[i];
    return all;
}

static void bar(const uint64_t by[MEM_COMPONENT_COUNT], double scale)
{
    static const char letters[MEM_GROUP_COUNT] = {'P', 'G', 'O', 'A', '.'};
    static const MemGroup order[] = {MEM_GROUP_PARAMETERS, MEM_GROUP_OPTIMIZER_STATES, MEM_GROUP_GRADIENTS,
                                     MEM_GROUP_ACTIVATIONS, MEM_GROUP_OVERHEAD};
    double filled = 0;
    int drawn = 0;
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
        for (filled += (double)report_group(by, order[i]) * scale; drawn < (int)(filled + 0.5); drawn++)
            putchar(letters[order[i]]);
    putchar('\n');
}

static void row(const char *phase, const char *path, const uint64_t by[MEM_COMPONENT_COUNT], double scale)
{
    printf("%-9s %-9s", phase, path);
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        printf("%7.2f", (double)report_group(by, (MemGroup)g) / 0x1p20);
    printf("%8.2f  ", (double)sum(by) / 0x1p20);
    bar(by, scale);
}

/* Live bytes after an event. */
static void follow(const MemEvent *event, uint64_t live[MEM_COMPONENT_COUNT])
{
    if (event->kind != MEM_EVENT_FREE)
        live[event->component] += event->bytes;
    if (event->kind != MEM_EVENT_ALLOC)
        live[event->from] -= event->bytes;
}

/* An allocation in another phase or layer begins a stretch, and so does the optimizer, which allocates
 * nothing; what is freed belongs to the running one. */
static int begins_stretch(const MemEvent *event, const MemWhere *now)
{
    if (event->kind != MEM_EVENT_ALLOC)
        return event->where.phase == MEM_PHASE_OPTIMIZER && now->phase != MEM_PHASE_OPTIMIZER;
    return event->where.phase != now->phase || event->where.path != now->path;
}

/* The highest moment of each stretch of the ledger's log; `live` is what lived before it. */
static void print_log(const MemLedger *ledger, uint64_t live[MEM_COMPONENT_COUNT])
{
    const MemTracker *tracker = memtrack_ledger_tracker(ledger);
    double scale = BAR / (double)memtrack_stats(ledger)->peak;
    uint64_t highest[MEM_COMPONENT_COUNT];
    char phase[16] = "before", path[32] = "";
    MemWhere now = {.phase = MEM_PHASE_SETUP};
    memcpy(highest, live, sizeof highest);
    for (size_t i = 0; i < memtrack_log_count(ledger); i++) {
        const MemEvent *event = memtrack_log_event(ledger, i);
        if (begins_stretch(event, &now)) {
            row(phase, path, highest, scale);
            now = event->where;
            const char *name = memtrack_path_name(tracker, now.path);
            snprintf(phase, sizeof phase, "%s", memtrack_phase_name(now.phase));
            snprintf(path, sizeof path, "%s", event->kind == MEM_EVENT_ALLOC && name[0] ? name : "-");
            memcpy(highest, live, sizeof highest);
        }
        follow(event, live);
        if (sum(live) >= sum(highest))
            memcpy(highest, live, sizeof highest);
    }
    row(phase, path, highest, scale);
    row("after", "", live, scale);
}

/* ---- The script ------------------------------------------------------------------------------- */

static Loader *table(int batch)
{
    static float features[SAMPLES * WIDTH]; /* zeros do: what is learned does not matter here */
    static int32_t labels[SAMPLES];
    for (int i = 0; i < SAMPLES; i++)
        labels[i] = i % CLASSES;
    return data_table(&(TableOptions){
        .features = features, .labels = labels, .count = SAMPLES, .width = WIDTH, .batch = batch});
}

static void train_step(Module *model, Optimizer *opt, Loader *data)
{
    int scope = tensor_scope_begin();
    for (const Batch *b; (b = data_next(data));)
        tensor_backward(nn_loss(model, b));
    optim_step(opt);
    optim_zero_grad(opt);
    tensor_scope_end(scope);
}

static void forward_alone(Module *model, Loader *data)
{
    tensor_no_grad_begin(); /* nothing is kept for backward */
    int scope = tensor_scope_begin();
    for (const Batch *b; (b = data_next(data));)
        nn_forward(model, NULL, b);
    tensor_scope_end(scope);
    tensor_no_grad_end();
}

static int script(void *argument)
{
    const Config *c = argument;
    MlpConfig shape = {.sizes = {WIDTH}};
    for (int i = 1; i <= c->hidden; i++)
        shape.sizes[i] = HIDDEN;
    shape.sizes[c->hidden + 1] = CLASSES;
    Loader *data = table(c->batch);
    Module *model = nn_mlp(&shape);
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
    train_step(model, opt, data);

    MemLedger *ledger = context_ledger(context_current());
    int planning = context_is_meta(context_current());
    uint64_t live[MEM_COMPONENT_COUNT];
    for (int training = 1; training >= 0 && !error_code(); training--) {
        memcpy(live, memtrack_stats(ledger)->live_by, sizeof live);
        memtrack_log_start(ledger, EVENTS, NULL, NULL);
        if (training)
            train_step(model, opt, data);
        else
            forward_alone(model, data);
        memtrack_log_stop(ledger);
        if (planning)
            continue;
        printf("%-18s  param   grad  optim  activ  other     all  MiB\n",
               training ? "TRAINING STEP" : "FORWARD ALONE");
        print_log(ledger, live);
        printf("\n");
    }
    return error_code();
}

int main(int argc, char **argv)
{
    Config c = {argc > 1 ? atoi(argv[1]) : 128, argc > 2 ? atoi(argv[2]) : 2};
    if (c.batch < 1 || c.batch > SAMPLES || c.hidden < 1 || c.hidden > HIDDEN_MAX) {
        fprintf(stderr, "usage: one_step [BATCH, up to %d [HIDDEN LAYERS, up to %d]]\n", SAMPLES, HIDDEN_MAX);
        return 2;
    }
    RunOptions quiet = {.quiet = 1};
    Plan plan;
    RunResult run;
    int failed = plan_script(script, &c, &quiet, &plan) || plan_execute(script, &c, &quiet, &plan, &run);
    plan_free(&plan); /* its figures stay */
    if (failed) {
        fprintf(stderr, "one_step: %s\n", plan.status ? plan.error : run.error);
        return 1;
    }
    run.memory.process_peak = 0; /* it differs from run to run, all else here does not */
    report_table(stdout, &plan.memory, &run.memory);
    report_textbook(stdout, &plan.memory);
    return 0;
}
