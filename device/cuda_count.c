/* Differences of what is in use tell what each stage of opening a card has taken. */
#include "cuda_count.h"

#include "cuda.h"
#include "nvml.h"

static void put(CudaReading *reading, CudaCounter counter, int failed, uint64_t bytes)
{
    reading->bytes[counter] = failed ? 0 : bytes;
    reading->known |= failed ? 0 : 1u << counter;
}

void cuda_take_reading(void *nvml, CudaReading *reading)
{
    uint64_t bytes;
    size_t left = 0, all = 0;
    *reading = (CudaReading){0};
    int failed = nvml_own(nvml, &bytes);
    put(reading, CUDA_COUNTS_PROCESS, failed, bytes);
    failed = nvml_all(nvml, &bytes);
    put(reading, CUDA_COUNTS_CARD, failed, bytes);
    failed = cuda.memory_info(&left, &all);
    put(reading, CUDA_COUNTS_DRIVER, failed, all - left);
}

/* A process is counted if it is on the list once it has a context, and was not before: in a container another
 * may have its number on the host. */
static int counts(CudaCounter counter, const CudaReading moments[CUDA_MOMENTS], const CudaReading *now)
{
    unsigned known = now->known;
    int listed = now->bytes[CUDA_COUNTS_PROCESS] > 0 && !moments[CUDA_BEFORE].bytes[CUDA_COUNTS_PROCESS];
    for (int i = 0; i < CUDA_MOMENTS; i++) {
        if (i > CUDA_BEFORE || counter != CUDA_COUNTS_DRIVER)
            known &= moments[i].known;
        listed &= i == CUDA_BEFORE || moments[i].bytes[CUDA_COUNTS_PROCESS] > 0;
    }
    return known >> counter & 1 && (counter != CUDA_COUNTS_PROCESS || listed);
}

/* Others may have given memory back meanwhile. */
static uint64_t grown(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

CudaUse cuda_use_between(const CudaReading moments[CUDA_MOMENTS], const CudaReading *now)
{
    CudaCounter c = CUDA_COUNTS_PROCESS;
    uint64_t at[CUDA_MOMENTS];
    while (c < CUDA_COUNTERS && !counts(c, moments, now))
        c++;
    if (c == CUDA_COUNTERS)
        return (CudaUse){.counter = c};
    for (int i = 0; i < CUDA_MOMENTS; i++)
        at[i] = c == CUDA_COUNTS_DRIVER && i == CUDA_BEFORE ? 0 : moments[i].bytes[c];
    return (CudaUse){.counter = c,
                     .used = now->bytes[c],
                     .others = at[CUDA_BEFORE],
                     .context = grown(at[CUDA_BEFORE], at[CUDA_AFTER_CONTEXT]),
                     .kernels = grown(at[CUDA_AFTER_CONTEXT], at[CUDA_AFTER_KERNELS]),
                     .library = grown(at[CUDA_BEFORE_LIBRARY], at[CUDA_AFTER_LIBRARY]),
                     .transport = grown(at[CUDA_BEFORE_TRANSPORT], at[CUDA_AFTER_TRANSPORT])};
}
