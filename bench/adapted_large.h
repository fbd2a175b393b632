/* A model that takes most of the machine, with adapters or trained whole, by hand: planned, trained in just
 * that for some steps on one repeated batch of random tokens, from random weights; and whether the frozen
 * bytes stayed what they were. */
#ifndef BRIM_BENCH_ADAPTED_LARGE_H
#define BRIM_BENCH_ADAPTED_LARGE_H

#include "adapted.h"
#include "order.h"

enum { LARGE_STEPS = 1000 };

typedef struct Large {
    Adapted adapted;
    int steps, threads;
    uint64_t hash_before, hash_after, frozen_bytes;
    double seconds[LARGE_STEPS];
    int done;
} Large;

static int large_script(void *config)
{
    Large *l = config;
    Session s;
    int meta = context_is_meta(context_current());
    if (adapted_open(&s, &l->adapted) != 0)
        return error_code();
    if (!meta)
        l->hash_before = frozen_hash(s.model, &l->frozen_bytes);
    for (int i = 0; i < l->steps && !error_code(); i++) {
        double took = session_step(&s);
        brim_step((int64_t)l->adapted.preset.batch * l->adapted.preset.seq);
        if (meta || error_code())
            continue;
        l->seconds[l->done++] = took;
        printf("step %3d   loss %.6f   %8.2f s\n", i + 1, s.loss, took);
        fflush(stdout);
    }
    if (!meta && !error_code())
        l->hash_after = frozen_hash(s.model, &l->frozen_bytes);
    return error_code();
}

static void large_print(const Large *l, const Plan *plan, const RunResult *result)
{
    double room[LARGE_STEPS];
    const MemSummary *planned = &plan->memory, *measured = &result->memory;
    int64_t unaccounted = report_unaccounted(measured);
    printf("\nplanned      %llu bytes (%s)\n", (unsigned long long)planned->stats.needs,
           report_size(planned->stats.needs).text);
    printf("measured     %llu bytes: %s; segments off the plan: %lld\n",
           (unsigned long long)measured->stats.needs,
           measured->stats.needs == planned->stats.needs ? "as planned" : "NOT as planned",
           (long long)result->segments_off_plan);
    printf("process      %s at its highest, %.1f MiB above the need; unaccounted %.1f MiB\n",
           report_size(measured->process_peak).text,
           ((double)measured->process_peak - (double)planned->stats.needs) / (1 << 20),
           (double)unaccounted / (1 << 20));
    printf("a step       %.2f s, the median of %d; loss %.6f to %.6f\n",
           order_median(l->seconds, l->done, room), l->done, result->loss_first, result->loss_last);
    if (l->adapted.full)
        return;
    printf("frozen       %llu bytes, hash %016llx before and %016llx after: %s\n",
           (unsigned long long)l->frozen_bytes, (unsigned long long)l->hash_before,
           (unsigned long long)l->hash_after, l->hash_before == l->hash_after ? "equal" : "NOT equal");
}

static void large_headline(const Large *l)
{
    const Adapted *a = &l->adapted;
    const char *precision = a->base.precision ? a->base.precision : "fp32";
    if (a->full)
        printf("%s, all parameters, %s", a->preset.name, precision);
    else
        printf("%s, base %s%s%s, LoRA r %d, alpha %g of every linear layer but the head, activations of %s",
               a->preset.name, a->base.quantized ? dtype_name(a->base.quantized) : "",
               a->base.quantized ? ", rest " : "", dtype_name(a->base.dtype), a->lora.rank,
               (double)a->lora.alpha, precision);
    printf(", batch %d x %d, %s, AdamW%s lr %g, %d threads\n", a->preset.batch, a->preset.seq,
           a->checkpoint ? "checkpoint blocks" : "no checkpoints", session_eight_bit ? " 8 bit" : "",
           (double)a->lr, l->threads);
}

/* Returns what main should. */
static int large_run(Large *l)
{
    Plan plan;
    RunResult result;
    RunOptions options = {.threads = l->threads, .quiet = 1};
    large_headline(l);
    if (plan_script(large_script, l, &options, &plan) != 0) {
        printf("not planned: %s\n", plan.error);
        return 1;
    }
    printf("needs %s; the weights are drawn first\n", report_size(plan.memory.stats.needs).text);
    fflush(stdout);
    plan_execute(large_script, l, &options, &plan, &result);
    if (result.status)
        printf("failed: %s\n", result.error);
    else
        large_print(l, &plan, &result);
    int equal = !result.status && l->hash_before == l->hash_after && result.segments_off_plan == 0 &&
                result.memory.stats.needs == plan.memory.stats.needs;
    plan_free(&plan);
    return !equal;
}

#endif
