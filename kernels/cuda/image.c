/* The kernels as a driver loads them, which are part of the library: PTX, which the driver compiles for the
 * card that it finds (tools/cuda wrote it), and with `make CUDA=fat` also code for cards, which it does not
 * have to compile. Compressed; a copy is unpacked for as long as a card is opened. */
#include "launch_.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "../../memtrack/memtrack.h"

/* The bytes of a file, without making a list of numbers of them. */
#define FILE_BYTES(name, path)                                                                               \
    __asm__(".section .rodata\n.globl " #name "_first\n.hidden " #name "_first\n.globl " #name "_after\n"    \
            ".hidden " #name "_after\n.balign 16\n" #name "_first:\n.incbin \"" path "\"\n" #name            \
            "_after:\n.byte 0\n.previous\n");                                                                \
    extern const unsigned char name##_first[], name##_after[];

#ifndef CUDA_NONE
FILE_BYTES(brim_cuda_ptx, "kernels/cuda/kernels.ptx.gz")
#ifdef CUDA_FAT
FILE_BYTES(brim_cuda_fat, CUDA_FAT)
#endif
#endif

typedef struct Packed {
    int text;
    const unsigned char *first, *after;
} Packed;

/* In the order to try. A driver that is older than the compiler refuses code for cards, and takes the text.
 */
static const Packed images[] = {
#ifdef CUDA_FAT
    {0, brim_cuda_fat_first, brim_cuda_fat_after},
#endif
#ifndef CUDA_NONE
    {1, brim_cuda_ptx_first, brim_cuda_ptx_after},
#endif
    {0, NULL, NULL},
};

enum { IMAGES = sizeof images / sizeof *images - 1 }; /* the last one ends them */

/* zlib's memory is counted too: what it frees, it frees without a size. */
static void *take(void *unused, unsigned count, unsigned size)
{
    size_t bytes = (size_t)count * size + sizeof(size_t[2]);
    size_t *block = memtrack_host_alloc(NULL, bytes);
    (void)unused;
    if (!block)
        return NULL;
    block[0] = bytes;
    return block + 2;
}

static void give(void *unused, void *at)
{
    size_t *block = (size_t *)at - 2;
    (void)unused;
    memtrack_host_free(NULL, block, block[0]);
}

static int unpack(const Packed *packed, unsigned char *to, size_t bytes)
{
    z_stream stream = {.zalloc = take, .zfree = give};
    stream.next_in = (unsigned char *)(uintptr_t)packed->first;
    stream.avail_in = (unsigned)(packed->after - packed->first);
    stream.next_out = to;
    stream.avail_out = (unsigned)bytes;
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) /* 16: gzip's header */
        return -1;
    int status = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    return status == Z_STREAM_END ? 0 : -1;
}

/* The text is that of two targets, sm_75 and sm_80: lines that only one of them has are between lines that
 * begin with #ifndef or #ifdef, #else and #endif. Takes out what is not of the target, in place. */
static void keep_target(char *text, int sm_80)
{
    char *to = text;
    int wanted = 1;
    for (char *line = text, *next; *line; line = next) {
        next = strchr(line, '\n');
        next = next ? next + 1 : line + strlen(line);
        if (*line != '#') {
            memmove(to, line, wanted ? (size_t)(next - line) : 0);
            to += wanted ? next - line : 0;
        } else if (strncmp(line, "#if", 3) == 0) {
            wanted = sm_80 == (line[3] == 'd');
        } else {
            wanted = line[2] == 'l' ? !wanted : 1;
        }
    }
    *to = '\0';
}

void *kernels_cuda_unpack(int capability, int which, size_t *bytes)
{
    *bytes = 0;
    if (which < 0 || which > IMAGES || !images[which].first)
        return NULL;
    const Packed *packed = &images[which];
    const unsigned char *size = packed->after - 4; /* gzip ends with it */
    size_t unpacked = size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16 | (size_t)size[3] << 24;
    unsigned char *image = memtrack_host_alloc(NULL, unpacked + 1);
    *bytes = unpacked + 1;
    if (image && unpack(packed, image, unpacked)) {
        memtrack_host_free(NULL, image, unpacked + 1);
        return NULL;
    }
    if (image) {
        image[unpacked] = '\0';
        if (packed->text)
            keep_target((char *)image, capability >= 80);
    }
    return image;
}

static int open_with(CudaDevice *device, int ordinal, const void *image, char *why, size_t size)
{
    if (cuda_open(device, ordinal, image, why, size))
        return -1;
    if (kernels_cuda_load(device, why, size) == 0)
        return 0;
    cuda_close(device);
    return -1;
}

int kernels_cuda_open(CudaDevice *device, int ordinal, char *why, size_t size)
{
    if (cuda_look(device, ordinal, why, size))
        return -1;
    int capability = device->capability;
    if (cuda_loaded(ordinal) && open_with(device, ordinal, NULL, why, size) == 0)
        return 0;
    snprintf(why, size, "this build has no kernels for cards: it was made with CUDA=no");
    for (int which = 0;; which++) {
        size_t bytes;
        void *image = kernels_cuda_unpack(capability, which, &bytes);
        if (!image) {
            if (bytes)
                snprintf(why, size, "no host memory to unpack the kernels for cards");
            return -1;
        }
        int failed = open_with(device, ordinal, image, why, size);
        memtrack_host_free(NULL, image, bytes);
        if (!failed)
            return 0;
    }
}
