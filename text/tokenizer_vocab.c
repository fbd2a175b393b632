/* The vocabulary: tokens by id, and ids by token for the model. Added tokens have ids, but the model does not
 * find them unless they are its own too. */
#include "tokenizer_.h"

int32_t vocab_find(const Vocabulary *vocab, const char *token, size_t length)
{
    uint64_t hash = hash_bytes(token, length);
    for (size_t at = (size_t)hash & vocab->mask;; at = (at + 1) & vocab->mask) {
        const VocabSlot *slot = &vocab->slots[at];
        if (slot->id < 0)
            return -1;
        if (slot->hash == (uint32_t)(hash >> 32) && vocab->entries[slot->id].length == length &&
            !memcmp(vocab->entries[slot->id].text, token, length))
            return slot->id;
    }
}

static int vocab_enter(const Reading *r, int32_t id)
{
    const Vocabulary *vocab = &r->tokenizer->vocab;
    const VocabEntry *entry = &vocab->entries[id];
    uint64_t hash = hash_bytes(entry->text, entry->length);
    size_t at = (size_t)hash & vocab->mask;
    for (int probes = 0; vocab->slots[at].id >= 0; probes++) {
        if (probes == MOST_PROBES)
            return reading_fail(r, "model.vocab: its tokens collide: %s is one of thousands in one place",
                                shown(entry->text, entry->length).text);
        const VocabSlot *slot = &vocab->slots[at];
        if (slot->hash == (uint32_t)(hash >> 32) && vocab->entries[slot->id].length == entry->length &&
            !memcmp(vocab->entries[slot->id].text, entry->text, entry->length))
            break; /* in a list a token may come twice: the later one is found, as in the Python package */
        at = (at + 1) & vocab->mask;
    }
    vocab->slots[at] = (VocabSlot){(uint32_t)(hash >> 32), id};
    return ERROR_NONE;
}

/* Ids may have holes, but what is kept for them must be in proportion to the file. */
static int check_ids(const Reading *r, const json_t *vocab, json_int_t *largest)
{
    const char *token;
    json_t *value;
    size_t count = json_object_size(vocab);
    json_int_t most = (json_int_t)count * 4 + 65536;
    *largest = -1;
    json_object_foreach((json_t *)vocab, token, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id > INT32_MAX)
            return reading_fail(r, "model.vocab: the id of %s must be a whole number from 0 to %d",
                                shown(token, strlen(token)).text, INT32_MAX);
        if (id > most)
            return reading_fail(r,
                                "model.vocab: %s has the id %" JSON_INTEGER_FORMAT
                                " among %zu tokens; holes as large as that are not supported",
                                shown(token, strlen(token)).text, id, count);
        *largest = id > *largest ? id : *largest;
    }
    return ERROR_NONE;
}

static int fill_one(const Reading *r, int32_t id, const char *token, size_t length)
{
    Vocabulary *v = &r->tokenizer->vocab;
    Span text = reading_keep(r, token, length);
    if (!text.text)
        return error_code();
    v->entries[id] = (VocabEntry){.text = text.text, .length = (uint32_t)text.length};
    v->longest = text.length > v->longest ? text.length : v->longest;
    return vocab_enter(r, id);
}

/* Unigram's: a list of [token, score], whose places are the ids. */
static int fill_list(const Reading *r, const json_t *vocab)
{
    const json_t *item;
    size_t i;
    json_array_foreach(vocab, i, item)
    {
        const json_t *token = json_array_get(item, 0), *score = json_array_get(item, 1);
        if (json_array_size(item) != 2 || !json_is_string(token) || !json_is_number(score))
            return reading_fail(r, "model.vocab: number %zu is no pair of a token and its score", i);
        if (fill_one(r, (int32_t)i, json_string_value(token), json_string_length(token)))
            return error_code();
    }
    return ERROR_NONE;
}

