/* The management library by dlopen, and two questions to it. */
#include "nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
#define X(name, symbol, arguments) int(*name) arguments;
    NVML_FUNCTIONS(X)
#undef X
} nvml;
static const char *const names[] = {
#define X(name, symbol, arguments) symbol,
    NVML_FUNCTIONS(X)
#undef X
};

enum { PROCESSES = 256 }; /* of one card, at most */

/* It stays open: functions of its are in the table. */
static int load(void)
{
    const char *own = getenv("BRIM_NVML");
    void *found[sizeof names / sizeof *names], *library;
    if (nvml.init)
        return 0;
    library = dlopen(own ? own : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return -1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        found[i] = dlsym(library, names[i]);
        if (!found[i]) {
            dlclose(library);
            return -1;
        }
    }
    memcpy(&nvml, found, sizeof nvml); /* C has no cast from object to function pointer */
    return 0;
}

/* "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f" */
static void write_uuid(char *text, const char *kind, const unsigned char uuid[16])
{
    int used = sprintf(text, "%s-", kind);
    for (int i = 0; i < 16; i++)
        used += sprintf(text + used, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

void *nvml_open(const unsigned char uuid[16])
{
    char text[64];
    void *card = NULL;
    if (load() || nvml.init())
        return NULL;
    write_uuid(text, "GPU", uuid);
    if (!nvml.by_uuid(text, &card) && card)
        return card;
    write_uuid(text, "MIG", uuid);
    card = NULL;
    if (!nvml.by_uuid(text, &card) && card)
        return card;
    nvml.shutdown();
    return NULL;
}

void nvml_close(void *card)
{
    if (card)
        nvml.shutdown(); /* it counts how often it was started */
}

int nvml_own(void *card, uint64_t *bytes)
{
    NvmlProcess list[PROCESSES];
    unsigned count = PROCESSES, own = (unsigned)getpid();
    *bytes = 0;
    if (!card || nvml.processes(card, &count, list))
        return -1;
    for (unsigned i = 0; i < count && i < PROCESSES; i++)
        if (list[i].pid == own) {
            *bytes = list[i].used == NVML_UNKNOWN ? 0 : list[i].used;
            return list[i].used == NVML_UNKNOWN ? -1 : 0;
        }
    return 0;
}

int nvml_all(void *card, uint64_t *bytes)
{
    NvmlMemory memory = {.version = NVML_MEMORY_VERSION};
    *bytes = 0;
    if (!card || nvml.memory(card, &memory) || memory.total < memory.available + memory.reserved)
        return -1;
    *bytes = memory.total - memory.available - memory.reserved; /* `used` has had both meanings */
    return 0;
}
