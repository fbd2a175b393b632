/* brim plan: what a training will need, where it will be, and how that differs from the textbook. */
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "../estimate/formulae.h"
#include "../base/plural_.h"
#include "../estimate/textbook.h"
#include "cli.h"
#include "pytorch.h"
#include "several.h"

static ReportUnit unit_of(const Plan *plan)
{
    return report_unit(plan->memory.stats.peak);
}

/* ---- The ten largest tensors ----------------------------------------------------------------- */

static void largest_table(FILE *out, const Plan *plan)
{
    ReportUnit unit = unit_of(plan);
    uint64_t shown = 0;
    fprintf(out, "\nLARGEST AT THE PEAK, %s\n", unit.name);
    for (int i = 0; i < plan->largest_count; i++) {
        const PlanTensor *t = &plan->largest[i];
        shown += t->bytes;
        fprintf(out, "%10.*f  %-19s %s%s%s\n", unit.decimals, (double)t->bytes / unit.bytes,
                memtrack_component_name(t->component), t->path[0] ? t->path : "the model itself",
                t->op[0] ? ", " : "", t->op);
    }
    fprintf(out, "%10.*f  in all others\n", unit.decimals,
            (double)(plan->memory.stats.peak - shown) / unit.bytes);
}

/* ---- By layer -------------------------------------------------------------------------------- */

/* A layer: a place up to its first number, or its first two words. */
static size_t layer_length(const char *path)
{
    size_t two_words = 0;
    int words = 0;
    for (size_t at = 0; path[at]; at += path[at] == '.') {
        size_t length = strcspn(path + at, ".");
        int number = length > 0 && strspn(path + at, "0123456789") == length;
        at += length;
        if (number)
            return at;
        if (++words <= 2)
            two_words = at;
    }
    return two_words;
}

typedef struct LayerRow {
    char name[96];
    uint64_t group[MEM_GROUP_COUNT];
} LayerRow;

static void add_path(LayerRow *row, const PlanPath *path)
{
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        row->group[g] += report_group(path->by, (MemGroup)g);
}

static int same_bytes(const LayerRow *a, const LayerRow *b)
{
    return !memcmp(a->group, b->group, sizeof a->group);
}

/* "model.layers.3" and "model.layers.7" -> the length of what they share before the number; 0 if they differ.
 */
static size_t same_kind(const char *a, const char *b)
{
    const char *x = strrchr(a, '.'), *y = strrchr(b, '.');
    if (!x || !y || !isdigit((unsigned char)x[1]) || !isdigit((unsigned char)y[1]) || x - a != y - b ||
        strncmp(a, b, (size_t)(x - a)))
        return 0;
    return (size_t)(x - a) + 1;
}

/* Whether the peak is reached in one of the rows from first to last: at this module path. */
static int holds_peak(const LayerRow *first, const LayerRow *last, const char *path)
{
    size_t length = layer_length(path);
    for (const LayerRow *row = first; row <= last; row++)
        if (strlen(row->name) == length && !strncmp(row->name, path, length))
            return 1;
    return 0;
}

static void print_layer(FILE *out, const LayerRow *first, const LayerRow *last, int count, const Plan *plan)
{
    ReportUnit unit = unit_of(plan);
    char name[128];
    uint64_t sum = 0;
    size_t shared = same_kind(first->name, last->name);
    if (count > 1)
        snprintf(name, sizeof name, "%s-%s", first->name, last->name + shared);
    else
        snprintf(name, sizeof name, "%s", first->name[0] ? first->name : "the model itself");
    fprintf(out, "%-34s", name);
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        sum += first->group[g];
        fprintf(out, " %10.*f", unit.decimals, (double)first->group[g] / unit.bytes);
    }
    fprintf(out, " %10.*f%s", unit.decimals, (double)sum / unit.bytes, count > 1 ? " each" : "");
    fprintf(out, holds_peak(first, last, plan->memory.peak_path) ? "  <- the peak's moment\n" : "\n");
}

/* Anything but zeros, as printed. */
static int shows(const LayerRow *row, ReportUnit unit)
{
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        if ((double)row->group[g] / unit.bytes >= 0.5 * unit.smallest)
            return 1;
    return 0;
}

/* The rows of a layer are together, but tied heads and the loss come back to a place: find the row by name.
 */
static int find_row(LayerRow *rows, int count, const char *path)
{
    size_t length = layer_length(path);
    for (int i = count - 1; i >= 0; i--)
        if (strlen(rows[i].name) == length && !strncmp(rows[i].name, path, length))
            return i;
    return -1;
}

enum { LAYERS_MAX = 2048 };

