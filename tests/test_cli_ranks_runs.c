/* Several ranks in the command, where MPI is: trainings over it, their files, and how they fail. */
#include <math.h>
#include <signal.h>

#include "cli_mpi.h"
#include "cuda_support.h"

static int begin(void **state)
{
    return begin_over_mpi("trainings of the command", state);
}

#define SMALL                                                                                                \
    "--model", in_folder("llama.json"), "--data", in_folder("text"), "--seq", "16", "--batch", "2",          \
        "--steps", "4", "--threads", "1", "--max-samples", "40"

static double loss_of(const json_t *run, const char *which)
{
    return real_at(run, which);
}

/* Starts itself, two ranks; and one process that takes as many micro-batches in a step. */
static void ranks_train_what_one_process_trains(void **state)
{
    (void)state;
    NEEDS_MPI();
    static const char *const strategies[] = {"ddp", "zero1", "zero3"};
    json_t *alone = parse(expect_code(RUN("train", SMALL, "--accumulate", "2", "--json"), 0)->out),
           *first = NULL;
    for (size_t i = 0; i < COUNT(strategies); i++) {
        Outcome *o = RUN("train", SMALL, "--ranks", "2", "--parallel", strategies[i], "--json");
        json_t *run = parse(expect_code(o, 0)->out);
        json_t *memory = json_object_get(run, "memory"), *ranks = json_object_get(run, "ranks");
        check_memory(memory, 1, 1);
        assert_same_memory(memory, json_object_get(memory, "planned"));
        json_t *plan = parse(
            expect_code(RUN("plan", SMALL, "--ranks", "2", "--parallel", strategies[i], "--json"), 0)->out);
        assert_same_memory(json_object_get(plan, "memory"), json_object_get(memory, "planned"));
        json_decref(plan);
        assert_int_equal(json_array_size(json_object_get(ranks, "distinct")), 1);
        const json_t *one = json_array_get(json_object_get(ranks, "distinct"), 0);
        assert_int_equal(json_array_size(json_object_get(one, "ranks")), 2);
        assert_same_memory(json_object_get(one, "memory"), memory);
        assert_int_equal(integer_at(run, "steps"), 4);
        first = first ? first : json_incref(run);
        for (int k = 0; k < 2; k++) {
            const char *which = k ? "loss_last" : "loss_first";
            double loss = loss_of(run, which), expected = loss_of(alone, which);
            assert_true(loss ==
                        loss_of(first, which)); /* one micro-batch a rank: the order of sums is the same */
            assert_true(fabs(loss - expected) <= 1e-6 * expected);
        }
        assert_true(fabs(real_at(json_object_get(run, "validation"), "loss") -
                         real_at(json_object_get(alone, "validation"), "loss")) < 1e-5);
        json_decref(run);
    }
    json_decref(first);
    json_decref(alone);
}

/* Two stages: the losses of one process with the same micro-batches, to the last digit; each rank's plan is
 * its run. */
static void stages_train_what_one_process_trains(void **state)
{
    (void)state;
    NEEDS_MPI();
    json_t *alone = parse(expect_code(RUN("train", SMALL, "--accumulate", "3", "--json"), 0)->out);
    for (int i = 0; i < RANK_SCHEDULE_COUNT; i++) {
        const char *schedule = ranks_schedule_name((RankSchedule)i);
        Outcome *o = RUN("train", SMALL, "--accumulate", "3", "--ranks", "2", "--stages", "2", "--pipeline",
                         schedule, "--json");
        json_t *run = parse(expect_code(o, 0)->out);
        const json_t *ranks = json_object_get(run, "ranks"), *distinct = json_object_get(ranks, "distinct");
        assert_keys(ranks, "size tensor strategy sent_bytes_per_step distinct stages schedule");
        assert_string_equal(json_string_value(json_object_get(ranks, "schedule")), schedule);
        assert_int_equal(json_array_size(distinct), 2);
        for (size_t r = 0; r < 2; r++) {
            const json_t *memory = json_object_get(json_array_get(distinct, r), "memory");
            assert_same_memory(memory, json_object_get(memory, "planned"));
        }
        assert_true(loss_of(run, "loss_first") == loss_of(alone, "loss_first"));
        assert_true(loss_of(run, "loss_last") == loss_of(alone, "loss_last"));
        assert_true(real_at(json_object_get(run, "validation"), "loss") ==
                    real_at(json_object_get(alone, "validation"), "loss"));
        json_decref(run);
    }
    json_decref(alone);
}

