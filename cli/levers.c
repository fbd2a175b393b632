/* What would make it fit: the search behind --checkpoint auto, and the levers that are suggested when a plan
 * needs more than the budget. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "cli.h"

/* ---- --checkpoint auto ----------------------------------------------------------------------- */

typedef struct Candidate {
    Options options;
    Training training;
} Candidate;

static void apply_choice(void *config, const PlanChoice *choice)
{
    Training *training = config;
    Candidate *candidate = (Candidate *)((char *)training - offsetof(Candidate, training));
    candidate->options.checkpoint = (CheckpointChoice){.selective = choice->selective, .found = *choice};
}

static int count_blocks(const char *pattern)
{
    int count = 0;
    for (; *pattern; pattern++)
        count += *pattern != '.';
    return count;
}

/* The same choice as a user would type it, where that is shorter than a pattern. */
static CheckpointChoice shortest(const PlanChoice *found)
{
    CheckpointChoice choice = {.selective = found->selective, .found = *found};
    const char *pattern = found->pattern;
    size_t blocks = strlen(pattern), length = 1 + strspn(pattern + (pattern[0] != '\0'), "+");
    int regular = pattern[0] == 'c';
    for (size_t i = 0; i < blocks; i++)
        regular &= pattern[i] == (i % length == 0 ? 'c' : '+');
    if (regular)
        choice.every = (int)length;
    if (regular || !count_blocks(pattern))
        choice.found.pattern[0] = '\0';
    return choice;
}

static void say_found(const PlanFound *found, const Options *o)
{
    int blocks = (int)strlen(found->choice.pattern), again = count_blocks(found->choice.pattern);
    FILE *out = o->json || o->csv ? stderr : stdout;
    fprintf(
        out,
        "--checkpoint auto: --checkpoint %s, %d of %d block%s run again, %+.1f %% FLOPs; needs %s of %s; ",
        checkpoint_text(&o->checkpoint).text, again, blocks, plural(blocks),
        100 * (found->step_flops / found->plain_flops - 1), report_size(found->needs).text,
        report_size(o->budget).text);
    if (found->proven)
        fprintf(out, "the best of all %d choice%s\n", found->planned, plural(found->planned));
    else
        fprintf(out, "the best of %d choice%s planned\n", found->planned, plural(found->planned));
}

const char *const group_names[MEM_GROUP_COUNT] = {
#define X(id, name, label, word, brief) [MEM_GROUP_##id] = word,
    MEMTRACK_GROUPS(X)
#undef X
};

void optimizer_in_backward(Options *o)
{
    o->in_backward = 1;
    o->clip = 0;
}

MemGroup bound_by(const MemSummary *memory)
{
    static const MemGroup varying[] = {MEM_GROUP_GRADIENTS, MEM_GROUP_ACTIVATIONS, MEM_GROUP_OVERHEAD};
    MemGroup bound = varying[0];
    for (size_t i = 1; i < sizeof varying / sizeof varying[0]; i++)
        if (report_group(memory->stats.at_peak, varying[i]) > report_group(memory->stats.at_peak, bound))
            bound = varying[i];
    return bound;
}

static void say_bound(FILE *out, const Plan *plan)
{
    const MemSummary *m = &plan->memory;
    MemGroup bound = bound_by(m);
    fprintf(out, "Its peak is in %s at %s: %s of %s, beside %s of parameters and %s of optimizer states.\n",
            memtrack_phase_name(m->stats.peak_at.phase), report_path(m),
            report_size(report_group(m->stats.at_peak, bound)).text, group_names[bound],
            report_size(report_group(m->stats.at_peak, MEM_GROUP_PARAMETERS)).text,
            report_size(report_group(m->stats.at_peak, MEM_GROUP_OPTIMIZER_STATES)).text);
}

/* ---- What else would help -------------------------------------------------------------------- */

static void print_lever(const Variant *v, const Options *from)
{
    fprintf(stderr, "  %-56s needs %s\n", levers_text(&v->options, from).text,
            report_size(v->plan.memory.stats.needs).text);
}

