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

const char *error_function(void)
{
    const Context *context = context_here();
    return context ? context->error_function : "";
}

void error_clear(void)
{
    Context *context = context_here();
    if (context) {
        context->error = ERROR_NONE;
        context->error_text[0] = context->error_function[0] = '\0';
    }
}

/* "nn_sample(): the temperature …": moves the name to where it belongs. */
static void split_function(Context *context)
{
    char *text = context->error_text;
    size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
    context->error_function[0] = '\0';
    if (!name || name >= sizeof context->error_function || strncmp(text + name, "(): ", 4))
        return;
    memcpy(context->error_function, text, name);
    context->error_function[name] = '\0';
    memmove(text, text + name + 4, strlen(text + name + 4) + 1);
}

/* Where it happened. A path of numbers alone ("1", of a model of one's own) needs to be called one. */
static void append_place(Context *context)
{
    size_t used = strlen(context->error_text), room = sizeof context->error_text - used;
    const char *path = memtrack_path_name(context->tracker, memtrack_path(context->tracker));
    int numbers = path && strspn(path, "0123456789.") == strlen(path);
    if (!path || !path[0] || room < 2)
        return;
    if (!numbers)
        snprintf(context->error_text + used, room, ", at %s", path);
    else if (context->module_kind)
        snprintf(context->error_text + used, room, ", at module '%s' (%s)", path, context->module_kind);
    else
        snprintf(context->error_text + used, room, ", at module '%s'", path);
}

/* What stays of a step that is not finished. */
static void append_left(Context *context)
{
    for (const GradientHook *hook = context->gradient_hooks; hook; hook = hook->next) {
        size_t used = strlen(context->error_text), room = sizeof context->error_text - used;
        if (hook->failed && room > 1)
            hook->failed(context, hook->user, context->error_text + used, room);
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
    if (vsnprintf(context->error_text, sizeof context->error_text, format, arguments) < 0)
        context->error_text[0] = '\0';
    va_end(arguments);
    split_function(context);
    append_place(context);
    append_left(context);
    make_printable(context->error_text); /* it may show names from files */
    return code;
}
