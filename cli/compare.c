/* brim compare: the same training with other values of some options, or with one lever at a time; planned,
 * and with --run really trained for a few steps, measured beside planned. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "levers_.h"
#include "run_.h"
#include "variants_.h"

/* ---- Tables ---------------------------------------------------------------------------------- */

static int label_width(const Variant *variants, int count)
{
    size_t width = 33;
    for (int i = 0; i < count; i++)
        if (strlen(variants[i].label) > width)
            width = strlen(variants[i].label);
    return (int)width;
}

static ReportUnit unit_of(const Variant *variants, int count)
{
    uint64_t largest = 0;
    for (int i = 0; i < count; i++)
        if (variants[i].plan.memory.stats.peak > largest)
            largest = variants[i].plan.memory.stats.peak;
    return report_unit(largest);
}

/* The first row that could be planned: what the others are compared with. */
static const Plan *base_of(const Variant *variants, int count)
{
    for (int i = 0; i < count; i++)
        if (!variants[i].plan.status)
            return &variants[i].plan;
    return NULL;
}

static void plan_rows(FILE *out, const char *title, const Variant *variants, int count, ReportUnit unit)
{
    const Plan *first = base_of(variants, count);
    int width = label_width(variants, count), decimals = unit.decimals;
    fprintf(out, "%-*s %9s %9s %7s %6s  %s\n", width, title, "peak", "needs", "change", "FLOPs", "peak at");
    for (int i = 0; i < count; i++) {
        const Plan *p = &variants[i].plan;
        if (p->status) {
            fprintf(out, "%-*s %s\n", width, variants[i].label, p->error);
            continue;
        }
        char percent[24] = "";
        if (p != first)
            snprintf(percent, sizeof percent, "%+.0f %%",
                     100.0 * ((double)p->memory.stats.peak / (double)first->memory.stats.peak - 1));
        fprintf(out, "%-*s %9.*f %9.*f %7s %6.2f  %s %s\n", width, variants[i].label, decimals,
                (double)p->memory.stats.peak / unit.bytes, decimals,
                (double)p->memory.stats.needs / unit.bytes, percent, p->step_flops / first->step_flops,
                memtrack_phase_name(p->memory.stats.peak_at.phase), report_path(&p->memory));
    }
}

void variants_table(FILE *out, const Options *o, const Variant *variants, int count)
{
    ReportUnit unit = unit_of(variants, count);
    char title[64];
    snprintf(title, sizeof title, "SAME EFFECTIVE BATCH (%d), %s", o->batch * o->accumulate, unit.name);
    plan_rows(out, title, variants, count, unit);
    const uint64_t *own = variants[0].plan.memory.stats.own_peak;
    uint64_t floor = report_group(own, MEM_GROUP_PARAMETERS) + report_group(own, MEM_GROUP_GRADIENTS) +
                     report_group(own, MEM_GROUP_OPTIMIZER_STATES);
    fprintf(out, "%-*s %9.*f  weights, gradients, states\n", label_width(variants, count), "P + G + O",
            unit.decimals, (double)floor / unit.bytes);
}

/* Each component's own peak, and how many times the first row's it is: batch k has k-fold activations. */
static void growth_rows(FILE *out, const Variant *variants, int count, ReportUnit unit)
{
    const Plan *first = base_of(variants, count);
    int width = label_width(variants, count);
    char title[64];
    snprintf(title, sizeof title, "OWN PEAKS, %s, and growth", unit.name);
    fprintf(out, "\n%-*s", width, title);
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        fprintf(out, " %14s", group_names[g]);
    fputc('\n', out);
    for (int i = 0; i < count; i++) {
        const Plan *p = &variants[i].plan;
        if (p->status)
            continue;
        fprintf(out, "%-*s", width, variants[i].label);
        for (int g = 0; g < MEM_GROUP_COUNT; g++) {
            uint64_t own = report_group(p->memory.stats.own_peak, (MemGroup)g);
            uint64_t base = report_group(first->memory.stats.own_peak, (MemGroup)g);
            char times[24] = "";
            if (p != first && base > 0 && own != base)
                snprintf(times, sizeof times, "x%.2f", (double)own / (double)base);
            fprintf(out, " %7.*f%s", unit.decimals, (double)own / unit.bytes, times[0] ? " " : "");
            fprintf(out, "%*s", g + 1 < MEM_GROUP_COUNT ? -(times[0] ? 6 : 7) : 0, times);
        }
        fputc('\n', out);
    }
}

