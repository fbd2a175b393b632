/* Rows of q, k, v and of what attention makes of them as floats, whatever their type. fp32 is read and
 * written where it lies. 16 bit goes through tiles, which are floats in a thread's workspace: what a block
 * reads is decoded once, and sums over blocks stay floats until they are whole and are rounded once. Part of
 * cpu.c. */
#include "kernels/values.h"

/* Rows of keys and of values that a tile holds; also how many keys a block of scores has at most. */
enum { ATTENTION_KEYS = 256 };

/* The rows (T, D) that one head has of an array: element `at` is the first, ld lie between rows. */
typedef struct AttentionRows {
    const void *base;
    DType type;
    int64_t at, ld;
} AttentionRows;

/* Some of them as floats. */
typedef struct AttentionFloats {
    const float *at;
    int64_t ld;
} AttentionFloats;

/* Where rows of results are summed. */
typedef struct AttentionSink {
    float *at;
    int64_t ld;
} AttentionSink;

/* Decoded rows [key, key + rows) of keys or of values, and whose they are. */
typedef struct AttentionTile {
    float *data; /* (ATTENTION_KEYS, D) */
    const void *base;
    int64_t at;
    int key, rows;
} AttentionTile;

/* Rows of 16-bit numbers into (rows, size). */
static void attention_decode(DType type, const void *from, int64_t at, int64_t ld, int64_t rows, int64_t size,
                             float *to)
{
    if (ld == size) {
        values_load(type, from, at, rows * size, to);
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        values_load(type, from, at + i * ld, size, to + i * size);
}

static AttentionFloats attention_in_place(const AttentionRows *rows, int first)
{
    return (AttentionFloats){(const float *)rows->base + rows->at + first * rows->ld, rows->ld};
}

/* Rows [first, first + count), where they are or in `room` (count, size). */
static AttentionFloats attention_load(const AttentionRows *rows, int first, int count, int size, float *room)
{
    if (rows->type == DTYPE_F32)
        return attention_in_place(rows, first);
    attention_decode(rows->type, rows->base, rows->at + first * rows->ld, rows->ld, count, size, room);
    return (AttentionFloats){room, size};
}

/* The same of keys or values, which the query blocks of a head read one after the other: what the tile has of
 * them stays. */
static AttentionFloats attention_load_tile(const AttentionRows *rows, int key, int count, int size,
                                           AttentionTile *tile)
{
    if (rows->type == DTYPE_F32)
        return attention_in_place(rows, key);
    if (tile->base != rows->base || tile->at != rows->at || tile->key != key)
        *tile = (AttentionTile){.data = tile->data, .base = rows->base, .at = rows->at, .key = key};
    if (tile->rows < count) {
        attention_decode(rows->type, rows->base, rows->at + (key + tile->rows) * rows->ld, rows->ld,
                         count - tile->rows, size, tile->data + (int64_t)tile->rows * size);
        tile->rows = count;
    }
    return (AttentionFloats){tile->data, size};
}

/* Where the rows at element `at` of y are summed: there, or in `room` (rows, size). */
static AttentionSink attention_room(DType type, void *y, int64_t at, int64_t ld, int size, float *room)
{
    return type == DTYPE_F32 ? (AttentionSink){(float *)y + at, ld} : (AttentionSink){room, size};
}

/* Rounds rows whose sums are whole to where they belong. */
static void attention_store(DType type, int64_t rows, int size, const AttentionSink *from, void *y,
                            int64_t at, int64_t ld)
{
    for (int64_t i = 0; i < (type == DTYPE_F32 ? 0 : rows); i++)
        values_store(type, size, from->at + i * from->ld, y, at + i * ld);
}

/* A row of probabilities as they are kept: rounded, and written to element `at` of `kept` unless that is
 * NULL. */
static void attention_round(DType type, int64_t n, float *x, void *kept, int64_t at)
{
    enum { ROOM = 1024 };
    uint16_t room[ROOM];
    if (type == DTYPE_F32)
        return;
    if (kept) {
        values_store(type, n, x, kept, at);
        values_load(type, kept, at, n, x);
        return;
    }
    for (int64_t i = 0; i < n; i += ROOM) {
        int64_t count = n - i < ROOM ? n - i : ROOM;
        values_store(type, count, x + i, room, 0);
        values_load(type, room, 0, count, x + i);
    }
}
