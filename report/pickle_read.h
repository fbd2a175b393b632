/* Python's pickle, read without executing anything: dicts, lists, tuples, texts, whole numbers, floats,
 * booleans and None, with memo and frames, of protocols 2 to 5. Every other opcode is refused by its name.
 *
 * What is read is a graph without cycles: a container that is part of another one can be part of a second,
 * but not be changed any more. Memory is bounded by the bytes read, at worst 128 for each of them. */
#ifndef BRIM_PICKLE_READ_H
#define BRIM_PICKLE_READ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum PickleType {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INTEGER, /* of up to 61 bits; larger ones are PICKLE_FLOAT */
    PICKLE_FLOAT,
    PICKLE_TEXT,
    PICKLE_LIST, /* and tuples */
    PICKLE_DICT,
} PickleType;

/* A value of a Pickle. Texts with the same bytes, and containers that are the same, are the same number. */
typedef uint64_t PickleValue;

typedef struct Pickle Pickle;

/* Reads one value. NULL when it cannot be read; `why` then says what and at which byte, in one sentence
 * without the name of the file. */
Pickle *report_pickle_read(FILE *in, char *why, size_t why_size);
void report_pickle_free(Pickle *pickle); /* NULL is fine */

PickleValue report_pickle_root(const Pickle *pickle);
PickleType report_pickle_type(PickleValue value);
/* Otherwise where it is of another type. */
int64_t report_pickle_integer(PickleValue value, int64_t otherwise);
double report_pickle_float(const Pickle *pickle, PickleValue value, double otherwise);
/* Ends in '\0'; "" where it is no text. A '\0' inside ends it too. */
const char *report_pickle_text(const Pickle *pickle, PickleValue value);
/* Items of a list, pairs of a dict; 0 of anything else. */
size_t report_pickle_count(const Pickle *pickle, PickleValue value);
/* None where there is none. */
PickleValue report_pickle_item(const Pickle *pickle, PickleValue list, size_t i);
/* A text of the file by its bytes, to look up with; None where it has none. */
PickleValue report_pickle_key(const Pickle *pickle, const char *text);
/* The dict's value of a key; of several the last; None where there is none. */
PickleValue report_pickle_get(const Pickle *pickle, PickleValue dict, PickleValue key);
/* The same, with a key's text. */
PickleValue report_pickle_at(const Pickle *pickle, PickleValue dict, const char *key);

#ifdef __cplusplus
}
#endif
#endif
