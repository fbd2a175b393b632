/* What a rank waits in, told by whoever calls a transport (tensor/collective.c), for ranks_watch. */
#ifndef BRIM_RANKS_WATCH_H
#define BRIM_RANKS_WATCH_H

#include <stdint.h>

#include "transport.h"

/* Texts have to stay while it waits. */
typedef struct RanksWait {
    const char *what;  /* "gathering" */
    const char *place; /* of the model; NULL or "": nowhere */
    uint64_t bytes;    /* a rank's */
    uint64_t number;   /* of the collectives so far, the same on all ranks; 0: it is none of the script's */
} RanksWait;

/* Around each call that waits for other ranks. */
void ranks_waiting_(const Transport *transport, const RanksWait *wait);
void ranks_done_(const Transport *transport);
void ranks_watch_end_(const Transport *transport);

#endif
