/* The brim command: finds the subcommand and hands it its options. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

typedef struct Command {
    const char *name, *help;
    int (*run)(const Options *options, int count); /* NULL: tokenize, which has options of its own */
    int sets;                                      /* of options it takes at most, from comma lists */
} Command;

static const Command commands[] = {
    {"train", "plan, then train, then show planned beside measured memory", command_train, 1},
    {"plan", "the same tables without training, for any size", command_plan, 1},
    {"compare", "each lever, or every combination of comma lists: --batch 1,2,4", command_compare, SETS_MAX},
    {"fit", "levers x cards: what fits, the largest batch, the longest sequence", command_fit, 1},
    {"demo", "train, compare, and say what to try next", command_demo, 1},
    {"models", "the models known by name", command_models, 1},
    {"tokenize", "train a tokenizer, make ids of a text or text of ids", NULL, 0},
    {"gpus", "the cards known by name, and what their driver reports", command_gpus, 1},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void help(FILE *out)
{
    fprintf(out,
            "brim %s: trains small language models and accounts for every byte\n\nusage: brim COMMAND "
            "[OPTIONS]\n\n",
            BRIM_VERSION);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "  %-10s this text\n  %-10s the version\n\noptions, the same in every command (default):\n",
            "help", "version");
    options_help(out);
    fprintf(out, "\nA step takes batch x accumulate samples. SIZE: bytes, or as in 1.5GiB.\n"
                 "Exit codes: 0 done or fits, 1 failed or does not fit, 2 bad usage\n");
}

static int asks_for_help(const char *argument)
{
    return !strcmp(argument, "--help") || !strcmp(argument, "-h");
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    int wanted = !strcmp(name, "help");
    for (int i = 1; i < argc; i++)
        wanted |= asks_for_help(argv[i]);
    if (wanted && !strcmp(name, "tokenize")) {
        tokenize_help(stdout);
        return EXIT_DONE;
    }
    if (wanted) {
        help(stdout);
        return argc > 1 ? EXIT_DONE : EXIT_USAGE;
    }
    if (!strcmp(name, "version") || !strcmp(name, "--version")) {
        printf("brim %s\n", BRIM_VERSION);
        return EXIT_DONE;
    }
    if (!strcmp(name, "tokenize"))
        return command_tokenize(argc - 2, argv + 2);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(name, commands[i].name))
            continue;
        static Options options[SETS_MAX];
        int count = options_parse(options, commands[i].sets, name, argc - 2, argv + 2);
        return count < 0 ? EXIT_USAGE : commands[i].run(options, count);
    }
    fprintf(stderr, "brim: unknown command '%s'; `brim help` lists them\n", name);
    return EXIT_USAGE;
}
