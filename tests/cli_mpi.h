/* What tests of the command with several ranks share: what it says and refuses, and, where there is an MPI,
 * how it is started over it. */
#ifndef TEST_CLI_MPI_H
#define TEST_CLI_MPI_H

#include <time.h>

#include "../ranks/launcher_.h"
#include "cli_support.h"

/* On either output. */
static inline void says(const Outcome *o, const char *what)
{
    if (!strstr(o->out, what) && !strstr(o->err, what))
        fail_msg("'%s' is not in: %s%s", what, o->out, o->err);
}

/* A command that is refused, with this sentence. */
typedef struct Refusal {
    const char *arguments[12], *sentence;
} Refusal;

static inline void are_refused(int code, const Refusal *all, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *arguments[14] = {"brim"};
        for (int k = 0; k < 12 && all[i].arguments[k]; k++)
            arguments[k + 1] = all[i].arguments[k];
        says(expect_code(run_command(arguments), code), all[i].sentence);
    }
}

static const char *launcher; /* NULL: there is no MPI, or no plugin */

/* what: is skipped where there is none; a line says so at the end of `make test`. */
static inline void find_launcher(const char *what)
{
    static const char *const pairs[][2] = {
        {"openmpi", "mpirun.openmpi"}, {"openmpi", "mpirun"}, {"mpich", "mpirun.mpich"}, {"", "mpirun"}};
    char path[PLUGIN_PATH], command[96];
    for (size_t i = 0; i < COUNT(pairs) && !launcher; i++) {
        snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", pairs[i][1]);
        if (plugin_find_(pairs[i][0], path) && system(command) == 0)
            launcher = pairs[i][1];
    }
    const char *skipped = getenv("BRIM_SKIPPED");
    FILE *f = !launcher && skipped ? fopen(skipped, "a") : NULL;
    if (f) {
        fprintf(f, "%s over MPI: there is no mpirun, or no mpicc that built a plugin\n", what);
        fclose(f);
    }
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    if (SANITIZED) /* MPI leaves memory to the end of the process */
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
}

/* A folder with a small model, a text and images, which not every machine has. */
static inline int begin_over_mpi(const char *what, void **state)
{
    if (make_folder(state))
        return -1;
    make_model("llama");
    make_text("text", 20000);
    find_launcher(what);
    return setenv("BRIM_FASHION_MNIST", make_images("images"), 1);
}

#define NEEDS_MPI()                                                                                          \
    do {                                                                                                     \
        if (!launcher)                                                                                       \
            skip();                                                                                          \
    } while (0)

/* A shell's line, with what it printed, its status, and the seconds it took. */
static inline Outcome *shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static double shell_seconds __attribute__((unused));

static inline Outcome *shell(const char *format, ...)
{
    static Outcome outcome;
    char line[4096];
    struct timespec start, end;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    clock_gettime(CLOCK_MONOTONIC, &start);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    size_t bytes = fread(outcome.out, 1, sizeof outcome.out - 1, f);
    outcome.out[bytes] = outcome.err[0] = '\0';
    int status = pclose(f);
    clock_gettime(CLOCK_MONOTONIC, &end);
    shell_seconds = (double)(end.tv_sec - start.tv_sec);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return &outcome;
}

#endif
