/* pytorch: what a training job of PyTorch, transformers, PEFT and bitsandbytes allocates on a GPU, event by
 * event.
 *
 * No GPU, no Python: the job's operations run on an eager PyTorch without data (torch_.h), and what they ask
 * of PyTorch's caching allocator is given to a visitor, in order. estimate/pytorch_allocator.h makes of it
 * what PyTorch allocates and reserves.
 */
#ifndef BRIM_PYTORCH_H
#define BRIM_PYTORCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum PytorchFamily {
    PYTORCH_LLAMA,
    PYTORCH_QWEN2,
    PYTORCH_QWEN3,
    PYTORCH_MISTRAL,
    PYTORCH_GPT2,
    PYTORCH_BERT,
    PYTORCH_FAMILIES
} PytorchFamily;

typedef struct PytorchModel {
    PytorchFamily family;
    int64_t vocab, hidden, layers, heads, kv_heads, head_dim, intermediate, positions, types;
    int64_t window; /* sliding window, 0: none */
    int tied;
    double dropout, attention_dropout; /* those of the configuration */
    int64_t labels;                    /* classes; 0: a language model */
} PytorchModel;

typedef enum PytorchPrecision {
    PYTORCH_FP32,
    PYTORCH_BF16,
    PYTORCH_FP16,
    PYTORCH_AUTOCAST_BF16,
    PYTORCH_AUTOCAST_FP16
} PytorchPrecision;
typedef enum PytorchAttention { PYTORCH_SDPA, PYTORCH_EAGER } PytorchAttention;
typedef enum PytorchOptimizer {
    PYTORCH_ADAMW, /* foreach, PyTorch's default */
    PYTORCH_ADAMW_FUSED,
    PYTORCH_ADAMW_SINGLE,
    PYTORCH_SGD,
    PYTORCH_SGD_MOMENTUM,
    PYTORCH_ADAMW_8BIT,
    PYTORCH_ADAMW_8BIT_PAGED,
    PYTORCH_NO_OPTIMIZER
} PytorchOptimizer;
typedef enum PytorchWeights {
    PYTORCH_OF_PRECISION,
    PYTORCH_WEIGHTS_FP32,
    PYTORCH_WEIGHTS_BF16,
    PYTORCH_WEIGHTS_FP16
} PytorchWeights;
typedef enum PytorchQuantize {
    PYTORCH_PLAIN,
    PYTORCH_NF4,
    PYTORCH_NF4_SINGLE,
    PYTORCH_INT8
} PytorchQuantize; /* NF4: its scales too */
typedef enum PytorchCheckpoint {
    PYTORCH_KEEP,
    PYTORCH_CHECKPOINT,
    PYTORCH_CHECKPOINT_REENTRANT
} PytorchCheckpoint;
typedef enum PytorchParallel { PYTORCH_ALONE, PYTORCH_DDP, PYTORCH_FSDP2 } PytorchParallel;
typedef enum PytorchScript { PYTORCH_LOOP, PYTORCH_TRAINER } PytorchScript;

/* The projections that LoRA adapts, by the names that transformers gives them. */
enum {
    PYTORCH_Q = 1,
    PYTORCH_K = 2,
    PYTORCH_V = 4,
    PYTORCH_O = 8,
    PYTORCH_GATE = 16,
    PYTORCH_UP = 32,
    PYTORCH_DOWN = 64,
    PYTORCH_C_ATTN = 128, /* GPT-2's */
    PYTORCH_C_PROJ = 256,
    PYTORCH_C_FC = 512,
    PYTORCH_QUERY = 1024, /* BERT's */
    PYTORCH_KEY = 2048,
    PYTORCH_VALUE = 4096,
    PYTORCH_DENSE = 8192,
    PYTORCH_ALL_LINEAR = (1 << 14) - 1
};

typedef enum PytorchHold {
    PYTORCH_HOLD_NONE,
    PYTORCH_HOLD_LOOP, /* until the next forward pass has replaced them */
    PYTORCH_HOLD_STEP  /* until the step ends */
} PytorchHold;

enum { PYTORCH_LENGTHS = 16 };

typedef struct PytorchDialect PytorchDialect; /* versions of torch and transformers; a row of the table */
typedef struct PytorchCard PytorchCard;       /* compute capability; a row of the table */

