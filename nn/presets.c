/* Models by name: small ones to train here, the published sizes to plan, and the benchmark's shapes. Sizes of
 * the published ones are those of their Hugging Face configurations. */
#include <string.h>

#include "module_.h"

#define MLP(...)         .family = MODEL_MLP, .config.mlp = {__VA_ARGS__}
#define BERT(...)        .family = MODEL_BERT, .config.bert = {__VA_ARGS__}
#define ROBERTA(...)     .family = MODEL_ROBERTA, .config.roberta = {.types = 1, .norm_eps = 1e-5f, __VA_ARGS__}
#define DISTILBERT(...)  .family = MODEL_DISTILBERT, .config.distilbert = {__VA_ARGS__}
#define MODERNBERT(...)  .family = MODEL_MODERNBERT, .config.modernbert = {__VA_ARGS__}
#define GPT2(...)        .family = MODEL_GPT2, .config.gpt2 = {__VA_ARGS__}
#define LLAMA(...)       .family = MODEL_LLAMA, .config.llama = {__VA_ARGS__}
#define DECODER(id, ...) .family = id, .config.llama = {__VA_ARGS__}
#define LINEAR(stretch)  .rope_scaling = {ROPE_SCALING_LINEAR, .factor = stretch}
/* Every second layer, and five of six, have a window. */
#define GEMMA_2(per_head)                                                                                    \
    .vocab = 256000, .max_seq = 8192, .tied = 1, .norm_eps = 1e-6f, .window = 4096,                          \
    .sliding = {{0x5555555555555555}}, .attention_scale = 1 / ROOT_##per_head, .attention_cap = 50,          \
    .logits_cap = 30
#define ROOT_256 16.0f
#define ROOT_144 12.0f
#define GEMMA_3                                                                                              \
    .tied = 1, .norm_eps = 1e-6f, .rope_theta = 1000000, .local_theta = 10000,                               \
    .sliding = {{0xf7df7df7df7df7df}}
#define PYTHIA(...)                                                                                          \
    DECODER(MODEL_GPT_NEOX, .max_seq = 2048, .partial_rotary = 0.25f, .qkv_bias = 1, .o_bias = 1,            \
            .mlp_bias = 1, __VA_ARGS__)
#define LLAMA3(stretch)                                                                                      \
    .rope_theta = 500000, .rope_scaling = {ROPE_SCALING_LLAMA3, .factor = stretch, .low_freq_factor = 1,     \
                                           .high_freq_factor = 4, .original_max_seq = 8192}

