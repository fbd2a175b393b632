/* A vocabulary of which ranks have a part each: bad ids and labels are the same error on all of them, logits
 * are whole for whoever asks, more ranks than classes are no trouble, what a rank holds is a formula, and no
 * memory at any place leaves nothing behind. */
#include <math.h>

#include "../nn/lora.h"
#include "../nn/module_.h"
#include "../optim/optim.h"
#include "ranks_support.h"

enum { MOST_RANKS = 4, BATCH = 2, SEQ = 5, MOST_VOCAB = 257 };

typedef enum Way { LOSS, LOSS_IN_CHUNKS, LOSS_OF_LABELLED, LOSS_BY_HAND, WAYS } Way;

typedef struct Job {
    int vocab, ranks, tied, evaluates, unit, sequence;
    Way way;
    float softcap;             /* of the logits; 0: none */
    int32_t bad_id, bad_label; /* 0: none */
    float loss[MOST_RANKS], logits[MOST_RANKS][BATCH * SEQ * MOST_VOCAB];
    float gradient[MOST_VOCAB * 8]; /* of the head: every rank writes its part */
    int code[MOST_RANKS];
    char message[MOST_RANKS][RANK_ERROR], error[MOST_RANKS][RANK_ERROR];
} Job;

typedef struct Part {
    Job *job;
    int rank;
} Part;

static Tensor *numbers(const int32_t *values)
{
    return tensor_from(DTYPE_I32, SHAPE(BATCH, SEQ), MEM_INPUT, values);
}

/* The last label counts nothing. */
static Batch batch_of(const Job *job)
{
    int32_t ids[BATCH * SEQ], labels[BATCH * SEQ];
    for (int i = 0; i < BATCH * SEQ; i++) {
        ids[i] = (i * 7 + 3) % job->vocab;
        labels[i] = (i * 5 + 1) % job->vocab;
    }
    ids[BATCH * SEQ - 2] = job->vocab - 1;
    labels[BATCH * SEQ - 1] = BATCH_IGNORE;
    if (job->bad_id)
        ids[3] = job->bad_id;
    if (job->bad_label)
        labels[6] = job->bad_label;
    return (Batch){.ids = numbers(ids),
                   .labels = numbers(labels),
                   .tokens = BATCH * SEQ,
                   .labels_counted = BATCH * SEQ - 1,
                   .labels_total = BATCH * SEQ - 1};
}

static Module *model_of(const Job *job)
{
    Module *model = nn_llama(&(LlamaConfig){.vocab = job->vocab,
                                            .dim = 8,
                                            .layers = 1,
                                            .heads = 4,
                                            .kv_heads = 4,
                                            .hidden = 8,
                                            .tied = job->tied});
    if (model) {
        ModuleHead head = model->model->head;
        head.softcap = job->softcap;
        nn_offer_head(model, &head);
    }
    nn_set_loss_chunk(model, job->way == LOSS_IN_CHUNKS ? 3 : 0);
    nn_set_skip_unlabelled(model, job->way == LOSS_OF_LABELLED);
    return model;
}

static void write_gradient(Job *job, Module *model)
{
    TensorList list = nn_parameters(model);
    Tensor *head = list.items[job->tied ? 0 : list.count - 1];
    RowsPart part = tensor_rows_part_(head);
    assert_int_equal(part.all, job->vocab);
    if (head->grad && part.count)
        memcpy(job->gradient + part.first * 8, storage_f32(head->grad),
               (size_t)part.count * 8 * sizeof(float));
}

static int script(void *config)
{
    Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current()), scope = tensor_scope_begin();
    Module *model = model_of(job);
    Batch batch = batch_of(job);
    if (job->evaluates)
        tensor_no_grad_begin();
    Tensor *loss, *logits = job->way == LOSS_BY_HAND ? nn_forward(model, batch.ids, &batch) : NULL;
    if (logits) {
        tensor_keep(logits);
        loss = tensor_cross_entropy(logits, batch.labels, BATCH_IGNORE, 1.0f / (BATCH * SEQ - 1));
        if (!meta && loss)
            tensor_read(logits, 0, BATCH * SEQ * job->vocab * (int64_t)sizeof(float),
                        job->logits[part->rank]);
    } else {
        loss = nn_loss(model, &batch);
    }
    if (job->evaluates)
        tensor_no_grad_end();
    job->loss[part->rank] = tensor_item(loss);
    if (!job->evaluates && tensor_backward(loss) == 0 && !meta)
        write_gradient(job, model);
    job->code[part->rank] = error_code();
    snprintf(job->message[part->rank], RANK_ERROR, "%s", error_message());
    tensor_scope_end(scope);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Ranks own = *ranks;
    own.tensor = own.size;
    own.unit = job->unit;
    own.sequence = job->sequence;
    Plan plan;
    return plan_and_run(script, &(Part){job, ranks->rank}, &own, &plan, job->error[ranks->rank]);
}

