/* The brim command: options that mean the same in every subcommand, and what the subcommands share. */
#ifndef BRIM_CLI_H
#define BRIM_CLI_H

#include <jansson.h>

#include "../brim.h"
#include "../plan/search.h"
#include "../report/panel.h"
#include "log.h"
#include "save.h"

enum { EXIT_DONE = 0, EXIT_NO = 1, EXIT_USAGE = 2 };

/* Which activations are recomputed in backward. */
typedef struct CheckpointChoice {
    int selective;    /* recompute what is cheap, everywhere */
    int every;        /* blocks that are recomputed together; 0 = none */
    int reentrant;    /* of PyTorch: torch.utils.checkpoint(use_reentrant=True) */
    int automatic;    /* the least recomputation that fits the budget is still to be found */
    PlanChoice found; /* a pattern, typed or found; "" = as `every` says */
} CheckpointChoice;

typedef struct Options {
    const char *model, *data, *optimizer, *schedule, *log, *prompt, *cards, *memories, *tokenizer, *device;
    const char *card_counts; /* --cards of fit */
    const char *invalid_utf8;
    const char *init, *export, *export_dtype;
    const char *save, *resume;
    const char *lora, *adapter, *export_adapter; /* --lora as it was typed */
    const char *precision;
    const char *grad_dtype, *rounding, *loss_scale; /* NULL: as the precision and --accumulate say */
    const char *gather;                             /* of zero3: "op", "block", "next" */
    const char *reduce;                             /* whose order of sums: "auto", "ordered", "library" */
    const char *pipeline;                           /* the schedule of stages: "1f1b", "gpipe" */
    const char *rank;                               /* as it was typed: whose plan, R or all; NULL = all */
    const char *resize_vocab;                       /* as it was typed: N or auto */
    /* Of --framework pytorch. */
    const char *framework, *versions, *script, *kbit_prepare, *alloc_conf, *html;
    const char *parallel_typed; /* NULL: it was not */
    int no_sync;
    const char *attention_typed; /* NULL: it was not */
    int hold_outputs, longest, evaluate, eval_accumulation, metrics;
    DataLengths lengths; /* of --data, uncut; samples 0: it was not given. line 0: rows of a text */
    int most;            /* tokens that a sample of it keeps */
    int asked_batch;     /* where --data has fewer samples than that; or 0 */
    int precision_typed, weights_typed, dropout_typed, reserve_typed;
    const char *described; /* the file or directory that describes the model; NULL = it is known by name */
    const char *source,
        *source_tokenizer; /* the directory that describes the model, the tokenizer.json in it; or NULL */
    int batch, seq, accumulate, epochs, threads, every, evaluate_every, warmup, sample, loss_chunk, keep,
        vocab;
    int tokens, top_k, prefill; /* of generate */
    int64_t steps, max_samples, run_steps, save_every;
    float lr, weight_decay, clip, dropout; /* negative: not given */
    float temperature, top_p;
    CheckpointChoice checkpoint;
    Ranks ranks;      /* size 1: alone */
    int rank_timeout; /* seconds */
    const char *transport;
    AttentionKind attention;
    DType weights, quantized; /* what weights are stored as; of linear layers another type, 0 = the same */
    DType files_quantized;    /* what the files of the described model have their linear layers in; 0 = as the
                                 rest */
    const char *not_quantized; /* modules of the described model that are left out; NULL = none */
    uint64_t budget, seed, reserve, export_shard;
    int accumulate_apart; /* each micro-batch's gradient is a buffer of its own */
    int skip_unlabelled;  /* the head computes only rows with a label */
    int in_backward, keep_gradients, json, csv, quiet, textbook, init_partial, overwrite, merge;
    int no_graphs;           /* on a card */
    int four_ways;           /* of compare */
    int ranks_typed;         /* --ranks was given: 1 then means 1, whatever a launcher says */
    int quantize_typed;      /* --quantize was given: files that are quantised do not decide */
    int grow_vocab;          /* what --init's vocabulary grows to; 0 = it does not */
    int check_data;          /* reads all ids of a .bin before it starts */
    int pack;                /* samples of JSON lines side by side */
    int own_classes;         /* of a model that was a classifier before it was given data */
    int approximate;         /* a family that is not read may be planned as one that is */
    int ignore_eos;          /* of generate: do not stop at a token that ends a text */
    int inference, generate; /* nothing is trained; generate: the command, whose batch and seq are its own */
    char **arguments;        /* of the command line, the subcommand first */
    int argument_count;
    ModelPreset preset;   /* of `model`, with the options applied */
    IoApproximation near; /* what the model has otherwise, where --approximate took another family */
    char label[96];       /* the values it has from lists: "--batch 2 --seq 512" */
} Options;

