/* What a checkpointing pattern keeps and runs again: bounds over random models and patterns, and exact bytes,
 * events and FLOPs. */
#include "plan_support.h"

enum { PATTERN_MAX = 16 };

typedef struct Pattern {
    char text[PATTERN_MAX + 1];
} Pattern;

/* ---- A step on meta -------------------------------------------------------------------------- */

static EventRecord events[2], *recorded; /* NULL: events are not recorded */

typedef struct ModelShape {
    int batch, seq, layers;
    ModelPreset preset;
} ModelShape;

/* What a step on meta held: activations at the end of forward and at their own peak, and its FLOPs. */
typedef struct Held {
    uint64_t kept, own_peak;
    double flops;
} Held;

static Batch shape_batch(const ModelShape *z)
{
    Batch batch = {.labels = tensor_from(DTYPE_I32, SHAPE(z->batch, z->seq), MEM_INPUT, NULL)};
    if (z->preset.family == MODEL_MLP) {
        int width = z->preset.config.mlp.sizes[0];
        batch.labels = tensor_from(DTYPE_I32, SHAPE(z->batch), MEM_INPUT, NULL);
        batch.features = tensor_from(DTYPE_F32, SHAPE(z->batch, width), MEM_INPUT, NULL);
    } else {
        batch.ids = tensor_from(DTYPE_I32, SHAPE(z->batch, z->seq), MEM_INPUT, NULL);
    }
    return batch;
}

static Held held(const ModelShape *z, const char *pattern, int selective, int blocks_themselves)
{
    Held out = {0};
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 2});
    if (recorded)
        record_start(recorded);
    Module *model = nn_model(&z->preset);
    nn_set_checkpoints(model, pattern);
    nn_set_selective(model, selective);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), blocks_themselves);
    Batch batch = shape_batch(z);
    Tensor *loss = nn_loss(model, &batch);
    out.kept = books()->live_by[MEM_ACTIVATION];
    assert_int_equal(tensor_backward(loss), 0);
    assert_int_equal(books()->live_by[MEM_ACTIVATION], 0);
    out.own_peak = books()->own_peak[MEM_ACTIVATION];
    out.flops = context_flops(context_current());
    leave(v);
    return out;
}

/* ---- Random models and patterns -------------------------------------------------------------- */

static uint32_t random_number(uint32_t *seed, int below)
{
    *seed = hash32(*seed + 0x9E3779B9u);
    return *seed % (uint32_t)below;
}

static ModelShape random_shape(uint32_t *seed)
{
    ModelShape z = {.batch = 1 + (int)random_number(seed, 4), .seq = 1 + (int)random_number(seed, 40)};
    z.layers = 1 + (int)random_number(seed, 7);
    int heads = 1 + (int)random_number(seed, 4), dim = heads * 2 * (1 + (int)random_number(seed, 12));
    int ffn = 1 + (int)random_number(seed, 150), vocab = 2 + (int)random_number(seed, 60);
    z.preset.family = (ModelFamily)random_number(seed, FAMILIES);
    if (z.preset.family == MODEL_BERT)
        z.preset.config.bert =
            (BertConfig){.vocab = vocab, .dim = dim, .layers = z.layers, .heads = heads, .ffn = ffn};
    else if (z.preset.family == MODEL_GPT2)
        z.preset.config.gpt2 =
            (Gpt2Config){.vocab = vocab, .dim = dim, .layers = z.layers, .heads = heads, .ffn = ffn};
    else if (z.preset.family == MODEL_LLAMA)
        z.preset.config.llama =
            (LlamaConfig){.vocab = vocab, .dim = dim, .layers = z.layers, .heads = heads, .hidden = ffn};
    else
        for (int i = 0; i <= z.layers; i++)
            z.preset.config.mlp.sizes[i] = 1 + (int)random_number(seed, 90);
    nn_preset_set_attention(&z.preset, random_number(seed, 2) ? ATTENTION_EAGER : ATTENTION_FLASH);
    nn_preset_set_dropout(&z.preset, random_number(seed, 2) ? 0.1f : 0);
    return z;
}

static Pattern random_pattern(uint32_t *seed, int blocks)
{
    Pattern p = {""};
    for (int i = 0; i < blocks; i++) {
        char c = ".c+"[random_number(seed, 3)];
        p.text[i] = c == '+' && (i == 0 || p.text[i - 1] == '.') ? 'c' : c;
    }
    return p;
}

/* One block more is checkpointed: a plain one alone, or one that began a segment continues that before it. */
static int more_of(const Pattern *p, int i, Pattern *more)
{
    *more = *p;
    if (p->text[i] == '.')
        more->text[i] = 'c';
    else if (p->text[i] == 'c' && i > 0 && p->text[i - 1] != '.')
        more->text[i] = '+';
    return more->text[i] != p->text[i];
}

