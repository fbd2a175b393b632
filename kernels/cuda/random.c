/* Random fills on a card: random.cu. */
#include "../draw.h"
#include "launch_.h"

static void start(const KernelRun *run, int kernel, RandomArguments a)
{
    a.aligned = (uintptr_t)a.y % 16 == 0;
    LAUNCH(run, kernel, cuda_blocks((a.n + 3) / 4), 1, 1, CUDA_THREADS, a);
}

void cuda_fill_normal(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float mean, float std,
                      float *y, const KernelRun *run)
{
    start(run, CUDA_fill_normal,
          (RandomArguments){
              .n = n, .first = first, .seed = seed, .stream = stream, .a = mean, .b = std, .y = y});
}

void cuda_fill_uniform(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float low, float high,
                       float *y, const KernelRun *run)
{
    start(run, CUDA_fill_uniform,
          (RandomArguments){.n = n,
                            .first = first,
                            .seed = seed,
                            .stream = stream,
                            .a = low,
                            .b = high,
                            .last = draw_last(low, high),
                            .y = y});
}
