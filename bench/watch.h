/* What a run must not change while it goes on: the books and the process, looked at after each thing it does,
 * and compared with what was there after the same thing before. */
#ifndef BRIM_BENCH_WATCH_H
#define BRIM_BENCH_WATCH_H

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../memtrack/memtrack.h"

/* Things a run does. What follows what matters too: a step after an evaluation begins its peak elsewhere. */
typedef enum Deed {
    DEED_START,
    DEED_STEP,
    DEED_SHORT_STEP,
    DEED_EVALUATE,
    DEED_WRITE,
    DEED_SAVE,
    DEED_RUN,
    DEEDS
} Deed;
static const char *const deed_names[] = {"start", "step", "short step", "evaluation", "text", "save", "run"};

/* Sanitizers have a malloc and pages of their own, which are not looked at. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { WATCH_PAGES = 0 };
#else
enum { WATCH_PAGES = 1 };
#endif

/* The books: equal from the first time on. */
typedef struct Books {
    uint64_t live, blocks, step_peak, allocations, frees, retags; /* counts: since the deed before */
    uint64_t live_by[MEM_COMPONENT_COUNT], at_peak[MEM_COMPONENT_COUNT];
} Books;

/* The process: equal once it has done everything it does. */
typedef struct Process {
    uint64_t tracked; /* bytes held through memtrack, host memory included */
    uint64_t heap;    /* bytes that malloc has given, to anyone */
    uint64_t own;     /* resident pages that are no file's */
    int files, threads;
} Process;

typedef struct Watch {
    const char *name;
    const MemLedger *ledger; /* NULL: only the process is looked at */
    Deed before;
    int times[DEEDS][DEEDS], known[DEEDS][DEEDS];
    Books books[DEEDS][DEEDS];
    Process process[DEEDS][DEEDS];
    uint64_t allocations, frees, retags;
    int warm, failures;
    int64_t compared, step;
    Process first, last, most; /* warm ones */
} Watch;

static int watch_failures;

static inline void __attribute__((format(printf, 2, 3))) watch_fail(Watch *watch, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    watch_failures++;
    if (watch->failures++ < 10) {
        fprintf(stderr, "soak: %s, step %" PRId64 ": ", watch->name, watch->step);
        vfprintf(stderr, format, arguments);
        fprintf(stderr, "\n");
    }
    va_end(arguments);
}

/* The sum of the numbers after one or two keys in a file of /proc, read at once; 0 where there is none.
 * Without stdio, which would take memory. */
static inline uint64_t watch_numbers(const char *path, const char *key, const char *second)
{
    char text[4096];
    uint64_t sum = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t bytes = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    text[bytes > 0 ? bytes : 0] = '\0';
    for (int i = 0; i < 2 && key; i++, key = second) {
        const char *line = strstr(text, key);
        sum += line ? strtoull(line + strlen(key), NULL, 10) : 0;
    }
    return sum;
}

/* Pages that were swapped out are its own still. */
static inline Process watch_process(void)
{
    Process p = {.tracked = memtrack_process_live(),
                 .heap = mallinfo2().uordblks + mallinfo2().hblkhd,
                 .own = 1024 * watch_numbers("/proc/self/smaps_rollup", "\nAnonymous:", "\nSwap:"),
                 .threads = (int)watch_numbers("/proc/self/status", "\nThreads:", NULL)};
    for (int file = 0; file < 1024; file++)
        p.files += fcntl(file, F_GETFD) >= 0;
    return p;
}

static inline Books watch_books(Watch *watch)
{
    const MemStats *s = memtrack_stats(watch->ledger);
    Books b = {.live = s->live,
               .blocks = s->allocations - s->frees,
               .step_peak = s->step_peak,
               .allocations = s->allocations - watch->allocations,
               .frees = s->frees - watch->frees,
               .retags = s->retags - watch->retags};
    memcpy(b.live_by, s->live_by, sizeof b.live_by);
    memcpy(b.at_peak, s->step_at_peak, sizeof b.at_peak);
    watch->allocations = s->allocations;
    watch->frees = s->frees;
    watch->retags = s->retags;
    return b;
}

static char watch_text[1 << 18];

/* Which mappings have other resident pages of their own than when it was asked last; the first time nothing
 * is said. */
