/* Token ids as a dataset: a .bin of them, mapped, or a text that a tokenizer turns into ids once. What a
 * sequence is, which are held out, what is masked: as text.c does it. */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "../text/tokenizer_.h"
#include "ids_.h"
#include "loader_.h"

#define MAKER "data_tokens"

/* Ids, and which file they are of; shared by the loaders of both parts. */
typedef struct TokenSource {
    int holders;
    struct stat status;     /* of the file: the same file is not made into ids twice */
    const TextInput *input; /* or the text that was read before */
    const uint8_t *mapped;  /* a .bin */
    uint64_t mapped_bytes;
    int64_t skip;  /* a header before its ids */
    TokenText ids; /* or a text's ids, as the bytes of a .bin */
    int width;
    int64_t count;
    char name[FILE_LABEL];
    TextNote note;
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
    host_free(context, set->known, (size_t)set->vocab * sizeof *set->known);
    host_free(context, set, sizeof *set);
}

static const DatasetKind plain_tokens = {text_fill_plain, tokens_destroy};
static const DatasetKind masked_tokens = {text_fill_masked, tokens_destroy};

const char *token_source_name(const TokenSource *source)
{
    return source ? source->name : "";
}

static int is_meta(void)
{
    return context_here()->meta;
}

/* ---- A .bin ---------------------------------------------------------------------------------- */

/* What is in the file, and where; fills width, skip and count. */
static int look_at_bin(TokenSource *source, const char *path, int file, int64_t bytes, const TokenOptions *o,
                       IdsForm *form)
{
    *form = (IdsForm){.bytes = bytes, .width = source->width};
    if (ids_recognise(path, source->name, file, (uint64_t)o->vocab, o->width != 0, form, &source->note))
        return error_code();
    int64_t length = bytes - form->skip;
    if (length % form->width)
        return error_raise(ERROR_DATA,
                           "%s has %" PRId64
                           " byte%s, which is not a whole number of ids of %d bytes; is it a "
                           ".bin of token ids, and of this vocabulary?",
                           path, length, plural(length), form->width);
    source->width = form->width;
    source->skip = form->skip;
    source->count = length / form->width;
    return ERROR_NONE;
}

