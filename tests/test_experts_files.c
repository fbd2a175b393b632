/* Experts in files: matrices of each expert, or of all in one tensor; what is missing, twice there, or does
 * not fit; in every type; and how much an export writes. */
#include "../io/saved_run.h"
#include "weights_support.h"

static const ModelFamily families[] = {MODEL_MIXTRAL, MODEL_QWEN3_MOE, MODEL_QWEN2_MOE};
enum { MIXTURES = sizeof families / sizeof families[0] };
/* An expert's first matrix, and the parameter that it is a part of. */
static const char *const first_matrix[] = {"model.layers.1.block_sparse_moe.experts.0.w1.weight",
                                           "model.layers.1.mlp.experts.0.gate_proj.weight",
                                           "model.layers.1.mlp.experts.0.gate_proj.weight"};
static const char *const gate_up = "model.layers.1.mlp.experts.gate_up_proj";
static const char *const down = "model.layers.1.mlp.experts.down_proj";

static void assert_same_values(Module *a, Module *b)
{
    TensorList x = nn_parameters(a), y = nn_parameters(b);
    assert_int_equal(x.count, y.count);
    for (int i = 0; i < x.count; i++)
        if (memcmp(tensor_f32(x.items[i]), tensor_f32(y.items[i]),
                   (size_t)tensor_numel(x.items[i]) * sizeof(float)) != 0)
            fail_msg("%s differs", tensor_name(x.items[i]));
}

/* ---- What is written ------------------------------------------------------------------------- */

