/* Sequence classifiers of BERT's kind: the head, what padding changes, checkpoints, adapters, files. */
#include <sys/stat.h>

#include "../io/weights.h"
#include "../nn/lora.h"
#include "io_support.h"
#include "tensor_data.h"

enum { ROWS = 3, SEQ = 7, CLASSES = 5 };

static const ModelFamily families[] = {MODEL_BERT, MODEL_ROBERTA, MODEL_DISTILBERT, MODEL_MODERNBERT};

static ModelPreset preset_of(ModelFamily family)
{
    ModelPreset preset = small_preset(&(Setting){.family = family});
    nn_preset_set_classes(&preset, CLASSES);
    return preset;
}

/* ModernBERT's may take the mean of all tokens. */
static ModelPreset mean_preset(void)
{
    ModelPreset preset = preset_of(MODEL_MODERNBERT);
    preset.config.modernbert.mean_pooling = 1;
    return preset;
}

/* The last sample ends with padding; what stands there is `filler`. */
static Batch batch_of(int filler)
{
    int32_t mask[ROWS * SEQ];
    Batch batch = {.ids = integers(SHAPE(ROWS, SEQ), 3, 20),
                   .labels = integers(SHAPE(ROWS), 5, CLASSES),
                   .labels_total = ROWS};
    for (int i = 0; i < ROWS * SEQ; i++)
        mask[i] = i < ROWS * SEQ - 3;
    for (int i = ROWS * SEQ - 3; i < ROWS * SEQ; i++)
        tensor_i32(batch.ids)[i] = filler;
    batch.mask = tensor_from(DTYPE_I32, SHAPE(ROWS, SEQ), MEM_INPUT, mask);
    return batch;
}

static void test_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(families); i++) {
        ModelPreset preset = preset_of(families[i]), masked = small_preset(&(Setting){.family = families[i]});
        assert_int_equal(nn_preset_objective(&masked), OBJECTIVE_MASKED);
        assert_int_equal(nn_preset_classes(&masked), 0);
        assert_int_equal(nn_preset_objective(&preset), OBJECTIVE_CLASSIFICATION);
        assert_int_equal(nn_preset_classes(&preset), CLASSES);
        assert_int_equal(nn_preset_vocab(&preset), nn_preset_vocab(&masked));
        Module *model = nn_model(&preset);
        nn_eval(model);
        tensor_no_grad_begin();
        Batch one = batch_of(1), other = batch_of(9);
        Tensor *logits = nn_forward(model, NULL, &one), *same = nn_forward(model, NULL, &other);
        assert_true(shape_equal(tensor_shape(logits), SHAPE(ROWS, CLASSES)));
        /* What padding is made of does not matter. */
        assert_true(difference(tensor_f32(logits), tensor_f32(same), ROWS * CLASSES) == 0);
        other.mask = NULL;
        assert_true(
            difference(tensor_f32(logits), tensor_f32(nn_forward(model, NULL, &other)), ROWS * CLASSES) > 0);
        tensor_no_grad_end();
        int64_t dim = nn_preset_sizes(&preset).dim;
        int64_t head = dim * dim + dim + CLASSES * dim + CLASSES; /* ModernBERT's norm is as wide as a bias */
        int64_t body = nn_parameter_count(model) - head;
        if (families[i] == MODEL_BERT) {
            masked.config.bert.pooler = 1;
            assert_int_equal(nn_parameter_count(nn_model(&masked)), body + dim * dim + dim);
        }
        if (families[i] == MODEL_MODERNBERT) {
            masked.config.modernbert.headless = 1;
            assert_int_equal(nn_parameter_count(nn_model(&masked)), body);
        }
        assert_fine();
    }
    ModelPreset mlp = small_preset(&(Setting){.family = MODEL_MLP}),
                gpt2 = small_preset(&(Setting){.family = MODEL_GPT2});
    nn_preset_set_classes(&gpt2, 4); /* it has none */
    assert_int_equal(nn_preset_classes(&mlp), 10);
    assert_int_equal(nn_preset_classes(&gpt2), 0);
    nn_preset_set_classes(NULL, 4);
    assert_int_equal(nn_preset_classes(NULL), 0);
}

