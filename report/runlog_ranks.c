/* See runlog_ranks.h. */
#include "runlog_ranks.h"

#include <string.h>
#include <sys/stat.h>

#include "../base/plural_.h"
#include "runlog.h"
#include "runlog_read_.h"

enum { PATH_MOST = 4096, NOTES_MOST = 24 };

/* ---- One log --------------------------------------------------------------------------------- */

/* FNV-1a over what a run and its plan have in common: all of an event but its time. */
static uint64_t signature_of(const RunRecord *run)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < run->event_count; i++) {
        const RunEvent *e = &run->events[i];
        const uint64_t of[] = {e->kind,           (uint64_t)e->step, e->phase, e->component,
                               (uint64_t)e->path, (uint64_t)e->op,   e->bytes};
        for (size_t k = 0; k < sizeof of / sizeof of[0]; k++)
            hash = (hash ^ of[k]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

static uint64_t highest_of(const RunRecord *run)
{
    uint64_t highest = run->end.memory.present ? run->end.memory.peak_bytes : 0;
    for (size_t i = 0; i < run->step_count; i++)
        highest = run->steps[i].peak_bytes > highest ? run->steps[i].peak_bytes : highest;
    return highest;
}

/* A log's own components, by name. */
static void by_component(const RunRecord *run, const uint64_t *from, uint64_t *to)
{
    for (size_t i = 0; i < run->components.count; i++)
        for (int c = 0; c < MEM_COMPONENT_COUNT; c++)
            if (!strcmp(run->components.names[i], memtrack_component_name((MemComponent)c)))
                to[c] += from[i];
}

static RunKind kind_of(const RunRecord *run)
{
    RunKind k = {.words.first = run->rank.rank,
                 .planned_peak = run->plan.peak_bytes,
                 .needs = run->plan.needs_bytes,
                 .measured_peak = run->planned ? 0 : highest_of(run),
                 .process = run->end.memory.process_peak,
                 .sent = run->rank.sent,
                 .signature = signature_of(run)};
    const RankLayout *l = &run->rank.layout;
    int measured = run->end.memory.present;
    k.stage = l->stages > 1 ? run->rank.rank / (l->size / l->stages) : 0;
    k.words.peak = measured ? run->end.memory.peak_bytes : run->plan.peak_bytes;
    by_component(run, measured ? run->end.memory.at_peak : run->plan.at_peak, k.words.at_peak);
    return k;
}

static int alike(const RunKind *a, const RunKind *b)
{
    return a->planned_peak == b->planned_peak && a->needs == b->needs &&
           a->measured_peak == b->measured_peak && a->signature == b->signature && a->stage == b->stage;
}

/* ---- All of them ------------------------------------------------------------------------------ */

static int add_note(RunRanks *ranks, const char *note)
{
    if (ranks->notes.count > NOTES_MOST)
        return 0;
    return report_run_add_name_(&ranks->notes, ranks->notes.count == NOTES_MOST
                                                   ? "There are further notes on the logs of other ranks."
                                                   : note);
}

/* Enters the log for the ranks that it is of. */
static int enter(RunRanks *ranks, const RunRecord *run)
{
    RunKind k = kind_of(run);
    int at = 0;
    while (at < ranks->count && !alike(&ranks->kinds[at], &k))
        at++;
    if (at == ranks->count) {
        size_t capacity = (size_t)ranks->capacity;
        void *items = ranks->kinds;
        if (report_run_room_(&items, &capacity, (size_t)ranks->count, sizeof k))
            return -1;
        ranks->kinds = items;
        ranks->capacity = (int)capacity;
        ranks->kinds[ranks->count++] = k;
    }
    for (int r = run->rank.first; r <= run->rank.last; r++) {
        if (ranks->kind[r] >= 0) /* its own log, or an earlier one, has said what it is */
            continue;
        ranks->kinds[at].words.count++;
        ranks->kind[r] = at;
    }
    if (ranks->kinds[at].process < k.process)
        ranks->kinds[at].process = k.process;
    return 0;
}

/* Why the log is not that of this rank; NULL when it is. */
static const char *stranger(const RunRecord *own, const RunRecord *other, int rank)
{
    if (other->rank.size != own->rank.size || strcmp(other->rank.run, own->rank.run) != 0 ||
        other->planned != own->planned)
        return "is of another run";
    return other->rank.rank == rank ? NULL : "says that it is of another rank";
}

static int note_of(RunRanks *ranks, int rank, const char *what, const char *why)
{
    char note[640];
    snprintf(note, sizeof note, "Rank %d: %.380s%.220s", rank, what, why);
    return add_note(ranks, note);
}

/* 0, or -1 without memory. */
static int read_other(const RunRecord *own, RunRanks *ranks, int rank)
{
    char path[PATH_MOST], why[PATH_MOST + 128];
    RunRecord run;
    struct stat status;
    if (report_log_rank_path(path, sizeof path, own->path, rank) || stat(path, &status) != 0)
        return 0;                 /* those that are missing are named together */
    if (!S_ISREG(status.st_mode)) /* a pipe would be waited for */
        return note_of(ranks, rank, "its log cannot be used: it is no file", "");
    memset(&run, 0, sizeof run);
    if (report_run_read(path, &run, why, sizeof why))
        return note_of(ranks, rank, "its log cannot be used: ", why);
    const char *strange = stranger(own, &run, rank);
    int failed = 0;
    if (strange) {
        char what[PATH_MOST + 64];
        snprintf(what, sizeof what, "%.300s %s, and is left out.", path, strange);
        failed = note_of(ranks, rank, what, "");
    } else {
        failed = enter(ranks, &run);
        for (size_t i = 0; i < run.notes.count && !failed; i++)
            failed = note_of(ranks, rank, "", run.notes.names[i]);
    }
    report_run_free(&run);
    return failed;
}

/* "0-3, 5", of those that are of the kind; -1: of those that nothing is known of. */
RankWords report_run_ranks_of(const RunRanks *ranks, int kind)
{
    RankWords out = {""};
    int any = 0;
    for (int r = 0, last; r < ranks->layout.size; r = last + 1) {
        size_t length = strlen(out.text);
        for (last = r; last + 1 < ranks->layout.size && ranks->kind[last + 1] == ranks->kind[r];)
            last++;
        if (ranks->kind[r] != kind)
            continue;
        if (length > 44) {
            snprintf(out.text + length, sizeof out.text - length, ", ...");
            break;
        }
        snprintf(out.text + length, sizeof out.text - length, last > r ? "%s%d-%d" : "%s%d",
                 any++ ? ", " : "", r, last);
    }
    return out;
}

static int note_missing(const RunRecord *own, RunRanks *ranks)
{
    char note[PATH_MOST + 256];
    int missing = 0, first = -1;
    for (int r = 0; r < ranks->layout.size; r++)
        if (ranks->kind[r] < 0) {
            missing++;
            first = first < 0 ? r : first;
        }
    if (!missing)
        return 0;
    RankWords which = report_run_ranks_of(ranks, -1);
    if (own->rank.rank)
        snprintf(note, sizeof note,
                 "This is the log of rank %d of %d. That of rank 0 is read together with those of the "
                 "others, which "
                 "lie beside it.",
                 own->rank.rank, own->rank.size);
    else
        snprintf(
            note, sizeof note,
            "Of rank%s %s there is no log that can be shown: %.300s.rank-%d is looked for beside rank 0's.",
            plural(missing), which.text, own->path, first);
    return add_note(ranks, note);
}

int report_run_ranks(const RunRecord *run, RunRanks *ranks)
{
    memset(ranks, 0, sizeof *ranks);
    int size = run->rank.size, failed;
    if (!size)
        return 0;
    ranks->layout = run->rank.layout;
    ranks->rank = run->rank.rank;
    ranks->kind = memtrack_host_alloc(NULL, (size_t)size * sizeof *ranks->kind);
    for (int r = 0; ranks->kind && r < size; r++)
        ranks->kind[r] = -1;
    failed = !ranks->kind || enter(ranks, run);
    for (int r = 0; r < size && !failed && !run->rank.rank; r++)
        if (ranks->kind[r] < 0)
            failed = read_other(run, ranks, r);
    for (int i = 0; i < ranks->count && !failed; i++)
        snprintf(ranks->kinds[i].words.ranks, sizeof ranks->kinds[i].words.ranks, "%.63s",
                 report_run_ranks_of(ranks, i).text);
    if (!failed)
        failed = note_missing(run, ranks);
    if (failed)
        report_run_ranks_free(ranks);
    return failed ? -1 : 0;
}

void report_run_ranks_free(RunRanks *ranks)
{
    if (ranks->kind)
        memtrack_host_free(NULL, ranks->kind, (size_t)ranks->layout.size * sizeof *ranks->kind);
    memtrack_host_free(NULL, ranks->kinds, (size_t)ranks->capacity * sizeof *ranks->kinds);
    for (size_t i = 0; i < ranks->notes.count; i++)
        memtrack_host_free(NULL, ranks->notes.names[i], strlen(ranks->notes.names[i]) + 1);
    memtrack_host_free(NULL, ranks->notes.names, ranks->notes.capacity * sizeof *ranks->notes.names);
    memset(ranks, 0, sizeof *ranks);
}

void report_run_ranks_words(const RunRanks *ranks, RankKind *out)
{
    for (int i = 0; i < ranks->count; i++)
        out[i] = ranks->kinds[i].words;
}
