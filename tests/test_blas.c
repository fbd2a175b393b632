/* Which library multiplies, each choice in a process of its own (a process looks once); and devices by name.
 */
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kernels/blas.h"
#include "kernel_run.h"
#include "../tensor/tensor_.h"
#include "support.h"

/* What a process with this environment found. */
typedef struct Found {
    int status, code, wrong; /* of kernels_blas_start; of a context's error; 1: a product is wrong */
    uint64_t workspace;      /* of linear layers, hashed */
    char name[128], warning[640], error[640], message[512];
} Found;

static float uniform(uint32_t i) /* in [-1, 1) */
{
    return (float)hash32(i) * 0x1p-31f - 1;
}

static float product_at(const float *a, const float *b, int n, int i, int j)
{
    double sum = 0;
    for (int k = 0; k < n; k++)
        sum += (double)a[i * n + k] * (double)b[j * n + k];
    return (float)sum;
}

/* A B^T on three threads, in every table: 1 when an element is off. */
static int multiplies_wrongly(void)
{
    enum { M = 131, N = 77, K = 301 };
    static const char *const tables[] = {"base", "avx2", "avx512"};
    static float a[M * K], b[N * K], c[M * N];
    int wrong = 0;
    for (int i = 0; i < M * K; i++)
        a[i] = uniform((uint32_t)i);
    for (int i = 0; i < N * K; i++)
        b[i] = uniform((uint32_t)i + 77777);
    for (size_t t = 0; t < COUNT(tables); t++) {
        const Kernels *kernels = kernels_cpu(tables[t]);
        if (!kernels)
            continue;
        kernels->gemm(0, 1, M, N, K, 1, a, K, b, K, 0, c, N, on(3));
        for (int i = 0; i < M * N; i++)
            wrong |= !(fabsf(c[i] - product_at(a, b, K, i / N, i % N)) < 1e-4f);
    }
    return wrong;
}

/* What passes of linear layers ask for, below and above the sizes from which brim multiplies floats itself.
 */
static uint64_t workspaces(void)
{
    static const int64_t sizes[] = {4, 256, 1024, 2048, 8193};
    uint64_t hash = 0;
    for (int i = 0; i < 5 * 5 * 5 * 3; i++) {
        LinearDims d = {sizes[i % 5], sizes[i / 5 % 5], sizes[i / 25 % 5], 0, DTYPE_F32, DTYPE_F32, 0};
        hash = hash * 1099511628211u +
               kernels_cpu(NULL)->linear_workspace(&d, (LinearPass)(i / 125), DTYPE_F32, on(2));
    }
    return hash;
}

static void look(Found *found)
{
    found->status = kernels_blas_start(2);
    snprintf(found->name, sizeof found->name, "%s", kernels_blas_name());
    snprintf(found->warning, sizeof found->warning, "%s",
             kernels_blas_warning() ? kernels_blas_warning() : "");
    snprintf(found->error, sizeof found->error, "%s", kernels_blas_error() ? kernels_blas_error() : "");
    found->code = error_code();
    snprintf(found->message, sizeof found->message, "%s", error_message());
    found->wrong = multiplies_wrongly();
    found->workspace = workspaces();
}

