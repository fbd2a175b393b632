/* ops: the operations. Each returns a new tensor of the current scope, and NULL after an error. Each records
 * itself for backward where an input requires a gradient. Activations are f32, bf16 or f16: the result has
 * the type of the first input, and inputs that are activations are of one type; what embedding makes is of
 * the precision's activations, losses and sums are f32. Weights, biases and tables are of any of these types
 * whatever the activations are, the weights of linear layers quantised as well: they are decoded as they are
 * read. All is computed in f32, and what is stored in 16 bit is rounded once. What an operation is made of:
 * op.h. */
#ifndef BRIM_OPS_H
#define BRIM_OPS_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum TensorActivation { /* values match the kernels' */
                                TENSOR_IDENTITY,
                                TENSOR_GELU,
                                TENSOR_GELU_TANH,
                                TENSOR_SILU,
                                TENSOR_RELU,
                                TENSOR_TANH
} TensorActivation;

/* act(x (…, in) W^T + bias): W (out, in), bias (out) or NULL -> (…, out). */
BRIM_API Tensor *tensor_linear(Tensor *x, Tensor *weight, Tensor *bias, TensorActivation act);
/* The same with W (in, out), as GPT-2 stores it. */
BRIM_API Tensor *tensor_linear_in_out(Tensor *x, Tensor *weight, Tensor *bias, TensorActivation act);
/* ids i32 (…) in [0, vocab), at most 2^31 - 1 of them, table (vocab, c) -> (…, c). */
BRIM_API Tensor *tensor_embedding(Tensor *ids, Tensor *table);
/* x (…, rows, c) + the first `rows` rows of table (n >= rows, c), for every leading index: rows = T adds
 * learned positions to (B,T,c); rows = 1 adds one vector everywhere. */
BRIM_API Tensor *tensor_add_rows(Tensor *x, Tensor *table, int64_t rows);
/* The same with the table's rows from `first` on: positions of tokens that continue a sequence. */
BRIM_API Tensor *tensor_add_rows_from(Tensor *x, Tensor *table, int64_t first, int64_t rows);
/* Over the last dimension; weight and bias (c). */
BRIM_API Tensor *tensor_layer_norm(Tensor *x, Tensor *weight, Tensor *bias, float eps);
BRIM_API Tensor *tensor_rms_norm(Tensor *x, Tensor *weight, float eps); /* the same without mean and bias */
/* By plus + weight: Gemma's, with plus 1, has weights around 0. */
BRIM_API Tensor *tensor_rms_norm_plus(Tensor *x, Tensor *weight, float eps, float plus);
BRIM_API Tensor *tensor_activation(Tensor *x, TensorActivation act); /* of each element */
BRIM_API Tensor *tensor_gelu(Tensor *x);                             /* exact, by erf */
BRIM_API Tensor *tensor_gelu_tanh(Tensor *x);                        /* GPT-2's approximation */
BRIM_API Tensor *tensor_silu(Tensor *x);                             /* x sigmoid(x) */
BRIM_API Tensor *tensor_relu(Tensor *x);                             /* max(x, 0) */
BRIM_API Tensor *tensor_tanh(Tensor *x);                             /* hyperbolic tangent */
/* cap tanh(x / cap): what is small stays, and nothing goes beyond (Gemma 2). cap = 0 returns x. */
BRIM_API Tensor *tensor_softcap(Tensor *x, float cap);
/* act(gate) * up; shapes and types equal. */
BRIM_API Tensor *tensor_gated(Tensor *gate, Tensor *up, TensorActivation act);
/* The same of rows in which gate and up lie side by side, gate first: (…, 2n) -> (…, n). */
BRIM_API Tensor *tensor_gated_packed(Tensor *gate_up, TensorActivation act);
BRIM_API Tensor *tensor_swiglu(Tensor *gate, Tensor *up); /* silu(gate) * up */
/* x sigmoid(gate), of one gate a row: x (…, n), gate (…, 1), of one type (Qwen2-MoE's shared expert). */
BRIM_API Tensor *tensor_gate_rows(Tensor *x, Tensor *gate);
/* x (B,T,heads*D): rotary positions 0..T-1, pairs (i, i + D/2) as in Hugging Face's Llama; D even. */
BRIM_API Tensor *tensor_rope(Tensor *x, int heads, float theta);

