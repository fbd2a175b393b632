/* Random fills: Philox's numbers as draw.h makes floats of them, with the same bits as on the CPU. */
#include "../draw.h"
#include "pack.h"

GLOBAL(fill_normal, 256, RandomArguments)
{
    EACH_PACK(i, a.n, 4)
    {
        Philox draw = draw_fill(a.seed, a.stream, (uint64_t)(a.first + i) / 4);
        float x[4];
        draw_normal(draw.v[0], draw.v[1], &x[0], &x[1]);
        draw_normal(draw.v[2], draw.v[3], &x[2], &x[3]);
        for (int k = 0; k < 4; k++)
            x[k] = float_times(a.b, x[k]) + a.a;
        pack_store(DTYPE_F32, 4, x, a.y, i, a.n, a.aligned);
    }
}

GLOBAL(fill_uniform, 256, RandomArguments)
{
    EACH_PACK(i, a.n, 4)
    {
        Philox draw = draw_fill(a.seed, a.stream, (uint64_t)(a.first + i) / 4);
        float x[4];
        for (int k = 0; k < 4; k++)
            x[k] = draw_uniform(draw.v[k], a.a, a.b, a.last);
        pack_store(DTYPE_F32, 4, x, a.y, i, a.n, a.aligned);
    }
}