/* What the model is like, whichever its family. */
static inline const ModelFamilyRow *family_of(const Options *options)
{
    return nn_family(options->preset.family);
}
static inline int reads_text(const Options *options)
{
    return family_of(options)->reads == MODEL_READS_TEXT;
}

enum { SETS_MAX = 64 };

/* Fills options from the arguments after the subcommand. With max > 1 values may be comma lists, and there is
 * a set for every combination. Returns how many, or -1 after saying why on stderr. */
int options_parse(Options *sets, int max, const char *command, int argc, char **argv);

/* Whether the rows of a comparison of lists differ in this option. */
int option_varies(const Options *options, const char *flag);

/* paths.c */
int is_bin(const char *path); /* by its name: token ids */
int is_directory(const char *path);
/* A folder of Hugging Face's cache becomes the snapshot that it stands for; what else it is, or NULL, stays.
 * EXIT_USAGE after saying why there is none. */
int follow_cache(const char **path);
int same_file(const char *a, const char *b); /* or directory, by whatever names; NULL is none */
/* The path is the directory, or a file in it. */
int is_read_from(const char *path, const char *directory);
/* What is there of weights or their description (.json, .safetensors) in the directory that they are read
 * from, NULL for none. */
int is_of_a_model(const char *path, const char *directory);

/* Says what is wrong with the arguments; returns EXIT_USAGE. */
int usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same of --device: what is missing for it here, in at most so many bytes. */
enum { CHECK_DEVICE = 800 };
int no_device(const Options *o, const char *why);
int parse_size(const char *name, const char *text, uint64_t *out); /* 0 or EXIT_USAGE; name: of the flag */

