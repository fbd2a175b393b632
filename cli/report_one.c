/* What one run log says, as a page of text. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "../base/plural_.h"
#include "../estimate/pytorch_allocator.h"
#include "cli.h"
#include "report_.h"
#include "several.h"

/* ---- The summary ----------------------------------------------------------------------------- */

const char *run_option(const RunRecord *run, const char *name)
{
    for (size_t i = 0; i < run->option_names.count; i++)
        if (!strcmp(run->option_names.names[i], name))
            return run->option_values.names[i];
    return "";
}

/* Logs of version 0.2 have no such option. */
static void print_unusual(const RunRecord *run, const char *name, const char *usual)
{
    const char *value = run_option(run, name);
    if (value[0] && strcmp(value, usual) != 0)
        printf("  %s", value);
}

void print_run(const RunRecord *run, const char *indent)
{
    printf("%s  %s parameters  %s  batch %s", run->model, report_count(run->parameters).text,
           run_option(run, "optimizer"), run_option(run, "batch"));
    if (strcmp(run_option(run, "seq"), "0"))
        printf(" x seq %s", run_option(run, "seq"));
    if (strcmp(run_option(run, "accumulate"), "1"))
        printf(" x accumulate %s", run_option(run, "accumulate"));
    if (strcmp(run_option(run, "checkpoint"), "none"))
        printf("  checkpoint %s", run_option(run, "checkpoint"));
    if (run_option(run, "attention")[0])
        printf("  %s attention", run_option(run, "attention"));
    if (run_option(run, "lora")[0])
        printf("  LoRA %s", run_option(run, "lora"));
    print_unusual(run, "precision", "fp32");
    print_unusual(run, "weights", "fp32");
    print_unusual(run, "quantize", "none");
    printf("\n%sbrim %s\n", indent, run->command);
}

static void print_loss(double loss)
{
    if (isfinite(loss))
        printf("%.4f", loss);
    else
        printf("not finite");
}

/* What the steps took and what the evaluations did; where a line does not say, what the whole run took. */
static void print_seconds(const RunRecord *run, int complete)
{
    double steps = 0, validation = 0;
    for (size_t i = 0; i < run->step_count; i++)
        steps += run->steps[i].seconds;
    for (size_t i = 0; i < run->validation_count; i++)
        validation += run->validations[i].seconds;
    if (complete && run->validation_count && isfinite(steps) && isfinite(validation))
        printf(", %.1f s; validation %.1f s", steps, validation);
    else if (run->end.present)
        printf(", %.1f s in all", run->end.seconds);
}

static void print_skipped(const RunRecord *run)
{
    int skipped = 0;
    for (size_t i = 0; i < run->step_count; i++)
        skipped += run->steps[i].skipped;
    if (skipped)
        printf(", %d of them skipped because a gradient overflowed", skipped);
}

static void print_steps(const RunRecord *run)
{
    const RunStep *steps = run->steps;
    size_t count = run->step_count;
    int64_t made = run->end.present && run->end.steps > (int64_t)count ? run->end.steps : (int64_t)count;
    printf("\n%" PRId64 " step%s", made, plural(made));
    if (strcmp(run_option(run, "steps"), ""))
        printf(" of %s", run_option(run, "steps"));
    if (made > (int64_t)count)
        printf(", of which the log has lines of %zu", count);
    print_skipped(run);
    print_seconds(run, made == (int64_t)count);
    if (made) { /* of lost steps as the end says */
        int lost = made > (int64_t)count;
        printf("; loss ");
        print_loss(lost ? run->end.loss_first : steps[0].loss);
        printf(" -> ");
        print_loss(lost ? run->end.loss_last : steps[count - 1].loss);
    }
    if (run->validation_count) {
        const RunValidation *last = &run->validations[run->validation_count - 1];
        printf("; held out ");
        print_loss(last->loss);
        if (last->accuracy >= 0)
            printf(", accuracy %.2f %%", 100 * last->accuracy);
    }
    printf("\n");
    if (run->end.failed)
        printf("The run failed: %s\n", run->end.error);
}

enum { LABEL = 26, COLUMN = 14 };

