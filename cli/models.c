/* brim models and brim gpus: what is known by name. */
#include <inttypes.h>

#include "../device/cards.h"
#include "../device/device.h"
#include "../kernels/kernels.h"
#include "cli.h"

/* Counts on meta: the model is really built, without data. */
static int64_t preset_parameters(const ModelPreset *preset, int64_t *active)
{
    Context *context = context_create(&(ContextOptions){.meta = 1, .threads = 1});
    Context *outside = context_use(context);
    Module *model = nn_model(preset);
    int64_t count = nn_parameter_count(model);
    *active = nn_active_count(model);
    context_use(outside);
    context_destroy(context);
    return count;
}

int command_models(const Options *o, int count)
{
    (void)count;
    json_t *all = json_array();
    if (!o->json)
        printf("%-29s %-10s %16s %15s %6s %5s\n", "model", "family", "parameters", "active", "batch", "seq");
    for (int i = 0; nn_preset_at(i); i++) {
        const ModelPreset *p = nn_preset_at(i);
        int64_t active, parameters = preset_parameters(p, &active);
        char seq[16] = "-"; /* images have none */
        if (p->seq)
            snprintf(seq, sizeof seq, "%d", p->seq);
        if (o->json)
            json_array_append_new(all,
                                  json_pack("{s:s, s:s, s:I, s:I}", "model", p->name, "family",
                                            nn_family(p->family)->name, "parameters", (json_int_t)parameters,
                                            "active_parameters", (json_int_t)active));
        else
            printf("%-29s %-10s %16s %15s %6d %5s  %s\n", p->name, nn_family(p->family)->name,
                   report_count(parameters).text, active < parameters ? report_count(active).text : "",
                   p->batch, seq, p->about);
    }
    if (o->json)
        json_print(json_pack("{s:o}", "models", all));
    else
        json_decref(all);
    return EXIT_DONE;
}

typedef struct ColumnText {
    char text[16];
} ColumnText;

static ColumnText capability_text(int capability)
{
    ColumnText out = {"-"};
    if (capability)
        snprintf(out.text, sizeof out.text, "%d.%d", capability / 10, capability % 10);
    return out;
}

static json_t *capability_json(int capability)
{
    return capability ? json_string(capability_text(capability).text) : json_null();
}

/* "525+", "none": brim has no kernels for it. */
static ColumnText driver_text(int driver)
{
    ColumnText out = {"none"};
    if (driver)
        snprintf(out.text, sizeof out.text, "%d+", driver);
    return out;
}

/* ---- This machine's ---------------------------------------------------------------------------- */

static uint64_t bytes_free(void)
{
    size_t left = 0, all = 0;
    return cuda.memory_info(&left, &all) ? 0 : left;
}

static json_t *here_json(const CudaDevice *d, int i)
{
    CudaUse use = cuda_in_use(d);
    return json_pack("{s:i, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i}", "number", i, "title",
                     d->name, "compute_capability", capability_text(d->capability).text, "multiprocessors",
                     d->multiprocessors, "bytes", (json_int_t)d->total, "free_bytes",
                     (json_int_t)bytes_free(), "others_bytes", (json_int_t)use.others, "context_bytes",
                     (json_int_t)use.context, "kernels_bytes", (json_int_t)use.kernels, "library_bytes",
                     (json_int_t)use.library, "driver_version", cuda_driver_version(), "library_version",
                     cuda_blas_version(d));
}

static void print_here(const CudaDevice *d, int i)
{
    int driver = cuda_driver_version(), blas = cuda_blas_version(d);
    CudaUse use = cuda_in_use(d);
    printf("cuda:%d  %s, compute capability %s, %d multiprocessors: %s, of which %s are free\n", i, d->name,
           capability_text(d->capability).text, d->multiprocessors, report_size(d->total).text,
           report_size(bytes_free()).text);
    printf("        taken: context %s, kernels %s, library %s; driver for CUDA %d.%d, cuBLAS %d\n",
           report_size(use.context).text, report_size(use.kernels).text, report_size(use.library).text,
           driver / 1000, driver % 1000 / 10, blas);
}

/* Opens each card for a moment: what that takes is measured. */
static json_t *cards_here(int as_json)
{
    json_t *all = json_array();
    char why[1200] = "";
    for (int i = 0;; i++) {
        CudaDevice card;
        if (kernels_cuda_open(&card, i, why, sizeof why)) {
            if (!as_json && i == 0)
                printf("\nThis machine: no card that --device cuda could use; %s.\n", why);
            return all;
        }
        if (!as_json && i == 0)
            printf("\nThis machine:\n");
        if (as_json)
            json_array_append_new(all, here_json(&card, i));
        else
            print_here(&card, i);
        cuda_close(&card);
    }
}

int command_gpus(const Options *o, int count)
{
    (void)count;
    json_t *all = json_array();
    if (!o->json)
        printf("%-14s %9s  %5s  %4s  %6s  %-36s %s\n", "card", "GiB", "CUDA", "SMs", "driver", "",
               "memory as reported by");
    for (int i = 0; device_card_at(i); i++) {
        const Card *card = device_card_at(i);
        int driver = device_card_driver(card->capability);
        if (o->json)
            json_array_append_new(all, json_pack("{s:s, s:s, s:I, s:o, s:i, s:o, s:s}", "name", card->name,
                                                 "title", card->title, "bytes", (json_int_t)card->bytes,
                                                 "compute_capability", capability_json(card->capability),
                                                 "multiprocessors", card->multiprocessors, "least_driver",
                                                 driver ? json_integer(driver) : json_null(), "source",
                                                 card->source));
        else
            printf("%-14s %9.2f  %5s  %4d  %6s  %-36s %s\n", card->name, (double)card->bytes / 0x1p30,
                   capability_text(card->capability).text, card->multiprocessors, driver_text(driver).text,
                   card->title, card->source);
    }
    json_t *here = cards_here(o->json);
    if (o->json) {
        json_print(json_pack("{s:o, s:o}", "gpus", all, "here", here));
    } else {
        json_decref(all);
        json_decref(here);
    }
    return EXIT_DONE;
}
