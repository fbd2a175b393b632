/* From and to 16 bit in kernels: every table that runs here decodes all 65536 and rounds floats as
 * base/half_.h does, in vector code and in what is left over. */
#define SUPPORT_CARD
#include "half_support.h"

/* NaN decodes to a NaN of the same sign and payload, made quiet or not. */
static int decoded_right(uint16_t bits, float value)
{
    uint32_t got, expected;
    float by_bits = half_value(bits);
    memcpy(&got, &value, sizeof got);
    memcpy(&expected, &by_bits, sizeof expected);
    return got == expected || (isnan(by_bits) && got == (expected | 0x400000u));
}

/* All 65536, from two places, so that each is met by vector code and by what is left over. */
static void check_decoding(const Kernels *k, int threads)
{
    enum { ALL = 65536 };
    uint16_t *all = (uint16_t *)(void *)take(ALL / 2 + 8, 0.0f);
    float *values = take(ALL, NAN);
    for (int i = 0; i < ALL; i++)
        all[i] = (uint16_t)i;
    for (int skip = 0; skip < 20; skip += 7) {
        for (int at = 0, n; at < ALL; at += n) { /* whole at once, then in pieces of 1 to 31 */
            n = skip == 0 ? ALL : 1 + (at * 7 + skip) % 31;
            n = n < ALL - at ? n : ALL - at;
            k->copy(half_type, DTYPE_F32, n, all + at, values + at, on(threads));
        }
        for (int i = 0; i < ALL; i++)
            if (!decoded_right((uint16_t)i, values[i]))
                fail_msg("%s %04x decodes to %.9g", dtype_name(half_type), i, (double)values[i]);
    }
}

static void check_encoding_of(const Kernels *k, int64_t n, const float *values, int threads)
{
    uint16_t *made = (uint16_t *)(void *)take(n / 2 + 1, 0.0f);
    for (int piece = 0; piece < 2; piece++) {
        for (int64_t at = 0, m; at < n; at += m) {
            m = piece ? 1 + at * 5 % 37 : n;
            m = m < n - at ? m : n - at;
            k->copy(DTYPE_F32, half_type, m, values + at, made + at, on(threads));
        }
        for (int64_t i = 0; i < n; i++)
            if (made[i] != half_rounded(values[i]))
                fail_msg("%.9g becomes %s %04x, not %04x", (double)values[i], dtype_name(half_type), made[i],
                         half_rounded(values[i]));
    }
}

/* Every number of the type and every midpoint of two, each with the floats around it. */
static void check_encoding_ties(const Kernels *k, int threads)
{
    enum { ALL = 65536 };
    float *values = take(6 * ALL, 0.0f);
    for (int i = 0; i < ALL; i++) {
        float low = half_value((uint16_t)i), high = half_value((uint16_t)(i + 1));
        float middle = isfinite(low) && isfinite(high) ? low / 2 + high / 2 : low;
        float *v = values + 6 * i;
        v[0] = low, v[1] = middle;
        for (int j = 0; j < 2; j++) {
            v[2 + j] = nextafterf(v[j], INFINITY);
            v[4 + j] = nextafterf(v[j], -INFINITY);
        }
    }
    check_encoding_of(k, 6 * ALL, values, threads);
}

/* Bit patterns of all kinds: subnormals, infinities and NaN of any payload among them. */
static void check_encoding_bits(const Kernels *k, int threads)
{
    enum { N = 1 << 18 };
    static const uint32_t special[] = {0x7F800000u, 0x7F800001u, 0x7FBFFFFFu, 0x7FC00000u, 0x7FFFFFFFu,
                                       0x7F802000u, 0x7F7FFFFFu, 0x00000001u, 0x007FFFFFu, 0x00800000u,
                                       0x477FF000u, 0x477FEFFFu, 0x33000000u, 0x33000001u, 0x387FFFFFu};
    enum { SPECIALS = sizeof special / sizeof *special };
    float *values = take(N, 0.0f);
    for (int i = 0; i < N; i++) {
        uint32_t bits = (uint32_t)(random_float() * 32768.0f + 32768.0f) << 16 |
                        (uint32_t)(random_float() * 32768.0f + 32768.0f);
        bits = i < 2 * SPECIALS ? special[i / 2] | (uint32_t)(i % 2) << 31 : bits;
        memcpy(values + i, &bits, sizeof bits);
    }
    check_encoding_of(k, N, values, threads);
}

static void test_conversions(void **state)
{
    (void)state;
    each_half_table(check_decoding);
    each_half_table(check_encoding_ties);
    each_half_table(check_encoding_bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_conversions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
