/* The flags: one table, one meaning in every subcommand, and errors that say what would be right. An argument
 * becomes an assignment of one value to one field of Options; compare may give a list of values. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "flags_.h"

#define AT(field) offsetof(Options, field)
enum { MOST_THREADS = 128, MOST_SAMPLE = 160 }; /* of a context; of Training.generated */

static const Flag flags[] = {
    {"--model", FLAG_NAME, AT(model), "NAME", .help = "one of `brim models`, or a config.json (llama-tiny)"},
    {"--init", FLAG_TEXT, AT(init), "PATH", .help = "weights to start from: directory, .safetensors, index"},
    {"--init-partial", FLAG_SWITCH, AT(init_partial), NULL,
     .help = "--init may lack some weights, and have others"},
    {"--data", FLAG_TEXT, AT(data), "PATH", .help = "text, .bin of ids, IDX folder, builtin, fashion-mnist"},
    {"--tokenizer", FLAG_TEXT, AT(tokenizer), "FILE",
     .help = "a tokenizer.json, or bytes (the model's, else bytes)"},
    {"--vocab", FLAG_INT, AT(vocab), "N", .help = "tokens that the model knows (the model's usual)",
     .low = 2},
    {"--batch", FLAG_INT, AT(batch), "N", .help = "samples in a micro-batch (the model's usual)", .low = 1},
    {"--seq", FLAG_INT, AT(seq), "N", .help = "tokens in a sample (the model's usual)", .low = 1},
    {"--accumulate", FLAG_INT, AT(accumulate), "N", .help = "micro-batches in a step (1)", .low = 1},
    {"--steps", FLAG_INT64, AT(steps), "N", .help = "optimizer steps (300)"},
    {"--epochs", FLAG_INT, AT(epochs), "N", .help = "passes over the data, instead of --steps", .low = 1},
    {"--optimizer", FLAG_NAME, AT(optimizer), "NAME",
     .help = "sgd[-momentum|-nesterov] rmsprop adam adamw (adamw)"},
    {"--lr", FLAG_FLOAT, AT(lr), "X", .help = "learning rate (sgd 0.05; llama, gpt2 2e-3; else 1e-3)"},
    {"--weight-decay", FLAG_FLOAT, AT(weight_decay), "X",
     .help = "of all but norms and biases (adamw 0.01; else 0)"},
    {"--schedule", FLAG_NAME, AT(schedule), "NAME", .help = "constant, linear, cosine (cosine)"},
    {"--warmup", FLAG_INT, AT(warmup), "N", .help = "steps of linear warm-up (5 % of the steps)"},
    {"--clip", FLAG_FLOAT, AT(clip), "X", .help = "largest gradient norm; 0: any (1; in backward: 0)"},
    {"--dropout", FLAG_FLOAT, AT(dropout), "P",
     .help = "dropout probability (0, or what a config.json says)"},
    {"--checkpoint", FLAG_CHECKPOINT, AT(checkpoint), "WHAT",
     .help = "none, blocks, every N blocks, selective, auto (none)"},
    {"--optimizer-in-backward", FLAG_SWITCH, AT(in_backward), NULL,
     .help = "update inside backward; a gradient lives for a moment"},
    {"--zero-grad", FLAG_ZERO_GRAD, AT(keep_gradients), "free|keep", .help = "between steps (free)"},
    {"--loss-chunk", FLAG_INT, AT(loss_chunk), "N", .help = "rows of logits that exist at once (0: all)"},
    {"--attention", FLAG_ATTENTION, AT(attention), "flash|eager",
     .help = "keep a row's log-sum-exp, or all scores (flash)"},
    {"--budget", FLAG_SIZE, AT(budget), "SIZE", .help = "do not start if more is needed, as 800MiB or 16GiB"},
    {"--seed", FLAG_SEED, AT(seed), "N", .help = "of initialisation, shuffling and dropout (1)"},
    {"--threads", FLAG_INT, AT(threads), "N", .help = "processors to use (all)", .low = 1,
     .high = MOST_THREADS},
    {"--device", FLAG_NAME, AT(device), "cpu|cuda",
     .help = "where tensors are (cpu); this build has no cuda"},
    {"--max-samples", FLAG_INT64, AT(max_samples), "N", .help = "use only the first N samples"},
    {"--every", FLAG_INT, AT(every), "N", .help = "steps between printed lines (a twentieth of the run)",
     .low = 1},
    {"--evaluate-every", FLAG_INT, AT(evaluate_every), "N",
     .help = "steps between validations (with --epochs: each one)", .low = 1},
    {"--sample", FLAG_INT, AT(sample), "N", .help = "tokens that a llama or gpt2 writes at the end (0)",
     .high = MOST_SAMPLE},
    {"--prompt", FLAG_TEXT, AT(prompt), "TEXT", .help = "what is continued (\"The \")"},
    {"--tokens", FLAG_INT, AT(tokens), "N", .help = "to write (100)", .low = 1, .only = "generate"},
    {"--temperature", FLAG_FLOAT, AT(temperature), "X", .help = "logits are divided by it; 0: greedy (0.8)",
     .only = "generate"},
    {"--top-k", FLAG_INT, AT(top_k), "K", .help = "draw from the K most probable (0: all)",
     .only = "generate"},
    {"--top-p", FLAG_FLOAT, AT(top_p), "P", .help = "draw from the fewest of probability P (1)",
     .only = "generate"},
    {"--prefill", FLAG_INT, AT(prefill), "N", .help = "prompt tokens read at once (512)", .low = 1,
     .only = "generate plan"},
    {"--ignore-eos", FLAG_SWITCH, AT(ignore_eos), NULL, .help = "go on after a token that ends a text",
     .only = "generate"},
    {"--log", FLAG_TEXT, AT(log), "FILE.jsonl", .help = "write a line a step, each a JSON object",
     .only = "train demo"},
    {"--save", FLAG_TEXT, AT(save), "DIR", .help = "save the run in this directory", .only = "train"},
    {"--save-every", FLAG_INT64, AT(save_every), "N", .help = "steps between saves (a tenth of the run)",
     .only = "train"},
    {"--keep", FLAG_INT, AT(keep), "K", .help = "saves to keep, the newest (2)", .low = 1, .only = "train"},
    {"--resume", FLAG_TEXT, AT(resume), "DIR", .help = "go on with the newest save in this directory",
     .only = "train"},
    {"--export", FLAG_TEXT, AT(export), "DIR", .help = "write model.safetensors and config.json there",
     .only = "train"},
    {"--overwrite", FLAG_SWITCH, AT(overwrite), NULL, .help = "--export may replace another model in its DIR",
     .only = "train"},
    {"--export-dtype", FLAG_NAME, AT(export_dtype), "TYPE", .help = "f32, f16 or bf16 (f32)",
     .only = "train"},
    {"--export-shard", FLAG_SIZE, AT(export_shard), "SIZE",
     .help = "several files of at most this size (50GB)", .only = "train"},
    {"--textbook", FLAG_SWITCH, AT(textbook), NULL, .help = "the rules of thumb, and where each is wrong",
     .only = "plan"},
    {"--inference", FLAG_SWITCH, AT(inference), NULL, .help = "what writing --seq tokens needs, not training",
     .only = "plan"},
    {"--run", FLAG_INT64, AT(run_steps), "N", .help = "train each row for N steps too", .only = "compare"},
    {"--csv", FLAG_SWITCH, AT(csv), NULL, .help = "the table as comma-separated values", .only = "compare"},
    {"--card", FLAG_TEXT, AT(cards), "NAME,…", .help = "which of `brim gpus` (a usual handful)",
     .only = "fit"},
    {"--memory", FLAG_TEXT, AT(memories), "SIZE,…", .help = "cards of these sizes", .only = "fit"},
    {"--reserve", FLAG_SIZE, AT(reserve), "SIZE", .help = "of each card, for contexts and libraries (1GiB)",
     .zero = 1, .only = "fit"},
    {"--json", FLAG_SWITCH, AT(json), NULL, .help = "one JSON object with exact bytes, no tables"},
    {"--quiet", FLAG_SWITCH, AT(quiet), NULL, .help = "no step lines"},
};
enum { FLAG_COUNT = sizeof flags / sizeof flags[0] };

