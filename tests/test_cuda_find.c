/* A card that cannot be used, for every reason there is: one sentence with what was found, what is needed,
 * and where it was looked for. Each in a process of its own, on the stand-in. */
#include "stand_in_support.h"

#include <sys/stat.h>

#include "device/cuda.h"
#include "device/cuda_find.h"
#include "kernels/kernels.h"

enum { SAID = 1 << 12, SETTINGS_MAX = 6 };

static char stand_in_path[512], folder[512];

static const char *setting(const char *name, const char *path, const char *file)
{
    static char texts[SETTINGS_MAX][1100];
    static int next;
    char *text = texts[next++ % SETTINGS_MAX];
    snprintf(text, sizeof texts[0], "%s=%s/%s", name, path, file);
    return text;
}

static const char *in(void (*run)(void *), void *with, const char *a, const char *b, const char *c)
{
    static char said[SAID];
    const char *const settings[] = {a, b, c, NULL};
    assert_int_equal(in_child(said, sizeof said, settings, run, with), 0);
    return said;
}

static void assert_says(const char *said, const char *words)
{
    if (!strstr(said, words))
        fail_msg("not said: %s in\n%s", words, said);
}

/* ---- The card ---- */

static void look(void *ordinal)
{
    CudaDevice device;
    char why[1200];
    int failed = cuda_look(&device, *(int *)ordinal, why, sizeof why);
    printf("%s", failed ? why : "it is there");
}

static void open_it(void *ordinal)
{
    CudaDevice device;
    char why[1200];
    if (!kernels_cuda_open(&device, *(int *)ordinal, why, sizeof why)) {
        snprintf(why, sizeof why, "opened");
        cuda_close(&device);
    }
    printf("%s", why);
}

static void test_cards_that_will_not_do(void **state)
{
    static const struct {
        const char *environment;
        int ordinal;
        const char *says;
    } cases[] = {
        {"STAND_IN_CARDS=1", 0, "it is there"},
        {"STAND_IN_CARDS=0", 0, "CUDA_ERROR_NO_DEVICE"},
        {"CUDA_VISIBLE_DEVICES=", 0, "CUDA_ERROR_NO_DEVICE"},
        {"STAND_IN_CARDS=2", 2, "there are 2 cards"},
        {"CUDA_VISIBLE_DEVICES=MIG-1", 1, "there is 1 card"},
        {"STAND_IN_DRIVER=11080", 0, "the driver serves CUDA 11.8; 12.0 (driver 525) is needed"},
        {"STAND_IN_INIT=803", 0, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
        {"STAND_IN_CAPABILITY=70", 0, "stand-in has compute capability 7.0"},
        {"STAND_IN_MODE=prohibited", 0, "compute mode 'prohibited'"},
    };
    (void)state;
    const char *driver_ = setting("BRIM_CUDA_DRIVER", stand_in_path, "libcuda.so.1");
    const char *blas =
        setting("BRIM_CUBLAS", stand_in_path, "libcublas.so.13"); /* the machine may have none */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int ordinal = cases[i].ordinal;
        assert_says(in(look, &ordinal, driver_, blas, cases[i].environment), cases[i].says);
    }
}

static void test_open(void **state)
{
    int ordinal = 0;
    (void)state;
    const char *driver_ = setting("BRIM_CUDA_DRIVER", stand_in_path, "libcuda.so.1");
    const char *blas = setting("BRIM_CUBLAS", stand_in_path, "libcublas.so.13");
    assert_string_equal(in(open_it, &ordinal, driver_, blas, "STAND_IN_EAGER=1"), "opened");
    assert_string_equal(in(open_it, &ordinal, driver_, blas, "STAND_IN_CAPABILITY=75"), "opened");
    assert_says(in(open_it, &ordinal, driver_, blas, "STAND_IN_MODE=exclusive"), "exclusive use");
    assert_true(strcmp(in(open_it, &ordinal, driver_, blas, "STAND_IN_MEMORY=16"), "opened") != 0);
}

