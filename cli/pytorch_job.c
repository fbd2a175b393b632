/* The job that options are, the cards that it may run on, and what they are called. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "../device/cuda.h"
#include "levers_.h"
#include "lora.h"
#include "pytorch.h"

/* ---- The model ------------------------------------------------------------------------------- */

#define FAMILIES "Llama, Qwen2, Qwen3, Mistral, GPT-2 and BERT"

/* A field of the config.json that describes the model; brim's own reading leaves out the dropout of scores.
 */
static double config_number(const Options *o, const char *name, double otherwise)
{
    char path[4096];
    snprintf(path, sizeof path, "%s%s", o->described, is_directory(o->described) ? "/config.json" : "");
    json_t *config = json_load_file(path, 0, NULL);
    const json_t *value = json_object_get(config, name);
    double number = json_is_number(value) ? json_number_value(value) : otherwise;
    json_decref(config);
    return number;
}

/* What is typed; or what the model's file says; or what transformers has where nothing is said. */
static void dropout_of(const Options *o, const char *name, double usual, PytorchModel *m)
{
    m->dropout = m->attention_dropout = usual;
    if (o->dropout_typed)
        m->dropout = m->attention_dropout = (double)o->dropout;
    else if (o->described) {
        m->dropout = (double)o->dropout;
        m->attention_dropout = config_number(o, name, usual);
    }
}

static const char *decoder_problem(const LlamaConfig *c, int window_is_mistral)
{
    if (c->mlp_bias || c->o_bias)
        return "biases on o_proj or in the feed-forward";
    static const LayerSet none;
    if (memcmp(&c->sliding, &none, sizeof none) != 0)
        return "layers of which only some have a sliding window";
    if (c->window && !window_is_mistral)
        return "a sliding window in a family other than Mistral";
    return NULL;
}

#define USUAL_DROPOUT 0.1 /* of GPT-2 and BERT in transformers */

/* Why there are no rules for the model, or NULL. */
static const char *model_of(const Options *o, PytorchModel *m)
{
    const ModelPreset *p = &o->preset;
    ModelSizes s = nn_preset_sizes(p);
    const LlamaConfig *c = &p->config.llama;
    const char *problem = NULL;
    *m = (PytorchModel){.vocab = s.vocab,
                        .hidden = s.dim,
                        .layers = s.layers,
                        .heads = s.heads,
                        .kv_heads = s.kv_heads ? s.kv_heads : s.heads,
                        .head_dim = s.head_dim ? s.head_dim : s.dim / (s.heads ? s.heads : 1),
                        .positions = s.max_seq,
                        .labels =
                            nn_preset_objective(p) == OBJECTIVE_CLASSIFICATION ? nn_preset_classes(p) : 0};
    switch (p->family) {
    case MODEL_LLAMA:
        m->family = c->qkv_bias ? PYTORCH_QWEN2 : c->window ? PYTORCH_MISTRAL : PYTORCH_LLAMA;
        m->intermediate = c->hidden;
        m->tied = c->tied;
        m->window = s.window;
        problem = decoder_problem(c, m->family == PYTORCH_MISTRAL);
        dropout_of(o, "attention_dropout", 0, m);
        break;
    case MODEL_QWEN3:
        m->family = PYTORCH_QWEN3;
        m->intermediate = c->hidden;
        m->tied = c->tied;
        problem = decoder_problem(c, 0);
        dropout_of(o, "attention_dropout", 0, m);
        break;
    case MODEL_GPT2:
        m->family = PYTORCH_GPT2;
        m->intermediate = p->config.gpt2.ffn ? p->config.gpt2.ffn : 4 * s.dim;
        m->tied = 1;
        dropout_of(o, "attn_pdrop", USUAL_DROPOUT, m);
        break;
    case MODEL_BERT:
        m->family = PYTORCH_BERT;
        m->intermediate = p->config.bert.ffn ? p->config.bert.ffn : 4 * s.dim;
        m->types = p->config.bert.types ? p->config.bert.types : 2;
        m->tied = 1;
        dropout_of(o, "attention_probs_dropout_prob", USUAL_DROPOUT, m);
        break;
    case MODEL_MIXTRAL:
    case MODEL_QWEN3_MOE:
        return "mixtures of experts, whose loop depends on the data";
    default:
        return "this family: there are for " FAMILIES;
    }
    return problem;
}

/* ---- The job --------------------------------------------------------------------------------- */

