/* What the tests of planning share: a small training script over the four families, the record of every event
 * of a run, and comparisons of two records and of two books. */
#ifndef TEST_PLAN_SUPPORT_H
#define TEST_PLAN_SUPPORT_H

#include "../data/data.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "../tensor/tensor_.h"
#include "support.h"

/* ---- Every event of a run -------------------------------------------------------------------- */

typedef struct Seen {
    MemEvent event;
    char path[64]; /* places are compared by name: ids are given in order of first use */
} Seen;

enum { SEEN_MAX = 1 << 16 };

typedef struct EventRecord {
    Seen seen[SEEN_MAX];
    size_t count, lost; /* lost: did not fit, or had a longer place */
    const MemTracker *tracker;
} EventRecord;

static inline void record_events(void *user, const MemEvent *events, size_t count)
{
    EventRecord *record = user;
    for (size_t i = 0; i < count; i++) {
        const char *path = memtrack_path_name(record->tracker, events[i].where.path);
        if (record->count == SEEN_MAX || strlen(path) >= sizeof record->seen[0].path) {
            record->lost++;
            continue;
        }
        Seen *seen = &record->seen[record->count++];
        seen->event = events[i];
        strcpy(seen->path, path);
    }
}

/* From here to the end of the current context. */
static inline void record_start(EventRecord *record)
{
    Context *context = context_current();
    record->count = record->lost = 0;
    record->tracker = context_tracker(context);
    memtrack_log_start(context_ledger(context), 512, record_events, record);
}

static inline const char *event_text(const Seen *seen, char text[256])
{
    static const char *const kinds[] = {"alloc", "free", "retag"};
    const MemEvent *e = &seen->event;
    snprintf(text, 256,
             "%s #%llu %s (from %s) %llu bytes (%llu asked) at %llu, live %llu; '%s' %s, %s, step %lld",
             kinds[e->kind], (unsigned long long)e->serial, memtrack_component_name(e->component),
             memtrack_component_name(e->from), (unsigned long long)e->bytes, (unsigned long long)e->requested,
             (unsigned long long)e->offset, (unsigned long long)e->live, seen->path,
             e->where.op ? e->where.op : "-", memtrack_phase_name(e->where.phase), (long long)e->where.step);
    return text;
}

