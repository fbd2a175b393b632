/* Checkpoints that bitsandbytes quantised, as transformers writes them: their codes and scales become
 * parameters bit for bit, models compute the logits that transformers computes, and what does not fit is
 * refused by name. */
#include <math.h>

#include "../base/quant_codes_.h"
#include "../io/safetensors_.h"
#include "../tensor/tensor_.h"
#include "json_support.h"
#include "weights_support.h"

#define CHECKPOINTS "tests/precision/fixtures/ckpt_"

typedef struct Checkpoint {
    const char *name;
    DType quantized;
    SafetensorsType rest; /* of what is not quantised */
    double tolerance; /* of logits; the first ones are computed in bf16, int8's with rounded activations */
} Checkpoint;

static const Checkpoint checkpoints[] = {
    {"nf4", DTYPE_NF4_PLAIN, SAFETENSORS_BF16, 3e-2},
    {"nf4_dq", DTYPE_NF4, SAFETENSORS_BF16, 3e-2},
    {"nf4_dq_bf16store", DTYPE_NF4, SAFETENSORS_BF16, 3e-2},
    {"int8", DTYPE_INT8, SAFETENSORS_BF16, 6e-2},
    {"nf4_dq_gpt2", DTYPE_NF4, SAFETENSORS_F32, 1e-4},
    {"nf4_dq_bert", DTYPE_NF4, SAFETENSORS_F32, 1e-4},
    {"nf4_dq_llama_tied", DTYPE_NF4, SAFETENSORS_F32, 1e-4},
};

static const char *path_of(const Checkpoint *c, const char *file)
{
    static char path[2][128];
    static int next;
    char *to = path[next++ % 2];
    snprintf(to, sizeof path[0], CHECKPOINTS "%s%s%s", c->name, file[0] ? "/" : "", file);
    return to;
}

/* The model that a directory describes: quantised as there, or of floats. */
static Module *model_from(const char *directory, DType rest, int quantized)
{
    IoModel read;
    assert_int_equal(io_read_config(directory, &read), 0);
    nn_set_weights(&(Weights){.dtype = rest,
                              .quantized = quantized ? read.quantized : DTYPE_F32,
                              .not_quantized = read.not_quantized});
    Module *model = nn_model(&read.preset);
    nn_set_weights(NULL);
    assert_fine();
    return model;
}

/* ---- Bit for bit ----------------------------------------------------------------------------- */

static const SafetensorsEntry *beside(const Safetensors *file, const char *name, const char *end)
{
    char whole[160];
    snprintf(whole, sizeof whole, "%s%s", name, end);
    const SafetensorsEntry *entry = safetensors_find(file, whole);
    if (!entry)
        fail_msg("no %s", whole);
    return entry;
}

static void assert_bytes(const SafetensorsEntry *entry, const unsigned char *at, uint64_t bytes)
{
    assert_int_equal(entry->bytes, bytes);
    if (memcmp(entry->data, at, bytes))
        fail_msg("%s differs", entry->name);
}

static void assert_parts(const Safetensors *file, Tensor *t)
{
    const char *name = tensor_name(t);
    const unsigned char *at = tensor_data(t);
    DType dtype = tensor_dtype(t);
    QuantLayout l = quant_layout(dtype, tensor_dim(t, 0), tensor_dim(t, 1));
    assert_bytes(beside(file, name, ""), at, l.codes_bytes);
    if (dtype == DTYPE_INT8) {
        char module[128];
        snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
        assert_bytes(beside(file, module, ".SCB"), at + l.scales, 4 * (uint64_t)tensor_dim(t, 0));
        return;
    }
    assert_bytes(beside(file, name, ".absmax"), at + l.scales,
                 (dtype == DTYPE_NF4 ? 1 : 4) * (uint64_t)l.blocks);
    if (dtype == DTYPE_NF4_PLAIN)
        return;
    assert_bytes(beside(file, name, ".nested_absmax"), at + l.group_scales, 4 * (uint64_t)l.groups);
    const SafetensorsEntry *state = beside(file, name, ".quant_state.bitsandbytes__nf4");
    const char *offset = memmem(state->data, state->bytes, "\"nested_offset\":", 16);
    assert_non_null(offset);
    float value = strtof(offset + 16, NULL);
    assert_memory_equal(&value, at + l.offset, sizeof value);
}

