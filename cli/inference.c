/* What inference needs beside the textbook's weights x 1.2; and brim plan --inference. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "../estimate/formulae.h"
#include "several.h"
#include "writing.h"

/* Keys and values are kept as weights are stored, but for those that are quantised. */
static int64_t cached_bytes(const Options *o)
{
    return (int64_t)dtype_bytes(o->weights, 1, 1);
}

/* Keys and values of so many tokens of each sequence, by the formula; those of one rank. */
static int64_t cache_of_layers(const Options *o, int64_t layers, int64_t tokens)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    LlamaShape shape = {.layers = layers,
                        .heads = sizes.heads,
                        .kv_heads = sizes.kv_heads / o->ranks.tensor, /* a rank's */
                        .dim = (int64_t)sizes.heads * sizes.head_dim};
    return estimate_kv_cache_bytes(&shape, tokens, cached_bytes(o)) * o->batch;
}

/* Layers that keep the window alone, where that is shorter than the text. */
static int kept_short(const Options *o, int64_t tokens)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    return sizes.window && sizes.window < tokens ? sizes.window_layers : 0;
}

static int64_t cache_formula(const Options *o, int64_t tokens)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    int some = kept_short(o, tokens);
    return cache_of_layers(o, sizes.layers - some, tokens) +
           (some ? cache_of_layers(o, some, sizes.window) : 0);
}

/* The most tokens, of all sequences, whose cache is no larger; -1: as many as one likes. */
static int64_t tokens_in(const Options *o, double bytes)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    int64_t all = cache_formula(o, 1), tokens = (int64_t)(bytes / (double)all);
    int some = kept_short(o, tokens);
    if (!some)
        return tokens * o->batch;
    if (some == sizes.layers)
        return -1;
    bytes -= (double)cache_of_layers(o, some, sizes.window);
    return (int64_t)(bytes / (double)cache_of_layers(o, sizes.layers - some, 1)) * o->batch;
}

/* "2 x layers x kv heads x head width x 4 x 2048 tokens"; of layers that keep less, what they keep. */
static LeverText cache_rule(const Options *o, const char *of)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    int some = kept_short(o, o->seq), each = (int)cached_bytes(o);
    const char *batch = o->batch > 1 ? " x batch" : "";
    if (!some)
        return lever_say("2 x layers x kv heads%s x head width x %d x %d token%s%s", of, each, o->seq,
                         plural(o->seq), batch);
    if (some == sizes.layers)
        return lever_say("2 x layers x kv heads%s x head width x %d x %d tokens, the window%s", of, each,
                         sizes.window, batch);
    return lever_say("2 x kv heads%s x head width x %d x (%d layers x %d + %d x a window of %d tokens)%s", of,
                     each, sizes.layers - some, o->seq, some, sizes.window, batch);
}

/* The textbook's Q: it knows of no scales, and of nothing that is not quantised. */
static int weight_bits(const Options *o)
{
    if (o->quantized)
        return o->quantized == DTYPE_INT8 ? 8 : 4;
    return o->weights == DTYPE_F32 ? 32 : 16;
}

/* Of the peak; the rest is what a forward makes. */
typedef struct Inference {
    uint64_t weights, cache, rest, peak;
} Inference;

static Inference inference_of(const MemSummary *memory)
{
    const MemStats *s = &memory->stats;
    Inference i = {report_group(s->at_peak, MEM_GROUP_PARAMETERS), s->at_peak[MEM_KV_CACHE], 0, s->peak};
    i.rest = i.peak - i.weights - i.cache;
    return i;
}

enum { LABEL = 28, COLUMN = 11 };

static void print_row(const char *label, ReportUnit unit, const uint64_t *planned, const uint64_t *measured,
                      double textbook, const char *rule)
{
    int decimals = unit.decimals;
    printf("%-*s%*.*f", LABEL, label, COLUMN, decimals, (double)*planned / unit.bytes);
    if (measured)
        printf("%*.*f", COLUMN, decimals, (double)*measured / unit.bytes);
    if (textbook > 0)
        printf("%*.*f  %s", COLUMN, decimals, textbook / unit.bytes, rule);
    printf("\n");
}

