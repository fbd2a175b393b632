/* Patterns: compiled with PCRE2 from what tokenizer_rewrite.c makes of them, and matched.
 *
 * A match that backtracks too much is an error, not a wait, and so is a text at whose places many do: see
 * STEPS_MAX.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tokenizer_.h"
#include "tokenizer_rewrite_.h"

enum {
    PATTERN_BYTES = 1 << 16,
    STEPS_FEW = 1 << 10, /* of backtracking at one place: what is within it is not counted */
    STEPS_MAX = 4 * 1000 * 1000,
    STEPS_TEXT = 16 * STEPS_MAX, /* at all places of a text together, and STEPS_BYTE for each of its bytes */
    STEPS_BYTE = 64,
    STACK_MIN = 32 << 10,
    STACK_MAX = 8 << 20
};

struct Pattern {
    Context *context;
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    pcre2_code *code;
    pcre2_match_data *match;
    int compiled;            /* to machine code */
    uint64_t spent, allowed; /* steps over the text at hand */
};

/* ---- Compiling ------------------------------------------------------------------------------- */

static int compile(Pattern *p, const Rewrite *r)
{
    pcre2_compile_context *rules = pcre2_compile_context_create(p->memory);
    int number = 0;
    PCRE2_SIZE at = 0;
    if (!rules)
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", r->where);
    pcre2_set_newline(rules, PCRE2_NEWLINE_LF);
    p->code = pcre2_compile((PCRE2_SPTR)r->out.text, r->out.bytes,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C |
                                PCRE2_USE_OFFSET_LIMIT,
                            &number, &at, rules);
    pcre2_compile_context_free(rules);
    if (p->code)
        return ERROR_NONE;
    char why[120] = "";
    pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
    if (number == PCRE2_ERROR_HEAP_FAILED)
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", r->where);
    return error_raise(ERROR_DATA, "%s: the pattern %s does not compile: %s", r->where,
                       shown(r->text, r->length).text, why);
}

static int prepare(Pattern *p, const char *where)
{
    p->match = pcre2_match_data_create(1, p->memory);
    p->limits = pcre2_match_context_create(p->memory);
    if (!p->match || !p->limits)
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", where);
    pcre2_set_match_limit(p->limits, STEPS_FEW);
    p->compiled = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    /* without: the interpreter, slower and with the same results */
    if (p->compiled && !(p->stack = pcre2_jit_stack_create(STACK_MIN, STACK_MAX, p->memory)))
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", where);
    if (p->stack)
        pcre2_jit_stack_assign(p->limits, NULL, p->stack);
    return ERROR_NONE;
}

Pattern *pattern_create(Context *context, const char *where, const char *text, size_t length)
{
    Rewrite r = {.context = context, .where = where, .text = text, .length = length};
    if (length > PATTERN_BYTES) {
        error_raise(ERROR_DATA, "%s: the pattern has %zu bytes; at most %d are read", where, length,
                    PATTERN_BYTES);
        return NULL;
    }
    Pattern *p = memtrack_host_calloc(context->tracker, sizeof *p);
    if (!p) {
        error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", where);
        return NULL;
    }
    p->context = context;
    pattern_begin(p, 0);
    p->memory = pcre2_general_context_create(host_sized_alloc, host_sized_free, context);
    int status = p->memory ? text_reserve(context, &r.out, length)
                           : error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", where);
    status = status ? status : rewrite_all(&r);
    status = status ? status : compile(p, &r);
    status = status ? status : prepare(p, where);
    text_free(context, &r.out);
    text_free(context, &r.folds);
    if (!status)
        return p;
    pattern_free(p);
    return NULL;
}

void pattern_free(Pattern *p)
{
    if (!p)
        return;
    Context *context = p->context;
    pcre2_match_data_free(p->match);
    pcre2_match_context_free(p->limits);
    pcre2_jit_stack_free(p->stack);
    pcre2_code_free(p->code);
    pcre2_general_context_free(p->memory);
    memtrack_host_free(context->tracker, p, sizeof *p);
}

/* ---- Matching -------------------------------------------------------------------------------- */

void pattern_begin(Pattern *p, size_t bytes)
{
    if (!p)
        return;
    p->spent = 0;
    p->allowed = STEPS_TEXT + (uint64_t)STEPS_BYTE * bytes;
}

