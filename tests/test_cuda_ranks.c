/* Several ranks on made-up cards, each in a process with a driver of its own: bit for bit what one process
 * makes there of the same micro-batches, and each rank's run is the plan that it made alone. What they send
 * goes through the host; or through the plugin for NCCL, where that is built, and a library that is made up.
 */
#include <math.h>

#include "cuda_support.h"
#include "../data/data.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "../ranks/launcher_.h"
#include "rank_processes.h"
#include "ranks_support.h"

enum { STEPS = 2, MOST_RANKS = 4 };

typedef struct Job {
    Setting setting;
    RankStrategy strategy;
    int ranks, tensor, sequence, replicas, accumulate, blocks, in_backward, lora;
    DType quantized; /* the base under adapters; 0 = it is not */
    float clip;
    const char *precision;
    int broken;  /* 1 + the rank that stops */
    int guarded; /* nobody but the card touches its memory */
    int nccl;
    /* What came of it. */
    char error[MOST_RANKS][RANK_ERROR];
    double loss[MOST_RANKS][STEPS];
    uint64_t needs[MOST_RANKS], sent[MOST_RANKS];
    float weights[RANK_NUMBERS];
} Job;

typedef struct Part {
    Job *job;
    int rank, alone;
} Part;

static Module *model_of(const Job *job)
{
    ModelPreset preset = preset_of_text(&job->setting, 0);
    if (job->quantized == DTYPE_NF4)
        preset.config.llama.hidden = 1100; /* whole groups of scales for two ranks */
    if (job->quantized)
        nn_set_weights(&(Weights){.quantized = job->quantized, .frozen = 1});
    Module *model = nn_model(&preset);
    nn_set_weights(NULL);
    if (job->lora)
        nn_add_lora(model, &(Lora){.rank = 4});
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->setting.checkpoint);
    nn_set_gather_blocks(model, job->blocks);
    return model;
}

/* The parts that this rank counts, where they are in the whole model. */
static void write_down(TensorList list, float *to)
{
    int64_t at = 0;
    for (int i = 0; i < list.count; at += tensor_numel(list.items[i++])) {
        TensorPart part = tensor_part_(list.items[i]);
        if (part.counts && part.count > 0 && part.master)
            storage_read(part.master, 0, (uint64_t)part.count * sizeof *to, to + at + part.first);
        else if (part.counts && part.count > 0)
            tensor_decode_(list.items[i], part.first, part.count, to + at + part.first);
    }
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    if (!meta && job->broken == 1 + part->rank)
        return error_raise(ERROR_DATA, "this rank has no data");
    Loader *data =
        data_text("builtin", &(TextOptions){.batch = 2,
                                            .seq = SMALL_SEQ,
                                            .accumulate = job->accumulate * (part->alone ? job->ranks : 1),
                                            .seed = 1,
                                            .held_out = -1,
                                            .max_samples = 60});
    if (job->precision) {
        Precision wide = *precision_by_name(job->precision);
        wide.gradients = DTYPE_F32;
        tensor_set_precision(&wide);
    }
    Module *model = model_of(job);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = 0.1f});
    optim_set_clip(optimizer, job->clip);
    optim_set_in_backward(optimizer, job->in_backward);
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
    if (!meta && !error_code() && !(job->tensor > 1 && part->rank)) /* of layers in halves, one half */
        write_down(nn_parameters(model), job->weights);
    return error_code();
}

static int has_plugin(void)
{
    char path[PLUGIN_PATH];
    if (plugin_look_("libbrim-nccl.so", path))
        return 1;
    const char *skipped = getenv("BRIM_SKIPPED");
    FILE *f = skipped ? fopen(skipped, "a") : NULL;
    if (f) {
        fprintf(f, "ranks on cards over NCCL's plugin: there is no nccl.h that built it\n");
        fclose(f);
    }
    return 0;
}

