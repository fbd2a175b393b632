/* Writing token by token, against what memory allows and against PyTorch, alternated in one run.
 *
 *     decode [--quick] [--threads N] [--rounds N] [--cache N] [--prompt N] [--python PATH] [--no-torch]
 * [model…]
 *
 * A written token reads every weight of the products and every key and value in the cache once: its bytes,
 * divided by its time, are set beside the rate at which a loop reads the same weights and does nothing else.
 * The prompt is read as `brim generate` reads it. PyTorch is bench/torch_decode.py. */
#include <getopt.h>
#include <signal.h>

#include "../base/clock_.h"
#include "../kernels/kernels.h"
#include "../nn/sample.h"
#include "../plan/plan.h"
#include "../tensor/tensor_.h"
#include "../tests/tensor_data.h"
#include "child.h"
#include "order.h"

enum { TIMES = 1 << 14, CHUNK = 512, TOKENS = 16 };

typedef struct Options {
    int threads, rounds, cache, prompt, no_torch;
    const char *python, *script;
} Options;

typedef struct Times {
    double seconds[TIMES];
    int count;
} Times;

typedef struct Writer {
    const ModelPreset *preset;
    int past; /* tokens in the cache before each that is timed */
    Module *model;
    KvCache *cache;
    int32_t token;
} Writer;

static void add_time(Times *t, double seconds)
{
    if (t->count < TIMES)
        t->seconds[t->count++] = seconds;
}

/* 0 of none. */
static double quantile(Times *t, double share)
{
    qsort(t->seconds, (size_t)t->count, sizeof *t->seconds, order_by_value);
    return t->count ? order_at(t->seconds, t->count, share * (t->count - 1)) : 0;
}

/* ---- brim ------------------------------------------------------------------------------------ */

static double forward(Writer *w, int count)
{
    double begin = clock_now();
    tensor_no_grad_begin();
    int scope = tensor_scope_begin();
    Batch batch = {.ids = tensor_new(DTYPE_I32, SHAPE(1, count), MEM_INPUT)};
    int32_t *ids = tensor_i32(batch.ids), vocab = nn_preset_vocab(w->preset);
    for (int i = 0; ids && i < count; i++)
        ids[i] = count == 1 ? w->token : (7 * i + 3) % vocab;
    Tensor *logits = nn_forward_next(w->model, &batch, w->cache);
    nn_sample(logits, NULL, 0, &w->token);
    tensor_scope_end(scope);
    tensor_no_grad_end();
    return clock_now() - begin;
}

static double prefill(Writer *w, int tokens)
{
    double seconds = 0;
    nn_kv_cache_truncate(w->cache, 0);
    for (int at = 0; at < tokens; at += CHUNK)
        seconds += forward(w, tokens - at < CHUNK ? tokens - at : CHUNK);
    return seconds;
}

static void write_tokens(Writer *w, int tokens, Times *times)
{
    for (int i = 0; i < tokens; i++)
        add_time(times, forward(w, 1));
    nn_kv_cache_truncate(w->cache, w->past);
}

static int open_writer(Writer *w)
{
    w->model = nn_model(w->preset);
    nn_eval(w->model);
    tensor_no_grad_begin();
    w->cache = nn_kv_cache(w->model, 1, w->past + TOKENS);
    tensor_no_grad_end();
    return error_code();
}

static int writer_script(void *config)
{
    Writer *w = config;
    if (open_writer(w))
        return error_code();
    prefill(w, w->past < CHUNK ? w->past : CHUNK);
    forward(w, 1);
    return error_code();
}

/* ---- The machine's limit --------------------------------------------------------------------- */

