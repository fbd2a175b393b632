/* What a kind of dataset (text, images, a table) tells the loader: how many samples there are, what shape
 * they have, and how to write one. Everything else (order, epochs, micro-batches, the cursor) is the loader's
 * and the same for all. */
#ifndef BRIM_LOADER_INTERNAL_H
#define BRIM_LOADER_INTERNAL_H

#include "../tensor/tensor_.h"
#include "data.h"

/* Which sample, and what its random choices are keyed by: nothing else, so that batching does not change
 * them. */
typedef struct SampleKey {
    int64_t sample, epoch;
    uint64_t seed;
} SampleKey;

/* Where a sample is written. All NULL: only its labels are counted. */
typedef struct SampleRow {
    int32_t *ids;    /* (seq) */
    float *features; /* (width) */
    int32_t *labels; /* (seq), or (1) beside features */
} SampleRow;

typedef struct DatasetKind {
    /* Returns how many of the sample's labels count (are not BATCH_IGNORE). */
    int64_t (*fill)(const void *dataset, SampleKey key, SampleRow row);
    void (*destroy)(Context *context, void *dataset);
} DatasetKind;

typedef struct LoaderSetup {
    const char *maker; /* the public function, for messages; static */
    const DatasetKind *kind;
    int64_t samples; /* 1.. */
    int64_t classes;
    int64_t seq;   /* tokens: ids and labels (B,seq); 0 = features */
    int64_t width; /* features (B,width), labels (B); 0 = tokens */
    int batch, accumulate;
    uint64_t seed;
    int shuffle; /* also: random choices differ from epoch to epoch */
} LoaderSetup;

/* Takes the dataset over, also on failure. */
Loader *loader_create(const LoaderSetup *setup, void *dataset);
/* Puts defaults in place of 0; raises ERROR_ARGUMENT and returns 0 when one is negative. */
int loader_options(const char *maker, int *batch, int default_batch, int *accumulate, int64_t max_samples);
/* Host memory for `what`, indeterminate; raises ERROR_HOST_MEMORY and returns NULL without. Free with
 * host_free. */
void *loader_alloc(const char *maker, const char *what, size_t bytes);

/* Streams of the seed: the last word of the Philox counter. */
#define STREAM_SHUFFLE 0x73687566u /* "shuf" */
#define STREAM_MASK    0x6D61736Bu /* "mask" */

/* A file opened for reading, or -1 with an error raised: missing, a directory, not a file. Fills its size. */
int file_open(const char *maker, const char *path, int64_t *bytes);
/* Reads [from, from + bytes), which the file's size promised. Returns an error code. */
int file_read(const char *maker, int file, const char *path, int64_t from, uint8_t *target, size_t bytes);

/* ---- IDX files (idx.c) ----------------------------------------------------------------------- */

/* Bytes read from an IDX file: dim[0] items of dim[1] * dim[2] bytes (1 for labels). */
typedef struct IdxArray {
    uint8_t *values; /* NULL when only the header was read */
    size_t bytes;    /* allocated */
    int64_t count, rows, columns;
} IdxArray;

/* Reads the header and the first `keep` items (negative: all, and then the file must end there; 0: none).
 * `path` may lack the .gz the file has. Returns 0, or an error code with *array empty. */
int idx_read(const char *path, int dimensions, int64_t keep, IdxArray *array);
void idx_free(Context *context, IdxArray *array);

#endif
