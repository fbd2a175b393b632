/* IDX images and labels. The first byte says which of the two the input is (the other is right), whether it
 * is plain, compressed by whoever wrote it, or compressed here, and how many images are kept. */
#include <zlib.h>

#include "../../data/data.h"
#include "fuzz.h"

#define IMAGES "train-images-idx3-ubyte"
#define LABELS "train-labels-idx1-ubyte"

static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 255};
static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 9, 0};

static void put(const char *name, const void *data, size_t size, int how)
{
    char packed[64];
    snprintf(packed, sizeof packed, "%s.gz", name);
    unlink(fuzz_path(name));
    unlink(fuzz_path(packed));
    if (how == 0)
        fuzz_put(name, data, size);
    else if (how == 1)
        fuzz_put(packed, data, size);
    else {
        gzFile file = gzopen(fuzz_path(packed), "wb1");
        fuzz_check(file && (!size || gzwrite(file, data, (unsigned)size) == (int)size) &&
                       gzclose(file) == Z_OK,
                   "cannot compress");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    int of_labels = data[0] & 1, how = (data[0] >> 1) % 3;
    put(IMAGES, of_labels ? images : data + 1, of_labels ? sizeof images : size - 1, of_labels ? 0 : how);
    put(LABELS, of_labels ? data + 1 : labels, of_labels ? size - 1 : sizeof labels, of_labels ? how : 0);
    fuzz_begin(data[0] >> 7);
    fuzz_fail_one(data, size);
    Loader *loader =
        data_images(fuzz_path(""), &(ImageOptions){.batch = 2, .max_samples = data[0] & 0x40 ? 3 : 0});
    fuzz_agree(!loader);
    for (int step = 0; loader && step < 3; step++)
        while (data_next(loader))
            ;
    fuzz_end();
    return 0;
}
