/* What the tests of products with stored arrays share: arrays of every type that end where readable memory
 * does, their values, and workspaces between guard zones. */
#ifndef BRIM_TESTS_TYPED_SUPPORT_H
#define BRIM_TESTS_TYPED_SUPPORT_H

#include "products_support.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/half_.h"
#include "base/quant_codes_.h"

static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};
enum { TYPES = 6, PLAIN_TYPES = 3 /* the first, which are not quantised */ };

/* ---- Stored arrays --------------------------------------------------------------------------- */

static inline uint8_t random_byte(void)
{
    return (uint8_t)((random_float() + 1.0f) * 127.99f);
}

static inline size_t mapped_bytes(uint64_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size_t)(bytes + page - 1) / page * page + page;
}

/* Ends at a page that cannot be read, but for what alignment to four bytes takes. */
static inline unsigned char *at_the_edge(uint64_t bytes)
{
    size_t all = mapped_bytes(bytes), page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *start = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(start != MAP_FAILED);
    assert_int_equal(mprotect(start + all - page, page, PROT_NONE), 0);
    card_reach_add(start, all - page);
    return start + all - page - (bytes + 3) / 4 * 4;
}

static inline void fill_floats(unsigned char *at, int64_t n, float low, float high)
{
    for (int64_t i = 0; i < n; i++) {
        float value = low + (high - low) * (random_float() + 1.0f) / 2;
        memcpy(at + 4 * i, &value, sizeof value);
    }
}

static inline void fill_quantized(DType type, int64_t rows, int64_t cols, unsigned char *at)
{
    QuantLayout l = quant_layout(type, rows, cols);
    for (uint64_t i = 0; i < l.bytes; i++)
        at[i] = random_byte();
    if (type == DTYPE_NF4) {
        fill_floats(at + l.group_scales, l.groups, 0.1f, 0.3f);
        fill_floats(at + l.offset, 1, 0.5f, 0.6f);
    } else {
        fill_floats(at + l.scales, type == DTYPE_INT8 ? rows : l.blocks, 0.2f, 1.0f);
    }
}

static inline StoredArray random_stored(DType type, int64_t rows, int64_t cols)
{
    unsigned char *at = at_the_edge(dtype_bytes(type, rows, cols));
    if (dtype_is_quantized(type))
        fill_quantized(type, rows, cols, at);
    for (int64_t i = 0; i < rows * cols && !dtype_is_quantized(type); i++) {
        float value = random_float();
        uint16_t half = type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
        memcpy(at + i * (type == DTYPE_F32 ? 4 : 2), type == DTYPE_F32 ? (void *)&value : (void *)&half,
               type == DTYPE_F32 ? 4 : 2);
    }
    return (StoredArray){at, type, rows, cols};
}

static inline void drop_stored(StoredArray w)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = dtype_bytes(w.dtype, w.rows, w.cols);
    uintptr_t start = (uintptr_t)w.at + (bytes + 3) / 4 * 4 + page - mapped_bytes(bytes);
    card_reach_drop((void *)start);
    assert_int_equal(munmap((void *)start, mapped_bytes(bytes)), 0);
}

static inline float element(const StoredArray *w, int64_t i)
{
    QuantLayout l = quant_layout(w->dtype, w->rows, w->cols);
    float scale;
    switch (w->dtype) {
    case DTYPE_BF16:
        return half_from_bf16(((const uint16_t *)w->at)[i]);
    case DTYPE_F16:
        return half_from_f16(((const uint16_t *)w->at)[i]);
    case DTYPE_INT8:
        memcpy(&scale, (const char *)w->at + l.scales + 4 * (i / w->cols), sizeof scale);
        return quant_int8_value(((const int8_t *)w->at)[i], scale);
    case DTYPE_NF4:
    case DTYPE_NF4_PLAIN:
        return quant_nf4_value(w->at, i, quant_block_scale(w->dtype, &l, w->at, i / NF4_BLOCK));
    default:
        return ((const float *)w->at)[i];
    }
}

static inline float *decoded(const StoredArray *w)
{
    float *x = buffer(w->rows * w->cols);
    for (int64_t i = 0; i < w->rows * w->cols; i++)
        x[i] = element(w, i);
    return x;
}

/* Workspace of exactly so many bytes between guard zones. */
static inline unsigned char *workspace_of(size_t bytes)
{
    unsigned char *start = aligned_alloc(64, (bytes + 128 + 63) / 64 * 64);
    assert_non_null(start);
    memset(start, 0x5a, bytes + 128);
    memset(start + 64, 0xff, bytes); /* NaN */
    return start + 64;
}

static inline void drop_workspace(unsigned char *space, size_t bytes)
{
    for (int i = 0; i < 64; i++)
        if (space[-1 - i] != 0x5a || space[bytes + (size_t)i] != 0x5a)
            fail_msg("written outside a workspace of %zu bytes", bytes);
    free(space - 64);
}

/* The spacing of a type's numbers around x. */
static inline double spacing(DType type, double x)
{
    int exponent;
    frexp(x, &exponent);
    if (type == DTYPE_BF16)
        return ldexp(1, exponent - 8);
    return type == DTYPE_F16 ? ldexp(1, exponent - 11 > -24 ? exponent - 11 : -24) : 0;
}

/* Rounds an array of f32 into one of this type. */
static inline void round_into(DType type, int64_t n, const float *x, void *y)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half = type == DTYPE_BF16 ? half_to_bf16(x[i]) : half_to_f16(x[i]);
        memcpy((char *)y + i * (type == DTYPE_F32 ? 4 : 2),
               type == DTYPE_F32 ? (const void *)&x[i] : (void *)&half, type == DTYPE_F32 ? 4 : 2);
    }
}

/* Tables, the reference among them. */
enum { REFERENCE = TABLES, ALL_TABLES };

static inline const Kernels *any_table_of(int i)
{
    return i == REFERENCE ? kernels_reference() : table_of(i);
}

static inline DType half_of(DType a, DType b, DType c)
{
    DType of[] = {a, b, c};
    for (int i = 0; i < 3; i++)
        if (of[i] == DTYPE_BF16 || of[i] == DTYPE_F16)
            return of[i];
    return DTYPE_F32;
}

/* What a product reads: a card multiplies operands of one type, and rounds to it. */
static inline void as_multiplied(const Kernels *kernels, DType type, int64_t n, float *x)
{
    for (int64_t i = 0; i < n && kernels == kernels_cuda(); i++)
        x[i] = type == DTYPE_BF16  ? half_from_bf16(half_to_bf16(x[i]))
               : type == DTYPE_F16 ? half_from_f16(half_to_f16(x[i]))
                                   : x[i];
}

/* Every number is that of a float product, of this tolerance, or a neighbour of its rounded one. */
static inline void assert_rounded(const char *what, const StoredArray *x, const float *expected,
                                  double tolerance)
{
    for (int64_t i = 0; i < x->rows * x->cols; i++) {
        double is = (double)element(x, i), wanted = (double)expected[i];
        double most = tolerance * (1 + fabs(wanted)) + 1.5 * spacing(x->dtype, wanted);
        if (!(fabs(is - wanted) <= most) && !(isnan(is) && isnan(wanted)))
            fail_msg("%s %s[%lld] = %.8g, expected %.8g", what, dtype_name(x->dtype), (long long)i, is,
                     wanted);
    }
}

#endif
