/* Low-rank adapters: which layers have one, what it computes, and how it goes into the weight. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/ends_.h"
#include "../kernels/kernels.h"
#include "../tensor/ranks_.h"
#include "module_.h"

/* ---- What an adapter computes ---------------------------------------------------------------- */

Tensor *module_adapt(const Module *module, const Adapter *adapter, Tensor *y, Tensor *x)
{
    if (!adapter->a)
        return y;
    float p = nn_is_training(module) ? adapter->settings.dropout : 0;
    Tensor *u = module_as_embedding(module) ? tensor_embedding(x, adapter->a) /* (…,rank) */
                                            : tensor_lora_down(x, adapter->a, p);
    return tensor_linear_onto(tensor_donate(y), tensor_donate(u), adapter->b, adapter->scale);
}

/* ---- Layers ---------------------------------------------------------------------------------- */

static Adapter *adapter_of(const Module *module)
{
    Linear *linear = module_as_linear(module);
    Embedding *embedding = module_as_embedding(module);
    return linear ? &linear->adapter : embedding ? &embedding->adapter : NULL;
}

/* A linear layer below has this weight, which is not its own. */
static int is_tied(const Module *module, const Tensor *weight)
{
    const Linear *linear = module_as_linear(module);
    int found = linear && linear->tied && linear->weight == weight;
    for (int i = 0; i < module->child_count && !found; i++)
        found = is_tied(module->children[i], weight);
    return found;
}

typedef int (*Visit)(void *user, Module *module, const LoraLayer *layer);

typedef struct Walk {
    const Module *root;
    Visit visit;
    void *user;
} Walk;

/* Returns 0 for a module that can have no adapter. */
static int describe(const Walk *walk, const Module *module, const char *path, LoraLayer *layer)
{
    const Linear *linear = module_as_linear(module);
    const Embedding *embedding = module_as_embedding(module);
    if (linear ? linear->router : !embedding || embedding->parts)
        return 0;
    const Adapter *adapter = adapter_of(module);
    Tensor *weight = linear ? linear->weight : embedding->weight;
    Shape whole = tensor_whole_shape_(weight);
    int first_is_out = linear && !weight->in_out && !weight->transposed;
    *layer = (LoraLayer){.path = path,
                         .in = whole.dim[first_is_out],
                         .out = whole.dim[!first_is_out],
                         .embedding = embedding != NULL,
                         .head = linear && (linear->head || module->stays),
                         .tied = is_tied(walk->root, weight),
                         .weight = weight,
                         .a = adapter->a,
                         .b = adapter->b,
                         .scale = adapter->scale,
                         .lora = adapter->settings};
    return 1;
}

static int walk_below(const Walk *walk, Module *module, const char *path)
{
    LoraLayer layer;
    int stop = describe(walk, module, path, &layer) ? walk->visit(walk->user, module, &layer) : 0;
    for (int i = 0; i < module->child_count && !stop; i++)
        stop = walk_below(walk, module->children[i], module_join(path, module->children[i]->name).text);
    return stop;
}

static int walk_layers(Module *model, Visit visit, void *user)
{
    return model ? walk_below(&(Walk){model, visit, user}, model, "") : 0;
}

typedef struct Shown {
    LoraVisit visit;
    void *user;
} Shown;

static int show(void *user, Module *module, const LoraLayer *layer)
{
    const Shown *shown = user;
    (void)module;
    return shown->visit(shown->user, layer);
}

int nn_lora_layers(Module *model, LoraVisit visit, void *user)
{
    return walk_layers(model, show, &(Shown){visit, user});
}

static int count_adapter(void *user, Module *module, const LoraLayer *layer)
{
    (void)module;
    *(int *)user += layer->a != NULL;
    return 0;
}

int nn_lora_count(Module *model)
{
    int count = 0;
    walk_layers(model, count_adapter, &count);
    return count;
}

/* ---- Adding ---------------------------------------------------------------------------------- */

