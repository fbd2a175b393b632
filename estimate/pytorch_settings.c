/* PYTORCH_ALLOC_CONF, read as c10/core/AllocatorConfig.h and CUDAAllocatorConfig.cpp read it, but for numbers
 * with something behind them, which are refused here. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/printable_.h"
#include "pytorch_allocator_.h"

enum { WORD = 64 };

typedef struct Reader {
    const char *at;
    char word[WORD]; /* the token that was read last; "" at the end */
    char key[WORD];
    PytorchAllocatorOptions *options;
    char *error;
    size_t error_size;
} Reader;

static int fail(const Reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int fail(const Reader *r, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    make_printable(text);
    if (r->error_size)
        snprintf(r->error, r->error_size, "PyTorch's allocator settings: %s", text);
    return -1;
}

static int is_mark(char c)
{
    return c == ',' || c == ':' || c == '[' || c == ']';
}

static int is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The next token: a mark, or what is between marks without its blanks. */
static int next(Reader *r)
{
    size_t length = 0;
    while (is_blank(*r->at))
        r->at++;
    if (is_mark(*r->at))
        r->word[length++] = *r->at++;
    else
        for (; *r->at && !is_mark(*r->at); r->at++) {
            if (is_blank(*r->at))
                continue;
            if (length == WORD - 1)
                return fail(r, "a word of more than %d letters", WORD - 1);
            r->word[length++] = *r->at;
        }
    r->word[length] = 0;
    return 0;
}

static int expect(Reader *r, char mark)
{
    if (next(r))
        return -1;
    if (r->word[0] == mark && !r->word[1])
        return 0;
    return fail(r, "%s wants '%c' here, not '%s'", r->key, mark, r->word);
}

/* ---- Values ---------------------------------------------------------------------------------- */

static int whole_number(const char *word, uint64_t *value)
{
    size_t digits = strspn(word, "0123456789");
    if (digits == 0 || digits > 10 || word[digits])
        return -1;
    *value = strtoull(word, NULL, 10);
    return 0;
}

static int read_mib(Reader *r, uint64_t least, uint64_t *bytes)
{
    uint64_t value;
    if (next(r))
        return -1;
    if (whole_number(r->word, &value))
        return fail(r, "%s is a whole number of MiB, not '%s'", r->key, r->word);
    if (value < least)
        return fail(r, "%s is at least %u here, not %u", r->key, (unsigned)least, (unsigned)value);
    *bytes = value * PYTORCH_MIB;
    return 0;
}

static int read_large_segment(Reader *r)
{
    return read_mib(r, 11, &r->options->large_segment_size);
}

static uint64_t large_segment_mib(const Reader *r)
{
    uint64_t bytes = r->options->large_segment_size;
    return bytes ? bytes / PYTORCH_MIB : 20;
}

static int read_max_split(Reader *r)
{
    return read_mib(r, large_segment_mib(r), &r->options->max_split_size);
}

static int read_rounding(Reader *r)
{
    return read_mib(r, large_segment_mib(r), &r->options->max_non_split_rounding);
}

static int read_fraction(Reader *r, double *value)
{
    char *end;
    if (next(r))
        return -1;
    *value = strtod(r->word, &end);
    if (end == r->word || *end || !isfinite(*value))
        return fail(r, "%s is a number, not '%s'", r->key, r->word);
    return 0;
}

static int read_threshold(Reader *r)
{
    double value;
    if (read_fraction(r, &value))
        return -1;
    if (value <= 0 || value >= 1)
        return fail(r, "%s is between 0 and 1, not '%s'", r->key, r->word);
    r->options->garbage_collection_threshold = value;
    return 0;
}

static int read_per_process(Reader *r)
{
    double value;
    if (read_fraction(r, &value))
        return -1;
    if (value <= 0 || value > 1)
        return fail(r, "%s is above 0 and at most 1, not '%s'", r->key, r->word);
    r->options->fraction = value;
    return 0;
}

static int read_expandable(Reader *r)
{
    if (next(r))
        return -1;
    if (strcmp(r->word, "True") && strcmp(r->word, "False"))
        return fail(r, "%s is True or False, not '%s'", r->key, r->word);
    r->options->expandable_segments = r->word[0] == 'T';
    return 0;
}

static int read_backend(Reader *r)
{
    if (next(r))
        return -1;
    if (strcmp(r->word, "native"))
        return fail(r, "only backend:native is replayed, not '%s'", r->word);
    return 0;
}

/* ---- roundup_power2_divisions ---------------------------------------------------------------- */

static int is_power(uint64_t value)
{
    return value && !(value & (value - 1));
}

static int read_divisions(Reader *r, int zero_too, uint32_t *divisions)
{
    uint64_t value;
    if (whole_number(r->word, &value) || value > UINT32_MAX || !(is_power(value) || (zero_too && !value)))
        return fail(r, "%s takes powers of two%s, not '%s'", r->key, zero_too ? " and 0" : "", r->word);
    *divisions = (uint32_t)value;
    return 0;
}

static void fill(Reader *r, int from, int to, uint32_t divisions)
{
    for (int i = from; i < to; i++)
        r->options->roundup_power2_divisions[i] = divisions;
}

/* One "MIB:DIVISIONS" of the list; the first holds for smaller sizes too, and ">" for all larger ones. */
static int read_interval(Reader *r, int *last)
{
    uint64_t mib = 0;
    int rest = !strcmp(r->word, ">"), interval = 0;
    uint32_t divisions = 0;
    if (!rest && (whole_number(r->word, &mib) || !is_power(mib)))
        return fail(r, "%s: an interval is a power of two in MiB or '>', not '%s'", r->key, r->word);
    if (expect(r, ':') || next(r) || read_divisions(r, 1, &divisions))
        return -1;
    while (mib >>= 1)
        interval++;
    if (interval >= PYTORCH_ROUNDUP_INTERVALS)
        interval = PYTORCH_ROUNDUP_INTERVALS - 1;
    if (rest)
        fill(r, (*last < 0 ? 0 : *last) + !r->options->as_2_6, PYTORCH_ROUNDUP_INTERVALS, divisions);
    else
        fill(r, *last < 0 ? 0 : interval, interval + 1, divisions);
    if (!rest)
        *last = interval;
    return 0;
}

static int read_roundup(Reader *r)
{
    uint32_t divisions = 0;
    fill(r, 0, PYTORCH_ROUNDUP_INTERVALS, 0);
    if (next(r))
        return -1;
    if (strcmp(r->word, "[")) {
        if (read_divisions(r, 0, &divisions))
            return -1;
        fill(r, 0, PYTORCH_ROUNDUP_INTERVALS, divisions);
        return 0;
    }
    int last = -1;
    if (next(r))
        return -1;
    while (strcmp(r->word, "]")) {
        if (read_interval(r, &last) || next(r))
            return -1;
        if (!strcmp(r->word, ",")) {
            if (next(r))
                return -1;
        } else if (strcmp(r->word, "]"))
            return fail(r, "%s: the list does not end with ']'", r->key);
    }
    return 0;
}

/* ---- Keys ------------------------------------------------------------------------------------ */

/* Of the host's memory, of locks and of CUDA graphs: nothing that the replay has. */
static int pass_over(Reader *r)
{
    if (next(r))
        return -1;
    return !r->word[0] || is_mark(r->word[0]) ? fail(r, "%s has no value", r->key) : 0;
}

static int not_replayed(Reader *r)
{
    return fail(r, "%s is not replayed: leave it out", r->key);
}

static const struct {
    const char *name;
    int (*read)(Reader *r);
} keys[] = {
    {"max_split_size_mb", read_max_split},
    {"max_non_split_rounding_mb", read_rounding},
    {"large_segment_size_mb", read_large_segment},
    {"garbage_collection_threshold", read_threshold},
    {"roundup_power2_divisions", read_roundup},
    {"expandable_segments", read_expandable},
    {"per_process_memory_fraction", read_per_process},
    {"backend", read_backend},
    {"throw_on_cudamalloc_oom", not_replayed},
    {"expandable_segments_reserve", not_replayed},
    {"expandable_segments_reserve_by_class", not_replayed},
    {"release_lock_on_cudamalloc", pass_over},
    {"release_lock_on_hipmalloc", pass_over},
    {"graph_capture_record_stream_reuse", pass_over},
    {"pinned_use_cuda_host_register", pass_over},
    {"pinned_use_hip_host_register", pass_over},
    {"pinned_use_background_threads", pass_over},
    {"pinned_num_register_threads", pass_over},
    {"pinned_reserve_segment_size_mb", pass_over},
    {"pinned_max_round_threshold_mb", pass_over},
    {"pinned_max_cached_size_mb", pass_over},
    {"pinned_free_catch_all", pass_over},
};

static int read_key(Reader *r)
{
    memcpy(r->key, r->word, sizeof r->key);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(r->key, keys[i].name))
            return expect(r, ':') || keys[i].read(r) ? -1 : 0;
    return fail(r,
                "there is no '%s'; there are max_split_size_mb, garbage_collection_threshold, "
                "roundup_power2_divisions, expandable_segments and others",
                r->key);
}

static int read_all(Reader *r)
{
    if (next(r))
        return -1;
    while (r->word[0]) {
        if (read_key(r) || next(r))
            return -1;
        if (r->word[0] && strcmp(r->word, ","))
            return fail(r, "%s: '%s' follows its value, not ','", r->key, r->word);
        if (next(r))
            return -1;
    }
    return 0;
}

int estimate_pytorch_settings(const char *text, PytorchAllocatorOptions *options, char *error,
                              size_t error_size)
{
    /* As PyTorch does, with what text does not name at its default; twice, for max_split_size_mb may stand
     * before the large_segment_size_mb that bounds it. */
    PytorchAllocatorOptions read = {
        .limit = options->limit, .total = options->total, .as_2_6 = options->as_2_6};
    Reader r = {.at = text, .options = &read, .error = error, .error_size = error_size};
    const char *large = strstr(text, "large_segment_size_mb");
    if (large) {
        Reader first = r;
        first.at = large;
        if (next(&first) || read_key(&first))
            return -1;
    }
    if (read_all(&r))
        return -1;
    *options = read;
    return 0;
}
