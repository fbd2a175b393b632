/* The brim command: finds the subcommand and hands it its options. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

typedef struct Command {
    const char *name, *help;
    int (*run)(const Options *options);
    int (*run_own)(int argc, char **argv); /* instead: reads its arguments itself */
} Command;

static const Command commands[] = {
    {"train", "plan, then train, then show planned beside measured memory", .run = command_train},
    {"plan", "the same tables without training, for any size", .run = command_plan},
    {"compare", "what each lever would save at the same effective batch", .run = command_compare},
    {"demo", "train, compare, and say what to try next", .run = command_demo},
    {"models", "the models known by name", .run = command_models},
    {"report", "what a log of `train --log` says; writes it for other viewers", .run_own = command_report},
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
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (!strcmp(name, commands[i].name) && commands[i].run_own)
            return commands[i].run_own(argc - 2, argv + 2);
    for (int i = 1; i < argc; i++)
        wanted |= asks_for_help(argv[i]);
    if (wanted) {
        help(stdout);
        return argc > 1 ? EXIT_DONE : EXIT_USAGE;
    }
    if (!strcmp(name, "version") || !strcmp(name, "--version")) {
        printf("brim %s\n", BRIM_VERSION);
        return EXIT_DONE;
    }
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(name, commands[i].name))
            continue;
        Options options;
        int status = options_parse(&options, argc - 2, argv + 2);
        options.arguments = argv + 1;
        options.argument_count = argc - 1;
        return status ? status : commands[i].run(&options);
    }
    fprintf(stderr, "brim: unknown command '%s'; `brim help` lists them\n", name);
    return EXIT_USAGE;
}