static inline int same_text(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static inline int same_event(const Seen *a, const Seen *b)
{
    const MemEvent *x = &a->event, *y = &b->event;
    return x->kind == y->kind && x->component == y->component && x->from == y->from &&
           x->serial == y->serial && x->offset == y->offset && x->bytes == y->bytes &&
           x->requested == y->requested && x->live == y->live && x->where.step == y->where.step &&
           x->where.phase == y->where.phase && same_text(x->where.op, y->where.op) &&
           !strcmp(a->path, b->path);
}

/* Fails, naming `what` and the first event that differs. */
static inline void assert_same_events(const char *what, const EventRecord *planned, const EventRecord *run)
{
    char a[256], b[256];
    if (planned->lost || run->lost || planned->count == 0)
        fail_msg("%s: %zu events recorded, %zu and %zu lost", what, planned->count, planned->lost, run->lost);
    for (size_t i = 0; i < planned->count && i < run->count; i++)
        if (!same_event(&planned->seen[i], &run->seen[i]))
            fail_msg("%s: event %zu of %zu\n  planned %s\n  run     %s", what, i, planned->count,
                     event_text(&planned->seen[i], a), event_text(&run->seen[i], b));
    if (planned->count != run->count)
        fail_msg("%s: %zu events planned, %zu in the run", what, planned->count, run->count);
}

/* ---- Books ----------------------------------------------------------------------------------- */

/* The first word that differs, or NULL. */
static inline const char *books_differ(const MemSummary *a, const MemSummary *b)
{
    const MemStats *x = &a->stats, *y = &b->stats;
    if (x->peak != y->peak || x->needs != y->needs || x->live != y->live)
        return "peak, needs or live";
    if (memcmp(x->live_by, y->live_by, sizeof x->live_by) ||
        memcmp(x->at_peak, y->at_peak, sizeof x->at_peak) ||
        memcmp(x->own_peak, y->own_peak, sizeof x->own_peak))
        return "bytes by component";
    if (x->allocations != y->allocations || x->frees != y->frees || x->retags != y->retags)
        return "counts";
    if (x->event_hash != y->event_hash)
        return "hash of the events";
    if (x->peak_at.step != y->peak_at.step || x->peak_at.phase != y->peak_at.phase ||
        strcmp(a->peak_path, b->peak_path) || strcmp(a->peak_op, b->peak_op))
        return "where the peak was";
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        if (x->own_peak_at[i].step != y->own_peak_at[i].step ||
            x->own_peak_at[i].phase != y->own_peak_at[i].phase)
            return "where a component's peak was";
    return NULL;
}

static inline uint64_t sum_by_component(const uint64_t by[MEM_COMPONENT_COUNT])
{
    uint64_t sum = 0;
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        sum += by[i];
    return sum;
}

/* ---- A small training ------------------------------------------------------------------------ */

typedef struct Case {
    ModelFamily family;
    AttentionKind attention;
    int checkpoint, accumulate;
    const char *optimizer;
    float dropout;
    int epochs, layers;                 /* 0 = 2 */
    int in_backward, keep_zeros, chunk; /* chunk: rows of the loss head; ignored by mlp */
    int every;                          /* segments of so many blocks; 0 = none */
    int selective;
    int samples;      /* 0 = CASE_SAMPLES */
    const char *lora; /* targets; NULL = no adapters */
    Weights weights;
    const char *precision; /* NULL = fp32 */
    int grad32;            /* 16-bit weights have f32 gradients */
    int skip;              /* rows without a label; ignored by mlp */
    int vocab;             /* 0 = one for bytes */
    float balance;         /* of the loss that balances experts */
} Case;

enum {
    CASE_BATCH = 3,
    CASE_SAMPLES = 13,
    CASE_HELD_OUT = 4,
    CASE_SEQ = 10,
    CASE_WIDTH = 20,
    CASE_CLASSES = 7,
    CASE_PARAMETERS = 1 << 15
};

typedef struct Session {
    Case c;
    EventRecord *planned, *run; /* NULL: not recorded */
    EventRecord
        *packed; /* of a second dry run, which the plan follows only if it needs less; NULL: in planned */
    void (*in_step)(void *user, int64_t step); /* before each micro-batch; NULL: nothing */
    void *user;
    int calls; /* of the script */
    /* Left behind by a real run: */
    int64_t steps, parameter_count;
    float parameters[CASE_PARAMETERS];
    double loss, validation_loss;
} Session;

static inline const char *case_text(const Case *c, char text[128])
{
    snprintf(text, 128, "%s %s %s %s%s every %d%s accumulate %d %s%s%s%s chunk %d%s%s%s",
             nn_family(c->family)->name, dtype_name(c->weights.dtype),
             c->weights.quantized ? dtype_name(c->weights.quantized) : "",
             c->attention == ATTENTION_EAGER ? "eager" : "flash", c->checkpoint ? " checkpoint" : "",
             c->every, c->selective ? " selective" : "", c->accumulate, c->optimizer,
             c->dropout > 0 ? " dropout" : "", c->in_backward ? " fused" : "",
             c->keep_zeros ? " keep zeros" : "", c->chunk, c->skip ? " skip" : "", c->lora ? " lora " : "",
             c->lora ? c->lora : "");
    return text;
}

static inline int case_samples(const Case *c, int held_out)
{
    return held_out ? CASE_HELD_OUT : c->samples ? c->samples : CASE_SAMPLES;
}

static inline Loader *case_table(const Case *c, int held_out)
{
    float features[CASE_SAMPLES * CASE_WIDTH];
    int32_t labels[CASE_SAMPLES];
    int count = case_samples(c, held_out);
    fill_values(features, (int64_t)count * CASE_WIDTH, 11 + (uint32_t)held_out, 1, 0);
    for (int i = 0; i < count; i++)
        labels[i] = (int)(hash32((uint32_t)i) %
                          CASE_CLASSES); /* no BATCH_IGNORE: a step of one sample needs its label */
    return data_table(&(TableOptions){.features = features,
                                      .labels = labels,
                                      .count = count,
                                      .width = CASE_WIDTH,
                                      .batch = CASE_BATCH,
                                      .accumulate = held_out ? 1 : c->accumulate,
                                      .seed = 5});
}

/* 13 samples in batches of 3: the last of an epoch is of one sample; with accumulate 3 the last step has two
 * micro-batches. */
static inline Loader *case_loader(const Case *c, int held_out)
{
    if (c->family == MODEL_MLP)
        return case_table(c, held_out);
    return data_text("builtin", &(TextOptions){.batch = CASE_BATCH,
                                               .seq = CASE_SEQ,
                                               .accumulate = held_out ? 1 : c->accumulate,
                                               .seed = 5,
                                               .split = held_out ? DATA_HELD_OUT : DATA_TRAIN,
                                               .held_out = 0.2f,
                                               .mask_probability = is_masked(c->family) ? 0.3f : 0,
                                               .max_samples = case_samples(c, held_out),
                                               .corpus_bytes = 300});
}

static inline int vocab(const Case *c, int usual)
{
    return c->vocab ? c->vocab : usual;
}

static inline Module *case_model(const Case *c)
{
    int layers = c->layers ? c->layers : 2;
    ModelPreset preset = {.name = "case", .family = c->family};
    switch (c->family) {
    case MODEL_MLP:
        preset.config.mlp = (MlpConfig){.sizes = {CASE_WIDTH, 24, 17, CASE_CLASSES}};
        break;
    case MODEL_BERT:
        preset.config.bert = (BertConfig){
            .vocab = vocab(c, 260), .dim = 16, .layers = layers, .heads = 2, .ffn = 40, .max_seq = 16};
        break;
    case MODEL_DISTILBERT:
        preset.config.distilbert = (BertConfig){
            .vocab = vocab(c, 260), .dim = 16, .layers = layers, .heads = 2, .ffn = 40, .max_seq = 16};
        break;
    case MODEL_MODERNBERT:
        preset.config.modernbert = (ModernBertConfig){.vocab = vocab(c, 260),
                                                      .dim = 16,
                                                      .layers = layers,
                                                      .heads = 2,
                                                      .ffn = 20,
                                                      .max_seq = 16,
                                                      .window = 4,
                                                      .attention_bias = 1,
                                                      .mlp_bias = 1};
        break;
    case MODEL_ROBERTA:
        preset.config.roberta = (BertConfig){.vocab = vocab(c, 260),
                                             .dim = 16,
                                             .layers = layers,
                                             .heads = 2,
                                             .ffn = 40,
                                             .max_seq = 14,
                                             .types = 1,
                                             .first_position = 1};
        break;
    case MODEL_GPT2:
        preset.config.gpt2 = (Gpt2Config){
            .vocab = vocab(c, 256), .dim = 24, .layers = layers, .heads = 3, .ffn = 40, .max_seq = 16};
        break;
    case MODEL_LLAMA:
    case MODEL_SMOLLM3: /* with what sets each of them apart */
    case MODEL_GRANITE:
    case MODEL_QWEN3:
    case MODEL_OLMO2:
    case MODEL_PHI3:
    case MODEL_GEMMA:
    case MODEL_GEMMA2:
    case MODEL_GEMMA3:
    case MODEL_GPT_NEOX:
    case MODEL_MIXTRAL:
    case MODEL_QWEN2_MOE:
    case MODEL_QWEN3_MOE:
        preset = small_preset(&(Setting){.family = c->family, .layers = layers});
        preset.config.llama.vocab = vocab(c, 256);
        preset.config.llama.max_seq = 16;
        preset.config.llama.experts.balance = c->balance;
        break;
    }
    nn_preset_set_attention(&preset, c->attention);
    nn_preset_set_dropout(&preset, c->dropout);
    nn_set_weights(&c->weights);
    Module *model = nn_model(&preset);
    nn_set_weights(NULL);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), c->checkpoint);
    if (c->family == MODEL_MLP) {
        nn_set_checkpoint(model, c->checkpoint);
    } else {
        nn_set_loss_chunk(model, c->chunk);
        nn_set_skip_unlabelled(model, c->skip);
    }
    if (c->every)
        nn_set_checkpoint_every(model, c->every);
    nn_set_selective(model, c->selective);
    if (c->lora && model)
        nn_add_lora(model, &(Lora){.rank = 3, .targets = c->lora, .dropout = c->dropout});
    return model;
}

