/* Patterns from one syntax to another. A tokenizer.json holds them in Oniguruma's; PCRE2 reads nearly the
 * same. What differs is rewritten before it is compiled, or refused: never silently taken for something else.
 *
 *   \s \S      PCRE2 counts U+180E as a space, Unicode does not
 *   \w \W \b   PCRE2 leaves out marks
 *   \h \H      Oniguruma's hexadecimal digit, PCRE2's horizontal space
 *   \p{L} …    PCRE2 10.42 knows Unicode 14, the package 16: the newer characters are added
 *   \p{Han}    Oniguruma's script, PCRE2's script extensions
 *   \v         Oniguruma's U+000B, PCRE2's vertical space
 *   [a[b]&&c]  classes in classes and their intersections: tokenizer_class.c
 */
#include <ctype.h>

#include "tokenizer_rewrite_.h"

#define SPACES                                                                                               \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"
#define NO_SPACES                                                                                            \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}" \
    "-"                                                                                                      \
    "\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORDS                                                                                                \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"         \
    "\\x{1f170}-\\x{1f189}"
#define FRACTIONS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" /* to Oniguruma of \w, but not in a class */

int rewrite_refuse(const Rewrite *r, const char *what)
{
    return error_raise(ERROR_DATA, "%s: the pattern has %s at byte %zu, which is not supported: %s", r->where,
                       what, r->at, shown(r->text, r->length).text);
}

int rewrite_put(Rewrite *r, const char *text)
{
    return text_add(r->context, &r->out, text, strlen(text));
}

static int put_ranges(Rewrite *r, CodeRanges ranges)
{
    for (int i = 0; i < ranges.count; i++) {
        char text[40];
        snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", (unsigned)ranges.range[i].low,
                 (unsigned)ranges.range[i].high);
        if (rewrite_put(r, text))
            return error_code();
    }
    return ERROR_NONE;
}

/* Members of a class, in brackets unless they are inside some already. */
static int put_members(Rewrite *r, const char *open, const char *members, CodeRanges more)
{
    int bare = r->in_class;
    if ((!bare && rewrite_put(r, open)) || rewrite_put(r, members) || put_ranges(r, more) ||
        (!bare && rewrite_put(r, "]")))
        return error_code();
    return ERROR_NONE;
}

/* \p{NAME}, \P{NAME}, \p{^NAME}; at is behind the p. */
static int put_property(Rewrite *r, int negative)
{
    const char *open = r->text + r->at;
    const char *close = r->at < r->length && *open == '{' ? memchr(open, '}', r->length - r->at) : NULL;
    char name[32], members[48];
    if (!close || close - open > 30)
        return rewrite_refuse(r, "a \\p without a name in braces");
    size_t from = open[1] == '^' ? 2 : 1;
    negative ^= from == 2;
    snprintf(name, sizeof name, "%.*s", (int)((size_t)(close - open) - from), open + from);
    if (r->fold && r->within && (!strcmp(name, "Lu") || !strcmp(name, "Ll") || !strcmp(name, "Lt")))
        return rewrite_refuse(r, "letters of one case in a class under (?i)");
    CodeRanges more = unicode_newer(name);
    int whole = !strcmp(name, "Han"); /* the ranges are all of it */
    snprintf(members, sizeof members, "\\p{%s}", name);
    r->at = (size_t)(close + 1 - r->text);
    if (more.count)
        return put_members(r, negative ? "[^" : "[", whole ? "" : members, more);
    snprintf(members, sizeof members, "\\%c{%s%s}", negative ? 'P' : 'p',
             unicode_is_script(name) ? "sc:" : "", name);
    return rewrite_put(r, members);
}

