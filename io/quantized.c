/* Reading bitsandbytes' tensors: which belong together, whether they fit, and their values. Codes and scales
 * are taken over as they are; nothing is decoded and encoded again. */
#include "quantized_.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/ends_.h"
#include "../base/quant_codes_.h"
#include "io_.h"
#include "weights_.h"

enum { STATE_MOST = 4096 }; /* bytes of a quant_state; some 250 are usual */

#define STATE_NF4 ".quant_state.bitsandbytes__nf4"
#define STATE_FP4 ".quant_state.bitsandbytes__fp4"

/* Names of parts, after the tensor's; and of int8, after the module's. */
static const char *const parts[] = {".absmax",           ".quant_map", ".nested_absmax",
                                    ".nested_quant_map", STATE_NF4,    STATE_FP4};
static const char *const int8_parts[] = {".SCB", ".weight_format"};

static size_t without(const char *name, const char *end)
{
    return text_ends(name, end) ? strlen(name) - strlen(end) : 0;
}

int quantized_is_part(const char *name, size_t *length)
{
    *length = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !*length; i++)
        *length = without(name, parts[i]);
    for (size_t i = 0; i < sizeof int8_parts / sizeof *int8_parts && !*length; i++)
        *length = without(name, int8_parts[i]);
    return *length > 0;
}

/* ---- Finding parts --------------------------------------------------------------------------- */

typedef struct Search {
    QuantizedEntry *q;
    const SafetensorsEntry *codes;
} Search;

static int bad(const Search *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int bad(const Search *s, const char *format, ...)
{
    char text[192];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    safetensors_bad(s->codes->file, s->codes->name, "%s", text);
    return -1;
}

static const SafetensorsEntry *part_after(const Search *s, size_t length, const char *end)
{
    char name[NAME_BYTES];
    int n = snprintf(name, sizeof name, "%.*s%s", (int)length, s->codes->name, end);
    return n < (int)sizeof name ? safetensors_find(s->q->file, name) : NULL;
}

static const SafetensorsEntry *part(const Search *s, const char *end)
{
    return part_after(s, strlen(s->codes->name), end);
}

/* A part that has to be there, of this type and so many elements. NULL after raising. */
static const SafetensorsEntry *need(const Search *s, const char *end, SafetensorsType type, int64_t numel)
{
    const SafetensorsEntry *entry = part(s, end);
    if (!entry)
        bad(s, "is quantised, and its %s is not there", end + 1);
    else if (entry->type != type || entry->numel != numel)
        bad(s, "is quantised, and its %s is %lld numbers of %s, not %lld of %s", end + 1,
            (long long)entry->numel, safetensors_type_name(entry->type), (long long)numel,
            safetensors_type_name(type));
    else
        return entry;
    return NULL;
}

static float float_at(const unsigned char *floats, int64_t i)
{
    float value;
    memcpy(&value, floats + 4 * i, sizeof value);
    return value;
}

/* The values of codes are those that are decoded with; earlier versions rounded some otherwise. */
static int check_map(const Search *s, const char *end, int count, const float *known)
{
    const SafetensorsEntry *map = need(s, end, SAFETENSORS_F32, count);
    for (int i = 0; map && i < count; i++)
        if (!(fabsf(float_at(map->data, i) - known[i]) <= 2e-7f))
            return bad(s, "has codes of its own (%s): %g at %d, not %g", end + 1,
                       (double)float_at(map->data, i), i, (double)known[i]);
    return map ? 0 : -1;
}

/* A plan reads no scales. */
static int check_finite(const Search *s, const char *what, const unsigned char *floats, int64_t count)
{
    count = context_is_meta(context_current()) ? 0 : count;
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(float_at(floats, i)))
            return bad(s, "has a %s that is not finite", what);
    if (count)
        safetensors_forget(s->q->file, floats, sizeof(float) * (size_t)count);
    return 0;
}

/* ---- What quant_state says ------------------------------------------------------------------- */

static int whole(const json_t *object, const char *name, int64_t *value)
{
    const json_t *number = json_object_get(object, name);
    *value = json_is_integer(number) ? (int64_t)json_integer_value(number) : -1;
    return json_is_integer(number);
}

