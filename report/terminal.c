/* Puts drawings on a terminal: over the last one, with the cursor hidden, which comes back however the
 * process ends. */
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../base/clock_.h"
#include "panel.h"

/* ---- What the terminal can ------------------------------------------------------------------- */

/* Asks the environment's locale, not the process's, which a library leaves alone; once, because a locale is
 * loaded for it. */
static int locale_is_utf8(void)
{
    static int known, utf8;
    locale_t locale = known ? (locale_t)0 : newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    if (locale) {
        const char *codeset = nl_langinfo_l(CODESET, locale);
        utf8 = !strcmp(codeset, "UTF-8") || !strcmp(codeset, "utf8");
        freelocale(locale);
    }
    known = 1;
    return utf8;
}

static void measure(FILE *out, PanelStyle *style)
{
    struct winsize size;
    int known = !ioctl(fileno(out), TIOCGWINSZ, &size) && size.ws_col > 0;
    style->width = known ? size.ws_col : 80;
    style->height = known && size.ws_row > 0 ? size.ws_row : 24;
}

int report_terminal(FILE *out, PanelStyle *style)
{
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    *style = (PanelStyle){0};
    if (!isatty(fileno(out)) || !term || !term[0] || !strcmp(term, "dumb"))
        return 0;
    measure(out, style);
    const char *many = getenv("COLORTERM");
    int has_many = (many && many[0]) || strstr(term, "256color") || strstr(term, "direct");
    if (!no_colour || !no_colour[0])
        style->colour = has_many ? PANEL_COLOURS_256 : PANEL_COLOURS_8;
    style->utf8 = locale_is_utf8();
    return 1;
}

/* ---- The cursor comes back ------------------------------------------------------------------- */

static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
enum { SIGNALS = sizeof ending / sizeof ending[0] };
static struct sigaction before[SIGNALS];
static volatile sig_atomic_t caught[SIGNALS]; /* ours is installed */
static volatile sig_atomic_t hidden_on = -1;  /* the terminal whose cursor is hidden */
static volatile sig_atomic_t stopped;         /* since the last drawing: others have written below it */

static void show_cursor(void)
{
    static const char show[] = "\033[?25h";
    if (hidden_on >= 0 && write(hidden_on, show, sizeof show - 1) < 0)
        return;
    hidden_on = -1;
}

/* Shows the cursor, then lets happen what would have happened. */
static void on_signal(int number)
{
    int error = errno;
    show_cursor();
    stopped = 1;
    for (int i = 0; i < SIGNALS; i++)
        if (ending[i] == number) {
            sigaction(number, &before[i], NULL);
            caught[i] = 0;
        }
    raise(number);
    errno = error;
}

/* Again before each drawing: a handler takes itself away, and the process may go on (SIGTSTP, SIGCONT). */
static void catch_signals(void)
{
    static int at_exit;
    struct sigaction ours = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    if (!at_exit)
        at_exit = !atexit(show_cursor);
    for (int i = 0; i < SIGNALS; i++) {
        if (caught[i] || sigaction(ending[i], NULL, &before[i]) || before[i].sa_handler == SIG_IGN)
            continue;
        caught[i] = 1;
        sigaction(ending[i], &ours, NULL);
    }
}

static void release_signals(void)
{
    for (int i = 0; i < SIGNALS; i++)
        if (caught[i]) {
            sigaction(ending[i], &before[i], NULL);
            caught[i] = 0;
        }
}

/* ---- The screen ------------------------------------------------------------------------------ */

int report_screen_open(PanelScreen *screen, FILE *out)
{
    PanelStyle style;
    *screen = (PanelScreen){.out = out};
    return report_terminal(out, &style);
}

int report_screen_due(const PanelScreen *screen)
{
    return clock_now() - screen->drawn >= 0.1;
}

/* To the first line of the last drawing. A terminal that became narrower has broken its lines. */
static void go_up(const PanelScreen *screen, int width)
{
    int up = 0;
    for (int i = 0; i < screen->lines; i++)
        up += screen->columns[i] > width ? (screen->columns[i] + width - 1) / width : 1;
    if (up > 0)
        fprintf(screen->out, "\r\033[%dA", up);
}

int report_screen_draw(PanelScreen *screen, const PanelState *state)
{
    PanelStyle style;
    PanelText panel;
    screen->drawn = clock_now();
    if (!report_terminal(screen->out, &style) || !report_panel(state, &style, &panel)) {
        report_screen_close(screen);
        return 0;
    }
    catch_signals();
    hidden_on = fileno(screen->out);
    if (stopped)
        screen->lines = 0;
    stopped = 0;
    fputs("\033[?25l", screen->out);
    go_up(screen, style.width);
    for (const char *line = panel.text, *end; (end = strchr(line, '\n')); line = end + 1)
        fprintf(screen->out, "%.*s\033[K\n", (int)(end - line), line);
    fputs("\033[J", screen->out);
    fflush(screen->out);
    screen->lines = panel.lines;
    memcpy(screen->columns, panel.columns, sizeof screen->columns);
    return 1;
}

void report_screen_clear(PanelScreen *screen)
{
    PanelStyle style;
    if (stopped)
        screen->lines = 0; /* what others have written below it stays, and so does it */
    if (!screen->lines)
        return;
    measure(screen->out, &style);
    go_up(screen, style.width);
    fputs("\033[J", screen->out);
    fflush(screen->out);
    screen->lines = 0;
}

void report_screen_close(PanelScreen *screen)
{
    report_screen_clear(screen);
    show_cursor();
    release_signals();
}

/* ---- Progress -------------------------------------------------------------------------------- */

enum { WORTH_A_BAR = 2 }; /* seconds */

ReportProgress report_progress_start(const char *label, int64_t total)
{
    return (ReportProgress){.label = label, .total = total, .started = clock_now()};
}

/* Worth it after two seconds, or after one when it will clearly be more than two. */
static int worth_showing(const ReportProgress *progress, int64_t done, double seconds)
{
    double all = progress->total > 0 && done > 0 ? seconds / (double)done * (double)progress->total : seconds;
    return seconds >= WORTH_A_BAR || (seconds >= 1 && all > 2 * WORTH_A_BAR);
}

void report_progress(ReportProgress *progress, int64_t done)
{
    PanelStyle style;
    PanelText bar;
    double t = clock_now(), seconds = t - progress->started;
    if (t - progress->drawn < 0.1 || !worth_showing(progress, done, seconds) ||
        !report_terminal(stderr, &style))
        return;
    report_progress_line(progress, done, seconds, &style, &bar);
    fprintf(stderr, "\r%s\033[K", bar.text);
    fflush(stderr);
    progress->drawn = t;
    progress->shown = 1;
}

void report_progress_end(ReportProgress *progress)
{
    if (progress->shown)
        fputs("\r\033[K", stderr);
    progress->shown = 0;
}
