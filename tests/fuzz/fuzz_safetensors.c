/* A safetensors file: its header, and every tensor that it gives. */
#include "../../io/safetensors.h"
#include "fuzz_json.h"

static void read_all(const Safetensors *file, size_t size)
{
    for (int i = 0; i < safetensors_count(file); i++) {
        const SafetensorsEntry *entry = safetensors_at(file, i);
        fuzz_check(safetensors_find(file, entry->name) == entry, "a tensor is not found by its name");
        fuzz_check(entry->bytes <= size && entry->numel >= 0, "a tensor is larger than its file");
        uint64_t room = (uint64_t)entry->numel * sizeof(float);
        float *to = host_alloc(room ? room : 1);
        if (!to)
            break;
        int failed = safetensors_read(file, entry, to) != 0;
        fuzz_agree(failed);
        error_clear();
        host_free(context_here(), to, room ? room : 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_begin(0);
    fuzz_fail_one(data, size);
    Safetensors *file = safetensors_open(fuzz_put("model.safetensors", data, size));
    fuzz_agree(!file);
    if (file)
        read_all(file, size);
    if (size % 2) /* else the scope closes it */
        safetensors_close(file);
    fuzz_end();
    return 0;
}

/* The header as JSON, its length put right; or bytes. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    uint64_t length = 0, before = sizeof length;
    memcpy(&length, data, size < before ? size : before);
    fuzz_random_state = seed;
    if (size < before || length > size - before || fuzz_random(2))
        return LLVMFuzzerMutate(data, size, max);
    size_t changed = fuzz_json_document(data, size, max, before, before + length);
    if (!changed)
        return LLVMFuzzerMutate(data, size, max);
    length += changed - size;
    memcpy(data, &length, before);
    return changed;
}