/* How trained positions are stretched over longer texts, as transformers computes it. LINEAR divides every
 * frequency by factor; LLAMA3 (Llama 3.1) divides the frequencies of waves longer than original_max_seq /
 * low_freq_factor, keeps those of waves shorter than original_max_seq / high_freq_factor, and interpolates
 * between. YARN (arXiv 2309.00071) does so between the pairs that turn beta_slow and beta_fast times within
 * original_max_seq. LONGROPE (arXiv 2402.13753) divides each by a number of its own, one for sequences of at
 * most original_max_seq and one for longer ones. DYNAMIC raises theta where a sequence is longer than
 * original_max_seq. The two last depend on the length of a sequence: RopeOptions.seq. */
typedef enum RopeScalingKind { /* values match the kernels', but for the last */
                               ROPE_SCALING_NONE,
                               ROPE_SCALING_LINEAR,
                               ROPE_SCALING_LLAMA3,
                               ROPE_SCALING_YARN,
                               ROPE_SCALING_LONGROPE,
                               ROPE_SCALING_DYNAMIC
} RopeScalingKind;

enum { ROPE_DIVISORS = 128 }; /* pairs that LONGROPE may have: heads up to 256 wide */
/* LONGROPE: by what the frequency of each pair is divided; rotary_dim / 2 of each count, all above 0. */
typedef struct RopeDivisors {
    float of_short[ROPE_DIVISORS], of_long[ROPE_DIVISORS];
} RopeDivisors;

typedef struct RopeScaling {
    RopeScalingKind kind;
    float factor;
    float low_freq_factor, high_freq_factor; /* LLAMA3: 1 and 4 */
    int original_max_seq;                    /* all but LINEAR: 8192 for LLAMA3 */
    /* YARN and LONGROPE: what cosines and sines are multiplied by. 0 = 1 + 0.1 ln(factor) for YARN, with
     * both of mscale (1 + 0.1 mscale ln(factor)) / (1 + 0.1 mscale_all_dim ln(factor)); for LONGROPE
     * sqrt(1 + ln(factor) / ln(original_max_seq)); 1 where factor is at most 1. */
    float attention_factor;
    float mscale, mscale_all_dim;
    float beta_fast, beta_slow; /* YARN; 0 = 32 and 1 */
    int untruncated;            /* YARN: the interpolation may begin and end between two pairs */
    /* LONGROPE: not copied, so they last as long as backward needs them. nn_attention copies them. */
    const RopeDivisors *divisors;
} RopeScaling;

typedef struct RopeOptions {
    int heads;
    float theta;
    int first;           /* position of x's first row */
    RopeScaling scaling; /* kind 0 = none */
    /* 0 = width / heads. Where x is wider than heads x head_dim, the columns behind pass as they are: of q, k
     * and v side by side, (B,T,(heads + 2 kv_heads) D), heads + kv_heads heads turn in one piece. */
    int head_dim;
    int group;       /* heads come in groups of so many, among which those columns are cut evenly: of q, k
                        and v side by side in each head, (B,T,heads,3,D), 2 heads a group turn; 0 = all */
    int rotary_dim;  /* even: of each head so many elements turn, and the rest passes; 0 = all */
    int interleaved; /* 1: pairs (2i, 2i + 1), as in GPT-J */
    int seq;         /* tokens of the whole sequence, by which LONGROPE and DYNAMIC choose; 0 = first + T */
} RopeOptions;
/* tensor_rope for positions first..first+T-1, with stretched frequencies, or of parts of x. Pairs are (i, i +
 * rotary_dim/2). */
BRIM_API Tensor *tensor_rope_with(Tensor *x, const RopeOptions *options);

typedef enum AttentionKind { ATTENTION_FLASH, ATTENTION_EAGER } AttentionKind;
typedef struct AttentionOptions {
    int heads;
    int kv_heads; /* 0 = heads; must divide heads */
    int causal;
    AttentionKind kind; /* flash keeps a number a row; eager keeps the (B,heads,T,T) scores */
    Tensor *mask;       /* i32 (B,T), 0 = padding key; NULL = none */
    int recompute; /* 1: eager keeps no scores; backward recomputes them, gradients are bitwise the same */
    int window;    /* causal: a query sees itself and the window - 1 tokens before it; otherwise the tokens at
                      most window / 2 away, to either side; 0 = all */
    float scale;   /* of scores; 0 = 1/sqrt(D) */
    float softcap; /* scores become softcap tanh(score / softcap), before masks (Gemma 2); 0 = as they are */
    int by_head;   /* of packed: 1: q, k and v lie side by side in each head, (B,T,heads,3,D), as in GPT-NeoX.
                      With as many key-value heads */
} AttentionOptions;
/* q (B,T,heads*D), k and v (B,T,kv_heads*D) -> (B,T,heads*D), all f32, bf16 or f16. What eager keeps of
 * scores is of that type. With a window flash's time is linear in T x window; eager computes no more, but
 * keeps (B,heads,T,T) all the same. */
