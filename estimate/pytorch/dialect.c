#include "dialect_.h"

static const PytorchDialect dialects[] = {
    {.torch = "2.15", .transformers = "5.24"},
    {.torch = "2.11", .transformers = "5.17", .keeps_workspace = 1},
};

/* c10's getCUDABlasLtWorkspaceSize and parseChosenWorkspaceSize: 32 MiB on sm_90, else 4096 x 2 + 16 x 8 KiB… */
static const PytorchCard cards[] = {
    {.capability = 75, .processors = 40, .threads = 1024, .sort_tile = 2816, .unique_tile = 320, .workspace = 8519680, .lt_workspace = 1 << 20},
    {.capability = 80, .processors = 108, .threads = 2048, .sort_tile = 3840, .unique_tile = 1344, .workspace = 8519680, .lt_workspace = 1 << 20},
    {.capability = 86, .processors = 82, .threads = 1536, .sort_tile = 3840, .unique_tile = 1344, .workspace = 8519680, .lt_workspace = 1 << 20},
    {.capability = 89, .processors = 128, .threads = 1536, .sort_tile = 3840, .unique_tile = 1344, .workspace = 8519680, .lt_workspace = 1 << 20},
    {.capability = 90, .processors = 132, .threads = 2048, .sort_tile = 4608, .unique_tile = 4928, .workspace = 32 << 20, .lt_workspace = 1 << 20},
};

const PytorchDialect *torch_dialect(void)
{
    return &dialects[0];
}

const PytorchDialect *estimate_pytorch_dialect_at(int i)
{
    return i >= 0 && (size_t)i < sizeof dialects / sizeof *dialects ? &dialects[i] : NULL;
}

PytorchVersions estimate_pytorch_versions(const PytorchDialect *dialect)
{
    const PytorchDialect *d = dialect ? dialect : torch_dialect();
    return (PytorchVersions){d->torch, d->transformers};
}

int estimate_pytorch_capability_at(int i)
{
    return i >= 0 && (size_t)i < sizeof cards / sizeof *cards ? cards[i].capability : 0;
}

const PytorchCard *torch_card(int capability)
{
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        if (cards[i].capability == capability)
            return &cards[i];
    return NULL;
}
