/* Runs saved, and resumed as if they had never stopped: weights, optimizer states, random state, place in the
 * data. docs/resume.md says what a saved run holds and what survives what.
 *
 * A saved run is a directory DIRECTORY/step-00000120 with model.safetensors, optimizer.safetensors and
 * state.json. It is written under a temporary name, synced and renamed, so that under its own name it is
 * whole.
 */
#ifndef BRIM_SAVED_RUN_H
#define BRIM_SAVED_RUN_H

#include "../data/data.h"
#include "../nn/nn.h"
#include "../optim/optim.h"
#include "safetensors.h"
#include "io_names.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SAVED_RUNS_KEPT = 2 }; /* where it is not said */

/* A setting that a run must have in common with the one that it resumes. */
typedef struct SavedRunSetting {
    const char *name, *value; /* UTF-8 */
} SavedRunSetting;

/* A file that a run reads, and that must hold the same when the run is resumed. */
typedef struct SavedRunInput {
    const char *name,
        *path;      /* "data", "tokenizer"; the path is for messages, and may be another one. UTF-8 */
    uint64_t bytes; /* io_fingerprint fills these */
    uint32_t crc32;
} SavedRunInput;

/* A run: what is saved, and where what is loaded goes. */
typedef struct SavedRun {
    Module *model;
    Optimizer *optimizer;            /* its steps are the saved run's number */
    Loader *loader;                  /* NULL: the script finds its place in the data by the steps */
    const SavedRunSetting *settings; /* beside those that are compared anyway: parameters, optimizer, seed,
                                          samples */
    int setting_count;
    const SavedRunInput *inputs; /* compared with those of the same names that were saved */
    int input_count;
    /* Of a model with adapters (nn/lora.h), whose own weights are not saved: the file or directory that they
     * were loaded from, with what io_fingerprint says of it. NULL: they are those of the context's seed. */
    const SavedRunInput *base;
    const char *command; /* how the run was started, for messages; may be NULL */
    int keep;            /* newest saved runs to keep in the directory; 0 = 2 */
} SavedRun;

typedef struct SavedRunFound {
    char path[4096]; /* "" = there is none */
    int64_t step;    /* steps done */
    char note[512];  /* what a user should know: newer ones that are damaged, another number of threads */
} SavedRunFound;

/* Saves the run that the current context holds, then removes the older ones beyond `keep`; of a model with
 * adapters what is trained alone, and how its base is told from another. Between
 * steps, when gradients are gone (optim_zero_grad) or kept as zeros. Allocates nothing tracked; on meta only
 * the arguments are checked. The directory is made if it is not there (its parent must be). One of the same
 * step is replaced. Of several ranks all call it, and each writes what it has; the files are those of one
 * process, and an error is everybody's. After an error (ERROR_FILE, ERROR_HOST_MEMORY) all that was there
 * before is there still. Returns 0 or the error. */
BRIM_API int io_save_run(const char *directory, const SavedRun *run);

/* Reads what the path of an input holds into its bytes and crc32: of a file up to 64 MiB the CRC-32 (zlib's)
 * of all bytes, of a larger one that of 64 blocks of 1 MiB, evenly spaced from its first byte to its last. Of
 * a directory: of its weights (model.safetensors, or the files that its index names), one after the other.
 * Returns 0 or raises ERROR_FILE, or what safetensors_open raises. */
BRIM_API int io_fingerprint(SavedRunInput *input);

/* The newest complete saved run of a directory, or the saved run itself: one whose files have the sizes and
 * checksums that its state.json, itself with a checksum, says. A directory without any, or none: found->path
 * is "". Returns 0; or raises ERROR_DATA when there are some and all are damaged, ERROR_FILE when the
 * directory cannot be read. */
BRIM_API int io_find_saved_run(const char *directory, SavedRunFound *found);

/* Loads a saved run, or the newest complete one of a directory, into a run made alike; in its set-up, before
 * the first batch. Everything is compared first; weights and states are read from the mapped files into their
 * places, never twice in memory. On meta nothing is read but the state. found may be NULL. Returns 0; or
 * raises ERROR_FILE (none there), ERROR_DATA (damaged), ERROR_ARGUMENT (of another run, or an input holds
 * something else, or the base is another: the message lists what differs), ERROR_HOST_MEMORY, ERROR_MEMORY.
 * Number of steps, threads, ranks and memory levers may differ (of several ranks all call it, as
 * io_find_saved_run); results are bitwise those of an unbroken run with the same number of threads.
 */
BRIM_API int io_load_run(const char *path, const SavedRun *run, SavedRunFound *found);

/* What is going to be written, from shapes alone, so on meta too: at most so many bytes of disk for all files
 * together and for the largest one. model, optimizer: the bytes of a saved run's model.safetensors and
 * optimizer.safetensors, exactly; 0 of an export. */
typedef struct IoSize {
    uint64_t bytes, largest;
    uint64_t model, optimizer;
} IoSize;
BRIM_API IoSize io_saved_run_size(Module *model, const Optimizer *optimizer);
/* Of io_save_weights; type and shard as in WeightsSaving. */
BRIM_API IoSize io_weights_size(Module *model, SafetensorsType type, uint64_t shard);
/* How many saved runs a directory has, whole or not; 0 where there is none. */
BRIM_API int io_count_saved_runs(const char *directory);

/* For a run that is to save into a directory: makes it, sees whether files can be made in it, removes what
 * saves that died left there, and keeps other runs that ask for it out, until it is unlocked or the process
 * ends. Returns a descriptor, or -1 with ERROR_FILE raised. */
BRIM_API int io_lock_saved_runs(const char *directory);
BRIM_API void io_unlock_saved_runs(int lock); /* -1 is fine */
/* The same for a run that is to export into a directory: two runs' weights and configuration are never mixed.
 * It is one lock: who saves there keeps out who exports there, but for the process that does both, which
 * locks the directory once. */
BRIM_API int io_lock_exports(const char *directory);

#ifdef __cplusplus
}
#endif
#endif
