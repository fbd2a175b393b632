/* The inside of a Pickle, and of its reader. */
#ifndef BRIM_PICKLE_READ_INTERNAL_H
#define BRIM_PICKLE_READ_INTERNAL_H

#include "pickle_read.h"

typedef struct PickleValues {
    PickleValue *items;
    size_t count, capacity;
} PickleValues;

typedef struct PickleFloats {
    double *items;
    size_t count, capacity;
} PickleFloats;

typedef struct PickleLetters {
    char *items;
    size_t count, capacity;
} PickleLetters;

typedef struct PickleText {
    size_t at, length; /* in the letters, with a '\0' behind */
} PickleText;

typedef struct PickleTexts {
    PickleText *items;
    size_t count, capacity;
} PickleTexts;

/* Its items are values [start, start + count); of a dict keys and values in turn. */
typedef struct PickleContainer {
    size_t start, count, capacity;
    int sealed; /* part of another one */
} PickleContainer;

typedef struct PickleContainers {
    PickleContainer *items;
    size_t count, capacity;
} PickleContainers;

struct Pickle {
    PickleValue root;
    PickleValues values;
    PickleFloats floats;
    PickleLetters letters;
    PickleTexts texts;
    PickleContainers containers;
    uint32_t *slots; /* texts by their bytes: number + 1, 0 = empty */
    size_t slot_count;
};

enum { PICKLE_MARKS = 200 }; /* containers within containers at most */

typedef struct PickleReader {
    FILE *in;
    Pickle *pickle;
    PickleValues stack, memo;
    size_t marks[PICKLE_MARKS], mark_count;
    unsigned long long at, read; /* where the opcode is; bytes read */
    char *why;
    size_t why_size;
    int failed;
} PickleReader;

/* A value is its type in three bits, and above them a number: itself, or where it is. */
enum { PICKLE_BITS = 3 };
#define PICKLE_LARGEST ((INT64_C(1) << 60) - 1)
#define PICKLE_NOTHING UINT64_MAX /* no value */

static inline PickleValue report_pickle_make_(PickleType type, uint64_t number)
{
    return number << PICKLE_BITS | (uint64_t)type;
}

static inline uint64_t report_pickle_number_(PickleValue value)
{
    return value >> PICKLE_BITS;
}

__attribute__((format(printf, 2, 3))) int report_pickle_fail_(PickleReader *r, const char *format, ...);
/* Says which opcode it is, and that it is not read. */
int report_pickle_refuse_(PickleReader *r, int opcode);

#endif
