/* See support.h. */
#include <math.h>

#include "../base/half_.h"
#include "support.h"
#include "../tensor/tensor_.h"

/* ---- Contexts -------------------------------------------------------------------------------- */

Visit visit(const ContextOptions *options)
{
    Visit visit = {.live = memtrack_process_live()};
    Context *context = context_create(options);
    assert_non_null(context);
    visit.outside = context_use(context);
    return visit;
}

void leave(Visit visit)
{
    context_destroy(context_use(visit.outside));
    assert_int_equal(memtrack_process_live(), visit.live);
}

static uint64_t live_before;

static int enter(int threads)
{
    live_before = memtrack_process_live();
    Context *context = context_create(&(ContextOptions){.threads = threads, .seed = 1});
    context_use(context);
    return context ? 0 : -1;
}

int fresh_context(void **state)
{
    (void)state;
    return enter(1);
}

int fresh_context2(void **state)
{
    (void)state;
    return enter(2);
}

int leave_context(void **state)
{
    (void)state;
    memtrack_fail_nth(0);
    int code = error_code();
    context_destroy(context_use(NULL));
    return code == ERROR_NONE && memtrack_process_live() == live_before ? 0 : -1;
}

void command_environment(void)
{
    setenv("BRIM_THREADS", "2", 0);
    unsetenv("OPENBLAS_CORETYPE");
    setenv("BRIM_CUDA_DRIVER", "/nowhere/libcuda.so.1", 0); /* a card of this machine is not asked for */
}

const MemStats *books(void)
{
    return memtrack_stats(context_ledger(context_current()));
}

uint64_t live_at(const char *prefix, MemComponent component)
{
    Context *context = context_current();
    const MemTracker *tracker = context_tracker(context);
    memtrack_peak_reset(context_ledger(context));
    uint64_t sum = 0, by[MEM_COMPONENT_COUNT];
    for (int path = 0; path < memtrack_path_count(tracker); path++) {
        const char *name = memtrack_path_name(tracker, path);
        size_t length = strlen(prefix);
        if (strncmp(name, prefix, length) != 0 || (name[length] && name[length] != '.'))
            continue;
        memtrack_peak_by_path(context_ledger(context), path, by);
        sum += by[component];
    }
    return sum;
}

uint64_t rounded(int64_t floats)
{
    return ((uint64_t)floats * sizeof(float) + MEMTRACK_ALIGN - 1) / MEMTRACK_ALIGN * MEMTRACK_ALIGN;
}

/* ---- Errors ---------------------------------------------------------------------------------- */

void check_error(const char *file, int line, int code, const char *const texts[], size_t count)
{
    if (error_code() != code)
        fail_msg("%s:%d: expected '%s', got '%s': %s", file, line, error_name((ErrorCode)code),
                 error_name((ErrorCode)error_code()), error_message());
    char text[1024];
    const char *function = error_function();
    snprintf(text, sizeof text, "%s%s%s", function, function[0] ? ": " : "", error_message());
    for (size_t i = 0; i < count; i++)
        if (!strstr(text, texts[i]))
            fail_msg("%s:%d: no '%s' in '%s'", file, line, texts[i], text);
    error_clear();
}

/* ---- Values ---------------------------------------------------------------------------------- */

