/* brim generate: a text continued. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "../base/plural_.h"
#include "../kernels/kernels.h"
#include "several.h"
#include "writing.h"

/* ---- What is written --------------------------------------------------------------------------- */

/* What one sequence has. The token that ends it is none of its text. */
typedef struct Sequence {
    const int32_t *tokens;
    int count, text; /* tokens, and those of them that are text */
    int ended;
} Sequence;

static Sequence sequence_of(const Writing *w, int b)
{
    Sequence s = {.tokens = w->tokens + (int64_t)b * w->options->tokens, .count = w->written};
    while (s.count > 0 && s.tokens[s.count - 1] < 0)
        s.count--;
    s.ended = s.count > 0 && is_end(w, s.tokens[s.count - 1]);
    s.text = s.count - s.ended;
    return s;
}

static int put_sequence(const Writing *w, FILE *out, Sequence s)
{
    TextStream stream;
    if (stream_begin(&stream, out, w->tokenizer, w->prompt, w->prompt_tokens, s.text))
        return -1;
    stream_add(&stream, s.tokens, s.text);
    stream_end(&stream);
    return 0;
}

/* ---- What is asked for ---------------------------------------------------------------------------- */

/* --tokenizer, or that which lies beside the model. EXIT_NO after saying why. */
static int open_tokenizer(const Options *o, Writing *w)
{
    const char *path = o->tokenizer ? o->tokenizer : o->source_tokenizer;
    if (!path)
        return EXIT_DONE;
    w->tokenizer = tokenizer_read(path);
    if (!w->tokenizer)
        return say_error();
    if (tokenizer_vocab(w->tokenizer) <= nn_preset_vocab(&o->preset))
        return EXIT_DONE;
    complain("%s has %" PRId64 " tokens, the model %s only %d", path, tokenizer_vocab(w->tokenizer), o->model,
             nn_preset_vocab(&o->preset));
    return EXIT_NO;
}

/* The tokens that end a text, of the directory that the model or its weights come from. */
static int find_ends(const Options *o, Writing *w)
{
    const char *directory = o->source;
    if (!directory && o->init && is_directory(o->init))
        directory = o->init;
    if (o->ignore_eos || !directory || !io_read_end_tokens(directory, &w->ends))
        return EXIT_DONE;
    return say_error();
}

/* Without a tokenizer a token is a byte. */
static int prompt_bytes(const char *text, int32_t *tokens, int most)
{
    int count = 0;
    for (; text[count] && count < most; count++)
        tokens[count] = (unsigned char)text[count];
    return count;
}

static int prompt_ids(const Writing *w, const char *text, int32_t *tokens)
{
    TokenIds ids = {0};
    if (!w->tokenizer)
        return prompt_bytes(text, tokens, PROMPT_MAX);
    tokenizer_encode(w->tokenizer, text, strlen(text), 1, &ids);
    int count = ids.count < PROMPT_MAX ? (int)ids.count : PROMPT_MAX;
    for (int i = 0; i < count; i++)
        tokens[i] = ids.ids[i];
    tokenizer_ids_free(w->tokenizer, &ids);
    return count;
}

static int fill_prompt(Writing *w, const char *text)
{
    static int32_t prompt[PROMPT_MAX];
    if (strlen(text) > PROMPT_MAX)
        return usage("--prompt has %zu bytes; at most %d are read", strlen(text), PROMPT_MAX);
    w->prompt = prompt;
    w->prompt_tokens = prompt_ids(w, text, prompt);
    int vocab = nn_preset_vocab(&w->options->preset);
    for (int i = 0; i < w->prompt_tokens && !w->tokenizer; i++)
        if (prompt[i] >= vocab)
            return usage(
                "--prompt has the byte %d, but %s knows the tokens 0 to %d: a --tokenizer makes ids of text",
                (int)prompt[i], w->options->model, vocab - 1);
    return w->prompt_tokens ? 0 : usage("--prompt is empty: something must come before the first token");
}

