/* JSON lines of prompts and completions, or ids and labels. The first two bytes say how they are read. */
#include "../../data/data.h"
#include "../../text/tokenizer.h"
#include "../tensor_data.h"
#include "fuzz.h"

static const char tokens[] =
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"u\",\"vocab\":"
    "{\"u\":0,\"<s>\":1,\"</s>\":2,\"a\":3,\"b\":4,\"ab\":5,\" \":6},\"merges\":[\"a b\"]},"
    "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":\"</"
    "s>\",\"special\":true}],"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\","
    "\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\","
    "\"ids\":[1],"
    "\"tokens\":[\"<s>\"]}}}}";

static void check_batch(const Batch *batch, int64_t vocab)
{
    const int32_t *ids = tensor_i32(batch->ids), *labels = tensor_i32(batch->labels);
    int64_t counted = 0;
    for (int64_t i = 0; ids && labels && i < tensor_numel(batch->ids); i++) {
        fuzz_check(ids[i] >= 0 && ids[i] < vocab, "an id beyond the vocabulary");
        fuzz_check(labels[i] < vocab && (labels[i] >= 0 || labels[i] == BATCH_IGNORE), "a label beyond it");
        counted += labels[i] != BATCH_IGNORE;
    }
    fuzz_check(!labels || counted == batch->labels_counted, "labels that are not counted");
    fuzz_check(!labels || counted > 0, "a batch without labels");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    PairsOptions o = {.batch = 1 + (data[0] & 3),
                      .accumulate = 1 + (data[0] >> 2 & 1),
                      .pack = data[0] >> 3 & 1,
                      .split = data[0] & 16 ? DATA_HELD_OUT : DATA_TRAIN,
                      .held_out = data[0] & 32 ? -1.0f : 0.5f,
                      .replace_invalid = data[0] >> 6 & 1,
                      .seq = data[1] & 31,
                      .max_samples = data[1] & 32 ? 2 : 0};
    fuzz_begin(data[0] >> 7);
    o.tokenizer = data[1] & 64 ? tokenizer_read(fuzz_put("tokens.json", tokens, sizeof tokens - 1)) : NULL;
    fuzz_check(o.tokenizer || !(data[1] & 64), "no tokenizer");
    o.vocab = o.tokenizer ? 0 : 300;
    const char *path = fuzz_put("samples", data + 2, size - 2);
    fuzz_fail_one(data, size);
    PairsLengths *lengths = data[1] & 128 ? data_pairs_lengths(path, &o) : NULL;
    fuzz_agree((data[1] & 128) && !lengths);
    o.lengths = lengths;
    Loader *loader = data_pairs(path, &o);
    fuzz_agree(!loader);
    for (int step = 0; loader && step < 3; step++)
        for (const Batch *batch; (batch = data_next(loader));)
            check_batch(batch, data_classes(loader));
    data_pairs_lengths_free(lengths);
    fuzz_end();
    return 0;
}
