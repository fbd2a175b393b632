/* The training script behind train, plan and compare: one function, run on meta to plan and for real to
 * train. On meta it runs one of each kind of step instead of all of them. */
#include <string.h>

#include "../base/clock_.h"
#include "../base/plural_.h"
#include "input_.h"
#include "levers_.h"
#include "lora.h"
#include "precision.h"
#include "several.h"

typedef struct Session {
    Training *training;
    const Options *options;
    Tokenizer *tokenizer; /* NULL: bytes, or a .bin without one, or a plan that knows what it would say */
    TokenOptions tokens;  /* of the tokenizer and its text: vocabulary, special ids, count */
    Loader *train, *held_out;
    Module *model;
    Optimizer *optimizer;
    int64_t first, steps, steps_per_epoch; /* first: 0, or where a saved run stopped */
    int meta, short_step_planned;
} Session;

enum { EVALUATION_BATCHES = 32 };
/* The built-in corpus is as long as usual, or as a step of large batches needs to be full. */
enum { CORPUS_MIN = 1 << 20 };

/* ---- Making ---------------------------------------------------------------------------------- */

/* What one tokenizer says of one text, so that only the first of many plans has to ask. */
typedef struct KnownTokens {
    const char *data, *tokenizer;
    TokenOptions tokens;
} KnownTokens;
static KnownTokens known;

static int uses_tokens(const Options *o)
{
    return reads_text(o) && (o->tokenizer || is_bin(o->data));
}

static int32_t special_id(const Tokenizer *t, const char *name, const char *other)
{
    int32_t id = tokenizer_id(t, name);
    id = id < 0 ? tokenizer_id(t, other) : id;
    return id < 0 ? 0 : id;
}

static int open_tokenizer(Session *s)
{
    const Options *o = s->options;
    s->tokens.vocab = nn_preset_vocab(&o->preset); /* of a .bin alone */
    if (!o->tokenizer)
        return ERROR_NONE;
    if (s->meta && known.data && !strcmp(known.data, o->data) && !strcmp(known.tokenizer, o->tokenizer)) {
        s->tokens = known.tokens;
        return ERROR_NONE;
    }
    if (!(s->tokenizer = tokenizer_read(o->tokenizer)))
        return error_code();
    s->tokens.vocab = tokenizer_vocab(s->tokenizer);
    if (is_bin(o->data)) {
        s->tokens.cls = special_id(s->tokenizer, "[CLS]", "<s>");
        s->tokens.sep = special_id(s->tokenizer, "[SEP]", "</s>");
        s->tokens.mask = special_id(s->tokenizer, "[MASK]", "<mask>");
    }
    return ERROR_NONE;
}

/* Of the tokens, how many a masked model has to find. */
static float mask_probability(const Options *o)
{
    return nn_preset_objective(&o->preset) == OBJECTIVE_MASKED ? 0.15f : 0;
}

/* Of JSON lines. What a pipe or a packed file holds was not known when the options were read. */
static Loader *open_samples(Session *s, DataSplit split, int accumulate, int64_t max_samples)
{
    LeverText why = pairs_problem(s->options);
    if (why.text[0])
        error_raise(ERROR_DATA, "%s", why.text);
    return error_code() ? NULL : open_pairs(s->options, s->tokenizer, split, accumulate, max_samples);
}

/* As bytes are opened below. A plan that knows how many tokens there are does not look at the text. */
static Loader *open_tokens(Session *s, DataSplit split, int accumulate, int64_t max_samples)
{
    const Options *o = s->options;
    TokenOptions t = s->tokens;
    t.batch = o->batch;
    t.seq = o->seq;
    t.accumulate = accumulate;
    t.seed = o->seed;
    t.split = split;
    t.mask_probability = mask_probability(o);
    t.max_samples = max_samples;
    t.tokenizer = is_bin(o->data) ? NULL : s->tokenizer;
    t.replace_invalid = replaces_invalid(o);
    t.input = is_bin(o->data) ? NULL : input_of(o);
    return error_code() ? NULL : data_tokens(o->data, &t);
}

