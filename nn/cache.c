/* The cache of keys and values, and the forward of tokens that continue what it holds. A model's attentions
 * are found once, in the order of its modules; while they run, the batch carries the cache to them. */
#include <inttypes.h>
#include <limits.h>

#include "../base/plural_.h"
#include "module_.h"

typedef struct CacheLayer {
    const Module *attention;
    Tensor *data;   /* (2,B*kv_heads,max_tokens or the window,head_dim), owned by the cache */
    int64_t tokens; /* with those of the forward that runs now */
} CacheLayer;

struct KvCache {
    ScopeItem item;
    const Module *model;
    CacheLayer *layers;
    int layer_count, made; /* made: of their tensors */
    int batch, max_tokens, tokens;
    int window;  /* the smallest of its attentions; 0 = none has one */
    int written; /* tokens that may have been put in since it was empty, forgotten ones too */
    int whole;   /* tokens of the sequence that is read in parts; 0 = those that have been read */
    DType dtype;
};

/* ---- Making ---------------------------------------------------------------------------------- */

/* Attentions in the module and below; -1 after an error. Fills `layers` where it is not NULL. */
static int find_layers(const Module *module, CacheLayer *layers, int count)
{
    int kv_heads, head_dim, window, is = module_attention_cache(module, &kv_heads, &head_dim, &window);
    if (is < 0) {
        error_raise(ERROR_ARGUMENT,
                    "nn_kv_cache(): the attention '%s' looks ahead, so no text can be continued; "
                    "causal models can",
                    module->name ? module->name : module->type->name);
        return -1;
    }
    if (is && layers)
        layers[count].attention = module;
    count += is;
    for (int i = 0; i < module->child_count && count >= 0; i++)
        count = find_layers(module->children[i], layers, count);
    return count;
}

static int make_layer(KvCache *cache, CacheLayer *layer)
{
    MemTracker *tracker = cache->item.context->tracker;
    int kv_heads, head_dim, window, tokens = cache->max_tokens;
    module_attention_cache(layer->attention, &kv_heads, &head_dim, &window);
    if (window && window < tokens)
        tokens = window;
    if (window && (!cache->window || window < cache->window))
        cache->window = window;
    if ((int64_t)cache->batch * kv_heads > INT_MAX)
        return error_raise(ERROR_ARGUMENT,
                           "nn_kv_cache(): a batch of %d with %d key-value heads is too large", cache->batch,
                           kv_heads);
    int path = memtrack_path_set(tracker, layer->attention->path);
    layer->data =
        tensor_new(cache->dtype, SHAPE(2, (int64_t)cache->batch * kv_heads, tokens, head_dim), MEM_KV_CACHE);
    memtrack_path_set(tracker, path);
    if (!layer->data)
        return error_code();
    scope_release(&layer->data->item);
    cache->made++;
    return 0;
}

static void cache_destroy_item(ScopeItem *item)
{
    KvCache *cache = (KvCache *)item;
    while (cache->made > 0)
        tensor_free(cache->layers[--cache->made].data);
    host_free(item->context, cache->layers, (size_t)cache->layer_count * sizeof *cache->layers);
    host_free(item->context, cache, sizeof *cache);
}

KvCache *nn_kv_cache(Module *model, int batch, int max_tokens)
{
    return nn_kv_cache_of(model, &(KvCacheOptions){.batch = batch, .max_tokens = max_tokens});
}

KvCache *nn_kv_cache_of(Module *model, const KvCacheOptions *o)
{
    if (!model || !o || error_code())
        return NULL;
    int batch = o->batch, max_tokens = o->max_tokens;
    if (!dtype_is_float(o->dtype)) {
        error_raise(ERROR_ARGUMENT, "nn_kv_cache(): keys and values are f32, bf16 or f16, not %s",
                    dtype_name(o->dtype));
        return NULL;
    }
    if (batch < 1 || max_tokens < 1) {
        error_raise(ERROR_ARGUMENT, "nn_kv_cache(): a batch of %d and max_tokens of %d; both are 1 or more",
                    batch, max_tokens);
        return NULL;
    }
    int count = find_layers(model, NULL, 0);
    if (count < 1) {
        error_raise(ERROR_ARGUMENT, "nn_kv_cache(): there is no nn_attention in this %s", model->type->name);
        return NULL;
    }
    KvCache *cache = host_alloc(sizeof *cache);
    CacheLayer *layers = cache ? host_alloc((size_t)count * sizeof *layers) : NULL;
    if (!layers) {
        host_free(model->item.context, cache, sizeof *cache);
        return NULL;
    }
    *cache = (KvCache){.model = model, .layers = layers, .layer_count = count};
    cache->batch = batch;
    cache->max_tokens = max_tokens;
    cache->dtype = o->dtype;
    find_layers(model, layers, 0);
    scope_adopt(&cache->item, cache_destroy_item);
    for (int i = 0; i < count; i++)
        if (make_layer(cache, &layers[i])) {
            nn_kv_cache_free(cache);
            return NULL;
        }
    return cache;
}

void nn_kv_cache_free(KvCache *cache)
{
    if (!cache)
        return;
    scope_release(&cache->item);
    cache_destroy_item(&cache->item);
}

int nn_kv_cache_tokens(const KvCache *cache)
{
    return cache ? cache->tokens : 0;
}

int nn_kv_cache_max_tokens(const KvCache *cache)
{
    return cache ? cache->max_tokens : 0;
}

uint64_t nn_kv_cache_bytes(const KvCache *cache)
{
    uint64_t bytes = 0;
    for (int i = 0; cache && i < cache->made; i++)
        bytes += cache->layers[i].data->storage->block.bytes;
    return bytes;
}

