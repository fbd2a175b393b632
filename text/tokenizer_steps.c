/* Normalizers, pre-tokenizers, post-processors and decoders of a tokenizer.json, each flattened into a list
 * of steps. */
#include "tokenizer_.h"

enum { MOST_DEPTH = 8, MOST_GROWING = 4 };

typedef int (*ReadOne)(const Reading *r, const json_t *object, const char *type);

/* A component and where it is: "normalizer", and the list that its Sequence holds. */
typedef struct Component {
    const char *part, *list;
    ReadOne read;
} Component;

static int unsupported(const Reading *r, const char *part, const char *type)
{
    return reading_fail(r, "%s: the type %s is not supported", part, shown(type, strlen(type)).text);
}

/* Absent and null are none. */
static int read_component(const Reading *r, const Component *c, const json_t *object, int depth)
{
    if (!object || json_is_null(object))
        return ERROR_NONE;
    const char *type = json_string_value(json_object_get(object, "type"));
    if (!type)
        return reading_fail(r, "%s must be an object with a type", c->part);
    if (strcmp(type, "Sequence"))
        return c->read(r, object, type);
    const json_t *list = json_object_get(object, c->list), *item;
    size_t i;
    if (!json_is_array(list))
        return reading_fail(r, "%s: a Sequence must have a list %s", c->part, c->list);
    if (depth == MOST_DEPTH)
        return reading_fail(r, "%s: sequences in sequences, more than %d deep", c->part, MOST_DEPTH);
    json_array_foreach(list, i, item)
    {
        if (read_component(r, c, item, depth + 1))
            return error_code();
    }
    return ERROR_NONE;
}

static int too_many(const Reading *r, const char *part)
{
    return reading_fail(r, "%s: more than %d steps", part, MOST_STEPS);
}

/* {"String": "…"} or {"Regex": "…"}. */
static int read_pattern(const Reading *r, const json_t *object, const char *part, Finder *out)
{
    const json_t *pattern = json_object_get(object, "pattern"), *regex = json_object_get(pattern, "Regex");
    char where[160];
    if (json_is_string(regex)) {
        snprintf(where, sizeof where, "%s: %s", r->file, part);
        Span text = reading_span(r, json_string_value(regex), json_string_length(regex));
        if (!text.text)
            return error_code();
        out->pattern = pattern_create(r->tokenizer->context, where, text.text, text.length);
        return out->pattern ? ERROR_NONE : error_code();
    }
    int found = reading_text(r, pattern, part, "String", &out->literal);
    if (found == 0)
        reading_fail(r, "%s: a pattern must be {\"String\": …} or {\"Regex\": …}", part);
    return found == 1 ? ERROR_NONE : error_code();
}

static int required_text(const Reading *r, const json_t *object, const char *part, const char *name,
                         Span *out)
{
    int found = reading_text(r, object, part, name, out);
    if (found == 0)
        reading_fail(r, "%s: %s is missing", part, name);
    return found == 1 ? ERROR_NONE : error_code();
}

/* ---- Normalizers ----------------------------------------------------------------------------- */

static NormalStep *add_normal(const Reading *r, NormalKind kind)
{
    Tokenizer *t = r->tokenizer;
    if (t->normal_count == MOST_STEPS) {
        too_many(r, "normalizer");
        return NULL;
    }
    t->normals[t->normal_count] = (NormalStep){.kind = kind};
    return &t->normals[t->normal_count++];
}

static int add_normals(const Reading *r, int wanted, NormalKind kind)
{
    return wanted && !add_normal(r, kind) ? error_code() : ERROR_NONE;
}

static int read_bert(const Reading *r, const json_t *object)
{
    const char *part = "normalizer";
    int clean = reading_bool(r, object, part, "clean_text", 1),
        chinese = reading_bool(r, object, part, "handle_chinese_chars", 1),
        lower = reading_bool(r, object, part, "lowercase", 1),
        strip = reading_bool(r, object, part, "strip_accents", lower);
    if (clean < 0 || chinese < 0 || lower < 0 || strip < 0)
        return error_code();
    if (add_normals(r, clean, NORMAL_CLEAN) || add_normals(r, chinese, NORMAL_CHINESE) ||
        add_normals(r, strip, NORMAL_NFD) || add_normals(r, strip, NORMAL_STRIP_NONSPACING))
        return error_code();
    return add_normals(r, lower, NORMAL_LOWER);
}

