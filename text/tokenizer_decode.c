/* Ids back to text: the tokens' texts go through the decoders, a list to a list, and are joined. */
#include "tokenizer_.h"

/* The list that a step reads and the one it writes. */
typedef struct Parts {
    Tokenizer *tokenizer;
    int which; /* of parts and ends */
    size_t count;
} Parts;

static Span part_at(const Tokenizer *t, int which, size_t i)
{
    size_t from = i ? t->ends[which][i - 1] : 0;
    return (Span){t->parts[which].text + from, t->ends[which][i] - from};
}

/* The part that was being written ends here. */
static int part_end(Parts *out)
{
    Tokenizer *t = out->tokenizer;
    int w = out->which;
    if (out->count == t->end_room[w]) {
        size_t room = t->end_room[w] ? 2 * t->end_room[w] : 64;
        size_t *ends = memtrack_host_realloc(t->context->tracker, t->ends[w], t->end_room[w] * sizeof *ends,
                                             room * sizeof *ends);
        if (!ends)
            return error_raise(ERROR_HOST_MEMORY, "tokenizer_decode(): no host memory for %zu tokens", room);
        t->ends[w] = ends;
        t->end_room[w] = room;
    }
    t->ends[w][out->count++] = t->parts[w].bytes;
    return ERROR_NONE;
}

static int part_add(Parts *out, const char *text, size_t length)
{
    return text_add(out->tokenizer->context, &out->tokenizer->parts[out->which], text, length);
}

static int part_whole(Parts *out, Span part)
{
    return part_add(out, part.text, part.length) ? error_code() : part_end(out);
}

static int begins_with(Span text, Span with)
{
    return text.length >= with.length && !memcmp(text.text, with.text, with.length);
}

/* Writes the part with every `what` replaced. */
static int part_replaced(Parts *out, const Finder *what, Span with, Span part)
{
    FinderPlace place = {.last_end = SIZE_MAX};
    size_t from = 0;
    int found;
    while ((found = finder_next(what, part.text, part.length, &place)) > 0) {
        if (part_add(out, part.text + from, place.start - from) || part_add(out, with.text, with.length) ||
            text_too_long(out->tokenizer, &out->tokenizer->parts[out->which], "decoders"))
            return error_code();
        from = place.end;
    }
    return found < 0 ? error_code() : part_add(out, part.text + from, part.length - from);
}

/* ---- Joining decoders ------------------------------------------------------------------------ */

/* All letters of GPT-2's alphabet become bytes; a token with any other letter stays. One part comes out. */
static int decode_bytes(const Parts *in, Parts *out)
{
    Tokenizer *t = in->tokenizer;
    TokenText *bytes = &t->word;
    bytes->bytes = 0;
    for (size_t i = 0; i < in->count; i++) {
        Span part = part_at(t, in->which, i);
        size_t before = bytes->bytes;
        if (text_reserve(t->context, bytes, part.length))
            return error_code();
        for (size_t at = 0; at < part.length;) {
            int byte = alphabet_byte(utf8_next(part.text, &at));
            if (byte < 0) {
                bytes->bytes = before;
                if (text_add(t->context, bytes, part.text, part.length))
                    return error_code();
                break;
            }
            bytes->text[bytes->bytes++] = (char)byte;
        }
    }
    if (utf8_repair(t->context, &t->parts[out->which], bytes->text, bytes->bytes))
        return error_code();
    return part_end(out);
}

static int fallback_byte(Span part)
{
    int high, low;
    static const char digits[] = "0123456789ABCDEFabcdef";
    if (part.length != 6 || memcmp(part.text, "<0x", 3) || part.text[5] != '>')
        return -1;
    const char *a = memchr(digits, part.text[3], 22), *b = memchr(digits, part.text[4], 22);
    if (!a || !b)
        return -1;
    high = (int)(a - digits);
    low = (int)(b - digits);
    return (high > 15 ? high - 6 : high) * 16 + (low > 15 ? low - 6 : low);
}

/* Bytes in a row are a text if they are UTF-8; if not, each is a U+FFFD. */
static int fallback_flush(Parts *out, TokenText *bytes)
{
    int valid = utf8_valid(bytes->text, bytes->bytes);
    size_t count = valid ? bytes->bytes > 0 : bytes->bytes;
    for (size_t i = 0; i < count; i++)
        if (part_whole(out, valid ? (Span){bytes->text, bytes->bytes} : (Span){"\xEF\xBF\xBD", 3}))
            return error_code();
    bytes->bytes = 0;
    return ERROR_NONE;
}

static int decode_fallback(const Parts *in, Parts *out)
{
    Tokenizer *t = in->tokenizer;
    t->word.bytes = 0;
    for (size_t i = 0; i < in->count; i++) {
        Span part = part_at(t, in->which, i);
        int byte = fallback_byte(part);
        char one = (char)byte;
        if (byte >= 0 ? text_add(t->context, &t->word, &one, 1)
                      : fallback_flush(out, &t->word) || part_whole(out, part))
            return error_code();
    }
    return fallback_flush(out, &t->word);
}

/* ---- Decoders of one token at a time --------------------------------------------------------- */

