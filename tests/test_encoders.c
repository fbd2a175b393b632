/* Encoders beside BERT: what their files decide, what of a batch changes what is computed, and where they are
 * BERT. Values: tests/huggingface/encoders.py. */
#include <math.h>

#include "weights_support.h"

static const ModelFamily families[] = {MODEL_ROBERTA, MODEL_DISTILBERT, MODEL_MODERNBERT};

/* ---- As BERT --------------------------------------------------------------------------------- */

/* Values of the parameters of `from` whose path has the place of none in `without`; and of positions behind
 * `rows` rows of zeros. */
static void copy_values(Module *from, const char *without, Module *to, int64_t rows)
{
    TensorList a = nn_parameters(from), b = nn_parameters(to);
    int k = 0;
    for (int i = 0; i < a.count; i++) {
        if (without && strstr(tensor_name(a.items[i]), without))
            continue;
        int64_t skip = strstr(tensor_name(b.items[k]), "position") ? rows * tensor_dim(b.items[k], 1) : 0;
        assert_int_equal(tensor_numel(a.items[i]) + skip, tensor_numel(b.items[k]));
        memset(tensor_f32(b.items[k]), 0, (size_t)skip * sizeof(float));
        memcpy(tensor_f32(b.items[k++]) + skip, tensor_f32(a.items[i]),
               (size_t)tensor_numel(a.items[i]) * sizeof(float));
    }
    assert_int_equal(k, b.count);
}

static double loss_of(Module *model, const Batch *batch)
{
    double loss = (double)tensor_item(nn_loss(model, batch));
    assert_fine();
    return loss;
}

static void test_roberta_is_bert(void **state)
{
    (void)state;
    ModelPreset bert = family(MODEL_BERT), roberta = family(MODEL_ROBERTA);
    Module *a = model_of(&bert, 3), *b = nn_model(&roberta);
    copy_values(a, NULL, b, roberta.config.roberta.first_position);
    Batch batch = small_batch(MODEL_BERT, 0, 0, 3);
    assert_float_equal(loss_of(a, &batch), loss_of(b, &batch), 0);
    tensor_backward(nn_loss(b, &batch));
    const float *rows = grad_f32(nn_parameter(b, "roberta.embeddings.position_embeddings.weight"));
    for (int i = 0; i < 24 * 32; i++) /* what is in front of the first position, and behind the last */
        assert_int_equal(rows[i] != 0, i / 32 >= 3 && i / 32 < 3 + SMALL_SEQ);
}

/* Types of which all are 0 are a row that is added to each position. */
static void test_distilbert_is_bert(void **state)
{
    (void)state;
    ModelPreset bert = family(MODEL_BERT), distilbert = family(MODEL_DISTILBERT);
    static const char types[] = "token_type_embeddings";
    Module *a = model_of(&bert, 3), *b = nn_model(&distilbert);
    tensor_fill(nn_parameter(a, "bert.embeddings.token_type_embeddings.weight"), 0);
    TensorList of_bert = nn_parameters(a), of_distil = nn_parameters(b);
    int64_t bias = 0; /* BERT's head has its bias in front, DistilBERT's behind */
    for (int i = 0, k = 0; i < of_bert.count; i++) {
        const char *name = tensor_name(of_bert.items[i]);
        if (strstr(name, types))
            continue;
        int last = !strcmp(name, "cls.predictions.bias");
        Tensor *to = of_distil.items[last ? of_distil.count - 1 : k++];
        bias += last;
        assert_int_equal(tensor_numel(of_bert.items[i]), tensor_numel(to));
        memcpy(tensor_f32(to), tensor_f32(of_bert.items[i]), (size_t)tensor_numel(to) * sizeof(float));
    }
    assert_int_equal(bias, 1);
    assert_string_equal(tensor_name(of_distil.items[of_distil.count - 1]), "vocab_projector.bias");
    Batch batch = small_batch(MODEL_BERT, 0, 0, 3), plain = batch;
    plain.types = NULL;
    double loss = loss_of(a, &plain);
    assert_float_equal(loss_of(b, &plain), loss, 0);
    assert_float_equal(loss_of(b, &batch), loss, 0); /* types are not read */
    assert_float_equal(loss_of(a, &batch), loss, 0); /* all rows are 0 */
}