static int read_normal(const Reading *r, const json_t *object, const char *type)
{
    static const struct {
        const char *type;
        NormalKind kind;
    } known[] = {{"NFC", NORMAL_NFC},
                 {"NFD", NORMAL_NFD},
                 {"NFKC", NORMAL_NFKC},
                 {"NFKD", NORMAL_NFKD},
                 {"Lowercase", NORMAL_LOWER},
                 {"StripAccents", NORMAL_STRIP_MARKS},
                 {"Strip", NORMAL_STRIP},
                 {"Replace", NORMAL_REPLACE},
                 {"Prepend", NORMAL_PREPEND},
                 {"Nmt", NORMAL_NMT},
                 {"Precompiled", NORMAL_CHARSMAP},
                 {"ByteLevel", NORMAL_BYTES}};
    const char *part = "normalizer";
    if (!strcmp(type, "BertNormalizer"))
        return read_bert(r, object);
    size_t i = 0;
    while (i < sizeof known / sizeof known[0] && strcmp(known[i].type, type))
        i++;
    if (i == sizeof known / sizeof known[0])
        return unsupported(r, part, type);
    NormalStep *step = add_normal(r, known[i].kind);
    if (!step)
        return error_code();
    if (step->kind == NORMAL_REPLACE)
        return read_pattern(r, object, part, &step->finder)
                   ? error_code()
                   : required_text(r, object, part, "content", &step->content);
    if (step->kind == NORMAL_CHARSMAP)
        return (step->map = reading_charsmap(r, object)) ? ERROR_NONE : error_code();
    if (step->kind == NORMAL_PREPEND)
        return required_text(r, object, part, "prepend", &step->content);
    if (step->kind == NORMAL_STRIP) {
        step->left = reading_bool(r, object, part, "strip_left", 1);
        step->right = reading_bool(r, object, part, "strip_right", 1);
        return step->left < 0 || step->right < 0 ? error_code() : ERROR_NONE;
    }
    return ERROR_NONE;
}

/* ---- Pre-tokenizers -------------------------------------------------------------------------- */

static int grows(SplitKind kind)
{
    return kind == SPLIT_BYTES || kind == SPLIT_SPACE || kind == SPLIT_METASPACE;
}

/* Bytes above ASCII double at each step that writes them as letters: 32 of those would make 4 GiB of one. */
static int grows_too_often(const Reading *r, SplitKind kind)
{
    const Tokenizer *t = r->tokenizer;
    int before = 0;
    for (int i = 0; i < t->split_count; i++)
        before += grows(t->splits[i].kind);
    if (!grows(kind) || before < MOST_GROWING)
        return 0;
    reading_fail(r,
                 "pre_tokenizer: more than %d steps that make a text longer are refused (a Metaspace is one, "
                 "a ByteLevel too, with add_prefix_space two)",
                 MOST_GROWING);
    return 1;
}

static SplitStep *add_split(const Reading *r, SplitKind kind, Behavior behavior)
{
    Tokenizer *t = r->tokenizer;
    if (t->split_count == MOST_STEPS) {
        too_many(r, "pre_tokenizer");
        return NULL;
    }
    if (grows_too_often(r, kind))
        return NULL;
    t->splits[t->split_count] = (SplitStep){.kind = kind, .behavior = behavior};
    return &t->splits[t->split_count++];
}

static int read_behavior(const Reading *r, const json_t *object, int otherwise, Behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *name = json_string_value(json_object_get(object, "behavior"));
    if (!name && otherwise >= 0) {
        *out = (Behavior)otherwise;
        return ERROR_NONE;
    }
    for (int i = 0; name && i < 5; i++)
        if (!strcmp(name, names[i])) {
            *out = (Behavior)i;
            return ERROR_NONE;
        }
    return reading_fail(
        r, "pre_tokenizer: behavior must be Removed, Isolated, MergedWithPrevious, MergedWithNext or "
           "Contiguous");
}

static int read_bytes(const Reading *r, const json_t *object)
{
    const char *part = "pre_tokenizer";
    int space = reading_bool(r, object, part, "add_prefix_space", 1),
        regex = reading_bool(r, object, part, "use_regex", 1);
    char where[160];
    if (space < 0 || regex < 0 || (space && !add_split(r, SPLIT_SPACE, CUT_ISOLATED)))
        return error_code();
    if (regex) {
        SplitStep *step = add_split(r, SPLIT_FIND, CUT_ISOLATED);
        snprintf(where, sizeof where, "%s: %s", r->file, part);
        if (!step || !(step->finder.pattern =
                           pattern_create(r->tokenizer->context, where, GPT2_PATTERN, strlen(GPT2_PATTERN))))
            return error_code();
    }
    return add_split(r, SPLIT_BYTES, CUT_ISOLATED) ? ERROR_NONE : error_code();
}

