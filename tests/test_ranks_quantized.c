/* Quantised weights that ZeRO-3 divides: sizes that no unit divides, each kind, 2 and 3 ranks. What is
 * gathered is the array that one process has, codes and scales, byte for byte; what is trained over it is bit
 * for bit what one process trains; and each rank's plan, made alone, is its run. */
#include <math.h>

#include "../base/quant_layout_.h"
#include "../data/data.h"
#include "../io/weights.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "ranks_support.h"
#include "resume_support.h"

enum { MOST_RANKS = 3, STEPS = 2, BASE_BYTES = 700000 };

typedef enum Kind { NF4, NF4_PLAIN, INT8, KINDS } Kind;
static const DType kinds[KINDS] = {DTYPE_NF4, DTYPE_NF4_PLAIN, DTYPE_INT8};

typedef struct Job {
    ModelFamily family;
    DType dtype;
    RankStrategy strategy;
    int ranks, layers, checkpoint, blocks;
    int later;                      /* quantised when it has weights already */
    const char *from, *to, *merged; /* weights that are read, and written at the end; NULL = none */
    float *weights;
    unsigned char *base[MOST_RANKS]; /* all quantised weights, as each rank gathers them */
    double loss[MOST_RANKS][STEPS];
    char error[MOST_RANKS][RANK_ERROR];
    uint64_t needs[MOST_RANKS], sent[MOST_RANKS], frozen[MOST_RANKS];
    int divided[MOST_RANKS];
} Job;

typedef struct Part {
    Job *job;
    const Ranks *ranks; /* NULL: one process that keeps micro-batches apart */
    int rank;
} Part;

/* 168 x 168, 84 x 168, 333 x 168: no multiples of 64 elements, groups of 16,384, or rows of 2 and 3 ranks. */
static ModelPreset preset_of(const Job *job)
{
    ModelPreset preset = {.name = "awkward", .family = job->family, .batch = 2, .seq = SMALL_SEQ};
    int layers = job->layers ? job->layers : 1;
    if (job->family == MODEL_LLAMA)
        preset.config.llama = (LlamaConfig){.vocab = 257,
                                            .dim = 168,
                                            .layers = layers,
                                            .heads = 4,
                                            .kv_heads = 2,
                                            .hidden = 333,
                                            .max_seq = 24};
    else if (job->family == MODEL_GPT2)
        preset.config.gpt2 =
            (Gpt2Config){.vocab = 257, .dim = 168, .layers = layers, .heads = 4, .ffn = 333, .max_seq = 24};
    else
        preset.config.bert = (BertConfig){
            .vocab = TOKEN_VOCAB, .dim = 168, .layers = layers, .heads = 4, .ffn = 333, .max_seq = 24};
    return preset;
}

static Module *model_of(const Job *job)
{
    ModelPreset preset = preset_of(job);
    nn_set_weights(&(Weights){.quantized = job->later ? DTYPE_F32 : job->dtype, .frozen = 1});
    Module *model = nn_model(&preset);
    nn_set_weights(NULL);
    if (job->from)
        io_load_weights(model, job->from, NULL, NULL);
    if (job->later)
        nn_quantize(model, &(Quantize){.dtype = job->dtype});
    nn_add_lora(model, &(Lora){.rank = 4, .dropout = 0.1f});
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->checkpoint);
    nn_set_gather_blocks(model, job->blocks);
    return model;
}

