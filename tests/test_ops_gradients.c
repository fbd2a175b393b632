/* Every operation's every gradient against finite differences, over awkward shapes; and in every situation
 * that decides where the engine puts a gradient: inputs given away, shared with other operations before and
 * after, passed around a residual branch, kept, repeated, and with only some of them wanted. */
#include <math.h>

#include "../tensor/tensor_.h"
#include "support.h"

enum { MAX_INPUTS = 4, MAX_NUMEL = 600, ALL_INPUTS = (1 << MAX_INPUTS) - 1 };

typedef struct Case Case;
struct Case {
    const char *what;
    Tensor *(*run)(const Case *c, Tensor **in);
    Shape shape[MAX_INPUTS];
    double spread; /* of the inputs, around 0 */
    int a, b;      /* what run needs */
    float f;
    int far; /* 1 + the input whose values stay away from 0 (a kink) */
};

static Tensor *run_linear(const Case *c, Tensor **in)
{
    return tensor_linear(in[0], in[1], in[2], (TensorActivation)c->a);
}

static Tensor *run_linear_in_out(const Case *c, Tensor **in)
{
    return tensor_linear_in_out(in[0], in[1], in[2], (TensorActivation)c->a);
}

static Tensor *run_linear_of_itself(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_linear(in[0], in[0], NULL, TENSOR_IDENTITY);
}

static Tensor *run_lora_down(const Case *c, Tensor **in)
{
    tensor_random_begin(1, 0);
    return tensor_lora_down(in[0], in[1], c->f);
}

static Tensor *run_linear_onto(const Case *c, Tensor **in)
{
    return tensor_linear_onto(in[0], in[1], in[2], c->f);
}

static Tensor *run_linear_onto_same(const Case *c, Tensor **in)
{
    return tensor_linear_onto(in[0], in[0], in[1], c->f);
}

static Tensor *run_embedding(const Case *c, Tensor **in)
{
    return tensor_embedding(integers(SHAPE(c->a, c->b), 9, (int)tensor_dim(in[0], 0)), in[0]);
}

/* The table is the head as well. */
static Tensor *run_tied(const Case *c, Tensor **in)
{
    return tensor_linear(run_embedding(c, in), in[0], NULL, TENSOR_IDENTITY);
}

static Tensor *run_add_rows(const Case *c, Tensor **in)
{
    return c->b ? tensor_add_rows_from(in[0], in[1], c->b, c->a) : tensor_add_rows(in[0], in[1], c->a);
}

static Tensor *run_layer_norm(const Case *c, Tensor **in)
{
    return tensor_layer_norm(in[0], in[1], in[2], c->f);
}

static Tensor *run_rms_norm(const Case *c, Tensor **in)
{
    return tensor_rms_norm(in[0], in[1], c->f);
}

static Tensor *run_rms_norm_plus(const Case *c, Tensor **in)
{
    return tensor_rms_norm_plus(in[0], in[1], c->f, 1);
}

/* Of each head, as Qwen3 has it of queries and keys. */
static Tensor *run_rms_norm_heads(const Case *c, Tensor **in)
{
    Shape whole = tensor_shape(in[0]);
    Tensor *heads = tensor_reshape(in[0], SHAPE(whole.dim[0], whole.dim[1], c->a, whole.dim[2] / c->a));
    return tensor_reshape(tensor_rms_norm(tensor_donate(heads), in[1], c->f), whole);
}

static Tensor *run_activation(const Case *c, Tensor **in)
{
    static Tensor *(*const functions[])(Tensor *) = {NULL,        tensor_gelu, tensor_gelu_tanh,
                                                     tensor_silu, tensor_relu, tensor_tanh};
    return functions[c->a](in[0]);
}

static Tensor *run_gate_rows(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_gate_rows(in[0], in[1]);
}

/* The gate is the row itself. */
static Tensor *run_gate_rows_same(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_gate_rows(in[0], in[0]);
}

static Tensor *run_swiglu(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_swiglu(in[0], in[1]);
}

static Tensor *run_gated(const Case *c, Tensor **in)
{
    return tensor_gated(in[0], in[1], (TensorActivation)c->a);
}

static Tensor *run_gated_packed(const Case *c, Tensor **in)
{
    return tensor_gated_packed(in[0], (TensorActivation)c->a);
}

static Tensor *run_softcap(const Case *c, Tensor **in)
{
    return tensor_softcap(in[0], c->f);
}

static Tensor *run_swiglu_same(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_swiglu(in[0], in[0]);
}

static Tensor *run_rope(const Case *c, Tensor **in)
{
    RopeOptions from = {.heads = c->a, .theta = c->f, .first = c->b};
    return c->b ? tensor_rope_with(in[0], &from) : tensor_rope(in[0], c->a, c->f);
}

