/* brim fit: levers and their combinations x cards. Each cell is planned, not estimated: whether it fits or by
 * how much not, the largest batch, the longest sequence; and for each row what bounds it. */
#include <inttypes.h>
#include <string.h>

#include "../plan/cards.h"
#include "cli.h"

enum { METHODS = 16, CARDS = 12, MEMO = 160, CHUNK = 128, LARGEST_BATCH = 1 << 16, SHORT = 30 };

typedef struct Need {
    int batch, seq;
    uint64_t bytes; /* UINT64_MAX: cannot be planned */
} Need;

/* A row: the options with some levers pulled, and every need planned so far. */
typedef struct Method {
    char label[48];
    Options options;
    MemGroup target; /* what a single lever works on; MEM_GROUP_COUNT for combinations */
    Need memo[MEMO];
    int memos;
    Plan plan;                    /* as asked for; its hints and lists are freed */
    int batch[CARDS], seq[CARDS]; /* the largest and longest that fit; 0 = none */
} Method;

typedef struct Fit {
    const Options *options;
    Method method[METHODS];
    int methods;
    uint64_t memory[CARDS];
    char title[CARDS][24];
    int cards;
    int64_t parameters;
    int planned;
} Fit;

/* ---- Which cards ----------------------------------------------------------------------------- */

static int add_card(Fit *fit, const char *title, uint64_t bytes)
{
    if (fit->cards == CARDS)
        return usage("at most %d cards at a time", CARDS);
    snprintf(fit->title[fit->cards], sizeof fit->title[0], "%.23s", title);
    fit->memory[fit->cards++] = bytes;
    return 0;
}

static int add_named(Fit *fit, const char *name)
{
    const Card *card = plan_card(name);
    if (!card)
        return usage("unknown card '%s'; `brim gpus` lists them, --memory SIZE takes any size", name);
    return add_card(fit, card->name, card->bytes);
}

static int add_sized(Fit *fit, const char *text)
{
    uint64_t bytes;
    return parse_size("--memory", text, &bytes) || add_card(fit, text, bytes);
}

/* Each name of a comma list. */
static int each(Fit *fit, const char *list, int (*take)(Fit *fit, const char *name))
{
    while (*list) {
        char name[64];
        size_t length = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, list);
        if (take(fit, name))
            return EXIT_USAGE;
        list += length + (list[length] == ',');
    }
    return 0;
}

static int choose_cards(Fit *fit)
{
    const Options *o = fit->options;
    static const char usual[] = "t4,rtx3090,a100-40,a100-80,h200";
    if (o->cards && each(fit, o->cards, add_named))
        return EXIT_USAGE;
    if (o->memories && each(fit, o->memories, add_sized))
        return EXIT_USAGE;
    if (!o->cards && !o->memories && each(fit, usual, add_named))
        return EXIT_USAGE;
    for (int i = 0; i < fit->cards; i++)
        if (fit->memory[i] <= o->reserve)
            return usage("--reserve %s leaves nothing of %s", report_size(o->reserve).text, fit->title[i]);
    return fit->cards ? 0 : usage("--card and --memory name no card");
}

/* ---- Which levers ---------------------------------------------------------------------------- */

static Options *add(Fit *fit, const char *label, MemGroup target)
{
    Method *m = &fit->method[fit->methods++];
    *m = (Method){.options = *fit->options, .target = target};
    snprintf(m->label, sizeof m->label, "%s", label);
    return &m->options;
}

static void fuse(Options *o)
{
    o->fused = 1;
    o->clip = 0;
}

