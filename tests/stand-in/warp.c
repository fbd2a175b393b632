/* The collectives of a warp: each is a meeting of its lanes. */
#include "simt_.h"

#include "../../base/half_.h"

typedef enum Fold { FOLD_NONE, FOLD_SUM, FOLD_MAX, FOLD_SUM_F64 } Fold;

/* In the order that a card's exchanges have: lane + 16, then lane + 8, and so on. */
static void fold(Warp *warp, unsigned parity, Fold how)
{
    float f[SIMT_LANES];
    double d[SIMT_LANES];
    for (int lane = 0; lane < SIMT_LANES; lane++)
        if (how == FOLD_SUM_F64)
            memcpy(&d[lane], warp->words[parity][lane], sizeof(double));
        else
            memcpy(&f[lane], warp->words[parity][lane], sizeof(float));
    for (int n = SIMT_LANES / 2; n > 0; n >>= 1)
        for (int lane = 0; lane < n; lane++)
            if (how == FOLD_SUM_F64)
                d[lane] += d[lane + n];
            else if (how == FOLD_SUM)
                f[lane] += f[lane + n];
            else
                f[lane] = fmaxf(f[lane], f[lane + n]);
    if (how == FOLD_SUM_F64)
        warp->folded[parity].f64 = d[0];
    else
        warp->folded[parity].f32 = f[0];
}

static const SimtWords *meet(const char *here, const unsigned *words, int count, Fold how)
{
    Fiber *self = simt_current;
    unsigned lane = self->thread % SIMT_LANES, parity = self->parity;
    Warp *warp = &simt_warps[self->thread / SIMT_LANES];
    self->parity ^= 1;
    self->here = here;
    for (int i = 0; i < count; i++)
        warp->words[parity][lane][i] = words[i];
    __tsan_release(&warp->edge);
    if (warp->lanes != SIMT_LANES)
        simt_complain("at %s: a collective of a warp that has %u lanes", here, warp->lanes);
    if (warp->arrived)
        simt_same_place("lanes of a warp", warp->waiting[0]->here, here);
    warp->waiting[warp->arrived++] = self;
    if (warp->arrived == warp->lanes) {
        if (how != FOLD_NONE)
            fold(warp, parity, how);
        for (unsigned i = 0; i < warp->lanes; i++)
            simt_make_ready(warp->waiting[i]);
        warp->arrived = 0;
    }
    simt_rest();
    __tsan_acquire(&warp->edge);
    return (const SimtWords *)warp->words[parity];
}

const SimtWords *simt_collect(const char *here, const unsigned *words, int count)
{
    return meet(here, words, count, FOLD_NONE);
}

unsigned simt_lane(void)
{
    return simt_current->thread % SIMT_LANES;
}

/* ---- Exchanges ---- */

unsigned simt_warp_from_u32(const char *here, unsigned v, int lane)
{
    return simt_collect(here, &v, 1)[lane & (SIMT_LANES - 1)][0];
}

unsigned simt_warp_xor_u32(const char *here, unsigned v, int lanes)
{
    return simt_warp_from_u32(here, v, (int)simt_lane() ^ lanes);
}

uint64_t simt_warp_from_u64(const char *here, uint64_t v, int lane)
{
    unsigned words[2] = {(unsigned)v, (unsigned)(v >> 32)};
    const unsigned *from = simt_collect(here, words, 2)[lane & (SIMT_LANES - 1)];
    return (uint64_t)from[1] << 32 | from[0];
}

float simt_warp_from_f32(const char *here, float v, int lane)
{
    return float_from_bits(simt_warp_from_u32(here, float_to_bits(v), lane));
}

float simt_warp_xor_f32(const char *here, float v, int lanes)
{
    return simt_warp_from_f32(here, v, (int)simt_lane() ^ lanes);
}

double simt_warp_from_f64(const char *here, double v, int lane)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits = simt_warp_from_u64(here, bits, lane);
    memcpy(&v, &bits, sizeof v);
    return v;
}

double simt_warp_xor_f64(const char *here, double v, int lanes)
{
    return simt_warp_from_f64(here, v, (int)simt_lane() ^ lanes);
}

/* ---- Sums ---- */

static float folded_f32(const char *here, float v, Fold how)
{
    unsigned word = float_to_bits(v), parity = simt_current->parity;
    Warp *warp = &simt_warps[simt_current->thread / SIMT_LANES];
    meet(here, &word, 1, how);
    return warp->folded[parity].f32;
}

float simt_warp_sum_f32(const char *here, float v)
{
    return folded_f32(here, v, FOLD_SUM);
}

float simt_warp_max_f32(const char *here, float v)
{
    return folded_f32(here, v, FOLD_MAX);
}

double simt_warp_sum_f64(const char *here, double v)
{
    unsigned words[2], parity = simt_current->parity;
    Warp *warp = &simt_warps[simt_current->thread / SIMT_LANES];
    memcpy(words, &v, sizeof words);
    meet(here, words, 2, FOLD_SUM_F64);
    return warp->folded[parity].f64;
}

/* ---- Products: c (16,8) += a (16,16) b (16,8), whose fragments lie as in PTX's mma.m16n8k16 ---- */

static float value_of(unsigned pair, unsigned high, int bf16)
{
    uint16_t bits = (uint16_t)(high ? pair >> 16 : pair);
    return bf16 ? half_from_bf16(bits) : half_from_f16(bits);
}

static void mma(const char *here, float c[4], const unsigned a[4], const unsigned b[2], int bf16)
{
    unsigned lane = simt_lane(), own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const SimtWords *words = simt_collect(here, own, 6);
    for (unsigned r = 0; r < 4; r++) {
        unsigned row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            unsigned pair = k % 8 / 2;
            sum += value_of(words[row % 8 * 4 + pair][row / 8 + k / 8 * 2], k % 2, bf16) *
                   value_of(words[column * 4 + pair][4 + k / 8], k % 2, bf16);
        }
        c[r] += sum;
    }
}

void simt_mma_bf16(const char *here, float c[4], const unsigned a[4], const unsigned b[2])
{
    mma(here, c, a, b, 1);
}

void simt_mma_f16(const char *here, float c[4], const unsigned a[4], const unsigned b[2])
{
    mma(here, c, a, b, 0);
}
