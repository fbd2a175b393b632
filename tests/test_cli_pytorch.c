/* --framework pytorch: what plan and fit say of a job of PyTorch, and what they refuse. */
#include <math.h>

#include "cli_support.h"

#define TINY "llama-tiny", "--framework", "pytorch", "--batch", "2", "--seq", "64"

static json_t *json_of(Outcome *outcome, int code)
{
    return parse(expect_code(outcome, code)->out);
}

static const json_t *pytorch_of(const json_t *root)
{
    return json_object_get(root, "pytorch");
}

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no '%s' in\n%s", text, o->out);
}

/* ---- plan ------------------------------------------------------------------------------------ */

static void the_peak_is_taken_apart(void **state)
{
    (void)state;
    json_t *root = json_of(RUN("plan", TINY, "--precision", "bf16", "--json"), 0), *value;
    const json_t *p = pytorch_of(root);
    const char *key;
    json_int_t kinds = 0, live = 0, requested = integer_at(p, "requested_bytes");
    size_t i;
    json_object_foreach(json_object_get(p, "at_peak"), key, value) kinds += json_integer_value(value);
    json_array_foreach(json_object_get(p, "live_at_peak"), i, value) live += integer_at(value, "bytes");
    assert_int_equal(kinds, requested);
    assert_int_equal(live, requested);
    assert_true(integer_at(p, "allocated_bytes") >= requested);
    assert_true(integer_at(p, "reserved_bytes") >= integer_at(p, "allocated_bytes"));
    assert_true(json_is_true(json_object_get(p, "predicted")));
    assert_true(json_is_null(json_object_get(p, "verdict")));
    assert_string_equal(json_string_value(json_object_get(json_object_get(p, "versions"), "torch")), "2.15");
    assert_true(integer_at(json_object_get(p, "peak_at"), "bytes") > 0);
    assert_true(integer_at(json_object_get(json_object_get(root, "brim"), "memory"), "needs_bytes") > 0);
    json_decref(root);
}

