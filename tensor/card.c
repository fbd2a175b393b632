/* A context on a card: opening it, room for its kernels, and the end of a step. */
#include "card_.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../device/cards.h"
#include "../device/graph.h"
#include "../kernels/kernels.h"
#include "ranks_.h"

enum {
    STAGING_BYTES = 4 << 20,      /* of host memory that copies pass through */
    STAGING_ALIGN = 4096,         /* a page of the host's */
    WORKSPACE_ALIGN = 256,        /* cuBLAS's */
    STATE_BYTES = WORKSPACE_ALIGN /* of StepState */
};
_Static_assert(sizeof(StepState) <= STATE_BYTES, "the step's state has its room");

/* ---- Opening --------------------------------------------------------------------------------- */

/* The number of the card that this context, of one of several ranks, is for. */
static int ordinal_of(const ContextOptions *options)
{
    const Ranks *ranks = options->ranks;
    return ranks && ranks->transport ? device_rank_ordinal(options->device, ranks->node_rank)
                                     : device_cuda_ordinal(options->device);
}

static int planned_capability(const ContextOptions *options, char *why, size_t size)
{
    char device[24];
    snprintf(device, sizeof device, "cuda:%d", ordinal_of(options));
    int capability = device_planned_capability(device, options->card);
    if (capability >= CUDA_OLDEST)
        return capability;
    if (capability < 0)
        snprintf(why, size, "%s", device_card_unknown(options->card).text);
    else
        snprintf(why, size,
                 "brim's kernels are for NVIDIA cards of compute capability 7.5 and later, and the %s %s",
                 options->card ? device_card(options->card)->title : "card of this machine",
                 capability ? "is older" : "is not one");
    return -1;
}

