/* brim plan --framework pytorch: what a job of PyTorch would need, and where; and brim's own plan beside it.
 */
#include <string.h>

#include "precision.h"
#include "pytorch_tables.h"

/* ---- Planning -------------------------------------------------------------------------------- */

static void plan_brim(PytorchPlan *p)
{
    static Options brim;
    Training training = {.options = &brim};
    p->brim.status = ERROR_ARGUMENT;
    if (pytorch_to_brim(p->options, p->card, p->job.model.dropout, &brim, &p->why_no_brim))
        return;
    RunOptions run = run_options(&brim);
    memset(&p->brim, 0, sizeof p->brim);
    if (plan_script(training_script, &training, &run, &p->brim)) {
        p->why_no_brim = lever_say("%.800s", p->brim.error);
        error_clear();
    }
    p->parameters = training.parameters;
}

int pytorch_one_card(const Options *o, const Card **card)
{
    *card = NULL;
    if (o->memories)
        return usage(
            "--memory belongs to `brim fit`; `brim plan` takes --budget SIZE for what PyTorch may reserve");
    if (!o->cards)
        return 0;
    if (strchr(o->cards, ','))
        return usage("--card %s: a plan is for one card; `brim fit --framework pytorch` takes several",
                     o->cards);
    *card = device_card(o->cards);
    return *card ? 0 : usage("--card: %s", device_card_unknown(o->cards).text);
}

static int judge(PytorchPlan *p)
{
    const Options *o = p->options;
    p->context = pytorch_context(o, p->card);
    if (!p->card && !o->budget)
        return 0;
    PytorchBooks books;
    PytorchVerdict with_pages;
    PytorchAllocatorOptions pages = p->allocator;
    p->limit = o->budget ? o->budget : p->card->bytes - p->context.high;
    p->has_verdict = 1;
    if (estimate_pytorch_verdict(&p->job, &p->allocator, p->limit, &books, &p->verdict))
        return -1;
    if (p->verdict.answer == PYTORCH_RUNS_OUT && !pages.expandable_segments) {
        pages.expandable_segments = 1;
        if (estimate_pytorch_verdict(&p->job, &pages, p->limit, &books, &with_pages))
            return -1;
        p->pages_help = pytorch_fits(&with_pages);
    }
    if (o->budget || pytorch_fits(&p->verdict))
        return 0;
    uint64_t most = p->card->bytes - p->context.low;
    return estimate_pytorch_verdict(&p->job, &p->allocator, most, &books, &p->at_most);
}

/* ---- As text --------------------------------------------------------------------------------- */

static LeverText on_what(const PytorchPlan *p)
{
    if (p->card)
        return lever_say("%s, compute capability %d.%d", p->card->title, p->job.capability / 10,
                         p->job.capability % 10);
    return lever_say("a card of compute capability %d.%d (assumed: --card names one)", p->job.capability / 10,
                     p->job.capability % 10);
}

static void print_title_line(const PytorchPlan *p)
{
    SayLine line = {""};
    line_add(&line, "%s", p->options->model);
    if (p->parameters)
        line_add(&line, "  %s parameters", report_count(p->parameters).text);
    line_add(&line, "  %.800s", pytorch_title(p->options, &p->job).text);
    say_line(&line);
    printf("PREDICTED for %s on %s; no card has confirmed it.\n", pytorch_versions(&p->job).text,
           on_what(p).text);
    pytorch_print_data(p->options);
    printf("\n");
}

