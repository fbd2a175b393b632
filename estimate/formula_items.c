/* What a GPT layer keeps, term by term: Korthikanti's formula beside this engine. The terms follow what the
 * operations of nn/gpt2.c save; a test builds the model and compares to the byte. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "../report/report.h"
#include "formulae.h"

/* A term is so many times sbh, as²b (an element of every score) or rows of scores, in bytes. */
typedef struct Term {
    const char *name, *formula;
    KorthikantiPart part;
    int paper_sbh, paper_scores;
    int here_sbh;     /* numbers, one block */
    int row_values;   /* blocks of one fp32 number a token */
    int eager_scores; /* numbers a score */
    int flash_values; /* fp32 numbers a row of scores (a token and head) */
    const char *why;
} Term;

static const char fp32[] = "fp32";
static const char again[] = "recomputed, not kept";
static const char none[] = "no attention dropout";

static const Term terms[] = {
    {"LayerNorm 1: input", "2 sbh", KORTHIKANTI_LAYER_NORM, 2, 0, 1, 0, 0, 0, fp32},
    {"LayerNorm 1: mean, 1/std", "-", KORTHIKANTI_LAYER_NORM, 0, 0, 0, 2, 0, 0, "left out by the paper"},
    {"qkv product: input", "2 sbh", KORTHIKANTI_ATTENTION, 2, 0, 1, 0, 0, 0, fp32},
    {"query, key, value", "6 sbh", KORTHIKANTI_ATTENTION, 6, 0, 3, 0, 0, 0, "fp32; one tensor"},
    {"softmax: output", "2as²b", KORTHIKANTI_SCORES, 0, 2, 0, 0, 1, 1, "fp32; flash: row sums"},
    {"softmax: dropout mask", "as²b", KORTHIKANTI_SCORES, 0, 1, 0, 0, 0, 0, none},
    {"softmax: dropout output", "2as²b", KORTHIKANTI_SCORES, 0, 2, 0, 0, 0, 0, none},
    {"output product: input", "2 sbh", KORTHIKANTI_ATTENTION, 2, 0, 1, 0, 0, 0, fp32},
    {"attention: dropout mask", "sbh", KORTHIKANTI_ATTENTION, 1, 0, 0, 0, 0, 0, again},
    {"LayerNorm 2: input", "2 sbh", KORTHIKANTI_LAYER_NORM, 2, 0, 1, 0, 0, 0, fp32},
    {"LayerNorm 2: mean, 1/std", "-", KORTHIKANTI_LAYER_NORM, 0, 0, 0, 2, 0, 0, "left out by the paper"},
    {"first MLP product: input", "2 sbh", KORTHIKANTI_MLP, 2, 0, 1, 0, 0, 0, fp32},
    {"GELU: input", "8 sbh", KORTHIKANTI_MLP, 8, 0, 4, 0, 0, 0, fp32},
    {"second MLP product: input", "8 sbh", KORTHIKANTI_MLP, 8, 0, 4, 0, 0, 0, fp32},
    {"MLP: dropout mask", "sbh", KORTHIKANTI_MLP, 1, 0, 0, 0, 0, 0, again},
};
enum { TERMS = sizeof terms / sizeof terms[0] };

static int64_t block(int64_t bytes)
{
    return (bytes + MEMTRACK_ALIGN - 1) / MEMTRACK_ALIGN * MEMTRACK_ALIGN;
}

static int shape_is_one(const GptShape *x)
{
    return x->batch > 0 && x->seq > 0 && x->dim > 0 && x->heads > 0 && x->dim % x->heads == 0;
}

int estimate_formula_item(const GptShape *x, int i, FormulaItem *item)
{
    if (i < 0 || i >= TERMS || !shape_is_one(x))
        return 0;
    const Term *term = &terms[i];
    int64_t rows = x->batch * x->seq, score_rows = rows * x->heads, score_values = score_rows * x->seq;
    const int64_t bytes32 = 4, bytes16 = 2;
    int64_t values = term->here_sbh * rows * x->dim, scores = term->eager_scores * score_values;
    int64_t statistics = term->row_values * block(bytes32 * rows);
    int64_t row_sums = block(bytes32 * term->flash_values * score_rows);
    int64_t common = block(bytes32 * values) + statistics, common16 = block(bytes16 * values) + statistics;
    *item = (FormulaItem){.term = term->name,
                          .formula = term->formula,
                          .part = term->part,
                          .paper = term->paper_sbh * rows * x->dim + term->paper_scores * score_values,
                          .eager = common + block(bytes32 * scores),
                          .flash = common + row_sums,
                          .eager16 = common16 + block(bytes16 * scores),
                          .flash16 = common16 + row_sums,
                          .why = term->why};
    return 1;
}

