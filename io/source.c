/* What a fine-tuned model should keep of the config.json that it came from, though training does not read it:
 * token ids, labels and the like. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "io_.h"
#include "export_.h"

enum { CONFIG_MOST = 1 << 20 };

static int is_type(const json_t *config, const char *type)
{
    const char *text = json_string_value(json_object_get(config, "model_type"));
    return text && !strcmp(text, type);
}

/* Mistral computes what Llama does, up to its window: what was Mistral stays it. Returns non-zero without
 * memory. */
static int keep_mistral(const json_t *source, json_t *written)
{
    static const char *const own[] = {"model_type", "sliding_window", "max_position_embeddings"};
    if (!is_type(source, "mistral") || !is_type(written, "llama"))
        return 0;
    int failed = json_object_set_new(written, "architectures", json_pack("[s]", "MistralForCausalLM")) != 0;
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (json_object_get(source, own[i]))
            failed |= json_object_set(written, own[i], json_object_get(source, own[i])) != 0;
    return failed;
}

/* The fields that brim does not read, added to those it writes. Returns non-zero without memory. */
static int add_fields(const json_t *source, json_t *written)
{
    const char *name;
    json_t *value;
    int failed = keep_mistral(source, written);
    json_object_foreach((json_t *)source, name, value)
    {
        if (families_ignore(name) && !json_object_get(written, name) && strcmp(name, "dtype") != 0)
            failed |= json_object_set(written, name, value) != 0;
    }
    return failed;
}

int source_fields(const char *source, json_t *written)
{
    char path[PATH_BYTES], shown[FILE_LABEL];
    if (path_join(path, source, "config.json"))
        return error_code();
    if (access(path, F_OK) != 0)
        return 0;
    path_label(shown, path);
    json_t *root = json_read_file(path, shown, "a config.json", CONFIG_MOST);
    if (root && add_fields(root, written))
        error_raise(ERROR_HOST_MEMORY, "no host memory to keep the fields of %s", shown);
    json_decref(root);
    return error_code();
}
