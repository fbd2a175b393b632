/* Quantised weights of which ranks that compute a layer together have a part each: every part has the values
 * of the whole, bit for bit, whether it is drawn, read from floats and encoded, or read as codes. */
#include <math.h>

#include "../base/quant_codes_.h"
#include "../io/safetensors_.h"
#include "../io/weights.h"
#include "../nn/module_.h"
#include "ranks_support.h"
#include "resume_support.h"

enum { MOST_RANKS = 4 };

typedef struct Job {
    ModelFamily family;
    DType quantized;                  /* 0: floats */
    int ranks, tensor, stages, merge; /* adapters, which change nothing, are added and merged */
    RankStrategy strategy;
    const char *from, *to; /* weights that are read, floats that are exported; NULL = none */
    const char *codes_to;  /* the codes, as bitsandbytes has them, by one process */
    float *values;         /* of all parameters, in the order of files */
    char error[MOST_RANKS][RANK_ERROR];
} Job;

typedef struct Part {
    Job *job;
    const Ranks *ranks;
} Part;

static ModelPreset preset_of(const Job *job)
{
    ModelPreset preset = {.name = "cut", .family = job->family, .batch = 1, .seq = SMALL_SEQ};
    if (job->family == MODEL_GPT2)
        preset.config.gpt2 =
            (Gpt2Config){.vocab = 61, .dim = 128, .layers = 2, .heads = 4, .ffn = 512, .max_seq = 16};
    else
        preset.config.llama = (LlamaConfig){
            .vocab = 61, .dim = 128, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 256, .max_seq = 16};
    return preset;
}

/* What this rank has, where it lies in the whole. */
static void write_values(TensorList list, float *to)
{
    for (int i = 0; i < list.count; i++) {
        const Tensor *t = list.items[i];
        TensorPart part = tensor_part_(t); /* with zero3: among ranks that divide the data */
        int64_t first = shard_is_apart(t) ? part.first : 0, whole = tensor_whole_numel_(t);
        int64_t count = t->absent ? 0 : shard_is_apart(t) ? part.count : tensor_numel(t);
        float *values = test_malloc((size_t)(count + 1) * sizeof *values);
        assert_false(shard_is_apart(t) && dtype_is_quantized(t->dtype));
        if (count)
            tensor_decode_file_(t, first, count, values);
        for (int64_t at = 0, n; at < count; at += n) {
            n = count - at;
            int64_t place = tensor_place_(t, first + at, &n), some = whole - place < n ? whole - place : n;
            if (some > 0)
                memcpy(to + place, values + at, (size_t)some * sizeof *values);
        }
        test_free(values);
        to += whole;
    }
}

/* ---- Codes as bitsandbytes has them ------------------------------------------------------------- */

typedef struct Codes {
    SafetensorsItem items[128];
    char names[128][128], states[32][256];
    int count, matrices;
} Codes;

static void add(Codes *c, const char *name, const char *end, SafetensorsType type, int64_t n,
                const void *data)
{
    snprintf(c->names[c->count], sizeof c->names[0], "%s%s", name, end);
    c->items[c->count] =
        (SafetensorsItem){.name = c->names[c->count], .type = type, .ndim = 1, .dim = {n}, .data = data};
    c->count++;
}

static void add_nf4(Codes *c, const Tensor *t, const QuantLayout *l, const unsigned char *at)
{
    const char *name = tensor_name(t);
    char *state = c->states[c->matrices++], offset[64] = "";
    int nested = tensor_dtype(t) == DTYPE_NF4;
    if (nested)
        snprintf(offset, sizeof offset, ", \"nested_blocksize\": 256, \"nested_offset\": %.9g",
                 (double)*(const float *)(const void *)(at + l->offset));
    int length = snprintf(state, sizeof c->states[0],
                          "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [%d, %d]%s}",
                          (int)tensor_dim(t, 0), (int)tensor_dim(t, 1), offset);
    add(c, name, "", SAFETENSORS_U8, (int64_t)l->codes_bytes, at);
    add(c, name, ".absmax", nested ? SAFETENSORS_U8 : SAFETENSORS_F32, l->blocks, at + l->scales);
    add(c, name, ".quant_map", SAFETENSORS_F32, 16, nf4_code);
    if (nested) {
        add(c, name, ".nested_absmax", SAFETENSORS_F32, l->groups, at + l->group_scales);
        add(c, name, ".nested_quant_map", SAFETENSORS_F32, 256, dynamic_code);
    }
    add(c, name, ".quant_state.bitsandbytes__nf4", SAFETENSORS_U8, length, state);
}

