/* config.json, and the small ones of the models that it describes, on meta. */
#include "../../io/io.h"
#include "fuzz.h"

static int layers(const ModelPreset *preset)
{
    switch (preset->family) {
    case MODEL_BERT:
        return preset->config.bert.layers;
    case MODEL_GPT2:
        return preset->config.gpt2.layers;
    case MODEL_LLAMA:
        return preset->config.llama.layers;
    default:
        return 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    IoModel model;
    fuzz_begin(1);
    int failed = io_read_config(fuzz_put("config.json", data, size), &model) != 0;
    fuzz_agree(failed);
    if (!failed && layers(&model.preset) <= 8) {
        Module *made = nn_model(&model.preset);
        fuzz_agree(!made);
        fuzz_check(!made || nn_parameter_count(made) > 0, "a model without parameters");
    }
    fuzz_end();
    return 0;
}