/* The mark, which must be one character, and whether the first one is an addition. */
static int read_metaspace(const Reading *r, const json_t *object, const char *part, Span *mark,
                          PrependScheme *scheme)
{
    static const char *const names[] = {"always", "first", "never"};
    const json_t *given = json_object_get(object, "prepend_scheme");
    const char *name = json_string_value(given);
    int add = reading_bool(r, object, part, "add_prefix_space", 1);
    size_t end = 0;
    if (add < 0 || required_text(r, object, part, "replacement", mark))
        return error_code();
    if (mark->length)
        utf8_next(mark->text, &end);
    if (!mark->length || end != mark->length)
        return reading_fail(r, "%s: the replacement must be one character", part);
    *scheme = add ? PREPEND_ALWAYS : PREPEND_NEVER; /* what files of old say */
    if (!given)
        return ERROR_NONE;
    for (int i = 0; name && i < 3; i++)
        if (!strcmp(name, names[i])) {
            *scheme = (PrependScheme)i;
            return ERROR_NONE;
        }
    return reading_fail(r, "%s: prepend_scheme must be always, first or never", part);
}

static int split_with(const Reading *r, const json_t *object, const char *type)
{
    const char *part = "pre_tokenizer";
    SplitStep *step;
    if (!strcmp(type, "Metaspace")) {
        if (!(step = add_split(r, SPLIT_METASPACE, CUT_NEXT)) ||
            read_metaspace(r, object, part, &step->replacement, &step->scheme))
            return error_code();
        return (step->cut = reading_bool(r, object, part, "split", 1)) < 0 ? error_code() : ERROR_NONE;
    }
    if (!strcmp(type, "CharDelimiterSplit")) {
        step = add_split(r, SPLIT_FIND, CUT_REMOVED);
        return step ? required_text(r, object, part, "delimiter", &step->finder.literal) : error_code();
    }
    /* Split */
    if (!(step = add_split(r, SPLIT_FIND, CUT_ISOLATED)) || read_pattern(r, object, part, &step->finder) ||
        read_behavior(r, object, -1, &step->behavior))
        return error_code();
    return (step->invert = reading_bool(r, object, part, "invert", 0)) < 0 ? error_code() : ERROR_NONE;
}

static int read_split(const Reading *r, const json_t *object, const char *type)
{
    SplitStep *step;
    if (!strcmp(type, "ByteLevel"))
        return read_bytes(r, object);
    if (!strcmp(type, "Metaspace") || !strcmp(type, "CharDelimiterSplit") || !strcmp(type, "Split"))
        return split_with(r, object, type);
    if (!strcmp(type, "BertPreTokenizer"))
        return add_split(r, SPLIT_BERT, CUT_ISOLATED) ? ERROR_NONE : error_code();
    if (!strcmp(type, "Whitespace"))
        return add_split(r, SPLIT_WHITESPACE, CUT_ISOLATED) ? ERROR_NONE : error_code();
    if (!strcmp(type, "WhitespaceSplit"))
        return add_split(r, SPLIT_SPACES, CUT_REMOVED) ? ERROR_NONE : error_code();
    if (!strcmp(type, "Punctuation")) {
        step = add_split(r, SPLIT_PUNCTUATION, CUT_ISOLATED);
        return step ? read_behavior(r, object, CUT_ISOLATED, &step->behavior) : error_code();
    }
    if (!strcmp(type, "Digits")) {
        int each = reading_bool(r, object, "pre_tokenizer", "individual_digits", 0);
        return each >= 0 && add_split(r, SPLIT_DIGITS, each ? CUT_ISOLATED : CUT_CONTIGUOUS) ? ERROR_NONE
                                                                                             : error_code();
    }
    return unsupported(r, "pre_tokenizer", type);
}

/* ---- Post-processors ------------------------------------------------------------------------- */

static int known_id(const Reading *r, const json_t *value, int32_t *id)
{
    const Vocabulary *v = &r->tokenizer->vocab;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= v->ids ||
        !v->entries[json_integer_value(value)].text)
        return reading_fail(r, "post_processor: an id belongs to no token");
    *id = (int32_t)json_integer_value(value);
    return ERROR_NONE;
}

