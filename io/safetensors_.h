/* Between safetensors' reader and writer. */
#ifndef BRIM_SAFETENSORS_INTERNAL_H
#define BRIM_SAFETENSORS_INTERNAL_H

#include "safetensors.h"

/* Elements and bytes of a shape; -1 when a dimension is negative or a product overflows. A type that exists.
 */
int safetensors_bytes(SafetensorsType type, int ndim, const int64_t *dim, int64_t *numel, uint64_t *bytes);

#endif
