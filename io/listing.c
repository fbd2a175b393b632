/* See listing_.h. */
#include "listing_.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

ShapeText entry_shape(const SafetensorsEntry *entry)
{
    ShapeText text;
    size_t used = 0;
    text.text[used++] = '(';
    for (int i = 0; i < entry->ndim && used < sizeof text.text - 24; i++)
        used += (size_t)sprintf(text.text + used, "%s%lld", i ? "," : "", (long long)entry->dim[i]);
    strcpy(text.text + used, ")");
    return text;
}

int same_shape(const SafetensorsEntry *entry, Shape shape, int from)
{
    int same = entry->ndim == shape.ndim;
    for (int i = from; same && i < shape.ndim; i++)
        same = entry->dim[i] == shape.dim[i];
    return same;
}

Shape file_shape(const Tensor *parameter)
{
    Shape shape = tensor_shape(parameter);
    return parameter->transposed ? SHAPE(shape.dim[1], shape.dim[0]) : shape;
}
