/* Adapters that are not read, with everything that is wrong in one message; directories that nothing is
 * written into. */
#include "lora_support.h"

#define refused(model, directory, code, ...)                                                                 \
    do {                                                                                                     \
        assert_int_equal(io_load_adapter(model, directory, NULL, NULL), code);                               \
        assert_error(code, __VA_ARGS__);                                                                     \
        assert_int_equal(nn_lora_count(model), 0);                                                           \
    } while (0)

/* The tensors of a file with other names, types or shapes; `change` returns 0 for one that is left out. */
static void rewrite(const char *name, int (*change)(SafetensorsItem *item, char *stored))
{
    static SafetensorsItem items[64];
    static char names[64][128];
    Safetensors *file = safetensors_open(at(name));
    int count = 0;
    assert_non_null(file);
    for (int i = 0; i < safetensors_count(file); i++) {
        const SafetensorsEntry *e = safetensors_at(file, i);
        snprintf(names[count], sizeof names[0], "%s", e->name);
        items[count] =
            (SafetensorsItem){.name = names[count], .type = e->type, .ndim = e->ndim, .data = e->data};
        memcpy(items[count].dim, e->dim, sizeof e->dim);
        count += change(&items[count], names[count]);
    }
    assert_int_equal(safetensors_write(at(name), items, count), 0);
    safetensors_close(file);
}

static int without_a(SafetensorsItem *item, char *stored)
{
    (void)item;
    return !strstr(stored, "layers.0.self_attn.q_proj.lora_A");
}

static int renamed(SafetensorsItem *item, char *stored)
{
    (void)item;
    char *at_q = strstr(stored, "layers.1.self_attn.q_proj");
    if (at_q)
        memcpy(at_q + 19, "k", 1);
    return 1;
}

static int without_prefix(SafetensorsItem *item, char *stored)
{
    (void)item;
    memmove(stored, stored + strlen("base_model.model."), strlen(stored + strlen("base_model.model.")) + 1);
    return 1;
}

static int as_integers(SafetensorsItem *item, char *stored)
{
    if (strstr(stored, "v_proj.lora_B"))
        item->type = SAFETENSORS_I32;
    return 1;
}

static int turned(SafetensorsItem *item, char *stored)
{
    int64_t first = item->dim[0];
    if (strstr(stored, "layers.0.self_attn.v_proj.lora_B")) {
        item->dim[0] = item->dim[1];
        item->dim[1] = first;
    }
    return 1;
}

static void test_wrong_tensors(void **state)
{
    (void)state;
    Module *model = base_model("llama");
    static const char file[] = "a/adapter_model.safetensors";
    copy_adapter("llama_default", "a");
    rewrite(file, without_a);
    refused(model, at("a"), ERROR_DATA, "1 tensor is missing: model.layers.0.self_attn.q_proj.lora_A.weight");
    copy_adapter("llama_default", "a");
    rewrite(file, renamed);
    refused(model, at("a"), ERROR_DATA,
            "2 tensors are missing: model.layers.1.self_attn.q_proj.lora_A.weight",
            "and 2 are not what its adapter_config.json says", "layers.1.self_attn.k_proj.lora_");
    copy_adapter("llama_default", "a");
    rewrite(file, without_prefix);
    refused(model, at("a"), ERROR_DATA, "PEFT's names begin with base_model.model.");
    copy_adapter("llama_default", "a");
    rewrite(file, as_integers);
    refused(model, at("a"), ERROR_DATA, "only F32, F16 and BF16 are read",
            "self_attn.v_proj.lora_B.w…\" is I32");
    copy_adapter("llama_default", "a");
    rewrite(file, turned);
    refused(model, at("a"), ERROR_SHAPE, "v_proj.lora_B.w…", "is (4,32), in the model (32,4)");
    copy_adapter("llama_all", "a");
    copy_adapter("llama_default", "b");
    rename(at("a/adapter_model.safetensors"), at("b/adapter_model.safetensors"));
    refused(model, at("b"), ERROR_DATA, "20 tensors are not what its adapter_config.json says");
    assert_int_equal(io_load_adapter(model, start_of("llama_default").text, NULL, NULL), 0);
    assert_int_equal(io_load_adapter(model, start_of("llama_default").text, NULL, NULL), ERROR_STATE);
    assert_error(ERROR_STATE, "io_load_adapter: the model has adapters already");
}

