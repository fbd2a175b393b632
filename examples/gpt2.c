/* A small GPT-2 learns to write, then writes: schedule, clipping, dropout, and a forward pass of one's own.
 *
 *     gpt2 [STEPS [FILE.txt]]          150 steps on the built-in corpus
 *
 * Read llama.c first.
 */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

enum { SEQ = 128, SAMPLE = 100 };

typedef struct Config {
    int steps;
    const char *text;
    char written[SAMPLE + 1];
} Config;

/* The likeliest byte after text[0..length). The window is always SEQ long, so that every call is planned alike; the
 * model is causal, so what lies behind the text does not matter. */
static char next_byte(Module *model, const char *text, int length)
{
    int32_t ids[SEQ] = {0};
    for (int i = 0; i < length; i++)
        ids[i] = (unsigned char)text[i];
    int scope = tensor_scope_begin();
    Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(1, SEQ), MEM_INPUT, ids)};
    Tensor *logits = nn_forward(model, NULL, &batch); /* (1,SEQ,256) */
    const float *row = tensor_f32(logits);            /* NULL while planning: there is no data then */
    int best = 0;
    for (int i = 0; row && i < 256; i++)
        if (row[(length - 1) * 256 + i] > row[(length - 1) * 256 + best])
            best = i;
    tensor_scope_end(scope);
    return (char)(best < ' ' ? ' ' : best);
}

static void write_sample(Module *model, Config *config)
{
    int length = snprintf(config->written, sizeof config->written, "The ");
    nn_eval(model);         /* no dropout */
    tensor_no_grad_begin(); /* nothing is kept for backward */
    while (length < SAMPLE && !error_code()) {
        config->written[length] = next_byte(model, config->written, length);
        config->written[++length] = '\0';
    }
    tensor_no_grad_end();
}

static int train(void *argument)
{
    Config *config = argument;
    Loader *data = data_text(config->text, &(TextOptions){.batch = 8, .seq = SEQ, .seed = 1});
    Module *model =
        nn_gpt2(&(Gpt2Config){.vocab = 256, .dim = 192, .layers = 4, .heads = 6, .max_seq = SEQ, .dropout = 0.05f});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 3e-3f, .weight_decay = 0.1f});
    optim_set_clip(optimizer, 1.0f);
    optim_set_schedule(optimizer, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = 10, .total = config->steps});

    for (int step = 0; step < config->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        Tensor *loss = nn_loss(model, data_next(data));
        tensor_backward(loss);
        data_finish_step(data);
        brim_step(tensor_item(loss), data_step_tokens(data));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    write_sample(model, config);
    return error_code();
}

int main(int argc, char **argv)
{
    Config config = {.steps = argc > 1 ? atoi(argv[1]) : 150, .text = argc > 2 ? argv[2] : "builtin"};
    int status =
        brim_run(train, &config, &(RunOptions){.title = "gpt2.c: 4 layers, width 192, dropout 0.05", .every = 15});
    if (!status)
        printf("\nIt writes: %s\n", config.written);
    return status;
}
