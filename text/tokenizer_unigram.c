/* Unigram (Kudo, arXiv 1804.10959): of all ways to cut a word into tokens that of the highest sum of scores,
 * found from the left, of equal ones the first. Tokens are looked up in a trie. Scores and sums are those of
 * the Python package bit by bit, because ways that differ only in the order of their tokens are told apart by
 * rounding. */
#include <stdlib.h>

#include "tokenizer_.h"

enum { LONGEST_TOKEN = 1024 }; /* bytes: a text takes its length times that */

#define UNKNOWN_PENALTY 10.0

/* ---- Scores ---------------------------------------------------------------------------------- */

/* The fewest digits that are this number: significand x 10^exponent. */
static void shortest(double value, uint64_t *significand, int *exponent)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    const char *e = strchr(text, 'e');
    *significand = 0;
    *exponent = (int)strtol(e + 1, NULL, 10);
    for (const char *c = text; c < e; c++)
        if (*c >= '0' && *c <= '9') {
            *significand = *significand * 10 + (uint64_t)(*c - '0');
            *exponent -= c > text;
        }
    while (*significand && *significand % 10 == 0) {
        *significand /= 10;
        ++*exponent;
    }
}

static double power_of_ten(int n)
{
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    char text[16];
    if (n < (int)(sizeof exact / sizeof exact[0]))
        return exact[n];
    snprintf(text, sizeof text, "1e%d", n);
    return strtod(text, NULL);
}

/* As the package reads a number (serde_json): its digits, rounded, by a power of ten, rounded again. One in
 * eight differs from the nearest number by a last bit. */
static double package_score(const json_t *number)
{
    double value = json_number_value(number), size = value < 0 ? -value : value;
    uint64_t significand;
    int exponent;
    if (json_is_integer(number) || size == 0)
        return value;
    shortest(size, &significand, &exponent);
    double score = (double)significand;
    for (; exponent < -308; exponent += 308)
        score /= 1e308;
    score = exponent < 0 ? score / power_of_ten(-exponent) : score * power_of_ten(exponent);
    return value < 0 ? -score : score;
}

/* ---- The trie -------------------------------------------------------------------------------- */

typedef struct Key {
    Span text;
    int32_t id;
} Key;

static int compare(const void *a, const void *b)
{
    const Key *x = a, *y = b;
    size_t least = x->text.length < y->text.length ? x->text.length : y->text.length;
    int order = memcmp(x->text.text, y->text.text, least);
    if (!order && x->text.length != y->text.length)
        order = x->text.length < y->text.length ? -1 : 1;
    return order;
}

/* A node's keys, which agree in their first `depth` bytes. */
typedef struct KeyRange {
    uint32_t low, high, depth;
} KeyRange;

/* The tokens that can be found, without the empty one. Returns how many. */
static size_t collect(const Vocabulary *vocab, Key *keys)
{
    size_t count = 0;
    for (int32_t i = 0; i < vocab->model_count; i++) {
        Span text = {vocab->entries[i].text, vocab->entries[i].length};
        if (text.length && vocab_find(vocab, text.text, text.length) == i) /* of equal ones the last */
            keys[count++] = (Key){text, i};
    }
    qsort(keys, count, sizeof *keys, compare);
    return count;
}

/* One for each byte of a key beyond what it shares with the key before, and the root. */
static size_t count_nodes(const Key *keys, size_t count)
{
    size_t nodes = 1;
    for (size_t i = 0; i < count; i++) {
        size_t same = 0;
        if (i)
            while (same < keys[i - 1].text.length && same < keys[i].text.length &&
                   keys[i - 1].text.text[same] == keys[i].text.text[same])
                same++;
        nodes += keys[i].text.length - same;
    }
    return nodes;
}

