/* brim tokenize: a tokenizer trained on a text, a text as a .bin of ids, ids as text. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../base/nearest_.h"
#include "../base/plural_.h"
#include "cli.h"
#include "flags_.h"

enum { MOST_SPECIAL = 64, MOST_WORDS = 4096 };

typedef struct Request {
    const char *train, *tokenizer, *out, *special, *vocab, *min_count, *invalid_utf8;
    int decode, json;
    const char *words[MOST_WORDS]; /* what is no option */
    int count;
} Request;

static const struct {
    const char *name;
    size_t offset;
    int is_switch;
    const char *help;
} flags[] = {
    {"--train", offsetof(Request, train), 0, "TEXT      train a byte-level BPE on this text"},
    {"--vocab", offsetof(Request, vocab), 0, "N         tokens in its vocabulary (4096)"},
    {"--min-count", offsetof(Request, min_count), 0, "N     merge only pairs that occur this often (2)"},
    {"--special", offsetof(Request, special), 0,
     "A,B,…   special tokens, first in the result (<|endoftext|>)"},
    {"--tokenizer", offsetof(Request, tokenizer), 0, "FILE  a tokenizer.json, or its directory"},
    {"--out", offsetof(Request, out), 0, "FILE        the file to write: tokenizer.json, or .bin of ids"},
    {"-o", offsetof(Request, out), 0, "FILE           the same"},
    {"--invalid-utf8", offsetof(Request, invalid_utf8), 0,
     "refuse|replace  what is not UTF-8 in the text (refuse)"},
    {"--decode", offsetof(Request, decode), 1, "         decode: the words are ids"},
    {"--json", offsetof(Request, json), 1, "           print one JSON object"},
};

void tokenize_help(FILE *out)
{
    fprintf(out, "\nbrim tokenize --train TEXT --vocab N --out tokenizer.json\n"
                 "brim tokenize --tokenizer FILE TEXT -o out.bin   ids, 2 or 4 bytes each\n"
                 "brim tokenize --tokenizer FILE TEXT              the ids as numbers\n"
                 "brim tokenize --tokenizer FILE --decode 1 2 3\n\n"
                 "TEXT: a file, - (a pipe), a .gz, a.txt,b.txt, or a folder of .txt.\n\n");
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        fprintf(out, "  %s %s\n", flags[i].name, flags[i].help);
}

static const char *flag_name(int i, const void *user)
{
    (void)user;
    return i < (int)(sizeof flags / sizeof flags[0]) ? flags[i].name : NULL;
}

static int parse(Request *r, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        size_t k = 0, count = sizeof flags / sizeof flags[0];
        char *value = argv[i][0] == '-' ? strchr(argv[i], '=') : NULL; /* --name=value */
        size_t length = value ? (size_t)(value - argv[i]) : strlen(argv[i]);
        while (k < count && (strlen(flags[k].name) != length || strncmp(argv[i], flags[k].name, length)))
            k++;
        if (k == count && argv[i][0] == '-' && argv[i][1])
            return usage("unknown option '%s'%s; `brim help tokenize` lists them", argv[i],
                         nearest_text(argv[i], &(NameList){.at = flag_name}, "").text);
        if (k == count && r->count == MOST_WORDS)
            return usage("more than %d words", MOST_WORDS);
        if (k == count) {
            r->words[r->count++] = argv[i];
            continue;
        }
        void *field = (char *)r + flags[k].offset;
        if (flags[k].is_switch && value)
            return usage("%s takes no value", flags[k].name);
        if (flags[k].is_switch)
            *(int *)field = 1;
        else if (value)
            *(const char **)field = value + 1;
        else if (++i < argc)
            *(const char **)field = argv[i];
        else
            return usage("%s needs a value", flags[k].name);
    }
    return 0;
}

static int number(const char *name, const char *text, int64_t low, int64_t high, int64_t *out)
{
    return text ? parse_whole(name, text, low, high, out) : 0;
}

static int replaces(const Request *r)
{
    return r->invalid_utf8 && !strcmp(r->invalid_utf8, "replace");
}

/* ---- Training -------------------------------------------------------------------------------- */

static int train(const Request *r)
{
    static char list[4096];
    const char *special[MOST_SPECIAL];
    TokenizerTraining o = {0};
    if (!r->out)
        return usage("--train needs --out: the tokenizer.json to write");
    if (r->tokenizer || r->decode || r->count)
        return usage(
            "--train makes a tokenizer; it goes with --vocab, --min-count, --special and --out alone");
    if (number("--vocab", r->vocab, 257, 1 << 24, &o.vocab) ||
        number("--min-count", r->min_count, 1, INT64_C(1) << 53, &o.min_count))
        return EXIT_USAGE;
    if (r->special) {
        if (strlen(r->special) >= sizeof list)
            return usage("--special is too long");
        strcpy(list, r->special);
        for (char *at = strtok(list, ","); at; at = strtok(NULL, ",")) {
            if (o.specials == MOST_SPECIAL)
                return usage("--special takes at most %d tokens", MOST_SPECIAL);
            special[o.specials++] = at;
        }
        o.special = special;
    }
    o.replace_invalid = replaces(r);
    if (same_file(r->out, r->train))
        return usage("--out %s would be written over the text", r->out);
    if (tokenizer_train(r->train, r->out, &o))
        return say_error();
    Tokenizer *t = tokenizer_read(r->out);
    if (!t)
        return say_error();
    int64_t got = tokenizer_vocab(t), wanted = o.vocab ? o.vocab : 4096;
    if (r->json)
        json_print(json_pack("{s:o, s:I}", "tokenizer", json_text(r->out), "vocab", (json_int_t)got));
    else
        printf("%s: %s tokens%s\n", r->out, report_count(got).text,
               got < wanted ? "; the text has no more pairs that come as often as --min-count says" : "");
    tokenizer_free(t);
    return EXIT_DONE;
}

