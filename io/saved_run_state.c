/* state.json: everything of a run but its tensors. The file ends with a checksum of all that comes before, so
 * that no byte of it can change unnoticed. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "../base/plural_.h"
#include "../nn/lora.h"
#include "saved_run_.h"
#include "io_.h"

/* Format 1, of brim 0.1, has another name for what it holds, no parts of its files, and no order. */
enum { STATE_VERSION = 2, STATE_FIRST = 1, STATE_MOST = 64 << 20 };

#define HEAD "{\"saved_run\": "
#define TAIL ",\n\"crc32\": \"%08" PRIx32 "\"}\n"
enum { TAIL_BYTES = 23 };

/* ---- Writing --------------------------------------------------------------------------------- */

int saved_file_fill(SavedFile *file, const FileSum *sums, int count)
{
    json_t *parts = json_array();
    int failed = !parts;
    file->sum = (FileSum){0};
    for (int i = 0; i < count && !failed; i++) {
        file->sum = file_sum_join(file->sum, sums[i]);
        failed = json_array_append_new(
                     parts, json_pack("[I, I]", (json_int_t)sums[i].bytes, (json_int_t)sums[i].crc32)) != 0;
    }
    if (!failed) {
        file->parts = parts;
        return 0;
    }
    json_decref(parts);
    return error_raise(ERROR_HOST_MEMORY, "no host memory for the checksums of a saved run");
}

static json_t *file_json(const SavedFile *file)
{
    return json_pack("{s:I, s:I, s:O}", "bytes", (json_int_t)file->sum.bytes, "crc32",
                     (json_int_t)file->sum.crc32, "parts", file->parts);
}

static json_t *sum_json(const FileSum *sum)
{
    return json_pack("{s:I, s:I}", "bytes", (json_int_t)sum->bytes, "crc32", (json_int_t)sum->crc32);
}

static json_t *settings_json(const SavedRun *run)
{
    json_t *all = json_object();
    for (int i = 0; i < run->setting_count && all; i++)
        if (json_object_set_new(all, run->settings[i].name, json_string(run->settings[i].value)) != 0) {
            json_decref(all);
            all = NULL;
        }
    return all;
}

/* {"data": {"bytes": 1115394, "crc32": 123}}; NULL without memory. */
static json_t *inputs_json(const SavedRun *run)
{
    json_t *all = json_object();
    for (int i = 0; i < run->input_count && all; i++) {
        const FileSum sum = {run->inputs[i].bytes, run->inputs[i].crc32};
        if (json_object_set_new(all, run->inputs[i].name, sum_json(&sum)) != 0) {
            json_decref(all);
            all = NULL;
        }
    }
    return all;
}

/* Which weights the adapters are of: {"path", "bytes", "crc32"}, or {"seed"}; NULL without memory. */
static json_t *base_json(const SavedRun *run)
{
    const SavedRunInput *base = run->base;
    return base ? json_pack("{s:s, s:I, s:I}", "path", base->path, "bytes", (json_int_t)base->bytes, "crc32",
                            (json_int_t)base->crc32)
                : json_pack("{s:I}", "seed", (json_int_t)context_here()->seed);
}

static json_t *kept_json(const Optimizer *optimizer)
{
    TensorList list = optim_parameters(optimizer);
    json_t *kept = json_array();
    for (int i = 0; i < list.count && kept; i++)
        if (list.items[i]->grad &&
            json_array_append_new(kept, json_string(tensor_name(list.items[i]))) != 0) {
            json_decref(kept);
            kept = NULL;
        }
    return kept;
}

static json_t *data_json(const Loader *loader)
{
    DataCursor at = data_cursor(loader);
    return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I}", "order", DATA_ORDER, "seed", (json_int_t)at.seed,
                     "epoch", (json_int_t)at.epoch, "position", (json_int_t)at.position, "step",
                     (json_int_t)at.step, "samples", (json_int_t)data_samples(loader));
}

/* How the loss is scaled; nothing where it is not. */
static int add_scaling(json_t *optimizer, const LossScale *s)
{
    json_t *scaling = s->scale == 0 ? NULL
                                    : json_pack("{s:f, s:b, s:I, s:I, s:I}", "scale", (double)s->scale,
                                                "dynamic", s->dynamic, "good", (json_int_t)s->good, "bad",
                                                (json_int_t)s->bad, "skipped", (json_int_t)s->skipped);
    return s->scale != 0 && json_object_set_new(optimizer, "loss_scale", scaling) != 0;
}

