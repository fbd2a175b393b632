/* brim help: the list of commands and options, and a page for each command. The manual page docs/brim.1 and
 * the completions in tools/completion say the same; tests/test_docs.sh compares them. */
#include <string.h>

#include "cli.h"

typedef struct Help {
    const char *name, *summary, *text;
    const char *flags; /* those of the options that matter to it, separated by spaces */
    const char *examples;
    void (*more)(FILE *out); /* prints options of its own */
} Help;

/* What the need of a training depends on. */
#define SHAPE_FLAGS                                                                                          \
    "--model --init --init-partial --data --tokenizer --vocab --batch --seq --accumulate --steps --epochs "  \
    "--optimizer "                                                                                           \
    "--dropout --checkpoint "                                                                                \
    "--optimizer-in-backward --zero-grad --loss-chunk --attention --threads --device --max-samples"
#define NEED_FLAGS SHAPE_FLAGS " --budget"
#define TRAIN_FLAGS                                                                                          \
    NEED_FLAGS " --lr --weight-decay --schedule --warmup --clip --seed --every --evaluate-every --sample "   \
               "--prompt --log --json --quiet"

static const Help pages[] = {
    {"train", "plan, then train, then show planned beside measured memory",
     "Runs the training once without data, to plan every allocation, and refuses to\n"
     "start what does not fit. Then trains in exactly the memory that was planned,\n"
     "and compares: the table shows planned beside measured bytes by component at\n"
     "the peak, and how the sum of the textbook differs from it. On a terminal a\n"
     "panel shows the components, the loss and the time left while it runs;\n"
     "elsewhere a line is printed now and then. With --save the run is saved as it\n"
     "goes, and --resume goes on with it as if it had never stopped; with both of the\n"
     "same directory it begins where there is none. SIGINT and SIGTERM stop it\n"
     "between two steps, saved; a second signal stops it at once.",
     TRAIN_FLAGS " --export --export-dtype --export-shard --save --save-every --keep --resume",
     .examples = "  brim train --steps 100                   the built-in corpus, a tiny LLaMA\n"
                 "  brim train --model mlp --data fashion-mnist --epochs 3\n"
                 "  brim train --checkpoint auto --budget 150MiB --log run.jsonl\n"
                 "  brim train --save run --resume run       again and again, until it is done\n"},
    {"plan", "the same tables without training, for any size",
     "What a training would need, without running it: by component, by layer, the\n"
     "ten largest tensors at the peak, and where the peak is. Milliseconds to\n"
     "seconds, for models of any size. With --budget the exit code says whether it\n"
     "fits. --textbook compares the rules of thumb with the plan, --inference plans\n"
     "writing instead of training: weights, key-value cache and workspace.",
     NEED_FLAGS " --textbook --inference --prefill --json",
     .examples = "  brim plan --model llama-3.1-8b --seq 4096\n"
                 "  brim plan --model gpt2 --batch 8 --checkpoint blocks --budget 8GiB\n"},
    {"compare", "each lever, or every combination of comma lists: --batch 1,2,4",
     "Plans the training as it is and with each lever at the same effective batch:\n"
     "what it saves at the peak, and what it costs in operations. Where options are\n"
     "comma lists, every combination is a row instead. --run also trains each row\n"
     "for some steps in a process of its own, and shows measured beside planned.",
     NEED_FLAGS " --run --csv --json",
     .examples = "  brim compare --model gpt2 --batch 8\n"
                 "  brim compare --batch 1,2,4,8 --checkpoint none,blocks --run 5\n"},
    {"fit", "levers x cards: what fits, the largest batch, the longest sequence",
     "For each lever and card: does the training fit, up to which batch, up to which\n"
     "sequence length. Every cell is planned, not estimated. --card takes names that\n"
     "`brim gpus` lists, --memory takes sizes.",
     SHAPE_FLAGS " --card --memory --reserve --json",
     .examples = "  brim fit --model llama-3.2-1b --seq 2048\n"
                 "  brim fit --model gpt2 --card t4,rtx-4090 --memory 12GiB\n"},
    {"generate", "continue a prompt; inference memory beside the textbook's",
     "Plans, then writes token by token with a key-value cache, and shows what that\n"
     "took: weights, cache, workspace, planned beside measured. --batch texts at once;\n"
     "--seq is what the cache holds: past it, the newer half is read again. A text\n"
     "ends at --tokens, or at the end token of the model's generation_config.json.",
     "--model --init --init-partial --tokenizer --vocab --batch --seq --prompt --tokens --temperature "
     "--top-k --top-p --prefill --ignore-eos "
     "--seed --threads --device --budget --json",
     .examples = "  brim generate --model gpt2-tiny --prompt The --tokens 50\n"
                 "  brim generate --temperature 0.7 --top-p 0.9 --batch 2\n"},
    {"demo", "train, compare, and say what to try next",
     "Trains, lets the model write a few words, and shows what each lever would\n"
     "save. It takes about a minute.",
     TRAIN_FLAGS,
     .examples = "  brim demo\n"
                 "  brim demo --steps 50 --budget 1GiB\n"},
    {"models", "the models known by name",
     "The values of --model, with their parameters and usual batch and sequence.\n"
     "--model also takes the path of a Hugging Face config.json.",
     "--json",
     .examples = "  brim models\n"
                 "  brim plan --model ./config.json --seq 1024\n"},
    {"gpus", "the cards known by name, and what their driver reports",
     "The values of --card, with the memory that the driver reports, which is less\n"
     "than is printed on the box.",
     "--json",
     .examples = "  brim gpus\n"
                 "  brim fit --model gpt2 --card h100\n"},
    {"tokenize", "train a tokenizer, make ids of a text or text of ids",
     "Byte-level BPE is trained on a text as the Python package tokenizers does it;\n"
     "tokenizer.json files of GPT-2, Llama, Mistral, Qwen2 and BERT are read.",
     "",
     .examples = "  brim tokenize --train kjv.txt --vocab 4096 --out tokenizer.json\n"
                 "  brim tokenize --tokenizer tokenizer.json kjv.txt -o kjv.bin\n",
     .more = tokenize_help},
    {"report", "what a log of `train --log` says; a page, files for other viewers",
     "Reads the log that `brim train --log RUN.jsonl` wrote. Without an output it\n"
     "prints a summary. --html takes one log, or two to see what a change saved.",
     "",
     .examples = "  brim train --steps 20 --log run.jsonl\n"
                 "  brim report run.jsonl --html run.html\n"
                 "  brim report plain.jsonl checkpointed.jsonl --html both.html\n",
     .more = report_outputs_help},
    {"help", "this text; with a command its page",
     "The list of commands and options, or the page of one command.", "",
     .examples = "  brim help compare\n"},
    {"version", "the version, and what multiplies here",
     "The version of the command and its library, the library that products run on,\n"
     "and its file; and the instruction set of all other kernels.",
     "", .examples = "  brim version\n"},
};
enum { PAGE_COUNT = sizeof pages / sizeof pages[0] };

