/* The stand-in finds what a card would do wrong without a word: kernels with a fault each
 * (tests/stand-in/planted.cu). Which finds what depends on the build: an access beyond an array the address
 * sanitizer, or a page without rights; a race the thread sanitizer alone. */
#include "stand_in_support.h"

enum { ILLEGAL_ADDRESS = 700, LAUNCH_TIMEOUT = 702, LAUNCH_FAILED = 719, SAID = 1 << 16 };

typedef struct Planted {
    const char *kernel;
    unsigned blocks, dynamic;
    int wait; /* the status that waiting returns */
} Planted;

/* Prints the status of waiting, whether all calls after it fail with the same, and y. */
static void run_planted(void *with)
{
    const Planted *p = with;
    Opened o = open_card();
    ElementArguments a = arguments_of(&o);
    float y[64];
    int started = launch(&o, p->kernel, p->blocks, 64, p->dynamic, &a);
    int waited = driver.cuStreamSynchronize(o.stream);
    printf("launch %d, wait %d", started, waited);
    if (waited) {
        Pointer q;
        printf(", then %d %d %d\n", driver.cuMemAlloc_v2(&q, 4), driver.cuStreamSynchronize(o.stream),
               launch(&o, "planted_nothing", 1, 64, 0, &a));
        return;
    }
    printf(", copy %d, y", driver.cuMemcpyDtoHAsync_v2(y, o.y, sizeof y, o.stream));
    for (int i = 0; i < 64; i++)
        printf(" %g", (double)y[i]);
    printf("\n");
}

static int line_of(const char *comment)
{
    static const char path[] = "tests/stand-in/planted.cu";
    char line[512], wanted[128];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    snprintf(wanted, sizeof wanted, "/* %s */", comment);
    int number = 1;
    while (fgets(line, sizeof line, file) && !strstr(line, wanted))
        number++;
    assert_false(feof(file));
    fclose(file);
    return number;
}

/* Whether the text names the line of planted.cu that has this comment. */
static void assert_names(const char *said, const char *comment)
{
    char place[64];
    snprintf(place, sizeof place, "planted.cu:%d", line_of(comment));
    if (!strstr(said, place))
        fail_msg("not named: %s (%s) in\n%s", place, comment, said);
}

static void assert_says(const char *said, const char *words)
{
    if (!strstr(said, words))
        fail_msg("not said: %s in\n%s", words, said);
}

static const char *planted(const char *kernel, const char *const *settings, unsigned dynamic, int *code)
{
    static char said[SAID];
    Planted p = {.kernel = kernel, .blocks = 2, .dynamic = dynamic};
    *code = in_child(said, sizeof said, settings, run_planted, &p);
    return said;
}

/* A fault of the card: a message, and every later call fails with it. */
static const char *faults(const char *kernel, const char *const *settings, unsigned dynamic, int status)
{
    int code;
    char line[64];
    const char *said = planted(kernel, settings, dynamic, &code);
    snprintf(line, sizeof line, "launch 0, wait %d, then %d %d %d\n", status, status, status, status);
    assert_says(said, line);
    assert_true(code == 0 || (WITH_THREAD && code == 66)); /* it sees races beside the fault */
    assert_says(said, "stand-in: ");
    assert_says(said, kernel);
    return said;
}

static void test_nothing_is_found_in_a_right_kernel(void **state)
{
    int code;
    (void)state;
    const char *said = planted("planted_nothing", NULL, 0, &code);
    assert_int_equal(code, 0);
    assert_true(strncmp(said, "launch 0, wait 0, copy 0, y 95 94 93", 36) == 0);
    assert_null(strstr(said, "stand-in: "));
}