static int settings_valid(Lora *lora, const LoraLayer *layer)
{
    enum { USUAL_RANK = 8, USUAL_ALPHA = 8 }; /* PEFT's */
    lora->targets = NULL;
    lora->rank = lora->rank ? lora->rank : USUAL_RANK;
    lora->alpha = lora->alpha != 0 ? lora->alpha : USUAL_ALPHA;
    if (config_positive("nn_add_lora()", "rank", lora->rank))
        return 0;
    if (!isfinite(lora->alpha))
        error_raise(ERROR_ARGUMENT, "nn_add_lora(): alpha must be a finite number, not %g",
                    (double)lora->alpha);
    else if (!(lora->dropout >= 0 && lora->dropout < 1))
        error_raise(ERROR_ARGUMENT, "nn_add_lora(): dropout must be in [0,1), not %g", (double)lora->dropout);
    else if (layer->a)
        error_raise(ERROR_ARGUMENT, "nn_add_lora(): '%s' has an adapter already", layer->path);
    return error_code() == ERROR_NONE;
}

/* Numbers of a mask are drawn four at a time. */
static int refuse_dropout(const Module *module, const LoraLayer *layer, const Lora *lora)
{
    const Linear *linear = module_as_linear(module);
    if (!linear || linear->split != LINEAR_BY_INPUTS || !(lora->dropout > 0))
        return 0;
    int64_t ranks = context_tensor_ranks_(module->item.context), inputs = layer->in / ranks;
    if (inputs % 4 == 0)
        return 0;
    return error_raise(
        ERROR_RANKS,
        "nn_add_lora(): the adapter of '%s' has dropout, and each of %lld ranks that compute the "
        "layer together has %lld of its inputs: dropout needs a multiple of 4; make it 0",
        layer->path, (long long)ranks, (long long)inputs);
}

typedef struct Adding {
    LoraChoose choose;
    void *user;
    int chosen;
} Adding;

/* Returns 1 with the settings of a layer that is chosen, 0 for another, -1 after an error. */
static int chosen(Adding *adding, const LoraLayer *layer, Lora *lora)
{
    int answer = adding->choose(adding->user, layer, lora);
    if (answer < 0 || error_code())
        return -1;
    return !answer ? 0 : settings_valid(lora, layer) ? 1 : -1;
}

static int check_layer(void *user, Module *module, const LoraLayer *layer)
{
    Adding *adding = user;
    Lora lora = {0};
    int answer = chosen(adding, layer, &lora);
    adding->chosen += answer > 0;
    return answer < 0 || (answer > 0 && refuse_dropout(module, layer, &lora));
}

static void make_embedding(Module *module, const LoraLayer *layer, Adapter *adapter)
{
    int64_t rank = adapter->settings.rank;
    adapter->a = module_adopt(module, "lora_embedding_A", tensor_parameter(SHAPE(layer->in, rank)));
    adapter->b = module_adopt(module, "lora_embedding_B", tensor_parameter(SHAPE(layer->out, rank)));
    tensor_fill(adapter->a, 0);
    tensor_fill_normal(adapter->b, 0, 1);
}

/* Ranks that have some of the outputs have those rows of B, and those that have some of the inputs these
 * columns of A. The other matrix is whole, and each rank finds a part of its gradient. */
static void make_matrices(Module *module, const Linear *linear, const LoraLayer *layer, Adapter *adapter)
{
    int64_t rank = adapter->settings.rank, ranks = context_tensor_ranks_(module->item.context);
    int outputs = linear->split == LINEAR_BY_OUTPUTS, inputs = linear->split == LINEAR_BY_INPUTS;
    int64_t in = layer->in / (inputs ? ranks : 1), out = layer->out / (outputs ? ranks : 1);
    float bound = 1.0f / sqrtf((float)layer->in);
    adapter->a = module_adopt(module, "lora_A.weight", tensor_parameter(SHAPE(rank, in)));
    adapter->b = module_adopt(module, "lora_B.weight", tensor_parameter(SHAPE(out, rank)));
    if (!adapter->a || !adapter->b)
        return;
    if (inputs)
        tensor_split_(adapter->a, 1, 1);
    if (outputs)
        tensor_split_(adapter->b, 0, linear->packed);
    adapter->a->partial = (unsigned char)outputs;
    adapter->b->partial = (unsigned char)inputs;
    tensor_fill_uniform(adapter->a, -bound, bound);
    tensor_fill(adapter->b, 0);
}

