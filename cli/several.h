/* Several ranks in the command: --ranks, --parallel and --rank; what their tables say; and how a training
 * joins the others. */
#ifndef BRIM_CLI_SEVERAL_H
#define BRIM_CLI_SEVERAL_H

#include "../report/ranks_words.h"
#include "cli.h"

int has_ranks(const Options *o);
/* Those that divide the data, and not the layers. */
int data_ranks(const Options *o);
/* Samples of a step, of all ranks. */
int64_t step_samples(const Options *o);
/* Each micro-batch's gradient is added to a sum that is kept as a rank's part of it would be. */
int keeps_gradients_apart(const Options *o);
/* Whether a block's parameters are gathered together. */
int gathers_blocks(const Options *o);
/* What --ranks does not go together with; "" when nothing is. */
LeverText ranks_problem(const Options *o);
/* The same of what a command does with its plan; and which rank --rank names. 0 or EXIT_USAGE. */
int check_ranks(Options *o, const char *command);

/* What a bracket is of one of several ranks. */
void bracket_of_rank(Bracket *bracket, const Options *o, Module *model, const Optimizer *optimizer);

/* ---- Stages (pipeline.c) ----------------------------------------------------------------------- */

int has_stages(const Options *o);
int stage_ranks(const Options *o); /* of each stage */

/* What a stage's ranks plan. */
typedef struct StagePlan {
    MemSummary memory;
    uint64_t sent;
} StagePlan;

/* Of stages [first, end), by stage; of a whole model there are none. */
typedef struct StagePlans {
    StagePlan *all;
    int first, end, fullest;
} StagePlans;
/* 0, or EXIT_NO after saying why; stage_plans_free in both cases. */
int plan_stages(const Options *o, const Plan *plan, StagePlans *stages);
void stage_plans_free(const Options *o, StagePlans *stages);
void print_stages_plan(const Options *o, const StagePlans *stages);
json_t *stages_plan_json(const Options *o, const StagePlans *stages);

/* ---- Plans ----------------------------------------------------------------------------------- */

/* A line that breaks between words. */
void print_sentence(const char *text);
void print_size_cell(double bytes, const char *behind);
/* Which rank is the fullest and why, and what dividing saves. */
RankLayout rank_layout(const Options *o);
RankKind rank_kind(const MemSummary *memory, int first, int count);
void print_ranks_saving(const Options *o, const MemSummary *memory);
void print_ranks_why(const RankLayout *layout, const RankKind *kinds, int count);
/* A table's heading, and a row of it: sizes of one rank, or of all. */
void print_ranks_heading(const Options *o);
void print_ranks_row(const char *who, double peak, double needs, double sent, const char *behind);
json_t *rank_numbers(int first, int last); /* [first, …, last] */
void print_ranks_plan(const Options *o, const Training *t, const Plan *plan);
void print_inference_ranks(const Options *o, const Plan *plan);
/* stages: stages_plan_json, where there are some. */
void ranks_plan_json(json_t *object, const Options *o, const Plan *plan, json_t *stages);

/* ---- A training ------------------------------------------------------------------------------ */

/* Joins the ranks that the launcher started, into o->ranks, or starts them: then *done is set, and what is
 * returned is how that ended. EXIT_DONE, or an exit code after saying why. From here on only rank 0 prints.
 */
int ranks_begin(Options *o, int *done);
/* Of ranks on cards, a line: who carries what they send. */
void print_carrier(const Options *o);
/* status: how the run ended here, an error code of the library or an exit code. */
void ranks_end(const Options *o, int status);
/* Says an error of a run. Of ERROR_RANKS another rank may know better what went wrong, and gets the time to
 * say so. */
void complain_of_run(int error, const char *what);

/* What all ranks measured. */
typedef struct RankFigures {
    int size;
    MemSummary *all;    /* by rank; NULL: this run is alone */
    StagePlan *planned; /* what each had planned */
} RankFigures;
/* All ranks call it, at the end of a run. 0, or -1: the others cannot be reached any more. */
int ranks_figures(const Options *o, const Plan *plan, const RunResult *result, RankFigures *figures);
void ranks_figures_free(RankFigures *figures);
void print_ranks_run(const Options *o, const RankFigures *figures);
void ranks_run_json(json_t *object, const Options *o, const Plan *plan, const RankFigures *figures);

#endif