void module_cache_pretend(KvCache *cache, int tokens)
{
    cache->tokens = cache->written = tokens;
}

/* Whether a window's attention has let go of what the token after so many sees: of the last `window` that
 * were written it sees all but the first. */
static int has_let_go(const KvCache *cache, int tokens)
{
    return cache->window && cache->written > cache->window && tokens < cache->written - 1;
}

void nn_kv_cache_truncate(KvCache *cache, int tokens)
{
    if (!cache)
        return;
    if (tokens < 0 || tokens > cache->tokens)
        error_raise(ERROR_ARGUMENT, "nn_kv_cache_truncate(): to %d tokens; the cache holds %d", tokens,
                    cache->tokens);
    else if (tokens && has_let_go(cache, tokens))
        error_raise(
            ERROR_STATE,
            "nn_kv_cache_truncate(): to %d of %d tokens, of which attentions with a window of %d have "
            "let go; 0 empties the cache, so that the tokens can be read again",
            tokens, cache->tokens, cache->window);
    else
        cache->tokens = tokens;
    if (!cache->tokens)
        cache->written = 0;
}

void module_cache_whole(KvCache *cache, int tokens)
{
    if (cache)
        cache->whole = tokens;
}

int module_cache_turn(const KvCache *cache)
{
    int turn = INT_MAX;
    for (int i = 0; cache && i < cache->layer_count; i++) {
        int of_layer = module_attention_turn(cache->layers[i].attention);
        turn = of_layer < turn ? of_layer : turn;
    }
    return turn;
}

/* ---- What attention asks --------------------------------------------------------------------- */

int module_past(const Batch *batch)
{
    return batch && batch->cache ? batch->cache->tokens : 0;
}

int module_whole(const Batch *batch, int64_t tokens)
{
    if (!batch || !batch->cache)
        return 0;
    int64_t read = batch->cache->tokens + tokens;
    return read > batch->cache->whole ? (int)read : batch->cache->whole;
}

static int check_recording(void)
{
    return tensor_recording()
               ? error_raise(ERROR_STATE,
                             "nn_forward_cached(): a cache is for writing, not for training: put the call "
                             "between tensor_no_grad_begin and tensor_no_grad_end")
               : 0;
}

Tensor *module_cache_layer(const Batch *batch, const Module *attention, int64_t tokens)
{
    KvCache *cache = batch->cache;
    if (check_recording())
        return NULL;
    for (int i = 0; i < cache->layer_count; i++) {
        CacheLayer *layer = &cache->layers[i];
        if (layer->attention != attention)
            continue;
        if (layer->tokens == cache->tokens) {
            layer->tokens += tokens;
            if (cache->written < layer->tokens)
                cache->written = (int)layer->tokens;
            return layer->data;
        }
        error_raise(ERROR_STATE,
                    "nn_forward_cached(): an attention runs twice in a forward; a cache has room "
                    "for one set of keys and values each");
        return NULL;
    }
    error_raise(ERROR_STATE, "nn_forward_cached(): this attention was added after the cache was made");
    return NULL;
}

/* ---- Forward --------------------------------------------------------------------------------- */

static int check_forward(const Module *model, const Batch *batch, const KvCache *cache)
{
    Shape ids = tensor_shape(batch->ids);
    if (check_recording() || config_no_rows("nn_forward_cached()", "writing with a cache is"))
        return error_code();
    if (cache->model != model)
        return error_raise(ERROR_ARGUMENT, "nn_forward_cached(): the cache was made for another model");
    if (ids.ndim != 2 || ids.dim[0] != cache->batch)
        return error_raise(ERROR_SHAPE, "nn_forward_cached(): ids %s must be (%d,T) for this cache",
                           shape_text(ids).text, cache->batch);
    if (ids.dim[1] > cache->max_tokens - cache->tokens)
        return error_raise(ERROR_ARGUMENT,
                           "nn_forward_cached(): %" PRId64
                           " more token%s after %d do not fit the cache, whose "
                           "max_tokens is %d",
                           ids.dim[1], plural(ids.dim[1]), cache->tokens, cache->max_tokens);
    if (has_let_go(cache, cache->tokens))
        return error_raise(ERROR_STATE,
                           "nn_forward_cached(): an earlier call failed after attentions with a window of %d "
                           "had let go of what the next token sees; nn_kv_cache_truncate(cache, 0), and read "
                           "the tokens again",
                           cache->window);
    return 0;
}

static Tensor *next_forward(Module *model, const Batch *batch)
{
    if (!model->model || !model->model->head.weight) {
        error_raise(
            ERROR_STATE,
            "nn_forward_next(): this %s offers no head (nn_offer_head); causal language models here do",
            model->type->name);
        return NULL;
    }
    Tensor *hidden = module_hidden(model, batch);      /* (B,T,C) */
    Tensor *last = tensor_last(tensor_donate(hidden)); /* (B,C) */
    return module_head(model, tensor_donate(last));
}

static Tensor *forward_cached(Module *model, const Batch *batch, KvCache *cache, int next)
{
    if (!model || !batch || !cache || error_code() || check_forward(model, batch, cache))
        return NULL;
    for (int i = 0; i < cache->layer_count; i++)
        cache->layers[i].tokens = cache->tokens;
    Batch with = *batch;
    with.cache = cache;
    Tensor *logits = next ? next_forward(model, &with) : nn_forward(model, NULL, &with);
    if (logits)
        cache->tokens += (int)tensor_dim(batch->ids, 1);
    return logits;
}

Tensor *nn_forward_cached(Module *model, const Batch *batch, KvCache *cache)
{
    return forward_cached(model, batch, cache, 0);
}

Tensor *nn_forward_next(Module *model, const Batch *batch, KvCache *cache)
{
    return forward_cached(model, batch, cache, 1);
}
