/* Reference kernels of everything that is not a product: one plain loop after another, libm, sums in double.
 * How many threads run is ignored. Random numbers share their counters with the tuned kernels through draw.h.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/draw.h"
#include "kernels/frequency.h"
#include "kernels/reference_.h"
#include "kernels/values.h"

/* Element i of an array of f32, bf16 or f16, and what it becomes. */
static double get(DType type, const void *x, int64_t i)
{
    return (double)values_get(type, x, i);
}

static void set(DType type, void *y, int64_t i, double value)
{
    values_set(type, y, i, (float)value);
}

static void blend(DType type, double value, float beta, void *y, int64_t i)
{
    set(type, y, i, beta == 0.0f ? value : value + (double)beta * get(type, y, i));
}

void reference_embedding_forward(DType type, int64_t n, const int32_t *ids, const StoredArray *table,
                                 TablePart part, void *y, const KernelRun *run)
{
    int64_t c = table->cols, all = part.all ? part.all : table->rows;
    for (int64_t i = 0; i < n; i++) {
        int64_t id = ids[i] - part.first;
        int known = ids[i] >= 0 && ids[i] < all, here = id >= 0 && id < table->rows;
        for (int64_t j = 0; j < c && known; j++)
            set(type, y, i * c + j, here ? reference_element(table, id * c + j) : 0);
        if (!known && *run->fault < 0)
            *run->fault = i;
    }
}

size_t reference_embedding_workspace(int64_t n, int64_t vocab, DType dtable_type, const KernelRun *run)
{
    (void)n, (void)vocab, (void)dtable_type, (void)run;
    return 0;
}

/* Row by row of the table, at the first position that has its id: in float, in the order of the positions,
 * and rounded once. */
void reference_embedding_backward(DType type, int64_t n, int64_t c, int64_t vocab, int64_t begin,
                                  const int32_t *ids, const void *dy, DType dtable_type, void *dtable,
                                  void *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int64_t i = 0; i < n; i++) {
        int64_t first = 0, id = ids[i] - begin;
        while (ids[first] != ids[i])
            first++;
        for (int64_t j = 0; j < c && first == i && id >= 0 && id < vocab; j++) {
            float sum = values_get(dtable_type, dtable, id * c + j);
            for (int64_t k = i; k < n; k++)
                if (ids[k] == ids[i])
                    sum += values_get(type, dy, k * c + j);
            values_set(dtable_type, dtable, id * c + j, sum);
        }
    }
}

void reference_layer_norm_forward(DType type, int64_t rows, int64_t c, float eps, const void *x,
                                  const float *weight, const float *bias, void *y, float *mean, float *rstd,
                                  const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0, at = 0; row < rows; row++, at += c) {
        double m = 0.0, v = 0.0;
        for (int64_t j = 0; j < c; j++)
            m += get(type, x, at + j) / (double)c;
        for (int64_t j = 0; j < c; j++)
            v += (get(type, x, at + j) - m) * (get(type, x, at + j) - m) / (double)c;
        double r = 1.0 / sqrt(v + (double)eps);
        for (int64_t j = 0; j < c; j++)
            set(type, y, at + j, (get(type, x, at + j) - m) * r * weight[j] + (bias ? bias[j] : 0.0));
        mean[row] = (float)m;
        rstd[row] = (float)r;
    }
}

void reference_layer_norm_backward(DType type, int64_t rows, int64_t c, const void *x, const float *weight,
                                   const float *mean, const float *rstd, const void *dy, float beta_dx,
                                   void *dx, DType dweight_type, float beta_dw, void *dweight,
                                   DType dbias_type, float beta_db, void *dbias, float *workspace,
                                   const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int64_t j = 0; j < c; j++) { /* first: dx may overwrite dy */
        double dw = 0.0, db = 0.0;
        for (int64_t row = 0; row < rows; row++) {
            double d = get(type, dy, row * c + j);
            dw += d * (get(type, x, row * c + j) - (double)mean[row]) * rstd[row];
            db += d;
        }
        if (dweight)
            blend(dweight_type, dw, beta_dw, dweight, j);
        if (dbias)
            blend(dbias_type, db, beta_db, dbias, j);
    }
    for (int64_t row = 0, at = 0; dx && row < rows; row++, at += c) {
        double m = mean[row], r = rstd[row], total = 0.0, dot = 0.0;
        for (int64_t j = 0; j < c; j++) {
            double g = get(type, dy, at + j) * weight[j];
            total += g / (double)c;
            dot += g * (get(type, x, at + j) - m) * r / (double)c;
        }
        for (int64_t j = 0; j < c; j++) {
            double xhat = (get(type, x, at + j) - m) * r;
            double d = r * (get(type, dy, at + j) * weight[j] - total - xhat * dot);
            blend(type, d, beta_dx, dx, at + j);
        }
    }
}

