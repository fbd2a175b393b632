/* The keyed permutation: every count gives an order in which each is there once, keys give other orders, and
 * all orders come about equally often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../base/permutation_.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { STREAM = 0x74657374 };

/* ---- Each once ------------------------------------------------------------------------------- */

static void check_bijection(uint64_t count, uint64_t number)
{
    static uint8_t seen[1 << 21];
    Permutation p;
    permutation_make(&p, count, 42, STREAM, number);
    assert_true(count <= COUNT(seen));
    memset(seen, 0, count);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = permutation_at(&p, i);
        if (at >= count || seen[at])
            fail_msg("of %llu: place %llu holds %llu, which is %s", (unsigned long long)count,
                     (unsigned long long)i, (unsigned long long)at, at < count ? "there twice" : "too large");
        seen[at] = 1;
    }
}

static void test_each_once(void **state)
{
    (void)state;
    for (uint64_t count = 1; count <= 5000; count++)
        check_bijection(count, count % 7);
    static const uint64_t large[] = {65536, 65537, 531441, 999983, 1 << 20, (1 << 20) - 1, (1 << 20) + 1};
    for (size_t i = 0; i < COUNT(large); i++)
        check_bijection(large[i], i);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Too many to look at all: of the first, the last and strides between, none comes twice. (A random function
 * in place of a permutation would give some twice up to 2^32.) */
static void test_each_once_of_very_many(void **state)
{
    (void)state;
    enum { SAMPLES = 200000 };
    static uint64_t at[SAMPLES];
    static const uint64_t counts[] = {2147483647u,       (uint64_t)1 << 31,       4294967291u,
                                      (uint64_t)1 << 32, ((uint64_t)1 << 32) + 1, 10460353203u /* 3^21 */,
                                      1000000000039u,    (uint64_t)1 << 40,       2305843009213693951u,
                                      (uint64_t)1 << 62};
    for (size_t c = 0; c < COUNT(counts); c++) {
        uint64_t count = counts[c], third = SAMPLES / 3;
        Permutation p;
        permutation_make(&p, count, c, STREAM, c);
        for (uint64_t i = 0; i < SAMPLES; i++) {
            uint64_t place = i < third       ? i
                             : i < 2 * third ? count - 1 - (i - third)
                                             : third + (count / SAMPLES) * (i - 2 * third);
            at[i] = permutation_at(&p, place);
            assert_true(at[i] < count);
        }
        qsort(at, SAMPLES, sizeof *at, by_value);
        for (int i = 1; i < SAMPLES; i++)
            assert_true(at[i - 1] != at[i]);
    }
}

/* ---- Keys ------------------------------------------------------------------------------------ */

static void fill(uint64_t order[100], uint64_t seed, uint32_t stream, uint64_t number)
{
    Permutation p;
    permutation_make(&p, 100, seed, stream, number);
    for (uint64_t i = 0; i < 100; i++)
        order[i] = permutation_at(&p, i);
}

static void test_keys(void **state)
{
    (void)state;
    uint64_t order[100], other[100];
    fill(order, 1, 2, 3);
    fill(other, 1, 2, 3);
    assert_memory_equal(order, other, sizeof order);
    for (int i = 0; i < 5; i++) {
        fill(other,
             i == 0   ? 2
             : i == 1 ? (1ull << 32) + 1
                      : 1,
             i == 2 ? 3 : 2,
             i == 3   ? 4
             : i == 4 ? (1ull << 32) + 3
                      : 3);
        int same = 0;
        for (int place = 0; place < 100; place++)
            same += order[place] == other[place];
        assert_true(same < 10); /* one of 100 by chance */
    }
}

/* The order of samples of saved runs hangs on these: where they change, so must DATA_ORDER. */
static void test_known_values(void **state)
{
    (void)state;
    static const struct {
        uint64_t count, seed, number, values[4];
    } known[] = {
        {1, 0, 0, {0, 0, 0, 0}},
        {23, 1, 0, {5, 2, 16, 1}},
        {60000, 7, 3, {34665, 10485, 42404, 34824}},
        {((uint64_t)1 << 40) + 1,
         UINT64_MAX,
         (uint64_t)1 << 33,
         {387112547069, 51837886327, 247477199298, 204332689628}},
    };
    for (size_t k = 0; k < COUNT(known); k++) {
        Permutation p;
        permutation_make(&p, known[k].count, known[k].seed, STREAM, known[k].number);
        for (uint64_t i = 0; i < 4; i++)
            assert_int_equal(permutation_at(&p, i % known[k].count), known[k].values[i]);
    }
}

/* ---- Fair ------------------------------------------------------------------------------------ */

static double chi_square(const int seen[], int cells, double expected)
{
    double chi = 0;
    for (int i = 0; i < cells; i++)
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
    return chi;
}

/* Mean 1 and standard deviation sqrt(2 / freedom) when all is even; six of them never happen by chance. */
static void check_even(const char *what, int count, double chi, double freedom)
{
    double off = (chi - freedom) * (chi - freedom) / (2 * freedom);
    if (off > 36)
        fail_msg("%s of %d: chi-square %.1f at %.0f degrees of freedom", what, count, chi, freedom);
}

/* All orders of a few. */
static void test_all_orders(void **state)
{
    (void)state;
    enum { DRAWS = 50000 };
    for (int count = 2, orders = 2; count <= 7; count++, orders *= count) {
        static int seen[5040];
        memset(seen, 0, sizeof seen);
        for (int d = 0; d < DRAWS; d++) {
            int at[7], code = 0;
            Permutation p;
            permutation_make(&p, (uint64_t)count, 9, STREAM, (uint64_t)d);
            for (int i = 0; i < count; i++)
                at[i] = (int)permutation_at(&p, (uint64_t)i);
            for (int i = 0; i < count; i++) {
                int smaller = 0;
                for (int j = i + 1; j < count; j++)
                    smaller += at[j] < at[i];
                code = code * (count - i) + smaller;
            }
            seen[code]++;
        }
        check_even("orders", count, chi_square(seen, orders, (double)DRAWS / orders), orders - 1);
    }
}

/* What stands at a place, and what stands beside it, `gap` further on: every pair about as often. */
static void check_pairs(int count, int gap)
{
    enum { DRAWS = 10000, MOST = 40 };
    static int places[MOST * MOST], pairs[MOST * MOST];
    int cells = 0;
    assert_true(count <= MOST);
    memset(places, 0, sizeof places);
    memset(pairs, 0, sizeof pairs);
    for (int d = 0; d < DRAWS; d++) {
        Permutation p;
        permutation_make(&p, (uint64_t)count, 77, STREAM, (uint64_t)d);
        for (int i = 0; i < count; i++) {
            int at = (int)permutation_at(&p, (uint64_t)i);
            int beside = (int)permutation_at(&p, (uint64_t)((i + gap) % count));
            places[i * count + at]++;
            pairs[at * (count - 1) + beside - (beside > at)]++;
        }
    }
    cells = count * (count - 1);
    check_even("pairs", count, chi_square(pairs, cells, (double)DRAWS / (count - 1)), cells - 1);
    double freedom = (double)(count - 1) * (count - 1); /* rows and columns of the table are given */
    double chi = chi_square(places, count * count, (double)DRAWS / count) * (count - 1) / count;
    check_even("places", count, chi, freedom);
}

static void test_places_and_pairs(void **state)
{
    (void)state;
    static const int counts[] = {3, 4, 8, 9, 16, 23, 25, 37};
    for (size_t i = 0; i < COUNT(counts); i++)
        for (int gap = 1; gap < counts[i] && gap <= 7; gap += 5)
            check_pairs(counts[i], gap);
}

/* Of very many: in which sixteenth neighbours stand, and the last four bits of them. */
static void test_neighbours_of_very_many(void **state)
{
    (void)state;
    enum { DRAWS = 300000 };
    static const uint64_t counts[] = {5000, 1000003, 2147483647u, 50000000000u};
    for (size_t c = 0; c < COUNT(counts); c++) {
        static int high[256], low[256];
        memset(high, 0, sizeof high);
        memset(low, 0, sizeof low);
        uint64_t count = counts[c] / 16 * 16, place = 0, epoch = 0;
        Permutation p;
        permutation_make(&p, count, 5, STREAM, epoch);
        for (int d = 0; d < DRAWS; d++) {
            uint64_t a = permutation_at(&p, place), b = permutation_at(&p, place + 1);
            high[a / (count / 16) * 16 + b / (count / 16)]++;
            low[a % 16 * 16 + b % 16]++;
            place += 2;
            if (place + 2 > count) {
                permutation_make(&p, count, 5, STREAM, ++epoch);
                place = 0;
            }
        }
        check_even("sixteenths", (int)counts[c], chi_square(high, 256, DRAWS / 256.0), 255);
        check_even("last bits", (int)counts[c], chi_square(low, 256, DRAWS / 256.0), 255);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_once),
        cmocka_unit_test(test_each_once_of_very_many),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_all_orders),
        cmocka_unit_test(test_places_and_pairs),
        cmocka_unit_test(test_neighbours_of_very_many),
    };
    return cmocka_run_group_tests_name("permutation", tests, NULL, NULL);
}
