/* What memtrack's files share with each other and with nobody else. Lower files know nothing of higher ones:
 * host and process <- offsets, backing <- log, trace, hints <- ledger <- tracker and paths; packing reads
 * traces and makes hints. */
#ifndef BRIM_MEMTRACK_INTERNAL_H
#define BRIM_MEMTRACK_INTERNAL_H

#include <stdbool.h>

#include "hints_.h"
#include "memtrack.h"
#include "offsets_.h"
#include "trace_.h"

/* The bytes behind the offsets. META has none, RESERVED one mapping, MALLOC a list of its live blocks: the
 * caller keeps its MemBlocks, so without the list the blocks still live at memtrack_destroy could not be
 * freed. */
typedef struct MemBacking {
    MemMode mode;
    const MemDevice *device;   /* NULL = the host */
    unsigned char *base, *end; /* RESERVED: LOW grows up from base, HIGH grows down from end */
    uint64_t held;             /* bytes taken from the system: the mapping, or the blocks together */
    void **blocks;             /* MALLOC: the live ones */
    size_t block_count, block_capacity;
} MemBacking;

typedef struct MemLog {
    MemEvent *events; /* NULL when there is no log */
    size_t capacity, first, count;
    uint64_t lost;
    bool recording;
    MemLogSink sink;
    void *user;
} MemLog;

/* The books of one module path. `peak` is brought up to date lazily, see snapshot in ledger.c. */
typedef struct MemRow {
    uint64_t live[MEM_COMPONENT_COUNT];
    uint64_t peak[MEM_COMPONENT_COUNT];
    int next_changed; /* list of the rows changed since the snapshot */
    bool changed;
} MemRow;

struct MemLedger {
    MemTracker *tracker;
    MemLedger *next;
    char *name;
    uint64_t capacity; /* limit on needs; 0 = none */
    MemArena arenas[MEM_END_COUNT];
    MemBacking backing;
    MemStats stats;
    MemLog log;
    MemTrace *trace;  /* NULL when nothing is traced */
    MemFollow follow; /* follow.hints NULL: two arenas, online */
    MemRow *rows;     /* by module path; never fewer than the tracker has */
    size_t row_capacity;
    int first_changed;     /* -1 = none */
    bool snapshot_pending; /* the peak is the present state, not yet copied into the rows */
};

typedef struct MemPath {
    char *name;
    size_t length;
    uint64_t hash; /* of the name: equal in a plan and its run, whatever other paths either has seen */
} MemPath;

struct MemTracker {
    MemLedger *ledgers;
    MemPath *paths;
    size_t path_count, path_capacity;
    int *slots; /* hash of paths by name, open addressing; -1 = empty */
    size_t slot_count;
    int *stack; /* what was current before each push */
    size_t depth, stack_capacity;
    int path;
    MemPhase phase;
    int64_t step;
    const char *op;
    uint64_t op_hash; /* of its name, once op_hashed: made at the op's first event */
    bool op_hashed;
    MemWatch watch; /* NULL = none */
    void *watch_user;
    uint64_t host_live, host_peak;
    uint64_t created_ns; /* by clock_ns */
};

/* host.c */
bool memtrack_fails_(void); /* true when this very allocation is the one memtrack_fail_nth asked to fail */
void memtrack_process_charge_(uint64_t bytes);
void memtrack_process_release_(uint64_t bytes);
void memtrack_host_adopt_(MemTracker *tracker); /* charges the tracker's own struct to itself */
/* Room for at least `count` items in a growing array; returns 0, or -1 and the array as it was. */
int memtrack_host_grow_(MemTracker *tracker, void **items, size_t *capacity, size_t count, size_t item_bytes);

/* process.c: fills text with the start of a file, as a string; false when it cannot be read. The number after
 * `key` in lines of "Key:   number kB", in bytes; false when there is none. */
bool memtrack_read_start_(const char *path, char *text, size_t size);
bool memtrack_find_kib_(const char *text, const char *key, uint64_t *bytes);

/* machine.c: of the system whose /proc and /sys are in this directory ("" for this one) */
void memtrack_machine_(const char *root, MemMachine *out);

/* turn.c: to see what is free and take it, one process of the machine at a time. Returns what ends the turn;
 * -1 when there was none to be had in time, or the system knows no such locks. */
int memtrack_turn_take_(void);
void memtrack_turn_end_(int turn);

/* backing.c */
int memtrack_backing_create_(MemBacking *backing, const MemLedgerOptions *options);
void memtrack_backing_destroy_(MemTracker *tracker, MemBacking *backing);
int memtrack_backing_attach_(MemTracker *tracker, MemBacking *backing, MemEnd end, MemBlock *block);
void memtrack_backing_detach_(MemBacking *backing, MemBlock *block);

/* log.c */
void memtrack_log_push_(MemLog *log, const MemEvent *event);
void memtrack_log_destroy_(MemLedger *ledger);

/* ledger.c */
void memtrack_ledger_destroy_(MemLedger *ledger);
int memtrack_ledger_fit_paths_(MemLedger *ledger, size_t path_count);

/* paths.c */
#define MEMTRACK_HASH_SEED 0xcbf29ce484222325u
uint64_t memtrack_hash_text_(uint64_t hash, const char *text, size_t length);
int memtrack_paths_create_(MemTracker *tracker);
void memtrack_paths_destroy_(MemTracker *tracker);

#endif
