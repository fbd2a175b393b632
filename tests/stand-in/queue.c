/* What a stream of the made-up driver does: calls wait in one queue for each card until somebody waits for
 * them (all streams are one, in order), and a capture puts them into a graph instead. */
#include "driver_.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static char one_stream; /* what all streams are */

/* ---- The queue ---- */

void queue_push(Queue *queue, void (*run)(void *), const void *data, size_t bytes)
{
    Work *work = malloc(sizeof *work + bytes);
    if (!work)
        abort();
    *work = (Work){.run = run, .bytes = bytes};
    memcpy(work->data, data, bytes);
    if (queue->last)
        queue->last->next = work;
    else
        queue->first = work;
    queue->last = work;
    queue->count++;
}

void queue_clear(Queue *queue)
{
    for (Work *work = queue->first, *next; work; work = next) {
        next = work->next;
        free(work);
    }
    *queue = (Queue){NULL, NULL, 0};
}

int queue_drain(Card *card)
{
    Card *before = stand_in_card;
    Queue queue = card->queue;
    card->queue = (Queue){NULL, NULL, 0};
    stand_in_card = card;
    if (queue.first)
        memory_open(1);
    for (Work *work = queue.first; work && !card->fault; work = work->next)
        if (comes_true(&stand_in.lost_in))
            card->fault = LAUNCH_FAILED;
        else
            work->run(work->data);
    if (queue.first)
        memory_open(0);
    queue_clear(&queue);
    stand_in_card = before;
    return card->fault;
}

int queue_put(Card *card, void *stream, void (*run)(void *), const void *data, size_t bytes)
{
    if (card->capture.into && !stream) { /* the legacy stream waits for all others */
        card->capture.invalid = 1;
        return CAPTURE_IMPLICIT;
    }
    queue_push(card->capture.into ? card->capture.into : &card->queue, run, data, bytes);
    return stand_in.deferred || card->capture.into ? SUCCESS : queue_drain(card);
}

static int wait_for_all(void)
{
    int status = card_ready_to_wait();
    stand_in.waits++;
    return status ? status : queue_drain(stand_in_card);
}

/* Of the made-up cuBLAS. */
API int stand_in_enqueue(void (*run)(void *), const void *data, size_t bytes)
{
    int status = card_ready();
    return status ? status : queue_put(stand_in_card, &one_stream, run, data, bytes);
}

API int cuStreamCreate(void **stream, unsigned flags)
{
    int status = card_ready();
    (void)flags;
    *stream = &one_stream;
    return status;
}

API int cuStreamDestroy_v2(void *stream)
{
    return stream == &one_stream ? card_ready() : INVALID_HANDLE;
}

API int cuStreamSynchronize(void *stream)
{
    (void)stream;
    return wait_for_all();
}

API int cuCtxSynchronize(void)
{
    return wait_for_all();
}

API int cuStreamQuery(void *stream)
{
    int status = card_ready_to_wait();
    (void)stream;
    return status ? status : stand_in_card->queue.first ? NOT_READY : SUCCESS;
}

API int cuStreamWaitEvent(void *stream, void *event, unsigned flags)
{
    (void)stream, (void)event, (void)flags;
    return card_ready();
}

/* ---- Copies ---- */

typedef struct Copy {
    void *to;
    const void *from; /* NULL: the bytes follow */
    size_t n;
} Copy;

static void run_copy(void *data)
{
    const Copy *copy = data;
    memmove(copy->to, copy->from ? copy->from : (const void *)(copy + 1), copy->n);
}

static int put_copy(void *stream, void *to, const void *from, size_t n)
{
    stand_in.copies++;
    return queue_put(stand_in_card, stream, run_copy, &(Copy){to, from, n}, sizeof(Copy));
}