uint32_t hash32(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

float value_at(uint32_t stream, uint32_t i, double scale, double offset)
{
    return (float)((hash32(stream * 0x9E3779B9u + i) / 4294967296.0 - 0.5) * 2 * scale + offset);
}

void fill_values(float *to, int64_t n, uint32_t stream, double scale, double offset)
{
    for (int64_t i = 0; to && i < n; i++)
        to[i] = value_at(stream, (uint32_t)i, scale, offset);
}

Tensor *values(Shape shape, uint32_t stream, double scale)
{
    Tensor *t = tensor_new(DTYPE_F32, shape, MEM_INPUT);
    fill_values(tensor_f32(t), tensor_numel(t), stream, scale, 0);
    return t;
}

Tensor *leaf(Shape shape, uint32_t stream, double scale)
{
    Tensor *t = values(shape, stream, scale);
    tensor_set_requires_grad(t, 1);
    return t;
}

Tensor *integers(Shape shape, uint32_t stream, int below)
{
    Tensor *t = tensor_new(DTYPE_I32, shape, MEM_INPUT);
    int32_t *data = tensor_i32(t);
    for (int64_t i = 0; data && i < tensor_numel(t); i++)
        data[i] = (int32_t)(hash32(1000003u * stream + (uint32_t)i) % (uint32_t)below);
    return t;
}

Tensor *copy_of(const float *from, int64_t n)
{
    assert_non_null(from);
    return tensor_from(DTYPE_F32, SHAPE(n), MEM_INPUT, from);
}

float as_stored(DType dtype, float x)
{
    return dtype == DTYPE_BF16  ? half_from_bf16(half_to_bf16(x))
           : dtype == DTYPE_F16 ? half_from_f16(half_to_f16(x))
                                : x;
}

double difference(const float *a, const float *b, int64_t n)
{
    assert_non_null(a);
    assert_non_null(b);
    double largest = 0, apart = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d < INFINITY))
            return INFINITY;
        largest = fmax(largest, fabs(a[i]));
        apart = fmax(apart, d);
    }
    return apart == 0 ? 0 : apart / fmax(largest, 1e-30);
}

int64_t parity(const float *expected, const float *actual, int64_t n)
{
    double largest = 0.01;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)expected[i] - actual[i]) <= 1e-4 * fabs(expected[i]) + 1e-5 * largest))
            return i;
    return -1;
}

/* ---- Fixtures -------------------------------------------------------------------------------- */

static unsigned char *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s cannot be read; tests run from the repository's root", path);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = test_malloc(*size);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static size_t to_eight(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

/* Reads the record at `at`; returns where the next one begins. */
static size_t read_record(const unsigned char *bytes, size_t at, Record *record)
{
    uint32_t head[4];
    memcpy(head, bytes + at, sizeof head);
    at += sizeof head;
    *record = (Record){.dtype = (int)head[1], .shape = {.ndim = (int)head[2]}};
    assert_in_range(head[2], 1, TENSOR_MAX_DIMS);
    memcpy(record->shape.dim, bytes + at, head[2] * sizeof(int64_t));
    at += head[2] * sizeof(int64_t);
    record->name = (const char *)bytes + at;
    at += head[0];
    record->data = bytes + at;
    size_t n = 1;
    for (int i = 0; i < record->shape.ndim; i++)
        n *= (size_t)record->shape.dim[i];
    return at + to_eight(record->dtype == 2 ? n + 1 : 4 * n);
}

Fixture fixture_open(const char *name)
{
    const char *folder = getenv("BRIM_FIXTURES");
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "tests/parity/fixtures", name);
    size_t size;
    Fixture fixture = {.bytes = read_whole(path, &size)};
    assert_memory_equal(fixture.bytes, "BRIMFIX1", 8);
    Record record;
    for (size_t at = 8; at < size; at = read_record(fixture.bytes, at, &record))
        fixture.count++;
    fixture.records = test_calloc((size_t)fixture.count, sizeof *fixture.records);
    int i = 0;
    for (size_t at = 8; at < size; i++)
        at = read_record(fixture.bytes, at, &fixture.records[i]);
    return fixture;
}

void fixture_close(Fixture *fixture)
{
    test_free(fixture->records);
    test_free(fixture->bytes);
    *fixture = (Fixture){0};
}

const Record *fixture_find(const Fixture *fixture, int at, const char *name)
{
    for (int i = at; i < fixture->count; i++) {
        if (!strcmp(fixture->records[i].name, name))
            return &fixture->records[i];
        if (i > at && !strcmp(fixture->records[i].name, "case"))
            return NULL;
    }
    return NULL;
}

static const char *attribute_text(const char *text, const char *key)
{
    size_t length = strlen(key);
    for (const char *at = strchr(text, ' '); at; at = strchr(at + 1, ' '))
        if (!strncmp(at + 1, key, length) && at[1 + length] == '=')
            return at + length + 2;
    return NULL;
}

