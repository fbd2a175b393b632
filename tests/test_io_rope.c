/* Rotary positions in config.json: every way of stretching them, read and written again; that what is read is
 * what the model computes; and what is refused. Values: tests/huggingface/positions.py. */
#include <math.h>

#include "../io/weights.h"
#include "io_support.h"

/* Heads of 8, of 4 pairs. */
#define SIZES                                                                                                \
    "{'model_type': 'llama', 'vocab_size': 50, 'hidden_size': 24, 'num_hidden_layers': 2, "                  \
    "'num_attention_heads': 3, 'intermediate_size': 40, 'max_position_embeddings': 64, "
#define SHORT "[1, 1.05, 1.5, 2]"
#define LONG  "[1.0, 2.5, 7.25, 31.5]"

typedef struct Stretch {
    const char *fields;
    RopeScaling scaling;
    double theta;
} Stretch;

static const Stretch stretches[] = {
    {"'rope_scaling': null", {.kind = ROPE_SCALING_NONE}, 10000},
    {"'rope_parameters': {'rope_type': 'default', 'rope_theta': 7000}", {.kind = ROPE_SCALING_NONE}, 7000},
    {"'rope_theta': 500, 'rope_scaling': {'type': 'linear', 'factor': 2.5}",
     {.kind = ROPE_SCALING_LINEAR, .factor = 2.5f},
     500},
    {"'rope_scaling': {'type': 'dynamic', 'factor': 2.0, 'original_max_position_embeddings': 7}",
     {.kind = ROPE_SCALING_DYNAMIC, .factor = 2, .original_max_seq = 64},
     10000},
    {"'rope_scaling': {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 1, 'high_freq_factor': 4, "
     "'original_max_position_embeddings': 32}",
     {.kind = ROPE_SCALING_LLAMA3,
      .factor = 8,
      .low_freq_factor = 1,
      .high_freq_factor = 4,
      .original_max_seq = 32},
     10000},
    {"'rope_scaling': {'type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 16}",
     {.kind = ROPE_SCALING_YARN, .factor = 4, .original_max_seq = 16},
     10000},
    {"'rope_parameters': {'rope_type': 'yarn', 'factor': 40, 'original_max_position_embeddings': 16, "
     "'rope_theta': 1e6, 'beta_fast': 64, 'beta_slow': 1.5, 'mscale': 0.707, 'mscale_all_dim': 1.25, "
     "'truncate': false, 'attention_factor': null}",
     {.kind = ROPE_SCALING_YARN,
      .factor = 40,
      .original_max_seq = 16,
      .beta_fast = 64,
      .beta_slow = 1.5f,
      .mscale = 0.707f,
      .mscale_all_dim = 1.25f,
      .untruncated = 1},
     1e6},
    {"'rope_scaling': {'type': 'yarn', 'factor': 4, 'attention_factor': 1.5, 'truncate': true, 'beta_fast': "
     "null, 'finetuned': true}", /* the length is then the positions' */
     {.kind = ROPE_SCALING_YARN, .factor = 4, .original_max_seq = 64, .attention_factor = 1.5f},
     10000},
    {"'rope_scaling': {'type': 'yarn', 'factor': null, 'original_max_position_embeddings': 16}",
     {.kind = ROPE_SCALING_YARN, .factor = 4, .original_max_seq = 16},
     10000},
    {"'original_max_position_embeddings': 32, 'rope_scaling': {'type': 'yarn', 'factor': 2, "
     "'original_max_position_embeddings': 16}",
     {.kind = ROPE_SCALING_YARN, .factor = 2, .original_max_seq = 32},
     10000},
    {"'original_max_position_embeddings': 16, 'rope_scaling': {'type': 'longrope', 'short_factor': " SHORT
     ", 'long_factor': " LONG "}",
     {.kind = ROPE_SCALING_LONGROPE, .factor = 4, .original_max_seq = 16},
     10000},
    {"'original_max_position_embeddings': 16, 'rope_scaling': {'type': 'su', 'short_factor': " SHORT
     ", 'long_factor': " LONG "}",
     {.kind = ROPE_SCALING_LONGROPE, .factor = 4, .original_max_seq = 16},
     10000},
    {"'rope_parameters': {'rope_type': 'longrope', 'short_factor': " SHORT ", 'long_factor': " LONG
     ", 'factor': 3, 'attention_factor': 1.19, 'original_max_position_embeddings': 16, 'rope_theta': 100}",
     {.kind = ROPE_SCALING_LONGROPE, .factor = 3, .original_max_seq = 16, .attention_factor = 1.19f},
     100},
};

