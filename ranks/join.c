/* How a process becomes a rank: the plugin that fits its launcher is found, opened, and asked who this is.
 * What launcher, caller and plugin say of the number of ranks must agree; a plugin of another MPI than the
 * launcher's says 1. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "launcher_.h"
#include "ranks.h"
#include "transport.h"
#include "watch_.h"

enum { REASON = 512 };

/* The plugins that were looked for, as a list. */
static void list(const Launcher *launcher, char *text, size_t size)
{
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < LAUNCHER_PLUGINS && launcher->plugins[i] && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%slibbrim-mpi%s%s.so", i ? ", " : "",
                               *launcher->plugins[i] ? "-" : "", launcher->plugins[i]);
}

/* Loads the first that there is. NULL with a sentence: what stands there cannot be loaded, or nothing does.
 */
static void *load(const Launcher *launcher, char path[PLUGIN_PATH], char *why, size_t size)
{
    const char *own = getenv("BRIM_MPI");
    if (own && *own) {
        snprintf(path, PLUGIN_PATH, "%s", own);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library)
            snprintf(why, size, "BRIM_MPI names what cannot be loaded: %s", dlerror());
        return library;
    }
    for (int i = 0; i < LAUNCHER_PLUGINS && launcher->plugins[i]; i++) {
        int seen = plugin_find_(launcher->plugins[i], path);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
        if (seen) {
            snprintf(why, size, "%s cannot be loaded: %s", path, dlerror());
            return NULL;
        }
    }
    char names[160];
    list(launcher, names, sizeof names);
    snprintf(why, size,
             "%s started this process, but none of %s is beside the program, where it was installed, or "
             "known to the linker; "
             "`make mpi` builds them where mpicc is, and BRIM_MPI=path names another place",
             launcher->name, names);
    return NULL;
}

static const Transport *open_plugin(void *library, const char *path, char *why, size_t size)
{
    TransportOpen *open = NULL;
    char reason[REASON] = "";
    void *found = dlsym(library, "brim_transport");
    memcpy(&open, &found, sizeof open);
    if (!open) {
        snprintf(why, size, "%s is no plugin of brim: it has no function brim_transport", path);
        return NULL;
    }
    const Transport *transport = open(reason, sizeof reason);
    if (!transport)
        snprintf(why, size, "%s: %s", path, reason);
    else if (transport->abi != TRANSPORT_ABI) {
        snprintf(why, size,
                 "%s was built for another version of brim (its table is number %d, this one's %d); `make "
                 "mpi` builds it again",
                 path, transport->abi, TRANSPORT_ABI);
        return NULL;
    }
    return transport;
}

/* Whether launcher, library and caller say the same. */
static int agree(const Ranks *is, const Launcher *launcher, int launched, int expected, const char *path,
                 char *why, size_t size)
{
    const Transport *t = is->transport;
    if (launched && is->size != launched) {
        char others[160];
        list(launcher, others, sizeof others);
        snprintf(why, size,
                 "%s started %d ranks, but %s (%s) says that it is rank %d of %d: it belongs to another MPI "
                 "than the launcher; "
                 "use the launcher of that MPI, or one of %s (BRIM_MPI=path)",
                 launcher->name, launched, plugin_file_(path), t->version(t->self), is->rank, is->size,
                 others);
        return ERROR_RANKS;
    }
    if (expected && is->size != expected) {
        char command[COMMAND_TEXT];
        launcher_command_(expected, NULL, command);
        snprintf(why, size,
                 "%d ranks are expected, and %s started %d; as many as expected are started by: %s", expected,
                 launcher ? launcher->name : "the launcher", is->size, command);
        return ERROR_RANKS;
    }
    return 0;
}

/* Nothing is known of a launcher. Whoever names a plugin may have started ranks by another. */
static int alone(int expected, char *why, size_t size)
{
    char command[COMMAND_TEXT];
    launcher_command_(expected, NULL, command);
    snprintf(why, size, "%d ranks are expected, and no launcher has started this process; type: %s", expected,
             command);
    return ERROR_RANKS;
}

int ranks_join(Ranks *ranks, RankStrategy strategy, int size, char *why, size_t why_size)
{
    char path[PLUGIN_PATH];
    int launched, named = getenv("BRIM_MPI") && *getenv("BRIM_MPI");
    const Launcher *launcher = launcher_of_(&launched);
    *ranks = (Ranks){.size = 1, .strategy = strategy, .node_size = 1};
    if (why_size)
        why[0] = 0;
    if (launched < 2 && size > 1 && !(named && !launcher))
        return launcher ? agree(ranks, launcher, launched, size, "", why, why_size)
                        : alone(size, why, why_size);
    if (launched < 2 && size < 2)
        return 0;
    void *library = load(launcher, path, why, why_size);
    if (!library)
        return ERROR_RANKS;
    const Transport *t = ranks->transport = open_plugin(library, path, why, why_size);
    if (!t)
        return ERROR_RANKS;
    int failed = ERROR_RANKS;
    if (t->rank(t->self, &ranks->rank, &ranks->size) ||
        t->node(t->self, &ranks->node_rank, &ranks->node_size))
        snprintf(why, why_size, "%s (%s) does not say which rank this is: %s", path, t->version(t->self),
                 t->why(t->self));
    else if (launcher || ranks->size > 1)
        failed = agree(ranks, launcher, launched, size, path, why, why_size);
    else
        failed = alone(size, why, why_size);
    if (failed && ranks->size == 1)
        t->close(t->self); /* nobody waits, and what the library started for one process ends */
    if (failed)
        ranks->transport = NULL;
    return failed;
}

void ranks_leave(Ranks *ranks, int status)
{
    const Transport *t = ranks->transport;
    ranks_watch_end_(t);
    if (t && !status)
        t->close(t->self);
    ranks->transport = NULL;
}
