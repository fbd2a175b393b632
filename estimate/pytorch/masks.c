/* Attention masks, as transformers' masking_utils.py makes them. */
#include "job_.h"

/* A contiguous tensor with the bytes of these elements. */
static TorchTensor *fresh(Torch *t, const char *op, TorchType type, int64_t a, int64_t b, int64_t c)
{
    return torch_empty(t, op, torch_shape(type, 3, (int64_t[]){a, b, c}));
}

static TorchTensor *arange(Torch *t, int64_t count, int moved)
{
    TorchTensor *x = torch_empty(t, "aten::arange", torch_shape(TORCH_I64, 1, &count));
    return torch_name(t, moved ? torch_plus(t, x) : x);
}

/* mask.sum(): the sum of a mask takes a copy in whole numbers. */
static void all_ones(Torch *t, int64_t batch, int64_t seq)
{
    TorchTensor *sum = fresh(t, "aten::sum", TORCH_I64, 1, 1, 1);
    TorchTensor *whole = fresh(t, "aten::sum", TORCH_I64, batch, seq, 1);
    torch_whole_scratch(t, batch * seq, torch_bytes(TORCH_I64));
    torch_drop(t, whole);
    torch_scratch(t, "aten::eq", 1);
    torch_drop(t, sum);
}

/* find_packed_sequence_indices: where the positions do not go up by one, another sequence begins. `kept`: it
 * does not look whether there is one sequence only, and its numbers become part of the mask. */
static void packed(Torch *t, int64_t batch, int64_t seq, int kept)
{
    size_t frame = torch_frame(t);
    TorchTensor *before = torch_name(t, fresh(t, "aten::sub", TORCH_I64, batch, 1, 1));
    TorchTensor *wider = fresh(t, "aten::cat", TORCH_I64, batch, seq + 1, 1);
    TorchTensor *steps = torch_name(t, fresh(t, "aten::diff", TORCH_I64, batch, seq, 1));
    (void)before, (void)steps;
    torch_drop(t, wider);
    TorchTensor *breaks = fresh(t, "aten::ne", TORCH_BOOL, batch, seq, 1);
    TorchTensor *sequences = torch_name(t, fresh(t, "aten::cumsum", TORCH_I64, batch, seq, 1));
    TorchTensor *whole = fresh(t, "aten::_to_copy", TORCH_I64, batch, seq, 1);
    if (batch == 1) /* one row is summed by CUB */
        torch_scratch(t, "aten::cumsum", torch_scan_bytes(seq, TORCH_SCAN_TILE));
    torch_drop(t, whole);
    torch_drop(t, breaks);
    if (kept) {
        torch_name(t, torch_leave(t, frame, sequences));
        return;
    }
    torch_name(t, fresh(t, "aten::eq", TORCH_BOOL, batch, 1, 1));
    torch_name(t, fresh(t, "aten::all", TORCH_BOOL, 1, 1, 1));
    torch_leave(t, frame, NULL);
}

static TorchTensor *both(Torch *t, TorchTensor *a, TorchTensor *b)
{
    TorchTensor *inputs[] = {a, b};
    TorchTensor *y = torch_empty(t, "aten::__and__", torch_iterate(TORCH_BOOL, 2, inputs));
    torch_used(t, a);
    torch_used(t, b);
    return y;
}

/* A rule's mask by the indices of queries and keys. */
typedef TorchTensor *Rule(Torch *t, int64_t seq, int64_t window);

static TorchTensor *square(Torch *t, const char *op, int64_t seq)
{
    return torch_empty(t, op, torch_shape(TORCH_BOOL, 4, (int64_t[]){1, 1, seq, seq}));
}

/* q >= 0: of one column */
static TorchTensor *everywhere(Torch *t, int64_t seq, int64_t window)
{
    (void)window;
    return torch_empty(t, "aten::ge", torch_shape(TORCH_BOOL, 4, (int64_t[]){1, 1, seq, 1}));
}

/* What and_masks begins with: one, or under vmap one for each query. */
static TorchTensor *ones(Torch *t, int64_t seq)
{
    if (t->dialect->transformers->masks_by_vmap)
        return torch_empty(t, "aten::new_ones", torch_shape(TORCH_BOOL, 4, (int64_t[]){1, 1, seq, 1}));
    return torch_empty(t, "aten::new_ones", torch_shape(TORCH_BOOL, 0, NULL));
}

/* kv <= q, and with a window kv > q - window */
static TorchTensor *backwards(Torch *t, int64_t seq, int64_t window)
{
    if (!window)
        return square(t, "aten::le", seq);
    TorchTensor *all = ones(t, seq);
    TorchTensor *from = fresh(t, "aten::sub", TORCH_I64, seq, 1, 1);
    TorchTensor *after = square(t, "aten::gt", seq);
    torch_drop(t, from);
    TorchTensor *first = both(t, all, after);
    TorchTensor *before = square(t, "aten::le", seq);
    return both(t, first, before);
}