static int fill(const Reading *r, const json_t *vocab)
{
    Vocabulary *v = &r->tokenizer->vocab;
    const char *token;
    json_t *value;
    json_object_foreach((json_t *)vocab, token, value)
    {
        int32_t id = (int32_t)json_integer_value(value);
        size_t length = strlen(token);
        if (v->entries[id].text)
            return reading_fail(r, "model.vocab: %s and %s both have the id %d",
                                shown(v->entries[id].text, v->entries[id].length).text,
                                shown(token, length).text, id);
        if (fill_one(r, id, token, length))
            return error_code();
    }
    return ERROR_NONE;
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

static int read_added(const Reading *r, const json_t *item, AddedToken *token, json_int_t *id)
{
    const char *part = "added_tokens";
    json_t *number = json_object_get(item, "id");
    if (!json_is_object(item))
        return reading_fail(r, "added_tokens must hold objects");
    int found = reading_text(r, item, part, "content", &token->content);
    if (found < 0)
        return error_code();
    if (!found || !token->content.length)
        return reading_fail(r, "added_tokens: a token has no content");
    if (!json_is_integer(number) || json_integer_value(number) < 0 || json_integer_value(number) >= INT32_MAX)
        return reading_fail(r, "added_tokens: the id of %s must be a whole number from 0 to %d",
                            shown(token->content.text, token->content.length).text, INT32_MAX - 1);
    *id = json_integer_value(number);
    int special = reading_bool(r, item, part, "special", 0), left = reading_bool(r, item, part, "lstrip", 0),
        right = reading_bool(r, item, part, "rstrip", 0),
        single = reading_bool(r, item, part, "single_word", 0),
        normalized = reading_bool(r, item, part, "normalized", !special);
    if (special < 0 || left < 0 || right < 0 || single < 0 || normalized < 0)
        return error_code();
    token->special = (uint8_t)special;
    token->lstrip = (uint8_t)left;
    token->rstrip = (uint8_t)right;
    token->single_word = (uint8_t)single;
    token->normalized = (uint8_t)normalized;
    return ERROR_NONE;
}

/* The Python package numbers added tokens itself: as in the model, or after all there are. A file that says
 * something else would be read with other ids than it says. */
static int place_added(const Reading *r, AddedToken *token, json_int_t id, json_int_t *next)
{
    Vocabulary *v = &r->tokenizer->vocab;
    ShownText content = shown(token->content.text, token->content.length);
    const char *name = content.text;
    int32_t own = vocab_find(v, token->content.text, token->content.length);
    json_int_t expected = own >= 0 ? own : *next;
    if (id != expected)
        return reading_fail(r,
                            "added_tokens: %s has the id %" JSON_INTEGER_FORMAT
                            ", but %s it must be %" JSON_INTEGER_FORMAT,
                            name, id, own >= 0 ? "by model.vocab" : "behind the tokens before it", expected);
    if (own < 0 && v->entries[id].text && !v->entries[id].added)
        return reading_fail(
            r, "added_tokens: the id %" JSON_INTEGER_FORMAT " of %s is taken by %s in model.vocab", id, name,
            shown(v->entries[id].text, v->entries[id].length).text);
    if (v->entries[id].added)
        return reading_fail(r, "added_tokens: %s comes twice", name);
    *next = id >= *next ? id + 1 : *next;
    token->id = (int32_t)id;
    v->entries[id] = (VocabEntry){.text = token->content.text,
                                  .length = (uint32_t)token->content.length,
                                  .special = token->special,
                                  .added = 1};
    return ERROR_NONE;
}

static int fill_added(const Reading *r, const json_t *added)
{
    Tokenizer *t = r->tokenizer;
    json_int_t next = t->vocab.model_count, id = 0;
    t->added_count = (int)json_array_size(added);
    if (!t->added_count)
        return ERROR_NONE;
    t->added = keep(t, (size_t)t->added_count * sizeof *t->added);
    if (!t->added)
        return error_code();
    for (int i = 0; i < t->added_count; i++)
        if (read_added(r, json_array_get(added, (size_t)i), &t->added[i], &id) ||
            place_added(r, &t->added[i], id, &next))
            return error_code();
    return ERROR_NONE;
}

int reading_vocab(const Reading *r, const json_t *vocab, const json_t *added)
{
    Vocabulary *v = &r->tokenizer->vocab;
    int list = r->tokenizer->model == MODEL_UNIGRAM;
    json_int_t largest = (json_int_t)json_array_size(vocab) - 1;
    if (list ? !json_array_size(vocab) : !json_object_size(vocab))
        return reading_fail(r, list ? "model.vocab must be a list of tokens and their scores"
                                    : "model.vocab must be an object of tokens and their ids");
    if (added && !json_is_null(added) && !json_is_array(added))
        return reading_fail(r, "added_tokens must be a list");
    if (!list && check_ids(r, vocab, &largest))
        return error_code();
    size_t count = list ? json_array_size(vocab) : json_object_size(vocab), more = json_array_size(added),
           slots = 2;
    if (count > INT32_MAX / 8 || more > INT32_MAX / 8)
        return reading_fail(r, "%zu tokens; at most %d can be read", count + more, INT32_MAX / 8);
    while (slots < 2 * count)
        slots *= 2;
    size_t entries = (size_t)(largest + 1 > (json_int_t)count ? (size_t)largest + 1 : count) + more;
    v->model_count = (int32_t)count;
    v->entries = keep(r->tokenizer, entries * sizeof *v->entries);
    v->slots = v->entries ? keep(r->tokenizer, slots * sizeof *v->slots) : NULL;
    if (!v->slots)
        return error_code();
    v->mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        v->slots[i].id = -1;
    if ((list ? fill_list(r, vocab) : fill(r, vocab)) || fill_added(r, added))
        return error_code();
    v->ids = (int32_t)entries;
    while (!v->entries[v->ids - 1].text)
        v->ids--;
    return ERROR_NONE;
}
