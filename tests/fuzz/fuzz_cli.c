/* The command line: the subcommand, then an argument a line. */
#include "../../cli/cli.h"
#include "fuzz.h"

enum { ARGUMENTS = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Options sets[SETS_MAX];
    char *arguments[ARGUMENTS + 1] = {NULL}, *text = malloc(size + 1), *line = text;
    int count = 0;
    memcpy(text, data, size);
    text[size] = '\0';
    for (char *end = text; end && count < ARGUMENTS; line = end + 1) {
        end = strchr(line, '\n');
        arguments[count++] = line;
        if (!end)
            break;
        *end = '\0';
    }
    fuzz_begin(0);
    fuzz_check(!chdir(fuzz_path("")), "no folder");
    int most = !strcmp(arguments[0], "compare") ? SETS_MAX : 1;
    int found = options_parse(sets, most, arguments[0], count - 1, arguments + 1);
    fuzz_check(found <= most && found != 0, "more sets of options than there is room for");
    fuzz_check(!error_code(), "an error is left");
    for (int i = 0; i < found; i++)
        fuzz_check(sets[i].model && sets[i].batch > 0 && sets[i].accumulate > 0, "an option out of range");
    fuzz_end();
    free(text);
    return 0;
}
