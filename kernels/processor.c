/* What this processor can do, and how much of it this process may use. */
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/team.h"

#include <stdio.h>
#include <stdlib.h>

int processor_has_avx2(void)
{
#ifdef __x86_64__
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
#else
    return 0;
#endif
}

int processor_has_avx512(void)
{
#ifdef __x86_64__
    return processor_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

/* Processors a control group's quota is worth (cgroup v2's cpu.max), rounded up; 0 = no quota. */
static int processor_quota(void)
{
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file)
        return 0;
    long quota = 0, period = 0;
    int read = fscanf(file, "%ld %ld", &quota, &period);
    fclose(file);
    return read == 2 && quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int kernels_default_threads(void)
{
    enum { MOST_THREADS = 128 }; /* that a context takes */
    const char *text = getenv("BRIM_THREADS");
    long wanted = text ? strtol(text, NULL, 10) : 0;
    if (wanted > 0)
        return wanted < MOST_THREADS ? (int)wanted : MOST_THREADS;
    int processors = team_processors();
    int quota = processor_quota();
    if (quota && quota < processors)
        processors = quota;
    return processors > 0 ? processors : 1;
}
