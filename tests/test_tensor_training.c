/* Training as a whole: gradients bitwise equal with and without checkpointing and from run to run,
 * accumulated micro-batches equal to the large batch, and every allocation that may fail failing once. */
#include "support.h"
#include "tensor/tensor_.h"

static void assert_same(const Setting *s, const char *what, Tensor *a, Tensor *b, double most)
{
    double apart = difference(tensor_f32(a), tensor_f32(b), tensor_numel(a));
    if (apart > most)
        fail_msg("%s: %s: gradients differ by %g", setting_text(s), what, apart);
}

static const Micro whole = {{6}};

static Setting setting_of(int i)
{
    return (Setting){.family = (ModelFamily)(i / 4),
                     .attention = i & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                     .dropout = i & 2 ? 0.2f : 0};
}

static void test_checkpoint_is_bitwise_equal(void **state)
{
    (void)state;
    for (int i = 0; i < 4 * FAMILIES; i++)
        for (int threads = 1; threads <= 2; threads++) {
            Setting s = setting_of(i);
            double loss[2];
            Tensor *plain = small_gradients(&s, &whole, threads, 5, &loss[0]);
            s.checkpoint = 1;
            assert_same(&s, "checkpoint", plain, small_gradients(&s, &whole, threads, 5, &loss[1]), 0);
            assert_true(loss[0] == loss[1]);
        }
}

static Tensor *run_whole(void *self, Tensor *x, const Batch *batch)
{
    return nn_forward(self, x, batch);
}

/* A checkpoint around checkpoints: the whole model in one, its blocks in their own. */
static void test_nested_checkpoints(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++) {
        Setting s = {.family = family, .dropout = 0.2f, .layers = 3};
        double loss;
        Tensor *plain = small_gradients(&s, &whole, 1, 5, &loss);
        s.checkpoint = 1;
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
        Module *model = small_model(&s);
        Batch batch = small_batch(family, 3, 0, 6);
        tensor_random_begin(batch.step, batch.first_sample);
        Tensor *logits = tensor_checkpoint(run_whole, model, NULL, &batch);
        tensor_backward(
            tensor_cross_entropy(logits, batch.labels, BATCH_IGNORE, 1 / (float)batch.labels_total));
        double apart = difference((const float *)plain->storage->block.data, tensor_f32(all_gradients(model)),
                                  tensor_numel(plain));
        assert_true(apart == 0);
        leave(v);
    }
}

static void test_equal_runs_are_equal(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++)
        for (int threads = 1; threads <= 2; threads++) {
            Setting s = {.family = (ModelFamily)i, .dropout = 0.2f};
            double loss[3];
            Tensor *first = small_gradients(&s, &whole, threads, 5, &loss[0]);
            assert_same(&s, "again", first, small_gradients(&s, &whole, threads, 5, &loss[1]), 0);
            assert_true(loss[0] == loss[1]);
            Tensor *other = small_gradients(&s, &whole, threads, 6, &loss[2]);
            assert_true(difference(tensor_f32(first), tensor_f32(other), tensor_numel(first)) > 0.01);
        }
}

static void test_accumulation(void **state)
{
    (void)state;
    static const Micro micros[] = {{{3, 3}}, {{4, 2}}, {{1, 1, 1, 1, 1, 1}}, {{5, 1}}};
    for (int i = 0; i < 4 * FAMILIES; i++) {
        Setting s = setting_of(i);
        s.checkpoint = i & 1;
        double loss[2];
        Tensor *large = small_gradients(&s, &whole, 1, 5, &loss[0]);
        for (size_t k = 0; k < COUNT(micros); k++) {
            assert_same(&s, "accumulated", large, small_gradients(&s, &micros[k], 1, 5, &loss[1]), 3e-6);
            assert_float_equal(loss[0], loss[1], 1e-5 * loss[0]);
        }
    }
}

/* The mean over micro-batch means, a well-known mistake, is something else here: the counts differ. */
static void test_micro_batches_differ_in_labels(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        int64_t labels[2];
        for (int k = 0; k < 2; k++)
            labels[k] = small_batch((ModelFamily)i, 3, 3 * k, 3).labels_counted;
        assert_int_not_equal(labels[0], labels[1]);
    }
}