static Measured peak_of_events(const RunRecord *run)
{
    Measured m = {.peak = run->peak_live, .present = run->event_count > 0};
    for (size_t i = 0; i < run->event_count && i <= run->peak_event; i++) {
        const RunEvent *e = &run->events[i];
        m.at_peak[e->from] -= e->kind == RUN_ALLOC ? 0 : e->bytes;
        m.at_peak[e->component] += e->kind == RUN_FREE ? 0 : e->bytes;
    }
    return m;
}

Measured measured_peak(const RunRecord *run)
{
    Measured m = {.peak = run->end.memory.peak_bytes, .present = run->end.memory.present};
    if (run->planned)
        return m;
    memcpy(m.at_peak, run->end.memory.at_peak, sizeof m.at_peak);
    if (m.present)
        return m;
    for (size_t i = 0; i < run->step_count; i++)
        if (run->steps[i].peak_bytes > m.peak) {
            m.present = 1;
            m.peak = run->steps[i].peak_bytes;
            memcpy(m.at_peak, run->steps[i].at_peak, sizeof m.at_peak);
        }
    return m.present ? m : peak_of_events(run);
}

static void table_row(const char *label, int indent, uint64_t planned, const uint64_t *measured)
{
    printf("%*s%-*s%*s%*s\n", indent, "", LABEL - indent, label, COLUMN, report_count((int64_t)planned).text,
           measured ? COLUMN : 0, measured ? report_count((int64_t)*measured).text : "");
}

static void print_group(const RunRecord *run, const Measured *m, size_t group)
{
    uint64_t planned = 0, measured = 0;
    int members = 0;
    for (size_t i = 0; i < run->components.count; i++)
        if (run->component_group[i] == (int)group && (run->plan.at_peak[i] || m->at_peak[i])) {
            planned += run->plan.at_peak[i];
            measured += m->at_peak[i];
            members++;
        }
    table_row(run->groups.names[group], 0, planned, m->present ? &measured : NULL);
    for (size_t i = 0; members > 1 && i < run->components.count; i++)
        if (run->component_group[i] == (int)group && (run->plan.at_peak[i] || m->at_peak[i]))
            table_row(run->components.names[i], 2, run->plan.at_peak[i], m->present ? &m->at_peak[i] : NULL);
}

static void print_where(const RunRecord *run)
{
    const RunMemory *where = run->end.memory.present ? &run->end.memory : &run->plan;
    if (!where->present)
        return;
    printf("%s: step %" PRId64 ", %s, %s%s%s\n", where == &run->plan ? "planned peak at" : "peak at",
           where->peak_step, where->peak_phase, where->peak_path[0] ? where->peak_path : "the model itself",
           where->peak_op[0] ? ", " : "", where->peak_op);
}

static void print_peak(const RunRecord *run)
{
    Measured m = measured_peak(run);
    if (!run->plan.present && !m.present)
        return;
    printf("\n%-*s%*s%*s\n", LABEL, "bytes at peak", COLUMN, "planned", m.present ? COLUMN : 0,
           m.present ? "measured" : "");
    for (size_t g = 0; g < run->groups.count; g++)
        print_group(run, &m, g);
    table_row("peak", 0, run->plan.peak_bytes, m.present ? &m.peak : NULL);
    table_row("needs", 0, run->plan.needs_bytes,
              run->end.memory.present ? &run->end.memory.needs_bytes : NULL);
    print_where(run);
}

static void print_card(const RunRecord *run)
{
    const RunMemory *m = &run->end.memory;
    if (!m->present || !m->card.used)
        return;
    printf("\n%-*s%*s\n", LABEL, "bytes on the card", COLUMN, "at the end");
    table_row("reserved", 0, m->card_reserved, NULL);
#define X(id, name, whose)                                                                                   \
    if (m->card.id)                                                                                          \
        table_row(name, 0, m->card.id, NULL);
    MEM_CARD_ROWS(X)
#undef X
    table_row("unaccounted", 0, (uint64_t)m->card_unaccounted, NULL);
    table_row("used", 0, m->card.used, NULL);
    if (m->card.counter != MEM_CARD_NONE)
        printf("used: %s\n", report_card_meaning(m->card.counter));
}

