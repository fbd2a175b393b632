/* --data of JSON lines: prompts and completions, or ids and labels. They are told by what is in the file. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../base/file_.h"
#include "../base/file_kind_.h"
#include "../io/special_.h"
#include "input_.h"

/* How long the samples are, which only the first of many plans has to find out. */
static struct {
    PairsLengths *lengths;
    char data[PATH_BYTES], tokenizer[PATH_BYTES];
    int replace;
    int64_t vocab; /* that all ids are below */
} measured;

/* The first bytes of a plain file; 0 where there are none to read. */
static size_t read_head(const char *path, uint8_t head[FILE_HEAD])
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t got = file < 0 ? -1 : pread(file, head, FILE_HEAD, 0);
    if (file >= 0)
        close(file);
    return got > 0 ? (size_t)got : 0;
}

int is_pairs(const Options *o)
{
    uint8_t head[FILE_HEAD];
    size_t count = 0;
    if (!reads_text(o) || !strcmp(o->data, "builtin") || is_bin(o->data) || is_classifier(o))
        return 0;
    const TextInput *input = input_of(o);
    if (input) {
        const char *text = text_input_text(input, &count);
        count = count < FILE_HEAD ? count : FILE_HEAD;
        memcpy(head, text, count);
    } else {
        count = read_head(o->data, head);
    }
    const FileKind *kind = file_kind(head, count, 0, 1);
    return kind && kind->file_class == FILE_PAIRS;
}

LeverText pairs_problem(const Options *o)
{
    LeverText why = {""};
    int pairs = is_pairs(o);
    if (o->pack && !pairs)
        snprintf(why.text, sizeof why.text,
                 "--pack puts samples side by side: it needs --data FILE.jsonl, with a \"prompt\" and a "
                 "\"completion\" a line; rows of %s are full without it",
                 reads_text(o) ? "a text" : "images");
    else if (pairs && nn_preset_objective(&o->preset) == OBJECTIVE_MASKED)
        snprintf(
            why.text, sizeof why.text,
            "--data %.100s is JSON lines of samples, whose completions a causal model learns to continue "
            "prompts with; '%s' finds masked tokens of a text: take the texts out of it, or another --model",
            o->data, o->model);
    return why;
}

int check_pairs_options(const Options *o)
{
    LeverText why = text_input_needed(o->data) ? (LeverText){""} : pairs_problem(o);
    return why.text[0] ? usage("%s", why.text) : 0;
}

/* What tokenizer_config.json says; NULL: the usual one that the tokenizer has. */
static const char *end_token(const Options *o, char text[SPECIAL_TEXT])
{
    return o->tokenizer && special_eos_read(o->tokenizer, text) > 0 ? text : NULL;
}

static int is_measured(const Options *o)
{
    const char *tokenizer = o->tokenizer ? o->tokenizer : "";
    return measured.lengths && !strcmp(measured.data, o->data) && !strcmp(measured.tokenizer, tokenizer) &&
           measured.replace == replaces_invalid(o) && measured.vocab <= nn_preset_vocab(&o->preset);
}

void forget_pairs(void)
{
    data_pairs_lengths_free(measured.lengths);
    measured.lengths = NULL;
}

static const PairsLengths *measure(const Options *o, const PairsOptions *p)
{
    if (is_measured(o))
        return measured.lengths;
    PairsLengths *lengths = data_pairs_lengths(o->data, p);
    if (!lengths)
        return NULL;
    forget_pairs();
    measured.lengths = lengths;
    snprintf(measured.data, sizeof measured.data, "%s", o->data);
    snprintf(measured.tokenizer, sizeof measured.tokenizer, "%s", o->tokenizer ? o->tokenizer : "");
    measured.replace = replaces_invalid(o);
    measured.vocab = nn_preset_vocab(&o->preset);
    return lengths;
}

/* All but the part of the file, and where a completion ends. */
static PairsOptions pairs_options(const Options *o, Tokenizer *tokenizer, char eos[SPECIAL_TEXT])
{
    PairsOptions p = {.batch = o->batch,
                      .seq = o->seq,
                      .seed = o->seed,
                      .pack = o->pack,
                      .tokenizer = tokenizer,
                      .vocab = nn_preset_vocab(&o->preset),
                      .input = input_of(o),
                      .replace_invalid = replaces_invalid(o)};
    if (!error_code())
        p.eos = tokenizer ? end_token(o, eos) : NULL;
    return p;
}

Loader *open_pairs(const Options *o, Tokenizer *tokenizer, DataSplit split, int accumulate,
                   int64_t max_samples)
{
    char eos[SPECIAL_TEXT];
    if (o->tokenizer && !tokenizer && !is_measured(o)) /* known from a plan that did not get to its samples */
        tokenizer = tokenizer_read(o->tokenizer);
    PairsOptions p = pairs_options(o, tokenizer, eos);
    p.split = split;
    p.accumulate = accumulate;
    p.max_samples = max_samples;
    if (!error_code() && context_is_meta(context_current()))
        p.lengths = measure(o, &p);
    return error_code() ? NULL : data_pairs(o->data, &p);
}

int measure_pairs(const Options *o, int64_t most, DataLengths *out)
{
    char eos[SPECIAL_TEXT];
    PairsOptions p = pairs_options(o, o->tokenizer ? tokenizer_read(o->tokenizer) : NULL, eos);
    const PairsLengths *lengths = error_code() ? NULL : measure(o, &p);
    if (lengths)
        *out = data_pairs_summary(lengths, o->max_samples, most);
    return error_code();
}
