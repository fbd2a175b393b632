/* What the tests of saving share: a folder, and small runs that are saved and resumed, with a loss and a
 * saved run for every step. */
#ifndef TEST_RESUME_SUPPORT_H
#define TEST_RESUME_SUPPORT_H

#include <sys/stat.h>
#include <unistd.h>

#include "../data/data.h"
#include "../io/saved_run.h"
#include "../base/file_.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "support.h"

static char folder[64];

static inline const char *at(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A path in the folder; 64 may be in use at once. */
static inline const char *at(const char *format, ...)
{
    static char paths[64][256];
    static int next;
    char *path = paths[next++ % 64];
    size_t used = (size_t)snprintf(path, sizeof paths[0], "%s/", folder);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + used, sizeof paths[0] - used, format, arguments);
    va_end(arguments);
    return path;
}

static inline void empty(const char *path)
{
    char command[320];
    assert_int_equal(strncmp(path, "/tmp/brim-resume-", 17), 0);
    snprintf(command, sizeof command, "rm -rf %s", path);
    assert_int_equal(system(command), 0);
}

/* The disk is not what these tests are about. */
static inline int no_sync(int descriptor)
{
    (void)descriptor;
    return 0;
}

static inline int make_folder(void **state)
{
    strcpy(folder, "/tmp/brim-resume-XXXXXX");
    file_calls.fsync = no_sync;
    return mkdtemp(folder) ? fresh_context(state) : -1;
}

static inline int remove_folder(void **state)
{
    empty(folder);
    return leave_context(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

static inline void spill(const char *path, const void *bytes, size_t size)
{
    unlink(path); /* writing over a file makes some file systems wait for the disk */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* The bytes of a file; test_free them. */
static inline char *slurp(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("there is no %s", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = test_malloc(*size + 1);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static inline int exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static inline int same_file(const char *a, const char *b)
{
    size_t n, m;
    char *x = slurp(a, &n), *y = slurp(b, &m);
    int same = n == m && !memcmp(x, y, n);
    test_free(x);
    test_free(y);
    return same;
}

/* Weights, states and everything else. */
static inline int same_saved_run(const char *a, const char *b)
{
    static const char *const names[] = {"model.safetensors", "optimizer.safetensors", "state.json"};
    char x[4200], y[4200];
    int same = 1;
    for (int i = 0; i < 3; i++) {
        snprintf(x, sizeof x, "%s/%s", a, names[i]);
        snprintf(y, sizeof y, "%s/%s", b, names[i]);
        same &= same_file(x, y);
    }
    return same;
}

/* ---- A run that takes no time: one linear layer, whose saved run is some kilobytes ----------------
 */

typedef struct Tiny {
    Module *model;
    Optimizer *optimizer;
    Loader *loader;
    SavedRun run;
    int scope;
} Tiny;

static inline Tiny tiny(void)
{
    static float features[5 * 3];
    static const int32_t labels[5] = {0, 1, 0, 1, 1};
    Tiny t = {.scope = tensor_scope_begin()};
    fill_values(features, 15, 7, 1, 0);
    t.model = nn_mlp(&(MlpConfig){.sizes = {3, 2}});
    t.optimizer = optim_by_name("adamw", nn_parameters(t.model), 0, 0);
    t.loader = data_table(&(TableOptions){
        .features = features, .labels = labels, .count = 5, .width = 3, .batch = 2, .seed = 1});
    t.run = (SavedRun){.model = t.model, .optimizer = t.optimizer, .loader = t.loader};
    return t;
}

static inline void tiny_step(Tiny *t)
{
    int scope = tensor_scope_begin();
    for (const Batch *b; (b = data_next(t->loader));)
        tensor_backward(nn_loss(t->model, b));
    optim_step(t->optimizer);
    optim_zero_grad(t->optimizer);
    tensor_scope_end(scope);
}

static inline void tiny_end(Tiny *t)
{
    tensor_scope_end(t->scope);
}

/* Steps from … to, each saved. */
static inline void tiny_train(Tiny *t, const char *directory, int64_t to, int keep)
{
    t->run.keep = keep;
    while (!error_code() && optim_steps(t->optimizer) < to) {
        tiny_step(t);
        io_save_run(directory, &t->run);
    }
}

#endif