typedef struct PytorchJob {
    PytorchModel model;
    PytorchPrecision precision;
    PytorchWeights weights; /* what the model is loaded in: under autocast fp32 by default */
    PytorchAttention attention;
    PytorchOptimizer optimizer;
    PytorchQuantize quantize;
    PytorchCheckpoint checkpoint;
    PytorchScript script;
    const PytorchDialect *dialect; /* NULL: the newest */
    int capability;                /* 90: sm_90; one of estimate_pytorch_capability_at */
    int processors;                /* multiprocessors of the card; 0: as many as the usual one has */
    int64_t batch, seq;
    int64_t lengths[PYTORCH_LENGTHS]; /* of micro-batches in turn, in place of seq; a loop's */
    int length_count;
    int accumulate, steps;
    double clip;        /* 0: no clipping */
    int mask;           /* 0: none given, 1: of ones, 2: with padding */
    int keep_gradients; /* zero_grad(set_to_none=False) */
    PytorchHold hold;   /* whether a loop of one's own keeps `outputs` */
    int lora_rank, lora_targets, lora_in_base_type;
    double lora_dropout;
    int kbit_prepare;
    /* Of Trainer: batches of an evaluation; whether compute_metrics is given, so that it keeps
     * logits and labels; eval_accumulation_steps, logging_steps and save_steps, 0: none; eval_steps, 0: once,
     * after the last step. */
    int evaluate, metrics, eval_accumulation, logging, save, evaluate_steps;
    int64_t evaluate_batch; /* 0: that of training */
    /* Several ranks, of which the first is predicted. */
    PytorchParallel parallel;
    int ranks;
    int no_sync;     /* a loop's: gradients are summed over the ranks in the last micro-batch alone */
    int find_unused; /* DDP: find_unused_parameters */
    int bucket_view; /* DDP: gradient_as_bucket_view */
    PytorchWeights gathered, reduced; /* FSDP2: MixedPrecisionPolicy's param_dtype and reduce_dtype */
    int keep_gathered;                /* FSDP2: reshard_after_forward=False */
} PytorchJob;

typedef enum PytorchKind {
    PYTORCH_TEMPORARY,
    PYTORCH_PARAMETER,
    PYTORCH_FROZEN,
    PYTORCH_BUFFER,
    PYTORCH_GRADIENT,
    PYTORCH_OPTIMIZER_STATE,
    PYTORCH_INPUT,
    PYTORCH_ACTIVATION, /* kept for backward */
    PYTORCH_WORKSPACE,
    PYTORCH_CAST,   /* autocast's copy of a weight */
    PYTORCH_BUCKET, /* what ranks send and receive: DDP's buckets, FSDP2's gathered weights and gradients */
    PYTORCH_KINDS
} PytorchKind;

typedef enum PytorchPhase {
    PYTORCH_MODEL,
    PYTORCH_MAKE_OPTIMIZER,
    PYTORCH_DATA,
    PYTORCH_FORWARD,
    PYTORCH_BACKWARD,
    PYTORCH_CLIP,
    PYTORCH_STEP,
    PYTORCH_ZERO,
    PYTORCH_EVALUATE,
    PYTORCH_SAVE,
    PYTORCH_PHASES
} PytorchPhase;

/* PYTORCH_MARK: the storage is of another kind from here on; PYTORCH_EMPTY_CACHE: torch.cuda.empty_cache().
 */
typedef enum PytorchAction { PYTORCH_ALLOC, PYTORCH_FREE, PYTORCH_MARK, PYTORCH_EMPTY_CACHE } PytorchAction;

typedef struct PytorchEvent {
    PytorchAction action;
    uint64_t serial, bytes;
    uint64_t stream; /* of an allocation: 0 is the one that computes */
    PytorchKind kind;
    PytorchPhase phase;
    int step, micro;
    int recomputed;     /* in backward: by checkpointing */
    int layer;          /* -1: none */
    const char *module; /* within the layer or the model: "self_attn"; static */
    const char *op;     /* as PyTorch names it: "aten::mm"; static */
} PytorchEvent;

/* Returns 0 to go on. */
typedef int PytorchVisit(void *user, const PytorchEvent *event);

/* The versions that there are rules for, the newest first; NULL past the end. */
const PytorchDialect *estimate_pytorch_dialect_at(int i);
typedef struct PytorchVersions {
    const char *torch, *transformers; /* "2.15", "5.24" */
} PytorchVersions;
PytorchVersions estimate_pytorch_versions(const PytorchDialect *dialect); /* NULL: the newest */
/* Whether its caching allocator is that of PytorchAllocatorOptions.as_2_6 (../pytorch_allocator.h). */
int estimate_pytorch_old_allocator(const PytorchDialect *dialect);
/* The compute capabilities that there are rules for, ascending; 0 past the end. */
int estimate_pytorch_capability_at(int i);

/* Whether there are rules for all of the job. Returns 0; or 1 and in `why` what there are none for, without a
 * full stop. */
int estimate_pytorch_refuses(const PytorchJob *job, char *why, size_t size);

/* What of the job is predicted as something that a card may do otherwise, which no trace has. Returns 0; or 1
 * and in `why` what it is, in a sentence without a full stop. */
int estimate_pytorch_unverified(const PytorchJob *job, char *why, size_t size);

/* All events of the job. Returns 0; what the visitor returned; -1 without host memory. */
int estimate_pytorch_job(const PytorchJob *job, PytorchVisit *visit, void *user);

#ifdef __cplusplus
}
#endif
#endif