/* A card for each, unless the environment says how many. */
static int join_cards(Ranks *ranks, const char *transport, char why[RANK_ERROR])
{
    char text[512];
    snprintf(text, sizeof text, "%d", ranks->size);
    setenv("STAND_IN_CARDS", text, 0);
    int failed = context_join_cards(ranks, "cuda", transport, text, sizeof text);
    if (failed || !transport)
        snprintf(why, RANK_ERROR, "%s", text);
    return failed;
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Part part = {job, ranks->rank, ranks->size == 1};
    Plan plan;
    Ranks own = *ranks;
    setenv("STAND_IN_GUARD", job->guarded ? "1" : "0", 1);
    setenv("STAND_IN_CAPABILITY", "80", 1); /* cuBLAS's workspace is smaller */
    stand_in_environment();
    if (job->nccl && ranks->size > 1 && join_cards(&own, "nccl", job->error[ranks->rank]))
        return 1;
    int status = plan_and_run_on("cuda", script, &part, &own, &plan, job->error[ranks->rank]);
    job->needs[ranks->rank] = plan.memory.stats.needs;
    job->sent[ranks->rank] = plan.step_sent;
    return status;
}

static Job *start(const Job *asked)
{
    Job *job = processes_shared(sizeof *job);
    assert_non_null(job);
    *job = *asked;
    for (int i = 0; i < RANK_NUMBERS; i++)
        job->weights[i] = NAN;
    return job;
}

static void end(Job *job)
{
    processes_shared_end(job, sizeof *job);
}

static Job *run(const Job *asked)
{
    Job *job = start(asked);
    int failed = as_processes(&(Ranks){.size = job->ranks,
                                       .tensor = job->tensor,
                                       .sequence = job->sequence,
                                       .replicas = job->replicas,
                                       .strategy = job->strategy},
                              body, job);
    for (int r = 0; r < job->ranks; r++)
        if (job->error[r][0])
            fail_msg("%s, %d ranks: rank %d: %s", ranks_strategy_name(job->strategy), job->ranks, r,
                     job->error[r]);
    assert_int_equal(failed, 0);
    for (int r = 1; r < job->ranks; r++) {
        assert_true(job->needs[r] == job->needs[0] && job->needs[r] > 0);
        assert_true(job->sent[r] == job->sent[0] && job->sent[r] > 0);
    }
    return job;
}

/* One process, with each micro-batch's gradient apart. */
static Job *run_alone(const Job *asked)
{
    Job *job = start(asked);
    int failed = as_processes(&(Ranks){.size = 1, .strategy = RANKS_ZERO2}, body, job);
    if (failed)
        fail_msg("alone: %s", job->error[0]);
    return job;
}

static void assert_same(const Job *job, const Job *alone, double most)
{
    double d = numbers_apart(job->weights, alone->weights);
    if (!(d <= most))
        fail_msg("%s, %d ranks: weights are %g apart from one process's", ranks_strategy_name(job->strategy),
                 job->ranks, d);
    for (int r = 0; r < job->ranks; r++)
        for (int s = 0; s < STEPS; s++)
            if (!(fabs(job->loss[r][s] - alone->loss[0][s]) <= 1e-6 * alone->loss[0][s]))
                fail_msg("rank %d: loss %.9g, not %.9g", r, job->loss[r][s], alone->loss[0][s]);
}

static void test_each_strategy_is_one_process(void **state)
{
    (void)state;
    static const Job of[] = {
        {.setting = {.family = MODEL_LLAMA}, .ranks = 2, .accumulate = 1},
        {.setting = {.family = MODEL_GPT2, .dropout = 0.2f, .checkpoint = 1}, .ranks = 3, .accumulate = 1}};
    for (size_t i = 0; i < COUNT(of); i++) {
        Job *alone = run_alone(&of[i]);
        for (int strategy = i ? RANKS_ZERO2 : RANKS_DDP; strategy <= RANKS_ZERO3; strategy += 1 + (int)i) {
            Job *job = start(&of[i]);
            job->strategy = (RankStrategy)strategy;
            job->guarded = strategy == RANKS_ZERO3;
            Job *ran = run(job);
            assert_same(ran, alone, 0);
            end(ran);
            end(job);
        }
        end(alone);
    }
}

