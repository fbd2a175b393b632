/* How long the samples of a job of PyTorch are. Its collators pad a batch to the longest sample in it, so the
 * longest of all decides: in a shuffled order it can be in any batch. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "../text/input_.h"
#include "input_.h"
#include "pytorch.h"

/* ---- Reading --------------------------------------------------------------------------------- */

/* Rows of a text, all of them as long. Returns an error code. */
static int measure_rows(const Options *o, DataLengths *out)
{
    int ids = is_bin(o->data);
    Tokenizer *tokenizer = o->tokenizer && !ids ? tokenizer_read(o->tokenizer) : NULL;
    const TextInput *input = ids || error_code() ? NULL : input_of(o);
    TokenOptions tokens = {.batch = 1,
                           .seq = o->seq,
                           .held_out = -1,
                           .max_samples = o->max_samples,
                           .tokenizer = tokenizer,
                           .vocab = nn_preset_vocab(&o->preset),
                           .input = input,
                           .replace_invalid = replaces_invalid(o)};
    TextOptions bytes = {
        .batch = 1, .seq = o->seq, .held_out = -1, .max_samples = o->max_samples, .input = input};
    if (error_code())
        return error_code();
    Loader *loader = o->tokenizer || ids ? data_tokens(o->data, &tokens) : data_text(o->data, &bytes);
    if (loader)
        *out = (DataLengths){
            .samples = data_samples(loader), .shortest = o->seq, .longest = o->seq, .texts = !ids};
    return error_code();
}

/* Reads --data. Returns an error code. */
static int measure(Options *o)
{
    int scope = tensor_scope_begin();
    if (is_csv(o))
        measure_csv(o, o->most, &o->lengths);
    else if (is_pairs(o))
        measure_pairs(o, o->most, &o->lengths);
    else if (!error_code())
        measure_rows(o, &o->lengths);
    tensor_scope_end(scope);
    return error_code();
}

static int check_longest(Options *o, int seq_typed)
{
    int positions = nn_preset_max_seq(&o->preset);
    if (seq_typed && o->longest > o->seq)
        return usage(
            "--longest %d is longer than --seq %d, at which samples are cut: the longest then has %d",
            o->longest, o->seq, o->seq);
    if (positions && o->longest > positions)
        return usage("--longest %d is longer than the %d position%s of %s", o->longest, positions,
                     plural(positions), o->model);
    o->seq = o->longest;
    return 0;
}

int pytorch_measure(Options *o, int seq_typed, int data_typed)
{
    int data = data_typed && strcmp(o->data, "builtin");
    if (!reads_text(o)) /* which there are no rules for */
        return 0;
    if (o->longest && data)
        return usage("--longest %d excludes --data %s, whose longest sample decides: leave one out",
                     o->longest, o->data);
    if (o->max_samples && !data)
        return usage("--max-samples needs --data FILE, whose samples are counted");
    if (o->longest)
        return check_longest(o, seq_typed);
    if (!data)
        return 0;
    o->most = seq_typed ? o->seq : nn_preset_max_seq(&o->preset);
    if (measure(o)) {
        say_error();
        return EXIT_USAGE;
    }
    if (!o->lengths.samples)
        return usage("--data %s has no sample", o->data);
    o->seq = o->lengths.longest < o->most ? (int)o->lengths.longest : o->most;
    if (o->lengths.samples < o->batch) {
        o->asked_batch = o->batch;
        o->batch = (int)o->lengths.samples;
    }
    return 0;
}

/* Without --data the others of its batch are as short as can be. */
int pytorch_pads(const Options *o, int batch)
{
    return batch > 1 && (o->longest || o->lengths.shortest < (o->lengths.samples ? o->seq : 0));
}

/* ---- In words -------------------------------------------------------------------------------- */

static void say_cut(SayLine *line, const Options *o)
{
    line_add(line, "  %s of them %s longer than %s%d%s, and cut there: that length decides.",
             report_count(o->lengths.longer).text, o->lengths.longer == 1 ? "is" : "are",
             o->most < nn_preset_max_seq(&o->preset) ? "--seq " : "the ", o->most,
             o->most < nn_preset_max_seq(&o->preset) ? "" : " positions of the model");
}

void pytorch_print_data(const Options *o)
{
    const DataLengths *l = &o->lengths;
    char path[FILE_LABEL];
    SayLine line = {""};
    if (pytorch_pads(o, o->batch) && o->longest)
        printf("The longest sample has %d tokens; the others of its batch are padded to it.\n", o->longest);
    if (!l->samples)
        return;
    text_input_label(path, o->data);
    line_add(&line, "%s: %s %s%s of ", path, report_count(l->samples).text, l->line ? "sample" : "row",
             plural(l->samples));
    if (l->shortest < l->longest)
        line_add(&line, "%" PRId64 " to ", l->shortest);
    line_add(&line, "%" PRId64 " tokens.", l->longest);
    if (l->longer)
        say_cut(&line, o);
    else if (l->shortest < l->longest)
        line_add(&line, "  The longest, on line %" PRId64 ", decides.", l->line);
    if (pytorch_pads(o, o->batch))
        line_add(&line, "  Shuffled, it can be in any batch, and the others there are padded to it.");
    if (o->asked_batch)
        line_add(&line, "  There are fewer than --batch %d: a batch has %d.", o->asked_batch, o->batch);
    if (l->texts && !o->tokenizer)
        line_add(&line, "  Its tokens are bytes: --tokenizer FILE counts those of the model.");
    say_line(&line);
}

json_t *pytorch_data_json(const Options *o)
{
    const DataLengths *l = &o->lengths;
    if (!l->samples)
        return json_null();
    return json_pack("{s:o, s:I, s:I, s:I, s:o, s:I, s:i, s:b, s:b}", "path", json_text(o->data), "samples",
                     (json_int_t)l->samples, "shortest", (json_int_t)l->shortest, "longest",
                     (json_int_t)l->longest, "longest_line",
                     l->line ? json_integer((json_int_t)l->line) : json_null(), "cut", (json_int_t)l->longer,
                     "decides", o->seq, "padded", pytorch_pads(o, o->batch), "bytes",
                     l->texts && !o->tokenizer);
}