/* From memory that is not pinned the driver takes the bytes before it returns. */
API int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t n, void *stream)
{
    int status = card_ready();
    if (status || !card_holds(to, n))
        return status ? status : INVALID_VALUE;
    void *at = (void *)(uintptr_t)to;
    if (host_is_pinned(from, n) || stand_in_card->capture.into || !stand_in.deferred)
        return put_copy(stream, at, from, n);
    Copy *copy = malloc(sizeof *copy + n);
    if (!copy)
        return OUT_OF_MEMORY;
    *copy = (Copy){at, NULL, n};
    memcpy(copy + 1, from, n);
    status = queue_put(stand_in_card, stream, run_copy, copy, sizeof *copy + n);
    stand_in.copies++;
    free(copy);
    return status;
}

/* Into memory that is not pinned it waits. */
API int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t n, void *stream)
{
    int status = card_ready();
    if (!status && !card_holds(from, n))
        status = INVALID_VALUE;
    if (!status)
        status = put_copy(stream, to, (const void *)(uintptr_t)from, n);
    return status || host_is_pinned(to, n) || stand_in_card->capture.into ? status : wait_for_all();
}

API int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t n, void *stream)
{
    int status = card_ready();
    if (!status && !(card_holds(to, n) && card_holds(from, n)))
        status = INVALID_VALUE;
    return status ? status : put_copy(stream, (void *)(uintptr_t)to, (const void *)(uintptr_t)from, n);
}

typedef struct Set {
    void *to;
    size_t n, size;
    unsigned value;
} Set;

static void run_set(void *data)
{
    const Set *set = data;
    for (size_t i = 0; i < set->n; i++)
        memcpy((unsigned char *)set->to + i * set->size, &set->value, set->size);
}

static int put_set(Pointer to, unsigned value, size_t n, size_t size, void *stream)
{
    int status = card_ready();
    if (!status && (to % size || n > SIZE_MAX / size || !card_holds(to, n * size)))
        status = INVALID_VALUE;
    return status ? status
                  : queue_put(stand_in_card, stream, run_set, &(Set){(void *)(uintptr_t)to, n, size, value},
                              sizeof(Set));
}

API int cuMemsetD32Async(Pointer to, unsigned value, size_t n, void *stream)
{
    return put_set(to, value, n, 4, stream);
}

API int cuMemsetD8Async(Pointer to, unsigned char value, size_t n, void *stream)
{
    return put_set(to, value, n, 1, stream);
}

/* ---- Events ---- */

typedef struct Event {
    double at; /* milliseconds; 0 = it did not happen yet */
    int pending;
} Event;

static void run_event(void *data)
{
    Event *event = *(Event **)data;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->at = (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
    event->pending = 0;
}

API int cuEventCreate(void **event, unsigned flags)
{
    int status = card_ready();
    (void)flags;
    if (!status && !(*event = calloc(1, sizeof(Event))))
        status = OUT_OF_MEMORY;
    return status;
}

API int cuEventRecord(void *event, void *stream)
{
    int status = card_ready();
    if (!status) {
        ((Event *)event)->pending = 1;
        status = queue_put(stand_in_card, stream, run_event, &event, sizeof event);
    }
    return status;
}

API int cuEventQuery(void *event)
{
    int status = card_ready();
    return status ? status : ((Event *)event)->pending ? NOT_READY : SUCCESS;
}

API int cuEventSynchronize(void *event)
{
    (void)event;
    return wait_for_all();
}

API int cuEventElapsedTime_v2(float *milliseconds, void *from, void *to)
{
    const Event *a = from, *b = to;
    if (a->at == 0 || b->at == 0)
        return INVALID_HANDLE;
    if (a->pending || b->pending)
        return NOT_READY;
    *milliseconds = (float)(b->at - a->at);
    return card_ready();
}

API int cuEventElapsedTime(float *milliseconds, void *from, void *to)
{
    return cuEventElapsedTime_v2(milliseconds, from, to);
}

API int cuEventDestroy_v2(void *event)
{
    int status = card_ready_to_wait();
    if (!status)
        queue_drain(stand_in_card);
    free(event);
    return status;
}
