/* Token ids as a dataset: a .bin of them, mapped, or a text that a tokenizer turns into ids once. What a
 * sequence is, which are held out, what is masked: as text.c does it. */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "../text/tokenizer_.h"
#include "loader_.h"

#define MAKER "data_tokens"

/* Ids, and which file they are of; shared by the loaders of both parts. */
typedef struct TokenSource {
    int holders;
    struct stat status; /* of the file: the same file is not made into ids twice */
    const void *mapped; /* a .bin */
    uint64_t mapped_bytes;
    TokenText ids; /* or a text's ids, as the bytes of a .bin */
    int width;
    int64_t count;
} TokenSource;

void token_source_release(Context *context, TokenSource *source)
{
    if (!source || --source->holders)
        return;
    memtrack_unmap_file(source->mapped, source->mapped_bytes);
    text_free(context, &source->ids);
    host_free(context, source, sizeof *source);
}

static void tokens_destroy(Context *context, void *dataset)
{
    TextSet *set = dataset;
    token_source_release(context, set->source);
    host_free(context, set, sizeof *set);
}

static const DatasetKind plain_tokens = {text_fill_plain, tokens_destroy};
static const DatasetKind masked_tokens = {text_fill_masked, tokens_destroy};

static int is_meta(void)
{
    return context_here()->meta;
}

/* ---- A .bin ---------------------------------------------------------------------------------- */

static int map_bin(TokenSource *source, const char *path, int file, int64_t bytes)
{
    if (bytes % source->width)
        return error_raise(ERROR_DATA,
                           MAKER ": %s has %" PRId64
                                 " byte%s, which is no whole number of ids of %d bytes; is it a "
                                 ".bin of token ids, and of this vocabulary?",
                           path, bytes, plural(bytes), source->width);
    source->count = bytes / source->width;
    if (is_meta() || !bytes)
        return ERROR_NONE;
    source->mapped = memtrack_map_file(file, (size_t)bytes);
    source->mapped_bytes = (uint64_t)bytes;
    if (source->mapped)
        return ERROR_NONE;
    ErrorCode code = errno == ENOMEM ? ERROR_HOST_MEMORY : ERROR_FILE;
    return error_raise(code, MAKER ": cannot map %s: %s", path, strerror(errno));
}

/* ---- A text ---------------------------------------------------------------------------------- */

/* As the bytes of a .bin; on meta the count alone. */
static int pack_ids(Context *context, TokenSource *source, const TokenIds *ids)
{
    source->count = (int64_t)ids->count;
    if (host_later(ids->count * (size_t)source->width))
        return ERROR_NONE;
    if (text_reserve(context, &source->ids, ids->count * (size_t)source->width))
        return error_code();
    uint8_t *to = (uint8_t *)source->ids.text;
    for (size_t i = 0; i < ids->count; i++)
        for (int b = 0; b < source->width; b++)
            *to++ = (uint8_t)((uint32_t)ids->ids[i] >> (8 * b));
    source->ids.bytes = ids->count * (size_t)source->width;
    return ERROR_NONE;
}

static int encode_file(TokenSource *source, Tokenizer *tokenizer, const char *path)
{
    Context *context = context_here();
    int64_t bytes = 0;
    TokenIds ids = {0};
    int status = tokenizer_encode_file(tokenizer, path, 0, &ids, &bytes);
    status = status ? status : pack_ids(context, source, &ids);
    tokenizer_ids_free(tokenizer, &ids);
    return status;
}

static int same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* ---- The source ------------------------------------------------------------------------------ */

static int fill_source(TokenSource *source, const char *path, const TokenOptions *o)
{
    int64_t bytes;
    if (is_meta() && o->tokens) { /* a run packs them, from a list of ids that grew as it was filled */
        source->count = o->tokens;
        host_later((size_t)o->tokens * ((size_t)source->width + 2 * sizeof(int32_t)));
        return ERROR_NONE;
    }
    int file = file_open(MAKER, path, &bytes);
    if (file < 0)
        return error_code();
    int status = ERROR_NONE;
    if (fstat(file, &source->status))
        status = error_raise(ERROR_FILE, MAKER ": cannot open %s: %s", path, strerror(errno));
    else
        status = o->tokenizer ? encode_file(source, o->tokenizer, path) : map_bin(source, path, file, bytes);
    close(file);
    return status;
}

/* The caller's share. */
static TokenSource *get_source(const char *path, const TokenOptions *o)
{
    TokenSource *known = o->tokenizer ? o->tokenizer->source : NULL;
    struct stat status;
    if (known && known->width == o->width && !stat(path, &status) && same_file(&status, &known->status)) {
        known->holders++;
        return known;
    }
    TokenSource *source = host_alloc_for(MAKER, "the tokens' header", sizeof *source);
    if (!source)
        return NULL;
    *source = (TokenSource){.holders = 1, .width = o->width};
    if (fill_source(source, path, o)) {
        token_source_release(context_here(), source);
        return NULL;
    }
    if (o->tokenizer && source->status.st_size) {
        token_source_release(o->tokenizer->context, known);
        o->tokenizer->source = source;
        source->holders++;
    }
    return source;
}

/* ---- Options --------------------------------------------------------------------------------- */

