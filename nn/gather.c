/* Blocks gathered whole: where ranks have divided a model's parameters (ZeRO-3), those of a block are
 * gathered together before it runs and before its backward, instead of one by one by the operations that read
 * them; those of the next one begin to arrive meanwhile, where that is asked for. A block that is recomputed
 * stays gathered for the backward that follows. */
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

static void begin_step(Module *block, int step)
{
    Context *context = block->item.context;
    int path = memtrack_path_set(context->tracker, block->path);
    const char *op = memtrack_op_set(context->tracker, "gather");
    tensor_gathers_begin_(context);
    gather(block, step);
    memtrack_op_set(context->tracker, op);
    memtrack_path_set(context->tracker, path);
}

static void begin_gathering(Module *block)
{
    begin_step(block, 0);
    tensor_gathers_later_(block->item.context);
}

/* What follows what has arrived: scales behind codes. */
static void end_gathering(Module *block)
{
    for (int step = 1; step < SHARD_STEPS; step++) {
        tensor_gathers_end_(block->item.context);
        begin_step(block, step);
    }
    tensor_gathers_end_(block->item.context);
}

static void let_go(Module *block)
{
    release(block);
    block->gathered = 0;
}

/* Where a segment begins of which this block is. */
static int segment_begin(const Model *model, int i)
{
    while (i > model_first_block(model) && model->pattern[i] == '+')
        i--;
    return i;
}

/* The block that is read after this one; -1: none, or not of this kind. */
static int block_behind(const Model *model, int i, MemPhase phase)
{
    int known = model->pattern ? (int)strlen(model->pattern) : 0;
    int joined = i + 1 < known && model->pattern[i + 1] == '+'; /* the next is of the same segment */
    if (phase == MEM_PHASE_BACKWARD) {
        if (i <= model_first_block(model))
            return -1;
        return i >= known || model->pattern[i] == '+' || model->pattern[i - 1] == '.'
                   ? i - 1
                   : segment_begin(model, i - 1);
    }
    if (i + 1 >= model_end_block(model) || (phase == MEM_PHASE_RECOMPUTE && !joined))
        return -1;
    return i + 1;
}

/* Those on their way are not read after all. */
static void drop_coming(Model *model)
{
    Module *coming = model->coming;
    if (!coming)
        return;
    model->coming = NULL;
    tensor_gathers_end_(coming->item.context);
    let_go(coming);
}

/* Its weights are there, and no others are on their way. */
static void hold(Model *model, Module *block)
{
    int comes = model->coming == block;
    if (comes)
        model->coming = NULL;
    else
        drop_coming(model); /* another way was taken */
    if (!comes && !block->gathered)
        begin_gathering(block);
    if (comes || !block->gathered)
        end_gathering(block);
    block->gathered = 1;
}

static void before(Module *module, void *user)
{
    Model *model = ((Module *)user)->model;
    int i = block_index(model, module);
    if (i < 0)
        return;
    hold(model, module);
    int next = model->gathers > 1 && !error_code()
                   ? block_behind(model, i, memtrack_phase(module->item.context->tracker))
                   : -1;
    if (next < 0 || model->blocks[next]->gathered)
        return;
    model->coming = model->blocks[next];
    begin_gathering(model->coming);
}

static void after_backward(Module *module, void *user)
{
    if (module->gathered)
        let_go(module);
    if (module == user) /* the model's own is over: no block below has a gradient */
        drop_coming(((Module *)user)->model);
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
    model->gathers = blocks > 0 && tensor_is_divided_(module->item.context) ? blocks : 0;
    model->coming = NULL;
    if (model->gathers)
        nn_hook_add(&model->gather);
    return error_code();
}
