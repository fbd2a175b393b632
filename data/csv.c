/* Texts with labels as a dataset: a sample a row, padded to one length, with a mask that says where it ends.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/plural_.h"
#include "csv_.h"

typedef struct CsvSet {
    CsvSample *samples; /* NULL on meta */
    int64_t count, room;
    TokenIds ids; /* empty on meta */
    int64_t seq;
    int32_t pad;
} CsvSet;

/* ---- Rows ------------------------------------------------------------------------------------ */

static int64_t fill_row(const void *dataset, SampleKey key, SampleRow row)
{
    const CsvSet *set = dataset;
    const CsvSample *s = &set->samples[key.sample];
    if (!row.ids)
        return 1;
    for (int64_t i = 0; i < set->seq; i++) {
        row.ids[i] = i < s->tokens ? set->ids.ids[s->at + i] : set->pad;
        row.mask[i] = i < s->tokens;
        if (row.types)
            row.types[i] = i >= s->zeros && i < s->tokens;
    }
    *row.labels = s->label;
    return 1;
}

static void csv_destroy(Context *context, void *dataset)
{
    CsvSet *set = dataset;
    memtrack_host_free(context->tracker, set->samples, (size_t)set->room * sizeof *set->samples);
    ids_free(context, &set->ids);
    host_free(context, set, sizeof *set);
}

static const DatasetKind csv = {fill_row, csv_destroy};

/* ---- Options --------------------------------------------------------------------------------- */

static TextOptions text_options(const CsvOptions *o)
{
    return (TextOptions){
        .seq = o->seq, .split = o->split, .held_out = o->held_out, .max_samples = o->max_samples};
}

static int csv_options(const char *path, CsvOptions *o)
{
    int planned = o->samples && context_here()->meta; /* nobody asks the tokenizer, and there may be none */
    int64_t own = o->tokenizer ? tokenizer_vocab(o->tokenizer) : planned ? 1 : TOKEN_VOCAB;
    TextOptions same = text_options(o);
    if (!text_options_valid(CSV_MAKER, path, &same) ||
        !loader_options(CSV_MAKER, &o->batch, 8, &o->accumulate, o->max_samples))
        return error_code();
    if (o->vocab < 0 || o->vocab > INT32_MAX || (o->vocab && o->vocab < own))
        return error_raise(ERROR_ARGUMENT,
                           CSV_MAKER "(): vocab is %" PRId64 "; it must be %" PRId64
                                     " to %d (0: the tokenizer's, or %d of bytes)",
                           o->vocab, own, INT32_MAX, TOKEN_VOCAB);
    if (o->classes < 0 || o->classes > INT32_MAX || (o->labels && !o->classes))
        return error_raise(ERROR_ARGUMENT, CSV_MAKER "(): classes is %" PRId64 "%s; it must be 0 or more",
                           o->classes, o->labels ? " beside labels" : "");
    o->seq = o->seq ? o->seq : 128;
    if (!o->tokenizer || o->tokenizer->context == context_here())
        return ERROR_NONE;
    return error_raise(ERROR_STATE, CSV_MAKER "(): this tokenizer was read in another context; read it here");
}

