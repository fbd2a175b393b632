/* What a window saves: one attention, forward and backward, over all tokens and over a window's, each with as
 * many tokens and with twice as many, and PyTorch's beside it, in turns; medians of ratios within a round.
 *
 *     attention [--quick] [--threads N] [--rounds N] [--tokens N] [--window N] [--heads N] [--size N]
 * [--eager]
 *               [--python PATH] [--no-torch]
 *
 * Time and kept bytes of flash with a window are to grow with tokens times window. Eager keeps, and shows,
 * tokens times tokens. PyTorch is bench/torch_attention.py: scaled_dot_product_attention, which has a window
 * as a mask of tokens times tokens, and flex_attention, compiled, where that is possible. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>

#include "../base/clock_.h"
#include "../tensor/tensor_.h"
#include "machine.h"
#include "rounds.h"

typedef struct Options {
    int threads, rounds, tokens, window, heads, size, eager, no_torch;
    const char *python, *script;
} Options;

enum { FULL, WINDOW, TWICE, BRIM_SIDES, SDPA = BRIM_SIDES, MASKED, FLEX, SIDES };

/* What takes turns: `tokens` of them, a window or 0; what PyTorch's is asked for. */
typedef struct Way {
    const char *name, *request;
    int tokens, window;
    double kept; /* bytes that forward keeps for backward */
} Way;

static Side sides[SIDES];

/* ---- brim ------------------------------------------------------------------------------------ */

typedef struct Attempt {
    const Options *options;
    Way *way;
} Attempt;

static Tensor *input(const Options *o, const Way *way, int trained)
{
    Tensor *x = tensor_new(DTYPE_F32, SHAPE(1, way->tokens, (int64_t)o->heads * o->size), MEM_INPUT);
    tensor_fill_normal(x, 0, 1);
    if (trained)
        tensor_set_requires_grad(x, 1);
    return x;
}

/* One forward and one backward; seconds. */
static double attend(void *of)
{
    const Attempt *a = of;
    const Options *o = a->options;
    int scope = tensor_scope_begin();
    Tensor *q = input(o, a->way, 1), *k = input(o, a->way, 1), *v = input(o, a->way, 1);
    Tensor *gradient = input(o, a->way, 0);
    AttentionOptions options = {.heads = o->heads, .causal = 1, .window = a->way->window};
    options.kind = o->eager ? ATTENTION_EAGER : ATTENTION_FLASH;
    double begin = clock_now();
    Tensor *out = tensor_attention(q, k, v, &options);
    double seconds = clock_now() - begin;
    a->way->kept = (double)memtrack_stats(context_ledger(context_current()))->live_by[MEM_ACTIVATION];
    begin = clock_now();
    tensor_backward_from(out, gradient);
    seconds += clock_now() - begin;
    tensor_scope_end(scope);
    return seconds;
}

/* ---- PyTorch --------------------------------------------------------------------------------- */

static json_t *torch_start(Child *child, const Options *o)
{
    char numbers[4][16];
    const int of[] = {o->threads, o->window, o->heads, o->size};
    PeerSetting aten = peer_vectors();
    for (int i = 0; i < 4; i++)
        snprintf(numbers[i], sizeof numbers[i], "%d", of[i]);
    const char *argv[] = {"env",      aten.text,  "OMP_WAIT_POLICY=passive",
                          o->python,  o->script,  numbers[0],
                          numbers[1], numbers[2], numbers[3],
                          NULL};
    json_t *answer = child_start(child, argv) == 0 ? child_answer(child) : NULL;
    if (!answer)
        child_end(child);
    return answer;
}

/* One step; 0 where PyTorch cannot. */
static int torch_turn(Child *child, const Way *way, Side *side)
{
    json_t *answer = child->to ? child_ask(child, way->request, way->tokens) : NULL;
    double ms = json_number_value(json_object_get(answer, "ms"));
    json_decref(answer);
    if (ms > 0 && side) {
        side_add(side, 1e-3 * ms);
        side_round(side, 1);
    }
    usleep(60000); /* its threads spin for some milliseconds before they sleep */
    return ms > 0;
}

/* ---- All together ---------------------------------------------------------------------------- */

static void run_rounds(const Options *o, Way *ways, Child *torch)
{
    int has[SIDES];
    for (int i = 0; i < BRIM_SIDES; i++)
        attend(&(Attempt){o, &ways[i]}); /* all is warm */
    for (int i = BRIM_SIDES; i < SIDES; i++)
        has[i] = torch_turn(torch, &ways[i], NULL);
    for (int round = 0; round < o->rounds && !error_code(); round++)
        for (int i = 0; i < SIDES; i++)
            if (i < BRIM_SIDES)
                side_turn(&sides[i], 1, attend, &(Attempt){o, &ways[i]});
            else if (has[i])
                torch_turn(torch, &ways[i], &sides[i]);
}

static double over(int side, int other)
{
    return sides[side].rounds && sides[other].rounds
               ? ratio_of_rounds(sides[side].round, sides[other].round, sides[other].rounds)
               : 0;
}

