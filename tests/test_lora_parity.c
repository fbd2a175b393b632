/* Low-rank adapters against PEFT (lora/README.md), on fp32 models and on checkpoints of bitsandbytes: logits,
 * four losses, the first gradients, the adapters after three steps of AdamW, and the merged model's logits;
 * with every way of keeping less. */
#include <math.h>

#include "../io/io.h"
#include "../io/safetensors.h"
#include "../io/weights.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "support.h"

typedef struct Fit {
    const char *family, *name;
    Lora lora;
} Fit;

#define SMALL(list)                                                                                          \
    {                                                                                                        \
        .rank = 4, .alpha = 8, .targets = list                                                               \
    }

static const Fit fits[] = {
    {"llama", "llama_default", SMALL("q_proj,v_proj")},
    {"llama", "llama_init", SMALL("q_proj, v_proj")},
    {"llama", "llama_all", SMALL("all")},
    {"llama", "llama_all_rslora", {.rank = 4, .alpha = 8, .rslora = 1}},
    {"gpt2", "gpt2_default", SMALL("c_attn")},
    {"gpt2", "gpt2_all", SMALL("all")},
    {"bert", "bert_default", SMALL("query,value")},
    {"bert", "bert_all", SMALL("all")},
    {"qlora32", "qlora32_llama_all", SMALL("all")},
    {"qlora", "qlora_llama_all", SMALL("all")},
};

/* Its base was quantised from bf16, so bitsandbytes rounds decoded weights to bf16 on the way back. */
static int is_rounded(const Fit *fit)
{
    return !strcmp(fit->family, "qlora");
}

typedef struct Way {
    const char *name;
    int checkpoint, selective, accumulate, in_backward, chunk, eager;
} Way;

static const Way ways[] = {
    {.name = "plain"},
    {.name = "checkpoint", .checkpoint = 1},
    {.name = "segments", .checkpoint = 2},
    {.name = "selective", .selective = 1},
    {.name = "accumulate", .accumulate = 1},
    {.name = "in backward", .in_backward = 1},
    {.name = "in backward, checkpoint", .in_backward = 1, .checkpoint = 1},
    {.name = "chunk", .chunk = 5},
    {.name = "eager, selective, checkpoint", .eager = 1, .selective = 1, .checkpoint = 1},
};

/* ---- Files ----------------------------------------------------------------------------------- */

typedef struct FilePath {
    char text[128];
} FilePath;

static FilePath path_of(const char *folder, const char *file)
{
    const char *root = getenv("BRIM_LORA_FIXTURES");
    FilePath path;
    snprintf(path.text, sizeof path.text, "%s/%s%s", root ? root : "tests/lora", folder, file);
    return path;
}

