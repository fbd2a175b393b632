/* A run saved and loaded. Saving writes tensors from where they lie; loading compares everything first, then
 * reads into where they lie: neither needs tracked memory, so neither changes the plan. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "../base/quant_layout_.h"
#include "../nn/lora.h"
#include "saved_run_.h"
#include "io_.h"
#include "safetensors_.h"

enum { NAME_ROOM = 32 }; /* ".momentum_buffer.absmax" and the end */
#define SCALES ".absmax" /* of the blocks of an 8-bit state */

/* ---- Saving ---------------------------------------------------------------------------------- */

/* What a file holds, described: names, types and shapes are known on meta too, the data only in a run. */
typedef struct Items {
    SafetensorsItem *items;
    int64_t *updates;
    char *names; /* all of them, one after the other; NULL where the parameters' own serve */
    size_t name_bytes;
    int parameters, count; /* count: of items */
} Items;

static void items_free(Items *s)
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

/* As what a tensor is saved: bits are kept. A weight with a master is its master, and is rounded again when
 * it is loaded, which gives the same bits; the codes of an 8-bit state are bytes. Frozen ones are floats. */
static SafetensorsType saved_type(const Tensor *tensor)
{
    if (tensor->master || tensor->component == MEM_FROZEN || tensor_part_(tensor).type == DTYPE_F32)
        return SAFETENSORS_F32;
    return tensor->dtype == DTYPE_BF16        ? SAFETENSORS_BF16
           : tensor->dtype == DTYPE_F16       ? SAFETENSORS_F16
           : dtype_is_dynamic8(tensor->dtype) ? SAFETENSORS_U8
                                              : SAFETENSORS_F32;
}

/* Its states are those of a rank's part of it, and one array each in the files. */
static int is_divided(const Tensor *parameter)
{
    return parameter->shard != NULL;
}

/* Where the scales of an 8-bit state lie among this rank's bytes of it, and how many there are of the whole
 * parameter. */
static QuantLayout layout_of(const Tensor *array, const Tensor *parameter)
{
    QuantLayout here = quant_layout(array->dtype, 1, tensor_part_(parameter).count);
    here.blocks = quant_layout(array->dtype, 1, tensor_numel(parameter)).blocks;
    return here;
}

/* Those of model.safetensors. */
static int model_items(Items *s, TensorList list)
{
    *s = (Items){.parameters = list.count, .count = list.count};
    s->items = host_alloc((size_t)s->count * sizeof *s->items);
    for (int i = 0; s->items && i < list.count; i++)
        s->items[i] = safetensors_item(tensor_name(list.items[i]), saved_type(list.items[i]), list.items[i]);
    return s->items ? 0 : error_code();
}

/* Arrays in the file: of each parameter its states, the scales of those in 8 bit, and its updates. */
static int optimizer_item_count(const Optimizer *optimizer)
{
    int parameters = optim_parameters(optimizer).count, count = parameters;
    for (int i = 0; i < parameters; i++)
        for (int k = 0; k < optim_state_arrays(optimizer); k++)
            count += 1 + dtype_is_dynamic8(tensor_dtype(optim_state(optimizer, i, k)));
    return count;
}

static int optimizer_items_alloc(Items *s, const Optimizer *optimizer)
{
    TensorList list = optim_parameters(optimizer);
    int of_each = 2 * optim_state_arrays(optimizer) + 1; /* at most */
    *s = (Items){.parameters = list.count, .count = optimizer_item_count(optimizer)};
    for (int i = 0; i < list.count; i++)
        s->name_bytes += (size_t)of_each * (strlen(tensor_name(list.items[i])) + NAME_ROOM);
    s->items = host_alloc((size_t)s->count * sizeof *s->items);
    s->updates = s->items ? host_alloc((size_t)s->parameters * sizeof *s->updates) : NULL;
    s->names = s->updates ? host_alloc(s->name_bytes) : NULL;
    return s->names ? 0 : error_code();
}

