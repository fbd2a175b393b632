/* A stand-in for libcuda.so.1: cards that are made up, whose memory is the host's and whose kernels are
 * simt.c's. Strict where a card is: nothing runs before somebody waits for it; fresh memory is garbage;
 * launches over the limits fail; after a fault every call fails; whoever waits or allocates spoils a capture.
 * The environment says what the cards are like; cuInit reads it each time. STAND_IN_MEMORY=MiB        of a
 * card (1024) STAND_IN_CAPABILITY=90     75, 80, 86, 89, 90, 100, 120 STAND_IN_SMS=4 multiprocessors
 *   STAND_IN_CARDS=1           0: cuInit finds none
 *   STAND_IN_OTHERS=MiB        that another program has of the machine's first card (0)
 *   STAND_IN_DRIVER=13000      what cuDriverGetVersion says
 *   STAND_IN_INIT=803          what cuInit fails with
 *   STAND_IN_MODE=exclusive    or prohibited: the card takes no further context
 *   STAND_IN_GUARD=1           only kernels and copies can touch the memory of a card
 *   STAND_IN_EAGER=1           everything runs at once
 *   STAND_IN_ORDER=reverse     blocks and threads from the last to the first
 *   STAND_IN_SECONDS=60        of a processor, after which a kernel counts as an endless loop
 *   STAND_IN_FAIL=N            the N-th allocation from here fails
 *   STAND_IN_REFUSE=N          the N-th launch is refused
 *   STAND_IN_LOST=N            the card is gone when it comes to the N-th kernel or copy
 *   STAND_IN_TRAP=N            the N-th kernel reads where nothing is
 *   STAND_IN_COUNT=1           says at the end what was done
 * CUDA_VISIBLE_DEVICES chooses, as with the real one; MIG-… makes a slice of a seventh of the first card. */
#include "driver_.h"

#include <stdio.h>
#include <stdlib.h>

StandIn stand_in;
__thread Card *stand_in_card;

enum { CONTEXT_MIB = 16, MODULE_MIB = 2, SLICES = 7 };

static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

static int says(const char *name, const char *word)
{
    const char *text = getenv(name);
    return text && strcmp(text, word) == 0;
}

/* ---- What there is ---- */

/* Ends at the first entry that names no card, as the real one does. */
static int visible(int cards, int *slice, int number[CARDS_MAX])
{
    const char *at = getenv("CUDA_VISIBLE_DEVICES");
    int count = 0, seen[CARDS_MAX] = {0};
    for (int i = 0; i < CARDS_MAX; i++)
        number[i] = i;
    *slice = at && strncmp(at, "MIG-", 4) == 0 && cards > 0;
    if (!at || *slice)
        return *slice ? 1 : cards;
    while (*at) {
        char *end;
        long card = strncmp(at, "GPU-", 4) == 0 ? strtol(at + 4, &end, 10) : strtol(at, &end, 10);
        if (end == at || card < 0 || card >= cards || seen[card]++ || (*end && *end != ','))
            break;
        number[count++] = (int)card;
        at = *end ? end + 1 : end;
    }
    return count;
}

API int cuInit(unsigned flags)
{
    int slice, numbers[CARDS_MAX], failure = number("STAND_IN_INIT", 0);
    if (flags)
        return INVALID_VALUE;
    if (failure)
        return failure;
    stand_in.driver = number("STAND_IN_DRIVER", 13000);
    stand_in.mode = says("STAND_IN_MODE", "exclusive") ? 3 : says("STAND_IN_MODE", "prohibited") ? 2 : 0;
    stand_in.guard = number("STAND_IN_GUARD", 0);
    stand_in.deferred = !number("STAND_IN_EAGER", 0);
    stand_in.seconds = number("STAND_IN_SECONDS", 60);
    stand_in.fail_in = number("STAND_IN_FAIL", 0);
    stand_in.refuse_in = number("STAND_IN_REFUSE", 0);
    stand_in.lost_in = number("STAND_IN_LOST", 0);
    stand_in.trap_in = number("STAND_IN_TRAP", 0);
    simt_reverse(says("STAND_IN_ORDER", "reverse"));
    int cards = number("STAND_IN_CARDS", 1);
    stand_in.cards = visible(cards < 0 ? 0 : cards > CARDS_MAX ? CARDS_MAX : cards, &slice, numbers);
    if (!stand_in.cards)
        return NO_DEVICE;
    for (int i = 0; i < stand_in.cards; i++) {
        Card *card = &stand_in.card[i];
        if (card->retained)
            continue; /* what is open stays as it is */
        card->capability = number("STAND_IN_CAPABILITY", 90);
        card->multiprocessors = number("STAND_IN_SMS", 4) / (slice ? SLICES : 1);
        card->multiprocessors += card->multiprocessors == 0;
        card->total = (size_t)number("STAND_IN_MEMORY", 1024) * MIB / (slice ? SLICES : 1);
        card->slice = slice;
        card->number = numbers[i];
        card->used = card->others = card->number ? 0 : (size_t)number("STAND_IN_OTHERS", 0) * MIB;
    }
    if (stand_in.guard)
        trap_host();
    stand_in.initialised = 1;
    return SUCCESS;
}

