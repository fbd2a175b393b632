/* Inference by several ranks in the command: what a rank needs, in integers worked out by hand; what is
 * refused; and, where MPI is, texts written over it. */
#include "cli_mpi.h"

static json_int_t highest(const json_t *root, const char *component)
{
    const json_t *memory = json_object_get(root, "memory");
    return integer_at(json_object_get(json_object_get(memory, "components"), component), "peak");
}

static void says(const Outcome *o, const char *what)
{
    if (!strstr(o->out, what) && !strstr(o->err, what))
        fail_msg("'%s' is not in: %s%s", what, o->out, o->err);
}

/* ---- Plans ------------------------------------------------------------------------------------- */

/* llama-tiny, 6 layers of 288 and 768, 6 heads, 256 tokens: of a layer two norms are whole, and a half or a
 * third of four matrices 288 x 288 and three 288 x 768; so are the embedding, the last norm and the head. A
 * token's two sums a layer are of a row of 288 floats, of which a rank sends its share of the parts and then
 * of the sums: rows are rounded up to a unit of 64 bytes a rank. Then 64 bytes, which tokens were drawn. */
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
        assert_int_equal(highest(root, "parameter"),
                         4 * (LAYERS * (matrices / tensor + 2 * WIDTH) + 2 * VOCAB * WIDTH + WIDTH));
        assert_int_equal(highest(root, "kv_cache"), 2LL * LAYERS * (WIDTH / tensor) * SEQ * BATCH * 4);
        const json_t *ranks = json_object_get(root, "ranks"), *one;
        assert_keys(ranks, "size tensor sent_bytes_per_token distinct");
        assert_int_equal(integer_at(ranks, "size"), tensor);
        json_int_t part = (BATCH * WIDTH * 4 + 64 * tensor - 1) / (64 * tensor) * 64;
        assert_int_equal(integer_at(ranks, "sent_bytes_per_token"),
                         (tensor - 1) * (2 * LAYERS * 2 * part + 64));
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
    static const struct {
        const char *arguments[8], *sentence;
        int code;
    } all[] = {
        {{"plan", "--inference", "--tensor", "4"}, "do not divide heads 6; 2 would", 1},
        {{"plan", "--inference", "llama-3.2-1b", "--tensor", "16"}, "do not divide kv_heads 8; 8 would", 1},
        {{"plan", "--inference", "mlp", "--tensor", "2"}, "mlp: its layers are not divided", 1},
        {{"plan", "--inference", "--tensor", "2", "--ranks", "2"},
         "--ranks means nothing beside --inference",
         2},
        {{"plan", "--inference", "--tensor", "2", "--device", "cuda"},
         "--tensor 2 excludes --device cuda",
         2},
        {{"generate", "--tensor", "2", "--device", "cuda"}, "--device cuda", 2},
        {{"generate", "--tensor", "0"}, "--tensor must be a whole number from 1", 2},
        {{"generate", "--tensor", "2", "--prompt", "-"}, "one has the standard input", 2},
    };
    for (size_t i = 0; i < COUNT(all); i++) {
        const char *arguments[9] = {"brim"};
        for (int k = 0; k < 7 && all[i].arguments[k]; k++)
            arguments[k + 1] = all[i].arguments[k];
        says(expect_code(run_command(arguments), all[i].code), all[i].sentence);
    }
}

/* ---- Over MPI ----------------------------------------------------------------------------------- */

static const char prompt[] = "To be or not, that is what nobody asks";

static json_t *tokens_of(const json_t *root, size_t b)
{
    return json_object_get(json_array_get(json_object_get(root, "sequences"), b), "tokens");
}

/* Starts itself, two ranks; and one process. */
static void ranks_write_what_one_process_writes(void **state)
{
    (void)state;
    NEEDS_MPI();
#define WRITE                                                                                                \
    "generate", "--model", in_folder("llama.json"), "--prompt", prompt, "--tokens", "20", "--prefill", "9",  \
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
    if (make_folder(state))
        return -1;
    make_model("llama");
    find_launcher("texts that several ranks write");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_has_its_heads),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(ranks_write_what_one_process_writes),
        cmocka_unit_test(only_rank_0_prints),
    };
    return cmocka_run_group_tests_name("cli ranks generate", tests, begin, remove_folder);
}
