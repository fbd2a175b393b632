/* What the flags mean together: defaults, names, the model they apply to, and which levers exclude each
 * other. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "../device/device.h"
#include "flags_.h"
#include "input_.h"
#include "levers_.h"
#include "lora.h"
#include "pytorch.h"
#include "several.h"

static SayLine optimizer_names(void)
{
    SayLine line = {""};
    for (int i = 0; optim_rule_at(i); i++)
        line_add(&line, "%s%s", i ? ", " : "", optim_rule_at(i)->name);
    return line;
}

/* The families that continue a text. */
static SayLine writer_names(void)
{
    SayLine line = {""};
    for (int i = 0; i < MODEL_FAMILY_COUNT; i++)
        if (nn_family((ModelFamily)i)->writes)
            line_add(&line, "%s%s", line.text[0] ? " and " : "", nn_family((ModelFamily)i)->name);
    return line;
}

/* As --weights has them; safetensors' names are taken too. */
static int check_export_dtype(Options *o)
{
    enum { DTYPES = 3 };
    static const char *const names[] = {"fp32", "fp16", "bf16", "f32", "f16", NULL};
    int found = 0;
    if (o->export_dtype && parse_choice("--export-dtype", "fp32, fp16, bf16", o->export_dtype, names, &found))
        return EXIT_USAGE;
    if (o->export_dtype)
        o->export_dtype = names[found % DTYPES];
    return 0;
}

/* A run of no steps only writes what it reads. */
static int check_steps(Options *o, int given)
{
    if (!given && !o->epochs)
        o->steps = 300;
    if (!given || o->steps)
        return 0;
    if (o->epochs)
        return usage("--steps excludes --epochs %d: they say the same thing twice; use one of the two",
                     o->epochs);
    if (!o->export && !o->export_adapter)
        return usage("--steps must be 1 or more, not '0', unless --export or --export-adapter writes what "
                     "is not trained");
    return 0;
}

static int check_names(const Options *o)
{
    static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
    int found;
    if (!optim_rule(o->optimizer))
        return usage("--optimizer must be one of %s, not '%s'", optimizer_names().text, o->optimizer);
    return parse_choice("--schedule", "constant, linear, cosine", o->schedule, schedules, &found);
}

int no_device(const Options *o, const char *why)
{
    return usage("--device %s: %s: `brim plan --device cuda --card NAME`", o->device, why);
}

static int check_device(const Options *o, const char *command)
{
    char why[CHECK_DEVICE];
    int plans = !strcmp(command, "plan") || !strcmp(command, "fit") || !strcmp(command, "compare");
    if (o->cards && device_cuda_ordinal(o->device) < 0 && strcmp(command, "fit") != 0)
        return usage(
            "--card %s needs --device cuda: a plan for the CPU is of no card; `brim fit --card %s` says "
            "what fits one",
            o->cards, o->cards);
    if (o->cards && strchr(o->cards, ',') && strcmp(command, "fit") != 0)
        return usage("--card %s: a plan is for one card; `brim fit` takes several", o->cards);
    if (o->no_graphs && device_cuda_ordinal(o->device) < 0)
        return usage("--no-graph needs --device cuda: graphs start the kernels of a card");
    if (plans && device_cuda_ordinal(o->device) >= 0)
        return 0; /* without a card, too; and compare asks the driver in another process */
    int code = device_check(o->device, why, sizeof why);
    if (!code)
        return 0;
    return code == ERROR_STATE ? no_device(o, why) : usage("--device %s: %s", o->device, why);
}

static int check_levers(Options *o)
{
    LeverText why = levers_exclude(o);
    if (!why.text[0])
        why = levers_need(o);
    if (why.text[0])
        return usage("%s", why.text);
    if (o->log && (same_file(o->log, o->data) || same_file(o->log, o->tokenizer) ||
                   same_file(o->log, o->init) || is_of_a_model(o->log, o->source)))
        return usage("--log %s would be written over what is read", o->log);
    if (o->export && (is_read_from(o->init, o->export) || is_read_from(o->described, o->export)))
        return usage(
            "--export %s is where the model is read from, and would destroy it: name another directory",
            o->export);
    if (check_adapters(o))
        return EXIT_USAGE;
    o->export_dtype = o->export_dtype ? o->export_dtype : "fp32";
    if (o->dropout >= 1)
        return usage("--dropout must be below 1");
    if ((int64_t)o->batch * o->accumulate > INT_MAX / data_ranks(o))
        return usage("--batch %d x --accumulate %d%s is %.0f samples a step; at most %d are possible",
                     o->batch, o->accumulate,
                     o->ranks.size > 1 ? lever_say(" x --ranks %d", o->ranks.size).text : "",
                     (double)o->batch * o->accumulate * data_ranks(o), INT_MAX);
    if (o->clip < 0)
        o->clip = o->in_backward ? 0 : 1;
    return 0;
}