static void layer_table(FILE *out, const Plan *plan)
{
    static LayerRow rows[LAYERS_MAX];
    int count = 0;
    ReportUnit unit = unit_of(plan);
    memset(rows, 0, sizeof rows);
    for (int i = 0; i < plan->path_count; i++) {
        const char *path = plan->paths[i].path;
        int row = find_row(rows, count, path);
        if (row < 0 && count == LAYERS_MAX)
            row = count - 1;
        if (row < 0)
            snprintf(rows[row = count++].name, sizeof rows->name, "%.*s", (int)layer_length(path), path);
        add_path(&rows[row], &plan->paths[i]);
    }
    char title[64];
    snprintf(title, sizeof title, "BY LAYER AT THE PEAK, %s", unit.name);
    fprintf(out, "\n%-34s %10s %10s %10s %10s %10s %10s\n", title, "parameters", "gradients", "states",
            "activ.", "overhead", "sum");
    const char *tied = NULL;
    for (int i = 0, next; i < count; i = next) {
        for (next = i + 1;
             next < count && same_bytes(&rows[i], &rows[next]) && same_kind(rows[i].name, rows[next].name);)
            next++;
        if (shows(&rows[i], unit))
            print_layer(out, &rows[i], &rows[next - 1], next - i, plan);
        if (rows[i].group[MEM_GROUP_GRADIENTS] && !rows[i].group[MEM_GROUP_PARAMETERS])
            tied = rows[i].name;
    }
    if (tied)
        fprintf(out, "The weights of %s are tied: they stand in the row of the module that made them.\n",
                tied);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *largest_json(const Plan *plan)
{
    json_t *all = json_array();
    for (int i = 0; i < plan->largest_count; i++) {
        const PlanTensor *t = &plan->largest[i];
        json_array_append_new(all, json_pack("{s:s, s:s, s:s, s:I}", "component",
                                             memtrack_component_name(t->component), "place", t->path, "op",
                                             t->op, "bytes", (json_int_t)t->bytes));
    }
    return all;
}

static json_t *places_json(const Plan *plan)
{
    json_t *all = json_array();
    for (int i = 0; i < plan->path_count; i++) {
        json_t *row = json_pack("{s:s}", "place", plan->paths[i].path);
        for (int c = 0; c < MEM_COMPONENT_COUNT; c++)
            if (plan->paths[i].by[c])
                json_object_set_new(row, memtrack_component_name((MemComponent)c),
                                    json_integer((json_int_t)plan->paths[i].by[c]));
        json_array_append_new(all, row);
    }
    return all;
}

static void plan_json(const Options *o, const Training *t, const Plan *plan, const StagePlans *stages)
{
    json_t *all =
        json_pack("{s:s, s:I, s:o, s:i, s:f, s:s, s:s, s:o, s:o, s:o}", "model", o->model, "parameters",
                  (json_int_t)t->parameters, "bracket", bracket_json(&t->bracket), "threads", threads_of(o),
                  "step_flops", plan->step_flops, "checkpoint", checkpoint_text(&o->checkpoint).text,
                  "packer", plan->packer, "memory", json_memory(&plan->memory, NULL), "largest_at_peak",
                  largest_json(plan), "places_at_peak", places_json(plan));
    json_object_set_new(all, "active_parameters", json_integer(t->bracket.active));
    bracket_add_trained(all, &t->bracket);
    approximate_json(all, o);
    planned_card_json(all, o);
    ranks_plan_json(all, o, plan, has_stages(o) ? stages_plan_json(o, stages) : NULL);
    json_print(all);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void print_plan(const Options *o, const Training *t, const Plan *plan, const StagePlans *stages)
{
    const MemStats *s = &plan->memory.stats;
    PlannedCard card = planned_card(o);
    print_title_on(o, t->parameters, &t->bracket, t->steps, card.text);
    printf("\n");
    report_table(stdout, &plan->memory, NULL);
    printf("That is %.2f %% above the bytes live at the peak; blocks placed %s; planned for ",
           100 * ((double)s->needs / (double)s->peak - 1), plan->packer);
    if (card.capability)
        printf("%s.\n", card.text);
    else
        printf("%d thread%s%s.\n", threads_of(o), plural(threads_of(o)), has_ranks(o) ? " a rank" : "");
    if (has_stages(o))
        print_stages_plan(o, stages);
    else
        print_ranks_plan(o, t, plan);
    if (has_ranks(o) && !has_stages(o))
        print_ranks_saving(o, &plan->memory);
    largest_table(stdout, plan);
    layer_table(stdout, plan);
    rules_print(stdout, o, t, plan);
    report_textbook(stdout, &plan->memory);
}

static void print_textbook(const Options *o)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    estimate_textbook_print(stdout);
    if (!family_of(o)->gpt_terms)
        return;
    printf("\nA layer of %s, batch %d x seq %d\n", o->model, o->batch, o->seq);
    estimate_formula_print(stdout, o->batch, o->seq, sizes.dim, sizes.heads);
}

static void say_fits(const Options *o, uint64_t left)
{
    printf("%s: %s below the budget of %s%s.\n", is_approximate(o) ? "Fits, APPROXIMATE" : "Fits",
           report_size(left).text, report_size(o->budget).text,
           left < approximate_bytes(o) ? ", which is less than what may differ" : "");
}

int command_plan(const Options *options, int count)
{
    (void)count;
    Options o = *options;
    Training training = {.options = &o};
    Plan plan;
    if (pytorch_framework(&o))
        return command_plan_pytorch(&o);
    if (o.textbook) {
        if (o.json)
            json_print(textbook_json());
        else
            print_textbook(&o);
        return EXIT_DONE;
    }
    if (o.inference)
        return command_plan_inference(&o);
    if (resolve_checkpoint(&o))
        return EXIT_NO;
    StagePlans stages = {0};
    int status = plan_or_say(&o, &training, &plan);
    if (!status)
        status = plan_stages(&o, &plan, &stages);
    if (!status && o.json)
        plan_json(&o, &training, &plan, &stages);
    else if (!status)
        print_plan(&o, &training, &plan, &stages);
    stage_plans_free(&o, &stages);
    if (!status && o.log)
        status = plan_log_write(&o);
    if (status) {
        plan_free(&plan);
        return status;
    }
    if (o.budget && !o.json)
        printf("\n");
    status = check_budget(&o, &plan);
    if (o.budget && !status && !o.json)
        say_fits(&o, o.budget - plan.memory.stats.needs);
    plan_free(&plan);
    return status;
}
