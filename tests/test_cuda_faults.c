/* What goes wrong on a card is named as on the CPU, when the step is done, and ruins nothing; what cannot be
 * had is an error like any other; and all that was taken is given back. */
#include <math.h>

#include "cuda_support.h"
#include "plan_support.h"

/* ---- A bad step ------------------------------------------------------------------------------ */

typedef struct Bad {
    Case c;
    /* Makes a step's batch, model or optimizer bad. */
    void (*spoil)(Module *model, Optimizer *optimizer, const Batch *b);
    void (*mend)(Module *model);
    float clip, scale;
    /* Left behind: what the bad step said, whether it changed anything, and the loss of the step after it. */
    char message[512];
    int code, changed;
    int64_t skipped;
    double loss;
} Bad;

enum { SPOILED = 4, AFTER = SPOILED + 1 }; /* steps before it are alike, and go as graphs */

static Bad bad;
static float before[CASE_PARAMETERS], after[CASE_PARAMETERS], kept[CASE_PARAMETERS];

static int64_t copy_parameters(Module *model, float *to)
{
    TensorList list = nn_parameters(model);
    int64_t all = 0;
    for (int i = 0; i < list.count; i++) {
        int64_t n = tensor_numel(list.items[i]);
        tensor_read(list.items[i], 0, n * 4, to + all);
        all += n;
    }
    return all;
}

static void train_step(const Bad *s, Module *model, Optimizer *optimizer, Loader *train, int spoiled)
{
    int scope = tensor_scope_begin();
    for (const Batch *b; (b = data_next(train));) {
        if (spoiled)
            s->spoil(model, optimizer, b);
        tensor_backward(nn_loss(model, b));
    }
    optim_step(optimizer);
    optim_zero_grad(optimizer);
    tensor_scope_end(scope);
}

static int bad_script(void *config)
{
    Bad *s = config;
    int meta = context_is_meta(context_current());
    s->c.samples = 4 * CASE_BATCH; /* so that all steps are alike */
    Loader *train = case_loader(&s->c, 0);
    Module *model = case_model(&s->c);
    Optimizer *optimizer = optim_by_name(s->c.optimizer, nn_parameters(model), 0, 0);
    if (s->c.in_backward)
        optim_set_in_backward(optimizer, 1);
    if (s->clip > 0)
        optim_set_clip(optimizer, s->clip);
    if (s->scale > 0)
        optim_set_loss_scale(optimizer, s->scale);
    for (int step = 0; step <= AFTER; step++) {
        int spoiled = step == SPOILED && !meta;
        int64_t n = spoiled ? copy_parameters(model, before) : 0;
        unsigned long long graphs = stand_in_seen().graphs;
        train_step(s, model, optimizer, train, spoiled);
        if (spoiled && context_current()->card && stand_in_seen().graphs == graphs)
            fail_msg("the bad step had no graph");
        if (spoiled) {
            s->code = error_code();
            snprintf(s->message, sizeof s->message, "%s", error_message());
            error_clear();
            s->mend ? s->mend(model) : (void)0;
            assert_int_equal(copy_parameters(model, after), n);
            s->changed = memcmp(before, after, (size_t)n * sizeof *before) != 0;
            s->skipped = optim_skipped(optimizer);
        }
    }
    s->loss = tensor_step_loss();
    return error_code();
}

/* Without a plan: what follows an error goes its own way. */
static void run_or_fail(const char *what, const char *device)
{
    Context *context = context_create(&(ContextOptions){
        .memory = MEMTRACK_RESERVED, .capacity = 64 << 20, .threads = 1, .seed = 3, .device = device});
    Context *outside = context_use(context);
    int scope = tensor_scope_begin();
    if (bad_script(&bad))
        fail_msg("%s on %s: the run failed: %s", what, device, error_message());
    tensor_scope_end(scope);
    context_release_room(context);
    assert_int_equal(memtrack_stats(context_ledger(context))->live, 0);
    context_use(outside);
    context_destroy(context);
}

