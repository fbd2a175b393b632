/* Training a byte-level BPE: merge the most frequent pair of neighbours, count again what that changed, until
 * the vocabulary is full. The same steps as in the Python package's BpeTrainer, whose queue remembers for
 * each pair the words it was in when it was counted, and looks again at a count only when it comes to the
 * front. */
#include <inttypes.h>
#include <stdlib.h>

#include "../base/file_.h"
#include "tokenizer_train_.h"

#define MAKER "tokenizer_train"

enum { DEFAULT_VOCAB = 4096, MOST_VOCAB = 1 << 24 };

/* A pair that may be merged: the words it was seen in are places[from .. from + words). */
typedef struct Queued {
    int64_t count;
    uint64_t pair; /* left << 32 | right: of equal counts the smaller one first */
    size_t from, words;
} Queued;

typedef struct PairCount {
    uint64_t pair; /* UINT64_MAX: empty */
    int64_t count;
} PairCount;

/* A pair that a merge made, in a word. */
typedef struct Fresh {
    uint64_t pair;
    int32_t word;
} Fresh;

typedef struct Trainer {
    Context *context;
    const WordCounts *words;
    int32_t *symbols; /* of all words, one after the other */
    size_t symbol_room;
    size_t *begins;   /* of each word's symbols */
    int32_t *lengths; /* as merged so far */
    size_t word_count;
    struct {
        PairCount *item;
        size_t count, room; /* room is a power of two */
    } pairs;
    GROWING(int32_t) places;
    GROWING(Queued) queue;
    GROWING(Fresh) fresh;
    Trained *out;
} Trainer;

/* ---- Counts of pairs ------------------------------------------------------------------------- */

static PairCount *pair_slot(const Trainer *t, uint64_t pair)
{
    size_t mask = t->pairs.room - 1,
           at = (size_t)((pair ^ pair >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> 20) & mask;
    while (t->pairs.item[at].pair != UINT64_MAX && t->pairs.item[at].pair != pair)
        at = (at + 1) & mask;
    return &t->pairs.item[at];
}

static int pairs_grow(Trainer *t)
{
    PairCount *old = t->pairs.item;
    size_t before = t->pairs.room, room = before ? 2 * before : 4096;
    PairCount *grown = memtrack_host_alloc(t->context->tracker, room * sizeof *grown);
    if (!grown)
        return error_raise(ERROR_HOST_MEMORY, MAKER "(): no host memory for %zu bytes", room * sizeof *grown);
    t->pairs.item = grown;
    t->pairs.room = room;
    for (size_t i = 0; i < room; i++)
        grown[i].pair = UINT64_MAX;
    for (size_t i = 0; i < before; i++)
        if (old[i].pair != UINT64_MAX)
            *pair_slot(t, old[i].pair) = old[i];
    memtrack_host_free(t->context->tracker, old, before * sizeof *old);
    return ERROR_NONE;
}

static int pair_change(Trainer *t, int32_t left, int32_t right, int64_t change, int32_t word)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    if (2 * (t->pairs.count + 1) > t->pairs.room && pairs_grow(t))
        return error_code();
    PairCount *slot = pair_slot(t, pair);
    if (slot->pair == UINT64_MAX) {
        *slot = (PairCount){.pair = pair};
        t->pairs.count++;
    }
    slot->count += change * t->words->counts.item[word];
    if (change < 0)
        return ERROR_NONE;
    if (GROW(t->context, t->fresh))
        return error_code();
    t->fresh.item[t->fresh.count++] = (Fresh){pair, word};
    return ERROR_NONE;
}

/* ---- The queue ------------------------------------------------------------------------------- */

static int goes_first(const Queued *a, const Queued *b)
{
    return a->count != b->count ? a->count > b->count : a->pair < b->pair;
}

