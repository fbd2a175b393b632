/* What brim asks of the library that carries data between ranks (MPI, NCCL): a table of functions that a
 * plugin fills. Nobody but the plugin sees that library's types.
 *
 * Every function is called by all ranks of a group, in the same order, and returns when the caller's buffers
 * are its own again. It returns 0, or non-zero with the reason in why(). Sizes are in bytes, and may be
 * beyond 4 GiB; of exchange they are multiples of TRANSPORT_UNIT, and of gather where they are beyond 2 GiB.
 * Buffers are the host's.
 *
 * A second table is that of cards. Its buffers are memory of a card, and its calls are put on a stream of
 * that card, in order: they return before they are done, and a message that was started keeps what follows
 * waiting until it is received. It has divide, gather, exchange, broadcast, sum, sum_parts, receive, start,
 * wait, begin and end, and what follows `join`; for all else there is the table that it was opened over. */
#ifndef BRIM_RANKS_TRANSPORT_H
#define BRIM_RANKS_TRANSPORT_H

#include <stdint.h>

/* Who takes part: all ranks, and what a run divides them into. Those of RANKS_DATA are replicas: RANKS_SHARD
 * are one, whose parts make a whole, and RANKS_REPLICA those that have the same part, one of each replica. */
typedef enum RankGroup {
    RANKS_ALL,
    RANKS_DATA,
    RANKS_TENSOR,
    RANKS_STAGE,
    RANKS_SHARD,
    RANKS_REPLICA,
    RANK_GROUPS
} RankGroup;

typedef struct Transport {
    int abi;
    /* "Open MPI v4.1.4": the library and its version. */
    const char *(*version)(void *self);
    const char *(*why)(void *self); /* the last call failed */
    int (*rank)(void *self, int *rank, int *size);
    int (*node)(void *self, int *rank, int *size); /* the same among those of this machine */
    /* Ranks that name the same colour are a group from now on; they count in the order of `place`. Called for
     * all groups but RANKS_ALL; again, they are divided anew. */
    int (*divide)(void *self, RankGroup group, int colour, int place);
    int (*barrier)(void *self, RankGroup group);
    /* Rank r's part lies at r * bytes of everyone's data, and then in all of them. */
    int (*gather)(void *self, RankGroup group, void *data, uint64_t bytes);
    /* Part r of `from` goes to rank r; part r of `to` comes from rank r. */
    int (*exchange)(void *self, RankGroup group, const void *from, void *to, uint64_t bytes);
    int (*broadcast)(void *self, RankGroup group, void *data, uint64_t bytes, int root);
    /* The sum over ranks in the library's own order, of floats, everywhere; and part r of it at rank r. */
    int (*sum)(void *self, RankGroup group, float *data, uint64_t count);
    int (*sum_parts)(void *self, RankGroup group, const float *from, float *to, uint64_t count);
    /* Between two ranks of a group. start sends while the caller goes on; its buffer is busy until wait of
     * the same tag, 0 to TRANSPORT_TAGS - 1. */
    int (*receive)(void *self, RankGroup group, void *data, uint64_t bytes, int from, int tag);
    int (*start)(void *self, RankGroup group, const void *data, uint64_t bytes, int to, int tag);
    int (*wait)(void *self, int tag);
    /* Gathers between the two go on together: their buffers are busy until end. NULL: each is over when it
     * returns. */
    int (*begin)(void *self);
    /* Those that have begun go on by themselves, until end; what follows is over when it returns. NULL: they
     * are over too. */
    int (*later)(void *self);
    int (*end)(void *self);
    void (*close)(void *self); /* all ranks are done */
    void (*abort)(void *self); /* one is not, and the others need not wait for it; may return */
    /* Of cards; NULL in others. All ranks join with a stream of the caller's current card, before they are
     * divided, and leave before the stream goes; failed: without waiting for the others. */
    int (*join)(void *self, void *stream);
    void (*leave)(void *self, int failed);
    /* Whether what was put on the stream goes well; of any thread. 0, or -1 with a sentence. */
    int (*check)(void *self, char *why, uint64_t size);
    void *self;
} Transport;

/* ABI: of this table; a plugin of another one is refused. The first part is counted up where a function
 * changes. */
enum { TRANSPORT_UNIT = 64, TRANSPORT_TAGS = 64, TRANSPORT_ABI = 2 << 16 | sizeof(Transport) };

/* The one function that a plugin exports, brim_transport: opens the library. NULL with a sentence in why. */
typedef const Transport *TransportOpen(char *why, uint64_t size);
/* That of a plugin for cards, brim_card_transport: over a table that it may use until it is closed, with its
 * library, which dlopen has opened. */
typedef const Transport *CardTransportOpen(const Transport *host, void *library, char *why, uint64_t size);

#endif
