/* The bracket: what a training spends on a parameter, read off the tensors themselves. */
#include <string.h>

#include "cli.h"
#include "flags_.h"
#include "../tensor/ranks_.h"
#include "lora.h"
#include "precision.h"
#include "several.h"

/* ---- Counting -------------------------------------------------------------------------------- */

static uint64_t array_bytes(const Tensor *tensor)
{
    int64_t count = tensor_whole_numel_(tensor);
    return tensor->piece ? dtype_bytes(tensor_dtype(tensor), 1, count)
                         : shape_bytes(tensor_dtype(tensor), tensor_shape(tensor));
}

static void count_in(Stored *stored, const Tensor *tensor)
{
    stored->dtype = tensor_dtype(tensor);
    stored->count += tensor_whole_numel_(tensor);
    stored->bytes += array_bytes(tensor);
    stored->divided += shard_is_apart(tensor) ? tensor_whole_numel_(tensor) : 0;
    stored->rank_bytes +=
        (uint64_t)(shard_is_apart(tensor) ? shard_part_bytes_(tensor) : shard_whole_bytes(tensor));
}

static Stored *frozen_as(Bracket *bracket, DType dtype)
{
    int i = 0;
    while (i < bracket->frozen_kinds && bracket->frozen[i].dtype != dtype)
        i++;
    if (i == bracket->frozen_kinds)
        bracket->frozen_kinds++;
    return &bracket->frozen[i];
}

/* Quantised weights first: they are most of a model, and what is spoken of. */
static void order(Bracket *bracket)
{
    for (int i = 1; i < bracket->frozen_kinds; i++)
        if (dtype_is_quantized(bracket->frozen[i].dtype)) {
            Stored quantized = bracket->frozen[i];
            bracket->frozen[i] = bracket->frozen[0];
            bracket->frozen[0] = quantized;
        }
}

/* What is trained: its weight, its gradient, and what keeps the weight in fp32. */
static void count_trained(Bracket *bracket, const Tensor *tensor)
{
    int64_t count = tensor_whole_numel_(tensor);
    int parts = tensor->shard && bracket->strategy >= RANKS_ZERO2;
    count_in(&bracket->trained, tensor);
    if (shard_is_apart(tensor) &&
        tensor->shard->type != tensor->dtype) { /* its master, which weights are made of */
        bracket->trained.dtype = tensor->shard->type;
        bracket->trained.bytes += dtype_bytes(tensor->shard->type, 1, count) - array_bytes(tensor);
    }
    bracket->gradients += dtype_bytes(parts ? tensor->shard->grad_type : gradient_type(tensor), 1, count);
    bracket->masters += tensor->master ? dtype_bytes(DTYPE_F32, 1, count) : 0;
}

static uint64_t state_bytes(const Optimizer *optimizer)
{
    uint64_t bytes = 0;
    TensorList parameters = optim_parameters(optimizer);
    for (int i = 0; i < parameters.count; i++)
        for (int k = 0; k < optim_state_arrays(optimizer); k++) {
            const Tensor *array = optim_state(optimizer, i, k);
            const Tensor *of = parameters.items[i];
            bytes += of->shard || of->piece /* of all ranks, and not this one's part */
                         ? dtype_bytes(tensor_dtype(array), 1, tensor_whole_numel_(of))
                         : array_bytes(array);
        }
    return bytes;
}

/* Autocast: layers multiply with copies of 16 bit of weights in fp32. */
static int copy_bytes(const Options *o)
{
    Precision p = precision_of(o);
    return !has_adapters(o) && p.weights == DTYPE_F32 && p.activations != DTYPE_F32
               ? (int)dtype_bytes(p.activations, 1, 1)
               : 0;
}

Bracket bracket_of(const Options *o, Module *model, const Optimizer *optimizer)
{
    Bracket bracket = {.adapters = has_adapters(o),
                       .states = state_bytes(optimizer),
                       .copy = copy_bytes(o),
                       .ranks = stage_ranks(o),
                       .tensor = o->ranks.tensor,
                       .replicas = o->ranks.replicas,
                       .strategy = keeps_gradients_apart(o) ? RANKS_ZERO2 : o->ranks.strategy};
    TensorList all = nn_parameters(model);
    for (int i = 0; i < all.count; i++)
        if (all.items[i]->absent) /* another stage's */
            continue;
        else if (tensor_requires_grad(all.items[i]))
            count_trained(&bracket, all.items[i]);
        else
            count_in(frozen_as(&bracket, tensor_dtype(all.items[i])), all.items[i]);
    order(&bracket);
    bracket_of_rank(&bracket, o, model, optimizer);
    return bracket;
}

uint64_t bracket_frozen_bytes(const Bracket *b)
{
    uint64_t bytes = 0;
    for (int i = 0; i < b->frozen_kinds; i++)
        bytes += b->frozen[i].bytes;
    return bytes;
}

/* ---- As text --------------------------------------------------------------------------------- */

static double each(const Stored *stored)
{
    return stored->count ? (double)stored->bytes / (double)stored->count : 0;
}

