/* Rotary positions. What a stretch makes of its numbers for all pairs alike is computed here, in double as
 * transformers does; what it makes of each pair is in kernels/frequency.h. */
#include <inttypes.h>
#include <limits.h>
#include <math.h>

#include "ops_.h"

_Static_assert((int)ROPE_SCALING_NONE == ROPE_PLAIN && (int)ROPE_SCALING_LINEAR == ROPE_LINEAR &&
                   (int)ROPE_SCALING_LLAMA3 == ROPE_LLAMA3 && (int)ROPE_SCALING_YARN == ROPE_YARN &&
                   (int)ROPE_SCALING_LONGROPE == ROPE_DIVIDED,
               "ways of stretching positions go to kernels as they are");

static int head_width(const OpCall *call)
{
    const RopeOptions *o = &call->attr.rope;
    return o->head_dim ? o->head_dim : (int)(call->shape[0].dim[2] / o->heads);
}

/* Tokens of the sequence that x is a part of. */
static int64_t whole_seq(const OpCall *call)
{
    const RopeOptions *o = &call->attr.rope;
    return o->seq ? o->seq : o->first + call->shape[0].dim[1];
}

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static float attention_factor(const RopeScaling *s)
{
    double factor = s->factor;
    if (s->attention_factor > 0)
        return s->attention_factor;
    if (s->kind == ROPE_SCALING_LONGROPE)
        return factor <= 1 ? 1 : (float)sqrt(1 + log(factor) / log(s->original_max_seq));
    if (s->kind != ROPE_SCALING_YARN)
        return 1;
    return (float)(s->mscale > 0 && s->mscale_all_dim > 0
                       ? yarn_scale(factor, s->mscale) / yarn_scale(factor, s->mscale_all_dim)
                       : yarn_scale(factor, 1));
}

/* The pair, counted in fractions, that turns so many times within the original length. */
static double yarn_pair(const RopeScaling *s, double turns, int width, double theta)
{
    return width * log(s->original_max_seq / (turns * 6.283185307179586)) / (2 * log(theta));
}

static void yarn_ramp(RopeDims *d, const RopeScaling *s)
{
    int width = rope_width(d);
    double from = yarn_pair(s, s->beta_fast > 0 ? s->beta_fast : 32, width, d->theta);
    double to = yarn_pair(s, s->beta_slow > 0 ? s->beta_slow : 1, width, d->theta);
    if (!s->untruncated) {
        from = floor(from);
        to = ceil(to);
    }
    from = from > 0 ? from : 0;
    to = to < width - 1 ? to : width - 1;
    d->ramp_from = (float)from;
    d->ramp_width = (float)(from == to ? 0.001 : to - from);
}

static float dynamic_theta(const RopeScaling *s, double theta, int width, int64_t seq)
{
    double factor = s->factor, times = factor * (double)seq / s->original_max_seq - (factor - 1);
    return (float)(theta * pow(times, width / (width - 2.0)));
}

static RopeDims rope_dims(const OpCall *call)
{
    Shape x = call->shape[0];
    const RopeOptions *o = &call->attr.rope;
    const RopeScaling *s = &o->scaling;
    RopeDims d = {.batch = (int)x.dim[0],
                  .seq = (int)x.dim[1],
                  .heads = o->heads,
                  .head_dim = head_width(call),
                  .ld = x.dim[2],
                  .theta = o->theta,
                  .offset = o->first,
                  .stretch = (RopeStretch)s->kind,
                  .factor = s->factor,
                  .low_freq_factor = s->low_freq_factor,
                  .high_freq_factor = s->high_freq_factor,
                  .original_seq = (float)s->original_max_seq,
                  .rotary_dim = o->rotary_dim,
                  .interleaved = o->interleaved,
                  .group = o->group,
                  .scale = attention_factor(s)};
    d.behind = (d.ld - (int64_t)d.heads * d.head_dim) / (d.heads / rope_group(&d));
    int longer = whole_seq(call) > s->original_max_seq;
    if (s->kind == ROPE_SCALING_YARN)
        yarn_ramp(&d, s);
    if (s->kind == ROPE_SCALING_LONGROPE)
        d.divisors = longer ? s->divisors->of_long : s->divisors->of_short;
    if (s->kind == ROPE_SCALING_DYNAMIC) {
        d.stretch = ROPE_PLAIN;
        d.theta = longer ? dynamic_theta(s, o->theta, rope_width(&d), whole_seq(call)) : o->theta;
    }
    return d;
}

/* Of the kinds that depend on it. */
static int original_check(const RopeScaling *s, int width)
{
    int least = s->kind == ROPE_SCALING_LONGROPE ? 2 : 1; /* the attention factor divides by its logarithm */
    if (s->original_max_seq < least)
        return error_raise(ERROR_ARGUMENT,
                           "rope: this scaling needs original_max_seq, the length that was trained, of at "
                           "least %d, not %d",
                           least, s->original_max_seq);
    if (s->kind == ROPE_SCALING_LONGROPE && (!s->divisors || width > 2 * ROPE_DIVISORS))
        return error_raise(ERROR_ARGUMENT,
                           "rope: longrope needs divisors for %d pairs; it has %s and knows at most %d",
                           width / 2, s->divisors ? "them" : "none", ROPE_DIVISORS);
    if (s->kind == ROPE_SCALING_DYNAMIC && width < 4)
        return error_raise(ERROR_ARGUMENT, "rope: dynamic scaling needs two pairs a head, not one");
    return 0;
}

