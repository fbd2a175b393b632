/* Stored arrays on a card: store.cu. */
#include "launch_.h"

static int has_scales(DType type)
{
    return dtype_is_quantized(type) || dtype_is_dynamic8(type);
}

static DecodeArguments decoded(const StoredArray *w, int64_t first, int64_t count, float *y)
{
    DecodeArguments a = {.w = *w, .first = first, .count = count, .y = y};
    if (has_scales(w->dtype))
        a.layout = quant_layout(w->dtype, w->rows, w->cols);
    a.aligned = ((uintptr_t)w->at | (uintptr_t)y) % 16 == 0 && first % 8 == 0 &&
                (w->dtype != DTYPE_INT8 || w->cols % 8 == 0) && !dtype_is_dynamic8(w->dtype);
    return a;
}

void cuda_decode(const StoredArray *w, int64_t first, int64_t count, float *y, const KernelRun *run)
{
    DecodeArguments a = decoded(w, first, count, y);
    LAUNCH(run, CUDA_decode, cuda_blocks((count + 7) / 8), 1, 1, CUDA_THREADS, a);
}

void cuda_decode_transposed(const StoredArray *w, int64_t first, int64_t count, float *y,
                            const KernelRun *run)
{
    DecodeArguments a = decoded(w, first, count, y);
    LAUNCH(run, CUDA_decode_transposed, cuda_blocks(count), 1, 1, CUDA_THREADS, a);
}

/* The kernel of a type, and how many blocks it has for so many elements. */
static void encode_start(const KernelRun *run, const EncodeArguments *a)
{
    if (a->type == DTYPE_INT8)
        LAUNCH(run, CUDA_encode_int8, cuda_blocks(a->count / a->cols * CUDA_THREADS), 1, 1, CUDA_THREADS, *a);
    else if (a->type == DTYPE_NF4 || a->type == DTYPE_NF4_PLAIN)
        LAUNCH(run, CUDA_encode_nf4, cuda_blocks((a->count + 3) / 4), 1, 1, CUDA_THREADS, *a);
    else if (dtype_is_dynamic8(a->type))
        LAUNCH(run, CUDA_encode_dynamic8, cuda_blocks((a->count + 7) / 8), 1, 1, CUDA_THREADS, *a);
    else
        LAUNCH(run, CUDA_encode_values, cuda_blocks((a->count + 3) / 4), 1, 1, CUDA_THREADS, *a);
}

void cuda_encode(DType dtype, int64_t rows, int64_t cols, int64_t first, int64_t count, const float *x,
                 void *to, float *scales, const KernelRun *run)
{
    EncodeArguments a = {.type = dtype,
                         .cols = cols,
                         .first = first,
                         .count = count,
                         .x = x,
                         .to = to,
                         .scales = scales,
                         .fault = cuda_fault_of(run),
                         .aligned = ((uintptr_t)x | (uintptr_t)to) % 16 == 0 && first % 8 == 0};
    if (has_scales(dtype) && dtype != DTYPE_NF4)
        a.scales = (float *)(void *)((char *)to + quant_layout(dtype, rows, cols).scales);
    encode_start(run, &a);
}

void cuda_encode_scales(int64_t blocks, const float *scales, int64_t first, int64_t count, int64_t elements,
                        void *to, const KernelRun *run)
{
    QuantLayout layout = quant_layout(DTYPE_NF4, 1, elements);
    char *at = to;
    EncodeScalesArguments a = {.blocks = blocks,
                               .groups = (count + NF4_GROUP - 1) / NF4_GROUP,
                               .scales = scales,
                               .group_scales = (float *)(void *)(at + layout.group_scales),
                               .offset = (float *)(void *)(at + layout.offset),
                               .codes = (unsigned char *)at + layout.scales};
    LAUNCH(run, CUDA_encode_offset, 1, 1, 1, 256, a);
    if (count <= 0)
        return;
    a.blocks = count;
    a.scales += first;
    LAUNCH(run, CUDA_encode_scales, cuda_blocks(a.groups * NF4_GROUP), 1, 1, NF4_GROUP, a);
}
