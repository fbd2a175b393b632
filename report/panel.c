/* Draws the panel: from a state to lines of text, without a terminal. Every number has a fixed width in a
 * run, so nothing moves but what changes. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "panel.h"
#include "report_.h"

/* ---- The curve ------------------------------------------------------------------------------- */

void report_curve_add(LossCurve *c, double loss)
{
    if (c->stride == 0) {
        c->stride = 1;
        c->first = loss;
    }
    c->last = loss;
    c->sum += loss;
    if (++c->pending < c->stride)
        return;
    c->mean[c->count++] = (float)(c->sum / (double)c->stride);
    c->sum = 0;
    c->pending = 0;
    if (c->count < PANEL_POINTS)
        return;
    c->count /= 2;
    c->stride *= 2;
    for (int i = 0; i < c->count; i++)
        c->mean[i] = 0.5f * (c->mean[2 * i] + c->mean[2 * i + 1]);
}

/* ---- Characters and colours ------------------------------------------------------------------ */

typedef struct Glyphs {
    const char *group[MEM_GROUP_COUNT];
    const char *done, *todo, *need, *free, *beyond, *arrow, *not_finite;
    const char *level[8];
} Glyphs;

/* Distinct without colour: blocks by their density, or the first letters. */
static const Glyphs utf8_glyphs = {
    .group = {"█", "▚", "▓", "▒", "░"},
    .done = "━",
    .todo = "─",
    .need = "│",
    .free = " ",
    .beyond = "·",
    .arrow = "→",
    .not_finite = "×",
    .level = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"},
};
static const Glyphs ascii_glyphs = {
    .group = {"P", "G", "O", "A", "x"},
    .done = "=",
    .todo = "-",
    .need = "|",
    .free = " ",
    .beyond = ".",
    .arrow = "->",
    .not_finite = "!",
    .level = {"_", ".", ":", "-", "=", "+", "*", "#"},
};
/* The hues that the report page has: blue, orange (of eight colours red), pink, green, mustard. Of 256
 * colours the calm ones nearest to the page's. */
static const char *const few_colours[MEM_GROUP_COUNT] = {"\033[34m", "\033[31m", "\033[35m", "\033[32m",
                                                         "\033[33m"};
static const char *const many_colours[MEM_GROUP_COUNT] = {"\033[38;5;31m", "\033[38;5;166m", "\033[38;5;175m",
                                                          "\033[38;5;36m", "\033[38;5;179m"};
static const char *const faint = "\033[2m", *const curve_colour = "\033[36m", *const plain = "\033[0m";

/* ---- Text ------------------------------------------------------------------------------------ */

typedef struct Page {
    const PanelState *state;
    const Glyphs *glyphs;
    PanelText *out;
    size_t used;
    int column, width;      /* of this line; the widest that a line may be */
    int wide, colour, bars; /* bars: how many columns each of them has */
    ReportUnit unit;
    int digits; /* of the largest size in that unit */
} Page;

enum { LABEL = 6, WIDE = 60 };

static void put_bytes(Page *p, const char *text)
{
    size_t length = strlen(text);
    if (p->used + length >= sizeof p->out->text)
        return;
    memcpy(p->out->text + p->used, text, length + 1);
    p->used += length;
}

static void put(Page *p, const char *text)
{
    for (const char *c = text; *c; c++)
        p->column += ((unsigned char)*c & 0xc0) != 0x80;
    put_bytes(p, text);
}

static void paint(Page *p, const char *colour)
{
    if (p->colour)
        put_bytes(p, colour);
}

static void repeat(Page *p, const char *glyph, int count)
{
    for (int i = 0; i < count; i++)
        put(p, glyph);
}

/* Dots of a calm colour beside the background's are not calm: many colours need no patterns. */
static const char *group_glyph(const Page *p, int group)
{
    int solid = p->colour >= PANEL_COLOURS_256 && p->glyphs == &utf8_glyphs;
    return p->glyphs->group[solid ? 0 : group];
}

static const char *group_colour(const Page *p, int group)
{
    return p->colour >= PANEL_COLOURS_256 ? many_colours[group] : few_colours[group];
}

