/* Rows of a table by id; and their gradients, for which positions are sorted by id, so that each row of the
 * table is summed by one block, in an order that does not change. */
#include "row.h"

enum { EMBEDDING_WARPS = 4, EMBEDDING_TOGETHER = 4 /* rows that a thread loads at once */ };
enum { SORT_TOGETHER = 16 /* counts, likewise */ };

#define KERNELS "embedding_.cu"
#include "typed.h"

/* The unit's k-th position, and the digit of its id. Ids out of range come last. */
typedef struct SortItem {
    int32_t position, digit;
} SortItem;

DEVICE SortItem sort_item(const SortArguments *a, int64_t k)
{
    int32_t position = a->from ? a->from[k] : (int32_t)k;
    int64_t id = a->ids[position] - a->first;
    id = id < 0 || id >= a->vocab ? a->vocab : id;
    return (SortItem){position, (int32_t)(id >> a->shift) & (SORT_DIGITS - 1)};
}

/* Of 32 digits, what the lane's has among those before it, and in all. */
typedef struct SortRank {
    int before, all;
} SortRank;

DEVICE SortRank sort_rank(const int32_t *digits, int lane)
{
    SortRank rank = {0, 0};
    for (int l = 0; l < 32; l++) {
        int same = digits[l] == digits[lane];
        rank.all += same;
        rank.before += same && l < lane;
    }
    return rank;
}

DEVICE int64_t sort_begin(const SortArguments *a, int64_t unit)
{
    return a->n / a->units * unit + (unit < a->n % a->units ? unit : a->n % a->units);
}

/* A warp goes through its unit, 32 positions at a time. counter: of each digit. Without `to`, counts. */
DEVICE void sort_unit(const SortArguments *a, int32_t *counter, int32_t *digits)
{
    int lane = (int)THREAD.x;
    int64_t end = sort_begin(a, BLOCK.x + 1);
    for (int64_t k = sort_begin(a, BLOCK.x); k < end; k += 32) {
        SortItem item = {0, -1};
        if (k + lane < end)
            item = sort_item(a, k + lane);
        digits[lane] = item.digit;
        warp_sync();
        SortRank rank = sort_rank(digits, lane);
        int32_t at = item.digit < 0 ? 0 : counter[item.digit];
        warp_sync();
        if (item.digit >= 0 && rank.before == 0)
            counter[item.digit] = at + rank.all;
        if (item.digit >= 0 && a->to)
            a->to[at + rank.before] = item.position;
        warp_sync();
    }
}

GLOBAL(sort_count, 32, SortArguments)
{
    SHARED int32_t counter[SORT_DIGITS], digits[32];
    for (int d = (int)THREAD.x; d < SORT_DIGITS; d += 32)
        counter[d] = 0;
    warp_sync();
    sort_unit(&a, counter, digits);
    for (int d = (int)THREAD.x; d < SORT_DIGITS; d += 32)
        a.counts[(int64_t)BLOCK.x * SORT_DIGITS + d] = counter[d];
}

/* A thread a digit: counts become the places within the digit; then where each digit begins. */
GLOBAL(sort_scan, 256, SortArguments)
{
    SHARED int32_t totals[SORT_DIGITS];
    int d = (int)THREAD.x;
    int32_t total = 0, before = 0;
    for (int u = 0; u < a.units; u += SORT_TOGETHER) {
        int32_t count[SORT_TOGETHER];
        UNROLL
        for (int k = 0; k < SORT_TOGETHER; k++)
            count[k] = u + k < a.units ? a.counts[(u + k) * SORT_DIGITS + d] : 0;
        UNROLL
        for (int k = 0; k < SORT_TOGETHER; k++) {
            if (u + k < a.units)
                a.counts[(u + k) * SORT_DIGITS + d] = total;
            total += count[k];
        }
    }
    totals[d] = total;
    for (int reach = 1; reach < SORT_DIGITS; reach *= 2) {
        block_sync();
        before = d >= reach ? totals[d - reach] : 0;
        block_sync();
        totals[d] += before;
    }
    a.counts[a.units * SORT_DIGITS + d] = totals[d] - total;
}

GLOBAL(sort_place, 32, SortArguments)
{
    SHARED int32_t counter[SORT_DIGITS], digits[32];
    for (int d = (int)THREAD.x; d < SORT_DIGITS; d += 32)
        counter[d] = a.counts[(int64_t)BLOCK.x * SORT_DIGITS + d] + a.counts[a.units * SORT_DIGITS + d];
    warp_sync();
    sort_unit(&a, counter, digits);
}
