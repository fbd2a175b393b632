/* What the tests of the command over MPI share: whether there is one, and files to train on. */
#ifndef TEST_CLI_MPI_H
#define TEST_CLI_MPI_H

#include "../ranks/launcher_.h"
#include "cli_support.h"

static const char *launcher; /* NULL: there is no MPI, or no plugin */

static int find_mpi(void **state)
{
    static const char *const pairs[][2] = {
        {"openmpi", "mpirun.openmpi"}, {"openmpi", "mpirun"}, {"mpich", "mpirun.mpich"}, {"", "mpirun"}};
    char path[PLUGIN_PATH], command[96];
    if (make_folder(state))
        return -1;
    make_model("llama");
    make_text("text", 20000);
    setenv("BRIM_FASHION_MNIST", make_images("images"), 1); /* not every machine has it */
    for (size_t i = 0; i < COUNT(pairs) && !launcher; i++) {
        snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", pairs[i][1]);
        if (plugin_find_(pairs[i][0], path) && system(command) == 0)
            launcher = pairs[i][1];
    }
    const char *skipped = getenv("BRIM_SKIPPED");
    FILE *f = !launcher && skipped ? fopen(skipped, "a") : NULL;
    if (f) {
        fprintf(f,
                "trainings of the command over MPI: there is no mpirun, or no mpicc that built a plugin\n");
        fclose(f);
    }
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    if (SANITIZED) /* MPI leaves memory to the end of the process */
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    return 0;
}

#define NEEDS_MPI()                                                                                          \
    do {                                                                                                     \
        if (!launcher)                                                                                       \
            skip();                                                                                          \
    } while (0)

#endif
