/* The one list of levers and combinations: what `compare` and `fit` show, and what the advice after a refusal
 * chooses from. Who adds a lever that saves memory adds it here. */
#include <string.h>

#include "flags_.h"
#include "levers_.h"
#include "lora.h"
#include "precision.h"
#include "variants_.h"

/* ---- What can be pulled ---------------------------------------------------------------------- */

static int keeps_blocks(const Options *o)
{
    return !o->checkpoint.every && !o->checkpoint.found.pattern[0];
}

static int keeps_all(const Options *o)
{
    return keeps_blocks(o) && !o->checkpoint.selective;
}

/* Chunks pay where the logits are many: a vocabulary, and more rows than a chunk. */
static int has_many_logits(const Options *o)
{
    return !o->loss_chunk && !is_classifier(o) && nn_preset_vocab(&o->preset) >= 1024 &&
           (int64_t)o->batch * o->seq > SUGGESTED_CHUNK;
}

static int in_backward(Options *o)
{
    o->in_backward = 1;
    o->clip = 0;
    return 1;
}

/* A plan runs every micro-batch, so more than these take longer to plan than a user waits for advice. */
enum { MOST_MICRO_BATCHES = 1024 };

static int split_batch(Options *o, int pieces)
{
    if ((int64_t)o->accumulate * pieces > MOST_MICRO_BATCHES)
        return 0;
    o->batch /= pieces;
    o->accumulate *= pieces;
    return pieces > 1;
}

static int quarter_batch(Options *o)
{
    return split_batch(o, o->batch % 4 == 0 ? 4 : o->batch % 2 == 0 ? 2 : 1);
}

/* Of one sample, or as few as that number of pieces gives. */
static int smallest_micro_batch(Options *o)
{
    int most = MOST_MICRO_BATCHES / o->accumulate, pieces = o->batch < most ? o->batch : most;
    while (pieces > 1 && o->batch % pieces)
        pieces--;
    return split_batch(o, pieces);
}

static int other_attention(Options *o)
{
    o->attention = o->attention == ATTENTION_FLASH ? ATTENTION_EAGER : ATTENTION_FLASH;
    return 1;
}

static int other_zero_grad(Options *o)
{
    o->keep_gradients = !o->keep_gradients;
    return 1;
}

/* Adapters on a base of this type, as far as the options do not say otherwise. */
static int train_adapters(Options *o, DType quantized)
{
    if (!has_adapters(o))
        o->lora = "r=16,alpha=32";
    if (o->weights == DTYPE_F32)
        o->weights = DTYPE_BF16;
    if (!o->quantized && quantized)
        o->quantized =
            o->files_quantized ? o->files_quantized : quantized; /* codes are not quantised again */
    return 1;
}

static int has_adam(const Options *o)
{
    return !strcmp(o->optimizer, "adam") || !strcmp(o->optimizer, "adamw");
}

static int trains_all(const Options *o)
{
    return computes_in_fp32(o) && !has_adapters(o);
}

static int trains_in_8_bit(const Options *o)
{
    return trains_all(o) && has_adam(o);
}

/* Beside adapters; without them 16 bit changes the weights too. */
static int activates_in_fp32(const Options *o)
{
    return computes_in_fp32(o) && has_adapters(o);
}

/* Weights, gradients and activations of 16 bits, and 8-bit states. */
static int bf16_with_8bit_states(Options *o)
{
    o->precision = "bf16";
    o->optimizer = !strcmp(o->optimizer, "adam") ? "adam8bit" : "adamw8bit";
    return 1;
}

static int lora_on_bf16(Options *o)
{
    return train_adapters(o, DTYPE_F32);
}

static int lora_on_nf4(Options *o)
{
    return train_adapters(o, DTYPE_NF4);
}

/* Either a value as it would be typed, or a function that sets it and returns 0 where there is nothing to
 * try. */
typedef struct Pull {
    const char *flag, *value;
    const char *word; /* in a row of several: "chunk 128"; NULL: batch x accumulate */
    MemGroup target;
    int (*set)(Options *o);
    int (*pays)(const Options *o); /* NULL: wherever it is allowed */
    int needed;                    /* a row of several makes no sense without it */
    int named;                     /* alone it has its word too: it is long to type */
} Pull;

static const Pull selective = {.flag = "--checkpoint",
                               .value = "selective",
                               .word = "selective",
                               .target = MEM_GROUP_ACTIVATIONS,
                               .pays = keeps_all};