/* Padded by what is seen: a value may hold an ellipsis, one column of three bytes. */
static void print_flag(FILE *out, const Flag *flag)
{
    enum { LEFT = 24 };
    int columns = fprintf(out, "  %s %s", flag->name, flag->value ? flag->value : "") - 2;
    for (const char *c = flag->value; c && *c; c++)
        columns -= ((unsigned char)*c & 0xc0) == 0x80;
    fprintf(out, "%*s %s", columns < LEFT ? LEFT - columns : 0, "", flag->help);
}

typedef struct CommandsText {
    char text[64];
} CommandsText;

/* The commands that take it, with this between. */
static CommandsText commands_text(const Flag *flag, const char *between)
{
    CommandsText out = {""};
    size_t used = 0;
    for (const char *at = flag->only; at && *at && used < sizeof out.text; at += strspn(at, " ")) {
        int length = (int)strcspn(at, " ");
        used += (size_t)snprintf(out.text + used, sizeof out.text - used, "%s%.*s", used ? between : "",
                                 length, at);
        at += length;
    }
    return out;
}

static int takes_flag(const Flag *flag, const char *command)
{
    size_t length = strlen(command);
    for (const char *at = flag->only; at && *at; at += strspn(at, " ")) {
        if (strcspn(at, " ") == length && !strncmp(at, command, length))
            return 1;
        at += strcspn(at, " ");
    }
    return !flag->only;
}