/* Masters, and parts of 16 bit; the norm, whose sum has another order; updates inside backward; adapters over
 * weights that are divided too, quantised ones among them; blocks that are gathered together. */
static void test_levers(void **state)
{
    (void)state;
    static const struct {
        Job job;
        double most;
    } of[] = {
        {{.strategy = RANKS_ZERO3, .precision = "bf16-mixed", .blocks = 1}, 0},
        {{.strategy = RANKS_ZERO3, .precision = "bf16"}, 0},
        {{.strategy = RANKS_ZERO2, .clip = 0.05f}, 1e-6},
        {{.strategy = RANKS_ZERO3, .lora = 1}, 0},
        {{.strategy = RANKS_ZERO3, .lora = 1, .quantized = DTYPE_NF4}, 0},
        {{.strategy = RANKS_ZERO3, .lora = 1, .quantized = DTYPE_INT8, .blocks = 1}, 0},
    };
    for (size_t i = 0; i < COUNT(of); i++) {
        Job *asked = start(&of[i].job);
        asked->setting.family = MODEL_LLAMA;
        asked->ranks = 2;
        asked->accumulate = 1;
        Job *alone = run_alone(asked), *ran = run(asked);
        assert_same(ran, alone, of[i].most);
        end(alone);
        end(ran);
        end(asked);
    }
}

static void test_updates_in_backward(void **state)
{
    (void)state;
    Job *after = start(
        &(Job){.setting = {.family = MODEL_GPT2}, .strategy = RANKS_ZERO3, .ranks = 2, .accumulate = 1});
    Job *in = start(after);
    in->in_backward = 1;
    Job *one = run(after), *other = run(in);
    assert_true(numbers_apart(one->weights, other->weights) == 0);
    end(one);
    end(other);
    end(in);
    end(after);
}

/* The sum of a part goes from replica to replica through the host too. */
static void test_replicas(void **state)
{
    (void)state;
    for (int strategy = RANKS_ZERO2; strategy <= RANKS_ZERO3; strategy++) {
        Job *asked = start(&(Job){.setting = {.family = MODEL_LLAMA},
                                  .strategy = (RankStrategy)strategy,
                                  .precision = strategy == RANKS_ZERO2 ? "bf16-mixed" : "fp32",
                                  .ranks = 4,
                                  .replicas = 2,
                                  .accumulate = 1,
                                  .nccl = strategy == RANKS_ZERO3 && has_plugin()});
        Job *alone = run_alone(asked), *ran = run(asked);
        assert_same(ran, alone, 0);
        end(alone);
        end(ran);
        end(asked);
    }
}

/* Ranks that compute layers together have the same samples. */
static void test_layers_in_halves(void **state)
{
    (void)state;
    for (int sequence = 0; sequence < 2; sequence++) {
        ModelFamily family = sequence ? MODEL_GPT2 : MODEL_LLAMA;
        Job *one = start(&(Job){
            .setting = {.family = family, .dropout = sequence ? 0.2f : 0}, .ranks = 1, .accumulate = 1});
        Job *two = start(one);
        two->ranks = two->tensor = 2;
        two->sequence = sequence;
        Job *alone = run_alone(one), *ran = run(two);
        for (int r = 0; r < 2; r++)
            for (int s = 0; s < STEPS; s++)
                assert_true(fabs(ran->loss[r][s] - alone->loss[0][s]) <= 1e-6 * alone->loss[0][s]);
        end(alone);
        end(ran);
        end(two);
        end(one);
    }
}

