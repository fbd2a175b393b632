/* brim compare --inference: what a text takes on each rank, for every combination of comma lists; without
 * lists, for what weights can be stored as. */
#include <string.h>

#include "compare_.h"
#include "flags_.h"
#include "several.h"
#include "writing.h"

enum { LABEL = 40, COLUMN = 10 };

/* ---- Rows -------------------------------------------------------------------------------------- */

static void plan_row(Variant *v)
{
    Options own = v->options;
    Writing w;
    writing_of_seq(&own, &w);
    plan_inference(&own, &w, &v->plan);
    v->parameters = w.parameters;
    v->active = w.active;
    plan_free(&v->plan);
}

/* As typed, and with what else there is. */
static int stored_rows(const Options *o, Variant *variants)
{
    static const struct {
        DType weights, quantized;
    } all[] = {
        {DTYPE_F32, DTYPE_F32}, {DTYPE_BF16, DTYPE_F32}, {DTYPE_BF16, DTYPE_INT8}, {DTYPE_BF16, DTYPE_NF4}};
    int count = 0, typed = o->weights != DTYPE_F32 || o->quantized;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        Variant *v = &variants[count++];
        *v = (Variant){.options = *o};
        if (!typed || i) {
            v->options.weights = all[i].weights;
            v->options.quantized = all[i].quantized;
        }
        snprintf(v->label, sizeof v->label, "%.90s", weights_text(&v->options).text);
        for (int k = 0; k + 1 < count; k++)
            if (!strcmp(variants[k].label, v->label)) {
                count--;
                break;
            }
    }
    return count;
}

static int list_rows(const Options *sets, int count, Variant *variants)
{
    for (int i = 0; i < count; i++) {
        variants[i] = (Variant){.options = sets[i]};
        snprintf(variants[i].label, sizeof variants[i].label, "%s", sets[i].label);
    }
    return count;
}

static int fits(const Variant *v)
{
    return !v->plan.status && (!v->options.budget || v->plan.memory.stats.needs <= v->options.budget);
}

/* ---- Output ------------------------------------------------------------------------------------ */

static void print_table(const Variant *variants, int count)
{
    const Options *o = &variants[0].options;
    uint64_t most = 0;
    for (int i = 0; i < count; i++)
        most = variants[i].plan.memory.stats.peak > most ? variants[i].plan.memory.stats.peak : most;
    ReportUnit unit = report_unit(most);
    printf("%-*s%*s%*s%*s%*s%*s%13s\n", LABEL, lever_say("A RANK AT THE PEAK, %s", unit.name).text, COLUMN,
           "weights", COLUMN, "kv cache", COLUMN, "rest", COLUMN, "peak", COLUMN, "needs",
           writes(o) ? "sent/token" : "sent");
    for (int i = 0; i < count; i++) {
        const Variant *v = &variants[i];
        const MemStats *s = &v->plan.memory.stats;
        printf("%-*s", LABEL, v->label);
        if (v->plan.status) {
            printf("  %s\n", v->plan.error);
            continue;
        }
        uint64_t weights = report_group(s->at_peak, MEM_GROUP_PARAMETERS), cache = s->at_peak[MEM_KV_CACHE];
        const uint64_t part[] = {weights, cache, s->peak - weights - cache, s->peak, s->needs};
        for (size_t k = 0; k < sizeof part / sizeof part[0]; k++)
            printf("%*.*f", COLUMN, unit.decimals, (double)part[k] / unit.bytes);
        printf("%13s%s\n", v->plan.step_sent ? report_size(v->plan.step_sent).text : "-",
               !v->options.budget ? ""
               : fits(v)          ? "  fits"
                                  : "  too much");
    }
}

static json_t *row_json(const Variant *v)
{
    const Options *o = &v->options;
    json_t *row =
        json_pack("{s:s, s:s, s:i, s:i, s:i}", "variant", v->label, "weights", weights_text(o).text, "tensor",
                  o->ranks.tensor, "batch", o->batch, "cache_tokens", writes(o) ? o->seq : 0);
    if (o->budget)
        json_object_set_new(row, "fits", json_boolean(fits(v)));
    if (v->plan.status) {
        json_object_set_new(row, "error", json_text(v->plan.error));
        return row;
    }
    approximate_json(row, o);
    json_object_set_new(row, "parameters", json_integer(v->parameters));
    json_object_set_new(row, "active_parameters", json_integer(v->active));
    json_object_set_new(row, "sent_bytes_per_token", json_integer((json_int_t)v->plan.step_sent));
    json_object_set_new(row, "memory", json_memory(&v->plan.memory, NULL));
    return row;
}

static void print_json(const Variant *variants, int count)
{
    json_t *rows = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(rows, row_json(&variants[i]));
    json_print(json_pack("{s:s, s:o}", "model", variants[0].options.model, "variants", rows));
}

int compare_inference(const Options *sets, int count)
{
    static Variant variants[SETS_MAX];
    const Options *o = &sets[0];
    int planned = 0, fitting = 0;
    for (int i = 0; i < count; i++)
        if (check_prefill(&sets[i]))
            return EXIT_USAGE;
    int rows = count > 1 ? list_rows(sets, count, variants) : stored_rows(o, variants);
    for (int i = 0; i < rows; i++) {
        plan_row(&variants[i]);
        planned += !variants[i].plan.status;
        fitting += fits(&variants[i]);
    }
    if (!planned) {
        complain("%s", variants[0].plan.error);
        return EXIT_NO;
    }
    if (o->json) {
        print_json(variants, rows);
    } else {
        printf("%s  %sinference%s\n", option_varies(o, "--model") ? "several models" : o->model,
               option_varies(o, "--model") ? "" : approximate_tag(o),
               writes(o) && !option_varies(o, "--seq") ? lever_say(", a cache of %d tokens", o->seq).text
                                                       : "");
        approximate_print(o);
        printf("\n");
        print_table(variants, rows);
    }
    return planned == rows && fitting ? EXIT_DONE : EXIT_NO;
}
