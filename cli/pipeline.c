/* --stages: what a plan and a run say where ranks have different stages of the model. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "levers_.h"
#include "several.h"

/* "stage 2: ranks 4-5". */
static LeverText stage_name(const Options *o, int stage)
{
    int each = stage_ranks(o), first = stage * each;
    return each == 1 ? lever_say("stage %d: rank %d", stage, first)
                     : lever_say("stage %d: ranks %d-%d", stage, first, first + each - 1);
}

static int plans_all(const Options *o)
{
    return !o->rank || !strcmp(o->rank, "all");
}

/* The plan of a stage's first rank; 0, or EXIT_NO after saying why. */
static int plan_stage(const Options *o, int stage, Plan *plan)
{
    Options own = *o;
    Training training = {.options = &own};
    own.ranks.rank = stage * stage_ranks(o);
    RunOptions run = run_options(&own);
    if (!plan_script(training_script, &training, &run, plan))
        return EXIT_DONE;
    complain("stage %d: %s", stage, plan->error);
    return EXIT_NO;
}

int plan_stages(const Options *o, const Plan *plan, StagePlans *stages)
{
    int own = o->ranks.rank / stage_ranks(o);
    *stages = (StagePlans){.first = plans_all(o) ? 0 : own, .end = plans_all(o) ? o->ranks.stages : own + 1};
    if (!has_stages(o))
        return EXIT_DONE;
    stages->all = memtrack_host_calloc(NULL, (size_t)o->ranks.stages * sizeof *stages->all);
    if (!stages->all) {
        complain("out of host memory for the plans of %d stages", o->ranks.stages);
        return EXIT_NO;
    }
    for (int stage = stages->first; stage < stages->end; stage++) {
        Plan other;
        StagePlan *to = &stages->all[stage];
        if (stage != own && plan_stage(o, stage, &other))
            return EXIT_NO;
        to->memory = stage == own ? plan->memory : other.memory;
        to->sent = stage == own ? plan->step_sent : other.step_sent;
        if (stage != own)
            plan_free(&other);
        if (to->memory.stats.needs > stages->all[stages->fullest].memory.stats.needs)
            stages->fullest = stage;
    }
    return EXIT_DONE;
}

void stage_plans_free(const Options *o, StagePlans *stages)
{
    memtrack_host_free(NULL, stages->all, (size_t)o->ranks.stages * sizeof *stages->all);
    stages->all = NULL;
}

/* Silent without memory, and where there is one stage to be seen. */
static void print_why(const Options *o, const StagePlans *stages)
{
    int count = stages->end - stages->first, each = stage_ranks(o);
    RankLayout layout = rank_layout(o);
    RankKind *kinds = count > 1 ? memtrack_host_calloc(NULL, (size_t)count * sizeof *kinds) : NULL;
    if (!kinds)
        return;
    for (int i = 0; i < count; i++)
        kinds[i] = rank_kind(&stages->all[stages->first + i].memory, (stages->first + i) * each, each);
    print_ranks_why(&layout, kinds, count);
    memtrack_host_free(NULL, kinds, (size_t)count * sizeof *kinds);
}

void print_stages_plan(const Options *o, const StagePlans *stages)
{
    double needs = 0, peak = 0, sent = 0, each = stage_ranks(o);
    int own = o->ranks.rank / stage_ranks(o);
    print_ranks_heading(o);
    for (int stage = stages->first; stage < stages->end; stage++) {
        const StagePlan *s = &stages->all[stage];
        int full = stage == stages->fullest && stages->end - stages->first > 1;
        print_ranks_row(stage_name(o, stage).text, (double)s->memory.stats.peak,
                        (double)s->memory.stats.needs, (double)s->sent, full ? "  <- the fullest" : "");
        peak += each * (double)s->memory.stats.peak;
        needs += each * (double)s->memory.stats.needs;
        sent += each * (double)s->sent;
    }
    if (plans_all(o))
        print_ranks_row("all together", peak, needs, sent, "");
    print_why(o, stages);
    printf("The other tables are those of stage %d; --rank R shows another's. Schedule %s: %s.\n", own,
           ranks_schedule_name(o->ranks.schedule), ranks_schedule_holds(o->ranks.schedule));
}

json_t *stages_plan_json(const Options *o, const StagePlans *stages)
{
    json_t *distinct = json_array();
    for (int stage = stages->first; stage < stages->end; stage++) {
        const StagePlan *s = &stages->all[stage];
        int each = stage_ranks(o), first = stage * each;
        json_array_append_new(distinct,
                              json_pack("{s:i, s:o, s:I, s:o}", "stage", stage, "ranks",
                                        rank_numbers(first, first + each - 1), "sent_bytes_per_step",
                                        (json_int_t)s->sent, "memory", json_memory(&s->memory, NULL)));
    }
    return distinct;
}
