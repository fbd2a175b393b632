/* Between four_ways.c, which plans, and four_ways_table.c, which prints. */
#ifndef BRIM_FOUR_WAYS_INTERNAL_H
#define BRIM_FOUR_WAYS_INTERNAL_H

#include "cli.h"

typedef enum WayId { WAY_FP32, WAY_MASTER, WAY_MIXED, WAY_PURE, WAY_8BIT, WAY_LORA, WAY_QLORA, WAYS } WayId;

/* What a way needs, from its model states to one piece of memory: each part is added to those before it. */
typedef enum WayPart {
    PART_FROZEN,
    PART_TRAINED,
    PART_MASTERS,
    PART_GRADIENTS,
    PART_STATES,
    PART_LATE, /* gradients that are not there at the peak: 0 or less */
    PART_ROUNDED,
    PART_ACTIVATIONS,
    PART_ACTIVATION_GRADIENTS,
    PART_TEMPORARIES,
    PART_WORKSPACE,
    PART_REST,
    PART_GAPS,
    PARTS
} WayPart;

typedef struct Way {
    Options options;
    Plan plan; /* its figures */
    Bracket bracket;
    int64_t part[PARTS];
    int64_t states, peak, needs; /* the sum up to PART_STATES, up to PART_REST, of all */
} Way;

typedef struct FourWays {
    const char *model;
    int64_t parameters;
    Way way[WAYS];
    char error[512]; /* "" = planned */
} FourWays;

enum { WAY_MODELS = 4 };

typedef struct WaysTable {
    const Options *options;
    FourWays model; /* what was asked about */
    FourWays on_cards[WAY_MODELS];
} WaysTable;

void four_ways_print(const WaysTable *table);
void four_ways_json(const WaysTable *table);

#endif
