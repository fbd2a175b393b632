/* A card that cannot be had, or fails in the middle, while the command uses it: one sentence, the right exit
 * code, no hang, and the newest save as it was. On the stand-in. */
#include "cuda_cli_support.h"

#include <math.h>

#define SHORT "--batch", "1", "--seq", "8", "--max-samples", "20"

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

/* ---- Before anything runs -------------------------------------------------------------------- */

static Outcome *run_kind(int kind)
{
    return kind == 0   ? SMALL("train", "--device", "cuda", "--steps", "1", SHORT)
           : kind == 1 ? SMALL("generate", "--device", "cuda", "--tokens", "2")
           : kind == 2 ? SMALL("demo", "--device", "cuda", "--steps", "1", SHORT)
                       : SMALL("compare", "--device", "cuda", "--run", "1", SHORT);
}

static void cards_that_cannot_be_had(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
        int code; /* 2: known before anything is planned */
        const char *says;
    } cases[] = {
        {"STAND_IN_CARDS", "0", 2, "CUDA_ERROR_NO_DEVICE"},
        {"STAND_IN_DRIVER", "11080", 2, "the driver serves CUDA 11.8; 12.0 (driver 525) is needed"},
        {"STAND_IN_MODE", "prohibited", 2, "compute mode 'prohibited'"},
        {"STAND_IN_CAPABILITY", "70", 2, "compute capability 7.0; there are kernels for 7.5"},
        {"BRIM_CUBLAS", "/nowhere/libcublas.so.13", 2, "/nowhere/libcublas.so.13"},
        {"BRIM_CUDA_DRIVER", "/nowhere/libcuda.so.1", 2, "/nowhere/libcuda.so.1"},
        {"STAND_IN_MODE", "exclusive", 1, "the card is in exclusive use, and another program has it"},
        {"STAND_IN_MEMORY", "10", 1, "the driver gives no context: CUDA_ERROR_OUT_OF_MEMORY"},
        {"STAND_IN_MEMORY", "17", 1, "the kernels do not load on this card: CUDA_ERROR_OUT_OF_MEMORY"},
        {"STAND_IN_MEMORY", "20", 1, "2.0 MiB are free on the card"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        setenv(cases[i].name, cases[i].value, 1);
        for (int kind = 0; kind < 4; kind++) {
            Outcome *o = run_kind(kind);
            const char *in = kind == 3 && cases[i].code == 1 ? o->out : o->err; /* a row of compare says it */
            if (o->code != cases[i].code || (kind < 3 && !strstr(in, cases[i].says)) ||
                (cases[i].code == 2 && (!strstr(in, cases[i].says) || lines_starting(o->err, "brim: ") != 1)))
                fail_msg("%s=%s, command %d: exit code %d\n%s\n%s", cases[i].name, cases[i].value, kind,
                         o->code, o->err, o->out);
        }
        unsetenv(cases[i].name);
        stand_in_environment();
    }
}

/* ---- In the middle --------------------------------------------------------------------------- */

enum { STEPS = 4 };

static Outcome *train_saving(const char *run)
{
    return TRAIN("cuda", "--steps", "4", "--quiet", "--save", run, "--save-every", "1");
}

/* Whatever it was doing, a save among it: what is saved goes on where it was. */
static void a_lost_card_leaves_the_save(void **state)
{
    (void)state;
    double whole = 0;
    int resumed = 0, at_save = 0;
    json_t *all = json_of(TRAIN("cpu", "--steps", "4"));
    whole = number(all, "loss_last");
    json_decref(all);
    for (int n = 300;; n += 83) {
        char run[200], again[200];
        long long step = -1;
        snprintf(run, sizeof run, "%s/lost%d", folder, n);
        set_number("STAND_IN_LOST", n);
        Outcome *o = train_saving(run);
        unsetenv("STAND_IN_LOST");
        if (o->code == 0)
            break;
        expect_code(o, 1);
        if (!strstr(o->err, "failed on the card: CUDA_ERROR_LAUNCH_FAILED (719)"))
            fail_msg("lost at %d: %s", n, o->err);
        at_save += strstr(o->err, " is not saved: ") != NULL;
        const char *at = strstr(o->err, "brim: step ");
        while (at && !strstr(at, " is saved in "))
            at = strstr(at + 1, "brim: step ");
        if (!at)
            continue;
        at = strstr(o->err, " is saved in ");
        while (at > o->err && at[-1] >= '0' && at[-1] <= '9')
            at--;
        assert_int_equal(sscanf(at, "%lld", &step), 1);
        snprintf(again, sizeof again, "%s", run);
        json_t *rest = json_of(TRAIN("cpu", "--steps", "4", "--resume", again));
        if (number(rest, "steps") != (double)(STEPS - step) ||
            (step < STEPS && !(fabs(number(rest, "loss_last") - whole) < 1e-5)))
            fail_msg("lost at %d: after step %lld, %g steps end at the loss %.9g, not %.9g", n, step,
                     number(rest, "steps"), number(rest, "loss_last"), whole);
        resumed++;
        json_decref(rest);
    }
    assert_true(resumed >= 2 && at_save >= 1);
}

/* With BRIM_CUDA_SYNC=1 the operation and its place; a launch that is refused names its kernel. */
static void says_where(void **state)
{
    (void)state;
    int placed = 0, kernels = 0;
    setenv("BRIM_CUDA_SYNC", "1", 1);
    for (int n = 100; n < 330; n += 37) {
        set_number("STAND_IN_TRAP", n);
        Outcome *o = expect_code(TRAIN("cuda", "--steps", "4"), 1);
        assert_non_null(strstr(o->err, " failed on the card: CUDA_ERROR_ILLEGAL_ADDRESS (700)"));
        assert_null(strstr(o->err, "BRIM_CUDA_SYNC"));
        placed += strstr(o->err, "(700), at ") != NULL;
        unsetenv("STAND_IN_TRAP");
        set_number("STAND_IN_REFUSE", n);
        o = expect_code(TRAIN("cuda", "--steps", "4"), 1);
        assert_non_null(strstr(o->err, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (701), said when the kernel "));
        kernels++;
        unsetenv("STAND_IN_REFUSE");
    }
    unsetenv("BRIM_CUDA_SYNC");
    assert_true(placed >= 2 && kernels >= 2);
}

static void others_say_it_too(void **state)
{
    (void)state;
    set_number("STAND_IN_LOST", 150);
    Outcome *o = expect_code(SMALL("generate", "--device", "cuda", "--tokens", "12"), 1);
    assert_non_null(strstr(o->err, "failed on the card: CUDA_ERROR_LAUNCH_FAILED (719)"));
    assert_null(strstr(o->out, "peak"));
    o = expect_code(SMALL("demo", "--device", "cuda", "--steps", "3", SHORT), 1);
    assert_non_null(strstr(o->err, "failed on the card: CUDA_ERROR_LAUNCH_FAILED (719)"));
    o = expect_code(SMALL("compare", "--device", "cuda", "--batch", "1,2", "--seq", "8", "--max-samples",
                          "20", "--run", "3", "--json"),
                    1);
    assert_non_null(strstr(o->out, "failed on the card: CUDA_ERROR_LAUNCH_FAILED (719)"));
    unsetenv("STAND_IN_LOST");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cards_that_cannot_be_had),
        cmocka_unit_test(a_lost_card_leaves_the_save),
        cmocka_unit_test(says_where),
        cmocka_unit_test(others_say_it_too),
    };
    small_begin();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_folder(NULL);
    return failed;
}