static void test_a_rank_stops(void **state)
{
    (void)state;
    Job *job = start(&(Job){.setting = {.family = MODEL_LLAMA},
                            .strategy = RANKS_ZERO3,
                            .ranks = 2,
                            .accumulate = 1,
                            .broken = 2});
    assert_int_equal(as_processes(&(Ranks){.size = 2, .strategy = RANKS_ZERO3}, body, job), 2);
    assert_non_null(strstr(job->error[0], "a rank has stopped"));
    assert_non_null(strstr(job->error[1], "this rank has no data"));
    end(job);
}

/* ---- By NCCL ------------------------------------------------------------------------------------ */

static void test_by_nccl(void **state)
{
    static const Job of[] = {{.strategy = RANKS_DDP}, {.strategy = RANKS_ZERO3, .blocks = 1, .guarded = 1}};
    (void)state;
    if (!has_plugin())
        skip();
    Job *alone = NULL;
    for (size_t i = 0; i < COUNT(of); i++) {
        Job *job = start(&of[i]);
        job->setting.family = MODEL_LLAMA;
        job->ranks = 2;
        job->accumulate = job->nccl = 1;
        alone = alone ? alone : run_alone(job);
        Job *ran = run(job);
        assert_same(ran, alone, 0);
        end(ran);
        end(job);
    }
    end(alone);
    Job *halves = start(&(Job){.setting = {.family = MODEL_LLAMA}, .ranks = 2, .tensor = 2, .accumulate = 1});
    Job *split = start(halves);
    split->nccl = 1;
    Job *one = run(halves), *other = run(split);
    assert_true(numbers_apart(one->weights, other->weights) == 0);
    end(one);
    end(other);
    end(split);
    end(halves);
}

enum { EACH = 16, COUNT_SUM = 5 };

static void write_floats(const Storage *to, int64_t first, int count, float value)
{
    float all[64];
    for (int i = 0; i < count; i++)
        all[i] = value + (float)i;
    storage_write(to, (uint64_t)first * sizeof *all, (uint64_t)count * sizeof *all, all);
}

static float number_at(const Storage *from, int64_t i)
{
    float value;
    storage_read(from, (uint64_t)i * sizeof value, sizeof value, &value);
    return value;
}

/* Every call of the table, on the card's memory. Returns the line that is wrong. */
static int each_call(const Transport *t, const Storage *a, const Storage *b, int rank, int size)
{
    void *x = storage_data(a), *y = storage_data(b);
    write_floats(a, rank * EACH, EACH, (float)(100 * rank));
    if (t->gather(t->self, RANKS_ALL, x, EACH * sizeof(float)) || number_at(a, 2 * EACH + 3) != 203)
        return __LINE__;
    for (int r = 0; r < size; r++)
        write_floats(a, r * EACH, EACH, (float)(1000 * rank + 100 * r));
    if (t->exchange(t->self, RANKS_ALL, x, y, EACH * sizeof(float)) ||
        number_at(b, 2 * EACH + 1) != (float)(2001 + 100 * rank))
        return __LINE__;
    write_floats(a, 0, COUNT_SUM, (float)rank);
    if (t->sum(t->self, RANKS_ALL, x, COUNT_SUM) || number_at(a, 4) != 3 + 12)
        return __LINE__;
    write_floats(a, 0, size * COUNT_SUM, (float)rank);
    if (t->sum_parts(t->self, RANKS_ALL, x, y, COUNT_SUM) ||
        number_at(b, 1) != (float)(3 + 3 * (COUNT_SUM * rank + 1)))
        return __LINE__;
    write_floats(a, 0, 3, (float)rank);
    if (t->broadcast(t->self, RANKS_ALL, x, 3 * sizeof(float), 1) || number_at(a, 2) != 3)
        return __LINE__;
    write_floats(a, 0, 3, (float)(7 * rank)); /* from rank to rank, in a chain */
    if ((rank > 0 && t->receive(t->self, RANKS_ALL, x, 2 * sizeof(float), rank - 1, 0)) ||
        (rank + 1 < size && t->start(t->self, RANKS_ALL, x, 2 * sizeof(float), rank + 1, 0)) ||
        t->wait(t->self, 0) || number_at(a, 1) != 1 || number_at(a, 2) != (float)(7 * rank + 2))
        return __LINE__;
    write_floats(a, rank * EACH, EACH, (float)(10 * rank));
    write_floats(b, rank * EACH, EACH, (float)(20 * rank));
    if (t->begin(t->self) || t->gather(t->self, RANKS_ALL, x, EACH * sizeof(float)) ||
        t->gather(t->self, RANKS_ALL, y, EACH * sizeof(float)) || t->end(t->self) ||
        number_at(a, EACH) != 10 || number_at(b, 2 * EACH) != 40)
        return __LINE__;
    return t->divide(t->self, RANKS_ALL, 0, 0) ? 0 : __LINE__; /* all ranks are one group */
}

