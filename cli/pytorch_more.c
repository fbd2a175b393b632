/* What PyTorch's peak holds that brim's does not: by the operation and the module of each allocation. */
#include <string.h>

#include "pytorch_tables.h"

/* When a row is one: in that precision, after that preparation, in that family. */
enum { SIXTEEN_BITS = 1, KBIT = 2, GPT2 = 3 };

typedef struct Rule {
    const char *name, *why;
    int kind;                /* of PytorchKind; -1: any */
    int phase;               /* of PytorchPhase; -1: any */
    const char *module, *op; /* that the names contain; NULL: any. "aten::…" is all of the name */
    int when;                /* 0: always */
    int not_last;            /* only where the same operation of the same module has another one behind it */
    int halved;              /* the half of it is there without this, in 16 bits */
} Rule;

/* The first that holds is taken; those of one name are one row. */
static const Rule rules[] = {
    {"workspaces of cuBLAS", "one a product, taken from the same memory", PYTORCH_WORKSPACE, -1, NULL, NULL,
     0, 0, 0},
    {"casts of weights", "kept under autocast until backward has used them; brim's come and go", PYTORCH_CAST,
     -1, NULL, NULL, 0, 0, 0},
    {"buckets of ranks", "copies of weights or gradients that ranks send", PYTORCH_BUCKET, -1, NULL, NULL, 0,
     0, 0},
    {"fp32 of what is not quantised", "prepare_model_for_kbit_training: embeddings, head and norms",
     PYTORCH_FROZEN, -1, NULL, "_to_copy", KBIT, 0, 1},
    {"PEFT's casts", "each adapted layer's input, in the type of its adapter, fp32", PYTORCH_ACTIVATION, -1,
     "lora", "_to_copy", 0, 0, 0},
    {"PEFT's dropout", "of each adapter's input, and its mask", PYTORCH_ACTIVATION, -1, "lora", "dropout", 0,
     0, 0},
    {"temporaries of the optimizer", "foreach AdamW holds the roots of all second moments at once",
     PYTORCH_TEMPORARY, PYTORCH_STEP, NULL, "_foreach", 0, 0, 0},
    {"temporaries of clipping", "the norm of each gradient, in a tensor of its own", PYTORCH_TEMPORARY,
     PYTORCH_CLIP, NULL, NULL, 0, 0, 0},
    {"fp32 logits", "transformers casts logits to fp32 for the loss", -1, PYTORCH_FORWARD, "loss", "_to_copy",
     SIXTEEN_BITS, 0, 0},
    {"log-probabilities", "log_softmax is kept for backward, in fp32", -1, PYTORCH_FORWARD, "loss",
     "log_softmax", 0, 0, 0},
    {"gradients inside the loss", "nll_loss and log_softmax each make one, in fp32", -1, PYTORCH_BACKWARD,
     "loss", "_backward", 0, 0, 0},
    {"a gradient in 16 bits beside it", "the cast's backward copies it", -1, PYTORCH_BACKWARD, "loss",
     "_to_copy", SIXTEEN_BITS, 0, 0},
    {"fp32 copies in norms", "RMSNorm computes in fp32: it keeps its input so, and what it normalised",
     PYTORCH_ACTIVATION, -1, "norm", "_to_copy", 0, 0, 0},
    {"what norms normalised", "RMSNorm keeps it beside its output, for the gradient of its weight",
     PYTORCH_ACTIVATION, -1, "norm", "aten::mul", 0, 1, 0},
    {"silu of the gate", "kept beside the gate and the product; brim computes it again", PYTORCH_ACTIVATION,
     -1, "mlp", "silu", 0, 0, 0},
    {"steps of GELU", "transformers' NewGELU is eight operations; brim's is one", PYTORCH_ACTIVATION, -1,
     "mlp", "tanh", 0, 0, 0},
    {"steps of GELU", "", PYTORCH_ACTIVATION, -1, "mlp", "aten::add", GPT2, 0, 0},
    {"steps of GELU", "", PYTORCH_ACTIVATION, -1, "mlp", "aten::mul", GPT2, 1, 0},
    {"hidden states in fp32", "of prepared embeddings and norms: what a layer adds stays in their type",
     PYTORCH_ACTIVATION, -1, NULL, "aten::add", KBIT, 0, 1},
    {"fp32 scores", "eager attention's softmax is computed and kept in fp32", -1, -1, "self_attn", "_softmax",
     SIXTEEN_BITS, 0, 0},
    {"casts inside attention's backward", "gradients of scores, in fp32 and in 16 bits", PYTORCH_TEMPORARY,
     PYTORCH_BACKWARD, "self_attn", "_to_copy", SIXTEEN_BITS, 0, 0},
    {"inside flash attention's backward", "sums of dq in fp32; dk and dv of every head before they are added",
     PYTORCH_TEMPORARY, PYTORCH_BACKWARD, NULL, "attention_backward", 0, 0, 0},
    {"keys and values of the cache", "use_cache is on in training; autocast casts them once more",
     PYTORCH_TEMPORARY, PYTORCH_FORWARD, "self_attn", "cat", 0, 0, 0},
    {"scratch of reductions", "partial sums of many blocks", -1, -1, NULL, "reduction", 0, 0, 0},
};
enum { RULES = sizeof rules / sizeof rules[0] };
_Static_assert(RULES <= (int)PYTORCH_MORE, "a row each");

