/* Between safetensors' reader and writer. */
#ifndef BRIM_SAFETENSORS_INTERNAL_H
#define BRIM_SAFETENSORS_INTERNAL_H

#include "../tensor/tensor_.h"
#include "../base/file_.h"
#include "safetensors.h"

enum {
    HEADER_MOST = 16 << 20, /* some 100 000 tensors; a parsed header takes a small multiple of it */
    SHARDS_MOST = 4096
};

#define SAFETENSORS_SINGLE "model.safetensors"
#define SAFETENSORS_INDEX  "model.safetensors.index.json"

typedef struct SafetensorsPart {
    const unsigned char *bytes; /* mapped */
    size_t size;
    char *names; /* of its tensors and, first, its own base name */
    size_t names_size;
} SafetensorsPart;

struct Safetensors {
    ScopeItem item;
    SafetensorsPart *parts;
    int part_count, part_room;
    SafetensorsEntry *entries;
    int count;
    const SafetensorsEntry **by_name;
};

/* Adds the tensors of a mapped file to s->entries, each within the file. shown, base: its name in messages,
 * and without a directory. 0 or raises. (safetensors_header.c) */
int safetensors_read_header(Safetensors *s, SafetensorsPart *part, const char *shown, const char *base);
/* Raises "FILE: the tensor "NAME" …". */
int safetensors_bad(const char *shown, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int safetensors_type_bytes(SafetensorsType type); /* of an element */
/* Of two tensors; afterwards their pages need not be resident. */
int safetensors_same_bytes(const Safetensors *s, const SafetensorsEntry *a, const SafetensorsEntry *b);

/* Reads numbers into the first elements of a tensor of any type of floats (tensor_store_): into fp32 where
 * they lie, else through a planned buffer, on meta too. Elements behind those of the entry stay. */
int safetensors_read_tensor(const Safetensors *file, const SafetensorsEntry *entry, Tensor *to);
/* Elements of an entry, those that this rank has. */
typedef struct EntryPart {
    const Tensor *as;     /* they lie in the entry as the elements of this parameter do (tensor_place_); NULL:
                             side     by side */
    int64_t first, count; /* of what this rank has of those; count only where they are copied */
    int64_t block;        /* of which each stands for so many; 0 = 1 */
    int64_t skip;         /* of the parameter's elements, that lie before those of the entry */
} EntryPart;

/* The same of a tensor whose elements are those from part.first on. */
int safetensors_read_as(const Safetensors *file, const SafetensorsEntry *entry, EntryPart part, Tensor *to);
/* The part's bytes as they are, from byte `at` of the tensor on. Returns error_code(). */
int safetensors_copy_as(const Safetensors *file, const SafetensorsEntry *entry, EntryPart part, Tensor *to,
                        uint64_t at);
/* The pages of bytes that were read need not stay resident. */
void safetensors_forget(const Safetensors *s, const void *from, size_t bytes);
/* Elements [first, first + count) of safetensors_read. */
int safetensors_read_part(const Safetensors *s, const SafetensorsEntry *entry, int64_t first, int64_t count,
                          float *to);

/* Elements and bytes of a shape; -1 when a dimension is negative or a product overflows. A type that exists.
 */
int safetensors_bytes(SafetensorsType type, int ndim, const int64_t *dim, int64_t *numel, uint64_t *bytes);

/* A tensor as it is in files (tensor_whole_shape_). */
SafetensorsItem safetensors_item(const char *name, SafetensorsType type, const Tensor *tensor);
/* Elements and bytes of an item, whose data need not be there. 0, or raises ERROR_DATA for one that cannot
 * be. */
int safetensors_item_bytes(const char *shown, const SafetensorsItem *item, int64_t *numel, uint64_t *bytes);
int safetensors_bad_item(const char *shown, const SafetensorsItem *item, const char *what);

/* The bytes of the file that these items make, from their names, types and shapes alone: on meta too. Returns
 * 0 after raising. */
uint64_t safetensors_file_bytes(const char *shown, const SafetensorsItem *items, int count);
/* safetensors_write up to file_finish: the file has its temporary name, at rank 0 (file_publish,
 * file_discard). sums: of the header, then of each tensor in the order of the file, count + 1 that are
 * zeroed; or NULL.
 *
 * All ranks write the file together, each what it has of what is divided; rank 0 the header and everything
 * else. So all of them call this, with the same names and shapes, also after an error, which is then
 * everybody's. sums are those of the whole file on every rank. The bytes do not depend on the number of
 * ranks. alone: this process writes all of it. */
int safetensors_write_temporary(const char *path, const SafetensorsItem *items, int count, FileSum *sums,
                                int alone);

/* ---- The weights of a directory (safetensors_shards.c) ---------------------------------------- */

/* One file, or shards and their index, on their way into a directory. */
typedef struct Shards {
    const char *directory;
    char shown[FILE_LABEL]; /* the directory */
    const SafetensorsItem *items;
    int count, shards;
    int alone;              /* as of safetensors_write_temporary */
    int *shard;             /* of each item, from 0 */
    SafetensorsItem *taken; /* those of one shard; room for all */
    uint64_t total;
} Shards;

/* Writes and syncs everything under temporary names; most: bytes of a shard, 0 = SAFETENSORS_SHARD. 0, or
 * raises and leaves nothing. All ranks write together, unless alone. */
int shards_write(Shards *s, const char *directory, const SafetensorsItem *items, int count, uint64_t most,
                 int alone);
/* Gives the files their names, in an order in which a reader finds the old weights, the new ones or none, and
 * removes what an earlier writing left. 0 or raises. Of several ranks, the first one does it. */
int shards_publish(const Shards *s);
void shards_abandon(const Shards *s); /* the temporary files, as far as there are any */
void shards_free(Shards *s);
/* Whether this is a name that shards_publish gives: model.safetensors, a shard, the index. */
int is_weights_name(const char *name);

#endif
