/* Products of our own, for where no BLAS library is found (blas.c): the usual scheme of blocks packed for the
 * cache and a tile of C in registers (Goto, van de Geijn: Anatomy of high-performance matrix multiplication).
 * What a BLAS has beyond it is prefetching and scheduling by hand. On the calling thread; the packed blocks
 * are on its stack. Part of cpu.c. */
#include "kernels/vecmath.h"

#include <stdint.h>
#include <string.h>

/* A tile is PRODUCT_ROWS x PRODUCT_COLS: two vectors wide, and as high as the registers allow. */
#if defined(__AVX512F__)
enum { PRODUCT_LANES = 16, PRODUCT_ROWS = 12 };
#elif defined(__AVX__)
enum { PRODUCT_LANES = 8, PRODUCT_ROWS = 6 };
#else
enum { PRODUCT_LANES = 4, PRODUCT_ROWS = 6 };
#endif
enum { PRODUCT_COLS = 2 * PRODUCT_LANES };
/* What is packed at once: (BLOCK_ROWS, BLOCK_DEPTH) of A, 72 KiB, and (BLOCK_DEPTH, BLOCK_COLS) of B, 256
 * KiB: together within the second-level cache, and within any thread's stack. */
enum { BLOCK_ROWS = 72, BLOCK_DEPTH = 256, BLOCK_COLS = 256 };

typedef float ProductVector __attribute__((vector_size(PRODUCT_LANES * sizeof(float)), aligned(4)));

typedef struct ProductOperand {
    const float *at;
    int64_t row, col; /* elements from one row, and from one column, to the next */
} ProductOperand;

/* sum (rows, halves of a tile's columns) = a b, over `depth` packed columns of A and rows of B. */
#define PRODUCT_TILE(name, rows, halves)                                                                     \
    VEC_FUSED static void name(int64_t depth, const float *a, const float *b, ProductVector sum[][2])        \
    {                                                                                                        \
        VEC_FUSE                                                                                             \
        ProductVector tile[rows][2] = {{{0}}};                                                               \
        for (int64_t k = 0; k < depth; k++, a += PRODUCT_ROWS, b += PRODUCT_COLS) {                          \
            ProductVector left = *(const ProductVector *)b;                                                  \
            ProductVector right = *(const ProductVector *)(b + (halves - 1) * PRODUCT_LANES);                \
            _Pragma("GCC unroll 12") for (int i = 0; i < rows; i++)                                          \
            {                                                                                                \
                tile[i][0] += a[i] * left;                                                                   \
                if (halves > 1)                                                                              \
                    tile[i][1] += a[i] * right;                                                              \
            }                                                                                                \
        }                                                                                                    \
        memcpy(sum, tile, sizeof tile);                                                                      \
    }

PRODUCT_TILE(product_tile_whole, PRODUCT_ROWS, 2)
PRODUCT_TILE(product_tile_medium, PRODUCT_ROWS * 2 / 3, 2)
PRODUCT_TILE(product_tile_low, PRODUCT_ROWS / 3, 2)
PRODUCT_TILE(product_tile_narrow, PRODUCT_ROWS, 1)

/* Rows and columns that a tile has beyond C are left out where that is a whole part of it; every sum is the
 * same. */
static void product_tile(int64_t rows, int64_t cols, int64_t depth, const float *a, const float *b,
                         ProductVector sum[][2])
{
    if (cols <= PRODUCT_LANES)
        product_tile_narrow(depth, a, b, sum);
    else if (rows <= PRODUCT_ROWS / 3)
        product_tile_low(depth, a, b, sum);
    else if (rows <= PRODUCT_ROWS * 2 / 3)
        product_tile_medium(depth, a, b, sum);
    else
        product_tile_whole(depth, a, b, sum);
}

/* Strips of `width` rows of x one after the other, each column by column; what is beyond `rows` is zero. The
 * width is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void product_pack(ProductOperand x, int64_t rows, int64_t depth,
                                                               int width, float *restrict out)
{
    for (int64_t first = 0; first < rows; first += width, out += width * depth) {
        const float *from = x.at + first * x.row;
        int64_t count = rows - first < width ? rows - first : width;
        if (count < width)
            memset(out, 0, (size_t)(width * depth) * sizeof(float));
        if (count == width && x.row == 1)
            for (int64_t k = 0; k < depth; k++)
                memcpy(out + k * width, from + k * x.col, (size_t)width * sizeof(float));
        else if (count == width)
            for (int64_t k = 0; k < depth; k++)
                for (int i = 0; i < width; i++)
                    out[k * width + i] = from[i * x.row + k * x.col];
        else
            for (int64_t i = 0; i < count; i++)
                for (int64_t k = 0; k < depth; k++)
                    out[k * width + i] = from[i * x.row + k * x.col];
    }
}

/* What a tile of C gets besides its product: beta times what is there, (rows, cols), ld apart. That is C
 * itself, or, with ld 0, one row for all. */