static int contains(const char *name, const char *part)
{
    return !part || (name && strstr(name, part));
}

/* "aten::add" is not "aten::addmm". */
static int is_op(const char *name, const char *op)
{
    return op && !strncmp(op, "aten::", 6) ? name && !strcmp(name, op) : contains(name, op);
}

static int has_next(const PytorchSummary *s, const PytorchAllocation *a)
{
    for (const PytorchAllocation *b = a + 1; b < s->live + s->live_count; b++)
        if (b->layer == a->layer && b->module == a->module && !strcmp(b->op, a->op))
            return 1;
    return 0;
}

static int is_so(const PytorchJob *job, int when)
{
    switch (when) {
    case SIXTEEN_BITS:
        return job->precision != PYTORCH_FP32;
    case KBIT:
        return job->kbit_prepare && job->weights > PYTORCH_WEIGHTS_FP32;
    case GPT2:
        return job->model.family == PYTORCH_GPT2;
    default:
        return 1;
    }
}

static int holds(const PytorchPlan *plan, const Rule *r, const PytorchAllocation *a)
{
    return (r->kind < 0 || r->kind == (int)a->kind) && (r->phase < 0 || r->phase == (int)a->phase) &&
           contains(a->module, r->module) && is_op(a->op, r->op) && is_so(&plan->job, r->when) &&
           (!r->not_last || has_next(&plan->summary, a));
}

/* The rule of an allocation, or RULES; and how many of its bytes PyTorch has more by it. */
static int rule_of(const PytorchPlan *plan, const PytorchAllocation *a, int64_t *bytes)
{
    int r = 0;
    while (r < RULES && !holds(plan, &rules[r], a))
        r++;
    *bytes = r == RULES ? 0 : (int64_t)(a->bytes / (rules[r].halved ? 2 : 1));
    return r;
}

uint64_t pytorch_brim_head(const PytorchPlan *plan)
{
    uint64_t bytes = 0;
    for (int i = 0; i < plan->brim.path_count; i++) {
        const PlanPath *at = &plan->brim.paths[i];
        if (strstr(at->path, "lm_head") || strstr(at->path, "loss") || !at->path[0])
            bytes += report_group(at->by, MEM_GROUP_ACTIVATIONS) + report_group(at->by, MEM_GROUP_OVERHEAD);
    }
    return bytes;
}

static int first_of(int rule)
{
    int first = 0;
    while (strcmp(rules[first].name, rules[rule].name) != 0)
        first++;
    return first;
}

/* ---- By place -------------------------------------------------------------------------------- */

const char *const pytorch_place_names[PLACES] = {
    [PLACE_NORMS] = "norms",       [PLACE_ATTENTION] = "attention", [PLACE_FEED_FORWARD] = "feed-forward",
    [PLACE_ADAPTERS] = "adapters", [PLACE_HEAD] = "head and loss",  [PLACE_BETWEEN] = "between them"};

