/* The textbook on what depends on use: activations, inference, several GPUs, cards, overhead, levers. */
#include <math.h>
#include <stddef.h>

#include "../device/cards.h"
#include "textbook_.h"

enum { FP32 = 4, BITS16 = 2, CONTEXT = 8192, PREFILL = 2048 };
static const double billion = 1e9, gib = 1 << 30;

/* A 7B's layer at 2048 tokens, where ratios of activations are taken. */
static const GptShape layer = {.batch = 1, .seq = 2048, .dim = 4096, .heads = 32};

/* ---- Activations ----------------------------------------------------------------------------- */

static double neurons_layer(void) /* bytes: neurons of 10B parameters, a batch of 32, 16 bit */
{
    return sqrt(10 * billion) * 32 * BITS16;
}

static void sqrt_layer(TextbookRow *row)
{
    row->by_rule = row->exact = figure_(neurons_layer());
}

static void sqrt_model(TextbookRow *row)
{
    row->by_rule = range_(20 * billion, 40 * billion);
    row->exact = range_(100 * neurons_layer(), 300 * neurons_layer());
}

static void real_layer(TextbookRow *row)
{
    const GptShape x = {.batch = 32, .seq = 2048, .dim = 4096, .heads = 32};
    row->by_rule = figure_(neurons_layer());
    row->exact = figure_(34 * (double)(x.batch * x.seq * x.dim));
}

static void batch_doubled(TextbookRow *row)
{
    GptShape twice = layer;
    twice.batch *= 2;
    row->by_rule = figure_(2);
    row->exact = figure_(estimate_korthikanti_bytes(&twice, KORTHIKANTI_PLAIN, 1) /
                         estimate_korthikanti_bytes(&layer, KORTHIKANTI_PLAIN, 1));
}

static void sequence_doubled(TextbookRow *row)
{
    GptShape twice = layer;
    twice.seq *= 2;
    row->by_rule = range_(2, 4);
    row->exact = range_(estimate_korthikanti_bytes(&twice, KORTHIKANTI_SELECTIVE, 1) /
                            estimate_korthikanti_bytes(&layer, KORTHIKANTI_SELECTIVE, 1),
                        estimate_korthikanti_bytes(&twice, KORTHIKANTI_PLAIN, 1) /
                            estimate_korthikanti_bytes(&layer, KORTHIKANTI_PLAIN, 1));
}

static void logits(TextbookRow *row)
{
    row->by_rule = figure_(billion);
    row->exact = figure_((double)llama_8b_.vocab * PREFILL * FP32);
}

/* ---- Inference ------------------------------------------------------------------------------- */

static double weights(const LlamaShape *shape, double bytes_each)
{
    return (double)estimate_llama_parameters(shape) * bytes_each;
}

static void weights_70b(TextbookRow *row)
{
    row->by_rule = figure_(70 * billion * BITS16);
    row->exact = figure_(weights(&llama_70b_, BITS16));
}

static void kv_token(TextbookRow *row)
{
    row->exact = figure_((double)estimate_kv_cache_bytes(&llama_70b_, 1, BITS16));
}

static void inference_70b(TextbookRow *row)
{
    double workspace = 2.0 * (double)llama_70b_.hidden * BITS16 * PREFILL; /* gate and up of one layer */
    row->by_rule = figure_(70 * billion * 16 / 8 * 1.2);
    row->exact = figure_(weights(&llama_70b_, BITS16) +
                         (double)estimate_kv_cache_bytes(&llama_70b_, CONTEXT, BITS16) + workspace);
}

static void twenty_percent(TextbookRow *row)
{
    row->exact =
        figure_(70 * billion * BITS16 * 0.2 / (double)estimate_kv_cache_bytes(&llama_70b_, 1, BITS16));
}

static void infer_13b(TextbookRow *row)
{
    row->by_rule = figure_(13 * billion * BITS16);
    row->exact = range_(weights(&llama_13b_, 1), weights(&llama_13b_, BITS16));
}

static void tune_13b(TextbookRow *row)
{
    row->by_rule = figure_(13 * billion * (FP32 + FP32 + 2 * FP32));
    row->exact = figure_(weights(&llama_13b_, FP32 + FP32 + 2 * FP32));
}

static void qlora_13b(TextbookRow *row)
{
    row->exact = figure_(nf4_weights_(&llama_13b_) + lora_states_(&llama_13b_));
}

/* ---- Several GPUs ---------------------------------------------------------------------------- */

static void two_gpus(TextbookRow *row)
{
    double states = estimate_zero_bytes(10 * billion, 2 * FP32, 2, 3);
    row->by_rule = range_(states + 20 * billion, states + 40 * billion);
    row->exact = range_(states, estimate_zero_bytes(10 * billion, 3 * FP32, 2, 3));
}

