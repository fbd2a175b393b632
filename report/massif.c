/* The file of valgrind's massif: snapshots of the heap, some with a tree of what it is made of. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "exports_.h"

enum { SNAPSHOTS = 100, DETAILED_EVERY = 10 };

/* A live block, for a tree. */
typedef struct Leaf {
    uint64_t requested;
    int32_t path, op;
    uint8_t component;
} Leaf;

typedef struct Massif {
    const RunRecord *run;
    FILE *out;
    uint64_t time; /* bytes allocated and freed so far */
    uint64_t requested;
    uint8_t *component; /* by block: what it is now */
    Leaf *leaves;
    int snapshots;
} Massif;

/* A name without what would end a line or, to ms_print, begin a comment. */
static void put_name(FILE *out, const char *text)
{
    for (; *text; text++)
        putc((unsigned char)*text < ' ' || *text == '#' ? '_' : *text, out);
}

/* ---- Trees ----------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const Leaf *x = a, *y = b;
    if (x->component != y->component)
        return x->component < y->component ? -1 : 1;
    if (x->path != y->path)
        return x->path < y->path ? -1 : 1;
    return (x->op > y->op) - (x->op < y->op);
}

/* By component, in its order, then the largest first. */
static int by_size(const void *a, const void *b)
{
    const Leaf *x = a, *y = b;
    if (x->component != y->component)
        return x->component < y->component ? -1 : 1;
    if (x->requested != y->requested)
        return x->requested > y->requested ? -1 : 1;
    return by_name(a, b);
}

/* What is live after event i, one leaf a component, place and op. */
static size_t find_leaves(Massif *m, size_t i)
{
    const RunRecord *run = m->run;
    size_t count = 0, merged = 0;
    for (size_t b = 0; b < run->block_count && run->blocks[b].alloc <= i; b++) {
        const RunEvent *made = &run->events[run->blocks[b].alloc];
        if (run->blocks[b].free > i)
            m->leaves[count++] = (Leaf){made->requested, made->path, made->op, m->component[b]};
    }
    qsort(m->leaves, count, sizeof *m->leaves, by_name);
    for (size_t k = 0; k < count; k++) {
        if (merged && by_name(&m->leaves[merged - 1], &m->leaves[k]) == 0)
            m->leaves[merged - 1].requested += m->leaves[k].requested;
        else
            m->leaves[merged++] = m->leaves[k];
    }
    qsort(m->leaves, merged, sizeof *m->leaves, by_size);
    return merged;
}

/* The leaves of one component; those below a hundredth of all are one line. */
static void write_component(Massif *m, const Leaf *leaves, size_t count)
{
    uint64_t sum = 0, rest = 0;
    size_t shown = 0;
    for (size_t k = 0; k < count; k++) {
        int large = leaves[k].requested >= m->requested / 100;
        sum += leaves[k].requested;
        rest += large ? 0 : leaves[k].requested;
        shown += (size_t)large;
    }
    fprintf(m->out, " n%zu: %" PRIu64 " 0x%x: ", shown + (shown < count), sum, leaves[0].component + 1u);
    put_name(m->out, report_run_component(m->run, leaves[0].component));
    fputs(" (component)\n", m->out);
    for (size_t k = 0; k < shown; k++) { /* the largest come first */
        fprintf(m->out, "  n0: %" PRIu64 " 0x%x: ", leaves[k].requested, (unsigned)leaves[k].path + 1u);
        put_name(m->out, report_path_text_(m->run, leaves[k].path));
        fputs(" (", m->out);
        put_name(m->out, report_op_text_(m->run, leaves[k].op));
        fputs(")\n", m->out);
    }
    if (shown < count)
        fprintf(m->out, "  n0: %" PRIu64 " in %zu places, all below massif's threshold (1.00%%)\n", rest,
                count - shown);
}

static void write_tree(Massif *m, size_t i)
{
    size_t count = find_leaves(m, i), components = 0;
    for (size_t k = 0; k < count; k++)
        components += k == 0 || m->leaves[k].component != m->leaves[k - 1].component;
    fprintf(m->out, "n%zu: %" PRIu64 " (the reservation) by component, then place and op\n", components,
            m->requested);
    for (size_t k = 0, end; k < count; k = end) {
        for (end = k + 1; end < count && m->leaves[end].component == m->leaves[k].component;)
            end++;
        write_component(m, m->leaves + k, end - k);
    }
}

/* ---- Snapshots ------------------------------------------------------------------------------- */

/* After event i. */
static void write_snapshot(Massif *m, size_t i)
{
    const RunRecord *run = m->run;
    int peak = i == run->peak_event, detailed = peak || m->snapshots % DETAILED_EVERY == DETAILED_EVERY - 1;
    fprintf(m->out,
            "#-----------\nsnapshot=%d\n#-----------\ntime=%" PRIu64 "\nmem_heap_B=%" PRIu64
            "\nmem_heap_extra_B=%" PRIu64 "\nmem_stacks_B=0\nheap_tree=%s\n",
            m->snapshots++, m->time, m->requested, run->events[i].live - m->requested,
            peak       ? "peak"
            : detailed ? "detailed"
                       : "empty");
    if (detailed)
        write_tree(m, i);
}

static void write_snapshots(Massif *m)
{
    const RunRecord *run = m->run;
    size_t stride = run->event_count / SNAPSHOTS + 1;
    for (size_t i = 0; i < run->event_count; i++) {
        const RunEvent *e = &run->events[i];
        m->component[e->block] = e->component;
        if (e->kind != RUN_RETAG) {
            m->time += e->bytes;
            m->requested += e->kind == RUN_ALLOC ? e->requested : 0;
            m->requested -= e->kind == RUN_FREE ? run->events[run->blocks[e->block].alloc].requested : 0;
        }
        if (i % stride == 0 || i == run->peak_event || i + 1 == run->event_count)
            write_snapshot(m, i);
    }
    if (!run->event_count) /* ms_print wants one */
        fputs("#-----------\nsnapshot=0\n#-----------\ntime=0\nmem_heap_B=0\nmem_heap_extra_B=0\nmem_stacks_"
              "B=0\n"
              "heap_tree=empty\n",
              m->out);
}

int report_massif(const RunRecord *run, FILE *out)
{
    size_t leaf_bytes = run->block_count * sizeof(Leaf);
    Massif m = {.run = run, .out = out};
    m.component = memtrack_host_calloc(NULL, run->block_count);
    m.leaves = memtrack_host_alloc(NULL, leaf_bytes);
    int status = m.component && m.leaves ? 0 : -1;
    errno = status ? ENOMEM : 0;
    if (!status) {
        fputs("desc: memory of training, set-up and two steps; time is bytes allocated and freed\ncmd: brim ",
              out);
        put_name(out, run->command);
        fputs("\ntime_unit: B\n", out);
        write_snapshots(&m);
        status = report_finish_(out);
    }
    memtrack_host_free(NULL, m.component, run->block_count);
    memtrack_host_free(NULL, m.leaves, leaf_bytes);
    return status;
}
