/* Published memory formulae: each as its source states it. */
#include "formulae.h"

/* ---- Weights --------------------------------------------------------------------------------- */

double estimate_nf4_bits(int double_quantisation)
{
    const double block = 64, scales = 256;
    return double_quantisation ? 4 + 8 / block + 32 / (block * scales) : 4 + 32 / block;
}

int64_t estimate_lora_parameters(int64_t rank, int64_t in, int64_t out)
{
    return rank * (in + out);
}

static int64_t kv_width(const LlamaShape *s)
{
    return s->dim / s->heads * s->kv_heads;
}

int64_t estimate_llama_linear_parameters(const LlamaShape *s)
{
    int64_t attention = 2 * s->dim * s->dim + 2 * s->dim * kv_width(s);
    return s->layers * (attention + 3 * s->dim * s->hidden);
}

int64_t estimate_llama_parameters(const LlamaShape *s)
{
    int64_t norms = (2 * s->layers + 1) * s->dim, tables = (s->tied ? 1 : 2) * s->vocab * s->dim;
    return estimate_llama_linear_parameters(s) + norms + tables;
}

int64_t estimate_llama_lora_parameters(const LlamaShape *s, int64_t rank)
{
    int64_t square = estimate_lora_parameters(rank, s->dim, s->dim);          /* query, output */
    int64_t narrow = estimate_lora_parameters(rank, s->dim, kv_width(s));     /* key, value */
    int64_t feed_forward = estimate_lora_parameters(rank, s->dim, s->hidden); /* gate, up, down */
    return s->layers * (2 * square + 2 * narrow + 3 * feed_forward);
}

int64_t estimate_kv_cache_bytes(const LlamaShape *s, int64_t tokens, int64_t bytes_a_value)
{
    return 2 * s->layers * kv_width(s) * bytes_a_value * tokens;
}

/* ---- Sharding -------------------------------------------------------------------------------- */

double estimate_zero_bytes(double parameters, double k, int64_t ranks, int stage)
{
    const double weights = 2, gradients = 2;
    double n = (double)ranks;
    double each =
        weights / (stage >= 3 ? n : 1) + gradients / (stage >= 2 ? n : 1) + k / (stage >= 1 ? n : 1);
    return parameters * each;
}

/* ---- Activations of a GPT layer -------------------------------------------------------------- */

static double sbh(const GptShape *x)
{
    return (double)x->seq * (double)x->batch * (double)x->dim;
}

static double scores(const GptShape *x) /* 5as²b */
{
    return 5.0 * (double)x->heads * (double)x->seq * (double)x->seq * (double)x->batch;
}

double estimate_korthikanti_bytes(const GptShape *x, KorthikantiRow row, int64_t ranks)
{
    double t = (double)ranks;
    switch (row) {
    case KORTHIKANTI_PLAIN:
        return 34 * sbh(x) + scores(x);
    case KORTHIKANTI_TENSOR:
        return (10 + 24 / t) * sbh(x) + scores(x) / t;
    case KORTHIKANTI_SEQUENCE:
        return (34 * sbh(x) + scores(x)) / t;
    case KORTHIKANTI_SELECTIVE:
        return (10 + 24 / t) * sbh(x);
    case KORTHIKANTI_SEQUENCE_SELECTIVE:
        return 34 * sbh(x) / t;
    case KORTHIKANTI_FULL:
        return 2 * sbh(x);
    case KORTHIKANTI_COUNT:
        break;
    }
    return 0;
}

int64_t estimate_korthikanti_part(const GptShape *x, KorthikantiPart part)
{
    static const int64_t of_sbh[KORTHIKANTI_PARTS] = {11, 0, 19, 4};
    int64_t rows = x->batch * x->seq;
    int64_t of_scores = part == KORTHIKANTI_SCORES ? 5 : 0;
    return of_sbh[part] * rows * x->dim + of_scores * rows * x->seq * x->heads;
}

/* ---- PyTorch's CUDA allocator ---------------------------------------------------------------- */

static uint64_t round_up(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

uint64_t estimate_cuda_block_bytes(uint64_t request)
{
    const uint64_t block = 512;
    return request ? round_up(request, block) : 0;
}

uint64_t estimate_cuda_segment_bytes(uint64_t request)
{
    const uint64_t mib = 1 << 20, small = mib, small_segment = 2 * mib, medium = 10 * mib,
                   medium_segment = 20 * mib;
    uint64_t bytes = estimate_cuda_block_bytes(request);
    if (bytes <= small)
        return bytes ? small_segment : 0;
    return bytes < medium ? medium_segment : round_up(bytes, 2 * mib);
}