/* A dropout less: none behind attention. Seeds draw masks in the order of the operations. */
static void test_dropout(void **state)
{
    (void)state;
    int drawn[2];
    for (int i = 0; i < 2; i++) {
        ModelPreset preset = small_preset(
            &(Setting){.family = i ? MODEL_DISTILBERT : MODEL_BERT, .dropout = 0.2f, .layers = 3});
        Module *model = nn_model(&preset);
        Batch batch = small_batch(preset.family, 0, 0, 2);
        tensor_random_begin(0, 0);
        assert_non_null(nn_loss(model, &batch));
        drawn[i] = (int)context_current()->random.layer;
    }
    assert_int_equal(drawn[0] - drawn[1], 3);
}

/* ---- Batches --------------------------------------------------------------------------------- */

/* A row that is padded on the right has the logits that it has by itself. */
static void test_padding(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(families); f++)
        for (AttentionKind kind = ATTENTION_FLASH; kind <= ATTENTION_EAGER; kind++) {
            enum { ROW = 7, ALL = 12 };
            ModelPreset preset = small_preset(&(Setting){.family = families[f], .attention = kind});
            Module *model = model_of(&preset, 5);
            int32_t ids[ALL], mask[ALL];
            for (int t = 0; t < ALL; t++) {
                ids[t] = t < ROW ? 3 + t : 2; /* the padding token of the small one */
                mask[t] = t < ROW;
            }
            Batch row = {.ids = tensor_from(DTYPE_I32, SHAPE(1, ROW), MEM_INPUT, ids)},
                  padded = {.ids = tensor_from(DTYPE_I32, SHAPE(1, ALL), MEM_INPUT, ids),
                            .mask = tensor_from(DTYPE_I32, SHAPE(1, ALL), MEM_INPUT, mask)};
            tensor_no_grad_begin();
            Tensor *alone = nn_forward(model, NULL, &row), *with = nn_forward(model, NULL, &padded);
            tensor_no_grad_end();
            assert_true(difference(tensor_f32(alone), tensor_f32(with), ROW * SMALL_VOCAB) < 1e-6);
        }
}

static void test_refused(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(families); f++) {
        ModelPreset preset = family(families[f]);
        const char *name = nn_family(families[f])->name;
        Module *model = nn_model(&preset);
        assert_null(nn_forward(model, NULL, &(Batch){0}));
        assert_error(ERROR_DATA, name, "no token ids");
        assert_null(nn_forward(model, NULL, &(Batch){.ids = integers(SHAPE(1, 25), 1, 9)}));
        assert_error(ERROR_SHAPE, "a sequence of 25 is longer than the", "24 positions");
        assert_non_null(nn_forward(model, NULL, &(Batch){.ids = integers(SHAPE(1, 24), 1, 9)}));
        (families[f] == MODEL_MODERNBERT ? (preset.config.modernbert.heads = 5)
                                         : (preset.config.bert.heads = 5));
        assert_null(nn_model(&preset));
        assert_error(ERROR_ARGUMENT, name, "5 heads");
    }
    assert_null(nn_roberta(NULL));
    assert_error(ERROR_ARGUMENT, "roberta", "NULL");
    assert_null(nn_distilbert(NULL));
    assert_error(ERROR_ARGUMENT, "distilbert", "NULL");
    assert_null(nn_modernbert(NULL));
    assert_error(ERROR_ARGUMENT, "modernbert", "NULL");
    ModernBertConfig m = family(MODEL_MODERNBERT).config.modernbert;
    m.window = -4;
    assert_null(nn_modernbert(&m));
    assert_error(ERROR_ARGUMENT, "modernbert: window must be 1", "-4");
    m.window = 4;
    m.heads = m.dim;
    assert_null(nn_modernbert(&m));
    assert_error(ERROR_ARGUMENT, "modernbert: rotary positions need an even head width, not 1");
    BertConfig c = family(MODEL_ROBERTA).config.roberta;
    assert_null(nn_bert(&c));
    assert_error(ERROR_ARGUMENT, "bert: first_position must be 0, not 3");
    assert_null(nn_distilbert(&c));
    assert_error(ERROR_ARGUMENT, "distilbert: first_position must be 0");
    c.first_position = -1;
    assert_null(nn_roberta(&c));
    assert_error(ERROR_ARGUMENT, "roberta: first_position must be 0 or more, not -1");
}

/* ---- Positions that begin as sines ----------------------------------------------------------- */