static int stage(Context *context, char *why, size_t size)
{
    ContextCard *card = context->card;
    size_t bytes = STAGING_BYTES + STAGING_ALIGN;
    card->staging = memtrack_host_alloc(context->tracker, bytes);
    if (!card->staging) {
        snprintf(why, size, "no host memory for %zu bytes that copies to the card pass through", bytes);
        return -1;
    }
    uintptr_t start = ((uintptr_t)card->staging + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
    int e = cuda_stage(&card->device, (void *)start, STAGING_BYTES);
    if (e) {
        char text[96];
        cuda_error_text(e, text, sizeof text);
        snprintf(why, size, "the driver does not pin %d bytes of host memory: %s", (int)STAGING_BYTES, text);
    }
    return e ? -1 : 0;
}

int card_open_(Context *context, const ContextOptions *options, char *why, size_t size)
{
    ContextCard *card = memtrack_host_calloc(NULL, sizeof *card); /* outlives the ledger */
    const char *sync = getenv("BRIM_CUDA_SYNC");
    context->card = card;
    if (!card) {
        snprintf(why, size, "no host memory for a card");
        return -1;
    }
    context->host_later += context->meta ? STAGING_BYTES + STAGING_ALIGN : 0;
    if (context->meta) {
        card->capability = planned_capability(options, why, size);
        return card->capability < 0 ? -1 : 0;
    }
    if (kernels_cuda_open(&card->device, ordinal_of(options), why, size))
        return -1;
    card->capability = card->device.capability;
    card->sync = sync && atoi(sync);
    card->memory = device_memory(&card->device);
    int graphs = !card->sync && !options->no_graphs && options->memory == MEMTRACK_RESERVED;
    if (graphs && cuda_graphs_begin(&card->device)) {
        snprintf(why, size, "no host memory for graphs");
        return -1;
    }
    context->run.device = &card->device;
    return stage(context, why, size);
}

void card_unstage_(Context *context)
{
    ContextCard *card = context->card;
    if (!card || !card->staging)
        return;
    cuda_wait(&card->device);
    cuda_stage(&card->device, NULL, 0);
    memtrack_host_free(context->tracker, card->staging, STAGING_BYTES + STAGING_ALIGN);
    card->staging = NULL;
}

void card_close_(Context *context)
{
    ContextCard *card = context->card;
    if (!card)
        return;
    if (card->device.stream)
        cuda_close(&card->device);
    memtrack_host_free(NULL, card, sizeof *card);
    context->card = NULL;
}

CudaUse context_device_use(const Context *context)
{
    return context->card ? cuda_in_use(&context->card->device) : (CudaUse){.counter = CUDA_COUNTERS};
}

/* ---- Room ------------------------------------------------------------------------------------ */

static const StepState clean = {.fault = ~0ull};

/* The step's state comes first, then scratch, then cuBLAS's workspace. */
StepState *card_state_(const Context *context)
{
    uintptr_t start = (uintptr_t)storage_data(context->card->room);
    return (StepState *)((start + WORKSPACE_ALIGN - 1) / WORKSPACE_ALIGN * WORKSPACE_ALIGN);
}

static void write_at(const Context *context, void *to, size_t bytes, const void *from)
{
    const MemDevice *memory = &context->card->memory;
    memory->write(memory->user, to, bytes, from);
}

static void write_state(const Context *context, const StepState *state)
{
    write_at(context, card_state_(context), sizeof *state, state);
}

int card_begin_(Context *context)
{
    ContextCard *card = context->card;
    if (card->room)
        return 0;
    size_t workspace = cuda_workspace_bytes(card->capability);
    int path = memtrack_path_set(context->tracker, 0);
    const char *op = memtrack_op_set(context->tracker, "card");
    card->room = storage_raw_(context, (int64_t)(WORKSPACE_ALIGN + STATE_BYTES + CUDA_SCRATCH + workspace),
                              MEM_BUFFER);
    memtrack_op_set(context->tracker, op);
    memtrack_path_set(context->tracker, path);
    if (!card->room)
        return error_code();
    if (context->meta)
        return 0;
    CudaPointer state = (CudaPointer)(uintptr_t)card_state_(context), scratch = state + STATE_BYTES;
    if (cuda_lend(&card->device, scratch, scratch + CUDA_SCRATCH, workspace))
        return error_raise(ERROR_STATE, "cuBLAS does not take its workspace of %zu bytes", workspace);
    context->run.fault = (int64_t *)(uintptr_t)state; /* the first member */
    context->run.operation = 0;
    card->state = clean;
    write_state(context, &clean);
    return 0;
}

void card_end_(Context *context)
{
    ContextCard *card = context->card;
    if (!card || !card->room)
        return;
    if (!context->meta) {
        cuda_wait(&card->device);
        cuda_lend(&card->device, 0, 0, 0);
    }
    storage_release(context, card->room);
    card->room = NULL;
    card->unread = 0;
}

/* ---- What operations put down ---------------------------------------------------------------- */

static unsigned long long word(const char *text)
{
    return (unsigned long long)(uintptr_t)text;
}

static const char *text_of(unsigned long long tag)
{
    return (const char *)(uintptr_t)tag;
}

void card_note_fault_(Context *context, const OpCall *call)
{
    StepTag tag = {.what = (unsigned long long)(uintptr_t)call->row,
                   .name = word(context->module_kind),
                   .path = memtrack_path(context->tracker)};
    cuda_step_fault(card_state_(context), call->in[call->row->checked], tag, call->run);
}

/* Calls with each tensor that the tape keeps, in the order in which they were computed. */
static int64_t each_kept(const Tape *tape, StepEntry *entry, int64_t room)
{
    int64_t count = 0;
    for (int i = 0; i < tape->count; i++) {
        const Node *node = &tape->nodes[i];
        for (int k = 0; k < OP_MAX_INPUTS; k++) {
            const Tensor *in = node->in[k];
            if (!in || !dtype_is_float(in->dtype))
                continue;
            const Storage *kept = tape_kept_input(node, k);
            const char *row = node->call.row ? node->call.row->name : "a module";
            if (entry && kept && kept->block.data && count < room)
                entry[count] = (StepEntry){.values = kept->block.data,
                                           .n = shape_numel(in->shape),
                                           .row = in->shape.dim[in->shape.ndim - 1],
                                           .padding = in->padding,
                                           .type = in->dtype,
                                           .tag = {.what = word(in->leaf ? row : in->op),
                                                   .name = in->leaf ? word(tensor_name(in)) : 0,
                                                   .path = in->leaf ? node->path : in->path,
                                                   .parameter = in->component == MEM_PARAMETER}};
            count += entry ? kept && kept->block.data && count < room : 1;
        }
    }
    return count;
}

uint64_t card_entries_bytes_(const Tape *tape)
{
    int64_t count = each_kept(tape, NULL, 0);
    return sizeof(StepEntry) * (uint64_t)(count > 0 ? count : 1);
}

void card_note_loss_(Context *context, const Tensor *loss, const Storage *entries)
{
    ContextCard *card = context->card;
    size_t bytes = (size_t)entries->block.requested;
    StepEntry *entry = host_alloc_for("tensor_backward", "the list of what the loss depends on", bytes);
    if (!entry)
        return;
    int64_t count = each_kept(context->tape, entry, (int64_t)(bytes / sizeof *entry));
    if (count > 0)
        storage_write(entries, 0, (uint64_t)count * sizeof *entry, entry);
    host_free(context, entry, bytes);
    card->unread = 1;
    cuda_step_loss(card_state_(context), storage_data(loss->storage), storage_data(entries), count,
                   &context->run);
}

/* ---- What the host sees ---------------------------------------------------------------------- */

static int raise_device(Context *context, const char *op)
{
    char text[240];
    if (!context->card->device.error)
        return 0;
    cuda_failure(&context->card->device, text, sizeof text);
    if (op)
        return error_raise(ERROR_STATE, "%s failed on the card: %s", op, text);
    if (context->card->sync)
        return error_raise(ERROR_STATE, "an update or a copy failed on the card: %s", text);
    return error_raise(
        ERROR_STATE,
        "a kernel or a copy failed on the card: %s; BRIM_CUDA_SYNC=1 waits after each operation "
        "and names it",
        text);
}

int card_answers_(Context *context)
{
    return context && context->card && context->card->device.error ? raise_device(context, NULL)
                                                                   : error_code();
}

int card_check_op_(Context *context, const char *op)
{
    if (!context->card->sync || context->error)
        return context->error;
    cuda_wait(&context->card->device);
    return raise_device(context, op);
}

static int raise_fault(Context *context, const StepState *s)
{
    const OpRow *row = (const OpRow *)(uintptr_t)s->faulty.what;
    int64_t element = (int64_t)(s->fault & ((1ull << FAULT_BITS) - 1));
    if (!row)
        return error_raise(ERROR_INDEX, "element %" PRId64 " of an operation's input is out of range",
                           element);
    const char *kind = context->module_kind;
    memtrack_path_set(context->tracker, s->faulty.path);
    context->module_kind = text_of(s->faulty.name);
    error_raise(ERROR_INDEX, "%s: element %" PRId64 " is %" PRId32 "; %s", row->name, element, s->fault_value,
                row->checked_range);
    context->module_kind = kind;
    return context->error;
}

static int raise_loss(Context *context, const StepState *s)
{
    const StepTag *from = &s->blamed;
    if (from->what)
        memtrack_path_set(context->tracker, from->path);
    return loss_raise_(s->bad_loss, text_of(from->what), text_of(from->name), from->parameter);
}

int card_read_(Context *context)
{
    ContextCard *card = context->card;
    if (!card->room || context->error)
        return context->error;
    const MemDevice *memory = &card->memory;
    memory->read(memory->user, card_state_(context), sizeof card->state, &card->state);
    if (card->unread)
        context->step_loss = card->state.loss;
    card->unread = 0;
    int path = memtrack_path(context->tracker);
    const StepState *s = &card->state;
    if (!raise_device(context, NULL) && s->fault != clean.fault)
        raise_fault(context, s);
    else if (!context->error && s->is_bad)
        raise_loss(context, s);
    memtrack_path_set(context->tracker, path);
    if (context->error)
        card_step_end(context); /* whoever goes on after the error begins another step */
    return context->error;
}

int card_look(Context *context)
{
    ContextCard *card = context->card;
    const MemDevice *memory = &card->memory;
    if (context->meta || !card->room || card->device.error)
        return -1;
    memory->read(memory->user, card_state_(context), sizeof card->state, &card->state);
    return card->device.error ? -1 : 0;
}

int card_took_effect(const Context *context, int64_t operation)
{
    const StepState *s = &context->card->state;
    return context->meta ||
           (!s->is_bad && (s->fault == clean.fault || operation < (int64_t)(s->fault >> FAULT_BITS)));
}

void card_step_end(Context *context)
{
    if (context->meta || !context->card->room)
        return;
    context->run.operation = 0;
    write_state(context, &clean);
}

void card_find_control(Context *context, const double *squares, int64_t count, double scale, float max_norm)
{
    if (!context->meta)
        cuda_step_control(card_state_(context), squares, count, scale, max_norm, &context->run);
}

/* The step's own wait, in which ranks wait for each other where one of them is late. */
static int wait_for_ranks(Context *context)
{
    const Transport *t = context->ranks->is.transport;
    ranks_waiting_(t,
                   &(RanksWait){.what = "waiting for their cards", .number = context->ranks->traffic.calls});
    int failed = card_read_(context);
    ranks_done_(t);
    return failed ? failed : carry_check_(context);
}

int card_agree(Context *context, double scale, float max_norm, double *squares)
{
    const StepState *s = &context->card->state;
    int bad = 0;
    *squares = -1;
    if (!context->ranks || context->ranks->is.size == 1)
        return 0;
    *squares = 0;
    if (!context->meta && wait_for_ranks(context))
        return context->error;
    if (!context->meta) {
        bad = s->control.skip;
        *squares = s->squares;
    }
    if (ranks_agree_(context, squares, &bad) || context->meta)
        return error_code();
    double norm = sqrt(*squares) / scale, most = (double)max_norm / (norm + 1e-6);
    UpdateControl control = {.skip = bad || !isfinite(*squares),
                             .grad_scale = (float)((max_norm > 0 && most < 1 ? most : 1) / scale)};
    write_at(context, &card_state_(context)->control, sizeof control, &control);
    return error_code();
}

const struct UpdateControl *card_control(const Context *context)
{
    return &card_state_(context)->control;
}

int card_step_read(Context *context, int *skip, double *squares)
{
    int several = context->ranks && context->ranks->is.transport; /* gathers of weights are on the stream */
    *skip = 0;
    *squares = 0;
    if (context->meta || (several ? wait_for_ranks(context) : card_read_(context)))
        return context->error;
    *skip = context->card->state.control.skip;
    *squares = context->card->state.squares;
    return 0;
}

void card_read_count(const KernelRun *run, const int64_t *at, int64_t most, int64_t *count)
{
    cuda_read(run->device, (CudaPointer)(uintptr_t)at, sizeof *count, count);
    *count = *count < 0 ? 0 : *count > most ? most : *count; /* after a fault it may be anything */
}

int64_t card_find_nonfinite(Context *context, DType type, int64_t n, const void *values)
{
    const MemDevice *memory = &context->card->memory;
    int64_t *at = &card_state_(context)->index, index = -1;
    context->kernels->find_nonfinite(type, n, values, at, &context->run);
    memory->read(memory->user, at, sizeof index, &index);
    return index;
}

void card_decode_(Context *context, const StoredArray *from, int transposed, int64_t first, int64_t count,
                  float *values)
{
    const Kernels *k = context->kernels;
    ContextCard *card = context->card;
    enum { PIECE = CUDA_SCRATCH / (int)sizeof(float) };
    float *scratch = (float *)(uintptr_t)card->device.scratch;
    if (from->dtype == DTYPE_F32 && !transposed) {
        card->memory.read(&card->device, (const float *)from->at + first, (uint64_t)count * sizeof(float),
                          values);
        card_answers_(context);
        return;
    }
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done < PIECE ? count - done : PIECE;
        (transposed ? k->decode_transposed : k->decode)(from, first + done, n, scratch, &context->run);
        card->memory.read(&card->device, scratch, (uint64_t)n * sizeof(float), values + done);
    }
    card_answers_(context);
}

int64_t card_fault_(Context *context)
{
    ContextCard *card = context->card;
    const MemDevice *memory = &card->memory;
    unsigned long long fault;
    memory->read(memory->user, card_state_(context), sizeof fault, &fault);
    if (raise_device(context, NULL) || fault >> FAULT_BITS != (unsigned long long)context->run.operation)
        return -1;
    fault &= (1ull << FAULT_BITS) - 1;
    memory->write(memory->user, card_state_(context), sizeof clean.fault, &clean.fault);
    return (int64_t)fault;
}
