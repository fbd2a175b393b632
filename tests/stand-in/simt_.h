/* What simt.c and warp.c share: the fibers of a block, and the meetings of its warps. */
#ifndef BRIM_SIMT__H
#define BRIM_SIMT__H

#include "simt.h"

#if defined(SIMT_UCONTEXT) || !defined(__x86_64__)
#include <ucontext.h>
#define SIMT_WITH_UCONTEXT 1
#endif

/* The Makefile says which sanitizer the kernels have; these two files have none, since they move stacks. */
#ifdef SIMT_TSAN
void *__tsan_create_fiber(unsigned flags);
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *at);
void __tsan_release(void *at);
#else
#define __tsan_acquire(at) ((void)(at))
#define __tsan_release(at) ((void)(at))
#endif

enum { SIMT_THREADS = 1024 };

typedef struct Fiber {
#ifdef SIMT_WITH_UCONTEXT
    ucontext_t context;
#else
    void *stack_pointer;
#endif
    unsigned char *stack;
    unsigned thread;  /* that it runs */
    unsigned parity;  /* of its next collective */
    const char *here; /* the barrier or collective that it waits at */
    void *fake, *tsan;
} Fiber;

/* Nobody can be two collectives ahead of a lane of his warp: two sets of words are enough. */
typedef struct Warp {
    unsigned arrived, lanes;
    SimtWords words[2][SIMT_LANES];
    Fiber *waiting[SIMT_LANES];
    union {
        float f32;
        double f64;
    } folded[2];
    char edge; /* its address: what a collective orders, for the thread sanitizer */
} Warp;

extern Fiber *simt_current;
extern Warp simt_warps[SIMT_THREADS / SIMT_LANES];
void simt_make_ready(Fiber *fiber);
/* Runs others until somebody made this fiber ready. */
void simt_rest(void);
/* Keeps the first message of a launch. */
__attribute__((format(printf, 1, 2))) void simt_complain(const char *format, ...);
/* Those who meet are at the same place. */
void simt_same_place(const char *what, const char *one, const char *other);

#endif