/* x[batch, index], of queries or of keys: both indices are expanded; what repeats none lies as it is */
static TorchTensor *indexed(Torch *t, TorchType type, int64_t batch, int64_t queries, int64_t keys)
{
    int64_t seq = queries * keys;
    TorchTensor *rows = seq > 1 ? fresh(t, "aten::index", TORCH_I64, batch, seq, 1) : NULL;
    TorchTensor *columns = batch > 1 ? fresh(t, "aten::index", TORCH_I64, batch, seq, 1) : NULL;
    TorchTensor *y =
        torch_empty(t, "aten::index", torch_shape(type, 4, (int64_t[]){batch, 1, queries, keys}));
    torch_drop(t, rows);
    torch_drop(t, columns);
    return y;
}

/* and_masks of the mask that the rule makes, and of the padding that was given */
static TorchTensor *with_padding(Torch *t, int64_t batch, int64_t seq, Rule *rule, int64_t window)
{
    TorchTensor *all = ones(t, seq);
    TorchTensor *first = both(t, all, rule(t, seq, window));
    return both(t, first, indexed(t, TORCH_BOOL, batch, 1, seq));
}

/* and_masks of the mask that the rule makes, and of query and key in one sequence */
static TorchTensor *in_one_sequence(Torch *t, int64_t batch, int64_t seq, Rule *rule, int64_t window)
{
    TorchTensor *all = ones(t, seq);
    TorchTensor *first = both(t, all, rule(t, seq, window));
    TorchTensor *query = indexed(t, TORCH_I64, batch, seq, 1), *key = indexed(t, TORCH_I64, batch, 1, seq);
    TorchTensor *same =
        torch_empty(t, "aten::eq", torch_shape(TORCH_BOOL, 4, (int64_t[]){batch, 1, seq, seq}));
    torch_drop(t, query);
    torch_drop(t, key);
    return both(t, first, same);
}

/* sdpa_mask's mask of booleans */
static TorchTensor *made(TorchJob *job, TorchTensor *given, int packed, Rule *rule, int64_t window)
{
    Torch *t = &job->torch;
    int64_t batch = job->batch, seq = job->seq;
    size_t frame = torch_frame(t);
    if (t->dialect->transformers->masks_by_vmap) { /* queries are the positions of the cache */
        arange(t, seq, 0);
        arange(t, batch, 0);
        arange(t, 1, 0);
    } else {
        arange(t, batch, 0);
        arange(t, 1, 0);
        arange(t, seq, 1);
        arange(t, seq, 1);
    }
    TorchTensor *mask = given    ? with_padding(t, batch, seq, rule, window)
                        : packed ? in_one_sequence(t, batch, seq, rule, window)
                                 : rule(t, seq, window);
    return torch_leave(t, frame, torch_expand(t, mask, 4, (int64_t[]){batch, 1, seq, seq}));
}

/* eager_mask: 0 and the lowest number */
static TorchTensor *as_numbers(Torch *t, TorchTensor *mask, TorchType type)
{
    size_t frame = torch_frame(t);
    torch_name(t, mask);
    torch_name(t, torch_empty(t, "aten::zeros", torch_shape(type, 0, NULL)));
    TorchTensor *lowest = torch_empty(t, "aten::scalar_tensor", torch_shape(type, 0, NULL));
    TorchTensor *y = torch_empty(t, "aten::where", torch_iterate(type, 1, &mask));
    torch_drop(t, lowest);
    return torch_leave(t, frame, y);
}

/* create_causal_mask and create_sliding_window_causal_mask. `window` is 0 without one. */
TorchTensor *torch_causal_mask(TorchJob *job, TorchTensor *given, TorchType type, int64_t window)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t batch = job->batch, seq = job->seq;
    int eager = job->asked->attention == PYTORCH_EAGER, padded = job->asked->mask == 2;
    if (t->dialect->transformers->masks_of_numbers)
        return torch_number_mask(job, given, type, window);
    int looks = !given && !job->caches, packs = looks && t->dialect->transformers->always_packed;
    if (given)
        torch_name(t, torch_empty(t, "aten::_to_copy", torch_shape(TORCH_BOOL, 2, (int64_t[]){batch, seq})));
    else if (looks)
        packed(t, batch, seq, packs);
    if (!eager && !packs && !(window && seq >= window)) {
        if (given && t->dialect->transformers->masks_by_vmap)
            torch_scratch(t, "aten::all", 1);
        else
            for (int i = 0; given && i < 1 + padded; i++)
                all_ones(t, batch, seq);
        if (!given || !padded)
            return torch_leave(t, frame, NULL);
    }
    TorchTensor *mask = made(job, given, packs, backwards, window);
    return torch_leave(t, frame, eager ? as_numbers(t, mask, type) : mask);
}

/* create_bidirectional_mask */
TorchTensor *torch_bidirectional_mask(TorchJob *job, TorchTensor *given, TorchType type)
{
    Torch *t = &job->torch;
    if (given && t->dialect->transformers->bert_masks_of_numbers)
        return torch_number_mask_of_all(job, given, type);
    if (!given)
        return NULL;
    size_t frame = torch_frame(t);
    int64_t size[] = {job->batch, job->seq};
    torch_name(t, torch_empty(t, "aten::_to_copy", torch_shape(TORCH_BOOL, 2, size)));
    torch_scratch(t, "aten::all", 1);
    if (job->asked->mask != 2)
        return torch_leave(t, frame, NULL);
    TorchTensor *mask = made(job, given, 0, everywhere, 0);
    if (job->asked->attention == PYTORCH_EAGER)
        mask = as_numbers(t, mask, type);
    return torch_leave(t, frame, mask);
}
