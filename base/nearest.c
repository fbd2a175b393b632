/* The nearest names. No list is long and each is asked at most once a message: all is compared with all. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "nearest_.h"

NameKey name_key(const char *name)
{
    NameKey key;
    size_t n = 0;
    for (; *name && n + 1 < sizeof key.text; name++) {
        if (*name >= 'A' && *name <= 'Z')
            key.text[n++] = (char)(*name - 'A' + 'a');
        else if ((*name >= 'a' && *name <= 'z') || (*name >= '0' && *name <= '9'))
            key.text[n++] = *name;
    }
    key.text[n] = '\0';
    return key;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Damerau's distance with adjacent swaps ("optimal string alignment"), three rows of its table at a time. */
int name_distance(const char *a, const char *b)
{
    int rows[3][NAME_KEY + 1], columns = (int)strnlen(b, NAME_KEY);
    for (int j = 0; j <= columns; j++)
        rows[0][j] = j;
    int i = 0;
    for (; i < NAME_KEY && a[i]; i++) {
        const int *above = rows[i % 3], *higher = rows[(i + 2) % 3];
        int *row = rows[(i + 1) % 3];
        row[0] = i + 1;
        for (int j = 1; j <= columns; j++) {
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (a[i] != b[j - 1]));
            if (i > 0 && j > 1 && a[i] == b[j - 2] && a[i - 1] == b[j - 1])
                row[j] = least(row[j], higher[j - 2] + 1);
        }
    }
    return rows[i % 3][columns];
}

static int begins_with(const char *text, const char *beginning)
{
    return !strncmp(text, beginning, strlen(beginning));
}

/* How far one name is; INT_MAX: too far. Each rule's distances lie beyond those of the rule before. */
static int farness(const char *typed, const char *name)
{
    enum { RULE = 1000, SHORT = 4, MIDDLE = 8 };
    int length = (int)strlen(typed), same = 0, name_length = (int)strlen(name);
    if (length > 1 && begins_with(name, typed))
        return 0;
    if (name_length > 1 && begins_with(typed, name))
        return RULE - name_length;
    int distance = name_distance(typed, name);
    if (distance <= (length <= SHORT ? 1 : length <= MIDDLE ? 2 : 3))
        return RULE + distance;
    while (typed[same] && typed[same] == name[same])
        same++;
    return same >= 3 ? 3 * RULE - same : INT_MAX;
}

NearestNames nearest_names(const char *typed, const NameList *names)
{
    NearestNames nearest = {.count = 0};
    NameKey (*key)(const char *) = names->key ? names->key : name_key;
    NameKey wanted = key(typed);
    int best = INT_MAX;
    const char *name;
    for (int i = 0; wanted.text[0] && (name = names->at(i, names->user)); i++) {
        int far = farness(wanted.text, key(name).text);
        if (far < best) {
            best = far;
            nearest.count = 0;
        }
        if (far != INT_MAX && far == best && nearest.count < NEAREST_MOST)
            nearest.name[nearest.count++] = name;
    }
    return nearest;
}

NearestText nearest_text(const char *typed, const NameList *names, const char *before)
{
    NearestText out = {""};
    NearestNames nearest = nearest_names(typed, names);
    for (int i = 0, used = 0; i < nearest.count && used < (int)sizeof out.text; i++)
        used += snprintf(out.text + used, sizeof out.text - (size_t)used, "%s%s%.*s",
                         i ? ", " : "; nearest: ", before, NAME_KEY, nearest.name[i]);
    return out;
}
