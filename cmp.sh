#!/bin/sh
# cmp.sh TRACE...: builds the compare tool and runs it
cd /work/wt/pytorch
[ -f /tmp/memtrack_stub.c ] || cat > /tmp/memtrack_stub.c <<'X'
#include <stdlib.h>
#include <stddef.h>
void *brim_memtrack_host_alloc(void *t, size_t n) { return malloc(n); }
void *brim_memtrack_host_calloc(void *t, size_t n) { return calloc(1, n); }
void *brim_memtrack_host_realloc(void *t, void *p, size_t a, size_t b) { return realloc(p, b); }
void brim_memtrack_host_free(void *t, void *p, size_t n) { free(p); }
X
gcc -std=c11 -O1 -g -D_GNU_SOURCE -Wall -Wextra -Wno-clobbered -Wno-unused-parameter estimate/pytorch/*.c tests/pytorch_trace.c compare_main.c /tmp/memtrack_stub.c -o /tmp/cmp -ljansson -lz 2>&1 | grep -E "error|warning" | head -20
exec /tmp/cmp "$@"
