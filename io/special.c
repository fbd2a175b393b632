/* Which tokens begin, end and fill a text. Whoever loads a model without these numbers takes his own
 * defaults, which are other tokens of this tokenizer. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "family_.h"
#include "special_.h"

enum { TOKENIZER_MOST = 256 << 20, CONFIG_MOST = 1 << 20, USUAL = 3 };

static const struct {
    const char *field, *number; /* of tokenizer_config.json; of config.json */
    const char *usual[USUAL];
} roles[SPECIAL_ROLES] = {
    [SPECIAL_BOS] = {"bos_token", "bos_token_id", {"<s>", "<|endoftext|>"}},
    [SPECIAL_EOS] = {"eos_token", "eos_token_id", {"</s>", "<|endoftext|>"}},
    [SPECIAL_PAD] = {"pad_token", "pad_token_id", {"<pad>", "[PAD]"}},
};

/* The number of a token in a tokenizer.json; -1 = it has none of this name. */
static json_int_t token_id(const json_t *tokenizer, const char *token)
{
    const json_t *item, *model = json_object_get(tokenizer, "model");
    const json_t *vocab = json_object_get(model, "vocab"),
                 *added = json_object_get(tokenizer, "added_tokens");
    size_t i;
    json_array_foreach((json_t *)added, i, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        if (content && !strcmp(content, token) && json_is_integer(json_object_get(item, "id")))
            return json_integer_value(json_object_get(item, "id"));
    }
    json_array_foreach((json_t *)vocab, i, item) /* of a unigram model: pairs of a token and its score */
    {
        const char *content = json_string_value(json_array_get(item, 0));
        if (content && !strcmp(content, token))
            return (json_int_t)i;
    }
    item = json_object_get(vocab, token);
    return json_is_integer(item) ? json_integer_value(item) : -1;
}

/* A token as tokenizer_config.json writes it: a string, or an object with its content. */
static const char *token_of(const json_t *value)
{
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static int take(const json_t *tokenizer, const char *token, SpecialRole role, SpecialTokens *tokens)
{
    json_int_t id = token && strlen(token) < SPECIAL_TEXT ? token_id(tokenizer, token) : -1;
    tokens->id[role] = id;
    snprintf(tokens->text[role], SPECIAL_TEXT, "%s", id >= 0 ? token : "");
    return id >= 0;
}

static void find_role(const json_t *tokenizer, const json_t *config, SpecialRole role, SpecialTokens *tokens)
{
    const json_t *said = json_object_get(config, roles[role].field);
    int found = take(tokenizer, token_of(said), role, tokens) || said; /* null, too, is an answer */
    for (int i = 0; i < USUAL && roles[role].usual[i] && !found; i++)
        found = take(tokenizer, roles[role].usual[i], role, tokens);
}

/* The configuration beside it; NULL where there is none. */
static json_t *read_config(const char *tokenizer)
{
    static const char name[] = "tokenizer_config.json";
    char path[PATH_BYTES], shown[FILE_LABEL];
    const char *slash = strrchr(tokenizer, '/');
    int directory = slash ? (int)(slash - tokenizer) + 1 : 0;
    if (snprintf(path, sizeof path, "%.*s%s", directory, tokenizer, name) >= PATH_BYTES ||
        access(path, F_OK) != 0)
        return NULL;
    path_label(shown, path);
    return json_read_file(path, shown, "a tokenizer_config.json", CONFIG_MOST);
}

int special_tokens_read(const char *tokenizer, SpecialTokens *tokens)
{
    char shown[FILE_LABEL];
    path_label(shown, tokenizer);
    json_t *root = json_read_file(tokenizer, shown, "a tokenizer.json", TOKENIZER_MOST);
    json_t *config = root ? read_config(tokenizer) : NULL;
    for (int i = 0; i < SPECIAL_ROLES; i++)
        find_role(root, config, (SpecialRole)i, tokens);
    json_decref(config);
    json_decref(root);
    return error_code();
}

int special_eos_read(const char *tokenizer, char text[SPECIAL_TEXT])
{
    char path[PATH_BYTES];
    if (path_is_directory(tokenizer) && path_join(path, tokenizer, "tokenizer.json"))
        return -1;
    json_t *config = read_config(path_is_directory(tokenizer) ? path : tokenizer);
    const json_t *said = json_object_get(config, roles[SPECIAL_EOS].field);
    const char *token = token_of(said);
    snprintf(text, SPECIAL_TEXT, "%s", token && strlen(token) < SPECIAL_TEXT ? token : "");
    json_decref(config);
    return error_code() ? -1 : said != NULL;
}

void special_tokens_put(json_t **object, ModelFamily family, const SpecialTokens *tokens)
{
    int end = family_files(family)->padding_places ? SPECIAL_PAD : SPECIAL_ROLES;
    for (int i = nn_family(family)->writes ? SPECIAL_BOS : SPECIAL_PAD; i < end; i++)
        config_put(object, roles[i].number, tokens->id[i] >= 0 ? json_integer(tokens->id[i]) : json_null());
}

void special_tokens_put_texts(json_t **object, const SpecialTokens *tokens)
{
    for (int i = 0; i < SPECIAL_ROLES; i++)
        if (tokens->id[i] >= 0)
            config_put(object, roles[i].field, json_string(tokens->text[i]));
}
