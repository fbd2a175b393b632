/* The logs of several ranks read together: which are alike, what is said of logs that are missing, damaged or
 * strange, and what the words on ranks say. The ranks are threads, each of which writes its own log. */
#include <unistd.h>

#include "../report/html.h"
#include "../report/runlog_ranks.h"
#include "rank_threads.h"
#include "runlog_support.h"

enum { RANKS = 4, FULL = 2, EXTRA = 6400, STEPS = 3 };

static const char *rank_path(int rank)
{
    static char paths[RANKS][160]; /* each is one thread's */
    char base[128];
    snprintf(base, sizeof base, "%s/run.jsonl", log_folder);
    assert_int_equal(report_log_rank_path(paths[rank], sizeof paths[0], base, rank), 0);
    return paths[rank];
}

static json_t *ranks_object(int rank, int size, const char *run)
{
    return json_pack("{s:i, s:i, s:s, s:i, s:i, s:i, s:s, s:s, s:i, s:i}", "rank", rank, "size", size, "run",
                     run, "data", 1, "tensor", 1, "stages", size, "strategy", "ddp", "schedule", "1f1b",
                     "micro_batches", 6, "sent_bytes_per_step", 1000 * rank);
}

static int write_own(const Ranks *ranks, void *user)
{
    const Rank rank = {ranks_object(ranks->rank, ranks->size, user), ranks->rank == FULL ? EXTRA : 0};
    return write_run_of(rank_path(ranks->rank), STEPS, 0, &rank);
}

/* Of four ranks, as many stages, of which one has more than the others. */
static void write_all(void)
{
    assert_int_equal(as_ranks(RANKS, RANKS_DDP, write_own, "a1"), 0);
}

/* All that are alike: no stages. */
static int write_data(const Ranks *ranks, void *user)
{
    json_t *object = ranks_object(ranks->rank, ranks->size, user);
    json_object_set_new(object, "stages", json_integer(1));
    json_object_set_new(object, "data", json_integer(ranks->size));
    const Rank rank = {object, ranks->rank == FULL ? EXTRA : 0};
    return write_run_of(rank_path(ranks->rank), STEPS, 0, &rank);
}

typedef struct Read {
    RunRecord run;
    RunRanks ranks;
} Read;

static Read read_all(int rank)
{
    Read r;
    char why[WHY];
    if (report_run_read(rank_path(rank), &r.run, why, sizeof why))
        fail_msg("%s", why);
    assert_int_equal(report_run_ranks(&r.run, &r.ranks), 0);
    return r;
}

static void let_go(Read *r)
{
    report_run_ranks_free(&r->ranks);
    report_run_free(&r->run);
    assert_int_equal(memtrack_process_live(), 0);
}

static int noted(const Read *r, const char *words)
{
    for (size_t i = 0; i < r->ranks.notes.count; i++)
        if (strstr(r->ranks.notes.names[i], words))
            return 1;
    return 0;
}

static void expect_note(const char *words)
{
    Read r = read_all(0);
    if (!noted(&r, words))
        fail_msg("no note says '%s'; the first of %zu: %s", words, r.ranks.notes.count,
                 r.ranks.notes.count ? r.ranks.notes.names[0] : "");
    let_go(&r);
}

/* ---- Whole logs ------------------------------------------------------------------------------ */

static void every_rank_is_read(void **state)
{
    (void)state;
    write_all();
    Read r = read_all(0);
    assert_int_equal(r.ranks.notes.count, 0);
    assert_int_equal(r.ranks.count, RANKS); /* stages are told apart */
    for (int i = 0; i < RANKS; i++) {
        const RunKind *k = &r.ranks.kinds[i];
        uint64_t peak = PEAK + (i == FULL ? EXTRA : 0);
        assert_int_equal(k->words.first, i);
        assert_int_equal(k->words.count, 1);
        assert_int_equal(k->stage, i);
        assert_int_equal(k->planned_peak, peak);
        assert_int_equal(k->measured_peak, peak);
        assert_int_equal(k->sent, 1000 * i);
    }
    let_go(&r);
}

static void ranks_that_are_alike_are_one_kind(void **state)
{
    (void)state;
    assert_int_equal(as_ranks(RANKS, RANKS_DDP, write_data, "a2"), 0);
    Read r = read_all(0);
    assert_int_equal(r.ranks.count, 2);
    assert_int_equal(r.ranks.kinds[0].words.count, 3);
    assert_string_equal(r.ranks.kinds[0].words.ranks, "0-1, 3");
    assert_string_equal(r.ranks.kinds[1].words.ranks, "2");
    RankKind words[2];
    report_run_ranks_words(&r.ranks, words);
    assert_int_equal(report_ranks_fullest(words, 2), 1);
    assert_string_equal(report_rank_name(&r.ranks.layout, &words[0]).text, "ranks 0-1, 3");
    assert_int_equal(strncmp(report_ranks_why(&r.ranks.layout, words, 2).text, "Rank 2 is the fullest", 21),
                     0);
    let_go(&r);
}