enum { MOST_SPECIAL = 4096 };

static int too_many_special(const Reading *r)
{
    return reading_fail(r, "post_processor: more than %d ids around a text are refused", MOST_SPECIAL);
}

/* A later processor's ids go around those of the ones before it. */
static int wrap(const Reading *r, const TokenIds *before, const TokenIds *after)
{
    Tokenizer *t = r->tokenizer;
    TokenIds old = t->before, joined = {0};
    if (old.count + before->count > MOST_SPECIAL || t->after.count + after->count > MOST_SPECIAL)
        return too_many_special(r);
    if (!before->count) /* thousands of processors may add nothing, or behind the text alone */
        return ids_add_all(t->context, &t->after, after->ids, after->count);
    if (ids_add_all(t->context, &joined, before->ids, before->count) ||
        ids_add_all(t->context, &joined, old.ids, old.count)) {
        ids_free(t->context, &joined);
        return error_code();
    }
    ids_free(t->context, &old);
    t->before = joined;
    return ids_add_all(t->context, &t->after, after->ids, after->count);
}

static int template_token(const Reading *r, const json_t *object, const json_t *token, TokenIds *to)
{
    const char *name = json_string_value(json_object_get(token, "id"));
    const json_t *ids =
        json_object_get(json_object_get(json_object_get(object, "special_tokens"), name ? name : ""), "ids");
    if (!name || !json_is_array(ids))
        return reading_fail(r, "post_processor: single has a SpecialToken that special_tokens lacks");
    if (json_array_size(ids) > MOST_SPECIAL - to->count) /* a file of n bytes could ask for n x n */
        return too_many_special(r);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = 0;
        if (known_id(r, json_array_get(ids, i), &id) || ids_add(r->tokenizer->context, to, id))
            return error_code();
    }
    return ERROR_NONE;
}

static int read_template(const Reading *r, const json_t *object, TokenIds *before, TokenIds *after)
{
    const json_t *single = json_object_get(object, "single");
    int texts = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *token = json_object_get(item, "SpecialToken"),
                     *sequence = json_object_get(item, "Sequence");
        const char *id = json_string_value(json_object_get(sequence, "id"));
        if (token && template_token(r, object, token, texts ? after : before))
            return error_code();
        if (!token && (!id || strcmp(id, "A")))
            return reading_fail(r, "post_processor: single must hold the Sequence A and SpecialTokens");
        texts += !token;
    }
    if (texts != 1)
        return reading_fail(r, "post_processor: single must hold the Sequence A once");
    return pair_template(r, object, template_token) ? error_code() : wrap(r, before, after);
}

/* ["[SEP]", 102]; twice: between two texts it stands twice. */
static int read_around(const Reading *r, const json_t *object, int twice, TokenIds *before, TokenIds *after)
{
    Context *context = r->tokenizer->context;
    int32_t cls = 0, sep = 0;
    if (known_id(r, json_array_get(json_object_get(object, "cls"), 1), &cls) ||
        known_id(r, json_array_get(json_object_get(object, "sep"), 1), &sep) ||
        ids_add(context, before, cls) || ids_add(context, after, sep) ||
        pair_around(r->tokenizer, cls, sep, twice))
        return error_code();
    return wrap(r, before, after);
}

static int read_post(const Reading *r, const json_t *object, const char *type)
{
    TokenIds before = {0}, after = {0};
    int status;
    if (!strcmp(type, "ByteLevel")) /* offsets only */
        return ERROR_NONE;
    if (!strcmp(type, "TemplateProcessing"))
        status = read_template(r, object, &before, &after);
    else if (!strcmp(type, "BertProcessing") || !strcmp(type, "RobertaProcessing"))
        status = read_around(r, object, type[0] == 'R', &before, &after);
    else
        status = unsupported(r, "post_processor", type);
    ids_free(r->tokenizer->context, &before);
    ids_free(r->tokenizer->context, &after);
    return status;
}

/* ---- Decoders -------------------------------------------------------------------------------- */

static int read_count(const Reading *r, const json_t *object, const char *name, size_t *out)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return reading_fail(r, "decoder: %s must be a whole number", name);
    *out = (size_t)json_integer_value(value);
    return ERROR_NONE;
}

