/* `brim train --save`, `--resume`, and the signals: what a user types, sees and is told; that a run cut
 * anywhere is the run that was not, for the four families with their own data. */
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

#include "../io/saved_run.h"
#include "cli_support.h"

/* ---- Helpers --------------------------------------------------------------------------------- */

enum { MOST_ARGUMENTS = 40 };

/* More arguments after those, up to NULL. */
static Outcome *train(const char *const *common, const char *const *more)
{
    const char *arguments[MOST_ARGUMENTS] = {"brim", "train", "--threads", "1"};
    int count = 4;
    for (; *common; common++)
        arguments[count++] = *common;
    for (; *more; more++)
        arguments[count++] = *more;
    assert_true(count < MOST_ARGUMENTS);
    return run_command(arguments);
}

#define LIST(...)          ((const char *const[]){__VA_ARGS__, NULL})
#define TRAIN(common, ...) train(common, LIST(__VA_ARGS__))

static int same_file(const char *a, const char *b)
{
    char command[640];
    snprintf(command, sizeof command, "cmp -s %s %s", a, b);
    return system(command) == 0;
}

static int same_end(const char *a, const char *b, int step)
{
    static const char *const names[] = {"model", "optimizer"};
    char x[256], y[256];
    int same = 1;
    for (size_t i = 0; i < COUNT(names); i++) {
        snprintf(x, sizeof x, "%s/%s/step-%08d/%s.safetensors", folder, a, step, names[i]);
        snprintf(y, sizeof y, "%s/%s/step-%08d/%s.safetensors", folder, b, step, names[i]);
        same = same && same_file(x, y);
    }
    return same;
}

static int saved(const char *directory, int step)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s/step-%08d/state.json", folder, directory, step);
    return access(path, F_OK) == 0;
}

static void forget(const char *directory)
{
    char command[256];
    assert_false(strncmp(folder, "/tmp/brim-cli-", 14));
    snprintf(command, sizeof command, "rm -rf %s/%s", folder, directory);
    assert_int_equal(system(command), 0);
}

static void expect(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in: %s", part, text);
}

static char a[192], b[192], data[192];
static char llama[192], bert[192], gpt2[192]; /* small ones */

static void paths(void)
{
    strcpy(a, in_folder("a"));
    strcpy(b, in_folder("b"));
    forget("a");
    forget("b");
}

/* ---- As if never stopped --------------------------------------------------------------------- */

/* The curve that the log of steps from … to holds, as text. */
static void curve(const char *name, int64_t from, int64_t to, char *out, size_t size)
{
    char line[1 << 12], path[256];
    size_t used = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    out[0] = '\0';
    while (fgets(line, sizeof line, file)) {
        const char *loss = strstr(line, "\"loss\":"), *step = strstr(line, "\"step\":");
        if (strncmp(line, "{\"kind\":\"step\"", 14) != 0 || !loss || !step)
            continue;
        int64_t n = strtoll(step + 7, NULL, 10);
        if (n >= from && n <= to && used < size)
            used += (size_t)snprintf(out + used, size - used, "%d %.24s\n", (int)n, loss);
    }
    fclose(file);
}

static void cut(const char *const *common, const char *steps_option, const char *steps, int end)
{
    char whole[1 << 12], parts[1 << 12];
    paths();
    expect_code(TRAIN(common, steps_option, steps, "--save", a, "--save-every", "1", "--keep", "100", "--log",
                      in_folder("a.jsonl")),
                0);
    for (int at = 1; at < end; at += !full_form() ? 4 : at < 3 ? 1 : 3) {
        char from[256];
        snprintf(from, sizeof from, "%s/step-%08d", a, at);
        Outcome *o = expect_code(
            TRAIN(common, steps_option, steps, "--save", b, "--resume", from, "--log", in_folder("b.jsonl")),
            0);
        expect(o->out, "0 bytes apart");
        assert_null(strstr(o->out, "off the plan"));
        if (!same_end("a", "b", end))
            fail_msg("%s cut at %d: the end differs", common[1], at);
        curve("a.jsonl", at + 1, end, whole, sizeof whole);
        curve("b.jsonl", at + 1, end, parts, sizeof parts);
        assert_true(strlen(whole) > 8);
        assert_string_equal(whole, parts);
        forget("b");
        forget("b.jsonl*");
    }
    forget("a.jsonl*");
}

