/* An adapter on a small model: adapter_config.json, two bytes 0xFF, adapter_model.safetensors. The first two
 * bytes say which model and what the second part is: a file; a header, whose length is put before it, with
 * the bytes of its tensors after two bytes 0xFF; or edits of a file that is right for adapters of rank 2
 * everywhere. What is not read must leave the model as it was; what is read is written, and read again. */
#include "../../io/adapter.h"
#include "../../nn/lora.h"
#include "fuzz_weights.h"

static const ModelPreset models[] = {
    {"llama", "", .batch = 1, .seq = 4, .family = MODEL_LLAMA,
     .config
         .llama = {.vocab = 5, .dim = 4, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 3, .qkv_bias = 1}},
    {"tied", "", .batch = 1, .seq = 4, .family = MODEL_LLAMA,
     .config.llama = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .hidden = 3, .tied = 1}},
    {"gpt2", "", .batch = 1, .seq = 4, .family = MODEL_GPT2,
     .config.gpt2 = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .ffn = 3, .max_seq = 4}},
    {"bert", "", .batch = 1, .seq = 4, .family = MODEL_BERT,
     .config.bert = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .ffn = 3, .max_seq = 4}},
    {"mlp", "", .batch = 1, .family = MODEL_MLP, .config.mlp = {.sizes = {3, 2}}},
};
enum { MODELS = sizeof models / sizeof models[0] };

/* ---- A file that is right, and edits --------------------------------------------------------- */

static void add(File *file, const char *path, const char *ending, int64_t rows, int64_t columns)
{
    if (file->count == ITEMS)
        return;
    snprintf(file->name[file->count], NAME, "base_model.model.%.80s%s", path, ending);
    file->item[file->count] = (SafetensorsItem){
        .name = file->name[file->count], .ndim = 2, .dim = {rows, columns}, .data = fuzz_numbers()};
    file->count++;
}

static int add_layer(void *user, const LoraLayer *layer)
{
    if (layer->head || layer->embedding)
        return 0;
    add(user, layer->path, ".lora_A.weight", 2, layer->in);
    add(user, layer->path, ".lora_B.weight", layer->out, 2);
    return 0;
}

/* Three bytes: which tensor, what, and how. */
static void edit(File *file, const uint8_t *bytes)
{
    static const char *const endings[] = {".base_layer.bias",  ".bias",
                                          ".weight",           ".lora_embedding_A",
                                          ".lora_embedding_B", ".lora_magnitude_vector"};
    int i = file->count ? bytes[0] % file->count : 0, how = bytes[2];
    SafetensorsItem *item = &file->item[i];
    char *name = file->name[i], *end = strstr(name, ".lora");
    switch (file->count ? bytes[1] % 7 : 6) {
    case 0: /* goes */
        *item = file->item[--file->count];
        memmove(name, file->name[file->count], NAME); /* the last one is its own */
        item->name = name;
        break;
    case 1:
        item->type = how % SAFETENSORS_TYPE_COUNT;
        break;
    case 2:
        item->dim[how % 2] = how >> 4;
        break;
    case 3:
        item->ndim = how % 3;
        break;
    case 4:
        if (end)
            strcpy(end, endings[how % 6]);
        break;
    case 5:
        name[(size_t)how % (strlen(name) + 1)] = (char)bytes[0];
        break;
    case 6:
        add(file, how & 1 ? "lm_head" : "model.embed_tokens", how & 2 ? ".weight" : ".base_layer.weight", 5,
            how & 4 ? 4 : 3);
        break;
    }
}

static void put_edited(Module *model, const uint8_t *data, size_t size)
{
    static File file;
    file.count = 0;
    nn_lora_layers(model, add_layer, &file);
    for (size_t i = 0; i + 2 < size && i < 96; i += 3)
        edit(&file, data + i);
    fuzz_bound(&file);
    if (safetensors_write(fuzz_path("adapter/adapter_model.safetensors"), file.item, file.count))
        error_clear(); /* names that are no UTF-8, or twice: the file before it is read */
}

/* ---- In and out ------------------------------------------------------------------------------ */

static void write_again(Module *model, const ModelPreset *preset)
{
    AdapterReport report;
    unlink(fuzz_path("written/adapter_config.json"));
    unlink(fuzz_path("written/adapter_model.safetensors"));
    if (io_save_adapter(model, fuzz_path("written"), NULL)) {
        fuzz_check(error_code() == ERROR_STATE, "an adapter is not written"); /* what PEFT has no words for */
        return;
    }
    context_destroy(context_use(NULL));
    context_use(context_create(&(ContextOptions){.threads = 1, .seed = 1}));
    Module *again = nn_model(preset);
    fuzz_check(!io_load_adapter(again, fuzz_path("written"), NULL, &report), "what was written is not read");
}

static void load(const ModelPreset *preset, Module *model, int meta, const uint8_t *data, size_t size)
{
    AdapterReport report = {0};
    int count = nn_parameters(model).count;
    uint64_t before = meta ? 0 : fuzz_bits(model);
    fuzz_fail_one(data, size);
    int failed = io_load_adapter(model, fuzz_path("adapter"), NULL, &report) != 0;
    int memory = error_code() == ERROR_HOST_MEMORY || error_code() == ERROR_MEMORY;
    memtrack_fail_nth(0);
    fuzz_agree(failed);
    if (failed) { /* without memory the run is over anyway */
        fuzz_check(memory || nn_lora_count(model) == 0, "an adapter that was not read is there");
        fuzz_check(memory || meta || (nn_parameters(model).count == count && fuzz_bits(model) == before),
                   "an adapter that was not read changed the model");
        return;
    }
    fuzz_check(report.adapted == nn_lora_count(model) && report.adapted > 0, "adapters are not counted");
    fuzz_check(report.tensors >= 2 * report.adapted, "an adapter without its tensors");
    if (!meta)
        write_again(model, preset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const ModelPreset *preset = &models[(data[0] & 15) % MODELS];
    int meta = (data[0] & 16) != 0, kind = data[1] % 3;
    FuzzParts parts = fuzz_parts(data + 2, size - 2);
    mkdir(fuzz_path("adapter"), 0700);
    fuzz_begin(meta);
    Module *model = nn_model(preset);
    fuzz_put("adapter/adapter_config.json", parts.first, parts.first_size);
    if (kind == 0)
        fuzz_put("adapter/adapter_model.safetensors", parts.second, parts.second_size);
    else if (kind == 1)
        fuzz_headed("adapter/adapter_model.safetensors", parts.second, parts.second_size);
    else
        put_edited(model, parts.second, parts.second_size);
    load(preset, model, meta, data, size);
    fuzz_end();
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 2, 0);
}
