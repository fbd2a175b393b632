/* Products of stored arrays: brim's own product for every type that is not float times float into float, and
 * for those of floats that it multiplies faster than a BLAS (grid.h).
 * Elements become floats while a block is packed, so that no array of decoded weights exists, and a product
 * costs what it would cost of floats. Sums that go into 16 bit are staged as floats until they are complete,
 * and rounded once. Blocks are larger than those of gemm_own.c, whose tile this uses; they lie in workspace,
 * whose size does not depend on the instruction set. Part of cpu.c. */
#include "kernels/decode.h"
#include "kernels/grid.h"
#include "kernels/kernels.h"
#include "kernels/values.h"

#include <string.h>

/* Numbers of a row that are decoded before they are packed. What a strip of rows has of so many columns stays
 * in the first-level cache until it is complete. */
enum { STORED_CHUNK = 2 * NF4_BLOCK };
_Static_assert(STORED_TILE_ROWS % PRODUCT_ROWS == 0 && STORED_TILE_COLS % PRODUCT_COLS == 0,
               "room for tiles");
_Static_assert(STORED_DEPTH % STORED_CHUNK == 0 && STORED_COLS % STORED_TILE_COLS == 0,
               "whole chunks and tiles");
_Static_assert((int)STORED_ROWS <= (int)STORED_CHUNK, "columns of a transposed A are one chunk");

/* y (8, width...) = 4 rows of 8 columns, turned: a column's four lie together. */
VEC_INLINE void stored_turn(const float *x, int64_t ld, float *y, int64_t width)
{
#ifdef __AVX__
    __m256 r0 = _mm256_loadu_ps(x), r1 = _mm256_loadu_ps(x + ld);
    __m256 r2 = _mm256_loadu_ps(x + 2 * ld), r3 = _mm256_loadu_ps(x + 3 * ld);
    __m256 low01 = _mm256_unpacklo_ps(r0, r1), high01 = _mm256_unpackhi_ps(r0, r1);
    __m256 low23 = _mm256_unpacklo_ps(r2, r3), high23 = _mm256_unpackhi_ps(r2, r3);
    __m256 columns[4] = {_mm256_shuffle_ps(low01, low23, 0x44), _mm256_shuffle_ps(low01, low23, 0xee),
                         _mm256_shuffle_ps(high01, high23, 0x44), _mm256_shuffle_ps(high01, high23, 0xee)};
    for (int k = 0; k < 4; k++) {
        _mm_storeu_ps(y + k * width, _mm256_castps256_ps128(columns[k]));
        _mm_storeu_ps(y + (k + 4) * width, _mm256_extractf128_ps(columns[k], 1));
    }
#else
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < 4; i++)
            y[k * width + i] = x[i * ld + k];
#endif
}

/* y (cols, width) = x (rows, cols) turned, one number after the other. */
static __attribute__((noinline)) void stored_turn_rest(int64_t rows, int64_t cols, const float *x, int64_t ld,
                                                       float *y, int64_t width)
{
    for (int64_t k = 0; k < cols; k++)
        for (int64_t i = 0; i < rows; i++)
            y[k * width + i] = x[i * ld + k];
}

/* y (cols, width) = up to four rows of x turned. */
VEC_INLINE void stored_turn_rows(int64_t rows, int64_t cols, const float *x, int64_t ld, float *y,
                                 int64_t width)
{
    int64_t whole = rows == 4 ? cols / 8 * 8 : 0;
    for (int64_t k = 0; k < whole; k += 8)
        stored_turn(x + k, ld, y + k * width, width);
    if (whole < cols)
        stored_turn_rest(rows, cols - whole, x + whole, ld, y + whole * width, width);
}

/* One strip: `rows` rows, at most `width`, of x's columns from col on, column by column. */
VEC_INLINE void stored_pack_strip(const Decoder *x, int64_t row, int64_t rows, int64_t col, int64_t depth,
                                  int width, float *restrict out)
{
    float decoded[4 * STORED_CHUNK];
    for (int64_t k = 0; k < depth; k += STORED_CHUNK) {
        int64_t n = product_least(depth - k, STORED_CHUNK);
        for (int64_t i = 0; i < rows; i += 4) {
            int64_t few = product_least(rows - i, 4), ld = STORED_CHUNK;
            const float *from = decoded;
            if (x->dtype == DTYPE_F32) {
                from = (const float *)(const void *)x->at + (row + i) * x->cols + col + k;
                ld = x->cols;
            }
            for (int64_t r = 0; r < few; r++) {
                decoder_prefetch(x, row + i + r, col + k + STORED_CHUNK, STORED_CHUNK);
                if (from == decoded)
                    decoder_row(x, row + i + r, col + k, n, decoded + r * STORED_CHUNK);
            }
            stored_turn_rows(few, n, from, ld, out + k * width + i, width);
        }
    }
}