/* The cache's tokens, where --seq does not say: all that are read, as far as the model has positions. */
static int fill_context(Options *o, const Writing *w)
{
    int64_t needed = (int64_t)w->prompt_tokens + o->tokens - 1, most = nn_preset_max_seq(&o->preset);
    if (needed >= INT_MAX)
        return usage("--tokens %d after a prompt of %d token%s: at most %d are possible", o->tokens,
                     w->prompt_tokens, plural(w->prompt_tokens), INT_MAX - w->prompt_tokens);
    if (!o->seq)
        o->seq = (int)(needed < most ? needed : most);
    if (w->prompt_tokens > o->seq)
        return usage("--prompt has %d token%s; %s holds %d", w->prompt_tokens, plural(w->prompt_tokens),
                     o->seq < most ? "a cache of --seq" : o->model, o->seq);
    return 0;
}

static json_t *sequence_json(const Writing *w, Sequence s)
{
    size_t size = stream_bytes(w->tokenizer, w->prompt, w->prompt_tokens, s.tokens, s.text);
    char *bytes = memtrack_host_calloc(NULL, size);
    FILE *memory = bytes ? fmemopen(bytes, size, "w") : NULL;
    json_t *list = json_array();
    for (int i = 0; i < s.count; i++)
        json_array_append_new(list, json_integer(s.tokens[i]));
    if (memory) {
        put_sequence(w, memory, s);
        fclose(memory);
    }
    json_t *sequence = json_pack("{s:o, s:s, s:s}", "tokens", list, "text", bytes ? bytes : "",
                                 "finish_reason", s.ended ? "stop" : "length");
    memtrack_host_free(NULL, bytes, size);
    return sequence;
}

static json_t *writing_json(const Options *o, const Writing *w, const Plan *plan, const RunResult *r,
                            const RankFigures *figures)
{
    json_t *sequences = json_array();
    for (int b = 0; b < o->batch; b++)
        json_array_append_new(sequences, sequence_json(w, sequence_of(w, b)));
    double decode = w->last - w->first;
    json_t *all = json_pack(
        "{s:s, s:s, s:s, s:I, s:i, s:i, s:o, s:f, s:f, s:o, s:o}", "model", o->model, "device", o->device,
        "blas", products_name(o), "parameters", (json_int_t)w->parameters, "prompt_tokens", w->prompt_tokens,
        "cache_tokens", o->seq, "sequences", sequences, "prefill_tokens_per_second",
        (double)w->prompt_tokens * o->batch / (w->first - w->started), "decode_tokens_per_second",
        w->written > 1 ? (double)(w->written - 1) * o->batch / decode : 0.0, "textbook",
        inference_textbook(o, w->parameters), "memory", json_memory(&r->memory, &plan->memory));
    json_object_set_new(all, "active_parameters", json_integer(w->active));
    ranks_run_json(all, o, plan, figures);
    return all;
}

static void print_sequences(const Options *o, const Writing *w)
{
    for (int b = 0; b < o->batch; b++) {
        printf("%s%d: ", b ? "\n\n" : "", b + 1);
        stream_text(stdout, o->prompt);
        put_sequence(w, stdout, sequence_of(w, b));
    }
}

static void print_speed(const Options *o, const Writing *w)
{
    double prefill = w->first - w->started, decode = w->last - w->first;
    int64_t read = (int64_t)w->prompt_tokens * o->batch, written = (int64_t)w->written * o->batch;
    printf("\nprompt: %" PRId64 " token%s, %.0f tokens/s", read, plural(read), (double)read / prefill);
    if (w->written > 1)
        printf("; written: %" PRId64 ", %.1f tokens/s (%.2f ms a token of each sequence)", written,
               (double)(written - o->batch) / decode, 1e3 * decode / (w->written - 1));
    printf("\n");
}

