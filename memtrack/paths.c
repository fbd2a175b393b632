/* Module paths: which module is running. A name is interned once; naming it again, as every step does, takes
 * no memory. */
#include <string.h>

#include "memtrack_.h"

/* FNV-1a, continued from `hash`: a path's hash follows from its parent's without joining the names first. */
uint64_t memtrack_hash_text_(uint64_t hash, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return hash;
}

/* `child` is the joined name's tail; the root joins without a dot. */
static bool is_named(const MemPath *path, const MemPath *parent, const MemPath *child)
{
    size_t at = parent->length > 0 ? parent->length + 1 : 0;
    return path->hash == child->hash && path->length == at + child->length &&
           memcmp(path->name, parent->name, parent->length) == 0 && (at == 0 || path->name[at - 1] == '.') &&
           memcmp(path->name + at, child->name, child->length) == 0;
}

/* The slot of a path, or the empty one where it belongs. */
static size_t find_slot(const MemTracker *tracker, const MemPath *parent, const MemPath *child)
{
    size_t mask = tracker->slot_count - 1;
    size_t i = (child->hash ^ child->hash >> 32) & mask;
    while (tracker->slots[i] >= 0 && !is_named(&tracker->paths[tracker->slots[i]], parent, child))
        i = (i + 1) & mask;
    return i;
}

static int grow_slots(MemTracker *tracker)
{
    if (2 * (tracker->path_count + 1) <= tracker->slot_count)
        return 0;
    size_t count = tracker->slot_count ? 2 * tracker->slot_count : 64; /* a power of two, at most half full */
    int *slots = memtrack_host_alloc(tracker, count * sizeof *slots);
    if (!slots)
        return -1;
    memtrack_host_free(tracker, tracker->slots, tracker->slot_count * sizeof *slots);
    memset(slots, 0xff, count * sizeof *slots);
    tracker->slots = slots;
    tracker->slot_count = count;
    static char empty[] = "";
    const MemPath root = {.name = empty};
    for (size_t i = 0; i < tracker->path_count; i++)
        slots[find_slot(tracker, &root, &tracker->paths[i])] = (int)i;
    return 0;
}

/* Makes room everywhere for one more path: here and in every ledger, so that booking can never fail. */
static int make_room(MemTracker *tracker)
{
    size_t count = tracker->path_count + 1;
    void *paths = tracker->paths;
    if (count > INT32_MAX || grow_slots(tracker))
        return -1;
    if (memtrack_host_grow_(tracker, &paths, &tracker->path_capacity, count, sizeof(MemPath)))
        return -1;
    tracker->paths = paths;
    for (MemLedger *ledger = tracker->ledgers; ledger; ledger = ledger->next)
        if (memtrack_ledger_fit_paths_(ledger, count))
            return -1;
    return 0;
}

/* `parent` is by value: making room may move the array of paths. */
static int add_path(MemTracker *tracker, MemPath parent, MemPath child)
{
    if (make_room(tracker))
        return -1;
    size_t at = parent.length > 0 ? parent.length + 1 : 0;
    char *name = memtrack_host_alloc(tracker, at + child.length + 1);
    if (!name)
        return -1;
    if (at > 0) {
        memcpy(name, parent.name, parent.length);
        name[at - 1] = '.';
    }
    memcpy(name + at, child.name, child.length + 1);
    int id = (int)tracker->path_count++;
    tracker->slots[find_slot(tracker, &parent, &child)] = id;
    tracker->paths[id] = (MemPath){name, at + child.length, child.hash};
    return id;
}

static int intern(MemTracker *tracker, const char *name)
{
    if (!name || !*name)
        return tracker->path;
    MemPath parent = tracker->paths[tracker->path];
    MemPath child = {.name = (char *)name, .length = strlen(name), .hash = parent.hash};
    if (parent.length > 0)
        child.hash = memtrack_hash_text_(child.hash, ".", 1);
    child.hash = memtrack_hash_text_(child.hash, name, child.length);
    int known = tracker->slots[find_slot(tracker, &parent, &child)];
    return known >= 0 ? known : add_path(tracker, parent, child);
}

int memtrack_path_push(MemTracker *tracker, const char *name)
{
    void *stack = tracker->stack;
    if (memtrack_host_grow_(tracker, &stack, &tracker->stack_capacity, tracker->depth + 1, sizeof(int)))
        return -1;
    tracker->stack = stack;
    int path = intern(tracker, name);
    if (path < 0)
        return -1;
    tracker->stack[tracker->depth++] = tracker->path;
    tracker->path = path;
    return path;
}

void memtrack_path_pop(MemTracker *tracker)
{
    if (tracker->depth > 0)
        tracker->path = tracker->stack[--tracker->depth];
}

int memtrack_path(const MemTracker *tracker)
{
    return tracker->path;
}

int memtrack_path_set(MemTracker *tracker, int path)
{
    int before = tracker->path;
    if (path >= 0 && (size_t)path < tracker->path_count)
        tracker->path = path;
    return before;
}

const char *memtrack_path_name(const MemTracker *tracker, int path)
{
    return path >= 0 && (size_t)path < tracker->path_count ? tracker->paths[path].name : "unknown";
}

int memtrack_path_count(const MemTracker *tracker)
{
    return (int)tracker->path_count;
}

int memtrack_paths_create_(MemTracker *tracker)
{
    static char empty[] = "";
    MemPath root = {.name = empty, .hash = MEMTRACK_HASH_SEED};
    return add_path(tracker, root, root) < 0 ? -1 : 0;
}

void memtrack_paths_destroy_(MemTracker *tracker)
{
    for (size_t i = 0; i < tracker->path_count; i++)
        memtrack_host_free(tracker, tracker->paths[i].name, tracker->paths[i].length + 1);
    memtrack_host_free(tracker, tracker->paths, tracker->path_capacity * sizeof(MemPath));
    memtrack_host_free(tracker, tracker->slots, tracker->slot_count * sizeof(int));
    memtrack_host_free(tracker, tracker->stack, tracker->stack_capacity * sizeof(int));
}