static const Pull blocks = {.flag = "--checkpoint",
                            .value = "blocks",
                            .word = "blocks",
                            .target = MEM_GROUP_ACTIVATIONS,
                            .pays = keeps_blocks};
static const Pull quarters = {
    .flag = "--batch", .target = MEM_GROUP_ACTIVATIONS, .set = quarter_batch, .needed = 1};
static const Pull singles = {
    .flag = "--batch", .target = MEM_GROUP_ACTIVATIONS, .set = smallest_micro_batch, .needed = 1};
static const Pull early = {.flag = "--optimizer-in-backward",
                           .word = "in backward",
                           .target = MEM_GROUP_GRADIENTS,
                           .set = in_backward};
static const Pull chunk = {.flag = "--loss-chunk",
                           .value = "128",
                           .word = "chunk 128",
                           .target = MEM_GROUP_OVERHEAD,
                           .pays = has_many_logits};
static const Pull sgd = {
    .flag = "--optimizer", .value = "sgd", .word = "sgd", .target = MEM_GROUP_OPTIMIZER_STATES};
static const Pull zero1 = {.flag = "--parallel",
                           .value = "zero1",
                           .word = "zero1",
                           .target = MEM_GROUP_OPTIMIZER_STATES,
                           .needed = 1};
static const Pull zero2 = {
    .flag = "--parallel", .value = "zero2", .word = "zero2", .target = MEM_GROUP_GRADIENTS, .needed = 1};
static const Pull zero3 = {
    .flag = "--parallel", .value = "zero3", .word = "zero3", .target = MEM_GROUP_PARAMETERS, .needed = 1};
static const Pull attention = {
    .flag = "--attention", .target = MEM_GROUP_ACTIVATIONS, .set = other_attention};
static const Pull zero_grad = {.flag = "--zero-grad", .target = MEM_GROUP_GRADIENTS, .set = other_zero_grad};
static const Pull mixed = {.flag = "--precision",
                           .value = "bf16-mixed",
                           .word = "bf16-mixed",
                           .target = MEM_GROUP_ACTIVATIONS,
                           .pays = trains_all,
                           .needed = 1};
static const Pull states8 = {.flag = "--precision",
                             .word = "bf16, 8-bit AdamW",
                             .target = MEM_GROUP_COUNT,
                             .set = bf16_with_8bit_states,
                             .pays = trains_in_8_bit,
                             .needed = 1,
                             .named = 1};
static const Pull half = {.flag = "--precision",
                          .value = "bf16",
                          .word = "16 bit",
                          .target = MEM_GROUP_ACTIVATIONS,
                          .pays = activates_in_fp32,
                          .needed = 1};
static const Pull lora = {.flag = "--lora",
                          .word = "LoRA on bf16",
                          .target = MEM_GROUP_COUNT,
                          .set = lora_on_bf16,
                          .pays = reads_text,
                          .needed = 1,
                          .named = 1};
static const Pull qlora = {.flag = "--lora",
                           .word = "QLoRA",
                           .target = MEM_GROUP_COUNT,
                           .set = lora_on_nf4,
                           .pays = reads_text,
                           .needed = 1,
                           .named = 1};

/* ---- The list -------------------------------------------------------------------------------- */

enum { TOGETHER = 5 };

/* What is pulled together. A row without what cannot be pulled here is there too, but no row twice. */
static const struct {
    const Pull *pull[TOGETHER];
} list[] = {
    {{&selective}},
    {{&blocks}},
    {{&quarters}},
    {{&early}},
    {{&chunk}},
    {{&sgd}},
    {{&blocks, &quarters}},
    {{&blocks, &early}},
    {{&blocks, &early, &chunk}},
    {{&blocks, &singles, &chunk}},
    {{&blocks, &early, &chunk, &sgd}},
    {{&blocks, &singles, &chunk, &sgd}},
    {{&zero1}},
    {{&zero2}},
    {{&zero3}},
    {{&zero3, &blocks, &chunk}},
    {{&mixed}},
    {{&mixed, &blocks}},
    {{&states8}},
    {{&states8, &blocks, &chunk}},
    {{&lora}},
    {{&qlora}},
    {{&half}},
    {{&lora, &half}},
    {{&lora, &blocks}},
    {{&qlora, &blocks}},
    {{&qlora, &half, &blocks}},
    {{&qlora, &blocks, &chunk}},
    {{&qlora, &blocks, &singles, &chunk}},
    {{&attention}},
    {{&zero_grad}},
};
enum { LISTED = sizeof list / sizeof list[0] };
_Static_assert(sizeof list / sizeof list[0] < VARIANTS,
               "every row of the list has a variant, and so have the options as they are");

