/* nn: modules and models.
 *
 * A module owns parameters and child modules, and has a forward. Modules belong to the scope they were made
 * in until they are added to a parent. Parameter names are the path of module names, and for the models here
 * those of Hugging Face checkpoints. A module of your own is a struct, a forward and a constructor: see
 * examples/own_module.c.
 */
#ifndef BRIM_NN_H
#define BRIM_NN_H

#include "../tensor/batch.h"
#include "../tensor/ops.h"
#include "nn_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Module Module;

/* ---- Modules in general ---------------------------------------------------------------------- */

typedef struct ModuleClass {
    const char *name; /* "attention" */
    size_t state;     /* bytes of the module's own struct, zeroed at creation; see nn_state */
    /* x is what the module is applied to (NULL for whole models, which read the batch). Returns a new tensor.
     */
    Tensor *(*forward)(Module *self, Tensor *x, const Batch *batch);
} ModuleClass;

/* What the parameters of modules that are made from now on are stored as. */
typedef struct Weights {
    DType dtype;     /* f32 (0), bf16 or f16 */
    DType quantized; /* of linear layers' and experts' weights, but for heads, routers and what is tied: int8,
                        nf4 or nf4-plain; 0 = as dtype */
    int frozen;      /* 1: no parameter requires a gradient. What is not f32 never does */
    const char *not_quantized; /* modules left out, names separated by commas: a path, its beginning up to a
                                  dot, or its end; NULL = none. Not copied */
} Weights;
/* Sets it for the current context; NULL is the defaults: f32, trained. Values are rounded once, from f32, as
 * they are drawn, filled in or loaded; there is no f32 copy. GPT-2's projections are (in,out) in f32 and
 * 16 bit; quantised matrices are always (out,in). Returns 0 or raises ERROR_ARGUMENT. */
BRIM_API int nn_set_weights(const Weights *weights);

typedef struct Quantize {
    DType dtype;               /* int8, nf4 or nf4-plain; 0 = nf4 */
    const char *not_quantized; /* as in Weights */
} Quantize;
/* Quantises the weights of a model's linear layers that exist already, but for heads and what is tied: one
 * after the other, so that only one exists in both forms at a time. They are frozen then. Call it before the
 * optimizer is made. nn_set_weights before the model is made takes less memory. Returns how many were
 * quantised (those that were already are none), or -1 after raising; then some may be. options may be NULL.
 */
BRIM_API int nn_quantize(Module *model, const Quantize *options);

/* A module of this class, without parameters or children yet. NULL without memory. */
BRIM_API Module *nn_module(const ModuleClass *type);
BRIM_API void *nn_state(Module *module);
/* A parameter of this module (uninitialised; owned by it), of the type that nn_set_weights says. Returns it.
 * `name` is copied. */
BRIM_API Tensor *nn_add_parameter(Module *module, const char *name, Shape shape);
/* nn_add(parent, "attn", nn_attention(…)): makes the child with parent.attn as its module path, and adopts
 * it. Returns the child. (Its two halves are nn_enter and nn_leave; a NULL name is the child's number.) */
#define nn_add(parent, name, child) (nn_enter(parent, name), nn_leave(parent, name, child))
BRIM_API void nn_enter(Module *parent, const char *name);
BRIM_API Module *nn_leave(Module *parent, const char *name, Module *child);
BRIM_API void module_free(Module *module);

/* Runs the module in a scope of its own: what it made and did not return is released. With checkpointing on,
 * only its input is kept, and backward runs the module again. The outermost call starts the random masks of
 * (batch->step, first_sample): two roots that read one batch draw the same masks, so put them under one
 * parent. Whole models take x NULL. */
BRIM_API Tensor *nn_forward(Module *module, Tensor *x, const Batch *batch);
/* The training loss of a model: the cross-entropy of nn_forward(model, NULL, batch), summed over
 * batch->labels and divided by batch->labels_total. Over the micro-batches of a step it sums to the mean over
 * the whole accumulated batch. With nn_set_loss_chunk the logits never exist at once. */
BRIM_API Tensor *nn_loss(Module *model, const Batch *batch);
/* Forward and backward of a micro-batch: tensor_backward(nn_loss(model, batch)). Of a model in stages
 * (Ranks.stages), this rank's part of it, in the order of its schedule: a call runs the forward of its batch
 * and the backwards, of this one or earlier ones, whose turn it is; the call with the step's last micro-batch
 * (batch->micro, of batch->micros) runs all that are left. So a step reads all of its micro-batches, and one
 * loop does for one process and for stages:
 *     for (const Batch *b; (b = data_next(data)); ) nn_backward(model, b);
 * Stages are llama's, gpt2's and bert's: the first has the embedding, the last what comes after the blocks;
 * where blocks are left over the first stages have one more. Other stages' parameters are in nn_parameters,
 * with shape and name; they have no data, optimizers leave them out, and what is written to them is nowhere.
 * Without recording nn_loss works too, and is the same on all stages. Returns error_code(). */