/* Two ranks that compute each layer together, two such pairs, and two that divide the rows between too. */
static void ranks_that_compute_layers_together_train_the_same(void **state)
{
    (void)state;
    NEEDS_MPI();
    for (int way = 1; way <= 3; way++) {
        int data = way == 2 ? 2 : 1;
        json_t *alone =
            parse(expect_code(RUN("train", SMALL, "--accumulate", data > 1 ? "2" : "1", "--json"), 0)->out);
        Outcome *o = RUN("train", SMALL, "--ranks", data > 1 ? "4" : "2", "--tensor", "2", "--parallel",
                         data > 1 ? "zero3" : "ddp", "--json", way == 3 ? "--sequence-parallel" : NULL);
        json_t *run = parse(expect_code(o, 0)->out);
        json_t *memory = json_object_get(run, "memory");
        assert_same_memory(memory, json_object_get(memory, "planned"));
        assert_int_equal(json_array_size(json_object_get(json_object_get(run, "ranks"), "distinct")), 1);
        for (int k = 0; k < 2; k++) {
            const char *which = k ? "loss_last" : "loss_first";
            assert_true(fabs(loss_of(run, which) - loss_of(alone, which)) <= 1e-6 * loss_of(alone, which));
        }
        json_decref(run);
        json_decref(alone);
    }
}

/* On made-up cards, one each: by NCCL where its plugin is, and through the host. */
static void ranks_train_on_cards(void **state)
{
    (void)state;
    NEEDS_MPI();
    char path[PLUGIN_PATH];
    int nccl = plugin_look_("libbrim-nccl.so", path);
    stand_in_environment();
    setenv("STAND_IN_CARDS", "2", 1);
    setenv("STAND_IN_CAPABILITY", "80", 1);
    json_t *cpu = parse(expect_code(RUN("train", SMALL, "--accumulate", "2", "--json"), 0)->out);
    for (int i = 0; i <= nccl; i++) {
        const char *transport = i ? "nccl" : "mpi";
        Outcome *o = RUN("train", SMALL, "--device", "cuda", "--ranks", "2", "--parallel", "zero3",
                         "--transport", transport, "--json");
        json_t *run = parse(expect_code(o, 0)->out);
        const json_t *memory = json_object_get(run, "memory"), *ranks = json_object_get(run, "ranks");
        assert_string_equal(json_string_value(json_object_get(ranks, "transport")), transport);
        assert_same_memory(memory, json_object_get(memory, "planned"));
        assert_true((integer_at(json_object_get(memory, "card"), "transport_bytes") > 0) == i);
        for (int k = 0; k < 2; k++) {
            const char *which = k ? "loss_last" : "loss_first";
            assert_true(fabs(loss_of(run, which) - loss_of(cpu, which)) < 1e-5);
        }
        json_decref(run);
    }
    json_decref(cpu);
    setenv("STAND_IN_CARDS", "1", 1);
    Outcome *o = RUN("train", SMALL, "--device", "cuda", "--ranks", "2", "--transport", "nccl");
    assert_true(o->code != 0);
    says(o, nccl ? "ranks 0 and 1 have the same card" : "libbrim-nccl.so is not there");
    says(o, "--transport mpi sends through the host's memory");
    unsetenv("STAND_IN_CARDS");
    unsetenv("STAND_IN_CAPABILITY");
}

static void only_rank_0_prints_and_writes(void **state)
{
    (void)state;
    NEEDS_MPI();
    Outcome *o = expect_code(RUN("train", SMALL, "--ranks", "2", "--every", "1", "--log",
                                 in_folder("run.jsonl"), "--save", in_folder("saved")),
                             0);
    assert_int_equal(lines_starting(o->out, "step    1"), 1);
    assert_int_equal(lines_starting(o->out, "every rank (0-1)"), 1);
    assert_int_equal(lines_starting(o->out, "Step 4 is saved"), 1);
    o = expect_code(RUN("report", in_folder("run.jsonl")), 0);
    o = expect_code(RUN("train", SMALL, "--steps", "6", "--ranks", "2", "--resume", in_folder("saved")), 0);
    says(o, "resumes after step 4");
}

