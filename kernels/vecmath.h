/* Transcendental functions in plain branch-free C, so that the compiler vectorises loops that call them
 * (libm's are calls). Selects instead of branches, written so that NaN passes through. Polynomials are
 * minimax fits of our own with coefficients rounded one at a time; tests/test_vecmath.c measures every
 * function against libm in double. */
#ifndef BRIM_VECMATH_H
#define BRIM_VECMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/bits_.h"

/* Opens a function that has to give the same bits on every instruction set: no product in it may fuse with
 * the sum that follows. gcc ignores the pragma, but never fuses under -std=c11 (the Makefile's), where only
 * vec_fma does. */
#if defined(__clang__)
#define VEC_STRICT _Pragma("STDC FP_CONTRACT OFF")
#else
#define VEC_STRICT
#endif

/* A function whose products and sums may be one instruction where the processor has it: VEC_FUSED before it,
 * VEC_FUSE first in its body. */
#if defined(__clang__)
#define VEC_FUSED
#define VEC_FUSE _Pragma("clang fp contract(fast)")
#else
#define VEC_FUSED __attribute__((noinline, optimize("fp-contract=fast")))
#define VEC_FUSE
#endif

#define VEC_INLINE BITS_INLINE

/* a b + c, fused where the processor does that at full speed: gcc -std=c11 never fuses by itself. */
VEC_INLINE float vec_fma(float a, float b, float c)
{
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* x = n ln2 + r with n = floor(x / ln2); r in [0, ln2), give or take a rounding. Returns exp(r) - 1 and
 * leaves 2^n, which is 0 for n = -127 and infinite for n = 128: callers clamp x so that n stays between
 * those. */
VEC_INLINE float vec_exp_parts(float x, float *power)
{
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, which is then in the low bits */
    float t = vec_fma(x, 0x1.715476p+0f, -0.5f) + magic;
    float n = t - magic;
    float r = vec_fma(n, -0x1.63p-1f, x); /* ln2 in two parts: this product is exact */
    r = vec_fma(n, 0x1.bd0106p-13f, r);
    float q = 0x1.f5f2d6p-10f;
    q = vec_fma(q, r, 0x1.01b552p-7f);
    q = vec_fma(q, r, 0x1.56e4dcp-5f);
    q = vec_fma(q, r, 0x1.5542d8p-3f);
    q = vec_fma(q, r, 0x1.00004ep-1f);
    *power = float_from_bits((float_to_bits(t) - 0x4b400000u + 127u) << 23);
    return vec_fma(q, r * r, r);
}

/* At most 2 ulp. Infinite above 88.72; 0 below -87.34, where the result would be subnormal. */
VEC_INLINE float vec_exp(float x)
{
    float power;
    x = x > 89.0f ? 89.0f : x;
    x = x < -88.0f ? -88.0f : x;
    float p = 1.0f + vec_exp_parts(x, &power);
    return p * power;
}

/* 1 - tanh a of a >= 0, within 2 ulp down to 2^-126, and 0 below; leaves tanh a, within 4 ulp from 0 on. Both
 * of exp(2a) - 1, so that nothing cancels at either end. */
#define VEC_TANH_END 43.7f
VEC_INLINE float vec_tanh_tail(float a, float *tanh)
{
    float power;
    a = a > VEC_TANH_END ? VEC_TANH_END : a;
    float p = vec_exp_parts(a + a, &power);
    float m = vec_fma(p, power, power - 1.0f), tail = 2.0f / (m + 2.0f);
    *tanh = m / (m + 2.0f);
    return tail;
}

/* cap tanh(x / cap) of a cap above 0, and its slope. */
VEC_INLINE float vec_softcap(float cap, float x)
{
    float t;
    vec_tanh_tail(fabsf(x) / cap, &t);
    return copysignf(cap * t, x);
}

VEC_INLINE float vec_softcap_slope(float cap, float x)
{
    float t, tail = vec_tanh_tail(fabsf(x) / cap, &t);
    return tail * (1.0f + t);
}

/* The standard normal distribution beyond a, with a in [0, VEC_NORMAL_END]: leaves e = exp(-a^2 / 2) and
 * returns q, so that e q is the probability of more than a, and e / sqrt(2 pi) the density. Both
 * within 1.2e-7. One exponential serves a function and its slope, and nothing cancels far out: at the end e
 * is 0. */
#define VEC_NORMAL_END 13.27f
VEC_INLINE float vec_normal_tail(float a, float *e)
{
    const float magic = 0x1.8p23f; /* as in vec_exp_parts */
    float h = a * a * -0x1.715476p-1f;
    float t = h + magic;
    float r = h - (t - magic); /* 2^h = 2^n 2^r, r in [-1/2, 1/2] */
    float p = 0x1.5bda7ap-10f;
    p = vec_fma(p, r, 0x1.3ce8b0p-7f);
    p = vec_fma(p, r, 0x1.c6b6d8p-5f);
    p = vec_fma(p, r, 0x1.ebf9c2p-3f);
    p = vec_fma(p, r, 0x1.62e42ap-1f);
    p = vec_fma(p, r, 1.0f);
    *e = p * float_from_bits((float_to_bits(t) - 0x4b400000u + 127u) << 23);
    float u = 1.0f / vec_fma(0.3984375f, a, 1.0f);
    float q = 0x1.c1a412p-5f;
    q = vec_fma(q, u, -0x1.00f842p-2f);
    q = vec_fma(q, u, 0x1.5a8cdcp-2f);
    q = vec_fma(q, u, 0x1.c73590p-7f);
    q = vec_fma(q, u, 0x1.801aacp-3f);
    q = vec_fma(q, u, 0x1.3fdfc0p-3f);
    return q * u;
}

/* At most 2 ulp, and the same bits on every instruction set (random numbers are made with it).
 * log 0 = -inf, log of a negative number is NaN, subnormals count as 0. */
VEC_INLINE float vec_log(float x)
{
    VEC_STRICT
    uint32_t bits = float_to_bits(x);
    /* x = 2^n m with m in [sqrt(1/2), sqrt(2)) */
    uint32_t shifted = bits - 0x3f3504f3u;
    float n = (float)((int32_t)shifted >> 23);
    float f = float_from_bits((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float z = f * f;
    float q = -0x1.391deap-4f;
    q = float_times(q, f) + 0x1.05b182p-3f;
    q = float_times(q, f) - 0x1.0d9adcp-3f;
    q = float_times(q, f) + 0x1.22d044p-3f;
    q = float_times(q, f) - 0x1.546f34p-3f;
    q = float_times(q, f) + 0x1.99a054p-3f;
    q = float_times(q, f) - 0x1.000232p-2f;
    q = float_times(q, f) + 0x1.555554p-2f;
    q = float_times(float_times(q, f), z) - float_times(n, 0x1.bd0106p-13f);
    q = q - float_times(0.5f, z);
    float y = (q + f) + float_times(n, 0x1.63p-1f);
    y = x < 0x1p-126f ? -INFINITY : y;
    y = x < 0.0f ? NAN : y;
    y = x > 0x1.fffffep+127f ? x : y;
    return x == x ? y : x;
}

#endif
