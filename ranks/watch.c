/* The watchdog: ranks that wait for one which never comes would do so for ever, and nobody would know where.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../base/error.h"
#include "ranks.h"
#include "watch_.h"

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    const Transport *transport; /* whose waits are looked at; NULL: nothing is watched */
    const Transport *card;      /* that is asked how it goes; or NULL */
    int rank, size, seconds, ending;
    RanksLate *late;
    void *user;
    RanksWait wait; /* what NULL: it does not wait */
    struct timespec since;
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER};

void ranks_waiting_(const Transport *transport, const RanksWait *wait)
{
    if (__atomic_load_n(&watch.transport, __ATOMIC_RELAXED) != transport || !transport)
        return;
    pthread_mutex_lock(&watch.lock);
    watch.wait = *wait;
    clock_gettime(CLOCK_MONOTONIC, &watch.since);
    pthread_mutex_unlock(&watch.lock);
}

void ranks_done_(const Transport *transport)
{
    if (__atomic_load_n(&watch.transport, __ATOMIC_RELAXED) != transport || !transport)
        return;
    pthread_mutex_lock(&watch.lock);
    watch.wait.what = NULL;
    pthread_mutex_unlock(&watch.lock);
}

/* Locked. */
static double waited(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return watch.wait.what ? (double)(now.tv_sec - watch.since.tv_sec) +
                                 1e-9 * (double)(now.tv_nsec - watch.since.tv_nsec)
                           : 0;
}

/* Locked. */
static void describe(char *sentence, size_t size)
{
    const RanksWait *w = &watch.wait;
    const char *place = w->place ? w->place : "";
    char number[48] = "";
    if (w->number)
        snprintf(number, sizeof number, "collective %" PRIu64 " with ", w->number);
    snprintf(sentence, size,
             "rank %d of %d has waited %.0f s for the others while %s%s%s, %s%" PRIu64
             " bytes a rank; one of them is stopped or has ended",
             watch.rank, watch.size, waited(), w->what, *place ? " at " : "", place, number, w->bytes);
}

/* Looks once a second, and oftener where the limit is short. */
static void *look(void *unused)
{
    (void)unused;
    char sentence[384] = "", why[200];
    const Transport *transport = watch.transport;
    RanksLate *late = watch.late;
    void *user = watch.user;
    pthread_mutex_lock(&watch.lock);
    while (!watch.ending && !*sentence) {
        struct timespec next;
        clock_gettime(CLOCK_MONOTONIC, &next);
        next.tv_nsec += watch.seconds < 4 ? 250000000 : 999999999;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&watch.changed, &watch.lock, &next);
        if (!watch.ending && waited() > watch.seconds)
            describe(sentence, sizeof sentence);
        else if (!watch.ending && watch.card && watch.card->check(watch.card->self, why, sizeof why))
            snprintf(sentence, sizeof sentence,
                     "rank %d of %d: what its card exchanges with the others has failed: %s", watch.rank,
                     watch.size, why);
    }
    pthread_mutex_unlock(&watch.lock);
    if (*sentence) {
        late(sentence, user);
        transport->abort(transport->self);
    }
    return NULL;
}

int ranks_watch(const Ranks *ranks, int seconds, RanksLate *late, void *user, char *why, size_t why_size)
{
    pthread_condattr_t attributes;
    if (!ranks->transport || ranks->size < 2 || seconds <= 0)
        return 0;
    if (watch.transport) {
        snprintf(why, why_size, "a rank of this process is watched already");
        return ERROR_STATE;
    }
    watch.rank = ranks->rank;
    watch.size = ranks->size;
    watch.card = ranks->card;
    watch.seconds = seconds;
    watch.late = late;
    watch.user = user;
    watch.ending = 0;
    watch.wait.what = NULL;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&watch.changed, &attributes);
    pthread_condattr_destroy(&attributes);
    __atomic_store_n(&watch.transport, ranks->transport, __ATOMIC_RELAXED);
    int failed = pthread_create(&watch.thread, NULL, look, NULL);
    if (!failed)
        return 0;
    watch.transport = NULL;
    snprintf(why, why_size, "no thread could be made to watch the ranks: %s", strerror(failed));
    return ERROR_STATE;
}

void ranks_watch_end_(const Transport *transport)
{
    if (!transport || watch.transport != transport)
        return;
    pthread_mutex_lock(&watch.lock);
    watch.ending = 1;
    pthread_cond_signal(&watch.changed);
    pthread_mutex_unlock(&watch.lock);
    pthread_join(watch.thread, NULL);
    pthread_cond_destroy(&watch.changed);
    watch.transport = NULL;
}