BRIM_API int nn_backward(Module *model, const Batch *batch);

/* From now on nn_loss computes head and cross-entropy `rows` rows (positions) of the batch at a time, in
 * training and in evaluation, so that the logits (B,T,vocab) never exist at once. Losses and gradients are
 * equal up to rounding; backward computes the head's product once more. nn_forward still returns logits. 0 =
 * off. For models that offer a head: llama, gpt2, and bert with its masked-language head; with others nn_loss
 * raises an error. */
BRIM_API void nn_set_loss_chunk(Module *model, int rows);
/* From now on nn_loss computes the head only for rows that have a label, in training and in evaluation: of a
 * masked language model some 15 % have one. They are computed some 256 at a time (or as many as
 * nn_set_loss_chunk says), so the logits never exist at once, and memory does not depend on how many there
 * are. Losses and gradients are equal up to rounding (16-bit gradients of the head's parameters are rounded
 * once a chunk); backward computes the head once more, for those rows.
 * Off by default, for other frameworks compute all rows. For models that offer a head. */
BRIM_API void nn_set_skip_unlabelled(Module *model, int on);
/* What a model offers for the two; its constructor calls nn_offer_head. nn_forward's logits must be
 * tensor_linear(hidden(model, x, batch), weight, bias, TENSOR_IDENTITY), with tensor_softcap of them where
 * softcap is not 0, which the head does by itself where it is a linear layer of the model; where body is not
 * NULL, hidden must be norm(dense(body(model, x, batch))), which then is computed for rows with a label only,
 * too. */
typedef struct ModuleHead {
    Tensor *(*hidden)(Module *self, Tensor *x, const Batch *batch); /* the forward up to the head: (…,C) */
    Tensor *weight;                                                 /* (classes,C) */
    Tensor *bias;                                                   /* (classes) or NULL */
    const char *path; /* of the head, within the model's: "lm_head". Must outlive the model */
    Tensor *(*body)(Module *self, Tensor *x, const Batch *batch); /* (…,C); NULL: there is no more to skip */
    Module *dense, *norm; /* nn_linear_act's and nn_layer_norm's, with body */
    float softcap;        /* of the logits, in nn_forward and in nn_loss; 0 = none */
} ModuleHead;
BRIM_API void nn_offer_head(Module *model, const ModuleHead *head);

/* Every parameter once (tied ones too), in the order of construction. Valid while the module does not change.
 */
BRIM_API TensorList nn_parameters(Module *module);
BRIM_API Tensor *nn_parameter(Module *module, const char *name); /* by full name; NULL if there is none */
BRIM_API int64_t nn_parameter_count(Module *module);             /* elements */
/* Those of them that a token passes through: of experts, as many as it goes to. */
BRIM_API int64_t nn_active_count(Module *module);
/* Dropout on / off, for the module and all below. Modules start in training mode. */
BRIM_API void nn_train(Module *module);
BRIM_API void nn_eval(Module *module);
BRIM_API int nn_is_training(const Module *module);
/* Checkpoint this module: forward keeps only its input. */
BRIM_API void nn_set_checkpoint(Module *module, int on);
/* Selective recomputation, for the module and all below: what is cheap to recompute for its bytes (outputs of
 * norms, activation functions and gated ones (SwiGLU), eager attention's scores) is not kept, but recomputed
 * in backward. Gradients are bitwise the same. */
BRIM_API void nn_set_selective(Module *module, int on);
BRIM_API const char *nn_class_name(const Module *module);

/* ---- Blocks: the repeated layers of a model -------------------------------------------------- */

/* The blocks of a model: how many, and the i-th. */
BRIM_API int nn_block_count(const Module *model);
BRIM_API Module *nn_block(const Module *model, int i);
/* Marks a child as a repeated block; models call it. */
BRIM_API void nn_mark_block(Module *model, Module *block);
/* Runs the blocks in the order they were marked, each on the result of the one before, as the model's pattern
 * says; a model's forward calls it. Returns x where there is no block. */
