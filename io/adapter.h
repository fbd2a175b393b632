/* Adapters in and out: LoRA as PEFT's files hold it, adapter_config.json and adapter_model.safetensors.
 * docs/weights.md says which fields act.
 *
 * The adapters of a model are parameters like any other, with PEFT's names but for its "base_model.model.":
 * "model.layers.0.self_attn.q_proj.lora_A.weight". nn_add_lora (nn/lora.h) makes new ones.
 */
#ifndef BRIM_ADAPTER_H
#define BRIM_ADAPTER_H

#include "../nn/nn.h"
#include "io_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct AdapterOptions {
    int frozen; /* 1: nothing of the adapter is trained; it is read to compute with it */
} AdapterOptions;

/* What was read. */
typedef struct AdapterReport {
    int adapted;    /* modules that have an adapter now */
    int tensors;    /* that were read */
    int own;        /* of them parameters of the base, which have the adapter's values now (modules_to_save,
                       biases, embeddings) */
    int rank;       /* the most that a module has */
    char base[128]; /* the model that the adapter says it is of; "" = it does not say */
    char note[256]; /* what a user should know; "" = nothing */
} AdapterReport;

/* Gives a model the adapters of a directory (as PEFT's save_pretrained writes it), and reads their values,
 * F32, F16 or BF16, into new fp32 parameters. All other parameters are frozen. What the adapter brings of the
 * base itself takes its values too: modules_to_save and biases, which are trained and have to be fp32 then;
 * an embedding, which is not. Everything is compared before anything changes: names, shapes and types that do
 * not fit are one error. On meta the adapters are made and nothing is read. options and report may be NULL.
 * Returns 0; or raises ERROR_FILE, ERROR_DATA (a field that is not computed, named with what to do; tensors
 * that are not the adapter's, listed), ERROR_SHAPE, ERROR_STATE (the model has adapters already, or would
 * have to train what is not fp32), ERROR_MEMORY or ERROR_HOST_MEMORY. */
BRIM_API int io_load_adapter(Module *model, const char *directory, const AdapterOptions *options,
                             AdapterReport *report);

typedef struct AdapterSaving {
    const char *base; /* base_model_name_or_path: where the model's own weights come from; NULL = not said */
    int overwrite;    /* 1: another adapter may go */
} AdapterSaving;

/* Writes the adapters of a model, and what else of it is trained, as PEFT loads them:
 * DIRECTORY/adapter_model.safetensors (F32) and DIRECTORY/adapter_config.json. The directory is made if it is
 * not there (its parent must be). how may be NULL.
 *
 * A directory that holds another adapter is refused (ERROR_FILE), unless how->overwrite says that it may go;
 * a whole model, which the adapter would be added to by whoever loads it, and a saved run are refused even
 * then. Whoever reads at any moment, and whoever comes after a death at any moment, finds the old adapter,
 * the new one, or none. On meta the arguments are checked and nothing is written. Returns 0, or raises;
 * ERROR_STATE for a model without adapters, or with trained parameters that PEFT's configuration cannot name.
 */
BRIM_API int io_save_adapter(Module *model, const char *directory, const AdapterSaving *how);

/* Whether io_save_adapter would refuse the directory: better before training than after. Reads what is there,
 * on meta too. Returns 0 or raises. */
BRIM_API int io_check_adapter(Module *model, const char *directory, const AdapterSaving *how);

#ifdef __cplusplus
}
#endif
#endif
