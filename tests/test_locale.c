/* A program may have a locale whose numbers have a comma: files are the same in it. */
#include <locale.h>

#include "../estimate/page_replay_.h"
#include "../report/html.h"
#include "runlog_support.h"

/* de_DE, made by localedef where it is not installed. Skips where that cannot be. */
static void take_comma_locale(void)
{
    char command[256];
    setenv("LOCPATH", log_folder, 1);
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/comma 2>/dev/null", log_folder);
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && (system(command) > 255 * 256 || !setlocale(LC_ALL, "comma")))
        skip();
    if (strcmp(localeconv()->decimal_point, ",") != 0)
        skip();
}

static void give_back(void)
{
    char command[256];
    setlocale(LC_ALL, "C");
    unsetenv("LOCPATH");
    snprintf(command, sizeof command, "rm -rf %s/comma", log_folder);
    assert_int_equal(system(command), 0);
}

static const char *page_of(const char *log, const char *name)
{
    char why[WHY] = "";
    const char *path = log_path(name);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(report_html(out, &log, 1, &estimate_pytorch_page, why, sizeof why), 0);
    assert_int_equal(fclose(out), 0);
    return path;
}

static void a_log_and_its_page(void **state)
{
    (void)state;
    static char log[128];
    size_t plain_length, length;
    RunRecord run;
    char why[WHY];
    strcpy(log, log_path("log.jsonl"));
    take_comma_locale();
    write_run(log, 5, 0);
    char *comma = file_text(page_of(log, "comma.html"), &length);
    give_back();
    assert_int_equal(report_run_read(log, &run, why, sizeof why), 0);
    assert_string_equal(why, "");
    assert_int_equal(run.step_count, 5);
    assert_float_equal(run.steps[2].loss, 1.0 / 3, 1e-8);
    report_run_free(&run);
    char *plain = file_text(page_of(log, "plain.html"), &plain_length);
    assert_int_equal(length, plain_length);
    assert_memory_equal(comma, plain, length);
    free(comma);
    free(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_log_and_its_page)};
    return cmocka_run_group_tests_name("locale", tests, make_log_folder, remove_log_folder);
}
