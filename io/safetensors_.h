/* Between safetensors' reader and writer. */
#ifndef BRIM_SAFETENSORS_INTERNAL_H
#define BRIM_SAFETENSORS_INTERNAL_H

#include "file_.h"
#include "safetensors.h"

/* Elements and bytes of a shape; -1 when a dimension is negative or a product overflows. A type that exists.
 */
int safetensors_bytes(SafetensorsType type, int ndim, const int64_t *dim, int64_t *numel, uint64_t *bytes);

/* safetensors_write, and what the file then holds; sum: zeroed, or NULL. */
int safetensors_write_sum(const char *path, const SafetensorsItem *items, int count, FileSum *sum);

#endif
