/* brim plan --framework pytorch as one JSON object: exact bytes. */
#include <string.h>

#include "pytorch_tables.h"

LeverText pytorch_on_what(const PytorchPlan *p)
{
    if (p->card)
        return lever_say("%s, compute capability %d.%d", p->card->title, p->job.capability / 10,
                         p->job.capability % 10);
    return lever_say("a card of compute capability %d.%d (assumed: --card names one)", p->job.capability / 10,
                     p->job.capability % 10);
}

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

static json_t *rows_json(const PytorchMore *rows, int count)
{
    json_t *all = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(all, json_pack("{s:s, s:s, s:I}", "name", rows[i].name, "why", rows[i].why,
                                             "bytes", (json_int_t)rows[i].bytes));
    return all;
}

json_t *pytorch_plan_json(const PytorchPlan *p)
{
    const PytorchSummary *s = &p->summary;
    PytorchMore more[PYTORCH_MORE], differences[PYTORCH_DIFFERENCES];
    int more_count = pytorch_more(p, more), difference_count = pytorch_differences(p, differences);
    json_t *pytorch = json_pack(
        "{s:b, s:o, s:s?, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "predicted", 1, "versions",
        pytorch_versions_json(&p->job), "card", p->card ? p->card->name : NULL, "script",
        pytorch_script(p->options)->text, "requested_bytes", (json_int_t)s->requested, "allocated_bytes",
        (json_int_t)s->books.peak_allocated, "reserved_bytes", (json_int_t)s->books.peak_reserved, "peak_at",
        pytorch_place_json(&s->peak_at), "at_peak", kinds_json(s), "moments", moments_json(s), "more",
        rows_json(more, more_count), "live_at_peak", live_json(s));
    json_object_set_new(pytorch, "ranks", pytorch_ranks_json(&p->job));
    json_object_set_new(pytorch, "context_bytes", pytorch_context_json(p->context));
    json_object_set_new(pytorch, "verdict",
                        p->has_verdict ? pytorch_verdict_json(&p->verdict, p->limit) : json_null());
    json_object_set_new(pytorch, "unverified", pytorch_unverified_json(&p->job));
    json_object_set_new(pytorch, "fits_with_expandable_segments",
                        p->pages_tried ? json_boolean(p->pages_help) : json_null());
    json_object_set_new(pytorch, "differences", rows_json(differences, difference_count));
    json_object_set_new(pytorch, "data", pytorch_data_json(p->options));
    json_t *brim = p->brim.status ? json_pack("{s:o}", "error", json_text(p->why_no_brim.text))
                                  : json_pack("{s:o}", "memory", json_memory(&p->brim.memory, NULL));
    return json_pack("{s:s, s:I, s:i, s:i, s:o, s:o}", "model", p->options->model, "parameters",
                     (json_int_t)p->parameters, "batch", p->options->batch, "seq", p->options->seq, "pytorch",
                     pytorch, "brim", brim);
}