static int match(Pattern *p, Span text, size_t from)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text.text;
    return p->compiled
               ? pcre2_jit_match(p->code, subject, text.length, from, PCRE2_NO_UTF_CHECK, p->match, p->limits)
               : pcre2_match(p->code, subject, text.length, from, PCRE2_NO_UTF_CHECK, p->match, p->limits);
}

/* A match that begins in at … at + ahead, of no more than so many steps at each place. */
static int match_within(Pattern *p, Span text, size_t at, size_t ahead, uint32_t steps)
{
    size_t left = text.length - at;
    pcre2_set_match_limit(p->limits, steps);
    pcre2_set_offset_limit(p->limits, at + (ahead < left ? ahead : left));
    int got = match(p, text, at);
    pcre2_set_match_limit(p->limits, STEPS_FEW);
    pcre2_set_offset_limit(p->limits, PCRE2_UNSET);
    return got;
}

/* At one place, where a few steps were not enough: with more and more. PCRE2 does not say how many it took,
 * so those are counted that were too few. */
static int match_longer(Pattern *p, Span text, size_t at)
{
    int got = PCRE2_ERROR_MATCHLIMIT;
    for (uint32_t steps = STEPS_FEW; got == PCRE2_ERROR_MATCHLIMIT && steps < STEPS_MAX;) {
        p->spent += steps;
        if (p->spent > p->allowed)
            break;
        steps = steps < STEPS_MAX / 4 ? 4 * steps : STEPS_MAX;
        got = match_within(p, text, at, 0, steps);
    }
    return got;
}

/* PCRE2's limit is for each place where a match may begin, so a search over many of them goes in parts: from
 * `at` up to the next place that needs more than a few steps, then that one alone. */
static int match_in_parts(Pattern *p, Span text, size_t at)
{
    for (size_t ahead = 0;;) {
        int got = match_within(p, text, at, ahead, STEPS_FEW), hard = got == PCRE2_ERROR_MATCHLIMIT;
        if (hard && ahead) {
            ahead /= 2;
            continue;
        }
        if (hard)
            got = match_longer(p, text, at);
        if (got != PCRE2_ERROR_NOMATCH || ahead >= text.length - at)
            return got;
        at += ahead + 1;
        while (at < text.length && ((unsigned char)text.text[at] & 0xC0) == 0x80)
            at++;
        ahead = hard ? 0 : 2 * ahead + 1;
    }
}

static int no_match(const Pattern *p, int got, size_t from, size_t length)
{
    char why[120] = "";
    pcre2_get_error_message(got, (PCRE2_UCHAR *)why, sizeof why);
    if (got == PCRE2_ERROR_MATCHLIMIT && p->spent > p->allowed)
        snprintf(why, sizeof why, "it backtracks at too many places of the text");
    error_raise(got == PCRE2_ERROR_NOMEMORY ? ERROR_HOST_MEMORY : ERROR_DATA,
                "tokenizer: its pattern gives up near byte %zu of a piece of %zu bytes: %s", from, length,
                why);
    return -1;
}

int pattern_find(Pattern *p, const char *text, size_t length, size_t from, size_t *start, size_t *end)
{
    int got = match(p, (Span){text, length}, from);
    if (got == PCRE2_ERROR_MATCHLIMIT)
        got = match_in_parts(p, (Span){text, length}, from);
    if (got == PCRE2_ERROR_NOMATCH)
        return 0;
    if (got < 0)
        return no_match(p, got, from, length);
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(p->match);
    *start = place[0];
    *end = place[1] < place[0] ? place[0] : place[1]; /* \K in a lookahead */
    return 1;
}

static int find_literal(Span literal, const char *text, size_t length, size_t from, size_t *start,
                        size_t *end)
{
    const char *found =
        literal.length ? memmem(text + from, length - from, literal.text, literal.length) : NULL;
    if (!found)
        return 0;
    *start = (size_t)(found - text);
    *end = *start + literal.length;
    return 1;
}

int finder_next(const Finder *finder, const char *text, size_t length, FinderPlace *place)
{
    while (place->at <= length) {
        int found = finder->pattern
                        ? pattern_find(finder->pattern, text, length, place->at, &place->start, &place->end)
                        : find_literal(finder->literal, text, length, place->at, &place->start, &place->end);
        if (found <= 0)
            return found;
        if (place->start != place->end || place->last_end != place->end) {
            place->at = place->last_end = place->end;
            return 1;
        }
        if (place->at == length) /* an empty match right behind the last one does not count */
            return 0;
        utf8_next(text, &place->at);
    }
    return 0;
}
