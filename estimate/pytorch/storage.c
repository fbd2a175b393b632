/* Storages, tensors and frames: who holds what, and until when. */
#include <string.h>

#include "../../memtrack/grow_.h"
#include "torch_.h"

enum { CHUNK = 1 << 16 };

typedef struct Chunk {
    struct Chunk *next;
    size_t unused; /* so that what follows is aligned */
    char bytes[CHUNK];
} Chunk;

/* ---- Host memory ----------------------------------------------------------------------------- */

static void *take(Torch *t, size_t bytes)
{
    bytes = (bytes + 15) / 16 * 16;
    if (!t->chunks || t->chunk_used + bytes > CHUNK) {
        Chunk *chunk = memtrack_host_alloc(NULL, sizeof *chunk);
        if (!chunk)
            longjmp(t->failed, 1);
        chunk->next = t->chunks;
        t->chunks = chunk;
        t->chunk_used = 0;
    }
    void *p = ((Chunk *)t->chunks)->bytes + t->chunk_used;
    t->chunk_used += bytes;
    return p;
}

void *torch_take(Torch *t, size_t bytes)
{
    return memset(take(t, bytes), 0, bytes);
}

void *torch_grow(Torch *t, void *items, size_t *capacity, size_t count, size_t bytes)
{
    void *larger = memtrack_grow(items, capacity, count, bytes);
    if (!larger)
        longjmp(t->failed, 1);
    return larger;
}

/* The first `zeros` of its bytes are 0. */
static void *spare_or_new(Torch *t, void *list, size_t bytes, size_t zeros, size_t next)
{
    void **head = list;
    void *item = *head;
    if (item)
        memcpy(head, (char *)item + next, sizeof *head);
    else
        item = take(t, bytes);
    memset(item, 0, zeros);
    return item;
}

static TorchTensor *new_tensor(Torch *t)
{
    TorchTensor *x = spare_or_new(t, &t->spare_tensors, sizeof *x, sizeof *x, offsetof(TorchTensor, next));
    x->refs = 1;
    x->loose = 1;
    return x;
}

TorchNode *torch_new_node(Torch *t)
{
    return spare_or_new(t, &t->spare_nodes, sizeof(TorchNode), offsetof(TorchNode, made),
                        offsetof(TorchNode, next));
}

TorchSegment *torch_new_segment(Torch *t)
{
    return spare_or_new(t, &t->spare_segments, sizeof(TorchSegment), sizeof(TorchSegment),
                        offsetof(TorchSegment, next));
}

