/* What the textbook's files share: a row's texts with the function that computes its figures. */
#ifndef PLAN_TEXTBOOK_INNER_H
#define PLAN_TEXTBOOK_INNER_H

#include "formulae.h"
#include "textbook.h"

typedef struct Lesson {
    TextbookRow texts;
    void (*work)(TextbookRow *row); /* fills by_rule and exact */
} Lesson;

/* Rows in order; NULL past the end. */
const Lesson *textbook_states_(int i); /* parameters, gradients, optimizer states, totals */
const Lesson *textbook_use_(int i);    /* activations, inference, several GPUs, cards, overhead, levers */

static inline TextbookFigure figure_(double value)
{
    return (TextbookFigure){value, value};
}

static inline TextbookFigure range_(double low, double high)
{
    return (TextbookFigure){low, high};
}

/* Published shapes; parameters as estimate_llama_parameters counts them. */
extern const LlamaShape llama_1b_;  /* Llama 3.2 1B, tied: 1,235,814,400 */
extern const LlamaShape llama_8b_;  /* Llama 3.1 8B: 8,030,261,248 */
extern const LlamaShape llama_13b_; /* Llama 2 13B: 13,015,864,320 */
extern const LlamaShape llama_70b_; /* Llama 3.1 70B: 70,553,706,496 */

/* Bytes of the weights where linear layers are NF4 with double quantisation and the rest is 16 bit. */
double nf4_weights_(const LlamaShape *shape);
/* Bytes of LoRA adapters of rank 16 on every linear layer: fp32 weights, gradients and two Adam states. */
double lora_states_(const LlamaShape *shape);

#endif