double attribute(const char *text, const char *key, double otherwise)
{
    const char *value = attribute_text(text, key);
    return value ? strtod(value, NULL) : otherwise;
}

static int word_is(const char *at, const char *word)
{
    size_t length = strlen(word);
    return !strncmp(at, word, length) && (at[length] == ' ' || !at[length]);
}

int attribute_is(const char *text, const char *key, const char *value)
{
    const char *at = attribute_text(text, key);
    return at && word_is(at, value);
}

int kind_is(const char *text, const char *kind)
{
    return word_is(text, kind);
}

void assert_parity(const char *what, const char *name, const Record *expected, const float *actual,
                   double times)
{
    if (!expected || !actual)
        fail_msg("%s: no %s %s: %s", what, expected ? "computed" : "expected", name, error_message());
    int64_t n = 1;
    for (int i = 0; i < expected->shape.ndim; i++)
        n *= expected->shape.dim[i];
    const float *unscaled = expected->data;
    float *scaled = test_malloc((size_t)n * sizeof *scaled);
    for (int64_t i = 0; i < n; i++)
        scaled[i] = (float)(unscaled[i] * times);
    int64_t bad = parity(scaled, actual, n);
    if (bad >= 0)
        fail_msg("%s: %s[%lld] of %lld is %.9g, PyTorch has %.9g", what, name, (long long)bad, (long long)n,
                 actual[bad], scaled[bad]);
    test_free(scaled);
}

/* ---- Small models ---------------------------------------------------------------------------- */

/* Llama's, and what sets the family apart. */
static LlamaConfig small_decoder(ModelFamily family, int layers)
{
    LlamaConfig c = {.vocab = SMALL_VOCAB,
                     .dim = 32,
                     .layers = layers,
                     .heads = 4,
                     .kv_heads = family == MODEL_OLMO2 || family == MODEL_GPT_NEOX ? 0 : 2,
                     .hidden = family == MODEL_MIXTRAL ? 24 : 48,
                     .max_seq = 24};
    if (family == MODEL_SMOLLM3 || family == MODEL_GEMMA || family == MODEL_GEMMA2 || family == MODEL_GEMMA3)
        c.tied = 1;
    if (family == MODEL_SMOLLM3)
        c.no_rope = (LayerSet){{2}};
    if (family == MODEL_GRANITE) {
        c.embedding_factor = 12;
        c.branch_factor = 0.22f;
        c.logits_divisor = 8;
        c.attention_scale = 0.1f;
    }
    if (family == MODEL_QWEN3 || family == MODEL_QWEN3_MOE || family == MODEL_GEMMA ||
        family == MODEL_GEMMA2 || family == MODEL_GEMMA3)
        c.head_dim = 12;
    if (family == MODEL_PHI3)
        c.partial_rotary = 0.75f;
    if (family == MODEL_PHI3 || family == MODEL_GEMMA2 || family == MODEL_GEMMA3)
        c.window = 5;
    if (family == MODEL_GEMMA2 || family == MODEL_GEMMA3)
        c.sliding = (LayerSet){{1}};
    if (family == MODEL_GEMMA2) {
        c.attention_cap = 2;
        c.logits_cap = 3;
    }
    if (family == MODEL_GEMMA3)
        c.local_theta = 100;
    if (family == MODEL_GPT_NEOX) {
        c.partial_rotary = 0.5f;
        c.qkv_bias = c.o_bias = c.mlp_bias = 1;
    }
    if (family == MODEL_MIXTRAL)
        c.experts = (ExpertsConfig){.count = 5, .active = 2, .normalise = 1};
    if (family == MODEL_QWEN3_MOE) /* the first layer has none */
        c.experts = (ExpertsConfig){.count = 6, .active = 3, .hidden = 20, .dense = {{1}}};
    if (family == MODEL_QWEN2_MOE) {
        c.experts = (ExpertsConfig){.count = 5, .active = 2, .hidden = 16, .shared_hidden = 28};
        c.qkv_bias = 1;
    }
    return c;
}