static void print_ways(const Options *o, const Way *ways)
{
    printf("%-30s %7s %7s %9s %9s\n", "", "tokens", "window", "ms", "kept MiB");
    for (int i = 0; i < SIDES; i++) {
        if (!sides[i].count)
            continue;
        printf("%-30s %7d %7d %9.1f", ways[i].name, ways[i].tokens, ways[i].window,
               1e3 * median(sides[i].all, sides[i].count));
        if (i < BRIM_SIDES)
            printf(" %9.1f", ways[i].kept / 1048576);
        printf("\n");
    }
    double work = ratio_of_rounds(sides[WINDOW].work, sides[FULL].work, sides[FULL].rounds);
    printf("window / all, time          %s, processor time %.2f\n", verdict(over(WINDOW, FULL), 0.30, 1),
           work);
    work = ratio_of_rounds(sides[TWICE].work, sides[WINDOW].work, sides[WINDOW].rounds);
    printf("twice the tokens, time      %s, processor time %.2f\n",
           verdict(over(TWICE, WINDOW), o->eager ? 0 : 2.1, 1), work);
    printf("twice the tokens, kept      %s\n",
           verdict(ways[TWICE].kept / ways[WINDOW].kept, o->eager ? 0 : 2.1, 1));
    printf("PyTorch / brim: all %s", verdict(over(SDPA, FULL), 0, 0));
    printf(", window as a mask %s", verdict(over(MASKED, WINDOW), 0, 0));
    printf(", window by flex_attention %s\n", verdict(over(FLEX, WINDOW), 0, 0));
}

/* ---- Command --------------------------------------------------------------------------------- */

static int parse(int argc, char **argv, Options *o)
{
    static const struct option names[] = {{"quick", 0, 0, 'q'},
                                          {"threads", 1, 0, 't'},
                                          {"rounds", 1, 0, 'r'},
                                          {"tokens", 1, 0, 'n'},
                                          {"window", 1, 0, 'w'},
                                          {"heads", 1, 0, 'h'},
                                          {"size", 1, 0, 's'},
                                          {"python", 1, 0, 'p'},
                                          {"no-torch", 0, 0, 'x'},
                                          {"eager", 0, 0, 'e'},
                                          {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        int *number = c == 't'   ? &o->threads
                      : c == 'r' ? &o->rounds
                      : c == 'n' ? &o->tokens
                      : c == 'w' ? &o->window
                      : c == 'h' ? &o->heads
                      : c == 's' ? &o->size
                                 : NULL;
        if (number)
            *number = atoi(optarg);
        else if (c == 'q')
            o->rounds = 3;
        else if (c == 'p')
            o->python = optarg;
        else if (c == 'x')
            o->no_torch = 1;
        else if (c == 'e')
            o->eager = 1;
        else
            return 2;
    }
    return o->threads < 1 || o->rounds < 1 || o->rounds > MAX_ROUNDS || o->tokens < 1 || o->window < 1 ||
                   o->heads < 1 || o->size < 1
               ? 2
               : 0;
}

int main(int argc, char **argv)
{
    Options o = {.threads = 2, .rounds = 9, .tokens = 4096, .window = 512, .heads = 8, .size = 64};
    o.python = "python3";
    o.script = "bench/torch_attention.py";
    if (parse(argc, argv, &o) || optind < argc) {
        fprintf(stderr, "usage: attention [--quick] [--threads N] [--rounds N] [--tokens N] [--window N] "
                        "[--heads N] [--size N] [--eager] [--python PATH] [--no-torch]\n");
        return 2;
    }
    Way ways[SIDES] = {{"brim, all", "", o.tokens, 0, 0},
                       {"brim, a window", "", o.tokens, o.window, 0},
                       {"brim, a window, twice", "", 2 * o.tokens, o.window, 0},
                       {"PyTorch, all", "all", o.tokens, 0, 0},
                       {"PyTorch, a window as a mask", "mask", o.tokens, o.window, 0},
                       {"PyTorch, flex_attention", "flex", o.tokens, o.window, 0}};
    Child torch = {0};
    signal(SIGPIPE, SIG_IGN);
    kernels_blas_start(o.threads);
    Context *context = context_create(&(ContextOptions){.threads = o.threads, .seed = 1});
    context_use(context);
    json_t *about = o.no_torch ? NULL : torch_start(&torch, &o);
    printf("%s, %d thread%s, %d heads of %d, %s, %s", machine_name().text, o.threads,
           o.threads > 1 ? "s" : "", o.heads, o.size, o.eager ? "eager" : "flash", kernels_cpu(NULL)->name);
    printf(about ? ", PyTorch %s%s%s\n" : "%s%s%s\n",
           about ? json_string_value(json_object_get(about, "torch")) : "",
           json_string_value(json_object_get(about, "no_flex")) ? ", no flex_attention: " : "",
           json_string_value(json_object_get(about, "no_flex"))
               ? json_string_value(json_object_get(about, "no_flex"))
               : "");
    double begin = clock_now(), busy = machine_busy() - own_busy();
    run_rounds(&o, ways, &torch);
    if (error_code())
        fprintf(stderr, "attention: %s\n", error_message());
    else
        print_ways(&o, ways);
    int status = error_code() != 0;
    json_decref(about);
    child_end(&torch);
    busy = (machine_busy() - own_busy() - busy) / (clock_now() - begin);
    if (busy > 0.1 && !status)
        printf("Others kept %.1f processors busy meanwhile.\n", busy);
    context_destroy(context);
    return status;
}