static const ModelPreset presets[] = {
    {"mlp", "784-512-512-10, for Fashion-MNIST", .batch = 128, MLP(.sizes = {784, 512, 512, 10})},
    {"llama-tiny", "6 layers of 288, byte tokens", .batch = 8, .seq = 128,
     LLAMA(.vocab = 256, .dim = 288, .layers = 6, .heads = 6, .hidden = 768)},
    {"gpt2-tiny", "6 layers of 256, byte tokens", .batch = 8, .seq = 128,
     GPT2(.vocab = 256, .dim = 256, .layers = 6, .heads = 4, .ffn = 1024)},
    {"bert-tiny", "4 layers of 256, byte tokens, masked", .batch = 16, .seq = 128,
     BERT(.vocab = 260, .dim = 256, .layers = 4, .heads = 4, .ffn = 1024)},
    {"mixtral-tiny", "4 layers of 192 with 8 experts, byte tokens", .batch = 8, .seq = 128,
     DECODER(MODEL_MIXTRAL, .vocab = 256, .dim = 192, .layers = 4, .heads = 6, .kv_heads = 2, .hidden = 384,
             .experts = {.count = 8, .active = 2, .normalise = 1})},

    {"gpt2", "124M", .batch = 1, .seq = 1024, GPT2(.vocab = 50257, .dim = 768, .layers = 12, .heads = 12)},
    {"gpt2-medium", "355M", .batch = 1, .seq = 1024,
     GPT2(.vocab = 50257, .dim = 1024, .layers = 24, .heads = 16)},
    {"gpt2-large", "774M", .batch = 1, .seq = 1024,
     GPT2(.vocab = 50257, .dim = 1280, .layers = 36, .heads = 20)},
    {"gpt2-xl", "1.6B", .batch = 1, .seq = 1024,
     GPT2(.vocab = 50257, .dim = 1600, .layers = 48, .heads = 25)},
    {"bert-base", "110M, masked-language-model head", .batch = 1, .seq = 512,
     BERT(.vocab = 30522, .dim = 768, .layers = 12, .heads = 12)},
    {"bert-large", "335M, masked-language-model head", .batch = 1, .seq = 512,
     BERT(.vocab = 30522, .dim = 1024, .layers = 24, .heads = 16)},
    {"roberta-base", "125M", .batch = 1, .seq = 512,
     ROBERTA(.vocab = 50265, .dim = 768, .layers = 12, .heads = 12)},
    {"roberta-large", "355M", .batch = 1, .seq = 512,
     ROBERTA(.vocab = 50265, .dim = 1024, .layers = 24, .heads = 16)},
    {"distilroberta-base", "82M, half of the layers", .batch = 1, .seq = 512,
     ROBERTA(.vocab = 50265, .dim = 768, .layers = 6, .heads = 12)},
    {"distilbert-base", "67M, half of bert-base's layers", .batch = 1, .seq = 512,
     DISTILBERT(.vocab = 30522, .dim = 768, .layers = 6, .heads = 12)},
    {"modernbert-base", "150M", .batch = 1, .seq = 1024,
     MODERNBERT(.vocab = 50368, .dim = 768, .layers = 22, .heads = 12, .ffn = 1152)},
    {"modernbert-large", "396M", .batch = 1, .seq = 1024,
     MODERNBERT(.vocab = 50368, .dim = 1024, .layers = 28, .heads = 16, .ffn = 2624)},
    {"xlm-roberta-base", "278M", .batch = 1, .seq = 512,
     ROBERTA(.vocab = 250002, .dim = 768, .layers = 12, .heads = 12)},
    {"xlm-roberta-large", "560M", .batch = 1, .seq = 512,
     ROBERTA(.vocab = 250002, .dim = 1024, .layers = 24, .heads = 16)},
    {"llama-2-7b", "6.7B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 32000, .dim = 4096, .layers = 32, .heads = 32, .hidden = 11008)},
    {"llama-2-13b", "13.0B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 32000, .dim = 5120, .layers = 40, .heads = 40, .hidden = 13824)},
    {"llama-2-70b", "69.0B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 32000, .dim = 8192, .layers = 80, .heads = 64, .kv_heads = 8, .hidden = 28672)},
    {"llama-3.2-1b", "1.24B, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 128256, .dim = 2048, .layers = 16, .heads = 32, .kv_heads = 8, .hidden = 8192,
           .max_seq = 131072, .tied = 1, LLAMA3(32))},
    {"llama-3.2-3b", "3.21B, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 128256, .dim = 3072, .layers = 28, .heads = 24, .kv_heads = 8, .hidden = 8192,
           .max_seq = 131072, .tied = 1, LLAMA3(32))},
    {"llama-3.1-8b", "8.0B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 128256, .dim = 4096, .layers = 32, .heads = 32, .kv_heads = 8, .hidden = 14336,
           .max_seq = 131072, LLAMA3(8))},
    {"llama-3.1-70b", "70.6B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 128256, .dim = 8192, .layers = 80, .heads = 64, .kv_heads = 8, .hidden = 28672,
           .max_seq = 131072, LLAMA3(8))},
    {"llama-3.1-405b", "405.9B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 128256, .dim = 16384, .layers = 126, .heads = 128, .kv_heads = 8, .hidden = 53248,
           .max_seq = 131072, LLAMA3(8))},
    {"tinyllama-1.1b", "1.10B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 32000, .dim = 2048, .layers = 22, .heads = 32, .kv_heads = 4, .hidden = 5632,
           .max_seq = 2048)},
    {"smollm2-135m", "135M, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 49152, .dim = 576, .layers = 30, .heads = 9, .kv_heads = 3, .hidden = 1536,
           .max_seq = 8192, .tied = 1, .rope_theta = 100000)},
    {"smollm2-360m", "362M, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 49152, .dim = 960, .layers = 32, .heads = 15, .kv_heads = 5, .hidden = 2560,
           .max_seq = 8192, .tied = 1, .rope_theta = 100000)},
    {"smollm2-1.7b", "1.71B, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 49152, .dim = 2048, .layers = 24, .heads = 32, .hidden = 8192, .max_seq = 8192, .tied = 1,
           .rope_theta = 130000)},

    /* Version 0.1: of its 32768 positions a token sees the last 4096. */
    {"mistral-7b", "7.2B, version 0.1", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 32000, .dim = 4096, .layers = 32, .heads = 32, .kv_heads = 8, .hidden = 14336,
           .max_seq = 32768, .window = 4096)},
    {"mistral-7b-v0.2", "7.2B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 32000, .dim = 4096, .layers = 32, .heads = 32, .kv_heads = 8, .hidden = 14336,
           .max_seq = 32768, .rope_theta = 1000000)},
    {"mistral-7b-v0.3", "7.2B, 768 tokens more", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 32768, .dim = 4096, .layers = 32, .heads = 32, .kv_heads = 8, .hidden = 14336,
           .max_seq = 32768, .rope_theta = 1000000)},

    {"qwen2-0.5b", "494M, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 151936, .dim = 896, .layers = 24, .heads = 14, .kv_heads = 2, .hidden = 4864,
           .max_seq = 131072, .tied = 1, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"qwen2-7b", "7.6B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 3584, .layers = 28, .heads = 28, .kv_heads = 4, .hidden = 18944,
           .max_seq = 131072, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"qwen2.5-0.5b", "494M, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 151936, .dim = 896, .layers = 24, .heads = 14, .kv_heads = 2, .hidden = 4864,
           .max_seq = 32768, .tied = 1, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"qwen2.5-1.5b", "1.54B, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 151936, .dim = 1536, .layers = 28, .heads = 12, .kv_heads = 2, .hidden = 8960,
           .max_seq = 131072, .tied = 1, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"qwen2.5-3b", "3.09B, tied head", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 151936, .dim = 2048, .layers = 36, .heads = 16, .kv_heads = 2, .hidden = 11008,
           .max_seq = 32768, .tied = 1, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"qwen2.5-7b", "7.6B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 3584, .layers = 28, .heads = 28, .kv_heads = 4, .hidden = 18944,
           .max_seq = 131072, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"qwen2.5-14b", "14.8B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 5120, .layers = 48, .heads = 40, .kv_heads = 8, .hidden = 13824,
           .max_seq = 131072, .rope_theta = 1000000, .qkv_bias = 1)},
    {"qwen2.5-32b", "32.8B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 5120, .layers = 64, .heads = 40, .kv_heads = 8, .hidden = 27648,
           .max_seq = 131072, .rope_theta = 1000000, .qkv_bias = 1)},
    {"qwen2.5-72b", "72.7B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 8192, .layers = 80, .heads = 64, .kv_heads = 8, .hidden = 29568,
           .max_seq = 131072, .rope_theta = 1000000, .qkv_bias = 1)},

    /* Distilled into Qwen2.5-Math (1.5b, 7b), Qwen2.5 and Llama 3: the smallest has a head of its own. */
    {"deepseek-r1-distill-qwen-1.5b", "1.78B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 151936, .dim = 1536, .layers = 28, .heads = 12, .kv_heads = 2, .hidden = 8960,
           .max_seq = 131072, .rope_theta = 10000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"deepseek-r1-distill-qwen-7b", "7.6B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 3584, .layers = 28, .heads = 28, .kv_heads = 4, .hidden = 18944,
           .max_seq = 131072, .rope_theta = 10000, .norm_eps = 1e-6f, .qkv_bias = 1)},
    {"deepseek-r1-distill-qwen-14b", "14.8B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 5120, .layers = 48, .heads = 40, .kv_heads = 8, .hidden = 13824,
           .max_seq = 131072, .rope_theta = 1000000, .qkv_bias = 1)},
    {"deepseek-r1-distill-qwen-32b", "32.8B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 152064, .dim = 5120, .layers = 64, .heads = 40, .kv_heads = 8, .hidden = 27648,
           .max_seq = 131072, .rope_theta = 1000000, .qkv_bias = 1)},
    {"deepseek-r1-distill-llama-8b", "8.0B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 128256, .dim = 4096, .layers = 32, .heads = 32, .kv_heads = 8, .hidden = 14336,
           .max_seq = 131072, LLAMA3(8))},
    {"deepseek-r1-distill-llama-70b", "70.6B", .batch = 1, .seq = 2048,
     LLAMA(.vocab = 128256, .dim = 8192, .layers = 80, .heads = 64, .kv_heads = 8, .hidden = 28672,
           .max_seq = 131072, LLAMA3(8))},

    {"qwen3-0.6b", "596M, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3, .vocab = 151936, .dim = 1024, .layers = 28, .heads = 16, .kv_heads = 8,
             .head_dim = 128, .hidden = 3072, .max_seq = 40960, .tied = 1, .rope_theta = 1000000,
             .norm_eps = 1e-6f)},
    {"qwen3-1.7b", "1.72B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3, .vocab = 151936, .dim = 2048, .layers = 28, .heads = 16, .kv_heads = 8,
             .head_dim = 128, .hidden = 6144, .max_seq = 40960, .tied = 1, .rope_theta = 1000000,
             .norm_eps = 1e-6f)},
    {"qwen3-4b", "4.02B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3, .vocab = 151936, .dim = 2560, .layers = 36, .heads = 32, .kv_heads = 8,
             .head_dim = 128, .hidden = 9728, .max_seq = 40960, .tied = 1, .rope_theta = 1000000,
             .norm_eps = 1e-6f)},
    {"qwen3-8b", "8.19B", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3, .vocab = 151936, .dim = 4096, .layers = 36, .heads = 32, .kv_heads = 8,
             .head_dim = 128, .hidden = 12288, .max_seq = 40960, .rope_theta = 1000000, .norm_eps = 1e-6f)},
    {"qwen3-14b", "14.8B", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3, .vocab = 151936, .dim = 5120, .layers = 40, .heads = 40, .kv_heads = 8,
             .head_dim = 128, .hidden = 17408, .max_seq = 40960, .rope_theta = 1000000, .norm_eps = 1e-6f)},
    {"qwen3-32b", "32.8B", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3, .vocab = 151936, .dim = 5120, .layers = 64, .heads = 64, .kv_heads = 8,
             .head_dim = 128, .hidden = 25600, .max_seq = 40960, .rope_theta = 1000000, .norm_eps = 1e-6f)},
    {"smollm3-3b", "3.08B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_SMOLLM3, .vocab = 128256, .dim = 2048, .layers = 36, .heads = 16, .kv_heads = 4,
             .hidden = 11008, .max_seq = 65536, .tied = 1, .rope_theta = 5000000, .norm_eps = 1e-6f,
             .no_rope = {{0x888888888}})},
    {"olmo2-1b", "1.48B", .batch = 1, .seq = 2048,
     DECODER(MODEL_OLMO2, .vocab = 100352, .dim = 2048, .layers = 16, .heads = 16, .hidden = 8192,
             .max_seq = 4096, .rope_theta = 500000, .norm_eps = 1e-6f)},
    {"olmo2-7b", "7.30B", .batch = 1, .seq = 2048,
     DECODER(MODEL_OLMO2, .vocab = 100352, .dim = 4096, .layers = 32, .heads = 32, .hidden = 11008,
             .max_seq = 4096, .rope_theta = 500000, .norm_eps = 1e-6f)},
    {"olmo2-13b", "13.7B", .batch = 1, .seq = 2048,
     DECODER(MODEL_OLMO2, .vocab = 100352, .dim = 5120, .layers = 40, .heads = 40, .hidden = 13824,
             .max_seq = 4096, .rope_theta = 500000, .norm_eps = 1e-6f)},
    {"olmo2-32b", "32.2B", .batch = 1, .seq = 2048,
     DECODER(MODEL_OLMO2, .vocab = 100352, .dim = 5120, .layers = 64, .heads = 40, .kv_heads = 8,
             .hidden = 27648, .max_seq = 4096, .rope_theta = 500000, .norm_eps = 1e-6f)},
    {"granite-3.1-2b", "2.53B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GRANITE, .vocab = 49155, .dim = 2048, .layers = 40, .heads = 32, .kv_heads = 8,
             .hidden = 8192, .max_seq = 131072, .tied = 1, .rope_theta = 5000000, .embedding_factor = 12,
             .branch_factor = 0.22f, .logits_divisor = 8, .attention_scale = 0.015625f)},
    {"granite-3.1-8b", "8.17B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GRANITE, .vocab = 49155, .dim = 4096, .layers = 40, .heads = 32, .kv_heads = 8,
             .hidden = 12800, .max_seq = 131072, .tied = 1, .rope_theta = 10000000, .embedding_factor = 12,
             .branch_factor = 0.22f, .logits_divisor = 16, .attention_scale = 0.0078125f)},
    {"mixtral-8x7b", "46.7B, of which a token passes through 12.9B", .batch = 1, .seq = 2048,
     DECODER(MODEL_MIXTRAL, .vocab = 32000, .dim = 4096, .layers = 32, .heads = 32, .kv_heads = 8,
             .hidden = 14336, .max_seq = 32768, .rope_theta = 1000000,
             .experts = {.count = 8, .active = 2, .normalise = 1})},
    {"mixtral-8x22b", "140.6B, of which a token passes through 39.2B", .batch = 1, .seq = 2048,
     DECODER(MODEL_MIXTRAL, .vocab = 32000, .dim = 6144, .layers = 56, .heads = 48, .kv_heads = 8,
             .hidden = 16384, .max_seq = 65536, .rope_theta = 1000000,
             .experts = {.count = 8, .active = 2, .normalise = 1})},
    {"qwen3-30b-a3b", "30.5B, of which a token passes through 3.3B", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3_MOE, .vocab = 151936, .dim = 2048, .layers = 48, .heads = 32, .kv_heads = 4,
             .head_dim = 128, .hidden = 6144, .max_seq = 40960, .rope_theta = 1000000, .norm_eps = 1e-6f,
             .experts = {.count = 128, .active = 8, .hidden = 768, .normalise = 1})},
    {"qwen3-235b-a22b", "235.1B, of which a token passes through 22.2B", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN3_MOE, .vocab = 151936, .dim = 4096, .layers = 94, .heads = 64, .kv_heads = 4,
             .head_dim = 128, .hidden = 12288, .max_seq = 40960, .rope_theta = 1000000, .norm_eps = 1e-6f,
             .experts = {.count = 128, .active = 8, .hidden = 1536, .normalise = 1})},
    {"qwen1.5-moe-a2.7b", "14.3B, of which a token passes through 2.7B", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN2_MOE, .vocab = 151936, .dim = 2048, .layers = 24, .heads = 16, .kv_heads = 16,
             .hidden = 5632, .max_seq = 8192, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1,
             .experts = {.count = 60, .active = 4, .hidden = 1408, .shared_hidden = 5632})},
    {"qwen2-57b-a14b", "57.4B, of which a token passes through 14.2B", .batch = 1, .seq = 2048,
     DECODER(MODEL_QWEN2_MOE, .vocab = 151936, .dim = 3584, .layers = 28, .heads = 28, .kv_heads = 4,
             .hidden = 18944, .max_seq = 131072, .rope_theta = 1000000, .norm_eps = 1e-6f, .qkv_bias = 1,
             .experts = {.count = 64, .active = 8, .hidden = 2560, .shared_hidden = 20480})},

    {"phi-3-mini-4k", "3.82B", .batch = 1, .seq = 2048,
     DECODER(MODEL_PHI3, .vocab = 32064, .dim = 3072, .layers = 32, .heads = 32, .hidden = 8192,
             .max_seq = 4096, .window = 2047)},
    {"phi-3-medium-4k", "14.0B", .batch = 1, .seq = 2048,
     DECODER(MODEL_PHI3, .vocab = 32064, .dim = 5120, .layers = 40, .heads = 40, .kv_heads = 10,
             .hidden = 17920, .max_seq = 4096, .window = 2047)},
    {"phi-4", "14.7B", .batch = 1, .seq = 2048,
     DECODER(MODEL_PHI3, .vocab = 100352, .dim = 5120, .layers = 40, .heads = 40, .kv_heads = 10,
             .hidden = 17920, .max_seq = 16384, .rope_theta = 250000)},
    {"gemma-2b", "2.51B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA, .vocab = 256000, .dim = 2048, .layers = 18, .heads = 8, .kv_heads = 1,
             .head_dim = 256, .hidden = 16384, .max_seq = 8192, .tied = 1, .norm_eps = 1e-6f)},
    {"gemma-7b", "8.54B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA, .vocab = 256000, .dim = 3072, .layers = 28, .heads = 16, .head_dim = 256,
             .hidden = 24576, .max_seq = 8192, .tied = 1, .norm_eps = 1e-6f)},
    {"gemma-2-2b", "2.61B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA2, .dim = 2304, .layers = 26, .heads = 8, .kv_heads = 4, .head_dim = 256,
             .hidden = 9216, GEMMA_2(256))},
    {"gemma-2-9b", "9.24B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA2, .dim = 3584, .layers = 42, .heads = 16, .kv_heads = 8, .head_dim = 256,
             .hidden = 14336, GEMMA_2(256))},
    {"gemma-2-27b", "27.2B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA2, .dim = 4608, .layers = 46, .heads = 32, .kv_heads = 16, .head_dim = 128,
             .hidden = 36864, GEMMA_2(144))},
    {"gemma-3-270m", "268M, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA3, .vocab = 262144, .dim = 640, .layers = 18, .heads = 4, .kv_heads = 1,
             .head_dim = 256, .hidden = 2048, .max_seq = 32768, .window = 512, GEMMA_3)},
    {"gemma-3-1b", "1.00B, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA3, .vocab = 262144, .dim = 1152, .layers = 26, .heads = 4, .kv_heads = 1,
             .head_dim = 256, .hidden = 6912, .max_seq = 32768, .window = 512, GEMMA_3)},
    {"gemma-3-4b", "3.88B, the text part, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA3, .vocab = 262208, .dim = 2560, .layers = 34, .heads = 8, .kv_heads = 4,
             .head_dim = 256, .hidden = 10240, .max_seq = 131072, .window = 1024, LINEAR(8), GEMMA_3)},
    {"gemma-3-12b", "11.8B, the text part, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA3, .vocab = 262208, .dim = 3840, .layers = 48, .heads = 16, .kv_heads = 8,
             .head_dim = 256, .hidden = 15360, .max_seq = 131072, .window = 1024, LINEAR(8), GEMMA_3)},
    {"gemma-3-27b", "27.0B, the text part, tied head", .batch = 1, .seq = 2048,
     DECODER(MODEL_GEMMA3, .vocab = 262208, .dim = 5376, .layers = 62, .heads = 32, .kv_heads = 16,
             .head_dim = 128, .hidden = 21504, .max_seq = 131072, .window = 1024,
             .attention_scale = 0.07715167498104596f, LINEAR(8), GEMMA_3)},
    {"olmo3-7b", "7.30B", .batch = 1, .seq = 2048,
     DECODER(MODEL_OLMO2, .vocab = 100278, .dim = 4096, .layers = 32, .heads = 32, .hidden = 11008,
             .max_seq = 65536, .rope_theta = 500000, .local_theta = 500000, .norm_eps = 1e-6f, .window = 4096,
             .sliding = {{0x77777777}},
             .rope_scaling = {ROPE_SCALING_YARN, .factor = 8, .original_max_seq = 8192, .beta_fast = 32,
                              .beta_slow = 1, .attention_factor = 1.2079441541679836f})},

    {"pythia-70m", "70.4M", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50304, .dim = 512, .layers = 6, .heads = 8, .hidden = 2048)},
    {"pythia-160m", "162M", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50304, .dim = 768, .layers = 12, .heads = 12, .hidden = 3072)},
    {"pythia-410m", "405M", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50304, .dim = 1024, .layers = 24, .heads = 16, .hidden = 4096)},
    {"pythia-1b", "1.01B", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50304, .dim = 2048, .layers = 16, .heads = 8, .hidden = 8192)},
    {"pythia-1.4b", "1.41B", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50304, .dim = 2048, .layers = 24, .heads = 16, .hidden = 8192)},
    {"pythia-2.8b", "2.78B", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50304, .dim = 2560, .layers = 32, .heads = 32, .hidden = 10240)},
    {"pythia-6.9b", "6.86B", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50432, .dim = 4096, .layers = 32, .heads = 32, .hidden = 16384)},
    {"pythia-12b", "11.8B", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50688, .dim = 5120, .layers = 36, .heads = 40, .hidden = 20480)},
    {"gpt-neox-20b", "20.6B", .batch = 1, .seq = 2048,
     PYTHIA(.vocab = 50432, .dim = 6144, .layers = 44, .heads = 64, .hidden = 24576, .gelu_tanh = 1)},

    /* What textbooks calculate with. At 128 tokens a sample their 20 to 40 GB of activations hold. */
    {"textbook-10b", "10.0B, the example of textbooks", .batch = 32, .seq = 128,
     LLAMA(.vocab = 32000, .dim = 4096, .layers = 46, .heads = 32, .hidden = 11776)},

    {"bench-mlp", "benchmark shape", .batch = 128, MLP(.sizes = {784, 512, 512, 10})},
    {"bench-bert-tiny", "benchmark shape", .batch = 16, .seq = 128,
     BERT(.vocab = 8192, .dim = 256, .layers = 4, .heads = 4, .ffn = 1024)},
    {"bench-llama-tiny", "benchmark shape", .batch = 8, .seq = 256,
     LLAMA(.vocab = 4096, .dim = 288, .layers = 6, .heads = 6, .hidden = 768)},
    {"bench-gpt2", "benchmark shape, 124M", .batch = 4, .seq = 64,
     GPT2(.vocab = 50257, .dim = 768, .layers = 12, .heads = 12)},
    {"bench-llama-small", "benchmark shape", .batch = 2, .seq = 512,
     LLAMA(.vocab = 32000, .dim = 768, .layers = 12, .heads = 12, .hidden = 2048)},
};

