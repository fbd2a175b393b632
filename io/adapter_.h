/* Between the files of io that read and write adapters as PEFT keeps them. */
#ifndef BRIM_ADAPTER_INTERNAL_H
#define BRIM_ADAPTER_INTERNAL_H

#include "../tensor/tensor_.h"
#include "adapter.h"
#include "io_.h"

#define ADAPTER_CONFIG  "adapter_config.json"
#define ADAPTER_TENSORS "adapter_model.safetensors"
#define ADAPTER_PREFIX  "base_model.model." /* of every name in the file of tensors */

enum { ADAPTER_CONFIG_MOST = 1 << 20 }; /* bytes */

/* Which biases of the base are trained and stored with the adapter. */
typedef enum AdapterBias { ADAPTER_BIAS_NONE, ADAPTER_BIAS_ALL, ADAPTER_BIAS_ADAPTED } AdapterBias;

/* What an adapter_config.json says. The lists are NULL where they say nothing. */
typedef struct AdapterConfig {
    json_t *root;           /* holds what follows */
    char shown[FILE_LABEL]; /* the file */
    int rank, rslora;
    double alpha, dropout;
    AdapterBias bias;
    const json_t *targets;         /* a list of names, or a pattern; NULL = those usual for the family */
    int all_linear;                /* the targets are every linear layer but the output head */
    const json_t *exclude;         /* a list of names, or a pattern */
    const json_t *saved;           /* modules whose own parameters the adapter brings: a list of names */
    const json_t *ranks, *alphas;  /* objects: pattern of a module's path -> number */
    const json_t *layers, *inside; /* a number or a list of them; the pattern, or patterns, before it */
    const char *base;              /* the model that it adapts; NULL = not said */
    int labels;                    /* of a sequence classifier: `saved` may have both names below */
} AdapterConfig;

/* What PEFT takes for the head of a sequence classifier, whichever of the two the model has. */
#define ADAPTER_CLASSIFIERS                                                                                  \
    {                                                                                                        \
        "classifier", "score"                                                                                \
    }

/* Reads DIRECTORY/adapter_config.json. 0, or raises and there is nothing to free. (adapter_config.c) */
int adapter_config_read(AdapterConfig *config, const char *directory);
void adapter_config_free(AdapterConfig *config);

/* A module that may have an adapter. */
typedef struct AdapterPlace {
    const char *path, *family; /* of the module; of the model */
    int embedding, head;       /* an embedding; the output head */
} AdapterPlace;
/* Whether it gets one, as PEFT decides: 1 or 0; -1 after raising. (adapter_match.c) */
int adapter_targets(const AdapterConfig *config, const AdapterPlace *place);
/* Its rank and alpha. 0 or raises. */
int adapter_strength(const AdapterConfig *config, const char *path, int *rank, double *alpha);
/* Whether the adapter brings the parameters of this name themselves: they are a module of modules_to_save, or
 * in one. */
int adapter_saves(const AdapterConfig *config, const char *parameter);
/* Whether a parameter of this name is within a module whose path ends like this: so PEFT reads
 * modules_to_save. */
int adapter_is_in(const char *parameter, const char *module);

#endif