/* Strips of `width` rows of x, one after the other; what is beyond `rows` is zero. The width is a constant
 * wherever this is inlined. */
VEC_INLINE void stored_pack_rows(const Decoder *x, int64_t row, int64_t rows, int64_t col, int64_t depth,
                                 int width, float *restrict out)
{
    for (int64_t first = 0; first < rows; first += width, out += width * depth) {
        int64_t count = product_least(rows - first, width);
        if (count < width)
            memset(out, 0, (size_t)(width * depth) * sizeof(float));
        stored_pack_strip(x, row + first, count, col, depth, width, out);
    }
}

/* Strips of `width` columns of x, one after the other, each row by row; what is beyond `cols` is zero. Some
 * strips grow together, so that rows are read in runs. The width is a constant wherever this is inlined; it
 * divides a chunk, or there is one chunk. */
VEC_INLINE void stored_pack_cols(const Decoder *x, int64_t row, int64_t depth, int64_t col, int64_t cols,
                                 int width, float *restrict out)
{
    enum { AHEAD = 4 };
    float decoded[STORED_CHUNK + PRODUCT_COLS] = {0};
    for (int64_t j = 0; j < cols; j += STORED_CHUNK) {
        int64_t n = product_least(cols - j, STORED_CHUNK);
        memset(decoded + n, 0, (size_t)width * sizeof(float));
        for (int64_t k = 0; k < depth; k++) {
            decoder_prefetch(x, row + k + AHEAD, col + j, n);
            decoder_row(x, row + k, col + j, n, decoded);
            for (int64_t i = 0; i < n; i += width)
                memcpy(out + (j + i) * depth + k * width, decoded + i, (size_t)width * sizeof(float));
        }
    }
}

/* C (m,n) = alpha op(A) op(B) + beta C. With a C of 16 bit, `store` takes complete sums: those of rows [row,
 * row
 * + rows) and columns [col, col + cols), ld apart. It may change them. */
typedef struct StoredProduct StoredProduct;
typedef void StoredStore(const StoredProduct *p, const GemmPanel *part, float *sums, int64_t ld);
/* Of a float C: what follows when the sums of a part are complete, while it is in cache. */
typedef void StoredPart(const StoredProduct *p, const GemmPanel *part);
/* Rows [first, first + count) of op(A), or, with `right`, columns of op(B), terms [at, at + depth): they have
 * been packed, for the first time, and are in cache. */
typedef void StoredRead(const StoredProduct *p, int right, int64_t first, int64_t count, int64_t at,
                        int64_t depth);
struct StoredProduct {
    Decoder a, b;
    int trans_a, trans_b;
    int64_t k;
    float alpha, beta;
    void *c; /* float where nothing is staged */
    DType c_type;
    int64_t ldc;
    StoredCut cut;
    StoredStore *store;
    const void *user;   /* of store, finish and read */
    int dots;           /* both operands are bf16, and multiplied by gemm_dots.c */
    const float *bias;  /* (n) of a float C, instead of beta C; may be NULL */
    StoredPart *finish; /* may be NULL */
    StoredRead *read;   /* may be NULL */
};

static int stored_dots(const StoredArray *a, const StoredArray *b, const KernelRun *run)
{
    return run->dots && a->dtype == DTYPE_BF16 && b->dtype == DTYPE_BF16;
}

/* ---- The micro-kernel ------------------------------------------------------------------------ */

/* These know what packed blocks look like, and nobody else does: floats, or pairs of bf16 for dot
 * instructions, which take half the room. A block of A is at most (STORED_ROWS, STORED_DEPTH), one of B
 * (STORED_DEPTH, p->cut.cols). */

