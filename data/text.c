/* Text as bytes: 256 tokens need no tokenizer and no download. A file is cut into sequences without overlap;
 * the last of them are held out. Only the bytes of the part asked for are read. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/philox_.h"
#include "../base/plural_.h"
#include "ids_.h"
#include "loader_.h"

#define MAKER        "data_text"
#define CORPUS_SEED  1 /* the text stays the same whatever shuffles it */
#define CORPUS_BYTES (1 << 20)

/* ---- Samples --------------------------------------------------------------------------------- */

static int64_t token_at(const TextSet *set, int64_t place)
{
    const uint8_t *from = (const uint8_t *)set->tokens + set->width * place;
    uint64_t id = 0;
    for (int i = set->width - 1; i >= 0; i--) /* little-endian wherever we are */
        id = id << 8 | from[i];
    return (int64_t)id;
}

/* Tokens from place on. */
static void copy_tokens(const TextSet *set, int64_t place, int32_t *to, int64_t count)
{
    if (set->width == 1) {
        const uint8_t *from = (const uint8_t *)set->tokens + place;
        for (int64_t i = 0; i < count; i++)
            to[i] = from[i];
    } else if (set->width == 2) {
        const uint8_t *from = (const uint8_t *)set->tokens + 2 * place;
        for (int64_t i = 0; i < count; i++)
            to[i] = (int32_t)from[2 * i] | (int32_t)from[2 * i + 1] << 8; /* little-endian wherever we are */
    } else {
        for (int64_t i = 0; i < count; i++) {
            uint64_t id = (uint64_t)token_at(set, place + i);
            to[i] = id > INT32_MAX ? -1 : (int32_t)id;
        }
    }
    for (int64_t i = 0; set->limit && i < count; i++)
        if (to[i] < 0 || to[i] >= set->limit) {
            int64_t id = token_at(set, place + i);
            ids_refuse(token_source_name(set->source), id, set->first * set->stride + place + i, id,
                       set->limit);
            return;
        }
}

int64_t text_fill_plain(const void *dataset, SampleKey key, SampleRow row)
{
    const TextSet *set = dataset;
    if (row.ids) {
        copy_tokens(set, key.sample * set->stride, row.ids, set->seq);
        copy_tokens(set, key.sample * set->stride + 1, row.labels, set->seq);
    }
    return set->seq;
}

static Philox mask_bits(SampleKey key, int64_t sequence, int64_t place)
{
    return philox4x32(key.seed, (uint32_t)place, (uint32_t)sequence, (uint32_t)key.epoch,
                      STREAM_MASK ^ (uint32_t)(sequence >> 32));
}

/* Of those that tokens have. */
static int32_t drawn_id(const TextSet *set, uint32_t bits)
{
    int32_t at = (int32_t)(((uint64_t)bits * (uint64_t)set->vocab) >> 32);
    return set->known ? set->known[at] : at;
}

/* Makes a place one to predict: 80 % [MASK], 10 % any token, 10 % as it is (Devlin et al., arXiv 1810.04805).
 */
static void mask_place(const TextSet *set, SampleRow row, int64_t place, Philox bits)
{
    if (!row.ids)
        return;
    row.labels[place] = row.ids[place];
    float choice = philox_unit(bits.v[1]);
    if (choice < 0.8f)
        row.ids[place] = set->mask;
    else if (choice < 0.9f)
        row.ids[place] = drawn_id(set, bits.v[2]);
}

int64_t text_fill_masked(const void *dataset, SampleKey key, SampleRow row)
{
    const TextSet *set = dataset;
    int64_t sequence = set->first + key.sample, letters = set->seq - 2, chosen = 0;
    if (row.ids) {
        row.ids[0] = set->cls;
        row.ids[set->seq - 1] = set->sep;
        copy_tokens(set, key.sample * set->stride, row.ids + 1, letters);
        for (int64_t i = 0; i < set->seq; i++)
            row.labels[i] = BATCH_IGNORE;
    }
    for (int64_t i = 1; i <= letters; i++) {
        Philox bits = mask_bits(key, sequence, i);
        if (philox_unit(bits.v[0]) < set->mask_probability) {
            mask_place(set, row, i, bits);
            chosen++;
        }
    }
    if (chosen ==
        0) { /* a sample without labels would teach nothing: choose one place, by the draw of place 0 */
        Philox bits = mask_bits(key, sequence, 0);
        mask_place(set, row, 1 + (int64_t)(((uint64_t)bits.v[3] * (uint64_t)letters) >> 32), bits);
        chosen = 1;
    }
    return chosen;
}

static void text_destroy(Context *context, void *dataset)
{
    TextSet *set = dataset;
    host_free(context, set->block, set->size);
    text_input_free(set->input);
    host_free(context, set, sizeof *set);
}

static const DatasetKind plain_text = {text_fill_plain, text_destroy};
static const DatasetKind masked_text = {text_fill_masked, text_destroy};

/* ---- Cutting --------------------------------------------------------------------------------- */