static int queue_push(Trainer *t, Queued added)
{
    if (GROW(t->context, t->queue))
        return error_code();
    Queued *heap = t->queue.item;
    size_t at = t->queue.count++;
    for (; at > 0 && goes_first(&added, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = added;
    return ERROR_NONE;
}

static Queued queue_pop(Trainer *t)
{
    Queued *heap = t->queue.item, top = heap[0], last = heap[--t->queue.count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->queue.count; at = child) {
        if (child + 1 < t->queue.count && goes_first(&heap[child + 1], &heap[child]))
            child++;
        if (!goes_first(&heap[child], &last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

static int compare_fresh(const void *a, const void *b)
{
    const Fresh *x = a, *y = b;
    return x->pair != y->pair ? (x->pair > y->pair) - (x->pair < y->pair)
                              : (x->word > y->word) - (x->word < y->word);
}

/* What was found anew goes into the queue, a pair with all its words at a time. */
static int queue_fresh(Trainer *t)
{
    Fresh *fresh = t->fresh.item;
    size_t count = t->fresh.count;
    if (count)
        qsort(fresh, count, sizeof *fresh, compare_fresh);
    for (size_t i = 0; i < count;) {
        uint64_t pair = fresh[i].pair;
        Queued entry = {.count = pair_slot(t, pair)->count, .pair = pair, .from = t->places.count};
        for (int32_t last = -1; i < count && fresh[i].pair == pair; last = fresh[i++].word) {
            if (fresh[i].word == last || entry.count <= 0)
                continue;
            if (GROW(t->context, t->places))
                return error_code();
            t->places.item[t->places.count++] = fresh[i].word;
        }
        entry.words = t->places.count - entry.from;
        if (entry.count > 0 && queue_push(t, entry))
            return error_code();
    }
    t->fresh.count = 0;
    return ERROR_NONE;
}

/* ---- Merging --------------------------------------------------------------------------------- */

/* One pass: a word may be a whole line, and a merge may come at every other place of it. */
static int merge_word(Trainer *t, int32_t word, int32_t left, int32_t right, int32_t merged)
{
    int32_t *s = t->symbols + t->begins[word], n = t->lengths[word], to = 0;
    for (int32_t from = 0; from < n; to++) {
        if (from + 1 == n || s[from] != left || s[from + 1] != right) {
            s[to] = s[from++];
            continue;
        }
        if (to > 0 &&
            (pair_change(t, s[to - 1], left, -1, word) || pair_change(t, s[to - 1], merged, 1, word)))
            return error_code();
        s[to] = merged;
        from += 2;
        if (from < n &&
            (pair_change(t, right, s[from], -1, word) || pair_change(t, merged, s[from], 1, word)))
            return error_code();
    }
    t->lengths[word] = to;
    return ERROR_NONE;
}

static int merge_pair(Trainer *t, const Queued *top)
{
    Trained *out = t->out;
    int32_t left = (int32_t)(top->pair >> 32), right = (int32_t)(top->pair & UINT32_MAX);
    Span a = table_at(&out->tokens, (size_t)left), b = table_at(&out->tokens, (size_t)right);
    TokenText joined = {0};
    int status = text_add(t->context, &joined, a.text, a.length);
    status = status ? status : text_add(t->context, &joined, b.text, b.length);
    int64_t merged = status ? -1 : table_enter(t->context, &out->tokens, (Span){joined.text, joined.bytes});
    text_free(t->context, &joined);
    if (merged < 0 || GROW(t->context, out->merges))
        return error_code();
    out->merges.item[out->merges.count++] = (TrainedMerge){left, right};
    for (size_t i = 0; i < top->words; i++)
        if (merge_word(t, t->places.item[top->from + i], left, right, (int32_t)merged))
            return error_code();
    return queue_fresh(t);
}

static int merge_all(Trainer *t, int64_t vocab, int64_t min_count)
{
    while ((int64_t)t->out->tokens.ends.count < vocab && t->queue.count) {
        Queued top = queue_pop(t);
        int64_t count = pair_slot(t, top.pair)->count;
        if (top.count != count) {
            top.count = count;
            if (queue_push(t, top))
                return error_code();
            continue;
        }
        if (count < 1 || count < min_count)
            break;
        if (merge_pair(t, &top))
            return error_code();
    }
    return ERROR_NONE;
}

/* ---- Beginning ------------------------------------------------------------------------------- */

/* Special tokens, then GPT-2's letters by code point; fills each byte's id. */
static int enter_alphabet(Trainer *t, const TokenizerTraining *o, int32_t ids[256])
{
    static const char *const usual[] = {"<|endoftext|>"};
    const char *const *special = o->special ? o->special : usual;
    int specials = o->special ? o->specials : 1;
    for (int i = 0; i < specials; i++) {
        Span token = {special[i], special[i] ? strlen(special[i]) : 0};
        if (token.length < 2 || !utf8_valid(token.text, token.length))
            return error_raise(ERROR_ARGUMENT,
                               MAKER "(): special token %d must be UTF-8 of two bytes or more", i);
        if (table_enter(t->context, &t->out->tokens, token) < 0)
            return error_code();
    }
    t->out->specials = (int)t->out->tokens.ends.count;
    for (int32_t code = 0; code < 0x200; code++) {
        char letter[4];
        int byte = alphabet_byte(code);
        if (byte < 0)
            continue;
        int64_t id =
            table_enter(t->context, &t->out->tokens, (Span){letter, (size_t)utf8_write(letter, code)});
        if (id < 0)
            return error_code();
        if (id < t->out->specials)
            return error_raise(ERROR_ARGUMENT, MAKER "(): a special token is one of the letters for bytes");
        ids[byte] = (int32_t)id;
    }
    return ERROR_NONE;
}

static int enter_words(Trainer *t, const int32_t ids[256])
{
    const TextTable *words = &t->words->words;
    t->word_count = words->ends.count;
    t->symbol_room = words->text.bytes;
    t->symbols = memtrack_host_alloc(t->context->tracker, t->symbol_room * sizeof *t->symbols);
    t->begins = memtrack_host_alloc(t->context->tracker, t->word_count * sizeof *t->begins);
    t->lengths = memtrack_host_alloc(t->context->tracker, t->word_count * sizeof *t->lengths);
    if (!t->symbols || !t->begins || !t->lengths)
        return error_raise(ERROR_HOST_MEMORY, MAKER "(): no host memory for %zu words", t->word_count);
    for (size_t i = 0; i < t->symbol_room; i++)
        t->symbols[i] = ids[(unsigned char)words->text.text[i]];
    for (size_t i = 0; i < t->word_count; i++) {
        Span word = table_at(words, i);
        if (word.length > INT32_MAX)
            return error_raise(ERROR_DATA, MAKER "(): a word of %zu bytes", word.length);
        t->begins[i] = (size_t)(word.text - words->text.text);
        t->lengths[i] = (int32_t)word.length;
        for (int32_t k = 0; k + 1 < t->lengths[i]; k++)
            if (pair_change(t, t->symbols[t->begins[i] + (size_t)k], t->symbols[t->begins[i] + (size_t)k + 1],
                            1, (int32_t)i))
                return error_code();
    }
    return queue_fresh(t);
}

static void trainer_free(Trainer *t)
{
    MemTracker *tracker = t->context->tracker;
    memtrack_host_free(tracker, t->symbols, t->symbol_room * sizeof *t->symbols);
    memtrack_host_free(tracker, t->begins, t->word_count * sizeof *t->begins);
    memtrack_host_free(tracker, t->lengths, t->word_count * sizeof *t->lengths);
    RELEASE(t->context, t->pairs);
    RELEASE(t->context, t->places);
    RELEASE(t->context, t->queue);
    RELEASE(t->context, t->fresh);
}

static int options_valid(const char *text, const char *out, const TokenizerTraining *o)
{
    int64_t least = 256 + (o->special ? o->specials : 1);
    if (!text || !out)
        return error_raise(ERROR_ARGUMENT, MAKER "(): %s is NULL", text ? "out" : "text");
    if (o->specials < 0 || o->min_count < 0)
        return error_raise(ERROR_ARGUMENT, MAKER "(): %s is negative",
                           o->specials < 0 ? "specials" : "min_count");
    if (o->vocab < least || o->vocab > MOST_VOCAB)
        return error_raise(ERROR_ARGUMENT,
                           MAKER "(): vocab is %" PRId64 "; it must be from %" PRId64
                                 " (the special tokens and a token a byte) to %d",
                           o->vocab, least, MOST_VOCAB);
    return file_replaceable(out); /* better before than after */
}

int tokenizer_train(const char *text, const char *out, const TokenizerTraining *options)
{
    TokenizerTraining o = options ? *options : (TokenizerTraining){0};
    WordCounts words = {0};
    Trained trained = {0};
    Trainer t = {.context = context_here(), .words = &words, .out = &trained};
    int32_t ids[256] = {0};
    if (!t.context)
        return error_code();
    o.vocab = o.vocab ? o.vocab : DEFAULT_VOCAB;
    o.min_count = o.min_count ? o.min_count : 2;
    int status = options_valid(text, out, &o);
    status = status ? status : words_count(t.context, text, o.replace_invalid, &words);
    status = status ? status : enter_alphabet(&t, &o, ids);
    status = status ? status : enter_words(&t, ids);
    status = status ? status : merge_all(&t, o.vocab, o.min_count);
    status = status ? status : trained_write(&trained, out);
    trainer_free(&t);
    words_free(t.context, &words);
    table_free(t.context, &trained.tokens);
    RELEASE(t.context, trained.merges);
    return status;
}
