/* Memory of the card: addresses that ascend and are never given twice, and books of how much is taken. */
#include "stand_in.h"

#include <pthread.h>

#define FIRST   0x700000000000u
#define LAST    0x7c0000000000u
#define MIB(n)  ((uint64_t)(n) << 20)
#define GRANULE MIB(2)

typedef struct Piece {
    uint64_t address, bytes;
    int device;
} Piece;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t next_address = FIRST, taken[64];
static Piece *pieces;
static size_t count, capacity;

int on_card(const void *address)
{
    return (uint64_t)address >= FIRST && (uint64_t)address < LAST;
}

uint64_t card_bytes(void)
{
    return MIB(setting("STAND_IN_MIB", 143771));
}

static uint64_t context_bytes(void)
{
    return MIB(setting("STAND_IN_CONTEXT", 600));
}

int books_take(uint64_t bytes)
{
    uint64_t *of = &taken[current_device()];
    pthread_mutex_lock(&lock);
    int fits = *of + context_bytes() + bytes <= card_bytes();
    *of += fits ? bytes : 0;
    if (setting("STAND_IN_LOG", 0))
        fprintf(stderr, "take %llu %s\n", (unsigned long long)bytes, fits ? "" : "refused");
    pthread_mutex_unlock(&lock);
    return fits ? 0 : 2;
}

void books_give(uint64_t bytes, int device)
{
    pthread_mutex_lock(&lock);
    taken[device] -= bytes;
    if (setting("STAND_IN_LOG", 0))
        fprintf(stderr, "give %llu\n", (unsigned long long)bytes);
    pthread_mutex_unlock(&lock);
}

uint64_t reserve_addresses(uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    uint64_t address = next_address;
    next_address += (bytes + GRANULE - 1) / GRANULE * GRANULE;
    pthread_mutex_unlock(&lock);
    return address;
}

static cudaError_t take(void **address, size_t bytes)
{
    *address = NULL;
    if (books_take(bytes)) {
        set_error(cudaErrorMemoryAllocation);
        return cudaErrorMemoryAllocation;
    }
    Piece piece = {reserve_addresses(bytes), bytes, current_device()};
    pthread_mutex_lock(&lock);
    if (count == capacity) {
        capacity = capacity * 2 + 1024;
        pieces = realloc(pieces, capacity * sizeof *pieces);
        if (!pieces)
            abort();
    }
    pieces[count++] = piece;
    pthread_mutex_unlock(&lock);
    *address = (void *)piece.address;
    return cudaSuccess;
}

EXPORT cudaError_t cudaMalloc(void **address, size_t bytes)
{
    return take(address, bytes);
}

/* Managed memory is the host's as much as the card's: no books, as PyTorch keeps none of it either. */
EXPORT cudaError_t cudaMallocManaged(void **address, size_t bytes, unsigned flags)
{
    (void)flags;
    *address = (void *)reserve_addresses(bytes);
    return cudaSuccess;
}

EXPORT cudaError_t cudaFree(void *address)
{
    pthread_mutex_lock(&lock);
    Piece piece = {0};
    for (size_t i = count; i-- > 0;)
        if (pieces[i].address == (uint64_t)address) {
            piece = pieces[i];
            pieces[i] = pieces[--count];
            break;
        }
    pthread_mutex_unlock(&lock);
    if (piece.bytes)
        books_give(piece.bytes, piece.device);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
    uint64_t used = taken[current_device()] + context_bytes();
    *total = card_bytes();
    *left = used < *total ? *total - used : 0;
    return cudaSuccess;
}

/* Pinned memory of the host. */
static Piece *pinned;
static size_t pinned_count, pinned_capacity;

EXPORT cudaError_t cudaMallocHost(void **address, size_t bytes)
{
    if (posix_memalign(address, 4096, bytes ? bytes : 1))
        return cudaErrorMemoryAllocation;
    pthread_mutex_lock(&lock);
    if (pinned_count == pinned_capacity) {
        pinned_capacity = pinned_capacity * 2 + 64;
        pinned = realloc(pinned, pinned_capacity * sizeof *pinned);
        if (!pinned)
            abort();
    }
    pinned[pinned_count++] = (Piece){(uint64_t)*address, bytes, 0};
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

EXPORT cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags)
{
    (void)flags;
    return cudaMallocHost(address, bytes);
}

