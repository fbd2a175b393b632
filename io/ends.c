/* Which tokens end a text, as transformers' generate reads it: generation_config.json goes before
 * config.json. That is not part of the model: what nobody asks for is not read. */
#include <limits.h>
#include <unistd.h>

#include "../base/hub_.h"
#include "../tensor/tensor_.h"
#include "io_.h"

enum { MOST_BYTES = 1 << 20 };

static int take_id(const json_t *value, IoEndTokens *ends)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < INT_MIN || id > INT_MAX || ends->count == IO_END_TOKENS)
        return 0;
    if (id >= 0) /* -1 is used for none */
        ends->ids[ends->count++] = (int32_t)id;
    return 1;
}

/* Whether the file says anything; null and absent do not. */
static int take_ids(const json_t *root, const char *shown, IoEndTokens *ends)
{
    const json_t *value = json_object_get(root, "eos_token_id");
    int fine = 1;
    if (!value || json_is_null(value))
        return 0;
    if (!json_is_array(value))
        fine = take_id(value, ends);
    for (size_t i = 0; i < json_array_size(value) && fine; i++)
        fine = take_id(json_array_get(value, i), ends);
    if (!fine)
        error_raise(ERROR_DATA, "%s: eos_token_id must be a token or a list of at most %d, not %s", shown,
                    IO_END_TOKENS, value_text(value).text);
    return 1;
}

int io_read_end_tokens(const char *directory, IoEndTokens *ends)
{
    static const char *const names[] = {"generation_config.json", "config.json"};
    if (!directory || !ends)
        return error_raise(ERROR_ARGUMENT, "io_read_end_tokens(): %s is NULL",
                           directory ? "ends" : "directory");
    char followed[PATH_BYTES];
    *ends = (IoEndTokens){0};
    if (hub_follow(followed, directory))
        return error_code();
    for (int i = 0, found = 0; i < 2 && !found && !error_code(); i++) {
        char path[PATH_BYTES], shown[FILE_LABEL];
        if (path_join(path, followed, names[i]))
            break;
        if (access(path, F_OK) != 0)
            continue;
        path_label(shown, path);
        json_t *root =
            json_read_file(path, shown, i ? "a config.json" : "a generation_config.json", MOST_BYTES);
        found = root && take_ids(root, shown, ends);
        json_decref(root);
    }
    if (error_code())
        *ends = (IoEndTokens){0};
    return error_code();
}