/* Bytes of the weights that a token reads: all but rows of tables. */
static double weight_bytes(const Writer *w)
{
    TensorList all = nn_parameters(w->model);
    double bytes = 0;
    int tied = w->preset->family == MODEL_GPT2 || w->preset->config.llama.tied;
    for (int i = 0; i < all.count; i++) {
        const char *name = tensor_name(all.items[i]);
        int table = strstr(name, "wpe") || (!tied && strstr(name, "embed_tokens"));
        bytes += table ? 0 : 4.0 * (double)tensor_numel(all.items[i]);
    }
    return bytes;
}

/* Reads every parameter once. */
static double read_weights(const Writer *w, int threads)
{
    TensorList all = nn_parameters(w->model);
    const Kernels *kernels = kernels_cpu(NULL);
    int64_t bad = 0;
    double begin = clock_now();
    for (int i = 0; i < all.count; i++) {
        int64_t index;
        kernels->find_nonfinite(DTYPE_F32, tensor_numel(all.items[i]), tensor_f32(all.items[i]), &index,
                                &(KernelRun){.threads = threads});
        bad += index >= 0;
    }
    double seconds = clock_now() - begin;
    return bad ? 0 : seconds;
}

static double parameter_bytes(const Writer *w)
{
    return 4.0 * (double)nn_parameter_count(w->model);
}

/* ---- PyTorch --------------------------------------------------------------------------------- */

static json_t *torch_start(Child *child, const Options *o, const char *model)
{
    char threads[16];
    snprintf(threads, sizeof threads, "%d", o->threads);
    const char *argv[] = {o->python, o->script, model, threads, NULL};
    return child_start(child, argv) ? NULL : child_answer(child);
}

static void torch_turn(Child *child, const char *what, int count, Times *times)
{
    if (!child->to)
        return;
    json_t *answer = child_ask(child, what, count), *ms = json_object_get(answer, "ms");
    for (size_t i = 0; i < json_array_size(ms) && times; i++)
        add_time(times, 1e-3 * json_number_value(json_array_get(ms, i)));
    json_decref(answer);
    usleep(60000); /* its threads spin for some milliseconds before they sleep */
}

/* ---- One model ------------------------------------------------------------------------------- */

typedef struct Sides {
    Times brim, torch, read, prompt, torch_prompt;
} Sides;

static void run_rounds(const Options *o, Writer *w, Child *torch, Sides *s)
{
    prefill(w, o->prompt < w->past ? o->prompt : w->past); /* all is warm */
    torch_turn(torch, "prefill", o->prompt < 64 ? o->prompt : 64, NULL);
    for (int round = 0; round < o->rounds && o->prompt <= w->past; round++) {
        add_time(&s->prompt, prefill(w, o->prompt));
        torch_turn(torch, "prefill", o->prompt, &s->torch_prompt);
    }
    prefill(w, w->past);
    torch_turn(torch, "prefill", w->past, NULL);
    for (int round = 0; round < o->rounds; round++) {
        add_time(&s->read, read_weights(w, o->threads));
        write_tokens(w, TOKENS, &s->brim);
        add_time(&s->read, read_weights(w, o->threads));
        torch_turn(torch, "step", TOKENS, &s->torch);
    }
}

static void print_model(const Options *o, Writer *w, Sides *s)
{
    static const char *const names[] = {"median", "best tenth"};
    double bytes = weight_bytes(w) + (double)nn_kv_cache_bytes(w->cache) * (w->past + TOKENS / 2) /
                                         nn_kv_cache_max_tokens(w->cache);
    for (int i = 0; i < 2; i++) {
        double share = i ? 0.1 : 0.5, brim = quantile(&s->brim, share), torch = quantile(&s->torch, share);
        double limit = parameter_bytes(w) / quantile(&s->read, share), rate = bytes / brim;
        double prompt = quantile(&s->prompt, share), torch_prompt = quantile(&s->torch_prompt, share);
        printf("%-13s %7d %6d  %-10s %8.1f %8.1f %6.2f  %6.1f %6.1f %5.0f %%", w->preset->name, o->threads,
               w->past, names[i], 1 / brim, torch > 0 ? 1 / torch : 0, torch / brim, 1e-9 * rate,
               1e-9 * limit, 100 * rate / limit);
        if (prompt > 0)
            printf("  %8.0f %8.0f %6.2f", o->prompt / prompt, torch_prompt > 0 ? o->prompt / torch_prompt : 0,
                   torch_prompt / prompt);
        printf("\n");
    }
    fflush(stdout);
}

