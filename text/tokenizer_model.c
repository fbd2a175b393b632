/* The model of a tokenizer.json: BPE with its merges, WordPiece or WordLevel. Unigram has a file of its own.
 */
#include "tokenizer_.h"

/* ---- Merges ---------------------------------------------------------------------------------- */

/* "a b", or ["a", "b"]. */
static int pair_of(const Reading *r, const json_t *item, Span *left, Span *right)
{
    if (json_is_array(item) && json_array_size(item) == 2) {
        const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
        if (!json_is_string(a) || !json_is_string(b))
            return 0;
        *left = reading_span(r, json_string_value(a), json_string_length(a));
        *right = reading_span(r, json_string_value(b), json_string_length(b));
        return left->text && right->text;
    }
    if (!json_is_string(item))
        return 0;
    const char *text = json_string_value(item);
    size_t length = json_string_length(item);
    const char *space = memchr(text, ' ', length);
    if (!space || memchr(space + 1, ' ', length - (size_t)(space + 1 - text)))
        return 0;
    size_t first = (size_t)(space - text);
    *left = reading_span(r, text, first);
    *right = reading_span(r, space + 1, length - first - 1);
    return left->text && right->text;
}

static int32_t find_or_fail(const Reading *r, size_t rank, Span token)
{
    int32_t id = vocab_find(&r->tokenizer->vocab, token.text, token.length);
    if (id < 0)
        reading_fail(r, "model.merges: number %zu needs the token %s, which model.vocab lacks", rank,
                     shown(token.text, token.length).text);
    return id;
}

/* Of pairs that come twice the later one counts, as in the Python package. */
static int enter(const Reading *r, int32_t left, int32_t right, size_t rank, int32_t id)
{
    const Bpe *bpe = &r->tokenizer->bpe;
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = ((size_t)1 << (64 - bpe->shift)) - 1, at = merge_slot(bpe, pair);
    for (int probes = 0; bpe->merges[at].pair != UINT64_MAX && bpe->merges[at].pair != pair; probes++) {
        if (probes == MOST_PROBES)
            return reading_fail(
                r, "model.merges: its pairs collide: number %zu is one of thousands in one place", rank);
        at = (at + 1) & mask;
    }
    bpe->merges[at] = (MergeSlot){pair, (uint32_t)rank, id};
    return ERROR_NONE;
}

/* Whether the token has a ▁ behind something else. */
static int goes_over(Span token)
{
    static const char mark[] = "\xE2\x96\x81";
    int other = 0;
    for (size_t at = 0; at < token.length;) {
        size_t from = at;
        utf8_next(token.text, &at);
        int is_mark = at - from == 3 && !memcmp(token.text + from, mark, 3);
        if (is_mark && other)
            return 1;
        other |= !is_mark;
    }
    return 0;
}

static int read_merge(const Reading *r, const json_t *item, size_t rank)
{
    Tokenizer *t = r->tokenizer;
    size_t prefix = t->bpe.prefix.length;
    Span a, b;
    if (!pair_of(r, item, &a, &b) || b.length < prefix)
        return error_code()
                   ? error_code()
                   : reading_fail(
                         r, "model.merges: number %zu is no pair of tokens, \"a b\" or [\"a\", \"b\"]", rank);
    int32_t left = find_or_fail(r, rank, a), right = left >= 0 ? find_or_fail(r, rank, b) : -1;
    if (right < 0)
        return error_code();
    t->word.bytes = 0;
    if (text_add(t->context, &t->word, a.text, a.length) ||
        text_add(t->context, &t->word, b.text + prefix, b.length - prefix))
        return error_code();
    Span whole = {t->word.text, t->word.bytes};
    int32_t id = find_or_fail(r, rank, whole);
    if (id < 0)
        return error_code();
    if (goes_over(whole))
        t->bpe.cuts = 0;
    return enter(r, left, right, rank, id);
}

static int is_version(const json_t *item)
{
    return json_is_string(item) && !strncmp(json_string_value(item), "#version", 8);
}

int reading_merges(const Reading *r, const json_t *merges)
{
    Bpe *bpe = &r->tokenizer->bpe;
    size_t count = json_array_size(merges), slots = 2;
    if (!json_is_array(merges) || count > INT32_MAX / 4)
        return reading_fail(r, "model.merges must be a list of pairs");
    bpe->shift = 63;
    for (; slots < 2 * count; slots *= 2)
        bpe->shift--;
    bpe->merges = keep(r->tokenizer, slots * sizeof *bpe->merges);
    if (!bpe->merges)
        return error_code();
    for (size_t i = 0; i < slots; i++)
        bpe->merges[i].pair = UINT64_MAX;
    for (size_t i = 0; i < count; i++)
        if (!is_version(json_array_get(merges, i)) && read_merge(r, json_array_get(merges, i), i))
            return error_code();
    return ERROR_NONE;
}

/* ---- BPE ------------------------------------------------------------------------------------- */

static void single_tokens(Tokenizer *t)
{
    Bpe *bpe = &t->bpe;
    char text[8];
    for (int i = 0; i < 128; i++) {
        text[0] = (char)i;
        bpe->ascii_ids[i] = vocab_find(&t->vocab, text, 1);
    }
    for (int i = 0; i < 256; i++) {
        bpe->byte_ids[i] = vocab_find(&t->vocab, text, (size_t)utf8_write(text, alphabet_code(i)));
    }
    fallback_find(&t->vocab, bpe->fallback_ids);
}

