/* Data types: what an element is, and how many bytes an array of them has. Some types store an array in
 * blocks with scales; then bytes are those of codes and scales together, in one piece of memory (quant_layout
 * says where each part lies). */
#ifndef BRIM_DTYPE_H
#define BRIM_DTYPE_H

#include <stdint.h>

#include "api.h"
#include "base_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* id, name. Quantised, read-only types of matrices (out,in):
 * int8: a row's elements as q * scale / 127, scale = the row's largest magnitude (LLM.int8's weights);
 * nf4: 4-bit NormalFloat in blocks of 64 along the flattened matrix, a scale a block, and the scales
 * quantised once more to 8 bit in blocks of 256 (QLoRA: arXiv 2305.14314; bitsandbytes' layout and rounding);
 * nf4-plain: the same with scales in fp32. */
#define BRIM_DTYPES(X)                                                                                       \
    X(F32, "f32")                                                                                            \
    X(I32, "i32")                                                                                            \
    X(BF16, "bf16")                                                                                          \
    X(F16, "f16")                                                                                            \
    X(INT8, "int8")                                                                                          \
    X(NF4, "nf4")                                                                                            \
    X(NF4_PLAIN, "nf4-plain")

typedef enum DType {
#define X(id, name) DTYPE_##id,
    BRIM_DTYPES(X)
#undef X
        DTYPE_COUNT
} DType;

enum { NF4_BLOCK = 64, NF4_GROUP = 256 }; /* elements that share a scale; scales that share one */

BRIM_API const char *dtype_name(DType dtype); /* "bf16"; "unknown" for none of these */
/* Of a matrix (rows, cols), row-major; of any other array rows is 1, or whatever divides its elements. */
BRIM_API uint64_t dtype_bytes(DType dtype, int64_t rows, int64_t cols);
BRIM_API int dtype_is_quantized(DType dtype); /* int8, nf4, nf4-plain */

#ifdef __cplusplus
}
#endif
#endif