static void test_codes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++) {
        const Checkpoint *c = &checkpoints[i];
        IoModel read;
        assert_int_equal(io_read_config(path_of(c, ""), &read), 0);
        assert_int_equal(read.quantized, c->quantized);
        assert_non_null(strstr(read.note, dtype_name(c->quantized)));
        Module *model = model_from(path_of(c, ""), DTYPE_BF16, 1);
        uint64_t allocations = books()->allocations;
        WeightsReport report;
        assert_int_equal(io_load_weights(model, path_of(c, ""), NULL, &report), 0);
        assert_int_equal(report.loaded, nn_parameters(model).count);
        assert_int_equal(report.unexpected + report.missing, 0);
        if (c->rest == SAFETENSORS_BF16) /* nothing is converted, so there is no buffer */
            assert_int_equal(books()->allocations, allocations);
        Safetensors *file = safetensors_open(path_of(c, "model.safetensors"));
        TensorList list = nn_parameters(model);
        int quantized = 0;
        for (int k = 0; k < list.count; k++)
            if (dtype_is_quantized(tensor_dtype(list.items[k]))) {
                assert_parts(file, list.items[k]);
                quantized++;
            }
        for (int k = 0; k < safetensors_count(file); k++) {
            const char *name = safetensors_at(file, k)->name;
            quantized -= strstr(name, ".quant_state.") || strstr(name, ".SCB");
        }
        assert_int_equal(quantized, 0); /* as many as in the file */
    }
}

/* ---- Logits ---------------------------------------------------------------------------------- */

static void check_logits(const Checkpoint *c, DType rest, int quantized)
{
    int scope = tensor_scope_begin();
    Module *model = model_from(path_of(c, ""), rest, quantized);
    assert_int_equal(io_load_weights(model, path_of(c, ""), NULL, NULL), 0);
    Safetensors *file = safetensors_open(path_of(c, "logits.safetensors"));
    const SafetensorsEntry *ids = safetensors_find(file, "ids"), *logits = safetensors_find(file, "logits");
    int32_t zeros[32] = {0}, ones[32];
    for (int i = 0; i < 32; i++)
        ones[i] = 1;
    Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(2, 16), MEM_INPUT, ids->data),
                   .types = tensor_from(DTYPE_I32, SHAPE(2, 16), MEM_INPUT, zeros),
                   .mask = tensor_from(DTYPE_I32, SHAPE(2, 16), MEM_INPUT, ones)};
    float *expected = test_malloc(logits->bytes);
    memcpy(expected, logits->data, logits->bytes);
    nn_eval(model);
    tensor_no_grad_begin();
    const float *y = tensor_f32(nn_forward(model, NULL, &batch));
    tensor_no_grad_end();
    assert_fine();
    for (int64_t i = 0; i < logits->numel; i++)
        if (!(fabs((double)y[i] - (double)expected[i]) <= c->tolerance * (1 + fabs((double)expected[i]))))
            fail_msg("%s%s: logit %lld is %g, not %g", c->name, quantized ? "" : " decoded", (long long)i,
                     (double)y[i], (double)expected[i]);
    test_free(expected);
    tensor_scope_end(scope);
}

static void test_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        check_logits(&checkpoints[i], checkpoints[i].rest == SAFETENSORS_F32 ? DTYPE_F32 : DTYPE_BF16, 1);
}

/* The same files into models that are not quantised. */
static void test_decoded(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        check_logits(&checkpoints[i], DTYPE_F32, 0);
}

/* Written again, weights of any type are the numbers that they hold, the way files have them. */
static void check_export(DType dtype, DType quantized, SafetensorsType type)
{
    for (ModelFamily which = MODEL_GPT2; which <= MODEL_LLAMA; which++) {
        int scope = tensor_scope_begin();
        ModelPreset preset = family(which);
        nn_set_weights(&(Weights){.dtype = dtype, .quantized = quantized});
        Module *model = nn_model(&preset);
        nn_set_weights(NULL);
        assert_int_equal(io_save_weights(model, NULL, folder, &(WeightsSaving){.type = type, .overwrite = 1}),
                         0);
        Module *again = nn_model(&preset); /* of floats */
        assert_int_equal(io_load_weights(again, folder, NULL, NULL), 0);
        TensorList list = nn_parameters(model), other = nn_parameters(again);
        for (int i = 0; i < list.count; i++) {
            int64_t n = tensor_numel(list.items[i]);
            Tensor *held = tensor_new(DTYPE_F32, SHAPE(n), MEM_INPUT);
            tensor_decode_file_(list.items[i], 0, n, tensor_f32(held));
            double apart = difference(tensor_f32(held), tensor_f32(other.items[i]), n);
            int exact = type == SAFETENSORS_F32 || (!quantized && dtype_bytes(dtype, 1, 1) == 2);
            assert_true(exact ? apart == 0 : apart < 4e-3);
        }
        tensor_scope_end(scope);
    }
}

