/* What the tokenizer's files share. A text goes through added tokens, normalizers, pre-tokenizers (splits)
 * and the model, piece by piece; nothing keeps offsets, because nobody here asks where a token came from. */
#ifndef BRIM_TOKENIZER_INTERNAL_H
#define BRIM_TOKENIZER_INTERNAL_H

#include <jansson.h>
#include <string.h>

#include "../base/file_.h"
#include "../tensor/tensor_.h"
#include "tokenizer.h"

#define TOKENIZER_MAKER "tokenizer_read"
#define MOST_TEXT       ((int64_t)1 << 40) /* bytes of a text that is read whole */

/* Bytes that belong to someone else; valid UTF-8 unless said otherwise. */
typedef struct Span {
    const char *text;
    size_t length;
} Span;

/* ---- Memory and text (tokenizer_text.c) ------------------------------------------------------ */

/* Room for `more` bytes behind text->bytes and a NUL. 0, or an error raised. */
int text_reserve(Context *context, TokenText *text, size_t more);
int text_add(Context *context, TokenText *text, const char *bytes, size_t count);
int text_add_code(Context *context, TokenText *text, int32_t code);
void text_free(Context *context, TokenText *text);
int ids_add(Context *context, TokenIds *ids, int32_t id);
int ids_add_all(Context *context, TokenIds *ids, const int32_t *from, size_t count);
void ids_free(Context *context, TokenIds *ids);

int utf8_write(char out[4], int32_t code); /* returns how many bytes */
/* Whether all of it is UTF-8, NULs included. */
int utf8_valid(const char *text, size_t bytes);
/* How many parts are not, and where the first begins; -1 = none. */
int64_t utf8_invalid(const char *text, size_t bytes, int64_t *first);
/* Appends with U+FFFD in place of what is not UTF-8. */
int utf8_repair(Context *context, TokenText *out, const char *text, size_t bytes);

/* The character at `at` of valid UTF-8, and where the next begins. */
static inline int32_t utf8_next(const char *text, size_t *at)
{
    const unsigned char *b = (const unsigned char *)text + *at;
    if (b[0] < 0x80) {
        *at += 1;
        return b[0];
    }
    if (b[0] < 0xE0) {
        *at += 2;
        return (b[0] & 0x1F) << 6 | (b[1] & 0x3F);
    }
    if (b[0] < 0xF0) {
        *at += 3;
        return (b[0] & 0x0F) << 12 | (b[1] & 0x3F) << 6 | (b[2] & 0x3F);
    }
    *at += 4;
    return (b[0] & 0x07) << 18 | (b[1] & 0x3F) << 12 | (b[2] & 0x3F) << 6 | (b[3] & 0x3F);
}

/* The last character of a text that is not empty. */
int32_t utf8_last(const char *text, size_t length);

int code_is_space(int32_t code);       /* White_Space */
int code_is_word(int32_t code);        /* \w of Rust's regex: letters, marks, digits, connectors, joiners */
int code_is_punctuation(int32_t code); /* Bert's: ASCII's punctuation and Unicode's P* */
int code_is_mark(int32_t code);        /* M* */
int code_is_chinese(int32_t code);     /* the blocks BERT puts spaces around */

uint64_t hash_bytes(const char *text, size_t length);

/* ---- Patterns (tokenizer_regex.c) ------------------------------------------------------------ */

typedef struct Pattern Pattern;
/* Compiles Oniguruma's syntax with PCRE2. NULL with an error raised that begins with `where`. */
Pattern *pattern_create(Context *context, const char *where, const char *text, size_t length);
void pattern_free(Pattern *pattern);
/* What backtracking a text of so many bytes may take from here on, beyond a thousand steps at a place. */
void pattern_begin(Pattern *pattern, size_t bytes);
/* The first match in text[from..length): 1 and its place, 0 for none, -1 with an error raised. */
int pattern_find(Pattern *pattern, const char *text, size_t length, size_t from, size_t *start, size_t *end);

