/* Quantised matrices as bitsandbytes stores them: codes under the parameter's name, scales and what they are
 * scaled by in tensors beside it. */
#ifndef BRIM_QUANTIZED_INTERNAL_H
#define BRIM_QUANTIZED_INTERNAL_H

#include "../base/quant_layout_.h"
#include "safetensors_.h"

/* One matrix (rows, cols), where its parts lie in the mapped file; they need not be aligned. */
typedef struct QuantizedEntry {
    const Safetensors *file;
    DType dtype;
    int64_t rows, cols;
    QuantLayout layout;
    const unsigned char *codes;
    const unsigned char *scales;       /* float: int8's rows, nf4-plain's blocks; bytes: nf4's blocks */
    const unsigned char *group_scales; /* of nf4, float */
    float offset;
} QuantizedEntry;

/* Whether the tensor holds codes: 1, with all its parts found and checked; 0: it holds numbers; -1 after
 * raising ERROR_DATA (parts that are missing, or do not fit; formats that are not read). */
int quantized_find(const Safetensors *file, const SafetensorsEntry *entry, QuantizedEntry *q);
/* Whether this is the name of a part; *length: of the name of the matrix's tensor, without ".weight" where
 * the part's name has none either. */
int quantized_is_part(const char *name, size_t *length);
/* Elements of the flattened matrix. */
void quantized_decode(const QuantizedEntry *q, int64_t first, int64_t count, float *values);
/* The type of codes that a quantised parameter takes as they are. */
DType quantized_type(const Tensor *parameter);
/* Copies codes and scales to a matrix's memory as they are (quant_layout), or what this rank has of them. */
void quantized_copy(const QuantizedEntry *q, Tensor *to);

#endif