static void families(void **state)
{
    (void)state;
    strcpy(data, make_text("small", 60 * 16 + 1));
    cut(LIST("--model", llama, "--data", data, "--seq", "16", "--batch", "2", "--accumulate", "2",
             "--checkpoint", "blocks"),
        "--steps", "7", 7);
    cut(LIST("--model", bert, "--data", data, "--seq", "16", "--batch", "16", "--dropout", "0.1",
             "--optimizer-in-backward"),
        "--epochs", "2", 10);
    cut(LIST("--model", gpt2, "--data", data, "--seq", "16", "--batch", "1", "--max-samples", "5",
             "--dropout", "0.2", "--loss-chunk", "5", "--optimizer", "rmsprop", "--zero-grad", "keep"),
        "--epochs", "1", 5);
    strcpy(data, make_images("images"));
    cut(LIST("--model", "mlp", "--data", data, "--batch", "16", "--accumulate", "3", "--optimizer",
             "sgd-nesterov"),
        "--epochs", "3", 9);
}

/* The same command again and again, stopped by its number of steps; with a log of each part. */
static void the_same_command(void **state)
{
    (void)state;
    paths();
    strcpy(data, make_text("small", 60 * 16 + 1));
    const char *const *common =
        LIST("--model", gpt2, "--data", data, "--seq", "16", "--schedule", "constant", "--warmup", "2",
             "--log", in_folder("log.jsonl"), "--save", a, "--resume", a);
    Outcome *o = expect_code(TRAIN(common, "--steps", "3"), 0);
    expect(o->out, "Step 3 is saved in ");
    expect(o->out, ", the last; --resume ");
    o = expect_code(TRAIN(common, "--steps", "3"), 0);
    expect(o->out, ": nothing is left to train\n");
    o = expect_code(TRAIN(common, "--steps", "5", "--evaluate-every", "1", "--every", "1"), 0);
    expect(o->out, "resumes after step 3 of ");
    expect(o->out, "\nstep    4 ");
    assert_null(strstr(o->out, "\nstep    3 "));
    expect(o->err, "the log of the earlier steps is now ");
    assert_int_equal(access(in_folder("log.jsonl.1"), F_OK), 0);
    assert_true(saved("a", 5));
    o = expect_code(TRAIN(common, "--steps", "5"), 0); /* nothing is left to do */
    expect(o->out, "0 steps, ");
    expect(o->out, "held out: ");
    assert_true(saved("a", 5) && saved("a", 4));
    expect_code(
        TRAIN(LIST("--model", gpt2, "--data", data, "--seq", "16", "--schedule", "constant", "--warmup", "2"),
              "--steps", "5", "--save", b, "--save-every", "9"),
        0);
    assert_true(same_end("a", "b", 5));
    json_t *root = parse(expect_code(TRAIN(common, "--steps", "6", "--json"), 0)->out);
    assert_int_equal(integer_at(root, "steps"), 1);
    assert_int_equal(integer_at(root, "steps_before"), 5);
    assert_int_equal(integer_at(root, "saved_step"), 6);
    json_decref(root);
}

/* ---- What it is told ------------------------------------------------------------------------- */