static void repeat_in(Page *p, const char *colour, const char *glyph, int count)
{
    if (count <= 0)
        return;
    paint(p, colour);
    repeat(p, glyph, count);
    paint(p, plain);
}

static void put_label(Page *p, const char *label)
{
    put(p, label);
    repeat(p, " ", LABEL - p->column);
}

static void end_line(Page *p)
{
    while (p->used && p->out->text[p->used - 1] == ' ') {
        p->used--;
        p->column--;
    }
    put_bytes(p, "\n");
    p->out->columns[p->out->lines++] = p->column;
    p->column = 0;
}

typedef struct Number {
    char text[40];
} Number;

typedef struct Right {
    char text[160];
} Right;

static Number size_text(const Page *p, uint64_t bytes)
{
    Number r;
    snprintf(r.text, sizeof r.text, "%*.*f", p->digits, p->unit.decimals, (double)bytes / p->unit.bytes);
    return r;
}

/* Seconds as 0:07, 12:34 or 1:23:45. */
static Number time_text(double seconds)
{
    Number r;
    long long s = seconds >= 0 && seconds < 1e9 ? (long long)(seconds + 0.5) : -1;
    if (s < 0)
        snprintf(r.text, sizeof r.text, "-:--");
    else if (s < 3600)
        snprintf(r.text, sizeof r.text, "%lld:%02lld", s / 60, s % 60);
    else
        snprintf(r.text, sizeof r.text, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    return r;
}

static Number loss_text(double loss)
{
    Number r;
    snprintf(r.text, sizeof r.text, !isfinite(loss) || fabs(loss) < 99.99995 ? "%6.4f" : "%.1e", loss);
    return r;
}

static uint64_t sum_of(const uint64_t by[MEM_GROUP_COUNT])
{
    uint64_t sum = 0;
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        sum += by[g];
    return sum;
}

/* ---- What stands right of the bars ----------------------------------------------------------- */

static Right step_right(const Page *p)
{
    const PanelState *s = p->state;
    char steps[24];
    Right r;
    int width = snprintf(steps, sizeof steps, "%" PRId64, s->steps);
    int percent = s->steps > 0 ? (int)(100.0 * (double)s->step / (double)s->steps) : 0;
    if (s->steps <= 0)
        snprintf(r.text, sizeof r.text, "%" PRId64, s->step);
    else if (p->wide)
        snprintf(r.text, sizeof r.text, "%*" PRId64 " of %s %4d %%", width, s->step, steps, percent);
    else
        snprintf(r.text, sizeof r.text, "%4d %%", percent);
    return r;
}

static Right loss_right(const Page *p)
{
    const LossCurve *c = p->state->loss;
    Right r = {""};
    if (!c || !c->stride)
        return r;
    if (p->wide)
        snprintf(r.text, sizeof r.text, "%s %s %s", loss_text(c->first).text, p->glyphs->arrow,
                 loss_text(c->last).text);
    else
        snprintf(r.text, sizeof r.text, "%s", loss_text(c->last).text);
    return r;
}

static Right peak_right(const Page *p)
{
    Right r;
    if (p->wide)
        snprintf(r.text, sizeof r.text, "%s of %s %s", size_text(p, sum_of(p->state->peak)).text,
                 size_text(p, p->state->needs).text, p->unit.name);
    else
        snprintf(r.text, sizeof r.text, "%s %s", size_text(p, sum_of(p->state->peak)).text, p->unit.name);
    return r;
}

static Right now_right(const Page *p)
{
    Right r;
    snprintf(r.text, sizeof r.text, "%s %s%s%s", size_text(p, sum_of(p->state->live)).text, p->unit.name,
             p->wide ? " " : "", p->wide ? memtrack_phase_name(p->state->phase) : "");
    return r;
}

/* The same in every drawing of a run: of the longest that can stand there. */
static int right_width(const Page *p)
{
    if (!p->wide)
        return p->digits + 4 > 7 ? p->digits + 4 : 7;
    int needs[] = {(int)strlen(step_right(p).text), 7 + 4 + 7, 2 * p->digits + 8,
                   p->digits + 5 + (int)strlen("recompute")};
    int most = 0;
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++)
        most = needs[i] > most ? needs[i] : most;
    return most;
}

/* ---- Bars ------------------------------------------------------------------------------------ */