static int run_model(const Options *o, const char *name)
{
    static Sides sides;
    Writer w = {.preset = nn_preset(name), .past = o->cache};
    Child torch = {0};
    Plan plan;
    if (!w.preset ||
        plan_script(writer_script, &w, &(RunOptions){.threads = o->threads, .quiet = 1}, &plan)) {
        fprintf(stderr, "decode: %s: %s\n", name, w.preset ? plan.error : "no such model");
        return 1;
    }
    Context *context = context_create(&(ContextOptions){
        .memory = MEMTRACK_RESERVED, .capacity = plan.memory.stats.needs, .threads = o->threads});
    if (context) {
        memtrack_ledger_follow(context_ledger(context), plan.hints);
        context_use(context);
        sides = (Sides){0};
        json_t *about = o->no_torch ? NULL : torch_start(&torch, o, name);
        if (about && !open_writer(&w))
            printf("PyTorch %s, transformers %s, %s\n", json_string_value(json_object_get(about, "torch")),
                   json_string_value(json_object_get(about, "transformers")),
                   json_string_value(json_object_get(about, "capability")));
        else if (!about)
            child_end(&torch), open_writer(&w);
        run_rounds(o, &w, &torch, &sides);
        if (error_code())
            fprintf(stderr, "decode: %s\n", error_message());
        else
            print_model(o, &w, &sides);
        json_decref(about);
        child_end(&torch);
        context_destroy(context);
    }
    plan_free(&plan);
    return !context;
}

/* ---- Command --------------------------------------------------------------------------------- */

static int parse(int argc, char **argv, Options *o)
{
    static const struct option names[] = {
        {"quick", 0, 0, 'q'},  {"threads", 1, 0, 't'}, {"rounds", 1, 0, 'r'},   {"cache", 1, 0, 'c'},
        {"prompt", 1, 0, 'm'}, {"python", 1, 0, 'p'},  {"no-torch", 0, 0, 'n'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'q')
            o->rounds = 3;
        else if (c == 't')
            o->threads = atoi(optarg);
        else if (c == 'r')
            o->rounds = atoi(optarg);
        else if (c == 'c')
            o->cache = atoi(optarg);
        else if (c == 'm')
            o->prompt = atoi(optarg);
        else if (c == 'p')
            o->python = optarg;
        else if (c == 'n')
            o->no_torch = 1;
        else
            return 2;
    }
    return o->threads < 1 || o->rounds < 1 || o->cache < 1 || o->prompt < 1 ? 2 : 0;
}

int main(int argc, char **argv)
{
    Options o = {.threads = 2,
                 .rounds = 12,
                 .cache = 128,
                 .prompt = 128,
                 .python = "python3",
                 .script = "bench/torch_decode.py"};
    if (parse(argc, argv, &o)) {
        fprintf(stderr,
                "usage: decode [--quick] [--threads N] [--rounds N] [--cache N] [--prompt N] [--python PATH] "
                "[--no-torch] [model…]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    kernels_blas_start(o.threads);
    printf("%-13s %7s %6s  %-10s %8s %8s %6s  %6s %6s %7s  %8s %8s %6s\n", "model", "threads", "cache",
           "tokens/s", "brim", "PyTorch", "ratio", "GB/s", "limit", "", "prompt", "PyTorch", "ratio");
    int status = 0;
    for (int i = optind; i < argc; i++)
        status |= run_model(&o, argv[i]);
    return optind < argc ? status : run_model(&o, "gpt2");
}
