/* A tokenizer's life, and a text's way through it: added tokens, normalizers, added tokens again, cuts,
 * model. */
#include "input_.h"
#include "tokenizer_.h"

enum { CHUNK = 64 << 10 };

/* ---- Life ------------------------------------------------------------------------------------ */

/* Small blocks share chunks: a vocabulary has a hundred thousand of them. */
void *keep(Tokenizer *t, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    size_t head = (sizeof(Kept) + 15) & ~(size_t)15;
    Kept *chunk = t->kept;
    if (!chunk || chunk->bytes - chunk->used < bytes) {
        size_t room = head + (bytes > CHUNK / 4 ? bytes : CHUNK);
        chunk = memtrack_host_calloc(t->context->tracker, room);
        if (!chunk) {
            error_raise(ERROR_HOST_MEMORY, "tokenizer_read(): no host memory for %zu bytes", room);
            return NULL;
        }
        *chunk = (Kept){.bytes = room, .used = head};
        if (t->kept && bytes > CHUNK / 4) { /* what is left of the chunk before is still of use */
            chunk->next = t->kept->next;
            t->kept->next = chunk;
        } else {
            chunk->next = t->kept;
            t->kept = chunk;
        }
    }
    void *block = (char *)chunk + chunk->used;
    chunk->used += bytes;
    return block;
}

Span keep_text(Tokenizer *t, const char *text, size_t length)
{
    char *copy = keep(t, length + 1);
    if (copy)
        memcpy(copy, text, length);
    return (Span){copy, copy ? length : 0};
}

static void free_scratch(Tokenizer *t)
{
    MemTracker *tracker = t->context->tracker;
    for (int i = 0; i < MOST_STEPS; i++)
        text_free(t->context, &t->splits[i].text);
    for (int i = 0; i < 2; i++) {
        text_free(t->context, &t->normal[i]);
        text_free(t->context, &t->parts[i]);
        memtrack_host_free(tracker, t->ends[i], t->end_room[i] * sizeof *t->ends[i]);
    }
    text_free(t->context, &t->repaired);
    text_free(t->context, &t->word);
    memtrack_host_free(tracker, t->symbols, t->symbol_room * sizeof *t->symbols);
    memtrack_host_free(tracker, t->heap, t->heap_room * sizeof *t->heap);
    memtrack_host_free(tracker, t->arrivals, t->arrival_room * sizeof *t->arrivals);
}

static void tokenizer_destroy(ScopeItem *item)
{
    Tokenizer *t = (Tokenizer *)item;
    Context *context = t->context;
    for (int i = 0; i < MOST_STEPS; i++) {
        pattern_free(t->normals[i].finder.pattern);
        pattern_free(t->splits[i].finder.pattern);
        pattern_free(t->decodes[i].finder.pattern);
    }
    free_scratch(t);
    token_source_release(context, t->source);
    ids_free(context, &t->before);
    ids_free(context, &t->after);
    for (int i = 0; i < PAIR_PLACES; i++)
        ids_free(context, &t->pair.ids[i]);
    for (Kept *next; t->kept; t->kept = next) {
        next = t->kept->next;
        memtrack_host_free(context->tracker, t->kept, t->kept->bytes);
    }
    host_free(context, t, sizeof *t);
}

Tokenizer *tokenizer_create(void)
{
    Context *context = context_here();
    Tokenizer *t = context ? host_alloc(sizeof *t) : NULL;
    if (!t)
        return NULL;
    t->context = context;
    scope_adopt(&t->item, tokenizer_destroy);
    t->bpe.unknown = t->wordpiece.unknown = t->unigram.unknown = t->wordlevel.unknown = -1;
    t->cache = keep(t, CACHE_SLOTS * sizeof *t->cache);
    if (t->cache)
        return t;
    tokenizer_free(t);
    return NULL;
}

void tokenizer_free(Tokenizer *t)
{
    if (!t)
        return;
    scope_release(&t->item);
    tokenizer_destroy(&t->item);
}

/* ---- Encoding -------------------------------------------------------------------------------- */

typedef int (*PieceWork)(Tokenizer *t, Span piece, size_t origin);

/* The added tokens of a set become ids; what lies between goes on. */
static int between_added(Tokenizer *t, const AddedSet *set, Span text, size_t origin, PieceWork work)
{
    size_t at = 0, start = 0, end = 0, done = 0;
    while (set->count) {
        const AddedToken *token = added_next(set, text, &at, &start, &end);
        if (!token)
            break;
        if (done < start && work(t, (Span){text.text + done, start - done}, origin_from(origin, done)))
            return error_code();
        if (ids_add(t->context, t->out, token->id))
            return error_code();
        done = end;
    }
    if (done < text.length)
        return work(t, (Span){text.text + done, text.length - done}, origin_from(origin, done));
    return ERROR_NONE;
}

