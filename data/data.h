/* data: datasets, byte tokens, and loaders that yield micro-batches.
 *
 * A loader yields steps; a step is `accumulate` micro-batches, after which data_next returns NULL once:
 *     for (const Batch *b; (b = data_next(loader)); ) tensor_backward(nn_loss(model, b));
 * Samples are shuffled by seed anew each epoch: the order is a function of seed, epoch and number of samples
 * (a keyed permutation, which takes no memory and no time at the start), the same everywhere. The last
 * micro-batch of an epoch may be short, and the last step of an epoch may have fewer micro-batches. On a meta
 * context, loaders open the file, read headers and counts, and yield the same shapes without data. Datasets
 * live in host memory (or are mapped), outside the tracked peak. Loaders belong to the current scope.
 */
#ifndef BRIM_DATA_H
#define BRIM_DATA_H

#include "../tensor/batch.h"
#include "../tensor/tensor.h"
#include "../text/input.h"
#include "data_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Loader Loader;

/* Which order that is. 1 was that of brim 0.1: a shuffled array. */
enum { DATA_ORDER = 2 };

/* The training part or the held-out part of a dataset. */
typedef enum DataSplit { DATA_TRAIN, DATA_HELD_OUT } DataSplit;

typedef struct TextOptions {
    int batch;      /* micro-batch; 0 = 8 */
    int seq;        /* 0 = 128; masked: 3 or more */
    int accumulate; /* micro-batches a step; 0 = 1 */
    uint64_t seed;  /* of shuffling and masking */
    DataSplit split;
    float held_out;         /* fraction of sequences at the end of the text; 0 = 0.05; negative = none */
    float mask_probability; /* > 0: masked language modelling (BERT): 0.15 usual. 80 % [MASK], 10 % random, 10
                               % kept; labels only where chosen, at least one a sample */
    int64_t max_samples;    /* use only the first this many sequences of the part asked for; 0 = all (1 with
                               batch 1    overfits one batch) */
    int64_t corpus_bytes;   /* builtin: size of the text to generate; 0 = 1 MiB */
    const TextInput *input; /* the text, read before; the path is its name. It must outlive the loader */
} TextOptions;

/* Byte tokens: 0..255; masked data add TOKEN_PAD, TOKEN_CLS, TOKEN_SEP, TOKEN_MASK (vocabulary 260). */
enum { TOKEN_PAD = 256, TOKEN_CLS = 257, TOKEN_SEP = 258, TOKEN_MASK = 259, TOKEN_VOCAB = 260 };

/* Sequences of `seq` bytes from a text file, or "builtin" for the generated corpus ("./builtin" is a file). A
 * gzip file, a directory and several files are read as text_input_read does it, each time; a pipe must be
 * read before and given as .input, because a plan reads it, too. Any bytes will do; data_note says what they
 * are. Plain: sequence s is bytes [s*seq, s*seq + seq), labels the next byte. Masked: ids are [CLS], the next
 * seq
 * - 2 bytes, [SEP]; what is masked depends on seed, sample and epoch, not on batching, and stays the same in
 * the held-out part. Only the training part is shuffled. options may be NULL. NULL with an error when the
 * file is missing, empty, or shorter than one sequence in either part asked for. */
BRIM_API Loader *data_text(const char *path, const TextOptions *options);

typedef struct TokenOptions { /* what TextOptions has is the same here, counted in tokens */
    int batch, seq, accumulate;
    uint64_t seed;
    DataSplit split;
    float held_out, mask_probability;
    int64_t max_samples;
    struct Tokenizer
        *tokenizer; /* the path is a text, which it turns into ids; NULL: the path is a .bin of ids */
    int64_t vocab;  /* with a tokenizer 0: its own. A .bin has two bytes an id up to 65536, else four */
    int width;      /* of a .bin's ids in bytes: 2 or 4; 0 = by vocab */
    int32_t cls, sep,
        mask;       /* masked: ids; all 0 with a tokenizer: its [CLS], [SEP], [MASK] or <s>, </s>, <mask> */
    int64_t tokens; /* of the text, where they have been counted: a meta context does not count again */
    const TextInput *input; /* with a tokenizer: as in TextOptions */
    int replace_invalid; /* with a tokenizer: U+FFFD in place of what is not UTF-8; else that is an error */
} TokenOptions;

/* Sequences of `seq` tokens, cut, split, shuffled and masked as in data_text. A .bin is ids and nothing else,
 * little-endian; it is mapped, not read, and must not become shorter. Before, it is looked at: what is
 * another kind of file, big-endian, or has ids that the vocabulary does not have, is refused (the last
 * outside meta, for the training part: of a file of more than 256 MiB in its ends and in 1,000 pages
 * between); ids of 4 and 8 bytes and headers of llm.c are recognised, where width is 0, and read with a note.
 * Later, a batch with such an id is an error that names file, index and value. Of masked data, replacements
 * are drawn from the ids that tokens of the tokenizer have, else from the vocabulary. A text is made into ids
 * once, as one string without special tokens around it, and kept in host memory (two or four bytes a token)
 * by all loaders of the tokenizer, which must be one of this context; it may go before them. */
