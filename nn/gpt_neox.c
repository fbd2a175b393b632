/* GPT-NeoX (arXiv 2204.06745) and Pythia (arXiv 2304.01373): attention and feed-forward side by side, each
 * behind a LayerNorm of its own, rotary positions of a part of each head, a feed-forward without a gate. One
 * projection has the query, key and value of a head side by side; it stays as files have it, and what reads
 * its output reads columns. */
#include "decoder_.h"

static const ModuleClass neox_class = DECODER_CLASS("gpt_neox");
static const ModuleClass block_class = DECODER_BLOCK_CLASS("gpt_neox_block");

static Module *feed_forward(const LlamaConfig *c, int layer)
{
    (void)layer;
    return module_plain(&(PlainOptions){.dim = c->dim,
                                        .hidden = c->hidden,
                                        .up = "dense_h_to_4h",
                                        .down = "dense_4h_to_h",
                                        .act = c->gelu_tanh ? TENSOR_GELU_TANH : TENSOR_GELU,
                                        .bias = c->mlp_bias});
}

static const DecoderNames names = {"gpt_neox.embed_in", "gpt_neox.layers", "gpt_neox.final_layer_norm",
                                   "attention"};

static const DecoderParts parts = {.type = &neox_class,
                                   .block = &block_class,
                                   .names = &names,
                                   .style = ATTENTION_NEOX,
                                   .before_attention = "input_layernorm",
                                   .before_mlp = "post_attention_layernorm",
                                   .layer_norm = 1,
                                   .parallel = 1,
                                   .feed_forward = feed_forward};

Module *nn_gpt_neox(const LlamaConfig *config)
{
    return module_decoder(&parts, config);
}

const ModelFamilyRow gpt_neox_family = {.name = "gpt_neox", DECODER_ROW, .decoder = &parts};