/* ---- Printing -------------------------------------------------------------------------------- */

enum { TERM_WIDTH = 26, RULE_WIDTH = 100 };

/* Pads to characters, not bytes: as²b has one of two bytes. */
static void padded(FILE *out, const char *text, int width)
{
    int shown = 0;
    for (const char *c = text; *c; c++)
        shown += ((unsigned char)*c & 0xC0) != 0x80;
    fprintf(out, "%s%*s", text, width > shown ? width - shown : 0, "");
}

static void rule(FILE *out)
{
    for (int i = 0; i < RULE_WIDTH; i++)
        fputc('-', out);
    fputc('\n', out);
}

static void line(FILE *out, const FormulaItem *item)
{
    padded(out, item->term, TERM_WIDTH);
    padded(out, item->formula, 6);
    fprintf(out, "%14s%15s%15s%s%s\n", report_count(item->paper).text, report_count(item->eager).text,
            report_count(item->flash).text, item->why[0] ? "  " : "", item->why);
}

static void items_print(FILE *out, const GptShape *x)
{
    FormulaItem item, sum = {.term = "a layer", .formula = "", .why = ""};
    fprintf(out, "%-*s%20s%15s%15s  %s\n", TERM_WIDTH, "kept from forward", "the paper,", "brim, fp32,",
            "brim, fp32,", "why they differ");
    fprintf(out, "%-*s%20s%15s%15s\n", TERM_WIDTH, "to backward, bytes", "16 bit", "eager", "flash");
    rule(out);
    for (int i = 0; estimate_formula_item(x, i, &item); i++) {
        line(out, &item);
        sum.paper += item.paper;
        sum.eager += item.eager;
        sum.flash += item.flash;
        sum.eager16 += item.eager16;
        sum.flash16 += item.flash16;
    }
    rule(out);
    line(out, &sum);
    fprintf(out, "%-*s%20s%15s%15s\n", TERM_WIDTH, "", report_size((uint64_t)sum.paper).text,
            report_size((uint64_t)sum.eager).text, report_size((uint64_t)sum.flash).text);
    fprintf(out,
            "Paper: sbh (34 + 5as/h). brim: eager sbh (64 + 4as/h) + 16 sb, flash 64 sbh + 4asb + 16 sb,\n"
            "each block rounded up to %d bytes; equal to a plan to the byte, with dropout and without.\n",
            MEMTRACK_ALIGN);
    fprintf(out, "In 16 bit, as the paper, brim keeps %s (eager) and %s (flash).\n",
            report_size((uint64_t)sum.eager16).text, report_size((uint64_t)sum.flash16).text);
}

static void table2_print(FILE *out, const GptShape *x)
{
    static const char *const names[][2] = {
#define X(id, name, formula) {name, formula},
        PLAN_KORTHIKANTI(X)
#undef X
    };
    static const int64_t ranks[] = {1, 2, 8};
    fprintf(out, "\nThe paper's table 2, 16 bit    %-28s%11s%12s%12s\n", "bytes a layer", "t = 1", "t = 2",
            "t = 8");
    for (int row = 0; row < KORTHIKANTI_COUNT; row++) {
        fprintf(out, "  %-29s%-28s", names[row][0], names[row][1]);
        for (size_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++)
            fprintf(out, "%*s", i ? 12 : 11,
                    report_size((uint64_t)estimate_korthikanti_bytes(x, (KorthikantiRow)row, ranks[i])).text);
        fputc('\n', out);
    }
}

void estimate_formula_print(FILE *out, int64_t B, int64_t T, int64_t h, int64_t a)
{
    const GptShape shape = {.batch = B, .seq = T, .dim = h, .heads = a};
    if (!shape_is_one(&shape)) {
        fprintf(out,
                "There is no layer of batch %" PRId64 ", sequence %" PRId64 ", width %" PRId64 ", %" PRId64
                " heads: sizes start at 1, and heads divide the width.\n",
                B, T, h, a);
        return;
    }
    fprintf(out,
            "ESTIMATED  A GPT layer by Korthikanti et al. (arXiv 2205.05198), and what brim keeps\n"
            "b = %" PRId64 " sample%s, s = %" PRId64 " token%s, h = %" PRId64 " wide, a = %" PRId64
            " head%s, feed-forward 4h\n\n",
            B, plural(B), T, plural(T), h, a, plural(a));
    items_print(out, &shape);
    table2_print(out, &shape);
}
