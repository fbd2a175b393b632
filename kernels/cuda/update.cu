/* Optimizer updates, one pass over all arrays of a parameter (kernels/update.c has the rules). A rule has two
 * kernels: one of packs of 4 elements, 16 bytes of an f32 array; and one in which a warp has a block of 256,
 * 8 a lane, for 8-bit states, whose blocks share a scale, and for rounding at random, which draws for 8
 * elements at once. */
#include "../draw.h"
#include "codes.h"
#include "pack.h"

enum { RULE_SGD, RULE_RMSPROP, RULE_ADAGRAD, RULE_ADAM };

/* One element. A state that the parameter has not is NULL, or of no use. */
DEVICE void update_sgd(const UpdateScalars *s, float d, float *p, float *buffer)
{
    d += s->weight_decay * *p;
    if (buffer && s->momentum != 0.0f) { /* at step 1 the buffer is the gradient itself, undamped */
        float keep = s->step <= 1 ? 0.0f : s->momentum;
        float take = s->step <= 1 ? 1.0f : (float)(1.0 - (double)s->dampening);
        *buffer = keep * *buffer + take * d;
        d = s->nesterov ? d + s->momentum * *buffer : *buffer;
    }
    *p -= s->lr * d;
}

DEVICE void update_rmsprop(const UpdateScalars *s, float d, float *p, float *square, float *momentum)
{
    d += s->weight_decay * *p;
    float v = s->alpha * *square + (float)(1.0 - (double)s->alpha) * d * d;
    float root = sqrtf(v) + s->eps;
    *square = v;
    if (momentum && s->momentum != 0.0f) {
        *momentum = s->momentum * *momentum + d / root;
        *p -= s->lr * *momentum;
    } else {
        *p -= s->lr * d / root;
    }
}

DEVICE void update_adagrad(const UpdateScalars *s, float d, float *p, float *sum)
{
    d += s->weight_decay * *p;
    float v = *sum + d * d;
    *sum = v;
    *p -= s->lr * d / (sqrtf(v) + s->eps);
}

DEVICE void update_adam(const AdamFactors *f, float d, float *p, float *first, float *second)
{
    d += f->l2 * *p;
    float m = f->beta1 * *first + f->rest1 * d;
    float v = f->beta2 * *second + f->rest2 * d * d;
    *first = m;
    *second = v;
    *p = *p * f->shrink - f->step_size * m / (sqrtf(v) / f->root_correction + f->eps);
}

/* Of `count` elements; rule is a constant wherever this is inlined. */
DEVICE void update_values(int rule, int count, const UpdateArguments *a, float grad_scale, float *p,
                          const float *g, float *first, float *second)
{
    for (int k = 0; k < count; k++) {
        float d = g[k] * grad_scale;
        if (rule == RULE_SGD)
            update_sgd(&a->rates.s, d, &p[k], a->state[0] ? &first[k] : NULL);
        else if (rule == RULE_RMSPROP)
            update_rmsprop(&a->rates.s, d, &p[k], &first[k], a->state[1] ? &second[k] : NULL);
        else if (rule == RULE_ADAGRAD)
            update_adagrad(&a->rates.s, d, &p[k], &first[k]);
        else
            update_adam(&a->rates.adam, d, &p[k], &first[k], &second[k]);
    }
}

/* A step that is skipped, or in which something was wrong, writes nothing. */
DEVICE int update_skipped(const UpdateArguments *a)
{
    return a->control->skip || *a->fault != ~0ull;
}

/* All is asked for before anything is needed. */
DEVICE void update_packs(int rule, const UpdateArguments *a)
{
    if (update_skipped(a))
        return;
    const float grad_scale = a->control->grad_scale;
    const void *from = a->master ? a->master : a->p;
    const DType from_type = a->master ? DTYPE_F32 : a->p_type;
    EACH_PACK(i, a->n, 4)
    {
        float p[4], g[4], first[4], second[4];
        Pack packs[4] = {{{0}}};
        packs[0] = pack_read(from_type, 4, from, i, a->n, a->aligned);
        packs[1] = pack_read(a->g_type, 4, a->g, i, a->n, a->aligned);
        if (a->state[0])
            packs[2] = pack_read(a->state_type[0], 4, a->state[0], i, a->n, a->aligned);
        if (a->state[1])
            packs[3] = pack_read(a->state_type[1], 4, a->state[1], i, a->n, a->aligned);
        pack_values(from_type, 4, &packs[0], p);
        pack_values(a->g_type, 4, &packs[1], g);
        pack_values(a->state_type[0], 4, &packs[2], first);
        pack_values(a->state_type[1], 4, &packs[3], second);
        update_values(rule, 4, a, grad_scale, p, g, first, second);
        if (a->master)
            pack_store(DTYPE_F32, 4, p, a->master, i, a->n, a->aligned);
        pack_store(a->p_type, 4, p, a->p, i, a->n, a->aligned);
        if (a->state[0])
            pack_store(a->state_type[0], 4, first, a->state[0], i, a->n, a->aligned);
        if (a->state[1])
            pack_store(a->state_type[1], 4, second, a->state[1], i, a->n, a->aligned);
    }
}

