/* The nearest names: which slips are forgiven, in which order, and what is too far. */
#include "support.h"

#include "../base/nearest_.h"

static const char *const list[] = {"train",   "plan",        "compare",
                                   "fit",     "generate",    "models",
                                   "gpt2",    "--optimizer", "--optimizer-in-backward",
                                   "a100-40", "a100-80",     NULL};

static const char *at(int i, const void *user)
{
    return ((const char *const *)user)[i];
}

static void test_distances(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        int distance;
    } pairs[] = {
        {"", "", 0},          {"", "abc", 3},        {"plan", "plan", 0},           {"plan", "plna", 1},
        {"plan", "plans", 1}, {"plan", "pan", 1},    {"plan", "clan", 1},           {"kitten", "sitting", 3},
        {"ca", "abc", 3},     {"model", "modle", 1}, {"optimiser", "optimizer", 1}, {"ab", "ba", 1},
    };
    for (size_t i = 0; i < COUNT(pairs); i++) {
        assert_int_equal(name_distance(pairs[i].a, pairs[i].b), pairs[i].distance);
        assert_int_equal(name_distance(pairs[i].b, pairs[i].a), pairs[i].distance);
    }
    char longer[3 * NAME_KEY];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(name_distance(longer, ""), NAME_KEY);
    assert_int_equal(name_distance("", longer), NAME_KEY);
    assert_int_equal(name_distance(longer, longer), 0);
    assert_int_equal(strlen(name_key(longer).text), NAME_KEY - 1);
}

static void test_order_of_rules(void **state)
{
    (void)state;
    static const struct {
        const char *typed, *text;
    } rows[] = {
        {"plna", "; nearest: plan"},
        {"PLAN", "; nearest: plan"},
        {"trian", "; nearest: train"},
        {"gen", "; nearest: generate"},          /* a beginning */
        {"plan-it", "; nearest: plan"},          /* a beginning of it */
        {"a100", "; nearest: a100-40, a100-80"}, /* of two */
        {"--optim", "; nearest: --optimizer, --optimizer-in-backward"},
        {"--optimiser", "; nearest: --optimizer"}, /* a letter */
        {"--optimizer-in-forward", "; nearest: --optimizer"},
        {"--optimizer-backward", "; nearest: --optimizer"},
        {"compression", "; nearest: compare"}, /* the same four letters */
        {"xyz", ""},
        {"", ""},
        {"--", ""},
    };
    const NameList names = {.at = at, .user = list};
    for (size_t i = 0; i < COUNT(rows); i++)
        if (strcmp(nearest_text(rows[i].typed, &names, "").text, rows[i].text))
            fail_msg("'%s': '%s'", rows[i].typed, nearest_text(rows[i].typed, &names, "").text);
    assert_string_equal(nearest_text("plna", &names, "brim ").text, "; nearest: brim plan");
}

/* Never more than fit. */
static void test_many_and_long(void **state)
{
    (void)state;
    static char longer[NAME_KEY * 2];
    memset(longer, 'x', sizeof longer - 1);
    const char *const many[] = {longer, longer, longer, longer, longer, NULL};
    const NameList names = {.at = at, .user = many};
    assert_int_equal(nearest_names("xx", &names).count, NEAREST_MOST);
    NearestText text = nearest_text(longer, &names, "brim ");
    assert_true(strlen(text.text) < sizeof text.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_distances),
                                       cmocka_unit_test(test_order_of_rules),
                                       cmocka_unit_test(test_many_and_long)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