static void same_files(const char *a, const char *b, const char *name)
{
    char command[1024];
    snprintf(command, sizeof command, "cmp %s/%s %s/%s", a, name, b, name);
    assert_int_equal(system(command), 0);
}

/* Files of ranks that have parts are those of ranks that have all, and any number of ranks goes on from them.
 */
static void files_do_not_know_the_ranks(void **state)
{
    (void)state;
    NEEDS_MPI();
    char parts[320], whole[320];
    expect_code(RUN("train", SMALL, "--ranks", "2", "--parallel", "ddp", "--accumulate", "2", "--save",
                    in_folder("whole"), "--export", in_folder("all")),
                0);
    expect_code(RUN("train", SMALL, "--ranks", "2", "--parallel", "zero1", "--accumulate", "2", "--save",
                    in_folder("parts"), "--export", in_folder("some")),
                0);
    snprintf(parts, sizeof parts, "%s/step-00000004", in_folder("parts"));
    snprintf(whole, sizeof whole, "%s/step-00000004", in_folder("whole"));
    same_files(parts, whole, "model.safetensors");
    same_files(parts, whole, "optimizer.safetensors");
    same_files(in_folder("all"), in_folder("some"), "model.safetensors");
    same_files(in_folder("all"), in_folder("some"), "config.json");
    Outcome *o = expect_code(RUN("train", SMALL, "--steps", "5", "--ranks", "4", "--parallel", "zero3",
                                 "--resume", in_folder("parts"), "--save", in_folder("parts")),
                             0);
    says(o, "resumes after step 4");
    says(o, "Step 5 is saved");
    o = expect_code(RUN("train", SMALL, "--steps", "6", "--accumulate", "4", "--resume", in_folder("parts")),
                    0);
    says(o, "resumes after step 5");
    o = expect_code(RUN("train", SMALL, "--steps", "6", "--accumulate", "2", "--resume", in_folder("parts")),
                    1);
    assert_non_null(strstr(o->err, "accumulate is 2, was 4"));
    expect_code(RUN("train", "--init", in_folder("some"), "--data", in_folder("text"), "--seq", "16",
                    "--batch", "2", "--steps", "1", "--lr", "0", "--threads", "1", "--max-samples", "40",
                    "--ranks", "4", "--tensor", "2", "--stages", "2", "--export", in_folder("again")),
                0);
    same_files(in_folder("again"), in_folder("some"), "model.safetensors");
    static const char *const strategies[] = {"zero2", "zero3"};
    for (int i = 0; i < 2; i++)
        expect_code(RUN("train", SMALL, "--steps", "2", "--ranks", "2", "--parallel", strategies[i], "--lora",
                        "r=2", "--merge", "--export", in_folder(strategies[i])),
                    0);
    same_files(in_folder("zero2"), in_folder("zero3"), "model.safetensors");
}

/* Everyone is gone soon, with a status that is not 0, and one sentence says why: `not` is in no line. */
static void gone(const Outcome *o, const char *sentence, const char * not )
{
    says(o, sentence);
    assert_int_not_equal(o->code, 0);
    assert_true(shell_seconds < 30);
    if (not &&strstr(o->out, not ))
        fail_msg("'%s' is in: %s", not, o->out);
}

static const char *small_line(void)
{
    static char text[768];
    snprintf(text, sizeof text,
             "%s train --model %s --data %s --seq 16 --batch 2 --steps 4 --threads 1 --max-samples 40",
             command_path(), in_folder("llama.json"), in_folder("text"));
    return text;
}

static void another_size_than_the_launchers_is_refused(void **state)
{
    (void)state;
    NEEDS_MPI();
    gone(shell("timeout 60 %s -n 2 %s --ranks 3 2>&1", launcher, small_line()), "3 ranks are expected", NULL);
    gone(shell("timeout 60 %s -n 2 %s 2>&1", launcher, small_line()), "--ranks 2 trains with all of them",
         "rank 1: ");
    gone(shell("timeout 60 %s -n 2 %s --batch none 2>&1", launcher, small_line()), "brim: --batch ",
         "rank 1: ");
    gone(shell("timeout 60 %s -n 2 %s --data /not/there 2>&1", launcher, small_line()), "brim: ", "rank 1: ");
    Outcome *o =
        shell("timeout 60 %s -n 2 %s --ranks 1 2>&1", launcher, small_line()); /* trainings of their own */
    assert_int_equal(o->code, 0);
    assert_int_equal(lines_starting(o->out, "4 steps, "), 2);
}

