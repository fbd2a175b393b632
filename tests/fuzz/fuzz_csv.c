/* Tables of texts and labels. The first two bytes say how they are read. */
#include "../../data/data.h"
#include "../../text/tokenizer.h"
#include "../tensor_data.h"
#include "fuzz.h"

static const char tokens[] =
    "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"continuing_subword_prefix\":\"##\","
    "\"max_input_chars_per_word\":100,\"vocab\":{\"u\":0,\"[CLS]\":1,\"[SEP]\":2,\"a\":3,\"##b\":4,\"good\":"
    "5}},"
    "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":{\"type\":\"BertProcessing\","
    "\"sep\":[\"[SEP]\",2],\"cls\":[\"[CLS]\",1]}}";
static const char *const names[] = {"good", "bad", "LABEL_2"};

/* A row is its tokens and then padding, types are zeros and then ones, and its class is one that there is. */
static void check_batch(const Batch *batch, int64_t vocab, int64_t classes)
{
    const int32_t *ids = tensor_i32(batch->ids), *mask = tensor_i32(batch->mask),
                  *labels = tensor_i32(batch->labels);
    const int32_t *types = batch->types ? tensor_i32(batch->types) : NULL;
    int64_t width = tensor_dim(batch->ids, 1);
    for (int64_t i = 0; ids && mask && i < tensor_numel(batch->ids); i++) {
        int first = i % width == 0;
        fuzz_check(ids[i] >= 0 && ids[i] < vocab, "an id beyond the vocabulary");
        fuzz_check(first ? mask[i] == 1 : mask[i] <= mask[i - 1] && mask[i] >= 0, "a hole in the mask");
        fuzz_check(!types || (types[i] >= 0 && types[i] <= mask[i] &&
                              (first || !mask[i] || types[i] >= types[i - 1])),
                   "types that are no two parts");
    }
    for (int64_t i = 0; labels && i < tensor_numel(batch->labels); i++)
        fuzz_check(labels[i] >= 0 && labels[i] < classes, "a label of no class");
    fuzz_check(!labels || batch->labels_counted == tensor_numel(batch->labels),
               "labels that are not counted");
}

static void check_labels(const DataLabels *labels)
{
    int64_t count = data_labels_count(labels);
    fuzz_check(!labels || count > 0, "no class");
    for (int64_t i = 0; i < count; i++)
        fuzz_check((data_labels_name(labels, i) != NULL) == (data_labels_names(labels) != NULL),
                   "a class without a name");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    CsvOptions o = {.batch = 1 + (data[0] & 3),
                    .accumulate = 1 + (data[0] >> 2 & 1),
                    .classes = data[0] & 8 ? 3 : 0,
                    .labels = (data[0] & 24) == 24 ? names : NULL,
                    .held_out = data[0] & 32 ? -1.0f : 0.5f,
                    .replace_invalid = data[0] >> 6 & 1,
                    .seq = data[1] & 31,
                    .split = data[1] & 32 ? DATA_HELD_OUT : DATA_TRAIN};
    fuzz_begin(data[0] >> 7);
    o.tokenizer = data[1] & 64 ? tokenizer_read(fuzz_put("tokens.json", tokens, sizeof tokens - 1)) : NULL;
    fuzz_check(o.tokenizer || !(data[1] & 64), "no tokenizer");
    const char *path = fuzz_put(data[1] & 16 ? "samples.tsv" : "samples.csv", data + 2, size - 2);
    fuzz_fail_one(data, size);
    DataLabels *labels = data[1] & 128 ? data_csv_labels(path, &o) : NULL;
    fuzz_agree((data[1] & 128) && !labels);
    check_labels(labels);
    o.known = labels;
    CsvSamples *samples = labels ? data_csv_samples(path, &o) : NULL;
    fuzz_agree((data[1] & 128) && !samples);
    o.samples = samples;
    Loader *loader = data_csv(path, &o);
    fuzz_agree(!loader);
    for (int step = 0; loader && step < 3; step++)
        for (const Batch *batch; (batch = data_next(loader));)
            check_batch(batch, o.tokenizer ? tokenizer_vocab(o.tokenizer) : TOKEN_VOCAB,
                        data_classes(loader));
    loader_free(loader);
    data_csv_samples_free(samples);
    data_labels_free(labels);
    fuzz_end();
    return 0;
}
