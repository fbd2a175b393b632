/* Module hooks: who is told of what and when, forward, backward and recomputed; that they cost nothing where
 * there are none; and that with them the parameters of one module at a time suffice. */
#include "support.h"
#include "nn/module_.h"

enum { WIDTH = 16, ROWS = 6, LAYERS = 4 };

/* ---- The order ------------------------------------------------------------------------------- */

/* Calls as text: "<a" before forward of a, "a>" after it, "[a" before backward, "a]" after it. */
typedef struct Told {
    ModuleHook hook;
    char text[512];
    Module *known[8];
    int count;
    int recomputing; /* 1: calls of recomputed runs are written with a "*" */
} Told;

static char letter_of(const Told *told, const Module *module)
{
    for (int i = 0; i < told->count; i++)
        if (told->known[i] == module)
            return (char)('a' + i);
    return '?';
}

static void add(Told *told, const char *before, const Module *module, const char *after)
{
    size_t used = strlen(told->text);
    int again = memtrack_phase(context_tracker(context_current())) == MEM_PHASE_RECOMPUTE;
    snprintf(told->text + used, sizeof told->text - used, "%s%s%c%s", again ? "*" : "", before,
             letter_of(told, module), after);
}

static void told_before_forward(Module *module, void *user)
{
    add(user, "<", module, "");
}

static void told_after_forward(Module *module, void *user)
{
    add(user, "", module, ">");
}

static void told_before_backward(Module *module, void *user)
{
    add(user, "[", module, "");
}

static void told_after_backward(Module *module, void *user)
{
    add(user, "", module, "]");
}

static void listen(Told *told)
{
    *told = (Told){.hook = {.before_forward = told_before_forward,
                            .after_forward = told_after_forward,
                            .before_backward = told_before_backward,
                            .after_backward = told_after_backward,
                            .user = told}};
    nn_hook_add(&told->hook);
}

/* a is a sequential of b (linear) and c, which is a sequential of d (linear). */
static Module *nested(Told *told)
{
    Module *a = nn_sequential(), *b = nn_append(a, nn_linear(WIDTH, WIDTH, 1)), *c = nn_sequential();
    Module *d = nn_append(c, nn_linear_act(WIDTH, WIDTH, 1, TENSOR_GELU));
    nn_append(a, c);
    Module *all[] = {a, b, c, d};
    memcpy(told->known, all, sizeof all);
    told->count = 4;
    return a;
}

static Tensor *squares(Module *model, Tensor *x)
{
    Tensor *y = nn_forward(model, x, NULL);
    return tensor_sum(tensor_mul(y, y));
}

static void assert_told(Told *told, const char *expected)
{
    assert_string_equal(told->text, expected);
    told->text[0] = '\0';
}

static void test_order(void **state)
{
    (void)state;
    Told told;
    listen(&told);
    Module *model = nested(&told);
    Tensor *x = values(SHAPE(ROWS, WIDTH), 1, 1);
    Tensor *loss = squares(model, x);
    assert_told(&told, "<a<bb><c<dd>c>a>");
    assert_int_equal(tensor_backward(loss), 0);
    assert_told(&told, "[a[c[dd]c][bb]a]");

    tensor_no_grad_begin(); /* nothing is recorded */
    loss = squares(model, x);
    tensor_no_grad_end();
    assert_told(&told, "<a<bb><c<dd>c>a>");

    /* What is frozen below the first trained one records nothing. */
    for (int i = 0; i < 2; i++)
        tensor_set_requires_grad(nn_parameter(told.known[1], i ? "bias" : "weight"), 0);
    assert_int_equal(tensor_backward(squares(model, x)), 0);
    assert_told(&told, "<a<bb><c<dd>c>a>[a[c[dd]c]a]");

    /* Only what was run while the hook was there. */
    nn_hook_remove(&told.hook);
    loss = squares(model, x);
    nn_hook_add(&told.hook);
    assert_int_equal(tensor_backward(loss), 0);
    assert_told(&told, "");
    loss = squares(model, x);
    nn_hook_remove(&told.hook);
    told.text[0] = '\0';
    assert_int_equal(tensor_backward(loss), 0);
    assert_told(&told, "");
}