/* What PyTorch's allocator would make of these requests; silent where there is no memory to find out. */
static void print_pytorch(const RunRecord *run)
{
    PytorchReplay *replay = estimate_pytorch_create(NULL);
    int failed = !replay;
    for (size_t i = 0; i < run->event_count && !failed; i++) {
        const RunEvent *e = &run->events[i];
        if (e->kind == RUN_ALLOC)
            failed = estimate_pytorch_alloc(replay, e->serial, e->requested) != 0;
        else if (e->kind == RUN_FREE)
            estimate_pytorch_free(replay, e->serial);
    }
    if (!failed && run->event_count) {
        const PytorchBooks *b = estimate_pytorch_books(replay);
        char segments[64];
        snprintf(segments, sizeof segments, "reserved, in %" PRIu64 " segment%s",
                 b->small_segments + b->large_segments,
                 plural((long long)(b->small_segments + b->large_segments)));
        printf("By the rules of PyTorch's CUDA allocator, bytes, each at its own peak:\n");
        table_row("requested", 0, b->peak_requested, NULL);
        table_row("rounded", 0, b->peak_allocated, NULL);
        table_row(segments, 0, b->peak_reserved, NULL);
    }
    estimate_pytorch_destroy(replay);
}

static void print_notes(const RunNames *notes)
{
    for (size_t i = 0; i < notes->count; i++)
        printf("Note: %s\n", notes->names[i]);
}

static int fullest(const RunRanks *ranks)
{
    int most = 0;
    for (int i = 1; i < ranks->count; i++)
        if (ranks->kinds[i].words.peak > ranks->kinds[most].words.peak)
            most = i;
    return most;
}

static void print_rank_row(const RunRanks *ranks, int i, int planned)
{
    const RunKind *k = &ranks->kinds[i];
    int full = ranks->count > 1 && i == fullest(ranks);
    printf("%-26s", report_rank_name(&ranks->layout, &k->words).text);
    print_size_cell((double)k->planned_peak, "");
    if (planned)
        print_size_cell((double)k->needs, "");
    else if (k->measured_peak)
        print_size_cell((double)k->measured_peak, "");
    else
        printf(" %13s", "-");
    if (!planned && k->process)
        print_size_cell((double)k->process, "");
    else if (!planned)
        printf(" %13s", "-");
    print_size_cell((double)k->sent, full ? "  <- the fullest\n" : "\n");
}

static void print_ranks(const RunRecord *run, const RunRanks *ranks)
{
    if (!ranks->count)
        return;
    if (run->planned)
        printf("\n%-26s %13s %13s %13s\n", "RANKS", "planned peak", "needs", "sent a step");
    else
        printf("\n%-26s %13s %13s %13s %13s\n", "RANKS", "planned peak", "measured", "process",
               "sent a step");
    for (int i = 0; i < ranks->count; i++)
        print_rank_row(ranks, i, run->planned);
    RankKind *kinds = memtrack_host_calloc(NULL, (size_t)ranks->count * sizeof *kinds);
    if (!kinds)
        return;
    report_run_ranks_words(ranks, kinds);
    print_ranks_why(&ranks->layout, kinds, ranks->count);
    memtrack_host_free(NULL, kinds, (size_t)ranks->count * sizeof *kinds);
    printf("All else here is of rank %d.\n", ranks->rank);
}

void print_summary(const RunRecord *run, const RunRanks *ranks)
{
    print_run(run, "");
    if (run->notes.count || ranks->notes.count)
        printf("\n");
    print_notes(&run->notes);
    print_notes(&ranks->notes);
    if (run->planned)
        printf("\nA plan: nothing has run.\n");
    else
        print_steps(run);
    print_ranks(run, ranks);
    print_peak(run);
    print_card(run);
    if (run->event_count)
        printf("\n%s events, from byte 0 %s step %d\n", report_count((int64_t)run->event_count).text,
               run->events_complete ? "to the end of" : "into", run->events[run->event_count - 1].step + 1);
    print_pytorch(run);
}
