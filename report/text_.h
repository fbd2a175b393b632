/* Text that grows, for what is written line by line. Failing once, it stays failed and takes nothing more. */
#ifndef BRIM_REPORT_TEXT_H
#define BRIM_REPORT_TEXT_H

#include <stddef.h>
#include <stdio.h>

typedef struct ReportText {
    char *text; /* ends in '\0' when length > 0 */
    size_t length, capacity;
    int failed; /* out of host memory */
} ReportText;

void report_text_clear_(ReportText *text); /* keeps the memory */
void report_text_free_(ReportText *text);
void report_text_add_(ReportText *text, const char *bytes, size_t count);
__attribute__((format(printf, 2, 3))) void report_text_print_(ReportText *text, const char *format, ...);
/* As a JSON string with its quotes; what is not UTF-8 becomes U+FFFD. */
void report_text_quote_(ReportText *text, const char *value);
/* A JSON number, or null where it is not finite; in any locale of the program. */
typedef struct ReportNumber {
    char text[32];
} ReportNumber;
ReportNumber report_number_(double value);
/* As a JSON number, or null where it is not finite. */
void report_text_real_(ReportText *text, double value);

/* The length of the UTF-8 sequence at `text`, or 0 where none begins. */
size_t report_utf8_(const char *text);

#endif
