/* --framework pytorch: which options mean something to a job of PyTorch, and the job that they are. */
#include "pytorch.h"

#include <string.h>

#include "levers_.h"
#include "lora.h"

int pytorch_framework(const Options *o)
{
    return !strcmp(o->framework, "pytorch");
}

int pytorch_is_mixed(const Options *o)
{
    return !strcmp(o->precision, "bf16-mixed") && o->ranks.size > 1 && o->parallel_typed &&
           !strcmp(o->parallel_typed, "fsdp");
}

int pytorch_alone(const Options *o, const char *command)
{
    static const char *const frameworks[] = {"brim", "pytorch", NULL};
    int found;
    if (parse_choice("--framework", "brim, pytorch", o->framework, frameworks, &found))
        return 1;
    if (o->attention_typed && !strcmp(o->attention_typed, "sdpa"))
        return usage(
            "--attention sdpa is PyTorch's, of --framework pytorch; brim's own, which keeps as little, is "
            "--attention flash");
    if (!strcmp(command, "fit") && (flag_given("--ranks", o) || flag_given("--parallel", o)))
        return usage("%s belongs to `brim plan`, `brim train`, and `brim fit --framework pytorch`; `brim fit "
                     "--cards 2,8` shows what several cards train together",
                     flag_given("--ranks", o) ? "--ranks" : "--parallel");
    if (o->html)
        return usage(
            "--html is of --framework pytorch; of brim's own, `brim plan --log FILE` writes a log, and "
            "`brim report FILE --html PAGE` its page");
    if (!strcmp(command, "plan") && o->reserve_typed)
        return usage("--reserve belongs to `brim fit`, and to --framework pytorch, whose context it is");
    if (o->checkpoint.reentrant)
        return usage(
            "--checkpoint reentrant is PyTorch's, of --framework pytorch; brim's is --checkpoint blocks");
    return 0;
}

/* ---- What means nothing ---------------------------------------------------------------------- */

/* What it takes: those that say something about the job, and those that change no memory anywhere. */
static const char taken[] =
    " --framework --versions --script --kbit-prepare --hold-outputs --longest "
    "--evaluate --eval-accumulation --metrics --alloc-conf --model --lora --vocab --batch --seq "
    "--accumulate --optimizer --clip --dropout --checkpoint --attention --weights "
    "--quantize --precision --budget "
    "--data --tokenizer --max-samples --invalid-utf8 "
    "--card --memory --reserve --html --json --lr --weight-decay --schedule --warmup "
    "--steps --epochs --seed --threads --ranks --parallel --no-sync ";

static const struct {
    const char *flags, *why;
} refused[] = {
    {" --init ", "no weights are read: --model takes the config.json, or its directory"},
    {" --init-partial --resize-vocab ", "no weights are read: --vocab N says how many tokens there are"},
    {" --adapter ", "no adapter is read: --lora r=16,targets=q_proj,v_proj says what it is"},
    {" --loss-chunk --skip-unlabelled ",
     "transformers' loss computes all logits at once; the chunks of Liger and Unsloth are not predicted"},
    {" --optimizer-in-backward ", "torch.optim updates when backward is done"},
    {" --zero-grad ", "zero_grad() frees the gradients there, as it does by default"},
    {" --accumulate-apart --grad-dtype --rounding ",
     "gradients are added in place there, and have the type of their parameters"},
    {" --loss-scale ", "the GradScaler of --precision fp16-autocast takes the same memory for every scale"},
    {" --replicas --replicate-below ",
     "FSDP2 divides among all ranks there; its replicas (HSDP) are not predicted"},
    {" --tensor --sequence-parallel --stages --pipeline ",
     "ranks share the data by DDP or FSDP2 there; layers that ranks compute together and stages of layers "
     "are not predicted"},
    {" --reduce --gather ", "NCCL adds and sends there"},
    {" --rank --cards ", "one rank is predicted, and the others need no more"},
    {" --device --no-graph ", "its job is always one of a CUDA card: --card NAME says which"},
    {" --inference --prefill ", "a training is predicted"},
    {" --textbook ", "the rules of thumb are beside brim's own plan: `brim plan --textbook`"},
    {" --log ", "a log is of brim's own plan"},
    {" --pack ", "packed rows bring position ids and masks of their own, which are not predicted"},
};

