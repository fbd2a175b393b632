/* Classes of characters in a pattern. Oniguruma's hold other classes, [a[bc]], and intersections,
 * [a-z&&[^b]]; PCRE2's do not. What a class holds directly or in an inner one becomes one class; all else an
 * alternative or a condition about one character, (?:[a]|[^b]) or (?:(?![b])[a-z]), which means the same. */
#include "tokenizer_rewrite_.h"

enum { MOST_NESTED = 16 };

/* What matches one character. */
typedef enum AtomKind {
    ATOM_MEMBERS, /* the members of a class */
    ATOM_OTHERS,  /* of a negated one */
    ATOM_PATTERN
} AtomKind;

typedef struct Atom {
    AtomKind kind;
    TokenText text;
} Atom;

/* What lies between [ and ], or &&: members of one class, and alternatives, each with a | before it. */
typedef struct Union {
    TokenText members, others;
    int count;    /* others */
    int negative; /* the first of them is [^…] */
} Union;

static int add(Rewrite *r, TokenText *to, const char *text, size_t length)
{
    return text_add(r->context, to, text, length);
}

static int add_around(Rewrite *r, TokenText *to, const char *before, const TokenText *text,
                      const char *behind)
{
    return add(r, to, before, strlen(before)) || add(r, to, text->text, text->bytes) ||
                   add(r, to, behind, strlen(behind))
               ? error_code()
               : ERROR_NONE;
}

/* As it stands alone in a pattern. */
static int put_atom(Rewrite *r, TokenText *to, const Atom *atom)
{
    if (atom->kind == ATOM_PATTERN)
        return add(r, to, atom->text.text, atom->text.bytes);
    return add_around(r, to, atom->kind == ATOM_MEMBERS ? "[" : "[^", &atom->text, "]");
}

static void atom_free(Rewrite *r, Atom *atom)
{
    text_free(r->context, &atom->text);
}

static void atom_replace(Rewrite *r, Atom *atom, AtomKind kind, TokenText text)
{
    atom_free(r, atom);
    *atom = (Atom){kind, text};
}

/* ---- Operations ------------------------------------------------------------------------------ */

/* The union as an atom, whose text is the union's no more. */
static int close_union(Rewrite *r, Union *u, Atom *out)
{
    TokenText text = {0};
    if (!u->count) {
        if (!u->members.bytes)
            return rewrite_refuse(r, "an empty class");
        *out = (Atom){ATOM_MEMBERS, u->members};
        u->members = (TokenText){0};
        return ERROR_NONE;
    }
    int status;
    *out = (Atom){.kind = ATOM_PATTERN};
    if (u->count == 1 && u->negative && !u->members.bytes) { /* |[^…] */
        out->kind = ATOM_OTHERS;
        status = add(r, &text, u->others.text + 3, u->others.bytes - 4);
    } else {
        status = add(r, &text, "(?:", 3);
        if (!status && u->members.bytes)
            status = add_around(r, &text, "[", &u->members, "]");
        size_t skip = !u->members.bytes; /* the first | */
        status = status ? status : add(r, &text, u->others.text + skip, u->others.bytes - skip);
        status = status ? status : add(r, &text, ")", 1);
    }
    out->text = text;
    return status;
}

/* a = a && b */
static int intersect(Rewrite *r, Atom *a, const Atom *b)
{
    TokenText text = {0};
    if (a->kind == ATOM_OTHERS && b->kind == ATOM_OTHERS)
        return add(r, &a->text, b->text.text, b->text.bytes);
    const Atom *condition = a->kind == ATOM_OTHERS ? a : b, *rest = condition == a ? b : a;
    int negative = condition->kind == ATOM_OTHERS;
    Atom bare = {negative ? ATOM_MEMBERS : condition->kind, condition->text};
    int status = add(r, &text, negative ? "(?:(?!" : "(?:(?=", 6) || put_atom(r, &text, &bare) ||
                 add(r, &text, ")", 1) || put_atom(r, &text, rest) || add(r, &text, ")", 1);
    atom_replace(r, a, ATOM_PATTERN, text);
    return status ? error_code() : ERROR_NONE;
}

static int negate(Rewrite *r, Atom *a)
{
    TokenText text = {0};
    if (a->kind != ATOM_PATTERN) {
        a->kind = a->kind == ATOM_MEMBERS ? ATOM_OTHERS : ATOM_MEMBERS;
        return ERROR_NONE;
    }
    int status = add_around(r, &text, "(?:(?!", &a->text, ")(?s:.))");
    atom_replace(r, a, ATOM_PATTERN, text);
    return status;
}