static void print_beginning(const Options *o, const Writing *w, const Plan *plan)
{
    printf("%s  %s parameters%s  %s  %sbatch %d, a cache of %d token%s\n", o->model,
           report_count(w->parameters).text, active_text(w->active, w->parameters).text, weights_text(o).text,
           tensor_text(o).text, o->batch, o->seq, plural(o->seq));
    print_machine(o, plan);
    if (o->adapter)
        printf("Adapter: %s\n", o->adapter);
    if (o->init)
        printf("Weights: %s\n\n", o->init);
    else
        printf("The weights are those of --seed %" PRIu64 ", untrained; --init PATH loads some.\n\n",
               o->seed);
    if (o->batch == 1)
        stream_text(stdout, o->prompt);
    fflush(stdout);
}

static void print_end(const Options *o, const Writing *w, const Plan *plan, const RunResult *result,
                      const RankFigures *figures)
{
    if (o->batch > 1)
        print_sequences(o, w);
    printf("\n");
    print_speed(o, w);
    printf("\n");
    inference_table(o, w->parameters, &plan->memory, &result->memory);
    report_beyond(stdout, &result->memory);
    print_ranks_run(o, figures);
    if (result->segments_off_plan)
        printf("%" PRId64 " segment%s went off the plan\n", result->segments_off_plan,
               plural(result->segments_off_plan));
}

static int write_planned(const Options *o, Writing *w, const Plan *plan)
{
    RunOptions run = run_options(o);
    RunResult result;
    TextStream stream;
    run.quiet = 1;
    if (products_or_say())
        return EXIT_NO;
    say_if_tight(plan, 0);
    if (!o->json)
        print_beginning(o, w, plan);
    if (!o->json && o->batch == 1 &&
        !stream_begin(&stream, stdout, w->tokenizer, w->prompt, w->prompt_tokens, o->tokens))
        w->stream = &stream;
    plan_execute(writing_script, w, &run, plan, &result);
    if (w->stream)
        stream_end(w->stream);
    if (result.status) {
        fflush(stdout);
        if (w->stream && w->written && speaks_alone())
            fprintf(stderr, "\n");
        complain_of_run(result.status, result.error);
        return EXIT_NO;
    }
    RankFigures figures;
    int status = ranks_figures(o, plan, &result, &figures) ? EXIT_NO : EXIT_DONE;
    if (status)
        complain_of_run(ERROR_RANKS,
                        "the text is written, but the figures of the other ranks cannot be reached");
    else if (o->json)
        json_print(writing_json(o, w, plan, &result, &figures));
    else
        print_end(o, w, plan, &result, &figures);
    ranks_figures_free(&figures);
    return status;
}

static int generate(const Options *options)
{
    Options o = *options;
    Writing w = {.options = &o};
    Plan plan = {0};
    o.prompt = o.prompt ? o.prompt : "The ";
    if (open_tokenizer(&o, &w) || find_ends(&o, &w))
        return EXIT_NO;
    if (fill_prompt(&w, o.prompt) || fill_context(&o, &w))
        return EXIT_USAGE;
    size_t bytes = (size_t)o.batch * (size_t)o.tokens * sizeof *w.tokens;
    w.tokens = memtrack_host_alloc(NULL, bytes);
    if (!w.tokens) {
        complain("out of memory for %d x %d tokens", o.batch, o.tokens);
        return EXIT_NO;
    }
    int status = plan_writing(&o, &w, &plan);
    if (!status)
        status = inference_fits(&o, &plan, 1);
    if (!status)
        status = write_planned(&o, &w, &plan);
    plan_free(&plan);
    memtrack_host_free(NULL, w.tokens, bytes);
    tokenizer_free(w.tokenizer);
    return status;
}

int command_generate(const Options *options, int count)
{
    (void)count;
    Options o = *options;
    int done, status = ranks_begin(&o, &done);
    if (status || done)
        return status;
    status = generate(&o);
    ranks_end(&o, status);
    return status;
}
