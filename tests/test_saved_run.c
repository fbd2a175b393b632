/* What the files of a saved run are: as large as planned from shapes alone, with checksums of parts that add
 * up; and what becomes of a run that another version of brim saved. */
#include <sys/stat.h>

#include <zlib.h>

#include "../io/safetensors.h"
#include "../io/saved_run_.h"
#include "resume_support.h"

static uint64_t size_of(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_size;
}

/* ---- Planned, written ------------------------------------------------------------------------ */

typedef struct Sizing {
    ModelFamily family;
    const char *optimizer;
    int save;
    IoSize size;
} Sizing;

static int sizing_script(void *config)
{
    Sizing *s = config;
    ModelPreset preset = small_preset(&(Setting){.family = s->family});
    Module *model = nn_model(&preset);
    Optimizer *optimizer = optim_by_name(s->optimizer, nn_parameters(model), 0, 0);
    s->size = io_saved_run_size(model, optimizer);
    if (s->save)
        io_save_run(at("run"), &(SavedRun){.model = model, .optimizer = optimizer});
    return error_code();
}

/* From the shapes alone, on meta, to the byte: every family, with no, one and two states. */
static void test_exact_sizes(void **state)
{
    (void)state;
    static const char *const optimizers[] = {"sgd", "rmsprop", "adamw"};
    for (int family = 0; family < FAMILIES; family++)
        for (size_t i = 0; i < COUNT(optimizers); i++) {
            Sizing s = {.family = (ModelFamily)family, .optimizer = optimizers[i]};
            Plan plan;
            assert_int_equal(plan_script(sizing_script, &s, &(RunOptions){.threads = 1, .quiet = 1}, &plan),
                             0);
            plan_free(&plan);
            IoSize planned = s.size;
            s.save = 1;
            assert_int_equal(sizing_script(&s), 0);
            assert_int_equal(s.size.model, planned.model);
            assert_int_equal(planned.model, size_of(at("run/step-00000000/model.safetensors")));
            assert_int_equal(planned.optimizer, size_of(at("run/step-00000000/optimizer.safetensors")));
            uint64_t all = planned.model + planned.optimizer + size_of(at("run/step-00000000/state.json"));
            assert_true(planned.bytes >= all && planned.largest >= planned.model);
            assert_true(planned.bytes == s.size.bytes);
            empty(at("run"));
        }
}

/* ---- Parts ----------------------------------------------------------------------------------- */

/* Each tensor is a part behind the header, whose checksum is zlib's of those bytes; they add up to the whole.
 */
static void test_parts(void **state)
{
    (void)state;
    SavedRunState s;
    Tiny t = tiny();
    tiny_train(&t, at("run"), 1, 2);
    assert_int_equal(saved_run_state_read(at("run/step-00000001"), &s), 0);
    static const char *const names[] = {"model.safetensors", "optimizer.safetensors"};
    for (int f = 0; f < SAVED_FILES; f++) {
        size_t size;
        char *bytes = slurp(at("run/step-00000001/%s", names[f]), &size);
        Safetensors *file = safetensors_open(at("run/step-00000001/%s", names[f]));
        int count = safetensors_count(file);
        assert_int_equal(json_array_size(s.files[f].parts), count + 1);
        size_t from = 0;
        FileSum all = {0};
        for (int i = 0; i <= count; i++) {
            const json_t *part = json_array_get(s.files[f].parts, (size_t)i);
            FileSum sum = {(uint64_t)json_integer_value(json_array_get(part, 0)),
                           (uint32_t)json_integer_value(json_array_get(part, 1))};
            if (i > 0)
                assert_int_equal(sum.bytes, safetensors_at(file, i - 1)->bytes);
            assert_int_equal(sum.crc32, crc32(0, (const Bytef *)bytes + from, (uInt)sum.bytes));
            all = file_sum_join(all, sum);
            from += sum.bytes;
        }
        assert_int_equal(from, size);
        assert_int_equal(all.crc32, s.files[f].sum.crc32);
        assert_int_equal(all.crc32, crc32(0, (const Bytef *)bytes, (uInt)size));
        safetensors_close(file);
        test_free(bytes);
    }
    saved_run_state_free(&s);
    tiny_end(&t);
}

/* The error says where a damaged file is damaged. */
static void test_damaged_part(void **state)
{
    (void)state;
    size_t size;
    char said[64];
    Tiny t = tiny();
    tiny_train(&t, at("run"), 1, 2);
    char *bytes = slurp(at("run/step-00000001/model.safetensors"), &size);
    bytes[size - 1] = (char)(bytes[size - 1] ^ 4);
    spill(at("run/step-00000001/model.safetensors"), bytes, size);
    test_free(bytes);
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_DATA);
    snprintf(said, sizeof said, "the checksum of bytes %zu to %zu is", size - 24, size); /* 2 x 3 floats */
    assert_error(ERROR_DATA, "model.safetensors is damaged", said);
    tiny_end(&t);
}