/* A state, and its scales. Returns how many items these are. */
static int state_items(SafetensorsItem *item, char *name, size_t room, const Optimizer *optimizer, int i,
                       int k)
{
    Tensor *array = optim_state(optimizer, i, k);
    const Tensor *parameter = optim_parameters(optimizer).items[i];
    int used = snprintf(name, room, "%s.%s", tensor_name(parameter), optim_state_name(optimizer, k));
    item[0] = safetensors_item(name, saved_type(array), array);
    if (is_divided(parameter)) {
        item[0] = safetensors_item(name, saved_type(array), parameter);
        item[0].tensor = array;
        item[0].like = parameter;
    }
    if (!dtype_is_dynamic8(array->dtype))
        return 1;
    QuantLayout layout = layout_of(array, parameter);
    snprintf(name + room, room, "%.*s" SCALES, used, name);
    item[1] = (SafetensorsItem){.name = name + room,
                                .type = SAFETENSORS_F32,
                                .ndim = 1,
                                .dim = {layout.blocks},
                                .tensor = array,
                                .from = layout.scales,
                                .like = item[0].like};
    return 2;
}

/* Those of optimizer.safetensors: of each parameter its arrays, and its updates. */
static int optimizer_items(Items *s, const Optimizer *optimizer)
{
    if (optimizer_items_alloc(s, optimizer))
        return error_code();
    TensorList list = optim_parameters(optimizer);
    char *name = s->names;
    SafetensorsItem *item = s->items;
    for (int i = 0; i < list.count; i++) {
        const Tensor *parameter = list.items[i];
        size_t room = strlen(tensor_name(parameter)) + NAME_ROOM;
        for (int k = 0; k < optim_state_arrays(optimizer); k++, name += 2 * room)
            item += state_items(item, name, room, optimizer, i, k);
        snprintf(name, room, "%s.step", tensor_name(parameter));
        s->updates[i] = optim_updates(optimizer, i);
        *item++ = (SafetensorsItem){.name = name, .type = SAFETENSORS_I64, .data = &s->updates[i]};
        name += room;
    }
    return 0;
}

/* Writes a file of items, if all could make them, and frees them. What all have of it is returned; what this
 * rank has beside it is raised. */
static int save_items(const char *directory, const char *name, Items *items, SavedFile *file)
{
    char path[PATH_BYTES];
    size_t bytes = (size_t)(items->count + 1) * sizeof(FileSum);
    FileSum *sums = !error_code() && !path_join(path, directory, name) ? host_alloc(bytes) : NULL;
    int status = ranks_agreed_();
    if (!status) {
        memset(sums, 0, bytes);
        status = safetensors_write_temporary(path, items->items, items->count, sums, 0);
    }
    if (!status && ranks_first_() && file_publish(path) == 0)
        saved_file_fill(file, sums, items->count + 1);
    if (sums)
        host_free(context_here(), sums, bytes);
    items_free(items);
    return status;
}

static int save_state(const char *directory, const SavedRun *run, const SavedFile files[SAVED_FILES])
{
    char path[PATH_BYTES];
    RandomState random = context_here()->random;
    RankValue sample = {.mine =
                            random.first_sample}; /* that of the step's last micro-batch, as of one process */
    int status = ranks_agree_error_(context_here(), &sample);
    if (status)
        return status;
    random.first_sample = sample.most;
    if (ranks_first_() && path_join(path, directory, SAVED_RUN_STATE) == 0)
        saved_run_state_write(path, run, &random, files);
    return ranks_agreed_();
}

