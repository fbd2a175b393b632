/* The cache of attentions with a window: it holds their last tokens and no more, logits through it are those
 * of the whole sequence however it is cut, and where tokens are gone it says so. */
#include "generate_support.h"

enum { TOKENS = 31, WIDTH = 24, MOST_LAYERS = 3 };

/* An embedding, attentions beside what they read, and a head. */
typedef struct Windowed {
    Module *embedding, *attention[MOST_LAYERS];
    Tensor *head; /* (VOCAB,WIDTH) */
} Windowed;

/* Of each layer, 0 = all; ends with -1. */
static const int windows[][MOST_LAYERS + 1] = {
    {5, 0, -1}, {1, 0, 2, -1}, {8, 13, -1}, {30, 31, 32, -1}, {16, -1}};
enum { KINDS = sizeof windows / sizeof *windows };

static Tensor *windowed_hidden(Module *module, Tensor *x, const Batch *batch)
{
    const Windowed *self = nn_state(module);
    x = nn_forward(self->embedding, batch->ids, batch);
    for (int i = 0; i < MOST_LAYERS && self->attention[i]; i++)
        x = tensor_add(x, nn_forward(self->attention[i], x, batch));
    return x;
}

static Tensor *windowed_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Windowed *self = nn_state(module);
    return tensor_linear(windowed_hidden(module, x, batch), self->head, NULL, TENSOR_IDENTITY);
}

/* Attentions of every kind: grouped, GPT-2's packed one, one with a cap and a scale. */
static Module *windowed(int kind)
{
    static const ModuleClass type = {"windowed", sizeof(Windowed), windowed_forward};
    static const char *const names[] = {"first", "second", "third"};
    Module *module = nn_module(&type);
    Windowed *self = nn_state(module);
    self->embedding = nn_add(module, "embedding", nn_embedding(VOCAB, WIDTH));
    for (int i = 0; windows[kind][i] >= 0; i++) {
        AttentionConfig c = {.dim = WIDTH, .heads = 4, .kv_heads = 2, .window = windows[kind][i]};
        if (i == 1)
            c.style = ATTENTION_GPT2, c.kv_heads = 0;
        if (i == 2)
            c.softcap = 1.5f, c.scale = 0.9f;
        self->attention[i] = nn_add(module, names[i], nn_attention(&c));
    }
    self->head = nn_add_parameter(module, "head", SHAPE(VOCAB, WIDTH));
    nn_offer_head(module, &(ModuleHead){.hidden = windowed_hidden, .weight = self->head, .path = "head"});
    TensorList all = nn_parameters(module);
    for (int p = 0; p < all.count; p++)
        tensor_fill_normal(all.items[p], 0, 0.3f);
    nn_eval(module);
    return module;
}

static void assert_rows(int kind, const float *all, int B, int from, int count, Tensor *some)
{
    const float *rows = tensor_f32(some);
    assert_non_null(rows);
    for (int b = 0; b < B; b++) {
        double apart = difference(all + ((int64_t)b * TOKENS + from) * VOCAB,
                                  rows + (int64_t)b * count * VOCAB, (int64_t)count * VOCAB);
        if (!(apart < 3e-5))
            fail_msg("kind %d: tokens %d to %d of sequence %d are %g apart", kind, from, from + count - 1, b,
                     apart);
    }
}

/* Tokens from `from` on in pieces of these sizes, over and over. */
static void read_in_pieces(int kind, Module *model, KvCache *cache, const float *all, int B, int from,
                           const int sizes[3])
{
    for (int i = 0, n; from < TOKENS; from += n, i++) {
        n = sizes[i % 3] < TOKENS - from ? sizes[i % 3] : TOKENS - from;
        Batch batch = some_ids(B, from, n);
        assert_rows(kind, all, B, from, n, nn_forward_cached(model, &batch, cache));
        assert_int_equal(nn_kv_cache_tokens(cache), from + n);
    }
}

static void check_kind(int kind, const char *kernels, int threads)
{
    static const int sizes[][3] = {{1, 1, 1}, {7, 1, 1}, {17, 1, 9}, {2, 11, 1}, {TOKENS, 1, 1}};
    Visit v = visit(&(ContextOptions){.threads = threads, .seed = 4, .kernels = kernels});
    Module *model = windowed(kind);
    tensor_no_grad_begin();
    for (int B = 1; B <= 3; B += 2) {
        Batch batch = some_ids(B, 0, TOKENS);
        const float *all = tensor_f32(nn_forward(model, NULL, &batch));
        KvCache *cache = nn_kv_cache(model, B, TOKENS);
        for (int s = 0; s < 5; s++) {
            int scope = tensor_scope_begin();
            read_in_pieces(kind, model, cache, all, B, 0, sizes[s]);
            nn_kv_cache_truncate(cache, TOKENS - 1); /* the last token can always be forgotten */
            read_in_pieces(kind, model, cache, all, B, TOKENS - 1, sizes[0]);
            nn_kv_cache_truncate(cache, 0);
            assert_fine();
            tensor_scope_end(scope);
        }
    }
    tensor_no_grad_end();
    leave(v);
}

static void test_equal_to_the_whole(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        check_kind(kind, NULL, 1);
        check_kind(kind, NULL, 3);
        check_kind(kind, "reference", 1);
    }
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

