/* DistilBERT and ModernBERT in config.json: what their fields decide, defaults, published counts, what is
 * refused, and that what is written says the same. RoBERTa's are test_io_config.c's. */
#include "../io/weights.h"
#include "io_support.h"

/* As the files lie on the hub. */
#define DISTILBERT                                                                                           \
    "{'activation': 'gelu', 'architectures': ['DistilBertForMaskedLM'], 'attention_dropout': 0.1, "          \
    "'dim': 768, 'dropout': 0.1, 'hidden_dim': 3072, 'initializer_range': 0.02, "                            \
    "'max_position_embeddings': 512, 'model_type': 'distilbert', 'n_heads': 12, 'n_layers': 6, "             \
    "'pad_token_id': 0, 'qa_dropout': 0.1, 'seq_classif_dropout': 0.2, 'sinusoidal_pos_embds': false, "      \
    "'tie_weights_': true, 'transformers_version': '4.10.0.dev0', 'vocab_size': 30522}"

#define MODERNBERT(width, heads, layers, ffn)                                                                \
    "{'architectures': ['ModernBertForMaskedLM'], 'attention_bias': false, 'attention_dropout': 0.0, "       \
    "'bos_token_id': 50281, 'classifier_activation': 'gelu', 'classifier_bias': false, "                     \
    "'classifier_dropout': 0.0, 'classifier_pooling': 'mean', 'cls_token_id': 50281, 'decoder_bias': true, " \
    "'deterministic_flash_attn': false, 'embedding_dropout': 0.0, 'eos_token_id': 50282, "                   \
    "'global_attn_every_n_layers': 3, 'global_rope_theta': 160000.0, 'gradient_checkpointing': false, "      \
    "'hidden_activation': 'gelu', 'hidden_size': " width ", 'initializer_cutoff_factor': 2.0, "              \
    "'initializer_range': 0.02, 'intermediate_size': " ffn ", 'layer_norm_eps': 1e-05, "                     \
    "'local_attention': 128, 'local_rope_theta': 10000.0, 'max_position_embeddings': 8192, "                 \
    "'mlp_bias': false, 'mlp_dropout': 0.0, 'model_type': 'modernbert', 'norm_bias': false, "                \
    "'norm_eps': 1e-05, 'num_attention_heads': " heads ", 'num_hidden_layers': " layers ", "                 \
    "'pad_token_id': 50283, 'position_embedding_type': 'absolute', 'reference_compile': true, "              \
    "'repad_logits_with_grad': false, 'sep_token_id': 50282, 'sparse_pred_ignore_index': -100, "             \
    "'sparse_prediction': false, 'torch_dtype': 'float32', 'transformers_version': '4.48.0.dev0', "          \
    "'vocab_size': 50368}"

/* Counts are of transformers' own models on its meta device. */
static void test_published(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t count;
        const char *preset, *note;
    } models[] = {
        {DISTILBERT, 66985530, "distilbert-base", "attention_dropout 0.1 is not applied"},
        {"{'model_type': 'distilbert', 'attention_dropout': 0}", 66985530, "distilbert-base", ""},
        {MODERNBERT("768", "12", "22", "1152"), 149655232, "modernbert-base", ""},
        {MODERNBERT("1024", "16", "28", "2624"), 395881664, "modernbert-large", ""},
        {"{'model_type': 'modernbert'}", 149655232, "modernbert-base", ""},
    };
    for (size_t i = 0; i < COUNT(models); i++) {
        IoModel m = good(models[i].text);
        assert_int_equal(parameters(&m.preset), models[i].count);
        const ModelPreset *preset = nn_preset(models[i].preset);
        assert_int_equal(parameters(preset), models[i].count);
        assert_int_equal(preset->family, m.preset.family);
        assert_int_equal(nn_preset_max_seq(preset), nn_preset_max_seq(&m.preset));
        assert_int_equal(nn_preset_window(preset), nn_preset_window(&m.preset));
        assert_non_null(strstr(m.note, models[i].note));
    }
}