/* Heads of 4, of which some turn; b 1: pairs of neighbours. */
static Tensor *run_rope_part(const Case *c, Tensor **in)
{
    return tensor_rope_with(
        in[0], &(RopeOptions){.heads = c->a,
                              .theta = 100,
                              .head_dim = 4,
                              .rotary_dim = (int)c->f,
                              .interleaved = c->b,
                              .scaling = {.kind = ROPE_SCALING_YARN, .factor = 4, .original_max_seq = 64}});
}

/* Query and key of each of c->a heads, and a value that passes. */
static Tensor *run_rope_by_head(const Case *c, Tensor **in)
{
    return tensor_rope_with(
        in[0], &(RopeOptions){
                   .heads = 2 * c->a, .theta = 100, .head_dim = c->b, .group = 2, .rotary_dim = (int)c->f});
}

static AttentionOptions attention_options(const Case *c)
{
    return (AttentionOptions){
        .heads = c->a,
        .kv_heads = c->b % 10,
        .causal = c->b / 10 % 2,
        .kind = c->b / 100 % 2 ? ATTENTION_EAGER : ATTENTION_FLASH,
        .window = c->b / 10000,
        .softcap = c->f,
        .scale = c->f > 0 ? 0.8f : 0,
        .mask = c->b / 1000 % 10 ? integers(SHAPE(c->shape[0].dim[0], c->shape[0].dim[1]), 11, 2) : NULL};
}

static Tensor *run_attention(const Case *c, Tensor **in)
{
    AttentionOptions options = attention_options(c);
    return tensor_attention(in[0], in[1], in[2], &options);
}

static Tensor *run_attention_same(const Case *c, Tensor **in)
{
    AttentionOptions options = attention_options(c);
    return tensor_attention(in[0], in[0], in[0], &options);
}

static Tensor *run_attention_key_is_value(const Case *c, Tensor **in)
{
    AttentionOptions options = attention_options(c);
    return tensor_attention(in[0], in[1], in[1], &options);
}

static Tensor *run_attention_packed(const Case *c, Tensor **in)
{
    AttentionOptions options = attention_options(c);
    return tensor_attention_packed(in[0], &options);
}

static Tensor *run_attention_by_head(const Case *c, Tensor **in)
{
    AttentionOptions options = attention_options(c);
    options.by_head = 1;
    return tensor_attention_packed(in[0], &options);
}

static Tensor *run_add(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_add(in[0], in[1]);
}

static Tensor *run_add_same(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_add(in[0], in[0]);
}

static Tensor *run_mul(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_mul(in[0], in[1]);
}

static Tensor *run_mul_same(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_mul(in[0], in[0]);
}

static Tensor *run_scale(const Case *c, Tensor **in)
{
    return tensor_scale(in[0], c->f);
}

static Tensor *run_dropout(const Case *c, Tensor **in)
{
    tensor_random_begin(3, 5); /* the same mask each time */
    return tensor_dropout(in[0], c->f);
}

static Tensor *run_reshape(const Case *c, Tensor **in)
{
    return tensor_reshape(in[0], SHAPE(c->a, c->b));
}

static Tensor *run_last(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_last(in[0]);
}

/* With a: tokens from number a + the sample's on are padding. */
static Tensor *run_mean_tokens(const Case *c, Tensor **in)
{
    Shape x = tensor_shape(in[0]);
    Tensor *mask = c->a ? tensor_zeros(DTYPE_I32, SHAPE(x.dim[0], x.dim[1]), MEM_INPUT) : NULL;
    for (int64_t i = 0; mask && i < x.dim[0] * x.dim[1]; i++)
        tensor_i32(mask)[i] = i % x.dim[1] < c->a - i / x.dim[1];
    return tensor_mean_tokens(in[0], mask);
}

static Tensor *run_first(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_first(in[0]);
}

static Tensor *run_sum(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_sum(in[0]);
}

static Tensor *run_mean(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_mean(in[0]);
}

/* a classes; a third of the rows is ignored. */
static Tensor *run_cross_entropy(const Case *c, Tensor **in)
{
    Tensor *labels = integers(SHAPE(tensor_numel(in[0]) / c->a), 13, c->a);
    for (int64_t i = 0; i < tensor_numel(labels); i += 3)
        tensor_i32(labels)[i] = -7;
    return tensor_cross_entropy_with(in[0], labels,
                                     &(LossOptions){.ignore_index = -7, .scale = c->f, .softcap = c->b});
}

/* Two rows, of which label 1 is ignored, are a chunk. */
static Tensor *run_head(const Case *c, Tensor **in)
{
    int64_t classes = tensor_dim(in[1], 0), rows = tensor_numel(in[0]) / tensor_dim(in[1], 1);
    Tensor *labels = integers(SHAPE(rows), 13, (int)classes);
    if (rows > 1)
        tensor_i32(labels)[1] = -7;
    LossOptions o = {.ignore_index = -7, .scale = c->f, .softcap = c->b, .chunk_rows = c->a};
    return tensor_linear_cross_entropy_with(in[0], in[1], in[2], labels, &o);
}