static void remember_tokens(Session *s)
{
    const Options *o = s->options;
    if (!s->tokenizer || is_bin(o->data))
        return;
    s->tokens.tokens = data_token_count(s->train);
    if (nn_preset_objective(&o->preset) == OBJECTIVE_MASKED) {
        s->tokens.cls = special_id(s->tokenizer, "[CLS]", "<s>");
        s->tokens.sep = special_id(s->tokenizer, "[SEP]", "</s>");
        s->tokens.mask = special_id(s->tokenizer, "[MASK]", "<mask>");
    }
    known = (KnownTokens){o->data, o->tokenizer, s->tokens};
}

static Loader *open_loader(Session *s, DataSplit split)
{
    const Options *o = s->options;
    int held_out = split == DATA_HELD_OUT;
    int accumulate = held_out ? 1 : o->accumulate;
    if (!reads_text(o))
        return data_images(o->data, &(ImageOptions){.batch = o->batch,
                                                    .accumulate = accumulate,
                                                    .seed = o->seed,
                                                    .split = split,
                                                    .max_samples = o->max_samples});
    int64_t some = (int64_t)EVALUATION_BATCHES * o->batch;
    if (o->max_samples && o->max_samples < some)
        some = o->max_samples;
    if (is_classifier(o)) /* all that a table holds out is looked at */
        return open_csv(o, s->tokenizer, split, accumulate, held_out && !is_csv(o) ? some : o->max_samples);
    if (o->pack || is_pairs(o))
        return open_samples(s, split, accumulate, held_out ? some : o->max_samples);
    if (uses_tokens(o))
        return open_tokens(s, split, accumulate, held_out ? some : o->max_samples);
    int64_t step_bytes = step_samples(o) * o->seq;
    const TextInput *input = input_of(o);
    if (error_code())
        return NULL;
    return data_text(
        o->data, &(TextOptions){.batch = o->batch,
                                .seq = o->seq,
                                .accumulate = accumulate,
                                .seed = o->seed,
                                .split = split,
                                .mask_probability = mask_probability(o),
                                .input = input,
                                .max_samples = held_out ? some : o->max_samples,
                                .corpus_bytes = step_bytes > CORPUS_MIN / 2 ? 2 * step_bytes : CORPUS_MIN});
}

static Optimizer *make_optimizer(const Options *o, Module *model, int64_t steps)
{
    float lr = learning_rate(o);
    float decay = o->weight_decay > 0    ? o->weight_decay
                  : o->weight_decay == 0 ? -1
                                         : 0; /* optim: 0 = default, -1 = none */
    Optimizer *optimizer = optim_by_name(o->optimizer, nn_parameters(model), lr, decay);
    int64_t warmup = o->warmup >= 0 ? o->warmup : steps / 20;
    Schedule schedule = {.kind = !strcmp(o->schedule, "cosine")   ? SCHEDULE_COSINE
                                 : !strcmp(o->schedule, "linear") ? SCHEDULE_LINEAR
                                                                  : SCHEDULE_CONSTANT,
                         .warmup = warmup < steps ? warmup : steps,
                         .total = steps ? steps : 1, /* of a run that only exports */
                         .min_ratio = 0.1f};
    if (optimizer) {
        optim_set_lr(optimizer, lr); /* also when it is 0 */
        optim_set_schedule(optimizer, &schedule);
        levers_to_optimizer(o, optimizer);
    }
    return optimizer;
}

/* Which model of the same family would know so many tokens. */
static const char *larger_model(const ModelPreset *preset, int64_t tokens)
{
    for (int i = 0; nn_preset_at(i); i++) {
        const ModelPreset *other = nn_preset_at(i);
        if (other->family == preset->family && nn_preset_vocab(other) >= tokens &&
            strncmp(other->name, "bench-", 6) != 0)
            return other->name;
    }
    return NULL;
}

