/* device: cards by name, and what the engine asks of one. */
#ifndef BRIM_DEVICE_H
#define BRIM_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "../memtrack/memtrack.h"
#include "cuda.h"

/* The number of the card that "cuda" (0) or "cuda:N" names; -1 = it is no name of a card. */
int device_cuda_ordinal(const char *name);

/* The card of one of several ranks on a machine: the one that is named; of "cuda", the ranks take the cards
 * that this process may use (CUDA_VISIBLE_DEVICES) in turn. */
int device_rank_ordinal(const char *name, int node_rank);

/* The compute capability, times ten, that a plan for this device assumes: that of the card of this name;
 * without one (NULL), of this machine's card, or where there is none CUDA_NEWEST. -1 = no card has the name.
 */
int device_planned_capability(const char *device, const char *card);

/* Whether plans for cards of these capabilities are the same, to the byte, or refused alike. */
int device_plans_alike(int a, int b);

/* The memory of an open card, for a ledger. The card outlives it. */
MemDevice device_memory(CudaDevice *device);

/* A card's memory comes in such pieces. */
#define DEVICE_GRANULE ((uint64_t)2 << 20)

#endif
