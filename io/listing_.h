/* Lists of names and shapes in one message: what files hold beside what a model wants. */
#ifndef BRIM_LISTING_INTERNAL_H
#define BRIM_LISTING_INTERNAL_H

#include "../tensor/tensor_.h"
#include "safetensors.h"

/* "a, b and 3 more"; names beyond the room are counted. */
typedef struct Listing {
    char text[240];
    size_t used, room; /* of text: two lists share an error */
    int count, shown;
} Listing;

void list_name(Listing *list, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *listed_names(Listing *list);

ShapeText entry_shape(const SafetensorsEntry *entry); /* "(8,128)" */
/* The shape of a parameter in files. */
Shape file_shape(const Tensor *parameter);
/* From this dimension on. */
int same_shape(const SafetensorsEntry *entry, Shape shape, int from);

#endif
