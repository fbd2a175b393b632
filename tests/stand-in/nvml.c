/* A stand-in for libnvidia-ml: counts the memory of the made-up cards, by card and by process. A card is
 * found by its UUID alone. STAND_IN_NVML says what is wrong with it: host      processes are listed by
 * numbers that they do not have here, as in a container collides  the same, and another program has this
 * one's number unsaid    processes are listed, but not what they use refuses   processes are not listed: no
 * permission blind     not even a card's memory is told */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define API __attribute__((visibility("default")))

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    VERSION_MISMATCH = 25
};
enum { CARDS = 16, KEPT = 64 << 20, HOST = 100000 };

typedef struct Process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} Process;
typedef struct Memory {
    unsigned version;
    unsigned long long total, reserved, available, used;
} Memory;
typedef struct Use {
    size_t total, used, others, retained;
} Use;

static int started, (*card_use)(int, size_t *, unsigned char *, int *);
static char handles[CARDS];

static int is(const char *word)
{
    const char *text = getenv("STAND_IN_NVML");
    return text && !strcmp(text, word);
}

/* Starts that have no end yet. */
API int stand_in_nvml_started(void)
{
    return started;
}

API int nvmlInit_v2(void)
{
    void *found = dlsym(RTLD_DEFAULT, "stand_in_card_use");
    memcpy(&card_use, &found, sizeof found);
    if (!card_use)
        return DRIVER_NOT_LOADED;
    started++;
    return OK;
}

API int nvmlShutdown(void)
{
    if (!started)
        return UNINITIALIZED;
    started--;
    return OK;
}

API int nvmlDeviceGetHandleByUUID(const char *text, void **card)
{
    size_t unused[4];
    unsigned char u[16];
    int slice;
    for (int i = 0; started && i < CARDS && card_use(i, unused, u, &slice); i++) {
        char own[64];
        snprintf(own, sizeof own, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                 slice ? "MIG" : "GPU", u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10],
                 u[11], u[12], u[13], u[14], u[15]);
        if (!strcmp(own, text)) {
            *card = &handles[i];
            return OK;
        }
    }
    return started ? NOT_FOUND : UNINITIALIZED;
}

static int look(const void *card, Use *use)
{
    size_t out[4];
    unsigned char unused[16];
    int slice, i = (int)((const char *)card - handles);
    if (!started)
        return UNINITIALIZED;
    if (i < 0 || i >= CARDS || !card_use(i, out, unused, &slice))
        return INVALID_ARGUMENT;
    *use = (Use){out[0], out[1], out[2], out[3]};
    return OK;
}

API int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *count, Process *list)
{
    Use use;
    Process found[2];
    unsigned n = 0, own = (unsigned)getpid(), elsewhere = is("host") || is("collides") ? HOST : 0;
    int status = look(card, &use);
    if (status || is("refuses") || is("blind"))
        return status ? status : NO_PERMISSION;
    if (use.others)
        found[n++] = (Process){is("collides") ? own : 1, use.others, ~0u, ~0u};
    if (use.retained)
        found[n++] = (Process){own + elsewhere, use.used - use.others, ~0u, ~0u};
    for (unsigned i = 0; i < n && is("unsaid"); i++)
        found[i].used = ~0ull;
    if (n && *count < n) {
        *count = n;
        return INSUFFICIENT_SIZE;
    }
    memcpy(list, found, n * sizeof *found);
    *count = n;
    return OK;
}

API int nvmlDeviceGetMemoryInfo_v2(void *card, Memory *memory)
{
    Use use;
    int status = look(card, &use);
    if (status || is("blind"))
        return status ? status : NO_PERMISSION;
    if (memory->version != (sizeof *memory | 2u << 24))
        return VERSION_MISMATCH;
    memory->total = use.total + KEPT;
    memory->reserved = KEPT;
    memory->available = use.total - use.used;
    memory->used = use.used + KEPT;
    return OK;
}
