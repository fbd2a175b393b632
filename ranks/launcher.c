/* Launchers by the variables they set: Open MPI's documentation names OMPI_COMM_WORLD_SIZE, MPICH's mpirun
 * and its relatives set PMI_SIZE, srun's manual SLURM_STEP_NUM_TASKS. (SLURM_NTASKS is in the environment of
 * a job's script too, which is one process.) mpirun inside a Slurm job starts its helpers by srun, so its own
 * variables are looked at first. */
#include "launcher_.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ranks.h"

static const Launcher launchers[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", 0, "Open MPI's mpirun", {"openmpi", "abi", ""}},
    {"PMI_SIZE", "PMI_RANK", 0, "MPICH's mpirun", {"mpich", "abi", ""}},
    {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", 1, "srun", {"openmpi", "mpich", "abi", ""}},
};

const Launcher *launcher_of_(int *ranks)
{
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const Launcher *l = &launchers[i];
        const char *size = getenv(l->size);
        char *end;
        long n = size ? strtol(size, &end, 10) : 0;
        if (n < 1 || n > INT_MAX || *end || (l->needs_rank && !getenv(l->rank)))
            continue;
        *ranks = (int)n;
        return l;
    }
    *ranks = 0;
    return NULL;
}

int ranks_launched(void)
{
    int ranks;
    launcher_of_(&ranks);
    return ranks;
}

int launcher_rank_(void)
{
    int ranks;
    const Launcher *l = launcher_of_(&ranks);
    const char *text = l ? getenv(l->rank) : NULL;
    long rank = text ? strtol(text, NULL, 10) : 0;
    return rank > 0 && rank < ranks ? (int)rank : 0;
}

int launcher_program_(char path[PLUGIN_PATH])
{
    ssize_t length = readlink("/proc/self/exe", path, PLUGIN_PATH - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 ? 0 : -1;
}

const char *plugin_file_(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The file in the folder of `beside`, or in `from` seen from there. */
static int is_there(const char *beside, const char *from, const char *file, char path[PLUGIN_PATH])
{
    int folder = (int)(plugin_file_(beside) - beside);
    int length = snprintf(path, PLUGIN_PATH, "%.*s%s%s", folder, beside, from, file);
    return folder > 0 && length < PLUGIN_PATH && access(path, R_OK) == 0;
}

int plugin_find_(const char *name, char path[PLUGIN_PATH])
{
    char file[64];
    snprintf(file, sizeof file, "libbrim-mpi%s%s.so", *name ? "-" : "", name);
    return plugin_look_(file, path);
}

int plugin_look_(const char *file, char path[PLUGIN_PATH])
{
    char program[PLUGIN_PATH];
    Dl_info library;
    if (launcher_program_(program) == 0 &&
        (is_there(program, "", file, path) || is_there(program, "../", file, path) ||
         is_there(program, "../lib/", file, path)))
        return 1;
    if (dladdr(launchers, &library) && library.dli_fname && is_there(library.dli_fname, "", file, path))
        return 1;
    snprintf(path, PLUGIN_PATH, "%s", file);
    return 0;
}

int launcher_processors_(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* One more word, as a shell reads it; "..." for those that there is no room for. */
static void put_word(char text[COMMAND_TEXT], const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%";
    char quoted[COMMAND_TEXT];
    size_t at = strlen(text), end = 0, most = COMMAND_TEXT - 8;
    int quote = !*word || strspn(word, plain) != strlen(word);
    if (quote)
        quoted[end++] = '\'';
    for (; *word && end < most; word++)
        end += (size_t)snprintf(quoted + end, sizeof quoted - end, *word == '\'' ? "'\\''" : "%c", *word);
    if (quote)
        quoted[end++] = '\'';
    quoted[end] = 0;
    if (!*word && at + end + 6 < COMMAND_TEXT)
        snprintf(text + at, COMMAND_TEXT - at, " %s", quoted);
    else if (at < 4 || strcmp(text + at - 4, " ...") != 0)
        snprintf(text + at, COMMAND_TEXT - at, " ...");
}

void launcher_command_(int ranks, char *const *argv, char text[COMMAND_TEXT])
{
    char line[COMMAND_TEXT * 4];
    snprintf(text, COMMAND_TEXT, "mpirun -n %d%s", ranks,
             ranks > launcher_processors_() ? " --oversubscribe" : "");
    if (argv) {
        for (; *argv; argv++)
            put_word(text, *argv);
        return;
    }
    int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t bytes = file < 0 ? 0 : read(file, line, sizeof line - 1);
    if (file >= 0)
        close(file);
    if (bytes <= 0) {
        put_word(text, "...");
        return;
    }
    line[bytes] = 0;
    for (ssize_t at = 0; at < bytes; at += (ssize_t)strlen(line + at) + 1)
        put_word(text, line + at);
}
