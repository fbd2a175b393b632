/* The tokens of a tokenizer that a model's files name by their numbers. */
#ifndef BRIM_SPECIAL_INTERNAL_H
#define BRIM_SPECIAL_INTERNAL_H

#include <jansson.h>

#include "../nn/nn.h"

enum { SPECIAL_TEXT = 128 }; /* a longer one is none */
typedef enum SpecialRole { SPECIAL_BOS, SPECIAL_EOS, SPECIAL_PAD, SPECIAL_ROLES } SpecialRole;

/* -1 = the tokenizer has none. */
typedef struct SpecialTokens {
    json_int_t id[SPECIAL_ROLES];
    char text[SPECIAL_ROLES][SPECIAL_TEXT];
} SpecialTokens;

/* Of a tokenizer.json: what the tokenizer_config.json beside it says, else the usual ones (<s>, </s>,
 * <|endoftext|>, <pad>, [PAD]) where they are tokens. Returns 0 or raises. */
int special_tokens_read(const char *tokenizer, SpecialTokens *tokens);
/* The token that the tokenizer_config.json beside a tokenizer.json, or in its folder, names as the end of a
 * text: 1 with its text, "" for null; 0 where nothing is said, -1 with an error raised. */
int special_eos_read(const char *tokenizer, char text[SPECIAL_TEXT]);
/* "bos_token_id" and so on, null for none, of those that a model of this family has. */
void special_tokens_put(json_t **object, ModelFamily family, const SpecialTokens *tokens);
/* "bos_token" and so on of those that there are. */
void special_tokens_put_texts(json_t **object, const SpecialTokens *tokens);

#endif
