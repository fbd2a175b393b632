/* Which version of Unicode says so. The Python package asks several tables of different ages: Oniguruma and
 * Rust know Unicode 16 and 17, the crates behind its normal forms and BERT know 8 to 10; PCRE2 10.42 knows
 * 14, utf8proc 2.8 knows 15. The differences, character by character as the package 0.23 shows them, are in
 * tokenizer_unicode.c. */
#ifndef BRIM_TOKENIZER_UNICODE_INTERNAL_H
#define BRIM_TOKENIZER_UNICODE_INTERNAL_H

#include <stdint.h>

typedef struct CodeRange {
    int32_t low, high;
} CodeRange;

/* Whether one of the ranges, which are in order, holds the character. */
int unicode_within(const CodeRange *ranges, size_t count, int32_t code);

typedef struct CodeRanges {
    const CodeRange *range;
    int count;
} CodeRanges;

/* What a property (as in \p{L}; \w too) holds that PCRE2 10.42 leaves out; for Han all of it. Often nothing.
 */
CodeRanges unicode_newer(const char *property);
int unicode_is_script(const char *property);

int unicode_unknown_mark(int32_t code);        /* to StripAccents */
int unicode_unknown_nonspacing(int32_t code);  /* to BERT's strip_accents */
int unicode_unknown_to_forms(int32_t code);    /* to NFC and its kin */
int unicode_unknown_punctuation(int32_t code); /* to BERT */
int unicode_newer_digit(int32_t code);         /* a number, and utf8proc does not know */
int unicode_newer_word(int32_t code);          /* \w of Rust, and utf8proc does not know */
/* In lower case where utf8proc has nothing; 0: utf8proc is right. */
int32_t unicode_newer_lower(int32_t code);

#endif
