/* safetensors: tensors in a file that others wrote or will read (github.com/huggingface/safetensors): eight
 * bytes of length, a JSON header, then the tensors' bytes, little-endian, one after the other.
 *
 * A file is mapped read-only, checked whole, and read in place: no tensor is copied to be looked at. What a
 * header claims is believed only as far as the file bears it out. docs/weights.md says what is refused.
 */
#ifndef BRIM_SAFETENSORS_H
#define BRIM_SAFETENSORS_H

#include "../tensor/tensor.h"
#include "io_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The name in files, bytes an element. */
#define SAFETENSORS_TYPES(X)                                                                                 \
    X(F32, 4)                                                                                                \
    X(F16, 2)                                                                                                \
    X(BF16, 2)                                                                                               \
    X(F64, 8)                                                                                                \
    X(I64, 8)                                                                                                \
    X(I32, 4)                                                                                                \
    X(I16, 2)                                                                                                \
    X(I8, 1)                                                                                                 \
    X(U64, 8)                                                                                                \
    X(U32, 4)                                                                                                \
    X(U16, 2)                                                                                                \
    X(U8, 1)                                                                                                 \
    X(BOOL, 1)                                                                                               \
    X(F8_E4M3, 1)                                                                                            \
    X(F8_E5M2, 1)

typedef enum SafetensorsType {
#define X(id, bytes) SAFETENSORS_##id,
    SAFETENSORS_TYPES(X)
#undef X
        SAFETENSORS_TYPE_COUNT
} SafetensorsType;

/* "BF16"; "unknown" out of range. */
BRIM_API const char *safetensors_type_name(SafetensorsType type);
/* By name, in either case ("bf16"); -1 if there is none. */
BRIM_API int safetensors_type_of(const char *name);

#define SAFETENSORS_MAX_DIMS 8

/* A tensor in a mapped file. Valid until the file is closed. */
typedef struct SafetensorsEntry {
    const char *name;
    const char *file; /* base name of the file that holds it */
    SafetensorsType type;
    int ndim; /* 0: a single element */
    int64_t dim[SAFETENSORS_MAX_DIMS];
    int64_t numel; /* may be 0 */
    uint64_t bytes;
    const void *data; /* as stored; not always aligned */
} SafetensorsEntry;

typedef struct Safetensors Safetensors;

/* Opens a .safetensors file; an index of several (model.safetensors.index.json, whose files lie beside it);
 * or a directory with model.safetensors or such an index. NULL after ERROR_FILE (cannot be read), ERROR_DATA
 * (is no such file: the message names file and tensor) or ERROR_HOST_MEMORY. Owned by the current scope. */
BRIM_API Safetensors *safetensors_open(const char *path);
BRIM_API void safetensors_close(Safetensors *file);      /* NULL is fine */
BRIM_API int safetensors_count(const Safetensors *file); /* tensors, of all its files */
/* File by file, in the order of their bytes; NULL out of range. */
BRIM_API const SafetensorsEntry *safetensors_at(const Safetensors *file, int i);
BRIM_API const SafetensorsEntry *safetensors_find(const Safetensors *file, const char *name); /* or NULL */

/* The elements where they lie, if they are F32 and aligned; else NULL, without an error. */
BRIM_API const float *safetensors_f32(const SafetensorsEntry *entry);
/* Copies an F32, F16 or BF16 tensor to numel floats, and forgets the pages that it read. Another type is
 * ERROR_DATA. Returns 0 or the error. */
BRIM_API int safetensors_read(const Safetensors *file, const SafetensorsEntry *entry, float *to);

/* A tensor to be written. */
typedef struct SafetensorsItem {
    const char *name; /* UTF-8 */
    SafetensorsType type;
    int ndim;
    int64_t dim[SAFETENSORS_MAX_DIMS];
    const void
        *data; /* floats for F32, F16 and BF16, which are rounded to nearest even; else elements of type */
    const Tensor *tensor; /* instead of data: the same, wherever it lies; for F32, F16 and BF16 of any type
                             with numbers, which are decoded */
    uint64_t from;        /* of the tensor: where the bytes are that are written as they are; 0 = as above */
    const Tensor *like;   /* the tensor is what this rank has of an array that is divided as this parameter;
                             the data are those of whoever has its beginning. NULL = all of it */
    int64_t first;        /* of the tensor's elements, where the item is some of them, one after the other */
    int turned;           /* a tensor of F32 with two dimensions, whose columns are the file's rows */
} SafetensorsItem;

/* Writes a file that does not depend on the order of the items: by size of element, the largest first, then
 * by name. It is written under a temporary name beside it ("PATH.tmp-PID"), synced and renamed: after any
 * error the file that was there is whole. ERROR_FILE; ERROR_DATA for a name that occurs twice or is not
 * UTF-8; ERROR_NONFINITE for a finite number that the type cannot hold (beyond 65504 in F16);
 * ERROR_HOST_MEMORY. */
BRIM_API int safetensors_write(const char *path, const SafetensorsItem *items, int count);

/* Bytes of tensors in a shard where nothing else is asked for: save_pretrained's max_shard_size in
 * transformers 5 (50GB; 5GB in 4). */
#define SAFETENSORS_SHARD UINT64_C(50000000000)

/* Writes DIRECTORY/model.safetensors or, when the tensors have more than `shard` bytes (0 =
 * SAFETENSORS_SHARD), DIRECTORY/model-00001-of-0000N.safetensors, … and model.safetensors.index.json, as
 * save_pretrained does: in the order of the items, a tensor larger than a shard in a file of its own. What
 * the directory held of an earlier such writing goes: no reader finds old and new mixed. All files are
 * written and synced under temporary names first; up to there an error leaves what was there whole. Errors as
 * of safetensors_write; ERROR_ARGUMENT for more than 4096 shards. */
BRIM_API int safetensors_write_shards(const char *directory, const SafetensorsItem *items, int count,
                                      uint64_t shard);

#ifdef __cplusplus
}
#endif
#endif
