/* What the parts of a job share: its parameters, its model, its script. */
#ifndef BRIM_PYTORCH_JOB__H
#define BRIM_PYTORCH_JOB__H

#include "dialect_.h"
#include "torch_.h"

typedef struct TorchAdapter TorchAdapter;     /* of LoRA */
typedef struct TorchQuantized TorchQuantized; /* what bitsandbytes keeps of a weight */

typedef struct TorchLinear {
    TorchTensor *weight, *bias;
    int turned;                /* GPT-2's Conv1D: the weight is (in, out) */
    TorchAdapter *adapter;     /* NULL: none */
    TorchQuantized *quantized; /* NULL: the weight is as it was loaded */
} TorchLinear;

/* A tensor of the model before adapters, in the order of model.parameters(); buffers are apart. */
typedef struct TorchEntry {
    char name[80]; /* sorts as in a checkpoint */
    TorchPlace place;
    TorchTensor *x;
    TorchQuantized *quantized;
    int buffer, own; /* own: of a module that has others below it */
} TorchEntry;

typedef struct TorchNorm {
    TorchTensor *weight, *bias;
} TorchNorm;

typedef struct TorchJob TorchJob;

/* Tensors of one type that DDP sends together. */
typedef struct TorchBucket {
    TorchType type;
    int64_t bytes;
    size_t number, count;  /* in the order in which buckets were begun; tensors */
    size_t first;          /* the least number of a tensor in it */
    TorchTensor *contents; /* flat; NULL: not there */
} TorchBucket;

typedef struct TorchMember {
    TorchTensor *x;
    size_t bucket; /* its number */
} TorchMember;

typedef struct TorchBuckets {
    TorchBucket *items;
    TorchMember *members; /* in the order in which they were assigned */
    size_t count, capacity, member_count, member_capacity;
} TorchBuckets;

/* FSDP2: what is gathered together, a layer or the rest of the model. */
typedef struct TorchShardGroup {
    size_t first, count;   /* of its shards */
    TorchTensor *gathered; /* of all ranks, not copied out yet */
    int whole;             /* its parameters are there */
    int waits;             /* for its gradients to be reduced, in this backward pass */
} TorchShardGroup;

typedef struct TorchShard {
    TorchTensor *x, *part; /* the whole parameter; what this rank has of it */
    TorchType type;        /* in which it is gathered */
    int had_gradient;      /* when its group was reduced */
} TorchShard;

typedef struct TorchSharded {
    TorchShardGroup *groups; /* the rest of the model, then the layers */
    TorchShard *shards;
    size_t group_count, group_capacity, shard_count, shard_capacity;
    TorchTensor *last;    /* the last gathered weights of the forward pass */
    TorchTensor *sent;    /* the gradients that were reduced last */
    TorchFunction *layer; /* the model's own */
} TorchSharded;

/* DDP's Reducer. */
typedef struct TorchReducer {
    TorchBuckets sent, reduced; /* what ranks begin with alike; the gradients */
    TorchTensor **ready;        /* parameters in the order in which their gradients come */
    size_t ready_count, ready_capacity;
    int rebuilt, unsynchronized; /* whether the last forward pass was one without synchronizing */
    TorchTensor *used;           /* which parameters were used */
} TorchReducer;

/* A family: makes its parameters, and computes the loss. */
typedef struct TorchFamily {
    void (*make)(TorchJob *job);
    /* The loss, loose; what the model's output keeps besides is held (torch_hold). */
    TorchTensor *(*forward)(TorchJob *job, TorchTensor *ids, TorchTensor *labels, TorchTensor *mask);
} TorchFamily;

