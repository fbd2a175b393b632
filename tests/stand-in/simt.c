/* Fibers that stand for a block's threads. A fiber runs one thread after another until one has to wait; so a
 * kernel without barriers costs a call a thread, and one with barriers a switch (some ns) a thread and
 * barrier. */
#include "simt.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define WITH_ASAN 1
#endif
#if defined(SIMT_TSAN)
void *__tsan_create_fiber(unsigned flags);
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *);
void __tsan_release(void *);
#endif
#if defined(SIMT_UCONTEXT) || !(defined(__x86_64__))
#include <ucontext.h>
#define WITH_UCONTEXT 1
#endif

#define MAX_THREADS 1024
#define STACK       ((size_t)64 << 10)
#define STRIDE      (STACK + 5 * 64) /* not a power of two: all stacks would share the same lines of the cache */
SimtDim simt_thread, simt_block, simt_block_size, simt_grid_size;
unsigned long long simt_switches, simt_threads_run;
extern unsigned char __start_simt_shared[] __attribute__((weak)), __stop_simt_shared[] __attribute__((weak));

typedef struct Fiber {
#ifdef WITH_UCONTEXT
    ucontext_t context;
#else
    void *sp;
#endif
    unsigned char *stack;
    unsigned thread; /* runs this one */
    unsigned parity; /* of its next collective */
    int line;        /* of the barrier it waits at */
    void *fake, *tsan;
} Fiber;

typedef struct Warp {
    unsigned arrived, lanes, left;
    unsigned slot[2][32][8];
    Fiber *waiting[32];
    float folded[2];
    char edge; /* address for happens-before */
} Warp;

static Fiber fibers[MAX_THREADS], scheduler, *current;
static Fiber *idle[MAX_THREADS], *ready[MAX_THREADS * 2], *barrier[MAX_THREADS];
static unsigned idle_count, ready_head, ready_tail, barrier_count, threads, started, finished, made;
static Warp warps[MAX_THREADS / 32];
static const SimtKernel *kernel;
static const void *arguments;
static char error_text[256];
/* happens-before: from the launch to a thread, from a thread to what comes after, and through a barrier (by
 * turns) */
static char begins __attribute__((unused)), ends __attribute__((unused)), meets[2] __attribute__((unused));
static unsigned meeting;
static const SimtKernel *kernels;

void simt_register(SimtKernel *k)
{
    k->next = kernels;
    kernels = k;
}
const SimtKernel *simt_find(const char *name)
{
    for (const SimtKernel *k = kernels; k; k = k->next)
        if (!strcmp(k->name, name))
            return k;
    return NULL;
}
const char *simt_error(void)
{
    return error_text;
}

#ifndef WITH_UCONTEXT
void simt_swap(void **from, void *to);
__asm__(".text\n.globl simt_swap\n.type simt_swap,@function\nsimt_swap:\n"
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

static void switch_to(Fiber *to)
{
    Fiber *from = current;
    if (to == from)
        return;
    simt_switches++;
    current = to;
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->stack ? STACK : 0);
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(to->tsan, 1); /* 1: a switch orders nothing */
#endif
#ifdef WITH_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    simt_swap(&from->sp, to->sp);
#endif
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
    if (from != &scheduler)
        set_thread(from->thread);
}

static void fiber_main(void);
static Fiber *fresh(void)
{
    if (idle_count)
        return idle[--idle_count];
    Fiber *f = &fibers[made++];
    if (!f->stack) {
        static unsigned char *stacks;
        if (!stacks)
            stacks = mmap(NULL, STRIDE * MAX_THREADS, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED)
            abort();
        f->stack = stacks + STRIDE * (size_t)(f - fibers);
#ifdef WITH_UCONTEXT
        getcontext(&f->context);
        f->context.uc_stack.ss_sp = f->stack;
        f->context.uc_stack.ss_size = STACK;
        f->context.uc_link = NULL;
        makecontext(&f->context, fiber_main, 0);
#else
        void **top = (void **)(f->stack + STACK) - 2; /* ret leaves rsp = 8 mod 16, as after a call */
        *top = (void *)fiber_main;
        f->sp = top - 6;
        memset(f->sp, 0, 6 * sizeof(void *));
#endif
    }
    return f;
}