/* Room for a token of each text beside what stands around them. */
static int check_seq(const CsvFile *file, const CsvOptions *o)
{
    const Tokenizer *t = o->tokenizer;
    const PairTemplate *p = t ? &t->pair : NULL;
    int pair = file->second >= 0;
    if (pair && p && p->state == PAIR_UNKNOWN)
        return error_raise(
            ERROR_DATA,
            "%s has two texts a sample, and the tokenizer.json does not say what stands between "
            "two (post_processor: a pair of A and B, types 0 and then 1)",
            file->shown);
    size_t around = !t     ? (size_t)(pair ? 3 : 2)
                    : pair ? p->ids[0].count + p->ids[1].count + p->ids[2].count
                           : t->before.count + t->after.count;
    size_t least = around + (pair ? 2 : 1);
    if ((size_t)o->seq >= least)
        return ERROR_NONE;
    return error_raise(
        ERROR_ARGUMENT,
        "--seq %d leaves no room for a token of %s: the tokenizer puts %zu around it; --seq %zu "
        "is the least",
        o->seq, pair ? "each text" : "the text", around, least);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* What samples are read into. */
typedef struct CsvReading {
    const CsvOptions *options;
    const DataLabels *labels;
    CsvFile *file;
    int keep;            /* the ids too, not only how long samples are */
    MemTracker *tracker; /* of the samples; NULL: of no context */
    CsvSample *samples;
    int64_t count, room;
    TokenIds ids;
} CsvReading;

static int add_bytes(const CsvReading *r, Span text, size_t most, TokenIds *out)
{
    for (size_t i = 0; i < text.length && i < most; i++)
        if (ids_add(r->file->context, out, (unsigned char)text.text[i]))
            return error_code();
    return ids_add(r->file->context, out, TOKEN_SEP);
}

/* [CLS] text [SEP], or [CLS] one [SEP] other [SEP]. */
static int encode_bytes(const CsvReading *r, Span a, const Span *b, TokenIds *out, EncodedSample *sample)
{
    size_t begin = out->count, around = b ? 3 : 2, room = (size_t)r->options->seq - around;
    size_t first = a.length, second = b ? b->length : 0;
    sample->whole = first + second + around;
    if (b)
        tokenizer_cut_longest(&first, &second, room);
    else
        first = first < room ? first : room;
    if (ids_add(r->file->context, out, TOKEN_CLS) || add_bytes(r, a, first, out))
        return error_code();
    sample->zeros = out->count - begin;
    return b ? add_bytes(r, *b, second, out) : ERROR_NONE;
}

static int check_ids(const CsvReading *r, size_t from)
{
    int64_t vocab = r->options->vocab;
    for (size_t i = from; vocab && i < r->ids.count; i++)
        if (r->ids.ids[i] >= vocab)
            return csv_refuse(r->file,
                              "has a token with id %d; the vocabulary has %" PRId64
                              ": give the model's own --tokenizer, or --vocab as large as this one's",
                              r->ids.ids[i], vocab);
    return ERROR_NONE;
}

static int samples_grow(CsvReading *r)
{
    int64_t room = r->room ? 2 * r->room : 64;
    if (r->count < r->room)
        return ERROR_NONE;
    CsvSample *samples = memtrack_host_realloc(r->tracker, r->samples, (size_t)r->room * sizeof *samples,
                                               (size_t)room * sizeof *samples);
    if (!samples)
        return error_raise(ERROR_HOST_MEMORY, CSV_MAKER "(): no host memory for the samples of %s",
                           r->file->shown);
    r->samples = samples;
    r->room = room;
    return ERROR_NONE;
}

static int read_sample(CsvReading *r)
{
    CsvFile *f = r->file;
    EncodedSample encoded = {0};
    int32_t label = csv_class(f, r->labels);
    size_t begin = r->ids.count;
    Span a = label < 0 ? (Span){NULL, 0} : csv_value(f, f->first, 0), b = {NULL, 0};
    if (a.text && f->second >= 0)
        b = csv_value(f, f->second, 1);
    if (!a.text || (f->second >= 0 && !b.text) || samples_grow(r))
        return error_code();
    const Span *pair = f->second >= 0 ? &b : NULL;
    if (r->options->tokenizer ? tokenizer_encode_sample(r->options->tokenizer, a, pair,
                                                        (size_t)r->options->seq, &r->ids, &encoded)
                              : encode_bytes(r, a, pair, &r->ids, &encoded))
        return error_code();
    int32_t tokens = (int32_t)(r->ids.count - begin);
    if (!tokens)
        return csv_refuse(f, "has a text without a token: leave such lines out");
    if (check_ids(r, begin))
        return error_code();
    if (!r->keep)
        r->ids.count = begin;
    r->samples[r->count++] =
        (CsvSample){.at = (int64_t)begin,
                    .tokens = tokens,
                    .zeros = (int32_t)encoded.zeros,
                    .whole = (int32_t)(encoded.whole < INT32_MAX ? encoded.whole : INT32_MAX),
                    .label = label,
                    .line = f->record.line};
    return ERROR_NONE;
}

/* Samples from `first` on, `count` of them; negative: all that follow. */
static int read_samples(CsvReading *r, int64_t first, int64_t count)
{
    int got = 1;
    csv_rewind(r->file);
    for (int64_t i = 0; (count < 0 || i < first + count) && (got = csv_next(r->file)) > 0; i++)
        if (i >= first && read_sample(r))
            return error_code();
    if (got == 0 && count >= 0)
        return error_raise(ERROR_FILE, "%s became shorter while it was read", r->file->shown);
    return got < 0 ? error_code() : ERROR_NONE;
}

/* Whether samples have tokens of another type than 0. */
static int is_typed(const CsvFile *f, const CsvOptions *o)
{
    return f->second >= 0 && (!o->tokenizer || o->tokenizer->pair.zeros != PAIR_ALL_ZEROS);
}

/* The open file's labels: those that are known, or *own. NULL with an error raised. */
static const DataLabels *labels_of(CsvFile *f, const CsvOptions *o, DataLabels **own)
{
    return o->known ? o->known : (*own = csv_labels(f, o));
}

/* ---- What plans remember --------------------------------------------------------------------- */

static int is_of(const CsvSamples *s, const char *path, const CsvOptions *o)
{
    struct stat now;
    if (o->known != s->labels)
        return 0;
    if (o->input || s->input)
        return o->input == s->input;
    return stat(path, &now) == 0 && file_same_version(&now, &s->status);
}

static CsvSamples *samples_of(const char *path, CsvFile *file, const CsvOptions *o, const DataLabels *labels)
{
    CsvSamples *s = check_seq(file, o) ? NULL : memtrack_host_calloc(NULL, sizeof *s);
    if (!s) {
        if (!error_code())
            error_raise(ERROR_HOST_MEMORY, CSV_MAKER "(): no host memory for how long samples are");
        return NULL;
    }
    CsvReading r = {.options = o, .labels = labels, .file = file};
    if (!o->input && stat(path, &s->status))
        s->status = (struct stat){0};
    read_samples(&r, 0, -1);
    ids_free(file->context, &r.ids);
    s->input = o->input;
    s->labels = o->known;
    s->typed = is_typed(file, o);
    s->samples = r.samples;
    s->count = r.count;
    s->room = r.room;
    memcpy(s->unread, file->unread, sizeof s->unread);
    if (!error_code())
        return s;
    data_csv_samples_free(s);
    return NULL;
}

void data_csv_samples_free(CsvSamples *s)
{
    if (!s)
        return;
    memtrack_host_free(NULL, s->samples, (size_t)s->room * sizeof *s->samples);
    memtrack_host_free(NULL, s, sizeof *s);
}

DataLengths data_csv_summary(const CsvSamples *samples, int64_t max_samples, int64_t most)
{
    DataLengths out = {.texts = 1};
    for (int64_t i = 0; i < samples->count && (!max_samples || i < max_samples); i++)
        lengths_add(&out, samples->samples[i].whole, samples->samples[i].line, most);
    return out;
}

CsvSamples *data_csv_samples(const char *path, const CsvOptions *options)
{
    CsvOptions o = options ? *options : (CsvOptions){0};
    CsvFile file;
    DataLabels *own = NULL;
    if (!context_here() || csv_options(path, &o))
        return NULL;
    const DataLabels *labels =
        csv_open(&file, path, o.input, o.replace_invalid) ? NULL : labels_of(&file, &o, &own);
    CsvSamples *samples = labels ? samples_of(path, &file, &o, labels) : NULL;
    csv_close(&file);
    data_labels_free(own);
    return samples;
}

DataLabels *data_csv_labels(const char *path, const CsvOptions *options)
{
    CsvOptions o = options ? *options : (CsvOptions){0};
    CsvFile file;
    o.tokenizer = NULL;
    o.seq = o.batch = o.accumulate = 0;
    o.vocab = o.max_samples = 0;
    if (!context_here() || csv_options(path, &o))
        return NULL;
    DataLabels *labels = csv_open(&file, path, o.input, o.replace_invalid) ? NULL : csv_labels(&file, &o);
    csv_close(&file);
    return labels;
}

/* ---- What a user should know ----------------------------------------------------------------- */

/* Of the samples of a part. */
typedef struct CsvShape {
    int64_t samples, classes;
    int64_t least, longest, cut, filled; /* tokens uncut; samples that are longer than a row; places in use */
    int64_t most;                        /* samples of the most frequent class */
    int32_t frequent;
    int64_t held, held_other; /* held out; of them not of the class of the first */
    int64_t below;            /* the smallest class that there is */
    int ids_kept;
} CsvShape;

static int find_frequent(CsvShape *shape, const CsvSample *samples, int64_t count)
{
    int64_t *counts = host_alloc((size_t)shape->classes * sizeof *counts);
    if (!counts)
        return error_code();
    memset(counts, 0, (size_t)shape->classes * sizeof *counts);
    for (int64_t i = 0; i < count; i++)
        counts[samples[i].label]++;
    for (int64_t i = 0; i < shape->classes; i++)
        if (counts[i] > shape->most) {
            shape->most = counts[i];
            shape->frequent = (int32_t)i;
        }
    while (shape->below < shape->classes && !counts[shape->below])
        shape->below++;
    host_free(context_here(), counts, (size_t)shape->classes * sizeof *counts);
    return ERROR_NONE;
}

static int measure(CsvShape *shape, const CsvOptions *o, const CsvSample *samples, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t whole = samples[i].whole, tokens = whole < o->seq ? whole : o->seq;
        shape->least = i && shape->least < whole ? shape->least : whole;
        shape->longest = shape->longest > whole ? shape->longest : whole;
        shape->cut += whole > o->seq;
        shape->filled += tokens;
    }
    shape->samples = count;
    return find_frequent(shape, samples, count);
}