void options_help(FILE *out)
{
    for (int i = 0; i < FLAG_COUNT; i++) {
        print_flag(out, &flags[i]);
        fprintf(out, flags[i].only ? " [%s]\n" : "\n", commands_text(&flags[i], ", ").text);
    }
}

void option_help(FILE *out, const char *name)
{
    for (int i = 0; i < FLAG_COUNT; i++)
        if (!strcmp(flags[i].name, name)) {
            print_flag(out, &flags[i]);
            fputc('\n', out);
        }
}

int usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "brim: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    return EXIT_USAGE;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static int parse_int(const Flag *flag, const char *text, int64_t low, int64_t high, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        return usage("%s must be a whole number from %" PRId64 " to %" PRId64 ", not '%s'", flag->name, low,
                     high, text);
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

int parse_size(const char *name, const char *text, uint64_t *out)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
                 {"TiB", 0x1p40}, {"kB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
    char *end;
    double value = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof units[0]; i++)
        if (!strcmp(end, units[i].name) && value * units[i].bytes >= 1 && value * units[i].bytes < 0x1p62) {
            *out = (uint64_t)(value * units[i].bytes);
            return 0;
        }
    return usage("%s must be a size like 800MiB, 16GiB or a number of bytes, not '%s'", name, text);
}

int parse_choice(const char *name, const char *choices, const char *text, const char *const *names, int *out)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(text, names[i])) {
            *out = i;
            return 0;
        }
    return usage("%s must be one of %s, not '%s'", name, choices, text);
}

/* none, selective, auto, blocks, N, a pattern; selective+ before any of the last three. */
static int parse_checkpoint(const Flag *flag, const char *text, CheckpointChoice *out)
{
    static const char selective[] = "selective+";
    CheckpointChoice choice = {0};
    int64_t every = 0;
    const char *rest = text;
    if (!strncmp(text, selective, sizeof selective - 1)) {
        choice.selective = 1;
        rest += sizeof selective - 1;
    }
    if (!strcmp(rest, "blocks"))
        choice.every = 1;
    else if (rest[0] && strspn(rest, ".c+") == strlen(rest) && strlen(rest) <= PLAN_BLOCKS_MAX)
        strcpy(choice.found.pattern, rest);
    else if (rest[0] >= '0' && rest[0] <= '9') {
        int status = parse_int(flag, rest, 1, INT_MAX, &every);
        if (status)
            return status;
        choice.every = (int)every;
    } else if (!choice.selective && !strcmp(rest, "selective"))
        choice.selective = 1;
    else if (!choice.selective && !strcmp(rest, "auto"))
        choice.automatic = 1;
    else if (choice.selective || strcmp(rest, "none"))
        return usage(
            "%s must be none, selective, blocks, auto, a number of blocks run again together, "
            "selective+blocks, selective+N, or a pattern like 'cc+.' (a character a block), not '%s'",
            flag->name, text);
    *out = choice;
    return 0;
}

