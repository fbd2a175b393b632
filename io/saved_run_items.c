/* What the files of a saved run hold: names, types and shapes are known on meta too, and on every rank of all
 * that any of them has; the data only where they are. */
#include <stdio.h>
#include <string.h>

#include "saved_run_.h"

void saved_items_free(SavedItems *s)
{
    Context *context = context_here();
    if (s->names)
        host_free(context, s->names, s->name_bytes);
    if (s->updates)
        host_free(context, s->updates, (size_t)s->parameters * sizeof *s->updates);
    if (s->items)
        host_free(context, s->items, (size_t)s->count * sizeof *s->items);
}

TensorList saved_run_parameters(Module *model)
{
    return nn_lora_count(model) ? nn_lora_parameters(model) : nn_parameters(model);
}

/* ---- Types ----------------------------------------------------------------------------------- */

SafetensorsType saved_type_of(DType type)
{
    return type == DTYPE_BF16        ? SAFETENSORS_BF16
           : type == DTYPE_F16       ? SAFETENSORS_F16
           : dtype_is_dynamic8(type) ? SAFETENSORS_U8
                                     : SAFETENSORS_F32;
}

/* Bits are kept. A weight with a master is its master, and is rounded again when it is loaded, which gives
 * the same bits. Frozen ones are floats. */
SafetensorsType saved_type(const Tensor *parameter)
{
    const Context *context = parameter->item.context;
    int master = parameter->master || tensor_part_(parameter).type == DTYPE_F32 ||
                 (parameter->absent && context->precision.master);
    return master || parameter->component == MEM_FROZEN ? SAFETENSORS_F32 : saved_type_of(parameter->dtype);
}

QuantLayout saved_layout_of(DType type, const Tensor *parameter)
{
    QuantLayout here = quant_layout(type, 1, tensor_part_(parameter).count);
    here.blocks = quant_layout(type, 1, tensor_whole_numel_(parameter)).blocks;
    return here;
}

/* ---- Items ----------------------------------------------------------------------------------- */

int saved_items_of_model(SavedItems *s, TensorList list)
{
    *s = (SavedItems){.parameters = list.count, .count = list.count};
    s->items = host_alloc((size_t)s->count * sizeof *s->items);
    for (int i = 0; s->items && i < list.count; i++)
        s->items[i] = safetensors_item(tensor_name(list.items[i]), saved_type(list.items[i]), list.items[i]);
    return s->items ? 0 : error_code();
}

/* Of this rank's parameters and then of other stages'. */
static const Tensor *trained_at(const Optimizer *optimizer, int i)
{
    TensorList here = optim_parameters(optimizer), absent = optim_absent(optimizer);
    return i < here.count ? here.items[i] : absent.items[i - here.count];
}

static int trained_count(const Optimizer *optimizer)
{
    return optim_parameters(optimizer).count + optim_absent(optimizer).count;
}

int saved_optimizer_count(const Optimizer *optimizer)
{
    int count = trained_count(optimizer);
    for (int i = trained_count(optimizer) - 1; i >= 0; i--)
        for (int k = 0; k < optim_state_arrays(optimizer); k++)
            count += 1 + dtype_is_dynamic8(optim_state_type(optimizer, trained_at(optimizer, i), k));
    return count;
}

static int optimizer_items_alloc(SavedItems *s, const Optimizer *optimizer)
{
    int of_each = 2 * optim_state_arrays(optimizer) + 1; /* at most */
    *s = (SavedItems){.parameters = trained_count(optimizer), .count = saved_optimizer_count(optimizer)};
    for (int i = 0; i < s->parameters; i++)
        s->name_bytes += (size_t)of_each * (strlen(tensor_name(trained_at(optimizer, i))) + SAVED_NAME_ROOM);
    s->items = host_alloc((size_t)s->count * sizeof *s->items);
    s->updates = s->items ? host_alloc((size_t)s->parameters * sizeof *s->updates) : NULL;
    s->names = s->updates ? host_alloc(s->name_bytes) : NULL;
    return s->names ? 0 : error_code();
}

