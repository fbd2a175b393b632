/* What kernels are given: a struct by value each, so that host (C11) and card (.cu) share one declaration and
 * the size is known at the launch. Pointers are the card's. Arrays that are `void` are of the kernel's type.
 */
#ifndef BRIM_CUDA_ARGUMENTS_H
#define BRIM_CUDA_ARGUMENTS_H

#include "../kernels.h"

enum { FAULT_BITS = 40 }; /* of an element's index */

/* Where a bad element is put down: *at is the least of (operation << FAULT_BITS | element), all ones = none.
 * For operation 0 that is an index, and -1. */
typedef struct Fault {
    unsigned long long *at, operation;
} Fault;

/* elements.cu: y (and z) from a, b and d; c columns, where b is a row. */
typedef struct ElementArguments {
    int64_t n, c;
    const void *a, *b, *d;
    void *y, *z;
    float alpha, beta, beta2;
    int kind;
} ElementArguments;

#endif
