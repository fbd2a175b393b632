/* One line of JSON to one sample: which fields there may be, what their text is in tokens, and which of these
 * have a label. */
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/plural_.h"
#include "pairs_.h"

int pairs_refuse(const PairsReading *r, const char *format, ...)
{
    char text[440];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_raise(ERROR_DATA, "%s: line %" PRId64 " %s", r->shown, r->line, text);
}

/* ---- Fields ---------------------------------------------------------------------------------- */

#define CHAT                                                                                                 \
    "is a conversation: apply the model's chat template first, in Python: \"prompt\" is "                    \
    "tok.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True), \"completion\" "    \
    "the last answer (docs/data.md has the line)"
#define ALPACA                                                                                               \
    "is an instruction without its template: write the text that the model is to see as \"prompt\", and "    \
    "\"output\" as \"completion\" (docs/data.md has the line)"
#define PREFERENCE "is a preference, which is not trained: give \"chosen\" as \"completion\""

/* What a field of another form means, and what would work. */
static const struct {
    const char *field, *means;
} others[] = {
    {"messages", CHAT},
    {"conversations", CHAT},
    {"conversation", CHAT},
    {"instruction", ALPACA},
    {"output", ALPACA},
    {"chosen", PREFERENCE},
    {"rejected", PREFERENCE},
    {"text", "is a text without a prompt: {\"prompt\": \"\", \"completion\": \"…\"} trains on all of it"},
    {"response", "is a completion of another name: call it \"completion\""},
    {"answer", "is a completion of another name: call it \"completion\""},
    {"question", "is a prompt of another name: call it \"prompt\""},
    {"attention_mask",
     "is not read, as samples are padded here: leave it out (jq -c '{ids: .input_ids, labels}')"},
    {"completion_mask", "is not read: give \"labels\", with -100 where nothing is to be learned"},
};

enum { PROMPT, COMPLETION, IDS, LABELS, FIELDS };
static const char *const fields[FIELDS] = {"prompt", "completion", "ids", "labels"};

/* "ids" is "input_ids" in Python. */
static int field_of(const char *key)
{
    for (int i = 0; i < FIELDS; i++)
        if (!strcmp(key, fields[i]))
            return i;
    return !strcmp(key, "input_ids") ? IDS : -1;
}

static int unknown_field(const PairsReading *r, const char *key)
{
    ShownText name = shown(key, strlen(key));
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!strcmp(key, others[i].field))
            return pairs_refuse(r, "has a field %s, which %s", name.text, others[i].means);
    return pairs_refuse(r,
                        "has a field %s, which is not read: leave it out (jq -c '{prompt, completion}' FILE "
                        "writes these two alone)",
                        name.text);
}

static const char *type_of(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",  [JSON_STRING] = "a text",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a number", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null"};
    return names[json_typeof(value)];
}

/* Of messages with roles, as of a conversation. */
static int is_chat(const json_t *value)
{
    return json_is_array(value) && (json_is_object(json_array_get(value, 0)) || !json_array_size(value));
}

static int take_field(const PairsReading *r, const char *key, const json_t *value,
                      const json_t *taken[FIELDS])
{
    int field = field_of(key), text = field == PROMPT || field == COMPLETION;
    if (field < 0)
        return unknown_field(r, key);
    if (taken[field])
        return pairs_refuse(r, "has both \"ids\" and \"input_ids\": they say the same thing twice");
    if (text && is_chat(value))
        return pairs_refuse(r, "has a field \"%s\" that " CHAT, key);
    if (text ? !json_is_string(value) : !json_is_array(value))
        return pairs_refuse(r, "has %s as \"%s\", which must be %s", type_of(value), key,
                            text ? "a text" : "a list of whole numbers");
    taken[field] = value;
    return ERROR_NONE;
}

/* Which of the two forms it is. */
static int check_fields(const PairsReading *r, const json_t *const taken[FIELDS])
{
    int text = taken[PROMPT] || taken[COMPLETION], ids = taken[IDS] || taken[LABELS];
    if (text && ids)
        return pairs_refuse(r, "has \"%s\" and \"%s\": a sample is either texts or ids",
                            taken[PROMPT] ? "prompt" : "completion", taken[IDS] ? "ids" : "labels");
    if (!text && !ids)
        return pairs_refuse(r, "has neither \"prompt\" and \"completion\" nor \"ids\"");
    if (text && !taken[COMPLETION])
        return pairs_refuse(r,
                            "has a \"prompt\" and no \"completion\", so there is nothing to learn from it");
    if (text && !taken[PROMPT])
        return pairs_refuse(
            r, "has a \"completion\" and no \"prompt\": \"prompt\": \"\" says that nothing stands before it");
    if (ids && !taken[IDS])
        return pairs_refuse(r, "has \"labels\" and no \"ids\"");
    return ERROR_NONE;
}

/* ---- Samples --------------------------------------------------------------------------------- */

static int no_memory(const PairsReading *r)
{
    return error_raise(ERROR_HOST_MEMORY, PAIRS_MAKER "(): no host memory for the samples of %s", r->shown);
}