/* Gathers each quantised weight as an operation does. */
static void read_base(Job *job, int rank, Module *model)
{
    TensorList list = nn_parameters(model);
    uint64_t at = 0;
    job->frozen[rank] = 0;
    job->divided[rank] = 0;
    for (int i = 0; i < list.count && !error_code(); i++) {
        Tensor *t = list.items[i];
        if (!dtype_is_quantized(tensor_dtype(t)))
            continue;
        uint64_t bytes = shape_bytes(tensor_dtype(t), tensor_shape(t));
        job->divided[rank] += shard_is_apart(t);
        job->frozen[rank] += shard_is_apart(t) ? (uint64_t)shard_part_bytes_(t) : bytes;
        if (shard_gather(t) == 0 && job->base[rank] && storage_data(t->storage)) {
            assert_true(at + bytes <= BASE_BYTES);
            storage_read(t->storage, 0, bytes, job->base[rank] + at);
        }
        shard_release(t);
        at += bytes;
    }
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    Loader *data =
        data_text("builtin", &(TextOptions){.batch = 2,
                                            .seq = SMALL_SEQ,
                                            .accumulate = part->ranks ? 1 : job->ranks,
                                            .seed = 1,
                                            .held_out = -1,
                                            .mask_probability = is_masked(job->family) ? 0.3f : 0});
    Module *model = model_of(job);
    read_base(job, part->rank, model);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = 0.1f});
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        if (!meta)
            job->loss[part->rank][step] = tensor_step_loss();
        tensor_scope_end(scope);
    }
    ModelPreset preset = preset_of(job);
    if (job->merged && nn_merge(model, DTYPE_F32) > 0)
        io_save_weights(model, &preset, job->merged, NULL);
    if (job->to)
        io_save_weights(model, &preset, job->to, NULL);
    if (!meta && !error_code() && job->weights && !job->merged)
        write_parts(nn_lora_parameters(model), job->weights);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Part part = {job, ranks, ranks->rank};
    Plan plan;
    int status = plan_and_run(script, &part, ranks, &plan, job->error[ranks->rank]);
    job->needs[ranks->rank] = plan.memory.stats.needs;
    job->sent[ranks->rank] = plan.step_sent;
    return status;
}

static const char *text_of(const Job *job)
{
    static char text[256];
    snprintf(text, sizeof text, "family %d, %s, %s, %d ranks", (int)job->family, dtype_name(job->dtype),
             ranks_strategy_name(job->strategy), job->ranks);
    return text;
}

static void start(Job *job)
{
    job->weights = numbers_new();
    for (int r = 0; r < MOST_RANKS; r++)
        job->base[r] = test_calloc(BASE_BYTES, 1);
}

static void run(Job *job)
{
    start(job);
    int failed = as_ranks(job->ranks, job->strategy, body, job);
    for (int r = 0; r < job->ranks; r++)
        if (job->error[r][0])
            fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
    for (int r = 1; r < job->ranks; r++) {
        assert_int_equal(job->needs[r], job->needs[0]);
        assert_int_equal(job->sent[r], job->sent[0]);
    }
}

static void run_alone(Job *job)
{
    Ranks one = {.size = 1, .strategy = RANKS_ZERO2};
    Part part = {job, NULL, 0};
    start(job);
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .ranks = &one});
    if (script(&part) != 0)
        fail_msg("%s: alone: %s", text_of(job), error_message());
    leave(v);
}

static void drop(Job *job)
{
    test_free(job->weights);
    for (int r = 0; r < MOST_RANKS; r++)
        test_free(job->base[r]);
}

static void assert_equal(const Job *job, const Job *alone)
{
    for (int r = 0; r < job->ranks; r++) {
        if (memcmp(job->base[r], alone->base[0], BASE_BYTES) != 0)
            fail_msg("%s: rank %d gathers other codes or scales", text_of(job), r);
        for (int s = 0; s < STEPS; s++)
            if (fabs(job->loss[r][s] - alone->loss[0][s]) > 1e-6 * alone->loss[0][s])
                fail_msg("%s: rank %d: loss %.9g, not %.9g", text_of(job), r, job->loss[r][s],
                         alone->loss[0][s]);
    }
    double apart = numbers_apart(job->weights, alone->weights);
    if (apart > 0)
        fail_msg("%s: adapters are %g apart from one process's", text_of(job), apart);
}

