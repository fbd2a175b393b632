/* Qwen3: Llama's blocks with RMS norms on the queries and keys of each head, before they are rotated. */
#include "decoder_.h"

static const ModuleClass qwen3_class = DECODER_CLASS("qwen3");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("qwen3_block");

static const DecoderParts parts = {.type = &qwen3_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm",
                                   .qk_norm = ATTENTION_NORM_HEADS};

Module *nn_qwen3(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow qwen3_family = {.name = "qwen3", DECODER_ROW, .decoder = &parts};
