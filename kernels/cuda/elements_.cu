/* Of one type: included by elements.cu. A pack is 16 bytes. */
#define PACK           (TYPE == DTYPE_F32 ? 4 : 8)
#define READ(x, i)     pack_read(TYPE, PACK, x, i, a.n, a.aligned)
#define VALUES(p, v)   pack_values(TYPE, PACK, &p, v)
#define WRITE(v, y, i) pack_store(TYPE, PACK, v, y, i, a.n, a.aligned)

GLOBAL(TYPED(fill), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float y[PACK];
        for (int k = 0; k < PACK; k++)
            y[k] = a.alpha;
        WRITE(y, a.y, i);
    }
}

GLOBAL(TYPED(broadcast), 256, ElementArguments)
{
    float value = a.alpha * *(const float *)a.a;
    EACH_PACK(i, a.n, PACK)
    {
        float y[PACK];
        for (int k = 0; k < PACK; k++)
            y[k] = value;
        WRITE(y, a.y, i);
    }
}

GLOBAL(TYPED(add), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK], z[PACK];
        Pack left = READ(a.a, i), right = READ(a.b, i);
        VALUES(left, x);
        VALUES(right, z);
        for (int k = 0; k < PACK; k++)
            x[k] += z[k];
        WRITE(x, a.y, i);
    }
}

GLOBAL(TYPED(add_row), 256, ElementArguments)
{
    const float *row = (const float *)a.b;
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK];
        int64_t column = i - quotient(i, a.c) * a.c;
        Pack left = READ(a.a, i);
        VALUES(left, x);
        for (int k = 0; k < PACK; k++) {
            x[k] += row[column];
            column = column + 1 < a.c ? column + 1 : 0;
        }
        WRITE(x, a.y, i);
    }
}

/* x + beta y, where y is read only if beta is not 0. */
DEVICE void TYPED(blend)(float *x, float beta, const void *y, int64_t i, int64_t n, int aligned)
{
    if (beta != 0.0f) {
        float old[PACK];
        pack_load(TYPE, PACK, y, i, n, aligned, old);
        for (int k = 0; k < PACK; k++)
            x[k] += beta * old[k];
    }
}
#define BLEND(x, beta, y, i) TYPED(blend)(x, beta, y, i, a.n, a.aligned)

GLOBAL(TYPED(scale), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK];
        Pack from = READ(a.a, i);
        VALUES(from, x);
        for (int k = 0; k < PACK; k++)
            x[k] *= a.alpha;
        BLEND(x, a.beta, a.y, i);
        WRITE(x, a.y, i);
    }
}

GLOBAL(TYPED(multiply), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK], z[PACK];
        Pack left = READ(a.a, i), right = READ(a.b, i);
        VALUES(left, x);
        VALUES(right, z);
        for (int k = 0; k < PACK; k++)
            x[k] *= z[k];
        BLEND(x, a.beta, a.y, i);
        WRITE(x, a.y, i);
    }
}

GLOBAL(TYPED(activation_forward), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK];
        Pack from = READ(a.a, i);
        VALUES(from, x);
        activation_values(a.kind, PACK, x);
        WRITE(x, a.y, i);
    }
}

GLOBAL(TYPED(activation_backward), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK], dy[PACK];
        Pack from = READ(a.a, i), slope = READ(a.b, i);
        VALUES(from, x);
        VALUES(slope, dy);
        activation_slopes(a.kind, PACK, x);
        for (int k = 0; k < PACK; k++)
            x[k] *= dy[k];
        BLEND(x, a.beta, a.y, i);
        WRITE(x, a.y, i);
    }
}

GLOBAL(TYPED(softcap_forward), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK];
        Pack from = READ(a.a, i);
        VALUES(from, x);
        for (int k = 0; k < PACK; k++)
            x[k] = softcap_value(a.alpha, x[k]);
        WRITE(x, a.y, i);
    }
}

GLOBAL(TYPED(softcap_backward), 256, ElementArguments)
{
    EACH_PACK(i, a.n, PACK)
    {
        float x[PACK], dy[PACK];
        Pack from = READ(a.a, i), slope = READ(a.b, i);
        VALUES(from, x);
        VALUES(slope, dy);
        for (int k = 0; k < PACK; k++)
            x[k] = softcap_slope(a.alpha, x[k]) * dy[k];
        BLEND(x, a.beta, a.y, i);
        WRITE(x, a.y, i);
    }
}