static void test_distilbert_fields(void **state)
{
    (void)state;
    IoModel m =
        good("{'model_type': 'distilbert', 'vocab_size': 100, 'hidden_size': 12, 'num_hidden_layers': 2, "
             "'num_attention_heads': 3, 'hidden_dim': 20, 'max_position_embeddings': 30, "
             "'sinusoidal_pos_embds': true, 'dropout': 0.25, 'attention_dropout': 0}");
    const BertConfig *c = &m.preset.config.distilbert;
    assert_int_equal(m.preset.family, MODEL_DISTILBERT);
    assert_true(c->dim == 12 && c->layers == 2 && c->heads == 3 && c->ffn == 20 && c->max_seq == 30);
    assert_true(c->sinusoidal && !c->pooler && nn_preset_dropout(&m.preset) == 0.25f);
    assert_string_equal(m.about, "distilbert, 2 layers of 12");
    assert_int_equal(parameters(&m.preset), 130 * 12 + 2 * 12 +
                                                2 * (4 * (12 * 12 + 12) + 2 * 12 * 20 + 20 + 12 + 4 * 12) +
                                                12 * 12 + 3 * 12 + 100);
}

#define SMALL                                                                                                \
    "'model_type': 'modernbert', 'vocab_size': 100, 'hidden_size': 12, 'num_hidden_layers': 4, "             \
    "'num_attention_heads': 3, 'intermediate_size': 20, 'max_position_embeddings': 300"

static void assert_global(const IoModel *model, const char *layers)
{
    for (int i = 0; layers[i]; i++)
        assert_int_equal(layer_in(&model->preset.config.modernbert.global, i), layers[i] == '1');
}

