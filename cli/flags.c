/* The flags: one table, one meaning in every subcommand; what they are by default, and their values as they
 * would be typed. */
#include <inttypes.h>
#include <string.h>

#include "flags_.h"

#define AT(field) offsetof(Options, field)
enum { MOST_THREADS = 128, MOST_SAMPLE = 160 }; /* of a context; of Training.generated */

static const Flag flags[] = {
    {"--model", FLAG_NAME, AT(model), "NAME", .help = "one of `brim models`, or a config.json (llama-tiny)"},
    {"--approximate", FLAG_SWITCH, AT(approximate), NULL, .help = "an unread family as a near one",
     .only = "plan compare fit"},
    {"--init", FLAG_TEXT, AT(init), "PATH", .help = "start from these weights: directory or .safetensors"},
    {"--init-partial", FLAG_SWITCH, AT(init_partial), NULL,
     .help = "allow missing and extra weights in --init"},
    {"--resize-vocab", FLAG_NAME, AT(resize_vocab), "N|auto",
     .help = "grow --init's embeddings (auto: to the tokenizer)"},
    {"--lora", FLAG_TEXT, AT(lora), "r=16,…", .help = "train adapters: r=16,alpha=32,targets=q_proj,…"},
    {"--adapter", FLAG_TEXT, AT(adapter), "DIR", .help = "add the adapter that PEFT saved in this directory"},
    {"--data", FLAG_TEXT, AT(data), "PATH", .help = "text, .jsonl, .csv, .gz, -, folder, .bin, builtin"},
    {"--pack", FLAG_SWITCH, AT(pack), NULL, .help = "put samples of a .jsonl side by side in rows of --seq"},
    {"--check-data", FLAG_SWITCH, AT(check_data), NULL, .help = "read all of a large .bin before step 1",
     .only = "train"},
    {"--invalid-utf8", FLAG_NAME, AT(invalid_utf8), "WHAT",
     .help = "refuse or replace it, before a tokenizer (refuse)"},
    {"--tokenizer", FLAG_TEXT, AT(tokenizer), "FILE",
     .help = "tokenizer.json, or bytes (the model's, else bytes)"},
    {"--vocab", FLAG_INT, AT(vocab), "N", .help = "vocabulary size (the model's)", .low = 2},
    {"--batch", FLAG_INT, AT(batch), "N", .help = "samples in a micro-batch (the model's usual)", .low = 1},
    {"--seq", FLAG_INT, AT(seq), "N", .help = "tokens in a sample (the model's usual)", .low = 1},
    {"--accumulate", FLAG_INT, AT(accumulate), "N", .help = "micro-batches in a step (1)", .low = 1},
    {"--accumulate-apart", FLAG_SWITCH, AT(accumulate_apart), NULL,
     .help = "add micro-batches in the order in which ranks add"},
    {"--steps", FLAG_INT64, AT(steps), "N", .help = "optimizer steps (300)"},
    {"--epochs", FLAG_INT, AT(epochs), "N", .help = "passes over the data, instead of --steps", .low = 1},
    {"--optimizer", FLAG_NAME, AT(optimizer), "NAME",
     .help = "sgd[-momentum|nesterov] rmsprop adagrad adam[w][8bit]"},
    {"--lr", FLAG_FLOAT, AT(lr), "X", .help = "learning rate (by model; --init 2e-5, --lora 2e-4)"},
    {"--weight-decay", FLAG_FLOAT, AT(weight_decay), "X",
     .help = "on all but norms and biases (adamw 0.01; else 0)"},
    {"--schedule", FLAG_NAME, AT(schedule), "NAME", .help = "of --lr: constant, linear or cosine (cosine)"},
    {"--warmup", FLAG_INT, AT(warmup), "N", .help = "steps of linear warm-up (5 % of the steps)"},
    {"--clip", FLAG_FLOAT, AT(clip), "X", .help = "largest gradient norm, 0 for any (1; in backward 0)"},
    {"--dropout", FLAG_FLOAT, AT(dropout), "P",
     .help = "dropout probability (0, or what a config.json says)"},
    {"--checkpoint", FLAG_CHECKPOINT, AT(checkpoint), "WHAT",
     .help = "recompute: none, blocks, N, selective or auto (none)"},
    {"--optimizer-in-backward", FLAG_SWITCH, AT(in_backward), NULL,
     .help = "free each gradient as soon as it is used"},
    {"--zero-grad", FLAG_ZERO_GRAD, AT(keep_gradients), "free|keep",
     .help = "between steps free gradients, or keep zeros (free)"},
    {"--loss-chunk", FLAG_INT, AT(loss_chunk), "N",
     .help = "compute the loss N rows at a time (0: all at once)"},
    {"--skip-unlabelled", FLAG_SWITCH, AT(skip_unlabelled), NULL,
     .help = "compute the head only for rows with a label"},
    {"--attention", FLAG_ATTENTION, AT(attention), "flash|eager",
     .help = "keep one number a row, or all its scores (flash)"},
    {"--weights", FLAG_WEIGHTS, AT(weights), "TYPE",
     .help = "store frozen weights as fp32, bf16 or fp16 (fp32)"},
    {"--quantize", FLAG_QUANTIZE, AT(quantized), "TYPE",
     .help = "frozen linear layers: nf4, nf4-plain or int8 (none)"},
    {"--precision", FLAG_NAME, AT(precision), "NAME",
     .help = "fp32 tf32 bf16[-states32|-mixed|-autocast] fp16-…"},
    {"--grad-dtype", FLAG_NAME, AT(grad_dtype), "16|32",
     .help = "bits of gradients of 16-bit weights (16; summed 32)"},
    {"--rounding", FLAG_NAME, AT(rounding), "HOW",
     .help = "of 16-bit weights: nearest or stochastic (stochastic)"},
    {"--loss-scale", FLAG_NAME, AT(loss_scale), "dynamic|N",
     .help = "of fp16: multiply the loss by it (dynamic)"},
    {"--framework", FLAG_NAME, AT(framework), "brim|pytorch", .help = "whose memory (brim)",
     .only = "plan fit"},
    {"--versions", FLAG_TEXT, AT(versions), "torch=…", .help = "PyTorch: torch=…,transformers=…",
     .only = "plan fit"},
    {"--script", FLAG_NAME, AT(script), "trainer|loop", .help = "PyTorch: what trains (trainer)",
     .only = "plan fit"},
    {"--evaluate", FLAG_INT, AT(evaluate), "N", .help = "Trainer: N batches of evaluation (0)",
     .only = "plan fit"},
    {"--eval-accumulation", FLAG_INT, AT(eval_accumulation), "N", .help = "its eval_accumulation_steps (0)",
     .only = "plan fit"},
    {"--metrics", FLAG_SWITCH, AT(metrics), NULL, .help = "Trainer: metrics, of all logits",
     .only = "plan fit"},
    {"--kbit-prepare", FLAG_NAME, AT(kbit_prepare), "on|off", .help = "prepare_model_for_kbit_training",
     .only = "plan fit"},
    {"--no-sync", FLAG_SWITCH, AT(no_sync), NULL, .help = "PyTorch: ranks add once a step",
     .only = "plan fit"},
    {"--hold-outputs", FLAG_SWITCH, AT(hold_outputs), NULL, .help = "PyTorch: the loop keeps the outputs",
     .only = "plan fit"},
    {"--alloc-conf", FLAG_TEXT, AT(alloc_conf), "SETTINGS", .help = "PYTORCH_ALLOC_CONF of the job",
     .only = "plan fit"},
    {"--longest", FLAG_INT, AT(longest), "N", .help = "PyTorch: the longest sample", .only = "plan fit",
     .low = 1},
    {"--html", FLAG_TEXT, AT(html), "FILE", .help = "PyTorch: also write a page", .only = "plan"},
    {"--budget", FLAG_SIZE, AT(budget), "SIZE", .help = "refuse to start above SIZE, e.g. 800MiB"},
    {"--seed", FLAG_SEED, AT(seed), "N", .help = "random seed (1)"},
    {"--threads", FLAG_INT, AT(threads), "N", .help = "threads to use (one a processor)", .low = 1,
     .high = MOST_THREADS},
    {"--ranks", FLAG_INT, AT(ranks.size), "N", .help = "processes of a model (1)",
     .only = "train plan fit compare", .low = 1, .high = RANKS_MOST},
    {"--parallel", FLAG_PARALLEL, AT(ranks.strategy), "NAME", .help = "ddp, zero1-3, fsdp (ddp)",
     .only = "train plan fit compare"},
    {"--replicas", FLAG_INT, AT(ranks.replicas), "R", .help = "groups that each divide it (1)",
     .only = "train plan compare", .low = 1, .high = RANKS_MOST},
    {"--replicate-below", FLAG_INT64, AT(ranks.replicate_below), "N",
     .help = "keep smaller weights whole (0)", .only = "train plan compare"},
    {"--reduce", FLAG_NAME, AT(reduce), "ordered|library", .help = "whose order of sums (ordered)",
     .only = "train plan compare"},
    {"--tensor", FLAG_INT, AT(ranks.tensor), "T", .help = "ranks/layer (1)",
     .only = "train plan compare fit generate", .low = 1, .high = RANKS_MOST},
    {"--sequence-parallel", FLAG_SWITCH, AT(ranks.sequence), NULL, .help = "--tensor: rows are divided too",
     .only = "train plan compare"},
    {"--gather", FLAG_NAME, AT(gather), "op|block|next", .help = "zero3: by op, block, two (op)",
     .only = "train plan compare"},
    {"--stages", FLAG_INT, AT(ranks.stages), "P", .help = "stages of blocks (1)", .only = "train plan fit",
     .low = 1, .high = RANKS_MOST},
    {"--pipeline", FLAG_NAME, AT(pipeline), "1f1b|gpipe", .help = "schedule of stages (1f1b)",
     .only = "train plan fit"},
    {"--rank", FLAG_TEXT, AT(rank), "R|all", .help = "plan this rank, or all that differ (all)",
     .only = "plan"},
    {"--rank-timeout", FLAG_INT, AT(rank_timeout), "S", .help = "end a run whose rank waits S seconds (600)",
     .only = "train", .low = 1},
    {"--transport", FLAG_NAME, AT(transport), "mpi|nccl",
     .help = "who carries between cards (nccl if it can)", .only = "train"},
    {"--device", FLAG_NAME, AT(device), "cpu|cuda", .help = "where tensors live (cpu); cuda:1: 2nd card"},
    {"--no-graph", FLAG_SWITCH, AT(no_graphs), NULL, .help = "on a card, start each kernel by itself"},
    {"--max-samples", FLAG_INT64, AT(max_samples), "N", .help = "use only the first N samples", .low = 1},
    {"--every", FLAG_INT, AT(every), "N", .help = "steps between printed lines (a twentieth of the run)",
     .low = 1},
    {"--evaluate-every", FLAG_INT, AT(evaluate_every), "N",
     .help = "steps between validations (with --epochs: one each)", .low = 1},
    {"--sample", FLAG_INT, AT(sample), "N", .help = "tokens that a llama or gpt2 writes at the end (0)",
     .high = MOST_SAMPLE},
    {"--prompt", FLAG_TEXT, AT(prompt), "TEXT", .help = "text to continue, - reads a pipe (\"The \")"},
    {"--tokens", FLAG_INT, AT(tokens), "N", .help = "tokens to write (100)", .low = 1, .only = "generate"},
    {"--temperature", FLAG_FLOAT, AT(temperature), "X", .help = "divide the logits by X; 0 is greedy (0.8)",
     .only = "generate"},
    {"--top-k", FLAG_INT, AT(top_k), "K", .help = "draw from the K likeliest tokens (0: all)",
     .only = "generate"},
    {"--top-p", FLAG_FLOAT, AT(top_p), "P", .help = "draw from the fewest of probability P (1)",
     .only = "generate"},
    {"--prefill", FLAG_INT, AT(prefill), "N", .help = "prompt at once (512)", .low = 1,
     .only = "generate plan compare fit"},
    {"--ignore-eos", FLAG_SWITCH, AT(ignore_eos), NULL, .help = "do not stop at a token that ends a text",
     .only = "generate"},
    {"--log", FLAG_TEXT, AT(log), "FILE.jsonl", .help = "write a run log (JSON Lines)",
     .only = "train demo plan"},
    {"--save", FLAG_TEXT, AT(save), "DIR", .help = "save the run in this directory", .only = "train"},
    {"--save-every", FLAG_INT64, AT(save_every), "N", .help = "steps between saves (a tenth of the run)",
     .low = 1, .only = "train"},
    {"--keep", FLAG_INT, AT(keep), "K", .help = "how many saves to keep, the newest (2)", .low = 1,
     .only = "train"},
    {"--resume", FLAG_TEXT, AT(resume), "DIR", .help = "resume from the newest save in this directory",
     .only = "train"},
    {"--export", FLAG_TEXT, AT(export), "DIR", .help = "write model.safetensors and config.json there",
     .only = "train"},
    {"--merge", FLAG_SWITCH, AT(merge), NULL, .help = "--export the model with its adapters merged",
     .only = "train"},
    {"--export-adapter", FLAG_TEXT, AT(export_adapter), "DIR", .help = "write the adapter there, for PEFT",
     .only = "train"},
    {"--overwrite", FLAG_SWITCH, AT(overwrite), NULL, .help = "exports may replace what is in their DIR",
     .only = "train"},
    {"--export-dtype", FLAG_NAME, AT(export_dtype), "TYPE", .help = "data type: fp32, fp16 or bf16 (fp32)",
     .only = "train"},
    {"--export-shard", FLAG_SIZE, AT(export_shard), "SIZE", .help = "split it into files of this size (50GB)",
     .only = "train"},
    {"--textbook", FLAG_SWITCH, AT(textbook), NULL, .help = "rules of thumb, and where each is wrong",
     .only = "plan"},
    {"--inference", FLAG_SWITCH, AT(inference), NULL, .help = "plan inference over --seq tokens",
     .only = "plan compare fit"},
    {"--run", FLAG_INT64, AT(run_steps), "N", .help = "also train each row for N steps", .low = 1,
     .only = "compare"},
    {"--csv", FLAG_SWITCH, AT(csv), NULL, .help = "print comma-separated values", .only = "compare"},
    {"--four-ways", FLAG_SWITCH, AT(four_ways), NULL, .help = "four ways to tune a model, on five cards",
     .only = "compare"},
    {"--card", FLAG_TEXT, AT(cards), "NAME,…", .help = "cards of `brim gpus` (a few)",
     .only = "fit plan compare"},
    {"--cards", FLAG_TEXT, AT(card_counts), "N,…", .help = "so many together: data, tensor, stages",
     .only = "fit"},
    {"--memory", FLAG_TEXT, AT(memories), "SIZE,…", .help = "cards with this much memory", .only = "fit"},
    {"--reserve", FLAG_SIZE, AT(reserve), "SIZE", .help = "of each card, for the context (1GiB)", .zero = 1,
     .only = "fit plan"},
    {"--json", FLAG_SWITCH, AT(json), NULL, .help = "print one JSON object with exact bytes"},
    {"--quiet", FLAG_SWITCH, AT(quiet), NULL, .help = "print no step lines"},
};
enum { FLAG_COUNT = sizeof flags / sizeof flags[0] };

