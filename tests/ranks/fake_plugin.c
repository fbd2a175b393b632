/* A plugin of no MPI for tests/test_ranks_join.c: one process that says of itself what the environment tells
 * it to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../ranks/transport.h"

static int number(const char *variable, int otherwise)
{
    return getenv(variable) ? atoi(getenv(variable)) : otherwise;
}

static const char *version(void *self)
{
    (void)self;
    return "Fake MPI 1.0";
}

static const char *why(void *self)
{
    (void)self;
    return "the fake says no";
}

static int rank_of(void *self, int *rank, int *size)
{
    (void)self;
    *rank = number("FAKE_RANK", 0);
    *size = number("FAKE_SIZE", 1);
    return number("FAKE_RANK_FAILS", 0);
}

static int node(void *self, int *rank, int *size)
{
    (void)self;
    *rank = number("FAKE_NODE_RANK", 0);
    *size = number("FAKE_NODE_SIZE", 1);
    return 0;
}

/* Counted where the test reads it. */
static void close_it(void *self)
{
    char closed[16];
    (void)self;
    snprintf(closed, sizeof closed, "%d", number("FAKE_CLOSED", 0) + 1);
    setenv("FAKE_CLOSED", closed, 1);
}

__attribute__((visibility("default"))) TransportOpen brim_transport;

const Transport *brim_transport(char *reason, uint64_t size)
{
    static Transport table = {
        .version = version, .why = why, .rank = rank_of, .node = node, .close = close_it};
    if (number("FAKE_OPEN_FAILS", 0)) {
        snprintf(reason, size, "%s", why(NULL));
        return NULL;
    }
    table.abi = number("FAKE_ABI", TRANSPORT_ABI);
    return &table;
}
