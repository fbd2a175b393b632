/* Every operation against what PyTorch computed (parity/README.md): values and gradients, with the tuned and
 * the plain kernels, for fresh gradients and for gradients added to what is there. */
#include <math.h>

#include "support.h"

typedef struct Case {
    const Fixture *fixture;
    int at;           /* of the case's record */
    const char *text; /* "linear act=gelu bias=1 in_out=0" */
    Tensor *in[4];
    const char *name[4]; /* of the inputs that have a gradient; NULL otherwise */
    int inputs;
} Case;

static int number(const Case *c, const char *key)
{
    return (int)attribute(c->text, key, 0);
}

static float real(const Case *c, const char *key)
{
    return (float)attribute(c->text, key, NAN);
}

static Tensor *input(Case *c, const char *name)
{
    const Record *r = fixture_find(c->fixture, c->at, name);
    assert_non_null(r);
    Tensor *t = tensor_from(r->dtype == 1 ? DTYPE_I32 : DTYPE_F32, r->shape, MEM_INPUT, r->data);
    if (r->dtype == 0) {
        tensor_set_requires_grad(t, 1);
        c->name[c->inputs] = name;
    }
    c->in[c->inputs++] = t;
    return t;
}

static TensorActivation activation(const char *text)
{
    static const char *const names[] = {"identity", "gelu", "gelu_tanh", "silu", "relu", "tanh"};
    for (int i = 0; i < (int)COUNT(names); i++)
        if (attribute_is(text, "act", names[i]) || kind_is(text, names[i]))
            return (TensorActivation)i;
    fail_msg("%s: unknown activation", text);
    return TENSOR_IDENTITY;
}

static void read_inputs(Case *c)
{
    for (int i = c->at + 1; strcmp(c->fixture->records[i].name, "y") != 0; i++)
        input(c, c->fixture->records[i].name);
}

static Tensor *run_linear(Case *c)
{
    Tensor *bias = number(c, "bias") ? c->in[2] : NULL;
    return number(c, "in_out") ? tensor_linear_in_out(c->in[0], c->in[1], bias, activation(c->text))
                               : tensor_linear(c->in[0], c->in[1], bias, activation(c->text));
}

static Tensor *run_embedding(Case *c)
{
    return tensor_embedding(c->in[0], c->in[1]);
}

static Tensor *run_add_rows(Case *c)
{
    return tensor_add_rows(c->in[0], c->in[1], number(c, "rows"));
}

static Tensor *run_layer_norm(Case *c)
{
    return tensor_layer_norm(c->in[0], c->in[1], c->in[2], real(c, "eps"));
}

static Tensor *run_rms_norm(Case *c)
{
    return tensor_rms_norm_plus(c->in[0], c->in[1], real(c, "eps"), (float)number(c, "plus"));
}

static Tensor *run_activation(Case *c)
{
    return tensor_activation(c->in[0], activation(c->text));
}

static Tensor *run_swiglu(Case *c)
{
    return tensor_swiglu(c->in[0], c->in[1]);
}

static Tensor *run_gated(Case *c)
{
    return tensor_gated(c->in[0], c->in[1], activation(c->text));
}

static Tensor *run_gated_packed(Case *c)
{
    return tensor_gated_packed(c->in[0], activation(c->text));
}

static Tensor *run_gate_rows(Case *c)
{
    return tensor_gate_rows(c->in[0], c->in[1]);
}

static Tensor *run_mean_tokens(Case *c)
{
    return tensor_mean_tokens(c->in[0], number(c, "masked") ? c->in[1] : NULL);
}

static Tensor *run_softcap(Case *c)
{
    return tensor_softcap(c->in[0], real(c, "cap"));
}

static Tensor *run_add(Case *c)
{
    return tensor_add(c->in[0], number(c, "same") ? c->in[0] : c->in[1]);
}

static Tensor *run_mul(Case *c)
{
    return tensor_mul(c->in[0], number(c, "same") ? c->in[0] : c->in[1]);
}

static Tensor *run_scale(Case *c)
{
    return tensor_scale(c->in[0], real(c, "factor"));
}

static Tensor *run_sum(Case *c)
{
    return tensor_sum(c->in[0]);
}

static Tensor *run_mean(Case *c)
{
    return tensor_mean(c->in[0]);
}

static Tensor *run_rope(Case *c)
{
    return tensor_rope_with(c->in[0], &(RopeOptions){.heads = number(c, "heads"),
                                                     .theta = real(c, "theta"),
                                                     .head_dim = number(c, "head_dim"),
                                                     .rotary_dim = number(c, "rotary_dim"),
                                                     .interleaved = number(c, "interleaved")});
}

static AttentionKind kind; /* that run_attention uses */

static AttentionOptions attention_options(const Case *c)
{
    return (AttentionOptions){.heads = number(c, "heads"),
                              .kv_heads = number(c, "kv_heads"),
                              .causal = number(c, "causal"),
                              .kind = kind,
                              .window = number(c, "window"),
                              .scale = (float)attribute(c->text, "scale", 0),
                              .softcap = (float)attribute(c->text, "softcap", 0),
                              .mask = number(c, "mask") ? c->in[c->inputs - 1] : NULL};
}