void torch_clear(Torch *t)
{
    memtrack_host_free(NULL, t->frames, t->frame_capacity * sizeof *t->frames);
    memtrack_host_free(NULL, t->heap, t->heap_capacity * sizeof *t->heap);
    memtrack_host_free(NULL, t->kept, t->kept_capacity * sizeof *t->kept);
    memtrack_host_free(NULL, t->casts, t->cast_capacity * sizeof *t->casts);
    for (Chunk *chunk = t->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        memtrack_host_free(NULL, chunk, sizeof *chunk);
    }
    memset(t, 0, sizeof *t);
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

int64_t torch_count(const TorchShape *shape)
{
    int64_t count = 1;
    for (int i = 0; i < shape->dims; i++)
        count *= shape->size[i];
    return count;
}

int torch_bytes(TorchType type)
{
    static const int bytes[] = {[TORCH_F32] = 4, [TORCH_BF16] = 2, [TORCH_F16] = 2, [TORCH_I64] = 8,
                                [TORCH_I32] = 4, [TORCH_U8] = 1,   [TORCH_I8] = 1,  [TORCH_BOOL] = 1};
    return bytes[type];
}

int torch_dense(const TorchShape *shape)
{
    int64_t extent = 1;
    for (int i = 0; i < shape->dims; i++)
        extent += (shape->size[i] - 1) * shape->stride[i];
    for (int i = 0; i < shape->dims; i++)
        if (shape->size[i] > 1 && !shape->stride[i])
            return 0;
    return extent == torch_count(shape);
}

int torch_floating(TorchType type)
{
    return type == TORCH_F32 || type == TORCH_BF16 || type == TORCH_F16;
}

TorchShape torch_shape(TorchType type, int dims, const int64_t *size)
{
    TorchShape shape = {.dims = dims, .type = type};
    int64_t stride = 1;
    for (int i = dims; i-- > 0;) {
        shape.size[i] = size[i];
        shape.stride[i] = stride;
        stride *= size[i];
    }
    return shape;
}

int torch_contiguous(const TorchShape *shape)
{
    int64_t stride = 1;
    for (int i = shape->dims; i-- > 0;) {
        if (shape->size[i] != 1 && shape->stride[i] != stride)
            return 0;
        stride *= shape->size[i];
    }
    return 1;
}

int torch_same_size(const TorchShape *a, const TorchShape *b)
{
    if (a->dims != b->dims)
        return 0;
    for (int i = 0; i < a->dims; i++)
        if (a->size[i] != b->size[i])
            return 0;
    return 1;
}

/* ---- Storages -------------------------------------------------------------------------------- */

static void tell(Torch *t, PytorchAction action, const char *op, const TorchStorage *s, PytorchKind kind)
{
    PytorchEvent *e = &t->event;
    e->action = action;
    e->serial = s->serial;
    e->bytes = s->bytes;
    e->kind = kind;
    e->layer = t->place.layer;
    e->module = t->place.module;
    e->op = op;
    e->recomputed = t->again > 0;
    t->stop = t->visit(t->user, e);
    if (t->stop)
        longjmp(t->failed, 2);
}

static TorchStorage *allocate(Torch *t, const char *op, int64_t bytes)
{
    TorchStorage *s = spare_or_new(t, &t->spare_storages, sizeof *s, sizeof *s, offsetof(TorchStorage, next));
    s->refs = 1;
    s->bytes = (uint64_t)bytes;
    if (!bytes || t->stopped)
        return s;
    s->serial = ++t->serials;
    tell(t, PYTORCH_ALLOC, op, s, PYTORCH_TEMPORARY);
    return s;
}

static void drop_storage(Torch *t, TorchStorage *s)
{
    if (--s->refs)
        return;
    if (s->serial)
        tell(t, PYTORCH_FREE, NULL, s, PYTORCH_TEMPORARY);
    s->next = t->spare_storages;
    t->spare_storages = s;
}

void torch_release_storage(Torch *t, TorchTensor *x)
{
    TorchStorage *s = x->storage;
    if (s->serial)
        tell(t, PYTORCH_FREE, NULL, s, PYTORCH_TEMPORARY);
    s->serial = 0;
}

void torch_restore_storage(Torch *t, const char *op, TorchTensor *x, int64_t bytes, PytorchKind kind)
{
    TorchStorage *s = x->storage;
    s->bytes = (uint64_t)bytes;
    s->serial = ++t->serials;
    tell(t, PYTORCH_ALLOC, op, s, PYTORCH_TEMPORARY);
    torch_mark(t, x, kind);
}

void torch_mark(Torch *t, TorchTensor *x, PytorchKind kind)
{
    if (x->storage->serial)
        tell(t, PYTORCH_MARK, NULL, x->storage, kind);
}

void torch_empty_cache(Torch *t)
{
    tell(t, PYTORCH_EMPTY_CACHE, "torch.cuda.empty_cache", &(TorchStorage){0}, PYTORCH_TEMPORARY);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

TorchTensor *torch_empty(Torch *t, const char *op, TorchShape shape)
{
    TorchTensor *x = new_tensor(t);
    int64_t extent = 1; /* as empty_strided counts it */
    for (int i = 0; i < shape.dims; i++)
        extent = shape.size[i] ? extent + (shape.size[i] - 1) * shape.stride[i] : 0;
    x->shape = shape;
    x->storage = allocate(t, op, extent * torch_bytes(shape.type));
    return x;
}

TorchTensor *torch_bytes_of(Torch *t, const char *op, int64_t bytes)
{
    return torch_empty(t, op, torch_shape(TORCH_U8, 1, &bytes));
}

void torch_scratch(Torch *t, const char *op, int64_t bytes)
{
    torch_drop(t, torch_bytes_of(t, op, bytes));
}

TorchTensor *torch_alias(Torch *t, const TorchTensor *x)
{
    TorchTensor *y = new_tensor(t);
    y->shape = x->shape;
    y->storage = x->storage;
    y->storage->refs++;
    return y;
}

TorchTensor *torch_again(TorchTensor *x)
{
    x->refs++;
    return x;
}

void torch_based(TorchTensor *x)
{
    x->view = 1;
    x->storage->refs++;
}

TorchTensor *torch_leaf(Torch *t, const char *op, PytorchKind kind, TorchShape shape, int needs_grad)
{
    TorchTensor *x = torch_empty(t, op, shape);
    x->loose = 0;
    x->needs_grad = needs_grad;
    x->place = t->place;
    torch_mark(t, x, kind);
    return x;
}

TorchTensor *torch_meta(Torch *t, TorchShape shape, int needs_grad)
{
    TorchTensor *x = new_tensor(t);
    x->shape = shape;
    x->loose = 0;
    x->needs_grad = needs_grad;
    x->place = t->place;
    x->storage = allocate(t, NULL, 0);
    return x;
}

void torch_set_data(Torch *t, const char *op, TorchTensor *x, TorchShape shape, PytorchKind kind)
{
    TorchPlace place = t->place;
    t->place = x->place;
    TorchTensor *data = torch_empty(t, op, shape);
    TorchStorage *old = x->storage;
    x->storage = data->storage;
    x->shape = shape;
    data->storage = old;
    torch_mark(t, x, kind);
    torch_drop(t, data);
    t->place = place;
}

void torch_drop(Torch *t, TorchTensor *x)
{
    if (!x || --x->refs)
        return;
    if (x->view)
        x->storage->refs--;
    drop_storage(t, x->storage);
    torch_drop(t, x->grad);
    if (x->node)
        torch_free_node(t, x->node);
    x->next = t->spare_tensors;
    t->spare_tensors = x;
}

void torch_used(Torch *t, TorchTensor *x)
{
    if (x && x->loose)
        torch_drop(t, x);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

size_t torch_frame(Torch *t)
{
    return t->frame_count;
}

TorchTensor *torch_name(Torch *t, TorchTensor *x)
{
    if (!x->loose) /* somebody else's name: this is a second one */
        x->refs++;
    x->loose = 0;
    t->frames = torch_grow(t, t->frames, &t->frame_capacity, t->frame_count + 1, sizeof *t->frames);
    t->frames[t->frame_count++] = x;
    return x;
}

void torch_delete(Torch *t, TorchTensor *x)
{
    size_t i = t->frame_count;
    while (i-- > 0)
        if (t->frames[i] == x) {
            t->frames[i] = NULL;
            torch_drop(t, x);
            return;
        }
}

TorchTensor *torch_rebind(Torch *t, TorchTensor *old, TorchTensor *x)
{
    torch_name(t, x);
    torch_delete(t, old);
    return x;
}

TorchTensor *torch_leave(Torch *t, size_t frame, TorchTensor *result)
{
    TorchTensor *out = result;
    if (result && !result->loose) {
        if (result->refs == 1) { /* the only name is in this frame */
            for (size_t i = t->frame_count; i-- > frame;)
                if (t->frames[i] == result)
                    t->frames[i] = NULL;
            result->loose = 1;
        } else { /* others hold it: a second header */
            out = torch_alias(t, result);
            out->node = result->node;
            out->output = result->output;
            out->needs_grad = result->needs_grad;
            if (out->node)
                out->node->refs++;
        }
    }
    while (t->frame_count > frame)
        torch_drop(t, t->frames[--t->frame_count]);
    return out;
}

TorchTensor *torch_carry(TorchTensor *x)
{
    x->refs += !x->loose;
    return x;
}

TorchTensor *torch_arrive(TorchTensor *x)
{
    if (x->refs == 1)
        x->loose = 1;
    else
        x->refs--;
    return x;
}