static json_t *state_json(const SavedRun *run, const RandomState *r, const SavedFile files[SAVED_FILES])
{
    const Context *context = context_here();
    json_t *random = json_pack("{s:I, s:I, s:I, s:I, s:I}", "seed", (json_int_t)context->seed, "fills",
                               (json_int_t)r->fills, "step", (json_int_t)r->step, "first_sample",
                               (json_int_t)r->first_sample, "layer", (json_int_t)r->layer);
    json_t *optimizer = json_pack("{s:s, s:f, s:o}", "name", optim_name(run->optimizer), "lr",
                                  (double)optim_base_lr(run->optimizer), "kept", kept_json(run->optimizer));
    LossScale scaling = optim_scaling(run->optimizer);
    if (optimizer && add_scaling(optimizer, &scaling)) {
        json_decref(optimizer);
        optimizer = NULL;
    }
    json_t *sums = json_pack("{s:o, s:o}", SAVED_RUN_MODEL, file_json(&files[0]), SAVED_RUN_OPTIMIZER,
                             file_json(&files[1]));
    json_t *root =
        json_pack("{s:i, s:s, s:I, s:i, s:o, s:o, s:o, s:o}", "version", STATE_VERSION, "brim", BRIM_VERSION,
                  "step", (json_int_t)optim_steps(run->optimizer), "threads", context->run.threads,
                  "settings", settings_json(run), "optimizer", optimizer, "random", random, "files", sums);
    if (root && run->command)
        json_object_set_new(root, "command", json_string(run->command)); /* not if it is not UTF-8 */
    int failed = root && run->loader && json_object_set_new(root, "data", data_json(run->loader)) != 0;
    failed |= root && run->input_count && json_object_set_new(root, "inputs", inputs_json(run)) != 0;
    failed |= root && nn_lora_count(run->model) && json_object_set_new(root, "base", base_json(run)) != 0;
    if (failed) {
        json_decref(root);
        root = NULL;
    }
    return root;
}

