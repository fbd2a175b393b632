/* What the tests of parameters that are stored in 16 bit or quantised share: their types, their values as
 * floats, and what encoding makes of floats. */
#ifndef TEST_STORED_SUPPORT_H
#define TEST_STORED_SUPPORT_H

#include "../base/half_.h"
#include "../base/quant_layout_.h"
#include "../tensor/ops_.h"
#include "weights_support.h"

static const DType kinds[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};

static inline float *decoded(Tensor *t)
{
    float *values = test_malloc((size_t)tensor_numel(t) * sizeof *values);
    tensor_decode_(t, 0, tensor_numel(t), values);
    return values;
}

/* What encoding these floats whole makes of them. */
static inline void assert_encodes(const char *what, Tensor *t, const float *x)
{
    const Context *context = context_current();
    StoredArray a = tensor_stored_(t);
    size_t bytes = (size_t)dtype_bytes(a.dtype, a.rows, a.cols);
    QuantLayout layout = quant_layout(a.dtype, a.rows, a.cols);
    unsigned char *expected = test_calloc(bytes, 1);
    float *scales = test_malloc((size_t)layout.blocks * sizeof *scales), *y = decoded(t), *z = decoded(t);
    context->kernels->encode(a.dtype, a.rows, a.cols, 0, a.rows * a.cols, x, expected, scales, &context->run);
    if (a.dtype == DTYPE_NF4)
        context->kernels->encode_scales(layout.blocks, scales, 0, layout.blocks, a.rows * a.cols, expected,
                                        &context->run);
    a.at = expected;
    context->kernels->decode(&a, 0, a.rows * a.cols, z, &context->run);
    if (memcmp(y, z, (size_t)(a.rows * a.cols) * sizeof *y))
        fail_msg("%s of %s: values differ", what, dtype_name(a.dtype));
    test_free(expected);
    test_free(scales);
    test_free(y);
    test_free(z);
}

static inline float *turned(const float *x, int64_t rows, int64_t cols)
{
    float *y = test_malloc((size_t)(rows * cols) * sizeof *y);
    for (int64_t i = 0; i < rows * cols; i++)
        y[i] = x[i % cols * rows + i / cols];
    return y;
}

#endif
