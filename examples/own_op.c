/* An operation of one's own: StarReLU (Yu et al., arXiv 2210.13452), scale * max(0, x)^2 + shift, with its
 * backward, checked by finite differences. An op is a row: what it needs, and two kernels.
 */
#include <brim.h>

#include <math.h>
#include <stdio.h>

static int64_t count(const OpCall *call)
{
    int64_t n = 1;
    for (int i = 0; i < call->shape[0].ndim; i++)
        n *= call->shape[0].dim[i];
    return n;
}

/* The only authority on sizes; runs while planning too. */
static int star_relu_shape(OpCall *call)
{
    if (call->dtype[0] != DTYPE_F32)
        return error_raise(ERROR_ARGUMENT, "star_relu: x must be f32");
    call->plan.out = call->shape[0];
    call->plan.saves = OP_INPUT(0); /* kept from forward to backward: an activation, in the books */
    return 0;
}

static int64_t star_relu_forward(OpCall *call)
{
    const float *x = call->in[0], scale = (float)call->attr.own.f[0], shift = (float)call->attr.own.f[1];
    int64_t n = count(call);
    for (int64_t i = 0; i < n; i++) {
        float positive = x[i] > 0 ? x[i] : 0;
        call->out[i] = scale * positive * positive + shift;
    }
    return -1; /* no bad element */
}

/* dx = dout * 2 scale max(0, x), added to what is there when beta is 1. */
static void star_relu_backward(OpCall *call)
{
    const float *x = call->in[0], scale = (float)call->attr.own.f[0];
    int64_t n = count(call);
    for (int64_t i = 0; i < n; i++) {
        float dx = call->dout[i] * 2 * scale * (x[i] > 0 ? x[i] : 0);
        call->din[0][i] = call->beta[0] > 0 ? call->din[0][i] + dx : dx;
    }
}

static Tensor *star_relu(Tensor *x, double scale, double shift)
{
    static const OpRow row = {
        .name = "star_relu",
        .shape = star_relu_shape,
        .forward = star_relu_forward,
        .backward = star_relu_backward,
        .over_dout = OP_INPUT(0),   /* the gradient may take dout's memory: element i reads element i only */
        .accumulates = OP_INPUT(0), /* backward honours beta */
    };
    OpAttr attr = {.own = {.f = {scale, shift}}};
    return x ? tensor_apply(&row, &attr, 1, (Tensor *[]){x}) : NULL;
}

/* sum(weight * star_relu(x)): a number that every element of x moves differently. */
static Tensor *loss_of(Tensor *x, Tensor *weight)
{
    return tensor_sum(tensor_mul(star_relu(x, 0.8944, -0.4472), weight));
}

int main(void)
{
    const float step = 0x1p-7f;
    double worst = 0;
    int scope = tensor_scope_begin();
    Tensor *x = tensor_parameter(SHAPE(5, 7)), *weight = tensor_new(DTYPE_F32, SHAPE(5, 7), MEM_INPUT);
    tensor_fill_normal(x, 0, 1);
    tensor_fill_normal(weight, 0, 1);
    tensor_backward(loss_of(x, weight));
    tensor_no_grad_begin();
    for (int64_t i = 0; i < tensor_numel(x) && !error_code(); i++) {
        float *value = &tensor_f32(x)[i], at = *value;
        *value = at + step;
        double above = tensor_item(loss_of(x, weight));
        *value = at - step;
        double below = tensor_item(loss_of(x, weight));
        *value = at;
        worst = fmax(worst, fabs((above - below) / (2 * step) - tensor_grad(x)[i]));
    }
    tensor_no_grad_end();
    printf("star_relu: gradients of %d elements, at most %.1e from finite differences\n",
           (int)tensor_numel(x), worst);
    if (error_code())
        fprintf(stderr, "own_op: %s\n", error_message());
    int status = error_code() || !(worst < 1e-2);
    tensor_free(x); /* a parameter of no module belongs to who made it */
    tensor_scope_end(scope);
    context_destroy(context_current());
    return status;
}