static int save_files(const char *directory, const SavedRun *run)
{
    Items items;
    SavedFile files[SAVED_FILES] = {{.parts = NULL}};
    model_items(&items, saved_run_parameters(run->model));
    int status = save_items(directory, SAVED_RUN_MODEL, &items, &files[0]);
    if (!status) {
        optimizer_items(&items, run->optimizer);
        status = save_items(directory, SAVED_RUN_OPTIMIZER, &items, &files[1]);
    }
    if (!status)
        status = save_state(directory, run, files);
    for (int i = 0; i < SAVED_FILES; i++)
        json_decref(files[i].parts);
    return status;
}

static uint64_t items_bytes(const char *name, int status, Items *items)
{
    uint64_t bytes = status ? 0 : safetensors_file_bytes(name, items->items, items->count);
    items_free(items);
    return bytes;
}

int saved_run_bytes(Module *model, const Optimizer *optimizer, uint64_t bytes[SAVED_FILES])
{
    Items items;
    int status = model_items(&items, saved_run_parameters(model));
    bytes[0] = items_bytes(SAVED_RUN_MODEL, status, &items);
    status = optimizer_items(&items, optimizer);
    bytes[1] = items_bytes(SAVED_RUN_OPTIMIZER, status, &items);
    return error_code();
}

static int run_complete(const char *who, const char *directory, const SavedRun *run)
{
    const char *missing = !directory                                                         ? "the directory"
                          : !run                                                             ? "the run"
                          : !run->model                                                      ? "the model"
                          : !run->optimizer                                                  ? "the optimizer"
                          : run->setting_count < 0 || (run->setting_count && !run->settings) ? "settings"
                          : run->input_count < 0 || (run->input_count && !run->inputs)       ? "inputs"
                                                                                             : NULL;
    if (missing && !error_code())
        error_raise(ERROR_ARGUMENT, "%s: %s is missing", who, missing);
    return !error_code();
}

int io_save_run(const char *directory, const SavedRun *run)
{
    char temporary[PATH_BYTES];
    if (!run_complete("io_save_run", directory, run))
        return error_code();
    if (run->keep < 0)
        return error_raise(ERROR_ARGUMENT, "io_save_run(): keep is %d; it must be 1 or more (0 means %d)",
                           run->keep, SAVED_RUNS_KEPT);
    for (int i = 0; i < run->setting_count; i++)
        if (!text_is_utf8(run->settings[i].name) || !text_is_utf8(run->settings[i].value))
            return error_raise(ERROR_ARGUMENT, "io_save_run(): the setting %s is not UTF-8",
                               string_text(run->settings[i].name).text);
    if (run->base && !text_is_utf8(run->base->path))
        return error_raise(ERROR_ARGUMENT, "io_save_run(): the path of the base %s is not UTF-8",
                           string_text(run->base->path).text);
    if (ranks_whole_model_(context_here(), "io_save_run()"))
        return error_code();
    saved_run_parameters(run->model); /* its list is made once, in planning too */
    if (context_here()->meta)
        return error_code();
    int64_t step = optim_steps(run->optimizer);
    int status = saved_run_begin(directory, step, temporary);
    if (status)
        return status;
    status = save_files(temporary, run);
    if (!status && ranks_first_())
        saved_run_publish(directory, step, temporary);
    if (!status)
        status = ranks_agreed_();
    if (status && ranks_first_())
        saved_run_remove(temporary);
    if (!status && ranks_first_())
        saved_run_prune(directory, step, run->keep ? run->keep : SAVED_RUNS_KEPT);
    return status;
}

/* ---- Finding --------------------------------------------------------------------------------- */

static int is_saved_run(const char *path)
{
    char state[PATH_BYTES];
    int length = snprintf(state, sizeof state, "%s/%s", path, SAVED_RUN_STATE);
    return length < (int)sizeof state && access(state, F_OK) == 0;
}

/* What rank 0 sees in a directory is what all go by. On an error the number says nothing. */
static int64_t as_first(int64_t seen)
{
    RankValue value = {.mine = seen};
    ranks_agree_error_(context_here(), &value);
    return value.first;
}