BRIM_API Tensor *nn_run_blocks(Module *model, Tensor *x, const Batch *batch);
/* Checkpoints a model's blocks by a pattern of one character a block: '.' keeps everything, 'c' begins a
 * checkpointed segment, '+' continues it. A segment of n blocks keeps only the input of its first block.
 * Backward runs all n again, and for that time holds what n blocks keep. NULL, or '.' alone, turns it off.
 * For models whose forward calls nn_run_blocks, as those here do (ERROR_STATE when it runs otherwise);
 * nn_set_checkpoint of a block adds to it. Gradients are bitwise the same. Returns 0, or raises
 * ERROR_ARGUMENT and changes nothing. */
BRIM_API int nn_set_checkpoints(Module *model, const char *pattern);
/* The pattern of segments of n blocks from the first on; the last may be shorter. */
BRIM_API int nn_set_checkpoint_every(Module *model, int n);
/* The pattern in force, or NULL; valid until the next call that sets it. */
BRIM_API const char *nn_checkpoints(const Module *model);

/* ---- Hooks ----------------------------------------------------------------------------------- */

/* Told when modules run, all that nn_forward runs in the context. Any of the four may be NULL. Hooks are
 * called in the order in which they were added, in the module's path.
 *
 * before_forward, after_forward: around each run of a module's forward, recorded or not, recomputed or not;
 * `after` comes after an error, too. In the first run of a checkpoint nothing is recorded, so backward first
 * runs the module once more, with the phase MEM_PHASE_RECOMPUTE: the hooks are told of it like of any other
 * run, and of the modules in it.
 * before_backward, after_backward: around what backward does of a run that was recorded, so in the reverse
 * order; each module of a checkpoint after its recomputed run. A run that recorded nothing has none, and
 * after an error no more are called. Only runs that began while there was a hook count.
 *
 * A hook may free, replace and give back the data of parameters, as long as they are there while the module
 * computes: between `before` and `after`. A parameter that is read elsewhere too, such as the embedding that
 * is the head, must be there then. It may raise an error, which ends forward and backward. */
typedef struct ModuleHook ModuleHook;
struct ModuleHook {
    void (*before_forward)(Module *module, void *user);
    void (*after_forward)(Module *module, void *user);
    void (*before_backward)(Module *module, void *user);
    void (*after_backward)(Module *module, void *user);
    void *user;
    ModuleHook *next; /* for the library */
};
/* Of the current context. The hook stays the caller's, who removes it before it goes. */
BRIM_API void nn_hook_add(ModuleHook *hook);
BRIM_API void nn_hook_remove(const ModuleHook *hook);

/* Where ranks divide the parameters (ZeRO-3): 1 gathers those of a block together, before it runs and before
 * its backward; 2 begins with those of the block after it, too; 0, the default, one by one, by the operations
 * that read them. So many blocks more are whole at a time, and there are fewer, larger messages. Nothing
 * otherwise. Returns error_code(). */
BRIM_API int nn_set_gather_blocks(Module *model, int blocks);

/* ---- Writing one token after the other ------------------------------------------------------- */

/* The keys and values of the tokens read so far, of every attention in a model. */
typedef struct KvCache KvCache;

/* Room for max_tokens tokens of `batch` sequences: 2 x batch x kv_heads x max_tokens x head_dim floats,
 * charged to each attention's module path, component KV_CACHE, all at once and uninitialised. An attention
 * with a window has room for `window` tokens where those are fewer: the last that were read. Goes with the
 * current scope, or before by nn_kv_cache_free. For models whose attention is nn_attention's, of the styles
 * LLAMA, GPT2 and NEOX: others are ERROR_ARGUMENT, as are a batch and max_tokens below 1. */
BRIM_API KvCache *nn_kv_cache(Module *model, int batch, int max_tokens);
typedef struct KvCacheOptions {
    int batch, max_tokens;
    DType dtype; /* of keys and values: f32 (0), bf16 or f16; they are rounded as they are put in */
} KvCacheOptions;
BRIM_API KvCache *nn_kv_cache_of(Module *model, const KvCacheOptions *options); /* the same with a type */
BRIM_API void nn_kv_cache_free(KvCache *cache);                                 /* NULL is fine */
BRIM_API int nn_kv_cache_tokens(const KvCache *cache);                          /* of each sequence, so far */
BRIM_API int nn_kv_cache_max_tokens(const KvCache *cache); /* of each sequence, at most */
BRIM_API uint64_t nn_kv_cache_bytes(const KvCache *cache); /* as charged: each layer rounded up */
/* Forgets all but the first `tokens` tokens; 0 empties the cache. No bytes are freed. Attentions with a
 * window let go of tokens once more than that were read: then only the last token can be forgotten, or all
 * (else ERROR_STATE). */