static void remove_adapter(Module *module)
{
    Adapter *adapter = adapter_of(module);
    module_drop(module, adapter->b);
    module_drop(module, adapter->a);
    *adapter = (Adapter){0};
}

static int add_adapter(void *user, Module *module, const LoraLayer *layer)
{
    Lora lora = {0};
    int answer = chosen(user, layer, &lora);
    if (answer <= 0)
        return answer < 0;
    Adapter *adapter = adapter_of(module);
    MemTracker *tracker = module->item.context->tracker;
    adapter->settings = lora;
    adapter->scale = lora.alpha / (lora.rslora ? sqrtf((float)lora.rank) : (float)lora.rank);
    int path = memtrack_path_set(tracker, module->path);
    module->item.context->absent = module->absent;
    if (layer->embedding)
        make_embedding(module, layer, adapter);
    else
        make_matrices(module, module_as_linear(module), layer, adapter);
    module_of_all();
    memtrack_path_set(tracker, path);
    if (error_code())
        remove_adapter(module); /* there is no half one */
    return error_code() != 0;
}

/* All but the adapters that are there, and what stays trained beside them. */
static void freeze(Module *module)
{
    const Adapter *adapter = adapter_of(module);
    for (int i = 0; i < module->parameter_count; i++) {
        Tensor *tensor = module->parameters[i].tensor;
        int adapts = adapter && (tensor == adapter->a || tensor == adapter->b);
        if (!adapts && tensor_requires_grad(tensor) != module->stays)
            tensor_set_requires_grad(tensor, module->stays);
    }
    for (int i = 0; i < module->child_count; i++)
        freeze(module->children[i]);
}

int nn_add_lora_by(Module *model, LoraChoose choose, void *user)
{
    Adding adding = {choose, user, 0};
    if (!model || !context_here() || error_code() || config_no_rows("nn_add_lora()", "adapters are") ||
        walk_layers(model, check_layer, &adding))
        return -1;
    if (adding.chosen == 0) {
        error_raise(ERROR_ARGUMENT, "nn_add_lora(): no layer of this %s was chosen", model->type->name);
        return -1;
    }
    freeze(model);
    return walk_layers(model, add_adapter, &adding) || error_code() ? -1 : nn_lora_count(model);
}

/* ---- By name --------------------------------------------------------------------------------- */

static int is_all(const Lora *lora)
{
    return !lora->targets || !strcmp(lora->targets, "all");
}

static int choose_by_name(void *user, const LoraLayer *layer, Lora *lora)
{
    *lora = *(const Lora *)user;
    if (is_all(lora))
        return !layer->embedding && !layer->head;
    const char *list = lora->targets, *name;
    for (size_t length; (name = module_next_name(&list, &length));)
        if (path_is_named(layer->path, name, length))
            return 1;
    return 0;
}

typedef struct Sought {
    const char *name;
    size_t length;
} Sought;

static int is_sought(void *user, const LoraLayer *layer)
{
    const Sought *sought = user;
    return path_is_named(layer->path, sought->name, sought->length);
}

typedef struct NameList {
    char text[256];
} NameList;

/* Adds the last part of the path, once. Non-zero when there is no room. */
static int list_name(void *user, const LoraLayer *layer)
{
    NameList *list = user;
    const char *dot = strrchr(layer->path, '.'), *name = dot ? dot + 1 : layer->path;
    size_t length = strlen(name), used = strlen(list->text);
    for (const char *at = list->text; (at = strstr(at, name)); at += length)
        if ((at == list->text || at[-1] == ' ') && (at[length] == ',' || !at[length]))
            return 0;
    int full = used + length + sizeof ", , ..." > sizeof list->text;
    sprintf(list->text + used, "%s%s", used ? ", " : "", full ? "..." : name);
    return full;
}

