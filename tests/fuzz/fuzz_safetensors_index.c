/* An index of safetensors files, and, after two bytes 0xFF, one of the files. The other is always right. The
 * folder above holds a third that an index must not reach. */
#include "../../io/safetensors.h"
#include "fuzz_json.h"

static void put_right(const char *name)
{
    static const char header[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    uint8_t bytes[8 + sizeof header - 1 + 4] = {sizeof header - 1};
    memcpy(bytes + 8, header, sizeof header - 1);
    fuzz_put(name, bytes, sizeof bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzParts parts = fuzz_parts(data, size);
    mkdir(fuzz_path("model"), 0700);
    put_right("outside");
    put_right("model/b");
    fuzz_put("model/a", parts.second, parts.second_size);
    fuzz_put("model/model.safetensors.index.json", parts.first, parts.first_size);
    fuzz_begin(0);
    fuzz_fail_one(data, size);
    Safetensors *file = safetensors_open(fuzz_path("model"));
    fuzz_agree(!file);
    for (int i = 0; file && i < safetensors_count(file); i++) {
        const char *name = safetensors_at(file, i)->file;
        fuzz_check(!strcmp(name, "a") || !strcmp(name, "b"), "a file that does not lie beside the index");
    }
    fuzz_end();
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 0, 0);
}
