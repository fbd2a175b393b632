/* What options of several ranks go together with: said before anything is planned. */
#include <inttypes.h>
#include <string.h>

#include "../device/device.h"
#include "../tensor/ranks_.h"
#include "flags_.h"
#include "levers_.h"
#include "several.h"

/* What is not divided by rows. */
static LeverText sequence_problem(const Options *o)
{
    static const char *const excluded[] = {"--lora", "--adapter"};
    for (size_t i = 0; i < sizeof excluded / sizeof excluded[0]; i++)
        if (flag_given(excluded[i], o))
            return lever_say(
                "--sequence-parallel excludes %s: adapters are not computed by rows; --tensor %d "
                "alone goes with it",
                flag_typed(excluded[i], o).text, o->ranks.tensor);
    if (o->sample)
        return lever_say(
            "--sequence-parallel excludes --sample: one token is one row, which is not divided; --tensor "
            "%d alone goes with it",
            o->ranks.tensor);
    return lever_say("%s", "");
}

static LeverText tensor_problem(const Options *o)
{
    int tensor = o->ranks.tensor;
    if (tensor < 2)
        return lever_say("%s", "");
    if (o->ranks.size % tensor)
        return lever_say("--tensor %d does not divide --ranks %d; --ranks is a multiple of it", tensor,
                         o->ranks.size);
    return o->ranks.sequence ? sequence_problem(o) : lever_say("%s", "");
}

int keeps_gradients_apart(const Options *o)
{
    return o->accumulate_apart && data_ranks(o) == 1;
}

/* Where micro-batches are not added apart. */
static LeverText apart_problem(const Options *o)
{
    if (!o->accumulate_apart)
        return lever_say("%s", "");
    if (has_stages(o))
        return lever_say(
            "--accumulate-apart excludes --stages %d: a stage adds the gradients of micro-batches "
            "to what is there",
            o->ranks.stages);
    if (data_ranks(o) > 1 && o->ranks.strategy < RANKS_ZERO2)
        return lever_say(
            "--accumulate-apart excludes --parallel %s: it sums over ranks once a step, what each "
            "has added up; zero2 and zero3 keep the gradients of micro-batches apart",
            ranks_strategy_name(o->ranks.strategy));
    return lever_say("%s", "");
}

LeverText ranks_problem(const Options *o)
{
    LeverText apart = apart_problem(o);
    if (apart.text[0] || !has_ranks(o))
        return apart;
    if (device_cuda_ordinal(o->device) >= 0 && o->inference)
        return lever_say("--tensor %d excludes --device %s: several ranks write a text on the CPU; one card "
                         "writes alone",
                         o->ranks.size, o->device);
    if (device_cuda_ordinal(o->device) >= 0 && has_stages(o))
        return lever_say("--stages %d excludes --device %s: stages of a model train on the CPU; on cards, "
                         "--parallel zero3 and --tensor divide it",
                         o->ranks.stages, o->device);
    if (device_cuda_ordinal(o->device) >= 0 && gathers_blocks(o) > 1)
        return lever_say("--gather next excludes --device %s: a card gathers nothing while a block runs; "
                         "--gather block gathers it in one call",
                         o->device);
    return tensor_problem(o);
}

/* Blocks of 8-bit states are not cut. */
static int unit_of(const Options *o)
{
    const OptimRule *rule = optim_rule(o->optimizer); /* NULL: check_names says so */
    return rule && rule->eight_bit ? DYNAMIC8_BLOCK : 0;
}

/* How many blocks at a time each value of --gather gathers; -1: there is no such value. */
static int blocks_of(const char *gather)
{
    static const char *const values[] = {"op", "block", "next"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(gather, values[i]))
            return i;
    return -1;
}

int gathers_blocks(const Options *o)
{
    return has_ranks(o) && o->ranks.strategy == RANKS_ZERO3 ? blocks_of(o->gather) : 0;
}

