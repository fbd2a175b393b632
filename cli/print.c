/* Lines and words that several commands print. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "../device/device.h"
#include "../kernels/kernels.h"
#include "levers_.h"
#include "precision.h"
#include "several.h"

const char *const group_names[MEM_GROUP_COUNT] = {
#define X(id, name, label, word, brief) [MEM_GROUP_##id] = word,
    MEMTRACK_GROUPS(X)
#undef X
};

MemGroup bound_by(const MemSummary *memory)
{
    static const MemGroup varying[] = {MEM_GROUP_GRADIENTS, MEM_GROUP_ACTIVATIONS, MEM_GROUP_OVERHEAD};
    MemGroup bound = varying[0];
    for (size_t i = 1; i < sizeof varying / sizeof varying[0]; i++)
        if (report_group(memory->stats.at_peak, varying[i]) > report_group(memory->stats.at_peak, bound))
            bound = varying[i];
    return bound;
}

/* Not where the rows below differ in it. */
static int same_bracket(const Options *o)
{
    static const char *const decide[] = {"--model",    "--optimizer", "--weights",
                                         "--quantize", "--precision", "--grad-dtype",
                                         "--ranks",    "--parallel",  "--tensor"};
    for (size_t i = 0; i < sizeof decide / sizeof decide[0]; i++)
        if (option_varies(o, decide[i]))
            return 0;
    return !(trains_in_16_bit(o) && option_varies(o, "--accumulate"));
}

static void title(const Options *o, int64_t parameters, const Bracket *bracket, int64_t steps, const char *on)
{
    SayLine line = {""};
    if (option_varies(o, "--model"))
        line_add(&line, "several models");
    else
        line_add(&line, "%s  %s%s parameters%s", o->model, approximate_tag(o), report_count(parameters).text,
                 active_text(bracket->active, parameters).text);
    if (!option_varies(o, "--weights") && !option_varies(o, "--quantize") && !option_varies(o, "--precision"))
        line_add(&line, "  %s", types_text(o).text);
    line_add(&line, "  %s", levers_title(o).text);
    if (has_ranks(o) && !option_varies(o, "--batch") && !option_varies(o, "--accumulate") &&
        !option_varies(o, "--ranks"))
        line_add(&line, "  %" PRId64 " samples a step", step_samples(o));
    if (steps)
        line_add(&line, "  %" PRId64 " step%s", steps, plural(steps));
    if (on[0])
        line_add(&line, "  on %s", on);
    else if (!steps)
        line_add(&line, "  %d thread%s%s", threads_of(o), plural(threads_of(o)),
                 has_ranks(o) ? " a rank" : "");
    say_line(&line);
    approximate_print(o);
    if (same_bracket(o) && bracket->trained.count) {
        line.text[0] = '\0';
        line_add(&line, "%.1000s", bracket_text(bracket).text);
        say_line(&line);
        if (bracket_star(bracket)[0])
            printf("%s\n", bracket_star(bracket));
    }
}

void print_title_on(const Options *o, int64_t parameters, const Bracket *bracket, int64_t steps,
                    const char *on)
{
    title(o, parameters, bracket, steps, on);
}

void print_title(const Options *o, int64_t parameters, const Bracket *bracket, int64_t steps)
{
    title(o, parameters, bracket, steps, steps ? "" : planned_card(o).text);
}

const char *device_title(const Options *o)
{
    static _Thread_local char title[192];
    CudaDevice card;
    char why[512];
    if (cuda_look(&card, device_cuda_ordinal(o->device), why, sizeof why))
        snprintf(title, sizeof title, "%.32s", o->device);
    else
        snprintf(title, sizeof title, "%s (%.32s), compute capability %d.%d, %d multiprocessors", card.name,
                 o->device, card.capability / 10, card.capability % 10, card.multiprocessors);
    return title;
}

const char *products_name(const Options *o)
{
    return strcmp(o->device, "cpu") ? "cuBLAS" : kernels_blas_name();
}

void print_machine(const Options *o, const Plan *plan)
{
    int threads = threads_of(o);
    if (strcmp(o->device, "cpu") != 0) {
        printf("%s; plan: needs %s\n", device_title(o), report_size(plan->memory.stats.needs).text);
        return;
    }
    kernels_blas_start(threads);
    const char *each = has_ranks(o) ? " a rank" : "";
    printf("%s, %d thread%s%s, %s kernels; plan: needs %s%s\n", kernels_blas_name(), threads, plural(threads),
           each, kernels_cpu(NULL)->name, report_size(plan->memory.stats.needs).text, each);
}