static void it_says_what_it_is(void **state)
{
    (void)state;
    const Outcome *o = expect_code(RUN("plan", TINY, "--precision", "bf16", "--card", "h200"), 0);
    static const char *const lines[] = {
        "llama-tiny  6,123,168 parameters  bf16  AdamW, foreach  batch 2 x seq 64  sdpa attention  Trainer\n",
        "PREDICTED for torch 2.15, transformers 5.24; no card has confirmed it.  On NVIDIA H200 141GB, ",
        ", compute capability 9.0.\n",
        "h200 has 139.80 GiB; the context takes 0.25-0.45 assumed: 139.35 GiB are left.\nIt fits:",
        "WHAT PYTORCH'S PEAK HAS MORE",
        "BY LAYER AT THE PEAK",
        "MOMENTS",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        has(o, lines[i]);
    has(expect_code(RUN("plan", TINY), 0),
        "On a card of compute capability 8.0 (assumed: --card names one).\n");
}

/* Each is another job, so its figures are others; and each is said in the first line. */
static void options_are_of_the_job(void **state)
{
    (void)state;
    static const char *const trials[][3] = {
        {"--optimizer", "adamw-fused", "AdamW, fused"},
        {"--optimizer", "sgd", "  SGD  "},
        {"--attention", "eager", "eager attention"},
        {"--checkpoint", "blocks", "layers recomputed"},
        {"--checkpoint", "reentrant", "(reentrant)"},
        {"--precision", "bf16-autocast", "bf16-autocast"},
        {"--lora", "r=8", "LoRA r 8"},
        {"--accumulate", "3", "seq 64 x 3"},
        {"--batch", "5", "batch 5"},
        {"--longest", "33", "seq 33"},
        {"--script", "loop", "a plain loop"},
        {"--evaluate", "2", "that evaluates 2 batches"},
        {"--versions", "torch=2.11.0+cu130", "torch 2.11"},
        {"--optimizer", "paged_adamw_8bit", "paged 8-bit AdamW"},
        {"--weights", "bf16", "bf16"},
    };
    static char usual[1 << 16];
    const Outcome *o = expect_code(RUN("plan", "llama-tiny", "--framework", "pytorch", "--seq", "64"), 0);
    snprintf(usual, sizeof usual, "%s", strstr(o->out, "reserved "));
    for (size_t i = 0; i < COUNT(trials); i++) {
        o = expect_code(
            RUN("plan", "llama-tiny", "--framework", "pytorch", "--seq", "64", trials[i][0], trials[i][1]),
            0);
        has(o, trials[i][2]);
        if (!strcmp(usual, strstr(o->out, "reserved ")))
            fail_msg("%s %s changes no figure", trials[i][0], trials[i][1]);
    }
}

/* What is left over, after all that has a name, is little. */
static void differences_have_names(void **state)
{
    (void)state;
    static const char *const jobs[][14] = {
        {"--precision", "bf16"},
        {"--precision", "fp32"},
        {"--precision", "bf16", "--lora", "r=16,alpha=32"},
        {"--precision", "bf16-autocast", "--weights", "bf16", "--lora", "r=16", "--quantize", "nf4",
         "--kbit-prepare", "on", "--checkpoint", "blocks"},
    };
    for (size_t i = 0; i < COUNT(jobs); i++) {
        const char *arguments[30] = {"",        "plan",  "llama-3.1-8b", "--framework",
                                     "pytorch", "--seq", "2048",         "--json"};
        for (int k = 0, count = 8; jobs[i][k]; k++)
            arguments[count++] = jobs[i][k];
        json_t *root = json_of(run_command(arguments), 0);
        const json_t *p = pytorch_of(root), *rows = json_object_get(p, "differences");
        const json_t *rest = json_array_get(rows, json_array_size(rows) - 1);
        assert_string_equal(json_string_value(json_object_get(rest, "name")), "other differences");
        json_int_t bytes = integer_at(rest, "bytes"), most = integer_at(p, "requested_bytes") / 100;
        if (bytes > most || bytes < -most)
            fail_msg("job %zu: %lld bytes have no name", i, (long long)bytes);
        json_decref(root);
    }
}

static void clipping_is_said(void **state)
{
    (void)state;
    assert_null(strstr(expect_code(RUN("plan", TINY), 0)->out, "no clipping"));
    has(expect_code(RUN("plan", TINY, "--clip", "0"), 0), "no clipping");
}

/* Of a QLoRA's job. */
static void quantised_models_are_prepared_or_not(void **state)
{
    (void)state;
    json_int_t bytes[2];
    for (int on = 0; on < 2; on++) {
        json_t *root = json_of(RUN("plan", TINY, "--lora", "r=8", "--quantize", "nf4", "--weights", "bf16",
                                   "--kbit-prepare", on ? "on" : "off", "--json"),
                               0);
        bytes[on] = integer_at(json_object_get(pytorch_of(root), "at_peak"), "frozen_parameters");
        json_decref(root);
    }
    assert_true(bytes[1] > bytes[0] + 512 * 256 * 2);
}

static void the_verdict_decides_the_code(void **state)
{
    (void)state;
    json_t *root = json_of(RUN("plan", TINY, "--json"), 0);
    json_int_t allocated = integer_at(pytorch_of(root), "allocated_bytes"),
               reserved = integer_at(pytorch_of(root), "reserved_bytes");
    const json_int_t limits[] = {reserved, allocated - 1};
    json_decref(root);
    for (int i = 0; i < 2; i++) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)limits[i]);
        root = json_of(RUN("plan", TINY, "--json", "--budget", text), i);
        const json_t *v = json_object_get(pytorch_of(root), "verdict");
        assert_string_equal(json_string_value(json_object_get(v, "answer")), i ? "too-large" : "fits");
        assert_int_equal(integer_at(v, "limit_bytes"), limits[i]);
        assert_int_equal(json_is_null(json_object_get(v, "fails_at")), !i);
        json_decref(root);
    }
    Outcome *o = expect_code(
        RUN("plan", "llama-3.1-8b", "--framework", "pytorch", "--precision", "bf16", "--card", "t4"), 1);
    has(o, "It does not fit: the ");
    has(o, "It runs out of memory at ");
}

/* What a card may do otherwise is said, and to scripts, too; not where it cannot. */
static void what_is_unverified_is_said(void **state)
{
    (void)state;
    static const struct {
        const char *card, *precision;
        int unverified;
    } trials[] = {{"h100", "bf16", 1}, {"h100", "fp32", 0}, {"a100-80", "bf16", 0}};
    for (size_t i = 0; i < COUNT(trials); i++) {
        const char *card = trials[i].card, *precision = trials[i].precision;
        const Outcome *o = expect_code(RUN("plan", TINY, "--card", card, "--precision", precision), 0);
        assert_int_equal(strstr(o->out, "\nUNVERIFIED: sdpa takes cuDNN's kernel first") != NULL,
                         trials[i].unverified);
        json_t *root = json_of(RUN("plan", TINY, "--card", card, "--precision", precision, "--json"), 0);
        assert_int_equal(json_is_string(json_object_get(pytorch_of(root), "unverified")),
                         trials[i].unverified);
        json_decref(root);
    }
}

