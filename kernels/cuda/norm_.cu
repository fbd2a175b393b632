/* Of one type: included by norm.cu. */

/* x of a row: its first packs stay in registers (held), the rest is read again. */
DEVICE void TYPED(norm_hold)(const NormArguments *a, const void *x, NormRow r, float held[NORM_HELD][PACK])
{
    UNROLL
    for (int k = 0; k < NORM_HELD; k++) {
        int at = (k * a->team + r.lane) * PACK;
        LOAD8(x, r.begin + at, 0, row_left(a->c - at), r.aligned, held[k]);
    }
}

DEVICE void TYPED(norm_write)(const NormArguments *a, NormRow r, int64_t at, const float *x, float mean,
                              float rstd)
{
    float w[PACK], b[PACK], y[PACK];
    row_load(DTYPE_F32, a->weight, at, 0, row_left(a->c - at), r.aligned, w);
    if (a->bias)
        row_load(DTYPE_F32, a->bias, at, 0, row_left(a->c - at), r.aligned, b);
    UNROLL
    for (int e = 0; e < PACK; e++) {
        y[e] = (x[e] - mean) * rstd * (a->plus + w[e]);
        if (a->bias)
            y[e] += b[e];
    }
    STORE8(a->y, r.begin + at, 0, row_left(a->c - at), r.aligned, y);
}

/* Layer norm where `layer` is set, else RMS norm. */
GLOBAL(TYPED(norm_forward), 256, NormArguments)
{
    SHARED float shared[32];
    NormRow r =
        norm_row(&a, (int64_t)BLOCK.x * (BLOCK_SIZE.x / (unsigned)a.team) + THREAD.x / (unsigned)a.team);
    if (r.begin >= a.rows * a.c)
        return;
    float x[NORM_HELD][PACK], more[PACK], sum = 0.0f, squares = 0.0f, mean = 0.0f;
    int64_t beyond = (int64_t)(NORM_HELD * a.team + r.lane) * PACK, step = (int64_t)a.team * PACK;
    TYPED(norm_hold)(&a, a.x, r, x);
    if (a.layer) {
        UNROLL
        for (int k = 0; k < NORM_HELD; k++)
            sum += norm_total(x[k]);
        for (int64_t at = beyond; at < a.c; at += step) {
            LOAD8(a.x, r.begin + at, 0, row_left(a.c - at), r.aligned, more);
            sum += norm_total(more);
        }
        mean = team_sum(a.team, sum, shared) / (float)a.c;
    }
    /* A second look instead of E[x^2] - E[x]^2, which cancels when the mean is large. */
    UNROLL
    for (int k = 0; k < NORM_HELD; k++)
        squares += norm_squares(a.c - (k * a.team + r.lane) * PACK, x[k], mean);
    for (int64_t at = beyond; at < a.c; at += step) {
        LOAD8(a.x, r.begin + at, 0, row_left(a.c - at), r.aligned, more);
        squares += norm_squares(a.c - at, more, mean);
    }
    float rstd = 1.0f / sqrtf(team_sum(a.team, squares, shared) / (float)a.c + a.eps);
    UNROLL
    for (int k = 0; k < NORM_HELD; k++)
        if ((k * a.team + r.lane) * PACK < a.c)
            TYPED(norm_write)(&a, r, (k * a.team + r.lane) * PACK, x[k], mean, rstd);
    for (int64_t at = beyond; at < a.c; at += step) {
        LOAD8(a.x, r.begin + at, 0, row_left(a.c - at), r.aligned, more);
        TYPED(norm_write)(&a, r, at, more, mean, rstd);
    }
    if (r.lane == 0) {
        a.rstd[r.row] = rstd;
        if (a.layer)
            a.mean[r.row] = mean;
    }
}

/* dx = rstd (g - mean(g) - xhat mean(g xhat)) of a pack, with g = dy (plus + weight). */
DEVICE void TYPED(norm_slope)(const NormArguments *a, NormRow r, int64_t at, const float *x, const float *dy,
                              NormSums s)
{
    float w[PACK], dx[PACK];
    row_load(DTYPE_F32, a->weight, at, 0, row_left(a->c - at), r.aligned, w);
    if (a->beta_dx != 0.0f)
        LOAD8(a->dx, r.begin + at, 0, row_left(a->c - at), r.aligned, dx);
    UNROLL
    for (int e = 0; e < PACK; e++) {
        float slope = s.rstd * (dy[e] * (a->plus + w[e]) - s.total - (x[e] - s.mean) * s.rstd * s.dot);
        dx[e] = a->beta_dx != 0.0f ? slope + a->beta_dx * dx[e] : slope;
    }
    STORE8(a->dx, r.begin + at, 0, row_left(a->c - at), r.aligned, dx);
}

