/* Weights by name: every family out and in again, the names that checkpoints use for the same parameters,
 * errors that list what does not fit, and the memory of it: none in the books, none twice, the plan
 * unchanged. */
#include <math.h>

#include "json_support.h"
#include "weights_support.h"

/* ---- Models ---------------------------------------------------------------------------------- */

static void assert_same_values(Module *a, Module *b)
{
    TensorList x = nn_parameters(a), y = nn_parameters(b);
    assert_int_equal(x.count, y.count);
    for (int i = 0; i < x.count; i++)
        if (memcmp(tensor_f32(x.items[i]), tensor_f32(y.items[i]),
                   (size_t)tensor_numel(x.items[i]) * sizeof(float)))
            fail_msg("%s differs", tensor_name(x.items[i]));
}

static ModelPreset all_presets[12];
static const RopeScaling llama3 = {.kind = ROPE_SCALING_LLAMA3,
                                   .factor = 8,
                                   .low_freq_factor = 1,
                                   .high_freq_factor = 4,
                                   .original_max_seq = 100};

/* Every family, and Llama's variants. */
static int make_presets(void)
{
    int n = 0;
    for (int i = 0; i < FAMILIES; i++)
        all_presets[n++] = family((ModelFamily)i);
    ModelPreset p = family(MODEL_LLAMA);
    LlamaConfig *c = &p.config.llama;
    c->tied = 1;
    all_presets[n++] = p;
    c->qkv_bias = 1;
    c->rope_theta = 1e6f;
    c->norm_eps = 1e-6f;
    all_presets[n++] = p; /* Qwen2 */
    c->o_bias = c->mlp_bias = 1;
    c->tied = 0;
    c->head_dim = 10;
    c->rope_scaling = llama3;
    all_presets[n++] = p;
    c->qkv_bias = c->o_bias = c->mlp_bias = 0;
    c->rope_scaling = (RopeScaling){.kind = ROPE_SCALING_LINEAR, .factor = 2.5f};
    all_presets[n++] = p;
    p = family(MODEL_BERT);
    p.config.bert.dropout = 0.1f;
    all_presets[n++] = p;
    p.config.bert.pooler = 1;
    all_presets[n++] = p;
    return n;
}

/* ---- Out and in ------------------------------------------------------------------------------ */

static void assert_same_config(const ModelPreset *a, const char *directory)
{
    IoModel read;
    if (io_read_config(directory, &read))
        fail_msg("%s", error_message());
    const ModelPreset *b = &read.preset;
    assert_int_equal(a->family, b->family);
    assert_int_equal(nn_preset_max_seq(a), nn_preset_max_seq(b));
    assert_true(nn_preset_dropout(a) == nn_preset_dropout(b));
    if (a->family != MODEL_LLAMA)
        return;
    const LlamaConfig *x = &a->config.llama, *y = &b->config.llama;
    assert_memory_equal(&x->rope_scaling, &y->rope_scaling, sizeof x->rope_scaling);
    assert_true((x->rope_theta > 0 ? x->rope_theta : 10000) == y->rope_theta);
    assert_true((x->norm_eps > 0 ? x->norm_eps : 1e-5f) == y->norm_eps);
    assert_int_equal(x->qkv_bias * 4 + x->o_bias * 2 + x->mlp_bias,
                     y->qkv_bias * 4 + y->o_bias * 2 + y->mlp_bias);
    assert_string_equal(read.note, "");
}

static void test_every_family(void **state)
{
    (void)state;
    for (int i = 0, n = make_presets(); i < n; i++) {
        int scope = tensor_scope_begin();
        ModelPreset preset = all_presets[i];
        int mlp = preset.family == MODEL_MLP;
        Module *model = model_of(&preset, 100), *other = model_of(&preset, 900);
        if (save(model, &preset, "m") || io_load_weights(other, at("m"), NULL, NULL))
            fail_msg("%d: %s", i, error_message());
        assert_same_values(model, other);
        assert_int_equal(files_in(at("m")), mlp ? 1 : 2);
        if (!mlp) {
            assert_same_config(&preset, at("m"));
            IoModel read;
            assert_int_equal(io_read_config(at("m"), &read), 0);
            read.preset.config.bert.pooler |= preset.family == MODEL_BERT && preset.config.bert.pooler;
            other = model_of(&read.preset, 500);
            assert_int_equal(io_load_weights(other, at("m/model.safetensors"), NULL, NULL), 0);
            assert_same_values(model, other);
        }
        unlink(at("m/model.safetensors"));
        unlink(at("m/config.json"));
        tensor_scope_end(scope);
    }
}

