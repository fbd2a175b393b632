/* Patterns. A tokenizer.json holds them in Oniguruma's syntax; PCRE2 reads nearly the same. What differs is
 * rewritten before it is compiled, or refused: never silently taken for something else.
 *
 *   \s \S      PCRE2 counts U+180E as a space, Unicode does not
 *   \w \W \b   PCRE2 leaves out marks
 *   \h \H      Oniguruma's hexadecimal digit, PCRE2's horizontal space
 *   \p{L} …    PCRE2 10.42 knows Unicode 14, the package 16: the newer characters are added
 *   \p{Han}    Oniguruma's script, PCRE2's script extensions
 *
 * A match that backtracks too much is an error, not a wait: see STEPS_MAX.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tokenizer_.h"
#include "tokenizer_unicode_.h"

enum {
    PATTERN_BYTES = 1 << 16,
    STEPS_MAX = 4 * 1000 * 1000,
    STACK_MIN = 32 << 10,
    STACK_MAX = 8 << 20,
    BLOCK_HEAD = 64
};

struct Pattern {
    Context *context;
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    pcre2_code *code;
    pcre2_match_data *match;
    int compiled; /* to machine code */
};

/* ---- Memory: PCRE2's blocks are in the host ledger, each with its size before it --------------- */

static void *pcre_alloc(size_t bytes, void *context)
{
    char *block = memtrack_host_alloc(((Context *)context)->tracker, bytes + BLOCK_HEAD);
    if (!block)
        return NULL;
    memcpy(block, &bytes, sizeof bytes);
    return block + BLOCK_HEAD;
}

static void pcre_free(void *block, void *context)
{
    size_t bytes;
    if (!block)
        return;
    memcpy(&bytes, (char *)block - BLOCK_HEAD, sizeof bytes);
    memtrack_host_free(((Context *)context)->tracker, (char *)block - BLOCK_HEAD, bytes + BLOCK_HEAD);
}

/* ---- Rewriting ------------------------------------------------------------------------------- */

#define SPACES                                                                                               \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"
#define NO_SPACES                                                                                            \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}" \
    "-"                                                                                                      \
    "\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORDS                                                                                                \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-\\x{24e9}\\x{1f130}-"    \
    "\\x{1f149}"                                                                                             \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

/* A pattern on its way from one syntax to the other. */
typedef struct Rewrite {
    Context *context;
    const char *where, *text;
    size_t length, at;
    int in_class;
    TokenText out;
} Rewrite;

static int refuse(const Rewrite *r, const char *what)
{
    return error_raise(ERROR_DATA, "%s: the pattern has %s at byte %zu, which is not supported: %s", r->where,
                       what, r->at, shown(r->text, r->length).text);
}

static int put(Rewrite *r, const char *text)
{
    return text_add(r->context, &r->out, text, strlen(text));
}

static int put_ranges(Rewrite *r, CodeRanges ranges)
{
    for (int i = 0; i < ranges.count; i++) {
        char text[40];
        snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", (unsigned)ranges.range[i].low,
                 (unsigned)ranges.range[i].high);
        if (put(r, text))
            return error_code();
    }
    return ERROR_NONE;
}

/* Members of a class, in brackets unless they are inside some already. */
static int put_members(Rewrite *r, const char *open, const char *members, CodeRanges more)
{
    int bare = r->in_class;
    if ((!bare && put(r, open)) || put(r, members) || put_ranges(r, more) || (!bare && put(r, "]")))
        return error_code();
    return ERROR_NONE;
}

/* \p{NAME}, \P{NAME}, \p{^NAME}; at is behind the p. */
static int rewrite_property(Rewrite *r, int negative)
{
    const char *open = r->text + r->at;
    const char *close = r->at < r->length && *open == '{' ? memchr(open, '}', r->length - r->at) : NULL;
    char name[32], members[48];
    if (!close || close - open > 30)
        return refuse(r, "a \\p without a name in braces");
    size_t from = open[1] == '^' ? 2 : 1;
    negative ^= from == 2;
    snprintf(name, sizeof name, "%.*s", (int)((size_t)(close - open) - from), open + from);
    CodeRanges more = unicode_newer(name);
    int whole = !strcmp(name, "Han"); /* the ranges are all of it */
    snprintf(members, sizeof members, "\\p{%s}", name);
    if (negative && r->in_class && more.count)
        return refuse(r, "a negated property inside a class");
    r->at = (size_t)(close + 1 - r->text);
    if (more.count)
        return put_members(r, negative ? "[^" : "[", whole ? "" : members, more);
    snprintf(members, sizeof members, "\\%c{%s%s}", negative ? 'P' : 'p',
             unicode_is_script(name) ? "sc:" : "", name);
    return put(r, members);
}

/* A word's edge: a word's character on one side alone. PCRE2's own \b would go by its own \w. */
static int put_edge(Rewrite *r, int edge)
{
    static const char *const parts[2][4] = {{"(?:(?<=", ")(?=", ")|(?<!", ")(?!"},
                                            {"(?:(?<=", ")(?!", ")|(?<!", ")(?="}};
    for (int i = 0; i < 4; i++)
        if (put(r, parts[edge][i]) || put_members(r, "[", WORDS, unicode_newer("\\w")))
            return error_code();
    return put(r, "))");
}