/* Some parameters are those that some tokens pass by. */
static int has_experts(Module *model)
{
    return nn_active_count(model) < nn_parameter_count(model);
}

static int check_names(Module *model, const Lora *lora)
{
    NameList there = {""};
    const char *list = lora->targets;
    Sought sought;
    while ((sought.name = module_next_name(&list, &sought.length))) {
        if (nn_lora_layers(model, is_sought, &sought))
            continue;
        nn_lora_layers(model, list_name, &there);
        return error_raise(ERROR_ARGUMENT,
                           "nn_add_lora(): this %s has no layer '%.*s'%s; those that can have an adapter are "
                           "named %s",
                           model->type->name, (int)(sought.length < 80 ? sought.length : 80), sought.name,
                           has_experts(model) ? " (experts and their router take no adapters)" : "",
                           there.text);
    }
    return 0;
}

int nn_add_lora(Module *model, const Lora *lora)
{
    Lora usual = {0}, wanted = lora ? *lora : usual;
    if (!model || error_code() || (!is_all(&wanted) && check_names(model, &wanted)))
        return -1;
    return nn_add_lora_by(model, choose_by_name, &wanted);
}

/* ---- What is trained ------------------------------------------------------------------------- */

TensorList nn_lora_parameters(Module *model)
{
    TensorList all = nn_parameters(model);
    int count = 0;
    for (int i = 0; i < all.count; i++)
        count += tensor_requires_grad(all.items[i]);
    if (!count)
        return (TensorList){0};
    Tensor **trained = host_alloc((size_t)count * sizeof *trained);
    if (!trained)
        return (TensorList){0};
    host_free(model->item.context, model->trained, (size_t)model->trained_count * sizeof *trained);
    model->trained = trained;
    model->trained_count = count;
    for (int i = 0, k = 0; i < all.count; i++)
        if (tensor_requires_grad(all.items[i]))
            trained[k++] = all.items[i];
    return (TensorList){trained, count};
}

/* ---- Merging --------------------------------------------------------------------------------- */

static int check_merge(void *user, Module *module, const LoraLayer *layer)
{
    (void)user;
    (void)module;
    if (!layer->a || !layer->tied)
        return 0;
    return error_raise(
        ERROR_STATE,
        "nn_merge(): the weight of '%s' is the embedding's and the head's at once: merged into "
        "one, its adapter would change the other too; keep the adapter beside it",
        layer->path);
}

typedef struct Merging {
    const LoraLayer *layer;
    const Context *context;
    int in_out;      /* the weight is (in,out), as an embedding's (vocab,dim) is */
    int in_place;    /* the weight is f32 and stays so: it is added to where it lies */
    Tensor old;      /* its header before */
    float *a, *b;    /* where the host sees them */
    int64_t in, out; /* of what this rank has */
    RowsPart part;   /* which rows of the whole the weight has */
} Merging;

/* values += scale times columns [col, col + cols) of rows [row, row + rows) of B A, or of its transpose. */
static void add_part(const Merging *m, int64_t row, int64_t rows, int64_t col, int64_t cols, float *values)
{
    const LoraLayer *layer = m->layer;
    const Kernels *k = m->context->host_kernels;
    const KernelRun *run = &m->context->host_run;
    int64_t in = m->in, rank = layer->lora.rank;
    const float *a = m->a, *b = m->b;
    if (!m->in_out) /* B (out,rank) A (rank,in) */
        k->gemm(0, 0, rows, cols, rank, layer->scale, b + row * rank, rank, a + col, in, 1, values, cols,
                run);
    else if (layer->embedding) /* A (vocab,rank) B^T */
        k->gemm(0, 1, rows, cols, rank, layer->scale, a + row * rank, rank, b + col * rank, rank, 1, values,
                cols, run);
    else /* A^T B^T */
        k->gemm(1, 1, rows, cols, rank, layer->scale, a + row, in, b + col * rank, rank, 1, values, cols,
                run);
}

