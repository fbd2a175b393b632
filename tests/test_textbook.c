/* The textbook's figures and the exact ones beside them, the published formulae, and the itemised layer that
 * must be what the engine keeps, to the byte. */
#include <ctype.h>
#include <math.h>

#include "../device/cards.h"
#include "../estimate/formulae.h"
#include "../estimate/textbook.h"
#include "support.h"

static void assert_close(const char *what, double actual, double expected)
{
    if (!(fabs(actual - expected) <= 1e-9 * fmax(fabs(expected), 1)))
        fail_msg("%s: %.12g, not %.12g", what, actual, expected);
}

/* ---- What a formula's text comes to ---------------------------------------------------------- */

static double expression(const char **at);

static void spaces(const char **at)
{
    while (**at == ' ')
        ++*at;
}

static int taken(const char **at, const char *word)
{
    spaces(at);
    if (strncmp(*at, word, strlen(word)))
        return 0;
    *at += strlen(word);
    return 1;
}

static double number(const char **at) /* 8,030,261,248 or 0.25 */
{
    char digits[40];
    size_t n = 0;
    spaces(at);
    for (; isdigit((unsigned char)**at) || **at == '.' || (**at == ',' && isdigit((unsigned char)(*at)[1]));
         ++*at)
        if (**at != ',' && n + 1 < sizeof digits)
            digits[n++] = **at;
    digits[n] = '\0';
    if (!n)
        fail_msg("no number at '%s'", *at);
    return atof(digits);
}

static double factor(const char **at)
{
    double value;
    if (taken(at, "sqrt("))
        value = sqrt(expression(at));
    else if (taken(at, "max(")) {
        double a = expression(at);
        assert_true(taken(at, ","));
        value = fmax(a, expression(at));
    } else if (taken(at, "("))
        value = expression(at);
    else
        return number(at);
    assert_true(taken(at, ")"));
    return value;
}

static double term(const char **at)
{
    double value = factor(at);
    for (;;)
        if (taken(at, "x "))
            value *= factor(at);
        else if (taken(at, "/ "))
            value /= factor(at);
        else
            return value;
}

static double expression(const char **at)
{
    double value = term(at);
    while (taken(at, "+ "))
        value += term(at);
    return value;
}

static void every_formula_says_its_figure(void **state)
{
    (void)state;
    TextbookRow row;
    for (int i = 0; estimate_textbook_row(i, &row); i++) {
        const char *at = row.formula;
        double low = expression(&at), high = taken(&at, "to ") ? expression(&at) : low;
        spaces(&at);
        if (*at)
            fail_msg("%s: '%s' is left of the formula", row.id, at);
        assert_close(row.id, row.exact.low, low);
        assert_close(row.id, row.exact.high, high);
    }
}

/* ---- Each figure ----------------------------------------------------------------------------- */

#define GB     1e9
#define GIB    0x1p30
#define NF4    0.515869140625                                     /* bytes: (4 + 8/64 + 32/16384) / 8 */
#define NF4_8B (6979321856 * NF4 + 32 * 7 * 4 + 1050939392 * 2.0) /* and the mean of each matrix's scales */

