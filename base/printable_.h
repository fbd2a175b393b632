/* What a terminal obeys instead of showing it: messages and tables show names from files and from the
 * environment, and do not hand it on. For every folder. */
#ifndef BRIM_MEMTRACK_PRINTABLE_H
#define BRIM_MEMTRACK_PRINTABLE_H

/* How many bytes of a control character a text begins with, 0 of any other: C0 and DEL, and C1 as UTF-8
 * writes it. */
static inline int control_bytes(const char *text)
{
    unsigned char first = (unsigned char)text[0];
    if (first == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0)
        return 2;
    return first && (first < ' ' || first == 0x7f);
}

/* Each byte of control characters becomes '?'. */
static inline void make_printable(char *text)
{
    while (*text) {
        int bytes = control_bytes(text);
        for (int i = 0; i < bytes; i++)
            text[i] = '?';
        text += bytes ? bytes : 1;
    }
}

#endif