/* A state, and its scales. Returns how many items these are. */
static int state_items(SafetensorsItem *item, char *name, size_t room, const Optimizer *optimizer, int i,
                       int k)
{
    const Tensor *array = optim_state(optimizer, i, k), *parameter = trained_at(optimizer, i);
    DType type = optim_state_type(optimizer, parameter, k);
    int used = snprintf(name, room, "%s.%s", tensor_name(parameter), optim_state_name(optimizer, k));
    item[0] = safetensors_item(name, saved_type_of(type), parameter);
    item[0].tensor = array;
    item[0].like = parameter;
    if (!dtype_is_dynamic8(type))
        return 1;
    QuantLayout layout = saved_layout_of(type, parameter);
    snprintf(name + room, room, "%.*s" SAVED_SCALES, used, name);
    item[1] = (SafetensorsItem){.name = name + room,
                                .type = SAFETENSORS_F32,
                                .ndim = 1,
                                .dim = {layout.blocks},
                                .tensor = array,
                                .from = layout.scales,
                                .like = parameter};
    return 2;
}

int saved_items_of_optimizer(SavedItems *s, const Optimizer *optimizer)
{
    if (optimizer_items_alloc(s, optimizer))
        return error_code();
    char *name = s->names;
    SafetensorsItem *item = s->items;
    for (int i = 0; i < s->parameters; i++) {
        const Tensor *parameter = trained_at(optimizer, i);
        size_t room = strlen(tensor_name(parameter)) + SAVED_NAME_ROOM;
        for (int k = 0; k < optim_state_arrays(optimizer); k++, name += 2 * room)
            item += state_items(item, name, room, optimizer, i, k);
        snprintf(name, room, "%s.step", tensor_name(parameter));
        s->updates[i] = optim_updates(optimizer, i);
        *item++ = (SafetensorsItem){
            .name = name, .type = SAFETENSORS_I64, .data = &s->updates[i], .like = parameter};
        name += room;
    }
    return 0;
}

static uint64_t items_bytes(const char *name, int status, SavedItems *items)
{
    uint64_t bytes = status ? 0 : safetensors_file_bytes(name, items->items, items->count);
    saved_items_free(items);
    return bytes;
}

int saved_run_bytes(Module *model, const Optimizer *optimizer, uint64_t bytes[SAVED_FILES])
{
    SavedItems items;
    int status = saved_items_of_model(&items, saved_run_parameters(model));
    bytes[0] = items_bytes(SAVED_RUN_MODEL, status, &items);
    status = saved_items_of_optimizer(&items, optimizer);
    bytes[1] = items_bytes(SAVED_RUN_OPTIMIZER, status, &items);
    return error_code();
}

/* ---- What cannot be in them ------------------------------------------------------------------- */

/* Blocks of a part that are none of the whole. */
static int cuts_blocks(const Tensor *parameter, DType type)
{
    return dtype_is_dynamic8(type) && parameter->piece % DYNAMIC8_BLOCK;
}

int saved_run_divided(Module *model, const Optimizer *optimizer, const char *function)
{
    saved_run_parameters(model);
    for (int i = 0; i < trained_count(optimizer) && !error_code(); i++)
        for (int k = 0; k < optim_state_arrays(optimizer); k++) {
            const Tensor *parameter = trained_at(optimizer, i);
            if (cuts_blocks(parameter, optim_state_type(optimizer, parameter, k)))
                return error_raise(
                    ERROR_RANKS,
                    "%s: 8-bit states are in blocks of %d elements of what a rank has of '%s', and files "
                    "hold "
                    "those of the whole: ranks that compute a layer together would have to cut its rows "
                    "in multiples of that; fp32 states (adamw) are saved, whatever is cut",
                    function, (int)DYNAMIC8_BLOCK, tensor_name(parameter));
        }
    return error_code();
}
