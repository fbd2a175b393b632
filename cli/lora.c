/* See lora.h. */
#include "lora.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "flags_.h"

/* ---- What --lora says ------------------------------------------------------------------------ */

#define EXAMPLE "r=16,alpha=32,dropout=0.05,targets=q_proj,v_proj,rslora"

static int read_number(const char *name, const char *text, double least, double most, double *out)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= least && x <= most))
        return usage("--lora: %s must be a number from %g to %g, not '%s'", name, least, most, text);
    *out = x;
    return 0;
}

static int add_target(LoraChoice *c, const char *name)
{
    size_t used = strlen(c->targets);
    if (!name[0])
        return usage("--lora: targets= needs names of layers, or all: targets=q_proj,v_proj");
    if (used && (!strcmp(name, "all") || !strcmp(c->targets, "all")))
        return usage(
            "--lora: targets=all is every linear layer but the output head; no other name goes with it");
    if (used + strlen(name) + 2 > sizeof c->targets)
        return usage("--lora: the names of the targets have more than %zu letters", sizeof c->targets);
    sprintf(c->targets + used, "%s%s", used ? "," : "", name);
    return 0;
}

/* One word of the list; *targets: names may follow. */
static int read_word(LoraChoice *c, const char *word, int *targets)
{
    double x = 0;
    int status = 0;
    if (!strncmp(word, "r=", 2)) {
        int64_t rank = 0;
        status = parse_whole("--lora: r", word + 2, 1, 1 << 16, &rank);
        c->lora.rank = (int)rank;
    } else if (!strncmp(word, "alpha=", 6)) {
        status = read_number("alpha", word + 6, 1e-6, 1e6, &x);
        c->lora.alpha = (float)x;
    } else if (!strncmp(word, "dropout=", 8)) {
        status = read_number("dropout", word + 8, 0, 0.999, &x);
        c->lora.dropout = (float)x;
    } else if (!strcmp(word, "rslora")) {
        c->lora.rslora = 1;
    } else if (!strncmp(word, "targets=", 8)) {
        *targets = 1;
        return add_target(c, word + 8);
    } else if (*targets && !strchr(word, '=')) {
        return add_target(c, word);
    } else {
        status = usage("--lora: '%s' is not known; it takes " EXAMPLE, word);
    }
    *targets = 0;
    return status;
}

int lora_parse(const char *text, LoraChoice *c)
{
    int targets = 0, status = 0;
    *c = (LoraChoice){0};
    while (*text && !status) {
        char word[160];
        size_t length = strcspn(text, ",");
        if (length >= sizeof word)
            return usage("--lora: '%.40s…' is too long; it takes " EXAMPLE, text);
        snprintf(word, sizeof word, "%.*s", (int)length, text);
        status = read_word(c, word, &targets);
        text += length + (text[length] == ',');
    }
    c->lora.targets = c->targets[0] ? c->targets : NULL;
    return status;
}

/* ---- What goes together ---------------------------------------------------------------------- */

int has_adapters(const Options *o)
{
    return o->lora || o->adapter;
}

int check_adapters(const Options *o)
{
    LoraChoice choice;
    if (o->lora && lora_parse(o->lora, &choice))
        return EXIT_USAGE;
    const char *of_adapters = o->merge ? "--merge" : o->export_adapter ? "--export-adapter" : NULL;
    if (of_adapters && !has_adapters(o))
        return usage("%s needs adapters: --lora r=16,alpha=32 makes some, --adapter DIR reads some",
                     of_adapters);
    if (o->export && has_adapters(o) && !o->merge)
        return usage("--export writes a whole model, and this run trains adapters: --merge adds them to its "
                     "weights, --export-adapter DIR writes them alone");
    if (o->export && same_file(o->export, o->export_adapter))
        return usage(
            "--export and --export-adapter %s: an adapter beside a whole model would be added to it by "
            "whoever loads it; name two directories",
            o->export_adapter);
    if (o->adapter && access(o->adapter, F_OK) != 0)
        return usage("--adapter %s: cannot open: %s", o->adapter, strerror(errno));
    return 0;
}

/* ---- The model ------------------------------------------------------------------------------- */

void add_adapters(const Options *o, Module *model)
{
    LoraChoice choice;
    AdapterReport report;
    if (!model || error_code())
        return;
    if (o->adapter &&
        !io_load_adapter(model, o->adapter, &(AdapterOptions){.frozen = o->inference}, &report)) {
        if (report.note[0] && !context_is_meta(context_current()))
            note("%s: %s", o->adapter, report.note);
    } else if (o->lora && !lora_parse(o->lora, &choice)) {
        nn_add_lora(model, &choice.lora);
    }
}

AdapterSaving adapter_saving(const Options *o)
{
    return (AdapterSaving){.base = o->init, .overwrite = o->overwrite};
}

/* ---- In words -------------------------------------------------------------------------------- */

LeverText lora_title(const Options *o)
{
    LeverText out = {""};
    LoraChoice c;
    if (!o->lora || lora_parse(o->lora, &c))
        return out;
    int named = c.targets[0] && strcmp(c.targets, "all") != 0;
    lever_add(&out, "LoRA r %d, alpha %g, %.120s", c.lora.rank ? c.lora.rank : 8,
              c.lora.alpha > 0 ? (double)c.lora.alpha : 8.0, named ? c.targets : "all layers");
    if (c.lora.dropout > 0)
        lever_add(&out, ", dropout %g", (double)c.lora.dropout);
    if (c.lora.rslora)
        lever_add(&out, ", rslora");
    return out;
}

LeverText adapter_title(const Options *o)
{
    LeverText out = {""};
    if (o->adapter)
        snprintf(out.text, sizeof out.text, "adapter %.120s", o->adapter);
    return out;
}
