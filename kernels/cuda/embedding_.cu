/* Of one type, that of y: included by embedding.cu. */

/* A warp a position. */
GLOBAL(TYPED(embedding_forward), 256, EmbeddingArguments)
{
    int64_t i = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    int lane = (int)(THREAD.x % 32);
    if (i >= a.n)
        return;
    int64_t id = a.ids[i] - a.first, from = id * a.c, to = i * a.c;
    if (a.ids[i] < 0 || a.ids[i] >= a.all) {
        if (lane == 0)
            fault_at(a.fault, i);
        return;
    }
    for (int64_t at = lane * PACK; at < a.c; at += 32 * PACK) {
        float v[PACK];
        UNROLL
        for (int e = 0; e < PACK; e++)
            v[e] = 0.0f;
        if (id >= 0 && id < a.vocab)
            row_load(a.table.dtype, a.table.at, from + at, 0, row_left(a.c - at), a.aligned, v);
        STORE8(a.y, to + at, 0, row_left(a.c - at), a.aligned, v);
    }
}

/* A block for each of the sorted positions; those that are the first of their id sum its rows: warp w takes
 * every fourth of them, and the warps' sums are added in their order to what the table holds. */
GLOBAL(TYPED(embedding_backward), 128, EmbeddingArguments)
{
    SHARED float shared[EMBEDDING_WARPS][PACK][32];
    int64_t first = BLOCK.x;
    int lane = (int)(THREAD.x % 32), warp = (int)(THREAD.x / 32);
    int64_t key = a.ids[a.order[first]], id = key - a.first;
    if (id < 0 || id >= a.vocab || (first > 0 && a.ids[a.order[first - 1]] == key))
        return;
    for (int64_t strip = 0; strip < a.c; strip += 32 * PACK) {
        int64_t at = strip + lane * PACK;
        int left = row_left(a.c - at);
        float sum[PACK];
        UNROLL
        for (int e = 0; e < PACK; e++)
            sum[e] = 0.0f;
        for (int64_t k = first + warp; k < a.n; k += EMBEDDING_WARPS * EMBEDDING_TOGETHER) {
            float v[EMBEDDING_TOGETHER][PACK];
            int more = 0;
            UNROLL
            for (int j = 0; j < EMBEDDING_TOGETHER; j++) {
                int64_t next = k + j * EMBEDDING_WARPS, row = next < a.n ? a.order[next] : -1;
                more = row >= 0 && a.ids[row] == key;
                LOAD8(a.dy, row * a.c + at, 0, more ? left : 0, a.aligned, v[j]);
            }
            UNROLL
            for (int j = 0; j < EMBEDDING_TOGETHER; j++)
                UNROLL
            for (int e = 0; e < PACK; e++)
                sum[e] += v[j][e];
            if (!more)
                break;
        }
        block_sync();
        UNROLL
        for (int e = 0; e < PACK; e++)
            shared[warp][e][lane] = sum[e];
        block_sync();
        if (warp != 0)
            continue;
        float old[PACK];
        row_load(a.dtable_type, a.dtable, id * a.c + at, 0, left, a.aligned, old);
        UNROLL
        for (int e = 0; e < PACK; e++)
            for (int w = 0; w < EMBEDDING_WARPS; w++)
                old[e] += shared[w][e][lane];
        row_store(a.dtable_type, a.dtable, id * a.c + at, 0, left, a.aligned, old);
    }
}