/* How many of the layer's seven weights zero3 divides: NF4 by 16,384 elements the three large ones. */
static void test_divided_bases_are_one_process(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int ranks = 2; ranks <= MOST_RANKS; ranks++) {
            Job alone = {.family = MODEL_LLAMA, .dtype = kinds[kind], .ranks = ranks};
            run_alone(&alone);
            uint64_t whole = alone.frozen[0];
            for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++) {
                Job job = {.family = MODEL_LLAMA,
                           .dtype = kinds[kind],
                           .strategy = (RankStrategy)strategy,
                           .ranks = ranks};
                run(&job);
                assert_equal(&job, &alone);
                assert_int_equal(job.divided[0], strategy < RANKS_ZERO3 ? 0 : kind == NF4 ? 3 : 7);
                for (int r = 0; r < ranks; r++)
                    assert_true(strategy < RANKS_ZERO3 ? job.frozen[r] == whole
                                                       : job.frozen[r] < whole * (kind == NF4 ? 8 : 6) / 10);
                drop(&job);
            }
            drop(&alone);
        }
}

/* Weights that files have the other way round, recomputed blocks, and blocks gathered at once. */
static void test_families_and_blocks(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_LLAMA, MODEL_GPT2, MODEL_BERT};
    for (int i = 0; i < 6; i++) {
        Job alone = {.family = families[i % 3],
                     .dtype = kinds[(i + i / 3) % KINDS],
                     .strategy = RANKS_ZERO3,
                     .ranks = 3 - i / 3,
                     .checkpoint = i % 2,
                     .layers = i % 3 ? 1 : 2};
        Job job = alone, block = alone;
        block.blocks = 1 + i % 2; /* and the next one */
        run_alone(&alone);
        run(&job);
        run(&block);
        assert_equal(&job, &alone);
        assert_equal(&block, &alone);
        assert_true(job.divided[0] > 0);
        drop(&job);
        drop(&block);
        drop(&alone);
    }
}

/* ---- One matrix ------------------------------------------------------------------------------ */

typedef struct Matrix {
    DType dtype;
    Shape shape;
    int apart; /* it is large enough */
    unsigned char image[60000];
    uint64_t bytes;
    const char *wrong[MOST_RANKS];
} Matrix;

/* But for what makes codes a multiple of four bytes. */
static int differs(const Matrix *m, const Tensor *t)
{
    QuantLayout l = quant_layout(m->dtype, m->shape.dim[0], m->shape.dim[1]);
    uint64_t after = (l.codes_bytes + 3) / 4 * 4;
    const unsigned char *at = storage_data(t->storage);
    return memcmp(at, m->image, l.codes_bytes) || memcmp(at + after, m->image + after, m->bytes - after);
}

/* Written in pieces that no region begins or ends with, and drawn. */
static const char *check_matrix(const Matrix *m)
{
    enum { PIECE = 1001 };
    Tensor *written = tensor_parameter_(m->dtype, m->shape, 1), *drawn = NULL;
    for (uint64_t at = 0, n; at < m->bytes && written; at += n) {
        n = m->bytes - at < PIECE ? m->bytes - at : PIECE;
        tensor_write(written, (int64_t)at, (int64_t)n, m->image + at);
    }
    if (!written || shard_is_apart(written) != m->apart || shard_gather(written) != 0)
        return "is not divided as it should be";
    if (differs(m, written))
        return "was not written as it is";
    shard_release(written);
    drawn = tensor_parameter_(m->dtype, m->shape, 1);
    tensor_fill_normal(drawn, 0, 1);
    if (shard_gather(drawn) != 0 || differs(m, drawn))
        return "was not drawn as one process draws it";
    shard_release(drawn);
    tensor_free(written);
    tensor_free(drawn);
    return NULL;
}

static int matrix_body(const Ranks *ranks, void *user)
{
    Matrix *m = user;
    Context *context = context_create(&(ContextOptions){.threads = 1, .seed = 3, .ranks = ranks});
    Context *outside = context_use(context);
    m->wrong[ranks->rank] = check_matrix(m);
    context_use(outside);
    context_destroy(context);
    return m->wrong[ranks->rank] != NULL;
}