/* A word's edge: a word's character on one side alone. PCRE2's own \b would go by its own \w. */
static int put_edge(Rewrite *r, int edge)
{
    static const char *const parts[2][4] = {{"(?:(?<=", ")(?=", ")|(?<!", ")(?!"},
                                            {"(?:(?<=", ")(?!", ")|(?<!", ")(?="}};
    for (int i = 0; i < 4; i++)
        if (rewrite_put(r, parts[edge][i]) || put_members(r, "[", FRACTIONS WORDS, unicode_newer("\\w")))
            return error_code();
    return rewrite_put(r, "))");
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

/* \uHHHH, which PCRE2 writes as \x{HHHH}. */
static int put_unicode(Rewrite *r)
{
    char text[12];
    for (size_t i = 2; i < 6; i++)
        if (!isxdigit((unsigned char)char_at(r, r->at + i)))
            return rewrite_refuse(r, "a \\u without four digits");
    snprintf(text, sizeof text, "\\x{%.4s}", r->text + r->at + 2);
    r->at += 6;
    return rewrite_put(r, text);
}

/* As it is; \x{…} and \o{…} whole, for their braces are no interval. */
static int copy_escape(Rewrite *r)
{
    if (r->text[r->at + 1] == 'u')
        return put_unicode(r);
    size_t from = r->at, end = from + 2;
    char kind = r->text[from + 1];
    if ((kind == 'x' || kind == 'o') && char_at(r, end) == '{') {
        const char *close = memchr(r->text + end, '}', r->length - end);
        end = close ? (size_t)(close + 1 - r->text) : end;
    }
    r->at = end;
    return text_add(r->context, &r->out, r->text + from, end - from);
}

int rewrite_escape(Rewrite *r)
{
    static const CodeRanges none = {NULL, 0};
    if (r->at + 1 >= r->length)
        return rewrite_refuse(r, "a \\ at its end");
    char kind = r->text[r->at + 1];
    const char *other = other_escape(r);
    if (other)
        return rewrite_refuse(r, other);
    r->at += 2;
    switch (kind) {
    case 's':
        return put_members(r, "[", SPACES, none);
    case 'S':
        return put_members(r, "[", NO_SPACES, none);
    case 'w':
        return put_members(r, "[", r->within ? WORDS : FRACTIONS WORDS, unicode_newer("\\w"));
    case 'W':
        return put_members(r, "[^", r->within ? WORDS : FRACTIONS WORDS, unicode_newer("\\w"));
    case 'd':
        return put_members(r, "[", "\\p{Nd}", unicode_newer("Nd"));
    case 'D':
        return put_members(r, "[^", "\\p{Nd}", unicode_newer("Nd"));
    case 'h':
        return put_members(r, "[", "0-9a-fA-F", none);
    case 'H':
        return put_members(r, "[^", "0-9a-fA-F", none);
    case 'v':
        return rewrite_put(r, "\\x{b}");
    case 'p':
    case 'P':
        return put_property(r, kind == 'P');
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
        return rewrite_refuse(r, "(*");
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
        return rewrite_refuse(r, "a group other than (?: (?= (?! (?< (?> (?i:");
    /* to Oniguruma the a(?i)b|c is a(?i:b|c), to PCRE2 a(?i:b)|(?i:c) */
    return r->at ? rewrite_refuse(r, "an option like (?i) elsewhere than at its beginning") : ERROR_NONE;
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

/* A group opens or closes: (?i) and (?i:…) hold to its end. */
static int track_groups(Rewrite *r, char c)
{
    if (c == ')') {
        if (r->folds.bytes)
            r->fold = r->folds.text[--r->folds.bytes];
        return ERROR_NONE;
    }
    const char *from = r->text + r->at;
    size_t left = r->length - r->at, i = 2;
    char before = (char)r->fold;
    if (check_group(r) || text_add(r->context, &r->folds, &before, 1))
        return error_code();
    int minus = 0, fold = r->fold;
    if (left < 3 || from[1] != '?')
        return ERROR_NONE;
    for (; i < left && (from[i] == 'i' || from[i] == '-'); i++) {
        minus |= from[i] == '-';
        fold = from[i] == 'i' ? !minus : fold;
    }
    if (i > 2)
        r->fold = fold;
    if (i > 2 && from[i] == ')')
        r->folds.text[r->folds.bytes - 1] = (char)fold; /* to the end of what holds it */
    return ERROR_NONE;
}

static int rewrite_one(Rewrite *r)
{
    char c = r->text[r->at];
    if (c == '\\')
        return rewrite_escape(r);
    if (c == '[')
        return rewrite_class(r);
    if ((c == '(' || c == ')') && track_groups(r, c))
        return error_code();
    if (c == '{' && other_interval(r))
        return rewrite_refuse(r, other_interval(r));
    r->at++;
    return text_add(r->context, &r->out, &c, 1);
}

int rewrite_too_long(const Rewrite *r, size_t bytes)
{
    if (bytes <= REWRITTEN_BYTES)
        return ERROR_NONE;
    return error_raise(ERROR_DATA,
                       "%s: the pattern has too many classes (as \\w and \\b): %zu of its %zu bytes "
                       "become more than %d",
                       r->where, r->at, r->length, REWRITTEN_BYTES);
}

int rewrite_all(Rewrite *r)
{
    while (r->at < r->length)
        if (rewrite_one(r) || rewrite_too_long(r, r->out.bytes))
            return error_code();
    return ERROR_NONE;
}
