/* The table of reference kernels: what the tests compare with, and what a new device is written against. */
#include "kernels/reference_.h"

static const Kernels reference_table = {
    .name = "reference",
#define KERNEL(type, kernel, arguments) .kernel = reference_##kernel,
#include "table.h"
};

const Kernels *kernels_reference(void)
{
    return &reference_table;
}
