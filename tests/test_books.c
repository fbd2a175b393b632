/* The books balance: what the operating system counts for a run beyond what brim reserved is small and
 * bounded. The fast form takes some hundred MiB; BRIM_FULL=1 takes several GiB. */
#include "cli_support.h"

#define MIB (INT64_C(1) << 20)

static json_t *memory_of(const char **arguments)
{
    json_t *root = parse(expect_code(run_command(arguments), 0)->out);
    json_t *memory = json_incref(json_object_get(root, "memory"));
    json_decref(root);
    check_memory(memory, 1, 1);
    assert_same_memory(memory, json_object_get(memory, "planned"));
    return memory;
}

/* The unaccounted bytes are below 3 % of the process + 40 MiB, and reserved pages were touched, so they are
 * not negative either. */
static void check_books(json_int_t least_needs, json_t *memory)
{
    const json_t *process = json_object_get(memory, "process");
    json_int_t needs = integer_at(memory, "needs_bytes"), peak = integer_at(process, "peak_bytes");
    json_int_t unaccounted = integer_at(process, "unaccounted_bytes");
    assert_true(needs >= least_needs);
    assert_true(peak > needs);
    if (unaccounted >= peak * 3 / 100 + 40 * MIB || unaccounted < 0)
        fail_msg("%lld MiB of %lld are unaccounted; %lld are needed", (long long)(unaccounted / MIB),
                 (long long)(peak / MIB), (long long)(needs / MIB));
    json_decref(memory);
}

#define BOOKS(mib, ...)                                                                                      \
    check_books(mib *MIB, memory_of((const char *[]){"brim", "train", "--json", __VA_ARGS__, NULL}))

static void hundreds_of_mib(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* its shadow of the memory is four times as large as that */
#endif
    const char *text = make_text("text", 33 * 128 + 1); /* one sequence is held out: validation is short */
    BOOKS(300, "--model", "gpt2-tiny", "--data", text, "--threads", "1", "--steps", "1", "--batch", "32");
    BOOKS(300, "--model", "llama-tiny", "--data", text, "--threads", "2", "--steps", "1", "--batch", "20",
          "--attention", "eager");
}

static void several_gib(void **state)
{
    (void)state;
    if (!full_form())
        skip();
    const char *text = make_text("text", 9 * 512 + 1);
    BOOKS(3000, "--model", "gpt2", "--data", text, "--steps", "2", "--batch", "8", "--seq", "512");
    BOOKS(2500, "--model", "bench-llama-small", "--data", text, "--steps", "2", "--batch", "4", "--seq",
          "512");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hundreds_of_mib),
        cmocka_unit_test(several_gib),
    };
    return cmocka_run_group_tests_name("books", tests, make_folder, remove_folder);
}
