/* Calls in pieces, and pieces as graphs: graph.h. */
#include "graph.h"

#include <string.h>

#include "../memtrack/memtrack.h"

enum {
    PIECE_CALLS = 64,
    PIECE_BYTES = 64 << 10,
    PIECES = 1024,      /* graphs kept; then the one that was used longest ago goes */
    SEEN = 4096,        /* shapes of pieces remembered, to know what comes again */
    ALIGNED = 16,       /* of what is gathered */
    CAPTURE_RELAXED = 2 /* other threads may ask the driver for what they like meanwhile */
};

/* One after the other: a CudaCall each, and what it is about. */
typedef struct Calls {
    int count;
    size_t used;
    unsigned char *at;
} Calls;

typedef struct Piece {
    uint64_t shape; /* 0 = free */
    uint64_t used;  /* when it went last: the number of that flush */
    Calls calls;    /* as the graph has them */
    void *graph, *made, *node[PIECE_CALLS];
} Piece;

struct CudaGraphs {
    Calls calls;             /* gathered */
    uint64_t flushes, since; /* since: the first flush after the last wait */
    int off;                 /* the driver makes none: nothing is captured any more */
    int pieces;
    Piece *piece[PIECES];
    uint64_t seen[SEEN];
};

static size_t room_of(const CudaCall *call)
{
    return sizeof *call + (call->bytes + (size_t)ALIGNED - 1) / ALIGNED * ALIGNED;
}

/* ---- What pieces have in common --------------------------------------------------------------- */

/* The bytes of a call that pieces of one shape share: what it is about too, but for a kernel's arguments. */
static size_t fixed(const CudaCall *call, CudaCall *shared)
{
    *shared = *call;
    if (call->kind != CUDA_CALL_LAUNCH)
        return call->bytes;
    shared->x = shared->y = shared->z = 0;
    return 0;
}

