/* What changed between versions of PyTorch, transformers, PEFT and bitsandbytes, and what differs between
 * cards. */
#ifndef BRIM_PYTORCH_DIALECT__H
#define BRIM_PYTORCH_DIALECT__H

#include "torch_.h"

/* PyTorch's eras. A field that is 0 is as in the newest. */
typedef struct TorchEra {
    const char *version;
    int keeps_workspace;   /* CUDABlas.cpp: cuBLAS' workspace stays, one a thread, instead of one a product */
    int lt_workspace_once; /* CUDABlas.cpp, gemm_and_bias: cublasLt's workspace is one a product all the same
                            */
    int norm_by_chunks; /* ForeachReduceOp.cu: tensors x their most chunks of numbers, and no list of offsets
                         */
    int no_seed;    /* attention_backward.cu: the efficient kernel makes no seed and offset without dropout */
    int cudnn_last; /* sdp_utils.cpp, check_prefer_cudnn_attention: sm_90 does not take cuDNN's attention
                       first */
    int no_flash_seed;  /* flash_api.cpp, mha_fwd: seed and offset are on the host */
    int sorts_all_bits; /* EmbeddingBackwardKernel.cu: ids are sorted by all 64 bits */
    int old_cub;        /* CUB of CUDA 12.4: smaller temporary storage */
    int puts_numbers;   /* python_variable_indexing.cpp: in x[:, columns] = 0 the number goes to the card */
    int slices_all; /* python_variable_indexing.cpp, applySlicing: x[:] is a slice too, with a derivative */
    int old_allocator;    /* CUDAAllocatorConfig: as PytorchAllocatorOptions.as_2_6 says */
    int no_outer_product; /* _native/ops/bmm_outer_product: columns by rows are cuBLAS' work, not Triton's */
    int no_fp32_gqa;      /* sdp_utils.cpp: no kernel takes fewer key heads in fp32 */
} TorchEra;

/* Whose forward takes more keyword arguments, among them num_items_in_batch. */
typedef enum TransformersCounted {
    COUNTED_BY_ALL,
    COUNTED_BY_DECODERS,        /* not BERT, and of GPT-2 only the language model */
    COUNTED_BY_LANGUAGE_MODELS, /* of Llama, Qwen2, Mistral */
    COUNTED_BY_FEW              /* not Mistral either */
} TransformersCounted;

