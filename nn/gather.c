/* Blocks gathered whole: where ranks have divided a model's parameters (ZeRO-3), those of a block are
 * gathered together before it runs and before its backward, instead of one by one by the operations that read
 * them. A block that is recomputed stays gathered for the backward that follows. */
#include <string.h>

#include "../tensor/ranks_.h"
#include "module_.h"

/* Of the model's blocks; -1 = none of them. */
static int block_index(const Model *model, const Module *module)
{
    for (int i = 0; i < model->block_count; i++)
        if (model->blocks[i] == module)
            return i;
    return -1;
}

static void release(const Module *module)
{
    for (int i = 0; i < module->parameter_count; i++)
        shard_release(module->parameters[i].tensor);
    for (int i = 0; i < module->child_count; i++)
        release(module->children[i]);
}

static void gather(const Module *module, int step)
{
    for (int i = 0; i < module->parameter_count && !error_code(); i++)
        shard_gather_step(module->parameters[i].tensor, step);
    for (int i = 0; i < module->child_count; i++)
        gather(module->children[i], step);
}

static void hold(Module *block)
{
    Context *context = block->item.context;
    int path = memtrack_path_set(context->tracker, block->path);
    const char *op = memtrack_op_set(context->tracker, "gather");
    for (int step = 0; step < SHARD_STEPS; step++) {
        tensor_gathers_begin_(context);
        gather(block, step);
        tensor_gathers_end_(context);
    }
    memtrack_op_set(context->tracker, op);
    memtrack_path_set(context->tracker, path);
    block->gathered = 1;
}

static void let_go(Module *block)
{
    release(block);
    block->gathered = 0;
}

static void before(Module *module, void *user)
{
    Module *model = user;
    if (!module->gathered && block_index(model->model, module) >= 0)
        hold(module);
}

static void after_backward(Module *module, void *user)
{
    (void)user;
    if (module->gathered)
        let_go(module);
}

/* Backward of the last block of a segment comes next when it has been recomputed. */
static void after_forward(Module *module, void *user)
{
    const Model *model = ((Module *)user)->model;
    int i = module->gathered ? block_index(model, module) : -1;
    if (i < 0)
        return;
    int ends = !model->pattern || (int)strlen(model->pattern) <= i + 1 || model->pattern[i + 1] != '+';
    if (!ends || memtrack_phase(module->item.context->tracker) != MEM_PHASE_RECOMPUTE)
        let_go(module);
}

int nn_set_gather_blocks(Module *module, int blocks)
{
    Model *model = module ? module_model(module) : NULL;
    if (!model)
        return error_code();
    if (model->gathers)
        nn_hook_remove(&model->gather);
    model->gather = (ModuleHook){.before_forward = before,
                                 .after_forward = after_forward,
                                 .before_backward = before,
                                 .after_backward = after_backward,
                                 .user = module};
    model->gathers = blocks != 0 && tensor_is_divided_(module->item.context);
    if (model->gathers)
        nn_hook_add(&model->gather);
    return error_code();
}
