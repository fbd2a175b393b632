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
    int64_t workspace, lt_workspace;     /* cuBLAS' and cublasLt's by default, in bytes */
};

const PytorchDialect *torch_dialect(void); /* the newest */
const PytorchCard *torch_card(int capability);

#endif
