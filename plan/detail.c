/* What a plan keeps of the peak: the largest allocations that are live then, and the bytes of each module
 * path. */
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
        snprintf(t->path, sizeof t->path, "%s", memtrack_path_name(context->tracker, b->where.path));
        snprintf(t->op, sizeof t->op, "%s", b->where.op ? b->where.op : "");
    }
}

static int has_bytes(const Context *context, int path, uint64_t by[MEM_COMPONENT_COUNT])
{
    memtrack_peak_by_path(context->ledger, path, by);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        if (by[i])
            return 1;
    return 0;
}

int plan_keep_detail_(Plan *plan, const Context *context)
{
    uint64_t by[MEM_COMPONENT_COUNT];
    int count = 0, paths = memtrack_path_count(context->tracker);
    keep_largest(plan, context);
    for (int path = 0; path < paths; path++)
        count += has_bytes(context, path, by);
    plan->paths = memtrack_host_alloc(NULL, (size_t)count * sizeof *plan->paths);
    if (!plan->paths)
        return -1;
    for (int path = 0; path < paths; path++) {
        PlanPath *p = &plan->paths[plan->path_count];
        if (!has_bytes(context, path, by))
            continue;
        snprintf(p->path, sizeof p->path, "%s", memtrack_path_name(context->tracker, path));
        memcpy(p->by, by, sizeof p->by);
        plan->path_count++;
    }
    return 0;
}
