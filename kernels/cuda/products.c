/* Products on a card: cuBLAS's, and what it does not do.
 *
 * cuBLAS multiplies two operands of one type, f32, bf16 or f16, sums in f32, and stores in that type or in
 * f32, rounding once. What is of another type is copied into workspace as the product's type, strip by strip,
 * all terms of a sum in one strip, so that sums are never rounded on their way. A product that has 16-bit
 * values in it is of 16 bit, whatever its weights are: they are rounded as autocast rounds them. */
#include "launch_.h"

enum { OF_F32 = 0, OF_F16 = 2, OF_BF16 = 14 }; /* cudaDataType */
enum { COMPUTE_32F = 68, COMPUTE_TF32 = 77 };  /* cublasComputeType */
/* Bytes of a strip, of which a product needs one for each operand that is copied, and one for sums that are
 * rounded afterwards; more where that is less than STRIP_LEAST rows or columns of all terms. Lines begin on
 * boundaries that tensor cores like. */
enum { STRIP_BYTES = 32 << 20, STRIP_LEAST = 64, STRIP_ALIGN = 8 };

/* c (m,n) = alpha op(a) op(b) + beta c */
typedef struct Product {
    int trans_a, trans_b;
    int64_t m, n, k;
    float alpha;
    const StoredArray *a, *b;
    float beta;
    DType type; /* that it multiplies in */
    DType c_type;
    void *c;
    int64_t ldc;
} Product;

/* How a product is cut: a strip's rows and columns of c, and bytes of workspace, for each operand and for
 * sums. */
typedef struct ProductCut {
    int64_t rows, cols;
    size_t a, b, sums;
} ProductCut;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int is_half(DType type)
{
    return type == DTYPE_BF16 || type == DTYPE_F16;
}

/* The first that has 16 bit, else f32. */
static DType half_of(DType a, DType b, DType c)
{
    return is_half(a) ? a : is_half(b) ? b : is_half(c) ? c : DTYPE_F32;
}

static int64_t size_of(DType type)
{
    return type == DTYPE_F32 ? 4 : 2;
}

static int aligned(const void *x)
{
    return (uintptr_t)x % 16 == 0;
}

static const void *element(DType type, const void *x, int64_t i)
{
    return (const char *)x + i * size_of(type);
}

/* Equal strips of so many bytes a line. */
static int64_t strip(int64_t extent, int64_t line)
{
    int64_t most = STRIP_BYTES / (line > 0 ? line : 1) / STRIP_LEAST * STRIP_LEAST;
    most = most < STRIP_LEAST ? STRIP_LEAST : most;
    if (extent <= most)
        return extent;
    int64_t strips = (extent + most - 1) / most;
    return up((extent + strips - 1) / strips, STRIP_LEAST);
}

static size_t strip_bytes(int64_t lines, int64_t k, DType type)
{
    return (size_t)(up(lines, STRIP_ALIGN) * up(k, STRIP_ALIGN) * size_of(type));
}

static ProductCut product_cut(int64_t m, int64_t n, int64_t k, DType type, DType a, DType b, DType c)
{
    ProductCut cut = {.rows = m, .cols = n};
    int64_t line = up(k, STRIP_ALIGN) * size_of(type);
    if (m <= 0 || n <= 0)
        return cut;
    if (a != type)
        cut.rows = strip(m, line);
    if (b != type)
        cut.cols = strip(n, line);
    if (c != type && c != DTYPE_F32)
        cut.cols = least(cut.cols, strip(n, cut.rows * (int64_t)sizeof(float)));
    cut.a = a != type ? strip_bytes(cut.rows, k, type) : 0;
    cut.b = b != type ? strip_bytes(cut.cols, k, type) : 0;
    cut.sums = c != type && c != DTYPE_F32 ? strip_bytes(cut.rows, cut.cols, DTYPE_F32) : 0;
    return cut;
}

static size_t product_bytes(int64_t m, int64_t n, int64_t k, DType type, DType a, DType b, DType c)
{
    ProductCut cut = product_cut(m, n, k, type, a, b, c);
    return cut.a + cut.b + cut.sums;
}

