/* Just enough of Python's pickle, protocol 2: dicts, lists, texts, whole numbers, booleans, and a memo. */
#ifndef BRIM_REPORT_PICKLE_H
#define BRIM_REPORT_PICKLE_H

#include <stdint.h>
#include <stdio.h>

enum { PICKLE_BATCH = 1000 }; /* a list is appended to this many items at a time */

static inline void pickle_bytes(FILE *out, const void *bytes, size_t count)
{
    fwrite(bytes, 1, count, out);
}

static inline void pickle_little_endian(FILE *out, uint64_t value, int count)
{
    for (int i = 0; i < count; i++)
        putc((int)(value >> 8 * i & 0xff), out);
}

static inline void pickle_begin(FILE *out)
{
    pickle_bytes(out, "\x80\x02", 2);
}

static inline void pickle_end(FILE *out)
{
    putc('.', out);
}

/* The shortest form; up to 2^63 - 1. */
static inline void pickle_integer(FILE *out, uint64_t value)
{
    if (value < 1 << 8) {
        putc('K', out);
        pickle_little_endian(out, value, 1);
    } else if (value < 1 << 16) {
        putc('M', out);
        pickle_little_endian(out, value, 2);
    } else if (value <= INT32_MAX) {
        putc('J', out);
        pickle_little_endian(out, value, 4);
    } else {
        int count = 5; /* the top bit is the sign */
        while (count < 8 && value >> (8 * count - 1))
            count++;
        putc(0x8a, out);
        putc(count, out);
        pickle_little_endian(out, value, count);
    }
}

static inline void pickle_bool(FILE *out, int value)
{
    putc(value ? 0x88 : 0x89, out);
}

/* `length` bytes of UTF-8. */
static inline void pickle_text(FILE *out, const char *text, size_t length)
{
    putc('X', out);
    pickle_little_endian(out, length, 4);
    pickle_bytes(out, text, length);
}

/* Keeps what was written last under a number, and writes it again. */
static inline void pickle_keep(FILE *out, uint32_t number)
{
    putc(number < 256 ? 'q' : 'r', out);
    pickle_little_endian(out, number, number < 256 ? 1 : 4);
}

static inline void pickle_again(FILE *out, uint32_t number)
{
    putc(number < 256 ? 'h' : 'j', out);
    pickle_little_endian(out, number, number < 256 ? 1 : 4);
}

/* { key value … } and [ item … ]: what comes between is written by the caller. */
static inline void pickle_dict_begin(FILE *out)
{
    pickle_bytes(out, "}(", 2);
}

static inline void pickle_dict_end(FILE *out)
{
    putc('u', out);
}

static inline void pickle_list_begin(FILE *out)
{
    pickle_bytes(out, "](", 2);
}

static inline void pickle_list_end(FILE *out)
{
    putc('e', out);
}

/* After each item of a long list, with how many there are so far. */
static inline void pickle_list_item(FILE *out, size_t count)
{
    if (count % PICKLE_BATCH == 0)
        pickle_bytes(out, "e(", 2);
}

#endif
