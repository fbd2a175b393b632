/* A run saved and loaded. Saving writes tensors from where they lie; loading compares everything first, then
 * reads into where they lie: neither needs tracked memory, so neither changes the plan. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "../base/quant_layout_.h"
#include "../nn/lora.h"
#include "../tensor/ranks_.h"
#include "saved_run_.h"
#include "io_.h"
#include "safetensors_.h"

/* ---- Saving ---------------------------------------------------------------------------------- */

/* Writes a file of items, if all could make them, and frees them. What all have of it is returned; what this
 * rank has beside it is raised. */
static int save_items(const char *directory, const char *name, SavedItems *items, SavedFile *file)
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
    saved_items_free(items);
    return status;
}

static int save_state(const char *directory, const SavedRun *run, const SavedFile files[SAVED_FILES])
{
    char path[PATH_BYTES];
    RandomState random = context_here()->random;
    /* Those of the step's last micro-batch, and of the last stage, as of one process. */
    RankValue sample = {.mine = random.first_sample}, layer = {.mine = random.layer};
    if (ranks_agree_error_(context_here(), &sample) || ranks_agree_error_(context_here(), &layer))
        return error_code();
    random.first_sample = sample.most;
    random.layer = (uint32_t)layer.most;
    if (ranks_first_() && path_join(path, directory, SAVED_RUN_STATE) == 0)
        saved_run_state_write(path, run, &random, files);
    return ranks_agreed_();
}

static int save_files(const char *directory, const SavedRun *run)
{
    SavedItems items;
    SavedFile files[SAVED_FILES] = {{.parts = NULL}};
    saved_items_of_model(&items, saved_run_parameters(run->model));
    int status = save_items(directory, SAVED_RUN_MODEL, &items, &files[0]);
    if (!status) {
        saved_items_of_optimizer(&items, run->optimizer);
        status = save_items(directory, SAVED_RUN_OPTIMIZER, &items, &files[1]);
    }
    if (!status)
        status = save_state(directory, run, files);
    for (int i = 0; i < SAVED_FILES; i++)
        json_decref(files[i].parts);
    return status;
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
    if (saved_run_divided(run->model, run->optimizer, "io_save_run()")) /* makes its list, in planning too */
        return error_code();
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

/* A parameter, or a state of one, of which this rank may have a part, or NULL, nothing. read 0: it is only
 * compared. */
static int take(const Loading *l, const Safetensors *file, const char *name, SafetensorsType type,
                Tensor *tensor, const Tensor *of, int read)
{
    const SafetensorsEntry *entry = entry_for(l, file, name, type, tensor_whole_shape_(of));
    if (!entry)
        return error_code();
    if (!read || !tensor)
        return 0;
    EntryPart part = {.as = of, .count = tensor_numel(of)};
    if (tensor != of && of->shard) {
        TensorPart own = tensor_part_(of);
        part.first = own.first;
        part.count = own.count;
    }
    return type == SAFETENSORS_F32 ? safetensors_read_as(file, entry, part, tensor)
                                   : safetensors_copy_as(file, entry, part, tensor, 0);
}

/* The scales of an 8-bit state. */
static int take_scales(const Loading *l, const char *name, DType type, Tensor *array, const Tensor *of,
                       int read)
{
    QuantLayout layout = saved_layout_of(type, of);
    const SafetensorsEntry *entry = entry_for(l, l->optimizer, name, SAFETENSORS_F32, SHAPE(layout.blocks));
    if (!entry)
        return error_code();
    TensorPart own = tensor_part_(of);
    EntryPart part = {.as = of,
                      .first = own.first / DYNAMIC8_BLOCK,
                      .count = quant_layout(type, 1, own.count).blocks,
                      .block = DYNAMIC8_BLOCK};
    return read && array ? safetensors_copy_as(l->optimizer, entry, part, array, layout.scales) : 0;
}

static int take_model(const Loading *l, int read)
{
    TensorList list = saved_run_parameters(l->run->model);
    if (list.count != safetensors_count(l->model))
        return error_raise(ERROR_ARGUMENT, "%s is of another model: it has %d parameters, this one %d",
                           l->shown, safetensors_count(l->model), list.count);
    for (int i = 0; i < list.count; i++) {
        Tensor *p = list.items[i];
        if (take(l, l->model, tensor_name(p), saved_type(p), p, p, read))
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

/* i < 0: the parameter is another stage's. */
static int take_parameter_state(const Loading *l, const Tensor *p, int i, int read)
{
    Optimizer *optimizer = l->run->optimizer;
    size_t room = strlen(tensor_name(p)) + SAVED_NAME_ROOM;
    char *name = host_alloc(room);
    if (!name)
        return error_code();
    int status = 0;
    for (int k = 0; k < optim_state_arrays(optimizer) && !status; k++) {
        Tensor *array = optim_state(optimizer, i, k);
        DType type = optim_state_type(optimizer, p, k);
        int used = snprintf(name, room, "%s.%s", tensor_name(p), optim_state_name(optimizer, k));
        status = take(l, l->optimizer, name, saved_type_of(type), array, p, read);
        snprintf(name + used, room - (size_t)used, SAVED_SCALES);
        if (!status && dtype_is_dynamic8(type))
            status = take_scales(l, name, type, array, p, read);
    }
    snprintf(name, room, "%s.step", tensor_name(p));
    status = status ? status : take_updates(l, name, i, read);
    host_free(context_here(), name, room);
    return status;
}

static int take_optimizer(const Loading *l, int read)
{
    TensorList here = optim_parameters(l->run->optimizer), absent = optim_absent(l->run->optimizer);
    int count = saved_optimizer_count(l->run->optimizer);
    if (count != safetensors_count(l->optimizer))
        return error_raise(ERROR_ARGUMENT,
                           "%s is of another run: its optimizer has %d arrays and counts, this one %d",
                           l->shown, safetensors_count(l->optimizer), count);
    for (int i = 0; i < here.count; i++)
        if (take_parameter_state(l, here.items[i], i, read))
            return error_code();
    for (int i = 0; i < absent.count && !read; i++)
        if (take_parameter_state(l, absent.items[i], -1, read))
            return error_code();
    return error_code();
}

static int is_kept(const json_t *kept, const char *name)
{
    size_t i;
    const json_t *one;
    json_array_foreach(kept, i,
                       one) if (json_is_string(one) && !strcmp(json_string_value(one), name)) return 1;
    return 0;
}

/* Gradients that were kept as zeros live between steps, so they are there again; but where ranks keep parts
 * of them, none is whole between steps. Names of other stages' are in the list too. */
static int take_gradients(const Loading *l)
{
    Context *context = context_here();
    TensorList list = optim_parameters(l->run->optimizer);
    int parts = context->ranks && context->ranks->is.strategy >= RANKS_ZERO2;
    const char *op = memtrack_op_set(context->tracker, "zero_grad");
    for (int i = 0; i < list.count; i++)
        if (!(parts && list.items[i]->shard) && is_kept(l->state.kept, tensor_name(list.items[i])) &&
            gradient_zeros(context, list.items[i]))
            break;
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
    int fits = run_complete("io_load_run", path, run) &&
               !saved_run_divided(run->model, run->optimizer, "io_load_run()");
    int status = fits ? load_newest(path, run, &result) : error_code();
    if (found)
        *found = result;
    return status;
}