static void read_losses(const Fit *fit, double losses[4])
{
    char text[512] = "";
    FILE *f = fopen(path_of(fit->name, "/run.json").text, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    char *at = strchr(text, '[');
    for (int i = 0; i < 4; i++)
        losses[i] = strtod(at + 1, &at);
}

static const SafetensorsEntry *entry_of(const Safetensors *file, const char *before, const char *name,
                                        const char *after)
{
    char key[200];
    snprintf(key, sizeof key, "%s%s%s", before, name, after);
    const SafetensorsEntry *entry = safetensors_find(file, key);
    if (!entry)
        fail_msg("there is no %s", key);
    return entry;
}

/* "q_proj.lora_A.weight" is "q_proj.lora_A.default.weight" while PEFT trains. */
static const SafetensorsEntry *trained_entry(const Safetensors *file, const char *what, const Tensor *tensor)
{
    char name[160];
    snprintf(name, sizeof name, "%s", tensor_name(tensor));
    char *end = strrchr(name, '.');
    *end = '\0';
    return entry_of(file, what, name, ".default.weight");
}

static Tensor *integers_of(const Safetensors *file, const char *name)
{
    const SafetensorsEntry *entry = entry_of(file, name, "", "");
    return tensor_from(DTYPE_I32, SHAPE(entry->dim[0], entry->dim[1]), MEM_INPUT, entry->data);
}

/* Hugging Face's causal models compare position t with label t + 1. */
static Tensor *labels_of(const Safetensors *file, int shifted)
{
    Tensor *labels = integers_of(file, "labels");
    int32_t *at = tensor_i32(labels);
    int64_t columns = tensor_dim(labels, 1);
    for (int64_t i = 0; shifted && i < tensor_numel(labels); i++)
        at[i] = (i + 1) % columns ? at[i + 1] : BATCH_IGNORE;
    return labels;
}

/* ---- The model ------------------------------------------------------------------------------- */

static Module *model_of(const Fit *fit, const Way *way)
{
    IoModel found;
    FilePath folder = path_of(fit->family, "");
    assert_int_equal(io_read_config(folder.text, &found), 0);
    nn_preset_set_attention(&found.preset, way->eager ? ATTENTION_EAGER : ATTENTION_FLASH);
    nn_set_weights(&(Weights){.quantized = found.quantized});
    Module *model = nn_model(&found.preset);
    nn_set_weights(NULL);
    assert_int_equal(io_load_weights(model, folder.text, NULL, NULL), 0);
    assert_true(nn_add_lora(model, &fit->lora) > 0);
    Safetensors *start =
        safetensors_open(path_of(fit->name, "/adapter_start/adapter_model.safetensors").text);
    TensorList list = nn_lora_parameters(model);
    assert_int_equal(list.count, safetensors_count(start));
    for (int i = 0; i < list.count; i++) {
        const SafetensorsEntry *entry = entry_of(start, "base_model.model.", tensor_name(list.items[i]), "");
        assert_int_equal(entry->numel, tensor_numel(list.items[i]));
        assert_int_equal(entry->dim[0], tensor_dim(list.items[i], 0));
        assert_int_equal(safetensors_read(start, entry, tensor_f32(list.items[i])), 0);
    }
    if (way->checkpoint == 1)
        for (int i = 0; i < nn_block_count(model); i++)
            nn_set_checkpoint(nn_block(model, i), 1);
    else if (way->checkpoint)
        nn_set_checkpoint_every(model, way->checkpoint);
    nn_set_selective(model, way->selective);
    nn_set_loss_chunk(model, way->chunk);
    return model;
}

static Batch rows_of(Tensor *ids, Tensor *labels, int first, int count)
{
    int64_t columns = tensor_dim(ids, 1);
    Batch batch = {
        .ids = tensor_from(DTYPE_I32, SHAPE(count, columns), MEM_INPUT, tensor_i32(ids) + first * columns),
        .labels =
            tensor_from(DTYPE_I32, SHAPE(count, columns), MEM_INPUT, tensor_i32(labels) + first * columns),
        .first_sample = first};
    for (int64_t i = 0; i < tensor_numel(labels); i++)
        batch.labels_total += tensor_i32(labels)[i] != BATCH_IGNORE;
    return batch;
}

static double loss_of(Module *model, Tensor *ids, Tensor *labels, const Way *way, int backward)
{
    double loss = 0;
    int scope = tensor_scope_begin(), count = way->accumulate ? 1 : 2;
    for (int first = 0; first < 2; first += count) {
        Batch batch = rows_of(ids, labels, first, count);
        Tensor *part = nn_loss(model, &batch);
        loss += tensor_item(part);
        if (backward)
            tensor_backward(part);
    }
    tensor_scope_end(scope);
    assert_fine();
    return loss;
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static double relative(const float *expected, const float *actual, int64_t n)
{
    double squares = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        squares += ((double)expected[i] - actual[i]) * ((double)expected[i] - actual[i]);
        all += (double)expected[i] * expected[i];
    }
    return all > 0 ? sqrt(squares / all) : sqrt(squares);
}

static double largest(const float *expected, const float *actual, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)expected[i] - actual[i]));
    return most;
}

static void compare_all(const char *what, const Safetensors *run, Module *model, const char *kind,
                        double most)
{
    TensorList list = nn_lora_parameters(model);
    for (int i = 0; i < list.count; i++) {
        Tensor *tensor = list.items[i];
        int gradient = kind[0] == 'g';
        const float *expected = safetensors_f32(trained_entry(run, kind, tensor));
        const float *actual = gradient ? grad_f32(tensor) : tensor_f32(tensor);
        double off = gradient ? relative(expected, actual, tensor_numel(tensor))
                              : largest(expected, actual, tensor_numel(tensor));
        if (!(off <= most))
            fail_msg("%s: %s%s is off by %g", what, kind, tensor_name(tensor), off);
    }
}

