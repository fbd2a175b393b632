/* Which modules an adapter_config.json means, as PEFT decides it: names by their whole or by their end,
 * patterns by PCRE2, which reads Python's as far as anybody writes them. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/ends_.h"
#include "adapter_.h"
#include "family_.h"

enum { STEPS_MOST = 1 << 20, PATTERN_MOST = 1 << 14 };

/* ---- Patterns -------------------------------------------------------------------------------- */

/* A pattern of a field, with what stands before and behind it. */
typedef struct Pattern {
    const AdapterConfig *config;
    const char *field, *before, *text, *after;
    uint32_t flags; /* PCRE2's, beside that it matches from the first letter on */
} Pattern;

static int no_memory(const Pattern *p)
{
    error_raise(ERROR_HOST_MEMORY, "%s: no host memory for %s", p->config->shown, p->field);
    return -1;
}

static int bad_pattern(const Pattern *p, int number)
{
    char why[120] = "";
    if (number == PCRE2_ERROR_HEAP_FAILED || number == PCRE2_ERROR_NOMEMORY)
        return no_memory(p);
    pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
    error_raise(ERROR_DATA, "%s: the pattern %s in %s is not read: %s; a list of module names works too",
                p->config->shown, string_text(p->text).text, p->field, why);
    return -1;
}

/* 1 with the number that the group idx has matched, 0, or -1 after raising. */
static int run(const Pattern *p, pcre2_general_context *memory, const pcre2_code *code, const char *subject,
               char *index)
{
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, memory);
    pcre2_match_context *limits = pcre2_match_context_create(memory);
    int got = PCRE2_ERROR_NOMEMORY;
    if (match && limits) {
        pcre2_set_match_limit(limits, STEPS_MOST);
        pcre2_set_heap_limit(limits, 1 << 12); /* KiB */
        got = pcre2_match(code, (PCRE2_SPTR)subject, strlen(subject), 0, 0, match, limits);
    }
    if (got > 0 && index) {
        PCRE2_SIZE bytes = 24;
        if (pcre2_substring_copy_byname(match, (PCRE2_SPTR) "idx", (PCRE2_UCHAR *)index, &bytes))
            strcpy(index, "-1"); /* a number that no layer has */
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(match);
    return got == PCRE2_ERROR_NOMATCH ? 0 : got > 0 ? 1 : bad_pattern(p, got);
}

static int matches(const Pattern *p, const char *subject, char *index)
{
    size_t bytes = strlen(p->before) + strlen(p->text) + strlen(p->after) + 1;
    Context *context = context_here();
    char *whole = bytes <= PATTERN_MOST ? host_alloc(bytes) : NULL;
    int number = 0, found = -1;
    PCRE2_SIZE at = 0;
    if (!whole && !error_code())
        error_raise(ERROR_DATA, "%s: a pattern in %s has more than %d bytes", p->config->shown, p->field,
                    PATTERN_MOST);
    if (!whole)
        return -1;
    snprintf(whole, bytes, "%s%s%s", p->before, p->text, p->after);
    pcre2_general_context *memory = pcre2_general_context_create(host_sized_alloc, host_sized_free, context);
    pcre2_compile_context *rules = memory ? pcre2_compile_context_create(memory) : NULL;
    pcre2_code *code = rules ? pcre2_compile((PCRE2_SPTR)whole, PCRE2_ZERO_TERMINATED,
                                             PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C | p->flags,
                                             &number, &at, rules)
                             : NULL;
    if (code)
        found = run(p, memory, code, subject, index);
    else
        found = rules ? bad_pattern(p, number) : no_memory(p);
    pcre2_code_free(code);
    pcre2_compile_context_free(rules);
    pcre2_general_context_free(memory);
    host_free(context, whole, bytes);
    return found;
}

/* ---- Names ----------------------------------------------------------------------------------- */

typedef enum Named { NAMED_ERROR = -1, NAMED_NOT, NAMED_BY_END, NAMED_WHOLE } Named;

/* By a list of names, or a pattern of whole paths. */
static Named named(const AdapterConfig *c, const char *field, const json_t *names, const char *path)
{
    size_t i;
    const json_t *name;
    Named found = NAMED_NOT;
    if (json_is_string(names)) {
        Pattern p = {c, field, "", json_string_value(names), "", PCRE2_ENDANCHORED};
        int whole = matches(&p, path, NULL);
        return whole < 0 ? NAMED_ERROR : whole ? NAMED_WHOLE : NAMED_NOT;
    }
    json_array_foreach((json_t *)names, i, name)
    {
        if (!strcmp(path, json_string_value(name)))
            return NAMED_WHOLE;
        found = path_is_named(path, json_string_value(name), json_string_length(name)) ? NAMED_BY_END : found;
    }
    return found;
}