static void run(Job *job)
{
    if (job->ranks == 1) {
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
        script(&(Part){job, 0});
        leave(v);
        return;
    }
    as_ranks(job->ranks, RANKS_DDP, body, job);
}

static Job *job_new(Job like)
{
    Job *job = test_calloc(1, sizeof *job);
    *job = like;
    run(job);
    return job;
}

/* The largest difference beside the largest expected number. */
static double apart(const float *a, const float *expected, int64_t n)
{
    double most = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)expected[i]);
        most = d > most || isnan(d) ? d : most;
        largest = fabs((double)expected[i]) > largest ? fabs((double)expected[i]) : largest;
    }
    return most / largest;
}

static void assert_equal_to_one(Job job)
{
    Job one = job;
    one.ranks = 1;
    Job *alone = job_new(one), *all = job_new(job);
    assert_int_equal(alone->code[0], 0);
    for (int r = 0; r < job.ranks; r++) {
        assert_string_equal(all->error[r], "");
        assert_true(apart(&all->loss[r], &alone->loss[0], 1) <= 1e-6);
        assert_true(all->loss[r] == all->loss[0]);
        if (job.way == LOSS_BY_HAND)
            assert_true(apart(all->logits[r], alone->logits[0], BATCH * SEQ * job.vocab) <= 1e-6);
    }
    if (!job.evaluates)
        assert_true(apart(all->gradient, alone->gradient, 8 * job.vocab) <= 1e-6);
    test_free(alone);
    test_free(all);
}

/* 256 that 4 divides, 257 that nothing divides, and 5 of which the last of 4 ranks has none; and parts in
 * units of 128 to 384 rows, of which the first rank may have all. */
static void test_any_vocabulary(void **state)
{
    (void)state;
    static const int vocab[] = {256, 257, 5};
    for (int i = 0; i < 3; i++)
        for (int ranks = 2; ranks <= 4; ranks++)
            for (int way = LOSS; way < WAYS; way++)
                if (ranks != 3) /* which does not divide the heads */
                    assert_equal_to_one((Job){.vocab = vocab[i],
                                              .ranks = ranks,
                                              .tied = way % 2,
                                              .evaluates = i == 1 && ranks == 2,
                                              .unit = i ? way * 128 : 0,
                                              .softcap = (i + ranks) % 4 ? 0.0f : 0.02f,
                                              .way = (Way)way});
}

/* Five rows on each of two ranks, of 160 bytes, which is no whole number of what ranks send. */
static void test_rows_between(void **state)
{
    (void)state;
    for (int way = LOSS; way < WAYS; way++)
        for (int tied = 0; tied < 2; tied++)
            assert_equal_to_one((Job){.vocab = 257,
                                      .ranks = 2,
                                      .tied = tied,
                                      .way = (Way)way,
                                      .sequence = 1,
                                      .softcap = tied ? 0.02f : 0});
}

/* Ten rows over four ranks, a batch without ids, an adapter, a pooler. */
static void test_what_has_no_rows(void **state)
{
    (void)state;
    Job *job = test_calloc(1, sizeof *job);
    *job = (Job){.vocab = 257};
    Ranks ranks = {.size = 4, .tensor = 4, .sequence = 1};
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .meta = 1, .ranks = &ranks});
    Module *model = model_of(job);
    Batch batch = batch_of(job);
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_RANKS, "10 rows", "4 ranks of sequence parallel", "that 4 divides");
    assert_int_equal(nn_add_lora(model, &(Lora){.rank = 2}), -1);
    assert_error(ERROR_RANKS, "nn_add_lora", "not there with sequence parallel");
    assert_null(nn_bert(&(BertConfig){.vocab = 257, .dim = 8, .layers = 1, .heads = 4, .pooler = 1}));
    assert_error(ERROR_RANKS, "bert", "pooler");
    Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(BATCH, SEQ, 8), MEM_INPUT);
    assert_null(nn_forward(nn_block(model, 0), x, NULL));
    assert_error(ERROR_DATA, "sequence parallel", "token ids");
    assert_null(nn_forward(nn_block(model, 0), x, &batch));
    assert_error(ERROR_SHAPE, "enter", "not a rank's rows");
    leave(v);
    test_free(job);
}

