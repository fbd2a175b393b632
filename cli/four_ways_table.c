/* What brim compare --four-ways prints: what each way needs, part by part, beside what is taught; and which
 * card takes it. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "../device/cards.h"
#include "../estimate/textbook.h"
#include "flags_.h"
#include "four_ways_.h"
#include "levers_.h"

/* In a line, and in the two lines of a column's heading. */
static const char *const way_names[WAYS] = {"full fp32", "16-bit with master", "16-bit mixed",
                                            "pure bf16", "bf16, 8-bit states", "LoRA on bf16",
                                            "QLoRA"};
static const char *const way_headings[WAYS][2] = {
    {"full", "fp32"},   {"16-bit,", "master"}, {"16-bit", "mixed"}, {"pure", "bf16"},
    {"bf16,", "8-bit"}, {"LoRA", "on bf16"},   {"QLoRA", "on nf4"}};
enum { LABEL = 23, COLUMN = 11 };

static const char *const part_names[PARTS] = {
    "frozen weights",     "trained weights",  "master weights",
    "gradients",          "optimizer states", "gradients not there yet",
    "blocks of 64 bytes", "activations",      "activation gradients",
    "temporaries",        "workspace",        "input",
    "gaps between blocks"};
static const char *const part_keys[PARTS] = {"frozen",      "trained",          "masters",
                                             "gradients",   "optimizer_states", "gradients_not_there_yet",
                                             "rounding",    "activations",      "activation_gradients",
                                             "temporaries", "workspace",        "other",
                                             "gaps"};

/* The lesson's figure for the way, in bytes; 0 where it has none. */
static double taught(const FourWays *four, int way)
{
    static const char *const rows[WAYS] = {
        [WAY_FP32] = "8b-fp32", [WAY_MIXED] = "8b-mixed", [WAY_LORA] = "8b-lora", [WAY_QLORA] = "8b-qlora"};
    TextbookRow row;
    if (!rows[way] || strcmp(four->model, "llama-3.1-8b") != 0)
        return 0;
    for (int i = 0; estimate_textbook_row(i, &row); i++)
        if (!strcmp(row.id, rows[way]))
            return row.exact.low;
    return 0;
}

/* ---- One model ------------------------------------------------------------------------------- */

typedef struct Decimal {
    double bytes;
    const char *name;
} Decimal;

/* Decimal, as figures are taught. */
static Decimal unit_of(const FourWays *four)
{
    return four->way[WAY_FP32].needs >= 1000000000 ? (Decimal){1e9, "GB = 10^9 bytes"}
                                                   : (Decimal){1e6, "MB = 10^6 bytes"};
}

static void row_begin(const char *label)
{
    printf("%-*s", LABEL, label);
}

static void cell(const Decimal *unit, int64_t bytes)
{
    if (bytes)
        printf("%*.2f", COLUMN, (double)bytes / unit->bytes);
    else
        printf("%*s", COLUMN, "-");
}

static void rule(void)
{
    for (int i = 0; i < LABEL + WAYS * COLUMN; i++)
        putchar('-');
    putchar('\n');
}

static void part_rows(const FourWays *four, const Decimal *unit, int from, int to)
{
    for (int p = from; p <= to; p++) {
        row_begin(part_names[p]);
        for (int i = 0; i < WAYS; i++)
            cell(unit, four->way[i].part[p]);
        putchar('\n');
    }
}

static void sum_row(const FourWays *four, const Decimal *unit, const char *label, size_t at)
{
    row_begin(label);
    for (int i = 0; i < WAYS; i++)
        cell(unit, *(const int64_t *)((const char *)&four->way[i] + at));
    putchar('\n');
}

static void taught_row(const FourWays *four, const Decimal *unit)
{
    if (!(taught(four, 0) > 0))
        return;
    row_begin("the lesson's figure");
    for (int i = 0; i < WAYS; i++)
        if (taught(four, i) > 0)
            printf("%*.1f", COLUMN, taught(four, i) / unit->bytes);
        else
            printf("%*s", COLUMN, "-");
    putchar('\n');
}

static void needs_row(const FourWays *four)
{
    row_begin("needs");
    for (int i = 0; i < WAYS; i++)
        printf("%*s", COLUMN, report_size((uint64_t)four->way[i].needs).text);
    putchar('\n');
}

static void bracket_lines(const FourWays *four)
{
    printf("\n");
    for (int i = 0; i < WAYS; i++) {
        SayLine line = {""};
        line_add(&line, "%-20s%.1000s", way_names[i], bracket_text(&four->way[i].bracket).text);
        say_line(&line);
    }
}

static void model_table(const FourWays *four)
{
    const Decimal unit = unit_of(four);
    for (int line = 0; line < 2; line++) {
        row_begin(line ? "" : unit.name);
        for (int i = 0; i < WAYS; i++)
            printf("%*s", COLUMN, way_headings[i][line]);
        putchar('\n');
    }
    part_rows(four, &unit, PART_FROZEN, PART_STATES);
    rule();
    sum_row(four, &unit, "states alone", offsetof(Way, states));
    taught_row(four, &unit);
    part_rows(four, &unit, PART_LATE, PART_REST);
    rule();
    sum_row(four, &unit, "peak", offsetof(Way, peak));
    part_rows(four, &unit, PART_GAPS, PART_GAPS);
    needs_row(four);
}

/* ---- Cards ----------------------------------------------------------------------------------- */

enum { WAY_CARDS = 5, MODEL = 13, WAY = 19, NEEDS = 8, CARD = 9 };