/* Bytes of a trained parameter. */
static double of_trained(const Bracket *b, uint64_t bytes)
{
    return b->trained.count ? (double)bytes / (double)b->trained.count : 0;
}

/* "6.98B", "124.4M"; below a million all digits. */
static SizeText short_count(int64_t count)
{
    SizeText out;
    double n = (double)count;
    if (n < 1e6)
        return report_count(count);
    snprintf(out.text, sizeof out.text, n < 999.5e6 ? "%.3g%s" : "%.2f%s", n < 999.5e6 ? n / 1e6 : n / 1e9,
             n < 999.5e6 ? "M" : "B");
    return out;
}

/* "/8" behind what is divided from this strategy on. */
static LeverText divided(const Bracket *b, RankStrategy from)
{
    int data = b->tensor > 1 ? b->ranks / b->tensor : b->ranks;
    data /= b->replicas > 1 ? b->replicas : 1;
    return data > 1 && b->strategy >= from ? lever_say("/%d", data) : lever_say("%s", "");
}

LeverText bracket_text(const Bracket *b)
{
    int parts = b->ranks > 1 && (b->strategy != RANKS_DDP || b->tensor > 1);
    uint64_t all = b->trained.bytes + b->gradients + b->masters + b->states;
    uint64_t mine = b->rank_weights + b->rank_gradients + b->rank_masters + b->rank_states;
    LeverText out = {""};
    for (int i = 0; i < b->frozen_kinds; i++)
        lever_add(&out, "%s%.3g%s x %s", i ? " + " : "base ", each(&b->frozen[i]),
                  b->frozen[i].divided ? divided(b, RANKS_ZERO3).text : "",
                  short_count(b->frozen[i].count).text);
    lever_add(&out, "%s%s %.3g%s", b->frozen_kinds ? " frozen; " : "", b->adapters ? "adapters" : "trained",
              each(&b->trained), divided(b, RANKS_ZERO3).text);
    if (b->copy)
        lever_add(&out, " + %d*", b->copy);
    lever_add(&out, " + %.3g%s", of_trained(b, b->gradients), divided(b, RANKS_ZERO2).text);
    if (b->masters)
        lever_add(&out, " + %.3g%s", of_trained(b, b->masters), divided(b, RANKS_ZERO1).text);
    lever_add(&out, " + %.3g%s%s = %.3g bytes x %s%s", of_trained(b, b->states), divided(b, RANKS_ZERO1).text,
              b->tensor > 1 ? lever_say(", matrices /%d", b->tensor).text : "",
              of_trained(b, parts ? mine : all) + b->copy, report_count(b->trained.count).text,
              b->ranks > 1 ? " a rank" : "");
    return out;
}

static json_t *stored_json(const Stored *stored)
{
    const char *type =
        dtype_is_float(stored->dtype) ? weights_name(stored->dtype) : dtype_name(stored->dtype);
    return json_pack("{s:s, s:I, s:I}", "type", type, "parameters", (json_int_t)stored->count, "bytes",
                     (json_int_t)stored->bytes);
}

static json_t *frozen_json(const Bracket *b, const Stored *stored)
{
    json_t *object = stored_json(stored);
    if (b->ranks > 1)
        json_object_set_new(object, "rank_bytes", json_integer((json_int_t)stored->rank_bytes));
    return object;
}

const char *bracket_star(const Bracket *b)
{
    return b->copy ? "* a linear layer's copy of its weight in 16 bit: there from its forward to its backward"
                   : "";
}

json_t *bracket_json(const Bracket *b)
{
    json_t *frozen = json_array(), *trained = stored_json(&b->trained);
    for (int i = 0; i < b->frozen_kinds; i++)
        json_array_append_new(frozen, frozen_json(b, &b->frozen[i]));
    json_object_set_new(trained, "gradient_bytes", json_integer((json_int_t)b->gradients));
    json_object_set_new(trained, "master_bytes", json_integer((json_int_t)b->masters));
    json_object_set_new(trained, "state_bytes", json_integer((json_int_t)b->states));
    if (b->ranks > 1)
        json_object_set_new(trained, "rank",
                            json_pack("{s:I, s:I, s:I, s:I}", "bytes", (json_int_t)b->rank_weights,
                                      "gradient_bytes", (json_int_t)b->rank_gradients, "master_bytes",
                                      (json_int_t)b->rank_masters, "state_bytes",
                                      (json_int_t)b->rank_states));
    if (b->copy)
        json_object_set_new(trained, "copy_bytes_each", json_integer(b->copy));
    return json_pack("{s:o, s:o}", "frozen", frozen, "trained", trained);
}

LeverText active_text(int64_t active, int64_t parameters)
{
    return active < parameters ? lever_say(", %s active", report_count(active).text) : (LeverText){""};
}

void bracket_add_trained(json_t *object, const Bracket *b)
{
    if (b->adapters)
        json_object_set_new(object, "trained", json_integer((json_int_t)b->trained.count));
}