/* Runs the script on both devices, which must say the same. */
static void check_bad(const char *what, const Bad *given, int code, const char *words)
{
    Bad cpu = *given;
    uint64_t live = memtrack_process_live();
    bad = *given;
    run_or_fail(what, "cpu");
    cpu = bad;
    bad = *given;
    run_or_fail(what, "cuda");
    if (bad.code != cpu.code || bad.code != code || strcmp(bad.message, cpu.message) ||
        !strstr(bad.message, words))
        fail_msg("%s: error %d '%s', on the CPU %d '%s'", what, bad.code, bad.message, cpu.code, cpu.message);
    if (bad.changed || cpu.changed || bad.skipped != cpu.skipped)
        fail_msg("%s: parameters changed, or %lld steps were skipped", what, (long long)bad.skipped);
    if (!(fabs(bad.loss - cpu.loss) <= 1e-5 * (1 + fabs(cpu.loss))))
        fail_msg("%s: the step after it has the loss %.9g, on the CPU %.9g", what, bad.loss, cpu.loss);
    assert_int_equal(memtrack_process_live(), live);
}

static void bad_label(Module *model, Optimizer *optimizer, const Batch *b)
{
    (void)model;
    (void)optimizer;
    tensor_write(b->labels, 4, 4, &(int32_t){9999});
}

static void bad_id(Module *model, Optimizer *optimizer, const Batch *b)
{
    (void)model;
    (void)optimizer;
    tensor_write(b->ids, 8, 4, &(int32_t){-3});
    tensor_write(b->ids, 20, 4, &(int32_t){70000});
}

static void nan_feature(Module *model, Optimizer *optimizer, const Batch *b)
{
    (void)model;
    (void)optimizer;
    tensor_write(b->features, 12, 4, &(float){NAN});
}

static void large_weight(Module *model, Optimizer *optimizer, const Batch *b)
{
    (void)optimizer;
    (void)b;
    for (int i = 0, at = 0; i < 2; i++) { /* gate and up: their product is too large */
        Tensor *weight = nn_parameters(model).items[7 + i];
        tensor_read(weight, 0, tensor_numel(weight) * 4, kept + at);
        tensor_fill(weight, 1e30f);
        at += (int)tensor_numel(weight);
    }
}

static void mend_weight(Module *model)
{
    for (int i = 0, at = 0; i < 2; i++) {
        Tensor *weight = nn_parameters(model).items[7 + i];
        tensor_write(weight, 0, tensor_numel(weight) * 4, kept + at);
        at += (int)tensor_numel(weight);
    }
}

static void large_features(Module *model, Optimizer *optimizer, const Batch *b)
{
    (void)model;
    (void)optimizer;
    for (int64_t i = 0; i < tensor_numel(b->features); i++) {
        float x;
        tensor_read(b->features, i * 4, 4, &x);
        x *= 1e4f;
        tensor_write(b->features, i * 4, 4, &x);
    }
}

static void bad_elements(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (int accumulate = 1; accumulate <= 2; accumulate++) {
            Bad given = {.c = {.family = (ModelFamily)family, .accumulate = accumulate, .optimizer = "adamw"},
                         .spoil = bad_label,
                         .clip = 1};
            check_bad("a bad label", &given, ERROR_INDEX, "element 1 is 9999; labels must be in");
            given.spoil = bad_id;
            if (family != MODEL_MLP)
                check_bad("a bad id", &given, ERROR_INDEX, "element 2 is -3; ids must be in");
            given.spoil = bad_label;
            given.c.chunk = 7;
            given.c.checkpoint = 1;
            given.c.in_backward = accumulate == 1;
            given.clip = 0;
            check_bad("a bad label of a chunked head", &given, ERROR_INDEX, "9999; labels must be in");
        }
}

static void bad_losses(void **state)
{
    (void)state;
    Bad mlp = {.c = {.family = MODEL_MLP, .accumulate = 1, .optimizer = "sgd-momentum"},
               .spoil = nan_feature};
    check_bad("a NaN in the input", &mlp, ERROR_NONFINITE, "in input 'features' of linear");
    mlp.clip = 1;
    mlp.c.accumulate = 2;
    check_bad("a NaN in the input, clipped", &mlp, ERROR_NONFINITE, "in input 'features' of linear");
    Bad llama = {.c = {.family = MODEL_LLAMA, .accumulate = 1, .optimizer = "adamw"},
                 .spoil = large_weight,
                 .mend = mend_weight};
    check_bad("an overflow", &llama, ERROR_NONFINITE, "the first value that is not finite was made by");
    llama.c.in_backward = 1;
    check_bad("an overflow, in backward", &llama, ERROR_NONFINITE, "was made by");
}