static void choose_methods(Fit *fit)
{
    const Options *o = fit->options;
    const CheckpointChoice *c = &o->checkpoint, blocks = {.every = 1};
    int kept = !c->every && !c->found.pattern[0],
        fusible = !o->fused && o->accumulate == 1 && !o->keep_gradients;
    int chunkable = o->preset.family != MODEL_MLP && !o->loss_chunk && nn_preset_vocab(&o->preset) >= 1024;
    add(fit, "as is", MEM_GROUP_COUNT);
    if (kept && !c->selective)
        add(fit, "+ selective", MEM_GROUP_ACTIVATIONS)->checkpoint.selective = 1;
    if (kept)
        add(fit, "+ checkpoint", MEM_GROUP_ACTIVATIONS)->checkpoint = blocks;
    if (fusible)
        fuse(add(fit, "+ fused step", MEM_GROUP_GRADIENTS));
    if (chunkable)
        add(fit, "+ loss chunk", MEM_GROUP_OVERHEAD)->loss_chunk = CHUNK;
    if (kept && fusible) {
        Options *both = add(fit, "+ checkpoint, fused", MEM_GROUP_COUNT);
        both->checkpoint = blocks;
        fuse(both);
    }
    Options all = *o;
    if (kept)
        all.checkpoint = blocks;
    if (fusible)
        fuse(&all);
    if (chunkable) {
        all.loss_chunk = CHUNK;
        *add(fit, kept && fusible ? "+ checkpoint, fused, chunk" : "+ all of these", MEM_GROUP_COUNT) = all;
    }
    if (strcmp(o->optimizer, "sgd")) {
        Options *sgd = add(fit, kept || fusible || chunkable ? "  same, SGD" : "+ SGD", MEM_GROUP_COUNT);
        *sgd = all;
        sgd->optimizer = "sgd";
        add(fit, "+ SGD alone", MEM_GROUP_OPTIMIZER_STATES)->optimizer = "sgd";
    }
    if (o->preset.family != MODEL_MLP) {
        int flash = o->attention == ATTENTION_FLASH;
        Options *other = add(fit, flash ? "eager attention" : "flash attention", MEM_GROUP_ACTIVATIONS);
        other->attention = flash ? ATTENTION_EAGER : ATTENTION_FLASH;
        nn_preset_set_attention(&other->preset, other->attention);
    }
    if (!o->fused)
        add(fit, "accumulate twice as often", MEM_GROUP_GRADIENTS)->accumulate *= 2;
}

/* ---- Needs ----------------------------------------------------------------------------------- */

static uint64_t need(Fit *fit, Method *m, int batch, int seq, Plan *keep)
{
    for (int i = 0; i < m->memos && !keep; i++)
        if (m->memo[i].batch == batch && m->memo[i].seq == seq)
            return m->memo[i].bytes;
    Options o = m->options;
    o.batch = batch;
    o.seq = seq;
    Training training = {.options = &o};
    RunOptions run = run_options(&o);
    Plan plan;
    run.budget = 0;
    plan_script(training_script, &training, &run, &plan);
    fit->planned++;
    fit->parameters = training.parameters;
    uint64_t bytes = plan.status ? UINT64_MAX : plan.memory.stats.needs;
    if (m->memos < MEMO)
        m->memo[m->memos++] = (Need){batch, seq, bytes};
    plan_free(&plan);
    if (keep)
        *keep = plan;
    return bytes;
}

/* What varies: the batch, or the sequence in steps. */
typedef struct Axis {
    int batch, seq;         /* the fixed one; the other is `by seq ? … ` below */
    int by_seq, step, most; /* units of the varied one: value = units x step */
} Axis;

static uint64_t need_at(Fit *fit, Method *m, const Axis *axis, int64_t units)
{
    int value = (int)(units * axis->step);
    return axis->by_seq ? need(fit, m, axis->batch, value, NULL) : need(fit, m, value, axis->seq, NULL);
}

/* Between a that fits and b that does not: where a straight line through the two would cross the limit, kept
 * away from both ends. Needs are nearly straight in batch and (but for eager attention) in sequence. */
static int64_t between(int64_t a, uint64_t need_a, int64_t b, uint64_t need_b, uint64_t limit)
{
    double part =
        need_b > need_a && need_b != UINT64_MAX ? (double)(limit - need_a) / (double)(need_b - need_a) : 0.5;
    int64_t guess = a + (int64_t)(part * (double)(b - a));
    return guess <= a ? a + 1 : guess >= b ? b - 1 : guess;
}