BRIM_API Tensor *tensor_attention(Tensor *q, Tensor *k, Tensor *v, const AttentionOptions *options);
/* qkv (B,T,(heads + 2 kv_heads) D): q, k and v side by side, or so in each head. */
BRIM_API Tensor *tensor_attention_packed(Tensor *qkv, const AttentionOptions *options);

/* Causal attention of tokens that continue a sequence, over a cache of the keys and values before them: q
 * (B,T,heads*D), k and v (B,T,kv_heads*D) -> (B,T,heads*D). The cache is f32, bf16 or f16 (2, B*kv_heads,
 * capacity, D), keys and then values, with `past` tokens in it, whatever of these types q, k and v are of. k
 * and v are written behind those, in the cache itself, and query t sees past + t + 1 tokens. Of `options`
 * heads, kv_heads, window, scale, softcap and by_head count. With a window a cache has room for at most
 * `window` tokens: one with that room holds the last of any number of tokens, token t in row t modulo window,
 * and more than one token at once are computed from what they see of it, copied into workspace in the order
 * of tokens. Not to be recorded: ERROR_STATE. */
BRIM_API Tensor *tensor_attention_cached(Tensor *q, Tensor *k, Tensor *v, Tensor *cache, int past,
                                         const AttentionOptions *options);
/* The same of qkv (B,T,(heads + 2 kv_heads) D), side by side, or so in each head. */
BRIM_API Tensor *tensor_attention_cached_packed(Tensor *qkv, Tensor *cache, int past,
                                                const AttentionOptions *options);

typedef struct ExpertsOptions {
    int active;           /* experts a token, k: 1 to E */
    int normalise;        /* their weights are divided by their sum (Mixtral; Qwen3-MoE's norm_topk_prob) */
    TensorActivation act; /* of the gate; 0 = SILU */
    Tensor *balance;      /* what tensor_balance_loss counts this layer's tokens in; NULL = nothing does */
    Tensor *mask;         /* of that count: i32, as many as there are tokens, 0 = padding; NULL = none */
} ExpertsOptions;
/* Mixture of experts: router (…,E), E <= 1024, are logits; a token's k largest of softmax(router) weigh the
 * outputs of those experts, down_e(act(gate_e x) * up_e x). Of equal logits the expert of the lower number is
 * taken. x (…,C), gate_up (E,2I,C) gate rows first then up rows, down (E,C,I) -> (…,C). Keeps x, the routing,
 * and gate_e x and up_e x of k experts a token, whatever the routing. Every expert has a gradient every step:
 * zeros where it had no token. */
BRIM_API Tensor *tensor_experts(Tensor *x, Tensor *router, Tensor *gate_up, Tensor *down,
                                const ExpertsOptions *options);

/* The loss that balances experts over all layers of a model, transformers' load_balancing_loss_func: E times
 * the sum over experts of (the share of tokens that went to it) times (its mean probability). What it needs
 * of each layer is counted as the layer runs, so that no logits are kept for it, and layers may be
 * checkpointed: stats = tensor_zeros(DTYPE_F32, SHAPE(3, E), MEM_BUFFER), once a model;
 *     tensor_balance_begin(stats) before a forward pass;
 *     tensor_experts with .balance = stats in each layer: a run that backward repeats counts nothing;
 *     loss = tensor_balance_loss(loss, stats, k, coefficient).
 * Backward of the last comes before that of any layer: it leaves in stats the gradient of the probabilities,
 * which every layer adds to that of its router. So one forward pass at a time is between begin and the end of
 * its backward. stats (3,E): tokens, sums of probabilities, their gradient. */
BRIM_API void tensor_balance_begin(Tensor *stats);
/* loss (1) + coefficient times the loss above -> (1); without a counted token that is loss. The gradient of
 * the loss (its scale too) is that of both. */
BRIM_API Tensor *tensor_balance_loss(Tensor *loss, Tensor *stats, int active, float coefficient);

