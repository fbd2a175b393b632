/* A training run saved while it runs, resumed later, and stopped between two steps by a signal. */
#ifndef BRIM_CLI_SAVE_H
#define BRIM_CLI_SAVE_H

#include "../io/saved_run.h"

struct Options;

enum { SAVING_INPUTS = 3, SAVING_PATH = 4096 };

/* What is NULL or zeroed neither saves nor resumes. */
typedef struct Saving {
    const struct Options *options;
    SavedRunFound from;                  /* what is resumed; its path is "" for a new run */
    int lock;                            /* of --save's directory; -1 = none */
    int export_lock;                     /* of --export's; -1 = none, or the same directory */
    int adapter_lock;                    /* of --export-adapter's; the same */
    int made_save, made_export, made_adapter; /* the directories were not there */
    SavedRunInput base;                       /* of adapters; its path is NULL for weights of the seed */
    int noted;                           /* that of `from` was said */
    int64_t saved;                       /* the step of the newest save of this run */
    int failed;                          /* the newest that was tried was not written */
    int signal;                          /* that stopped the run; 0 = none */
    SavedRunInput inputs[SAVING_INPUTS]; /* what was read when the run began, its data and tokenizer */
    char input_path[SAVING_INPUTS][SAVING_PATH];
    int input_count; /* -1 = not looked at yet */
} Saving;

/* Before planning: finds what --resume means, and makes sure that --save can save and --export export.
 * EXIT_DONE, or EXIT_NO after saying why. */
int saving_open(Saving *saving, const struct Options *options);
/* Directories that were made and nothing was written into go again. */
void saving_close(Saving *saving);
/* The log of the steps before stays, under another name: PATH.1, or the first number that is free. 0: there is
 * none. */
int saving_log_number(const Saving *saving, const char *path);
/* That of this rank gets the number. EXIT_DONE, or EXIT_NO after saying why. */
int saving_keep_log(const char *path, int rank, int number);

/* In a run: SIGINT and SIGTERM stop it between two steps; a second one ends the process. SIGPIPE stops a run
 * that saves in the same way; what is printed afterwards ends the process. */
void saving_catch_signals(const Saving *saving);
void saving_release_signals(Saving *saving);

/* In the script. */
int saving_resumes(const Saving *saving);
/* At the end of the set-up: looks at what the data are, loads, and returns the steps done. */
int64_t saving_load(Saving *saving, const SavedRun *run);
/* After each step; saves when it is time. What fails is said, and training continues. */
void saving_step(Saving *saving, const SavedRun *run, int64_t steps);
/* After the last step: saves what is not saved yet. Without success the run fails (saving->failed). */
void saving_end(Saving *saving, const SavedRun *run);
int saving_stopped(const Saving *saving);
/* Around an update: ranks stop at the same step, which all hear of in it. */
void saving_ask(void);
void saving_hear(void);

#endif
