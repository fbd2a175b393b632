/* Pre-tokenizers: a piece of text goes through the steps one after the other, depth first, so that nothing of
 * the size of the text is written down. Where a step changes text it has a buffer of its own, used for one
 * piece at a time. */
#include <utf8proc.h>

#include "tokenizer_.h"
#include "tokenizer_unicode_.h"

/* Cuts a piece into matches and what lies between, and joins neighbours as the behaviour says. */
typedef struct Cutter {
    Tokenizer *tokenizer;
    int step;      /* where pieces go next */
    size_t origin; /* of the piece */
    const char *text;
    Behavior behavior;
    int invert;
    int held, held_match; /* a part that the next one may join */
    int previous_match;
    size_t from, end; /* of the held part */
} Cutter;

static int cut_emit(Cutter *c, size_t from, size_t end)
{
    if (from == end)
        return ERROR_NONE;
    return split_piece(c->tokenizer, c->step, (Span){c->text + from, end - from},
                       origin_from(c->origin, from));
}

static int cut_release(Cutter *c)
{
    int held = c->held;
    c->held = 0;
    return held ? cut_emit(c, c->from, c->end) : ERROR_NONE;
}

/* The next part, which is a match or not; parts come in order and leave nothing out. */
static int cut_part(Cutter *c, size_t from, size_t end, int match)
{
    match ^= c->invert;
    if (c->behavior == CUT_ISOLATED)
        return cut_emit(c, from, end);
    if (c->behavior == CUT_REMOVED)
        return match ? ERROR_NONE : cut_emit(c, from, end);
    int joins = c->behavior == CUT_PREVIOUS ? match && !c->previous_match
                : c->behavior == CUT_NEXT   ? c->held && c->held_match && !match
                                            : match == c->previous_match;
    if (!(joins && c->held)) {
        if (cut_release(c))
            return error_code();
        c->from = from;
    }
    c->held = 1;
    c->held_match = match;
    c->previous_match = match;
    c->end = end;
    return ERROR_NONE;
}

static int split_find(Cutter *c, const Finder *finder, size_t length)
{
    FinderPlace place = {.last_end = SIZE_MAX};
    size_t from = 0;
    int found;
    while ((found = finder_next(finder, c->text, length, &place)) > 0) {
        if ((from != place.start && cut_part(c, from, place.start, 0)) ||
            cut_part(c, place.start, place.end, 1))
            return error_code();
        from = place.end;
    }
    if (found < 0 || (from != length && cut_part(c, from, length, 0)))
        return error_code();
    return cut_release(c);
}

/* ---- By the kind of character ---------------------------------------------------------------- */

typedef int (*CodeTest)(int32_t code);

static int is_number(int32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    utf8proc_category_t category = utf8proc_category(c);
    return (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) || unicode_newer_digit(c);
}

static int is_word(int32_t c)
{
    return code_is_word(c) || unicode_newer_word(c);
}

static int is_punctuation(int32_t c)
{
    if (c < 0x80)
        return code_is_punctuation(c);
    return c == 0x166D || c == 0x111C9 || (code_is_punctuation(c) && !unicode_unknown_punctuation(c));
}

/* Each character that passes is a match of its own. */
static int split_each(Cutter *c, CodeTest test, size_t length)
{
    size_t from = 0;
    for (size_t at = 0, next = 0; at < length; at = next) {
        if (!test(utf8_next(c->text, &next)))
            continue;
        if ((from != at && cut_part(c, from, at, 0)) || cut_part(c, at, next, 1))
            return error_code();
        from = next;
    }
    if (from != length && cut_part(c, from, length, 0))
        return error_code();
    return cut_release(c);
}

/* \w+|[^\w\s]+, without the spaces between. */
static int split_words(Cutter *c, size_t length)
{
    size_t from = 0;
    int kind = 0; /* 0: space; 1: word; 2: neither */
    for (size_t at = 0, next = 0; at < length; at = next) {
        int32_t code = utf8_next(c->text, &next);
        int now = is_word(code) ? 1 : code_is_space(code) ? 0 : 2;
        if (now != kind && kind && cut_emit(c, from, at))
            return error_code();
        if (now != kind)
            from = at;
        kind = now;
    }
    return kind ? cut_emit(c, from, length) : ERROR_NONE;
}