static int lora_targets(const char *names, LeverText *why)
{
    static const struct {
        const char *name;
        int bit;
    } known[] = {{"q_proj", PYTORCH_Q},       {"k_proj", PYTORCH_K},       {"v_proj", PYTORCH_V},
                 {"o_proj", PYTORCH_O},       {"gate_proj", PYTORCH_GATE}, {"up_proj", PYTORCH_UP},
                 {"down_proj", PYTORCH_DOWN}, {"c_attn", PYTORCH_C_ATTN},  {"c_proj", PYTORCH_C_PROJ},
                 {"c_fc", PYTORCH_C_FC},      {"query", PYTORCH_QUERY},    {"key", PYTORCH_KEY},
                 {"value", PYTORCH_VALUE},    {"dense", PYTORCH_DENSE}};
    int bits = 0;
    if (!names[0] || !strcmp(names, "all"))
        return PYTORCH_ALL_LINEAR;
    for (const char *at = names; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ',')) {
        int bit = 0, length = (int)strcspn(at, ",");
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            if ((int)strlen(known[i].name) == length && !strncmp(known[i].name, at, (size_t)length))
                bit = known[i].bit;
        if (!bit && length == 10 && !strncmp(at, "all-linear", 10))
            *why =
                lever_say("--lora: without targets= all linear layers have adapters, as PEFT's all-linear");
        else if (!bit)
            *why = lever_say(
                "--lora: there are no rules for adapters of %.*s: there are for the projections that "
                "transformers calls q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; c_attn, "
                "c_proj, c_fc; query, key, value, dense",
                length, at);
        bits |= bit;
    }
    return bits;
}

static void lora_to_job(const Options *o, PytorchJob *job, LeverText *why)
{
    LoraChoice choice;
    enum { USUAL_RANK = 8 };
    if (!o->lora || lora_parse(o->lora, &choice))
        return;
    job->lora_rank = choice.lora.rank ? choice.lora.rank : USUAL_RANK;
    job->lora_dropout = (double)choice.lora.dropout;
    job->lora_targets = lora_targets(choice.targets, why);
}

int pytorch_knows(int capability)
{
    for (int i = 0; estimate_pytorch_capability_at(i); i++)
        if (estimate_pytorch_capability_at(i) == capability)
            return 1;
    return 0;
}

LeverText pytorch_capabilities(void)
{
    LeverText out = {""};
    for (int i = 0; estimate_pytorch_capability_at(i); i++) {
        int c = estimate_pytorch_capability_at(i);
        lever_add(&out, "%s%d.%d",
                  !i                                      ? ""
                  : estimate_pytorch_capability_at(i + 1) ? ", "
                                                          : " and ",
                  c / 10, c % 10);
    }
    return out;
}

enum { STEPS = 2, ASSUMED_CAPABILITY = 80, FULL = 1, PADDED = 2 };

int pytorch_mask(const Options *o, int batch)
{
    return pytorch_pads(o, batch) ? PADDED : pytorch_script(o)->value == PYTORCH_LOOP ? 0 : FULL;
}

