/* The lessons' figures are the program's: every command on every page is run again and prints what the page
 * says. Under a sanitizer, where the figures are known to be right and the commands are what is looked at,
 * those of some pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

/* The folder build/brim lies in. */
static void build_folder(char *text, size_t size)
{
    const char *command = getenv("BRIM_COMMAND");
    snprintf(text, size, "%s", command && command[0] ? command : "build/brim");
    char *slash = strrchr(text, '/');
    if (slash)
        *slash = '\0';
}

static void figures_are_the_programs(void **state)
{
    (void)state;
    char folder[256], command[512], line[512], shown[8192] = "";
    if (SANITIZED && !full_form())
        setenv("PAGES", "docs/lessons/0[3-5]*.md", 1);
    build_folder(folder, sizeof folder);
    snprintf(command, sizeof command, "BUILD=%s tools/lessons --check 2>&1", folder);
    FILE *output = popen(command, "r");
    assert_non_null(output);
    while (fgets(line, sizeof line, output))
        if (strlen(shown) + strlen(line) < sizeof shown)
            strcat(shown, line);
    if (pclose(output))
        fail_msg("`make lessons` writes the pages anew; now they differ:\n%s", shown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures_are_the_programs)};
    return cmocka_run_group_tests_name("lessons", tests, NULL, NULL);
}
