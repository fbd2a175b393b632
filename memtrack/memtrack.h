/* memtrack: every byte, and what it is for.
 *
 * All memory passes through here. An allocation names its component; the tracker stamps it with the current
 * module path, phase, op and step. A ledger keeps live and peak bytes by component, the composition at the
 * peak, and an event log.
 *
 * A ledger hands out *offsets* from a deterministic allocator. The same sequence of calls yields the same
 * offsets and the same needs_bytes whether there is data behind them or not, so a dry run (MEMTRACK_META)
 * predicts a real one exactly, fragmentation included. Usable alone: it knows nothing of tensors. Not
 * thread-safe: one tracker a thread.
 */
#ifndef BRIM_MEMTRACK_H
#define BRIM_MEMTRACK_H

#include <stddef.h>
#include <stdint.h>

#include "../base/api.h"
#include "memtrack_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sizes are rounded up to this many bytes, and charged so. */
#define MEMTRACK_ALIGN 64

/* Blocks of at most this many requested bytes are placed LOW whatever their component: a scalar that outlives
 * its step's large tensors (a loss) must not hold up the HIGH end's extent. */
#define MEMTRACK_SMALL 4096

/* Groups are the words users arrive with; they sum exactly to the peak. Enum, name, the label of a table's
 * row, one word for its columns, and what a line with little room has. */
#define MEMTRACK_GROUPS(X)                                                                                   \
    X(PARAMETERS, "parameters", "parameters", "parameters", "param")                                         \
    X(GRADIENTS, "gradients", "gradients", "gradients", "grad")                                              \
    X(OPTIMIZER_STATES, "optimizer_states", "optimizer states", "states", "optim")                           \
    X(ACTIVATIONS, "activations", "activations", "activations", "activ")                                     \
    X(OVERHEAD, "overhead", "overhead", "overhead", "other")

/* Components: enum, name, group, and the end of the reservation where blocks over MEMTRACK_SMALL are placed.
 * LOW, from below: what lives long, and the gradients, which grow in backward while the activations, the last
 * first, go away. HIGH, from above: the rest of what a step makes. */
#define MEMTRACK_COMPONENTS(X)                                                                               \
    X(PARAMETER, "parameter", PARAMETERS, LOW)                                                               \
    X(FROZEN, "frozen", PARAMETERS, LOW)                                                                     \
    X(MASTER, "master", PARAMETERS, LOW)                                                                     \
    X(GRADIENT, "gradient", GRADIENTS, LOW)                                                                  \
    X(OPTIMIZER, "optimizer", OPTIMIZER_STATES, LOW)                                                         \
    X(ACTIVATION, "activation", ACTIVATIONS, HIGH)                                                           \
    X(ACTIVATION_GRADIENT, "activation_gradient", OVERHEAD, LOW)                                             \
    X(TEMPORARY, "temporary", OVERHEAD, HIGH)                                                                \
    X(WORKSPACE, "workspace", OVERHEAD, HIGH)                                                                \
    X(INPUT, "input", OVERHEAD, HIGH)                                                                        \
    X(BUFFER, "buffer", OVERHEAD, LOW)                                                                       \
    X(KV_CACHE, "kv_cache", OVERHEAD, LOW)                                                                   \
    X(GATHERED, "gathered", PARAMETERS, HIGH)                                                                \
    X(COMMUNICATION, "communication", OVERHEAD, HIGH)

#define MEMTRACK_PHASES(X)                                                                                   \
    X(SETUP, "setup")                                                                                        \
    X(FORWARD, "forward")                                                                                    \
    X(BACKWARD, "backward")                                                                                  \
    X(RECOMPUTE, "recompute")                                                                                \
    X(OPTIMIZER, "optimizer")                                                                                \
    X(EVALUATE, "evaluate")

typedef enum MemGroup {
#define X(id, name, label, word, brief) MEM_GROUP_##id,
    MEMTRACK_GROUPS(X)
#undef X
        MEM_GROUP_COUNT
} MemGroup;

typedef enum MemComponent {
#define X(id, name, group, end) MEM_##id,
    MEMTRACK_COMPONENTS(X)
#undef X
        MEM_COMPONENT_COUNT
} MemComponent;

