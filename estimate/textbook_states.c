/* The textbook on what a parameter costs: its bytes, gradients, optimizer states, and their total. */
#include "textbook_.h"

/* Bytes a value. */
enum { FP32 = 4, BITS16 = 2, INT8 = 1, ADAM_VALUES = 2, LORA_RANK = 16 };
enum { LINEAR_LAYERS = 7 }; /* of a block: q, k, v, o, gate, up, down */
static const double int4 = 0.5, billion = 1e9, bits_a_byte = 8;

const LlamaShape llama_1b_ = {128256, 2048, 16, 32, 8, 8192, .tied = 1};
const LlamaShape llama_8b_ = {128256, 4096, 32, 32, 8, 14336, 0};
const LlamaShape llama_13b_ = {32000, 5120, 40, 40, 40, 13824, 0};
const LlamaShape llama_70b_ = {128256, 8192, 80, 64, 8, 28672, 0};

static double count(const LlamaShape *shape)
{
    return (double)estimate_llama_parameters(shape);
}

/* Double quantisation takes the mean of a matrix's scales out of them: one number more for each matrix. */
double nf4_weights_(const LlamaShape *shape)
{
    double linear = (double)estimate_llama_linear_parameters(shape);
    double means = (double)shape->layers * LINEAR_LAYERS * FP32;
    return linear * estimate_nf4_bits(1) / bits_a_byte + means + (count(shape) - linear) * BITS16;
}

double lora_states_(const LlamaShape *shape)
{
    return (double)estimate_llama_lora_parameters(shape, LORA_RANK) * (FP32 + FP32 + ADAM_VALUES * FP32);
}

/* ---- Bytes a parameter ----------------------------------------------------------------------- */

static void bytes_fp32(TextbookRow *row)
{
    row->by_rule = figure_(FP32);
    row->exact = figure_(32 / bits_a_byte);
}

static void bytes_16bit(TextbookRow *row)
{
    row->by_rule = figure_(BITS16);
    row->exact = figure_(16 / bits_a_byte);
}

static void bytes_int8(TextbookRow *row)
{
    row->by_rule = figure_(INT8);
    row->exact = figure_(8 / bits_a_byte + (double)FP32 / (double)llama_8b_.dim);
}

static void bytes_int4(TextbookRow *row)
{
    row->by_rule = figure_(int4);
    row->exact = figure_(estimate_nf4_bits(1) / bits_a_byte);
}

static void bits_nf4(TextbookRow *row)
{
    row->by_rule = figure_(int4 * bits_a_byte);
    row->exact = range_(estimate_nf4_bits(1), estimate_nf4_bits(0));
}

static void nf4_8b(TextbookRow *row)
{
    row->by_rule = figure_(8 * billion * int4);
    row->exact = figure_(nf4_weights_(&llama_8b_));
}

/* ---- Gradients ------------------------------------------------------------------------------- */

static void gradients_full(TextbookRow *row)
{
    row->by_rule = figure_(8 * billion * BITS16);
    row->exact = figure_(count(&llama_8b_) * BITS16);
}

static void lora_trainable(TextbookRow *row)
{
    const LlamaShape *s = &llama_8b_;
    row->exact = figure_((double)estimate_llama_lora_parameters(s, LORA_RANK));
}

static void gradients_lora(TextbookRow *row)
{
    row->exact = figure_((double)estimate_llama_lora_parameters(&llama_8b_, LORA_RANK) * FP32);
}

/* ---- Optimizer states ------------------------------------------------------------------------ */

static void adam_1m(TextbookRow *row)
{
    row->by_rule = figure_(ADAM_VALUES * 1e6);
    row->exact = figure_(ADAM_VALUES * 1e6);
}

static void sgd_plain(TextbookRow *row)
{
    row->by_rule = range_(0, 1);
    row->exact = figure_(0);
}

static void sgd_momentum(TextbookRow *row)
{
    row->by_rule = range_(0, 1);
    row->exact = figure_(1);
}

/* Bytes of weights, gradients and Adam's states of 10B parameters, and of a master copy. */
static double convention(int weights, int gradients, int state, int master)
{
    return 10 * billion * (weights + gradients + ADAM_VALUES * state + master);
}

static void bf16_10b(TextbookRow *row)
{
    row->by_rule = row->exact = figure_(convention(BITS16, BITS16, BITS16, 0));
}

