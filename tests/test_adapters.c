/* Adapters of PEFT read and written (lora/README.md): what they compute on weights of any type, how they
 * train, and that their run is its plan. */
#include "../plan/plan.h"
#include "lora_support.h"

/* brings: tensors of the base that the adapter has; trained: elements, by PEFT. */
static const struct {
    const char *name;
    int adapted, brings;
    int64_t trained;
} cases[] = {
    {"llama_default", 4, 0, 1792},       {"llama_init", 4, 0, 1792},       {"llama_all", 14, 0, 7424},
    {"llama_all_rslora", 14, 0, 7424},   {"llama_head_saved", 4, 1, 7936}, {"llama_bias_all", 2, 0, 1024},
    {"llama_tied_embed", 3, 1, 1664},    {"gpt2_default", 2, 0, 2048},     {"gpt2_all", 8, 0, 8192},
    {"gpt2_bias_lora_only", 2, 2, 2432}, {"bert_default", 4, 0, 2048},     {"bert_all", 13, 0, 7680},
};

/* ---- Reading --------------------------------------------------------------------------------- */

static int64_t trained_elements(Module *model)
{
    TensorList list = nn_lora_parameters(model);
    int64_t count = 0;
    for (int i = 0; i < list.count; i++)
        count += tensor_numel(list.items[i]);
    return count;
}

static void test_reads_every_case(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *name = cases[i].name;
        int scope = tensor_scope_begin();
        AdapterReport report;
        Module *model = base_model(name);
        Safetensors *run = run_of(name),
                    *file = safetensors_open(fixed(name, "adapter_start/adapter_model.safetensors").text);
        double off = logits_off(model, run, "logits");
        if (strcmp(name, "llama_init") != 0) /* whose B is 0 */
            assert_true(off > 1e-3);
        if (io_load_adapter(model, start_of(name).text, NULL, &report))
            fail_msg("%s: %s", name, error_message());
        off = logits_off(model, run, "logits");
        if (!(off <= 1e-5))
            fail_msg("%s: logits are off by %g", name, off);
        assert_int_equal(report.adapted, cases[i].adapted);
        assert_int_equal(report.own, cases[i].brings);
        assert_int_equal(report.tensors, safetensors_count(file));
        assert_int_equal(report.rank, 4);
        assert_int_equal(trained_elements(model), cases[i].trained);
        tensor_scope_end(scope);
    }
}

/* Where the model is only computed with, nothing of it is trained. */
static void test_frozen(void **state)
{
    (void)state;
    Module *model = base_model("llama_head_saved");
    assert_int_equal(
        io_load_adapter(model, start_of("llama_head_saved").text, &(AdapterOptions){.frozen = 1}, NULL), 0);
    assert_int_equal(nn_lora_parameters(model).count, 0);
    assert_true(logits_off(model, run_of("llama_head_saved"), "logits") <= 1e-5);
}

/* The gradient of the key third of c_attn's bias is 0 in truth, and Adam makes steps of its rounding. */
static int64_t compared(const char *name, int64_t n)
{
    return strstr(name, "c_attn.bias") ? n / 3 : n;
}

static void compare_trained(const char *which, Module *model, const Safetensors *run)
{
    TensorList list = nn_lora_parameters(model);
    int found = 0;
    for (int i = 0; i < safetensors_count(run); i++) {
        const SafetensorsEntry *entry = safetensors_at(run, i);
        char name[200] = "";
        const char *at = entry->name;
        if (strncmp(at, "after.base_model.model.", 23) != 0)
            continue;
        for (at += 23; *at; at++) { /* without what PEFT puts between */
            static const char *const between[] = {".modules_to_save", ".default", ".base_layer"};
            for (int k = 0; k < 3; k++)
                at += !strncmp(at, between[k], strlen(between[k])) ? (ptrdiff_t)strlen(between[k]) : 0;
            strncat(name, at, 1);
            if (!*at)
                break;
        }
        Tensor *tensor = nn_parameter(model, name);
        if (!tensor)
            fail_msg("%s: no parameter %s", which, name);
        const float *expected = safetensors_f32(entry), *actual = tensor_f32(tensor);
        double off = 0;
        int64_t rows = tensor_dim(tensor, 0), columns = entry->numel / rows;
        if (strstr(name, "lora_embedding_A")) /* a row a token here */
            for (int64_t k = 0; k < entry->numel; k++)
                off = fmax(off, fabs((double)expected[k % columns * rows + k / columns] - (double)actual[k]));
        else
            off = largest(expected, actual, compared(name, entry->numel));
        if (!(off <= 2e-5))
            fail_msg("%s: %s is off by %g after three steps", which, name, off);
        found++;
    }
    assert_int_equal(found, list.count);
}

