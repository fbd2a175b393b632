/* Two texts as one sample: what a post-processor puts before, between and behind them, which of it is of the
 * second type, and how they are cut to fit. */
#include <string.h>

#include "tokenizer_.h"

/* ---- Templates ------------------------------------------------------------------------------- */

static void pair_clear(Tokenizer *t)
{
    for (int i = 0; i < PAIR_PLACES; i++)
        ids_free(t->context, &t->pair.ids[i]);
    t->pair.zeros = 0;
}

/* A second processor would put its ids around those of the first; of pairs that is not known here. */
static int begin(Tokenizer *t)
{
    t->pair.state = t->pair.state == PAIR_PLAIN ? PAIR_KNOWN : PAIR_UNKNOWN;
    pair_clear(t);
    return t->pair.state == PAIR_KNOWN;
}

static void forget(Tokenizer *t)
{
    pair_clear(t);
    t->pair.state = PAIR_UNKNOWN;
}

int pair_around(Tokenizer *t, int32_t cls, int32_t sep, int twice)
{
    if (!begin(t))
        return ERROR_NONE;
    t->pair.zeros = twice ? PAIR_ALL_ZEROS : 1; /* RoBERTa's types are all 0 */
    if (ids_add(t->context, &t->pair.ids[0], cls) || ids_add(t->context, &t->pair.ids[1], sep) ||
        (twice && ids_add(t->context, &t->pair.ids[1], sep)) || ids_add(t->context, &t->pair.ids[2], sep))
        return error_code();
    return ERROR_NONE;
}

/* The types of a template's items are zeros and then ones, or it is another kind of template. */
typedef struct Types {
    int64_t ids[PAIR_PLACES]; /* zeros of each place's ids */
    int ones, text[2];        /* whether a one has been seen; of the texts */
} Types;

static int take_type(Types *types, const json_t *part, int64_t count, int place)
{
    json_int_t type = json_integer_value(json_object_get(part, "type_id"));
    if (type != 0 && type != 1)
        return 0;
    if (type == 0 && types->ones)
        return 0;
    types->ones |= type == 1;
    if (type == 0 && place >= 0)
        types->ids[place] += count;
    return 1;
}

/* What is no pair of A and B with types of zeros and ones is left unknown: single texts do without it. */
int pair_template(const Reading *r, const json_t *object, PairIds add)
{
    Tokenizer *t = r->tokenizer;
    const json_t *pair = json_object_get(object, "pair");
    Types types = {{0}, 0, {0}};
    int texts = 0, good = begin(t) && json_is_array(pair);
    for (size_t i = 0; good && i < json_array_size(pair); i++) {
        const json_t *item = json_array_get(pair, i), *token = json_object_get(item, "SpecialToken"),
                     *sequence = json_object_get(item, "Sequence");
        const char *id = json_string_value(json_object_get(sequence, "id"));
        if (token) {
            size_t before = t->pair.ids[texts].count;
            if (add(r, object, token, &t->pair.ids[texts]))
                return error_code();
            good = take_type(&types, token, (int64_t)(t->pair.ids[texts].count - before), texts);
        } else {
            good = texts < 2 && id && !strcmp(id, texts ? "B" : "A") && take_type(&types, sequence, 0, -1);
            types.text[texts ? 1 : 0] = types.ones;
            texts++;
        }
    }
    if (!good || texts != 2 || types.text[0])
        forget(t);
    else
        t->pair.zeros = !types.ones ? PAIR_ALL_ZEROS : !types.text[1] ? (int64_t)-2 : types.ids[1];
    if (t->pair.zeros == -2) /* ones begin behind the second text */
        forget(t);
    return ERROR_NONE;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

/* As the Python package's "longest_first" leaves them of a and b tokens, where `most` have room. */
void tokenizer_cut_longest(size_t *a, size_t *b, size_t most)
{
    size_t less = *a < *b ? *a : *b, more = less > most || most - less < less ? less : most - less;
    if (*a + *b <= most)
        return;
    if (less + more > most) {
        less = most / 2;
        more = most - less;
    }
    size_t *shorter = *a <= *b ? a : b, *longer = *a <= *b ? b : a;
    *shorter = less;
    *longer = more;
}

static int encode_one(Tokenizer *t, Span text, size_t most, TokenIds *out, size_t *whole)
{
    size_t begin = out->count, around = t->before.count + t->after.count;
    if (ids_add_all(t->context, out, t->before.ids, t->before.count))
        return error_code();
    size_t first = out->count;
    if (tokenizer_encode(t, text.text, text.length, 0, out))
        return error_code();
    *whole = out->count - begin + t->after.count;
    if (most && *whole > most)
        out->count = first + (most > around ? most - around : 0);
    return ids_add_all(t->context, out, t->after.ids, t->after.count);
}

static int encode_two(Tokenizer *t, Span a, Span b, size_t most, TokenIds *out, EncodedSample *sample)
{
    const PairTemplate *p = &t->pair;
    TokenIds first = {0}, second = {0};
    size_t begin = out->count, around = p->ids[0].count + p->ids[1].count + p->ids[2].count;
    int status = tokenizer_encode(t, a.text, a.length, 0, &first);
    if (!status)
        status = tokenizer_encode(t, b.text, b.length, 0, &second);
    sample->whole = first.count + second.count + around;
    if (most)
        tokenizer_cut_longest(&first.count, &second.count, most > around ? most - around : 0);
    if (!status && (ids_add_all(t->context, out, p->ids[0].ids, p->ids[0].count) ||
                    ids_add_all(t->context, out, first.ids, first.count) ||
                    ids_add_all(t->context, out, p->ids[1].ids, p->ids[1].count) ||
                    ids_add_all(t->context, out, second.ids, second.count) ||
                    ids_add_all(t->context, out, p->ids[2].ids, p->ids[2].count)))
        status = error_code();
    sample->zeros =
        p->zeros == PAIR_ALL_ZEROS ? out->count - begin : p->ids[0].count + first.count + (size_t)p->zeros;
    ids_free(t->context, &first);
    ids_free(t->context, &second);
    return status;
}

int tokenizer_encode_sample(Tokenizer *t, Span a, const Span *b, size_t most, TokenIds *out,
                            EncodedSample *sample)
{
    size_t begin = out->count;
    *sample = (EncodedSample){0};
    if (b)
        return encode_two(t, a, *b, most, out, sample);
    int status = encode_one(t, a, most, out, &sample->whole);
    sample->zeros = out->count - begin;
    return status;
}
