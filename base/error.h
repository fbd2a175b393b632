/* error: what went wrong, and what would work. The first error of the thread's current context is kept until
 * error_clear; what comes after it fails too and changes nothing, so a script looks once a step. Declared
 * below everything that raises errors; the context keeps them (tensor/error.c).
 */
#ifndef BRIM_ERROR_H
#define BRIM_ERROR_H

#include "api.h"
#include "base_names.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BRIM_ERRORS(X)                                                                                       \
    X(NONE, "no error")                                                                                      \
    X(ARGUMENT, "bad argument")                                                                              \
    X(SHAPE, "shapes do not fit")                                                                            \
    X(INDEX, "index out of range")                                                                           \
    X(HOST_MEMORY, "out of host memory")                                                                     \
    X(MEMORY, "out of tracked memory")                                                                       \
    X(BUDGET, "does not fit the budget")                                                                     \
    X(STATE, "not possible in this state")                                                                   \
    X(NONFINITE, "value is not finite")                                                                      \
    X(FILE, "file problem")                                                                                  \
    X(DATA, "bad data")                                                                                      \
    X(RANKS, "ranks do not work together")

typedef enum ErrorCode {
#define X(id, text) ERROR_##id,
    BRIM_ERRORS(X)
#undef X
        ERROR_COUNT
} ErrorCode;

/* Of the thread's current context: 0 (ERROR_NONE) while all is well. */
BRIM_API int error_code(void);
/* "x (8,128,288) has 288 features, weight expects 256, at layers.0.attn"; "" without error. It names what is
 * wrong, files and values, as whoever runs the program knows them; never a function. */
BRIM_API const char *error_message(void);
/* The function that raised it, for whoever writes the program: "nn_sample"; "" where none is named. */
BRIM_API const char *error_function(void);
BRIM_API void error_clear(void);
/* For modules and ops of your own: keeps the first error only; appends the current module path. A message may
 * begin with the function's name, as in "nn_sample(): the temperature is -1": it goes to error_function.
 * Returns code. */
BRIM_API int error_raise(ErrorCode code, const char *format, ...) __attribute__((format(printf, 2, 3)));
BRIM_API const char *error_name(ErrorCode code);

#ifdef __cplusplus
}
#endif
#endif
