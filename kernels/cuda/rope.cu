/* Rotary positions, pairs (i, i + D/2); frequencies come from the host, where they are the CPU's to the last
 * bit. */
#include "packs.h"

#define KERNELS "rope_.cu"
#include "typed.h"