int text_options_valid(const char *maker, const char *path, const TextOptions *o)
{
    int masked = o->mask_probability > 0;
    if (!path)
        error_raise(ERROR_ARGUMENT, "%s: path is NULL; name a file of text%s", maker,
                    strcmp(maker, MAKER) ? " or tokens" : ", or \"builtin\"");
    else if (o->seq < 0 || (masked && o->seq < 3))
        error_raise(ERROR_ARGUMENT, "%s: seq is %d; it must be %s (0 means 128)", maker, o->seq,
                    masked ? "3 or more, [CLS] a byte [SEP]," : "1 or more");
    else if (!(o->held_out < 1))
        error_raise(ERROR_ARGUMENT,
                    "%s: held_out is %g; it is a fraction below 1 (0 means 0.05, negative none)", maker,
                    (double)o->held_out);
    else if (!(o->mask_probability >= 0 && o->mask_probability <= 1))
        error_raise(ERROR_ARGUMENT, "%s: mask_probability is %g; it must be in 0..1", maker,
                    (double)o->mask_probability);
    else if (o->corpus_bytes < 0)
        error_raise(ERROR_ARGUMENT, "%s: corpus_bytes is %" PRId64 "; it must be 1 or more (0 means 1 MiB)",
                    maker, o->corpus_bytes);
    else if (o->split != DATA_TRAIN && o->split != DATA_HELD_OUT)
        error_raise(ERROR_ARGUMENT, "%s: split is %d; DATA_TRAIN or DATA_HELD_OUT", maker, (int)o->split);
    else
        return 1;
    return 0;
}

/* Says how many bytes `sequences` need and which seq would do. */
static int too_short(const char *path, const TextOptions *o, const TextCut *cut, int sequences)
{
    int masked = o->mask_probability > 0;
    int64_t fits = (cut->length - cut->extra) / sequences + (masked ? 2 : 0);
    char advice[64] = "use a longer text";
    if (fits >= (masked ? 3 : 1))
        snprintf(advice, sizeof advice, "use --seq %" PRId64 " or less, or a longer text", fits);
    return error_raise(ERROR_DATA, "%s has %" PRId64 " %s%s, %s of seq %d needs %" PRId64 "; %s", path,
                       cut->length, cut->unit, plural(cut->length),
                       sequences == 1 ? "one sequence" : "a held-out part beside one sequence", o->seq,
                       sequences * cut->stride + cut->extra, advice);
}

int text_part(const char *maker, const TextOptions *o, int64_t total, TextPart *part)
{
    int64_t held = 0;
    if (o->held_out >= 0 && total >= 2) {
        double fraction = o->held_out > 0 ? (double)o->held_out : 0.05;
        held = (int64_t)((double)total * fraction);
        held = held < 1 ? 1 : held > total - 1 ? total - 1 : held;
    }
    if (o->split == DATA_HELD_OUT && o->held_out < 0)
        return error_raise(ERROR_ARGUMENT,
                           "%s: held_out is %g, which holds nothing out; the held-out part needs a "
                           "fraction of 0 (0.05) or more",
                           maker, (double)o->held_out);
    part->first = o->split == DATA_HELD_OUT ? total - held : 0;
    part->count = o->split == DATA_HELD_OUT ? held : total - held;
    if (o->max_samples && o->max_samples < part->count)
        part->count = o->max_samples;
    return ERROR_NONE;
}

int text_cut(const char *path, const TextOptions *o, TextCut *cut)
{
    TextPart part = {0};
    if (cut->length == 0)
        return error_raise(ERROR_DATA, "%s is empty", path);
    int64_t total = (cut->length - cut->extra) / cut->stride;
    if (total < 1)
        return too_short(path, o, cut, 1);
    if (text_part(cut->maker, o, total, &part))
        return error_code();
    if (!part.count)
        return too_short(path, o, cut, 2);
    cut->first = part.first;
    cut->samples = part.count;
    return ERROR_NONE;
}

/* A text larger than the machine would be killed while it is read, not refused: malloc promises what is not
 * there. */
static int fits_machine(const char *path, uint64_t bytes)
{
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (bytes < machine)
        return 1;
    error_raise(ERROR_HOST_MEMORY,
                "%" PRIu64 " bytes of %s would be read, this machine has %" PRIu64
                " of memory; a limit on samples (--max-samples) reads fewer",
                bytes, path, machine);
    return 0;
}

/* Fills the set's bytes from the file, or from the corpus when file is -1. */
static int text_read(TextSet *set, const TextCut *cut, int file, const char *path)
{
    int64_t from = cut->first * cut->stride, length = cut->samples * cut->stride + cut->extra;
    int64_t skipped = file < 0 ? from : 0; /* the corpus is written from its beginning */
    if (host_later((size_t)(skipped + length)))
        return ERROR_NONE;
    if (!fits_machine(path, (uint64_t)(skipped + length)))
        return ERROR_HOST_MEMORY;
    uint8_t *bytes = host_alloc_for(MAKER, path, (size_t)(skipped + length));
    if (!bytes)
        return ERROR_HOST_MEMORY;
    set->tokens = set->block = bytes;
    set->size = (size_t)(skipped + length);
    if (file >= 0)
        return file_read(file, path, from, bytes, set->size);
    data_corpus(CORPUS_SEED, (char *)bytes, set->size);
    memmove(bytes, bytes + skipped, (size_t)length);
    bytes = memtrack_host_realloc(context_here()->tracker, bytes, set->size, (size_t)length);
    if (bytes) { /* else the larger block stays, which is as good */
        set->tokens = set->block = bytes;
        set->size = (size_t)length;
    }
    return ERROR_NONE;
}

