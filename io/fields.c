/* Fields of a JSON object by type and range. A wrong one is an error that names file, field, value and what
 * would work. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "../base/printable_.h"
#include "../base/nearest_.h"
#include "io_.h"

/* ---- Values in messages ---------------------------------------------------------------------- */

ValueText string_text(const char *text)
{
    ValueText out;
    size_t n = 0, most = sizeof out.text - 6; /* quotes, an ellipsis and the end */
    out.text[n++] = '"';
    while (*text && n < most)
        out.text[n++] = *text++;
    if (*text) {
        while (n > 1 && ((unsigned char)*text & 0xC0) == 0x80) /* not within a letter of several bytes */
            text--, n--;
        memcpy(out.text + n, "…", strlen("…"));
        n += strlen("…");
    }
    out.text[n] = '"';
    out.text[n + 1] = '\0';
    make_printable(out.text);
    return out;
}

int text_is_utf8(const char *text)
{
    utf8proc_int32_t letter;
    for (utf8proc_ssize_t length; *text; text += length)
        if ((length = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &letter)) <= 0)
            return 0;
    return 1;
}

ValueText value_text(const json_t *value)
{
    ValueText out = {"absent"};
    if (json_is_string(value))
        return string_text(json_string_value(value));
    if (json_is_integer(value))
        snprintf(out.text, sizeof out.text, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value)) {
        snprintf(out.text, sizeof out.text, "%.15g", json_real_value(value));
        if (!strpbrk(out.text, ".en"))
            strcat(out.text, ".0");
    } else if (value)
        strcpy(out.text, json_is_true(value)    ? "true"
                         : json_is_false(value) ? "false"
                         : json_is_null(value)  ? "null"
                         : json_is_array(value) ? "a list"
                                                : "an object");
    return out;
}

void model_note(IoModel *model, const char *format, ...)
{
    size_t used = strlen(model->note), space = sizeof model->note - used;
    char text[sizeof model->note];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (strlen(text) + 2 <= space)
        snprintf(model->note + used, space, "%s%s", used ? " " : "", text);
}

/* ---- Errors ---------------------------------------------------------------------------------- */

void fields_fail(Fields *f, const char *format, ...)
{
    char text[384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!f->failed)
        f->failed = error_raise(ERROR_DATA, "%s: %s", f->file, text);
}