static void test_sines(void **state)
{
    (void)state;
    static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    ModelPreset preset = family(MODEL_DISTILBERT), plain = preset;
    preset.config.distilbert.sinusoidal = 1;
    for (size_t k = 0; k < COUNT(types); k++) {
        nn_set_weights(&(Weights){.dtype = types[k]});
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 4});
        nn_set_weights(&(Weights){.dtype = types[k]});
        Module *model = nn_model(&preset);
        Tensor *table = nn_parameter(model, "distilbert.embeddings.position_embeddings.weight");
        float values[24 * 32];
        tensor_decode_(table, 0, 24 * 32, values);
        for (int p = 0; p < 24; p++)
            for (int j = 0; j < 32; j++) {
                double angle = p / pow(10000, 2.0 * (j / 2) / 32);
                float value = (float)(j % 2 ? cos(angle) : sin(angle));
                assert_float_equal(values[p * 32 + j], as_stored(types[k], value), 0);
            }
        assert_int_equal(tensor_requires_grad(table), types[k] == DTYPE_F32);
        leave(v);
    }
    nn_set_weights(NULL);
    /* Nothing else is drawn otherwise. */
    float first[2];
    for (int i = 0; i < 2; i++) {
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 4});
        Module *model = nn_model(i ? &preset : &plain);
        first[i] = tensor_f32(nn_parameter(model, "vocab_transform.weight"))[5];
        leave(v);
    }
    assert_float_equal(first[0], first[1], 0);
}

/* ---- ModernBERT ------------------------------------------------------------------------------ */

static double loss_with(const ModernBertConfig *c)
{
    Module *model = nn_modernbert(c);
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++)
        fill_values(tensor_f32(list.items[i]), tensor_numel(list.items[i]), 40 + (uint32_t)i, 0.5, 0.1);
    Batch batch = small_batch(MODEL_MODERNBERT, 0, 0, 3);
    return loss_of(model, &batch);
}

/* Each field changes what is computed: none is forgotten. */
static void test_fields_act(void **state)
{
    (void)state;
    const ModernBertConfig c = family(MODEL_MODERNBERT).config.modernbert;
    double before = loss_with(&c);
    assert_float_equal(loss_with(&c), before, 0);
    ModernBertConfig others[6] = {c, c, c, c, c, c};
    others[0].window = 4;
    others[1].global = (LayerSet){{3}};
    others[2].global_theta = 50;
    others[3].local_theta = 50;
    others[4].norm_eps = 0.5f;
    others[5].heads = 2;
    for (size_t i = 0; i < COUNT(others); i++)
        assert_true(fabs(loss_with(&others[i]) - before) > 1e-6);
    ModernBertConfig same = c; /* the default, said */
    same.global = (LayerSet){{1}};
    same.global_theta = 160000;
    same.local_theta = 10000;
    same.norm_eps = 1e-5f;
    assert_float_equal(loss_with(&same), before, 0);
}

/* A token reaches window / 2 places to each side, in each layer with a window. */
static void test_reach(void **state)
{
    (void)state;
    enum { TOKENS = 24, AT = 11 };
    for (int layers = 1; layers <= 2; layers++)
        for (int window = 2; window <= 7; window++) {
            ModernBertConfig c = family(MODEL_MODERNBERT).config.modernbert;
            c.layers = layers;
            c.window = window;
            c.global = (LayerSet){{(uint64_t)1 << 40}}; /* none of these */
            Module *model = nn_modernbert(&c);
            Batch batch = {.ids = integers(SHAPE(1, TOKENS), 1, SMALL_VOCAB)};
            tensor_no_grad_begin();
            Tensor *before = nn_forward(model, NULL, &batch);
            tensor_i32(batch.ids)[AT] = (tensor_i32(batch.ids)[AT] + 1) % SMALL_VOCAB;
            Tensor *after = nn_forward(model, NULL, &batch);
            tensor_no_grad_end();
            for (int t = 0; t < TOKENS; t++)
                assert_int_equal(memcmp(tensor_f32(before) + t * SMALL_VOCAB,
                                        tensor_f32(after) + t * SMALL_VOCAB,
                                        SMALL_VOCAB * sizeof(float)) != 0,
                                 abs(t - AT) <= layers * (window / 2));
        }
}

