/* The inside of a module, for nn's own files. */
#ifndef BRIM_MODULE_INTERNAL_H
#define BRIM_MODULE_INTERNAL_H

#include "../tensor/tensor_.h"
#include "lora.h"

typedef struct NamedParameter {
    char *name; /* of this module: "weight" */
    Tensor *tensor;
} NamedParameter;

/* Blocks [first, end) of a model as what a checkpoint runs. */
typedef struct Segment Segment;
struct Segment {
    Segment *next;
    Module *module;
    int first, end;
};

/* What only a whole model has: its repeated blocks and its head. */
typedef struct Model {
    Module **blocks; /* children (or deeper) marked as repeated blocks; not owned */
    int block_count;
    char *pattern;     /* of nn_set_checkpoints; NULL = nothing */
    int blocks_ran;    /* nn_run_blocks was called: a pattern is not ignored in silence */
    Segment *segments; /* every one that a pattern has had */
    /* From one block's result to the next one's input; NULL = the same. */
    Tensor *(*between_blocks)(Module *self, Tensor *x, const Batch *batch);
    ModuleHead head;     /* weight NULL = none is offered */
    Module *head_module; /* the linear layer that it is; NULL where the model multiplies by itself */
    int loss_chunk, skip_unlabelled;
    /* Of a model in stages, those of this rank: blocks [first_block, end_block), which compute (B,T,width);
     * and how many random masks those before have drawn. width 0 = the model is whole. */
    int64_t width;
    int first_block, end_block;
    uint32_t first_random;
    ModuleHook gather; /* of nn_set_gather_blocks */
    int gathers;       /* how many blocks at a time */
    Module *coming;    /* the one whose weights are on their way */
    /* Of a model with experts that a loss balances: what their layers count, of how many of them a token goes
     * to, and the loss's coefficient. stats NULL = none */
    Tensor *balance_stats;
    int balance_active;
    float balance;
} Model;

/* The blocks that this rank has. */
static inline int model_first_block(const Model *model)
{
    return model->width ? model->first_block : 0;
}

static inline int model_end_block(const Model *model)
{
    return model->width ? model->end_block : model->block_count;
}

struct Module {
    ScopeItem item;
    const ModuleClass *type;
    char *name; /* within the parent; NULL at the root */
    Module *parent;
    Module **children;
    int child_count;
    NamedParameter *parameters;
    int parameter_count, parameter_room;
    Tensor **trained; /* nn_lora_parameters' answer */
    int trained_count;
    int gathered;  /* this block's parameters are, by nn_set_gather_blocks */
    Model *model;  /* NULL for what is no whole model */
    Tensor **list; /* nn_parameters' answer, and the full names its tensors carry */
    char **full_names;
    int list_count;
    int path;                                    /* where it was built: its forward is charged there */
    int path_outside;                            /* between nn_enter and nn_leave: where that was */
    int training, checkpoint, selective, absent; /* absent: what it owns is another stage's */
    int generating;                              /* texts: dropout is off, whatever `training` says */
    int stays;                                   /* its own parameters are trained beside adapters */
    void *state;
};

/* What is added to a frozen linear layer or embedding: scale B A. a is (rank,in), b (out,rank); of an
 * embedding (vocab,rank) and (dim,rank). NULL: there is none. */
typedef struct Adapter {
    Tensor *a, *b;
    float scale;
    Lora settings; /* with the defaults in place of zeros */
} Adapter;

/* What each of the ranks that compute a layer together has of it. Of outputs: rows of (out,in), and their
 * biases. Of inputs: columns; what the ranks compute is summed, and then the bias is added. Of classes:
 * outputs, of which a loss takes each rank's, and everybody else is given all; a number of them that the
 * ranks do not divide is padded. */
typedef enum LinearSplit { LINEAR_WHOLE, LINEAR_BY_OUTPUTS, LINEAR_BY_INPUTS, LINEAR_BY_CLASSES } LinearSplit;

/* Every projection and every head is this module, so that an adapter or another way of storing a weight is
 * known in one place. (linear.c) */
typedef struct Linear {
    Tensor *weight, *bias; /* (out,in), or in GPT-2 (in,out) and marked so; (out) or NULL */
    LinearSplit split;     /* what this rank has of it */
    int packed;            /* layers whose outputs lie side by side, of each of which it has that */
    int sums;              /* ranks have a part of the inputs each, and the result is their sum */
    TensorActivation act;
    int head;      /* the output: logits come from it */
    int router;    /* to experts: it takes no adapter, as it is no linear layer in transformers */
    float softcap; /* of the head's logits; 0 = none */
    int tied;      /* the weight is another module's, and the bias may be */
    Adapter adapter;
} Linear;

