/* The command's --accumulate-apart, --replicas, --replicate-below and --reduce: what plans say, in integers
 * worked out by hand; what is refused; and, where MPI is, trainings whose files are one process's. */
#include "cli_mpi.h"

static json_int_t highest(const json_t *plan, const char *component)
{
    const json_t *all = json_object_get(json_object_get(plan, "memory"), "components");
    return integer_at(json_object_get(all, component), "peak");
}

static json_int_t sent(const json_t *plan)
{
    return integer_at(json_object_get(plan, "ranks"), "sent_bytes_per_step");
}

/* The largest parameter, 768 x 288, has two: that of the micro-batch, and their sum. */
static void a_micro_batch_has_a_gradient_of_its_own(void **state)
{
    (void)state;
    json_t *usual = parse(expect_code(RUN("plan", "llama-tiny", "--accumulate", "3", "--json"), 0)->out);
    json_t *apart = parse(
        expect_code(RUN("plan", "llama-tiny", "--accumulate", "3", "--accumulate-apart", "--json"), 0)->out);
    assert_int_equal(highest(usual, "gradient"), 4 * 6123168);
    assert_int_equal(highest(apart, "gradient"), 4 * (6123168 + 768 * 288));
    json_decref(usual);
    json_decref(apart);
    says(expect_code(RUN("plan", "--accumulate", "3", "--accumulate-apart"), 0), "added apart");
    says(expect_code(RUN("fit", "--accumulate", "3", "--accumulate-apart", "--card", "t4"), 0),
         "added apart");
}

/* mlp, 784-512-512-10, over 6 ranks: two replicas of the three whose parts tests/test_cli_ranks.c works out.
 * In a step a part's sum goes from one replica to the other and back, (2 - 1) * 2 / 2 times its bytes; what
 * is whole is summed by six, and six agree. */
static void replicas_hold_what_one_of_them_would_alone(void **state)
{
    (void)state;
    enum { PART = 4 * 223264, OF_THREE = 2 * 2 * 64 + 2 * 64, OF_SIX = 2 * 5 * 64 + 5 * 64 };
    static const char *const strategies[] = {"zero1", "zero2", "zero3"};
    for (size_t i = 0; i < COUNT(strategies); i++) {
        json_t *three = parse(
            expect_code(RUN("plan", "mlp", "--ranks", "3", "--parallel", strategies[i], "--json"), 0)->out);
        json_t *six = parse(expect_code(RUN("plan", "mlp", "--ranks", "6", "--replicas", "2", "--parallel",
                                            strategies[i], "--json"),
                                        0)
                                ->out);
        static const char *const components[] = {"parameter", "gradient", "optimizer", "gathered"};
        for (size_t c = 0; c < COUNT(components); c++)
            assert_int_equal(highest(six, components[c]), highest(three, components[c]));
        assert_int_equal(sent(six), sent(three) - OF_THREE + OF_SIX + PART);
        assert_int_equal(integer_at(json_object_get(six, "ranks"), "replicas"), 2);
        json_decref(three);
        json_decref(six);
    }
    Outcome *o =
        expect_code(RUN("plan", "llama-tiny", "--ranks", "8", "--replicas", "2", "--parallel", "zero3"), 0);
    says(o, "x 8 ranks  zero3  2 replicas");
    says(o, "trained 4/4 + 4/4 + 8/4 = 4 bytes x 6,123,168 a rank");
    says(o, "among the 4 ranks of each of 2 replicas");
}

/* Of llama-tiny 13 norms of 288 are below 1000 elements; weights are whole, and states are not. */
static void small_weights_stay_whole(void **state)
{
    (void)state;
    json_t *none = parse(
        expect_code(RUN("plan", "llama-tiny", "--ranks", "3", "--parallel", "zero3", "--json"), 0)->out);
    json_t *some = parse(expect_code(RUN("plan", "llama-tiny", "--ranks", "3", "--parallel", "zero3",
                                         "--replicate-below", "1000", "--json"),
                                     0)
                             ->out);
    /* 288 are three parts of 96: in forward and backward two gathers become one behind the update. */
    assert_int_equal(highest(some, "parameter") - highest(none, "parameter"), 13 * 4 * (288 - 96));
    assert_int_equal(highest(some, "optimizer"), highest(none, "optimizer"));
    assert_int_equal(sent(none) - sent(some), 13 * 2 * 4 * 96);
    json_decref(none);
    json_decref(some);
    Outcome *o = expect_code(
        RUN("plan", "llama-tiny", "--ranks", "3", "--parallel", "zero3", "--replicate-below", "1000"), 0);
    says(o, "Weights below 1000 elements a tensor are whole on every rank: 3,744 parameters.");
    says(expect_code(RUN("plan", "--ranks", "2", "--reduce", "library"), 0), "library sums");
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    static const Refusal all[] = {
        {{"plan", "--accumulate-apart"}, "--accumulate-apart needs --accumulate N"},
        {{"plan", "--accumulate", "2", "--accumulate-apart", "--ranks", "2"},
         "--accumulate-apart excludes --parallel ddp"},
        {{"plan", "--accumulate", "2", "--accumulate-apart", "--ranks", "2", "--stages", "2"},
         "--accumulate-apart excludes --stages 2"},
        {{"plan", "--replicas", "2"}, "--replicas 2 needs --ranks N"},
        {{"plan", "--ranks", "4", "--replicas", "2"}, "--replicas 2 means nothing with --parallel ddp"},
        {{"plan", "--ranks", "6", "--replicas", "4", "--parallel", "zero2"},
         "--replicas 4 does not divide the 6 ranks that share the data"},
        {{"plan", "--ranks", "6", "--replicas", "6", "--parallel", "zero2"}, "that is --parallel ddp"},
        {{"plan", "--ranks", "8", "--tensor", "4", "--replicas", "2", "--parallel", "zero2"},
         "that is --parallel ddp"},
        {{"plan", "--replicate-below", "5"}, "--replicate-below 5 needs --ranks N"},
        {{"plan", "--ranks", "4", "--replicate-below", "5", "--parallel", "zero2"},
         "--replicate-below 5 means nothing without --parallel zero3"},
        {{"plan", "--reduce", "library"}, "--reduce library needs --ranks N"},
        {{"plan", "--ranks", "2", "--reduce", "tree"}, "--reduce must be ordered or library, not 'tree'"},
    };
    are_refused(2, all, COUNT(all));
}

