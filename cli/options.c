/* Command-line options: one table, one meaning in every subcommand, and errors that say what would be right.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef enum FlagKind {
    FLAG_TEXT,
    FLAG_INT,
    FLAG_INT64,
    FLAG_SEED,
    FLAG_FLOAT,
    FLAG_SIZE,
    FLAG_SWITCH,
    FLAG_CHECKPOINT,
    FLAG_ATTENTION
} FlagKind;

typedef struct Flag {
    const char *name;
    FlagKind kind;
    size_t offset;
    const char *value, *help;
} Flag;

#define AT(field) offsetof(Options, field)
static const Flag flags[] = {
    {"--model", FLAG_TEXT, AT(model), "NAME", "one of `brim models` (llama-tiny)"},
    {"--data", FLAG_TEXT, AT(data), "PATH", "text file, IDX folder, builtin or fashion-mnist"},
    {"--batch", FLAG_INT, AT(batch), "N", "samples in a micro-batch (the model's usual)"},
    {"--seq", FLAG_INT, AT(seq), "N", "tokens in a sample (the model's usual)"},
    {"--accumulate", FLAG_INT, AT(accumulate), "N", "micro-batches in a step (1)"},
    {"--steps", FLAG_INT64, AT(steps), "N", "optimizer steps (300)"},
    {"--epochs", FLAG_INT, AT(epochs), "N", "passes over the data, instead of --steps"},
    {"--optimizer", FLAG_TEXT, AT(optimizer), "NAME", "sgd[-momentum|-nesterov] rmsprop adam adamw (adamw)"},
    {"--lr", FLAG_FLOAT, AT(lr), "X", "learning rate (sgd 0.05; llama, gpt2 2e-3; else 1e-3)"},
    {"--weight-decay", FLAG_FLOAT, AT(weight_decay), "X", "of all but norms and biases (adamw 0.01; else 0)"},
    {"--schedule", FLAG_TEXT, AT(schedule), "NAME", "constant, linear, cosine (cosine)"},
    {"--warmup", FLAG_INT, AT(warmup), "N", "steps of linear warm-up (5 % of the steps)"},
    {"--clip", FLAG_FLOAT, AT(clip), "X", "largest gradient norm (1); 0 turns it off"},
    {"--dropout", FLAG_FLOAT, AT(dropout), "P", "dropout probability (0)"},
    {"--checkpoint", FLAG_CHECKPOINT, AT(checkpoint), "none|blocks",
     "recompute activations of blocks in backward (none)"},
    {"--attention", FLAG_ATTENTION, AT(attention), "flash|eager",
     "keep a row's log-sum-exp, or all scores (flash)"},
    {"--budget", FLAG_SIZE, AT(budget), "SIZE", "do not start if more is needed, as 800MiB or 16GiB"},
    {"--seed", FLAG_SEED, AT(seed), "N", "of initialisation, shuffling and dropout (1)"},
    {"--threads", FLAG_INT, AT(threads), "N", "processors to use (all)"},
    {"--max-samples", FLAG_INT64, AT(max_samples), "N", "use only the first N samples"},
    {"--every", FLAG_INT, AT(every), "N", "steps between printed lines (a twentieth of the run)"},
    {"--evaluate-every", FLAG_INT, AT(evaluate_every), "N",
     "steps between validations (with --epochs: each one)"},
    {"--sample", FLAG_INT, AT(sample), "N", "bytes that a llama or gpt2 writes at the end (0)"},
    {"--prompt", FLAG_TEXT, AT(prompt), "TEXT", "what the sample continues (\"The \")"},
    {"--log", FLAG_TEXT, AT(log), "FILE.jsonl", "write a line a step, each a JSON object"},
    {"--json", FLAG_SWITCH, AT(json), NULL, "one JSON object with exact bytes, no tables"},
    {"--quiet", FLAG_SWITCH, AT(quiet), NULL, "no step lines"},
};
enum { FLAG_COUNT = sizeof flags / sizeof flags[0] };
enum { MOST_THREADS = 128, MOST_SAMPLE = 160 }; /* of a context; of Training.generated */