static void test_half_precision(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1), *other = model_of(&preset, 50);
    static const SafetensorsType types[] = {SAFETENSORS_F16, SAFETENSORS_BF16};
    static const double largest[] = {0x1p-11, 0x1p-8}; /* half a unit in the last place */
    for (int i = 0; i < 2; i++) {
        WeightsReport report;
        assert_int_equal(io_save_weights(model, &preset, at("h"), &(WeightsSaving){.type = types[i]}), 0);
        assert_int_equal(io_load_weights(other, at("h"), NULL, &report), 0);
        assert_int_equal(report.loaded, nn_parameters(model).count);
        assert_int_equal(report.ignored + report.missing + report.unexpected, 0);
        TensorList x = nn_parameters(model), y = nn_parameters(other);
        for (int p = 0; p < x.count; p++)
            for (int64_t j = 0; j < tensor_numel(x.items[p]); j++) {
                double a = (double)tensor_f32(x.items[p])[j], b = (double)tensor_f32(y.items[p])[j];
                assert_true(fabs(a - b) <= largest[i] * fabs(a) + 0x1p-25);
            }
    }
    size_t n;
    unsigned char *config = get_file(at("h/config.json"), &n);
    assert_non_null(strstr((char *)config, "\"torch_dtype\": \"bfloat16\""));
    test_free(config);
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* A saved model's tensors as items, to be renamed, left out and added to. */
static SafetensorsItem items[128];
static char renamed[128][96];
static int item_count;

static void take_items(Module *model)
{
    TensorList list = nn_parameters(model);
    item_count = list.count;
    for (int i = 0; i < list.count; i++) {
        Shape shape = tensor_shape(list.items[i]);
        items[i] = (SafetensorsItem){
            tensor_name(list.items[i]), SAFETENSORS_F32, shape.ndim, {0}, .data = tensor_f32(list.items[i])};
        memcpy(items[i].dim, shape.dim, sizeof shape.dim);
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

static void add_item(const char *name, SafetensorsType type, int64_t n, const void *data)
{
    items[item_count++] = (SafetensorsItem){name, type, 1, {n}, .data = data};
}

static void add_copy(const char *name, const char *of)
{
    items[item_count] = *item_named(of);
    items[item_count++].name = name;
}

static void remove_item(const char *name)
{
    *item_named(name) = items[item_count - 1];
    item_count--;
}

static void drop_prefix(const char *prefix)
{
    for (int i = 0; i < item_count; i++)
        if (!strncmp(items[i].name, prefix, strlen(prefix)))
            items[i].name += strlen(prefix);
}

static void replace_in_names(const char *from, const char *to)
{
    for (int i = 0; i < item_count; i++) {
        const char *found = strstr(items[i].name, from);
        if (!found)
            continue;
        snprintf(renamed[i], sizeof renamed[i], "%.*s%s%s", (int)(found - items[i].name), items[i].name, to,
                 found + strlen(from));
        items[i].name = renamed[i];
    }
}

static const char *write_items(void)
{
    if (safetensors_write(at("x.safetensors"), items, item_count))
        fail_msg("%s", error_message());
    return at("x.safetensors");
}

static void loads(Module *model, const ModelPreset *preset, int ignored)
{
    WeightsReport report;
    Module *other = model_of(preset, 700);
    if (io_load_weights(other, write_items(), NULL, &report))
        fail_msg("%s", error_message());
    assert_int_equal(report.ignored, ignored);
    assert_int_equal(report.loaded, nn_parameters(model).count);
    assert_string_equal(report.note, "");
    assert_same_values(model, other);
}

static void test_gpt2_names(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    take_items(model);
    loads(model, &preset, 0);
    drop_prefix("transformer.");
    loads(model, &preset, 0);
    add_copy("lm_head.weight", "wte.weight");
    loads(model, &preset, 1);
    add_item("h.0.attn.bias", SAFETENSORS_U8, 4, "\1\0\1\1");
    add_item("transformer.h.1.attn.masked_bias", SAFETENSORS_I64, 0, NULL);
    loads(model, &preset, 3);
    remove_item("wte.weight"); /* stored as the head alone */
    loads(model, &preset, 2);
}

static void test_llama_names(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_LLAMA), tied = preset;
    tied.config.llama.tied = 1;
    Module *model = model_of(&preset, 1);
    take_items(model);
    drop_prefix("model.");
    add_item("layers.1.self_attn.rotary_emb.inv_freq", SAFETENSORS_F32, 0, NULL);
    loads(model, &preset, 1);
    model = model_of(&tied, 1);
    take_items(model);
    loads(model, &tied, 0);
    add_copy("lm_head.weight", "model.embed_tokens.weight");
    loads(model, &tied, 1);
    remove_item("model.embed_tokens.weight");
    loads(model, &tied, 0);
}

static void test_bert_names(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_BERT), encoder = preset;
    encoder.config.bert.pooler = 1;
    Module *model = model_of(&preset, 1);
    take_items(model);
    add_copy("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight");
    add_copy("cls.predictions.decoder.bias", "cls.predictions.bias");
    add_item("cls.seq_relationship.bias", SAFETENSORS_F32, 0, NULL);
    add_item("bert.pooler.dense.bias", SAFETENSORS_F32, 0, NULL);
    add_item("bert.embeddings.position_ids", SAFETENSORS_I64, 0, NULL);
    loads(model, &preset, 5);
    replace_in_names("LayerNorm.weight", "LayerNorm.gamma"); /* as TensorFlow wrote them */
    replace_in_names("LayerNorm.bias", "LayerNorm.beta");
    loads(model, &preset, 5);
    model = model_of(&encoder, 1); /* as sentence-transformers writes one */
    take_items(model);
    drop_prefix("bert.");
    add_item("embeddings.position_ids", SAFETENSORS_I64, 0, NULL);
    loads(model, &encoder, 1);
    add_item("cls.predictions.bias", SAFETENSORS_F32, 0, NULL);
    add_item("cls.predictions.transform.dense.bias", SAFETENSORS_F32, 0, NULL);
    loads(model, &encoder, 3);
}