/* Whole 32-bit words. */
static uint64_t mixed(uint64_t hash, const void *words, size_t bytes)
{
    uint32_t word;
    for (size_t at = 0; at + sizeof word <= bytes; at += sizeof word) {
        memcpy(&word, (const char *)words + at, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    return hash;
}

static uint64_t shape_of(const Calls *calls)
{
    uint64_t hash = 0xcbf29ce484222325u;
    CudaCall shared;
    for (size_t at = 0; at < calls->used;) {
        const CudaCall *call = (const void *)(calls->at + at);
        size_t more = fixed(call, &shared);
        hash = mixed(hash, &shared, sizeof shared);
        hash = mixed(hash, call + 1, more);
        at += room_of(call);
    }
    return hash ? hash : 1;
}

static int same_shape(const Calls *a, const Calls *b)
{
    CudaCall in_a, in_b;
    if (a->count != b->count || a->used != b->used)
        return 0;
    for (size_t at = 0; at < a->used;) {
        const CudaCall *one = (const void *)(a->at + at), *other = (const void *)(b->at + at);
        size_t more = fixed(one, &in_a);
        fixed(other, &in_b);
        if (memcmp(&in_a, &in_b, sizeof in_a) != 0 || memcmp(one + 1, other + 1, more) != 0)
            return 0;
        at += room_of(one);
    }
    return 1;
}

/* In words, by how much two pieces of one shape differ; *calls: in how many calls. */
static size_t difference(const Calls *a, const Calls *b, int *calls)
{
    size_t words = 0;
    *calls = 0;
    for (size_t at = 0; at < a->used;) {
        const CudaCall *call = (const void *)(a->at + at);
        size_t end = at + room_of(call), before = words;
        for (; at < end; at += sizeof(uint64_t))
            words += memcmp(a->at + at, b->at + at, sizeof(uint64_t)) != 0;
        *calls += words > before;
    }
    return words;
}

/* ---- Graphs ------------------------------------------------------------------------------------ */

static void free_piece(CudaGraphs *graphs, int i)
{
    Piece *piece = graphs->piece[i];
    if (piece->made)
        cuda.graph_free(piece->made);
    if (piece->graph)
        cuda.graph_forget(piece->graph);
    memtrack_host_free(NULL, piece->calls.at, piece->calls.used);
    memtrack_host_free(NULL, piece, sizeof *piece);
    graphs->piece[i] = graphs->piece[--graphs->pieces];
}

/* The node that the stream's last call has become. */
static int last_node(const CudaDevice *device, void **node)
{
    int capturing = 0;
    unsigned long long id;
    void *graph;
    void *const *last = NULL;
    size_t count = 0;
    int status = cuda.capture_info(device->stream, &capturing, &id, &graph, &last, &count);
    if (status || count != 1)
        return -1;
    *node = last[0];
    return 0;
}

/* What the calls become, as a graph; nothing of it runs. 0, or -1. */
static int capture(const CudaDevice *device, Piece *piece)
{
    const Calls *calls = &piece->calls;
    int failed = cuda.capture_begin(device->stream, CAPTURE_RELAXED) != 0, k = 0;
    if (failed)
        return -1;
    for (size_t at = 0; at < calls->used && !failed; k++) {
        const CudaCall *call = (const void *)(calls->at + at);
        failed = cuda_call_(device, call, call + 1) != 0 || last_node(device, &piece->node[k]) != 0;
        at += room_of(call);
    }
    failed |= cuda.capture_end(device->stream, &piece->graph) != 0;
    return failed || !piece->graph ? -1 : 0;
}

static size_t bytes_free(void)
{
    size_t left = 0, all = 0;
    cuda.memory_info(&left, &all);
    return left;
}

/* Makes a graph of what is gathered. Leaves it alone where that does not work, for good where the driver is
 * why. */
static Piece *make(CudaDevice *device, uint64_t shape)
{
    CudaGraphs *graphs = device->graphs;
    Piece *piece = memtrack_host_calloc(NULL, sizeof *piece);
    unsigned char *copy = piece ? memtrack_host_alloc(NULL, graphs->calls.used) : NULL;
    if (!copy) {
        memtrack_host_free(NULL, piece, sizeof *piece);
        return NULL;
    }
    memcpy(copy, graphs->calls.at, graphs->calls.used);
    *piece = (Piece){.shape = shape, .calls = {graphs->calls.count, graphs->calls.used, copy}};
    graphs->piece[graphs->pieces++] = piece;
    size_t before = bytes_free();
    if (capture(device, piece) == 0 && cuda.graph_make(&piece->made, piece->graph, 0) == 0) {
        size_t after = bytes_free();
        device->graph_bytes += before > after ? before - after : 0;
        return piece;
    }
    graphs->off = 1;
    piece->made = NULL;
    free_piece(graphs, graphs->pieces - 1);
    return NULL;
}

/* Gives the graph's kernels the grids and arguments that are gathered. */
static int change(CudaDevice *device, Piece *piece)
{
    const Calls *now = &device->graphs->calls;
    size_t at = 0, room;
    for (int k = 0; k < now->count; k++, at += room) {
        const CudaCall *call = (const void *)(now->at + at);
        room = room_of(call);
        if (memcmp(piece->calls.at + at, call, room) == 0)
            continue;
        size_t bytes = call->bytes;
        void *extra[] = {(void *)1, (void *)(uintptr_t)(call + 1), (void *)2, &bytes, NULL};
        CudaKernelNode node = {.function = device->function[call->function],
                               .grid = {call->x, call->y, call->z},
                               .block = {call->threads, 1, 1},
                               .extra = extra};
        if (cuda.graph_change(piece->made, piece->node[k], &node) != 0)
            return -1;
        memcpy(piece->calls.at + at, call, room);
    }
    return 0;
}

/* The graph that is to become this piece, NULL = none. One that has gone since the last wait is another part
 * of the step, unless little differs: then a part comes again, as those of micro-batches do. */
static Piece *find(CudaGraphs *graphs, uint64_t shape)
{
    Piece *best = NULL;
    size_t least = 0;
    for (int i = 0; i < graphs->pieces; i++) {
        Piece *piece = graphs->piece[i];
        int calls;
        if (piece->shape != shape || !same_shape(&piece->calls, &graphs->calls))
            continue;
        size_t words = difference(&piece->calls, &graphs->calls, &calls);
        if (piece->used >= graphs->since && calls > graphs->calls.count / 4)
            continue;
        if (!best || words < least) {
            best = piece;
            least = words;
        }
    }
    return best;
}

/* Whether a piece of the shape has gone before; from here on one has. */
static int seen(CudaGraphs *graphs, uint64_t shape)
{
    uint64_t *at = &graphs->seen[shape % SEEN];
    int before = *at == shape;
    *at = shape;
    return before;
}

static void make_room(CudaGraphs *graphs)
{
    int oldest = 0;
    for (int i = 1; i < graphs->pieces; i++)
        if (graphs->piece[i]->used < graphs->piece[oldest]->used)
            oldest = i;
    if (graphs->pieces == PIECES)
        free_piece(graphs, oldest);
}

static Piece *piece_for(CudaDevice *device)
{
    CudaGraphs *graphs = device->graphs;
    if (graphs->off || graphs->calls.count < 2)
        return NULL;
    uint64_t shape = shape_of(&graphs->calls);
    Piece *piece = find(graphs, shape);
    if (piece || !seen(graphs, shape))
        return piece && change(device, piece) == 0 ? piece : NULL;
    make_room(graphs);
    return make(device, shape);
}

/* ---- Calls ------------------------------------------------------------------------------------- */

static void one_by_one(CudaDevice *device)
{
    const Calls *calls = &device->graphs->calls;
    for (size_t at = 0; at < calls->used && !device->error;) {
        const CudaCall *call = (const void *)(calls->at + at);
        int status = cuda_call_(device, call, call + 1);
        if (status)
            cuda_call_failed_(device, status, call, call + 1);
        at += room_of(call);
    }
}

void cuda_flush(CudaDevice *device)
{
    CudaGraphs *graphs = device->graphs;
    if (!graphs || graphs->calls.count == 0)
        return;
    graphs->flushes++;
    Piece *piece = device->error ? NULL : piece_for(device);
    if (piece) {
        piece->used = graphs->flushes;
        device->graph_launches++;
        int status = cuda.graph_launch(piece->made, device->stream);
        if (status && !device->error)
            device->error = status;
    } else {
        one_by_one(device);
    }
    graphs->calls.count = 0;
    graphs->calls.used = 0;
}

void cuda_graphs_waited_(CudaDevice *device)
{
    if (device->graphs)
        device->graphs->since = device->graphs->flushes + 1;
}

void cuda_put(CudaDevice *device, CudaCall call, const void *about)
{
    CudaGraphs *graphs = device->graphs;
    if (!graphs) {
        int status = cuda_call_(device, &call, about);
        if (status)
            cuda_call_failed_(device, status, &call, about);
        return;
    }
    size_t room = room_of(&call);
    if (graphs->calls.count == PIECE_CALLS || graphs->calls.used + room > PIECE_BYTES)
        cuda_flush(device);
    unsigned char *at = graphs->calls.at + graphs->calls.used;
    memset(at + room - ALIGNED, 0, ALIGNED);
    memcpy(at, &call, sizeof call);
    memcpy(at + sizeof call, about, call.bytes);
    graphs->calls.used += room;
    graphs->calls.count++;
}

int cuda_graphs_begin(CudaDevice *device)
{
    CudaGraphs *graphs = memtrack_host_calloc(NULL, sizeof *graphs);
    unsigned char *at = graphs ? memtrack_host_alloc(NULL, PIECE_BYTES) : NULL;
    if (!at) {
        memtrack_host_free(NULL, graphs, sizeof *graphs);
        return -1;
    }
    graphs->calls.at = at;
    device->graphs = graphs;
    return 0;
}

void cuda_graphs_end(CudaDevice *device)
{
    CudaGraphs *graphs = device->graphs;
    if (!graphs)
        return;
    cuda_flush(device);
    while (graphs->pieces > 0)
        free_piece(graphs, graphs->pieces - 1);
    memtrack_host_free(NULL, graphs->calls.at, PIECE_BYTES);
    memtrack_host_free(NULL, graphs, sizeof *graphs);
    device->graphs = NULL;
}
