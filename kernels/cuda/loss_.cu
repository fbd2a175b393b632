/* Of one type: included by loss.cu. */

/* A pack of logits; -inf for what is not the row's. */
DEVICE void TYPED(loss_load)(const LossArguments *a, const LossPart *p, int64_t i, float *x)
{
    int from = (int)(i < p->begin ? p->begin - i : 0), to = row_left(p->end - i);
    LOAD8(a->logits, i, from, to, a->aligned, x);
    if (a->d.softcap != 0.0f) {
        UNROLL
        for (int e = 0; e < PACK; e++)
            x[e] = softcap_value(a->d.softcap, x[e]);
    }
    UNROLL
    for (int e = 0; e < PACK; e++)
        x[e] = e >= from && e < to ? x[e] : -INFINITY;
}

/* A maximum and the sum of exponentials below it, which grow together: memory is read once. The maximum
 * begins at -FLT_MAX, not -inf, so that a pack of -inf (masked classes) adds zero instead of NaN. A NaN is no
 * maximum; the sum catches it. */
GLOBAL(TYPED(cross_entropy_forward), 256, LossArguments)
{
    SHARED float shared[32];
    LossPart p = loss_part(&a);
    float top = -FLT_MAX, sum = 0.0f;
    if (p.row >= a.d.rows)
        return;
    if (p.label == a.d.ignore_index || p.label < 0 || p.label >= a.d.classes) {
        if (p.lane == 0) {
            a.lse[p.row] = a.row_loss[p.row] = 0.0f;
            if (p.label != a.d.ignore_index)
                fault_at(a.fault, a.d.first_row + p.row);
        }
        return;
    }
    for (int64_t i = p.first; i < p.end; i += (int64_t)LOSS_TOGETHER * a.team * PACK) {
        float x[LOSS_TOGETHER][PACK];
        UNROLL
        for (int k = 0; k < LOSS_TOGETHER; k++)
            TYPED(loss_load)(&a, &p, i + (int64_t)k * a.team * PACK, x[k]);
        UNROLL
        for (int k = 0; k < LOSS_TOGETHER; k++)
            loss_add(x[k], &top, &sum);
    }
    float most = team_max(a.team, top, shared);
    sum = team_sum(a.team, sum * expf(top - most), shared);
    if (p.lane != 0)
        return;
    a.lse[p.row] = most + logf(sum);
    a.row_loss[p.row] = most - loss_logit(&a, LOAD(a.logits, p.begin + p.label)) + logf(sum);
}

/* What the classes that are here say of a row. */
GLOBAL(TYPED(cross_entropy_part), 256, LossArguments)
{
    SHARED float shared[32];
    LossPart p = loss_part(&a);
    float top = -FLT_MAX, sum = 0.0f;
    if (p.row >= a.d.rows)
        return;
    float *to = a.part + p.row * CROSS_ENTROPY_PART;
    int ignored = p.label == a.d.ignore_index, bad = p.label < 0 || p.label >= a.d.all_classes;
    int64_t label = p.label - a.d.first_class;
    for (int64_t i = p.first; i < p.end && !ignored; i += (int64_t)a.team * PACK) {
        float x[PACK];
        TYPED(loss_load)(&a, &p, i, x);
        loss_add(x, &top, &sum);
    }
    float most = team_max(a.team, top, shared);
    sum = team_sum(a.team, sum * expf(top - most), shared);
    if (p.lane != 0)
        return;
    to[PART_TOP] = ignored ? 0.0f : most;
    to[PART_SUM] = ignored ? 0.0f : sum;
    to[PART_LABEL] = 0.0f;
    if (!ignored && bad)
        fault_at(a.fault, a.d.first_row + p.row);
    else if (!ignored && label >= 0 && label < a.d.classes)
        to[PART_LABEL] = loss_logit(&a, LOAD(a.logits, p.begin + label));
}

GLOBAL(TYPED(cross_entropy_backward), 256, LossArguments)
{
    LossPart p = loss_part(&a);
    if (p.row >= a.d.rows)
        return;
    int64_t classes = a.d.all_classes ? a.d.all_classes : a.d.classes;
    int counted = p.label != a.d.ignore_index && p.label >= 0 && p.label < classes;
    int64_t label = p.begin + p.label - a.d.first_class; /* it may be that of a class which is not here */
    float lse = a.lse[p.row], factor = a.scale * a.dloss[0];
    for (int64_t i = p.lane; i < a.d.padding && p.slice == 0; i += a.team)
        STORE(a.dlogits, p.end + i, 0.0f);
    ROLLED
    for (int k = 0; k < LOSS_SLICE; k++) {
        int64_t i = p.first + (int64_t)k * a.team * PACK;
        int from = (int)(i < p.begin ? p.begin - i : 0), to = row_left(p.end - i);
        float x[PACK], dx[PACK];
        if (to <= 0)
            break;
        if (counted)
            LOAD8(a.logits, i, from, to, a.aligned, x);
        if (a.beta != 0.0f)
            LOAD8(a.dlogits, i, from, to, a.aligned, dx);
        UNROLL
        for (int e = 0; e < PACK; e++) {
            float hot = i + e == label ? 1.0f : 0.0f;
            float slope = counted ? (expf(loss_logit(&a, x[e]) - lse) - hot) * factor : 0.0f;
            if (counted && a.d.softcap != 0.0f)
                slope *= softcap_slope(a.d.softcap, x[e]);
            dx[e] = a.beta != 0.0f ? slope + a.beta * dx[e] : slope;
        }
        STORE8(a.dlogits, i, from, to, a.aligned, dx);
    }
}
