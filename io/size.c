/* How much a saved run or an export is going to write, known from shapes before there is any data: whether
 * the disk has room for it is better asked before training than after. */
#include <string.h>

#include "saved_run_.h"
#include "weights_.h"

/* Of a tensor in a header: dtype, two offsets, punctuation, and so much a dimension; of a file: its metadata
 * and what rounds it up to blocks; of the JSON beside it. */
enum { ENTRY = 96, DIMENSION = 21, FILE_ROUND = 4096, JSON_FILE = 65536 };

static void add_file(IoSize *size, uint64_t bytes)
{
    bytes = (bytes / FILE_ROUND + 2) * FILE_ROUND;
    size->bytes += bytes;
    size->largest = bytes > size->largest ? bytes : size->largest;
}

static uint64_t eight_bit_states(TensorList list, const Optimizer *optimizer)
{
    uint64_t count = 0;
    for (int i = 0; i < list.count; i++)
        for (int k = 0; k < optim_state_arrays(optimizer); k++)
            count += (uint64_t)dtype_is_dynamic8(optim_state_type(optimizer, list.items[i], k));
    return count;
}

/* At most: beside what is the same for every run, of each tensor a part's size and checksum (of an 8-bit
 * state two), and of each parameter that it has a gradient of zeros. */
static uint64_t state_bytes(TensorList list, const Optimizer *optimizer)
{
    uint64_t bytes = JSON_FILE;
    for (int i = 0; i < list.count; i++)
        bytes += strlen(tensor_name(list.items[i])) + ENTRY +
                 (uint64_t)(optim_state_arrays(optimizer) + 2) * ENTRY;
    return bytes + eight_bit_states(optim_parameters(optimizer), optimizer) * ENTRY +
           eight_bit_states(optim_absent(optimizer), optimizer) * ENTRY;
}

IoSize io_saved_run_size(Module *model, const Optimizer *optimizer)
{
    IoSize size = {0};
    uint64_t files[SAVED_FILES] = {0};
    if (error_code() || saved_run_bytes(model, optimizer, files))
        return (IoSize){0};
    TensorList list = saved_run_parameters(model);
    add_file(&size, files[0]);
    add_file(&size, files[1]);
    add_file(&size, state_bytes(list, optimizer));
    size.model = files[0];
    size.optimizer = files[1];
    return size;
}

/* What an export writes, in as many tensors as files have. */
typedef struct Pieces {
    uint64_t headers, data, widest;
    int count;
} Pieces;

static Pieces all_pieces(const Module *model, TensorList list, int element)
{
    const FamilyNames *family = family_names(nn_class_name(model));
    Pieces all = {.count = file_piece_count(family, list)};
    for (int i = 0; i < list.count; i++)
        for (int k = 0; k < file_pieces(family, list.items[i]); k++) {
            FilePiece piece = file_piece(family, list.items[i], k);
            uint64_t bytes = (uint64_t)shape_numel(piece.shape) * (uint64_t)element;
            all.headers += strlen(piece.name) + ENTRY + (uint64_t)piece.shape.ndim * DIMENSION;
            all.data += bytes;
            all.widest = bytes > all.widest ? bytes : all.widest;
        }
    return all;
}

/* At most: a shard is as large as it may be or its one tensor is, and has the header of all. */
static void cut_into_shards(IoSize *size, const Pieces *all, uint64_t most)
{
    if (all->data <= most)
        return;
    size->largest = (all->widest > most ? all->widest : most) + all->headers + 2 * FILE_ROUND;
    size->bytes +=
        all->headers + (uint64_t)all->count * 2 * FILE_ROUND; /* the index, and what each is rounded up */
}

IoSize io_weights_size(Module *model, SafetensorsType type, uint64_t shard)
{
    IoSize size = {0};
    TensorList list = nn_parameters(model);
    if (error_code())
        return size;
    Pieces all = all_pieces(model, list, type == SAFETENSORS_F32 ? 4 : 2);
    add_file(&size, all.headers + all.data);
    cut_into_shards(&size, &all, shard ? shard : SAFETENSORS_SHARD);
    add_file(&size, JSON_FILE);
    return size;
}
