/* What every module has: parameters, children, names, and the forward that opens a scope and charges its
 * module path. */
#include <stdio.h>
#include <string.h>

#include "module_.h"

static void *grow(Context *context, void *old, int count, size_t size)
{
    void *block =
        memtrack_host_realloc(context->tracker, old, (size_t)count * size, (size_t)(count + 1) * size);
    if (!block)
        error_raise(ERROR_HOST_MEMORY, "out of host memory for a module");
    return block;
}

static void free_text(const Context *context, char *text)
{
    if (text)
        memtrack_host_free(context->tracker, text, strlen(text) + 1);
}

static char *copy_text(const Context *context, const char *text)
{
    char *copy = memtrack_host_strdup(context->tracker, text);
    if (!copy)
        error_raise(ERROR_HOST_MEMORY, "out of host memory for a name");
    return copy;
}

static void list_forget(Module *module)
{
    Context *context = module->item.context;
    for (int i = 0; i < module->list_count; i++) {
        if (module->list[i]->name == module->full_names[i])
            module->list[i]->name = NULL;
        free_text(context, module->full_names[i]);
    }
    memtrack_host_free(context->tracker, module->list, (size_t)module->list_count * sizeof *module->list);
    memtrack_host_free(context->tracker, module->full_names,
                       (size_t)module->list_count * sizeof *module->full_names);
    module->list = NULL;
    module->full_names = NULL;
    module->list_count = 0;
}

static void module_destroy_item(ScopeItem *item)
{
    Module *module = (Module *)item;
    Context *context = item->context;
    MemTracker *tracker = context->tracker;
    tape_forget(context->tape, module);
    list_forget(module);
    for (int i = module->child_count - 1; i >= 0; i--)
        module_destroy_item(&module->children[i]->item);
    for (int i = module->parameter_count - 1; i >= 0; i--) {
        tensor_free(module->parameters[i].tensor);
        free_text(context, module->parameters[i].name);
    }
    memtrack_host_free(tracker, module->children, (size_t)module->child_count * sizeof *module->children);
    memtrack_host_free(tracker, module->parameters,
                       (size_t)module->parameter_room * sizeof *module->parameters);
    memtrack_host_free(tracker, module->trained, (size_t)module->trained_count * sizeof *module->trained);
    module_free_model(module);
    memtrack_host_free(tracker, module->state, module->type->state);
    free_text(context, module->name);
    memtrack_host_free(tracker, module, sizeof *module);
}

void module_free(Module *module)
{
    if (!module)
        return;
    scope_release(&module->item);
    module_destroy_item(&module->item);
}

Module *nn_module(const ModuleClass *type)
{
    Context *context = context_here();
    if (!context || context->error)
        return NULL;
    Module *module = host_alloc(sizeof *module);
    if (!module)
        return NULL;
    module->type = type;
    module->training = 1;
    module->path = memtrack_path(context->tracker);
    module->absent = context->absent;
    if (type->state && !(module->state = host_alloc(type->state))) {
        host_free(context, module, sizeof *module);
        return NULL;
    }
    scope_adopt(&module->item, module_destroy_item);
    return module;
}

void *nn_state(Module *module)
{
    return module ? module->state : NULL;
}

const char *nn_class_name(const Module *module)
{
    return module ? module->type->name : "";
}

Tensor *module_adopt(Module *module, const char *name, Tensor *tensor)
{
    if (!module || !tensor)
        return NULL;
    Context *context = module->item.context;
    char *copy = copy_text(context, name);
    int room = module->parameter_room;
    NamedParameter *all = module->parameters;
    if (copy && module->parameter_count == room)
        all = grow(context, module->parameters, room, sizeof *module->parameters);
    if (!copy || !all) {
        free_text(context, copy);
        tensor_free(tensor);
        return NULL;
    }
    module->parameters = all;
    module->parameter_room += module->parameter_count == room;
    module->parameters[module->parameter_count++] = (NamedParameter){copy, tensor};
    return tensor;
}

Tensor *module_add_parameter(Module *module, const char *name, Shape shape, DType dtype)
{
    return module_adopt(module, name, tensor_parameter_(dtype, shape, module->item.context->weights.frozen));
}

Tensor *nn_add_parameter(Module *module, const char *name, Shape shape)
{
    return module ? module_add_parameter(module, name, shape, module_parameter_type(module->item.context))
                  : NULL;
}

void module_drop(Module *module, Tensor *tensor)
{
    for (Module *above = module; above; above = above->parent)
        list_forget(above);
    for (int i = 0; i < module->parameter_count; i++) {
        if (module->parameters[i].tensor != tensor)
            continue;
        free_text(module->item.context, module->parameters[i].name);
        module->parameter_count--;
        memmove(module->parameters + i, module->parameters + i + 1,
                (size_t)(module->parameter_count - i) * sizeof *module->parameters);
        tensor_free(tensor);
        return;
    }
}

