/* Normalizers: a text, or what lies between added tokens, to the text that is cut. Unicode's normal forms
 * come from utf8proc, a run of characters above ASCII at a time: no form ever joins anything to a character
 * below U+0080 that follows it, so a run with the one character before it is normalized as it would be in the
 * whole. */
#include <utf8proc.h>

#include "tokenizer_.h"
#include "tokenizer_unicode_.h"

/* ---- Normal forms ---------------------------------------------------------------------------- */

static int form_options(NormalKind kind)
{
    switch (kind) {
    case NORMAL_NFC:
        return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case NORMAL_NFD:
        return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case NORMAL_NFKC:
        return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    default:
        return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
    }
}

static int combining_class(int32_t code)
{
    return utf8proc_get_property(code)->combining_class;
}

/* Marks in a row by their class, those of one class as they came: a sort by counting. */
static void order_marks(int32_t *marks, int32_t *spare, size_t count)
{
    size_t begins[257] = {0};
    for (size_t i = 0; i < count; i++)
        begins[combining_class(marks[i]) + 1]++;
    for (int i = 1; i < 257; i++)
        begins[i] += begins[i - 1];
    for (size_t i = 0; i < count; i++)
        spare[begins[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, spare, count * sizeof *marks);
}

/* As utf8proc_decompose, which exchanges neighbours to order marks: the square of how many come in a row. */
static utf8proc_ssize_t decompose_long(Span text, utf8proc_option_t options, int32_t *codes, int32_t *spare,
                                       utf8proc_ssize_t room)
{
    utf8proc_ssize_t count = 0;
    int last = 0; /* for grapheme clusters, which nobody asks for */
    for (size_t at = 0; at < text.length;) {
        int32_t code = utf8_next(text.text, &at);
        utf8proc_ssize_t one = utf8proc_decompose_char(code, codes + count, room - count, options, &last);
        if (one < 0 || one > room - count)
            return one < 0 ? one : UTF8PROC_ERROR_OVERFLOW;
        count += one;
    }
    for (utf8proc_ssize_t from = 0, end = 0; from < count; from = end = end + 1) {
        while (end < count && combining_class(codes[end]))
            end++;
        if (end - from > 1)
            order_marks(codes + from, spare, (size_t)(end - from));
    }
    return count;
}

static int add_form(Tokenizer *t, NormalKind kind, Span text, TokenText *out)
{
    utf8proc_option_t options = (utf8proc_option_t)form_options(kind);
    const utf8proc_uint8_t *from = (const utf8proc_uint8_t *)text.text;
    utf8proc_int32_t room[256], *codes = room;
    size_t bytes = 0;
    utf8proc_ssize_t count = utf8proc_decompose(from, (utf8proc_ssize_t)text.length, codes, 255, options);
    if (count > 255) { /* it says how many, and has not ordered them */
        bytes = 2 * ((size_t)count + 1) * sizeof *codes;
        if (!(codes = memtrack_host_alloc(t->context->tracker, bytes)))
            return error_raise(ERROR_HOST_MEMORY, "tokenizer: no host memory for %zu bytes", bytes);
        count = decompose_long(text, options, codes, codes + count + 1, count);
    }
    if (count >= 0)
        count = utf8proc_reencode(codes, count, options);
    int status = count < 0 ? error_raise(ERROR_DATA, "tokenizer: utf8proc: %s", utf8proc_errmsg(count))
                           : text_add(t->context, out, (const char *)codes, (size_t)count);
    if (bytes)
        memtrack_host_free(t->context->tracker, codes, bytes);
    return status;
}

/* A run above ASCII goes on to the next character below U+0080 or one that the forms leave alone. */
static int normalize_form(Tokenizer *t, NormalKind kind, Span in, TokenText *out)
{
    size_t from = 0, at = 0; /* from: not written yet; the run begins at most one character before `at` */
    while (at < in.length) {
        if ((unsigned char)in.text[at] < 0x80) {
            at++;
            continue;
        }
        size_t run = at > from ? at - 1 : at, end = at;
        int alone = 0;
        while (end < in.length && (unsigned char)in.text[end] >= 0x80) {
            size_t next = end;
            if ((alone = unicode_unknown_to_forms(utf8_next(in.text, &next))))
                break;
            end = next;
        }
        if (text_add(t->context, out, in.text + from, run - from) ||
            (end > run && add_form(t, kind, (Span){in.text + run, end - run}, out)))
            return error_code();
        from = end;
        if (alone) {
            utf8_next(in.text, &end);
            if (text_add(t->context, out, in.text + from, end - from))
                return error_code();
            from = end;
        }
        at = end;
    }
    return text_add(t->context, out, in.text + from, in.length - from);
}

/* ---- A character at a time ------------------------------------------------------------------- */

static int32_t lower(int32_t c)
{
    int32_t newer = unicode_newer_lower(c);
    return newer ? newer : utf8proc_tolower(c);
}

/* BERT's control characters: those of its Unicode 8, so without later format characters. */
static int is_control(int32_t c)
{
    if (c == '\t' || c == '\n' || c == '\r')
        return 0;
    if (c < 0x80)
        return c < 32 || c == 127;
    if (c == 0x890 || c == 0x891 || c == 0x8E2 || c == 0x110CD || (c >= 0x13430 && c <= 0x1343F))
        return 0;
    utf8proc_category_t category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
           category == UTF8PROC_CATEGORY_CO;
}

static int is_nonspacing(int32_t c)
{
    if (c < 0x300)
        return 0;
    if (c == 0x1734) /* was one once */
        return 1;
    return utf8proc_category(c) == UTF8PROC_CATEGORY_MN && !unicode_unknown_nonspacing(c);
}

static int is_mark(int32_t c)
{
    if (c < 0x300)
        return 0;
    return c == 0x1CF2 || c == 0x1CF3 || (code_is_mark(c) && !unicode_unknown_mark(c));
}

static int change_nmt(int32_t c, int32_t to[3])
{
    to[0] = ' ';
    if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
        return 0;
    return c == '\t' || c == '\n' || c == '\f' || c == '\r' || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                   c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD
               ? 1
               : -1;
}

/* What becomes of a character: writes up to three and returns how many, or -1 when it stays as it is. */
static int change(NormalKind kind, int32_t c, int32_t to[3])
{
    switch (kind) {
    case NORMAL_LOWER:
        if (c == 0x130) { /* the one letter whose lower case is two */
            to[0] = 'i';
            to[1] = 0x307;
            return 2;
        }
        to[0] = c < 0x80 ? (c >= 'A' && c <= 'Z' ? c + 32 : c) : lower(c);
        return to[0] == c ? -1 : 1;
    case NORMAL_STRIP_MARKS:
        return is_mark(c) ? 0 : -1;
    case NORMAL_STRIP_NONSPACING:
        return is_nonspacing(c) ? 0 : -1;
    case NORMAL_CLEAN:
        if (c == 0 || c == 0xFFFD || is_control(c))
            return 0;
        to[0] = ' ';
        return c != ' ' && code_is_space(c) ? 1 : -1;
    case NORMAL_NMT:
        return change_nmt(c, to);
    default: /* CHINESE */
        if (!code_is_chinese(c))
            return -1;
        to[0] = to[2] = ' ';
        to[1] = c;
        return 3;
    }
}

/* Of what comes from the first bytes. */
static size_t origin_of_changes(NormalKind kind, Span in, size_t origin)
{
    size_t out = 0;
    for (size_t at = 0, next = 0; at < origin && at < in.length; at = next) {
        int32_t to[3];
        char bytes[4];
        int count = change(kind, utf8_next(in.text, &next), to);
        for (int i = 0; i < count; i++)
            out += (size_t)utf8_write(bytes, to[i]);
        out += count < 0 ? next - at : 0;
    }
    return out;
}

static int normalize_characters(Tokenizer *t, NormalKind kind, Span in, TokenText *out)
{
    size_t from = 0;
    t->origin = origin_of_changes(kind, in, t->origin);
    for (size_t at = 0, next = 0; at < in.length; at = next) {
        int32_t to[3];
        int count = change(kind, utf8_next(in.text, &next), to);
        if (count < 0)
            continue;
        if (text_add(t->context, out, in.text + from, at - from))
            return error_code();
        for (int i = 0; i < count; i++)
            if (text_add_code(t->context, out, to[i]))
                return error_code();
        from = next;
    }
    return text_add(t->context, out, in.text + from, in.length - from);
}

/* ---- The others ------------------------------------------------------------------------------ */

static int normalize_replace(Tokenizer *t, const NormalStep *step, Span in, TokenText *out)
{
    FinderPlace place = {.last_end = SIZE_MAX};
    size_t from = 0, origin = t->origin;
    int found;
    while ((found = finder_next(&step->finder, in.text, in.length, &place)) > 0) {
        if (place.start < origin) /* what comes in place of a match belongs to its last byte */
            t->origin -= place.end < origin ? place.end - place.start : origin - place.start;
        if (origin && (place.end == 0 || place.end - 1 < origin))
            t->origin += step->content.length;
        if (text_add(t->context, out, in.text + from, place.start - from) ||
            text_add(t->context, out, step->content.text, step->content.length) ||
            text_too_long(t, out, "normalizers"))
            return error_code();
        from = place.end;
    }
    return found < 0 ? error_code() : text_add(t->context, out, in.text + from, in.length - from);
}

static int normalize_strip(Tokenizer *t, const NormalStep *step, Span in, TokenText *out)
{
    size_t from = 0, end = in.length;
    while (step->left && from < end) {
        size_t next = from;
        if (!code_is_space(utf8_next(in.text, &next)))
            break;
        from = next;
    }
    while (step->right && end > from && code_is_space(utf8_last(in.text, end)))
        do
            end--;
        while (((unsigned char)in.text[end] & 0xC0) == 0x80);
    t->origin = origin_from(t->origin, from);
    return text_add(t->context, out, in.text + from, end - from);
}

static int normalize_bytes(Tokenizer *t, Span in, TokenText *out)
{
    size_t origin = t->origin;
    if (text_reserve(t->context, out, 2 * in.length))
        return error_code();
    for (size_t i = 0; i < in.length; i++) {
        if (i == origin)
            t->origin = out->bytes;
        out->bytes += (size_t)utf8_write(out->text + out->bytes, alphabet_code((unsigned char)in.text[i]));
    }
    t->origin = origin < in.length ? t->origin : out->bytes;
    return ERROR_NONE;
}

static int normalize_step(Tokenizer *t, const NormalStep *step, Span in, TokenText *out)
{
    switch (step->kind) {
    case NORMAL_NFC:
    case NORMAL_NFD:
    case NORMAL_NFKC:
    case NORMAL_NFKD:
        return normalize_form(t, step->kind, in, out);
    case NORMAL_REPLACE:
        return normalize_replace(t, step, in, out);
    case NORMAL_STRIP:
        return normalize_strip(t, step, in, out);
    case NORMAL_CHARSMAP:
        return charsmap_normalize(t, step->map, in, out);
    case NORMAL_BYTES:
        return normalize_bytes(t, in, out);
    case NORMAL_PREPEND:
        if (in.length && text_add(t->context, out, step->content.text, step->content.length))
            return error_code();
        t->origin += in.length && t->origin ? step->content.length : 0;
        return text_add(t->context, out, in.text, in.length);
    default:
        return normalize_characters(t, step->kind, in, out);
    }
}

static int is_ascii(Span text)
{
    for (size_t i = 0; i < text.length; i++)
        if ((unsigned char)text.text[i] >= 0x80)
            return 0;
    return 1;
}

/* What changes nothing below U+0080. */
static int only_above_ascii(NormalKind kind)
{
    return kind <= NORMAL_NFKD || kind == NORMAL_STRIP_MARKS || kind == NORMAL_STRIP_NONSPACING ||
           kind == NORMAL_CHINESE;
}

/* Where the forms and the map of characters put the origin: the first character that there is, and as many
 * bytes behind it as before. */
static size_t origin_of_first(Span in, Span out, size_t origin)
{
    size_t before = 0, now = 0;
    if (!origin || !out.length)
        return 0;
    utf8_next(in.text, &before);
    utf8_next(out.text, &now);
    return now + origin_from(origin, before);
}

int normalize(Tokenizer *t, Span text, size_t *origin, Span *out)
{
    int which = 0;
    t->origin = *origin;
    size_t longest = 0;
    *out = text;
    t->most = text_most(text.length);
    if (t->most > t->left) /* a text of many pieces has the 4096 bytes that are free once */
        t->most = t->left;
    for (int i = 0; i < t->normal_count; i++) {
        const NormalStep *step = &t->normals[i];
        if (only_above_ascii(step->kind) && is_ascii(*out))
            continue;
        TokenText *to = &t->normal[which];
        to->bytes = 0;
        if (text_reserve(t->context, to, out->length) || normalize_step(t, step, *out, to) ||
            text_too_long(t, to, "normalizers"))
            return error_code();
        if (step->kind <= NORMAL_NFKD || step->kind == NORMAL_CHARSMAP)
            t->origin = origin_of_first(*out, (Span){to->text, to->bytes}, t->origin);
        *out = (Span){to->text, to->bytes};
        longest = to->bytes > longest ? to->bytes : longest;
        which = !which;
    }
    t->left -= longest;
    *origin = t->origin;
    return ERROR_NONE;
}
