/* The brim command: options that mean the same in every subcommand, and what the subcommands share. */
#ifndef BRIM_CLI_H
#define BRIM_CLI_H

#include <jansson.h>

#include "../brim.h"
#include "log.h"

enum { EXIT_DONE = 0, EXIT_NO = 1, EXIT_USAGE = 2 };

typedef enum CheckpointMode { CHECKPOINT_NONE, CHECKPOINT_BLOCKS } CheckpointMode;

typedef struct Options {
    const char *model, *data, *optimizer, *schedule, *log, *prompt;
    int batch, seq, accumulate, epochs, threads, every, evaluate_every, warmup, sample;
    int64_t steps, max_samples;
    float lr, weight_decay; /* negative: not given */
    float clip, dropout;
    CheckpointMode checkpoint;
    AttentionKind attention;
    uint64_t budget, seed;
    int json, quiet;
    char **arguments; /* of the command line, the subcommand first */
    int argument_count;
    ModelPreset preset; /* of `model`, with the options applied */
} Options;

/* Fills options from the arguments after the subcommand. 0, or EXIT_USAGE after saying why on stderr. */
int options_parse(Options *options, int argc, char **argv);
/* The lines of `brim help` about options. */
void options_help(FILE *out);

/* The script of train, plan and compare; config is a Training. What a real run leaves behind is in the same
 * struct. */
typedef struct Training {
    const Options *options;
    TrainLog *log; /* NULL = none */
    int64_t parameters, samples, steps;
    double validation_loss, accuracy; /* accuracy < 0: not a classifier */
    int64_t validation_samples;
    char generated[161];
} Training;
int training_script(void *config);
RunOptions run_options(const Options *options);

/* Rows of the savings table: the options changed one lever at a time, at the same effective batch. */
typedef struct Variant {
    char label[48];
    Options options;
    Plan plan;
    int64_t parameters;
} Variant;
enum { VARIANTS = 8 };
/* Plans all variants; returns how many. The first is the options as they are. */
int variants_plan(const Options *options, Variant variants[VARIANTS]);
void variants_table(FILE *out, const Options *options, const Variant *variants, int count);

/* The memory object that is the same everywhere. planned may be NULL. */
json_t *json_memory(const MemSummary *memory, const MemSummary *planned);
/* What is trained, in a line; of steps nothing is said when they are 0. */
void print_title(const Options *options, int64_t parameters, int64_t steps);
void json_print(json_t *object); /* one object, on stdout; frees it */

int command_train(const Options *options);
int command_plan(const Options *options);
int command_compare(const Options *options);
int command_demo(const Options *options);
int command_models(const Options *options);
/* Its arguments are its own: those after the subcommand. */
int command_report(int argc, char **argv);

#endif
