/* Who carries between ranks' cards, for who knows cards (tensor/device.c). */
#ifndef BRIM_RANKS_CARDS_H
#define BRIM_RANKS_CARDS_H

#include <stddef.h>

#include "ranks.h"

/* What there is on this rank. */
typedef struct RankCardHere {
    const unsigned char *identity;            /* of its card, 16 bytes; NULL: it has none */
    void *(*library)(char *why, size_t size); /* opens NCCL; or NULL with a sentence */
} RankCardHere;

/* context.h: context_join_cards. */
int ranks_join_cards_(Ranks *ranks, const RankCardHere *here, const char *transport, char *why,
                      size_t why_size);

#endif
