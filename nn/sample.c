/* The next token from logits. Where some are cut off, candidates come out of a heap from the largest on, so
 * that the usual draw looks at a few of many; otherwise they are walked in the order of the vocabulary. Sums
 * are in double and in one thread: the same everywhere. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "../base/philox_.h"
#include "module_.h"
#include "sample.h"

/* What there is to choose from, in workspace: a heap whose first is the largest; taken out from the back, so
 * that those chosen lie behind it, the largest last. */
typedef struct Candidates {
    float *score; /* logit / temperature; of those chosen, in the end, their weight */
    int32_t *token;
    int64_t count;
    float largest; /* score */
} Candidates;

static int before(const Candidates *c, int64_t a, int64_t b)
{
    return c->score[a] > c->score[b] || (c->score[a] == c->score[b] && c->token[a] < c->token[b]);
}

static void swap(Candidates *c, int64_t a, int64_t b)
{
    float score = c->score[a];
    int32_t token = c->token[a];
    c->score[a] = c->score[b];
    c->token[a] = c->token[b];
    c->score[b] = score;
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

static double weight_of(const Candidates *c, float score)
{
    return (double)expf(score - c->largest);
}

/* Takes the top_k largest out, and all that are equal to the last of them. Returns how many. */
static int64_t take_top_k(Candidates *c, int64_t vocab, int64_t top_k)
{
    const float *last = c->score + vocab - 1;
    int64_t taken = 0;
    while (c->count > 0 && (taken < top_k || c->score[0] == last[1 - taken])) {
        take_largest(c);
        taken++;
    }
    return taken;
}

/* How many of the `most` largest reach top_p, summed from the largest on. `taken` of them are out of the heap
 * already. */
static int64_t take_top_p(Candidates *c, int64_t vocab, int64_t most, int64_t taken, double top_p)
{
    const float *last = c->score + vocab - 1;
    double total = 0, sum = 0;
    for (int64_t i = 0; i < most; i++)
        total += weight_of(c, last[-i]);
    for (int64_t kept = 0; kept < most; kept++) {
        if (kept == taken) {
            take_largest(c);
            taken++;
        }
        if ((sum += weight_of(c, last[-kept])) >= top_p * total)
            return kept + 1;
    }
    return most;
}

/* How many candidates top_k and top_p leave. They lie at the end, the largest last. */
static int64_t choose(Candidates *c, int64_t vocab, const SampleOptions *o)
{
    int64_t most = vocab, taken = 0;
    make_heap(c);
    if (o->top_k > 0 && o->top_k < vocab)
        most = taken = take_top_k(c, vocab, o->top_k);
    return o->top_p > 0 && o->top_p < 1 ? take_top_p(c, vocab, most, taken, (double)o->top_p) : most;
}

/* What is drawn from: weights that are `step` apart, and their tokens. */
typedef struct Choices {
    float *weight;
    const int32_t *token;
    int64_t count, step;
} Choices;

/* Of the logits that lie in c->score. */
static Choices choices_of(int64_t vocab, int64_t largest, const SampleOptions *o, Candidates *c)
{
    int cut = (o->top_k > 0 && o->top_k < vocab) || (o->top_p > 0 && o->top_p < 1);
    /* Where the quotient would be infinite, the differences from the largest are not. */
    float zero = isfinite(c->score[largest] / o->temperature) ? 0 : c->score[largest];
    for (int64_t i = 0; i < vocab; i++) {
        c->score[i] = (c->score[i] - zero) / o->temperature;
        c->token[i] = (int32_t)i;
    }
    c->count = vocab;
    c->largest = c->score[largest];
    Choices all = {c->score, c->token, vocab, 1};
    if (cut)
        all = (Choices){c->score + vocab - 1, c->token + vocab - 1, choose(c, vocab, o), -1};
    for (int64_t i = 0; i < all.count; i++)
        all.weight[i * all.step] = expf(all.weight[i * all.step] - c->largest);
    return all;
}

static int32_t draw(const Choices *c, double unit)
{
    double total = sum_of(c->weight, c->count, c->step);
    return c->token[c->step * walk(c->weight, c->count, c->step, unit * total)];
}

/* Each token's share of what is drawn from. */
static void shares_of(const Choices *c, int64_t vocab, float *shares)
{
    double total = sum_of(c->weight, c->count, c->step);
    memset(shares, 0, (size_t)vocab * sizeof *shares);
    for (int64_t i = 0; i < c->count; i++)
        shares[c->token[i * c->step]] = (float)((double)c->weight[i * c->step] / total);
}

/* ---- Rows of logits -------------------------------------------------------------------------- */

enum { PIECE = 1024 }; /* logits that are looked at together */

/* The largest of all so far. */
typedef struct Largest {
    float logit;
    int64_t at;
} Largest;

/* `logits` are those from `first` on. Non-zero after an error. */
static int look_at(const float *logits, int64_t n, int64_t first, int64_t row, Largest *largest)
{
    for (int64_t i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return error_raise(ERROR_NONFINITE,
                               "nn_sample(): logit %" PRId64 " of sequence %" PRId64 " is %f", first + i, row,
                               (double)logits[i]);
        if (logits[i] > largest->logit)
            *largest = (Largest){logits[i], first + i};
    }
    return 0;
}

/* The first of the largest logits, or -1 after an error, and on meta. */
static int64_t find_largest(const Tensor *logits, int64_t row)
{
    int64_t vocab = tensor_dim(logits, 1);
    float piece[PIECE];
    Largest largest = {-INFINITY, 0};
    if (logits->item.context->meta)
        return -1;
    for (int64_t at = 0, n; at < vocab; at += n) {
        n = vocab - at < PIECE ? vocab - at : PIECE;
        tensor_decode_(logits, row * vocab + at, n, piece);
        if (look_at(piece, n, at, row, &largest))
            return -1;
    }
    if (largest.logit == -INFINITY) {
        error_raise(ERROR_NONFINITE, "nn_sample(): every logit of sequence %" PRId64 " is -infinity", row);
        return -1;
    }
    return largest.at;
}

static int check_options(const SampleOptions *o)
{
    if (!(o->temperature >= 0) || isinf(o->temperature))
        return error_raise(ERROR_ARGUMENT,
                           "nn_sample(): the temperature is %g; it is 0 (greedy) or a number above it",
                           (double)o->temperature);
    if (o->top_k < 0)
        return error_raise(ERROR_ARGUMENT, "nn_sample(): top_k is %d; it is 0 (all) or more", o->top_k);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return error_raise(ERROR_ARGUMENT,
                           "nn_sample(): top_p is %g; it is above 0 and at most 1, or 0 for all",
                           (double)o->top_p);
    return 0;
}

static int check_logits(Tensor *logits, const SampleOptions *o)
{
    if (check_options(o))
        return error_code();
    if (tensor_shape(logits).ndim != 2)
        return error_raise(ERROR_SHAPE, "nn_sample(): logits must be (batch,vocabulary), not %s",
                           shape_text(tensor_shape(logits)).text);
    if (!dtype_is_float(tensor_dtype(logits)))
        return error_raise(ERROR_ARGUMENT, "nn_sample(): logits are f32, bf16 or f16, not %s",
                           dtype_name(tensor_dtype(logits)));
    return tensor_readable(logits, "nn_sample") ? 0 : error_code();
}

/* In the books, though no kernel sees it. On a card it is the host's. */
static void *workspace(Context *context, DType dtype, int64_t vocab)
{
    if (context->card)
        return context->meta ? NULL : host_alloc_for("nn_sample", "scores", (size_t)vocab * sizeof(float));
    return tensor_typed_data(tensor_new(dtype, SHAPE(vocab), MEM_WORKSPACE), dtype, "nn_sample");
}

/* Tokens (B), or, where they are NULL, shares (B,V). */
static int sample_rows(Tensor *logits, const SampleOptions *o, int64_t position, int32_t *tokens,
                       float *shares)
{
    int64_t vocab = tensor_dim(logits, 1);
    Context *context = logits->item.context;
    int scope = tensor_scope_begin();
    Candidates c = {0};
    if (o->temperature > 0) {
        c.score = workspace(context, DTYPE_F32, vocab);
        c.token = workspace(context, DTYPE_I32, vocab);
    }
    for (int64_t b = 0; b < tensor_dim(logits, 0) && !error_code(); b++) {
        int64_t largest = find_largest(logits, b);
        int32_t token = largest < 0 ? 0 : (int32_t)largest;
        Choices all = {.weight = &(float){1}, .token = &token, .count = 1, .step = 1};
        if (largest >= 0 && o->temperature > 0 && c.token) {
            tensor_decode_(logits, b * vocab, vocab, c.score);
            all = choices_of(vocab, largest, o, &c);
        }
        if (tokens)
            tokens[b] = draw(&all, draw_unit(o->seed, b, position));
        else
            shares_of(&all, vocab, shares + b * vocab);
    }
    if (context->card) {
        host_free(context, c.score, (size_t)vocab * sizeof(float));
        host_free(context, c.token, (size_t)vocab * sizeof(float));
    }
    tensor_scope_end(scope);
    return error_code();
}

static const SampleOptions greedy;

int nn_sample(Tensor *logits, const SampleOptions *options, int64_t position, int32_t *tokens)
{
    const SampleOptions *o = options ? options : &greedy;
    if (!logits || !tokens || error_code() || check_logits(logits, o))
        return error_code();
    return sample_rows(logits, o, position, tokens, NULL);
}

int nn_sample_probabilities(Tensor *logits, const SampleOptions *options, float *probabilities)
{
    const SampleOptions *o = options ? options : &greedy;
    if (!logits || !probabilities || error_code() || check_logits(logits, o))
        return error_code();
    return sample_rows(logits, o, 0, NULL, probabilities);
}
