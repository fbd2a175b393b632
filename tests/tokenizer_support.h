/* What the tests of tokenizers share: a folder, files in it, and a small tokenizer.json to vary. */
#ifndef TEST_TOKENIZER_SUPPORT_H
#define TEST_TOKENIZER_SUPPORT_H

#include <unistd.h>

#include <jansson.h>

#include "../text/tokenizer.h"
#include "support.h"

static char folder[64];

static inline int make_folder(void **state)
{
    strcpy(folder, "/tmp/brim-tokens-XXXXXX");
    return mkdtemp(folder) ? fresh_context(state) : -1;
}

static inline int remove_folder(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) != 0 || leave_context(state);
}

static inline const char *in_folder(const char *name)
{
    static char path[4][160];
    static int at;
    char *out = path[at++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

static inline const char *write_file(const char *name, const char *bytes, size_t count)
{
    const char *path = in_folder(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* The whole file, with a NUL behind it; test_free it. */
static inline char *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("there is no %s", path);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *text = test_malloc(*bytes + 1);
    assert_int_equal(fread(text, 1, *bytes, f), *bytes);
    text[*bytes] = '\0';
    fclose(f);
    return text;
}

/* A tokenizer.json with ' for ", read. */
static inline Tokenizer *tokenizer_of(const char *text)
{
    static char json[1 << 16];
    size_t n = strlen(text);
    assert_true(n < sizeof json);
    for (size_t i = 0; i <= n; i++)
        json[i] = text[i] == '\'' ? '"' : text[i];
    return tokenizer_read(write_file("tokenizer.json", json, n));
}

#endif
