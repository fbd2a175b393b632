/* What io's files share: a JSON object that remembers which of its fields were asked for. */
#ifndef BRIM_IO_INTERNAL_H
#define BRIM_IO_INTERNAL_H

#include <jansson.h>

#include "../base/file_.h"
#include "io.h"
#include "json_patch_.h"

enum { FIELDS_MAX = 96, VALUE_TEXT = 64 };

/* One object of a file while it is read. Reading a field notes its name, so that what nobody read can be
 * refused at the end. After the first error the rest read defaults. */
typedef struct Fields {
    const char *file;   /* for messages */
    const char *within; /* "rope_scaling." in a nested object, else "" */
    const json_t *object;
    IoModel *model; /* takes notes */
    int near;       /* what is not read may be taken as what is, and differs little */
    const char *asked[FIELDS_MAX];
    int asked_count;
    int failed; /* an error code */
} Fields;

/* The value, or NULL when the field is absent. */
const json_t *fields_get(Fields *f, const char *name);
int fields_null(Fields *f, const char *name); /* there, and null */
/* A whole number of least … most; absent: `otherwise`. */
int fields_count(Fields *f, const char *name, int otherwise, int least, int most);
/* The same, where null means `null`. */
int fields_optional(Fields *f, const char *name, int otherwise, int null, int most);
double fields_number(Fields *f, const char *name, double otherwise, double least, double most);
double fields_probability(Fields *f, const char *name, double otherwise); /* [0,1) */
int fields_flag(Fields *f, const char *name, int otherwise);
const char *fields_text(Fields *f, const char *name, const char *otherwise);
/* Absent or `wanted`; anything else is refused with the reason. */
void fields_must(Fields *f, const char *name, int wanted, const char *reason);
/* Absent or this number. */
void fields_only(Fields *f, const char *name, double wanted, const char *reason);
/* Absent, null or empty. */
void fields_empty(Fields *f, const char *name, const char *reason);
/* "FILE: FIELD must be …, not VALUE"; the format begins after "must be". */
void fields_refuse(Fields *f, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "FILE: …" */
void fields_fail(Fields *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Raises for the first field that was not asked for and is not in the list of harmless ones. */
void fields_leftover(Fields *f, const char *const *harmless);

/* A value as a message shows it: short, printable. */
typedef struct ValueText {
    char text[VALUE_TEXT];
} ValueText;
ValueText value_text(const json_t *value);
ValueText string_text(const char *text); /* in quotes */
int text_is_utf8(const char *text);

/* JSON that must be one object, the caller's to decref; NULL with an error raised. what: "a config.json".
 * (config.c) */
json_t *json_parse(const char *shown, const char *what, const char *text, size_t bytes);
json_t *json_read_file(const char *path, const char *shown, const char *what, size_t most);
/* The same with the text as it stands in the file: free both. 0 or raises, with neither. */
int json_read_text(const char *path, const char *shown, const char *what, size_t most, JsonText *out,
                   json_t **root);

/* The file that a path means: itself, or config.json in it. Returns an error code. (config.c) */
int config_resolve(const char *path, char out[PATH_BYTES]);

/* io_read_config; with `near`, as io_find_model_near does. (config.c) */
int config_read(const char *path, int near, IoModel *model);

/* Adds a sentence to the model's note, if it has room. */
void model_note(IoModel *model, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes it as file_begin … file_finish do. flags: more of jansson's. (save.c) */
int json_write_temporary(const json_t *root, const char *path, size_t flags);
int json_text_write_temporary(const JsonText *text, const char *path);

/* Fills model->quantized and model->not_quantized. (quantization.c) */
void quantization_read(Fields *f);
/* Fills model->preset from a whole configuration, and notes. (families.c) */
void families_read(Fields *f);

#endif
