/* Fibers that stand for the threads of a block. A fiber runs one thread after another until one has to wait:
 * a kernel without barriers costs a call for each thread, one with barriers a switch (some ns) for each
 * thread and barrier. */
#include "simt_.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/* A stride that is no power of two: otherwise all stacks share the same lines of the cache. A sanitizer's
 * frames are large. */
#ifdef SIMT_ASAN
#define STACK ((size_t)256 << 10)
#else
#define STACK ((size_t)64 << 10)
#endif
#define STRIDE      (STACK + 5 * 64)
#define DYNAMIC_MAX ((size_t)256 << 10)

enum { READY = SIMT_THREADS * 2 };

SimtDim simt_thread, simt_block, simt_block_size, simt_grid_size;
unsigned long long simt_switches, simt_threads_run;
unsigned char *simt_shared_dynamic;
Fiber *simt_current;
Warp simt_warps[SIMT_THREADS / SIMT_LANES];

static Fiber fibers[SIMT_THREADS], scheduler;
static Fiber *idle[SIMT_THREADS], *ready[READY], *barrier[SIMT_THREADS];
static unsigned made, idle_count, ready_head, ready_tail, barrier_count;
static unsigned threads, started, finished; /* of the block */
static int reversed;
static SimtKernel *kernels;
static const SimtKernel *kernel;
static const void *arguments;
static char message[512];

/* For the thread sanitizer: a launch comes before its threads, which come before what follows it; a barrier
 * orders those who meet, in turns so that two barriers in a row are not one. A switch by itself orders
 * nothing. */
static char begins, ends, meets[2];
static unsigned meetings;

/* ---- Kernels and messages ---- */

void simt_register(SimtKernel *k)
{
    k->next = kernels;
    kernels = k;
}

const SimtKernel *simt_find(const char *name)
{
    const SimtKernel *k = kernels;
    while (k && strcmp(k->name, name))
        k = k->next;
    return k;
}

const char *simt_error(void)
{
    return message;
}

void simt_complain(const char *format, ...)
{
    va_list rest;
    if (message[0])
        return;
    int length = snprintf(message, sizeof message, "%s: ", kernel->name);
    va_start(rest, format);
    vsnprintf(message + length, sizeof message - (size_t)length, format, rest);
    va_end(rest);
}

void simt_same_place(const char *what, const char *one, const char *other)
{
    if (one != other && strcmp(one, other) != 0)
        simt_complain("%s meet at different places, %s and %s", what, one, other);
}

void simt_where(char *text, size_t size)
{
    snprintf(text, size, "%s, block (%u,%u,%u), thread (%u,%u,%u)", kernel ? kernel->name : "?", simt_block.x,
             simt_block.y, simt_block.z, simt_thread.x, simt_thread.y, simt_thread.z);
}

void simt_reverse(int on)
{
    reversed = on;
}

/* ---- Switching ---- */

#ifndef SIMT_WITH_UCONTEXT
void simt_swap(void **from, void *to);
__asm__(".text\n.globl simt_swap\n.hidden simt_swap\n.type simt_swap,@function\nsimt_swap:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size simt_swap,.-simt_swap\n");
#endif

static void set_thread(unsigned t)
{
    if (simt_block_size.x == threads) {
        simt_thread = (SimtDim){t, 0, 0};
        return;
    }
    simt_thread.x = t % simt_block_size.x;
    simt_thread.y = t / simt_block_size.x % simt_block_size.y;
    simt_thread.z = t / simt_block_size.x / simt_block_size.y;
}

#ifdef SIMT_ASAN
/* The bounds of the stack that all this runs on are known once it was left. */
static Fiber *came_from;
static const void *host_stack;
static size_t host_stack_size;

static void leave_stack(Fiber *from, const Fiber *to)
{
    came_from = from;
    __sanitizer_start_switch_fiber(&from->fake, to->stack ? to->stack : host_stack,
                                   to->stack ? STACK : host_stack_size);
}

static void enter_stack(void *fake)
{
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(fake, &bottom, &size);
    if (came_from == &scheduler) {
        host_stack = bottom;
        host_stack_size = size;
    }
}
#else
#define leave_stack(from, to) ((void)0)
#define enter_stack(fake)     ((void)0)
#endif

