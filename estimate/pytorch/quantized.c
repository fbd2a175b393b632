/* Weights as bitsandbytes keeps them: NF4 in blocks of 64, its scales once more in blocks of 256, and
 * LLM.int8. */
#include "dialect_.h"
#include "job_.h"

enum { BLOCK = 64, SCALE_BLOCK = 256, MAP = 256 };

struct TorchQuantized {
    TorchJob *job;
    int64_t in, out;
    int turned;          /* loaded as (in, out) */
    TorchTensor *weight; /* packed; int8: (out, in) */
    TorchTensor *scales; /* absmax: float32, or 8 bits by the next three; int8: one a row */
    TorchTensor *code, *offset, *scale_scales, *scale_code;
};

TorchQuantized *torch_new_quantized(TorchJob *job, int64_t in, int64_t out, int turned)
{
    TorchQuantized *q = torch_take(&job->torch, sizeof *q);
    *q = (TorchQuantized){.job = job, .in = in, .out = out, .turned = turned};
    return q;
}

double torch_quantized_bytes(const TorchJob *job)
{
    return job->asked->quantize == PYTORCH_INT8 ? 1 : 0.5;
}

TorchType torch_compute_type(const TorchJob *job)
{
    PytorchPrecision p = job->asked->precision;
    return p == PYTORCH_FP16 || p == PYTORCH_AUTOCAST_FP16 || job->weights == TORCH_F16 ? TORCH_F16
                                                                                        : TORCH_BF16;
}

static int64_t blocks(int64_t n, int64_t block)
{
    return (n + block - 1) / block;
}

static TorchTensor *flat(Torch *t, const char *op, TorchType type, int64_t count)
{
    return torch_empty(t, op, torch_shape(type, 1, &count));
}

static TorchTensor *kept(Torch *t, TorchTensor *x)
{
    x->loose = 0;
    torch_mark(t, x, PYTORCH_FROZEN);
    return x;
}

/* ---- Quantizing ------------------------------------------------------------------------------ */

/* functional.quantize_blockwise of the scales, which nobody keeps in float32 */
static void quantize_scales(TorchJob *job, TorchQuantized *q, TorchTensor *scales)
{
    static const char op[] = "bitsandbytes::quantize_blockwise";
    Torch *t = &job->torch;
    int64_t count = torch_count(&scales->shape);
    q->offset = kept(t, torch_empty(t, "aten::mean", torch_shape(TORCH_F32, 0, NULL)));
    torch_whole_scratch(t, count, 4);
    int in_place = t->dialect->bitsandbytes->scales_in_place;
    TorchTensor *centred = in_place ? NULL : flat(t, "aten::sub", TORCH_F32, count);
    if (!job->dynamic_map) /* for all time */
        kept(t, flat(t, "aten::_to_copy", TORCH_F32, MAP));
    job->dynamic_map = 1;
    q->scale_scales = kept(t, flat(t, op, TORCH_F32, blocks(count, SCALE_BLOCK)));
    q->scales = kept(t, flat(t, op, TORCH_U8, count));
    if (!in_place)
        q->scale_code = kept(t, flat(t, "aten::_to_copy", TORCH_F32, MAP));
    torch_drop(t, centred);
    torch_drop(t, scales);
}

/* Params4bit._quantize */
static void quantize_nf4(TorchJob *job, TorchQuantized *q, TorchTensor *weight)
{
    static const char op[] = "bitsandbytes::quantize_4bit";
    Torch *t = &job->torch;
    int64_t count = q->in * q->out;
    const TransformersEra *era = t->dialect->transformers;
    int by_host = era->quantizes_from_host;
    TorchTensor *read =
        by_host && !era->reads_on_host ? torch_empty(t, "aten::_to_copy", weight->shape) : NULL;
    TorchTensor *loaded = torch_empty(t, "aten::_to_copy", weight->shape);
    TorchTensor *straight = q->turned && !by_host ? torch_empty(t, "aten::clone", weight->shape) : NULL;
    TorchTensor *scales = flat(t, op, TORCH_F32, blocks(count, BLOCK));
    torch_set_data(t, op, weight, torch_shape(TORCH_U8, 2, (int64_t[]){(count + 1) / 2, 1}), PYTORCH_FROZEN);
    q->code = kept(t, flat(t, "aten::_to_copy", TORCH_F32, 16)); /* get_4bit_type */
    TorchTensor *magnitudes = flat(t, "aten::abs", TORCH_F32, 16);
    torch_scratch(t, "aten::max", 4);
    torch_drop(t, magnitudes);
    if (job->asked->quantize == PYTORCH_NF4)
        quantize_scales(job, q, scales);
    else
        q->scales = kept(t, scales);
    torch_drop(t, straight);
    torch_drop(t, loaded);
    torch_drop(t, read);
}