static int rewrite_escape(Rewrite *r)
{
    static const CodeRanges none = {NULL, 0};
    if (r->at + 1 >= r->length)
        return refuse(r, "a \\ at its end");
    char kind = r->text[r->at + 1];
    r->at += 2;
    switch (kind) {
    case 's':
        return put_members(r, "[", SPACES, none);
    case 'S':
        return put_members(r, "[", NO_SPACES, none);
    case 'w':
        return put_members(r, "[", WORDS, unicode_newer("\\w"));
    case 'W':
        return r->in_class ? refuse(r, "\\W inside a class")
                           : put_members(r, "[^", WORDS, unicode_newer("\\w"));
    case 'd':
        return put_members(r, "[", "\\p{Nd}", unicode_newer("Nd"));
    case 'D':
        return r->in_class ? refuse(r, "\\D inside a class")
                           : put_members(r, "[^", "\\p{Nd}", unicode_newer("Nd"));
    case 'h':
        return put_members(r, "[", "0-9a-fA-F", none);
    case 'H':
        return r->in_class ? refuse(r, "\\H inside a class") : put_members(r, "[^", "0-9a-fA-F", none);
    case 'p':
    case 'P':
        return rewrite_property(r, kind == 'P');
    case 'b':
    case 'B':
        if (!r->in_class)
            return put_edge(r, kind == 'b');
        /* fall through */
    default:
        r->at -= 2;
        if (text_add(r->context, &r->out, r->text + r->at, 2))
            return error_code();
        r->at += 2;
        return ERROR_NONE;
    }
}

/* A group's beginning: only what means the same in both. */
static int check_group(Rewrite *r)
{
    const char *from = r->text + r->at;
    size_t left = r->length - r->at;
    if (left > 1 && from[1] == '*')
        return refuse(r, "(*");
    if (left < 3 || from[1] != '?')
        return ERROR_NONE;
    size_t i = 2;
    while (i < left && (from[i] == 'i' || from[i] == 'x' || from[i] == '-'))
        i++;
    if (i < left && (from[i] == ':' || from[i] == ')' || (i == 2 && strchr("=!<>", from[i]))))
        return ERROR_NONE;
    return refuse(r, "a group other than (?: (?= (?! (?< (?> (?i");
}

/* {n,m} at `at`: whether a + follows it, which Oniguruma takes for "once or more", PCRE2 for "possessive". */
static int interval_plus(const Rewrite *r)
{
    size_t i = r->at + 1;
    while (i < r->length && ((r->text[i] >= '0' && r->text[i] <= '9') || r->text[i] == ','))
        i++;
    return i > r->at + 1 && i + 1 < r->length && r->text[i] == '}' && r->text[i + 1] == '+';
}

static int rewrite_one(Rewrite *r)
{
    char c = r->text[r->at];
    if (c == '\\')
        return rewrite_escape(r);
    if (r->in_class) {
        if (c == '[')
            return refuse(r, "[ inside a class");
        if (c == '&' && r->at + 1 < r->length && r->text[r->at + 1] == '&')
            return refuse(r, "&& inside a class");
        r->in_class = c != ']';
    } else if (c == '[') {
        r->in_class = 1;
        /* a ] that comes first is a member */
        size_t first = r->at + 1 + (r->at + 1 < r->length && r->text[r->at + 1] == '^');
        if (first < r->length && r->text[first] == ']')
            return refuse(r, "a class that begins with ]");
    } else if (c == '(' && check_group(r)) {
        return error_code();
    } else if (c == '{' && interval_plus(r)) {
        return refuse(r, "{…}+");
    }
    r->at++;
    return text_add(r->context, &r->out, &c, 1);
}

/* ---- Compiling ------------------------------------------------------------------------------- */

static int compile(Pattern *p, const Rewrite *r)
{
    pcre2_compile_context *rules = pcre2_compile_context_create(p->memory);
    int number = 0;
    PCRE2_SIZE at = 0;
    if (!rules)
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", r->where);
    pcre2_set_newline(rules, PCRE2_NEWLINE_LF);
    p->code =
        pcre2_compile((PCRE2_SPTR)r->out.text, r->out.bytes,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &number, &at, rules);
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
    pcre2_set_match_limit(p->limits, STEPS_MAX);
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
    p->memory = pcre2_general_context_create(pcre_alloc, pcre_free, context);
    int status = p->memory ? text_reserve(context, &r.out, length)
                           : error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the pattern", where);
    while (!status && r.at < length)
        status = rewrite_one(&r);
    status = status ? status : compile(p, &r);
    status = status ? status : prepare(p, where);
    text_free(context, &r.out);
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

int pattern_find(Pattern *p, const char *text, size_t length, size_t from, size_t *start, size_t *end)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int got = p->compiled
                  ? pcre2_jit_match(p->code, subject, length, from, PCRE2_NO_UTF_CHECK, p->match, p->limits)
                  : pcre2_match(p->code, subject, length, from, PCRE2_NO_UTF_CHECK, p->match, p->limits);
    if (got == PCRE2_ERROR_NOMATCH)
        return 0;
    if (got < 0) {
        char why[120] = "";
        pcre2_get_error_message(got, (PCRE2_UCHAR *)why, sizeof why);
        error_raise(got == PCRE2_ERROR_NOMEMORY ? ERROR_HOST_MEMORY : ERROR_DATA,
                    "tokenizer: its pattern gives up near byte %zu of a piece of %zu bytes: %s", from, length,
                    why);
        return -1;
    }
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