static int complete(const char *path, int64_t *step)
{
    SavedRunState state;
    if (!saved_run_state_read(path, &state))
        saved_run_check_files(path, &state, 1);
    *step = state.steps;
    saved_run_state_free(&state);
    return ranks_agreed_();
}

/* Notes why one was passed over, and forgets the error. */
static void pass_over(SavedRunFound *found)
{
    size_t used = strlen(found->note);
    snprintf(found->note + used, sizeof found->note - used, "%s%s", used ? "; " : "", error_message());
    error_clear();
}

static int find_newest(const char *directory, SavedRunFound *found)
{
    char name[SAVED_RUN_NAME], shown[FILE_LABEL];
    int64_t step;
    if (as_first(is_saved_run(directory)) && !error_code()) {
        snprintf(found->path, sizeof found->path, "%s", directory);
        return complete(directory, &found->step);
    }
    while ((found->step = as_first(saved_run_below(directory, found->step))) >= 0 && !error_code()) {
        saved_run_name(name, found->step);
        int status = path_join(found->path, directory, name);
        if (!status && !(status = complete(found->path, &step)))
            return 0;
        if (status != ERROR_DATA && status != ERROR_FILE)
            break;
        pass_over(found);
    }
    found->path[0] = '\0';
    found->step = 0;
    if (error_code() || !found->note[0])
        return error_code();
    path_label(shown, directory);
    return error_raise(ERROR_DATA, "%s has no saved run that is whole: %s", shown, found->note);
}

int io_find_saved_run(const char *directory, SavedRunFound *found)
{
    if (!directory || !found)
        return error_raise(ERROR_ARGUMENT, "io_find_saved_run(): %s is NULL",
                           directory ? "found" : "directory");
    SavedRunFound result = {.step = INT64_MAX}; /* the directory may be found->path */
    int status = error_code() ? error_code() : find_newest(directory, &result);
    *found = result;
    return status;
}

/* ---- Loading --------------------------------------------------------------------------------- */

typedef struct Loading {
    const SavedRun *run;
    char shown[FILE_LABEL]; /* the saved run */
    SavedRunState state;
    Safetensors *model, *optimizer;
} Loading;

static Safetensors *open_tensors(const char *saved, const char *name)
{
    char path[PATH_BYTES];
    return path_join(path, saved, name) ? NULL : safetensors_open(path);
}

/* The entry, if it is of this type and shape; else NULL with an error raised. */
static const SafetensorsEntry *entry_for(const Loading *l, const Safetensors *file, const char *name,
                                         SafetensorsType type, Shape shape)
{
    const SafetensorsEntry *entry = safetensors_find(file, name);
    int same = entry && entry->type == type && entry->ndim == shape.ndim;
    for (int i = 0; same && i < shape.ndim; i++)
        same = entry->dim[i] == shape.dim[i];
    if (same)
        return entry;
    if (entry)
        error_raise(ERROR_ARGUMENT, "%s is of another model: its %s is not %s %s", l->shown,
                    string_text(name).text, safetensors_type_name(type), shape_text(shape).text);
    else
        error_raise(ERROR_ARGUMENT, "%s is of another model: it has no %s", l->shown, string_text(name).text);
    return NULL;
}

/* A parameter, or a state of one, of which this rank may have a part. read 0: it is only compared. */
static int take(const Loading *l, const Safetensors *file, const char *name, Tensor *tensor, const Tensor *of,
                int read)
{
    SafetensorsType type = saved_type(tensor);
    const SafetensorsEntry *entry = entry_for(l, file, name, type, tensor_shape(of));
    if (!entry)
        return error_code();
    if (!read)
        return 0;
    TensorPart part = {.count = entry->numel};
    if (tensor != of && is_divided(of))
        part = tensor_part_(of);
    uint64_t size = entry->bytes / (uint64_t)entry->numel;
    return type == SAFETENSORS_F32 ? safetensors_read_from(file, entry, part.first, tensor)
                                   : safetensors_copy_part(file, entry, (uint64_t)part.first * size,
                                                           (uint64_t)part.count * size, tensor, 0);
}

