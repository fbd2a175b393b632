/* What the tests of tensors and models share: contexts that must leave nothing behind, values by formula,
 * parity fixtures, comparisons, and small models with batches whose samples do not depend on how they are
 * grouped. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../nn/nn.h"
#include "../tensor/ops.h"
#include "count.h"
#include "tensor_data.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* ---- Contexts: a cmocka setup and teardown, and the same by hand ----------------------------- */

int fresh_context(void **state);  /* 1 thread, seed 1 */
int leave_context(void **state);  /* fails when an error is pending or memory is left */
int fresh_context2(void **state); /* 2 threads */

/* Makes a context current and remembers the one before; `leave` destroys it and checks that nothing stayed.
 */
typedef struct Visit {
    Context *outside;
    uint64_t live;
} Visit;
Visit visit(const ContextOptions *options);
void leave(Visit visit);

/* Of the precisions, those that a CPU has; NULL behind the last. */
static inline const Precision *cpu_precision(int i)
{
    for (int at = 0; precision_at(at); at++)
        if (!precision_at(at)->tf32 && i-- == 0)
            return precision_at(at);
    return NULL;
}

const MemStats *books(void); /* of the current context */
/* Bytes of a component that live now in places that begin with `prefix`; starts a new peak. */
uint64_t live_at(const char *prefix, MemComponent component);
uint64_t rounded(int64_t floats); /* what a tensor of so many costs */

/* ---- The command ----------------------------------------------------------------------------- */

/* In the child that becomes the command: what it does and says depends neither on how many processors there
 * are (two threads, unless BRIM_THREADS is set) nor on the kernels that the user chose for OpenBLAS. */
void command_environment(void);

/* ---- Errors ---------------------------------------------------------------------------------- */

void check_error(const char *file, int line, int code, const char *const texts[], size_t count);
/* The error has this code and its message holds each of the texts; clears it. */
#define assert_error(code, ...)                                                                              \
    check_error(__FILE__, __LINE__, code, (const char *const[]){__VA_ARGS__},                                \
                COUNT(((const char *const[]){__VA_ARGS__})))
#define assert_fine() check_error(__FILE__, __LINE__, ERROR_NONE, (const char *const[]){""}, 1)

/* ---- Values (tests/parity/README.md) --------------------------------------------------------- */

uint32_t hash32(uint32_t x);
float value_at(uint32_t stream, uint32_t i, double scale, double offset);
void fill_values(float *to, int64_t n, uint32_t stream, double scale, double offset);
Tensor *values(Shape shape, uint32_t stream, double scale); /* an input */
Tensor *leaf(Shape shape, uint32_t stream, double scale);   /* an input that requires a gradient */
Tensor *integers(Shape shape, uint32_t stream, int below);
/* A copy that lives as long as the scope, for comparing later. */
Tensor *copy_of(const float *from, int64_t n);

/* What is left of a float in fp32, bf16 or f16. */
float as_stored(DType dtype, float x);

/* Relative difference of two arrays by their largest element; 0 when bitwise equal (NaN makes it infinite).
 */
double difference(const float *a, const float *b, int64_t n);
/* By tests/parity/README.md: the first element too far from `expected`, or -1. */
int64_t parity(const float *expected, const float *actual, int64_t n);

/* ---- Fixtures -------------------------------------------------------------------------------- */

typedef struct Record {
    const char *name;
    int dtype; /* 0 = f32, 1 = i32, 2 = text */
    Shape shape;
    const void *data;
} Record;

typedef struct Fixture {
    unsigned char *bytes;
    Record *records;
    int count;
} Fixture;

/* Of tests/parity/fixtures, or of the folder that BRIM_FIXTURES names. Fails the test when it cannot be read.
 */
Fixture fixture_open(const char *name);
void fixture_close(Fixture *fixture);
/* The record of this name from `at` up to the next "case"; NULL if there is none. */
const Record *fixture_find(const Fixture *fixture, int at, const char *name);
/* "linear act=gelu": the value of a key; `otherwise` when it is absent. */
double attribute(const char *text, const char *key, double otherwise);
int attribute_is(const char *text, const char *key, const char *value);
int kind_is(const char *text, const char *kind);
/* On an error names the case. */
void assert_parity(const char *what, const char *name, const Record *expected, const float *actual,
                   double times);

/* ---- Small models ---------------------------------------------------------------------------- */

typedef struct Setting {
    ModelFamily family;
    AttentionKind attention;
    int checkpoint; /* every block */
    float dropout;
    int layers;          /* 0 = 2; ignored by mlp */
    const char *pattern; /* of nn_set_checkpoints; NULL = none */
    int selective;
} Setting;

enum { SMALL_SEQ = 12, SMALL_VOCAB = 40, FAMILIES = 4 };

/* Configured by a BertConfig, which lies at one place in a preset, whatever its name there. */
static inline int is_bert(ModelFamily family)
{
    return family == MODEL_BERT || family == MODEL_ROBERTA || family == MODEL_DISTILBERT;
}
static inline int is_masked(ModelFamily family)
{
    return nn_family(family)->objective == OBJECTIVE_MASKED;
}

ModelPreset small_preset(const Setting *setting);
Module *small_model(const Setting *setting);
/* Samples first … first + count - 1 of a step, made in the current scope; a third of the labels count (for
 * mlp all but one in seven), more in some samples than in others. labels_total is this batch's own. */
Batch small_batch(ModelFamily family, int64_t step, int64_t first, int count);
/* "llama flash checkpoint" */
const char *setting_text(const Setting *setting);
/* A plan of micro-batches: sizes that end with 0; the loss is divided by the labels of them all. */
typedef struct Micro {
    int sizes[8];
} Micro;
/* The gradients of a step in a context of its own, copied into the current one, and the step's loss. */
Tensor *small_gradients(const Setting *setting, const Micro *micro, int threads, uint64_t seed, double *loss);
/* Every gradient, one after the other, copied into the scope; a missing one fails the test. */
Tensor *all_gradients(Module *model);

#endif