ModelPreset small_preset(const Setting *s)
{
    int layers = s->layers ? s->layers : 2;
    ModelPreset preset = {.name = "small", .family = s->family, .batch = 3, .seq = SMALL_SEQ};
    switch (s->family) {
    case MODEL_MLP:
        preset.config.mlp = (MlpConfig){.sizes = {31, 24, 20, 10}};
        break;
    case MODEL_BERT:
        preset.config.bert = (BertConfig){
            .vocab = SMALL_VOCAB, .dim = 32, .layers = layers, .heads = 4, .ffn = 48, .max_seq = 24};
        break;
    case MODEL_DISTILBERT:
        preset.config.distilbert = (BertConfig){
            .vocab = SMALL_VOCAB, .dim = 32, .layers = layers, .heads = 4, .ffn = 48, .max_seq = 24};
        break;
    case MODEL_MODERNBERT:
        preset.config.modernbert = (ModernBertConfig){.vocab = SMALL_VOCAB,
                                                      .dim = 32,
                                                      .layers = layers,
                                                      .heads = 4,
                                                      .ffn = 24,
                                                      .max_seq = 24,
                                                      .window = 6};
        break;
    case MODEL_ROBERTA:
        preset.config.roberta = (BertConfig){.vocab = SMALL_VOCAB,
                                             .dim = 32,
                                             .layers = layers,
                                             .heads = 4,
                                             .ffn = 48,
                                             .max_seq = 24,
                                             .first_position = 3};
        break;
    case MODEL_GPT2:
        preset.config.gpt2 = (Gpt2Config){
            .vocab = SMALL_VOCAB, .dim = 32, .layers = layers, .heads = 4, .ffn = 48, .max_seq = 24};
        break;
    default:
        preset.config.llama = small_decoder(s->family, layers);
    }
    nn_preset_set_attention(&preset, s->attention);
    nn_preset_set_dropout(&preset, s->dropout);
    return preset;
}

Module *small_model(const Setting *setting)
{
    ModelPreset preset = small_preset(setting);
    Module *model = nn_model(&preset);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), setting->checkpoint);
    nn_set_checkpoints(model, setting->pattern);
    nn_set_selective(model, setting->selective);
    return model;
}

/* Of one sample: n integers, the i-th a function of (stream, step, sample, i). */
static void sample_integers(int32_t *to, int n, uint32_t stream, int64_t step, int64_t sample, int below)
{
    for (int i = 0; i < n; i++)
        to[i] = (int32_t)(hash32(hash32(stream * 7919u + (uint32_t)step) + (uint32_t)(sample * 97 + i)) %
                          (uint32_t)below);
}

static Batch small_features(int64_t step, int64_t first, int count)
{
    Batch batch = {.step = step, .first_sample = first, .tokens = count};
    float features[32 * 31];
    int32_t labels[32];
    assert_in_range(count, 1, 32);
    for (int b = 0; b < count; b++) {
        fill_values(features + b * 31, 31, (uint32_t)(5000 + step * 100 + first + b), 1, 0);
        sample_integers(labels + b, 1, 3, step, first + b, 10);
        if ((first + b) % 7 == 5)
            labels[b] = BATCH_IGNORE;
        batch.labels_counted += labels[b] != BATCH_IGNORE;
    }
    batch.features = tensor_from(DTYPE_F32, SHAPE(count, 31), MEM_INPUT, features);
    batch.labels = tensor_from(DTYPE_I32, SHAPE(count), MEM_INPUT, labels);
    batch.labels_total = batch.labels_counted;
    return batch;
}

