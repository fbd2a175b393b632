/* Patterns. A tokenizer.json holds them in Oniguruma's syntax; PCRE2 reads nearly the same. What differs is
 * rewritten before it is compiled, or refused: never silently taken for something else.
 *
 *   \s \S      PCRE2 counts U+180E as a space, Unicode does not
 *   \w \W \b   PCRE2 leaves out marks
 *   \h \H      Oniguruma's hexadecimal digit, PCRE2's horizontal space
 *   \p{L} …    PCRE2 10.42 knows Unicode 14, the package 16: the newer characters are added
 *   \p{Han}    Oniguruma's script, PCRE2's script extensions
 *   \v         Oniguruma's U+000B, PCRE2's vertical space
 *
 * A match that backtracks too much is an error, not a wait, and so is a text at whose places many do: see
 * STEPS_MAX.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>

#include <pcre2.h>

#include "tokenizer_.h"
#include "tokenizer_unicode_.h"

enum {
    PATTERN_BYTES = 1 << 16,
    REWRITTEN_BYTES = 1 << 20, /* PCRE2 takes four times that to read it */
    STEPS_FEW = 1 << 10,       /* of backtracking at one place: what is within it is not counted */
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

static char char_at(const Rewrite *r, size_t at)
{
    return at < r->length ? r->text[at] : '\0';
}

/* An escape that one of the two takes for something else; NULL for none. */
static const char *other_escape(const Rewrite *r)
{
    char kind = r->text[r->at + 1], next = char_at(r, r->at + 2);
    switch (kind) {
    case 'V':
        return "\\V";
    case 'Q':
    case 'E':
        return "\\Q or \\E";
    case 'G': /* what is looked at place by place has no one beginning */
        return "\\G";
    case 'c':
        return "\\c";
    case 'N':
        return next == '{' ? "\\N{" : NULL;
    case 'g':
    case 'k':
        return next == '<' || next == '\'' ? NULL : "a \\g or \\k without <";
    case 'x': /* a byte to Oniguruma, a character to PCRE2 */
        return next && strchr("89abcdefABCDEF", next) && isxdigit((unsigned char)char_at(r, r->at + 3))
                   ? "a \\x of a byte above 7f"
                   : NULL;
    default:
        return NULL;
    }
}

/* As it is; \x{…} and \o{…} whole, for their braces are no interval. */
static int copy_escape(Rewrite *r)
{
    size_t from = r->at, end = from + 2;
    char kind = r->text[from + 1];
    if ((kind == 'x' || kind == 'o') && char_at(r, end) == '{') {
        const char *close = memchr(r->text + end, '}', r->length - end);
        end = close ? (size_t)(close + 1 - r->text) : end;
    }
    r->at = end;
    return text_add(r->context, &r->out, r->text + from, end - from);
}

static int rewrite_escape(Rewrite *r)
{
    static const CodeRanges none = {NULL, 0};
    if (r->at + 1 >= r->length)
        return refuse(r, "a \\ at its end");
    char kind = r->text[r->at + 1];
    const char *other = other_escape(r);
    if (other)
        return refuse(r, other);
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
    case 'v':
        return put(r, "\\x{b}");
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
        return copy_escape(r);
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
    if (memchr("=!<>:", from[2], 5))
        return ERROR_NONE;
    size_t i = 2;
    while (i < left && (from[i] == 'i' || from[i] == '-'))
        i++;
    if (i < left && from[i] == ':')
        return ERROR_NONE;
    if (i == 2 || i == left || from[i] != ')')
        return refuse(r, "a group other than (?: (?= (?! (?< (?> (?i:");
    /* to Oniguruma the a(?i)b|c is a(?i:b|c), to PCRE2 a(?i:b)|(?i:c) */
    return r->at ? refuse(r, "an option like (?i) elsewhere than at its beginning") : ERROR_NONE;
}

static size_t skip_digits(const Rewrite *r, size_t at)
{
    while (char_at(r, at) >= '0' && char_at(r, at) <= '9')
        at++;
    return at;
}

/* {n,m} at `at`, where one of the two takes it or what follows for something else; NULL for none. To
 * Oniguruma {,n} is {0,n}, {n}? is (?:{n})?, and {n,m}+ comes once or more. */
static const char *other_interval(const Rewrite *r)
{
    size_t from = r->at + 1, low = skip_digits(r, from), end = low;
    int comma = char_at(r, low) == ',';
    if (comma)
        end = skip_digits(r, low + 1);
    int has_low = low > from, has_high = comma && end > low + 1;
    if (char_at(r, end) != '}' || (!has_low && !has_high)) /* letters */
        return NULL;
    if (!has_low)
        return "{,n}";
    if (char_at(r, end + 1) == '+')
        return "{…}+";
    return !comma && char_at(r, end + 1) == '?' ? "{n}?" : NULL;
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
    } else if (c == '{' && other_interval(r)) {
        return refuse(r, other_interval(r));
    }
    r->at++;
    return text_add(r->context, &r->out, &c, 1);
}

static int rewrite_all(Rewrite *r)
{
    while (r->at < r->length) {
        if (rewrite_one(r))
            return error_code();
        if (r->out.bytes > REWRITTEN_BYTES)
            return error_raise(ERROR_DATA,
                               "%s: the pattern has too many classes (as \\w and \\b): %zu of its %zu bytes "
                               "become more than %d",
                               r->where, r->at, r->length, REWRITTEN_BYTES);
    }
    return ERROR_NONE;
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