/* Its low end is measured on some cards; the upper end, which counts, is not. */
static void contexts_are_ranges(void **state)
{
    (void)state;
    has(expect_code(RUN("plan", TINY, "--card", "t4"), 0),
        "the context takes 0.14 measured to 0.45 assumed: 14.30 GiB are left");
    json_t *root = json_of(RUN("plan", TINY, "--card", "t4", "--json"), 0);
    const json_t *context = json_object_get(pytorch_of(root), "context_bytes");
    assert_int_equal(integer_at(context, "low"), 147718144);
    assert_int_equal(integer_at(context, "high"), 461 << 20);
    assert_string_equal(json_string_value(json_object_get(context, "low_source")), "measured");
    assert_string_equal(json_string_value(json_object_get(context, "source")), "assumed");
    json_decref(root);
    has(expect_code(RUN("plan", TINY, "--card", "t4", "--reserve", "1GiB"), 0),
        "the context takes 1.00 given");
}

/* ---- Beside brim ----------------------------------------------------------------------------- */

/* Each of them has a name, and with what is left over they are all of it. */
static void differences_sum_to_the_difference(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[12];
        const char *has;
        double rest; /* the most of the difference that has no name but "other" */
    } trials[] = {
        {{"gpt2", "--batch", "2", "--seq", "1024"}, "steps of GELU", 0.1},
        {{"llama-3.2-1b", "--precision", "bf16", "--batch", "1", "--seq", "2048"}, "silu of the gate", 0.2},
        {{"llama-3.2-1b", "--lora", "r=8", "--weights", "bf16", "--quantize", "nf4", "--kbit-prepare", "on",
          "--checkpoint", "blocks"},
         "hidden states in fp32",
         0.1},
    };
    for (size_t i = 0; i < COUNT(trials); i++) {
        const char *arguments[20] = {"", "plan"};
        int count = 2;
        for (int k = 0; k < 12 && trials[i].arguments[k]; k++)
            arguments[count++] = trials[i].arguments[k];
        arguments[count++] = "--framework";
        arguments[count++] = "pytorch";
        arguments[count++] = "--json";
        json_t *root = json_of(run_command(arguments), 0);
        const json_t *rows = json_object_get(pytorch_of(root), "differences"), *row;
        json_int_t sum = 0, rest = 0,
                   brim = integer_at(json_object_get(json_object_get(root, "brim"), "memory"), "peak_bytes");
        size_t k;
        int named = 0;
        json_array_foreach(rows, k, row)
        {
            const char *name = json_string_value(json_object_get(row, "name"));
            sum += integer_at(row, "bytes");
            rest = integer_at(row, "bytes"); /* the last */
            named |= !strcmp(name, trials[i].has);
        }
        json_int_t all = integer_at(pytorch_of(root), "requested_bytes") - brim;
        assert_int_equal(sum, all);
        assert_true(named);
        assert_true(fabs((double)rest) < trials[i].rest * (double)all);
        json_decref(root);
    }
}

static void a_page_is_written(void **state)
{
    (void)state;
    const char *path = in_folder("page.html");
    char text[64] = "";
    has(expect_code(RUN("plan", TINY, "--card", "h200", "--html", path), 0),
        "page.html is written; open it in a browser\n");
    FILE *page = fopen(path, "r");
    assert_non_null(page);
    assert_non_null(fgets(text, sizeof text, page));
    assert_string_equal(text, "<!doctype html>\n");
    fclose(page);
    json_decref(json_of(RUN("plan", TINY, "--html", path, "--json"), 0));
    Outcome *o = expect_code(RUN("plan", TINY, "--html", "/nowhere/page.html"), 1);
    assert_non_null(strstr(o->err, "/nowhere/page.html"));
    assert_non_null(strstr(expect_code(RUN("plan", "llama-tiny", "--html", path), 2)->err,
                           "--html is of --framework pytorch; of brim's own"));
}

#define QLORA                                                                                                \
    "llama-3.1-8b", "--framework", "pytorch", "--lora", "r=16", "--weights", "bf16", "--quantize", "nf4",    \
        "--kbit-prepare", "on", "--checkpoint", "blocks", "--precision", "bf16-autocast"