void options_help(FILE *out)
{
    for (int i = 0; i < FLAG_COUNT; i++) {
        char left[48];
        snprintf(left, sizeof left, "%s %s", flags[i].name, flags[i].value ? flags[i].value : "");
        fprintf(out, "  %-24s %s\n", left, flags[i].help);
    }
}

static int usage(const char *format, const char *a, const char *b)
{
    fprintf(stderr, "brim: ");
    fprintf(stderr, format, a, b);
    fprintf(stderr, "\n");
    return EXIT_USAGE;
}

static int parse_int(const Flag *flag, const char *text, int64_t low, int64_t high, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high) {
        fprintf(stderr, "brim: %s must be a whole number from %" PRId64 " to %" PRId64 ", not '%s'\n",
                flag->name, low, high, text);
        return EXIT_USAGE;
    }
    *out = value;
    return 0;
}

static int parse_float(const Flag *flag, const char *text, float *out)
{
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end || !isfinite(value) || value < 0)
        return usage("%s must be a finite number of at least 0, not '%s'", flag->name, text);
    *out = value;
    return 0;
}

static int parse_size(const Flag *flag, const char *text, uint64_t *out)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
                 {"TiB", 0x1p40}, {"kB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
    char *end;
    double value = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof units[0]; i++)
        if (!strcmp(end, units[i].name) && value > 0 && value * units[i].bytes < 0x1p62) {
            *out = (uint64_t)(value * units[i].bytes);
            return 0;
        }
    return usage("%s must be a size like 800MiB, 16GiB or a number of bytes, not '%s'", flag->name, text);
}

static int parse_choice(const Flag *flag, const char *text, const char *const *names, int *out)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(text, names[i])) {
            *out = i;
            return 0;
        }
    fprintf(stderr, "brim: %s must be one of %s, not '%s'\n", flag->name, flag->value, text);
    return EXIT_USAGE;
}

static int parse_value(const Flag *flag, void *field, const char *text)
{
    static const char *const checkpoints[] = {"none", "blocks", NULL};
    static const char *const attentions[] = {"flash", "eager", NULL};
    int64_t number = 0;
    int choice = 0, status = 0;
    int may_be_0 = !strcmp(flag->name, "--warmup") || !strcmp(flag->name, "--sample");
    int high = !strcmp(flag->name, "--threads")  ? MOST_THREADS
               : !strcmp(flag->name, "--sample") ? MOST_SAMPLE
                                                 : INT_MAX;
    switch (flag->kind) {
    case FLAG_TEXT:
        *(const char **)field = text;
        return 0;
    case FLAG_INT:
        status = parse_int(flag, text, may_be_0 ? 0 : 1, high, &number);
        *(int *)field = (int)number;
        return status;
    case FLAG_INT64:
        return parse_int(flag, text, 1, INT64_C(1) << 53, field);
    case FLAG_SEED:
        status = parse_int(flag, text, 0, INT64_MAX, &number);
        *(uint64_t *)field = (uint64_t)number;
        return status;
    case FLAG_FLOAT:
        return parse_float(flag, text, field);
    case FLAG_SIZE:
        return parse_size(flag, text, field);
    case FLAG_CHECKPOINT:
        status = parse_choice(flag, text, checkpoints, &choice);
        *(CheckpointMode *)field = (CheckpointMode)choice;
        return status;
    case FLAG_ATTENTION:
        status = parse_choice(flag, text, attentions, &choice);
        *(AttentionKind *)field = (AttentionKind)choice;
        return status;
    case FLAG_SWITCH:
        *(int *)field = 1;
        return 0;
    }
    return EXIT_USAGE;
}

static const Flag *find_flag(const char *name, size_t length)
{
    for (int i = 0; i < FLAG_COUNT; i++)
        if (strlen(flags[i].name) == length && !strncmp(flags[i].name, name, length))
            return &flags[i];
    return NULL;
}

