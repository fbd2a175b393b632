/* A run that is saved as it goes, and resumed where it stopped: start it, interrupt it, start it again. It
 * trains the same model as one that was never interrupted, to the last bit.                      resume DIR
 * [STEPS] */
#include <brim.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct Config {
    const char *directory;
    SavedRunFound from; /* found once: planning and running begin at the same step */
    int64_t steps;
} Config;

static volatile sig_atomic_t stop;

static void on_interrupt(int number)
{
    (void)number;
    stop = 1;
}

static int train(void *argument)
{
    const Config *c = argument;
    Loader *data = data_text("builtin", &(TextOptions){.batch = 4, .seq = 64, .seed = 1});
    Module *model = nn_llama(&(LlamaConfig){.vocab = 256, .dim = 96, .layers = 2, .heads = 4, .hidden = 256});
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
    SavedRunSetting settings[] = {{"width", "96"}}; /* what must not change from run to run */
    SavedRun run = {
        .model = model, .optimizer = opt, .loader = data, .settings = settings, .setting_count = 1};
    if (c->from.path[0])
        io_load_run(c->from.path, &run, NULL);
    for (int64_t step = optim_steps(opt); step < c->steps && !error_code() && !stop; step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
        if ((step + 1) % 10 == 0)
            io_save_run(c->directory, &run); /* between steps; keeps the newest two */
    }
    return optim_steps(opt) % 10 ? io_save_run(c->directory, &run) : error_code();
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return fprintf(stderr, "usage: resume DIR [STEPS]\n"), 2;
    Config c = {.directory = argv[1], .steps = argc > 2 ? atoi(argv[2]) : 100};
    int lock = io_lock_saved_runs(c.directory); /* nobody else saves there */
    if (lock < 0 || io_find_saved_run(c.directory, &c.from))
        return fprintf(stderr, "resume: %s\n", error_message()), 1;
    signal(SIGINT, on_interrupt);
    return brim_run(train, &c, &(RunOptions){.every = 10, .title = "A run that is resumed where it stopped"});
}
