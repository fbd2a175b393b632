/* What a plan keeps of the moment of the peak: the largest allocations then, and the bytes of each place. */
#include "plan_.h"

static void keep_largest(Plan *plan, const Context *context)
{
    MemPeakBlock blocks[PLAN_TENSORS];
    plan->largest_count = (int)memtrack_peak_blocks(context->ledger, blocks, PLAN_TENSORS);
    for (int i = 0; i < plan->largest_count; i++) {
        const MemPeakBlock *b = &blocks[i];
        PlanTensor *t = &plan->largest[i];
        *t = (PlanTensor){
            .component = b->component, .bytes = b->bytes, .step = b->where.step, .phase = b->where.phase};
        snprintf(t->place, sizeof t->place, "%s", memtrack_place_name(context->tracker, b->where.place));
        snprintf(t->op, sizeof t->op, "%s", b->where.op ? b->where.op : "");
    }
}

static int has_bytes(const Context *context, int place, uint64_t by[MEM_COMPONENT_COUNT])
{
    memtrack_peak_by_place(context->ledger, place, by);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        if (by[i])
            return 1;
    return 0;
}

int plan_keep_detail_(Plan *plan, const Context *context)
{
    uint64_t by[MEM_COMPONENT_COUNT];
    int count = 0, places = memtrack_place_count(context->tracker);
    keep_largest(plan, context);
    for (int place = 0; place < places; place++)
        count += has_bytes(context, place, by);
    plan->places = memtrack_host_alloc(NULL, (size_t)count * sizeof *plan->places);
    if (!plan->places)
        return -1;
    for (int place = 0; place < places; place++) {
        PlanPlace *p = &plan->places[plan->place_count];
        if (!has_bytes(context, place, by))
            continue;
        snprintf(p->place, sizeof p->place, "%s", memtrack_place_name(context->tracker, place));
        memcpy(p->by, by, sizeof p->by);
        plan->place_count++;
    }
    return 0;
}