static void bad_gradients(void **state)
{
    (void)state;
    Bad mlp = {.c = {.family = MODEL_MLP, .accumulate = 1, .optimizer = "adamw"}, .spoil = large_features};
    mlp.scale = 0x1p126f;
    check_bad("gradients that overflow", &mlp, ERROR_NONE, "");
    assert_int_equal(bad.skipped, 1);
    mlp.clip = 1;
    check_bad("gradients that overflow, clipped", &mlp, ERROR_NONE, "");
    assert_int_equal(bad.skipped, 1);
}

/* ---- A fault when some parameters are updated already ----------------------------------------- */

enum { LATE_VOCAB = 11, LATE_WIDTH = 6, LATE_PARAMETERS = 6, LATE_VALUES = 256 };

typedef enum LateKind { LATE_RECOMPUTED, LATE_AFTERWARDS, LATE_GRADIENT, LATE_MEMORY } LateKind;

typedef struct Late {
    LateKind kind;
    const char *device;
    int nth; /* allocation of the backward, which fails */
    /* Left behind: of the second step, and the loss of the one after it. */
    int code, changed[LATE_PARAMETERS];
    char message[512];
    double loss;
} Late;

/* An embedding and a layer, which are run again in backward, and two more layers. */
static Module *late_model(void)
{
    Module *first = nn_sequential(), *model = nn_sequential();
    nn_append(first, nn_embedding(LATE_VOCAB, LATE_WIDTH));
    nn_append(first, nn_linear(LATE_WIDTH, LATE_WIDTH, 0));
    nn_set_checkpoint(first, 1);
    nn_append(model, first);
    nn_append(model, nn_linear(LATE_WIDTH, LATE_WIDTH, 1));
    nn_append(model, nn_linear(LATE_WIDTH, LATE_VOCAB, 1));
    return model;
}

static void late_values(TensorList list, float values[LATE_PARAMETERS][LATE_VALUES])
{
    for (int i = 0; i < list.count; i++)
        tensor_read(list.items[i], 0, tensor_numel(list.items[i]) * 4, values[i]);
}

/* One step; `late`: what goes wrong in it. */
static void late_step(const Late *late, Module *model, Optimizer *optimizer, LateKind kind)
{
    static const int32_t ids[] = {1, 4, 9, 2}, labels[] = {4, 9, 2, 10};
    int scope = tensor_scope_begin();
    Tensor *x = tensor_new(DTYPE_I32, SHAPE(1, 4), MEM_INPUT),
           *y = tensor_new(DTYPE_I32, SHAPE(1, 4), MEM_INPUT);
    tensor_write(x, 0, sizeof ids, ids);
    tensor_write(y, 0, sizeof labels, labels);
    Tensor *logits = nn_forward(model, x, &(Batch){.ids = x, .labels = y});
    Tensor *loss = tensor_cross_entropy(tensor_keep(logits), y, BATCH_IGNORE, 0.25f);
    if (late && kind == LATE_RECOMPUTED)
        tensor_write(x, 8, 4, &(int32_t){70});
    if (late && kind == LATE_MEMORY)
        memtrack_fail_nth((uint64_t)late->nth);
    tensor_backward(loss);
    memtrack_fail_nth(0);
    if (late && kind == LATE_AFTERWARDS) {
        tensor_write(y, 4, 4, &(int32_t){-7});
        tensor_no_grad_begin();
        tensor_cross_entropy(logits, y, BATCH_IGNORE, 0.25f);
        tensor_no_grad_end();
    }
    optim_step(optimizer);
    optim_zero_grad(optimizer);
    tensor_scope_end(scope);
}