/* A checkpoint runs unrecorded; backward runs it again, recorded, and of that there is a backward. */
static void test_checkpoints(void **state)
{
    (void)state;
    Told told;
    listen(&told);
    Module *model = nested(&told);
    nn_set_checkpoint(told.known[2], 1);
    Tensor *loss = squares(model, values(SHAPE(ROWS, WIDTH), 1, 1));
    assert_told(&told, "<a<bb><c<dd>c>a>");
    assert_int_equal(tensor_backward(loss), 0);
    assert_told(&told, "[a*<c*<d*d>*c>[c[dd]c][bb]a]");
    nn_set_checkpoint(model, 1); /* one within the other */
    loss = squares(model, leaf(SHAPE(ROWS, WIDTH), 1, 1));
    assert_told(&told, "<a<bb><c<dd>c>a>");
    assert_int_equal(tensor_backward(loss), 0);
    assert_told(&told, "*<a*<b*b>*<c*<d*d>*c>*a>[a*<c*<d*d>*c>[c[dd]c][bb]a]");
    nn_hook_remove(&told.hook);
}

/* Hooks in the order added, into one text; the second one removes itself. */
typedef struct Once {
    ModuleHook hook;
    Told *told;
} Once;

static void remove_itself(Module *module, void *user)
{
    Once *once = user;
    add(once->told, "(", module, ")");
    nn_hook_remove(&once->hook);
}

static void test_several(void **state)
{
    (void)state;
    Told told;
    listen(&told);
    Once once = {.hook = {.before_forward = remove_itself, .user = &once}, .told = &told};
    nn_hook_add(&once.hook);
    ModuleHook last = {.before_forward = told_after_backward, .user = &told};
    nn_hook_add(&last);
    Module *model = nested(&told);
    assert_int_equal(tensor_backward(squares(model, values(SHAPE(ROWS, WIDTH), 1, 1))), 0);
    assert_told(&told, "<a(a)a]<bb]b><cc]<dd]d>c>a>[a[c[dd]c][bb]a]");
    nn_hook_remove(&told.hook);
    nn_hook_remove(&last);
    assert_null(context_current()->module_hooks);
}

/* ---- What is cut, and what goes -------------------------------------------------------------- */

/* A result that nobody can reach is cut from the tape with its markers, at the same moment as without hooks.
 */
static void test_unreachable(void **state)
{
    (void)state;
    uint64_t live[2][2];
    for (int hooked = 0; hooked < 2; hooked++) {
        Visit v = visit(&(ContextOptions){.threads = 1});
        Told told = {.text = ""};
        if (hooked)
            listen(&told);
        Module *model = nested(&told);
        Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1);
        Tensor *before = tensor_activation(x, TENSOR_GELU);
        int scope = tensor_scope_begin();
        squares(model, before);
        live[hooked][0] = books()->live;
        tensor_scope_end(scope);
        live[hooked][1] = books()->live;
        assert_int_equal(context_current()->tape->count, 1);
        told.text[0] = '\0';
        assert_int_equal(tensor_backward(tensor_sum(before)), 0);
        assert_told(&told, "");
        leave(v);
    }
    assert_memory_equal(live[0], live[1], sizeof *live);
}

/* Within a module: what is cut is what was made before the module began, and its marker stays. */
static Tensor *lonely; /* what only the tape knows */

static Tensor *cutting_forward(Module *module, Tensor *x, const Batch *batch)
{
    (void)module, (void)batch;
    tensor_free(lonely);
    tensor_scope_end(tensor_scope_begin());
    return tensor_scale(x, 2);
}

static void test_cut_within(void **state)
{
    (void)state;
    static const ModuleClass type = {"cutting", 0, cutting_forward};
    Told told;
    listen(&told);
    Module *model = nn_module(&type);
    told.known[0] = model;
    told.count = 1;
    Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1);
    lonely = tensor_activation(x, TENSOR_GELU);
    Tensor *y = nn_forward(model, x, NULL);
    assert_int_equal(context_current()->tape->count, 3); /* the module's one operation, between its markers */
    assert_int_equal(tensor_backward(tensor_sum(y)), 0);
    assert_told(&told, "<aa>[aa]");
    nn_hook_remove(&told.hook);
}