static void test_export(void **state)
{
    (void)state;
    check_export(DTYPE_BF16, 0, SAFETENSORS_F32);
    check_export(DTYPE_BF16, 0, SAFETENSORS_BF16);
    check_export(DTYPE_F16, 0, SAFETENSORS_F16);
    check_export(DTYPE_F32, DTYPE_NF4, SAFETENSORS_F32);
    check_export(DTYPE_BF16, DTYPE_INT8, SAFETENSORS_BF16);
}

/* ---- Planned --------------------------------------------------------------------------------- */

static uint64_t events_of(const Checkpoint *c, int meta, DType rest, int quantized)
{
    Visit v = visit(&(ContextOptions){.meta = meta, .threads = 1});
    Module *model = model_from(path_of(c, ""), rest, quantized);
    assert_int_equal(io_load_weights(model, path_of(c, ""), NULL, NULL), 0);
    uint64_t hash = books()->event_hash;
    leave(v);
    return hash;
}

/* What is allocated, in which order and where, does not depend on whether there are data. */
static void test_planned(void **state)
{
    (void)state;
    static const DType rests[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        for (int k = 0; k < 6; k++)
            if (events_of(&checkpoints[i], 1, rests[k / 2], k % 2) !=
                events_of(&checkpoints[i], 0, rests[k / 2], k % 2))
                fail_msg("%s, rest %s%s: planned otherwise", checkpoints[i].name, dtype_name(rests[k / 2]),
                         k % 2 ? "" : ", decoded");
}

/* ---- Configurations -------------------------------------------------------------------------- */

static void config_with(const char *quantization)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{'model_type':'llama','vocab_size':96,'hidden_size':64,'intermediate_size':96,"
             "'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,"
             "'max_position_embeddings':64,'rms_norm_eps':1e-6,'quantization_config':%s}",
             quantization);
    put_text("config.json", text);
}

static void test_configurations(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        DType quantized;
        const char *not_quantized;
    } good[] = {
        {"null", DTYPE_F32, ""},
        {"{}", DTYPE_F32, ""},
        {"{'quant_method':'bitsandbytes','load_in_8bit':true}", DTYPE_INT8, ""},
        {"{'quant_method':'bitsandbytes','load_in_4bit':true,'bnb_4bit_quant_type':'nf4'}", DTYPE_NF4_PLAIN,
         ""},
        {"{'quant_method':'bitsandbytes','load_in_4bit':true,'bnb_4bit_quant_type':'nf4',"
         "'bnb_4bit_use_double_quant':true,'llm_int8_skip_modules':['lm_head','q_proj']}",
         DTYPE_NF4, "lm_head,q_proj"},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        IoModel read;
        config_with(good[i].config);
        assert_int_equal(io_read_config(folder, &read), 0);
        assert_int_equal(read.quantized, good[i].quantized);
        assert_string_equal(read.not_quantized, good[i].not_quantized);
    }
    static const char *const bad[][2] = {
        {"{'quant_method':'gptq','bits':4}", "quant_method must be \"bitsandbytes\""},
        {"{'quant_method':'awq'}", "\"awq\""},
        {"{'bits':4}", "not quantised"},
        {"7", "quantization_config must be an object or null, not 7"},
        {"{'quant_method':'bitsandbytes'}", "both false"},
        {"{'quant_method':'bitsandbytes','load_in_4bit':true,'load_in_8bit':true}", "both true"},
        {"{'quant_method':'bitsandbytes','load_in_4bit':true}", "bnb_4bit_quant_type must be \"nf4\""},
        {"{'quant_method':'bitsandbytes','load_in_4bit':true,'bnb_4bit_quant_type':'fp4'}", "not \"fp4\""},
        {"{'quant_method':'bitsandbytes','load_in_8bit':true,'llm_int8_has_fp16_weight':true}", "anew"},
        {"{'quant_method':'bitsandbytes','load_in_8bit':true,'llm_int8_skip_modules':'lm_head'}",
         "a list of names"},
        {"{'quant_method':'bitsandbytes','load_in_8bit':true,'llm_int8_skip_modules':[3]}",
         "a list of names"},
        {"{'quant_method':'bitsandbytes','load_in_8bit':true,'llm_int8_skip_modules':['layers.*']}",
         "no patterns"},
        {"{'quant_method':'bitsandbytes','load_in_8bit':true,'bits_of_scales':5}", "bits_of_scales"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        IoModel read;
        config_with(bad[i][0]);
        assert_int_equal(io_read_config(folder, &read), ERROR_DATA);
        assert_error(ERROR_DATA, bad[i][1]);
    }
}