/* What a Split or Replace looks for. */
typedef struct Finder {
    Span literal;
    Pattern *pattern; /* NULL: the literal */
} Finder;
/* Goes from match to match; last_end must begin as SIZE_MAX, at as 0. Returns as pattern_find. */
typedef struct FinderPlace {
    size_t at, last_end, start, end;
} FinderPlace;
int finder_next(const Finder *finder, const char *text, size_t length, FinderPlace *place);

/* ---- Steps ----------------------------------------------------------------------------------- */

typedef enum NormalKind {
    NORMAL_NFC,
    NORMAL_NFD,
    NORMAL_NFKC,
    NORMAL_NFKD,
    NORMAL_LOWER,
    NORMAL_STRIP_MARKS,      /* M* */
    NORMAL_STRIP_NONSPACING, /* Mn, BERT's */
    NORMAL_STRIP,
    NORMAL_REPLACE,
    NORMAL_PREPEND,
    NORMAL_CLEAN,   /* BERT's */
    NORMAL_CHINESE, /* BERT's */
    NORMAL_NMT,     /* SentencePiece's control characters and spaces */
    NORMAL_CHARSMAP,
    NORMAL_BYTES /* to letters of GPT-2's alphabet */
} NormalKind;

/* SentencePiece's map of characters (tokenizer_charsmap.c). */
typedef struct Charsmap {
    uint32_t *units; /* the trie */
    size_t count;
    Span texts;
    Span ascii[128]; /* what each becomes; .text NULL: it stays */
} Charsmap;

typedef struct NormalStep {
    NormalKind kind;
    Finder finder;   /* REPLACE */
    Span content;    /* REPLACE, PREPEND */
    int left, right; /* STRIP */
    Charsmap *map;   /* CHARSMAP */
} NormalStep;

typedef enum Behavior { CUT_REMOVED, CUT_ISOLATED, CUT_PREVIOUS, CUT_NEXT, CUT_CONTIGUOUS } Behavior;

typedef enum SplitKind {
    SPLIT_BYTES, /* ByteLevel's last part: bytes become letters of GPT-2's alphabet */
    SPLIT_SPACE, /* prepend a space where there is none: ByteLevel's add_prefix_space */
    SPLIT_FIND,  /* a literal or a pattern */
    SPLIT_METASPACE,
    SPLIT_WHITESPACE, /* \w+|[^\w\s]+ */
    SPLIT_SPACES,     /* WhitespaceSplit */
    SPLIT_BERT,
    SPLIT_DIGITS,
    SPLIT_PUNCTUATION
} SplitKind;

typedef enum PrependScheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } PrependScheme;

typedef struct SplitStep {
    SplitKind kind;
    Finder finder;     /* FIND */
    Behavior behavior; /* FIND, DIGITS, PUNCTUATION */
    int invert;        /* FIND */
    Span replacement;  /* METASPACE */
    PrependScheme scheme;
    int cut;        /* METASPACE: split before each replacement */
    TokenText text; /* what the step writes where it changes text */
} SplitStep;

typedef enum DecodeKind {
    DECODE_BYTES,
    DECODE_METASPACE,
    DECODE_WORDPIECE,
    DECODE_FALLBACK,
    DECODE_FUSE,
    DECODE_STRIP,
    DECODE_REPLACE,
    DECODE_SUFFIX
} DecodeKind;

typedef struct DecodeStep {
    DecodeKind kind;
    Finder finder; /* REPLACE */
    Span content;  /* REPLACE: what with; METASPACE: what for a space; WORDPIECE: prefix; SUFFIX; STRIP */
    int first;     /* METASPACE: the first one is not written */
    int cleanup;   /* WORDPIECE */
    size_t left, right; /* STRIP */
} DecodeStep;

enum { MOST_STEPS = 32 };

/* ---- Vocabulary (tokenizer_vocab.c) ---------------------------------------------------------- */

typedef struct VocabEntry {
    const char *text; /* NULL: no such id; a NUL follows */
    uint32_t length;
    uint8_t special, added;
} VocabEntry;

typedef struct VocabSlot {
    uint32_t hash; /* its upper bits */
    int32_t id;    /* -1: empty */
} VocabSlot;

typedef struct Vocabulary {
    VocabEntry *entries; /* by id, added tokens among them */
    int32_t ids;         /* entries */
    VocabSlot *slots;    /* of the model's own tokens */
    size_t mask;         /* slots - 1 */
    int32_t model_count; /* tokens of the model */
    size_t longest;      /* bytes of its longest token */
} Vocabulary;