/* By parts of a module's name, PyTorch's or brim's; the first that is there. */
static PytorchPlace place_of(const char *module)
{
    static const struct {
        const char *part;
        PytorchPlace place;
    } parts[] = {{"lora", PLACE_ADAPTERS},
                 {"norm", PLACE_NORMS},
                 {"ln_", PLACE_NORMS},
                 {"LayerNorm", PLACE_NORMS},
                 {"lm_head", PLACE_HEAD},
                 {"loss", PLACE_HEAD},
                 {"cls", PLACE_HEAD},
                 {"score", PLACE_HEAD},
                 {"classifier", PLACE_HEAD},
                 {"attn", PLACE_ATTENTION},
                 {"attention", PLACE_ATTENTION},
                 {"mlp", PLACE_FEED_FORWARD},
                 {"intermediate", PLACE_FEED_FORWARD},
                 {"output", PLACE_FEED_FORWARD}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (contains(module, parts[i].part))
            return parts[i].place;
    return PLACE_BETWEEN;
}

void pytorch_places(const PytorchPlan *plan, uint64_t pytorch[PLACES], uint64_t brim[PLACES])
{
    memset(pytorch, 0, PLACES * sizeof *pytorch);
    memset(brim, 0, PLACES * sizeof *brim);
    for (size_t i = 0; i < plan->summary.live_count; i++)
        if (plan->summary.live[i].kind == PYTORCH_ACTIVATION)
            pytorch[place_of(plan->summary.live[i].module)] += plan->summary.live[i].bytes;
    for (int i = 0; i < plan->brim.path_count; i++)
        brim[place_of(plan->brim.paths[i].path)] +=
            report_group(plan->brim.paths[i].by, MEM_GROUP_ACTIVATIONS);
}

/* ---- The rows ---------------------------------------------------------------------------------- */

int pytorch_more(const PytorchPlan *plan, PytorchMore rows[PYTORCH_MORE])
{
    int64_t bytes[RULES] = {0}, more;
    int count = 0;
    for (size_t i = 0; i < plan->summary.live_count; i++) {
        int rule = rule_of(plan, &plan->summary.live[i], &more);
        if (rule < RULES)
            bytes[first_of(rule)] += more;
    }
    for (int r = 0; r < RULES; r++)
        if (bytes[r])
            rows[count++] = (PytorchMore){rules[r].name, rules[r].why, bytes[r]};
    return count;
}

/* What brim's activations have more in each place, beside those that a row names. */
static void kept_by_brim(const PytorchPlan *plan, int64_t kept[PLACES])
{
    uint64_t pytorch[PLACES], brim[PLACES];
    pytorch_places(plan, pytorch, brim);
    for (int p = 0; p < PLACES; p++)
        kept[p] = (int64_t)brim[p] - (int64_t)pytorch[p];
    for (size_t i = 0; i < plan->summary.live_count; i++) {
        const PytorchAllocation *a = &plan->summary.live[i];
        int64_t named;
        rule_of(plan, a, &named);
        if (a->kind == PYTORCH_ACTIVATION)
            kept[place_of(a->module)] += named;
    }
}

/* Where layers are recomputed there is little of it, and it is in what is left over. Returns how many rows.
 */
static int add_kept(const PytorchPlan *plan, PytorchMore *rows)
{
    PytorchPhase phase = plan->summary.peak_at.phase;
    int64_t kept[PLACES];
    int count = 0;
    kept_by_brim(plan, kept);
    int64_t inputs = kept[PLACE_ATTENTION] + kept[PLACE_FEED_FORWARD];
    int64_t all = inputs + kept[PLACE_NORMS] + kept[PLACE_ADAPTERS] + kept[PLACE_BETWEEN];
    if (phase != PYTORCH_FORWARD && phase != PYTORCH_BACKWARD) {
        rows[0] = (PytorchMore){"activations", "brim's peak is while they are there", -all};
        return all > 0;
    }
    if (plan->job.checkpoint != PYTORCH_KEEP)
        return 0;
    if (kept[PLACE_NORMS] > 0)
        rows[count++] = (PytorchMore){"brim's own in norms", "their inputs, as they are", -kept[PLACE_NORMS]};
    if (plan->job.lora_rank && inputs > 0)
        rows[count++] =
            (PytorchMore){"brim's own beside adapters",
                          "inputs of adapted layers as they are, one for all that share it", -inputs};
    return count;
}

int pytorch_differences(const PytorchPlan *plan, PytorchMore rows[PYTORCH_DIFFERENCES])
{
    if (plan->brim.status)
        return 0;
    int count = pytorch_more(plan, rows);
    int64_t rest = (int64_t)(plan->summary.requested - plan->brim.memory.stats.peak);
    rows[count++] =
        (PytorchMore){/* both have all of them sooner or later */
                      "gradients", "the two peaks are at different moments",
                      (int64_t)(plan->summary.at_peak[PYTORCH_GRADIENT] -
                                report_group(plan->brim.memory.stats.at_peak, MEM_GROUP_GRADIENTS))};
    rows[count++] = (PytorchMore){"brim's own logits and loss", "at its peak, in the type of its activations",
                                  -(int64_t)pytorch_brim_head(plan)};
    count += add_kept(plan, rows + count);
    for (int i = 0; i < count; i++)
        rest -= rows[i].bytes;
    rows[count++] = (PytorchMore){"other differences", "of all that both keep", rest};
    return count;
}
