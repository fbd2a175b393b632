/* A small GPT-2 learns to write, then writes: dropout, clipping, a schedule, and a forward pass of one's own.
 * Read llama.c first.      gpt2 [STEPS] */
#include <brim.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEQ = 64, VOCAB = 256 };

/* Draws byte after byte. The window is always SEQ long, so that each call is planned like the next; the model
 * is causal: what lies behind the text so far does not matter. */
static void write_text(Module *model)
{
    int32_t ids[SEQ] = {'T', 'h', 'e', ' '};
    nn_eval(model);         /* no dropout */
    tensor_no_grad_begin(); /* nothing is kept for backward */
    for (int at = 4; at < SEQ && !error_code(); at++) {
        int scope = tensor_scope_begin();
        Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(1, SEQ), MEM_INPUT, ids)};
        Tensor *all = nn_forward(model, NULL, &batch); /* (1,SEQ,VOCAB) */
        float logits[VOCAB] = {0};                     /* of the last byte */
        tensor_read(all, (at - 1) * (int64_t)sizeof logits, sizeof logits, logits);
        int planning = context_is_meta(context_current()); /* then there is no data */
        double best = -INFINITY;
        for (int i = ' '; !planning && i <= '~'; i++) {
            double noise = -log(-log((rand() + 1.0) / (RAND_MAX + 2.0))); /* makes the largest a fair draw */
            double score = logits[i] / 0.5 + noise;                       /* temperature 0.5 */
            ids[at] = score > best ? i : ids[at];
            best = fmax(best, score);
        }
        if (!planning)
            printf("%s%c", at == 4 ? "\nIt writes: The " : "", (char)ids[at]);
        tensor_scope_end(scope);
    }
    tensor_no_grad_end();
}

static int train(void *argument)
{
    int steps = *(int *)argument;
    Loader *data = data_text("builtin", &(TextOptions){.batch = 16, .seq = SEQ, .seed = 1});
    Module *model = nn_gpt2(
        &(Gpt2Config){.vocab = VOCAB, .dim = 128, .layers = 3, .heads = 4, .max_seq = SEQ, .dropout = 0.05f});
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 5e-3f});
    optim_set_clip(opt, 1.0f); /* the joint norm of all gradients */
    optim_set_schedule(opt, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = steps / 25, .total = steps});

    for (int step = 0; step < steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
    }
    write_text(model);
    return error_code();
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 300;
    return brim_run(train, &steps, &(RunOptions){.title = "gpt2.c: 3 layers, width 128", .every = 30});
}