typedef struct ProductOnto {
    float beta;
    const float *at; /* may be C; not read with beta 0 */
    int64_t ld;
} ProductOnto;

/* C (rows, cols) = alpha sum + onto, of a tile that may reach beyond C. */
static inline void product_store(int64_t rows, int64_t cols, float alpha, ProductVector sum[][2],
                                 ProductOnto onto, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *from = (const float *)sum[i], *old = onto.at + i * onto.ld;
        float *to = c + i * ldc;
        if (onto.beta == 0)
            for (int64_t j = 0; j < cols; j++)
                to[j] = alpha * from[j];
        else
            for (int64_t j = 0; j < cols; j++)
                to[j] = alpha * from[j] + onto.beta * old[j];
    }
}

/* The same of a tile that is as wide as it can be, a register at a time. */
VEC_INLINE void product_store_whole(int64_t rows, float alpha, ProductVector sum[][2], ProductOnto onto,
                                    float *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; i++, c += ldc, onto.at += onto.ld)
        for (int half = 0; half < 2; half++) {
            const ProductVector *old = (const ProductVector *)(onto.at + half * PRODUCT_LANES);
            ProductVector *to = (ProductVector *)(c + half * PRODUCT_LANES), value = alpha * sum[i][half];
            *to = onto.beta == 0 ? value : value + onto.beta * *old;
        }
}

/* C (rows, cols) = alpha A B + beta C of packed blocks. */
static void product_block(int64_t rows, int64_t cols, int64_t depth, float alpha, const float *a,
                          const float *b, float beta, float *c, int64_t ldc)
{
    ProductVector sum[PRODUCT_ROWS][2];
    for (int64_t j = 0; j < cols; j += PRODUCT_COLS)
        for (int64_t i = 0; i < rows; i += PRODUCT_ROWS) {
            int64_t high = rows - i < PRODUCT_ROWS ? rows - i : PRODUCT_ROWS;
            int64_t wide = cols - j < PRODUCT_COLS ? cols - j : PRODUCT_COLS;
            float *to = c + i * ldc + j;
            ProductOnto onto = {beta, to, ldc};
            product_tile(high, wide, depth, a + i * depth, b + j * depth, sum);
            if (wide == PRODUCT_COLS)
                product_store_whole(high, alpha, sum, onto, to, ldc);
            else
                product_store(high, wide, alpha, sum, onto, to, ldc);
        }
}

static int64_t product_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* C (m,n) = alpha op(A) op(B) + beta C, as cblas_sgemm of row-major arrays. */
static void product(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                    int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    _Alignas(64) float left[BLOCK_ROWS * BLOCK_DEPTH], right[BLOCK_COLS * BLOCK_DEPTH];
    int64_t a_row = trans_a ? 1 : lda, a_col = trans_a ? lda : 1;
    int64_t b_row = trans_b ? 1 : ldb, b_col = trans_b ? ldb : 1; /* of (k,n) */
    for (int64_t col = 0; col < n; col += BLOCK_COLS) {
        int64_t cols = product_least(n - col, BLOCK_COLS);
        for (int64_t at = 0; at < k; at += BLOCK_DEPTH) {
            int64_t depth = product_least(k - at, BLOCK_DEPTH);
            ProductOperand strip = {b + at * b_row + col * b_col, b_col, b_row};
            product_pack(strip, cols, depth, PRODUCT_COLS, right);
            for (int64_t row = 0; row < m; row += BLOCK_ROWS) {
                int64_t rows = product_least(m - row, BLOCK_ROWS);
                ProductOperand block = {a + row * a_row + at * a_col, a_row, a_col};
                product_pack(block, rows, depth, PRODUCT_ROWS, left);
                product_block(rows, cols, depth, alpha, left, right, at ? 1 : beta, c + row * ldc + col, ldc);
            }
        }
    }
}
