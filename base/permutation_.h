/* A shuffled order that needs no array: place i of the order is a function of i and a few keys. Base of the
 * order in which a loader takes its samples, however many there are. */
#ifndef BRIM_PERMUTATION_H
#define BRIM_PERMUTATION_H

#include <stdint.h>

enum { PERMUTATION_ROUNDS = 32 };

typedef struct Permutation {
    uint64_t count, rows, columns; /* rows * columns >= count, by less than rows */
    int rounds;
    uint64_t keys[PERMUTATION_ROUNDS];
} Permutation;

/* Of 0 … count - 1, 1 <= count <= 2^62. Seed, stream and number select one of very many; equal arguments give
 * the same order everywhere. */
void permutation_make(Permutation *p, uint64_t count, uint64_t seed, uint32_t stream, uint64_t number);
/* What stands at a place, both below count. */
uint64_t permutation_at(const Permutation *p, uint64_t place);

#endif