/* Elements [first, first + count) of the merged weight. The first row may be cut off, and the last. */
static int merged_values(void *user, int64_t first, int64_t count, float *values)
{
    Merging *m = user;
    int64_t width = m->in_out ? m->out : m->in;
    if (!m->in_place)
        tensor_decode_(&m->old, first, count, values);
    for (int64_t done = 0, n; done < count; done += n) {
        int64_t row = (first + done) / width, col = (first + done) % width, left = count - done;
        int64_t rows = col || left < width ? 1 : left / width;
        int64_t cols = rows > 1 || left >= width - col ? width - col : left;
        n = rows * cols;
        int64_t here = m->part.count - row; /* what comes behind is padding */
        if (here > 0)
            add_part(m, m->part.first + row, rows < here ? rows : here, col, cols, values + done);
    }
    return 0;
}

/* An adapter's matrix where the host sees it: its data, or a copy of a card's. NULL on meta, or with an
 * error.
 */
static float *matrix_on_host(Tensor *matrix)
{
    Context *context = matrix->item.context;
    float *data = tensor_typed_data(matrix, DTYPE_F32, "nn_merge");
    size_t bytes = (size_t)tensor_numel(matrix) * sizeof *data;
    if (!context->card || !data)
        return data;
    float *copy = host_alloc_for("nn_merge", "an adapter", bytes);
    if (copy)
        tensor_read(matrix, 0, (int64_t)bytes, copy);
    return copy;
}

static void matrix_release(const Tensor *matrix, float *on_host)
{
    if (matrix->item.context->card)
        host_free(matrix->item.context, on_host, (size_t)tensor_numel(matrix) * sizeof *on_host);
}

static int merge(void *user, Module *module, const LoraLayer *layer)
{
    DType dtype = *(const DType *)user;
    if (!layer->a)
        return 0;
    if (layer->weight->absent) { /* its stage does */
        remove_adapter(module);
        return 0;
    }
    const Context *context = module->item.context;
    Merging m = {.layer = layer,
                 .context = context,
                 .in_out = layer->embedding || layer->weight->in_out,
                 .in_place = !context->card && dtype == DTYPE_F32 && layer->weight->dtype == DTYPE_F32,
                 .old = *layer->weight,
                 .part = tensor_rows_part_(layer->weight),
                 .in = tensor_dim(layer->a, !layer->embedding),
                 .out = tensor_dim(layer->b, 0)};
    int failed = shard_gather(layer->a) || shard_gather(layer->b);
    m.a = failed ? NULL : matrix_on_host(layer->a);
    m.b = failed ? NULL : matrix_on_host(layer->b);
    failed = error_code();
    if (!failed)
        failed = m.old.dtype == dtype ? tensor_store_(layer->weight, merged_values, &m)
                                      : tensor_replace_(layer->weight, dtype, merged_values, &m, &m.old);
    matrix_release(layer->b, m.b);
    matrix_release(layer->a, m.a);
    shard_release(layer->b);
    shard_release(layer->a);
    if (!failed)
        remove_adapter(module);
    return failed;
}

int nn_merge(Module *model, DType dtype)
{
    int count = nn_lora_count(model);
    if (!model || error_code())
        return -1;
    if (!count)
        error_raise(ERROR_STATE, "nn_merge(): this %s has no adapter", model->type->name);
    else if (dtype_is_quantized(dtype))
        error_raise(ERROR_ARGUMENT,
                    "nn_merge(): into %s: what an adapter changes can be less than quantising again rounds "
                    "away; merge into f32, bf16 or f16, or keep the adapter beside the quantised weights",
                    dtype_name(dtype));
    else if (!dtype_is_float(dtype))
        error_raise(ERROR_ARGUMENT, "nn_merge(): weights are f32, bf16 or f16, not %s", dtype_name(dtype));
    if (error_code() || walk_layers(model, check_merge, NULL))
        return -1;
    return walk_layers(model, merge, &dtype) ? -1 : count;
}
