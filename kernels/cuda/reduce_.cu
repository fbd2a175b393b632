/* Of one type: included by reduce.cu. Eight elements at a time whatever the type, so that the same values
 * have the same sum. */
GLOBAL(TYPED(sum_part), 256, ReduceArguments)
{
    SHARED double shared[32];
    double sum = 0;
    EACH_PACK(i, a.n, 8)
    {
        float x[8];
        pack_load(TYPE, 8, a.x, i, a.n, a.aligned, x);
        for (int k = 0; k < 8; k++)
            sum += a.square ? (double)x[k] * (double)x[k] : (double)x[k];
    }
    sum = block_sum_f64(sum, shared);
    if (THREAD.x == 0)
        a.partial[BLOCK.x] = sum;
}

GLOBAL(TYPED(find_nonfinite), 256, ReduceArguments)
{
    EACH_PACK(i, a.n, 8)
    {
        Pack p = pack_read(TYPE, 8, a.x, i, a.n, a.aligned);
        float x[8];
        int bad = 8;
        pack_values(TYPE, 8, &p, x);
        for (int k = 7; k >= 0; k--)
            bad = (float_to_bits(x[k]) & 0x7F800000u) == 0x7F800000u ? k : bad;
        if (bad < 8) {
            atomic_min_u64(a.index, (unsigned long long)(i + bad));
            return; /* what comes after is no first one */
        }
    }
}
