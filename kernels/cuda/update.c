/* Optimizer updates on a card: update.cu. */
#include "../../base/quant_layout_.h"
#include "launch_.h"

/* The kernel of packs, or, where blocks of 256 belong together, the one after it. */
static void update(const KernelRun *run, int kernel, const UpdateArrays *arrays, const UpdateScalars *s,
                   const UpdateControl *control)
{
    UpdateArguments a = {.n = arrays->n,
                         .first = arrays->first,
                         .p = arrays->p,
                         .master = arrays->master,
                         .g = arrays->g,
                         .p_type = arrays->p_type,
                         .g_type = arrays->g_type,
                         .rates = {.s = *s},
                         .control = control,
                         .fault = (const unsigned long long *)run->fault};
    uintptr_t pointers = (uintptr_t)a.p | (uintptr_t)a.master | (uintptr_t)a.g;
    int blocks = arrays->rounding != NULL;
    for (int k = 0; k < UPDATE_STATES; k++) {
        a.state[k] = arrays->state[k];
        a.state_type[k] = arrays->state_type[k];
        pointers |= (uintptr_t)a.state[k];
        if (a.state[k] && dtype_is_dynamic8(a.state_type[k])) {
            a.scales[k] =
                (float *)(void *)((char *)a.state[k] + quant_layout(a.state_type[k], 1, a.n).scales);
            blocks = 1;
        }
    }
    if (arrays->rounding) {
        a.random = 1;
        a.rounding = *arrays->rounding;
    }
    if (kernel == CUDA_adam)
        a.rates.adam = adam_factors(s);
    a.aligned = pointers % 16 == 0;
    LAUNCH(run, kernel + blocks, cuda_blocks((a.n + 3) / (blocks ? 8 : 4) + 1), 1, 1, CUDA_THREADS, a);
}

void cuda_sgd(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
              const KernelRun *run)
{
    update(run, CUDA_sgd, a, s, control);
}

void cuda_rmsprop(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                  const KernelRun *run)
{
    update(run, CUDA_rmsprop, a, s, control);
}

void cuda_adagrad(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                  const KernelRun *run)
{
    update(run, CUDA_adagrad, a, s, control);
}

void cuda_adam(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
               const KernelRun *run)
{
    update(run, CUDA_adam, a, s, control);
}
