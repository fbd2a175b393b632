/* Loading: which tensor of the files is which parameter, everything that does not fit in one message, and
 * only then the bytes, each parameter straight into its storage. */
#include "../base/plural_.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/ends_.h"
#include "../tensor/tensor_.h"
#include "family_.h"
#include "listing_.h"
#include "quantized_.h"
#include "safetensors_.h"
#include "weights_.h"

/* ---- Matching -------------------------------------------------------------------------------- */

/* What a parameter is read from. */
typedef struct Source {
    const SafetensorsEntry *entry; /* NULL = nothing yet */
    int quantized;                 /* it holds codes, which are */
    QuantizedEntry codes;
    /* Of a parameter that files may have in pieces: each one's, NULL = not there; and how many are. */
    const SafetensorsEntry **pieces;
    int count, found;
} Source;

typedef struct Loading {
    Module *model;
    const WeightsOptions *options;
    Safetensors *file;
    char shown[FILE_LABEL];
    ParameterNames names;
    Source *source;                  /* of each parameter */
    const SafetensorsEntry **pieces; /* of all */
    int piece_count;
    const FamilyNames *family;
    size_t wrapped; /* letters that all names begin with, and that are not the model's */
    Misfits fit;
    Listing quantized; /* codes into codes of another type */
    Listing fresh;     /* parameters of a classifier that the file has not */
    int lacking;       /* parameters that the file has not, or not all of */
    WeightsReport report;
} Loading;

int parameter_find(const ParameterNames *names, const char *name)
{
    int low = 0, high = names->list.count - 1;
    while (low <= high) {
        int middle = low + (high - low) / 2;
        int order = strcmp(name, tensor_name(names->list.items[names->sorted[middle]]));
        if (order == 0)
            return names->sorted[middle];
        if (order < 0)
            high = middle - 1;
        else
            low = middle + 1;
    }
    return -1;
}

static int by_parameter_name(const void *a, const void *b, void *items)
{
    Tensor *const *list = items;
    return strcmp(tensor_name(list[*(const int *)a]), tensor_name(list[*(const int *)b]));
}

static int sort_parameters(Loading *l)
{
    ParameterNames *names = &l->names;
    names->list = nn_parameters(l->model);
    size_t count = (size_t)names->list.count;
    names->sorted = host_alloc(count * sizeof *names->sorted);
    l->source = names->sorted ? host_alloc(count * sizeof *l->source) : NULL;
    if (!l->source)
        return error_code();
    for (int i = 0; i < names->list.count; i++)
        names->sorted[i] = i;
    qsort_r(names->sorted, count, sizeof *names->sorted, by_parameter_name, names->list.items);
    return 0;
}

/* Room for what each parameter's pieces are read from. */
static int make_sources(Loading *l)
{
    l->family = family_names(nn_class_name(l->model));
    l->piece_count = file_piece_count(l->family, l->names.list);
    l->pieces = host_alloc((size_t)l->piece_count * sizeof *l->pieces);
    for (int i = 0, at = 0; l->pieces && i < l->names.list.count; i++) {
        Source *source = &l->source[i];
        source->count = file_pieces(l->family, l->names.list.items[i]);
        source->pieces = source->count > 1 ? l->pieces + at : NULL;
        at += source->count;
    }
    return l->pieces ? 0 : error_code();
}

static int same_contents(const Loading *l, const SafetensorsEntry *a, const SafetensorsEntry *b)
{
    int same = a->type == b->type && a->ndim == b->ndim && a->bytes == b->bytes &&
               !memcmp(a->dim, b->dim, sizeof a->dim);
    return same && (context_is_meta(context_current()) || safetensors_same_bytes(l->file, a, b));
}

static int untied(const Loading *l, const SafetensorsEntry *entry, const SafetensorsEntry *parameter)
{
    return error_raise(ERROR_DATA,
                       "%s: %s differs from %s, but the model has one parameter for both (a tied head)",
                       l->shown, string_text(entry->name).text, string_text(parameter->name).text);
}

