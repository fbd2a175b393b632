/* Qwen2-MoE: Qwen2's blocks with experts in place of the feed-forward, and beside them one that all tokens
 * share, behind a gate of its own (arXiv 2407.10671). */
#include "decoder_.h"

static const ModuleClass qwen2_moe_class = DECODER_CLASS("qwen2_moe");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("qwen2_moe_block");

static const DecoderParts parts = {.type = &qwen2_moe_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm",
                                   .feed_forward = module_experts,
                                   .shared_expert = 1};

Module *nn_qwen2_moe(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow qwen2_moe_family = {.name = "qwen2_moe", DECODER_ROW, .decoder = &parts};