/* What an adapter brings is trained as PEFT trains it: whole modules, biases, an embedding's adapter. */
static void test_trains_every_case(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *name = cases[i].name;
        double losses[4];
        int scope = tensor_scope_begin();
        Module *model = adapted_model(name);
        Safetensors *run = run_of(name);
        Batch batch = batch_of(run, is_causal(name));
        Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = -1});
        read_losses(name, losses);
        for (int step = 0; step < 4; step++) {
            Tensor *loss = nn_loss(model, &batch);
            double value = tensor_item(loss);
            if (!(fabs(value - losses[step]) <= 1e-5))
                fail_msg("%s: loss %d is %.7f, PEFT's %.7f", name, step, value, losses[step]);
            if (step == 3)
                break;
            tensor_backward(loss);
            optim_step(optimizer);
            optim_zero_grad(optimizer);
        }
        compare_trained(name, model, run);
        assert_fine();
        tensor_scope_end(scope);
    }
}

/* The head would change with the embedding. */
static void test_tied_is_not_merged(void **state)
{
    (void)state;
    Module *model = adapted_model("llama_tied_embed");
    assert_int_equal(nn_merge(model, DTYPE_F32), -1);
    assert_error(ERROR_STATE, "model.embed_tokens");
    assert_true(logits_off(model, run_of("llama_tied_embed"), "logits") <= 1e-5);
}

