/* nvml: NVIDIA's management library, found at run time: what nvidia-smi shows comes from it. It comes with
 * the driver, and counts a process where the driver's own cuMemGetInfo counts a card. */
#ifndef BRIM_DEVICE_NVML_H
#define BRIM_DEVICE_NVML_H

#include <stdint.h>

/* As its header has them: nvmlProcessInfo_t (which is its _v2) and nvmlMemory_v2_t. */
typedef struct NvmlProcess {
    unsigned pid;
    unsigned long long used; /* bytes; NVML_UNKNOWN where it cannot say */
    unsigned gpu_instance, compute_instance;
} NvmlProcess;
typedef struct NvmlMemory {
    unsigned version; /* NVML_MEMORY_VERSION */
    unsigned long long total, reserved, available, used;
} NvmlMemory;
#define NVML_UNKNOWN        (~0ull)
#define NVML_MEMORY_VERSION ((unsigned)sizeof(NvmlMemory) | 2u << 24)

/* name, symbol, arguments. A driver of 510 or later has them all. */
#define NVML_FUNCTIONS(X)                                                                                    \
    X(init, "nvmlInit_v2", (void))                                                                           \
    X(shutdown, "nvmlShutdown", (void))                                                                      \
    X(by_uuid, "nvmlDeviceGetHandleByUUID", (const char *, void **))                                         \
    X(processes, "nvmlDeviceGetComputeRunningProcesses_v3", (void *, unsigned *, NvmlProcess *))             \
    X(memory, "nvmlDeviceGetMemoryInfo_v2", (void *, NvmlMemory *))

/* The card that cuDeviceGetUuid_v2 says these 16 bytes of, a slice of MIG's too; NULL where the library is
 * not there (libnvidia-ml.so.1, or what BRIM_NVML names) or does not know the card. CUDA numbers cards in
 * another order, and CUDA_VISIBLE_DEVICES leaves some out, so a number would not do. */
void *nvml_open(const unsigned char uuid[16]);
void nvml_close(void *card); /* NULL is fine */
/* Bytes that this process has on the card: 0 where it is not on the list. -1 = there is no answer. In a
 * container the list usually has the numbers that processes have on the host: then this one is not on it. */
int nvml_own(void *card, uint64_t *bytes);
/* The same of all programs together, without what driver and firmware keep for themselves. */
int nvml_all(void *card, uint64_t *bytes);

#endif