/* ---- What does not fit ----------------------------------------------------------------------- */

/* Refused, with nothing changed. */
static void refuses(const ModelPreset *preset, int code, const char *word, const char *other)
{
    Module *model = model_of(preset, 700), *same = model_of(preset, 700);
    assert_int_equal(io_load_weights(model, write_items(), NULL, NULL), code);
    assert_error(code, "x.safetensors", word, other);
    assert_same_values(model, same);
}

static void test_refusals(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    static float other[SMALL_VOCAB * 32];
    take_items(model);
    remove_item("transformer.h.1.mlp.c_fc.bias");
    refuses(&preset, ERROR_DATA, "1 parameter is missing", "transformer.h.1.mlp.c_fc.bias");
    remove_item("transformer.ln_f.bias");
    add_item("transformer.h.2.x", SAFETENSORS_F32, 0, NULL);
    refuses(&preset, ERROR_DATA, "2 parameters are missing",
            "1 tensor is not the model's: \"transformer.h.2.x\"");
    take_items(model);
    add_item("surprise", SAFETENSORS_I8, 0, NULL);
    refuses(&preset, ERROR_DATA, "1 tensor is not the model's", "surprise");
    take_items(model);
    item_named("transformer.h.0.attn.c_attn.weight")->dim[0] = 96; /* (out,in), as a linear layer has it */
    item_named("transformer.h.0.attn.c_attn.weight")->dim[1] = 32;
    refuses(&preset, ERROR_SHAPE, "c_attn.weight\" is (96,32), in the model (32,96)", "shapes differ");
    take_items(model);
    item_named("transformer.ln_f.bias")->type = SAFETENSORS_I32;
    refuses(&preset, ERROR_DATA, "only F32, F16 and BF16 are read", "\"transformer.ln_f.bias\" is I32");
    take_items(model);
    add_copy("wte.weight", "transformer.wte.weight");
    refuses(&preset, ERROR_DATA, "\"transformer.wte.weight\"", "are the same parameter");
    take_items(model);
    add_copy("lm_head.weight", "transformer.wte.weight");
    items[item_count - 1].data = other;
    refuses(&preset, ERROR_DATA, "\"lm_head.weight\" differs from \"transformer.wte.weight\"", "tied head");
    item_count = 0; /* every name of the model */
    refuses(&preset, ERROR_DATA, "28 parameters are missing: transformer.wte.weight, ", " more");
    assert_int_equal(io_load_weights(NULL, "x", NULL, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "model is NULL");
    assert_int_equal(io_load_weights(model, NULL, NULL, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "path is NULL");
}

static void test_partial(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_BERT), encoder = preset;
    encoder.config.bert.pooler = 1;
    Module *body = model_of(&encoder, 1), *model = model_of(&preset, 700), *same = model_of(&preset, 700);
    WeightsReport report;
    take_items(body);
    drop_prefix("bert.");
    add_item("surprise", SAFETENSORS_F32, 0, NULL);
    assert_int_equal(io_load_weights(model, write_items(), NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "5 parameters are missing: cls.predictions.bias", "surprise");
    assert_same_values(model, same);
    assert_int_equal(io_load_weights(model, write_items(), &(WeightsOptions){.partial = 1}, &report), 0);
    assert_int_equal(report.missing, 5);
    assert_int_equal(report.unexpected, 1);
    assert_int_equal(report.ignored, 2); /* the pooler */
    assert_non_null(
        strstr(report.note, "5 of 42 parameters are not in the file and keep their values: cls."));
    const char *const kept = "cls.predictions.transform.dense.weight",
                      *const loaded = "bert.encoder.layer.1.output.dense.bias";
    assert_memory_equal(tensor_f32(nn_parameter(model, kept)), tensor_f32(nn_parameter(same, kept)),
                        32 * 32 * 4);
    assert_memory_equal(tensor_f32(nn_parameter(model, loaded)), tensor_f32(nn_parameter(body, loaded)),
                        32 * 4);
    item_named("encoder.layer.0.output.dense.bias")->dim[0] = 31; /* a wrong shape is wrong all the same */
    assert_int_equal(io_load_weights(model, write_items(), &(WeightsOptions){.partial = 1}, &report),
                     ERROR_SHAPE);
    assert_error(ERROR_SHAPE, "is (31), in the model (32)");
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Loading is no event of the books, planned or real: the weights go where the parameters are. */
static void test_books_and_plan(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_LLAMA);
    assert_int_equal(save(model_of(&preset, 1), &preset, "m"), 0);
    uint64_t hash[4];
    for (int i = 0; i < 4; i++) {
        Visit v = visit(&(ContextOptions){.meta = i / 2, .threads = 1});
        Module *model = nn_model(&preset);
        uint64_t host = memtrack_host_live(context_tracker(context_current()));
        nn_parameters(model);
        uint64_t listed = memtrack_host_live(context_tracker(context_current())) - host;
        if (i % 2) {
            WeightsReport report;
            assert_int_equal(io_load_weights(model, at("m"), NULL, &report), 0);
            assert_int_equal(report.loaded, nn_parameters(model).count); /* on meta too */
            assert_int_equal(memtrack_host_live(context_tracker(context_current())), host + listed);
        }
        hash[i] = books()->event_hash;
        leave(v);
    }
    assert_true(hash[0] == hash[1] && hash[2] == hash[3]);
    /* On meta what does not fit is known before anything is read. */
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
    preset.config.llama.hidden = 40;
    assert_int_equal(io_load_weights(nn_model(&preset), at("m"), NULL, NULL), ERROR_SHAPE);
    assert_error(ERROR_SHAPE, "mlp.gate_proj.weight", "in the model (40,32)");
    assert_int_equal(io_save_weights(nn_model(&preset), &preset, at("never"), NULL), 0);
    assert_true(access(at("never"), F_OK) != 0);
    leave(v);
}

/* From now on the peak of what is resident; 0 where the system does not say so. */
static int peak_from_here(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    int done = file && fputs("5", file) >= 0;
    return (file ? fclose(file) == 0 : 0) && done;
}

/* 64 MiB of weights make the process no larger while they are loaded: neither mapped pages nor a copy stay.
 */
static void test_not_twice(void **state)
{
    (void)state;
    enum { MIB = 1 << 20 };
    Module *model = nn_linear(4096, 4096, 0);
    Tensor *weight = nn_parameter(model, "weight");
    assert_int_equal(save(model, NULL, "big"), 0);
    float last = tensor_f32(weight)[4096 * 4096 - 1];
    tensor_fill(weight, 0);
    uint64_t before = memtrack_process_resident(), live = memtrack_process_live();
    int measured = peak_from_here();
#ifdef __SANITIZE_THREAD__
    measured = 0; /* its shadow is resident too */
#endif
    assert_int_equal(io_load_weights(model, at("big"), NULL, NULL), 0);
    if (measured)
        assert_true(memtrack_process_resident_peak() < before + 8 * MIB);
    assert_true(tensor_f32(weight)[4096 * 4096 - 1] == last);
    assert_int_equal(memtrack_process_live(), live);
    assert_int_equal(books()->peak, rounded(4096 * 4096));
}

static int save_and_load(Module *model, const ModelPreset *preset)
{
    int status = save(model, preset, "new");
    return status ? status : io_load_weights(model, at("good"), NULL, NULL);
}

static void test_no_memory(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_LLAMA);
    Module *model = model_of(&preset, 1), *same = model_of(&preset, 1);
    assert_int_equal(save(model, &preset, "good"), 0);
    assert_int_equal(save(model, &preset, "new"), 0);
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
        assert_int_equal(files_in(at("new")), 2);
        assert_int_equal(io_load_weights(model, at("new"), NULL, NULL), 0); /* whole, old or new */
    }
    assert_true(n > 8);
}

