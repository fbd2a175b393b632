/* A model whose head has a soft cap: nn_forward's logits are capped, nn_loss is theirs in every form, and it
 * needs not a byte more than without. */
#include <math.h>

#include "../nn/lora.h"
#include "../nn/module_.h"
#include "support.h"

/* How the loss is computed. */
typedef enum Way {
    WHOLE,
    IN_CHUNKS,
    LABELLED,
    LABELLED_IN_CHUNKS,
    HEAD_CHECKPOINTED,
    MODEL_CHECKPOINTED,
    ADAPTED,
    WAYS
} Way;

typedef struct Own {
    Module *words, *head;
} Own;

static Tensor *own_hidden(Module *module, Tensor *x, const Batch *batch)
{
    const Own *self = nn_state(module);
    (void)x;
    return tensor_gelu(tensor_donate(nn_forward(self->words, batch->ids, batch)));
}

static Tensor *own_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Own *self = nn_state(module);
    return nn_forward(self->head, tensor_donate(own_hidden(module, x, batch)), batch);
}

static void fill(Module *model, const char *name, uint32_t stream, double scale)
{
    Tensor *t = nn_parameter(model, name);
    fill_values(tensor_f32(t), tensor_numel(t), stream, scale, 0);
}

/* Its logits are several times the caps of below. */
static Module *own_model(Way way, float softcap)
{
    static const ModuleClass type = {"own", sizeof(Own), own_forward};
    Module *model = nn_module(&type);
    Own *self = nn_state(model);
    self->words = nn_add(model, "words", nn_embedding(SMALL_VOCAB, 8));
    self->head = nn_add(model, "out", nn_linear(8, SMALL_VOCAB, 1));
    fill(model, "words.weight", 1, 2);
    fill(model, "out.weight", 2, 2);
    fill(model, "out.bias", 3, 1);
    nn_offer_head(model, &(ModuleHead){.hidden = own_hidden,
                                       .weight = nn_parameter(model, "out.weight"),
                                       .bias = nn_parameter(model, "out.bias"),
                                       .path = "out",
                                       .softcap = softcap});
    nn_set_loss_chunk(model, way == IN_CHUNKS || way == LABELLED_IN_CHUNKS ? 5 : 0);
    nn_set_skip_unlabelled(model, way == LABELLED || way == LABELLED_IN_CHUNKS);
    nn_set_checkpoint(self->head, way == HEAD_CHECKPOINTED);
    nn_set_checkpoint(model, way == MODEL_CHECKPOINTED);
    if (way == ADAPTED) {
        assert_int_equal(nn_add_lora(model, &(Lora){.rank = 2, .targets = "out"}), 1);
        fill(model, "out.lora_A.weight", 4, 1);
        fill(model, "out.lora_B.weight", 5, 1);
    }
    return model;
}

/* Of a model whose logits are capped by an operation of its own, or by the model. */
static Tensor *loss_by_hand(Module *model, const Batch *batch, float softcap)
{
    Tensor *logits = tensor_softcap(nn_forward(model, NULL, batch), softcap);
    return tensor_cross_entropy(logits, batch->labels, BATCH_IGNORE, 1.0f / (float)batch->labels_total);
}

typedef struct Step {
    float loss;
    Tensor *gradients; /* of those that have one */
} Step;

static Step step_of(Module *model, Tensor *loss)
{
    TensorList list = nn_parameters(model);
    Step step = {.loss = tensor_item(loss)};
    int64_t n = 0;
    assert_int_equal(tensor_backward(loss), 0);
    for (int i = 0; i < list.count; i++)
        n += list.items[i]->grad ? tensor_numel(list.items[i]) : 0;
    step.gradients = tensor_zeros(DTYPE_F32, SHAPE(n), MEM_INPUT);
    float *to = tensor_f32(step.gradients);
    for (int i = 0; i < list.count; i++)
        if (list.items[i]->grad) {
            memcpy(to, grad_f32(list.items[i]), (size_t)tensor_numel(list.items[i]) * sizeof *to);
            to += tensor_numel(list.items[i]);
        }
    return step;
}

static double apart(const Step *a, const Step *b)
{
    assert_int_equal(tensor_numel(a->gradients), tensor_numel(b->gradients));
    return difference(tensor_f32(a->gradients), tensor_f32(b->gradients), tensor_numel(a->gradients));
}

