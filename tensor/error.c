/* The sticky error: the first one of a context is kept, with a message that says what, where and what would
 * work. Errors raised before any context can exist (no memory for one) are kept per thread. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/printable_.h"
#include "tensor_.h"

static const char *const error_names[ERROR_COUNT] = {
#define X(id, text) [ERROR_##id] = text,
    BRIM_ERRORS(X)
#undef X
};

const char *error_name(ErrorCode code)
{
    return (unsigned)code < ERROR_COUNT ? error_names[code] : "unknown error";
}

int error_code(void)
{
    const Context *context = context_here();
    return context ? (int)context->error : (int)ERROR_HOST_MEMORY;
}

const char *error_message(void)
{
    const Context *context = context_here();
    return context ? context->error_text : "no host memory for a context";
}

void error_clear(void)
{
    Context *context = context_here();
    if (context) {
        context->error = ERROR_NONE;
        context->error_text[0] = '\0';
    }
}

int error_raise(ErrorCode code, const char *format, ...)
{
    Context *context = context_here();
    if (!context)
        return ERROR_HOST_MEMORY;
    if (context->error != ERROR_NONE)
        return context->error;
    context->error = code;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(context->error_text, sizeof context->error_text, format, arguments);
    va_end(arguments);
    const char *path = memtrack_path_name(context->tracker, memtrack_path(context->tracker));
    if (path && path[0] && length >= 0 && (size_t)length < sizeof context->error_text)
        snprintf(context->error_text + length, sizeof context->error_text - (size_t)length, ", at %s", path);
    make_printable(context->error_text); /* it may show names from files */
    return code;
}