static void test_dora_is_refused(void **state)
{
    (void)state;
    Module *model = base_model("llama_dora");
    assert_int_equal(io_load_adapter(model, start_of("llama_dora").text, NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "adapter_config.json: use_dora is true", "merge_and_unload");
    assert_int_equal(nn_lora_count(model), 0);
}

/* ---- Out and in ------------------------------------------------------------------------------ */

static const char *file_in(const char *directory, const char *name)
{
    static char paths[8][192];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static void assert_same_tensors(const char *which, const char *a, const char *b)
{
    Safetensors *x = safetensors_open(file_in(a, "adapter_model.safetensors")),
                *y = safetensors_open(file_in(b, "adapter_model.safetensors"));
    int base =
        !strcmp(which, "llama_tied_embed"); /* PEFT stores the embedding itself too, which is not trained */
    assert_int_equal(safetensors_count(x), safetensors_count(y) + base);
    for (int i = 0; i < safetensors_count(y); i++) {
        const SafetensorsEntry *there = safetensors_at(y, i), *here = safetensors_find(x, there->name);
        if (!here || here->numel != there->numel || here->ndim != there->ndim ||
            memcmp(here->dim, there->dim, sizeof here->dim) || memcmp(here->data, there->data, here->bytes))
            fail_msg("%s: %s differs", which, there->name);
    }
    safetensors_close(x);
    safetensors_close(y);
}

static int is_set_of(const json_t *list, const json_t *other)
{
    size_t i, k;
    const json_t *x, *y;
    int found = json_array_size(list) == json_array_size(other);
    json_array_foreach((json_t *)list, i, x)
    {
        int here = 0;
        json_array_foreach((json_t *)other, k, y) here |= json_equal((json_t *)x, (json_t *)y);
        found &= here;
    }
    return found;
}

/* Every field that is written says what PEFT's says; the targets may be said in another way. */
static void assert_same_config(const char *which, const char *a, const char *b)
{
    json_t *x = json_load_file(file_in(a, "adapter_config.json"), 0, NULL), *value;
    json_t *y = json_load_file(file_in(b, "adapter_config.json"), 0, NULL);
    const char *name;
    assert_true(x && y);
    json_object_foreach(y, name, value)
    {
        const json_t *theirs = json_object_get(x, name);
        int all = strstr(which, "_all") && strcmp(which, "llama_bias_all") != 0;
        int same =
            !strcmp(name, "target_modules") && all ? 1
            : !strcmp(name, "target_modules")      ? is_set_of(theirs, value)
            : !strcmp(name, "bias") && !strcmp(which, "llama_bias_all")
                ? 1 /* the model has none */
                : json_equal((json_t *)theirs, value) ||
                      (json_is_number(theirs) && json_number_value(theirs) == json_number_value(value));
        if (!same)
            fail_msg("%s: the field %s differs", which, name);
    }
    assert_true(json_object_size(y) >= 15);
    json_decref(x);
    json_decref(y);
}

static void test_out_and_in(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *name = cases[i].name;
        int scope = tensor_scope_begin();
        Module *model = adapted_model(name), *again = base_model(name);
        AdapterReport report;
        if (io_check_adapter(model, at(name), NULL) || io_save_adapter(model, at(name), NULL))
            fail_msg("%s: %s", name, error_message());
        assert_int_equal(files_in(at(name)), 2);
        assert_same_tensors(name, start_of(name).text, at(name));
        assert_same_config(name, start_of(name).text, at(name));
        if (io_load_adapter(again, at(name), NULL, &report))
            fail_msg("%s: %s", name, error_message());
        assert_int_equal(report.adapted, cases[i].adapted);
        assert_int_equal(trained_elements(again), cases[i].trained);
        assert_true(logits_off(again, run_of(name), "logits") <= 1e-5);
        assert_string_equal(report.base, "");
        tensor_scope_end(scope);
    }
}

/* A new adapter, with other ranks in some layers. */
static int some_ranks(void *user, const LoraLayer *layer, Lora *lora)
{
    (void)user;
    *lora = (Lora){.rank = strstr(layer->path, ".1.") ? 2 : 4, .alpha = 12, .dropout = 0.25f, .rslora = 1};
    if (strstr(layer->path, "0.mlp"))
        lora->alpha = 1.5f;
    return strstr(layer->path, "up_proj") || strstr(layer->path, "1.self_attn.q_proj");
}

static const LoraLayer *layer_named;
static int find_layer(void *user, const LoraLayer *layer)
{
    static LoraLayer found;
    found = *layer;
    layer_named = &found;
    return !strcmp(layer->path, user);
}

static Lora settings_of(Module *model, char *path)
{
    assert_int_equal(nn_lora_layers(model, find_layer, path), 1);
    return layer_named->lora;
}

static void test_patterns_are_written(void **state)
{
    (void)state;
    Module *model = base_model("llama"), *again = base_model("llama");
    AdapterReport report;
    assert_int_equal(nn_add_lora_by(model, some_ranks, NULL), 3);
    assert_int_equal(io_save_adapter(model, at("a"), &(AdapterSaving){.base = "org/name"}), 0);
    assert_int_equal(io_load_adapter(again, at("a"), NULL, &report), 0);
    assert_int_equal(report.adapted, 3);
    assert_int_equal(report.rank, 4);
    assert_string_equal(report.base, "org/name");
    char q[] = "model.layers.1.self_attn.q_proj", up[] = "model.layers.0.mlp.up_proj",
         last[] = "model.layers.1.mlp.up_proj";
    Lora lora = settings_of(again, q);
    assert_true(lora.rank == 2 && lora.alpha == 12 && lora.dropout == 0.25f && lora.rslora == 1);
    lora = settings_of(again, up);
    assert_true(lora.rank == 4 && lora.alpha == 1.5f);
    lora = settings_of(again, last);
    assert_true(lora.rank == 2 && lora.alpha == 12);
}

static int two_kinds(void *user, const LoraLayer *layer, Lora *lora)
{
    (void)user;
    *lora = (Lora){.rslora = strstr(layer->path, "q_proj") != NULL};
    return strstr(layer->path, "0.self_attn.") != NULL;
}

/* What PEFT's configuration has no words for is not written as something else. */
static void test_what_cannot_be_said(void **state)
{
    (void)state;
    Module *model = base_model("llama");
    assert_int_equal(io_save_adapter(model, at("a"), NULL), ERROR_STATE);
    assert_error(ERROR_STATE, "io_save_adapter: the model has no adapters");
    assert_true(nn_add_lora_by(model, two_kinds, NULL) > 0);
    assert_int_equal(io_save_adapter(model, at("a"), NULL), ERROR_STATE);
    assert_error(ERROR_STATE, "rslora", "model.layers.0.self_attn.k_proj");
    model = adapted_model("gpt2_all");
    tensor_set_requires_grad(nn_parameter(model, "transformer.h.0.ln_1.bias"), 1);
    assert_int_equal(io_save_adapter(model, at("a"), NULL), ERROR_STATE);
    assert_error(ERROR_STATE, "1 of ", " biases are trained");
    assert_int_equal(access(at("a"), F_OK), -1);
}

static void test_half_precision(void **state)
{
    (void)state;
    SafetensorsItem items[8];
    Safetensors *file =
        safetensors_open(fixed("llama_default", "adapter_start/adapter_model.safetensors").text);
    assert_int_equal(mkdir(at("h"), 0777), 0);
    assert_int_equal(safetensors_count(file), 8);
    for (int type = SAFETENSORS_F16; type <= SAFETENSORS_BF16; type++) {
        for (int i = 0; i < 8; i++) {
            const SafetensorsEntry *e = safetensors_at(file, i);
            items[i] =
                (SafetensorsItem){.name = e->name, .type = (SafetensorsType)type, .ndim = 2, .data = e->data};
            memcpy(items[i].dim, e->dim, sizeof e->dim);
        }
        char command[512];
        snprintf(command, sizeof command, "cp %s/adapter_config.json %s", start_of("llama_default").text,
                 at("h"));
        assert_int_equal(system(command), 0);
        assert_int_equal(safetensors_write(at("h/adapter_model.safetensors"), items, 8), 0);
        Module *model = base_model("llama");
        assert_int_equal(io_load_adapter(model, at("h"), NULL, NULL), 0);
        assert_true(logits_off(model, run_of("llama_default"), "logits") < 0.02);
        char q[] = "model.layers.0.self_attn.q_proj";
        settings_of(model, q);
        assert_int_equal(tensor_dtype(layer_named->a), DTYPE_F32);
    }
}

/* ---- On other weights ------------------------------------------------------------------------ */

/* What is not quantised has the values of fp32, rounded once, the adapter's among them; and a model of fp32
 * with all the values of this one computes the same. */
static void compare_with_floats(const char *name, Module *model, const Safetensors *run)
{
    Module *plain = adapted_model(name);
    TensorList from = nn_parameters(model), to = nn_parameters(plain);
    assert_int_equal(from.count, to.count);
    for (int i = 0; i < from.count; i++) {
        DType dtype = tensor_dtype(from.items[i]);
        int64_t n = tensor_numel(from.items[i]);
        float *values = test_malloc((size_t)n * sizeof *values), *x = tensor_f32(to.items[i]);
        tensor_decode_file_(from.items[i], 0, n, values);
        for (int64_t k = 0; k < n && !dtype_is_quantized(dtype); k++)
            if (values[k] != as_stored(dtype, x[k]))
                fail_msg("%s: %s[%lld] is %g, not %g", name, tensor_name(from.items[i]), (long long)k,
                         (double)values[k], (double)x[k]);
        memcpy(x, values, (size_t)n * sizeof *x);
        test_free(values);
    }
    Tensor *logits = logits_of(model, run), *expected = logits_of(plain, run);
    double apart = difference(tensor_f32(expected), tensor_f32(logits), tensor_numel(logits));
    if (!(apart <= 2e-6))
        fail_msg("%s: logits are %g apart", name, apart);
}

/* How far 16 bit, 8 and 4 bit are from fp32 on these models; what is not fp32 takes the adapter's values
 * where it is not to be trained. */
static void test_on_other_weights(void **state)
{
    (void)state;
    static const struct {
        Weights weights;
        double off;
    } kinds[] = {{{.dtype = DTYPE_BF16}, 0.1},
                 {{.dtype = DTYPE_F16}, 0.02},
                 {{.quantized = DTYPE_INT8}, 0.1},
                 {{.dtype = DTYPE_BF16, .quantized = DTYPE_NF4}, 1.5}};
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t k = 0; k < COUNT(kinds); k++) {
            const char *name = cases[i].name;
            int scope = tensor_scope_begin(), typed = kinds[k].weights.dtype != 0;
            AdapterReport report;
            Module *model = base_model_as(name, &kinds[k].weights);
            int own = typed && (!strcmp(name, "llama_head_saved") || strstr(name, "bias_lora_only"));
            if (own) { /* which would have to be trained */
                assert_int_equal(io_load_adapter(model, start_of(name).text, NULL, NULL), ERROR_STATE);
                assert_error(ERROR_STATE, "the adapter brings ", "make the model with fp32 weights");
                assert_int_equal(nn_lora_count(model), 0);
            }
            if (io_load_adapter(model, start_of(name).text, &(AdapterOptions){.frozen = own}, &report))
                fail_msg("%s: %s", name, error_message());
            Safetensors *run = run_of(name);
            double off = logits_off(model, run, "logits");
            if (!(off <= kinds[k].off))
                fail_msg("%s, kind %zu: logits are off by %g", name, k, off);
            compare_with_floats(name, model, run);
            assert_int_equal(report.own, cases[i].brings);
            assert_int_equal(trained_elements(model), own ? 0 : cases[i].trained);
            if (own) {
                tensor_scope_end(scope);
                continue;
            }
            Batch batch = batch_of(run, is_causal(name));
            Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
            tensor_backward(nn_loss(model, &batch));
            optim_step(optimizer);
            optim_zero_grad(optimizer);
            assert_int_equal(io_save_adapter(model, at("o"), &(AdapterSaving){.overwrite = 1}), 0);
            Module *again = base_model_as(name, &kinds[k].weights);
            assert_int_equal(io_load_adapter(again, at("o"), NULL, NULL), 0);
            assert_int_equal(trained_elements(again), cases[i].trained);
            assert_fine();
            tensor_scope_end(scope);
        }
}

