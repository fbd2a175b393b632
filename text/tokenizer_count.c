/* The words of a text, as GPT-2's pattern cuts it line by line, each with its count. */
#include "input_.h"
#include "tokenizer_train_.h"

#define MAKER "tokenizer_train"

int grow(Context *context, void *items, size_t *room, size_t count, size_t size)
{
    void **block = items;
    if (count < *room)
        return ERROR_NONE;
    size_t wanted = *room ? 2 * *room : 64;
    void *grown = memtrack_host_realloc(context->tracker, *block, *room * size, wanted * size);
    if (!grown)
        return error_raise(ERROR_HOST_MEMORY, MAKER "(): no host memory for %zu bytes", wanted * size);
    *block = grown;
    *room = wanted;
    return ERROR_NONE;
}

/* ---- Texts and their numbers ----------------------------------------------------------------- */

Span table_at(const TextTable *table, size_t i)
{
    size_t from = i ? table->ends.item[i - 1] : 0;
    return (Span){table->text.text + from, table->ends.item[i] - from};
}

static int32_t *slot_of(const TextTable *table, Span text)
{
    size_t mask = table->slots.room - 1, at = (size_t)hash_bytes(text.text, text.length) & mask;
    for (;; at = (at + 1) & mask) {
        int32_t *slot = &table->slots.item[at];
        if (*slot < 0)
            return slot;
        Span there = table_at(table, (size_t)*slot);
        if (there.length == text.length && !memcmp(there.text, text.text, text.length))
            return slot;
    }
}

/* Twice the slots, and every text in its new place. */
static int table_grow(Context *context, TextTable *table)
{
    size_t room = table->slots.room ? 2 * table->slots.room : 1024;
    int32_t *slots = memtrack_host_alloc(context->tracker, room * sizeof *slots);
    if (!slots)
        return error_raise(ERROR_HOST_MEMORY, MAKER "(): no host memory for %zu bytes", room * sizeof *slots);
    RELEASE(context, table->slots);
    table->slots.item = slots;
    table->slots.room = room;
    for (size_t i = 0; i < room; i++)
        slots[i] = -1;
    for (size_t i = 0; i < table->ends.count; i++)
        *slot_of(table, table_at(table, i)) = (int32_t)i;
    return ERROR_NONE;
}

int64_t table_enter(Context *context, TextTable *table, Span text)
{
    if (2 * (table->ends.count + 1) > table->slots.room && table_grow(context, table))
        return -1;
    int32_t *slot = slot_of(table, text);
    if (*slot >= 0)
        return *slot;
    if (table->ends.count == INT32_MAX) {
        error_raise(ERROR_DATA, MAKER "(): more than %d distinct words", INT32_MAX);
        return -1;
    }
    if (text_add(context, &table->text, text.text, text.length) || GROW(context, table->ends))
        return -1;
    *slot = (int32_t)table->ends.count;
    table->ends.item[table->ends.count++] = table->text.bytes;
    return *slot;
}

void table_free(Context *context, TextTable *table)
{
    text_free(context, &table->text);
    RELEASE(context, table->ends);
    RELEASE(context, table->slots);
}

void words_free(Context *context, WordCounts *words)
{
    table_free(context, &words->words);
    RELEASE(context, words->counts);
}

/* ---- Counting -------------------------------------------------------------------------------- */

static int count_word(Context *context, WordCounts *out, Span word)
{
    int64_t number = table_enter(context, &out->words, word);
    if (number < 0 || GROW(context, out->counts))
        return error_code();
    if ((size_t)number == out->counts.count)
        out->counts.item[out->counts.count++] = 0;
    out->counts.item[number]++;
    return ERROR_NONE;
}

static int count_line(Context *context, const Finder *pattern, Span line, WordCounts *out)
{
    FinderPlace place = {.last_end = SIZE_MAX};
    int found;
    while ((found = finder_next(pattern, line.text, line.length, &place)) > 0)
        if (count_word(context, out, (Span){line.text + place.start, place.end - place.start}))
            return error_code();
    return found < 0 ? error_code() : ERROR_NONE; /* the pattern leaves nothing between its matches */
}

/* Lines with their ends, as the Python package reads a file. */
static int count_lines(Context *context, const Finder *pattern, Span text, WordCounts *out)
{
    TokenText repaired = {0};
    int status = ERROR_NONE;
    for (size_t at = 0; at < text.length && !status;) {
        const char *end = memchr(text.text + at, '\n', text.length - at);
        size_t length = end ? (size_t)(end + 1 - (text.text + at)) : text.length - at;
        Span line = {text.text + at, length};
        if (!utf8_valid(line.text, length)) {
            repaired.bytes = 0;
            status = utf8_repair(context, &repaired, line.text, length);
            line = (Span){repaired.text, repaired.bytes};
        }
        status = status ? status : count_line(context, pattern, line, out);
        at += length;
    }
    text_free(context, &repaired);
    return status;
}

int words_count(Context *context, const char *path, int replace_invalid, WordCounts *out)
{
    size_t bytes = 0;
    Finder finder = {.pattern = pattern_create(context, MAKER, GPT2_PATTERN, strlen(GPT2_PATTERN))};
    TextInput *in = finder.pattern ? text_input_open(path, context->tracker) : NULL;
    const char *text = in && !text_input_check(in, replace_invalid) ? text_input_text(in, &bytes) : NULL;
    pattern_begin(finder.pattern, bytes);
    int status = text ? count_lines(context, &finder, (Span){text, bytes}, out) : error_code();
    text_input_free(in);
    pattern_free(finder.pattern);
    if (!status && !out->counts.count)
        status = error_raise(ERROR_DATA, MAKER "(): %s is empty", path);
    return status;
}