struct TorchJob {
    Torch torch;
    const PytorchJob *asked;
    const TorchFamily *family;
    PytorchCard card;
    TorchType weights;     /* the parameters' type */
    int64_t batch, seq;    /* of this micro-batch */
    int caches;            /* the model's output keeps keys and values */
    TorchTensor *items;    /* num_items_in_batch: the loss is a sum divided by it; NULL: a mean */
    int counted;           /* it is a number on the host */
    TorchTensor **samples; /* Trainer's batches of a step: ids, labels and mask of each */
    size_t sample_count, sample_capacity;
    TorchTensor **parameters; /* that are trained */
    size_t parameter_count, parameter_capacity;
    const char *list;              /* what the layers' names begin with: "model.layers" */
    TorchEntry *entries, **sorted; /* sorted: by name, where they are loaded */
    size_t entry_count, entry_capacity, sorted_capacity;
    TorchAdapter *adapters, **last_adapter;
    TorchTensor *copied[2], *copies[2]; /* a classifier's weight and bias, and what PEFT trains instead */
    int dynamic_map;                    /* bitsandbytes has made its 8-bit map */
    TorchTensor **states;               /* of the optimizer */
    size_t state_count, state_capacity;
    int maps;    /* of bitsandbytes' optimizer */
    void *model; /* the family's own */
    size_t model_bytes;
    int unscaled; /* the gradients, before the optimizer's step */
    TorchTensor *scaler[2],
        *found; /* GradScaler's scale and count; whether this step's gradients are infinite */
    TorchTensor **buffers;
    size_t buffer_count, buffer_capacity;
    TorchTensor **all_states; /* what ranks have alike: parameters and buffers, in the module's order */
    size_t all_state_count, all_state_capacity;
    TorchReducer reducer;
    TorchSharded sharded;
    int finds_unused;   /* DDP looks for parameters without gradients */
    int synchronizes;   /* this micro-batch's gradients are summed over the ranks */
    TorchTensor **held; /* what the model's output keeps: the cache, the logits */
    size_t held_count, held_capacity;
};

/* The family's own struct, `bytes` of zeros, which the job owns. */
void *torch_make_model(TorchJob *job, size_t bytes);
extern const TorchFamily torch_decoder, torch_gpt2, torch_bert;

/* Whether the model is made on the host, and its parts come to the card in another order. */
int torch_comes_later(const TorchJob *job);
TorchPlace torch_enter(Torch *t, const char *module); /* returns the place to go back to */
/* By its name in the layer, or in the model where there is no layer: "input_layernorm.weight". */
TorchTensor *torch_parameter(TorchJob *job, const char *name, int dims, const int64_t *size);
TorchTensor *torch_buffer(TorchJob *job, TorchType type, int dims, const int64_t *size);
/* "self_attn.q_proj": adapted where it is a target, quantized with the model. */
TorchLinear torch_make_linear(TorchJob *job, const char *name, int64_t in, int64_t out, int bias);
TorchLinear torch_make_conv(TorchJob *job, const char *name, int64_t in, int64_t out); /* Conv1D, with bias */
TorchLinear torch_make_head(TorchJob *job, const char *name, int64_t in, int64_t out, int bias); /* neither */
TorchNorm torch_make_norm(TorchJob *job, const char *name, int64_t size); /* of a LayerNorm */
/* Lists the parameter that was made last before the entries from `place` on. */
void torch_parameter_first(TorchJob *job, size_t place);
void torch_train(TorchJob *job);                   /* lists the parameters that are trained */
void torch_trained(TorchJob *job, TorchTensor *x); /* one more */
TorchTensor *torch_norm(Torch *t, const char *module, const TorchNorm *norm, TorchTensor *x);
/* Checkpointed where it is asked; `also` and `positional` as in torch_checkpoint. */
TorchTensor *torch_layer(TorchJob *job, TorchFunction *layer, TorchTensor *x, TorchTensor *const *also,
                         int positional);
TorchTensor *torch_conv(Torch *t, const TorchLinear *conv, TorchTensor *x);
TorchTensor *torch_project(TorchJob *job, const TorchLinear *linear, TorchTensor *x);
TorchTensor *torch_rms_norm(Torch *t, TorchTensor *x, TorchTensor *weight);
/* x[:], of these dimensions: the tensor itself, or what takes memory in the backward pass only. */
TorchTensor *torch_all_of(Torch *t, TorchTensor *x, int from, int to);
/* Puts a layer's named keys and values into the output's cache, where there is one, and gives what attention
 * reads then. */