static inline double case_validate(Module *model, Loader *held_out)
{
    double loss = 0;
    tensor_no_grad_begin();
    nn_eval(model);
    data_seek(held_out, (DataCursor){.seed = 5});
    for (int64_t i = data_steps_per_epoch(held_out); i > 0 && !error_code(); i--)
        for (const Batch *b; (b = data_next(held_out));) {
            int scope = tensor_scope_begin();
            loss += tensor_item(nn_loss(model, b));
            tensor_scope_end(scope);
        }
    nn_train(model);
    tensor_no_grad_end();
    return loss;
}

static inline double case_step(const Session *s, int64_t step, Module *model, Optimizer *optimizer,
                               Loader *train)
{
    for (const Batch *b; (b = data_next(train));) {
        if (s->in_step)
            s->in_step(s->user, step);
        tensor_backward(nn_loss(model, b));
    }
    double loss = tensor_step_loss();
    brim_step(data_step_tokens(train));
    optim_step(optimizer);
    if (s->c.keep_zeros)
        optim_zero_grad_keep(optimizer);
    else
        optim_zero_grad(optimizer);
    return loss;
}

static inline void keep_parameters(Session *s, Module *model)
{
    TensorList list = nn_parameters(model);
    s->parameter_count = 0;
    for (int i = 0; i < list.count && !error_code(); i++) {
        int64_t n = tensor_numel(list.items[i]);
        if (s->parameter_count + n > CASE_PARAMETERS)
            return;
        tensor_decode_(list.items[i], 0, n, s->parameters + s->parameter_count);
        s->parameter_count += n;
    }
}

