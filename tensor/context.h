/* context: what a thread's tensors, modules and optimizers share: the tape, the scopes, the ledger of the
 * device, the random state and the first error. Each thread has a current one. Objects stay in the context
 * they were made in. Planning uses a context of its own, in which no data exists. */
#ifndef BRIM_CONTEXT_H
#define BRIM_CONTEXT_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"
#include "../memtrack/memtrack.h"
#include "tensor_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Context Context;

typedef struct ContextOptions {
    int meta;            /* 1: plan only: no data, no kernels */
    MemMode memory;      /* of a context with data: MEMTRACK_MALLOC or MEMTRACK_RESERVED (0 means MALLOC) */
    uint64_t capacity;   /* RESERVED: bytes; otherwise a limit, 0 = none */
    uint64_t beside;     /* RESERVED: bytes that must be free beyond it, see MemLedgerOptions */
    int threads;         /* 0 = all processors this process may use; at most 128 */
    uint64_t seed;       /* of initialisation and dropout */
    const char *kernels; /* NULL = the fastest; "reference", "base", "avx2", "avx512", "avx512-bf16" */
    const char *device;  /* NULL = "cpu"; "cuda", "cuda:0" */
    int no_graphs; /* on cuda: each kernel is started by itself. 0: with memory RESERVED, kernels that come
                    * again in the same order are started by the driver's graphs, which take some of the
                    * card's memory (context_device_use); a graph never changes a result */
    const struct Ranks *ranks; /* which of several ranks this is, read at once; NULL = alone */
    int accumulate_apart; /* 1: the gradient of each backward of a step is a buffer of its own, which is then
                           * added to the step's; 0: kernels add to what is there. It takes one more gradient,
                           * of the largest parameter, and has the order of sums of several ranks with a
                           * backward each. Of ranks that divide the data zero2 and zero3 always do it, and
                           * the others cannot */
    const char *card; /* of a plan on cuda, which needs no card: the one that it is for (`brim gpus` lists
                       * them); NULL = this machine's, or where it has none a new one */
} ContextOptions;

/* Whether contexts can be on a device of this name (NULL = "cpu"): ERROR_NONE; ERROR_STATE when this build or
 * machine lacks what it needs, ERROR_ARGUMENT when there is no such device. why: what is missing and what
 * works instead, "" without error. */
BRIM_API int device_check(const char *name, char *why, size_t size);

/* NULL when memory is out. A new context is not current until context_use. It has an error from the beginning
 * when its device cannot be used, or BRIM_BLAS names no usable library. One with data tells the BLAS library,
 * which the program itself may use, to take one thread (OpenBLAS and BLIS: for the whole process); for
 * products of your own set that again while brim computes nothing. */
BRIM_API Context *context_create(const ContextOptions *options);
/* Frees everything made in it. If it was current, no context is. NULL is fine. */
BRIM_API void context_destroy(Context *context);
/* Makes it this thread's current context; returns the one before (NULL if none). */
BRIM_API Context *context_use(Context *context);
/* The thread's current context; made on demand with default options. NULL only without memory. */
BRIM_API Context *context_current(void);
/* What it was created with, or made. */
BRIM_API MemTracker *context_tracker(const Context *context);
BRIM_API MemLedger *context_ledger(const Context *context);
BRIM_API int context_is_meta(const Context *context);
BRIM_API int context_threads(const Context *context);
/* Threads of a context that is not told how many: this machine's, divided among the ranks on it. In a plan,
 * whose ranks are on no machine yet, all of them are. */
BRIM_API int context_default_threads(const struct Ranks *ranks);
/* After ranks_join, of ranks on cards: who carries what their tensors send. transport: "nccl", from card to
 * card, one for each rank; "mpi", through the host's memory; NULL: NCCL where it can be, and then why says
 * what it is, or why it is not that. device: "cuda", "cuda:1", the same on all ranks, which all call it. 0,
 * or an error code, and on all ranks the same sentence in why. */
BRIM_API int context_join_cards(struct Ranks *ranks, const char *device, const char *transport, char *why,
                                size_t why_size);
BRIM_API uint64_t context_seed(const Context *context);
/* Floating-point operations of the products run (on meta: that would run) so far. */
BRIM_API double context_flops(const Context *context);

#ifdef __cplusplus
}
#endif
#endif
