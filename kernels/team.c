/* The thread team behind `#pragma omp parallel`, for code that gcc compiles.
 *
 * gcc turns a parallel region into a call of GOMP_parallel(function, data, threads, flags) plus a few
 * queries; this file answers them inside the library (hidden symbols), instead of libgomp. The reason is
 * measured: libgomp's waiting threads spin for milliseconds, fixed before any code of ours runs, and beside
 * one busy foreign process a region then takes 4 to 8 ms instead of microseconds (a training step: up to a
 * hundred times as long). Here a thread spins for some tens of microseconds and then sleeps on a futex. Each
 * thread that starts regions has a team of its own, so contexts in several threads do not meet. Other
 * compilers use their own OpenMP run-time.
 */
#if defined(__GNUC__) && !defined(__clang__)
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "team.h"

enum { TEAM_MAX = 128, TEAM_SPINS = 2000 };

/* A number that threads wait for to change. The waker only enters the kernel when somebody sleeps there. */
typedef struct Gate {
    atomic_uint value, sleepers;
} Gate;

typedef struct Team Team;

/* What a worker is told when it is made. */
typedef struct Seat {
    Team *team;
    unsigned number, region; /* the region before the one it is made for */
    pthread_t thread;
} Seat;

struct Team {
    Gate region;  /* its number << 8 | its threads */
    Gate working; /* threads other than the owner still in it */
    Gate barrier; /* number of the barrier passed last */
    atomic_uint arrived;
    void (*function)(void *);
    void *data;
    unsigned workers; /* threads made so far, without the one that owns the team */
    atomic_int quit;
    Seat seat[TEAM_MAX];
};

typedef struct Member {
    Team *team;
    unsigned number, size; /* of this thread in the region it runs; size 0 = outside any */
    int parallel;          /* this region, or one around it, has several threads */
} Member;

static _Thread_local Team own_team;
static _Thread_local Member member;
static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Returns when the gate's value is no longer `value`. */
static void gate_wait(Gate *gate, unsigned value)
{
    for (int i = 0; i < TEAM_SPINS; i++) {
        if (atomic_load_explicit(&gate->value, memory_order_acquire) != value)
            return;
        relax();
    }
    atomic_fetch_add(&gate->sleepers, 1);
    while (atomic_load(&gate->value) == value)
        syscall(SYS_futex, &gate->value, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&gate->sleepers, 1);
}

/* After the value was changed. */
static void gate_wake(Gate *gate)
{
    if (atomic_load(&gate->sleepers) > 0)
        syscall(SYS_futex, &gate->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- Workers --------------------------------------------------------------------------------- */

static void *worker(void *argument)
{
    const Seat *seat = argument;
    Team *team = seat->team;
    unsigned number = seat->number, seen = seat->region;
    for (;;) {
        gate_wait(&team->region, seen);
        seen = atomic_load_explicit(&team->region.value, memory_order_acquire);
        if (atomic_load_explicit(&team->quit, memory_order_acquire))
            return NULL;
        unsigned size = seen & 0xff;
        if (number >= size)
            continue;
        member = (Member){team, number, size, 1};
        team->function(team->data);
        if (atomic_fetch_sub(&team->working.value, 1) == 1)
            gate_wake(&team->working);
    }
}

/* At the exit of a thread that owned a team. */
static void team_end(void *argument)
{
    Team *team = argument;
    atomic_store(&team->quit, 1);
    atomic_fetch_add(&team->region.value, 1u << 8);
    gate_wake(&team->region);
    for (unsigned i = 0; i < team->workers; i++)
        pthread_join(team->seat[i].thread, NULL);
    team->workers = 0;
    atomic_store(&team->quit, 0);
}

/* A forked child has only the thread that forked: its workers are made anew. */
static void team_forget(void)
{
    memset(&own_team, 0, sizeof own_team);
}

static void make_exit_key(void)
{
    pthread_key_create(&exit_key, team_end);
    pthread_atfork(NULL, NULL, team_forget);
}

/* Makes sure that `size` threads can run; returns how many can. */
static unsigned team_grow(Team *team, unsigned size)
{
    if (team->workers + 1 >= size)
        return size;
    pthread_once(&exit_once, make_exit_key);
    pthread_setspecific(exit_key, team);
    while (team->workers + 1 < size) {
        Seat *seat = &team->seat[team->workers];
        seat->team = team;
        seat->number = team->workers + 1;
        seat->region = atomic_load(&team->region.value);
        if (pthread_create(&seat->thread, NULL, worker, seat) != 0)
            break;
        team->workers++;
    }
    return team->workers + 1;
}

/* ---- What compiled regions call -------------------------------------------------------------- */

static void run_region(Team *team, void (*function)(void *), void *data, unsigned size)
{
    team->function = function;
    team->data = data;
    atomic_store_explicit(&team->working.value, size - 1, memory_order_relaxed);
    unsigned region = atomic_load_explicit(&team->region.value, memory_order_relaxed);
    atomic_store(&team->region.value, ((region >> 8) + 1) << 8 | size);
    gate_wake(&team->region);
    function(data);
    for (unsigned left; (left = atomic_load_explicit(&team->working.value, memory_order_acquire)) > 0;)
        gate_wait(&team->working, left);
}

void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags)
{
    (void)flags;
    Member outside = member;
    unsigned size = threads ? threads : (unsigned)team_processors();
    size = size > TEAM_MAX ? TEAM_MAX : size;
    size = size > 1 && !outside.parallel ? team_grow(&own_team, size) : 1;
    member = (Member){&own_team, 0, size, outside.parallel || size > 1};
    if (size > 1)
        run_region(&own_team, function, data, size);
    else
        function(data);
    member = outside;
}

void GOMP_barrier(void)
{
    Team *team = member.team;
    if (!team || member.size <= 1)
        return;
    unsigned number = atomic_load_explicit(&team->barrier.value, memory_order_acquire);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == member.size) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->barrier.value, number + 1);
        gate_wake(&team->barrier);
    } else {
        gate_wait(&team->barrier, number);
    }
}

int omp_get_num_threads(void)
{
    return member.size ? (int)member.size : 1;
}

int omp_get_thread_num(void)
{
    return (int)member.number;
}

int omp_in_parallel(void)
{
    return member.parallel;
}
#endif

#include <sched.h>
#include <unistd.h>

#include "team.h"

/* LLVM's run-time spins for 200 ms by default; it can be told at run time. */
extern void kmp_set_blocktime(int milliseconds) __attribute__((weak));

void team_settle(void)
{
    if (kmp_set_blocktime)
        kmp_set_blocktime(0);
}

int team_processors(void)
{
    cpu_set_t set;
    int count =
        sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? count : 1;
}