static int check_taken(const Assignments *all)
{
    for (int i = 0; i < all->count; i++) {
        const char *flag = all->item[i].flag->name;
        char word[40];
        snprintf(word, sizeof word, " %.36s ", flag);
        if (strstr(taken, word))
            continue;
        for (size_t k = 0; k < sizeof refused / sizeof refused[0]; k++)
            if (strstr(refused[k].flags, word))
                return usage("%s means nothing beside --framework pytorch: %s", flag, refused[k].why);
        return usage("%s means nothing beside --framework pytorch", flag);
    }
    return 0;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static const PytorchChoice precisions[] = {
    {" fp32 ", PYTORCH_FP32, "fp32", "fp32"},
    {" bf16 ", PYTORCH_BF16, "bf16", "bf16"},
    {" fp16 ", PYTORCH_FP16, "fp16", NULL},
    {" bf16-autocast ", PYTORCH_AUTOCAST_BF16, "bf16-autocast", "bf16-autocast"},
    {" fp16-autocast ", PYTORCH_AUTOCAST_FP16, "fp16-autocast", "fp16-autocast"},
    {" bf16-mixed ", PYTORCH_FP32, "bf16-mixed", "bf16-mixed"}, /* FSDP2's MixedPrecisionPolicy */
};
static const PytorchChoice optimizers[] = {
    {" adamw adamw_torch ", PYTORCH_ADAMW, "AdamW, foreach", "adamw"},
    {" adamw-fused adamw_torch_fused ", PYTORCH_ADAMW_FUSED, "AdamW, fused", "adamw"},
    {" adamw-single ", PYTORCH_ADAMW_SINGLE, "AdamW, a tensor at a time", "adamw"},
    {" sgd ", PYTORCH_SGD, "SGD", "sgd"},
    {" sgd-momentum ", PYTORCH_SGD_MOMENTUM, "SGD with momentum", "sgd-momentum"},
    {" adamw-8bit adamw8bit adamw_8bit adamw_bnb_8bit ", PYTORCH_ADAMW_8BIT, "8-bit AdamW", "adamw8bit"},
    {" paged-adamw-8bit paged-adamw8bit paged_adamw_8bit ", PYTORCH_ADAMW_8BIT_PAGED, "paged 8-bit AdamW",
     "adamw8bit"},
};
static const PytorchChoice scripts[] = {
    {" trainer ", PYTORCH_TRAINER, "Trainer", ""},
    {" loop ", PYTORCH_LOOP, "a plain loop", ""},
};

#define COUNT_OF(rows) (int)(sizeof(rows) / sizeof(rows)[0])

static const PytorchChoice *choose(const PytorchChoice *rows, int count, const char *text)
{
    char word[48];
    snprintf(word, sizeof word, " %.40s ", text);
    for (int i = 0; i < count; i++)
        if (strstr(rows[i].names, word))
            return &rows[i];
    return NULL;
}

/* Others' names for what is near, and why it is not predicted. */
static const struct {
    const char *flag, *values, *why;
} unpredicted[] = {
    {"--precision", " tf32 ", "TF32 is how products of fp32 are computed: the memory is that of fp32"},
    {"--precision", " bf16-mixed fp16-mixed ",
     "16-bit weights beside fp32 masters are DeepSpeed's and Megatron's, and bf16-mixed FSDP2's, of --ranks "
     "N --parallel fsdp; PyTorch's own way is bf16-autocast or fp16-autocast"},
    {"--precision", " bf16-states32 ",
     "fp32 states beside bf16 weights are Megatron's; with PyTorch's optimizers "
     "states have the type of the weights: bf16"},
    {"--attention", " flash ",
     "the flash-attn package is not predicted; sdpa takes PyTorch's own flash kernel"},
    {"--script", " compile torch.compile ",
     "torch.compile is not predicted: it makes kernels of its own, that "
     "depend on the machine"},
    {"--script", " liger ", "Liger's kernels are not predicted"},
    {"--script", " unsloth ", "Unsloth's kernels are not predicted"},
    {"--script",
     " dpo ppo grpo kto orpo rlhf rloo reward dpotrainer ppotrainer grpotrainer ktotrainer rewardtrainer ",
     "trainers of reinforcement learning are not predicted: their batches pass through several models"},
    {"--script", " sft sfttrainer ",
     "TRL's SFTTrainer is not predicted by this name: it is transformers' Trainer, with "
     "what is typed here; --script trainer"},
    {"--script", " accelerate lightning axolotl llamafactory torchtune deepspeed fsdp ddp ",
     "another library's loop is not predicted; a script of one's own is --script loop"},
};

static int not_one_of(const char *flag, const char *text, const PytorchChoice *rows, int count)
{
    char word[48];
    SayLine names = {""};
    snprintf(word, sizeof word, " %.40s ", text);
    for (size_t i = 0; i < sizeof unpredicted / sizeof unpredicted[0]; i++)
        if (!strcmp(unpredicted[i].flag, flag) && strcasestr(unpredicted[i].values, word))
            return usage("%s %s: %s", flag, text, unpredicted[i].why);
    for (int i = 0; i < count; i++)
        line_add(&names, "%s%.*s", i ? ", " : "", (int)strcspn(rows[i].names + 1, " "), rows[i].names + 1);
    return usage("%s must be one of %s beside --framework pytorch, not '%s'", flag, names.text, text);
}

static const char *weights_of_precision(const Options *o)
{
    return !strcmp(o->precision, "bf16") ? "bf16" : !strcmp(o->precision, "fp16") ? "fp16" : "fp32";
}

/* Where one of the two is typed it says both. */
static int settle_types(Options *o)
{
    if (o->weights_typed && !o->precision_typed)
        o->precision = weights_name(o->weights);
    const PytorchChoice *precision = choose(precisions, COUNT_OF(precisions), o->precision);
    if (!precision || (!strcmp(o->precision, "bf16-mixed") && !pytorch_is_mixed(o)))
        return not_one_of("--precision", o->precision, precisions, COUNT_OF(precisions));
    const char *usual = weights_of_precision(o);
    if (!o->weights_typed)
        return parse_weights(usual, &o->weights);
    int autocast = precision->value == PYTORCH_AUTOCAST_BF16 || precision->value == PYTORCH_AUTOCAST_FP16;
    if (strcmp(usual, weights_name(o->weights)) != 0 && !autocast)
        return usage(
            "--weights %s excludes --precision %s, which computes in the weights' type: leave one out, or "
            "take bf16-autocast or fp16-autocast",
            weights_name(o->weights), o->precision);
    return 0;
}

/* DeepSpeed's names for what ranks divide are not FSDP's. */
static int check_ranks_of_pytorch(const Options *o)
{
    int named =
        o->parallel_typed && (!strcmp(o->parallel_typed, "ddp") || !strcmp(o->parallel_typed, "fsdp"));
    if (o->parallel_typed && !named)
        return usage("--parallel %s is DeepSpeed's ZeRO, which is not predicted: ddp is "
                     "DistributedDataParallel, fsdp is FSDP2's fully_shard",
                     o->parallel_typed);
    if (o->parallel_typed && o->ranks.size < 2 && strcmp(o->parallel_typed, "ddp") != 0)
        return usage("--parallel %s needs --ranks N: one process divides nothing", o->parallel_typed);
    if (o->no_sync && o->ranks.size < 2)
        return usage("--no-sync needs --ranks N: one process has nobody to add gradients with");
    if (o->no_sync && !strcmp(o->script, "trainer"))
        return usage("--no-sync is for --script loop: Trainer always adds the gradients of the ranks in the "
                     "last micro-batch alone");
    return 0;
}

static int check_checkpoint(const Options *o)
{
    const CheckpointChoice *c = &o->checkpoint;
    if (c->selective || c->automatic || c->found.pattern[0] || c->every > 1)
        return usage(
            "--checkpoint %s is brim's: transformers recomputes every layer (blocks; reentrant: with "
            "use_reentrant=True), or none",
            checkpoint_text(c).text);
    return 0;
}

/* What --versions says of it, "torch"; "" where it says nothing. */
static LeverText wanted_version(const Options *o, const char *of)
{
    size_t named = strlen(of);
    for (const char *at = o->versions ? o->versions : ""; *at;
         at += strcspn(at, ",") + (at[strcspn(at, ",")] != 0))
        if (!strncmp(at, of, named) && at[named] == '=')
            return lever_say("%.*s", (int)(strcspn(at, ",") - named) - 1, at + named + 1);
    return (LeverText){""};
}

/* 2.15 is what 2.15.1+cu130 is of. */
static int is_version(LeverText wanted, const char *version)
{
    size_t length = strlen(version);
    return !wanted.text[0] || (!strncmp(wanted.text, version, length) &&
                               (!wanted.text[length] || strchr(".+", wanted.text[length])));
}

static const PytorchDialect *dialect_of(const Options *o)
{
    for (int i = 0; estimate_pytorch_dialect_at(i); i++) {
        const PytorchDialect *row = estimate_pytorch_dialect_at(i);
        PytorchVersions v = estimate_pytorch_versions(row);
        if (is_version(wanted_version(o, "torch"), v.torch) &&
            is_version(wanted_version(o, "transformers"), v.transformers))
            return row;
    }
    return NULL;
}

/* Each of its parts is a name and a version. */
static int is_form(const char *versions)
{
    for (const char *at = versions; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] != 0)) {
        const char *number = !strncmp(at, "torch=", 6)           ? at + 6
                             : !strncmp(at, "transformers=", 13) ? at + 13
                                                                 : "";
        if (*number < '0' || *number > '9')
            return 0;
    }
    return 1;
}

