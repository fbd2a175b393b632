/* The textbook's rules evaluated for one run, beside what the run's plan says, with the reason where they
 * part. */
#include <math.h>
#include <string.h>

#include "../estimate/formulae.h"
#include "../estimate/textbook.h"
#include "precision.h"

enum { RULE = 52, COLUMN = 9 };

typedef struct Rules {
    FILE *out;
    ReportUnit unit;
    const Options *options;
    const MemStats *stats;
    double parameters;
} Rules;

static void number(const Rules *r, double bytes)
{
    if (bytes < 0)
        fprintf(r->out, "%*s", COLUMN, "-");
    else
        fprintf(r->out, "%*.*f", COLUMN, r->unit.decimals, bytes / r->unit.bytes);
}

static void row(const Rules *r, const char *rule, double textbook, MemGroup group, const char *why)
{
    fprintf(r->out, "%-*s", RULE, rule);
    number(r, textbook);
    number(r, (double)report_group(r->stats->own_peak, group));
    number(r, (double)report_group(r->stats->at_peak, group));
    fprintf(r->out, "%s%s\n", why[0] ? "  " : "", why);
}

static const char *why_gradients(const Rules *r)
{
    uint64_t own = report_group(r->stats->own_peak, MEM_GROUP_GRADIENTS);
    uint64_t at = report_group(r->stats->at_peak, MEM_GROUP_GRADIENTS);
    if (r->options->in_backward)
        return "each is freed as soon as it is used";
    return at < own ? "backward has not computed the others yet" : "";
}

static const char *why_activations(const Rules *r)
{
    const CheckpointChoice *c = &r->options->checkpoint;
    if (c->every || c->found.pattern[0])
        return "recomputed: inputs of segments, and one segment's";
    if (c->selective)
        return "what is cheap to recompute is not kept";
    return "counted by what each operation keeps";
}

/* Bytes of a number that is kept for backward. */
static int activation_bytes(const Rules *r)
{
    return (int)dtype_bytes(precision_of(r->options).activations, 1, 1);
}

/* The published formula is of GPT's shape, in 16 bit with stored masks; in fp32 twice that. */
static void korthikanti(const Rules *r)
{
    int times = activation_bytes(r) / 2;
    ModelSizes sizes = nn_preset_sizes(&r->options->preset);
    GptShape shape = {
        .batch = r->options->batch, .seq = r->options->seq, .dim = sizes.dim, .heads = sizes.heads};
    if (!family_of(r->options)->gpt_block)
        return;
    row(r,
        times == 2 ? "activations: sbh(34 + 5as/h) x 2 for fp32, x layers"
                   : "activations: sbh(34 + 5as/h) x layers",
        times * estimate_korthikanti_bytes(&shape, KORTHIKANTI_PLAIN, 1) * sizes.layers,
        MEM_GROUP_ACTIVATIONS,
        r->options->attention == ATTENTION_FLASH ? "masks are not stored; flash keeps no scores"
                                                 : "masks are not stored, and scores once");
}

/* What is trained, by the bytes that its tensors have; in fp32 they are those of the textbook. */
static void state_rows(const Rules *r, const Bracket *b)
{
    int states = optim_rule(r->options->optimizer)->states, adapters = b->adapters;
    double trained = (double)b->trained.count, each = trained > 0 ? (double)b->trained.bytes / trained : 0;
    double gradient = trained > 0 ? (double)b->gradients / trained : 0;
    char label[3][64];
    snprintf(label[0], sizeof label[0], "parameters: %.3g bytes each", each);
    if (b->masters)
        snprintf(label[0], sizeof label[0], "parameters: %.3g bytes each, and fp32 masters", each);
    snprintf(label[1], sizeof label[1], "gradients: %.3g bytes each", gradient);
    snprintf(label[2], sizeof label[2], "optimizer states: %d x %.3g bytes each", states,
             states && trained > 0 ? (double)b->states / trained / states : 4);
    row(r, adapters ? "parameters: as they are stored, and adapters" : label[0],
        (double)(b->trained.bytes + b->masters + bracket_frozen_bytes(b)), MEM_GROUP_PARAMETERS, "");
    row(r,
        adapters                           ? "gradients: 4 bytes an adapter's parameter"
        : b->gradients == b->trained.bytes ? "gradients: as many bytes"
                                           : label[1],
        (double)b->gradients, MEM_GROUP_GRADIENTS, why_gradients(r));
    row(r, label[2], (double)b->states, MEM_GROUP_OPTIMIZER_STATES, "");
}

void rules_print(FILE *out, const Options *o, const Training *t, const Plan *plan)
{
    const MemStats *s = &plan->memory.stats;
    ReportUnit unit = report_unit(s->peak);
    double n = (double)t->parameters;
    Rules r = {out, unit, o, s, n};
    int bytes = activation_bytes(&r);
    char title[64], label[64];
    snprintf(title, sizeof title, "THE RULES FOR THIS RUN, %s", unit.name);
    snprintf(label, sizeof label, "activations: sqrt(N) x batch x %d bytes x layers", bytes);
    fprintf(out, "\n%-*s%*s%*s%*s\n", RULE, title, COLUMN, "by rule", COLUMN, "own peak", COLUMN, "at peak");
    state_rows(&r, &t->bracket);
    row(&r, label, bytes * sqrt(n) * o->batch * nn_preset_sizes(&o->preset).layers, MEM_GROUP_ACTIVATIONS,
        why_activations(&r));
    korthikanti(&r);
    row(&r, "overhead: 1 to 2 GB", -1, MEM_GROUP_OVERHEAD, "the rest of the peak; no CUDA context");
}

/* ---- brim plan --textbook --json ------------------------------------------------------------- */

json_t *textbook_json(void)
{
    json_t *rows = json_array();
    TextbookRow row;
    for (int i = 0; estimate_textbook_row(i, &row); i++) {
        json_t *one = json_pack("{s:s, s:s, s:s, s:s, s:s, s:[f,f], s:[f,f], s:s, s:s, s:s, s:s}", "id",
                                row.id, "topic", row.topic, "question", row.question, "rule", row.rule,
                                "textbook", row.textbook, "by_rule", row.by_rule.low, row.by_rule.high,
                                "exact", row.exact.low, row.exact.high, "unit", row.unit, "formula",
                                row.formula, "remark", row.remark, "tag", row.plan ? "PLANNED" : "ESTIMATED");
        if (row.plan)
            json_object_set_new(one, "plan", json_string(row.plan));
        json_array_append_new(rows, one);
    }
    return json_pack("{s:o}", "textbook", rows);
}