BRIM_API void nn_kv_cache_truncate(KvCache *cache, int tokens);

/* nn_forward of batch->ids (B,T) as the tokens that follow those in the cache, which then holds them too:
 * positions continue, and every token sees itself and all before. Equal to the rows of nn_forward on the
 * whole sequence, up to rounding. Any T; after an error the cache is as before, unless a window's attentions
 * have let go of what comes next: then the next call says that the cache is to be emptied. Logits
 * (B,T,vocab). Only without recording (ERROR_STATE); more tokens than max_tokens are ERROR_ARGUMENT. Call
 * nn_eval before. Longrope's positions are those of as many tokens as there are with these: keys that were
 * put in before, with fewer than original_max_seq tokens, stay as they are, and nn_generate reads them again.
 */
BRIM_API Tensor *nn_forward_cached(Module *model, const Batch *batch, KvCache *cache);
/* The same with the logits of the last position only, (B,vocab): the head is not computed for the rest. For
 * models that offer a head (nn_offer_head). */
BRIM_API Tensor *nn_forward_next(Module *model, const Batch *batch, KvCache *cache);

/* ---- Layers ---------------------------------------------------------------------------------- */

/* weight (out, in), bias (out); PyTorch's default initialisation, uniform within 1/sqrt(in). */
BRIM_API Module *nn_linear(int64_t in, int64_t out, int bias);
BRIM_API Module *nn_linear_act(int64_t in, int64_t out, int bias,
                               TensorActivation act);      /* act(linear(x)) in one pass */
BRIM_API Module *nn_embedding(int64_t vocab, int64_t dim); /* normal(0, 1); forward takes i32 ids */
BRIM_API Module *nn_layer_norm(int64_t dim, float eps);    /* weight 1, bias 0; eps 0 = 1e-5 */
BRIM_API Module *nn_rms_norm(int64_t dim, float eps);      /* weight 1; eps 0 = 1e-5 */
BRIM_API Module *nn_dropout(float p);                      /* off in evaluation */
BRIM_API Module *nn_activation(TensorActivation act);      /* of each element */
/* Runs its children in the order they were added; nn_append(sequential, nn_linear(…)) names them "0", "1", …
 */
BRIM_API Module *nn_sequential(void);
#define nn_append(sequential, child) nn_add(sequential, NULL, child)

/* Attention of the families: projections named as in Hugging Face's checkpoints. */
typedef enum AttentionStyle {
    ATTENTION_LLAMA,
    ATTENTION_GPT2,
    ATTENTION_BERT,
    ATTENTION_DISTILBERT, /* BERT's under other names */
    ATTENTION_MODERNBERT, /* the same of one projection, with rotary positions; window and biases */
    ATTENTION_NEOX        /* LLaMA's of one projection, with q, k and v of a head side by side */
} AttentionStyle;
/* RMS norms on queries and keys, before they are rotated. */
typedef enum AttentionNorm {
    ATTENTION_NORM_NONE,
    ATTENTION_NORM_HEADS, /* of each head: Qwen3 */
    ATTENTION_NORM_ALL    /* of all heads together: OLMo 2 */
} AttentionNorm;
typedef struct AttentionConfig {
    AttentionStyle style;
    int dim, heads;
    int kv_heads; /* 0 = heads */
    int head_dim; /* 0 = dim / heads */
    AttentionKind kind;
    float rope_theta; /* LLaMA, as the three below; 0 = 10000 */
    RopeScaling rope_scaling;
    float partial_rotary;  /* the part of each head that turns, from its beginning on; 0 = 1 */
    int rope_interleaved;  /* 1: pairs of neighbours turn, as in GPT-J */
    int qkv_bias;          /* LLaMA: biases on q, k, v; GPT-2 and BERT always have all four */
    int o_bias;            /* LLaMA: a bias on the output */
    int no_rope;           /* LLaMA: 1: nothing is rotated */
    AttentionNorm qk_norm; /* LLaMA */
    float norm_eps;        /* of these norms; 0 = 1e-5 */
    float norm_plus;       /* they multiply by this plus their weight: Gemma 3 has 1 */
    int fused;             /* LLaMA: one projection qkv_proj in place of three: Phi-3. Without qk_norm */
    int window;            /* as in AttentionOptions: 0 = every token is seen */
    float scale;           /* of scores; 0 = 1/sqrt(head_dim) */
    float softcap;         /* of scores; 0 = none */
} AttentionConfig;
BRIM_API Module *nn_attention(const AttentionConfig *config);
BRIM_API Module *nn_swiglu(int64_t dim, int64_t hidden); /* gate_proj, up_proj, down_proj; no biases */

