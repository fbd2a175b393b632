/* Reference kernels of everything that is not a product: one plain loop after another, libm, sums in double.
 * How many threads run is ignored. Random numbers share their counters with the tuned kernels through draw.h. */
#include <math.h>
#include <string.h>

#include "kernels/draw.h"
#include "kernels/frequency.h"
#include "kernels/reference_.h"

static float blend(double value, float beta, float old)
{
    return (float)(beta == 0.0f ? value : value + (double)beta * (double)old);
}

void reference_embedding_forward(int64_t n, const int32_t *ids, const StoredArray *table, float *y,
                                 const KernelRun *run)
{
    int64_t c = table->cols;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] >= 0 && ids[i] < table->rows)
            reference_decode(table, ids[i] * c, c, y + i * c, run);
        else if (*run->fault < 0)
            *run->fault = i;
    }
}

void reference_embedding_backward(int64_t n, int64_t c, int64_t vocab, const int32_t *ids, const float *dy,
                                  float *dtable, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < c && ids[i] >= 0 && ids[i] < vocab; j++)
            dtable[ids[i] * c + j] += dy[i * c + j];
    }
}

void reference_layer_norm_forward(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                                  const float *bias, float *y, float *mean, float *rstd, const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0; row < rows; row++, x += c, y += c) {
        double m = 0.0, v = 0.0;
        for (int64_t j = 0; j < c; j++)
            m += x[j] / (double)c;
        for (int64_t j = 0; j < c; j++)
            v += (x[j] - m) * (x[j] - m) / (double)c;
        double r = 1.0 / sqrt(v + (double)eps);
        for (int64_t j = 0; j < c; j++)
            y[j] = (float)((x[j] - m) * r * weight[j] + (bias ? bias[j] : 0.0));
        mean[row] = (float)m;
        rstd[row] = (float)r;
    }
}

void reference_layer_norm_backward(int64_t rows, int64_t c, const float *x, const float *weight,
                                   const float *mean, const float *rstd, const float *dy, float beta_dx,
                                   float *dx, float beta_dw, float *dweight, float beta_db, float *dbias,
                                   float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int64_t j = 0; j < c; j++) { /* first: dx may overwrite dy */
        double dw = 0.0, db = 0.0;
        for (int64_t row = 0; row < rows; row++) {
            dw += (double)dy[row * c + j] * ((double)x[row * c + j] - mean[row]) * rstd[row];
            db += dy[row * c + j];
        }
        if (dweight)
            dweight[j] = blend(dw, beta_dw, dweight[j]);
        if (dbias)
            dbias[j] = blend(db, beta_db, dbias[j]);
    }
    for (int64_t row = 0; dx && row < rows; row++) {
        const float *xr = x + row * c, *dyr = dy + row * c;
        double m = mean[row], r = rstd[row], total = 0.0, dot = 0.0;
        for (int64_t j = 0; j < c; j++) {
            total += (double)dyr[j] * weight[j] / (double)c;
            dot += (double)dyr[j] * weight[j] * (xr[j] - m) * r / (double)c;
        }
        for (int64_t j = 0; j < c; j++) {
            double d = r * ((double)dyr[j] * weight[j] - total - (xr[j] - m) * r * dot);
            dx[row * c + j] = blend(d, beta_dx, dx[row * c + j]);
        }
    }
}

void reference_rms_norm_forward(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                                float *y, float *rstd, const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0; row < rows; row++, x += c, y += c) {
        double v = 0.0;
        for (int64_t j = 0; j < c; j++)
            v += (double)x[j] * x[j] / (double)c;
        double r = 1.0 / sqrt(v + (double)eps);
        for (int64_t j = 0; j < c; j++)
            y[j] = (float)(x[j] * r * weight[j]);
        rstd[row] = (float)r;
    }
}

void reference_rms_norm_backward(int64_t rows, int64_t c, const float *x, const float *weight,
                                 const float *rstd, const float *dy, float beta_dx, float *dx, float beta_dw,
                                 float *dweight, float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int64_t j = 0; dweight && j < c; j++) { /* first: dx may overwrite dy */
        double dw = 0.0;
        for (int64_t row = 0; row < rows; row++)
            dw += (double)dy[row * c + j] * x[row * c + j] * rstd[row];
        dweight[j] = blend(dw, beta_dw, dweight[j]);
    }
    for (int64_t row = 0; dx && row < rows; row++) {
        const float *xr = x + row * c, *dyr = dy + row * c;
        double r = rstd[row], dot = 0.0;
        for (int64_t j = 0; j < c; j++)
            dot += (double)dyr[j] * weight[j] * xr[j] * r / (double)c;
        for (int64_t j = 0; j < c; j++) {
            double d = r * ((double)dyr[j] * weight[j] - xr[j] * r * dot);
            dx[row * c + j] = blend(d, beta_dx, dx[row * c + j]);
        }
    }
}

