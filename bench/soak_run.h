/* A run of the soak: a training script with everything on, looked at after each thing it does. */
#ifndef BRIM_BENCH_SOAK_RUN_H
#define BRIM_BENCH_SOAK_RUN_H

#include "../base/clock_.h"
#include "../text/tokenizer.h"
#include "../io/saved_run.h"
#include "../base/file_.h"
#include "../nn/sample.h"
#include "../plan/plan.h"
#include "../report/runlog.h"
#include "soak.h"

static FileCalls real_calls;
static Phase *saving_phase;

/* ---- A run ----------------------------------------------------------------------------------- */

typedef struct Run {
    Phase *phase;
    Tokenizer *tokenizer;
    Loader *train, *held_out;
    Module *model;
    Optimizer *optimizer;
    int meta, all_decoded;
} Run;

static RunOutline *outline;
static RunLog *run_log;

static int open_text(Run *r)
{
    const Phase *p = r->phase;
    static int64_t tokens; /* counted once, so that planning does not encode the text */
    TokenOptions o = {.batch = p->preset->batch,
                      .seq = p->preset->seq,
                      .accumulate = p->accumulate,
                      .seed = 1,
                      .tokens = tokens};
    if (!(r->tokenizer = tokenizer_read(soak.tokenizer)))
        return error_code();
    o.tokenizer = r->tokenizer;
    r->train = data_tokens(soak.text, &o);
    o.split = DATA_HELD_OUT;
    o.accumulate = 1;
    o.max_samples = 3 * o.batch;
    r->held_out = data_tokens(soak.text, &o);
    tokens = data_token_count(r->train);
    return error_code();
}

static int open_images(Run *r)
{
    const Phase *p = r->phase;
    ImageOptions o = {.batch = p->preset->batch, .accumulate = p->accumulate, .seed = 1};
    r->train = data_images(soak.images, &o);
    o.split = DATA_HELD_OUT;
    o.accumulate = 1;
    r->held_out = data_images(soak.images, &o);
    return error_code();
}

static SavedRun saved_run(const Run *r)
{
    return (SavedRun){.model = r->model, .optimizer = r->optimizer, .loader = r->train, .keep = KEEP};
}

/* The log first: it sees the events from the first on. A round goes on with the weights of the one before. */
static int open_run(Run *r)
{
    const MemLedger *ledger = context_ledger(context_current());
    if (r->meta ? report_outline_record(outline, (MemLedger *)(uintptr_t)ledger)
                : report_log_attach(run_log, (MemLedger *)(uintptr_t)ledger))
        return error_raise(ERROR_HOST_MEMORY, "no memory for the log");
    if (r->phase->images ? open_images(r) : open_text(r))
        return error_code();
    r->model = nn_model(r->phase->preset);
    r->optimizer = optim_adamw(nn_parameters(r->model), &(AdamW){.lr = 1e-3f, .weight_decay = 0.1f});
    if (nn_block_count(r->model))
        nn_set_checkpoint_every(r->model, 2);
    if (r->phase->loss_chunk)
        nn_set_loss_chunk(r->model, r->phase->loss_chunk);
    optim_set_clip(r->optimizer, 1);
    SavedRunFound found = {0};
    SavedRun run = saved_run(r);
    if (r->phase->steps && !io_find_saved_run(soak.saves, &found) && found.path[0])
        io_load_run(found.path, &run, NULL);
    if (!r->meta && !r->phase->steps) {
        r->phase->watch.ledger = ledger;
        watch_look(&r->phase->watch, DEED_START);
    }
    return error_code();
}

static void train_step(Run *r)
{
    int scope = tensor_scope_begin();
    for (const Batch *b; (b = data_next(r->train));)
        tensor_backward(nn_loss(r->model, b));
    brim_step(data_step_tokens(r->train));
    optim_step(r->optimizer);
    optim_zero_grad(r->optimizer);
    tensor_scope_end(scope);
}

static void evaluate(Run *r)
{
    double loss = 0;
    int64_t labels = 0;
    tensor_no_grad_begin();
    nn_eval(r->model);
    data_seek(r->held_out, (DataCursor){.seed = 1});
    for (int64_t i = 0, n = data_steps_per_epoch(r->held_out); i < n && !error_code(); i++)
        for (const Batch *b; (b = data_next(r->held_out));) {
            int scope = tensor_scope_begin();
            loss += tensor_item(nn_loss(r->model, b)) * (double)b->labels_total;
            labels += b->labels_total;
            tensor_scope_end(scope);
        }
    nn_train(r->model);
    tensor_no_grad_end();
    if (!r->meta)
        report_log_validation(run_log, &(RunLogValidation){.step = optim_steps(r->optimizer),
                                                           .loss = labels ? loss / (double)labels : 0,
                                                           .accuracy = -1});
    r->phase->evaluations += !r->meta;
}

static int take_tokens(void *user, const int32_t *tokens, int batch)
{
    Run *r = user;
    TokenText text = {0};
    (void)batch;
    tokenizer_decode(r->tokenizer, tokens, 1, 1, &text);
    tokenizer_text_free(r->tokenizer, &text);
    r->phase->written++;
    return 0;
}

/* The prompt is encoded each time, each token decoded; the first time every token, for the tokenizer's
 * buffers become as large as the longest needs. */
