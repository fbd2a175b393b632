/* What the tests of safetensors and weights share: a folder that is emptied, files made by hand, small
 * models. */
#ifndef TEST_WEIGHTS_SUPPORT_H
#define TEST_WEIGHTS_SUPPORT_H

#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../io/io.h"
#include "../io/safetensors.h"
#include "../io/weights.h"
#include "support.h"

static char folder[64];

/* A path in the folder; eight may be in use at once. */
static inline const char *at(const char *name)
{
    static char paths[8][256];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static inline int make_folder(void **state)
{
    strcpy(folder, "/tmp/brim-weights-XXXXXX");
    return mkdtemp(folder) ? fresh_context(state) : -1;
}

static inline int remove_folder(void **state)
{
    char command[128];
    if (strncmp(folder, "/tmp/brim-weights-", 18))
        return -1;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command) != 0 || leave_context(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

static inline void put_file(const char *path, const void *bytes, size_t size)
{
    unlink(path);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* The bytes of a file; test_free them. */
static inline unsigned char *get_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = test_malloc(*size + 1);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    bytes[*size] = 0;
    return bytes;
}

static inline int files_in(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

/* A safetensors file of a header written with ' for ", as long as it is, and `size` bytes that count up. */
static inline const char *craft(const char *name, const char *header, size_t size)
{
    static unsigned char bytes[1 << 16];
    uint64_t length = strlen(header);
    const char *path = at(name);
    assert_true(8 + length + size < sizeof bytes);
    memcpy(bytes, &length, 8);
    for (size_t i = 0; i < length; i++)
        bytes[8 + i] = header[i] == '\'' ? '"' : (unsigned char)header[i];
    for (size_t i = 0; i < size; i++)
        bytes[8 + length + i] = (unsigned char)i;
    put_file(path, bytes, 8 + length + size);
    return path;
}

/* A tensor of such a header. */
#define F32(name, shape, from, to)                                                                           \
    "'" name "':{'dtype':'F32','shape':" shape ",'data_offsets':[" from "," to "]}"

static inline void put_text(const char *name, const char *text)
{
    char bytes[4096];
    size_t n = strlen(text);
    assert_true(n < sizeof bytes);
    for (size_t i = 0; i < n; i++)
        bytes[i] = text[i] == '\'' ? '"' : text[i];
    put_file(at(name), bytes, n);
}

/* A model of a family, its values of this seed; every parameter random. */
static inline Module *model_of(const ModelPreset *preset, uint32_t seed)
{
    Module *model = nn_model(preset);
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count && tensor_f32(list.items[i]); i++)
        fill_values(tensor_f32(list.items[i]), tensor_numel(list.items[i]), seed + (uint32_t)i, 0.5, 0);
    return model;
}

static inline ModelPreset family(ModelFamily which)
{
    return small_preset(&(Setting){.family = which});
}

static inline int save(Module *model, const ModelPreset *preset, const char *name)
{
    return io_save_weights(model, preset, at(name), NULL);
}

#define assert_refused(path, code, ...)                                                                      \
    do {                                                                                                     \
        assert_null(safetensors_open(path));                                                                 \
        assert_error(code, __VA_ARGS__);                                                                     \
    } while (0)

#endif
