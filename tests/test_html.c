/* The report page: what is embedded means what the log said and can end nothing, damaged logs are shown as
 * far as they go, and the page asks for nothing from outside. How it looks and moves is
 * tests/html_headless.sh. */
#include <jansson.h>
#include <unistd.h>

#include "../estimate/page_replay_.h"
#include "../report/html.h"
#include "support.h"

/* ---- Logs and pages -------------------------------------------------------------------------- */

#define COMPONENTS "\"components\":[[\"parameter\",\"parameters\"],[\"activation\",\"activations\"]]"
#define RUN_LINE                                                                                             \
    "{\"kind\":\"run\",\"format\":1,\"model\":\"small\"," COMPONENTS ",\"phases\":[\"setup\",\"forward\"]}"  \
    "\n"
#define COLUMN_NAMES                                                                                         \
    "\"columns\":[\"kind\",\"time_us\",\"step\",\"phase\",\"component\",\"from\",\"place\",\"op\","          \
    "\"serial\",\"offset\",\"end\",\"bytes\",\"requested\"]"

static char path[64];

static const char *log_of(const char *text, size_t length)
{
    strcpy(path, "/tmp/brim-html-XXXXXX");
    FILE *file = fdopen(mkstemp(path), "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    return path;
}

typedef struct Page {
    char *text;
    size_t length;
    int status;
    char error[256];
} Page;

static Page page_of_paths(const char *const *paths, int count)
{
    Page page = {0};
    FILE *out = open_memstream(&page.text, &page.length);
    page.status = report_html(out, paths, count, &estimate_pytorch_page, page.error, sizeof page.error);
    fclose(out);
    assert_int_equal(memtrack_process_live(), 0);
    return page;
}

static Page page_of_bytes(const char *text, size_t length)
{
    const char *name = log_of(text, length);
    Page page = page_of_paths(&name, 1);
    unlink(name);
    return page;
}

static Page page_of(const char *text)
{
    return page_of_bytes(text, strlen(text));
}

static int occurrences(const char *text, const char *what)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, what)); at++)
        count++;
    return count;
}

/* The i-th log's lines as an array of objects; every one must be JSON without a character that HTML minds. */
static json_t *embedded(const Page *page, int i)
{
    char id[64];
    snprintf(id, sizeof id, "id=\"log-%d\">\n", i);
    const char *at = strstr(page->text, id);
    assert_non_null(at);
    at += strlen(id);
    const char *end = strstr(at, "</script>");
    assert_non_null(end);
    json_t *lines = json_array();
    for (const char *stop; at < end; at = stop + 1) {
        stop = strchr(at, '\n');
        assert_null(memchr(at, '<', (size_t)(stop - at)));
        assert_null(memchr(at, '>', (size_t)(stop - at)));
        assert_null(memchr(at, '&', (size_t)(stop - at)));
        json_t *object = json_loadb(at, (size_t)(stop - at), JSON_REJECT_DUPLICATES, NULL);
        if (!object)
            fail_msg("not JSON: %.*s", (int)(stop - at), at);
        json_array_append_new(lines, object);
    }
    return lines;
}

static const json_t *line_of_kind(const json_t *lines, const char *kind)
{
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        if (!strcmp(json_string_value(json_object_get(line, "kind")), kind))
            return line;
    }
    fail_msg("no line of kind %s", kind);
    return NULL;
}

