/* The repeated blocks of a model: marked once, run one after the other, alone or in segments of which only
 * the first block's input is kept. */
#include <stdio.h>
#include <string.h>

#include "../base/plural_.h"
#include "module_.h"

void nn_mark_block(Module *module, Module *block)
{
    Model *model = module && block ? module_model(module) : NULL;
    if (!model)
        return;
    Module **grown = module_grow(module, model->blocks, model->block_count, sizeof *model->blocks);
    if (!grown)
        return;
    model->blocks = grown;
    model->blocks[model->block_count++] = block;
}

int nn_block_count(const Module *module)
{
    return module && module->model ? module->model->block_count : 0;
}

Module *nn_block(const Module *module, int i)
{
    return i >= 0 && i < nn_block_count(module) ? module->model->blocks[i] : NULL;
}

/* ---- Running them ---------------------------------------------------------------------------- */

/* x is the result of the block before; nobody else uses it. */
static Tensor *next_input(Module *module, Tensor *x, const Batch *batch)
{
    const Model *model = module->model;
    x = tensor_donate(x);
    return tensor_donate(model->between_blocks ? model->between_blocks(module, x, batch) : x);
}

static Tensor *run_range(Module *module, int first, int end, Tensor *x, const Batch *batch)
{
    for (int i = first; i < end && x; i++)
        x = nn_forward(module->model->blocks[i], i > first ? next_input(module, x, batch) : x, batch);
    return x;
}

static Tensor *segment_forward(void *self, Tensor *x, const Batch *batch)
{
    const Segment *segment = self;
    return run_range(segment->module, segment->first, segment->end, x, batch);
}

static Segment *segment_find(const Model *model, int first, int end)
{
    Segment *segment = model->segments;
    while (segment && (segment->first != first || segment->end != end))
        segment = segment->next;
    return segment;
}

/* Where the segment that begins at block i ends; i where none begins. One that two stages share is two. */
static int segment_end(const Model *model, const char *pattern, int i)
{
    int end = i;
    if (pattern[i] == 'c' || (pattern[i] == '+' && i == model_first_block(model)))
        do
            end++;
        while (pattern[end] == '+' && end < model_end_block(model));
    return end;
}

/* Messages name the segment's first block, as where that block alone is checkpointed. */
static Tensor *run_segment(const Module *module, int first, int end, Tensor *x, const Batch *batch)
{
    const Model *model = module->model;
    MemTracker *tracker = module->item.context->tracker;
    int path = memtrack_path_set(tracker, model->blocks[first]->path);
    Tensor *y = tensor_checkpoint(segment_forward, segment_find(model, first, end), x, batch);
    memtrack_path_set(tracker, path);
    return y;
}

Tensor *nn_run_blocks(Module *module, Tensor *x, const Batch *batch)
{
    Model *model = module ? module->model : NULL;
    if (!model)
        return module ? x : NULL;
    int first = model_first_block(model), last = model_end_block(model);
    model->blocks_ran = 1;
    if (!model->pattern || !tensor_recording())
        return run_range(module, first, last, first > 0 ? next_input(module, x, batch) : x, batch);
    int length = (int)strlen(model->pattern); /* blocks marked since keep everything */
    for (int i = first, end; i < last && x; i = end) {
        end = i < length ? segment_end(model, model->pattern, i) : i;
        x = i > 0 ? next_input(module, x, batch) : x;
        x = end > i ? run_segment(module, i, end, x, batch) : nn_forward(model->blocks[i], x, batch);
        end += end == i;
    }
    return x;
}

/* ---- Patterns -------------------------------------------------------------------------------- */

typedef struct PatternText {
    char text[16];
} PatternText;

/* A valid pattern for this many blocks, to show in messages. */
static PatternText example_of(int blocks)
{
    enum { SHOWN = 12 };
    PatternText example = {""};
    for (int i = 0; i < blocks && i < SHOWN; i++)
        example.text[i] = i % 2 ? '+' : 'c';
    if (blocks > SHOWN)
        memcpy(example.text + SHOWN, "...", 3);
    return example;
}

