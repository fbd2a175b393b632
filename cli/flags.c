/* The flags: one table, one meaning in every subcommand, and errors that say what would be right. An argument
 * becomes an assignment of one value to one field of Options; compare may give a list of values. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "flags_.h"

#define AT(field) offsetof(Options, field)
enum { MOST_THREADS = 128, MOST_SAMPLE = 160 }; /* of a context; of Training.generated */

static const Flag flags[] = {
    {"--model", FLAG_NAME, AT(model), "NAME", .help = "one of `brim models`, or a config.json (llama-tiny)"},
    {"--init", FLAG_TEXT, AT(init), "PATH", .help = "start from these weights: directory or .safetensors"},
    {"--init-partial", FLAG_SWITCH, AT(init_partial), NULL,
     .help = "allow missing and extra weights in --init"},
    {"--resize-vocab", FLAG_NAME, AT(resize_vocab), "N|auto",
     .help = "grow --init's embeddings (auto: to the tokenizer)"},
    {"--data", FLAG_TEXT, AT(data), "PATH", .help = "text, - (pipe), .gz, folder, .bin of ids, builtin"},
    {"--check-data", FLAG_SWITCH, AT(check_data), NULL, .help = "read all of a large .bin before step 1",
     .only = "train"},
    {"--invalid-utf8", FLAG_NAME, AT(invalid_utf8), "WHAT",
     .help = "refuse or replace it, before a tokenizer (refuse)"},
    {"--tokenizer", FLAG_TEXT, AT(tokenizer), "FILE",
     .help = "tokenizer.json, or bytes (the model's, else bytes)"},
    {"--vocab", FLAG_INT, AT(vocab), "N", .help = "vocabulary size (the model's)", .low = 2},
    {"--batch", FLAG_INT, AT(batch), "N", .help = "samples in a micro-batch (the model's usual)", .low = 1},
    {"--seq", FLAG_INT, AT(seq), "N", .help = "tokens in a sample (the model's usual)", .low = 1},
    {"--accumulate", FLAG_INT, AT(accumulate), "N", .help = "micro-batches in a step (1)", .low = 1},
    {"--steps", FLAG_INT64, AT(steps), "N", .help = "optimizer steps (300)"},
    {"--epochs", FLAG_INT, AT(epochs), "N", .help = "passes over the data, instead of --steps", .low = 1},
    {"--optimizer", FLAG_NAME, AT(optimizer), "NAME",
     .help = "sgd[-momentum|-nesterov] rmsprop adagrad adam adamw"},
    {"--lr", FLAG_FLOAT, AT(lr), "X", .help = "learning rate (by model; with --init 2e-5)"},
    {"--weight-decay", FLAG_FLOAT, AT(weight_decay), "X",
     .help = "on all but norms and biases (adamw 0.01; else 0)"},
    {"--schedule", FLAG_NAME, AT(schedule), "NAME", .help = "of --lr: constant, linear or cosine (cosine)"},
    {"--warmup", FLAG_INT, AT(warmup), "N", .help = "steps of linear warm-up (5 % of the steps)"},
    {"--clip", FLAG_FLOAT, AT(clip), "X", .help = "largest gradient norm, 0 for any (1; in backward 0)"},
    {"--dropout", FLAG_FLOAT, AT(dropout), "P",
     .help = "dropout probability (0, or what a config.json says)"},
    {"--checkpoint", FLAG_CHECKPOINT, AT(checkpoint), "WHAT",
     .help = "recompute: none, blocks, N, selective or auto (none)"},
    {"--optimizer-in-backward", FLAG_SWITCH, AT(in_backward), NULL,
     .help = "free each gradient as soon as it is used"},
    {"--zero-grad", FLAG_ZERO_GRAD, AT(keep_gradients), "free|keep",
     .help = "between steps free gradients, or keep zeros (free)"},
    {"--loss-chunk", FLAG_INT, AT(loss_chunk), "N",
     .help = "compute the loss N rows at a time (0: all at once)"},
    {"--attention", FLAG_ATTENTION, AT(attention), "flash|eager",
     .help = "keep one number a row, or all its scores (flash)"},
    {"--budget", FLAG_SIZE, AT(budget), "SIZE", .help = "refuse to start above SIZE, e.g. 800MiB"},
    {"--seed", FLAG_SEED, AT(seed), "N", .help = "random seed (1)"},
    {"--threads", FLAG_INT, AT(threads), "N", .help = "threads to use (one a processor)", .low = 1,
     .high = MOST_THREADS},
    {"--device", FLAG_NAME, AT(device), "cpu|cuda",
     .help = "where tensors live (cpu); this build has no cuda"},
    {"--max-samples", FLAG_INT64, AT(max_samples), "N", .help = "use only the first N samples"},
    {"--every", FLAG_INT, AT(every), "N", .help = "steps between printed lines (a twentieth of the run)",
     .low = 1},
    {"--evaluate-every", FLAG_INT, AT(evaluate_every), "N",
     .help = "steps between validations (with --epochs: one each)", .low = 1},
    {"--sample", FLAG_INT, AT(sample), "N", .help = "tokens that a llama or gpt2 writes at the end (0)",
     .high = MOST_SAMPLE},
    {"--prompt", FLAG_TEXT, AT(prompt), "TEXT", .help = "text to continue, - reads a pipe (\"The \")"},
    {"--tokens", FLAG_INT, AT(tokens), "N", .help = "tokens to write (100)", .low = 1, .only = "generate"},
    {"--temperature", FLAG_FLOAT, AT(temperature), "X", .help = "divide the logits by X; 0 is greedy (0.8)",
     .only = "generate"},
    {"--top-k", FLAG_INT, AT(top_k), "K", .help = "draw from the K likeliest tokens (0: all)",
     .only = "generate"},
    {"--top-p", FLAG_FLOAT, AT(top_p), "P", .help = "draw from the fewest of probability P (1)",
     .only = "generate"},
    {"--prefill", FLAG_INT, AT(prefill), "N", .help = "prompt tokens to read at once (512)", .low = 1,
     .only = "generate plan"},
    {"--ignore-eos", FLAG_SWITCH, AT(ignore_eos), NULL, .help = "do not stop at a token that ends a text",
     .only = "generate"},
    {"--log", FLAG_TEXT, AT(log), "FILE.jsonl", .help = "write a run log: a JSON object a line",
     .only = "train demo"},
    {"--save", FLAG_TEXT, AT(save), "DIR", .help = "save the run in this directory", .only = "train"},
    {"--save-every", FLAG_INT64, AT(save_every), "N", .help = "steps between saves (a tenth of the run)",
     .only = "train"},
    {"--keep", FLAG_INT, AT(keep), "K", .help = "how many saves to keep, the newest (2)", .low = 1,
     .only = "train"},
    {"--resume", FLAG_TEXT, AT(resume), "DIR", .help = "resume from the newest save in this directory",
     .only = "train"},
    {"--export", FLAG_TEXT, AT(export), "DIR", .help = "write model.safetensors and config.json there",
     .only = "train"},
    {"--overwrite", FLAG_SWITCH, AT(overwrite), NULL, .help = "--export may replace another model in its DIR",
     .only = "train"},
    {"--export-dtype", FLAG_NAME, AT(export_dtype), "TYPE", .help = "data type: f32, f16 or bf16 (f32)",
     .only = "train"},
    {"--export-shard", FLAG_SIZE, AT(export_shard), "SIZE", .help = "split it into files of this size (50GB)",
     .only = "train"},
    {"--textbook", FLAG_SWITCH, AT(textbook), NULL, .help = "rules of thumb, and where each is wrong",
     .only = "plan"},
    {"--inference", FLAG_SWITCH, AT(inference), NULL,
     .help = "plan inference over --seq tokens, not training", .only = "plan"},
    {"--run", FLAG_INT64, AT(run_steps), "N", .help = "also train each row for N steps", .only = "compare"},
    {"--csv", FLAG_SWITCH, AT(csv), NULL, .help = "print comma-separated values", .only = "compare"},
    {"--card", FLAG_TEXT, AT(cards), "NAME,…", .help = "cards from `brim gpus` (a usual handful)",
     .only = "fit"},
    {"--memory", FLAG_TEXT, AT(memories), "SIZE,…", .help = "cards with this much memory", .only = "fit"},
    {"--reserve", FLAG_SIZE, AT(reserve), "SIZE", .help = "of each card, for context and libraries (1GiB)",
     .zero = 1, .only = "fit"},
    {"--json", FLAG_SWITCH, AT(json), NULL, .help = "print one JSON object with exact bytes"},
    {"--quiet", FLAG_SWITCH, AT(quiet), NULL, .help = "print no step lines"},
};
enum { FLAG_COUNT = sizeof flags / sizeof flags[0] };