static int state_shape(const Search *s, const json_t *state)
{
    const json_t *shape = json_object_get(state, "shape");
    const json_t *rows = json_array_get(shape, 0), *cols = json_array_get(shape, 1);
    int64_t n;
    if (json_array_size(shape) != 2 || !json_is_integer(rows) || !json_is_integer(cols))
        return bad(s, "has a quant_state without a shape of two dimensions");
    s->q->rows = (int64_t)json_integer_value(rows);
    s->q->cols = (int64_t)json_integer_value(cols);
    if (s->q->rows < 1 || s->q->cols < 1 || __builtin_mul_overflow(s->q->rows, s->q->cols, &n) ||
        n > INT64_MAX / 8)
        return bad(s, "has a quant_state with the shape %s", value_text(shape).text);
    return 0;
}

static int state_sizes(const Search *s, const json_t *state)
{
    const char *type = json_string_value(json_object_get(state, "quant_type"));
    int64_t block, nested;
    if (!type || strcmp(type, "nf4"))
        return bad(s, "is quantised as %s; nf4 is read",
                   value_text(json_object_get(state, "quant_type")).text);
    if (!whole(state, "blocksize", &block) || block != NF4_BLOCK)
        return bad(s, "is quantised in blocks of %s; blocks of %d are read",
                   value_text(json_object_get(state, "blocksize")).text, NF4_BLOCK);
    const json_t *offset = json_object_get(state, "nested_offset");
    s->q->dtype = offset ? DTYPE_NF4 : DTYPE_NF4_PLAIN;
    if (!offset)
        return state_shape(s, state);
    if (!whole(state, "nested_blocksize", &nested) || nested != NF4_GROUP)
        return bad(s, "has scales in groups of %s; groups of %d are read",
                   value_text(json_object_get(state, "nested_blocksize")).text, NF4_GROUP);
    s->q->offset = (float)json_number_value(offset);
    if (!json_is_number(offset) || !isfinite(s->q->offset))
        return bad(s, "has a quant_state with the nested_offset %s", value_text(offset).text);
    return state_shape(s, state);
}

static int read_state(const Search *s, const SafetensorsEntry *entry)
{
    char text[STATE_MOST + 1], shown[160];
    if (entry->type != SAFETENSORS_U8 || entry->bytes > STATE_MOST)
        return bad(s, "has a quant_state of %llu bytes of %s; at most %d of U8 are read",
                   (unsigned long long)entry->bytes, safetensors_type_name(entry->type), STATE_MOST);
    memcpy(text, entry->data, (size_t)entry->bytes);
    snprintf(shown, sizeof shown, "%.60s: %.90s", entry->file, entry->name);
    json_t *state = json_parse(shown, "a quant_state", text, (size_t)entry->bytes);
    int status = state ? state_sizes(s, state) : -1;
    json_decref(state);
    return status;
}

/* ---- NF4 and int8 ---------------------------------------------------------------------------- */

static int find_scales(const Search *s)
{
    QuantizedEntry *q = s->q;
    int nested = q->dtype == DTYPE_NF4;
    const SafetensorsEntry *scales =
        need(s, ".absmax", nested ? SAFETENSORS_U8 : SAFETENSORS_F32, q->layout.blocks);
    if (!scales || check_map(s, ".quant_map", 16, nf4_code))
        return -1;
    q->scales = scales->data;
    if (!nested)
        return check_finite(s, "scale", q->scales, q->layout.blocks);
    const SafetensorsEntry *groups = need(s, ".nested_absmax", SAFETENSORS_F32, q->layout.groups);
    if (!groups || check_map(s, ".nested_quant_map", 256, dynamic_code))
        return -1;
    q->group_scales = groups->data;
    return check_finite(s, "scale of scales", q->group_scales, q->layout.groups);
}

