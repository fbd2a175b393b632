/* Launches of kernels, and graphs of what was captured. */
#include "driver_.h"

#include <stdlib.h>

enum { ARGUMENTS_MAX = 4096, SHARED_FREE = 48 << 10 };

static void run_launch(void *data)
{
    int status = comes_true(&stand_in.trap_in) ? ILLEGAL_ADDRESS : trap_launch(data);
    if (status)
        stand_in_card->fault = status;
}

/* As a card does: the grid, the block, and what the kernel was compiled and allowed for. */
static int check(const SimtKernel *k, SimtDim grid, SimtDim block, unsigned dynamic)
{
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
        return INVALID_VALUE;
    if (!threads || block.x > 1024 || block.y > 1024 || block.z > 64 || threads > 1024)
        return INVALID_VALUE;
    if (dynamic > SHARED_FREE && dynamic > k->dynamic)
        return INVALID_VALUE;
    return threads > k->threads ? LAUNCH_OUT_OF_RESOURCES : SUCCESS;
}

static const void *find_arguments(const SimtKernel *k, void **parameters, void **extra, size_t *size)
{
    const void *buffer = NULL;
    *size = k->arguments;
    if (parameters)
        return parameters[0];
    for (; extra && *extra; extra += 2)
        if ((uintptr_t)extra[0] == 1)
            buffer = extra[1];
        else if ((uintptr_t)extra[0] == 2)
            *size = *(const size_t *)extra[1];
    return buffer;
}

/* In memory of its own: arguments follow. NULL where something is wrong. */
static Launch *make(const SimtKernel *k, SimtDim grid, SimtDim block, unsigned dynamic, void **parameters,
                    void **extra, int *status)
{
    size_t size;
    const void *buffer = find_arguments(k, parameters, extra, &size);
    *status = check(k, grid, block, dynamic);
    if (!*status && (!buffer || size != k->arguments || size > ARGUMENTS_MAX))
        *status = INVALID_VALUE;
    Launch *launch = *status ? NULL : malloc(sizeof *launch + size);
    if (!launch)
        return *status = *status ? *status : OUT_OF_MEMORY, NULL;
    *launch = (Launch){k, grid, block, dynamic};
    memcpy(launch->arguments, buffer, size);
    return launch;
}

API int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                       unsigned block_y, unsigned block_z, unsigned dynamic, void *stream, void **parameters,
                       void **extra)
{
    int status = card_ready();
    if (status || !function)
        return status ? status : INVALID_HANDLE;
    Launch *launch = make(function, (SimtDim){grid_x, grid_y, grid_z}, (SimtDim){block_x, block_y, block_z},
                          dynamic, parameters, extra, &status);
    if (!launch)
        return status;
    stand_in.launches++;
    if (comes_true(&stand_in.refuse_in))
        return free(launch), LAUNCH_OUT_OF_RESOURCES;
    status = queue_put(stand_in_card, stream, run_launch, launch, sizeof *launch + launch->kernel->arguments);
    free(launch);
    return status;
}

/* ---- Graphs ---- */

API int cuStreamBeginCapture_v2(void *stream, int mode)
{
    int status = card_ready();
    if (status || !stream || stand_in_card->capture.into)
        return status ? status : CAPTURE_UNSUPPORTED;
    Queue *graph = calloc(1, sizeof *graph);
    if (!graph)
        return OUT_OF_MEMORY;
    stand_in_card->capture.into = graph;
    stand_in_card->capture.mode = mode;
    stand_in_card->capture.invalid = 0;
    return SUCCESS;
}

API int cuGraphDestroy(void *graph)
{
    queue_clear(graph);
    free(graph);
    return SUCCESS;
}

API int cuStreamEndCapture(void *stream, void **graph)
{
    int status = card_ready();
    (void)stream;
    *graph = NULL;
    if (status || !stand_in_card->capture.into)
        return status ? status : CAPTURE_UNSUPPORTED;
    *graph = stand_in_card->capture.into;
    stand_in_card->capture.into = NULL;
    if (!stand_in_card->capture.invalid)
        return SUCCESS;
    cuGraphDestroy(*graph);
    *graph = NULL;
    return CAPTURE_INVALIDATED;
}

