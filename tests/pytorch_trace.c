#include "pytorch_trace.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- Reading --------------------------------------------------------------------------------- */

static void header(Trace *t, char *line)
{
    line[strcspn(line, "\n")] = 0;
    unsigned long long a, b, c;
    if (!strncmp(line, "# name ", 7))
        snprintf(t->name, sizeof t->name, "%.100s", line + 7);
    else if (!strncmp(line, "# flags ", 8))
        snprintf(t->flags, sizeof t->flags, "%.1000s", line + 8);
    else if (!strncmp(line, "# versions ", 11))
        snprintf(t->versions, sizeof t->versions, "%.200s", line + 11);
    else if (!strncmp(line, "# config ", 9))
        snprintf(t->config, sizeof t->config, "%.8000s", line + 9);
    else if (sscanf(line, "# peaks requested=%llu allocated=%llu reserved=%llu", &a, &b, &c) == 3)
        t->peak_requested = a, t->peak_allocated = b, t->peak_reserved = c;
}

int trace_read(const char *path, Trace *t)
{
    memset(t, 0, sizeof *t);
    gzFile f = gzopen(path, "r");
    if (!f)
        return 1;
    static char line[16384];
    size_t capacity = 0;
    while (gzgets(f, line, sizeof line)) {
        if (line[0] == '#') {
            header(t, line);
            continue;
        }
        if (t->count == capacity)
            t->lines = realloc(t->lines, (capacity = 2 * capacity + 1024) * sizeof *t->lines);
        TraceLine *l = &t->lines[t->count++];
        memset(l, 0, sizeof *l);
        l->action = line[0];
        if (line[0] == '=') {
            sscanf(line, "= %95[^\n]", l->text);
            continue;
        }
        char *rest;
        l->value = strtoull(line + 1, &rest, 10);
        l->stream = *rest == '@' ? strtoull(rest + 1, &rest, 10) : 0;
        sscanf(rest, " %95s", l->text);
    }
    gzclose(f);
    return 0;
}

void trace_free(Trace *t)
{
    free(t->lines);
}

/* ---- The job --------------------------------------------------------------------------------- */

