/* What inference needs, in tables: weights, cache and the rest beside the textbook's weights x 1.2, for
 * weights of 32 to 4 bits. */
#include "inference.h"

#include <inttypes.h>

#include "../base/plural_.h"
#include "../estimate/formulae.h"

enum { LABEL = 28, COLUMN = 11 };

static const InferenceType types[INFERENCE_TYPES] = {
    {32, "fp32", {.dtype = DTYPE_F32}, DTYPE_F32},
    {16, "bf16", {.dtype = DTYPE_BF16}, DTYPE_BF16},
    {8, "int8, the rest bf16", {.dtype = DTYPE_BF16, .quantized = DTYPE_INT8}, DTYPE_BF16},
    {4, "nf4, the rest bf16", {.dtype = DTYPE_BF16, .quantized = DTYPE_NF4}, DTYPE_BF16},
};

const InferenceType *inference_type(int i)
{
    return i >= 0 && i < INFERENCE_TYPES ? &types[i] : NULL;
}

/* ---- Figures --------------------------------------------------------------------------------- */

static int has_cache(const Options *o)
{
    return nn_family(o->preset.family)->writes;
}

static int cache_value_bytes(const InferenceType *type)
{
    return type->cached == DTYPE_F32 ? 4 : 2;
}

/* Keys and values of so many tokens of each sequence, by the formula. */
static int64_t cache_formula(const Options *o, const InferenceType *type, int64_t tokens)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    LlamaShape shape = {.layers = sizes.layers,
                        .heads = sizes.heads,
                        .kv_heads = sizes.kv_heads,
                        .dim = (int64_t)sizes.heads * sizes.head_dim};
    return estimate_kv_cache_bytes(&shape, tokens, cache_value_bytes(type)) * o->batch;
}

/* P x Q / 8. */
static double weights_rule(const InferenceType *type, int64_t parameters)
{
    return (double)parameters * type->bits / 8;
}

static double peak_rule(const InferenceType *type, int64_t parameters)
{
    return 1.2 * weights_rule(type, parameters);
}

Inference inference_of(const MemSummary *memory)
{
    const MemStats *s = &memory->stats;
    Inference i = {report_group(s->at_peak, MEM_GROUP_PARAMETERS), s->at_peak[MEM_KV_CACHE], 0, s->peak};
    i.rest = i.peak - i.weights - i.cache;
    return i;
}

/* ---- One run --------------------------------------------------------------------------------- */

static void print_row(const char *label, ReportUnit unit, const uint64_t *planned, const uint64_t *measured,
                      double textbook, const char *rule)
{
    int decimals = unit.decimals;
    printf("%-*s%*.*f", LABEL, label, COLUMN, decimals, (double)*planned / unit.bytes);
    if (measured)
        printf("%*.*f", COLUMN, decimals, (double)*measured / unit.bytes);
    if (textbook > 0)
        printf("%*.*f%s%s", COLUMN, decimals, textbook / unit.bytes, rule[0] ? "  " : "", rule);
    printf("\n");
}

static void print_line(int columns)
{
    for (int i = 0; i < LABEL + columns * COLUMN; i++)
        putchar('-');
    printf("\n");
}

void inference_table(const Options *o, const InferenceType *type, int64_t parameters,
                     const MemSummary *planned, const MemSummary *measured)
{
    Inference p = inference_of(planned), m = measured ? inference_of(measured) : p;
    ReportUnit unit = report_unit(p.peak);
    double weights = weights_rule(type, parameters);
    const uint64_t *none = NULL;
    int64_t cache = has_cache(o) ? cache_formula(o, type, o->seq) : 0;
    char formula[96], rule[32];
    snprintf(rule, sizeof rule, "P x %g byte%s", type->bits / 8.0, type->bits == 8 ? "" : "s");
    snprintf(formula, sizeof formula, "2 x layers x kv heads x head width x %d x %d token%s%s",
             cache_value_bytes(type), o->seq, plural(o->seq), o->batch > 1 ? " x batch" : "");
    printf("%-*s%*s%s%*s\n", LABEL, unit.name, COLUMN, "planned", measured ? "   measured" : "", COLUMN,
           "textbook");
    print_row("weights", unit, &p.weights, measured ? &m.weights : none, weights, rule);
    if (cache)
        print_row("kv cache", unit, &p.cache, measured ? &m.cache : none, (double)cache, formula);
    print_row("workspace and temporaries", unit, &p.rest, measured ? &m.rest : none, 0, "");
    print_line(measured ? 3 : 2);
    print_row("peak", unit, &p.peak, measured ? &m.peak : none, peak_rule(type, parameters), "weights x 1.2");
    printf("Needs %s in one piece (%" PRIu64 " bytes).", report_size(planned->stats.needs).text,
           planned->stats.needs);
    int64_t held = cache ? (int64_t)(0.2 * weights / (double)cache_formula(o, type, 1)) * o->batch : 0;
    if (cache)
        printf(" The textbook's 20 %% would hold %s token%s of cache.", report_count(held).text,
               plural(held));
    printf("\n");
}

json_t *inference_textbook(const Options *o, const InferenceType *type, int64_t parameters)
{
    return json_pack("{s:I, s:I, s:I}", "weights_bytes", (json_int_t)weights_rule(type, parameters),
                     "kv_cache_bytes", (json_int_t)(has_cache(o) ? cache_formula(o, type, o->seq) : 0),
                     "peak_bytes", (json_int_t)peak_rule(type, parameters));
}

/* ---- Every type ------------------------------------------------------------------------------ */

void inference_types_table(const Options *o, int64_t parameters, const MemSummary planned[INFERENCE_TYPES])
{
    ReportUnit unit = report_unit(planned[0].stats.peak);
    printf("\nWEIGHTS OF Q BITS, %-*s%*s%*s\n", LABEL - 19, unit.name, COLUMN, "planned", COLUMN, "textbook");
    for (int i = 0; i < INFERENCE_TYPES; i++) {
        char label[LABEL + 1];
        snprintf(label, sizeof label, "%2d  %s", types[i].bits, types[i].name);
        print_row(label, unit, &planned[i].stats.peak, NULL, peak_rule(&types[i], parameters),
                  i ? "" : "P x Q / 8 x 1.2");
    }
    if (has_cache(o))
        printf("Below 32 bits the cache is in bf16. Embeddings, heads and norms are not quantised.\n");
    else
        printf("Embeddings, heads and norms are not quantised.\n");
}

json_t *inference_types_json(const Options *o, int64_t parameters, const MemSummary planned[INFERENCE_TYPES])
{
    json_t *list = json_array();
    for (int i = 0; i < INFERENCE_TYPES; i++) {
        Inference p = inference_of(&planned[i]);
        json_array_append_new(list,
                              json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:o}", "bits", types[i].bits,
                                        "weights", types[i].name, "weights_bytes", (json_int_t)p.weights,
                                        "kv_cache_bytes", (json_int_t)p.cache, "peak_bytes",
                                        (json_int_t)p.peak, "needs_bytes", (json_int_t)planned[i].stats.needs,
                                        "textbook", inference_textbook(o, &types[i], parameters)));
    }
    return list;
}