static const struct {
    const char *id;
    double rule_low, rule_high, exact_low, exact_high;
} figures[] = {
    {"bytes-fp32", 4, 4, 4, 4},
    {"bytes-16bit", 2, 2, 2, 2},
    {"bytes-int8", 1, 1, 1.0009765625, 1.0009765625},
    {"bytes-int4", 0.5, 0.5, NF4, NF4},
    {"nf4-bits", 4, 4, 4.126953125, 4.5},
    {"8b-nf4-weights", 4 * GB, 4 * GB, NF4_8B, NF4_8B},
    {"gradients-full", 16 * GB, 16 * GB, 16060522496, 16060522496},
    {"lora-trainable", 0, 0, 41943040, 41943040},
    {"gradients-lora", 0, 0, 167772160, 167772160},
    {"adam-1m", 2e6, 2e6, 2e6, 2e6},
    {"sgd", 0, 1, 0, 0},
    {"sgd-momentum", 0, 1, 1, 1},
    {"10b-bf16", 80 * GB, 80 * GB, 80 * GB, 80 * GB},
    {"10b-mixed", 120 * GB, 120 * GB, 120 * GB, 120 * GB},
    {"10b-zero", 160 * GB, 160 * GB, 160 * GB, 160 * GB},
    {"10b-huggingface", 180 * GB, 180 * GB, 180 * GB, 180 * GB},
    {"1b-adam", 17 * GB, 18 * GB, 19773030400, 19773030400},
    {"1b-overhead", 18 * GB, 20 * GB, 20773030400, 20773030400},
    {"1b-peak", 17 * GB, 17 * GB, 16 * GB, 16 * GB},
    {"times-loaded", 4.5, 5, 4, 4},
    {"times-inference", 9, 10, 8, 8},
    {"10b-total", 140 * GB, 160 * GB, 100 * GB, 220 * GB},
    {"8b-bytes-8", 64 * GB, 64 * GB, 64242089984, 64242089984},
    {"8b-bytes-12", 96 * GB, 96 * GB, 96363134976, 96363134976},
    {"8b-bytes-16", 128 * GB, 128 * GB, 128484179968, 128484179968},
    {"8b-bytes-18", 144 * GB, 144 * GB, 144544702464, 144544702464},
    {"8b-states-8bit", 48 * GB, 48 * GB, 51568115840, 51568115840},
    {"8b-fp32", 128 * GB, 128 * GB, 128484179968, 128484179968},
    {"8b-mixed", 96 * GB, 96 * GB, 96363134976, 96363134976},
    {"8b-lora", 16 * GB, 16 * GB, 16731611136, 16731611136},
    {"8b-qlora", 4 * GB, 4 * GB, NF4_8B + 671088640, NF4_8B + 671088640},
    {"sqrt-layer", 6.4e6, 6.4e6, 6.4e6, 6.4e6},
    {"sqrt-model", 20 * GB, 40 * GB, 0.64 * GB, 1.92 * GB},
    {"gpt-layer", 6.4e6, 6.4e6, 9126805504, 9126805504},
    {"batch-doubled", 2, 2, 2, 2},
    {"sequence-doubled", 2, 4, 2, 388 / 114.0},
    {"logits", GB, GB, 1050673152, 1050673152},
    {"70b-weights", 140 * GB, 140 * GB, 141107412992, 141107412992},
    {"kv-token", 0, 0, 320 * 1024, 320 * 1024},
    {"70b-inference", 168 * GB, 168 * GB, 144026648576, 144026648576},
    {"twenty-percent", 0, 0, 28 * GB / 327680, 28 * GB / 327680},
    {"13b-infer", 26 * GB, 26 * GB, 13015864320, 26031728640},
    {"13b-tune", 208 * GB, 208 * GB, 208253829120, 208253829120},
    {"13b-qlora", 0, 0, 12687769600 * NF4 + 40 * 7 * 4 + 656189440 + 1001390080.0,
     12687769600 * NF4 + 40 * 7 * 4 + 656189440 + 1001390080.0},
    {"10b-two-gpus", 80 * GB, 100 * GB, 60 * GB, 80 * GB},
    {"zero-0", 120 * GB, 120 * GB, 120 * GB, 120 * GB},
    {"zero-1", 31.40625 * GB, 31.40625 * GB, 31.40625 * GB, 31.40625 * GB},
    {"zero-2", 16.640625 * GB, 16.640625 * GB, 16.640625 * GB, 16.640625 * GB},
    {"zero-3", 1.875 * GB, 1.875 * GB, 1.875 * GB, 1.875 * GB},
    {"card-t4", 16 * GB, 16 * GB, 14.75 * GIB, 14.75 * GIB},
    {"card-3090", 24 * GB, 24 * GB, 23.70 * GIB, 23.70 * GIB},
    {"card-a100-40", 40 * GB, 40 * GB, 39.50 * GIB, 39.50 * GIB},
    {"card-a100-80", 80 * GB, 80 * GB, 79.25 * GIB, 79.25 * GIB},
    {"card-h100", 80 * GB, 80 * GB, 79.11 * GIB, 79.11 * GIB},
    {"overhead", GB, 2 * GB, 0.25 * GIB, 0.45 * GIB},
    {"checkpointing", 0, 0, 2 / 114.0, 2 / 34.0},
    {"accumulation", 0, 0, 0.25, 0.25},
    {"lora", 0, 0, 41943040 / 8030261248.0, 41943040 / 8030261248.0},
    {"qlora", 0, 0, NF4_8B / 16060522496, (NF4_8B) / 16060522496},
    {"ddp", 1, 1, 0.5, 0.5},
    {"fsdp", 0.5, 0.5, 0.5, 0.5},
    {"tensor-parallel", 0.5, 0.5, 22 / 34.0, 22 / 34.0},
    {"pipeline-parallel", 0.5, 0.5, 1, 1},
};

