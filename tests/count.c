/* See count.h. memtrack_fail_nth is wrapped by the linker, so that every test that fails an allocation is
 * counted without saying so. And, since every test has this file, how each begins. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../memtrack/memtrack.h"
#include "count.h"

/* As from a shell, whatever starts the tests: ignored and blocked signals would be inherited by the commands
 * that tests send signals to, and a file that is opened first would be the standard output. */
static void __attribute__((constructor)) begin(void)
{
    static const int signals[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGPIPE, SIGALRM, SIGCHLD};
    sigset_t none;
    int file;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    while ((file = open("/dev/null", O_RDWR)) >= 0 && file <= 2)
        ;
    if (file > 2)
        close(file);
}

static const char *const names[] = {
#define X(id, name) name,
    COUNTED(X)
#undef X
};

static long counts[COUNTED_KINDS];

void count_more(Counted what, int times)
{
    counts[what] += times;
}

int full_form(void)
{
    const char *full = getenv("BRIM_FULL");
    return full && full[0] == '1';
}

void __real_brim_memtrack_fail_nth(uint64_t n);
void __wrap_brim_memtrack_fail_nth(uint64_t n);

/* An allocation failed when one was asked to and none is still to come. A scenario is a row of growing
 * numbers. */
void __wrap_brim_memtrack_fail_nth(uint64_t n)
{
    static uint64_t asked, last = UINT64_MAX;
    counts[COUNTED_ALLOCATIONS] += asked > 0 && !memtrack_fail_pending();
    if (n > 0) {
        counts[COUNTED_SCENARIOS] += n <= last;
        last = n;
    }
    asked = n;
    __real_brim_memtrack_fail_nth(n);
}

/* A line of numbers and words for each, into the file that BRIM_COUNT names. */
static void __attribute__((destructor)) tell(void)
{
    const char *path = getenv("BRIM_COUNT");
    FILE *file = path && path[0] ? fopen(path, "a") : NULL;
    for (int i = 0; file && i < COUNTED_KINDS; i++)
        if (counts[i])
            fprintf(file, "%ld %s\n", counts[i], names[i]);
    if (file)
        fclose(file);
}