static int unite(Rewrite *r, Union *u, const Atom *atom)
{
    if (atom->kind == ATOM_MEMBERS)
        return add(r, &u->members, atom->text.text, atom->text.bytes);
    if (r->fold) /* Oniguruma adds the other case to what the class holds in the end */
        return rewrite_refuse(r, "a negated class in a class under (?i)");
    u->negative |= !u->count && atom->kind == ATOM_OTHERS;
    u->count++;
    return add(r, &u->others, "|", 1) || put_atom(r, &u->others, atom) ? error_code() : ERROR_NONE;
}

/* ---- Members --------------------------------------------------------------------------------- */

static char char_at(const Rewrite *r, size_t at)
{
    return at < r->length ? r->text[at] : '\0';
}

/* Whether the \ at this place is of more than one character: 1; -1: of all but some. */
static int kind_of_escape(const Rewrite *r, size_t at)
{
    char kind = char_at(r, at + 1);
    if (char_at(r, at) != '\\')
        return 0;
    if (kind == 'p' || kind == 'P')
        return (kind == 'P') ^ (char_at(r, at + 3) == '^') ? -1 : 1;
    if (kind == 'W' || kind == 'D' || kind == 'H')
        return -1;
    return kind == 's' || kind == 'S' || kind == 'w' || kind == 'd' || kind == 'h';
}

/* The escape at r->at, as members or, in brackets, as an alternative. */
static int add_escape(Rewrite *r, Union *u, int negative)
{
    TokenText out = r->out, *to = negative ? &u->others : &u->members;
    if (negative && add(r, to, "|", 1))
        return error_code();
    size_t from = to->bytes;
    r->out = *to;
    r->in_class = !negative;
    r->within = 1;
    int status = rewrite_escape(r);
    r->in_class = r->within = 0;
    *to = r->out;
    r->out = out;
    if (!status && negative) {
        u->negative |= !u->count && to->bytes - from > 2 && !memcmp(to->text + from, "[^", 2);
        u->count++;
    }
    return status;
}

/* One character, as a member that means itself. */
static int add_character(Rewrite *r, Union *u)
{
    size_t from = r->at;
    if (r->text[from] == '\\')
        return add_escape(r, u, 0);
    utf8_next(r->text, &r->at);
    int meant = r->at - from == 1 && strchr("^-[].:=", r->text[from]); /* [. too begins something in PCRE2 */
    return (meant && add(r, &u->members, "\\", 1)) || add(r, &u->members, r->text + from, r->at - from)
               ? error_code()
               : ERROR_NONE;
}

static int is_operator(const Rewrite *r, size_t at)
{
    return char_at(r, at) == '&' && char_at(r, at + 1) == '&';
}

/* A - at this place that is between two characters of a range: not the last of its part. */
static int is_range(const Rewrite *r, size_t at)
{
    return char_at(r, at) == '-' && at + 1 < r->length && r->text[at + 1] != ']' && !is_operator(r, at + 1);
}

/* A character, or a range of them; a - behind a range is one. */
static int add_range(Rewrite *r, Union *u)
{
    if (add_character(r, u))
        return error_code();
    if (!is_range(r, r->at))
        return ERROR_NONE;
    char next = r->text[r->at + 1];
    if (next == '[' || kind_of_escape(r, r->at + 1))
        return rewrite_refuse(r, "a range that ends in a class");
    r->at++;
    if (add(r, &u->members, "-", 1) || add_character(r, u))
        return error_code();
    if (is_range(r, r->at)) {
        r->at++;
        return add(r, &u->members, "\\-", 2);
    }
    return ERROR_NONE;
}

/* ---- [:name:] -------------------------------------------------------------------------------- */

/* Those that hold what properties do of which the newer characters are known; NULL: no such name. */
static const char *members_of(const char *name, size_t length)
{
    static const struct {
        const char *name, *members;
    } known[] = {{"digit", "\\d"},
                 {"space", "\\s"},
                 {"word", "\\w"},
                 {"xdigit", "\\h"},
                 {"cntrl", "\\p{Cc}"},
                 {"blank", "\\p{Zs}\\x{9}"},
                 {"ascii", "\\x{0}-\\x{7f}"},
                 {"punct", "\\p{P}\\p{S}"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i].name) == length && !memcmp(known[i].name, name, length))
            return known[i].members;
    return NULL;
}