/* With these values of BRIM_BLAS and OPENBLAS_CORETYPE; NULL = not set. */
static Found find_with(const char *blas, const char *core)
{
    Found found = {0};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        blas ? setenv("BRIM_BLAS", blas, 1) : unsetenv("BRIM_BLAS");
        core ? setenv("OPENBLAS_CORETYPE", core, 1) : unsetenv("OPENBLAS_CORETYPE");
        alarm(60);
        look(&found);
        _exit(write(ends[1], &found, sizeof found) != (ssize_t)sizeof found);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &found, sizeof found), sizeof found);
    close(ends[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    return found;
}

/* Whatever this machine has, it multiplies; without a fast library that is said. */
static void by_itself(void **state)
{
    (void)state;
    Found found = find_with(NULL, NULL);
    assert_int_equal(found.status, 0);
    assert_int_equal(found.code, ERROR_NONE);
    assert_string_equal(found.error, "");
    assert_int_equal(found.wrong, 0);
    if (!strcmp(found.name, "brim's own products"))
        assert_non_null(strstr(found.warning, "Install OpenBLAS"));
}

static void own_products(void **state)
{
    (void)state;
    Found found = find_with("own", NULL);
    assert_int_equal(found.status, 0);
    assert_string_equal(found.name, "brim's own products");
    assert_string_equal(found.warning, "");
    assert_int_equal(found.wrong, 0);
    assert_true(found.workspace == find_with(NULL, NULL).workspace); /* plans are the same */
}

static void unusable(const char *path, const char *why)
{
    Found found = find_with(path, NULL);
    assert_int_equal(found.status, -1);
    assert_int_equal(found.code, ERROR_FILE);
    assert_string_equal(found.message, found.error);
    if (!strstr(found.error, path) || !strstr(found.error, why) || !strstr(found.error, "own"))
        fail_msg("no '%s' in: %s", why, found.error);
    assert_string_equal(found.name, "brim's own products");
    assert_int_equal(found.wrong, 0);
}

static void named_but_unusable(void **state)
{
    (void)state;
    unusable("/nowhere/libblas.so", "No such file");
    unusable("/etc/passwd", "invalid ELF header");
    unusable("libm.so.6", "no cblas_sgemm");
}

/* Half of this program: the loader would map it and die of it. */
static void cut_off(void **state)
{
    (void)state;
    char path[] = "/tmp/brim-blas-XXXXXX";
    static char bytes[1 << 16];
    int from = open("/proc/self/exe", O_RDONLY), to = mkstemp(path);
    assert_true(from >= 0 && to >= 0);
    assert_int_equal(read(from, bytes, sizeof bytes), sizeof bytes);
    assert_int_equal(write(to, bytes, sizeof bytes), sizeof bytes);
    close(from);
    close(to);
    unusable(path, "cut off");
    unlink(path);
}

/* OPENBLAS_CORETYPE, where OpenBLAS serves. */
static void slow_cores(void **state)
{
    (void)state;
    if (strncmp(find_with(NULL, NULL).name, "OpenBLAS", 8))
        skip();
    Found found = find_with(NULL, "Quantum");
    assert_non_null(strstr(found.warning, "OPENBLAS_CORETYPE=Quantum"));
    assert_int_equal(found.wrong, 0);
    found = find_with(NULL, "Prescott");
    if (strstr(found.name, "Prescott") && kernels_cpu("avx2")) {
        assert_non_null(strstr(found.warning, "OPENBLAS_CORETYPE=Prescott"));
        assert_non_null(strstr(found.warning, "unset it"));
    }
    assert_int_equal(found.wrong, 0);
}

/* ---- The environment --------------------------------------------------------------------------- */

/* As it was, with what a library has added to it meanwhile. */
static void environment_is_given_back(void **state)
{
    (void)state;
    char **before = environ;
    const char *path = getenv("PATH");
    assert_int_equal(environment_begin("BRIM_TEST_A=1"), 0);
    assert_string_equal(getenv("BRIM_TEST_A"), "1");
    assert_ptr_equal(getenv("PATH"), path);
    environment_end();
    assert_ptr_equal(environ, before);
    assert_null(getenv("BRIM_TEST_A"));

    setenv("BRIM_TEST_A", "mine", 1);
    assert_int_equal(environment_begin("BRIM_TEST_A=1"), 0);
    assert_string_equal(getenv("BRIM_TEST_A"), "1");
    setenv("BRIM_TEST_B", "theirs", 1);
    environment_end();
    assert_string_equal(getenv("BRIM_TEST_A"), "mine");
    assert_string_equal(getenv("BRIM_TEST_B"), "theirs");

    unsetenv("BRIM_TEST_A");
    assert_int_equal(environment_begin("BRIM_TEST_A=1"), 0);
    setenv("BRIM_TEST_C", "theirs", 1);
    environment_end();
    assert_null(getenv("BRIM_TEST_A"));
    assert_string_equal(getenv("BRIM_TEST_C"), "theirs");
    unsetenv("BRIM_TEST_B");
    unsetenv("BRIM_TEST_C");
}

static void an_environment_too_large_stays(void **state)
{
    (void)state;
    static char *many[5000], variable[] = "A=1";
    char **before = environ;
    for (size_t i = 0; i + 1 < COUNT(many); i++)
        many[i] = variable;
    environ = many;
    int status = environment_begin("BRIM_TEST_A=1");
    const char *value = getenv("BRIM_TEST_A");
    environ = before;
    assert_int_equal(status, -1);
    assert_null(value);
}

/* The choice leaves no trace for child processes, and the user's stays whole however long it is. */
static void cores_leave_no_trace(void **state)
{
    (void)state;
    static const char of_a_user[] =
        "a core that is unknown, with a name of more than sixty-four bytes in all";
    int ends[2];
    char same = 'n';
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        setenv("OPENBLAS_CORETYPE", of_a_user, 1);
        unsetenv("OPENBLAS_NUM_THREADS");
        kernels_blas_start(1);
        const char *now = getenv("OPENBLAS_CORETYPE");
        same = now && !strcmp(now, of_a_user) && !getenv("OPENBLAS_NUM_THREADS") ? 'y' : 'n';
        _exit(write(ends[1], &same, 1) != 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &same, 1), 1);
    close(ends[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(same, 'y');
}

/* ---- Devices ----------------------------------------------------------------------------------- */

static void devices(void **state)
{
    (void)state;
    char why[512];
    static const char *const bad[] = {"", "gpu", "cuda:", "cuda:x", "cudax", "CPU", "meta"};
    setenv("BRIM_CUDA_DRIVER", "/nowhere/libcuda.so.1", 1);
    assert_int_equal(device_check(NULL, why, sizeof why), ERROR_NONE);
    assert_int_equal(device_check("cpu", why, sizeof why), ERROR_NONE);
    assert_string_equal(why, "");
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_int_equal(device_check(bad[i], why, sizeof why), ERROR_ARGUMENT);
    assert_int_equal(device_check("cuda:12", why, sizeof why), ERROR_STATE);
    assert_non_null(strstr(why, "cannot be opened: /nowhere/libcuda.so.1"));
    assert_non_null(strstr(why, "cpu works"));
    for (int meta = 0; meta < 2; meta++) { /* a plan needs no card */
        Context *context = context_create(&(ContextOptions){.device = "cuda", .meta = meta, .threads = 1});
        Context *outside = context_use(context);
        assert_int_equal(error_code(), meta ? ERROR_NONE : ERROR_STATE);
        assert_true(meta || strstr(error_message(), "cannot be opened: /nowhere"));
        context_use(outside);
        context_destroy(context);
    }
}

static void make(const char *root, const char *path, int folder)
{
    char whole[128];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    int file = folder ? mkdir(whole, 0700) : open(whole, O_CREAT | O_WRONLY, 0600);
    assert_true(file >= 0);
    if (!folder)
        close(file);
}

static void expect_cards(const char *root, int libcuda, const char *words)
{
    char text[256];
    device_nvidia_(root, libcuda, text, sizeof text);
    if (!strstr(text, words))
        fail_msg("no '%s' in: %s", words, text);
}

static void cards_of_a_machine(void **state)
{
    (void)state;
    char root[] = "/tmp/brim-cards-XXXXXX", command[64];
    assert_non_null(mkdtemp(root));
    expect_cards(root, 0, "neither an NVIDIA GPU nor a driver");
    expect_cards(root, 1, "but no NVIDIA GPU");
    make(root, "/dev", 1);
    make(root, "/dev/nvidiactl", 0);
    expect_cards(root, 0, "neither");
    make(root, "/dev/nvidia0", 0);
    expect_cards(root, 1, "has 1 NVIDIA GPU and a driver");
    make(root, "/dev/nvidia1", 0);
    expect_cards(root, 0, "has 2 NVIDIA GPUs without the driver's library");
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_itself),
        cmocka_unit_test(own_products),
        cmocka_unit_test(named_but_unusable),
        cmocka_unit_test(cut_off),
        cmocka_unit_test(slow_cores),
        cmocka_unit_test(environment_is_given_back),
        cmocka_unit_test(cores_leave_no_trace),
        cmocka_unit_test(an_environment_too_large_stays),
        cmocka_unit_test(devices),
        cmocka_unit_test(cards_of_a_machine),
    };
    return cmocka_run_group_tests_name("blas and devices", tests, NULL, NULL);
}
