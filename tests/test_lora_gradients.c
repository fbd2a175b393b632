/* Gradients of low-rank adapters: the same however little is kept, dropout's masks included; and the slopes
 * of the loss. */
#include "adapted_support.h"

typedef struct Grads {
    float *values;
    int64_t count;
    double loss;
} Grads;

static Grads grads_of(const Setting *setting, const Lora *lora, const Micro *micro, int threads, int chunk)
{
    Visit v = visit(&(ContextOptions){.threads = threads, .seed = 4});
    Module *model = adapted(setting, lora);
    if (setting->family != MODEL_MLP)
        nn_set_loss_chunk(model, chunk);
    Grads g = {.loss = backward_of(model, setting->family, micro)};
    TensorList list = nn_lora_parameters(model);
    for (int i = 0; i < list.count; i++)
        g.count += tensor_numel(list.items[i]);
    g.values = test_malloc((size_t)g.count * sizeof(float));
    int64_t at = 0;
    for (int i = 0; i < list.count; at += tensor_numel(list.items[i++])) {
        if (!grad_f32(list.items[i]))
            fail_msg("%s: no gradient of %s", setting_text(setting), tensor_name(list.items[i]));
        memcpy(g.values + at, grad_f32(list.items[i]), (size_t)tensor_numel(list.items[i]) * sizeof(float));
    }
    leave(v);
    return g;
}

static void check_equal(const Setting *setting, const Grads *a, const Grads *b, double most)
{
    assert_int_equal(a->count, b->count);
    double off = difference(a->values, b->values, a->count);
    if (!(off <= most) || fabs(a->loss - b->loss) > most * fabs(a->loss))
        fail_msg("%s: gradients are off by %g, the loss is %.9g and %.9g", setting_text(setting), off,
                 a->loss, b->loss);
}

static const Lora with_dropout = {.rank = 3, .dropout = 0.3f};

/* Keeping less computes the same bits; other micro-batches the same up to rounding, masks included. */
static void gradients_are_the_same_however_they_are_computed(void **state)
{
    (void)state;
    static const char *const targets[] = {NULL, "embed_tokens,q_proj,down_proj", "c_attn,wte",
                                          "word_embeddings,dense", "layers.0"};
    static const ModelFamily families[] = {MODEL_LLAMA, MODEL_LLAMA, MODEL_GPT2, MODEL_BERT, MODEL_MLP};
    for (int i = 0; i < 4 + 5; i++) {
        ModelFamily family = i < 4 ? (ModelFamily)i : families[i - 4];
        Lora lora = with_dropout;
        lora.targets = i < 4 ? NULL : targets[i - 4];
        Setting s = {.family = family, .dropout = 0.2f};
        Grads plain = grads_of(&s, &lora, &(Micro){{4}}, 1, 0);
        for (int way = 0; way < 4; way++) {
            Setting other = s;
            other.checkpoint = way == 0 || way == 2;
            other.selective = way == 1 || way == 2;
            other.pattern = way == 3 && family != MODEL_MLP ? "c+" : NULL;
            Grads g = grads_of(&other, &lora, &(Micro){{4}}, 1, 0);
            check_equal(&other, &plain, &g, 0);
            test_free(g.values);
        }
        Grads split = grads_of(&s, &lora, &(Micro){{1, 3}}, 2, 0);
        check_equal(&s, &plain, &split, 2e-5);
        Grads chunked = grads_of(&s, &lora, &(Micro){{4}}, 1, 5);
        check_equal(&s, &plain, &chunked, 2e-5);
        test_free(split.values);
        test_free(chunked.values);
        test_free(plain.values);
    }
}

/* A step along the gradient: the loss rises by its squared length, with the masks as they were. */
static void gradients_are_slopes(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++) {
        Setting s = {.family = (ModelFamily)family};
        Module *model = adapted(&s, &with_dropout);
        backward_of(model, s.family, &(Micro){{4}});
        TensorList list = nn_lora_parameters(model);
        double squares = 0, loss[2];
        for (int i = 0; i < list.count; i++)
            for (int64_t k = 0; k < tensor_numel(list.items[i]); k++)
                squares += (double)grad_f32(list.items[i])[k] * grad_f32(list.items[i])[k];
        float step = 2e-3f / (float)sqrt(squares);
        for (int side = 0; side < 2; side++) {
            float by = side ? step : -step;
            for (int i = 0; i < list.count; i++)
                for (int64_t k = 0; k < tensor_numel(list.items[i]); k++)
                    tensor_f32(list.items[i])[k] += (side ? 2 : 1) * by * grad_f32(list.items[i])[k];
            int scope = tensor_scope_begin();
            Batch batch = small_batch(s.family, 2, 0, 4);
            tensor_no_grad_begin();
            loss[side] = tensor_item(nn_loss(model, &batch));
            tensor_no_grad_end();
            tensor_scope_end(scope);
        }
        double slope = (loss[1] - loss[0]) / (2 * step);
        if (!(fabs(slope / squares - 1) < 2e-2))
            fail_msg("%s: slope %g, squared gradient %g", setting_text(&s), slope, squares);
        assert_fine();
    }
}

static void evaluation_drops_nothing(void **state)
{
    (void)state;
    Setting s = {.family = MODEL_GPT2};
    Module *dropping = adapted(&s, &with_dropout), *plain = adapted(&s, &(Lora){.rank = 3});
    TensorList a = nn_parameters(dropping), b = nn_parameters(plain);
    for (int i = 0; i < a.count; i++)
        memcpy(tensor_f32(b.items[i]), tensor_f32(a.items[i]),
               (size_t)tensor_numel(a.items[i]) * sizeof(float));
    Batch batch = small_batch(MODEL_GPT2, 0, 0, 3);
    tensor_no_grad_begin();
    Tensor *trains = nn_forward(dropping, NULL, &batch), *without = nn_forward(plain, NULL, &batch);
    nn_eval(dropping);
    Tensor *evaluates = nn_forward(dropping, NULL, &batch);
    tensor_no_grad_end();
    assert_true(difference(tensor_f32(trains), tensor_f32(without), tensor_numel(without)) > 1e-3);
    assert_memory_equal(tensor_f32(evaluates), tensor_f32(without),
                        (size_t)tensor_numel(without) * sizeof(float));
}

/* Frozen embeddings below checkpointed blocks: what is trained still gets its gradient. */
static void a_frozen_embedding_and_checkpoints(void **state)
{
    (void)state;
    Lora lora = {.rank = 2, .targets = "layers.0.self_attn.q_proj,layers.2.mlp.down_proj"};
    Setting s = {.family = MODEL_LLAMA, .layers = 3};
    Grads plain = grads_of(&s, &lora, &(Micro){{3}}, 1, 0);
    static const char *const patterns[] = {"ccc", "c++", "c+c", ".c+"};
    for (size_t i = 0; i < COUNT(patterns); i++) {
        s.pattern = patterns[i];
        Grads g = grads_of(&s, &lora, &(Micro){{3}}, 1, 0);
        check_equal(&s, &plain, &g, 0);
        test_free(g.values);
    }
    test_free(plain.values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(gradients_are_the_same_however_they_are_computed),
        TEST(gradients_are_slopes),
        TEST(evaluation_drops_nothing),
        TEST(a_frozen_embedding_and_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
