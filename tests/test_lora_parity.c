/* Low-rank adapters against PEFT (lora/README.md), on fp32 models and on checkpoints of bitsandbytes: logits,
 * four losses, the first gradients, the adapters after three steps of AdamW, and the merged model's logits;
 * with every way of keeping less. */
#include "lora_support.h"

typedef struct Fit {
    const char *name;
    Lora lora;
} Fit;

#define SMALL(list)                                                                                          \
    {                                                                                                        \
        .rank = 4, .alpha = 8, .targets = list                                                               \
    }

static const Fit fits[] = {
    {"llama_default", SMALL("q_proj,v_proj")},
    {"llama_init", SMALL("q_proj, v_proj")},
    {"llama_all", SMALL("all")},
    {"llama_all_rslora", {.rank = 4, .alpha = 8, .rslora = 1}},
    {"gpt2_default", SMALL("c_attn")},
    {"gpt2_all", SMALL("all")},
    {"bert_default", SMALL("query,value")},
    {"bert_all", SMALL("all")},
    {"qlora32_llama_all", SMALL("all")},
    {"qlora_llama_all", SMALL("all")},
};

/* Its base was quantised from bf16, so bitsandbytes rounds decoded weights to bf16 on the way back. */
static int is_rounded(const Fit *fit)
{
    return !strncmp(fit->name, "qlora_", 6);
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

/* ---- The model ------------------------------------------------------------------------------- */

static Module *fitted_model(const Fit *fit, const Way *way)
{
    IoModel found;
    Fixed base = base_of(fit->name);
    assert_int_equal(io_read_config(base.text, &found), 0);
    nn_preset_set_attention(&found.preset, way->eager ? ATTENTION_EAGER : ATTENTION_FLASH);
    nn_set_weights(&(Weights){.quantized = found.quantized});
    Module *model = nn_model(&found.preset);
    nn_set_weights(NULL);
    assert_int_equal(io_load_weights(model, base.text, NULL, NULL), 0);
    assert_true(nn_add_lora(model, &fit->lora) > 0);
    Safetensors *start = safetensors_open(fixed(fit->name, "adapter_start/adapter_model.safetensors").text);
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

static Batch rows_of(const Batch *whole, int first, int count)
{
    int64_t columns = tensor_dim(whole->ids, 1), at = first * columns;
    Shape shape = SHAPE(count, columns);
    return (Batch){.ids = tensor_from(DTYPE_I32, shape, MEM_INPUT, tensor_i32(whole->ids) + at),
                   .labels = tensor_from(DTYPE_I32, shape, MEM_INPUT, tensor_i32(whole->labels) + at),
                   .labels_total = whole->labels_total,
                   .first_sample = first};
}

static double loss_of(Module *model, const Batch *whole, const Way *way, int backward)
{
    double loss = 0;
    int scope = tensor_scope_begin(), count = way->accumulate ? 1 : 2;
    for (int first = 0; first < 2; first += count) {
        Batch batch = rows_of(whole, first, count);
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
static void compare_logits(const char *what, Module *model, const Safetensors *run, const char *name,
                           double most)
{
    const SafetensorsEntry *expected = entry_of(run, name, "", "");
    double size = 0, off = logits_off(model, run, name);
    for (int64_t i = 0; i < expected->numel; i++)
        size = fmax(size, fabs(safetensors_f32(expected)[i]));
    if (!(off <= most * size))
        fail_msg("%s: %s of at most %g are off by %g", what, name, size, off);
}

static void check_way(const Fit *fit, const Way *way, int threads)
{
    char what[128];
    double losses[4];
    snprintf(what, sizeof what, "%s, %s, %d threads", fit->name, way->name, threads);
    read_losses(fit->name, losses);
    Visit v = visit(&(ContextOptions){.threads = threads});
    Module *model = fitted_model(fit, way);
    Safetensors *run = run_of(fit->name);
    Batch batch = batch_of(run, is_causal(fit->name));
    compare_logits(what, model, run, "logits", 1e-5);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = -1});
    if (way->in_backward)
        optim_set_in_backward(optimizer, 1);
    for (int step = 0; step < 4; step++) {
        if (way->in_backward && way->accumulate)
            break;
        double loss = loss_of(model, &batch, way, step < 3);
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
        compare_logits(what, model, run, "merged_logits", 5e-5);
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
        Module *model = fitted_model(fit, &ways[0]);
        Safetensors *run = run_of(fit->name);
        if (!safetensors_find(run, "merged_logits")) {
            leave(v);
            continue;
        }
        set_trained(model, run);
        int adapters = nn_lora_count(model), parameters = nn_parameters(model).count;
        assert_int_equal(nn_merge(model, DTYPE_F32), adapters);
        assert_int_equal(nn_lora_count(model), 0);
        assert_int_equal(nn_parameters(model).count, parameters - 2 * adapters);
        compare_logits(fit->name, model, run, "merged_logits", 2e-6);
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
