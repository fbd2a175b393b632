/* Several ranks in the command: what their plans say, in integers worked out by hand; what is refused; and,
 * where MPI is, trainings over it. */
#include <math.h>
#include <signal.h>
#include <time.h>

#include "cli_mpi.h"
#include "cuda_support.h"

/* ---- Plans: mlp, 784-512-512-10, over 3 ranks -------------------------------------------------- */

/* A part is a third, rounded up to whole 16 elements:
 *   784 x 512   401408  133808        512  512   176
 *   512 x 512   262144   87392        512  512   176
 *   512 x 10      5120    1712         10   10 of all: fewer than 48
 * Sums: 223264 elements a part, and the last bias, 40 bytes, which are charged 64. */
enum {
    PART = 4 * 223264,
    LAST = 64,
    WHOLE = 2678848, /* 669706 elements, each tensor rounded up to 64 bytes */
    PADDED = 3 * PART + LAST,
    /* To each of two others: 64 bytes twice for the last bias, and 64 that ranks agree on. */
    REST = 2 * 2 * 64 + 2 * 64,
    SUMS = 4 * PART + REST /* a gradient's parts to the others, and what comes of them back */
};

typedef struct Expected {
    const char *strategy;
    json_int_t parameters, states, gathered, sent; /* the highest each; and what is sent a step */
    json_int_t rank[3]; /* bytes of weights, gradients and states without rounding */
} Expected;

static const Expected by_hand[] = {
    {"ddp", WHOLE, 2 * WHOLE, 0, SUMS, {4 * 669706, 4 * 669706, 8 * 669706}},
    {"zero1", PADDED, 2 * (PART + LAST), 0, SUMS, {3 * PART + 40, 4 * 669706, 2 * (PART + 40)}},
    {"zero2", PADDED, 2 * (PART + LAST), 0, SUMS, {3 * PART + 40, PART + 40, 2 * (PART + 40)}},
    /* Gathered are a layer's weight and bias, the first's are the largest. Forward gathers all, backward the
     * weights of the second and third layer, and nothing after the update. */
    {"zero3",
     PART + LAST,
     2 * (PART + LAST),
     12 * (133808 + 176),
     SUMS + 8 * (87392 + 1712),
     {PART + 40, PART + 40, 2 * (PART + 40)}},
};

static json_int_t highest(const json_t *memory, const char *component)
{
    return integer_at(json_object_get(json_object_get(memory, "components"), component), "peak");
}

static void the_plan_of_each_strategy_is_worked_out_by_hand(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(by_hand); i++) {
        const Expected *e = &by_hand[i];
        Outcome *o = expect_code(RUN("plan", "mlp", "--ranks", "3", "--parallel", e->strategy, "--json"), 0);
        json_t *plan = parse(o->out);
        json_t *ranks = json_object_get(plan, "ranks"), *distinct = json_object_get(ranks, "distinct");
        const json_t *memory = json_object_get(plan, "memory");
        check_memory(memory, 0, 0);
        assert_keys(ranks, "size tensor strategy sent_bytes_per_step distinct");
        assert_int_equal(integer_at(ranks, "size"), 3);
        assert_string_equal(json_string_value(json_object_get(ranks, "strategy")), e->strategy);
        assert_int_equal(json_array_size(distinct), 1); /* all ranks are alike */
        const json_t *one = json_array_get(distinct, 0);
        assert_keys(one, "ranks memory");
        assert_int_equal(json_array_size(json_object_get(one, "ranks")), 3);
        assert_same_memory(json_object_get(one, "memory"), memory);
        assert_int_equal(highest(memory, "parameter"), e->parameters);
        assert_int_equal(highest(memory, "optimizer"), e->states);
        assert_int_equal(highest(memory, "gathered"), e->gathered);
        assert_int_equal(integer_at(ranks, "sent_bytes_per_step"), e->sent);
        const json_t *trained = json_object_get(json_object_get(plan, "bracket"), "trained");
        const json_t *rank = json_object_get(trained, "rank");
        assert_int_equal(integer_at(trained, "bytes"),
                         4 * 669706); /* of the whole model, however it is divided */
        assert_int_equal(integer_at(trained, "state_bytes"), 8 * 669706);
        assert_int_equal(integer_at(rank, "bytes"), e->rank[0]);
        assert_int_equal(integer_at(rank, "gradient_bytes"), e->rank[1]);
        assert_int_equal(integer_at(rank, "state_bytes"), e->rank[2]);
        json_decref(plan);
    }
}