/* Scales and tables of a quantised parameter that is there: they are read with it. */
static int is_part(const Loading *l, const char *stored)
{
    size_t length;
    char whole[NAME_BYTES], full[NAME_BYTES];
    const char *name = stored + l->wrapped;
    NameFound p;
    if (!quantized_is_part(name, &length) || length + sizeof ".weight" > sizeof whole)
        return 0;
    snprintf(whole, sizeof whole, "%.*s", (int)length, name);
    if (!text_ends(whole, ".weight"))
        strcat(whole, ".weight");
    int fits = snprintf(full, sizeof full, "%.*s%s", (int)l->wrapped, stored, whole) < NAME_BYTES;
    return fits && safetensors_find(l->file, full) &&
           name_meaning(&l->names, nn_class_name(l->model), whole, &p) <= NAME_TIED;
}

static const SafetensorsEntry *first_piece(const Source *source)
{
    for (int i = 0; source->found && i < source->count; i++)
        if (source->pieces[i])
            return source->pieces[i];
    return NULL;
}

/* A tensor that is a parameter, or a piece of one. A file has a parameter whole or in pieces, once. */
static int match_parameter(Loading *l, const SafetensorsEntry *entry, NameFound found)
{
    Source *source = &l->source[found.parameter];
    int in_pieces = found.piece >= 0 && source->pieces;
    const SafetensorsEntry **at = in_pieces ? &source->pieces[found.piece] : &source->entry;
    const SafetensorsEntry *other = *at ? *at : in_pieces ? source->entry : first_piece(source);
    if (other)
        return stored_twice(l->shown, other, entry);
    *at = entry;
    source->found += in_pieces;
    return 0;
}

static int match_tied(Loading *l, const SafetensorsEntry *entry, Source *source)
{
    if (!source->entry)
        source->entry = entry;
    else if (!same_contents(l, source->entry, entry))
        return untied(l, entry, source->entry);
    else
        l->report.ignored++;
    return 0;
}

/* Tied copies last, when it is known what else there is. */
static int match_names(Loading *l, int tied)
{
    int status = 0;
    for (int i = 0; i < safetensors_count(l->file) && !status; i++) {
        const SafetensorsEntry *entry = safetensors_at(l->file, i);
        NameFound p;
        NameMeaning meaning = name_meaning(&l->names, nn_class_name(l->model), entry->name + l->wrapped, &p);
        if ((meaning == NAME_TIED) != tied || (meaning == NAME_UNEXPECTED && is_part(l, entry->name)))
            continue;
        if (meaning == NAME_UNEXPECTED)
            misfit_unexpected(&l->fit, entry->name, name_hint(entry->name));
        else if (meaning == NAME_IGNORED)
            l->report.ignored++;
        else
            status = tied ? match_tied(l, entry, &l->source[p.parameter]) : match_parameter(l, entry, p);
    }
    return status;
}

/* The rows that the file lacks of a parameter that has one for each token; 0 where it is none of these. */
static int64_t lacks_rows(const SafetensorsEntry *entry, Shape shape, int vocab)
{
    int grows = shape.ndim > 0 && entry->ndim == shape.ndim && entry->dim[0] > 0 && shape.dim[0] == vocab &&
                entry->dim[0] < vocab && same_shape(entry, shape, 1);
    return grows ? vocab - entry->dim[0] : 0;
}

/* Whether the parameter takes the rows that there are. All of them lack the same ones. */
static int takes_rows(Loading *l, const SafetensorsEntry *entry, Shape shape)
{
    int64_t rows = lacks_rows(entry, shape, l->options->grow_vocab);
    if (!rows || (l->report.new_rows && rows != l->report.new_rows))
        return 0;
    l->report.new_rows = (int)rows;
    return 1;
}

/* Quantised matrices are (out,in), whatever numbers in files are. */
static void check_quantized(Loading *l, const Tensor *parameter, const QuantizedEntry *q)
{
    Shape shape = tensor_whole_shape_(parameter), stored = SHAPE(q->rows, q->cols);
    int in_out = parameter->in_out || parameter->transposed;
    Shape wanted = in_out ? SHAPE(shape.dim[1], shape.dim[0]) : shape;
    if (!shape_equal(stored, wanted))
        list_name(&l->fit.shapes, "%s is %s of %s, in the model %s", tensor_name(parameter),
                  shape_text(stored).text, dtype_name(q->dtype), shape_text(wanted).text);
    else if (dtype_is_quantized(parameter->dtype) && quantized_type(parameter) != q->dtype)
        list_name(&l->quantized, "%s is %s, in the model %s", tensor_name(parameter), dtype_name(q->dtype),
                  dtype_name(quantized_type(parameter)));
}