enum { PRESET_COUNT = sizeof presets / sizeof presets[0] };

const ModelPreset *nn_preset_at(int i)
{
    return i >= 0 && i < PRESET_COUNT ? &presets[i] : NULL;
}

const ModelPreset *nn_preset(const char *name)
{
    for (int i = 0; i < PRESET_COUNT; i++)
        if (!strcmp(presets[i].name, name))
            return &presets[i];
    return NULL;
}

/* ---- What a preset says ---------------------------------------------------------------------- */

#define FAMILY_ROW(id, config, name) [id] = &name##_family,
static const ModelFamilyRow *const families[MODEL_FAMILY_COUNT] = {MODEL_FAMILIES(FAMILY_ROW)};

const ModelFamilyRow *nn_family(ModelFamily family)
{
    return (unsigned)family < MODEL_FAMILY_COUNT ? families[family] : NULL;
}

static const ModelFamilyRow *row_of(const ModelPreset *preset)
{
    static const ModelFamilyRow none;
    const ModelFamilyRow *row = preset ? nn_family(preset->family) : NULL;
    return row ? row : &none;
}

/* A field of the preset's configuration, or NULL where its family has none. */
static void *field(ModelPreset *preset, size_t at)
{
    return at ? (char *)preset + at : NULL;
}

