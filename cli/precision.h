/* --precision, --grad-dtype, --rounding and --loss-scale: what they come to together, and how a model and an
 * optimizer are told. */
#ifndef BRIM_CLI_PRECISION_H
#define BRIM_CLI_PRECISION_H

#include "cli.h"

/* The names of all precisions, with commas between. */
SayLine precision_names(void);
/* The row of --precision; NULL where there is none of this name, and nothing is raised. */
const Precision *precision_named(const char *name);
/* What a run of these options has: the row of --precision, changed by the other options. */
Precision precision_of(const Options *o);
/* Says it to the context; before the model is made. Raises. */
void set_precision(const Options *o);
/* Why the four do not go together, or not with the rest; "" when they do. */
LeverText precision_problem(const Options *o);

/* Whether weights that are trained are 16 bit; whether, beside that, nothing keeps them in fp32. */
int trains_in_16_bit(const Options *o);
int rounds_weights(const Options *o);
/* Nothing of the precision is 16 bit: fp32 and tf32. */
int computes_in_fp32(const Options *o);
/* Activations are bf16, and products with them. */
int computes_in_bf16(const Options *options);
/* Whether gradients are so small that the loss is scaled: those of fp16. */
int scales_loss(const Options *o);

/* What acts, where nothing was typed too: "16", "stochastic", "dynamic"; "" where there is no such thing. */
LeverText grad_dtype_text(const Options *o);
LeverText rounding_text(const Options *o);
LeverText loss_scale_text(const Options *o);

LeverText rounding_title(const Options *o);
LeverText loss_scale_title(const Options *o);
void loss_scale_to_optimizer(const Options *o, Optimizer *optimizer);

#endif
