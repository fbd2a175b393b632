/* Words to ids: WordPiece, WordLevel, and a cache in front of every model, because most words of a text have
 * been seen before. */
#include "tokenizer_.h"

/* ---- WordPiece: the longest token first (Wu et al., arXiv 1609.08144) -------------------------- */

static int too_long(Span word, size_t most)
{
    size_t characters = 0;
    for (size_t i = 0; i < word.length; i++)
        characters += ((unsigned char)word.text[i] & 0xC0) != 0x80;
    return characters > most;
}

/* The longest token that `text` begins with; its length in *length, 0 for none. */
static int32_t longest(const Vocabulary *vocab, const char *text, size_t most, size_t least, size_t *length)
{
    size_t end = most < vocab->longest ? most : vocab->longest;
    while (end > least && end < most && ((unsigned char)text[end] & 0xC0) == 0x80)
        end--; /* not within a character */
    while (end > least) {
        int32_t id = vocab_find(vocab, text, end);
        if (id >= 0) {
            *length = end;
            return id;
        }
        do
            end--;
        while (end > least && ((unsigned char)text[end] & 0xC0) == 0x80);
    }
    return -1;
}

int wordpiece_word(Tokenizer *t, Span word, TokenIds *out)
{
    const WordPiece *w = &t->wordpiece;
    size_t from = out->count, prefix = w->prefix.length;
    if (too_long(word, w->most))
        return ids_add(t->context, out, w->unknown);
    /* the prefix is written over what is done already: behind a copy of it comes the rest of the word */
    t->word.bytes = 0;
    if (text_add(t->context, &t->word, w->prefix.text, prefix) ||
        text_add(t->context, &t->word, word.text, word.length))
        return error_code();
    char *text = t->word.text;
    for (size_t at = 0, length = 0; at < word.length; at += length) {
        size_t before = at ? prefix : 0;
        char *begin = text + prefix + at - before;
        if (before)
            memcpy(begin, w->prefix.text, prefix);
        int32_t id = longest(&t->vocab, begin, word.length - at + before, before, &length);
        if (id < 0) { /* then all of it is unknown */
            out->count = from;
            return ids_add(t->context, out, w->unknown);
        }
        length -= before;
        if (ids_add(t->context, out, id))
            return error_code();
    }
    return ERROR_NONE;
}

/* ---- WordLevel: a word is a token, or unknown --------------------------------------------------- */

static int wordlevel_word(Tokenizer *t, Span word, TokenIds *out)
{
    const WordLevel *w = &t->wordlevel;
    int32_t id = vocab_find(&t->vocab, word.text, word.length);
    if (id < 0 && w->unknown < 0)
        return error_raise(ERROR_DATA,
                           "tokenizer: a word is unknown, and so is the tokenizer's unk_token %s, which its "
                           "vocabulary lacks",
                           shown(w->unknown_text.text, w->unknown_text.length).text);
    return ids_add(t->context, out, id < 0 ? w->unknown : id);
}

/* ---- The cache ------------------------------------------------------------------------------- */

static void remember(CachedWord *slot, Span word, const int32_t *ids, size_t count)
{
    slot->length = (uint8_t)word.length;
    slot->count = (uint8_t)count;
    memcpy(slot->text, word.text, word.length);
    if (count)
        memcpy(slot->ids, ids, count * sizeof *ids);
}

static int new_word(Tokenizer *t, Span word, TokenIds *out)
{
    switch (t->model) {
    case MODEL_WORDPIECE:
        return wordpiece_word(t, word, out);
    case MODEL_UNIGRAM:
        return unigram_word(t, word, out);
    case MODEL_WORDLEVEL:
        return wordlevel_word(t, word, out);
    default:
        return bpe_word(t, word, out);
    }
}

int model_word(Tokenizer *t, Span word)
{
    TokenIds *out = t->out;
    size_t from = out->count;
    if (word.length > CACHED_BYTES)
        return new_word(t, word, out);
    CachedWord *slot = &t->cache[hash_bytes(word.text, word.length) & (CACHE_SLOTS - 1)];
    if (slot->length == word.length && !memcmp(slot->text, word.text, word.length))
        return ids_add_all(t->context, out, slot->ids, slot->count);
    if (new_word(t, word, out))
        return error_code();
    if (out->count - from <= CACHED_IDS)
        remember(slot, word, out->count > from ? out->ids + from : NULL, out->count - from);
    return ERROR_NONE;
}
