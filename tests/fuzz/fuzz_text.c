/* A text to train on, as bytes or by a tokenizer. The first three bytes say how it is read. */
#include "../../data/data.h"
#include "../../text/tokenizer.h"
#include "../tensor_data.h"
#include "fuzz.h"

static const char words[] =
    "{\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":true},\"pre_tokenizer\":"
    "{\"type\":\"BertPreTokenizer\"},\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\","
    "\"vocab\":{\"[UNK]\":0,\"[CLS]\":1,\"[SEP]\":2,\"[MASK]\":3,\"a\":4,\"##b\":5,\".\":6}}}";
static const char bytes[] =
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"u\",\"vocab\":"
    "{\"u\":0,\"<s>\":1,\"a\":2,\"b\":3,\"ab\":4,\"<0xC3>\":5,\"<0xA9>\":6},\"merges\":[\"a b\"]}}";

/* 0: none. The third is a byte-level BPE trained here. */
static Tokenizer *tokenizer(int which)
{
    static int trained;
    if (which == 0)
        return NULL;
    if (which == 3 && !trained++) {
        static char corpus[1 << 14];
        data_corpus(1, corpus, sizeof corpus);
        fuzz_check(!tokenizer_train(fuzz_put("corpus", corpus, sizeof corpus), fuzz_path("trained.json"),
                                    &(TokenizerTraining){.vocab = 320}),
                   "no tokenizer");
    }
    Tokenizer *t = tokenizer_read(which == 3   ? fuzz_path("trained.json")
                                  : which == 2 ? fuzz_put("bytes.json", bytes, sizeof bytes - 1)
                                               : fuzz_put("words.json", words, sizeof words - 1));
    fuzz_check(t != NULL, "no tokenizer");
    return t;
}

static void check_batch(const Batch *batch, int64_t vocab, int masked)
{
    const int32_t *ids = tensor_i32(batch->ids), *labels = tensor_i32(batch->labels);
    int64_t seq = tensor_dim(batch->ids, 1), count = tensor_numel(batch->ids);
    for (int64_t i = 0; ids && labels && i < count; i++) {
        fuzz_check(ids[i] >= 0 && ids[i] < vocab, "an id beyond the vocabulary");
        fuzz_check(labels[i] < vocab && (labels[i] >= 0 || labels[i] == BATCH_IGNORE), "a label beyond it");
        fuzz_check(masked || (i + 1) % seq == 0 || labels[i] == ids[i + 1],
                   "a label that is not the next token");
    }
}

static void read_all(const char *path, const TextOptions *o, Tokenizer *t)
{
    TokenOptions of_tokens = {.batch = o->batch,
                              .seq = o->seq,
                              .accumulate = o->accumulate,
                              .split = o->split,
                              .held_out = o->held_out,
                              .mask_probability = o->mask_probability,
                              .max_samples = o->max_samples,
                              .replace_invalid = o->seq != 9,
                              .tokenizer = t};
    Loader *loader = t ? data_tokens(path, &of_tokens) : data_text(path, o);
    fuzz_agree(!loader);
    for (int step = 0; loader && step < 3; step++)
        for (const Batch *batch; (batch = data_next(loader));)
            check_batch(batch, data_classes(loader), o->mask_probability > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    TextOptions o = {.batch = 1 + (data[0] & 3),
                     .accumulate = data[2] >> 6,
                     .seq = data[1] & 63,
                     .split = data[0] & 4 ? DATA_HELD_OUT : DATA_TRAIN,
                     .mask_probability = data[0] & 8 ? 0.15f : 0,
                     .held_out = data[0] & 16   ? -1
                                 : data[0] & 32 ? 0.5f
                                                : 0,
                     .max_samples = data[1] >> 6};
    fuzz_begin(data[0] >> 7);
    Tokenizer *t = tokenizer(data[2] & 3);
    const char *path = fuzz_put("text", data + 3, size - 3);
    fuzz_fail_one(data, size);
    read_all(path, &o, t);
    if (data[2] & 4)
        tokenizer_free(t); /* before the loader, which holds what it needs */
    fuzz_end();
    return 0;
}
