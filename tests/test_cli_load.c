/* The command under load: less memory than it needs, by the limit of a real control group; several runs at
 * once, in one group and on one log, directory or file. Each has a clear answer, no run is killed that brim
 * let begin, and no file is mixed. Where the machine does not let us make groups, those tests are skipped and
 * say why. */
#include <linux/magic.h>
#include <sys/vfs.h>

#include "load_support.h"

/* ---- Groups ---------------------------------------------------------------------------------- */

static const char *limit_name; /* of the file */

static int put_number(const char *name, uint64_t value)
{
    char path[600], text[32];
    snprintf(path, sizeof path, "%s/%s", group, name);
    int file = open(path, O_WRONLY), length = snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    int failed = file < 0 || write(file, text, (size_t)length) != length;
    if (file >= 0)
        close(file);
    return failed;
}

/* Ours in this hierarchy: a line of /proc/self/cgroup; "" = the mount itself. */
static void own_path(const char *controllers, char out[256])
{
    char line[512], wanted[64];
    FILE *file = fopen("/proc/self/cgroup", "r");
    out[0] = '\0';
    snprintf(wanted, sizeof wanted, ":%s:", controllers);
    while (file && fgets(line, sizeof line, file)) {
        char *at = strstr(line, wanted);
        if (at)
            snprintf(out, 256, "%.*s", (int)strcspn(at + strlen(wanted), "\n"), at + strlen(wanted));
    }
    if (file)
        fclose(file);
}

/* A group below our own, or, where that is not to be seen, below the mount. */
static int make_below(const char *mount, const char *controllers, const char *limit)
{
    char own[256];
    own_path(controllers, own);
    for (int i = 0; i < 2; i++) {
        snprintf(group, sizeof group, "%s%s/brim-test-%d", mount, i ? "" : own, (int)getpid());
        limit_name = limit;
        if (mkdir(group, 0700) == 0 || errno == EEXIST) { /* of a process that was killed */
            if (put_number(limit, 1024 * MIB) == 0)
                return 0;
            rmdir(group);
        }
    }
    group[0] = '\0';
    return -1;
}

static int make_group(void **state)
{
    (void)state;
    if (SANITIZED)
        return 0;
    if (make_below("/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes"))
        make_below("/sys/fs/cgroup", "", "memory.max"); /* version 2 */
    return 0;
}

static int remove_group(void **state)
{
    (void)state;
    for (int i = 0; group[0] && rmdir(group) && i < 100; i++)
        usleep(10000);
    group[0] = '\0';
    return 0;
}

static int no_group(void)
{
    return SANITIZED ? skipped("a sanitizer takes memory of its own")
           : !group[0]
               ? skipped("no control group with a memory limit can be made here (root, and version 1 or a "
                         "delegated version 2)")
               : 0;
}

static uint64_t needs_of(const char **arguments)
{
    char kept[512];
    strcpy(kept, group);
    group[0] = '\0';
    Started s = start(arguments);
    json_t *root = parse(expect_code(finish(&s), 0)->out);
    uint64_t needs = (uint64_t)integer_at(json_object_get(root, "memory"), "needs_bytes");
    json_decref(root);
    strcpy(group, kept);
    return needs;
}

#define PLAN_SMALL                                                                                           \
    "brim", "plan", "--model", "llama-tiny", "--batch", "1", "--seq", "32", "--threads", "2", "--json", NULL

static uint64_t small_needs(void)
{
    return needs_of((const char *[]){PLAN_SMALL});
}

static void set_limit(uint64_t bytes)
{
    if (put_number(limit_name, bytes))
        fail_msg("%s/%s: %s", group, limit_name, strerror(errno));
}

static int is_memory(const char *directory)
{
    struct statfs found;
    return statfs(directory, &found) == 0 && (found.f_type == TMPFS_MAGIC || found.f_type == RAMFS_MAGIC);
}

/* MiB that a refusal counts for the process around the run; 0 = it does not say. */
static double said_around(const char *refusal)
{
    for (const char *at = refusal; (at = strstr(at, ", and ")); at++) {
        double mib;
        int end = 0;
        if (sscanf(at, ", and %lf MiB for the process around it%n", &mib, &end) == 1 && end)
            return mib;
    }
    return 0;
}

/* From far below to well above: refused, or run to the end. Nothing between. What is around a run differs
 * from machine to machine: what brim counts for it is enough, with room for what differs from run to run. */
