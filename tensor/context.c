/* Context: what a thread's operations share (ledgers, tape, scopes, random state, error). Made on demand;
 * planning uses a fresh one on meta. */
#include <stdio.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "card_.h"
#include "ranks_.h"

enum {
    CONTEXT_MAX_THREADS = 128, /* what the thread team can hold */
    CONTEXT_WHY = 448          /* characters of why a device cannot be had */
};

static _Thread_local Context *current;

/* The card has less than was asked for, or the host has less beside it. The context has an error and nothing
 * else. */
static int card_is_full(Context *context, const ContextOptions *options)
{
    context->error = ERROR_MEMORY;
    snprintf(context->error_text, sizeof context->error_text,
             "device %.32s: %llu bytes cannot be reserved; %llu are free on the card", options->device,
             (unsigned long long)options->capacity, (unsigned long long)context_device_available(context));
    context->ledger =
        memtrack_ledger_create(context->tracker, &(MemLedgerOptions){.name = "cuda", .mode = MEMTRACK_META});
    context->tape = tape_create(context);
    return context->ledger && context->tape ? 0 : -1;
}

uint64_t context_device_available(const Context *context)
{
    const MemDevice *memory = context->card ? &context->card->memory : NULL;
    return memory && memory->available ? memory->available(memory->user) : 0;
}

static int context_fill(Context *context, const ContextOptions *options)
{
    int on_card = device_cuda_ordinal(options->device) >= 0;
    context->host_kernels = context->kernels = kernels_cpu(options->kernels);
    if (!context->kernels)
        return -1;
    context->meta = options->meta;
    context->run.fault = &context->fault;
    context->run.threads = options->threads > 0 ? options->threads : context_default_threads(options->ranks);
    if (context->run.threads > CONTEXT_MAX_THREADS)
        context->run.threads = CONTEXT_MAX_THREADS;
    context->host_run = context->run;
    if (on_card)
        context->kernels = kernels_cuda();
    context->seed = options->seed;
    context->precision = *precision_at(0);
    for (int i = 0; i < SCOPE_MAX_DEPTH; i++)
        context->scopes[i].previous = context->scopes[i].next = &context->scopes[i];
    MemMode mode = options->meta                          ? MEMTRACK_META
                   : options->memory == MEMTRACK_RESERVED ? MEMTRACK_RESERVED
                                                          : MEMTRACK_MALLOC;
    if (!context->meta && !on_card) /* before the ledger looks at what is free: it takes some */
        kernels_blas_start(context->run.threads);
    context->tracker = memtrack_create();
    if (!context->tracker)
        return -1;
    char why[CONTEXT_WHY];
    if (on_card && card_open_(context, options, why, sizeof why)) {
        char machine[CONTEXT_WHY];
        int missing = !options->meta && device_check(options->device, machine, sizeof machine);
        context->error = ERROR_STATE;
        snprintf(context->error_text, sizeof context->error_text, "device %.32s: %s", options->device,
                 missing ? machine : why);
        mode = MEMTRACK_META; /* nothing runs after the error */
    }
    if (!context->error && ranks_open_(context, options, why, sizeof why)) {
        context->error = ERROR_RANKS;
        snprintf(context->error_text, sizeof context->error_text, "%s", why);
        mode = MEMTRACK_META;
    }
    int data = on_card && !context->error && !options->meta;
    context->ledger = memtrack_ledger_create(
        context->tracker, &(MemLedgerOptions){.name = options->meta ? "meta"
                                                      : on_card     ? "cuda"
                                                                    : "cpu",
                                              .mode = mode,
                                              .capacity = options->capacity,
                                              .beside = options->beside,
                                              .device = data ? &context->card->memory : NULL});
    if (data && !context->ledger && mode == MEMTRACK_RESERVED)
        return card_is_full(context, options);
    context->tape = tape_create(context);
    return context->ledger && context->tape ? 0 : -1;
}

/* Raises the first error of a context whose device or library is missing. */
static void context_check(Context *context, const ContextOptions *options)
{
    char why[CONTEXT_WHY];
    if (context->card || context->error)
        return;
    context->error = (ErrorCode)device_check(options->device, why, sizeof why);
    if (context->error != ERROR_NONE)
        snprintf(context->error_text, sizeof context->error_text, "device %.32s: %s", options->device, why);
    else if (!context->meta && kernels_blas_error()) {
        context->error = ERROR_FILE;
        snprintf(context->error_text, sizeof context->error_text, "%s", kernels_blas_error());
    }
}

Context *context_create(const ContextOptions *options)
{
    static const ContextOptions defaults;
    Context *context = memtrack_host_calloc(NULL, sizeof *context);
    if (!context)
        return NULL;
    options = options ? options : &defaults;
    if (context_fill(context, options) != 0) {
        context_destroy(context);
        return NULL;
    }
    context_check(context, options);
    return context;
}

void context_destroy(Context *context)
{
    if (!context)
        return;
    if (context->tracker) {
        Context *outside = context_use(context);
        if (context->error)
            carry_leave_(context, 1);
        if (context->ledger && context->tape) {
            tape_cut(context->tape, 0);
            context->depth = SCOPE_MAX_DEPTH - 1;
            tensor_scope_end(0);
        }
        tape_destroy(context->tape);
        card_end_(context);
        card_unstage_(context);
        ranks_close_(context);
        memtrack_destroy(context->tracker);
        context_use(outside == context ? NULL : outside);
    }
    card_close_(context); /* it has given the card's memory back */
    memtrack_host_free(NULL, context, sizeof *context);
}

