/* Classes of what labels are called. Numbers are classes as they are; names are sorted, so that the same file
 * gives the same classes, in any order of its lines; a model that has been trained brings its own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/plural_.h"
#include "csv_.h"

/* ---- Numbers --------------------------------------------------------------------------------- */

enum { NO_NUMBER = -1, FRACTION = -2, BELOW_ZERO = -3, TOO_LARGE = -4 };

/* "3" and "3.0", as pandas writes whole numbers of a column with gaps. */
static int64_t number_of(Span text)
{
    int64_t n = 0;
    size_t i = text.length && (text.text[0] == '-' || text.text[0] == '+');
    int dot = 0, digits = 0, fraction = 0;
    for (; i < text.length; i++) {
        char c = text.text[i];
        if (c == '.' && !dot++)
            continue;
        if (c < '0' || c > '9')
            return NO_NUMBER;
        digits = 1;
        fraction |= dot && c != '0';
        if (!dot && n <= CSV_CLASSES_MOST)
            n = 10 * n + (c - '0');
    }
    if (!digits)
        return NO_NUMBER;
    return fraction                   ? FRACTION
           : n && text.text[0] == '-' ? BELOW_ZERO
           : n >= CSV_CLASSES_MOST    ? TOO_LARGE
                                      : n;
}

/* "LABEL_3", as transformers calls a class without a name. */
static int64_t default_name(Span text)
{
    enum { BEFORE = sizeof "LABEL_" - 1 };
    if (text.length <= BEFORE || memcmp(text.text, "LABEL_", BEFORE) != 0 || text.text[BEFORE] == '-')
        return NO_NUMBER;
    return number_of((Span){text.text + BEFORE, text.length - BEFORE});
}

static int refuse_number(const CsvFile *f, Span text, int64_t what)
{
    const char *why =
        what == FRACTION     ? "a number with a fraction is no class; what is learned here is one of "
                               "several labels, not a number"
        : what == BELOW_ZERO ? "classes are numbers from 0 on; leave such lines out, or give the "
                               "label a name"
                             : "so many classes are refused; give labels names";
    return csv_refuse(f, "has the label %s: %s", shown(text.text, text.length).text, why);
}

/* ---- Names ----------------------------------------------------------------------------------- */

static int compare(const char *name, Span text)
{
    size_t length = strlen(name), less = length < text.length ? length : text.length;
    int order = memcmp(name, text.text, less);
    return order ? order : length < text.length ? -1 : length > text.length;
}