static int decode_metaspace(const DecodeStep *step, Span part, int first, Parts *out)
{
    Finder mark = {.literal = step->content};
    return part_replaced(out, &mark, first && step->first ? (Span){"", 0} : (Span){" ", 1}, part);
}

/* BERT's way to write English again. */
static int cleanup(Parts *out, size_t from)
{
    static const struct {
        const char *what, *with;
    } changes[] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                   {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                   {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    Tokenizer *t = out->tokenizer;
    TokenText *text = &t->parts[out->which];
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        Finder what = {.literal = {changes[i].what, strlen(changes[i].what)}};
        t->word.bytes = 0;
        if (text_add(t->context, &t->word, text->text + from, text->bytes - from))
            return error_code();
        text->bytes = from;
        if (part_replaced(out, &what, (Span){changes[i].with, strlen(changes[i].with)},
                          (Span){t->word.text, t->word.bytes}))
            return error_code();
    }
    return ERROR_NONE;
}

static int decode_wordpiece(const DecodeStep *step, Span part, int first, Parts *out)
{
    size_t from = out->tokenizer->parts[out->which].bytes;
    if (!first && begins_with(part, step->content)) {
        part.text += step->content.length;
        part.length -= step->content.length;
    } else if (!first && part_add(out, " ", 1)) {
        return error_code();
    }
    if (part_add(out, part.text, part.length))
        return error_code();
    return step->cleanup ? cleanup(out, from) : ERROR_NONE;
}

static int decode_strip(const DecodeStep *step, Span part, Parts *out)
{
    Span mark = step->content;
    for (size_t i = 0; i < step->left && begins_with(part, mark); i++) {
        part.text += mark.length;
        part.length -= mark.length;
    }
    for (size_t i = 0; i < step->right && part.length >= mark.length &&
                       !memcmp(part.text + part.length - mark.length, mark.text, mark.length);
         i++)
        part.length -= mark.length;
    return part_add(out, part.text, part.length);
}

static int decode_part(const DecodeStep *step, Span part, size_t i, size_t count, Parts *out)
{
    Finder suffix = {.literal = step->content};
    switch (step->kind) {
    case DECODE_METASPACE:
        return decode_metaspace(step, part, i == 0, out);
    case DECODE_WORDPIECE:
        return decode_wordpiece(step, part, i == 0, out);
    case DECODE_STRIP:
        return decode_strip(step, part, out);
    case DECODE_REPLACE:
        return part_replaced(out, &step->finder, step->content, part);
    case DECODE_SUFFIX:
        return part_replaced(out, &suffix, i + 1 == count ? (Span){"", 0} : (Span){" ", 1}, part);
    default:
        return part_add(out, part.text, part.length);
    }
}

static int decode_step(const DecodeStep *step, const Parts *in, Parts *out)
{
    if (step->kind == DECODE_BYTES)
        return decode_bytes(in, out);
    if (step->kind == DECODE_FALLBACK)
        return decode_fallback(in, out);
    for (size_t i = 0; i < in->count; i++)
        if (decode_part(step, part_at(in->tokenizer, in->which, i), i, in->count, out) ||
            (step->kind != DECODE_FUSE && part_end(out)))
            return error_code();
    return step->kind == DECODE_FUSE ? part_end(out) : ERROR_NONE;
}

/* ---- All ------------------------------------------------------------------------------------- */

static int first_parts(Tokenizer *t, const int32_t *ids, size_t count, int skip_special, Parts *out)
{
    for (size_t i = 0; i < count; i++) {
        const VocabEntry *entry = ids[i] >= 0 && ids[i] < t->vocab.ids ? &t->vocab.entries[ids[i]] : NULL;
        if (!entry || !entry->text || (skip_special && entry->special))
            continue;
        if (!t->has_decoder && out->count && part_add(out, " ", 1))
            return error_code();
        if (part_whole(out, (Span){entry->text, entry->length}))
            return error_code();
    }
    return ERROR_NONE;
}

int tokenizer_decode(Tokenizer *t, const int32_t *ids, size_t count, int skip_special, TokenText *out)
{
    if (!t)
        return error_code() ? error_code()
                            : error_raise(ERROR_ARGUMENT, "tokenizer_decode(): the tokenizer is NULL");
    if (!out || (!ids && count))
        return error_raise(ERROR_ARGUMENT, "tokenizer_decode(): %s is NULL", out ? "ids" : "out");
    Parts now = {.tokenizer = t};
    t->parts[0].bytes = 0;
    if (text_reserve(t->context, &t->parts[0], 0) || first_parts(t, ids, count, skip_special, &now))
        return error_code();
    t->most = text_most(t->parts[0].bytes + now.count); /* each may get a space */
    for (int i = 0; i < t->decode_count; i++) {
        pattern_begin(t->decodes[i].finder.pattern, t->parts[now.which].bytes);
        Parts next = {.tokenizer = t, .which = !now.which};
        t->parts[next.which].bytes = 0;
        if (text_reserve(t->context, &t->parts[next.which], 0) || text_reserve(t->context, &t->word, 0) ||
            decode_step(&t->decodes[i], &now, &next))
            return error_code();
        now = next;
    }
    return text_add(t->context, out, t->parts[now.which].text, t->parts[now.which].bytes);
}