/* ---- Models ---------------------------------------------------------------------------------- */

/* Linear layers with ReLU between; reads batch->features (B, sizes[0]), or x. sizes ends with 0. */
typedef struct MlpConfig {
    int sizes[16];
    float dropout; /* after each hidden layer */
} MlpConfig;
BRIM_API Module *nn_mlp(const MlpConfig *config);

/* Some of a model's layers, by number; those from LAYER_SET_MOST on are never in it. */
enum { LAYER_SET_MOST = 256 };
typedef struct LayerSet {
    uint64_t bits[LAYER_SET_MOST / 64];
} LayerSet;
static inline int layer_in(const LayerSet *set, int layer)
{
    return layer >= 0 && layer < LAYER_SET_MOST && (set->bits[layer / 64] >> (layer % 64) & 1);
}

/* The elements of a head that turn, of the part that a configuration says: as transformers rounds it. 0 = 1.
 * A part of 0.7 is a float below 0.7; what it lacks must not cost an element. */
static inline int rotary_width(int head_dim, float partial)
{
    return partial > 0 && partial < 1 ? (int)(head_dim * ((double)partial + 1e-6)) : head_dim;
}
/* A mixture of experts in place of a layer's feed-forward: each token goes to some of them (arXiv
 * 2401.04088). */
typedef struct ExpertsConfig {
    int count;     /* of a layer; 0: a feed-forward, as elsewhere */
    int active;    /* that a token goes to */
    int hidden;    /* of each; 0 = the configuration's */
    int normalise; /* the weights of a token's experts are divided by their sum */
    /* The width of one more that all tokens go to, and whose output is multiplied by the sigmoid of one
     * number a token: nn_qwen2_moe; 0 = none. */
    int shared_hidden;
    /* Of the loss that balances them, which nn_loss adds once a batch, as transformers does: so losses and
     * gradients of a batch in pieces are those of the whole where it is 0. Not in stages. */
    float balance;
    LayerSet dense; /* layers that have a feed-forward */
} ExpertsConfig;

/* Llama (arXiv 2302.13971, 2307.09288), and the families that are made of its parts: pre-RMSNorm, rotary
 * positions, SwiGLU, grouped-query attention. Reads batch->ids; logits (B,T,vocab). Initialised
 * normal(0, 0.02), norms 1, as transformers does.
 * nn_llama: also Mistral and Qwen2, which are fields of the configuration.
 * nn_smollm3: the same with layers in no_rope. nn_granite: the same with factors.
 * nn_qwen3: with RMS norms on the queries and keys of each head (arXiv 2505.09388).
 * nn_olmo2: with norms behind the branches instead of before, and on queries and keys (arXiv 2501.00656).
 * nn_phi3: projections that read the same are one (arXiv 2404.14219); without biases.
 * nn_gemma (arXiv 2403.08295): GELU in the gate, norms by 1 + weight, embeddings times sqrt(dim); nn_gemma2
 * (arXiv 2408.00118): norms behind the branches too, soft caps; nn_gemma3 (arXiv 2503.19786): norms on
 * queries and keys.
 * nn_gpt_neox (arXiv 2204.06745, 2304.01373): Pythia. Attention and feed-forward side by side, LayerNorm, a
 * feed-forward without a gate; with biases (qkv_bias, o_bias, mlp_bias) in all published ones.
 * nn_mixtral: with experts in every layer (arXiv 2401.04088). nn_qwen3_moe: nn_qwen3 with experts.
 * nn_qwen2_moe: with them and one that all tokens share. Layers with experts are not divided among ranks that
 * compute a layer together. */
