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
 * nf4-plain: the same with scales in fp32.
 * And of the states of 8-bit optimizers (arXiv 2110.02861; bitsandbytes' layout), arrays of any shape, read
 * and written by updates alone: an element is a code of the dynamic type, in blocks of 256 with a scale in
 * fp32; dynamic8 is signed, dynamic8-unsigned is not. */
#define BRIM_DTYPES(X)                                                                                       \
    X(F32, "f32")                                                                                            \
    X(I32, "i32")                                                                                            \
    X(BF16, "bf16")                                                                                          \
    X(F16, "f16")                                                                                            \
    X(INT8, "int8")                                                                                          \
    X(NF4, "nf4")                                                                                            \
    X(NF4_PLAIN, "nf4-plain")                                                                                \
    X(DYNAMIC8, "dynamic8")                                                                                  \
    X(UDYNAMIC8, "dynamic8-unsigned")

typedef enum DType {
#define X(id, name) DTYPE_##id,
    BRIM_DTYPES(X)
#undef X
        DTYPE_COUNT
} DType;

enum {
    NF4_BLOCK = 64,  /* elements that share a scale */
    NF4_GROUP = 256, /* scales that share one */
    DYNAMIC8_BLOCK = 256
};

BRIM_API const char *dtype_name(DType dtype); /* "bf16"; "unknown" for none of these */
/* Of a matrix (rows, cols), row-major; of any other array rows is 1, or whatever divides its elements. */
BRIM_API uint64_t dtype_bytes(DType dtype, int64_t rows, int64_t cols);
BRIM_API int dtype_is_float(DType dtype);     /* f32, bf16, f16 */
BRIM_API int dtype_is_quantized(DType dtype); /* int8, nf4, nf4-plain */
BRIM_API int dtype_is_dynamic8(DType dtype);  /* dynamic8, dynamic8-unsigned */

#ifdef __cplusplus
}
#endif
#endif