/* An end of the reservation; needs is the largest sum of what both ends reached at one moment. */
typedef enum MemEnd { MEM_END_LOW, MEM_END_HIGH, MEM_END_COUNT } MemEnd;

typedef enum MemPhase {
#define X(id, name) MEM_PHASE_##id,
    MEMTRACK_PHASES(X)
#undef X
        MEM_PHASE_COUNT
} MemPhase;

typedef enum MemMode {
    MEMTRACK_META,     /* offsets only; data is NULL */
    MEMTRACK_RESERVED, /* one reservation of `capacity` bytes, touched at creation */
    MEMTRACK_MALLOC /* same offsets and same books, but each block from malloc, exactly as long as was asked
                     * for, so that sanitizers see its edges: use `requested` bytes of data, not `bytes` */
} MemMode;

typedef struct MemTracker MemTracker; /* module path, phase, step, op, host memory; owns its ledgers */
typedef struct MemLedger MemLedger;   /* the books of one device */
typedef struct MemHints MemHints;     /* where each allocation of a planned run goes */

/* Where and when something happened. `op` is a static string or NULL. */
typedef struct MemWhere {
    int64_t step;
    MemPhase phase;
    int path; /* see memtrack_path_name */
    const char *op;
} MemWhere;

/* One allocation. The owner keeps it (frees carry their size); memtrack keeps no list of blocks. */
typedef struct MemBlock {
    uint64_t offset; /* from its own end. LOW: data = base + offset. HIGH: data = base + capacity - offset -
                      * bytes, so it occupies [capacity - offset - bytes, capacity - offset); capacity rounded
                      * down to 64 */
    uint64_t bytes;  /* rounded up; 0 means "no block" */
    uint64_t requested; /* as asked */
    uint64_t serial;    /* number of the allocation in its ledger, from 1; equal in a plan and its run */
    int32_t path;       /* module path of its allocation; its free and re-tags are charged to it */
    MemComponent component;
    MemEnd end; /* by its component and size when it was made, LOW in a ledger that follows hints; re-tags do
                 * not move it */
    int32_t record; /* memtrack's own: where a trace keeps it; 0 = nowhere */
    void *data;     /* NULL on META */
} MemBlock;

typedef enum MemEventKind { MEM_EVENT_ALLOC, MEM_EVENT_FREE, MEM_EVENT_RETAG } MemEventKind;

typedef struct MemEvent {
    MemEventKind kind;
    MemComponent component; /* after the event */
    MemComponent from;      /* RETAG: before the event; otherwise == component */
    MemWhere where;         /* FREE, RETAG: phase, step and op of the event, module path of the allocation */
    uint64_t serial, offset, bytes, requested; /* the block's */
    MemEnd end;                                /* the block's */
    uint64_t live;                             /* the ledger's live bytes after the event */
    uint64_t time_ns; /* since the tracker was made; in no hash, and different in every run */
} MemEvent;

/* The books. All in bytes (rounded sizes). at_peak sums to peak; own_peak is each component's highest moment.
 */
typedef struct MemStats {
    uint64_t live, peak;
    uint64_t needs; /* what a reservation must hold for everything so far, fragmentation included */
    uint64_t live_by[MEM_COMPONENT_COUNT];
    uint64_t at_peak[MEM_COMPONENT_COUNT];
    uint64_t own_peak[MEM_COMPONENT_COUNT];
    MemWhere peak_at;
    uint64_t step_peak; /* since the last memtrack_step_set, with its composition */
    uint64_t step_at_peak[MEM_COMPONENT_COUNT];
    MemWhere own_peak_at[MEM_COMPONENT_COUNT];
    uint64_t allocations, frees, retags; /* counts since creation */
    uint64_t event_hash; /* of all events so far, in order: kind, size, offset, component, module path, phase,
                            op */
    uint64_t step_hash;  /* the same since the last memtrack_step_set: equal steps have equal hashes */
} MemStats;

