/* Cards by the names people use, and what is said of a name that is none. */
#include "../device/cards.h"
#include "support.h"

static void each_card_is_found_by_its_names(void **state)
{
    (void)state;
    for (int i = 0; device_card_at(i); i++) {
        const Card *card = device_card_at(i);
        assert_ptr_equal(device_card(card->name), card);
        assert_ptr_equal(device_card(card->title), card);
        assert_true(card->source[0]);
        assert_true(card->multiprocessors >= 28 && card->multiprocessors <= 304);
        assert_int_equal(card->capability == 0, strstr(card->title, "AMD") != NULL);
        assert_true(!card->capability || (card->capability >= 60 && card->capability <= 120));
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(card->name, device_card_at(j)->name);
            assert_true(card->bytes >= device_card_at(j)->bytes);
        }
    }
    assert_null(device_card_at(-1));
    assert_null(device_card_at(1000));
}

/* Of cards that every programmer of CUDA knows. */
static void capabilities_are_the_published_ones(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int capability, multiprocessors;
    } rows[] = {{"t4", 75, 40}, {"rtx-3090", 86, 82}, {"a100-80", 80, 108}, {"rtx-4090", 89, 128}, {"h100", 90, 132}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(device_card(rows[i].name)->capability, rows[i].capability);
        assert_int_equal(device_card(rows[i].name)->multiprocessors, rows[i].multiprocessors);
    }
}

static void names_are_forgiving(void **state)
{
    (void)state;
    static const struct {
        const char *said, *meant;
    } rows[] = {
        {"4090", "rtx-4090"},
        {"rtx4090", "rtx-4090"},
        {"RTX 4090", "rtx-4090"},
        {"GeForce RTX 4090", "rtx-4090"},
        {"NVIDIA GeForce RTX 4090", "rtx-4090"},
        {"4090-24GB", "rtx-4090"},
        {"rtx_3060 12 GB", "rtx-3060"},
        {"A100-80", "a100-80"},
        {"a100 40gb", "a100-40"},
        {"NVIDIA A100-SXM4-80GB", "a100-80"},
        {"A100-PCIE-40GB", "a100-40"},
        {"Tesla V100-SXM2-16GB", "v100-16"},
        {"Tesla T4", "t4"},
        {"NVIDIA H100 80GB HBM3", "h100"},
        {"H100-80", "h100"},
        {"a6000", "rtx-a6000"},
        {"6000 Ada", "rtx-6000-ada"},
        {"NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"},
        {"MI300X", "mi300x"},
        {"  l40s ", "l40s"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const Card *card = device_card(rows[i].said);
        if (!card || strcmp(card->name, rows[i].meant))
            fail_msg("'%s' is %s, not %s", rows[i].said, card ? card->name : "none", rows[i].meant);
    }
}

/* What would fit another card must not fit this one: sizes that differ are never guessed. */
static void what_is_no_card_is_none(void **state)
{
    (void)state;
    static const char *const names[] = {
        "",
        "a100",
        "V100",
        "4090 Laptop GPU",
        "H100 NVL",
        "rtx",
        "gb",
        "80GB",
        "rtx-3060 8GB",
        "4090x",
        "/etc",
        "\xff",
        "a name that is much longer than any name that a card of any maker ever had, or will",
    };
    for (size_t i = 0; i < COUNT(names); i++)
        if (device_card(names[i]))
            fail_msg("'%s' is %s", names[i], device_card(names[i])->name);
    assert_null(device_card(NULL));
}

static void the_nearest_are_named(void **state)
{
    (void)state;
    assert_string_equal(device_card_unknown("A100").text,
                        "no card is called 'A100'; nearest: a100-40, a100-80");
    assert_string_equal(device_card_unknown("rtx-4091").text,
                        "no card is called 'rtx-4091'; nearest: rtx-4090");
    assert_string_equal(device_card_unknown("5070").text,
                        "no card is called '5070'; nearest: rtx-4070, rtx-5080, rtx-5090");
    assert_string_equal(device_card_unknown("3090ti").text, "no card is called '3090ti'; nearest: rtx-3090");
    assert_string_equal(device_card_unknown("rtx4090ti").text,
                        "no card is called 'rtx4090ti'; nearest: rtx-4090");
    assert_string_equal(device_card_unknown("H100 NVL").text, "no card is called 'H100 NVL'; nearest: h100");
    assert_string_equal(device_card_unknown("quantum").text,
                        "no card is called 'quantum'; `brim gpus` lists them");
    assert_string_equal(device_card_unknown(NULL).text, "no card is called ''; `brim gpus` lists them");
    char text[500];
    memset(text, '4', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_non_null(strstr(device_card_unknown(text).text, "`brim gpus` lists them"));
}

/* Below what the box says in GiB, above nine tenths of it: a slip of the pen would be outside. */
static void sizes_are_what_drivers_report(void **state)
{
    (void)state;
    for (int i = 0; device_card_at(i); i++) {
        const Card *card = device_card_at(i);
        double box = atof(strrchr(card->title, ' ')), has = (double)card->bytes / 0x1p30;
        if (!(box > 0) || has >= box || has < 0.89 * box)
            fail_msg("%s has %.2f GiB", card->title, has);
    }
    assert_int_equal(device_card("t4")->bytes, (uint64_t)(14.75 * 0x1p30));
    assert_int_equal(device_card("3090")->bytes, (uint64_t)(23.70 * 0x1p30));
    assert_int_equal(device_card("a100-40")->bytes, (uint64_t)(39.50 * 0x1p30));
    assert_int_equal(device_card("a100-80")->bytes, (uint64_t)(79.25 * 0x1p30));
    assert_int_equal(device_card("h100")->bytes, (uint64_t)(79.11 * 0x1p30));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_card_is_found_by_its_names), cmocka_unit_test(capabilities_are_the_published_ones), cmocka_unit_test(names_are_forgiving),
        cmocka_unit_test(what_is_no_card_is_none),         cmocka_unit_test(the_nearest_are_named),
        cmocka_unit_test(sizes_are_what_drivers_report),
    };
    return cmocka_run_group_tests_name("cards", tests, NULL, NULL);
}
