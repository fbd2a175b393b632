/* The nearest names: what a message suggests when a name is not known. One rule for commands, options, cards,
 * models and fields, so that all of them forgive the same slips. */
#ifndef BRIM_NEAREST_H
#define BRIM_NEAREST_H

enum { NAME_KEY = 64, NEAREST_MOST = 3 };

/* A name as names are compared: letters and digits, in lower case, at most NAME_KEY - 1 of them. */
typedef struct NameKey {
    char text[NAME_KEY];
} NameKey;
NameKey name_key(const char *name);

/* The names that there are: the i-th, NULL past the end, and how one is compared (NULL: name_key). */
typedef struct NameList {
    const char *(*at)(int i, const void *user);
    NameKey (*key)(const char *name);
    const void *user;
} NameList;

typedef struct NearestNames {
    const char *name[NEAREST_MOST];
    int count;
} NearestNames;

/* Those that begin with what was typed; or, where none does, those that it begins with; or those that differ
 * by the fewest letters (added, left out, changed, swapped with the next), if these are few; or those with
 * the longest beginning in common, of three letters at least. In the list's order. */
NearestNames nearest_names(const char *typed, const NameList *names);

typedef struct NearestText {
    char text[NEAREST_MOST * (NAME_KEY + 4) + 16];
} NearestText;
/* "; nearest: plan, train", with `before` in front of each name; "" when no name is near. */
NearestText nearest_text(const char *typed, const NameList *names, const char *before);

/* Letters to add, leave out, change or swap with the next one, of the first NAME_KEY of both. */
int name_distance(const char *a, const char *b);

#endif