/* Where pieces decide, expandable segments are what would make it fit. */
static void settings_of_the_allocator_decide(void **state)
{
    (void)state;
    static const char say[] = "With PYTORCH_ALLOC_CONF=expandable_segments:True it would fit.\n";
    static const char expandable[] = "expandable_segments:True";
    has(expect_code(RUN("plan", QLORA, "--seq", "6912", "--card", "rtx-3090"), 1), say);
    const Outcome *o =
        expect_code(RUN("plan", QLORA, "--seq", "6912", "--card", "rtx-3090", "--alloc-conf", expandable), 0);
    has(o, "Trainer  expandable_segments:True\n");
    has(o, "\nIt fits");
    has(o, "WHAT PYTORCH'S PEAK HAS MORE");
    assert_null(strstr(o->out, say));
    json_t *root = json_of(RUN("plan", QLORA, "--seq", "6912", "--card", "rtx-3090", "--json"), 1);
    assert_true(json_is_true(json_object_get(pytorch_of(root), "fits_with_expandable_segments")));
    json_decref(root);
}

/* ---- Several ranks --------------------------------------------------------------------------- */

static json_int_t at_peak(const json_t *root, const char *kind)
{
    return integer_at(json_object_get(pytorch_of(root), "at_peak"), kind);
}

/* DDP: each rank has all, and its gradients once more in buckets; FSDP2: a part of the states. */
static void ranks_are_of_the_job(void **state)
{
    (void)state;
    static const char *const how[] = {"ddp", "fsdp"}, *const names[] = {"ddp", "fsdp2"};
    json_t *alone = json_of(RUN("plan", TINY, "--script", "loop", "--json"), 0);
    json_int_t parameters = integer_at(alone, "parameters"), states = at_peak(alone, "optimizer_states");
    assert_true(json_is_null(json_object_get(pytorch_of(alone), "ranks")));
    assert_int_equal(at_peak(alone, "buckets_of_ranks"), 0);
    for (int i = 0; i < 2; i++) {
        json_t *root =
            json_of(RUN("plan", TINY, "--script", "loop", "--ranks", "4", "--parallel", how[i], "--json"), 0);
        const json_t *ranks = json_object_get(pytorch_of(root), "ranks");
        assert_int_equal(integer_at(ranks, "of"), 4);
        assert_string_equal(json_string_value(json_object_get(ranks, "parallel")), names[i]);
        assert_true(at_peak(root, "buckets_of_ranks") > 0);
        if (i)
            assert_true(at_peak(root, "parameters") == parameters &&
                        at_peak(root, "optimizer_states") == states / 4);
        else
            assert_int_equal(at_peak(root, "buckets_of_ranks"), parameters * 4);
        json_decref(root);
    }
    json_decref(alone);
}