/* A pack lies within one row: elements from i on of gate and up, and from o on of the result. */
GLOBAL(TYPED(gated_forward), 256, GatedArguments)
{
    int64_t packs = quotient(a.d.c + PACK - 1, PACK);
    EACH(item, a.d.rows * packs)
    {
        float gate[PACK], up[PACK];
        int64_t row = quotient(item, packs), column = (item - row * packs) * PACK;
        int64_t i = row * a.d.ld + column, end = row * a.d.ld + a.d.c, o = row * a.d.c + column;
        Pack left = pack_read(TYPE, PACK, a.gate, i, end, a.aligned);
        Pack right = pack_read(TYPE, PACK, a.up, i, end, a.aligned);
        VALUES(left, gate);
        VALUES(right, up);
        activation_gates(a.d.act, PACK, gate, up);
        pack_store(TYPE, PACK, up, a.y, o, (row + 1) * a.d.c, a.aligned);
    }
}

/* All is read before anything is written. */
GLOBAL(TYPED(gated_backward), 256, GatedArguments)
{
    int64_t packs = quotient(a.d.c + PACK - 1, PACK);
    EACH(item, a.d.rows * packs)
    {
        float gate[PACK], up[PACK], dy[PACK];
        int64_t row = quotient(item, packs), column = (item - row * packs) * PACK;
        int64_t i = row * a.d.ld + column, end = row * a.d.ld + a.d.c, o = row * a.d.c + column;
        Pack left = pack_read(TYPE, PACK, a.gate, i, end, a.aligned);
        Pack right = pack_read(TYPE, PACK, a.up, i, end, a.aligned);
        Pack slope = pack_read(TYPE, PACK, a.dy, o, (row + 1) * a.d.c, a.aligned);
        VALUES(left, gate);
        VALUES(right, up);
        VALUES(slope, dy);
        activation_gate_slopes(a.d.act, PACK, gate, up, dy);
        if (a.dgate)
            TYPED(blend)(gate, a.beta_gate, a.dgate, i, end, a.aligned);
        if (a.dup)
            TYPED(blend)(up, a.beta_up, a.dup, i, end, a.aligned);
        if (a.dgate)
            pack_store(TYPE, PACK, gate, a.dgate, i, end, a.aligned);
        if (a.dup)
            pack_store(TYPE, PACK, up, a.dup, i, end, a.aligned);
    }
}

/* A pack lies within one sample. */
GLOBAL(TYPED(dropout), 256, DropoutArguments)
{
    int64_t parts = quotient(a.per_sample + PACK - 1, PACK);
    EACH(item, a.samples * parts)
    {
        float x[PACK], old[PACK];
        int64_t sample = quotient(item, parts), begin = (item - sample * parts) * PACK;
        int64_t first = sample * a.per_sample + begin, end = (sample + 1) * a.per_sample;
        Pack from = pack_read(TYPE, PACK, a.x, first, end, a.aligned);
        VALUES(from, x);
        for (int k = 0; k < PACK; k += 4) {
            uint64_t block = (a.key.first_element + (uint64_t)(begin + k)) / 4;
            Philox draw = draw_dropout(&a.key, a.key.first_sample + (uint64_t)sample, block);
            for (int j = 0; j < 4; j++)
                x[k + j] *= draw.v[j] >= a.threshold ? a.keep : 0.0f; /* a product: NaN stays */
        }
        if (a.beta != 0.0f) {
            pack_load(TYPE, PACK, a.y, first, end, a.aligned, old);
            for (int k = 0; k < PACK; k++)
                x[k] += a.beta * old[k];
        }
        pack_store(TYPE, PACK, x, a.y, first, end, a.aligned);
    }
}

/* Partial sums of 32 columns and a part of the rows: threads (8 rows, 32 columns). With one part, the sum. */
GLOBAL(TYPED(column_sum), 256, ColumnSumArguments)
{
    SHARED float sums[8][32];
    int lane = (int)(THREAD.x % 32), warp = (int)(THREAD.x / 32);
    int64_t column = (int64_t)BLOCK.x * 32 + lane, begin = BLOCK.y * a.part_rows, end = begin + a.part_rows;
    float sum = 0;
    end = end < a.rows ? end : a.rows;
    for (int64_t row = begin + warp; column < a.c && row < end; row += 8)
        sum += LOAD(a.x, row * a.ld + column);
    sums[warp][lane] = sum;
    block_sync();
    if (warp != 0 || column >= a.c)
        return;
    for (int k = 1; k < 8; k++)
        sum += sums[k][lane];
    if (GRID_SIZE.y > 1)
        a.partial[BLOCK.y * a.c + column] = sum;
    else
        value_store(a.to, a.y, column, a.beta != 0.0f ? sum + a.beta * value_load(a.to, a.y, column) : sum);
}

#undef PACK
#undef READ
#undef VALUES
#undef WRITE
#undef BLEND