typedef struct LlamaConfig {
    int vocab, dim, layers, heads, hidden;
    int kv_heads;             /* 0 = heads */
    int head_dim;             /* 0 = dim / heads */
    int max_seq;              /* positions; 0 = 4096 */
    int window;               /* a token sees itself and the window - 1 tokens before it; 0 = all before it */
    LayerSet sliding;         /* the layers that have the window; empty = all */
    int tied;                 /* the head is the embedding */
    float rope_theta;         /* 0 = 10000 */
    RopeScaling rope_scaling; /* Llama 3.1 and later; zero = none */
    RopeDivisors rope_divisors; /* of longrope, where rope_scaling points to none */
    float partial_rotary;       /* the part of each head that turns, from its beginning on; 0 = 1 */
    int rope_interleaved;       /* 1: pairs of neighbours turn, as in GPT-J */
    float local_theta; /* of layers with the window, which are not scaled then: Gemma 3; 0 = rope_theta,
                          scaled */
    float norm_eps;    /* 0 = 1e-5 */
    AttentionKind attention;
    int qkv_bias;     /* biases on q_proj, k_proj, v_proj: Qwen2 (arXiv 2407.10671) */
    int o_bias;       /* on o_proj */
    int mlp_bias;     /* on gate_proj, up_proj, down_proj */
    int sequential;   /* nn_gpt_neox: 1: the feed-forward reads what attention has added, as elsewhere */
    int gelu_tanh;    /* nn_gpt_neox: 1: GELU by tanh, as in GPT-NeoX-20B; else by erf */
    LayerSet no_rope; /* layers whose queries and keys are not rotated: SmolLM3 */
    /* Granite's factors; 0 = 1, but of Gemma's embedding the root of dim. On what the embedding gives, on
     * each branch before it is added, and what logits are divided by. */
    float embedding_factor, branch_factor, logits_divisor;
    float attention_scale;           /* of scores: Granite's attention_multiplier; 0 = 1/sqrt(head_dim) */
    float attention_cap, logits_cap; /* soft caps of scores and of logits: Gemma 2; 0 = none */
    ExpertsConfig experts; /* nn_mixtral, nn_qwen2_moe, nn_qwen3_moe: they have some, and no other */
} LlamaConfig;
BRIM_API Module *nn_llama(const LlamaConfig *config);
BRIM_API Module *nn_smollm3(const LlamaConfig *config);
BRIM_API Module *nn_granite(const LlamaConfig *config);
BRIM_API Module *nn_qwen3(const LlamaConfig *config);
BRIM_API Module *nn_olmo2(const LlamaConfig *config);
BRIM_API Module *nn_phi3(const LlamaConfig *config);
BRIM_API Module *nn_gemma(const LlamaConfig *config);
BRIM_API Module *nn_gemma2(const LlamaConfig *config);
BRIM_API Module *nn_gemma3(const LlamaConfig *config);
BRIM_API Module *nn_gpt_neox(const LlamaConfig *config);
BRIM_API Module *nn_mixtral(const LlamaConfig *config);
BRIM_API Module *nn_qwen2_moe(const LlamaConfig *config);
BRIM_API Module *nn_qwen3_moe(const LlamaConfig *config);

/* GPT-2: pre-LayerNorm, learned positions, tanh-GELU, tied head. Projections into the residual stream are
 * initialised with 0.02/sqrt(2 layers), the rest normal(0, 0.02), as transformers does. Dropout on embeddings
 * and residual branches. */
typedef struct Gpt2Config {
    int vocab, dim, layers, heads;
    int ffn;     /* 0 = 4 dim */
    int max_seq; /* 0 = 1024 */
    float dropout;
    float norm_eps; /* 0 = 1e-5 */
    AttentionKind attention;
} Gpt2Config;
BRIM_API Module *nn_gpt2(const Gpt2Config *config);

/* BERT (arXiv 1810.04805): post-LayerNorm, GELU, token types, padding mask, masked-language-model head with
 * the tied decoder; logits (B,T,vocab). Initialised normal(0, 0.02). Dropout on embeddings and residual
 * branches. The configuration of RoBERTa and DistilBERT too. */
typedef struct BertConfig {
    int vocab, dim, layers, heads;
    int ffn;     /* 0 = 4 dim */
    int max_seq; /* 0 = 512 */
    int types;   /* 0 = 2 */
    int pooler;  /* 1: the encoder with the pooler's parameters and no head; forward returns the hidden states
                    (B,T,dim) */
    int classes; /* 1 or more: a sequence classifier in place of the masked head: of the first token a dense
                    layer with an activation, dropout, logits (B,classes); 0 = none */
    float head_dropout; /* of the classifier; 0 = as dropout, negative = none */
    float dropout;
    float norm_eps; /* 0 = 1e-12 */
    AttentionKind attention;
    int first_position; /* RoBERTa: the row of the positions that is a sequence's first, behind that of the
                           padding token; of its max_seq + first_position rows. 0 = 2; BERT's is the first */
    int sinusoidal;     /* DistilBERT: 1: positions begin as sines; they are trained all the same */
} BertConfig;
BRIM_API Module *nn_bert(const BertConfig *config);
/* RoBERTa (arXiv 1907.11692), and XLM-RoBERTa (arXiv 1911.02116), which is the same with another vocabulary:
 * BERT with parts of other names, and positions that begin behind the padding token. Every token has the
 * position of its place, padding and what is like it too: rows that are padded on the right, with a mask, are
 * those of transformers. */