/* Whoever has the row, whoever has not, and where nobody but the padding has it. */
static void test_bad_ids_and_labels(void **state)
{
    (void)state;
    static const int32_t bad[] = {-1, 257, 258, INT32_MAX};
    for (size_t i = 0; i < COUNT(bad); i++)
        for (int way = LOSS; way < WAYS; way++)
            for (int label = 0; label < 2; label++) {
                Job like = {.vocab = 257, .ranks = 1, .way = (Way)way};
                *(label ? &like.bad_label : &like.bad_id) = bad[i];
                Job *alone = job_new(like);
                assert_int_equal(alone->code[0], ERROR_INDEX);
                like.ranks = 2;
                Job *all = job_new(like);
                for (int r = 0; r < 2; r++) {
                    assert_int_equal(all->code[r], ERROR_INDEX);
                    assert_string_equal(all->message[r], alone->message[0]);
                }
                test_free(alone);
                test_free(all);
            }
}

/* ---- What a rank has ------------------------------------------------------------------------- */

static uint64_t parameters_of(int vocab, int tensor, int rank)
{
    Job *job = test_calloc(1, sizeof *job);
    *job = (Job){.vocab = vocab};
    Ranks ranks = {.size = tensor, .tensor = tensor, .rank = rank};
    Plan plan;
    RunOptions o = {.threads = 1, .seed = 5, .quiet = 1, .ranks = tensor > 1 ? &ranks : NULL};
    assert_int_equal(plan_script(script, &(Part){job, 0}, &o, &plan), 0);
    uint64_t bytes = plan.memory.stats.own_peak[MEM_PARAMETER];
    plan_free(&plan);
    test_free(job);
    return bytes;
}

/* All matrices by T, and norms of 32 bytes, which take 64; a vocabulary has as many rows on each rank. Every
 * other figure is a whole number of 64 bytes, but for 65 rows of 32. */
static void test_what_a_rank_has(void **state)
{
    (void)state;
    enum { DIM = 8, HIDDEN = 8, LAYER = 4 * DIM * DIM + 3 * DIM * HIDDEN };
    for (int tensor = 1; tensor <= 4; tensor *= 2)
        for (int vocab = 256; vocab <= 264; vocab += 8)
            for (int rank = 0; rank < tensor; rank++)
                assert_int_equal(parameters_of(vocab, tensor, rank),
                                 4 * ((2 * vocab * DIM + LAYER) / tensor) + 64 * 3);
    for (int rank = 0; rank < 4; rank++) /* 65, 65, 65 and 62 rows */
        assert_int_equal(parameters_of(257, 4, rank), 4 * (2 * 66 * DIM + LAYER / 4) + 64 * 3);
}

/* Whichever allocation fails: an error, and nothing stays. */
static void test_no_memory(void **state)
{
    (void)state;
    Ranks ranks = {.size = 2, .tensor = 2, .rank = 1};
    Job *job = test_calloc(1, sizeof *job);
    for (int way = LOSS; way <= WAYS; way++) {
        int pending = 0;
        ranks.sequence = way == WAYS; /* once more, with rows between layers */
        for (uint64_t n = 1; !pending; n++) {
            *job = (Job){.vocab = 257, .way = (Way)(way % WAYS)};
            uint64_t live = memtrack_process_live();
            Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .meta = 1, .ranks = &ranks});
            memtrack_fail_nth(n);
            int failed = script(&(Part){job, 0});
            pending = memtrack_fail_pending();
            memtrack_fail_nth(0);
            assert_int_equal(failed == 0, pending);
            error_clear();
            leave(v);
            assert_int_equal(memtrack_process_live(), live);
        }
    }
    test_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_vocabulary),  cmocka_unit_test(test_bad_ids_and_labels),
        cmocka_unit_test(test_rows_between),    cmocka_unit_test(test_what_has_no_rows),
        cmocka_unit_test(test_what_a_rank_has), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