/* How many of the parameters that begin so are in the file; *all: there are. */
static int count_stored(const Loading *l, const char *beginning, int *all)
{
    int stored = 0;
    for (int i = 0; i < l->names.list.count; i++) {
        int one = text_begins(tensor_name(l->names.list.items[i]), beginning);
        *all += one;
        stored += one && l->source[i].entry;
    }
    return stored;
}

/* The beginnings of a classifier's parameters, where the file has another head; NULL = it is not so. */
static const char *const *new_head(const Loading *l)
{
    const FamilyFiles *files = family_files_named(nn_class_name(l->model));
    const char *const *names = files ? files->names.classifier : NULL;
    int all = 0;
    return names && names[0] && !count_stored(l, names[0], &all) && all ? names : NULL;
}

static int is_of_head(const char *const *head, const char *name)
{
    return head && (text_begins(name, head[0]) || (head[1] && text_begins(name, head[1])));
}

/* One of a parameter's pieces. Without some of them the parameter is missing. */
static int check_piece(Loading *l, int i, int k)
{
    const Tensor *parameter = l->names.list.items[i];
    const SafetensorsEntry *entry = l->source[i].pieces[k];
    FilePiece piece = file_piece(l->family, parameter, k);
    QuantizedEntry codes;
    int quantized = entry ? quantized_find(l->file, entry, &codes) : 0;
    if (quantized < 0)
        return error_code();
    if (!entry)
        list_name(&l->fit.missing, "%s", piece.name);
    else if (!quantized)
        misfit_numbers(&l->fit, entry, piece.shape, 0);
    else if (!shape_equal(SHAPE(codes.rows, codes.cols), piece.shape))
        list_name(&l->fit.shapes, "%s is %s of %s, in the model %s", piece.name,
                  shape_text(SHAPE(codes.rows, codes.cols)).text, dtype_name(codes.dtype),
                  shape_text(piece.shape).text);
    else if (dtype_is_quantized(parameter->dtype))
        list_name(&l->quantized, "%s is %s, in the model a part of %s", piece.name, dtype_name(codes.dtype),
                  dtype_name(quantized_type(parameter)));
    return 0;
}

static int check_parameter(Loading *l, int i, const char *const *head)
{
    const Tensor *parameter = l->names.list.items[i];
    Shape shape = tensor_whole_shape_(parameter);
    Source *source = &l->source[i];
    for (int k = 0; source->found && k < source->count; k++)
        if (check_piece(l, i, k))
            return error_code();
    if (source->found) {
        l->lacking += source->found < source->count;
        return 0;
    }
    source->quantized = source->entry ? quantized_find(l->file, source->entry, &source->codes) : 0;
    if (source->quantized < 0)
        return error_code();
    if (!source->entry && is_of_head(head, tensor_name(parameter))) {
        list_name(&l->fresh, "%s", tensor_name(parameter));
    } else if (!source->entry) {
        list_name(&l->fit.missing, "%s",
                  file_piece(l->family, parameter, 0).name); /* as the file would call it */
        l->lacking++;
    } else if (source->quantized) {
        check_quantized(l, parameter, &source->codes);
    } else {
        misfit_numbers(&l->fit, source->entry, shape, takes_rows(l, source->entry, shape));
    }
    return 0;
}

/* Returns 0, or an error that is the file's alone; what does not fit is listed. */
static int check_parameters(Loading *l)
{
    const char *const *head = new_head(l);
    int status = 0;
    for (int i = 0; i < l->names.list.count && !status; i++)
        status = check_parameter(l, i, head);
    return status;
}

