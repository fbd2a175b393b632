/* How many ranks there are, and of them those that divide the samples, a layer, the model. */
#include "several.h"

int has_ranks(const Options *o)
{
    return o->ranks.size > 1;
}

int has_stages(const Options *o)
{
    return o->ranks.stages > 1;
}

int stage_ranks(const Options *o)
{
    return o->ranks.size / (has_stages(o) ? o->ranks.stages : 1);
}

int data_ranks(const Options *o)
{
    return stage_ranks(o) / (o->ranks.tensor > 0 ? o->ranks.tensor : 1);
}

int64_t step_samples(const Options *o)
{
    return (int64_t)o->batch * o->accumulate * data_ranks(o);
}
