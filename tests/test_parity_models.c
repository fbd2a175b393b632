/* Each model's logits, loss and all gradients against what PyTorch computed (parity/README.md): eager and
 * flash, with and without checkpointing of every block, with the tuned and the plain kernels. */
#include <math.h>

#include "parity_support.h"

typedef struct Variant {
    AttentionKind attention;
    int checkpoint, threads;
    const char *kernels;
    int chunk; /* rows of the loss head; mlp has none */
} Variant;

/* Parameter p by the formula; checks names and order against the fixture on the way. */
static void set_parameters(const char *what, const Fixture *fixture, Module *model)
{
    TensorList list = nn_parameters(model);
    int p = 0;
    for (int i = 0; i < fixture->count; i++) {
        const char *name = fixture->records[i].name;
        if (strncmp(name, "grad.", 5) != 0)
            continue;
        if (p >= list.count || strcmp(tensor_name(list.items[p]), name + 5) != 0)
            fail_msg("%s: parameter %d is '%s', Hugging Face has '%s'", what, p,
                     p < list.count ? tensor_name(list.items[p]) : "", name + 5);
        Tensor *t = list.items[p];
        assert_memory_equal(tensor_shape(t).dim, fixture->records[i].shape.dim,
                            (size_t)fixture->records[i].shape.ndim * sizeof(int64_t));
        int norm = tensor_shape(t).ndim == 1 && !strcmp(name + strlen(name) - 7, ".weight");
        fill_values(tensor_f32(t), tensor_numel(t), (uint32_t)p, 0.1, norm ? 1 : 0);
        p++;
    }
    assert_int_equal(p, list.count);
}

static Tensor *input(const Fixture *fixture, const char *name)
{
    const Record *r = fixture_find(fixture, 0, name);
    return r ? tensor_from(r->dtype == 1 ? DTYPE_I32 : DTYPE_F32, r->shape, MEM_INPUT, r->data) : NULL;
}

static Batch batch_of(const Fixture *fixture)
{
    Batch batch = {.ids = input(fixture, "ids"),
                   .features = input(fixture, "features"),
                   .types = input(fixture, "types"),
                   .mask = input(fixture, "mask"),
                   .labels = input(fixture, "labels")};
    for (int64_t i = 0; i < tensor_numel(batch.labels); i++)
        batch.labels_total += tensor_i32(batch.labels)[i] != BATCH_IGNORE;
    return batch;
}

static void run_variant(const Fixture *fixture, const char *name, const Variant *variant)
{
    char what[128];
    snprintf(what, sizeof what, "%s %s%s, %s kernels, %d threads, chunk %d", name,
             variant->attention == ATTENTION_EAGER ? "eager" : "flash",
             variant->checkpoint ? " checkpoint" : "", variant->kernels ? variant->kernels : "tuned",
             variant->threads, variant->chunk);
    Visit v = visit(&(ContextOptions){.kernels = variant->kernels, .threads = variant->threads});
    Module *model = parity_model(fixture_find(fixture, 0, "config")->data, variant->attention);
    if (!model)
        fail_msg("%s: %s", what, error_message());
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), variant->checkpoint);
    if (strcmp(nn_class_name(model), "mlp") != 0)
        nn_set_loss_chunk(model, variant->chunk);
    set_parameters(what, fixture, model);
    Batch batch = batch_of(fixture);
    tensor_no_grad_begin();
    Tensor *logits = nn_forward(model, NULL, &batch);
    tensor_no_grad_end();
    assert_parity(what, "logits", fixture_find(fixture, 0, "logits"), tensor_f32(logits), 1);
    Tensor *loss = nn_loss(model, &batch);
    assert_parity(what, "loss", fixture_find(fixture, 0, "loss"), tensor_f32(loss), 1);
    assert_int_equal(tensor_backward(loss), 0);
    TensorList list = nn_parameters(model);
    for (int p = 0; p < list.count; p++) {
        char key[128];
        snprintf(key, sizeof key, "grad.%s", tensor_name(list.items[p]));
        assert_parity(what, key, fixture_find(fixture, 0, key), grad_f32(list.items[p]), 1);
    }
    assert_fine();
    leave(v);
}

static const Variant variants[] = {
    {ATTENTION_FLASH, 0, 1, NULL, 0},        {ATTENTION_EAGER, 0, 1, NULL, 0},
    {ATTENTION_FLASH, 1, 1, NULL, 0},        {ATTENTION_EAGER, 1, 1, NULL, 0},
    {ATTENTION_FLASH, 0, 2, NULL, 0},        {ATTENTION_EAGER, 1, 2, NULL, 0},
    {ATTENTION_FLASH, 0, 1, "reference", 0}, {ATTENTION_EAGER, 1, 1, "reference", 0},
    {ATTENTION_FLASH, 0, 1, NULL, 5},        {ATTENTION_FLASH, 1, 2, NULL, 1},
    {ATTENTION_FLASH, 0, 1, NULL, 1000},     {ATTENTION_EAGER, 1, 1, "reference", 3},
};

static void run_model(void **state)
{
    const char *name = *state;
    char file[64];
    snprintf(file, sizeof file, "model_%s.bin", name);
    Fixture fixture = fixture_open(file);
    for (size_t i = 0; i < COUNT(variants); i++)
        run_variant(&fixture, name, &variants[i]);
    fixture_close(&fixture);
}

#define MODEL(name)                                                                                          \
    {                                                                                                        \
        "test_" name, run_model, NULL, NULL, name                                                            \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        MODEL("mlp"),         MODEL("bert"),           MODEL("gpt2"),
        MODEL("llama"),       MODEL("llama_gqa_tied"), MODEL("llama_head_dim"),
        MODEL("llama_qwen2"), MODEL("llama_biases"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