static void one_of_several_is_shown_alone(void **state)
{
    (void)state;
    write_all();
    Read r = read_all(FULL);
    assert_int_equal(r.ranks.count, 1);
    assert_int_equal(r.ranks.kinds[0].words.first, FULL);
    assert_true(noted(&r, "This is the log of rank 2 of 4."));
    let_go(&r);
}

static void a_run_that_is_alone_has_no_ranks(void **state)
{
    (void)state;
    write_run(rank_path(0), STEPS, 0);
    Read r = read_all(0);
    assert_int_equal(r.ranks.count, 0);
    assert_int_equal(r.ranks.notes.count, 0);
    let_go(&r);
}

/* A plan writes one log for ranks that are alike. */
static void a_log_may_stand_for_several(void **state)
{
    (void)state;
    json_t *object = ranks_object(0, RANKS, "a3");
    json_object_set_new(object, "stages", json_integer(1));
    json_object_set_new(object, "like", json_pack("[i, i]", 0, RANKS - 1));
    for (int rank = 0; rank < RANKS; rank++)
        unlink(rank_path(rank));
    write_run_of(rank_path(0), STEPS, 0, &(Rank){object, 0});
    Read r = read_all(0);
    assert_int_equal(r.ranks.count, 1);
    assert_int_equal(r.ranks.kinds[0].words.count, RANKS);
    assert_int_equal(r.ranks.notes.count, 0);
    let_go(&r);
}

/* ---- Logs that are not ----------------------------------------------------------------------- */

static void a_missing_log_is_named(void **state)
{
    (void)state;
    write_all();
    unlink(rank_path(1));
    unlink(rank_path(2));
    expect_note("Of ranks 1-2 there is no log that can be shown");
    expect_note("run.jsonl.rank-1 is looked for");
}

/* Killed in its second step: what it wrote is shown, and said to end there. */
static void a_killed_rank_is_shown_as_far_as_it_came(void **state)
{
    (void)state;
    size_t length;
    write_all();
    char *text = file_text(rank_path(3), &length), *second = strstr(text, "{\"kind\":\"step\",\"step\":2");
    assert_non_null(second);
    write_file(rank_path(3), text, (size_t)(second - text) + 40);
    free(text);
    expect_note("Rank 3: The log breaks off after step 1");
    Read r = read_all(0);
    assert_int_equal(r.ranks.count, RANKS);
    assert_int_equal(r.ranks.kinds[3].measured_peak, PEAK);
    let_go(&r);
}

static void a_strange_log_is_left_out(void **state)
{
    (void)state;
    size_t length;
    write_all();
    Rank other = {ranks_object(1, RANKS, "another"), 0};
    write_run_of(rank_path(1), STEPS, 0, &other);
    expect_note("rank-1 is of another run, and is left out");
    expect_note("Of rank 1 there is no log");
    write_all();
    char *text = file_text(rank_path(2), &length);
    write_file(rank_path(1), text, length);
    free(text);
    expect_note("rank-1 says that it is of another rank");
    write_file(rank_path(1), "[]\n", 3);
    expect_note("Rank 1: its log cannot be used");
    write_file(rank_path(1), "", 0);
    expect_note("Rank 1: its log cannot be used");
    unlink(rank_path(1));
    assert_int_equal(symlink(".", rank_path(1)), 0); /* a folder */
    expect_note("Rank 1: its log cannot be used");
    unlink(rank_path(1));
    write_run(rank_path(1), STEPS, 0);
    expect_note("rank-1 is of another run");
}