API int cuDriverGetVersion(int *version)
{
    *version = number("STAND_IN_DRIVER", 13000);
    return SUCCESS;
}

API int cuDeviceGetCount(int *count)
{
    *count = stand_in.cards;
    return stand_in.initialised ? SUCCESS : NOT_INITIALIZED;
}

static int is_card(int device)
{
    return device >= 0 && device < stand_in.cards;
}

API int cuDeviceGet(int *device, int ordinal)
{
    if (!stand_in.initialised)
        return NOT_INITIALIZED;
    *device = ordinal;
    return is_card(ordinal) ? SUCCESS : INVALID_DEVICE;
}

API int cuDeviceGetName(char *name, int size, int device)
{
    if (!is_card(device) || size < 1)
        return INVALID_DEVICE;
    snprintf(name, (size_t)size, stand_in.card[device].slice ? "stand-in MIG 1g" : "stand-in");
    return SUCCESS;
}

API int cuDeviceGetUuid_v2(unsigned char uuid[16], int device)
{
    if (!is_card(device))
        return INVALID_DEVICE;
    for (int i = 0; i < 15; i++)
        uuid[i] = (unsigned char)(16 * i + stand_in.card[device].slice);
    uuid[15] = (unsigned char)stand_in.card[device].number;
    return SUCCESS;
}

/* KiB of shared memory that a block may ask for. */
static int shared_limit(int capability)
{
    switch (capability) {
    case 75:
        return 64;
    case 80:
        return 163;
    case 90:
    case 100:
        return 227;
    default:
        return 99;
    }
}

API int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    if (!is_card(device))
        return INVALID_DEVICE;
    const Card *card = &stand_in.card[device];
    const struct {
        int attribute, value;
    } known[] = {{1, 1024}, /* threads of a block */
                 {8, 48 << 10},
                 {10, SIMT_LANES},
                 {16, card->multiprocessors},
                 {20, stand_in.mode},
                 {33, device}, /* of the bus */
                 {75, card->capability / 10},
                 {76, card->capability % 10},
                 {97, shared_limit(card->capability) << 10}};
    *value = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].attribute == attribute)
            *value = known[i].value;
    return SUCCESS;
}

API int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    if (!is_card(device))
        return INVALID_DEVICE;
    *bytes = stand_in.card[device].total;
    return SUCCESS;
}

/* ---- Contexts ---- */

int card_ready(void)
{
    if (!stand_in.initialised)
        return NOT_INITIALIZED;
    if (!stand_in_card || !stand_in_card->retained)
        return INVALID_CONTEXT;
    return stand_in_card->fault;
}

int card_ready_to_wait(void)
{
    int status = card_ready();
    if (!status && stand_in_card->capture.into) {
        stand_in_card->capture.invalid = 1;
        status = CAPTURE_UNSUPPORTED;
    }
    return status;
}

API int cuDevicePrimaryCtxRetain(void **context, int device)
{
    if (!is_card(device))
        return INVALID_DEVICE;
    Card *card = &stand_in.card[device];
    if (!card->retained) {
        if (stand_in.mode)
            return DEVICE_UNAVAILABLE;
        if (card->total < card->others + CONTEXT_MIB * MIB)
            return OUT_OF_MEMORY;
        card->used = card->others + CONTEXT_MIB * MIB;
    }
    card->retained++;
    *context = card;
    return SUCCESS;
}

/* The last one frees what was allocated, and heals a fault. */
API int cuDevicePrimaryCtxRelease_v2(int device)
{
    int cuMemFree_v2(Pointer p);
    if (!is_card(device) || !stand_in.card[device].retained)
        return INVALID_CONTEXT;
    Card *card = &stand_in.card[device], *current = stand_in_card;
    if (card->retained > 1)
        return card->retained--, SUCCESS;
    queue_drain(card);
    stand_in_card = card;
    while (card->blocks)
        cuMemFree_v2((Pointer)(uintptr_t)card->blocks->base);
    stand_in_card = current == card ? NULL : current;
    card->retained = card->fault = 0;
    card->used = card->others;
    card->capture.into = NULL;
    return SUCCESS;
}

API int cuCtxSetCurrent(void *context)
{
    Card *card = context;
    if (card && (card < stand_in.card || card >= stand_in.card + CARDS_MAX || !card->retained))
        return INVALID_CONTEXT;
    stand_in_card = card;
    return SUCCESS;
}

API int cuCtxGetCurrent(void **context)
{
    *context = stand_in_card;
    return stand_in.initialised ? SUCCESS : NOT_INITIALIZED;
}

API int cuCtxGetDevice(int *device)
{
    if (!stand_in_card)
        return INVALID_CONTEXT;
    *device = (int)(stand_in_card - stand_in.card);
    return SUCCESS;
}

/* ---- Modules ---- */

/* The image is looked at as far as a driver has reasons to refuse it: text of a version or for a card that it
 * does not know. The kernels themselves are in this library. */
