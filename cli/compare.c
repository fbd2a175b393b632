/* brim compare: the same training with other values of some options, or with one lever at a time; planned,
 * and with --run really trained for a few steps, measured beside planned. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "compare_.h"
#include "levers_.h"
#include "run_.h"
#include "several.h"

/* ---- CSV and JSON ---------------------------------------------------------------------------- */

static void csv_heading(FILE *out)
{
    fprintf(out, "model,%s,needs_bytes,peak_bytes,fits,step_flops,sent_bytes,peak_phase,peak_path,peak_op",
            levers_csv_heading().text);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        fprintf(out, ",%s_peak,%s_at_peak", memtrack_component_name((MemComponent)i),
                memtrack_component_name((MemComponent)i));
    fprintf(out, ",measured_peak_bytes,process_peak_bytes,unaccounted_bytes,step_ms,loss,error\n");
}

static void csv_row(FILE *out, const Comparison *c, const Variant *v)
{
    const Options *o = &v->options;
    const MemStats *s = &v->plan.memory.stats;
    fprintf(out, "%s,%s,%" PRIu64 ",%" PRIu64 ",%d,%.9g,%" PRIu64 ",%s,%s,%s", o->model, levers_csv(o).text,
            s->needs, s->peak, compare_fits(c, v), v->plan.step_flops, v->plan.step_sent,
            memtrack_phase_name(s->peak_at.phase), v->plan.memory.peak_path, v->plan.memory.peak_op);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        fprintf(out, ",%" PRIu64 ",%" PRIu64, s->own_peak[i], s->at_peak[i]);
    const char *error = v->plan.status ? v->plan.error : v->ran && v->result.status ? v->result.error : "";
    if (v->ran && !v->result.status)
        fprintf(out, ",%" PRIu64 ",%" PRIu64 ",%" PRId64 ",%s,%.6g,\n", v->result.memory.stats.peak,
                v->result.memory.process_peak, report_unaccounted(&v->result.memory),
                compare_ms(v, 3, "").text, v->result.loss_last);
    else
        fprintf(out, error[0] ? ",,,,,,\"%s\"\n" : ",,,,,,%s\n", error);
}

/* Each row names the levers that it differs in; of a list its own. */
static json_t *variant_json(const Comparison *c, const Variant *v)
{
    json_t *row = json_object();
    LeverText flags = levers_text(&v->options, c->options);
    const MemSummary *planned = &v->plan.memory;
    json_object_set_new(row, "variant", json_text(v->pulled ? flags.text : v->label));
    json_object_set_new(row, "options", levers_json(&v->options));
    if (c->options->budget)
        json_object_set_new(row, "fits", json_boolean(compare_fits(c, v)));
    if (v->plan.status) {
        json_object_set_new(row, "error", json_text(v->plan.error));
        return row;
    }
    int ran = v->ran && !v->result.status;
    json_object_set_new(row, "step_flops", json_real(v->plan.step_flops));
    if (has_ranks(&v->options))
        json_object_set_new(row, "sent_bytes_per_step", json_integer((json_int_t)v->plan.step_sent));
    json_object_set_new(row, "parameters", json_integer(v->parameters));
    json_object_set_new(row, "active_parameters", json_integer(v->bracket.active));
    approximate_json(row, &v->options);
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

static void print_json(const Comparison *c)
{
    json_t *rows = json_array();
    for (int i = 0; i < c->count; i++)
        json_array_append_new(rows, variant_json(c, &c->variants[i]));
    json_t *all = json_pack("{s:s, s:o}", "model", c->options->model, "variants", rows);
    planned_card_json(all, c->options);
    json_print(all);
}

static void print_csv(const Comparison *c)
{
    csv_heading(stdout);
    for (int i = 0; i < c->count; i++)
        csv_row(stdout, c, &c->variants[i]);
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

static void run_all(const Comparison *c, Variant *variants)
{
    ReportProgress progress = report_progress_start("training each row", c->count);
    for (int i = 0; i < c->count; report_progress(&progress, ++i)) {
        Variant *v = &variants[i];
        if (!compare_fits(c, v))
            continue;
        v->options.steps = c->options->run_steps;
        v->options.epochs = 0;
        v->options.quiet = 1;
        plan_free(&v->plan);
        variant_plan(v); /* a run of so many steps */
        v->ran = 1;
        run_apart(&v->options, &v->plan, &v->result);
    }
    report_progress_end(&progress);
}

/* Without an error, and with a row that fits the budget where there is one. */
static int succeeded(const Comparison *c)
{
    int fitting = 0;
    for (int i = 0; i < c->count; i++) {
        const Variant *v = &c->variants[i];
        if (v->plan.status || (v->ran && v->result.status))
            return 0;
        fitting += compare_fits(c, v);
    }
    return fitting > 0;
}

int command_compare(const Options *sets, int count)
{
    static Variant variants[SETS_MAX];
    Options first = sets[0];
    Comparison c = {.options = &first, .variants = variants, .lists = count > 1};
    if (first.four_ways)
        return c.lists ? usage("--four-ways is about one model, batch and length: a list is none")
                       : compare_four_ways(&first);
    if (first.inference)
        return compare_inference(sets, count);
    for (int i = 0; i < count && first.run_steps; i++)
        if (look_apart(&sets[i]))
            return EXIT_USAGE;
    if (!c.lists && resolve_checkpoint(&first))
        return EXIT_NO;
    c.count = c.lists ? list_rows(sets, count, variants) : variants_plan(&first, variants);
    if (!compare_first(&c)) {
        fprintf(stderr, "brim: %s\n", variants[0].plan.error);
        return EXIT_NO;
    }
    if (first.run_steps && products_or_say()) {
        variants_free(variants, c.count);
        return EXIT_NO;
    }
    if (first.run_steps)
        run_all(&c, variants);
    if (first.json)
        print_json(&c);
    else if (first.csv)
        print_csv(&c);
    else
        compare_print(stdout, &c);
    int status = succeeded(&c) ? EXIT_DONE : EXIT_NO;
    variants_free(variants, c.count);
    return status;
}