size_t reference_norm_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)rows, (void)c, (void)run;
    return 0;
}

static double logistic(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double activation_of(Activation act, double x)
{
    switch (act) {
    case ACT_GELU:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_SILU:
        return x * logistic(x);
    case ACT_RELU:
        return x < 0.0 ? 0.0 : x;
    case ACT_NONE:
        break;
    }
    return x;
}

static double slope_of(Activation act, double x)
{
    double k = sqrt(2.0 / M_PI), t;
    switch (act) {
    case ACT_GELU:
        return 0.5 * (1.0 + erf(x / sqrt(2.0))) + x * exp(-0.5 * x * x) / sqrt(2.0 * M_PI);
    case ACT_GELU_TANH:
        t = tanh(k * (x + 0.044715 * x * x * x));
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 3.0 * 0.044715 * x * x);
    case ACT_SILU:
        return logistic(x) * (1.0 + x * (1.0 - logistic(x)));
    case ACT_RELU:
        return x <= 0.0 ? 0.0 : 1.0;
    case ACT_NONE:
        break;
    }
    return 1.0;
}

void reference_activation_forward(Activation act, int64_t n, const float *x, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)activation_of(act, x[i]);
}

void reference_activation_backward(Activation act, int64_t n, const float *x, const float *dy, float beta,
                                   float *dx, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        dx[i] = blend(slope_of(act, x[i]) * dy[i], beta, dx[i]);
}

void reference_swiglu_forward(int64_t n, const float *gate, const float *up, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(activation_of(ACT_SILU, gate[i]) * up[i]);
}

void reference_swiglu_backward(int64_t n, const float *gate, const float *up, const float *dy,
                               float beta_gate, float *dgate, float beta_up, float *dup, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++) {
        double to_gate = slope_of(ACT_SILU, gate[i]) * up[i] * dy[i];
        double to_up = activation_of(ACT_SILU, gate[i]) * dy[i];
        if (dgate)
            dgate[i] = blend(to_gate, beta_gate, dgate[i]);
        if (dup)
            dup[i] = blend(to_up, beta_up, dup[i]);
    }
}

void reference_rope(const RopeDims *d, const float *x, float beta, float *y, const KernelRun *run)
{
    (void)run;
    int half = d->head_dim / 2;
    for (int64_t row = 0; row < (int64_t)d->batch * d->seq; row++) {
        for (int64_t at = row * d->ld, h = 0; h < d->heads; h++, at += d->head_dim) {
            for (int64_t i = at, k = 0; k < half; i++, k++) {
                /* Angles are floats by definition: that is what models were trained with. */
                float angle = (float)(d->offset + row % d->seq) * rope_frequency(d, (int)k);
                double c = cos(angle), s = d->inverse ? -sin(angle) : sin(angle), a = x[i], b = x[i + half];
                y[i] = blend(a * c - b * s, beta, y[i]);
                y[i + half] = blend(b * c + a * s, beta, y[i + half]);
            }
        }
    }
}

size_t reference_cross_entropy_workspace(const CrossEntropyDims *d, const KernelRun *run)
{
    (void)d, (void)run;
    return 0;
}

void reference_cross_entropy_forward(const CrossEntropyDims *d, const float *logits, const int32_t *labels,
                                     float scale, float *loss, float *lse, float *workspace,
                                     const KernelRun *run)
{
    (void)workspace;
    double total = 0.0;
    for (int64_t row = 0; row < d->rows; row++, logits += d->classes) {
        lse[row] = 0.0f;
        if (labels[row] == d->ignore_index)
            continue;
        if (labels[row] < 0 || labels[row] >= d->classes) {
            *run->fault = *run->fault < 0 ? d->first_row + row : *run->fault;
            continue;
        }
        double top = -INFINITY, exponentials = 0.0;
        for (int64_t j = 0; j < d->classes; j++)
            top = fmax(top, logits[j]);
        for (int64_t j = 0; j < d->classes; j++)
            exponentials += exp(logits[j] - top);
        lse[row] = (float)(top + log(exponentials));
        total += top + log(exponentials) - logits[labels[row]];
    }
    *loss = (float)(scale * total);
}

