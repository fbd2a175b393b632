/* A program that is asked for several ranks and was started alone starts them itself: it becomes the
 * launcher. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/error.h"
#include "launcher_.h"
#include "ranks.h"

/* Set for what is started, which must not start launchers in turn where theirs sets no variable that is known
 * here. */
static const char started[] = "BRIM_LAUNCHED";

/* In the order tried: Open MPI first, whose ranks wait for each other without taking processors from them. */
static const struct {
    const char *plugin, *programs[3];
} pairs[] = {
    {"openmpi", {"mpirun.openmpi", "mpirun"}},
    {"mpich", {"mpirun.mpich", "mpiexec.hydra", "mpirun"}},
    {"abi", {"mpirun"}},
    {"", {"mpirun"}},
};

static int on_path(const char *program)
{
    char file[PLUGIN_PATH];
    for (const char *path = getenv("PATH"); path && *path;) {
        size_t length = strcspn(path, ":");
        if (length &&
            (size_t)snprintf(file, sizeof file, "%.*s/%s", (int)length, path, program) < sizeof file &&
            access(file, X_OK) == 0)
            return 1;
        path += length + (path[length] != 0);
    }
    return 0;
}

static int is_here(const char *plugin)
{
    char path[PLUGIN_PATH];
    if (plugin_find_(plugin, path))
        return 1;
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (library)
        dlclose(library);
    return library != NULL;
}

/* The launcher's program; NULL: none, and then *plugin says whether a plugin was there. */
static const char *choose(int *plugin)
{
    const char *own = getenv("BRIM_MPI");
    *plugin = 0;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char named[64];
        snprintf(named, sizeof named, "mpi%s%s.so", *pairs[i].plugin ? "-" : "", pairs[i].plugin);
        if (own && *own ? !strstr(plugin_file_(own), named) && i + 1 < sizeof pairs / sizeof *pairs
                        : !is_here(pairs[i].plugin))
            continue;
        *plugin = 1;
        for (int p = 0; p < 3 && pairs[i].programs[p]; p++)
            if (on_path(pairs[i].programs[p]))
                return pairs[i].programs[p];
    }
    return NULL;
}

/* What Open MPI's mpirun wants to be told, of version 4 and of 5; what is set already is the user's. Threads
 * are divided among ranks by the program, so ranks are not bound. */
static int prepare(int ranks)
{
    static const char *const as_root[] = {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
                                          "PRTE_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"};
    int failed = 0, many = ranks > launcher_processors_();
    for (int i = 0; i < 4 && geteuid() == 0; i++)
        failed |= setenv(as_root[i], "1", 0);
    failed |= setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0);
    failed |= setenv("PRTE_MCA_hwloc_default_binding_policy", "none", 0);
    if (many) {
        failed |= setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
        failed |= setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 0);
    }
    return failed | setenv(started, "1", 1);
}

int ranks_launch(int ranks, char *const *argv, char *why, size_t why_size)
{
    enum { WORDS = 4096 };
    const char *words[WORDS];
    char program[PLUGIN_PATH], number[16], command[COMMAND_TEXT];
    int count = 0, plugin;
    const char *launcher = choose(&plugin);
    launcher_command_(ranks, argv, command);
    if (getenv(started) || ranks_launched()) {
        snprintf(why, why_size, "mpirun started this process, and does not say as one of how many; type: %s",
                 command);
        return ERROR_RANKS;
    }
    if (!plugin) {
        snprintf(why, why_size,
                 "%d ranks reach each other by a plugin, libbrim-mpi-*.so, which is neither beside this "
                 "program nor where it "
                 "was installed; `make mpi` builds it (Debian's packages: libopenmpi-dev openmpi-bin)",
                 ranks);
        return ERROR_RANKS;
    }
    if (!launcher) {
        snprintf(why, why_size,
                 "mpirun, which starts ranks, is not on the path (Debian's package: openmpi-bin); where it "
                 "is, type: %s",
                 command);
        return ERROR_RANKS;
    }
    if (launcher_program_(program) != 0)
        snprintf(program, sizeof program, "%s", argv[0]);
    snprintf(number, sizeof number, "%d", ranks);
    words[count++] = launcher;
    words[count++] = "-n";
    words[count++] = number;
    words[count++] = program;
    for (int i = 1; argv[i] && count < WORDS - 1; i++)
        words[count++] = argv[i];
    words[count] = NULL;
    if (prepare(ranks) == 0 && count < WORDS - 1)
        execvp(launcher, (char *const *)words);
    snprintf(why, why_size, "%s could not be started: %s; type: %s", launcher, strerror(errno), command);
    return ERROR_RANKS;
}