static void write_text(Run *r)
{
    TokenIds prompt = {0};
    TokenText text = {0};
    for (int32_t id = 0; id < tokenizer_vocab(r->tokenizer) && !r->all_decoded; id++) {
        tokenizer_decode(r->tokenizer, &id, 1, 1, &text);
        tokenizer_text_free(r->tokenizer, &text);
    }
    r->all_decoded = 1;
    tokenizer_encode(r->tokenizer, "The river and the old bridge", 28, 0, &prompt);
    nn_generate(r->model, &(GenerateOptions){.prompt = prompt.ids,
                                             .prompt_tokens = (int)prompt.count,
                                             .tokens = WRITTEN,
                                             .sample = {.temperature = 0.8f, .top_k = 40, .seed = 1},
                                             .written = take_tokens,
                                             .user = r});
    tokenizer_ids_free(r->tokenizer, &prompt);
}

/* The moment of the most disk: the new save is whole, the oldest not yet gone. */
static int look_and_rename(const char *from, const char *to)
{
    int entries;
    uint64_t bytes = watch_disk(soak.saves, &entries);
    if (saving_phase && bytes > saving_phase->disk_most)
        saving_phase->disk_most = bytes;
    if (saving_phase && entries > saving_phase->entries_most)
        saving_phase->entries_most = entries;
    return real_calls.rename(from, to);
}

static void save(Run *r)
{
    SavedRun run = saved_run(r);
    int entries;
    saving_phase = r->phase;
    if (io_save_run(soak.saves, &run) || r->meta)
        return;
    uint64_t bytes = watch_disk(soak.saves, &entries);
    r->phase->saves++;
    r->phase->save_bytes = bytes / (uint64_t)(entries ? entries : 1);
    if (entries > KEEP)
        watch_fail(&r->phase->watch, "%d saves are kept, not %d", entries, KEEP);
}

/* ---- Steps of a run -------------------------------------------------------------------------- */

static void note_times(Times *t, double cpu, double wall)
{
    struct stat status;
    if (t->count == TIMES)
        return;
    int i = t->count++;
    t->cpu[i] = cpu;
    t->wall[i] = wall;
    t->control[i] = control();
    t->ratio[i] = cpu / t->control[i];
    t->log_bytes[i] = stat(soak.log, &status) ? 0 : (uint32_t)status.st_size;
}

static void watched_step(Run *r)
{
    Phase *p = r->phase;
    int is_short = data_next_step_is_short(r->train);
    float lr = optim_lr(r->optimizer);
    double cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID), wall = clock_now();
    train_step(r);
    if (!r->meta)
        plant(p, clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = clock_now() - wall;
    if (r->meta || error_code())
        return;
    p->watch.step = optim_steps(r->optimizer);
    p->epochs = data_epoch(r->train);
    p->done++;
    report_log_step(run_log, context_ledger(context_current()),
                    &(RunLogStep){.step = p->watch.step,
                                  .loss = tensor_step_loss(),
                                  .lr = (double)lr,
                                  .seconds = wall,
                                  .tokens = data_step_tokens(r->train)});
    if (p->steps)
        return;
    watch_look(&p->watch, is_short ? DEED_SHORT_STEP : DEED_STEP);
    if (!is_short)
        note_times(p->times, cpu, wall);
}

static void look(Run *r, Deed deed)
{
    if (!r->meta && !r->phase->steps)
        watch_look(&r->phase->watch, deed);
}

/* What is due after a step. On meta, after the second: each once. */
static void after_step(Run *r, int64_t step)
{
    Phase *p = r->phase;
    int64_t done = r->meta ? step == 1 ? 0 : 1 : step + 1; /* 0 is a multiple of everything */
    if (p->save_every && done % p->save_every == 0 && !error_code()) {
        save(r);
        look(r, DEED_SAVE);
    }
    if (p->evaluate_every && done % p->evaluate_every == 0 && !error_code()) {
        evaluate(r);
        look(r, DEED_EVALUATE);
    }
    if (p->write_every && done % p->write_every == 0 && !error_code()) {
        write_text(r);
        look(r, DEED_WRITE);
    }
}

/* Everything a phase does has happened twice, old saves have gone twice, and an epoch is over. */
static void see_if_warm(Phase *p)
{
    int64_t often = p->evaluate_every > p->write_every ? p->evaluate_every : p->write_every;
    p->watch.warm = p->epochs > 0 && p->done >= 2 * often && p->done >= (KEEP + 2) * p->save_every;
}

/* Or too little has been compared, on a machine that is busy; of a slow-down that grows with each step there
 * must be more than its noise. */
static int time_is_left(const Phase *p)
{
    double seconds = clock_now() - p->started;
    int few = p->watch.compared < 12 || (soak.plant == PLANT_SLOW && p->times->count < 300);
    return seconds < p->seconds || (few && !p->watch.failures && seconds < 240);
}

/* On meta two steps, and the short one that ends an epoch. */
static int goes_on(Run *r, int64_t step)
{
    const Phase *p = r->phase;
    if (error_code())
        return 0;
    if (r->meta && step == 2) {
        DataCursor cursor = data_cursor(r->train);
        cursor.position = (data_steps_per_epoch(r->train) - 1) * p->preset->batch * p->accumulate;
        return !data_seek(r->train, cursor);
    }
    if (r->meta || p->steps)
        return step < (r->meta ? 2 : p->steps);
    return time_is_left(p);
}

static int train_script(void *config)
{
    Run r = {.phase = config, .meta = context_is_meta(context_current())};
    open_run(&r);
    for (int64_t step = 0; goes_on(&r, step); step++) {
        watched_step(&r);
        after_step(&r, step);
        if (!r.meta)
            see_if_warm(r.phase);
    }
    return error_code();
}

#endif