enum { PATH_BYTES = 4096 };

/* directory/name where there is such a file; else "". */
static void find_beside(char out[PATH_BYTES], const char *directory, const char *name)
{
    int length = snprintf(out, PATH_BYTES, "%s/%s", directory, name);
    if (length >= PATH_BYTES || access(out, R_OK) != 0)
        out[0] = '\0';
}

/* The directory that --init names, or that its file lies in, where it describes a model; else "". */
static const char *init_directory(const Options *o)
{
    static char directory[PATH_BYTES];
    char config[PATH_BYTES];
    const char *slash = strrchr(o->init, '/');
    int length = is_directory(o->init) ? (int)strlen(o->init) : slash ? (int)(slash - o->init) : 0;
    if (snprintf(directory, sizeof directory, "%.*s", length ? length : 1,
                 length  ? o->init
                 : slash ? "/"
                         : ".") >= PATH_BYTES)
        return "";
    find_beside(config, directory, "config.json");
    return config[0] ? directory : "";
}

/* A model that was asked for, and where it is described. */
typedef struct FoundModel {
    const char *asked;
    IoModel model;
    char directory[PATH_BYTES]; /* "" where it is one that is known by name, or a file alone */
    char tokenizer[PATH_BYTES]; /* beside it; "" = none */
    int described;              /* by files, not known by name */
} FoundModel;

/* Every different one, until the next options_parse. */
static FoundModel models[LIST_MAX + 1];
static int models_found;

/* --init is always a path, --model a name first. */
static int read_model(FoundModel *found, const char *asked, int is_path, int near)
{
    *found = (FoundModel){.asked = asked};
    if (is_path ? io_read_config(asked, &found->model)
        : near  ? io_find_model_near(asked, &found->model)
                : io_find_model(asked, &found->model)) {
        say_error();
        return EXIT_USAGE;
    }
    if (found->model.note[0] && access(asked, F_OK) == 0)
        note("%s: %s", asked, found->model.note);
    else if (found->model.note[0]) /* of a name, which it says itself */
        note("%s", found->model.note);
    if (near && !found->model.approximate.type)
        note("%s is read as it is; --approximate changes nothing", asked);
    found->described = (is_path || !nn_preset(asked)) && access(asked, F_OK) == 0;
    if (is_directory(asked) && found->described)
        snprintf(found->directory, sizeof found->directory, "%s", asked);
    if (found->directory[0])
        find_beside(found->tokenizer, asked, "tokenizer.json");
    return EXIT_DONE;
}

/* By name, from a config.json, or as --init says: o->preset, o->model and what lies beside it. */
static int find_model(Options *o)
{
    if (o->init && access(o->init, F_OK) != 0)
        return usage("--init %s: cannot open: %s", o->init, strerror(errno));
    const char *described = o->init && !o->model ? init_directory(o) : "";
    const char *usual = o->four_ways ? "llama-3.1-8b" : "llama-tiny";
    const char *asked = o->model ? o->model : described[0] ? described : usual;
    if (same_file(o->log, asked))
        return usage("--log %s would be written over what is read", o->log);
    int i = 0;
    while (i < models_found && strcmp(models[i].asked, asked))
        i++;
    if (i == models_found) {
        if (read_model(&models[i], asked, described[0] != '\0', o->approximate))
            return EXIT_USAGE;
        models_found++;
    }
    o->described = models[i].described ? models[i].asked : NULL;
    o->source = models[i].directory[0] ? models[i].directory : NULL;
    o->source_tokenizer = models[i].tokenizer[0] ? models[i].tokenizer : NULL;
    o->not_quantized = models[i].model.not_quantized[0] ? models[i].model.not_quantized : NULL;
    o->files_quantized = models[i].model.quantized;
    if (!o->quantize_typed && (has_adapters(o) || o->inference)) /* what is trained itself is decoded */
        o->quantized = o->files_quantized;
    o->preset = models[i].model.preset;
    o->near = models[i].model.approximate;
    o->model = models[i].model.name;
    if (o->init && models[i].model.positions[0])
        return usage("--init %s: %s", o->init, models[i].model.positions);
    return 0;
}