static IoModel read_fields(const char *fields)
{
    char text[1024];
    snprintf(text, sizeof text, SIZES "%s}", fields);
    return good(text);
}

static void assert_scaling(const char *what, const RopeScaling *a, const RopeScaling *b)
{
    if (a->kind != b->kind || a->factor != b->factor || a->low_freq_factor != b->low_freq_factor ||
        a->high_freq_factor != b->high_freq_factor || a->original_max_seq != b->original_max_seq ||
        a->attention_factor != b->attention_factor || a->mscale != b->mscale ||
        a->mscale_all_dim != b->mscale_all_dim || a->beta_fast != b->beta_fast ||
        a->beta_slow != b->beta_slow || a->untruncated != b->untruncated || a->divisors || b->divisors)
        fail_msg("%s: kind %d, factor %g, length %d", what, (int)a->kind, (double)a->factor,
                 a->original_max_seq);
}

static void test_read_and_written(void **state)
{
    (void)state;
    static const float short_factor[] = {1, 1.05f, 1.5f, 2}, long_factor[] = {1, 2.5f, 7.25f, 31.5f};
    for (size_t i = 0; i < COUNT(stretches); i++) {
        const Stretch *s = &stretches[i];
        IoModel m = read_fields(s->fields), again;
        for (int written = 0; written < 2; written++) {
            const LlamaConfig *c = &m.preset.config.llama;
            assert_scaling(s->fields, &c->rope_scaling, &s->scaling);
            assert_float_equal(c->rope_theta, s->theta, 0);
            assert_string_equal(m.note, "");
            assert_string_equal(m.positions, "");
            assert_true(c->partial_rotary == 0 && !c->rope_interleaved);
            if (s->scaling.kind == ROPE_SCALING_LONGROPE) {
                assert_memory_equal(c->rope_divisors.of_short, short_factor, sizeof short_factor);
                assert_memory_equal(c->rope_divisors.of_long, long_factor, sizeof long_factor);
            }
            assert_int_equal(io_write_config(&m.preset, file, SAFETENSORS_F32), 0);
            assert_int_equal(io_read_config(file, &again), 0);
            m = again;
        }
    }
}

/* The loss of a sequence of 40, in which every number of the file shows. */
static double loss_of(const ModelPreset *preset)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
    Module *model = nn_model(preset);
    TensorList list = nn_parameters(model);
    for (int p = 0; p < list.count; p++)
        tensor_fill_normal(list.items[p], tensor_shape(list.items[p]).ndim == 1 ? 1 : 0, 0.3f);
    Batch batch = {.ids = integers(SHAPE(2, 40), 5, 50),
                   .labels = integers(SHAPE(2, 40), 6, 50),
                   .labels_counted = 80,
                   .labels_total = 80};
    double loss = (double)tensor_item(nn_loss(model, &batch));
    assert_fine();
    leave(v);
    return loss;
}

/* Nothing is read and forgotten, and the divisors are the model's own: the file's struct may go. */
static void test_fields_act(void **state)
{
    (void)state;
    double losses[COUNT(stretches)];
    for (size_t i = 0; i < COUNT(stretches); i++) {
        IoModel m = read_fields(stretches[i].fields);
        losses[i] = loss_of(&m.preset);
        for (size_t j = 0; j < i; j++) {
            /* dynamic changes nothing up to the positions; "su" is longrope; a factor may be left out */
            int same = (i == 3 && j == 0) || (i == 8 && j == 5) || (i == 11 && j == 10);
            if (same ? losses[i] != losses[j] : fabs(losses[i] - losses[j]) < 1e-6)
                fail_msg("%s %.9g and %s %.9g", stretches[i].fields, losses[i], stretches[j].fields,
                         losses[j]);
        }
    }
    IoModel m = read_fields("'rope_theta': 500");
    double whole = loss_of(&m.preset);
    m.preset.config.llama.partial_rotary = 0.5f;
    double part = loss_of(&m.preset);
    m.preset.config.llama.rope_interleaved = 1;
    double beside = loss_of(&m.preset);
    assert_true(fabs(whole - part) > 1e-6 && fabs(part - beside) > 1e-6);
    m.preset.config.llama.partial_rotary = 1;
    m.preset.config.llama.rope_interleaved = 0;
    assert_true(loss_of(&m.preset) == whole);
}

