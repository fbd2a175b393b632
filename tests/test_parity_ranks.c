/* Two ranks beside PyTorch's DistributedDataParallel and FSDP2 on two processes: the same weights, batches
 * and updates (parity/generate_ranks.py). The ranks have unequal numbers of labels. Here they are divided by
 * one number, that of the labels of all ranks; PyTorch's script has to scale its losses to get the same. */
#include <math.h>

#include "../optim/optim.h"
#include "parity_support.h"
#include "ranks_support.h"

enum { RANKS = 2, STEPS = 6 };

typedef struct Training {
    const char *config, *text;
    const Record *ids, *labels;
    RankStrategy strategy;
    int checkpoint;
    /* found */
    double losses[RANKS][STEPS], norms[RANKS][STEPS];
    char error[RANKS][RANK_ERROR];
} Training;

typedef struct Part {
    Training *training;
    int rank;
} Part;

static void set_parameters(Module *model)
{
    enum { MOST = 8192 };
    static _Thread_local float values[MOST];
    TensorList list = nn_parameters(model);
    for (int p = 0; p < list.count; p++) {
        Tensor *t = list.items[p];
        const char *name = tensor_name(t);
        int norm = tensor_shape(t).ndim == 1 && !strcmp(name + strlen(name) - 7, ".weight");
        if (tensor_numel(t) > MOST) {
            error_raise(ERROR_ARGUMENT, "%s is larger than this test's parameters", name);
            return;
        }
        fill_values(values, tensor_numel(t), (uint32_t)p, 0.1, norm ? 1 : 0);
        tensor_write(t, 0, tensor_numel(t) * (int64_t)sizeof *values, values);
    }
}

/* ids or labels (steps, micro-batches, B, T): those of one micro-batch. */
static const int32_t *numbers_of(const Record *record, int step, int micro, Shape *shape)
{
    const int64_t *dim = record->shape.dim;
    *shape = SHAPE(dim[2], dim[3]);
    return (const int32_t *)record->data + (step * dim[1] + micro) * dim[2] * dim[3];
}

static int64_t labels_of_step(const Record *labels, int step)
{
    Shape shape;
    int64_t counted = 0, all = labels->shape.dim[1] * labels->shape.dim[2] * labels->shape.dim[3];
    const int32_t *at = numbers_of(labels, step, 0, &shape);
    for (int64_t i = 0; i < all; i++)
        counted += at[i] != BATCH_IGNORE;
    return counted;
}

static Optimizer *optimizer_of(const char *text, Module *model)
{
    Optimizer *optimizer =
        optim_adamw(nn_parameters(model), &(AdamW){.lr = (float)attribute(text, "lr", 0),
                                                   .beta1 = (float)attribute(text, "beta1", 0),
                                                   .beta2 = (float)attribute(text, "beta2", 0),
                                                   .eps = (float)attribute(text, "eps", 0),
                                                   .weight_decay = (float)attribute(text, "weight_decay", 0),
                                                   .decay_all = (int)attribute(text, "decay_all", 0)});
    optim_set_clip(optimizer, (float)attribute(text, "clip", 0));
    return optimizer;
}

static int script(void *config)
{
    const Part *part = config;
    Training *training = part->training;
    int meta = context_is_meta(context_current()), micros = (int)attribute(training->text, "micros", 1);
    Module *model = parity_model(training->config, ATTENTION_FLASH);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), training->checkpoint);
    set_parameters(model);
    Optimizer *optimizer = optimizer_of(training->text, model);
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (int micro = 0; micro < micros; micro++) {
            Shape shape;
            const int32_t *ids = numbers_of(training->ids, step, part->rank * micros + micro, &shape);
            const int32_t *labels = numbers_of(training->labels, step, part->rank * micros + micro, &shape);
            Batch batch = {.ids = tensor_from(DTYPE_I32, shape, MEM_INPUT, ids),
                           .labels = tensor_from(DTYPE_I32, shape, MEM_INPUT, labels),
                           .labels_total = labels_of_step(training->labels, step),
                           .step = step,
                           .micro = micro,
                           .micros = micros};
            tensor_backward(nn_loss(model, &batch));
        }
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        if (!meta) {
            training->losses[part->rank][step] = tensor_step_loss();
            training->norms[part->rank][step] = optim_grad_norm(optimizer);
        }
        tensor_scope_end(scope);
    }
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Training *training = user;
    Part part = {training, ranks->rank};
    Plan plan;
    return plan_and_run(script, &part, ranks, &plan, training->error[ranks->rank]);
}

static double apart(const float *expected, const double *found)
{
    double most = 0;
    for (int step = 0; step < STEPS; step++) {
        double d = fabs(found[step] - (double)expected[step]) / (double)expected[step];
        most = isnan(d) ? INFINITY : d > most ? d : most;
    }
    return most;
}

/* What PyTorch has under this case, which stands behind its training. */
static const float *pytorch_has(const Fixture *fixture, int at, const char *way, const char *name)
{
    while (at < fixture->count &&
           (strcmp(fixture->records[at].name, "case") != 0 || strcmp(fixture->records[at].data, way) != 0))
        at++;
    const Record *record = fixture_find(fixture, at, name);
    assert_non_null(record);
    assert_int_equal(shape_numel(record->shape), STEPS);
    return record->data;
}

static void compare(const Fixture *fixture, int at, const Training *training)
{
    static const char *const ways[] = {"ddp", "fsdp"};
    for (int r = 0; r < RANKS; r++)
        for (size_t i = 0; i < COUNT(ways); i++) {
            double losses = apart(pytorch_has(fixture, at, ways[i], "losses"), training->losses[r]);
            double norms = apart(pytorch_has(fixture, at, ways[i], "norms"), training->norms[r]);
            if (!(losses <= 1e-5 && norms <= 1e-4))
                fail_msg(
                    "%.5s %s, checkpoint %d, rank %d: losses are %g and norms %g apart from PyTorch's %s",
                    training->config, ranks_strategy_name(training->strategy), training->checkpoint, r,
                    losses, norms, ways[i]);
        }
    /* A mean of the ranks' own means is another training, and would be seen. */
    assert_true(apart(pytorch_has(fixture, at, "means", "losses"), training->losses[0]) > 1e-3);
}

static void check(void **state)
{
    const char *name = *state;
    Fixture fixture = fixture_open("ranks.bin");
    int at = 0;
    while (at < fixture.count &&
           (strcmp(fixture.records[at].name, "config") != 0 || !kind_is(fixture.records[at].data, name)))
        at++;
    assert_true(at < fixture.count);
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
            Training training = {.config = fixture_find(&fixture, at, "config")->data,
                                 .text = fixture_find(&fixture, at, "training")->data,
                                 .ids = fixture_find(&fixture, at, "ids"),
                                 .labels = fixture_find(&fixture, at, "labels"),
                                 .strategy = (RankStrategy)strategy,
                                 .checkpoint = checkpoint};
            assert_int_equal(training.ids->shape.dim[0], STEPS);
            int failed = as_ranks(RANKS, training.strategy, body, &training);
            for (int r = 0; r < RANKS; r++)
                if (training.error[r][0])
                    fail_msg("%s: rank %d: %s", name, r, training.error[r]);
            assert_int_equal(failed, 0);
            compare(&fixture, at, &training);
        }
    fixture_close(&fixture);
}

#define TRAINING(name)                                                                                       \
    {                                                                                                        \
        "test_" name, check, NULL, NULL, name                                                                \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {TRAINING("llama"), TRAINING("gpt2")};
    return cmocka_run_group_tests_name("ranks beside PyTorch's", tests, NULL, NULL);
}