/* The codes may be seen as another type (bnb_4bit_quant_storage): the bytes are the same. */
static int find_nf4(const Search *s, const SafetensorsEntry *state)
{
    QuantizedEntry *q = s->q;
    if (read_state(s, state))
        return -1;
    q->layout = quant_layout(q->dtype, q->rows, q->cols);
    uint64_t unit = (uint64_t)safetensors_type_bytes(s->codes->type);
    if (s->codes->bytes != (q->layout.codes_bytes + unit - 1) / unit * unit)
        return bad(s, "has %llu bytes, and codes of (%lld,%lld) are %llu",
                   (unsigned long long)s->codes->bytes, (long long)q->rows, (long long)q->cols,
                   (unsigned long long)q->layout.codes_bytes);
    q->codes = s->codes->data;
    return find_scales(s) ? -1 : 1;
}

static int find_int8(const Search *s, const SafetensorsEntry *scales, const SafetensorsEntry *format)
{
    QuantizedEntry *q = s->q;
    const SafetensorsEntry *codes = s->codes;
    if (codes->type != SAFETENSORS_I8 || codes->ndim != 2 || !codes->numel)
        return bad(s, "has the scales of int8 (SCB), and is no matrix of I8 but %lld numbers of %s",
                   (long long)codes->numel, safetensors_type_name(codes->type));
    if (scales->type != SAFETENSORS_F32 || scales->numel != codes->dim[0])
        return bad(s, "has %lld scales of %s; a row of I8 has one of F32", (long long)scales->numel,
                   safetensors_type_name(scales->type));
    if (format &&
        (format->type != SAFETENSORS_U8 || format->numel != 1 || *(const unsigned char *)format->data != 0))
        return bad(s, "has a weight_format that is not 0; rows one after the other are read");
    *q = (QuantizedEntry){.file = q->file,
                          .dtype = DTYPE_INT8,
                          .rows = codes->dim[0],
                          .cols = codes->dim[1],
                          .layout = quant_layout(DTYPE_INT8, codes->dim[0], codes->dim[1]),
                          .codes = codes->data,
                          .scales = scales->data};
    return check_finite(s, "scale", q->scales, q->rows) ? -1 : 1;
}

int quantized_find(const Safetensors *file, const SafetensorsEntry *entry, QuantizedEntry *q)
{
    Search s = {.q = q, .codes = entry};
    *q = (QuantizedEntry){.file = file};
    size_t module = without(entry->name, ".weight");
    const SafetensorsEntry *scales = module ? part_after(&s, module, ".SCB") : NULL;
    if (scales)
        return find_int8(&s, scales, part_after(&s, module, ".weight_format"));
    if (part(&s, STATE_FP4))
        return bad(&s, "is quantised as fp4; nf4 and int8 are read");
    const SafetensorsEntry *state = part(&s, STATE_NF4);
    if (state)
        return find_nf4(&s, state);
    return part(&s, ".absmax") ? bad(&s, "has an absmax and no quant_state, so it is not known what it holds")
                               : 0;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static float block_scale(const QuantizedEntry *q, int64_t block)
{
    if (q->dtype == DTYPE_NF4_PLAIN)
        return float_at(q->scales, block);
    float nested = dynamic_code[q->scales[block]] * float_at(q->group_scales, block / NF4_GROUP);
    return nested + q->offset;
}

void quantized_decode(const QuantizedEntry *q, int64_t first, int64_t count, float *values)
{
    int int8 = q->dtype == DTYPE_INT8;
    int64_t unit = int8 ? q->cols : NF4_BLOCK;
    for (int64_t at = first, stop = first + count, end; at < stop; at = end) {
        int64_t block = at / unit;
        float scale = int8 ? float_at(q->scales, block) : block_scale(q, block);
        end = (block + 1) * unit < stop ? (block + 1) * unit : stop;
        for (int64_t i = at; i < end; i++)
            values[i - first] =
                int8 ? quant_int8_value((int8_t)q->codes[i], scale) : quant_nf4_value(q->codes, i, scale);
    }
}

static void copy_part(const QuantizedEntry *q, Tensor *to, uint64_t offset, const void *from, uint64_t bytes)
{
    tensor_write(to, (int64_t)offset, (int64_t)bytes, from);
    safetensors_forget(q->file, from, (size_t)bytes);
}

static void copy_whole(const QuantizedEntry *q, Tensor *to)
{
    const QuantLayout *l = &q->layout;
    copy_part(q, to, 0, q->codes, l->codes_bytes);
    if (q->dtype == DTYPE_NF4) {
        copy_part(q, to, l->group_scales, q->group_scales, 4 * (uint64_t)l->groups);
        tensor_write(to, (int64_t)l->offset, sizeof q->offset, &q->offset);
        copy_part(q, to, l->scales, q->scales, (uint64_t)l->blocks);
    } else {
        int64_t scales = q->dtype == DTYPE_INT8 ? q->rows : l->blocks;
        copy_part(q, to, l->scales, q->scales, 4 * (uint64_t)scales);
    }
}

/* Scales of blocks of NF4 as the numbers that they stand for. */
static void copy_decoded(const QuantizedEntry *q, Tensor *to, uint64_t offset, int64_t block, int64_t count)
{
    enum { PIECE = 1024 };
    float scales[PIECE];
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done < PIECE ? count - done : PIECE;
        for (int64_t i = 0; i < n; i++)
            scales[i] = block_scale(q, block + done + i);
        tensor_write(to, (int64_t)offset + 4 * done, 4 * n, scales);
    }
}

