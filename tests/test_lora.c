/* Low-rank adapters: which layers get one and what is refused; that nothing else is trained; what is kept for
 * backward; heads, and writing token by token. */
#include "adapted_support.h"

/* ---- Layers ---------------------------------------------------------------------------------- */

typedef struct Chosen {
    ModelFamily family;
    const char *targets;
    int adapters;
    const char *one, *none; /* names of parameters that are and are not there */
} Chosen;

static void layers_are_chosen_by_name(void **state)
{
    (void)state;
    static const Chosen cases[] = {
        {MODEL_LLAMA, NULL, 14, "model.layers.1.mlp.down_proj.lora_B.weight", "lm_head.lora_A.weight"},
        {MODEL_LLAMA, "all", 14, "model.layers.0.self_attn.o_proj.lora_A.weight", NULL},
        {MODEL_LLAMA, "q_proj,v_proj", 4, "model.layers.0.self_attn.v_proj.lora_A.weight",
         "model.layers.0.self_attn.k_proj.lora_A.weight"},
        {MODEL_LLAMA, " lm_head , layers.1.mlp.up_proj", 2, "lm_head.lora_B.weight",
         "model.layers.0.mlp.up_proj.lora_A.weight"},
        {MODEL_LLAMA, "model.layers.0.self_attn.q_proj", 1, "model.layers.0.self_attn.q_proj.lora_A.weight",
         "model.layers.1.self_attn.q_proj.lora_A.weight"},
        {MODEL_LLAMA, "embed_tokens,q_proj", 3, "model.embed_tokens.lora_embedding_A",
         "model.embed_tokens.lora_A.weight"},
        {MODEL_GPT2, NULL, 8, "transformer.h.0.attn.c_attn.lora_A.weight", "lm_head.lora_A.weight"},
        {MODEL_GPT2, "c_proj", 4, "transformer.h.1.mlp.c_proj.lora_A.weight", NULL},
        {MODEL_GPT2, "wte", 1, "transformer.wte.lora_embedding_B", "transformer.wpe.lora_embedding_B"},
        {MODEL_BERT, NULL, 13, "cls.predictions.transform.dense.lora_A.weight",
         "cls.predictions.decoder.lora_A.weight"},
        {MODEL_BERT, "query,value", 4, "bert.encoder.layer.1.attention.self.value.lora_B.weight", NULL},
        {MODEL_BERT, "dense", 7, "bert.encoder.layer.0.attention.output.dense.lora_B.weight", NULL},
        {MODEL_MLP, NULL, 2, "layers.1.lora_A.weight", "layers.2.lora_A.weight"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const Chosen *c = &cases[i];
        Visit v = visit(&(ContextOptions){.threads = 1});
        Module *model = small_model(&(Setting){.family = c->family});
        int added = nn_add_lora(model, &(Lora){.targets = c->targets, .rank = 3});
        if (added != c->adapters)
            fail_msg("%s %s: %d adapters: %s", nn_family(c->family)->name, c->targets, added,
                     error_message());
        assert_int_equal(nn_lora_count(model), added);
        assert_int_equal(nn_lora_parameters(model).count, 2 * added);
        assert_non_null(nn_parameter(model, c->one));
        assert_true(!c->none || !nn_parameter(model, c->none));
        leave(v);
    }
}

static void a_list_of_names_has_an_end(void **state)
{
    static const ModuleClass many = {"many", 0, NULL};
    (void)state;
    Module *model = nn_module(&many);
    for (int i = 10; i < 60; i++) {
        char name[24];
        snprintf(name, sizeof name, "projection_%d", i);
        nn_add(model, name, nn_linear(2, 2, 0));
    }
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "other"}), -1);
    assert_error(ERROR_ARGUMENT, "named projection_10, projection_11, ", ", projection_25, ...");
}