static int check_ids(const PairsReading *r, const int32_t *ids, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (ids[i] >= r->vocab)
            return pairs_refuse(r,
                                "has id %d at token %" PRId64 "; the vocabulary has %" PRId64
                                ": give the --tokenizer of these ids, or --vocab as large as theirs",
                                ids[i], i, r->vocab);
    return ERROR_NONE;
}

/* The line's tokens, followed by its labels where it has its own. */
static int add_sample(PairsReading *r, PairSample sample)
{
    if (r->count == r->room) {
        int64_t room = r->room ? 2 * r->room : 64;
        PairSample *samples = memtrack_host_realloc(r->tracker, r->samples, (size_t)r->room * sizeof *samples,
                                                    (size_t)room * sizeof *samples);
        if (!samples)
            return no_memory(r);
        r->samples = samples;
        r->room = room;
    }
    sample.at = (int64_t)r->ids.count;
    sample.line = r->line < UINT32_MAX ? (uint32_t)r->line : UINT32_MAX;
    if (r->keep && ids_add_all(r->context, &r->ids, r->whole.ids, r->whole.count))
        return error_code();
    r->samples[r->count++] = sample;
    return ERROR_NONE;
}

/* ---- Texts ----------------------------------------------------------------------------------- */

/* Whether the ids from `at` on begin, or as a whole end, with these. */
static int begins(const TokenIds *ids, size_t at, const TokenIds *with)
{
    return ids->count - at >= with->count &&
           !memcmp(ids->ids + at, with->ids, with->count * sizeof *with->ids);
}

static int ends(const TokenIds *ids, const TokenIds *with)
{
    return ids->count >= with->count && begins(ids, ids->count - with->count, with);
}

static int ends_with(const json_t *text, Span with)
{
    size_t length = json_string_length(text);
    return length >= with.length &&
           !memcmp(json_string_value(text) + length - with.length, with.text, with.length);
}

static int encode_bytes(PairsReading *r)
{
    int32_t ids[512];
    enum { SOME = sizeof ids / sizeof ids[0] };
    for (size_t at = 0, count; at < r->text.bytes; at += count) {
        count = r->text.bytes - at < SOME ? r->text.bytes - at : SOME;
        for (size_t i = 0; i < count; i++)
            ids[i] = (unsigned char)r->text.text[at + i];
        if (ids_add_all(r->context, &r->whole, ids, count))
            return error_code();
    }
    return ERROR_NONE;
}

/* Prompt and completion as one text, with what the tokenizer puts around a text, unless it stands there. The
 * tokens of the prompt are those that it has alone, too: *same of them. Fewer than it has alone, where its
 * last one reaches into the completion. */
static int encode_text(PairsReading *r, const json_t *prompt, size_t *same, uint8_t *reaching)
{
    Tokenizer *t = r->tokenizer;
    const TokenIds *before = &t->before, *after = &t->after;
    size_t begin = before->count, prompt_bytes = json_string_length(prompt);
    if (ids_add_all(r->context, &r->whole, before->ids, before->count) ||
        tokenizer_encode(t, r->text.text, r->text.bytes, 0, &r->whole) ||
        tokenizer_encode(t, json_string_value(prompt), prompt_bytes, 0, &r->prompt))
        return error_code();
    if (begin && begins(&r->whole, begin, before)) { /* as a chat template writes it */
        r->whole.count -= begin;
        memmove(r->whole.ids, r->whole.ids + begin, r->whole.count * sizeof *r->whole.ids);
        begin = 0;
    }
    if (after->count && !ends(&r->whole, after) &&
        ids_add_all(r->context, &r->whole, after->ids, after->count))
        return error_code();
    size_t most = r->prompt.count < r->whole.count - begin ? r->prompt.count : r->whole.count - begin, i = 0;
    while (i < most && r->prompt.ids[i] == r->whole.ids[begin + i])
        i++;
    *same = begin + i;
    *reaching = i < r->prompt.count;
    return ERROR_NONE;
}

static int take_texts(PairsReading *r, const json_t *prompt, const json_t *completion)
{
    size_t same = json_string_length(prompt);
    uint8_t reaching = 0;
    int end = r->eos.length && !ends_with(completion, r->eos);
    if (text_add(r->context, &r->text, json_string_value(prompt), same) ||
        text_add(r->context, &r->text, json_string_value(completion), json_string_length(completion)) ||
        (end && text_add(r->context, &r->text, r->eos.text, r->eos.length)))
        return error_code();
    if (r->tokenizer ? encode_text(r, prompt, &same, &reaching) : encode_bytes(r))
        return error_code();
    int32_t tokens = (int32_t)r->whole.count, first = same ? (int32_t)same : 1;
    if (first >= tokens && !json_string_length(completion))
        return pairs_refuse(r, "has an empty \"completion\", so there is nothing to learn from it");
    if (first >= tokens)
        return pairs_refuse(r, "has %d token%s and none to predict: a sample needs one that follows another",
                            tokens, plural(tokens));
    if (check_ids(r, r->whole.ids, tokens))
        return error_code();
    return add_sample(r, (PairSample){.tokens = tokens, .first = first, .reaching = reaching, .texts = 1});
}

