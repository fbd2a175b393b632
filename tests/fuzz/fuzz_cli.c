/* The command line: the subcommand, then an argument a line, as far as arguments are read. Of the two
 * commands that read their own, the files that they name are not there. What commands do is fuzz_commands.c.
 */
#include "../../cli/cli.h"
#include "fuzz_folder.h"

static int is(const FuzzArguments *a, const char *name)
{
    return !strcmp(a->item[0], name);
}

static void read_options(const FuzzArguments *a)
{
    static Options sets[SETS_MAX];
    int most = is(a, "compare") ? SETS_MAX : 1;
    int found = options_parse(sets, most, a->item[0], a->count - 1, (char **)a->item + 1);
    fuzz_check(found <= most && found != 0, "more sets of options than there is room for");
    for (int i = 0; i < found; i++)
        fuzz_check(sets[i].model && sets[i].batch > 0 && sets[i].accumulate > 0, "an option out of range");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FuzzArguments a;
    fuzz_folder_empty();
    fuzz_begin(0);
    fuzz_arguments(&a, (const char *)data, size);
    int status = EXIT_DONE;
    if (is(&a, "tokenize"))
        status = command_tokenize(a.count - 1, a.item + 1);
    else if (is(&a, "report"))
        status = command_report(a.count - 1, a.item + 1);
    else if (is(&a, "help"))
        help_page(stdout, a.count > 1 ? a.item[1] : "help");
    else
        read_options(&a);
    fuzz_check(status == EXIT_NO || status == EXIT_USAGE || is(&a, "help") || !is(&a, "tokenize"),
               "a tokenizer from files that are not there");
    fuzz_check(!error_code(), "an error is left");
    fuzz_end();
    return 0;
}