static int calls(const Ranks *ranks, void *user)
{
    Job *job = user;
    char why[200];
    Ranks own = *ranks;
    char *error = job->error[ranks->rank];
    stand_in_environment();
    if (join_cards(&own, "nccl", error))
        return 1;
    Context *context = context_create(&(ContextOptions){.device = "cuda", .ranks = &own});
    Context *outside = context_use(context);
    Storage *a = storage_new(context, 64 * sizeof(float), MEM_COMMUNICATION);
    Storage *b = a ? storage_new(context, 64 * sizeof(float), MEM_COMMUNICATION) : NULL;
    int line = b ? each_call(own.card, a, b, own.rank, own.size) : 0;
    if (!b || line || own.card->check(own.card->self, why, sizeof why))
        snprintf(error, RANK_ERROR, "line %d: %s%.200s", line, own.card->why(own.card->self),
                 error_message());
    storage_release(context, b);
    storage_release(context, a);
    context_use(outside);
    context_destroy(context);
    return error[0] != 0;
}

static void test_calls_of_nccl(void **state)
{
    (void)state;
    if (!has_plugin())
        skip();
    Job *job = start(&(Job){.ranks = 3});
    as_processes(&(Ranks){.size = 3}, calls, job);
    for (int r = 0; r < 3; r++)
        assert_string_equal(job->error[r], "");
    end(job);
}

/* Which one it is where nobody says. */
static int chooses(const Ranks *ranks, void *user)
{
    Job *job = user;
    Ranks own = *ranks;
    stand_in_environment();
    int failed = join_cards(&own, job->precision, job->error[ranks->rank]);
    job->needs[ranks->rank] = own.card != NULL;
    return failed;
}

static void choose(const char *asked, const char *set, const char *value, const char *sentence, int nccl)
{
    Job *job = start(&(Job){.ranks = 2, .precision = asked});
    if (set)
        setenv(set, value, 1);
    as_processes(&(Ranks){.size = 2}, chooses, job);
    if (set)
        unsetenv(set);
    for (int r = 0; r < 2; r++) {
        assert_true((int)job->needs[r] == nccl);
        if (!strstr(job->error[r], sentence))
            fail_msg("'%s' is not in: %s", sentence, job->error[r]);
    }
    end(job);
}

static void test_who_carries(void **state)
{
    (void)state;
    if (!has_plugin())
        skip();
    choose(NULL, NULL, NULL, "NCCL 2.28.9", 1);
    choose("mpi", NULL, NULL, "", 0);
    choose(NULL, "STAND_IN_CARDS", "1", "ranks 0 and 1 have the same card", 0);
    choose("nccl", "STAND_IN_CARDS", "1", "--transport mpi sends through the host's memory", 0);
    choose(NULL, "BRIM_NCCL", "/nowhere/libnccl.so", "rank 0: BRIM_NCCL names a library that cannot", 0);
}