int pytorch_job_or(const Options *o, const Card *card, PytorchJob *job, LeverText *why)
{
    char problem[200];
    PytorchModel model;
    const char *none = model_of(o, &model);
    *why = (LeverText){""};
    if (none) {
        *why = lever_say("'%.80s': there are no rules for %s", o->model, none);
        return 1;
    }
    if (card && !pytorch_knows(card->capability)) {
        *why =
            lever_say("%s has compute capability %d.%d, which there are no rules for: there are for %s",
                      card->title, card->capability / 10, card->capability % 10, pytorch_capabilities().text);
        return 1;
    }
    *job = (PytorchJob){.model = model,
                        .precision = (PytorchPrecision)pytorch_precision(o)->value,
                        .attention = o->attention == ATTENTION_EAGER ? PYTORCH_EAGER : PYTORCH_SDPA,
                        .optimizer = (PytorchOptimizer)pytorch_optimizer(o)->value,
                        .weights = o->weights == DTYPE_BF16  ? PYTORCH_WEIGHTS_BF16
                                   : o->weights == DTYPE_F16 ? PYTORCH_WEIGHTS_FP16
                                                             : PYTORCH_WEIGHTS_FP32,
                        .quantize = o->quantized == DTYPE_INT8        ? PYTORCH_INT8
                                    : o->quantized == DTYPE_NF4_PLAIN ? PYTORCH_NF4_SINGLE
                                    : o->quantized                    ? PYTORCH_NF4
                                                                      : PYTORCH_PLAIN,
                        .checkpoint = o->checkpoint.reentrant ? PYTORCH_CHECKPOINT_REENTRANT
                                      : o->checkpoint.every   ? PYTORCH_CHECKPOINT
                                                              : PYTORCH_KEEP,
                        .script = (PytorchScript)pytorch_script(o)->value,
                        .dialect = pytorch_dialect(o),
                        .capability = card ? card->capability : ASSUMED_CAPABILITY,
                        .processors = card ? card->multiprocessors : 0,
                        .batch = o->batch,
                        .seq = o->seq,
                        .accumulate = o->accumulate,
                        .steps = STEPS,
                        .clip = (double)o->clip,
                        .mask = pytorch_mask(o, o->batch),
                        .hold = o->hold_outputs,
                        .ranks = o->ranks.size,
                        .parallel = o->ranks.size < 2                  ? PYTORCH_ALONE
                                    : o->ranks.strategy == RANKS_ZERO3 ? PYTORCH_FSDP2
                                                                       : PYTORCH_DDP,
                        .no_sync = o->no_sync,
                        .gathered = pytorch_is_mixed(o) ? PYTORCH_WEIGHTS_BF16 : PYTORCH_OF_PRECISION,
                        .reduced = pytorch_is_mixed(o) ? PYTORCH_WEIGHTS_FP32 : PYTORCH_OF_PRECISION,
                        .evaluate = o->evaluate,
                        .metrics = o->metrics,
                        .eval_accumulation = o->eval_accumulation,
                        .kbit_prepare = !strcmp(o->kbit_prepare, "on")};
    lora_to_job(o, job, why);
    if (!why->text[0] && estimate_pytorch_refuses(job, problem, sizeof problem))
        *why = lever_say("%s", problem);
    return why->text[0] != '\0';
}

int pytorch_job(const Options *o, const Card *card, PytorchJob *job)
{
    LeverText why;
    return pytorch_job_or(o, card, job, &why) ? usage("--framework pytorch: %s", why.text) : 0;
}

/* ---- Brim's own ------------------------------------------------------------------------------ */

int pytorch_to_brim(const Options *o, const Card *card, double dropout, Options *brim, LeverText *why)
{
    const PytorchChoice *precision = pytorch_precision(o), *optimizer = pytorch_optimizer(o);
    *brim = *o;
    *why = (LeverText){""};
    brim->framework = options_default.framework;
    brim->script = options_default.script;
    brim->kbit_prepare = options_default.kbit_prepare;
    brim->versions = brim->alloc_conf = NULL;
    brim->data = "builtin"; /* rows of the length that decides */
    brim->tokenizer = brim->invalid_utf8 = NULL;
    brim->max_samples = 0;
    brim->no_sync = brim->hold_outputs = brim->longest = brim->evaluate = brim->eval_accumulation =
        brim->metrics = 0;
    brim->device = "cuda";
    brim->parallel_typed = NULL;
    brim->cards = card ? card->name : NULL;
    brim->memories = NULL;
    brim->budget = 0;
    brim->optimizer = optimizer->brim;
    brim->checkpoint.reentrant = 0;
    brim->dropout = (float)dropout;
    nn_preset_set_dropout(&brim->preset, brim->dropout);
    if (!precision->brim) {
        *why = lever_say("brim has no training whose weights, gradients and states are %s", precision->text);
        return 1;
    }
    brim->precision = precision->brim;
    if (!has_adapters(o))
        brim->weights = DTYPE_F32; /* the precision says it */
    *why = levers_exclude(brim);
    if (!why->text[0])
        *why = levers_need(brim);
    brim->export_dtype = "fp32"; /* which a plan reads, though nothing is written */
    return why->text[0] != '\0';
}

/* ---- In words -------------------------------------------------------------------------------- */

LeverText pytorch_versions(const PytorchJob *job)
{
    PytorchVersions v = estimate_pytorch_versions(job->dialect);
    return lever_say("torch %s, transformers %s", v.torch, v.transformers);
}

json_t *pytorch_versions_json(const PytorchJob *job)
{
    PytorchVersions v = estimate_pytorch_versions(job->dialect);
    return json_pack("{s:s, s:s}", "torch", v.torch, "transformers", v.transformers);
}

LeverText pytorch_ranks(const PytorchJob *job)
{
    if (job->parallel == PYTORCH_ALONE)
        return (LeverText){""};
    return lever_say("rank 0 of %d under %s", job->ranks,
                     job->parallel == PYTORCH_FSDP2 ? "FSDP2" : "DistributedDataParallel");
}

