/* What a context on a card has beside one on the CPU: the card, room for its kernels, and what a step puts
 * down for the host, which looks once, when the step is done. On meta only the room is planned. */
#ifndef BRIM_TENSOR_CARD_H
#define BRIM_TENSOR_CARD_H

#include "../device/device.h"
#include "../kernels/cuda/step.h"
#include "tensor_.h"

typedef struct ContextCard {
    CudaDevice device; /* not open on meta */
    MemDevice memory;
    int capability;
    int unread;      /* losses were put down that the host has not seen */
    int sync;        /* wait after each operation, to name the one that fails (BRIM_CUDA_SYNC=1) */
    StepState state; /* as it was read last */
    Storage *room;   /* NULL until something is allocated: of kernels, of cuBLAS and of the step's state */
    void *staging;
} ContextCard;

/* Gives the context a card. On meta none is opened: `card` names one of the table, NULL = this machine's, or
 * one of the newest. 0, or raises in the context. */
int card_open_(Context *context, const ContextOptions *options, char *why, size_t size);
/* First what is of the tracker's host memory; then, when the ledger is gone, the card. */
void card_unstage_(Context *context);
void card_close_(Context *context);
/* Room for kernels, before anything else is allocated; again after card_end_. 0 or raises. */
int card_begin_(Context *context);
/* The script is done: gives the room back. */
void card_end_(Context *context);

/* After an operation that may have found a bad element. */
void card_note_fault_(Context *context, const OpCall *call);
/* What is to be written for a backward from `loss`; `entries` has room for card_entries_bytes_(tape). */
uint64_t card_entries_bytes_(const Tape *tape);
void card_note_loss_(Context *context, const Tensor *loss, const Storage *entries);
/* The operation is on its way: with `sync`, waits and raises what went wrong. */
int card_check_op_(Context *context, const char *op);

/* After what was read from the card: raises if the card has failed, and zeros were read instead. */
int card_answers_(Context *context);

/* Reads what the step has put down (waits), and raises what went wrong in it. Returns error_code(). */
int card_read_(Context *context);
StepState *card_state_(const Context *context);
/* What the operation that the run counts now has found, and what has gone wrong (waits); -1 = no bad element.
 */
int64_t card_fault_(Context *context);
/* Elements [first, first + count) of an array, or of its transpose, as floats of the host's (waits). */
void card_decode_(Context *context, const StoredArray *from, int transposed, int64_t first, int64_t count,
                  float *values);

#endif