/* ---- Files that do not fit ------------------------------------------------------------------- */

/* A copy of a checkpoint's tensors, to be changed and written again. */
static SafetensorsItem items[160];
static unsigned char *contents[160];
static int item_count;

static void take_file(const char *path)
{
    int scope = tensor_scope_begin();
    static char names[160][96];
    Safetensors *file = safetensors_open(path);
    item_count = safetensors_count(file);
    assert_true(item_count > 0 && item_count <= 160);
    for (int i = 0; i < item_count; i++) {
        const SafetensorsEntry *e = safetensors_at(file, i);
        contents[i] = test_malloc(e->bytes + 1);
        memcpy(contents[i], e->data, e->bytes);
        snprintf(names[i], sizeof names[i], "%s", e->name);
        /* as bytes: the writer takes floats for 16 bits */
        items[i] = (SafetensorsItem){names[i], e->type, e->ndim, {0}, .data = contents[i]};
        memcpy(items[i].dim, e->dim, sizeof e->dim);
    }
    tensor_scope_end(scope);
}

static void free_file(void)
{
    for (int i = 0; i < item_count; i++)
        test_free(contents[i]);
}

static int index_of(const char *name)
{
    for (int i = 0; i < item_count; i++)
        if (!strcmp(items[i].name, name))
            return i;
    fail_msg("no %s", name);
    return -1;
}

#define Q "transformer.h.0.attn.c_attn.weight"

typedef struct Damage {
    const char *tensor;
    const char *from, *to; /* of a quant_state's text, as long as each other; NULL: other changes */
    int change; /* 1: not there, 2: half as many elements, 3: another type, 4: NaN, 5: another code */
    const char *says;
} Damage;

static const Damage damages[] = {
    {Q ".absmax", NULL, NULL, 1, "its absmax is not there"},
    {Q ".quant_map", NULL, NULL, 1, "its quant_map is not there"},
    {Q ".nested_absmax", NULL, NULL, 1, "its nested_absmax is not there"},
    {Q ".nested_quant_map", NULL, NULL, 1, "its nested_quant_map is not there"},
    {Q ".quant_state.bitsandbytes__nf4", NULL, NULL, 1, "no quant_state"},
    {Q, NULL, NULL, 2, "has 3072 bytes, and codes of (192,64) are 6144"},
    {Q ".absmax", NULL, NULL, 2, "its absmax is 96 numbers of U8, not 192 of U8"},
    {Q ".absmax", NULL, NULL, 3, "192 numbers of I8"},
    {Q ".nested_absmax", NULL, NULL, 4, "scale of scales that is not finite"},
    {Q ".quant_map", NULL, NULL, 5, "codes of its own (quant_map)"},
    {Q ".nested_quant_map", NULL, NULL, 5, "codes of its own (nested_quant_map)"},
    {Q ".quant_state.bitsandbytes__nf4", "\"nf4\"", "\"fp4\"", 0, "is quantised as \"fp4\""},
    {Q ".quant_state.bitsandbytes__nf4", "\"blocksize\":64", "\"blocksize\":32", 0,
     "blocks of 32; blocks of 64"},
    {Q ".quant_state.bitsandbytes__nf4", "\"nested_blocksize\":256", "\"nested_blocksize\":128", 0,
     "groups of 128"},
    {Q ".quant_state.bitsandbytes__nf4", "[192,64]", "[64,192]", 0,
     "is (64,192) of nf4, in the model (192,64)"},
    {Q ".quant_state.bitsandbytes__nf4", "[192,64]", "[19264]", 0, "shape of two dimensions"},
    {Q ".quant_state.bitsandbytes__nf4", "[192,64]", "[-92,64]", 0, "with the shape"},
    {Q ".quant_state.bitsandbytes__nf4", "[192,64]", "[192,32]", 0, "codes of (192,32) are 3072"},
    {Q ".quant_state.bitsandbytes__nf4", "{\"", "{_", 0, "not JSON"},
};

/* Texts of quant_state have spaces after colons and commas; the table of damages has none. */
static void without_spaces(char *text, int64_t *length)
{
    int64_t n = 0;
    for (int64_t i = 0; i < *length; i++)
        if (text[i] != ' ')
            text[n++] = text[i];
    *length = n;
    text[n] = 0;
}

