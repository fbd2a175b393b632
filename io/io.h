/* io: models described by files of others. Reads Hugging Face's config.json of the Llama, Mistral, Qwen2,
 * BERT and GPT-2 families, finds a model by what a user types, and knows which tokens end its texts.
 * docs/config-json.md lists the fields. */
#ifndef BRIM_IO_H
#define BRIM_IO_H

#include <stdio.h>

#include "../nn/nn.h"
#include "io_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a model that is taken as one of a family that it does not belong to has otherwise. */
typedef struct IoApproximation {
    const char *type, *as; /* its model_type, and the one that stands for it; NULL: nothing is approximate */
    const char *differs;   /* in words */
    int64_t parameters;    /* that it has and what stands for it has not; negative: it has fewer */
    int64_t kept;          /* at most so many numbers a token training keeps otherwise, in all layers */
} IoApproximation;

/* A model and what to say about it. Of a file, preset.name and preset.about point into this struct: a copy of
 * it needs them set again. Nothing in it is to be freed. */
typedef struct IoModel {
    ModelPreset preset; /* for nn_model; batch 1, seq at most 2048, dropout as the file says */
    char name[64];  /* the preset's, or the base name of the file, of a config.json that of its directory */
    char about[96]; /* "qwen2, 24 layers of 896" */
    char note[512]; /* what a user should know, in sentences; "" = nothing */
    char positions[192]; /* why positions are not those that trained weights know; "" = they are. Memory is
                            exact; weights must not be loaded */
    /* What the weights of its linear layers are quantised to in its files (int8, nf4, nf4-plain; 0 = they are
     * not), and the modules that are left out, names separated by commas: for nn_set_weights. */
    DType quantized;
    char not_quantized[2048];
    IoApproximation approximate; /* of io_find_model_near alone */
} IoModel;

/* Reads a config.json, or that of a directory, of at most 1 MiB. What is absent has the default of
 * transformers. What brim does not compute is an error, or, where memory and training from scratch are the
 * same, a note; a field that neither is known is an error, because it may change memory. Returns 0; or raises
 * and returns ERROR_FILE (cannot be read), ERROR_DATA (is not such a configuration: the message names file,
 * field and value), ERROR_HOST_MEMORY, ERROR_ARGUMENT (NULL); then *model is zeroed. */
BRIM_API int io_read_config(const char *path, IoModel *model);

/* A preset's name; another usual name of one ("llama3.2-1b", "meta-llama/Llama-3.1-8B", "gpt2-small"), which
 * the note then says; or the path of a config.json or of its directory. A preset's own name goes before a
 * file, a file before another name. Returns 0, or raises as io_read_config does; for a name that is nothing
 * ERROR_ARGUMENT, with the nearest names. */
BRIM_API int io_find_model(const char *what, IoModel *model);

/* The same for plans: a config.json of a family that is not read, where only small parts differ from one that
 * is, is taken as that one; model->approximate says what differs. Nothing else of such a model, its weights
 * least of all, is that of the file. */
BRIM_API int io_find_model_near(const char *what, IoModel *model);

/* What the classes of a sequence classifier are called. */
typedef struct IoLabels {
    int count;    /* 0: they have no names, or those that transformers gives (LABEL_0) */
    char **names; /* of each class; belong to no context */
} IoLabels;
/* Of a config.json, or that of a directory: id2label. Free it with io_labels_free; there is nothing to free
 * after an error. Returns 0, or raises as io_read_config does. */
BRIM_API int io_read_labels(const char *path, IoLabels *labels);
BRIM_API void io_labels_free(IoLabels *labels); /* NULL is fine */

enum { IO_END_TOKENS = 64 };
typedef struct IoEndTokens {
    int32_t ids[IO_END_TOKENS];
    int count;
} IoEndTokens;

/* The tokens after which a text is over: eos_token_id, a number or a list, of the directory's
 * generation_config.json, or, where that says nothing, of its config.json. Neither file: none. Returns 0; or
 * raises ERROR_FILE, ERROR_DATA, ERROR_HOST_MEMORY, ERROR_ARGUMENT (NULL); then there are none. */
BRIM_API int io_read_end_tokens(const char *directory, IoEndTokens *ends);
/* Writes a file whole or not at all: `fill` writes a stream, which is synced and takes the path's place when
 * all of it is on the disk. A terminal, a pipe or /dev/null is written to directly. fill
 * returns 0; or non-zero, with an error raised or with errno. Returns 0; or raises ERROR_FILE, unless fill
 * raised, and leaves what was there. */
typedef int (*IoFill)(FILE *out, void *user);
BRIM_API int io_write_file(const char *path, IoFill fill, void *user);

#ifdef __cplusplus
}
#endif
#endif
