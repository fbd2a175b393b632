/* Qwen3-MoE: Qwen3's blocks with experts in place of the feed-forward, but in layers that are dense. */
#include "decoder_.h"

static const ModuleClass qwen3_moe_class = DECODER_CLASS("qwen3_moe");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("qwen3_moe_block");

static const DecoderParts parts = {.type = &qwen3_moe_class,
                                   .block = &block_class,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm",
                                   .qk_norm = ATTENTION_NORM_HEADS,
                                   .feed_forward = module_experts};

Module *nn_qwen3_moe(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow qwen3_moe_family = {.name = "qwen3_moe", DECODER_ROW, .decoder = &parts};
