/* A context that is one of several ranks: what its tensors are divided into, and what ranks send each other.
 * All ranks run the same script and meet here in the same order. On meta nobody is there: what is taken, sent
 * and held is planned. */
#ifndef BRIM_TENSOR_RANKS_H
#define BRIM_TENSOR_RANKS_H

#include "../ranks/ranks.h"
#include "../ranks/transport.h"
#include "../ranks/watch_.h"
#include "tensor_.h"

/* Up to so many ranks sums are taken in the order of the ranks, so that they do not depend on the library. */
enum { RANKS_ORDERED = 16 };

/* What one stage sends another. */
typedef enum StageMessage {
    STAGE_ACTIVATION,
    STAGE_GRADIENT,
    STAGE_RANDOM,
    STAGE_TIED,
    STAGE_MESSAGES
} StageMessage;

/* A micro-batch between its forward and its backward: what came in (NULL at the first stage), what went out,
 * and the tape in between. */
typedef struct Flight {
    Tape *tape;
    Tensor *x, *y;
} Flight;

/* What a rank says of itself outside steps; 64 bytes, the unit of what ranks send. */
typedef struct RankReport {
    uint64_t place; /* in the script: all ranks are at the same one */
    int64_t step, code, value, rank;
    uint64_t rest[3];
} RankReport;
_Static_assert(sizeof(RankReport) == 64, "the unit of what ranks send");

struct ContextRanks {
    Ranks is;
    int gathers; /* between begin and end some are on their way */
    int place[RANK_GROUPS], count[RANK_GROUPS]; /* in each group that this rank is of */
    int apart; /* nobody to divide with, and the gradients of micro-batches are kept apart */
    RankTraffic traffic;
    int stop, stopped; /* what asks this rank to stop; the same of any rank at the last update; 0 = nothing */
    Storage *sending[STAGE_MESSAGES]; /* on their way; NULL: none is */
    uint64_t link[2][2];              /* hashes of messages: [with the stage before][gradients] */
    Flight *flight;
    int flight_room, forwards, backwards; /* of this step, so far */
    char *room;                           /* of the host's, that what a card sends passes through; or NULL */
    const Transport *asked;               /* who carried last; NULL: is.transport */
    int joined;                           /* is.card carries on this context's stream */
    RankReport reports[]; /* of each rank, where there is anybody: made with the context, so that saying that
                             there is no memory takes none */
};

/* Elements of a parameter that are one rank's. Its last ranks may have fewer than `each`, or none. */
typedef struct Shard {
    int64_t each;     /* elements a rank, in whole units */
    Storage *weights; /* ZeRO-3: this rank's; NULL: the tensor has all of them */
    DType type;       /* of those: fp32 where a 16-bit parameter has a master, which they are then */
    Storage *grad;    /* ZeRO-2 and 3: of this rank's, summed over ranks and micro-batches; NULL = none */
    DType grad_type;  /* fp32 where the parameter has a master */
    int readers;      /* who has gathered the weights */
    int regions;      /* of what is gathered, that are there: weights are one, quantised ones several */
} Shard;

/* Its weights are the ranks' parts, and whole only where they are gathered. */
static inline int shard_is_apart(const Tensor *tensor)
{
    return tensor->shard && tensor->shard->weights;
}

/* Those whose parts make a whole. */
static inline RankGroup shard_group(const Context *context)
{
    return context->ranks->count[RANKS_REPLICA] > 1 ? RANKS_SHARD : RANKS_DATA;
}

int ranks_open_(Context *context, const ContextOptions *options, char *why, size_t size);
void ranks_close_(Context *context);

/* ---- Collectives (collective.c). 0, or raises. ------------------------------------------------ */

/* What a rank exchanges is entered in the books: wait->bytes of this kind, of which `sent` leave. Whether
 * anybody is there; then it is done between the two, and the second says whether it failed. */
int ranks_enter_(const Context *context, const RanksWait *wait, uint64_t kind, uint64_t sent);
int ranks_left_(const Context *context, const char *what, int failed);
uint64_t ranks_mixed_(uint64_t hash, uint64_t word); /* one word more */

/* Outside the ledger: everyone's part of `bytes` of the host's memory, in the books like the others. */
int collective_gather_host_(Context *context, RankGroup group, void *data, uint64_t bytes);

/* n elements of a float type: everywhere the sum over the ranks of the group, in their order. */
int collective_sum(Context *context, RankGroup group, DType type, int64_t n, const Storage *data);
/* The same of what an operation computes; NULL on meta. */
int collective_sum_at(Context *context, RankGroup group, DType type, int64_t n, void *data);
/* Rank r's part of the sum, which is that of all replicas where the group is RANKS_SHARD: elements [r * each,
 * (r + 1) * each) of n, into `to` from its element `at` on; added to what is there, or in its place. */
typedef struct SumParts {
    RankGroup group;
    DType type, to_type;
    int64_t n, each;
    const void *from; /* NULL on meta, as `to` */
    void *to;
    int64_t at;
    int add;
} SumParts;
int collective_sum_parts(Context *context, const SumParts *parts);
/* Everyone's part of `bytes`, where it lies in `data`, whose parts begin at its byte `first`. */
int collective_gather(Context *context, RankGroup group, const Storage *data, uint64_t first, uint64_t bytes);
int collective_gather_at(Context *context, RankGroup group, void *data, uint64_t bytes);

/* ---- Who carries them (carry.c). 0, or not, and carry_why_ says why ---------------------------- */

/* Room of the host's where a card's data needs it, which is planned; or the cards join. Then, when groups are
 * divided, all is used once: what it takes of the card it has before anybody reserves. 0, or -1 with a
 * sentence. */