/* Int8Params._quantize, of a weight that has been on the card and back */
static void quantize_int8(TorchJob *job, TorchQuantized *q, TorchTensor *weight)
{
    static const char op[] = "bitsandbytes::int8_vectorwise_quant";
    Torch *t = &job->torch;
    TorchShape shape = weight->shape;
    int on_host = t->dialect->transformers->reads_on_host;
    TorchTensor *loaded = on_host ? NULL : torch_empty(t, "aten::_to_copy", shape);
    shape.type = TORCH_F16;
    TorchTensor *half = torch_empty(t, "aten::_to_copy", shape);
    q->scales = kept(t, flat(t, op, TORCH_F32, q->out));
    shape.type = TORCH_I8;
    torch_set_data(t, op, weight, shape, PYTORCH_FROZEN);
    torch_drop(t, half);
    torch_drop(t, loaded);
}

/* state_dict() of a module with these entries, QuantState.as_dict: nested_quant_map */
static void state_dict(TorchJob *job, size_t from, size_t to)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    for (size_t i = from; job->asked->quantize == PYTORCH_NF4 && i < to; i++)
        if (job->entries[i].quantized)
            torch_name(t, flat(t, "aten::clone", TORCH_F32, MAP));
    torch_leave(t, frame, NULL);
}

void torch_state_dict(TorchJob *job)
{
    state_dict(job, 0, job->entry_count);
}

static size_t end_of_module(const TorchJob *job, size_t from, size_t end)
{
    size_t to = from;
    while (to < end && job->entries[to].place.module == job->entries[from].place.module)
        to++;
    return to;
}

/* attach_execution_device_hook: of the model's body, its layers, each layer, its modules, and theirs */
void torch_hook(TorchJob *job)
{
    size_t count = job->entry_count, end;
    torch_state_dict(job);
    torch_state_dict(job);
    for (size_t i = 0; i < count; i = end) {
        int layer = job->entries[i].place.layer;
        for (end = i; end < count && job->entries[end].place.layer == layer; end++)
            ;
        if (layer < 0)
            continue;
        state_dict(job, i, end);
        for (size_t from = i, to; from < end; from = to) {
            to = end_of_module(job, from, end);
            state_dict(job, from, to);
            for (size_t each = from; each < to; each++)
                state_dict(job, each, each + 1);
        }
    }
}

void torch_quantize(TorchJob *job, TorchQuantized *q, TorchTensor *weight)
{
    q->weight = weight;
    if (job->asked->quantize == PYTORCH_INT8)
        quantize_int8(job, q, weight);
    else
        quantize_nf4(job, q, weight);
}

/* ---- NF4 ------------------------------------------------------------------------------------- */

/* functional.dequantize_4bit: in the type that the weight was loaded in */
static TorchTensor *dequantized(const TorchQuantized *q)
{
    Torch *t = &q->job->torch;
    TorchTensor *scales = NULL;
    if (q->scale_scales)
        scales = flat(t, "bitsandbytes::dequantize_blockwise", TORCH_F32, torch_count(&q->scales->shape));
    TorchShape shape = torch_shape(q->job->weights, 2, (int64_t[]){q->out, q->in});
    TorchTensor *w = torch_empty(t, "bitsandbytes::dequantize_4bit", shape);
    torch_drop(t, scales);
    return w;
}

static void nf4_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    TorchTensor *w = torch_cast(t, dequantized(node->user), g[0]->shape.type);
    d[0] = torch_matmul(t, g[0], w);
}