static void a_name_that_no_layer_has_is_refused(void **state)
{
    (void)state;
    static const struct {
        ModelFamily family;
        const char *targets, *wrong, *there;
    } cases[] = {
        {MODEL_LLAMA, "q_proj,qproj", "'qproj'",
         "embed_tokens, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"},
        {MODEL_LLAMA, "proj", "'proj'", "q_proj"},
        {MODEL_LLAMA, "self_attn", "'self_attn'", "q_proj"},
        {MODEL_GPT2, "wpe", "'wpe'", "wte, c_attn, c_proj, c_fc, lm_head"},
        {MODEL_BERT, "query, token_type_embeddings ", "'token_type_embeddings'",
         "word_embeddings, query, key, value, dense, decoder"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Module *model = small_model(&(Setting){.family = cases[i].family});
        int64_t parameters = nn_parameters(model).count;
        assert_int_equal(nn_add_lora(model, &(Lora){.targets = cases[i].targets}), -1);
        assert_error(ERROR_ARGUMENT, "nn_add_lora: ", cases[i].wrong, cases[i].there);
        assert_int_equal(nn_parameters(model).count, parameters);
        assert_true(tensor_requires_grad(nn_parameters(model).items[0]));
    }
}

static void bad_settings_are_refused(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
    assert_int_equal(nn_add_lora(model, &(Lora){.rank = -1}), -1);
    assert_error(ERROR_ARGUMENT, "rank", "-1");
    assert_int_equal(nn_add_lora(model, &(Lora){.alpha = INFINITY}), -1);
    assert_error(ERROR_ARGUMENT, "alpha", "inf");
    assert_int_equal(nn_add_lora(model, &(Lora){.dropout = 1}), -1);
    assert_error(ERROR_ARGUMENT, "dropout", "[0,1)");
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = ""}), -1);
    assert_error(ERROR_ARGUMENT, "no layer");
    assert_int_equal(nn_add_lora(NULL, NULL), -1);
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "q_proj"}), 2);
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "q_proj,v_proj"}), -1);
    assert_error(ERROR_ARGUMENT, "model.layers.0.self_attn.q_proj", "already");
    assert_int_equal(nn_lora_count(model), 2);
    /* Another list beside it: the first adapters go on. */
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "v_proj"}), 4);
    assert_int_equal(nn_lora_parameters(model).count, 8);
}

static int third_at_most(void *user, const LoraLayer *layer, Lora *lora)
{
    (void)user;
    *lora = (Lora){.rank = layer->embedding ? 2 : 5, .alpha = 10};
    return strstr(layer->path, "layers.0") != NULL || layer->embedding;
}

static int find_layer(void *user, const LoraLayer *layer)
{
    LoraLayer *found = user;
    if (strcmp(layer->path, found->path) != 0)
        return 0;
    *found = *layer;
    return 7;
}

static void layers_are_chosen_one_by_one(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
    assert_int_equal(nn_add_lora_by(model, third_at_most, NULL), 8);
    LoraLayer layer = {.path = "model.layers.0.self_attn.k_proj"};
    assert_int_equal(nn_lora_layers(model, find_layer, &layer), 7);
    assert_int_equal(layer.in, 32);
    assert_int_equal(layer.out, 16);
    assert_int_equal(layer.lora.rank, 5);
    assert_true(layer.scale == 2 && layer.lora.alpha == 10 && !layer.embedding && !layer.head && !layer.tied);
    assert_ptr_equal(layer.weight, nn_parameter(model, "model.layers.0.self_attn.k_proj.weight"));
    assert_ptr_equal(layer.a, nn_parameter(model, "model.layers.0.self_attn.k_proj.lora_A.weight"));
    assert_ptr_equal(layer.b, nn_parameter(model, "model.layers.0.self_attn.k_proj.lora_B.weight"));
    assert_int_equal(tensor_dim(layer.a, 0), 5);
    assert_int_equal(tensor_dim(layer.b, 0), 16);
    layer.path = "model.embed_tokens";
    assert_int_equal(nn_lora_layers(model, find_layer, &layer), 7);
    assert_true(layer.embedding && layer.in == SMALL_VOCAB && layer.out == 32 && layer.scale == 5);
    layer.path = "model.layers.1.mlp.up_proj";
    assert_int_equal(nn_lora_layers(model, find_layer, &layer), 7);
    assert_null(layer.a);
    layer.path = "model.norm";
    assert_int_equal(nn_lora_layers(model, find_layer, &layer), 0);
}

/* ---- The first values ------------------------------------------------------------------------ */

