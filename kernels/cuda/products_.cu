/* Of one type: included by products.cu. */
#define PACK ((int)(16 / sizeof(REAL)))

/* Every row of y is the bias. */
GLOBAL(TYPED(linear_bias), 256, LinearArguments)
{
    if (a.aligned) {
        EACH_PACK_OF_ROWS(i, j, a.n, a.c, PACK)
        {
            float x[PACK];
            pack_load(DTYPE_F32, PACK, a.bias, j, a.c, 1, x);
            pack_store(TYPE, PACK, x, a.y, i, a.n, 1);
        }
        return;
    }
    EACH_PACK_OF_ROWS(i, j, a.n, a.c, 1)
    STORE(a.y, i, a.bias[j]);
}

/* y is the activation of what is stored before it, so that it can be computed again from there. */
GLOBAL(TYPED(linear_finish), 256, LinearArguments)
{
    if (a.aligned) {
        EACH_PACK_OF_ROWS(i, j, a.n, a.c, PACK)
        {
            float x[PACK], bias[PACK];
            pack_load(TYPE, PACK, a.x, i, a.n, 1, x);
            if (a.bias) {
                pack_load(DTYPE_F32, PACK, a.bias, j, a.c, 1, bias);
                for (int k = 0; k < PACK; k++)
                    x[k] += bias[k];
            }
            if (a.pre)
                pack_store(TYPE, PACK, x, a.pre, i, a.n, 1);
            activation_values(a.act, PACK, x);
            pack_store(TYPE, PACK, x, a.y, i, a.n, 1);
        }
        return;
    }
    EACH_PACK_OF_ROWS(i, j, a.n, a.c, 1)
    {
        float x = LOAD(a.x, i) + (a.bias ? a.bias[j] : 0.0f);
        if (a.pre)
            STORE(a.pre, i, x);
        STORE(a.y, i, activation_value(a.act, x));
    }
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