static void each_figure(void **state)
{
    (void)state;
    TextbookRow row;
    int rows = 0;
    for (; estimate_textbook_row(rows, &row); rows++) {
        assert_true(rows < (int)COUNT(figures));
        assert_string_equal(row.id, figures[rows].id);
        assert_close(row.id, row.by_rule.low, figures[rows].rule_low);
        assert_close(row.id, row.by_rule.high, figures[rows].rule_high);
        assert_close(row.id, row.exact.low, figures[rows].exact_low);
        assert_close(row.id, row.exact.high, figures[rows].exact_high);
    }
    assert_int_equal(rows, COUNT(figures));
    assert_int_equal(estimate_textbook_row(-1, &row), 0);
    assert_int_equal(estimate_textbook_row(rows, &row), 0);
}

/* "17-18 GB" and "2M values" mean what the rule computes; words ("almost 5 times") are compared by eye. */
static void the_textbook_s_words_are_its_figures(void **state)
{
    (void)state;
    TextbookRow row;
    int read = 0;
    for (int i = 0; estimate_textbook_row(i, &row); i++) {
        double low, high, scale;
        char unit[24] = "";
        int fields = sscanf(row.textbook, "%lf-%lf %20s", &low, &high, unit);
        if (fields < 3) {
            if (sscanf(row.textbook, "%lf %20s", &low, unit) < 2 &&
                sscanf(row.textbook, "%lf%20s", &low, unit) < 2)
                continue;
            high = low;
        }
        scale = !strcmp(unit, "GB") ? 1e9 : !strcmp(unit, "MB") ? 1e6 : !strcmp(unit, "M") ? 1e6 : 1;
        if (fabs(row.by_rule.low - low * scale) > 0.02 * low * scale || /* 1.875 is taught as 1.9 */
            fabs(row.by_rule.high - high * scale) > 0.02 * high * scale)
            fail_msg("%s: '%s', the rule gives %g to %g", row.id, row.textbook, row.by_rule.low,
                     row.by_rule.high);
        read++;
    }
    assert_true(read > 35);
}

static void rows_are_complete(void **state)
{
    (void)state;
    TextbookRow row, other;
    for (int i = 0; estimate_textbook_row(i, &row); i++) {
        assert_true(row.id[0] && row.topic[0] && row.rule[0] && row.textbook[0] && row.unit[0] &&
                    row.remark[0]);
        assert_in_range(strlen(row.question), 1, 41);
        assert_true(row.exact.low <= row.exact.high && row.by_rule.low <= row.by_rule.high);
        for (int j = 0; j < i; j++) {
            estimate_textbook_row(j, &other);
            assert_string_not_equal(row.id, other.id);
        }
    }
}

/* ---- As printed ------------------------------------------------------------------------------ */

static size_t printed(char *text, size_t size, void (*print)(FILE *out))
{
    FILE *out = tmpfile();
    assert_non_null(out);
    print(out);
    rewind(out);
    size_t length = fread(text, 1, size - 1, out);
    text[length] = '\0';
    fclose(out);
    assert_in_range(length, 1, size - 2);
    return length;
}

static int columns(const char *line, size_t bytes)
{
    int shown = 0;
    for (size_t i = 0; i < bytes; i++)
        shown += ((unsigned char)line[i] & 0xC0) != 0x80;
    return shown;
}

/* Fails where a line is wider than a terminal of 100 or ends in a space. */
static void assert_fits(const char *text)
{
    for (const char *line = text; *line;) {
        size_t length = strcspn(line, "\n");
        if (columns(line, length) > 100 || (length && line[length - 1] == ' '))
            fail_msg("'%.*s'", (int)length, line);
        line += length + (line[length] == '\n');
    }
}