/* What contradicts itself is a run that is alone. */
static void hostile_ranks(void **state)
{
    (void)state;
    static const struct {
        const char *ranks;
        int count, size;
    } cases[] = {{"{\"size\":1,\"rank\":0}", 0, 0},
                 {"{\"size\":65537,\"rank\":0}", 0, 0},
                 {"{\"size\":-4,\"rank\":0}", 0, 0},
                 {"{\"size\":4,\"rank\":4}", 0, 0},
                 {"{\"size\":4,\"rank\":\"0\"}", 0, 0},
                 {"[1,2]", 0, 0},
                 {"{\"size\":4,\"rank\":0,\"stages\":9,\"data\":0,\"micro_batches\":-1}", 1, 4},
                 {"{\"size\":65536,\"rank\":0,\"like\":[-1,70000],\"strategy\":\"zero9\"}", 1, 65536},
                 {"{\"size\":4,\"rank\":1,\"like\":[2,0],\"stages\":4,\"schedule\":7}", 1, 4}};
    for (int rank = 1; rank < RANKS; rank++)
        unlink(rank_path(rank));
    for (size_t i = 0; i < COUNT(cases); i++) {
        Rank rank = {json_loads(cases[i].ranks, 0, NULL), 0};
        assert_non_null(rank.ranks);
        write_run_of(rank_path(0), STEPS, 0, &rank);
        Read r = read_all(0);
        assert_int_equal(r.run.rank.size, cases[i].size);
        assert_int_equal(r.ranks.count, cases[i].count);
        assert_true(r.run.rank.first >= 0 && r.run.rank.first <= r.run.rank.rank);
        assert_true(r.run.rank.last >= r.run.rank.rank && r.run.rank.last <= r.run.rank.size);
        RankKind words[1];
        report_run_ranks_words(&r.ranks, words);
        report_ranks_why(&r.ranks.layout, words, r.ranks.count);
        report_ranks_saving(&r.ranks.layout, words, r.ranks.count);
        let_go(&r);
    }
}

/* ---- Without memory -------------------------------------------------------------------------- */

static void every_allocation_may_fail(void **state)
{
    (void)state;
    char why[WHY];
    int failed = 1;
    write_all();
    write_file(rank_path(3), "[]\n", 3);
    for (uint64_t n = 1; failed; n++) {
        RunRecord run;
        RunRanks ranks = {.count = 0};
        assert_int_equal(report_run_read(rank_path(0), &run, why, sizeof why), 0);
        memtrack_fail_nth(n);
        report_run_ranks(&run, &ranks);
        failed = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        report_run_ranks_free(&ranks);
        report_run_free(&run);
        assert_int_equal(memtrack_process_live(), 0);
        assert_true(n < 2000);
    }
}

/* ---- The page -------------------------------------------------------------------------------- */

static int occurrences(const char *text, const char *what)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, what)); at++)
        count++;
    return count;
}

static char *page_of(const char *path)
{
    char *text = NULL, error[WHY] = "";
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (report_html(out, &path, 1, NULL, error, sizeof error))
        fail_msg("%s", error);
    fclose(out);
    assert_int_equal(memtrack_process_live(), 0);
    return text;
}

static void the_page_has_a_log_of_each_kind(void **state)
{
    (void)state;
    write_all();
    char *page = page_of(rank_path(0)), *at = strstr(page, "class=\"ranks\" id=\"ranks-0\">\n");
    assert_non_null(at);
    at = strchr(at, '\n') + 1;
    json_t *ranks = json_loadb(at, strcspn(at, "\n"), 0, NULL), *kinds = json_object_get(ranks, "kinds");
    assert_non_null(ranks);
    assert_int_equal(json_array_size(kinds), RANKS);
    assert_int_equal(json_integer_value(json_object_get(ranks, "fullest")), FULL);
    assert_int_equal(
        strncmp(json_string_value(json_object_get(ranks, "why")), "Stage 2 (rank 2) is the fullest", 31), 0);
    for (int i = 0; i < RANKS; i++) {
        const json_t *kind = json_array_get(kinds, (size_t)i);
        const char *log = json_string_value(json_object_get(kind, "log"));
        char element[64];
        assert_int_equal(json_integer_value(json_object_get(kind, "planned")),
                         PEAK + (i == FULL ? EXTRA : 0));
        assert_int_equal(log != NULL, i > 0);
        snprintf(element, sizeof element, "class=\"rank-log\" id=\"%s\">", log ? log : "-");
        assert_int_equal(occurrences(page, element), i > 0);
    }
    assert_int_equal(occurrences(page, "\n{\"kind\":\"run\""), RANKS);
    assert_int_equal(occurrences(page, "\n{\"kind\":\"steps\""), 1);
    json_decref(ranks);
    free(page);
}

static void the_page_of_a_run_alone_has_no_ranks(void **state)
{
    (void)state;
    write_run(rank_path(0), STEPS, 0);
    char *page = page_of(rank_path(0));
    assert_int_equal(occurrences(page, "class=\"ranks\" id="), 0);
    assert_int_equal(occurrences(page, "class=\"rank-log\""), 0);
    free(page);
}

/* ---- Words ----------------------------------------------------------------------------------- */

#define MIB ((uint64_t)1 << 20)