static void a_rank_says_which_it_is(void **state)
{
    (void)state;
    const Outcome *o = expect_code(RUN("plan", TINY, "--ranks", "4"), 0);
    has(o, "batch 2 x seq 64 on each rank  rank 0 of 4 under DistributedDataParallel");
    has(o, "Rank 0 of 4 is predicted.  All others need the same.  NCCL's own buffers come from the driver");
    has(o, "  buckets of ranks");
    o = expect_code(RUN("plan", TINY, "--ranks", "4", "--parallel", "fsdp", "--script", "loop", "--precision",
                        "bf16-mixed", "--no-sync"),
                    0);
    has(o, "bf16-mixed");
    has(o, "rank 0 of 4 under FSDP2, no_sync");
    has(o, "No other rank needs more: its parts may be smaller");
    o = expect_code(RUN("fit", TINY, "--ranks", "2", "--card", "h200"), 0);
    has(o, "rank 0 of 2 under DistributedDataParallel");
    has(o, "NCCL's own buffers");
    json_t *root = json_of(RUN("fit", TINY, "--ranks", "2", "--card", "h200", "--json"), 0);
    assert_int_equal(integer_at(json_object_get(pytorch_of(root), "ranks"), "of"), 2);
    json_decref(root);
    assert_non_null(
        strstr(expect_code(RUN("fit", "llama-tiny", "--ranks", "2"), 2)->err,
               "--ranks belongs to `brim plan`, `brim train`, and `brim fit --framework pytorch`"));
    assert_non_null(
        strstr(expect_code(RUN("plan", TINY, "--precision", "bf16-mixed", "--ranks", "2"), 2)->err,
               "FSDP2's, of --ranks"));
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void refusals_name_what_and_why(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[7], *says;
    } trials[] = {
        {{"--loss-chunk", "16"}, "--loss-chunk means nothing beside --framework pytorch: transformers' loss"},
        {{"--ranks", "2", "--parallel", "zero3"}, "--parallel zero3 is DeepSpeed's ZeRO"},
        {{"--ranks", "2", "--parallel", "zero1"}, "--parallel zero1 is DeepSpeed's ZeRO"},
        {{"--parallel", "fsdp"}, "--parallel fsdp needs --ranks N"},
        {{"--ranks", "2", "--parallel", "fsdp"}, "there are no rules for FSDP2 under Trainer yet"},
        {{"--ranks", "2", "--replicas", "2"}, "its replicas (HSDP) are not predicted"},
        {{"--ranks", "2", "--tensor", "2"}, "ranks share the data by DDP or FSDP2 there"},
        {{"--ranks", "2", "--stages", "2"}, "ranks share the data by DDP or FSDP2 there"},
        {{"--ranks", "2", "--rank", "1"}, "one rank is predicted"},
        {{"--ranks", "2", "--versions", "torch=2.11"},
         "several ranks in these versions of torch and transformers"},
        {{"--no-sync", "--script", "loop"}, "--no-sync needs --ranks N"},
        {{"--no-sync", "--ranks", "2"}, "--no-sync is for --script loop"},
        {{"--device", "cuda"}, "--device means nothing beside --framework pytorch"},
        {{"--init", "x"}, "--init means nothing beside --framework pytorch"},
        {{"--optimizer-in-backward"}, "--optimizer-in-backward means nothing"},
        {{"--pack"}, "--pack means nothing beside --framework pytorch: packed rows bring"},
        {{"--attention", "flash"},
         "the flash-attn package is not predicted; sdpa takes PyTorch's own flash kernel"},
        {{"--precision", "bf16-mixed"}, "are DeepSpeed's and Megatron's"},
        {{"--precision", "bf16-states32"}, "fp32 states beside bf16 weights are Megatron's"},
        {{"--precision", "tf32"}, "the memory is that of fp32"},
        {{"--precision", "int4"},
         "--precision must be one of fp32, bf16, fp16, bf16-autocast, fp16-autocast"},
        {{"--script", "unsloth"}, "Unsloth's kernels are not predicted"},
        {{"--script", "liger"}, "Liger's kernels are not predicted"},
        {{"--script", "compile"}, "torch.compile is not predicted"},
        {{"--script", "dpo"}, "trainers of reinforcement learning are not predicted"},
        {{"--script", "x"}, "--script must be one of trainer, loop"},
        {{"--alloc-conf", "expandable_segment:True"}, "there is no 'expandable_segment'; there are"},
        {{"--alloc-conf", "backend:cudaMallocAsync"}, "--alloc-conf: PyTorch's allocator settings: "},
        {{"--optimizer", "lion"}, "--optimizer must be one of adamw, adamw-fused"},
        {{"--checkpoint", "selective"}, "--checkpoint selective is brim's"},
        {{"--checkpoint", "2"}, "--checkpoint 2 is brim's"},
        {{"--versions", "torch=1.0"},
         "--versions torch=1.0: there are no rules for these; there are for torch=2.15"},
        {{"--versions", "jax=1"}, "--versions takes torch=N, transformers=N, or both"},
        {{"--versions", "2.15"}, "--versions takes torch=N, transformers=N, or both"},
        {{"--versions", "torch=2.1"}, "--versions torch=2.1: there are no rules for these"},
        {{"--attention", "flash_attention_2"}, "(sdpa, eager with --framework pytorch)"},
        {{"--script", "SFTTrainer"}, "it is transformers' Trainer"},
        {{"--lora", "targets=all-linear"}, "without targets= all linear layers have adapters"},
        {{"--reserve", "100GiB", "--card", "t4"},
         "--reserve 100.00 GiB leaves nothing of the 14.75 GiB of t4"},
        {{"--quantize", "nf4"}, "--quantize nf4 needs --lora"},
        {{"--kbit-prepare", "on"}, "--kbit-prepare on needs --quantize"},
        {{"--kbit-prepare", "yes"}, "--kbit-prepare must be one of off, on"},
        {{"--weights", "bf16", "--precision", "fp32"}, "--weights bf16 excludes --precision fp32"},
        {{"--metrics"}, "--metrics needs --evaluate N"},
        {{"--hold-outputs"}, "outputs that Trainer would hold"},
        {{"--evaluate", "1", "--script", "loop"}, "an evaluation of a loop of one's own"},
        {{"--optimizer", "sgd", "--weight-decay", "0.1"},
         "--weight-decay beside --optimizer sgd is not predicted"},
        {{"--card", "v100-32"},
         "has compute capability 7.0, which there are no rules for: there are for 7.5"},
        {{"--card", "t4,h200"}, "a plan is for one card"},
        {{"--card", "nonsense"}, "no card is called 'nonsense'"},
        {{"--lora", "targets=nonsense"}, "there are no rules for adapters of nonsense"},
        {{"--framework", "jax"}, "--framework must be one of brim, pytorch"},
    };
    for (size_t i = 0; i < COUNT(trials); i++) {
        const char *arguments[16] = {"", "plan", "llama-tiny", "--framework", "pytorch"};
        int count = 5;
        for (int k = 0; trials[i].arguments[k]; k++)
            arguments[count++] = trials[i].arguments[k];
        Outcome *o = run_command(arguments);
        if (o->code != 2 || !strstr(o->err, trials[i].says) || o->out[0])
            fail_msg("%s: code %d, '%s', without '%s'", trials[i].arguments[0], o->code, o->err,
                     trials[i].says);
    }
}

