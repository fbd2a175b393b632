/* brim help: commands on one screen, a page for each command and for each group of options, and the glossary.
 * The manual page docs/brim.1 and the completions in tools/completion say the same; tests/test_docs.sh
 * compares them. */
#include <string.h>

#include "../base/nearest_.h"
#include "flags_.h"

typedef struct Help {
    const char *name, *summary, *text;
    const char *flags; /* those of the options that matter to it, separated by spaces */
    const char *examples;
    void (*more)(FILE *out); /* prints options of its own */
} Help;

/* What the need of a training depends on. */
#define SHAPE_FLAGS                                                                                          \
    "--model --init --init-partial --resize-vocab --lora --adapter --data --pack --invalid-utf8 "            \
    "--tokenizer --vocab --batch --seq "                                                                     \
    "--accumulate --accumulate-apart --steps --epochs "                                                      \
    "--optimizer "                                                                                           \
    "--dropout --checkpoint "                                                                                \
    "--optimizer-in-backward --zero-grad --loss-chunk --skip-unlabelled --attention --precision "            \
    "--grad-dtype --rounding --loss-scale --weights --quantize --threads --device --max-samples"
#define NEED_FLAGS SHAPE_FLAGS " --budget"
#define TRAIN_FLAGS                                                                                          \
    NEED_FLAGS " --lr --weight-decay --schedule --warmup --clip --seed --every --evaluate-every --sample "   \
               "--prompt --log --json --quiet --no-graph"

#define PYTORCH_FLAGS                                                                                        \
    " --framework --versions --script --kbit-prepare --hold-outputs --no-sync --evaluate "                   \
    "--eval-accumulation --metrics --longest --alloc-conf"
#define RANKS_FLAGS                                                                                          \
    " --ranks --parallel --replicas --replicate-below --reduce --tensor --sequence-parallel --gather"