EXPORT cudaError_t cudaFreeHost(void *address)
{
    pthread_mutex_lock(&lock);
    for (size_t i = pinned_count; i-- > 0;)
        if (pinned[i].address == (uint64_t)address) {
            pinned[i] = pinned[--pinned_count];
            break;
        }
    pthread_mutex_unlock(&lock);
    free(address);
    return cudaSuccess;
}

static int is_pinned(const void *address)
{
    int found = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; !found && i < pinned_count; i++)
        found = (uint64_t)address - pinned[i].address < pinned[i].bytes;
    pthread_mutex_unlock(&lock);
    return found;
}

EXPORT cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *of, const void *address)
{
    int card = on_card(address), host = !card && is_pinned(address);
    memset(of, 0, sizeof *of);
    of->type = card ? cudaMemoryTypeDevice : host ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    of->devicePointer = card || host ? (void *)address : NULL;
    of->hostPointer = card ? NULL : (void *)address;
    return cudaSuccess;
}

/* The last small writes from the host, for a read that comes before any kernel: shapes that travel through
 * the card. */
typedef struct Written {
    uint64_t address;
    size_t bytes;
    unsigned char values[MOST_WRITTEN];
} Written;

enum { WRITES = 64 };
static Written writes[WRITES];
static unsigned written;

void forget_writes(void)
{
    if (written) {
        pthread_mutex_lock(&lock);
        written = 0;
        pthread_mutex_unlock(&lock);
    }
}

void keep_write(uint64_t address, const void *from, size_t bytes)
{
    if (bytes > sizeof writes->values) {
        forget_writes();
        return;
    }
    pthread_mutex_lock(&lock);
    Written *of = &writes[written++ % WRITES];
    *of = (Written){.address = address, .bytes = bytes};
    memcpy(of->values, from, bytes);
    pthread_mutex_unlock(&lock);
}

int read_write(void *to, uint64_t address, size_t bytes)
{
    int found = 0;
    pthread_mutex_lock(&lock);
    for (unsigned i = written; !found && i > 0 && i + WRITES > written; i--) {
        const Written *of = &writes[(i - 1) % WRITES];
        found = of->address == address && of->bytes == bytes;
        if (found)
            memcpy(to, of->values, bytes);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static void copy_write(uint64_t to, uint64_t from, size_t bytes)
{
    static __thread unsigned char values[sizeof writes->values];
    if (bytes <= sizeof values && read_write(values, from, bytes))
        keep_write(to, values, bytes);
    else
        forget_writes();
}

/* Nothing is written on the card; what is read from it is one byte, over and over, or the host's last write.
 */
static void copy(void *to, const void *from, size_t bytes)
{
    if (on_card(to) && on_card(from))
        copy_write((uint64_t)to, (uint64_t)from, bytes);
    else if (on_card(to))
        keep_write((uint64_t)to, from, bytes);
    else if (!on_card(from))
        memmove(to, from, bytes);
    else if (!read_write(to, (uint64_t)from, bytes))
        memset(to, (int)setting("STAND_IN_READ", 0), bytes);
}

EXPORT cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    (void)kind;
    copy(to, from, bytes);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                   cudaStream_t stream)
{
    (void)kind, (void)stream;
    copy(to, from, bytes);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                     size_t width, size_t height, enum cudaMemcpyKind kind,
                                     cudaStream_t stream)
{
    (void)kind, (void)stream;
    for (size_t row = 0; row < height; row++)
        copy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemset(void *to, int byte, size_t bytes)
{
    if (on_card(to))
        forget_writes();
    else
        memset(to, byte, bytes);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream)
{
    (void)stream;
    return cudaMemset(to, byte, bytes);
}

EXPORT cudaError_t cudaGetSymbolAddress(void **address, const void *symbol)
{
    (void)symbol;
    *address = (void *)(LAST - 4096);
    return cudaSuccess;
}
