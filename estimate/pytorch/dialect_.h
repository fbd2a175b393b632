/* What changed between versions of PyTorch and transformers, and what differs between cards. */
#ifndef BRIM_PYTORCH_DIALECT__H
#define BRIM_PYTORCH_DIALECT__H

#include "torch_.h"

struct PytorchDialect {
    const char *torch, *transformers; /* the versions that were traced */
    int keeps_workspace;              /* cuBLAS' workspace stays, one a thread, instead of one a product */
};

struct PytorchCard {
    int capability, processors, threads; /* 90; multiprocessors; threads of one */
    int sort_tile, unique_tile;          /* keys that a block of CUB's radix sort and of its unique takes */
    int64_t workspace, lt_workspace;     /* cuBLAS' and cublasLt's by default, in bytes */
};

const PytorchDialect *torch_dialect(void); /* the newest */
const PytorchCard *torch_card(int capability);

/* bitsandbytes' _gemm_4bit_use_custom_cuda: whether M rows of x times an (N, K) weight are a kernel of its own. */
int torch_nf4_kernel(const PytorchCard *card, TorchType type, int64_t M, int64_t N, int64_t K);

#endif
