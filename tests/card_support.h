/* The stand-in's card for tests of kernels, opened once; with BRIM_TEST_CARD=real the machine's. Its kernels
 * may touch the host's memory, and everything on it runs at once, so that a test calls them as it calls the
 * CPU's. */
#ifndef BRIM_TESTS_CARD_SUPPORT_H
#define BRIM_TESTS_CARD_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "card_reach.h"
#include "device/cuda.h"
#include "kernels/kernels.h"

static inline CudaDevice *card(void)
{
    static CudaDevice device;
    static int opened;
    char why[1200];
    if (!opened) {
        const char *folder = getenv("BRIM_STAND_IN");
        char path[512];
        if (!card_is_real()) {
            snprintf(path, sizeof path, "%s/libcuda.so.1", folder ? folder : "build/stand-in");
            setenv("BRIM_CUDA_DRIVER", path, 1);
            snprintf(path, sizeof path, "%s/libcublas.so.13", folder ? folder : "build/stand-in");
            setenv("BRIM_CUBLAS", path, 1);
            setenv("STAND_IN_EAGER", "1", 1);
        }
        opened = kernels_cuda_open(&device, 0, why, sizeof why);
        CudaPointer scratch = 0, workspace = 0;
        size_t bytes = cuda_workspace_bytes(device.capability);
        if (!opened && (cuda.alloc(&scratch, CUDA_SCRATCH) || cuda.alloc(&workspace, bytes) ||
                        cuda_lend(&device, scratch, workspace, bytes)))
            fail_msg("the stand-in has no room for a workspace");
        if (opened)
            fail_msg("the %s does not open: %s", card_is_real() ? "card" : "stand-in", why);
        const char *trouble = card_is_real() ? card_reach(&device) : NULL;
        if (trouble)
            fail_msg("%s", trouble);
        opened = 1;
    }
    return &device;
}

#endif
