/* The refusal of what does not fit a budget or this machine, and what would: from the one list of levers and
 * combinations, the least cost first. */
#include "advice_.h"
#include "levers_.h"
#include "variants_.h"

enum { TIGHT_PERCENT = 85 }; /* of the memory that is free, above which a run is said to be tight */

/* ---- The cost of a variant ------------------------------------------------------------------- */

/* Operations beyond those of the options as they are; a part in 200 is none. Fewer count only where something
 * else is trained: adapters spare the gradients of frozen weights. */
static double extra_flops(const Variant *v, const Variant *base)
{
    double extra = v->plan.step_flops / base->plan.step_flops - 1;
    int fewer = extra < -0.005 && levers_other_training(&v->options, &base->options);
    return extra > 0.005 || fewer ? extra : 0;
}

int variant_costs_more(const Variant *a, const Variant *b, const Variant *base)
{
    const Options *from = &base->options;
    int other = levers_other_training(&a->options, from) - levers_other_training(&b->options, from);
    double extra = extra_flops(a, base) - extra_flops(b, base);
    int changes = levers_changed(&a->options, from) - levers_changed(&b->options, from);
    uint64_t needs_a = a->plan.memory.stats.needs, needs_b = b->plan.memory.stats.needs;
    if (other)
        return other;
    if (extra > 0.005 || extra < -0.005)
        return extra > 0 ? 1 : -1;
    return changes ? changes : (needs_a > needs_b) - (needs_a < needs_b);
}

const Variant *variants_least_need(const Variant *variants, int count)
{
    const Variant *least = NULL;
    for (int i = 0; i < count; i++)
        if (!variants[i].plan.status &&
            (!least || variants[i].plan.memory.stats.needs < least->plan.memory.stats.needs))
            least = &variants[i];
    return least;
}

/* ---- What to say ----------------------------------------------------------------------------- */

static void say_adapters(int adapters)
{
    if (adapters)
        fprintf(stderr, "With --lora adapters are trained instead of the weights.\n");
}

static void print_variant(const Variant *v, const Options *from)
{
    fprintf(stderr, "  %-56s needs %s\n", levers_text(&v->options, from).text,
            report_size(v->plan.memory.stats.needs).text);
}

/* Those that fit, in the order of what they cost. Returns how many. */
static int print_fitting(const Variant *variants, int count, const Options *from, uint64_t limit)
{
    const Variant *base = &variants[0];
    const Variant *order[2 * VARIANTS];
    int fitting = 0, adapters = 0;
    for (int i = 0; i < count; i++) {
        const Variant *v = &variants[i];
        if (v->plan.status || v->plan.memory.stats.needs > limit)
            continue;
        int at = fitting++;
        adapters |= variant_adds_adapters(v, from);
        for (; at > 0 && variant_costs_more(order[at - 1], v, base) > 0; at--)
            order[at] = order[at - 1];
        order[at] = v;
    }
    if (fitting)
        fprintf(stderr, "With other levers it fits; the least cost comes first:\n");
    for (int i = 0; i < fitting; i++)
        print_variant(order[i], from);
    say_adapters(adapters);
    return fitting;
}

static void suggest(const Variant *variants, int count, const Options *from, uint64_t limit)
{
    const Variant *least = variants_least_need(variants, count);
    if (print_fitting(variants, count, from, limit) || !least)
        return;
    fprintf(stderr, "No levers of `brim fit` make it fit; the least need is that of\n");
    print_variant(least, from);
    say_adapters(variant_adds_adapters(least, from));
    fprintf(stderr, "A smaller model, batch or sequence needs less.\n");
}

static void suggest_for(const Options *o, uint64_t limit)
{
    static Variant variants[VARIANTS];
    int count = variants_plan(o, variants);
    suggest(variants, count, o, limit);
    variants_free(variants, count);
}

int check_budget(const Options *o, const Plan *plan)
{
    uint64_t needs = plan->memory.stats.needs;
    if (!o->budget || needs <= o->budget)
        return EXIT_DONE;
    complain("%sneeds %s%s, %s more than the budget of %s.", approximate_tag(o), report_size(needs).text,
             o->ranks.size > 1 ? " a rank" : "", report_size(needs - o->budget).text,
             report_size(o->budget).text);
    if (speaks_alone())
        suggest_for(o, o->budget);
    return EXIT_NO;
}

int check_machine(const Options *o, const Plan *plan, uint64_t more)
{
    MemMachine machine;
    char why[512];
    if (plan_fits_machine(plan, more, &machine, why, sizeof why) == ERROR_NONE)
        return EXIT_DONE;
    complain("%s.", why);
    if (!speaks_alone())
        return EXIT_NO;
    uint64_t each = (machine.available > more ? machine.available - more : 0) / (uint64_t)plan->ranks_here;
    suggest_for(o, each > plan->beside ? each - plan->beside : 0);
    return EXIT_NO;
}

/* Others may take what is left before the run is through. */
void say_if_tight(const Plan *plan, uint64_t more)
{
    MemMachine machine;
    uint64_t takes = (uint64_t)plan->ranks_here * (plan->memory.stats.needs + plan->beside) + more;
    memtrack_machine(&machine);
    double percent = 100 * (double)takes / (double)machine.available;
    if (percent > TIGHT_PERCENT)
        note("this run takes %s, %.0f %% of the %s that are free on this machine (%s)",
             report_size(takes).text, percent, report_size(machine.available).text, machine.bound);
}

static void say_bound(const Plan *plan)
{
    const MemSummary *m = &plan->memory;
    MemGroup bound = bound_by(m);
    fprintf(stderr,
            "Its peak is in %s at %s: %s of %s, beside %s of parameters and %s of optimizer states.\n",
            memtrack_phase_name(m->stats.peak_at.phase), report_path(m),
            report_size(report_group(m->stats.at_peak, bound)).text, group_names[bound],
            report_size(report_group(m->stats.at_peak, MEM_GROUP_PARAMETERS)).text,
            report_size(report_group(m->stats.at_peak, MEM_GROUP_OPTIMIZER_STATES)).text);
}

int advise_without_checkpoint(const Options *o, const PlanFound *found)
{
    static Variant variants[2 * VARIANTS];
    Options plain = *o, typed = *o;
    fprintf(stderr,
            "brim: no choice of --checkpoint fits %s: of %d planned the smallest need is %s, with "
            "--checkpoint %s.\n",
            report_size(o->budget).text, found->planned, report_size(found->needs).text,
            checkpoint_text(&o->checkpoint).text);
    plain.checkpoint = (CheckpointChoice){0};
    typed.checkpoint = (CheckpointChoice){.automatic = 1};
    int count = variants_plan(o, variants); /* on top of what was found; then on top of nothing */
    say_bound(&variants[0].plan);
    count += variants_plan(&plain, variants + count);
    suggest(variants, count, &typed, o->budget);
    variants_free(variants, count);
    return EXIT_NO;
}
