/* A text written by a model, as a script: what brim generate runs, and what brim plan, compare and fit plan
 * with
 * --inference. */
#ifndef BRIM_CLI_WRITING_H
#define BRIM_CLI_WRITING_H

#include "cli.h"
#include "stream.h"

enum { PROMPT_MAX = 1 << 16 };

typedef struct Writing {
    const Options *options;
    int32_t *prompt, *tokens; /* tokens (B, options->tokens), -1 behind an end */
    int prompt_tokens, written;
    Tokenizer *tokenizer; /* NULL: bytes */
    IoEndTokens ends;
    int64_t parameters, active;
    double started, first, last; /* seconds: of the prompt, the first token, the last */
    TextStream *stream;          /* of a single sequence, as it comes; NULL: later */
    uint64_t sent;               /* by this rank, all together */
} Writing;

/* Whether the model continues a text; one that does not is planned for one forward. */
int writes(const Options *o);
/* The text goes on, or ends here. */
int is_end(const Writing *w, int32_t token);
int writing_script(void *config); /* config: a Writing */
/* A text that fills a cache of o->seq tokens, whose beginning is read as --prefill says: sets o->tokens. */
void writing_of_seq(Options *o, Writing *w);
/* Its plan, in which a step is a token: plan->step_sent is what a rank sends for one. plan->status. */
int plan_inference(const Options *o, Writing *w, Plan *plan);
/* The same; EXIT_NO after saying why there is none. */
int plan_writing(const Options *o, Writing *w, Plan *plan);

/* 0, or EXIT_USAGE: there is no prompt to be read in parts. */
int check_prefill(const Options *o);

/* ---- inference.c: what it needs, beside the textbook's weights x 1.2 ---------------------------- */

/* measured: NULL in a plan. */
void inference_table(const Options *o, int64_t parameters, const MemSummary *planned,
                     const MemSummary *measured);
/* "tensor 2  ", where layers are divided. */
LeverText tensor_text(const Options *o);
json_t *inference_textbook(const Options *o, int64_t parameters);
/* Whether the plan fits the budget and, to be run, this machine: EXIT_NO after saying why not. */
int inference_fits(const Options *o, const Plan *plan, int to_run);

#endif