/* The largest number of units that fits, between 1 and axis->most; 0 if one unit does not. */
static int64_t largest(Fit *fit, Method *m, const Axis *axis, uint64_t limit)
{
    int64_t low = 1, high;
    uint64_t need_low = need_at(fit, m, axis, low), need_high = 0;
    if (need_low > limit)
        return 0;
    for (high = 2;; high = high * 2) { /* out until it does not fit, by the slope as soon as there is one */
        if (high > axis->most)
            high = axis->most;
        need_high = high > low ? need_at(fit, m, axis, high) : need_low;
        if (need_high > limit)
            break;
        if (high == axis->most)
            return high;
        double slope = (double)(need_high - need_low) / (double)(high - low);
        int64_t reach = slope > 0 ? high + (int64_t)((double)(limit - need_high) / slope) : axis->most;
        low = high;
        need_low = need_high;
        if (reach > 2 * high)
            high = reach / 2 + 1 < axis->most ? reach / 2 + 1 : (axis->most + 1) / 2;
    }
    while (high - low > 1) {
        int64_t middle = between(low, need_low, high, need_high, limit);
        uint64_t bytes = need_at(fit, m, axis, middle);
        if (bytes <= limit) {
            low = middle;
            need_low = bytes;
        } else {
            high = middle;
            need_high = bytes;
        }
    }
    return low;
}

static void fill_row(Fit *fit, Method *m)
{
    const Options *o = &m->options;
    int max_seq = nn_preset_max_seq(&o->preset), step = max_seq >= 4096 ? 128 : max_seq >= 512 ? 16 : 1;
    need(fit, m, o->batch, o->seq, &m->plan);
    if (m->plan.status)
        return;
    for (int i = 0; i < fit->cards; i++) {
        uint64_t limit = fit->memory[i] - fit->options->reserve;
        int most = LARGEST_BATCH / o->accumulate;
        m->batch[i] = (int)largest(fit, m, &(Axis){.seq = o->seq, .step = 1, .most = most}, limit);
        if (o->seq)
            m->seq[i] = step * (int)largest(fit, m, &(Axis){o->batch, 0, 1, step, max_seq / step}, limit);
    }
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

static int fits(const Fit *fit, const Method *m, int card)
{
    return !m->plan.status && m->plan.memory.stats.needs <= fit->memory[card] - fit->options->reserve;
}

static void heading(const Fit *fit, const char *title, int numbers)
{
    printf("\n%-*s", SHORT, title);
    if (numbers)
        printf(" %8s %6s", "needs", "FLOPs");
    for (int i = 0; i < fit->cards; i++)
        printf(" %12s", fit->title[i]);
    printf("%s\n", numbers ? "" : "  bound by");
    printf("%-*s", SHORT + (numbers ? 16 : 0), "");
    for (int i = 0; i < fit->cards; i++)
        printf(" %12.2f", gib(fit->memory[i]));
    printf("\n");
}

static void batch_cell(const Fit *fit, const Method *m, int card)
{
    char text[24];
    uint64_t limit = fit->memory[card] - fit->options->reserve, needs = m->plan.memory.stats.needs;
    if (m->batch[card] >= m->options.batch)
        snprintf(text, sizeof text, "%d%s", m->batch[card],
                 m->batch[card] == LARGEST_BATCH / m->options.accumulate ? "+" : "");
    else if (m->batch[card])
        snprintf(text, sizeof text, "no, only %d", m->batch[card]);
    else
        snprintf(text, sizeof text, "no, -%.1f", gib(needs - limit));
    printf(" %12s", text);
}

static void seq_cell(const Method *m, int card)
{
    char text[24] = "no";
    if (m->seq[card])
        snprintf(text, sizeof text, "%d%s", m->seq[card],
                 m->seq[card] >= nn_preset_max_seq(&m->options.preset) ? " all" : "");
    printf(" %12s", text);
}

static const char *const group_names[MEM_GROUP_COUNT] = {"parameters", "gradients", "states", "activations",
                                                         "overhead"};

static void print_bound(const Method *m)
{
    const MemSummary *memory = &m->plan.memory;
    MemGroup bound = bound_by(memory);
    printf("  %s %.2f, %s %s\n", group_names[bound], gib(report_group(memory->stats.at_peak, bound)),
           memtrack_phase_name(memory->stats.peak_at.phase), report_place(memory));
}

static void print_tables(const Fit *fit)
{
    const Options *o = fit->options;
    char title[64] = "LARGEST BATCH";
    if (o->seq)
        snprintf(title, sizeof title, "LARGEST BATCH, seq %d", o->seq);
    heading(fit, title, 1);
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (m->plan.status) {
            printf("%-*s %s\n", SHORT, m->label, m->plan.error);
            continue;
        }
        printf("%-*s %8.2f %6.2f", SHORT, m->label, gib(m->plan.memory.stats.needs),
               m->plan.step_flops / m->options.accumulate /
                   (fit->method[0].plan.step_flops / fit->method[0].options.accumulate));
        for (int i = 0; i < fit->cards; i++)
            batch_cell(fit, m, i);
        printf("\n");
    }
    snprintf(title, sizeof title, "LONGEST SEQUENCE, batch %d", o->batch);
    heading(fit, o->seq ? title : "", 0);
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (m->plan.status)
            continue;
        printf("%-*s", SHORT, m->label);
        for (int i = 0; i < fit->cards && o->seq; i++)
            seq_cell(m, i);
        print_bound(m);
    }
}

