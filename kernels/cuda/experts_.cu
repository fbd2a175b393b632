/* Of one type: included by experts.cu. */

/* Element (row,term) of a tile lies at [term][row], so that what threads read side by side is. */
GLOBAL(TYPED(experts_rows), 256, ExpertsProductArguments)
{
    SHARED float left[EXPERTS_DEPTH][EXPERTS_TILE], right[EXPERTS_DEPTH][EXPERTS_TILE];
    float sum[EXPERTS_EACH][EXPERTS_EACH] = {{0}};
    ExpertsRows rows = experts_tile(&a, (int64_t)BLOCK.x);
    int64_t col = (int64_t)BLOCK.y * EXPERTS_TILE;
    if (rows.expert < 0)
        return;
    StoredArray w = a.w;
    w.at = (const char *)w.at + (uint64_t)rows.expert * a.stride;
    for (int64_t at = 0; at < a.k; at += EXPERTS_DEPTH) {
        block_sync();
        for (int q = (int)THREAD.x; q < EXPERTS_DEPTH * EXPERTS_TILE; q += 256) {
            int k = q % EXPERTS_DEPTH, i = q / EXPERTS_DEPTH;
            int in = rows.row + i < rows.end && at + k < a.k;
            left[k][i] = in ? LOAD(a.a, (rows.row + i) * a.k + at + k) : 0.0f;
            if (!a.trans_b) { /* columns of a row lie side by side */
                k = q / EXPERTS_TILE;
                i = q % EXPERTS_TILE;
            }
            in = col + i < a.n && at + k < a.k;
            int64_t element = a.trans_b ? (col + i) * a.k + at + k : (at + k) * a.n + col + i;
            right[k][i] = in ? stored_value(&w, &a.layout, element) : 0.0f;
        }
        block_sync();
        experts_multiply(left, right, sum);
    }
    for (int i = 0; i < EXPERTS_EACH; i++)
        for (int j = 0; j < EXPERTS_EACH; j++) {
            int64_t row = rows.row + THREAD.x / 16 + 16 * i, to = col + THREAD.x % 16 + 16 * j;
            if (row < rows.end && to < a.n)
                STORE(a.c, row * a.n + to, sum[i][j]);
        }
}

/* The gradient of an expert's matrix: as many terms as it has rows, perhaps none. */
GLOBAL(TYPED(experts_weights), 256, ExpertsProductArguments)
{
    SHARED float left[EXPERTS_DEPTH][EXPERTS_TILE], right[EXPERTS_DEPTH][EXPERTS_TILE];
    float sum[EXPERTS_EACH][EXPERTS_EACH] = {{0}};
    int64_t row = (int64_t)BLOCK.y * EXPERTS_TILE, col = (int64_t)BLOCK.x * EXPERTS_TILE;
    int64_t begin = a.offset[BLOCK.z], end = a.offset[BLOCK.z + 1];
    void *c = (char *)a.c + (uint64_t)BLOCK.z * a.stride;
    for (int64_t at = begin; at < end; at += EXPERTS_DEPTH) {
        block_sync();
        for (int q = (int)THREAD.x; q < EXPERTS_DEPTH * EXPERTS_TILE; q += 256) {
            int64_t term = at + q / EXPERTS_TILE;
            int i = q % EXPERTS_TILE;
            left[q / EXPERTS_TILE][i] = term < end && row + i < a.m ? LOAD(a.a, term * a.m + row + i) : 0.0f;
            right[q / EXPERTS_TILE][i] = term < end && col + i < a.n ? LOAD(a.b, term * a.n + col + i) : 0.0f;
        }
        block_sync();
        experts_multiply(left, right, sum);
    }
    for (int i = 0; i < EXPERTS_EACH; i++)
        for (int j = 0; j < EXPERTS_EACH; j++) {
            int64_t to_row = row + THREAD.x / 16 + 16 * i, to = col + THREAD.x % 16 + 16 * j;
            if (to_row >= a.m || to >= a.n)
                continue;
            float value = sum[i][j];
            if (a.beta != 0.0f)
                value += a.beta * value_load(a.c_type, c, to_row * a.n + to);
            value_store(a.c_type, c, to_row * a.n + to, value);
        }
}

/* y (pairs,hidden) = act(gate) * up of x. */
GLOBAL(TYPED(experts_gate), 256, ExpertsRowsArguments)
{
    EACH(i, a.d.rows * a.d.active * a.d.hidden)
    {
        int64_t row = quotient(i, a.d.hidden), at = row * a.d.hidden + i;
        STORE(a.y, i, activation_value((int)a.d.act, LOAD(a.x, at)) * LOAD(a.x, at + a.d.hidden));
    }
}

/* A warp a pair: gate and up, in y, become their gradients; z, the gradient of what they make but for the
 * weight, becomes that, weighted. */
GLOBAL(TYPED(experts_gate_backward), 256, ExpertsRowsArguments)
{
    int64_t row = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    if (row >= a.d.rows * a.d.active)
        return;
    float w = a.weight[a.r.pair[row]], dot = 0;
    for (int64_t h = THREAD.x % 32; h < a.d.hidden; h += 32) {
        int64_t at = row * 2 * a.d.hidden + h, to = row * a.d.hidden + h;
        float gate = LOAD(a.y, at), up = LOAD(a.y, at + a.d.hidden), back = LOAD(a.z, to);
        float act = activation_value((int)a.d.act, gate);
        dot += act * up * back;
        STORE(a.y, at, w * back * up * activation_slope((int)a.d.act, gate));
        STORE(a.y, at + a.d.hidden, w * back * act);
        STORE(a.z, to, w * act * up);
    }
    dot = warp_sum(dot);
    if (THREAD.x % 32 == 0 && a.dweight)
        a.dweight[a.r.pair[row]] = dot;
}

/* y (rows,width) = the sum of a token's rows of x, each times its weight where those are given, + beta y. */
GLOBAL(TYPED(experts_combine), 256, ExpertsRowsArguments)
{
    EACH(i, a.d.rows * a.d.width)
    {
        int64_t row = quotient(i, a.d.width), c = i - row * a.d.width;
        float sum = a.beta != 0.0f ? a.beta * LOAD(a.y, i) : 0.0f;
        for (int64_t j = row * a.d.active; j < (row + 1) * a.d.active; j++)
            sum = fused(a.weight ? a.weight[j] : 1.0f, LOAD(a.x, a.r.place[j] * a.d.width + c), sum);
        STORE(a.y, i, sum);
    }
}
