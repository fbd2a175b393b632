/* A run log, read back and exported every way. */
#include "../../report/exports.h"
#include "../../report/runlog_ranks.h"
#include "fuzz_json.h"

static void check(const RunRecord *run)
{
    uint64_t live = 0, time = 0;
    for (size_t i = 0; i < run->event_count; i++) {
        const RunEvent *e = &run->events[i];
        fuzz_check(e->time_us >= time && e->block < run->block_count && e->component < run->components.count,
                   "an event out of range");
        live += e->kind == RUN_ALLOC ? e->bytes : 0;
        live -= e->kind == RUN_FREE ? e->bytes : 0;
        fuzz_check(live == e->live, "an event's live bytes are not the sum");
        fuzz_check(report_run_address(run, e) + e->bytes <= run->reserved, "a block outside the reservation");
        fuzz_check(report_run_path(run, e->path) && report_run_op(run, e->op), "a place without a name");
        time = e->time_us;
    }
}

/* Whatever it says of ranks, those beside it are not there. */
static void check_ranks(const RunRecord *run)
{
    RunRanks ranks;
    RankKind words;
    fuzz_check(report_run_ranks(run, &ranks) == 0, "ranks cannot be read");
    fuzz_check(ranks.count == (run->rank.size > 0), "a log is of one kind of ranks, or of none");
    if (ranks.count) {
        report_run_ranks_words(&ranks, &words);
        fuzz_check(report_ranks_why(&ranks.layout, &words, 1).text[0] != 0, "nothing is said of a rank");
        report_ranks_saving(&ranks.layout, &words, 1);
    }
    report_run_ranks_free(&ranks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int (*const exports[])(const RunRecord *, FILE *) = {
        report_torch_snapshot, report_chrome_trace, report_massif, report_events_csv, report_events_jsonl};
    static FILE *nowhere;
    char why[512] = "";
    uint64_t before = memtrack_process_live();
    RunRecord run = {0};
    nowhere = nowhere ? nowhere : fopen("/dev/null", "wb");
    fuzz_fail_one(data, size);
    int failed = report_run_read(fuzz_put("run.jsonl", data, size), &run, why, sizeof why) != 0;
    memtrack_fail_nth(0);
    fuzz_check(failed == (why[0] != 0), "result and message do not agree");
    if (!failed) {
        check(&run);
        check_ranks(&run);
        for (size_t i = 0; i < sizeof exports / sizeof exports[0]; i++)
            fuzz_check(exports[i](&run, nowhere) == 0, "an export fails");
    }
    report_run_free(&run);
    fuzz_check(memtrack_process_live() == before, "memory is left");
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 0, 1);
}
