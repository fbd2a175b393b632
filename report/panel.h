/* What a terminal shows while a run is going on: a panel redrawn in place, and a progress bar.
 *
 * Drawing is a pure function from a state to lines of text (report_panel); a screen is the thin part that
 * puts them on a terminal, in the same place each time. Where there is no terminal nothing is drawn.
 */
#ifndef BRIM_PANEL_H
#define BRIM_PANEL_H

#include "report.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Drawing --------------------------------------------------------------------------------- */

enum {
    PANEL_POINTS = 512,
    PANEL_LINES = 8,
    PANEL_LEAST = 7,
    PANEL_NARROWEST = 40,
    PANEL_WIDEST = 160,
    PANEL_TEXT = 8192
};

/* The loss of all steps so far in at most PANEL_POINTS points, each the mean of `stride` steps. All zero is
 * an empty curve. */
typedef struct LossCurve {
    float mean[PANEL_POINTS];
    int count;
    int64_t stride; /* 0 before the first step */
    double sum;     /* of the steps of a point that is not full yet */
    int64_t pending;
    double first, last;
} LossCurve;
void report_curve_add(LossCurve *curve, double loss);

/* All sizes in bytes. */
typedef struct PanelState {
    int64_t step, steps;  /* done, and in all; steps 0 = unknown */
    int64_t before;       /* of those done, by the run that this one goes on with */
    double elapsed, left; /* seconds; left < 0 = unknown */
    MemPhase phase;
    uint64_t live[MEM_GROUP_COUNT]; /* now */
    uint64_t peak[MEM_GROUP_COUNT]; /* a step's highest moment */
    uint64_t needs;                 /* planned; the mark in the bars */
    uint64_t limit;                 /* 0 = none */
    int limit_is_budget;            /* 1: limit is a budget; 0: what this machine had free */
    double rate;                    /* a second; 0 = unknown */
    const char *counted;            /* what rate counts: "tokens", "samples" */
    const LossCurve *loss;          /* may be NULL */
    MemCard card;                   /* all 0 on the CPU */
    uint64_t reserved;              /* of the card's memory; 0 = what is live */
} PanelState;

enum { PANEL_COLOURS_8 = 1, PANEL_COLOURS_256 };

typedef struct PanelStyle {
    int width, height; /* of the terminal, in columns and lines */
    int colour;        /* 0 = none */
    int utf8;
} PanelStyle;

typedef struct PanelText {
    char text[PANEL_TEXT]; /* each line ends in a newline */
    int lines;
    int columns[PANEL_LINES]; /* of each line; below the terminal's width */
} PanelText;

/* Whether a panel has room: PANEL_NARROWEST columns, and a line above it. */
int report_panel_fits(const PanelStyle *style);
/* Draws the panel. Returns the lines: 0 where it has no room, or its numbers leave none for bars. */
int report_panel(const PanelState *state, const PanelStyle *style, PanelText *out);

/* ---- The terminal ---------------------------------------------------------------------------- */

/* Whether `out` is a terminal that can be drawn on (TERM is set, and not "dumb"), and its style: the width
 * and height of now, colour unless NO_COLOR is set (256 colours where TERM or COLORTERM says so), UTF-8 when
 * the locale of the environment says so. */
int report_terminal(FILE *out, PanelStyle *style);

/* A panel's place on a terminal: the lines above the cursor. */
typedef struct PanelScreen {
    FILE *out;
    int lines, columns[PANEL_LINES]; /* as drawn last */
    double drawn;                    /* when, in seconds of the monotonic clock */
} PanelScreen;

/* Returns 1 when `out` is a terminal, else 0. Draws nothing yet. */
int report_screen_open(PanelScreen *screen, FILE *out);
/* True when the last drawing is a tenth of a second ago or more. */
int report_screen_due(const PanelScreen *screen);
/* Draws over what was drawn last, with the cursor hidden. Returns 0 where the terminal is too small: nothing
 * is on the screen then. From here to report_screen_close a signal that ends or stops the process shows the
 * cursor again. */
int report_screen_draw(PanelScreen *screen, const PanelState *state);
/* Takes the panel away, so that lines can be printed where it was. */
void report_screen_clear(PanelScreen *screen);
/* The same for good, and the cursor comes back. */
void report_screen_close(PanelScreen *screen);

/* ---- Progress -------------------------------------------------------------------------------- */

/* A bar on stderr, where that is a terminal, for anything that takes more than two seconds:
 *
 *     ReportProgress progress = report_progress_start("planning", count);
 *     for (int i = 0; i < count; report_progress(&progress, ++i))
 *         …;
 *     report_progress_end(&progress);
 */
typedef struct ReportProgress {
    const char *label;
    int64_t total;         /* 0 = unknown */
    double started, drawn; /* seconds of the monotonic clock */
    int shown;
} ReportProgress;
ReportProgress report_progress_start(const char *label, int64_t total); /* keeps label */
/* `done` of total are done. */
void report_progress(ReportProgress *progress, int64_t done);
/* Takes the bar away. */
void report_progress_end(ReportProgress *progress);
/* The bar as text, without a newline: what report_progress draws after `seconds`. */
void report_progress_line(const ReportProgress *progress, int64_t done, double seconds,
                          const PanelStyle *style, PanelText *out);

#ifdef __cplusplus
}
#endif
#endif