static void test_bytes(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int most = 3; most < 100; most += 40) {
            Module *model = windowed(kind);
            tensor_no_grad_begin();
            KvCache *cache = nn_kv_cache(model, 2, most);
            uint64_t bytes = 0;
            for (int i = 0; windows[kind][i] >= 0; i++) {
                int tokens = windows[kind][i] && windows[kind][i] < most ? windows[kind][i] : most;
                bytes += rounded((int64_t)2 * 2 * (i == 1 ? 4 : 2) * tokens * (WIDTH / 4));
            }
            assert_int_equal(nn_kv_cache_bytes(cache), bytes);
            assert_int_equal(nn_kv_cache_max_tokens(cache), most);
            assert_int_equal(books()->live_by[MEM_KV_CACHE], bytes);
            nn_kv_cache_free(cache);
            tensor_no_grad_end();
        }
}

/* ---- What is gone ---------------------------------------------------------------------------- */

static void test_truncate(void **state)
{
    (void)state;
    Module *model = windowed(2); /* 8 and 13 */
    static const int one_by_one[] = {1, 1, 1};
    tensor_no_grad_begin();
    Batch batch = some_ids(1, 0, TOKENS);
    const float *all = tensor_f32(nn_forward(model, NULL, &batch));
    KvCache *cache = nn_kv_cache(model, 1, TOKENS);
    batch = some_ids(1, 0, 8);
    assert_non_null(nn_forward_cached(model, &batch, cache));
    nn_kv_cache_truncate(cache, 3); /* nothing is gone yet */
    read_in_pieces(2, model, cache, all, 1, 3, one_by_one);
    nn_kv_cache_truncate(cache, 20);
    assert_error(ERROR_STATE, "to 20 of 31 tokens", "a window of 8", "0 empties the cache");
    assert_int_equal(nn_kv_cache_tokens(cache), TOKENS);
    nn_kv_cache_truncate(cache, 30);
    assert_fine();
    nn_kv_cache_truncate(cache, 29); /* the row of its first key has been written over */
    assert_error(ERROR_STATE, "to 29 of 30 tokens");
    read_in_pieces(2, model, cache, all, 1, 30, one_by_one);
    nn_kv_cache_truncate(cache, 0);
    read_in_pieces(2, model, cache, all, 1, 0, one_by_one);
    assert_fine();
    tensor_no_grad_end();
}

/* Memory runs out at each allocation in turn, after one token and after several: the cache is as before, or
 * says that it has let go of what it would need. */
static void test_failures(void **state)
{
    (void)state;
    static const int counts[] = {1, 6};
    Module *model = windowed(0);
    tensor_no_grad_begin();
    Batch whole = some_ids(1, 0, TOKENS);
    const float *all = tensor_f32(nn_forward(model, NULL, &whole));
    KvCache *cache = nn_kv_cache(model, 1, TOKENS);
    int lost = 0, kept = 0;
    for (int i = 0; i < 2; i++)
        for (uint64_t n = 1, fails = 1; fails; n++) {
            int scope = tensor_scope_begin();
            Batch first = some_ids(1, 0, 11), next = some_ids(1, 11, counts[i]);
            nn_kv_cache_truncate(cache, 0);
            assert_non_null(nn_forward_cached(model, &first, cache));
            memtrack_fail_nth(n);
            Tensor *logits = nn_forward_cached(model, &next, cache);
            memtrack_fail_nth(0);
            fails = logits == NULL;
            if (fails) {
                error_clear();
                assert_int_equal(nn_kv_cache_tokens(cache), 11);
                logits = nn_forward_cached(model, &next, cache);
            }
            if (logits) {
                assert_rows(0, all, 1, 11, counts[i], logits);
                kept++;
            } else {
                assert_error(ERROR_STATE, "a window of 5", "nn_kv_cache_truncate(cache, 0)");
                assert_true(counts[i] > 1);
                lost++;
            }
            tensor_scope_end(scope);
        }
    assert_true(lost > 0 && kept > lost);
    tensor_no_grad_end();
}

/* ---- Planned --------------------------------------------------------------------------------- */

typedef struct Text {
    int kind, prompt, tokens, context, prefill;
} Text;

static int write_text(void *config)
{
    const Text *t = config;
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = id_at(0, i);
    return nn_generate(windowed(t->kind), &(GenerateOptions){.prompt = ids,
                                                             .prompt_tokens = t->prompt,
                                                             .tokens = t->tokens,
                                                             .context = t->context,
                                                             .batch = 2,
                                                             .prefill = t->prefill});
}

static void test_plan_is_run(void **state)
{
    (void)state;
    static const Text texts[] = {{.prompt = 20, .tokens = 40},
                                 {.prompt = 20, .tokens = 12, .prefill = 7},
                                 {.prompt = 1, .tokens = 30},
                                 {.prompt = 6, .tokens = 50, .context = 16, .prefill = 3}};
    for (int i = 0; i < 4 * KINDS; i++) {
        Text text = texts[i / KINDS];
        RunOptions o = {.threads = 1 + i % 3, .quiet = 1};
        RunResult result;
        Plan plan;
        text.kind = i % KINDS;
        assert_int_equal(plan_script(write_text, &text, &o, &plan), 0);
        assert_int_equal(plan_execute(write_text, &text, &o, &plan, &result), 0);
        assert_int_equal(result.segments_off_plan, 0);
        assert_int_equal(plan.memory.stats.peak, result.memory.stats.peak);
        assert_int_equal(plan.memory.stats.needs, result.memory.stats.needs);
        assert_memory_equal(plan.memory.stats.at_peak, result.memory.stats.at_peak,
                            sizeof plan.memory.stats.at_peak);
        plan_free(&plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_the_whole),
        cmocka_unit_test_setup_teardown(test_bytes, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_truncate, fresh_context2, leave_context),
        cmocka_unit_test_setup_teardown(test_failures, fresh_context, leave_context),
        cmocka_unit_test(test_plan_is_run),
    };
    return cmocka_run_group_tests_name("kv cache of a window", tests, NULL, NULL);
}