static void __attribute__((format(printf, 2, 3))) add(TextNote *note, const char *format, ...)
{
    size_t used = strlen(note->text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note->text + used, sizeof note->text - used, format, arguments);
    va_end(arguments);
}

static TextNote note_of(const CsvOptions *o, const char *path, const CsvShape *shape,
                        const DataLabels *labels, const char *unread)
{
    TextNote note = {""};
    char shown_path[FILE_LABEL];
    const char *name = data_labels_name(labels, shape->frequent);
    int64_t padding = 100 - 100 * shape->filled / (shape->samples * o->seq);
    text_input_label(shown_path, path);
    add(&note, "%.200s: %" PRId64 " sample%s of ", shown_path, shape->samples, plural(shape->samples));
    if (shape->least < shape->longest)
        add(&note, "%" PRId64 " to ", shape->least);
    add(&note, "%" PRId64 " tokens and %" PRId64 " classes; %" PRId64 " %% are ", shape->longest,
        shape->classes, 100 * shape->most / shape->samples);
    if (name)
        add(&note, "%s", shown(name, strlen(name)).text);
    else
        add(&note, "%d", shape->frequent);
    if (shape->below)
        add(&note, "; the labels begin at %" PRId64 ", so class 0 has none", shape->below);
    if (shape->cut)
        add(&note, "; %" PRId64 " longer than --seq %d %s cut at the end", shape->cut, o->seq,
            shape->cut == 1 ? "is" : "are");
    if (padding >= 25)
        add(&note, "; %" PRId64 " %% of the rows is padding%s", padding,
            shape->longest < o->seq ? ", less with a smaller --seq" : "");
    if (unread[0])
        add(&note, "; not read: %s", unread);
    return note;
}