static json_int_t integer(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* ---- Safety ---------------------------------------------------------------------------------- */

static const char *const hostile[] = {
    "</script><script>alert(1)</script>",
    "<!-- <script> -->",
    "]]>&amp;&lt;",
    "\"quotes\" and \\ back'slashes'",
    "\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x94\xa5 UTF-8",
    "line\xe2\x80\xa8separator\xe2\x80\xa9paragraph \xe2\x82\xac",
    "tab\tnewline\nreturn\r",
    "model.layers.0",
};

static void hostile_names(void **state)
{
    (void)state;
    json_t *places = json_array();
    for (size_t i = 0; i < COUNT(hostile); i++)
        json_array_append_new(places, json_string(hostile[i]));
    for (int ascii = 0; ascii < 2; ascii++) {
        size_t flags = JSON_COMPACT | (ascii ? JSON_ENSURE_ASCII : 0);
        json_t *run = json_pack("{s:s, s:i, s:s, s:O}", "kind", "run", "format", 1, "model", hostile[0],
                                "components", places);
        json_t *names = json_pack("{s:s, s:i, s:O}", "kind", "places", "from", 0, "names", places);
        char *first = json_dumps(run, flags), *second = json_dumps(names, flags), *text = NULL;
        assert_true(asprintf(&text, "%s\n%s\n", first, second) > 0);
        Page page = page_of(text);
        assert_int_equal(page.status, 0);
        json_t *lines = embedded(&page, 0);
        assert_true(json_equal(json_array_get(lines, 0), run));
        assert_true(json_equal(json_array_get(lines, 1), names));
        assert_int_equal(occurrences(page.text, "</script"), 2); /* of the log and of the program */
        assert_int_equal(occurrences(page.text, "<!--"), 0);
        assert_int_equal(occurrences(page.text, "alert(1)"), 3); /* in strings */
        assert_null(strstr(page.text, "\xe2\x80\xa8"));
        json_decref(lines);
        json_decref(run);
        json_decref(names);
        free(first);
        free(second);
        free(text);
        free(page.text);
    }
    json_decref(places);
}

/* The file's own name is shown too. */
static void hostile_path(void **state)
{
    (void)state;
    char place[] = "/tmp/brim-html-XXXXXX", kept[64];
    const char *name = kept;
    assert_non_null(mkdtemp(place));
    for (int utf8 = 0; utf8 < 2; utf8++) {
        snprintf(kept, sizeof kept, "%s/<b>&\"%s.jsonl", place, utf8 ? "\xc3\xa9" : "'\xff");
        FILE *file = fopen(name, "w");
        assert_non_null(file);
        fputs(RUN_LINE, file);
        fclose(file);
        Page page = page_of_paths(&name, 1);
        unlink(name);
        assert_int_equal(page.status, 0);
        json_t *lines = embedded(&page, 0);
        const json_t *shown = json_object_get(line_of_kind(lines, "file"), "name");
        if (utf8)
            assert_string_equal(json_string_value(shown), name);
        else
            assert_true(json_is_null(shown));
        json_decref(lines);
        free(page.text);
    }
    assert_int_equal(rmdir(place), 0);
}

static void asks_for_nothing(void **state)
{
    (void)state;
    Page page = page_of(RUN_LINE);
    static const char *const fetches[] = {
        "src=",    "@import", "url(", "https:",    "fetch(",    "XMLHttpRequest",
        "import(", "<link",   "<img", "WebSocket", "sendBeacon"};
    for (size_t i = 0; i < COUNT(fetches); i++)
        if (strstr(page.text, fetches[i]))
            fail_msg("the page has %s", fetches[i]);
    assert_int_equal(occurrences(page.text, "http:"), 1); /* the name space of SVG */
    assert_non_null(strstr(page.text, "default-src 'none'"));
    assert_int_equal(strncmp(page.text, "<!doctype html>", 15), 0);
    assert_string_equal(page.text + page.length - 8, "</html>\n");
    assert_null(strstr(page.text, "/* style */"));
    assert_null(strstr(page.text, "/* script */"));
    free(page.text);
}

/* ---- Damaged logs ---------------------------------------------------------------------------- */

static void check_file(const char *text, size_t lines_before_file, int broken, int truncated)
{
    Page page = page_of(text);
    if (page.status)
        fail_msg("%s", page.error);
    json_t *lines = embedded(&page, 0);
    const json_t *file = line_of_kind(lines, "file");
    assert_int_equal(integer(file, "broken_lines"), broken);
    assert_int_equal(integer(file, "truncated"), truncated);
    assert_int_equal(json_array_size(lines), lines_before_file + 3); /* steps, pytorch_end, file */
    json_decref(lines);
    free(page.text);
}

#define PLACES "{\"kind\":\"places\",\"from\":0,\"names\":[\"\"]}"

static void damaged_lines(void **state)
{
    (void)state;
    check_file(RUN_LINE, 1, 0, 0);
    check_file(RUN_LINE PLACES, 2, 0, 0); /* whole, only its newline is missing */
    check_file(RUN_LINE "{\"kind\":\"pla", 1, 0, 1);
    check_file(RUN_LINE "{\"kind\":\"pla\n", 1, 1, 0);
    check_file(RUN_LINE "{\"kind\":\"pla\n" PLACES "\n[1]\nnull\n{}{}\n" PLACES, 3, 4, 0);
    check_file(RUN_LINE "\n  \r\n" PLACES "\r\n\n", 2, 0, 0);
    check_file(RUN_LINE "{\"kind\":\"from the future\",\"rows\":[1]}\n{\"no kind\":1}\n" PLACES "\n", 2, 1,
               0);
    check_file(RUN_LINE "{\"kind\":\"places\",\"names\":[\"\xff\xfe\"]}\n", 1, 1, 0); /* no UTF-8 */
    check_file(RUN_LINE "{\"kind\":\"end\",\"kind\":\"end\"}\n", 1, 1, 0);
}

static void zero_bytes_in_a_line(void **state)
{
    (void)state;
    static const char text[] = RUN_LINE "{\"kind\":\"\0\"}\n" PLACES "\n";
    Page page = page_of_bytes(text, sizeof text - 1);
    json_t *lines = embedded(&page, 0);
    assert_int_equal(integer(line_of_kind(lines, "file"), "broken_lines"), 1);
    assert_int_equal(json_array_size(lines), 5);
    json_decref(lines);
    free(page.text);
}

static void expect_error(Page page, const char *what)
{
    assert_int_equal(page.status, -1);
    if (!strstr(page.error, what))
        fail_msg("'%s' does not say '%s'", page.error, what);
    free(page.text);
}

static void no_run_log(void **state)
{
    (void)state;
    expect_error(page_of(""), "is empty");
    expect_error(page_of("\n\n"), "is empty");
    expect_error(page_of("hello\n"), "is not a run log");
    expect_error(page_of("{\"kind\":\"run\""), "is not a run log");
    expect_error(page_of("{\"kind\":\"run\",\"format\":2}\n"), "is not a run log");
    expect_error(page_of(PLACES "\n" RUN_LINE), "is not a run log");
    expect_error(page_of("broken\n" RUN_LINE), "is not a run log");
    const char *missing = "/nowhere/run.jsonl", *directory = "/tmp";
    expect_error(page_of_paths(&missing, 1), "cannot read /nowhere/run.jsonl: No such file");
    expect_error(page_of_paths(&directory, 1), "cannot read /tmp: Is a directory");
    expect_error(page_of_paths(&missing, 0), "one run log or two, not 0");
    expect_error(page_of_paths(&missing, 3), "one run log or two, not 3");
}

static void unwritable_output(void **state)
{
    (void)state;
    char error[256];
    const char *name = log_of(RUN_LINE, strlen(RUN_LINE));
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    assert_int_equal(report_html(full, &name, 1, &estimate_pytorch_page, error, sizeof error), -1);
    assert_non_null(strstr(error, "cannot write the report: No space left"));
    assert_int_equal(report_html(full, &name, 1, &estimate_pytorch_page, NULL, 0), -1);
    fclose(full);
    unlink(name);
}

/* What PyTorch would need: the object is in the page as it was given, and ends no script. */
static void page_of_pytorch(void **state)
{
    (void)state;
    json_t *given = json_pack("{s:s, s:i}", "model", "</script><script>alert(1)</script>", "n", 7);
    char error[256], *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    assert_int_equal(report_html_pytorch(out, given, error, sizeof error), 0);
    fclose(out);
    char *from = strstr(text, "<script type=\"application/json\" id=\"plan\">");
    assert_non_null(from);
    from = strchr(from, '\n');
    char *end = strstr(from, "</script>");
    assert_null(memmem(from, (size_t)(end - from), "<", 1));
    *end = '\0';
    json_t *plan = json_loads(from, 0, NULL);
    assert_non_null(plan);
    assert_true(json_equal(plan, given));
    assert_non_null(strstr(end + 1, "window.brimPlan"));
    assert_non_null(strstr(text, "default-src 'none'"));
    json_decref(plan);
    free(text);
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    assert_int_equal(report_html_pytorch(full, given, error, sizeof error), -1);
    assert_non_null(strstr(error, "cannot write the report: No space left"));
    fclose(full);
    json_decref(given);
}

static void two_logs(void **state)
{
    (void)state;
    char first[64];
    strcpy(first, log_of(RUN_LINE, strlen(RUN_LINE)));
    const char *second = log_of(RUN_LINE PLACES "\n{", strlen(RUN_LINE PLACES "\n{"));
    Page page = page_of_paths((const char *const[]){first, second}, 2);
    unlink(first);
    unlink(second);
    json_t *a = embedded(&page, 0), *b = embedded(&page, 1);
    assert_int_equal(json_array_size(a), 4);
    assert_int_equal(json_array_size(b), 5);
    assert_int_equal(integer(line_of_kind(a, "file"), "truncated"), 0);
    assert_int_equal(integer(line_of_kind(b, "file"), "truncated"), 1);
    json_decref(a);
    json_decref(b);
    free(page.text);
}

/* ---- What is added --------------------------------------------------------------------------- */

static const char trace[] =
    RUN_LINE "{\"kind\":\"events\"," COLUMN_NAMES ",\"rows\":[[0,1,0,0,0,0,0,0,1,0,0,1024,1000],"
             "[0,2,0,1,1,1,0,0,2,0,1,2097216,2097153],[2,3,0,1,0,1,0,0,2,0,1,2097216,2097153]]}\n"
             "{\"kind\":\"events\"," COLUMN_NAMES ",\"rows\":[[1,4,0,1,0,0,0,0,2,0,1,2097216,2097153],"
             "[0,5,0,1,1,1,0,0,3,0,1,64,1],[1,6,0,1,1,1,0,0,99,0,1,64,1]]}\n";

static void events_by_pytorchs_rules(void **state)
{
    (void)state;
    Page page = page_of(trace);
    json_t *lines = embedded(&page, 0);
    json_t *first =
        json_pack("{s:s, s:i, s:[i,i,i], s:[[i,i],[i,i]]}", "kind", "pytorch", "from", 0, "allocated", 1024,
                  1024 + 2097664, 1024 + 2097664, "reserved", 0, 2 << 20, 1, 22 << 20);
    json_t *second = json_pack("{s:s, s:i, s:[i,i,i], s:[]}", "kind", "pytorch", "from", 3, "allocated", 1024,
                               1536, 1536, "reserved");
    json_t *end = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:[[i,[i,i,i],[i,i,i]],[i,[i,i,i],[i,i,i]]]}", "kind",
        "pytorch_end", "peak_requested", 1000 + 2097153, "peak_allocated", 1024 + 2097664, "peak_reserved",
        22 << 20, "small_segments", 1, "large_segments", 1, "peak_event", 1, "segments", 1, 1024, 1000, 1,
        (2 << 20) - 1024, 0, 0, 0, 2097664, 2097153, 2, (20 << 20) - 2097664, 0, 0);
    assert_true(json_equal(json_array_get(lines, 2), first));
    assert_true(json_equal(json_array_get(lines, 4), second));
    assert_true(json_equal(line_of_kind(lines, "pytorch_end"), end));
    json_decref(first);
    json_decref(second);
    json_decref(end);
    json_decref(lines);
    free(page.text);
}

