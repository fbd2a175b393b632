/* Planning one set of options: what a run is told, its plan, or why there is none. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "../base/plural_.h"
#include "../device/cards.h"
#include "../device/device.h"
#include "../text/input_.h"
#include "precision.h"
#include "several.h"
#include "variants_.h"

static int is_on_card(const Options *o)
{
    return device_cuda_ordinal(o->device) >= 0;
}

PlannedCard planned_card(const Options *o)
{
    PlannedCard card = {.capability = 0};
    CudaDevice here;
    char why[512];
    if (!is_on_card(o))
        return card;
    const Card *named = o->cards ? device_card(o->cards) : NULL;
    card.capability = device_planned_capability(o->device, o->cards);
    card.name = named ? named->name : NULL;
    card.source = o->cards ? "named" : "assumed";
    if (named)
        snprintf(card.text, sizeof card.text, "%s", named->title);
    else if (o->cards)
        snprintf(card.text, sizeof card.text, "%.100s", o->cards); /* which planning refuses */
    else if (!cuda_look(&here, device_cuda_ordinal(o->device), why, sizeof why)) {
        snprintf(card.text, sizeof card.text, "this machine's %s (%.16s)", here.name, o->device);
        card.source = "this machine";
    } else {
        snprintf(card.text, sizeof card.text,
                 "a card of compute capability %d.%d (assumed: none is named, and none is here)",
                 card.capability / 10, card.capability % 10);
    }
    return card;
}

void planned_card_json(json_t *object, const Options *o)
{
    PlannedCard card = planned_card(o);
    char capability[16];
    if (!card.capability)
        return;
    snprintf(capability, sizeof capability, "%d.%d", card.capability / 10, card.capability % 10);
    json_object_set_new(object, "card",
                        json_pack("{s:s?, s:s, s:s, s:s}", "name", card.name, "title", card.text,
                                  "compute_capability", capability, "source", card.source));
}

RunOptions run_options(const Options *o)
{
    int64_t twentieth = o->steps / 20;
    int every = o->every ? o->every : twentieth < INT_MAX ? (int)twentieth : INT_MAX;
    return (RunOptions){.budget = o->budget,
                        .threads = o->threads,
                        .ranks = has_ranks(o) ? &o->ranks : NULL,
                        .accumulate_apart = o->accumulate_apart,
                        .device = o->device,
                        .card = is_on_card(o) ? o->cards : NULL,
                        .no_graphs = o->no_graphs,
                        .seed = o->seed,
                        .quiet = o->quiet || o->json,
                        .counted = o->seq ? "tokens" : "samples",
                        .every = every > 0 ? every : (o->epochs ? 100 : 1)};
}

/* A step is never larger than the data. */
static void say_if_data_is_short(const Options *o, int64_t samples)
{
    int64_t step = step_samples(o);
    char shown[FILE_LABEL];
    if (samples >= step)
        return;
    text_input_label(shown, o->data);
    note("%s %s %" PRId64 " sample%s, so a step has that many, not %" PRId64,
         o->max_samples ? "--max-samples leaves" : shown, o->max_samples ? "only" : "has", samples,
         plural(samples), step);
}

/* bf16 works everywhere, and is fast where there are tensor cores for it. */
static void say_if_bf16_is_slow(const Options *o)
{
    PlannedCard card = planned_card(o);
    if (card.capability && card.capability < CUDA_BF16 && computes_in_bf16(o))
        note("%s has no tensor cores for bf16, which come with compute capability 8.0: products in bf16 are "
             "slow there, and those in fp16 are not (--precision fp16-mixed)",
             card.text);
}

int plan_or_say(const Options *o, Training *training, Plan *plan)
{
    RunOptions run = run_options(o);
    if (plan_script(training_script, training, &run, plan)) {
        complain("%s", plan->error);
        return EXIT_NO;
    }
    say_if_data_is_short(o, training->samples);
    say_if_bf16_is_slow(o);
    return EXIT_DONE;
}

void variant_plan(Variant *v)
{
    Training training = {.options = &v->options};
    RunOptions run = run_options(&v->options);
    plan_script(training_script, &training, &run, &v->plan);
    v->parameters = training.parameters;
    v->bracket = training.bracket;
}
