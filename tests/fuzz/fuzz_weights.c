/* Weights loaded into a small model of each family. The first two bytes say which model, how it is loaded and
 * what the rest is: a file; a header, whose length is put before it, with the bytes of its tensors after two
 * bytes 0xFF; edits of a file that is right, as it is or cut in two with an index. What does not load must
 * leave the model as it was. */
#include <stdarg.h>

#include "../../io/io.h"
#include "../../io/weights.h"
#include "../../io/weights_.h"
#include "fuzz_weights.h"

static const ModelPreset models[] = {
    {"mlp", "", .batch = 1, .family = MODEL_MLP, .config.mlp = {.sizes = {3, 2}}},
    {"llama", "", .batch = 1, .seq = 4, .family = MODEL_LLAMA,
     .config.llama = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 3}},
    {"tied", "", .batch = 1, .seq = 4, .family = MODEL_LLAMA,
     .config.llama = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .hidden = 3, .tied = 1, .qkv_bias = 1}},
    {"gpt2", "", .batch = 1, .seq = 4, .family = MODEL_GPT2,
     .config.gpt2 = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .ffn = 3, .max_seq = 4}},
    {"bert", "", .batch = 1, .seq = 4, .family = MODEL_BERT,
     .config.bert = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .ffn = 3, .max_seq = 4}},
    {"pooler", "", .batch = 1, .seq = 4, .family = MODEL_BERT,
     .config.bert = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .ffn = 3, .max_seq = 4, .pooler = 1}},
    {"neox", "", .batch = 1, .seq = 4, .family = MODEL_GPT_NEOX,
     .config
         .llama = {.vocab = 5, .dim = 4, .layers = 1, .heads = 1, .hidden = 3, .qkv_bias = 1, .mlp_bias = 1}},
    {"mixtral", "", .batch = 1, .seq = 4, .family = MODEL_MIXTRAL,
     .config.llama = {.vocab = 5,
                      .dim = 4,
                      .layers = 1,
                      .heads = 2,
                      .hidden = 3,
                      .experts = {.count = 3, .active = 2, .normalise = 1}}},
    {"shared", "", .batch = 1, .seq = 4, .family = MODEL_QWEN2_MOE,
     .config.llama = {.vocab = 5,
                      .dim = 4,
                      .layers = 1,
                      .heads = 2,
                      .hidden = 3,
                      .experts = {.count = 2, .active = 1, .hidden = 2, .shared_hidden = 3}}},
    {"experts", "", .batch = 1, .seq = 4, .family = MODEL_QWEN3_MOE,
     .config.llama = {.vocab = 5,
                      .dim = 4,
                      .layers = 2,
                      .heads = 2,
                      .hidden = 3,
                      .experts = {.count = 2, .active = 1, .hidden = 2, .dense = {{1}}}}},
};
enum { MODELS = sizeof models / sizeof models[0] };

/* What checkpoints hold beside the parameters. */
static const char *const extra[] = {"lm_head.weight",
                                    "cls.predictions.decoder.weight",
                                    "cls.predictions.decoder.bias",
                                    "transformer.h.0.attn.bias",
                                    "model.layers.0.self_attn.rotary_emb.inv_freq",
                                    "bert.embeddings.position_ids",
                                    "score.weight",
                                    "embed_out.weight",
                                    "pooler.dense.weight",
                                    "classifier.bias",
                                    "h.0.attn.masked_bias",
                                    "model.layers.0.mlp.experts.gate_up_proj",
                                    "model.layers.1.mlp.experts.0.up_proj.weight"};
enum { EXTRA = sizeof extra / sizeof extra[0] };

/* ---- A file that is right, and edits --------------------------------------------------------- */

static SafetensorsItem *add(File *file, const char *name, int ndim, const int64_t *dim)
{
    SafetensorsItem *item = &file->item[file->count];
    snprintf(file->name[file->count], NAME, "%s", name);
    *item = (SafetensorsItem){.name = file->name[file->count++], .ndim = ndim, .data = fuzz_numbers()};
    memcpy(item->dim, dim, (size_t)ndim * sizeof *dim);
    return item;
}

static void right(File *file, Module *model)
{
    TensorList list = nn_parameters(model);
    const FamilyNames *family = family_names(nn_class_name(model));
    file->count = 0;
    for (int i = 0; i < list.count; i++)
        for (int k = 0; k < file_pieces(family, list.items[i]); k++) {
            FilePiece piece = file_piece(family, list.items[i], k);
            add(file, piece.name, piece.shape.ndim, piece.shape.dim);
        }
}