static void the_table_can_be_read(void **state)
{
    (void)state;
    static char text[1 << 15];
    TextbookRow row;
    printed(text, sizeof text, estimate_textbook_print);
    assert_fits(text);
    for (int i = 0; estimate_textbook_row(i, &row); i++) {
        char start[64];
        snprintf(start, sizeof start, "\n  %s ", row.question);
        char *line = strstr(text, start);
        assert_non_null(line++);
        size_t length = strcspn(line, "\n");
        assert_int_equal(strncmp(line + length - 9, row.plan ? "  PLANNED" : "ESTIMATED", 9), 0);
        /* A decimal unit never stands alone. */
        if (!strcmp(row.unit, "bytes") && row.exact.high >= 1000) {
            char *equals = strstr(line, "B = ");
            assert_true(equals && equals < line + length);
            assert_int_equal(strncmp(line + length - 12, "iB", 2), 0);
        }
        assert_non_null(strstr(text, row.topic));
    }
    assert_non_null(strstr(text, "19.77 GB = 18.42 GiB"));
    assert_non_null(strstr(text, "60.0-80.0 GB = 55.9-74.5 GiB"));
    assert_non_null(strstr(text, "327.7 kB = 320.0 KiB"));
    assert_non_null(strstr(text, "0.516 bytes"));
}

/* ---- Published formulae ---------------------------------------------------------------------- */

static void parameters_of(const char *name, const LlamaShape *shape, int64_t published)
{
    assert_int_equal(estimate_llama_parameters(shape), published);
    Visit here = visit(&(ContextOptions){.meta = 1, .threads = 1});
    int scope = tensor_scope_begin();
    assert_int_equal(nn_parameter_count(nn_model(nn_preset(name))), published);
    tensor_scope_end(scope);
    leave(here);
}

static void shapes_have_their_published_sizes(void **state)
{
    (void)state;
    parameters_of("llama-3.2-1b", &(LlamaShape){128256, 2048, 16, 32, 8, 8192, .tied = 1}, 1235814400);
    parameters_of("llama-3.1-8b", &(LlamaShape){128256, 4096, 32, 32, 8, 14336, 0}, 8030261248);
    parameters_of("llama-3.1-70b", &(LlamaShape){128256, 8192, 80, 64, 8, 28672, 0}, 70553706496);
    parameters_of("llama-3.1-405b", &(LlamaShape){128256, 16384, 126, 128, 8, 53248, 0}, 405853388800);
    parameters_of("llama-2-7b", &(LlamaShape){32000, 4096, 32, 32, 32, 11008, 0}, 6738415616);
    parameters_of("llama-2-13b", &(LlamaShape){32000, 5120, 40, 40, 40, 13824, 0}, 13015864320);
}

static void weights(void **state)
{
    (void)state;
    assert_close("4.5 bits", estimate_nf4_bits(0), 4.5);
    assert_close("4.127 bits", estimate_nf4_bits(1), 4 + 0.125 + 0.001953125);
    assert_int_equal(estimate_lora_parameters(16, 4096, 14336), 294912);
    assert_int_equal(estimate_lora_parameters(8, 768, 768), 12288);
    LlamaShape llama2_70b = {32000, 8192, 80, 64, 8, 28672, 0},
               llama3_8b = {128256, 4096, 32, 32, 8, 14336, 0};
    assert_int_equal(estimate_llama_linear_parameters(&llama3_8b), 6979321856);
    assert_int_equal(estimate_llama_lora_parameters(&llama3_8b, 16), 41943040);
    assert_int_equal(estimate_kv_cache_bytes(&llama2_70b, 1, 2), 320 * 1024);
    assert_int_equal(estimate_kv_cache_bytes(&llama2_70b, 4096, 2), INT64_C(1342177280));
    assert_int_equal(estimate_kv_cache_bytes(&llama3_8b, 1, 2), 128 * 1024);
}

static void zero(void **state)
{
    (void)state;
    static const double published[] = {120, 31.4, 16.6, 1.9}; /* GB: 7.5B, 64 ranks, K = 12 */
    for (int stage = 0; stage <= 3; stage++)
        assert_true(fabs(estimate_zero_bytes(7.5e9, 12, 64, stage) / 1e9 - published[stage]) < 0.05);
    for (int stage = 0; stage <= 3; stage++) /* one rank divides nothing */
        assert_close("one rank", estimate_zero_bytes(1000, 12, 1, stage), 16000);
}