Batch small_batch(ModelFamily family, int64_t step, int64_t first, int count)
{
    if (family == MODEL_MLP)
        return small_features(step, first, count);
    Batch batch = {.step = step, .first_sample = first, .tokens = (int64_t)count * SMALL_SEQ};
    int32_t ids[32 * SMALL_SEQ], types[32 * SMALL_SEQ], mask[32 * SMALL_SEQ], labels[32 * SMALL_SEQ];
    assert_in_range(count, 1, 32);
    for (int b = 0; b < count; b++) {
        int at = b * SMALL_SEQ, length = SMALL_SEQ - (int)((first + b) % 4);
        sample_integers(ids + at, SMALL_SEQ, 1, step, first + b, SMALL_VOCAB);
        sample_integers(labels + at, SMALL_SEQ, 2, step, first + b, SMALL_VOCAB);
        for (int t = 0; t < SMALL_SEQ; t++) {
            types[at + t] = t > 5;
            mask[at + t] = t < length;
            if (t >= length || t % (2 + (first + b) / 2 % 4) == 0)
                labels[at + t] = BATCH_IGNORE;
            batch.labels_counted += labels[at + t] != BATCH_IGNORE;
        }
    }
    Shape shape = SHAPE(count, SMALL_SEQ);
    batch.ids = tensor_from(DTYPE_I32, shape, MEM_INPUT, ids);
    if (is_masked(family)) {
        batch.types = tensor_from(DTYPE_I32, shape, MEM_INPUT, types);
        batch.mask = tensor_from(DTYPE_I32, shape, MEM_INPUT, mask);
    }
    batch.labels = tensor_from(DTYPE_I32, shape, MEM_INPUT, labels);
    batch.labels_total = batch.labels_counted;
    return batch;
}

const char *setting_text(const Setting *s)
{
    static char text[160];
    snprintf(text, sizeof text, "%s %s%s%s%s%.40s%s", nn_family(s->family)->name,
             s->attention == ATTENTION_EAGER ? "eager" : "flash", s->checkpoint ? " checkpoint" : "",
             s->dropout > 0 ? " dropout" : "", s->pattern ? " " : "", s->pattern ? s->pattern : "",
             s->selective ? " selective" : "");
    return text;
}

Tensor *all_gradients(Module *model)
{
    TensorList list = nn_parameters(model);
    Tensor *all = tensor_new(DTYPE_F32, SHAPE(nn_parameter_count(model)), MEM_INPUT);
    float *to = tensor_f32(all);
    assert_non_null(to);
    for (int i = 0; i < list.count; i++) {
        int64_t n = tensor_numel(list.items[i]);
        if (!grad_f32(list.items[i]))
            fail_msg("%s has no gradient: %s", tensor_name(list.items[i]), error_message());
        memcpy(to, grad_f32(list.items[i]), (size_t)n * sizeof *to);
        to += n;
    }
    return all;
}

static int64_t labels_of(ModelFamily family, int64_t step, const Micro *micro)
{
    int64_t first = 0, labels = 0;
    for (int i = 0; micro->sizes[i]; i++) {
        int scope = tensor_scope_begin();
        labels += small_batch(family, step, first, micro->sizes[i]).labels_counted;
        first += micro->sizes[i];
        tensor_scope_end(scope);
    }
    return labels;
}

static double accumulate(Module *model, ModelFamily family, int64_t step, const Micro *micro)
{
    int64_t total = labels_of(family, step, micro), first = 0;
    double sum = 0;
    for (int i = 0; micro->sizes[i]; i++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(family, step, first, micro->sizes[i]);
        batch.labels_total = total;
        first += micro->sizes[i];
        Tensor *loss = nn_loss(model, &batch);
        if (tensor_backward(loss) != 0)
            fail_msg("%s: %s", nn_family(family)->name, error_message());
        sum += tensor_item(loss);
        tensor_scope_end(scope);
    }
    return sum;
}

Tensor *small_gradients(const Setting *s, const Micro *micro, int threads, uint64_t seed, double *loss)
{
    Visit v = visit(&(ContextOptions){.threads = threads, .seed = seed});
    Module *model = small_model(s);
    *loss = accumulate(model, s->family, 3, micro);
    Tensor *all = all_gradients(model);
    Context *here = context_use(v.outside);
    uint64_t live = memtrack_process_live();
    Tensor *copy = copy_of((const float *)all->storage->block.data, tensor_numel(all));
    v.live += memtrack_process_live() - live;
    context_use(here);
    leave(v);
    return copy;
}
