/* The built-in corpus, so that a first run needs no download: short stories, talk, letters, ballads, sums
 * that are true and sentences whose verbs agree, from a grammar of our own. A byte model finds something to
 * learn at every level: letters, words, spelling of plurals, who "she" is, which line rhymes, what seven plus
 * five is. A text of n bytes is the beginning of every longer one of the same seed.
 */
#include <stdio.h>
#include <string.h>

#include "../base/philox_.h"
#include "corpus_.h"
#include "data.h"

#define COUNT(list)   ((int)(sizeof(list) / sizeof((list)[0])))
#define STREAM_CORPUS 0x636F7270u /* "corp": keeps these numbers apart from other uses of the seed */

/* What a paragraph is about, so that its sentences speak of the same people and things. */
typedef struct Scene {
    const char *a, *b; /* two people */
    int a_is_woman, b_is_woman;
    const Noun *thing, *creature;
    const char *place;
} Scene;

typedef struct Writer {
    char *text;
    size_t size, at;
    uint64_t seed, block; /* next Philox block */
    Philox bits;
    int used;             /* of the four words in bits */
    int capital, article; /* pending for the next letter */
    Scene scene;
} Writer;

static int pick(Writer *w, int n)
{
    if (w->used == 4) {
        w->bits = philox4x32(w->seed, (uint32_t)w->block, (uint32_t)(w->block >> 32), 0, STREAM_CORPUS);
        w->block++;
        w->used = 0;
    }
    return (int)(((uint64_t)w->bits.v[w->used++] * (uint64_t)n) >> 32);
}

static void put_char(Writer *w, char c)
{
    if (w->at < w->size)
        w->text[w->at++] = c;
}

/* A character of a sentence: the pending "an" and capital take effect at its first letter. */
static void put(Writer *w, char c)
{
    if (!w->article && !w->capital) {
        put_char(w, c);
        return;
    }
    int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter && w->article) {
        w->article = 0;
        if (strchr("aeiouAEIOU", c))
            put_char(w, 'n');
        put_char(w, ' ');
    }
    if (letter && w->capital) {
        w->capital = 0;
        if (c >= 'a')
            c = (char)(c - 'a' + 'A');
    }
    put_char(w, c);
}

static void put_text(Writer *w, const char *text)
{
    while (*text)
        put(w, *text++);
}

static void put_digits(Writer *w, int n)
{
    char text[16];
    snprintf(text, sizeof text, "%d", n);
    put_text(w, text);
}

/* 0..99 in words. */
static void put_number(Writer *w, int n)
{
    if (n < 20) {
        put_text(w, SMALL_NUMBERS[n]);
        return;
    }
    put_text(w, TENS[n / 10]);
    if (n % 10) {
        put(w, '-');
        put_text(w, SMALL_NUMBERS[n % 10]);
    }
}

/* ---- Sentences ------------------------------------------------------------------------------- */

static void expand(Writer *w, const char *sentence);

/* Slots that speak of the paragraph's scene; 0 when the letter is not one of them. */
static const char *scene_slot(const Scene *s, char slot)
{
    switch (slot) {
    case 'A':
        return s->a;
    case 'B':
        return s->b;
    case 'h':
        return s->a_is_woman ? "she" : "he";
    case 'i':
        return s->a_is_woman ? "her" : "him";
    case 's':
        return s->a_is_woman ? "her" : "his";
    case 'k':
        return s->b_is_woman ? "she" : "he";
    case 'j':
        return s->b_is_woman ? "her" : "him";
    case 'z':
        return s->b_is_woman ? "her" : "his";
    case 't':
        return s->thing->one;
    case 'T':
        return s->thing->many;
    case 'c':
        return s->creature->one;
    case 'C':
        return s->creature->many;
    case 'p':
        return s->place;
    default:
        return NULL;
    }
}

static const char *random_slot(Writer *w, char slot)
{
    switch (slot) {
#define X(letter, list)                                                                                      \
    case letter:                                                                                             \
        return list[pick(w, COUNT(list))];
        CORPUS_SLOTS(X)
#undef X
    case '1':
        return THINGS[pick(w, COUNT(THINGS))].one;
    case '2':
        return THINGS[pick(w, COUNT(THINGS))].many;
    case '3':
        return CREATURES[pick(w, COUNT(CREATURES))].one;
    case '4':
        return CREATURES[pick(w, COUNT(CREATURES))].many;
    case 'm':
        return SMALL_NUMBERS[2 + pick(w, 11)];
    default:
        return "";
    }
}