static int parse_value(const Flag *flag, void *field, const char *text)
{
    static const char *const attentions[] = {"flash", "eager", NULL}, *const zero_grads[] = {"free", "keep",
                                                                                             NULL};
    int64_t number = 0;
    int choice = 0, status = 0;
    switch (flag->kind) {
    case FLAG_TEXT:
    case FLAG_NAME:
        if (!text[0] && strcmp(flag->name, "--prompt") != 0) /* which says by itself what it needs */
            return usage("%s needs a value: %s", flag->name, flag->value);
        *(const char **)field = text;
        return 0;
    case FLAG_INT:
        status = parse_int(flag, text, flag->low, flag->high ? flag->high : INT_MAX, &number);
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
        if (flag->zero && !strcmp(text, "0")) {
            *(uint64_t *)field = 0;
            return 0;
        }
        return parse_size(flag->name, text, field);
    case FLAG_CHECKPOINT:
        return parse_checkpoint(flag, text, field);
    case FLAG_ATTENTION:
        status = parse_choice(flag->name, flag->value, text, attentions, &choice);
        *(AttentionKind *)field = (AttentionKind)choice;
        return status;
    case FLAG_ZERO_GRAD:
        return parse_choice(flag->name, flag->value, text, zero_grads, field);
    case FLAG_SWITCH:
        *(int *)field = 1;
        return 0;
    }
    return EXIT_USAGE;
}

int assign(Options *options, const Assignment *assignment, int which)
{
    const Flag *flag = assignment->flag;
    return parse_value(flag, (char *)options + flag->offset, assignment->values[which]);
}

/* ---- Arguments ------------------------------------------------------------------------------- */

static const Flag *find_flag(const char *name, size_t length)
{
    for (int i = 0; i < FLAG_COUNT; i++)
        if (strlen(flags[i].name) == length && !strncmp(flags[i].name, name, length))
            return &flags[i];
    return NULL;
}

/* Cuts a list at its commas, in place. Free text may hold commas of its own. */
static int split_values(Assignment *a, char *value, int lists)
{
    a->values[a->count++] = value;
    if (!lists || a->flag->kind == FLAG_TEXT)
        return 0;
    for (char *comma; (comma = strchr(value, ',')); a->values[a->count++] = value) {
        if (a->count == LIST_MAX)
            return usage("%s takes at most %d values", a->flag->name, LIST_MAX);
        *comma = '\0';
        value = comma + 1;
    }
    return 0;
}

int assignments_parse(Assignments *all, const char *command, int argc, char **argv, int lists)
{
    static char on[] = "1";
    all->count = 0;
    for (int i = 0; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        size_t length = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        const Flag *flag = find_flag(argv[i], length);
        if (!flag)
            return usage("unknown option '%s'; `brim help` lists them", argv[i]);
        if (!takes_flag(flag, command))
            return usage("%s belongs to `brim %s`", flag->name, commands_text(flag, "` and `brim ").text);
        char *value = equals ? equals + 1 : NULL;
        if (flag->kind == FLAG_SWITCH && value)
            return usage("%s takes no value", flag->name);
        if (flag->kind != FLAG_SWITCH && !value) {
            if (++i >= argc)
                return usage("%s needs a value: %s", flag->name, flag->value);
            value = argv[i];
        }
        if (all->count == ASSIGNMENTS_MAX)
            return usage("more than %d options", ASSIGNMENTS_MAX);
        Assignment *a = &all->item[all->count++];
        *a = (Assignment){.flag = flag};
        int status = split_values(a, value ? value : on, lists);
        if (status)
            return status;
    }
    return 0;
}