typedef struct LinearOptions {
    int64_t in, out; /* of all ranks together */
    int bias;
    TensorActivation act;
    int in_out, head, router;
    LinearSplit split;
    int packed;      /* layers whose outputs lie side by side, each of which is split; 0 = 1 */
    int64_t classes; /* of a rank's part, those of all; 0: it is given whole */
} LinearOptions;
/* The next name of a list with commas, without the blanks around it; NULL at the end. (weights.c) */
const char *module_next_name(const char **list, size_t *length);
/* What the weight of this linear layer is stored as, when it is no head. (weights.c) */
DType module_linear_type(const Module *module);
Module *module_linear(const LinearOptions *options);
Module *module_linear_split(int64_t in, int64_t out, int bias, LinearSplit split);
/* A head with a weight (out,in), and a bias or NULL, that other modules own and name. */
Module *module_linear_tied(Tensor *weight, Tensor *bias);
/* The same with a bias of its own, of the head's classes. */
Module *module_linear_tied_biased(Tensor *weight, int64_t classes);
/* What it is made of, for its owner to read and change; NULL for a module of another class. */
Linear *module_as_linear(const Module *module);

/* A weight as it is multiplied with x. */
Tensor *module_weight_for(Tensor *weight, const Tensor *x);

/* Its tensor_logits_, where it is a head without adapter and activation: of this rank's classes, and without
 * a soft cap. hidden is given away. */
Tensor *module_logits(const Module *module, Tensor *hidden, const Batch *batch);
/* nn_forward of a linear layer, without a soft cap. */
Tensor *module_uncapped(Module *module, Tensor *x, const Batch *batch);

/* ---- Between what ranks compute together (rows.c). With sequence parallel each has some of the rows. */

/* Into such a part, which every rank gives all rows; and out of it. */
Tensor *module_enter(Tensor *x, const Batch *batch);
Tensor *module_leave(Tensor *x, Tensor *bias);
/* tensor_add_rows_from with as many rows as the batch has tokens, and tensor_dropout. */
Tensor *module_add_rows(Tensor *x, Tensor *table, int64_t first, const Batch *batch);
Tensor *module_dropout(Tensor *x, float p, const Batch *batch);
/* Ids of the batch as the rows are. */
Tensor *module_own_ids(Tensor *ids);
/* The shape of activations of this width between blocks. */
Shape module_rows_shape(const Batch *batch, int64_t width);
/* A whole model is made, which does all of that: its parameters that are not divided see some of the rows. */
void module_has_rows(Module *model);
/* Raises that this is not there with sequence parallel, where that is on. Returns non-zero on error. */
int config_no_rows(const char *function, const char *what);

typedef struct Embedding {
    Tensor *weight; /* (vocab,dim) */
    Adapter adapter;
    int parts; /* the model reads rows of the weight by itself: the module's forward does not run */
} Embedding;
Embedding *module_as_embedding(const Module *module); /* NULL for a module of another class */
/* nn_embedding, of whose rows each of the ranks that compute a layer together has a part. */
Module *module_vocabulary(int64_t vocab, int64_t dim);
/* A bias of a head's classes, 0, of which ranks have what they have of the classes. */
Tensor *module_class_bias(Module *module, const char *name, int64_t classes);
/* The weight of an embedding, for a model that reads it by itself. */
Tensor *module_embedding_parts(Module *module);
/* nn_layer_norm with or without a bias. */
Module *module_layer_norm(int64_t dim, float eps, int bias);
/* The weight and bias (or NULL) of nn_layer_norm, and its epsilon; NULL for a module of another class. */
Tensor *module_layer_norm_parts(const Module *module, Tensor **bias, float *eps);
/* y + scale B A x, in y's storage; an embedding's x is ids. Without an adapter, y. */
Tensor *module_adapt(const Module *module, const Adapter *adapter, Tensor *y, Tensor *x);

/* ---- Sequence classifiers (classifier.c) */

typedef struct Classifier {
    Module *before, *dense, *norm, *dropout, *out; /* before, norm: NULL = none */
    int mean;                                      /* of all tokens, in place of the first */
} Classifier;