static void refusals(void **state)
{
    (void)state;
    paths();
    strcpy(data, make_text("small", 60 * 16 + 1));
    const char *const *common = LIST("--model", "gpt2-tiny", "--data", data, "--seq", "16", "--steps", "2");
    expect(expect_code(TRAIN(common, "--resume", a), 1)->err, "no saved run is there");
    expect(expect_code(TRAIN(common, "--keep", "2"), 2)->err, "--keep needs --save DIR");
    expect(expect_code(TRAIN(common, "--save-every", "2"), 2)->err, "--save-every needs --save DIR");
    expect(expect_code(RUN("plan", "--save", a), 2)->err, "--save belongs to `brim train`");
    expect_code(TRAIN(common, "--save", a), 0);
    expect(expect_code(TRAIN(common, "--save", a), 1)->err,
           "a run of step 2 is saved there already; add --resume");
    char first[256];
    snprintf(first, sizeof first, "%s/step-00000001", a);
    expect(expect_code(TRAIN(common, "--resume", first, "--save", a), 1)->err, "newer than step 1");
    Outcome *o = expect_code(TRAIN(common, "--resume", a, "--batch", "3", "--clip", "0.5", "--optimizer",
                                   "sgd", "--seed", "7", "--schedule", "linear"),
                             1);
    expect(o->err, "is of another run: ");
    expect(o->err, "batch is 3, was ");
    expect(o->err, "optimizer is sgd, was adamw");
    expect(o->err, "clip is 0.5, was 1");
    expect(o->err, "schedule is linear, was cosine");
    expect(o->err, "seed is 7, was 1");
    assert_string_equal(o->out, "");
    expect(expect_code(TRAIN(LIST("--model", "llama-tiny"), "--resume", a), 1)->err,
           "model is llama-tiny, was gpt2-tiny");
    o = expect_code(
        run_command((const char *[]){"brim", "train", "--model", "gpt2-tiny", "--data", data, "--seq", "16",
                                     "--steps", "3", "--threads", "2", "--resume", a, NULL}),
        0);
    expect(o->err, "saved with 1 thread, resumes with 2");
}

/* UTF-8 is told apart and said as it is; other bytes do not keep a run from going on. */
static void names_in_any_letters(void **state)
{
    (void)state;
    static const char *const names[] = {"\xd1\x8f\xd0\xb4", "\xd0\xb4\xd1\x8f", "gr\xf6\xdf\x65"};
    char texts[COUNT(names)][192];
    for (size_t i = 0; i < COUNT(names); i++)
        strcpy(texts[i], make_text(names[i], 60 * 16 + 1));
    for (size_t i = 0; i < COUNT(names); i++) {
        const char *const *common = LIST("--model", gpt2, "--seq", "16", "--data", texts[i]);
        paths();
        expect_code(TRAIN(common, "--steps", "1", "--save", a), 0);
        expect_code(TRAIN(common, "--steps", "2", "--save", a, "--resume", a), 0);
        Outcome *o =
            TRAIN(LIST("--model", gpt2, "--seq", "16", "--data", texts[!i]), "--steps", "3", "--resume", a);
        expect(expect_code(o, 1)->err, i == 0   ? "data is \xd0\xb4\xd1\x8f, was \xd1\x8f\xd0\xb4"
                                       : i == 1 ? "data is \xd1\x8f\xd0\xb4, was \xd0\xb4\xd1\x8f"
                                                : "was gr??e");
    }
}

/* Its log has the events of the first two steps that it makes itself, and a slash at the end of a path is
 * none. */
static void log_of_what_goes_on(void **state)
{
    (void)state;
    paths();
    char slashed[256];
    snprintf(slashed, sizeof slashed, "%s/", a);
    const char *log = in_folder("on.jsonl");
    const char *const *common = LIST("--model", gpt2, "--batch", "2", "--seq", "16", "--log", log);
    expect_code(TRAIN(common, "--steps", "3", "--save", a), 0);
    expect(expect_code(RUN("report", log), 0)->out, " to the end of step 2\n");
    expect_code(TRAIN(common, "--steps", "6", "--save", a, "--resume", slashed), 0);
    expect(expect_code(RUN("report", log), 0)->out, " to the end of step 5\n");
    expect_code(RUN("report", log, "--html", in_folder("on.html")), 0);
    forget("on.*");
}

