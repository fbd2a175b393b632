/* Text as it comes. With a tokenizer a token's text depends on those before it, so some of them are decoded
 * again each time, and what is new is shown. */
#include <inttypes.h>
#include <string.h>

#include "../memtrack/memtrack.h"
#include "stream.h"

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

static int utf8_length(unsigned char first)
{
    return first < 0x80                    ? 1
           : first >= 0xc2 && first < 0xe0 ? 2
           : (first & 0xf0) == 0xe0        ? 3
           : first >= 0xf0 && first < 0xf5 ? 4
                                           : 0;
}

/* Longer forms of shorter letters, surrogates, what is past U+10FFFF, and the controls from U+0080 to U+009F,
 * which a terminal obeys as it does ESC. */
static int utf8_second_is_bad(unsigned char first, unsigned char second)
{
    return (first == 0xc2 && second < 0xa0) || (first == 0xe0 && second < 0xa0) ||
           (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
           (first == 0xf4 && second > 0x8f);
}

static void utf8_give_up(Utf8 *u)
{
    if (u->have)
        fputs(replacement, u->out);
    u->have = 0;
}

static void utf8_put(Utf8 *u, char c)
{
    unsigned char byte = (unsigned char)c;
    if (u->have &&
        ((byte & 0xc0) != 0x80 || (u->have == 1 && utf8_second_is_bad((unsigned char)u->bytes[0], byte))))
        utf8_give_up(u);
    if (!u->have)
        u->needs = utf8_length(byte);
    u->bytes[u->have++] = c;
    if (!u->needs || (byte < ' ' && byte != '\n' && byte != '\t') || byte == 0x7f) {
        utf8_give_up(u);
    } else if (u->have == u->needs) {
        fwrite(u->bytes, 1, (size_t)u->have, u->out);
        u->have = 0;
    }
}

void stream_text(FILE *out, const char *text)
{
    Utf8 letters = {.out = out};
    for (; *text; text++)
        utf8_put(&letters, *text);
    utf8_give_up(&letters);
}

/* ---- Without a tokenizer --------------------------------------------------------------------- */

/* A token is a byte, or beyond that a number. */
enum { BYTES = 256, NUMBER_MOST = 16 };

static void put_byte(Utf8 *u, int32_t token)
{
    char number[NUMBER_MOST];
    if (token < BYTES) {
        utf8_put(u, (char)token);
        return;
    }
    snprintf(number, sizeof number, "<%" PRId32 ">", token);
    for (const char *c = number; *c; c++)
        utf8_put(u, *c);
}

/* ---- The stream ------------------------------------------------------------------------------ */

static size_t decoded_bytes(Tokenizer *tokenizer, const int32_t *tokens, int count)
{
    TokenText text = {0};
    tokenizer_decode(tokenizer, tokens, (size_t)count, 1, &text);
    size_t bytes = text.bytes;
    tokenizer_text_free(tokenizer, &text);
    return bytes;
}

int stream_begin(TextStream *s, FILE *out, Tokenizer *tokenizer, const int32_t *prompt, int prompt_tokens,
                 int most)
{
    *s = (TextStream){.out = {.out = out}, .tokenizer = tokenizer};
    if (!tokenizer)
        return 0;
    s->room = prompt_tokens + most;
    s->tokens = memtrack_host_alloc(NULL, (size_t)s->room * sizeof *s->tokens);
    if (!s->tokens)
        return -1;
    memcpy(s->tokens, prompt, (size_t)prompt_tokens * sizeof *prompt);
    s->count = prompt_tokens;
    s->shown = decoded_bytes(tokenizer, s->tokens, s->count);
    return 0;
}

/* What ends in U+FFFD may become letters with the tokens that follow: a byte that is no letter yet. */
static size_t decided_bytes(const TokenText *text)
{
    size_t end = text->bytes, one = sizeof replacement - 1;
    while (end >= one && !memcmp(text->text + end - one, replacement, one))
        end -= one;
    return end;
}

enum { WINDOW = 64, WINDOW_KEPT = 8 };

static void show(TextStream *s, int all)
{
    TokenText text = {0};
    tokenizer_decode(s->tokenizer, s->tokens + s->base, (size_t)(s->count - s->base), 1, &text);
    size_t end = all ? text.bytes : decided_bytes(&text);
    for (; s->shown < end; s->shown++)
        utf8_put(&s->out, text.text[s->shown]);
    int whole = end == text.bytes;
    tokenizer_text_free(s->tokenizer, &text);
    if (whole && s->count - s->base > WINDOW) { /* a long text is not decoded again and again */
        s->base = s->count - WINDOW_KEPT;
        s->shown = decoded_bytes(s->tokenizer, s->tokens + s->base, WINDOW_KEPT);
    }
}

void stream_add(TextStream *s, const int32_t *tokens, int count)
{
    if (!s->tokenizer) {
        for (int i = 0; i < count; i++)
            put_byte(&s->out, tokens[i]);
        return;
    }
    for (int i = 0; i < count && s->count < s->room; i++)
        s->tokens[s->count++] = tokens[i];
    show(s, 0);
}

void stream_end(TextStream *s)
{
    if (s->tokens)
        show(s, 1);
    if (s->out.out)
        utf8_give_up(&s->out);
    memtrack_host_free(NULL, s->tokens, (size_t)s->room * sizeof *s->tokens);
    s->tokens = NULL;
}

/* Each byte may become U+FFFD. */
size_t stream_bytes(Tokenizer *tokenizer, const int32_t *prompt, int prompt_tokens, const int32_t *tokens,
                    int count)
{
    size_t bytes = (size_t)count * NUMBER_MOST;
    if (tokenizer)
        bytes = decoded_bytes(tokenizer, prompt, prompt_tokens) + decoded_bytes(tokenizer, tokens, count);
    return 3 * (bytes + NUMBER_MOST) + 1;
}