API int cuStreamIsCapturing(void *stream, int *is)
{
    int status = card_ready();
    (void)stream;
    *is = status || !stand_in_card->capture.into ? 0 : stand_in_card->capture.invalid ? 2 : 1;
    return status;
}

/* What the next call would come after: the call before it, as all are in one order. */
API int cuStreamGetCaptureInfo_v2(void *stream, int *is, unsigned long long *id, void **graph,
                                  void *const **last, size_t *count)
{
    int status = cuStreamIsCapturing(stream, is);
    Queue *into = status ? NULL : stand_in_card->capture.into;
    *id = 1;
    if (graph)
        *graph = into;
    if (last)
        *last = into ? (void *const *)(const void *)&into->last : NULL;
    if (count)
        *count = into && into->last;
    return status;
}

/* A node is its work. The numbers of kinds are cuda.h's. */
API int cuGraphGetNodes(void *graph, void **nodes, size_t *count)
{
    const Queue *queue = graph;
    size_t n = 0;
    for (Work *work = queue->first; work && nodes && n < *count; work = work->next)
        nodes[n++] = work;
    *count = nodes ? n : queue->count;
    return SUCCESS;
}

API int cuGraphNodeGetType(void *node, int *type)
{
    enum { NODE_KERNEL = 0, NODE_MEMCPY = 1 };
    *type = ((Work *)node)->run == run_launch ? NODE_KERNEL : NODE_MEMCPY;
    return SUCCESS;
}

/* An executable graph: a copy of the nodes, which remember whose copies they are. It takes memory of the
 * card. */
typedef struct Executable {
    Queue queue;
    void **nodes;
    Card *card;
} Executable;

API int cuGraphExecDestroy(void *executable)
{
    Executable *e = executable;
    queue_drain(e->card);
    e->card->used -= GRANULE;
    queue_clear(&e->queue);
    free(e->nodes);
    free(e);
    return SUCCESS;
}

API int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags)
{
    const Queue *from = graph;
    int status = card_ready_to_wait();
    (void)flags;
    if (status || stand_in_card->total - stand_in_card->used < GRANULE)
        return status ? status : OUT_OF_MEMORY;
    Executable *e = calloc(1, sizeof *e);
    void **nodes = calloc(from->count + 1, sizeof *nodes);
    if (!e || !nodes)
        return free(e), free(nodes), OUT_OF_MEMORY;
    *e = (Executable){.nodes = nodes, .card = stand_in_card};
    for (Work *work = from->first; work; work = work->next) {
        e->nodes[e->queue.count] = work;
        queue_push(&e->queue, work->run, work->data, work->bytes);
    }
    stand_in_card->used += GRANULE;
    *executable = e;
    return SUCCESS;
}

/* Later changes of the executable do not reach what is queued. */
API int cuGraphLaunch(void *executable, void *stream)
{
    int status = card_ready();
    const Executable *e = executable;
    if (!status && stand_in_card->capture.into)
        status = CAPTURE_UNSUPPORTED;
    stand_in.graphs += !status;
    for (Work *work = e->queue.first; work && !status; work = work->next)
        status = queue_put(stand_in_card, stream, work->run, work->data, work->bytes);
    return status;
}

/* CUDA_KERNEL_NODE_PARAMS_v2 */
typedef struct NodeParameters {
    void *function;
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, dynamic;
    void **parameters, **extra, *kernel, *context;
} NodeParameters;

API int cuGraphExecKernelNodeSetParams_v2(void *executable, void *node, const NodeParameters *p)
{
    const Executable *e = executable;
    int status = card_ready();
    size_t at = 0;
    Work *work = e->queue.first;
    while (work && e->nodes[at] != node) {
        work = work->next;
        at++;
    }
    if (status || !work || work->run != run_launch || ((Launch *)work->data)->kernel != p->function)
        return status ? status : INVALID_VALUE;
    Launch *launch =
        make(p->function, (SimtDim){p->grid_x, p->grid_y, p->grid_z},
             (SimtDim){p->block_x, p->block_y, p->block_z}, p->dynamic, p->parameters, p->extra, &status);
    if (!launch)
        return status;
    memcpy(work->data, launch, work->bytes);
    free(launch);
    return SUCCESS;
}