static MemGroup grown_most(const MemSummary *from, const MemSummary *to)
{
    MemGroup most = 0;
    int64_t by = INT64_MIN;
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        int64_t more = (int64_t)(report_group(to->stats.at_peak, (MemGroup)g) -
                                 report_group(from->stats.at_peak, (MemGroup)g));
        if (more > by) {
            by = more;
            most = (MemGroup)g;
        }
    }
    return most;
}

/* Why a single lever does not help: what it works on is not there when memory is highest. */
static void say_why(const Fit *fit)
{
    const MemSummary *base = &fit->method[0].plan.memory;
    MemGroup bound = bound_by(base);
    for (int k = 1; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (m->plan.status || m->target == MEM_GROUP_COUNT)
            continue;
        uint64_t needs = m->plan.memory.stats.needs, from = base->stats.needs;
        const char *what = m->label[0] == '+' ? m->label + 2 : m->label;
        MemGroup grown = grown_most(base, &m->plan.memory);
        if (needs > from + from / 200)
            printf("%s needs %.2f more: %s at the peak are %.2f instead of %.2f.\n", what, gib(needs - from),
                   group_names[grown], gib(report_group(m->plan.memory.stats.at_peak, grown)),
                   gib(report_group(base->stats.at_peak, grown)));
        else if (needs + from / 200 > from)
            printf("%s saves nothing by itself: at the peak (%s, %s) there are %.2f of %s; %.2f of %s bound "
                   "it.\n",
                   what, memtrack_phase_name(base->stats.peak_at.phase), report_place(base),
                   gib(report_group(base->stats.at_peak, m->target)), group_names[m->target],
                   gib(report_group(base->stats.at_peak, bound)), group_names[bound]);
    }
}

/* What PyTorch's foreach AdamW holds besides while it steps: about one more copy of the parameters; and what
 * a CUDA context takes. Both as reported, not measured here. */