static int64_t whole(const json_t *config, const char *key, int64_t otherwise)
{
    const json_t *v = json_object_get(config, key);
    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

static double real(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return json_is_number(v) ? json_number_value(v) : 0;
}

static int model(const char *text, PytorchModel *m)
{
    static const char *const families[] = {"llama", "qwen2", "qwen3", "mistral", "gpt2", "bert"};
    json_t *c = json_loads(text, 0, NULL);
    if (!c)
        return 1;
    const char *type = json_string_value(json_object_get(c, "model_type"));
    int family = -1;
    for (int i = 0; i < 6; i++)
        if (type && !strcmp(type, families[i]))
            family = i;
    int gpt2 = family == PYTORCH_GPT2;
    m->family = (PytorchFamily)family;
    m->vocab = whole(c, "vocab_size", 0);
    m->hidden = whole(c, gpt2 ? "n_embd" : "hidden_size", 0);
    m->layers = whole(c, gpt2 ? "n_layer" : "num_hidden_layers", 0);
    m->heads = whole(c, gpt2 ? "n_head" : "num_attention_heads", 1);
    m->kv_heads = whole(c, "num_key_value_heads", m->heads);
    m->head_dim = whole(c, "head_dim", m->hidden / m->heads);
    m->intermediate = whole(c, gpt2 ? "n_inner" : "intermediate_size", 4 * m->hidden);
    m->positions = whole(c, gpt2 ? "n_positions" : "max_position_embeddings", 0);
    m->types = whole(c, "type_vocab_size", 0);
    m->window = family == PYTORCH_MISTRAL ? whole(c, "sliding_window", 0) : 0;
    m->tied = json_is_true(json_object_get(c, "tie_word_embeddings"));
    m->dropout = real(c, gpt2 ? "resid_pdrop" : "hidden_dropout_prob");
    m->attention_dropout = real(c, gpt2                     ? "attn_pdrop"
                                   : family == PYTORCH_BERT ? "attention_probs_dropout_prob"
                                                            : "attention_dropout");
    json_decref(c);
    return family < 0;
}

typedef struct Word {
    const char *text;
    int value;
} Word;

static int pick(const char *text, const Word *words, int *out)
{
    for (; words->text; words++)
        if (!strcmp(text, words->text)) {
            *out = words->value;
            return 0;
        }
    return 1;
}

static const Word precisions[] = {{"fp32", PYTORCH_FP32},
                                  {"bf16", PYTORCH_BF16},
                                  {"fp16", PYTORCH_FP16},
                                  {"bf16-autocast", PYTORCH_AUTOCAST_BF16},
                                  {"fp16-autocast", PYTORCH_AUTOCAST_FP16},
                                  {0}};
static const Word weights[] = {
    {"fp32", PYTORCH_WEIGHTS_FP32}, {"bf16", PYTORCH_WEIGHTS_BF16}, {"fp16", PYTORCH_WEIGHTS_FP16}, {0}};
static const Word attentions[] = {{"sdpa", PYTORCH_SDPA}, {"eager", PYTORCH_EAGER}, {0}};
static const Word optimizers[] = {{"adamw", PYTORCH_ADAMW},
                                  {"adamw-fused", PYTORCH_ADAMW_FUSED},
                                  {"adamw-loop", PYTORCH_ADAMW_SINGLE},
                                  {"sgd", PYTORCH_SGD},
                                  {"sgd-momentum", PYTORCH_SGD_MOMENTUM},
                                  {"adamw8bit", PYTORCH_ADAMW_8BIT},
                                  {"paged-adamw8bit", PYTORCH_ADAMW_8BIT_PAGED},
                                  {"none", PYTORCH_NO_OPTIMIZER},
                                  {0}};
static const Word checkpoints[] = {{"none", PYTORCH_KEEP},
                                   {"no-reentrant", PYTORCH_CHECKPOINT},
                                   {"reentrant", PYTORCH_CHECKPOINT_REENTRANT},
                                   {0}};
static const Word masks[] = {{"none", 0}, {"ones", 1}, {"padding", 2}, {0}};
static const Word quantizations[] = {{"none", PYTORCH_PLAIN},
                                     {"nf4", PYTORCH_NF4},
                                     {"nf4-single", PYTORCH_NF4_SINGLE},
                                     {"int8", PYTORCH_INT8},
                                     {0}};
static const Word scripts[] = {{"loop", PYTORCH_LOOP}, {"trainer", PYTORCH_TRAINER}, {0}};
static const Word parallels[] = {
    {"none", PYTORCH_ALONE}, {"ddp", PYTORCH_DDP}, {"fsdp2", PYTORCH_FSDP2}, {0}};
static const Word switches[] = {{"off", 0}, {"on", 1}, {0}};
static const Word cards[] = {{"t4", 75},   {"a100", 80}, {"rtx3090", 86}, {"rtx4090", 89}, {"h100", 90},
                             {"h200", 90}, {0}};

static int targets(const char *text)
{
    static const Word words[] = {{"q_proj", PYTORCH_Q},
                                 {"k_proj", PYTORCH_K},
                                 {"v_proj", PYTORCH_V},
                                 {"o_proj", PYTORCH_O},
                                 {"gate_proj", PYTORCH_GATE},
                                 {"up_proj", PYTORCH_UP},
                                 {"down_proj", PYTORCH_DOWN},
                                 {"c_attn", PYTORCH_C_ATTN},
                                 {"c_proj", PYTORCH_C_PROJ},
                                 {"c_fc", PYTORCH_C_FC},
                                 {"query", PYTORCH_QUERY},
                                 {"key", PYTORCH_KEY},
                                 {"value", PYTORCH_VALUE},
                                 {"dense", PYTORCH_DENSE},
                                 {"all-linear", PYTORCH_ALL_LINEAR},
                                 {0}};
    int all = 0, one;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *save, *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save))
        if (!pick(word, words, &one))
            all |= one;
    return all;
}

static void lengths(PytorchJob *job, const char *text)
{
    while (*text && job->length_count < PYTORCH_LENGTHS) {
        char *end;
        job->lengths[job->length_count++] = strtol(text, &end, 10);
        text = *end ? end + 1 : end;
    }
}

