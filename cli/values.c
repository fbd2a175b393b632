/* The values of options: numbers, names, choices; read from text, with errors that say what would be right.
 */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "flags_.h"

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
    else if (!choice.selective && !strcmp(rest, "reentrant"))
        choice.every = choice.reentrant = 1;
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
            "%s must be none, selective, blocks, auto, a number of blocks recomputed together, "
            "selective+blocks, selective+N, or a pattern like 'cc+.' (a character a block), not '%s'",
            flag->name, text);
    *out = choice;
    return 0;
}

const char *const attention_names[] = {"flash", "eager", NULL};
/* sdpa is what PyTorch calls the first. */
static const char *const attention_values[] = {"flash", "eager", "sdpa", NULL};
const char *const zero_grad_names[] = {"free", "keep", NULL};

/* Other ways to be several, by the names that people know them by. */
static const struct {
    const char *names, *what;
} others[] = {
    {" tensor tp ", "tensor parallel is --tensor T"},
    {" pipeline pp stages ", "a pipeline is --stages P"},
    {" sequence sp ", "sequence parallel is --sequence-parallel, beside --tensor T"},
    {" context cp ring ulysses ", "context parallel is not there"},
    {" expert ep moe ", "expert parallel is not there"},
    {" hsdp hybrid ", "HSDP is --parallel zero3 --replicas R"},
};

static int parse_parallel(const char *text, RankStrategy *out)
{
    char word[32];
    int found = ranks_strategy(text);
    if (found >= 0) {
        *out = (RankStrategy)found;
        return 0;
    }
    snprintf(word, sizeof word, " %.24s ", text);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strstr(others[i].names, word))
            return usage("--parallel %s: %s; --parallel takes ddp, zero1, zero2 and zero3 (fsdp)", text,
                         others[i].what);
    return usage("--parallel must be one of ddp, zero1, zero2, zero3, fsdp, not '%s'", text);
}

int parse_value(const Flag *flag, void *field, const char *text)
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
        return parse_int(flag, text, flag->low, INT64_C(1) << 53, field);
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
        status = parse_choice(flag->name, "flash, eager (sdpa, eager with --framework pytorch)", text,
                              attention_values, &choice);
        *(AttentionKind *)field = choice == 1 ? ATTENTION_EAGER : ATTENTION_FLASH;
        return status;
    case FLAG_ZERO_GRAD:
        return parse_choice(flag->name, flag->value, text, zero_grad_names, field);
    case FLAG_WEIGHTS:
        return parse_weights(text, field);
    case FLAG_QUANTIZE:
        return parse_quantize(text, field);
    case FLAG_PARALLEL:
        return parse_parallel(text, field);
    case FLAG_SWITCH:
        *(int *)field = 1;
        return 0;
    }
    return EXIT_USAGE;
}

LeverText checkpoint_text(const CheckpointChoice *c)
{
    LeverText text = {""};
    const char *selective = c->selective ? "selective" : "", *plus = c->selective ? "+" : "";
    if (c->found.pattern[0])
        snprintf(text.text, sizeof text.text, "%s%s%s", selective, plus, c->found.pattern);
    else if (c->reentrant)
        snprintf(text.text, sizeof text.text, "reentrant");
    else if (c->every == 1)
        snprintf(text.text, sizeof text.text, "%s%sblocks", selective, plus);
    else if (c->every)
        snprintf(text.text, sizeof text.text, "%s%s%d", selective, plus, c->every);
    else
        snprintf(text.text, sizeof text.text, "%s",
                 c->automatic   ? "auto"
                 : c->selective ? selective
                                : "none");
    return text;
}