static int scaling_check(const RopeScaling *s, int width, float theta)
{
    if (s->kind == ROPE_SCALING_NONE)
        return 0;
    if ((unsigned)s->kind > ROPE_SCALING_DYNAMIC || !(s->factor > 0))
        return error_raise(ERROR_ARGUMENT,
                           "rope: the scaling has kind %d and factor %g; linear, llama3, yarn, longrope and "
                           "dynamic need a factor above 0",
                           (int)s->kind, (double)s->factor);
    if (s->kind == ROPE_SCALING_LLAMA3 &&
        !(s->low_freq_factor > 0 && s->high_freq_factor > s->low_freq_factor && s->original_max_seq > 0))
        return error_raise(ERROR_ARGUMENT,
                           "rope: llama3 scaling needs 0 < low_freq_factor < high_freq_factor "
                           "and original_max_seq above 0, not %g, %g and %d",
                           (double)s->low_freq_factor, (double)s->high_freq_factor, s->original_max_seq);
    if (s->kind == ROPE_SCALING_YARN && !(theta > 1))
        return error_raise(ERROR_ARGUMENT, "rope: yarn scaling needs a theta above 1, not %g", (double)theta);
    return s->kind >= ROPE_SCALING_YARN ? original_check(s, width) : 0;
}

/* Heads of so many elements, of each of which an even number turns. */
static int heads_check(const OpCall *call)
{
    Shape x = call->shape[0];
    const RopeOptions *o = &call->attr.rope;
    if (x.ndim != 3 || o->heads < 1 || (!o->head_dim && x.dim[2] % o->heads) ||
        (!o->rotary_dim && !o->head_dim && x.dim[2] / o->heads % 2))
        return error_raise(ERROR_SHAPE, "rope: x %s does not divide into %d heads of an even width",
                           shape_text(x).text, o->heads);
    if (o->head_dim < 0 || (int64_t)o->heads * o->head_dim > x.dim[2])
        return error_raise(ERROR_SHAPE, "rope: %d heads of %d do not fit into x %s", o->heads, o->head_dim,
                           shape_text(x).text);
    int head_dim = head_width(call), width = o->rotary_dim ? o->rotary_dim : head_dim;
    int group = o->group ? o->group : o->heads;
    if (group < 0 || o->heads % group || (x.dim[2] - (int64_t)o->heads * head_dim) % (o->heads / group))
        return error_raise(ERROR_SHAPE,
                           "rope: x %s does not divide into groups of %d of its %d heads of %d, and as many "
                           "columns behind each",
                           shape_text(x).text, group, o->heads, head_dim);
    if (width < 2 || width % 2 || width > head_dim)
        return error_raise(ERROR_SHAPE,
                           "rope: of a head of %d elements an even number can turn, from 2 on, not %d",
                           head_dim, width);
    return 0;
}

static int rope_shape(OpCall *call)
{
    Shape x = call->shape[0];
    const RopeOptions *o = &call->attr.rope;
    if (heads_check(call))
        return error_code();
    if (!(o->theta > 0))
        return error_raise(ERROR_ARGUMENT, "rope: theta is %g; it must be above 0", (double)o->theta);
    if (scaling_check(&o->scaling, o->rotary_dim ? o->rotary_dim : head_width(call), o->theta))
        return error_code();
    if (o->first < 0 || x.dim[1] > INT_MAX - o->first)
        return error_raise(ERROR_ARGUMENT, "rope: %" PRId64 " positions from %d on; positions are 0 to %d",
                           x.dim[1], o->first, INT_MAX - 1);
    if (o->seq && o->seq < o->first + x.dim[1])
        return error_raise(ERROR_ARGUMENT,
                           "rope: %" PRId64 " positions from %d on do not lie in a sequence of %d", x.dim[1],
                           o->first, o->seq);
    call->plan.out = x;
    call->plan.out_type = call->dtype[0];
    return check_float(call, 0, "x");
}

static void rope_forward(OpCall *call)
{
    RopeDims d = rope_dims(call);
    call->kernels->rope(&d, call->dtype[0], call->in[0], 0, call->out, call->run);
}

static void rope_backward(OpCall *call)
{
    RopeDims d = rope_dims(call);
    d.inverse = 1;
    call->kernels->rope(&d, call->dtype[0], call->dout, call->beta[0], call->din[0], call->run);
}

static const OpRow rope_row = {
    .name = "rope",
    .shape = rope_shape,
    .forward = rope_forward,
    .backward = rope_backward,
    .in_place = OP_INPUT(0),
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
};

Tensor *tensor_rope_with(Tensor *x, const RopeOptions *options)
{
    if (!x || !options)
        return NULL;
    return tensor_apply(&rope_row, &(OpAttr){.rope = *options}, 1, (Tensor *[]){x});
}

Tensor *tensor_rope(Tensor *x, int heads, float theta)
{
    return tensor_rope_with(x, &(RopeOptions){.heads = heads, .theta = theta});
}
