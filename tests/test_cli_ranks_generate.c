/* Inference by several ranks in the command: what a rank needs, in integers worked out by hand; what is
 * refused; and, where MPI is, texts written over it. */
#include "cli_mpi.h"

static json_int_t highest(const json_t *root, const char *component)
{
    const json_t *memory = json_object_get(root, "memory");
    return integer_at(json_object_get(json_object_get(memory, "components"), component), "peak");
}

/* ---- Plans ------------------------------------------------------------------------------------- */

/* llama-tiny, 6 layers of 288 and 768, 6 heads, 256 tokens: of a layer two norms are whole, and a half or a
 * third of four matrices 288 x 288 and three 288 x 768; so is the last norm, and of the embedding and the
 * head a rank has as many rows, rounded up. A token's two sums a layer, and one behind the embedding, are of
 * a row of 288 floats, of which a rank sends its share of the parts and then of the sums: rows are rounded up
 * to a unit of 64 bytes a rank. Then its logits, and 64 bytes, which tokens were drawn. */
static void a_rank_has_its_heads(void **state)
{
    (void)state;
    enum { LAYERS = 6, WIDTH = 288, HIDDEN = 768, VOCAB = 256, SEQ = 100, BATCH = 2 };
    for (int tensor = 2; tensor <= 3; tensor++) {
        char text[8];
        snprintf(text, sizeof text, "%d", tensor);
        json_t *root = parse(expect_code(RUN("plan", "--inference", "--tensor", text, "--seq", "100",
                                             "--batch", "2", "--prefill", "20", "--threads", "1", "--json"),
                                         0)
                                 ->out);
        json_int_t matrices = 4LL * WIDTH * WIDTH + 3LL * WIDTH * HIDDEN;
        json_int_t rows = (VOCAB + tensor - 1) / tensor;
        assert_int_equal(highest(root, "parameter"),
                         4 * (LAYERS * (matrices / tensor + 2 * WIDTH) + 2 * rows * WIDTH + WIDTH));
        assert_int_equal(highest(root, "kv_cache"), 2LL * LAYERS * (WIDTH / tensor) * SEQ * BATCH * 4);
        const json_t *ranks = json_object_get(root, "ranks"), *one;
        assert_keys(ranks, "size tensor sent_bytes_per_token distinct");
        assert_int_equal(integer_at(ranks, "size"), tensor);
        json_int_t part = (BATCH * WIDTH * 4 + 64 * tensor - 1) / (64 * tensor) * 64;
        assert_int_equal(integer_at(ranks, "sent_bytes_per_token"),
                         (tensor - 1) *
                             ((2 * LAYERS + 1) * 2 * part + (BATCH * rows * 4 + 63) / 64 * 64 + 64));
        assert_int_equal(json_array_size(json_object_get(ranks, "distinct")), 1);
        one = json_array_get(json_object_get(ranks, "distinct"), 0);
        assert_int_equal(json_array_size(json_object_get(one, "ranks")), tensor);
        assert_same_memory(json_object_get(one, "memory"), json_object_get(root, "memory"));
        const json_t *textbook = json_object_get(root, "textbook");
        assert_int_equal(integer_at(textbook, "kv_cache_bytes"), highest(root, "kv_cache"));
        assert_int_equal(integer_at(textbook, "weights_bytes"),
                         4LL * integer_at(root, "parameters") / tensor);
        json_decref(root);
    }
    Outcome *o = expect_code(RUN("plan", "--inference", "llama-3.1-70b", "--tensor", "8", "--weights", "bf16",
                                 "--seq", "8192", "--threads", "1"),
                             0);
    says(o, "tensor 8  1 thread a rank");
    says(o, "P x Q/8 bytes / 8, Q = 16");
    says(o, "2 x layers x kv heads / 8 x head width x 2 x 8192 tokens");
    says(o, "sent a token");
    says(o, "8 ranks compute a layer together: each has 1/8 of its heads");
    /* 80 layers of 8 key-value heads of 128, 16 bit */
    json_t *root = parse(expect_code(RUN("plan", "--inference", "llama-3.1-70b", "--tensor", "8", "--weights",
                                         "bf16", "--seq", "8192", "--json"),
                                     0)
                             ->out);
    assert_int_equal(highest(root, "kv_cache"), 2LL * 80 * 8 / 8 * 128 * 8192 * 2);
    json_decref(root);
    /* A model that writes nothing is one forward. */
    says(expect_code(RUN("plan", "--inference", "bert-tiny", "--tensor", "2"), 0), "one forward");
}