Module *nn_model(const ModelPreset *preset)
{
    if (config_missing("model", preset))
        return NULL;
    const ModelFamilyRow *row = nn_family(preset->family);
    if (!row) {
        error_raise(ERROR_ARGUMENT, "model: there is no family of the number %d", (int)preset->family);
        return NULL;
    }
    return row->make(preset);
}

ModelSizes nn_preset_sizes(const ModelPreset *preset)
{
    const ModelFamilyRow *row = row_of(preset);
    ModelSizes sizes = row->sizes ? row->sizes(preset) : (ModelSizes){0};
    sizes.kv_heads = sizes.kv_heads ? sizes.kv_heads : sizes.heads;
    sizes.head_dim = sizes.head_dim || !sizes.heads ? sizes.head_dim : sizes.dim / sizes.heads;
    return sizes;
}

int nn_preset_max_seq(const ModelPreset *preset)
{
    return nn_preset_sizes(preset).max_seq;
}

int nn_preset_window(const ModelPreset *preset)
{
    return nn_preset_sizes(preset).window;
}

int nn_preset_vocab(const ModelPreset *preset)
{
    return nn_preset_sizes(preset).vocab;
}

void nn_preset_set_vocab(ModelPreset *preset, int vocab)
{
    int *at = field(preset, row_of(preset)->vocab_at);
    if (at)
        *at = vocab;
}

