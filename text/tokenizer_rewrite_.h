/* A pattern on its way from Oniguruma's syntax to PCRE2's, which two files share. */
#ifndef BRIM_TOKENIZER_REWRITE_INTERNAL_H
#define BRIM_TOKENIZER_REWRITE_INTERNAL_H

#include "tokenizer_.h"
#include "tokenizer_unicode_.h"

enum { REWRITTEN_BYTES = 1 << 20 }; /* PCRE2 takes four times that to read it */

typedef struct Rewrite {
    Context *context;
    const char *where, *text;
    size_t length, at;
    int in_class;    /* what is written are members of a class, without brackets */
    int within;      /* it comes from a class, with brackets of its own or without */
    int fold;        /* under (?i) */
    TokenText folds; /* and for each open group whether it was before */
    TokenText out;
} Rewrite;

/* All of the text, into out. (tokenizer_rewrite.c) */
int rewrite_all(Rewrite *r);
/* The escape at r->at. */
int rewrite_escape(Rewrite *r);
/* The class whose [ is at r->at. (tokenizer_class.c) */
int rewrite_class(Rewrite *r);
/* More than REWRITTEN_BYTES: then an error is raised. */
int rewrite_too_long(const Rewrite *r, size_t bytes);
int rewrite_refuse(const Rewrite *r, const char *what); /* raises "the pattern has WHAT at byte …" */
int rewrite_put(Rewrite *r, const char *text);

#endif