static void rest(void) /* whoever can go on */
{
    if (ready_head != ready_tail)
        switch_to(ready[ready_head++ % (MAX_THREADS * 2)]);
    else if (started < threads)
        switch_to(fresh());
    else
        switch_to(&scheduler);
}

static void release_barrier(void)
{
    for (unsigned i = 0; i < barrier_count; i++)
        ready[ready_tail++ % (MAX_THREADS * 2)] = barrier[i];
    barrier_count = 0;
    meeting++;
}

static void fiber_main(void)
{
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
    for (;;) {
        while (started < threads) {
            Fiber *self = current;
            self->thread = started++;
            self->parity = 0;
            set_thread(self->thread);
#ifdef SIMT_TSAN
            __tsan_acquire(&begins);
#endif
            kernel->run(arguments);
#ifdef SIMT_TSAN
            __tsan_release(&ends);
#endif
            finished++;
            warps[self->thread / 32].left++;
            /* As on a GPU: who has left counts as arrived. */
            if (barrier_count && barrier_count + finished == threads)
                release_barrier();
#ifdef SIMT_TSAN
            break; /* one thread a fiber, so that each has its own clock */
#endif
        }
#ifndef SIMT_TSAN
        idle[idle_count++] = current;
#endif
        rest();
    }
}

void simt_block_sync(int line)
{
    Fiber *self = current;
    self->line = line;
    if (barrier_count && barrier[0]->line != line && !error_text[0])
        snprintf(error_text, sizeof error_text,
                 "%s: threads of a block meet at different barriers, lines %d and %d", kernel->name,
                 barrier[0]->line, line);
    unsigned turn __attribute__((unused)) = meeting & 1;
#ifdef SIMT_TSAN
    __tsan_release(&meets[turn]);
#endif
    if (barrier_count + 1 + finished == threads) {
        release_barrier();
        ready[ready_tail++ % (MAX_THREADS * 2)] = self;
    } else {
        barrier[barrier_count++] = self;
    }
    rest();
#ifdef SIMT_TSAN
    __tsan_acquire(&meets[turn]);
#endif
}

/* Hands a lane's words in; back with everybody's in slot[parity]. Nobody can be two collectives ahead. */
static void fold(Warp *w, unsigned parity, int max)
{
    float v[32];
    for (int i = 0; i < 32; i++)
        memcpy(&v[i], w->slot[parity][i], 4);
    for (int n = 16; n > 0; n >>= 1)
        for (int i = 0; i < n; i++)
            v[i] = max ? fmaxf(v[i], v[i + n]) : v[i] + v[i + n];
    w->folded[parity] = v[0];
}
static unsigned (*collect(const unsigned *words, int count, int folds))[8]
{
    Fiber *self = current;
    unsigned lane = self->thread % 32, parity = self->parity;
    Warp *w = &warps[self->thread / 32];
    self->parity ^= 1;
    for (int i = 0; i < count; i++)
        w->slot[parity][lane][i] = words[i];
#ifdef SIMT_TSAN
    __tsan_release(&w->edge);
#endif
    w->waiting[w->arrived++] = self;
    if (w->lanes != 32 && !error_text[0])
        snprintf(error_text, sizeof error_text, "%s: a collective of a warp that is not full", kernel->name);
    if (w->arrived == w->lanes) {
        if (folds)
            fold(w, parity, folds - 1);
        for (unsigned i = 0; i < w->lanes; i++)
            ready[ready_tail++ % (MAX_THREADS * 2)] = w->waiting[i];
        w->arrived = 0;
    }
    rest();
#ifdef SIMT_TSAN
    __tsan_acquire(&w->edge);
#endif
    return w->slot[parity];
}