static void says(const Outcome *o, const char *what)
{
    if (!strstr(o->out, what) && !strstr(o->err, what))
        fail_msg("'%s' is not in: %s%s", what, o->out, o->err);
}

static void a_plan_says_what_a_rank_has(void **state)
{
    (void)state;
    Outcome *o =
        expect_code(RUN("plan", "llama-tiny", "--ranks", "4", "--parallel", "fsdp", "--accumulate", "2"), 0);
    says(o, "batch 8 x seq 128 x accumulate 2 x 4 ranks  zero3");
    says(o, "64 samples a step");
    says(o, "trained 4/4 + 4/4 + 8/4 = 4 bytes x 6,123,168 a rank");
    says(o, "every rank (0-3)");
    says(o, "zero3 divides optimizer states, gradients and parameters.");
    says(expect_code(RUN("plan", "llama-tiny", "--ranks", "4"), 0),
         "trained 4 + 4 + 8 = 16 bytes x 6,123,168 a rank");
    says(expect_code(RUN("plan", "llama-tiny", "--ranks", "4", "--rank", "2"), 0), "rank 2, like the others");
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "4", "--parallel", "zero1", "--lora", "r=4"), 0);
    says(o, "frozen; adapters 4 + 4 + 8/4 = 10 bytes");
    says(o, "Frozen weights that are not divided: every rank has all 6,123,168 of them.");
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "4", "--parallel", "zero3", "--lora", "r=4"), 0);
    says(o, "base 4/4 x 6.12M frozen; adapters 4/4 + 4/4 + 8/4 = 4 bytes");
    assert_null(strstr(o->out, "that are not divided"));
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "4", "--parallel", "zero3", "--lora", "r=4",
                        "--quantize", "int8"),
                    0);
    says(o, "base 1.01/4 x 5.97M + 4/4 x 151,200 frozen; adapters 4/4 + 4/4 + 8/4 = 4 bytes");
    assert_null(strstr(o->out, "that are not divided"));
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "3", "--parallel", "zero3", "--lora", "r=4",
                        "--quantize", "nf4"),
                    0);
    says(o, "base 0.516/3 x 5.97M + 4/3 x 151,200 frozen");
    says(o, "Parts are padded to one size: all of them have room for ");
    o = expect_code(
        RUN("plan", "llama-tiny", "--ranks", "4", "--parallel", "zero3", "--precision", "bf16-mixed"), 0);
    says(o, "trained 4/4 + 4/4 + 8/4 = 4 bytes x");
}

static void a_plan_says_what_each_stage_has(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("plan", "llama-tiny", "--ranks", "6", "--stages", "3", "--accumulate", "4",
                                 "--parallel", "zero1"),
                             0);
    says(o, "accumulate 4 x 2 data ranks  zero1  3 stages 1f1b");
    says(o, "64 samples a step");
    says(o, "stage 0: ranks 0-1");
    says(o, "stage 2: ranks 4-5");
    says(o, "<- the fullest");
    says(o, "stage i of p holds at most p - i micro-batches");
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "6", "--stages", "3", "--rank", "3"), 0);
    says(o, "stage 1: ranks 2-3");
    assert_null(strstr(o->out, "stage 0: ranks"));
    json_t *plan = parse(expect_code(RUN("plan", "gpt2", "--ranks", "4", "--stages", "4", "--accumulate", "8",
                                         "--pipeline", "gpipe", "--json"),
                                     0)
                             ->out);
    const json_t *distinct = json_object_get(json_object_get(plan, "ranks"), "distinct");
    assert_int_equal(json_array_size(distinct), 4);
    assert_keys(json_array_get(distinct, 1), "stage ranks sent_bytes_per_step memory");
    assert_same_memory(json_object_get(json_array_get(distinct, 0), "memory"),
                       json_object_get(plan, "memory"));
    /* GPipe: the middle stages hold as much as each other. */
    assert_int_equal(highest(json_object_get(json_array_get(distinct, 1), "memory"), "activation"),
                     highest(json_object_get(json_array_get(distinct, 2), "memory"), "activation"));
    json_decref(plan);
    says(RUN("plan", "mlp", "--ranks", "2", "--stages", "2"), "this mlp is not divided into stages");
    says(RUN("plan", "gpt2", "--ranks", "16", "--stages", "16"), "12 layers are not divided into 16 stages");
}

