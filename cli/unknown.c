/* What is said of an argument that is no option of the command: what it is called here, what there is instead
 * today, or the nearest names. */
#include <string.h>
#include <unistd.h>

#include "../base/ends_.h"
#include "../base/nearest_.h"
#include "flags_.h"

/* Words that people type first, from PyTorch, transformers and other trainers; each with a space behind.
 * Where there is such an option one day, it is found before its row here. */
typedef struct Word {
    const char *words, *answer;
} Word;

static const Word words[] = {
    {"--dtype --mixed-precision --amp --autocast --bf16 --fp16 --fp32 --half --torch-dtype ",
     "training in 16 bit is --precision bf16-mixed, or another of its conventions (docs/precision.md); "
     "weights "
     "that are frozen or only read are stored as --weights says"},
    {"--tf32 --allow-tf32 ", "products in TF32, on a card, are --precision tf32"},
    {"--grad-scaler --loss-scaling --initial-scale --init-scale ",
     "the loss of fp16 is scaled as --loss-scale says"},
    {"--optim-bits --8bit-adam --adam8bit --adamw-8bit --optim ",
     "8-bit states are those of --optimizer adamw8bit or adam8bit"},
    {"--lora-r --lora-rank --lora-alpha --lora-dropout --lora-target-modules --target-modules --peft ",
     "adapters are trained with --lora r=16,alpha=32,dropout=0.05,targets=q_proj,v_proj"},
    {"--adapters --adapter-path --peft-model --lora-path ",
     "an adapter that PEFT saved is read with --adapter DIR"},
    {"--freeze ", "--lora r=16 freezes the model and trains adapters beside it"},
    {"--qlora ", "this is --lora r=16,alpha=32 --weights bf16 --quantize nf4"},
    {"--quantization --quant --load-in-8bit --load-in-4bit --8bit --4bit --int8 --nf4 --bits ",
     "frozen linear layers are stored as --quantize nf4, nf4-plain or int8"},
    {"--gpus --gpu --num-gpus --ngpu --n-gpu ", "several processes are --ranks N, on cards with --device "
                                                "cuda; `brim fit --card NAME` says what fits one card, with "
                                                "--cards N several"},
    {"--nproc-per-node --nproc --num-processes --world-size --dp --data-parallel --nnodes ",
     "several processes that train one model are --ranks N"},
    {"--ranks --rank --parallel --fsdp --ddp --zero --zero-stage --deepspeed --strategy --sharding-strategy ",
     "several processes are --ranks N --parallel ddp, zero1, zero2 or zero3 (fsdp), of `brim plan`, `brim "
     "train` and "
     "`brim compare`"},
    {"--tensor --tensor-parallel --tensor-parallel-size --tp ",
     "ranks that compute a layer together are --tensor T, of --ranks N"},
    {"--sequence-parallel --sp ", "sequence parallel is --sequence-parallel, beside --ranks N --tensor T, of "
                                  "`brim plan`, `brim train` and "
                                  "`brim compare`"},
    {"--stages --pipeline --pipeline-parallel --pipeline-parallel-size --pp --schedule-1f1b ",
     "a pipeline is --ranks N --stages P --pipeline 1f1b or gpipe, of `brim plan` and `brim train`; `brim "
     "fit` takes "
     "--cards N instead of --ranks"},
    {"--context-parallel --context-parallel-size --cp ", "context parallel is not there"},
    {"--expert-parallel --expert-parallel-size --ep ",
     "expert parallel is not there: every rank computes all experts for its own tokens"},
    {"--offload --cpu-offload --offload-optimizer ",
     "nothing is moved off a device today; `brim compare` shows what the levers save"},
    {"--fused-step ", "it is called --optimizer-in-backward since version 0.2"},
    {"--fused --fused-optimizer ",
     "every optimizer is one pass already; --optimizer-in-backward updates in backward"},
    {"--compile --torch-compile ", "brim's kernels are compiled already; there is nothing to turn on"},
    {"--liger --use-liger-kernel --liger-kernel --unsloth ",
     "the kernels of Liger and Unsloth are not predicted by --framework pytorch; brim's own loss in pieces "
     "is "
     "--loss-chunk"},
    {"--pytorch --torch --hf --transformers ",
     "what PyTorch would need is --framework pytorch, of `brim plan` "
     "and `brim fit`"},
    {"--learning-rate --max-lr --peak-lr ", "the learning rate is --lr"},
    {"--batch-size --micro-batch --micro-batch-size --per-device-train-batch-size --bs ",
     "the samples of a micro-batch are --batch"},
    {"--seq-len --seq-length --sequence-length --max-length --max-seq-len --max-seq-length --context "
     "--context-length --block-size --ctx ",
     "the tokens of a sample are --seq"},
    {"--gradient-accumulation-steps --gradient-accumulation --grad-accum --grad-accumulation ",
     "the micro-batches of a step are --accumulate"},
    {"--gradient-checkpointing --activation-checkpointing --recompute --remat ",
     "recomputation is --checkpoint blocks, or --checkpoint selective"},
    {"--max-steps --num-steps --iters --max-iters ", "the number of steps is --steps"},
    {"--num-epochs --num-train-epochs ", "the number of epochs is --epochs"},
    {"--max-grad-norm --grad-clip --gradient-clip ", "the largest gradient norm is --clip"},
    {"--lr-scheduler --lr-schedule --scheduler ", "the course of the learning rate is --schedule"},
    {"--warmup-steps --warmup-ratio ", "the steps of linear warm-up are --warmup"},
    {"--output-dir --output --out ",
     "--save DIR saves a run, --export DIR writes its weights for other programs"},
    {"--model-name --model-name-or-path --pretrained --from-pretrained ",
     "--init DIR starts from trained weights, --model NAME from random ones"},
    {"--max-new-tokens --max-tokens ", "the number of tokens to write is --tokens"},
    {"--train-data --dataset --dataset-path --corpus ", "the data are --data PATH"},
    {"--flash-attention --flash-attn --attn-implementation --sdpa ",
     "this is --attention flash, the default"},
    {"--zero-grad-set-to-none ", "this is --zero-grad free, the default"},
    {"--num-threads --workers --num-workers ", "the number of threads is --threads"},
};