static void test_modernbert_fields(void **state)
{
    (void)state;
    int64_t block = 12 * 36 + 12 * 12 + 12 * 40 + 20 * 12, rest = 100 * 12 + 12 * 12 + 100 + (2 * 4 + 2) * 12;
    IoModel m = good("{" SMALL "}");
    assert_int_equal(parameters(&m.preset), 4 * block + rest);
    assert_global(&m, "1001");
    const ModernBertConfig *c = &m.preset.config.modernbert;
    assert_true(c->window == 128 && c->global_theta == 160000 && c->local_theta == 10000);
    m = good(
        "{" SMALL ", 'norm_bias': true, 'attention_bias': true, 'mlp_bias': true, 'classifier_bias': true, "
        "'decoder_bias': false, 'global_attn_every_n_layers': 2, 'local_attention': 10, 'norm_eps': 1e-3, "
        "'mlp_dropout': 0.5, 'embedding_dropout': 0.5}");
    assert_int_equal(parameters(&m.preset),
                     4 * (block + 36 + 12 + 40 + 12) + rest - 100 + 12 + (2 * 4 + 2) * 12);
    assert_global(&m, "1010");
    assert_true(c->window == 10 && c->norm_eps == 1e-3f && nn_preset_dropout(&m.preset) == 0.5f);
    m = good("{" SMALL ", 'layer_types': ['sliding_attention', 'full_attention', 'full_attention', "
             "'sliding_attention'], 'global_attn_every_n_layers': 2, 'rope_parameters': {'full_attention': "
             "{'rope_type': 'default', 'rope_theta': 5000}, 'sliding_attention': {'rope_theta': 400.5}}}");
    assert_global(&m, "0110");
    assert_true(c->global_theta == 5000 && c->local_theta == 400.5f);
    m = good("{" SMALL ", 'global_attn_every_n_layers': 1, 'global_rope_theta': 77}");
    assert_global(&m, "1111");
    assert_true(c->global_theta == 77);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *word, *other;
    } refused[] = {
        {SMALL ", 'local_attention': 1", "local_attention", "1"},
        {SMALL ", 'hidden_activation': 'silu'", "hidden_activation", "\"gelu\""},
        {SMALL ", 'classifier_activation': 'relu'", "classifier_activation", "\"relu\""},
        {SMALL ", 'mlp_dropout': 0.1", "mlp_dropout 0.1", "one dropout"},
        {SMALL ", 'tie_word_embeddings': false", "tie_word_embeddings", "embedding"},
        {SMALL ", 'rope_scaling': {'rope_type': 'yarn'}", "rope_scaling", "not scaled"},
        {SMALL ", 'rope_parameters': 3", "rope_parameters", "3"},
        {SMALL ", 'rope_parameters': {'full_attention': 3}", "rope_parameters.full_attention", "3"},
        {SMALL ", 'rope_parameters': {'full_attention': {'rope_type': 'yarn'}}",
         "rope_parameters.full_attention.rope_type", "\"yarn\""},
        {SMALL ", 'rope_parameters': {'sliding_attention': {'rope_theta': 0}}",
         "rope_parameters.sliding_attention.rope_theta", "0"},
        {SMALL ", 'rope_parameters': {'sliding_attention': {'strange': 2}}", "strange", "unknown"},
        {SMALL ", 'layer_types': ['sliding_attention', 'sliding_attention', 'sliding_attention', "
               "'sliding_attention']",
         "no layer sees all tokens", "full_attention"},
        {SMALL ", 'layer_types': ['full_attention']", "num_hidden_layers (4)", "length"},
        {"'model_type': 'modernbert', 'num_hidden_layers': 257", "257", "256 layers"},
        {"'model_type': 'modernbert', 'hidden_size': 36", "even", "3"},
        {"'model_type': 'modernbert', 'num_attention_heads': 5", "num_attention_heads 5", "4 would"},
        {"'model_type': 'distilbert', 'activation': 'relu'", "activation must be \"gelu\"", "\"relu\""},
        {"'model_type': 'distilbert', 'n_heads': 5", "n_heads 5 does not divide dim 768", "4 would"},
        {"'model_type': 'distilbert', 'tie_word_embeddings': false", "tie_word_embeddings", "DistilBERT"},
        {"'model_type': 'distilbert', 'type_vocab_size': 2", "type_vocab_size", "unknown"},
    };
    for (size_t i = 0; i < COUNT(refused); i++) {
        char text[512];
        IoModel m;
        snprintf(text, sizeof text, "{%s}", refused[i].fields);
        if (read_text(text, &m) != ERROR_DATA)
            fail_msg("%s is read as %s", text, m.about);
        assert_error(ERROR_DATA, refused[i].word, refused[i].other);
    }
}

/* What is written of a model describes that model. */
static void test_written(void **state)
{
    (void)state;
    static const char *const texts[] = {
        DISTILBERT,
        "{'model_type': 'distilbert', 'sinusoidal_pos_embds': true, 'vocab_size': 77, 'dropout': 0}",
        MODERNBERT("768", "12", "22", "1152"),
        "{" SMALL ", 'norm_bias': true, 'attention_bias': true, 'decoder_bias': false, 'local_attention': 9, "
        "'global_attn_every_n_layers': 2, 'local_rope_theta': 123.5}",
        "{" SMALL ", 'mlp_bias': true, 'classifier_bias': true, 'layer_types': ['sliding_attention', "
        "'full_attention', 'full_attention', 'sliding_attention'], 'norm_eps': 0.25}",
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        IoModel m = good(texts[i]), again;
        assert_int_equal(io_write_config(&m.preset, file, SAFETENSORS_F32), 0);
        assert_int_equal(io_read_config(file, &again), 0);
        assert_memory_equal(&again.preset.config, &m.preset.config, sizeof m.preset.config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_published), TEST(test_distilbert_fields), TEST(test_modernbert_fields),
        TEST(test_refused),   TEST(test_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
