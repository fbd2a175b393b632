/* Llama: RMSNorm before each branch, rotary positions, grouped-query attention, SwiGLU. Mistral is the same
 * with a window, Qwen2 has biases on q, k and v, SmolLM3 has layers without rotary positions, and Granite
 * factors on embeddings, branches, scores and logits. */
#include "decoder_.h"

static const ModuleClass llama_class = DECODER_CLASS("llama");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("llama_block");

static const DecoderParts parts = {.type = &llama_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm"};

Module *nn_llama(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

Module *nn_llama_block(const LlamaConfig *config)
{
    return module_decoder_block(&parts, config, 0);
}

const ModelFamilyRow llama_family = {.name = "llama", DECODER_ROW, .decoder = &parts};