/* ---- The loader ------------------------------------------------------------------------------ */

static int cut_part(const char *path, const CsvOptions *o, int64_t total, TextPart *part)
{
    TextOptions same = text_options(o);
    char shown_path[FILE_LABEL];
    text_input_label(shown_path, path);
    if (text_part(CSV_MAKER, &same, total, part))
        return error_code();
    if (!part->count)
        return error_raise(ERROR_DATA,
                           "%s has 1 sample; one is held out beside those to train on, so 2 are needed",
                           shown_path);
    return ERROR_NONE;
}

/* A file in the order of its labels would be judged by one of them. */
static void look_at_held_out(const CsvOptions *o, const CsvSamples *all, const TextPart *part, TextNote *note)
{
    enum { ENOUGH = 10 };
    int64_t from = part->first + part->count, others = 0, count = all->count - from;
    if (o->split != DATA_TRAIN || o->max_samples || count < ENOUGH)
        return;
    for (int64_t i = from; i < all->count; i++)
        others += all->samples[i].label != all->samples[from].label;
    if (!others)
        add(note, "; all %" PRId64 " at the end that are held out have one label: shuffle the lines", count);
}

/* Everything that is known of one part. */
typedef struct CsvPart {
    TextPart part;
    CsvShape shape;
    TextNote note;
    int typed;
} CsvPart;