const Options options_default = {
    .optimizer = "adamw",
    .precision = "fp32",
    .framework = "brim",
    .script = "trainer",
    .kbit_prepare = "off",
    .schedule = "cosine",
    .device = "cpu",
    .rank_timeout = 600, /* as PyTorch's NCCL waits */
    .gather = "op",
    .reduce = "auto",
    .pipeline = "1f1b",
    .ranks = {.size = 1, .tensor = 1, .stages = 1, .replicas = 1, .strategy = RANKS_DDP},
    .accumulate = 1,
    .warmup = -1,
    .lr = -1,
    .weight_decay = -1,
    .clip = -1,
    .dropout = -1,
    .tokens = 100,
    .temperature = 0.8f,
    .top_p = 1,
    .reserve = UINT64_C(1) << 30,
    .seed = 1};

/* The commands that take it, with this between. */
CommandsText commands_text(const Flag *flag, const char *between, const char *last)
{
    CommandsText out = {""};
    size_t used = 0;
    for (const char *at = flag->only; at && *at && used < sizeof out.text; at += strspn(at, " ")) {
        int length = (int)strcspn(at, " ");
        const char *join = !used ? "" : at[length] ? between : last;
        used += (size_t)snprintf(out.text + used, sizeof out.text - used, "%s%.*s", join, length, at);
        at += length;
    }
    return out;
}