static int check_stages(Options *o, const char *command)
{
    int schedule = ranks_schedule(o->pipeline);
    if (schedule < 0)
        return usage("--pipeline must be 1f1b or gpipe, not '%s'", o->pipeline);
    o->ranks.schedule = (RankSchedule)schedule;
    if (!has_stages(o) || !has_ranks(o)) /* which --stages needs */
        return 0;
    if (o->ranks.size % o->ranks.stages)
        return usage("--ranks %d are not divided by --stages %d: each stage has as many ranks as the others",
                     o->ranks.size, o->ranks.stages);
    if (strcmp(command, "train") != 0)
        return 0;
    if (o->sample)
        return usage(
            "--stages %d excludes --sample: texts are written token by token, and no rank has the whole "
            "model; --export DIR writes it, and `brim generate DIR` a text",
            o->ranks.stages);
    return 0;
}

/* Who has all of what is divided, and in whose order sums are. */
static int check_division(Options *o)
{
    int reduce = ranks_reduce(o->reduce), data = data_ranks(o), replicas = o->ranks.replicas;
    if (reduce < 0)
        return usage("--reduce must be ordered or library, not '%s'", o->reduce);
    o->ranks.reduce = (RankReduce)reduce;
    if (!has_ranks(o))
        return 0;
    if (o->ranks.replicate_below > 0 && o->ranks.strategy != RANKS_ZERO3)
        return usage("--replicate-below %" PRId64
                     " means nothing without --parallel zero3: nothing else divides weights",
                     o->ranks.replicate_below);
    if (replicas < 2)
        return 0;
    if (o->ranks.strategy == RANKS_DDP)
        return usage("--replicas %d means nothing with --parallel ddp, which divides nothing: each rank is a "
                     "replica already; zero1, zero2 and zero3 divide",
                     replicas);
    if (data % replicas)
        return usage("--replicas %d does not divide the %d ranks that share the data", replicas, data);
    if (data == replicas)
        return usage("--replicas %d leaves each replica one rank, which divides nothing: that is --parallel "
                     "ddp",
                     replicas);
    return 0;
}

static int check_gather(const Options *o)
{
    if (blocks_of(o->gather) < 0)
        return usage("--gather must be op, block or next, not '%s'", o->gather);
    if (strcmp(o->gather, "op") != 0 && !gathers_blocks(o))
        return usage("--gather %s means nothing without --parallel zero3: nothing else is gathered",
                     o->gather);
    return 0;
}

static int check_transport(const Options *o)
{
    if (!o->transport)
        return 0;
    if (strcmp(o->transport, "mpi") != 0 && strcmp(o->transport, "nccl") != 0)
        return usage("--transport must be mpi or nccl, not '%s'", o->transport);
    if (device_cuda_ordinal(o->device) < 0 && !strcmp(o->transport, "nccl"))
        return usage("--transport nccl carries between cards: --device cuda; on the CPU ranks use MPI");
    return 0;
}

int check_ranks(Options *o, const char *command)
{
    int64_t rank = 0;
    if (!strcmp(command, "fit") && !o->inference && !o->card_counts && (o->ranks.tensor > 1 || has_stages(o)))
        return usage("%s needs --cards N: it is of several cards",
                     flag_typed(o->ranks.tensor > 1 ? "--tensor" : "--stages", o).text);
    if (check_gather(o) || check_stages(o, command) || check_transport(o) || check_division(o))
        return EXIT_USAGE;
    if (o->rank && strcmp(o->rank, "all") != 0 && parse_whole("--rank", o->rank, 0, RANKS_MOST, &rank))
        return EXIT_USAGE;
    if (has_ranks(o) && rank >= o->ranks.size)
        return usage("--rank %s: the ranks of --ranks %d are 0 to %d", o->rank, o->ranks.size,
                     o->ranks.size - 1);
    o->ranks.rank = has_ranks(o) ? (int)rank : 0;
    o->ranks.unit = unit_of(o);
    if (has_ranks(o) && o->run_steps)
        return usage(
            "--ranks %d excludes --run: a row is trained by one process; `brim train` starts several",
            o->ranks.size);
    if (has_ranks(o) && (o->textbook || o->four_ways))
        return usage("--ranks %d means nothing beside %s: it divides a training", o->ranks.size,
                     o->textbook ? "--textbook" : "--four-ways");
    return 0;
}