/* Of a sample's tokens, those that are padding left out; without a mask of all. */
static void test_mean(void **state)
{
    (void)state;
    ModelPreset preset = mean_preset(), headless = small_preset(&(Setting){.family = MODEL_MODERNBERT});
    headless.config.modernbert.headless = 1;
    Module *model = nn_model(&preset), *body = nn_model(&headless);
    TensorList list = nn_parameters(body);
    for (int i = 0; i < list.count; i++) /* the body's weights, by name */
        tensor_write(list.items[i], 0, tensor_numel(list.items[i]) * (int64_t)sizeof(float),
                     tensor_f32(nn_parameter(model, tensor_name(list.items[i]))));
    nn_eval(model);
    nn_eval(body);
    tensor_no_grad_begin();
    Batch one = batch_of(1), other = batch_of(9), open = batch_of(1);
    open.mask = NULL;
    Tensor *logits = nn_forward(model, NULL, &one), *same = nn_forward(model, NULL, &other);
    assert_true(shape_equal(tensor_shape(logits), SHAPE(ROWS, CLASSES)));
    assert_true(difference(tensor_f32(logits), tensor_f32(same), ROWS * CLASSES) == 0);
    for (int masked = 0; masked < 2; masked++) {
        const Batch *batch = masked ? &one : &open;
        Tensor *hidden = nn_forward(body, NULL, batch), *pooled = tensor_mean_tokens(hidden, batch->mask);
        Tensor *x = tensor_linear(pooled, nn_parameter(model, "head.dense.weight"), NULL, TENSOR_GELU);
        x = tensor_layer_norm(x, nn_parameter(model, "head.norm.weight"), NULL, 1e-5f);
        x = tensor_linear(x, nn_parameter(model, "classifier.weight"), nn_parameter(model, "classifier.bias"),
                          TENSOR_IDENTITY);
        assert_true(difference(tensor_f32(x), tensor_f32(nn_forward(model, NULL, batch)), ROWS * CLASSES) <
                    1e-6);
    }
    tensor_no_grad_end();
    assert_fine();
}

static void test_refused(void **state)
{
    (void)state;
    BertConfig c = small_preset(&(Setting){.family = MODEL_BERT}).config.bert;
    c.classes = -1;
    assert_null(nn_bert(&c));
    assert_error(ERROR_ARGUMENT, "classes is -1", "1 or more");
    c.classes = 2;
    c.pooler = 1;
    assert_null(nn_bert(&c));
    assert_error(ERROR_ARGUMENT, "classes is 2 beside pooler 1");
    c.pooler = 0;
    Module *model = nn_bert(&c);
    Batch batch = batch_of(1);
    nn_set_loss_chunk(model, 2);
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_STATE, "offers no head");
    ModernBertConfig m = small_preset(&(Setting){.family = MODEL_MODERNBERT}).config.modernbert;
    m.classes = -1;
    assert_null(nn_modernbert(&m));
    assert_error(ERROR_ARGUMENT, "modernbert: classes is -1", "1 or more");
    m.classes = 2;
    m.headless = 1;
    assert_null(nn_modernbert(&m));
    assert_error(ERROR_ARGUMENT, "classes is 2 beside headless 1");
}

static uint64_t gradients_of(ModelPreset preset, int checkpoint)
{
    uint64_t hash = 5;
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 4});
    Module *model = nn_model(&preset);
    if (checkpoint)
        nn_set_checkpoint_every(model, checkpoint);
    Batch batch = batch_of(1);
    tensor_backward(nn_loss(model, &batch));
    assert_fine();
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++) {
        const float *gradient = tensor_has_grad(list.items[i]) ? grad_f32(list.items[i]) : NULL;
        if (!gradient)
            fail_msg("%s has no gradient", tensor_name(list.items[i]));
        for (int64_t k = 0; k < tensor_numel(list.items[i]); k++) {
            uint32_t bits;
            memcpy(&bits, gradient + k, sizeof bits);
            hash = (hash ^ bits) * 0x100000001B3u;
        }
    }
    leave(v);
    return hash;
}

/* With checkpoints gradients are the same bits, with dropout, and of the head too. */
static void test_checkpoint(void **state)
{
    (void)state;
    ModelPreset roberta = preset_of(MODEL_ROBERTA), modern = mean_preset();
    roberta.config.roberta.dropout = modern.config.modernbert.dropout = 0.25f;
    roberta.config.roberta.head_dropout = modern.config.modernbert.head_dropout = 0.5f;
    assert_true(gradients_of(roberta, 0) == gradients_of(roberta, 1));
    assert_true(gradients_of(modern, 0) == gradients_of(modern, 1));
}

/* Adapters leave what is new trained, in fp32 beside a base of 16 bit: the classes, and what PEFT takes for
 * them. */
