/* config.json, and the small ones of the models that it describes, on meta; written and read again. */
#include "../../io/io.h"
#include "../../io/config_make_.h"
#include "../../io/weights.h"
#include "fuzz_json.h"

static int layers(const ModelPreset *preset)
{
    return nn_preset_sizes(preset).layers;
}

/* With the fields of the input. */
static void keep_source(const ModelPreset *preset)
{
    JsonText text;
    fuzz_check(!config_make(preset, SAFETENSORS_F32, fuzz_path("source"), NULL, NULL, &text),
               "the source's fields are not kept");
    fuzz_put("written/config.json", text.text, text.bytes);
    json_text_free(&text);
}

/* What is written describes the same model, also with the fields that are kept of the first. */
static void write_again(const IoModel *model)
{
    IoModel again;
    const char *path = fuzz_path("written/config.json");
    mkdir(fuzz_path("written"), 0700);
    fuzz_check(!io_write_config(&model->preset, path, SAFETENSORS_F32), "a configuration is not written");
    for (int kept = 0; kept < 2; kept++) {
        fuzz_check(!io_read_config(path, &again), "what was written is not read");
        fuzz_check(again.preset.family == model->preset.family &&
                       nn_preset_vocab(&again.preset) == nn_preset_vocab(&model->preset) &&
                       nn_preset_max_seq(&again.preset) == nn_preset_max_seq(&model->preset) &&
                       layers(&again.preset) == layers(&model->preset),
                   "what was written is another model");
        if (!kept)
            keep_source(&model->preset);
    }
}

/* What is read is read as the same with io_find_model_near; and what that takes beside it is a model. */
static void read_near(const char *path, int failed)
{
    IoModel near;
    int refused = io_find_model_near(path, &near) != 0;
    fuzz_agree(refused);
    fuzz_check(failed || (!refused && !near.approximate.type), "what is read is approximate");
    if (refused || !near.approximate.type || layers(&near.preset) > 8)
        return;
    Module *made = nn_model(&near.preset);
    fuzz_agree(!made);
    fuzz_check(!made || nn_parameter_count(made) + near.approximate.parameters > 0,
               "fewer than no parameters");
    fuzz_check(near.approximate.kept >= 0, "less than nothing is kept");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    IoModel model;
    mkdir(fuzz_path("source"), 0700);
    fuzz_begin(1);
    fuzz_fail_one(data, size);
    int failed = io_read_config(fuzz_put("source/config.json", data, size), &model) != 0;
    fuzz_agree(failed);
    if (!failed && layers(&model.preset) <= 8) {
        Module *made = nn_model(&model.preset);
        fuzz_agree(!made);
        fuzz_check(!made || nn_parameter_count(made) > 0, "a model without parameters");
    }
    fuzz_end();
    fuzz_begin(0);
    if (!failed)
        write_again(&model);
    fuzz_end();
    fuzz_begin(1);
    read_near(fuzz_put("source/config.json", data, size), failed);
    fuzz_end();
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 0, 0);
}