static int plan_part(const char *path, const CsvOptions *o, const CsvSamples *all, const DataLabels *labels,
                     CsvPart *out)
{
    out->shape.classes = labels->classes;
    out->typed = all->typed;
    if (cut_part(path, o, all->count, &out->part) ||
        measure(&out->shape, o, all->samples + out->part.first, out->part.count))
        return error_code();
    out->note = note_of(o, path, &out->shape, labels, all->unread);
    look_at_held_out(o, all, &out->part, &out->note);
    return ERROR_NONE;
}

/* The samples of the part, with their ids. */
static int read_part(CsvFile *file, const CsvOptions *o, const DataLabels *labels, const TextPart *part,
                     CsvSet *set)
{
    MemTracker *tracker = context_here()->tracker;
    CsvReading r = {.options = o, .labels = labels, .file = file, .keep = 1, .tracker = tracker};
    int status = read_samples(&r, part->first, part->count);
    set->samples = r.samples;
    set->count = r.count;
    set->room = r.room;
    set->ids = r.ids;
    if (status)
        return status;
    int32_t *fit =
        memtrack_host_realloc(tracker, r.ids.ids, r.ids.room * sizeof *fit, r.ids.count * sizeof *fit);
    if (fit) { /* else the longer list stays */
        set->ids.ids = fit;
        set->ids.room = set->ids.count;
    }
    return ERROR_NONE;
}

/* What a plan of a classifier without data takes: so many samples of the model's classes. */
static int plan_builtin(const CsvOptions *o, CsvPart *part)
{
    enum { SAMPLES = 100000 };
    if (!context_here()->meta)
        return error_raise(ERROR_ARGUMENT,
                           CSV_MAKER "(): there are no built-in texts with labels; name a .csv of some");
    part->shape.classes = o->classes;
    return cut_part("builtin", o, SAMPLES, &part->part);
}

/* What is known of the file, and on meta what will be read. */
static int take_part(const char *path, const CsvOptions *o, CsvSet *set, CsvPart *part)
{
    CsvFile file;
    DataLabels *own = NULL;
    CsvSamples *measured = NULL;
    int meta = context_here()->meta, known = o->samples && o->known && is_of(o->samples, path, o);
    if (!o->input && !strcmp(path, "builtin"))
        return plan_builtin(o, part);
    if (known && meta)
        return plan_part(path, o, o->samples, o->known, part);
    int status = csv_open(&file, path, o->input, o->replace_invalid);
    const DataLabels *labels = status ? NULL : labels_of(&file, o, &own);
    const CsvSamples *all = known    ? o->samples
                            : labels ? (measured = samples_of(path, &file, o, labels))
                                     : NULL;
    status = labels && all ? plan_part(path, o, all, labels, part) : error_code();
    if (!status && !meta)
        status = check_seq(&file, o) ? error_code() : read_part(&file, o, labels, &part->part, set);
    data_csv_samples_free(measured);
    csv_close(&file);
    data_labels_free(own);
    return status;
}

static int32_t padding_id(const Tokenizer *t)
{
    int32_t id = t ? tokenizer_id(t, "[PAD]") : TOKEN_PAD;
    id = id < 0 ? tokenizer_id(t, "<pad>") : id;
    return id < 0 ? 0 : id; /* any: the mask hides it */
}

Loader *data_csv(const char *path, const CsvOptions *options)
{
    CsvOptions o = options ? *options : (CsvOptions){0};
    CsvPart part = {0};
    if (!context_here() || csv_options(path, &o))
        return NULL;
    CsvSet *set = host_alloc_for(CSV_MAKER, "the samples' header", sizeof *set);
    if (!set)
        return NULL;
    *set = (CsvSet){.seq = o.seq, .pad = padding_id(o.tokenizer)};
    if (take_part(path, &o, set, &part)) {
        csv_destroy(context_here(), set);
        return NULL;
    }
    host_later((size_t)part.shape.filled * sizeof(int32_t) + (size_t)part.part.count * sizeof(CsvSample));
    return loader_create(&(LoaderSetup){.maker = CSV_MAKER,
                                        .kind = &csv,
                                        .samples = part.part.count,
                                        .classes = part.shape.classes,
                                        .seq = o.seq,
                                        .one_label = 1,
                                        .padded = 1,
                                        .types = part.typed,
                                        .batch = o.batch,
                                        .accumulate = o.accumulate,
                                        .seed = o.seed,
                                        .shuffle = o.split == DATA_TRAIN,
                                        .note = part.note},
                         set);
}
