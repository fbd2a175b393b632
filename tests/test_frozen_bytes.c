/* What is frozen stays as it is, to the last bit: training adapters beside weights of any type, evaluating
 * and writing with them, changes no byte of the weights. */
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "support.h"

enum { TENSORS = 128, STEPS = 7 };

typedef struct Bytes {
    uint64_t hash[TENSORS];
    int count;
} Bytes;

/* FNV-1a of a tensor's bytes, scales and the padding between them included. */
static uint64_t hash_of(const Tensor *tensor)
{
    int64_t bytes = (int64_t)shape_bytes(tensor_dtype(tensor), tensor_shape(tensor));
    unsigned char *data = test_malloc((size_t)bytes);
    assert_int_equal(tensor_read(tensor, 0, bytes, data), 0);
    uint64_t hash = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < bytes; i++)
        hash = (hash ^ data[i]) * 0x100000001b3u;
    test_free(data);
    return hash;
}

/* Of all but the adapters, whether or not they say that they are frozen. */
static Bytes base_bytes(Module *model)
{
    Bytes bytes = {.count = 0};
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++)
        if (!strstr(tensor_name(list.items[i]), ".lora_")) {
            assert_true(bytes.count < TENSORS);
            bytes.hash[bytes.count++] = hash_of(list.items[i]);
        }
    return bytes;
}

static double train_step(Module *model, ModelFamily family, Optimizer *optimizer)
{
    int scope = tensor_scope_begin();
    Batch batch = small_batch(family, 1, 0, 4); /* the same each time: its loss falls */
    Tensor *loss = nn_loss(model, &batch);
    double value = tensor_item(loss);
    tensor_backward(loss);
    optim_step(optimizer);
    optim_zero_grad(optimizer);
    tensor_scope_end(scope);
    assert_fine();
    return value;
}

static void check_frozen(const Setting *setting, const Weights *weights, int in_backward)
{
    int scope = tensor_scope_begin();
    assert_int_equal(nn_set_weights(weights), 0);
    Module *model = small_model(setting);
    assert_int_equal(nn_set_weights(NULL), 0);
    assert_true(nn_add_lora(model, &(Lora){.rank = 4, .alpha = 16, .dropout = 0.1f}) > 0);
    Optimizer *optimizer =
        optim_adamw(nn_parameters(model), &(AdamW){.lr = 2e-2f, .weight_decay = 0.1f, .decay_all = 1});
    optim_set_in_backward(optimizer, in_backward);
    Bytes before = base_bytes(model);
    TensorList trained = nn_lora_parameters(model);
    uint64_t first = hash_of(trained.items[0]);
    double loss = train_step(model, setting->family, optimizer), last = loss;
    for (int step = 1; step < STEPS; step++)
        last = train_step(model, setting->family, optimizer);
    Bytes after = base_bytes(model);
    if (!(last < loss) || hash_of(trained.items[0]) == first)
        fail_msg("%s on %s %s: nothing is learned, loss %g and %g", setting_text(setting),
                 dtype_name(weights->dtype), dtype_name(weights->quantized), loss, last);
    assert_true(before.count > 0 && before.count == after.count);
    for (int i = 0; i < before.count; i++)
        if (before.hash[i] != after.hash[i])
            fail_msg("%s on %s %s: tensor %d of the %d of the base has changed", setting_text(setting),
                     dtype_name(weights->dtype), dtype_name(weights->quantized), i, before.count);
    tensor_scope_end(scope);
}

static void training_changes_no_frozen_byte(void **state)
{
    (void)state;
    static const Weights weights[] = {{.frozen = 1},
                                      {.dtype = DTYPE_BF16},
                                      {.dtype = DTYPE_F16},
                                      {.quantized = DTYPE_INT8},
                                      {.dtype = DTYPE_BF16, .quantized = DTYPE_NF4},
                                      {.dtype = DTYPE_F16, .quantized = DTYPE_NF4_PLAIN}};
    for (int family = 0; family < FAMILIES; family++)
        for (size_t i = 0; i < COUNT(weights); i++) {
            Setting setting = {
                .family = (ModelFamily)family, .checkpoint = i % 2 == 1, .selective = i % 3 == 1};
            check_frozen(&setting, &weights[i], i % 2 == 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(training_changes_no_frozen_byte, fresh_context, leave_context)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
