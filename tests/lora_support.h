/* What the tests of adapters share: the fixtures of tests/lora, models with the weights of one, and its
 * batch. */
#ifndef TEST_LORA_SUPPORT_H
#define TEST_LORA_SUPPORT_H

#include <jansson.h>
#include <math.h>

#include "../io/adapter.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "weights_support.h"

typedef struct Fixed {
    char text[160];
} Fixed;

/* Of tests/lora, or of the folder that BRIM_LORA_FIXTURES names. */
static inline Fixed fixed(const char *folder_name, const char *name)
{
    const char *root = getenv("BRIM_LORA_FIXTURES");
    Fixed path;
    snprintf(path.text, sizeof path.text, "%s/%s%s%s", root ? root : "tests/lora", folder_name,
             name[0] ? "/" : "", name);
    return path;
}

/* The base of a case: "gpt2" of gpt2_all. */
static inline Fixed base_of(const char *which)
{
    if (!strcmp(which, "llama_tied_embed"))
        return fixed("llama_tied", "");
    char family_name[16];
    snprintf(family_name, sizeof family_name, "%.*s", (int)strcspn(which, "_"), which);
    return fixed(family_name, "");
}

static inline Fixed start_of(const char *which)
{
    return fixed(which, "adapter_start");
}

/* A copy in the folder, which may be changed. */
static inline void copy_adapter(const char *which, const char *to)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf %s && cp -r %s %s && chmod -R u+w %s", at(to),
             start_of(which).text, at(to), at(to));
    assert_int_equal(system(command), 0);
}

static inline Module *base_model_as(const char *which, const Weights *weights)
{
    IoModel found;
    Fixed base = base_of(which);
    assert_int_equal(io_read_config(base.text, &found), 0);
    assert_int_equal(nn_set_weights(weights), 0);
    Module *model = nn_model(&found.preset);
    assert_int_equal(nn_set_weights(NULL), 0);
    assert_int_equal(io_load_weights(model, base.text, NULL, NULL), 0);
    return model;
}

static inline Module *base_model(const char *which)
{
    return base_model_as(which, NULL);
}

static inline Module *adapted_model(const char *which)
{
    Module *model = base_model(which);
    if (io_load_adapter(model, start_of(which).text, NULL, NULL))
        fail_msg("%s: %s", which, error_message());
    return model;
}

static inline Safetensors *run_of(const char *which)
{
    Safetensors *run = safetensors_open(fixed(which, "run.safetensors").text);
    assert_non_null(run);
    return run;
}

/* PEFT's losses: before each of three steps, and after the last. */
static inline void read_losses(const char *which, double losses[4])
{
    json_t *root = json_load_file(fixed(which, "run.json").text, 0, NULL);
    for (size_t i = 0; i < 4; i++)
        losses[i] = json_number_value(json_array_get(json_object_get(root, "losses"), i));
    json_decref(root);
}

static inline Tensor *integers_of(const Safetensors *file, const char *name)
{
    const SafetensorsEntry *entry = safetensors_find(file, name);
    assert_non_null(entry);
    return tensor_from(DTYPE_I32, SHAPE(entry->dim[0], entry->dim[1]), MEM_INPUT, entry->data);
}

/* transformers compares position t of a causal model with label t + 1. */
static inline Batch batch_of(const Safetensors *run, int causal)
{
    Batch batch = {.ids = integers_of(run, "ids"), .labels = integers_of(run, "labels")};
    int32_t *at = tensor_i32(batch.labels);
    int64_t columns = tensor_dim(batch.labels, 1), count = tensor_numel(batch.labels);
    for (int64_t i = 0; causal && i < count; i++)
        at[i] = (i + 1) % columns ? at[i + 1] : BATCH_IGNORE;
    for (int64_t i = 0; i < count; i++)
        batch.labels_total += at[i] != BATCH_IGNORE;
    return batch;
}

static inline int is_causal(const char *which)
{
    return strncmp(which, "bert", 4) != 0;
}

static inline double largest(const float *a, const float *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* Of the run's ids. */
static inline Tensor *logits_of(Module *model, const Safetensors *run)
{
    Batch batch = {.ids = integers_of(run, "ids")};
    tensor_no_grad_begin();
    Tensor *logits = nn_forward(model, NULL, &batch);
    tensor_no_grad_end();
    assert_fine();
    return logits;
}

/* How far the model's logits are from those of the run. */
static inline double logits_off(Module *model, const Safetensors *run, const char *name)
{
    const SafetensorsEntry *expected = safetensors_find(run, name);
    assert_non_null(expected);
    int scope = tensor_scope_begin();
    Tensor *logits = logits_of(model, run);
    assert_int_equal(tensor_numel(logits), expected->numel);
    double off = largest(safetensors_f32(expected), tensor_f32(logits), expected->numel);
    tensor_scope_end(scope);
    return off;
}

#endif
