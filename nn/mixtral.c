/* Mixtral: Mistral's blocks with experts in place of the feed-forward; the weights of a token's experts are
 * divided by their sum. */
#include "decoder_.h"

static const ModuleClass mixtral_class = DECODER_CLASS("mixtral");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("mixtral_block");

static const DecoderParts parts = {.type = &mixtral_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm",
                                   .feed_forward = module_experts};

Module *nn_mixtral(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow mixtral_family = {.name = "mixtral", DECODER_ROW, .decoder = &parts};