static int cut(Tokenizer *t, Span piece, size_t origin)
{
    return piece.length ? split_piece(t, 0, piece, origin) : ERROR_NONE;
}

static int normalize_and_cut(Tokenizer *t, Span piece, size_t origin)
{
    Span normal;
    if (normalize(t, piece, &origin, &normal))
        return error_code();
    return between_added(t, &t->normal_added, normal, origin, cut);
}

/* What normalizers and patterns may do to one text. */
static void begin_text(Tokenizer *t, size_t bytes)
{
    t->left = text_most(bytes);
    for (int i = 0; i < t->normal_count; i++)
        pattern_begin(t->normals[i].finder.pattern, bytes);
    for (int i = 0; i < t->split_count; i++)
        pattern_begin(t->splits[i].finder.pattern, bytes);
}

int tokenizer_encode(Tokenizer *t, const char *text, size_t bytes, int add_special, TokenIds *out)
{
    if (!t)
        return error_code() ? error_code()
                            : error_raise(ERROR_ARGUMENT, "tokenizer_encode(): the tokenizer is NULL");
    if (!out || (!text && bytes))
        return error_raise(ERROR_ARGUMENT, "tokenizer_encode(): %s is NULL", out ? "text" : "out");
    Span whole = {bytes ? text : "", bytes};
    if (!utf8_valid(whole.text, bytes)) {
        t->repaired.bytes = 0;
        if (utf8_repair(t->context, &t->repaired, text, bytes))
            return error_code();
        whole = (Span){t->repaired.text, t->repaired.bytes};
    }
    t->out = out;
    begin_text(t, whole.length);
    if (add_special && ids_add_all(t->context, out, t->before.ids, t->before.count))
        return error_code();
    size_t first = 0;
    if (whole.length)
        utf8_next(whole.text, &first);
    if (between_added(t, &t->raw_added, whole, first, normalize_and_cut))
        return error_code();
    return add_special ? ids_add_all(t->context, out, t->after.ids, t->after.count) : ERROR_NONE;
}

int tokenizer_encode_input(Tokenizer *t, const TextInput *in, int replace_invalid, int add_special,
                           TokenIds *out)
{
    size_t bytes = 0;
    if (!in)
        return error_raise(ERROR_ARGUMENT, "no text is given");
    const char *text = text_input_text(in, &bytes);
    int status = text_input_check(in, replace_invalid);
    return status ? status : tokenizer_encode(t, text, bytes, add_special, out);
}

int tokenizer_encode_file(Tokenizer *t, const char *path, int add_special, TokenIds *out, int64_t *bytes)
{
    if (!t)
        return tokenizer_encode(t, NULL, 0, 0, out);
    if (!path || !out || !bytes)
        return error_raise(ERROR_ARGUMENT, "tokenizer_encode_file(): %s is NULL",
                           !path  ? "path"
                           : !out ? "out"
                                  : "bytes");
    size_t size = 0;
    TextInput *in = text_input_open(path, t->context->tracker);
    int status = in ? tokenizer_encode_input(t, in, 0, add_special, out) : error_code();
    if (in)
        text_input_text(in, &size);
    *bytes = (int64_t)size;
    text_input_free(in);
    return status;
}

void tokenizer_ids_free(Tokenizer *t, TokenIds *ids)
{
    if (t && ids)
        ids_free(t->context, ids);
}

void tokenizer_text_free(Tokenizer *t, TokenText *text)
{
    if (t && text)
        text_free(t->context, text);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

int64_t tokenizer_vocab(const Tokenizer *t)
{
    return t ? t->vocab.ids : 0;
}

const char *tokenizer_token(const Tokenizer *t, int64_t id)
{
    return t && id >= 0 && id < t->vocab.ids ? t->vocab.entries[id].text : NULL;
}

int32_t tokenizer_id(const Tokenizer *t, const char *token)
{
    if (!t || !token)
        return -1;
    size_t length = strlen(token);
    for (int i = 0; i < t->added_count; i++)
        if (t->added[i].content.length == length && !memcmp(t->added[i].content.text, token, length))
            return t->added[i].id;
    return vocab_find(&t->vocab, token, length);
}

int tokenizer_is_special(const Tokenizer *t, int64_t id)
{
    return t && id >= 0 && id < t->vocab.ids && t->vocab.entries[id].special;
}