static void nothing_changes_before_the_first_step(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++) {
        Module *model = small_model(&(Setting){.family = (ModelFamily)family});
        Batch batch = small_batch((ModelFamily)family, 0, 0, 3);
        tensor_no_grad_begin();
        Tensor *before = nn_forward(model, NULL, &batch);
        assert_true(nn_add_lora(model, &(Lora){.dropout = 0.5f}) > 0);
        Tensor *after = nn_forward(model, NULL, &batch);
        tensor_no_grad_end();
        assert_memory_equal(tensor_f32(before), tensor_f32(after),
                            (size_t)tensor_numel(before) * sizeof(float));
        TensorList list = nn_lora_parameters(model);
        for (int i = 0; i < list.count; i++) {
            Tensor *t = list.items[i];
            int is_a = strstr(tensor_name(t), "lora_A") != NULL;
            float bound = 1.0f / sqrtf((float)tensor_dim(t, 1)), most = 0;
            for (int64_t k = 0; k < tensor_numel(t); k++)
                most = fmaxf(most, fabsf(tensor_f32(t)[k]));
            assert_true(is_a ? most > 0.9f * bound && most <= bound : most == 0);
        }
    }
}

static void an_embedding_begins_with_nothing_too(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_GPT2});
    Batch batch = small_batch(MODEL_GPT2, 0, 0, 3);
    tensor_no_grad_begin();
    Tensor *before = nn_forward(model, NULL, &batch);
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "wte"}), 1);
    Tensor *after = nn_forward(model, NULL, &batch);
    tensor_no_grad_end();
    assert_memory_equal(tensor_f32(before), tensor_f32(after), (size_t)tensor_numel(before) * sizeof(float));
    Tensor *b = nn_parameter(model, "transformer.wte.lora_embedding_B");
    double squares = 0;
    for (int64_t i = 0; i < tensor_numel(b); i++)
        squares += (double)tensor_f32(b)[i] * tensor_f32(b)[i];
    assert_true(fabs(squares / (double)tensor_numel(b) - 1) < 0.3);
}

/* ---- What is trained ------------------------------------------------------------------------- */

static void all_else_is_frozen(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++) {
        Visit v = visit(&(ContextOptions){.threads = 2});
        Module *model = small_model(&(Setting){.family = (ModelFamily)family});
        uint64_t all = books()->live_by[MEM_PARAMETER];
        assert_true(nn_add_lora(model, &(Lora){.rank = 2}) > 0);
        assert_int_equal(books()->live_by[MEM_FROZEN], all);
        uint64_t adapters = 0;
        TensorList trained = nn_lora_parameters(model), list = nn_parameters(model);
        for (int i = 0; i < trained.count; i++)
            adapters += rounded(tensor_numel(trained.items[i]));
        assert_int_equal(books()->live_by[MEM_PARAMETER], adapters);
        Tensor *first = copy_of(tensor_f32(list.items[0]), tensor_numel(list.items[0]));
        Optimizer *optimizer = optim_adamw(list, &(AdamW){.lr = 1e-2f});
        assert_int_equal(books()->live_by[MEM_OPTIMIZER], 2 * adapters);
        backward_of(model, (ModelFamily)family, &(Micro){{3}});
        assert_int_equal(books()->live_by[MEM_GRADIENT], adapters);
        for (int i = 0; i < list.count; i++)
            assert_int_equal(tensor_has_grad(list.items[i]), tensor_requires_grad(list.items[i]));
        optim_step(optimizer);
        assert_memory_equal(tensor_f32(first), tensor_f32(list.items[0]),
                            (size_t)tensor_numel(first) * sizeof(float));
        leave(v);
    }
}

/* ---- What is kept for backward --------------------------------------------------------------- */

typedef struct Kept {
    const char *targets;             /* NULL = all; "" = no adapters, everything trained */
    int norm1, norm2, hidden, ranks; /* of layer 1: which inputs are kept, and how many A x */
} Kept;

/* Layer 1 of 3: the residual stream's two sums, the norms' statistics, q, k, v and attention's output with
 * its log-sum-exps, gate and up are kept by what needs them whether or not weights are trained. What a linear
 * layer reads is kept once where a weight or an A that reads it is trained. */