/* ---- Planned --------------------------------------------------------------------------------- */

static int adapted_script(void *config)
{
    Module *model = base_model(config);
    io_load_adapter(model, start_of(config).text, NULL, NULL);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
    for (int step = 0; step < 3 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        Batch batch = {.ids = tensor_zeros(DTYPE_I32, SHAPE(2, 8), MEM_INPUT),
                       .labels = tensor_zeros(DTYPE_I32, SHAPE(2, 8), MEM_INPUT),
                       .labels_total = 16};
        tensor_backward(nn_loss(model, &batch));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

/* What an adapter's run allocates is planned, event by event; frozen weights are frozen in the books. */
static void test_plan_is_run(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Plan plan;
        RunResult result;
        char name[32];
        strcpy(name, cases[i].name);
        const RunOptions run = {.threads = 1, .quiet = 1};
        if (plan_script(adapted_script, name, &run, &plan))
            fail_msg("%s: %s", name, plan.error);
        if (plan_execute(adapted_script, name, &run, &plan, &result))
            fail_msg("%s: %s", name, result.error);
        assert_int_equal(result.segments_off_plan, 0);
        assert_int_equal(result.memory.stats.peak, plan.memory.stats.peak);
        uint64_t states = plan.memory.stats.own_peak[MEM_OPTIMIZER], trained = (uint64_t)cases[i].trained * 4;
        assert_true(states >= 2 * trained && states < 2 * trained + 64 * 128);
        assert_true(plan.memory.stats.own_peak[MEM_FROZEN] > 100 << 10);
        plan_free(&plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reads_every_case),     TEST(test_frozen),
        TEST(test_trains_every_case),    TEST(test_tied_is_not_merged),
        TEST(test_dora_is_refused),      TEST(test_out_and_in),
        TEST(test_patterns_are_written), TEST(test_what_cannot_be_said),
        TEST(test_half_precision),       TEST(test_on_other_weights),
        TEST(test_plan_is_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
