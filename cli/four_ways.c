/* brim compare --four-ways: one model tuned in full in fp32, in 16-bit mixed precision, by LoRA on a bf16
 * base and by QLoRA; and between them in full with a master copy, in bf16 alone, and with 8-bit states. Each
 * is planned. */
#include <string.h>

#include "compare_.h"
#include "four_ways_.h"
#include "flags_.h"
#include "levers_.h"

/* ---- The options of a way -------------------------------------------------------------------- */

/* As it is typed; NULL: as it is without. */
static const struct {
    const char *precision, *optimizer, *lora;
    DType weights, quantized;
} settings[WAYS] = {
    [WAY_FP32] = {0},
    [WAY_MASTER] = {.precision = "bf16-mixed"},
    [WAY_MIXED] = {.precision = "bf16-states32"},
    [WAY_PURE] = {.precision = "bf16"},
    [WAY_8BIT] = {.precision = "bf16", .optimizer = "adamw8bit"},
    [WAY_LORA] = {.lora = "r=16,alpha=32", .weights = DTYPE_BF16},
    [WAY_QLORA] = {.lora = "r=16,alpha=32", .weights = DTYPE_BF16, .quantized = DTYPE_NF4},
};

static Options options_of(const Options *from, WayId id)
{
    Options o = *from;
    o.checkpoint = (CheckpointChoice){.every = 1};
    o.precision = settings[id].precision ? settings[id].precision : o.precision;
    o.optimizer = settings[id].optimizer ? settings[id].optimizer : o.optimizer;
    o.lora = settings[id].lora;
    o.weights = settings[id].weights;
    o.quantized = settings[id].quantized;
    levers_to_preset(&o);
    return o;
}

/* The same for another model. */
static Options options_for(const Options *from, const char *model)
{
    Options o = *from;
    o.model = model;
    o.preset = *nn_preset(model);
    return o;
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static int64_t at_peak(const Way *way, MemComponent component)
{
    return (int64_t)way->plan.memory.stats.at_peak[component];
}

/* Model states from the tensors, without what blocks are rounded up by. */
static void fill_states(Way *way)
{
    const Bracket *b = &way->bracket;
    way->part[PART_TRAINED] = (int64_t)b->trained.bytes;
    way->part[PART_MASTERS] = (int64_t)b->masters;
    way->part[PART_GRADIENTS] = (int64_t)b->gradients;
    way->part[PART_STATES] = (int64_t)b->states;
    way->part[PART_FROZEN] = (int64_t)bracket_frozen_bytes(b);
}

/* What the peak has beside them. */
static void fill_rest(Way *way)
{
    static const struct {
        WayPart part;
        MemComponent component;
    } of[] = {
        {PART_ACTIVATIONS, MEM_ACTIVATION},
        {PART_ACTIVATION_GRADIENTS, MEM_ACTIVATION_GRADIENT},
        {PART_TEMPORARIES, MEM_TEMPORARY},
        {PART_WORKSPACE, MEM_WORKSPACE},
        {PART_REST, MEM_INPUT},
        {PART_REST, MEM_BUFFER},
        {PART_REST, MEM_KV_CACHE},
    };
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        way->part[of[i].part] += at_peak(way, of[i].component);
}

/* How the states differ at the peak. */
static void fill_differences(Way *way)
{
    const int64_t gradients = at_peak(way, MEM_GRADIENT) - way->part[PART_GRADIENTS];
    int64_t rounded = at_peak(way, MEM_PARAMETER) + at_peak(way, MEM_MASTER) + at_peak(way, MEM_FROZEN) +
                      at_peak(way, MEM_OPTIMIZER) - way->part[PART_TRAINED] - way->part[PART_MASTERS] -
                      way->part[PART_FROZEN] - way->part[PART_STATES];
    way->part[PART_LATE] = gradients < 0 ? gradients : 0;
    way->part[PART_ROUNDED] = rounded + (gradients > 0 ? gradients : 0);
    way->part[PART_GAPS] = (int64_t)(way->plan.memory.stats.needs - way->plan.memory.stats.peak);
}

static void add_up(Way *way)
{
    for (int i = 0; i < PARTS; i++) {
        way->states += i <= PART_STATES ? way->part[i] : 0;
        way->peak += i < PART_GAPS ? way->part[i] : 0;
        way->needs += way->part[i];
    }
}

/* ---- Planning -------------------------------------------------------------------------------- */

static int plan_way(FourWays *four, WayId id, const Options *from)
{
    Way *way = &four->way[id];
    way->options = options_of(from, id);
    Training training = {.options = &way->options};
    RunOptions run = run_options(&way->options);
    int status = plan_script(training_script, &training, &run, &way->plan);
    plan_free(&way->plan);
    if (status) {
        snprintf(four->error, sizeof four->error, "%s", way->plan.error);
        return EXIT_NO;
    }
    four->parameters = training.parameters;
    way->bracket = training.bracket;
    fill_states(way);
    fill_rest(way);
    fill_differences(way);
    add_up(way);
    return EXIT_DONE;
}

static void plan_all(FourWays *four, const Options *from, ReportProgress *progress, int *done)
{
    int most = nn_preset_max_seq(&from->preset);
    *four = (FourWays){.model = from->model};
    if (from->seq > most)
        snprintf(four->error, sizeof four->error, "has only %d positions", most);
    for (int i = 0; i < WAYS && !four->error[0]; i++)
        plan_way(four, (WayId)i, from);
    *done += WAYS;
    report_progress(progress, *done);
}

/* ---- The command ----------------------------------------------------------------------------- */

int compare_four_ways(const Options *o)
{
    static const char *const models[WAY_MODELS] = {"llama-3.2-1b", "llama-2-7b", "llama-3.1-8b",
                                                   "llama-2-13b"};
    static WaysTable table;
    int done = 0;
    if (!reads_text(o))
        return usage("--four-ways is about models that read text; '%s' reads images", o->model);
    table = (WaysTable){.options = o};
    ReportProgress progress = report_progress_start("planning", (WAY_MODELS + 1) * WAYS);
    plan_all(&table.model, o, &progress, &done);
    for (int i = 0; i < WAY_MODELS && !table.model.error[0]; i++) {
        Options other = options_for(o, models[i]);
        if (strcmp(o->model, models[i]) == 0)
            table.on_cards[i] = table.model;
        else
            plan_all(&table.on_cards[i], &other, &progress, &done);
    }
    report_progress_end(&progress);
    if (table.model.error[0]) {
        fprintf(stderr, "brim: %s: %s\n", o->model, table.model.error);
        return EXIT_NO;
    }
    if (o->json)
        four_ways_json(&table);
    else
        four_ways_print(&table);
    return EXIT_DONE;
}