static void bytes_kept_in_a_layer(void **state)
{
    (void)state;
    static const Kept cases[] = {{"", 1, 1, 1, 0},
                                 {NULL, 1, 1, 1, 7},
                                 {"q_proj,v_proj", 1, 0, 0, 2},
                                 {"up_proj", 0, 1, 0, 1},
                                 {"o_proj,down_proj", 0, 0, 1, 2}};
    enum { RANK = 4, ROWS = 2 * SMALL_SEQ, DIM = 32, KV = 16, HIDDEN = 48, HEADS = 4 };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const Kept *c = &cases[i];
        Visit v = visit(&(ContextOptions){.meta = i % 2 == 0, .threads = 1});
        Module *model = small_model(&(Setting){.family = MODEL_LLAMA, .layers = 3});
        if (!c->targets || c->targets[0])
            assert_true(nn_add_lora(model, &(Lora){.rank = RANK, .targets = c->targets}) > 0);
        Batch batch = small_batch(MODEL_LLAMA, 0, 0, 2);
        Tensor *loss = nn_loss(model, &batch);
        uint64_t expected = 3 * rounded(ROWS * DIM) + 2 * rounded(ROWS * KV) + 2 * rounded(ROWS * HIDDEN) +
                            2 * rounded(ROWS) + rounded(ROWS * HEADS) + rounded(ROWS * DIM) +
                            (uint64_t)(c->norm1 + c->norm2) * rounded(ROWS * DIM) +
                            (uint64_t)c->hidden * rounded(ROWS * HIDDEN) +
                            (uint64_t)c->ranks * rounded(ROWS * RANK);
        assert_int_equal(live_at("model.layers.1", MEM_ACTIVATION), expected);
        tensor_backward(loss);
        assert_int_equal(live_at("", MEM_ACTIVATION), 0);
        assert_fine();
        leave(v);
    }
}

static void dropout_keeps_nothing(void **state)
{
    (void)state;
    uint64_t kept[2];
    for (int i = 0; i < 2; i++) {
        Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
        Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
        assert_true(nn_add_lora(model, &(Lora){.dropout = i ? 0.1f : 0}) > 0);
        Batch batch = small_batch(MODEL_LLAMA, 0, 0, 2);
        nn_loss(model, &batch);
        kept[i] = books()->live_by[MEM_ACTIVATION];
        leave(v);
    }
    assert_int_equal(kept[0], kept[1]);
}

/* A fused activation becomes an operation of its own, which keeps as many bytes. */
static void an_activation_keeps_its_input_once(void **state)
{
    (void)state;
    enum { ROWS = 5, IN = 7, OUT = 11, RANK = 2 };
    for (int lora = 0; lora < 2; lora++) {
        Visit v = visit(&(ContextOptions){.threads = 1});
        Module *model = nn_sequential();
        nn_append(model, nn_linear_act(IN, OUT, 1, TENSOR_GELU));
        nn_append(model, nn_linear(OUT, 3, 1));
        if (lora)
            assert_int_equal(nn_add_lora(model, &(Lora){.rank = RANK}), 2);
        Tensor *y = nn_forward(model, values(SHAPE(ROWS, IN), 1, 1), NULL);
        uint64_t ranks = lora ? 2 * rounded(ROWS * RANK) : 0;
        assert_int_equal(books()->live_by[MEM_ACTIVATION], 2 * rounded(ROWS * OUT) + ranks);
        tensor_backward(tensor_sum(y));
        assert_fine();
        leave(v);
    }
}

static void nothing_is_kept_below_the_first_adapter(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA, .layers = 3});
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "layers.1.mlp.down_proj"}), 1);
    Batch batch = small_batch(MODEL_LLAMA, 0, 0, 2);
    double flops = context_flops(context_current());
    Tensor *loss = nn_loss(model, &batch);
    double forward = context_flops(context_current()) - flops;
    assert_int_equal(live_at("model.layers.0", MEM_ACTIVATION), 0);
    /* The residual stream (in the output's projection, which it was added to), what the adapter reads, A x.
     */
    assert_int_equal(live_at("model.layers.1", MEM_ACTIVATION),
                     rounded(2 * SMALL_SEQ * 32) + rounded(2 * SMALL_SEQ * 48) + rounded(2 * SMALL_SEQ * 8));
    assert_true(live_at("model.layers.2.self_attn", MEM_ACTIVATION) > 0);
    tensor_backward(loss);
    assert_true(context_flops(context_current()) - flops < 2 * forward);
    assert_fine();
}