static void test_adapters(void **state)
{
    (void)state;
    static const char *const trained[][4] = {
        {"classifier.weight", "classifier.bias", NULL},
        {"classifier.dense.weight", "classifier.dense.bias", "classifier.out_proj.weight",
         "classifier.out_proj.bias"},
        {"pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"},
        {"classifier.weight", "classifier.bias", NULL}};
    for (size_t i = 0; i < COUNT(families); i++) {
        ModelPreset preset = preset_of(families[i]);
        nn_set_weights(&(Weights){.dtype = DTYPE_BF16, .frozen = 1});
        Module *model = nn_model(&preset);
        nn_set_weights(NULL);
        assert_true(nn_add_lora(model, &(Lora){.rank = 2}) > 0);
        TensorList list = nn_lora_parameters(model);
        int found = 0, wanted = 0;
        for (int k = 0; k < 4 && trained[i][k]; k++)
            wanted++;
        for (int k = 0; k < list.count; k++) {
            const char *name = tensor_name(list.items[k]);
            assert_int_equal(tensor_dtype(list.items[k]), DTYPE_F32);
            int one = 0;
            for (int j = 0; j < wanted; j++)
                one |= !strcmp(name, trained[i][j]);
            found += one;
            if (!one && (!strstr(name, ".lora_") || strstr(name, "classifier")))
                fail_msg("%s is trained", name);
        }
        assert_int_equal(found, wanted);
        Batch batch = batch_of(1);
        tensor_backward(nn_loss(model, &batch));
        assert_fine();
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

#define CLASSIFIER(more)                                                                                     \
    "{'model_type': 'bert', 'vocab_size': 100, 'hidden_size': 12, 'num_hidden_layers': 1, "                  \
    "'num_attention_heads': 3, 'intermediate_size': 20, 'max_position_embeddings': 30, "                     \
    "'hidden_dropout_prob': 0.25, 'attention_probs_dropout_prob': 0, "                                       \
    "'architectures': ['BertForSequenceClassification']" more "}"

static void test_config(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int classes;
        float dropout;
    } read[] = {
        {CLASSIFIER(""), 2, 0},
        {CLASSIFIER(", 'num_labels': 7, 'classifier_dropout': null"), 7, 0},
        {CLASSIFIER(", 'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'classifier_dropout': 0.5"), 3, 0.5f},
        {CLASSIFIER(", 'id2label': {'1': 'b', '0': 'a'}, 'problem_type': 'single_label_classification', "
                    "'classifier_dropout': 0.0"),
         2, -1},
    };
    for (size_t i = 0; i < COUNT(read); i++) {
        IoModel m = good(read[i].text);
        assert_int_equal(nn_preset_classes(&m.preset), read[i].classes);
        assert_float_equal(m.preset.config.bert.head_dropout, read[i].dropout, 0);
        assert_string_equal(m.note, "");
        nn_preset_set_dropout(&m.preset, 0.125f); /* one that is said is everybody's */
        assert_float_equal(m.preset.config.bert.head_dropout, 0, 0);
    }
    static const char *const refused[][2] = {
        {CLASSIFIER(", 'problem_type': 'regression'"), "problem_type \"regression\" learns a number"},
        {CLASSIFIER(", 'num_labels': 1"), "with one label learns a number"},
        {CLASSIFIER(", 'problem_type': 'multi_label_classification'"),
         "\"single_label_classification\" is computed"},
        {CLASSIFIER(", 'id2label': {'0': 'a', '2': 'b'}"), "id2label must give each class from 0 on a name"},
        {CLASSIFIER(", 'id2label': ['a', 'b']"), "id2label must give each class"},
        {CLASSIFIER(", 'num_labels': 0"), "num_labels must be a whole number"},
    };
    for (size_t i = 0; i < COUNT(refused); i++) {
        IoModel m;
        assert_int_equal(read_text(refused[i][0], &m), ERROR_DATA);
        assert_error(ERROR_DATA, "config.json", refused[i][1]);
    }
}

#define MODERN(more)                                                                                         \
    "{'model_type': 'modernbert', 'vocab_size': 100, 'hidden_size': 12, 'num_hidden_layers': 1, "            \
    "'num_attention_heads': 3, 'intermediate_size': 20, 'max_position_embeddings': 30, "                     \
    "'mlp_dropout': 0.25, 'embedding_dropout': 0.25" more "}"

static void test_modernbert_config(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int classes, mean;
        float dropout;
    } read[] = {
        {MODERN(", 'architectures': ['ModernBertForSequenceClassification']"), 2, 0, -1},
        {MODERN(", 'architectures': ['ModernBertForSequenceClassification'], 'classifier_pooling': 'mean', "
                "'classifier_dropout': 0.5, 'num_labels': 3"),
         3, 1, 0.5f},
        /* What a masked model says of the classifier that it may become. */
        {MODERN(", 'architectures': ['ModernBertForMaskedLM'], 'classifier_pooling': 'mean'"), 0, 1, -1},
    };
    for (size_t i = 0; i < COUNT(read); i++) {
        IoModel m = good(read[i].text);
        assert_int_equal(nn_preset_classes(&m.preset), read[i].classes);
        assert_int_equal(m.preset.config.modernbert.mean_pooling, read[i].mean);
        assert_float_equal(m.preset.config.modernbert.head_dropout, read[i].dropout, 0);
        assert_string_equal(m.note, "");
    }
    IoModel m;
    assert_int_equal(read_text(MODERN(", 'classifier_pooling': 'max'"), &m), ERROR_DATA);
    assert_error(ERROR_DATA, "classifier_pooling must be \"cls\" or \"mean\"", "not \"max\"");
}