static void rename_to(char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void rename_to(char *name, const char *format, ...)
{
    char text[NAME];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    strcpy(name, text);
}

/* Three bytes: which tensor, what, and how. */
static void edit(File *file, const uint8_t *bytes)
{
    static const char *const prefixes[] = {"model.", "transformer.", "bert.", "module.", "cls.", "pooler."};
    int i = file->count ? bytes[0] % file->count : 0, how = bytes[2];
    SafetensorsItem *item = &file->item[i];
    char *name = file->name[i], *end = strrchr(name, '.'), *dot = strchr(name, '.');
    switch (file->count ? bytes[1] % 10 : 9) {
    case 0: /* goes */
        memmove(file->name[i], file->name[i + 1], sizeof file->name[0] * (size_t)(file->count - i - 1));
        for (int k = i; k + 1 < file->count; k++) {
            file->item[k] = file->item[k + 1];
            file->item[k].name = file->name[k];
        }
        file->count--;
        break;
    case 1:
        item->type = how % SAFETENSORS_TYPE_COUNT;
        break;
    case 2:
        item->dim[how % SAFETENSORS_MAX_DIMS] = how >> 4;
        break;
    case 3:
        item->ndim = how % (SAFETENSORS_MAX_DIMS + 1);
        break;
    case 4: /* the first piece of its name */
        memmove(name, dot ? dot + 1 : name, strlen(dot ? dot + 1 : name) + 1);
        break;
    case 5:
        rename_to(name, "%s%.80s", prefixes[how % 6], name);
        break;
    case 6: /* the last */
        rename_to(name, "%.*s.%s", end ? (int)(end - name) : 0, name,
                  how & 1   ? "gamma"
                  : how & 2 ? "beta"
                            : "weight");
        break;
    case 7:
        name[(size_t)how % (strlen(name) + 1)] = (char)bytes[0];
        break;
    case 8: /* twice */
        if (file->count < ITEMS)
            *add(file, name, item->ndim, item->dim) = (SafetensorsItem){.name = file->name[file->count - 1],
                                                                        .type = item->type,
                                                                        .ndim = item->ndim,
                                                                        .data = fuzz_numbers()};
        break;
    case 9:
        if (file->count < ITEMS)
            add(file, extra[how % EXTRA], 2, how & 128 ? (int64_t[]){5, 4} : (int64_t[]){4, 4});
        break;
    }
}

static void write_index(const File *file, int cut)
{
    char text[ITEMS * (NAME + 40)];
    size_t used = (size_t)sprintf(text, "{\"weight_map\": {");
    for (int i = 0; i < file->count; i++) {
        const char *name = file->name[i];
        used += (size_t)sprintf(text + used, "%s\"", i ? "," : "");
        for (; *name; name++) /* as JSON has it */
            used += (size_t)sprintf(text + used, *name == '"' || *name == '\\' ? "\\%c" : "%c", *name);
        used += (size_t)sprintf(text + used, "\": \"%s\"", i < cut ? "a" : "b");
    }
    used += (size_t)sprintf(text + used, "}}");
    fuzz_put("model/model.safetensors.index.json", text, used);
}

/* Returns the path to load; NULL when no such file can be written. */
static const char *edited(Module *model, const uint8_t *data, size_t size, int cut)
{
    static File file;
    right(&file, model);
    for (size_t i = 0; i + 2 < size && i < 192; i += 3)
        edit(&file, data + i);
    fuzz_bound(&file);
    int first = cut ? file.count / 2 : file.count;
    unlink(fuzz_path("model/model.safetensors"));
    int failed =
        safetensors_write(fuzz_path(cut ? "model/a" : "model/model.safetensors"), file.item, first) ||
        (cut && safetensors_write(fuzz_path("model/b"), file.item + first, file.count - first));
    fuzz_agree(failed);
    error_clear(); /* names that are no UTF-8, or twice */
    if (cut && !failed)
        write_index(&file, first);
    return failed ? NULL : fuzz_path("model");
}

/* ---- Loading --------------------------------------------------------------------------------- */

static void load(Module *model, const char *path, int partial, int meta, FuzzParts input)
{
    WeightsReport report = {0};
    uint64_t before = meta ? 0 : fuzz_bits(model);
    fuzz_fail_one(input.first, input.first_size);
    int failed = io_load_weights(model, path, &(WeightsOptions){.partial = partial}, &report) != 0;
    fuzz_agree(failed);
    fuzz_check(!failed || meta || fuzz_bits(model) == before,
               "weights that were not loaded changed the model");
    if (failed)
        return;
    fuzz_check(report.loaded + report.missing == nn_parameters(model).count, "parameters are not counted");
    fuzz_check(partial || (!report.missing && !report.unexpected),
               "something is missing, and that is no error");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    int meta = data[0] & 16, partial = data[0] & 32, kind = data[1] % 4;
    mkdir(fuzz_path("model"), 0700);
    fuzz_begin(meta != 0);
    Module *model = nn_model(&models[(data[0] & 15) % MODELS]);
    data += 2;
    size -= 2;
    const char *path = kind == 0   ? fuzz_put("model.safetensors", data, size)
                       : kind == 1 ? fuzz_headed("model.safetensors", data, size)
                                   : edited(model, data, size, kind == 3);
    if (path)
        load(model, path, partial != 0, meta != 0, (FuzzParts){.first = data, .first_size = size});
    fuzz_end();
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 2, 0);
}