/* The i-th card, and the bytes of it that a training may need. */
static const char *way_card(int i, uint64_t *limit, uint64_t *bytes)
{
    static const char *const cards[WAY_CARDS] = {"t4", "rtx-3090", "a100-40", "a100-80", "h100"};
    const Card *card = device_card(cards[i]);
    *bytes = card->bytes;
    *limit = card->bytes - options_default.reserve;
    return card->name;
}

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

static void cards_heading(void)
{
    uint64_t limit, bytes;
    printf("\nWHAT FITS WHERE: yes, or the GiB that are missing, 1.00 of each card reserved\n");
    printf("%-*s%*s", MODEL + WAY, "", NEEDS, "needs");
    for (int i = 0; i < WAY_CARDS; i++)
        printf("%*s", CARD, way_card(i, &limit, &bytes));
    printf("\n%-*s%*s", MODEL + WAY, "", NEEDS, "GiB");
    for (int i = 0; i < WAY_CARDS; i++) {
        way_card(i, &limit, &bytes);
        printf("%*.2f", CARD, gib(bytes));
    }
    putchar('\n');
}

/* A missing byte is no "-0.0". */
static void fits_cell(int64_t needs, uint64_t limit)
{
    double missing = gib((uint64_t)needs) - gib(limit);
    if ((uint64_t)needs <= limit)
        printf("%*s", CARD, "yes");
    else
        printf("%*.1f", CARD, -ceil(10 * missing) / 10);
}

static void card_rows(const FourWays *four)
{
    uint64_t limit, bytes;
    if (four->error[0]) {
        printf("%-*s%s\n", MODEL, four->model, four->error);
        return;
    }
    for (int i = 0; i < WAYS; i++) {
        const Way *way = &four->way[i];
        printf("%-*s%-*s%*.2f", MODEL, i ? "" : four->model, WAY, way_names[i], NEEDS,
               gib((uint64_t)way->needs));
        for (int k = 0; k < WAY_CARDS; k++) {
            way_card(k, &limit, &bytes);
            fits_cell(way->needs, limit);
        }
        putchar('\n');
    }
}

void four_ways_print(const WaysTable *table)
{
    const Options *o = table->options;
    SayLine line = {""};
    line_add(&line,
             "%s  %s parameters  four ways to tune it  %s  batch %d x seq %d  checkpoint blocks  %d threads",
             o->model, report_count(table->model.parameters).text, optim_rule(o->optimizer)->title, o->batch,
             o->seq, threads_of(o));
    say_line(&line);
    printf("\n");
    model_table(&table->model);
    bracket_lines(&table->model);
    cards_heading();
    for (int i = 0; i < WAY_MODELS; i++)
        card_rows(&table->on_cards[i]);
    printf(
        "\nEach way is planned. Activations are 16 bit where weights that are trained are, else fp32. With\n"
        "master: --precision bf16-mixed; mixed: bf16-states32; pure: bf16; 8-bit: the same with --optimizer\n"
        "adamw8bit. LoRA and QLoRA: r=16, alpha=32, all linear layers; --precision bf16 beside them makes\n"
        "activations 16 bit.\n");
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *way_json(const FourWays *four, int i)
{
    const Way *way = &four->way[i];
    json_t *parts = json_object();
    for (int p = 0; p < PARTS; p++)
        json_object_set_new(parts, part_keys[p], json_integer(way->part[p]));
    json_t *one = json_pack("{s:s, s:b, s:o, s:o, s:o, s:I, s:I, s:I}", "way", way_names[i], "planned", 1,
                            "options", levers_json(&way->options), "bracket", bracket_json(&way->bracket),
                            "parts", parts, "states_bytes", (json_int_t)way->states, "peak_bytes",
                            (json_int_t)way->peak, "needs_bytes", (json_int_t)way->needs);
    json_object_set_new(one, "memory", json_memory(&way->plan.memory, NULL));
    if (taught(four, i) > 0)
        json_object_set_new(one, "lesson_bytes", json_integer((json_int_t)taught(four, i)));
    return one;
}

static json_t *fits_json(const FourWays *four, int i)
{
    json_t *cards = json_array();
    uint64_t limit, bytes;
    for (int k = 0; k < WAY_CARDS; k++) {
        const char *name = way_card(k, &limit, &bytes);
        int64_t free = (int64_t)limit - four->way[i].needs;
        json_array_append_new(cards, json_pack("{s:s, s:b, s:I}", "card", name, "fits", free >= 0,
                                               "free_bytes", (json_int_t)free));
    }
    return json_pack("{s:s, s:s, s:I, s:o}", "model", four->model, "way", way_names[i], "needs_bytes",
                     (json_int_t)four->way[i].needs, "cards", cards);
}

void four_ways_json(const WaysTable *table)
{
    const Options *o = table->options;
    json_t *ways = json_array(), *fits = json_array();
    for (int i = 0; i < WAYS; i++)
        json_array_append_new(ways, way_json(&table->model, i));
    for (int m = 0; m < WAY_MODELS; m++)
        for (int i = 0; i < WAYS && !table->on_cards[m].error[0]; i++)
            json_array_append_new(fits, fits_json(&table->on_cards[m], i));
    json_print(json_pack("{s:s, s:I, s:i, s:i, s:i, s:o, s:o}", "model", o->model, "parameters",
                         (json_int_t)table->model.parameters, "batch", o->batch, "seq", o->seq, "threads",
                         threads_of(o), "ways", ways, "fits", fits));
}