/* The scales of an 8-bit state. */
static int take_scales(const Loading *l, const char *name, Tensor *array, const Tensor *of, int read)
{
    QuantLayout layout = layout_of(array, of);
    TensorPart part = tensor_part_(of);
    uint64_t first = (uint64_t)(part.first / DYNAMIC8_BLOCK) * sizeof(float);
    const SafetensorsEntry *entry = entry_for(l, l->optimizer, name, SAFETENSORS_F32, SHAPE(layout.blocks));
    if (!entry)
        return error_code();
    return read ? safetensors_copy_part(l->optimizer, entry, first,
                                        (uint64_t)quant_layout(array->dtype, 1, part.count).blocks *
                                            sizeof(float),
                                        array, layout.scales)
                : 0;
}

static int take_model(const Loading *l, int read)
{
    TensorList list = saved_run_parameters(l->run->model);
    if (list.count != safetensors_count(l->model))
        return error_raise(ERROR_ARGUMENT, "%s is of another model: it has %d parameters, this one %d",
                           l->shown, safetensors_count(l->model), list.count);
    for (int i = 0; i < list.count; i++) {
        Tensor *p = list.items[i];
        if (take(l, l->model, tensor_name(p), p, p, read))
            return error_code();
    }
    return error_code();
}

static int take_updates(const Loading *l, const char *name, int i, int read)
{
    const SafetensorsEntry *entry = safetensors_find(l->optimizer, name);
    int64_t updates = -1;
    if (entry && entry->type == SAFETENSORS_I64 && entry->numel == 1)
        memcpy(&updates, entry->data, sizeof updates);
    if (updates < 0 || updates > COUNT_MOST)
        return error_raise(ERROR_DATA, "%s: %s is missing or no count", l->shown, string_text(name).text);
    return read ? optim_set_updates(l->run->optimizer, i, updates) : 0;
}

static int take_parameter_state(const Loading *l, int i, int read)
{
    Optimizer *optimizer = l->run->optimizer;
    const Tensor *p = optim_parameters(optimizer).items[i];
    size_t room = strlen(tensor_name(p)) + NAME_ROOM;
    char *name = host_alloc(room);
    if (!name)
        return error_code();
    int status = 0;
    for (int k = 0; k < optim_state_arrays(optimizer) && !status; k++) {
        Tensor *array = optim_state(optimizer, i, k);
        int used = snprintf(name, room, "%s.%s", tensor_name(p), optim_state_name(optimizer, k));
        status = take(l, l->optimizer, name, array, p, read);
        snprintf(name + used, room - (size_t)used, SCALES);
        if (!status && dtype_is_dynamic8(array->dtype))
            status = take_scales(l, name, array, p, read);
    }
    snprintf(name, room, "%s.step", tensor_name(p));
    status = status ? status : take_updates(l, name, i, read);
    host_free(context_here(), name, room);
    return status;
}

static int take_optimizer(const Loading *l, int read)
{
    const Optimizer *optimizer = l->run->optimizer;
    int parameters = optim_parameters(optimizer).count;
    int count = optimizer_item_count(optimizer);
    if (count != safetensors_count(l->optimizer))
        return error_raise(ERROR_ARGUMENT,
                           "%s is of another run: its optimizer has %d arrays and counts, this one %d",
                           l->shown, safetensors_count(l->optimizer), count);
    for (int i = 0; i < parameters; i++)
        if (take_parameter_state(l, i, read))
            return error_code();
    return error_code();
}