static int check_versions(const Options *o)
{
    SayLine known = {""};
    if (!o->versions)
        return 0;
    if (!is_form(o->versions))
        return usage("--versions takes torch=N, transformers=N, or both with a comma between, not '%s'",
                     o->versions);
    if (dialect_of(o))
        return 0;
    for (int i = 0; estimate_pytorch_dialect_at(i); i++) {
        PytorchVersions v = estimate_pytorch_versions(estimate_pytorch_dialect_at(i));
        line_add(&known, "%storch=%s,transformers=%s", i ? "; " : "", v.torch, v.transformers);
    }
    return usage("--versions %s: there are no rules for these; there are for %s", o->versions, known.text);
}

const PytorchDialect *pytorch_dialect(const Options *o)
{
    return dialect_of(o);
}

const PytorchChoice *pytorch_precision(const Options *o)
{
    return choose(precisions, COUNT_OF(precisions), o->precision);
}

const PytorchChoice *pytorch_optimizer(const Options *o)
{
    return choose(optimizers, COUNT_OF(optimizers), o->optimizer);
}

const PytorchChoice *pytorch_script(const Options *o)
{
    return choose(scripts, COUNT_OF(scripts), o->script);
}

int pytorch_allocator(const Options *o, const Card *card, PytorchAllocatorOptions *out)
{
    char why[300];
    *out = (PytorchAllocatorOptions){.total = card ? card->bytes : 0,
                                     .as_2_6 = estimate_pytorch_old_allocator(dialect_of(o))};
    if (!o->alloc_conf || !estimate_pytorch_settings(o->alloc_conf, out, why, sizeof why))
        return 0;
    return usage("--alloc-conf: %s", why);
}