int32_t vocab_find(const Vocabulary *vocab, const char *token, size_t length); /* -1: none */

/* Hashes are the same everywhere, so a file may hold tokens or pairs that all go to one place. What looks
 * further than this for a free one is refused on reading; usual files stay below a hundred. */
enum { MOST_PROBES = 4096 };

typedef struct AddedToken {
    Span content;
    Span found; /* what is searched: the content, normalized if the token is */
    int32_t id;
    uint8_t special, lstrip, rstrip, single_word, normalized;
} AddedToken;

/* Added tokens that are searched at the same time, sorted by what is searched. */
typedef struct AddedSet {
    const AddedToken **tokens;
    int count;
    uint8_t begins[256]; /* whether one begins with this byte */
} AddedSet;

/* ---- Models ---------------------------------------------------------------------------------- */

typedef struct MergeSlot {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: empty */
    uint32_t rank;
    int32_t id;
} MergeSlot;

typedef struct Bpe {
    MergeSlot *merges;
    int shift;                 /* 64 - log2(slots) */
    int32_t byte_ids[256];     /* of the letters of GPT-2's alphabet; -1: none */
    int32_t fallback_ids[256]; /* of <0x00> …; -1: none */
    int32_t ascii_ids[128];    /* of single characters */
    int32_t unknown;           /* -1: none; what is unknown is left out */
    Span unknown_text;
    int unknown_missing; /* there is a name and no such token: an error when it is needed */
    Span prefix, suffix; /* continuing_subword_prefix, end_of_word_suffix */
    int fuse_unknown, byte_fallback, ignore_merges;
    int cuts; /* no token goes over a ▁ that follows something else: such a place parts words */
    int raw;  /* pieces come as bytes, the last split step being ByteLevel */
} Bpe;