/* A file of data that became another one while the run was away, each kind of it. */
static void changed(const char *const *common, const char *path, const char *what)
{
    char command[512];
    paths();
    expect_code(TRAIN(common, "--steps", "1", "--save", a), 0);
    expect_code(TRAIN(common, "--steps", "2", "--save", a, "--resume", a), 0);
    snprintf(command, sizeof command, "printf X | dd of=%s bs=1 seek=40 conv=notrunc 2>/dev/null", path);
    assert_int_equal(system(command), 0);
    Outcome *o = expect_code(TRAIN(common, "--steps", "3", "--save", a, "--resume", a), 1);
    expect(o->err, what);
    expect(o->err, "has changed since");
    expect(o->err, "step-00000002 was saved: its size is the same, but not what it holds");
    assert_true(saved("a", 2) && !saved("a", 3));
}

static void changed_data(void **state)
{
    (void)state;
    static const uint16_t ids[2000] = {1, 2, 3};
    strcpy(data, make_text("small", 60 * 16 + 1));
    changed(LIST("--model", gpt2, "--data", data, "--seq", "16"), data, "small, the data of the run,");
    strcpy(data, make_file("ids.bin", ids, sizeof ids));
    changed(LIST("--model", gpt2, "--data", data, "--seq", "16"), data, "ids.bin, the data of the run,");
    strcpy(data, make_images("images"));
    changed(LIST("--model", "mlp", "--data", data, "--batch", "16"),
            in_folder("images/train-images-idx3-ubyte"), "train-images-idx3-ubyte, the images of the run,");
}

static void damage(void **state)
{
    (void)state;
    paths();
    strcpy(data, make_text("small", 60 * 16 + 1));
    const char *const *common = LIST("--model", gpt2, "--data", data, "--seq", "16", "--steps", "3");
    expect_code(TRAIN(common, "--save", a, "--save-every", "1", "--keep", "3"), 0);
    make_file("a/step-00000003/model.safetensors", "x", 1);
    Outcome *o = expect_code(TRAIN(common, "--save", a, "--resume", a), 0);
    expect(o->err, "step-00000003/model.safetensors is damaged: it has 1 byte, not ");
    expect(o->err, "; resuming the save before it");
    expect(o->out, "resumes after step 2 ");
    assert_true(saved("a", 3) && saved("a", 2) && !saved("a", 1));
    expect_code(TRAIN(common, "--save", b), 0);
    assert_true(same_end("a", "b", 3));
    make_file("a/step-00000003/state.json", "x", 1);
    make_file("a/step-00000002/state.json", "", 0);
    o = expect_code(TRAIN(common, "--resume", a), 1);
    expect(o->err, "has no saved run that is whole: ");
    expect(o->err, "state.json is damaged: it does not end with the checksum of what it holds");
    expect(o->err, "state.json is empty");
}

/* ---- Saves that fail ------------------------------------------------------------------------- */

static pid_t begin(const char *const *arguments, const char *out, const char *err)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        enum { FLAGS = O_WRONLY | O_CREAT | O_TRUNC | O_APPEND };
        dup2(open("/dev/null", O_RDWR), 0);
        dup2(open(out, FLAGS, 0600), 1);
        dup2(open(err, FLAGS, 0600), 2);
        command_environment();
        alarm(RUN_SECONDS);
        execv(arguments[0], (char **)(uintptr_t)arguments);
        _exit(127);
    }
    return child;
}

static void read_file(const char *name, char *text, size_t size)
{
    FILE *file = fopen(in_folder(name), "r");
    assert_non_null(file);
    read_back(file, text, size);
}

/* From when training has begun no file may grow beyond 1 MiB. The log is a pipe of a page: what comes through
 * it says that it has begun, and step 20 is not before the pipe is read, for the log of 20 steps does not
 * fit. */
