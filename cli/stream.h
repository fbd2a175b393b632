/* stream: the text of tokens as they are written, for a terminal: valid UTF-8, never half of a letter,
 * without control characters but line ends and tabs. */
#ifndef BRIM_CLI_STREAM_H
#define BRIM_CLI_STREAM_H

#include <stdio.h>

#include "../text/tokenizer.h"

/* Bytes of a letter so far: tokens may end within one. */
typedef struct Utf8 {
    FILE *out;
    char bytes[4];
    int have, needs;
} Utf8;

typedef struct TextStream {
    Utf8 out;
    Tokenizer *tokenizer; /* NULL: a token is a byte */
    int32_t *tokens;      /* prompt and text: what a token's text is depends on those before it */
    int count, room;
    int base;     /* those before it are shown and decided */
    size_t shown; /* bytes of the text of tokens [base, count) that are written */
} TextStream;

/* Begins behind a prompt, whose text is not written; room for `most` tokens more. 0, or -1 without memory. */
int stream_begin(TextStream *stream, FILE *out, Tokenizer *tokenizer, const int32_t *prompt,
                 int prompt_tokens, int most);
/* Adds tokens, and writes what is whole. */
void stream_add(TextStream *stream, const int32_t *tokens, int count);
/* Writes the rest: what is still no letter as U+FFFD. */
void stream_end(TextStream *stream);
/* A text as it would be written: what a terminal would obey as U+FFFD. */
void stream_text(FILE *out, const char *text);
/* Bytes that this many tokens may take at most when they are written behind the prompt. */
size_t stream_bytes(Tokenizer *tokenizer, const int32_t *prompt, int prompt_tokens, const int32_t *tokens,
                    int count);

#endif