/* Where a pair is looked for first. */
static inline size_t merge_slot(const Bpe *bpe, uint64_t pair)
{
    return (size_t)((pair ^ pair >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> bpe->shift);
}

typedef struct WordPiece {
    int32_t unknown;
    Span prefix;
    size_t most; /* max_input_chars_per_word */
} WordPiece;

typedef struct WordLevel {
    int32_t unknown; /* -1: an error where it is needed */
    Span unknown_text;
} WordLevel;

/* The tokens of a Unigram model by their bytes. The children of a node lie together, by their label. */
typedef struct TrieNode {
    uint32_t first; /* child */
    int32_t id;     /* of the token that ends here; -1: none */
    uint16_t count; /* children */
    uint8_t label;
} TrieNode;

/* Where the best way to a byte of a piece comes from. */
typedef struct Arrival {
    double score; /* of all tokens up to here */
    int32_t id;
    uint32_t length; /* of the last one; 0: no way leads here */
} Arrival;

typedef struct Unigram {
    TrieNode *nodes;
    uint32_t root[256];        /* node after the first byte; 0: none */
    double *scores;            /* by id */
    double unknown_score;      /* of a character that is no token */
    int32_t unknown;           /* -1: none, an error where it is needed */
    int32_t fallback_ids[256]; /* of <0x00> …; -1: none */
    int byte_fallback;
} Unigram;

typedef enum ModelKind { MODEL_BPE, MODEL_WORDPIECE, MODEL_UNIGRAM, MODEL_WORDLEVEL } ModelKind;

enum { CACHED_BYTES = 30, CACHED_IDS = 8, CACHE_SLOTS = 1 << 15 };

/* A word and its ids, in one line of the processor's cache. */
typedef struct CachedWord {
    uint8_t length, count; /* length 0: empty */
    char text[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
} CachedWord;

typedef struct Symbol {
    int32_t id;             /* -1: merged into the one before */
    int32_t previous, next; /* -1: none */
} Symbol;

typedef struct Candidate {
    uint64_t key; /* rank << 32 | place: the smallest is next */
    int32_t left, right;
} Candidate;

/* Blocks that live as long as the tokenizer. */
typedef struct Kept Kept;
struct Kept {
    Kept *next;
    size_t bytes, used; /* with this header */
};

/* What stands around and between two texts (tokenizer_pair.c). Types are zeros and then ones. */
enum { PAIR_PLACES = 3, PAIR_ALL_ZEROS = -1 };
typedef struct PairTemplate {
    enum { PAIR_PLAIN, PAIR_KNOWN, PAIR_UNKNOWN } state; /* nothing; ids; no such pairs are made here */
    TokenIds ids[PAIR_PLACES];                           /* before, between and behind them */
    int64_t zeros; /* of the ids between: those of type 0, behind which all is 1; or PAIR_ALL_ZEROS */
} PairTemplate;

struct Tokenizer {
    ScopeItem item; /* first: a scope sees only this */
    Context *context;
    struct TokenSource *source; /* the text last made into ids for a loader (tokens.c) */
    Kept *kept;
    Vocabulary vocab;
    AddedToken *added;
    int added_count;
    AddedSet raw_added, normal_added; /* searched before and after normalizing */
    ModelKind model;
    Bpe bpe;
    WordPiece wordpiece;
    Unigram unigram;
    WordLevel wordlevel;
    NormalStep normals[MOST_STEPS];
    SplitStep splits[MOST_STEPS];
    DecodeStep decodes[MOST_STEPS];
    int normal_count, split_count, decode_count, has_decoder;
    TokenIds before, after; /* what add_special puts around */
    PairTemplate pair;

    CachedWord *cache;
    TokenIds *out; /* of the encode that runs */
    TokenText repaired, normal[2], word;
    size_t most;   /* bytes that the normalizers, or the decoders, may make of the text at hand */
    size_t left;   /* and the normalizers of all that comes between added tokens */
    size_t origin; /* of the text that is being normalized */
    Symbol *symbols;
    Candidate *heap;
    size_t symbol_room, heap_room, heap_count; /* in items */
    Arrival *arrivals;                         /* one for each byte of a piece, and one */
    size_t arrival_room;
    TokenText parts[2]; /* decoding: the tokens' texts, one after the other */
    size_t *ends[2];    /* and where each ends */
    size_t end_room[2];
};

Tokenizer *tokenizer_create(void);
/* Zeroed, until the tokenizer goes; NULL with an error raised. */
void *keep(Tokenizer *t, size_t bytes);
Span keep_text(Tokenizer *t, const char *text, size_t length); /* .text NULL with an error raised */

typedef struct EncodedSample {
    size_t whole; /* tokens that it has uncut */
    size_t zeros; /* its first tokens, which are of type 0; the rest are of type 1 */
} EncodedSample;
/* Appends the ids of a text, or of two (b not NULL, and pair.state not PAIR_UNKNOWN), with what the
 * post-processor puts around them; cut at their ends to `most` tokens (0: whole), of two the longer one
 * first, as the Python package does. Returns an error code. */
int tokenizer_encode_sample(Tokenizer *t, Span a, const Span *b, size_t most, TokenIds *out,
                            EncodedSample *sample);
/* Of a and b tokens, those that are kept where `most` have room. */
void tokenizer_cut_longest(size_t *a, size_t *b, size_t most);

typedef struct Reading Reading;

/* ---- The parts ------------------------------------------------------------------------------- */

/* Replacements of a file may multiply a text, step after step. What they may make of so many bytes; and
 * whether they have made more: then ERROR_DATA is raised. */
size_t text_most(size_t bytes);
int text_too_long(const Tokenizer *t, const TokenText *text, const char *who);

/* A Metaspace of the scheme first asks whether a piece begins where the text did: of its first bytes, so many
 * do (`origin`) by the offsets that the Python package keeps. Usually those of the first character; none, if
 * a normalizer took it away; with what it put before it, more. */

/* Appends the normalized text to one of the two buffers, and says which; or passes the text through. */
int normalize(Tokenizer *t, Span text, size_t *origin, Span *out);
/* Cuts a piece as the steps from `step` on say and gives what is left to the model. */
int split_piece(Tokenizer *t, int step, Span piece, size_t origin);
static inline size_t origin_from(size_t origin, size_t from)
{
    return origin > from ? origin - from : 0;
}
/* A word to ids. */
int model_word(Tokenizer *t, Span word);
int bpe_word(Tokenizer *t, Span word, TokenIds *out);
int bpe_pieces(Tokenizer *t, Span piece); /* cuts where no token can go over, then model_word */
int wordpiece_word(Tokenizer *t, Span word, TokenIds *out);
int unigram_word(Tokenizer *t, Span word, TokenIds *out);
/* The ids of <0x00> … <0xFF>, -1 where there is none; and those of a text's bytes, if all have one: *added.
 */
void fallback_find(const Vocabulary *vocab, int32_t ids[256]);
int fallback_add(Context *context, const int32_t ids[256], Span text, TokenIds *out, int *added);
const MergeSlot *bpe_merge(const Bpe *bpe, int32_t left, int32_t right); /* NULL: none */
/* The normalizer of SentencePiece's map; NULL with an error raised; and what it makes of a text, appended. */
Charsmap *reading_charsmap(const Reading *r, const json_t *object);
int charsmap_normalize(Tokenizer *t, const Charsmap *map, Span in, TokenText *out);
/* Where the grapheme cluster that begins at `at` ends (tokenizer_graphemes.c). */
size_t cluster_end(Span text, size_t at);
/* Sorts the added tokens into the two sets. */
int added_build(Tokenizer *t);
/* The next added token at or after *at: fills its place and returns it; NULL when there is none. */
const AddedToken *added_next(const AddedSet *set, Span text, size_t *at, size_t *start, size_t *end);

/* GPT-2's alphabet: a byte's letter and back (-1: none). */
int32_t alphabet_code(int byte);
int alphabet_byte(int32_t code);

#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Gives one holder's share back. NULL is fine. (tokens.c) */
void token_source_release(Context *context, struct TokenSource *source);

/* ---- Reading (tokenizer_read.c, tokenizer_model.c, tokenizer_steps.c) ------------------------ */

/* Where a message is about: the file, and the part of it. */
struct Reading {
    Tokenizer *tokenizer;
    const char *file;
    int nuls; /* the JSON has NULs, hidden as NUL_MARK from jansson, which takes none in keys */
};

#define NUL_MARK "\xEF\xB7\x90" /* U+FDD0, no character */

/* Raises "FILE: …". Returns the error code. */
int reading_fail(const Reading *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* With its NULs again; a copy that the tokenizer keeps. .text NULL with an error raised. */
Span reading_keep(const Reading *r, const char *text, size_t length);
/* The same without a copy where there are none. */
Span reading_span(const Reading *r, const char *text, size_t length);
/* Of a post-processor that puts cls and sep around a text: sep, twice or once, is between two. Returns an
 * error code. (tokenizer_pair.c) */
int pair_around(Tokenizer *t, int32_t cls, int32_t sep, int twice);
/* Of TemplateProcessing; add: appends the ids of a SpecialToken. */
typedef int (*PairIds)(const Reading *r, const json_t *object, const json_t *token, TokenIds *to);
int pair_template(const Reading *r, const json_t *object, PairIds add);
int reading_model(const Reading *r, const json_t *model);
/* Which of the four it is, by its type or, in files of old, by what it has; an error raised for others. */
int reading_kind(const Reading *r, const json_t *model);
int reading_vocab(const Reading *r, const json_t *vocab, const json_t *added);
int reading_unigram(const Reading *r, const json_t *model);
int reading_merges(const Reading *r, const json_t *merges);
int reading_steps(const Reading *r, const json_t *root);
/* A text field: 1 and *out, 0 when it is absent or null, -1 with an error raised. */
int reading_text(const Reading *r, const json_t *object, const char *part, const char *name, Span *out);
/* A boolean field, `otherwise` when absent or null; -1 with an error raised. */
int reading_bool(const Reading *r, const json_t *object, const char *part, const char *name, int otherwise);

/* A token as a message shows it: short, printable. */
typedef struct ShownText {
    char text[64];
} ShownText;
ShownText shown(const char *text, size_t length);

/* A whole file in memory of the context; NULL with an error raised. Free with host_free(context, text, bytes
 * + 1). */
char *file_text(const char *maker, const char *path, int64_t most, int64_t *bytes);

#endif
