/* What a kind of dataset (text, images, a table) tells the loader: how many samples there are, what shape
 * they have, and how to write one. Everything else (order, epochs, micro-batches, the cursor) is the loader's
 * and the same for all. */
#ifndef BRIM_LOADER_INTERNAL_H
#define BRIM_LOADER_INTERNAL_H

#include "../base/file_.h"
#include "../text/input_.h"
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
    int32_t *labels; /* (seq), or (1) beside features and in a setup that is one_label */
    int32_t *mask;   /* (seq) where the setup is padded */
    int32_t *types;  /* (seq) where it has types */
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
    int one_label; /* of tokens: labels (B) */
    int padded;    /* of tokens: a mask (B,seq), 0 where there is padding */
    int types;     /* of tokens: types (B,seq) */
    int batch, accumulate;
    uint64_t seed;
    int shuffle; /* samples to train on. Also: random choices differ from epoch to epoch; ranks share them */
    int64_t tokens; /* of the whole file, both parts; 0 for what is no text */
    TextNote note;
} LoaderSetup;

/* Takes the dataset over, also on failure. */
Loader *loader_create(const LoaderSetup *setup, void *dataset);
/* Puts defaults in place of 0; raises ERROR_ARGUMENT and returns 0 when one is negative. */
int loader_options(const char *maker, int *batch, int default_batch, int *accumulate, int64_t max_samples);
/* Streams of the seed: the last word of the Philox counter. */
#define STREAM_SHUFFLE 0x73687566u /* "shuf" */
#define STREAM_MASK    0x6D61736Bu /* "mask" */

/* ---- Texts (text.c, tokens.c) ---------------------------------------------------------------- */

/* A part of a text, as bytes or as ids of 2, 4 or 8 bytes, little-endian. */
typedef struct TextSet {
    const void *tokens; /* of sequences first … first + samples - 1, and the token after; NULL on meta */
    int width;          /* bytes a token: 1, 2, 4, 8 */
    void *block;        /* what text.c gives back */
    size_t size;
    TextInput *input; /* the same, of what it has read by itself */
    int64_t first;    /* index of this part's first sequence in the whole text: what masks are keyed by */
    int64_t stride;   /* tokens from one sequence to the next */
    int64_t seq;
    float mask_probability;     /* 0: plain */
    int64_t limit;              /* ids of a file must be below; 0 = they are known to be */
    int64_t vocab;              /* how many ids random replacements are drawn from */
    int32_t *known;             /* which ids these are; NULL = 0 to vocab - 1 */
    int32_t cls, sep, mask;     /* masked: ids */
    struct TokenSource *source; /* where tokens.c has the ids from */
} TextSet;

/* How a text is cut. Plain: seq tokens and the one after. Masked: seq - 2 tokens between [CLS] and [SEP]. */
typedef struct TextCut {
    const char *maker, *unit;      /* "data_text", "byte" */
    int64_t length, stride, extra; /* n sequences need n * stride + extra tokens */
    int64_t first, samples;        /* of the part asked for */
} TextCut;

/* 1, or 0 with an error raised. */
int text_options_valid(const char *maker, const char *path, const TextOptions *options);
/* 1, or 0 with an error raised: a pipe, which a plan would empty before the run. */
int text_is_readable_twice(const char *path);
/* Of `total` samples those of the part asked for, the held-out ones behind the others; a count of 0: there
 * are too few to hold one out. Returns an error code. */
typedef struct TextPart {
    int64_t first, count;
} TextPart;
int text_part(const char *maker, const TextOptions *options, int64_t total, TextPart *part);
/* Fills first and samples. Returns an error code. */
int text_cut(const char *path, const TextOptions *options, TextCut *cut);
/* What to say of the file of such a set's ids; "" without one. (tokens.c) */
const char *token_source_name(const struct TokenSource *source);
int64_t text_fill_plain(const void *dataset, SampleKey key, SampleRow row);
int64_t text_fill_masked(const void *dataset, SampleKey key, SampleRow row);

/* Counts one more sample of so many tokens, from this line. (pairs.c) */
void lengths_add(DataLengths *lengths, int64_t tokens, int64_t line, int64_t most);

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
