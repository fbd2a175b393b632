/* What was trained, as a tokenizer.json: complete under its name, or not there. */
#include "../base/file_.h"
#include "tokenizer_train_.h"

#define MAKER "tokenizer_train"

static json_t *text_json(const Trained *trained, size_t id)
{
    Span token = table_at(&trained->tokens, id);
    return json_stringn(token.text, token.length);
}

/* NULL without memory, as jansson does. */
static json_t *added_json(const Trained *trained)
{
    json_t *added = json_array();
    for (int i = 0; i < trained->specials; i++)
        if (json_array_append_new(added, json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", i, "content",
                                                   text_json(trained, (size_t)i), "single_word", 0, "lstrip",
                                                   0, "rstrip", 0, "normalized", 0, "special", 1))) {
            json_decref(added);
            return NULL;
        }
    return added;
}

static json_t *vocab_json(const Trained *trained)
{
    json_t *vocab = json_object();
    for (size_t i = 0; i < trained->tokens.ends.count; i++) {
        Span token = table_at(&trained->tokens, i);
        char name[256],
            *key = token.length < sizeof name ? name : memtrack_host_alloc(NULL, token.length + 1);
        int status = -1;
        if (key) {
            memcpy(key, token.text, token.length);
            key[token.length] = '\0';
            status = json_object_set_new(vocab, key, json_integer((json_int_t)i));
            if (key != name)
                memtrack_host_free(NULL, key, token.length + 1);
        }
        if (status) {
            json_decref(vocab);
            return NULL;
        }
    }
    return vocab;
}

static json_t *merges_json(const Trained *trained)
{
    json_t *merges = json_array();
    for (size_t i = 0; i < trained->merges.count; i++) {
        const TrainedMerge *m = &trained->merges.item[i];
        if (json_array_append_new(merges, json_pack("[o, o]", text_json(trained, (size_t)m->left),
                                                    text_json(trained, (size_t)m->right)))) {
            json_decref(merges);
            return NULL;
        }
    }
    return merges;
}

static json_t *bytes_json(int add_prefix_space)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", add_prefix_space,
                     "trim_offsets", 1, "use_regex", 1);
}

static json_t *whole_json(const Trained *trained)
{
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                  "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                  "ignore_merges", 0, "vocab", vocab_json(trained), "merges", merges_json(trained));
    return json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation",
                     "padding", "added_tokens", added_json(trained), "normalizer", "pre_tokenizer",
                     bytes_json(0), "post_processor", bytes_json(1), "decoder", bytes_json(1), "model",
                     model);
}

int trained_write(const Trained *trained, const char *path)
{
    FileWriter writer;
    json_t *root = whole_json(trained);
    if (file_begin(&writer, path) == 0) {
        file_put_json(&writer, root, JSON_INDENT(1));
        file_put(&writer, "\n", 1);
    }
    json_decref(root);
    return file_commit(&writer);
}
