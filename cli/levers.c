/* The table of levers, and what loops over it: a title line, text to type, JSON, CSV, saved runs. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "flags_.h"
#include "levers_.h"
#include "lora.h"
#include "precision.h"
#include "several.h"

/* ---- The rows -------------------------------------------------------------------------------- */

static LeverText optimizer_title(const Options *o)
{
    return lever_say("%s", optim_rule(o->optimizer)->title);
}

float learning_rate(const Options *o)
{
    const OptimRule *rule = optim_rule(o->optimizer);
    if (o->lr >= 0)
        return o->lr;
    if (has_adapters(o)) /* a tenth of the parameters or less: usual is ten times as much */
        return 10 * rule->tuning_lr;
    if (o->init) /* trained weights: docs/weights.md has the measurements */
        return rule->tuning_lr;
    return rule->usual_lr > 0 ? rule->usual_lr : family_of(o)->lr;
}

static LeverText lr_title(const Options *o)
{
    return lever_say("lr %g", (double)learning_rate(o));
}

static LeverText dropout_title(const Options *o)
{
    return o->dropout > 0 ? lever_say("dropout %g", (double)o->dropout) : lever_say("%s", "no dropout");
}

static LeverText batch_title(const Options *o)
{
    return lever_say("batch %d", o->batch);
}

static LeverText seq_title(const Options *o)
{
    return lever_say("seq %d", o->seq);
}

static int packs(const Options *o)
{
    return o->pack;
}

static LeverText pack_title(const Options *o)
{
    return lever_say("%s", o->pack ? "packed" : "");
}

static LeverText accumulate_title(const Options *o)
{
    return o->accumulate > 1 ? lever_say("accumulate %d", o->accumulate) : lever_say("%s", "");
}

static int keeps_apart(const Options *o)
{
    return o->accumulate_apart;
}

static LeverText apart_title(const Options *o)
{
    (void)o;
    return lever_say("added apart");
}

static LeverText ranks_title(const Options *o)
{
    int ranks = data_ranks(o); /* a step has as many times the samples */
    return ranks > 1 ? lever_say("%d %sranks", ranks, ranks < o->ranks.size ? "data " : "")
                     : lever_say("%s", "");
}

static LeverText stages_title(const Options *o)
{
    return lever_say("%d stages %s", o->ranks.stages, ranks_schedule_name(o->ranks.schedule));
}

static LeverText gather_title(const Options *o)
{
    static const char *const names[] = {"", "gathered by block", "gathered a block ahead"};
    return lever_say("%s", names[gathers_blocks(o)]);
}

static LeverText parallel_title(const Options *o)
{
    return lever_say("%s", ranks_strategy_name(o->ranks.strategy));
}

static LeverText tensor_title(const Options *o)
{
    return o->ranks.tensor > 1 ? lever_say("tensor %d", o->ranks.tensor) : lever_say("%s", "");
}

static int has_replicas(const Options *o)
{
    return has_ranks(o) && o->ranks.replicas > 1;
}

static LeverText replicas_title(const Options *o)
{
    return lever_say("%d replicas", o->ranks.replicas);
}

static int replicates(const Options *o)
{
    return has_ranks(o) && o->ranks.replicate_below > 0;
}

static LeverText replicate_title(const Options *o)
{
    return lever_say("weights below %" PRId64 " whole", o->ranks.replicate_below);
}

static int chooses_order(const Options *o)
{
    return has_ranks(o) && o->ranks.reduce != RANKS_REDUCE_AUTO;
}

static LeverText reduce_title(const Options *o)
{
    return lever_say("%s sums", o->reduce);
}

static LeverText sequence_title(const Options *o)
{
    return lever_say("%s", o->ranks.sequence ? "sequence parallel" : "");
}

static LeverText attention_title(const Options *o)
{
    return lever_say("%s attention", flag_text("--attention", o).text);
}

static LeverText checkpoint_title(const Options *o)
{
    LeverText text = checkpoint_text(&o->checkpoint);
    if (!strcmp(text.text, "none"))
        return lever_say("%s", "");
    return lever_say("checkpoint %.28s%s", text.text, strlen(text.text) > 28 ? "…" : "");
}

