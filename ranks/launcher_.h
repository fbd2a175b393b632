/* Who started this process, and where the plugins lie: what joining and starting ranks both ask. */
#ifndef BRIM_RANKS_LAUNCHER_H
#define BRIM_RANKS_LAUNCHER_H

#include <stddef.h>

enum { LAUNCHER_PLUGINS = 4, PLUGIN_PATH = 4096, COMMAND_TEXT = 400 };

/* What a launcher tells the processes it starts, and the plugins that can be meant: the part of
 * libbrim-mpi-NAME.so that differs; "" is libbrim-mpi.so. */
typedef struct Launcher {
    const char *size; /* the variable with the number of ranks */
    const char *rank; /* that with this process's */
    int needs_rank;   /* the first is not enough: others have it too */
    const char *name; /* "Open MPI's mpirun" */
    const char *plugins[LAUNCHER_PLUGINS];
} Launcher;

/* NULL: none that sets a variable known here. *ranks: how many it started. */
const Launcher *launcher_of_(int *ranks);

/* This process's rank, as its launcher says; 0 where none does. */
int launcher_rank_(void);

/* The file of a plugin beside this program, in its installation or beside the library; its bare name, which
 * the linker looks for, where it is in none of these. Returns whether it was seen. */
int plugin_find_(const char *name, char path[PLUGIN_PATH]);
/* The same of a whole name, "libbrim-nccl.so". */
int plugin_look_(const char *file, char path[PLUGIN_PATH]);
/* "libbrim-mpi-openmpi.so" of a path: where its name begins. */
const char *plugin_file_(const char *path);

/* The command that starts `ranks` of this program, as one types it. argv: NULL = what this process was
 * started with. */
void launcher_command_(int ranks, char *const *argv, char text[COMMAND_TEXT]);
/* Processors that this process may run on. */
int launcher_processors_(void);
/* The file of this program. Returns 0, or -1 where nobody says. */
int launcher_program_(char path[PLUGIN_PATH]);

#endif