static void korthikanti(void **state)
{
    (void)state;
    /* GPT-3 175B, sequence 2048, batch 1: 5as/h = 80. */
    GptShape x = {.batch = 1, .seq = 2048, .dim = 12288, .heads = 96};
    double sbh = 2048.0 * 12288;
    static const double t1[] = {114, 114, 114, 34, 34, 2}, t8[] = {114, 23, 14.25, 13, 4.25, 2};
    for (int row = 0; row < KORTHIKANTI_COUNT; row++) {
        assert_close("t = 1", estimate_korthikanti_bytes(&x, (KorthikantiRow)row, 1), t1[row] * sbh);
        assert_close("t = 8", estimate_korthikanti_bytes(&x, (KorthikantiRow)row, 8), t8[row] * sbh);
    }
    static const double parts[] = {11, 80, 19, 4};
    for (int part = 0; part < KORTHIKANTI_PARTS; part++)
        assert_close("part", (double)estimate_korthikanti_part(&x, (KorthikantiPart)part), parts[part] * sbh);
}

static void cuda_allocator(void **state)
{
    (void)state;
    static const struct {
        uint64_t request, block, segment;
    } rows[] = {
        {0, 0, 0},
        {1, 512, 2 << 20},
        {512, 512, 2 << 20},
        {513, 1024, 2 << 20},
        {1 << 20, 1 << 20, 2 << 20},
        {(1 << 20) + 1, (1 << 20) + 512, 20 << 20},
        {(10 << 20) - 512, (10 << 20) - 512, 20 << 20},
        {(10 << 20) - 511, 10 << 20, 10 << 20},
        {(10 << 20) + 1, (10 << 20) + 512, 12 << 20},
        {UINT64_C(1050673152), UINT64_C(1050673152), UINT64_C(1050673152)}, /* logits: 501 x 2 MiB exactly */
        {UINT64_C(1050673153), UINT64_C(1050673664), UINT64_C(1052770304)},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_int_equal(estimate_cuda_block_bytes(rows[i].request), rows[i].block);
        assert_int_equal(estimate_cuda_segment_bytes(rows[i].request), rows[i].segment);
    }
}

/* ---- The layer, to the byte ------------------------------------------------------------------ */

static uint64_t activations_of(const GptShape *x, int layers, AttentionKind kind, float dropout,
                               const char *precision)
{
    Visit here = visit(&(ContextOptions){.meta = 1, .threads = 1});
    int scope = tensor_scope_begin();
    tensor_set_precision(precision_by_name(precision));
    Module *model = nn_gpt2(&(Gpt2Config){.vocab = 11,
                                          .dim = (int)x->dim,
                                          .layers = layers,
                                          .heads = (int)x->heads,
                                          .max_seq = (int)x->seq,
                                          .dropout = dropout,
                                          .attention = kind});
    Batch batch = {.ids = tensor_new(DTYPE_I32, SHAPE(x->batch, x->seq), MEM_INPUT),
                   .labels = tensor_new(DTYPE_I32, SHAPE(x->batch, x->seq), MEM_INPUT),
                   .labels_total = 1};
    tensor_backward(nn_loss(model, &batch));
    assert_fine();
    uint64_t peak = books()->own_peak[MEM_ACTIVATION];
    tensor_scope_end(scope);
    leave(here);
    return peak;
}

/* What one more of them keeps. */
static uint64_t a_layer_of(const GptShape *x, int layers, AttentionKind kind, float dropout,
                           const char *precision)
{
    return activations_of(x, layers + 1, kind, dropout, precision) -
           activations_of(x, layers, kind, dropout, precision);
}