void reference_rms_norm_forward(DType type, int64_t rows, int64_t c, float eps, float plus, const void *x,
                                const float *weight, void *y, float *rstd, const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0, at = 0; row < rows; row++, at += c) {
        double v = 0.0;
        for (int64_t j = 0; j < c; j++)
            v += get(type, x, at + j) * get(type, x, at + j) / (double)c;
        double r = 1.0 / sqrt(v + (double)eps);
        for (int64_t j = 0; j < c; j++)
            set(type, y, at + j, get(type, x, at + j) * r * ((double)plus + weight[j]));
        rstd[row] = (float)r;
    }
}

void reference_rms_norm_backward(DType type, int64_t rows, int64_t c, float plus, const void *x,
                                 const float *weight, const float *rstd, const void *dy, float beta_dx,
                                 void *dx, DType dweight_type, float beta_dw, void *dweight, float *workspace,
                                 const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int64_t j = 0; dweight && j < c; j++) { /* first: dx may overwrite dy */
        double dw = 0.0;
        for (int64_t row = 0; row < rows; row++)
            dw += get(type, dy, row * c + j) * get(type, x, row * c + j) * rstd[row];
        blend(dweight_type, dw, beta_dw, dweight, j);
    }
    for (int64_t row = 0, at = 0; dx && row < rows; row++, at += c) {
        double r = rstd[row], dot = 0.0;
        for (int64_t j = 0; j < c; j++)
            dot += get(type, dy, at + j) * ((double)plus + weight[j]) * get(type, x, at + j) * r / (double)c;
        for (int64_t j = 0; j < c; j++) {
            double d =
                r * (get(type, dy, at + j) * ((double)plus + weight[j]) - get(type, x, at + j) * r * dot);
            blend(type, d, beta_dx, dx, at + j);
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
    case ACT_TANH:
        return tanh(x);
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
    case ACT_TANH:
        return 1.0 / (cosh(x) * cosh(x));
    case ACT_NONE:
        break;
    }
    return 1.0;
}

void reference_activation_forward(DType type, Activation act, int64_t n, const void *x, void *y,
                                  const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        set(type, y, i, activation_of(act, get(type, x, i)));
}

void reference_activation_backward(DType type, Activation act, int64_t n, const void *x, const void *dy,
                                   float beta, void *dx, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        blend(type, slope_of(act, get(type, x, i)) * get(type, dy, i), beta, dx, i);
}

void reference_gated_forward(const GatedDims *d, DType type, const void *gate, const void *up, void *y,
                             const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0, to = 0; row < d->rows; row++)
        for (int64_t j = 0, i = row * gated_ld(d); j < d->c; j++, i++, to++)
            set(type, y, to, activation_of(d->act, get(type, gate, i)) * get(type, up, i));
}

void reference_gated_backward(const GatedDims *d, DType type, const void *gate, const void *up,
                              const void *dy, float beta_gate, void *dgate, float beta_up, void *dup,
                              const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0, to = 0; row < d->rows; row++)
        for (int64_t j = 0, i = row * gated_ld(d); j < d->c; j++, i++, to++) {
            double x = get(type, gate, i), slope = get(type, dy, to);
            double to_gate = slope_of(d->act, x) * get(type, up, i) * slope;
            if (dgate)
                blend(type, to_gate, beta_gate, dgate, i);
            if (dup)
                blend(type, activation_of(d->act, x) * slope, beta_up, dup, i);
        }
}

static double sigmoid_of(double x)
{
    return 1 / (1 + exp(-x));
}

void reference_gate_rows_forward(DType type, int64_t rows, int64_t c, const void *x, const void *gate,
                                 void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < rows * c; i++)
        set(type, y, i, get(type, x, i) * sigmoid_of(get(type, gate, i / c)));
}

void reference_gate_rows_backward(DType type, int64_t rows, int64_t c, const void *x, const void *gate,
                                  const void *dy, float beta_x, void *dx, float beta_gate, void *dgate,
                                  const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0; row < rows; row++) {
        double g = get(type, gate, row), dot = 0;
        for (int64_t i = row * c; i < (row + 1) * c; i++) {
            dot += dgate ? get(type, x, i) * get(type, dy, i) : 0;
            if (dx)
                blend(type, get(type, dy, i) * sigmoid_of(g), beta_x, dx, i);
        }
        if (dgate)
            blend(type, sigmoid_of(g) * sigmoid_of(-g) * dot, beta_gate, dgate, row);
    }
}

static double softcap_of(float cap, double x)
{
    return (double)cap * tanh(x / (double)cap);
}

static double softcap_slope_of(float cap, double x)
{
    return slope_of(ACT_TANH, x / (double)cap);
}