static int parse_flags(Options *o, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        size_t length = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        const Flag *flag = find_flag(argv[i], length);
        if (!flag)
            return usage("unknown option '%s'; `brim help` lists them%s", argv[i], "");
        const char *value = equals ? equals + 1 : NULL;
        if (flag->kind == FLAG_SWITCH && value)
            return usage("%s takes no value%s", flag->name, "");
        if (flag->kind != FLAG_SWITCH && !value) {
            if (++i >= argc)
                return usage("%s needs a value: %s", flag->name, flag->value);
            value = argv[i];
        }
        int status = parse_value(flag, (char *)o + flag->offset, value);
        if (status)
            return status;
    }
    return 0;
}

static int check_names(const Options *o)
{
    static const char *const optimizers[] = {
        "sgd", "sgd-momentum", "sgd-nesterov", "rmsprop", "adam", "adamw", NULL};
    static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
    int found;
    const Flag optimizer = {.name = "--optimizer",
                            .value = "sgd, sgd-momentum, sgd-nesterov, rmsprop, adam, adamw"};
    const Flag schedule = {.name = "--schedule", .value = "constant, linear, cosine"};
    if (parse_choice(&optimizer, o->optimizer, optimizers, &found))
        return EXIT_USAGE;
    return parse_choice(&schedule, o->schedule, schedules, &found);
}

static int apply_model(Options *o)
{
    const ModelPreset *preset = nn_preset(o->model);
    if (!preset)
        return usage("unknown model '%s'; `brim models` lists them%s", o->model, "");
    o->preset = *preset;
    int text = preset->family != MODEL_MLP;
    if (!text && o->seq)
        return usage("--seq means nothing to the model '%s', which reads images%s", o->model, "");
    if (o->dropout >= 1)
        return usage("--dropout must be below 1%s%s", "", "");
    nn_preset_set_attention(&o->preset, o->attention);
    nn_preset_set_dropout(&o->preset, o->dropout);
    o->batch = o->batch ? o->batch : preset->batch;
    o->seq = o->seq ? o->seq : preset->seq;
    if (text && o->seq > nn_preset_max_seq(preset)) {
        fprintf(stderr, "brim: --seq %d is longer than the %d positions of %s\n", o->seq,
                nn_preset_max_seq(preset), o->model);
        return EXIT_USAGE;
    }
    if ((int64_t)o->batch * o->accumulate > INT_MAX) {
        fprintf(stderr,
                "brim: --batch %d x --accumulate %d is %" PRId64 " samples a step; at most %d are possible\n",
                o->batch, o->accumulate, (int64_t)o->batch * o->accumulate, INT_MAX);
        return EXIT_USAGE;
    }
    if (o->sample && preset->family != MODEL_LLAMA && preset->family != MODEL_GPT2)
        return usage("--sample needs a model that writes from left to right; '%s' does not%s", o->model, "");
    if (o->data && !strcmp(o->data, text ? "fashion-mnist" : "builtin"))
        return usage(text ? "--data fashion-mnist is images; '%s' reads text%s"
                          : "--data builtin is a text; '%s' reads images%s",
                     o->model, "");
    if (!o->data)
        o->data = text ? "builtin" : "fashion-mnist";
    return 0;
}

int options_parse(Options *o, int argc, char **argv)
{
    *o = (Options){.model = "llama-tiny",
                   .optimizer = "adamw",
                   .schedule = "cosine",
                   .accumulate = 1,
                   .warmup = -1,
                   .lr = -1,
                   .weight_decay = -1,
                   .clip = 1,
                   .seed = 1};
    int status = parse_flags(o, argc, argv);
    if (!status)
        status = check_names(o);
    if (!status)
        status = apply_model(o);
    if (!status && o->steps && o->epochs)
        return usage("--steps and --epochs say the same thing twice: give one%s%s", "", "");
    if (!status && !o->steps && !o->epochs)
        o->steps = 300;
    return status;
}