BRIM_API Loader *data_tokens(const char *path, const TokenOptions *options);
/* How long samples are, for those who pad each batch to its longest. Tokens are those of whole samples, with
 * what a tokenizer puts around a text. */
typedef struct DataLengths {
    int64_t samples, shortest, longest;
    int64_t line;   /* of the first of the longest, from 1 */
    int64_t longer; /* samples of more tokens than were asked about */
    int texts;      /* some are texts; else all are ids */
} DataLengths;

/* How long the samples of a file are, each; belongs to no context. */
typedef struct PairsLengths PairsLengths;

typedef struct PairsOptions { /* what TextOptions has is the same here, counted in samples */
    int batch, accumulate;
    int seq; /* the most places of a row: a sample of n tokens takes n - 1. 0 = as many as the longest */
    uint64_t seed;
    DataSplit split;
    float held_out;
    int64_t max_samples;         /* lines of the part asked for */
    int pack;                    /* several samples a row, none of them cut to fit */
    struct Tokenizer *tokenizer; /* of the texts; NULL: they are bytes */
    int64_t vocab;               /* ids must be below; 0 = the tokenizer's, or 256 */
    const char *eos; /* the token that ends a completion; NULL = "</s>" or "<|endoftext|>", the first that the
                        tokenizer has; "" = none */
    const TextInput *input;      /* as in TextOptions */
    int replace_invalid;         /* U+FFFD in place of what is not UTF-8; else that is an error */
    const PairsLengths *lengths; /* of this file, with this tokenizer and at most this vocab: a meta context
                                    reads nothing */
} PairsOptions;

/* Samples to fine-tune a causal model on, from JSON lines, of two forms: {"prompt": "…", "completion": "…"},
 * or {"ids": [...], "labels": [...]} ("input_ids" is "ids" too; labels as in transformers: one an id, -100
 * counts nothing; without them all count). Prompt and completion are made into tokens as one text, with what
 * the tokenizer puts before and after a text, and eos behind the completion, unless they stand there already.
 * Labels have the tokens of the completion: those from the first on that the prompt alone does not have.
 *
 * A row is a sample, or with pack as many whole ones as go into it, in their order in the file. All rows are
 * as long as the longest, so that they have one shape; what is left is id 0 without a label. Attention is
 * causal: no token sees the padding behind it, and no mask is needed; but packed, a sample sees those before
 * it in its row. A sample that is longer than a row is cut at its end, one that has then no label is left
 * out; data_note says how many. The last lines are held out, and only the rows of the training part are
 * shuffled.
 *
 * A plan reads and tokenizes the file to know its lengths, and the run the part that it needs again. NULL
 * with ERROR_DATA (file, line and field), ERROR_FILE, ERROR_HOST_MEMORY. */
BRIM_API Loader *data_pairs(const char *path, const PairsOptions *options);
/* Reads the whole file for PairsOptions.lengths, so that only the first of many plans has to. Free it after
 * the last one; NULL is fine. NULL with an error as data_pairs. */
BRIM_API PairsLengths *data_pairs_lengths(const char *path, const PairsOptions *options);
BRIM_API void data_pairs_lengths_free(PairsLengths *lengths);
/* Of the first max_samples, 0: of all; and how many have more tokens than `most`, which 0 does not ask. */
BRIM_API DataLengths data_pairs_summary(const PairsLengths *lengths, int64_t max_samples, int64_t most);

/* What the classes of a table are called; belongs to no context. */
typedef struct DataLabels DataLabels;
/* How long its samples are, and of which class; belongs to no context. */
typedef struct CsvSamples CsvSamples;

typedef struct CsvOptions { /* what TextOptions has is the same here, counted in samples */
    int batch, seq, accumulate;
    uint64_t seed;
    DataSplit split;
    float held_out;
    int64_t max_samples;
    struct Tokenizer *tokenizer; /* of the texts; NULL: they are bytes between TOKEN_CLS and TOKEN_SEP */
    int64_t vocab;               /* ids must be below; 0 = the tokenizer's, or TOKEN_VOCAB */
    int64_t classes;             /* of a model that is a classifier already; 0 = those of the file */
    const char *const *labels;   /* with classes: what they are called; NULL: they have no names */
    const DataLabels *known;     /* of this file, with these two; NULL = they are read */
    const TextInput *input;      /* as in TextOptions */
    int replace_invalid;         /* U+FFFD in place of what is not UTF-8; else that is an error */
    const CsvSamples *samples;   /* of this file, with `known` and this tokenizer: a meta context reads
                                    nothing, and others read the file once less */
} CsvOptions;

/* Texts and their labels, from a table (RFC 4180; of a .tsv tabs separate fields) whose first line names its
 * columns: text, sentence or sentence1; label; and sentence2, where a sample is two texts. Other columns are
 * not read. ids (B,seq) are what the tokenizer makes of a text, with what it puts around one or between two;
 * what is longer than seq is cut at its end, of two texts the longer one; what is shorter is padded, and mask
 * (B,seq) is 0 there. types (B,seq) are there where the tokenizer gives the second text another one. labels
 * (B) are classes: numbers as they are, names in the order of their bytes, or what a model that is a
 * classifier already calls them.
 *
 * "builtin" is for plans: samples of so many classes, which a run has not. The last lines are held out. A
 * plan reads the whole file, for the number of samples and classes is a shape. NULL with ERROR_DATA (file and
 * line), ERROR_FILE, ERROR_HOST_MEMORY. */
