/* brim plan --framework pytorch --html FILE: the JSON of the plan, and what a page draws besides, in a page.
 */
#include <string.h>

#include "../estimate/pytorch/timeline.h"
#include "../io/io.h"
#include "../report/html.h"
#include "pytorch_tables.h"

static json_t *places_json(const PytorchPlan *p)
{
    uint64_t pytorch[PLACES], brim[PLACES];
    json_t *all = json_array();
    pytorch_places(p, pytorch, brim);
    for (int i = 0; i < PLACES; i++)
        json_array_append_new(all, json_pack("{s:s, s:I, s:I}", "name", pytorch_place_names[i], "pytorch",
                                             (json_int_t)pytorch[i], "brim", (json_int_t)brim[i]));
    return all;
}

static json_t *kind_names(void)
{
    json_t *all = json_array();
    for (int k = 0; k < PYTORCH_KINDS; k++)
        json_array_append_new(all, json_string(estimate_pytorch_kind_name((PytorchKind)k)));
    return all;
}

/* A point is what is requested of each kind, then what is allocated and reserved, and the number of its span.
 */
static json_t *points_json(const PytorchTimeline *t)
{
    json_t *all = json_array();
    for (int i = 0; i < t->count; i++) {
        const PytorchPoint *p = &t->points[i];
        json_t *row = json_array();
        for (int k = 0; k < PYTORCH_KINDS; k++)
            json_array_append_new(row, json_integer((json_int_t)p->by[k]));
        json_array_append_new(row, json_integer((json_int_t)p->allocated));
        json_array_append_new(row, json_integer((json_int_t)p->reserved));
        json_array_append_new(row, json_integer(p->span));
        json_array_append_new(all, row);
    }
    return all;
}

static json_t *spans_json(const PytorchTimeline *t)
{
    json_t *all = json_array();
    for (int i = 0; i < t->span_count; i++)
        json_array_append_new(all, json_pack("{s:s, s:i, s:i, s:i}", "phase",
                                             estimate_pytorch_phase_name(t->spans[i].phase), "step",
                                             t->spans[i].step + 1, "micro", t->spans[i].micro + 1, "first",
                                             t->spans[i].first));
    return all;
}

static json_t *command_json(const Options *o)
{
    json_t *all = json_array();
    for (int i = 0; i < o->argument_count; i++)
        json_array_append_new(all, json_text(o->arguments[i]));
    return all;
}

/* NULL without memory. */
static json_t *page_json(const PytorchPlan *p)
{
    static PytorchTimeline timeline;
    if (estimate_pytorch_timeline(&p->job, &p->allocator, &timeline))
        return NULL;
    json_t *page = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o}", "title",
        json_text(pytorch_title(p->options, &p->job).text), "on", json_text(pytorch_on_what(p).text),
        "verdict",
        p->has_verdict
            ? json_text(
                  pytorch_verdict_text(&p->summary.books, &p->verdict, p->limit, p->options->accumulate).text)
            : json_null(),
        "places", places_json(p), "kinds", kind_names(), "points", points_json(&timeline), "events_each",
        (json_int_t)timeline.stride, "spans", spans_json(&timeline));
    json_object_set_new(page, "limit_bytes",
                        p->has_verdict ? json_integer((json_int_t)p->limit) : json_null());
    json_object_set_new(page, "brim", json_string(BRIM_VERSION));
    json_object_set_new(page, "command", command_json(p->options));
    return page;
}

static int fill_page(FILE *out, void *user)
{
    char why[256];
    if (report_html_pytorch(out, user, why, sizeof why))
        return error_raise(ERROR_FILE, "%s", why);
    return 0;
}

int pytorch_write_page(const PytorchPlan *p)
{
    json_t *page = page_json(p), *plan = page ? pytorch_plan_json(p) : NULL;
    int status = EXIT_NO;
    if (!plan || json_object_set_new(plan, "page", page))
        complain("there is no memory for the page");
    else if (io_write_file(p->options->html, fill_page, plan))
        say_error();
    else
        status = EXIT_DONE;
    json_decref(plan);
    return status;
}
