/* The command with little room: a full disk, files that may not grow, an output that does not arrive, little
 * of a process. No file is half written. Where the machine does not let us mount, those tests are skipped and
 * say why. */
#include <sched.h>
#include <sys/mount.h>

#include "load_support.h"

/* ---- Little disk ----------------------------------------------------------------------------- */

static int small_disk; /* a mount of 32 MiB, ours alone */

static int make_disk(void **state)
{
    int failed = make_folder(state);
    if (failed)
        return failed;
    mkdir(path_of("disk"), 0700);
    small_disk = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                 mount("none", path_of("disk"), "tmpfs", 0, "size=32m") == 0;
    return 0;
}

static int remove_disk(void **state)
{
    if (small_disk)
        umount(path_of("disk"));
    return remove_folder(state);
}

static void need_disk(void)
{
    if (small_disk) { /* an empty one */
        assert_int_equal(umount(in_folder("disk")), 0);
        assert_int_equal(mount("none", in_folder("disk"), "tmpfs", 0, "size=32m"), 0);
        return;
    }
    skipped("no file system can be mounted here (root)");
    skip();
}

static void fill_disk(void)
{
    static const char zeros[1 << 16];
    int file = open(path_of("disk/full"), O_WRONLY | O_CREAT, 0600);
    assert_true(file >= 0);
    while (write(file, zeros, sizeof zeros) > 0)
        ;
    close(file);
}

static void room_is_asked_for_first(void **state)
{
    (void)state;
    need_disk();
    const char *run = path_of("disk/run");
    Outcome *o = expect_code(RUN(SMALL, "--steps", "100000", "--quiet", "--save", run), 1);
    expect_words(o, "brim: too little room for --save ");
    expect_words(o, " saves of 70.2 MiB: --keep 2, and the one being written): 32.0 MiB are free there.\n");
    o = expect_code(RUN(SMALL, "--steps", "100000", "--quiet", "--optimizer", "sgd", "--save", run), 1);
    expect_words(o, "which needs 70.4 MiB (3 saves of 23.5 MiB");
    o = expect_code(RUN(SMALL, "--steps", "2", "--quiet", "--optimizer", "sgd", "--save", run, "--save-every",
                        "2", "--export", path_of("disk/out")),
                    1);
    expect_words(o, ", and --export ");
    expect_code(
        RUN(SMALL, "--steps", "2", "--quiet", "--optimizer", "sgd", "--save", run, "--save-every", "2"), 0);
    o = expect_code(RUN(SMALL, "--steps", "4", "--quiet", "--optimizer", "sgd", "--resume", run, "--save",
                        run, "--keep", "1"),
                    1); /* the new one before the old one goes */
    expect_words(o, "which needs 23.5 MiB: 8.");
}

static void keep_1_is_named_where_it_helps(void **state)
{
    (void)state;
    need_disk();
    Outcome *o =
        expect_code(RUN("train", "--model", "mlp", "--data", make_images("images"), "--steps", "100",
                        "--quiet", "--save", path_of("disk/mlp"), "--save-every", "1", "--keep", "4"),
                    1);
    expect_words(o, "\nWith --keep 1 it needs ");
}

static void a_full_disk_leaves_nothing_behind(void **state)
{
    (void)state;
    need_disk();
    const char *log = path_of("small.jsonl"), *text = path_of("text");
    expect_code(RUN(SMALL, "--steps", "2", "--quiet", "--log", log), 0);
    expect_code(RUN("report", log, "--html", path_of("disk/old.html")), 0);
    make_text("text", 20000);
    fill_disk();
    struct stat before, after;
    assert_int_equal(stat(path_of("disk/old.html"), &before), 0);
    expect_words(expect_code(RUN("report", log, "--html", path_of("disk/old.html")), 1),
                 "No space left on device");
    expect_words(expect_code(RUN("report", log, "--csv", path_of("disk/x.csv")), 1),
                 "No space left on device");
    expect_words(
        expect_code(RUN("tokenize", "--train", text, "-o", path_of("disk/t.json"), "--vocab", "300"), 1),
        "No space left on device");
    assert_int_equal(stat(path_of("disk/old.html"), &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_size == after.st_size);
    assert_int_equal(named(path_of("disk"), ""), 2);
    expect_words(expect_code(RUN(SMALL, "--steps", "2", "--quiet", "--log", path_of("disk/l.jsonl")), 1),
                 "brim: too little room for --log ");
    assert_int_equal(named(path_of("disk"), ""), 2);
}

/* ---- Little else ----------------------------------------------------------------------------- */

static void files_that_may_not_grow(void **state)
{
    (void)state;
    const char *log = path_of("small.jsonl"), *page = path_of("limited.html");
    expect_code(RUN(SMALL, "--steps", "2", "--quiet", "--log", log), 0);
    largest_file = 16384;
    Outcome *o = expect_code(run_now(START("report", log, "--html", page)), 1);
    expect_words(o, "File too large");
    o = expect_code(run_now(START(SMALL, "--steps", "2", "--quiet", "--save", path_of("limited"))), 1);
    largest_file = RLIM_INFINITY;
    expect_words(o, "limited writes a file of ");
    expect_words(o, ", but files may only have 16.0 KiB here (ulimit -f).\n");
    assert_int_equal(named(folder, "limited.html"), 0);
}

/* What was printed did not arrive. */
static void output_that_does_not_arrive(void **state)
{
    (void)state;
    char script[256];
    snprintf(script, sizeof script, "%s models >/dev/full", command_path());
    Outcome *o = expect_code(run_now(start((const char *[]){"/bin/sh", "-c", script, NULL})), 1);
    expect_words(o, "brim: the output is not complete: No space left on device\n");
}

/* Not without a word, nor for ever. */
static void little_of_a_process(void **state)
{
    (void)state;
    static const char *const threads[][2] = {
        {"1000", "128 threads"}, {"3", "3 threads"}, {"99999999999999999999", "128 threads"}};
    for (size_t i = 0; i < (full_form() ? COUNT(threads) : 2); i++) { /* 128 threads work for seconds */
        setenv("BRIM_THREADS", threads[i][0], 1);
        Outcome *said = expect_code(
            RUN("train", "--model", "gpt2-tiny", "--batch", "1", "--seq", "8", "--steps", "1"), 0);
        unsetenv("BRIM_THREADS");
        assert_non_null(strstr(said->out, threads[i][1]));
    }
    char script[256];
    snprintf(script, sizeof script, "ulimit -s 64; exec %s plan", command_path());
    Outcome *o = expect_code(run_now(start((const char *[]){"/bin/sh", "-c", script, NULL})), 1);
    expect_words(o, "brim: the stack may only have 64 KiB here");
    if (SANITIZED) /* it needs addresses without end */
        return;
    snprintf(script, sizeof script,
             "ulimit -v 150000; exec %s train --model gpt2-tiny --batch 1 --seq 8 --steps 1 --threads 1",
             command_path());
    o = run_now(start((const char *[]){"/bin/sh", "-c", script, NULL}));
    if (o->code) /* a build that needs more addresses says that */
        expect_words(expect_code(o, 1), "ulimit -v");
    else
        assert_non_null(strstr(o->out, "own products"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_is_asked_for_first),           cmocka_unit_test(keep_1_is_named_where_it_helps),
        cmocka_unit_test(a_full_disk_leaves_nothing_behind), cmocka_unit_test(files_that_may_not_grow),
        cmocka_unit_test(output_that_does_not_arrive),       cmocka_unit_test(little_of_a_process),
    };
    return cmocka_run_group_tests_name("cli room", tests, make_disk, remove_disk);
}