static void expand(Writer *w, const char *sentence)
{
    for (const char *c = sentence; *c; c++) {
        if (*c == '^') {
            w->capital = 1;
        } else if (*c == '~') {
            w->article = 1;
        } else if (*c == '$') {
            const char *text = scene_slot(&w->scene, *++c);
            expand(w, text ? text : random_slot(w, *c)); /* lists hold slots, too; they nest four deep */
        } else {
            put(w, *c);
        }
    }
}

static void sentence(Writer *w, const char *text)
{
    w->capital = 1;
    expand(w, text);
}

static void new_scene(Writer *w)
{
    Scene *s = &w->scene;
    s->a_is_woman = pick(w, 2);
    s->b_is_woman = !s->a_is_woman; /* so that "he" and "she" are never in doubt */
    const char *woman = WOMEN[pick(w, COUNT(WOMEN))], *man = MEN[pick(w, COUNT(MEN))];
    s->a = s->a_is_woman ? woman : man;
    s->b = s->a_is_woman ? man : woman;
    s->thing = &THINGS[pick(w, COUNT(THINGS))];
    s->creature = &CREATURES[pick(w, COUNT(CREATURES))];
    s->place = PLACES[pick(w, COUNT(PLACES))];
}

/* ---- Paragraphs ------------------------------------------------------------------------------ */

static void story(Writer *w)
{
    /* Steps of a prime that does not divide the count: no sentence comes twice in one story. */
    static const int strides[] = {1, 3, 7, 11, 13};
    int at = pick(w, COUNT(MIDDLES)), stride = strides[pick(w, COUNT(strides))], count = 2 + pick(w, 4);
    sentence(w, OPENINGS[pick(w, COUNT(OPENINGS))]);
    for (int i = 0; i < count; i++) {
        put(w, ' ');
        sentence(w, MIDDLES[(at + i * stride) % COUNT(MIDDLES)]);
    }
    put(w, ' ');
    sentence(w, ENDINGS[pick(w, COUNT(ENDINGS))]);
    put(w, '\n');
}

static void talk(Writer *w)
{
    int turns = 1 + pick(w, 3), at = pick(w, COUNT(QUESTIONS));
    for (int i = 0; i < turns; i++) {
        int question = (at + 5 * i) % COUNT(QUESTIONS);
        sentence(w, QUESTIONS[question]);
        expand(w, i % 2 ? " asked $B.\n" : " asked $A.\n");
        sentence(w, ANSWERS[question][pick(w, 3)]);
        expand(w, i % 2 ? " $l $A.\n" : " $l $B.\n");
    }
}

static void ballad(Writer *w)
{
    int stanzas = 1 + pick(w, 2), refrain = pick(w, 2), at = pick(w, COUNT(VERSE_FREE));
    const char *burden = REFRAINS[pick(w, COUNT(REFRAINS))];
    for (int i = 0; i < stanzas; i++) {
        const char *const *ends = VERSE_ENDS[pick(w, COUNT(VERSE_ENDS))];
        int first = pick(w, 6), second = (first + 1 + pick(w, 5)) % 6;
        for (int line = 0; line < 2; line++) {
            sentence(w, VERSE_FREE[(at + 2 * i + line) % COUNT(VERSE_FREE)]);
            put(w, '\n');
            expand(w, ends[line ? second : first]);
            put(w, '\n');
        }
        if (refrain) {
            put_text(w, "    ");
            sentence(w, burden);
            put_text(w, " sing ho.\n");
        }
    }
}

static void letter(Writer *w)
{
    int at = pick(w, COUNT(LETTERS)), count = 2 + pick(w, 3);
    sentence(w, "dear $A,\n");
    for (int i = 0; i < count; i++) {
        sentence(w, LETTERS[(at + 2 * i) % COUNT(LETTERS)]);
        put(w, i + 1 < count ? ' ' : '\n');
    }
    sentence(w, "yours, $B\n");
}

static void week(Writer *w)
{
    int day = pick(w, 7), count = 3 + pick(w, 3);
    for (int i = 0; i < count; i++) {
        sentence(w, "on ");
        put_text(w, DAYS[(day + i) % 7]);
        expand(w, i ? " $h " : " $A ");
        static const char *const did[] = {"$V a~$a $x.", "$V $m $X.", "$v $n $q.", "ate $f, because $r.",
                                          "saw a~$b $u."};
        expand(w, did[pick(w, COUNT(did))]);
        put(w, i + 1 < count ? ' ' : '\n');
    }
}