/* Memory that the host does not see: a card's. Addresses are the device's; only these functions use them. */
typedef struct MemDevice {
    void *(*take)(void *user, uint64_t bytes); /* aligned to 64; NULL when there is none */
    void (*give)(void *user, void *memory);
    /* Between the host's memory and the device's, after what was asked of the device before. read waits for
     * it; write and clear need not: `from` may be changed at once. What fails is the device's to report. */
    void (*read)(void *user, const void *memory, uint64_t bytes, void *to);
    void (*write)(void *user, void *memory, uint64_t bytes, const void *from);
    void (*clear)(void *user, void *memory, uint64_t bytes); /* to zeros */
    uint64_t (*available)(void *user);                       /* bytes that could be taken now */
    void *user;
} MemDevice;

typedef struct MemLedgerOptions {
    const char *name; /* "cpu", "meta"; copied */
    MemMode mode;
    uint64_t capacity; /* RESERVED: bytes to reserve and touch; required. Others: a hard limit on needs, 0 =
                          none */
    uint64_t beside; /* RESERVED: bytes that must be free besides, for the rest of the process, on the host */
    const MemDevice *device; /* NULL = the host. RESERVED takes the capacity from it at once, and touches
                              * nothing; MALLOC a block at a time. It outlives the ledger. */
} MemLedgerOptions;

/* Out of range: "unknown". */
BRIM_API const char *memtrack_component_name(MemComponent component);
BRIM_API const char *memtrack_group_name(MemGroup group);
BRIM_API const char *memtrack_phase_name(MemPhase phase);
BRIM_API MemGroup memtrack_component_group(MemComponent component);

/* ---- Tracker --------------------------------------------------------------------------------- */

/* NULL when the host has no memory. */
BRIM_API MemTracker *memtrack_create(void);
/* Frees the tracker, its ledgers and their reservations. Blocks still live are gone with them. NULL is fine.
 */
BRIM_API void memtrack_destroy(MemTracker *tracker);

/* Module path: a stack of names joined by dots ("layers.3.attn"); 0 is the root, named "". Ids are given in
 * order of first use and stay valid for the tracker's life. push returns the id, or -1 when the host has no
 * memory (nothing is pushed then). pop returns to the path before the matching push. An empty or NULL name
 * leaves the path as it is (and still needs its pop). Names may be of any length; equal joined names are one
 * path. */
BRIM_API int memtrack_path_push(MemTracker *tracker, const char *name);
BRIM_API void memtrack_path_pop(MemTracker *tracker);
BRIM_API int memtrack_path(const MemTracker *tracker); /* that is current */
/* Makes an existing path current (backward charges the module that ran forward). Returns the path before. An
 * unknown path changes nothing. */
BRIM_API int memtrack_path_set(MemTracker *tracker, int path);
/* The joined names of a path, and how many paths there are: ids are 0 to count - 1. */
BRIM_API const char *memtrack_path_name(const MemTracker *tracker, int path);
BRIM_API int memtrack_path_count(const MemTracker *tracker);

/* Each returns the value before. */
BRIM_API MemPhase memtrack_phase_set(MemTracker *tracker, MemPhase phase);
BRIM_API MemPhase memtrack_phase(const MemTracker *tracker);
BRIM_API int64_t memtrack_step_set(MemTracker *tracker, int64_t step);
BRIM_API int64_t memtrack_step(const MemTracker *tracker);
BRIM_API const char *memtrack_op_set(MemTracker *tracker, const char *op);

/* Called whenever an op begins (memtrack_op_set with a name), so that progress can be shown. It may read the
 * books; it must not change them. One a tracker; NULL ends it. */
typedef void (*MemWatch)(void *user);
BRIM_API void memtrack_watch(MemTracker *tracker, MemWatch watch, void *user);

/* ---- Ledger ---------------------------------------------------------------------------------- */

/* NULL when the reservation cannot be had: capacity 0, or more than the system (or the container) has left,
 * now or while it is touched. Processes of one machine reserve in turns, so that what one has found free is
 * not taken by another before it is touched. Owned by the tracker. */
BRIM_API MemLedger *memtrack_ledger_create(MemTracker *tracker, const MemLedgerOptions *options);
/* What it was created with. */
BRIM_API MemTracker *memtrack_ledger_tracker(const MemLedger *ledger);
BRIM_API MemMode memtrack_ledger_mode(const MemLedger *ledger);
BRIM_API const char *memtrack_ledger_name(const MemLedger *ledger);
BRIM_API const MemDevice *memtrack_ledger_device(const MemLedger *ledger); /* NULL = the host */