/* ---- Over MPI ----------------------------------------------------------------------------------- */

static int begin(void **state)
{
    return begin_over_mpi("replicas, and sums apart", state);
}

#define SMALL                                                                                                \
    "--model", in_folder("llama.json"), "--data", in_folder("text"), "--seq", "16", "--batch", "2",          \
        "--steps", "2", "--threads", "1", "--max-samples", "40", "--clip", "0", "--evaluate-every", "9"

/* Everything of a saved run but the command line is the same. */
static void same_runs(const char *a, const char *b)
{
    char command[2048];
    snprintf(command, sizeof command,
             "cd %s && cmp %s/step-00000002/model.safetensors %s/step-00000002/model.safetensors && "
             "cmp %s/step-00000002/optimizer.safetensors %s/step-00000002/optimizer.safetensors",
             folder, a, b, a, b);
    assert_int_equal(system(command), 0);
    json_t *states[2];
    for (int i = 0; i < 2; i++) {
        snprintf(command, sizeof command, "%s/%s/step-00000002/state.json", folder, i ? b : a);
        states[i] = json_load_file(command, 0, NULL);
        assert_non_null(states[i]);
        json_object_del(states[i], "crc32"); /* of the rest, the command line included */
        json_object_del(json_object_get(states[i], "saved_run"), "command");
    }
    if (!json_equal(states[0], states[1]))
        fail_msg("%s and %s: %s\n%s", a, b, json_dumps(states[0], 0), json_dumps(states[1], 0));
    json_decref(states[0]);
    json_decref(states[1]);
}

static void one_process_apart_writes_the_files_of_two_ranks(void **state)
{
    (void)state;
    NEEDS_MPI();
    expect_code(RUN("train", SMALL, "--accumulate", "2", "--accumulate-apart", "--save", in_folder("one")),
                0);
    expect_code(RUN("train", SMALL, "--ranks", "2", "--save", in_folder("ddp")), 0);
    same_runs("one", "ddp");
    expect_code(
        RUN("train", SMALL, "--ranks", "2", "--parallel", "zero3", "--save", in_folder("zero3"), "--quiet"),
        0);
    same_runs("one", "zero3");
}

static void replicas_write_the_files_of_one_process(void **state)
{
    (void)state;
    NEEDS_MPI();
    expect_code(RUN("train", SMALL, "--accumulate", "4", "--accumulate-apart", "--save", in_folder("four")),
                0);
    Outcome *o = expect_code(RUN("train", SMALL, "--ranks", "4", "--replicas", "2", "--parallel", "zero3",
                                 "--replicate-below", "100", "--save", in_folder("replicas")),
                             0);
    says(o, "every rank (0-3)");
    says(o, "among the 2 ranks of each of 2 replicas");
    same_runs("four", "replicas");
    o = expect_code(RUN("train", SMALL, "--ranks", "4", "--replicas", "2", "--parallel", "zero2", "--reduce",
                        "library", "--steps", "3", "--resume", in_folder("replicas")),
                    0);
    says(o, "resumes after step 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_micro_batch_has_a_gradient_of_its_own),
        cmocka_unit_test(replicas_hold_what_one_of_them_would_alone),
        cmocka_unit_test(small_weights_stay_whole),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(one_process_apart_writes_the_files_of_two_ranks),
        cmocka_unit_test(replicas_write_the_files_of_one_process),
    };
    return cmocka_run_group_tests_name("groups of ranks in the command", tests, begin, remove_folder);
}