static void print_verdict(const PytorchPlan *p)
{
    SayLine line = {""};
    if (p->options->budget)
        line_add(&line, "A budget of %s for what is reserved.", report_size(p->limit).text);
    else
        line_add(&line, "%s has %.2f GiB; the context takes %s: %.2f GiB are left.", p->card->name,
                 (double)p->card->bytes / 0x1p30, pytorch_context_text(p->context).text,
                 (double)p->limit / 0x1p30);
    printf("\n%s\n%s\n", line.text,
           pytorch_verdict_text(&p->summary.books, &p->verdict, p->limit, p->options->accumulate).text);
    if (!pytorch_fits(&p->verdict) && !p->options->budget && p->context.low < p->context.high &&
        pytorch_fits(&p->at_most))
        printf("With a context of %.2f GiB it would fit.\n", (double)p->context.low / 0x1p30);
    if (p->pages_help)
        printf("With PYTORCH_ALLOC_CONF=expandable_segments:True it would fit.\n");
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *kinds_json(const PytorchSummary *s)
{
    json_t *all = json_object();
    for (int k = 0; k < PYTORCH_KINDS; k++) {
        char key[40];
        snprintf(key, sizeof key, "%s", estimate_pytorch_kind_name((PytorchKind)k));
        for (char *c = key; *c; c++)
            *c = *c == ' ' ? '_' : *c;
        json_object_set_new(all, key, json_integer((json_int_t)s->at_peak[k]));
    }
    return all;
}

static json_t *live_json(const PytorchSummary *s)
{
    json_t *all = json_array();
    for (size_t i = 0; i < s->live_count; i++) {
        const PytorchAllocation *a = &s->live[i];
        json_array_append_new(
            all,
            json_pack("{s:s, s:o, s:s?, s:s, s:s, s:I}", "kind", estimate_pytorch_kind_name(a->kind), "layer",
                      a->layer >= 0 ? json_integer(a->layer) : json_null(), "module", a->module, "op", a->op,
                      "phase", estimate_pytorch_phase_name(a->phase), "bytes", (json_int_t)a->bytes));
    }
    return all;
}

static json_t *moments_json(const PytorchSummary *s)
{
    json_t *all = json_array();
    for (int i = 0; i < s->moment_count; i++) {
        const PytorchMoment *m = &s->moments[i];
        json_array_append_new(all, json_pack("{s:s, s:i, s:I, s:I, s:I, s:I}", "phase",
                                             estimate_pytorch_phase_name(m->phase), "step", m->step + 1,
                                             "requested_bytes", (json_int_t)m->requested, "allocated_bytes",
                                             (json_int_t)m->allocated, "reserved_bytes",
                                             (json_int_t)m->reserved, "left_bytes", (json_int_t)m->left));
    }
    return all;
}

static json_t *more_json(const PytorchPlan *p)
{
    PytorchMore rows[PYTORCH_MORE];
    int count = pytorch_more(p, rows);
    json_t *all = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(all, json_pack("{s:s, s:s, s:I}", "name", rows[i].name, "why", rows[i].why,
                                             "bytes", (json_int_t)rows[i].bytes));
    return all;
}

static void print_json(const PytorchPlan *p)
{
    const PytorchSummary *s = &p->summary;
    json_t *pytorch = json_pack(
        "{s:b, s:o, s:s?, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "predicted", 1, "versions",
        pytorch_versions_json(&p->job), "card", p->card ? p->card->name : NULL, "script",
        pytorch_script(p->options)->text, "requested_bytes", (json_int_t)s->requested, "allocated_bytes",
        (json_int_t)s->books.peak_allocated, "reserved_bytes", (json_int_t)s->books.peak_reserved, "peak_at",
        pytorch_place_json(&s->peak_at), "at_peak", kinds_json(s), "moments", moments_json(s), "more",
        more_json(p), "live_at_peak", live_json(s));
    json_object_set_new(pytorch, "ranks", pytorch_ranks_json(&p->job));
    json_object_set_new(pytorch, "context_bytes",
                        json_pack("{s:I, s:I, s:s}", "low", (json_int_t)p->context.low, "high",
                                  (json_int_t)p->context.high, "source", p->context.source));
    json_object_set_new(pytorch, "verdict",
                        p->has_verdict ? pytorch_verdict_json(&p->verdict, p->limit) : json_null());
    json_object_set_new(pytorch, "fits_with_expandable_segments", p->pages_help ? json_true() : json_null());
    json_object_set_new(pytorch, "data", pytorch_data_json(p->options));
    json_t *brim = p->brim.status ? json_pack("{s:o}", "error", json_text(p->why_no_brim.text))
                                  : json_pack("{s:o}", "memory", json_memory(&p->brim.memory, NULL));
    json_print(json_pack("{s:s, s:I, s:i, s:i, s:o, s:o}", "model", p->options->model, "parameters",
                         (json_int_t)p->parameters, "batch", p->options->batch, "seq", p->options->seq,
                         "pytorch", pytorch, "brim", brim));
}

/* ---- The command ----------------------------------------------------------------------------- */

int command_plan_pytorch(const Options *o)
{
    static PytorchPlan plan;
    PytorchPlan *p = &plan;
    plan = (PytorchPlan){.options = o};
    if (pytorch_one_card(o, &p->card) || pytorch_job(o, p->card, &p->job) ||
        pytorch_allocator(o, p->card, &p->allocator))
        return EXIT_USAGE;
    if (estimate_pytorch_summary(&p->job, &p->allocator, &p->summary) || judge(p)) {
        estimate_pytorch_summary_free(&p->summary);
        complain("there is no memory to predict this with");
        return EXIT_NO;
    }
    plan_brim(p);
    if (o->json) {
        print_json(p);
    } else {
        print_title_line(p);
        pytorch_print_components(p);
        if (p->has_verdict)
            print_verdict(p);
        pytorch_print_more(p);
        pytorch_print_largest(p);
        pytorch_print_layers(p);
        pytorch_print_moments(p);
    }
    int fits = !p->has_verdict || pytorch_fits(&p->verdict);
    estimate_pytorch_summary_free(&p->summary);
    if (!p->brim.status)
        plan_free(&p->brim);
    return fits ? EXIT_DONE : EXIT_NO;
}