BRIM_API Module *nn_roberta(const BertConfig *config);
/* DistilBERT (arXiv 1910.01108): BERT without token types (batch->types is not read) and without dropout
 * behind attention, with parts of other names. It has no pooler: pooler is the encoder alone. */
BRIM_API Module *nn_distilbert(const BertConfig *config);

/* ModernBERT (arXiv 2412.13663): an encoder with LayerNorm before the branches, rotary positions, windows in
 * most layers, and feed-forwards with a gate of GELU; a masked-language-model head with the tied decoder;
 * logits (B,T,vocab). Initialised normal(0, 0.02), what adds to the residual stream and the head by 1/sqrt(2
 * layers) smaller. Dropout on embeddings and in feed-forwards. */
typedef struct ModernBertConfig {
    int vocab, dim, layers, heads;
    int ffn;                         /* 0 = 3/2 dim */
    int max_seq;                     /* 0 = 8192 */
    int window;                      /* a token sees those at most window / 2 away; 0 = 128 */
    LayerSet global;                 /* the layers that see all; empty = every third, from the first on */
    float global_theta, local_theta; /* of those, and of layers with the window; 0 = 160000 and 10000 */
    int attention_bias, mlp_bias, norm_bias, head_bias; /* 1: there are biases; of the head's dense layer */
    int no_decoder_bias;
    int headless; /* 1: the encoder alone; forward returns the hidden states (B,T,dim) */
    int classes;  /* 1 or more: a sequence classifier in place of the masked head: of the first token, or with
                     mean_pooling of the mean of all that the mask leaves, the head's dense layer and norm,
                     dropout,  logits (B,classes); 0 = none */
    int mean_pooling;
    float head_dropout; /* of the classifier; 0 = as dropout, negative = none */
    float dropout;
    float norm_eps; /* 0 = 1e-5 */
    AttentionKind attention;
} ModernBertConfig;
BRIM_API Module *nn_modernbert(const ModernBertConfig *config);

/* One block of each family, (B,T,dim) -> (B,T,dim), for models of one's own: reads dim, heads, feed-forward
 * width, attention, dropout and epsilon of the config, with the same defaults. Linear layers are initialised
 * as nn_linear does. */
BRIM_API Module *nn_llama_block(const LlamaConfig *config);
BRIM_API Module *nn_gpt2_block(const Gpt2Config *config);
BRIM_API Module *nn_bert_block(const BertConfig *config);

/* ---- Families -------------------------------------------------------------------------------- */

/* A line a family: its number, its configuration, its name. Whatever has a row a family, here and in io, is
 * made from this list, so that none can be forgotten. A family's own file, nn/llama.c, ends with its row. */
#define MODEL_FAMILIES(X)                                                                                    \
    X(MODEL_MLP, MlpConfig, mlp)                                                                             \
    X(MODEL_BERT, BertConfig, bert)                                                                          \
    X(MODEL_GPT2, Gpt2Config, gpt2)                                                                          \
    X(MODEL_LLAMA, LlamaConfig, llama)                                                                       \
    X(MODEL_SMOLLM3, LlamaConfig, smollm3)                                                                   \
    X(MODEL_GRANITE, LlamaConfig, granite)                                                                   \
    X(MODEL_QWEN3, LlamaConfig, qwen3)                                                                       \
    X(MODEL_OLMO2, LlamaConfig, olmo2)                                                                       \
    X(MODEL_PHI3, LlamaConfig, phi3)                                                                         \
    X(MODEL_GEMMA, LlamaConfig, gemma)                                                                       \
    X(MODEL_GEMMA2, LlamaConfig, gemma2)                                                                     \
    X(MODEL_GEMMA3, LlamaConfig, gemma3)                                                                     \
    X(MODEL_GPT_NEOX, LlamaConfig, gpt_neox)                                                                 \
    X(MODEL_ROBERTA, BertConfig, roberta)                                                                    \
    X(MODEL_DISTILBERT, BertConfig, distilbert)                                                              \
    X(MODEL_MODERNBERT, ModernBertConfig, modernbert)                                                        \
    X(MODEL_MIXTRAL, LlamaConfig, mixtral)                                                                   \
    X(MODEL_QWEN3_MOE, LlamaConfig, qwen3_moe)                                                               \
    X(MODEL_QWEN2_MOE, LlamaConfig, qwen2_moe)