/* ---- Products -------------------------------------------------------------------------------- */

/* An operand as cuBLAS takes it. */
typedef struct Operand {
    const void *at;
    int64_t ld;
} Operand;

static int blas_type(DType type)
{
    return type == DTYPE_BF16 ? OF_BF16 : type == DTYPE_F16 ? OF_F16 : OF_F32;
}

static void rounded(const Product *p, int64_t rows, int64_t cols, const float *sums, void *c,
                    const KernelRun *run)
{
    RoundArguments a = {rows, cols, p->ldc, sums, c, p->c_type, p->beta};
    LAUNCH(run, CUDA_product_round, cuda_blocks(rows * cols), 1, 1, CUDA_THREADS, a);
}

/* Row-major C = op(A) op(B) is column-major C^T = op(B)^T op(A)^T. */
static void multiply(const Product *p, int64_t rows, int64_t cols, Operand a, Operand b, float beta,
                     DType c_type, void *c, int64_t ldc, const KernelRun *run)
{
    CudaProduct product = {.trans_a = p->trans_b,
                           .trans_b = p->trans_a,
                           .m = cols,
                           .n = rows,
                           .k = p->k,
                           .alpha = p->alpha,
                           .beta = beta,
                           .a = b.at,
                           .b = a.at,
                           .c = c,
                           .lda = b.ld > 0 ? b.ld : 1,
                           .ldb = a.ld > 0 ? a.ld : 1,
                           .ldc = ldc,
                           .type = blas_type(p->type),
                           .c_type = blas_type(c_type),
                           .compute = p->type == DTYPE_F32 && run->tf32 ? COMPUTE_TF32 : COMPUTE_32F,
                           .type_name = dtype_name(p->type),
                           .c_type_name = dtype_name(c_type)};
    cuda_product(run->device, &product);
}

/* Lines [first, first + lines) of an operand, which has a line for each row or column of C. across: lines are
 * its columns. They are where they are, or in room, as the product's type. */
static Operand operand(const Product *p, const StoredArray *x, int across, int64_t first, int64_t lines,
                       void *room, const KernelRun *run)
{
    if (x->dtype == p->type)
        return (Operand){element(p->type, x->at, across ? first : first * x->cols), x->cols};
    OperandArguments a = {.x = *x,
                          .row = across ? 0 : first,
                          .col = across ? first : 0,
                          .rows = across ? p->k : lines,
                          .cols = across ? lines : p->k,
                          .ldy = up(across ? lines : p->k, STRIP_ALIGN),
                          .y = room};
    if (dtype_is_quantized(x->dtype))
        a.layout = quant_layout(x->dtype, x->rows, x->cols);
    a.aligned = aligned(x->at) && x->cols % STRIP_ALIGN == 0 && a.col % STRIP_ALIGN == 0;
    LAUNCH(run, CUDA_product_operand + cuda_typed(p->type), cuda_blocks(a.rows * a.ldy / STRIP_ALIGN), 1, 1,
           CUDA_THREADS, a);
    return (Operand){room, a.ldy};
}

/* Of a strip of C at (row,col). */
static void product_strip(const Product *p, int64_t row, int64_t rows, int64_t col, int64_t cols, Operand a,
                          Operand b, float *sums, const KernelRun *run)
{
    void *c = (void *)(uintptr_t)element(p->c_type, p->c, row * p->ldc + col);
    if (!sums) {
        multiply(p, rows, cols, a, b, p->beta, p->c_type, c, p->ldc, run);
        return;
    }
    multiply(p, rows, cols, a, b, 0, DTYPE_F32, sums, cols, run);
    rounded(p, rows, cols, sums, c, run);
}

