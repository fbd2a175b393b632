/* --framework pytorch: options as a job of PyTorch, and what is said of its memory. */
#ifndef BRIM_CLI_PYTORCH_H
#define BRIM_CLI_PYTORCH_H

#include "../device/cards.h"
#include "../estimate/pytorch/summary.h"
#include "flags_.h"

int pytorch_framework(const Options *o);
/* Refuses by name what means nothing there or is not predicted, and fills in what the library's own defaults
 * are. 0, or EXIT_USAGE after saying why. */
int pytorch_check(Options *o, const Assignments *all);
/* How long samples are: --seq, --longest, or what --data has, which is read; settles --seq and --batch. 0, or
 * EXIT_USAGE after saying why not. (pytorch_data.c) */
int pytorch_measure(Options *o, int seq_typed, int data_typed);
/* Whether samples of a batch of so many are of different lengths, and padded. */
int pytorch_pads(const Options *o, int batch);
void pytorch_print_data(const Options *o); /* a few lines; none without --data */
json_t *pytorch_data_json(const Options *o);
/* What only PyTorch has, without --framework pytorch: 1 after saying so. */
int pytorch_alone(const Options *o, const char *command);

/* fp32 weights of which FSDP2 gathers bf16 copies, and adds gradients in fp32. */
int pytorch_is_mixed(const Options *o);

/* A value of an option. */
typedef struct PytorchChoice {
    const char *names; /* each with spaces around */
    int value;
    const char *text, *brim; /* in a title; what brim calls it, NULL: it has none */
} PytorchChoice;
const PytorchChoice *pytorch_precision(const Options *o);
const PytorchChoice *pytorch_optimizer(const Options *o);
const PytorchChoice *pytorch_script(const Options *o);
const PytorchDialect *pytorch_dialect(const Options *o);
/* The settings of --alloc-conf, on such a card (NULL: of any size). 0, or EXIT_USAGE after saying why not. */
int pytorch_allocator(const Options *o, const Card *card, PytorchAllocatorOptions *out);

/* That of --card, or NULL without one; 0, or EXIT_USAGE after saying why there is none. */
int pytorch_one_card(const Options *o, const Card **card);
/* The job on such a card; NULL: on the one that is assumed. 0, or EXIT_USAGE after saying why not. */
int pytorch_job(const Options *o, const Card *card, PytorchJob *job);
/* The same, without a word: 0, or 1 with the reason in `why`. */
int pytorch_job_or(const Options *o, const Card *card, PytorchJob *job, LeverText *why);
/* What a job with a batch of so many is given as its attention mask. */
int pytorch_mask(const Options *o, int batch);
/* Whether there are rules for such a card. */
int pytorch_knows(int capability);
/* "7.5, 8.0, 8.6, 8.9 and 9.0" */
LeverText pytorch_capabilities(void);
/* Brim's own options for the same training; 1 where it has none, and `why` says what. dropout: the job's. */
int pytorch_to_brim(const Options *o, const Card *card, double dropout, Options *brim, LeverText *why);

/* "AdamW, foreach  batch 1 x seq 2048  sdpa  a plain loop" and "torch 2.15, transformers 5.24" */
LeverText pytorch_title(const Options *o, const PytorchJob *job);
LeverText pytorch_versions(const PytorchJob *job);
/* "rank 0 of 8 under DDP"; "" where a process is alone */
LeverText pytorch_ranks(const PytorchJob *job);
void pytorch_print_ranks(const PytorchJob *job); /* what is said of such a rank; nothing of a process alone */
json_t *pytorch_ranks_json(const PytorchJob *job); /* null where a process is alone */
json_t *pytorch_versions_json(const PytorchJob *job);
/* "UNVERIFIED: …", with what stands before it; nothing where there is nothing to say. And the reason, or
 * null. */
void pytorch_print_unverified(const PytorchJob *job, const char *before);
json_t *pytorch_unverified_json(const PytorchJob *job);
/* "backward of step 2, layers.3 mlp, aten::mm" */
LeverText pytorch_place(const PytorchEvent *at, int accumulate);
json_t *pytorch_place_json(const PytorchEvent *at);

/* ---- Cards ----------------------------------------------------------------------------------- */

/* What the driver's context takes of a card, before the first tensor. */
typedef struct ContextRange {
    uint64_t low, high;
    const char *source; /* "assumed", "given" */
    int measured;       /* the low end, on such a card */
} ContextRange;
/* --reserve takes its place. */
ContextRange pytorch_context(const Options *o, const Card *card);
/* "0.25-0.45 assumed", "0.14 measured to 0.45 assumed", in GiB */
LeverText pytorch_context_text(ContextRange context);
json_t *pytorch_context_json(ContextRange context);

/* A verdict in a sentence, for a card that has `limit` bytes beside its context. */
LeverText pytorch_verdict_text(const PytorchBooks *books, const PytorchVerdict *verdict, uint64_t limit,
                               int accumulate);
int pytorch_fits(const PytorchVerdict *verdict);
const char *pytorch_answer_name(PytorchAnswer answer); /* "fits", "fits-after-flush", … */
json_t *pytorch_verdict_json(const PytorchVerdict *verdict, uint64_t limit);

int command_plan_pytorch(const Options *options);
int command_fit_pytorch(const Options *options);

#endif