static void write_codes(TensorList list, const char *path)
{
    Codes *c = test_calloc(1, sizeof *c);
    for (int i = 0; i < list.count; i++) {
        const Tensor *t = list.items[i];
        const unsigned char *at = storage_data(t->storage);
        QuantLayout l = quant_layout(t->dtype, tensor_dim(t, 0), tensor_dim(t, 1));
        if (!dtype_is_quantized(t->dtype))
            c->items[c->count++] = safetensors_item(tensor_name(t), SAFETENSORS_F32, t);
        else if (t->dtype != DTYPE_INT8)
            add_nf4(c, t, &l, at);
        else {
            char module[96];
            snprintf(module, sizeof module, "%.*s", (int)strlen(tensor_name(t)) - 7, tensor_name(t));
            add(c, tensor_name(t), "", SAFETENSORS_I8, (int64_t)l.codes_bytes, at);
            c->items[c->count - 1].ndim = 2;
            c->items[c->count - 1].dim[0] = tensor_dim(t, 0);
            c->items[c->count - 1].dim[1] = tensor_dim(t, 1);
            add(c, module, ".SCB", SAFETENSORS_F32, tensor_dim(t, 0), at + l.scales);
        }
    }
    safetensors_write(path, c->items, c->count);
    test_free(c);
}

/* ---- Runs ---------------------------------------------------------------------------------------- */

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    ModelPreset preset = preset_of(job);
    nn_set_weights(&(Weights){.quantized = job->quantized, .frozen = job->quantized != 0});
    Module *model = nn_model(&preset);
    if (job->from)
        io_load_weights(model, job->from, NULL, NULL);
    if (job->merge) {
        nn_add_lora(model, &(Lora){.rank = 4});
        nn_merge(model, DTYPE_F32);
    }
    if (job->to)
        io_save_weights(model, &preset, job->to, NULL);
    if (!meta && !error_code() && job->values)
        write_values(nn_parameters(model), job->values);
    if (!meta && !error_code() && job->codes_to)
        write_codes(nn_parameters(model), job->codes_to);
    module_free(model);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Plan plan;
    return plan_and_run(script, &(Part){job, ranks}, ranks, &plan, job->error[ranks->rank]);
}

static const char *text_of(const Job *job)
{
    static char text[160];
    snprintf(text, sizeof text, "%s %s, %d ranks, %d compute a layer, %s",
             job->family == MODEL_GPT2 ? "gpt2" : "llama", dtype_name(job->quantized), job->ranks,
             job->tensor, job->from ? job->from : "drawn");
    return text;
}

static void run(Job *job)
{
    Ranks ranks = {
        .size = job->ranks, .tensor = job->tensor, .stages = job->stages, .strategy = job->strategy};
    int failed = as_these_ranks(&ranks, body, job);
    for (int r = 0; r < job->ranks; r++)
        if (job->error[r][0] && !strstr(job->error[r], "a rank has stopped"))
            fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
}

static const DType types[] = {DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};

/* from: weights, or NULL: they are drawn. */
static void assert_values_of_the_whole(ModelFamily family, DType type, const char *from, const char *codes_to)
{
    Job one = {.family = family, .quantized = type, .ranks = 1, .tensor = 1, .stages = 1, .from = from},
        cut = one;
    one.values = numbers_new();
    one.codes_to = codes_to;
    run(&one);
    for (int i = 0; i < 3; i++) {
        cut.tensor = 2;
        cut.stages = i == 1 ? 2 : 1;
        cut.ranks = i ? 4 : 2;
        cut.strategy = i == 2 ? RANKS_ZERO3 : RANKS_DDP;
        cut.values = numbers_new();
        run(&cut);
        if (numbers_apart(cut.values, one.values) != 0)
            fail_msg("%s: values are not those of one process", text_of(&cut));
        test_free(cut.values);
    }
    test_free(one.values);
}

