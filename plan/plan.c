/* The dry run of a script, and the plan that comes of it. The trace of the dry run is packed; if that needs
 * less, a second dry run follows the hints and becomes the plan. */
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
    uint64_t sent_before;
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
    uint64_t sent = context_traffic_(context).sent;
    if (step_ended && plan->steps++ == 0) {
        plan->step_flops = context->flops - segments->flops_before;
        plan->step_sent = sent - segments->sent_before;
    }
    segments->flops_before = context->flops;
    segments->sent_before = sent;
}

/* ---- Planning -------------------------------------------------------------------------------- */

void plan_keep_error_(char error[512], char function[48], int status)
{
    if (!status)
        return;
    snprintf(error, 512, "%s", error_message()[0] ? error_message() : "the script failed without saying why");
    snprintf(function, 48, "%s", error_function());
}

/* Runs the script in this context and closes the books of its last segment. */
int plan_run_script_(Script script, void *config, Context *context, SegmentHook hook)
{
    context->segment_hook = hook;
    int scope = tensor_scope_begin();
    int status = script(config);
    if (!status)
        status = error_code();
    context_segment_end(context); /* what is freed with the script does not belong to its last step */
    tensor_scope_end(scope);
    context_release_room(context);
    context_segment_end(context);
    return status;
}

static void plan_without_memory(Plan *plan)
{
    snprintf(plan->error, sizeof plan->error, "out of host memory for a plan");
    plan->status = ERROR_HOST_MEMORY;
}

/* One dry run: it follows the hints if there are any, and is traced otherwise. Fills a plan of its own, and
 * *found with the hints that packing gave. */
static void dry_run(Script script, void *config, const RunOptions *o, const MemHints *hints, MemHints **found,
                    Plan *plan)
{
    Context *context = context_create(&(ContextOptions){.meta = 1,
                                                        .threads = o->threads,
                                                        .seed = o->seed,
                                                        .kernels = o->kernels,
                                                        .device = o->device,
                                                        .card = o->card,
                                                        .ranks = o->ranks,
                                                        .accumulate_apart = o->accumulate_apart});
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
    plan_keep_error_(plan->error, plan->function, plan->status);
    report_summary(context->ledger, &plan->memory);
    plan->beside = context->host_later + context->host_passing;
    plan->on_card = context->card != NULL;
    plan->traffic = context_traffic_(context).hash;
    context_use(outside);
    if (!hints && !plan->status &&
        (memtrack_pack(context->ledger, found) || plan_keep_detail_(plan, context)))
        plan_without_memory(plan);
    context_destroy(context);
}

/* The second dry run. When it needs less, it replaces the first one. */
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

/* What a run takes beside its reservation, data included that a plan does not read. A run opens the same
 * files and makes the same headers as its first dry run, so it takes as much host memory: as the books of the
 * dry run say or, where the process grew by more (JSON is in no books), as the system says. */
static uint64_t around_reservation(const Plan *plan, const RunOptions *o, uint64_t grown)
{
    const uint64_t thread = (uint64_t)3 << 20; /* BLAS packs into 1 to 3 MiB; stacks are small */
    const uint64_t process = (uint64_t)4 << 20;
    int threads = o->threads > 0 ? o->threads : context_default_threads(o->ranks);
    uint64_t page_tables = plan->memory.stats.needs / 512;
    uint64_t host = plan->memory.host_peak > grown ? plan->memory.host_peak : grown;
    return plan->beside + host + page_tables + (uint64_t)threads * thread + process;
}

/* How much a dry run made the process grow, at its highest. Only memory counts, not pages of code and data
 * files: the system can have those back. */
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
    *plan = (Plan){.packer = memtrack_hints_packer(NULL),
                   .ranks_here = o->ranks && o->ranks->node_size > 1 ? o->ranks->node_size : 1};
    if (!script) {
        snprintf(plan->error, sizeof plan->error, "there is no script to run: it is NULL");
        return plan->status = ERROR_ARGUMENT;
    }
    Growth growth = growth_begin();
    dry_run(script, config, o, NULL, &hints, plan);
    plan->beside = around_reservation(plan, o, growth_end(&growth));
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
    memtrack_host_free(NULL, plan->paths, (size_t)plan->path_count * sizeof *plan->paths);
    plan->hints = NULL;
    plan->paths = NULL;
    plan->path_count = 0;
}
