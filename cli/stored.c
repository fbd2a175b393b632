/* What weights are stored as: the values of --weights and --quantize, and how the next model is told. */
#include <string.h>

#include "flags_.h"
#include "lora.h"
#include "precision.h"

typedef struct Named {
    const char *name;
    DType dtype;
} Named;

/* What stands first is the usual one; of two names of a type the first is printed. */
static const Named weights[] = {
    {"fp32", DTYPE_F32}, {"bf16", DTYPE_BF16}, {"fp16", DTYPE_F16}, {"f32", DTYPE_F32}, {"f16", DTYPE_F16}};
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

LeverText types_text(const Options *o)
{
    LeverText out = weights_text(o);
    Precision precision = precision_of(o);
    if (!has_adapters(o))
        snprintf(out.text, sizeof out.text, "%.40s", o->precision);
    else if (precision.activations != DTYPE_F32)
        lever_add(&out, "  %s activations", weights_name(precision.activations));
    else if (precision.tf32)
        lever_add(&out, "  products in tf32");
    return out;
}

void store_weights(const Options *o)
{
    int other = o->weights != DTYPE_F32 || o->quantized, read_only = o->inference && other;
    nn_set_weights(&(Weights){.dtype = o->weights,
                              .quantized = o->quantized,
                              .frozen = has_adapters(o) || read_only,
                              .not_quantized = o->quantized ? o->not_quantized : NULL});
}