static int look_at(const char *image)
{
    const char *version = strstr(image, ".version "), *target = strstr(image, ".target sm_");
    int major, minor, capability;
    if (!version || !target || sscanf(version, ".version %d.%d", &major, &minor) != 2 ||
        sscanf(target, ".target sm_%d", &capability) != 1)
        return INVALID_PTX;
    /* PTX 7.x came with CUDA 11.x, 8.x with 12.x, 9.x with 13.x; 6.4 with 10.1. */
    int cuda = major >= 7 ? (major + 4) * 1000 + minor * 10 : 10010;
    if (cuda > stand_in.driver)
        return UNSUPPORTED_PTX_VERSION;
    return capability > stand_in_card->capability ? NO_BINARY_FOR_GPU : SUCCESS;
}

API int cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values)
{
    static const unsigned char fat[] = {0x50, 0xED, 0x55, 0xBA};
    int status = card_ready_to_wait();
    (void)count, (void)options, (void)values;
    if (!status && image && memcmp(image, fat, 4) && memcmp(image, "\177ELF", 4))
        status = look_at(image);
    if (!status && stand_in_card->total - stand_in_card->used < MODULE_MIB * MIB)
        status = OUT_OF_MEMORY;
    if (!status) {
        stand_in_card->used += MODULE_MIB * MIB;
        *module = stand_in_card;
    }
    return status;
}

API int cuModuleUnload(void *module)
{
    if (module != stand_in_card)
        return INVALID_HANDLE;
    stand_in_card->used -= MODULE_MIB * MIB;
    return SUCCESS;
}

API int cuModuleGetFunction(void **function, void *module, const char *name)
{
    if (!module)
        return INVALID_HANDLE;
    *function = (void *)(uintptr_t)simt_find(name);
    return *function ? SUCCESS : NOT_FOUND;
}

/* 8: bytes of dynamic shared memory that launches may ask for, where 48 KiB are not enough. */
API int cuFuncSetAttribute(void *function, int attribute, int value)
{
    int status = card_ready();
    if (!status && attribute == 8 && (value < 0 || value > shared_limit(stand_in_card->capability) << 10))
        status = INVALID_VALUE;
    if (!status && attribute == 8)
        ((SimtKernel *)function)->dynamic = (unsigned)value;
    return status;
}

/* ---- What tests ask for ---- */

/* Launches, copies, waits, bytes that the current card has in use. */
API void stand_in_counts(unsigned long long out[5])
{
    out[0] = stand_in.launches;
    out[1] = stand_in.copies;
    out[2] = stand_in.waits;
    out[3] = stand_in_card ? stand_in_card->used : 0;
    out[4] = stand_in.graphs;
}

/* Of the i-th visible card, for what counts processes (nvml.c): total, in use, of it another program's, and
 * whether this process has a context; its identity as cuDeviceGetUuid has it. Returns 0 beyond the last. */
API int stand_in_card_use(int i, size_t out[4], unsigned char uuid[16], int *slice)
{
    if (!is_card(i))
        return 0;
    const Card *card = &stand_in.card[i];
    out[0] = card->total;
    out[1] = card->used;
    out[2] = card->others;
    out[3] = (size_t)card->retained;
    *slice = card->slice;
    return cuDeviceGetUuid_v2(uuid, i) == SUCCESS;
}

/* Of a library that takes memory of the card by itself (cublas.c); negative gives it back. */
API int stand_in_take(long long bytes)
{
    int status = card_ready_to_wait();
    if (status)
        return status;
    if (bytes > 0 && (size_t)bytes > stand_in_card->total - stand_in_card->used)
        return OUT_OF_MEMORY;
    stand_in_card->used += (size_t)bytes;
    return SUCCESS;
}

API void stand_in_fail_nth(int n)
{
    stand_in.fail_in = n;
}

API int cuGetErrorName(int error, const char **name)
{
    static const struct {
        int error;
        const char *name;
    } names[] = {{SUCCESS, "CUDA_SUCCESS"},
                 {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
                 {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
                 {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
                 {DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
                 {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
                 {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
                 {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
                 {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
                 {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
                 {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
                 {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
                 {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
                 {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
                 {NOT_READY, "CUDA_ERROR_NOT_READY"},
                 {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
                 {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
                 {LAUNCH_TIMEOUT, "CUDA_ERROR_LAUNCH_TIMEOUT"},
                 {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
                 {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
                 {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
                 {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
                 {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"}};
    *name = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].error == error)
            *name = names[i].name;
    return *name ? SUCCESS : INVALID_VALUE;
}

API int cuGetErrorString(int error, const char **text)
{
    return cuGetErrorName(error, text);
}

__attribute__((destructor)) static void say_counts(void)
{
    if (getenv("STAND_IN_COUNT"))
        fprintf(stderr, "stand-in: %llu launches, %llu copies, %llu waits, %llu threads, %llu switches\n",
                stand_in.launches, stand_in.copies, stand_in.waits, simt_threads_run, simt_switches);
}
