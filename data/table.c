/* A table of one's own: for problems small enough to write down, and for features made elsewhere. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "loader_.h"

#define MAKER "data_table"

typedef struct TableSet {
    float *features; /* (count, width); NULL on meta */
    int32_t *labels; /* (count); NULL on meta */
    int64_t count, width;
} TableSet;

static int64_t fill_row(const void *dataset, SampleKey key, SampleRow row)
{
    const TableSet *set = dataset;
    int32_t label = set->labels[key.sample];
    if (row.features) {
        memcpy(row.features, set->features + key.sample * set->width,
               (size_t)set->width * sizeof *row.features);
        *row.labels = label;
    }
    return label != BATCH_IGNORE;
}

static void table_destroy(Context *context, void *dataset)
{
    TableSet *set = dataset;
    host_free(context, set->features, (size_t)(set->count * set->width) * sizeof *set->features);
    host_free(context, set->labels, (size_t)set->count * sizeof *set->labels);
    host_free(context, set, sizeof *set);
}

static const DatasetKind table = {fill_row, table_destroy};

static int table_valid(const TableOptions *o)
{
    if (!o || !o->features || !o->labels)
        error_raise(ERROR_ARGUMENT, MAKER "(): %s is NULL",
                    !o             ? "options"
                    : !o->features ? "features"
                                   : "labels");
    else if (o->count < 1 || o->count > INT_MAX || o->width < 1 || o->width > INT_MAX)
        error_raise(ERROR_ARGUMENT, MAKER "(): %" PRId64 " rows of %" PRId64 " features; both must be 1..%d",
                    o->count, o->width, INT_MAX);
    else
        return 1;
    return 0;
}

/* The largest label + 1; 0 with an error when one is neither a class nor BATCH_IGNORE, or none counts. */
static int64_t table_classes(const TableOptions *o)
{
    int64_t classes = 0;
    for (int64_t i = 0; i < o->count; i++) {
        int32_t label = o->labels[i];
        if (label < 0 && label != BATCH_IGNORE) {
            error_raise(ERROR_DATA,
                        MAKER "(): label %" PRId32 " of row %" PRId64
                              " is out of range; classes are 0 and up, "
                              "%d counts nothing",
                        label, i, BATCH_IGNORE);
            return 0;
        }
        if (label >= classes)
            classes = (int64_t)label + 1;
    }
    if (classes == 0)
        error_raise(ERROR_DATA, MAKER "(): none of the %" PRId64 " labels counts (all are %d)", o->count,
                    BATCH_IGNORE);
    return classes;
}

static int table_copy(TableSet *set, const TableOptions *o)
{
    size_t values = (size_t)(o->count * o->width) * sizeof *o->features,
           labels = (size_t)o->count * sizeof *o->labels;
    set->features = host_alloc_for(MAKER, "the features", values);
    set->labels = set->features ? host_alloc_for(MAKER, "the labels", labels) : NULL;
    if (!set->labels)
        return 0;
    memcpy(set->features, o->features, values);
    memcpy(set->labels, o->labels, labels);
    return 1;
}

Loader *data_table(const TableOptions *options)
{
    if (!context_here() || !table_valid(options))
        return NULL;
    TableOptions o = *options;
    int64_t classes = table_classes(&o);
    if (!classes || !loader_options(MAKER, &o.batch, 128, &o.accumulate, 0))
        return NULL;
    TableSet *set = host_alloc_for(MAKER, "the table's header", sizeof *set);
    if (!set)
        return NULL;
    *set = (TableSet){.count = o.count, .width = o.width};
    size_t bytes = (size_t)o.count * ((size_t)o.width * sizeof *o.features + sizeof *o.labels);
    if (!host_later(bytes) && !table_copy(set, &o)) {
        table_destroy(context_here(), set);
        return NULL;
    }
    LoaderSetup setup = {.maker = MAKER,
                         .kind = &table,
                         .samples = o.count,
                         .classes = classes,
                         .width = o.width,
                         .batch = o.batch,
                         .accumulate = o.accumulate,
                         .seed = o.seed,
                         .shuffle = 1};
    return loader_create(&setup, set);
}
