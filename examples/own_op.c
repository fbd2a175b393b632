/* An operation of one's own: StarReLU (Yu et al., arXiv 2210.13452), scale * max(0, x)^2 + shift, with its
 * backward, checked by finite differences. An op is a row: what it needs, and two kernels. */
#include <brim.h>

#include <math.h>
#include <stdio.h>

static int star_relu_shape(OpCall *call) /* the only authority on sizes; runs while planning too */
{
    call->plan.out = call->shape[0];
    call->plan.saves = OP_INPUT(0); /* kept from forward to backward: an activation, in the books */
    return call->dtype[0] == DTYPE_F32 ? 0 : error_raise(ERROR_ARGUMENT, "star_relu: x must be f32");
}

static void star_relu_forward(OpCall *call)
{
    const float *x = call->in[0], scale = (float)call->attr.own.f[0], shift = (float)call->attr.own.f[1];
    float *out = call->out;
    for (int64_t i = 0, n = shape_numel(call->shape[0]); i < n; i++)
        out[i] = scale * (x[i] > 0 ? x[i] * x[i] : 0) + shift;
}

static void star_relu_backward(OpCall *call)
{
    const float *x = call->in[0], *dout = call->dout, scale = (float)call->attr.own.f[0];
    float *dx = call->din[0];
    for (int64_t i = 0, n = shape_numel(call->shape[0]); i < n; i++)
        dx[i] = dout[i] * 2 * scale * (x[i] > 0 ? x[i] : 0);
}

static Tensor *star_relu(Tensor *x, double scale, double shift)
{
    static const OpRow row = {
        .name = "star_relu",
        .shape = star_relu_shape,
        .forward = star_relu_forward,
        .backward = star_relu_backward,
        .grad_in_dout = OP_INPUT(0), /* the gradient may take dout's memory: element i reads element i only */
    };
    return x ? tensor_apply(&row, &(OpAttr){.own = {.f = {scale, shift}}}, 1, &x) : NULL;
}

static Tensor *loss_of(Tensor *x) /* a number that every element of x moves differently */
{
    return tensor_sum(tensor_mul(star_relu(x, 0.8944, -0.4472), x));
}

int main(void)
{
    double worst = 0;
    Tensor *x = tensor_parameter(SHAPE(5, 7));
    tensor_fill_normal(x, 0, 1);
    tensor_backward(loss_of(x));
    tensor_no_grad_begin();
    for (int64_t at = 0, size = sizeof(float); at < size * tensor_numel(x) && !error_code(); at += size) {
        float value, gradient, h = 0x1p-7f;
        tensor_read(x, at, size, &value);
        tensor_read(tensor_grad(x), at, size, &gradient);
        tensor_write(x, at, size, &(float){value + h});
        double above = tensor_item(loss_of(x));
        tensor_write(x, at, size, &(float){value - h});
        double below = tensor_item(loss_of(x));
        tensor_write(x, at, size, &value);
        worst = fmax(worst, fabs((above - below) / (2 * h) - gradient));
    }
    printf("star_relu: gradients at most %.1e from finite differences\n%s", worst, error_message());
    return error_code() || !(worst < 1e-2);
}