/* Everything that is wrong, in one error. */
static int check_lists(Loading *l)
{
    int partial = l->options->partial;
    int missing = partial ? 0 : l->fit.missing.count, unexpected = partial ? 0 : l->fit.unexpected.count;
    /* Where nothing fits it is another model. */
    const char *hint = l->fit.hint[0] ? l->fit.hint
                       : l->lacking < l->names.list.count
                           ? "; --init-partial loads the rest, and these keep random values"
                           : "";
    if (missing && unexpected)
        return error_raise(ERROR_DATA,
                           "%s: %d parameter%s missing: %s; and %d tensor%s not the model's: %s%s", l->shown,
                           missing, missing > 1 ? "s are" : " is", listed_names(&l->fit.missing), unexpected,
                           unexpected > 1 ? "s are" : " is", listed_names(&l->fit.unexpected), hint);
    if (missing)
        return error_raise(ERROR_DATA, "%s: %d parameter%s missing: %s%s", l->shown, missing,
                           missing > 1 ? "s are" : " is", listed_names(&l->fit.missing), hint);
    if (unexpected)
        return error_raise(ERROR_DATA, "%s: %d tensor%s not the model's: %s%s", l->shown, unexpected,
                           unexpected > 1 ? "s are" : " is", listed_names(&l->fit.unexpected),
                           l->fit.hint[0] ? l->fit.hint : "; --init-partial leaves them out");
    if (misfits_raise_numbers(&l->fit, l->shown))
        return error_code();
    if (l->quantized.count)
        return error_raise(
            ERROR_DATA,
            "%s: codes are not decoded to be quantised again: %s; make the model with the file's "
            "type (--quantize), or without quantised weights",
            l->shown, listed_names(&l->quantized));
    return 0;
}

static void write_note(Loading *l)
{
    WeightsReport *r = &l->report;
    r->missing = l->lacking;
    r->unexpected = l->fit.unexpected.count;
    r->new_head = l->fresh.count;
    r->loaded = l->names.list.count - r->missing - r->new_head;
    if (r->missing)
        snprintf(r->note, sizeof r->note, "%d of %d parameters %s not in the file and keep%s: %.150s.",
                 r->missing, l->names.list.count, r->missing == 1 ? "is" : "are",
                 r->missing == 1 ? "s its value" : " their values", listed_names(&l->fit.missing));
    else if (r->new_head)
        snprintf(r->note, sizeof r->note,
                 "The classifier is new and has yet to learn; the file has another head and lacks %.150s.",
                 listed_names(&l->fresh));
    else if (r->new_rows)
        snprintf(r->note, sizeof r->note,
                 "The vocabulary grows from %d to %d tokens; the new rows are drawn as a new model's.",
                 l->options->grow_vocab - r->new_rows, l->options->grow_vocab);
    else if (r->unexpected)
        snprintf(r->note, sizeof r->note, "%d tensor%s of the file %s not the model's: %.150s.",
                 r->unexpected, plural(r->unexpected), r->unexpected == 1 ? "is" : "are",
                 listed_names(&l->fit.unexpected));
}

/* ---- Loading --------------------------------------------------------------------------------- */

typedef struct Decoding {
    const QuantizedEntry *from;
    const Tensor *to;
} Decoding;

/* Codes into a parameter that holds numbers. */
static int read_decoded(void *user, int64_t first, int64_t count, float *values)
{
    const Decoding *d = user;
    const QuantizedEntry *q = d->from;
    int64_t cols = d->to->in_out ? q->rows : 0; /* (in,out) of codes (out,in) */
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done;
        int64_t from = tensor_place_(d->to, first + done, &n), left = q->rows * q->cols - from;
        int64_t some = left < 0 ? 0 : left < n ? left : n;
        memset(values + done + some, 0, (size_t)(n - some) * sizeof *values); /* padding */
        if (!cols && some)
            quantized_decode(q, from, some, values + done);
        for (int64_t i = 0; cols && i < some; i++)
            quantized_decode(q, (from + i) % cols * q->cols + (from + i) / cols, 1, values + done + i);
    }
    return 0;
}

static int is_copied(const SafetensorsEntry *entry, const Tensor *to)
{
    return (entry->type == SAFETENSORS_BF16 && to->dtype == DTYPE_BF16) ||
           (entry->type == SAFETENSORS_F16 && to->dtype == DTYPE_F16);
}

typedef struct Joining {
    const Safetensors *file;
    const Source *from;
    const Tensor *to;
    int64_t each; /* elements of a piece */
    int piece;    /* that codes are those of; -1: none yet */
    int quantized;
    QuantizedEntry codes;
} Joining;

static int read_piece(Joining *j, int64_t place, int64_t count, float *values)
{
    int piece = (int)(place / j->each);
    const SafetensorsEntry *entry = j->from->pieces[piece];
    if (piece != j->piece)
        j->quantized = quantized_find(j->file, entry, &j->codes);
    j->piece = piece;
    if (j->quantized < 0)
        return error_code();
    if (!j->quantized)
        return safetensors_read_part(j->file, entry, place % j->each, count, values);
    quantized_decode(&j->codes, place % j->each, count, values);
    return 0;
}

