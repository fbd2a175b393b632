/* An image classifier: Fashion-MNIST where Debian's dataset-fashion-mnist is installed, else a table made up
 * here. Read llama.c first.      mlp [EPOCHS] */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 6000, WIDTH = 64, CLASSES = 10 };

static Loader *open_data(DataSplit split)
{
    static float features[ROWS * WIDTH]; /* data_table copies what it is given */
    static int32_t labels[ROWS];
    Loader *images = data_images("fashion-mnist", &(ImageOptions){.batch = 128, .seed = 1, .split = split});
    if (images)
        return images;
    error_clear();                           /* the package is not installed */
    for (int i = 0; i < ROWS * WIDTH; i++) { /* points around one centre for each class */
        int class = labels[i / WIDTH] = i / WIDTH % CLASSES;
        features[i] = (float)(i % WIDTH % CLASSES == class) + 3 * ((float)rand() / (float)RAND_MAX - 0.5f);
    }
    return data_table(&(TableOptions){.features = features, .labels = labels, .count = ROWS, .width = WIDTH});
}

static int train(void *epochs)
{
    Loader *data = open_data(DATA_TRAIN), *held_out = open_data(DATA_HELD_OUT);
    Module *model = nn_mlp(&(MlpConfig){.sizes = {(int)data_width(data), 256, 128, (int)data_classes(data)}});
    Optimizer *opt = optim_adam(nn_parameters(model), &(Adam){.lr = 1e-3f});

    for (int64_t left = *(int *)epochs * data_steps_per_epoch(data); left > 0 && !error_code(); left--) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
    }

    int64_t right = 0;
    tensor_no_grad_begin(); /* nothing is kept for backward */
    for (int64_t left = data_steps_per_epoch(held_out); left > 0 && !error_code(); left--) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(held_out));)
            right += tensor_count_correct(nn_forward(model, NULL, b), b->labels);
        tensor_scope_end(scope);
    }
    tensor_no_grad_end();
    if (!context_is_meta(context_current()) && !error_code()) /* once: not while planning */
        printf("\nHeld-out accuracy: %.1f %%\n", 100.0 * (double)right / (double)data_samples(held_out));
    return error_code();
}

int main(int argc, char **argv)
{
    int epochs = argc > 1 ? atoi(argv[1]) : 4;
    return brim_run(train, &epochs, &(RunOptions){.title = "mlp.c: hidden layers 256 and 128", .every = 200});
}
