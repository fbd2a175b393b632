/* tokenizer.json, with a text encoded and its ids decoded; after two bytes 0xFF the input's own text follows.
 */
#include "../../text/tokenizer.h"
#include "fuzz_json.h"

static const char usual[] = "Hello, World's 1234 caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd\n\t  \xf0\x9f\x98\x80 "
                            "[CLS]<s> don't\0 \xff\xc3 x";

static void there_and_back(Tokenizer *t, const char *text, size_t bytes, int special)
{
    TokenIds ids = {0};
    TokenText back = {0};
    fuzz_agree(tokenizer_encode(t, text, bytes, special, &ids) != 0);
    if (!error_code()) {
        for (size_t i = 0; i < ids.count; i++)
            fuzz_check(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_vocab(t), "an id beyond the vocabulary");
        fuzz_agree(tokenizer_decode(t, ids.ids, ids.count, !special, &back) != 0);
    }
    error_clear();
    tokenizer_ids_free(t, &ids);
    tokenizer_text_free(t, &back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int32_t wrong[] = {0, 1, -1, INT32_MAX, INT32_MIN, 255, 70000};
    FuzzParts parts = fuzz_parts(data, size);
    fuzz_begin(0);
    fuzz_fail_one(data, size);
    Tokenizer *t = tokenizer_read(fuzz_put("tokenizer.json", parts.first, parts.first_size));
    fuzz_agree(!t);
    if (t) {
        TokenText text = {0};
        there_and_back(t, usual, sizeof usual - 1, 1);
        there_and_back(t, (const char *)parts.second, parts.second_size, 0);
        tokenizer_decode(t, wrong, sizeof wrong / sizeof wrong[0], 0, &text);
        error_clear();
        tokenizer_text_free(t, &text);
    }
    fuzz_end();
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 0, 0);
}