const Flag *flag_at(int i)
{
    return i >= 0 && i < FLAG_COUNT ? &flags[i] : NULL;
}

/* ---- Values as text -------------------------------------------------------------------------- */

const Flag *find_flag(const char *name, size_t length)
{
    for (int i = 0; i < FLAG_COUNT; i++)
        if (strlen(flags[i].name) == length && !strncmp(flags[i].name, name, length))
            return &flags[i];
    return NULL;
}

static const void *value_of(const char *name, const Options *options, const Flag **flag)
{
    *flag = find_flag(name, strlen(name));
    return (const char *)options + (*flag)->offset;
}

int flag_is_switch(const char *name)
{
    return find_flag(name, strlen(name))->kind == FLAG_SWITCH;
}

int flag_number(const char *name, const Options *options, int64_t *out)
{
    const Flag *flag;
    const void *value = value_of(name, options, &flag);
    int is_int = flag->kind == FLAG_INT || flag->kind == FLAG_SWITCH;
    if (is_int)
        *out = *(const int *)value;
    else if (flag->kind == FLAG_INT64)
        *out = *(const int64_t *)value;
    else if (flag->kind == FLAG_SIZE || flag->kind == FLAG_SEED)
        *out = (int64_t) * (const uint64_t *)value;
    else
        return 0;
    return 1;
}