typedef struct ClassifierKind {
    const char *dense, *out; /* the names of the layers within the model */
    const char *norm;        /* behind the dense layer; NULL: there is none */
    TensorActivation act;    /* of the dense layer */
    int dropout_before;      /* of the first token, too */
    int dense_stays;         /* adapters leave the dense layer trained, as they do the classes */
} ClassifierKind;
/* What a configuration says of it. */
typedef struct ClassifierSizes {
    int dim, classes;
    float dropout, head_dropout; /* as BertConfig has them */
    int no_dense_bias, norm_bias, mean;
    float norm_eps;
} ClassifierSizes;
/* Makes the layers, children of the model. Returns non-zero on error. */
int module_add_classifier(Module *model, Classifier *head, const ClassifierKind *kind,
                          const ClassifierSizes *c);
/* hidden (B,T,dim) to logits (B,classes). */
Tensor *module_classify(const Classifier *head, Tensor *hidden, const Batch *batch);

/* An array with room for one more, and texts; both raise without memory. */
void *module_grow(const Module *module, void *old, int count, size_t size);
char *module_copy_text(const Module *module, const char *text);
void module_free_text(const Module *module, char *text); /* NULL is fine */
/* One of the module's forwards, under its flags; and the same as nn_forward says: with its path, scope and
 * checkpoint. */
Tensor *module_run(CheckpointForward forward, Module *module, Tensor *x, const Batch *batch);
Tensor *module_forward_by(CheckpointForward run, Module *module, Tensor *x, const Batch *batch);
/* Around a run of the module: tells the hooks, and marks the tape for backward. begin returns what end takes.
 * (hooks.c) */
int64_t module_hooks_begin(Module *module);
void module_hooks_end(Module *module, int64_t mark);
/* The module's part as a whole model, made when it is asked for first; NULL without memory, which is raised.
 * (model.c) */
Model *module_model(Module *module);
void module_free_model(Module *module);

/* What parameters are made as: by nn_set_weights, and where they are trained by the context's precision. */
DType module_parameter_type(const Context *context);
/* nn_add_parameter, of a type of its own. */
Tensor *module_add_parameter(Module *module, const char *name, Shape shape, DType dtype);
/* Makes the tensor a parameter of the module, which then owns it; frees it and returns NULL without memory.
 * The other way: takes a parameter away and frees it. */
Tensor *module_adopt(Module *module, const char *name, Tensor *tensor);
void module_drop(Module *module, Tensor *tensor);

/* "layers.0" and "attn" are "layers.0.attn". */
typedef struct ModulePath {
    char text[256];
} ModulePath;
ModulePath module_join(const char *prefix, const char *name);

/* The module's own parameter of this name, or NULL. */
Tensor *module_own(const Module *module, const char *name);
/* The modules made between the two belong to a model that ends with module_init_normal: what they draw for
 * themselves would be drawn over, and only counts. */
void module_draw_later(const Module *model, int later);
/* Fills every "weight" of two or more dimensions below (and in) the module with normal(0, std), every bias
 * with 0. */
void module_init_normal(Module *module, float std);
/* nn_rms_norm by plus + weight, which is 1 at first: Gemma's weights are 0 then. */
Module *module_rms_norm_plus(int64_t dim, float eps, float plus);
/* nn_swiglu with another activation or biases: down_proj(act(gate_proj(x)) up_proj(x)). fused: one layer
 * gate_up_proj in place of the two, whose outputs lie side by side, gate first. (gated.c) */
Module *module_gated(int64_t dim, int64_t hidden, int bias, TensorActivation act, int fused);
/* down(act(up(x))), under these names; in_out: weights are, and 0 at first. (plain.c) */
typedef struct PlainOptions {
    int64_t dim, hidden;
    const char *up, *down;
    TensorActivation act;
    int bias, in_out;
} PlainOptions;
Module *module_plain(const PlainOptions *options);
Module *module_plain_down(const Module *plain); /* its projection into the residual stream */
/* The forward up to the head that a model offers, in its module path and a scope of its own: (B,T,C). */
Tensor *module_hidden(Module *model, const Batch *batch);
/* logits = hidden weight^T + bias of the head that a model offers, capped as it says, charged to the head's
 * module path. */
Tensor *module_head(Module *model, Tensor *hidden);
/* The loss that balances experts is part of the model's from now on, where it has a coefficient; each forward
 * pass begins it; and what layers count in, of the model that a module is in: NULL = nothing. (experts.c) */
