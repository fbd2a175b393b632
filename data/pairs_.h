/* Between pairs.c, which makes rows and batches of samples, pairs_read.c, which reads a file line by line,
 * and pairs_line.c, which makes one line a sample. */
#ifndef BRIM_PAIRS_INTERNAL_H
#define BRIM_PAIRS_INTERNAL_H

#include "../text/tokenizer_.h"
#include "loader_.h"

#define PAIRS_MAKER "data_pairs"

enum { PAIRS_LINE_MOST = 8 << 20 }; /* bytes of a line: jansson takes up to 30 for each */

/* A line of the file. Its labels are its ids, from the token `first` on; or they follow its ids. */
typedef struct PairSample {
    int64_t at;         /* its first id among all */
    int32_t tokens;     /* 2.. */
    int32_t first;      /* the first token with a label that counts, 1 … tokens - 1 */
    uint8_t own_labels; /* whether it brings its own */
    uint8_t reaching;   /* whether the prompt's last token is another one when the completion follows */
    uint8_t texts;      /* whether it was texts in the file */
    uint32_t line;      /* of the file, from 1; UINT32_MAX: that or beyond */
} PairSample;

/* Reading, and what was read so far. */
typedef struct PairsReading {
    Context *context; /* of the ids, and of what reading takes meanwhile */
    Tokenizer *tokenizer;
    int64_t vocab;
    Span eos;            /* the text of the token that ends a completion; empty: none */
    int replace_invalid; /* U+FFFD in place of what is not UTF-8 */
    int keep;            /* the ids too, not only how long samples are */
    const char *shown;   /* the file, for messages */
    int64_t line;        /* from 1 */

    MemTracker *tracker; /* of the samples; NULL: of no context */
    PairSample *samples;
    int64_t count, room;
    TokenIds ids;

    TokenIds whole, prompt;   /* of one line */
    TokenText text, repaired; /* of one line */
} PairsReading;

/* Adds the sample of a line, which is not blank and has no newline. Returns an error code. */
int pairs_line(PairsReading *r, const char *line, size_t bytes);
/* Raises ERROR_DATA, "FILE: line N: …". */
int pairs_refuse(const PairsReading *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A file, or a text that has been read, line by line. */
typedef struct PairsLines {
    Context *context;
    char shown[FILE_LABEL];
    int file;               /* -1: the text */
    const TextInput *input; /* or NULL */
    TextInput *owned;       /* the same, where it is read here */
    const char *text;       /* of a text: all of it; of a file: the piece that is in memory */
    size_t at, end;         /* of that: what is not given out yet */
    char *piece;
    size_t room;
    int64_t line; /* the last that was given out */
} PairsLines;

/* Opens the path, or the text given in its place. Returns an error code; close it either way. */
int pairs_lines_open(PairsLines *lines, const char *path, const TextInput *input);
void pairs_lines_close(PairsLines *lines);
/* From the first line again. */
int pairs_lines_rewind(PairsLines *lines);
/* The next line that is not blank: 1; 0 at the end, -1 with an error raised. */
int pairs_lines_next(PairsLines *lines, const char **line, size_t *bytes);

/* Counts the lines that are not blank. -1 with an error raised. */
int64_t pairs_count(PairsLines *lines);
/* Reads such lines, those from `first` on, `count` of them; negative: all that follow. */
int pairs_read(PairsLines *lines, PairsReading *r, int64_t first, int64_t count);
/* Gives back what reading took; the samples and ids stay the caller's. */
void pairs_reading_end(PairsReading *r);

/* What is known of a file without its ids. */
struct PairsLengths {
    struct stat status; /* of the file: another one is measured anew */
    const TextInput *input;
    int64_t vocab;       /* that its ids are below */
    PairSample *samples; /* of the process, not of a context */
    int64_t count, room;
};

#endif
