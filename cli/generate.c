/* brim generate, and brim plan --inference: a text continued, and what that needs beside the textbook's
 * weights x 1.2. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "../base/clock_.h"
#include "../base/plural_.h"
#include "../kernels/kernels.h"
#include "../estimate/formulae.h"
#include "cli.h"
#include "lora.h"
#include "stream.h"

/* ---- The script ------------------------------------------------------------------------------ */

enum { PROMPT_MAX = 1 << 16 };

typedef struct Writing {
    const Options *options;
    int32_t *prompt, *tokens; /* tokens (B, options->tokens), -1 behind an end */
    int prompt_tokens, written;
    Tokenizer *tokenizer; /* NULL: bytes */
    IoEndTokens ends;
    int64_t parameters;
    double started, first, last; /* seconds: of the prompt, the first token, the last */
    TextStream *stream;          /* of a single sequence, as it comes; NULL: later */
} Writing;

static int is_end(const Writing *w, int32_t token)
{
    for (int i = 0; i < w->ends.count; i++)
        if (w->ends.ids[i] == token)
            return 1;
    return 0;
}

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
    if (!load_initial(o, model))
        add_adapters(o, model);
    return error_code() ? NULL : model;
}

static int writing_script(void *config)
{
    Writing *w = config;
    const Options *o = w->options;
    Module *model = make_model(w);
    if (!model)
        return error_code();
    w->started = clock_now();
    return nn_generate(
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
}

static int writes(const Options *o)
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
    return error_code();
}

/* ---- What it needs --------------------------------------------------------------------------- */

/* Keys and values are kept as weights are stored, but for those that are quantised. */
static int64_t cached_bytes(const Options *o)
{
    return (int64_t)dtype_bytes(o->weights, 1, 1);
}

/* Keys and values of so many tokens of each sequence, by the formula. */
static int64_t cache_formula(const Options *o, int64_t tokens)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    LlamaShape shape = {.layers = sizes.layers,
                        .heads = sizes.heads,
                        .kv_heads = sizes.kv_heads,
                        .dim = (int64_t)sizes.heads * sizes.head_dim};
    return estimate_kv_cache_bytes(&shape, tokens, cached_bytes(o)) * o->batch;
}

/* The textbook's Q: it knows of no scales, and of nothing that is not quantised. */
static int weight_bits(const Options *o)
{
    if (o->quantized)
        return o->quantized == DTYPE_INT8 ? 8 : 4;
    return o->weights == DTYPE_F32 ? 32 : 16;
}

/* Of the peak; the rest is what a forward makes. */
typedef struct Inference {
    uint64_t weights, cache, rest, peak;
} Inference;

static Inference inference_of(const MemSummary *memory)
{
    const MemStats *s = &memory->stats;
    Inference i = {report_group(s->at_peak, MEM_GROUP_PARAMETERS), s->at_peak[MEM_KV_CACHE], 0, s->peak};
    i.rest = i.peak - i.weights - i.cache;
    return i;
}

enum { LABEL = 28, COLUMN = 11 };

static void print_row(const char *label, ReportUnit unit, const uint64_t *planned, const uint64_t *measured,
                      double textbook, const char *rule)
{
    int decimals = unit.decimals;
    printf("%-*s%*.*f", LABEL, label, COLUMN, decimals, (double)*planned / unit.bytes);
    if (measured)
        printf("%*.*f", COLUMN, decimals, (double)*measured / unit.bytes);
    if (textbook > 0)
        printf("%*.*f  %s", COLUMN, decimals, textbook / unit.bytes, rule);
    printf("\n");
}

