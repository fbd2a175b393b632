/* transformers' Trainer: its training loop and its evaluation, as trainer.py and accelerate write them. */
#include <string.h>

#include "ranks_.h"
#include "script_.h"

enum { IDS, LABELS, MASK, TENSORS };

/* What Trainer's functions hold from one step to the next. */
typedef struct Trainer {
    TorchTensor *items;  /* num_items_in_batch */
    TorchTensor *loss;   /* tr_loss_step */
    TorchTensor *losses; /* _tr_loss */
    TorchTensor *norm;   /* grad_norm */
    int stored;          /* the count of operations, since the last step */
} Trainer;

static TorchTensor *owned(TorchTensor *x)
{
    x->loose = 0;
    return x;
}

/* name = x */
static void assign(Torch *t, TorchTensor **name, TorchTensor *x)
{
    TorchTensor *old = *name;
    *name = x ? owned(x) : NULL;
    torch_drop(t, old);
}

static TorchTensor *number(Torch *t, const char *op, TorchType type)
{
    return torch_empty(t, op, torch_shape(type, 0, NULL));
}

static int due(int step, int every)
{
    return (step + 1) % every == 0;
}

/* ---- Batches --------------------------------------------------------------------------------- */

/* A batch at the end of the samples. */
static void load(TorchJob *job)
{
    Torch *t = &job->torch;
    job->samples =
        torch_grow(t, job->samples, &job->sample_capacity, job->sample_count + TENSORS, sizeof *job->samples);
    TorchTensor **x = job->samples + job->sample_count;
    x[IDS] = owned(torch_batch(job));
    x[LABELS] = owned(torch_labels(job));
    x[MASK] = job->asked->mask ? owned(torch_batch(job)) : NULL;
    job->sample_count += TENSORS;
}

/* Lets go of the tensors from one number to another. */
static void unload(TorchJob *job, size_t from, size_t to)
{
    size_t kept = from;
    for (size_t i = from; i < to; i++)
        torch_drop(&job->torch, job->samples[i]);
    for (size_t i = to; i < job->sample_count; i++)
        job->samples[kept++] = job->samples[i];
    job->sample_count = kept;
}

/* labels.ne(-100).sum() */
static TorchTensor *count_labels(TorchJob *job, const TorchTensor *labels)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    int shifted = !t->dialect->transformers->counts_all_labels && !m->labels && m->family != PYTORCH_GPT2 &&
                  m->family != PYTORCH_BERT;
    TorchShape shape = labels->shape;
    shape.size[shape.dims - 1] -= shifted;
    TorchTensor *counted = torch_empty(t, "aten::ne", torch_shape(TORCH_BOOL, shape.dims, shape.size));
    TorchTensor *count = number(t, "aten::sum", TORCH_I64);
    TorchTensor *whole = torch_bytes_of(t, "aten::sum", torch_count(&shape) * torch_bytes(TORCH_I64));
    torch_whole_scratch(t, torch_count(&shape), torch_bytes(TORCH_I64));
    torch_drop(t, whole);
    torch_drop(t, counted);
    return count;
}

/* model_accepts_loss_kwargs: whether the model's forward takes more keyword arguments, and so the count. */
static int takes_count(const TorchJob *job)
{
    const PytorchModel *m = &job->asked->model;
    int gpt2 = m->family == PYTORCH_GPT2, decoder = !gpt2 && m->family != PYTORCH_BERT;
    switch (job->torch.dialect->transformers->counted) {
    case COUNTED_BY_ALL:
        return 1;
    case COUNTED_BY_DECODERS:
        return decoder || (gpt2 && !m->labels);
    case COUNTED_BY_LANGUAGE_MODELS:
        return decoder && !m->labels;
    default:
        return decoder && !m->labels && m->family != PYTORCH_MISTRAL;
    }
}

/* accelerate's gather of a number, and the sum over ranks */
static TorchTensor *gathered(TorchJob *job, const TorchTensor *x)
{
    Torch *t = &job->torch;
    int64_t ranks = job->asked->ranks;
    TorchTensor *copy = number(t, "aten::clone", x->shape.type);
    TorchTensor *all = torch_empty(t, "aten::empty", torch_shape(x->shape.type, 1, &ranks));
    torch_drop(t, copy);
    TorchTensor *sum = number(t, "aten::sum", x->shape.type);
    torch_drop(t, all);
    return sum;
}

/* _get_num_items_in_batch: what each batch counts, their sum, and its division by one device; the caller's.
 * Before, the sum was that of a list, and a number on the host: NULL. */
