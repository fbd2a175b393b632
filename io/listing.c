/* See listing_.h. */
#include "listing_.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io_.h"

void list_name(Listing *list, const char *format, ...)
{
    char item[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(item, sizeof item, format, arguments);
    va_end(arguments);
    size_t length = strlen(item) + (list->used ? 2 : 0);
    list->count++;
    if (list->shown + 1 < list->count || list->used + length + sizeof " and 1000000 more" > list->room)
        return; /* no gaps: one that is left out ends the list */
    list->used += (size_t)sprintf(list->text + list->used, "%s%s", list->used ? ", " : "", item);
    list->shown++;
}

const char *listed_names(Listing *list)
{
    if (list->shown < list->count)
        snprintf(list->text + list->used, sizeof list->text - list->used, " and %d more",
                 list->count - list->shown);
    return list->text;
}

void misfit_unexpected(Misfits *m, const char *name, const char *hint)
{
    list_name(&m->unexpected, "%s", string_text(name).text);
    m->hint = m->hint[0] ? m->hint : hint;
}

/* "(8,128)" */
static ShapeText entry_shape(const SafetensorsEntry *entry)
{
    ShapeText text;
    size_t used = 0;
    text.text[used++] = '(';
    for (int i = 0; i < entry->ndim && used < sizeof text.text - 24; i++)
        used += (size_t)sprintf(text.text + used, "%s%lld", i ? "," : "", (long long)entry->dim[i]);
    strcpy(text.text + used, ")");
    return text;
}

void misfit_numbers(Misfits *m, const SafetensorsEntry *entry, Shape shape, int from)
{
    if (!same_shape(entry, shape, from))
        list_name(&m->shapes, "%s is %s, in the model %s", string_text(entry->name).text,
                  entry_shape(entry).text, shape_text(shape).text);
    else if (entry->type > SAFETENSORS_BF16)
        list_name(&m->types, "%s is %s", string_text(entry->name).text, safetensors_type_name(entry->type));
}

int misfits_raise_numbers(Misfits *m, const char *shown)
{
    if (m->shapes.count)
        return error_raise(ERROR_SHAPE, "%s: shapes differ: %s", shown, listed_names(&m->shapes));
    if (m->types.count)
        return error_raise(ERROR_DATA, "%s: only F32, F16 and BF16 are read: %s", shown,
                           listed_names(&m->types));
    return 0;
}

/* One parameter under two names of the file ("wte.weight" and "transformer.wte.weight"). */
int stored_twice(const char *shown, const SafetensorsEntry *a, const SafetensorsEntry *b)
{
    return error_raise(ERROR_DATA, "%s: the tensors %s and %s are the same parameter", shown,
                       string_text(a->name).text, string_text(b->name).text);
}

int same_shape(const SafetensorsEntry *entry, Shape shape, int from)
{
    int same = entry->ndim == shape.ndim;
    for (int i = from; same && i < shape.ndim; i++)
        same = entry->dim[i] == shape.dim[i];
    return same;
}