static void product(const Product *p, void *workspace, const KernelRun *run)
{
    ProductCut cut = product_cut(p->m, p->n, p->k, p->type, p->a->dtype, p->b->dtype, p->c_type);
    char *room_a = workspace, *room_b = room_a + cut.a, *sums = cut.sums ? room_b + cut.b : NULL;
    if (p->m <= 0 || p->n <= 0)
        return;
    if (p->k <= 0) {
        rounded(p, p->m, p->n, NULL, p->c, run);
        return;
    }
    for (int64_t i = 0; i < p->m; i += cut.rows) {
        int64_t rows = least(cut.rows, p->m - i);
        Operand a = operand(p, p->a, p->trans_a, i, rows, room_a, run), b = {0};
        for (int64_t j = 0; j < p->n; j += cut.cols) {
            int64_t cols = least(cut.cols, p->n - j);
            if (i == 0 || cut.cols < p->n)
                b = operand(p, p->b, !p->trans_b, j, cols, room_b, run);
            product_strip(p, i, rows, j, cols, a, b, (float *)(void *)sums, run);
        }
    }
}

void cuda_gemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
               int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc,
               const KernelRun *run)
{
    StoredArray left = {a, DTYPE_F32, trans_a ? k : m, lda}, right = {b, DTYPE_F32, trans_b ? n : k, ldb};
    product(&(Product){trans_a, trans_b, m, n, k, alpha, &left, &right, beta, DTYPE_F32, DTYPE_F32, c, ldc},
            NULL, run);
}

/* Of c's type where that has 16 bit, so that cuBLAS rounds its sums. */
static DType gemm_type(DType a, DType b, DType c)
{
    return half_of(c, a, b);
}

void cuda_gemm_stored(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                      const StoredArray *a, const StoredArray *b, float beta, DType c_type, void *c,
                      int64_t ldc, void *workspace, const KernelRun *run)
{
    DType type = gemm_type(a->dtype, b->dtype, c_type);
    product(&(Product){trans_a, trans_b, m, n, k, alpha, a, b, beta, type, c_type, c, ldc}, workspace, run);
}

size_t cuda_gemm_stored_workspace(int64_t m, int64_t n, int64_t k, DType a, DType b, DType c,
                                  const KernelRun *run)
{
    (void)run;
    return product_bytes(m, n, k, gemm_type(a, b, c), a, b, c);
}

/* ---- The linear layer ------------------------------------------------------------------------ */

static void linear_launch(int kernel, DType type, LinearArguments a, const KernelRun *run)
{
    int64_t pack = 16 / size_of(type);
    a.aligned = a.ld % pack == 0 && aligned(a.x) && aligned(a.bias) && aligned(a.pre) && aligned(a.y);
    LAUNCH(run, kernel + cuda_typed(type), cuda_blocks(a.aligned ? a.n / pack : a.n), 1, 1, CUDA_THREADS, a);
}

/* Few rows have a product of their own where the weight would have to be copied first, which takes longer
 * than the product. */
static int is_few(const LinearDims *d, DType w)
{
    return d->rows <= FEW_ROWS && d->in > 0 && !d->in_out && w != half_of(d->y, d->x, DTYPE_F32);
}

static void forward_few(const LinearDims *d, Activation act, const void *x, const StoredArray *w,
                        const float *bias, void *pre, void *y, const KernelRun *run)
{
    enum { WARPS = CUDA_THREADS / 32 };
    FewArguments a = {.in = d->in,
                      .out = d->out,
                      .ldy = linear_ldy(d),
                      .x = x,
                      .w = *w,
                      .bias = bias,
                      .pre = pre,
                      .y = y,
                      .y_type = d->y,
                      .act = (int)act,
                      .aligned = aligned(x) && aligned(w->at) && d->in % STRIP_ALIGN == 0};
    if (dtype_is_quantized(w->dtype))
        a.layout = quant_layout(w->dtype, w->rows, w->cols);
    LAUNCH(run, CUDA_linear_few + cuda_typed(d->x), (d->out + WARPS - 1) / WARPS, d->rows, 1, CUDA_THREADS,
           a);
}

/* In f32 the bias is added on the way to the activation. In 16 bit it goes in first, as that type, so that
 * its sum with the product is rounded once. */
