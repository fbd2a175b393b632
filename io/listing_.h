/* Lists of names and shapes in one message: what files hold beside what a model wants. */
#ifndef BRIM_LISTING_INTERNAL_H
#define BRIM_LISTING_INTERNAL_H

#include "../tensor/tensor_.h"
#include "safetensors_.h"

/* "a, b and 3 more"; names beyond the room are counted. */
typedef struct Listing {
    char text[240];
    size_t used, room; /* of text: two lists share an error */
    int count, shown;
} Listing;

void list_name(Listing *list, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *listed_names(Listing *list);

/* What does not fit between the tensors of a file and what a model wants. */
typedef struct Misfits {
    Listing missing, unexpected, shapes, types;
    const char *hint; /* what the first unexpected name that says something says; "" = nothing */
} Misfits;

enum { ROOM_OF_TWO = 140, ROOM_OF_ONE = 240 }; /* of lists that share an error, and that do not */
#define NO_MISFITS                                                                                           \
    {                                                                                                        \
        {.room = ROOM_OF_TWO}, {.room = ROOM_OF_TWO}, {.room = ROOM_OF_ONE}, {.room = ROOM_OF_ONE}, ""       \
    }

void misfit_unexpected(Misfits *m, const char *name, const char *hint);
/* An entry of numbers that a parameter with this shape is read from; shapes are compared from this dimension
 * on. */
void misfit_numbers(Misfits *m, const SafetensorsEntry *entry, Shape shape, int from);
/* Raises the shapes, or the types, that do not fit. 0: they all do. */
int misfits_raise_numbers(Misfits *m, const char *shown);
/* Raises that two tensors of a file are one parameter. */
int stored_twice(const char *shown, const SafetensorsEntry *a, const SafetensorsEntry *b);

/* From this dimension on. */
int same_shape(const SafetensorsEntry *entry, Shape shape, int from);

#endif
