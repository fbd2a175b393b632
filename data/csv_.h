/* Between csv.c, which makes batches of samples, csv_read.c, which cuts a file into records and fields, and
 * csv_labels.c, which makes classes of what labels are called. */
#ifndef BRIM_CSV_INTERNAL_H
#define BRIM_CSV_INTERNAL_H

#include "../text/tokenizer_.h"
#include "loader_.h"

#define CSV_MAKER "data_csv"

enum {
    CSV_COLUMNS = 256,
    CSV_RECORD_MOST = 8 << 20, /* bytes */
    CSV_CLASSES_MOST = 16384
};

/* A field as it stands in the file, without the quotes around it. */
typedef struct CsvField {
    const char *text;
    size_t bytes;
    int doubled; /* it has quotes, each written twice */
} CsvField;

typedef struct CsvRecord {
    int64_t line; /* where it begins, from 1 */
    int fields;
    CsvField field[CSV_COLUMNS];
} CsvRecord;

/* A file that is read whole, and which of its columns are what. */
typedef struct CsvFile {
    Context *context;
    char shown[FILE_LABEL];
    TextInput *owned;
    const char *text;
    size_t bytes, at, begin; /* begin: behind a byte-order mark */
    int64_t line;            /* of the next record */
    char separator;
    int replace_invalid;
    int columns;
    int first, second, label; /* columns; second -1: there is one text a sample */
    char unread[96];          /* the names of those that are neither */
    CsvRecord record;
    TokenText plain[2], repaired[2]; /* texts of a record with what stands in the file twice only once */
} CsvFile;

/* Opens the path, or the text given in its place, and reads its header. Returns an error code; close it
 * either way. */
int csv_open(CsvFile *file, const char *path, const TextInput *input, int replace_invalid);
void csv_close(CsvFile *file);
void csv_rewind(CsvFile *file); /* to the first record behind the header */
/* The next record, of as many fields as the header has: 1; 0 at the end, -1 with an error raised. */
int csv_next(CsvFile *file);
/* The value of a field of the record: a text, or without blanks around it. .text NULL with an error raised.
 * which: 0 or 1, the buffer. */
Span csv_value(CsvFile *file, int column, int which);
Span csv_trimmed(Span value);
/* Raises ERROR_DATA, "FILE: line N …", of the record. */
int csv_refuse(const CsvFile *file, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct DataLabels {
    int64_t classes;
    int given;           /* by the model: the file's are looked up */
    int64_t count, room; /* of names; 0: labels are numbers */
    int64_t sorted_room;
    char **names;    /* of each class; owned */
    int32_t *sorted; /* classes in the order of their names */
};
/* The labels of a file, or, with options->classes, those of the model, which the file's must be. */
DataLabels *csv_labels(CsvFile *file, const CsvOptions *options);
/* The class of the record's label; -1 with an error raised. */
int32_t csv_class(CsvFile *file, const DataLabels *labels);

/* What is known of a file's samples without their ids. */
typedef struct CsvSample {
    int64_t at;     /* its first id among all */
    int32_t tokens; /* that it has here */
    int32_t zeros;  /* of these, of type 0 */
    int32_t whole;  /* that it has uncut */
    int32_t label;
    int64_t line; /* where it begins, from 1 */
} CsvSample;

struct CsvSamples {
    struct stat status; /* of the file: another one is measured anew */
    const TextInput *input;
    const struct DataLabels *labels;
    int typed;          /* samples have tokens of type 1 */
    CsvSample *samples; /* of the process, not of a context */
    int64_t count, room;
    char unread[96];
};

#endif
