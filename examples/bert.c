/* A small BERT learns to fill in masked bytes: masked data, evaluation on a held-out part.
 * Read llama.c first.      bert [STEPS [FILE.txt]]          1000 steps on the built-in corpus
 */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct Config {
    int steps;
    const char *text;
    double held_out_loss;
} Config;

static Loader *open_text(const Config *config, DataSplit split)
{
    return data_text(config->text, &(TextOptions){.batch = 32,
                                                  .seq = 32, /* [CLS], 30 bytes, [SEP] */
                                                  .seed = 1,
                                                  .split = split,
                                                  .mask_probability = 0.15f});
}

static double evaluate(Module *model, Loader *data)
{
    double sum = 0, steps = 0;
    nn_eval(model);         /* no dropout, if the model has any */
    tensor_no_grad_begin(); /* nothing is kept for backward */
    for (; steps < 8 && !error_code(); steps++)
        for (const Batch *batch; (batch = data_next(data));) {
            int scope = tensor_scope_begin();
            sum += tensor_item(nn_loss(model, batch));
            tensor_scope_end(scope);
        }
    tensor_no_grad_end();
    nn_train(model);
    return sum / steps;
}

static int train(void *argument)
{
    Config *config = argument;
    Loader *data = open_text(config, DATA_TRAIN), *held_out = open_text(config, DATA_HELD_OUT);
    Module *model =
        nn_bert(&(BertConfig){.vocab = TOKEN_VOCAB, .dim = 64, .layers = 2, .heads = 4, .max_seq = 32});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 3e-3f});
    optim_set_schedule(
        optimizer,
        &(Schedule){.kind = SCHEDULE_LINEAR, .warmup = config->steps / 15, .total = config->steps});

    for (int step = 0; step < config->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        double loss = 0;
        for (const Batch *batch; (batch = data_next(data));) {
            Tensor *part = nn_loss(model, batch); /* over the masked positions only */
            tensor_backward(part);
            loss += tensor_item(part);
        }
        brim_step(loss, data_step_tokens(data));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    config->held_out_loss = evaluate(model, held_out);
    return error_code();
}

int main(int argc, char **argv)
{
    Config config = {.steps = argc > 1 ? atoi(argv[1]) : 1000, .text = argc > 2 ? argv[2] : "builtin"};
    int status = brim_run(train, &config, &(RunOptions){.title = "bert.c: 2 layers, width 64", .every = 100});
    if (!status)
        printf("Held-out loss: %.3f\n", config.held_out_loss);
    return status;
}
