/* tokenizer: text to token ids and back, as a Hugging Face tokenizer.json says.
 *
 * Read are byte-level BPE (GPT-2, Qwen2, Llama 3), BPE with byte fallback (Llama 2, Mistral), WordPiece
 * (BERT), Unigram (XLM-R, T5) and WordLevel, with the normalizers, pre-tokenizers, post-processors and
 * decoders that docs/tokenizers.md lists. What is not supported is an error that names it. Ids are those of
 * the Python package `tokenizers`.
 *
 * A tokenizer belongs to the current scope, its memory to the context's host ledger; it has buffers of its
 * own, so one thread uses it at a time. Errors stick, as everywhere.
 */
#ifndef BRIM_TOKENIZER_H
#define BRIM_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "../memtrack/memtrack.h"
#include "input.h"
#include "text_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tokenizer Tokenizer;

/* From a tokenizer.json, or a folder that holds one. Its truncation and padding are not applied: who makes
 * the batches cuts. NULL with ERROR_FILE, ERROR_DATA (where and why) or ERROR_HOST_MEMORY. */
BRIM_API Tokenizer *tokenizer_read(const char *path);
/* The file in which a folder without tokenizer.json has its tokenizer in another form, which is not read
 * ("vocab.txt", "tokenizer.model", "vocab.json"); NULL = there is none of these, or tokenizer.json is there.
 */
BRIM_API const char *tokenizer_other_form(const char *folder);
BRIM_API void tokenizer_free(Tokenizer *tokenizer); /* NULL is fine */

/* Ids that a tokenizer wrote. Begins as zeros, grows, and goes with tokenizer_ids_free. */
typedef struct TokenIds {
    int32_t *ids;
    size_t count, room;
} TokenIds;

/* Appends the ids of text[0..bytes). UTF-8 in which NULs are characters like any other; what is not UTF-8
 * counts as U+FFFD, one for each maximal part of a sequence, as in Rust's from_utf8_lossy. add_special: with
 * what the post-processor puts around a text ([CLS] … [SEP]). Special tokens within the text are found either
 * way. Returns an error code; what was appended before an error stays. */
BRIM_API int tokenizer_encode(Tokenizer *tokenizer, const char *text, size_t bytes, int add_special,
                              TokenIds *out);
/* The same of a whole file, or of what text_input_read takes for one text; *bytes is its size. ERROR_DATA
 * where it is not UTF-8. */
BRIM_API int tokenizer_encode_file(Tokenizer *tokenizer, const char *path, int add_special, TokenIds *out,
                                   int64_t *bytes);
/* The same of a text that has been read. What is not UTF-8 is an error, or replaced by U+FFFD. */
BRIM_API int tokenizer_encode_input(Tokenizer *tokenizer, const TextInput *input, int replace_invalid,
                                    int add_special, TokenIds *out);
BRIM_API void tokenizer_ids_free(Tokenizer *tokenizer, TokenIds *ids);

/* Text that a tokenizer wrote; a NUL follows it. Begins as zeros. */
typedef struct TokenText {
    char *text; /* NULL while empty */
    size_t bytes, room;
} TokenText;

/* Appends the text of the ids, without special tokens if skip_special. Unknown ids write nothing; bytes that
 * are no UTF-8 become U+FFFD. */
BRIM_API int tokenizer_decode(Tokenizer *tokenizer, const int32_t *ids, size_t count, int skip_special,
                              TokenText *out);
BRIM_API void tokenizer_text_free(Tokenizer *tokenizer, TokenText *text);

/* The largest id plus one: what an embedding must have. */
BRIM_API int64_t tokenizer_vocab(const Tokenizer *tokenizer);
/* As the file writes it ("Ġthe", "##ing"), an added token that is normalized in its normal form; NULL for no
 * such id. The tokenizer's. */
BRIM_API const char *tokenizer_token(const Tokenizer *tokenizer, int64_t id);
BRIM_API int32_t tokenizer_id(const Tokenizer *tokenizer, const char *token); /* -1 for no such token */
BRIM_API int tokenizer_is_special(const Tokenizer *tokenizer, int64_t id);    /* 1 for <s>, [CLS] … */

typedef struct TokenizerTraining {
    int64_t vocab;              /* of the result, special tokens and the 256 bytes included; 0 = 4096 */
    int64_t min_count;          /* a pair that is rarer is not merged; 0 = 2 */
    const char *const *special; /* their ids come first; NULL = "<|endoftext|>" alone */
    int specials;               /* how many */
    int replace_invalid;        /* U+FFFD in place of what is not UTF-8, which is an error otherwise */
} TokenizerTraining;

/* Trains a byte-level BPE with GPT-2's split on a text (a path as of
 * text_input_read) and writes a tokenizer.json. The result is that
 * of the Python package's BpeTrainer with the byte alphabet: the most frequent pair first, of equal ones that
 * with the smaller ids. options may be NULL. Returns an error code. */
BRIM_API int tokenizer_train(const char *text, const char *out, const TokenizerTraining *options);

#ifdef __cplusplus
}
#endif
#endif