/* Gradients that were kept as zeros live between steps, so they are there again. */
static int take_gradients(const Loading *l)
{
    Context *context = context_here();
    TensorList list = optim_parameters(l->run->optimizer);
    const char *op = memtrack_op_set(context->tracker, "zero_grad");
    size_t count = json_array_size(l->state.kept), k = 0;
    for (int i = 0; i < list.count && k < count; i++) {
        const char *name = json_string_value(json_array_get(l->state.kept, k));
        if (name && !strcmp(name, tensor_name(list.items[i])) && ++k &&
            gradient_zeros(context, list.items[i]))
            break;
    }
    memtrack_op_set(context->tracker, op);
    return error_code();
}

/* All that does not fit is found before anything is read. */
static int compare(const Loading *l)
{
    const SavedRunState *s = &l->state;
    return saved_run_state_compare(l->shown, l->run, s) || take_model(l, 0) || take_optimizer(l, 0)
               ? error_code()
               : 0;
}

static int restore(const Loading *l)
{
    const SavedRunState *s = &l->state;
    if (take_model(l, 1) || take_optimizer(l, 1) || optim_set_steps(l->run->optimizer, s->steps))
        return error_code();
    if (optim_set_scaling(l->run->optimizer, &s->scaling))
        return error_code();
    optim_set_lr(l->run->optimizer, (float)s->lr);
    if (l->run->loader && data_seek(l->run->loader, s->cursor))
        return error_code();
    context_resume(context_here(), s->steps, &s->random);
    return take_gradients(l);
}

/* All ranks read one saved run: a directory that is another one elsewhere is found out. */
static int same_everywhere(const Loading *l)
{
    RankValue step = {.mine = l->state.steps};
    int status = ranks_agree_error_(context_here(), &step);
    if (!status && step.mine != step.first)
        error_raise(ERROR_FILE,
                    "%s is of step %" PRId64 " here, and of step %" PRId64
                    " where rank 0 runs: all ranks must see the same directory",
                    l->shown, step.mine, step.first);
    return ranks_agreed_();
}

static int load_one(const char *path, const SavedRun *run, int check, SavedRunFound *found)
{
    Loading l = {.run = run};
    const Context *context = context_here();
    path_label(l.shown, path);
    if (!saved_run_state_read(path, &l.state))
        saved_run_check_files(path, &l.state, check && !context->meta);
    int status = same_everywhere(&l);
    if (!status) {
        if ((l.model = open_tensors(path, SAVED_RUN_MODEL)) &&
            (l.optimizer = open_tensors(path, SAVED_RUN_OPTIMIZER)))
            compare(&l);
        status = ranks_agreed_();
    }
    if (!status) {
        restore(&l);
        status = ranks_agreed_();
    }
    found->step = l.state.steps;
    if (!status && l.state.threads != context->run.threads && !found->note[0])
        snprintf(found->note, sizeof found->note,
                 "saved with %d thread%s, resumes with %d: equal to rounding, not to the last bit",
                 l.state.threads, plural(l.state.threads), context->run.threads);
    safetensors_close(l.optimizer);
    safetensors_close(l.model);
    saved_run_state_free(&l.state);
    return status;
}

static int load_newest(const char *path, const SavedRun *run, SavedRunFound *found)
{
    char shown[FILE_LABEL];
    path_label(shown, path);
    if (as_first(is_saved_run(path)) && !error_code()) {
        snprintf(found->path, sizeof found->path, "%s", path);
        return load_one(path, run, 1, found);
    }
    if (io_find_saved_run(path, found))
        return error_code();
    if (!found->path[0])
        return error_raise(ERROR_FILE, "%s has no saved run", shown);
    return load_one(found->path, run, 0, found);
}

int io_load_run(const char *path, const SavedRun *run, SavedRunFound *found)
{
    SavedRunFound result = {0}; /* the path may be found->path */
    int fits = run_complete("io_load_run", path, run) && !ranks_whole_model_(context_here(), "io_load_run()");
    int status = fits ? load_newest(path, run, &result) : error_code();
    if (found)
        *found = result;
    return status;
}
