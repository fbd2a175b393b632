/* Where tensors' elements lie, for tests and benchmarks, which look at them in place. The library and
 * programs that use it read and write them with tensor_read and tensor_write. */
#ifndef TEST_TENSOR_DATA_H
#define TEST_TENSOR_DATA_H

#include "../tensor/tensor_.h"

/* NULL on meta and for NULL; NULL with an error for another type, and when the data was donated or released.
 */
static inline float *tensor_f32(Tensor *tensor)
{
    return tensor_typed_data(tensor, DTYPE_F32, "tensor_f32");
}

static inline int32_t *tensor_i32(Tensor *tensor)
{
    return tensor_typed_data(tensor, DTYPE_I32, "tensor_i32");
}

/* Of whatever type. */
static inline void *tensor_data(Tensor *tensor)
{
    return tensor ? tensor_typed_data(tensor, tensor->dtype, "tensor_data") : NULL;
}

/* NULL while there is none. */
static inline float *grad_f32(Tensor *tensor)
{
    return tensor_f32(tensor_grad(tensor));
}

#endif
