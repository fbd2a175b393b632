/* Between values.c, which reads values, flags.c, which knows the flags, arguments.c, which reads a command
 * line, and options.c, which knows what they mean together. */
#ifndef BRIM_FLAGS_INTERNAL_H
#define BRIM_FLAGS_INTERNAL_H

#include <stdarg.h>

#include "cli.h"

typedef enum FlagKind {
    FLAG_TEXT, /* free text */
    FLAG_NAME, /* a name without commas: compare takes lists of them */
    FLAG_INT,
    FLAG_INT64,
    FLAG_SEED,
    FLAG_FLOAT,
    FLAG_SIZE,
    FLAG_SWITCH,
    FLAG_CHECKPOINT,
    FLAG_ATTENTION,
    FLAG_ZERO_GRAD,
    FLAG_WEIGHTS,
    FLAG_QUANTIZE,
    FLAG_PARALLEL
} FlagKind;

typedef struct Flag {
    const char *name;
    FlagKind kind;
    size_t offset; /* of its field in Options */
    const char *value, *help;
    const char *only; /* the subcommands that take it, "plan" or "plan generate"; NULL = all */
    int low, high;    /* of FLAG_INT; high 0 = INT_MAX */
    int zero;         /* of FLAG_SIZE: "0" is a value too */
} Flag;

/* By the first `length` characters of a name, or NULL. */
const Flag *find_flag(const char *name, size_t length);
/* The i-th, NULL past the end. */
const Flag *flag_at(int i);
typedef struct CommandsText {
    char text[64];
} CommandsText;
/* The commands that take it, with `between` between them, and `last` before the last one; "" = all. */
CommandsText commands_text(const Flag *flag, const char *between, const char *last);

/* help.c */
int takes_flag(const Flag *flag, const char *command);
/* help.c: whether a command takes the options of its page alone; the others, which train or plan a training,
 * take every option of a training, so that one command line serves them all. */
int takes_page_only(const char *command);
int page_has(const char *command, const char *flag);

/* unknown.c: what is said of an argument that is no option of the command; they return EXIT_USAGE. */
int unknown_option(const char *command, const char *argument);
int no_model(const char *command, const char *word);
int is_model(const char *name); /* a name, or the path of a config.json or of its directory */

enum { LIST_MAX = 16, ASSIGNMENTS_MAX = 64 };

typedef struct Assignment {
    const Flag *flag;
    const char *values[LIST_MAX];
    int count; /* of values: more than one only where lists are allowed */
} Assignment;

typedef struct Assignments {
    Assignment item[ASSIGNMENTS_MAX];
    int count;
} Assignments;

/* Reads the arguments after the subcommand; with `lists` it cuts them at commas, in place. 0 or EXIT_USAGE.
 */
int assignments_parse(Assignments *all, const char *command, int argc, char **argv, int lists);
/* Puts the which-th value into its field. 0 or EXIT_USAGE. */
int assign(Options *options, const Assignment *assignment, int which);
/* options.c: whether it is on the command line; and what was typed, or NULL. */
int was_given(const Assignments *all, const char *flag);
const char *typed_text(const Assignments *all, const char *flag, const int *which);
/* numbers.c: a whole number of low … high. 0 or EXIT_USAGE. */
int parse_whole(const char *name, const char *text, int64_t low, int64_t high, int64_t *out);
/* values.c: reads a value into its field. 0 or EXIT_USAGE. */
int parse_value(const Flag *flag, void *field, const char *text);
extern const char *const attention_names[], *const zero_grad_names[]; /* by their values; NULL ends them */
/* stored.c */
int parse_weights(const char *text, DType *out);
int parse_quantize(const char *text, DType *out);
const char *weights_name(DType dtype);  /* "fp32", "bf16", "fp16" */
const char *quantize_name(DType dtype); /* "none", "nf4", … */
int parse_choice(const char *name, const char *choices, const char *text, const char *const *names, int *out);

/* The value that an option has, as it would be typed; "" where it has none. A switch has 0 or 1. */
LeverText flag_text(const char *name, const Options *options);
/* "--batch 8", or "--json" alone. */
LeverText flag_typed(const char *name, const Options *options);
/* Whether it is a whole number, or a switch; then *out is its value. */
int flag_number(const char *name, const Options *options, int64_t *out);
int flag_is_switch(const char *name);
/* Whether it has another value than without being typed; of a number 0 is none. */
int flag_given(const char *name, const Options *options);
/* As if it were typed. 0 or EXIT_USAGE. */
int flag_set(Options *options, const char *name, const char *value);

/* The options of a command line without any. */
extern const Options options_default;

#endif
