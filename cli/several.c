/* See several.h. */
#include "several.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "../base/plural_.h"
#include "../device/device.h"
#include "../tensor/ranks_.h"
#include "flags_.h"
#include "levers_.h"
#include "lora.h"
#include "precision.h"

static int is_divided(const Options *o)
{
    return data_ranks(o) > 1 && o->ranks.strategy != RANKS_DDP;
}

/* ---- What a parameter takes on a rank -------------------------------------------------------- */

void bracket_of_rank(Bracket *b, const Options *o, Module *model, const Optimizer *optimizer)
{
    TensorList all = nn_parameters(model), trained = optim_parameters(optimizer);
    if (!has_ranks(o))
        return;
    for (int i = 0; i < all.count; i++) {
        const Tensor *t = all.items[i];
        int64_t n = tensor_numel(t), mine = t->shard ? t->shard->each : n;
        if (!t->absent && t->shard)
            b->padding += mine * t->item.context->ranks->count[RANKS_SHARD] - n;
        if (t->whole_rows && !b->vocabulary) {
            b->vocabulary = t->whole_rows;
            b->rows_each = tensor_dim(t, 0);
        }
        if (!tensor_requires_grad(t) || t->absent)
            continue;
        int apart = shard_is_apart(t);
        b->kept_whole += t->shard ? 0 : n;
        b->below += t->shard && !apart && b->strategy == RANKS_ZERO3 ? n : 0;
        int parts = t->shard && b->strategy >= RANKS_ZERO2;
        b->rank_weights += apart ? dtype_bytes(t->shard->type, 1, mine) : (uint64_t)shard_whole_bytes(t);
        b->rank_gradients += dtype_bytes(parts ? t->shard->grad_type : gradient_type(t), 1, parts ? mine : n);
        b->rank_masters += t->master ? dtype_bytes(DTYPE_F32, 1, shard_master_elements(t)) : 0;
    }
    for (int i = 0; i < trained.count; i++)
        for (int k = 0; k < optim_state_arrays(optimizer); k++)
            b->rank_states += dtype_bytes(tensor_dtype(optim_state(optimizer, i, k)), 1,
                                          tensor_numel(optim_state(optimizer, i, k)));
}

/* ---- Distinct ranks -------------------------------------------------------------------------- */

static int alike(const MemStats *a, const MemStats *b)
{
    return a->peak == b->peak && a->needs == b->needs && a->event_hash == b->event_hash;
}

/* The first rank that is like this one. */
static int first_like(const RankFigures *f, int rank)
{
    for (int r = 0; r < rank; r++)
        if (alike(&f->all[r].stats, &f->all[rank].stats))
            return r;
    return rank;
}

/* "every rank", "rank 0", "ranks 1-3, 5": those like `first`. */
static LeverText rank_names(const RankFigures *f, int first)
{
    LeverText out = {""};
    int count = 0;
    for (int r = first, last; r < f->size; r = last + 1) {
        last = r;
        if (first_like(f, r) != first)
            continue;
        while (last + 1 < f->size && first_like(f, last + 1) == first)
            last++;
        if (strlen(out.text) < 60)
            lever_add(&out, "%s%d", count ? ", " : "", r);
        if (strlen(out.text) < 60 && last > r)
            lever_add(&out, "-%d", last);
        count += last - r + 1;
    }
    return count == f->size ? lever_say("every rank (0-%d)", f->size - 1)
                            : lever_say("rank%s %.80s", plural(count), out.text);
}

