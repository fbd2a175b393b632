#!/bin/sh
cd /work/wt/pytorch
gcc -std=c11 -O1 -g -D_GNU_SOURCE -Wall -Wextra -Wno-clobbered -Wno-unused-parameter estimate/pytorch/*.c estimate/pytorch_*.c tests/pytorch_trace.c compare_main.c /tmp/memtrack_stub.c -o /tmp/cmp -ljansson -lz -lm 2>&1 | grep -E "error|warning" | head -20
exec /tmp/cmp "$@"