static RankKind kind(int rank, uint64_t weights, uint64_t activations)
{
    RankKind k = {.first = rank, .count = 1, .peak = (weights + activations) * MIB};
    snprintf(k.ranks, sizeof k.ranks, "%d", rank);
    k.at_peak[MEM_PARAMETER] = weights * MIB;
    k.at_peak[MEM_ACTIVATION] = activations * MIB;
    return k;
}

static void the_fullest_stage_is_explained(void **state)
{
    (void)state;
    const RankKind kinds[] = {kind(0, 20, 80), kind(1, 15, 60), kind(2, 15, 40), kind(3, 18, 20)};
    RankLayout layout = {4, 1, 1, 4, 6, "ddp", "1f1b", 1};
    assert_string_equal(
        report_ranks_why(&layout, kinds, 4).text,
        "Stage 0 (rank 0) is the fullest with 100.0 MiB, 62.0 MiB more than stage 3 (rank 3), the "
        "emptiest: 60.0 MiB more of activations (it holds 4 micro-batches of a step at once, that "
        "one 1).");
    layout.micro_batches = 2; /* fewer than stages behind it */
    assert_non_null(strstr(report_ranks_why(&layout, kinds, 4).text, "holds 2 micro-batches of a step"));
    strcpy(layout.schedule, "gpipe");
    assert_non_null(strstr(report_ranks_why(&layout, kinds, 4).text, "(each holds 2 micro-batches at once)"));
    assert_string_equal(report_ranks_saving(&layout, kinds, 4).text, ""); /* no data is divided */
}

static void what_dividing_saves_is_in_figures(void **state)
{
    (void)state;
    RankKind k = kind(0, 40, 100);
    RankLayout layout = {2, 2, 1, 1, 1, "ddp", "1f1b", 1};
    k.count = 2;
    k.at_peak[MEM_GRADIENT] = 40 * MIB;
    k.at_peak[MEM_OPTIMIZER] = 80 * MIB;
    k.at_peak[MEM_GATHERED] = 7 * MIB;
    k.peak = (40 + 100 + 40 + 80 + 7 + 3) * MIB;
    assert_non_null(
        strstr(report_ranks_saving(&layout, &k, 1).text, "160.0 MiB of its 270.0 MiB at the peak"));
    static const char *const said[] = {
        "80.0 MiB are parts of what is divided: states. The rest is each rank's own: 80.0 MiB of weights and "
        "gradients, 100.0 MiB of activations, 7.0 MiB of gathered weights, 3.0 MiB of other overhead.",
        "120.0 MiB are parts of what is divided: gradients and states (a gradient is whole until it is "
        "summed). "
        "The rest is each rank's own: 40.0 MiB of weights, 100.0 MiB of activations",
        "160.0 MiB are parts of what is divided: weights, gradients and states (a gradient is whole until it "
        "is "
        "summed). The rest is each rank's own: 100.0 MiB of activations, 7.0 MiB"};
    for (int level = 1; level <= 3; level++) {
        snprintf(layout.strategy, sizeof layout.strategy, "zero%d", level);
        RankWords words = report_ranks_saving(&layout, &k, 1);
        assert_int_equal(strncmp(words.text, "Why do 2 ranks not need 1/2 each?", 33), 0);
        if (!strstr(words.text, said[level - 1]))
            fail_msg("%s", words.text);
    }
    layout.data = 8;
    layout.replicas = 2;
    assert_non_null(strstr(report_ranks_saving(&layout, &k, 1).text,
                           "Why do 4 ranks not need 1/4 each, those of a replica?"));
    assert_non_null(strstr(report_ranks_why(&layout, &k, 1).text, "No rank is fuller than another"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_is_read),
        cmocka_unit_test(ranks_that_are_alike_are_one_kind),
        cmocka_unit_test(one_of_several_is_shown_alone),
        cmocka_unit_test(a_run_that_is_alone_has_no_ranks),
        cmocka_unit_test(a_log_may_stand_for_several),
        cmocka_unit_test(a_missing_log_is_named),
        cmocka_unit_test(a_killed_rank_is_shown_as_far_as_it_came),
        cmocka_unit_test(a_strange_log_is_left_out),
        cmocka_unit_test(hostile_ranks),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(the_page_has_a_log_of_each_kind),
        cmocka_unit_test(the_page_of_a_run_alone_has_no_ranks),
        cmocka_unit_test(the_fullest_stage_is_explained),
        cmocka_unit_test(what_dividing_saves_is_in_figures),
    };
    return cmocka_run_group_tests(tests, make_log_folder, remove_log_folder);
}
