/* Between the files of io that save runs and load them. */
#ifndef BRIM_SAVED_RUN_INTERNAL_H
#define BRIM_SAVED_RUN_INTERNAL_H

#include <jansson.h>

#include "../base/file_.h"
#include "../base/quant_layout_.h"
#include "../nn/lora.h"
#include "safetensors_.h"
#include "saved_run.h"

#define SAVED_RUN_MODEL     "model.safetensors"
#define SAVED_RUN_OPTIMIZER "optimizer.safetensors"
#define SAVED_RUN_STATE     "state.json"

enum { SAVED_RUN_NAME = 48, SAVED_FILES = 2 }; /* of tensors: the model's, the optimizer's */
#define COUNT_MOST (INT64_MAX / 2)             /* of steps, epochs, updates: a run counts on from them */

/* ---- state.json (saved_run_state.c) --------------------------------------------------------- */

/* A file of tensors: what it holds, and the same of its parts in their order, the header and then each
 * tensor, as [[bytes, crc32], …]. The parts add up to the whole (file_sum_join), so whoever writes a part of
 * a tensor can tell what it wrote. NULL: a file of format 1, in one part. */
typedef struct SavedFile {
    FileSum sum;
    json_t *parts;
} SavedFile;

typedef struct SavedRunState {
    json_t *root; /* holds what follows; NULL = nothing read */
    int64_t steps, samples;
    const char *optimizer, *command;
    double lr;
    LossScale scaling;
    uint64_t seed;
    int threads, has_data;
    int order; /* in which the samples came: DATA_ORDER of the brim that saved it */
    RandomState random;
    DataCursor cursor;
    const json_t *inputs;          /* NULL: the saved run knows none */
    json_t *base;                  /* of a run of adapters; NULL: all parameters are in the saved run */
    const json_t *settings, *kept; /* kept: names of parameters with a gradient of zeros */
    SavedFile files[SAVED_FILES];
} SavedRunState;

/* Fills it from the sums of its parts. 0 or raises; parts is the caller's to decref. */
int saved_file_fill(SavedFile *file, const FileSum *sums, int count);
/* Writes a state with its checksum. 0 or raises. */
int saved_run_state_write(const char *path, const SavedRun *run, const RandomState *random,
                          const SavedFile files[SAVED_FILES]);
/* Reads that of a saved run. 0, or raises and returns ERROR_FILE, ERROR_DATA or ERROR_HOST_MEMORY. */
int saved_run_state_read(const char *saved, SavedRunState *state);
void saved_run_state_free(SavedRunState *state);
/* Raises ERROR_ARGUMENT with all that differs between the run and the state, or between their inputs. */
int saved_run_state_compare(const char *shown, const SavedRun *run, const SavedRunState *state);

/* The CRC-32 so far, and that of bytes [from, from + count) behind it. 0 or raises. (fingerprint.c) */
int file_add_crc32(int file, const char *shown, uint64_t from, uint64_t count, uint32_t *crc32);

/* ---- What the files of tensors hold (saved_run_items.c) ------------------------------------- */

enum { SAVED_NAME_ROOM = 32 }; /* ".momentum_buffer.absmax" and the end */
#define SAVED_SCALES ".absmax" /* of the blocks of an 8-bit state */

typedef struct SavedItems {
    SafetensorsItem *items;
    int64_t *updates;
    char *names; /* all of them, one after the other; NULL where the parameters' own serve */
    size_t name_bytes;
    int parameters, count; /* count: of items */
} SavedItems;

/* The parameters that are written: all, or of a model with adapters those that are trained. */
TensorList saved_run_parameters(Module *model);
/* Each 0, or raises; free it in both cases. */
int saved_items_of_model(SavedItems *items, TensorList parameters);
/* Of each parameter its states, the scales of those in 8 bit, and its updates. */
int saved_items_of_optimizer(SavedItems *items, const Optimizer *optimizer);
void saved_items_free(SavedItems *items);
int saved_optimizer_count(const Optimizer *optimizer); /* of items */
/* The bytes of the files, from shapes alone. 0 or raises. */
int saved_run_bytes(Module *model, const Optimizer *optimizer, uint64_t bytes[SAVED_FILES]);
/* As what a parameter is saved, and a state of this type, whose codes of 8 bit are bytes. */
SafetensorsType saved_type(const Tensor *parameter);
SafetensorsType saved_type_of(DType type);
/* Where the scales of an 8-bit state lie among this rank's bytes of it, and how many there are of the whole
 * parameter. */
QuantLayout saved_layout_of(DType type, const Tensor *parameter);
/* 0, or raises: ranks have divided it so that files cannot be written or read. */
int saved_run_divided(Module *model, const Optimizer *optimizer, const char *function);

/* ---- Directories (saved_run_files.c) -------------------------------------------------------- */

/* "step-00000120" */
void saved_run_name(char out[SAVED_RUN_NAME], int64_t step);
/* The largest step below `below` that the directory has a saved run of, whole or not; -1 = none; -2 with
 * ERROR_FILE raised. A directory that does not exist has none. */
int64_t saved_run_below(const char *directory, int64_t below);
/* A new empty directory under a temporary name, which rank 0 makes and all are told. All ranks call it; an
 * error is everybody's, but for a path that is too long elsewhere. Returns the error that all have, or 0. */
int saved_run_begin(const char *directory, int64_t step, char temporary[PATH_BYTES]);
/* Moves it to its name, in place of one that is there, and makes that last. 0 or raises. */
int saved_run_publish(const char *directory, int64_t step, const char *temporary);
/* Removes all up to `step` but the newest `keep`. What cannot be removed stays. */
void saved_run_prune(const char *directory, int64_t step, int keep);
/* A directory of files and what is in it, as far as it can be removed. */
void saved_run_remove(const char *path);
/* The files have the sizes, and, if all of them is to be read, the checksums that the state says: of several
 * ranks each reads its share of the parts. 0 or raises. */
int saved_run_check_files(const char *saved, const SavedRunState *state, int read);

#endif