static int check_tokenizer(const Session *s)
{
    const Options *o = s->options;
    int64_t vocab = nn_preset_vocab(&o->preset);
    if (s->tokens.vocab <= vocab)
        return ERROR_NONE;
    if (o->init)
        return error_raise(ERROR_DATA,
                           "%s has %lld tokens, the model %s only %lld: add --resize-vocab auto, and its "
                           "embeddings get rows for them",
                           o->tokenizer, (long long)s->tokens.vocab, o->model, (long long)vocab);
    const char *larger = larger_model(&o->preset, s->tokens.vocab);
    return error_raise(
        ERROR_DATA, "%s has %lld tokens, the model %s only %lld: --vocab %lld makes the model as large%s%s%s",
        o->tokenizer, (long long)s->tokens.vocab, o->model, (long long)vocab, (long long)s->tokens.vocab,
        larger ? ", or --model " : "", larger ? larger : "", larger ? " has room for them" : "");
}

static int check_data(const Session *s)
{
    const ModelPreset *preset = &s->options->preset;
    int64_t classes = data_classes(s->train), vocab = nn_preset_vocab(preset);
    if (uses_tokens(s->options) || is_classifier(s->options))
        return ERROR_NONE; /* check_tokenizer has looked; of a .bin alone the model's own vocabulary was
                              assumed */
    if (classes > vocab)
        return error_raise(ERROR_DATA, "%s has %lld %s, the model %s only %lld", s->options->data,
                           (long long)classes, reads_text(s->options) ? "tokens" : "classes",
                           s->options->model, (long long)vocab);
    int inputs = nn_preset_sizes(preset).inputs;
    if (inputs && data_width(s->train) != inputs)
        return error_raise(ERROR_DATA, "%s has samples of %lld value%s, the model %s reads %d",
                           s->options->data, (long long)data_width(s->train), plural(data_width(s->train)),
                           s->options->model, inputs);
    return 0;
}

int load_initial(const Options *o, Module *model)
{
    WeightsReport report = {0};
    if (!o->init || !model)
        return error_code();
    const WeightsOptions how = {.partial = o->init_partial, .grow_vocab = o->grow_vocab};
    int status = io_load_weights(model, o->init, &how, &report);
    if (!status && !context_is_meta(context_current()) && report.note[0])
        note("%s: %s", o->init, report.note);
    return status;
}

static WeightsSaving export_options(const Options *o)
{
    SafetensorsType type = !strcmp(o->export_dtype, "fp16")   ? SAFETENSORS_F16
                           : !strcmp(o->export_dtype, "bf16") ? SAFETENSORS_BF16
                                                              : SAFETENSORS_F32;
    return (WeightsSaving){.type = type,
                           .shard = o->export_shard,
                           .source = o->source,
                           .tokenizer = o->tokenizer != o->source_tokenizer ? o->tokenizer : NULL,
                           .labels = csv_label_names(o),
                           .overwrite = o->overwrite};
}

static void size_export(Session *s, const WeightsSaving *how)
{
    const Options *o = s->options;
    if (o->export && io_check_export(s->model, &o->preset, o->export, how) == 0)
        s->training->export_size = io_weights_size(s->model, how->type, how->shard);
}

static void size_outputs(Session *s)
{
    const Options *o = s->options;
    const WeightsSaving how = export_options(o);
    if (o->save)
        s->training->save_size = io_saved_run_size(s->model, s->optimizer);
    if (o->export_adapter) {
        const AdapterSaving adapter = adapter_saving(o);
        io_check_adapter(s->model, o->export_adapter, &adapter);
    }
    if (!o->merge)
        size_export(s, &how);
}

