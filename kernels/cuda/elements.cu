/* Element-wise operations. */
#define KERNELS "elements_.cu"
#include "typed.h"