static void switch_to(Fiber *to)
{
    Fiber *from = simt_current;
    if (to == from)
        return;
    simt_switches++;
    simt_current = to;
    leave_stack(from, to);
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(to->tsan, 1); /* 1: orders nothing */
#endif
#ifdef SIMT_WITH_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    simt_swap(&from->stack_pointer, to->stack_pointer);
#endif
    enter_stack(from->fake);
    if (from != &scheduler)
        set_thread(from->thread);
}

static void fiber_main(void);

static void prepare(Fiber *f)
{
    static unsigned char *stacks;
    if (!stacks)
        stacks = mmap(NULL, STRIDE * SIMT_THREADS, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED)
        abort();
    f->stack = stacks + STRIDE * (size_t)(f - fibers);
#ifdef SIMT_WITH_UCONTEXT
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
#else
    void **top = (void **)(void *)(f->stack + STACK) - 2; /* `ret` leaves 8 modulo 16, as a call does */
    *top = (void *)(uintptr_t)fiber_main;
    f->stack_pointer = memset(top - 6, 0, 6 * sizeof(void *));
#endif
}

static Fiber *fresh(void)
{
    if (idle_count)
        return idle[--idle_count];
    Fiber *f = &fibers[made++];
    if (!f->stack)
        prepare(f);
    return f;
}

void simt_make_ready(Fiber *fiber)
{
    ready[ready_tail++ % READY] = fiber;
}

void simt_rest(void)
{
    if (ready_head != ready_tail)
        switch_to(ready[ready_head++ % READY]);
    else if (started < threads)
        switch_to(fresh());
    else
        switch_to(&scheduler);
}

/* ---- Threads and barriers ---- */

static void release_barrier(void)
{
    for (unsigned i = 0; i < barrier_count; i++)
        simt_make_ready(barrier[i]);
    barrier_count = 0;
    meetings++;
}

static void run_thread(Fiber *self)
{
    self->thread = reversed ? threads - 1 - started : started;
    started++;
    self->parity = 0;
    set_thread(self->thread);
    __tsan_acquire(&begins);
    kernel->run(arguments);
    __tsan_release(&ends);
    finished++;
    /* As on a card: who has left counts as arrived. */
    if (barrier_count && barrier_count + finished == threads)
        release_barrier();
}

static void fiber_main(void)
{
    enter_stack(NULL);
    for (;;) {
#ifdef SIMT_TSAN /* a thread for each fiber, so that each has a clock of its own */
        run_thread(simt_current);
#else
        while (started < threads)
            run_thread(simt_current);
        idle[idle_count++] = simt_current;
#endif
        simt_rest();
    }
}

void simt_block_sync(const char *here)
{
    Fiber *self = simt_current;
    char *edge = &meets[meetings & 1];
    self->here = here;
    if (barrier_count)
        simt_same_place("threads of a block", barrier[0]->here, here);
    __tsan_release(edge);
    barrier[barrier_count++] = self;
    if (barrier_count + finished == threads)
        release_barrier();
    simt_rest();
    __tsan_acquire(edge);
}

/* ---- Blocks ---- */

/* All ones: NaN, and an index far out. Not by memset: a sanitizer's would find its own gaps between arrays.
 */
static void make_garbage(unsigned char *first, const unsigned char *after)
{
    volatile uint64_t *words = (volatile uint64_t *)(void *)first;
    size_t bytes = (size_t)(after - first);
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        words[i] = ~(uint64_t)0;
    for (size_t i = bytes / sizeof *words * sizeof *words; i < bytes; i++)
        ((volatile unsigned char *)first)[i] = 0xff;
}

static void begin_block(unsigned dynamic)
{
    make_garbage(kernel->shared_first, kernel->shared_after);
    make_garbage(simt_shared_dynamic, simt_shared_dynamic + dynamic);
    __tsan_acquire(&ends);
    __tsan_release(&begins);
    started = finished = ready_head = ready_tail = barrier_count = 0;
#ifdef SIMT_TSAN
    made = 0;
#endif
    for (unsigned w = 0; w * SIMT_LANES < threads; w++) {
        unsigned left = threads - w * SIMT_LANES;
        simt_warps[w].arrived = 0;
        simt_warps[w].lanes = left < SIMT_LANES ? left : SIMT_LANES;
    }
}

