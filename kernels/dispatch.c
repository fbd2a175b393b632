/* Which kernel table runs here: the widest one that was linked and that processor and system support. */
#include "kernels/blas.h"
#include "kernels/dots.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

extern const Kernels kernels_cpu_base;
#ifdef BRIM_HAVE_avx2
extern const Kernels kernels_cpu_avx2;
#endif
#ifdef BRIM_HAVE_dots
extern const Kernels kernels_cpu_dots;
#endif
#ifdef BRIM_HAVE_avx512
extern const Kernels kernels_cpu_avx512;
#endif

static int dispatch_always(void)
{
    return 1;
}

/* Best first. */
static const struct {
    const Kernels *table;
    int (*supported)(void);
} dispatch_tables[] = {
#ifdef BRIM_HAVE_dots
    {&kernels_cpu_dots, processor_has_avx512_bf16},
#endif
#ifdef BRIM_HAVE_avx512
    {&kernels_cpu_avx512, processor_has_avx512},
#endif
#ifdef BRIM_HAVE_avx2
    {&kernels_cpu_avx2, processor_has_avx2},
#endif
    {&kernels_cpu_base, dispatch_always},
};

const Kernels *kernels_cpu(const char *name)
{
    int choose = name == NULL;
    if (choose)
        name = getenv("BRIM_ISA");
    if (name && !strcmp(name, "reference"))
        return kernels_reference();
    size_t count = sizeof dispatch_tables / sizeof *dispatch_tables;
    for (size_t i = 0; name && i < count; i++)
        if (!strcmp(name, dispatch_tables[i].table->name) && dispatch_tables[i].supported())
            return dispatch_tables[i].table;
    /* A variable that names no usable table is as if it were not set: the run says which table it uses. */
    for (size_t i = 0; choose && i < count; i++)
        if (dispatch_tables[i].supported())
            return dispatch_tables[i].table;
    return NULL;
}
