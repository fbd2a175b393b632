/* The panel of a run: what brim_step reports is kept for drawing, and drawn while the script runs. */
#ifndef BRIM_LIVE_H
#define BRIM_LIVE_H

#include "../report/panel.h"
#include "../tensor/tensor_.h"
#include "plan.h"

typedef struct Live {
    int on;   /* 0: there is no terminal, or none was asked for */
    int fits; /* the panel had room when it was drawn last */
    const Context *context;
    const MemLedger *ledger; /* the context's */
    PanelScreen screen;
    PanelState state;
    LossCurve curve;
    double started, first_step; /* when; first_step: the end of this run's first, which warms up */
    double counted, seconds;    /* recent ones, for the rate: older steps fade */
    double card_read;           /* when its use was read */
} Live;

/* What is in use on the context's card; all 0 on the CPU. */
MemCard live_card_(const Context *context);
/* Begins to show the run of a context, if the options ask for it and `out` is a terminal.
 * reserved: bytes, 0 where each block is allocated. */
void live_start_(Live *live, const RunOptions *options, const Plan *plan, const MemMachine *machine,
                 FILE *out, const Context *context, uint64_t reserved);
/* After a step of so many tokens (or samples) and seconds. Returns 1 when the step is on the screen, 0 when
 * it wants a line. */
int live_step_(Live *live, const StepLine *line, double counted, double seconds);
/* Makes room for a line above the panel, which the next drawing puts under it. */
void live_make_room_(Live *live);
/* Takes the panel away. */
void live_end_(Live *live);

#endif
