/* A small BERT learns to fill in masked bytes, and is tested on text it has not seen.
 * Read llama.c first.      bert [STEPS] */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

static double evaluate(Module *model, Loader *data, int steps)
{
    double sum = 0;
    nn_eval(model);         /* no dropout, if the model has any */
    tensor_no_grad_begin(); /* nothing is kept for backward */
    for (int step = 0; step < steps && !error_code(); step++)
        for (const Batch *b; (b = data_next(data));) {
            int scope = tensor_scope_begin();
            sum += tensor_item(nn_loss(model, b));
            tensor_scope_end(scope);
        }
    tensor_no_grad_end();
    nn_train(model);
    return sum / steps;
}

static int train(void *argument)
{
    int steps = *(int *)argument;
    TextOptions text = {.batch = 32, .seq = 32, .seed = 1, .mask_probability = 0.15f};
    Loader *data = data_text("builtin", &text);
    text.split = DATA_HELD_OUT;
    Loader *held_out = data_text("builtin", &text);
    Module *model =
        nn_bert(&(BertConfig){.vocab = TOKEN_VOCAB, .dim = 64, .layers = 2, .heads = 4, .max_seq = 32});
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 3e-3f});
    optim_set_schedule(opt, &(Schedule){.kind = SCHEDULE_LINEAR, .warmup = steps / 15, .total = steps});

    for (int step = 0; step < steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b)); /* over the masked positions only */
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
    }
    double loss = evaluate(model, held_out, 8);
    if (!context_is_meta(context_current()) && !error_code()) /* once: not while planning */
        printf("\nHeld-out loss: %.3f\n", loss);
    return error_code();
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 1000;
    return brim_run(train, &steps, &(RunOptions){.title = "bert.c: 2 layers, width 64", .every = 100});
}