static LeverText in_backward_title(const Options *o)
{
    return lever_say("%s", o->in_backward ? "optimizer in backward, no clipping" : "");
}

static LeverText zero_grad_title(const Options *o)
{
    return lever_say("%s", o->keep_gradients ? "gradients kept" : "");
}

static LeverText loss_chunk_title(const Options *o)
{
    if (!o->loss_chunk)
        return lever_say("%s", "");
    return lever_say("loss in chunks of %d row%s", o->loss_chunk, plural(o->loss_chunk));
}

static int skips(const Options *o)
{
    return reads_text(o) && o->skip_unlabelled;
}

static LeverText skip_title(const Options *o)
{
    return lever_say("%s", o->skip_unlabelled ? "labelled rows only" : "");
}

static void attention_to_preset(Options *o)
{
    nn_preset_set_attention(&o->preset, o->attention);
}

static void dropout_to_preset(Options *o)
{
    nn_preset_set_dropout(&o->preset, o->dropout);
}

static void checkpoint_to_model(const Options *o, Module *model)
{
    const CheckpointChoice *c = &o->checkpoint;
    if (c->found.pattern[0])
        nn_set_checkpoints(model, c->found.pattern);
    else if (c->every)
        nn_set_checkpoint_every(model, c->every);
    nn_set_selective(model, c->selective);
}

static void loss_chunk_to_model(const Options *o, Module *model)
{
    if (o->loss_chunk)
        nn_set_loss_chunk(model, o->loss_chunk);
}

static void gather_to_model(const Options *o, Module *model)
{
    nn_set_gather_blocks(model, gathers_blocks(o));
}

static void skip_to_model(const Options *o, Module *model)
{
    if (o->skip_unlabelled)
        nn_set_skip_unlabelled(model, 1);
}

static void clip_to_optimizer(const Options *o, Optimizer *optimizer)
{
    optim_set_clip(optimizer, o->clip);
}

static void in_backward_to_optimizer(const Options *o, Optimizer *optimizer)
{
    optim_set_in_backward(optimizer, o->in_backward);
}

enum { EVERYWHERE = LEVER_CSV | LEVER_LOG | LEVER_SAVED | LEVER_TYPED };

