/* The loader: which samples come next, and their tensors. A step is a group of up to batch * accumulate
 * samples of one epoch, cut into micro-batches. What comes next is a function of the cursor alone, so that a
 * run can be resumed, and a plan on meta meets the same shapes in the same order.
 */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "../base/permutation_.h"
#include "../base/plural_.h"
#include "loader_.h"

struct Loader {
    ScopeItem item; /* first: a scope sees only this */
    LoaderSetup setup;
    void *dataset;

    Permutation order;   /* this epoch's; not made for samples that come in file order */
    int64_t order_epoch; /* what it was made for; -1 = nothing yet */
    uint64_t order_seed;

    DataCursor at;          /* of the step we are in, or of the next one */
    int micro, micros;      /* given out, and in all; micros is 0 between steps */
    int64_t group;          /* samples in this step */
    int64_t tokens, labels; /* of the step last yielded */
    Batch batch;
    void *row; /* one sample on its way into the batch: its ids, or features, and its labels; NULL on meta */
};

/* ---- Life ------------------------------------------------------------------------------------ */

int loader_options(const char *maker, int *batch, int default_batch, int *accumulate, int64_t max_samples)
{
    if (*batch < 0)
        error_raise(ERROR_ARGUMENT, "%s(): batch is %d; it must be 1 or more (0 means %d)", maker, *batch,
                    default_batch);
    else if (*accumulate < 0)
        error_raise(ERROR_ARGUMENT, "%s(): accumulate is %d; it must be 1 or more (0 means 1)", maker,
                    *accumulate);
    else if (max_samples < 0)
        error_raise(ERROR_ARGUMENT, "%s(): max_samples is %" PRId64 "; it must be 1 or more (0 means all)",
                    maker, max_samples);
    if (*batch < 0 || *accumulate < 0 || max_samples < 0)
        return 0;
    *batch = *batch ? *batch : default_batch;
    *accumulate = *accumulate ? *accumulate : 1;
    return 1;
}

static void batch_drop(Loader *loader)
{
    tensor_free(loader->batch.ids);
    tensor_free(loader->batch.features);
    tensor_free(loader->batch.mask);
    tensor_free(loader->batch.types);
    tensor_free(loader->batch.labels);
    loader->batch = (Batch){0};
}

static int64_t data_elements(const Loader *loader) /* of a sample */
{
    return loader->setup.seq ? loader->setup.seq : loader->setup.width;
}

static int64_t label_elements(const Loader *loader)
{
    return loader->setup.seq && !loader->setup.one_label ? loader->setup.seq : 1;
}

/* Mask and types, each as long as the sample. */
static int64_t side_elements(const Loader *loader)
{
    return (loader->setup.padded + loader->setup.types) * data_elements(loader);
}

static size_t row_bytes(const Loader *loader)
{
    return (size_t)(data_elements(loader) + label_elements(loader) + side_elements(loader)) * sizeof(int32_t);
}

/* Its parts, one behind the other. */
static SampleRow row_of(const Loader *loader)
{
    const LoaderSetup *s = &loader->setup;
    int32_t *labels = (int32_t *)loader->row + data_elements(loader), *side = labels + label_elements(loader);
    return (SampleRow){.ids = s->seq ? loader->row : NULL,
                       .features = s->seq ? NULL : loader->row,
                       .labels = labels,
                       .mask = s->padded ? side : NULL,
                       .types = s->types ? side + s->padded * data_elements(loader) : NULL};
}

static void loader_destroy(ScopeItem *item)
{
    Loader *loader = (Loader *)item;
    Context *context = item->context;
    batch_drop(loader);
    if (loader->dataset)
        loader->setup.kind->destroy(context, loader->dataset);
    if (loader->row)
        host_free(context, loader->row, row_bytes(loader));
    host_free(context, loader, sizeof *loader);
}

