/* Rotary positions; frequencies come from the host, where they are the CPU's to the last bit. */
#include "row.h"

/* Cosine and sine of angles as large as positions are: what is left of quarter turns in double, then
 * polynomials (those of Cephes' sinf), to 1e-7. cosf and sinf keep a table and a stack for such angles. */
DEVICE void rope_turn(float angle, float *cosine, float *sine)
{
    double turns = rint((double)angle * 0.63661977236758134); /* 2 / pi */
    float r = (float)((double)angle - turns * 1.57079632679489662), x = r * r;
    int quarter = (int)((int64_t)turns & 3);
    float s = r + r * x * (-1.6666654611e-1f + x * (8.3321608736e-3f - x * 1.9515295891e-4f));
    float c = 1.0f - 0.5f * x +
              x * x * (4.166664568298827e-2f + x * (-1.388731625493765e-3f + x * 2.443315711809948e-5f));
    float across = quarter & 1 ? s : c, up = quarter & 1 ? c : s;
    *cosine = (quarter + 1) & 2 ? -across : across;
    *sine = quarter & 2 ? -up : up;
}

#define KERNELS "rope_.cu"
#include "typed.h"
