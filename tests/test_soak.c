/* The soak in its short form, and that it finds what it looks for: each fault is planted once. The hour is
 * `make soak`. */
#include <sys/wait.h>
#include <unistd.h>

#include "../bench/drift.h"
#include "support.h"

/* In the folder that build/brim lies in; what it says is in `text`. Returns its exit code. */
static int soak(const char *arguments, char *text, size_t size)
{
    const char *command = getenv("BRIM_COMMAND"), *slash;
    char line[512];
    command = command && command[0] ? command : "build/brim";
    slash = strrchr(command, '/');
    snprintf(line, sizeof line, "timeout 3500 %.*s/bench/soak %s 2>&1", slash ? (int)(slash - command) : 1,
             slash ? command : ".", arguments);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    text[fread(text, 1, size - 1, pipe)] = '\0';
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static char said[1 << 16];

/* All of what it said, which is more than cmocka prints. */
static void fail_saying(const char *what)
{
    fputs(said, stderr);
    fail_msg("%s", what);
}

/* Of seconds nothing is learnt about speed. */
static void test_nothing_moves(void **state)
{
    (void)state;
    if (soak(full_form() ? "--minutes 0.5 --allow 10000" : "--minutes 0.05 --allow 10000", said,
             sizeof said) != 0)
        fail_saying("a short soak finds faults");
    for (const char *const *phase = (const char *const[]){"text:", "images:", "rounds:", NULL}; *phase;
         phase++)
        assert_non_null(strstr(said, *phase));
    assert_non_null(strstr(said, "0 bytes live at the end; 0 faults"));
}

static void expect_found(const char *fault, const char *words)
{
    char arguments[128];
    snprintf(arguments, sizeof arguments, "--threads 1 --minutes 0.01 --allow 10000 --only images --plant %s",
             fault);
    int code = soak(arguments, said, sizeof said);
    if (code == 0 || !strstr(said, words))
        fail_saying(arguments);
}

static void test_leaks_are_found(void **state)
{
    (void)state;
    expect_found("byte", "tracked bytes of the process");
    expect_found("block", "after a step live blocks: 19, before 18");
    expect_found("file", "open files: ");
    expect_found("thread", "threads: ");
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
    expect_found("malloc", "bytes given by malloc");
    expect_found("page", "resident bytes of its own");
#endif
}

static void test_a_slow_down_is_found(void **state)
{
    (void)state;
    if (SANITIZED && !full_form())
        skip(); /* its steps are not the program's */
    int code = soak("--threads 1 --minutes 0.05 --allow 30 --only images --plant slow", said, sizeof said);
    if (code == 0 || !strstr(said, "slower by"))
        fail_saying("a slow-down was not found");
}

static void test_bad_arguments(void **state)
{
    (void)state;
    assert_int_equal(soak("--minutes 0", said, sizeof said), 2);
    assert_int_equal(soak("--plant nonsense", said, sizeof said), 2);
    assert_non_null(strstr(said, "usage: soak"));
}

/* ---- The slope ------------------------------------------------------------------------------- */

enum { VALUES = 900 };

/* 1, more by `drift` at the end, with noise: a tenth of its values are up to three times as large. */
static Drift drift_with(double drift, double noise)
{
    static double values[VALUES], room[VALUES];
    for (int i = 0; i < VALUES; i++) {
        values[i] = 1 + drift * i / (VALUES - 1) + value_at(1, (uint32_t)i, noise, 0);
        if (hash32((uint32_t)i) % 10 == 0)
            values[i] *= 1 + 2 * fabs((double)value_at(2, (uint32_t)i, 1, 0));
    }
    return drift_of(values, VALUES, room);
}

static void test_slope(void **state)
{
    (void)state;
    for (int percent = -20; percent <= 20; percent += 5) {
        Drift d = drift_with(percent / 100.0, 0.05);
        double expected = percent / 100.0 / (1 + percent / 200.0);
        assert_int_equal(d.blocks, 60);
        assert_true(d.low < expected + 0.01 && expected - 0.01 < d.high && fabs(d.most - expected) < 0.02);
        assert_true(d.low <= d.most && d.most <= d.high && d.high - d.low < 0.05);
        assert_true(fabs(d.third[2] - d.third[0] - percent * 2 / 300.0) < 0.02);
    }
    Drift exact = drift_with(0, 0);
    assert_true(exact.middle == 1 && exact.third[1] == 1 && exact.most == 0);
}

static void test_slope_of_few(void **state)
{
    (void)state;
    double room[12];
    assert_int_equal(drift_of((double[]){3}, 1, room).blocks, 0);
    Drift d = drift_of((double[]){3, 1, 2, 4, 4, 4, 9, 8, 7, 9, 8, 7}, 12, room);
    assert_true(d.blocks < 8 && d.most == 0);
    assert_true(d.third[0] == 2.5 && d.third[2] == 7.5 && d.middle == 5.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_moves),
        cmocka_unit_test(test_leaks_are_found),
        cmocka_unit_test(test_a_slow_down_is_found),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_slope),
        cmocka_unit_test(test_slope_of_few),
    };
    return cmocka_run_group_tests_name("soak", tests, NULL, NULL);
}