static int apply_model(Options *o)
{
    const ModelPreset *preset = &o->preset;
    if (find_model(o))
        return EXIT_USAGE;
    int text = reads_text(o), max_seq = nn_preset_max_seq(preset);
    if (!text && o->seq)
        return usage("--seq means nothing to the model '%s', which reads images", o->model);
    if (!text && o->loss_chunk)
        return usage("--loss-chunk cuts the logits of a vocabulary; '%s' has %d classes", o->model,
                     nn_preset_vocab(preset));
    if (!text && o->skip_unlabelled)
        return usage("--skip-unlabelled means nothing to the model '%s': each of its rows has a label",
                     o->model);
    if (!text && (o->vocab || o->tokenizer))
        return usage("--%s means nothing to the model '%s', which reads images",
                     o->vocab ? "vocab" : "tokenizer", o->model);
    if (o->vocab && o->init && o->described && is_read_from(o->init, o->described) &&
        o->vocab != nn_preset_vocab(preset))
        return usage("--vocab %d is not the %d tokens of --init %s; --resize-vocab grows its embeddings",
                     o->vocab, nn_preset_vocab(preset), o->init);
    if (o->dropout > 0 && !nn_family(preset->family)->dropout_at)
        return usage("--dropout means nothing to the model '%s', which has no dropout", o->model);
    if (o->attention != options_default.attention && !nn_family(preset->family)->attention_at)
        return usage("--attention means nothing to the model '%s', which has none", o->model);
    if (o->vocab)
        nn_preset_set_vocab(&o->preset, o->vocab);
    if (o->dropout < 0)
        o->dropout = nn_preset_dropout(preset);
    levers_to_preset(o);
    o->batch = o->batch ? o->batch : o->inference ? 1 : preset->batch;
    o->seq = o->seq || o->generate ? o->seq : preset->seq;
    if (text && o->seq > max_seq)
        return usage("--seq %d is longer than the %d position%s of %s", o->seq, max_seq, plural(max_seq),
                     o->model);
    if (o->generate && !nn_family(preset->family)->writes)
        return usage("'%s' is not a causal language model, so it cannot continue a text; %s models can",
                     o->model, writer_names().text);
    if (o->top_p <= 0 || o->top_p > 1)
        return usage("--top-p must be above 0 and at most 1, not %g", (double)o->top_p);
    if (o->sample && !nn_family(preset->family)->writes)
        return usage("--sample needs a causal language model; '%s' is none", o->model);
    if (o->data && !strcmp(o->data, text ? "fashion-mnist" : "builtin"))
        return usage(text ? "--data fashion-mnist is images; '%s' reads text"
                          : "--data builtin is a text; '%s' reads images",
                     o->model);
    if (!o->data)
        o->data = text ? "builtin" : "fashion-mnist";
    return 0;
}

/* Text that would be read as bytes, where the model has a tokenizer that is not read. */
static int misses_tokenizer(const Options *o, int own_text)
{
    int text = o->generate || (own_text && !is_bin(o->data));
    return text && !o->tokenizer && !o->source_tokenizer && o->source && tokenizer_other_form(o->source);
}

/* Trained weights need the tokenizer that lies in their directory: its ids are what they were trained on. */
static int apply_tokenizer(Options *o)
{
    int own_text = o->data && strcmp(o->data, "builtin") != 0;
    int bytes = o->tokenizer && !strcmp(o->tokenizer, "bytes");
    if (bytes)
        o->tokenizer = o->source_tokenizer = NULL;
    else if (o->tokenizer && !o->generate && !own_text)
        return usage("--tokenizer needs --data FILE: the built-in text is read as bytes");
    else if (!o->tokenizer && own_text && !o->generate && reads_text(o))
        o->tokenizer = o->source_tokenizer;
    if (!bytes && misses_tokenizer(o, own_text))
        return usage(
            "%s has its tokenizer in another form (%s), so its tokens would not be known: write a "
            "tokenizer.json in Python with AutoTokenizer.from_pretrained(…).save_pretrained(…), or give "
            "--tokenizer, or --tokenizer bytes for bytes",
            o->source, tokenizer_other_form(o->source));
    if (o->sample && o->data && is_bin(o->data) && !o->tokenizer)
        return usage("--sample needs --tokenizer to write the text of the ids of %s", o->data);
    return 0;
}

