/* safetensors written: the header from sorted items, padded to eight bytes, then their bytes, converted a
 * piece at a time. The same items give the same file, whether one process writes it or several ranks, each
 * what it has. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tensor/ranks_.h"
#include "../base/half_.h"
#include "io_.h"
#include "listing_.h"
#include "safetensors_.h"

enum { PIECE = 8192, ALIGN = 8 };

int safetensors_bad_item(const char *shown, const SafetensorsItem *item, const char *what)
{
    return error_raise(ERROR_DATA, "%s: the tensor %s %s", shown,
                       item->name ? string_text(item->name).text : "without a name", what);
}

SafetensorsItem safetensors_item(const char *name, SafetensorsType type, const Tensor *tensor)
{
    Shape shape = tensor_whole_shape_(tensor);
    SafetensorsItem item = {.name = name, .type = type, .ndim = shape.ndim, .tensor = tensor};
    memcpy(item.dim, shape.dim, (size_t)shape.ndim * sizeof *shape.dim);
    return item;
}

/* ---- Order ----------------------------------------------------------------------------------- */

typedef struct Sorted {
    const SafetensorsItem *item;
    int64_t numel;
    uint64_t bytes;
    int size; /* of an element */
    /* What is written here: all of it, or of what ranks write together what this rank has, element `first` of
     * its part and so many from there on. */
    int64_t first, count;
    const Tensor *as; /* they lie in the file as those of this parameter do; NULL: as here */
    int64_t block;    /* of which each stands for so many */
    const Storage
        *part; /* where they lie, from its byte `at` on, as elements of this type; NULL: in the item */
    uint64_t at;
    DType type;
    /* Quantised and divided, and the other way round in files, where this rank's part is in no one place: all
     * of it in the host's memory, for as long as rank 0 writes it. */
    int gathers;
    void *whole;
} Sorted;

static int by_size_and_name(const void *a, const void *b)
{
    const Sorted *x = a, *y = b;
    return x->size != y->size ? y->size - x->size : strcmp(x->item->name, y->item->name);
}

static const char cannot_be[] = "has no name, no data, or a type or shape that cannot be";

int safetensors_item_bytes(const char *shown, const SafetensorsItem *item, int64_t *numel, uint64_t *bytes)
{
    if (item->name && (unsigned)item->type < SAFETENSORS_TYPE_COUNT && item->ndim >= 0 &&
        item->ndim <= SAFETENSORS_MAX_DIMS &&
        (!item->turned || (item->type == SAFETENSORS_F32 && item->ndim == 2)) &&
        safetensors_bytes(item->type, item->ndim, item->dim, numel, bytes) == 0)
        return 0;
    return safetensors_bad_item(shown, item, cannot_be);
}

static int sort_items(const char *shown, const SafetensorsItem *items, int count, int with_data,
                      Sorted *sorted)
{
    for (int i = 0; i < count; i++) {
        Sorted *s = &sorted[i];
        s->item = &items[i];
        if (safetensors_item_bytes(shown, s->item, &s->numel, &s->bytes))
            return error_code();
        int elsewhere = s->item->like && s->item->like->absent; /* another stage has the data */
        if (with_data && s->bytes && !s->item->data && !s->item->tensor && !elsewhere)
            return safetensors_bad_item(shown, s->item, cannot_be);
        s->size = safetensors_type_bytes(s->item->type);
        s->first = s->item->first;
        s->count = s->numel;
        s->block = 1;
    }
    qsort(sorted, (size_t)count, sizeof *sorted, by_size_and_name);
    return 0;
}

/* ---- The header ------------------------------------------------------------------------------ */