static void senseless_events(void **state)
{
    (void)state;
    Page page =
        page_of(RUN_LINE "{\"kind\":\"events\",\"rows\":[[0,1],7,null,[]]}\n"
                         "{\"kind\":\"events\"," COLUMN_NAMES ",\"rows\":[[0,1,0,0,0,0,0,0,-5,0,0,1,-1],"
                         "[9,1],[0,1,0,0,0,0,0,0,1,0,0,1,9223372036854775807]]}\n"
                         "{\"kind\":\"events\"}\n{\"kind\":\"step\"}\n");
    assert_int_equal(page.status, 0);
    json_t *lines = embedded(&page, 0);
    assert_int_equal(integer(line_of_kind(lines, "pytorch_end"), "peak_reserved"), 0);
    json_decref(lines);
    free(page.text);
}

static char *many_steps(int count)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    fputs(RUN_LINE, out);
    for (int i = 1; i <= count; i++)
        fprintf(out,
                "{\"kind\":\"step\",\"step\":%d,\"loss\":%s,\"lr\":0.5,\"tokens\":%d,\"seconds\":0.25,"
                "\"live_bytes\":10,\"peak_bytes\":%d,\"components_at_peak\":{\"parameter\":5,\"activation\":%"
                "d}}\n",
                i,
                i == 3  ? "null"
                : i % 2 ? "1.5"
                        : "2.5",
                i, i == 777 ? 10005 : 105, i == 777 ? 10000 : 100);
    fclose(out);
    return text;
}

