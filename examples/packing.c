/* Memory packing, drawn: a made-up training step whose blocks are placed online, knowing only what came
 * before, and then packed, knowing what comes after. docs/packing.md explains what it prints. Nothing is
 * allocated: the ledgers are dry. */
#include <inttypes.h>
#include <stdio.h>

#include <brim.h>

enum { MIB = 1 << 20, NAMES = 26, ROWS = 32, COLUMNS = 16 };

/* An event of the script: a block of `mib` MiB named by a letter is allocated, or (0) freed. */
typedef struct Line {
    char name;
    int mib;
    MemComponent component;
} Line;

static const Line set_up[] = {{'P', 2, MEM_PARAMETER}};

static const Line step[] = {
    {'t', 2, MEM_TEMPORARY},
    {'h', 3, MEM_ACTIVATION},
    {'t', 0, 0},
    {'s', 4, MEM_ACTIVATION},
    {'G', 2, MEM_GRADIENT},
    {'s', 0, 0},
    {'h', 0, 0},
    {'w', 1, MEM_WORKSPACE},
    {'w', 0, 0},
    {'G', 0, 0},
};

/* The last step of an epoch has fewer samples. It begins as every step does. */
static const Line short_step[] = {
    {'t', 2, MEM_TEMPORARY},
    {'h', 3, MEM_ACTIVATION},
    {'t', 0, 0},
    {'s', 1, MEM_ACTIVATION},
    {'G', 2, MEM_GRADIENT},
    {'s', 0, 0},
    {'h', 0, 0},
    {'w', 1, MEM_WORKSPACE},
    {'w', 0, 0},
    {'G', 0, 0},
};

#define COUNT(lines) ((int)(sizeof(lines) / sizeof(lines)[0]))

/* What lies where after each event, in MiB: a letter, or '.'. */
typedef struct Drawing {
    char cell[ROWS][COLUMNS];
    int columns;
} Drawing;

typedef struct Books {
    MemTracker *tracker;
    MemLedger *ledger;
    MemBlock block[NAMES * 2];
} Books;

static MemBlock *block_of(Books *b, char name)
{
    return &b->block[name >= 'a' ? NAMES + name - 'a' : name - 'A'];
}

static const char *const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* Blocks of the high end hang from the top of the reservation, which is `needs` bytes. */
static void draw_column(const Books *b, uint64_t needs, Drawing *d)
{
    for (int i = 0; i < ROWS; i++)
        d->cell[i][d->columns] = '.';
    for (int i = 0; i < NAMES * 2; i++) {
        const MemBlock *block = &b->block[i];
        uint64_t at = block->end == MEM_END_HIGH ? needs - block->offset - block->bytes : block->offset;
        for (uint64_t row = at / MIB; block->bytes && row < (at + block->bytes) / MIB; row++)
            d->cell[row][d->columns] = letters[i];
    }
    d->columns++;
}

/* Runs lines on the books; d: what to draw of them, NULL = nothing. */
static void run(Books *b, const Line *lines, int count, uint64_t needs, Drawing *d)
{
    for (int i = 0; i < count; i++) {
        if (lines[i].mib)
            memtrack_alloc(b->ledger, (uint64_t)lines[i].mib * MIB, lines[i].component,
                           block_of(b, lines[i].name));
        else
            memtrack_free(b->ledger, block_of(b, lines[i].name));
        if (d)
            draw_column(b, needs, d);
    }
}

/* The set-up, a step, a short step: each ends a segment. */
static void run_all(Books *b, uint64_t needs, Drawing *whole, Drawing *last)
{
    run(b, set_up, COUNT(set_up), needs, NULL);
    memtrack_step_set(b->tracker, 0);
    run(b, step, COUNT(step), needs, whole);
    memtrack_step_set(b->tracker, 1);
    run(b, short_step, COUNT(short_step), needs, last);
    memtrack_step_set(b->tracker, 2);
}

static Books dry_books(void)
{
    Books b = {.tracker = memtrack_create()};
    b.ledger = memtrack_ledger_create(b.tracker, &(MemLedgerOptions){.name = "meta", .mode = MEMTRACK_META});
    return b;
}

static void print(const char *title, const Drawing *d, const Line *lines, int rows)
{
    printf("%s\n", title);
    for (int row = rows; row-- > 0;) {
        printf("%7d MiB |", row);
        for (int i = 0; i < d->columns; i++)
            printf(" %c ", d->cell[row][i]);
        printf("\n");
    }
    printf("            +");
    for (int i = 0; i < d->columns; i++)
        printf("---");
    printf("\n             ");
    for (int i = 0; i < d->columns; i++)
        printf("%c%c ", lines[i].mib ? '+' : '-', lines[i].name);
    printf("\n\n");
}

/* Runs everything twice: once to know what it needs, once to draw it. hints NULL: online. */
static uint64_t show(const char *how, const MemHints *hints)
{
    Drawing whole = {0}, last = {0};
    uint64_t needs = 0, peak = 0;
    for (int drawn = 0; drawn < 2; drawn++) {
        Books b = dry_books();
        memtrack_ledger_follow(b.ledger, hints);
        run_all(&b, needs, drawn ? &whole : NULL, drawn ? &last : NULL);
        needs = memtrack_stats(b.ledger)->needs;
        peak = memtrack_stats(b.ledger)->peak;
        memtrack_destroy(b.tracker);
    }
    printf("%s: needs %" PRIu64 " MiB, the peak is %" PRIu64 " MiB\n\n", how, needs / MIB, peak / MIB);
    print("a step", &whole, step, (int)(needs / MIB));
    if (hints)
        print("the short step", &last, short_step, (int)(needs / MIB));
    return needs;
}

int main(void)
{
    MemHints *hints = NULL;
    show("online", NULL);

    Books traced = dry_books();
    int failed = memtrack_trace_start(traced.ledger);
    run_all(&traced, 0, NULL, NULL);
    failed = failed || memtrack_pack(traced.ledger, &hints);
    memtrack_destroy(traced.tracker);
    if (failed || !hints)
        return 1;
    printf("packed %s, ", memtrack_hints_packer(hints));
    show("following the hints", hints);
    memtrack_hints_free(hints);
    return memtrack_process_live() != 0;
}
