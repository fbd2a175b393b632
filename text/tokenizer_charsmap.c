/* SentencePiece's precompiled_charsmap: which characters become which text. It is a trie of bytes, laid out
 * as a double array (Darts-clone's units), and the texts one after the other. A file's map is walked once
 * when it is read, so that no text can lead outside it later.
 *
 * The rule is that of the Python package (its Precompiled): a grapheme cluster of less than six bytes becomes
 * what its shortest beginning in the map becomes, the rest of it is dropped; if there is none, and in longer
 * clusters, each character by itself becomes what its shortest beginning becomes, or stays. */
#include "tokenizer_.h"

enum { MOST_MAP_BYTES = 16 << 20, WHOLE_CLUSTER = 6 };

/* A unit has a label (or bit 31 and a value) below, whether a text ends at its node (bit 8), and how far its
 * children are. */
static uint32_t offset_of(uint32_t unit)
{
    return unit >> 10 << ((unit & 1U << 9) >> 6);
}

static uint32_t label_of(uint32_t unit)
{
    return unit & (1U << 31 | 0xFF);
}

static int has_value(uint32_t unit)
{
    return unit >> 8 & 1;
}

static uint32_t value_of(uint32_t unit)
{
    return unit & ((1U << 31) - 1);
}

/* ---- Base 64 --------------------------------------------------------------------------------- */