/* llama-tiny, 6 layers of 288 and 768, 6 heads, 256 tokens, batch 8 x 128, over two ranks that compute each
 * layer together. Of a layer two norms are whole, and a half of four matrices 288 x 288 and three 288 x 768;
 * in forward and in backward it sums (8,128,288) floats twice; the embedding sums them once, and so does the
 * gradient of the head. A sum sends a half to the other, and the sum of a half back. Of the loss they tell
 * each other three numbers a row. */
static void a_plan_of_layers_in_halves_is_worked_out_by_hand(void **state)
{
    (void)state;
    enum {
        DIVIDED = 4 * 288 * 288 + 3 * 288 * 768,
        HAS = 6 * (2 * 288 + DIVIDED / 2) + 2 * 256 * 288 / 2 + 288,
        SENT = (6 * 4 + 2) * (8 * 128 * 288 * 4) + 8 * 128 * 3 * 4 + 64
    };
    Outcome *o = expect_code(RUN("plan", "llama-tiny", "--ranks", "2", "--tensor", "2", "--json"), 0);
    json_t *plan = parse(o->out);
    const json_t *memory = json_object_get(plan, "memory"), *ranks = json_object_get(plan, "ranks");
    const json_t *trained = json_object_get(json_object_get(plan, "bracket"), "trained");
    check_memory(memory, 0, 0);
    assert_int_equal(integer_at(plan, "parameters"), 6123168); /* the model's */
    assert_int_equal(integer_at(trained, "bytes"), 4 * 6123168);
    assert_int_equal(integer_at(trained, "state_bytes"), 8 * 6123168);
    assert_int_equal(integer_at(json_object_get(trained, "rank"), "bytes"), 4 * HAS);
    assert_int_equal(integer_at(json_object_get(trained, "rank"), "state_bytes"), 8 * HAS);
    assert_int_equal(highest(memory, "parameter"), 4 * HAS);
    assert_int_equal(highest(memory, "optimizer"), 8 * HAS);
    assert_int_equal(integer_at(ranks, "tensor"), 2);
    assert_int_equal(integer_at(ranks, "sent_bytes_per_step"), SENT);
    json_decref(plan);
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "4", "--tensor", "2", "--parallel", "zero2"), 0);
    says(o, "2 data ranks  tensor 2  zero2");
    says(o, "16 samples a step");
    says(o, "trained 4 + 4/2 + 8/2, matrices /2 = ");
    says(o, "2 ranks compute a layer together: each has a half");
    says(o, "zero2 divides optimizer states and gradients, among 2 ranks.");
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "4", "--tensor", "4"), 1);
    says(o, "4 ranks that compute a layer together do not divide heads 6; 2 would");
}

/* The same, and rows between layers in halves. A layer gathers half of (8,128,288) floats twice and takes two
 * sums apart, in forward and in backward, where it gathers both once more. The embedding takes one apart and
 * gathers its gradient; the head gathers twice and takes one apart. Gradients of 13 norms are summed. */