BRIM_API Loader *data_csv(const char *path, const CsvOptions *options);
/* The classes alone, for the model that is to learn them, and for CsvOptions.known. Of the options classes,
 * labels, input and replace_invalid count. Free it after the last loader; NULL is fine. */
BRIM_API DataLabels *data_csv_labels(const char *path, const CsvOptions *options);
BRIM_API void data_labels_free(DataLabels *labels);
BRIM_API int64_t data_labels_count(const DataLabels *labels);
BRIM_API const char *data_labels_name(const DataLabels *labels, int64_t i); /* NULL: a number is its name */
/* All of them, of classes that have names; valid as long as the labels. */
BRIM_API const char *const *data_labels_names(const DataLabels *labels);
/* Reads the whole file for CsvOptions.samples, so that only the first of many plans has to. Free it after the
 * last one; NULL is fine. */
BRIM_API CsvSamples *data_csv_samples(const char *path, const CsvOptions *options);
BRIM_API void data_csv_samples_free(CsvSamples *samples);
/* How long they are uncut, as data_pairs_summary. */
BRIM_API DataLengths data_csv_summary(const CsvSamples *samples, int64_t max_samples, int64_t most);

/* Reads all ids of a .bin, whatever its size, as the beginning of data_tokens does it; progress, if there is
 * one, hears now and then how many of how many bytes are done. Returns an error code. */
typedef void DataProgress(int64_t done, int64_t all, void *user);
BRIM_API int data_check_tokens(const char *path, const TokenOptions *options, DataProgress *progress,
                               void *user);
/* Of the whole file, both parts and what is left over; 0 for other loaders. */
BRIM_API int64_t data_token_count(const Loader *loader);
/* What a user should know of the data, in a sentence: what kind of file it is, what is read otherwise than it
 * stands there. "" = nothing. The loader's. */
BRIM_API const char *data_note(const Loader *loader);

typedef struct ImageOptions {
    int batch;      /* 0 = 128 */
    int accumulate; /* 0 = 1 */
    uint64_t seed;
    DataSplit split;     /* HELD_OUT reads the t10k files */
    int64_t max_samples; /* 0 = all */
} ImageOptions;

/* IDX images and labels (plain or .gz) of the MNIST family in a directory (train-images-idx3-ubyte[.gz] …);
 * "fashion-mnist" finds the Debian package's. Pixels become floats in [0,1]; features (B, 784), labels (B).
 */
BRIM_API Loader *data_images(const char *directory, const ImageOptions *options);
/* The directory that it reads for this name; NULL after raising why there is none. */
BRIM_API const char *data_images_directory(const char *directory);

/* A table of one's own, copied: features (n, width) f32 row-major and labels (n). */
typedef struct TableOptions { /* batch: 0 = 128; accumulate: 0 = 1; labels 0.. or BATCH_IGNORE */
    const float *features;
    const int32_t *labels;
    int64_t count, width;
    int batch, accumulate;
    uint64_t seed;
} TableOptions;
BRIM_API Loader *data_table(const TableOptions *options);

/* The next micro-batch of the current step; NULL at the end of each step (the next call begins the next step)
 * or on error. The batch and its tensors are valid until the next call. */
BRIM_API const Batch *data_next(Loader *loader);
/* Ends the current step early, if inside one, so that the next call begins a step. */
BRIM_API void data_finish_step(Loader *loader);

BRIM_API int64_t data_samples(const Loader *loader);         /* in this split */
BRIM_API int64_t data_steps_per_epoch(const Loader *loader); /* a short last one counts */
BRIM_API int64_t data_classes(const Loader *loader);         /* vocabulary, or classes of labels */
BRIM_API int64_t data_width(const Loader *loader);           /* features a sample; 0 for tokens */
BRIM_API int64_t data_epoch(const Loader *loader);           /* completed epochs */
/* Of the step last yielded: */
BRIM_API int64_t data_step_tokens(const Loader *loader);
BRIM_API int64_t data_step_labels(const Loader *loader);
/* Whether the step that comes next is the epoch's last one and smaller than the others. */
BRIM_API int data_next_step_is_short(const Loader *loader);
BRIM_API void loader_free(Loader *loader);

/* Everything that decides what comes next; valid between steps (inside one, it is where that step began).
 * Restoring it into a loader with the same options over the same data continues the same sequence. */
typedef struct DataCursor {
    uint64_t seed;
    int64_t epoch, position, step; /* position: samples of this epoch already used */
} DataCursor;
BRIM_API DataCursor data_cursor(const Loader *loader);
BRIM_API int data_seek(Loader *loader, DataCursor cursor);

/* The built-in corpus: deterministic English-like text from our own grammar, `bytes` long. Fills `text`. */
BRIM_API void data_corpus(uint64_t seed, char *text, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