static void end_bar(Page *p, Right right)
{
    repeat(p, " ", LABEL + p->bars + 2 - p->column);
    put(p, right.text);
    end_line(p);
}

/* Columns that so many steps of all take. */
static int step_columns(const Page *p, int64_t step)
{
    const PanelState *s = p->state;
    int columns = s->steps > 0 ? (int)((double)p->bars * (double)step / (double)s->steps) : 0;
    return columns > p->bars ? p->bars : columns;
}

static void step_line(Page *p)
{
    int done = step_columns(p, p->state->step);
    put_label(p, "step");
    repeat(p, p->glyphs->done, done);
    repeat_in(p, faint, p->glyphs->todo, p->bars - done);
    end_bar(p, step_right(p));
}

static double point(const LossCurve *c, int64_t i)
{
    return i < c->count ? (double)c->mean[i] : c->sum / (double)c->pending;
}

/* The mean loss of this run's steps that fall into one of so many columns; returns 0 where there are none
 * yet. */
static int column_loss(const Page *p, int columns, int column, double *mean)
{
    const LossCurve *c = p->state->loss;
    int64_t points = c->count + (c->pending > 0), seen = c->count * c->stride + c->pending;
    int64_t steps = p->state->steps - p->state->before;
    double width = (double)(steps > seen ? steps : seen) / (double)columns / (double)c->stride;
    int64_t from = (int64_t)(column * width), to = (int64_t)ceil((column + 1) * width);
    double sum = 0;
    if (from >= points)
        return 0;
    to = to > points ? points : to <= from ? from + 1 : to;
    for (int64_t i = from; i < to; i++)
        sum += point(c, i);
    *mean = sum / (double)(to - from);
    return 1;
}

/* The loss of this run's steps so far, each under its place in the bar of steps. */
static void loss_line(Page *p)
{
    const LossCurve *c = p->state->loss;
    double mean[PANEL_WIDEST], low = INFINITY, high = -INFINITY;
    int columns = 0, skipped = step_columns(p, p->state->before), room = p->bars - skipped;
    put_label(p, "loss");
    repeat(p, " ", skipped);
    while (c && c->stride && columns < room && column_loss(p, room, columns, &mean[columns])) {
        if (isfinite(mean[columns])) {
            low = fmin(low, mean[columns]);
            high = fmax(high, mean[columns]);
        }
        columns++;
    }
    paint(p, curve_colour);
    for (int i = 0; i < columns; i++) {
        int level = high > low ? (int)(7.999 * (mean[i] - low) / (high - low)) : 0;
        put(p, isfinite(mean[i]) ? p->glyphs->level[level] : p->glyphs->not_finite);
    }
    paint(p, plain);
    end_bar(p, loss_right(p));
}

/* What the whole width of a memory bar is. A limit far above the need would leave nothing to see: then the
 * bar ends at the need, and the limit is said in words. */
static uint64_t span_of(const PanelState *s)
{
    uint64_t peak = sum_of(s->peak), span = s->needs > peak ? s->needs : peak;
    if (s->limit > span && s->limit / 2 <= span)
        span = s->limit;
    return span > 0 ? span : 1;
}

static void memory_line(Page *p, const char *label, const uint64_t by[MEM_GROUP_COUNT], Right right)
{
    const PanelState *s = p->state;
    double cells = p->bars - 1, span = (double)span_of(s); /* one is the mark */
    int need = (int)((double)s->needs / span * cells + 0.5), at = 0;
    uint64_t sum = 0;
    put_label(p, label);
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        sum += by[g];
        int to = (int)((double)sum / span * cells + 0.5);
        repeat_in(p, group_colour(p, g), group_glyph(p, g), to - at);
        at = to > at ? to : at;
    }
    repeat(p, p->glyphs->free, need - at);
    put(p, p->glyphs->need);
    at = at > need ? at : need;
    repeat_in(p, faint, p->glyphs->beyond, p->bars - 1 - at);
    end_bar(p, right);
}

/* ---- Words ----------------------------------------------------------------------------------- */

/* How wide the legend would be: with long or short names, with sizes or without. */
static int legend_width(const Page *p, const char *const *names, int sizes)
{
    int width = LABEL;
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        width += 2 + (int)strlen(names[g]) + (sizes ? 1 + p->digits : 0) + (g ? 2 : 0);
    return width + (sizes ? 4 : 0);
}

