/* A CUDA runtime and cuBLAS that only keep books. Preloaded, they let unmodified PyTorch believe in a card:
 * its own dispatch, autograd and caching allocator run, kernels do nothing, and device memory is addresses
 * that nobody may touch. What is not written here returns success (build makes that part from PyTorch's own
 * libraries).
 *
 * The environment says what the card is, at each call: STAND_IN_SM (90), STAND_IN_PROCESSORS (132),
 * STAND_IN_MIB, STAND_IN_CONTEXT (MiB that the context takes), STAND_IN_DEVICES (1); STAND_IN_READ is the
 * byte that each read of device memory gives; STAND_IN_LOG=1 prints what is taken from the card and given
 * back. */
#ifndef PYTORCH_STAND_IN_H
#define PYTORCH_STAND_IN_H

#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#undef cudaGetDeviceProperties
#undef cudaStreamGetCaptureInfo
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* A number from the environment. */
static inline long setting(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

int on_card(const void *address);
void *new_handle(void);
int current_device(void);
void set_error(cudaError_t error);

/* A kernel may have written anything: what the host wrote is not known any more. */
void forget_writes(void);
enum { MOST_WRITTEN = 1 << 15 }; /* bytes of one that is kept: DDP compares the shapes of all parameters */
void keep_write(uint64_t address, const void *from, size_t bytes);
int read_write(void *to, uint64_t address, size_t bytes); /* 1 where it is known */

/* Books of the card: 0, or 2 (out of memory) when it has less left. */
int books_take(uint64_t bytes);
void books_give(uint64_t bytes, int device);
uint64_t card_bytes(void);
uint64_t reserve_addresses(uint64_t bytes);

#endif