static inline void case_precision(const Case *c)
{
    Precision precision = *precision_by_name(c->precision ? c->precision : "fp32");
    if (c->grad32)
        precision.gradients = DTYPE_F32;
    tensor_set_precision(&precision);
}

static inline int case_script(void *config)
{
    Session *s = config;
    const Case *c = &s->c;
    int meta = context_is_meta(context_current());
    EventRecord *record = !meta ? s->run : s->calls && s->packed ? s->packed : s->planned;
    s->calls++;
    if (record)
        record_start(record);
    case_precision(c);
    Loader *train = case_loader(c, 0), *held_out = case_loader(c, 1);
    Module *model = case_model(c);
    Optimizer *optimizer = error_code() ? NULL : optim_by_name(c->optimizer, nn_parameters(model), 0, 0);
    if (c->in_backward)
        optim_set_in_backward(optimizer, 1);
    else
        optim_set_clip(optimizer, 1);
    int64_t an_epoch = data_steps_per_epoch(train), steps = (c->epochs ? c->epochs : 2) * an_epoch;
    for (int64_t step = 0; step < steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        s->loss = case_step(s, step, model, optimizer, train);
        tensor_scope_end(scope);
        if (!error_code() && (step == 0 || (step + 1) % an_epoch == 0))
            s->validation_loss = case_validate(model, held_out);
    }
    s->steps = steps;
    if (!meta)
        keep_parameters(s, model);
    return error_code();
}

#endif