/* A module that is freed between forward and backward is not named in backward. */
static void test_freed_module(void **state)
{
    (void)state;
    Told told;
    listen(&told);
    Module *model = nn_activation(TENSOR_GELU);
    Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1), *loss = squares(model, x);
    told.text[0] = '\0';
    module_free(model);
    assert_int_equal(tensor_backward(loss), 0);
    assert_told(&told, "");
    assert_true(tensor_has_grad(x));
    nn_hook_remove(&told.hook);
}

/* ---- Costs ----------------------------------------------------------------------------------- */

typedef struct Step {
    uint64_t hash;
    int64_t count;
    float gradients[32 * 1024];
} Step;

static void one_step(const Setting *s, int meta, Told *told, Step *step)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3, .meta = meta});
    if (told)
        listen(told);
    Module *model = small_model(s);
    Batch batch = small_batch(s->family, 0, 0, 3);
    assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
    step->hash = memtrack_stats(context_ledger(context_current()))->step_hash;
    if (!meta) {
        Tensor *all = all_gradients(model);
        step->count = tensor_numel(all);
        assert_in_range(step->count, 1, COUNT(step->gradients));
        memcpy(step->gradients, tensor_f32(all), (size_t)step->count * sizeof(float));
    }
    leave(v);
}

/* The events of a step and its gradients do not depend on whether somebody listens. */
static void test_events(void **state)
{
    (void)state;
    static Step plain, hooked, planned;
    Told told;
    for (int i = 0; i < FAMILIES * 2; i++) {
        const Setting s = {.family = (ModelFamily)(i / 2), .checkpoint = i % 2, .dropout = 0.1f};
        one_step(&s, 0, NULL, &plain);
        one_step(&s, 0, &told, &hooked);
        one_step(&s, 1, &told, &planned);
        assert_true(plain.hash == hooked.hash);
        assert_true(plain.hash == planned.hash);
        assert_memory_equal(plain.gradients, hooked.gradients, (size_t)plain.count * sizeof(float));
    }
}

/* ---- One module's parameters at a time ------------------------------------------------------- */

/* Holds all data aside and gives a module its own for as long as it computes. */
typedef struct Gathering {
    ModuleHook hook;
    TensorList list;
    float *aside[2 * LAYERS];
    int holders[2 * LAYERS]; /* runs of this module that are open */
    uint64_t most;
} Gathering;

static void gather(Module *module, void *user)
{
    Gathering *g = user;
    TensorList own = module->child_count ? (TensorList){0} : nn_parameters(module);
    for (int k = 0; k < own.count; k++)
        for (int i = 0; i < g->list.count; i++) {
            Tensor *p = g->list.items[i];
            if (p != own.items[k] || g->holders[i]++)
                continue;
            uint64_t bytes = shape_bytes(p->dtype, p->shape);
            p->storage = storage_new(context_current(), (int64_t)bytes, MEM_PARAMETER);
            assert_non_null(p->storage);
            memcpy(p->storage->block.data, g->aside[i], bytes);
        }
    uint64_t live = books()->live_by[MEM_PARAMETER];
    g->most = live > g->most ? live : g->most;
}

static void scatter(Module *module, void *user)
{
    Gathering *g = user;
    TensorList own = module->child_count ? (TensorList){0} : nn_parameters(module);
    for (int k = 0; k < own.count; k++)
        for (int i = 0; i < g->list.count; i++)
            if (g->list.items[i] == own.items[k] && --g->holders[i] == 0)
                tensor_drop_data(own.items[k], DATA_RELEASED);
}

static void gathered_step(int gathering, int checkpoint, Step *step)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
    Module *model = nn_sequential();
    for (int i = 0; i < LAYERS; i++)
        nn_append(model, nn_linear_act(WIDTH, WIDTH, 1, i % 2 ? TENSOR_GELU : TENSOR_IDENTITY));
    for (int i = 0; i < LAYERS && checkpoint; i++)
        nn_set_checkpoint(model->children[i], 1);
    uint64_t whole = books()->live_by[MEM_PARAMETER];
    Gathering g = {.hook = {gather, scatter, gather, scatter, &g, NULL}, .list = nn_parameters(model)};
    assert_int_equal(g.list.count, 2 * LAYERS);
    for (int i = 0; i < g.list.count && gathering; i++) {
        Tensor *p = g.list.items[i];
        g.aside[i] = test_malloc(p->storage->block.requested);
        memcpy(g.aside[i], p->storage->block.data, p->storage->block.requested);
        tensor_drop_data(p, DATA_RELEASED);
    }
    if (gathering)
        nn_hook_add(&g.hook);
    assert_int_equal(tensor_backward(squares(model, values(SHAPE(ROWS, WIDTH), 1, 1))), 0);
    if (gathering) {
        assert_int_equal(books()->live_by[MEM_PARAMETER], 0);
        assert_int_equal(g.most, whole / LAYERS);
    }
    Tensor *all = all_gradients(model);
    step->count = tensor_numel(all);
    memcpy(step->gradients, tensor_f32(all), (size_t)step->count * sizeof(float));
    for (int i = 0; i < g.list.count && gathering; i++)
        test_free(g.aside[i]);
    leave(v);
}

