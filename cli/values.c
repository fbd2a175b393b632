/* The values of options: numbers, sizes, names, choices; read from text, with errors that say what would be
 * right. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "flags_.h"

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

/* A unit in whatever case people write it, but for Gb and Gib, which are bits. With an i it is binary; so is
 * a letter alone, as in most tools. */
static double unit_bytes(const char *unit)
{
    static const char letters[] = "kmgt";
    if (!unit[0] || !strcasecmp(unit, "b"))
        return 1;
    const char *letter = strchr(letters, tolower((unsigned char)unit[0]));
    if (!letter || (isupper((unsigned char)unit[0]) && unit[strlen(unit) - 1] == 'b'))
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
            "%s must be none, selective, blocks, auto, a number of blocks recomputed together, "
            "selective+blocks, selective+N, or a pattern like 'cc+.' (a character a block), not '%s'",
            flag->name, text);
    *out = choice;
    return 0;
}

const char *const attention_names[] = {"flash", "eager", NULL};
const char *const zero_grad_names[] = {"free", "keep", NULL};

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
        status = parse_choice(flag->name, flag->value, text, attention_names, &choice);
        *(AttentionKind *)field = (AttentionKind)choice;
        return status;
    case FLAG_ZERO_GRAD:
        return parse_choice(flag->name, flag->value, text, zero_grad_names, field);
    case FLAG_WEIGHTS:
        return parse_weights(text, field);
    case FLAG_QUANTIZE:
        return parse_quantize(text, field);
    case FLAG_LORA:
        return parse_lora(text, field);
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
