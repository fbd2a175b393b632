/* How kernels move tiles: copies into shared memory that go on in the background, and a warp's loads of
 * matrices for products. A copy is done as late as may be, when its thread waits for it: who reads earlier,
 * or without a barrier after that, reads what was there before. */
#include "simt.h"

#include <stdlib.h>

enum { COPIES = 64, BYTES = 16, MOST = 1024 }; /* of a thread, not yet done */

typedef struct Copy {
    void *to;
    const void *from; /* NULL: zeros */
    unsigned group;
} Copy;

/* Copies of the groups [done, made) and of the one that is open, made. */
static struct {
    Copy copy[COPIES];
    unsigned count, made;
} threads[MOST];

void simt_copy16(void *to, const void *from, int in)
{
    unsigned t = simt_thread.x;
    if (threads[t].count == COPIES || (uintptr_t)to % BYTES || (in && (uintptr_t)from % BYTES))
        abort();
    threads[t].copy[threads[t].count++] = (Copy){to, in ? from : NULL, threads[t].made};
}

void simt_copy_commit(void)
{
    threads[simt_thread.x].made++;
}

void simt_copy_wait(int left)
{
    unsigned t = simt_thread.x, kept = 0;
    for (unsigned i = 0; i < threads[t].count; i++) {
        Copy *copy = &threads[t].copy[i];
        if (copy->group + (unsigned)left >= threads[t].made)
            threads[t].copy[kept++] = *copy;
        else if (copy->from)
            memcpy(copy->to, copy->from, BYTES);
        else
            memset(copy->to, 0, BYTES);
    }
    threads[t].count = kept;
    if (!kept)
        threads[t].made = 0;
}

/* Matrix i has its rows at the addresses of lanes 8 i to 8 i + 7, eight 16-bit numbers each. A lane gets of
 * each matrix two numbers of row lane / 4, from column lane % 4 * 2 on; or of the transposed matrix. */
void simt_load_matrices(const char *here, unsigned r[4], const void *row, int transposed)
{
    unsigned lane = simt_lane(), own[2];
    uintptr_t at = (uintptr_t)row;
    if (at % BYTES)
        abort();
    own[0] = (unsigned)at;
    own[1] = (unsigned)((uint64_t)at >> 32);
    const SimtWords *words = simt_collect(here, own, 2);
    for (unsigned i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (unsigned e = 0; e < 2; e++) {
            unsigned x = lane / 4, y = lane % 4 * 2 + e, from = i * 8 + (transposed ? y : x);
            const char *line = (const char *)(uintptr_t)((uint64_t)words[from][1] << 32 | words[from][0]);
            memcpy(&pair[e], line + 2 * (transposed ? x : y), sizeof pair[e]);
        }
        r[i] = (unsigned)pair[0] | (unsigned)pair[1] << 16;
    }
}
