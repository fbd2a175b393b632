/* Whole numbers and sizes, as people type them. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "flags_.h"

int parse_whole(const char *name, const char *text, int64_t low, int64_t high, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        return usage("%s must be a whole number from %" PRId64 " to %" PRId64 ", not '%s'", name, low, high,
                     text);
    *out = value;
    return 0;
}

/* A unit in whatever case people write it, but for Gb and Gib, which are bits. With an i it is binary; so is
 * a letter alone, as in most tools. */
static double unit_bytes(const char *unit)
{
    static const char letters[] = "kmgt";
    if (!unit[0] || !strcasecmp(unit, "b"))
        return 1;
    const char *letter = strchr(letters, tolower((unsigned char)unit[0]));
    if (!letter || (isupper((unsigned char)unit[0]) && unit[strlen(unit) - 1] == 'b'))
        return 0;
    int power = (int)(letter - letters) + 1, binary = !unit[1] || !strcasecmp(unit + 1, "ib");
    if (!binary && strcasecmp(unit + 1, "b") != 0)
        return 0;
    return pow(binary ? 1024 : 1000, power);
}

int parse_size(const char *name, const char *text, uint64_t *out)
{
    char *end;
    double value = strtod(text, &end);
    double bytes = end == text ? 0 : value * unit_bytes(end);
    if (!(bytes >= 1 && bytes < 0x1p62))
        return usage("%s must be a size like 800MiB, 16GiB or a number of bytes, not '%s'", name, text);
    if (!end[0] && value < 4096) /* nothing fits that, and cards have so many GiB */
        return usage("%s %s means %s byte%s; did you mean %sGiB?", name, text, text, value == 1 ? "" : "s",
                     text);
    *out = (uint64_t)bytes;
    return 0;
}