static inline void watch_mappings(const Watch *watch, int say)
{
    enum { MOST = 512 };
    static uint64_t known[MOST][2]; /* start, bytes */
    static int count;
    size_t length = 0;
    ssize_t got;
    int file = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    while (file >= 0 && (got = read(file, watch_text + length, sizeof watch_text - 1 - length)) > 0)
        length += (size_t)got;
    close(file);
    watch_text[length] = '\0';
    char *text = watch_text;
    const char *heading = "";
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "Anonymous:", 10) != 0) {
            heading = strchr(line, '-') && strchr(line, '-') < strchr(line, ' ') ? line : heading;
            continue;
        }
        uint64_t start = strtoull(heading, NULL, 16), own = strtoull(line + 10, NULL, 10) * 1024;
        int i = 0;
        while (i < count && known[i][0] != start)
            i++;
        uint64_t before = i < count ? known[i][1] : 0;
        if (say && own != before)
            fprintf(stderr, "soak: %s: %" PRIu64 " bytes are resident, before %" PRIu64 ", of %s\n",
                    watch->name, own, before, heading);
        if (i < MOST) {
            known[i][0] = start;
            known[i][1] = own;
            count = i < count ? count : i + 1;
        }
    }
}

/* One quantity; a and b are told apart by name. */
static inline void watch_same(Watch *watch, Deed deed, const char *what, uint64_t now, uint64_t then)
{
    if (now != then)
        watch_fail(watch, "after a %s %s: %" PRIu64 ", before %" PRIu64, deed_names[deed], what, now, then);
}

static inline void watch_compare_books(Watch *watch, Deed deed, const Books *b, const Books *r)
{
    watch_same(watch, deed, "live bytes", b->live, r->live);
    watch_same(watch, deed, "live blocks", b->blocks, r->blocks);
    watch_same(watch, deed, "peak", b->step_peak, r->step_peak);
    watch_same(watch, deed, "allocations", b->allocations, r->allocations);
    watch_same(watch, deed, "frees", b->frees, r->frees);
    watch_same(watch, deed, "re-tags", b->retags, r->retags);
    for (int c = 0; c < MEM_COMPONENT_COUNT; c++) {
        watch_same(watch, deed, memtrack_component_name((MemComponent)c), b->live_by[c], r->live_by[c]);
        watch_same(watch, deed, memtrack_component_name((MemComponent)c), b->at_peak[c], r->at_peak[c]);
    }
}

static inline void watch_compare_process(Watch *watch, Deed deed, const Process *p, Process *r)
{
    watch_same(watch, deed, "tracked bytes of the process", p->tracked, r->tracked);
    if (WATCH_PAGES) {
        watch_same(watch, deed, "bytes given by malloc", p->heap, r->heap);
        watch_same(watch, deed, "resident bytes of its own", p->own, r->own);
        if (p->own != r->own && watch->failures < 10)
            watch_mappings(watch, 1);
    }
    watch_same(watch, deed, "open files", (uint64_t)p->files, (uint64_t)r->files);
    watch_same(watch, deed, "threads", (uint64_t)p->threads, (uint64_t)r->threads);
    *r = *p; /* a leap is told once */
}

/* After each deed. */
static inline void watch_look(Watch *watch, Deed deed)
{
    Deed before = watch->before;
    int times = watch->times[before][deed]++;
    if (watch->ledger) {
        Books books = watch_books(watch);
        if (times == 0)
            watch->books[before][deed] = books;
        else
            watch_compare_books(watch, deed, &books, &watch->books[before][deed]);
    }
    watch->before = deed;
    if (!watch->warm)
        return;
    if (!watch->compared)
        watch_mappings(watch, 0);
    Process p = watch_process();
    if (!watch->known[before][deed]++)
        watch->process[before][deed] = p;
    else
        watch_compare_process(watch, deed, &p, &watch->process[before][deed]);
    if (!watch->compared++)
        watch->first = p;
    watch->last = p;
    watch->most.own = p.own > watch->most.own ? p.own : watch->most.own;
    watch->most.heap = p.heap > watch->most.heap ? p.heap : watch->most.heap;
}

/* Bytes of the files below a directory, and how many entries it has itself. */
static inline uint64_t watch_disk(const char *directory, int *entries)
{
    DIR *open_directory = opendir(directory);
    uint64_t sum = 0;
    if (entries)
        *entries = 0;
    for (const struct dirent *entry; open_directory && (entry = readdir(open_directory));) {
        char path[4400];
        struct stat status;
        if (entry->d_name[0] == '.' ||
            snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) >= (int)sizeof path)
            continue;
        if (entries)
            ++*entries;
        if (!lstat(path, &status))
            sum += S_ISDIR(status.st_mode) ? watch_disk(path, NULL) : (uint64_t)status.st_size;
    }
    if (open_directory)
        closedir(open_directory);
    return sum;
}

#endif
