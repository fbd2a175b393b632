/* Texts that come from elsewhere than a plain file, and what is said of data (input.c). */
#ifndef BRIM_CLI_INPUT_INTERNAL_H
#define BRIM_CLI_INPUT_INTERNAL_H

#include "cli.h"

/* What --data names, where it must be read at once: once for all plans and runs of the process. NULL: it is a
 * plain file, or an error is raised. */
const TextInput *input_of(const Options *options);
/* Whether it is JSON lines of samples, by what is in it; reads a pipe. (pairs.c) */
int is_pairs(const Options *options);
/* Why the options do not go together with such data, or without; "" when they do. */
LeverText pairs_problem(const Options *options);
/* The same of a plain file, before anything is read: 0, or EXIT_USAGE after saying why. */
int check_pairs_options(const Options *options);
/* A loader of its samples; a plan reads them once for all plans. NULL with an error raised. */
Loader *open_pairs(const Options *options, Tokenizer *tokenizer, DataSplit split, int accumulate,
                   int64_t max_samples);
/* How long its samples are, of the first --max-samples. Returns an error code. */
int measure_pairs(const Options *options, int64_t most, DataLengths *lengths);
/* Whether it is a table of texts and labels, by its name, and the model of a family that classifies texts.
 * (csv.c) */
int is_csv(const Options *options);
/* Makes the model a classifier of the table's labels; one that is a classifier already must know them.
 * trains: the command does, and needs data. 0, or EXIT_USAGE after saying why. */
int apply_classes(Options *options, int trains);
/* A loader of its samples; a plan reads them once for all plans. NULL with an error raised. */
Loader *open_csv(const Options *options, Tokenizer *tokenizer, DataSplit split, int accumulate,
                 int64_t max_samples);
/* How long its samples are, as measure_pairs. */
int measure_csv(const Options *options, int64_t most, DataLengths *lengths);
/* Its size and checksum, for saved runs. */
void input_sum(const TextInput *input, uint64_t *bytes, uint32_t *crc32);
/* Options about data and their combinations. 0, or EXIT_USAGE after saying why. */
int check_data_options(const Options *options);
/* Whether a tokenizer replaces what is no UTF-8, by --invalid-utf8. */
int replaces_invalid(const Options *options);
/* --prompt -: the text of standard input. 0, or an exit code after saying why. */
int read_prompt(Options *options);
/* Says the loader's note, once for a path. */
void say_data_note(const Options *options, const Loader *loader);
/* --check-data: reads all ids, with the share that is done on a terminal. Returns an error code. */
int check_all_ids(const Options *options, int64_t vocab);

#endif
