/* The dry run of a script, and of what it leaves the plan. A trace of it is packed; if that needs less, a
 * second dry run follows the hints, and is the plan. */
#include <string.h>

#include "../kernels/kernels.h"
#include "plan_.h"

/* ---- Signatures of segments ------------------------------------------------------------------ */

SegmentSignature *plan_find_signature_(const Plan *plan, uint64_t hash)
{
    for (int i = 0; i < plan->signatures; i++)
        if (plan->signature[i].hash == hash)
            return (SegmentSignature *)&plan->signature[i];
    return NULL;
}

typedef struct PlanSegments {
    Plan *plan;
    double flops_before;
} PlanSegments;

static void note_segment(Context *context, int step_ended, void *user)
{
    PlanSegments *segments = user;
    Plan *plan = segments->plan;
    uint64_t hash = memtrack_stats(context->ledger)->step_hash;
    SegmentSignature *known = plan_find_signature_(plan, hash);
    if (known)
        known->count++;
    else if (plan->signatures < PLAN_SIGNATURES)
        plan->signature[plan->signatures++] = (SegmentSignature){hash, memtrack_step(context->tracker), 1};
    else
        plan->more_kinds = 1;
    if (step_ended && plan->steps++ == 0)
        plan->step_flops = context->flops - segments->flops_before;
    segments->flops_before = context->flops;
}

/* ---- Planning -------------------------------------------------------------------------------- */

void plan_keep_error_(char *to, size_t size, int status)
{
    if (status)
        snprintf(to, size, "%s",
                 error_message()[0] ? error_message() : "the script failed without saying why");
}

/* Runs the script in this context and closes the books of its last segment. */
int plan_run_script_(Script script, void *config, Context *context, SegmentHook hook)
{
    context->segment_hook = hook;
    int scope = tensor_scope_begin();
    int status = script(config);
    if (!status)
        status = error_code();
    context_segment_end(context); /* what goes with the script is no part of its last step */
    tensor_scope_end(scope);
    context_segment_end(context);
    return status;
}

static void plan_without_memory(Plan *plan)
{
    snprintf(plan->error, sizeof plan->error, "out of host memory for a plan");
    plan->status = ERROR_HOST_MEMORY;
}

/* One dry run, by hints if there are any, else traced. A plan of its own, with the hints it found in *found.
 */
static void dry_run(Script script, void *config, const RunOptions *o, const MemHints *hints, MemHints **found,
                    Plan *plan)
{
    Context *context = context_create(&(ContextOptions){
        .meta = 1, .threads = o->threads, .seed = o->seed, .kernels = o->kernels, .device = o->device});
    if (!context || (!hints && memtrack_trace_start(context->ledger))) {
        plan_without_memory(plan);
        context_destroy(context);
        return;
    }
    memtrack_ledger_follow(context->ledger, hints);
    Context *outside = context_use(context);
    PlanSegments segments = {.plan = plan};
    plan->status =
        plan_run_script_(script, config, context, (SegmentHook){.segment = note_segment, .user = &segments});
    plan_keep_error_(plan->error, sizeof plan->error, plan->status);
    report_summary(context->ledger, &plan->memory);
    plan->beside = context->host_later;
    context_use(outside);
    if (!hints && !plan->status &&
        (memtrack_pack(context->ledger, found) || plan_keep_detail_(plan, context)))
        plan_without_memory(plan);
    context_destroy(context);
}

/* The second dry run: when it needs less, it takes the first one's place. */
static void improve(Script script, void *config, const RunOptions *o, MemHints *hints, Plan *plan)
{
    Plan packed = {0};
    dry_run(script, config, o, hints, NULL, &packed);
    if (packed.status || packed.memory.stats.needs >= plan->memory.stats.needs) {
        plan->status = packed.status;
        memcpy(plan->error, packed.error, sizeof plan->error);
        memtrack_hints_free(hints);
        return;
    }
    plan->memory = packed.memory;
    memcpy(plan->signature, packed.signature, sizeof plan->signature);
    plan->signatures = packed.signatures;
    plan->more_kinds = packed.more_kinds;
    plan->hints = hints;
    plan->packer = memtrack_hints_packer(hints);
}

/* Around what is reserved, with what the data take that were not read. A run opens the same files and makes
 * the same headers as its first dry run, so what that took of host memory is taken again: as its books say,
 * or, where the process grew by more (JSON is in no books), as the system says. */
static uint64_t beside(const Plan *plan, const RunOptions *o, uint64_t grown)
{
    const uint64_t thread = (uint64_t)3 << 20; /* BLAS packs into 1 to 3 MiB; stacks are small */
    const uint64_t process = (uint64_t)4 << 20;
    int threads = o->threads > 0 ? o->threads : kernels_default_threads();
    uint64_t page_tables = plan->memory.stats.needs / 512;
    uint64_t host = plan->memory.host_peak > grown ? plan->memory.host_peak : grown;
    return plan->beside + host + page_tables + (uint64_t)threads * thread + process;
}

/* What a dry run made the process grow by, at its highest: by memory, not by pages of code and data files,
 * which cost nothing that the system could not have back. */
typedef struct Growth {
    uint64_t resident, highest, files; /* before */
} Growth;

static Growth growth_begin(void)
{
    return (Growth){memtrack_process_resident(), memtrack_process_resident_peak(),
                    memtrack_process_resident_files()};
}

static uint64_t growth_end(const Growth *before)
{
    uint64_t reached = memtrack_process_resident_peak(), files = memtrack_process_resident_files();
    uint64_t grown = reached > before->highest ? reached - before->resident : 0;
    uint64_t read = files > before->files ? files - before->files : 0;
    return grown > read ? grown - read : 0;
}

int plan_script(Script script, void *config, const RunOptions *options, Plan *plan)
{
    static const RunOptions defaults;
    const RunOptions *o = options ? options : &defaults;
    MemHints *hints = NULL;
    Growth growth = growth_begin();
    *plan = (Plan){.packer = memtrack_hints_packer(NULL)};
    dry_run(script, config, o, NULL, &hints, plan);
    plan->beside = beside(plan, o, growth_end(&growth));
    if (hints && !plan->status)
        improve(script, config, o, hints, plan);
    else
        memtrack_hints_free(hints);
    if (plan->status)
        plan_free(plan);
    return plan->status;
}

void plan_free(Plan *plan)
{
    memtrack_hints_free(plan->hints);
    memtrack_host_free(NULL, plan->places, (size_t)plan->path_count * sizeof *plan->places);
    plan->hints = NULL;
    plan->places = NULL;
    plan->path_count = 0;
}
