/* Signals: an access that a card calls illegal and a kernel that does not end become faults of the card; and
 * the host that touches guarded memory is told so before it dies. A sanitizer has its own way with the first.
 */
#include "driver_.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
enum { CATCHES = 0 };
#else
enum { CATCHES = 1 };
#endif

static __thread volatile sig_atomic_t in_kernel;
static __thread sigjmp_buf leave;

static void say(const char *what)
{
    char where[256], text[512];
    simt_where(where, sizeof where);
    int length = snprintf(text, sizeof text, "stand-in: %s: %s\n", where, what);
    if (write(2, text, (size_t)length) < 0)
        return;
}

static const char *access_of(const void *context)
{
#ifdef __x86_64__
    const ucontext_t *c = context;
    return c->uc_mcontext.gregs[REG_ERR] & 2 ? "write" : "read";
#else
    (void)context;
    return "access";
#endif
}

static void describe(uintptr_t at, const char *access, char *text, size_t size)
{
    for (int i = 0; i < stand_in.cards; i++)
        for (const Block *b = stand_in.card[i].blocks; b; b = b->next) {
            uintptr_t first = (uintptr_t)b->base, map = (uintptr_t)b->mapping;
            if (at >= first && at < first + b->bytes)
                return (void)snprintf(text, size,
                                      "illegal %s %zu bytes into an allocation of %zu bytes of a card",
                                      access, (size_t)(at - first), b->bytes);
            if (at >= first && at < map + b->mapped)
                return (void)snprintf(text, size,
                                      "illegal %s %zu bytes beyond the end of an allocation of %zu bytes",
                                      access, (size_t)(at - first - b->bytes), b->bytes);
        }
    uintptr_t shared = (uintptr_t)simt_shared_dynamic;
    if (in_kernel && at >= shared && at - shared < MIB)
        return (void)snprintf(text, size, "illegal %s beyond the end of dynamic shared memory", access);
    snprintf(text, size, "illegal %s of %p%s", access, (void *)at, at < 4096 ? ", a null pointer" : "");
}

static void on_fault(int signal_, siginfo_t *info, void *context)
{
    char text[256];
    describe((uintptr_t)info->si_addr, access_of(context), text, sizeof text);
    if (in_kernel) {
        say(text);
        siglongjmp(leave, ILLEGAL_ADDRESS);
    }
    /* The host's: once more without this handler, so that a debugger stops at the line. */
    if (card_holds((Pointer)(uintptr_t)info->si_addr, 1)) {
        char line[512];
        int length = snprintf(line, sizeof line, "stand-in: the host touches a card's memory: %s\n", text);
        if (write(2, line, (size_t)length) < 0)
            _exit(1);
    }
    signal(signal_, SIG_DFL);
}

static void on_time(int signal_)
{
    (void)signal_;
    if (!in_kernel)
        return;
    say("runs without an end (STAND_IN_SECONDS)");
    if (!CATCHES)
        _exit(1); /* the sanitizer does not let a stack be left like this */
    siglongjmp(leave, LAUNCH_TIMEOUT);
}

static void catch_faults(struct sigaction before[2])
{
    if (!CATCHES)
        return;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, before ? &before[0] : NULL);
    sigaction(SIGBUS, &action, before ? &before[1] : NULL);
}

void trap_host(void)
{
    catch_faults(NULL);
}

/* A timer of this thread's processor time. */
static timer_t watch(int seconds)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGVTALRM};
    struct itimerspec limit = {.it_value.tv_sec = seconds};
    struct sigaction action = {.sa_handler = on_time, .sa_flags = SA_NODEFER};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    sigaction(SIGVTALRM, &action, NULL);
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer))
        abort();
    timer_settime(timer, 0, &limit, NULL);
    return timer;
}

int trap_launch(const Launch *launch)
{
    struct sigaction before[2];
    timer_t timer = watch(stand_in.seconds);
    catch_faults(before);
    int status = sigsetjmp(leave, 0);
    if (status == 0) {
        in_kernel = 1;
        if (simt_launch(launch->kernel, launch->grid, launch->block, launch->dynamic, launch->arguments)) {
            fprintf(stderr, "stand-in: %s\n", simt_error());
            status = LAUNCH_FAILED;
        }
    } else {
        simt_abandon();
    }
    in_kernel = 0;
    if (CATCHES) {
        sigaction(SIGSEGV, &before[0], NULL);
        sigaction(SIGBUS, &before[1], NULL);
    }
    timer_delete(timer);
    return status;
}
