/* Tests of kernels give a card arrays of the host's: a stand-in may read them, a real card only what is
 * registered with its driver. Used where BRIM_TEST_CARD=real (tests/gpu/run). */
#ifndef BRIM_TESTS_CARD_REACH_H
#define BRIM_TESTS_CARD_REACH_H

#include <stddef.h>

struct CudaDevice;

int card_is_real(void); /* BRIM_TEST_CARD=real */
/* Behind cuda_open: registers stack, heap and data of this program, and makes every launch, product and copy
 * wait for its end, so that a test calls a card's kernels as it calls the CPU's. Returns NULL, or what
 * failed. */
const char *card_reach(struct CudaDevice *device);
/* Memory that a test maps by itself: registered, and no more. Nothing where no card is real. */
void card_reach_add(void *start, size_t bytes);
void card_reach_drop(void *start);

#endif