static void a_layer_is_the_sum_of_its_items(void **state)
{
    (void)state;
    static const GptShape shapes[] = {
        {1, 1, 1, 1},   {1, 7, 10, 2},    {3, 5, 12, 3},      {2, 33, 64, 4}, {5, 17, 30, 5},
        {1, 129, 8, 8}, {4, 128, 256, 4}, {1, 1024, 768, 12}, {7, 3, 14, 1},
    };
    for (size_t i = 0; i < COUNT(shapes); i++) {
        const GptShape *x = &shapes[i];
        int64_t paper = 0, eager = 0, flash = 0, eager16 = 0, flash16 = 0, part[KORTHIKANTI_PARTS] = {0};
        FormulaItem item;
        for (int k = 0; estimate_formula_item(x, k, &item); k++) {
            paper += item.paper;
            eager += item.eager;
            flash += item.flash;
            eager16 += item.eager16;
            flash16 += item.flash16;
            part[item.part] += item.paper;
            assert_true(item.term[0] && item.why[0] && item.formula[0]);
        }
        assert_close("the paper's sum", (double)paper, estimate_korthikanti_bytes(x, KORTHIKANTI_PLAIN, 1));
        for (int k = 0; k < KORTHIKANTI_PARTS; k++)
            assert_int_equal(part[k], estimate_korthikanti_part(x, (KorthikantiPart)k));
        for (int dropout = 0; dropout < 2; dropout++)
            for (int layers = 1; layers < 4; layers += 2) {
                float p = dropout ? 0.1f : 0;
                assert_int_equal(a_layer_of(x, layers, ATTENTION_EAGER, p, "fp32"), eager);
                assert_int_equal(a_layer_of(x, layers, ATTENTION_FLASH, p, "fp32"), flash);
                assert_int_equal(a_layer_of(x, layers, ATTENTION_EAGER, p, "bf16"), eager16);
                assert_int_equal(a_layer_of(x, layers, ATTENTION_FLASH, p, "fp16-mixed"), flash16);
            }
    }
}

/* Without rounding: eager sbh (64 + 4as/h) + 16 sb, flash 64 sbh + 4asb + 16 sb. */
static void the_closed_form(void **state)
{
    (void)state;
    GptShape x = {.batch = 2, .seq = 64, .dim = 128, .heads = 4};
    int64_t sbh = 64 * 2 * 128, sb = 64 * 2, eager = 0, flash = 0;
    FormulaItem item;
    for (int k = 0; estimate_formula_item(&x, k, &item); k++) {
        eager += item.eager;
        flash += item.flash;
    }
    assert_int_equal(eager, 64 * sbh + 4 * 4 * 64 * sb + 16 * sb);
    assert_int_equal(flash, 64 * sbh + 4 * 4 * sb + 16 * sb);
}

static void print_gpt2(FILE *out)
{
    estimate_formula_print(out, 1, 1024, 768, 12);
}

static void print_large(FILE *out)
{
    estimate_formula_print(out, 8, 4096, 16384, 128);
}

static void print_none(FILE *out)
{
    estimate_formula_print(out, 3, 7, 10, 4);
}

static void the_items_can_be_read(void **state)
{
    (void)state;
    static char text[1 << 14];
    printed(text, sizeof text, print_gpt2);
    assert_fits(text);
    assert_non_null(strstr(text, "89,653,248    100,679,680     50,397,184"));
    assert_int_equal(strncmp(text, "ESTIMATED", 9), 0);
    printed(text, sizeof text, print_large);
    assert_fits(text);
    printed(text, sizeof text, print_none);
    assert_non_null(strstr(text, "no layer of batch 3, sequence 7, width 10, 4 heads"));
    FormulaItem item;
    assert_int_equal(estimate_formula_item(&(GptShape){0, 1, 1, 1}, 0, &item), 0);
    assert_int_equal(estimate_formula_item(&(GptShape){1, 1, 1, 1}, -1, &item), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_formula_says_its_figure),
        cmocka_unit_test(each_figure),
        cmocka_unit_test(the_textbook_s_words_are_its_figures),
        cmocka_unit_test(rows_are_complete),
        cmocka_unit_test(the_table_can_be_read),
        cmocka_unit_test(shapes_have_their_published_sizes),
        cmocka_unit_test(weights),
        cmocka_unit_test(zero),
        cmocka_unit_test(korthikanti),
        cmocka_unit_test(cuda_allocator),
        cmocka_unit_test(a_layer_is_the_sum_of_its_items),
        cmocka_unit_test(the_closed_form),
        cmocka_unit_test(the_items_can_be_read),
    };
    return cmocka_run_group_tests_name("textbook", tests, NULL, NULL);
}