/* A copy of the numbers that a model was made of is not needed afterwards. */
static void test_divisors_are_copied(void **state)
{
    (void)state;
    IoModel m = read_fields(stretches[10].fields);
    double expected = loss_of(&m.preset);
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
    Module *model = nn_model(&m.preset);
    memset(&m, 0xFF, sizeof m);
    TensorList list = nn_parameters(model);
    for (int p = 0; p < list.count; p++)
        tensor_fill_normal(list.items[p], tensor_shape(list.items[p]).ndim == 1 ? 1 : 0, 0.3f);
    Batch batch = {.ids = integers(SHAPE(2, 40), 5, 50),
                   .labels = integers(SHAPE(2, 40), 6, 50),
                   .labels_counted = 80,
                   .labels_total = 80};
    assert_true((double)tensor_item(nn_loss(model, &batch)) == expected);
    leave(v);
}

static void test_parts(void **state)
{
    (void)state;
    static const struct {
        int head_dim;
        float partial;
        int width;
    } cases[] = {{96, 0, 96},      {96, 1, 96},     {128, 0.75f, 96},   {80, 0.4f, 32},  {10, 0.7f, 7},
                 {100, 0.29f, 29}, {64, 0.25f, 16}, {48, 1.0f / 3, 16}, {96, 0.999f, 95}};
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(rotary_width(cases[i].head_dim, cases[i].partial), cases[i].width);
    IoModel m = read_fields("'rope_theta': 500");
    LlamaConfig *c = &m.preset.config.llama;
    static const float bad[] = {0.4f, 0.1f, -0.5f, 1.5f, NAN};
    for (size_t i = 0; i < COUNT(bad); i++) {
        c->partial_rotary = bad[i];
        assert_null(nn_model(&m.preset));
        assert_error(ERROR_ARGUMENT, "llama: partial_rotary");
    }
}