static const float *stored(const Safetensors *file, int64_t rows, int64_t columns, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static const float *stored(const Safetensors *file, int64_t rows, int64_t columns, const char *format, ...)
{
    char name[128];
    va_list list;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    const SafetensorsEntry *entry = safetensors_find(file, name);
    if (!entry)
        fail_msg("there is no %s", name);
    assert_int_equal(entry->ndim, 2);
    assert_int_equal(entry->dim[0], rows);
    assert_int_equal(entry->dim[1], columns);
    return entry->data;
}

/* Row for row, what transformers' converters put together. */
static void check_matrices(const Safetensors *file, Module *model, int family)
{
    Tensor *up = nn_parameter(model, gate_up), *out = nn_parameter(model, down);
    int64_t experts = tensor_dim(up, 0), hidden = tensor_dim(out, 2), width = tensor_dim(out, 1);
    size_t matrix = (size_t)(hidden * width) * sizeof(float);
    const char *block = family ? "mlp" : "block_sparse_moe";
    for (int e = 0; e < experts; e++) {
        const float *from = tensor_f32(up) + e * 2 * hidden * width;
        assert_memory_equal(stored(file, hidden, width, "model.layers.1.%s.experts.%d.%s.weight", block, e,
                                   family ? "gate_proj" : "w1"),
                            from, matrix);
        assert_memory_equal(stored(file, hidden, width, "model.layers.1.%s.experts.%d.%s.weight", block, e,
                                   family ? "up_proj" : "w3"),
                            from + hidden * width, matrix);
        assert_memory_equal(stored(file, width, hidden, "model.layers.1.%s.experts.%d.%s.weight", block, e,
                                   family ? "down_proj" : "w2"),
                            tensor_f32(out) + e * hidden * width, matrix);
    }
    stored(file, experts, width, "model.layers.1.%s.gate.weight", block);
}

static void test_matrices_of_each(void **state)
{
    (void)state;
    for (int f = 0; f < MIXTURES; f++) {
        ModelPreset preset = family(families[f]);
        Module *model = model_of(&preset, 1), *other = model_of(&preset, 500);
        IoSize size = io_weights_size(model, SAFETENSORS_F32, 0),
               cut = io_weights_size(model, SAFETENSORS_F32, 9000);
        assert_int_equal(io_save_weights(model, &preset, at("m"), &(WeightsSaving){.overwrite = 1}), 0);
        Safetensors *file = safetensors_open(at("m"));
        check_matrices(file, model, f);
        uint64_t bytes = 0;
        for (int i = 0; i < safetensors_count(file); i++)
            bytes += safetensors_at(file, i)->bytes;
        assert_true(size.bytes >= bytes && size.bytes < bytes + (1 << 17));
        safetensors_close(file);
        assert_int_equal(io_load_weights(other, at("m"), NULL, NULL), 0);
        assert_same_values(model, other);
        /* Into the directory of the same model, in shards, and back. */
        assert_int_equal(io_save_weights(model, &preset, at("m"), &(WeightsSaving){.shard = 9000}), 0);
        file = safetensors_open(at("m"));
        assert_true(files_in(at("m")) > 10 && cut.bytes > size.bytes);
        check_matrices(file, model, f);
        safetensors_close(file);
        other = model_of(&preset, 700);
        assert_int_equal(io_load_weights(other, at("m"), NULL, NULL), 0);
        assert_same_values(model, other);
        /* Another number of experts is another model. */
        ModelPreset fewer = preset;
        fewer.config.llama.experts.count--;
        assert_int_equal(save(model_of(&fewer, 1), &fewer, "m"), ERROR_FILE);
        assert_error(ERROR_FILE, "another model");
    }
}

/* In 16 bit: rounded as other parameters are, and bit for bit where they are stored so. */
static void test_types(void **state)
{
    (void)state;
    static const SafetensorsType types[] = {SAFETENSORS_F16, SAFETENSORS_BF16};
    static const DType stored_as[] = {DTYPE_F16, DTYPE_BF16};
    for (int i = 0; i < 4; i++) {
        ModelPreset preset = family(families[i % MIXTURES]);
        Module *model = model_of(&preset, 1), *other = model_of(&preset, 500);
        WeightsSaving how = {.type = types[i / 2], .overwrite = 1};
        assert_int_equal(io_save_weights(model, &preset, at("h"), &how), 0);
        assert_int_equal(io_load_weights(other, at("h"), NULL, NULL), 0);
        nn_set_weights(&(Weights){.dtype = stored_as[i / 2]});
        Module *half = nn_model(&preset);
        nn_set_weights(NULL);
        assert_int_equal(io_load_weights(half, at("h"), NULL, NULL), 0);
        assert_int_equal(io_save_weights(half, &preset, at("h2"), &how), 0);
        size_t n, m;
        unsigned char *a = get_file(at("h/model.safetensors"), &n),
                      *b = get_file(at("h2/model.safetensors"), &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        test_free(a);
        test_free(b);
        Tensor *x = nn_parameter(model, gate_up), *y = nn_parameter(other, gate_up);
        for (int64_t k = 0; k < tensor_numel(x); k++)
            assert_float_equal(tensor_f32(y)[k], tensor_f32(x)[k], 0.005);
    }
}

/* Numbers into quantised experts, as they are quantised when they are there; and out again, decoded. */
static void test_quantized(void **state)
{
    (void)state;
    static const DType types[] = {DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};
    for (int i = 0; i < 6; i++) {
        ModelPreset preset = family(families[i % MIXTURES]);
        Module *model = model_of(&preset, 1);
        WeightsSaving how = {.type = SAFETENSORS_F32, .overwrite = 1};
        assert_int_equal(io_save_weights(model, &preset, at("q"), &how), 0);
        nn_set_weights(&(Weights){.quantized = types[i / 2]});
        Module *loaded = nn_model(&preset);
        nn_set_weights(NULL);
        assert_int_equal(io_load_weights(loaded, at("q"), NULL, NULL), 0);
        nn_quantize(model, &(Quantize){.dtype = types[i / 2]});
        assert_int_equal(io_save_weights(loaded, &preset, at("a"), &how), 0);
        assert_int_equal(io_save_weights(model, &preset, at("b"), &how), 0);
        size_t n, m;
        unsigned char *a = get_file(at("a/model.safetensors"), &n),
                      *b = get_file(at("b/model.safetensors"), &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        test_free(a);
        test_free(b);
    }
}

/* ---- What is read ---------------------------------------------------------------------------- */

static SafetensorsItem items[256];
static int item_count;
static Safetensors *from;

/* The tensors of an export, to be left out and added to. */
static void take_items(const ModelPreset *preset, Module *model)
{
    if (io_save_weights(model, preset, at("m"), &(WeightsSaving){.overwrite = 1}))
        fail_msg("%s", error_message());
    from = safetensors_open(at("m"));
    item_count = safetensors_count(from);
    for (int i = 0; i < item_count; i++) {
        const SafetensorsEntry *entry = safetensors_at(from, i);
        items[i] = (SafetensorsItem){entry->name, entry->type, entry->ndim, {0}, .data = entry->data};
        memcpy(items[i].dim, entry->dim, sizeof entry->dim);
    }
}

static SafetensorsItem *item_named(const char *name)
{
    for (int i = 0; i < item_count; i++)
        if (!strcmp(items[i].name, name))
            return &items[i];
    fail_msg("there is no %s", name);
    return NULL;
}

static void add_whole(Module *model, const char *parameter, const char *name)
{
    Tensor *tensor = nn_parameter(model, parameter);
    Shape shape = tensor_shape(tensor);
    items[item_count] = (SafetensorsItem){name, SAFETENSORS_F32, 3, {0}, .data = tensor_f32(tensor)};
    memcpy(items[item_count++].dim, shape.dim, sizeof shape.dim);
}

static const char *write_items(void)
{
    if (safetensors_write(at("x.safetensors"), items, item_count))
        fail_msg("%s", error_message());
    return at("x.safetensors");
}

static void refuses(const ModelPreset *preset, int code, const char *word, const char *other)
{
    Module *model = model_of(preset, 700), *same = model_of(preset, 700);
    if (io_load_weights(model, write_items(), NULL, NULL) != code)
        fail_msg("%s", error_message());
    assert_error(code, "x.safetensors", word, other);
    assert_same_values(model, same);
}

static void remove_where(const char *part)
{
    for (int i = 0; i < item_count; i++)
        if (strstr(items[i].name, part))
            items[i--] = items[--item_count];
}

/* As transformers' own modules call them: all experts in a tensor. */
static void test_one_tensor_for_all(void **state)
{
    (void)state;
    for (int f = 0; f < MIXTURES; f++) {
        ModelPreset preset = family(families[f]);
        Module *model = model_of(&preset, 1), *other = model_of(&preset, 500);
        take_items(&preset, model);
        remove_where(f ? "layers.1.mlp.experts" : "layers.1.block_sparse_moe.experts");
        add_whole(model, gate_up, gate_up);
        add_whole(model, down, "layers.1.mlp.experts.down_proj"); /* without the prefix */
        WeightsReport report;
        if (io_load_weights(other, write_items(), NULL, &report))
            fail_msg("%s", error_message());
        assert_int_equal(report.loaded, nn_parameters(model).count);
        assert_int_equal(report.ignored, 0);
        assert_same_values(model, other);
        if (f == 0) { /* the block by the name that it has in files */
            items[item_count - 2].name = "model.layers.1.block_sparse_moe.experts.gate_up_proj";
            assert_int_equal(io_load_weights(other, write_items(), NULL, NULL), 0);
        }
    }
}

static void test_refusals(void **state)
{
    (void)state;
    for (int f = 0; f < MIXTURES; f++) {
        ModelPreset preset = family(families[f]);
        Module *model = model_of(&preset, 1);
        const char *matrix = first_matrix[f];
        char another[96], beyond[96];
        take_items(&preset, model);
        SafetensorsItem *item = item_named(matrix), kept = *item;
        /* Two forms of one parameter, and one form twice. */
        add_whole(model, gate_up, gate_up);
        refuses(&preset, ERROR_DATA, "are the same parameter", gate_up);
        item_count--;
        items[item_count++] = (SafetensorsItem){
            matrix + strlen("model."), SAFETENSORS_F32, 2, {kept.dim[0], kept.dim[1]}, .data = kept.data};
        refuses(&preset, ERROR_DATA, "are the same parameter", matrix);
        item_count--;
        /* Too few, and too many. */
        *item = items[--item_count];
        refuses(&preset, ERROR_DATA, "1 parameter is missing", matrix);
        items[item_count++] = *item;
        *item = kept;
        item->name = beyond;
        snprintf(beyond, sizeof beyond, "%.*s9%s", (int)(strstr(matrix, ".0.") + 1 - matrix), matrix,
                 strstr(matrix, ".0.") + 2);
        refuses(&preset, ERROR_DATA, matrix, beyond);
        snprintf(another, sizeof another, "%.*s00%s", (int)(strstr(matrix, ".0.") + 1 - matrix), matrix,
                 strstr(matrix, ".0.") + 2);
        item->name = another; /* no number that anybody writes */
        refuses(&preset, ERROR_DATA, matrix, another);
        /* Other shapes and types. */
        *item = kept;
        item->dim[0]--;
        refuses(&preset, ERROR_SHAPE, matrix, "shapes differ");
        *item = kept;
        item->type = SAFETENSORS_I32;
        refuses(&preset, ERROR_DATA, matrix, "I32");
        safetensors_close(from);
    }
}

/* --init-partial: a parameter some of whose matrices are not there keeps its values. */
static void test_partial(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_MIXTRAL);
    Module *model = model_of(&preset, 1), *other = model_of(&preset, 500), *before = model_of(&preset, 500);
    take_items(&preset, model);
    remove_where("layers.1.block_sparse_moe.experts.2.w3");
    WeightsReport report;
    assert_int_equal(io_load_weights(other, write_items(), &(WeightsOptions){.partial = 1}, &report), 0);
    assert_int_equal(report.missing, 1);
    assert_int_equal(report.loaded, nn_parameters(model).count - 1);
    assert_non_null(strstr(report.note, "experts.2.w3.weight"));
    Tensor *kept = nn_parameter(other, gate_up), *was = nn_parameter(before, gate_up);
    assert_memory_equal(tensor_f32(kept), tensor_f32(was), (size_t)tensor_numel(kept) * sizeof(float));
    assert_memory_equal(tensor_f32(nn_parameter(other, down)), tensor_f32(nn_parameter(model, down)), 64);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static int save_and_load(Module *model, const ModelPreset *preset)
{
    int status = save(model, preset, "new");
    return status ? status : io_load_weights(model, at("good"), NULL, NULL);
}

static void test_every_allocation_fails(void **state)
{
    (void)state;
    for (int f = 0; f < MIXTURES; f++) {
        ModelPreset preset = family(families[f]);
        Module *model = model_of(&preset, 1), *same = model_of(&preset, 1);
        assert_int_equal(io_save_weights(model, &preset, at("good"), &(WeightsSaving){.overwrite = 1}), 0);
        assert_int_equal(io_save_weights(model, &preset, at("new"), &(WeightsSaving){.overwrite = 1}), 0);
        uint64_t live = memtrack_process_live();
        int n = 1;
        for (int passed = 0; !passed; n++) {
            memtrack_fail_nth((uint64_t)n);
            int status = save_and_load(model, &preset);
            passed = memtrack_fail_pending();
            memtrack_fail_nth(0);
            assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
            assert_int_equal(memtrack_process_live(), live);
            error_clear();
            assert_same_values(model, same);
        }
        assert_true(n > 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_matrices_of_each),
        TEST(test_types),
        TEST(test_one_tensor_for_all),
        TEST(test_refusals),
        TEST(test_partial),
        TEST(test_quantized),
        TEST(test_every_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