int module_balance(Module *model, const ExpertsConfig *experts);
void module_balance_begin(const Module *model);
Tensor *module_balance_stats(const Module *module);
/* nn_quantize of a module's experts: how many weights, or -1 after raising. (experts.c) */
int module_quantize_experts(const Module *module, DType dtype);
/* Of a module's own parameters, the elements that a token passes through, of so many. (experts.c) */
int64_t module_active_share(const Module *module, int64_t elements);
/* nn_attention's projection into the residual stream. */
Module *module_attention_output(const Module *attention);
/* nn_attention's width of a cache, and its window, for modules that are one: 1, 0 for others, -1 for one that
 * is not causal. */
int module_attention_cache(const Module *module, int *kv_heads, int *head_dim, int *window);
/* Tokens read before those of the batch. */
int module_past(const Batch *batch);
/* This attention's keys and values, (2,B*kv_heads,max_tokens or its window,head_dim), to be extended by
 * `tokens`; NULL after an error. */
Tensor *module_cache_layer(const Batch *batch, const Module *attention, int64_t tokens);
/* Makes the cache claim to hold so many tokens: on meta, where they are not read. */
void module_cache_pretend(KvCache *cache, int tokens);
/* Says how many tokens the sequence has of which the next forwards read parts, for positions that depend on
 * it; 0: as many as have been read. And so many, of a batch whose ids have `tokens`; 0 without a cache. */
void module_cache_whole(KvCache *cache, int tokens);
int module_whole(const Batch *batch, int64_t tokens);
/* With more tokens than this, those that were read before have other positions: longrope's; else INT_MAX. */
int module_cache_turn(const KvCache *cache);
int module_attention_turn(const Module *attention);
/* Adds to `generating`, of the module and all below: while texts are written modules evaluate, and afterwards
 * each is in the mode that it was in. */
void module_write(Module *module, int by);
/* ---- Stages (pipeline.c) */

/* Before a model's parts are made: its blocks are divided among stages. 0, or raises. */
int module_stages_begin(Module *module, int layers, int64_t width);
/* Parameters made from now on are those of the first or last stage, of block i's, of all. */
void module_of_ends(int first, int last);
void module_of_block(const Module *module, int i);
void module_of_all(void);
/* The first and the last stage have this weight. */
void module_tie_stages(Tensor *weight);
int module_first_stage(const Module *module);
int module_last_stage(const Module *module);
/* The block with which a stage begins. */
int module_stage_begins(int layers, int stages, int stage);
/* Micro-batches that a stage holds at most between forward and backward. */
int module_stage_holds(int schedule, int stages, int stage, int micros);
/* The loss, from what the stage before has computed; x NULL: from the batch. (model.c) */
Tensor *module_loss_from(Module *module, Tensor *x, const Batch *batch);
/* nn_loss of a model in stages, where nothing is recorded: the same on all of them. */
Tensor *module_stages_loss(Module *module, const Batch *batch);

/* Positive and at most INT_MAX, or raises "llama: layers must be …, not -3". Returns non-zero on error. */
int config_positive(const char *model, const char *field, int64_t value);
/* A configuration is there, or raises "llama: the configuration is NULL". Returns non-zero on error. */
int config_missing(const char *model, const void *config);
/* The ranks that compute a layer together must divide it, or raises what would do. Returns non-zero on error.
 */
int config_divided(const char *model, const char *field, int64_t value);
/* Raises that `what` ("adapters are") is not divided among ranks that compute a layer together, where there
 * are such. Returns non-zero on error. */
int config_undivided(const char *function, const char *what);
/* heads must divide dim, kv_heads heads. */
int config_heads(const char *model, int64_t dim, int heads, int kv_heads);
/* The width of a head: head_dim, or where that is 0 dim / heads. 0 after an error. */
int config_head_dim(const char *model, int dim, int heads, int kv_heads, int head_dim);
/* Rotary positions turn pairs. Raises where this part of a head is none. Returns non-zero on error. */
int config_rotary(const char *model, int head_dim, float partial);
/* With the configuration's divisors, where its kind needs some. */
RopeScaling config_rope_scaling(const LlamaConfig *config);

/* The families' rows, each at the end of its file: mlp_family, bert_family, … */
#define MODEL_FAMILY_ROW(id, config, name) extern const ModelFamilyRow name##_family;
MODEL_FAMILIES(MODEL_FAMILY_ROW)

#endif
