/* Changes to a JSON text that leave the rest of it as it is. */
#ifndef BRIM_JSON_PATCH_INTERNAL_H
#define BRIM_JSON_PATCH_INTERNAL_H

#include <jansson.h>
#include <stddef.h>

typedef struct JsonText {
    char *text; /* with a zero at the end */
    size_t bytes;
} JsonText;

/* The object that `text` is, whose value is root, with the fields of `set`: in place where it has them, else
 * at its end, where names are written as they are; and without the field `without`, which is not in `set`
 * (NULL = none). Free with json_text_free. Returns 0 or raises ERROR_HOST_MEMORY. */
int json_patch(const char *text, const json_t *root, const json_t *set, const char *without, JsonText *out);
void json_text_free(JsonText *text); /* an empty one is fine */

/* Python writes whole numbers of any length; jansson reads 64 bits. Those beyond become 16 digits and a power
 * of ten, in place. The text need not be valid. */
void json_shorten_integers(char *text, size_t bytes);

#endif
