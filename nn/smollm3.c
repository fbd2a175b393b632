/* SmolLM3: Llama, but for layers whose queries and keys are not rotated (arXiv 2501.18795): every fourth one.
 */
#include "decoder_.h"

static const ModuleClass smollm3_class = DECODER_CLASS("smollm3");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("smollm3_block");

static const DecoderParts parts = {.type = &smollm3_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm"};

Module *nn_smollm3(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow smollm3_family = {.name = "smollm3", DECODER_ROW, .decoder = &parts};
