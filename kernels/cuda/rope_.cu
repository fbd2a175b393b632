/* Of one type: included by rope.cu. A block a row of a sequence. */
GLOBAL(TYPED(rope), 128, RopeArguments)
{
    SHARED float cosine[ROPE_PAIRS], sine[ROPE_PAIRS];
    int64_t row = BLOCK.x;
    for (int i = (int)THREAD.x; i < a.pairs; i += (int)BLOCK_SIZE.x) {
        float angle = (float)(a.offset + (int)(row % a.seq)) * a.frequency[i];
        rope_turn(a.inverse ? -angle : angle, &cosine[i], &sine[i]);
    }
    block_sync();
    int step = a.aligned ? PACK : 1, packs = a.pairs / step;
    for (int k = (int)THREAD.x; k < a.heads * packs; k += (int)BLOCK_SIZE.x) {
        int pair = k % packs * step;
        int64_t at = row * a.ld + (int64_t)(k / packs) * a.half * 2 + a.first + pair;
        float x1[PACK], x2[PACK], y1[PACK], y2[PACK];
        LOAD8(a.x, at, 0, step, a.aligned, x1);
        LOAD8(a.x, at + a.half, 0, step, a.aligned, x2);
        if (a.beta != 0.0f) {
            LOAD8(a.y, at, 0, step, a.aligned, y1);
            LOAD8(a.y, at + a.half, 0, step, a.aligned, y2);
        }
        UNROLL
        for (int e = 0; e < PACK; e++) {
            float c = pair + e < a.pairs ? cosine[pair + e] : 0.0f,
                  s = pair + e < a.pairs ? sine[pair + e] : 0.0f;
            float left = x1[e] * c - x2[e] * s, right = x2[e] * c + x1[e] * s;
            y1[e] = a.beta != 0.0f ? left + a.beta * y1[e] : left;
            y2[e] = a.beta != 0.0f ? right + a.beta * y2[e] : right;
        }
        STORE8(a.y, at, 0, step, a.aligned, y1);
        STORE8(a.y, at + a.half, 0, step, a.aligned, y2);
    }
}
