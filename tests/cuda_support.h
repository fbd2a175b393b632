/* What the tests of training on a card share: the stand-in's environment, and what it counts. */
#ifndef TEST_CUDA_SUPPORT_H
#define TEST_CUDA_SUPPORT_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda.h"

/* Everything on the made-up card; the host cannot touch its memory (a fault is at the line that tries to). */
static inline void stand_in_environment(void)
{
    const char *at = getenv("BRIM_STAND_IN");
    char path[512];
    snprintf(path, sizeof path, "%s/libcuda.so.1", at ? at : "build/stand-in");
    setenv("BRIM_CUDA_DRIVER", path, 1);
    snprintf(path, sizeof path, "%s/libcublas.so.13", at ? at : "build/stand-in");
    setenv("BRIM_CUBLAS", path, 1);
    snprintf(path, sizeof path, "%s/libnvidia-ml.so.1", at ? at : "build/stand-in");
    setenv("BRIM_NVML", path, 1);
    snprintf(path, sizeof path, "%s/libnccl.so.2", at ? at : "build/stand-in");
    setenv("BRIM_NCCL", path, 0);
    setenv("STAND_IN_GUARD", "1", 0);
}

/* What the stand-in has counted. */
typedef struct StandInCounts {
    unsigned long long launches, copies, waits, used, graphs;
} StandInCounts;

static inline StandInCounts stand_in_seen(void)
{
    unsigned long long out[5] = {0};
    void *driver = dlopen(getenv("BRIM_CUDA_DRIVER"), RTLD_NOW | RTLD_NOLOAD);
    void (*counts)(unsigned long long *) = NULL;
    void *found = driver ? dlsym(driver, "stand_in_counts") : NULL;
    memcpy(&counts, &found, sizeof found);
    if (counts)
        counts(out);
    if (driver)
        dlclose(driver);
    return (StandInCounts){out[0], out[1], out[2], out[3], out[4]};
}

#endif