static const char *answer_for(const char *option, size_t length)
{
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        for (const char *at = words[i].words; *at; at += strcspn(at, " ") + 1)
            if (strcspn(at, " ") == length && !strncmp(at, option, length))
                return words[i].answer;
    return NULL;
}

static const char *name_for_command(int i, const void *command)
{
    for (int k = 0; flag_at(k); k++)
        if (takes_flag(flag_at(k), command) && i-- == 0)
            return flag_at(k)->name;
    return NULL;
}

static const char *any_name(int i, const void *user)
{
    (void)user;
    return flag_at(i) ? flag_at(i)->name : NULL;
}

int unknown_option(const char *command, const char *argument)
{
    char option[64];
    size_t length = strcspn(argument, "=");
    snprintf(option, sizeof option, "%.*s", length < sizeof option ? (int)length : 0, argument);
    const char *answer = answer_for(option, strlen(option));
    if (answer)
        return usage("there is no option %s: %s", option, answer);
    NearestText near = nearest_text(option, &(NameList){.at = name_for_command, .user = command}, "");
    if (near.text[0])
        return usage("unknown option '%s'%s", argument, near.text);
    NearestNames other = nearest_names(option, &(NameList){.at = any_name});
    for (int i = 0; other.count && flag_at(i); i++)
        if (!strcmp(flag_at(i)->name, other.name[0]))
            return usage("unknown option '%s'; nearest: %s, which belongs to `brim %s`", argument,
                         other.name[0], commands_text(flag_at(i), "`, `brim ", "` and `brim ").text);
    return usage("unknown option '%s'; `brim help %s` lists them", argument, command);
}

int is_model(const char *name)
{
    IoModel model;
    int found = !io_find_model_near(name, &model); /* whether it is taken is said later */
    error_clear();
    return found;
}

int no_model(const char *command, const char *word)
{
    IoModel model;
    if (!is_directory(word) && access(word, F_OK) == 0 && !text_ends(word, ".json"))
        return usage("'%s' is neither an option nor a model; a text to train on is given with --data %s",
                     word, word);
    io_find_model(word, &model);
    usage("'%s' is not an option (they begin with --), and not a model for `brim %s`: %s", word, command,
          error_message());
    error_clear();
    return EXIT_USAGE;
}