static void test_not_computed(void **state)
{
    (void)state;
    IoModel m = read_fields("'rope_scaling': {'type': 'ntk', 'factor': 4}");
    assert_string_equal(m.positions,
                        "rope_scaling.type \"ntk\" is not computed, so trained weights would see "
                        "other positions");
    assert_non_null(strstr(m.note, "not scaled (ntk)"));
    m = read_fields("'rope_parameters': {'rope_type': 'ntk'}");
    assert_non_null(strstr(m.positions, "rope_parameters.rope_type \"ntk\""));
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *word, *other;
    } bad[] = {
        {"'rope_interleaved': true", "rope_interleaved is true", "half a head apart"},
        {"'use_mrope': true", "use_mrope", "several axes"},
        {"'partial_rotary_factor': 0.5", "partial_rotary_factor must be 1", "not 0.5"},
        {"'rope_scaling': {'partial_rotary_factor': 0.5}", "rope_scaling.partial_rotary_factor must be 1",
         ""},
        {"'rope_scaling': 2", "rope_scaling must be an object or null", "not 2"},
        {"'rope_scaling': {'type': 'mrope'}", "rope_scaling.type must be default, linear", "\"mrope\""},
        {"'rope_scaling': {'rope_type': 'new'}", "rope_scaling.rope_type must be", "\"new\""},
        {"'rope_scaling': {'rope_type': 3}", "rope_scaling.rope_type must be a string", "not 3"},
        {"'rope_scaling': {'type': 'linear', 'rope_type': 'llama3', 'factor': 2}", "type is \"linear\"",
         "keep one"},
        {"'rope_scaling': {'type': 'linear', 'factor': 'two'}", "rope_scaling.factor", "\"two\""},
        {"'rope_scaling': {'type': 'linear'}", "rope_scaling.factor must be a number above 0", "absent"},
        {"'rope_scaling': {'type': 'linear', 'factor': 0}", "rope_scaling.factor must be a number above 0",
         "0"},
        {"'rope_scaling': {'type': 'dynamic'}", "rope_scaling.factor must be a number above 0", "absent"},
        {"'rope_scaling': {'type': 'llama3', 'factor': 8}", "rope_scaling.low_freq_factor must be", "absent"},
        {"'rope_scaling': {'type': 'llama3', 'factor': 8, 'low_freq_factor': 1, 'high_freq_factor': 4}",
         "rope_scaling.original_max_position_embeddings must be", "absent"},
        {"'rope_scaling': {'type': 'llama3', 'factor': 8, 'low_freq_factor': 4, 'high_freq_factor': 1, "
         "'original_max_position_embeddings': 8192}",
         "rope_scaling.high_freq_factor must be above low_freq_factor 4", "not 1"},
        {"'rope_scaling': {'type': 'yarn'}", "rope_scaling.factor must be a number above 0", "absent"},
        {"'rope_scaling': {'type': 'yarn', 'factor': -4}", "rope_scaling.factor must be a number", "-4"},
        {"'rope_scaling': {'type': 'yarn', 'factor': 4, 'attention_factor': 0}", "attention_factor must be",
         "0"},
        {"'rope_scaling': {'type': 'yarn', 'factor': 4, 'truncate': 1}", "truncate must be true or false",
         "1"},
        {"'rope_scaling': {'type': 'yarn', 'factor': 4, 'beta_fast': '32'}", "beta_fast", "\"32\""},
        {"'rope_theta': 1, 'rope_scaling': {'type': 'yarn', 'factor': 4}", "rope_theta must be above 1",
         "yarn"},
        {"'rope_scaling': {'type': 'longrope', 'factor': 4}",
         "rope_scaling.short_factor must be a list of 4 numbers", "absent"},
        {"'rope_scaling': {'type': 'longrope', 'short_factor': " SHORT "}",
         "rope_scaling.long_factor must be a list of 4 numbers", "absent"},
        {"'rope_scaling': {'type': 'longrope', 'short_factor': [1, 1, 1], 'long_factor': " LONG "}",
         "rope_scaling.short_factor must be a list of 4 numbers", "a list"},
        {"'rope_scaling': {'type': 'longrope', 'short_factor': " SHORT ", 'long_factor': [1, 1, 0, 1]}",
         "rope_scaling.long_factor[2] must be a number above 0", "not 0"},
        {"'rope_scaling': {'type': 'longrope', 'short_factor': " SHORT ", 'long_factor': [1, 1, 1, 'a']}",
         "rope_scaling.long_factor[3] must be a number above 0", "\"a\""},
        {"'original_max_position_embeddings': 1, 'rope_scaling': {'type': 'longrope', 'short_factor': " SHORT
         ", 'long_factor': " LONG "}",
         "original_max_position_embeddings must be at least 2", "not 1"},
        {"'head_dim': 258, 'rope_scaling': {'type': 'longrope', 'short_factor': " SHORT "}", "at most 256",
         "258"},
        {"'rope_scaling': {'type': 'linear', 'factor': 2, 'mrope_section': [1]}",
         "\"rope_scaling.mrope_section\"", "unknown"},
        {"'rope_scaling': {'type': 'linear', 'factor': 2}, 'rope_parameters': {'rope_theta': 2}",
         "rope_parameters", "keep one"},
        {"'rope_theta': 5, 'rope_parameters': {'rope_theta': 6}", "rope_theta is 5, and 6", "keep one"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char text[1024];
        IoModel m;
        snprintf(text, sizeof text, SIZES "%s}", bad[i].fields);
        if (read_text(text, &m) != ERROR_DATA)
            fail_msg("%s is read as %s", text, m.about);
        if (!strstr(error_message(), bad[i].word) || !strstr(error_message(), bad[i].other))
            fail_msg("%s: %s", text, error_message());
        error_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_read_and_written), TEST(test_fields_act), TEST(test_divisors_are_copied), TEST(test_parts),
        TEST(test_not_computed),     TEST(test_refused),
    };
    return cmocka_run_group_tests_name("rope in files", tests, NULL, NULL);
}
