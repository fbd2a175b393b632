/* 16-bit floats: every one of the 65536 read exactly, and rounding to nearest, ties to even, at and around
 * every midpoint between two neighbours. */
#include <math.h>

#include "../base/half_.h"
#include "support.h"

typedef struct Kind {
    const char *name;
    float (*from)(uint16_t);
    uint16_t (*to)(float);
    int exponent_bits, mantissa_bits, bias;
} Kind;

static const Kind kinds[] = {{"f16", half_from_f16, half_to_f16, 5, 10, 15},
                             {"bf16", half_from_bf16, half_to_bf16, 8, 7, 127}};

/* By the definition of IEEE 754. */
static double meaning(const Kind *k, uint16_t bits)
{
    int mantissa = bits & ((1 << k->mantissa_bits) - 1),
        exponent = bits >> k->mantissa_bits & ((1 << k->exponent_bits) - 1);
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == (1 << k->exponent_bits) - 1)
        return mantissa ? NAN : sign * INFINITY;
    int normal = exponent > 0;
    return sign * ldexp(mantissa + (normal << k->mantissa_bits),
                        (normal ? exponent : 1) - k->bias - k->mantissa_bits);
}

static void test_every_half(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++)
        for (uint32_t bits = 0; bits < 65536; bits++) {
            double expected = meaning(&kinds[i], (uint16_t)bits);
            float value = kinds[i].from((uint16_t)bits);
            uint16_t again = kinds[i].to(value);
            int same =
                isnan(expected)
                    ? isnan(value) && isnan(meaning(&kinds[i], again)) && (again & 0x8000) == (bits & 0x8000)
                    : (double)value == expected && !signbit(value) == !(bits & 0x8000) && again == bits;
            if (!same)
                fail_msg("%s %04x: %g, not %g; back %04x", kinds[i].name, bits, (double)value, expected,
                         again);
        }
}

/* Between every two finite neighbours, on both sides of zero. */
static void test_rounding(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        const Kind *k = &kinds[i];
        uint16_t infinity = (uint16_t)(((1 << k->exponent_bits) - 1) << k->mantissa_bits);
        for (uint16_t low = 0; low + 1 < infinity; low++)
            for (int sign = 0; sign < 2; sign++) {
                uint16_t a = (uint16_t)(low | sign << 15), b = (uint16_t)(a + 1), even = low & 1 ? b : a;
                float middle = (float)((meaning(k, a) + meaning(k, b)) / 2);
                assert_true((double)middle == (meaning(k, a) + meaning(k, b)) / 2);
                if (k->to(middle) != even || k->to(nextafterf(middle, 0)) != a ||
                    k->to(nextafterf(middle, sign ? -INFINITY : INFINITY)) != b)
                    fail_msg("%s between %04x and %04x", k->name, a, b);
            }
        double last = meaning(k, (uint16_t)(infinity - 1)),
               step = last - meaning(k, (uint16_t)(infinity - 2));
        float edge = (float)(last + step / 2); /* of bf16: the largest float is below it */
        assert_int_equal(k->to(isinf(edge) ? INFINITY : edge), infinity);
        assert_int_equal(k->to(nextafterf(edge, 0)),
                         k->exponent_bits == 8 && isinf(edge) ? infinity : infinity - 1);
        assert_int_equal(k->to(INFINITY), infinity);
        assert_int_equal(k->to(-INFINITY), infinity | 0x8000);
    }
}

static void test_rows(void **state)
{
    (void)state;
    enum { N = 1000 };
    float values[N], back[N];
    uint16_t halves[N];
    unsigned char bytes[2 * N + 1];
    fill_values(values, N, 3, 100, 0);
    for (int kind = 0; kind < 2; kind++) {
        assert_int_equal(kind ? half_encode_bf16(N, values, halves) : half_encode_f16(N, values, halves), -1);
        memcpy(bytes + 1, halves, sizeof halves); /* not aligned */
        kind ? half_decode_bf16(N, bytes + 1, back) : half_decode_f16(N, bytes + 1, back);
        for (int i = 0; i < N; i++)
            assert_true(back[i] == kinds[kind].from(kinds[kind].to(values[i])));
    }
    values[700] = INFINITY;
    values[701] = NAN;
    assert_int_equal(half_encode_f16(N, values, halves), -1); /* they stay what they are */
    values[702] = -65520;
    assert_int_equal(half_encode_f16(N, values, halves), 702);
    assert_int_equal(half_encode_bf16(N, values, halves), -1);
    values[999] = 3.4e38f;
    assert_int_equal(half_encode_bf16(N, values, halves), 999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_half), cmocka_unit_test(test_rounding),
                                       cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