void simt_warp_sync(void)
{
    collect(NULL, 0, 0);
}
float simt_warp_xor(float v, int lanes)
{
    unsigned word, (*slot)[8];
    unsigned lane = current->thread % 32;
    memcpy(&word, &v, 4);
    slot = collect(&word, 1, 0);
    memcpy(&v, slot[(lane ^ (unsigned)lanes) & 31], 4);
    return v;
}
float simt_warp_fold(float v, int max)
{
    unsigned word, parity = current->parity;
    Warp *w = &warps[current->thread / 32];
    memcpy(&word, &v, 4);
    collect(&word, 1, 1 + max);
    return w->folded[parity];
}
float simt_warp_from(float v, int lane)
{
    unsigned word, (*slot)[8];
    memcpy(&word, &v, 4);
    slot = collect(&word, 1, 0);
    memcpy(&v, slot[lane & 31], 4);
    return v;
}
static float half_of(unsigned word, int high)
{
    unsigned u = high ? word & 0xffff0000u : word << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
void simt_mma_bf16(float c[4], const unsigned a[4], const unsigned b[2])
{
    unsigned lane = current->thread % 32, g = lane / 4, t = lane % 4;
    unsigned words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]}, (*slot)[8] = collect(words, 6, 0);
    for (int r = 0; r < 4; r++) {
        unsigned row = g + (unsigned)(r / 2) * 8, col = t * 2 + (unsigned)(r % 2);
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            unsigned pair = k % 8 / 2;
            float x = half_of(slot[row % 8 * 4 + pair][row / 8 + k / 8 * 2], k % 2);
            float y = half_of(slot[col * 4 + pair][4 + k / 8], k % 2);
            sum += x * y;
        }
        c[r] += sum;
    }
}

static int run_block(void)
{
    for (volatile uint64_t *p = (volatile uint64_t *)__start_simt_shared;
         p && p + 1 <= (volatile uint64_t *)__stop_simt_shared; p++)
        *p = ~(uint64_t)0; /* NaN: shared memory that nobody wrote */
#ifdef SIMT_TSAN
    __tsan_acquire(&ends);
    __tsan_release(&begins);
#endif
    started = finished = ready_head = ready_tail = barrier_count = 0;
#ifdef SIMT_TSAN
    made = 0;
#endif
    for (unsigned w = 0; w < (threads + 31) / 32; w++) {
        warps[w].arrived = warps[w].left = 0;
        warps[w].lanes = threads - w * 32 < 32 ? threads - w * 32 : 32;
    }
    while (finished < threads) {
        unsigned before = finished, began = started;
    rest_again:
        if (ready_head != ready_tail)
            switch_to(ready[ready_head++ % (MAX_THREADS * 2)]);
        else if (started < threads)
            switch_to(fresh());
        if (finished == before && started == began && ready_head == ready_tail) {
            if (!error_text[0])
                snprintf(error_text, sizeof error_text,
                         "%s: a GPU would hang: %u of %u threads done, %u wait at a barrier", kernel->name,
                         finished, threads, barrier_count);
            return -1;
        }
        if (ready_head != ready_tail)
            goto rest_again;
    }
    return 0;
}

int simt_launch(const SimtKernel *k, SimtDim grid, SimtDim block, const void *args)
{
    kernel = k;
    arguments = args;
    simt_block_size = block;
    simt_grid_size = grid;
    threads = block.x * block.y * block.z;
    error_text[0] = 0;
    current = &scheduler;
#ifdef SIMT_TSAN
    if (!scheduler.tsan)
        scheduler.tsan = __tsan_get_current_fiber();
    for (unsigned i = 0; i < threads; i++) /* now: a fiber knows what its maker has done so far */
        if (!fibers[i].tsan)
            fibers[i].tsan = __tsan_create_fiber(0);
#endif
    simt_threads_run += (unsigned long long)threads * grid.x * grid.y * grid.z;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                simt_block = (SimtDim){x, y, z};
                if (run_block())
                    return -1;
            }
#ifdef SIMT_TSAN
    __tsan_acquire(&ends);
#endif
    return error_text[0] ? -1 : 0;
}