static void limits_of_a_group(void **state)
{
    (void)state;
    static const int around[] = {-60, -8, 0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 40, 64};
    enum { MOST = 32, ROOM = 8 };
    if (no_group())
        skip();
    uint64_t needs = small_needs();
    static char refusal[4096]; /* the last */
    int ran = 0, refused_close = 0;
    for (size_t i = 0; i < COUNT(around); i++) {
        set_limit((uint64_t)((int64_t)needs + around[i] * (int64_t)MIB));
        Outcome *o = run_now(START(SMALL, "--steps", "2", "--quiet"));
        if (o->code == 0) {
            int noted =
                strstr(o->err, " are free on this machine (the limit of its control group)\n") != NULL;
            if (noted != (around[i] <= 20) && around[i] != 40) /* above 85 %, or plenty */
                fail_msg("at %+d MiB: %s", around[i], o->err);
            ran++;
            continue;
        }
        if (ran || o->code != 1)
            fail_msg("at %+d MiB exit code %d: %s", around[i], o->code, o->err);
        expect_words(o, " are free on this machine (the limit of its control group).\n");
        expect_words(o, "With other levers it fits; the least cost comes first:\n");
        if (around[i] < -20) /* nothing that trains the weights does */
            expect_words(o, "With --lora adapters are trained instead of the weights.\n");
        refused_close += strstr(o->err, " for the process around it, but ") != NULL;
        snprintf(refusal, sizeof refusal, "at %+d MiB: %.4000s", around[i], o->err);
    }
    double said = said_around(refusal);
    if (refused_close < 1 || ran < 1 || !(said > 0 && said <= MOST))
        fail_msg("%d runs, %d refused for what is around; %s", ran, refused_close, refusal);
    set_limit(needs + (uint64_t)(said * (double)MIB) + ROOM * MIB);
    expect_code(run_now(START(SMALL, "--steps", "2", "--quiet")), 0);
    set_limit(needs - 8 * MIB); /* what is suggested does fit */
    expect_code(run_now(START(SMALL, "--steps", "2", "--quiet", "--optimizer", "sgd")), 0);
}

/* What others have read in the group is not in the way, even if they read it twice. */
static void file_cache_of_a_group(void **state)
{
    (void)state;
    char script[512];
    if (no_group())
        skip();
    if (is_memory(folder)) {
        skipped("/tmp is a file system in memory: what is there is no cache");
        skip();
    }
    uint64_t needs = small_needs();
    const char *file = path_of("cached");
    snprintf(
        script, sizeof script,
        "dd if=/dev/zero of=%s bs=1M count=48 conv=fsync 2>/dev/null; cat %s %s %s >/dev/null; exec \"$0\" "
        "\"$@\"",
        file, file, file, file);
    set_limit(needs + 24 * MIB);
    const char *arguments[] = {"/bin/sh", "-c",      script, command_path(), SMALL, "--steps",
                               "2",       "--quiet", NULL};
    expect_code(run_now(start(arguments)), 0);
}

/* Whoever comes second sees what the first has taken, though both looked at the same moment. */
static void several_in_one_group(void **state)
{
    (void)state;
    enum { RUNS = 3 };
    if (no_group())
        skip();
    uint64_t needs = small_needs();
    set_limit(needs + needs / 2);
    Started runs[RUNS];
    for (int i = 0; i < RUNS; i++)
        runs[i] = START(SMALL, "--steps", "100000", "--quiet");
    int left = RUNS, one = -1;
    while (left > 1) { /* all but one end by themselves */
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        for (int i = 0; i < RUNS; i++)
            if (runs[i].pid == pid)
                runs[i].pid = 0;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 1)
            fail_msg("a run ended with status %x", status);
        left--;
    }
    for (int i = 0; i < RUNS; i++)
        if (runs[i].pid)
            one = i;
    usleep(200000);
    kill(runs[one].pid, SIGTERM);
    for (int i = 0; i < RUNS; i++)
        if (i != one) {
            static Outcome o;
            read_back(runs[i].out, o.out, sizeof o.out);
            read_back(runs[i].err, o.err, sizeof o.err);
            expect_words(&o, " are free on this machine (the limit of its control group)");
        }
    expect_code(finish(&runs[one]), 128 + SIGTERM);
}

/* Saves in a file system that is memory count as memory. */
static void saves_in_memory(void **state)
{
    (void)state;
    char directory[64];
    if (no_group())
        skip();
    if (access("/dev/shm", W_OK) || !is_memory("/dev/shm")) {
        skipped("there is no /dev/shm in memory");
        skip();
    }
    snprintf(directory, sizeof directory, "/dev/shm/brim-test-%d", (int)getpid());
    set_limit(small_needs() + 40 * MIB);
    Outcome *o = expect_code(run_now(START(SMALL, "--steps", "20", "--quiet", "--save", directory)), 1);
    rmdir(directory);
    expect_words(o, " for the process around it and files in memory, but ");
}

/* ---- One file, several runs ------------------------------------------------------------------ */

static Started start_long(const char *option, const char *path)
{
    unlink(in_folder("first.jsonl"));
    Started s = START(SMALL, "--steps", "100000", "--quiet", option, path, "--log", path_of("first.jsonl"));
    for (int i = 0; i < 100 * RUN_SECONDS; i++) {
        struct stat status;
        if (stat(in_folder("first.jsonl"), &status) == 0 && status.st_size > 100000)
            return s;
        usleep(10000);
    }
    fail_msg("the first run does not begin");
    return s;
}