static void mixed_10b(TextbookRow *row)
{
    row->by_rule = row->exact = figure_(convention(BITS16, BITS16, FP32, 0));
}

static void zero_10b(TextbookRow *row)
{
    row->by_rule = figure_(convention(BITS16, BITS16, FP32, FP32));
    row->exact = figure_(estimate_zero_bytes(10 * billion, FP32 + ADAM_VALUES * FP32, 1, 0));
}

static void huggingface_10b(TextbookRow *row)
{
    row->by_rule = row->exact = figure_(convention(BITS16, FP32, FP32, FP32));
}

/* ---- The same of an 8B, as they are planned -------------------------------------------------- */

static void states_8b(TextbookRow *row, int bytes)
{
    row->by_rule = figure_(8 * billion * bytes);
    row->exact = figure_(count(&llama_8b_) * bytes);
}

static void bf16_8b(TextbookRow *row)
{
    states_8b(row, BITS16 + BITS16 + ADAM_VALUES * BITS16);
}

static void states32_8b(TextbookRow *row)
{
    states_8b(row, BITS16 + BITS16 + ADAM_VALUES * FP32);
}

static void master_8b(TextbookRow *row)
{
    states_8b(row, BITS16 + BITS16 + FP32 + ADAM_VALUES * FP32);
}

static void gradients32_8b(TextbookRow *row)
{
    states_8b(row, BITS16 + FP32 + FP32 + ADAM_VALUES * FP32);
}

/* States of 8 bits have a scale of fp32 a block of 256; those of the embedding are fp32. */
static void states8_8b(TextbookRow *row)
{
    const double block = 256, state = INT8 + FP32 / block;
    double embedding = (double)(llama_8b_.vocab * llama_8b_.dim), rest = count(&llama_8b_) - embedding;
    row->by_rule = figure_(8 * billion * (BITS16 + BITS16 + ADAM_VALUES * INT8));
    row->exact = figure_(count(&llama_8b_) * (BITS16 + BITS16) + rest * ADAM_VALUES * state +
                         embedding * ADAM_VALUES * FP32);
}

/* ---- Totals ---------------------------------------------------------------------------------- */

static double adam_fp32(double parameters)
{
    return parameters * (FP32 + FP32 + ADAM_VALUES * FP32);
}

static void adam_1b(TextbookRow *row)
{
    double states = adam_fp32(billion), activations = billion;
    row->by_rule = range_(states + activations, states + 2 * activations);
    row->exact = figure_(adam_fp32(count(&llama_1b_)));
}

static void overhead_1b(TextbookRow *row)
{
    double low = adam_fp32(billion) + billion;
    row->by_rule = range_(low + billion, low + 3 * billion);
    row->exact = figure_(adam_fp32(count(&llama_1b_)) + billion);
}

static void peak_1b(TextbookRow *row)
{
    double weights = FP32 * billion, gradients = weights, states = ADAM_VALUES * weights,
           activations = billion;
    row->by_rule = figure_(weights + gradients + states + activations);
    row->exact = figure_(weights + states + (activations > gradients ? activations : gradients));
}

static void times_loaded(TextbookRow *row)
{
    double loaded = FP32 * billion;
    row->by_rule = range_(18 * billion / loaded, 20 * billion / loaded);
    row->exact = figure_(adam_fp32(billion) / loaded);
}

static void times_inference(TextbookRow *row)
{
    double inference = BITS16 * billion;
    row->by_rule = range_(18 * billion / inference, 20 * billion / inference);
    row->exact = figure_(adam_fp32(billion) / inference);
}

static void total_10b(TextbookRow *row)
{
    double states = convention(BITS16, BITS16, FP32, 0), least = 20 * billion, most = 40 * billion;
    row->by_rule = range_(states + least, states + most);
    row->exact =
        range_(convention(BITS16, BITS16, BITS16, 0) + least, convention(BITS16, FP32, FP32, FP32) + most);
}

/* ---- Four ways to tune an 8B model ----------------------------------------------------------- */

static void fp32_8b(TextbookRow *row)
{
    row->by_rule = figure_(adam_fp32(8 * billion));
    row->exact = figure_(adam_fp32(count(&llama_8b_)));
}

static void mixed_8b(TextbookRow *row)
{
    double each = BITS16 + BITS16 + ADAM_VALUES * FP32;
    row->by_rule = figure_(8 * billion * each);
    row->exact = figure_(count(&llama_8b_) * each);
}