static void inference_table(const Options *o, int64_t parameters, const MemSummary *planned,
                            const MemSummary *measured)
{
    Inference p = inference_of(planned), m = measured ? inference_of(measured) : p;
    ReportUnit unit = report_unit(p.peak);
    double weights = weight_bits(o) / 8.0 * (double)parameters;
    const uint64_t *none = NULL;
    int64_t cache = writes(o) ? cache_formula(o, o->seq) : 0;
    char formula[96], rule[40] = "P x 4 bytes";
    if (weight_bits(o) != 32)
        snprintf(rule, sizeof rule, "P x Q/8 bytes, Q = %d", weight_bits(o));
    snprintf(formula, sizeof formula, "2 x layers x kv heads x head width x %d x %d token%s%s",
             (int)cached_bytes(o), o->seq, plural(o->seq), o->batch > 1 ? " x batch" : "");
    printf("%-*s%*s%s%*s\n", LABEL, unit.name, COLUMN, "planned", measured ? "   measured" : "", COLUMN,
           "textbook");
    print_row("weights", unit, &p.weights, measured ? &m.weights : none, weights, rule);
    if (cache)
        print_row("kv cache", unit, &p.cache, measured ? &m.cache : none, (double)cache, formula);
    print_row("workspace and temporaries", unit, &p.rest, measured ? &m.rest : none, 0, "");
    for (int i = 0; i < LABEL + (measured ? 3 : 2) * COLUMN; i++)
        putchar('-');
    printf("\n");
    print_row("peak", unit, &p.peak, measured ? &m.peak : none, 1.2 * weights, "weights x 1.2");
    printf("Needs %s in one piece (%" PRIu64 " bytes).", report_size(planned->stats.needs).text,
           planned->stats.needs);
    if (planned->stats.peak_at.phase == MEM_PHASE_SETUP)
        printf(" That is while weights are filled; writing takes less.");
    int64_t held = cache ? (int64_t)(0.2 * weights / (double)cache_formula(o, 1)) * o->batch : 0;
    if (cache)
        printf(" The textbook's 20 %% would hold %s token%s of cache.", report_count(held).text,
               plural(held));
    printf("\n");
}

static json_t *textbook_of(const Options *o, int64_t parameters)
{
    int64_t weights = parameters * weight_bits(o) / 8;
    return json_pack("{s:I, s:I, s:I}", "weights_bytes", (json_int_t)weights, "kv_cache_bytes",
                     (json_int_t)(writes(o) ? cache_formula(o, o->seq) : 0), "peak_bytes",
                     (json_int_t)(1.2 * (double)weights));
}

/* ---- The commands ---------------------------------------------------------------------------- */

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
    fprintf(stderr, "brim: %s has %" PRId64 " tokens, the model %s only %d\n", path,
            tokenizer_vocab(w->tokenizer), o->model, nn_preset_vocab(&o->preset));
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

static json_t *writing_json(const Options *o, const Writing *w, const Plan *plan, const RunResult *r)
{
    json_t *sequences = json_array();
    for (int b = 0; b < o->batch; b++)
        json_array_append_new(sequences, sequence_json(w, sequence_of(w, b)));
    double decode = w->last - w->first;
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:i, s:i, s:o, s:f, s:f, s:o, s:o}", "model", o->model, "device", o->device,
        "blas", products_name(o), "parameters", (json_int_t)w->parameters, "prompt_tokens", w->prompt_tokens,
        "cache_tokens", o->seq, "sequences", sequences, "prefill_tokens_per_second",
        (double)w->prompt_tokens * o->batch / (w->first - w->started), "decode_tokens_per_second",
        w->written > 1 ? (double)(w->written - 1) * o->batch / decode : 0.0, "textbook",
        textbook_of(o, w->parameters), "memory", json_memory(&r->memory, &plan->memory));
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

/* Whether the plan fits the budget and, to be run, this machine. */
static int check_fits(const Options *o, const Plan *plan, int to_run)
{
    uint64_t needs = plan->memory.stats.needs;
    char why[512];
    if (o->budget && needs > o->budget)
        snprintf(why, sizeof why, "needs %s, %s more than the budget of %s", report_size(needs).text,
                 report_size(needs - o->budget).text, report_size(o->budget).text);
    else if (!to_run || plan_fits_machine(plan, 0, NULL, why, sizeof why) == ERROR_NONE)
        return EXIT_DONE;
    fflush(stdout);
    fprintf(
        stderr,
        "brim: %s. A smaller --batch or --seq shrinks the cache, a smaller --prefill what a prompt needs; "
        "the weights are %s.\n",
        why, report_size(inference_of(&plan->memory).weights).text);
    return EXIT_NO;
}

