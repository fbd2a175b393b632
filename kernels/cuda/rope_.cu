/* Of one type: included by rope.cu. */

/* Columns [from, from + n) of the row that begins at element `at`, which do not turn. */
DEVICE void TYPED(rope_pass)(const RopeArguments *a, int64_t at, int64_t from, int64_t n)
{
    for (int64_t i = at + from + THREAD.x; i < at + from + n; i += BLOCK_SIZE.x)
        STORE(a->y, i, a->beta != 0.0f ? LOAD(a->x, i) + a->beta * LOAD(a->y, i) : LOAD(a->x, i));
}

/* The column with which head h begins. */
DEVICE int64_t TYPED(rope_head)(const RopeArguments *a, int h)
{
    return (int64_t)h * a->head_dim + h / a->group * a->behind;
}

/* Pairs of neighbours, one a thread. */
DEVICE void TYPED(rope_beside)(const RopeArguments *a, int64_t at, const float *cosine, const float *sine)
{
    for (int k = (int)THREAD.x; k < a->heads * a->pairs; k += (int)BLOCK_SIZE.x) {
        int pair = k % a->pairs;
        int64_t i = at + TYPED(rope_head)(a, k / a->pairs) + 2 * (a->first + pair);
        float x1 = LOAD(a->x, i), x2 = LOAD(a->x, i + 1);
        float left = x1 * cosine[pair] - x2 * sine[pair], right = x2 * cosine[pair] + x1 * sine[pair];
        STORE(a->y, i, a->beta != 0.0f ? left + a->beta * LOAD(a->y, i) : left);
        STORE(a->y, i + 1, a->beta != 0.0f ? right + a->beta * LOAD(a->y, i + 1) : right);
    }
}

/* Pairs half of what turns apart, in packs. */
DEVICE void TYPED(rope_apart)(const RopeArguments *a, int64_t row, const float *cosine, const float *sine)
{
    int step = a->aligned ? PACK : 1, packs = a->pairs / step;
    for (int k = (int)THREAD.x; k < a->heads * packs; k += (int)BLOCK_SIZE.x) {
        int pair = k % packs * step;
        int64_t at = row + TYPED(rope_head)(a, k / packs) + a->first + pair;
        float x1[PACK], x2[PACK], y1[PACK], y2[PACK];
        LOAD8(a->x, at, 0, step, a->aligned, x1);
        LOAD8(a->x, at + a->half, 0, step, a->aligned, x2);
        if (a->beta != 0.0f) {
            LOAD8(a->y, at, 0, step, a->aligned, y1);
            LOAD8(a->y, at + a->half, 0, step, a->aligned, y2);
        }
        UNROLL
        for (int e = 0; e < PACK; e++) {
            float c = pair + e < a->pairs ? cosine[pair + e] : 0.0f,
                  s = pair + e < a->pairs ? sine[pair + e] : 0.0f;
            float left = x1[e] * c - x2[e] * s, right = x2[e] * c + x1[e] * s;
            y1[e] = a->beta != 0.0f ? left + a->beta * y1[e] : left;
            y2[e] = a->beta != 0.0f ? right + a->beta * y2[e] : right;
        }
        STORE8(a->y, at, 0, step, a->aligned, y1);
        STORE8(a->y, at + a->half, 0, step, a->aligned, y2);
    }
}

/* A block a row of a sequence. */
GLOBAL(TYPED(rope), 128, RopeArguments)
{
    SHARED float cosine[ROPE_PAIRS], sine[ROPE_PAIRS];
    int64_t row = BLOCK.x, at = row * a.ld;
    for (int i = (int)THREAD.x; i < a.pairs; i += (int)BLOCK_SIZE.x) {
        float angle = (float)(a.offset + (int)(row % a.seq)) * a.frequency[i];
        rope_turn(a.inverse ? -angle : angle, &cosine[i], &sine[i]);
        cosine[i] *= a.scale;
        sine[i] *= a.scale;
    }
    block_sync();
    if (a.interleaved)
        TYPED(rope_beside)(&a, at, cosine, sine);
    else
        TYPED(rope_apart)(&a, at, cosine, sine);
    if (!a.passes)
        return;
    for (int h = 0; h < a.heads; h++)
        TYPED(rope_pass)(&a, at, TYPED(rope_head)(&a, h) + 2 * a.half, a.head_dim - 2 * a.half);
    for (int h = a.group - 1; h < a.heads; h += a.group)
        TYPED(rope_pass)(&a, at, TYPED(rope_head)(&a, h) + a.head_dim, a.behind);
}
