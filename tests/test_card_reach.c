/* That arrays of a test's are in reach of a card's kernels wherever they lie: what tests/gpu/run counts on.
 * Runs itself again with BRIM_TEST_CARD=real and the stand-in as the card. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/kernel_run.h"

static float data[64] = {1};
static float bss[64];
static const float constant[64] = {3};
enum { MAPPED = 1 << 16, LARGE = 1 << 22 };

static void fill(float *at)
{
    at[63] = 0;
    kernels_cuda()->fill(DTYPE_F32, 64, 1.5f, at, on(1));
    for (int i = 0; i < 64; i++)
        assert_true(at[i] == 1.5f);
}

static float *mapped(void)
{
    void *at = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

static void test_in_reach(void **state)
{
    (void)state;
    float stack[64], *small = malloc(64 * sizeof *small), *large = malloc(LARGE);
    assert_true(small && large);
    fill(stack);
    fill(data);
    fill(bss);
    fill(small);
    fill(large);
    fill(large + LARGE / sizeof *large - 64);
    kernels_cuda()->scale(DTYPE_F32, 64, 2.0f, constant, 0.0f, stack, on(1));
    assert_true(stack[0] == 6.0f && stack[63] == 0.0f);
    free(small);
    free(large);
}

static void test_heap_grows(void **state)
{
    (void)state;
    enum { MANY = 20, BYTES = 32 << 20 };
    float *at[MANY];
    (void)card();
    for (int i = 0; i < MANY; i++) {
        assert_non_null(at[i] = malloc(BYTES));
        fill(at[i] + BYTES / sizeof(float) - 64);
    }
    for (int i = 0; i < MANY; i++)
        free(at[i]);
}

static float *early; /* mapped before there is a card */

static void test_mapped(void **state)
{
    (void)state;
    float *at = mapped();
    fill(early);
    card_reach_add(at, MAPPED);
    fill(at);
    fill(early);
    card_reach_drop(at);
    munmap(at, MAPPED);
}

/* An array that a real card could not read ends the test, on a stand-in too. */
static void test_out_of_reach(void **state)
{
    (void)state;
    float *at = mapped();
    int status;
    (void)card();
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        close(2);
        kernels_cuda()->fill(DTYPE_F32, 64, 1.5f, at, on(1));
        _exit(0);
    }
    assert_true(waitpid(child, &status, 0) == child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    munmap(at, MAPPED);
}

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
static void test_skipped(void **state)
{
    (void)state;
    skip();
}
#endif

int main(int count, char **words)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_in_reach), cmocka_unit_test(test_heap_grows),
                                       cmocka_unit_test(test_mapped), cmocka_unit_test(test_out_of_reach)};
    const char *folder = getenv("BRIM_STAND_IN");
    char driver[512], blas[512];
    (void)count;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__ /* their heap is not one piece */
    const struct CMUnitTest none[] = {cmocka_unit_test(test_skipped)};
    return cmocka_run_group_tests(none, NULL, NULL);
#endif
    if (!card_is_real()) {
        snprintf(driver, sizeof driver, "%s/libcuda.so.1", folder ? folder : "build/stand-in");
        snprintf(blas, sizeof blas, "%s/libcublas.so.13", folder ? folder : "build/stand-in");
        setenv("BRIM_CUDA_DRIVER", driver, 1);
        setenv("BRIM_CUBLAS", blas, 1);
        setenv("BRIM_TEST_CARD", "real", 1);
        execv("/proc/self/exe", words);
        return 1;
    }
    early = mapped();
    card_reach_add(early, MAPPED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
