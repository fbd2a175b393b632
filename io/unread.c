/* Families that are not read: what of them is not computed here, and what is near. By model_type, as
 * transformers calls them. */
#include <string.h>

#include "family_.h"

/* The types, each with a space behind; the preset that is nearest, NULL for none. */
typedef struct Unread {
    const char *types, *missing, *near;
} Unread;

static const Unread unread[] = {
    {"qwen3_next qwen3_5_moe qwen3_5_moe_text ",
     "linear attention, which three of its four layers have, is not computed", "qwen1.5-moe-a2.7b"},
    {"qwen3_5 qwen3_5_text ", "linear attention, which three of its four layers have, is not computed",
     "qwen3-8b"},
    {"qwen2_vl qwen2_5_vl qwen3_vl qwen2_audio ", "images and sound are not read", "qwen2.5-7b"},
    {"qwen ", "its query, key and value are one matrix, under other names", "qwen2.5-7b"},
    {"jetmoe dbrx phimoe granitemoe ", "its experts or its attention are not Mixtral's", "mixtral-8x7b"},
    {"olmoe ", "its norms of queries and keys are over all heads, beside experts", "qwen3-30b-a3b"},
    {"gpt_oss ",
     "attention sinks, experts with biases and a gate of their own, and weights of MXFP4 are not computed",
     "qwen3-30b-a3b"},
    {"llama4 llama4_text ",
     "an expert that all tokens share without a gate, and sigmoids of the router's logits in "
     "place of a softmax, are not computed",
     "qwen2-57b-a14b"},
    {"deepseek_v2 deepseek_v3 kimi_k2 ",
     "latent attention, and experts that all tokens share without a gate, are not computed",
     "qwen2-57b-a14b"},
    {"gemma3 gemma3n gemma4 ", "images and sound are not read, nor the text part alone out of such a file",
     "gemma-3-4b"},
    {"gemma4_text gemma3n_text ",
     "embeddings of every layer, and keys and values that layers share, are not computed", "gemma-3-4b"},
    {"phi gptj codegen ",
     "attention and feed-forward run side by side behind one norm, which is not computed", "pythia-2.8b"},
    {"persimmon stablelm ",
     "norms that take the mean away (LayerNorm) beside a gated feed-forward, or on queries and keys, are not "
     "read",
     "llama-3.2-3b"},
    {"glm glm4 ", "queries and keys of neighbouring pairs beside a fused gate are not read", "phi-3-mini-4k"},
    {"chatglm internlm2 baichuan ", "its projections are stored as one matrix, under other names",
     "llama-3.2-3b"},
    {"falcon bloom mpt ", "attention and feed-forward run side by side, or positions are slopes (ALiBi)",
     "llama-2-7b"},
    {"opt gpt_neo gpt_bigcode xglm ", "it differs from GPT-2 in positions, attention or activation",
     "gpt2-xl"},
    {"olmo ", "its norms have no weights and take the mean away", "olmo2-7b"},
    {"cohere cohere2 ",
     "attention and feed-forward run side by side, behind one norm that takes the mean away", "llama-3.1-8b"},
    {"nemotron starcoder2 ", "norms that take the mean away (LayerNorm) beside grouped queries are not read",
     "llama-3.1-8b"},
    {"exaone exaone4 ", "its norms are in other places, or its tensors have other names", "olmo2-7b"},
    {"minicpm ", "its factors on embeddings and branches are called otherwise than Granite's",
     "granite-3.1-2b"},
    {"ministral3 ", "queries are scaled by their positions (llama_4_scaling_beta), which is not computed",
     "mistral-7b-v0.3"},
    {"mistral3 ", "images are not read, nor the text part alone out of such a file", "mistral-7b-v0.3"},
    {"xlm-roberta-xl ", "its norms are before the branches", "xlm-roberta-large"},
    {"mpnet ", "its attention has relative positions", "roberta-base"},
    {"albert electra deberta deberta-v2 mobilebert nomic_bert ernie ", "its layers are not those of BERT",
     "bert-base"},
    {"t5 mt5 bart mbart pegasus marian led encoder-decoder ",
     "models of an encoder and a decoder are not computed", NULL},
    {"mamba mamba2 falcon_mamba rwkv jamba bamba zamba zamba2 recurrent_gemma ",
     "layers without attention are not computed", NULL},
    {"vit clip siglip llava llava_next mllama idefics paligemma whisper wav2vec2 ",
     "images and sound are not read", NULL},
};

static int has_word(const char *words, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = words; *at; at += strcspn(at, " ") + 1)
        if (strcspn(at, " ") == length && !strncmp(at, word, length))
            return 1;
    return 0;
}

int unread_family(Fields *f, const char *type)
{
    const char *as = approximate_as(type);
    for (size_t i = 0; i < sizeof unread / sizeof unread[0]; i++)
        if (has_word(unread[i].types, type)) {
            fields_fail(f, "the model_type %s is not read: %s%s%s%s%s", string_text(type).text,
                        unread[i].missing,
                        unread[i].near ? "; the nearest model that is known by name is " : "",
                        unread[i].near ? unread[i].near : "",
                        as        ? "; `brim plan --approximate` plans it as "
                        : f->near ? "; that is no small part, so there is no approximation"
                                  : "",
                        as ? as : "");
            return 1;
        }
    return 0;
}