static int bad_pattern(const char *pattern, const char *what, int at, int blocks)
{
    return error_raise(
        ERROR_ARGUMENT,
        "nn_set_checkpoints(): \"%.100s\" %s %d; it takes one character for each of %d block%s: "
        "'.' keeps its activations, 'c' begins a segment that is recomputed, '+' continues it, as in \"%s\"",
        pattern, what, at, blocks, plural(blocks), example_of(blocks).text);
}

static int check_pattern(const Module *module, const char *pattern)
{
    int blocks = nn_block_count(module);
    size_t length = strlen(pattern), fine = strspn(pattern, ".c+");
    if (fine < length)
        return bad_pattern(pattern, "has another character at", (int)fine, blocks);
    if (length != (size_t)blocks)
        return bad_pattern(pattern, "is of length", (int)length, blocks);
    for (int i = 0; pattern[i]; i++)
        if (pattern[i] == '+' && (i == 0 || pattern[i - 1] == '.'))
            return bad_pattern(pattern, "continues no segment at", i, blocks);
    return 0;
}

/* Kept until the model goes: backward may come after the pattern has changed. */
static int segment_need(Module *module, int first, int end)
{
    Model *model = module->model;
    if (segment_find(model, first, end))
        return 0;
    Segment *segment = host_alloc(sizeof *segment);
    if (!segment)
        return error_code();
    *segment = (Segment){.next = model->segments, .module = module, .first = first, .end = end};
    model->segments = segment;
    return 0;
}

static void free_pattern(const Module *module)
{
    if (!module->model)
        return;
    module_free_text(module, module->model->pattern);
    module->model->pattern = NULL;
}

void module_free_model(Module *module)
{
    Context *context = module->item.context;
    Model *model = module->model;
    if (!model)
        return;
    nn_set_gather_blocks(module, 0);
    free_pattern(module);
    tensor_free(model->balance_stats);
    while (model->segments) {
        Segment *segment = model->segments;
        model->segments = segment->next;
        host_free(context, segment, sizeof *segment);
    }
    memtrack_host_free(context->tracker, model->blocks, (size_t)model->block_count * sizeof *model->blocks);
    host_free(context, model, sizeof *model);
}

int nn_set_checkpoints(Module *module, const char *pattern)
{
    if (!module)
        return error_code();
    if (!pattern || !pattern[strspn(pattern, ".")]) {
        if (pattern && check_pattern(module, pattern))
            return error_code();
        free_pattern(module);
        return 0;
    }
    if (check_pattern(module, pattern))
        return error_code();
    for (int i = model_first_block(module->model), end; i < model_end_block(module->model);
         i = end + (end == i)) {
        end = segment_end(module->model, pattern, i);
        if (end > i && segment_need(module, i, end))
            return error_code();
    }
    char *copy = module_copy_text(module, pattern);
    if (!copy)
        return error_code();
    free_pattern(module);
    module->model->pattern = copy;
    return 0;
}

int nn_set_checkpoint_every(Module *module, int n)
{
    if (!module)
        return error_code();
    if (n < 1)
        return error_raise(ERROR_ARGUMENT,
                           "nn_set_checkpoint_every(): segments of %d blocks; 1 or more, and "
                           "nn_set_checkpoints(model, NULL) turns checkpointing off",
                           n);
    int blocks = nn_block_count(module);
    size_t bytes = (size_t)blocks + 1;
    char *pattern = host_alloc(bytes);
    if (!pattern)
        return error_code();
    for (int i = 0; i < blocks; i++)
        pattern[i] = i % n ? '+' : 'c';
    int failed = nn_set_checkpoints(module, pattern);
    host_free(module->item.context, pattern, bytes);
    return failed;
}

const char *nn_checkpoints(const Module *module)
{
    return module && module->model ? module->model->pattern : NULL;
}
