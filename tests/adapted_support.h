/* What the tests of adapters on small models share: adapters that change something, and backward of
 * micro-batches. */
#ifndef TEST_ADAPTED_SUPPORT_H
#define TEST_ADAPTED_SUPPORT_H

#include <math.h>

#include "../nn/lora.h"
#include "../optim/optim.h"
#include "support.h"

static inline Module *adapted(const Setting *setting, const Lora *lora)
{
    Module *model = small_model(setting);
    if (nn_add_lora(model, lora) <= 0)
        fail_msg("%s: %s", setting_text(setting), error_message());
    /* B is 0 at first, which leaves A without a gradient. */
    TensorList list = nn_lora_parameters(model);
    for (int i = 0; i < list.count; i++)
        fill_values(tensor_f32(list.items[i]), tensor_numel(list.items[i]), 40 + (uint32_t)i, 0.2, 0);
    return model;
}

static inline double backward_of(Module *model, ModelFamily family, const Micro *micro)
{
    double loss = 0;
    int scope = tensor_scope_begin();
    int64_t labels = 0;
    for (int i = 0, first = 0; micro->sizes[i]; first += micro->sizes[i++])
        labels += small_batch(family, 2, first, micro->sizes[i]).labels_counted;
    for (int i = 0, first = 0; micro->sizes[i]; first += micro->sizes[i++]) {
        Batch batch = small_batch(family, 2, first, micro->sizes[i]);
        batch.labels_total = labels;
        Tensor *part = nn_loss(model, &batch);
        loss += tensor_item(part);
        tensor_backward(part);
    }
    tensor_scope_end(scope);
    assert_fine();
    return loss;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

#endif