static int flag(PytorchJob *job, const char *name, const char *value, int *used)
{
    int v = 0, bad = 0;
    *used = 2;
    if (!strcmp(name, "--precision"))
        bad = pick(value, precisions, &v), job->precision = (PytorchPrecision)v;
    else if (!strcmp(name, "--weights"))
        bad = pick(value, weights, &v), job->weights = (PytorchWeights)v;
    else if (!strcmp(name, "--attention"))
        bad = pick(value, attentions, &v), job->attention = (PytorchAttention)v;
    else if (!strcmp(name, "--optimizer"))
        bad = pick(value, optimizers, &v), job->optimizer = (PytorchOptimizer)v;
    else if (!strcmp(name, "--checkpoint"))
        bad = pick(value, checkpoints, &v), job->checkpoint = (PytorchCheckpoint)v;
    else if (!strcmp(name, "--script"))
        bad = pick(value, scripts, &v), job->script = (PytorchScript)v;
    else if (!strcmp(name, "--evaluate"))
        job->evaluate = atoi(value);
    else if (!strcmp(name, "--eval-accumulation"))
        job->eval_accumulation = atoi(value);
    else if (!strcmp(name, "--eval-steps"))
        job->evaluate_steps = atoi(value);
    else if (!strcmp(name, "--save"))
        job->save = *used = 1;
    else if (!strcmp(name, "--logging"))
        job->logging = atoi(value);
    else if (!strcmp(name, "--metrics"))
        job->metrics = *used = 1;
    else if (!strcmp(name, "--mask"))
        bad = pick(value, masks, &job->mask);
    else if (!strcmp(name, "--quantize"))
        bad = pick(value, quantizations, &v), job->quantize = (PytorchQuantize)v;
    else if (!strcmp(name, "--kbit-prepare"))
        bad = pick(value, switches, &job->kbit_prepare);
    else if (!strcmp(name, "--card"))
        bad = pick(value, cards, &job->capability);
    else if (!strcmp(name, "--batch"))
        job->batch = atoi(value);
    else if (!strcmp(name, "--seq"))
        job->seq = atoi(value);
    else if (!strcmp(name, "--steps"))
        job->steps = atoi(value);
    else if (!strcmp(name, "--accumulate"))
        job->accumulate = atoi(value);
    else if (!strcmp(name, "--clip"))
        job->clip = atof(value);
    else if (!strcmp(name, "--lora"))
        job->lora_rank = atoi(value);
    else if (!strcmp(name, "--lora-dropout"))
        job->lora_dropout = atof(value);
    else if (!strcmp(name, "--lora-weights"))
        job->lora_in_base_type = !strcmp(value, "model");
    else if (!strcmp(name, "--targets"))
        job->lora_targets = targets(value);
    else if (!strcmp(name, "--task"))
        job->model.labels = 2;
    else if (!strcmp(name, "--zero-keep"))
        job->keep_gradients = *used = 1;
    else if (!strcmp(name, "--ranks"))
        job->ranks = atoi(value);
    else if (!strcmp(name, "--parallel"))
        bad = pick(value, parallels, &v), job->parallel = (PytorchParallel)v;
    else if (!strcmp(name, "--no-sync"))
        job->no_sync = *used = 1;
    else if (!strcmp(name, "--find-unused"))
        job->find_unused = *used = 1;
    else if (!strcmp(name, "--fsdp-type"))
        bad = pick(value, weights, &v), job->gathered = (PytorchWeights)v;
    else if (!strcmp(name, "--fsdp-reduce"))
        bad = pick(value, weights, &v), job->reduced = (PytorchWeights)v;
    else if (!strcmp(name, "--keep-gathered"))
        job->keep_gathered = *used = 1;
    else if (!strcmp(name, "--bucket-view"))
        job->bucket_view = *used = 1;
    else if (!strcmp(name, "--peaks"))
        *used = 1;
    else if (!strcmp(name, "--hold") && value && !strcmp(value, "step"))
        job->hold = PYTORCH_HOLD_STEP;
    else if (!strcmp(name, "--hold"))
        job->hold = PYTORCH_HOLD_LOOP, *used = 1;
    else if (!strcmp(name, "--lengths"))
        lengths(job, value);
    else if (strcmp(name, "--model") && strcmp(name, "--total") && strcmp(name, "--set") &&
             strcmp(name, "--dropout"))
        bad = 1;
    return bad;
}

int trace_job(const Trace *trace, PytorchJob *job)
{
    *job = (PytorchJob){.precision = PYTORCH_BF16,
                        .capability = 90,
                        .batch = 3,
                        .seq = 56,
                        .accumulate = 1,
                        .steps = 2,
                        .clip = 1.0,
                        .lora_targets = 127};
    if (model(trace->config, &job->model))
        return 1;
    for (int i = 0; !job->dialect && estimate_pytorch_dialect_at(i); i++) {
        char wanted[80];
        PytorchVersions v = estimate_pytorch_versions(estimate_pytorch_dialect_at(i));
        snprintf(wanted, sizeof wanted, "torch=%s.", v.torch);
        if (!*trace->versions || (strstr(trace->versions, wanted) &&
                                  (snprintf(wanted, sizeof wanted, "transformers=%s.", v.transformers),
                                   strstr(trace->versions, wanted))))
            job->dialect = estimate_pytorch_dialect_at(i);
    }
    if (!job->dialect)
        return 1;
    char copy[1024], *words[64] = {NULL}, *save;
    int count = 0, used;
    snprintf(copy, sizeof copy, "%s", trace->flags);
    for (char *word = strtok_r(copy, " ", &save); word && count < 62; word = strtok_r(NULL, " ", &save))
        words[count++] = word;
    for (int i = 0; i < count; i += used)
        if (flag(job, words[i], words[i + 1], &used)) {
            fprintf(stderr, "%s: %s\n", trace->name, words[i]);
            return 1;
        }
    return 0;
}

