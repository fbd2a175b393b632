/* brim report snapshot.pickle --predict OPTIONS: the sequence that `plan --framework pytorch` predicts beside
 * the recorded one, and the first event that differs.
 *
 * Allocations are compared in order, by their bytes and by what was freed since the one before. A record may
 * begin anywhere: it is laid on each phase of the prediction, and the one that it follows for longest is
 * taken. */
#include <stdlib.h>
#include <string.h>

#include "../memtrack/grow_.h"
#include "cli.h"
#include "pytorch.h"
#include "report_.h"

enum { LEAST = 8, SHOWN = 3, ALL = 4096 };

/* An allocation, and the frees since the one before: how many of blocks that were made in the sequence, and
 * from where on to look in `freed`. */
typedef struct Made {
    uint64_t bytes;
    size_t frees; /* the first of them in Sequence.freed */
    size_t event; /* of the record */
    PytorchEvent predicted;
    int starts; /* the first of a phase */
} Made;

typedef struct Sequence {
    Made *made;
    size_t count, capacity;
    uint64_t *freed; /* numbers of allocations, in the order in which they went */
    size_t freed_count, freed_capacity;
    PytorchPhase phase;
    int step, micro;
    uint64_t before; /* blocks that were there before the record */
} Sequence;

typedef struct Match {
    size_t from, equal; /* in the prediction; allocations that are equal */
} Match;

/* ---- Both sequences -------------------------------------------------------------------------- */

static int add_made(Sequence *s, Made made)
{
    Made *all = memtrack_grow(s->made, &s->capacity, s->count + 1, sizeof *all);
    if (!all)
        return -1;
    s->made = all;
    made.frees = s->freed_count;
    s->made[s->count++] = made;
    return 0;
}

static int add_freed(Sequence *s, uint64_t number)
{
    uint64_t *all = memtrack_grow(s->freed, &s->freed_capacity, s->freed_count + 1, sizeof *all);
    if (!all)
        return -1;
    s->freed = all;
    s->freed[s->freed_count++] = number;
    return 0;
}

static int predicted(void *user, const PytorchEvent *e)
{
    Sequence *s = user;
    if (e->action == PYTORCH_FREE)
        return add_freed(s, e->serial - 1);
    if (e->action != PYTORCH_ALLOC)
        return 0;
    int starts = !s->count || e->phase != s->phase || e->step != s->step || e->micro != s->micro;
    s->phase = e->phase;
    s->step = e->step;
    s->micro = e->micro;
    return add_made(s, (Made){.bytes = e->bytes, .predicted = *e, .starts = starts});
}

/* The number of the allocation that an event of the record is. */
static uint64_t made_at(const Sequence *s, size_t event)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->made[middle].event < event)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int recorded(void *user, const TorchMove *move)
{
    Sequence *s = user;
    if (move->event == TORCH_NONE) {
        s->before++;
        return 0;
    }
    if (move->is_free)
        return move->serial > s->before ? add_freed(s, made_at(s, move->serial - 1 - s->before)) : 0;
    return add_made(s, (Made){.bytes = move->bytes, .event = move->event});
}

static void sequence_free(Sequence *s)
{
    memtrack_host_free(NULL, s->made, s->capacity * sizeof *s->made);
    memtrack_host_free(NULL, s->freed, s->freed_capacity * sizeof *s->freed);
}

/* ---- Laying one on the other ----------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* The numbers, from `origin` on, that were freed before the i-th allocation and after the one before. */
static size_t freed_before(const Sequence *s, size_t i, size_t origin, uint64_t *numbers)
{
    size_t count = 0;
    for (size_t f = i ? s->made[i - 1].frees : 0; f < s->made[i].frees && count < ALL; f++)
        if (s->freed[f] >= origin)
            numbers[count++] = s->freed[f] - origin;
    qsort(numbers, count, sizeof *numbers, by_number);
    return count;
}

static int same(const Sequence *p, size_t from, const Sequence *r, size_t i)
{
    static uint64_t ours[ALL], theirs[ALL];
    if (p->made[from + i].bytes != r->made[i].bytes)
        return 0;
    if (!i)
        return 1;
    size_t count = freed_before(p, from + i, from, ours);
    return count == freed_before(r, i, 0, theirs) && !memcmp(ours, theirs, count * sizeof *ours);
}

static Match lay(const Sequence *p, const Sequence *r)
{
    Match best = {.equal = 0};
    for (size_t from = 0; from < p->count; from++) {
        Match m = {.from = from};
        if (!p->made[from].starts)
            continue;
        while (m.equal < r->count && from + m.equal < p->count && same(p, from, r, m.equal))
            m.equal++;
        if (m.equal > best.equal)
            best = m;
    }
    return best;
}

/* ---- As text and JSON ------------------------------------------------------------------------ */