void pytorch_print_ranks(const PytorchJob *job)
{
    SayLine line = {""};
    if (job->parallel == PYTORCH_ALONE)
        return;
    line_add(&line,
             "Rank 0 of %d is predicted.  %s.  NCCL's own buffers come from the driver: they are in none of "
             "these figures.",
             job->ranks,
             job->parallel == PYTORCH_FSDP2 ? "No other rank needs more: its parts may be smaller"
                                            : "All others need the same");
    say_line(&line);
}

json_t *pytorch_ranks_json(const PytorchJob *job)
{
    if (job->parallel == PYTORCH_ALONE)
        return json_null();
    return json_pack("{s:i, s:i, s:s}", "rank", 0, "of", job->ranks, "parallel",
                     job->parallel == PYTORCH_FSDP2 ? "fsdp2" : "ddp");
}

void pytorch_print_unverified(const PytorchJob *job, const char *before)
{
    char why[240];
    SayLine line = {""};
    if (!estimate_pytorch_unverified(job, why, sizeof why))
        return;
    line_add(&line, "%sUNVERIFIED: %s.", before, why);
    say_line(&line);
}

json_t *pytorch_unverified_json(const PytorchJob *job)
{
    char why[240];
    return estimate_pytorch_unverified(job, why, sizeof why) ? json_text(why) : json_null();
}

LeverText pytorch_title(const Options *o, const PytorchJob *job)
{
    LeverText out = lever_say("%s", pytorch_precision(o)->text);
    if (o->quantized)
        lever_add(&out, "  %s", quantize_name(o->quantized));
    if (o->lora)
        lever_add(&out, "  %.200s", lora_title(o).text);
    lever_add(&out, "  %s  batch %d x seq %d", pytorch_optimizer(o)->text, o->batch, o->seq);
    if (o->accumulate > 1)
        lever_add(&out, " x %d", o->accumulate);
    if (job->ranks > 1)
        lever_add(&out, " on each rank  %s%s", pytorch_ranks(job).text, o->no_sync ? ", no_sync" : "");
    lever_add(&out, "  %s attention", job->attention == PYTORCH_EAGER ? "eager" : "sdpa");
    if (job->checkpoint)
        lever_add(&out, "  layers recomputed%s",
                  job->checkpoint == PYTORCH_CHECKPOINT_REENTRANT ? " (reentrant)" : "");
    lever_add(&out, "  %s", pytorch_script(o)->text);
    if (o->evaluate)
        lever_add(&out, " that evaluates %d batch%s%s", o->evaluate, o->evaluate == 1 ? "" : "es",
                  o->metrics ? " with metrics" : "");
    if (o->hold_outputs)
        lever_add(&out, " that holds outputs");
    if (job->model.dropout > 0 || job->model.attention_dropout > 0)
        lever_add(&out, "  dropout %g",
                  job->model.dropout > 0 ? job->model.dropout : job->model.attention_dropout);
    if (!(o->clip > 0))
        lever_add(&out, "  no clipping");
    if (o->alloc_conf)
        lever_add(&out, "  %.200s", o->alloc_conf);
    return out;
}

LeverText pytorch_place(const PytorchEvent *e, int accumulate)
{
    LeverText out = lever_say("%s", estimate_pytorch_phase_name(e->phase));
    if (e->phase == PYTORCH_EVALUATE)
        lever_add(&out, ", batch %d", e->step + 1);
    else if (e->phase > PYTORCH_MAKE_OPTIMIZER)
        lever_add(&out, ", step %d", e->step + 1);
    if (accumulate > 1 && e->phase >= PYTORCH_DATA && e->phase <= PYTORCH_BACKWARD)
        lever_add(&out, ", micro-batch %d", e->micro + 1);
    if (e->layer >= 0)
        lever_add(&out, ", layers.%d%s%s", e->layer, e->module ? "." : "", e->module ? e->module : "");
    else if (e->module)
        lever_add(&out, ", %s", e->module);
    lever_add(&out, " (%s%s)", e->op ? e->op : "", e->recomputed ? ", recomputed" : "");
    return out;
}

json_t *pytorch_place_json(const PytorchEvent *e)
{
    return json_pack("{s:s, s:i, s:i, s:o, s:s?, s:s?, s:b, s:I}", "phase",
                     estimate_pytorch_phase_name(e->phase), "step", e->step + 1, "micro", e->micro + 1,
                     "layer", e->layer >= 0 ? json_integer(e->layer) : json_null(), "module", e->module, "op",
                     e->op, "recomputed", e->recomputed, "bytes", (json_int_t)e->bytes);
}