static void lora_8b(TextbookRow *row)
{
    row->by_rule = figure_(8 * billion * BITS16);
    row->exact = figure_(count(&llama_8b_) * BITS16 + lora_states_(&llama_8b_));
}

static void qlora_8b(TextbookRow *row)
{
    row->by_rule = figure_(8 * billion * int4);
    row->exact = figure_(nf4_weights_(&llama_8b_) + lora_states_(&llama_8b_));
}

/* ---- The rows -------------------------------------------------------------------------------- */

static const char parameter[] = "A PARAMETER";
static const char gradient[] = "GRADIENTS";
static const char state[] = "OPTIMIZER STATES";
static const char total[] = "THE TOTAL";
static const char convention_of[] = "16-BIT TRAINING OF LLAMA 3.1 8B (states alone, before activations)";
static const char tuning[] = "FOUR WAYS TO TUNE LLAMA 3.1 8B (states alone, before activations)";

static const Lesson lessons[] = {
    {{"bytes-fp32", parameter, "A parameter in fp32", "32 bits are 4 bytes.", "4 bytes", .unit = "bytes",
      .formula = "32 / 8", .remark = "Right."},
     bytes_fp32},
    {{"bytes-16bit", parameter, "A parameter in fp16 or bf16", "16 bits are 2 bytes.", "2 bytes",
      .unit = "bytes", .formula = "16 / 8",
      .remark = "Right for what is loaded; training in 16 bit usually keeps an fp32 master copy beside it."},
     bytes_16bit},
    {{"bytes-int8", parameter, "A parameter in int8", "8 bits are 1 byte.", "1 byte", .unit = "bytes",
      .formula = "8 / 8 + 4 / 4,096",
      .remark = "One fp32 scale a row, here of 4096 weights. Linear layers only; outliers stay in 16 bit."},
     bytes_int8},
    {{"bytes-int4", parameter, "A parameter in int4 (NF4)", "4 bits are half a byte.", "0.5 bytes",
      .unit = "bytes", .formula = "(4 + 8 / 64 + 32 / (64 x 256)) / 8",
      .remark = "Scales cost too: 8 bits a block of 64, 32 bits a 256 blocks. Linear layers only."},
     bytes_int4},
    {{"nf4-bits", parameter, "Bits of an NF4 weight", "4 bits.", "4 bits", .unit = "bits",
      .formula = "4 + 8 / 64 + 32 / (64 x 256) to 4 + 32 / 64",
      .remark = "4.127 with double quantisation, 4.5 without (arXiv 2305.14314)."},
     bits_nf4},
    {{"8b-nf4-weights", parameter, "Llama 3.1 8B loaded in NF4", "8B at half a byte.", "4 GB",
      .unit = "bytes",
      .formula = "6,979,321,856 x (4 + 8 / 64 + 32 / (64 x 256)) / 8 + 224 x 4 + 1,050,939,392 x 2",
      .remark = "Embedding, head and norms, 1.05B of them, stay in 16 bit: 2.1 GB that the rule forgets."},
     nf4_8b},

    {{"gradients-full", gradient, "Gradients of an 8B model in 16 bit",
      "As many bytes as the trainable parameters, in their precision: they double the cost.", "16 GB",
      .unit = "bytes", .formula = "8,030,261,248 x 2",
      .remark = "Freed after the step and grown during backward, they trade places with activations. Many "
                "trainers accumulate them in fp32: twice that."},
     gradients_full},
    {{"lora-trainable", gradient, "Trainable under LoRA r16, all linear",
      "r (in + out) for each target; frozen parameters have no gradient.", "-", .unit = "values",
      .formula = "32 x 16 x (2 x (4,096 + 4,096) + 2 x (4,096 + 1,024) + 3 x (4,096 + 14,336))",
      .remark = "0.5 % of the model. Each target's input is still kept for backward: activations stay."},
     lora_trainable},
    {{"gradients-lora", gradient, "Gradients under that LoRA", "None for frozen parameters.", "-",
      .unit = "bytes", .formula = "41,943,040 x 4",
      .remark =
          "fp32 adapters. Frozen weights still occupy memory; gradients of activations still pass through."},
     gradients_lora},

    {{"adam-1m", state, "Adam's values for 1M parameters", "Two a parameter.", "2M values", .unit = "values",
      .formula = "2 x 1,000,000",
      .remark = "Right; PyTorch's foreach step needs about one more copy for a moment."},
     adam_1m},
    {{"sgd", state, "SGD's values a parameter", "One (one lesson), none (the other).", "0-1 values",
      .unit = "values", .formula = "0", .remark = "None without momentum."},
     sgd_plain},
    {{"sgd-momentum", state, "SGD's with momentum", "One (one lesson), none (the other).", "0-1 values",
      .unit = "values", .formula = "1", .remark = "The momentum."},
     sgd_momentum},
    {{"10b-bf16", state, "10B, Adam: everything in bf16", "8 bytes a parameter.", "80 GB", .unit = "bytes",
      .formula = "10,000,000,000 x (2 + 2 + 2 x 2)",
      .remark = "--precision bf16. Rounded to nearest, small updates are lost to bf16's 8 bits of mantissa; "
                "brim rounds stochastically."},
     bf16_10b},
    {{"10b-mixed", state, "10B, Adam: fp32 states (the lesson's)", "12 bytes a parameter: states stay fp32.",
      "120 GB", .unit = "bytes", .formula = "10,000,000,000 x (2 + 2 + 2 x 4)",
      .remark = "--precision bf16-states32. No fp32 master copy of the weights; the usual mixed precision "
                "has one."},
     mixed_10b},
    {{"10b-zero", state, "10B, Adam: ZeRO's count", "16 bytes a parameter: fp32 master and states.", "160 GB",
      .unit = "bytes", .formula = "10,000,000,000 x (2 + 2 + 12)",
      .remark = "--precision bf16-mixed. arXiv 1910.02054, K = 12. Plain fp32 training costs the same 16."},
     zero_10b},
    {{"10b-huggingface", state, "10B, Adam: Hugging Face's count", "18 bytes a parameter.", "180 GB",
      .unit = "bytes", .formula = "10,000,000,000 x (6 + 4 + 2 x 4)",
      .remark =
          "--precision bf16-mixed --grad-dtype 32, or bf16-autocast: there the 16-bit copies come and go, "
          "and the 18 are never there together."},
     huggingface_10b},

    {{"1b-adam", total, "\"1B\", fp32, Adam, full fine-tuning",
      "4 + 4 + 8 GB, and about 1 GB of activations.", "17-18 GB", .unit = "bytes",
      .formula = "1,235,814,400 x (4 + 4 + 2 x 4)",
      .remark =
          "There is no Llama 3.1 1B; Llama 3.2 1B has 1.236B. This is states alone: one fp32 copy of its "
          "logits for 2048 tokens is another 1.05 GB."},
     adam_1b},
    {{"1b-overhead", total, "The same with overhead", "1 to 2 GB more.", "18-20 GB", .unit = "bytes",
      .formula = "1,235,814,400 x (4 + 4 + 2 x 4) + 1,000,000,000",
      .remark = "The real model with the lesson's own 1 GB of activations: the overhead is on top."},
     overhead_1b},
    {{"1b-peak", total, "The sum of four, or the peak (that 1B)",
      "Parameters + gradients + optimizer states + activations.", "17 GB", .unit = "bytes",
      .formula = "4,000,000,000 + 8,000,000,000 + max(4,000,000,000, 1,000,000,000)",
      .remark = "They do not peak together: gradients grow while activations go. The peak is about P + O + "
                "max(A, G), and frozen weights count too."},
     peak_1b},
    {{"times-loaded", total, "Training, as times the loaded model", "Almost 5 times.", "almost 5 times",
      .unit = "times", .formula = "(4 + 4 + 2 x 4) / 4",
      .remark = "States alone are exactly 4 times; the rest depends on batch and sequence, not on the "
                "model's size."},
     times_loaded},
    {{"times-inference", total, "Training, as times inference", "About 10 times.", "about 10 times",
      .unit = "times", .formula = "(4 + 4 + 2 x 4) / 2",
      .remark = "fp32 states beside 16-bit weights: 8 times, before activations and KV cache."},
     times_inference},
    {{"10b-total", total, "10B, 16 bit, Adam", "20 + 20 + 80 GB, and activations of 20 to 40 GB.",
      "140-160 GB", .unit = "bytes",
      .formula = "10,000,000,000 x (2 + 2 + 2 x 2) + 20,000,000,000 to 10,000,000,000 x (6 + 4 + 2 x 4) + "
                 "40,000,000,000",
      .remark =
          "By the least and the most of the four conventions above, with the lesson's own activations."},
     total_10b},

    {{"8b-bytes-8", convention_of, "bf16: 8 bytes a parameter", "Everything in bf16.", "64 GB",
      .unit = "bytes", .formula = "8,030,261,248 x (2 + 2 + 2 x 2)",
      .remark = "Rounded stochastically, or small updates would be lost.",
      .plan = "plan llama-3.1-8b --precision bf16"},
     bf16_8b},
    {{"8b-bytes-12", convention_of, "fp32 states: 12 bytes", "States stay fp32.", "96 GB", .unit = "bytes",
      .formula = "8,030,261,248 x (2 + 2 + 2 x 4)", .remark = "No master copy: rounded stochastically too.",
      .plan = "plan llama-3.1-8b --precision bf16-states32"},
     states32_8b},
    {{"8b-bytes-16", convention_of, "A master copy: 16 bytes", "fp32 master and states.", "128 GB",
      .unit = "bytes", .formula = "8,030,261,248 x (2 + 2 + 4 + 2 x 4)",
      .remark = "As many bytes as fp32, and as many with fp16-mixed; activations are half.",
      .plan = "plan llama-3.1-8b --precision bf16-mixed"},
     master_8b},
    {{"8b-bytes-18", convention_of, "And fp32 gradients: 18 bytes", "Gradients are summed in fp32.", "144 GB",
      .unit = "bytes", .formula = "8,030,261,248 x (2 + 4 + 4 + 2 x 4)",
      .remark = "--accumulate N brings them along, so that small gradients are not lost in their sum.",
      .plan = "plan llama-3.1-8b --precision bf16-mixed --grad-dtype 32"},
     gradients32_8b},
    {{"8b-states-8bit", convention_of, "bf16 with 8-bit states", "6 bytes a parameter.", "48 GB",
      .unit = "bytes",
      .formula = "8,030,261,248 x (2 + 2) + 7,504,924,672 x 2 x (1 + 4 / 256) + 525,336,576 x 2 x 4",
      .remark = "256 codes share a scale, and the embedding's states are fp32: the rule forgets 3.4 GB.",
      .plan = "plan llama-3.1-8b --precision bf16 --optimizer adamw8bit"},
     states8_8b},

    {{"8b-fp32", tuning, "Full precision", "fp32, Adam.", "above 100 GB", .unit = "bytes",
      .formula = "8,030,261,248 x (4 + 4 + 2 x 4)", .remark = "Right: more than a card of 80 GB has.",
      .plan = "plan llama-3.1-8b"},
     fp32_8b},
    {{"8b-mixed", tuning, "16-bit mixed", "16-bit weights and gradients, fp32 states.", "below 100 GB",
      .unit = "bytes", .formula = "8,030,261,248 x (2 + 2 + 2 x 4)",
      .remark = "128.5 GB with the fp32 master copy of ZeRO's count.",
      .plan = "plan llama-3.1-8b --precision bf16-states32"},
     mixed_8b},
    {{"8b-lora", tuning, "LoRA r16 on all linear layers", "16-bit weights, frozen.", "below 100 GB",
      .unit = "bytes", .formula = "8,030,261,248 x 2 + 41,943,040 x (4 + 4 + 2 x 4)",
      .remark = "The base is 96 % of it: more rank costs little, fewer bits of the base save much.",
      .plan = "plan llama-3.1-8b --lora r=16,alpha=32 --weights bf16"},
     lora_8b},
    {{"8b-qlora", tuning, "QLoRA", "4-bit weights, frozen.", "below 10 GB", .unit = "bytes",
      .formula = "6,979,321,856 x (4 + 8 / 64 + 32 / (64 x 256)) / 8 + 224 x 4 + 1,050,939,392 x 2 + "
                 "41,943,040 x (4 + 4 + "
                 "2 x 4)",
      .remark = "Right for states. Activations and logits (1.05 GB an fp32 copy) come on top at full size.",
      .plan = "plan llama-3.1-8b --lora r=16,alpha=32 --weights bf16 --quantize nf4"},
     qlora_8b},
};

const Lesson *textbook_states_(int i)
{
    return i >= 0 && i < (int)(sizeof lessons / sizeof lessons[0]) ? &lessons[i] : NULL;
}