static const Lever levers[] = {
    {.flag = "--optimizer", .where = EVERYWHERE, .title = optimizer_title, .other_training = 1},
    {.flag = "--lr", .where = LEVER_SAVED, .title = lr_title},
    {.flag = "--weight-decay", .where = LEVER_SAVED},
    {.flag = "--schedule", .where = LEVER_SAVED},
    {.flag = "--warmup", .where = LEVER_SAVED},
    {.flag = "--dropout", .where = LEVER_SAVED, .title = dropout_title, .to_preset = dropout_to_preset},
    {.flag = "--batch", .where = EVERYWHERE, .title = batch_title, .model_decides = 1},
    {.flag = "--seq",
     .where = EVERYWHERE,
     .means = reads_text,
     .title = seq_title,
     .joins = 1,
     .model_decides = 1},
    {.flag = "--accumulate", .where = EVERYWHERE, .title = accumulate_title, .joins = 1},
    /* A saved run does not know them. */
    {.flag = "--ranks", .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED, .title = ranks_title, .joins = 1},
    {.flag = "--tensor",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = has_ranks,
     .title = tensor_title},
    {.flag = "--sequence-parallel",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = has_ranks,
     .title = sequence_title},
    {.flag = "--parallel",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = has_ranks,
     .title = parallel_title},
    {.flag = "--replicas",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = has_replicas,
     .title = replicas_title},
    {.flag = "--replicate-below",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = replicates,
     .title = replicate_title},
    {.flag = "--reduce",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = chooses_order,
     .title = reduce_title},
    {.flag = "--stages", .where = LEVER_LOG | LEVER_TYPED, .means = has_stages, .title = stages_title},
    {.flag = "--pipeline", .where = LEVER_LOG | LEVER_TYPED, .means = has_stages},
    {.flag = "--gather",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = gathers_blocks,
     .title = gather_title,
     .to_model = gather_to_model},
    {.flag = "--accumulate-apart",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .means = keeps_apart,
     .title = apart_title},
    {.flag = "--pack", .where = LEVER_SAVED, .means = packs, .title = pack_title},
    {.flag = "--attention",
     .where = EVERYWHERE,
     .means = reads_text,
     .title = attention_title,
     .to_preset = attention_to_preset},
    /* No bit of a weight depends on these two. */
    {.flag = "--checkpoint",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .title = checkpoint_title,
     .to_model = checkpoint_to_model},
    {.flag = "--optimizer-in-backward",
     .where = LEVER_CSV | LEVER_LOG | LEVER_TYPED,
     .title = in_backward_title,
     .to_optimizer = in_backward_to_optimizer},
    {.flag = "--clip", .where = LEVER_SAVED | LEVER_TYPED, .to_optimizer = clip_to_optimizer},
    {.flag = "--zero-grad", .where = EVERYWHERE, .title = zero_grad_title},
    {.flag = "--loss-chunk",
     .where = EVERYWHERE,
     .means = reads_text,
     .title = loss_chunk_title,
     .to_model = loss_chunk_to_model},
    {.flag = "--skip-unlabelled",
     .where = EVERYWHERE,
     .means = skips,
     .title = skip_title,
     .to_model = skip_to_model},
    {.flag = "--lora",
     .where = EVERYWHERE,
     .title = lora_title,
     .other_training = 1,
     .to_model = add_adapters},
    {.flag = "--adapter", .where = LEVER_LOG | LEVER_TYPED, .title = adapter_title, .other_training = 1},
    /* The headline names types by itself. Runs saved before there were others are fp32. */
    {.flag = "--precision", .where = EVERYWHERE, .saved_if_given = 1, .other_training = 1},
    {.flag = "--grad-dtype", .where = EVERYWHERE, .acts = grad_dtype_text},
    {.flag = "--rounding", .where = EVERYWHERE, .title = rounding_title, .acts = rounding_text},
    {.flag = "--loss-scale",
     .where = EVERYWHERE,
     .title = loss_scale_title,
     .acts = loss_scale_text,
     .to_optimizer = loss_scale_to_optimizer},
    {.flag = "--weights", .where = EVERYWHERE, .saved_if_given = 1},
    {.flag = "--quantize", .where = EVERYWHERE, .saved_if_given = 1, .other_training = 1},
};
enum { LEVERS = sizeof levers / sizeof levers[0] };
_Static_assert(sizeof levers / sizeof levers[0] <= LEVERS_MAX,
               "arrays with an element a lever are of LEVERS_MAX");

const Lever *lever_of(const char *flag)
{
    for (int i = 0; i < LEVERS; i++)
        if (!strcmp(levers[i].flag, flag))
            return &levers[i];
    return NULL;
}

int lever_means(const Lever *lever, const Options *o)
{
    return !lever->means || lever->means(o);
}

/* ---- What they change ------------------------------------------------------------------------ */

void levers_to_preset(Options *o)
{
    for (int i = 0; i < LEVERS; i++)
        if (levers[i].to_preset)
            levers[i].to_preset(o);
}

void levers_to_model(const Options *o, Module *model)
{
    for (int i = 0; i < LEVERS; i++)
        if (levers[i].to_model)
            levers[i].to_model(o, model);
}

void levers_to_optimizer(const Options *o, Optimizer *optimizer)
{
    for (int i = 0; i < LEVERS; i++)
        if (levers[i].to_optimizer)
            levers[i].to_optimizer(o, optimizer);
}

/* ---- As text --------------------------------------------------------------------------------- */

int option_varies(const Options *o, const char *flag)
{
    size_t length = strlen(flag);
    for (const char *at = o->label; (at = strstr(at, flag)); at += length)
        if (at[length] == ' ')
            return 1;
    return 0;
}