/* What would fit instead, among the levers that can be pulled now; else what comes closest. */
static void suggest(const Options *o, uint64_t limit)
{
    Variant variants[VARIANTS];
    int count = variants_plan(o, variants), fitting = 0;
    const Variant *smallest = NULL;
    for (int i = 1; i < count; i++) {
        const Variant *v = &variants[i];
        uint64_t needs = v->plan.memory.stats.needs;
        if (v->plan.status)
            continue;
        if (!smallest || needs < smallest->plan.memory.stats.needs)
            smallest = v;
        if (needs > limit)
            continue;
        fputs(fitting++ ? "" : "These fit:\n", stderr);
        print_lever(v, o);
    }
    if (!fitting && smallest) {
        fprintf(stderr, "No lever of `brim compare` fits; the smallest need is that of\n");
        print_lever(smallest, o);
    }
    variants_free(variants, count);
}

int check_budget(const Options *o, const Plan *plan)
{
    uint64_t needs = plan->memory.stats.needs;
    if (!o->budget || needs <= o->budget)
        return EXIT_DONE;
    fflush(stdout);
    fprintf(stderr, "brim: needs %s, %s more than the budget of %s.\n", report_size(needs).text,
            report_size(needs - o->budget).text, report_size(o->budget).text);
    suggest(o, o->budget);
    return EXIT_NO;
}

int check_machine(const Options *o, const Plan *plan, uint64_t more)
{
    MemMachine machine;
    char why[512];
    if (plan_fits_machine(plan, more, &machine, why, sizeof why) == ERROR_NONE)
        return EXIT_DONE;
    fflush(stdout);
    fprintf(stderr, "brim: %s.\n", why);
    suggest(o, machine.available > plan->beside + more ? machine.available - plan->beside - more : 0);
    return EXIT_NO;
}

/* No choice fits: how close the best comes, what bounds it, and what else would help. */
static int say_none_fits(const Options *o, const PlanFound *found)
{
    fprintf(stderr,
            "brim: no choice of --checkpoint fits %s: of %d planned the smallest need is %s, with "
            "--checkpoint %s.\n",
            report_size(o->budget).text, found->planned, report_size(found->needs).text,
            checkpoint_text(&o->checkpoint).text);
    Variant best = {.options = *o};
    variant_plan(&best);
    say_bound(stderr, &best.plan);
    plan_free(&best.plan);
    fprintf(stderr, "With that, other levers:\n");
    Variant variants[VARIANTS];
    int count = variants_plan(o, variants), shown = 0;
    for (int i = 1; i < count; i++)
        if (!variants[i].plan.status && variants[i].plan.memory.stats.needs < found->needs) {
            print_lever(&variants[i], o);
            shown++;
        }
    if (!shown)
        fprintf(stderr, "  none saves anything; a smaller model, batch or sequence would\n");
    variants_free(variants, count);
    return EXIT_NO;
}

int resolve_checkpoint(Options *o)
{
    if (!o->checkpoint.automatic)
        return EXIT_DONE;
    static Candidate candidate;
    static PlanFound found;
    candidate = (Candidate){.options = *o};
    candidate.training.options = &candidate.options;
    candidate.options.checkpoint = (CheckpointChoice){0};
    Plan plan;
    if (plan_or_say(&candidate.options, &candidate.training, &plan))
        return EXIT_NO;
    plan_free(&plan);
    RunOptions run = run_options(o);
    PlanSearch search = {.script = training_script,
                         .config = &candidate.training,
                         .options = &run,
                         .apply = apply_choice,
                         .blocks = candidate.training.blocks};
    if (plan_search(&search, &found)) {
        fprintf(stderr, "brim: %s\n", found.error);
        return EXIT_NO;
    }
    o->checkpoint = shortest(&found.choice);
    if (!found.fits)
        return say_none_fits(o, &found);
    say_found(&found, o);
    return EXIT_DONE;
}
