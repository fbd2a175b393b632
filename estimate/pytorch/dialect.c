#include "dialect_.h"

static const TorchEra torch_2_15 = {.version = "2.15"},
                      torch_2_11 = {.version = "2.11",
                                    .keeps_workspace = 1,
                                    .norm_by_chunks = 1,
                                    .no_seed = 1,
                                    .no_outer_product = 1,
                                    .no_fp32_gqa = 1,
                                    .puts_numbers = 1},
                      torch_2_6 = {.version = "2.6",
                                   .cudnn_last = 1,
                                   .keeps_workspace = 1,
                                   .lt_workspace_once = 1,
                                   .old_allocator = 1,
                                   .norm_by_chunks = 1,
                                   .no_seed = 1,
                                   .no_flash_seed = 1,
                                   .no_outer_product = 1,
                                   .no_fp32_gqa = 1,
                                   .sorts_all_bits = 1,
                                   .old_cub = 1,
                                   .slices_all = 1};

static const TransformersEra transformers_5_24 = {.version = "5.24"},
                             transformers_5_17 = {.version = "5.17",
                                                  .rope_by_product = 1,
                                                  .items_undivided = 1,
                                                  .cache_of_keys = 1},
                             transformers_4_57 = {.version = "4.57",
                                                  .rope_by_product = 1,
                                                  .counts_all_labels = 1,
                                                  .items_undivided = 1,
                                                  .items_gathered = 1,
                                                  .loss_is_new = 1,
                                                  .trainer_caches = 1,
                                                  .counted = COUNTED_BY_DECODERS,
                                                  .asks_no_gradient = 1,
                                                  .cache_of_keys = 1,
                                                  .one_inv_freq = 1,
                                                  .no_window_number = 1,
                                                  .gpt2_positions_saved = 1,
                                                  .bert_scores_apart = 1,
                                                  .bert_layers_in_tuples = 1,
                                                  .bert_looks_for_padding = 1,
                                                  .bert_types_as_they_are = 1,
                                                  .bert_adds_in_place = 1,
                                                  .bert_masks_of_numbers = 1,
                                                  .loads_by_characters = 1,
                                                  .warms_for_half = 1,
                                                  .quantizes_from_host = 1,
                                                  .dispatches = 1,
                                                  .gpt2_masks = 1,
                                                  .cache_positions = 1,
                                                  .masks_by_vmap = 1,
                                                  .always_packed = 1},
                             transformers_4_48 = {.version = "4.48",
                                                  .rope_by_product = 1,
                                                  .waves_together = 1,
                                                  .one_inv_freq = 1,
                                                  .no_window_number = 1,
                                                  .cache_as_it_is = 1,
                                                  .repeats_keys = 1,
                                                  .copies_heads = 1,
                                                  .layers_in_tuples = 1,
                                                  .positional_layers = 1,
                                                  .moved_logits = 1,
                                                  .gpt2_masks = 1,
                                                  .gpt2_positions_first = 1,
                                                  .gpt2_queries_first = 1,
                                                  .gpt2_plain_loss = 1,
                                                  .cache_positions = 1,
                                                  .masks_of_numbers = 1,
                                                  .counts_all_labels = 1,
                                                  .items_listed = 1,
                                                  .evaluates_means = 1,
                                                  .items_on_host = 1,
                                                  .loss_of_one = 1,
                                                  .loss_is_new = 1,
                                                  .trainer_caches = 1,
                                                  .counted = COUNTED_BY_LANGUAGE_MODELS,
                                                  .embeddings_of_8_bits = 1,
                                                  .norms_decay = 1,
                                                  .gpt2_cache_in_tuples = 1,
                                                  .classes_before_padding = 1,
                                                  .asks_no_gradient = 1,
                                                  .scores_stay = 1,
                                                  .bert_scores_apart = 1,
                                                  .bert_queries_last = 1,
                                                  .bert_looks_for_padding = 1,
                                                  .bert_types_as_they_are = 1,
                                                  .bert_adds_in_place = 1,
                                                  .bert_masks_of_numbers = 1,
                                                  .loads_by_characters = 1,
                                                  .reads_on_host = 1,
                                                  .quantizes_from_host = 1,
                                                  .dispatches = 1,
                                                  .no_qwen3 = 1},
                             transformers_4_46 = {.version = "4.46",
                                                  .rope_by_product = 1,
                                                  .waves_together = 1,
                                                  .one_inv_freq = 1,
                                                  .no_window_number = 1,
                                                  .cache_as_it_is = 1,
                                                  .repeats_keys = 1,
                                                  .layers_in_tuples = 1,
                                                  .positional_layers = 1,
                                                  .moved_logits = 1,
                                                  .gpt2_masks = 1,
                                                  .gpt2_positions_first = 1,
                                                  .gpt2_queries_first = 1,
                                                  .gpt2_plain_loss = 1,
                                                  .cache_positions = 1,
                                                  .masks_of_numbers = 1,
                                                  .counts_all_labels = 1,
                                                  .items_undivided = 1,
                                                  .items_listed = 1,
                                                  .evaluates_means = 1,
                                                  .reports_apart = 1,
                                                  .rope_in_layers = 1,
                                                  .mistral_plain_loss = 1,
                                                  .qwen2_slides = 1,
                                                  .heads_together = 1,
                                                  .heads_rebound = 1,
                                                  .cache_in_tuples = 1,
                                                  .loss_of_one = 1,
                                                  .loss_is_new = 1,
                                                  .trainer_caches = 1,
                                                  .counted = COUNTED_BY_FEW,
                                                  .embeddings_of_8_bits = 1,
                                                  .norms_decay = 1,
                                                  .gpt2_cache_in_tuples = 1,
                                                  .classes_before_padding = 1,
                                                  .asks_no_gradient = 1,
                                                  .scores_stay = 1,
                                                  .bert_scores_apart = 1,
                                                  .bert_queries_last = 1,
                                                  .bert_looks_for_padding = 1,
                                                  .bert_types_as_they_are = 1,
                                                  .bert_adds_in_place = 1,
                                                  .bert_masks_of_numbers = 1,
                                                  .loads_by_characters = 1,
                                                  .reads_on_host = 1,
                                                  .quantizes_from_host = 1,
                                                  .dispatches = 1,
                                                  .dispatches_by_hooks = 1,
                                                  .no_qwen3 = 1};

