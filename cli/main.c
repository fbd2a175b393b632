/* The brim command: finds the subcommand and hands it its options. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../kernels/kernels.h"
#include "../base/printable_.h"
#include "cli.h"

typedef struct Command {
    const char *name;
    int (*run)(const Options *options, int count);
    int sets;                              /* of options it takes at most, from comma lists */
    int (*run_own)(int argc, char **argv); /* instead: reads its arguments itself */
} Command;

static const Command commands[] = {
    {"train", command_train, 1, NULL},
    {"plan", command_plan, 1, NULL},
    {"compare", command_compare, SETS_MAX, NULL},
    {"fit", command_fit, 1, NULL},
    {"generate", command_generate, 1, NULL},
    {"demo", command_demo, 1, NULL},
    {"models", command_models, 1, NULL},
    {"gpus", command_gpus, 1, NULL},
    {"tokenize", NULL, 0, command_tokenize},
    {"report", NULL, 0, command_report},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

/* The first in a text, or 0. */
static int control_character(const char *text)
{
    for (; *text; text++)
        if (control_bytes(text))
            return (unsigned char)text[control_bytes(text) - 1];
    return 0;
}

/* Names are shown in messages and tables, and a terminal obeys what it is sent. What is text may have any. */
static int check_arguments(int argc, char **argv)
{
    static const char *const texts[] = {"--prompt", "--special"};
    for (int i = 1; i < argc; i++) {
        int is_text = 0, control = control_character(argv[i]);
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            size_t length = strlen(texts[k]);
            is_text |= !strcmp(argv[i - 1], texts[k]) ||
                       (!strncmp(argv[i], texts[k], length) && argv[i][length] == '=');
        }
        if (control && !is_text)
            return usage("argument %d has a control character (0x%02x), which names may not have here", i,
                         control);
    }
    return EXIT_DONE;
}

static int asks_for_help(const char *argument)
{
    return !strcmp(argument, "--help") || !strcmp(argument, "-h");
}

static int run(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    if (!strcmp(name, "help") && argc > 2 && !asks_for_help(argv[2]))
        return help_page(stdout, argv[2]);
    if (!strcmp(name, "help") || asks_for_help(name)) {
        help_all(stdout);
        return argc > 1 ? EXIT_DONE : EXIT_USAGE;
    }
    for (int i = 2; i < argc; i++)
        if (asks_for_help(argv[i]))
            return help_page(stdout, name);
    if (!strcmp(name, "version") || !strcmp(name, "--version")) {
        const char *path = kernels_blas_path();
        printf("brim %s\n%s%s%s%s, %s kernels\n", BRIM_VERSION, kernels_blas_name(), path ? " (" : "",
               path ? path : "", path ? ")" : "", kernels_cpu(NULL)->name);
        products_or_say();
        return EXIT_DONE;
    }
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(name, commands[i].name))
            continue;
        if (commands[i].run_own)
            return commands[i].run_own(argc - 2, argv + 2);
        static Options options[SETS_MAX];
        int count = options_parse(options, commands[i].sets, name, argc - 2, argv + 2);
        for (int k = 0; k < count; k++) {
            options[k].arguments = argv + 1;
            options[k].argument_count = argc - 1;
        }
        int status = count < 0 ? EXIT_USAGE : commands[i].run(options, count);
        forget_pairs();
        forget_csv();
        return status;
    }
    return unknown_command(name);
}

/* What was printed may not have arrived: a full disk tells at the end. */
static int finish(int status)
{
    int failed = ferror(stdout);
    errno = 0;
    if (!fflush(stdout) && !failed)
        return status;
    fprintf(stderr, "brim: the output is not complete: %s\n",
            errno ? strerror(errno) : "it could not be written");
    return status ? status : EXIT_NO;
}

/* Where one is closed, the next file that is opened would take its place, and be printed into. */
static void open_standard_streams(void)
{
    int file;
    do
        file = open("/dev/null", O_RDWR);
    while (file >= 0 && file <= STDERR_FILENO);
    if (file >= 0)
        close(file);
}

/* Deepest is what suggests levers. Beyond the limit the process would be killed without a word. */
static int stack_is_too_small(void)
{
    enum { STACK_KIB = 512 };
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= STACK_KIB << 10)
        return 0;
    fprintf(stderr, "brim: the stack may only have %llu KiB here; `ulimit -s %d` or more is needed\n",
            (unsigned long long)limit.rlim_cur >> 10, STACK_KIB);
    return 1;
}

int main(int argc, char **argv)
{
    open_standard_streams();
    if (stack_is_too_small())
        return EXIT_NO;
    if (check_arguments(argc, argv))
        return EXIT_USAGE;
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like a full disk, not a death */
    return finish(run(argc, argv));
}