/* Classes of texts; 0 where there are none. */
static int text_classes(const ModelPreset *preset)
{
    size_t at = row_of(preset)->classes_at;
    return at ? *(const int *)((const char *)preset + at) : 0;
}

ModelObjective nn_preset_objective(const ModelPreset *preset)
{
    return text_classes(preset) ? OBJECTIVE_CLASSIFICATION : row_of(preset)->objective;
}

int nn_preset_classes(const ModelPreset *preset)
{
    if (nn_preset_objective(preset) != OBJECTIVE_CLASSIFICATION)
        return 0;
    return text_classes(preset) ? text_classes(preset) : nn_preset_vocab(preset);
}

void nn_preset_set_classes(ModelPreset *preset, int classes)
{
    int *at = field(preset, row_of(preset)->classes_at);
    if (at)
        *at = classes;
}

void nn_preset_set_attention(ModelPreset *preset, AttentionKind kind)
{
    AttentionKind *at = field(preset, row_of(preset)->attention_at);
    if (at)
        *at = kind;
}

void nn_preset_set_dropout(ModelPreset *preset, float p)
{
    float *at = field(preset, row_of(preset)->dropout_at);
    float *head = field(preset, row_of(preset)->head_dropout_at);
    if (head && *at != p) /* one that differs is for all */
        *head = 0;
    if (at)
        *at = p;
}

float nn_preset_dropout(const ModelPreset *preset)
{
    ModelPreset copy = preset ? *preset : (ModelPreset){0};
    const float *at = field(&copy, row_of(preset)->dropout_at);
    return at ? *at : 0;
}