/* Node by node in the order of their numbers: the children of each are the next free ones. */
static void build(Unigram *u, const Key *keys, size_t count, KeyRange *ranges)
{
    uint32_t next = 1;
    ranges[0] = (KeyRange){0, (uint32_t)count, 0};
    for (uint32_t at = 0; at < next; at++) {
        KeyRange range = ranges[at];
        TrieNode *node = &u->nodes[at];
        node->id = -1;
        node->first = next;
        if (range.low < range.high && keys[range.low].text.length == range.depth)
            node->id = keys[range.low++].id;
        for (uint32_t low = range.low, high; low < range.high; low = high) {
            char label = keys[low].text.text[range.depth];
            for (high = low + 1; high < range.high && keys[high].text.text[range.depth] == label;)
                high++;
            ranges[next] = (KeyRange){low, high, range.depth + 1};
            u->nodes[next++].label = (uint8_t)label;
            node->count++;
        }
    }
    for (uint32_t i = 0; i < u->nodes[0].count; i++)
        u->root[u->nodes[u->nodes[0].first + i].label] = u->nodes[0].first + i;
}

static int build_trie(const Reading *r)
{
    Tokenizer *t = r->tokenizer;
    MemTracker *tracker = t->context->tracker;
    size_t room = (size_t)t->vocab.model_count * sizeof(Key);
    Key *keys = memtrack_host_alloc(tracker, room);
    if (!keys)
        return error_raise(ERROR_HOST_MEMORY, TOKENIZER_MAKER "(): no host memory for %zu bytes", room);
    size_t count = collect(&t->vocab, keys), nodes = count_nodes(keys, count);
    KeyRange *ranges = nodes < UINT32_MAX ? memtrack_host_alloc(tracker, nodes * sizeof *ranges) : NULL;
    t->unigram.nodes = ranges ? keep(t, nodes * sizeof(TrieNode)) : NULL;
    if (t->unigram.nodes)
        build(&t->unigram, keys, count, ranges);
    else if (!ranges)
        error_raise(ERROR_HOST_MEMORY, TOKENIZER_MAKER "(): no host memory for %zu bytes",
                    nodes * sizeof *ranges);
    if (ranges)
        memtrack_host_free(tracker, ranges, nodes * sizeof *ranges);
    memtrack_host_free(tracker, keys, room);
    return t->unigram.nodes ? ERROR_NONE : error_code();
}

/* The child by this byte; 0: none. */
static uint32_t child(const TrieNode *nodes, const TrieNode *node, uint8_t label)
{
    uint32_t low = node->first, count = node->count;
    while (count > 4) {
        uint32_t half = count / 2;
        low += nodes[low + half].label <= label ? half : 0;
        count -= half;
    }
    for (; count; low++, count--)
        if (nodes[low].label == label)
            return low;
    return 0;
}

/* ---- Reading --------------------------------------------------------------------------------- */

int reading_unigram(const Reading *r, const json_t *model)
{
    Tokenizer *t = r->tokenizer;
    Unigram *u = &t->unigram;
    const json_t *vocab = json_object_get(model, "vocab"), *unknown = json_object_get(model, "unk_id");
    double least = 0;
    if (unknown && !json_is_null(unknown)) {
        if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 ||
            json_integer_value(unknown) >= t->vocab.model_count)
            return reading_fail(r, "model.unk_id must be the number of a token in model.vocab");
        u->unknown = (int32_t)json_integer_value(unknown);
    }
    if (t->vocab.longest > LONGEST_TOKEN)
        return reading_fail(r, "model.vocab has a token of %zu bytes; Unigram's may have %d",
                            t->vocab.longest, LONGEST_TOKEN);
    if ((u->byte_fallback = reading_bool(r, model, "model", "byte_fallback", 0)) < 0)
        return error_code();
    fallback_find(&t->vocab, u->fallback_ids);
    if (!(u->scores = keep(t, (size_t)t->vocab.model_count * sizeof *u->scores)))
        return error_code();
    for (int32_t i = 0; i < t->vocab.model_count; i++) {
        u->scores[i] = package_score(json_array_get(json_array_get(vocab, (size_t)i), 1));
        least = i == 0 || u->scores[i] < least ? u->scores[i] : least;
    }
    u->unknown_score = least - UNKNOWN_PENALTY;
    return build_trie(r);
}

/* ---- The best way ---------------------------------------------------------------------------- */