static TorchTensor *count_items(TorchJob *job, TorchTensor *const *samples, int batches)
{
    Torch *t = &job->torch;
    const TransformersEra *era = t->dialect->transformers;
    if (!takes_count(job) && !era->items_on_host)
        return NULL;
    size_t frame = torch_frame(t);
    TorchTensor *sum = NULL;
    for (int i = 0; i < batches; i++) {
        TorchTensor *count = count_labels(job, samples[i * TENSORS + LABELS]);
        if (era->items_listed) {
            torch_name(t, count);
            continue;
        }
        assign(t, &sum, number(t, "aten::add", TORCH_I64));
        torch_drop(t, count);
    }
    for (int i = 0; era->items_listed && i < batches; i++)
        assign(t, &sum, number(t, "aten::add", TORCH_I64));
    torch_leave(t, frame, NULL);
    if (era->items_on_host)
        assign(t, &sum, NULL);
    if (sum && era->items_gathered)
        assign(t, &sum, number(t, "aten::sum", TORCH_I64));
    if (sum && job->asked->parallel)
        assign(t, &sum, gathered(job, sum));
    if (sum && !era->items_undivided)
        assign(t, &sum, number(t, "aten::div", TORCH_F32));
    return sum;
}

/* ---- Training -------------------------------------------------------------------------------- */

/* accelerate's convert_outputs_to_fp32. The logits come first, and last in what is held; a cache is no tensor
 * and stays as it is, but as tuples of tensors, which GPT-2's once was. */
static void convert_outputs(TorchJob *job)
{
    Torch *t = &job->torch;
    size_t count = job->held_count;
    const TransformersEra *era = t->dialect->transformers;
    int tuples =
        era->cache_in_tuples || (era->gpt2_cache_in_tuples && job->asked->model.family == PYTORCH_GPT2);
    if (job->asked->precision != PYTORCH_AUTOCAST_BF16 && job->asked->precision != PYTORCH_AUTOCAST_FP16)
        return;
    size_t first = count && job->caches ? count - 1 : 0;
    for (size_t i = 0; i < count; i++)
        torch_hold(job, job->held[i]);
    for (size_t i = 0; i < count; i++) {
        TorchTensor **x = &job->held[count + (first + i) % count];
        int stays = (job->caches && i && !tuples) || !torch_floating((*x)->shape.type);
        TorchTensor *y = stays ? *x : torch_cast(t, *x, TORCH_F32);
        if (y != *x) {
            torch_drop(t, *x);
            *x = owned(y);
        }
    }
    torch_release(job, 0, count);
}

/* compute_loss; the model's output stays held. */
static TorchTensor *compute_loss(TorchJob *job, TorchTensor *const *inputs, TorchTensor *items)
{
    const Torch *t = &job->torch;
    job->items = items;
    job->counted = job->torch.dialect->transformers->items_on_host && takes_count(job) && !t->evaluating;
    TorchTensor *loss = torch_model(job, inputs[IDS], inputs[LABELS], inputs[MASK]);
    convert_outputs(job);
    if (!t->evaluating)
        loss = torch_after_forward(job, loss);
    if (!t->dialect->transformers->loss_of_one && takes_count(job))
        torch_scale_in_place(&job->torch, loss);
    return loss;
}

/* training_step, with accelerator.backward */
static TorchTensor *training_step(TorchJob *job, TorchTensor *const *inputs, TorchTensor *items, int step,
                                  int micro)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    torch_phase(job, PYTORCH_FORWARD, step, micro);
    TorchTensor *loss = torch_name(t, compute_loss(job, inputs, items));
    torch_release(job, 0, job->held_count);
    int reported = t->dialect->transformers->reports_apart; /* / gradient_accumulation_steps */
    if (!takes_count(job) && !reported)
        loss = torch_rebind(t, loss, torch_divide(t, loss));
    torch_phase(job, PYTORCH_BACKWARD, step, micro);
    size_t inner = torch_frame(t);
    TorchTensor *root = torch_name(t, torch_divide(t, loss));
    if (job->asked->precision == PYTORCH_AUTOCAST_FP16)
        root = torch_name(t, torch_scale_loss(job, root));
    TorchTensor *one = torch_name(t, torch_empty(t, "aten::ones_like", root->shape));
    torch_backward(t, root, one);
    torch_after_backward(job);
    torch_leave(t, inner, NULL);
    TorchTensor *detached = torch_alias(t, loss);
    if (!takes_count(job) && reported)
        detached = torch_divide(t, detached);
    return torch_leave(t, frame, detached);
}

/* torch.isnan(tr_loss_step) or torch.isinf(tr_loss_step), and the sum of losses: in place, but in old
 * versions */