static void test_sizes_that_no_unit_divides(void **state)
{
    (void)state;
    static const Shape shapes[] = {{.ndim = 2, .dim = {333, 168}}, {.ndim = 2, .dim = {31, 1067}},
                                   {.ndim = 2, .dim = {7, 5}},     {.ndim = 2, .dim = {2, 129}},
                                   {.ndim = 2, .dim = {256, 128}}, {.ndim = 2, .dim = {3, 12345}}};
    static const unsigned char apart[][KINDS] = {{1, 1, 1}, {1, 1, 1}, {0, 0, 0},
                                                 {0, 1, 0}, {1, 1, 1}, {1, 1, 0}};
    static Matrix m;
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int kind = 0; kind < KINDS; kind++)
            for (int ranks = 2; ranks <= MOST_RANKS; ranks++) {
                m = (Matrix){.dtype = kinds[kind],
                             .shape = shapes[i],
                             .apart = apart[i][kind] &&
                                      (kind != NF4 || ranks == 2 || shape_numel(shapes[i]) >= 3 * 16384),
                             .bytes = shape_bytes(kinds[kind], shapes[i])};
                Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
                Tensor *t = tensor_parameter_(m.dtype, m.shape, 1);
                tensor_fill_normal(t, 0, 1);
                assert_true(m.bytes <= sizeof m.image);
                storage_read(t->storage, 0, m.bytes, m.image);
                tensor_free(t);
                leave(v);
                as_ranks(ranks, RANKS_ZERO3, matrix_body, &m);
                for (int r = 0; r < ranks; r++)
                    if (m.wrong[r])
                        fail_msg("%s (%lld,%lld), rank %d of %d: %s", dtype_name(m.dtype),
                                 (long long)m.shape.dim[0], (long long)m.shape.dim[1], r, ranks, m.wrong[r]);
            }
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* Weights of this family, as they are drawn. */
static const char *weights_of(ModelFamily family)
{
    Job job = {.family = family};
    ModelPreset preset = preset_of(&job);
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 9});
    assert_int_equal(io_save_weights(nn_model(&preset), &preset, at("weights"), NULL), 0);
    leave(v);
    return at("weights");
}

static int same_directories(const char *a, const char *b)
{
    char command[600];
    snprintf(command, sizeof command, "diff -rq %s %s", a, b);
    return system(command) == 0;
}

/* Numbers in files, quantised as they are read, or when they are there; written again, as they are and with
 * adapters merged. */
static void test_files(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_LLAMA, MODEL_GPT2};
    for (int i = 0; i < 2 * KINDS; i++) {
        Job alone = {.family = families[i % 2],
                     .dtype = kinds[i / 2],
                     .strategy = RANKS_ZERO3,
                     .ranks = 2 + i / 2 % 2,
                     .later = i == 2 || i == 5,
                     .from = weights_of(families[i % 2]),
                     .to = at("one")};
        Job job = alone;
        job.to = at("many");
        run_alone(&alone);
        run(&job);
        assert_equal(&job, &alone);
        assert_true(job.divided[0] > 0);
        if (!same_directories(alone.to, job.to))
            fail_msg("%s: an export is not that of one process", text_of(&job));
        drop(&alone);
        drop(&job);
        alone.merged = at("merged-one");
        job.merged = at("merged-many");
        alone.to = job.to = NULL;
        run_alone(&alone);
        run(&job);
        if (!same_directories(alone.merged, job.merged))
            fail_msg("%s: merged weights are not those of one process", text_of(&job));
        drop(&alone);
        drop(&job);
        empty(folder);
        assert_int_equal(mkdir(folder, 0777), 0);
    }
}

/* ---- What goes wrong ------------------------------------------------------------------------- */

/* All ranks come back from reading with the same error, whichever of them failed, and read again. */
typedef struct Reader {
    DType dtype;
    const char *good, *bad; /* bad: rank 1 finds a number in it that is none */
    int allocations;        /* that failed */
    char wrong[MOST_RANKS][RANK_ERROR];
} Reader;

static int complain(Reader *r, const Ranks *ranks, const char *what)
{
    snprintf(r->wrong[ranks->rank], RANK_ERROR, "%s (%d: %.300s)", what, error_code(), error_message());
    return 1;
}

