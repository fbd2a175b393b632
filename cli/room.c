/* Whether there is room for what a run is going to write: asked before it trains, for afterwards what it
 * learned would be lost. */
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "several.h"

enum { WISHES = 3, PATH_MOST = 4096 };

/* What is written to one place, and where. */
typedef struct Wish {
    const char *flag, *path;
    uint64_t bytes, largest; /* of all files, of the largest */
    uint64_t free;
    dev_t device;
    int in_memory; /* a file system that is memory */
    char detail[160];
} Wish;

/* ---- What is written ------------------------------------------------------------------------- */

/* Saves that are made from here on, the last at the run's end. */
static int64_t saves_to_come(const Options *o, const Training *t)
{
    int64_t every = o->save_every ? o->save_every : (t->steps + 9) / 10;
    if (t->steps <= t->first || every < 1)
        return 0;
    return (t->steps - 1) / every - t->first / every + 1;
}

/* As many as are kept and the one that is being written, less those that are there. */
static int64_t saves_at_once(const Options *o, const Training *t, int keep)
{
    int64_t there = io_count_saved_runs(o->save), to_come = saves_to_come(o, t);
    int64_t kept = (int64_t)keep + 1, more = kept > there ? kept - there : 1;
    return more < to_come ? more : to_come;
}

static int keep_of(const Options *o)
{
    return o->keep ? o->keep : SAVED_RUNS_KEPT;
}

static Wish wish_of_saves(const Options *o, const Training *t)
{
    int64_t saves = saves_at_once(o, t, keep_of(o));
    Wish wish = {.flag = "--save",
                 .path = o->save,
                 .bytes = (uint64_t)saves * t->save_size.bytes,
                 .largest = saves ? t->save_size.largest : 0};
    if (saves > 1)
        snprintf(wish.detail, sizeof wish.detail,
                 " (%" PRId64 " saves of %s: --keep %d, and the one being written)", saves,
                 report_size(t->save_size.bytes).text, keep_of(o));
    return wish;
}

/* A line a step, and some hundred bytes an event of the window that is logged: see docs/run-log.md. */
static Wish wish_of_log(const Options *o, const Training *t, const Plan *plan)
{
    const MemStats *stats = &plan->memory.stats;
    uint64_t events = stats->allocations + stats->frees + stats->retags,
             steps = (uint64_t)(t->steps - t->first);
    events = events < RUNLOG_EVENTS ? events : RUNLOG_EVENTS;
    uint64_t bytes = 16384 + events * 100 + steps * 700;
    return (Wish){.flag = "--log",
                  .path = o->log,
                  .bytes = bytes * (has_ranks(o) ? (uint64_t)o->ranks.size : 1), /* each rank has a file */
                  .largest = bytes};
}

/* ---- Where ----------------------------------------------------------------------------------- */

/* A file that does not exist yet is its directory's. Returns 0; or -1 for a path that is not a file, and
 * where nothing is known: writing will show it. */
static int look_up(Wish *wish)
{
    char directory[PATH_MOST];
    struct stat status;
    struct statvfs space;
    struct statfs kind;
    const char *path = wish->path, *slash = strrchr(path, '/');
    if (stat(path, &status) != 0) {
        int length = slash ? (int)(slash - path) + 1 : 0;
        if (snprintf(directory, sizeof directory, "%.*s.", length, path) >= PATH_MOST)
            return -1;
        path = directory;
    }
    if (stat(path, &status) != 0 || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) ||
        statvfs(path, &space) != 0)
        return -1;
    wish->device = status.st_dev;
    wish->free = (uint64_t)space.f_bavail * space.f_frsize;
    wish->in_memory = statfs(path, &kind) == 0 && (kind.f_type == TMPFS_MAGIC || kind.f_type == RAMFS_MAGIC);
    return 0;
}

static int collect(const Options *o, const Training *t, const Plan *plan, Wish wishes[WISHES])
{
    int count = 0;
    Wish all[WISHES] = {{0}};
    if (o->save)
        all[0] = wish_of_saves(o, t);
    if (o->export)
        all[1] = (Wish){.flag = "--export",
                        .path = o->export,
                        .bytes = t->export_size.bytes,
                        .largest = t->export_size.largest};
    if (o->log)
        all[2] = wish_of_log(o, t, plan);
    for (int i = 0; i < WISHES; i++)
        if (all[i].bytes && look_up(&all[i]) == 0)
            wishes[count++] = all[i];
    return count;
}

uint64_t room_in_memory(const Options *o, const Training *t, const Plan *plan)
{
    Wish wishes[WISHES];
    uint64_t bytes = 0;
    for (int i = 0, count = collect(o, t, plan, wishes); i < count; i++)
        bytes += wishes[i].in_memory ? wishes[i].bytes : 0;
    return bytes;
}

/* ---- The answer ------------------------------------------------------------------------------ */

static int check_file_limit(const Wish *wish)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        wish->largest <= limit.rlim_cur)
        return EXIT_DONE;
    fflush(stdout);
    fprintf(stderr, "brim: %s %s writes a file of %s, but files may only have %s here (ulimit -f).\n",
            wish->flag, wish->path, report_size(wish->largest).text, report_size(limit.rlim_cur).text);
    return EXIT_NO;
}

/* All that go to the file system of wishes[i]. */
static uint64_t needed_there(const Wish *wishes, int count, int i)
{
    uint64_t bytes = 0;
    for (int k = 0; k < count; k++)
        bytes += wishes[k].device == wishes[i].device ? wishes[k].bytes : 0;
    return bytes;
}

static void say_what_helps(const Options *o, const Training *t, uint64_t needed, uint64_t free)
{
    int64_t now = o->save ? saves_at_once(o, t, keep_of(o)) : 0, least = o->save ? saves_at_once(o, t, 1) : 0;
    uint64_t saved = (uint64_t)(now - least) * t->save_size.bytes;
    if (saved && needed - saved <= free)
        fprintf(stderr, "With --keep 1 it needs %s.\n", report_size(needed - saved).text);
}

static int refuse(const Options *o, const Training *t, const Wish *wishes, int count, int i)
{
    uint64_t needed = needed_there(wishes, count, i);
    int parts = 0;
    fflush(stdout);
    fprintf(stderr, "brim: too little room for");
    for (int k = 0; k < count; k++)
        if (wishes[k].device == wishes[i].device)
            fprintf(stderr, "%s %s %s, which needs %s%s", parts++ ? ", and" : "", wishes[k].flag,
                    wishes[k].path, report_size(wishes[k].bytes).text, wishes[k].detail);
    fprintf(stderr, ": %s are free there.\n", report_size(wishes[i].free).text);
    say_what_helps(o, t, needed, wishes[i].free);
    return EXIT_NO;
}

int check_room(const Options *o, const Training *t, const Plan *plan)
{
    Wish wishes[WISHES];
    int count = collect(o, t, plan, wishes);
    for (int i = 0; i < count; i++) {
        if (check_file_limit(&wishes[i]))
            return EXIT_NO;
        if (needed_there(wishes, count, i) > wishes[i].free)
            return refuse(o, t, wishes, count, i);
    }
    return EXIT_DONE;
}