static int reserve_arrivals(Tokenizer *t, size_t bytes)
{
    if (bytes >= UINT32_MAX)
        return error_raise(ERROR_DATA, "tokenizer: a piece of %zu bytes; at most %u can be cut", bytes,
                           UINT32_MAX);
    if (bytes < t->arrival_room)
        return ERROR_NONE;
    size_t room = bytes + 1 < 2 * t->arrival_room ? 2 * t->arrival_room : bytes + 1;
    Arrival *arrivals = memtrack_host_realloc(t->context->tracker, t->arrivals,
                                              t->arrival_room * sizeof *arrivals, room * sizeof *arrivals);
    if (!arrivals)
        return error_raise(ERROR_HOST_MEMORY, "tokenizer: no host memory for a piece of %zu bytes", bytes);
    t->arrivals = arrivals;
    t->arrival_room = room;
    return ERROR_NONE;
}

static void arrive(Arrival *at, double score, int32_t id, size_t length)
{
    if (!at->length || score > at->score)
        *at = (Arrival){score, id, (uint32_t)length};
}

static int find_ways(const Unigram *u, Span word, Arrival *arrivals)
{
    const unsigned char *text = (const unsigned char *)word.text;
    const TrieNode *nodes = u->nodes;
    memset(arrivals, 0, (word.length + 1) * sizeof *arrivals);
    for (size_t at = 0, next = 0; at < word.length; at = next) {
        double score = arrivals[at].score;
        int single = 0; /* whether the character by itself is a token */
        utf8_next(word.text, &next);
        uint32_t node = u->root[text[at]];
        for (size_t end = at + 1; node; end++) {
            int32_t id = nodes[node].id;
            if (id >= 0) {
                arrive(&arrivals[end], u->scores[id] + score, id, end - at);
                single |= end == next;
            }
            if (end == word.length)
                break;
            node = child(nodes, &nodes[node], text[end]);
        }
        if (single)
            continue;
        if (u->unknown < 0 && (!arrivals[next].length || u->unknown_score + score > arrivals[next].score))
            return error_raise(ERROR_DATA,
                               "tokenizer: a character is unknown, and model.unk_id names no token");
        if (u->unknown >= 0)
            arrive(&arrivals[next], u->unknown_score + score, u->unknown, next - at);
    }
    return ERROR_NONE;
}

static void reverse(int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count / 2; i++) {
        int32_t id = ids[i];
        ids[i] = ids[count - 1 - i];
        ids[count - 1 - i] = id;
    }
}

/* What is unknown in a row is one text: a token after all, or bytes, or one unknown token. Ids are in
 * reverse. */
static int add_unknown(Tokenizer *t, Span text, TokenIds *out)
{
    const Unigram *u = &t->unigram;
    int32_t id = vocab_find(&t->vocab, text.text, text.length);
    size_t from = out->count;
    int added = 0;
    if (id < 0 && u->byte_fallback && fallback_add(t->context, u->fallback_ids, text, out, &added))
        return error_code();
    if (added) {
        reverse(out->ids + from, out->count - from);
        return ERROR_NONE;
    }
    return ids_add(t->context, out, id < 0 ? u->unknown : id);
}

int unigram_word(Tokenizer *t, Span word, TokenIds *out)
{
    size_t from = out->count, unknown_end = 0; /* 0: what follows is known */
    if (reserve_arrivals(t, word.length) || find_ways(&t->unigram, word, t->arrivals))
        return error_code();
    for (size_t end = word.length; end > 0;) {
        const Arrival *way = &t->arrivals[end];
        size_t start = end - way->length;
        if (way->id == t->unigram.unknown) {
            unknown_end = unknown_end ? unknown_end : end;
            if ((!start || t->arrivals[start].id != way->id) &&
                add_unknown(t, (Span){word.text + start, unknown_end - start}, out))
                return error_code();
        } else if (unknown_end = 0, ids_add(t->context, out, way->id)) {
            return error_code();
        }
        end = start;
    }
    reverse(out->ids + from, out->count - from);
    return ERROR_NONE;
}