/* transformers' eras. */
typedef struct TransformersEra {
    const char *version;
    int rope_by_product; /* LlamaRotaryEmbedding: (inv_freq @ positions).transpose(1, 2), in fp32 */
    int waves_together;  /* LlamaRotaryEmbedding: cosines and sines are made before either is scaled */
    int one_inv_freq;    /* LlamaRotaryEmbedding.__init__: original_inv_freq is no buffer */
    int gpt2_masks; /* GPT2Attention.__init__: a causal mask of all positions, and a number, are buffers */
    int cache_positions; /* LlamaModel.forward: positions are torch.arange(past, past + seq), without a sum */
    int masks_by_vmap;   /* masking_utils.py: masks by torch.vmap; padding is looked at by mask.all() */
    int always_packed; /* find_packed_sequence_indices: without a cache a mask is made even of one sequence a
                          row */
    int no_window_number;  /* DynamicSlidingWindowLayer: its window's size stays on the host */
    int cache_of_keys;     /* DynamicLayer: the cache of values begins as an empty tensor of the keys' type */
    int cache_as_it_is;    /* DynamicCache.update: the first keys and values are kept, not copied */
    int repeats_keys;      /* sdpa_attention_forward: keys and values are repeated even without a mask */
    int copies_heads;      /* sdpa_attention_forward: queries, keys and values are made contiguous */
    int layers_in_tuples;  /* LlamaModel.forward: layer_outputs keeps what the last layer gave */
    int positional_layers; /* LlamaModel.forward: checkpoints take mask and positions as arguments */
    int moved_logits;      /* ForCausalLMLoss: the logits are cut by one and copied, not the labels padded */
    int gpt2_positions_first; /* GPT2Model.forward: the positions are made before the embedding */
    int gpt2_positions_saved; /* GPT2Model.forward: checkpoints take cache_position as an argument */
    int gpt2_queries_first;   /* GPT2Attention.forward: heads are made of queries, then keys and values */
    int gpt2_plain_loss;      /* GPT2LMHeadModel.forward: a loss of its own, in the logits' type */
    int masks_of_numbers; /* LlamaModel._update_causal_mask: masks are made of numbers, without masking_utils
                           */
    int scores_stay; /* BertSelfAttention, GPT2Attention: scores end with it, where nobody asks for them */
    int bert_scores_apart; /* BertSelfAttention.forward: eager, divided scores live beside the probabilities
                            */
    int bert_queries_last; /* BertSelfAttention.forward: eager, heads are made of queries after the others */
    int bert_layers_in_tuples;  /* BertEncoder.forward: layer_outputs keeps the last layer's probabilities */
    int bert_looks_for_padding; /* BertModel.forward: warn_if_padding_and_no_attention_mask */
    int bert_types_as_they_are; /* BertEmbeddings.forward: token_type_ids are not gathered by positions */
    int bert_adds_in_place;     /* BertEmbeddings.forward: embeddings += position_embeddings */
    int bert_masks_of_numbers;  /* BertModel.forward: masks of numbers, and one of ones where none is given */
    int qwen2_slides; /* Qwen2Model._prepare_4d_causal_attention_mask_with_cache_position: as Mistral's */
    int mistral_plain_loss; /* MistralForCausalLM.forward: a loss of its own, of logits that stay in fp32 */
    int rope_in_layers;     /* LlamaAttention.__init__: a rotary_emb of its own, which only Mistral's uses */
    int heads_together;     /* LlamaAttention.forward: heads are made when all are projected */
    int heads_rebound;   /* LlamaAttention.forward: repeated heads take the names, and copies are for masks */
    int cache_in_tuples; /* LlamaModel.forward: to_legacy_cache */
    int gpt2_cache_in_tuples;   /* GPT2Model.forward: presents is a tuple, and no DynamicCache */
    int classes_before_padding; /* LlamaForSequenceClassification.forward: the first padding token less one */
    /* from_pretrained, of a model that is quantized on its way to the card */
    int loads_by_characters; /* load_state_dict: names in the order of safetensors, layer 10 before layer 2 */
    int warms_for_half;      /* caching_allocator_warmup: half of all bytes before quantization, no lm_head */
    int reads_on_host;       /* load_state_dict: weights are read on the host, and nothing is warmed up */
    int quantizes_from_host; /* create_quantized_param: param_value.to("cpu"), and to the card once more */
    int dispatches_by_hooks; /* dispatch_model of accelerate 1.1: hooks, and a state_dict of every module */
    int dispatches;          /* dispatch_model at the end: a state_dict to check, and buffers come last */
    /* Trainer */
    TransformersCounted counted; /* model_accepts_loss_kwargs: whose forward takes num_items_in_batch */
    int items_undivided;         /* _get_num_items_in_batch: whole numbers, of every rank */
    int counts_all_labels;       /* _get_num_items_in_batch: of causal models too, the first of a row with the
                                    others */
    int items_gathered;          /* _get_num_items_in_batch: gathered and summed, on one rank too */
    int loss_is_new;    /* _inner_training_loop: tr_loss = tr_loss + tr_loss_step; clipping can be off */
    int trainer_caches; /* Trainer.__init__: use_cache stays the model's */
    int norms_decay; /* get_decay_parameter_names: only layers of ALL_LAYERNORM_LAYERS, LlamaRMSNorm among */
    int embeddings_of_8_bits; /* create_optimizer: of AdamW's 8 bits no embedding is left out */
    int asks_no_gradient;     /* gradient_checkpointing_enable: the embedding's output is not asked for one */
    int items_listed;         /* get_batch_samples: the sum of a list of all counts */
    int evaluates_means;      /* prediction_step: without a count */
    int reports_apart;        /* training_step: what is reported is divided after the backward pass */
    int items_on_host;        /* get_batch_samples: the sum of a list, and a number */
    int loss_of_one;          /* compute_loss: the loss is not multiplied by the number of processes */
    int no_qwen3;             /* it has no such family */
} TransformersEra;

/* bitsandbytes' eras. */
typedef struct BitsandbytesEra {
    const char *version;
    int scales_in_place; /* quantize_4bit: absmax -= offset; and the map of 8 bits is one for all weights */
    int no_kernel;       /* matmul_4bit: always a dequantized weight and PyTorch's product */
    int product_is_new;  /* int8_linear_matmul: what fp32 computes is the result, not copied into one */
    int type_of_input;   /* Linear4bit.set_compute_type: the first input's, where it is not of fp16 */
} BitsandbytesEra;

/* PEFT's eras. */
typedef struct PeftEra {
    const char *version;
    int copies_last; /* PeftModelForSequenceClassification.__init__: classifiers are copied after the casts */
    int no_int8;     /* dispatch_bnb_8bit: memory_efficient_backward, which bitsandbytes has no longer */
    int no_compute_type; /* BaseTunerLayer._move_adapter_to_device_of_base_layer: beside 4 bits in fp32 */
} PeftEra;

struct PytorchDialect {
    const TorchEra *torch;
    const TransformersEra *transformers;
    const PeftEra *peft;
    const BitsandbytesEra *bitsandbytes;
};

struct PytorchCard {
    int capability, processors, threads; /* 90; multiprocessors; threads of one */
    int shared;                          /* memory that a block can have, in bytes */
    int cudnn_first; /* sdp_utils.cpp, check_prefer_cudnn_attention: takes its attention first in 16 bits */
    int sort_tile, unique_tile;      /* keys that a block of CUB's radix sort and of its unique takes */
    int old_unique_tile;             /* of the CUB of CUDA 12.4 */
    int64_t workspace, lt_workspace; /* cuBLAS' and cublasLt's by default, in bytes */
};

const PytorchDialect *torch_dialect(void); /* the newest */
const PytorchCard *torch_card(int capability);

/* bitsandbytes' _gemm_4bit_use_custom_cuda: whether M rows of x times an (N, K) weight are a kernel of its
 * own. */
int torch_nf4_kernel(const PytorchCard *card, TorchType type, int64_t M, int64_t N, int64_t K);

#endif