static Tensor *run_attention(Case *c)
{
    AttentionOptions options = attention_options(c);
    int same = number(c, "same");
    return tensor_attention(c->in[0], c->in[same ? 0 : 1], c->in[same ? 0 : 2], &options);
}

static Tensor *run_attention_packed(Case *c)
{
    AttentionOptions options = attention_options(c);
    return tensor_attention_packed(c->in[0], &options);
}

static Tensor *run_cross_entropy(Case *c)
{
    LossOptions o = {.ignore_index = number(c, "ignore_index"),
                     .scale = real(c, "scale"),
                     .softcap = (float)attribute(c->text, "softcap", 0)};
    return tensor_cross_entropy_with(c->in[0], c->in[1], &o);
}

static const struct Op {
    const char *name;
    Tensor *(*run)(Case *c);
} ops[] = {
    {"linear", run_linear},
    {"embedding", run_embedding},
    {"add_rows", run_add_rows},
    {"layer_norm", run_layer_norm},
    {"rms_norm", run_rms_norm},
    {"gelu", run_activation},
    {"gelu_tanh", run_activation},
    {"silu", run_activation},
    {"relu", run_activation},
    {"tanh", run_activation},
    {"swiglu", run_swiglu},
    {"gated", run_gated},
    {"gated_packed", run_gated_packed},
    {"gate_rows", run_gate_rows},
    {"mean_tokens", run_mean_tokens},
    {"softcap", run_softcap},
    {"add", run_add},
    {"mul", run_mul},
    {"scale", run_scale},
    {"sum", run_sum},
    {"mean", run_mean},
    {"rope", run_rope},
    {"attention", run_attention},
    {"attention_packed", run_attention_packed},
    {"cross_entropy", run_cross_entropy},
};

static int op_of(const char *text)
{
    for (int i = 0; i < (int)COUNT(ops); i++)
        if (kind_is(text, ops[i].name))
            return i;
    fail_msg("no operation runs the case '%s'", text);
    return -1;
}

/* Runs a case twice: the second pass adds to the gradients of the first. */
static void run_case(const Fixture *fixture, int at, const char *how)
{
    int scope = tensor_scope_begin();
    Case c = {.fixture = fixture, .at = at, .text = fixture->records[at].data};
    char what[160];
    snprintf(what, sizeof what, "%s (%s)", c.text, how);
    read_inputs(&c);
    for (int pass = 1; pass <= 2; pass++) {
        Tensor *y = tensor_keep(ops[op_of(c.text)].run(&c));
        if (!y)
            fail_msg("%s: %s", what, error_message());
        const Record *dy = fixture_find(fixture, at, "dy");
        tensor_backward(tensor_sum(tensor_mul(y, tensor_from(DTYPE_F32, dy->shape, MEM_INPUT, dy->data))));
        assert_parity(what, "y", fixture_find(fixture, at, "y"), tensor_f32(y), 1);
        for (int i = 0; i < c.inputs; i++) {
            char name[40];
            snprintf(name, sizeof name, "grad.%s", c.name[i] ? c.name[i] : "");
            if (c.name[i])
                assert_parity(what, name, fixture_find(fixture, at, name), grad_f32(c.in[i]), pass);
        }
    }
    tensor_scope_end(scope);
}

/* All cases of operation `only`, or of all; returns how many there were. */
static int run_cases(const Fixture *fixture, const char *how, const char *only)
{
    int count = 0;
    for (int at = 0; at < fixture->count; at++) {
        const Record *r = &fixture->records[at];
        if (strcmp(r->name, "case") != 0 || (only && !kind_is(r->data, only)))
            continue;
        run_case(fixture, at, how);
        count++;
    }
    return count;
}

static void with_kernels(const char *kernels, int threads)
{
    char how[64];
    Fixture fixture = fixture_open("ops.bin");
    Visit v = visit(&(ContextOptions){.kernels = kernels, .threads = threads});
    snprintf(how, sizeof how, "%s, %d threads", kernels ? kernels : "tuned", threads);
    kind = ATTENTION_FLASH;
    assert_true(run_cases(&fixture, how, NULL) > 100);
    kind = ATTENTION_EAGER;
    strcat(how, ", eager");
    assert_true(run_cases(&fixture, how, "attention") > 20);
    assert_true(run_cases(&fixture, how, "attention_packed") > 10);
    leave(v);
    fixture_close(&fixture);
}

static void test_tuned_kernels(void **state)
{
    (void)state;
    with_kernels(NULL, 1);
}

static void test_two_threads(void **state)
{
    (void)state;
    with_kernels(NULL, 2);
}

static void test_reference_kernels(void **state)
{
    (void)state;
    with_kernels("reference", 1);
}

/* An operation without a case here would go unnoticed otherwise. */
static void test_every_operation_has_cases(void **state)
{
    (void)state;
    Fixture fixture = fixture_open("ops.bin");
    for (int i = 0; i < (int)COUNT(ops); i++) {
        int count = 0;
        for (int at = 0; at < fixture.count; at++)
            count +=
                !strcmp(fixture.records[at].name, "case") && kind_is(fixture.records[at].data, ops[i].name);
        if (count < 3)
            fail_msg("%s has %d cases", ops[i].name, count);
    }
    fixture_close(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tuned_kernels),
        cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_reference_kernels),
        cmocka_unit_test(test_every_operation_has_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