/* Below zero a number stands for one that was not given. */
LeverText flag_text(const char *name, const Options *options)
{
    LeverText out = {""};
    const Flag *flag;
    const void *value = value_of(name, options, &flag);
    int64_t number = -1;
    const char *text = NULL;
    if (flag->kind == FLAG_CHECKPOINT)
        return checkpoint_text(value);
    if (flag->kind == FLAG_TEXT || flag->kind == FLAG_NAME)
        text = *(const char *const *)value;
    else if (flag->kind == FLAG_ATTENTION)
        text = attention_names[*(const AttentionKind *)value];
    else if (flag->kind == FLAG_ZERO_GRAD)
        text = zero_grad_names[*(const int *)value];
    else if (flag->kind == FLAG_WEIGHTS)
        text = weights_name(*(const DType *)value);
    else if (flag->kind == FLAG_QUANTIZE)
        text = quantize_name(*(const DType *)value);
    else if (flag->kind == FLAG_PARALLEL)
        text = ranks_strategy_name(*(const RankStrategy *)value);
    if (text)
        snprintf(out.text, sizeof out.text, "%s", text);
    else if (flag->kind == FLAG_FLOAT && *(const float *)value >= 0)
        snprintf(out.text, sizeof out.text, "%.9g", (double)*(const float *)value);
    else if (flag_number(name, options, &number) && number >= 0)
        snprintf(out.text, sizeof out.text, "%" PRId64, number);
    return out;
}

LeverText flag_typed(const char *name, const Options *options)
{
    LeverText out, value = flag_text(name, options);
    if (flag_is_switch(name))
        value.text[0] = '\0';
    snprintf(out.text, sizeof out.text, "%s%s%.1100s", name, value.text[0] ? " " : "", value.text);
    return out;
}

int flag_given(const char *name, const Options *options)
{
    LeverText value = flag_text(name, options), usual = flag_text(name, &options_default);
    return value.text[0] && strcmp(value.text, "0") != 0 && strcmp(value.text, usual.text) != 0;
}

int flag_set(Options *options, const char *name, const char *value)
{
    const Flag *flag = find_flag(name, strlen(name));
    return parse_value(flag, (char *)options + flag->offset, value);
}