static int session_open(Session *s)
{
    const Options *o = s->options;
    s->meta = context_is_meta(context_current());
    if (train_log_begin(s->training->log))
        return error_code();
    if (uses_tokens(o) && (open_tokenizer(s) || check_tokenizer(s)))
        return error_code();
    if (o->check_data && check_all_ids(o, s->tokens.vocab))
        return error_code();
    s->train = open_loader(s, DATA_TRAIN);
    s->held_out = s->train ? open_loader(s, DATA_HELD_OUT) : NULL;
    if (s->held_out)
        remember_tokens(s);
    if (!s->held_out || check_data(s))
        return error_code();
    say_data_note(o, s->train);
    s->steps_per_epoch = data_steps_per_epoch(s->train);
    s->steps = o->epochs ? o->epochs * s->steps_per_epoch : o->steps;
    store_weights(o);
    set_precision(o);
    s->model = nn_model(&o->preset);
    /* A run that is resumed brings its weights; but of adapters not those of their base. */
    int goes_on = saving_resumes(s->training->saving) && !has_adapters(o);
    if ((!goes_on && load_initial(o, s->model)) ||
        (o->export && !s->meta && speaks_alone() && io_check_directory(o->export)) ||
        (o->export_adapter && !s->meta && speaks_alone() && io_check_directory(o->export_adapter)))
        return error_code();
    s->training->parameters = nn_parameter_count(s->model); /* without adapters */
    int64_t active = nn_active_count(s->model);
    levers_to_model(o, s->model);
    s->optimizer = make_optimizer(o, s->model, s->steps);
    s->first = saving_load(s->training->saving,
                           &(SavedRun){.model = s->model, .optimizer = s->optimizer, .loader = s->train});
    s->training->first = s->first;
    if (!error_code())
        s->training->bracket = bracket_of(o, s->model, s->optimizer);
    s->training->bracket.active = active;
    s->training->samples = data_samples(s->train);
    s->training->blocks = nn_block_count(s->model);
    s->training->steps = s->steps;
    if (s->meta && !error_code())
        size_outputs(s);
    return error_code();
}

/* ---- Validation ------------------------------------------------------------------------------ */

/* As nn_loss, counting on the way. */
static Tensor *class_loss(Module *model, const Batch *b, int64_t *right)
{
    Tensor *logits = nn_forward(model, NULL, b);
    *right += tensor_count_correct(logits, b->labels);
    return tensor_cross_entropy(tensor_donate(logits), b->labels, BATCH_IGNORE,
                                1.0f / (float)b->labels_total);
}

static void evaluate(Session *s, int64_t step)
{
    double start = clock_now();
    double loss = 0;
    int64_t labels = 0, right = 0, samples = 0;
    /* Of a model in stages only the last one has logits; the loss they all have. */
    int classify =
        nn_preset_objective(&s->options->preset) == OBJECTIVE_CLASSIFICATION && s->options->ranks.stages == 1;
    tensor_no_grad_begin();
    nn_eval(s->model);
    data_seek(s->held_out, (DataCursor){.seed = s->options->seed});
    int64_t batches = data_steps_per_epoch(s->held_out);
    for (int64_t i = 0; i < batches && !error_code() && !saving_stopped(s->training->saving); i++)
        for (const Batch *b; (b = data_next(s->held_out));) {
            int scope = tensor_scope_begin();
            Tensor *mean = classify ? class_loss(s->model, b, &right) : nn_loss(s->model, b);
            loss += tensor_item(mean) * (double)b->labels_total;
            labels += b->labels_total;
            samples += tensor_dim(b->labels, 0);
            tensor_scope_end(scope);
        }
    nn_train(s->model);
    tensor_no_grad_end();
    double seconds = clock_now() - start;
    s->training->validation_seconds += s->meta ? 0 : seconds;
    s->training->validation_samples = 0;
    if (saving_stopped(s->training->saving)) /* not all was seen: no result */
        return;
    s->training->validation_loss = labels ? loss / (double)labels : 0;
    s->training->accuracy = classify && samples ? (double)right / (double)samples : -1;
    s->training->validation_samples = samples;
    train_log_validation(s->training->log, &(RunLogValidation){.step = step,
                                                               .loss = s->training->validation_loss,
                                                               .accuracy = s->training->accuracy,
                                                               .seconds = seconds});
}

/* ---- Writing a sample ------------------------------------------------------------------------ */

enum { PROMPT_MAX = 1024, SAMPLE_MAX = 160 };

typedef struct Sample {
    int32_t ids[SAMPLE_MAX];
    int count;
    int64_t most;         /* ids from here on are no tokens of the text */
    const Saving *saving; /* a signal ends the writing too */
} Sample;

static int add_token(void *user, const int32_t *tokens, int batch)
{
    Sample *sample = user;
    (void)batch;
    if (tokens[0] < sample->most)
        sample->ids[sample->count++] = tokens[0];
    return sample->count == SAMPLE_MAX || saving_stopped(sample->saving);
}

