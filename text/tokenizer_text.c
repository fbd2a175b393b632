/* Growing text and ids, UTF-8, and what Unicode says of a character. */
#include <utf8proc.h>

#include "tokenizer_.h"

/* ---- Memory ---------------------------------------------------------------------------------- */

static int no_memory(size_t bytes)
{
    return error_raise(ERROR_HOST_MEMORY, "tokenizer: no host memory for %zu bytes", bytes);
}

int text_reserve(Context *context, TokenText *text, size_t more)
{
    if (text->room > text->bytes && more < text->room - text->bytes)
        return ERROR_NONE;
    if (more > SIZE_MAX / 4 - text->bytes)
        return no_memory(SIZE_MAX);
    size_t needed = text->bytes + more + 1, room = text->room + text->room / 2;
    room = room < needed ? needed : room;
    room = room < 64 ? 64 : room;
    char *grown = memtrack_host_realloc(context->tracker, text->text, text->room, room);
    if (!grown)
        return no_memory(room);
    text->text = grown;
    text->room = room;
    return ERROR_NONE;
}

int text_add(Context *context, TokenText *text, const char *bytes, size_t count)
{
    if (text_reserve(context, text, count))
        return error_code();
    if (count)
        memcpy(text->text + text->bytes, bytes, count);
    text->bytes += count;
    text->text[text->bytes] = '\0';
    return ERROR_NONE;
}

int text_add_code(Context *context, TokenText *text, int32_t code)
{
    char bytes[4];
    return text_add(context, text, bytes, (size_t)utf8_write(bytes, code));
}

enum { GROWTH = 64, GROWTH_LEAST = 4096 }; /* NFKC makes 18 letters of one */

size_t text_most(size_t bytes)
{
    return bytes < SIZE_MAX / GROWTH / 2 ? GROWTH * bytes + GROWTH_LEAST : SIZE_MAX;
}

int text_too_long(const Tokenizer *t, const TokenText *text, const char *who)
{
    if (text->bytes <= t->most)
        return ERROR_NONE;
    return error_raise(
        ERROR_DATA,
        "tokenizer: the %s of the file make a text more than %d times as long (%zu bytes and more)", who,
        GROWTH, text->bytes);
}

void text_free(Context *context, TokenText *text)
{
    memtrack_host_free(context->tracker, text->text, text->room);
    *text = (TokenText){0};
}

static int ids_reserve(Context *context, TokenIds *ids, size_t more)
{
    if (more <= ids->room - ids->count)
        return ERROR_NONE;
    size_t room = ids->room + ids->room / 2, needed = ids->count + more;
    room = room < needed ? needed : room;
    room = room < 64 ? 64 : room;
    int32_t *grown =
        memtrack_host_realloc(context->tracker, ids->ids, ids->room * sizeof *grown, room * sizeof *grown);
    if (!grown)
        return no_memory(room * sizeof *grown);
    ids->ids = grown;
    ids->room = room;
    return ERROR_NONE;
}

int ids_add(Context *context, TokenIds *ids, int32_t id)
{
    return ids_add_all(context, ids, &id, 1);
}

int ids_add_all(Context *context, TokenIds *ids, const int32_t *from, size_t count)
{
    if (ids_reserve(context, ids, count))
        return error_code();
    for (size_t i = 0; i < count; i++)
        ids->ids[ids->count + i] = from[i];
    ids->count += count;
    return ERROR_NONE;
}

void ids_free(Context *context, TokenIds *ids)
{
    memtrack_host_free(context->tracker, ids->ids, ids->room * sizeof *ids->ids);
    *ids = (TokenIds){0};
}

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

int utf8_write(char out[4], int32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const int lead[] = {0, 0xC0, 0xE0, 0xF0};
    out[0] = (char)(lead[more] | code >> (6 * more));
    for (int i = 1; i <= more; i++)
        out[i] = (char)(0x80 | ((code >> (6 * (more - i))) & 0x3F));
    return more + 1;
}

int32_t utf8_last(const char *text, size_t length)
{
    size_t at = length - 1;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    return utf8_next(text, &at);
}

