/* Granite: Llama with factors on embeddings, branches, scores and logits. */
#include "decoder_.h"

static const ModuleClass granite_class = DECODER_CLASS("granite");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("granite_block");

static const DecoderParts parts = {.type = &granite_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm"};

Module *nn_granite(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow granite_family = {.name = "granite", DECODER_ROW, .decoder = &parts};
