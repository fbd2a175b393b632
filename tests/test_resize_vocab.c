/* Embeddings that grow: the rows of a file below, those of a new model above, heads tied or not, and nothing
 * else of another shape. */
#include <math.h>

#include "weights_support.h"

enum { MORE = 7 };

typedef struct Case {
    ModelFamily family;
    int tied;
} Case;

static const Case cases[] = {{MODEL_LLAMA, 0}, {MODEL_LLAMA, 1}, {MODEL_GPT2, 1}, {MODEL_BERT, 1}};

static ModelPreset preset_of(const Case *c, int more)
{
    ModelPreset preset = small_preset(&(Setting){.family = c->family});
    if (c->family == MODEL_LLAMA)
        preset.config.llama.tied = c->tied;
    nn_preset_set_vocab(&preset, nn_preset_vocab(&preset) + more);
    return preset;
}

/* Which parameters have a row a token: embedding, head, and BERT's bias of it. */
static int has_rows(const Tensor *parameter, int vocab)
{
    return tensor_shape(parameter).dim[0] == vocab;
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        ModelPreset small = preset_of(&cases[i], 0), large = preset_of(&cases[i], MORE);
        char name[16];
        snprintf(name, sizeof name, "m%zu", i);
        Module *source = model_of(&small, 1), *fresh, *grown;
        assert_int_equal(save(source, &small, name), 0);
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
        fresh = nn_model(&large);
        nn_parameters(fresh); /* the list is made once */
        Visit w = visit(&(ContextOptions){.threads = 1, .seed = 5});
        grown = nn_model(&large);
        WeightsReport report;
        int vocab = nn_preset_vocab(&large), with_rows = 0;
        assert_int_equal(io_load_weights(grown, at(name), &(WeightsOptions){.grow_vocab = vocab}, &report),
                         0);
        assert_int_equal(report.new_rows, MORE);
        assert_non_null(strstr(report.note, "The vocabulary grows from "));
        TensorList to = nn_parameters(grown), from = nn_parameters(source), drawn = nn_parameters(fresh);
        assert_int_equal(report.loaded, to.count);
        for (int p = 0; p < to.count; p++) {
            size_t all = (size_t)tensor_numel(to.items[p]) * sizeof(float),
                   old = (size_t)tensor_numel(from.items[p]) * sizeof(float);
            const char *now = (const char *)tensor_f32(to.items[p]);
            assert_memory_equal(now, tensor_f32(from.items[p]), old);
            assert_memory_equal(now + old, (const char *)tensor_f32(drawn.items[p]) + old, all - old);
            assert_int_equal(all != old, has_rows(to.items[p], vocab));
            with_rows += all != old;
        }
        assert_int_equal(with_rows, cases[i].family == MODEL_BERT || !cases[i].tied ? 2 : 1);
        /* And it goes round: its configuration says so many. */
        IoModel read;
        snprintf(name, sizeof name, "g%zu", i);
        assert_int_equal(save(grown, &large, name), 0);
        assert_int_equal(io_read_config(at(name), &read), 0);
        assert_int_equal(nn_preset_vocab(&read.preset), vocab);
        assert_int_equal(io_load_weights(nn_model(&read.preset), at(name), NULL, NULL), 0);
        leave(w);
        leave(v);
    }
}

/* Drawn as documented: mean 0, standard deviation 0.02. */
static void test_drawn(void **state)
{
    (void)state;
    enum { ROWS = 4000 };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ModelPreset small = preset_of(&cases[i], 0), large = preset_of(&cases[i], ROWS);
        char name[16];
        snprintf(name, sizeof name, "m%zu", i);
        assert_int_equal(save(model_of(&small, 1), &small, name), 0);
        Module *grown = nn_model(&large);
        int vocab = nn_preset_vocab(&large);
        assert_int_equal(io_load_weights(grown, at(name), &(WeightsOptions){.grow_vocab = vocab}, NULL), 0);
        TensorList list = nn_parameters(grown);
        for (int p = 0; p < list.count; p++) {
            if (!has_rows(list.items[p], vocab))
                continue;
            int64_t width = tensor_numel(list.items[p]) / vocab, from = (vocab - ROWS) * width,
                    n = ROWS * width;
            double sum = 0, squares = 0, deviation = tensor_shape(list.items[p]).ndim > 1 ? 0.02 : 0;
            for (int64_t j = from; j < from + n; j++) {
                sum += (double)tensor_f32(list.items[p])[j];
                squares += pow((double)tensor_f32(list.items[p])[j], 2);
            }
            assert_true(fabs(sum / (double)n) < 5 * deviation / sqrt((double)n) + 1e-12);
            assert_true(fabs(sqrt(squares / (double)n) - deviation) < 0.02 * deviation + 1e-12);
        }
    }
}

/* Nothing grows unasked, nothing shrinks, nothing but the vocabulary grows; and then nothing changes. */
static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        ModelPreset small = preset_of(&cases[i], 0), large = preset_of(&cases[i], MORE);
        char name[2][16];
        for (int k = 0; k < 2; k++) {
            snprintf(name[k], sizeof name[k], "%c%zu", "sl"[k], i);
            assert_int_equal(save(model_of(k ? &large : &small, 1), k ? &large : &small, name[k]), 0);
        }
        int vocab = nn_preset_vocab(&small);
        Module *model = nn_model(&large);
        float before = tensor_f32(nn_parameters(model).items[0])[0];
        assert_int_equal(io_load_weights(model, at(name[0]), NULL, NULL), ERROR_SHAPE);
        assert_error(ERROR_SHAPE, "shapes differ");
        assert_int_equal(io_load_weights(model, at(name[0]), &(WeightsOptions){.grow_vocab = vocab}, NULL),
                         ERROR_SHAPE);
        error_clear();
        assert_true(tensor_f32(nn_parameters(model).items[0])[0] == before);
        model = nn_model(&small);
        assert_int_equal(io_load_weights(model, at(name[1]), &(WeightsOptions){.grow_vocab = vocab}, NULL),
                         ERROR_SHAPE);
        error_clear();
        WeightsReport report; /* of its own size there is nothing to say */
        assert_int_equal(io_load_weights(model, at(name[0]), &(WeightsOptions){.grow_vocab = vocab}, &report),
                         0);
        assert_int_equal(report.new_rows, 0);
        assert_string_equal(report.note, "");
    }
    ModelPreset wide = preset_of(&cases[0], MORE), small = preset_of(&cases[0], 0);
    wide.config.llama.hidden += 8;
    assert_int_equal(save(model_of(&small, 1), &small, "m"), 0);
    assert_int_equal(io_load_weights(nn_model(&wide), at("m"),
                                     &(WeightsOptions){.grow_vocab = nn_preset_vocab(&wide)}, NULL),
                     ERROR_SHAPE);
    assert_error(ERROR_SHAPE, "mlp.gate_proj.weight");
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_rows), TEST(test_drawn), TEST(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