static void print_sides(const TorchSnapshot *snapshot, const Sequence *p, const Sequence *r, const Match *m)
{
    char place[400];
    size_t first = m->equal > SHOWN ? m->equal - SHOWN : 0;
    printf("\n%10s%18s%18s\n", "event", "recorded", "predicted");
    for (size_t i = first; i < m->equal + SHOWN; i++) {
        const Made *ours = m->from + i < p->count ? &p->made[m->from + i] : NULL;
        const Made *theirs = i < r->count ? &r->made[i] : NULL;
        printf("%10s%18s%18s%s", theirs ? report_count((int64_t)theirs->event + 1).text : "",
               theirs ? report_count((int64_t)theirs->bytes).text : "",
               ours ? report_count((int64_t)ours->bytes).text : "", i == m->equal ? "  < " : "    ");
        if (ours)
            printf("%s", pytorch_place(&ours->predicted, 2).text);
        place[0] = '\0';
        if (theirs && i == m->equal)
            report_torch_place(snapshot, snapshot->events[theirs->event].frames, place, sizeof place);
        printf("%s%s\n", place[0] ? " | recorded in " : "", place);
    }
}

static void print_match(const TorchSnapshot *snapshot, const Sequence *p, const Sequence *r, const Match *m,
                        const PytorchJob *job)
{
    printf("\nPREDICTED for %s\n", pytorch_versions(job).text);
    if (m->equal < LEAST && m->equal < r->count) {
        printf("No phase of the prediction begins as the record does (%s allocations); is it the same job?\n",
               report_count((int64_t)r->count).text);
        return;
    }
    printf("The record begins at: %s\n", pytorch_place(&p->made[m->from].predicted, 2).text);
    printf("%s allocations of %s are as predicted, with what is freed between them.\n",
           report_count((int64_t)m->equal).text, report_count((int64_t)r->count).text);
    if (m->equal == r->count)
        return;
    if (m->from + m->equal == p->count)
        printf("The prediction has two steps and ends there; the record goes on.\n");
    else if (p->made[m->from + m->equal].bytes == r->made[m->equal].bytes)
        printf("The first that differs, in what was freed before it:\n");
    else
        printf("The first that differs:\n");
    if (m->from + m->equal < p->count)
        print_sides(snapshot, p, r, m);
}

static json_t *match_json(const Sequence *p, const Sequence *r, const Match *m, const PytorchJob *job)
{
    json_t *o = json_object();
    int ends = m->from + m->equal == p->count, all = m->equal == r->count;
    json_object_set_new(o, "versions", pytorch_versions_json(job));
    json_object_set_new(o, "equal", json_boolean(all));
    json_object_set_new(o, "allocations", json_integer((json_int_t)r->count));
    json_object_set_new(o, "equal_allocations", json_integer((json_int_t)m->equal));
    json_object_set_new(o, "begins_at",
                        p->count ? pytorch_place_json(&p->made[m->from].predicted) : json_null());
    json_object_set_new(o, "differs_at_event",
                        all ? json_null() : json_integer((json_int_t)r->made[m->equal].event + 1));
    json_object_set_new(o, "recorded_bytes",
                        all ? json_null() : json_integer((json_int_t)r->made[m->equal].bytes));
    json_object_set_new(o, "predicted_bytes",
                        ends ? json_null() : json_integer((json_int_t)p->made[m->from + m->equal].bytes));
    json_object_set_new(o, "predicted_at",
                        ends ? json_null() : pytorch_place_json(&p->made[m->from + m->equal].predicted));
    return o;
}

/* ---- The options ----------------------------------------------------------------------------- */

int report_predict_job(int argc, char **argv, PytorchJob *job)
{
    static Options options;
    static char framework[] = "--framework", pytorch[] = "pytorch";
    char *all[128];
    const int most = (int)(sizeof all / sizeof *all) - 2;
    if (argc > most) {
        complain("--predict takes at most %d words", most);
        return EXIT_USAGE;
    }
    memcpy(all, argv, (size_t)argc * sizeof *all);
    all[argc] = framework;
    all[argc + 1] = pytorch;
    if (options_parse(&options, 1, "plan", argc + 2, all) != 1)
        return EXIT_USAGE;
    const Card *card;
    return pytorch_one_card(&options, &card) || pytorch_job(&options, card, job) ? EXIT_USAGE : EXIT_DONE;
}

int report_predict(const TorchSnapshot *snapshot, const PytorchJob *job, json_t **json)
{
    Sequence p = {.count = 0}, r = {.count = 0};
    int failed = estimate_pytorch_job(job, predicted, &p) || report_torch_moves(snapshot, recorded, &r);
    if (!failed) {
        Match m = lay(&p, &r);
        if (json)
            *json = match_json(&p, &r, &m, job);
        else
            print_match(snapshot, &p, &r, &m, job);
    }
    sequence_free(&p);
    sequence_free(&r);
    return failed;
}
