/* See writing.h. */
#include "writing.h"

#include <string.h>

#include "../base/clock_.h"
#include "../tensor/ranks_.h"
#include "lora.h"
#include "several.h"

int is_end(const Writing *w, int32_t token)
{
    for (int i = 0; i < w->ends.count; i++)
        if (w->ends.ids[i] == token)
            return 1;
    return 0;
}

static int note_tokens(void *user, const int32_t *tokens, int batch)
{
    Writing *w = user;
    w->last = clock_now();
    if (!w->written)
        w->first = w->last;
    for (int b = 0; b < batch; b++)
        w->tokens[(int64_t)b * w->options->tokens + w->written] = tokens[b];
    w->written++;
    if (w->stream && !is_end(w, tokens[0])) {
        stream_add(w->stream, tokens, 1);
        fflush(stdout);
    }
    return 0;
}

/* As it is written with, or NULL with an error raised. */
static Module *make_model(Writing *w)
{
    const Options *o = w->options;
    store_weights(o);
    Module *model = nn_model(&o->preset);
    w->parameters = nn_parameter_count(model); /* without adapters */
    w->active = nn_active_count(model);
    if (!load_initial(o, model))
        add_adapters(o, model);
    return error_code() ? NULL : model;
}

int writing_script(void *config)
{
    Writing *w = config;
    const Options *o = w->options;
    Module *model = make_model(w);
    if (!model)
        return error_code();
    w->started = clock_now();
    int status = nn_generate(
        model,
        &(GenerateOptions){
            .prompt = w->prompt,
            .prompt_tokens = w->prompt_tokens,
            .tokens = o->tokens,
            .batch = o->batch,
            .context = o->seq,
            .prefill = o->prefill,
            .cached = o->weights,
            .sample = {.temperature = o->temperature, .top_k = o->top_k, .top_p = o->top_p, .seed = o->seed},
            .stop = w->ends.ids,
            .stops = w->ends.count,
            .written = note_tokens,
            .user = w});
    w->sent = context_traffic_(context_current()).sent;
    return status;
}

int writes(const Options *o)
{
    return nn_family(o->preset.family)->writes;
}

/* Of a model that does not write: one forward, of which nothing is kept. */
static int forward_script(void *config)
{
    Writing *w = config;
    const Options *o = w->options;
    Module *model = make_model(w);
    if (!model)
        return error_code();
    nn_eval(model);
    tensor_no_grad_begin();
    int scope = tensor_scope_begin();
    Batch batch = {0};
    if (nn_family(o->preset.family)->reads == MODEL_READS_TEXT)
        batch.ids = tensor_zeros(DTYPE_I32, SHAPE(o->batch, o->seq), MEM_INPUT);
    else
        batch.features =
            tensor_zeros(DTYPE_F32, SHAPE(o->batch, nn_preset_sizes(&o->preset).inputs), MEM_INPUT);
    nn_forward(model, NULL, &batch);
    tensor_scope_end(scope);
    tensor_no_grad_end();
    w->sent = context_traffic_(context_current()).sent;
    return error_code();
}

/* What a rank sends for a token of each sequence: that of a text of one. */
static uint64_t sent_a_token(const Options *o, const Writing *w, const RunOptions *run)
{
    Options one = *o;
    Writing short_one = *w;
    Plan plan;
    if (!has_ranks(o) || !writes(o))
        return w->sent;
    one.tokens = 1;
    short_one.options = &one;
    short_one.prompt_tokens = 1;
    plan_script(writing_script, &short_one, run, &plan);
    plan_free(&plan);
    return short_one.sent;
}

int plan_inference(const Options *o, Writing *w, Plan *plan)
{
    RunOptions run = run_options(o);
    run.budget = 0;
    if (!plan_script(writes(o) ? writing_script : forward_script, w, &run, plan))
        plan->step_sent = sent_a_token(o, w, &run);
    return plan->status;
}

int plan_writing(const Options *o, Writing *w, Plan *plan)
{
    if (!plan_inference(o, w, plan))
        return EXIT_DONE;
    complain("%s", plan->error);
    return EXIT_NO;
}

void writing_of_seq(Options *o, Writing *w)
{
    static int32_t prompt[PROMPT_MAX]; /* on meta nothing of it is read */
    int chunk = o->prefill ? o->prefill : 512;
    *w = (Writing){.options = o, .prompt = prompt};
    w->prompt_tokens = o->seq < PROMPT_MAX ? o->seq : PROMPT_MAX;
    w->prompt_tokens = w->prompt_tokens > chunk ? chunk : w->prompt_tokens;
    o->tokens = o->seq - w->prompt_tokens + 1;
}