static void families_are_those_of_the_rules(void **state)
{
    (void)state;
    static const char *const known[] = {"llama-3.2-1b",    "qwen2.5-0.5b", "qwen3-8b",
                                        "mistral-7b-v0.1", "gpt2",         "bert-base"};
    static const struct {
        const char *model, *says;
    } others[] = {{"gemma-2-2b", "there are for Llama, Qwen2, Qwen3, Mistral, GPT-2 and BERT"},
                  {"mixtral-8x7b", "mixtures of experts, whose loop depends on the data"},
                  {"mlp", "this family"}};
    for (size_t i = 0; i < COUNT(known); i++)
        expect_code(RUN("plan", known[i], "--framework", "pytorch", "--batch", "1", "--json"), 0);
    for (size_t i = 0; i < COUNT(others); i++) {
        const Outcome *o = expect_code(RUN("plan", others[i].model, "--framework", "pytorch"), 2);
        assert_non_null(strstr(o->err, others[i].says));
    }
}

/* What PyTorch has and brim has not is refused without it. */
static void they_belong_to_pytorch(void **state)
{
    (void)state;
    static const char *const trials[][3] = {
        {"--attention", "sdpa", "--attention sdpa is PyTorch's"},
        {"--checkpoint", "reentrant", "--checkpoint reentrant is PyTorch's"},
        {"--longest", "9", "--longest 9 needs --framework pytorch"},
        {"--versions", "torch=2.15", "needs --framework pytorch"},
        {"--script", "loop", "--script loop needs --framework pytorch"},
        {"--reserve", "2GiB", "--reserve belongs to `brim fit`"}};
    for (size_t i = 0; i < COUNT(trials); i++) {
        const Outcome *o = expect_code(RUN("plan", "llama-tiny", trials[i][0], trials[i][1]), 2);
        if (!strstr(o->err, trials[i][2]))
            fail_msg("'%s' without '%s'", o->err, trials[i][2]);
    }
    expect_code(RUN("plan", "llama-tiny", "--framework", "brim", "--attention", "flash"), 0);
    expect_code(RUN("train", "llama-tiny", "--framework", "pytorch"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_peak_is_taken_apart),
        cmocka_unit_test(it_says_what_it_is),
        cmocka_unit_test(options_are_of_the_job),
        cmocka_unit_test(differences_have_names),
        cmocka_unit_test(clipping_is_said),
        cmocka_unit_test(quantised_models_are_prepared_or_not),
        cmocka_unit_test(the_verdict_decides_the_code),
        cmocka_unit_test(what_is_unverified_is_said),
        cmocka_unit_test(contexts_are_ranges),
        cmocka_unit_test(differences_sum_to_the_difference),
        cmocka_unit_test(a_page_is_written),
        cmocka_unit_test(settings_of_the_allocator_decide),
        cmocka_unit_test(ranks_are_of_the_job),
        cmocka_unit_test(a_rank_says_which_it_is),
        cmocka_unit_test(refusals_name_what_and_why),
        cmocka_unit_test(families_are_those_of_the_rules),
        cmocka_unit_test(they_belong_to_pytorch),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