/* The commands that take it, with this between. */
CommandsText commands_text(const Flag *flag, const char *between)
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

int takes_flag(const Flag *flag, const char *command)
{
    if (takes_page_only(command))
        return page_has(command, flag->name);
    size_t length = strlen(command);
    for (const char *at = flag->only; at && *at; at += strspn(at, " ")) {
        if (strcspn(at, " ") == length && !strncmp(at, command, length))
            return 1;
        at += strcspn(at, " ");
    }
    return !flag->only;
}

const Flag *flag_at(int i)
{
    return i >= 0 && i < FLAG_COUNT ? &flags[i] : NULL;
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

int parse_whole(const char *name, const char *text, int64_t low, int64_t high, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        return usage("%s must be a whole number from %" PRId64 " to %" PRId64 ", not '%s'", name, low, high,
                     text);
    *out = value;
    return 0;
}

static int parse_int(const Flag *flag, const char *text, int64_t low, int64_t high, int64_t *out)
{
    return parse_whole(flag->name, text, low, high, out);
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

/* A unit in whatever case people write it. With an i it is binary; so is a letter alone, as in most tools. */
static double unit_bytes(const char *unit)
{
    static const char letters[] = "kmgt";
    if (!unit[0] || !strcasecmp(unit, "b"))
        return 1;
    const char *letter = strchr(letters, tolower((unsigned char)unit[0]));
    if (!letter)
        return 0;
    int power = (int)(letter - letters) + 1, binary = !unit[1] || !strcasecmp(unit + 1, "ib");
    if (!binary && strcasecmp(unit + 1, "b") != 0)
        return 0;
    return pow(binary ? 1024 : 1000, power);
}

int parse_size(const char *name, const char *text, uint64_t *out)
{
    char *end;
    double value = strtod(text, &end);
    double bytes = end == text ? 0 : value * unit_bytes(end);
    if (!(bytes >= 1 && bytes < 0x1p62))
        return usage("%s must be a size like 800MiB, 16GiB or a number of bytes, not '%s'", name, text);
    if (!end[0] && value < 4096) /* nothing fits that, and cards have so many GiB */
        return usage("%s %s means %s byte%s; did you mean %sGiB?", name, text, text, value == 1 ? "" : "s",
                     text);
    *out = (uint64_t)bytes;
    return 0;
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

static const char *const attentions[] = {"flash", "eager", NULL}, *const zero_grads[] = {"free", "keep",
                                                                                         NULL};

static int parse_value(const Flag *flag, void *field, const char *text)
{
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

static const Flag *find_flag(const char *name, size_t length)
{
    for (int i = 0; i < FLAG_COUNT; i++)
        if (strlen(flags[i].name) == length && !strncmp(flags[i].name, name, length))
            return &flags[i];
    return NULL;
}

/* ---- Values as text -------------------------------------------------------------------------- */

static const void *value_of(const char *name, const Options *options, const Flag **flag)
{
    *flag = find_flag(name, strlen(name));
    return (const char *)options + (*flag)->offset;
}

int flag_is_switch(const char *name)
{
    return find_flag(name, strlen(name))->kind == FLAG_SWITCH;
}

int flag_number(const char *name, const Options *options, int64_t *out)
{
    const Flag *flag;
    const void *value = value_of(name, options, &flag);
    int is_int = flag->kind == FLAG_INT || flag->kind == FLAG_SWITCH;
    if (is_int)
        *out = *(const int *)value;
    else if (flag->kind == FLAG_INT64)
        *out = *(const int64_t *)value;
    else if (flag->kind == FLAG_SIZE || flag->kind == FLAG_SEED)
        *out = (int64_t) * (const uint64_t *)value;
    else
        return 0;
    return 1;
}

/* Below zero a number stands for one that was not given. */
LeverText flag_text(const char *name, const Options *options)
{
    LeverText out = {""};
    const Flag *flag;
    const void *value = value_of(name, options, &flag);
    int64_t number = -1;
    const char *text = NULL;
    if (flag->kind == FLAG_CHECKPOINT)
        return checkpoint_text(value);
    if (flag->kind == FLAG_TEXT || flag->kind == FLAG_NAME)
        text = *(const char *const *)value;
    else if (flag->kind == FLAG_ATTENTION)
        text = attentions[*(const AttentionKind *)value];
    else if (flag->kind == FLAG_ZERO_GRAD)
        text = zero_grads[*(const int *)value];
    if (text)
        snprintf(out.text, sizeof out.text, "%s", text);
    else if (flag->kind == FLAG_FLOAT && *(const float *)value >= 0)
        snprintf(out.text, sizeof out.text, "%.9g", (double)*(const float *)value);
    else if (flag_number(name, options, &number) && number >= 0)
        snprintf(out.text, sizeof out.text, "%" PRId64, number);
    return out;
}

LeverText flag_typed(const char *name, const Options *options)
{
    LeverText out, value = flag_text(name, options);
    if (flag_is_switch(name))
        value.text[0] = '\0';
    snprintf(out.text, sizeof out.text, "%s%s%.1100s", name, value.text[0] ? " " : "", value.text);
    return out;
}

int flag_given(const char *name, const Options *options)
{
    LeverText value = flag_text(name, options), usual = flag_text(name, &options_default);
    return value.text[0] && strcmp(value.text, "0") != 0 && strcmp(value.text, usual.text) != 0;
}

int flag_set(Options *options, const char *name, const char *value)
{
    const Flag *flag = find_flag(name, strlen(name));
    return parse_value(flag, (char *)options + flag->offset, value);
}

/* ---- Arguments ------------------------------------------------------------------------------- */

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

static int add(Assignments *all, const Flag *flag, char *value, int lists)
{
    if (all->count == ASSIGNMENTS_MAX)
        return usage("more than %d options", ASSIGNMENTS_MAX);
    Assignment *a = &all->item[all->count++];
    *a = (Assignment){.flag = flag};
    return split_values(a, value, lists);
}

/* `brim plan gpt2`: what is no option may be the model. */
static int add_model(Assignments *all, const char *command, char *word, int lists)
{
    const Flag *flag = find_flag("--model", strlen("--model"));
    for (int i = 0; i < all->count; i++)
        if (all->item[i].flag == flag)
            return usage("'%s' would be a second model, after %s", word, all->item[i].values[0]);
    int status = add(all, flag, word, lists);
    const Assignment *a = &all->item[all->count - 1];
    for (int i = 0; !status && i < a->count; i++)
        if (!is_model(a->values[i]))
            return no_model(command, a->values[i]);
    return status;
}

int assignments_parse(Assignments *all, const char *command, int argc, char **argv, int lists)
{
    static char on[] = "1";
    const char *model = NULL; /* named without --model */
    all->count = 0;
    for (int i = 0; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        size_t length = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        const Flag *flag = find_flag(argv[i], length);
        int status = 0;
        if (!flag && argv[i][0] != '-' && takes_flag(find_flag("--model", strlen("--model")), command)) {
            if ((status = add_model(all, command, argv[i], lists)))
                return status;
            model = argv[i];
            continue;
        }
        if (!flag)
            return argv[i][0] == '-' ? unknown_option(command, argv[i])
                                     : usage("`brim %s` takes options only, not '%s'", command, argv[i]);
        if (model && !strcmp(flag->name, "--model"))
            return usage("--model would be a second model, after %s", model);
        if (!takes_flag(flag, command) && !flag->only)
            return usage("%s means nothing to `brim %s`; `brim help %s` lists its options", flag->name,
                         command, command);
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
        if ((status = add(all, flag, value ? value : on, lists)))
            return status;
    }
    return 0;
}
