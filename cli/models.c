/* brim models and brim gpus: what is known by name. */
#include <inttypes.h>

#include "../device/cards.h"
#include "cli.h"

/* Counts on meta: the model is really built, without data. */
static int64_t preset_parameters(const ModelPreset *preset)
{
    Context *context = context_create(&(ContextOptions){.meta = 1, .threads = 1});
    Context *outside = context_use(context);
    int64_t count = nn_parameter_count(nn_model(preset));
    context_use(outside);
    context_destroy(context);
    return count;
}

int command_models(const Options *o, int count)
{
    (void)count;
    json_t *all = json_array();
    if (!o->json)
        printf("%-18s %-6s %16s %6s %5s\n", "model", "family", "parameters", "batch", "seq");
    for (int i = 0; nn_preset_at(i); i++) {
        const ModelPreset *p = nn_preset_at(i);
        int64_t parameters = preset_parameters(p);
        char seq[16] = "-"; /* images have none */
        if (p->seq)
            snprintf(seq, sizeof seq, "%d", p->seq);
        if (o->json)
            json_array_append_new(all, json_pack("{s:s, s:s, s:I}", "model", p->name, "family",
                                                 nn_family(p->family)->name, "parameters",
                                                 (json_int_t)parameters));
        else
            printf("%-18s %-6s %16s %6d %5s  %s\n", p->name, nn_family(p->family)->name,
                   report_count(parameters).text, p->batch, seq, p->about);
    }
    if (o->json)
        json_print(json_pack("{s:o}", "models", all));
    else
        json_decref(all);
    return EXIT_DONE;
}

typedef struct CapabilityText {
    char text[16];
} CapabilityText;

static CapabilityText capability_text(int capability)
{
    CapabilityText out = {"-"};
    if (capability)
        snprintf(out.text, sizeof out.text, "%d.%d", capability / 10, capability % 10);
    return out;
}

static json_t *capability_json(int capability)
{
    return capability ? json_string(capability_text(capability).text) : json_null();
}

int command_gpus(const Options *o, int count)
{
    (void)count;
    json_t *all = json_array();
    if (!o->json)
        printf("%-14s %9s  %5s  %4s  %-36s %s\n", "card", "GiB", "CUDA", "SMs", "", "memory as reported by");
    for (int i = 0; device_card_at(i); i++) {
        const Card *card = device_card_at(i);
        if (o->json)
            json_array_append_new(all, json_pack("{s:s, s:s, s:I, s:o, s:i, s:s}", "name", card->name,
                                                 "title", card->title, "bytes", (json_int_t)card->bytes,
                                                 "compute_capability", capability_json(card->capability),
                                                 "multiprocessors", card->multiprocessors, "source",
                                                 card->source));
        else
            printf("%-14s %9.2f  %5s  %4d  %-36s %s\n", card->name, (double)card->bytes / 0x1p30,
                   capability_text(card->capability).text, card->multiprocessors, card->title, card->source);
    }
    if (o->json)
        json_print(json_pack("{s:o}", "gpus", all));
    else
        json_decref(all);
    return EXIT_DONE;
}