static void test_loss_is_of_capped_logits(void **state)
{
    (void)state;
    static const float caps[] = {1.5f, 30.0f};
    for (int way = WHOLE; way < WAYS; way++)
        for (size_t c = 0; c < COUNT(caps); c++) {
            int scope = tensor_scope_begin();
            Batch batch = small_batch(MODEL_LLAMA, 0, 0, 3);
            Module *model = own_model((Way)way, 0);
            Step plain = step_of(model, nn_loss(model, &batch));
            model = own_model((Way)way, 0);
            Step expected = step_of(model, loss_by_hand(model, &batch, caps[c]));
            model = own_model((Way)way, caps[c]);
            Step inside = step_of(model, loss_by_hand(model, &batch, 0));
            model = own_model((Way)way, caps[c]);
            Step capped = step_of(model, nn_loss(model, &batch));
            assert_float_equal(capped.loss, expected.loss, 1e-5);
            assert_true(inside.loss == expected.loss && apart(&inside, &expected) == 0);
            assert_true(apart(&capped, &expected) < 5e-6);
            assert_true(c > 0 || fabsf(capped.loss - plain.loss) > 0.1f);
            tensor_scope_end(scope);
        }
    assert_fine();
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static MemStats step_books(Way way, float softcap, int recorded)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
    Batch batch = small_batch(MODEL_LLAMA, 0, 0, 8);
    Module *model = own_model(way, softcap);
    if (!recorded)
        tensor_no_grad_begin();
    Tensor *loss = nn_loss(model, &batch);
    if (recorded)
        assert_int_equal(tensor_backward(loss), 0);
    else
        tensor_no_grad_end();
    MemStats stats = *books();
    leave(v);
    return stats;
}

static void test_memory_is_that_without(void **state)
{
    (void)state;
    for (int way = WHOLE; way < WAYS; way++)
        for (int recorded = 0; recorded < 2; recorded++) {
            MemStats plain = step_books((Way)way, 0, recorded), capped = step_books((Way)way, 2, recorded);
            /* The checkpoint of a whole model computes the head once more, beside what it has made before;
             * that of a model with a cap ends before the head. */
            if (way == MODEL_CHECKPOINTED)
                assert_true(capped.peak <= plain.peak);
            else
                assert_int_equal(capped.peak, plain.peak);
            assert_int_equal(capped.live, plain.live);
        }
}

/* ---- Families -------------------------------------------------------------------------------- */

static void set_softcap(Module *model, float softcap)
{
    ModuleHead head = model->model->head;
    head.softcap = softcap;
    nn_offer_head(model, &head);
}

/* The last position's logits, of a text that is read at once or in two parts. */
static void test_next(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_LLAMA, MODEL_GPT2};
    const float cap = 0.1f;
    tensor_no_grad_begin();
    for (size_t i = 0; i < COUNT(families); i++) {
        Module *model = small_model(&(Setting){.family = families[i]});
        Batch batch = small_batch(families[i], 0, 0, 2);
        nn_eval(model);
        Tensor *plain = nn_forward(model, NULL, &batch);
        Tensor *expected = tensor_softcap(plain, cap), *last = tensor_softcap(tensor_last(plain), cap);
        set_softcap(model, cap);
        Tensor *capped = nn_forward(model, NULL, &batch);
        Tensor *next = nn_forward_next(model, &batch, nn_kv_cache(model, 2, SMALL_SEQ));
        assert_true(difference(tensor_f32(expected), tensor_f32(capped), tensor_numel(capped)) == 0);
        assert_true(difference(tensor_f32(last), tensor_f32(next), tensor_numel(next)) < 1e-6);
        set_softcap(model, 0);
        Tensor *again = nn_forward(model, NULL, &batch);
        assert_true(difference(tensor_f32(plain), tensor_f32(again), tensor_numel(again)) == 0);
    }
    tensor_no_grad_end();
    assert_fine();
}

static void test_refuses(void **state)
{
    (void)state;
    Batch batch = small_batch(MODEL_LLAMA, 0, 0, 1);
    for (int way = WHOLE; way < WAYS; way++) {
        Module *model = own_model((Way)way, -2);
        assert_null(nn_loss(model, &batch));
        assert_error(ERROR_ARGUMENT, "cross_entropy", "soft cap of -2");
        assert_null(nn_forward(model, NULL, &batch));
        assert_error(ERROR_ARGUMENT, "softcap", "soft cap of -2");
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_loss_is_of_capped_logits), TEST(test_next),
                                       cmocka_unit_test(test_memory_is_that_without), TEST(test_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