/* The place among the sorted names: of the first that is not less. */
static int64_t place_of(const DataLabels *l, Span text)
{
    int64_t low = 0, high = l->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (compare(l->names[l->sorted[middle]], text) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int no_memory(const CsvFile *f)
{
    return error_raise(ERROR_HOST_MEMORY, CSV_MAKER "(): no host memory for the labels of %s", f->shown);
}

/* Each list has a room of its own: where there is no memory for the second one, the first has grown. */
static int names_grow(const CsvFile *f, DataLabels *l)
{
    if (l->count == l->room) {
        int64_t room = l->room ? 2 * l->room : 16;
        char **names = memtrack_host_realloc(NULL, l->names, (size_t)l->room * sizeof *names,
                                             (size_t)room * sizeof *names);
        if (!names)
            return no_memory(f);
        l->names = names;
        l->room = room;
    }
    if (l->count == l->sorted_room) {
        int32_t *sorted = memtrack_host_realloc(NULL, l->sorted, (size_t)l->sorted_room * sizeof *sorted,
                                                (size_t)l->room * sizeof *sorted);
        if (!sorted)
            return no_memory(f);
        l->sorted = sorted;
        l->sorted_room = l->room;
    }
    return ERROR_NONE;
}

/* As the next class. */
static int name_add(const CsvFile *f, DataLabels *l, Span text)
{
    int64_t place = place_of(l, text);
    if (names_grow(f, l))
        return error_code();
    char *name = memtrack_host_alloc(NULL, text.length + 1);
    if (!name)
        return no_memory(f);
    memcpy(name, text.text, text.length);
    name[text.length] = '\0';
    memmove(l->sorted + place + 1, l->sorted + place, (size_t)(l->count - place) * sizeof *l->sorted);
    l->sorted[place] = (int32_t)l->count;
    l->names[l->count++] = name;
    return ERROR_NONE;
}

/* The names in their order are the classes. */
static int sort_classes(const CsvFile *f, DataLabels *l)
{
    char **names = memtrack_host_alloc(NULL, (size_t)l->room * sizeof *names);
    if (!names)
        return no_memory(f);
    for (int64_t i = 0; i < l->count; i++)
        names[i] = l->names[l->sorted[i]];
    for (int64_t i = 0; i < l->count; i++)
        l->sorted[i] = (int32_t)i;
    memtrack_host_free(NULL, l->names, (size_t)l->room * sizeof *names);
    l->names = names;
    l->classes = l->count;
    return ERROR_NONE;
}

static void names_free(DataLabels *l)
{
    for (int64_t i = 0; i < l->count; i++)
        memtrack_host_free(NULL, l->names[i], strlen(l->names[i]) + 1);
    memtrack_host_free(NULL, l->names, (size_t)l->room * sizeof *l->names);
    memtrack_host_free(NULL, l->sorted, (size_t)l->sorted_room * sizeof *l->sorted);
    l->names = NULL;
    l->sorted = NULL;
    l->count = l->room = l->sorted_room = 0;
}

/* ---- A record -------------------------------------------------------------------------------- */

/* The record's label, without blanks around it. .text NULL with an error raised. */
static Span label_text(CsvFile *f)
{
    Span text = csv_value(f, f->label, 0);
    if (!text.text)
        return text;
    text = csv_trimmed(text);
    if (text.length && text.length <= 1000 && !memchr(text.text, 0, text.length))
        return text;
    csv_refuse(f, !text.length         ? "has an empty label: leave such lines out, or give the label a name"
                  : text.length > 1000 ? "has a label of more than 1,000 bytes: is this column the label?"
                                       : "has a label with a byte 0 in it");
    return (Span){NULL, 0};
}

static int unknown(const CsvFile *f, const DataLabels *l, Span text)
{
    char names[160] = "";
    size_t used = 0;
    for (int64_t i = 0; i < l->count && used < sizeof names - 80; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 i == 8 ? "…" : shown(l->names[i], strlen(l->names[i])).text);
    return csv_refuse(f,
                      "has the label %s, and the model has %" PRId64
                      " class%s%s%s: give the labels that it was "
                      "trained with, or begin with a model that is no classifier yet",
                      shown(text.text, text.length).text, l->classes, l->classes == 1 ? "" : "es",
                      l->count ? ", " : " numbered from 0", names);
}

int32_t csv_class(CsvFile *f, const DataLabels *l)
{
    Span text = label_text(f);
    if (!text.text)
        return -1;
    int64_t place = l->count ? place_of(l, text) : 0, n = number_of(text);
    if (l->count && place < l->count && !compare(l->names[l->sorted[place]], text))
        return l->sorted[place];
    if (n == NO_NUMBER)
        n = default_name(text);
    if (n >= 0 && n < l->classes && (!l->count || l->given))
        return (int32_t)n;
    if (!l->given)
        csv_refuse(f, "has the label %s, which was not there when the file was read before",
                   shown(text.text, text.length).text);
    else
        unknown(f, l, text);
    return -1;
}

/* ---- A file ---------------------------------------------------------------------------------- */

/* Of the file's own labels, what decides: names, unless all are numbers. */
typedef struct Seen {
    int64_t records, largest;
    int named;
    int64_t bad_line, bad; /* the first that is a number and no class */
    char bad_text[64];
} Seen;

static int see(CsvFile *f, DataLabels *l, Seen *seen)
{
    Span text = label_text(f);
    if (!text.text)
        return error_code();
    int64_t n = number_of(text), place = place_of(l, text);
    seen->records++;
    seen->named |= n == NO_NUMBER;
    seen->largest = n > seen->largest ? n : seen->largest;
    if (n < NO_NUMBER && !seen->bad_line) {
        seen->bad_line = f->record.line;
        seen->bad = n;
        snprintf(seen->bad_text, sizeof seen->bad_text, "%.*s", (int)(text.length < 63 ? text.length : 63),
                 text.text);
    }
    if (place < l->count && !compare(l->names[l->sorted[place]], text))
        return ERROR_NONE;
    if (l->count == CSV_CLASSES_MOST && (seen->named || !seen->bad_line))
        return csv_refuse(f, "has one more label after %d different ones: is this column the label?",
                          CSV_CLASSES_MOST);
    return l->count < CSV_CLASSES_MOST ? name_add(f, l, text) : ERROR_NONE;
}

static int decide(CsvFile *f, DataLabels *l, const Seen *seen)
{
    if (!seen->records)
        return error_raise(ERROR_DATA, "%s has a header and no sample", f->shown);
    if (!seen->named && seen->bad_line) {
        f->record.line = seen->bad_line;
        return refuse_number(f, (Span){seen->bad_text, strlen(seen->bad_text)}, seen->bad);
    }
    if (l->count == 1 && !l->given)
        return error_raise(
            ERROR_DATA,
            "%s: every sample has the label %s, so there is nothing to learn: a classifier needs two",
            f->shown, shown(l->names[0], strlen(l->names[0])).text);
    if (seen->named)
        return sort_classes(f, l);
    names_free(l);
    l->classes = seen->largest + 1;
    return ERROR_NONE;
}

static int read_own(CsvFile *f, DataLabels *l)
{
    Seen seen = {.largest = -1};
    int got = 1;
    while ((got = csv_next(f)) > 0)
        if (see(f, l, &seen))
            return error_code();
    return got < 0 ? error_code() : decide(f, l, &seen);
}

/* The model's: its names, or where it has none what is sorted from the file. */
static int read_given(CsvFile *f, DataLabels *l, const CsvOptions *o)
{
    l->given = 1;
    l->classes = o->classes;
    for (int64_t i = 0; i < o->classes && o->labels; i++) {
        Span name = {o->labels[i], strlen(o->labels[i])};
        int64_t place = place_of(l, name);
        if (place < l->count && !compare(l->names[l->sorted[place]], name))
            return error_raise(ERROR_ARGUMENT, CSV_MAKER "(): two classes are called %s",
                               shown(name.text, name.length).text);
        if (name_add(f, l, name))
            return error_code();
    }
    int got = 1;
    while ((got = csv_next(f)) > 0)
        if (csv_class(f, l) < 0)
            return error_code();
    return got < 0 ? error_code() : ERROR_NONE;
}

/* Whether the file's labels are names that the model's classes have not got: then the sorted names are the
 * classes, where there are as many. */
static int names_fit(const DataLabels *own, const CsvOptions *o)
{
    return o->classes && !o->labels && own->count == o->classes &&
           default_name((Span){own->names[0], strlen(own->names[0])}) == NO_NUMBER;
}

DataLabels *csv_labels(CsvFile *f, const CsvOptions *o)
{
    DataLabels *l = memtrack_host_calloc(NULL, sizeof *l);
    if (!l) {
        no_memory(f);
        return NULL;
    }
    csv_rewind(f);
    l->given = o->classes > 0;
    int status = o->labels ? ERROR_NONE : read_own(f, l);
    if (!status && o->classes && !names_fit(l, o)) {
        names_free(l);
        csv_rewind(f);
        status = read_given(f, l, o);
    }
    l->given = o->classes > 0;
    csv_rewind(f);
    if (!status)
        return l;
    data_labels_free(l);
    return NULL;
}

void data_labels_free(DataLabels *l)
{
    if (!l)
        return;
    names_free(l);
    memtrack_host_free(NULL, l, sizeof *l);
}

int64_t data_labels_count(const DataLabels *l)
{
    return l ? l->classes : 0;
}

const char *data_labels_name(const DataLabels *l, int64_t i)
{
    return l && i >= 0 && i < l->count ? l->names[i] : NULL;
}

const char *const *data_labels_names(const DataLabels *l)
{
    return l && l->count ? (const char *const *)l->names : NULL;
}
