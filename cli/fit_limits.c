/* What a row of brim fit needs, beside what a card leaves it. */
#include <inttypes.h>

#include "../device/device.h"
#include "fit_.h"
#include "precision.h"
#include "several.h"

uint64_t fit_limit(const Fit *fit, int card)
{
    return fit->memory[card] - fit->options->reserve;
}

int fit_most(const Fit *fit, const Method *m)
{
    int most = LARGEST_BATCH / m->variant.options.accumulate;
    most = most < 1 ? 1 : most;
    /* Images are as many as they are; a text gives as many samples as a step takes. */
    int64_t samples = fit->samples / data_ranks(&m->variant.options);
    return !m->variant.options.seq && samples < most ? (int)samples : most;
}

int fit_kind(const Fit *fit, int capability)
{
    int on_card = device_cuda_ordinal(fit->options->device) >= 0;
    if (on_card && capability < least_capability(fit->options))
        return -1;
    for (int i = 0; i < fit->kinds; i++)
        if (!on_card || device_plans_alike(fit->kind[i].capability, capability))
            return i;
    return -1;
}

uint64_t fit_needs(const Fit *fit, const Method *m, int card)
{
    return m->needs[fit->kind_of[card]];
}

int fit_fits(const Fit *fit, const Method *m, int card)
{
    return !m->variant.plan.status && fit_needs(fit, m, card) <= fit_limit(fit, card); /* never UINT64_MAX */
}

MissingText fit_missing(uint64_t needs, uint64_t limit)
{
    MissingText out = {""};
    uint64_t bytes = needs - limit;
    if (needs != UINT64_MAX && bytes < UINT64_C(100) << 20)
        snprintf(out.text, sizeof out.text, "-%" PRIu64 " MiB", (bytes + (1 << 20) - 1) >> 20);
    else if (needs != UINT64_MAX)
        snprintf(out.text, sizeof out.text, "-%.1f", (double)bytes / 0x1p30);
    return out;
}