static int digit_of(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Into out, 3 bytes for 4 letters; how many, or SIZE_MAX for what is no base 64 with its padding. */
static size_t decode_base64(Span text, uint8_t *out)
{
    size_t bytes = 0, padding = 0;
    if (text.length % 4)
        return SIZE_MAX;
    while (padding < 2 && padding < text.length && text.text[text.length - 1 - padding] == '=')
        padding++;
    for (size_t i = 0; i < text.length; i += 4) {
        uint32_t group = 0;
        size_t last = i + 4 == text.length ? padding : 0;
        for (size_t k = 0; k < 4; k++) {
            int digit = k < 4 - last ? digit_of(text.text[i + k]) : 0;
            if (digit < 0)
                return SIZE_MAX;
            group = group << 6 | (uint32_t)digit;
        }
        if (group & ((1U << 8 * last) - 1))
            return SIZE_MAX;
        for (size_t k = 0; k < 3 - last; k++)
            out[bytes++] = (uint8_t)(group >> (16 - 8 * k));
    }
    return bytes;
}

/* ---- Walking it once ------------------------------------------------------------------------- */

/* A node on the way: its base, and the byte of the child that is next. */
typedef struct Visit {
    uint32_t base, byte;
} Visit;

enum { SEEN = 1, DONE = 2 };

static const char outside[] = "its trie leads outside", circle[] = "its trie goes in a circle",
                  no_text[] = "a character becomes a text that it does not hold";

/* The value at a node whose unit has one. */
static const char *check_value(const Charsmap *map, uint32_t base)
{
    uint32_t value = value_of(map->units[base]);
    if (value > map->texts.length ||
        (value < map->texts.length && ((unsigned char)map->texts.text[value] & 0xC0) == 0x80))
        return no_text;
    return NULL;
}

/* Every node that a byte leads to, depth first; nodes may be shared. What is wrong, or NULL. */
static const char *walk(const Charsmap *map, Visit *stack, uint8_t *state)
{
    size_t depth = 1;
    stack[0] = (Visit){offset_of(map->units[0]), 1};
    if (stack[0].base >= map->count)
        return outside;
    state[stack[0].base] = SEEN;
    while (depth) {
        Visit *here = &stack[depth - 1];
        if (here->byte == 256) {
            state[here->base] = DONE;
            depth--;
            continue;
        }
        uint32_t byte = here->byte++, at = here->base ^ byte;
        if (at >= map->count)
            return outside;
        if (label_of(map->units[at]) != byte)
            continue;
        uint32_t base = at ^ offset_of(map->units[at]);
        if (base >= map->count)
            return outside;
        const char *wrong = has_value(map->units[at]) ? check_value(map, base) : NULL;
        if (wrong || state[base] == SEEN)
            return wrong ? wrong : circle;
        if (state[base] != DONE) {
            state[base] = SEEN;
            stack[depth++] = (Visit){base, 1};
        }
    }
    return NULL;
}

static int check_map(const Reading *r, const Charsmap *map)
{
    MemTracker *tracker = r->tokenizer->context->tracker;
    size_t bytes = map->count * (sizeof(Visit) + 1);
    Visit *stack = memtrack_host_calloc(tracker, bytes);
    if (!stack)
        return error_raise(ERROR_HOST_MEMORY, TOKENIZER_MAKER "(): no host memory for %zu bytes", bytes);
    const char *wrong = walk(map, stack, (uint8_t *)(stack + map->count));
    memtrack_host_free(tracker, stack, bytes);
    return wrong ? reading_fail(r, "normalizer: precompiled_charsmap: %s", wrong) : ERROR_NONE;
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* What the shortest beginning of text becomes; .text NULL where none is in the map. */
static Span become(const Charsmap *map, const char *text, size_t length)
{
    uint32_t at = offset_of(map->units[0]);
    for (size_t i = 0; i < length && text[i]; i++) {
        at ^= (unsigned char)text[i];
        uint32_t unit = map->units[at];
        if (label_of(unit) != (unsigned char)text[i])
            break;
        at ^= offset_of(unit);
        if (has_value(unit)) {
            const char *to = map->texts.text + value_of(map->units[at]);
            size_t most = (size_t)(map->texts.text + map->texts.length - to);
            const char *end = memchr(to, '\0', most);
            return (Span){to, end ? (size_t)(end - to) : most};
        }
    }
    return (Span){NULL, 0};
}

static int fill_map(const Reading *r, const uint8_t *data, size_t bytes, Charsmap *map)
{
    Tokenizer *t = r->tokenizer;
    size_t trie = 0;
    for (size_t i = 0; i < 4 && bytes >= 4; i++)
        trie |= (size_t)data[i] << 8 * i;
    map->count = trie / 4;
    if (bytes < 4 || !map->count || 4 * map->count > bytes - 4)
        return reading_fail(r, "normalizer: precompiled_charsmap has no trie");
    data += 4;
    bytes -= 4;
    if (!(map->units = keep(t, map->count * sizeof *map->units)))
        return error_code();
    for (size_t i = 0; i < map->count; i++, data += 4, bytes -= 4)
        map->units[i] =
            (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
    if (!utf8_valid((const char *)data, bytes))
        return reading_fail(r, "normalizer: the texts of precompiled_charsmap are no UTF-8");
    map->texts = keep_text(t, (const char *)data, bytes);
    if (!map->texts.text || check_map(r, map))
        return error_code();
    for (int i = 0; i < 128; i++)
        map->ascii[i] = become(map, (char[]){(char)i}, 1);
    return ERROR_NONE;
}

Charsmap *reading_charsmap(const Reading *r, const json_t *object)
{
    Tokenizer *t = r->tokenizer;
    const json_t *field = json_object_get(object, "precompiled_charsmap");
    if (!json_is_string(field)) {
        reading_fail(r, "normalizer: precompiled_charsmap must be a text in base 64");
        return NULL;
    }
    Span text = {json_string_value(field), json_string_length(field)};
    if (text.length / 4 * 3 > MOST_MAP_BYTES) {
        reading_fail(r, "normalizer: precompiled_charsmap has %zu bytes; at most %d are read",
                     text.length / 4 * 3, MOST_MAP_BYTES);
        return NULL;
    }
    Charsmap *map = keep(t, sizeof *map);
    size_t room = text.length / 4 * 3 + 1;
    uint8_t *data = map ? memtrack_host_alloc(t->context->tracker, room) : NULL;
    if (!data) {
        if (map)
            error_raise(ERROR_HOST_MEMORY, TOKENIZER_MAKER "(): no host memory for %zu bytes", room);
        return NULL;
    }
    size_t bytes = decode_base64(text, data);
    int status = bytes == SIZE_MAX ? reading_fail(r, "normalizer: precompiled_charsmap is no base 64")
                                   : fill_map(r, data, bytes, map);
    memtrack_host_free(t->context->tracker, data, room);
    return status ? NULL : map;
}

/* ---- Normalizing ----------------------------------------------------------------------------- */

/* What has been passed and not written, and where it goes. */
typedef struct Mapping {
    Tokenizer *tokenizer;
    const Charsmap *map;
    Span in;
    size_t from; /* not written yet */
    TokenText *out;
} Mapping;

static int replace(Mapping *m, size_t start, size_t end, Span with)
{
    Context *context = m->tokenizer->context;
    if (text_add(context, m->out, m->in.text + m->from, start - m->from) ||
        text_add(context, m->out, with.text, with.length) ||
        text_too_long(m->tokenizer, m->out, "normalizers"))
        return error_code();
    m->from = end;
    return ERROR_NONE;
}

static int map_cluster(Mapping *m, size_t start, size_t end)
{
    const char *text = m->in.text;
    if (end - start < WHOLE_CLUSTER) {
        Span with = become(m->map, text + start, end - start);
        if (with.text)
            return replace(m, start, end, with);
    }
    for (size_t at = start, next = start; at < end; at = next) {
        utf8_next(text, &next);
        Span with = become(m->map, text + at, next - at);
        if (with.text && replace(m, at, next, with))
            return error_code();
    }
    return ERROR_NONE;
}

int charsmap_normalize(Tokenizer *t, const Charsmap *map, Span in, TokenText *out)
{
    Mapping m = {.tokenizer = t, .map = map, .in = in, .out = out};
    for (size_t at = 0, end = 0; at < in.length; at = end) {
        unsigned char c = (unsigned char)in.text[at];
        end = at + 1;
        if (c < 0x80 && c != '\r' &&
            (end == in.length || (unsigned char)in.text[end] < 0x80)) { /* a cluster */
            if (map->ascii[c].text && replace(&m, at, end, map->ascii[c]))
                return error_code();
            continue;
        }
        end = cluster_end(in, at);
        if (map_cluster(&m, at, end))
            return error_code();
    }
    return text_add(t->context, out, in.text + m.from, in.length - m.from);
}
