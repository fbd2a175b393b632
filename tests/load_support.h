/* The command under load: runs that are started and ended separately, in a control group or with a limit. */
#ifndef TEST_LOAD_SUPPORT_H
#define TEST_LOAD_SUPPORT_H

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

#include "cli_support.h"

#define MIB ((uint64_t)1 << 20)

#define SMALL                                                                                                \
    "train", "--model", "llama-tiny", "--batch", "1", "--seq", "32", "--threads", "2", "--sample", "0"

static inline int skipped(const char *why)
{
    print_message("skipped: %s\n", why);
    return 1;
}

typedef struct Started {
    pid_t pid;
    FILE *out, *err;
} Started;

static char group[512]; /* its directory; "" = none */
static rlim_t largest_file = RLIM_INFINITY;

static inline void in_child(const Started *s)
{
    char path[600];
    int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, 0);
    dup2(fileno(s->out), 1);
    dup2(fileno(s->err), 2);
    command_environment();
    alarm(RUN_SECONDS);
    if (largest_file != RLIM_INFINITY)
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){largest_file, largest_file});
    if (!group[0])
        return;
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    int procs = open(path, O_WRONLY);
    if (procs < 0 || write(procs, "0", 1) != 1)
        _exit(126);
    close(procs);
}

/* arguments[0] is replaced by the command, unless it is a path. */
static inline Started start(const char **arguments)
{
    Started s = {.out = tmpfile(), .err = tmpfile()};
    assert_true(s.out && s.err);
    if (arguments[0][0] != '/')
        arguments[0] = command_path();
    fflush(stdout);
    s.pid = fork();
    if (s.pid == 0) {
        in_child(&s);
        execv(arguments[0], (char **)(uintptr_t)arguments);
        _exit(127);
    }
    return s;
}

static inline Outcome *finish(const Started *s)
{
    static Outcome outcome;
    int status = 0;
    assert_true(s->pid > 0 && waitpid(s->pid, &status, 0) == s->pid);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_back(s->out, outcome.out, sizeof outcome.out);
    read_back(s->err, outcome.err, sizeof outcome.err);
    return &outcome;
}

#define START(...) start((const char *[]){"brim", __VA_ARGS__, NULL})

static inline Outcome *run_now(Started s)
{
    return finish(&s);
}

static inline void expect_words(const Outcome *o, const char *words)
{
    if (!strstr(o->err, words))
        fail_msg("no \"%s\" in: %s", words, o->err);
}

/* in_folder that stays. */
static inline const char *path_of(const char *name)
{
    static char paths[16][192];
    static int next;
    return strcpy(paths[next++ % 16], in_folder(name));
}

/* How many files of the folder have this in their names. */
static inline int named(const char *directory, const char *part)
{
    char command[512], line[32];
    snprintf(command, sizeof command, "ls -A %s | grep -cF -- '%s'", directory, part);
    FILE *out = popen(command, "r");
    assert_true(out && fgets(line, sizeof line, out));
    pclose(out);
    return atoi(line);
}

#endif
