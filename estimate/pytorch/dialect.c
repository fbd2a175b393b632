#include "dialect_.h"

/* A rule holds from one version to another, of those that were traced; in the newest none of them does. */
#define HOLDS(version, rule, first, last) .rule = (version) >= (first) && (version) <= (last)

/* clang-format off */
enum { P2_6, P2_11, P2_15 };

#define TORCH_RULES(version)                                                \
    HOLDS(version, keeps_workspace, P2_6, P2_11),                           \
    HOLDS(version, lt_workspace_once, P2_6, P2_6),                          \
    HOLDS(version, norm_by_chunks, P2_6, P2_11),                            \
    HOLDS(version, no_seed, P2_6, P2_11),                                   \
    HOLDS(version, cudnn_last, P2_6, P2_6),                                 \
    HOLDS(version, no_flash_seed, P2_6, P2_6),                              \
    HOLDS(version, sorts_all_bits, P2_6, P2_6),                             \
    HOLDS(version, old_cub, P2_6, P2_6),                                    \
    HOLDS(version, puts_numbers, P2_11, P2_11),                             \
    HOLDS(version, slices_all, P2_6, P2_6),                                 \
    HOLDS(version, old_allocator, P2_6, P2_6),                              \
    HOLDS(version, no_outer_product, P2_6, P2_11),                          \
    HOLDS(version, no_fp32_gqa, P2_6, P2_11)
/* clang-format on */

static const TorchEra torch_2_6 = {.version = "2.6", TORCH_RULES(P2_6)},
                      torch_2_11 = {.version = "2.11", TORCH_RULES(P2_11)},
                      torch_2_15 = {.version = "2.15", TORCH_RULES(P2_15)};

/* clang-format off */
enum { T4_46, T4_48, T4_57, T5_17, T5_24 };

#define TRANSFORMERS_RULES(version)                                         \
    HOLDS(version, rope_by_product, T4_46, T5_17),                          \
    HOLDS(version, waves_together, T4_46, T4_48),                           \
    HOLDS(version, one_inv_freq, T4_46, T4_57),                             \
    HOLDS(version, gpt2_masks, T4_46, T4_57),                               \
    HOLDS(version, cache_positions, T4_46, T4_57),                          \
    HOLDS(version, masks_by_vmap, T4_57, T4_57),                            \
    HOLDS(version, always_packed, T4_57, T4_57),                            \
    HOLDS(version, no_window_number, T4_46, T4_57),                         \
    HOLDS(version, cache_of_keys, T4_57, T5_17),                            \
    HOLDS(version, cache_as_it_is, T4_46, T4_48),                           \
    HOLDS(version, repeats_keys, T4_46, T4_48),                             \
    HOLDS(version, copies_heads, T4_48, T4_48),                             \
    HOLDS(version, layers_in_tuples, T4_46, T4_48),                         \
    HOLDS(version, positional_layers, T4_46, T4_48),                        \
    HOLDS(version, moved_logits, T4_46, T4_48),                             \
    HOLDS(version, gpt2_positions_first, T4_46, T4_48),                     \
    HOLDS(version, gpt2_positions_saved, T4_57, T4_57),                     \
    HOLDS(version, gpt2_queries_first, T4_46, T4_48),                       \
    HOLDS(version, gpt2_plain_loss, T4_46, T4_48),                          \
    HOLDS(version, masks_of_numbers, T4_46, T4_48),                         \
    HOLDS(version, scores_stay, T4_46, T4_48),                              \
    HOLDS(version, bert_scores_apart, T4_46, T4_57),                        \
    HOLDS(version, bert_queries_last, T4_46, T4_48),                        \
    HOLDS(version, bert_layers_in_tuples, T4_57, T4_57),                    \
    HOLDS(version, bert_looks_for_padding, T4_46, T4_57),                   \
    HOLDS(version, bert_types_as_they_are, T4_46, T4_57),                   \
    HOLDS(version, bert_adds_in_place, T4_46, T4_57),                       \
    HOLDS(version, bert_masks_of_numbers, T4_46, T4_57),                    \
    HOLDS(version, qwen2_slides, T4_46, T4_46),                             \
    HOLDS(version, mistral_plain_loss, T4_46, T4_46),                       \
    HOLDS(version, rope_in_layers, T4_46, T4_46),                           \
    HOLDS(version, heads_together, T4_46, T4_46),                           \
    HOLDS(version, heads_rebound, T4_46, T4_46),                            \
    HOLDS(version, cache_in_tuples, T4_46, T4_46),                          \
    HOLDS(version, gpt2_cache_in_tuples, T4_46, T4_48),                     \
    HOLDS(version, classes_before_padding, T4_46, T4_48),                   \
    HOLDS(version, loads_by_characters, T4_46, T4_57),                      \
    HOLDS(version, warms_for_half, T4_57, T4_57),                           \
    HOLDS(version, reads_on_host, T4_46, T4_48),                            \
    HOLDS(version, quantizes_from_host, T4_46, T4_57),                      \
    HOLDS(version, dispatches_by_hooks, T4_46, T4_46),                      \
    HOLDS(version, dispatches, T4_46, T4_57),                               \
    HOLDS(version, items_undivided, T4_46, T5_17),                          \
    HOLDS(version, counts_all_labels, T4_46, T4_57),                        \
    HOLDS(version, items_gathered, T4_57, T4_57),                           \
    HOLDS(version, loss_is_new, T4_46, T4_57),                              \
    HOLDS(version, trainer_caches, T4_46, T4_57),                           \
    HOLDS(version, norms_decay, T4_46, T4_48),                              \
    HOLDS(version, embeddings_of_8_bits, T4_46, T4_48),                     \
    HOLDS(version, asks_no_gradient, T4_46, T4_57),                         \
    HOLDS(version, items_listed, T4_46, T4_48),                             \
    HOLDS(version, evaluates_means, T4_46, T4_48),                          \
    HOLDS(version, reports_apart, T4_46, T4_46),                            \
    HOLDS(version, items_on_host, T4_48, T4_48),                            \
    HOLDS(version, loss_of_one, T4_46, T4_48),                              \
    HOLDS(version, no_qwen3, T4_46, T4_48)

#define ERA(number, name, counts) {.version = (name), .counted = (counts), TRANSFORMERS_RULES(number)}
/* clang-format on */

static const TransformersEra transformers_4_46 = ERA(T4_46, "4.46", COUNTED_BY_FEW),
                             transformers_4_48 = ERA(T4_48, "4.48", COUNTED_BY_LANGUAGE_MODELS),
                             transformers_4_57 = ERA(T4_57, "4.57", COUNTED_BY_DECODERS),
                             transformers_5_17 = ERA(T5_17, "5.17", COUNTED_BY_ALL),
                             transformers_5_24 = ERA(T5_24, "5.24", COUNTED_BY_ALL);

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
     .cudnn_first = 1,
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
