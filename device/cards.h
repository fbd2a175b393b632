/* cards: GPUs by name, with the memory that their driver gives to a program.
 *
 * `bytes` is the total of cudaMemGetInfo (PyTorch's "total capacity", hipMemGetInfo on AMD's): what the name
 * on the box promises, less what the driver keeps. It is 0.3 to 0.7 GiB below the total of nvidia-smi and
 * moves by some tenths of a GiB with driver, ECC and display. A CUDA context takes 0.25 to 0.45 GiB of it.
 */
#ifndef BRIM_CARDS_H
#define BRIM_CARDS_H

#include <stdint.h>

#include "../memtrack/memtrack.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Card {
    const char *name;    /* "rtx-4090" */
    const char *title;   /* "NVIDIA GeForce RTX 4090 24GB": the maker's name and the size on the box */
    uint64_t bytes;      /* what the driver reports as total */
    int capability;      /* CUDA's compute capability, times ten: 86; 0 = not an NVIDIA card */
    int multiprocessors; /* streaming multiprocessors; compute units of an AMD card */
    const char *source;  /* where the figure was read */
} Card;

/* The oldest driver that brim runs with on cards of this compute capability: 525 is that of CUDA 12.0;
 * Blackwell (10.0 and later) came with CUDA 12.8 and driver 570. 0 = brim has no kernels for them. */
int device_card_driver(int capability);

/* The i-th, smallest first; NULL past the end. */
const Card *device_card_at(int i);

/* By name, or NULL (no error raised). Forgiving: "rtx-4090", "4090", "RTX 4090", "NVIDIA GeForce RTX 4090"
 * and "4090-24GB" are one card, and so are "A100-80" and "NVIDIA A100-SXM4-80GB". What exists in two sizes
 * needs its size: "A100" is none. A laptop's card is another card. */
const Card *device_card(const char *name);

/* Why there was none: "no card is called 'a100'; nearest: a100-40, a100-80". */
typedef struct CardText {
    char text[200];
} CardText;
CardText device_card_unknown(const char *name);

#ifdef __cplusplus
}
#endif
#endif
