/* What frozen weights are stored as, and the adapters that are trained beside them: the values of --weights,
 * --quantize and --lora. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "flags_.h"

/* ---- Types ----------------------------------------------------------------------------------- */

typedef struct Named {
    const char *name;
    DType dtype;
} Named;

/* What stands first is the usual one. */
static const Named weights[] = {{"fp32", DTYPE_F32}, {"bf16", DTYPE_BF16}, {"fp16", DTYPE_F16}};
static const Named quantized[] = {
    {"none", DTYPE_F32}, {"nf4", DTYPE_NF4}, {"nf4-plain", DTYPE_NF4_PLAIN}, {"int8", DTYPE_INT8}};
enum { WEIGHTS = sizeof weights / sizeof weights[0], QUANTIZED = sizeof quantized / sizeof quantized[0] };

static const char *name_in(const Named *names, int count, DType dtype)
{
    for (int i = 0; i < count; i++)
        if (names[i].dtype == dtype)
            return names[i].name;
    return names[0].name;
}

const char *weights_name(DType dtype)
{
    return name_in(weights, WEIGHTS, dtype);
}

const char *quantize_name(DType dtype)
{
    return name_in(quantized, QUANTIZED, dtype);
}

static int find(const Named *names, int count, const char *text, DType *out)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i].name, text)) {
            *out = names[i].dtype;
            return 1;
        }
    return 0;
}

int parse_weights(const char *text, DType *out)
{
    if (find(weights, WEIGHTS, text, out))
        return 0;
    return usage("--weights is what weights are stored as: fp32, bf16 or fp16, not '%s'; --init PATH reads "
                 "trained weights",
                 text);
}

int parse_quantize(const char *text, DType *out)
{
    if (find(quantized, QUANTIZED, text, out))
        return 0;
    return usage("--quantize must be one of none, nf4, nf4-plain, int8, not '%s'", text);
}

LeverText weights_text(const Options *o)
{
    LeverText out;
    if (o->quantized)
        snprintf(out.text, sizeof out.text, "%s, rest %s", quantize_name(o->quantized),
                 weights_name(o->weights));
    else
        snprintf(out.text, sizeof out.text, "%s", weights_name(o->weights));
    return out;
}

/* ---- --lora ---------------------------------------------------------------------------------- */

enum { RANK_MAX = 65536 };

typedef enum LoraKey { LORA_RANK, LORA_ALPHA, LORA_DROPOUT, LORA_TARGETS, LORA_RSLORA, LORA_KEYS } LoraKey;
static const char *const lora_keys[LORA_KEYS] = {"r=", "alpha=", "dropout=", "targets=", "rslora"};

static int lora_usage(const char *word)
{
    return usage(
        "--lora takes r=N, alpha=X, dropout=P, targets=all or names, and rslora, with commas between "
        "(r=16,alpha=32,targets=q_proj,v_proj); not '%s'",
        word);
}

static int parse_number(const char *name, const char *text, float below, const char *range, float *out)
{
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end || !isfinite(value) || value < 0 || value >= below ||
        (value == 0 && !strcmp(name, "alpha")))
        return usage("--lora %s must be a number %s, not '%s'", name, range, text);
    *out = value;
    return 0;
}

/* One more name of a layer: "q_proj", "self_attn.q_proj". */
static int add_target(LoraChoice *lora, const char *name)
{
    size_t used = strlen(lora->targets), length = strlen(name);
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '.')
            return usage("--lora targets= takes names of layers, such as q_proj, not '%s'", name);
    if (!length)
        return usage("--lora targets= needs names of layers, such as q_proj,v_proj, or all");
    if (used + 1 + length >= sizeof lora->targets)
        return usage("--lora targets= has more than %zu characters", sizeof lora->targets - 1);
    if (used)
        lora->targets[used++] = ',';
    memcpy(lora->targets + used, name, length + 1);
    return 0;
}

/* "all" stands for itself: it is no name of a layer. */
static int end_targets(LoraChoice *lora)
{
    int all = 0, names = 0;
    for (const char *at = lora->targets; *at; at += *at == ',', names++) {
        size_t length = strcspn(at, ",");
        all |= length == 3 && !strncmp(at, "all", 3);
        at += length;
    }
    if (all && names > 1)
        return usage("--lora targets=all is every linear layer but the output head: name no other");
    if (all)
        lora->targets[0] = '\0';
    return 0;
}

static int parse_lora_value(LoraChoice *lora, LoraKey key, const char *value)
{
    int64_t rank = 0;
    int status = 0;
    switch (key) {
    case LORA_RANK:
        status = parse_whole("--lora r", value, 1, RANK_MAX, &rank);
        lora->rank = (int)rank;
        return status;
    case LORA_ALPHA:
        return parse_number("alpha", value, INFINITY, "above 0", &lora->alpha);
    case LORA_DROPOUT:
        return parse_number("dropout", value, 1, "of at least 0 and below 1", &lora->dropout);
    case LORA_TARGETS:
        return add_target(lora, value);
    case LORA_RSLORA:
        lora->rslora = 1;
        return 0;
    case LORA_KEYS:
        break;
    }
    return EXIT_USAGE;
}

static LoraKey key_of(const char *word)
{
    for (int i = 0; i < LORA_KEYS; i++) {
        size_t length = strlen(lora_keys[i]);
        int ends = lora_keys[i][length - 1] == '=' || !word[length];
        if (!strncmp(word, lora_keys[i], length) && ends)
            return (LoraKey)i;
    }
    return LORA_KEYS;
}

/* Words without a key go on with the names that targets= begins. */
static int parse_word(LoraChoice *lora, const char *word, LoraKey *last, unsigned *seen)
{
    LoraKey key = key_of(word);
    if (key == LORA_KEYS && *last == LORA_TARGETS && !strchr(word, '='))
        return add_target(lora, word);
    if (key == LORA_KEYS)
        return lora_usage(word);
    if (*seen & 1u << key)
        return usage("--lora says %.*s twice", (int)strcspn(lora_keys[key], "="), lora_keys[key]);
    *seen |= 1u << key;
    *last = key;
    return parse_lora_value(lora, key, word + strlen(lora_keys[key]));
}

int parse_lora(const char *text, LoraChoice *out)
{
    enum { PEFT_RANK = 8, PEFT_ALPHA = 8 }; /* LoraConfig's defaults */
    LoraChoice lora = {.rank = PEFT_RANK, .alpha = PEFT_ALPHA};
    LoraKey last = LORA_KEYS;
    unsigned seen = 0;
    *out = (LoraChoice){0};
    if (!strcmp(text, "none"))
        return 0;
    for (const char *at = text;; at++) {
        char word[96];
        size_t length = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, at);
        if (length >= sizeof word)
            return lora_usage(word);
        int status = parse_word(&lora, word, &last, &seen);
        if (status)
            return status;
        at += length;
        if (!*at)
            break;
    }
    if (end_targets(&lora))
        return EXIT_USAGE;
    *out = lora;
    return 0;
}

LeverText lora_text(const LoraChoice *lora)
{
    LeverText out;
    char dropout[32] = "";
    if (lora->dropout > 0)
        snprintf(dropout, sizeof dropout, ",dropout=%.9g", (double)lora->dropout);
    if (lora->rank)
        snprintf(out.text, sizeof out.text, "r=%d,alpha=%.9g%s%s%s%s", lora->rank, (double)lora->alpha,
                 dropout, lora->targets[0] ? ",targets=" : "", lora->targets, lora->rslora ? ",rslora" : "");
    else
        snprintf(out.text, sizeof out.text, "none");
    return out;
}
