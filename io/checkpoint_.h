/* Between the files of io that save runs and load them. */
#ifndef BRIM_CHECKPOINT_INTERNAL_H
#define BRIM_CHECKPOINT_INTERNAL_H

#include <jansson.h>

#include "../tensor/tensor_.h"
#include "checkpoint.h"
#include "../data/file_.h"

#define CHECKPOINT_MODEL     "model.safetensors"
#define CHECKPOINT_OPTIMIZER "optimizer.safetensors"
#define CHECKPOINT_STATE     "state.json"

enum { CHECKPOINT_NAME = 48 };
#define COUNT_MOST (INT64_MAX / 2) /* of steps, epochs, updates: a run counts on from them */

/* ---- state.json (checkpoint_state.c) --------------------------------------------------------- */

typedef struct CheckpointState {
    json_t *root; /* holds what follows; NULL = nothing read */
    int64_t steps, samples;
    const char *optimizer, *command;
    double lr;
    uint64_t seed;
    int threads, has_data;
    RandomState random;
    DataCursor cursor;
    const json_t *inputs;          /* NULL: the checkpoint knows none */
    const json_t *settings, *kept; /* kept: names of parameters with a gradient of zeros */
    FileSum model, file;           /* of the optimizer: `file` */
} CheckpointState;

/* Writes a state with its checksum. 0 or raises. */
int checkpoint_state_write(const char *path, const CheckpointRun *run, const FileSum *model,
                           const FileSum *optimizer);
/* Reads that of a checkpoint. 0, or raises and returns ERROR_FILE, ERROR_DATA or ERROR_HOST_MEMORY. */
int checkpoint_state_read(const char *checkpoint, CheckpointState *state);
void checkpoint_state_free(CheckpointState *state);
/* Raises ERROR_ARGUMENT with all that differs between the run and the state, or between their inputs. */
int checkpoint_state_compare(const char *shown, const CheckpointRun *run, const CheckpointState *state);

/* The CRC-32 so far, and that of bytes [from, from + count) behind it. 0 or raises. (fingerprint.c) */
int file_add_crc32(int file, const char *shown, uint64_t from, uint64_t count, uint32_t *crc32);

/* ---- Directories (checkpoint_files.c) -------------------------------------------------------- */

/* "step-00000120" */
void checkpoint_name(char out[CHECKPOINT_NAME], int64_t step);
/* The largest step below `below` that the directory has a checkpoint of, whole or not; -1 = none; -2 with
 * ERROR_FILE raised. A directory that does not exist has none. */
int64_t checkpoint_below(const char *directory, int64_t below);
/* A new empty directory under a temporary name. 0 or raises. */
int checkpoint_begin(const char *directory, int64_t step, char temporary[PATH_BYTES]);
/* Moves it to its name, in place of one that is there, and makes that last. 0 or raises. */
int checkpoint_publish(const char *directory, int64_t step, const char *temporary);
/* Removes all up to `step` but the newest `keep`. What cannot be removed stays. */
void checkpoint_prune(const char *directory, int64_t step, int keep);
/* A directory of files and what is in it, as far as it can be removed. */
void checkpoint_remove(const char *path);
/* The files have the sizes, and, if all of them is to be read, the checksums that the state says. 0 or
 * raises.
 */
int checkpoint_check_files(const char *checkpoint, const CheckpointState *state, int read);

#endif
