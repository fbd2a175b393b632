/* What brim computes when it writes a text, for generate.py to compare: logits through the cache of keys and
 * values, and what is drawn from logits.
 *
 *     writer logits MODEL INPUTS.safetensors OUTPUTS.safetensors PROMPT PREFILL
 *     writer sample INPUTS.safetensors OUTPUTS.safetensors TEMPERATURE TOP_K TOP_P SEED DRAWS
 *
 * logits: of ids (rows,T) the first PROMPT tokens are read PREFILL at once, the others one by one, into
 * logits (rows,T,V). sample: of logits (rows,V) the probabilities (rows,V), and tokens (rows,DRAWS). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../brim.h"
#include "../tensor_data.h"

static void die_on_error(void)
{
    if (!error_code())
        return;
    fprintf(stderr, "writer: %s\n", error_message());
    exit(1);
}

static SafetensorsItem item_of(const char *name, SafetensorsType type, Shape shape, const void *data)
{
    SafetensorsItem item = {.name = name, .type = type, .ndim = shape.ndim, .data = data};
    memcpy(item.dim, shape.dim, sizeof shape.dim);
    return item;
}

static Module *open_model(const char *path)
{
    IoModel found;
    Module *model = io_find_model(path, &found) ? NULL : nn_model(&found.preset);
    if (model)
        io_load_weights(model, path, NULL, NULL);
    nn_eval(model);
    die_on_error();
    return model;
}

/* Tokens [from, from + count) of ids (B,T), into all (B,T,V). */
static void read_tokens(Module *model, KvCache *cache, Tensor *ids, int64_t from, int64_t count, Tensor *all)
{
    int64_t B = tensor_dim(ids, 0), T = tensor_dim(ids, 1), V = tensor_dim(all, 2);
    int scope = tensor_scope_begin();
    Batch batch = {.ids = tensor_new(DTYPE_I32, SHAPE(B, count), MEM_INPUT)};
    for (int64_t b = 0; b < B; b++)
        memcpy(tensor_i32(batch.ids) + b * count, tensor_i32(ids) + b * T + from,
               (size_t)count * sizeof(int32_t));
    Tensor *logits = nn_forward_cached(model, &batch, cache); /* (B,count,V) */
    die_on_error();
    for (int64_t b = 0; b < B; b++)
        memcpy(tensor_f32(all) + (b * T + from) * V, tensor_f32(logits) + b * count * V,
               (size_t)(count * V) * sizeof(float));
    tensor_scope_end(scope);
}

static void write_logits(char **argv)
{
    IoModel found;
    Module *model = open_model(argv[0]);
    Safetensors *inputs = safetensors_open(argv[1]);
    const SafetensorsEntry *entry = safetensors_find(inputs, "ids");
    int64_t prompt = atoll(argv[3]), prefill = atoll(argv[4]), B = entry->dim[0], T = entry->dim[1];
    Tensor *ids = tensor_new(DTYPE_I32, SHAPE(B, T), MEM_INPUT);
    memcpy(tensor_i32(ids), entry->data, (size_t)(B * T) * sizeof(int32_t));
    io_find_model(argv[0], &found);
    tensor_no_grad_begin();
    KvCache *cache = nn_kv_cache(model, (int)B, (int)T);
    Tensor *all = tensor_new(DTYPE_F32, SHAPE(B, T, nn_preset_vocab(&found.preset)), MEM_TEMPORARY);
    die_on_error();
    for (int64_t from = 0, count; from < T; from += count) {
        count = from >= prompt ? 1 : prompt - from < prefill ? prompt - from : prefill;
        read_tokens(model, cache, ids, from, count, all);
    }
    tensor_no_grad_end();
    SafetensorsItem item = item_of("logits", SAFETENSORS_F32, tensor_shape(all), tensor_f32(all));
    safetensors_write(argv[2], &item, 1);
}

static void write_samples(char **argv)
{
    Safetensors *inputs = safetensors_open(argv[0]);
    const SafetensorsEntry *entry = safetensors_find(inputs, "logits");
    int64_t B = entry->dim[0], V = entry->dim[1], draws = atoll(argv[6]);
    SampleOptions o = {.temperature = (float)atof(argv[2]),
                       .top_k = atoi(argv[3]),
                       .top_p = (float)atof(argv[4]),
                       .seed = (uint64_t)atoll(argv[5])};
    Tensor *logits = tensor_from(DTYPE_F32, SHAPE(B, V), MEM_INPUT, entry->data);
    Tensor *shares = tensor_new(DTYPE_F32, SHAPE(B, V), MEM_TEMPORARY);
    Tensor *drawn = tensor_new(DTYPE_I32, SHAPE(B, draws), MEM_TEMPORARY);
    Tensor *tokens = tensor_new(DTYPE_I32, SHAPE(B), MEM_TEMPORARY);
    die_on_error();
    nn_sample_probabilities(logits, &o, tensor_f32(shares));
    for (int64_t i = 0; i < draws && !error_code(); i++) {
        nn_sample(logits, &o, i, tensor_i32(tokens));
        for (int64_t b = 0; b < B; b++)
            tensor_i32(drawn)[b * draws + i] = tensor_i32(tokens)[b];
    }
    die_on_error();
    SafetensorsItem items[] = {
        item_of("probabilities", SAFETENSORS_F32, tensor_shape(shares), tensor_f32(shares)),
        item_of("tokens", SAFETENSORS_I32, tensor_shape(drawn), tensor_i32(drawn))};
    safetensors_write(argv[1], items, 2);
}

int main(int argc, char **argv)
{
    int logits = argc == 7 && !strcmp(argv[1], "logits"), sample = argc == 9 && !strcmp(argv[1], "sample");
    if (!logits && !sample) {
        fprintf(stderr, "writer logits MODEL INPUTS OUTPUTS PROMPT PREFILL\n"
                        "writer sample INPUTS OUTPUTS TEMPERATURE TOP_K TOP_P SEED DRAWS\n");
        return 2;
    }
    context_use(context_create(&(ContextOptions){.threads = 2, .seed = 1}));
    if (logits)
        write_logits(argv + 2);
    else
        write_samples(argv + 2);
    die_on_error();
    context_destroy(context_current());
    return 0;
}