static void complain_of_hang(void)
{
    char text[256] = "";
    int length = 0;
    if (barrier_count)
        length =
            snprintf(text, sizeof text, "; %u wait at the barrier of %s", barrier_count, barrier[0]->here);
    for (unsigned w = 0; w * SIMT_LANES < threads; w++)
        if (simt_warps[w].arrived) {
            snprintf(text + length, sizeof text - (size_t)length,
                     "; %u lanes of warp %u wait for the others at %s", simt_warps[w].arrived, w,
                     simt_warps[w].waiting[0]->here);
            break;
        }
    simt_complain("a card would hang: of %u threads of block (%u,%u,%u) %u are done%s", threads, simt_block.x,
                  simt_block.y, simt_block.z, finished, text);
}

void simt_abandon(void)
{
    for (unsigned i = 0; i < SIMT_THREADS; i++) {
        if (!fibers[i].stack)
            continue;
#ifdef SIMT_ASAN
        __asan_unpoison_memory_region(fibers[i].stack, STACK);
#endif
        prepare(&fibers[i]);
        fibers[i].fake = NULL;
    }
    made = idle_count = 0;
    simt_current = &scheduler;
}

static int run_block(unsigned dynamic)
{
    begin_block(dynamic);
    switch_to(fresh());
    if (finished == threads)
        return 0;
    complain_of_hang();
    simt_abandon();
    return -1;
}

/* A sanitizer sees the first byte behind it by itself; otherwise a page without rights follows. */
static int take_dynamic(unsigned dynamic)
{
#ifdef SIMT_ASAN
    free(simt_shared_dynamic);
    simt_shared_dynamic = aligned_alloc(16, dynamic ? (dynamic + 15) / 16 * 16 : 16);
    if (simt_shared_dynamic)
        __asan_poison_memory_region(simt_shared_dynamic + dynamic, dynamic ? (16 - dynamic % 16) % 16 : 16);
    return simt_shared_dynamic ? 0 : -1;
#else
    static unsigned char *area;
    if (!area) {
        area = mmap(NULL, DYNAMIC_MAX + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area == MAP_FAILED || mprotect(area + DYNAMIC_MAX, 4096, PROT_NONE))
            abort();
    }
    if (dynamic > DYNAMIC_MAX)
        return -1;
    simt_shared_dynamic = area + DYNAMIC_MAX - (dynamic + 15) / 16 * 16;
    return 0;
#endif
}

static SimtDim block_of(uint64_t number, uint64_t count, SimtDim grid)
{
    uint64_t n = reversed ? count - 1 - number : number;
    return (SimtDim){(unsigned)(n % grid.x), (unsigned)(n / grid.x % grid.y),
                     (unsigned)(n / grid.x / grid.y)};
}

int simt_launch(const SimtKernel *k, SimtDim grid, SimtDim block, unsigned dynamic, const void *args)
{
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    kernel = k;
    arguments = args;
    simt_block_size = block;
    simt_grid_size = grid;
    threads = block.x * block.y * block.z;
    message[0] = 0;
    simt_current = &scheduler;
    if (take_dynamic(dynamic))
        return simt_complain("%u bytes of dynamic shared memory", dynamic), -1;
#ifdef SIMT_TSAN
    if (!scheduler.tsan)
        scheduler.tsan = __tsan_get_current_fiber();
    for (unsigned i = 0; i < threads; i++) /* now, since a fiber knows what its maker has done so far */
        if (!fibers[i].tsan)
            fibers[i].tsan = __tsan_create_fiber(0);
#endif
    simt_threads_run += threads * blocks;
    for (uint64_t n = 0; n < blocks; n++) {
        simt_block = block_of(n, blocks, grid);
        if (run_block(dynamic) || message[0])
            return -1;
    }
    __tsan_acquire(&ends);
    return 0;
}