static json_t *described(const Sorted *s, uint64_t from)
{
    json_t *shape = json_array();
    for (int i = 0; i < s->item->ndim; i++)
        if (json_array_append_new(shape, json_integer(s->item->dim[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_type_name(s->item->type), "shape", shape,
                     "data_offsets", (json_int_t)from, (json_int_t)(from + s->bytes));
}

static int header_memory(const char *shown)
{
    return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the header", shown);
}

static int add_tensor(const char *shown, json_t *root, const Sorted *s, uint64_t from)
{
    const char *name = s->item->name;
    if (json_object_get(root, name))
        return safetensors_bad_item(shown, s->item, "occurs twice");
    if (!text_is_utf8(name))
        return safetensors_bad_item(shown, s->item, "has a name that is not UTF-8");
    return json_object_set_new(root, name, described(s, from)) == 0 ? 0 : header_memory(shown);
}

/* The caller's to decref; NULL with an error raised. */
static json_t *make_header(const char *shown, const Sorted *sorted, int count)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt"); /* transformers asks for it */
    uint64_t from = 0;
    int status = root ? 0 : header_memory(shown);
    for (int i = 0; i < count && !status; i++) {
        status = add_tensor(shown, root, &sorted[i], from);
        from += sorted[i].bytes;
    }
    if (!status)
        return root;
    json_decref(root);
    return NULL;
}

static int count_bytes(const char *text, size_t size, void *total)
{
    (void)text;
    *(size_t *)total += size;
    return 0;
}

/* The header's bytes as they are, and as they are padded. 0 or raises. */
static int header_length(const char *shown, const json_t *root, size_t *length, uint64_t *padded)
{
    *length = 0;
    if (json_dump_callback(root, count_bytes, length, JSON_COMPACT) != 0)
        return header_memory(shown);
    *padded = (*length + ALIGN - 1) / ALIGN * ALIGN;
    return 0;
}

static int write_header(FileWriter *w, const json_t *root)
{
    size_t length;
    uint64_t padded;
    if (header_length(w->shown, root, &length, &padded))
        return w->failed = error_code();
    file_put(w, &padded, sizeof padded);
    file_put_json(w, root, JSON_COMPACT);
    return file_put(w, "        ", (size_t)(padded - length));
}

/* ---- The tensors ----------------------------------------------------------------------------- */

/* n floats from the part's element `first` on. */
static const float *floats_of_part(const Sorted *s, uint64_t first, size_t n, float *piece)
{
    uint16_t halves[PIECE];
    if (s->type == DTYPE_F32) {
        storage_read(s->part, s->at + first * sizeof *piece, n * sizeof *piece, piece);
        return piece;
    }
    storage_read(s->part, s->at + first * sizeof *halves, n * sizeof *halves, halves);
    (s->type == DTYPE_F16 ? half_decode_f16 : half_decode_bf16)(n, halves, piece);
    return piece;
}

/* n floats from element `first` on, in place or in the piece; NULL after raising. */
static const float *floats_at(FileWriter *w, const Sorted *s, int64_t first, size_t n, float *piece)
{
    const SafetensorsItem *item = s->item;
    if (s->whole) {
        quantized_decode_host_(item->tensor, s->whole, first, (int64_t)n, piece);
        return piece;
    }
    if (s->part && dtype_is_quantized(s->type)) {
        tensor_decode_(item->tensor, first, (int64_t)n, piece);
        return piece;
    }
    if (s->part)
        return floats_of_part(s, (uint64_t)(first - s->first), n, piece);
    if (!item->tensor)
        return (const float *)item->data + first;
    if (tensor_dtype(item->tensor) == DTYPE_F32)
        w->failed =
            tensor_read(item->tensor, first * (int64_t)sizeof *piece, (int64_t)(n * sizeof *piece), piece);
    else {
        if (tensor_readable(item->tensor, "safetensors_write"))
            tensor_decode_file_(item->tensor, first, (int64_t)n, piece);
        w->failed = error_code();
    }
    return w->failed ? NULL : piece;
}

static int write_halves(FileWriter *w, const Sorted *s, int64_t first, int64_t count)
{
    uint16_t halves[PIECE];
    float piece[PIECE];
    for (int64_t done = 0; done < count && !w->failed;) {
        size_t n = (size_t)(count - done < PIECE ? count - done : PIECE);
        const float *from = floats_at(w, s, first + done, n, piece);
        if (!from)
            break;
        int64_t bad = s->item->type == SAFETENSORS_F16 ? half_encode_f16(n, from, halves)
                                                       : half_encode_bf16(n, from, halves);
        if (bad >= 0)
            return w->failed = error_raise(ERROR_NONFINITE,
                                           "%s: the tensor %s holds %g, which %s cannot; write it as %s",
                                           w->shown, string_text(s->item->name).text, (double)from[bad],
                                           safetensors_type_name(s->item->type),
                                           s->item->type == SAFETENSORS_F16 ? "bf16 or f32" : "f32");
        file_put(w, halves, n * sizeof *halves);
        done += (int64_t)n;
    }
    return w->failed;
}

static int write_floats(FileWriter *w, const Sorted *s, int64_t first, int64_t count)
{
    float piece[PIECE];
    for (int64_t done = 0; done < count && !w->failed; done += PIECE) {
        size_t n = (size_t)(count - done < PIECE ? count - done : PIECE);
        if (floats_at(w, s, first + done, n, piece))
            file_put(w, piece, n * sizeof *piece);
    }
    return w->failed;
}

/* Bytes as they are. */
static int write_bytes(FileWriter *w, const Sorted *s, int64_t first, int64_t count)
{
    unsigned char piece[PIECE * sizeof(float)];
    uint64_t bytes = (uint64_t)count * (uint64_t)s->size;
    uint64_t from = (uint64_t)(first - s->first) * (uint64_t)s->size;
    if (!s->item->tensor)
        return file_put(w, (const char *)s->item->data + from, (size_t)bytes);
    for (uint64_t done = 0, n; done < bytes && !w->failed; done += n) {
        n = bytes - done < sizeof piece ? bytes - done : sizeof piece;
        if (s->part)
            storage_read(s->part, s->at + from + done, n, piece);
        else
            w->failed =
                tensor_read(s->item->tensor, (int64_t)(s->item->from + from + done), (int64_t)n, piece);
        file_put(w, piece, (size_t)n);
    }
    return w->failed;
}

/* Elements [first, first + count) of what this rank has. */
static int write_elements(FileWriter *w, const Sorted *s, int64_t first, int64_t count)
{
    if (s->item->from)
        return write_bytes(w, s, first, count);
    if (s->item->type == SAFETENSORS_F16 || s->item->type == SAFETENSORS_BF16)
        return write_halves(w, s, first, count);
    if (s->item->type == SAFETENSORS_F32 && s->item->tensor)
        return write_floats(w, s, first, count);
    return write_bytes(w, s, first, count);
}

/* Where element `at` of what this rank has lies in the file's tensor; *n: how many are wanted, and then lie
 * there side by side. */
static int64_t place_in_file(const Sorted *s, int64_t at, int64_t *n)
{
    int64_t elements = *n * s->block, place = tensor_place_(s->as, at * s->block, &elements);
    *n = (elements + s->block - 1) / s->block;
    return place / s->block;
}

/* A tensor's bytes from `from` on are written next, and are added to its sum as if all others were bytes that
 * count for nothing: a CRC is linear, so sums of parts, by whichever rank, added bit by bit are the whole's.
 */
typedef struct Part {
    uint64_t from;
    FileSum sum;
} Part;

static int part_begin(FileWriter *w, Part *part, uint64_t at, uint64_t from, const FileSum *sum)
{
    *part = (Part){.from = from};
    file_seek(w, at + from);
    w->sum = sum ? &part->sum : NULL;
    return w->failed;
}

static void part_end(const Part *part, uint64_t bytes, FileSum *sum)
{
    if (!sum)
        return;
    uint64_t behind = bytes - part->from - part->sum.bytes;
    sum->crc32 ^= file_sum_join(part->sum, (FileSum){.bytes = behind}).crc32;
    sum->bytes += part->sum.bytes;
}

/* A matrix whose columns are the file's rows, some elements at a time; ranks have rows of it. */
static void write_turned(FileWriter *w, const Sorted *s, uint64_t at, FileSum *sum)
{
    float piece[PIECE], column[PIECE];
    int64_t columns = s->item->dim[0], rows = s->item->dim[1];
    for (int64_t done = 0, n; done < s->count && !w->failed; done += n) {
        n = s->count - done < PIECE ? s->count - done : PIECE;
        int64_t first = s->first + done;
        const float *from = floats_at(w, s, first, (size_t)n, piece);
        for (int64_t c = 0; c < columns && from && !w->failed; c++) {
            int64_t row = (first - c + columns - 1) / columns, end = (first + n - c + columns - 1) / columns;
            int64_t wanted = (end - row) * columns;
            for (int64_t r = row; r < end; r++)
                column[r - row] = from[r * columns + c - first];
            Part part;
            int64_t place = c * rows + tensor_place_(s->as, row * columns, &wanted) / columns;
            if (row >= end || part_begin(w, &part, at, (uint64_t)place * sizeof *column, sum))
                continue;
            file_put(w, column, (size_t)(end - row) * sizeof *column);
            part_end(&part, s->bytes, sum);
        }
    }
}

/* A tensor's elements that are written here, wherever they lie in it; `at` is its first byte in the file. */
static void write_parts(FileWriter *w, const Sorted *s, uint64_t at, FileSum *sum)
{
    if (s->item->turned) {
        write_turned(w, s, at, sum);
        return;
    }
    for (int64_t done = 0, n; done < s->count && !w->failed; done += n) {
        Part part;
        n = s->count - done;
        int64_t place = place_in_file(s, s->first + done, &n) - s->item->first, left = s->numel - place;
        if (place < 0) {
            n = n < -place ? n : -place;
            continue;
        }
        int64_t some = left < n ? left : n; /* what is behind the end is padding */
        if (some <= 0 || part_begin(w, &part, at, (uint64_t)place * (uint64_t)s->size, sum))
            continue;
        write_elements(w, s, s->first + done, some);
        part_end(&part, s->bytes, sum);
    }
}

/* Under its temporary name, and on the disk. */
static int write_file(const char *path, const char *shown, const Sorted *sorted, int count, FileSum *sums)
{
    FileWriter writer;
    size_t length;
    uint64_t at = 0;
    json_t *root = make_header(shown, sorted, count);
    if (!root)
        return error_code();
    int opened = file_begin(&writer, path) == 0;
    writer.sum = sums;
    if (opened && header_length(shown, root, &length, &at) == 0)
        write_header(&writer, root);
    at += sizeof(uint64_t);
    for (int i = 0; i < count && !writer.failed; i++) {
        write_parts(&writer, &sorted[i], at, sums ? &sums[i + 1] : NULL);
        at += sorted[i].bytes;
    }
    json_decref(root);
    return file_finish(&writer);
}

/* ---- By all ranks together --------------------------------------------------------------------- */

/* A file on its way: what every rank knows of it, and the checksums of all. */
typedef struct Together {
    Context *context;
    const char *path, *shown;
    Sorted *sorted;
    int count, first; /* first: this is rank 0 */
    json_t *root;
    uint64_t header;    /* bytes before the tensors */
    uint32_t *crc;      /* of each rank, of the header and each tensor, as far as it wrote them */
    size_t of_one, all; /* of these, in elements and bytes */
    FileWriter writer;
} Together;

/* Of a state that is divided as its parameter: elements, or the scales of blocks of them. */
static void divide_state(Sorted *s, const TensorPart *part)
{
    const Tensor *state = s->item->tensor;
    s->block = s->item->type == SAFETENSORS_F32 && dtype_is_dynamic8(state->dtype) ? DYNAMIC8_BLOCK : 1;
    s->first = part->first / s->block;
    s->count = (part->count + s->block - 1) / s->block;
    s->part = state->storage;
    s->at = s->item->from;
    s->type = state->dtype;
}

/* Which elements this rank writes, and where they are. Of what several have, one does. */
static void divide(Sorted *s, int first)
{
    const SafetensorsItem *item = s->item;
    const Tensor *of = item->like ? item->like : item->tensor;
    TensorPart part = {.counts = first, .count = s->numel};
    if (of)
        part = tensor_part_(of);
    if (!part.counts || part.count <= 0 || (of && of->absent))
        s->count = 0;
    else if (item->data)
        s->count = tensor_place_(of, part.first, &(int64_t){1}) ? 0 : s->numel;
    else if (item->like)
        divide_state(s, &part);
    else {
        s->first = part.first;
        s->count = part.count;
    }
    if (of && of->shard && of->transposed && dtype_is_quantized(of->dtype)) {
        int writes = part.counts && of->item.context->ranks->place[RANKS_SHARD] == 0;
        s->gathers = 1;
        s->first = 0;
        s->count = writes ? shape_numel(of->shape) : 0;
        s->as = of;
        return;
    }
    if (s->count == 0 || item->data)
        return;
    s->as = of;
    if (item->like || !of->shard)
        return;
    s->part = part.master ? part.master : part.weights;
    s->type = part.master ? DTYPE_F32 : part.type;
    s->at = part.master ? 0 : dtype_bytes(part.type, 1, part.at);
}

/* Rank 0 makes the file, as long as it will be. */
static int together_begin(Together *t, FileSum *sums)
{
    size_t length = 0;
    uint64_t data = 0;
    if (error_code() || !(t->root = make_header(t->shown, t->sorted, t->count)) ||
        header_length(t->shown, t->root, &length, &t->header))
        return error_code();
    t->header += sizeof(uint64_t);
    for (int i = 0; i < t->count; i++) {
        data += t->sorted[i].bytes;
        divide(&t->sorted[i], t->first);
    }
    enum { UNIT = 64 }; /* bytes that ranks send */
    t->of_one = ((size_t)(t->count + 1) * sizeof *t->crc + UNIT - 1) / UNIT * UNIT / sizeof *t->crc;
    t->all = (size_t)ranks_count_(t->context) * t->of_one * sizeof *t->crc;
    t->crc = sums ? host_alloc(t->all) : NULL;
    if (sums && !t->crc)
        return error_code();
    if (!t->first || file_begin(&t->writer, t->path) || file_set_length(&t->writer, t->header + data))
        return error_code();
    t->writer.sum = sums;
    return write_header(&t->writer, t->root);
}

/* All that have parts of it come here, whatever has happened to one: then none of them goes on. */
static int bring_whole(const Together *t, Sorted *s, size_t *bytes)
{
    *bytes = (size_t)quantized_gathered_bytes_(s->item->tensor);
    s->whole = error_code() ? NULL : host_alloc_for("safetensors_write", "a quantised weight", *bytes);
    int failed = ranks_agree_parts_(t->context);
    return failed ? failed : quantized_to_host_(s->item->tensor, s->whole);
}

static void together_write(Together *t, FileSum *sums)
{
    uint64_t at = t->header;
    size_t bytes = 0;
    for (int i = 0, stop = 0; i < t->count && !stop; i++) {
        Sorted *s = &t->sorted[i];
        stop = s->gathers && bring_whole(t, s, &bytes);
        if (s->count > 0 && !t->writer.failed && !stop)
            write_parts(&t->writer, s, at, sums ? &sums[i + 1] : NULL);
        if (s->whole)
            host_free(t->context, s->whole, bytes);
        s->whole = NULL;
        at += s->bytes;
    }
    file_finish(&t->writer);
}

/* The sums of what each rank has written become those of all. */
static int together_sum(const Together *t, FileSum *sums)
{
    uint32_t *mine = t->crc + (size_t)ranks_place_(t->context) * t->of_one;
    for (int i = 0; i <= t->count; i++)
        mine[i] = sums[i].crc32;
    if (ranks_gather_(t->context, t->crc, t->of_one * sizeof *t->crc))
        return error_code();
    for (int i = 0; i <= t->count; i++) {
        sums[i] = (FileSum){.bytes = i ? t->sorted[i - 1].bytes : t->header};
        for (int r = 0; r < ranks_count_(t->context); r++)
            sums[i].crc32 ^= t->crc[(size_t)r * t->of_one + (size_t)i];
    }
    return 0;
}

static int write_together(Together *t, FileSum *sums)
{
    RankValue process = {.mine = getpid()};
    together_begin(t, sums);
    int status = ranks_agree_error_(t->context, &process);
    if (status)
        file_abandon(&t->writer);
    if (!status && !t->first)
        file_join(&t->writer, t->path, process.first);
    t->writer.joined = 1; /* others may be about to open it: it stays until all are done */
    if (!status) {
        together_write(t, sums);
        if (sums)
            together_sum(t, sums);
        status = ranks_agree_error_(t->context, NULL);
        if (status && t->first)
            file_discard(t->path);
    }
    json_decref(t->root);
    if (t->crc)
        host_free(t->context, t->crc, t->all);
    return status;
}

/* ---- All ------------------------------------------------------------------------------------- */

uint64_t safetensors_file_bytes(const char *shown, const SafetensorsItem *items, int count)
{
    size_t bytes = (size_t)count * sizeof(Sorted), length = 0;
    uint64_t total = 0;
    Sorted *sorted = host_alloc(bytes);
    json_t *root =
        sorted && !sort_items(shown, items, count, 0, sorted) ? make_header(shown, sorted, count) : NULL;
    if (root && header_length(shown, root, &length, &total) == 0) {
        total += sizeof(uint64_t);
        for (int i = 0; i < count; i++)
            total += sorted[i].bytes;
    }
    json_decref(root);
    if (sorted)
        host_free(context_here(), sorted, bytes);
    return error_code() ? 0 : total;
}

/* Every rank comes here, and stays with the others until all are done. */
static int write_with_others(const char *path, const char *shown, const SafetensorsItem *items, int count,
                             FileSum *sums)
{
    Context *context = context_here();
    size_t bytes = (size_t)count * sizeof(Sorted);
    Together t = {.context = context,
                  .path = path,
                  .shown = shown,
                  .count = count,
                  .first = ranks_first_(),
                  .writer = {.file = -1}};
    t.sorted = host_alloc(bytes);
    if (t.sorted)
        sort_items(shown, items, count, 1, t.sorted);
    int status = write_together(&t, sums);
    if (t.sorted)
        host_free(context, t.sorted, bytes);
    return status;
}

int safetensors_write_temporary(const char *path, const SafetensorsItem *items, int count, FileSum *sums,
                                int alone)
{
    char shown[FILE_LABEL];
    int together = !alone && ranks_count_(context_here()) > 1;
    if (!path || count < 0 || (count && !items))
        return error_raise(ERROR_ARGUMENT, "safetensors_write(): %s",
                           path ? "there are no items" : "path is NULL");
    if (error_code() && !together)
        return error_code();
    path_label(shown, path);
    if (together)
        return write_with_others(path, shown, items, count, sums);
    size_t bytes = (size_t)count * sizeof(Sorted);
    Sorted *sorted = host_alloc(bytes);
    if (!sorted)
        return error_code();
    int status = sort_items(shown, items, count, 1, sorted);
    if (!status)
        status = write_file(path, shown, sorted, count, sums);
    host_free(context_here(), sorted, bytes);
    return status;
}

int safetensors_write(const char *path, const SafetensorsItem *items, int count)
{
    int status = safetensors_write_temporary(path, items, count, NULL, 1);
    return status ? status : file_publish(path);
}