/* The tokenizer's size, or less than 0 after saying why there is none. */
static int64_t tokenizer_size(const Options *o)
{
    const char *path = o->tokenizer ? o->tokenizer : o->source_tokenizer;
    if (!path) {
        usage(
            "--resize-vocab auto takes the size of a tokenizer: name one with --tokenizer, or give a number "
            "instead of auto");
        return -1;
    }
    int scope = tensor_scope_begin();
    const Tokenizer *tokenizer = tokenizer_read(path);
    int64_t size = tokenizer ? tokenizer_vocab(tokenizer) : -1;
    tensor_scope_end(scope);
    if (size < 0)
        say_error();
    return size;
}

/* The vocabulary of trained weights grows; it never shrinks, which would throw tokens away. */
static int apply_resize(Options *o)
{
    int vocab = nn_preset_vocab(&o->preset);
    int64_t size = 0;
    if (!o->resize_vocab)
        return 0;
    if (!reads_text(o))
        return usage("--resize-vocab means nothing to the model '%s', which reads images", o->model);
    if (strcmp(o->resize_vocab, "auto") == 0) {
        if ((size = tokenizer_size(o)) < 0)
            return EXIT_USAGE;
        size = size > vocab ? size : vocab; /* rows without a token are usual */
    } else if (parse_whole("--resize-vocab", o->resize_vocab, 1, 1 << 26, &size))
        return EXIT_USAGE;
    if (size < vocab)
        return usage("--resize-vocab %" PRId64
                     " is less than the %d tokens of %s: embeddings grow, they do not "
                     "shrink",
                     size, vocab, o->model);
    o->grow_vocab = (int)size;
    nn_preset_set_vocab(&o->preset, (int)size);
    return 0;
}

/* Options that make a plan one of something else than a training, and what that depends on. */
static const struct {
    const char *mode, *plans, *takes;
} modes[] = {
    {"--textbook", "prints rules that depend on nothing else", " --textbook --model --batch --seq --json "},
    {"--inference", "plans without training",
     " --inference --model --approximate --card --cards --memory --reserve --init --init-partial --adapter "
     "--resize-vocab "
     "--vocab --batch --seq --prefill --tensor --threads --device --budget --json --weights --quantize "},
    {"--four-ways", "plans four ways of its own", " --four-ways --model --batch --seq --threads --json "},
};

int was_given(const Assignments *all, const char *flag)
{
    for (int i = 0; i < all->count; i++)
        if (!strcmp(all->item[i].flag->name, flag))
            return 1;
    return 0;
}

const char *typed_text(const Assignments *all, const char *flag, const int *which)
{
    for (int i = 0; i < all->count; i++)
        if (!strcmp(all->item[i].flag->name, flag))
            return all->item[i].values[which[i]];
    return NULL;
}

static int check_mode(const Assignments *all)
{
    for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++)
        for (int i = 0; was_given(all, modes[m].mode) && i < all->count; i++) {
            char word[40];
            snprintf(word, sizeof word, " %.36s ", all->item[i].flag->name);
            if (!strstr(modes[m].takes, word))
                return usage("%s means nothing beside %s, which %s", all->item[i].flag->name, modes[m].mode,
                             modes[m].plans);
        }
    return 0;
}

/* The formula of a layer that --textbook adds is that of GPT-2's. */
static int check_textbook(const Options *o, const Assignments *all)
{
    int shape = was_given(all, "--model") || was_given(all, "--batch") || was_given(all, "--seq");
    if (!o->textbook || !shape)
        return 0;
    if (!family_of(o)->gpt_terms)
        return usage("--textbook knows the terms of GPT-2's layer, not of %s's; `brim plan %s` compares the "
                     "rules with its plan",
                     o->model, o->model);
    return o->json ? usage("--textbook --json prints the rules, which depend on no model: leave out --model, "
                           "--batch and --seq")
                   : 0;
}

/* A name that is known goes before a folder of that name. */
static int follow_model(Options *o)
{
    return o->model && !nn_preset(o->model) ? follow_cache(&o->model) : 0;
}