static void add_loss(Torch *t, const TorchTensor *loss, TorchTensor **losses)
{
    torch_scratch(t, "aten::isnan", torch_bytes(TORCH_BOOL));
    TorchTensor *absolute = number(t, "aten::abs", loss->shape.type);
    torch_scratch(t, "aten::isinf", torch_bytes(TORCH_BOOL));
    torch_drop(t, absolute);
    if (t->dialect->transformers->loss_is_new)
        assign(t, losses, number(t, "aten::add", TORCH_F32));
}

static void train_step(TorchJob *job, Trainer *trainer, int step)
{
    Torch *t = &job->torch;
    const PytorchJob *a = job->asked;
    int loss_is_new = t->dialect->transformers->loss_is_new;
    size_t old = job->sample_count;
    torch_phase(job, PYTORCH_DATA, step, 0);
    for (int micro = 0; micro < a->accumulate; micro++)
        load(job);
    assign(t, &trainer->items, count_items(job, job->samples + old, a->accumulate));
    unload(job, 0, old);
    for (int micro = 0; micro < a->accumulate; micro++) {
        TorchTensor *const *inputs = job->samples + (size_t)micro * TENSORS;
        job->synchronizes = micro == a->accumulate - 1;
        assign(t, &trainer->loss, training_step(job, inputs, trainer->items, step, micro));
        add_loss(t, trainer->loss, &trainer->losses);
    }
    if (!loss_is_new)
        assign(t, &trainer->norm, NULL);
    torch_update(job, step, a->clip > 0 || !loss_is_new,
                 &trainer->norm); /* the norm is computed without clipping too */
}

/* distributed_concat of a number that each rank has: the caller's */
static TorchTensor *concat(TorchJob *job, TorchType type)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t ranks = job->asked->ranks;
    for (int64_t rank = 0; rank < ranks; rank++)
        torch_name(t, number(t, "aten::clone", type));
    TorchTensor *all = torch_empty(t, "aten::cat", torch_shape(type, 1, &ranks));
    torch_leave(t, frame, NULL);
    return all;
}

/* store_flos: a number with a fraction, or the whole number 0 where there was no step since the last time */
static void store_operations(TorchJob *job, Trainer *trainer)
{
    Torch *t = &job->torch;
    TorchType type = trainer->stored ? TORCH_I64 : TORCH_F32;
    if (!job->asked->parallel)
        return;
    TorchTensor *count = number(t, "aten::_to_copy", type), *all = concat(job, type);
    torch_drop(t, count);
    torch_scratch(t, "aten::sum", torch_bytes(type));
    torch_drop(t, all);
    trainer->stored = 1;
}

static void log_loss(TorchJob *job, Trainer *trainer)
{
    Torch *t = &job->torch;
    TorchTensor *all = job->asked->parallel ? concat(job, TORCH_F32) : NULL;
    torch_scratch(t, "aten::mean", torch_bytes(TORCH_F32));
    torch_drop(t, all);
    store_operations(job, trainer);
}

/* ---- Evaluation ------------------------------------------------------------------------------ */

/* A name of evaluation_loop, and what its EvalLoopContainer holds. */
typedef struct Kept {
    TorchTensor *last, *all;
} Kept;

static void add(Torch *t, Kept *kept)
{
    if (!kept->all)
        kept->all = torch_again(kept->last);
    else
        assign(t, &kept->all, torch_cat(t, 0, 2, (TorchTensor *[]){kept->all, kept->last}));
}

/* pad_across_processes looks at the sizes of all ranks, of tensors that have columns. */
static void pad(TorchJob *job, const TorchTensor *x)
{
    Torch *t = &job->torch;
    int64_t bytes = x->shape.dims * torch_bytes(TORCH_I64);
    if (x->shape.dims < 2)
        return;
    TorchTensor *size = torch_bytes_of(t, "aten::_to_copy", bytes);
    if (job->asked->parallel)
        torch_scratch(t, "aten::empty", bytes * job->asked->ranks);
    torch_drop(t, size);
}

/* gather_function: what all ranks have, below each other */
static void gather(TorchJob *job, Kept *kept)
{
    TorchShape shape = kept->last->shape;
    if (!job->asked->parallel)
        return;
    shape.size[0] *= job->asked->ranks;
    assign(&job->torch, &kept->last,
           torch_empty(&job->torch, "aten::empty", torch_shape(shape.type, shape.dims, shape.size)));
}

