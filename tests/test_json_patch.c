/* Fields of a JSON text that change while the rest stays as it stands, and whole numbers of any length. */
#include <math.h>

#include "../io/io_.h"
#include "support.h"

static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        fail_msg("%s: %s", text, error.text);
    return root;
}

/* What becomes of the text, with ' for ". */
static void patched_without(const char *text, const char *set, const char *without, const char *expected)
{
    char in[512], with[512], out[512];
    snprintf(in, sizeof in, "%s", text);
    snprintf(with, sizeof with, "%s", set);
    snprintf(out, sizeof out, "%s", expected);
    for (int i = 0; i < 512; i++) {
        in[i] = in[i] == '\'' ? '"' : in[i];
        with[i] = with[i] == '\'' ? '"' : with[i];
        out[i] = out[i] == '\'' ? '"' : out[i];
    }
    json_t *root = parse(in), *changes = parse(with);
    JsonText made;
    assert_int_equal(json_patch(in, root, changes, without, &made), 0);
    assert_string_equal(made.text, out);
    assert_int_equal(made.bytes, strlen(out));
    json_text_free(&made);
    json_decref(changes);
    json_decref(root);
}

static void patched(const char *text, const char *set, const char *expected)
{
    patched_without(text, set, NULL, expected);
}

static void test_fields_that_go(void **state)
{
    (void)state;
    patched_without("{'a': 1, 'b': {'a': 2}, 'c': 3}", "{}", "b", "{'a': 1, 'c': 3}");
    patched_without("{'a': 1, 'b': {'a': 2}, 'c': 3}", "{'d': 4}", "c", "{'a': 1, 'b': {'a': 2}, 'd': 4}");
    patched_without("{'a': 1, 'b': 2}", "{'b': 5}", "a", "{ 'b': 5}");
    patched_without("{\n  'a': 1,\n  'b': 2\n}", "{}", "a", "{\n  'b': 2\n}");
    patched_without("{'a': 1}", "{}", "a", "{}");
    patched_without("{'a': 1}", "{'b': 2}", "a", "{'b': 2}");
    patched_without("{'a': 1}", "{'b': 2}", "c", "{'a': 1,'b': 2}");
}

static void test_by_hand(void **state)
{
    (void)state;
    patched("{}", "{}", "{}");
    patched("{}", "{'a':1}", "{'a': 1}");
    patched(" { } \n", "{'a':1,'b':[2]}", " {'a': 1,'b': [2] } \n");
    patched("{'a':1}", "{'a':2}", "{'a':2}");
    patched("{\n  'a': 1,\n  'b': 1e-05\n}\n", "{'a': null, 'c': {'x': 'y'}}",
            "{\n  'a': null,\n  'b': 1e-05,\n  'c': {'x': 'y'}\n}\n");
    /* Names, quotes and brackets inside values are not fields. */
    patched("{'x':{'a':1,'y':[{'a':2},'}']},'a':'\\\\\\'','b':'{\\'a\\':1}'}", "{'a':true}",
            "{'x':{'a':1,'y':[{'a':2},'}']},'a':true,'b':'{\\'a\\':1}'}");
    patched("{'\\u0061' : 1 , 'b' : [ ] }", "{'a':7,'b':8}", "{'\\u0061' : 7 , 'b' : 8 }");
    patched("{'big': 123456789012345678901234567890.5, 'e': 1E+2, 'z': -0.0}", "{'n': 1}",
            "{'big': 123456789012345678901234567890.5, 'e': 1E+2, 'z': -0.0, 'n': 1}");
}

/* ---- At random ------------------------------------------------------------------------------- */

static uint64_t draw_state = 7;

static int draw(int most)
{
    draw_state = draw_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((draw_state >> 33) % (uint64_t)most);
}

static int odd_names; /* those that are added need no escapes */

static json_t *draw_value(int depth)
{
    static const char *const texts[] = {"", "a", "\"", "\\", "}{][,:", "é\n\t", "null"};
    json_t *value;
    switch (draw(depth > 3 ? 5 : 7)) {
    case 0:
        return json_integer(draw(1000) - 500);
    case 1:
        return json_real(draw(1000) / 8.0);
    case 2:
        return json_string(texts[draw(7)]);
    case 3:
        return json_null();
    case 4:
        return json_boolean(draw(2));
    case 5:
        value = json_array();
        for (int i = draw(4); i > 0; i--)
            json_array_append_new(value, draw_value(depth + 1));
        return value;
    }
    value = json_object();
    for (int i = draw(5); i > 0; i--) {
        char name[8] = {(char)('a' + draw(6)), odd_names && !draw(9) ? '"' : 0};
        json_object_set_new(value, name, draw_value(depth + 1));
    }
    return value;
}

static json_t *draw_object(void)
{
    json_t *value = draw_value(0);
    while (!json_is_object(value)) {
        json_decref(value);
        value = draw_value(0);
    }
    return value;
}

static void test_at_random(void **state)
{
    (void)state;
    for (int round = 0; round < 3000; round++) {
        odd_names = 1;
        json_t *root = draw_object();
        odd_names = 0;
        json_t *set = draw_object();
        size_t flags = draw(2) ? JSON_INDENT((size_t)draw(4)) : JSON_COMPACT | JSON_ENSURE_ASCII;
        char *text = json_dumps(root, flags | JSON_ESCAPE_SLASH);
        JsonText made;
        assert_int_equal(json_patch(text, root, set, NULL, &made), 0);
        json_t *result = parse(made.text);
        json_object_update(root, set);
        if (!json_equal(root, result))
            fail_msg("%s became %s", text, made.text);
        json_text_free(&made);
        json_decref(result);
        json_decref(root);
        json_decref(set);
        free(text);
    }
}

/* ---- Whole numbers --------------------------------------------------------------------------- */

static void test_whole_numbers(void **state)
{
    (void)state;
    static const char *const same[] = {"[9223372036854775807]",
                                       "[-9223372036854775807]",
                                       "[\"99999999999999999999\"]",
                                       "[\"\\\"99999999999999999999\"]",
                                       "[1000000000000000000000.5]",
                                       "[1e30]",
                                       "[0.99999999999999999999]",
                                       "[1.5e-99999999999999999999]",
                                       "{\"99999999999999999999\":1}",
                                       "99999999999999999999", /* cut: it may go on */
                                       "[\"",
                                       ""};
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        char text[64];
        strcpy(text, same[i]);
        json_shorten_integers(text, strlen(text));
        assert_string_equal(text, same[i]);
    }
    for (int digits = 19; digits < 300; digits++) {
        char text[1024] = "[", number[320];
        for (int i = 0; i < digits; i++)
            number[i] = (char)('0' + (i ? draw(10) : 9));
        number[digits] = '\0';
        double value = strtod(number, NULL);
        snprintf(text, sizeof text, "[1,%s%s, \"%s\"]", draw(2) ? "-" : "", number, number);
        size_t length = strlen(text);
        json_shorten_integers(text, length);
        assert_int_equal(strlen(text), length);
        json_t *root = parse(text);
        assert_float_equal(fabs(json_number_value(json_array_get(root, 1))) / value, 1, 1e-14);
        assert_string_equal(json_string_value(json_array_get(root, 2)), number);
        json_decref(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_by_hand, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_fields_that_go, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_at_random, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_whole_numbers, fresh_context, leave_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