static const BitsandbytesEra bitsandbytes_0_50 = {.version = "0.50"},
                             bitsandbytes_0_45 = {.version = "0.45",
                                                  .scales_in_place = 1,
                                                  .no_kernel = 1,
                                                  .product_is_new = 1,
                                                  .type_of_input = 1};

static const PeftEra peft_0_21 = {.version = "0.21"}, peft_0_18 = {.version = "0.18", .no_compute_type = 1},
                     peft_0_14 = {.version = "0.14", .no_compute_type = 1, .copies_last = 1},
                     peft_0_13 = {.version = "0.13", .no_compute_type = 1, .copies_last = 1, .no_int8 = 1};

/* The pairs that were traced (tests/pytorch/environments.txt), the newest first. */
static const PytorchDialect dialects[] = {
    {&torch_2_15, &transformers_5_24, &peft_0_21, &bitsandbytes_0_50},
    {&torch_2_11, &transformers_5_17, &peft_0_21, &bitsandbytes_0_50},
    {&torch_2_15, &transformers_4_57, &peft_0_18, &bitsandbytes_0_50},
    {&torch_2_15, &transformers_4_48, &peft_0_14, &bitsandbytes_0_50},
    {&torch_2_15, &transformers_4_46, &peft_0_13, &bitsandbytes_0_50},
    {&torch_2_6, &transformers_4_48, &peft_0_14, &bitsandbytes_0_45},
    {&torch_2_6, &transformers_4_46, &peft_0_13, &bitsandbytes_0_45},
};

/* CUB chooses the newest policy that is not newer than the card: 8.6 and 8.9 use those of 8.0. cuBLAS'
 * own workspace is PyTorch's default: 2 x 4 MiB and 8 x 16 KiB, on sm_90 32 MiB. */
#define TILES_8    .sort_tile = 3840, .unique_tile = 1344
#define WORKSPACES .workspace = 2 * (4096 << 10) + 8 * (16 << 10), .lt_workspace = 1 << 20

static const PytorchCard cards[] = {
    {.capability = 75,
     .processors = 40,
     .threads = 1024,
     .shared = 65536,
     .sort_tile = 2816,
     .unique_tile = 320,
     .old_unique_tile = 320,
     WORKSPACES},
    {.capability = 80,
     .processors = 108,
     .threads = 2048,
     .shared = 166912,
     .old_unique_tile = 1344,
     TILES_8,
     WORKSPACES},
    {.capability = 86,
     .processors = 82,
     .threads = 1536,
     .shared = 101376,
     .old_unique_tile = 320,
     TILES_8,
     WORKSPACES},
    {.capability = 89,
     .processors = 128,
     .threads = 1536,
     .shared = 101376,
     .old_unique_tile = 320,
     TILES_8,
     WORKSPACES},
    {.capability = 90,
     .processors = 132,
     .threads = 2048,
     .shared = 232448,
     .sort_tile = 4608,
     .unique_tile = 4928,
     .old_unique_tile = 4928,
     .workspace = 32 << 20,
     .lt_workspace = 1 << 20},
};

const PytorchDialect *torch_dialect(void)
{
    return &dialects[0];
}

const PytorchDialect *estimate_pytorch_dialect_at(int i)
{
    return i >= 0 && (size_t)i < sizeof dialects / sizeof *dialects ? &dialects[i] : NULL;
}

PytorchVersions estimate_pytorch_versions(const PytorchDialect *dialect)
{
    const PytorchDialect *d = dialect ? dialect : torch_dialect();
    return (PytorchVersions){d->torch->version, d->transformers->version};
}

int estimate_pytorch_old_allocator(const PytorchDialect *dialect)
{
    return (dialect ? dialect : torch_dialect())->torch->old_allocator;
}

int estimate_pytorch_capability_at(int i)
{
    return i >= 0 && (size_t)i < sizeof cards / sizeof *cards ? cards[i].capability : 0;
}

const PytorchCard *torch_card(int capability)
{
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        if (cards[i].capability == capability)
            return &cards[i];
    return NULL;
}