/* A micro-batch without any label adds nothing and breaks nothing. */
static void test_batch_without_labels(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        Module *model = small_model(&(Setting){.family = (ModelFamily)i});
        int scope = tensor_scope_begin();
        Batch batch = small_batch((ModelFamily)i, 0, 0, 2);
        for (int64_t k = 0; k < tensor_numel(batch.labels); k++)
            tensor_i32(batch.labels)[k] = BATCH_IGNORE;
        batch.labels_counted = batch.labels_total = 0;
        Tensor *loss = nn_loss(model, &batch);
        assert_float_equal(tensor_item(loss), 0, 0);
        assert_int_equal(tensor_backward(loss), 0);
        Tensor *all = all_gradients(model);
        for (int64_t k = 0; k < tensor_numel(all); k++)
            assert_true(tensor_f32(all)[k] == 0);
        batch.labels = NULL;
        assert_null(nn_loss(model, &batch));
        assert_error(ERROR_DATA, "no labels");
        tensor_scope_end(scope);
        module_free(model);
    }
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static void scenario(const Setting *s)
{
    Context *context = context_create(&(ContextOptions){.threads = 1});
    if (!context)
        return;
    context_use(context);
    Module *model = small_model(s);
    for (int micro = 0; micro < 2; micro++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(s->family, 0, micro, 1);
        Tensor *loss = error_code() ? NULL : nn_loss(model, &batch);
        if (loss)
            tensor_backward(loss);
        tensor_keep(loss);
        tensor_scope_end(scope);
    }
    nn_parameter(model, "no such name");
}

/* Every n-th allocation fails once: the error is about memory, nothing crashes, nothing stays. */
static void sweep(const Setting *s)
{
    Context *outside = context_use(NULL);
    uint64_t live = memtrack_process_live();
    int reached = 1, failures = 0;
    for (uint64_t n = 1; reached; n++) {
        memtrack_fail_nth(n);
        scenario(s);
        reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        Context *context = context_use(NULL);
        if (context) {
            context_use(context);
            int code = error_code();
            if (reached ? code != ERROR_HOST_MEMORY && code != ERROR_MEMORY && code != ERROR_NONE
                        : code != ERROR_NONE)
                fail_msg("%s, allocation %d: %s", setting_text(s), (int)n, error_message());
            if (code && !strstr(error_message(), "memory"))
                fail_msg("%s, allocation %d: %s", setting_text(s), (int)n, error_message());
            failures += code != ERROR_NONE;
            /* Only giving memory back may fail unseen, and creating the context itself. */
            context_destroy(context_use(NULL));
        } else {
            failures++;
        }
        if (memtrack_process_live() != live)
            fail_msg("%s, allocation %d: %d bytes stay", setting_text(s), (int)n,
                     (int)(memtrack_process_live() - live));
        assert_true(n < 5000);
        if (!reached)
            assert_true(failures > 100 && (uint64_t)failures > (n - 1) * 8 / 10);
    }
    context_use(outside);
}

static void test_failing_allocations(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        Setting s = {.family = (ModelFamily)i, .layers = 1, .dropout = 0.1f, .checkpoint = i % 2 == 0};
        sweep(&s);
    }
    sweep(&(Setting){.family = MODEL_LLAMA, .layers = 1, .checkpoint = 1, .attention = ATTENTION_EAGER});
}

/* A limit met in the middle of a step is as clean as a failure, wherever it lies. */
static void test_every_limit(void **state)
{
    (void)state;
    const Setting s = {.family = MODEL_GPT2, .layers = 1, .checkpoint = 1, .dropout = 0.1f};
    uint64_t needs = 1 << 20, step = 0;
    for (uint64_t limit = 0; limit <= needs; limit += step) {
        Visit v = visit(&(ContextOptions){.threads = 1, .capacity = limit});
        Module *model = small_model(&s);
        Batch batch = error_code() ? (Batch){0} : small_batch(s.family, 0, 0, 2);
        Tensor *loss = error_code() ? NULL : nn_loss(model, &batch);
        if (loss)
            tensor_backward(loss);
        if (!limit) { /* no limit: what it takes */
            assert_fine();
            needs = books()->needs;
            step = needs / 61;
        } else {
            assert_int_equal(error_code(), limit + step <= needs ? ERROR_MEMORY : error_code());
            assert_true(books()->needs <= limit);
        }
        leave(v);
    }
    assert_true(step > 64);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_checkpoint_is_bitwise_equal),
        TEST(test_nested_checkpoints),
        TEST(test_equal_runs_are_equal),
        TEST(test_accumulation),
        TEST(test_micro_batches_differ_in_labels),
        TEST(test_batch_without_labels),
        TEST(test_failing_allocations),
        TEST(test_every_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