static void apply(const Damage *d)
{
    int i = index_of(d->tensor);
    SafetensorsItem *item = &items[i];
    float *floats = (float *)(void *)contents[i];
    if (d->from) {
        without_spaces((char *)contents[i], &item->dim[0]);
        char *at_text = strstr((char *)contents[i], d->from);
        assert_non_null(at_text);
        size_t before = strlen(d->from), after = strlen(d->to);
        memmove(at_text + after, at_text + before, strlen(at_text + before) + 1);
        memcpy(at_text, d->to, after);
        item->dim[0] = (int64_t)strlen((char *)contents[i]);
    } else if (d->change == 1) {
        item->name = "other.bias";
    } else if (d->change == 2) {
        item->dim[0] /= 2;
    } else if (d->change == 3) {
        item->type = SAFETENSORS_I8;
    } else {
        floats[d->change == 4 ? 0 : 9] = d->change == 4 ? NAN : 0.25f;
    }
}

static void test_damages(void **state)
{
    (void)state;
    const Checkpoint *gpt2 = &checkpoints[4];
    Module *model = model_from(path_of(gpt2, ""), DTYPE_F32, 1);
    for (size_t i = 0; i < COUNT(damages); i++) {
        take_file(path_of(gpt2, "model.safetensors"));
        apply(&damages[i]);
        assert_int_equal(safetensors_write(at("damaged.safetensors"), items, item_count), 0);
        int status = io_load_weights(model, at("damaged.safetensors"), &(WeightsOptions){.partial = 1}, NULL);
        if (!status || !strstr(error_message(), damages[i].says))
            fail_msg("%zu: %s; expected %s", i, error_message(), damages[i].says);
        error_clear();
        free_file();
    }
}

/* Into a model of another quantised type: nothing is decoded to be encoded again. */
static void test_other_types(void **state)
{
    (void)state;
    ModelPreset preset;
    IoModel read;
    const Checkpoint *dq = &checkpoints[1], *int8 = &checkpoints[3];
    assert_int_equal(io_read_config(path_of(dq, ""), &read), 0);
    preset = read.preset;
    nn_set_weights(&(Weights){.quantized = DTYPE_NF4_PLAIN});
    Module *model = nn_model(&preset);
    nn_set_weights(NULL);
    assert_int_equal(io_load_weights(model, path_of(dq, ""), NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "is nf4, in the model nf4-plain", "--quantize");
    assert_int_equal(io_load_weights(model, path_of(int8, ""), NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "is int8, in the model nf4-plain");
}

static void test_int8_damages(void **state)
{
    (void)state;
    const Checkpoint *int8 = &checkpoints[3];
    static const Damage changes[] = {
        {"model.layers.0.mlp.down_proj.SCB", NULL, NULL, 2, "32 scales of F32"},
        {"model.layers.0.mlp.down_proj.SCB", NULL, NULL, 4, "scale that is not finite"},
        {"model.layers.0.mlp.down_proj.SCB", NULL, NULL, 1, "only F32, F16 and BF16 are read"},
        {"model.layers.0.mlp.down_proj.weight_format", NULL, NULL, 3, "weight_format that is not 0"},
    };
    for (size_t i = 0; i < COUNT(changes); i++) {
        Module *model = model_from(path_of(int8, ""), DTYPE_BF16, 1);
        take_file(path_of(int8, "model.safetensors"));
        int kept = 0; /* halves would be written as if they were floats */
        for (int k = 0; k < item_count; k++)
            if (items[k].type > SAFETENSORS_BF16 || items[k].type == SAFETENSORS_F32) {
                unsigned char *bytes = contents[k];
                contents[k] = contents[kept];
                contents[kept] = bytes;
                items[kept++] = items[k];
            }
        int all = item_count;
        item_count = kept;
        apply(&changes[i]);
        assert_int_equal(safetensors_write(at("damaged.safetensors"), items, kept), 0);
        int status = io_load_weights(model, at("damaged.safetensors"), &(WeightsOptions){.partial = 1}, NULL);
        if (!status || !strstr(error_message(), changes[i].says))
            fail_msg("%zu: %s; expected %s", i, error_message(), changes[i].says);
        error_clear();
        item_count = all;
        free_file();
    }
}

static void test_allocations_fail(void **state)
{
    (void)state;
    const Checkpoint *c = &checkpoints[4];
    Module *model = model_from(path_of(c, ""), DTYPE_BF16, 1);
    int n = 1;
    for (int passed = 0; !passed; n++) {
        uint64_t live = books()->live;
        memtrack_fail_nth((uint64_t)n);
        int status = io_load_weights(model, path_of(c, ""), NULL, NULL);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status != 0, !passed);
        error_clear();
        assert_int_equal(books()->live, live);
    }
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_codes),        TEST(test_logits),           TEST(test_decoded), TEST(test_planned),
        TEST(test_export),       TEST(test_configurations),   TEST(test_damages), TEST(test_other_types),
        TEST(test_int8_damages), TEST(test_allocations_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
