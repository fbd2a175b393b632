/* --data of texts and labels: a .csv or .tsv, where the model is of a family that classifies texts. It makes
 * the model a classifier of the labels that it finds. */
#include <string.h>
#include <strings.h>

#include "../base/file_.h"
#include "../base/plural_.h"
#include "input_.h"

/* Of one file: its classes, and how long its samples are, which only the first of many plans has to find out.
 */
static struct {
    DataLabels *labels;
    CsvSamples *samples;
    IoLabels names; /* of a model that was a classifier before */
    char data[PATH_BYTES], tokenizer[PATH_BYTES], described[PATH_BYTES];
    int replace, classes; /* classes: that the model brought */
} seen;

static int is_table(const char *path)
{
    size_t length = strlen(path);
    if (length > 3 && !strcasecmp(path + length - 3, ".gz"))
        length -= 3;
    return length > 4 &&
           (!strncasecmp(path + length - 4, ".csv", 4) || !strncasecmp(path + length - 4, ".tsv", 4));
}

int is_csv(const Options *o)
{
    return family_of(o)->classes_at && o->data && is_table(o->data);
}

int is_classifier(const Options *o)
{
    return reads_text(o) && nn_preset_objective(&o->preset) == OBJECTIVE_CLASSIFICATION;
}

void forget_csv(void)
{
    data_csv_samples_free(seen.samples);
    data_labels_free(seen.labels);
    io_labels_free(&seen.names);
    seen.samples = NULL;
    seen.labels = NULL;
}

const char *const *csv_label_names(const Options *o)
{
    return is_classifier(o) && seen.labels && data_labels_name(seen.labels, 0)
               ? data_labels_names(seen.labels)
               : NULL;
}

/* ---- The model ------------------------------------------------------------------------------- */

static int is_seen(const Options *o)
{
    const char *described = o->own_classes && o->described ? o->described : "";
    return seen.labels && !strcmp(seen.data, o->data) && seen.classes == o->own_classes &&
           seen.replace == replaces_invalid(o) && !strcmp(seen.described, described);
}

/* The names of its classes count, and its number of them, where the model is a classifier already. Returns an
 * error code. */
static int read_labels(const Options *o)
{
    const char *described = o->own_classes && o->described ? o->described : "";
    if (error_code() || is_seen(o))
        return error_code();
    forget_csv();
    const TextInput *input = input_of(o);
    if (!error_code() && described[0])
        io_read_labels(described, &seen.names);
    if (!error_code())
        seen.labels = data_csv_labels(
            o->data, &(CsvOptions){.classes = o->own_classes,
                                   .labels = seen.names.count ? (const char *const *)seen.names.names : NULL,
                                   .input = input,
                                   .replace_invalid = replaces_invalid(o)});
    snprintf(seen.data, sizeof seen.data, "%s", o->data);
    snprintf(seen.described, sizeof seen.described, "%s", described);
    seen.replace = replaces_invalid(o);
    seen.classes = o->own_classes;
    return error_code();
}

static int check_options(const Options *o)
{
    const char *one = o->loss_chunk ? "--loss-chunk" : o->skip_unlabelled ? "--skip-unlabelled" : NULL;
    if (o->pack)
        return usage("--pack puts samples side by side, and a classifier has one label a row: leave it out");
    if (one)
        return usage(
            "%s is about the logits of a vocabulary; '%s' classifies: it has %d classes, and each row "
            "has a label",
            one, o->model, nn_preset_classes(&o->preset));
    return 0;
}

int apply_classes(Options *o, int trains)
{
    int table = is_csv(o), classes = is_classifier(o) ? nn_preset_classes(&o->preset) : 0;
    o->own_classes = classes;
    if (!table && !classes)
        return 0;
    if (!table && (trains || strcmp(o->data, "builtin") != 0))
        return usage("'%s' is a classifier of %d classes, which learns from texts with labels: --data "
                     "labels.csv, whose first line is \"text,label\"",
                     o->model, classes);
    if (table && strchr(o->data, ',') && text_input_needed(o->data) && !is_directory(o->data))
        return usage("--data %s: of tables one is read, for each has a header", o->data);
    if (table && read_labels(o)) {
        say_error();
        return EXIT_USAGE;
    }
    if (table)
        nn_preset_set_classes(&o->preset, (int)data_labels_count(seen.labels));
    return check_options(o);
}

/* ---- The data -------------------------------------------------------------------------------- */

static int is_measured(const Options *o)
{
    const char *tokenizer = o->tokenizer ? o->tokenizer : "";
    return seen.samples && !strcmp(seen.tokenizer, tokenizer);
}

static const CsvSamples *measure(const Options *o, const CsvOptions *c)
{
    if (is_measured(o))
        return seen.samples;
    data_csv_samples_free(seen.samples);
    seen.samples = data_csv_samples(o->data, c);
    snprintf(seen.tokenizer, sizeof seen.tokenizer, "%s", o->tokenizer ? o->tokenizer : "");
    return seen.samples;
}

/* Bytes need the tokens that a tokenizer would have. */
static int check_bytes(const Options *o)
{
    int vocab = nn_preset_vocab(&o->preset);
    if (o->tokenizer || vocab >= TOKEN_VOCAB)
        return ERROR_NONE;
    return error_raise(
        ERROR_DATA,
        "%s is read as bytes, which are %d tokens with those around a text, and the model %s has "
        "%d: give its --tokenizer",
        o->data, TOKEN_VOCAB, o->model, vocab);
}

Loader *open_csv(const Options *o, Tokenizer *tokenizer, DataSplit split, int accumulate, int64_t max_samples)
{
    int meta = context_is_meta(context_current()), table = is_csv(o);
    if (table && read_labels(o)) /* of another model of a list those that were read last are no more */
        return NULL;
    if (table && o->tokenizer && !tokenizer &&
        !is_measured(o)) /* known from a plan that did not get so far */
        tokenizer = tokenizer_read(o->tokenizer);
    CsvOptions c = {.batch = o->batch,
                    .seq = o->seq,
                    .accumulate = accumulate,
                    .seed = o->seed,
                    .split = split,
                    .max_samples = max_samples,
                    .tokenizer = tokenizer,
                    .vocab = nn_preset_vocab(&o->preset),
                    .classes = table ? 0 : nn_preset_classes(&o->preset),
                    .known = table ? seen.labels : NULL,
                    .input = table ? input_of(o) : NULL,
                    .replace_invalid = replaces_invalid(o)};
    if (error_code() || (table && check_bytes(o)))
        return NULL;
    if (table && (meta || is_measured(o)))
        c.samples = measure(o, &c);
    return error_code() ? NULL : data_csv(o->data, &c);
}

int measure_csv(const Options *o, int64_t most, DataLengths *out)
{
    CsvOptions c = {.batch = o->batch,
                    .seq = (int)most,
                    .tokenizer = o->tokenizer ? tokenizer_read(o->tokenizer) : NULL,
                    .vocab = nn_preset_vocab(&o->preset),
                    .known = seen.labels,
                    .input = input_of(o),
                    .replace_invalid = replaces_invalid(o)};
    const CsvSamples *samples = error_code() || check_bytes(o) ? NULL : measure(o, &c);
    if (samples)
        *out = data_csv_summary(samples, o->max_samples, most);
    return error_code();
}
