/* What the classes of a sequence classifier are called, in and out of a config.json: id2label and label2id.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tensor/tensor_.h"
#include "family_.h"

enum { CONFIG_MOST = 1 << 20, CLASSES_MOST = 1 << 20, USUAL_CLASSES = 2 };

/* ---- In a configuration ---------------------------------------------------------------------- */

/* Its entry for class i; NULL = none. */
static const char *name_at(const json_t *id2label, int64_t i)
{
    char key[24];
    snprintf(key, sizeof key, "%lld", (long long)i);
    return json_string_value(json_object_get(id2label, key));
}

/* The classes of id2label, each with a name; -1 where that is not what it is. */
static int count_names(const json_t *id2label)
{
    int64_t count = (int64_t)json_object_size(id2label);
    for (int64_t i = 0; i < count; i++)
        if (!name_at(id2label, i))
            return -1;
    return count > 0 && count <= CLASSES_MOST ? (int)count : -1;
}

static int count_classes(Fields *f)
{
    const json_t *names = fields_get(f, "id2label");
    if (!names || json_is_null(names))
        return fields_count(f, "num_labels", USUAL_CLASSES, 1, CLASSES_MOST);
    int count = count_names(names);
    if (count < 0)
        fields_fail(
            f, "id2label must give each class from 0 on a name, {\"0\": \"negative\", \"1\": \"positive\"}");
    return count;
}

void read_classes(Fields *f, const ConfigType *type)
{
    static const char single[] = "single_label_classification";
    const json_t *list = json_object_get(f->object, "architectures");
    const char *class = json_string_value(json_array_get(list, 0));
    if (!class || !type->classifier || strcmp(class, type->classifier) != 0)
        return;
    int classes = count_classes(f);
    const char *problem = fields_null(f, "problem_type") ? single : fields_text(f, "problem_type", single);
    if (!strcmp(problem, "regression") || (classes == 1 && !f->failed))
        fields_fail(f,
                    "%s with %s learns a number (a regression), which is not computed; a classifier of one "
                    "of several labels is: problem_type \"%s\", and id2label with a name for each",
                    class, strcmp(problem, "regression") ? "one label" : "problem_type \"regression\"",
                    single);
    else if (strcmp(problem, single) != 0)
        fields_fail(f, "problem_type is %s: of a classifier \"%s\" is computed, one label a sample",
                    string_text(problem).text, single);
    else if (!f->failed)
        nn_preset_set_classes(&f->model->preset, classes);
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* Whether they say more than the numbers: "LABEL_0" is what transformers calls a class without a name. */
static int are_names(const json_t *id2label, int count)
{
    for (int i = 0; i < count; i++) {
        char usual[32];
        snprintf(usual, sizeof usual, "LABEL_%d", i);
        if (strcmp(name_at(id2label, i), usual) != 0)
            return 1;
    }
    return 0;
}

static char *copy_name(const char *name)
{
    char *copy = memtrack_host_strdup(NULL, name);
    if (!copy)
        error_raise(ERROR_HOST_MEMORY, "no host memory for the names of classes");
    return copy;
}

static int take_names(const json_t *id2label, IoLabels *labels)
{
    int count = count_names(id2label);
    if (count < 0 || !are_names(id2label, count))
        return ERROR_NONE;
    labels->names = memtrack_host_calloc(NULL, (size_t)count * sizeof *labels->names);
    if (!labels->names)
        return error_raise(ERROR_HOST_MEMORY, "no host memory for the names of classes");
    labels->count = count;
    for (int i = 0; i < count; i++)
        if (!(labels->names[i] = copy_name(name_at(id2label, i))))
            return error_code();
    return ERROR_NONE;
}

int io_read_labels(const char *path, IoLabels *labels)
{
    char file[PATH_BYTES], shown[FILE_LABEL];
    if (!path || !labels)
        return error_raise(ERROR_ARGUMENT, "io_read_labels(): %s is NULL", path ? "labels" : "path");
    *labels = (IoLabels){0};
    if (config_resolve(path, file))
        return error_code();
    path_label(shown, file);
    json_t *root = json_read_file(file, shown, "a config.json", CONFIG_MOST);
    if (!root)
        return error_code();
    int status = take_names(json_object_get(root, "id2label"), labels);
    json_decref(root);
    if (status)
        io_labels_free(labels);
    return status;
}

void io_labels_free(IoLabels *labels)
{
    if (!labels)
        return;
    for (int i = 0; i < labels->count; i++)
        if (labels->names[i])
            memtrack_host_free(NULL, labels->names[i], strlen(labels->names[i]) + 1);
    if (labels->names)
        memtrack_host_free(NULL, labels->names, (size_t)labels->count * sizeof *labels->names);
    *labels = (IoLabels){0};
}

/* ---- Out ------------------------------------------------------------------------------------- */

/* Both directions, as transformers writes them: what it reads is id2label. */
void put_labels(json_t **set, const json_t *source, const ModelPreset *preset, const char *const *names)
{
    int classes = nn_preset_classes(preset);
    const json_t *there = json_object_get(source, "id2label");
    if (!names && count_names(there) == classes)
        return; /* they stay what they are called */
    json_t *id2label = json_object(), *label2id = json_object();
    for (int i = 0; i < classes; i++) {
        char key[24], usual[32];
        snprintf(key, sizeof key, "%d", i);
        snprintf(usual, sizeof usual, "LABEL_%d", i);
        const char *name = names ? names[i] : usual;
        if (id2label)
            config_put(&id2label, key, json_string(name));
        if (label2id)
            config_put(&label2id, name, json_integer(i));
    }
    if (!id2label || !label2id || !json_equal(id2label, there)) {
        config_put(set, "id2label", id2label);
        config_put(set, "label2id", label2id);
        return;
    }
    json_decref(id2label);
    json_decref(label2id);
}