/* Returns 0, and leaves the options as they are, where it cannot be pulled or changes nothing. */
static int pull(const Pull *p, Options *o)
{
    const Lever *lever = lever_of(p->flag);
    Options pulled = *o;
    if (!lever_means(lever, o) || (p->pays && !p->pays(o)) ||
        (p->set ? !p->set(&pulled) : flag_set(&pulled, p->flag, p->value) != 0))
        return 0;
    if (!levers_changed(&pulled, o) || levers_exclude(&pulled).text[0])
        return 0;
    *o = pulled;
    levers_to_preset(o);
    return 1;
}

static int is_there(const Variant *variants, int count, const Options *o)
{
    for (int i = 0; i < count; i++)
        if (!levers_changed(&variants[i].options, o))
            return 1;
    return 0;
}

static void name_in_row(Variant *v, const Pull *p)
{
    size_t used = strlen(v->label);
    char batch[40];
    snprintf(batch, sizeof batch, "batch %d x %d", v->options.batch, v->options.accumulate);
    snprintf(v->label + used, sizeof v->label - used, "%s%s", used ? " + " : "", p->word ? p->word : batch);
}

/* Alone a lever is named as it is typed, but for what it brings along by itself. */
static void name_alone(Variant *v, const Options *from)
{
    LeverText text = levers_text(&v->options, from);
    char *clip = strstr(text.text, " --clip 0");
    if (clip)
        *clip = '\0';
    snprintf(v->label, sizeof v->label, "%.*s", (int)sizeof v->label - 1, text.text);
}

/* One row of the list, on top of the options. 0 where it is none. */
static int pull_row(Variant *v, const Pull *const row[TOGETHER], const Options *o)
{
    const Pull *last = NULL;
    *v = (Variant){.options = *o, .target = MEM_GROUP_COUNT};
    for (int k = 0; k < TOGETHER && row[k]; k++) {
        if (pull(row[k], &v->options)) {
            v->target = v->pulled++ ? MEM_GROUP_COUNT : row[k]->target;
            name_in_row(v, row[k]);
            last = row[k];
        } else if (row[k]->needed) {
            return 0;
        }
    }
    if (v->pulled == 1 && !last->named)
        name_alone(v, o);
    return v->pulled;
}

int variants_list(const Options *o, Variant variants[VARIANTS])
{
    int count = 1;
    variants[0] = (Variant){.label = "as is", .options = *o, .target = MEM_GROUP_COUNT};
    for (int i = 0; i < LISTED; i++)
        if (pull_row(&variants[count], list[i].pull, o) &&
            !is_there(variants, count, &variants[count].options))
            count++;
    return count;
}

int variant_recomputed(Variant *v, const Options *o)
{
    static const Pull *const row[TOGETHER] = {&blocks, &chunk};
    return pull_row(v, row, o);
}

int variant_adds_adapters(const Variant *v, const Options *from)
{
    return has_adapters(&v->options) && !has_adapters(from);
}

/* "LoRA on bf16 is --lora …; QLoRA is … .", of two rows. */
static void say_words(FILE *out, const Pull *a, const Pull *b, const Options *of_a, const Options *of_b)
{
    const Pull *const pulls[] = {a, b};
    const Options *const from[] = {of_a, of_b};
    int said = 0;
    for (int i = 0; i < 2; i++) {
        Options pulled = *from[i];
        if (pull(pulls[i], &pulled))
            fprintf(out, "%s%s is %s", said++ ? "; " : "", pulls[i]->word,
                    levers_text(&pulled, from[i]).text);
    }
    if (said)
        fprintf(out, ".\n");
}

void variants_say_words(FILE *out, const Options *from)
{
    Options adapters = *from;
    int adds = !has_adapters(from) && pull(&lora, &adapters);
    say_words(out, &lora, &qlora, from, from);
    say_words(out, &half, &states8, &adapters, from); /* 16 bit: of rows with adapters */
    if (adds)
        fprintf(out,
                "LoRA and QLoRA train adapters beside frozen weights: another training, for weights that "
                "are trained already (--init).\n");
}

int variants_plan(const Options *o, Variant variants[VARIANTS])
{
    int count = variants_list(o, variants);
    for (int i = 0; i < count; i++)
        variant_plan(&variants[i]);
    return count;
}

void variants_free(Variant *variants, int count)
{
    for (int i = 0; i < count; i++)
        plan_free(&variants[i].plan);
}