void cuda_linear_forward(const LinearDims *d, Activation act, const void *x, const StoredArray *w,
                         const float *bias, void *pre, void *y, void *workspace, const KernelRun *run)
{
    StoredArray rows = {x, d->x, d->rows, d->in};
    void *to = pre ? pre : y;
    int before = bias && is_half(d->y);
    int64_t ld = linear_ldy(d);
    LinearArguments a = {.n = d->rows * ld, .c = d->out, .ld = ld, .bias = bias, .y = to};
    if (d->rows * d->out <= 0)
        return;
    if (is_few(d, w->dtype)) {
        forward_few(d, act, x, w, bias, pre, y, run);
        return;
    }
    if (before)
        linear_launch(CUDA_linear_bias, d->y, a, run);
    product(&(Product){0, !d->in_out, d->rows, d->out, d->in, 1, &rows, w, before ? 1.0f : 0.0f,
                       half_of(d->y, d->x, DTYPE_F32), d->y, to, ld},
            workspace, run);
    int behind = bias && !before;
    if (!behind && act == ACT_NONE && to == y)
        return;
    a = (LinearArguments){.n = a.n,
                          .c = a.c,
                          .ld = ld,
                          .x = to,
                          .bias = behind ? bias : NULL,
                          .pre = behind && pre != y ? pre : NULL,
                          .y = y,
                          .act = (int)act};
    linear_launch(CUDA_linear_finish, d->y, a, run);
}

void cuda_linear_backward_input(const LinearDims *d, const void *dy, const StoredArray *w, float beta,
                                void *dx, void *workspace, const KernelRun *run)
{
    StoredArray rows = {dy, d->y, d->rows, linear_ldy(d)};
    product(&(Product){0, d->in_out, d->rows, d->in, d->out, 1, &rows, w, beta,
                       half_of(d->x, d->y, DTYPE_F32), d->x, dx, d->in},
            workspace, run);
}

/* The gradient's own type where it is that of x or dy: cuBLAS then rounds its sums. */
static DType weight_type(const LinearDims *d, DType dw)
{
    return is_half(dw) && (dw == d->x || dw == d->y) ? dw : half_of(d->x, d->y, DTYPE_F32);
}

void cuda_linear_backward_weight(const LinearDims *d, const void *x, const void *dy, DType dw_type,
                                 float beta_w, void *dw, DType dbias_type, float beta_b, void *dbias,
                                 void *workspace, const KernelRun *run)
{
    StoredArray in = {x, d->x, d->rows, d->in}, out = {dy, d->y, d->rows, linear_ldy(d)};
    const StoredArray *left = d->in_out ? &in : &out, *right = d->in_out ? &out : &in;
    if (dbias)
        cuda_column_sum_of(d->y, d->rows, d->out, out.cols, dy, dbias_type, beta_b, dbias, workspace, run);
    int64_t m = d->in_out ? d->in : d->out, n = d->in_out ? d->out : d->in;
    if (dw)
        product(
            &(Product){1, 0, m, n, d->rows, 1, left, right, beta_w, weight_type(d, dw_type), dw_type, dw, n},
            workspace, run);
}

size_t cuda_linear_workspace(const LinearDims *d, LinearPass pass, DType w, const KernelRun *run)
{
    if (pass == LINEAR_FORWARD && is_few(d, w))
        return 0;
    if (pass == LINEAR_FORWARD)
        return product_bytes(d->rows, d->out, d->in, half_of(d->y, d->x, DTYPE_F32), d->x, w, d->y);
    if (pass == LINEAR_BACKWARD_INPUT)
        return product_bytes(d->rows, d->in, d->out, half_of(d->x, d->y, DTYPE_F32), d->y, w, d->x);
    size_t sums = cuda_column_sum_workspace(d->rows, d->out, run);
    DType left = d->in_out ? d->x : d->y, right = d->in_out ? d->y : d->x;
    size_t bytes = product_bytes(d->in_out ? d->in : d->out, d->in_out ? d->out : d->in, d->rows,
                                 weight_type(d, w), left, right, w);
    return sums > bytes ? sums : bytes;
}
