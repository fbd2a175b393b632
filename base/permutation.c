/* A generalised Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite
 * domains", CT-RSA 2002): a place is a pair (row, column) of a rectangle that is hardly larger than the
 * count, and each round adds a keyed hash of one of them to the other, which can be undone, so that no two
 * places meet. A result beyond the count goes through again. The keys are Philox's; the hash within a round
 * is MurmurHash3's finalizer, for a Philox a round would be most of the cost. */
#include "permutation_.h"

#include "philox_.h"

static uint64_t hash(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDu;
    x ^= x >> 33;
    x *= 0xC4CEB9FE1A85EC53u;
    return x ^ x >> 33;
}

/* Below `below`, which is at most 2^31. */
static uint64_t draw(uint64_t key, uint64_t value, uint64_t below)
{
    return ((hash(value ^ key) >> 32) * below) >> 32;
}

/* The least r with r * r >= count. */
static uint64_t root(uint64_t count)
{
    uint64_t low = 1, high = (uint64_t)1 << 31; /* 2^62 is the largest count */
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (middle * middle >= count)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* A round separates two places but for one case in `rows`: few rows need more rounds. */
static int rounds_for(uint64_t rows)
{
    int bits = 0;
    while (rows >> bits > 1)
        bits++;
    int rounds = 6 + (bits ? 32 / bits : 32);
    return rounds < PERMUTATION_ROUNDS ? rounds : PERMUTATION_ROUNDS;
}

void permutation_make(Permutation *p, uint64_t count, uint64_t seed, uint32_t stream, uint64_t number)
{
    uint64_t rows = root(count);
    rows += rows % 2; /* were both sides odd, only even permutations would occur */
    *p = (Permutation){
        .count = count, .rows = rows, .columns = (count + rows - 1) / rows, .rounds = rounds_for(rows)};
    for (int i = 0; i < p->rounds; i++) {
        Philox r = philox4x32(seed, (uint32_t)i, (uint32_t)number, (uint32_t)(number >> 32), stream);
        p->keys[i] = (uint64_t)r.v[0] << 32 | r.v[1];
    }
}

static uint64_t once(const Permutation *p, uint64_t place)
{
    uint64_t row = place / p->columns, column = place % p->columns;
    for (int i = 0; i < p->rounds; i++) {
        uint64_t *changed = i % 2 ? &column : &row, other = i % 2 ? row : column;
        uint64_t below = i % 2 ? p->columns : p->rows;
        *changed += draw(p->keys[i], other, below);
        *changed -= *changed >= below ? below : 0;
    }
    return row * p->columns + column;
}

uint64_t permutation_at(const Permutation *p, uint64_t place)
{
    do
        place = once(p, place);
    while (place >= p->count);
    return place;
}