/* A job of PyTorch has its own rules of what goes together. */
static int combine_pytorch(Options *o, const Assignments *all)
{
    int status = pytorch_check(o, all);
    if (!status && (follow_cache(&o->tokenizer) || follow_model(o)))
        status = EXIT_USAGE;
    if (!status)
        status = apply_model(o);
    if (!status)
        status = apply_tokenizer(o);
    if (!status)
        status = check_data_options(o);
    if (!status)
        status = apply_classes(o, 0);
    if (!status)
        status = check_pairs_options(o);
    if (!status)
        status = pytorch_measure(o, was_given(all, "--seq"), was_given(all, "--data"));
    if (!status)
        status = check_adapters(o);
    if (o->clip < 0)
        o->clip = 1;
    return status ? status : check_steps(o, 0);
}

/* One combination: of the k-th list, value which[k]. Its label names what the lists vary. */
static int combine(Options *o, const char *command, const Assignments *all, const int *which)
{
    *o = options_default;
    o->inference = o->generate = !strcmp(command, "generate");
    size_t used = 0;
    for (int i = 0; i < all->count; i++) {
        const Assignment *a = &all->item[i];
        int status = assign(o, a, which[i]);
        if (status)
            return status;
        if (a->count > 1 && used < sizeof o->label)
            used += (size_t)snprintf(o->label + used, sizeof o->label - used, "%s%s %s", used ? " " : "",
                                     a->flag->name, a->values[which[i]]);
    }
    o->quantize_typed = was_given(all, "--quantize");
    o->precision_typed = was_given(all, "--precision");
    o->dropout_typed = was_given(all, "--dropout");
    o->weights_typed = was_given(all, "--weights");
    o->reserve_typed = was_given(all, "--reserve");
    o->attention_typed = typed_text(all, "--attention", which);
    o->parallel_typed = typed_text(all, "--parallel", which);
    if (pytorch_framework(o))
        return combine_pytorch(o, all);
    if (pytorch_alone(o, command))
        return EXIT_USAGE;
    o->ranks_typed = was_given(all, "--ranks");
    if (o->ranks_typed && o->ranks.size == 1) { /* one of a list */
        o->ranks.strategy = RANKS_DDP;
        o->ranks.tensor = o->ranks.replicas = 1;
        o->ranks.replicate_below = 0;
        o->ranks.sequence = 0;
    }
    if (was_given(all, "--tensor") &&
        o->ranks.tensor < 2) /* one of a list: no ranks that rows could be divided among */
        o->ranks.sequence = 0;
    if (o->inference && !o->ranks_typed && strcmp(command, "fit") != 0)
        o->ranks.size = o->ranks.tensor; /* each layer by all of them, and no samples to divide */
    int status = check_mode(all);
    if (!status)
        status = check_ranks(o, command);
    if (!status)
        status = check_names(o);
    if (!status)
        status = check_export_dtype(o);
    if (!status)
        status = check_device(o, command);
    if (!status && (follow_cache(&o->init) || follow_cache(&o->tokenizer) || follow_model(o)))
        status = EXIT_USAGE;
    if (!status)
        status = apply_model(o);
    if (!status)
        status = apply_tokenizer(o);
    if (!status)
        status = apply_resize(o);
    if (!status)
        status = check_data_options(o);
    if (!status)
        status = apply_classes(o, !strcmp(command, "train") || o->run_steps > 0);
    if (!status)
        status = check_pairs_options(o);
    if (!status)
        status = read_prompt(o);
    if (!status)
        status = check_levers(o);
    if (!status)
        status = check_textbook(o, all);
    if (!status && o->prompt && !o->sample && !o->generate && strcmp(command, "demo") != 0)
        status = usage("--prompt needs --sample N: the tokens to write behind it");
    if (!status)
        status = check_steps(o, was_given(all, "--steps"));
    return status;
}

int options_parse(Options *sets, int max, const char *command, int argc, char **argv)
{
    static Assignments all;
    int which[ASSIGNMENTS_MAX] = {0}, count = 0;
    models_found = 0;
    if (assignments_parse(&all, command, argc, argv, max > 1))
        return -1;
    for (;;) {
        if (count == max) {
            usage("the lists have more than %d combinations", max);
            return -1;
        }
        if (combine(&sets[count++], command, &all, which))
            return -1;
        int i = all.count - 1; /* the last list varies fastest */
        while (i >= 0 && ++which[i] == all.item[i].count)
            which[i--] = 0;
        if (i < 0)
            return count;
    }
}