/* [:name:] or [:^name:] at this place: where it ends; 0: none. */
static size_t bracket_end(const Rewrite *r, size_t at)
{
    size_t end = at + 2;
    if (char_at(r, at + 1) != ':')
        return 0;
    end += char_at(r, end) == '^';
    while (char_at(r, end) >= 'a' && char_at(r, end) <= 'z')
        end++;
    return char_at(r, end) == ':' && char_at(r, end + 1) == ']' ? end + 2 : 0;
}

static int add_bracket(Rewrite *r, Union *u, size_t end)
{
    size_t negative = char_at(r, r->at + 2) == '^', from = r->at + 2 + negative;
    const char *members = members_of(r->text + from, end - 2 - from);
    Union inner = {0};
    Atom atom = {0};
    if (!members)
        return rewrite_refuse(r, "a [:…:] other than digit, space, word, xdigit, cntrl, blank, ascii, punct");
    Rewrite of = {.context = r->context, .where = r->where, .text = members, .length = strlen(members)};
    int status = ERROR_NONE;
    while (!status && of.at < of.length)
        status = kind_of_escape(&of, of.at) ? add_escape(&of, &inner, 0) : add_range(&of, &inner);
    status = status || close_union(r, &inner, &atom) || (negative && negate(r, &atom)) || unite(r, u, &atom);
    text_free(r->context, &inner.members);
    atom_free(r, &atom);
    r->at = end;
    return status ? error_code() : ERROR_NONE;
}

/* ---- Classes --------------------------------------------------------------------------------- */

static int parse_class(Rewrite *r, Atom *out, int depth);

static int add_class(Rewrite *r, Union *u, int depth)
{
    Atom inner = {0};
    int status = parse_class(r, &inner, depth + 1) || unite(r, u, &inner);
    atom_free(r, &inner);
    return status ? error_code() : ERROR_NONE;
}

static int add_item(Rewrite *r, Union *u, int depth)
{
    char c = r->text[r->at];
    int kind = kind_of_escape(r, r->at);
    size_t end = c == '[' ? bracket_end(r, r->at) : 0;
    if (c != '[' && !kind)
        return add_range(r, u);
    if (kind ? add_escape(r, u, kind < 0) : end ? add_bracket(r, u, end) : add_class(r, u, depth))
        return error_code();
    return kind && is_range(r, r->at) ? rewrite_refuse(r, "a range that begins with a class") : ERROR_NONE;
}

/* Up to && or ]. */
static int parse_union(Rewrite *r, Union *u, size_t first, int depth)
{
    while (r->at < r->length && !(r->text[r->at] == ']' && r->at > first) && !is_operator(r, r->at)) {
        if (add_item(r, u, depth))
            return error_code();
        if (u->members.bytes + u->others.bytes > REWRITTEN_BYTES)
            return rewrite_too_long(r, u->members.bytes + u->others.bytes);
    }
    return r->at < r->length ? ERROR_NONE : rewrite_refuse(r, "a class without its end");
}

static int parse_operand(Rewrite *r, Atom *out, size_t first, int depth)
{
    Union u = {0};
    int status = parse_union(r, &u, first, depth) || close_union(r, &u, out);
    text_free(r->context, &u.members);
    text_free(r->context, &u.others);
    return status ? error_code() : ERROR_NONE;
}

/* From [ to behind its ]; a ] that comes first is a member. */
static int parse_class(Rewrite *r, Atom *out, int depth)
{
    if (depth == MOST_NESTED)
        return rewrite_refuse(r, "classes in classes, too deep,");
    int negative = char_at(r, r->at + 1) == '^';
    size_t first = r->at += 1 + (size_t)negative;
    if (parse_operand(r, out, first, depth))
        return error_code();
    while (r->text[r->at] == '&') {
        Atom next = {0};
        r->at += 2;
        if (r->fold)
            return rewrite_refuse(r, "&& in a class under (?i)");
        int status = parse_operand(r, &next, 0, depth) || intersect(r, out, &next);
        atom_free(r, &next);
        if (status)
            return error_code();
    }
    r->at++;
    return negative ? negate(r, out) : ERROR_NONE;
}

int rewrite_class(Rewrite *r)
{
    Atom atom = {0};
    int status = parse_class(r, &atom, 0) || put_atom(r, &r->out, &atom);
    atom_free(r, &atom);
    return status ? error_code() : ERROR_NONE;
}