static void test_one_at_a_time(void **state)
{
    (void)state;
    static Step plain, gathered;
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        gathered_step(0, checkpoint, &plain);
        gathered_step(1, checkpoint, &gathered);
        assert_int_equal(plain.count, gathered.count);
        assert_memory_equal(plain.gradients, gathered.gradients, (size_t)plain.count * sizeof(float));
    }
}

/* ---- Errors ---------------------------------------------------------------------------------- */

/* `after` comes after an error as well; an error of a hook ends the run. */
static void raise_it(Module *module, void *user)
{
    (void)module, (void)user;
    error_raise(ERROR_STATE, "the hook says no");
}

static void test_errors(void **state)
{
    (void)state;
    Told told;
    listen(&told);
    Module *model = nested(&told);
    Tensor *x = values(SHAPE(ROWS, WIDTH + 1), 1, 1);
    assert_null(nn_forward(model, x, NULL));
    assert_error(ERROR_SHAPE, "linear");
    assert_told(&told, "<a<bb>a>");
    nn_hook_remove(&told.hook);

    ModuleHook no = {.before_backward = raise_it};
    nn_hook_add(&no);
    assert_int_not_equal(tensor_backward(squares(model, values(SHAPE(ROWS, WIDTH), 1, 1))), 0);
    assert_error(ERROR_STATE, "the hook says no");
    assert_int_equal(context_current()->tape->count, 0);
    nn_hook_remove(&no);
    no = (ModuleHook){.before_forward = raise_it};
    nn_hook_add(&no);
    assert_null(squares(model, values(SHAPE(ROWS, WIDTH), 1, 1)));
    assert_error(ERROR_STATE, "the hook says no");
    nn_hook_remove(&no);
}

static void scenario(void)
{
    Context *context = context_create(&(ContextOptions){.threads = 1});
    if (!context)
        return;
    context_use(context);
    Told told;
    listen(&told);
    Module *model = nested(&told);
    nn_set_checkpoint(model, 1);
    Tensor *x = error_code() ? NULL : leaf(SHAPE(ROWS, WIDTH), 1, 1);
    for (int i = 0; i < 20 && x; i++) /* so many that the tape grows */
        x = nn_forward(model, x, NULL);
    Tensor *loss = x ? tensor_sum(x) : NULL;
    if (loss)
        tensor_backward(loss);
    nn_hook_remove(&told.hook);
}

static void test_failing_allocations(void **state)
{
    (void)state;
    Context *outside = context_use(NULL);
    uint64_t live = memtrack_process_live();
    int reached = 1;
    for (uint64_t n = 1; reached; n++) {
        memtrack_fail_nth(n);
        scenario();
        reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        Context *context = context_use(NULL);
        if (context) {
            context_use(context);
            int code = error_code();
            assert_true(code == ERROR_NONE ||
                        (reached && (code == ERROR_HOST_MEMORY || code == ERROR_MEMORY)));
            context_destroy(context_use(NULL));
        }
        assert_int_equal(memtrack_process_live(), live);
        assert_true(n < 5000);
    }
    context_use(outside);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_order),      TEST(test_checkpoints),         TEST(test_several), TEST(test_unreachable),
        TEST(test_cut_within), TEST(test_freed_module),        TEST(test_events),  TEST(test_one_at_a_time),
        TEST(test_errors),     TEST(test_failing_allocations),
    };
    return cmocka_run_group_tests_name("module_hooks", tests, NULL, NULL);
}