/* The prompt's tokens, the last PROMPT_MAX of them; at least one. */
static int prompt_ids(Session *s, int32_t *ids)
{
    const char *prompt = s->options->prompt ? s->options->prompt : "The ";
    size_t length = strlen(prompt), from = 0;
    TokenIds all = {0};
    ids[0] = ' ';
    if (s->tokenizer && !tokenizer_encode(s->tokenizer, prompt, length, 0, &all)) {
        ids[0] = 0;
        length = all.count;
    }
    from = length > PROMPT_MAX ? length - PROMPT_MAX : 0;
    for (size_t i = from; i < length; i++)
        ids[i - from] = s->tokenizer ? all.ids[i] : (unsigned char)prompt[i];
    tokenizer_ids_free(s->tokenizer, &all);
    return length ? (int)(length - from) : 1;
}

/* What was written as text for a table: printable, and cut at a character's end. */
static void keep_generated(Session *s, const int32_t *ids, int count)
{
    char *out = s->training->generated;
    size_t size = sizeof s->training->generated, n = 0;
    TokenText text = {0};
    if (s->tokenizer && !tokenizer_decode(s->tokenizer, ids, (size_t)count, 1, &text)) {
        for (; n < text.bytes && n + 1 < size; n++)
            out[n] = (char)((unsigned char)text.text[n] < ' ' || text.text[n] == 127 ? ' ' : text.text[n]);
        while (n < text.bytes && n > 0 && ((unsigned char)text.text[n] & 0xC0) == 0x80)
            n--;
    }
    for (; !s->tokenizer && n < (size_t)count && n + 1 < size; n++)
        out[n] = (char)(ids[n] >= ' ' && ids[n] < 127 ? ids[n] : ' ');
    out[n] = '\0';
    tokenizer_text_free(s->tokenizer, &text);
}