Context *context_use(Context *context)
{
    Context *before = current;
    current = context;
    if (context && context->card)
        cuda_use(&context->card->device); /* the driver has a current one a thread, too */
    return before;
}

Context *context_here(void)
{
    if (!current)
        current = context_create(NULL);
    return current;
}

Context *context_current(void)
{
    return context_here();
}

MemTracker *context_tracker(const Context *context)
{
    return context ? context->tracker : NULL;
}

MemLedger *context_ledger(const Context *context)
{
    return context ? context->ledger : NULL;
}

int context_is_meta(const Context *context)
{
    return context && context->meta;
}

int context_threads(const Context *context)
{
    return context ? context->run.threads : 0;
}

uint64_t context_seed(const Context *context)
{
    return context ? context->seed : 0;
}

double context_flops(const Context *context)
{
    return context ? context->flops : 0;
}

double tensor_step_loss(void)
{
    Context *context = context_here();
    if (context && context->card && context->card->unread)
        card_read_(context);
    return context ? context->step_loss : 0;
}

void *host_alloc(size_t bytes)
{
    Context *context = context_here();
    void *block = context ? memtrack_host_calloc(context->tracker, bytes) : NULL;
    if (!block)
        error_raise(ERROR_HOST_MEMORY, "out of host memory: %zu bytes were asked for", bytes);
    return block;
}

void *host_alloc_for(const char *maker, const char *what, size_t bytes)
{
    Context *context = context_here();
    void *block = context ? memtrack_host_alloc(context->tracker, bytes) : NULL;
    if (!block)
        error_raise(ERROR_HOST_MEMORY, "%s(): no host memory for %s (%zu bytes)", maker, what, bytes);
    return block;
}

void host_free(Context *context, void *block, size_t bytes)
{
    memtrack_host_free(context->tracker, block, bytes);
}

enum { SIZED_HEAD = 64 }; /* blocks stay aligned */

void *host_sized_alloc(size_t bytes, void *context)
{
    char *block = memtrack_host_alloc(((Context *)context)->tracker, bytes + SIZED_HEAD);
    if (!block)
        return NULL;
    memcpy(block, &bytes, sizeof bytes);
    return block + SIZED_HEAD;
}

void host_sized_free(void *block, void *context)
{
    size_t bytes;
    if (!block)
        return;
    char *start = (char *)block - SIZED_HEAD;
    memcpy(&bytes, start, sizeof bytes);
    host_free(context, start, bytes + SIZED_HEAD);
}

int host_later(size_t bytes)
{
    Context *context = context_here();
    if (context && context->meta)
        context->host_later += bytes;
    return context && context->meta;
}

int host_passing(size_t bytes)
{
    Context *context = context_here();
    if (context && context->meta && bytes > context->host_passing)
        context->host_passing = bytes;
    return context && context->meta;
}

void context_step_end(void)
{
    Context *context = context_here();
    if (!context)
        return;
    context->steps_done++;
    if (context->segment_hook.step)
        context->segment_hook.step(context->segment_hook.user);
}

void context_resume(Context *context, int64_t steps, const RandomState *random)
{
    context->steps_done = steps;
    memtrack_step_set(context->tracker, steps);
    context->random = *random;
}

void context_segment_end(Context *context)
{
    int64_t step = memtrack_step(context->tracker);
    int step_ended = context->steps_done > step;
    const SegmentHook *hook = &context->segment_hook;
    if (hook->segment && (step_ended || memtrack_stats(context->ledger)->step_hash))
        hook->segment(context, step_ended, hook->user);
    memtrack_step_set(context->tracker, context->steps_done);
}

void context_release_room(Context *context)
{
    if (context->error)
        carry_leave_(context, 1);
    card_end_(context);
}

void context_step_begin(Context *context)
{
    if (memtrack_phase(context->tracker) == MEM_PHASE_SETUP) {
        context_segment_end(context);
        memtrack_phase_set(context->tracker, MEM_PHASE_FORWARD);
    } else if (context->steps_done > memtrack_step(context->tracker)) {
        context_segment_end(context);
    }
}

void tensor_no_grad_begin(void)
{
    Context *context = context_here();
    if (!context || context->no_grad++ > 0)
        return;
    context_segment_end(context);
    context->phase_outside = memtrack_phase_set(context->tracker, MEM_PHASE_EVALUATE);
}

void tensor_no_grad_end(void)
{
    Context *context = context_here();
    if (!context || context->no_grad == 0) {
        error_raise(ERROR_STATE, "tensor_no_grad_end without tensor_no_grad_begin");
        return;
    }
    if (--context->no_grad > 0)
        return;
    context_segment_end(context);
    memtrack_phase_set(context->tracker, context->phase_outside);
}

int tensor_recording(void)
{
    const Context *context = context_here();
    return context && context->no_grad == 0;
}

void tensor_random_begin(int64_t step, int64_t first_sample)
{
    Context *context = context_here();
    if (!context)
        return;
    context->random.step = step;
    context->random.first_sample = first_sample;
    context->random.layer = 0;
}
