/* Growing text: see text_.h. */
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../memtrack/memtrack.h"
#include "text_.h"

enum { FIRST_CAPACITY = 1024 };

void report_text_clear_(ReportText *text)
{
    text->length = 0;
    text->failed = 0;
}

void report_text_free_(ReportText *text)
{
    memtrack_host_free(NULL, text->text, text->capacity);
    *text = (ReportText){0};
}

/* Room for so many bytes more and the end. */
static int reserve(ReportText *text, size_t count)
{
    size_t capacity = text->capacity ? text->capacity : FIRST_CAPACITY;
    if (text->failed || count > SIZE_MAX / 4 - text->length) {
        text->failed = 1;
        return -1;
    }
    while (capacity <= text->length + count)
        capacity *= 2;
    if (capacity == text->capacity)
        return 0;
    char *grown = memtrack_host_realloc(NULL, text->text, text->capacity, capacity);
    if (!grown) {
        text->failed = 1;
        return -1;
    }
    text->text = grown;
    text->capacity = capacity;
    return 0;
}

void report_text_add_(ReportText *text, const char *bytes, size_t count)
{
    if (reserve(text, count))
        return;
    memcpy(text->text + text->length, bytes, count);
    text->length += count;
    text->text[text->length] = '\0';
}

void report_text_print_(ReportText *text, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int count = vsnprintf(NULL, 0, format, list);
    va_end(list);
    if (count < 0 || reserve(text, (size_t)count))
        return;
    va_start(list, format);
    vsnprintf(text->text + text->length, (size_t)count + 1, format, list);
    va_end(list);
    text->length += (size_t)count;
}

size_t report_utf8_(const char *at)
{
    const unsigned char *u = (const unsigned char *)at;
    if (u[0] < 0x80)
        return u[0] != 0;
    size_t length = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
    if (u[0] < 0xc2 || u[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    int too_long = (u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xf0 && u[1] < 0x90);
    int too_large =
        (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf4 && u[1] > 0x8f); /* surrogates; above 10ffff */
    return too_long || too_large ? 0 : length;
}

void report_text_quote_(ReportText *text, const char *value)
{
    report_text_add_(text, "\"", 1);
    while (*value) {
        size_t length = report_utf8_(value);
        if (length == 0)
            report_text_add_(text, "\xef\xbf\xbd", 3);
        else if (*value == '"' || *value == '\\')
            report_text_print_(text, "\\%c", *value);
        else if ((unsigned char)*value < 0x20)
            report_text_print_(text, "\\u%04x", (unsigned)(unsigned char)*value);
        else
            report_text_add_(text, value, length);
        value += length ? length : 1;
    }
    report_text_add_(text, "\"", 1);
}

ReportNumber report_number_(double value)
{
    ReportNumber out = {"null"};
    if (!isfinite(value))
        return out;
    snprintf(out.text, sizeof out.text, "%.9g", value);
    for (char *c = out.text; *c; c++)
        if (!strchr("0123456789+-e", *c)) { /* the locale's point, which may be several bytes */
            size_t point = strlen(localeconv()->decimal_point);
            *c = '.';
            memmove(c + 1, c + point, strlen(c + point) + 1);
        }
    return out;
}

void report_text_real_(ReportText *text, double value)
{
    ReportNumber number = report_number_(value);
    report_text_add_(text, number.text, strlen(number.text));
}