/* What may follow a first byte (Unicode, table 3-7): the second byte has a range of its own. */
static size_t tail_of(unsigned char lead, unsigned char *low, unsigned char *high)
{
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return lead < 0xC2 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : lead < 0xF5 ? 3 : 0;
}

/* How many bytes the character at text has; 0 where there is none, and *broken is how many bytes were wrong.
 */
static size_t character(const unsigned char *text, size_t left, size_t *broken)
{
    if (text[0] < 0x80)
        return 1;
    unsigned char low, high;
    size_t tail = tail_of(text[0], &low, &high), i = 1;
    for (; i <= tail && i < left && text[i] >= low && text[i] <= high; i++) {
        low = 0x80;
        high = 0xBF;
    }
    *broken = i;
    return tail && i == tail + 1 ? i : 0;
}

/* Bytes below 0x80 from `at` on, eight at a time. */
static size_t ascii_run(const char *text, size_t at, size_t length)
{
    for (uint64_t eight; at + 8 <= length; at += 8) {
        memcpy(&eight, text + at, 8);
        if (eight & UINT64_C(0x8080808080808080))
            break;
    }
    while (at < length && (unsigned char)text[at] < 0x80)
        at++;
    return at;
}

int utf8_valid(const char *text, size_t bytes)
{
    size_t broken = 0;
    for (size_t at = 0; (at = ascii_run(text, at, bytes)) < bytes;) {
        size_t one = character((const unsigned char *)text + at, bytes - at, &broken);
        if (!one)
            return 0;
        at += one;
    }
    return 1;
}

int64_t utf8_invalid(const char *text, size_t bytes, int64_t *first)
{
    int64_t count = 0;
    size_t broken = 0;
    *first = -1;
    for (size_t at = 0; (at = ascii_run(text, at, bytes)) < bytes;) {
        size_t one = character((const unsigned char *)text + at, bytes - at, &broken);
        if (!one && count++ == 0)
            *first = (int64_t)at;
        at += one ? one : broken;
    }
    return count;
}

int utf8_repair(Context *context, TokenText *out, const char *text, size_t bytes)
{
    size_t from = 0, broken = 0;
    for (size_t at = 0; at < bytes;) {
        size_t one = character((const unsigned char *)text + at, bytes - at, &broken);
        if (one) {
            at += one;
            continue;
        }
        if (text_add(context, out, text + from, at - from) || text_add_code(context, out, 0xFFFD))
            return error_code();
        from = at += broken;
    }
    return text_add(context, out, text + from, bytes - from);
}

/* ---- Characters ------------------------------------------------------------------------------ */

int code_is_space(int32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

int code_is_word(int32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
        (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D)
        return 1; /* circled letters count as alphabetic; the joiners */
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return 1;
    default:
        return 0;
    }
}

int code_is_punctuation(int32_t c)
{
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    utf8proc_category_t category = utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

int code_is_mark(int32_t c)
{
    utf8proc_category_t category = utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

int code_is_chinese(int32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) ||
           (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/* ---- GPT-2's alphabet ------------------------------------------------------------------------ */

/* A byte that prints in Latin-1 is its own letter; the others are those from U+0100 on. */
static int prints(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

int32_t alphabet_code(int byte)
{
    if (prints(byte))
        return byte;
    /* 0..32 are the first, then 127..160, then 173 */
    return 0x100 + (byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
}

int alphabet_byte(int32_t code)
{
    if (code < 0x100)
        return code > 0 && prints(code) ? code : -1;
    int place = code - 0x100;
    return place <= 32 ? place : place <= 66 ? place - 33 + 127 : place == 67 ? 173 : -1;
}

uint64_t hash_bytes(const char *text, size_t length)
{
    const uint64_t odd = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t hash = (length + 1) * odd, part;
    for (; length >= 8; text += 8, length -= 8) {
        memcpy(&part, text, 8);
        hash = (hash ^ part) * odd;
        hash ^= hash >> 32;
    }
    part = 0;
    if (length)
        memcpy(&part, text, length);
    hash = (hash ^ part) * odd;
    hash ^= hash >> 29;
    return hash * odd;
}