/* ---- A text to ids --------------------------------------------------------------------------- */

typedef struct Bin {
    const TokenIds *ids;
    int width;
} Bin;

static int fill_bin(FILE *out, void *user)
{
    const Bin *bin = user;
    for (size_t i = 0; i < bin->ids->count; i++) {
        uint32_t id = (uint32_t)bin->ids->ids[i];
        uint8_t bytes[4] = {(uint8_t)id, (uint8_t)(id >> 8), (uint8_t)(id >> 16), (uint8_t)(id >> 24)};
        if (fwrite(bytes, 1, (size_t)bin->width, out) != (size_t)bin->width)
            return -1;
    }
    return 0;
}

static int show_ids(const Request *r, const Tokenizer *t, const TokenIds *ids, int64_t bytes)
{
    int width = tokenizer_vocab(t) > 65536 ? 4 : 2;
    if (r->out && io_write_file(r->out, fill_bin, &(Bin){ids, width}))
        return say_error();
    if (r->json) {
        json_t *object = json_pack("{s:I, s:I, s:I}", "bytes", (json_int_t)bytes, "tokens",
                                   (json_int_t)ids->count, "vocab", (json_int_t)tokenizer_vocab(t));
        if (r->out)
            json_object_set_new(object, "bytes_per_id", json_integer(width));
        json_print(object);
    } else if (r->out) {
        printf("%s: %s token%s of %d bytes each; %s byte%s of text, %.2f a token\n", r->out,
               report_count((int64_t)ids->count).text, plural((long long)ids->count), width,
               report_count(bytes).text, plural(bytes), ids->count ? (double)bytes / (double)ids->count : 0);
    } else {
        for (size_t i = 0; i < ids->count; i++)
            printf("%d%c", ids->ids[i], i + 1 == ids->count ? '\n' : ' ');
    }
    return EXIT_DONE;
}

static int encode(const Request *r, Tokenizer *t)
{
    TokenIds ids = {0};
    size_t bytes = 0;
    TextInput *input = text_input_read(r->words[0]);
    int failed = !input || tokenizer_encode_input(t, input, replaces(r), 0, &ids);
    if (!failed) {
        TextNote note = text_input_note(input, 0);
        if (note.text[0])
            fprintf(stderr, "brim: note: %s\n", note.text);
        text_input_text(input, &bytes);
    }
    text_input_free(input);
    int status = failed ? say_error() : show_ids(r, t, &ids, (int64_t)bytes);
    tokenizer_ids_free(t, &ids);
    return status;
}

/* ---- Ids to text ----------------------------------------------------------------------------- */

static int decode(const Request *r, Tokenizer *t)
{
    static int32_t ids[MOST_WORDS];
    TokenText text = {0};
    for (int i = 0; i < r->count; i++) {
        int64_t id = 0;
        if (number("an id", r->words[i], 0, tokenizer_vocab(t) - 1, &id))
            return EXIT_USAGE;
        ids[i] = (int32_t)id;
    }
    if (tokenizer_decode(t, ids, (size_t)r->count, 0, &text))
        return say_error();
    if (r->json)
        json_print(json_pack("{s:s%}", "text", text.text ? text.text : "", text.bytes));
    else
        fwrite(text.text ? text.text : "", 1, text.bytes, stdout), putchar('\n');
    tokenizer_text_free(t, &text);
    return EXIT_DONE;
}

int command_tokenize(int argc, char **argv)
{
    static Request r;
    memset(&r, 0, sizeof r);
    if (parse(&r, argc, argv))
        return EXIT_USAGE;
    if (r.invalid_utf8 && !replaces(&r) && strcmp(r.invalid_utf8, "refuse"))
        return usage("--invalid-utf8 must be refuse or replace, not '%s'", r.invalid_utf8);
    if (r.invalid_utf8 && r.decode)
        return usage("--invalid-utf8 is about a text; --decode reads ids");
    if (r.train)
        return train(&r);
    if (!r.tokenizer)
        return usage("tokenize needs --tokenizer FILE, or --train TEXT; `brim tokenize --help` shows both");
    if (r.vocab || r.min_count || r.special)
        return usage("--vocab, --min-count and --special belong to --train");
    if (!r.count || (r.count > 1 && !r.decode))
        return usage(r.decode ? "--decode needs ids" : "tokenize takes one text, not %d", r.count);
    if (same_file(r.out, r.words[0]) || same_file(r.out, r.tokenizer))
        return usage("--out %s would be written over what is read", r.out);
    if (r.decode && r.out)
        return usage("--decode writes to stdout, not to --out");
    Tokenizer *t = tokenizer_read(r.tokenizer);
    if (!t)
        return say_error();
    int status = r.decode ? decode(&r, t) : encode(&r, t);
    tokenizer_free(t);
    return status;
}
