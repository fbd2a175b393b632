/* A prompt continued: read in chunks, then one token after the other. Every forward is a segment of the run
 * and of one of few kinds, so that a plan needs to run each kind once, whatever is written. */
#include <limits.h>
#include <string.h>

#include "../base/plural_.h"
#include "module_.h"
#include "sample.h"

enum { PREFILL = 512 };

typedef struct Writer {
    Module *model;
    const GenerateOptions *o;
    KvCache *cache;
    int batch, context, chunk, meta;
    int32_t *history;  /* (B,prompt_tokens + tokens) */
    int32_t *ids;      /* of one forward: (B,chunk) at most */
    int32_t *next;     /* (B) */
    int length, width; /* tokens in the history, and its room */
    int ended;         /* sequences that have; theirs is next[b] = -1 */
    uint64_t read;     /* a hash of all tokens that forwards have read */
} Writer;

/* ---- Forwards -------------------------------------------------------------------------------- */

static uint64_t with_tokens(uint64_t hash, const int32_t *tokens, int count)
{
    for (int i = 0; i < count; i++)
        hash = hash * 0x100000001B3u + (uint64_t)tokens[i] + 1;
    return hash;
}

/* Ranks that compute a layer together read the same tokens, each the rows of the embedding that it has, and
 * draw the same, from the same logits and the same seed: had one others, they would write different texts. */
static void compare_drawn(const Writer *w)
{
    uint64_t word = w->meta ? 0 : with_tokens(w->read, w->next, w->batch);
    ranks_same_(context_here(), word, "read or drawn other tokens");
}

/* Tokens [from, from + count) of the history, with `next` drawn from the last one's logits if wanted. */
static void forward(Writer *w, int from, int count, int wanted)
{
    tensor_no_grad_begin();
    int scope = tensor_scope_begin();
    for (int b = 0; b < w->batch; b++)
        memcpy(w->ids + (int64_t)b * count, w->history + (int64_t)b * w->width + from,
               (size_t)count * sizeof *w->ids);
    if (!w->meta)
        w->read = with_tokens(w->read, w->ids, w->batch * count);
    Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(w->batch, count), MEM_INPUT, w->ids)};
    Tensor *logits = batch.ids ? nn_forward_next(w->model, &batch, w->cache) : NULL; /* (B,V) */
    if (wanted && nn_sample(logits, &w->o->sample, w->length, w->next) == 0)
        compare_drawn(w);
    tensor_scope_end(scope);
    tensor_no_grad_end();
}

/* Reads tokens [from, from + count), a chunk at a time. On meta a full chunk and what is left over stand for
 * all. */