int pytorch_check(Options *o, const Assignments *all)
{
    static const char *const switches[] = {"off", "on", NULL};
    int found;
    if (check_taken(all) || check_ranks_of_pytorch(o) || settle_types(o) || check_checkpoint(o) ||
        check_versions(o))
        return EXIT_USAGE;
    if (!choose(optimizers, COUNT_OF(optimizers), o->optimizer))
        return not_one_of("--optimizer", o->optimizer, optimizers, COUNT_OF(optimizers));
    if (!choose(scripts, COUNT_OF(scripts), o->script))
        return not_one_of("--script", o->script, scripts, COUNT_OF(scripts));
    if (o->attention_typed && !strcmp(o->attention_typed, "flash"))
        return not_one_of("--attention", "flash", NULL, 0);
    if (parse_choice("--kbit-prepare", "off, on", o->kbit_prepare, switches, &found))
        return EXIT_USAGE;
    PytorchAllocatorOptions allocator;
    if (pytorch_allocator(o, NULL, &allocator))
        return EXIT_USAGE;
    if (o->quantized && !o->lora)
        return usage("--quantize %s needs --lora r=16,alpha=32: quantised weights are not trained",
                     quantize_name(o->quantized));
    if (found && !o->quantized)
        return usage("--kbit-prepare on needs --quantize: PEFT prepares models of quantised weights");
    if ((o->eval_accumulation || o->metrics) && !o->evaluate)
        return usage("%s needs --evaluate N: how many batches are evaluated",
                     o->metrics ? "--metrics" : "--eval-accumulation");
    if (o->weight_decay > 0 && !strncmp(o->optimizer, "sgd", 3))
        return usage("--weight-decay beside --optimizer %s is not predicted: it copies the gradients",
                     o->optimizer);
    return 0;
}