static void test_wrong_directories(void **state)
{
    (void)state;
    Module *model = base_model("llama"), *gpt2 = base_model("gpt2");
    refused(model, at("none"), ERROR_FILE, "none: cannot open: ");
    refused(model, base_of("llama").text, ERROR_FILE, "it is a whole model, which --init takes");
    copy_adapter("llama_default", "a");
    refused(model, at("a/adapter_config.json"), ERROR_FILE, "is a file: an adapter is a directory with");
    refused(gpt2, at("a"), ERROR_DATA, "target_modules names none of this gpt2's layers");
    rename(at("a/adapter_model.safetensors"), at("a/adapter_model.bin"));
    refused(model, at("a"), ERROR_FILE, "a pickle (adapter_model.bin), which is not read: load it in Python");
    unlink(at("a/adapter_model.bin"));
    refused(model, at("a"), ERROR_FILE, "has no adapter_model.safetensors");
    put_text("a/adapter_config.json", "{'r': }");
    refused(model, at("a"), ERROR_DATA, "adapter_config.json: line 1");
    assert_int_equal(io_load_adapter(NULL, at("a"), NULL, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "io_load_adapter: model is NULL");
    assert_int_equal(io_save_adapter(model, NULL, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "io_save_adapter: directory is NULL");
}

/* A module that shares its weights, or that is not there, is not quietly another one. */
static void test_wrong_modules_to_save(void **state)
{
    (void)state;
    Module *tied = base_model("llama_tied_embed"), *model = base_model("llama");
    copy_adapter("llama_head_saved", "a");
    refused(tied, at("a"), ERROR_DATA, "modules_to_save has lm_head", "untie them");
    put_text("a/adapter_config.json",
             "{'peft_type': 'LORA', 'target_modules': ['q_proj'], 'modules_to_save': ['score']}");
    refused(model, at("a"), ERROR_DATA, "modules_to_save has \"score\", and this llama has no such module");
    put_text("a/adapter_config.json",
             "{'peft_type': 'LORA', 'r': 4, 'target_modules': ['q_proj', 'lm_head']}");
    refused(tied, at("a"), ERROR_DATA, "an adapter of lm_head is not read");
    put_text("a/adapter_config.json", "{'peft_type': 'LORA', 'r': 4, 'modules_to_save': ['embed_tokens']}");
    refused(tied, at("a"), ERROR_DATA, "modules_to_save has model.embed_tokens");
}

/* ---- Directories ----------------------------------------------------------------------------- */

static void test_directories(void **state)
{
    (void)state;
    Module *model = adapted_model("llama_default"), *other = adapted_model("llama_all");
    const AdapterSaving overwrite = {.overwrite = 1};
    assert_int_equal(io_save_adapter(model, at("a"), NULL), 0);
    put_text("a/README.md", "mine");
    put_text("a/tokenizer.json", "{}");
    assert_int_equal(io_save_adapter(model, at("a"), NULL), 0); /* over its own */
    assert_int_equal(io_check_adapter(other, at("a"), NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "holds another adapter (adapter_config.json)", "--overwrite");
    assert_int_equal(io_save_adapter(other, at("a"), NULL), ERROR_FILE);
    error_clear();
    assert_int_equal(io_save_adapter(model, at("a"), &(AdapterSaving){.base = "elsewhere"}), ERROR_FILE);
    assert_error(ERROR_FILE, "another adapter");
    put_text("a/adapter_model.bin", "x");
    assert_int_equal(io_save_adapter(model, at("a"), NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "another adapter (adapter_model.bin)");
    assert_int_equal(io_save_adapter(other, at("a"), &overwrite), 0);
    assert_int_equal(files_in(at("a")), 4);
    assert_int_equal(io_load_adapter(base_model("llama"), at("a"), NULL, NULL), 0);
    unlink(at("a/adapter_config.json"));
    assert_int_equal(io_save_adapter(other, at("a"), NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "another adapter (adapter_model.safetensors)");
    put_text("a/config.json", "{}");
    assert_int_equal(io_save_adapter(other, at("a"), &overwrite), ERROR_FILE);
    assert_error(ERROR_FILE, "holds a whole model");
    unlink(at("a/config.json"));
    put_text("a/state.json", "{}");
    put_text("a/optimizer.safetensors", "{}");
    assert_int_equal(io_save_adapter(other, at("a"), &overwrite), ERROR_FILE);
    assert_error(ERROR_FILE, "is a saved run");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_wrong_tensors),
        TEST(test_wrong_directories),
        TEST(test_wrong_modules_to_save),
        TEST(test_directories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
