/* Between tokenizer_count.c (a text's words), tokenizer_train.c (which pairs are merged) and
 * tokenizer_write.c (the file). */
#ifndef BRIM_TOKENIZER_TRAIN_INTERNAL_H
#define BRIM_TOKENIZER_TRAIN_INTERNAL_H

#include "tokenizer_.h"

/* An array that grows; `room` items are allocated. */
#define GROWING(type)                                                                                        \
    struct {                                                                                                 \
        type *item;                                                                                          \
        size_t count, room;                                                                                  \
    }

/* Room for one more item of `size` bytes. 0, or an error raised. */
int grow(Context *context, void *items, size_t *room, size_t count, size_t size);
#define GROW(context, list) grow(context, &(list).item, &(list).room, (list).count, sizeof *(list).item)
#define RELEASE(context, list)                                                                               \
    memtrack_host_free((context)->tracker, (list).item, (list).room * sizeof *(list).item)

/* Texts one after the other, found by what they are. */
typedef struct TextTable {
    TokenText text;
    GROWING(size_t) ends;   /* of the i-th */
    GROWING(int32_t) slots; /* -1: empty; a power of two */
} TextTable;

Span table_at(const TextTable *table, size_t i);
/* The text's number, entering it if it is new; -1 with an error raised. */
int64_t table_enter(Context *context, TextTable *table, Span text);
void table_free(Context *context, TextTable *table);

/* The distinct words of a text and how often each comes. */
typedef struct WordCounts {
    TextTable words;
    GROWING(int64_t) counts;
} WordCounts;
int words_count(Context *context, const char *path, int replace_invalid, WordCounts *out);
void words_free(Context *context, WordCounts *words);

typedef struct TrainedMerge {
    int32_t left, right;
} TrainedMerge;

/* What came out: tokens in GPT-2's letters, by id. */
typedef struct Trained {
    TextTable tokens;
    GROWING(TrainedMerge) merges;
    int specials;
} Trained;
int trained_write(const Trained *trained, const char *path);

#endif
