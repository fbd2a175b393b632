/* Byte-pair encoding (Sennrich et al., arXiv 1508.07909): a word's symbols, of all neighbours the pair of
 * lowest rank merged first, of equal ones the leftmost. Short words, nearly all, are merged by looking at
 * every pair again; a long one has a list of symbols and a heap of pairs. */
#include "tokenizer_.h"

enum { SHORT_WORD = 40 };

const MergeSlot *bpe_merge(const Bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = ((size_t)1 << (64 - bpe->shift)) - 1;
    for (size_t slot = merge_slot(bpe, pair);; slot = (slot + 1) & mask) {
        const MergeSlot *m = &bpe->merges[slot];
        if (m->pair == pair)
            return m;
        if (m->pair == UINT64_MAX)
            return NULL;
    }
}

/* ---- Short words ----------------------------------------------------------------------------- */

static int merge_short(const Bpe *bpe, int32_t *ids, int count)
{
    uint32_t rank[SHORT_WORD];
    int32_t into[SHORT_WORD];
    for (int i = 0; i + 1 < count; i++) {
        const MergeSlot *m = bpe_merge(bpe, ids[i], ids[i + 1]);
        rank[i] = m ? m->rank : UINT32_MAX;
        into[i] = m ? m->id : -1;
    }
    for (;;) {
        int best = -1;
        uint32_t least = UINT32_MAX;
        for (int i = 0; i + 1 < count; i++)
            if (rank[i] < least) {
                least = rank[i];
                best = i;
            }
        if (best < 0)
            return count;
        ids[best] = into[best];
        count--;
        for (int i = best + 1; i < count; i++) {
            ids[i] = ids[i + 1];
            rank[i] = rank[i + 1];
            into[i] = into[i + 1];
        }
        for (int i = best > 0 ? best - 1 : 0; i <= best && i + 1 < count; i++) {
            const MergeSlot *m = bpe_merge(bpe, ids[i], ids[i + 1]);
            rank[i] = m ? m->rank : UINT32_MAX;
            into[i] = m ? m->id : -1;
        }
    }
}

/* ---- Long words ------------------------------------------------------------------------------ */