/* Spaces go, punctuation stands alone. */
static int split_bert(Cutter *c, size_t length)
{
    size_t from = 0;
    for (size_t at = 0, next = 0; at < length; at = next) {
        int32_t code = utf8_next(c->text, &next);
        int space = code_is_space(code);
        if (!space && !is_punctuation(code))
            continue;
        if (cut_emit(c, from, at) || (!space && cut_emit(c, at, next)))
            return error_code();
        from = next;
    }
    return cut_emit(c, from, length);
}

/* ---- What changes text ----------------------------------------------------------------------- */

static int split_space(Tokenizer *t, int step, Span piece, size_t origin)
{
    TokenText *text = &t->splits[step].text;
    if (piece.text[0] == ' ')
        return split_piece(t, step + 1, piece, origin);
    text->bytes = 0;
    if (text_add(t->context, text, " ", 1) || text_add(t->context, text, piece.text, piece.length))
        return error_code();
    return split_piece(t, step + 1, (Span){text->text, text->bytes}, origin ? origin + 1 : 0);
}

/* How many bytes the letters of the first bytes have. */
static size_t letters_of(Span piece, size_t bytes)
{
    size_t out = 0;
    for (size_t i = 0; i < bytes && i < piece.length; i++)
        out += alphabet_code((unsigned char)piece.text[i]) < 0x80 ? 1 : 2;
    return out;
}

static int split_bytes(Tokenizer *t, int step, Span piece, size_t origin)
{
    TokenText *text = &t->splits[step].text;
    if (t->bpe.raw && step + 1 == t->split_count)
        return model_word(t, piece);
    text->bytes = 0;
    if (text_reserve(t->context, text, 2 * piece.length))
        return error_code();
    for (size_t i = 0; i < piece.length; i++)
        text->bytes +=
            (size_t)utf8_write(text->text + text->bytes, alphabet_code((unsigned char)piece.text[i]));
    return split_piece(t, step + 1, (Span){text->text, text->bytes}, letters_of(piece, origin));
}

static int split_metaspace(Tokenizer *t, int step, Span piece, size_t origin)
{
    SplitStep *s = &t->splits[step];
    Span mark = s->replacement;
    TokenText *text = &s->text;
    text->bytes = 0;
    int begins =
        piece.text[0] == ' ' || (piece.length >= mark.length && !memcmp(piece.text, mark.text, mark.length));
    int prepends = !begins && (s->scheme == PREPEND_ALWAYS || (s->scheme == PREPEND_FIRST && origin));
    if (prepends && text_add(t->context, text, mark.text, mark.length))
        return error_code();
    size_t grown = prepends && origin ? mark.length : 0;
    for (size_t i = 0; i < origin && i < piece.length; i++)
        grown += piece.text[i] == ' ' ? mark.length : 1;
    for (size_t at = 0; at < piece.length;) {
        const char *space = memchr(piece.text + at, ' ', piece.length - at);
        size_t end = space ? (size_t)(space - piece.text) : piece.length;
        if (text_add(t->context, text, piece.text + at, end - at) ||
            (space && text_add(t->context, text, mark.text, mark.length)))
            return error_code();
        at = end + (space != NULL);
    }
    if (!s->cut)
        return split_piece(t, step + 1, (Span){text->text, text->bytes}, grown);
    Cutter c = {.tokenizer = t, .step = step + 1, .origin = grown, .text = text->text, .behavior = CUT_NEXT};
    return split_find(&c, &(Finder){.literal = mark}, text->bytes);
}

int split_piece(Tokenizer *t, int step, Span piece, size_t origin)
{
    if (step == t->split_count)
        return t->model == MODEL_BPE ? bpe_pieces(t, piece) : model_word(t, piece);
    const SplitStep *s = &t->splits[step];
    Cutter c = {.tokenizer = t,
                .step = step + 1,
                .origin = origin,
                .text = piece.text,
                .behavior = s->behavior,
                .invert = s->invert};
    switch (s->kind) {
    case SPLIT_BYTES:
        return split_bytes(t, step, piece, origin);
    case SPLIT_SPACE:
        return split_space(t, step, piece, origin);
    case SPLIT_FIND:
        return split_find(&c, &s->finder, piece.length);
    case SPLIT_METASPACE:
        return split_metaspace(t, step, piece, origin);
    case SPLIT_WHITESPACE:
        return split_words(&c, piece.length);
    case SPLIT_SPACES:
        return split_each(&c, code_is_space, piece.length);
    case SPLIT_BERT:
        return split_bert(&c, piece.length);
    case SPLIT_DIGITS:
        return split_each(&c, is_number, piece.length);
    case SPLIT_PUNCTUATION:
        return split_each(&c, is_punctuation, piece.length);
    }
    return ERROR_NONE;
}
