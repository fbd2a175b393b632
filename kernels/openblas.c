/* OpenBLAS picks kernels from a list of processor models while it is loaded, and a processor newer than the
 * list gets a guess: 0.3.21 serves Intel's family 6, model 207 (AVX-512) with SSE3 kernels, a tenth of its
 * speed. We ask the processor what it can do instead, and move OpenBLAS there. */
#include "kernels/blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int is_one_of(const char *core, const char *const *names)
{
    for (; *names; names++)
        if (!strcmp(core, *names))
            return 1;
    return 0;
}

/* Vector width, in bits, of the kernels of a core; 0 for cores we do not know: those are left alone. */
static int core_width(const char *core)
{
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids", NULL};
    static const char *const middle[] = {"Haswell", "Zen", "Excavator", NULL};
    static const char *const narrow[] = {
        "Katmai",    "Coppermine", "Northwood", "Prescott",    "Banias",     "Core2",        "Atom",
        "Penryn",    "Dunnington", "Nehalem",   "Sandybridge", "Athlon",     "Opteron_SSE3", "Opteron",
        "Barcelona", "Bobcat",     "Nano",      "Bulldozer",   "Piledriver", "Steamroller",  NULL};
    if (is_one_of(core, wide))
        return 512;
    if (is_one_of(core, middle))
        return 256;
    return is_one_of(core, narrow) ? 128 : 0;
}

const char *openblas_better_core(const char *core)
{
    int width = core_width(core);
    if (!width)
        return NULL;
    if (processor_has_avx512() && width < 512)
        return "SkylakeX";
    if (processor_has_avx2() && width < 256)
        return "Haswell";
    return NULL;
}

void openblas_find(void *handle, OpenBlas *out)
{
    blas_symbol(handle, "gotoblas_dynamic_quit", &out->dynamic_quit);
    blas_symbol(handle, "gotoblas_dynamic_init", &out->dynamic_init);
    blas_symbol(handle, "openblas_get_corename", &out->core);
    blas_symbol(handle, "openblas_get_config", &out->config);
    blas_symbol(handle, "openblas_set_num_threads", &out->set_threads);
    blas_symbol(handle, "openblas_get_num_threads", &out->threads);
    blas_symbol(handle, "openblas_get_parallel", &out->parallel);
}

const char *openblas_chosen_core(const OpenBlas *library)
{
    const char *chosen = getenv("OPENBLAS_CORETYPE");
    return chosen && *chosen && library->core && !strcasecmp(chosen, library->core()) ? chosen : NULL;
}

/* The variable is the only way to name a core. It is not ours to hand to child processes, so it does not
 * stay. */
static void restart_as(const OpenBlas *library, const char *core)
{
    static char assignment[64]; /* whoever reads the environment meanwhile may keep it */
    snprintf(assignment, sizeof assignment, "OPENBLAS_CORETYPE=%s", core);
    if (environment_begin(assignment))
        return;
    library->dynamic_quit();
    library->dynamic_init();
    environment_end();
}

void openblas_switch_core(const OpenBlas *library)
{
    if (!library->dynamic_quit || !library->dynamic_init || !library->core || openblas_chosen_core(library))
        return;
    const char *better = openblas_better_core(library->core());
    if (better)
        restart_as(library, better);
}