/* ---- Ids ------------------------------------------------------------------------------------- */

/* Appends a list of whole numbers, those of 0 to vocab - 1, and BATCH_IGNORE where it is one of labels. */
static int take_list(PairsReading *r, const json_t *list, const char *name, int labels)
{
    size_t count = json_array_size(list);
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(list, i);
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value))
            return pairs_refuse(r, "has %s as %s[%zu], which must be a whole number", type_of(value), name,
                                i);
        if (!(labels && id == BATCH_IGNORE) && (id < 0 || id >= r->vocab))
            return pairs_refuse(
                r,
                "has %lld as %s[%zu]; the vocabulary has %" PRId64 ", so it must be 0 to %" PRId64
                "%s: give the --tokenizer of these ids, or --vocab as large as theirs",
                (long long)id, name, i, r->vocab, r->vocab - 1, labels ? ", or -100 for none" : "");
        if (ids_add(r->context, &r->whole, (int32_t)id))
            return error_code();
    }
    return ERROR_NONE;
}

/* The first label is never used: nothing stands before the first token. */
static int32_t first_label(const int32_t *labels, int32_t count)
{
    int32_t i = 1;
    while (i < count && labels[i] == BATCH_IGNORE)
        i++;
    return i;
}

static int take_ids(PairsReading *r, const json_t *ids, const json_t *labels)
{
    size_t count = json_array_size(ids);
    if (labels && json_array_size(labels) != count)
        return pairs_refuse(
            r, "has %zu ids and %zu labels: each id has one, -100 where nothing is to be learned", count,
            json_array_size(labels));
    if (count < 2)
        return pairs_refuse(r, "has %zu id%s: a sample needs two, one that follows another", count,
                            plural((long long)count));
    if (take_list(r, ids, "ids", 0) || (labels && take_list(r, labels, "labels", 1)))
        return error_code();
    PairSample sample = {.tokens = (int32_t)count, .first = 1, .own_labels = labels != NULL};
    if (labels)
        sample.first = first_label(r->whole.ids + count, sample.tokens);
    if (sample.first == sample.tokens)
        return pairs_refuse(r, "has no label that counts: all behind the first are -100");
    return add_sample(r, sample);
}

/* ---- A line ---------------------------------------------------------------------------------- */

static int not_utf8(const PairsReading *r, const char *line, size_t bytes)
{
    int64_t first;
    utf8_invalid(line, bytes, &first);
    return pairs_refuse(r,
                        "is not UTF-8 at byte %" PRId64
                        " (0x%02X): convert the file (iconv -f LATIN1 -t UTF-8, "
                        "if it is Latin-1), or add --invalid-utf8 replace to put U+FFFD in its place",
                        first, (unsigned char)line[first]);
}

static int not_json(const PairsReading *r, const char *line, size_t bytes, const json_error_t *error)
{
    size_t at = 0, end = bytes;
    while (at < bytes && (line[at] == ' ' || line[at] == '\t'))
        at++;
    while (end > at && (line[end - 1] == ' ' || line[end - 1] == '\r'))
        end--;
    if (line[at] == '[')
        return pairs_refuse(
            r, "begins a list; one object a line is read: jq -c '.[]' FILE > FILE.jsonl writes it so");
    if (error->line < 0 || json_error_code(error) == json_error_out_of_memory)
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory to read line %" PRId64, r->shown, r->line);
    if (end - at == 1 && line[at] == '{')
        return pairs_refuse(r, "is not a whole object; one object a line is read: jq -c . FILE > FILE.jsonl "
                               "writes it so");
    if (!utf8_valid(line, bytes))
        return not_utf8(r, line, bytes);
    return pairs_refuse(r, "is not JSON: %s at character %d; one object a line is read",
                        shown(error->text, strlen(error->text)).text, error->column);
}

static int take_object(PairsReading *r, const json_t *object)
{
    const json_t *taken[FIELDS] = {0};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (take_field(r, key, value, taken))
            return error_code();
    }
    if (check_fields(r, taken))
        return error_code();
    return taken[IDS] ? take_ids(r, taken[IDS], taken[LABELS])
                      : take_texts(r, taken[PROMPT], taken[COMPLETION]);
}

int pairs_line(PairsReading *r, const char *line, size_t bytes)
{
    json_error_t error = {.line = -1};
    r->whole.count = r->prompt.count = 0;
    r->text.bytes = r->repaired.bytes = 0;
    if (r->replace_invalid && !utf8_valid(line, bytes)) {
        if (utf8_repair(r->context, &r->repaired, line, bytes))
            return error_code();
        line = r->repaired.text;
        bytes = r->repaired.bytes;
    }
    json_t *object = json_loadb(line, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    int status = json_is_object(object) ? take_object(r, object) : not_json(r, line, bytes, &error);
    json_decref(object);
    return status;
}