void reference_softcap_forward(DType type, int64_t n, float cap, const void *x, void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        set(type, y, i, softcap_of(cap, get(type, x, i)));
}

void reference_softcap_backward(DType type, int64_t n, float cap, const void *x, const void *dy, float beta,
                                void *dx, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        blend(type, softcap_slope_of(cap, get(type, x, i)) * get(type, dy, i), beta, dx, i);
}

void reference_rope(const RopeDims *d, DType type, const void *x, float beta, void *y, const KernelRun *run)
{
    (void)run;
    int width = rope_width(d), half = width / 2;
    for (int64_t row = 0; row < (int64_t)d->batch * d->seq; row++) {
        int64_t at = row * d->ld;
        for (int64_t h = 0; h < d->heads; h++, at += d->head_dim) {
            for (int64_t k = 0; k < half; k++) {
                /* Angles are floats by definition: that is what models were trained with. */
                float angle = (float)(d->offset + row % d->seq) * rope_frequency(d, (int)k);
                double c = cos(angle) * rope_scale(d);
                double s = (d->inverse ? -sin(angle) : sin(angle)) * rope_scale(d);
                int64_t i = at + (d->interleaved ? 2 * k : k), j = i + (d->interleaved ? 1 : half);
                double a = get(type, x, i), b = get(type, x, j);
                blend(type, a * c - b * s, beta, y, i);
                blend(type, b * c + a * s, beta, y, j);
            }
            for (int64_t i = at + width; i < at + d->head_dim; i++)
                blend(type, get(type, x, i), beta, y, i);
            int64_t behind = (h + 1) % rope_group(d) ? 0 : d->behind;
            for (int64_t i = 0; i < behind; i++)
                blend(type, get(type, x, at + d->head_dim + i), beta, y, at + d->head_dim + i);
            at += behind;
        }
    }
}

/* A logit as it counts. */
static double logit(const CrossEntropyDims *d, DType type, const void *logits, int64_t at)
{
    double x = get(type, logits, at);
    return d->softcap != 0 ? softcap_of(d->softcap, x) : x;
}

size_t reference_cross_entropy_workspace(const CrossEntropyDims *d, const KernelRun *run)
{
    (void)d, (void)run;
    return 0;
}

void reference_cross_entropy_forward(const CrossEntropyDims *d, DType type, const void *logits,
                                     const int32_t *labels, float scale, float *loss, float *lse,
                                     float *workspace, const KernelRun *run)
{
    (void)workspace;
    double total = 0.0;
    for (int64_t row = 0, at = 0; row < d->rows; row++, at += cross_entropy_ld(d)) {
        lse[row] = 0.0f;
        if (labels[row] == d->ignore_index)
            continue;
        if (labels[row] < 0 || labels[row] >= d->classes) {
            *run->fault = *run->fault < 0 ? d->first_row + row : *run->fault;
            continue;
        }
        double top = -INFINITY, exponentials = 0.0;
        for (int64_t j = 0; j < d->classes; j++)
            top = fmax(top, logit(d, type, logits, at + j));
        for (int64_t j = 0; j < d->classes; j++)
            exponentials += exp(logit(d, type, logits, at + j) - top);
        lse[row] = (float)(top + log(exponentials));
        total += top + log(exponentials) - logit(d, type, logits, at + labels[row]);
    }
    *loss = (float)(scale * total);
}

void reference_cross_entropy_backward(const CrossEntropyDims *d, DType type, const void *logits,
                                      const int32_t *labels, float scale, const float *lse,
                                      const float *dloss, float beta, void *dlogits, const KernelRun *run)
{
    (void)run;
    int64_t classes = d->all_classes ? d->all_classes : d->classes;
    for (int64_t row = 0; row < d->rows; row++) {
        int64_t at = row * cross_entropy_ld(d);
        int counted = labels[row] != d->ignore_index && labels[row] >= 0 && labels[row] < classes;
        for (int64_t j = 0; j < d->classes; j++, at++) {
            int hot = d->first_class + j == labels[row];
            double p = counted ? exp(logit(d, type, logits, at) - (double)lse[row]) - hot : 0.0;
            if (counted && d->softcap != 0)
                p *= softcap_slope_of(d->softcap, get(type, logits, at));
            blend(type, p * scale * dloss[0], beta, dlogits, at);
        }
        for (int64_t j = 0; j < d->padding; j++)
            set(type, dlogits, at + j, 0);
    }
}