/* What a step took; of one step nothing is known but that it warmed up. */
static SizeText ms_text(const Variant *v, int decimals, const char *unknown)
{
    SizeText out;
    if (v->result.step_seconds > 0)
        snprintf(out.text, sizeof out.text, "%.*f", decimals, 1e3 * v->result.step_seconds);
    else
        snprintf(out.text, sizeof out.text, "%s", unknown);
    return out;
}

static void run_rows(FILE *out, const Variant *variants, int count, ReportUnit unit, int64_t steps)
{
    int width = label_width(variants, count), decimals = unit.decimals;
    char title[64];
    snprintf(title, sizeof title, "%" PRId64 " STEP%s OF EACH, %s", steps, steps == 1 ? "" : "S", unit.name);
    fprintf(out, "\n%-*s %9s %9s %6s %9s %12s %9s %9s\n", width, title, "planned", "measured", "apart",
            "process", "unaccounted", "ms/step", "loss");
    for (int i = 0; i < count; i++) {
        const Variant *v = &variants[i];
        const RunResult *r = &v->result;
        if (!v->ran || r->status) {
            fprintf(out, "%-*s %s\n", width, v->label, v->ran ? r->error : "not run");
            continue;
        }
        uint64_t planned = v->plan.memory.stats.peak, measured = r->memory.stats.peak;
        fprintf(out, "%-*s %9.*f %9.*f %6" PRId64 " %9.*f %12.*f %9s %9.4f\n", width, v->label, decimals,
                (double)planned / unit.bytes, decimals, (double)measured / unit.bytes,
                (int64_t)(measured - planned), decimals, (double)r->memory.process_peak / unit.bytes,
                decimals, (double)report_unaccounted(&r->memory) / unit.bytes, ms_text(v, 1, "-").text,
                r->loss_last);
    }
}

/* ---- CSV and JSON ---------------------------------------------------------------------------- */

static void csv_heading(FILE *out)
{
    fprintf(out, "model,%s,needs_bytes,peak_bytes,step_flops,peak_phase,peak_path,peak_op",
            levers_csv_heading().text);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        fprintf(out, ",%s_peak,%s_at_peak", memtrack_component_name((MemComponent)i),
                memtrack_component_name((MemComponent)i));
    fprintf(out, ",measured_peak_bytes,process_peak_bytes,unaccounted_bytes,step_ms,loss,error\n");
}

static void csv_row(FILE *out, const Variant *v)
{
    const Options *o = &v->options;
    const MemStats *s = &v->plan.memory.stats;
    fprintf(out, "%s,%s,%" PRIu64 ",%" PRIu64 ",%.9g,%s,%s,%s", o->model, levers_csv(o).text, s->needs,
            s->peak, v->plan.step_flops, memtrack_phase_name(s->peak_at.phase), v->plan.memory.peak_path,
            v->plan.memory.peak_op);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        fprintf(out, ",%" PRIu64 ",%" PRIu64, s->own_peak[i], s->at_peak[i]);
    const char *error = v->plan.status ? v->plan.error : v->ran && v->result.status ? v->result.error : "";
    if (v->ran && !v->result.status)
        fprintf(out, ",%" PRIu64 ",%" PRIu64 ",%" PRId64 ",%s,%.6g,\n", v->result.memory.stats.peak,
                v->result.memory.process_peak, report_unaccounted(&v->result.memory), ms_text(v, 3, "").text,
                v->result.loss_last);
    else
        fprintf(out, error[0] ? ",,,,,,\"%s\"\n" : ",,,,,,%s\n", error);
}

