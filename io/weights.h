/* Trained weights in and out: a model's parameters from safetensors files of Hugging Face's, and back, so
 * that transformers loads what was trained here. docs/weights.md shows both.
 *
 * A model's parameters have the names of its family's published weights. Read are also names without the
 * family's prefix ("h.0.…", "encoder.layer.0.…"), LayerNorms' gamma and beta, and heads stored beside the
 * embedding they are tied to, which must be equal to it. Buffers (attn.bias, rotary_emb.inv_freq,
 * position_ids) and the pooler or head that this model has not are ignored. A sequence classifier takes the
 * body of files with another head, and its own is new.
 */
#ifndef BRIM_WEIGHTS_H
#define BRIM_WEIGHTS_H

#include "../nn/nn.h"
#include "safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct WeightsOptions {
    int partial; /* 1: parameters that the file lacks keep their values, and what else it has is left */
    /* The model's vocabulary, where the file's may be smaller: embedding, head (tied or not) and the head's
     * bias take the rows of the file, and those behind them keep their values: as a new model's they are
     * drawn from normal(0, 0.02), mean and standard deviation of all three families, and a bias is 0. 0 = not
     * smaller. */
    int grow_vocab;
} WeightsOptions;

/* What was found. */
typedef struct WeightsReport {
    int loaded;     /* parameters */
    int ignored;    /* tensors: buffers, tied copies, other heads */
    int missing;    /* parameters; 0 unless partial */
    int unexpected; /* tensors; 0 unless partial */
    int new_rows;   /* that the vocabulary has grown by */
    int new_head;   /* parameters of a sequence classifier, where the file has another head: they keep their
                       values */
    char note[256]; /* "3 parameters are not in …: a, b, c."; "" = nothing to say */
} WeightsReport;

/* Loads the parameters of a model from a file, an index or a directory (safetensors_open): F32, F16 or BF16,
 * or matrices that bitsandbytes quantised to nf4 or int8, with the tensors that belong to them. Each is read
 * from the mapped file into its own storage: the weights never exist twice. Into a parameter of another type
 * (nn_set_weights) they go through a planned buffer of at most 8 MiB; codes are copied as they are into one
 * of their own type, and decoded into f32, bf16 and f16. Nothing is changed unless everything fits. On meta
 * the headers are checked, and numbers are not read. options and report may be NULL. Returns 0; or raises
 * ERROR_FILE, ERROR_DATA (no such file, or names and types that are not the model's, listed; quantised
 * otherwise), ERROR_SHAPE (of parameters, listed), ERROR_MEMORY, ERROR_HOST_MEMORY, or ERROR_NONFINITE (a
 * number that a parameter's type cannot hold, which is found when it is its turn). */
BRIM_API int io_load_weights(Module *model, const char *path, const WeightsOptions *options,
                             WeightsReport *report);

typedef struct WeightsSaving {
    SafetensorsType type; /* F32, F16 or BF16 */
    uint64_t shard;       /* bytes of tensors in a file at most; 0 = SAFETENSORS_SHARD */
    /* The directory that the model came from; NULL = none. Kept of it: the fields of config.json that brim
     * does not read (token ids, labels), the tokenizer's files, generation_config.json, and what makes it a
     * model of sentence-transformers (modules.json, 1_Pooling, …). */
    const char *source;
    /* The tokenizer that it was trained with, where that is not its source's: a tokenizer.json, or a
     * directory with one. It is copied, and a tokenizer_config.json says to transformers to take it as it is.
     */
    const char *tokenizer;
    int overwrite; /* 1: what the directory holds of another model may go */
    /* What the classes of a sequence classifier are called (id2label); NULL = as the source says, or LABEL_0
     * and so on. */
    const char *const *labels;
} WeightsSaving;

/* Writes DIRECTORY/model.safetensors, or shards and their index (safetensors_write_shards), and, of a llama,
 * gpt2 or bert, DIRECTORY/config.json, which transformers loads unchanged. The directory is made if it is not
 * there (its parent must be). preset is what the model was made of; NULL: the weights alone. how may be NULL.
 *
 * A directory that holds another model or another tokenizer is refused (ERROR_FILE), unless how->overwrite
 * says that it may go; the source itself and a saved run are refused even then. With it go, of what the
 * export does not bring: config.json, generation_config.json, tokenizer files, adapter_*, and
 * sentence-transformers' json files; nothing else. Whoever reads at any moment, and whoever comes after a
 * death at any moment, finds the old model, the new one, or none. On meta the arguments are checked and
 * nothing is written. Of several ranks all call it, and each writes what it has. Returns 0 or raises. */
BRIM_API int io_save_weights(Module *model, const ModelPreset *preset, const char *directory,
                             const WeightsSaving *how);

/* Whether io_save_weights would refuse the directory: better before training than after. Reads what is there,
 * on meta too. Returns 0 or raises. */
BRIM_API int io_check_export(Module *model, const ModelPreset *preset, const char *directory,
                             const WeightsSaving *how);

/* Makes the directory and sees whether files can be made in it: better before training than after. 0 or
 * raises ERROR_FILE. */
BRIM_API int io_check_directory(const char *directory);

/* Writes PATH, the config.json of a preset; type: of the weights beside it. A model that another file
 * described is written as what it computes: Mistral as Llama. Returns 0 or raises. */
BRIM_API int io_write_config(const ModelPreset *preset, const char *path, SafetensorsType type);

#ifdef __cplusplus
}
#endif
#endif
