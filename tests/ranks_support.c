#include "ranks_support.h"

#include <math.h>

#include "../data/data.h"
#include "../kernels/kernels.h"

int plan_and_run(Script script, void *config, const Ranks *ranks, Plan *plan, char error[RANK_ERROR])
{
    return plan_and_run_on(NULL, script, config, ranks, plan, error);
}

int plan_and_run_on(const char *device, Script script, void *config, const Ranks *ranks, Plan *plan,
                    char error[RANK_ERROR])
{
    return plan_and_run_with((RunOptions){.threads = 1, .seed = 5, .quiet = 1, .device = device}, script,
                             config, ranks, plan, error);
}

int plan_and_run_with(RunOptions o, Script script, void *config, const Ranks *ranks, Plan *plan,
                      char error[RANK_ERROR])
{
    Ranks alone = *ranks;
    alone.transport = alone.card = NULL;
    RunResult result;
    o.ranks = &alone;
    if (plan_script(script, config, &o, plan) != 0) {
        snprintf(error, RANK_ERROR, "plan: %.480s", plan->error);
        return 1;
    }
    o.ranks = ranks;
    int status = plan_execute(script, config, &o, plan, &result);
    const MemStats *run = &result.memory.stats, *planned = &plan->memory.stats;
    if (status && !error[0])
        snprintf(error, RANK_ERROR, "run: %.480s", result.error);
    else if (!status && (run->peak != planned->peak || run->needs != planned->needs ||
                         run->event_hash != planned->event_hash || result.segments_off_plan))
        status = snprintf(error, RANK_ERROR, "the run is not its plan");
    plan_free(plan);
    return status != 0;
}

float *numbers_new(void)
{
    float *numbers = test_calloc(RANK_NUMBERS, sizeof *numbers);
    for (int i = 0; i < RANK_NUMBERS; i++)
        numbers[i] = NAN;
    return numbers;
}

void write_parts(TensorList list, float *to)
{
    const Context *c = context_current();
    int64_t at = 0;
    for (int i = 0; i < list.count; at += tensor_numel(list.items[i++])) {
        TensorPart part = tensor_part_(list.items[i]);
        if (list.items[i]->absent || part.count <= 0 || !part.counts)
            continue;
        if (!dtype_is_float(part.type))
            memset(to + at + part.first, 0, (size_t)part.count * sizeof *to);
        else if (part.master)
            memcpy(to + at + part.first, storage_f32(part.master), (size_t)part.count * sizeof *to);
        else
            c->kernels->copy(part.type, DTYPE_F32, part.count,
                             (char *)storage_data(part.weights) + dtype_bytes(part.type, 1, part.at),
                             to + at + part.first, &c->run);
    }
}

double numbers_apart(const float *a, const float *b)
{
    double most = 0;
    int count = 0;
    for (; count < RANK_NUMBERS && !isnan(b[count]); count++) {
        double d = fabs((double)a[count] - (double)b[count]);
        most = isnan(d) ? INFINITY : d > most ? d : most;
    }
    assert_true(count > 1000);
    return most;
}

ModelPreset preset_of_text(const Setting *setting, int tied)
{
    ModelPreset preset = small_preset(setting);
    if (is_masked(setting->family))
        nn_preset_set_vocab(&preset, TOKEN_VOCAB);
    else if (setting->family == MODEL_GPT2)
        preset.config.gpt2.vocab = 257;
    else if (nn_family(setting->family)->decoder) {
        preset.config.llama.vocab = 257;
        preset.config.llama.tied = tied;
    }
    return preset;
}
