/* The next token from logits. Where some are cut off, candidates come out of a heap from the largest on, so
 * that the usual draw looks at a few of many; otherwise they are walked in the order of the vocabulary. Sums
 * are in double and in one thread: the same everywhere. */
#include <inttypes.h>
#include <math.h>

#include "../kernels/philox.h"
#include "module_.h"
#include "sample.h"

/* What there is to choose from, in workspace: a heap whose first is the largest; taken out from the back, so
 * that those chosen lie behind it, the largest last. */
typedef struct Candidates {
    float *weight; /* exp((logit - largest) / temperature) */
    int32_t *token;
    int64_t count;
} Candidates;

static int before(const Candidates *c, int64_t a, int64_t b)
{
    return c->weight[a] > c->weight[b] || (c->weight[a] == c->weight[b] && c->token[a] < c->token[b]);
}

static void swap(Candidates *c, int64_t a, int64_t b)
{
    float weight = c->weight[a];
    int32_t token = c->token[a];
    c->weight[a] = c->weight[b];
    c->token[a] = c->token[b];
    c->weight[b] = weight;
    c->token[b] = token;
}

static void sift_down(Candidates *c, int64_t at)
{
    for (int64_t child; (child = 2 * at + 1) < c->count; at = child) {
        child += child + 1 < c->count && before(c, child + 1, child);
        if (!before(c, child, at))
            return;
        swap(c, child, at);
    }
}

static void make_heap(Candidates *c)
{
    for (int64_t at = c->count / 2 - 1; at >= 0; at--)
        sift_down(c, at);
}

/* Puts the largest behind the heap. */
static void take_largest(Candidates *c)
{
    swap(c, 0, --c->count);
    sift_down(c, 0);
}

/* ---- One draw -------------------------------------------------------------------------------- */

/* In [0, 1), of 53 bits. */
static double draw_unit(uint64_t seed, int64_t sequence, int64_t position)
{
    enum { DRAW_SAMPLE = 0x5a }; /* apart from other uses of the seed */
    Philox bits = philox4x32(seed, (uint32_t)position, (uint32_t)((uint64_t)position >> 32),
                             (uint32_t)sequence, DRAW_SAMPLE);
    return ((double)(bits.v[0] >> 5) * 0x1p26 + (double)(bits.v[1] >> 6)) * 0x1p-53;
}

/* The first of the n weights, step apart, at which their running sum passes `wanted`; the last that is not 0
 * where rounding leaves it just short. */
static int64_t walk(const float *weight, int64_t n, int64_t step, double wanted)
{
    double sum = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        if (weight[i * step] > 0)
            last = i;
        if ((sum += (double)weight[i * step]) > wanted)
            return i;
    }
    return last;
}

static double sum_of(const float *weight, int64_t n, int64_t step)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)weight[i * step];
    return sum;
}

/* Takes the top_k largest out, then of those, summed from the largest on, as many as reach top_p. Returns how
 * many are left; they lie at the end, the largest last. */
static int64_t choose(Candidates *c, int64_t vocab, const SampleOptions *o)
{
    int64_t most = o->top_k > 0 && o->top_k < vocab ? o->top_k : vocab, taken = 0;
    double part = o->top_p > 0 ? (double)o->top_p : 1, total = 0, sum = 0;
    const float *last = c->weight + vocab - 1;
    make_heap(c);
    if (most == vocab)
        total = sum_of(c->weight, vocab, 1);
    while (most < vocab && taken < most) {
        take_largest(c);
        total += (double)last[-taken++];
    }
    if (part >= 1)
        return taken ? taken : vocab;
    for (int64_t kept = 0; kept < most; kept++) {
        if (kept == taken) {
            take_largest(c);
            taken++;
        }
        if ((sum += (double)last[-kept]) >= part * total)
            return kept + 1;
    }
    return most;
}

static int32_t draw(const float *logits, int64_t vocab, int64_t largest, const SampleOptions *o,
                    Candidates *c, double unit)
{
    for (int64_t i = 0; i < vocab; i++) {
        c->weight[i] = expf((logits[i] - logits[largest]) / o->temperature);
        c->token[i] = (int32_t)i;
    }
    c->count = vocab;
    int cut = (o->top_k > 0 && o->top_k < vocab) || (o->top_p > 0 && o->top_p < 1);
    if (!cut)
        return (int32_t)walk(c->weight, vocab, 1, unit * sum_of(c->weight, vocab, 1));
    int64_t kept = choose(c, vocab, o);
    const float *last = c->weight + vocab - 1;
    return c->token[vocab - 1 - walk(last, kept, -1, unit * sum_of(last, kept, -1))];
}

/* ---- Rows of logits -------------------------------------------------------------------------- */

/* The first of the largest logits, or -1 after an error. */
static int64_t find_largest(const float *logits, int64_t vocab, int64_t row)
{
    int64_t largest = 0;
    for (int64_t i = 0; i < vocab; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) {
            error_raise(ERROR_NONFINITE, "nn_sample: logit %" PRId64 " of sequence %" PRId64 " is %f", i, row,
                        (double)logits[i]);
            return -1;
        }
        largest = logits[i] > logits[largest] ? i : largest;
    }
    if (logits[largest] == -INFINITY) {
        error_raise(ERROR_NONFINITE, "nn_sample: every logit of sequence %" PRId64 " is -infinity", row);
        return -1;
    }
    return largest;
}

static int check_options(const SampleOptions *o)
{
    if (!(o->temperature >= 0) || isinf(o->temperature))
        return error_raise(ERROR_ARGUMENT,
                           "nn_sample: the temperature is %g; it is 0 (greedy) or a number above it",
                           (double)o->temperature);
    if (o->top_k < 0)
        return error_raise(ERROR_ARGUMENT, "nn_sample: top_k is %d; it is 0 (all) or more", o->top_k);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return error_raise(ERROR_ARGUMENT,
                           "nn_sample: top_p is %g; it is above 0 and at most 1, or 0 for all",
                           (double)o->top_p);
    return 0;
}

int nn_sample(Tensor *logits, const SampleOptions *options, int64_t position, int32_t *tokens)
{
    static const SampleOptions greedy;
    const SampleOptions *o = options ? options : &greedy;
    if (!logits || !tokens || error_code() || check_options(o))
        return error_code();
    if (tensor_shape(logits).ndim != 2)
        return error_raise(ERROR_SHAPE, "nn_sample: logits must be (batch,vocabulary), not %s",
                           shape_text(tensor_shape(logits)).text);
    int64_t vocab = tensor_dim(logits, 1);
    int scope = tensor_scope_begin();
    Candidates c = {0};
    if (o->temperature > 0) {
        c.weight = tensor_f32(tensor_new(DTYPE_F32, SHAPE(vocab), MEM_WORKSPACE));
        c.token = tensor_i32(tensor_new(DTYPE_I32, SHAPE(vocab), MEM_WORKSPACE));
    }
    const float *rows = tensor_f32(logits);
    for (int64_t b = 0; b < tensor_dim(logits, 0) && !error_code(); b++) {
        tokens[b] = 0;
        int64_t largest = rows ? find_largest(rows + b * vocab, vocab, b) : -1;
        if (largest >= 0 && o->temperature > 0)
            tokens[b] = draw(rows + b * vocab, vocab, largest, o, &c, draw_unit(o->seed, b, position));
        else if (largest >= 0)
            tokens[b] = (int32_t)largest;
    }
    tensor_scope_end(scope);
    return error_code();
}