static void what_is_refused(void **state)
{
    (void)state;
    static const Refusal plans[] = {
        {{"plan", "--inference", "--tensor", "4"}, "do not divide heads 6; 2 would"},
        {{"plan", "--inference", "llama-3.2-1b", "--tensor", "16"}, "do not divide kv_heads 8; 8 would"},
        {{"plan", "--inference", "mlp", "--tensor", "2"}, "mlp: its layers are not divided"},
    };
    static const Refusal usage[] = {
        {{"plan", "--inference", "--tensor", "2", "--ranks", "2"},
         "--ranks means nothing beside --inference"},
        {{"plan", "--inference", "--tensor", "2", "--device", "cuda"}, "--tensor 2 excludes --device cuda"},
        {{"fit", "--inference", "--cards", "2,4", "--tensor", "3"}, "--tensor 3 is all cards that"},
        {{"fit", "--inference", "--stages", "2"}, "--stages means nothing beside --inference"},
        {{"fit", "--inference", "bert-tiny", "--prefill", "8"}, "--prefill"},
        {{"compare", "--inference", "--run", "2"}, "--run means nothing beside --inference"},
        {{"generate", "--tensor", "2", "--device", "cuda"}, "--device cuda"},
        {{"generate", "--tensor", "0"}, "--tensor must be a whole number from 1"},
        {{"generate", "--tensor", "2", "--prompt", "-"}, "one has the standard input"},
    };
    are_refused(1, plans, COUNT(plans));
    are_refused(2, usage, COUNT(usage));
}

/* ---- fit and compare --------------------------------------------------------------------------- */

static json_int_t needs_of(const json_t *row)
{
    return integer_at(json_object_get(row, "memory"), "needs_bytes");
}

static const json_t *row_of(const json_t *root, const char *list, const char *key, const char *name)
{
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(root, list), i, row)
    {
        if (!strcmp(json_string_value(json_object_get(row, key)), name))
            return row;
    }
    fail_msg("no row '%s'", name);
    return NULL;
}

/* Each row is what `plan --inference` says of the same options, and its largest batch fits where one more
 * does not. */
static void fit_has_a_row_for_weights_and_cards(void **state)
{
    (void)state;
    static const struct {
        const char *row, *arguments[3];
    } rows[] = {{"bf16, 1 card", {"--weights", "bf16"}},
                {"bf16, tensor 2", {"--weights", "bf16", "2"}},
                {"bf16, tensor 3", {"--weights", "bf16", "3"}}};
    const json_int_t memory = (json_int_t)12 << 20;
    json_t *root =
        parse(expect_code(RUN("fit", "--inference", "--cards", "3,2", "--weights", "bf16", "--seq", "64",
                              "--threads", "1", "--memory", "12MiB,1GiB", "--reserve", "0", "--json"),
                          0)
                  ->out);
    assert_int_equal(json_array_size(json_object_get(root, "methods")), COUNT(rows));
    assert_null(json_object_get(root, "pytorch_estimated_bytes"));
    for (size_t i = 0; i < COUNT(rows); i++) {
        const json_t *row = row_of(root, "methods", "method", rows[i].row);
        const char *tensor = rows[i].arguments[2] ? rows[i].arguments[2] : "1";
        const json_t *cell = json_array_get(json_object_get(row, "cards"), 0);
        json_int_t batch = integer_at(cell, "largest_batch");
        for (int more = -1; more < 2; more++) {
            char text[16];
            snprintf(text, sizeof text, "%lld", more < 0 ? 1LL : (long long)batch + more);
            if (!batch && more >= 0)
                continue;
            json_t *plan =
                parse(expect_code(RUN("plan", "--inference", "--weights", "bf16", "--tensor", tensor, "--seq",
                                      "64", "--threads", "1", "--batch", text, "--json"),
                                  0)
                          ->out);
            if (more < 0)
                assert_same_memory(json_object_get(row, "memory"), json_object_get(plan, "memory"));
            else
                assert_int_equal(needs_of(plan) <= memory, !more);
            json_decref(plan);
        }
        assert_int_equal(integer_at(row, "tensor"), atoi(tensor));
        assert_int_equal(integer_at(row, "sent_bytes_per_token") > 0, i > 0);
    }
    says(expect_code(RUN("fit", "--inference", "--cards", "3,2", "--weights", "bf16", "--seq", "64",
                         "--threads", "1", "--memory", "12MiB,1GiB,1MiB", "--reserve", "0"),
                     1),
         "\nIt fits 12MiB: bf16 on 2 cards; 1GiB: bf16 on one card; nothing here fits 1MiB: the least need "
         "is ");
    json_decref(root);
}

