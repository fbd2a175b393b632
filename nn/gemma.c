/* Gemma (arXiv 2403.08295): Llama with GELU in the gate, norms whose weights are added to 1, and embeddings
 * times the root of their width. Gemma 2 (arXiv 2408.00118) has norms behind the branches too, windows and
 * soft caps; Gemma 3 (arXiv 2503.19786) norms on queries and keys instead of the caps. */
#include "decoder_.h"

static const ModuleClass gemma_class = DECODER_CLASS("gemma");
static const ModuleClass gemma_block_class = DECODER_BLOCK_CLASS("gemma_block");
static const ModuleClass gemma2_class = DECODER_CLASS("gemma2");
static const ModuleClass gemma2_block_class = DECODER_BLOCK_CLASS("gemma2_block");
static const ModuleClass gemma3_class = DECODER_CLASS("gemma3");
static const ModuleClass gemma3_block_class = DECODER_BLOCK_CLASS("gemma3_block");

#define GEMMA                                                                                                \
    .act = TENSOR_GELU_TANH, .norm_plus = 1, .root_embedding = 1, .before_attention = "input_layernorm"
#define GEMMA_2                                                                                              \
    GEMMA, .after_attention = "post_attention_layernorm", .before_mlp = "pre_feedforward_layernorm",         \
           .after_mlp = "post_feedforward_layernorm"

static const DecoderParts gemma = {
    .type = &gemma_class, .block = &gemma_block_class, GEMMA, .before_mlp = "post_attention_layernorm"};
static const DecoderParts gemma2 = {.type = &gemma2_class, .block = &gemma2_block_class, GEMMA_2};
static const DecoderParts gemma3 = {
    .type = &gemma3_class, .block = &gemma3_block_class, GEMMA_2, .qk_norm = ATTENTION_NORM_HEADS};

Module *nn_gemma(const LlamaConfig *config)
{
    return module_decoder(&gemma, config);
}

Module *nn_gemma2(const LlamaConfig *config)
{
    return module_decoder(&gemma2, config);
}

Module *nn_gemma3(const LlamaConfig *config)
{
    return module_decoder(&gemma3, config);
}

const ModelFamilyRow gemma_family = {.name = "gemma", DECODER_ROW, .decoder = &gemma};
const ModelFamilyRow gemma2_family = {.name = "gemma2", DECODER_ROW, .decoder = &gemma2};
const ModelFamilyRow gemma3_family = {.name = "gemma3", DECODER_ROW, .decoder = &gemma3};