static void zero_stage(TextbookRow *row, int stage)
{
    row->by_rule = row->exact = figure_(estimate_zero_bytes(7.5 * billion, 3 * FP32, 64, stage));
}

static void zero_0(TextbookRow *row)
{
    zero_stage(row, 0);
}

static void zero_1(TextbookRow *row)
{
    zero_stage(row, 1);
}

static void zero_2(TextbookRow *row)
{
    zero_stage(row, 2);
}

static void zero_3(TextbookRow *row)
{
    zero_stage(row, 3);
}

/* ---- Cards and overhead ---------------------------------------------------------------------- */

static void card(TextbookRow *row, const char *name, double on_the_box)
{
    const Card *found = device_card(name);
    row->by_rule = figure_(on_the_box * billion);
    row->exact = figure_(found ? (double)found->bytes : 0);
}

static void card_t4(TextbookRow *row)
{
    card(row, "t4", 16);
}

static void card_3090(TextbookRow *row)
{
    card(row, "rtx-3090", 24);
}

static void card_a100_40(TextbookRow *row)
{
    card(row, "a100-40", 40);
}

static void card_a100_80(TextbookRow *row)
{
    card(row, "a100-80", 80);
}

static void card_h100(TextbookRow *row)
{
    card(row, "h100", 80);
}

static void overhead(TextbookRow *row)
{
    row->by_rule = range_(billion, 2 * billion);
    row->exact = range_(0.25 * gib, 0.45 * gib);
}

/* ---- Levers: the share that stays ------------------------------------------------------------ */

static void checkpointing(TextbookRow *row)
{
    double kept = estimate_korthikanti_bytes(&layer, KORTHIKANTI_FULL, 1);
    row->exact = range_(kept / estimate_korthikanti_bytes(&layer, KORTHIKANTI_PLAIN, 1),
                        kept / estimate_korthikanti_bytes(&layer, KORTHIKANTI_SELECTIVE, 1));
}

static void accumulation(TextbookRow *row)
{
    row->exact = figure_(1.0 / 4);
}

static void lora(TextbookRow *row)
{
    row->exact = figure_((double)estimate_llama_lora_parameters(&llama_8b_, 16) / weights(&llama_8b_, 1));
}

static void qlora(TextbookRow *row)
{
    row->exact = figure_(nf4_weights_(&llama_8b_) / weights(&llama_8b_, BITS16));
}

static void ddp(TextbookRow *row)
{
    row->by_rule = figure_(1);
    row->exact = figure_(1.0 / 2);
}

static void fsdp(TextbookRow *row)
{
    double n2 = estimate_zero_bytes(1, 3 * FP32, 2, 3), n1 = estimate_zero_bytes(1, 3 * FP32, 1, 3);
    row->by_rule = figure_(1.0 / 2);
    row->exact = figure_(n2 / n1);
}

static void tensor_parallel(TextbookRow *row)
{
    row->by_rule = figure_(1.0 / 2);
    row->exact = figure_(estimate_korthikanti_bytes(&layer, KORTHIKANTI_SELECTIVE, 2) /
                         estimate_korthikanti_bytes(&layer, KORTHIKANTI_SELECTIVE, 1));
}

static void pipeline_parallel(TextbookRow *row)
{
    double stages = 2, in_flight = stages, layers_each = 1 / stages;
    row->by_rule = figure_(1.0 / 2);
    row->exact = figure_(in_flight * layers_each);
}

/* ---- The rows -------------------------------------------------------------------------------- */

static const char activation[] = "ACTIVATIONS";
static const char inference[] = "INFERENCE";
static const char several[] = "SEVERAL GPUs (bytes a GPU)";
static const char cards[] = "CARDS (the box says GB, the driver counts bytes)";
static const char extra[] = "OVERHEAD";
static const char lever[] = "LEVERS (what remains of what each one shrinks)";