/* A row's sums; dw and db of its packs, and in `part` of those beyond the ones that registers hold. */
DEVICE void TYPED(norm_row_sums)(const NormArguments *a, NormRow r, int first, float x[NORM_HELD][PACK],
                                 float dy[NORM_HELD][PACK], float dw[NORM_HELD][PACK],
                                 float db[NORM_HELD][PACK], float *part, NormSums *s)
{
    float more[PACK], d[PACK];
    UNROLL
    for (int k = 0; k < NORM_HELD; k++)
        if ((k * a->team + r.lane) * PACK < a->c)
            norm_pack_sums(a, r, (k * a->team + r.lane) * PACK, x[k], dy[k], s, dw[k], db[k]);
    for (int64_t at = (int64_t)(NORM_HELD * a->team + r.lane) * PACK; at < a->c;
         at += (int64_t)a->team * PACK) {
        float w[PACK], b[PACK];
        LOAD8(a->x, r.begin + at, 0, row_left(a->c - at), r.aligned, more);
        LOAD8(a->dy, r.begin + at, 0, row_left(a->c - at), r.aligned, d);
        UNROLL
        for (int e = 0; e < PACK; e++)
            w[e] = b[e] = 0.0f;
        norm_pack_sums(a, r, at, more, d, s, w, b);
        for (int e = 0; part && e < PACK && at + e < a->c; e++) { /* by the thread that reads them again */
            part[at + e] = first ? w[e] : part[at + e] + w[e];
            part[a->c + at + e] = first ? b[e] : part[a->c + at + e] + b[e];
        }
    }
}

/* Block b takes rows b, b + blocks, ... (times as many as it has teams), and leaves its sums of dweight and
 * dbias in row b of partial (parts, 2, c). */
GLOBAL(TYPED(norm_backward), 256, NormArguments)
{
    SHARED float shared[NORM_SHARED];
    float dw[NORM_HELD][PACK], db[NORM_HELD][PACK], x[NORM_HELD][PACK], dy[NORM_HELD][PACK];
    int teams = (int)BLOCK_SIZE.x / a.team;
    float *part = a.partial ? a.partial + (int64_t)BLOCK.x * 2 * a.c : (float *)0;
    UNROLL
    for (int k = 0; k < NORM_HELD; k++)
        UNROLL
    for (int e = 0; e < PACK; e++)
        dw[k][e] = db[k][e] = 0.0f;
    for (int64_t row = (int64_t)BLOCK.x * teams + THREAD.x / (unsigned)a.team; row < a.rows;
         row += (int64_t)GRID_SIZE.x * teams) {
        NormRow r = norm_row(&a, row);
        NormSums s = {a.layer ? a.mean[row] : 0.0f, a.rstd[row], 0.0f, 0.0f};
        TYPED(norm_hold)(&a, a.x, r, x);
        TYPED(norm_hold)(&a, a.dy, r, dy);
        TYPED(norm_row_sums)(&a, r, row < (int64_t)GRID_SIZE.x * teams, x, dy, dw, db, part, &s);
        s.total = a.layer ? team_sum(a.team, s.total, shared) / (float)a.c : 0.0f;
        s.dot = team_sum(a.team, s.dot, shared) / (float)a.c;
        if (!a.dx)
            continue;
        UNROLL
        for (int k = 0; k < NORM_HELD; k++)
            if ((k * a.team + r.lane) * PACK < a.c)
                TYPED(norm_slope)(&a, r, (k * a.team + r.lane) * PACK, x[k], dy[k], s);
        for (int64_t at = (int64_t)(NORM_HELD * a.team + r.lane) * PACK; at < a.c;
             at += (int64_t)a.team * PACK) {
            float more[PACK], d[PACK];
            LOAD8(a.x, r.begin + at, 0, row_left(a.c - at), r.aligned, more);
            LOAD8(a.dy, r.begin + at, 0, row_left(a.c - at), r.aligned, d);
            TYPED(norm_slope)(&a, r, at, more, d, s);
        }
    }
    if (part)
        norm_leave(&a, dw, db, part, shared);
}