static void stop(const Started *s)
{
    kill(s->pid, SIGTERM);
    expect_code(finish(s), 128 + SIGTERM);
}

static void one_run_a_log(void **state)
{
    (void)state;
    const char *log = path_of("first.jsonl"), *link = path_of("link.jsonl");
    Started first = start_long("--seed", "1");
    assert_int_equal(symlink(log, link), 0);
    Outcome *o = expect_code(run_now(START(SMALL, "--steps", "1", "--quiet", "--log", log)), 1);
    expect_words(o, "cannot write the log ");
    expect_words(o, ": another run writes it\n");
    expect_code(run_now(START(SMALL, "--steps", "1", "--quiet", "--log", link)), 1);
    assert_int_equal(named(folder, "first.jsonl."), 0); /* nor is it moved away */
    stop(&first);
    o = expect_code(run_now(START("report", log)), 0);
    assert_non_null(strstr(o->out, "llama-tiny"));
    expect_code(run_now(START(SMALL, "--steps", "1", "--quiet", "--log", log)), 0);
}

static void one_run_an_export(void **state)
{
    (void)state;
    const char *directory = path_of("export");
    Started first = start_long("--export", directory);
    Outcome *o = expect_code(run_now(START(SMALL, "--steps", "1", "--quiet", "--export", directory)), 1);
    expect_words(o, "export: another run saves or exports there; give this one a directory of its own\n");
    stop(&first);
    expect_code(run_now(START(SMALL, "--steps", "1", "--quiet", "--export", directory, "--save", directory)),
                0);
    assert_int_equal(named(directory, "model.safetensors"), 1);
    assert_int_equal(named(directory, ".tmp-"), 0);
}

/* At the same instant: each ends well or says why not, and what is there is whole and of one of them. */
static void at_the_same_instant(void **state)
{
    (void)state;
    enum { RUNS = 4 };
    Started runs[RUNS];
    const char *log = path_of("race.jsonl");
    int done = 0;
    for (int i = 0; i < RUNS; i++)
        runs[i] = START(SMALL, "--steps", "3", "--quiet", "--log", log, "--export", path_of("race"));
    for (int i = 0; i < RUNS; i++) {
        Outcome *o = finish(&runs[i]);
        done += o->code == 0;
        if (o->code != 0 && (o->code != 1 || !strstr(o->err, "another run ")))
            fail_msg("exit code %d: %s", o->code, o->err);
    }
    assert_true(done >= 1);
    Outcome *o = expect_code(run_now(START("report", log)), 0);
    assert_null(strstr(o->out, "Note: "));
    assert_int_equal(named(path_of("race"), ""), 2);
}

/* Files that are written at once at the end: the last one stays, whole. */
static void the_last_one_stays(void **state)
{
    (void)state;
    enum { RUNS = 3 };
    Started runs[2 * RUNS];
    const char *text = path_of("text"), *log = path_of("pages.jsonl"), *page = path_of("page.html");
    expect_code(RUN(SMALL, "--steps", "2", "--quiet", "--log", log), 0);
    make_text("text", 60000);
    for (int i = 0; i < RUNS; i++) {
        runs[i] = START("report", log, "--html", page);
        runs[RUNS + i] =
            START("tokenize", "--train", text, "--vocab", "300", "-o", path_of("tokenizer.json"));
    }
    for (int i = 0; i < 2 * RUNS; i++)
        expect_code(finish(&runs[i]), 0);
    char tail[16] = "";
    FILE *file = fopen(page, "rb");
    assert_true(file && fseek(file, -8, SEEK_END) == 0 && fread(tail, 1, 8, file) == 8);
    fclose(file);
    assert_non_null(strstr(tail, "</html>"));
    expect_code(RUN("tokenize", "--tokenizer", path_of("tokenizer.json"), text, "-o", path_of("ids.bin")), 0);
    assert_int_equal(named(folder, "page.html"), 1);
    assert_int_equal(named(folder, "tokenizer.json"), 1);
    assert_int_equal(named(folder, "ids.bin"), 1);
}

int main(void)
{
#define IN_GROUP(name) cmocka_unit_test_setup_teardown(name, make_group, remove_group)
    const struct CMUnitTest tests[] = {
        IN_GROUP(limits_of_a_group),           IN_GROUP(file_cache_of_a_group),
        IN_GROUP(several_in_one_group),        IN_GROUP(saves_in_memory),
        cmocka_unit_test(one_run_a_log),       cmocka_unit_test(one_run_an_export),
        cmocka_unit_test(at_the_same_instant), cmocka_unit_test(the_last_one_stays),
    };
    return cmocka_run_group_tests_name("cli load", tests, make_folder, remove_folder);
}