static void check_more(const ModelShape *z, const Pattern *p, int selective, const Held *plain)
{
    Held less = held(z, p->text, selective, 0);
    if (less.kept > plain->kept || less.own_peak > plain->own_peak)
        fail_msg("%s %d layers, %s%s: %d kept, own peak %d; without checkpoints %d and %d",
                 nn_family(z->preset.family)->name, z->layers, p->text, selective ? " selective" : "",
                 (int)less.kept, (int)less.own_peak, (int)plain->kept, (int)plain->own_peak);
    Pattern q;
    for (int i = 0; i < z->layers; i++) {
        if (!more_of(p, i, &q))
            continue;
        Held more = held(z, q.text, selective, 0);
        if (more.kept > less.kept || (q.text[i] == 'c' && more.own_peak > less.own_peak))
            fail_msg("%s %d layers, %s then %s%s: %d kept, then %d; own peak %d, then %d",
                     nn_family(z->preset.family)->name, z->layers, p->text, q.text,
                     selective ? " selective" : "", (int)less.kept, (int)more.kept, (int)less.own_peak,
                     (int)more.own_peak);
    }
}

/* More checkpointing never raises what is kept at the end of forward, whether a plain block becomes a segment
 * or a segment continues the one before. The own peak of activations is never above that of no checkpointing,
 * and never rises when a plain block becomes a segment of its own. (A longer segment may raise it:
 * recomputed, it holds what all its blocks keep.) */
static void test_more_checkpointing_never_keeps_more(void **state)
{
    (void)state;
    uint32_t seed = 7;
    for (int i = 0; i < 400; i++) {
        ModelShape z = random_shape(&seed);
        int selective = (int)random_number(&seed, 2);
        Held plain = held(&z, NULL, selective, 0);
        Pattern p = random_pattern(&seed, z.layers);
        check_more(&z, &p, selective, &plain);
    }
}

/* ---- Exactly what ---------------------------------------------------------------------------- */

static const char *const presets[] = {"bert-tiny", "gpt2-tiny", "llama-tiny", "mlp"};

static ModelShape shape_of(const char *name)
{
    ModelShape z = {.batch = 2, .seq = 24, .preset = *nn_preset(name)};
    nn_preset_set_dropout(&z.preset, 0.1f);
    return z;
}

/* A plain block keeps F, a segment the input of its first; BERT's, GPT-2's and LLaMA's blocks keep their
 * input among the F, so that a segment of one keeps F less the rest. */
static void test_a_segment_keeps_one_input(void **state)
{
    (void)state;
    static const char *const patterns[] = {"....c+", "..c+++", "c+++++", "c.c.c.", "cccccc", ".c++.c"};
    for (int k = 1; k < 3; k++) { /* six layers each */
        ModelShape z = shape_of(presets[k]);
        uint64_t none = held(&z, NULL, 0, 0).kept, all = held(&z, "cccccc", 0, 0).kept;
        uint64_t input = rounded((int64_t)z.batch * z.seq * (k == 1 ? 256 : 288));
        assert_int_equal((none - all) % 6, 0);
        for (size_t i = 0; i < COUNT(patterns); i++) {
            uint64_t expected = none, saved = (none - all) / 6; /* by a segment of one block */
            for (const char *c = patterns[i]; *c; c++)
                expected -= *c == 'c' ? saved : *c == '+' ? saved + input : 0;
            assert_int_equal(held(&z, patterns[i], 0, 0).kept, expected);
        }
    }
}

/* Segments of one block are checkpoints of each block, event by event; what is run again does not depend on
 * how it is cut. */
static void test_segments_of_one_and_flops(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(presets); k++) {
        ModelShape z = shape_of(presets[k]);
        int blocks = k == 3 ? 3 : k == 0 ? 4 : 6;
        Pattern ones = {""}, whole = {""};
        memset(ones.text, 'c', (size_t)blocks);
        memset(whole.text, '+', (size_t)blocks);
        whole.text[0] = 'c';
        recorded = &events[0];
        Held by_pattern = held(&z, ones.text, 0, 0);
        recorded = &events[1];
        held(&z, NULL, 0, 1);
        recorded = NULL;
        assert_same_events(presets[k], &events[0], &events[1]);
        Held one_segment = held(&z, whole.text, 0, 0), plain = held(&z, NULL, 0, 0);
        assert_true(by_pattern.flops == one_segment.flops && by_pattern.flops > plain.flops);
        assert_true(one_segment.kept < by_pattern.kept && by_pattern.kept < plain.kept);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_more_checkpointing_never_keeps_more),
        TEST(test_a_segment_keeps_one_input),
        TEST(test_segments_of_one_and_flops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