int carry_open_(Context *context, char *why, size_t size);
int carry_ready_(Context *context, char *why, size_t size);
void carry_close_(Context *context);
/* Before anybody waits for the card: after a failure the others may never come. */
void carry_leave_(Context *context, int failed);
/* Ranks of this colour are a group from now on, to all who carry for it. */
int carry_divide_(struct ContextRanks *ranks, RankGroup group, int colour, int place);
/* Of the context's memory; sizes as transport.h has them. */
int carry_gather_(Context *context, RankGroup group, void *data, uint64_t bytes);
int carry_exchange_(Context *context, RankGroup group, const void *from, void *to, uint64_t bytes);
int carry_sum_(Context *context, RankGroup group, float *data, uint64_t count);
int carry_sum_parts_(Context *context, RankGroup group, const float *from, float *to, uint64_t count);
/* A piece of collective.c, which fits the host's room. */
int carry_receive_(Context *context, RankGroup group, void *data, uint64_t bytes, int from, int tag);
int carry_send_(Context *context, RankGroup group, const void *data, uint64_t bytes, int to, int tag);
int carry_broadcast_(Context *context, RankGroup group, void *data, uint64_t bytes, int root);
int carry_begin_(Context *context);
/* *going: whether they are not over yet. */
int carry_later_(Context *context, int *going);
int carry_end_(Context *context);
const char *carry_why_(const Context *context);
/* When the card has been waited for: whether what went between cards went well. 0, or raises. */
int carry_check_(const Context *context);

/* ---- Shards (shard.c) ------------------------------------------------------------------------- */

/* Makes a trained parameter of this context a divided one where its ranks divide it; its storage too. 0, or
 * raises. */
int shard_new(Tensor *tensor, MemComponent component);
/* Makes a parameter's storage, as the context's ranks divide it; the header has none yet. 0, or raises. */
int parameter_place_(Tensor *tensor, MemComponent component);
/* Bytes of its whole storage: of a divided one with room for parts that are all as large. */
int64_t shard_whole_bytes(const Tensor *tensor);
int64_t shard_part_bytes_(const Tensor *tensor); /* of this rank's, where it is apart */
void shard_free(Tensor *tensor);
void shard_drop_grad(Tensor *tensor);
/* Whole weights in its storage, until as many releases. Nothing for what is not divided. 0, or raises. */
int shard_gather(Tensor *tensor);
void shard_release(Tensor *tensor);
/* The same in SHARD_STEPS steps, 0 first: what the gathers of one have begun is over before the next. */
enum { SHARD_STEPS = 3 };
int shard_gather_step(Tensor *tensor, int step);
/* Elements that a master has: the parameter's, or those of this rank's part. */
int64_t shard_master_elements(const Tensor *tensor);
/* Bytes of the whole parameter, of which those of this rank's part are kept. */
int shard_write(Tensor *tensor, int64_t first, int64_t bytes, const void *from);
/* The gradient is final in this backward: what each rank keeps of it is summed, and the rest freed. */
int shard_final(Tensor *leaf);

/* ---- Quantised weights (shard_quantized.c), of which a rank's part is an array by itself: its codes, and
 * the scales of those, which are the whole matrix's. */

int64_t quantized_unit_(const Tensor *tensor); /* elements that parts are multiples of */
uint64_t quantized_part_bytes_(const Tensor *tensor);
/* Bytes into which all parts are gathered, and how many regions those have. */
uint64_t quantized_gathered_bytes_(const Tensor *tensor);
int quantized_regions_(const Tensor *tensor);
/* Gathers a region. Regions are gathered in their order, each after the last one is there: what is padding
 * behind one lies where the next begins. 0, or raises. */
int quantized_gather_(Tensor *tensor, Storage *whole, int region);
/* Bytes of the whole matrix (quant_layout), of which those of this rank's part are kept. */
void quantized_write_(Tensor *tensor, int64_t first, int64_t bytes, const void *from);
/* The whole matrix in the host's memory (quantized_gathered_bytes_): all ranks come here, and nothing of it
 * is planned. And elements of it in the order that files have. */
int quantized_to_host_(const Tensor *tensor, void *whole);
void quantized_decode_host_(const Tensor *tensor, const void *whole, int64_t first, int64_t count,
                            float *values);

/* ---- Stages (stages.c). Those that return int: 0, or they raise --------------------------------- */

/* The storage, whose reference it takes over, leaves for that stage; the one before of this kind has arrived.
 */
int stage_start_(Context *context, StageMessage kind, int to, Storage *data, uint64_t bytes);
/* What is on its way has arrived, and its storage goes. */
int stage_settle_(Context *context, StageMessage kind);
int stage_take_(Context *context, StageMessage kind, int from, const Storage *data, uint64_t bytes);
/* The same of an activation or its gradient, of the type that the precision has for them; NULL: it raised. */
Tensor *stage_take_tensor_(Context *context, StageMessage kind, int from, Shape shape);
/* The gradient of a weight that the first and the last stage have becomes the sum of both. */
int stage_sum_tied_(Tensor *parameter);
int stages_room_(Context *context, int flights);
Flight *stages_flight_(Context *context, int micro);
/* The flight owns them from here on. */
void stages_hold_(Flight *flight, Tensor *x, Tensor *y);
void stages_drop_(Context *context); /* all micro-batches in flight go */
void stages_close_(Context *context);
/* A backward of this step begins, of which another stage has the loss. */
void stage_loss_begins_(Context *context);
/* All that was exchanged with the stage before, or after, as one number: equal at both ends. */
uint64_t stage_link_(const Context *context, int before);

#endif