static void late_run(Late *late)
{
    static float before_[LATE_PARAMETERS][LATE_VALUES], after_[LATE_PARAMETERS][LATE_VALUES],
        kept_[LATE_PARAMETERS][LATE_VALUES];
    Context *context = context_create(&(ContextOptions){.threads = 1, .seed = 3, .device = late->device});
    Context *outside = context_use(context);
    int scope = tensor_scope_begin();
    Module *model = late_model();
    TensorList list = nn_parameters(model);
    Optimizer *optimizer = optim_adamw(list, &(AdamW){.lr = 0.01f});
    optim_set_in_backward(optimizer, 1);
    if (late->kind == LATE_GRADIENT)
        optim_set_loss_scale(optimizer, 1024);
    late_step(NULL, model, optimizer, late->kind);
    assert_fine();
    late_values(list, kept_);
    for (int i = 0; i < 3 && late->kind == LATE_GRADIENT; i++) /* outputs that are large, and not used */
        tensor_fill(list.items[i], i == 0 ? 1 : i == 1 ? 5e37f : 0);
    late_values(list, before_);
    late_step(late, model, optimizer, late->kind);
    late->code = error_code();
    snprintf(late->message, sizeof late->message, "%s", error_message());
    error_clear();
    late_values(list, after_);
    for (int i = 0; i < list.count; i++)
        late->changed[i] = memcmp(before_[i], after_[i], sizeof before_[i]) != 0;
    for (int i = 0; i < 3 && late->kind == LATE_GRADIENT; i++)
        tensor_write(list.items[i], 0, tensor_numel(list.items[i]) * 4, kept_[i]);
    late_step(NULL, model, optimizer, late->kind);
    late->loss = tensor_step_loss();
    if (error_code())
        fail_msg("on %s, the step after '%s': %s", late->device, late->message, error_message());
    tensor_scope_end(scope);
    context_release_room(context);
    assert_int_equal(memtrack_stats(context_ledger(context))->live, 0);
    context_use(outside);
    context_destroy(context);
}

/* What is said of them is what happened to them; and the step after it is the same on both devices. */
static void check_late(LateKind kind, int code, const char *words, const char *updated, const int changed[])
{
    Late cpu = {.kind = kind, .device = "cpu"}, card = {.kind = kind, .device = "cuda"};
    uint64_t live = memtrack_process_live();
    late_run(&cpu);
    late_run(&card);
    const Late *both[] = {&cpu, &card};
    for (int d = 0; d < 2; d++) {
        if (both[d]->code != code || !strstr(both[d]->message, words) || !strstr(both[d]->message, updated))
            fail_msg("on %s: error %d '%s'", both[d]->device, both[d]->code, both[d]->message);
        for (int i = 0; i < LATE_PARAMETERS; i++)
            if (both[d]->changed[i] != changed[i])
                fail_msg("on %s: '%s', and parameter %d is changed: %d", both[d]->device, both[d]->message, i,
                         both[d]->changed[i]);
    }
    assert_string_equal(cpu.message, card.message);
    if (!(fabs(card.loss - cpu.loss) <= 1e-5 * (1 + fabs(cpu.loss))))
        fail_msg("after '%s' the loss is %.9g, on the CPU %.9g", card.message, card.loss, cpu.loss);
    assert_int_equal(memtrack_process_live(), live);
}

static void late_faults(void **state)
{
    (void)state;
    check_late(LATE_RECOMPUTED, ERROR_INDEX, "embedding: element 2 is 70; ids must be in",
               "; 4 of 6 parameters were already updated, from '2.weight' to '1.bias'",
               (const int[]){0, 0, 1, 1, 1, 1});
    check_late(LATE_AFTERWARDS, ERROR_INDEX, "element 1 is -7; labels must be in",
               "; 6 of 6 parameters were already updated, from '2.weight' to '0.0.weight'",
               (const int[]){1, 1, 1, 1, 1, 1});
    check_late(LATE_GRADIENT, ERROR_NONFINITE,
               "is not finite at a loss scale of 1024; a smaller one may help",
               "; 2 of 6 parameters were already updated, from '2.weight' to '2.bias'",
               (const int[]){0, 0, 0, 0, 1, 1});
}

/* Memory that runs out inside backward: what is said to be updated is, and nothing else. */
static void late_memory(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu", "cuda"};
    for (int d = 0; d < 2; d++) {
        int said = 0, seen[LATE_PARAMETERS + 1] = {0};
        Late late = {.kind = LATE_MEMORY, .device = devices[d], .nth = 1};
        for (late_run(&late); late.code; late.nth++, late_run(&late)) {
            int changed = 0;
            for (int i = 0; i < LATE_PARAMETERS; i++)
                changed += late.changed[i];
            said = 0;
            if (strstr(late.message, "already updated"))
                assert_int_equal(sscanf(strrchr(late.message, ';'), "; %d of 6", &said), 1);
            if (said != changed)
                fail_msg("on %s, allocation %d: '%s', and %d are changed", devices[d], late.nth, late.message,
                         changed);
            seen[said]++;
        }
        assert_true(seen[0] > 0 && seen[2] > 0 && seen[4] > 0);
    }
}

/* ---- What cannot be had ---------------------------------------------------------------------- */

static Session session;

/* On a card whose cuBLAS has little workspace, to be quick. Every n-th allocation fails, of the host and of
 * the card's books. */