static void test_access_beyond_an_array(void **state)
{
    static const struct {
        const char *kernel, *comment, *words;
        unsigned dynamic;
    } cases[] = {
        {"planted_beyond_global", "beyond global", "0 bytes beyond the end of an allocation of 256 bytes", 0},
        {"planted_beyond_dynamic", "beyond dynamic", "beyond the end of dynamic shared memory", 252 - 16},
        {"planted_null", NULL, ", a null pointer", 0},
        {"planted_beyond_shared", "beyond shared", NULL, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code;
        if (WITH_ADDRESS) { /* ends the process at the access */
            const char *said = planted(cases[i].kernel, NULL, cases[i].dynamic, &code);
            /* or the undefined-behaviour sanitizer, whichever looks first */
            assert_true(strstr(said, "AddressSanitizer") || strstr(said, "runtime error: "));
            assert_int_not_equal(code, 0);
            if (cases[i].comment)
                assert_names(said, cases[i].comment);
        } else if (cases[i].words && !WITH_THREAD) {
            assert_says(faults(cases[i].kernel, NULL, cases[i].dynamic, ILLEGAL_ADDRESS), cases[i].words);
        }
    }
}

static void test_race(void **state)
{
    int code;
    (void)state;
    if (!WITH_THREAD)
        skip();
    const char *said = planted("planted_race", NULL, 0, &code);
    assert_says(said, "data race");
    assert_names(said, "race, written");
    assert_names(said, "race, read");
    said = planted("planted_global_race", NULL, 0, &code);
    assert_says(said, "data race");
    assert_names(said, "global race, zeroed");
    assert_names(said, "global race, added");
    said = planted("planted_nothing", NULL, 0, &code);
    assert_null(strstr(said, "data race"));
    assert_int_equal(code, 0);
}

static void test_barriers_and_collectives(void **state)
{
    (void)state;
    const char *said = faults("planted_two_barriers", NULL, 0, LAUNCH_FAILED);
    assert_names(said, "barrier of some");
    assert_names(said, "barrier of the others");
    said = faults("planted_two_collectives", NULL, 0, LAUNCH_FAILED);
    assert_names(said, "collective of odd lanes");
    assert_names(said, "collective of even lanes");
    said = faults("planted_missing_lanes", NULL, 0, LAUNCH_FAILED);
    assert_says(said, "a card would hang: of 64 threads of block (0,0,0) 32 are done");
    assert_says(said, "16 lanes of warp 0 wait for the others");
    assert_names(said, "collective without odd lanes");
    said = faults("planted_hang", NULL, 0, LAUNCH_FAILED);
    assert_true(strstr(said, "would hang") || strstr(said, "meet at different places"));
}

static void test_endless_loop(void **state)
{
    static const char *const soon[] = {"STAND_IN_SECONDS=1", NULL};
    (void)state;
    if (WITH_THREAD)
        skip(); /* it holds signals back until a call of the C library's, which the loop does not make */
    if (WITH_ADDRESS) {
        int code;
        assert_says(planted("planted_endless", soon, 0, &code), "runs without an end");
        assert_int_equal(code, 1);
        return;
    }
    const char *said = faults("planted_endless", soon, 0, LAUNCH_TIMEOUT);
    assert_says(said, "planted_endless, block (0,0,0), thread (0,0,0): runs without an end");
}

/* Half of what comes out was never written. */
static void test_unwritten_shared_memory(void **state)
{
    int code;
    (void)state;
    const char *said = planted("planted_unwritten", NULL, 0, &code);
    assert_int_equal(code, 0);
    assert_says(said, " 30 31 -nan -nan");
}

static void test_order_of_blocks(void **state)
{
    static const char *const reversed[] = {"STAND_IN_ORDER=reverse", NULL};
    int code;
    (void)state;
    assert_says(planted("planted_order", NULL, 0, &code), "y 0 1 2 3");
    assert_says(planted("planted_order", reversed, 0, &code), "y 0 2 4 6");
}

static void touch(void *with)
{
    (void)with;
    Opened o = open_card();
    driver.cuStreamSynchronize(o.stream);
    printf("it holds %g\n", (double)*(volatile float *)(uintptr_t)o.x);
}

static void test_host_that_touches_memory_of_a_card(void **state)
{
    static const char *const guarded[] = {"STAND_IN_GUARD=1", NULL};
    static char said[SAID];
    (void)state;
    assert_int_not_equal(in_child(said, sizeof said, guarded, touch, NULL), 0);
    assert_null(strstr(said, "it holds 0"));
    assert_says(said, WITH_ADDRESS
                          ? "AddressSanitizer: use-after-poison"
                          : "the host touches a card's memory: illegal read 0 bytes into an allocation");
    assert_int_equal(in_child(said, sizeof said, NULL, touch, NULL), 0);
    assert_says(said, "it holds 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_found_in_a_right_kernel),
        cmocka_unit_test(test_access_beyond_an_array),
        cmocka_unit_test(test_race),
        cmocka_unit_test(test_barriers_and_collectives),
        cmocka_unit_test(test_endless_loop),
        cmocka_unit_test(test_unwritten_shared_memory),
        cmocka_unit_test(test_order_of_blocks),
        cmocka_unit_test(test_host_that_touches_memory_of_a_card),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