static json_t *ranks_json(const Options *o, const Plan *plan, json_t *distinct)
{
    if (o->inference)
        return json_pack("{s:i, s:i, s:I, s:o}", "size", o->ranks.size, "tensor", o->ranks.tensor,
                         "sent_bytes_per_token", (json_int_t)plan->step_sent, "distinct", distinct);
    json_t *all = json_pack("{s:i, s:i, s:s, s:I, s:o}", "size", o->ranks.size, "tensor", o->ranks.tensor,
                            "strategy", ranks_strategy_name(o->ranks.strategy), "sent_bytes_per_step",
                            (json_int_t)plan->step_sent, "distinct", distinct);
    if (o->ranks.replicas > 1)
        json_object_set_new(all, "replicas", json_integer(o->ranks.replicas));
    if (o->ranks.sequence)
        json_object_set_new(all, "sequence_parallel", json_true());
    if (o->ranks.transport && device_cuda_ordinal(o->device) >= 0)
        json_object_set_new(all, "transport", json_string(o->ranks.card ? "nccl" : "mpi"));
    if (has_stages(o)) {
        json_object_set_new(all, "stages", json_integer(o->ranks.stages));
        json_object_set_new(all, "schedule", json_string(ranks_schedule_name(o->ranks.schedule)));
    }
    return all;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

/* Parts are padded to the same size, and each rank gets as many samples: their plans are one plan. */
static int first_planned(const Options *o)
{
    return o->rank && strcmp(o->rank, "all") != 0 ? o->ranks.rank : 0;
}

static int last_planned(const Options *o)
{
    return o->rank && strcmp(o->rank, "all") != 0 ? o->ranks.rank : o->ranks.size - 1;
}

/* What a plan's step is. */
static const char *sent_a(const Options *o)
{
    return !o->inference ? "sent a step" : family_of(o)->writes ? "sent a token" : "sent";
}

void print_ranks_heading(const Options *o)
{
    printf("\n%-26s %13s %13s %13s\n", "RANKS", "peak", "needs", sent_a(o));
}

void print_ranks_row(const char *who, double peak, double needs, double sent, const char *behind)
{
    printf("%-26s", who);
    print_size_cell(peak, "");
    print_size_cell(needs, "");
    print_size_cell(sent, behind);
    printf("\n");
}

/* What is divided, and among whom. */
static void print_divided(const Options *o)
{
    int data = data_ranks(o), tensor = o->ranks.tensor, replicas = o->ranks.replicas;
    if (has_stages(o))
        printf("%d stages, %s: %s.\n", o->ranks.stages, ranks_schedule_name(o->ranks.schedule),
               ranks_schedule_holds(o->ranks.schedule));
    if (tensor > 1)
        printf("%d ranks compute a layer together: each has %s of its heads, hidden columns and their "
               "weights, and of the vocabulary.\n",
               tensor, tensor == 2 ? "a half" : lever_say("1/%d", tensor).text);
    if (o->ranks.sequence)
        printf("Between layers too: each has that part of the rows of batch x seq.\n");
    if (data > 1)
        printf("%s divides %s%s.\n", ranks_strategy_name(o->ranks.strategy),
               ranks_strategy_divides(o->ranks.strategy),
               replicas > 1
                   ? lever_say(", among the %d ranks of each of %d replicas", data / replicas, replicas).text
               : tensor > 1 ? lever_say(", among %d ranks", data).text
                            : "");
}

void print_inference_ranks(const Options *o, const Plan *plan)
{
    const MemStats *s = &plan->memory.stats;
    double ranks = o->ranks.size;
    if (!has_ranks(o))
        return;
    print_ranks_heading(o);
    print_ranks_row(lever_say("every rank (0-%d)", o->ranks.size - 1).text, (double)s->peak, (double)s->needs,
                    (double)plan->step_sent, "");
    print_ranks_row("all together", ranks * (double)s->peak, ranks * (double)s->needs,
                    ranks * (double)plan->step_sent, "");
    print_divided(o);
}

void print_ranks_plan(const Options *o, const Training *t, const Plan *plan)
{
    const MemStats *s = &plan->memory.stats;
    const Bracket *b = &t->bracket;
    LeverText who = first_planned(o) == last_planned(o) ? lever_say("rank %d, like the others", o->ranks.rank)
                                                        : lever_say("every rank (0-%d)", o->ranks.size - 1);
    double ranks = o->ranks.size;
    int64_t whole = 0; /* of frozen weights */
    if (!has_ranks(o))
        return;
    print_ranks_heading(o);
    print_ranks_row(who.text, (double)s->peak, (double)s->needs, (double)plan->step_sent, "");
    print_ranks_row("all together", ranks * (double)s->peak, ranks * (double)s->needs,
                    ranks * (double)plan->step_sent, "");
    print_divided(o);
    if (b->rows_each * o->ranks.tensor > b->vocabulary)
        printf("%d do not divide a vocabulary of %" PRId64 ": each has %" PRId64 " rows, of which %" PRId64
               " together are padding.\n",
               o->ranks.tensor, b->vocabulary, b->rows_each, b->rows_each * o->ranks.tensor - b->vocabulary);
    if (is_divided(o) && b->kept_whole)
        printf("Tensors that are too small to be divided stay whole on every rank: %s parameters.\n",
               report_count(b->kept_whole).text);
    if (b->below)
        printf("Weights below %" PRId64
               " elements a tensor are whole on every rank: %s parameters. Their gradients "
               "and states are divided.\n",
               o->ranks.replicate_below, report_count(b->below).text);
    for (int i = 0; i < b->frozen_kinds && is_divided(o); i++)
        whole += b->frozen[i].count - b->frozen[i].divided;
    if (whole)
        printf("Frozen weights that are not divided: every rank has all %s of them.\n",
               report_count(whole).text);
    if (b->padding)
        printf("Parts are padded to one size: all of them have room for %s parameters more than there are.\n",
               report_count(b->padding).text);
}

json_t *rank_numbers(int first, int last)
{
    json_t *all = json_array();
    for (int r = first; r <= last; r++)
        json_array_append_new(all, json_integer(r));
    return all;
}

void ranks_plan_json(json_t *object, const Options *o, const Plan *plan, json_t *stages)
{
    if (!has_ranks(o))
        return;
    if (has_stages(o)) {
        json_object_set_new(object, "ranks", ranks_json(o, plan, stages));
        return;
    }
    json_t *one = json_pack("{s:o, s:o}", "ranks", rank_numbers(first_planned(o), last_planned(o)), "memory",
                            json_memory(&plan->memory, NULL));
    json_object_set_new(object, "ranks", ranks_json(o, plan, json_pack("[o]", one)));
}

/* ---- Joining, and the end -------------------------------------------------------------------- */

static void say_late(const char *sentence, void *user)
{
    (void)user;
    complain_at_once("%s", sentence);
}

static char carrier[400]; /* or why it is not NCCL */

static int join_cards(Options *o)
{
    if (device_cuda_ordinal(o->device) < 0)
        return EXIT_DONE;
    if (!context_join_cards(&o->ranks, o->device, o->transport, carrier, sizeof carrier))
        return EXIT_DONE;
    if (speaks_alone()) /* all know the same */
        complain("%s", carrier);
    return EXIT_NO;
}

void print_carrier(const Options *o)
{
    const Transport *t = o->ranks.transport;
    if (!t || device_cuda_ordinal(o->device) < 0)
        return;
    if (o->ranks.card)
        printf("ranks send from card to card, by %s\n", carrier);
    else
        printf("ranks send through the host's memory, by %s%s%s\n", t->version(t->self),
               *carrier ? "; not by NCCL: " : "", carrier);
}

int ranks_begin(Options *o, int *done)
{
    char why[512];
    Ranks joined;
    int launched = ranks_launched(), size = o->ranks.size;
    *done = 0;
    if (o->ranks_typed && size == 1) {
        speak_as(0); /* a training of its own, whoever started it */
        return EXIT_DONE;
    }
    if (launched > 1 && size == 1 && o->inference)
        return usage("%d ranks were started, and there is no --tensor: --tensor %d computes each layer with "
                     "all of them",
                     launched, launched);
    if (launched > 1 && size == 1)
        return usage("%d ranks were started, and there is no --ranks: --ranks %d trains with all of them, "
                     "--ranks 1 makes "
                     "each a training of its own",
                     launched, launched);
    if (size == 1)
        return EXIT_DONE;
    if (launched < 1) {
        *done = 1;
        ranks_launch(size, o->arguments - 1, why, sizeof why);
        complain("%s", why);
        return EXIT_NO;
    }
    if (ranks_join(&joined, o->ranks.strategy, size, why, sizeof why)) {
        complain("%s", why);
        return EXIT_NO;
    }
    o->ranks.rank = joined.rank; /* all else is as it was asked for */
    o->ranks.size = joined.size;
    o->ranks.transport = joined.transport;
    o->ranks.node_rank = joined.node_rank;
    o->ranks.node_size = joined.node_size;
    speak_as(o->ranks.rank);
    if (join_cards(o))
        return EXIT_NO;
    if (ranks_watch(&o->ranks, o->rank_timeout, say_late, NULL, why, sizeof why))
        note("%s", why);
    return EXIT_DONE;
}

void ranks_end(const Options *o, int status)
{
    Ranks ranks = o->ranks;
    fflush(stdout);
    if (has_ranks(o) && ranks.transport)
        ranks_leave(&ranks, status);
}

void complain_of_run(int error, const char *what)
{
    enum { PATIENCE_MS = 200 };
    if (error != ERROR_RANKS) {
        complain_at_once("%s", what);
        return;
    }
    nanosleep(&(struct timespec){.tv_nsec = PATIENCE_MS * 1000000L}, NULL);
    complain("%s", what);
}

int ranks_figures(const Options *o, const Plan *plan, const RunResult *result, RankFigures *figures)
{
    StagePlan planned = {plan->memory, plan->step_sent};
    *figures = (RankFigures){.size = o->ranks.size};
    if (!has_ranks(o))
        return 0;
    figures->all = memtrack_host_calloc(NULL, (size_t)figures->size * sizeof *figures->all);
    figures->planned = memtrack_host_calloc(NULL, (size_t)figures->size * sizeof *figures->planned);
    return !figures->all || !figures->planned ||
                   ranks_gather(&o->ranks, &result->memory, sizeof result->memory, figures->all) ||
                   ranks_gather(&o->ranks, &planned, sizeof planned, figures->planned)
               ? -1
               : 0;
}

void ranks_figures_free(RankFigures *figures)
{
    memtrack_host_free(NULL, figures->all, (size_t)figures->size * sizeof *figures->all);
    memtrack_host_free(NULL, figures->planned, (size_t)figures->size * sizeof *figures->planned);
    figures->all = NULL;
    figures->planned = NULL;
}

static uint64_t highest_process(const RankFigures *f, int first)
{
    uint64_t highest = 0;
    for (int r = first; r < f->size; r++)
        if (first_like(f, r) == first && f->all[r].process_peak > highest)
            highest = f->all[r].process_peak;
    return highest;
}

void print_ranks_run(const Options *o, const RankFigures *f)
{
    uint64_t fullest = 0;
    int kinds = 0;
    if (!f->all)
        return;
    for (int r = 0; r < f->size; r++) {
        fullest = f->all[r].stats.peak > fullest ? f->all[r].stats.peak : fullest;
        kinds += first_like(f, r) == r;
    }
    printf("\n%-26s %13s %13s %13s %13s\n", "RANKS", "planned peak", "measured", "process", sent_a(o));
    for (int r = 0; r < f->size; r++) {
        int full = kinds > 1 && f->all[r].stats.peak == fullest;
        if (first_like(f, r) != r)
            continue;
        printf("%-26s", rank_names(f, r).text);
        print_size_cell((double)f->planned[r].memory.stats.peak, "");
        print_size_cell((double)f->all[r].stats.peak, "");
        print_size_cell((double)highest_process(f, r), "");
        print_size_cell((double)f->planned[r].sent, full ? "  <- the fullest\n" : "\n");
    }
    print_divided(o);
}

void ranks_run_json(json_t *object, const Options *o, const Plan *plan, const RankFigures *f)
{
    json_t *distinct = json_array();
    for (int first = 0; f->all && first < f->size; first++) {
        json_t *same = json_array();
        for (int r = first; r < f->size && first_like(f, first) == first; r++)
            if (first_like(f, r) == first)
                json_array_append_new(same, json_integer(r));
        if (json_array_size(same))
            json_array_append_new(distinct,
                                  json_pack("{s:O, s:o}", "ranks", same, "memory",
                                            json_memory(&f->all[first], &f->planned[first].memory)));
        json_decref(same);
    }
    if (f->all)
        json_object_set_new(object, "ranks", ranks_json(o, plan, json_incref(distinct)));
    json_decref(distinct);
}
