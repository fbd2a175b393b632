/* What the targets that load weights and adapters share: a file of tensors to be edited, one made of a
 * header, and whether a model has changed. */
#ifndef FUZZ_WEIGHTS_H
#define FUZZ_WEIGHTS_H

#include "../../io/safetensors.h"
#include "../tensor_data.h"
#include "fuzz_json.h"

enum { ITEMS = 96, NAME = 128, ELEMENTS = 4096 };

typedef struct File {
    SafetensorsItem item[ITEMS];
    char name[ITEMS][NAME];
    int count;
} File;

/* The elements of every tensor. */
static inline const float *fuzz_numbers(void)
{
    static float numbers[ELEMENTS];
    if (numbers[0] == 0)
        for (int i = 0; i < ELEMENTS; i++)
            numbers[i] = (float)(i % 61 + 1) / 8;
    return numbers;
}

/* Tensors of more elements than there are numbers would be read beyond them. */
static inline void fuzz_bound(File *file)
{
    for (int i = 0; i < file->count; i++) {
        int64_t n = 1;
        for (int k = 0; k < file->item[i].ndim; k++)
            n *= file->item[i].dim[k];
        if (n > ELEMENTS / 2) /* of eight bytes, at most */
            file->item[i].ndim = 0;
    }
}

/* A header with the length that belongs to it, and the bytes of the tensors. Returns the path. */
static inline const char *fuzz_headed(const char *name, const uint8_t *data, size_t size)
{
    FuzzParts parts = fuzz_parts(data, size);
    uint64_t length = parts.first_size;
    uint8_t *all = malloc(size + sizeof length);
    memcpy(all, &length, sizeof length);
    memcpy(all + sizeof length, parts.first, parts.first_size);
    memcpy(all + sizeof length + parts.first_size, parts.second, parts.second_size);
    const char *path = fuzz_put(name, all, sizeof length + parts.first_size + parts.second_size);
    free(all);
    return path;
}

/* FNV-1a of all parameters, which are floats. */
static inline uint64_t fuzz_bits(Module *model)
{
    uint64_t sum = 14695981039346656037u;
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++) {
        const unsigned char *bytes = (const unsigned char *)tensor_f32(list.items[i]);
        for (size_t k = 0; k < (size_t)tensor_numel(list.items[i]) * sizeof(float); k++)
            sum = (sum ^ bytes[k]) * 1099511628211u;
    }
    return sum;
}

#endif
