/* Which products with NF4 weights bitsandbytes 0.50 gives to a kernel of its own: _gemm_4bit_use_custom_cuda
 * of bitsandbytes/backends/cuda/ops.py, as the most rows that the kernel takes. Blocks are of 64 columns; a
 * wave is as many as the card has multiprocessors. */
#include "dialect_.h"

enum { MOST = 1536, ALWAYS = 4, BLOCK = 64, SMALL = 4 << 20 };

typedef struct Product {
    int64_t M, N, K, blocks, wave;
} Product;

/* Less than 4 Mi elements, and few columns of x for the rows of the weight. */
static int64_t short_rows(int card, const Product *p)
{
    int low = p->blocks * 3 < p->wave;
    if (card == 80)
        return low ? 1536 : 512;
    if (card == 90)
        return low ? 512 : 320;
    if (card == 75) {
        if (p->blocks >= p->wave * 3 || p->K < 704)
            return 320;
        return p->K >= 1024 ? 64 : 96;
    }
    return p->blocks < p->wave && p->blocks * p->K > p->wave * 320 ? 192 : 320;
}

static int64_t small(int card, const Product *p)
{
    int quarter = p->blocks * 4 <= p->wave, hbm = card == 80 || card == 90;
    if (p->K * 2 < p->N)
        return short_rows(card, p);
    if (card == 80 && quarter)
        return p->K < p->N ? 384 : p->blocks * 8 <= p->wave ? 32 : 128;
    if (card == 75 && p->blocks < p->wave && p->M > 8)
        return 64;
    if (quarter)
        return p->K < p->N || hbm ? 32 : 23;
    return p->blocks * 2 <= p->wave ? 16 : 0;
}

/* Five to seven rows of a large weight. */
static int64_t few(int card, const Product *p)
{
    int64_t from = card == 90 ? 36 : 48;
    if ((card != 80 && card != 90) || p->M < 6 || p->blocks < from)
        return 7;
    int three_quarters = p->blocks * 4 < p->wave * 3, three_fifths = p->blocks * 5 < p->wave * 3;
    if (p->K > p->N && three_quarters)
        return 0;
    if (p->K == p->N && card == 80 && three_fifths)
        return 0;
    return p->K == p->N && card == 90 && three_quarters && !three_fifths ? 0 : 7;
}

static int64_t large_80(const Product *p)
{
    if (p->blocks >= p->wave * 3)
        return 128;
    if (p->blocks >= p->wave)
        return p->K < p->N ? 64 : 32;
    if (p->K >= p->N * 3 && p->blocks * 4 > p->wave)
        return 0;
    if (p->K == p->N && p->blocks >= 48 && p->blocks * 5 < p->wave * 3)
        return 0;
    if (p->blocks * 2 < p->wave) {
        if (p->K <= p->N)
            return 128;
        if (p->blocks * 3 >= p->wave)
            return 0;
    }
    return p->blocks >= p->wave / 2 && p->K < p->N ? 128 : 16;
}

static int64_t large_90(const Product *p)
{
    if (p->blocks >= p->wave)
        return p->blocks >= p->wave * 3 ? 64 : p->blocks >= p->wave * 2 ? 48 : 32;
    if (p->blocks < p->wave / 2 || (p->K >= p->N && p->blocks * 4 < p->wave * 3))
        return 0;
    return 16;
}

static int64_t large_120(const Product *p)
{
    if (p->blocks >= p->wave * 2)
        return p->blocks >= p->wave * 3 ? 256 : 128;
    if (p->blocks * 5 >= p->wave * 4)
        return p->K >= p->N ? 96 : 64;
    if (p->blocks >= p->wave / 2)
        return p->K * 2 >= p->N && p->blocks >= 128 ? 64 : 8;
    return p->K > p->N * 2 && p->blocks > 64 ? 16 : 8;
}

static int64_t large_89(const Product *p)
{
    int tall = p->K > p->N * 2;
    if (p->blocks >= p->wave * 2)
        return p->blocks >= p->wave * 3 ? 256 : 128;
    if (p->blocks * 5 >= p->wave * 4) {
        if (tall || p->blocks >= 200)
            return 128;
        return p->K < p->N ? 64 : p->wave >= 60 ? 128 : 32;
    }
    if (p->blocks >= p->wave / 2)
        return tall ? 64 : p->blocks >= 64 ? 8 : 32;
    if (p->K > p->N && p->blocks <= 48)
        return p->K >= p->N * 3 ? 12 : 10;
    return tall || p->blocks < 48 ? 16 : 8;
}

static int64_t large(int card, const Product *p)
{
    if (p->M > 512)
        return 0;
    if (p->M < 8)
        return few(card, p);
    switch (card) {
    case 75:
        return p->blocks >= p->wave * 3 ? (p->K < p->N ? 128 : 64) : p->blocks >= p->wave / 2 ? 64 : 32;
    case 80:
        return large_80(p);
    case 86:
        return p->blocks >= p->wave ? 128 : p->blocks >= p->wave / 2 ? 64 : 16;
    case 90:
        return large_90(p);
    case 120:
        return large_120(p);
    default:
        return large_89(p);
    }
}

static int64_t hundred(const Product *p)
{
    if (p->blocks >= p->wave * 3)
        return 32;
    return p->blocks >= p->wave && p->K < p->N ? 8 : 0;
}

int torch_nf4_kernel(const PytorchCard *card, TorchType type, int64_t M, int64_t N, int64_t K)
{
    Product p = {.M = M, .N = N, .K = K, .blocks = (N + BLOCK - 1) / BLOCK, .wave = card->processors};
    int sm = card->capability;
    if (M > MOST || K % BLOCK)
        return 0;
    if (M <= ALWAYS)
        return 1;
    if (type == TORCH_F32 || sm < 75 || (sm < 80 && type != TORCH_F16))
        return M < 8;
    if (sm == 87 || sm / 10 == 11) /* not measured */
        return 0;
    if (sm / 10 == 10)
        return M <= hundred(&p);
    return M <= (N * K < SMALL ? small(sm, &p) : large(sm, &p));
}
