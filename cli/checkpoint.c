/* --checkpoint auto: the search for the least recomputation that fits. */
#include <string.h>

#include "../base/plural_.h"
#include "advice_.h"

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
        "--checkpoint auto: --checkpoint %s, %d of %d block%s recomputed, %+.1f %% FLOPs; needs %s of %s; ",
        checkpoint_text(&o->checkpoint).text, again, blocks, plural(blocks),
        100 * (found->step_flops / found->plain_flops - 1), report_size(found->needs).text,
        report_size(o->budget).text);
    if (found->proven)
        fprintf(out, "the best of all %d choice%s\n", found->planned, plural(found->planned));
    else
        fprintf(out, "the best of %d choice%s planned\n", found->planned, plural(found->planned));
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
        return advise_without_checkpoint(o, &found);
    say_found(&found, o);
    return EXIT_DONE;
}