typedef struct ChildName {
    char text[16];
} ChildName;

static ChildName numbered(const Module *parent)
{
    ChildName name;
    snprintf(name.text, sizeof name.text, "%d", parent->child_count);
    return name;
}

void nn_enter(Module *parent, const char *name)
{
    Context *context = context_here();
    if (!parent || !context)
        return;
    ChildName number = numbered(parent);
    name = name ? name : number.text;
    parent->path_outside = memtrack_path_set(context->tracker, parent->path);
    if (memtrack_path_push(context->tracker, name) < 0)
        error_raise(ERROR_HOST_MEMORY, "out of host memory for the module path '%s'", name);
}

Module *nn_leave(Module *parent, const char *name, Module *child)
{
    Context *context = context_here();
    if (!parent || !context)
        return NULL;
    /* Only a failed push leaves the parent's path current; its error is pending then. */
    if (memtrack_path(context->tracker) != parent->path)
        memtrack_path_pop(context->tracker);
    memtrack_path_set(context->tracker, parent->path_outside);
    if (!child || context->error)
        return NULL;
    if (child->name || child == parent) {
        error_raise(ERROR_ARGUMENT, "nn_add(): this %s is part of another module; a module has one parent",
                    child->type->name);
        return NULL;
    }
    ChildName number = numbered(parent);
    char *copy = copy_text(context, name ? name : number.text);
    Module **grown =
        copy ? grow(context, parent->children, parent->child_count, sizeof *parent->children) : NULL;
    if (!grown) {
        free_text(context, copy);
        return NULL;
    }
    scope_release(&child->item);
    child->name = copy;
    child->parent = parent;
    parent->children = grown;
    parent->children[parent->child_count++] = child;
    return child;
}

/* ---- Running --------------------------------------------------------------------------------- */

/* Runs one of the module's forwards under the module's own flag of what to keep. A checkpoint runs this
 * again. */
Tensor *module_run(CheckpointForward forward, Module *module, Tensor *x, const Batch *batch)
{
    Context *context = module->item.context;
    Model *model = module->model;
    int outside = context->selective;
    context->selective = module->selective;
    if (model)
        model->blocks_ran = 0;
    int64_t mark = module_hooks_begin(module);
    Tensor *y = forward(module, x, batch);
    module_hooks_end(module, mark);
    context->selective = outside;
    if (model && model->pattern && !model->blocks_ran)
        error_raise(ERROR_STATE, "nn_set_checkpoints(): the forward of this %s does not call nn_run_blocks",
                    module->type->name);
    return y;
}

static Tensor *own_forward(void *self, Tensor *x, const Batch *batch)
{
    return ((Module *)self)->type->forward(self, x, batch);
}

static Tensor *run_own(void *self, Tensor *x, const Batch *batch)
{
    return module_run(own_forward, self, x, batch);
}

Tensor *module_forward_by(CheckpointForward run, Module *module, Tensor *x, const Batch *batch)
{
    Context *context = module->item.context;
    MemTracker *tracker = context->tracker;
    int path = memtrack_path_set(tracker, module->path);
    const char *kind = context->module_kind;
    context->module_kind = module->type->name;
    if (!module->name && batch)
        tensor_random_begin(batch->step, batch->first_sample);
    if (!module->name && batch && module->model)
        context->random.layer = module->model->first_random;
    Tensor *y;
    if (module->checkpoint) {
        y = tensor_checkpoint(run, module, x, batch);
    } else {
        int donated = x && x->donated;
        if (x)
            x->donated = 0; /* the module may read it more than once; it goes when the module is done */
        int scope = tensor_scope_begin();
        y = tensor_promote(run(module, x, batch));
        tensor_scope_end(scope);
        if (donated && y != x)
            tensor_drop_data(x, DATA_DONATED);
    }
    context->module_kind = kind;
    memtrack_path_set(tracker, path);
    return y;
}

Tensor *nn_forward(Module *module, Tensor *x, const Batch *batch)
{
    Context *context = context_here();
    if (!module || !context || context->error)
        return NULL;
    if (!module->type->forward) {
        error_raise(ERROR_STATE, "nn_forward(): a %s only holds parameters; its parent runs it",
                    module->type->name);
        return NULL;
    }
    return module_forward_by(run_own, module, x, batch);
}

/* ---- Modes ------------------------------------------------------------------------------------ */

static void set_training(Module *module, int training)
{
    if (!module)
        return;
    module->training = training;
    for (int i = 0; i < module->child_count; i++)
        set_training(module->children[i], training);
}

void nn_train(Module *module)
{
    set_training(module, 1);
}

void nn_eval(Module *module)
{
    set_training(module, 0);
}

int nn_is_training(const Module *module)
{
    return module && module->training && !module->generating;
}

