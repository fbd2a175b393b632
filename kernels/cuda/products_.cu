/* Of one type: included by products.cu. */
#define PACKET  TYPED(Packet)
#define PACKETS ((int)(16 / sizeof(REAL)))
typedef struct __attribute__((aligned(16))) PACKET {
    REAL v[16 / sizeof(REAL)];
} PACKET;

/* Every row of y is the bias. */
GLOBAL(TYPED(linear_bias), 256, LinearArguments)
{
    if (a.wide) {
        EACH_COLUMN(i, j, a.n / PACKETS, a.c / PACKETS)
        {
            PACKET p;
            for (int k = 0; k < PACKETS; k++)
                STORE(p.v, k, a.bias[j * PACKETS + k]);
            ((PACKET *)a.y)[i] = p;
        }
        return;
    }
    EACH_COLUMN(i, j, a.n, a.c)
    STORE(a.y, i, a.bias[j]);
}

/* y is the activation of what is stored before it, so that it can be computed again from there. */
GLOBAL(TYPED(linear_finish), 256, LinearArguments)
{
    if (a.wide) {
        EACH_COLUMN(i, j, a.n / PACKETS, a.c / PACKETS)
        {
            PACKET p = ((const PACKET *)a.x)[i];
            if (a.bias)
                for (int k = 0; k < PACKETS; k++)
                    STORE(p.v, k, LOAD(p.v, k) + a.bias[j * PACKETS + k]);
            if (a.pre)
                ((PACKET *)a.pre)[i] = p;
            for (int k = 0; k < PACKETS; k++)
                STORE(p.v, k, activate(a.act, LOAD(p.v, k)));
            ((PACKET *)a.y)[i] = p;
        }
        return;
    }
    EACH_COLUMN(i, j, a.n, a.c)
    {
        float value = LOAD(a.x, i) + (a.bias ? a.bias[j] : 0.0f);
        if (a.pre)
            STORE(a.pre, i, value);
        STORE(a.y, i, activate(a.act, value));
    }
}

/* Of a part of the rows, 32 columns a block: eight rows at a time, added up in a fixed order. */
GLOBAL(TYPED(column_parts), 256, ColumnArguments)
{
    SHARED float sums[COLUMN_ROWS][COLUMN_LANES];
    int lane = (int)THREAD.x % COLUMN_LANES, row = (int)THREAD.x / COLUMN_LANES;
    int64_t j = (int64_t)BLOCK.x * COLUMN_LANES + lane, part = BLOCK.y;
    int64_t first = a.rows * part / a.parts, end = a.rows * (part + 1) / a.parts;
    float sum = 0;
    if (j < a.c)
        for (int64_t i = first + row; i < end; i += COLUMN_ROWS)
            sum += LOAD(a.x, i * a.c + j);
    sums[row][lane] = sum;
    block_sync();
    if (row > 0 || j >= a.c)
        return;
    for (int i = 1; i < COLUMN_ROWS; i++)
        sum += sums[i][lane];
    a.partial[part * a.c + j] = sum;
}

/* A part of a stored array in the product's type. */
GLOBAL(TYPED(product_operand), 256, OperandArguments)
{
    for (int64_t i = BLOCK.y; i < a.rows; i += GRID_SIZE.y) {
        int64_t first = (a.row + i) * a.x.cols + a.col;
        EACH(j, a.cols)
        STORE(a.y, i * a.ldy + j, operand(&a.x, &a.layout, first + j));
    }
}

#undef PACKET
#undef PACKETS
