/* A tokenizer trained on any bytes, written, and read again: the text comes back, with U+FFFD for what is no
 * UTF-8. The first two bytes say how large it may become, and how often a pair must come. */
#include "../../text/tokenizer.h"
#include "fuzz.h"

/* How many bytes of a character begin here: as long as one, or as the part of one that is whole. */
static size_t character(const uint8_t *at, size_t left, int *whole)
{
    uint8_t first = at[0], low = 0x80, high = 0xBF;
    size_t length = first < 0x80                    ? 1
                    : first >= 0xC2 && first < 0xE0 ? 2
                    : (first & 0xF0) == 0xE0        ? 3
                                                    : 4,
           n = 1;
    *whole = 0;
    if ((first >= 0x80 && first < 0xC2) || first > 0xF4)
        return 1;
    if (first == 0xE0 || first == 0xF0)
        low = first == 0xE0 ? 0xA0 : 0x90;
    if (first == 0xED || first == 0xF4)
        high = first == 0xED ? 0x9F : 0x8F;
    for (; n < length && n < left && at[n] >= low && at[n] <= high; n++)
        low = 0x80, high = 0xBF;
    *whole = n == length;
    return n;
}

static size_t lossy(const uint8_t *data, size_t size, char *to)
{
    size_t written = 0;
    for (size_t at = 0, n; at < size; at += n) {
        int whole;
        n = character(data + at, size - at, &whole);
        memcpy(to + written, whole ? (const char *)data + at : "\xef\xbf\xbd", whole ? n : 3);
        written += whole ? n : 3;
    }
    return written;
}

static void there_and_back(Tokenizer *t, const uint8_t *data, size_t size)
{
    TokenIds ids = {0};
    TokenText back = {0};
    char *wanted = malloc(3 * size + 1);
    size_t length = lossy(data, size, wanted);
    fuzz_check(!tokenizer_encode(t, (const char *)data, size, 0, &ids), "the text is not encoded");
    fuzz_check(ids.count <= length, "more tokens than bytes");
    fuzz_check(!tokenizer_decode(t, ids.ids, ids.count, 0, &back), "its ids are not decoded");
    fuzz_check(back.bytes == length && !memcmp(back.text ? back.text : "", wanted, length),
               "the text did not come back");
    tokenizer_ids_free(t, &ids);
    tokenizer_text_free(t, &back);
    free(wanted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const special[] = {"<s>", "the", "\xc3\xa9 "};
    if (size < 2)
        return 0;
    TokenizerTraining o = {.vocab = 250 + 2 * data[0], .min_count = 1 + (data[1] & 3),
                           .replace_invalid = !(data[1] & 32)};
    if (data[1] & 4) {
        o.special = special;
        o.specials = data[1] >> 3 & 3;
    }
    fuzz_begin(0);
    const char *text = fuzz_put("text", data + 2, size - 2), *out = fuzz_path("tokenizer.json");
    unlink(out);
    fuzz_fail_one(data, size);
    int failed = tokenizer_train(text, out, &o) != 0;
    fuzz_agree(failed);
    memtrack_fail_nth(0);
    if (!failed) {
        Tokenizer *t = tokenizer_read(out);
        fuzz_check(t && tokenizer_vocab(t) <= o.vocab, "what was trained is not read");
        there_and_back(t, data + 2, size - 2);
    }
    fuzz_end();
    return 0;
}