/* Pieces of a parameter, one after the other. */
static int read_joined(void *user, int64_t first, int64_t count, float *values)
{
    Joining *j = user;
    int64_t whole = j->each * j->from->count;
    int failed = 0;
    for (int64_t done = 0, n; done < count && !failed; done += n) {
        n = count - done;
        int64_t place = tensor_place_(j->to, first + done, &n), end = (place / j->each + 1) * j->each;
        if (place >= whole) {
            memset(values + done, 0, (size_t)n * sizeof *values); /* padding */
            continue;
        }
        n = n < end - place ? n : end - place;
        failed = read_piece(j, place, n, values + done);
    }
    return failed;
}

static int read_pieces(const Loading *l, const Source *source, Tensor *to)
{
    int64_t each = tensor_whole_numel_(to) / source->count;
    int copied = 1;
    for (int k = 0; k < source->count; k++)
        copied = copied && is_copied(source->pieces[k], to);
    if (!copied)
        return tensor_store_(
            to, read_joined,
            &(Joining){.file = l->file, .from = source, .to = to, .each = each, .piece = -1});
    for (int k = 0; k < source->count && !context_is_meta(context_current()); k++)
        safetensors_copy_as(l->file, source->pieces[k],
                            (EntryPart){.as = to, .count = tensor_numel(to), .skip = k * each}, to, 0);
    return error_code();
}

/* What is in the parameter's own type is copied, everything else goes through tensor_store_: on meta too,
 * where it plans its buffers. */
static int read_parameter(const Loading *l, const Source *source, Tensor *to)
{
    int meta = context_is_meta(context_current());
    if (source->found)
        return read_pieces(l, source, to);
    if (source->quantized && quantized_type(to) != source->codes.dtype)
        return tensor_store_(to, read_decoded, &(Decoding){&source->codes, to});
    if (!source->quantized && !is_copied(source->entry, to))
        return safetensors_read_tensor(l->file, source->entry, to);
    if (!meta && source->quantized)
        quantized_copy(&source->codes, to);
    else if (!meta)
        safetensors_copy_as(l->file, source->entry, (EntryPart){.as = to, .count = tensor_numel(to)}, to, 0);
    return error_code();
}

static int is_whole(const Source *source)
{
    return source->entry || (source->found && source->found == source->count);
}

/* What stops one of several ranks stops the others where they wait for each other next. */
static int read_parameters(const Loading *l)
{
    for (int i = 0; i < l->names.list.count; i++)
        if (is_whole(&l->source[i]) && !l->names.list.items[i]->absent &&
            (!error_code() || tensor_store_meets_(l->names.list.items[i])))
            read_parameter(l, &l->source[i], l->names.list.items[i]);
    return error_code();
}

static int match(Loading *l)
{
    if (sort_parameters(l) || make_sources(l))
        return error_code();
    l->wrapped = names_wrapped(&l->names, nn_class_name(l->model), l->file);
    if (match_names(l, 0) || match_names(l, 1))
        return error_code();
    if (check_parameters(l) || check_lists(l))
        return error_code();
    write_note(l);
    return 0;
}

int io_load_weights(Module *model, const char *path, const WeightsOptions *options, WeightsReport *report)
{
    static const WeightsOptions defaults;
    if (!model || !path)
        return error_raise(ERROR_ARGUMENT, "io_load_weights(): %s is NULL", model ? "path" : "model");
    Loading l = {.model = model,
                 .options = options ? options : &defaults,
                 .fit = NO_MISFITS,
                 .quantized = {.room = ROOM_OF_TWO},
                 .fresh = {.room = ROOM_OF_TWO}};
    path_label(l.shown, path);
    l.file = safetensors_open(path);
    if (l.file)
        match(&l);
    Context *context = context_here();
    int status = ranks_agree_error_(context, NULL); /* one that cannot read would leave the others waiting */
    if (!status) {
        read_parameters(&l);
        status = ranks_agree_error_(context, NULL);
    }
    size_t count = (size_t)l.names.list.count;
    if (l.pieces)
        host_free(context, l.pieces, (size_t)l.piece_count * sizeof *l.pieces);
    if (l.source)
        host_free(context, l.source, count * sizeof *l.source);
    if (l.names.sorted)
        host_free(context, l.names.sorted, count * sizeof *l.names.sorted);
    safetensors_close(l.file);
    if (report)
        *report = l.report;
    return status;
}
