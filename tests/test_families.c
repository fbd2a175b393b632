/* A family is a row in nn and a row in io: each says of a model what the model itself is. */
#include "../io/family_.h"
#include "support.h"

static void test_rows(void **state)
{
    (void)state;
    for (int i = 0; i < MODEL_FAMILY_COUNT; i++) {
        const ModelFamilyRow *row = nn_family((ModelFamily)i);
        ModelPreset preset = small_preset(&(Setting){.family = (ModelFamily)i});
        Module *model = nn_model(&preset);
        ModelSizes sizes = nn_preset_sizes(&preset);
        assert_non_null(model);
        assert_string_equal(row->name, nn_class_name(model));
        assert_int_equal(sizes.layers, nn_block_count(model));
        assert_int_equal(row->reads == MODEL_READS_FEATURES, sizes.inputs > 0);
        assert_int_equal(row->reads == MODEL_READS_TEXT, sizes.max_seq > 0);
        assert_true(row->lr > 0);
        /* What writes has a cache of keys and values, which others refuse. */
        KvCache *cache = nn_kv_cache(model, 1, 4);
        assert_int_equal(row->writes, cache != NULL);
        if (cache)
            assert_int_equal(nn_kv_cache_bytes(cache), (uint64_t)sizes.layers * 2 * 4 * 4 *
                                                           (uint64_t)sizes.kv_heads *
                                                           (uint64_t)sizes.head_dim);
        error_clear();
        if (row->writes)
            assert_int_equal(row->objective, OBJECTIVE_CAUSAL);
        const FamilyFiles *files = family_files((ModelFamily)i);
        assert_ptr_equal(family_files_named(row->name), files);
        assert_int_equal(row->reads == MODEL_READS_TEXT, files->write != NULL);
        assert_int_equal(files->write != NULL, files->types[0].model_type != NULL);
        assert_int_equal(files->write != NULL, files->names.prefix != NULL);
    }
    assert_null(nn_family((ModelFamily)MODEL_FAMILY_COUNT));
    assert_null(nn_family((ModelFamily)-1));
    assert_null(family_files((ModelFamily)MODEL_FAMILY_COUNT));
    assert_null(family_files_named("rwkv"));
    assert_null(nn_model(&(ModelPreset){.family = (ModelFamily)MODEL_FAMILY_COUNT}));
    assert_error(ERROR_ARGUMENT, "no family");
}

/* The logits of the model that is made of it have the preset's vocabulary, whatever was set. */
static void test_fields(void **state)
{
    (void)state;
    for (int i = 0; i < MODEL_FAMILY_COUNT; i++) {
        const ModelFamilyRow *row = nn_family((ModelFamily)i);
        ModelPreset preset = small_preset(&(Setting){.family = (ModelFamily)i});
        int before = nn_preset_vocab(&preset);
        nn_preset_set_vocab(&preset, before + 3);
        assert_int_equal(nn_preset_vocab(&preset), row->vocab_at ? before + 3 : before);
        nn_preset_set_dropout(&preset, 0.25f);
        assert_float_equal(nn_preset_dropout(&preset), row->dropout_at ? 0.25 : 0, 0);
        ModelPreset other = preset;
        nn_preset_set_attention(&other, ATTENTION_EAGER);
        assert_int_equal(memcmp(&other, &preset, sizeof other) != 0, row->attention_at != 0);
        assert_int_equal(row->attention_at != 0, row->reads == MODEL_READS_TEXT);
        int64_t rows = 0;
        Module *model = nn_model(&preset);
        for (int k = 0; k < nn_parameters(model).count; k++) {
            Shape shape = tensor_shape(nn_parameters(model).items[k]);
            rows = shape.dim[0] == nn_preset_vocab(&preset) ? shape.dim[0] : rows;
        }
        assert_int_equal(rows, nn_preset_vocab(&preset)); /* of an embedding or a head */
    }
    /* Nothing is set, and nothing said, of what is none. */
    ModelPreset none = {.family = (ModelFamily)77}, copy = none;
    nn_preset_set_vocab(&none, 5);
    nn_preset_set_dropout(&none, 0.5f);
    nn_preset_set_attention(&none, ATTENTION_EAGER);
    assert_memory_equal(&none, &copy, sizeof none);
    assert_int_equal(nn_preset_sizes(&none).layers + nn_preset_vocab(NULL) + nn_preset_max_seq(NULL), 0);
    nn_preset_set_vocab(NULL, 5);
    assert_float_equal(nn_preset_dropout(NULL), 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_fields, fresh_context, leave_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
