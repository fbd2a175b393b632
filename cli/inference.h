/* What inference needs beside the textbook's weights x 1.2: tables of one run, and of weights of fewer bits
 * (inference.c). */
#ifndef BRIM_CLI_INFERENCE_H
#define BRIM_CLI_INFERENCE_H

#include "cli.h"

/* What weights, and keys and values, are stored as; and how many bits a weight the textbook counts for it. */
typedef struct InferenceType {
    int bits;
    const char *name;
    Weights weights;
    DType cached;
} InferenceType;
const InferenceType *inference_type(int i); /* 32, 16, 8, 4 bits; NULL past them */
enum { INFERENCE_TYPES = 4 };

/* Of the peak; the rest is what a forward makes. */
typedef struct Inference {
    uint64_t weights, cache, rest, peak;
} Inference;
Inference inference_of(const MemSummary *memory);

/* Planned and, where it is not NULL, measured. */
void inference_table(const Options *o, const InferenceType *type, int64_t parameters,
                     const MemSummary *planned, const MemSummary *measured);
json_t *inference_textbook(const Options *o, const InferenceType *type, int64_t parameters);

/* The same run with weights of each type: what is planned, beside P x Q / 8 x 1.2. */
void inference_types_table(const Options *o, int64_t parameters, const MemSummary planned[INFERENCE_TYPES]);
json_t *inference_types_json(const Options *o, int64_t parameters, const MemSummary planned[INFERENCE_TYPES]);

#endif