/* examples/ranks.c, where it is built beside the command: one process without mpirun, ranks with it. */
static void the_example_trains(void **state)
{
    (void)state;
    char example[512];
    int folder_length = (int)(strrchr(command_path(), '/') - command_path());
    snprintf(example, sizeof example, "%.*s/examples/ranks", folder_length, command_path());
    if (access(example, X_OK) != 0)
        skip();
    Outcome *o = shell("OMP_NUM_THREADS=1 %s ddp 3 2>&1", example);
    assert_int_equal(o->code, 0);
    says(o, "3 steps, ");
    assert_int_not_equal(shell("%s zero9 3 2>&1", example)->code, 0);
    NEEDS_MPI();
    o = shell("timeout 60 %s -n 2 %s zero3 3 2>&1", launcher, example);
    assert_int_equal(o->code, 0);
    assert_int_equal(lines_starting(o->out, "3 steps, "), 1);
    says(o, "gathered");
}

/* Ranks with other options: a plan that differs, and an error of one rank alone. */
static void what_differs_on_a_rank_ends_all(void **state)
{
    (void)state;
    NEEDS_MPI();
    char other[1024];
    snprintf(other, sizeof other, "%s", small_line());
    gone(shell("timeout 60 %s -n 1 %s --ranks 2 : -n 1 %s --ranks 2 --accumulate 2 2>&1", launcher, other,
               other),
         "the plans of the ranks differ: rank 1 needs", "rank 1: the plans");
    gone(shell("timeout 60 %s -n 1 %s --ranks 2 : -n 1 %s --ranks 2 --parallel zero2 2>&1", launcher, other,
               other),
         "rank 1 is to train with zero2, not with ddp", "rank 1: the plans");
    gone(shell("timeout 60 %s -n 1 %s --ranks 2 : -n 1 %s --ranks 2 --budget 64KiB 2>&1", launcher, other,
               other),
         "rank 1: needs ", NULL);
    /* Its weights are no numbers after the first step. */
    gone(shell("timeout 60 %s -n 1 %s --ranks 2 : -n 1 %s --ranks 2 --lr 1e38 --clip 0 2>&1", launcher, other,
               other),
         "rank 1: ", "brim: another rank");
}

/* A signal that one rank gets: all of them finish the same step, and it is saved. */
static void a_signal_to_one_rank_stops_all_behind_a_step(void **state)
{
    (void)state;
    NEEDS_MPI();
    char run[512], line[1536];
    snprintf(run, sizeof run, "%s", in_folder("stopped"));
    snprintf(line, sizeof line, "%s --ranks 2 --parallel zero3 --steps 1000000 --save %s --save-every 3",
             small_line(), run);
    Outcome *o =
        shell("timeout 60 %s -n 1 %s : -n 1 sh -c '(for i in $(seq 500); do test -e %s/step-* && break; "
              "sleep 0.05; done; kill -TERM $$) & exec %s' 2>&1",
              launcher, line, run, line);
    assert_int_equal(o->code, 128 + SIGTERM);
    says(o, "brim: stopping after this step: a rank was asked to by a signal");
    says(o, "Stopped by SIGTERM.");
    says(o, "is saved in");
    o = shell("timeout 60 %s -n 2 %s --resume %s --steps 1 2>&1", launcher, line, run);
    says(o, "resumes after step ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_train_what_one_process_trains),
        cmocka_unit_test(ranks_train_what_one_process_trains),
        cmocka_unit_test(ranks_that_compute_layers_together_train_the_same),
        cmocka_unit_test(ranks_train_on_cards),
        cmocka_unit_test(only_rank_0_prints_and_writes),
        cmocka_unit_test(files_do_not_know_the_ranks),
        cmocka_unit_test(another_size_than_the_launchers_is_refused),
        cmocka_unit_test(the_example_trains),
        cmocka_unit_test(what_differs_on_a_rank_ends_all),
        cmocka_unit_test(a_signal_to_one_rank_stops_all_behind_a_step),
    };
    return cmocka_run_group_tests_name("cli ranks runs", tests, begin, remove_folder);
}