static void say_pytorch(const Fit *fit)
{
    const MemStats *s = &fit->method[0].plan.memory.stats;
    uint64_t p = report_group(s->own_peak, MEM_GROUP_PARAMETERS);
    uint64_t step = p + report_group(s->own_peak, MEM_GROUP_GRADIENTS) +
                    report_group(s->own_peak, MEM_GROUP_OPTIMIZER_STATES) + p;
    uint64_t more = step > s->peak ? step - s->peak : 0;
    printf("PyTorch eager: ESTIMATED at least +%.2f (its optimizer step works on one more copy of the "
           "parameters), and "
           "+0.25 to 0.45 of CUDA context.\n",
           gib(more));
}

static void print_fit(const Fit *fit)
{
    const Options *o = fit->options;
    print_title(o, fit->parameters, 0);
    printf(
        "brim's engine, fp32; GiB; %.2f of each card reserved. A cell is the largest that fits, or what is "
        "missing.\n",
        gib(o->reserve));
    print_tables(fit);
    printf("\n");
    say_why(fit);
    say_pytorch(fit);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *row_json(const Fit *fit, const Method *m)
{
    if (m->plan.status)
        return json_pack("{s:s, s:s}", "method", m->label, "error", m->plan.error);
    json_t *cards = json_array();
    for (int i = 0; i < fit->cards; i++)
        json_array_append_new(cards, json_pack("{s:s, s:b, s:I, s:i, s:i}", "card", fit->title[i], "fits",
                                               fits(fit, m, i), "free_bytes",
                                               (json_int_t)(fit->memory[i] - fit->options->reserve -
                                                            m->plan.memory.stats.needs),
                                               "largest_batch", m->batch[i], "longest_seq", m->seq[i]));
    return json_pack("{s:s, s:s, s:f, s:s, s:o, s:o}", "method", m->label, "flags",
                     levers_text(&m->options, fit->options).text, "step_flops", m->plan.step_flops,
                     "bound_by", memtrack_group_name(bound_by(&m->plan.memory)), "memory",
                     json_memory(&m->plan.memory, NULL), "cards", cards);
}

static void print_json(const Fit *fit)
{
    json_t *rows = json_array(), *cards = json_array();
    for (int i = 0; i < fit->cards; i++)
        json_array_append_new(
            cards, json_pack("{s:s, s:I}", "card", fit->title[i], "bytes", (json_int_t)fit->memory[i]));
    for (int k = 0; k < fit->methods; k++)
        json_array_append_new(rows, row_json(fit, &fit->method[k]));
    json_print(json_pack("{s:s, s:I, s:i, s:i, s:I, s:o, s:o}", "model", fit->options->model, "parameters",
                         (json_int_t)fit->parameters, "batch", fit->options->batch, "seq", fit->options->seq,
                         "reserve_bytes", (json_int_t)fit->options->reserve, "cards", cards, "methods",
                         rows));
}

/* Something fits on every card that was asked about. */
static int every_card_has_one(const Fit *fit)
{
    for (int i = 0; i < fit->cards; i++) {
        int one = 0;
        for (int k = 0; k < fit->methods; k++)
            one |= fits(fit, &fit->method[k], i);
        if (!one)
            return 0;
    }
    return 1;
}

int command_fit(const Options *options, int count)
{
    (void)count;
    static Fit fit;
    Options o = *options;
    o.budget = 0;
    if (o.checkpoint.automatic)
        return usage("--checkpoint auto is for one budget; `brim fit` shows every choice: leave it out");
    fit = (Fit){.options = &o};
    if (choose_cards(&fit))
        return EXIT_USAGE;
    choose_methods(&fit);
    ReportProgress progress = report_progress_start("planning", fit.methods);
    for (int k = 0; k < fit.methods; report_progress(&progress, ++k))
        fill_row(&fit, &fit.method[k]);
    report_progress_end(&progress);
    if (fit.method[0].plan.status) {
        fprintf(stderr, "brim: %s\n", fit.method[0].plan.error);
        return EXIT_NO;
    }
    if (o.json)
        print_json(&fit);
    else
        print_fit(&fit);
    return every_card_has_one(&fit) ? EXIT_DONE : EXIT_NO;
}