/* Rows [row, row + rows) of op(A), terms [at, at + depth). */
static void stored_pack_left(const StoredProduct *p, int64_t row, int64_t rows, int64_t at, int64_t depth,
                             float *out)
{
#ifdef KERNEL_DOTS
    if (p->dots) {
        dots_pack(&p->a, p->trans_a, row, rows, at, depth, PRODUCT_ROWS, out);
        return;
    }
#endif
    if (p->trans_a)
        stored_pack_cols(&p->a, at, depth, row, rows, PRODUCT_ROWS, out);
    else
        stored_pack_rows(&p->a, row, rows, at, depth, PRODUCT_ROWS, out);
}

/* Columns [col, col + cols) of op(B), terms [at, at + depth). */
static void stored_pack_right(const StoredProduct *p, int64_t col, int64_t cols, int64_t at, int64_t depth,
                              float *out)
{
#ifdef KERNEL_DOTS
    if (p->dots) {
        dots_pack(&p->b, !p->trans_b, col, cols, at, depth, PRODUCT_COLS, out);
        return;
    }
#endif
    if (p->trans_b)
        stored_pack_rows(&p->b, col, cols, at, depth, PRODUCT_COLS, out);
    else
        stored_pack_cols(&p->b, at, depth, col, cols, PRODUCT_COLS, out);
}

/* The same, and says so unless they were packed `again`. */
static void stored_take_left(const StoredProduct *p, int again, int64_t row, int64_t rows, int64_t at,
                             int64_t depth, float *out)
{
    stored_pack_left(p, row, rows, at, depth, out);
    if (p->read && !again)
        p->read(p, 0, row, rows, at, depth);
}

static void stored_take_right(const StoredProduct *p, int again, int64_t col, int64_t cols, int64_t at,
                              int64_t depth, float *out)
{
    stored_pack_right(p, col, cols, at, depth, out);
    if (p->read && !again)
        p->read(p, 1, col, cols, at, depth);
}

/* A tile's part of C comes from memory while the tile is computed. */
VEC_INLINE void stored_prefetch(int64_t rows, const float *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; i++) {
        __builtin_prefetch(c + i * ldc, 1);
        __builtin_prefetch(c + i * ldc + PRODUCT_COLS - 1, 1);
    }
}

/* How many steps a tile takes over so many terms; from one strip to the next are so many floats a row. */
static int64_t stored_steps(const StoredProduct *p, int64_t depth)
{
    return p->dots ? (depth + 1) / 2 : depth;
}

VEC_INLINE void stored_tile(const StoredProduct *p, int64_t rows, int64_t cols, int64_t steps, const float *a,
                            const float *b, ProductVector sum[][2])
{
#ifdef KERNEL_DOTS
    if (p->dots) {
        dots_tile(steps, (const uint32_t *)(const void *)a, (const uint32_t *)(const void *)b, sum);
        return;
    }
#endif
    (void)p;
    product_tile(rows, cols, steps, a, b, sum);
}

/* C (rows, cols) = alpha A B + onto of packed blocks, C float. */
static void stored_multiply(const StoredProduct *p, int64_t rows, int64_t cols, int64_t depth, const float *a,
                            const float *b, ProductOnto onto, float *c, int64_t ldc)
{
    ProductVector sum[PRODUCT_ROWS][2];
    int64_t steps = stored_steps(p, depth);
    for (int64_t j = 0; j < cols; j += PRODUCT_COLS)
        for (int64_t i = 0; i < rows; i += PRODUCT_ROWS) {
            int64_t high = product_least(rows - i, PRODUCT_ROWS),
                    wide = product_least(cols - j, PRODUCT_COLS);
            float *to = c + i * ldc + j;
            ProductOnto some = {onto.beta, onto.at + i * onto.ld + j, onto.ld};
            stored_prefetch(high, to, ldc);
            stored_tile(p, high, wide, steps, a + i * steps, b + j * steps, sum);
            if (wide == PRODUCT_COLS)
                product_store_whole(high, p->alpha, sum, some, to, ldc);
            else
                product_store(high, wide, p->alpha, sum, some, to, ldc);
        }
}

/* ---- Panels of a float C --------------------------------------------------------------------- */