void module_write(Module *module, int by)
{
    module->generating += by;
    for (int i = 0; i < module->child_count; i++)
        module_write(module->children[i], by);
}

void nn_set_checkpoint(Module *module, int on)
{
    if (module)
        module->checkpoint = on != 0;
}

void nn_set_selective(Module *module, int on)
{
    if (!module)
        return;
    module->selective = on != 0;
    for (int i = 0; i < module->child_count; i++)
        nn_set_selective(module->children[i], on);
}

/* ---- Parameters by name ---------------------------------------------------------------------- */

static int count_parameters(const Module *module)
{
    int count = module->parameter_count;
    for (int i = 0; i < module->child_count; i++)
        count += count_parameters(module->children[i]);
    return count;
}

ModulePath module_join(const char *prefix, const char *name)
{
    ModulePath path;
    snprintf(path.text, sizeof path.text, "%s%s%s", prefix, prefix[0] ? "." : "", name);
    return path;
}

static void list_walk(Module *root, const Module *module, const char *prefix)
{
    for (int i = 0; i < module->parameter_count; i++) {
        int k = root->list_count;
        char *name = copy_text(root->item.context, module_join(prefix, module->parameters[i].name).text);
        if (!name)
            return;
        root->list[k] = module->parameters[i].tensor;
        root->full_names[k] = name;
        root->list_count++;
    }
    for (int i = 0; i < module->child_count; i++)
        list_walk(root, module->children[i], module_join(prefix, module->children[i]->name).text);
}

/* The list is rebuilt when parameters were added since. Tensors carry the names of the list that was asked
 * for last. */
TensorList nn_parameters(Module *module)
{
    if (!module)
        return (TensorList){0};
    Context *context = module->item.context;
    int count = count_parameters(module);
    if (count != module->list_count) {
        list_forget(module);
        Tensor **list = host_alloc((size_t)count * sizeof *list);
        char **names = host_alloc((size_t)count * sizeof *names);
        if (list && names) {
            module->list = list;
            module->full_names = names;
            list_walk(module, module, "");
        }
        if (module->list_count != count) { /* out of memory, which is raised */
            int made = module->list_count;
            for (int i = 0; i < made; i++) {
                tensor_set_name(list[i], NULL);
                free_text(context, names[i]);
            }
            memtrack_host_free(context->tracker, list, (size_t)count * sizeof *list);
            memtrack_host_free(context->tracker, names, (size_t)count * sizeof *names);
            module->list = NULL;
            module->full_names = NULL;
            module->list_count = 0;
        }
    }
    for (int i = 0; i < module->list_count; i++)
        tensor_set_name(module->list[i], module->full_names[i]);
    return (TensorList){module->list, module->list_count};
}

Tensor *nn_parameter(Module *module, const char *name)
{
    TensorList list = nn_parameters(module);
    for (int i = 0; i < list.count; i++)
        if (!strcmp(tensor_name(list.items[i]), name))
            return list.items[i];
    return NULL;
}

int64_t nn_parameter_count(Module *module)
{
    TensorList list = nn_parameters(module);
    int64_t count = 0;
    for (int i = 0; i < list.count; i++)
        count += tensor_whole_numel_(list.items[i]);
    return count;
}

int64_t nn_active_count(Module *module)
{
    int64_t count = 0;
    for (int i = 0; module && i < module->parameter_count; i++)
        count += module_active_share(module, tensor_whole_numel_(module->parameters[i].tensor));
    for (int i = 0; module && i < module->child_count; i++)
        count += nn_active_count(module->children[i]);
    return count;
}

/* ---- Helpers of nn's own files --------------------------------------------------------------- */

void *module_grow(const Module *module, void *old, int count, size_t size)
{
    return grow(module->item.context, old, count, size);
}

char *module_copy_text(const Module *module, const char *text)
{
    return copy_text(module->item.context, text);
}

void module_free_text(const Module *module, char *text)
{
    free_text(module->item.context, text);
}

Tensor *module_own(const Module *module, const char *name)
{
    for (int i = 0; module && i < module->parameter_count; i++)
        if (!strcmp(module->parameters[i].name, name))
            return module->parameters[i].tensor;
    return NULL;
}

void module_draw_later(const Module *model, int later)
{
    model->item.context->draw_later = later;
}

void module_init_normal(Module *module, float std)
{
    if (!module)
        return;
    for (int i = 0; i < module->parameter_count; i++) {
        const NamedParameter *p = &module->parameters[i];
        if (p->tensor->shape.ndim >= 2)
            tensor_fill_normal(p->tensor, 0, std);
        else if (!strcmp(p->name, "bias"))
            tensor_fill(p->tensor, 0);
    }
    for (int i = 0; i < module->child_count; i++)
        module_init_normal(module->children[i], std);
}
