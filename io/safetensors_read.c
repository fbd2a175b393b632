/* Elements of mapped safetensors files: in place where they are floats already, converted where they are not.
 */
#include <string.h>

#include "../tensor/tensor_.h"
#include "../base/half_.h"
#include "safetensors_.h"

enum { CHUNK = 1 << 20, COMPARED = 4 << 20 /* elements, and bytes, after which pages are let go */ };

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

void safetensors_forget(const Safetensors *s, const void *from, size_t bytes)
{
    memtrack_map_forget(part_of(s, from)->bytes, from, bytes);
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

static int not_numbers(const SafetensorsEntry *entry)
{
    return entry->type > SAFETENSORS_BF16 &&
           safetensors_bad(entry->file, entry->name, "is %s; F32, F16 and BF16 can be read as numbers",
                           safetensors_type_name(entry->type));
}

int safetensors_same_bytes(const Safetensors *s, const SafetensorsEntry *a, const SafetensorsEntry *b)
{
    const unsigned char *x = a->data, *y = b->data;
    int same = a->bytes == b->bytes;
    for (uint64_t done = 0, count; same && done < a->bytes; done += count) {
        count = a->bytes - done < COMPARED ? a->bytes - done : COMPARED;
        same = !memcmp(x + done, y + done, (size_t)count);
        safetensors_forget(s, x + done, (size_t)count);
        safetensors_forget(s, y + done, (size_t)count);
    }
    return same;
}

int safetensors_read_part(const Safetensors *s, const SafetensorsEntry *entry, int64_t first, int64_t count,
                          float *to)
{
    if (not_numbers(entry))
        return error_code();
    size_t size = (size_t)safetensors_type_bytes(entry->type);
    const unsigned char *data = (const unsigned char *)entry->data + (size_t)first * size;
    for (size_t done = 0, n = (size_t)count; done < n;) {
        size_t some = n - done < CHUNK ? n - done : CHUNK;
        decode(entry->type, some, data + done * size, to + done);
        safetensors_forget(s, data + done * size, some * size);
        done += some;
    }
    return 0;
}

int safetensors_read(const Safetensors *s, const SafetensorsEntry *entry, float *to)
{
    if (!s || !entry || !to)
        return error_raise(ERROR_ARGUMENT, "safetensors_read(): an argument is NULL");
    return safetensors_read_part(s, entry, 0, entry->numel, to);
}

typedef struct Reading {
    const Safetensors *file;
    const SafetensorsEntry *entry;
    const Tensor *to;
    EntryPart part;
} Reading;

/* Behind the entry's elements the tensor keeps what it has. */
static int read_some(void *user, int64_t first, int64_t count, float *values)
{
    const Reading *r = user;
    int failed = 0;
    for (int64_t done = 0, n; done < count && !failed; done += n) {
        n = count - done;
        int64_t from = tensor_place_(r->part.as, r->part.first + first + done, &n);
        int64_t left = r->entry->numel - from, some = left < 0 ? 0 : left < n ? left : n;
        if (some < n && !tensor_is_own_(r->to, values))
            tensor_decode_(r->to, first + done + some, n - some, values + done + some);
        failed = some > 0 ? safetensors_read_part(r->file, r->entry, from, some, values + done) : 0;
    }
    return failed;
}

int safetensors_read_as(const Safetensors *s, const SafetensorsEntry *entry, EntryPart part, Tensor *to)
{
    return not_numbers(entry) ? error_code() : tensor_store_(to, read_some, &(Reading){s, entry, to, part});
}

int safetensors_read_tensor(const Safetensors *s, const SafetensorsEntry *entry, Tensor *to)
{
    return safetensors_read_as(s, entry, (EntryPart){.as = to}, to);
}

static void copy(const Safetensors *s, const unsigned char *from, uint64_t bytes, Tensor *to, uint64_t at)
{
    enum { PART = 4 << 20 }; /* after which pages are let go: a large tensor does not stay in the process */
    for (uint64_t done = 0, n; done < bytes && !error_code(); done += n) {
        n = bytes - done < PART ? bytes - done : PART;
        tensor_write(to, (int64_t)(at + done), (int64_t)n, from + done);
        safetensors_forget(s, from + done, (size_t)n);
    }
}

/* Here too the tensor keeps what it has behind the entry's elements. */
int safetensors_copy_as(const Safetensors *s, const SafetensorsEntry *entry, EntryPart part, Tensor *to,
                        uint64_t at)
{
    uint64_t size = (uint64_t)safetensors_type_bytes(entry->type);
    int64_t block = part.block ? part.block : 1;
    for (int64_t done = 0, n; done < part.count && !error_code(); done += n) {
        int64_t elements = (part.count - done) * block;
        int64_t from = tensor_place_(part.as, (part.first + done) * block, &elements) / block - part.skip;
        n = (elements + block - 1) / block;
        if (from < 0) {
            n = n < -from ? n : -from;
            continue;
        }
        int64_t left = entry->numel - from, some = left < 0 ? 0 : left < n ? left : n;
        copy(s, (const unsigned char *)entry->data + (uint64_t)from * size, (uint64_t)some * size, to,
             at + (uint64_t)done * size);
    }
    return error_code();
}