void torch_cache(TorchJob *job, TorchTensor **keys, TorchTensor **values);
TorchTensor *torch_repeat_kv(Torch *t, TorchTensor *x, int64_t repeats);
/* sdpa_attention_forward: beside a mask, keys and values are repeated. */
TorchTensor *torch_sdpa(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                        int64_t repeats, double dropout);
/* A decoder's head: over words, tied to the embedding where the model says so, or over classes. */
TorchLinear torch_decoder_head(TorchJob *job, TorchTensor *embedding);
TorchTensor *torch_head_loss(TorchJob *job, const TorchLinear *head, TorchTensor *h, TorchTensor *labels);
TorchTensor *torch_causal_loss(TorchJob *job, TorchTensor *logits, TorchTensor *labels);
/* warn_if_padding_and_no_attention_mask, which a classifier's padding token asks for: the first and the last
 * ids */
void torch_look_for_padding(Torch *t, const TorchTensor *ids);
/* The positions from 0: torch.arange(seq) + the cache's length, or cache_position. Loose. */
TorchTensor *torch_positions(Torch *t, int64_t seq);
/* NULL: attention's own causal rule is enough. */
TorchTensor *torch_causal_mask(TorchJob *job, TorchTensor *given, TorchType type, int64_t window);
TorchTensor *torch_number_mask(TorchJob *job, TorchTensor *given, TorchType type, int64_t window);
/* _prepare_4d_attention_mask_for_sdpa, of a mask that is there. */
TorchTensor *torch_number_mask_of_all(TorchJob *job, TorchTensor *given, TorchType type);
/* NULL: nothing is masked. */
TorchTensor *torch_bidirectional_mask(TorchJob *job, TorchTensor *given, TorchType type);
/* Keeps x for as long as the model's output lives. */
void torch_hold(TorchJob *job, TorchTensor *x);

/* from_pretrained's part, where the model is quantized on its way to the card;
 * prepare_model_for_kbit_training. */
void torch_load(TorchJob *job);
void torch_prepare(TorchJob *job);

/* The adapter's weights that follow this last tensor of what it stands beside; NULL: none. */
TorchTensor *torch_adapter_beside(const TorchJob *job, const TorchTensor *x, int which);

/* fsdp.c: a layer (job->sharded.layer) between the hooks of fully_shard. */
TorchTensor *torch_sharded_layer(Torch *t, void *user, TorchTensor *x);

/* adapters.c: get_peft_model, and what its layers add to a projection. */
void torch_target(TorchJob *job, TorchLinear *linear, const char *name, int64_t in, int64_t out);
void torch_copy_head(TorchJob *job,
                     TorchLinear *head); /* modules_to_save: classifiers are trained as copies */
void torch_adapt(TorchJob *job);
/* enable_input_require_grads: the embedding's output is a leaf that wants its gradient. */
TorchTensor *torch_ask_gradient(TorchJob *job, TorchTensor *embedded);

/* quantized.c */
TorchQuantized *torch_new_quantized(TorchJob *job, int64_t in, int64_t out, int turned);
double torch_quantized_bytes(const TorchJob *job); /* of an element */
TorchType torch_compute_type(const TorchJob *job); /* bnb_4bit_compute_dtype */
void torch_quantize(TorchJob *job, TorchQuantized *quantized, TorchTensor *weight);
/* model.state_dict(): copies of what NF4's double quantization shares, which go again. */
void torch_state_dict(TorchJob *job);
void torch_hook(TorchJob *job); /* accelerate's hooks of old versions ask for one of every module */
TorchTensor *torch_quantized_linear(TorchJob *job, const TorchLinear *linear, TorchTensor *x);

TorchTensor *torch_scale_loss(TorchJob *job, TorchTensor *loss);
void torch_unscale(TorchJob *job);
void torch_look_for_infinite(TorchJob *job); /* in gradients that a fused step unscales itself */
void torch_scaler_update(TorchJob *job);
TorchTensor *torch_clip(TorchJob *job); /* the norm, loose; NULL: there is no gradient */
void torch_step(TorchJob *job);
void torch_zero(TorchJob *job);
void torch_loop(TorchJob *job);
void torch_trainer(TorchJob *job);

#endif