static const Help pages[] = {
    {"train", "plan, then train, then show planned beside measured memory",
     "Runs the training once without data, to plan every allocation, and refuses to\n"
     "start what does not fit. Then it trains in exactly the memory that was planned.\n"
     "The table at the end shows planned beside measured bytes by component at the\n"
     "peak, and how the sum of the textbook differs from it. On a terminal a panel\n"
     "shows the components, the loss and the time left; elsewhere a line is printed\n"
     "now and then.\n"
     "With --save the run is saved as it goes. --resume continues it as if it had\n"
     "never stopped; with --save of the same directory a run is started where there\n"
     "is none. SIGINT and SIGTERM stop it between two steps, saved; a second signal\n"
     "stops it at once.\n"
     "With --ranks several processes train one model, over MPI: started by mpirun, or\n"
     "by the command itself. --batch is that of each.",
     TRAIN_FLAGS RANKS_FLAGS " --stages --pipeline --rank-timeout --transport --check-data "
                             "--export --merge --export-adapter "
                             "--overwrite --export-dtype --export-shard "
                             "--save --save-every --keep --resume",
     .examples = "  brim train --steps 100                   the built-in corpus, a tiny LLaMA\n"
                 "  brim train --model mlp --data fashion-mnist --epochs 3\n"
                 "  brim train --checkpoint auto --budget 150MiB --log run.jsonl\n"
                 "  brim train --save run --resume run       again and again, until it is done\n"},
    {"plan", "what a training would need, and where, without running it",
     "The tables of a training without the training: memory by component and by\n"
     "layer, the ten largest tensors at the peak, and where the peak is. It takes\n"
     "milliseconds to seconds, for models of any size. With --budget the exit code\n"
     "says whether it fits. --textbook compares the rules of thumb with the plan.\n"
     "--inference plans inference instead of training: weights, cache and workspace.\n"
     "--framework pytorch predicts what PyTorch and transformers would need instead,\n"
     "allocation by allocation, beside brim's own plan (docs/pytorch.md).",
     NEED_FLAGS RANKS_FLAGS
     " --stages --pipeline --rank --card --textbook --inference --prefill --approximate "
     "--log --json --reserve --html" PYTORCH_FLAGS,
     .examples = "  brim plan llama-3.1-8b --seq 4096\n"
                 "  brim plan llama-3.1-8b --lora r=16,alpha=32 --weights bf16 --quantize nf4\n"
                 "  brim plan --model gpt2 --batch 8 --checkpoint blocks --budget 8GiB\n"
                 "  brim plan --ranks 4 --stages 4 --accumulate 6 --log plan.jsonl\n"
                 "  brim plan llama-3.1-8b --ranks 8 --parallel zero3 --checkpoint blocks\n"
                 "  brim plan llama-3.2-1b --framework pytorch --precision bf16 --card l4\n"},
    {"compare", "what each lever saves; or each combination of --batch 1,2,4",
     "Plans the training as it is and with each lever at the same effective batch:\n"
     "what it saves at the peak, and what it costs in operations. Where options are\n"
     "comma lists, every combination is a row instead. --run also trains each row\n"
     "for some steps in a process of its own, and shows measured beside planned.\n"
     "--budget marks the rows that fit. With --ranks the rows divide more and more.\n"
     "--four-ways plans full fp32 training, 16-bit mixed, LoRA on bf16 and QLoRA of\n"
     "one model, beside what is taught about them, and four models on five cards.",
     NEED_FLAGS RANKS_FLAGS
     " --card --inference --prefill --run --no-graph --four-ways --approximate --csv --json",
     .examples = "  brim compare --model gpt2 --batch 8\n"
                 "  brim compare --four-ways --model llama-3.1-8b\n"
                 "  brim compare --batch 1,2,4,8 --checkpoint none,blocks --run 5\n"},
    {"fit", "which levers fit which card: largest batch, longest sequence",
     "First what fits each card at the least cost. Then for each lever, alone and\n"
     "together, and each card: whether the training fits, up to which batch and up to\n"
     "which sequence length. Every cell is planned, not estimated. --card takes names\n"
     "that `brim gpus` lists, --memory takes sizes. --cards 2,8 shows instead what\n"
     "several cards together train: zero1 to zero3, tensor, stages, each rank planned.\n"
     "--framework pytorch says the same of a job of PyTorch and transformers.",
     SHAPE_FLAGS
     " --card --cards --tensor --stages --pipeline --inference --prefill --memory --reserve --approximate "
     "--json --ranks --parallel" PYTORCH_FLAGS,
     .examples = "  brim fit --model llama-3.2-1b --seq 2048\n"
                 "  brim fit --model gpt2 --card t4,rtx-4090 --memory 12GiB\n"
                 "  brim fit --model llama-2-13b --cards 1,2,4,8 --card a100-80\n"
                 "  brim fit llama-3.2-1b --framework pytorch --precision bf16\n"},
    {"generate", "continue a prompt; what inference needs",
     "Plans, then writes token by token with a key-value cache, and shows what that\n"
     "took: weights, cache and workspace, planned beside measured. --batch writes\n"
     "several texts at once. --seq is how many tokens the cache holds; when it is\n"
     "full, its newer half is read again. A text ends at --tokens, or at the end token\n"
     "of the model's generation_config.json.",
     "--model --init --init-partial --adapter --weights --quantize --tokenizer --vocab --batch --seq "
     "--prompt --tokens --temperature --top-k --top-p --prefill --ignore-eos "
     "--seed --threads --tensor --device --no-graph --budget --json",
     .examples = "  brim generate --model gpt2-tiny --prompt The --tokens 50\n"
                 "  brim generate --temperature 0.7 --top-p 0.9 --batch 2\n"},
    {"demo", "train, compare levers, and say what to try next",
     "Trains, lets the model write a few words, and shows what each lever would\n"
     "save. It takes about a minute.",
     TRAIN_FLAGS,
     .examples = "  brim demo\n"
                 "  brim demo --steps 50 --budget 1GiB\n"},
    {"models", "models known by name",
     "The values of --model, with their parameters and usual batch and sequence.\n"
     "--model also takes a name as it is on the hub, and the path of a Hugging Face\n"
     "config.json or of its directory.",
     "--json",
     .examples = "  brim models\n"
                 "  brim plan --model ./config.json --seq 1024\n"},
    {"gpus", "cards known by name, and those of this machine",
     "The values of --card, with the memory that the driver reports, which is less\n"
     "than is printed on the box; and which cards this machine has, with what the\n"
     "driver, the kernels and cuBLAS take of each.",
     "--json",
     .examples = "  brim gpus\n"
                 "  brim fit --model gpt2 --card h100\n"},
    {"tokenize", "train a tokenizer; encode or decode text",
     "Byte-level BPE is trained on a text as the Python package tokenizers does it.\n"
     "tokenizer.json files of GPT-2, Llama, Mistral, Qwen2 and BERT are read.",
     "",
     .examples = "  brim tokenize --train kjv.txt --vocab 4096 --out tokenizer.json\n"
                 "  brim tokenize --tokenizer tokenizer.json kjv.txt -o kjv.bin\n",
     .more = tokenize_help},
    {"report", "summarise the log of a run, or export it as a page",
     "Reads the log that `brim train --log RUN.jsonl` or `brim plan --log` wrote, and\n"
     "with it those of the other ranks of its run, which lie beside it. Without an\n"
     "output it prints a summary, of two logs what they differ in and what that\n"
     "changed. It names what a log has lost. --html takes one log or two.\n"
     "A memory snapshot of PyTorch (torch.cuda.memory._dump_snapshot) is shown the\n"
     "same way; nothing in it is executed. --predict OPTIONS, last, lays beside it\n"
     "what `plan --framework pytorch OPTIONS` predicts, and names the first event that\n"
     "differs.",
     "--json",
     .examples = "  brim train --steps 20 --log run.jsonl\n"
                 "  brim report plain.jsonl recomputed.jsonl\n"
                 "  brim report run.jsonl --html run.html\n"
                 "  brim report plain.jsonl recomputed.jsonl --html both.html\n"
                 "  brim report snapshot.pickle --predict gpt2 --batch 4 --script loop\n",
     .more = report_outputs_help},
    {"help", "the page of a command or of a group below; or `words`",
     "Without a name: the commands, and the groups of options. With the name of one\n"
     "of them: its page, with defaults in parentheses. `brim help options` prints all\n"
     "options, `brim help words` what brim's words mean and what PyTorch calls them.",
     "", .examples = "  brim help compare\n  brim help levers\n  brim help words\n"},
    {"version", "the version, and the library for matrix products",
     "The version of the command and its library; the library that computes matrix\n"
     "products, and its file; and the instruction set of all other kernels.",
     "", .examples = "  brim version\n"},
};
enum { PAGE_COUNT = sizeof pages / sizeof pages[0] };