/* Each row names the levers that it differs in; of a list its own. */
static json_t *variant_json(const Variant *v, const Options *from)
{
    json_t *row = json_object();
    LeverText flags = levers_text(&v->options, from);
    const MemSummary *planned = &v->plan.memory;
    json_object_set_new(row, "variant", json_text(v->pulled ? flags.text : v->label));
    json_object_set_new(row, "options", levers_json(&v->options));
    if (v->plan.status) {
        json_object_set_new(row, "error", json_text(v->plan.error));
        return row;
    }
    int ran = v->ran && !v->result.status;
    json_object_set_new(row, "step_flops", json_real(v->plan.step_flops));
    json_object_set_new(row, "memory",
                        ran ? json_memory(&v->result.memory, planned) : json_memory(planned, NULL));
    if (v->ran && v->result.status)
        json_object_set_new(row, "error", json_text(v->result.error));
    if (ran) {
        json_object_set_new(row, "step_ms",
                            v->result.step_seconds > 0 ? json_real(1e3 * v->result.step_seconds)
                                                       : json_null());
        json_object_set_new(row, "loss", json_number(v->result.loss_last));
    }
    return row;
}

static void print_json(const Options *o, const Variant *variants, int count)
{
    json_t *rows = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(rows, variant_json(&variants[i], o));
    json_print(json_pack("{s:s, s:o}", "model", o->model, "variants", rows));
}

/* ---- The command ----------------------------------------------------------------------------- */

/* The sets of a list as rows; 0 after an error. */
static int list_rows(const Options *sets, int count, Variant *variants)
{
    ReportProgress progress = report_progress_start("planning", count);
    for (int i = 0; i < count; report_progress(&progress, ++i)) {
        Variant *v = &variants[i];
        *v = (Variant){.options = sets[i]};
        snprintf(v->label, sizeof v->label, "%s", sets[i].label);
        if (resolve_checkpoint(&v->options))
            snprintf(v->plan.error, sizeof v->plan.error, "no choice of --checkpoint fits %s",
                     report_size(sets[i].budget).text);
        else
            variant_plan(v);
        v->plan.status = v->plan.error[0] ? EXIT_NO : v->plan.status;
    }
    report_progress_end(&progress);
    return count;
}

static void run_all(Variant *variants, int count, int64_t steps)
{
    ReportProgress progress = report_progress_start("training each row", count);
    for (int i = 0; i < count; report_progress(&progress, ++i)) {
        Variant *v = &variants[i];
        if (v->plan.status)
            continue;
        v->options.steps = steps;
        v->options.epochs = 0;
        v->options.quiet = 1;
        plan_free(&v->plan);
        variant_plan(v); /* a run of so many steps */
        v->ran = 1;
        run_apart(&v->options, &v->plan, &v->result);
    }
    report_progress_end(&progress);
}

static int any_failed(const Variant *variants, int count)
{
    for (int i = 0; i < count; i++)
        if (variants[i].plan.status || (variants[i].ran && variants[i].result.status))
            return 1;
    return 0;
}

int command_compare(const Options *sets, int count)
{
    static Variant variants[SETS_MAX];
    const Options *o = &sets[0];
    Options first = *o;
    int lists = count > 1;
    if (!lists && resolve_checkpoint(&first))
        return EXIT_NO;
    count = lists ? list_rows(sets, count, variants) : variants_plan(&first, variants);
    if (!base_of(variants, count)) {
        fprintf(stderr, "brim: %s\n", variants[0].plan.error);
        return EXIT_NO;
    }
    if (o->run_steps && products_or_say()) {
        variants_free(variants, count);
        return EXIT_NO;
    }
    if (o->run_steps)
        run_all(variants, count, o->run_steps);
    if (o->json) {
        print_json(&first, variants, count);
    } else if (o->csv) {
        csv_heading(stdout);
        for (int i = 0; i < count; i++)
            csv_row(stdout, &variants[i]);
    } else {
        ReportUnit unit = unit_of(variants, count);
        print_title(lists ? o : &first, variants[0].parameters, 0);
        printf("\n");
        if (lists)
            plan_rows(stdout, unit.name, variants, count, unit);
        else
            variants_table(stdout, &first, variants, count);
        growth_rows(stdout, variants, count, unit);
        if (o->run_steps)
            run_rows(stdout, variants, count, unit, o->run_steps);
    }
    int failed = any_failed(variants, count);
    variants_free(variants, count);
    return failed ? EXIT_NO : EXIT_DONE;
}