/* Elements from `at` on of what this rank has, whole blocks, which lie side by side at `from` in the matrix.
 */
static void copy_blocks(const QuantizedEntry *q, Tensor *to, const QuantLayout *here, int64_t at,
                        int64_t from, int64_t count)
{
    int64_t block = from / NF4_BLOCK, blocks = (count + NF4_BLOCK - 1) / NF4_BLOCK, b = at / NF4_BLOCK;
    int64_t groups = (count + NF4_BLOCK * NF4_GROUP - 1) / (NF4_BLOCK * NF4_GROUP);
    copy_part(q, to, (uint64_t)at / 2, q->codes + from / 2, (uint64_t)(count + 1) / 2);
    if (to->twice) {
        copy_decoded(q, to, here->scales + 4 * (uint64_t)b, block, blocks);
    } else if (q->dtype == DTYPE_NF4_PLAIN) {
        copy_part(q, to, here->scales + 4 * (uint64_t)b, q->scales + 4 * block, 4 * (uint64_t)blocks);
    } else {
        copy_part(q, to, here->scales + (uint64_t)b, q->scales + block, (uint64_t)blocks);
        copy_part(q, to, here->group_scales + 4 * (uint64_t)(b / NF4_GROUP),
                  q->group_scales + 4 * (block / NF4_GROUP), 4 * (uint64_t)groups);
        tensor_write(to, (int64_t)here->offset, sizeof q->offset, &q->offset);
    }
}

/* What this rank has of a matrix that several compute together. Scales of int8 are those of its rows, or
 * where it has some of the columns of all. */
static void copy_cut(const QuantizedEntry *q, Tensor *to)
{
    int64_t count = tensor_numel(to), cols = tensor_dim(to, 1), rows = tensor_dim(to, 0);
    QuantLayout here = quant_layout(to->dtype, rows, cols);
    for (int64_t at = 0, n; at < count && !error_code(); at += n) {
        n = count - at;
        int64_t from = tensor_stored_place_(to, at, &n);
        if (q->dtype != DTYPE_INT8) {
            copy_blocks(q, to, &here, at, from, n);
            continue;
        }
        copy_part(q, to, (uint64_t)at, q->codes + from, (uint64_t)n);
        if (cols == q->cols)
            copy_part(q, to, here.scales + 4 * (uint64_t)(at / cols), q->scales + 4 * (from / cols),
                      4 * (uint64_t)(n / cols));
    }
    if (q->dtype == DTYPE_INT8 && cols != q->cols)
        copy_part(q, to, here.scales, q->scales, 4 * (uint64_t)rows);
}

DType quantized_type(const Tensor *parameter)
{
    return parameter->twice ? DTYPE_NF4 : parameter->dtype;
}

void quantized_copy(const QuantizedEntry *q, Tensor *to)
{
    if (to->piece)
        copy_cut(q, to);
    else
        copy_whole(q, to);
}
