/* Prompts and completions as a dataset: a sample a line, of which only the completion is learned. Samples
 * stand alone in rows as long as the longest, or side by side. How long they are is found before anything is
 * planned, because it is a shape. */
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/plural_.h"
#include "pairs_.h"

/* What a row is cut from: samples of one part of the file. */
typedef struct PairSet {
    PairSample *samples;
    int64_t count, room;
    TokenIds ids;    /* empty on meta */
    int64_t *starts; /* the first sample of each row, and behind the last one; NULL on meta */
    int64_t rows, width;
    int64_t most; /* tokens of a row: one more than its places */
} PairSet;

/* ---- Rows ------------------------------------------------------------------------------------ */

/* How rows come out, and what a user should know of it. */
typedef struct PairsShape {
    int64_t rows, width;    /* places of each row */
    int64_t samples, ids;   /* all; and what is kept of them, labels of their own included */
    int64_t least, longest; /* tokens of a sample, before it is cut */
    int64_t least_first;    /* the smallest token that has a label */
    int64_t filled;         /* places that a sample has */
    int64_t cut, left_out;  /* longer than the row; without a label in it */
    int64_t reaching;
} PairsShape;

/* The tokens of a sample that a row of `most` has; 0 where none of these has a label. */
static int64_t used(const PairSample *s, int64_t most)
{
    int64_t tokens = s->tokens < most ? s->tokens : most;
    return s->first < tokens ? tokens : 0;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void measure(PairsShape *shape, const PairSample *s, int64_t most)
{
    int64_t tokens = used(s, most);
    int another = shape->samples++ > 0;
    shape->least = another && shape->least < s->tokens ? shape->least : s->tokens;
    shape->least_first = another && shape->least_first < s->first ? shape->least_first : s->first;
    shape->longest = larger(shape->longest, s->tokens);
    shape->ids += (int64_t)s->tokens * (1 + s->own_labels);
    shape->left_out += !tokens;
    shape->cut += tokens && s->tokens > most;
    shape->reaching += s->reaching;
}

/* Packed, a sample goes into the row that is being filled, or begins the next one; it is never cut to fit.
 * starts: where not NULL, room for a number a row and one more. */
static PairsShape shape_rows(const PairSample *samples, int64_t count, int64_t most, int pack,
                             int64_t *starts)
{
    PairsShape shape = {0};
    int64_t row = 0; /* tokens of the row that is being filled */
    for (int64_t i = 0; i < count; i++) {
        int64_t tokens = used(&samples[i], most);
        measure(&shape, &samples[i], most);
        if (!tokens)
            continue;
        if (!shape.rows || !pack || row + tokens > most) {
            if (starts)
                starts[shape.rows] = i;
            shape.rows++;
            row = 0;
        }
        row += tokens;
        shape.width = larger(shape.width, row - 1);
        shape.filled += tokens;
    }
    shape.filled -= shape.rows; /* the last token of a row is predicted, but predicts nothing */
    if (starts)
        starts[shape.rows] = count;
    return shape;
}

/* ---- Samples --------------------------------------------------------------------------------- */

static int32_t label_of(const PairSet *set, const PairSample *s, int64_t token)
{
    const int32_t *ids = set->ids.ids + s->at;
    if (token < s->first)
        return BATCH_IGNORE;
    return ids[token + (s->own_labels ? s->tokens : 0)];
}

static int64_t count_labels(const PairSet *set, const PairSample *s, int64_t tokens)
{
    int64_t counted = 0;
    if (!s->own_labels)
        return tokens - s->first;
    for (int64_t i = s->first; i < tokens; i++)
        counted += label_of(set, s, i) != BATCH_IGNORE;
    return counted;
}

/* The row's tokens from `at` on: each is an input, but for the last of a full row, and what the place before
 * it predicts. */
static void put_sample(const PairSet *set, const PairSample *s, int64_t tokens, SampleRow row, int64_t at)
{
    for (int64_t i = 0; i < tokens; i++, at++) {
        if (at < set->width)
            row.ids[at] = set->ids.ids[s->at + i];
        if (at > 0)
            row.labels[at - 1] = i > 0 ? label_of(set, s, i) : BATCH_IGNORE;
    }
}

static int64_t fill_row(const void *dataset, SampleKey key, SampleRow row)
{
    const PairSet *set = dataset;
    int64_t at = 0, counted = 0;
    for (int64_t i = set->starts[key.sample]; i < set->starts[key.sample + 1]; i++) {
        const PairSample *s = &set->samples[i];
        int64_t tokens = used(s, set->most);
        if (row.ids)
            put_sample(set, s, tokens, row, at);
        at += tokens;
        counted += tokens ? count_labels(set, s, tokens) : 0;
    }
    for (int64_t i = at; row.ids && i < set->width; i++)
        row.ids[i] = 0; /* any id: nothing before it sees it, and it has no label */
    for (int64_t i = at - 1; row.ids && i < set->width; i++)
        row.labels[i] = BATCH_IGNORE;
    return counted;
}

static void pairs_destroy(Context *context, void *dataset)
{
    PairSet *set = dataset;
    MemTracker *tracker = context->tracker;
    memtrack_host_free(tracker, set->samples, (size_t)set->room * sizeof *set->samples);
    memtrack_host_free(tracker, set->starts, set->starts ? (size_t)(set->rows + 1) * sizeof *set->starts : 0);
    ids_free(context, &set->ids);
    host_free(context, set, sizeof *set);
}

static const DatasetKind pairs = {fill_row, pairs_destroy};

/* ---- Options --------------------------------------------------------------------------------- */

/* The token that ends a completion: the one that is named, or a usual one. */
static int find_eos(const PairsOptions *o, Span *eos)
{
    static const char *const usual[] = {"</s>", "<|endoftext|>"};
    *eos = (Span){"", 0};
    if (o->eos && o->eos[0]) {
        *eos = (Span){o->eos, strlen(o->eos)};
        if (o->tokenizer && tokenizer_id(o->tokenizer, o->eos) >= 0)
            return ERROR_NONE;
        return error_raise(ERROR_ARGUMENT, PAIRS_MAKER "(): eos is %s, which is no token of the tokenizer",
                           shown(o->eos, eos->length).text);
    }
    for (size_t i = 0; i < sizeof usual / sizeof usual[0] && !o->eos && !eos->length; i++)
        if (tokenizer_id(o->tokenizer, usual[i]) >= 0)
            *eos = (Span){usual[i], strlen(usual[i])};
    return ERROR_NONE;
}

static TextOptions text_options(const PairsOptions *o)
{
    return (TextOptions){.split = o->split, .held_out = o->held_out, .max_samples = o->max_samples};
}

static int pairs_options(const char *path, PairsOptions *o)
{
    int64_t own = o->tokenizer ? tokenizer_vocab(o->tokenizer) : 0;
    TextOptions same = text_options(o);
    if (o->seq < 0)
        return error_raise(ERROR_ARGUMENT,
                           PAIRS_MAKER "(): seq is %d; it must be 1 or more (0: as the longest sample)",
                           o->seq);
    if (!text_options_valid(PAIRS_MAKER, path, &same) ||
        !loader_options(PAIRS_MAKER, &o->batch, 8, &o->accumulate, o->max_samples))
        return error_code();
    if (o->vocab < 0 || o->vocab > INT32_MAX || (o->vocab && o->vocab < own))
        return error_raise(ERROR_ARGUMENT,
                           PAIRS_MAKER "(): vocab is %" PRId64 "; it must be %" PRId64
                                       " to %d (0: the tokenizer's, or 256 of bytes)",
                           o->vocab, larger(own, 1), INT32_MAX);
    o->vocab = o->vocab ? o->vocab : own ? own : 256;
    if (!o->tokenizer || o->tokenizer->context == context_here())
        return ERROR_NONE;
    return error_raise(ERROR_STATE,
                       PAIRS_MAKER "(): this tokenizer was read in another context; read it here");
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* keep: the ids too; tracker: of the samples. */
static PairsReading reading_of(const PairsOptions *o, const PairsLines *lines, Span eos, int keep,
                               MemTracker *tracker)
{
    return (PairsReading){.context = context_here(),
                          .tokenizer = o->tokenizer,
                          .vocab = o->vocab,
                          .eos = eos,
                          .replace_invalid = o->replace_invalid,
                          .keep = keep,
                          .shown = lines->shown,
                          .tracker = tracker};
}

/* Whether they are those of these options. */
static int is_of(const PairsLengths *lengths, const char *path, const PairsOptions *o)
{
    struct stat now;
    if (o->vocab < lengths->vocab)
        return 0;
    if (o->input || lengths->input)
        return o->input == lengths->input;
    return stat(path, &now) == 0 && file_same_version(&now, &lengths->status);
}

static PairsLengths *lengths_of(const char *path, const PairsOptions *o, PairsLines *lines)
{
    Span eos;
    PairsLengths *lengths = find_eos(o, &eos) ? NULL : memtrack_host_calloc(NULL, sizeof *lengths);
    if (!lengths) {
        if (!error_code())
            error_raise(ERROR_HOST_MEMORY, PAIRS_MAKER "(): no host memory for how long samples are");
        return NULL;
    }
    lengths->input = o->input;
    lengths->vocab = o->vocab;
    if (!o->input && stat(path, &lengths->status))
        lengths->status = (struct stat){0};
    PairsReading r = reading_of(o, lines, eos, 0, NULL);
    pairs_read(lines, &r, 0, -1);
    pairs_reading_end(&r);
    lengths->samples = r.samples;
    lengths->count = r.count;
    lengths->room = r.room;
    if (!error_code())
        return lengths;
    data_pairs_lengths_free(lengths);
    return NULL;
}

void data_pairs_lengths_free(PairsLengths *lengths)
{
    if (!lengths)
        return;
    memtrack_host_free(NULL, lengths->samples, (size_t)lengths->room * sizeof *lengths->samples);
    memtrack_host_free(NULL, lengths, sizeof *lengths);
}

void lengths_add(DataLengths *l, int64_t tokens, int64_t line, int64_t most)
{
    l->shortest = l->samples && l->shortest < tokens ? l->shortest : tokens;
    if (tokens > l->longest) {
        l->longest = tokens;
        l->line = line;
    }
    l->longer += most && tokens > most;
    l->samples++;
}

DataLengths data_pairs_summary(const PairsLengths *lengths, int64_t max_samples, int64_t most)
{
    DataLengths out = {0};
    for (int64_t i = 0; i < lengths->count && (!max_samples || i < max_samples); i++) {
        lengths_add(&out, lengths->samples[i].tokens, lengths->samples[i].line, most);
        out.texts |= lengths->samples[i].texts;
    }
    return out;
}

PairsLengths *data_pairs_lengths(const char *path, const PairsOptions *options)
{
    PairsOptions o = options ? *options : (PairsOptions){0};
    PairsLines lines;
    if (!context_here() || pairs_options(path, &o))
        return NULL;
    PairsLengths *lengths = pairs_lines_open(&lines, path, o.input) ? NULL : lengths_of(path, &o, &lines);
    pairs_lines_close(&lines);
    return lengths;
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static int cut_part(const char *shown, const PairsOptions *o, int64_t total, TextPart *part)
{
    TextOptions same = text_options(o);
    if (total < 1)
        return error_raise(
            ERROR_DATA, "%s is empty: a sample is a line, {\"prompt\": \"…\", \"completion\": \"…\"}", shown);
    if (text_part(PAIRS_MAKER, &same, total, part))
        return error_code();
    if (!part->count)
        return error_raise(
            ERROR_DATA, "%s has 1 sample; one is held out beside those to train on, so 2 are needed", shown);
    return ERROR_NONE;
}

/* ---- What a user should know ----------------------------------------------------------------- */

static void __attribute__((format(printf, 2, 3))) add(TextNote *note, const char *format, ...)
{
    size_t used = strlen(note->text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note->text + used, sizeof note->text - used, format, arguments);
    va_end(arguments);
}

static TextNote note_of(const PairsOptions *o, const char *shown, const PairsShape *shape)
{
    TextNote note = {""};
    int64_t places = shape->rows * shape->width, padding = 100 * (places - shape->filled) / places;
    add(&note, "%s: %" PRId64 " sample%s of ", shown, shape->samples, plural(shape->samples));
    if (shape->least < shape->longest)
        add(&note, "%" PRId64 " to ", shape->least);
    add(&note, "%" PRId64 " tokens, ", shape->longest);
    if (o->pack)
        add(&note, "in %" PRId64 " row%s of %" PRId64 "; a sample sees those before it in its row",
            shape->rows, plural(shape->rows), shape->width);
    else
        add(&note, "one a row of %" PRId64, shape->width);
    if (padding)
        add(&note, "; %" PRId64 " %% is padding%s", padding,
            !o->pack && padding >= 25 ? ", less with --pack" : "");
    if (shape->cut)
        add(&note, "; %" PRId64 " longer than --seq %d %s cut at the end", shape->cut, o->seq,
            shape->cut == 1 ? "is" : "are");
    if (shape->left_out)
        add(&note, "; %" PRId64 " whose completion begins behind --seq %d %s left out", shape->left_out,
            o->seq, shape->left_out == 1 ? "is" : "are");
    if (shape->reaching)
        add(&note,
            "; %" PRId64 " prompt%s within a token (a space at the end?), which counts as the completion's",
            shape->reaching, shape->reaching == 1 ? " ends" : "s end");
    return note;
}

/* ---- The loader ------------------------------------------------------------------------------ */

/* The most tokens of a row. Without a limit samples are as long as they are, and packed rows as the longest.
 */
static int64_t row_most(const PairsOptions *o, const PairSample *samples, int64_t count)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++)
        longest = larger(longest, samples[i].tokens);
    return o->seq ? (int64_t)o->seq + 1 : longest;
}

/* How rows come out of the part's samples; an error where there is none. */
static int find_shape(const PairsOptions *o, const char *shown, const PairSample *samples, int64_t count,
                      PairSet *set, PairsShape *shape)
{
    set->most = row_most(o, samples, count);
    *shape = shape_rows(samples, count, set->most, o->pack, NULL);
    set->rows = shape->rows;
    set->width = shape->width;
    if (shape->rows)
        return ERROR_NONE;
    return error_raise(ERROR_DATA,
                       "%s: no sample has a label within --seq %d; the first completion begins behind token "
                       "%" PRId64 ": --seq %" PRId64 " or more would learn from some",
                       shown, o->seq, shape->least_first, shape->least_first);
}

/* Of a plan: lengths are all that it needs. */
static int plan_part(const PairsOptions *o, const char *shown, const PairsLengths *lengths, PairSet *set,
                     PairsShape *shape)
{
    TextPart part;
    if (cut_part(shown, o, lengths->count, &part) ||
        find_shape(o, shown, lengths->samples + part.first, part.count, set, shape))
        return error_code();
    host_later((size_t)shape->ids * sizeof(int32_t) + (size_t)part.count * sizeof(PairSample) +
               (size_t)(shape->rows + 1) * sizeof(int64_t));
    return ERROR_NONE;
}

/* A list that grew as it was filled takes no more than it holds; where that fails, it stays. */
static void trim(PairSet *set)
{
    MemTracker *tracker = context_here()->tracker;
    TokenIds *ids = &set->ids;
    int32_t *fit = ids->count ? memtrack_host_realloc(tracker, ids->ids, ids->room * sizeof *fit,
                                                      ids->count * sizeof *fit)
                              : NULL;
    if (!fit)
        return;
    ids->ids = fit;
    ids->room = ids->count;
}

static int read_part(const PairsOptions *o, PairsLines *lines, PairSet *set, PairsShape *shape)
{
    Span eos;
    TextPart part;
    int64_t total = pairs_count(lines);
    if (total < 0 || cut_part(lines->shown, o, total, &part) || find_eos(o, &eos))
        return error_code();
    PairsReading r = reading_of(o, lines, eos, 1, context_here()->tracker);
    pairs_read(lines, &r, part.first, part.count);
    pairs_reading_end(&r);
    set->samples = r.samples;
    set->count = r.count;
    set->room = r.room;
    set->ids = r.ids;
    if (error_code() || find_shape(o, lines->shown, set->samples, set->count, set, shape))
        return error_code();
    trim(set);
    set->starts = host_alloc_for(PAIRS_MAKER, "the rows", (size_t)(set->rows + 1) * sizeof *set->starts);
    if (!set->starts)
        return ERROR_HOST_MEMORY;
    shape_rows(set->samples, set->count, set->most, o->pack, set->starts);
    return ERROR_NONE;
}

/* Fills the set from the file, or from what is known of it. */
static int take_part(const char *path, const char *shown, const PairsOptions *o, PairSet *set,
                     PairsShape *shape)
{
    PairsLines lines = {.file = -1};
    PairsLengths *own = NULL;
    int meta = context_here()->meta;
    const PairsLengths *lengths = meta && o->lengths && is_of(o->lengths, path, o) ? o->lengths : NULL;
    int status = lengths ? ERROR_NONE : pairs_lines_open(&lines, path, o->input);
    if (!status && meta && !lengths)
        lengths = own = lengths_of(path, o, &lines);
    if (!status && meta)
        status = lengths ? plan_part(o, shown, lengths, set, shape) : error_code();
    else if (!status)
        status = read_part(o, &lines, set, shape);
    data_pairs_lengths_free(own);
    if (lines.context)
        pairs_lines_close(&lines);
    return status;
}

Loader *data_pairs(const char *path, const PairsOptions *options)
{
    PairsOptions o = options ? *options : (PairsOptions){0};
    PairsShape shape = {0};
    char shown_path[FILE_LABEL];
    if (!context_here() || pairs_options(path, &o))
        return NULL;
    PairSet *set = host_alloc_for(PAIRS_MAKER, "the samples' header", sizeof *set);
    if (!set)
        return NULL;
    *set = (PairSet){0};
    text_input_label(shown_path, path);
    if (take_part(path, shown_path, &o, set, &shape)) {
        pairs_destroy(context_here(), set);
        return NULL;
    }
    LoaderSetup setup = {.maker = PAIRS_MAKER,
                         .kind = &pairs,
                         .samples = shape.rows,
                         .classes = o.vocab,
                         .seq = shape.width,
                         .batch = o.batch,
                         .accumulate = o.accumulate,
                         .seed = o.seed,
                         .shuffle = o.split == DATA_TRAIN,
                         .note = note_of(&o, shown_path, &shape)};
    return loader_create(&setup, set);
}