/* ---- Blocks of 256 --------------------------------------------------------------------------- */

/* Codes of eight elements. */
DEVICE void update_read_codes(const void *array, int64_t i, int64_t n, int aligned, uint32_t *codes)
{
    const unsigned char *from = (const unsigned char *)array + i;
    if (aligned && i + 8 <= n) {
        pack_read_words(2, from, codes);
        return;
    }
    codes[0] = codes[1] = 0;
    for (int k = 0; k < 8; k++)
        if (i + k < n)
            codes[k / 4] |= (uint32_t)from[k] << k % 4 * 8;
}

/* State s of a lane's elements; value: what the codes stand for. */
DEVICE void update_take(const UpdateArguments *a, int s, int64_t i, const float *value, float *x)
{
    uint32_t codes[2];
    if (!a->scales[s]) {
        if (a->state[s])
            pack_load(a->state_type[s], 8, a->state[s], i, a->n, a->aligned, x);
        return;
    }
    float scale = i < a->n ? a->scales[s][i / DYNAMIC8_BLOCK] : 0.0f;
    update_read_codes(a->state[s], i, a->n, a->aligned, codes);
    for (int k = 0; k < 8; k++)
        x[k] = value[codes[k / 4] >> k % 4 * 8 & 255] * scale;
}

/* Eight elements, to nearest or at random. array: 0 the parameter, 1 and 2 the states. */
DEVICE void update_put(const UpdateArguments *a, int array, DType type, const float *x, void *to, int64_t i)
{
    if (type == DTYPE_BF16 && a->random) {
        uint64_t block = (uint64_t)(a->first + i) / 8;
        Pack p = {{0}};
        Philox draw =
            philox4x32(draw_rounding_key(&a->rounding, block), (uint32_t)block, a->rounding.parameter,
                       (uint32_t)a->rates.s.step, draw_rounding_last(a->rates.s.step, array));
        for (int k = 0; k < 8; k += 2)
            p.word[k / 2] = draw_rounded(x[k], draw.v[k / 2] & 0xFFFFu) |
                            (uint32_t)draw_rounded(x[k + 1], draw.v[k / 2] >> 16) << 16;
        pack_write(type, 8, &p, to, i, a->n, a->aligned);
    } else {
        pack_store(type, 8, x, to, i, a->n, a->aligned);
    }
}

DEVICE void update_put_state(const UpdateArguments *a, int s, int64_t i, const float *bound, const float *x)
{
    if (a->scales[s])
        codes_store_block(bound, x, a->state[s], a->scales[s], i, a->n, a->aligned);
    else if (a->state[s])
        update_put(a, s + 1, a->state_type[s], x, a->state[s], i);
}

DEVICE void update_blocks(int rule, const UpdateArguments *a)
{
    SHARED float value[UPDATE_STATES][256], bound[UPDATE_STATES][256];
    if (update_skipped(a))
        return;
    const float grad_scale = a->control->grad_scale;
    for (int s = 0; s < UPDATE_STATES; s++)
        if (a->scales[s]) {
            codes_take(a->state_type[s], value[s]);
            codes_bounds(a->state_type[s], bound[s]);
        }
    block_sync();
    /* Lanes of a warp go on together, beyond the last element too. */
    int64_t lane = (int64_t)(THREAD.x % 32) * 8, warps = (int64_t)GRID_SIZE.x * (BLOCK_SIZE.x / 32);
    for (int64_t block = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
         block * DYNAMIC8_BLOCK < a->n; block += warps) {
        int64_t i = block * DYNAMIC8_BLOCK + lane;
        float p[8], g[8], first[8] = {0}, second[8] = {0};
        if (a->master)
            pack_load(DTYPE_F32, 8, a->master, i, a->n, a->aligned, p);
        else
            pack_load(a->p_type, 8, a->p, i, a->n, a->aligned, p);
        pack_load(a->g_type, 8, a->g, i, a->n, a->aligned, g);
        update_take(a, 0, i, value[0], first);
        update_take(a, 1, i, value[1], second);
        update_values(rule, 8, a, grad_scale, p, g, first, second);
        if (a->master) {
            pack_store(DTYPE_F32, 8, p, a->master, i, a->n, a->aligned);
            pack_store(a->p_type, 8, p, a->p, i, a->n, a->aligned);
        } else {
            update_put(a, 0, a->p_type, p, a->p, i);
        }
        update_put_state(a, 0, i, bound[0], first);
        update_put_state(a, 1, i, bound[1], second);
    }
}

#define UPDATE(name, rule)                                                                                   \
    GLOBAL(name, 256, UpdateArguments)                                                                       \
    {                                                                                                        \
        update_packs(rule, &a);                                                                              \
    }                                                                                                        \
    GLOBAL(name##_blocks, 256, UpdateArguments)                                                              \
    {                                                                                                        \
        update_blocks(rule, &a);                                                                             \
    }

UPDATE(sgd, RULE_SGD)
UPDATE(rmsprop, RULE_RMSPROP)
UPDATE(adagrad, RULE_ADAGRAD)
UPDATE(adam, RULE_ADAM)