/* prediction_step: loss, and where metrics are asked logits and labels. */
static void predict(TorchJob *job, TorchTensor *const *inputs, Kept kept[3])
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchTensor *items = t->dialect->transformers->evaluates_means ? NULL : count_items(job, inputs, 1);
    TorchTensor *loss = torch_name(t, compute_loss(job, inputs, items)), *logits = NULL, *labels = NULL;
    TorchTensor *mean = number(t, "aten::mean", loss->shape.type);
    if (job->asked->metrics) {
        logits = torch_again(job->held[job->caches ? job->held_count - 1 : 0]); /* after the cache */
        labels = torch_again(inputs[LABELS]);
    }
    torch_release(job, 0, job->held_count);
    torch_drop(t, items);
    torch_leave(t, frame, NULL);
    assign(t, &kept[0].last, mean);
    assign(t, &kept[1].last, logits);
    assign(t, &kept[2].last, labels);
}

/* What a batch adds to the containers: losses, logits, labels. */
static void add_batch(TorchJob *job, Kept kept[3], TorchTensor *losses, int last)
{
    Torch *t = &job->torch;
    TorchTensor *mean = kept[0].last; /* an argument, which lives through the gather */
    kept[0].last = owned(losses);
    gather(job, &kept[0]);
    torch_drop(t, mean);
    add(t, &kept[0]);
    for (int i = last; --i > 0;)
        pad(job, kept[i].last);
    for (int i = 1; i < last; i++) {
        gather(job, &kept[i]);
        add(t, &kept[i]);
    }
}

/* evaluation_loop */
static void evaluate(TorchJob *job, int step)
{
    Torch *t = &job->torch;
    const PytorchJob *a = job->asked;
    Kept kept[3] = {{NULL, NULL}}; /* losses, logits, labels */
    int last = a->metrics ? 3 : 1;
    size_t trained = job->sample_count;
    int cached = job->caches;
    job->caches |= t->dialect->transformers->trainer_caches; /* checkpoints are of training only */
    t->grad_mode = 0;
    t->evaluating = 1;
    job->batch = a->evaluate_batch ? a->evaluate_batch : a->batch;
    for (int batch = 0; batch < a->evaluate; batch++) {
        torch_phase(job, PYTORCH_EVALUATE, step, batch);
        size_t old = job->sample_count;
        load(job);
        unload(job, trained, old); /* the loop's name, and what enumerate holds */
        predict(job, job->samples + trained, kept);
        TorchTensor *losses =
            torch_empty(t, "aten::repeat", torch_shape(kept[0].last->shape.type, 1, &job->batch));
        add_batch(job, kept, losses, last);
        for (int i = 0; a->eval_accumulation && (batch + 1) % a->eval_accumulation == 0 && i < 3; i++) {
            assign(t, &kept[i].all, NULL);
            assign(t, &kept[i].last, NULL);
        }
    }
    for (int i = 0; i < 3; i++) {
        assign(t, &kept[i].all, NULL);
        assign(t, &kept[i].last, NULL);
    }
    unload(job, trained, job->sample_count);
    job->batch = a->batch;
    job->caches = cached;
    t->evaluating = 0;
    t->grad_mode = 1;
}

/* _save_checkpoint: tensors go to the host as they are */
static void save(TorchJob *job, Trainer *trainer, int step)
{
    torch_phase(job, PYTORCH_SAVE, step, 0);
    store_operations(job, trainer);
    torch_state_dict(job);
}

void torch_trainer(TorchJob *job)
{
    Torch *t = &job->torch;
    const PytorchJob *a = job->asked;
    Trainer trainer = {.items = NULL};
    t->grad_mode = 1;
    job->batch = a->batch;
    job->seq = a->seq;
    torch_phase(job, PYTORCH_MAKE_OPTIMIZER, 0, 0);
    torch_empty_cache(t); /* Accelerator.free_memory */
    torch_wrap(job);
    trainer.losses = torch_leaf(t, "aten::_to_copy", PYTORCH_BUFFER, torch_shape(TORCH_F32, 0, NULL), 0);
    for (int step = 0; step < a->steps; step++) {
        train_step(job, &trainer, step);
        trainer.stored = 0;
        if (a->logging && due(step, a->logging))
            log_loss(job, &trainer);
        if (a->evaluate && due(step, a->evaluate_steps ? a->evaluate_steps : a->steps))
            evaluate(job, step);
        if (a->save && (due(step, a->save) || step == a->steps - 1))
            save(job, &trainer, step);
    }
    unload(job, 0, job->sample_count); /* the names of _run_epoch */
    assign(t, &trainer.items, NULL);
    assign(t, &trainer.loss, NULL);
    assign(t, &trainer.norm, NULL);
    store_operations(job, &trainer);
}
