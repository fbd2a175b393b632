/* Images and labels of the MNIST family (LeCun's MNIST, Fashion-MNIST and others of the format) from a
 * directory. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../base/plural_.h"
#include "loader_.h"

#define MAKER             "data_images"
#define PACKAGE           "dataset-fashion-mnist"
#define PACKAGE_DIRECTORY "/usr/share/datasets/fashion-mnist"
#define PATH_SPACE        4096

typedef struct ImageSet {
    IdxArray images; /* values NULL on meta */
    IdxArray labels;
} ImageSet;

static int64_t fill_image(const void *dataset, SampleKey key, SampleRow row)
{
    const ImageSet *set = dataset;
    if (row.features) {
        int64_t width = set->images.rows * set->images.columns;
        const uint8_t *pixels = set->images.values + key.sample * width;
        for (int64_t i = 0; i < width; i++)
            row.features[i] = (float)pixels[i] / 255.0f;
        *row.labels = set->labels.values[key.sample];
    }
    return 1;
}

static void images_destroy(Context *context, void *dataset)
{
    ImageSet *set = dataset;
    idx_free(context, &set->images);
    idx_free(context, &set->labels);
    host_free(context, set, sizeof *set);
}

static const DatasetKind images = {fill_image, images_destroy};

const char *data_images_directory(const char *directory)
{
    struct stat status;
    int known = directory && strcmp(directory, "fashion-mnist") == 0;
    const char *set = known ? getenv("BRIM_FASHION_MNIST") : NULL;
    const char *found = !known ? directory : set && set[0] ? set : PACKAGE_DIRECTORY;
    if (!found)
        error_raise(ERROR_ARGUMENT,
                    MAKER ": directory is NULL; name one with IDX files, or \"fashion-mnist\"");
    else if (stat(found, &status) == 0 && S_ISDIR(status.st_mode))
        return found;
    else if (known)
        error_raise(ERROR_FILE,
                    "fashion-mnist is not in %s; install the Debian package (apt install " PACKAGE
                    "), or set BRIM_FASHION_MNIST to a directory with its four IDX files",
                    found);
    else
        error_raise(ERROR_FILE,
                    "%s is not a directory; name one with train-images-idx3-ubyte[.gz] and the like", found);
    return NULL;
}

/* Reads `keep` of directory/SPLIT-KIND-idxN-ubyte. */
static int images_read(const char *directory, DataSplit split, int dimensions, int64_t keep, IdxArray *array)
{
    char path[PATH_SPACE];
    int length = snprintf(path, sizeof path, "%s/%s-%s-idx%d-ubyte", directory,
                          split == DATA_HELD_OUT ? "t10k" : "train", dimensions == 3 ? "images" : "labels",
                          dimensions);
    if (length < 0 || length >= (int)sizeof path)
        return error_raise(ERROR_FILE, "a path of %d characters is too long", length);
    return idx_read(path, dimensions, keep, array);
}

/* Labels are few and read on meta, too: the number of classes is a shape. */
static int images_load(ImageSet *set, const char *directory, const ImageOptions *o)
{
    int code = images_read(directory, o->split, 1, -1, &set->labels);
    int64_t keep = context_here()->meta ? 0 : o->max_samples ? o->max_samples : -1;
    if (code == ERROR_NONE)
        code = images_read(directory, o->split, 3, keep, &set->images);
    if (code == ERROR_NONE) {
        int64_t count =
            o->max_samples && o->max_samples < set->images.count ? o->max_samples : set->images.count;
        host_later((size_t)(count * set->images.rows * set->images.columns));
    }
    if (code == ERROR_NONE && set->images.count != set->labels.count)
        code = error_raise(
            ERROR_DATA, "%s has %" PRId64 " %s image%s and %" PRId64 " label%s; they do not belong together",
            directory, set->images.count, o->split == DATA_HELD_OUT ? "t10k" : "train",
            plural(set->images.count), set->labels.count, plural(set->labels.count));
    return code;
}

static Loader *images_loader(ImageSet *set, const ImageOptions *o)
{
    int64_t samples = set->images.count, classes = 0;
    for (int64_t i = 0; i < set->labels.count; i++)
        if (set->labels.values[i] >= classes)
            classes = set->labels.values[i] + 1;
    if (o->max_samples && o->max_samples < samples)
        samples = o->max_samples;
    LoaderSetup setup = {.maker = MAKER,
                         .kind = &images,
                         .samples = samples,
                         .classes = classes,
                         .width = set->images.rows * set->images.columns,
                         .batch = o->batch,
                         .accumulate = o->accumulate,
                         .seed = o->seed,
                         .shuffle = o->split == DATA_TRAIN};
    return loader_create(&setup, set);
}

Loader *data_images(const char *directory, const ImageOptions *options)
{
    ImageOptions o = options ? *options : (ImageOptions){0};
    if (!context_here() || !loader_options(MAKER, &o.batch, 128, &o.accumulate, o.max_samples))
        return NULL;
    if (o.split != DATA_TRAIN && o.split != DATA_HELD_OUT) {
        error_raise(ERROR_ARGUMENT, MAKER ": split is %d; DATA_TRAIN or DATA_HELD_OUT", (int)o.split);
        return NULL;
    }
    const char *found = data_images_directory(directory);
    ImageSet *set = found ? host_alloc_for(MAKER, "the images' header", sizeof *set) : NULL;
    if (!set)
        return NULL;
    *set = (ImageSet){0};
    if (images_load(set, found, &o) != ERROR_NONE) {
        images_destroy(context_here(), set);
        return NULL;
    }
    return images_loader(set, &o);
}