LeverText levers_title(const Options *o)
{
    LeverText out = {""};
    int models = option_varies(o, "--model"), shown = 0; /* of the row before */
    for (int i = 0; i < LEVERS; i++) {
        const Lever *lever = &levers[i];
        if (!lever->title)
            continue;
        LeverText title = lever->title(o);
        int show = title.text[0] && lever_means(lever, o) && !option_varies(o, lever->flag) &&
                   !(models && lever->model_decides);
        if (show)
            lever_add(&out, "%s%s", !out.text[0] ? "" : lever->joins && shown ? " x " : "  ", title.text);
        shown = show || (shown && lever->joins);
    }
    return out;
}

/* Its value where it is written down: what acts, typed or not. */
static LeverText written(const Lever *lever, const Options *o)
{
    return lever->acts ? lever->acts(o) : flag_text(lever->flag, o);
}

static int differs(const Lever *lever, const Options *a, const Options *b)
{
    return (lever->where & LEVER_TYPED) != 0 &&
           strcmp(flag_text(lever->flag, a).text, flag_text(lever->flag, b).text) != 0;
}

LeverText levers_text(const Options *o, const Options *from)
{
    LeverText out = {""};
    for (int i = 0; i < LEVERS; i++) {
        const Lever *lever = &levers[i];
        if (!differs(lever, o, from))
            continue;
        lever_add(&out, "%s%s", out.text[0] ? " " : "", lever->flag);
        if (!flag_is_switch(lever->flag))
            lever_add(&out, " %s", flag_text(lever->flag, o).text);
    }
    return out;
}

int levers_changed(const Options *o, const Options *from)
{
    int count = 0;
    for (int i = 0; i < LEVERS; i++)
        count += differs(&levers[i], o, from);
    return count;
}

int levers_other_training(const Options *o, const Options *from)
{
    int count = 0;
    for (int i = 0; i < LEVERS; i++)
        count += levers[i].other_training && differs(&levers[i], o, from);
    return count;
}

/* "--loss-chunk" as a key of JSON, a column of CSV. */
static LeverText key_of(const Lever *lever)
{
    LeverText key = lever_say("%s", lever->flag + 2);
    for (char *c = key.text; *c; c++)
        *c = *c == '-' ? '_' : *c;
    return key;
}

json_t *levers_json(const Options *o)
{
    json_t *all = json_object();
    for (int i = 0; i < LEVERS; i++) {
        const Lever *lever = &levers[i];
        int64_t number = 0;
        if (!(lever->where & LEVER_LOG))
            continue;
        if (flag_number(lever->flag, o, &number))
            json_object_set_new(all, key_of(lever).text, json_integer((json_int_t)number));
        else if (lever_means(lever, o) && written(lever, o).text[0])
            json_object_set_new(all, key_of(lever).text, json_text(written(lever, o).text));
    }
    return all;
}

LeverText levers_csv_heading(void)
{
    LeverText out = {""};
    for (int i = 0; i < LEVERS; i++)
        if (levers[i].where & LEVER_CSV)
            lever_add(&out, "%s%s", out.text[0] ? "," : "", key_of(&levers[i]).text);
    return out;
}

/* A value with commas in quotes. */
static void append_csv(LeverText *out, const char *value)
{
    const char *quote = strchr(value, ',') ? "\"" : "";
    lever_add(out, "%s%s%s%s", out->text[0] ? "," : "", quote, value, quote);
}

LeverText levers_csv(const Options *o)
{
    LeverText out = {""};
    for (int i = 0; i < LEVERS; i++)
        if (levers[i].where & LEVER_CSV)
            append_csv(&out, written(&levers[i], o).text);
    return out;
}

void levers_saved(const Options *o, void (*add)(void *to, const char *name, const char *value), void *to)
{
    for (int i = 0; i < LEVERS; i++) {
        const Lever *lever = &levers[i];
        LeverText value = written(lever, o);
        if ((lever->where & LEVER_SAVED) != 0 && value.text[0] && lever_means(lever, o) &&
            (!lever->saved_if_given || flag_given(lever->flag, o)))
            add(to, lever->flag + 2, value.text);
    }
}