static json_t *steps_of(int count)
{
    char *text = many_steps(count);
    Page page = page_of(text);
    assert_int_equal(page.status, 0);
    json_t *lines = embedded(&page, 0), *steps = json_deep_copy(line_of_kind(lines, "steps"));
    json_decref(lines);
    free(text);
    free(page.text);
    return steps;
}

static void few_steps_are_rows(void **state)
{
    (void)state;
    json_t *steps = steps_of(4);
    json_t *expected = json_loads("[[1,1,1.5,0.5,1,0.25,10,105,5,100],[2,2,2.5,0.5,2,0.25,10,105,5,100],"
                                  "[3,3,null,0.5,3,0.25,10,105,5,100],[4,4,2.5,0.5,4,0.25,10,105,5,100]]",
                                  0, NULL);
    json_t *rows = json_object_get(steps, "rows");
    assert_int_equal(json_array_size(rows), 4);
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 10; k++) {
            const json_t *a = json_array_get(json_array_get(rows, i), k),
                         *b = json_array_get(json_array_get(expected, i), k);
            assert_int_equal(json_is_null(a), json_is_null(b));
            assert_true(json_number_value(a) == json_number_value(b));
        }
    assert_int_equal(integer(steps, "stride"), 1);
    json_decref(steps);
    json_decref(expected);
}