/* ---- Other versions -------------------------------------------------------------------------- */

/* state.json with a change, and the checksum that it then has. */
static void change_state(void (*change)(json_t **root))
{
    const char *path = at("run/step-00000001/state.json");
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    json_object_del(root, "crc32");
    change(&root);
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    text[strlen(text) - 1] = '\0'; /* } */
    char tail[64];
    snprintf(tail, sizeof tail, ",\n\"crc32\": \"%08lx\"}\n",
             crc32(0, (const Bytef *)text, (uInt)strlen(text)));
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fprintf(file, "%s%s", text, tail);
    fclose(file);
    free(text); /* jansson's */
    json_decref(root);
}

/* As brim 0.1 wrote it. */
static void to_first(json_t **root)
{
    json_t *run = json_incref(json_object_get(*root, "saved_run")), *files = json_object_get(run, "files"),
           *file;
    const char *name;
    json_object_set_new(run, "version", json_integer(1));
    json_object_del(json_object_get(run, "data"), "order");
    json_object_foreach(files, name, file) json_object_del(file, "parts");
    json_decref(*root);
    *root = json_pack("{s:o}", "checkpoint", run);
}

static void to_next(json_t **root)
{
    json_object_set_new(json_object_get(*root, "saved_run"), "version", json_integer(3));
}

static void to_other_order(json_t **root)
{
    json_object_set_new(json_object_get(json_object_get(*root, "saved_run"), "data"), "order",
                        json_integer(DATA_ORDER + 1));
}

static void to_wrong_parts(json_t **root)
{
    json_t *files = json_object_get(json_object_get(*root, "saved_run"), "files");
    json_t *parts = json_object_get(json_object_get(files, "model.safetensors"), "parts");
    json_array_remove(parts, json_array_size(parts) - 1);
}

/* Weights and states of format 1 are read; in another order of samples it is not resumed. */
static void test_first_format(void **state)
{
    (void)state;
    SavedRunFound found;
    Tiny t = tiny();
    tiny_train(&t, at("run"), 1, 2);
    change_state(to_first);
    assert_int_equal(io_find_saved_run(at("run"), &found), 0);
    assert_int_equal(found.step, 1);
    assert_int_equal(io_load_run(at("run"), &t.run, &found), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "step-00000001 was saved by another version of brim",
                 "another order (1, here", "--init ", "step-00000001/model.safetensors");
    tiny_end(&t);
    t = tiny(); /* a script that finds its place in the data by itself */
    t.run.loader = NULL;
    tiny_train(&t, at("run"), 1, 2);
    change_state(to_first);
    assert_int_equal(io_load_run(at("run"), &t.run, &found), 0);
    assert_int_equal(optim_steps(t.optimizer), 1);
    size_t size;
    char *bytes = slurp(at("run/step-00000001/optimizer.safetensors"), &size);
    bytes[size - 1] = (char)(bytes[size - 1] ^ 1);
    spill(at("run/step-00000001/optimizer.safetensors"), bytes, size);
    test_free(bytes);
    assert_int_equal(io_load_run(at("run"), &t.run, &found), ERROR_DATA);
    assert_error(ERROR_DATA, "optimizer.safetensors is damaged");
    tiny_end(&t);
}

static void test_other_versions(void **state)
{
    (void)state;
    static const struct {
        void (*change)(json_t **root);
        int code;
        const char *says;
    } cases[] = {
        {to_next, ERROR_DATA, "has format 3; this brim reads 1 to 2"},
        {to_other_order, ERROR_ARGUMENT, "which shuffles samples in another order"},
        {to_wrong_parts, ERROR_DATA, "the sizes and checksums of its files are missing or do not agree"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        Tiny t = tiny();
        tiny_train(&t, at("run"), 1, 2);
        float before = tensor_f32(nn_parameters(t.model).items[0])[0];
        change_state(cases[i].change);
        assert_int_equal(io_load_run(at("run/step-00000001"), &t.run, NULL), cases[i].code);
        assert_error(cases[i].code, cases[i].says);
        assert_true(tensor_f32(nn_parameters(t.model).items[0])[0] == before);
        tiny_end(&t);
        empty(at("run"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_exact_sizes),  TEST(test_parts),          TEST(test_damaged_part),
        TEST(test_first_format), TEST(test_other_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
