/* An image classifier: Fashion-MNIST where Debian's dataset-fashion-mnist is installed, else a table made up
 * here. Read llama.c first.      mlp [EPOCHS]          4 passes over the data
 */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 6000, WIDTH = 64, CLASSES = 10 };

typedef struct Config {
    int epochs;
    double accuracy;
} Config;

/* Points around one centre for each class. data_table copies what it is given. */
static Loader *made_up(unsigned seed)
{
    static float features[ROWS * WIDTH];
    static int32_t labels[ROWS];
    srand(seed);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        labels[i / WIDTH] = i / WIDTH % CLASSES;
        int near = i % WIDTH % CLASSES == i / WIDTH % CLASSES;
        features[i] = (float)near + 3.0f * ((float)rand() / (float)RAND_MAX - 0.5f);
    }
    return data_table(&(TableOptions){.features = features, .labels = labels, .count = ROWS, .width = WIDTH});
}

static Loader *open_data(DataSplit split)
{
    Loader *images = data_images("fashion-mnist", &(ImageOptions){.batch = 128, .seed = 1, .split = split});
    if (images)
        return images;
    error_clear(); /* the package is not installed */
    return made_up(split == DATA_TRAIN ? 1 : 2);
}

/* The share of samples whose largest score is at their label. While planning there is no data: 0. */
static double accuracy(Module *model, Loader *data)
{
    int64_t right = 0, steps = data_steps_per_epoch(data), classes = data_classes(data);
    tensor_no_grad_begin(); /* nothing is kept for backward */
    for (int64_t step = 0; step < steps && !error_code(); step++)
        for (const Batch *batch; (batch = data_next(data));) {
            int scope = tensor_scope_begin();
            const float *score = tensor_f32(nn_forward(model, NULL, batch)); /* (B,classes) */
            const int32_t *label = tensor_i32(batch->labels);                /* (B) */
            for (int64_t i = 0; score && label && i < batch->tokens; i++, score += classes) {
                int best = 0;
                for (int k = 1; k < classes; k++)
                    best = score[k] > score[best] ? k : best;
                right += best == label[i];
            }
            tensor_scope_end(scope);
        }
    tensor_no_grad_end();
    return (double)right / (double)data_samples(data);
}

static int train(void *argument)
{
    Config *config = argument;
    Loader *data = open_data(DATA_TRAIN), *held_out = open_data(DATA_HELD_OUT);
    Module *model = nn_mlp(&(MlpConfig){.sizes = {(int)data_width(data), 256, 128, (int)data_classes(data)}});
    Optimizer *optimizer = optim_adam(nn_parameters(model), &(Adam){.lr = 1e-3f});

    int64_t steps = config->epochs * data_steps_per_epoch(data);
    for (int64_t step = 0; step < steps && !error_code(); step++) {
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
    config->accuracy = accuracy(model, held_out);
    return error_code();
}

int main(int argc, char **argv)
{
    Config config = {.epochs = argc > 1 ? atoi(argv[1]) : 4};
    int status = brim_run(train, &config, &(RunOptions){.title = "mlp.c", .every = 200});
    if (!status)
        printf("Held-out accuracy: %.1f %%\n", 100 * config.accuracy);
    return status;
}