BRIM_API Tensor *tensor_add(Tensor *a, Tensor *b);      /* shapes and types equal */
BRIM_API Tensor *tensor_mul(Tensor *a, Tensor *b);      /* shapes and types equal */
BRIM_API Tensor *tensor_scale(Tensor *x, float factor); /* factor x */
/* The same values as f32, bf16 or f16, rounded to nearest even; x itself where it is of the type. */
BRIM_API Tensor *tensor_cast(Tensor *x, DType type);
/* Zeroes with probability p and scales the rest by 1/(1-p); dimension 0 of x counts samples. p = 0 returns x.
 */
BRIM_API Tensor *tensor_dropout(Tensor *x, float p);
BRIM_API Tensor *tensor_reshape(Tensor *x, Shape shape); /* shares storage */
BRIM_API Tensor *tensor_last(Tensor *x);                 /* (B,T,c) -> (B,c): the last position */
BRIM_API Tensor *tensor_first(Tensor *x);                /* the same of the first one */
/* The mean of the tokens that mask (B,T) i32 is not 0 for, of all where it is NULL; zeros of none: (B,T,c) ->
 * (B,c). */
BRIM_API Tensor *tensor_mean_tokens(Tensor *x, Tensor *mask);
BRIM_API Tensor *tensor_sum(Tensor *x);  /* -> (1) */
BRIM_API Tensor *tensor_mean(Tensor *x); /* -> (1) */
/* scale * sum over rows with label != ignore_index of -log softmax(logits)[label] -> (1).
 * logits (…, classes), labels i32 (…). */
BRIM_API Tensor *tensor_cross_entropy(Tensor *logits, Tensor *labels, int ignore_index, float scale);
typedef struct LossOptions {
    int ignore_index; /* rows with this label count nothing */
    float scale;
    float softcap;      /* logits count as tensor_softcap makes them, without a tensor of them; 0 = none */
    int64_t chunk_rows; /* of tensor_linear_cross_entropy_with */
} LossOptions;
BRIM_API Tensor *tensor_cross_entropy_with(Tensor *logits, Tensor *labels, const LossOptions *options);
/* tensor_cross_entropy(tensor_linear(hidden, weight, bias, TENSOR_IDENTITY), labels, …), equal to rounding,
 * without logits: forward computes those of chunk_rows rows at a time in workspace and keeps a log-sum-exp a
 * row; backward computes them once more. hidden (…, c), weight (classes, c), bias (classes) or NULL, labels
 * i32 (…) -> (1). chunk_rows is 1 or more; more than there are rows means all at once. */
BRIM_API Tensor *tensor_linear_cross_entropy(Tensor *hidden, Tensor *weight, Tensor *bias, Tensor *labels,
                                             int ignore_index, float scale, int64_t chunk_rows);
BRIM_API Tensor *tensor_linear_cross_entropy_with(Tensor *hidden, Tensor *weight, Tensor *bias,
                                                  Tensor *labels, const LossOptions *options);
/* What comes after a model's last block: logits = normed weight^T + bias, where normed is hidden, or with
 * `dense` layer_norm(act(hidden dense^T + dense_bias)) with norm, norm_bias and eps, BERT's transform. */
typedef struct LossHead {
    Tensor *weight, *bias;      /* (classes,n); (classes) or NULL */
    Tensor *dense, *dense_bias; /* (n,c) or NULL; (n) or NULL */
    Tensor *norm, *norm_bias;   /* (n), with dense; (n) or NULL */
    TensorActivation act;
    float eps;
    float softcap; /* of the logits, as of LossOptions; 0 = none */
} LossHead;
/* tensor_cross_entropy of a head's logits, equal to rounding, that computes only rows with a label other than
 * ignore_index: they are gathered into chunks of `rows` rows, in workspace, so that what is allocated does
 * not depend on how many there are. Keeps hidden and a number a row; backward computes the chunks once more,
 * and writes 0 where hidden has no label. hidden (…,c), labels i32 (…) -> (1). */
BRIM_API Tensor *tensor_labelled_cross_entropy(Tensor *hidden, const LossHead *head, Tensor *labels,
                                               int ignore_index, float scale, int64_t rows);
/* How many rows of logits (…, classes) are largest at their label (…): for accuracy. Not recorded; 0 on meta.
 */
BRIM_API int64_t tensor_count_correct(Tensor *logits, Tensor *labels);

#ifdef __cplusplus
}
#endif
#endif
