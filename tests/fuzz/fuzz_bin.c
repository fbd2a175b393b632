/* A .bin of token ids. The first two bytes say how it is read. */
#include "../../data/data.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    TokenOptions options = {.batch = 1 + (data[0] & 3),
                            .seq = 3 + (data[1] & 15),
                            .vocab = data[0] & 4 ? 70000 : 300,
                            .mask_probability = data[0] & 8 ? 0.15f : 0,
                            .cls = 1,
                            .sep = 2,
                            .mask = 3,
                            .split = data[0] & 16 ? DATA_HELD_OUT : DATA_TRAIN,
                            .max_samples = data[0] & 32 ? 3 : 0,
                            .held_out = data[0] & 64 ? -1.0f : 0};
    fuzz_begin(data[0] >> 7);
    fuzz_fail_one(data, size);
    Loader *loader = data_tokens(fuzz_put("ids.bin", data + 2, size - 2), &options);
    fuzz_agree(!loader);
    for (int step = 0; loader && step < 3; step++)
        while (data_next(loader))
            ;
    fuzz_end();
    return 0;
}