#define MODEL_FAMILY_ID(id, config, name) id,
typedef enum ModelFamily { MODEL_FAMILIES(MODEL_FAMILY_ID) } ModelFamily;

#define MODEL_FAMILY_ONE(id, config, name) +1
enum { MODEL_FAMILY_COUNT = MODEL_FAMILIES(MODEL_FAMILY_ONE) };

typedef struct ModelPreset {
    const char *name;  /* "llama-tiny" */
    const char *about; /* one line */
    ModelFamily family;
    int batch, seq; /* usual micro-batch and sequence; seq 0 for what reads no text */
#define MODEL_FAMILY_CONFIG(id, config, name) config name;
    union {
        MODEL_FAMILIES(MODEL_FAMILY_CONFIG)
    } config;
} ModelPreset;

typedef enum ModelInput { MODEL_READS_TEXT, MODEL_READS_FEATURES } ModelInput;
typedef enum ModelObjective {
    OBJECTIVE_CAUSAL,        /* the next token, at every position */
    OBJECTIVE_MASKED,        /* the tokens that were hidden */
    OBJECTIVE_CLASSIFICATION /* one of the classes, of a whole sample */
} ModelObjective;

/* With the family's defaults in place of zeros. What a family has not is 0. */
typedef struct ModelSizes {
    int layers;        /* the blocks of nn_block_count */
    int inputs;        /* features of a sample */
    int vocab;         /* tokens, or classes */
    int max_seq;       /* the longest sequence: its positions */
    int window;        /* of sliding attention; 0 = none, also where it is no shorter than the positions */
    int window_layers; /* how many of the layers have it */
    int dim, heads, kv_heads, head_dim;
} ModelSizes;

typedef struct ModelFamilyRow {
    const char *name; /* "llama" */
    ModelInput reads;
    ModelObjective objective; /* but of a classifier of texts: nn_preset_objective knows */
    int writes;               /* 1: a causal language model: nn_generate can continue a text */
    int gpt_block; /* 1: a block is of the shape that Korthikanti et al. (arXiv 2205.05198) count */
    int gpt_terms; /* 1: it keeps what estimate_formula_item says, term by term */
    float lr;      /* usual for training from scratch, with the optimizers that scale each element's step */
    Module *(*make)(const ModelPreset *preset);
    ModelSizes (*sizes)(const ModelPreset *preset); /* kv_heads and head_dim are 0 where they are usual */
    /* Bytes from the start of a ModelPreset to the field that a user may change; 0 = there is none. */
    size_t vocab_at, attention_at, dropout_at;
    size_t classes_at, head_dropout_at; /* of a sequence classifier */
    const struct DecoderParts *decoder; /* of decoders made of Llama's parts; for the library */
} ModelFamilyRow;
BRIM_API const ModelFamilyRow *nn_family(ModelFamily family); /* NULL for a number that is none */

/* ---- Presets --------------------------------------------------------------------------------- */

/* By name, or NULL (no error raised). nn_preset_at lists them: NULL past the end. */
BRIM_API const ModelPreset *nn_preset(const char *name);
BRIM_API const ModelPreset *nn_preset_at(int i);
/* The model of a (possibly changed) preset. */
BRIM_API Module *nn_model(const ModelPreset *preset);
BRIM_API ModelSizes nn_preset_sizes(const ModelPreset *preset);
BRIM_API void nn_preset_set_attention(ModelPreset *preset, AttentionKind kind);
BRIM_API void nn_preset_set_dropout(ModelPreset *preset, float p); /* ignored by families without dropout */
BRIM_API float nn_preset_dropout(const ModelPreset *preset);       /* 0 for families without */
BRIM_API int nn_preset_max_seq(const ModelPreset *preset);         /* the longest sequence; 0 for mlp */
BRIM_API int nn_preset_window(const ModelPreset *preset);          /* of sliding attention; 0 = none */
BRIM_API int nn_preset_vocab(const ModelPreset *preset);           /* classes, for mlp */
BRIM_API void nn_preset_set_vocab(ModelPreset *preset, int vocab); /* nothing for mlp */
/* What it learns: the family's objective, or where it has classes of texts OBJECTIVE_CLASSIFICATION. */
BRIM_API ModelObjective nn_preset_objective(const ModelPreset *preset);
BRIM_API int nn_preset_classes(const ModelPreset *preset); /* of a classifier, images' or texts'; else 0 */
/* Makes it a classifier of texts, with 0 none; ignored by families that have none. */
BRIM_API void nn_preset_set_classes(ModelPreset *preset, int classes);

#ifdef __cplusplus
}
#endif
#endif
