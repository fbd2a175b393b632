/* Where tensors' elements lie, for tests and benchmarks, which look at them in place. The library and programs
 * that use it read and write them with tensor_read and tensor_write. */
#ifndef TEST_TENSOR_DATA_H
#define TEST_TENSOR_DATA_H

#include "../tensor/tensor_.h"

/* NULL while there is none, and on meta. */
static inline float *grad_f32(Tensor *tensor)
{
    return tensor_f32(tensor_grad(tensor));
}

#endif
