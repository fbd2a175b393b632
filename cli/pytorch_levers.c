/* The levers of brim fit --framework pytorch: what a user of PyTorch can type where a job does not fit. */
#include <string.h>

#include "pytorch_fit_.h"

/* ---- What can be pulled ---------------------------------------------------------------------- */

/* Sets it, and says how it is typed. */
static int type(Options *o, LeverText *typed, const char *flag, const char *value)
{
    lever_add(typed, "%s%s %s", typed->text[0] ? " " : "", flag, value);
    return !flag_set(o, flag, value);
}

static int is_adamw(const Options *o)
{
    PytorchOptimizer optimizer = (PytorchOptimizer)pytorch_optimizer(o)->value;
    return optimizer == PYTORCH_ADAMW || optimizer == PYTORCH_ADAMW_FUSED ||
           optimizer == PYTORCH_ADAMW_SINGLE;
}

static int sdpa(Options *o, LeverText *typed)
{
    return o->attention == ATTENTION_EAGER && type(o, typed, "--attention", "sdpa");
}

static int pages(Options *o, LeverText *typed)
{
    return !o->alloc_conf && type(o, typed, "--alloc-conf", "expandable_segments:True");
}

/* Beside adapters an optimizer has little to save. */
static int fused(Options *o, LeverText *typed)
{
    return is_adamw(o) && !o->lora && pytorch_optimizer(o)->value != PYTORCH_ADAMW_FUSED &&
           type(o, typed, "--optimizer", "adamw-fused");
}

static int eight_bits(Options *o, LeverText *typed)
{
    return is_adamw(o) && !o->lora && type(o, typed, "--optimizer", "adamw-8bit");
}

static int blocks(Options *o, LeverText *typed)
{
    return !o->checkpoint.every && !o->checkpoint.reentrant && type(o, typed, "--checkpoint", "blocks");
}

static int autocast(Options *o, LeverText *typed)
{
    return pytorch_precision(o)->value == PYTORCH_FP32 && !pytorch_is_mixed(o) && o->weights == DTYPE_F32 &&
           type(o, typed, "--precision", "bf16-autocast");
}

static int bf16(Options *o, LeverText *typed)
{
    int precision = pytorch_precision(o)->value;
    if (precision != PYTORCH_FP32 && precision != PYTORCH_AUTOCAST_BF16)
        return 0;
    type(o, typed, "--precision", "bf16");
    if (o->weights_typed && o->weights != DTYPE_BF16)
        type(o, typed, "--weights", "bf16");
    return !flag_set(o, "--weights", "bf16"); /* which the precision says alone, too */
}

/* A base of 16 bits, as far as the options do not say otherwise. */
static void base_of_16_bits(Options *o, LeverText *typed)
{
    int precision = pytorch_precision(o)->value;
    if (precision == PYTORCH_FP32)
        bf16(o, typed);
    else if (precision == PYTORCH_AUTOCAST_BF16 && o->weights == DTYPE_F32)
        type(o, typed, "--weights", "bf16");
    else if (precision == PYTORCH_AUTOCAST_FP16 && o->weights == DTYPE_F32)
        type(o, typed, "--weights", "fp16");
}

static int lora(Options *o, LeverText *typed)
{
    if (o->lora)
        return 0;
    type(o, typed, "--lora", "r=16,alpha=32");
    base_of_16_bits(o, typed);
    return 1;
}

static int qlora(Options *o, LeverText *typed)
{
    if (o->quantized)
        return 0;
    if (!lora(o, typed))
        base_of_16_bits(o, typed);
    return type(o, typed, "--quantize", "nf4") && type(o, typed, "--kbit-prepare", "on");
}

/* Returns 0 where there is nothing to pull; `typed` has what is to be typed then, too. */
typedef struct Pull {
    const char *word;
    int (*pull)(Options *o, LeverText *typed);
} Pull;

static const Pull attention = {"sdpa", sdpa}, segments = {"expandable_segments", pages},
                  fused_adamw = {"fused AdamW", fused}, recompute = {"blocks", blocks},
                  states8 = {"8-bit AdamW", eight_bits}, mixed = {"bf16-autocast", autocast},
                  half = {"bf16", bf16}, adapters = {"LoRA", lora}, four_bits = {"QLoRA", qlora};

/* ---- The list -------------------------------------------------------------------------------- */

enum { TOGETHER = 3 };

/* A row needs all of its levers. */
static const Pull *const list[][TOGETHER] = {
    {&attention},
    {&segments},
    {&fused_adamw},
    {&recompute},
    {&recompute, &fused_adamw},
    {&mixed},
    {&mixed, &recompute},
    {&states8},
    {&recompute, &states8},
    {&half},
    {&half, &recompute},
    {&half, &recompute, &states8},
    {&adapters},
    {&adapters, &recompute},
    {&four_bits},
    {&four_bits, &recompute},
};
enum { LISTED = sizeof list / sizeof list[0] };
_Static_assert(LISTED < (int)FIT_ROWS, "the options as they are have a row, too");

static int pull_row(FitRow *row, const Pull *const pulls[TOGETHER], const Options *o)
{
    PytorchJob job;
    LeverText why;
    int alone = !pulls[1];
    *row = (FitRow){.options = *o};
    for (int k = 0; k < TOGETHER && pulls[k]; k++) {
        size_t used = strlen(row->label);
        if (!pulls[k]->pull(&row->options, &row->flags))
            return 0;
        snprintf(row->label + used, sizeof row->label - used, "%s%s", k ? " + " : "", pulls[k]->word);
    }
    if (alone && strlen(row->flags.text) <= FIT_LABEL)
        snprintf(row->label, sizeof row->label, "%.*s", FIT_LABEL, row->flags.text);
    row->adapters = row->options.lora && !o->lora;
    return !pytorch_job_or(&row->options, NULL, &job, &why);
}

int pytorch_rows(const Options *o, FitRow rows[FIT_ROWS])
{
    int count = 1;
    rows[0] = (FitRow){.label = "as is", .options = *o};
    for (int i = 0; i < LISTED; i++)
        count += pull_row(&rows[count], list[i], o);
    return count;
}

void pytorch_say_words(const PytorchFit *fit)
{
    SayLine line = {""};
    int others = 0;
    for (int i = 1; i < fit->row_count; i++) {
        const FitRow *row = &fit->rows[i];
        others |= row->adapters;
        if (!strchr(row->label, '+') && strcmp(row->label, row->flags.text) != 0)
            line_add(&line, "%s%s is %s", line.text[0] ? "; " : "", row->label, row->flags.text);
    }
    if (line.text[0])
        line_add(&line, ".");
    if (others)
        line_add(&line, "  Adapters beside frozen weights are another training.");
    if (line.text[0])
        say_line(&line);
}