/* A long run stays small, its sums exact and its highest step in it. */
static void many_steps_share_rows(void **state)
{
    (void)state;
    enum { STEPS = 20001 };
    json_t *steps = steps_of(STEPS), *rows = json_object_get(steps, "rows");
    size_t count = json_array_size(rows);
    assert_true(count > 4096 && count <= 8192);
    assert_int_equal(integer(steps, "stride"), 4);
    json_int_t tokens = 0, next = 1, highest = 0, composed = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(rows, i);
        json_int_t cell[10];
        for (size_t k = 0; k < 10; k++)
            cell[k] = json_integer_value(json_array_get(row, k));
        assert_int_equal(cell[0], next);
        next = cell[1] + 1;
        tokens += cell[4];
        highest = cell[7] > highest ? cell[7] : highest;
        composed += cell[8] + cell[9] == cell[7];
        double loss = json_number_value(json_array_get(row, 2));
        assert_true(loss >= 1.5 && loss <= 2.5);
    }
    assert_int_equal(next, STEPS + 1);
    assert_int_equal(tokens, (json_int_t)STEPS * (STEPS + 1) / 2);
    assert_int_equal(highest, 10005);
    assert_int_equal(composed, count);
    json_decref(steps);
}

/* Lines longer than the first buffer. */
static void long_lines(void **state)
{
    (void)state;
    size_t length = 300000;
    char *text = malloc(length + 200);
    int used = sprintf(text, RUN_LINE "{\"kind\":\"places\",\"from\":0,\"names\":[\"");
    memset(text + used, 'x', length);
    strcpy(text + used + length, "\"]}\n");
    Page page = page_of(text);
    json_t *lines = embedded(&page, 0);
    const json_t *names = json_object_get(line_of_kind(lines, "places"), "names");
    assert_int_equal(json_string_length(json_array_get(names, 0)), length);
    json_decref(lines);
    free(page.text);
    free(text);
}

static void failing_allocations(void **state)
{
    (void)state;
    char first[64];
    strcpy(first, log_of(trace, sizeof trace - 1));
    char *steps = many_steps(10);
    const char *second = log_of(steps, strlen(steps));
    int passed = 0;
    for (uint64_t n = 1; !passed; n++) {
        memtrack_fail_nth(n);
        Page page = page_of_paths((const char *const[]){first, second}, 2);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(page.status, passed ? 0 : -1);
        if (!passed && !strstr(page.error, "out of host memory"))
            fail_msg("allocation %llu: %s", (unsigned long long)n, page.error);
        free(page.text);
        assert_true(n < 100);
    }
    free(steps);
    unlink(first);
    unlink(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_names),
        cmocka_unit_test(hostile_path),
        cmocka_unit_test(asks_for_nothing),
        cmocka_unit_test(damaged_lines),
        cmocka_unit_test(zero_bytes_in_a_line),
        cmocka_unit_test(no_run_log),
        cmocka_unit_test(unwritable_output),
        cmocka_unit_test(page_of_pytorch),
        cmocka_unit_test(two_logs),
        cmocka_unit_test(events_by_pytorchs_rules),
        cmocka_unit_test(senseless_events),
        cmocka_unit_test(few_steps_are_rows),
        cmocka_unit_test(many_steps_share_rows),
        cmocka_unit_test(long_lines),
        cmocka_unit_test(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
