/* Several ranks in the command: what their plans say, in integers worked out by hand; what is refused. */
#include "cli_mpi.h"

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
    static const Refusal all[] = {
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
    are_refused(2, all, COUNT(all));
}

static int begin(void **state)
{
    if (make_folder(state))
        return -1;
    return setenv("BRIM_FASHION_MNIST", make_images("images"), 1); /* not every machine has it */
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
    };
    return cmocka_run_group_tests_name("cli ranks", tests, begin, remove_folder);
}
