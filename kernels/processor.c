/* What this processor can do, and how much of it this process may use. */
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/team.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <stdio.h>
#include <stdlib.h>

#ifdef __x86_64__
/* What cpuid says of it that __builtin_cpu_supports does not know. */
static int has_more_of_v3(void)
{
    unsigned a, b, d, c1 = 0, c8 = 0;
    __get_cpuid(1, &a, &b, &c1, &d);
    __get_cpuid(0x80000001, &a, &b, &c8, &d);
    return (c1 & bit_MOVBE) && (c1 & bit_F16C) && (c8 & bit_LZCNT);
}
#endif

/* Asked once: each context asks, and in a virtual machine cpuid leaves it, which is dear. */
int processor_has_avx2(void)
{
#ifdef __x86_64__
    static _Atomic int known; /* 0 = not yet; else 1 + the answer */
    if (!known)
        known = 1 + (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                     __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_more_of_v3());
    return known - 1;
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

int processor_has_avx512_bf16(void)
{
#ifdef __x86_64__
    static _Atomic int known;
    unsigned a = 0, b, c, d;
    if (!known)
        known = 1 + (processor_has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1));
    return known - 1;
#else
    return 0;
#endif
}

/* The numbers that a file begins with, at most two; returns how many. */
static int read_numbers(const char *path, long *first, long *second)
{
    FILE *file = fopen(path, "re");
    int read = file ? fscanf(file, "%ld %ld", first, second) : 0;
    if (file)
        fclose(file);
    return read > 0 ? read : 0;
}

/* Processors that the quota of a container's control group, version 2 or 1, is worth, rounded up; 0 = no
 * quota. */
static int processor_quota(void)
{
    long quota = 0, period = 0, none;
    if (read_numbers("/sys/fs/cgroup/cpu.max", &quota, &period) < 2 &&
        (!read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, &none) ||
         !read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, &none)))
        return 0;
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int kernels_default_threads(void)
{
    enum { MOST_THREADS = 128 }; /* that a context takes */
    const char *text = getenv("BRIM_THREADS");
    char *end = NULL;
    long wanted = text ? strtol(text, &end, 10) : 0;
    if (wanted > 0 && !*end)
        return wanted < MOST_THREADS ? (int)wanted : MOST_THREADS;
    int processors = team_processors();
    int quota = processor_quota();
    if (quota && quota < processors)
        processors = quota;
    return processors < 1 ? 1 : processors < MOST_THREADS ? processors : MOST_THREADS;
}
