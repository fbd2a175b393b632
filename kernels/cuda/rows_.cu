/* Of one type: included by rows.cu. y = x + beta y, of rows; a warp a row. */
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