void fields_refuse(Fields *f, const char *name, const char *format, ...)
{
    char wanted[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(wanted, sizeof wanted, format, arguments);
    va_end(arguments);
    fields_fail(f, "%s%s must be %s, not %s", f->within, name, wanted,
                value_text(json_object_get(f->object, name)).text);
}

/* ---- Types ----------------------------------------------------------------------------------- */

const json_t *fields_get(Fields *f, const char *name)
{
    for (int i = 0; i < f->asked_count; i++)
        if (!strcmp(f->asked[i], name))
            return json_object_get(f->object, name);
    if (f->asked_count < FIELDS_MAX)
        f->asked[f->asked_count++] = name;
    return json_object_get(f->object, name);
}

int fields_null(Fields *f, const char *name)
{
    return json_is_null(fields_get(f, name));
}

int fields_count(Fields *f, const char *name, int otherwise, int least, int most)
{
    const json_t *value = fields_get(f, name);
    if (!value)
        return otherwise;
    json_int_t n = json_integer_value(value);
    if (json_is_integer(value) && n >= least && n <= most)
        return (int)n;
    fields_refuse(f, name, "a whole number from %d to %d", least, most);
    return otherwise;
}

int fields_optional(Fields *f, const char *name, int otherwise, int null, int most)
{
    return fields_null(f, name) ? null : fields_count(f, name, otherwise, 1, most);
}

double fields_number(Fields *f, const char *name, double otherwise, double least, double most)
{
    const json_t *value = fields_get(f, name);
    if (!value)
        return otherwise;
    double x = json_number_value(value);
    if (json_is_number(value) && x >= least && x <= most)
        return x;
    fields_refuse(f, name, "a number from %g to %g", least, most);
    return otherwise;
}

double fields_probability(Fields *f, const char *name, double otherwise)
{
    const json_t *value = fields_get(f, name);
    if (!value)
        return otherwise;
    double x = json_number_value(value);
    if (json_is_number(value) && x >= 0 && (float)x < 1)
        return x;
    fields_refuse(f, name, "a probability, from 0 to below 1");
    return otherwise;
}

int fields_flag(Fields *f, const char *name, int otherwise)
{
    const json_t *value = fields_get(f, name);
    if (json_is_null(value))
        return 0; /* as Python takes it */
    if (value && !json_is_boolean(value))
        fields_refuse(f, name, "true or false");
    return value && json_is_boolean(value) ? json_is_true(value) : otherwise;
}

const char *fields_text(Fields *f, const char *name, const char *otherwise)
{
    const json_t *value = fields_get(f, name);
    if (value && !json_is_string(value))
        fields_refuse(f, name, "a string");
    return json_is_string(value) ? json_string_value(value) : otherwise;
}

void fields_must(Fields *f, const char *name, int wanted, const char *reason)
{
    if (fields_flag(f, name, wanted) != wanted)
        fields_fail(f, "%s%s is %s: %s", f->within, name, value_text(fields_get(f, name)).text, reason);
}

void fields_only(Fields *f, const char *name, double wanted, const char *reason)
{
    const json_t *value = fields_get(f, name);
    if (value && !json_is_null(value) && !(json_is_number(value) && json_number_value(value) == wanted))
        fields_fail(f, "%s%s must be %g, not %s: %s", f->within, name, wanted, value_text(value).text,
                    reason);
}

void fields_empty(Fields *f, const char *name, const char *reason)
{
    const json_t *value = fields_get(f, name);
    int empty = !value || json_is_null(value) || (json_is_object(value) && !json_object_size(value)) ||
                (json_is_array(value) && !json_array_size(value));
    if (!empty)
        fields_fail(f, "%s%s is %s: %s", f->within, name, value_text(value).text, reason);
}

/* ---- What nobody asked for ------------------------------------------------------------------- */

static int listed(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (!strcmp(*list, name))
            return 1;
    return 0;
}

static int was_asked(const Fields *f, const char *name)
{
    for (int i = 0; i < f->asked_count; i++)
        if (!strcmp(f->asked[i], name))
            return 1;
    return 0;
}

/* A field that is two letters away from this one, or NULL. */
static const char *similar(const Fields *f, const char *name)
{
    const char *best = NULL;
    int least = 3;
    for (int i = 0; i < f->asked_count; i++) {
        int distance = strlen(name) > 5 ? name_distance(name, f->asked[i]) : least;
        if (distance < least) {
            least = distance;
            best = f->asked[i];
        }
    }
    return best;
}

static int begins(const char *name, const char *with)
{
    return !strncmp(name, with, strlen(with));
}

/* Of a mixture of experts. */
static int is_of_experts(const char *name)
{
    return strstr(name, "expert") || strstr(name, "router") || begins(name, "moe_");
}

/* null, or none of what is counted: the file says that there is no such thing. */
static int is_nothing(const char *name, const json_t *value)
{
    int count = begins(name, "num_") || begins(name, "n_") || is_of_experts(name);
    return json_is_null(value) || (count && json_is_integer(value) && !json_integer_value(value));
}

/* The file says that it has no experts; then what it says of them says nothing. */
static int has_no_experts(const Fields *f)
{
    static const char *const counts[] = {"num_experts", "num_local_experts", "n_routed_experts"};
    int said = 0;
    for (int i = 0; i < 3; i++) {
        const json_t *value = json_object_get(f->object, counts[i]);
        if (value && !is_nothing(counts[i], value))
            return 0;
        said |= value != NULL;
    }
    return said;
}

static void refuse_unknown(Fields *f, const char *name)
{
    char whole[VALUE_TEXT];
    snprintf(whole, sizeof whole, "%s%s", f->within, name);
    ValueText shown = string_text(whole);
    if (is_of_experts(name))
        fields_fail(f,
                    "the field %s: of mixtures of experts those of mixtral, qwen2_moe and qwen3_moe are "
                    "computed",
                    shown.text);
    else if (similar(f, name))
        fields_fail(f, "the field %s is unknown; is %s meant?", shown.text, similar(f, name));
    else
        fields_fail(
            f,
            "the field %s is unknown, and an unknown field may change memory; remove it from a copy of "
            "the file if it does not",
            shown.text);
}

void fields_leftover(Fields *f, const char *const *harmless)
{
    const char *name;
    json_t *value;
    int experts = !has_no_experts(f);
    json_object_foreach((json_t *)f->object, name, value)
    {
        int known = was_asked(f, name) || listed(name, harmless) || is_nothing(name, value);
        if (!known && (experts || !is_of_experts(name)))
            refuse_unknown(f, name);
    }
}