/* most: of the largest logit. */
static void compare_logits(const char *what, Module *model, Tensor *ids, const SafetensorsEntry *expected,
                           double most)
{
    double size = 0;
    for (int64_t i = 0; i < expected->numel; i++)
        size = fmax(size, fabs(safetensors_f32(expected)[i]));
    Batch batch = {.ids = ids};
    int scope = tensor_scope_begin();
    tensor_no_grad_begin();
    Tensor *logits = nn_forward(model, NULL, &batch);
    tensor_no_grad_end();
    double off = largest(safetensors_f32(expected), tensor_f32(logits), expected->numel);
    if (!(off <= most * size))
        fail_msg("%s: logits of at most %g are off by %g", what, size, off);
    tensor_scope_end(scope);
}

static void check_way(const Fit *fit, const Way *way, int threads)
{
    char what[128];
    double losses[4];
    snprintf(what, sizeof what, "%s, %s, %d threads", fit->name, way->name, threads);
    read_losses(fit, losses);
    Visit v = visit(&(ContextOptions){.threads = threads});
    Module *model = model_of(fit, way);
    Safetensors *run = safetensors_open(path_of(fit->name, "/run.safetensors").text);
    Tensor *ids = integers_of(run, "ids"), *labels = labels_of(run, strcmp(fit->family, "bert") != 0);
    compare_logits(what, model, ids, entry_of(run, "logits", "", ""), 1e-5);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = -1});
    if (way->in_backward)
        optim_set_in_backward(optimizer, 1);
    for (int step = 0; step < 4; step++) {
        if (way->in_backward && way->accumulate)
            break;
        double loss = loss_of(model, ids, labels, way, step < 3);
        if (!(fabs(loss - losses[step]) <= (is_rounded(fit) ? 2e-3 : 1e-5)))
            fail_msg("%s: loss %d is %.7f, PEFT's %.7f", what, step, loss, losses[step]);
        if (step == 0 && !way->in_backward)
            compare_all(what, run, model, "grad.base_model.model.", is_rounded(fit) ? 1e-2 : 1e-5);
        if (step < 3)
            optim_step(optimizer);
        optim_zero_grad(optimizer);
    }
    if (!is_rounded(fit)) /* Adam makes steps of one size of gradients of any */
        compare_all(what, run, model, "after.base_model.model.", 2e-5);
    if (safetensors_find(run, "merged_logits"))
        compare_logits(what, model, ids, entry_of(run, "merged_logits", "", ""), 5e-5);
    leave(v);
}

static void every_way(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(fits); i++)
        for (size_t k = 0; k < COUNT(ways); k++)
            check_way(&fits[i], &ways[k], 1 + (int)(i + k) % 2);
}

/* ---- Merging --------------------------------------------------------------------------------- */

/* The adapter as it was after three steps, as in the fixture. */
static void set_trained(Module *model, const Safetensors *run)
{
    TensorList list = nn_lora_parameters(model);
    for (int i = 0; i < list.count; i++)
        safetensors_read(run, trained_entry(run, "after.base_model.model.", list.items[i]),
                         tensor_f32(list.items[i]));
}

static void merged(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(fits); i++) {
        const Fit *fit = &fits[i];
        Visit v = visit(&(ContextOptions){.threads = 1});
        Module *model = model_of(fit, &ways[0]);
        Safetensors *run = safetensors_open(path_of(fit->name, "/run.safetensors").text);
        Tensor *ids = integers_of(run, "ids");
        if (!safetensors_find(run, "merged_logits")) {
            leave(v);
            continue;
        }
        set_trained(model, run);
        int adapters = nn_lora_count(model), parameters = nn_parameters(model).count;
        assert_int_equal(nn_merge(model, DTYPE_F32), adapters);
        assert_int_equal(nn_lora_count(model), 0);
        assert_int_equal(nn_parameters(model).count, parameters - 2 * adapters);
        compare_logits(fit->name, model, ids, entry_of(run, "merged_logits", "", ""), 2e-6);
        assert_fine();
        leave(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way),
        cmocka_unit_test(merged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