void reference_cross_entropy_backward(const CrossEntropyDims *d, const float *logits, const int32_t *labels,
                                      float scale, const float *lse, const float *dloss, float beta,
                                      float *dlogits, const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0; row < d->rows; row++) {
        int counted = labels[row] != d->ignore_index && labels[row] >= 0 && labels[row] < d->classes;
        for (int64_t j = 0; j < d->classes; j++, logits++, dlogits++) {
            double p = counted ? exp((double)*logits - (double)lse[row]) - (j == labels[row]) : 0.0;
            *dlogits = blend(p * scale * dloss[0], beta, *dlogits);
        }
    }
}

void reference_dropout(int64_t samples, int64_t per_sample, float p, const DropoutKey *key, const float *x,
                       float beta, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t sample = 0; sample < samples; sample++) {
        for (int64_t i = 0; i < per_sample; i++, x++, y++) {
            Philox draw = draw_dropout(key, key->first_sample + (uint64_t)sample, (uint64_t)i / 4);
            double keep = draw.v[i % 4] >= draw_dropout_threshold(p) ? 1.0 / (1.0 - (double)p) : 0.0;
            *y = blend(*x * keep, beta, *y);
        }
    }
}

void reference_fill(int64_t n, float value, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        y[i] = value;
}

void reference_copy(int64_t n, const float *x, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i];
}

void reference_add(int64_t n, const float *a, const float *b, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

void reference_add_row(int64_t rows, int64_t c, const float *a, const float *b, float *y,
                       const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < rows * c; i++)
        y[i] = a[i] + b[i % c];
}

void reference_column_sum(int64_t rows, int64_t c, const float *dy, float beta, float *dbias,
                          float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int64_t j = 0; j < c; j++) {
        double total = 0.0;
        for (int64_t row = 0; row < rows; row++)
            total += dy[row * c + j];
        dbias[j] = blend(total, beta, dbias[j]);
    }
}

size_t reference_column_sum_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)rows, (void)c, (void)run;
    return 0;
}

void reference_scale(int64_t n, float alpha, const float *x, float beta, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        y[i] = blend((double)alpha * x[i], beta, y[i]);
}

void reference_multiply(int64_t n, const float *a, const float *b, float beta, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        y[i] = blend((double)a[i] * b[i], beta, y[i]);
}

void reference_broadcast(int64_t n, float factor, const float *value, float *y, const KernelRun *run)
{
    (void)run;
    float filled = value[0] * factor;
    for (int64_t i = 0; i < n; i++)
        y[i] = filled;
}

void reference_sum(int64_t n, const float *x, double factor, float *total, const KernelRun *run)
{
    (void)run;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    total[0] = (float)(sum * factor);
}

void reference_sum_squares(int64_t n, const float *x, double *total, const KernelRun *run)
{
    (void)run;
    total[0] = 0.0;
    for (int64_t i = 0; i < n; i++)
        total[0] += (double)x[i] * x[i];
}

void reference_find_nonfinite(int64_t n, const float *x, int64_t *index, const KernelRun *run)
{
    (void)run;
    index[0] = -1;
    for (int64_t i = 0; i < n && index[0] < 0; i++)
        if (!isfinite(x[i]))
            index[0] = i;
}

void reference_fill_normal(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float mean, float std,
                           float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++) {
        Philox draw = draw_fill(seed, stream, (uint64_t)(first + i) / 4);
        const uint32_t *pair = draw.v + i % 4 / 2 * 2;
        double radius = sqrt(-2.0 * log(((pair[0] >> 8) + 1) * 0x1p-24));
        double angle = 2.0 * M_PI * philox_unit(pair[1]);
        y[i] = (float)(mean + std * radius * (i % 2 ? sin(angle) : cos(angle)));
    }
}

void reference_fill_uniform(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float low, float high,
                            float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++) {
        float unit = philox_unit(draw_fill(seed, stream, (uint64_t)(first + i) / 4).v[i % 4]);
        y[i] = (float)(low + ((double)high - low) * unit);
        if (y[i] >= high && high > low)
            y[i] = nextafterf(high, low);
    }
}