/* Fills *block and returns 0; or -1 and block->bytes = 0 when the capacity would be exceeded or memory is out
 * (the books are unchanged then). bytes = 0 is a valid request and charges nothing. Contents are
 * indeterminate. */
BRIM_API int memtrack_alloc(MemLedger *ledger, uint64_t bytes, MemComponent component, MemBlock *block);
/* Zeroes *block. A block with bytes == 0 is ignored. */
BRIM_API void memtrack_free(MemLedger *ledger, MemBlock *block);
/* A logged event, to any component: the block stays where it is, its end included, and is freed from there.
 * An empty block, the component it already has or an unknown one: nothing happens. */
BRIM_API void memtrack_retag(MemLedger *ledger, MemBlock *block, MemComponent component);

/* The ledger's own books, always up to date; valid as long as the ledger. */
BRIM_API const MemStats *memtrack_stats(const MemLedger *ledger);
/* Bytes of one module path at the ledger's peak, by component; 0 where nothing was live. */
BRIM_API void memtrack_peak_by_path(const MemLedger *ledger, int path, uint64_t by[MEM_COMPONENT_COUNT]);
/* Starts a new peak measurement from what is live now (needs is kept). */
BRIM_API void memtrack_peak_reset(MemLedger *ledger);

/* ---- Packing ---------------------------------------------------------------------------------
 * Online, a ledger decides where a block goes knowing only what came before. A plan knows what comes after:
 * it traces a dry run, packs the trace, and has the run, and a second dry run, follow the hints. */

/* Records what is allocated and freed from here on, by segments (memtrack_step_set ends one), and where each
 * live block was made. Call it before the ledger's first allocation. Returns 0, or -1 without memory or when
 * it is too late. The trace is host memory of the process, not of the tracker, so that a plan and its run
 * have the same books. */
BRIM_API int memtrack_trace_start(MemLedger *ledger);

/* An allocation that is live at the ledger's peak. */
typedef struct MemPeakBlock {
    uint64_t serial, bytes;
    MemComponent component; /* at the peak */
    MemWhere where;         /* when it was made */
} MemPeakBlock;
/* The `room` largest of a traced ledger, the largest first, of equals the one made first. Returns how many.
 */
BRIM_API size_t memtrack_peak_blocks(const MemLedger *ledger, MemPeakBlock *out, size_t room);

/* Ends the running segment and packs what was traced. *hints is NULL when packing finds nothing better than
 * the ledger did online. That is so when its needs are within 0.1 % of its peak, when there is no trace, and
 * when the trace has more than 64 kinds of segments or 262,144 allocations. Returns 0, or -1 without memory.
 * Deterministic: the same trace, the same hints. */
BRIM_API int memtrack_pack(MemLedger *ledger, MemHints **hints);
BRIM_API void memtrack_hints_free(MemHints *hints); /* NULL is fine */
/* "by size": how they were found; "online" for NULL. */
BRIM_API const char *memtrack_hints_packer(const MemHints *hints);

/* From here on blocks go where the hints say, in one arena counted from the low end. An event that was not
 * planned, or whose range is taken, gets a free range; later events follow the hints again. Call it before
 * the ledger's first allocation: returns 0, or -1 when it is too late. The hints must outlive the ledger;
 * several ledgers may follow the same hints. NULL: no hints. */
BRIM_API int memtrack_ledger_follow(MemLedger *ledger, const MemHints *hints);

/* ---- Event log ------------------------------------------------------------------------------- */

/* Called with each full buffer of events, and at memtrack_log_stop (or _destroy, or a new start) with the
 * rest. It must not use the ledger. */
typedef void (*MemLogSink)(void *user, const MemEvent *events, size_t count);

/* Keeps the last `capacity` events in memory; with a sink, hands over every event in batches and loses none.
 * capacity 0 means 4096. Returns 0, or -1 without memory (a log that already runs continues). A second start
 * begins with an empty log. After a stop without a sink the events stay readable, until the next start or the
 * end. */