static void a_plan_of_rows_in_halves_is_worked_out_by_hand(void **state)
{
    (void)state;
    enum {
        HALF = 8 * 128 * 288 * 4 / 2,
        SENT = (6 * (2 * 2 + 2 * 2 + 2) + 2 + 3) * HALF + 13 * 288 * 4 + 8 * 128 * 3 * 4 + 64
    };
    Outcome *o = expect_code(
        RUN("plan", "llama-tiny", "--ranks", "2", "--tensor", "2", "--sequence-parallel", "--json"), 0);
    json_t *plan = parse(o->out);
    const json_t *ranks = json_object_get(plan, "ranks");
    assert_true(json_is_true(json_object_get(ranks, "sequence_parallel")));
    assert_int_equal(integer_at(ranks, "sent_bytes_per_step"), SENT);
    json_decref(plan);
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "2", "--tensor", "2", "--sequence-parallel"), 0);
    says(o, "tensor 2  sequence parallel  ddp");
    says(o, "Between layers too: each has that part of the rows of batch x seq.");
    o = expect_code(RUN("plan", "llama-tiny", "--ranks", "2", "--tensor", "2", "--sequence-parallel",
                        "--batch", "1", "--seq", "5"),
                    1);
    says(o, "5 rows (batch x sequence) are not divided among the 2 ranks");
}

static void four_hundred_billion_on_a_thousand_ranks(void **state)
{
    (void)state;
    Outcome *o =
        expect_code(RUN("plan", "--model", "llama-3.1-405b", "--ranks", "1024", "--parallel", "zero3",
                        "--seq", "2048", "--batch", "1", "--checkpoint", "blocks", "--json"),
                    0);
    json_t *plan = parse(o->out);
    const json_t *memory = json_object_get(plan, "memory");
    /* The embedding and the head, 128256 x 16384 each, are what is gathered and summed last: 7.83 GiB. */
    assert_int_equal(highest(memory, "gathered"), INT64_C(4) * 128256 * 16384);
    json_decref(plan);
    if (!SANITIZED)
        assert_true(o->processor_seconds < 1);
}

static void compare_has_a_row_for_each_strategy(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("compare", "mlp", "--ranks", "1,3", "--parallel", "ddp,zero3", "--json"), 0);
    json_t *all = parse(o->out), *rows = json_object_get(all, "variants");
    assert_int_equal(json_array_size(rows), 4);
    const json_t *alone = json_array_get(rows, 1), *ddp = json_array_get(rows, 2),
                 *zero3 = json_array_get(rows, 3);
    assert_null(json_object_get(alone, "sent_bytes_per_step")); /* one process divides and sends nothing */
    assert_int_equal(integer_at(ddp, "sent_bytes_per_step"), by_hand[0].sent);
    assert_int_equal(integer_at(zero3, "sent_bytes_per_step"), by_hand[3].sent);
    assert_string_equal(json_string_value(json_object_get(json_object_get(zero3, "options"), "parallel")),
                        "zero3");
    assert_int_equal(integer_at(json_object_get(zero3, "options"), "ranks"), 3);
    assert_true(integer_at(json_object_get(zero3, "memory"), "peak_bytes") <
                integer_at(json_object_get(ddp, "memory"), "peak_bytes"));
    json_decref(all);
    o = expect_code(RUN("compare", "mlp", "--ranks", "2"), 0);
    says(o, "--parallel zero1");
    says(o, "--parallel zero2");
    says(o, "--parallel zero3");
    says(o, " sent ");
    says(o, "SAME EFFECTIVE BATCH (256)");
    o = expect_code(RUN("compare", "mlp"), 0);
    assert_null(strstr(o->out, "zero1"));
    assert_null(strstr(o->out, " sent "));
}

/* ---- What is refused ---------------------------------------------------------------------------- */