static void test_parts_of_the_whole(void **state)
{
    (void)state;
    for (int gpt2 = 0; gpt2 < 2; gpt2++) {
        ModelFamily family = gpt2 ? MODEL_GPT2 : MODEL_LLAMA;
        Job floats = {.family = family, .ranks = 1, .tensor = 1, .stages = 1, .to = at("floats")};
        run(&floats);
        for (size_t i = 0; i < COUNT(types); i++) {
            const char *codes = at("codes-%d.safetensors", (int)types[i]);
            assert_values_of_the_whole(family, types[i], NULL, codes);
            assert_values_of_the_whole(family, types[i], at("floats"), NULL);
            assert_values_of_the_whole(family, types[i], codes, NULL);
            assert_values_of_the_whole(family, DTYPE_F32, codes, NULL);
        }
        empty(at("floats"));
    }
}

/* What merging makes of a part is floats, wherever its scales came from. */
static void test_merged_parts(void **state)
{
    (void)state;
    for (int gpt2 = 0; gpt2 < 2; gpt2++)
        for (size_t i = 0; i < COUNT(types); i++) {
            Job one = {.family = gpt2 ? MODEL_GPT2 : MODEL_LLAMA,
                       .quantized = types[i],
                       .ranks = 1,
                       .tensor = 1,
                       .merge = 1},
                cut = one;
            one.values = numbers_new();
            cut.values = numbers_new();
            cut.ranks = cut.tensor = 2;
            run(&one);
            run(&cut);
            if (numbers_apart(cut.values, one.values) != 0)
                fail_msg("%s: merged, values are not those of one process", text_of(&cut));
            test_free(cut.values);
            test_free(one.values);
        }
}

/* ---- What is refused ----------------------------------------------------------------------------- */

/* Parts that would cut blocks: the message says what they are, and what would do. */
static void test_blocks_are_not_cut(void **state)
{
    (void)state;
    Ranks ranks = {.size = 4, .tensor = 4};
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .meta = 1, .ranks = &ranks});
    Job job = {.family = MODEL_GPT2};
    ModelPreset preset = preset_of(&job);
    assert_int_equal(nn_set_weights(&(Weights){.quantized = DTYPE_NF4, .frozen = 1}), 0);
    assert_null(nn_model(&preset));
    assert_error(ERROR_RANKS, "transformer.h.0.attn.c_proj", "blocks of 64",
                 "128 columns would be cut to 32");
    assert_int_equal(nn_set_weights(&(Weights){.quantized = DTYPE_INT8, .frozen = 1}), 0);
    assert_non_null(nn_model(&preset));
    leave(v);
}

/* ---- Memory that is not there --------------------------------------------------------------------- */

static int alone(void *self, RankGroup group, int colour, int place)
{
    (void)self;
    (void)group;
    (void)colour;
    (void)place;
    return 0;
}

/* Whichever allocation fails, it is said, and nothing is left; nobody waits for anybody meanwhile. */
static void test_every_allocation_fails(void **state)
{
    (void)state;
    Transport nobody = {.abi = TRANSPORT_ABI, .divide = alone};
    Ranks ranks = {.size = 2, .tensor = 2, .rank = 1, .transport = &nobody};
    for (size_t i = 0; i < COUNT(types); i++) {
        int over = 0;
        for (uint64_t n = 1; !over; n++) {
            Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .ranks = &ranks});
            nn_set_weights(&(Weights){.quantized = types[i], .frozen = 1});
            int scope = tensor_scope_begin();
            memtrack_fail_nth(n);
            const Module *linear =
                module_linear(&(LinearOptions){.in = 256, .out = 64, .split = LINEAR_BY_INPUTS});
            over = memtrack_fail_pending();
            memtrack_fail_nth(0);
            assert_int_equal(linear != NULL, over);
            if (!over)
                assert_true(error_code() == ERROR_HOST_MEMORY || error_code() == ERROR_MEMORY);
            error_clear();
            tensor_scope_end(scope);
            assert_int_equal(memtrack_stats(context_here()->ledger)->live, 0);
            leave(v);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_parts_of_the_whole), TEST(test_merged_parts),
                                       TEST(test_blocks_are_not_cut), TEST(test_every_allocation_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