/* 16, 8 and 4 bit, where nothing else is asked for. */
static void what_weights_are_stored_as(void **state)
{
    (void)state;
    json_t *root = parse(expect_code(RUN("fit", "--inference", "--model", "llama-3.1-70b", "--card", "h200",
                                         "--cards", "8", "--seq", "8192", "--threads", "1", "--json"),
                                     0)
                             ->out);
    static const char *const names[] = {"bf16, 1 card", "int8, 1 card", "nf4, 1 card"};
    static const char *const cut[] = {"bf16, tensor 8", "int8, tensor 8", "nf4, tensor 8"};
    json_int_t last = 0;
    for (size_t i = 0; i < COUNT(names); i++) {
        const json_t *row = row_of(root, "methods", "method", names[i]);
        json_int_t cache = highest(row, "kv_cache");
        assert_int_equal(cache, 2LL * 80 * 8 * 128 * 8192 * 2); /* 16 bit, whatever weights are */
        assert_true(!last || needs_of(row) < last);
        last = needs_of(row);
        const json_t *eighth = row_of(root, "methods", "method", cut[i]);
        assert_int_equal(8 * highest(eighth, "kv_cache"), cache);
        assert_true(8 * needs_of(eighth) < needs_of(row) + needs_of(row) / 20);
    }
    json_decref(root);
    root = parse(expect_code(RUN("compare", "--inference", "--tensor", "1,2", "--weights", "bf16", "--seq",
                                 "64", "--threads", "1", "--json"),
                             0)
                     ->out);
    assert_int_equal(json_array_size(json_object_get(root, "variants")), 2);
    const json_t *one = row_of(root, "variants", "variant", "--tensor 1"),
                 *two = row_of(root, "variants", "variant", "--tensor 2");
    assert_int_equal(highest(one, "kv_cache"), 2 * highest(two, "kv_cache"));
    assert_int_equal(integer_at(one, "sent_bytes_per_token"), 0);
    assert_true(integer_at(two, "sent_bytes_per_token") > 0);
    json_decref(root);
    Outcome *o = expect_code(RUN("compare", "--inference", "--seq", "64", "--threads", "1"), 0);
    says(o, "\nfp32 ");
    says(o, "\nbf16 ");
    says(o, "\nint8, rest bf16 ");
    says(o, "\nnf4, rest bf16 ");
}

/* ---- Over MPI ----------------------------------------------------------------------------------- */

static const char prompt[] = "To be or not, that is what nobody asks";

static json_t *tokens_of(const json_t *root, size_t b)
{
    return json_object_get(json_array_get(json_object_get(root, "sequences"), b), "tokens");
}

/* Starts itself, two ranks; and one process. Each rank reads its parts of trained weights. */
static void ranks_write_what_one_process_writes(void **state)
{
    (void)state;
    NEEDS_MPI();
    expect_code(RUN("train", "--model", in_folder("llama.json"), "--steps", "8", "--seq", "32", "--batch",
                    "4", "--threads", "1", "--max-samples", "60", "--lr", "0.01", "--export",
                    in_folder("trained")),
                0);
#define WRITE                                                                                                \
    "generate", "--init", in_folder("trained"), "--prompt", prompt, "--tokens", "20", "--prefill", "9",      \
        "--threads", "1", "--json"
    json_t *alone = parse(expect_code(RUN(WRITE, "--temperature", "0"), 0)->out);
    json_t *ranks = parse(expect_code(RUN(WRITE, "--temperature", "0", "--tensor", "2"), 0)->out);
    assert_int_equal(json_array_size(tokens_of(ranks, 0)), 20);
    assert_true(json_equal(tokens_of(ranks, 0), tokens_of(alone, 0)));
    const json_t *memory = json_object_get(ranks, "memory"), *all = json_object_get(ranks, "ranks"),
                 *one = json_array_get(json_object_get(all, "distinct"), 0);
    assert_same_memory(memory, json_object_get(memory, "planned"));
    assert_int_equal(json_array_size(json_object_get(all, "distinct")), 1);
    assert_int_equal(json_array_size(json_object_get(one, "ranks")), 2);
    assert_same_memory(json_object_get(one, "memory"), memory);
    assert_int_equal(2 * highest(ranks, "kv_cache"), highest(alone, "kv_cache"));
    json_decref(ranks);
    json_decref(alone);
}

static Outcome *over_mpi(const char *first, const char *second)
{
    char line[1024];
    snprintf(line, sizeof line, "%s generate --model %s --tokens 6 --threads 1", command_path(),
             in_folder("llama.json"));
    return shell("timeout 60 %s -n 1 %s %s : -n 1 %s %s 2>&1", launcher, line, first, line, second);
}

/* Rank 0 prints, once; another rank says an error of its own. */
static void only_rank_0_prints(void **state)
{
    (void)state;
    NEEDS_MPI();
    Outcome *o = over_mpi("--tensor 2", "--tensor 2");
    assert_int_equal(o->code, 0);
    assert_int_equal(lines_starting(o->out, "The "), 2); /* the text, and whose weights they are */
    assert_int_equal(lines_starting(o->out, "every rank (0-1)"), 1);
    assert_null(strstr(o->out, "rank 1"));
    o = over_mpi("--tensor 2", "--tensor 2 --budget 64KiB");
    assert_int_not_equal(o->code, 0);
    says(o, "rank 1: needs ");
    o = over_mpi("", "");
    assert_int_not_equal(o->code, 0);
    says(o, "there is no --tensor: --tensor 2 computes each layer with all of them");
}

static int begin(void **state)
{
    return begin_over_mpi("texts that several ranks write", state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_has_its_heads),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(fit_has_a_row_for_weights_and_cards),
        cmocka_unit_test(what_weights_are_stored_as),
        cmocka_unit_test(ranks_write_what_one_process_writes),
        cmocka_unit_test(only_rank_0_prints),
    };
    return cmocka_run_group_tests_name("cli ranks generate", tests, begin, remove_folder);
}