/* One that is lost must not be left out in silence: a field, or a dimension of a shape. */
static void test_one_json_allocation_fails(void **state)
{
    (void)state;
    static const char *const names[] = {"all/config.json", "all/model.safetensors"};
    ModelPreset preset = family(MODEL_LLAMA);
    preset.config.llama.rope_scaling = llama3;
    Module *model = model_of(&preset, 1);
    unsigned char *whole[2];
    size_t size[2], now;
    int failed = 0;
    assert_int_equal(save(model, &preset, "all"), 0);
    for (int i = 0; i < 2; i++)
        whole[i] = get_file(at(names[i]), &size[i]);
    for (int n = 1, passed = 0; !passed; n++) {
        json_fail_nth(n); /* jansson's parser does not survive it: what is there is not looked at */
        failed += io_save_weights(model, &preset, at("all"), &(WeightsSaving){.overwrite = 1}) != 0;
        passed = json_fail_pending();
        json_allow_all();
        assert_int_equal(json_live, 0);
        error_clear();
        for (int i = 0; i < 2; i++) {
            unsigned char *text = get_file(at(names[i]), &now);
            if (now != size[i] || memcmp(text, whole[i], now))
                fail_msg("allocation %d: %s differs", n, names[i]);
            test_free(text);
        }
        assert_int_equal(files_in(at("all")), 2);
    }
    assert_true(failed > 100);
    for (int i = 0; i < 2; i++)
        test_free(whole[i]);
}