/* One block of B with all rows of the panel. `packed`: the only block of A is in workspace already. */
static void stored_block(const StoredProduct *p, const GemmPanel *panel, int64_t col, int64_t at, int packed,
                         float beta, float *space)
{
    float *left = space, *right = space + p->cut.left;
    int64_t cols = product_least(panel->cols - col, STORED_COLS),
            depth = product_least(p->k - at, STORED_DEPTH);
    stored_take_right(p, panel->row > 0, panel->col + col, cols, at, depth, right);
    for (int64_t row = 0; row < panel->rows; row += STORED_ROWS) {
        int64_t rows = product_least(panel->rows - row, STORED_ROWS);
        GemmPanel part = {panel->row + row, rows, panel->col + col, cols};
        if (!packed)
            stored_take_left(p, part.col > 0, part.row, rows, at, depth, left);
        float *c = (float *)p->c + part.row * p->ldc + part.col;
        ProductOnto onto = {at ? 1.0f : beta, c, p->ldc};
        if (p->bias && at == 0)
            onto = (ProductOnto){1.0f, p->bias + part.col, 0};
        stored_multiply(p, rows, cols, depth, left, right, onto, c, p->ldc);
        if (p->finish && at + depth == p->k)
            p->finish(p, &part);
    }
}

/* Without terms to sum. */
static void stored_float_empty(const StoredProduct *p, const GemmPanel *panel, float beta)
{
    float *c = (float *)p->c + panel->row * p->ldc + panel->col;
    if (p->bias)
        gemm_fill_rows(panel->rows, panel->cols, p->bias + panel->col, c, p->ldc);
    else
        gemm_scale(panel->rows, panel->cols, beta, c, p->ldc);
    if (p->finish)
        p->finish(p, panel);
}

/* With many rows, a block of C is finished before the next; with few, their block of A is packed once. */
static void stored_float_panel(const StoredProduct *p, const GemmPanel *panel, float beta, float *space)
{
    if (p->k <= 0)
        stored_float_empty(p, panel, beta);
    else if (panel->rows <= STORED_ROWS)
        for (int64_t at = 0; at < p->k; at += STORED_DEPTH)
            for (int64_t col = 0; col < panel->cols; col += STORED_COLS)
                stored_block(p, panel, col, at, col > 0, beta, space);
    else
        for (int64_t col = 0; col < panel->cols; col += STORED_COLS)
            for (int64_t at = 0; at < p->k; at += STORED_DEPTH)
                stored_block(p, panel, col, at, 0, beta, space);
}

/* ---- Panels that are staged ------------------------------------------------------------------ */

/* C = sums + beta C, rounded. */
static void stored_round(const StoredProduct *p, const GemmPanel *part, float *sums, int64_t ld)
{
    enum { PIECE = 1024 };
    float room[PIECE];
    for (int64_t i = 0; i < part->rows; i++)
        for (int64_t j = 0; j < part->cols; j += PIECE) {
            int64_t n = product_least(part->cols - j, PIECE), to = (part->row + i) * p->ldc + part->col + j;
            float *from = sums + i * ld + j;
            if (p->beta != 0) {
                const float *old = values_load(p->c_type, p->c, to, n, room);
#pragma omp simd
                for (int64_t q = 0; q < n; q++)
                    from[q] += p->beta * old[q];
            }
            values_store(p->c_type, n, from, p->c, to);
        }
}

/* STORED_ROWS rows of `part`, from `row` on, times a block of B, onto their sums. Those that are complete are
 * stored. */
static void stored_stage(const StoredProduct *p, const GemmPanel *part, int64_t row, int64_t at,
                         const float *right, float *left, float *sums)
{
    int64_t rows = product_least(part->rows - row, STORED_ROWS),
            depth = product_least(p->k - at, STORED_DEPTH);
    GemmPanel done = {part->row + row, rows, part->col, part->cols};
    stored_take_left(p, done.col > 0, done.row, rows, at, depth, left);
    stored_multiply(p, rows, part->cols, depth, left, right, (ProductOnto){at ? 1.0f : 0.0f, sums, p->cut.ld},
                    sums, p->cut.ld);
    if (at + depth == p->k)
        p->store(p, &done, sums, p->cut.ld);
}

/* B's columns of `part` are packed once, over all terms; a block of rows is staged. */
static void stored_whole_part(const StoredProduct *p, const GemmPanel *part, float *space)
{
    float *left = space, *right = space + p->cut.left, *sums = right + p->cut.right;
    int64_t wide = stored_up(part->cols, STORED_TILE_COLS);
    for (int64_t at = 0; at < p->k; at += STORED_DEPTH)
        stored_take_right(p, part->row > 0, part->col, part->cols, at, product_least(p->k - at, STORED_DEPTH),
                          right + at * wide);
    for (int64_t row = 0; row < part->rows; row += STORED_ROWS)
        for (int64_t at = 0; at < p->k; at += STORED_DEPTH)
            stored_stage(p, part, row, at, right + at * wide, left, sums);
}