/* ---- Comparing ------------------------------------------------------------------------------- */

typedef struct Compare {
    const Trace *trace;
    size_t at;               /* in the trace */
    uint64_t allocs;         /* so far */
    long events;             /* that were equal */
    uint64_t freed[1 << 12]; /* that are pending on our side */
    size_t pending;
    char last[8][160];
    size_t lasts;
    FILE *out;
} Compare;

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void phases(Compare *c)
{
    while (c->at < c->trace->count && c->trace->lines[c->at].action == '=')
        c->at++;
}

static void note(Compare *c, const char *text)
{
    snprintf(c->last[c->lasts++ % 8], sizeof *c->last, "%s", text);
}

static int differs(Compare *c, const char *what)
{
    FILE *out = c->out;
    if (!out)
        return 2;
    fprintf(out, "%s: after %ld events: %s\n  predicted:\n", c->trace->name, c->events, what);
    for (size_t i = c->lasts > 8 ? c->lasts - 8 : 0; i < c->lasts; i++)
        fprintf(out, "    %s\n", c->last[i % 8]);
    fprintf(out, "  traced:\n");
    for (size_t i = c->at > 8 ? c->at - 8 : 0; i < c->at + 12 && i < c->trace->count; i++)
        fprintf(out, "  %s %c %llu %s\n", i == c->at ? ">" : " ", c->trace->lines[i].action,
                (unsigned long long)c->trace->lines[i].value, c->trace->lines[i].text);
    return 2;
}

/* All frees between two allocations happen at the same time: their order does not matter to the allocator. */
static int settle(Compare *c)
{
    uint64_t theirs[1 << 12];
    size_t count = 0, at = c->at;
    for (; at < c->trace->count && c->trace->lines[at].action != 'a'; at++)
        if (c->trace->lines[at].action == 'f' && count < 1 << 12)
            theirs[count++] = c->trace->lines[at].value;
    qsort(theirs, count, sizeof *theirs, by_number);
    qsort(c->freed, c->pending, sizeof *c->freed, by_number);
    if (count != c->pending || memcmp(theirs, c->freed, count * sizeof *theirs)) {
        char what[400] = "other frees:";
        for (size_t i = 0, j = 0; (i < count || j < c->pending) && strlen(what) < 300;) {
            char one[40] = "";
            if (j == c->pending || (i < count && theirs[i] < c->freed[j]))
                snprintf(one, sizeof one, " torch %llu", (unsigned long long)theirs[i++]);
            else if (i == count || c->freed[j] < theirs[i])
                snprintf(one, sizeof one, " ours %llu", (unsigned long long)c->freed[j++]);
            else
                i++, j++;
            strcat(what, one);
        }
        return differs(c, what);
    }
    c->at = at;
    c->pending = 0;
    return 0;
}

static int event(void *user, const PytorchEvent *e)
{
    Compare *c = user;
    char text[160];
    if (e->action == PYTORCH_MARK || e->action == PYTORCH_EMPTY_CACHE)
        return 0;
    if (e->action == PYTORCH_FREE) {
        snprintf(text, sizeof text, "f %llu (%llu)", (unsigned long long)e->serial,
                 (unsigned long long)e->bytes);
        note(c, text);
        if (c->pending < 1 << 12)
            c->freed[c->pending++] = e->serial;
        c->events++;
        return 0;
    }
    snprintf(text, sizeof text, "a %llu #%llu %s layer %d %s phase %d", (unsigned long long)e->bytes,
             (unsigned long long)e->serial, e->op, e->layer, e->module ? e->module : "-", e->phase);
    int stop = settle(c);
    if (stop) {
        note(c, text);
        if (c->out)
            fprintf(c->out, "  next predicted: %s\n", text);
        return stop;
    }
    note(c, text);
    phases(c);
    if (c->at == c->trace->count)
        return differs(c, "the trace has ended");
    if (c->trace->lines[c->at].stream != e->stream)
        return differs(c, "another stream");
    if (c->trace->lines[c->at].action != 'a' || c->trace->lines[c->at].value != e->bytes)
        return differs(c, "another allocation");
    c->at++;
    c->events++;
    return 0;
}

long trace_compare(const Trace *trace, const PytorchJob *job, FILE *out)
{
    Compare *c = calloc(1, sizeof *c);
    c->trace = trace;
    c->out = out;
    int stopped = estimate_pytorch_job(job, event, c);
    if (!stopped) {
        while (c->at < trace->count && trace->lines[c->at].action != 'a')
            c->at++; /* the script ends, and all dies */
        if (c->at < trace->count)
            stopped = differs(c, "the prediction has ended");
    }
    long events = stopped ? c->events : -1;
    free(c);
    return events;
}