static int train_into_small_files(const char *directory, Outcome **outcome)
{
    static Outcome o;
    static char log[1 << 16];
    const struct rlimit small = {1 << 20, 1 << 20};
    char path[192];
    int status = 0;
    strcpy(path, in_folder("pipe"));
    assert_int_equal(mkfifo(path, 0600), 0);
    int end = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(end >= 0 && fcntl(end, F_SETPIPE_SZ, 4096) > 0);
    pid_t child =
        begin(LIST(command_path(), "train", "--model", "gpt2-tiny", "--data", data, "--seq", "16", "--batch",
                   "1", "--steps", "40", "--save-every", "20", "--save", directory, "--log", path),
              in_folder("out"), in_folder("err"));
    struct pollfd begun = {.fd = end, .events = POLLIN};
    assert_int_equal(poll(&begun, 1, 1000 * RUN_SECONDS), 1);
    assert_int_equal(prlimit(child, RLIMIT_FSIZE, &small, NULL), 0);
    assert_int_equal(fcntl(end, F_SETFL, 0), 0);
    while (read(end, log, sizeof log) > 0)
        ;
    close(end);
    assert_int_equal(waitpid(child, &status, 0), child);
    read_file("out", o.out, sizeof o.out);
    read_file("err", o.err, sizeof o.err);
    *outcome = &o;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void cannot_save(void **state)
{
    (void)state;
    paths();
    strcpy(data, make_text("small", 60 * 16 + 1));
    const char *const *common =
        LIST("--model", "gpt2-tiny", "--data", data, "--seq", "16", "--steps", "4", "--save-every", "2");
    make_file("a", "x", 1);
    Outcome *o = expect_code(TRAIN(common, "--save", a), 1); /* at once */
    expect(o->err, "is not a directory");
    assert_string_equal(o->out, "");
    expect(expect_code(TRAIN(common, "--save", "/proc/brim"), 1)->err,
           "/proc/brim: cannot make the directory");
    /* Files that may not grow beyond 1 MiB: said before anything is trained. */
    struct rlimit before, small = {1 << 20, 1 << 20};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    o = TRAIN(common, "--save", b);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    expect_code(o, 1);
    expect(o->err, "files may only have 1.0 MiB here (ulimit -f)");
    assert_string_equal(o->out, "");
    assert_int_equal(train_into_small_files(b, &o), 1);
    expect(o->err, "step 20 is not saved: cannot write ");
    expect(o->err, "File too large");
    expect(o->err, "training continues\n");
    expect(o->err, "the end of the run is not saved: cannot write ");
    expect(o->out, "held out: ");
    assert_null(strstr(o->out, "is saved in"));
    assert_int_equal(access(b, F_OK), -1); /* and nothing is left of it */
}

static void one_run_a_directory(void **state)
{
    (void)state;
    paths();
    mkdir(a, 0777);
    int lock = io_lock_saved_runs(a);
    assert_true(lock >= 0);
    expect(expect_code(TRAIN(LIST("--model", "gpt2-tiny"), "--steps", "1", "--save", a), 1)->err,
           "another run saves there");
    io_unlock_saved_runs(lock);
}

/* ---- Signals --------------------------------------------------------------------------------- */

static int64_t newest(const char *directory)
{
    SavedRunFound found;
    if (io_find_saved_run(directory, &found))
        error_clear();
    return found.step;
}

static void read_output(char *text, size_t size)
{
    FILE *file = fopen(in_folder("out"), "r");
    assert_non_null(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static int printed(const char *what)
{
    char text[8192];
    read_output(text, sizeof text);
    return strstr(text, what) != NULL;
}

/* A run that would take hours, sent the signals once it has saved a step after `step`. */
static int stopped_by(const char *directory, int64_t step, int first, int second, int step_tokens)
{
    char rows[16];
    snprintf(rows, sizeof rows, "%d", step_tokens);
    const char *arguments[] = {command_path(), "train",   "--threads", "1",       "--model",      "gpt2-tiny",
                               "--data",       "builtin", "--seq",     "64",      "--batch",      rows,
                               "--steps",      "100000",  "--save",    directory, "--save-every", "2",
                               "--resume",     directory, NULL};
    pid_t child = begin(arguments, in_folder("out"), in_folder("out"));
    for (int i = 0; i < 100 * RUN_SECONDS && newest(directory) <= step; i++)
        usleep(10000);
    usleep(20000);
    kill(child, first);
    if (second) { /* two at once would be one */
        for (int i = 0; i < 1000 * RUN_SECONDS && !printed("a second signal stops at once"); i++)
            usleep(1000);
        kill(child, second);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int saved_step(const char *text)
{
    const char *line = strstr(text, "\nStep ");
    return line ? atoi(line + 6) : -1;
}

static void signals(void **state)
{
    (void)state;
    static char text[1 << 16];
    static const int numbers[] = {SIGINT, SIGTERM};
    paths();
    for (size_t i = 0; i < COUNT(numbers); i++) {
        forget("a");
        assert_int_equal(stopped_by(a, 0, numbers[i], 0, 1), 128 + numbers[i]);
        read_output(text, sizeof text);
        expect(text, "brim: stopping after this step; a second signal stops at once\n");
        expect(text, i ? "Stopped by SIGTERM.\n" : "Stopped by SIGINT.\n");
        expect(text, "; the same command resumes it.\n"); /* it has --resume already */
        assert_null(strstr(text, "with --resume"));
        expect(text, "0 bytes apart");
        assert_null(strstr(text, "held out"));
        assert_null(strstr(text, "off the plan"));
        int step = saved_step(text);
        assert_true(step >= 2 && saved("a", step));
    }
    /* It is resumed as if it had never stopped. */
    int step = saved_step(text);
    assert_int_equal(stopped_by(a, step, SIGTERM, 0, 1), 128 + SIGTERM);
    read_output(text, sizeof text);
    expect(text, "resumes after step ");
    assert_true(saved_step(text) > step);
}

/* `brim train | head -1`: a run that saves is saved, one that does not just ends. */
static void nobody_reads(void **state)
{
    (void)state;
    paths();
    for (int saves = 0; saves < 2; saves++) {
        char command[640];
        snprintf(
            command, sizeof command,
            "(timeout %d %s train --model gpt2-tiny --threads 1 --batch 1 --seq 8 --steps 100000 --every 1 "
            "%s%s 2>%s; echo $? >%s) | head -1 >%s/head",
            RUN_SECONDS, command_path(), saves ? "--save " : "", saves ? a : "", in_folder("err"),
            in_folder("code"), folder);
        assert_int_equal(system(command), 0);
        FILE *file = fopen(in_folder("code"), "r");
        int code = 0;
        assert_true(file && fscanf(file, "%d", &code) == 1);
        fclose(file);
        assert_int_equal(code, 128 + SIGPIPE);
        assert_int_equal(newest(a) > 0, saves);
    }
}

/* The second one does not wait: the process dies of it, and what was saved is whole. */
static void second_signal(void **state)
{
    (void)state;
    paths();
    assert_int_equal(stopped_by(a, 0, SIGINT, SIGINT, 64), 1000 + SIGINT);
    forget("a");
    assert_int_equal(stopped_by(a, 0, SIGTERM, SIGINT, 64), 1000 + SIGINT);
    SavedRunFound found;
    assert_int_equal(io_find_saved_run(a, &found), 0);
    assert_true(found.step >= 2 && !found.note[0]);
}

static int make_small(void **state)
{
    if (make_folder(state))
        return -1;
    strcpy(llama, make_model("llama"));
    strcpy(bert, make_model("bert"));
    strcpy(gpt2, make_model("gpt2"));
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families),
        cmocka_unit_test(the_same_command),
        cmocka_unit_test(refusals),
        cmocka_unit_test(names_in_any_letters),
        cmocka_unit_test(log_of_what_goes_on),
        cmocka_unit_test(changed_data),
        cmocka_unit_test(damage),
        cmocka_unit_test(cannot_save),
        cmocka_unit_test(one_run_a_directory),
        cmocka_unit_test(signals),
        cmocka_unit_test(nobody_reads),
        cmocka_unit_test(second_signal),
    };
    return cmocka_run_group_tests_name("cli resume", tests, make_small, remove_folder);
}
