/* Shapes: validity, comparison, and their text in messages. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "../base/quant_layout_.h"
#include "tensor_.h"

int64_t shape_numel(Shape shape)
{
    int64_t n = 1;
    for (int i = 0; i < shape.ndim; i++)
        n *= shape.dim[i];
    return n;
}

int shape_valid(Shape shape, const char *what)
{
    if (shape.ndim < 1 || shape.ndim > TENSOR_MAX_DIMS) {
        error_raise(ERROR_SHAPE, "%s: %d dimensions; 1 to %d are possible", what, shape.ndim,
                    TENSOR_MAX_DIMS);
        return 0;
    }
    int64_t n = 1;
    for (int i = 0; i < shape.ndim; i++) {
        if (shape.dim[i] < 1 || shape.dim[i] > INT_MAX) {
            error_raise(ERROR_SHAPE, "%s: dimension %d is %" PRId64 "; 1 to %d is possible", what, i,
                        shape.dim[i], INT_MAX);
            return 0;
        }
        if (n > (INT64_MAX >> 6) / shape.dim[i]) {
            error_raise(ERROR_SHAPE, "%s: shape %s has too many elements to address", what,
                        shape_text(shape).text);
            return 0;
        }
        n *= shape.dim[i];
    }
    return 1;
}

int shape_equal(Shape a, Shape b)
{
    if (a.ndim != b.ndim)
        return 0;
    for (int i = 0; i < a.ndim; i++)
        if (a.dim[i] != b.dim[i])
            return 0;
    return 1;
}

ShapeText shape_text(Shape shape)
{
    ShapeText out = {"("};
    size_t used = 1;
    for (int i = 0; i < shape.ndim && i < TENSOR_MAX_DIMS && used < sizeof out.text; i++)
        used += (size_t)snprintf(out.text + used, sizeof out.text - used, i ? ",%" PRId64 : "%" PRId64,
                                 shape.dim[i]);
    if (used < sizeof out.text - 1)
        snprintf(out.text + used, sizeof out.text - used, ")");
    return out;
}

uint64_t shape_bytes(DType dtype, Shape shape)
{
    int64_t cols = shape.ndim > 0 ? shape.dim[shape.ndim - 1] : 1;
    if (shape.ndim == 3 && dtype_is_quantized(dtype)) /* a matrix after the other */
        return (uint64_t)shape.dim[0] * quant_stride(dtype, shape.dim[1], cols);
    return dtype_bytes(dtype, cols > 0 ? shape_numel(shape) / cols : 0, cols);
}