/* Every option is in one group. */
typedef struct Group {
    const char *name, *summary, *flags;
} Group;

static const Group groups[] = {
    {"model", "the model, its weights and its tokenizer",
     "--model --approximate --init --init-partial --resize-vocab --lora --adapter --vocab --tokenizer "
     "--dropout"},
    {"data", "what it is trained on, and how much at once",
     "--data --pack --invalid-utf8 --check-data --batch --seq --accumulate "
     "--accumulate-apart --max-samples"},
    {"training", "steps, optimizer, learning rate, threads, ranks",
     "--steps --epochs --optimizer --lr --schedule --warmup --weight-decay --clip --seed --threads --device "
     "--no-graph" RANKS_FLAGS " --stages --pipeline --rank --rank-timeout --transport"},
    {"levers", "what saves memory, and the limits to stay below",
     "--checkpoint --optimizer-in-backward --loss-chunk --skip-unlabelled --zero-grad --attention "
     "--precision "
     "--grad-dtype --rounding --loss-scale --weights --quantize --budget --card --cards --memory --reserve"},
    {"saving", "saved runs, and weights for other programs",
     "--save --save-every --keep --resume --export --merge --export-adapter --overwrite --export-dtype "
     "--export-shard"},
    {"output", "what is printed, logged and written by the model",
     "--every --evaluate-every --quiet --json --csv --log --run --four-ways --textbook --inference "
     "--prefill --sample "
     "--prompt --tokens --temperature --top-k --top-p --ignore-eos --html" PYTORCH_FLAGS},
};
enum { GROUP_COUNT = sizeof groups / sizeof groups[0] };