static int decode_with(const Reading *r, const json_t *object, DecodeStep *step)
{
    const char *part = "decoder";
    PrependScheme scheme;
    int status;
    switch (step->kind) {
    case DECODE_METASPACE:
        status = read_metaspace(r, object, part, &step->content, &scheme);
        step->first = !status && scheme != PREPEND_NEVER;
        return status;
    case DECODE_WORDPIECE:
        step->content = (Span){"##", 2};
        step->cleanup = reading_bool(r, object, part, "cleanup", 1);
        return step->cleanup < 0 || reading_text(r, object, part, "prefix", &step->content) < 0 ? error_code()
                                                                                                : ERROR_NONE;
    case DECODE_STRIP:
        if (required_text(r, object, part, "content", &step->content) ||
            read_count(r, object, "start", &step->left) || read_count(r, object, "stop", &step->right))
            return error_code();
        return step->content.length ? ERROR_NONE : reading_fail(r, "decoder: Strip has no content");
    case DECODE_REPLACE:
        return read_pattern(r, object, part, &step->finder)
                   ? error_code()
                   : required_text(r, object, part, "content", &step->content);
    case DECODE_SUFFIX:
        step->content = (Span){"</w>", 4};
        return reading_text(r, object, part, "suffix", &step->content) < 0 ? error_code() : ERROR_NONE;
    default:
        return ERROR_NONE;
    }
}

static int read_decode(const Reading *r, const json_t *object, const char *type)
{
    static const struct {
        const char *type;
        DecodeKind kind;
    } known[] = {{"ByteLevel", DECODE_BYTES},     {"Metaspace", DECODE_METASPACE},
                 {"WordPiece", DECODE_WORDPIECE}, {"ByteFallback", DECODE_FALLBACK},
                 {"Fuse", DECODE_FUSE},           {"Strip", DECODE_STRIP},
                 {"Replace", DECODE_REPLACE},     {"BPEDecoder", DECODE_SUFFIX}};
    Tokenizer *t = r->tokenizer;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].type, type))
            continue;
        if (t->decode_count == MOST_STEPS)
            return too_many(r, "decoder");
        t->decodes[t->decode_count] = (DecodeStep){.kind = known[i].kind};
        return decode_with(r, object, &t->decodes[t->decode_count++]);
    }
    return unsupported(r, "decoder", type);
}

/* ---- All ------------------------------------------------------------------------------------- */

/* What is searched for an added token: in a normalized text, the normalized token. */
static int normalize_added(const Reading *r)
{
    Tokenizer *t = r->tokenizer;
    for (int i = 0; i < t->added_count; i++) {
        AddedToken *token = &t->added[i];
        token->found = token->content;
        if (!token->normalized)
            continue;
        size_t origin = 0;
        t->left = text_most(token->content.length);
        if (normalize(t, token->content, &origin, &token->found))
            return error_code();
        if (!token->found.length)
            return reading_fail(r, "added_tokens: the normalizer leaves nothing of %s",
                                shown(token->content.text, token->content.length).text);
        token->found = keep_text(t, token->found.text, token->found.length);
        if (!token->found.text)
            return error_code();
        VocabEntry *entry = &t->vocab.entries[token->id];
        if (entry->text == token->content.text && vocab_find(&t->vocab, entry->text, entry->length) < 0) {
            entry->text = token->found.text; /* it decodes to what was found, as in the Python package */
            entry->length = (uint32_t)token->found.length;
        }
    }
    return added_build(t);
}

int reading_steps(const Reading *r, const json_t *root)
{
    static const Component normal = {"normalizer", "normalizers", read_normal},
                           split = {"pre_tokenizer", "pretokenizers", read_split},
                           post = {"post_processor", "processors", read_post},
                           decode = {"decoder", "decoders", read_decode};
    Tokenizer *t = r->tokenizer;
    const json_t *decoder = json_object_get(root, "decoder");
    if (read_component(r, &normal, json_object_get(root, "normalizer"), 0) || normalize_added(r) ||
        read_component(r, &split, json_object_get(root, "pre_tokenizer"), 0) ||
        read_component(r, &post, json_object_get(root, "post_processor"), 0) ||
        read_component(r, &decode, decoder, 0))
        return error_code();
    t->has_decoder = decoder && !json_is_null(decoder);
    t->bpe.raw = t->model == MODEL_BPE && t->split_count &&
                 t->splits[t->split_count - 1].kind == SPLIT_BYTES && !t->bpe.prefix.length &&
                 !t->bpe.suffix.length && !t->bpe.byte_fallback;
    return ERROR_NONE;
}
