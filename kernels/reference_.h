/* The reference kernels, one a member of Kernels (kernels.h, where they are described): reference_products.c
 * and reference_ops.c hold them, reference.c puts them into a table. Plain loops, one thread, sums in double.
 */
#ifndef BRIM_REFERENCE__H
#define BRIM_REFERENCE__H

#include "kernels/kernels.h"

void reference_gemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                    int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc, int threads);
void reference_linear_forward(const LinearDims *d, Activation act, const float *x, const float *w,
                              const float *bias, float *pre, float *y, int threads);
void reference_linear_backward_input(const LinearDims *d, const float *dy, const float *w, float beta,
                                     float *dx, int threads);
void reference_linear_backward_weight(const LinearDims *d, const float *x, const float *dy, float beta_w,
                                      float *dw, float beta_b, float *dbias, float *workspace, int threads);
size_t reference_linear_workspace(const LinearDims *d, int threads);
int64_t reference_embedding_forward(int64_t n, int64_t c, int64_t vocab, const int32_t *ids,
                                    const float *table, float *y, int threads);
void reference_embedding_backward(int64_t n, int64_t c, int64_t vocab, const int32_t *ids, const float *dy,
                                  float *dtable, int threads);
void reference_layer_norm_forward(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                                  const float *bias, float *y, float *mean, float *rstd, int threads);
void reference_layer_norm_backward(int64_t rows, int64_t c, const float *x, const float *weight,
                                   const float *mean, const float *rstd, const float *dy, float beta_dx,
                                   float *dx, float beta_dw, float *dweight, float beta_db, float *dbias,
                                   float *workspace, int threads);
void reference_rms_norm_forward(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                                float *y, float *rstd, int threads);
void reference_rms_norm_backward(int64_t rows, int64_t c, const float *x, const float *weight,
                                 const float *rstd, const float *dy, float beta_dx, float *dx, float beta_dw,
                                 float *dweight, float *workspace, int threads);
size_t reference_norm_workspace(int64_t rows, int64_t c, int threads);
void reference_activation_forward(Activation act, int64_t n, const float *x, float *y, int threads);
void reference_activation_backward(Activation act, int64_t n, const float *x, const float *dy, float beta,
                                   float *dx, int threads);
void reference_swiglu_forward(int64_t n, const float *gate, const float *up, float *y, int threads);
void reference_swiglu_backward(int64_t n, const float *gate, const float *up, const float *dy,
                               float beta_gate, float *dgate, float beta_up, float *dup, int threads);
void reference_rope(const RopeDims *d, const float *x, float beta, float *y, int threads);
void reference_attention_eager_forward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                       float *out, float *probs, float *workspace, int threads);
void reference_attention_eager_backward(const AttentionDims *d, const float *q, const float *k,
                                        const float *v, const float *out, const float *probs,
                                        const float *dout, float *dq, float *dk, float *dv, float *workspace,
                                        int threads);
void reference_attention_flash_forward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                       float *out, float *lse, float *workspace, int threads);
void reference_attention_flash_backward(const AttentionDims *d, const float *q, const float *k,
                                        const float *v, const float *out, const float *lse, const float *dout,
                                        float *dq, float *dk, float *dv, float *workspace, int threads);
size_t reference_attention_workspace(const AttentionDims *d, AttentionKept kept, int backward, int threads);
void reference_attention_append(const AttentionDims *d, const float *k, const float *v, float *cache,
                                int threads);
void reference_attention_cached(const AttentionDims *d, const float *q, const float *cache, float *out,
                                float *workspace, int threads);
size_t reference_attention_cached_workspace(const AttentionDims *d, int threads);
int64_t reference_cross_entropy_forward(const CrossEntropyDims *d, const float *logits, const int32_t *labels,
                                        float scale, float *loss, float *lse, float *workspace, int threads);
void reference_cross_entropy_backward(const CrossEntropyDims *d, const float *logits, const int32_t *labels,
                                      float scale, const float *lse, float dloss, float beta, float *dlogits,
                                      int threads);
size_t reference_cross_entropy_workspace(const CrossEntropyDims *d, int threads);
void reference_dropout(int64_t samples, int64_t per_sample, float p, const DropoutKey *key, const float *x,
                       float beta, float *y, int threads);
void reference_fill(int64_t n, float value, float *y, int threads);
void reference_copy(int64_t n, const float *x, float *y, int threads);
void reference_add(int64_t n, const float *a, const float *b, float *y, int threads);
void reference_add_row(int64_t rows, int64_t c, const float *a, const float *b, float *y, int threads);
void reference_column_sum(int64_t rows, int64_t c, const float *dy, float beta, float *dbias,
                          float *workspace, int threads);
size_t reference_column_sum_workspace(int64_t rows, int64_t c, int threads);
void reference_scale(int64_t n, float alpha, const float *x, float beta, float *y, int threads);
void reference_multiply(int64_t n, const float *a, const float *b, float beta, float *y, int threads);
double reference_sum(int64_t n, const float *x, int threads);
double reference_sum_squares(int64_t n, const float *x, int threads);
int64_t reference_find_nonfinite(int64_t n, const float *x, int threads);
void reference_fill_normal(int64_t n, uint64_t seed, uint64_t stream, float mean, float std, float *y,
                           int threads);
void reference_fill_uniform(int64_t n, uint64_t seed, uint64_t stream, float low, float high, float *y,
                            int threads);
void reference_sgd(int64_t n, const UpdateScalars *s, float *p, const float *g, float *momentum, int threads);
void reference_rmsprop(int64_t n, const UpdateScalars *s, float *p, const float *g, float *square,
                       float *momentum, int threads);
void reference_adagrad(int64_t n, const UpdateScalars *s, float *p, const float *g, float *sum, int threads);
void reference_adam(int64_t n, const UpdateScalars *s, float *p, const float *g, float *first, float *second,
                    int threads);

#endif
