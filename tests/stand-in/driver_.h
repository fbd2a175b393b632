/* What the files of the made-up driver share: its cards, and the work that waits to be done on each. */
#ifndef BRIM_STAND_IN_DRIVER__H
#define BRIM_STAND_IN_DRIVER__H

#include <stddef.h>
#include <stdint.h>
#include "simt.h"

#define API __attribute__((visibility("default")))

/* cuda.h's */
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    DEVICE_UNAVAILABLE = 46,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_TIMEOUT = 702,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_IMPLICIT = 906
};

typedef unsigned long long Pointer;
#define MIB     ((size_t)1 << 20)
#define GRANULE (2 * MIB)

typedef struct Work Work;
struct Work {
    Work *next;
    void (*run)(void *data);
    size_t bytes;
    _Alignas(16) unsigned char data[];
};

typedef struct Queue {
    Work *first, *last;
    size_t count;
} Queue;

typedef struct Block {
    struct Block *next;
    unsigned char *base, *mapping;
    size_t bytes, mapped, granules;
} Block;

typedef struct Card {
    int retained, fault, capability, multiprocessors, slice;
    int number;                 /* among all of the machine's, also those that are not visible */
    size_t total, used, others; /* others: of it, another program's */
    Block *blocks;
    Queue queue;
    struct {
        Queue *into; /* a graph's, NULL where nothing is captured */
        int mode, invalid;
    } capture;
} Card;

enum { CARDS_MAX = 16, CAPTURE_RELAXED = 2 };

typedef struct StandIn {
    int initialised, cards, driver, mode, guard, deferred, seconds;
    int fail_in;                     /* the allocation that fails, counted down; 0 = none */
    int refuse_in, lost_in, trap_in; /* the launch, the work and the kernel that do, the same way */
    unsigned long long launches, copies, waits, graphs; /* graphs: that went */
    Card card[CARDS_MAX];
} StandIn;
extern StandIn stand_in;
/* Of the calling thread. */
extern __thread Card *stand_in_card;

/* Whether it is the turn of what is counted down. */
static inline int comes_true(int *count)
{
    return *count > 0 && --*count == 0;
}

/* The status that a call begins with: a context, and no fault. */
int card_ready(void);
/* The same of a call that no capture allows: it spoils the capture. */
int card_ready_to_wait(void);
/* Whether n bytes from p on are in an allocation of a card. */
int card_holds(Pointer p, size_t n);
/* Puts a call on the queue of the card, or of what is captured. */
int queue_put(Card *card, void *stream, void (*run)(void *), const void *data, size_t bytes);
void queue_push(Queue *queue, void (*run)(void *), const void *data, size_t bytes);
void queue_clear(Queue *queue);
/* Does what waits. Returns the card's fault. */
int queue_drain(Card *card);
/* Lets kernels and copies, and nobody else, touch the memory of the cards. */
void memory_open(int open);
int host_is_pinned(const void *p, size_t n);

/* Runs a kernel, and turns an illegal access or an endless loop into a fault: 0, or a status. */
typedef struct Launch Launch;
int trap_launch(const Launch *launch);
/* With guarded memory: a message when the host touches it. */
void trap_host(void);

struct Launch {
    const SimtKernel *kernel;
    SimtDim grid, block;
    unsigned dynamic;
    _Alignas(16) unsigned char arguments[];
};

#endif
