/* Where the CUDA driver and cuBLAS are on this machine. */
#ifndef BRIM_DEVICE_CUDA_FIND_H
#define BRIM_DEVICE_CUDA_FIND_H

#include <stddef.h>

enum {
    CUDA_OLDEST_DRIVER = 12000,    /* what cuDriverGetVersion says: CUDA 12.0, driver 525 */
    CUDA_DRIVER_OF_BLAS_13 = 13000 /* what cuBLAS 13 needs: driver 580 */
};

/* The library, or NULL with a sentence that says where it was looked for. BRIM_CUDA_DRIVER names another. */
void *cuda_find_driver(char *why, size_t size);
/* cuBLAS that works with this driver, its file in path, or NULL with a sentence: what was found, what is
 * needed, where it was looked for. BRIM_CUBLAS names a file, or the folder that it is in; otherwise what the
 * system's linker finds (LD_LIBRARY_PATH too), the folders of toolkits, and those of Python wheels: of the
 * environment in VIRTUAL_ENV or CONDA_PREFIX, of the user, of the system. */
void *cuda_find_blas(int driver, char *path, size_t path_size, char *why, size_t size);
/* NCCL, or NULL with a sentence. BRIM_NCCL names a file; otherwise as above. */
void *cuda_find_nccl(char *why, size_t size);

#endif
