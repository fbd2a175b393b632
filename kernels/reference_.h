/* The reference kernels, one a line of table.h, where they are described: reference_products.c,
 * reference_attention.c, reference_ops.c and reference_quantize.c hold them, reference.c puts them into a
 * table. Plain loops, one thread, sums in double. */
#ifndef BRIM_REFERENCE__H
#define BRIM_REFERENCE__H

#include "kernels/kernels.h"

#define KERNEL(type, kernel, arguments) type reference_##kernel arguments;
#include "kernels/table.h"

/* Element i of the flattened array. */
float reference_element(const StoredArray *w, int64_t i);
/* A block of a dynamic 8-bit type, and its scale. */
void reference_dynamic8_block(DType dtype, int64_t n, const float *x, unsigned char *to, float *scale);

#endif
