/* What each lever would save: the same training, planned again with one thing changed. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "cli.h"

RunOptions run_options(const Options *o)
{
    int64_t twentieth = o->steps / 20;
    int every = o->every ? o->every : twentieth < INT_MAX ? (int)twentieth : INT_MAX;
    return (RunOptions){.budget = o->budget,
                        .threads = o->threads,
                        .seed = o->seed,
                        .quiet = o->quiet || o->json,
                        .every = every > 0 ? every : (o->epochs ? 100 : 1)};
}

static Variant *add(Variant *variants, int *count, const Options *options, const char *label)
{
    Variant *v = &variants[(*count)++];
    snprintf(v->label, sizeof v->label, "%s", label);
    v->options = *options;
    return v;
}

static void split_batch(Variant *v, int pieces)
{
    v->options.batch /= pieces;
    v->options.accumulate *= pieces;
}

int variants_plan(const Options *o, Variant variants[VARIANTS])
{
    int count = 0, text = o->preset.family != MODEL_MLP;
    int pieces = o->batch % 4 == 0 ? 4 : o->batch % 2 == 0 ? 2 : 1;
    char label[48];
    add(variants, &count, o, "as run");
    if (o->checkpoint == CHECKPOINT_NONE)
        add(variants, &count, o, "--checkpoint blocks")->options.checkpoint = CHECKPOINT_BLOCKS;
    if (pieces > 1) {
        snprintf(label, sizeof label, "--batch %d --accumulate %d", o->batch / pieces,
                 o->accumulate * pieces);
        split_batch(add(variants, &count, o, label), pieces);
    }
    if (o->checkpoint == CHECKPOINT_NONE && pieces > 1) {
        Variant *both = add(variants, &count, o, "both");
        both->options.checkpoint = CHECKPOINT_BLOCKS;
        split_batch(both, pieces);
    }
    if (strcmp(o->optimizer, "sgd"))
        add(variants, &count, o, "--optimizer sgd")->options.optimizer = "sgd";
    if (text) {
        AttentionKind other = o->attention == ATTENTION_FLASH ? ATTENTION_EAGER : ATTENTION_FLASH;
        Variant *v =
            add(variants, &count, o, other == ATTENTION_EAGER ? "--attention eager" : "--attention flash");
        v->options.attention = other;
        nn_preset_set_attention(&v->options.preset, other);
    }
    for (int i = 0; i < count; i++) {
        Training training = {.options = &variants[i].options};
        RunOptions run = run_options(&variants[i].options);
        plan_script(training_script, &training, &run, &variants[i].plan);
        plan_free(&variants[i].plan); /* its figures stay */
        variants[i].parameters = training.parameters;
    }
    return count;
}

enum { LABEL = 33 };

void variants_table(FILE *out, const Options *o, const Variant *variants, int count)
{
    const Plan *first = &variants[0].plan;
    double unit = first->memory.stats.peak < 10240ull << 20 ? 0x1p20 : 0x1p30;
    char title[64];
    snprintf(title, sizeof title, "SAME EFFECTIVE BATCH (%d), %s", o->batch * o->accumulate,
             unit == 0x1p20 ? "MiB" : "GiB");
    fprintf(out, "%-*s %9s %7s %6s  %s\n", LABEL, title, "peak", "change", "FLOPs", "peak at");
    for (int i = 0; i < count; i++) {
        const Plan *p = &variants[i].plan;
        if (p->status) {
            fprintf(out, "%-*s %s\n", LABEL, variants[i].label, p->error);
            continue;
        }
        double change = 100.0 * ((double)p->memory.stats.peak / (double)first->memory.stats.peak - 1);
        char percent[16] = "";
        if (i > 0)
            snprintf(percent, sizeof percent, "%+.0f %%", change);
        fprintf(out, "%-*s %9.1f %7s %6.2f  %s %s\n", LABEL, variants[i].label,
                (double)p->memory.stats.peak / unit, percent, p->step_flops / first->step_flops,
                memtrack_phase_name(p->memory.stats.peak_at.phase), report_place(&p->memory));
    }
    const uint64_t *own = first->memory.stats.own_peak;
    uint64_t floor = report_group(own, MEM_GROUP_PARAMETERS) + report_group(own, MEM_GROUP_GRADIENTS) +
                     report_group(own, MEM_GROUP_OPTIMIZER_STATES);
    fprintf(out, "%-*s %9.1f\n", LABEL, "floor: weights, gradients, states", (double)floor / unit);
}

static json_t *variant_json(const Variant *v)
{
    if (v->plan.status)
        return json_pack("{s:s, s:s}", "variant", v->label, "error", v->plan.error);
    return json_pack("{s:s, s:f, s:o}", "variant", v->label, "step_flops", v->plan.step_flops, "memory",
                     json_memory(&v->plan.memory, NULL));
}

int command_compare(const Options *o)
{
    Variant variants[VARIANTS];
    int count = variants_plan(o, variants);
    if (variants[0].plan.status) {
        fprintf(stderr, "brim: %s\n", variants[0].plan.error);
        return EXIT_NO;
    }
    if (!o->json) {
        print_title(o, variants[0].parameters, 0);
        printf("\n");
        variants_table(stdout, o, variants, count);
        return EXIT_DONE;
    }
    json_t *rows = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(rows, variant_json(&variants[i]));
    json_print(json_pack("{s:s, s:o}", "model", o->model, "variants", rows));
    return EXIT_DONE;
}
