/* Which keys a query sees, masks aside: those up to its own where causal, and of these, or of all, what a
 * window has. Queries are numbered within the call, d->past tokens after the first key. */
#ifndef BRIM_CUDA_ATTENTION_WINDOW_H
#define BRIM_CUDA_ATTENTION_WINDOW_H

#include "words.h"

/* Whether a query sees a key. */
DEVICE int window_has(const AttentionDims *d, int query, int key)
{
    int ahead = key - query - d->past, half = d->window / 2;
    if (d->causal)
        return ahead <= 0 && (!d->window || -ahead < d->window);
    return !d->window || (ahead <= half && -ahead <= half);
}

/* The first key that a query sees; those after it see none before. */
DEVICE int window_begin(const AttentionDims *d, int query)
{
    int begin = d->past + query - (d->causal ? d->window - 1 : d->window / 2);
    return d->window && begin > 0 ? begin : 0;
}

/* Keys before this one, of `keys`, are seen by some of the queries [query, query + count). */
DEVICE int window_end(const AttentionDims *d, int query, int count, int keys)
{
    int end = d->past + query + count + (d->causal ? 0 : d->window / 2);
    return (d->causal || d->window) && end < keys ? end : keys;
}

/* The first query, and the one after the last, that sees some of the keys [key, key + count). Without past.
 */
DEVICE int window_query_begin(const AttentionDims *d, int key)
{
    if (d->causal)
        return key;
    return d->window && key > d->window / 2 ? key - d->window / 2 : 0;
}

DEVICE int window_query_end(const AttentionDims *d, int key, int count)
{
    int end = key + count + (d->causal ? d->window - 1 : d->window / 2);
    return d->window && end < d->seq ? end : d->seq;
}

#endif