/* What goes wrong on the card of one is found by who watches; the run of the other cannot end well either. */
static int fails_later(const Ranks *ranks, void *user)
{
    Job *job = user;
    char why[200] = "";
    Ranks own = *ranks;
    stand_in_environment();
    if (join_cards(&own, "nccl", job->error[ranks->rank]))
        return 1;
    if (own.rank == 1)
        setenv("STAND_IN_NCCL_FAIL", "5", 1); /* the first after all were used once */
    Context *context = context_create(&(ContextOptions){.device = "cuda", .ranks = &own});
    Context *outside = context_use(context);
    Storage *a = storage_new(context, 64 * sizeof(float), MEM_COMMUNICATION);
    own.card->gather(own.card->self, RANKS_ALL, storage_data(a), 64);
    if (own.rank == 1 && own.card->check(own.card->self, why, sizeof why))
        snprintf(job->error[1], RANK_ERROR, "%s", why);
    error_raise(ERROR_DATA, "this run fails");
    context_use(outside);
    context_destroy(context); /* and waits for nobody */
    return 0;
}

static void test_a_card_fails_later(void **state)
{
    (void)state;
    if (!has_plugin())
        skip();
    Job *job = start(&(Job){.ranks = 2});
    as_processes(&(Ranks){.size = 2}, fails_later, job);
    assert_non_null(strstr(job->error[1], "remote process exited"));
    end(job);
}

/* Every allocation of the host's that a context of a rank makes fails once: an error, and nothing is left. */
static int without_memory(const Ranks *ranks, void *user)
{
    enum { MOST = 400 };
    Job *job = user;
    Ranks own = *ranks;
    stand_in_environment();
    own.size = 2; /* nobody is met before a script begins */
    int fine = 0, n = 0;
    for (uint64_t live = memtrack_process_live(); !fine && ++n < MOST;) {
        memtrack_fail_nth((uint64_t)n);
        Context *context = context_create(&(ContextOptions){.device = "cuda", .ranks = &own, .threads = 1});
        memtrack_fail_nth(0);
        Context *outside = context_use(context);
        fine = context && !error_code();
        if (context && strstr(error_message(), "that what ranks send passes through"))
            job->sent[0]++;
        context_use(outside);
        context_destroy(context);
        if (memtrack_process_live() != live)
            return 1;
    }
    job->needs[0] = (uint64_t)n;
    return !fine;
}

static void test_a_context_without_memory(void **state)
{
    (void)state;
    Job *job = start(&(Job){.ranks = 1});
    assert_int_equal(as_processes(&(Ranks){.size = 1}, without_memory, job), 0);
    assert_true(job->needs[0] > 3);
    assert_true(job->sent[0] == 1);
    end(job);
}

static int stages(const Ranks *ranks, void *user)
{
    Job *job = user;
    stand_in_environment();
    Context *context = context_create(&(ContextOptions){.device = "cuda", .ranks = ranks});
    Context *outside = context_use(context);
    int status = error_code();
    snprintf(job->error[ranks->rank], sizeof job->error[0], "%s", error_message());
    context_use(outside);
    context_destroy(context);
    return status;
}

static void test_stages_are_refused(void **state)
{
    (void)state;
    Job *job = start(&(Job){.ranks = 2});
    assert_int_equal(as_processes(&(Ranks){.size = 2, .stages = 2}, stages, job), 2);
    assert_non_null(strstr(job->error[0], "stages of a model train on the CPU"));
    end(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_strategy_is_one_process),
                                       cmocka_unit_test(test_levers),
                                       cmocka_unit_test(test_updates_in_backward),
                                       cmocka_unit_test(test_replicas),
                                       cmocka_unit_test(test_layers_in_halves),
                                       cmocka_unit_test(test_a_rank_stops),
                                       cmocka_unit_test(test_stages_are_refused),
                                       cmocka_unit_test(test_by_nccl),
                                       cmocka_unit_test(test_calls_of_nccl),
                                       cmocka_unit_test(test_who_carries),
                                       cmocka_unit_test(test_a_context_without_memory),
                                       cmocka_unit_test(test_a_card_fails_later)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
