/* What a rank waits in, told by whoever calls a transport (tensor/collective.c), for ranks_watch. */
#ifndef BRIM_RANKS_WATCH_H
#define BRIM_RANKS_WATCH_H

#include <stdint.h>

#include "transport.h"

/* Around each call that waits for other ranks. what: "gathering"; bytes: a rank's; number: of the collectives
 * so far, the same on all ranks. */
void ranks_waiting_(const Transport *transport, const char *what, uint64_t bytes, uint64_t number);
void ranks_done_(const Transport *transport);
void ranks_watch_end_(const Transport *transport);

#endif