static void legend_line(Page *p)
{
    int full = legend_width(p, report_group_labels_, 1) <= p->width;
    int sizes = full || legend_width(p, report_group_short_, 1) - LABEL <= p->width;
    const char *const *names = full ? report_group_labels_ : report_group_short_;
    int width = legend_width(p, names, sizes), space = width - LABEL <= p->width;
    repeat(p, " ", width <= p->width ? LABEL : 0);
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        repeat(p, " ", g ? 1 + space : 0);
        repeat_in(p, group_colour(p, g), group_glyph(p, g), 1);
        put(p, " ");
        put(p, names[g]);
        if (sizes) {
            put(p, " ");
            put(p, size_text(p, p->state->peak[g]).text);
        }
    }
    if (sizes) {
        put(p, " ");
        put(p, p->unit.name);
    }
    end_line(p);
}

static void rate_words(const Page *p, char *text, size_t size)
{
    const PanelState *s = p->state;
    const char *counted = s->counted ? s->counted : "";
    if (s->rate > 0 && s->rate < 1e15)
        snprintf(text, size, "%7s %s/s", report_rate(s->rate).text, counted);
    else
        snprintf(text, size, "%7s %s/s", "-", counted);
}

/* What the mark in the bars means, and the limit; shorter from form to form. */
static void need_words(const Page *p, char *text, size_t size, int form)
{
    const PanelState *s = p->state;
    const char *mark = p->glyphs->need;
    SizeText limit = report_size(s->limit);
    double percent = s->limit ? 100.0 * (double)s->needs / (double)s->limit : 0;
    int decimals = percent < 9.95;
    if (form == 0 && s->limit)
        snprintf(text, size, "%s needs %s, %.*f %% of the %s%s%s", mark, report_size(s->needs).text, decimals,
                 percent, s->limit_is_budget ? "budget of " : "", limit.text,
                 s->limit_is_budget ? "" : " free here");
    else if (form == 1 && s->limit)
        snprintf(text, size, "%s need: %.*f %% of %s", mark, decimals, percent, limit.text);
    else if (form == 0 || form == 2)
        snprintf(text, size, "%s needs %s", mark, report_size(s->needs).text);
    else
        snprintf(text, size, "%s need", mark);
}

/* Appends what fits into the line. */
static int put_words(Page *p, const char *words)
{
    int before = p->column, columns = 0;
    for (const char *c = words; *c; c++)
        columns += ((unsigned char)*c & 0xc0) != 0x80;
    int gap = before > LABEL ? 3 : 0;
    if (before + gap + columns > p->width)
        return 0;
    repeat(p, " ", gap);
    put(p, words);
    return 1;
}

static void words_line(Page *p)
{
    char text[128];
    repeat(p, " ", p->wide ? LABEL : 0);
    rate_words(p, text, sizeof text);
    put_words(p, text);
    snprintf(text, sizeof text, "%5s elapsed", time_text(p->state->elapsed).text);
    if (p->wide)
        put_words(p, text);
    if (p->state->phase == MEM_PHASE_EVALUATE) /* steps stand still meanwhile, and no time is known */
        snprintf(text, sizeof text, "evaluating");
    else
        snprintf(text, sizeof text, "%5s left", time_text(p->state->left).text);
    put_words(p, text);
    for (int form = 0, fits = 0; form < 4 && !fits; form++) {
        need_words(p, text, sizeof text, form);
        fits = put_words(p, text);
    }
    end_line(p);
}