/* ---- Printing -------------------------------------------------------------------------------- */

/* Padded by what is seen: a value may hold an ellipsis, one column of three bytes. */
static void print_flag(FILE *out, const Flag *flag, int with_commands)
{
    enum { LEFT = 24 };
    int columns = fprintf(out, "  %s %s", flag->name, flag->value ? flag->value : "") - 2;
    for (const char *c = flag->value; c && *c; c++)
        columns -= ((unsigned char)*c & 0xc0) == 0x80;
    fprintf(out, "%*s %s", columns < LEFT ? LEFT - columns : 0, "", flag->help);
    if (with_commands && flag->only)
        fprintf(out, " [%s]", commands_text(flag, ", ", ", ").text);
    fputc('\n', out);
}

static void print_flags(FILE *out, const char *names, int with_commands)
{
    for (const char *at = names; *at; at += *at == ' ') {
        size_t length = strcspn(at, " ");
        for (int i = 0; flag_at(i); i++)
            if (strlen(flag_at(i)->name) == length && !strncmp(flag_at(i)->name, at, length))
                print_flag(out, flag_at(i), with_commands);
        at += length;
    }
}

static void print_page(FILE *out, const Help *page)
{
    fprintf(out, "brim %s: %s\n\n%s\n", page->name, page->summary, page->text);
    if (page->flags[0])
        fprintf(out, "\noptions (default):\n");
    print_flags(out, page->flags, 0);
    if (page->more)
        page->more(out);
    fprintf(out, "\nexamples:\n%s", page->examples);
}

static void print_group(FILE *out, const Group *group)
{
    fprintf(out, "%s: %s\n", group->name, group->summary);
    print_flags(out, group->flags, 1);
}

static int is_listed(const char *names, const char *flag)
{
    size_t length = strlen(flag);
    const char *at = names;
    while ((at = strstr(at, flag)) && at[length] != ' ' && at[length] != '\0')
        at += length;
    return at != NULL;
}

/* One that no group names would be nowhere; here the tests of the manual page find it. */
static void print_ungrouped(FILE *out)
{
    for (int i = 0; flag_at(i); i++) {
        int found = 0;
        for (int k = 0; k < GROUP_COUNT; k++)
            found |= is_listed(groups[k].flags, flag_at(i)->name);
        if (!found)
            print_flag(out, flag_at(i), 1);
    }
}

static void print_options(FILE *out)
{
    for (int i = 0; i < GROUP_COUNT; i++) {
        print_group(out, &groups[i]);
        fputc('\n', out);
    }
    print_ungrouped(out);
    fprintf(out, "In parentheses: the default. In brackets: the commands, if not all take it.\n"
                 "A step takes batch x accumulate samples. SIZE: bytes, or as in 1.5GiB.\n"
                 "Exit codes: 0 done or fits, 1 failed or does not fit, 2 bad usage,\n"
                 "130 and 143 stopped by SIGINT or SIGTERM after a whole step.\n");
}

/* docs/glossary.md without its markup. */
static void print_words(FILE *out)
{
    static const unsigned char text[] = {
#include "cli/glossary.inc"
    };
    for (size_t i = 0; i < sizeof text; i++)
        if (text[i] != '*' && text[i] != '`' && text[i] != '#')
            fputc(text[i], out);
        else if (text[i] == '#' && i + 1 < sizeof text && text[i + 1] == ' ')
            i++;
}