static void read_tokens(Writer *w, int from, int count)
{
    int rest = count % w->chunk, end = from + count;
    module_cache_whole(w->cache, nn_kv_cache_tokens(w->cache) + count);
    for (int at = from, chunk; at < end && !error_code(); at += chunk) {
        if (w->meta && at > from && end - at > w->chunk)
            at = end - (rest ? rest : w->chunk);
        chunk = end - at < w->chunk ? end - at : w->chunk;
        forward(w, at, chunk, at + chunk == end);
    }
    module_cache_whole(w->cache, 0);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static int is_stop(const GenerateOptions *o, int32_t token)
{
    for (int i = 0; i < o->stops; i++)
        if (o->stop[i] == token)
            return 1;
    return 0;
}

/* Puts the drawn tokens into the history and tells of them. Non-zero when nothing is left to write. A
 * sequence that has ended is continued with token 0, which nobody sees. */
static int write_tokens(Writer *w, unsigned char *over)
{
    for (int b = 0; b < w->batch; b++) {
        w->history[(int64_t)b * w->width + w->length] = over[b] ? 0 : w->next[b];
        if (over[b]) {
            w->next[b] = -1;
        } else if (is_stop(w->o, w->next[b])) {
            over[b] = 1;
            w->ended++;
        }
    }
    w->length++;
    int stop = w->o->written ? w->o->written(w->o->user, w->next, w->batch) : 0;
    return stop || w->ended == w->batch;
}

/* The last `kept` tokens, into an empty cache. */
static void read_again(Writer *w, int kept)
{
    nn_kv_cache_truncate(w->cache, 0);
    read_tokens(w, w->length - kept, kept);
}

/* A cache that is full is refilled with the newer half of what it held. */
static int refilled(const Writer *w)
{
    return w->context / 2 > 1 ? w->context / 2 : 1;
}

static void write_all(Writer *w, unsigned char *over)
{
    read_tokens(w, 0, w->o->prompt_tokens);
    for (int left = w->o->tokens; !error_code(); left--) {
        if (write_tokens(w, over) || left == 1)
            return;
        int held = nn_kv_cache_tokens(w->cache);
        if (held == w->context)
            read_again(w, refilled(w));
        else if (held == module_cache_turn(w->cache)) /* what it holds would be somewhere else now */
            read_again(w, held + 1);
        else
            forward(w, w->length - 1, 1, 1);
    }
}

/* One of each kind. */
static void write_on_meta(Writer *w)
{
    read_tokens(w, 0, w->o->prompt_tokens);
    if (w->o->tokens == 1)
        return;
    int most = w->width - 1 < w->context ? w->width - 1 : w->context;
    module_cache_pretend(w->cache, most - 1); /* the last one, whose position is the furthest */
    forward(w, w->length - 1, 1, 1);
    int full = w->width - 1 > w->context, turn = module_cache_turn(w->cache);
    if (full) {
        w->length = w->context + 1;
        read_again(w, refilled(w));
    }
    if (turn < most && (w->o->prompt_tokens <= turn || (full && refilled(w) <= turn))) {
        w->length = turn + 1;
        read_again(w, turn + 1);
    }
}

/* ---- Around it ------------------------------------------------------------------------------- */

static int check_options(const GenerateOptions *o)
{
    if (!o->prompt || o->prompt_tokens < 1 || o->tokens < 1 || o->tokens > INT_MAX - o->prompt_tokens)
        return error_raise(
            ERROR_ARGUMENT,
            "nn_generate(): a prompt of %d token%s and %d to write; both are 1 or more, together at most %d",
            o->prompt ? o->prompt_tokens : 0, plural(o->prompt ? o->prompt_tokens : 0), o->tokens, INT_MAX);
    if (o->batch < 0 || o->context < 0 || o->prefill < 0 || o->stops < 0 || (o->stops && !o->stop))
        return error_raise(ERROR_ARGUMENT,
                           "nn_generate(): batch %d, context %d, prefill %d, stops %d; none is below 0",
                           o->batch, o->context, o->prefill, o->stops);
    if (o->context && o->prompt_tokens > o->context)
        return error_raise(ERROR_ARGUMENT,
                           "nn_generate(): a prompt of %d token%s is longer than the context of %d",
                           o->prompt_tokens, plural(o->prompt_tokens), o->context);
    return 0;
}

static int run_writer(Writer *w)
{
    const GenerateOptions *o = w->o;
    tensor_no_grad_begin();
    w->cache = nn_kv_cache_of(w->model, &(KvCacheOptions){w->batch, w->context, w->o->cached});
    tensor_no_grad_end();
    int64_t history = (int64_t)w->batch * w->width, ids = (int64_t)w->batch * w->chunk;
    size_t bytes = (size_t)(history + ids + w->batch) * sizeof(int32_t) + (size_t)w->batch;
    w->history = w->cache ? host_alloc(bytes) : NULL;
    if (w->history) {
        w->ids = w->history + history;
        w->next = w->ids + ids;
        for (int b = 0; b < w->batch; b++)
            memcpy(w->history + (int64_t)b * w->width, o->prompt,
                   (size_t)o->prompt_tokens * sizeof *o->prompt);
        w->length = o->prompt_tokens;
        if (context_here()->meta)
            write_on_meta(w);
        else
            write_all(w, (unsigned char *)(w->next + w->batch));
    }
    if (w->history)
        host_free(context_here(), w->history, bytes);
    tensor_no_grad_begin();
    nn_kv_cache_free(w->cache);
    tensor_no_grad_end();
    return error_code();
}

int nn_generate(Module *model, const GenerateOptions *options)
{
    Context *context = context_here();
    if (!model || !options || !context || error_code())
        return error_code();
    const GenerateOptions *o = options;
    if (check_options(o))
        return error_code();
    Writer w = {.model = model, .o = o, .batch = o->batch ? o->batch : 1, .meta = context->meta};
    w.width = o->prompt_tokens + o->tokens;
    w.context = o->context ? o->context : w.width - 1;
    w.chunk = o->prefill ? o->prefill : PREFILL;
    w.chunk = w.chunk < w.context ? w.chunk : w.context;
    module_write(model, 1);
    run_writer(&w);
    module_write(model, -1);
    return error_code();
}