void inference_table(const Options *o, int64_t parameters, const MemSummary *planned,
                     const MemSummary *measured)
{
    Inference p = inference_of(planned), m = measured ? inference_of(measured) : p;
    ReportUnit unit = report_unit(p.peak);
    double weights = weight_bits(o) / 8.0 * (double)parameters / o->ranks.tensor;
    const uint64_t *none = NULL;
    int64_t cache = writes(o) ? cache_formula(o, o->seq) : 0;
    char rule[40], of[16] = "";
    if (o->ranks.tensor > 1)
        snprintf(of, sizeof of, " / %d", o->ranks.tensor);
    if (weight_bits(o) != 32)
        snprintf(rule, sizeof rule, "P x Q/8 bytes%s, Q = %d", of, weight_bits(o));
    else
        snprintf(rule, sizeof rule, "P x 4 bytes%s", of);
    printf("%-*s%*s%s%*s\n", LABEL, unit.name, COLUMN, "planned", measured ? "   measured" : "", COLUMN,
           "textbook");
    print_row("weights", unit, &p.weights, measured ? &m.weights : none, weights, rule);
    if (cache)
        print_row("kv cache", unit, &p.cache, measured ? &m.cache : none, (double)cache,
                  cache_rule(o, of).text);
    print_row("workspace and temporaries", unit, &p.rest, measured ? &m.rest : none, 0, "");
    for (int i = 0; i < LABEL + (measured ? 3 : 2) * COLUMN; i++)
        putchar('-');
    printf("\n");
    print_row("peak", unit, &p.peak, measured ? &m.peak : none, 1.2 * weights, "weights x 1.2");
    printf("Needs %s in one piece (%" PRIu64 " bytes).", report_size(planned->stats.needs).text,
           planned->stats.needs);
    if (planned->stats.peak_at.phase == MEM_PHASE_SETUP)
        printf(" That is while weights are filled; writing takes less.");
    int64_t held = cache ? tokens_in(o, 0.2 * weights) : 0;
    if (held < 0)
        printf(" The textbook's 20 %% would hold a cache of any number of tokens.");
    else if (cache)
        printf(" The textbook's 20 %% would hold %s token%s of cache.", report_count(held).text,
               plural(held));
    printf("\n");
}

json_t *inference_textbook(const Options *o, int64_t parameters)
{
    int64_t weights = parameters * weight_bits(o) / 8 / o->ranks.tensor;
    return json_pack("{s:I, s:I, s:I}", "weights_bytes", (json_int_t)weights, "kv_cache_bytes",
                     (json_int_t)(writes(o) ? cache_formula(o, o->seq) : 0), "peak_bytes",
                     (json_int_t)(1.2 * (double)weights));
}

/* Whether the plan fits the budget and, to be run, this machine. */
int inference_fits(const Options *o, const Plan *plan, int to_run)
{
    uint64_t needs = plan->memory.stats.needs;
    char why[512];
    if (o->budget && needs > o->budget)
        snprintf(why, sizeof why, "%sneeds %s, %s more than the budget of %s", approximate_tag(o),
                 report_size(needs).text, report_size(needs - o->budget).text, report_size(o->budget).text);
    else if (!to_run || plan_fits_machine(plan, 0, NULL, why, sizeof why) == ERROR_NONE)
        return EXIT_DONE;
    complain("%s. A smaller --batch or --seq shrinks the cache, a smaller --prefill what a prompt needs; "
             "the weights are %s.",
             why, report_size(inference_of(&plan->memory).weights).text);
    return EXIT_NO;
}

/* ---- brim plan --inference ---------------------------------------------------------------------- */

int check_prefill(const Options *o)
{
    return o->prefill && !writes(o)
               ? usage("--prefill says how a prompt is read; %s reads a sample at once", o->model)
               : 0;
}

LeverText tensor_text(const Options *o)
{
    return o->ranks.tensor > 1 ? lever_say("tensor %d  ", o->ranks.tensor) : lever_say("%s", "");
}

static void print_inference(const Options *o, const Writing *w)
{
    printf("%s  %s%s parameters%s  %s  %s%d thread%s%s  batch %d", o->model, approximate_tag(o),
           report_count(w->parameters).text, active_text(w->active, w->parameters).text, weights_text(o).text,
           tensor_text(o).text, threads_of(o), plural(threads_of(o)), has_ranks(o) ? " a rank" : "",
           o->batch);
    if (writes(o))
        printf(", a cache of %d token%s, prompts read %d at once\n", o->seq, plural(o->seq),
               w->prompt_tokens);
    else if (o->seq)
        printf(" x seq %d, one forward\n", o->seq);
    else
        printf(", one forward\n");
    approximate_print(o);
    printf("\n");
}

int command_plan_inference(const Options *options)
{
    Options o = *options;
    Writing w;
    Plan plan;
    if (check_prefill(&o))
        return EXIT_USAGE;
    writing_of_seq(&o, &w);
    if (plan_writing(&o, &w, &plan))
        return EXIT_NO;
    if (o.json) {
        json_t *all =
            json_pack("{s:s, s:I, s:i, s:o, s:o}", "model", o.model, "parameters", (json_int_t)w.parameters,
                      "cache_tokens", writes(&o) ? o.seq : 0, "textbook",
                      inference_textbook(&o, w.parameters), "memory", json_memory(&plan.memory, NULL));
        json_object_set_new(all, "active_parameters", json_integer(w.active));
        approximate_json(all, &o);
        planned_card_json(all, &o);
        ranks_plan_json(all, &o, &plan, NULL);
        json_print(all);
    } else {
        print_inference(&o, &w);
        inference_table(&o, w.parameters, &plan.memory, NULL);
        print_inference_ranks(&o, &plan);
        if (planned_card(&o).capability)
            printf("Planned for %s.\n", planned_card(&o).text);
    }
    int status = inference_fits(&o, &plan, 0);
    plan_free(&plan);
    return status;
}
