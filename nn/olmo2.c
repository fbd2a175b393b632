/* OLMo 2: what a branch gives is normalised before it is added, instead of what it reads; queries and keys
 * are normalised over all heads together. OLMo 3 has windows beside that. */
#include "decoder_.h"

static const ModuleClass olmo2_class = DECODER_CLASS("olmo2");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("olmo2_block");

static const DecoderParts parts = {.type = &olmo2_class,
                                   .block = &block_class,
                                   .after_attention = "post_attention_layernorm",
                                   .after_mlp = "post_feedforward_layernorm",
                                   .qk_norm = ATTENTION_NORM_ALL};

Module *nn_olmo2(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow olmo2_family = {.name = "olmo2", DECODER_ROW, .decoder = &parts};