/* What nvidia-smi shows, and what it is made of; shorter from form to form. */
static void card_words(const Page *p, char *text, size_t size, int form)
{
    const PanelState *s = p->state;
    MemSummary books = {.card = s->card, .reserved = s->reserved, .stats.live = sum_of(s->live)};
    uint64_t known = s->reserved ? s->reserved : sum_of(s->live);
    ReportUnit unit = report_unit(s->card.used);
    double used = (double)s->card.used / unit.bytes, d = unit.bytes;
    int n = snprintf(text, size, "used %.*f %s", unit.decimals, used, unit.name);
    if (form == 1)
        snprintf(text + n, size - (size_t)n, ", %+.*f beyond the reservation", unit.decimals,
                 ((double)s->card.used - (double)known) / d);
    if (form)
        return;
    n += snprintf(text + n, size - (size_t)n, " = reserved %.*f", unit.decimals, (double)known / d);
#define X(id, name, whose)                                                                                   \
    if (s->card.id)                                                                                          \
        n += snprintf(text + n, size - (size_t)n, " + %s %.*f", name, unit.decimals, (double)s->card.id / d);
    MEM_CARD_ROWS(X)
#undef X
    snprintf(text + n, size - (size_t)n, " + unaccounted %.*f", unit.decimals,
             (double)report_card_unaccounted(&books) / d);
}

static void card_line(Page *p)
{
    char text[256];
    put_label(p, "card");
    for (int form = 0, fits = 0; form < 3 && !fits; form++) {
        card_words(p, text, sizeof text, form);
        fits = put_words(p, text);
    }
    end_line(p);
}

/* ---- The page -------------------------------------------------------------------------------- */

static Page page_for(const PanelState *s, const PanelStyle *style, PanelText *out)
{
    int width = style->width > PANEL_WIDEST ? PANEL_WIDEST : style->width;
    uint64_t peak = sum_of(s->peak), most = s->needs > peak ? s->needs : peak;
    char digits[32];
    Page p = {.state = s,
              .glyphs = style->utf8 ? &utf8_glyphs : &ascii_glyphs,
              .out = out,
              .width = width - 1, /* the last column would wrap on some terminals */
              .wide = width >= WIDE,
              .colour = style->colour,
              .unit = report_unit(most)};
    p.digits = snprintf(digits, sizeof digits, "%.*f", p.unit.decimals, (double)most / p.unit.bytes);
    p.bars = p.width - LABEL - 2 - right_width(&p);
    return p;
}

int report_panel_fits(const PanelStyle *style)
{
    return style->width >= PANEL_NARROWEST && style->height >= PANEL_LEAST + 2;
}

int report_panel(const PanelState *state, const PanelStyle *style, PanelText *out)
{
    out->lines = 0;
    out->text[0] = '\0';
    if (!report_panel_fits(style))
        return 0;
    Page p = page_for(state, style, out);
    if (p.bars < 8)
        return 0; /* numbers too long for a bar beside them */
    end_line(&p); /* stands apart from what is above it */
    step_line(&p);
    loss_line(&p);
    memory_line(&p, "peak", state->peak, peak_right(&p));
    memory_line(&p, "now", state->live, now_right(&p));
    if (state->card.used && style->height >= PANEL_LINES + 2)
        card_line(&p);
    legend_line(&p);
    words_line(&p);
    return out->lines;
}

void report_progress_line(const ReportProgress *progress, int64_t done, double seconds,
                          const PanelStyle *style, PanelText *out)
{
    const PanelState none = {.steps = progress->total};
    Page p = page_for(&none, style, out);
    char count[64], left[64] = "";
    out->lines = 0;
    out->text[0] = '\0';
    if (progress->total > 0) {
        char total[24];
        int width = snprintf(total, sizeof total, "%" PRId64, progress->total);
        snprintf(count, sizeof count, "%*" PRId64 " of %s", width, done, total);
        double ahead = done > 0 ? seconds / (double)done * (double)(progress->total - done) : -1;
        snprintf(left, sizeof left, "%7s left", time_text(ahead).text);
    } else {
        snprintf(count, sizeof count, "%" PRId64, done);
        snprintf(left, sizeof left, "%7s", time_text(seconds).text);
    }
    put(&p, progress->label);
    put(&p, "  ");
    int bar = p.width - p.column - 2 - (int)strlen(count) - (int)strlen(left);
    bar = bar > 40 ? 40 : bar;
    if (bar >= 4 && progress->total > 0) {
        int full = (int)((double)bar * (double)done / (double)progress->total);
        repeat(&p, p.glyphs->done, full > bar ? bar : full);
        repeat_in(&p, faint, p.glyphs->todo, bar - full);
        put(&p, "  ");
    }
    put(&p, count);
    if (p.column + (int)strlen(left) <= p.width)
        put(&p, left);
    out->lines = 1;
    out->columns[0] = p.column;
}