/* gemm_4bit: a kernel of its own, or the weight in x's type and PyTorch's product. */
static TorchTensor *nf4_product(TorchJob *job, const TorchQuantized *q, TorchTensor *x, TorchTensor *bias)
{
    static const char op[] = "bitsandbytes::gemm_4bit";
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t K = q->in, N = q->out, M = torch_count(&x->shape) / K;
    if (t->dialect->bitsandbytes->no_kernel) {
        TorchTensor *whole = torch_name(t, torch_cast(t, dequantized(q), x->shape.type));
        return torch_leave(t, frame, torch_linear(t, x, whole, bias));
    }
    if (torch_nf4_kernel(t->card, x->shape.type, M, N, K)) {
        TorchShape shape = torch_shape(x->shape.type, x->shape.dims, x->shape.size);
        shape.size[shape.dims - 1] = N;
        shape = torch_shape(shape.type, shape.dims, shape.size);
        if (!torch_contiguous(&x->shape))
            torch_name(t, torch_make_contiguous(t, x));
        return torch_leave(t, frame, torch_empty(t, op, shape));
    }
    if (q->scale_scales) {
        torch_name(t, flat(t, op, TORCH_F32, torch_count(&q->scales->shape)));
        torch_name(t, flat(t, "aten::add", TORCH_F32, torch_count(&q->scales->shape)));
    }
    TorchTensor *w = torch_name(t, torch_empty(t, op, torch_shape(x->shape.type, 2, (int64_t[]){N, K})));
    return torch_leave(t, frame, torch_linear(t, x, w, bias));
}

/* An autograd.Function's node of one input. */
static TorchNode *function(Torch *t, const char *name, TorchBackward *backward, TorchTensor *x,
                           TorchQuantized *q)
{
    TorchNode *node = torch_node(t, name, backward, 1, &x);
    if (node)
        node->user = q;
    return node;
}

/* bias.data = bias.data.to(x.dtype) */
static TorchTensor *bias_in(Torch *t, const TorchLinear *linear, TorchType type)
{
    if (linear->bias && linear->bias->shape.type != type) {
        TorchShape shape = linear->bias->shape;
        shape.type = type;
        torch_set_data(t, "aten::_to_copy", linear->bias, shape, PYTORCH_FROZEN);
    }
    return linear->bias;
}

/* nn.Linear4bit.forward, MatMul4Bit.forward */
static TorchTensor *nf4(TorchJob *job, const TorchLinear *linear, TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchType type = x->shape.type;
    int as_it_is = t->dialect->bitsandbytes->type_of_input && type != TORCH_F16;
    torch_name(t, x);
    x = torch_name(t, torch_cast(t, x, as_it_is ? type : torch_compute_type(job)));
    TorchTensor *bias = bias_in(t, linear, x->shape.type);
    TorchNode *node = function(t, "MatMul4Bit", nf4_back, x, linear->quantized);
    int grad_mode = t->grad_mode;
    t->grad_mode = 0;
    TorchTensor *y = nf4_product(job, linear->quantized, x, bias);
    t->grad_mode = grad_mode;
    return torch_leave(t, frame, torch_cast(t, torch_made(t, node, 0, y), type));
}

/* ---- LLM.int8 -------------------------------------------------------------------------------- */

/* MatMul8bitLt.backward */
static void int8_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    const TorchQuantized *q = node->user;
    size_t frame = torch_frame(t);
    TorchType type = (TorchType)node->n[0];
    int64_t flat_size[] = {torch_count(&g[0]->shape) / q->out, q->out};
    TorchTensor *rows = torch_name(t, torch_make_contiguous(t, torch_reshape(t, g[0], 2, flat_size)));
    TorchTensor *w =
        torch_name(t, torch_empty(t, "aten::_to_copy", torch_shape(type, 2, (int64_t[]){q->out, q->in})));
    torch_scratch(t, "aten::mul", 4 * q->out);
    TorchTensor *product = torch_matmul(t, torch_cast(t, rows, type), w);
    d[0] = torch_leave(t, frame, torch_view(t, product, node->made[0].dims, &node->n[1]));
}