void reference_cross_entropy_part(const CrossEntropyDims *d, DType type, const void *logits,
                                  const int32_t *labels, float *part, const KernelRun *run)
{
    for (int64_t row = 0; row < d->rows; row++, part += CROSS_ENTROPY_PART) {
        int64_t at = row * cross_entropy_ld(d), label = labels[row] - d->first_class;
        int bad = labels[row] < 0 || labels[row] >= d->all_classes;
        part[PART_TOP] = part[PART_SUM] = part[PART_LABEL] = 0;
        if (labels[row] == d->ignore_index)
            continue;
        if (bad && *run->fault < 0)
            *run->fault = d->first_row + row;
        double top = -FLT_MAX, exponentials = 0.0;
        for (int64_t j = 0; j < d->classes; j++)
            top = fmax(top, logit(d, type, logits, at + j));
        for (int64_t j = 0; j < d->classes; j++)
            exponentials += exp(logit(d, type, logits, at + j) - top);
        part[PART_TOP] = (float)top;
        part[PART_SUM] = (float)exponentials;
        if (!bad && label >= 0 && label < d->classes)
            part[PART_LABEL] = (float)logit(d, type, logits, at + label);
    }
}

void reference_cross_entropy_join(const CrossEntropyDims *d, int count, int64_t apart, const float *parts,
                                  const int32_t *labels, float scale, float *loss, float *lse,
                                  float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    double all = 0.0;
    for (int64_t row = 0; row < d->rows; row++) {
        const float *first = parts + row * CROSS_ENTROPY_PART;
        double top = -INFINITY, exponentials = 0.0, label = 0.0;
        lse[row] = 0.0f;
        if (labels[row] == d->ignore_index)
            continue;
        for (int p = 0; p < count; p++)
            top = fmax(top, (double)first[p * apart + PART_TOP]);
        for (int p = 0; p < count; p++) {
            exponentials +=
                (double)first[p * apart + PART_SUM] * exp((double)first[p * apart + PART_TOP] - top);
            label += (double)first[p * apart + PART_LABEL];
        }
        lse[row] = (float)(top + log(exponentials));
        all += top + log(exponentials) - label;
    }
    *loss = (float)(scale * all);
}

void reference_dropout(DType type, int64_t samples, int64_t per_sample, float p, const DropoutKey *key,
                       const void *x, float beta, void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t at = 0; at < samples * per_sample; at++) {
        uint64_t sample = (uint64_t)(at / per_sample), i = key->first_element + (uint64_t)(at % per_sample);
        Philox draw = draw_dropout(key, key->first_sample + sample, i / 4);
        double keep = draw.v[i % 4] >= draw_dropout_threshold(p) ? 1.0 / (1.0 - (double)p) : 0.0;
        blend(type, get(type, x, at) * keep, beta, y, at);
    }
}

void reference_fill(DType type, int64_t n, float value, void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        values_set(type, y, i, value);
}

void reference_copy(DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        values_set(to, y, i, values_get(from, x, i));
}

void reference_add(DType type, int64_t n, const void *a, const void *b, void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        values_set(type, y, i, values_get(type, a, i) + values_get(type, b, i));
}

void reference_accumulate(DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        values_set(to, y, i, values_get(to, y, i) + values_get(from, x, i));
}

void reference_add_row(DType type, int64_t rows, int64_t c, const void *a, const float *b, void *y,
                       const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < rows * c; i++)
        values_set(type, y, i, values_get(type, a, i) + b[i % c]);
}

void reference_column_sum(DType type, int64_t rows, int64_t c, const void *dy, DType dbias_type, float beta,
                          void *dbias, float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int64_t j = 0; j < c; j++) {
        double total = 0.0;
        for (int64_t row = 0; row < rows; row++)
            total += get(type, dy, row * c + j);
        blend(dbias_type, total, beta, dbias, j);
    }
}

size_t reference_column_sum_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)rows, (void)c, (void)run;
    return 0;
}

void reference_scale(DType type, int64_t n, float alpha, const void *x, float beta, void *y,
                     const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        blend(type, (double)alpha * get(type, x, i), beta, y, i);
}

void reference_multiply(DType type, int64_t n, const void *a, const void *b, float beta, void *y,
                        const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        blend(type, get(type, a, i) * get(type, b, i), beta, y, i);
}

void reference_broadcast(DType type, int64_t n, float factor, const float *value, void *y,
                         const KernelRun *run)
{
    reference_fill(type, n, value[0] * factor, y, run);
}

void reference_sum(DType type, int64_t n, const void *x, double factor, float *total, const KernelRun *run)
{
    (void)run;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += get(type, x, i);
    total[0] = (float)(sum * factor);
}

void reference_sum_squares(DType type, int64_t n, const void *x, double *total, const KernelRun *run)
{
    (void)run;
    total[0] = 0.0;
    for (int64_t i = 0; i < n; i++)
        total[0] += get(type, x, i) * get(type, x, i);
}

void reference_find_nonfinite(DType type, int64_t n, const void *x, int64_t *index, const KernelRun *run)
{
    (void)run;
    index[0] = -1;
    for (int64_t i = 0; i < n && index[0] < 0; i++)
        if (!isfinite(values_get(type, x, i)))
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