/* Logits so far apart that the experts of a token stay what they are: a token's first experts differ, and of
 * three experts one has no token. */
static Tensor *run_experts_apart(const Case *c, Tensor **in)
{
    int64_t experts = tensor_dim(in[2], 0), tokens = tensor_numel(in[1]) / experts;
    Tensor *apart = tensor_new(DTYPE_F32, tensor_shape(in[1]), MEM_INPUT);
    for (int64_t i = 0; i < tokens * experts; i++)
        tensor_f32(apart)[i] = i % experts == 2                                               ? -9
                               : i % experts == (i / experts * 3 + i / experts / 2) % experts ? 4
                                                                                              : 2;
    for (int64_t i = 0; i < tokens; i++) /* the second one */
        tensor_f32(apart)[i * experts + (i % 2 ? experts - 1 : 0)] += 1;
    return tensor_experts(in[0], tensor_add(in[1], apart), in[2], in[3],
                          &(ExpertsOptions){.active = c->a, .normalise = c->b % 2, .act = TENSOR_GELU});
}

/* All experts of every token. */
static Tensor *run_experts(const Case *c, Tensor **in)
{
    return tensor_experts(in[0], in[1], in[2], in[3],
                          &(ExpertsOptions){.active = c->a, .normalise = c->b % 2});
}

