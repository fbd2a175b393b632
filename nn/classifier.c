/* The head of a sequence classifier: the first token's hidden state, or the mean of all, a dense layer, a
 * norm where the family has one, dropout, the classes. Its layers are children of the model itself, because
 * their names in files are (transformers'). */
#include "module_.h"

/* What is new in a model that adapters are added to is trained with them, in f32: as PEFT does it. */
static Module *head_layer(Module *model, const char *name, const LinearOptions *options, int stays)
{
    Context *context = model->item.context;
    DType type = context->weights.dtype, quantized = context->weights.quantized;
    if (context->weights.frozen && stays)
        context->weights.dtype = context->weights.quantized = DTYPE_F32;
    Module *layer = nn_add(model, name, module_linear(options));
    context->weights.dtype = type;
    context->weights.quantized = quantized;
    if (layer)
        layer->stays = stays;
    return layer;
}

int module_add_classifier(Module *model, Classifier *head, const ClassifierKind *kind,
                          const ClassifierSizes *c)
{
    float p = c->head_dropout < 0 ? 0 : c->head_dropout > 0 ? c->head_dropout : c->dropout;
    const LinearOptions dense = {.in = c->dim, .out = c->dim, .bias = !c->no_dense_bias, .act = kind->act};
    const LinearOptions out = {.in = c->dim, .out = c->classes, .bias = 1, .head = 1};
    head->before = kind->dropout_before ? nn_add(model, "dropout_before", nn_dropout(p)) : NULL;
    head->dense = head_layer(model, kind->dense, &dense, kind->dense_stays);
    head->norm =
        kind->norm ? nn_add(model, kind->norm, module_layer_norm(c->dim, c->norm_eps, c->norm_bias)) : NULL;
    head->mean = c->mean;
    head->dropout = nn_add(model, "dropout", nn_dropout(p));
    head->out = head_layer(model, kind->out, &out, 1);
    return error_code();
}

Tensor *module_classify(const Classifier *head, Tensor *hidden, const Batch *batch)
{
    Tensor *x = head->mean ? tensor_mean_tokens(hidden, batch ? batch->mask : NULL)
                           : tensor_first(hidden); /* (B,C) */
    if (head->before)
        x = nn_forward(head->before, tensor_donate(x), batch);
    x = nn_forward(head->dense, tensor_donate(x), batch);
    if (head->norm)
        x = nn_forward(head->norm, tensor_donate(x), batch);
    x = nn_forward(head->dropout, tensor_donate(x), batch);
    return nn_forward(head->out, tensor_donate(x), batch); /* (B,classes) */
}