/* ---- The head -------------------------------------------------------------------------------- */

static void an_adapter_of_the_head(void **state)
{
    (void)state;
    static const struct {
        ModelFamily family;
        const char *head;
    } cases[] = {{MODEL_LLAMA, "lm_head"}, {MODEL_GPT2, "lm_head"}, {MODEL_BERT, "decoder"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        Setting s = {.family = cases[i].family};
        Module *model = adapted(&s, &(Lora){.rank = 2, .targets = cases[i].head});
        backward_of(model, s.family, &(Micro){{2}});
        TensorList list = nn_lora_parameters(model);
        assert_int_equal(list.count, 2);
        assert_true(tensor_has_grad(list.items[0]) && tensor_has_grad(list.items[1]));
        nn_set_loss_chunk(model, 4);
        Batch batch = small_batch(s.family, 0, 0, 2);
        assert_null(nn_loss(model, &batch));
        assert_error(ERROR_STATE, "nn_loss: ", "adapter", "nn_set_loss_chunk");
    }
}

static void writing_with_adapters(void **state)
{
    (void)state;
    Setting s = {.family = MODEL_LLAMA};
    Module *model = adapted(&s, &(Lora){.rank = 2, .targets = "lm_head,q_proj,down_proj"});
    nn_eval(model);
    Batch batch = small_batch(MODEL_LLAMA, 0, 0, 2);
    tensor_no_grad_begin();
    Tensor *whole = nn_forward(model, NULL, &batch); /* (2,T,V) */
    KvCache *cache = nn_kv_cache(model, 2, SMALL_SEQ);
    Tensor *last = nn_forward_next(model, &batch, cache); /* (2,V) */
    tensor_no_grad_end();
    assert_fine();
    for (int b = 0; b < 2; b++)
        assert_true(difference(tensor_f32(whole) + (b * SMALL_SEQ + SMALL_SEQ - 1) * SMALL_VOCAB,
                               tensor_f32(last) + b * SMALL_VOCAB, SMALL_VOCAB) < 1e-5);
}

/* ---- Memory that runs out -------------------------------------------------------------------- */

static int has_half(void *user, const LoraLayer *layer)
{
    (void)user;
    return !layer->a != !layer->b;
}

static int add_train_merge(Module **made)
{
    Module *model = *made = small_model(&(Setting){.family = MODEL_LLAMA, .layers = 1});
    nn_add_lora(model, &(Lora){.rank = 2, .targets = "embed_tokens,q_proj,gate_proj", .dropout = 0.1f});
    nn_lora_parameters(model);
    if (!error_code()) {
        Batch batch = small_batch(MODEL_LLAMA, 0, 0, 2);
        tensor_backward(nn_loss(model, &batch));
        nn_merge(model, DTYPE_F32);
    }
    return error_code();
}

static void every_allocation_fails(void **state)
{
    (void)state;
    for (int n = 1;; n++) {
        Visit v = visit(&(ContextOptions){.threads = 1});
        memtrack_fail_nth((uint64_t)n);
        Module *model;
        int code = add_train_merge(&model), passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (passed)
            assert_int_equal(code, 0);
        else if (code != ERROR_MEMORY && code != ERROR_HOST_MEMORY)
            fail_msg("allocation %d failed, and the error is %d (%s)", n, code, error_message());
        error_clear();
        assert_int_equal(nn_lora_layers(model, has_half, NULL), 0);
        leave(v);
        if (passed) {
            assert_true(n > 150);
            return;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(layers_are_chosen_by_name),
        TEST(a_name_that_no_layer_has_is_refused),
        TEST(a_list_of_names_has_an_end),
        TEST(bad_settings_are_refused),
        TEST(layers_are_chosen_one_by_one),
        TEST(nothing_changes_before_the_first_step),
        TEST(an_embedding_begins_with_nothing_too),
        TEST(all_else_is_frozen),
        TEST(bytes_kept_in_a_layer),
        TEST(dropout_keeps_nothing),
        TEST(an_activation_keeps_its_input_once),
        TEST(nothing_is_kept_below_the_first_adapter),
        TEST(an_adapter_of_the_head),
        TEST(writing_with_adapters),
        TEST(every_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