/* Masked: the ids around a sequence and in place of what is hidden. */
static int special_ids(TokenOptions *o)
{
    static const char *const names[3][2] = {{"[CLS]", "<s>"}, {"[SEP]", "</s>"}, {"[MASK]", "<mask>"}};
    int32_t *ids[] = {&o->cls, &o->sep, &o->mask};
    int given = o->cls || o->sep || o->mask;
    for (int i = 0; i < 3 && o->tokenizer && !given; i++) {
        *ids[i] = tokenizer_id(o->tokenizer, names[i][0]);
        if (*ids[i] < 0)
            *ids[i] = tokenizer_id(o->tokenizer, names[i][1]);
        if (*ids[i] < 0)
            return error_raise(ERROR_DATA,
                               MAKER
                               ": masked language modelling needs [CLS], [SEP] and [MASK]; the tokenizer has "
                               "neither %s nor %s",
                               names[i][0], names[i][1]);
    }
    for (int i = 0; i < 3; i++)
        if (*ids[i] < 0 || *ids[i] >= o->vocab)
            return error_raise(ERROR_ARGUMENT,
                               MAKER ": cls %d, sep %d and mask %d must be ids of a vocabulary of %" PRId64,
                               o->cls, o->sep, o->mask, o->vocab);
    if (o->cls == o->mask || o->sep == o->mask)
        return error_raise(ERROR_ARGUMENT,
                           MAKER ": mask is %d, and so is %s; masked data need ids of their own", o->mask,
                           o->cls == o->mask ? "cls" : "sep");
    return ERROR_NONE;
}

static int tokens_options(TokenOptions *o)
{
    int64_t own = tokenizer_vocab(o->tokenizer);
    if (o->vocab < 0 || o->vocab > INT32_MAX)
        return error_raise(ERROR_ARGUMENT, MAKER ": vocab is %" PRId64 "; it must be from 1 to %d", o->vocab,
                           INT32_MAX);
    o->vocab = o->vocab ? o->vocab : own;
    if (!o->vocab)
        return error_raise(ERROR_ARGUMENT,
                           MAKER ": vocab is 0; a .bin does not say of which vocabulary its ids are");
    if (o->vocab < own)
        return error_raise(ERROR_ARGUMENT, MAKER ": vocab is %" PRId64 ", the tokenizer's is %" PRId64,
                           o->vocab, own);
    if (o->width != 0 && o->width != 2 && o->width != 4)
        return error_raise(ERROR_ARGUMENT, MAKER ": width is %d; ids have 2 or 4 bytes (0: by vocab)",
                           o->width);
    if (o->tokens < 0)
        return error_raise(ERROR_ARGUMENT,
                           MAKER ": tokens is %" PRId64 "; it must be 1 or more (0: not known)", o->tokens);
    if (!o->width || o->tokenizer)
        o->width = o->vocab > 65536 ? 4 : 2;
    return o->mask_probability > 0 ? special_ids(o) : ERROR_NONE;
}

/* Its ids are kept with it: those of a plan are a count alone, and the books are those of its context. */
static int tokenizer_is_here(const Tokenizer *tokenizer)
{
    if (!tokenizer || tokenizer->context == context_here())
        return 1;
    error_raise(ERROR_STATE, MAKER ": this tokenizer was read in another context; read it here");
    return 0;
}

/* ---- The loader ------------------------------------------------------------------------------ */

static Loader *tokens_loader(TokenSource *source, const TokenOptions *o, const TextCut *cut)
{
    TextSet *set = host_alloc_for(MAKER, "the tokens' header", sizeof *set);
    if (!set)
        return NULL;
    const char *ids = source->mapped ? source->mapped : source->ids.text;
    *set = (TextSet){.tokens = ids ? ids + cut->first * cut->stride * source->width : NULL,
                     .width = source->width,
                     .first = cut->first,
                     .stride = cut->stride,
                     .seq = o->seq,
                     .mask_probability = o->mask_probability,
                     .vocab = o->vocab,
                     .cls = o->cls,
                     .sep = o->sep,
                     .mask = o->mask,
                     .source = source};
    source->holders++;
    LoaderSetup setup = {.maker = MAKER,
                         .kind = o->mask_probability > 0 ? &masked_tokens : &plain_tokens,
                         .samples = cut->samples,
                         .classes = o->vocab,
                         .seq = o->seq,
                         .batch = o->batch,
                         .accumulate = o->accumulate,
                         .seed = o->seed,
                         .shuffle = o->split == DATA_TRAIN,
                         .tokens = source->count};
    return loader_create(&setup, set);
}

static int has_no_tokens(const char *path, const TokenOptions *o, const TokenSource *source)
{
    if (!o->tokenizer || source->count)
        return ERROR_NONE;
    return error_raise(ERROR_DATA,
                       MAKER ": %s has no tokens (it is empty, or the tokenizer knows nothing of it)", path);
}

Loader *data_tokens(const char *path, const TokenOptions *options)
{
    TokenOptions o = options ? *options : (TokenOptions){0};
    if (!context_here())
        return NULL;
    o.seq = o.seq ? o.seq : 128;
    TextOptions same = {.seq = o.seq,
                        .split = o.split,
                        .held_out = o.held_out,
                        .mask_probability = o.mask_probability,
                        .max_samples = o.max_samples};
    if (!text_options_valid(MAKER, path, &same) ||
        !loader_options(MAKER, &o.batch, 8, &o.accumulate, o.max_samples) ||
        !tokenizer_is_here(o.tokenizer) || tokens_options(&o))
        return NULL;
    TokenSource *source = get_source(path, &o);
    if (!source)
        return NULL;
    int masked = o.mask_probability > 0;
    TextCut cut = {.maker = MAKER,
                   .unit = "token",
                   .length = source->count,
                   .stride = masked ? (int64_t)o.seq - 2 : o.seq,
                   .extra = masked ? 0 : 1};
    Loader *loader = has_no_tokens(path, &o, source) || text_cut(path, &same, &cut)
                         ? NULL
                         : tokens_loader(source, &o, &cut);
    token_source_release(context_here(), source);
    return loader;
}