/* What PEFT takes where the file names none. */
static Named is_usual(const AdapterPlace *place)
{
    const FamilyFiles *files = family_files_named(place->family);
    for (int i = 0; files && i < 2; i++) {
        const char *name = files->adapted[i];
        if (name && path_is_named(place->path, name, strlen(name)))
            return NAMED_BY_END;
    }
    return NAMED_NOT;
}

/* ---- Layers ---------------------------------------------------------------------------------- */

/* Of "model.layers.1.mlp": the first number that has two words before it and something behind; -1 = none. */
static int64_t first_number(const char *path)
{
    int words = 0;
    for (const char *at = path; *at; words++) {
        size_t length = strcspn(at, "."), digits = strspn(at, "0123456789");
        if (words >= 2 && length && digits == length && at[length])
            return strtoll(at, NULL, 10);
        at += length + (at[length] == '.');
    }
    return -1;
}

/* The number of the layer that the path lies in: -1 where there is none, -2 after raising. */
static int64_t layer_of(const AdapterConfig *c, const char *path)
{
    char index[24] = "";
    size_t count = json_is_array(c->inside) ? json_array_size(c->inside) : 1;
    if (!c->inside)
        return first_number(path);
    for (size_t i = 0; i < count; i++) {
        const json_t *pattern = json_is_array(c->inside) ? json_array_get(c->inside, i) : c->inside;
        Pattern p = {
            c, "layers_pattern", "(?:^|.*?\\.)", json_string_value(pattern), "\\.(?P<idx>[0-9]{1,9})\\.", 0};
        int found = matches(&p, path, index);
        if (found)
            return found > 0 ? strtoll(index, NULL, 10) : -2;
    }
    return -1;
}

static int is_in_layers(const AdapterConfig *c, const char *path)
{
    size_t i;
    const json_t *layer;
    if (!c->layers)
        return 1;
    int64_t number = layer_of(c, path);
    if (number < 0)
        return number == -1 ? 0 : -1;
    json_array_foreach((json_t *)c->layers, i, layer)
    {
        if (json_integer_value(layer) == number)
            return 1;
    }
    return json_is_integer(c->layers) && json_integer_value(c->layers) == number;
}

/* ---- What the configuration means for a module ------------------------------------------------- */

int adapter_is_in(const char *parameter, const char *module)
{
    size_t length = strlen(module);
    for (const char *dot = strchr(parameter, '.'); dot; dot = strchr(dot + 1, '.'))
        if ((size_t)(dot - parameter) >= length && !strncmp(dot - length, module, length))
            return 1;
    return 0;
}

int adapter_saves(const AdapterConfig *c, const char *parameter)
{
    size_t i;
    const json_t *name;
    json_array_foreach((json_t *)c->saved, i, name)
    {
        if (adapter_is_in(parameter, json_string_value(name)))
            return 1;
    }
    return 0;
}

/* Of the module's path a parameter's name is made, for adapter_saves. */
static int is_saved(const AdapterConfig *c, const char *path)
{
    char parameter[512];
    return snprintf(parameter, sizeof parameter, "%s.weight", path) < (int)sizeof parameter &&
           adapter_saves(c, parameter);
}

/* A module that is named by its whole path is meant in whatever layer it is. */
int adapter_targets(const AdapterConfig *c, const AdapterPlace *place)
{
    Named out = named(c, "exclude_modules", c->exclude, place->path);
    if (out || is_saved(c, place->path))
        return out < 0 ? -1 : 0;
    if (c->all_linear)
        return !place->embedding && !place->head;
    Named in = c->targets ? named(c, "target_modules", c->targets, place->path) : is_usual(place);
    return in == NAMED_BY_END ? is_in_layers(c, place->path) : in == NAMED_WHOLE ? 1 : in;
}

/* The number of the first pattern that is the path or an end of it; NULL = none. 0 or raises. */
static int patterned(const AdapterConfig *c, const char *field, const json_t *patterns, const char *path,
                     const json_t **number)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)patterns, key, value)
    {
        Pattern p = {c, field, "(?:.*\\.)?(?:", key, ")", PCRE2_ENDANCHORED};
        int found = matches(&p, path, NULL);
        if (found)
            *number = found > 0 ? value : NULL;
        if (found)
            return found > 0 ? 0 : error_code();
    }
    return 0;
}

int adapter_strength(const AdapterConfig *c, const char *path, int *rank, double *alpha)
{
    const json_t *other = NULL;
    *rank = c->rank;
    *alpha = c->alpha;
    if (patterned(c, "rank_pattern", c->ranks, path, &other))
        return error_code();
    if (other)
        *rank = (int)json_integer_value(other);
    other = NULL;
    if (patterned(c, "alpha_pattern", c->alphas, path, &other))
        return error_code();
    if (other)
        *alpha = json_number_value(other);
    return 0;
}