/* Many rows are staged at once; each block of B is packed for all of them. */
static void stored_deep_part(const StoredProduct *p, const GemmPanel *part, float *space)
{
    float *left = space, *right = space + p->cut.left, *sums = right + p->cut.right;
    for (int64_t at = 0; at < p->k; at += STORED_DEPTH) {
        stored_take_right(p, part->row > 0, part->col, part->cols, at, product_least(p->k - at, STORED_DEPTH),
                          right);
        for (int64_t row = 0; row < part->rows; row += STORED_ROWS)
            stored_stage(p, part, row, at, right, left, sums + row * p->cut.ld);
    }
}

/* Without terms to sum, the sums are zeros. */
static void stored_empty_part(const StoredProduct *p, const GemmPanel *part, float *space)
{
    for (int64_t row = 0; row < part->rows; row += p->cut.rows) {
        GemmPanel some = {part->row + row, product_least(part->rows - row, p->cut.rows), part->col,
                          part->cols};
        memset(space, 0, (size_t)p->cut.stage * sizeof(float));
        p->store(p, &some, space, p->cut.ld);
    }
}

static void stored_staged_panel(const StoredProduct *p, const GemmPanel *panel, float *space)
{
    int64_t step = p->cut.whole ? panel->rows : p->cut.rows;
    for (int64_t col = 0; col < panel->cols; col += p->cut.cols)
        for (int64_t row = 0; row < panel->rows; row += step) {
            GemmPanel part = {panel->row + row, product_least(panel->rows - row, step), panel->col + col,
                              product_least(panel->cols - col, p->cut.cols)};
            if (p->k <= 0)
                stored_empty_part(p, &part, space);
            else if (p->cut.whole)
                stored_whole_part(p, &part, space);
            else
                stored_deep_part(p, &part, space);
        }
}

/* ---- The product ----------------------------------------------------------------------------- */

/* A panel of C on the calling thread. beta is of a float C; a staged one's `store` knows its own. `space`:
 * stored_space floats. */
static void stored_panel(const StoredProduct *p, const GemmPanel *panel, float beta, float *space)
{
    if (panel->rows <= 0 || panel->cols <= 0)
        return;
    if (p->cut.rows)
        stored_staged_panel(p, panel, space);
    else
        stored_float_panel(p, panel, beta, space);
}

/* gemm_stored, telling `read` of what it packs. */
static void stored_run(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                       const StoredArray *a, const StoredArray *b, float beta, DType c_type, void *c,
                       int64_t ldc, StoredRead *read, const void *user, void *workspace, const KernelRun *run)
{
    GemmGrid grid = gemm_grid(m, n, k, run->threads);
    StoredProduct p = {decoder(a),
                       decoder(b),
                       trans_a,
                       trans_b,
                       k,
                       alpha,
                       beta,
                       c,
                       c_type,
                       ldc,
                       stored_cut(&grid, k, c_type),
                       stored_round,
                       user,
                       stored_dots(a, b, run),
                       NULL,
                       NULL,
                       read};
    int64_t space = stored_space(&p.cut);
    int panels = grid.rows * grid.cols;
#pragma omp parallel for schedule(static, 1) num_threads(run->threads) if (panels > 1 && !omp_in_parallel())
    for (int i = 0; i < panels; i++) {
        GemmPanel panel = gemm_panel(&grid, i);
        stored_panel(&p, &panel, beta, (float *)workspace + i * space);
    }
}

static void gemm_stored(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                        const StoredArray *a, const StoredArray *b, float beta, DType c_type, void *c,
                        int64_t ldc, void *workspace, const KernelRun *run)
{
    stored_run(trans_a, trans_b, m, n, k, alpha, a, b, beta, c_type, c, ldc, NULL, NULL, workspace, run);
}

static size_t gemm_stored_workspace(int64_t m, int64_t n, int64_t k, DType a, DType b, DType c,
                                    const KernelRun *run)
{
    (void)a, (void)b;
    return stored_workspace(m, n, k, c, run->threads);
}
