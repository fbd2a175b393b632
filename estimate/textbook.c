/* The textbook's rows in one list, and as a table. */
#include <stdio.h>
#include <string.h>

#include "../report/report.h"
#include "textbook_.h"

int estimate_textbook_row(int i, TextbookRow *row)
{
    int states = 0;
    while (textbook_states_(states))
        states++;
    const Lesson *lesson = i < states ? textbook_states_(i) : textbook_use_(i - states);
    if (!lesson)
        return 0;
    *row = lesson->texts;
    lesson->work(row);
    return 1;
}

/* ---- Figures as text ------------------------------------------------------------------------- */

typedef struct FigureText {
    char text[64];
} FigureText;

typedef struct Scale {
    double bytes;
    const char *name;
} Scale;

/* The largest scale below the value; the last is bytes themselves. */
static Scale scale_of(double bytes, const Scale *scales)
{
    while (scales->bytes > 1 && bytes < scales->bytes)
        scales++;
    return *scales;
}

static int decimals(double shown, int range)
{
    return shown >= 1000 || (range && shown >= 100) ? 0 : shown >= 100 || (range && shown >= 10) ? 1 : 2;
}

/* "19.77" or "5.70-5.75", in this scale */
static int in_scale(char *to, size_t size, TextbookFigure f, Scale scale)
{
    double low = f.low / scale.bytes, high = f.high / scale.bytes;
    if (f.low == f.high)
        return snprintf(to, size, "%.*f %s", decimals(low, 0), low, scale.name);
    return snprintf(to, size, "%.*f-%.*f %s", decimals(high, 1), low, decimals(high, 1), high, scale.name);
}

/* "19.77 GB = 18.41 GiB": a decimal unit never stands alone. */
static FigureText bytes_text(TextbookFigure f)
{
    static const Scale decimal[] = {{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "bytes"}};
    static const Scale binary[] = {{0x1p30, "GiB"}, {0x1p20, "MiB"}, {0x1p10, "KiB"}, {1, "bytes"}};
    FigureText out;
    int used = in_scale(out.text, sizeof out.text, f, scale_of(f.high, decimal));
    used += snprintf(out.text + used, sizeof out.text - (size_t)used, " = ");
    in_scale(out.text + used, sizeof out.text - (size_t)used, f, scale_of(f.high, binary));
    return out;
}

static FigureText number_text(TextbookFigure f, const char *unit)
{
    FigureText out;
    int digits = f.high < 1 ? 3 : 4;
    if (f.high >= 1000)
        snprintf(out.text, sizeof out.text, "%s %s", report_count((int64_t)f.high).text, unit);
    else if (f.low == f.high)
        snprintf(out.text, sizeof out.text, "%.*g %s", digits, f.high, unit);
    else
        snprintf(out.text, sizeof out.text, "%.*g-%.*g %s", digits, f.low, digits, f.high, unit);
    return out;
}

static FigureText figure_text(const TextbookRow *row)
{
    if (strcmp(row->unit, "bytes") || row->exact.high < 1e3)
        return number_text(row->exact, row->unit);
    return bytes_text(row->exact);
}

/* ---- The table ------------------------------------------------------------------------------- */

enum { WIDTH = 99, QUESTION = 41, TEXTBOOK = 14, EXACT = 31, INDENT = 4 };

/* Words, broken before WIDTH, each line indented; the first begins with `label`. */
static void wrapped(FILE *out, const char *label, const char *text)
{
    int column = fprintf(out, "%*s%s", INDENT, "", label), start = column;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > start && column + 1 + length > WIDTH) {
            column = fprintf(out, "\n%*s", start, "") - 1;
            start = column;
        } else if (column > start) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void row_print(FILE *out, const TextbookRow *row)
{
    fprintf(out, "  %-*s %*s %*s %9s\n", QUESTION, row->question, TEXTBOOK, row->textbook, EXACT,
            figure_text(row).text, row->plan ? "PLANNED" : "ESTIMATED");
    if (strcmp(row->rule, "-"))
        wrapped(out, "rule   ", row->rule);
    wrapped(out, "exact  ", row->formula);
    wrapped(out, "note   ", row->remark);
    if (row->plan)
        fprintf(out, "%*splan   brim %s\n", INDENT, "", row->plan);
}

static void topic_print(FILE *out, const char *topic)
{
    int column = fprintf(out, "\n%s", topic) - 1, textbook_end = 2 + QUESTION + 1 + TEXTBOOK;
    if (column > 2 + QUESTION)
        fputc('\n', out);
    else
        fprintf(out, "%*s %*s\n", textbook_end - column, "textbook", EXACT, "exact");
}

void estimate_textbook_print(FILE *out)
{
    const char *topic = "";
    TextbookRow row;
    fprintf(out, "The rules people arrive with, by arithmetic alone. GB = 10^9 bytes, GiB = 2^30.\n"
                 "`brim plan` is the exact answer for a model and a batch.\n");
    for (int i = 0; estimate_textbook_row(i, &row); i++) {
        if (strcmp(topic, row.topic))
            topic_print(out, row.topic);
        topic = row.topic;
        row_print(out, &row);
    }
}