/* int8_vectorwise_quant with a threshold, where no value passes it; the caller's frame keeps both. */
static void quantize_rows(Torch *t, TorchTensor *rows)
{
    static const char op[] = "bitsandbytes::int8_vectorwise_quant";
    TorchShape shape = torch_shape(TORCH_I8, 2, rows->shape.size);
    size_t frame = torch_frame(t);
    TorchTensor *half = torch_cast(t, rows, TORCH_F16);
    TorchTensor *scales = flat(t, op, TORCH_F32, shape.size[0]);
    TorchTensor *values = torch_empty(t, op, shape);
    torch_name(t, half);
    TorchTensor *magnitudes = torch_empty(t, "aten::abs", torch_shape(TORCH_F16, 2, shape.size));
    TorchTensor *outliers = torch_name(t, torch_empty(t, "aten::ge", torch_shape(TORCH_BOOL, 2, shape.size)));
    torch_drop(t, magnitudes);
    TorchTensor *any = torch_empty(t, "aten::any", torch_shape(TORCH_BOOL, 0, NULL));
    torch_whole_scratch(t, torch_count(&outliers->shape), 1);
    torch_drop(t, any);
    if (t->dialect->torch->puts_numbers && shape.size[0] > 1) /* out_row[:, outlier_cols] = 0 */
        torch_scratch(t, "aten::_to_copy", torch_bytes(TORCH_I8));
    torch_leave(t, frame, NULL);
    torch_name(t, scales);
    torch_name(t, values);
}

/* int8_linear_matmul; cuBLASLt takes multiples of four only */
static TorchTensor *int8_sums(Torch *t, const TorchQuantized *q, int64_t rows)
{
    static const char op[] = "bitsandbytes::int8_linear_matmul";
    TorchShape shape = torch_shape(TORCH_I32, 2, (int64_t[]){rows, q->out});
    int straight = q->in % 4 == 0, is_new = t->dialect->bitsandbytes->product_is_new;
    TorchTensor *sums = straight || !is_new ? torch_empty(t, op, shape) : NULL;
    if (straight)
        return sums;
    TorchTensor *left = torch_empty(t, "aten::_to_copy", torch_shape(TORCH_F32, 2, (int64_t[]){rows, q->in}));
    TorchTensor *right =
        torch_empty(t, "aten::_to_copy", torch_shape(TORCH_F32, 2, (int64_t[]){q->out, q->in}));
    TorchTensor *product = torch_matmul(t, left, torch_transpose(t, right, 0, 1)); /* autocast's */
    TorchTensor *whole = torch_cast(t, product, TORCH_I32);
    if (is_new)
        return whole;
    torch_drop(t, whole);
    return sums;
}

/* int8_scaled_mm */
static TorchTensor *int8_product(Torch *t, const TorchQuantized *q, int64_t rows, TorchType type)
{
    TorchTensor *sums = torch_name(t, int8_sums(t, q, rows));
    TorchTensor *y =
        torch_empty(t, "bitsandbytes::int8_mm_dequant", torch_shape(TORCH_F16, 2, sums->shape.size));
    return torch_cast(t, y, type);
}

/* nn.Linear8bitLt.forward, MatMul8bitLt.forward. ctx.tensors is no saved tensor: it lives as long as the
 * graph. */
static TorchTensor *int8(TorchJob *job, const TorchLinear *linear, TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchQuantized *q = linear->quantized;
    torch_name(t, x);
    bias_in(t, linear, x->shape.type);
    TorchNode *node = function(t, "MatMul8bitLt", int8_back, x, q);
    int grad_mode = t->grad_mode, dims = x->shape.dims;
    int64_t size[TORCH_DIMS], flat_size[] = {torch_count(&x->shape) / q->in, q->in};
    for (int i = 0; i < dims; i++)
        size[i] = x->shape.size[i];
    t->grad_mode = 0;
    TorchTensor *rows = torch_name(t, torch_reshape(t, x, 2, flat_size));
    quantize_rows(t, rows);
    TorchTensor *y = int8_product(t, q, flat_size[0], x->shape.type);
    if (node) {
        node->context = torch_alias(t, rows);
        node->context->loose = 0;
        torch_mark(t, rows, PYTORCH_ACTIVATION);
        node->n[0] = x->shape.type;
        for (int i = 0; i < dims; i++)
            node->n[1 + i] = size[i];
    }
    size[dims - 1] = q->out;
    y = torch_reshape(t, y, dims, size);
    t->grad_mode = grad_mode;
    return torch_leave(t, frame, torch_made(t, node, 0, y));
}

TorchTensor *torch_quantized_linear(TorchJob *job, const TorchLinear *linear, TorchTensor *x)
{
    return job->asked->quantize == PYTORCH_INT8 ? int8(job, linear, x) : nf4(job, linear, x);
}
