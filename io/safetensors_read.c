/* Elements of mapped safetensors files: in place where they are floats already, converted where they are not.
 */
#include <string.h>

#include "../tensor/tensor_.h"
#include "../base/half_.h"
#include "safetensors_.h"

enum { CHUNK = 1 << 20, COMPARED = 4 << 20 /* elements, and bytes, after which pages are let go */ };
enum { PIECE = 8192 }; /* elements that are converted together; a chunk is whole pieces */

const float *safetensors_f32(const SafetensorsEntry *entry)
{
    int fits = entry && entry->type == SAFETENSORS_F32 && (uintptr_t)entry->data % sizeof(float) == 0;
    return fits ? entry->data : NULL;
}

static const SafetensorsPart *part_of(const Safetensors *s, const unsigned char *data)
{
    int i = 0;
    while (i + 1 < s->part_count &&
           !(data >= s->parts[i].bytes && data <= s->parts[i].bytes + s->parts[i].size))
        i++;
    return &s->parts[i];
}

static void decode(SafetensorsType type, size_t n, const void *from, float *to)
{
    if (type == SAFETENSORS_F16)
        half_decode_f16(n, from, to);
    else if (type == SAFETENSORS_BF16)
        half_decode_bf16(n, from, to);
    else
        memcpy(to, from, n * sizeof *to);
}

int safetensors_same_bytes(const Safetensors *s, const SafetensorsEntry *a, const SafetensorsEntry *b)
{
    const unsigned char *x = a->data, *y = b->data;
    int same = a->bytes == b->bytes;
    for (uint64_t done = 0, count; same && done < a->bytes; done += count) {
        count = a->bytes - done < COMPARED ? a->bytes - done : COMPARED;
        same = !memcmp(x + done, y + done, (size_t)count);
        memtrack_map_forget(part_of(s, x)->bytes, x + done, (size_t)count);
        memtrack_map_forget(part_of(s, y)->bytes, y + done, (size_t)count);
    }
    return same;
}

/* Where the elements go: into memory, or into a tensor. */
typedef struct Target {
    float *memory;
    Tensor *tensor;
} Target;

/* Elements [done, done + count). 0 or raises. */
static int put(const Target *to, SafetensorsType type, size_t done, size_t count, const unsigned char *from)
{
    int64_t at = (int64_t)(done * sizeof(float));
    float piece[PIECE];
    if (to->memory) {
        decode(type, count, from, to->memory + done);
        return 0;
    }
    if (type == SAFETENSORS_F32)
        return tensor_write(to->tensor, at, (int64_t)(count * sizeof(float)), from);
    int status = 0;
    for (size_t i = 0, n; i < count && !status; i += n) {
        n = count - i < PIECE ? count - i : PIECE;
        decode(type, n, from + i * (size_t)safetensors_type_bytes(type), piece);
        status =
            tensor_write(to->tensor, at + (int64_t)(i * sizeof *piece), (int64_t)(n * sizeof *piece), piece);
    }
    return status;
}

static int read_into(const Safetensors *s, const SafetensorsEntry *entry, const Target *to)
{
    if (!s || !entry || (!to->memory && !to->tensor))
        return error_raise(ERROR_ARGUMENT, "safetensors_read(): an argument is NULL");
    if (entry->type > SAFETENSORS_BF16)
        return safetensors_bad(entry->file, entry->name, "is %s; F32, F16 and BF16 can be read as numbers",
                               safetensors_type_name(entry->type));
    const unsigned char *data = entry->data;
    const SafetensorsPart *part = part_of(s, data);
    size_t size = (size_t)safetensors_type_bytes(entry->type);
    int status = 0;
    for (size_t done = 0, count, n = (size_t)entry->numel; done < n && !status; done += count) {
        count = n - done < CHUNK ? n - done : CHUNK;
        status = put(to, entry->type, done, count, data + done * size);
        memtrack_map_forget(part->bytes, data + done * size, count * size);
    }
    return status;
}

int safetensors_read(const Safetensors *s, const SafetensorsEntry *entry, float *to)
{
    return read_into(s, entry, &(Target){.memory = to});
}

int safetensors_read_tensor(const Safetensors *s, const SafetensorsEntry *entry, Tensor *to)
{
    return read_into(s, entry, &(Target){.tensor = to});
}