void help_all(FILE *out)
{
    fprintf(out,
            "brim %s: trains small language models and accounts for every byte\n\nusage: brim COMMAND "
            "[OPTIONS]\n\n",
            BRIM_VERSION);
    for (int i = 0; i < PAGE_COUNT; i++)
        fprintf(out, "  %-10s %s\n", pages[i].name, pages[i].summary);
    fprintf(out, "\noptions, the same in every command (default):\n");
    options_help(out);
    fprintf(out, "\nA step takes batch x accumulate samples. SIZE: bytes, or as in 1.5GiB.\n"
                 "Exit codes: 0 done or fits, 1 failed or does not fit, 2 bad usage,\n"
                 "130 and 143 stopped by SIGINT or SIGTERM after a whole step\n"
                 "`brim help COMMAND` says more of one, with examples; so does `man brim`.\n");
}

static void print_flags(FILE *out, const char *flags)
{
    for (const char *at = flags; *at; at += *at == ' ') {
        char name[32];
        size_t length = strcspn(at, " ");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        option_help(out, name);
        at += length;
    }
}

int help_command(FILE *out, const char *name)
{
    for (int i = 0; i < PAGE_COUNT; i++) {
        const Help *page = &pages[i];
        if (strcmp(page->name, name))
            continue;
        fprintf(out, "brim %s: %s\n\n%s\n", page->name, page->summary, page->text);
        if (page->flags[0])
            fprintf(out, "\noptions (default):\n");
        print_flags(out, page->flags);
        if (page->more)
            page->more(out);
        fprintf(out, "\nexamples:\n%s", page->examples);
        return EXIT_DONE;
    }
    return usage("unknown command '%s'; `brim help` lists them", name);
}
