/* Added tokens are found in the text before anything else happens to it: leftmost, then longest. Those that
 * are normalized are found again in what the normalizer made. */
#include <stdlib.h>

#include "tokenizer_.h"
#include "tokenizer_unicode_.h"

static int compare(Span a, Span b)
{
    int order = memcmp(a.text, b.text, a.length < b.length ? a.length : b.length);
    return order ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_tokens(const void *a, const void *b)
{
    const AddedToken *x = *(const AddedToken *const *)a, *y = *(const AddedToken *const *)b;
    int order = compare(x->found, y->found);
    if (!order) /* special ones were given first, then in the file's order */
        order = x->special != y->special ? y->special - x->special : (x > y) - (x < y);
    return order;
}

static int build_set(Tokenizer *t, AddedSet *set, int normalized)
{
    int count = 0;
    for (int i = 0; i < t->added_count; i++)
        count += t->added[i].normalized == normalized;
    if (!count)
        return ERROR_NONE;
    set->tokens = keep(t, (size_t)count * sizeof(AddedToken *));
    if (!set->tokens)
        return error_code();
    for (int i = 0; i < t->added_count; i++)
        if (t->added[i].normalized == normalized)
            set->tokens[set->count++] = &t->added[i];
    qsort(set->tokens, (size_t)set->count, sizeof(AddedToken *), compare_tokens);
    int kept = 1; /* of equal ones the first counts */
    for (int i = 1; i < set->count; i++)
        if (compare(set->tokens[i]->found, set->tokens[kept - 1]->found))
            set->tokens[kept++] = set->tokens[i];
    set->count = kept;
    for (int i = 0; i < set->count; i++)
        set->begins[(unsigned char)set->tokens[i]->found.text[0]] = 1;
    return ERROR_NONE;
}

int added_build(Tokenizer *t)
{
    return build_set(t, &t->raw_added, 0) ? error_code() : build_set(t, &t->normal_added, 1);
}

/* The longest token that text[at..] begins with. The sorted list is narrowed byte by byte. */
static const AddedToken *longest_at(const AddedSet *set, Span text, size_t at)
{
    const AddedToken *best = NULL;
    int low = 0, high = set->count;
    for (size_t depth = 0; low < high; depth++) {
        if (set->tokens[low]->found.length == depth)
            best = set->tokens[low++];
        if (at + depth == text.length)
            break;
        unsigned char byte = (unsigned char)text.text[at + depth];
        for (int end = high; low < end;) { /* the first that is not below the byte */
            int middle = low + (end - low) / 2;
            if ((unsigned char)set->tokens[middle]->found.text[depth] < byte)
                low = middle + 1;
            else
                end = middle;
        }
        for (int begin = low; begin < high;) { /* the first that is above it */
            int middle = begin + (high - begin) / 2;
            if ((unsigned char)set->tokens[middle]->found.text[depth] > byte)
                high = middle;
            else
                begin = middle + 1;
        }
    }
    return best;
}

static int is_word(int32_t code)
{
    return code_is_word(code) || unicode_newer_word(code);
}

static int stands_alone(Span text, size_t start, size_t end)
{
    size_t next = end;
    if (start > 0 && is_word(utf8_last(text.text, start)))
        return 0;
    return end == text.length || !is_word(utf8_next(text.text, &next));
}

const AddedToken *added_next(const AddedSet *set, Span text, size_t *at, size_t *start, size_t *end)
{
    const AddedToken *token = NULL;
    size_t done = *end; /* of the token before */
    for (;; *at += token ? token->found.length : 1) {
        while (*at < text.length && !set->begins[(unsigned char)text.text[*at]])
            (*at)++;
        if (*at >= text.length)
            return NULL;
        token = longest_at(set, text, *at);
        if (token && (!token->single_word || stands_alone(text, *at, *at + token->found.length)))
            break;
    }
    *start = *at;
    *at = *end = *at + token->found.length;
    while (token->lstrip && *start > done && code_is_space(utf8_last(text.text, *start)))
        do
            (*start)--;
        while (((unsigned char)text.text[*start] & 0xC0) == 0x80);
    for (size_t next = *end; token->rstrip && next < text.length; *end = next)
        if (!code_is_space(utf8_next(text.text, &next)))
            break;
    return token;
}