/* A prompt that is longer than the trained window loses its beginning. */
static void generate(Session *s)
{
    const Options *o = s->options;
    int32_t ids[PROMPT_MAX];
    int count = prompt_ids(s, ids), window = o->seq < count ? o->seq : count;
    Sample sample = {.most = s->tokenizer ? tokenizer_vocab(s->tokenizer) : 256,
                     .saving = s->training->saving};
    nn_generate(s->model, &(GenerateOptions){.prompt = ids + count - window,
                                             .prompt_tokens = window,
                                             .tokens = o->sample,
                                             .context = o->seq,
                                             .sample = {.temperature = 0.6f, .seed = o->seed},
                                             .written = add_token,
                                             .user = &sample});
    if (!s->meta && !error_code())
        keep_generated(s, sample.ids, sample.count);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* optim_step. Where the loss is scaled it may change nothing but the scale. */
static void update(Session *s, RunLogStep *line)
{
    if (scales_loss(s->options))
        line->loss_scale = (double)optim_loss_scale(s->optimizer);
    saving_ask();
    optim_step(s->optimizer);
    saving_hear();
    line->skipped = !error_code() && optim_step_skipped(s->optimizer);
    s->training->skipped += line->skipped;
    if (line->skipped)
        brim_say("step %4lld  skipped: a gradient overflows with a loss scale of %.9g; the next is %.9g",
                 (long long)line->step, line->loss_scale, (double)optim_loss_scale(s->optimizer));
}

static void train_step(Session *s, int64_t step)
{
    double start = clock_now();
    int scope = tensor_scope_begin();
    for (const Batch *b; (b = data_next(s->train));)
        nn_backward(s->model, b);
    int64_t tokens = data_step_tokens(s->train);
    int ranks = has_ranks(s->options); /* whose loss is known behind the update */
    if (!ranks)
        brim_step(tokens);
    RunLogStep line = {
        .step = step + 1, .loss = tensor_step_loss(), .lr = (double)optim_lr(s->optimizer), .tokens = tokens};
    update(s, &line);
    if (ranks) {
        brim_step(tokens);
        line.loss = tensor_step_loss();
    }
    if (s->options->keep_gradients)
        optim_zero_grad_keep(s->optimizer);
    else
        optim_zero_grad(s->optimizer);
    tensor_scope_end(scope);
    line.seconds = clock_now() - start;
    if (!s->meta)
        s->training->step_seconds += line.seconds;
    train_log_step(s->training->log, &line);
}

/* On meta, after two ordinary steps only the epoch's short one is of another kind. */
static int64_t next_step(Session *s, int64_t step)
{
    if (!s->meta || step < s->first + 2 || s->short_step_planned)
        return s->meta && step >= s->first + 2 ? s->steps : step;
    s->short_step_planned = 1;
    int64_t in_epoch = s->steps_per_epoch - 1, last = s->first + in_epoch - s->first % s->steps_per_epoch;
    if (last < step || last >= s->steps)
        return s->steps;
    DataCursor cursor = data_cursor(s->train);
    cursor.epoch = last / s->steps_per_epoch;
    cursor.position = in_epoch * step_samples(s->options);
    cursor.step = last;
    data_seek(s->train, cursor);
    return last;
}

static void say_validation(const Session *s, int64_t step)
{
    char accuracy[32] = "";
    if (s->training->accuracy >= 0)
        snprintf(accuracy, sizeof accuracy, "  accuracy %.2f %%", 100 * s->training->accuracy);
    brim_say("step %4lld  validation loss %.4f%s", (long long)step + 1, s->training->validation_loss,
             accuracy);
}

static void evaluate_if_due(Session *s, int64_t step)
{
    const Options *o = s->options;
    int due = o->evaluate_every ? (step + 1) % o->evaluate_every == 0
                                : o->epochs && (step + 1) % s->steps_per_epoch == 0;
    if (!due || step + 1 >= s->steps || s->meta || error_code() || saving_stopped(s->training->saving))
        return;
    evaluate(s, step + 1);
    if (!error_code() && !saving_stopped(s->training->saving))
        say_validation(s, step);
}

static void train_all(Session *s)
{
    Saving *saving = s->training->saving;
    SavedRun run = {.model = s->model, .optimizer = s->optimizer, .loader = s->train};
    for (int64_t step = s->first; (step = next_step(s, step)) < s->steps && !error_code(); step++) {
        train_step(s, step);
        saving_step(saving, &run, s->steps);
        evaluate_if_due(s, step);
        if (saving_stopped(saving))
            break;
    }
    saving_end(saving, &run);
}

/* Like the last save: what fails is said, and the tables are printed all the same. */
static void export_weights(const Session *s)
{
    const Options *o = s->options;
    const WeightsSaving how = export_options(o);
    io_save_weights(s->model, &o->preset, o->export, &how);
    s->training->exported = error_code() ? -1 : 1;
    if (error_code() && speaks_alone())
        fprintf(stderr, "brim: the weights are not exported: %s\n", error_message());
    error_clear();
}

static void export_adapter(const Session *s)
{
    const Options *o = s->options;
    const AdapterSaving how = adapter_saving(o);
    io_save_adapter(s->model, o->export_adapter, &how);
    s->training->adapter_exported = error_code() ? -1 : 1;
    if (error_code() && speaks_alone())
        fprintf(stderr, "brim: the adapter is not exported: %s\n", error_message());
    error_clear();
}

/* On meta too: from here on there are no adapters. */
static void merge_adapters(Session *s)
{
    const WeightsSaving how = export_options(s->options);
    nn_merge(s->model, DTYPE_F32);
    if (s->meta && !error_code())
        size_export(s, &how);
}

int training_script(void *config)
{
    Session s = {.training = config, .options = ((Training *)config)->options};
    s.training->accuracy = -1;
    s.training->skipped = 0;
    s.training->validation_samples = 0;
    session_open(&s);
    const Options *o = s.options;
    train_all(&s);
    if (error_code() || saving_stopped(s.training->saving))
        return error_code();
    if (o->export_adapter && !s.meta)
        export_adapter(&s);
    if (o->merge)
        merge_adapters(&s);
    if (o->export && !s.meta && !error_code())
        export_weights(&s);
    evaluate(&s, s.steps);
    if (o->sample && !error_code())
        generate(&s);
    return error_code();
}