static void what_is_not_there_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[9], *sentence;
    } all[] = {
        {{"plan", "--ranks", "2", "--parallel", "pp"}, "a pipeline is --stages P"},
        {{"plan", "--ranks", "3", "--stages", "2"}, "--ranks 3 are not divided by --stages 2"},
        {{"plan", "--stages", "2"}, "--stages 2 needs --ranks N"},
        {{"plan", "--ranks", "2", "--stages", "2", "--pipeline", "zb"}, "--pipeline must be 1f1b or gpipe"},
        {{"compare", "--ranks", "2", "--stages", "2"},
         "--stages belongs to `brim train`, `brim plan` and `brim fit`"},
        {{"train", "--ranks", "2", "--stages", "2", "--sample", "9"}, "--stages 2 excludes --sample"},
        {{"plan", "--ranks", "2", "--stages", "2", "--device", "cuda"}, "stages of a model train on the CPU"},
        {{"train", "--ranks", "2", "--transport", "nccl"}, "--transport nccl carries between cards"},
        {{"train", "--ranks", "2", "--transport", "tcp"}, "--transport must be mpi or nccl"},
        {{"train", "--transport", "mpi"}, "--transport mpi needs --ranks N"},
        {{"plan", "--ranks", "2", "--parallel", "tensor"}, "tensor parallel is --tensor T"},
        {{"plan", "--ranks", "2", "--parallel", "zero4"}, "ddp, zero1, zero2, zero3, fsdp, not 'zero4'"},
        {{"plan", "--ranks", "2", "--tp", "2"}, "--tensor T, of --ranks N"},
        {{"plan", "--ranks", "2", "--sequence-parallel"}, "--sequence-parallel needs --tensor T"},
        {{"plan", "--tensor", "2"}, "--tensor 2 needs --ranks N"},
        {{"plan", "--ranks", "3", "--tensor", "2"}, "--tensor 2 does not divide --ranks 3"},
        {{"plan", "--ranks", "2", "--tensor", "2", "--sequence-parallel", "--lora", "r=4"},
         "--sequence-parallel excludes --lora"},
        {{"plan", "--context-parallel", "2"}, "context parallel is not there"},
        {{"plan", "--expert-parallel", "2"}, "expert parallel is not there"},
        {{"plan", "--parallel", "zero3"}, "--parallel zero3 needs --ranks N"},
        {{"plan", "--rank", "1"}, "--rank 1 needs --ranks N"},
        {{"plan", "--ranks", "2", "--rank", "2"}, "the ranks of --ranks 2 are 0 to 1"},
        {{"plan", "--ranks", "0"}, "--ranks must be a whole number from 1"},
        {{"plan", "--ranks", "2", "--inference"}, "--ranks means nothing beside --inference"},
        {{"compare", "--ranks", "2", "--run", "1"}, "`brim train` starts several"},
        {{"generate", "--ranks", "2"}, "--ranks"},
    };
    for (size_t i = 0; i < COUNT(all); i++) {
        const char *arguments[11] = {"brim"};
        for (int k = 0; k < 9 && all[i].arguments[k]; k++)
            arguments[k + 1] = all[i].arguments[k];
        says(expect_code(run_command(arguments), 2), all[i].sentence);
    }
}

/* ---- Over MPI ----------------------------------------------------------------------------------- */

static int find_mpi(void **state)
{
    if (make_folder(state))
        return -1;
    make_model("llama");
    make_text("text", 20000);
    setenv("BRIM_FASHION_MNIST", make_images("images"), 1); /* not every machine has it */
    find_launcher("trainings of the command");
    return 0;
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
        cmocka_unit_test(the_plan_of_each_strategy_is_worked_out_by_hand),
        cmocka_unit_test(a_plan_says_what_each_stage_has),
        cmocka_unit_test(a_plan_says_what_a_rank_has),
        cmocka_unit_test(a_plan_of_layers_in_halves_is_worked_out_by_hand),
        cmocka_unit_test(a_plan_of_rows_in_halves_is_worked_out_by_hand),
        cmocka_unit_test(four_hundred_billion_on_a_thousand_ranks),
        cmocka_unit_test(compare_has_a_row_for_each_strategy),
        cmocka_unit_test(what_is_not_there_is_refused_by_name),
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
    return cmocka_run_group_tests(tests, find_mpi, remove_folder);
}