static void print_beginning(const Options *o, const Writing *w, const Plan *plan)
{
    printf("%s  %s parameters  %s  batch %d, a cache of %d token%s\n", o->model,
           report_count(w->parameters).text, weights_text(o).text, o->batch, o->seq, plural(o->seq));
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

static void print_end(const Options *o, const Writing *w, const Plan *plan, const RunResult *result)
{
    if (o->batch > 1)
        print_sequences(o, w);
    printf("\n");
    print_speed(o, w);
    printf("\n");
    inference_table(o, w->parameters, &plan->memory, &result->memory);
    report_beyond(stdout, &result->memory);
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
        fprintf(stderr, "%sbrim: %s\n", w->stream && w->written ? "\n" : "", result.error);
        return EXIT_NO;
    }
    if (o->json)
        json_print(writing_json(o, w, plan, &result));
    else
        print_end(o, w, plan, &result);
    return EXIT_DONE;
}

static int plan_writing(const Options *o, Writing *w, Plan *plan)
{
    RunOptions run = run_options(o);
    if (!plan_script(writes(o) ? writing_script : forward_script, w, &run, plan))
        return EXIT_DONE;
    fprintf(stderr, "brim: %s\n", plan->error);
    return EXIT_NO;
}

int command_generate(const Options *options, int count)
{
    (void)count;
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
        fprintf(stderr, "brim: out of memory for %d x %d tokens\n", o.batch, o.tokens);
        return EXIT_NO;
    }
    int status = plan_writing(&o, &w, &plan);
    if (!status)
        status = check_fits(&o, &plan, 1);
    if (!status)
        status = write_planned(&o, &w, &plan);
    plan_free(&plan);
    memtrack_host_free(NULL, w.tokens, bytes);
    tokenizer_free(w.tokenizer);
    return status;
}

static void print_inference(const Options *o, const Writing *w)
{
    printf("%s  %s parameters  %s  %d thread%s  batch %d", o->model, report_count(w->parameters).text,
           weights_text(o).text, threads_of(o), plural(threads_of(o)), o->batch);
    if (writes(o))
        printf(", a cache of %d token%s, prompts read %d at once\n\n", o->seq, plural(o->seq),
               w->prompt_tokens);
    else if (o->seq)
        printf(" x seq %d, one forward\n\n", o->seq);
    else
        printf(", one forward\n\n");
}

int plan_inference(const Options *options)
{
    Options o = *options;
    static int32_t prompt[PROMPT_MAX]; /* on meta nothing of it is read */
    Writing w = {.options = &o, .prompt = prompt};
    Plan plan;
    int chunk = o.prefill ? o.prefill : 512;
    if (o.prefill && !writes(&o))
        return usage("--prefill says how a prompt is read; %s reads a sample at once", o.model);
    w.prompt_tokens = o.seq < PROMPT_MAX ? o.seq : PROMPT_MAX;
    w.prompt_tokens = w.prompt_tokens > chunk ? chunk : w.prompt_tokens;
    o.tokens = o.seq - w.prompt_tokens + 1;
    if (plan_writing(&o, &w, &plan))
        return EXIT_NO;
    if (o.json) {
        json_t *all = json_pack("{s:s, s:I, s:i, s:o, s:o}", "model", o.model, "parameters",
                                (json_int_t)w.parameters, "cache_tokens", writes(&o) ? o.seq : 0, "textbook",
                                textbook_of(&o, w.parameters), "memory", json_memory(&plan.memory, NULL));
        planned_card_json(all, &o);
        json_print(all);
    } else {
        print_inference(&o, &w);
        inference_table(&o, w.parameters, &plan.memory, NULL);
        if (planned_card(&o).capability)
            printf("Planned for %s.\n", planned_card(&o).text);
    }
    int status = check_fits(&o, &plan, 0);
    plan_free(&plan);
    return status;
}
