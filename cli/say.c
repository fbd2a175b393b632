/* What several commands say in the same words. */
#include "../kernels/kernels.h"
#include "../base/plural_.h"
#include "cli.h"

int say_error(void)
{
    fflush(stdout);
    fprintf(stderr, "brim: %s\n", error_message());
    error_clear();
    return EXIT_NO;
}

int products_or_say(void)
{
    const char *error = kernels_blas_error(), *warning = kernels_blas_warning();
    fflush(stdout);
    if (error || warning)
        fprintf(stderr, "brim: %s\n", error ? error : warning);
    return error ? EXIT_NO : EXIT_DONE;
}

int threads_of(const Options *o)
{
    return o->threads ? o->threads : kernels_default_threads();
}
