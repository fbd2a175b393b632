/* Runs one variant in a child process: the process's peak is then that run's, and a run that the system kills
 * is a row that says so instead of the end of the table. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../device/device.h"
#include "run_.h"

static int failed(RunResult *result, const char *what, int number)
{
    memset(result, 0, sizeof *result);
    snprintf(result->error, sizeof result->error, "%s: %s", what, strerror(number));
    return result->status = ERROR_STATE;
}

static void child(const Options *options, const Plan *plan, int to)
{
    Training training = {.options = options};
    RunOptions run = run_options(options);
    RunResult result;
    run.quiet = 1;
    cuda_look_known(NULL);
    plan_execute(training_script, &training, &run, plan, &result);
    const char *at = (const char *)&result;
    for (size_t left = sizeof result; left > 0;) {
        ssize_t written = write(to, at, left);
        if (written < 0 && errno != EINTR)
            _exit(1);
        at += written > 0 ? written : 0;
        left -= written > 0 ? (size_t)written : 0;
    }
    _exit(0);
}

static size_t receive(int from, RunResult *result)
{
    size_t got = 0;
    while (got < sizeof *result) {
        ssize_t n = read(from, (char *)result + got, sizeof *result - got);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    return got;
}

int look_apart(const Options *options)
{
    int ends[2], ordinal = device_cuda_ordinal(options->device), status;
    struct {
        CudaDevice card;
        int found;
        char why[CHECK_DEVICE];
    } answer = {.found = 0};
    if (ordinal < 0 || pipe(ends))
        return EXIT_DONE;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        answer.found = !device_check(options->device, answer.why, sizeof answer.why) &&
                       !cuda_look(&answer.card, ordinal, answer.why, sizeof answer.why);
        _exit(write(ends[1], &answer, sizeof answer) == (ssize_t)sizeof answer ? 0 : 1);
    }
    close(ends[1]);
    int whole = pid > 0 && read(ends[0], &answer, sizeof answer) == (ssize_t)sizeof answer;
    close(ends[0]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (whole && answer.found)
        cuda_look_known(&answer.card);
    return whole && !answer.found ? no_device(options, answer.why) : EXIT_DONE;
}

int run_apart(const Options *options, const Plan *plan, RunResult *result)
{
    int ends[2], status = 0;
    if (pipe(ends))
        return failed(result, "cannot make a pipe", errno);
    fflush(stdout);
    fflush(stderr);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody would wait for the result */
        if (getppid() != parent)
            _exit(1);
        close(ends[0]);
        child(options, plan, ends[1]);
    }
    close(ends[1]);
    size_t got = pid > 0 ? receive(ends[0], result) : 0;
    close(ends[0]);
    if (pid < 0)
        return failed(result, "cannot start a process", errno);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (got == sizeof *result)
        return result->status;
    memset(result, 0, sizeof *result);
    if (WIFSIGNALED(status))
        snprintf(result->error, sizeof result->error, "the run was killed by signal %d (%s)%s",
                 WTERMSIG(status), strsignal(WTERMSIG(status)),
                 WTERMSIG(status) == 9 ? ": the system was out of memory?" : "");
    else
        snprintf(result->error, sizeof result->error, "the run ended without a result");
    return result->status = ERROR_STATE;
}