typedef struct LeverText {
    char text[1200];
} LeverText;
LeverText lever_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void lever_add(LeverText *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
LeverText checkpoint_text(const CheckpointChoice *choice);
/* What weights are stored as: "fp32", "bf16"; "nf4, rest bf16" where linear layers are quantised. */
LeverText weights_text(const Options *options);
/* The same, and what is trained how: "bf16-mixed"; "nf4, rest bf16  bf16 activations". */
LeverText types_text(const Options *options);
/* All of `brim help`; and the page of a command, of a group of options or of the glossary: EXIT_USAGE when
 * there is none of this name. */
void help_all(FILE *out);
int help_page(FILE *out, const char *name);
int unknown_command(const char *name); /* says so, with the nearest ones; returns EXIT_USAGE */

/* Parameters that are stored in one way. */
typedef struct Stored {
    DType dtype;
    int64_t count;
    uint64_t bytes;      /* of their arrays, scales included; a block is rounded up beyond that */
    int64_t divided;     /* of the parameters: those that ranks divide */
    uint64_t rank_bytes; /* that one rank has of them, padding included */
} Stored;

/* What a training spends on a parameter, counted over the tensors as they are. (bracket.c) */
typedef struct Bracket {
    int64_t active;             /* of the model's own parameters: those that a token passes through */
    Stored frozen[DTYPE_COUNT]; /* in the order in which they come first */
    int frozen_kinds;
    Stored trained;
    uint64_t gradients, masters, states; /* bytes of what is trained; masters 0: there are none */
    int ranks;    /* more than 1: what follows is of one of them; all above is of the whole model */
    int tensor;   /* of them, that compute a layer together */
    int replicas; /* of what the others divide */
    RankStrategy strategy;
    uint64_t rank_weights, rank_gradients, rank_masters,
        rank_states;               /* of what is trained, padding included */
    int64_t kept_whole;            /* trained parameters in tensors that are too small to be divided */
    int64_t below;                 /* those whose weights alone are whole: --replicate-below */
    int64_t padding;               /* parameters that there are not, and for which the parts have room */
    int64_t vocabulary, rows_each; /* rows of the embedding, and those that each of the ranks has; 0: all */
    int copy;                      /* bytes of a weight's 16-bit copy that comes and goes; 0: there is none */
    int adapters;                  /* what is trained stands beside the model's own parameters */
} Bracket;
Bracket bracket_of(const Options *options, Module *model, const Optimizer *optimizer);
/* "base 0.516 x 6.98B + 2 x 1.05B frozen; adapters 4 + 4 + 8 = 16 bytes x 41,943,040": weights, gradients and
 * states; with masters "2 + 2 + 4 + 8", with copies "4 + 2* + 4 + 8". */
LeverText bracket_text(const Bracket *bracket);
/* What a star in it means; "" where there is none. */
const char *bracket_star(const Bracket *bracket);
json_t *bracket_json(const Bracket *bracket);
/* Where adapters are trained, how many parameters they have, as "trained". */
void bracket_add_trained(json_t *object, const Bracket *bracket);
/* Of so many parameters; where that is not all of them: ", 12,879,925,248 active". */
LeverText active_text(int64_t active, int64_t parameters);
uint64_t bracket_frozen_bytes(const Bracket *bracket);

/* The script of train, plan, compare and fit; config is a Training. What a run leaves behind is in the same
 * struct. */
typedef struct Training {
    const Options *options;
    TrainLog *log;                             /* NULL = none */
    Saving *saving;                            /* NULL = neither saves nor resumes */
    int64_t parameters, samples, first, steps; /* first: steps done before, in the run that is resumed */
    int64_t skipped; /* steps of this run that updated nothing: gradients overflowed */
    Bracket bracket;
    IoSize save_size, export_size;    /* of one save, of the export; 0 = there is none */
    int blocks;                       /* repeated ones, that --checkpoint is about */
    double validation_loss, accuracy; /* accuracy < 0: not a classifier */
    int64_t validation_samples;
    double step_seconds, validation_seconds; /* what steps and evaluations took, together */
    int exported;                            /* 1: --export is written; -1: it could not be */
    int adapter_exported;                    /* the same of --export-adapter */
    char generated[161];
} Training;
int training_script(void *config);
/* What --init says, if it was given. Returns error_code(). */
int load_initial(const Options *options, Module *model);
/* Says how the weights of the next model are stored; before it is made. */
void store_weights(const Options *options);
RunOptions run_options(const Options *options);
/* The card that a plan or a run is for: one of `brim gpus` (named), this machine's, or, where there is none,
 * what is assumed. In words, "NVIDIA H100 80GB"; "" and 0 on the CPU. capability: times ten. */
typedef struct PlannedCard {
    char text[160];
    int capability;
    const char *name, *source; /* name: of `brim gpus`, or NULL; source: "named", "this machine", "assumed" */
} PlannedCard;
PlannedCard planned_card(const Options *options);
/* The same for scripts, under "card", where there is one. */
void planned_card_json(json_t *object, const Options *options);
/* Plans the options; on failure says why on stderr and returns EXIT_NO. */
int plan_or_say(const Options *options, Training *training, Plan *plan);
/* Finds what --checkpoint auto stands for, if it was given, says so, and puts it into the options. EXIT_NO
 * when nothing fits, after saying what comes closest and what else would help. */
int resolve_checkpoint(Options *options);
/* EXIT_NO when the plan needs more than the budget, after saying what would fit. */
int check_budget(const Options *options, const Plan *plan);
/* The same for what this machine has free now, `more` bytes of memory beside the plan's. */
int check_machine(const Options *options, const Plan *plan, uint64_t more);
/* A note where a run that fits takes nearly all that is free. */
void say_if_tight(const Plan *plan, uint64_t more);
/* EXIT_NO when there is too little disk for what the options say is to be written, after saying what is
 * needed and what is free. */
int check_room(const Options *options, const Training *training, const Plan *plan);
/* Bytes of it that go to file systems that are memory. */
uint64_t room_in_memory(const Options *options, const Training *training, const Plan *plan);

/* What plans remember of JSON lines of samples (pairs.c), and of a table of texts and labels (csv.c). */
void forget_pairs(void);
void forget_csv(void);
/* A classifier of texts. */
int is_classifier(const Options *options);
/* What its classes are called by the data; NULL: by numbers, or as its config.json says. */
const char *const *csv_label_names(const Options *options);
/* Says what is no error, on stderr: "brim: note: …". */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same of an error: on stderr, "brim: …", or "rank 3: …" where this process is that one of several. Other
 * ranks mostly have the same error: one that is not rank 0 waits for a moment, in which rank 0's ends them
 * all. At once: of an error that is this rank's own. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void complain_at_once(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* From here on this process is one of several: those but rank 0 print nothing, and note nothing. */
void speak_as(int rank);
int speaks_alone(void); /* whether it is rank 0, or the only one */
/* Says what the library raised, and clears it; returns EXIT_NO. */
int say_error(void);
/* Finds the library that products run on: EXIT_NO after saying why the one that BRIM_BLAS names cannot be
 * used. Says too where products are slower than they need to be. */
int products_or_say(void);
int threads_of(const Options *options);
/* --lr; or what is usual with this optimizer, for trained weights (--init) or from random ones. (options.c)
 */
float learning_rate(const Options *options);
/* A line of phrases that stand two spaces or a semicolon apart; on a terminal it breaks between them. */
typedef struct SayLine {
    char text[1024];
} SayLine;
void line_add(SayLine *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_line(const SayLine *line); /* on stdout, with its newline */
/* What a run is about to use: "OpenBLAS 0.3.21 SkylakeX, 2 threads, avx512 kernels; plan: needs 1.9 GiB". */
void print_machine(const Options *options, const Plan *plan);
/* "NVIDIA H200 (cuda:0), compute capability 9.0, 132 multiprocessors": the card that --device names. */
const char *device_title(const Options *options);
/* What computes products: "OpenBLAS 0.3.21 SkylakeX", or "cuBLAS". */
const char *products_name(const Options *options);

/* Groups in the words of the tables. */
extern const char *const group_names[MEM_GROUP_COUNT];
/* Of what comes and goes within a step (gradients, activations, overhead), what holds most at the peak. */
MemGroup bound_by(const MemSummary *memory);

/* What stands before a number, or a verdict, that is of another family's model: "APPROXIMATE  "; "" else. By
 * how many bytes its need can be wrong, at most; two lines about it, and the same for scripts, where it is.
 * (approximate.c) */
int is_approximate(const Options *options);
const char *approximate_tag(const Options *options);
uint64_t approximate_bytes(const Options *options);
void approximate_print(const Options *options);
void approximate_json(json_t *object, const Options *options);

/* brim plan --inference. */
int command_plan_inference(const Options *options);

/* The textbook's rules evaluated for this run, beside its plan; and all of its rules as JSON. */
void rules_print(FILE *out, const Options *options, const Training *training, const Plan *plan);
json_t *textbook_json(void);

/* The memory object that is the same everywhere. planned may be NULL. */
json_t *json_memory(const MemSummary *memory, const MemSummary *planned);
/* What is trained, in a line, and what a parameter takes, in another; of steps nothing is said when they are
 * 0. */
void print_title(const Options *options, int64_t parameters, const Bracket *bracket, int64_t steps);
/* The same of plans that are `on` a device, in words. */
void print_title_on(const Options *options, int64_t parameters, const Bracket *bracket, int64_t steps,
                    const char *on);
/* Arguments, and errors with paths, are bytes, JSON is UTF-8: what is not, has '?' for each byte past ASCII.
 * json_clean does so in place. */
json_t *json_text(const char *text);
void json_clean(char *text);
json_t *json_number(double number); /* null where JSON has no such number */
void json_print(json_t *object);    /* one object, on stdout; frees it */

/* `count` sets of options; only compare is given more than one. */
int command_train(const Options *options, int count);
int command_plan(const Options *options, int count);
int command_compare(const Options *options, int count);
int command_fit(const Options *options, int count);
int command_demo(const Options *options, int count);
int command_generate(const Options *options, int count);
int command_models(const Options *options, int count);
int command_gpus(const Options *options, int count);
/* Its arguments are its own: those after the subcommand. */
int command_report(int argc, char **argv);
void report_outputs_help(FILE *out);
int command_tokenize(int argc, char **argv); /* with options of its own */
void tokenize_help(FILE *out);

#endif