int saved_run_state_write(const char *path, const SavedRun *run, const RandomState *random,
                          const SavedFile files[SAVED_FILES])
{
    FileWriter writer;
    FileSum sum = {0};
    char tail[TAIL_BYTES + 1];
    json_t *root = state_json(run, random, files);
    if (file_begin(&writer, path) == 0) {
        writer.sum = &sum;
        file_put(&writer, HEAD, strlen(HEAD));
        file_put_json(&writer, root, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
        snprintf(tail, sizeof tail, TAIL, sum.crc32);
        file_put(&writer, tail, TAIL_BYTES);
    }
    json_decref(root);
    return file_commit(&writer);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* NULL after raising; free with *bytes. */
static char *read_text(const char *path, const char *shown, size_t *bytes)
{
    int file = file_open_input(path, shown, "the state of a saved run", STATE_MOST, bytes);
    char *text = file >= 0 ? host_alloc(*bytes) : NULL;
    size_t got = 0;
    while (text && got < *bytes) {
        ssize_t count = read(file, text + got, *bytes - got);
        if (count <= 0)
            break;
        got += (size_t)count;
    }
    if (file >= 0)
        close(file);
    if (text && got < *bytes) {
        error_raise(ERROR_FILE, "%s: cannot read all of it", shown);
        host_free(context_here(), text, *bytes);
        return NULL;
    }
    return text;
}

static json_t *parse(const char *shown, const char *text, size_t bytes)
{
    char tail[TAIL_BYTES + 1];
    size_t body = bytes > TAIL_BYTES ? bytes - TAIL_BYTES : 0;
    snprintf(tail, sizeof tail, TAIL, (uint32_t)crc32_z(0, (const Bytef *)text, body));
    if (!body || memcmp(text + body, tail, TAIL_BYTES) != 0) {
        error_raise(ERROR_DATA, "%s is damaged: it does not end with the checksum of what it holds", shown);
        return NULL;
    }
    return json_parse(shown, "the state of a saved run", text, bytes);
}

static int bad_state(const char *shown, const char *what)
{
    return error_raise(ERROR_DATA, "%s is not the state of a saved run: %s", shown, what);
}

static int unpack_data(SavedRunState *s, json_t *data)
{
    json_int_t seed = 0, epoch = 0, position = 0, step = 0, samples = 0;
    if (json_unpack(data, "{s:I, s:I, s:I, s:I, s:I}", "seed", &seed, "epoch", &epoch, "position", &position,
                    "step", &step, "samples", &samples))
        return -1;
    if (epoch > COUNT_MOST || step > COUNT_MOST)
        return -1;
    if (json_unpack(data, "{s?:i}", "order", &s->order))
        return -1;
    s->has_data = 1;
    s->cursor = (DataCursor){.seed = (uint64_t)seed, .epoch = epoch, .position = position, .step = step};
    s->samples = samples;
    return 0;
}

static int unpack_scaling(SavedRunState *s, const json_t *root)
{
    double scale = 0;
    json_int_t good = 0, bad = 0, skipped = 0;
    json_t *scaling = json_object_get(json_object_get(root, "optimizer"), "loss_scale");
    if (!scaling)
        return 0;
    if (json_unpack(scaling, "{s:F, s:b, s:I, s:I, s:I}", "scale", &scale, "dynamic", &s->scaling.dynamic,
                    "good", &good, "bad", &bad, "skipped", &skipped) ||
        !(scale > 0) || skipped > s->steps)
        return -1;
    s->scaling.scale = (float)scale;
    s->scaling.good = good;
    s->scaling.bad = bad;
    s->scaling.skipped = skipped;
    return 0;
}

/* The parts of a file are its bytes, and add up to its checksum. */
static int unpack_file(const json_t *files, const char *name, SavedFile *file)
{
    json_int_t bytes = 0, crc32 = 0;
    size_t i;
    json_t *part;
    FileSum all = {0};
    if (json_unpack(json_object_get(files, name), "{s:I, s:I, s?:o}", "bytes", &bytes, "crc32", &crc32,
                    "parts", &file->parts))
        return -1;
    file->sum = (FileSum){(uint64_t)bytes, (uint32_t)crc32};
    json_array_foreach(file->parts, i, part)
    {
        json_int_t size = json_integer_value(json_array_get(part, 0));
        if (size < 0 || (uint64_t)size > file->sum.bytes - all.bytes)
            return -1;
        all = file_sum_join(all,
                            (FileSum){(uint64_t)size, (uint32_t)json_integer_value(json_array_get(part, 1))});
    }
    return file->parts && (all.bytes != file->sum.bytes || all.crc32 != file->sum.crc32) ? -1 : 0;
}

/* What the state holds, of a format that is read. 0 or raises. */
static int unpack_version(const char *shown, SavedRunState *s, json_t **root)
{
    int version = 0;
    *root = json_object_get(s->root, "saved_run");
    *root = *root ? *root : json_object_get(s->root, "checkpoint"); /* format 1 */
    if (json_unpack(*root, "{s:i}", "version", &version))
        return bad_state(shown, "it has no version");
    if (version < STATE_FIRST || version > STATE_VERSION)
        return error_raise(ERROR_DATA, "%s has format %d; this brim reads %d to %d", shown, version,
                           STATE_FIRST, STATE_VERSION);
    s->order = 1; /* of format 1 */
    return 0;
}

static int unpack(const char *shown, SavedRunState *s)
{
    json_error_t error;
    json_t *data = NULL, *settings = NULL, *kept = NULL, *inputs = NULL;
    json_int_t step = 0, seed = 0, fills = 0, random_step = 0, first = 0, layer = 0;
    json_t *root = NULL, *files = NULL;
    if (unpack_version(shown, s, &root))
        return error_code();
    if (json_unpack_ex(root, &error, 0,
                       "{s:I, s:i, s:o, s:{s:s, s:F, s:o}, s:{s:I, s:I, s:I, s:I, s:I}, "
                       "s:o, s?:s, s?:o, s?:o, s?:o}",
                       "step", &step, "threads", &s->threads, "settings", &settings, "optimizer", "name",
                       &s->optimizer, "lr", &s->lr, "kept", &kept, "random", "seed", &seed, "fills", &fills,
                       "step", &random_step, "first_sample", &first, "layer", &layer, "files", &files,
                       "command", &s->command, "data", &data, "inputs", &inputs, "base", &s->base))
        return bad_state(shown, error.text);
    if (unpack_file(files, SAVED_RUN_MODEL, &s->files[0]) ||
        unpack_file(files, SAVED_RUN_OPTIMIZER, &s->files[1]))
        return bad_state(shown, "the sizes and checksums of its files are missing or do not agree");
    if (step < 0 || step > COUNT_MOST || (data && unpack_data(s, data)) || !json_is_object(settings) ||
        !json_is_array(kept))
        return bad_state(shown, "a field is missing or out of range");
    s->steps = step;
    if (unpack_scaling(s, root))
        return bad_state(shown, "its loss scale is missing something or out of range");
    s->seed = (uint64_t)seed;
    s->random = (RandomState){
        .step = random_step, .first_sample = first, .layer = (uint32_t)layer, .fills = (uint64_t)fills};
    s->settings = settings;
    s->kept = kept;
    s->inputs = inputs;
    return 0;
}

int saved_run_state_read(const char *saved, SavedRunState *state)
{
    char path[PATH_BYTES], shown[FILE_LABEL];
    size_t bytes = 0;
    *state = (SavedRunState){0};
    if (path_join(path, saved, SAVED_RUN_STATE))
        return error_code();
    path_label(shown, path);
    char *text = read_text(path, shown, &bytes);
    if (!text)
        return error_code();
    state->root = parse(shown, text, bytes);
    host_free(context_here(), text, bytes);
    int status = state->root ? unpack(shown, state) : error_code();
    if (status)
        saved_run_state_free(state);
    return status;
}

void saved_run_state_free(SavedRunState *state)
{
    json_decref(state->root);
    *state = (SavedRunState){0};
}

/* ---- What differs ---------------------------------------------------------------------------- */

typedef struct Differences {
    char text[320];
    size_t used;
    int more; /* that have no room */
} Differences;

static void differs(Differences *d, const char *name, const char *here, const char *there)
{
    char text[160];
    int length =
        snprintf(text, sizeof text, "%s%.48s is %.48s, was %.48s", d->used ? "; " : "", name, here, there);
    if (d->used + (size_t)length >= sizeof d->text)
        d->more++;
    else
        d->used += (size_t)snprintf(d->text + d->used, sizeof d->text - d->used, "%s", text);
}

static void compare_text(Differences *d, const char *name, const char *here, const char *there)
{
    if (strcmp(here, there) != 0)
        differs(d, name, here, there);
}

static void compare_number(Differences *d, const char *name, uint64_t here, uint64_t there)
{
    char texts[2][24];
    snprintf(texts[0], sizeof texts[0], "%" PRIu64, here);
    snprintf(texts[1], sizeof texts[1], "%" PRIu64, there);
    compare_text(d, name, texts[0], texts[1]);
}

static int has_setting(const SavedRun *run, const char *name)
{
    int i = 0;
    while (i < run->setting_count && strcmp(run->settings[i].name, name) != 0)
        i++;
    return i < run->setting_count;
}

static void compare_settings(Differences *d, const SavedRun *run, const SavedRunState *s)
{
    const char *name;
    json_t *value;
    for (int i = 0; i < run->setting_count; i++) {
        const json_t *there = json_object_get(s->settings, run->settings[i].name);
        compare_text(d, run->settings[i].name, run->settings[i].value,
                     json_is_string(there) ? json_string_value(there) : "not given");
    }
    json_object_foreach((json_t *)s->settings, name, value)
    {
        if (!has_setting(run, name))
            differs(d, name, "not given", json_is_string(value) ? json_string_value(value) : "?");
    }
}

/* What was there, of one input; 0 when the saved run does not know it: those of older versions know none. */
static int saved_sum(const SavedRunState *s, const char *name, FileSum *sum)
{
    json_int_t bytes = 0, crc32 = 0;
    json_t *input = json_object_get(s->inputs, name);
    if (!input || json_unpack(input, "{s:I, s:I}", "bytes", &bytes, "crc32", &crc32))
        return 0;
    *sum = (FileSum){(uint64_t)bytes, (uint32_t)crc32};
    return 1;
}

static int compare_inputs(const char *shown, const SavedRun *run, const SavedRunState *s)
{
    for (int i = 0; i < run->input_count; i++) {
        const SavedRunInput *now = &run->inputs[i];
        char file[FILE_LABEL], what[96] = "its size is the same, but not what it holds";
        FileSum then;
        if (!saved_sum(s, now->name, &then) || (now->bytes == then.bytes && now->crc32 == then.crc32))
            continue;
        if (now->bytes != then.bytes)
            snprintf(what, sizeof what, "it has %" PRIu64 " byte%s, had %" PRIu64, now->bytes,
                     plural((long long)now->bytes), then.bytes);
        path_label(file, now->path);
        return error_raise(
            ERROR_ARGUMENT,
            "%s, the %s of the run, has changed since %s was saved: %s; put the old one back, or begin "
            "a new run from the weights in %s/" SAVED_RUN_MODEL,
            file, now->name, shown, what, shown);
    }
    return 0;
}

static int another_base(const char *shown, const char *was, const char *path, const char *todo)
{
    return error_raise(ERROR_ARGUMENT, "%s is of a run of adapters, and their base %s%s; %s", shown, was,
                       path, todo);
}

/* Adapters are worth nothing beside other weights than those that they were trained with. */
static int compare_base(const char *shown, const SavedRun *run, const SavedRunState *s)
{
    json_int_t bytes = 0, crc32 = 0;
    const char *path = json_string_value(json_object_get(s->base, "path"));
    const SavedRunInput *now = run->base;
    int adapters = nn_lora_count(run->model) > 0;
    char file[FILE_LABEL] = "", here[FILE_LABEL] = "";
    if (adapters != (s->base != NULL))
        return error_raise(ERROR_ARGUMENT, "%s is of a run that trains %s, and this one trains %s", shown,
                           adapters ? "the whole model" : "adapters",
                           adapters ? "adapters" : "the whole model");
    if (!adapters)
        return 0;
    path_label(file, path ? path : "");
    path_label(here, now ? now->path : "");
    if (!path && now)
        return another_base(shown, "was drawn from the seed, not read from ", here, "leave that out");
    if (path && !now)
        return another_base(shown, "was read from ", file, "give these weights here too");
    if (!path || !now->bytes || /* on meta it may not have been looked at */
        json_unpack(s->base, "{s:I, s:I}", "bytes", &bytes, "crc32", &crc32) ||
        (now->bytes == (uint64_t)bytes && now->crc32 == (uint32_t)crc32))
        return 0;
    return another_base(shown, "was read from ", file,
                        "the weights that are given now are others: put those back");
}

/* Another order is another run, and an older brim's cannot be had again. */
static int compare_order(const char *shown, const SavedRunState *s)
{
    if (!s->has_data || s->order == DATA_ORDER)
        return 0;
    return error_raise(
        ERROR_ARGUMENT,
        "%s was saved by another version of brim, which shuffles samples in another order (%d, "
        "here %d): it cannot be resumed as the same run; start a new run from its weights: "
        "--init %s/" SAVED_RUN_MODEL,
        shown, s->order, DATA_ORDER, shown);
}

static const char *scaling_text(const LossScale *s)
{
    return s->scale == 0 ? "none" : s->dynamic ? "dynamic" : "a number";
}

int saved_run_state_compare(const char *shown, const SavedRun *run, const SavedRunState *s)
{
    Differences d = {0};
    if (compare_base(shown, run, s))
        return error_code();
    compare_settings(&d, run, s);
    if (!has_setting(run, "optimizer")) /* else it was compared */
        compare_text(&d, "optimizer", optim_name(run->optimizer), s->optimizer);
    LossScale scaling = optim_scaling(run->optimizer);
    if (!has_setting(run, "loss-scale"))
        compare_text(&d, "loss scale", scaling_text(&scaling), scaling_text(&s->scaling));
    compare_number(&d, "seed", context_here()->seed, s->seed);
    if (run->loader && s->has_data)
        compare_number(&d, "samples", (uint64_t)data_samples(run->loader), (uint64_t)s->samples);
    else if (run->loader || s->has_data)
        differs(&d, "data", run->loader ? "a loader" : "none", s->has_data ? "a loader" : "none");
    if (!d.used && !d.more)
        return compare_order(shown, s) || context_here()->meta ? error_code() : compare_inputs(shown, run, s);
    char more[32] = "";
    if (d.more)
        snprintf(more, sizeof more, "; and %d more", d.more);
    return error_raise(ERROR_ARGUMENT, "%s is of another run: %s%s", shown, d.text, more);
}