static void test_biases(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        ModernBertConfig with;
        int present;
    } rows[] = {
        {"model.layers.1.attn.Wqkv.bias", {.attention_bias = 1}, 1},
        {"model.layers.1.attn.Wo.bias", {.attention_bias = 1}, 1},
        {"model.layers.0.mlp.Wi.bias", {.mlp_bias = 1}, 1},
        {"model.layers.0.mlp.Wo.bias", {.mlp_bias = 1}, 1},
        {"model.layers.1.attn_norm.bias", {.norm_bias = 1}, 1},
        {"model.layers.0.mlp_norm.bias", {.norm_bias = 1}, 1},
        {"model.embeddings.norm.bias", {.norm_bias = 1}, 1},
        {"model.final_norm.bias", {.norm_bias = 1}, 1},
        {"head.norm.bias", {.norm_bias = 1}, 1},
        {"head.dense.bias", {.head_bias = 1}, 1},
        {"decoder.bias", {.no_decoder_bias = 1}, 0},
    };
    ModelPreset preset = family(MODEL_MODERNBERT);
    Module *plain = nn_model(&preset);
    assert_null(nn_parameter(plain, "model.layers.0.attn_norm.weight"));
    assert_non_null(nn_parameter(plain, "model.layers.1.attn_norm.weight"));
    for (size_t i = 0; i < COUNT(rows); i++) {
        ModernBertConfig c = rows[i].with;
        c.vocab = SMALL_VOCAB;
        c.dim = 32;
        c.layers = 2;
        c.heads = 4;
        Module *model = nn_modernbert(&c);
        assert_fine();
        assert_int_equal(nn_parameter(model, rows[i].name) != NULL, rows[i].present);
        assert_int_equal(nn_parameter(plain, rows[i].name) != NULL, !rows[i].present);
        Batch batch = small_batch(MODEL_MODERNBERT, 0, 0, 2);
        tensor_backward(nn_loss(model, &batch));
        if (rows[i].present)
            assert_true(tensor_has_grad(nn_parameter(model, rows[i].name)));
        nn_set_skip_unlabelled(model, 1); /* the head's dense and norm with rows of a label only */
        double apart = loss_of(model, &batch);
        nn_set_skip_unlabelled(model, 0);
        assert_float_equal(loss_of(model, &batch), apart, 1e-5);
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void test_files(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(families); f++)
        for (int pooler = 0; pooler < 2; pooler++) {
            ModelPreset preset = family(families[f]);
            int modern = families[f] == MODEL_MODERNBERT;
            if (modern) {
                preset.config.modernbert.headless = pooler;
                preset.config.modernbert.norm_bias = 1;
            } else {
                preset.config.bert.pooler = pooler;
                preset.config.bert.norm_eps = families[f] == MODEL_ROBERTA ? 1e-5f : 0;
                preset.config.bert.sinusoidal = families[f] == MODEL_DISTILBERT;
            }
            Module *model = model_of(&preset, 100), *other = model_of(&preset, 900);
            assert_int_equal(nn_parameter(model, "roberta.pooler.dense.weight") != NULL,
                             pooler && families[f] == MODEL_ROBERTA);
            assert_int_equal(io_save_weights(model, &preset, at("m"), &(WeightsSaving){.overwrite = 1}), 0);
            assert_int_equal(io_load_weights(other, at("m"), NULL, NULL), 0);
            TensorList a = nn_parameters(model), b = nn_parameters(other);
            for (int i = 0; i < a.count; i++)
                assert_memory_equal(tensor_f32(a.items[i]), tensor_f32(b.items[i]),
                                    (size_t)tensor_numel(a.items[i]) * sizeof(float));
            IoModel read;
            assert_int_equal(io_read_config(at("m"), &read), 0);
            assert_int_equal(read.preset.family, families[f]);
            const BertConfig *x = &preset.config.bert, *y = &read.preset.config.bert;
            assert_int_equal(nn_preset_max_seq(&preset), nn_preset_max_seq(&read.preset));
            if (modern)
                continue;
            assert_int_equal(x->first_position, y->first_position);
            assert_int_equal(x->sinusoidal, y->sinusoidal);
            assert_float_equal(x->norm_eps, y->norm_eps, 0);
        }
    ModelPreset preset = family(MODEL_DISTILBERT);
    preset.config.distilbert.norm_eps = 1e-5f;
    assert_int_equal(io_write_config(&preset, at("c.json"), SAFETENSORS_F32), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "1e-12, not 1e-05");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_roberta_is_bert), TEST(test_distilbert_is_bert),
        TEST(test_dropout),         TEST(test_padding),
        TEST(test_refused),         TEST(test_sines),
        TEST(test_files),           TEST(test_fields_act),
        TEST(test_reach),           TEST(test_biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