/* A text of the model; left empty when it is absent. */
static int affix(const Reading *r, const json_t *model, const char *name, Span *out)
{
    return reading_text(r, model, "model", name, out) < 0 ? error_code() : ERROR_NONE;
}

static int read_bpe(const Reading *r, const json_t *model)
{
    Tokenizer *t = r->tokenizer;
    Bpe *bpe = &t->bpe;
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return reading_fail(r, "model.dropout is not supported: the ids of a text would be drawn by chance");
    bpe->fuse_unknown = reading_bool(r, model, "model", "fuse_unk", 0);
    bpe->byte_fallback = reading_bool(r, model, "model", "byte_fallback", 0);
    bpe->ignore_merges = reading_bool(r, model, "model", "ignore_merges", 0);
    if (bpe->fuse_unknown < 0 || bpe->byte_fallback < 0 || bpe->ignore_merges < 0 ||
        affix(r, model, "continuing_subword_prefix", &bpe->prefix) ||
        affix(r, model, "end_of_word_suffix", &bpe->suffix))
        return error_code();
    int found = reading_text(r, model, "model", "unk_token", &bpe->unknown_text);
    if (found < 0)
        return error_code();
    if (found)
        bpe->unknown = vocab_find(&t->vocab, bpe->unknown_text.text, bpe->unknown_text.length);
    bpe->unknown_missing = found && bpe->unknown < 0;
    single_tokens(t);
    bpe->cuts = !bpe->prefix.length && !bpe->suffix.length && !bpe->ignore_merges &&
                vocab_find(&t->vocab, "\xE2\x96\x81", 3) >= 0;
    return reading_merges(r, json_object_get(model, "merges"));
}

/* ---- WordPiece ------------------------------------------------------------------------------- */

enum { MOST_CHARS = 1000 }; /* of a word, whose pieces take the square of its length, or worse, to find */

static int read_wordpiece(const Reading *r, const json_t *model)
{
    Tokenizer *t = r->tokenizer;
    WordPiece *w = &t->wordpiece;
    const json_t *most = json_object_get(model, "max_input_chars_per_word");
    Span unknown = {"[UNK]", 5};
    w->prefix = (Span){"##", 2};
    w->most = most ? (size_t)json_integer_value(most) : 100;
    if (most &&
        (!json_is_integer(most) || json_integer_value(most) < 0 || json_integer_value(most) > MOST_CHARS))
        return reading_fail(r, "model.max_input_chars_per_word must be a whole number of at most %d",
                            MOST_CHARS);
    if (affix(r, model, "unk_token", &unknown) || affix(r, model, "continuing_subword_prefix", &w->prefix))
        return error_code();
    w->unknown = vocab_find(&t->vocab, unknown.text, unknown.length);
    if (w->unknown < 0)
        return reading_fail(r, "model.unk_token is %s, which model.vocab lacks",
                            shown(unknown.text, unknown.length).text);
    return ERROR_NONE;
}

/* ---- WordLevel ------------------------------------------------------------------------------- */

static int read_wordlevel(const Reading *r, const json_t *model)
{
    Tokenizer *t = r->tokenizer;
    WordLevel *w = &t->wordlevel;
    w->unknown_text = (Span){"<unk>", 5};
    if (affix(r, model, "unk_token", &w->unknown_text))
        return error_code();
    w->unknown = vocab_find(&t->vocab, w->unknown_text.text, w->unknown_text.length);
    return ERROR_NONE;
}

/* ---- All ------------------------------------------------------------------------------------- */

static int has(const json_t *model, const char *name)
{
    return json_object_get(model, name) != NULL;
}

int reading_kind(const Reading *r, const json_t *model)
{
    static const char *const names[] = {"BPE", "WordPiece", "Unigram", "WordLevel"};
    const json_t *type = json_object_get(model, "type");
    const char *name = json_string_value(type);
    Tokenizer *t = r->tokenizer;
    if (!type) {
        t->model = has(model, "merges")                             ? MODEL_BPE
                   : json_is_array(json_object_get(model, "vocab")) ? MODEL_UNIGRAM
                   : has(model, "max_input_chars_per_word") || has(model, "continuing_subword_prefix")
                       ? MODEL_WORDPIECE
                       : MODEL_WORDLEVEL;
        return ERROR_NONE;
    }
    for (int i = 0; name && i < 4; i++)
        if (!strcmp(name, names[i])) {
            t->model = (ModelKind)i;
            return ERROR_NONE;
        }
    return reading_fail(r, "model.type %s is not supported; BPE, WordPiece, Unigram and WordLevel are",
                        name ? shown(name, strlen(name)).text : "(no text)");
}

int reading_model(const Reading *r, const json_t *model)
{
    switch (r->tokenizer->model) {
    case MODEL_WORDPIECE:
        return read_wordpiece(r, model);
    case MODEL_UNIGRAM:
        return reading_unigram(r, model);
    case MODEL_WORDLEVEL:
        return read_wordlevel(r, model);
    default:
        return read_bpe(r, model);
    }
}