static void sayings(Writer *w)
{
    int count = 1 + pick(w, 3), at = pick(w, COUNT(SAYINGS));
    for (int i = 0; i < count; i++) {
        sentence(w, SAYINGS[(at + 3 * i) % COUNT(SAYINGS)]);
        put(w, i + 1 < count ? ' ' : '\n');
    }
}

/* "The old dogs sleep near the mill, but the young cat hides." */
static void subject_and_verb(Writer *w)
{
    int many = pick(w, 2);
    const Noun *noun = &CREATURES[pick(w, COUNT(CREATURES))];
    const Verb *verb = &DO[pick(w, COUNT(DO))];
    if (many && pick(w, 3) == 0)
        expand(w, "$m $b ");
    else
        expand(w, pick(w, 3) ? "the $b " : many ? "all the " : "every ");
    put_text(w, many ? noun->many : noun->one);
    if (pick(w, 3) ==
        0) /* a noun of the other number between subject and verb: the one to agree with is further back */
        expand(w, many ? " of the $o" : " of the $os");
    put(w, ' ');
    put_text(w, many ? verb->many : verb->one);
}

static void agreement(Writer *w)
{
    static const char *const joints[] = {", but ", ", and ", " when ", " while ", "; "};
    int count = 1 + pick(w, 4);
    for (int i = 0; i < count; i++) {
        w->capital = 1;
        subject_and_verb(w);
        if (pick(w, 2))
            expand(w, " $n $q");
        put_text(w, joints[pick(w, COUNT(joints))]);
        subject_and_verb(w);
        put(w, '.');
        put(w, i + 1 < count ? ' ' : '\n');
    }
}

/* ---- Sums ------------------------------------------------------------------------------------ */

static void sum_in_words(Writer *w)
{
    int a = 1 + pick(w, 20), b = 1 + pick(w, 20), minus = pick(w, 2);
    w->capital = 1;
    put_number(w, minus ? a + b : a);
    put_text(w, minus ? " minus " : " plus ");
    put_number(w, b);
    put_text(w, " is ");
    put_number(w, minus ? a : a + b);
    put(w, '.');
}

static void sum_in_digits(Writer *w)
{
    int kind = pick(w, 3), a = 2 + pick(w, kind == 2 ? 8 : 48), b = 2 + pick(w, kind == 2 ? 8 : 48);
    put_digits(w, kind == 1 ? a + b : a);
    put_text(w, kind == 0 ? " + " : kind == 1 ? " - " : " x ");
    put_digits(w, b);
    put_text(w, " = ");
    put_digits(w, kind == 0 ? a + b : kind == 1 ? a : a * b);
    put(w, '.');
}

static void sum_of_things(Writer *w)
{
    int a = 2 + pick(w, 30), b = 2 + pick(w, 20), gives = pick(w, 2);
    const Noun *thing = &THINGS[pick(w, COUNT(THINGS))];
    sentence(w, "$A has ");
    put_digits(w, gives ? a + b : a);
    put(w, ' ');
    put_text(w, thing->many);
    expand(w, gives ? " and gives $B " : " and buys ");
    put_digits(w, b);
    expand(w, gives ? ". ^now $h has " : " more. ^now $h has ");
    put_digits(w, gives ? a : a + b);
    put(w, '.');
}

static void counting(Writer *w)
{
    int from = pick(w, 30), by = 1 + pick(w, 10), count = 4 + pick(w, 4);
    sentence(w, "count by ");
    put_number(w, by);
    put_text(w, ": ");
    for (int i = 0; i < count; i++) {
        put_digits(w, from + i * by);
        put_text(w, i + 1 < count ? ", " : ".");
    }
}

static void sums(Writer *w)
{
    static void (*const kinds[])(Writer *) = {sum_in_words, sum_in_digits, sum_of_things, counting};
    int count = 2 + pick(w, 3);
    for (int i = 0; i < count; i++) {
        kinds[pick(w, COUNT(kinds))](w);
        put(w, i + 1 < count ? ' ' : '\n');
    }
}

void data_corpus(uint64_t seed, char *text, size_t bytes)
{
    /* Stories most often, by appearing more often. */
    static void (*const paragraphs[])(Writer *) = {story,  story,     story, story, talk,   talk,
                                                   ballad, agreement, sums,  week,  letter, sayings};
    Writer w = {.text = text, .size = text ? bytes : 0, .seed = seed, .used = 4};
    while (w.at < w.size) {
        new_scene(&w);
        paragraphs[pick(&w, COUNT(paragraphs))](&w);
        put_char(&w, '\n');
    }
}