static int map_bin(TokenSource *source, const char *path, int file, int64_t bytes, const TokenOptions *o)
{
    IdsForm form;
    if (look_at_bin(source, path, file, bytes, o, &form))
        return error_code();
    if (is_meta() || !bytes)
        return ERROR_NONE;
    if (o->split == DATA_TRAIN && ids_check(source->name, file, &form, o->vocab, 0, NULL, NULL))
        return error_code();
    source->mapped = memtrack_map_file(file, (size_t)bytes);
    source->mapped_bytes = (uint64_t)bytes;
    if (source->mapped)
        return ERROR_NONE;
    ErrorCode code = errno == ENOMEM ? ERROR_HOST_MEMORY : ERROR_FILE;
    return error_raise(code, "%s: cannot map it: %s", path, strerror(errno));
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

static int encode_text(TokenSource *source, const char *path, const TokenOptions *o)
{
    Context *context = context_here();
    TokenIds ids = {0};
    if (!o->input && !text_is_readable_twice(path))
        return error_code();
    TextInput *owned = o->input ? NULL : text_input_open(path, context->tracker);
    const TextInput *in = o->input ? o->input : owned;
    int status = in ? tokenizer_encode_input(o->tokenizer, in, o->replace_invalid, 0, &ids) : error_code();
    if (!status)
        source->note = text_input_note(in, 0);
    text_input_free(owned);
    status = status ? status : pack_ids(context, source, &ids);
    tokenizer_ids_free(o->tokenizer, &ids);
    return status;
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
    if (o->tokenizer) {
        if (!o->input && stat(path, &source->status))
            source->status = (struct stat){0};
        return encode_text(source, path, o);
    }
    int file = file_open(path, &bytes);
    if (file < 0)
        return error_code();
    int status = map_bin(source, path, file, bytes, o);
    close(file);
    return status;
}

/* What is expected, where the caller does not say. */
static int bin_width(const TokenOptions *o)
{
    return o->width ? o->width : o->vocab > 65536 ? 4 : 2;
}

/* The caller's share. */
static TokenSource *get_source(const char *path, const TokenOptions *o)
{
    TokenSource *known = o->tokenizer ? o->tokenizer->source : NULL;
    struct stat status;
    int same = known && known->width == o->width &&
               (o->input ? known->input == o->input
                         : !known->input && !stat(path, &status) && S_ISREG(status.st_mode) &&
                               file_same_version(&status, &known->status));
    if (same) {
        known->holders++;
        return known;
    }
    TokenSource *source = host_alloc_for(MAKER, "the tokens' header", sizeof *source);
    if (!source)
        return NULL;
    *source = (TokenSource){.holders = 1, .width = bin_width(o), .input = o->input};
    path_label(source->name, path);
    if (fill_source(source, path, o)) {
        token_source_release(context_here(), source);
        return NULL;
    }
    if (o->tokenizer && (o->input || source->status.st_size)) {
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
                               "masked language modelling needs [CLS], [SEP] and [MASK]; the tokenizer has "
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
    if (o->tokenizer)
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

/* A vocabulary may be larger than the tokenizer's, and a tokenizer's have gaps: random replacements are drawn
 * from ids that tokens have. */
static int know_tokens(TextSet *set, const Tokenizer *tokenizer)
{
    int64_t own = tokenizer_vocab(tokenizer), count = 0;
    for (int64_t i = 0; i < own; i++)
        count += tokenizer_token(tokenizer, i) != NULL;
    set->vocab = count;
    if (count == own)
        return ERROR_NONE;
    if (!(set->known = host_alloc_for(MAKER, "the list of tokens", (size_t)count * sizeof *set->known)))
        return ERROR_HOST_MEMORY;
    for (int64_t i = 0, at = 0; i < own; i++)
        if (tokenizer_token(tokenizer, i))
            set->known[at++] = (int32_t)i;
    return ERROR_NONE;
}

static Loader *tokens_loader(TokenSource *source, const TokenOptions *o, const TextCut *cut)
{
    TextSet *set = host_alloc_for(MAKER, "the tokens' header", sizeof *set);
    if (!set)
        return NULL;
    const void *ids = source->mapped ? (const void *)(source->mapped + source->skip) : source->ids.text;
    *set = (TextSet){.tokens = ids ? (const char *)ids + cut->first * cut->stride * source->width : NULL,
                     .width = source->width,
                     .first = cut->first,
                     .stride = cut->stride,
                     .seq = o->seq,
                     .mask_probability = o->mask_probability,
                     .limit = source->mapped ? o->vocab : 0,
                     .vocab = o->vocab,
                     .cls = o->cls,
                     .sep = o->sep,
                     .mask = o->mask,
                     .source = source};
    source->holders++;
    if (o->mask_probability > 0 && o->tokenizer && know_tokens(set, o->tokenizer)) {
        tokens_destroy(context_here(), set);
        return NULL;
    }
    LoaderSetup setup = {.maker = MAKER,
                         .kind = o->mask_probability > 0 ? &masked_tokens : &plain_tokens,
                         .samples = cut->samples,
                         .classes = o->vocab,
                         .note = source->note,
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
    return error_raise(ERROR_DATA, "%s has no tokens (it is empty, or the tokenizer knows nothing of it)",
                       path);
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

int data_check_tokens(const char *path, const TokenOptions *options, DataProgress *progress, void *user)
{
    TokenOptions o = options ? *options : (TokenOptions){0};
    IdsForm form;
    int64_t bytes;
    o.tokenizer = NULL;
    o.mask_probability = 0;
    if (!context_here() || tokens_options(&o))
        return error_code();
    TokenSource source = {.width = bin_width(&o)};
    path_label(source.name, path ? path : "");
    int file = path ? file_open(path, &bytes) : -1;
    if (!path)
        return error_raise(ERROR_ARGUMENT, MAKER ": path is NULL; name a .bin of token ids");
    if (file < 0)
        return error_code();
    int status = look_at_bin(&source, path, file, bytes, &o, &form);
    status = status ? status : ids_check(source.name, file, &form, o.vocab, 1, progress, user);
    close(file);
    return status;
}
