/* What the data tests share: files in a directory of their own, contexts, and checks of messages. */
#ifndef TEST_DATA_INTERNAL_H
#define TEST_DATA_INTERNAL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../data/data.h"
#include "tensor_data.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static char directory[64];
static uint64_t live_before;

__attribute__((unused)) static int make_directory(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/brim-data-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

__attribute__((unused)) static int remove_directory(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command);
}

__attribute__((unused)) static void assert_lengths(DataLengths a, DataLengths b)
{
    assert_int_equal(a.samples, b.samples);
    assert_int_equal(a.shortest, b.shortest);
    assert_int_equal(a.longest, b.longest);
    assert_int_equal(a.line, b.line);
    assert_int_equal(a.longer, b.longer);
    assert_int_equal(a.texts, b.texts);
}

/* Each test runs in a context of its own and leaves nothing behind. */
__attribute__((unused)) static int begin(void **state)
{
    (void)state;
    live_before = memtrack_process_live();
    context_use(context_create(&(ContextOptions){.threads = 1}));
    return 0;
}

__attribute__((unused)) static int end(void **state)
{
    (void)state;
    memtrack_fail_nth(0);
    context_destroy(context_use(NULL));
    return memtrack_process_live() == live_before ? 0 : -1;
}

/* A path in the directory; valid until eight more were made. */
__attribute__((unused)) static const char *path_of(const char *name)
{
    static char paths[8][160];
    static int at;
    char *path = paths[at++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

__attribute__((unused)) static const char *write_file(const char *name, const void *bytes, size_t count)
{
    const char *path = path_of(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* The error is `code` and its message holds every one of the texts; clears it. */
__attribute__((unused)) static void check_error(int code, const char *const texts[], size_t count)
{
    if (error_code() != code)
        fail_msg("expected %s, got %s: %s", error_name((ErrorCode)code), error_name((ErrorCode)error_code()),
                 error_message());
    char text[1024];
    const char *function = error_function();
    snprintf(text, sizeof text, "%s%s%s", function, function[0] ? ": " : "", error_message());
    for (size_t i = 0; i < count; i++)
        if (!strstr(text, texts[i]))
            fail_msg("no '%s' in '%s'", texts[i], text);
    error_clear();
}

#define assert_error(code, ...)                                                                              \
    check_error(code, (const char *const[]){__VA_ARGS__}, COUNT(((const char *const[]){__VA_ARGS__})))

/* A running digest of everything a batch holds but its tensors' addresses. */
__attribute__((unused)) static uint64_t digest(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *b = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ b[i]) * 0x100000001B3u;
    return hash;
}

__attribute__((unused)) static uint64_t digest_tensor(uint64_t hash, Tensor *t)
{
    if (!t)
        return digest(hash, "none", 4);
    Shape shape = tensor_shape(t);
    hash = digest(hash, shape.dim, sizeof shape.dim);
    return tensor_data(t) ? digest(hash, tensor_data(t), (size_t)tensor_numel(t) * 4) : hash;
}

__attribute__((unused)) static uint64_t digest_batch(const Batch *b)
{
    int64_t numbers[] = {b->labels_counted, b->labels_total, b->step,  b->first_sample,
                         b->micro,          b->micros,       b->tokens};
    uint64_t hash = digest(0xCBF29CE484222325u, numbers, sizeof numbers);
    hash = digest_tensor(hash, b->ids);
    hash = digest_tensor(hash, b->features);
    return digest_tensor(hash, b->labels);
}

/* Fails allocation 1, 2, 3 … of making a loader and two of its steps, each time in a fresh context (whose
 * books may grow), until one passes. Nothing may crash or stay. */
__attribute__((unused)) static void sweep_failures(Loader *(*make)(void))
{
    Context *outside = context_current();
    uint64_t before = memtrack_process_live();
    int reached = 1;
    for (uint64_t n = 1; reached; n++) {
        assert_true(n < 500);
        context_use(context_create(&(ContextOptions){.threads = 1}));
        memtrack_fail_nth(n);
        Loader *loader = make();
        for (int step = 0; step < 2; step++)
            while (data_next(loader))
                ;
        reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_true(reached ? error_code() || loader
                            : !error_code()); /* giving back memory may fail unseen */
        assert_true(!error_code() || error_code() == ERROR_HOST_MEMORY || error_code() == ERROR_MEMORY);
        assert_true(reached || n > 4);
        if (n % 2)
            loader_free(loader);
        context_destroy(context_use(outside));
        assert_int_equal(memtrack_process_live(), before);
    }
}

#endif