void help_all(FILE *out)
{
    fprintf(out,
            "brim %s trains small language models and accounts for every byte of memory.\n"
            "usage: brim COMMAND [OPTIONS]\n\n",
            BRIM_VERSION);
    for (int i = 0; i < PAGE_COUNT; i++)
        fprintf(out, "  %-10s %s\n", pages[i].name, pages[i].summary);
    fprintf(out, "\noptions, the same in every command (`brim help GROUP` explains them):\n");
    for (int i = 0; i < GROUP_COUNT; i++)
        fprintf(out, "  %-10s %s\n", groups[i].name, groups[i].summary);
}

/* ---- Finding --------------------------------------------------------------------------------- */

static const char *command_name(int i, const void *user)
{
    (void)user;
    return i < PAGE_COUNT ? pages[i].name : NULL;
}

static const char *page_name(int i, const void *user)
{
    static const char *const others[] = {"options", "words"};
    if (i < PAGE_COUNT)
        return command_name(i, user);
    i -= PAGE_COUNT;
    return i < GROUP_COUNT ? groups[i].name : i - GROUP_COUNT < 2 ? others[i - GROUP_COUNT] : NULL;
}

static int unknown(const char *what, const char *name, const NameList *names)
{
    NearestText near = nearest_text(name, names, "");
    return usage("unknown %s '%s'%s", what, name, near.text[0] ? near.text : "; `brim help` lists them");
}

int takes_page_only(const char *command)
{
    static const char *const strict[] = {"generate", "models", "gpus"};
    for (size_t i = 0; i < sizeof strict / sizeof strict[0]; i++)
        if (!strcmp(strict[i], command))
            return 1;
    return 0;
}

/* A list of flags has this one. */
static int lists_flag(const char *flags, const char *flag)
{
    size_t length = strlen(flag);
    for (const char *at = flags; *at; at += *at == ' ') {
        size_t word = strcspn(at, " ");
        if (word == length && !strncmp(at, flag, length))
            return 1;
        at += word;
    }
    return 0;
}

int page_has(const char *command, const char *flag)
{
    for (int i = 0; i < PAGE_COUNT; i++)
        if (!strcmp(pages[i].name, command))
            return lists_flag(pages[i].flags, flag);
    return 0;
}

int takes_flag(const Flag *flag, const char *command)
{
    if (takes_page_only(command))
        return page_has(command, flag->name);
    size_t length = strlen(command);
    for (const char *at = flag->only; at && *at; at += strspn(at, " ")) {
        if (strcspn(at, " ") == length && !strncmp(at, command, length))
            return 1;
        at += strcspn(at, " ");
    }
    return !flag->only;
}

int unknown_command(const char *name)
{
    if (nn_preset(name))
        return usage("'%s' is a model, not a command: `brim plan %s`", name, name);
    return unknown("command", name, &(NameList){.at = command_name});
}

/* `brim help lora`, or `brim help --lora`. */
static int unknown_page(const char *name)
{
    char flag[64];
    snprintf(flag, sizeof flag, "--%.60s", name + strspn(name, "-"));
    for (int i = 0; i < GROUP_COUNT; i++)
        if (lists_flag(groups[i].flags, flag))
            return usage("%s is an option: `brim help %s` explains it, and what goes with it", flag,
                         groups[i].name);
    return unknown("command or group", name, &(NameList){.at = page_name});
}

int help_page(FILE *out, const char *name)
{
    for (int i = 0; i < PAGE_COUNT; i++)
        if (!strcmp(pages[i].name, name)) {
            print_page(out, &pages[i]);
            return EXIT_DONE;
        }
    for (int i = 0; i < GROUP_COUNT; i++)
        if (!strcmp(groups[i].name, name)) {
            print_group(out, &groups[i]);
            return EXIT_DONE;
        }
    if (!strcmp(name, "options"))
        print_options(out);
    else if (!strcmp(name, "words"))
        print_words(out);
    else
        return unknown_page(name);
    return EXIT_DONE;
}