BRIM_API int memtrack_log_start(MemLedger *ledger, size_t capacity, MemLogSink sink, void *user);
BRIM_API void memtrack_log_stop(MemLedger *ledger);
/* Events kept, oldest first: count, and the i-th (NULL beyond). `lost` counts those overwritten (0 with a
 * sink). */
BRIM_API size_t memtrack_log_count(const MemLedger *ledger);
BRIM_API const MemEvent *memtrack_log_event(const MemLedger *ledger, size_t i);
BRIM_API uint64_t memtrack_log_lost(const MemLedger *ledger);

/* ---- Host memory
 * --------------------------------------------------------------------------------------------- Headers,
 * tapes, datasets, tokenizers: small, of another ledger, outside peak and plan. The caller keeps the size.
 * All return NULL without memory; 0 bytes is a valid request. The tracker may be NULL: then only the process
 * totals are kept. A tracker's own books (itself, paths, ledgers, logs) are in its totals too. */
BRIM_API void *memtrack_host_alloc(MemTracker *tracker, size_t bytes);  /* indeterminate contents */
BRIM_API void *memtrack_host_calloc(MemTracker *tracker, size_t bytes); /* zeroed */
/* On failure the old block stays valid. old may be NULL with old_bytes 0. */
BRIM_API void *memtrack_host_realloc(MemTracker *tracker, void *old, size_t old_bytes, size_t bytes);
BRIM_API void memtrack_host_free(MemTracker *tracker, void *block, size_t bytes); /* NULL is fine */
BRIM_API char *memtrack_host_strdup(MemTracker *tracker, const char *text);       /* free with strlen + 1 */
/* Host memory of this tracker now, and at its highest. */
BRIM_API uint64_t memtrack_host_live(const MemTracker *tracker);
BRIM_API uint64_t memtrack_host_peak(const MemTracker *tracker);

/* ---- Files ------------------------------------------------------------------------------------
 * A file's bytes without memory of one's own: pages of the system's file cache, in nobody's books. */

/* The first `bytes` (1 or more; the file must have them) of an open file, read-only; the descriptor may be
 * closed. NULL, with errno, when the system refuses. A file that others cut short while it is mapped ends the
 * process that reads beyond its end. */
BRIM_API const void *memtrack_map_file(int file, size_t bytes);
BRIM_API void memtrack_unmap_file(const void *mapped, size_t bytes); /* NULL is fine */
/* Pages of [from, from + bytes) need not stay resident: reading a large file leaves the process no larger.
 * They are read again when they are needed. */
BRIM_API void memtrack_map_forget(const void *mapped, const void *from, size_t bytes);

/* ---- Process and tests ----------------------------------------------------------------------- */

/* What this process holds through memtrack now, over all trackers, host and devices together. 0 when all is
 * freed. */
BRIM_API uint64_t memtrack_process_live(void);
/* Resident set as the operating system counts it, now and at its highest; and what of it, now, are pages of
 * files, which the system can have back. 0 where it cannot be read. */
BRIM_API uint64_t memtrack_process_resident(void);
BRIM_API uint64_t memtrack_process_resident_peak(void);
BRIM_API uint64_t memtrack_process_resident_files(void);

/* What this machine could give the process now without killing it for it. */
typedef struct MemMachine {
    uint64_t available;   /* the least that any limit leaves; UINT64_MAX where nothing can be known */
    uint64_t physical;    /* memory of the machine; 0 where it cannot be read */
    uint64_t group_limit; /* the smallest of the control groups the process is in; UINT64_MAX = none */
    const char *bound; /* what bounds `available`: "MemAvailable", "MemAvailable and free swap", "the limit of
                        * its control group" or "nothing known"; static */
} MemMachine;
/* Reads /proc/meminfo and the control groups (versions 1 and 2) of /proc/self/cgroup, up to the root. What a
 * group uses counts against its limit, but for file cache that the kernel
 * would drop. */
BRIM_API void memtrack_machine(MemMachine *out);

/* Makes the n-th allocation from now on (host or device, any tracker; 1 = the next) fail, once. 0 turns it
 * off. memtrack_fail_pending is true while the n-th has not been reached. */
BRIM_API void memtrack_fail_nth(uint64_t n);
BRIM_API int memtrack_fail_pending(void);

#ifdef __cplusplus
}
#endif
#endif
