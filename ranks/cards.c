/* Who carries data between cards: NCCL, where every rank has its plugin, its library and a card of its own.
 * All ranks must do the same, so they tell each other what they have before anybody begins. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"
#include "../memtrack/memtrack.h"
#include "cards_.h"
#include "launcher_.h"
#include "transport.h"

static const char plugin[] = "libbrim-nccl.so";

/* What a rank tells the others. */
typedef struct RankCard {
    unsigned char card[16]; /* which one it is */
    int32_t known;          /* 0: there is none */
    char why[236];          /* why it has no NCCL; "": it has */
} RankCard;

static const Transport *open_plugin(const Transport *host, const RankCardHere *here, char *why, size_t size)
{
    char path[PLUGIN_PATH];
    CardTransportOpen *open = NULL;
    int seen = plugin_look_(plugin, path);
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!file && seen)
        snprintf(why, size, "%s cannot be loaded: %.160s", plugin, dlerror());
    else if (!file)
        snprintf(why, size, "%s is not there, which `make nccl` builds", plugin);
    if (!file)
        return NULL;
    void *found = dlsym(file, "brim_card_transport"), *library = here->library(why, size);
    memcpy(&open, &found, sizeof open);
    if (!library)
        return NULL;
    const Transport *table = open ? open(host, library, why, size) : NULL;
    if (!open || (table && table->abi != TRANSPORT_ABI)) {
        snprintf(why, size, "%s is of another version of brim; `make nccl` builds it again", plugin);
        return NULL;
    }
    return table;
}

/* The first two that have the same card. Whether there are any. */
static int shared(const RankCard *all, int size, int *a, int *b)
{
    for (*b = 1; *b < size; ++*b)
        for (*a = 0; *a < *b; ++*a)
            if (all[*a].known && all[*b].known && !memcmp(all[*a].card, all[*b].card, sizeof all->card))
                return 1;
    return 0;
}

/* Why it is not NCCL, of all ranks together; "": it can be. */
static void judge(const RankCard *all, int size, char *why, size_t why_size)
{
    int a, b;
    why[0] = 0;
    for (int r = 0; r < size && !why[0]; r++)
        if (all[r].why[0])
            snprintf(why, why_size, "rank %d: %s", r, all[r].why);
    if (!why[0] && shared(all, size, &a, &b))
        snprintf(why, why_size, "ranks %d and %d have the same card, and NCCL wants one for each", a, b);
}

int ranks_join_cards_(Ranks *ranks, const RankCardHere *here, const char *transport, char *why,
                      size_t why_size)
{
    const Transport *host = ranks->transport;
    int asked = transport && !strcmp(transport, "nccl");
    why[0] = 0;
    ranks->card = NULL;
    if (!host || ranks->size < 2 || (transport && !asked))
        return 0;
    RankCard mine = {.known = here->identity != NULL};
    if (here->identity)
        memcpy(mine.card, here->identity, sizeof mine.card);
    const Transport *nccl = open_plugin(host, here, mine.why, sizeof mine.why);
    if (nccl)
        mine.why[0] = 0;
    size_t bytes = (size_t)ranks->size * sizeof mine;
    RankCard *all = memtrack_host_calloc(NULL, bytes);
    int failed = !all ? ERROR_HOST_MEMORY : ranks_gather(ranks, &mine, sizeof mine, all) ? ERROR_RANKS : 0;
    char reason[320] = "";
    if (!failed)
        judge(all, ranks->size, reason, sizeof reason);
    memtrack_host_free(NULL, all, bytes);
    if (failed) {
        snprintf(why, why_size, "the ranks cannot tell each other which cards they have");
        return failed;
    }
    if (!reason[0])
        ranks->card = nccl;
    snprintf(why, why_size, "%s%s", reason[0] ? reason : nccl->version(nccl->self),
             asked && reason[0] ? "; --transport mpi sends through the host's memory" : "");
    return asked && reason[0] ? ERROR_RANKS : 0;
}