/* ---- The loader ------------------------------------------------------------------------------ */

/* Where the bytes come from: a file, a text that has been read, the corpus (neither). */
typedef struct TextFrom {
    int file;               /* -1 = none */
    const TextInput *input; /* NULL = none */
    TextInput *owned;       /* the same, where data_text has read it */
    TextNote note;
} TextFrom;

static int text_take(TextSet *set, const TextCut *cut, const TextFrom *from, const char *path)
{
    size_t bytes;
    if (!from->input)
        return text_read(set, cut, from->file, path);
    if (!context_here()->meta)
        set->tokens = text_input_text(from->input, &bytes) + cut->first * cut->stride;
    return ERROR_NONE;
}

/* Takes what is owned, also on failure. */
static Loader *text_loader(const char *path, const TextOptions *o, TextCut *cut, const TextFrom *from)
{
    int masked = o->mask_probability > 0;
    TextSet *set = text_cut(path, o, cut) ? NULL : host_alloc_for(MAKER, "the text's header", sizeof *set);
    if (!set) {
        text_input_free(from->owned);
        return NULL;
    }
    *set = (TextSet){.width = 1,
                     .input = from->owned,
                     .first = cut->first,
                     .stride = cut->stride,
                     .seq = o->seq,
                     .mask_probability = o->mask_probability,
                     .vocab = 256,
                     .cls = TOKEN_CLS,
                     .sep = TOKEN_SEP,
                     .mask = TOKEN_MASK};
    if (text_take(set, cut, from, path) != ERROR_NONE) {
        text_destroy(context_here(), set);
        return NULL;
    }
    LoaderSetup setup = {.maker = MAKER,
                         .kind = masked ? &masked_text : &plain_text,
                         .samples = cut->samples,
                         .classes = masked ? TOKEN_VOCAB : 256,
                         .seq = o->seq,
                         .batch = o->batch,
                         .accumulate = o->accumulate,
                         .seed = o->seed,
                         .shuffle = o->split == DATA_TRAIN,
                         .note = from->note};
    return loader_create(&setup, set);
}

int text_is_readable_twice(const char *path)
{
    char shown[FILE_LABEL];
    if (!text_input_is_once(path))
        return 1;
    text_input_label(shown, path);
    error_raise(ERROR_ARGUMENT,
                "%s is a pipe, which can be read once, but a plan and its run both read: read it with "
                "text_input_read before, and give that as .input",
                shown);
    return 0;
}

/* Of a file that is read by parts, only its beginning is looked at. */
static int text_look(const char *path, TextFrom *from, int64_t bytes)
{
    uint8_t head[FILE_HEAD];
    char shown[FILE_LABEL];
    size_t count = bytes < FILE_HEAD ? (size_t)bytes : FILE_HEAD;
    path_label(shown, path);
    if (file_read(from->file, path, 0, head, count))
        return error_code();
    from->note = text_kind_note(shown, head, count, (uint64_t)bytes, 1);
    return ERROR_NONE;
}

/* Opens the text and fills in its length. */
static int text_open(const char *path, const TextOptions *o, TextFrom *from, int64_t *length)
{
    size_t bytes = 0;
    *from = (TextFrom){.file = -1, .input = o->input};
    if (!o->input && strcmp(path, "builtin") == 0) {
        *length = o->corpus_bytes ? o->corpus_bytes : CORPUS_BYTES;
        return ERROR_NONE;
    }
    if (!o->input && text_input_needed(path)) {
        if (!text_is_readable_twice(path) || !(from->owned = text_input_open(path, context_here()->tracker)))
            return error_code();
        from->input = from->owned;
    }
    if (from->input) {
        text_input_text(from->input, &bytes);
        *length = (int64_t)bytes;
        from->note = text_input_note(from->input, 1);
        return ERROR_NONE;
    }
    from->file = file_open(path, length);
    return from->file < 0 ? error_code() : text_look(path, from, *length);
}

Loader *data_text(const char *path, const TextOptions *options)
{
    TextOptions o = options ? *options : (TextOptions){0};
    if (!context_here())
        return NULL;
    if (o.seq == 0)
        o.seq = 128;
    if (!text_options_valid(MAKER, path, &o) ||
        !loader_options(MAKER, &o.batch, 8, &o.accumulate, o.max_samples))
        return NULL;
    int masked = o.mask_probability > 0;
    TextCut cut = {.maker = MAKER,
                   .unit = "byte",
                   .stride = masked ? (int64_t)o.seq - 2 : o.seq,
                   .extra = masked ? 0 : 1};
    TextFrom from;
    int status = text_open(path, &o, &from, &cut.length);
    Loader *loader = status ? NULL : text_loader(path, &o, &cut, &from);
    if (from.file >= 0)
        close(from.file);
    return loader;
}
