/* What several commands say in the same words. */
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "../base/plural_.h"
#include "../kernels/kernels.h"
#include "../ranks/launcher_.h"
#include "cli.h"

static int speaker = -1; /* this process's rank; -1: it has not joined the others */

/* Before that, its launcher says which it will be. */
static int who(void)
{
    return speaker < 0 ? launcher_rank_() : speaker;
}

void speak_as(int rank)
{
    speaker = rank;
    if (rank && !freopen("/dev/null", "w", stdout))
        fclose(stdout);
}

int speaks_alone(void)
{
    return who() == 0;
}

static void say_as(const char *format, va_list arguments)
{
    fflush(stdout);
    if (who())
        fprintf(stderr, "rank %d: ", who());
    else
        fprintf(stderr, "brim: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
}

/* What rank 0 says too ends all before others say it. */
static void say_after_rank_0(const char *format, va_list arguments)
{
    enum { PATIENCE_SECONDS = 2 };
    if (who())
        nanosleep(&(struct timespec){.tv_sec = PATIENCE_SECONDS}, NULL);
    say_as(format, arguments);
}

void complain_at_once(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say_as(format, arguments);
    va_end(arguments);
}

void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say_after_rank_0(format, arguments);
    va_end(arguments);
}

int usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say_after_rank_0(format, arguments);
    va_end(arguments);
    return EXIT_USAGE;
}

int say_error(void)
{
    complain("%s", error_message());
    error_clear();
    return EXIT_NO;
}

void note(const char *format, ...)
{
    va_list arguments;
    if (!speaks_alone())
        return;
    va_start(arguments, format);
    fflush(stdout);
    fprintf(stderr, "brim: note: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
}

int products_or_say(void)
{
    const char *error = kernels_blas_error(), *warning = kernels_blas_warning();
    fflush(stdout);
    if (error)
        complain("%s", error);
    else if (warning)
        note("%s", warning);
    return error ? EXIT_NO : EXIT_DONE;
}

int threads_of(const Options *o)
{
    return o->threads ? o->threads : context_default_threads(o->ranks.size > 1 ? &o->ranks : NULL);
}

/* Behind what the text holds. */
static void add_to(char *text, size_t size, const char *format, va_list arguments)
{
    size_t used = strlen(text);
    vsnprintf(text + used, size - used, format, arguments);
}

void line_add(SayLine *line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_to(line->text, sizeof line->text, format, arguments);
    va_end(arguments);
}

void lever_add(LeverText *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_to(text->text, sizeof text->text, format, arguments);
    va_end(arguments);
}

LeverText lever_say(const char *format, ...)
{
    LeverText out = {""};
    va_list arguments;
    va_start(arguments, format);
    add_to(out.text, sizeof out.text, format, arguments);
    va_end(arguments);
    return out;
}

static int columns_of(const char *text, size_t bytes)
{
    int columns = 0;
    for (size_t i = 0; i < bytes; i++)
        columns += ((unsigned char)text[i] & 0xC0) != 0x80;
    return columns;
}

/* The length of the phrase: to two spaces, or past a semicolon. */
static size_t phrase(const char *text)
{
    size_t length = 0;
    while (text[length] && strncmp(text + length, "  ", 2) && text[length] != ';')
        length++;
    return length + (text[length] == ';');
}

void say_line(const SayLine *line)
{
    enum { INDENT = 2 };
    PanelStyle style;
    int width = report_terminal(stdout, &style) ? style.width : 1 << 20, column = 0;
    for (const char *at = line->text; *at;) {
        size_t gap = strspn(at, " "), length = phrase(at + gap);
        int wide = columns_of(at + gap, length);
        if (column && column + (int)gap + wide >= width) {
            printf("\n%*s", INDENT, "");
            column = INDENT;
        } else {
            printf("%*s", (int)gap, "");
            column += (int)gap;
        }
        printf("%.*s", (int)length, at + gap);
        column += wide;
        at += gap + length;
    }
    printf("\n");
}
