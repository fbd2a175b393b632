/* A small GPT-2 learns to write, then writes: dropout, clipping, a schedule, and a forward pass of one's own.
 * Read llama.c first.      gpt2 [STEPS [FILE.txt]]          300 steps on the built-in corpus
 */
#include <brim.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEQ = 64, SAMPLE = SEQ, VOCAB = 256 };

typedef struct Config {
    int steps;
    const char *text;
    char written[SAMPLE + 1];
} Config;

/* Draws the next byte from the model's distribution, over and over. The window is always SEQ long, so that
 * every call is planned alike; the model is causal, so what lies behind the text so far does not matter. */
static void write_sample(Module *model, Config *config)
{
    int32_t ids[SEQ] = {'T', 'h', 'e', ' '};
    nn_eval(model);         /* no dropout */
    tensor_no_grad_begin(); /* nothing is kept for backward */
    for (int length = 4; length < SAMPLE && !error_code(); length++) {
        int scope = tensor_scope_begin();
        Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(1, SEQ), MEM_INPUT, ids)};
        const float *logits =
            tensor_f32(nn_forward(model, NULL, &batch)); /* (1,SEQ,VOCAB); no data on meta: NULL */
        double weight[VOCAB], sum = 0;
        for (int i = ' '; logits && i < VOCAB; i++)
            sum += weight[i] = exp(logits[(length - 1) * VOCAB + i] / 0.5); /* temperature 0.5 */
        double left = sum * rand() / ((double)RAND_MAX + 1);
        for (ids[length] = ' '; logits && ids[length] < 126 && (left -= weight[ids[length]]) > 0;)
            ids[length]++;
        tensor_scope_end(scope);
    }
    tensor_no_grad_end();
    for (int i = 0; i < SAMPLE; i++)
        config->written[i] = (char)ids[i];
}

static int train(void *argument)
{
    Config *config = argument;
    Loader *data = data_text(config->text, &(TextOptions){.batch = 16, .seq = SEQ, .seed = 1});
    Module *model = nn_gpt2(
        &(Gpt2Config){.vocab = VOCAB, .dim = 128, .layers = 3, .heads = 4, .max_seq = SEQ, .dropout = 0.05f});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 5e-3f});
    optim_set_clip(optimizer, 1.0f); /* the joint norm of all gradients */
    optim_set_schedule(
        optimizer,
        &(Schedule){.kind = SCHEDULE_COSINE, .warmup = config->steps / 25, .total = config->steps});

    for (int step = 0; step < config->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        double loss = 0;
        for (const Batch *batch; (batch = data_next(data));) {
            Tensor *part = nn_loss(model, batch);
            tensor_backward(part);
            loss += tensor_item(part);
        }
        brim_step(loss, data_step_tokens(data));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    write_sample(model, config);
    return error_code();
}

int main(int argc, char **argv)
{
    Config config = {.steps = argc > 1 ? atoi(argv[1]) : 300, .text = argc > 2 ? argv[2] : "builtin"};
    int status = brim_run(train, &config, &(RunOptions){.title = "gpt2.c: 3 layers, width 128", .every = 30});
    if (!status)
        printf("\nIt writes: %s\n", config.written);
    return status;
}