static const Lesson lessons[] = {
    {{"sqrt-layer", activation, "A layer of a 10B model, batch 32",
      "sqrt(10B) = 100k neurons, 32 samples, 16 bit.", "6.4 MB", .unit = "bytes",
      .formula = "sqrt(10,000,000,000) x 32 x 2",
      .remark =
          "The arithmetic is right; no such layer exists: nothing of a transformer is sqrt(parameters)."},
     sqrt_layer},
    {{"sqrt-model", activation, "All its layers", "Hundreds of layers: tens of GB.", "20-40 GB",
      .unit = "bytes", .formula = "100 x 6,400,000 to 300 x 6,400,000",
      .remark = "Hundreds of times 6.4 MB are about 2 GB, not tens."},
     sqrt_model},
    {{"gpt-layer", activation, "A real layer: 4096 wide, 32 x 2048 tokens", "The same rule.", "6.4 MB",
      .unit = "bytes", .formula = "34 x 32 x 2,048 x 4,096",
      .remark =
          "34 sbh, 16 bit, flash attention (arXiv 2205.05198): the rule has no tokens in it, so it is out "
          "by a thousand."},
     real_layer},
    {{"batch-doubled", activation, "Twice the batch", "Twice the activations.", "2 times", .unit = "times",
      .formula = "2 / 1", .remark = "Right, of activations; weights, gradients and states do not move."},
     batch_doubled},
    {{"sequence-doubled", activation, "Twice the sequence (2048 to 4096)",
      "May double (one lesson), grows quadratically (the other).", "2-4 times", .unit = "times",
      .formula = "2 to 2 x (34 + 5 x 32 x 4,096 / 4,096) / (34 + 5 x 32 x 2,048 / 4,096)",
      .remark = "Linear under flash attention. Quadratic only in stored scores: eager, 5as/h beside 34."},
     sequence_doubled},
    {{"logits", activation, "One fp32 copy of 2048 tokens' logits", "Not counted; 1 GB is all activations.",
      "1 GB", .unit = "bytes", .formula = "128,256 x 2,048 x 4",
      .remark = "Llama 3's vocabulary: the whole budget goes into one tensor, and its gradient is another."},
     logits},

    {{"70b-weights", inference, "Llama 70B loaded, 16 bit", "P x Q / 8.", "140 GB", .unit = "bytes",
      .formula = "70,553,706,496 x 2", .remark = "It has 70.55B parameters."},
     weights_70b},
    {{"kv-token", inference, "Its KV cache, a token", "Not counted.", "-", .unit = "bytes",
      .formula = "2 x 80 x 8 x 128 x 2",
      .remark =
          "2 x layers x key-value heads x head width x bytes; Llama 2 70B is the same. Some tools forget the "
          "2, or that 8 key-value heads serve 64."},
     kv_token},
    {{"70b-inference", inference, "Llama 70B serving 8192 tokens", "P x Q / 8 x 1.2.", "168 GB",
      .unit = "bytes",
      .formula = "70,553,706,496 x 2 + 2 x 80 x 8 x 128 x 2 x 8,192 + 2 x 28,672 x 2 x 2,048",
      .remark =
          "Weights + KV cache + workspace (gate and up of one layer, 2048 tokens at once). The cache grows "
          "with tokens, not with parameters."},
     inference_70b},
    {{"twenty-percent", inference, "Tokens that the 20 % would hold", "28 GB on top.", "-", .unit = "values",
      .formula = "70,000,000,000 x 2 x 0.2 / (2 x 80 x 8 x 128 x 2)",
      .remark = "Over all requests together; more than that, and 1.2 is too little."},
     twenty_percent},
    {{"13b-infer", inference, "13B inference on a consumer card (24 GB)", "It fits.", "26 GB",
      .unit = "bytes", .formula = "13,015,864,320 x 1 to 13,015,864,320 x 2",
      .remark = "In int8, yes; in 16 bit not: an RTX 3090 has 25.4 GB = 23.70 GiB."},
     infer_13b},
    {{"13b-tune", inference, "13B tuned there, fp32 and Adam", "It cannot be.", "208 GB", .unit = "bytes",
      .formula = "13,015,864,320 x (4 + 4 + 2 x 4)",
      .remark = "Right: states alone fill more than eight such cards."},
     tune_13b},
    {{"13b-qlora", inference, "13B tuned there, QLoRA r16", "It cannot be.", "-", .unit = "bytes",
      .formula = "12,687,769,600 x (4 + 8 / 64 + 32 / (64 x 256)) / 8 + 280 x 4 + 328,094,720 x 2 + "
                 "62,586,880 x (4 + 4 + 2 x "
                 "4)",
      .remark = "It can: these states leave more than 16 GB for activations."},
     qlora_13b},

    {{"10b-two-gpus", several, "The 10B over 2, \"model parallel\"", "States divided, activations not.",
      "80-100 GB", .unit = "bytes", .formula = "10,000,000,000 x 12 / 2 to 10,000,000,000 x 16 / 2",
      .remark =
          "That is ZeRO-3's arithmetic, not model parallelism; these are states, activations of each GPU's "
          "own batch come on top. `brim fit --cards 2 --model textbook-10b` plans all of it."},
     two_gpus},
    {{"zero-0", several, "ZeRO's own example: 7.5B, 64 ranks", "-", "120 GB", .unit = "bytes",
      .formula = "7,500,000,000 x (2 + 2 + 12)",
      .remark = "arXiv 1910.02054: data parallel, nothing divided."},
     zero_0},
    {{"zero-1", several, "  stage 1", "-", "31.4 GB", .unit = "bytes",
      .formula = "7,500,000,000 x (2 + 2 + 12 / 64)", .remark = "Optimizer states divided."},
     zero_1},
    {{"zero-2", several, "  stage 2", "-", "16.6 GB", .unit = "bytes",
      .formula = "7,500,000,000 x (2 + (2 + 12) / 64)", .remark = "Gradients divided too."},
     zero_2},
    {{"zero-3", several, "  stage 3", "-", "1.9 GB", .unit = "bytes",
      .formula = "7,500,000,000 x (2 + 2 + 12) / 64",
      .remark = "Weights too: each layer is gathered before its use, which needs room for one or two."},
     zero_3},

    {{"card-t4", cards, "Colab's T4", "-", "16 GB", .unit = "bytes", .formula = "14.75 x 1,073,741,824",
      .remark = "ECC takes a sixteenth."},
     card_t4},
    {{"card-3090", cards, "RTX 3090", "-", "24 GB", .unit = "bytes", .formula = "23.70 x 1,073,741,824",
      .remark = "24 GiB less the driver's own: more than 24 GB, less than 24 GiB."},
     card_3090},
    {{"card-a100-40", cards, "A100 40", "-", "40 GB", .unit = "bytes", .formula = "39.50 x 1,073,741,824",
      .remark = "A program's own CUDA context is not yet off."},
     card_a100_40},
    {{"card-a100-80", cards, "A100 80", "-", "80 GB", .unit = "bytes", .formula = "79.25 x 1,073,741,824",
      .remark = "The same."},
     card_a100_80},
    {{"card-h100", cards, "H100 80", "-", "80 GB", .unit = "bytes", .formula = "79.11 x 1,073,741,824",
      .remark = "The same; `brim gpus` has the others."},
     card_h100},
    {{"overhead", extra, "CUDA context", "Context, framework buffers, fragmentation.", "1-2 GB",
      .unit = "bytes", .formula = "0.25 x 1,073,741,824 to 0.45 x 1,073,741,824",
      .remark =
          "As reported for CUDA 12 and later. Buffers and fragmentation can only be measured: brim shows its "
          "own as needs beside peak."},
     overhead},

    {{"checkpointing", lever, "Checkpointing: activations of a layer", "Recompute instead of keeping.", "-",
      .unit = "times", .formula = "2 / (34 + 5 x 32 x 2,048 / 4,096) to 2 / 34",
      .remark = "Its input alone (eager to flash, width 4096, 2048 tokens), for a third more FLOPs. "
                "Gradients, states "
                "and logits stay."},
     checkpointing},
    {{"accumulation", lever, "Accumulation over 4: activations", "Smaller micro-batches, same step.", "-",
      .unit = "times", .formula = "1 / 4",
      .remark =
          "Only because the micro-batch shrinks: gradients now live beside every forward, which can raise "
          "the peak."},
     accumulation},
    {{"lora", lever, "LoRA r16, 8B: gradients and states", "Frozen weights need none.", "-", .unit = "times",
      .formula = "41,943,040 / 8,030,261,248",
      .remark = "The weights themselves stay, and so do activations."},
     lora},
    {{"qlora", lever, "QLoRA, 8B: weights", "4 bits instead of 16.", "-", .unit = "times",
      .formula = "(6,979,321,856 x (4 + 8 / 64 + 32 / (64 x 256)) / 8 + 224 x 4 + 1,050,939,392 x 2) / "
                 "(8,030,261,248 x 2)",
      .remark = "Not a quarter: what is not a linear layer stays in 16 bit."},
     qlora},
    {{"ddp", lever, "DDP over 2: activations", "No saving.", "all", .unit = "times", .formula = "1 / 2",
      .remark =
          "None of states. At a fixed global batch each GPU has half the samples, so half the activations."},
     ddp},
    {{"fsdp", lever, "FSDP / ZeRO-3 over 2: states", "Divided.", "half", .unit = "times", .formula = "8 / 16",
      .remark = "And a buffer of gathered layers."},
     fsdp},
    {{"tensor-parallel", lever, "Tensor parallel over 2: activations", "Divided.", "half", .unit = "times",
      .formula = "(10 + 24 / 2) / (10 + 24)",
      .remark =
          "Norms and residuals are not divided (10 of 34) without sequence parallelism; weights and states "
          "are."},
     tensor_parallel},
    {{"pipeline-parallel", lever, "Pipeline over 2: the first's activations", "Divided.", "half",
      .unit = "times", .formula = "2 x (1 / 2)",
      .remark =
          "Half the layers, but 2 micro-batches in flight (1F1B): nothing is saved there; weights and states "
          "are halved."},
     pipeline_parallel},
};

const Lesson *textbook_use_(int i)
{
    return i >= 0 && i < (int)(sizeof lessons / sizeof lessons[0]) ? &lessons[i] : NULL;
}