static void heap_push(Tokenizer *t, Candidate added)
{
    size_t at = t->heap_count++;
    for (; at > 0 && t->heap[(at - 1) / 2].key > added.key; at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = added;
}

static Candidate heap_pop(Tokenizer *t)
{
    Candidate top = t->heap[0], last = t->heap[--t->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->heap_count; at = child) {
        if (child + 1 < t->heap_count && t->heap[child + 1].key < t->heap[child].key)
            child++;
        if (t->heap[child].key >= last.key)
            break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = last;
    return top;
}

static void candidate(Tokenizer *t, int32_t left)
{
    int32_t right = left >= 0 ? t->symbols[left].next : -1;
    if (right < 0)
        return;
    const MergeSlot *m = bpe_merge(&t->bpe, t->symbols[left].id, t->symbols[right].id);
    if (m)
        heap_push(t, (Candidate){(uint64_t)m->rank << 32 | (uint32_t)left, t->symbols[left].id,
                                 t->symbols[right].id});
}

/* Room for a word of count symbols. Every merge adds two candidates at most and uses one. */
static int reserve_long(Tokenizer *t, size_t count)
{
    if (count >= INT32_MAX / 2)
        return error_raise(ERROR_DATA, "tokenizer: a word of %zu symbols; at most %d can be merged", count,
                           INT32_MAX / 2);
    if (count > t->symbol_room) {
        Symbol *symbols = memtrack_host_realloc(t->context->tracker, t->symbols,
                                                t->symbol_room * sizeof *symbols, count * sizeof *symbols);
        if (!symbols)
            return error_raise(ERROR_HOST_MEMORY, "tokenizer: no host memory for a word of %zu symbols",
                               count);
        t->symbols = symbols;
        t->symbol_room = count;
    }
    if (2 * count > t->heap_room) {
        Candidate *heap = memtrack_host_realloc(t->context->tracker, t->heap, t->heap_room * sizeof *heap,
                                                2 * count * sizeof *heap);
        if (!heap)
            return error_raise(ERROR_HOST_MEMORY, "tokenizer: no host memory for a word of %zu symbols",
                               count);
        t->heap = heap;
        t->heap_room = 2 * count;
    }
    return ERROR_NONE;
}

static int merge_long(Tokenizer *t, TokenIds *out, size_t from)
{
    int32_t count = (int32_t)(out->count - from), *ids = out->ids + from;
    for (int32_t i = 0; i < count; i++)
        t->symbols[i] = (Symbol){ids[i], i - 1, i + 1 < count ? i + 1 : -1};
    t->heap_count = 0;
    for (int32_t i = 0; i + 1 < count; i++)
        candidate(t, i);
    while (t->heap_count) {
        Candidate best = heap_pop(t);
        int32_t place = (int32_t)(best.key & UINT32_MAX);
        Symbol *left = &t->symbols[place];
        if (left->id != best.left || left->next < 0 || t->symbols[left->next].id != best.right)
            continue; /* one of the two was merged since */
        Symbol *right = &t->symbols[left->next];
        left->id = bpe_merge(&t->bpe, best.left, best.right)->id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0)
            t->symbols[left->next].previous = place;
        candidate(t, left->previous);
        candidate(t, place);
    }
    size_t kept = 0;
    for (int32_t i = 0; i >= 0; i = t->symbols[i].next)
        ids[kept++] = t->symbols[i].id;
    out->count = from + kept;
    return ERROR_NONE;
}

/* ---- Words to symbols ------------------------------------------------------------------------ */

/* What is unknown waits: neighbours may fuse, and byte fallback goes past it, as in the Python package. */
typedef struct Unknown {
    int waits;
} Unknown;

static int add_unknown(Tokenizer *t, Unknown *unknown, TokenIds *out)
{
    if (t->bpe.unknown_missing)
        return error_raise(
            ERROR_DATA,
            "tokenizer: a character is unknown, and so is the tokenizer's unk_token %s, which its vocabulary "
            "lacks",
            shown(t->bpe.unknown_text.text, t->bpe.unknown_text.length).text);
    if (t->bpe.unknown < 0)
        return ERROR_NONE;
    if (unknown->waits && !t->bpe.fuse_unknown)
        return ids_add(t->context, out, t->bpe.unknown);
    unknown->waits = 1;
    return ERROR_NONE;
}

static int add_known(Tokenizer *t, Unknown *unknown, int32_t id, TokenIds *out)
{
    if (unknown->waits && ids_add(t->context, out, t->bpe.unknown))
        return error_code();
    unknown->waits = 0;
    return ids_add(t->context, out, id);
}

void fallback_find(const Vocabulary *vocab, int32_t ids[256])
{
    char text[8];
    for (int i = 0; i < 256; i++) {
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        ids[i] = vocab_find(vocab, text, 6);
    }
}

int fallback_add(Context *context, const int32_t ids[256], Span text, TokenIds *out, int *added)
{
    *added = 1;
    for (size_t i = 0; i < text.length && *added; i++)
        *added = ids[(unsigned char)text.text[i]] >= 0;
    for (size_t i = 0; i < text.length && *added; i++)
        if (ids_add(context, out, ids[(unsigned char)text.text[i]]))
            return error_code();
    return ERROR_NONE;
}

static int add_bytes(Tokenizer *t, Span symbol, TokenIds *out, int *added)
{
    return t->bpe.byte_fallback ? fallback_add(t->context, t->bpe.fallback_ids, symbol, out, added)
                                : ERROR_NONE;
}

/* With the prefix of what continues a word and the suffix of what ends one. */
static int dress(Tokenizer *t, Span word, size_t at, size_t end, Span *symbol)
{
    const Bpe *bpe = &t->bpe;
    *symbol = (Span){word.text + at, end - at};
    int prefix = at > 0 && bpe->prefix.length, suffix = end == word.length && bpe->suffix.length;
    if (!prefix && !suffix)
        return ERROR_NONE;
    t->word.bytes = 0;
    if ((prefix && text_add(t->context, &t->word, bpe->prefix.text, bpe->prefix.length)) ||
        text_add(t->context, &t->word, symbol->text, symbol->length) ||
        (suffix && text_add(t->context, &t->word, bpe->suffix.text, bpe->suffix.length)))
        return error_code();
    *symbol = (Span){t->word.text, t->word.bytes};
    return ERROR_NONE;
}

static int symbols_of(Tokenizer *t, Span word, TokenIds *out)
{
    const Bpe *bpe = &t->bpe;
    Unknown unknown = {0};
    int dressed = bpe->prefix.length || bpe->suffix.length;
    for (size_t at = 0, end = 0; at < word.length; at = end) {
        int32_t code = utf8_next(word.text, &end), id;
        Span symbol = {word.text + at, end - at};
        if (dressed && dress(t, word, at, end, &symbol))
            return error_code();
        id =
            code < 128 && !dressed ? bpe->ascii_ids[code] : vocab_find(&t->vocab, symbol.text, symbol.length);
        int bytes = 0;
        if (id >= 0 ? add_known(t, &unknown, id, out) : add_bytes(t, symbol, out, &bytes))
            return error_code();
        if (id < 0 && !bytes && add_unknown(t, &unknown, out))
            return error_code();
    }
    return unknown.waits ? ids_add(t->context, out, bpe->unknown) : ERROR_NONE;
}

static int symbols_of_bytes(Tokenizer *t, Span word, TokenIds *out)
{
    Unknown unknown = {0};
    for (size_t i = 0; i < word.length; i++) {
        int32_t id = t->bpe.byte_ids[(unsigned char)word.text[i]];
        if (id >= 0 ? add_known(t, &unknown, id, out) : add_unknown(t, &unknown, out))
            return error_code();
    }
    return unknown.waits ? ids_add(t->context, out, t->bpe.unknown) : ERROR_NONE;
}

/* The whole word, if it is a token. */
static int whole_word(Tokenizer *t, Span word, int32_t *id)
{
    if (t->bpe.raw) {
        t->word.bytes = 0;
        if (text_reserve(t->context, &t->word, 2 * word.length))
            return error_code();
        for (size_t i = 0; i < word.length; i++)
            t->word.bytes +=
                (size_t)utf8_write(t->word.text + t->word.bytes, alphabet_code((unsigned char)word.text[i]));
        word = (Span){t->word.text, t->word.bytes};
    }
    *id = vocab_find(&t->vocab, word.text, word.length);
    return ERROR_NONE;
}

int bpe_word(Tokenizer *t, Span word, TokenIds *out)
{
    size_t from = out->count;
    int32_t whole = -1;
    if (t->bpe.ignore_merges && whole_word(t, word, &whole))
        return error_code();
    if (whole >= 0)
        return ids_add(t->context, out, whole);
    if (t->bpe.raw ? symbols_of_bytes(t, word, out) : symbols_of(t, word, out))
        return error_code();
    size_t count = out->count - from;
    if (!count)
        return ERROR_NONE; /* nothing of it is in the vocabulary */
    if (count <= SHORT_WORD) {
        out->count = from + (size_t)merge_short(&t->bpe, out->ids + from, (int)count);
        return ERROR_NONE;
    }
    return reserve_long(t, count) ? error_code() : merge_long(t, out, from);
}

/* ---- Where nothing goes over ----------------------------------------------------------------- */

/* Without a pre-tokenizer a whole text is one word. But if no token has a ▁ behind something else, such a
 * place is never merged over, and what lies between can be looked up like any word. */
int bpe_pieces(Tokenizer *t, Span piece)
{
    static const char mark[] = "\xE2\x96\x81";
    if (!t->bpe.cuts)
        return model_word(t, piece);
    size_t from = 0, at = 0;
    while (at < piece.length) {
        const char *next = memmem(piece.text + at, piece.length - at, mark, 3);
        size_t place = next ? (size_t)(next - piece.text) : piece.length;
        if (place > at && place < piece.length) { /* something else lies before it */
            if (model_word(t, (Span){piece.text + from, place - from}))
                return error_code();
            from = place;
        }
        at = place + 3;
    }
    return from < piece.length ? model_word(t, (Span){piece.text + from, piece.length - from}) : ERROR_NONE;
}
