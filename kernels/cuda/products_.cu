/* Of one type: included by products.cu. */
#define PACK ((int)(16 / sizeof(REAL)))

/* Every row of y is the bias. */
GLOBAL(TYPED(linear_bias), 256, LinearArguments)
{
    if (a.aligned) {
        EACH_PACK_OF_ROWS(i, j, a.n, a.ld, PACK)
        {
            float x[PACK];
            if (j >= a.c)
                continue;
            pack_load(DTYPE_F32, PACK, a.bias, j, a.c, 1, x);
            pack_store(TYPE, PACK, x, a.y, i, i + a.c - j, 1);
        }
        return;
    }
    EACH_PACK_OF_ROWS(i, j, a.n, a.ld, 1)
    if (j < a.c)
        STORE(a.y, i, a.bias[j]);
}

/* y is the activation of what is stored before it, so that it can be computed again from there. */
GLOBAL(TYPED(linear_finish), 256, LinearArguments)
{
    if (a.aligned) {
        EACH_PACK_OF_ROWS(i, j, a.n, a.ld, PACK)
        {
            float x[PACK], bias[PACK];
            int64_t end = i + a.c - j; /* of the row */
            if (j >= a.c)
                continue;
            pack_load(TYPE, PACK, a.x, i, end, 1, x);
            if (a.bias) {
                pack_load(DTYPE_F32, PACK, a.bias, j, a.c, 1, bias);
                for (int k = 0; k < PACK; k++)
                    x[k] += bias[k];
            }
            if (a.pre)
                pack_store(TYPE, PACK, x, a.pre, i, end, 1);
            activation_values(a.act, PACK, x);
            pack_store(TYPE, PACK, x, a.y, i, end, 1);
        }
        return;
    }
    EACH_PACK_OF_ROWS(i, j, a.n, a.ld, 1)
    {
        if (j >= a.c)
            continue;
        float x = LOAD(a.x, i) + (a.bias ? a.bias[j] : 0.0f);
        if (a.pre)
            STORE(a.pre, i, x);
        STORE(a.y, i, activation_value(a.act, x));
    }
}

/* A dot of 8 weights and those of x's row in hand, from column col on. */
DEVICE float TYPED(few_pack)(const FewArguments *a, int64_t col, int count, const float *w)
{
    float x[STORED_PACK], sum = 0;
    int64_t first = BLOCK.y * a->in + col;
    pack_load(TYPE, STORED_PACK, a->x, first, first + count, a->aligned, x);
    for (int k = 0; k < STORED_PACK; k++)
        sum += w[k] * x[k];
    return sum;
}

/* A lane's part of a dot with one row of W, 16 bytes of codes at once: half a block. */
DEVICE float TYPED(few_nf4)(const FewArguments *a, int64_t row, const float *nf4)
{
    float sum = 0;
    for (int64_t col = THREAD.x % 32 * FEW_NF4; col < a->in; col += 32 * FEW_NF4) {
        int64_t first = row * a->in + col;
        float scale = stored_block_scale(a->w.dtype, &a->layout, a->w.at, first / NF4_BLOCK), part = 0;
        uint32_t words[FEW_NF4 / STORED_PACK];
        pack_read_words(FEW_NF4 / STORED_PACK, (const char *)a->w.at + first / 2, words);
        for (int q = 0; q < FEW_NF4 / STORED_PACK; q++) {
            float w[STORED_PACK];
            stored_nf4_word(words[q], nf4, w);
            part += TYPED(few_pack)(a, col + q * STORED_PACK, STORED_PACK, w);
        }
        sum += scale * part;
    }
    return sum;
}

/* The same of any type, 8 elements at once. */
DEVICE float TYPED(few_any)(const FewArguments *a, int64_t row)
{
    float sum = 0;
    for (int64_t col = THREAD.x % 32 * STORED_PACK; col < a->in; col += 32 * STORED_PACK) {
        float w[STORED_PACK];
        int count = a->in - col < STORED_PACK ? (int)(a->in - col) : STORED_PACK;
        stored_values(&a->w, &a->layout, row, col, count, a->aligned, w);
        sum += TYPED(few_pack)(a, col, count, w);
    }
    return sum;
}

/* A warp an output of a row of x: weights are decoded in registers. Rows of x beyond the first find them in
 * the card's cache. */
GLOBAL(TYPED(linear_few), 256, FewArguments)
{
    SHARED float nf4[16];
    int packed = a.w.dtype == DTYPE_NF4 || a.w.dtype == DTYPE_NF4_PLAIN;
    int64_t row = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    if (THREAD.x < 16)
        nf4[THREAD.x] = codes_nf4[THREAD.x];
    block_sync();
    if (row >= a.out)
        return;
    float sum =
        packed && a.aligned && a.in % FEW_NF4 == 0 ? TYPED(few_nf4)(&a, row, nf4) : TYPED(few_any)(&a, row);
    sum = warp_sum(sum);
    if (THREAD.x % 32 == 0)
        few_finish(&a, BLOCK.y * a.ldy + row, sum + (a.bias ? a.bias[row] : 0.0f));
}

/* A part of a stored array in the product's type. Its lines are whole packs: what is behind them is 0. */
GLOBAL(TYPED(product_operand), 256, OperandArguments)
{
    int64_t packs = a.ldy / STORED_PACK;
    EACH(at, a.rows * packs)
    {
        int64_t i = quotient(at, packs), j = (at - i * packs) * STORED_PACK;
        int count = a.cols - j < STORED_PACK ? (int)(a.cols - j) : STORED_PACK;
        float x[STORED_PACK];
        stored_values(&a.x, &a.layout, a.row + i, a.col + j, count, a.aligned, x);
        pack_store(TYPE, STORED_PACK, x, a.y, at * STORED_PACK, a.rows * a.ldy, 1);
    }
}

#undef PACK
