/* Of one type: included by rows.cu. A warp has a row. */

/* y = x + beta y, of rows. */
GLOBAL(TYPED(add_to_rows), 256, RowsArguments)
{
    int64_t i = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    if (i >= a.n)
        return;
    int64_t x = i * a.c, y = a.to[i] * a.c;
    for (int64_t at = THREAD.x % 32 * PACK; at < a.c; at += 32 * PACK) {
        float v[PACK], old[PACK];
        LOAD8(a.x, x + at, 0, row_left(a.c - at), a.aligned, v);
        LOAD8(a.y, y + at, 0, row_left(a.c - at), a.aligned, old);
        UNROLL
        for (int e = 0; e < PACK; e++)
            v[e] += a.beta * old[e];
        STORE8(a.y, y + at, 0, row_left(a.c - at), a.aligned, v);
    }
}

GLOBAL(TYPED(gate_rows_forward), 256, GateRowsArguments)
{
    int64_t row = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    if (row >= a.rows)
        return;
    float by = activation_sigmoid(LOAD(a.gate, row));
    for (int64_t at = THREAD.x % 32 * PACK; at < a.c; at += 32 * PACK) {
        float v[PACK];
        LOAD8(a.x, row * a.c + at, 0, row_left(a.c - at), a.aligned, v);
        UNROLL
        for (int e = 0; e < PACK; e++)
            v[e] *= by;
        STORE8(a.y, row * a.c + at, 0, row_left(a.c - at), a.aligned, v);
    }
}

/* All of a pack is read before dx, which may be where x or dy is, is written. */
GLOBAL(TYPED(gate_rows_backward), 256, GateRowsArguments)
{
    int64_t row = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    if (row >= a.rows)
        return;
    float g = LOAD(a.gate, row), by = activation_sigmoid(g), dot = 0.0f;
    for (int64_t at = THREAD.x % 32 * PACK; at < a.c; at += 32 * PACK) {
        float dy[PACK], v[PACK];
        LOAD8(a.dy, row * a.c + at, 0, row_left(a.c - at), a.aligned, dy);
        if (a.x) {
            LOAD8(a.x, row * a.c + at, 0, row_left(a.c - at), a.aligned, v);
            UNROLL
            for (int e = 0; e < PACK; e++)
                dot += v[e] * dy[e];
        }
        if (!a.dx)
            continue;
        if (a.beta_x != 0.0f)
            LOAD8(a.dx, row * a.c + at, 0, row_left(a.c - at), a.aligned, v);
        UNROLL
        for (int e = 0; e < PACK; e++)
            v[e] = a.beta_x != 0.0f ? dy[e] * by + a.beta_x * v[e] : dy[e] * by;
        STORE8(a.dx, row * a.c + at, 0, row_left(a.c - at), a.aligned, v);
    }
    if (!a.dgate)
        return;
    float slope = by * activation_sigmoid(-g) * warp_sum(dot);
    if (THREAD.x % 32 == 0)
        STORE(a.dgate, row, a.beta_gate != 0.0f ? slope + a.beta_gate * LOAD(a.dgate, row) : slope);
}

/* 32 columns of a sample: threads (8 rows, 32 columns), whose sums are added in their order. */
GLOBAL(TYPED(mean_tokens_forward), 256, MeanTokensArguments)
{
    SHARED float sums[8][32];
    SHARED int counts[8];
    int lane = (int)(THREAD.x % 32), warp = (int)(THREAD.x / 32), count = 0;
    int64_t column = (int64_t)BLOCK.x * 32 + lane, first = (int64_t)BLOCK.y * a.seq;
    float sum = 0.0f;
    for (int64_t t = warp; t < a.seq; t += 8) {
        if (a.mask && !a.mask[first + t])
            continue;
        count++;
        if (column < a.c)
            sum += LOAD(a.x, (first + t) * a.c + column);
    }
    sums[warp][lane] = sum;
    if (lane == 0)
        counts[warp] = count;
    block_sync();
    if (warp != 0)
        return;
    for (int k = 1; k < 8; k++) {
        sum += sums[k][lane];
        count += counts[k];
    }
    float by = count ? 1.0f / (float)count : 0.0f;
    if (column < a.c)
        STORE(a.y, (int64_t)BLOCK.y * a.c + column, sum * by);
    if (column == 0)
        a.scale[BLOCK.y] = by;
}

GLOBAL(TYPED(mean_tokens_backward), 256, MeanTokensArguments)
{
    int64_t row = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    if (row >= a.batch * a.seq)
        return;
    int64_t b = quotient(row, a.seq);
    float by = a.mask && !a.mask[row] ? 0.0f : a.scale[b];
    for (int64_t at = THREAD.x % 32 * PACK; at < a.c; at += 32 * PACK) {
        float v[PACK], old[PACK];
        LOAD8(a.dy, b * a.c + at, 0, row_left(a.c - at), a.aligned, v);
        if (a.beta != 0.0f)
            LOAD8(a.dx, row * a.c + at, 0, row_left(a.c - at), a.aligned, old);
        UNROLL
        for (int e = 0; e < PACK; e++)
            v[e] = a.beta != 0.0f ? v[e] * by + a.beta * old[e] : v[e] * by;
        STORE8(a.dx, row * a.c + at, 0, row_left(a.c - at), a.aligned, v);
    }
}