static void test_labels(void **state)
{
    (void)state;
    IoLabels labels;
    good(CLASSIFIER(", 'id2label': {'0': 'a', '1': '\xc3\xa9'}"));
    assert_int_equal(io_read_labels(folder, &labels), 0);
    assert_int_equal(labels.count, 2);
    assert_string_equal(labels.names[1], "\xc3\xa9");
    io_labels_free(&labels);
    good(CLASSIFIER(", 'id2label': {'0': 'LABEL_0', '1': 'LABEL_1'}"));
    assert_int_equal(io_read_labels(file, &labels), 0);
    assert_int_equal(labels.count, 0);
    io_labels_free(&labels);
    io_labels_free(NULL);
    assert_int_equal(io_read_labels("/nowhere/config.json", &labels), ERROR_FILE);
    assert_error(ERROR_FILE, "/nowhere/config.json");
    assert_int_equal(io_read_labels(NULL, &labels), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "path is NULL");
    good(CLASSIFIER(", 'id2label': {'0': 'a', '1': 'b'}"));
    int failed = 1;
    for (uint64_t n = 1; failed; n++) {
        memtrack_fail_nth(n);
        int status = io_read_labels(file, &labels);
        failed = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_true(failed ? status == ERROR_HOST_MEMORY || status == ERROR_NONE : status == ERROR_NONE);
        error_clear();
        io_labels_free(&labels);
    }
}

/* The body of a masked model, whose head is new; and a classifier that is only half there is refused. */
static void test_weights(void **state)
{
    (void)state;
    char command[240], masked_folder[96], other[96];
    snprintf(masked_folder, sizeof masked_folder, "%s/masked", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    for (size_t i = 0; i < COUNT(families); i++) {
        ModelPreset masked = small_preset(&(Setting){.family = families[i]}), preset = preset_of(families[i]);
        WeightsReport report;
        assert_int_equal(
            io_save_weights(nn_model(&masked), &masked, masked_folder, &(WeightsSaving){.overwrite = 1}), 0);
        Module *model = nn_model(&preset);
        assert_int_equal(io_load_weights(model, masked_folder, NULL, &report), 0);
        /* The head's dense layer and norm are those of the masked model, too. */
        assert_int_equal(report.new_head, families[i] == MODEL_MODERNBERT ? 2 : 4);
        assert_int_equal(report.missing, 0);
        assert_non_null(strstr(report.note, "The classifier is new and has yet to learn"));
        static const char *const names[] = {"x", "y", "z", "u", "v"};
        assert_int_equal(
            io_save_weights(model, &preset, other, &(WeightsSaving){.overwrite = 1, .labels = names}), 0);
        IoModel again;
        IoLabels labels;
        assert_int_equal(io_read_config(other, &again), 0);
        assert_int_equal(nn_preset_classes(&again.preset), CLASSES);
        assert_int_equal(io_read_labels(other, &labels), 0);
        assert_string_equal(labels.names[3], "u");
        io_labels_free(&labels);
        Module *whole = nn_model(&preset);
        assert_int_equal(io_load_weights(whole, other, NULL, &report), 0);
        assert_int_equal(report.new_head, 0);
        assert_string_equal(report.note, "");
        nn_preset_set_classes(&preset, CLASSES + 1);
        io_load_weights(nn_model(&preset), other, NULL, NULL);
        assert_error(ERROR_SHAPE, "classifier.");
    }
    snprintf(command, sizeof command, "rm -rf '%s' '%s'", masked_folder, other);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_logits),   TEST(test_refused), TEST(test_checkpoint),
        TEST(test_adapters), TEST(test_config),  TEST(test_labels),
        TEST(test_weights),  TEST(test_mean),    TEST(test_modernbert_config),
    };
    return cmocka_run_group_tests_name("classifier", tests, NULL, NULL);
}
