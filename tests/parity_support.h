/* The model that a fixture's config describes (parity/README.md). */
#ifndef PARITY_SUPPORT_H
#define PARITY_SUPPORT_H

#include "support.h"

static inline int parity_number(const char *config, const char *key)
{
    return (int)attribute(config, key, 0);
}

static inline Module *parity_mlp(const char *config)
{
    MlpConfig c = {.dropout = 0};
    const char *at = strstr(config, "sizes=") + strlen("sizes=");
    for (int i = 0; *at; i++) {
        char *end;
        c.sizes[i] = (int)strtol(at, &end, 10);
        at = *end ? end + 1 : end;
    }
    return nn_mlp(&c);
}

static inline Module *parity_model(const char *config, AttentionKind attention)
{
    int vocab = parity_number(config, "vocab"), dim = parity_number(config, "dim"),
        layers = parity_number(config, "layers");
    int heads = parity_number(config, "heads"), ffn = parity_number(config, "ffn"),
        max_seq = parity_number(config, "max_seq");
    float eps = (float)attribute(config, "norm_eps", 0);
    if (kind_is(config, "mlp"))
        return parity_mlp(config);
    if (kind_is(config, "bert"))
        return nn_bert(&(BertConfig){.vocab = vocab,
                                     .dim = dim,
                                     .layers = layers,
                                     .heads = heads,
                                     .ffn = ffn,
                                     .max_seq = max_seq,
                                     .types = parity_number(config, "types"),
                                     .norm_eps = eps,
                                     .attention = attention});
    if (kind_is(config, "gpt2"))
        return nn_gpt2(&(Gpt2Config){.vocab = vocab,
                                     .dim = dim,
                                     .layers = layers,
                                     .heads = heads,
                                     .ffn = ffn,
                                     .max_seq = max_seq,
                                     .norm_eps = eps,
                                     .attention = attention});
    return nn_llama(&(LlamaConfig){.vocab = vocab,
                                   .dim = dim,
                                   .layers = layers,
                                   .heads = heads,
                                   .hidden = parity_number(config, "hidden"),
                                   .kv_heads = parity_number(config, "kv_heads"),
                                   .head_dim = parity_number(config, "head_dim"),
                                   .tied = parity_number(config, "tied"),
                                   .rope_theta = (float)attribute(config, "rope_theta", 0),
                                   .norm_eps = eps,
                                   .qkv_bias = parity_number(config, "qkv_bias"),
                                   .o_bias = parity_number(config, "o_bias"),
                                   .mlp_bias = parity_number(config, "mlp_bias"),
                                   .attention = attention});
}

#endif