static void meet(void)
{
    ranks_agree_error_(context_here(), NULL);
}

static int read_bad(Reader *r, const Ranks *ranks, Module *model)
{
    if (io_load_weights(model, r->bad, NULL, NULL) != ERROR_NONFINITE)
        return complain(r, ranks, "a number that is none was read");
    if (!strstr(error_message(), "cannot hold nan, which is element") ||
        (ranks->rank != 1) != !strncmp(error_message(), "rank 1: ", 8))
        return complain(r, ranks, "the message does not say which");
    error_clear();
    return io_load_weights(model, r->good, NULL, NULL) ? complain(r, ranks, "reading does not work again")
                                                       : 0;
}

static int read_without_memory(Reader *r, const Ranks *ranks, Module *model)
{
    static _Atomic int over;
    over = 0;
    meet();
    for (uint64_t n = 1; !over; n++) {
        meet();
        if (ranks->rank == 0)
            memtrack_fail_nth(n);
        meet();
        int code = io_load_weights(model, r->good, NULL, NULL);
        meet();
        if (ranks->rank == 0 && memtrack_fail_pending())
            over = 1;
        meet();
        if (code != ERROR_NONE && code != ERROR_HOST_MEMORY && code != ERROR_MEMORY)
            return complain(r, ranks, "another error than that of memory");
        if ((code == ERROR_NONE) != (over != 0))
            return complain(r, ranks, "memory failed at one rank, and this one read");
        error_clear();
        if (ranks->rank == 0)
            memtrack_fail_nth(0);
        r->allocations = (int)n;
        meet();
    }
    return 0;
}

static int reader_body(const Ranks *ranks, void *user)
{
    Reader *r = user;
    Job job = {.family = MODEL_LLAMA, .dtype = r->dtype};
    ModelPreset preset = preset_of(&job);
    Context *context = context_create(&(ContextOptions){.threads = 1, .seed = 3, .ranks = ranks});
    Context *outside = context_use(context);
    nn_set_weights(&(Weights){.quantized = r->dtype, .frozen = 1});
    Module *model = nn_model(&preset);
    int failed = error_code() ? complain(r, ranks, "no model")
                              : read_bad(r, ranks, model) || read_without_memory(r, ranks, model);
    context_use(outside);
    context_destroy(context);
    return failed;
}

/* The last number of a weight that is divided, among whole ones before and behind it. */
static const char *bad_weights(void)
{
    Job job = {.family = MODEL_LLAMA};
    ModelPreset preset = preset_of(&job);
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 9});
    Module *model = nn_model(&preset);
    TensorList list = nn_parameters(model);
    const float none = NAN;
    for (int i = 0; i < list.count; i++)
        if (strstr(tensor_name(list.items[i]), "up_proj"))
            tensor_write(list.items[i], (tensor_numel(list.items[i]) - 1) * (int64_t)sizeof none, sizeof none,
                         &none);
    assert_int_equal(io_save_weights(model, &preset, at("bad"), NULL), 0);
    leave(v);
    return at("bad");
}

static void test_one_rank_cannot_read(void **state)
{
    (void)state;
    static Reader r;
    for (int kind = NF4; kind < KINDS; kind += INT8 - NF4) {
        r = (Reader){.dtype = kinds[kind], .good = weights_of(MODEL_LLAMA), .bad = bad_weights()};
        uint64_t live = memtrack_process_live();
        as_ranks(2, RANKS_ZERO3, reader_body, &r);
        for (int i = 0; i < MOST_RANKS; i++)
            if (r.wrong[i][0])
                fail_msg("%s: rank %d: %s", dtype_name(r.dtype), i, r.wrong[i]);
        assert_true(r.allocations > 10);
        assert_int_equal(memtrack_process_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_divided_bases_are_one_process), cmocka_unit_test(test_families_and_blocks),
        cmocka_unit_test(test_sizes_that_no_unit_divides), TEST(test_files), TEST(test_one_rank_cannot_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