static void allocations_fail(void **state)
{
    (void)state;
    const Case c = {.family = MODEL_MLP, .accumulate = 1, .optimizer = "adamw", .epochs = 1, .samples = 3};
    uint64_t live = memtrack_process_live(), n = 0;
    setenv("STAND_IN_CAPABILITY", "80", 1);
    for (int malloc_blocks = 0; malloc_blocks < 2; malloc_blocks++) {
        int pending = 0;
        for (n = 1; !pending; n++) {
            RunOptions options = {.threads = 1, .quiet = 1, .device = "cuda", .malloc_blocks = malloc_blocks};
            session = (Session){.c = c};
            memtrack_fail_nth(n);
            int status = brim_run(case_script, &session, &options);
            pending = memtrack_fail_pending();
            memtrack_fail_nth(0);
            if ((status == 0) != pending)
                fail_msg("allocation %llu fails, and the run ends with %d", (unsigned long long)n, status);
            if (memtrack_process_live() != live)
                fail_msg("allocation %llu fails: %lld bytes are left", (unsigned long long)n,
                         (long long)(memtrack_process_live() - live));
            assert_int_equal(stand_in_seen().used, 0);
        }
        assert_true(n > 100);
    }
    unsetenv("STAND_IN_CAPABILITY");
}

/* The same of what the driver is asked for. */
static void the_driver_refuses(void **state)
{
    (void)state;
    const Case c = {.family = MODEL_MLP, .accumulate = 1, .optimizer = "adamw", .epochs = 1, .samples = 3};
    uint64_t live = memtrack_process_live();
    setenv("STAND_IN_CAPABILITY", "75", 1);
    for (int malloc_blocks = 0; malloc_blocks < 2; malloc_blocks++) {
        int status = 1, n = 0;
        while (status) {
            char text[16];
            snprintf(text, sizeof text, "%d", ++n);
            setenv("STAND_IN_FAIL", text, 1);
            RunOptions options = {.threads = 1, .quiet = 1, .device = "cuda", .malloc_blocks = malloc_blocks};
            session = (Session){.c = c};
            status = brim_run(case_script, &session, &options);
            assert_int_equal(memtrack_process_live(), live);
            assert_int_equal(stand_in_seen().used, 0);
        }
        unsetenv("STAND_IN_FAIL");
        assert_true(n > (malloc_blocks ? 20 : 2));
    }
    unsetenv("STAND_IN_CAPABILITY");
}

/* What the plan needs suffices; a granule less is refused before anything runs. */
static void a_card_that_is_too_small(void **state)
{
    (void)state;
    enum { MIB = 1 << 20, FROM = 20 };
    const char *mode = getenv("BRIM_MEMORY");
    if (mode && !strcmp(mode, "malloc"))
        skip(); /* then nothing is reserved */
    const Case c = {.family = MODEL_GPT2, .accumulate = 1, .optimizer = "adamw", .epochs = 1};
    RunOptions options = {.threads = 1, .quiet = 1, .device = "cuda"};
    session = (Session){.c = c};
    Plan plan;
    RunResult result;
    assert_int_equal(plan_script(case_script, &session, &options, &plan), 0);
    int64_t needs = (int64_t)((plan.memory.stats.needs + 2 * MIB - 1) / (2 * MIB) * 2), least = 0;
    for (int64_t mib = needs + FROM; mib > needs && !least; mib--) {
        char text[24];
        snprintf(text, sizeof text, "%lld", (long long)mib);
        setenv("STAND_IN_MEMORY", text, 1);
        int calls = session.calls;
        if (plan_execute(case_script, &session, &options, &plan, &result) == 0)
            continue;
        least = mib + 1;
        assert_int_equal(result.status, ERROR_MEMORY);
        assert_non_null(strstr(result.error, "are free on the card"));
        assert_int_equal(session.calls, calls);
        assert_int_equal(stand_in_seen().used, 0);
    }
    unsetenv("STAND_IN_MEMORY");
    assert_int_equal((least - needs) % 2, 0); /* a context's memory is whole granules */
    assert_true(least > needs && least < needs + FROM);
    plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_elements),       cmocka_unit_test(bad_losses),
        cmocka_unit_test(bad_gradients),      cmocka_unit_test(late_faults),
        cmocka_unit_test(late_memory),        cmocka_unit_test(allocations_fail),
        cmocka_unit_test(the_driver_refuses), cmocka_unit_test(a_card_that_is_too_small),
    };
    stand_in_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