/* ---- The libraries ---- */

static void find_driver(void *unused)
{
    char why[1200] = "";
    (void)unused;
    printf("%s%s", cuda_find_driver(why, sizeof why) ? "found" : "", why);
}

static void find_blas(void *serves)
{
    char why[1200] = "", path[1024] = "";
    printf("%s%s%s", cuda_find_blas(*(int *)serves, path, sizeof path, why, sizeof why) ? "found " : "", path,
           why);
}

static void test_driver(void **state)
{
    (void)state;
    assert_string_equal(
        in(find_driver, NULL, setting("BRIM_CUDA_DRIVER", stand_in_path, "libcuda.so.1"), NULL, NULL),
        "found");
    assert_says(in(find_driver, NULL, "BRIM_CUDA_DRIVER=/nowhere/libcuda.so.1", NULL, NULL),
                "/nowhere/libcuda.so.1");
}

static void test_blas(void **state)
{
    int newer = 13000, older = 12040;
    char file[600];
    (void)state;
    const char *stand_in = setting("BRIM_CUBLAS", stand_in_path, "");
    assert_says(in(find_blas, &newer, stand_in, NULL, NULL), "found ");
    const char *said = in(find_blas, &older, stand_in, NULL, NULL);
    assert_says(said, "libcublas.so.13 needs driver 580 or later, and this one serves CUDA 12.4");
    assert_says(said, "nvidia-cublas-cu12");
    assert_says(in(find_blas, &newer, setting("BRIM_CUBLAS", folder, ""), NULL, NULL),
                "where neither libcublas.so.13 nor libcublas.so.12 is");
    assert_says(in(find_blas, &newer, "BRIM_CUBLAS=/nowhere/cublas.so", NULL, NULL), "/nowhere/cublas.so");
    snprintf(file, sizeof file, "%s/libcublas.so.13", folder);
    FILE *text = fopen(file, "w");
    assert_non_null(text);
    fprintf(text, "not a library\n");
    fclose(text);
    assert_says(in(find_blas, &newer, setting("BRIM_CUBLAS", folder, ""), NULL, NULL),
                "cuBLAS cannot be opened");
    remove(file);
}

/* In an environment of Python's. Where the system has a cuBLAS 12, that one is found first. */
static void test_blas_of_a_wheel(void **state)
{
    static const char *const parts[] = {"/lib",    "/python3.11", "/site-packages",
                                        "/nvidia", "/cublas",     "/lib"};
    int older = 12040;
    char path[1024], library[600], real[1024];
    (void)state;
    snprintf(path, sizeof path, "%s", folder);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        strncat(path, parts[i], sizeof path - strlen(path) - 1);
        mkdir(path, 0700);
    }
    strncat(path, "/libcublas.so.12", sizeof path - strlen(path) - 1);
    snprintf(library, sizeof library, "%s/libcublas.so.13", stand_in_path);
    assert_non_null(realpath(library, real));
    assert_int_equal(symlink(real, path), 0);
    char environment[600];
    snprintf(environment, sizeof environment, "VIRTUAL_ENV=%s", folder);
    const char *said = in(find_blas, &older, environment, NULL, NULL);
    assert_says(said, "found ");
    assert_true(strstr(said, path) || !strstr(said, folder));
    unlink(path);
    for (size_t i = sizeof parts / sizeof *parts; i-- > 0;) {
        *strrchr(path, '/') = '\0';
        rmdir(path);
    }
}

static int make_folder(void **state)
{
    const char *path = getenv("BRIM_STAND_IN"), *temporary = getenv("TMPDIR");
    (void)state;
    unsetenv("BRIM_CUBLAS");
    snprintf(stand_in_path, sizeof stand_in_path, "%s", path ? path : "build/stand-in");
    snprintf(folder, sizeof folder, "%s/brim-find-XXXXXX", temporary ? temporary : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cards_that_will_not_do),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_driver),
        cmocka_unit_test(test_blas),
        cmocka_unit_test(test_blas_of_a_wheel),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