void loader_free(Loader *loader)
{
    if (!loader)
        return;
    scope_release(&loader->item);
    loader_destroy(&loader->item);
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Who share a step's samples: micro-batch by micro-batch in turn. What is held out, every rank reads whole.
 */
static int ranks_of(const Loader *loader)
{
    return loader->setup.shuffle ? context_ranks_(loader->item.context) : 1;
}

static int rank_of(const Loader *loader)
{
    return loader->setup.shuffle ? context_rank_(loader->item.context) : 0;
}

/* Of all ranks. */
static int64_t samples_a_micro(const Loader *loader)
{
    return (int64_t)loader->setup.batch * ranks_of(loader);
}

static int64_t samples_a_step(const Loader *loader)
{
    return samples_a_micro(loader) * loader->setup.accumulate;
}

static Shape data_shape(const Loader *loader, int64_t rows)
{
    const LoaderSetup *s = &loader->setup;
    return s->seq ? SHAPE(rows, s->seq) : SHAPE(rows, s->width);
}

static int loader_prepare(Loader *loader)
{
    const LoaderSetup *s = &loader->setup;
    if (!shape_valid(data_shape(loader, smaller(s->batch, s->samples)), s->maker))
        return 0;
    if (host_later(row_bytes(loader)))
        return 1;
    loader->row = host_alloc_for(s->maker, "a sample", row_bytes(loader));
    return loader->row != NULL;
}

Loader *loader_create(const LoaderSetup *setup, void *dataset)
{
    Context *context = context_here();
    Loader *loader = host_alloc_for(setup->maker, "the loader", sizeof *loader);
    if (!loader) {
        setup->kind->destroy(context, dataset);
        return NULL;
    }
    *loader = (Loader){.setup = *setup, .dataset = dataset, .order_epoch = -1, .at = {.seed = setup->seed}};
    scope_adopt(&loader->item, loader_destroy);
    if (loader_prepare(loader))
        return loader;
    loader_free(loader);
    return NULL;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* An epoch's order depends on seed and epoch alone. */
static void shuffle(Loader *loader)
{
    const DataCursor *at = &loader->at;
    if (!loader->setup.shuffle || (loader->order_epoch == at->epoch && loader->order_seed == at->seed))
        return;
    permutation_make(&loader->order, (uint64_t)loader->setup.samples, at->seed, STREAM_SHUFFLE,
                     (uint64_t)at->epoch);
    loader->order_epoch = at->epoch;
    loader->order_seed = at->seed;
}

/* The i-th sample of this step. */
static SampleKey sample_key(const Loader *loader, int64_t i)
{
    int64_t place = loader->at.position + i;
    int shuffled = loader->setup.shuffle && !loader->item.context->meta;
    return (SampleKey){.sample = shuffled ? (int64_t)permutation_at(&loader->order, (uint64_t)place) : place,
                       .epoch = loader->setup.shuffle ? loader->at.epoch : 0,
                       .seed = loader->at.seed};
}

/* Where the step after this one begins. */
static DataCursor cursor_after(const Loader *loader)
{
    DataCursor next = loader->at;
    next.step++;
    next.position = smaller(next.position + samples_a_step(loader), loader->setup.samples);
    if (next.position == loader->setup.samples) {
        next.position = 0;
        next.epoch++;
    }
    return next;
}

static void step_end(Loader *loader)
{
    loader->at = cursor_after(loader);
    loader->micro = loader->micros = 0;
}

static int has_labels(const Loader *loader)
{
    if (loader->labels == 0)
        error_raise(ERROR_DATA,
                    "%s(): step %" PRId64 " has %" PRId64 " sample%s and no label that counts: a mean over "
                    "none is not defined; give some a label or make the step larger",
                    loader->setup.maker, loader->at.step, loader->group, plural(loader->group));
    return loader->labels > 0;
}

/* Counts the whole step's labels before its first micro-batch, because each micro-batch's loss is divided by
 * them. An only micro-batch is counted as it is filled. */
static int step_begin(Loader *loader)
{
    const LoaderSetup *s = &loader->setup;
    Context *context = loader->item.context;
    if (context->no_grad == 0)
        context_step_begin(context);
    shuffle(loader);
    loader->group = smaller(samples_a_step(loader), s->samples - loader->at.position);
    loader->micros = (int)((loader->group + samples_a_micro(loader) - 1) / samples_a_micro(loader));
    loader->micro = 0;
    loader->tokens = loader->labels = 0;
    if (context->meta || (loader->micros == 1 && ranks_of(loader) == 1))
        return 1;
    for (int64_t i = 0; i < loader->group; i++)
        loader->labels += s->kind->fill(loader->dataset, sample_key(loader, i), (SampleRow){0});
    return has_labels(loader);
}

/* A tensor of the loader's own: batches outlive the scope that asks for them, and go with the next call. */
static Tensor *batch_tensor(const char *name, DType dtype, Shape shape)
{
    Tensor *tensor = tensor_new(dtype, shape, MEM_INPUT);
    if (tensor)
        scope_release(&tensor->item);
    if (tensor)
        tensor_set_name(tensor, name);
    return tensor;
}

static void row_of_nobody(const Loader *loader, SampleRow row)
{
    memset(loader->row, 0, row_bytes(loader));
    for (int64_t i = 0; i < label_elements(loader); i++)
        row.labels[i] = BATCH_IGNORE;
    if (row.mask)
        row.mask[0] = 1; /* attention sees something */
}

/* Of `rows` samples those after the first `real` belong to nobody: no label of theirs counts. */
static void batch_fill(Loader *loader, int64_t rows, int64_t real)
{
    const LoaderSetup *s = &loader->setup;
    Batch *b = &loader->batch;
    int64_t data = data_elements(loader) * 4, labels = label_elements(loader) * 4; /* bytes of i32 or f32 */
    SampleRow row = row_of(loader);
    for (int64_t i = 0; i < rows; i++) {
        if (i < real)
            b->labels_counted += s->kind->fill(loader->dataset, sample_key(loader, b->first_sample + i), row);
        else
            row_of_nobody(loader, row);
        tensor_write(s->seq ? b->ids : b->features, i * data, data, loader->row);
        tensor_write(b->labels, i * labels, labels, row.labels);
        if (row.mask)
            tensor_write(b->mask, i * data, data, row.mask);
        if (row.types)
            tensor_write(b->types, i * data, data, row.types);
    }
    tensor_set_labelled_(b->labels, b->labels_counted);
}

/* The tensors of so many samples. Returns 0 with an error raised. */
static int batch_tensors(Loader *loader, int64_t rows)
{
    const LoaderSetup *s = &loader->setup;
    Batch *b = &loader->batch;
    Shape shape = data_shape(loader, rows);
    if (s->seq)
        b->ids = batch_tensor("ids", DTYPE_I32, shape);
    else
        b->features = batch_tensor("features", DTYPE_F32, shape);
    if (!error_code() && s->padded)
        b->mask = batch_tensor("mask", DTYPE_I32, shape);
    if (!error_code() && s->types)
        b->types = batch_tensor("types", DTYPE_I32, shape);
    if (!error_code())
        b->labels = batch_tensor("labels", DTYPE_I32, s->seq && !s->one_label ? shape : SHAPE(rows));
    return b->labels != NULL;
}

static int batch_make(Loader *loader)
{
    const LoaderSetup *s = &loader->setup;
    Batch *b = &loader->batch;
    int64_t all =
        loader->micro * samples_a_micro(loader); /* this step's samples before, and after, all ranks */
    int64_t left = smaller(loader->group - all, samples_a_micro(loader));
    int64_t rows = smaller(s->batch, left), first = all + (int64_t)rank_of(loader) * s->batch;
    int64_t real = smaller(rows, loader->group - first);
    if (!batch_tensors(loader, rows))
        return 0;
    b->step = loader->at.step;
    b->first_sample = first;
    b->micro = loader->micro;
    b->micros = loader->micros;
    b->tokens = rows * (s->seq ? s->seq : 1);
    if (loader->item.context->meta) {
        b->labels_total = 1; /* nothing to count: a divisor that is safe */
    } else {
        batch_fill(loader, rows, real);
        if (loader->micros == 1 && ranks_of(loader) == 1)
            loader->labels = b->labels_counted;
        b->labels_total = loader->labels;
    }
    loader->tokens += left * (s->seq ? s->seq : 1);
    loader->micro++;
    return !error_code() && (loader->item.context->meta || has_labels(loader));
}

/* Every NULL ends the step, so that one rule holds after errors, too. */
static const Batch *step_over(Loader *loader)
{
    batch_drop(loader);
    step_end(loader);
    return NULL;
}

const Batch *data_next(Loader *loader)
{
    if (!loader)
        return NULL;
    Context *context = loader->item.context;
    if (context != context_here()) {
        error_raise(ERROR_STATE, "data_next(): this loader was made in another context; make one here");
        return NULL;
    }
    batch_drop(loader);
    if (error_code()) {
        data_finish_step(loader);
        return NULL;
    }
    if (loader->micros == 0 && !step_begin(loader))
        return step_over(loader);
    if (loader->micro == loader->micros)
        return step_over(loader);
    return batch_make(loader) ? &loader->batch : step_over(loader);
}

void data_finish_step(Loader *loader)
{
    if (!loader)
        return;
    batch_drop(loader);
    if (loader->micros)
        step_end(loader);
}

/* ---- What there is, and where we are --------------------------------------------------------- */

int64_t data_samples(const Loader *loader)
{
    return loader ? loader->setup.samples : 0;
}

int64_t data_steps_per_epoch(const Loader *loader)
{
    return loader ? (loader->setup.samples + samples_a_step(loader) - 1) / samples_a_step(loader) : 0;
}

int64_t data_classes(const Loader *loader)
{
    return loader ? loader->setup.classes : 0;
}

int64_t data_token_count(const Loader *loader)
{
    return loader ? loader->setup.tokens : 0;
}

const char *data_note(const Loader *loader)
{
    return loader ? loader->setup.note.text : "";
}

int64_t data_width(const Loader *loader)
{
    return loader ? loader->setup.width : 0;
}

int64_t data_epoch(const Loader *loader)
{
    return loader ? loader->at.epoch : 0;
}

int64_t data_step_tokens(const Loader *loader)
{
    return loader ? loader->tokens : 0;
}

int64_t data_step_labels(const Loader *loader)
{
    return loader ? loader->labels : 0;
}

int data_next_step_is_short(const Loader *loader)
{
    if (!loader)
        return 0;
    DataCursor next = loader->micros ? cursor_after(loader) : loader->at;
    int64_t left = loader->setup.samples - next.position;
    /* when even the first step holds all samples, no other is larger */
    return left < samples_a_step(loader) && loader->setup.samples > samples_a_step(loader);
}

DataCursor data_cursor(const Loader *loader)
{
    return loader ? loader->at : (DataCursor){0};
}

int data_seek(Loader *loader, DataCursor cursor)
{
    if (!loader)
        return error_code();
    if (cursor.epoch < 0 || cursor.step < 0 || cursor.position < 0 ||
        cursor.position >= loader->setup.samples)
        return error_raise(ERROR_ARGUMENT,
                           "data_seek(): epoch %" PRId64 ", step %" PRId64 ", sample %" PRId64
                           " is no place in a dataset of %" PRId64
                           " samples; is it the data the cursor was taken from?",
                           cursor.epoch, cursor.step, cursor.position, loader->setup.samples);
    data_finish_step(loader);
    loader->at = cursor;
    return ERROR_NONE;
}
