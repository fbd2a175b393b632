/* Devices by name, and what is missing here for one. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "../device/cuda_find.h"
#include "../device/device.h"
#include "../ranks/cards_.h"
#include "tensor_.h"

static int device_exists(const char *root, const char *path)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    return access(whole, F_OK) == 0;
}

/* Entries of a folder whose names are this text followed by something other than a letter: nvidia0, not
 * nvidiactl. */
static int device_count(const char *root, const char *path, const char *start)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    DIR *folder = opendir(whole);
    if (!folder)
        return 0;
    int count = 0;
    size_t length = strlen(start);
    for (struct dirent *entry; (entry = readdir(folder));) {
        char next = strncmp(entry->d_name, start, length) ? '.' : entry->d_name[length];
        count += next >= '0' && next <= '9';
    }
    closedir(folder);
    return count;
}

static int device_has_libcuda(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver)
        dlclose(driver);
    return driver != NULL;
}

void device_nvidia_(const char *root, int libcuda, char *text, size_t size)
{
    int cards = device_count(root, "/dev", "nvidia");
    int listed = device_count(root, "/proc/driver/nvidia/gpus", "");
    cards = cards > listed ? cards : listed;
    int driver = device_exists(root, "/proc/driver/nvidia/version");
    if (cards && libcuda)
        snprintf(text, size, "though this machine has %d NVIDIA GPU%s and a driver", cards, plural(cards));
    else if (cards || driver)
        snprintf(text, size, "and this machine has %d NVIDIA GPU%s %s the driver's library, libcuda.so.1",
                 cards, plural(cards), libcuda ? "with" : "without");
    else if (libcuda)
        snprintf(text, size,
                 "and this machine has a CUDA driver's library, but no NVIDIA GPU "
                 "(no /dev/nvidia0, no /proc/driver/nvidia)");
    else
        snprintf(text, size,
                 "and this machine has neither an NVIDIA GPU nor a driver "
                 "(no /dev/nvidia0, no /proc/driver/nvidia, no libcuda.so.1)");
}

int device_check(const char *name, char *why, size_t size)
{
    char found[256];
    why[0] = '\0';
    if (!name || !strcmp(name, "cpu"))
        return ERROR_NONE;
    if (device_cuda_ordinal(name) >= 0) {
        CudaDevice card;
        char missing[512];
        if (!cuda_look(&card, device_cuda_ordinal(name), missing, sizeof missing))
            return ERROR_NONE;
        device_nvidia_("", device_has_libcuda(), found, sizeof found);
        int driver = cuda.init != NULL; /* then it is another thing that is missing */
        snprintf(why, size, "%s%s%s; cpu works, and a plan needs no device", missing, driver ? "" : ", ",
                 driver ? "" : found);
        return ERROR_STATE;
    }
    if (!strcmp(name, "meta"))
        snprintf(why, size, "meta is where plans run, without data: plan instead; cpu runs");
    else
        snprintf(why, size, "a device is cpu or cuda (one card of several: cuda:0), not '%.64s'", name);
    return ERROR_ARGUMENT;
}

int context_join_cards(struct Ranks *ranks, const char *device, const char *transport, char *why,
                       size_t why_size)
{
    unsigned char identity[16];
    int none = cuda_identity(device_rank_ordinal(device, ranks->node_rank), identity);
    return ranks_join_cards_(ranks,
                             &(RankCardHere){.identity = none ? NULL : identity, .library = cuda_find_nccl},
                             transport, why, why_size);
}