/* ---- Cards ----------------------------------------------------------------------------------- */

/* What a job had taken beside the reserved bytes at its end, on a card of that name;
 * tests/pytorch/published.txt has where it was measured. One kind of job on one card is no upper end. */
static const struct {
    const char *card;
    uint64_t bytes;
} measured_contexts[] = {
    {"t4", UINT64_C(147718144)}, /* fitcheck: 140.875 MiB, LoRA in fp16, torch 2.14 */
};

/* What PyTorch's users report of kernels that are loaded when they are first needed, as they are since
 * CUDA 11.7; docs/accuracy.md. */
ContextRange pytorch_context(const Options *o, const Card *card)
{
    ContextRange range = {UINT64_C(256) << 20, UINT64_C(461) << 20, "assumed", 0};
    if (o->reserve_typed)
        return (ContextRange){o->reserve, o->reserve, "given", 0};
    for (size_t i = 0; card && i < sizeof measured_contexts / sizeof measured_contexts[0]; i++)
        if (!strcmp(card->name, measured_contexts[i].card)) {
            range.low = measured_contexts[i].bytes;
            range.measured = 1;
        }
    return range;
}

LeverText pytorch_context_text(ContextRange c)
{
    double low = (double)c.low / 0x1p30, high = (double)c.high / 0x1p30;
    if (c.measured)
        return lever_say("%.2f measured to %.2f %s", low, high, c.source);
    return c.low == c.high ? lever_say("%.2f %s", low, c.source)
                           : lever_say("%.2f-%.2f %s", low, high, c.source);
}

json_t *pytorch_context_json(ContextRange c)
{
    return json_pack("{s:I, s:I, s:s, s:s}", "low", (json_int_t)c.low, "high", (json_int_t)c.high, "source",
                     c.source, "low_source", c.measured ? "measured" : c.source);
}

int pytorch_fits(const PytorchVerdict *v)
{
    return v->answer == PYTORCH_FITS || v->answer == PYTORCH_FITS_TIGHT;
}

const char *pytorch_answer_name(PytorchAnswer answer)
{
    static const char *const names[] = {[PYTORCH_FITS] = "fits",
                                        [PYTORCH_FITS_TIGHT] = "fits-when-flushed",
                                        [PYTORCH_RUNS_OUT] = "runs-out",
                                        [PYTORCH_TOO_LARGE] = "too-large"};
    return names[answer];
}

LeverText pytorch_verdict_text(const PytorchBooks *b, const PytorchVerdict *v, uint64_t limit, int accumulate)
{
    char flushes[40];
    snprintf(flushes, sizeof flushes, "%" PRIu64 " flush%s", v->flushes, v->flushes == 1 ? "" : "es");
    switch (v->answer) {
    case PYTORCH_FITS:
        return lever_say("It fits: the %s that it reserves are not more.",
                         report_size(b->peak_reserved).text);
    case PYTORCH_FITS_TIGHT:
        return lever_say(
            "It fits, after %s of the cache: it would reserve %s, and allocates %s. A replay of its "
            "allocations with this limit ends well.",
            flushes, report_size(b->peak_reserved).text, report_size(b->peak_allocated).text);
    case PYTORCH_RUNS_OUT:
        return lever_say(
            "It does not fit: the %s that it allocates would, but their pieces do not. A replay with this "
            "limit runs out of memory after %s, at %s for %s.",
            report_size(b->peak_allocated).text, flushes, report_size(v->failed.bytes).text,
            pytorch_place(&v->failed, accumulate).text);
    default:
        break;
    }
    return lever_say(
        "It does not fit: the %s that it allocates are %s more. It runs out of memory at %s for %s.",
        report_size(b->peak_allocated).text, report_size(b->peak_allocated - limit).text,
        report_size(v->failed.bytes).text, pytorch_place(&v->failed, accumulate).text);
}

json_t *pytorch_verdict_json(const PytorchVerdict *v, uint64_t limit)
{
    int fails = !pytorch_fits(v);
    return json_pack("{s:s, s:b, s:I, s:I, s:o}", "answer", pytorch_answer_name(v->answer), "fits", !fails,
                     "limit_bytes", (json_int_t)limit, "flushes", (json_int_t)v->flushes, "fails_at",
                     fails ? pytorch_place_json(&v->failed) : json_null());
}
