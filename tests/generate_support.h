/* Small models that write from left to right, and ids for them to read. */
#ifndef TEST_GENERATE_SUPPORT_H
#define TEST_GENERATE_SUPPORT_H

#include <math.h>
#include "../nn/sample.h"
#include "../estimate/formulae.h"
#include "plan_support.h"

/* LONGROPE: one whose positions are others from 7 tokens on. */
enum { MODELS = 5, LONGROPE = MODELS, LENGTH = 13, VOCAB = 37 };
static const char *const model_names[MODELS + 1] = {"llama, grouped", "llama, tied", "llama, wide heads",
                                                    "gpt2",           "llama, yarn", "llama, longrope"};

static inline Module *model_of(int i)
{
    LlamaConfig llama = {
        .vocab = VOCAB, .dim = 24, .layers = 2, .heads = 6, .kv_heads = 2, .hidden = 40, .max_seq = 20};
    switch (i) {
    case 1:
        llama.tied = 1;
        llama.kv_heads = 1;
        break;
    case 2:
        llama.heads = 3, llama.kv_heads = 3, llama.head_dim = 10;
        llama.qkv_bias = llama.o_bias = llama.mlp_bias = 1;
        break;
    case 3:
        return nn_gpt2(&(Gpt2Config){
            .vocab = VOCAB, .dim = 24, .layers = 3, .heads = 3, .ffn = 40, .max_seq = 20, .dropout = 0.1f});
    case 4:
        llama.rope_scaling = (RopeScaling){.kind = ROPE_SCALING_YARN, .factor = 4, .original_max_seq = 6};
        llama.partial_rotary = 0.5f;
        llama.rope_interleaved = 1;
        break;
    case LONGROPE:
        llama.rope_scaling = (RopeScaling){.kind = ROPE_SCALING_LONGROPE, .factor = 4, .original_max_seq = 6};
        llama.rope_divisors = (RopeDivisors){{1, 1.1f}, {2.5f, 30}};
        break;
    default:
        break;
    }
    return nn_llama(&llama);
}

/* Larger than they are initialised, so that positions matter; evaluated. */
static inline Module *made_model(int i)
{
    Module *model = model_of(i);
    TensorList all = nn_parameters(model);
    for (int p = 0; p < all.count; p++)
        if (tensor_shape(all.items[p]).ndim == 2)
            tensor_fill_normal(all.items[p], 0, 0.2f);
        else if (strstr(tensor_name(all.items[p]), "bias"))
            tensor_fill_normal(all.items[p], 0, 0.1f);
    nn_eval(model);
    return model;
}

static inline int32_t id_at(int b, int t)
{
    return (int32_t)(hash32((uint32_t)(b * 101 + t)) % VOCAB);
}

/* Tokens [from, from + count) of B sequences. */
static inline Batch some_ids(int B, int from, int count)
{
    Tensor *ids = tensor_new(DTYPE_I32, SHAPE(B, count), MEM_INPUT);
    int32_t *to = tensor_i32(ids);
    for (int i = 0; to && i < B * count; i++)
        to[i] = id_at(i / count, from + i % count);
    return (Batch){.ids = ids};
}

#endif