/* ---- Where it cannot be saved ---------------------------------------------------------------- */

static void test_bad_places(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = nn_model(&preset);
    assert_int_equal(io_check_directory(at("a/b")), ERROR_FILE);
    assert_error(ERROR_FILE, "a/b: cannot make the directory", "No such file");
    put_file(at("file"), "x", 1);
    assert_int_equal(save(model, &preset, "file"), ERROR_FILE);
    assert_error(ERROR_FILE, "file is not a directory");
    assert_int_equal(io_check_directory(at("new")), 0);
    assert_int_equal(files_in(at("new")), 0);
    assert_int_equal(io_save_weights(model, &preset, at("new"), &(WeightsSaving){.type = SAFETENSORS_I32}),
                     ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "F32, F16 or BF16, not I32");
    assert_int_equal(io_save_weights(NULL, &preset, "x", NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "model is NULL");
    ModelPreset biased = family(MODEL_LLAMA);
    biased.config.llama.o_bias = 1;
    assert_int_equal(io_write_config(&biased, at("new/config.json"), SAFETENSORS_F32), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "o_bias but no qkv_bias");
    biased.config.llama = (LlamaConfig){.qkv_bias = 1, .mlp_bias = 1};
    assert_int_equal(io_write_config(&biased, at("new/config.json"), SAFETENSORS_F32), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "qkv_bias and mlp_bias but no o_bias");
    /* Where the configuration cannot be there are no weights either. */
    assert_int_equal(mkdir(at("half"), 0777), 0);
    assert_int_equal(mkdir(at("half/config.json"), 0777), 0);
    assert_int_equal(io_save_weights(model, &preset, at("half"), &(WeightsSaving){.overwrite = 1}),
                     ERROR_FILE);
    assert_error(ERROR_FILE, "half/config.json");
    assert_int_equal(files_in(at("half")), 1);
    ModelPreset mlp = family(MODEL_MLP);
    assert_int_equal(io_write_config(&mlp, at("new/config.json"), SAFETENSORS_F32), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "transformers has no mlp");
    assert_int_equal(io_write_config(NULL, "x", SAFETENSORS_F32), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "preset is NULL");
    tensor_fill(nn_parameter(model, "transformer.ln_f.bias"), 1e6f);
    assert_int_equal(io_save_weights(model, &preset, at("new"), &(WeightsSaving){.type = SAFETENSORS_F16}),
                     ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "transformer.ln_f.bias", "holds 1e+06");
    assert_int_equal(files_in(at("new")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_family),
        TEST(test_half_precision),
        TEST(test_gpt2_names),
        TEST(test_llama_names),
        TEST(test_bert_names),
        TEST(test_refusals),
        TEST(test_partial),
        TEST(test_books_and_plan),
        TEST(test_not_twice),
        TEST(test_no_memory),
        TEST(test_one_json_allocation_fails),
        TEST(test_bad_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