#define S(...)                                                                                               \
    {                                                                                                        \
        (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                                           \
        {                                                                                                    \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
    }
#define NONE                                                                                                 \
    {                                                                                                        \
        .ndim = 0                                                                                            \
    }

static const Case cases[] = {
    {"linear 1", run_linear, {S(1, 1), S(1, 1), S(1)}, 1, TENSOR_IDENTITY, 0, 0, 0},
    {"linear 3 dimensions", run_linear, {S(2, 3, 7), S(5, 7), S(5)}, 1, TENSOR_IDENTITY, 0, 0, 0},
    {"linear no bias", run_linear, {S(5, 17), S(3, 17), NONE}, 1, TENSOR_IDENTITY, 0, 0, 0},
    {"linear vector", run_linear, {S(7), S(3, 7), S(3)}, 1, TENSOR_IDENTITY, 0, 0, 0},
    {"linear gelu", run_linear, {S(3, 7), S(11, 7), S(11)}, 1, TENSOR_GELU, 0, 0, 0},
    {"linear gelu tanh no bias", run_linear, {S(3, 7), S(11, 7), NONE}, 1, TENSOR_GELU_TANH, 0, 0, 0},
    {"linear silu", run_linear, {S(3, 7), S(1, 7), S(1)}, 1, TENSOR_SILU, 0, 0, 0},
    {"linear tanh", run_linear, {S(3, 7), S(5, 7), S(5)}, 1, TENSOR_TANH, 0, 0, 0},
    {"linear relu", run_linear, {S(3, 3), S(7, 3), S(7)}, 1, TENSOR_RELU, 0, 0, 3},
    {"linear in_out", run_linear_in_out, {S(2, 3, 7), S(7, 5), S(5)}, 1, TENSOR_IDENTITY, 0, 0, 0},
    {"linear in_out gelu tanh", run_linear_in_out, {S(1, 5), S(5, 17), S(17)}, 1, TENSOR_GELU_TANH, 0, 0, 0},
    {"linear in_out relu", run_linear_in_out, {S(5, 2), S(2, 3), S(3)}, 1, TENSOR_RELU, 0, 0, 3},
    {"linear of itself", run_linear_of_itself, {S(5, 5), NONE, NONE}, 1, 0, 0, 0, 0},
    {"lora_down", run_lora_down, {S(2, 3, 7), S(2, 7), NONE}, 1, 0, 0, 0, 0},
    {"lora_down dropout", run_lora_down, {S(3, 5, 7), S(3, 7), NONE}, 1, 0, 0, 0.4f, 0},
    {"lora_down dropout vector", run_lora_down, {S(17), S(1, 17), NONE}, 1, 0, 0, 0.3f, 0},
    {"linear_onto", run_linear_onto, {S(2, 3, 7), S(2, 3, 2), S(7, 2)}, 1, 0, 0, -1.5f, 0},
    {"linear_onto of rank 1", run_linear_onto, {S(5, 1), S(5, 1), S(1, 1)}, 1, 0, 0, 0.5f, 0},
    {"linear_onto same", run_linear_onto_same, {S(3, 4), S(4, 4), NONE}, 1, 0, 0, 2, 0},
    {"embedding", run_embedding, {S(7, 5), NONE, NONE}, 1, 3, 11, 0, 0},
    {"embedding of one row", run_embedding, {S(1, 17), NONE, NONE}, 1, 1, 3, 0, 0},
    {"embedding tied", run_tied, {S(5, 7), NONE, NONE}, 1, 2, 3, 0, 0},
    {"add_rows positions", run_add_rows, {S(3, 5, 7), S(6, 7), NONE}, 1, 5, 0, 0, 0},
    {"add_rows one", run_add_rows, {S(2, 3, 5), S(2, 5), NONE}, 1, 1, 0, 0, 0},
    {"add_rows matrix", run_add_rows, {S(3, 1), S(3, 1), NONE}, 1, 3, 0, 0, 0},
    {"add_rows from row 2", run_add_rows, {S(3, 5, 7), S(8, 7), NONE}, 1, 5, 2, 0, 0},
    {"layer_norm", run_layer_norm, {S(2, 3, 7), S(7), S(7)}, 1, 0, 0, 1e-5f, 0},
    {"layer_norm no bias", run_layer_norm, {S(5, 17), S(17), NONE}, 1, 0, 0, 1e-5f, 0},
    {"layer_norm of 1", run_layer_norm, {S(3, 1), S(1), S(1)}, 1, 0, 0, 1, 0},
    {"rms_norm", run_rms_norm, {S(2, 3, 7), S(7), NONE}, 1, 0, 0, 1e-5f, 0},
    {"rms_norm vector", run_rms_norm, {S(17), S(17), NONE}, 1, 0, 0, 1e-2f, 0},
    {"rms_norm plus", run_rms_norm_plus, {S(2, 3, 7), S(7), NONE}, 1, 0, 0, 1e-5f, 0},
    {"rms_norm of heads", run_rms_norm_heads, {S(2, 3, 12), S(4), NONE}, 1, 3, 0, 1e-5f, 0},
    {"gelu", run_activation, {S(3, 7), NONE, NONE}, 3, TENSOR_GELU, 0, 0, 0},
    {"gelu_tanh", run_activation, {S(2, 2, 2, 3), NONE, NONE}, 3, TENSOR_GELU_TANH, 0, 0, 0},
    {"silu", run_activation, {S(17), NONE, NONE}, 3, TENSOR_SILU, 0, 0, 0},
    {"relu", run_activation, {S(1, 19), NONE, NONE}, 3, TENSOR_RELU, 0, 0, 1},
    {"tanh", run_activation, {S(5, 7), NONE, NONE}, 2, TENSOR_TANH, 0, 0, 0},
    {"swiglu", run_swiglu, {S(3, 11), S(3, 11), NONE}, 2, 0, 0, 0, 0},
    {"gated identity", run_gated, {S(3, 11), S(3, 11), NONE}, 2, TENSOR_IDENTITY, 0, 0, 0},
    {"gated gelu", run_gated, {S(2, 3, 5), S(2, 3, 5), NONE}, 2, TENSOR_GELU, 0, 0, 0},
    {"gated gelu_tanh", run_gated, {S(17), S(17), NONE}, 2, TENSOR_GELU_TANH, 0, 0, 0},
    {"gated relu", run_gated, {S(3, 7), S(3, 7), NONE}, 3, TENSOR_RELU, 0, 0, 1},
    {"gated tanh", run_gated, {S(3, 7), S(3, 7), NONE}, 2, TENSOR_TANH, 0, 0, 0},
    {"gated_packed identity", run_gated_packed, {S(3, 10), NONE, NONE}, 2, TENSOR_IDENTITY, 0, 0, 0},
    {"gated_packed gelu", run_gated_packed, {S(2, 3, 14), NONE, NONE}, 2, TENSOR_GELU, 0, 0, 0},
    {"gated_packed gelu_tanh", run_gated_packed, {S(34), NONE, NONE}, 2, TENSOR_GELU_TANH, 0, 0, 0},
    {"gated_packed silu", run_gated_packed, {S(5, 2), NONE, NONE}, 2, TENSOR_SILU, 0, 0, 0},
    {"gated_packed relu", run_gated_packed, {S(3, 6), NONE, NONE}, 3, TENSOR_RELU, 0, 0, 1},
    {"gate_rows", run_gate_rows, {S(2, 3, 7), S(2, 3, 1), NONE}, 2, 0, 0, 0, 0},
    {"gate_rows of one", run_gate_rows, {S(17), S(1), NONE}, 2, 0, 0, 0, 0},
    {"gate_rows same", run_gate_rows_same, {S(5, 1), NONE, NONE}, 2, 0, 0, 0, 0},
    {"softcap", run_softcap, {S(3, 7), NONE, NONE}, 3, 0, 0, 2, 0},
    {"softcap beyond", run_softcap, {S(2, 2, 5), NONE, NONE}, 3, 0, 0, 0.5f, 0},
    {"swiglu same", run_swiglu_same, {S(3, 11), NONE, NONE}, 2, 0, 0, 0, 0},
    {"rope", run_rope, {S(2, 3, 12), NONE, NONE}, 1, 3, 0, 10000, 0},
    {"rope of one pair", run_rope, {S(1, 7, 2), NONE, NONE}, 1, 1, 0, 100, 0},
    {"rope from 5", run_rope, {S(2, 3, 12), NONE, NONE}, 1, 3, 5, 100, 0},
    {"rope of a part", run_rope_part, {S(2, 3, 8), NONE, NONE}, 1, 2, 0, 2, 0},
    {"rope of q and k beside v", run_rope_part, {S(2, 3, 17), NONE, NONE}, 1, 3, 0, 0, 0},
    {"rope of q and k of each head", run_rope_by_head, {S(2, 3, 24), NONE, NONE}, 1, 2, 4, 2, 0},
    {"rope of neighbours", run_rope_part, {S(1, 7, 9), NONE, NONE}, 1, 2, 1, 4, 0},
    {"attention flash causal", run_attention, {S(2, 5, 6), S(2, 5, 6), S(2, 5, 6)}, 1.5, 2, 10, 0, 0},
    {"attention eager causal", run_attention, {S(2, 5, 6), S(2, 5, 6), S(2, 5, 6)}, 1.5, 2, 110, 0, 0},
    {"attention flash grouped", run_attention, {S(1, 7, 9), S(1, 7, 3), S(1, 7, 3)}, 1.5, 3, 11, 0, 0},
    {"attention eager grouped", run_attention, {S(1, 7, 6), S(1, 7, 2), S(1, 7, 2)}, 1.5, 6, 112, 0, 0},
    {"attention flash mask", run_attention, {S(3, 5, 3), S(3, 5, 3), S(3, 5, 3)}, 1.5, 1, 1000, 0, 0},
    {"attention eager mask", run_attention, {S(3, 5, 3), S(3, 5, 3), S(3, 5, 3)}, 1.5, 1, 1100, 0, 0},
    {"attention of length 1", run_attention, {S(2, 1, 3), S(2, 1, 3), S(2, 1, 3)}, 1, 3, 0, 0, 0},
    {"attention flash same", run_attention_same, {S(2, 5, 6), NONE, NONE}, 1, 2, 10, 0, 0},
    {"attention eager same", run_attention_same, {S(2, 5, 6), NONE, NONE}, 1, 2, 100, 0, 0},
    {"attention key is value", run_attention_key_is_value, {S(1, 5, 6), S(1, 5, 3), NONE}, 1, 2, 1, 0, 0},
    {"attention flash window", run_attention, {S(2, 7, 6), S(2, 7, 6), S(2, 7, 6)}, 1.5, 2, 30010, 0, 0},
    {"attention eager window", run_attention, {S(2, 7, 6), S(2, 7, 6), S(2, 7, 6)}, 1.5, 2, 30110, 0, 0},
    {"attention flash to both sides",
     run_attention,
     {S(1, 7, 6), S(1, 7, 3), S(1, 7, 3)},
     1.5,
     2,
     41001,
     0,
     0},
    {"attention eager to both sides",
     run_attention,
     {S(1, 7, 6), S(1, 7, 3), S(1, 7, 3)},
     1.5,
     2,
     41101,
     0,
     0},
    {"attention flash capped", run_attention, {S(2, 5, 6), S(2, 5, 6), S(2, 5, 6)}, 1.5, 2, 1010, 0.7f, 0},
    {"attention eager capped", run_attention, {S(2, 5, 6), S(2, 5, 6), S(2, 5, 6)}, 1.5, 2, 1110, 0.7f, 0},
    {"attention capped window", run_attention, {S(2, 7, 6), S(2, 7, 3), S(2, 7, 3)}, 1.5, 2, 20011, 1.5f, 0},
    {"attention packed grouped", run_attention_packed, {S(2, 5, 24), NONE, NONE}, 1.5, 4, 12, 0, 0},
    {"attention packed eager window", run_attention_packed, {S(1, 5, 15), NONE, NONE}, 1.5, 3, 20111, 0, 0},
    {"attention packed flash", run_attention_packed, {S(2, 3, 18), NONE, NONE}, 1.5, 2, 10, 0, 0},
    {"attention packed eager", run_attention_packed, {S(2, 3, 9), NONE, NONE}, 1.5, 3, 1100, 0, 0},
    {"attention by head flash", run_attention_by_head, {S(2, 3, 18), NONE, NONE}, 1.5, 2, 10, 0, 0},
    {"attention by head eager", run_attention_by_head, {S(2, 3, 9), NONE, NONE}, 1.5, 3, 1100, 0, 0},
    {"attention by head window", run_attention_by_head, {S(1, 5, 24), NONE, NONE}, 1.5, 2, 20010, 1.5f, 0},
    {"add", run_add, {S(3, 7), S(3, 7), NONE}, 1, 0, 0, 0, 0},
    {"add same", run_add_same, {S(3, 7), NONE, NONE}, 1, 0, 0, 0, 0},
    {"mul", run_mul, {S(3, 7), S(3, 7), NONE}, 1, 0, 0, 0, 0},
    {"mul same", run_mul_same, {S(19), NONE, NONE}, 1, 0, 0, 0, 0},
    {"scale", run_scale, {S(2, 1, 7), NONE, NONE}, 1, 0, 0, -2.5f, 0},
    {"dropout", run_dropout, {S(3, 7), NONE, NONE}, 1, 0, 0, 0.4f, 0},
    {"reshape", run_reshape, {S(2, 3, 5), NONE, NONE}, 1, 10, 3, 0, 0},
    {"last", run_last, {S(2, 3, 5), NONE, NONE}, 1, 0, 0, 0, 0},
    {"last of two", run_last, {S(3, 2, 1), NONE, NONE}, 1, 0, 0, 0, 0},
    {"first", run_first, {S(2, 3, 5), NONE, NONE}, 1, 0, 0, 0, 0},
    {"mean_tokens", run_mean_tokens, {S(2, 3, 5), NONE, NONE}, 1, 0, 0, 0, 0},
    {"mean_tokens masked", run_mean_tokens, {S(3, 5, 7), NONE, NONE}, 1, 4, 0, 0, 0},
    {"mean_tokens of a sample without any", run_mean_tokens, {S(3, 5, 2), NONE, NONE}, 1, 2, 0, 0, 0},
    {"first of two", run_first, {S(3, 2, 7), NONE, NONE}, 1, 0, 0, 0, 0},
    {"sum", run_sum, {S(2, 3, 5), NONE, NONE}, 1, 0, 0, 0, 0},
    {"mean", run_mean, {S(31), NONE, NONE}, 1, 0, 0, 0, 0},
    {"cross_entropy", run_cross_entropy, {S(7, 11), NONE, NONE}, 3, 11, 0, 0.25f, 0},
    {"cross_entropy of one class", run_cross_entropy, {S(4, 1), NONE, NONE}, 1, 1, 0, 1, 0},
    {"head", run_head, {S(2, 3, 5), S(7, 5), S(7)}, 1, 2, 0, 0.5f, 0},
    {"head of one chunk", run_head, {S(5, 3), S(11, 3), NONE}, 1, 5, 0, 1, 0},
    {"head row by row", run_head, {S(5, 2), S(3, 2), S(3)}, 2, 1, 0, 1, 0},
    {"head, a chunk too large", run_head, {S(3, 7), S(2, 7), NONE}, 1, 99, 0, 2, 0},
    {"head, capped", run_head, {S(2, 3, 5), S(7, 5), S(7)}, 1, 2, 2, 0.5f, 0},
    {"cross_entropy capped", run_cross_entropy, {S(7, 11), NONE, NONE}, 3, 11, 2, 0.25f, 0},
    {"experts", run_experts, {S(2, 3, 5), S(2, 3, 3), S(3, 8, 5), S(3, 5, 4)}, 1, 3, 0, 0, 0},
    {"experts normalised", run_experts, {S(5, 3), S(5, 2), S(2, 2, 3), S(2, 3, 1)}, 1, 2, 1, 0, 0},
    {"experts, the only one", run_experts, {S(7, 2), S(7, 1), S(1, 6, 2), S(1, 2, 3)}, 1, 1, 0, 0, 0},
    {"experts of one token", run_experts, {S(1, 5), S(1, 3), S(3, 4, 5), S(3, 5, 2)}, 1, 3, 1, 0, 0},
    {"experts 1 of 4", run_experts_apart, {S(2, 3, 5), S(2, 3, 4), S(4, 6, 5), S(4, 5, 3)}, 0.4, 1, 0, 0, 0},
    {"experts 1 of 4 normalised",
     run_experts_apart,
     {S(5, 2), S(5, 4), S(4, 6, 2), S(4, 2, 3)},
     0.4,
     1,
     1,
     0,
     0},
    {"experts 2 of 4", run_experts_apart, {S(7, 5), S(7, 4), S(4, 2, 5), S(4, 5, 1)}, 0.3, 2, 0, 0, 0},
    {"experts 2 of 4 normalised",
     run_experts_apart,
     {S(7, 3), S(7, 4), S(4, 6, 3), S(4, 3, 3)},
     0.3,
     2,
     1,
     0,
     0},
    {"cross_entropy 3 dimensions", run_cross_entropy, {S(2, 3, 5), NONE, NONE}, 3, 5, 0, 1, 0},
};

static int input_count(const Case *c)
{
    int n = 0;
    while (n < MAX_INPUTS && c->shape[n].ndim)
        n++;
    return n;
}

static Tensor *make_input(const Case *c, int i)
{
    Tensor *t = values(c->shape[i], 20 + (uint32_t)i, c->spread);
    float *x = tensor_f32(t);
    for (int64_t k = 0; c->far == i + 1 && k < tensor_numel(t); k++)
        x[k] += x[k] < 0 ? -4 : 4;
    return t;
}

static float upstream(int64_t i)
{
    return value_at(77, (uint32_t)i, 1, 0.2);
}

/* ---- Finite differences ---------------------------------------------------------------------- */

static double objective(const Case *c, Tensor **in)
{
    int scope = tensor_scope_begin();
    tensor_no_grad_begin();
    Tensor *y = c->run(c, in);
    tensor_no_grad_end();
    const float *data = tensor_f32(y);
    if (!data)
        fail_msg("%s: %s", c->what, error_message());
    double sum = 0;
    for (int64_t i = 0; i < tensor_numel(y); i++)
        sum += (double)upstream(i) * data[i];
    tensor_scope_end(scope);
    return sum;
}

static double moved_objective(const Case *c, Tensor **in, float *element, float to)
{
    float old = *element;
    *element = to;
    double f = objective(c, in);
    *element = old;
    return f;
}

/* Of fourth order: the error is that of float arithmetic. */
static double slope(const Case *c, Tensor **in, float *element)
{
    const float x = *element, h = 1.0f / 32;
    double near = moved_objective(c, in, element, x + h) - moved_objective(c, in, element, x - h);
    double far = moved_objective(c, in, element, x + 2 * h) - moved_objective(c, in, element, x - 2 * h);
    return (8 * near - far) / (12 * (double)h);
}

/* ---- The same by backward, in many situations ------------------------------------------------ */

typedef enum Situation {
    DIRECT,   /* inputs are leaves */
    MADE,     /* inputs are results of other operations */
    MOVED,    /* … and given away */
    KEPT,     /* … and kept, as is the output */
    SHARED,   /* … and read by others before and after; the output has two readers */
    RESIDUAL, /* input 0 is added to the output, both given away */
    SITUATIONS
} Situation;

static const char *const situation_names[] = {"direct", "made", "moved", "kept", "shared", "residual"};

typedef struct Result {
    int64_t numel, in_numel[MAX_INPUTS];
    float y[MAX_NUMEL], grad[MAX_INPUTS][MAX_NUMEL];
    int has_grad[MAX_INPUTS];
} Result;

static Tensor *upstream_like(const Tensor *y, double factor)
{
    Tensor *t = tensor_new(DTYPE_F32, tensor_shape(y), MEM_INPUT);
    for (int64_t i = 0; i < tensor_numel(t); i++)
        tensor_f32(t)[i] = (float)(upstream(i) * factor);
    return t;
}

static Tensor *weighted(Tensor *y, double factor)
{
    return tensor_sum(tensor_mul(y, upstream_like(y, factor)));
}

static Tensor *shared_loss(const Case *c, Tensor **in, Tensor **y)
{
    Tensor *loss = NULL;
    for (int i = 0; i < input_count(c); i++) {
        Tensor *term = weighted(tensor_add(in[i], values(tensor_shape(in[i]), 40, 1)), 0.5);
        loss = loss ? tensor_add(loss, term) : term;
    }
    *y = c->run(c, in);
    loss = tensor_add(loss, weighted(*y, 0.25));
    loss = tensor_add(loss, weighted(tensor_add(*y, values(tensor_shape(*y), 41, 1)), 0.75));
    for (int i = 0; i < input_count(c); i++)
        loss = tensor_add(loss, weighted(in[i], 0.5));
    return loss;
}

static Tensor *loss_of(const Case *c, Situation situation, Tensor **in, Tensor **y)
{
    if (situation == SHARED)
        return shared_loss(c, in, y);
    for (int i = 0; i < input_count(c); i++) {
        if (situation == MOVED)
            tensor_donate(in[i]);
        if (situation == KEPT)
            tensor_keep(in[i]);
    }
    *y = c->run(c, in);
    if (situation == KEPT)
        tensor_keep(*y);
    if (situation == RESIDUAL)
        *y = tensor_add(tensor_donate(*y), tensor_donate(in[0]));
    return weighted(*y, 1);
}

/* `wanted` says which inputs need a gradient. */
static void run_backward(const Case *c, Situation situation, unsigned wanted, Result *result)
{
    int scope = tensor_scope_begin();
    Tensor *in[MAX_INPUTS] = {0}, *leaves[MAX_INPUTS] = {0}, *y;
    *result = (Result){0};
    for (int i = 0; i < input_count(c); i++) {
        leaves[i] = make_input(c, i);
        tensor_set_requires_grad(leaves[i], wanted >> i & 1);
        in[i] = situation == DIRECT ? leaves[i] : tensor_scale(leaves[i], 1);
        result->in_numel[i] = tensor_numel(leaves[i]);
    }
    Tensor *loss = loss_of(c, situation, in, &y);
    if (situation != MOVED && y) {
        result->numel = tensor_numel(y);
        memcpy(result->y, tensor_f32(y), (size_t)result->numel * sizeof(float));
    }
    if (tensor_backward(loss) != 0)
        fail_msg("%s, %s: %s", c->what, situation_names[situation], error_message());
    if (situation == KEPT)
        for (int64_t i = 0; i < result->numel; i++)
            assert_float_equal(grad_f32(y)[i], upstream(i), 0);
    for (int i = 0; i < input_count(c); i++) {
        const float *grad = grad_f32(leaves[i]);
        result->has_grad[i] = grad != NULL;
        if (grad)
            memcpy(result->grad[i], grad, (size_t)result->in_numel[i] * sizeof(float));
        if (situation == KEPT && grad)
            assert_memory_equal(grad_f32(in[i]), grad, (size_t)result->in_numel[i] * sizeof(float));
    }
    tensor_scope_end(scope);
}

/* What SHARED and RESIDUAL add to the gradient of input i. */
static double added(Situation situation, int i, int64_t k)
{
    return situation == SHARED || (situation == RESIDUAL && i == 0) ? upstream(k) : 0;
}

static void compare(const Case *c, Situation situation, const Result *plain, const Result *result)
{
    for (int i = 0; i < input_count(c); i++) {
        float expected[MAX_NUMEL];
        for (int64_t k = 0; k < plain->in_numel[i]; k++)
            expected[k] = (float)(plain->grad[i][k] + added(situation, i, k));
        double apart = difference(expected, result->grad[i], plain->in_numel[i]);
        int exact = situation == MADE || situation == MOVED || situation == KEPT;
        if (!result->has_grad[i] || apart > (exact ? 0 : 3e-6))
            fail_msg("%s, %s: gradient %d differs by %g", c->what, situation_names[situation], i, apart);
    }
}

static void test_finite_differences(void **state)
{
    (void)state;
    static Result result;
    for (size_t n = 0; n < COUNT(cases); n++) {
        const Case *c = &cases[n];
        int scope = tensor_scope_begin();
        Tensor *in[MAX_INPUTS] = {0};
        double largest = 0.05;
        for (int i = 0; i < input_count(c); i++)
            in[i] = make_input(c, i);
        run_backward(c, DIRECT, ALL_INPUTS, &result);
        for (int i = 0; i < input_count(c); i++)
            for (int64_t k = 0; k < result.in_numel[i]; k++)
                largest = fmax(largest, fabs(result.grad[i][k]));
        for (int i = 0; i < input_count(c); i++) {
            for (int64_t k = 0; k < result.in_numel[i]; k++) {
                double measured = slope(c, in, tensor_f32(in[i]) + k);
                if (!(fabs(measured - result.grad[i][k]) <= 5e-4 * largest))
                    fail_msg("%s: gradient of input %d [%d] is %g, finite differences say %g", c->what, i,
                             (int)k, result.grad[i][k], measured);
            }
        }
        tensor_scope_end(scope);
    }
    assert_fine();
}

static int keeps_shape(const Case *c, const Result *result)
{
    return result->numel == result->in_numel[0] && c->run != run_reshape && c->run != run_cross_entropy &&
           c->run != run_sum && c->run != run_mean && c->run != run_head && c->run != run_linear_of_itself;
}

/* Where a gradient lives is the engine's choice; its value is not. */
static void test_situations(void **state)
{
    (void)state;
    static Result plain, result;
    for (size_t n = 0; n < COUNT(cases); n++) {
        run_backward(&cases[n], DIRECT, ALL_INPUTS, &plain);
        for (Situation s = MADE; s < SITUATIONS; s++) {
            if (s == RESIDUAL && (!keeps_shape(&cases[n], &plain) || cases[n].run == run_embedding))
                continue;
            if (s == MOVED && cases[n].run == run_tied)
                continue; /* it reads its input twice */
            run_backward(&cases[n], s, ALL_INPUTS, &result);
            compare(&cases[n], s, &plain, &result);
            if (s == MADE || s == KEPT || s == SHARED)
                assert_memory_equal(plain.y, result.y, (size_t)plain.numel * sizeof(float));
        }
    }
    assert_fine();
}

/* Gradients that are not wanted are not made, and do not change the others. */
static void test_some_inputs_only(void **state)
{
    (void)state;
    static Result plain, result;
    for (size_t n = 0; n < COUNT(cases); n++) {
        const Case *c = &cases[n];
        run_backward(c, DIRECT, ALL_INPUTS, &plain);
        for (unsigned wanted = 1; wanted < 1u << input_count(c); wanted++) {
            for (int made = 0; made < 2; made++) {
                run_backward(c, made ? MADE : DIRECT, wanted, &result);
                for (int i = 0; i < input_count(c); i++) {
                    if (result.has_grad[i] != (int)(wanted >> i & 1))
                        fail_msg("%s: input %d, wanted %u", c->what, i, wanted);
                    double apart =
                        result.has_grad[i] ? difference(plain.grad[i], result.grad[i], plain.in_numel[i]) : 0;
                    if (apart > 1e-6)
                        fail_msg("%s, wanted %u: gradient %d differs by %g", c->what, wanted, i, apart);
                }
            }
        }
    }
    assert_fine();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)
#define TEST2(name)                                                                                          \
    {                                                                                                        \
#name " (2 threads)", name, fresh_context2, leave_context, NULL                                      \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_finite_differences),
        TEST(test_situations),
        TEST2(test_situations),
        TEST(test_some_inputs_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
