/* What a row of brim fit needs: its plan, or, where ranks have different stages, that of the fullest. */
#include "fit_.h"
#include "several.h"
#include "writing.h"

/* A text that fills the cache. */
static void plan_text(Fit *fit, const Options *o, Plan *plan)
{
    Options own = *o;
    Writing w;
    writing_of_seq(&own, &w);
    plan_inference(&own, &w, plan);
    fit->parameters = w.parameters;
    fit->active = w.active;
    fit->samples = INT64_MAX; /* as many as are asked for */
    plan_free(plan);
}

static void plan_rank(Fit *fit, const Method *m, const Options *o, Plan *plan)
{
    Training training = {.options = o};
    RunOptions run = run_options(o);
    run.budget = 0;
    if (o->inference) {
        plan_text(fit, o, plan);
        return;
    }
    plan_script(training_script, &training, &run, plan);
    fit->parameters = training.parameters;
    fit->active = training.bracket.active;
    if (m == &fit->method[0])
        fit->bracket = training.bracket;
    fit->samples = training.samples;
    plan_free(plan);
}

/* Of stages between the second and the last none is fuller than the second: stages have as many blocks as the
 * next one or one more, and hold as many micro-batches or more. */
static int next_stage(int stage, int stages)
{
    return stage == 1 && stages > 2 ? stages - 1 : stage + 1;
}

void fit_plan_at(Fit *fit, const Method *m, int kind, int batch, int seq, Plan *plan)
{
    Options o = m->variant.options;
    int stages = has_stages(&o) ? o.ranks.stages : 1;
    o.batch = batch;
    o.seq = seq;
    o.cards = fit->kind[kind].card;
    plan_rank(fit, m, &o, plan);
    for (int stage = next_stage(0, stages); stage < stages && !plan->status;
         stage = next_stage(stage, stages)) {
        Plan other;
        o.ranks.rank = stage * stage_ranks(&o);
        plan_rank(fit, m, &o, &other);
        if (other.status || other.memory.stats.needs > plan->memory.stats.needs)
            *plan = other;
    }
}

uint64_t fit_need(Fit *fit, Method *m, int kind, int batch, int seq)
{
    for (int i = 0; i < m->memos; i++)
        if (m->memo[i].kind == kind && m->memo[i].batch == batch && m->memo[i].seq == seq)
            return m->memo[i].bytes;
    Plan plan;
    fit_plan_at(fit, m, kind, batch, seq, &plan);
    uint64_t bytes = plan.status ? UINT64_MAX : plan.memory.stats.needs;
    if (m->memos < MEMO)
        m->memo[m->memos++] = (Need){kind, batch, seq, bytes};
    return bytes;
}

int fit_plan_ranks(Fit *fit, Method *m)
{
    Options o = m->variant.options;
    Plan *plan = &m->variant.plan;
    m->sent = plan->step_sent;
    m->sent_by_all = plan->step_sent * (uint64_t)o.ranks.size;
    if (!has_stages(&o))
        return 0;
    m->sent = m->sent_by_all = 0;
    for (int stage = 0; stage < o.ranks.stages; stage++) {
        Plan other;
        o.ranks.rank = stage * stage_ranks(&o);
        plan_rank(fit, m, &o, &other);
        if (other.status) {
            *plan = other;
            return other.status;
        }
        m->stage[stage] = (StageNeed){other.memory.stats.needs, other.step_sent};
        if (other.memory.stats.needs > m->stage[m->fullest].needs)
            m->fullest = stage;
        m->sent = other.step_sent > m->sent ? other.step_sent : m->sent;
        m->sent_by_all += other.step_sent * (uint64_t)stage_ranks(&o);
    }
    return 0;
}
