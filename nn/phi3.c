/* Phi-3 and Phi-4: Llama with the projections of queries, keys and values in one linear layer, and those of
 * gate and up in another. They stay one, so that files, adapters and quantised weights are one to one; what
 * reads their outputs reads columns. */
#include "decoder_.h"

static const ModuleClass phi3_class = DECODER_CLASS("phi3");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("phi3_block");

static const DecoderParts parts = {.type = &phi3_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm",
                                   .fused = 1};

Module *nn_phi3(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow phi3_family = {.name = "phi3", DECODER_ROW, .decoder = &parts};
