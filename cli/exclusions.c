/* Which options do not go together, and which need another: tables, so that the refusal of a command line and
 * what `compare`, `fit` and the advice try know the same. */
#include <string.h>

#include "flags_.h"
#include "levers_.h"
#include "precision.h"
#include "several.h"

/* Both given is an error; `why` follows. */
static const struct {
    const char *one, *other, *why;
} excludes[] = {
    {"--optimizer-in-backward", "--accumulate",
     "it updates a parameter as soon as its gradient is complete, so there is nothing to add to"},
    {"--optimizer-in-backward", "--clip",
     "the norm of all gradients is not known before the first parameter is updated"},
    {"--optimizer-in-backward", "--zero-grad", "it frees each gradient as soon as it is used"},
    {"--approximate", "--init", "the weights are of the model that is only planned near"},
    {"--approximate", "--adapter", "the adapter is of the model that is only planned near"},
    {"--approximate", "--run", "a model that is only near is planned, and not trained"},
    {"--approximate", "--log", "a log has no place for what differs"},
    {"--approximate", "--csv", "its columns have no place for what differs"},
    {"--steps", "--epochs", "they say the same thing twice"},
    {"--textbook", "--inference", "the one prints rules, the other plans"},
    {"--textbook", "--budget", "the one prints rules, the other limits a plan"},
    {"--vocab", "--resize-vocab", "they say the same thing twice"},
    {"--lora", "--resize-vocab", "the new rows of the embedding would be frozen before they learn anything"},
    {"--lora", "--adapter", "an adapter that is read has its own rank, alpha and layers"},
    {"--merge", "--quantize",
     "what an adapter changes can be less than quantising again rounds away; --export-adapter writes it "
     "alone, and --quantize none decodes weights that are quantised in their files"},
    {"--csv", "--json", "they are two forms of one answer"},
};

#define FROZEN_ONLY                                                                                          \
    ": it stores weights that are frozen or only read (brim generate, brim plan --inference); those that "   \
    "are trained themselves are what --precision says"

/* The one says something about the other, which is missing. */
static const struct {
    const char *one, *needed;
    const char *value; /* of `needed`, in the message */
    const char *only;  /* the value of `one` for which this holds; NULL: every one */
    const char *other; /* each does as well as `needed`, with spaces between; NULL: nothing */
    const char *why;   /* behind the message */
} needs[] = {
    {"--weights", "--lora", " r=16,alpha=32", NULL, "--adapter --inference", FROZEN_ONLY},
    {"--quantize", "--lora", " r=16,alpha=32", NULL, "--adapter --inference", FROZEN_ONLY},
    {"--checkpoint", "--budget", " SIZE", "auto", NULL, NULL},
    {"--init-partial", "--init", " PATH", NULL, NULL, NULL},
    {"--save-every", "--save", " DIR", NULL, NULL, NULL},
    {"--keep", "--save", " DIR", NULL, NULL, NULL},
    {"--export-dtype", "--export", " DIR", NULL, NULL, NULL},
    {"--export-shard", "--export", " DIR", NULL, NULL, NULL},
    {"--overwrite", "--export", " DIR", NULL, "--export-adapter", " or --export-adapter DIR"},
    {"--resize-vocab", "--init", " PATH", NULL, NULL, NULL},
    {"--prefill", "--inference", "", NULL, NULL, NULL},
    {"--merge", "--export", " DIR", NULL, NULL, NULL},
    {"--accumulate-apart", "--accumulate", " N", NULL, NULL, ": there is nothing else to add to"},
    {"--parallel", "--ranks", " N", NULL, NULL, ": one process divides nothing"},
    {"--replicas", "--ranks", " N", NULL, NULL, ": they are groups of ranks"},
    {"--replicate-below", "--ranks", " N", NULL, NULL, ": one process divides nothing"},
    {"--reduce", "--ranks", " N", NULL, NULL, ": one process has nothing to sum with"},
    {"--stages", "--ranks", " N", NULL, "--cards", ": one process has the whole model"},
    {"--pipeline", "--stages", " P", NULL, "--cards", NULL},
    {"--tensor", "--ranks", " N", NULL, "--inference --cards", ": they are some of the ranks"},
    {"--sequence-parallel", "--tensor", " T", NULL, NULL, ": it divides what lies between layers of T ranks"},
    {"--rank-timeout", "--ranks", " N", NULL, NULL, NULL},
    {"--transport", "--ranks", " N", NULL, NULL, ": one process sends nothing"},
    {"--versions", "--framework", " pytorch", NULL, NULL, ": brim has one"},
    {"--script", "--framework", " pytorch", NULL, NULL, ": brim's loop is its own"},
    {"--kbit-prepare", "--framework", " pytorch", NULL, NULL, ": it is PEFT's"},
    {"--no-sync", "--framework", " pytorch", NULL, NULL, ": brim adds them once a step"},
    {"--hold-outputs", "--framework", " pytorch", NULL, NULL, ": brim's loop holds none"},
    {"--evaluate", "--framework", " pytorch", NULL, NULL, ": it is Trainer's; brim's is --evaluate-every"},
    {"--eval-accumulation", "--framework", " pytorch", NULL, NULL, ": it is Trainer's"},
    {"--metrics", "--framework", " pytorch", NULL, NULL, ": they are Trainer's"},
    {"--alloc-conf", "--framework", " pytorch", NULL, NULL, ": it sets PyTorch's allocator"},
    {"--longest", "--framework", " pytorch", NULL, NULL, ": brim pads every sample to --seq"},
    {"--rank", "--ranks", " N", NULL, NULL, ": it is one of them"},
};

LeverText levers_exclude(const Options *o)
{
    LeverText out = {""};
    for (size_t i = 0; i < sizeof excludes / sizeof excludes[0] && !out.text[0]; i++)
        if (flag_given(excludes[i].one, o) && flag_given(excludes[i].other, o))
            snprintf(out.text, sizeof out.text, "%.90s excludes %.90s: %s; use one of the two",
                     flag_typed(excludes[i].one, o).text, flag_typed(excludes[i].other, o).text,
                     excludes[i].why);
    if (!out.text[0])
        out = precision_problem(o);
    return out.text[0] ? out : ranks_problem(o);
}

static int one_given(const char *flags, const Options *o)
{
    for (const char *at = flags; *at; at += *at == ' ') {
        char flag[40];
        size_t length = strcspn(at, " ");
        snprintf(flag, sizeof flag, "%.*s", (int)length, at);
        if (flag_given(flag, o))
            return 1;
        at += length;
    }
    return 0;
}

LeverText levers_need(const Options *o)
{
    LeverText out = {""};
    for (size_t i = 0; i < sizeof needs / sizeof needs[0] && !out.text[0]; i++)
        if (flag_given(needs[i].one, o) && !flag_given(needs[i].needed, o) &&
            !(needs[i].other && one_given(needs[i].other, o)) &&
            (!needs[i].only || !strcmp(flag_text(needs[i].one, o).text, needs[i].only)))
            snprintf(out.text, sizeof out.text, "%.90s needs %s%s%s",
                     needs[i].only || needs[i].why ? flag_typed(needs[i].one, o).text : needs[i].one,
                     needs[i].needed, needs[i].value, needs[i].why ? needs[i].why : "");
    return out;
}
