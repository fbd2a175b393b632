/* Rotary positions in files of others: rope_theta, and the object that says how positions are stretched,
 * which is called rope_scaling in version 4 of transformers and rope_parameters in version 5. */
#include <stdio.h>
#include <string.h>

#include "family_decoder_.h"

static const struct {
    const char *name; /* the first of a kind is written */
    RopeScalingKind kind;
    int not_computed;
} types[] = {{"default", ROPE_SCALING_NONE, 0},    {"linear", ROPE_SCALING_LINEAR, 0},
             {"dynamic", ROPE_SCALING_DYNAMIC, 0}, {"llama3", ROPE_SCALING_LLAMA3, 0},
             {"yarn", ROPE_SCALING_YARN, 0},       {"longrope", ROPE_SCALING_LONGROPE, 0},
             {"su", ROPE_SCALING_LONGROPE, 0}, /* as Phi-3's first files call it */
             {"ntk", ROPE_SCALING_NONE, 1}};
enum { TYPES = sizeof types / sizeof types[0] };

/* ---- Reading --------------------------------------------------------------------------------- */

/* A number above 0; 0 where it is absent or null, which `needed` refuses. */
static float above_zero(Fields *f, const char *name, int needed)
{
    const json_t *value = fields_get(f, name);
    int absent = !value || json_is_null(value);
    double x = absent ? 0 : fields_number(f, name, 0, 0, 1e9);
    if (absent ? needed : (float)x <= 0)
        fields_refuse(f, name, "a number above 0");
    return (float)x;
}

/* The same, where 0 is as good as absent. */
static float or_zero(Fields *f, const char *name)
{
    return fields_null(f, name) ? 0 : (float)fields_number(f, name, 0, 0, 1e9);
}

static void read_divisors(Fields *f, const char *name, int pairs, float *divisors)
{
    const json_t *list = fields_get(f, name), *item;
    size_t i;
    if (!json_is_array(list) || json_array_size(list) != (size_t)pairs) {
        fields_refuse(f, name, "a list of %d numbers, one for each pair of a head's elements that turn",
                      pairs);
        return;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        divisors[i] = json_is_number(item) ? (float)json_number_value(item) : 0;
        if (!(divisors[i] > 0 && divisors[i] <= 1e9f)) {
            fields_fail(f, "%s%s[%zu] must be a number above 0, not %s", f->within, name, i,
                        value_text(item).text);
            return;
        }
    }
}

static int turning_pairs(const LlamaConfig *c)
{
    return rotary_width(c->head_dim ? c->head_dim : c->dim / c->heads, c->partial_rotary) / 2;
}

static void read_longrope(Fields *f, LlamaConfig *c)
{
    int pairs = turning_pairs(c);
    if (f->failed)
        return;
    if (pairs > ROPE_DIVISORS) {
        fields_fail(f, "%s: longrope is computed for heads of at most %d elements that turn, not %d",
                    f->within, 2 * ROPE_DIVISORS, 2 * pairs);
        return;
    }
    read_divisors(f, "short_factor", pairs, c->rope_divisors.of_short);
    read_divisors(f, "long_factor", pairs, c->rope_divisors.of_long);
}

/* The length that was trained. What stands beside the object goes before what is in it. */
static int read_original(Fields *f, const DecoderKind *kind, const LlamaConfig *c, int beside)
{
    int within = fields_optional(f, "original_max_position_embeddings", 0, 0, MOST_POSITIONS);
    return beside ? beside : kind->original_max_seq ? kind->original_max_seq : within ? within : c->max_seq;
}

/* A stretch that may leave its factor out has the one by which the positions have grown. */
static float grown(Fields *f, const RopeScaling *s, const LlamaConfig *c)
{
    float factor = above_zero(f, "factor", s->kind == ROPE_SCALING_YARN && !fields_null(f, "factor"));
    return factor > 0 ? factor : (float)((double)c->max_seq / s->original_max_seq);
}

static void read_llama3(Fields *f, RopeScaling *s, int beside)
{
    s->low_freq_factor = above_zero(f, "low_freq_factor", 1);
    s->high_freq_factor = above_zero(f, "high_freq_factor", 1);
    if (!f->failed && s->high_freq_factor <= s->low_freq_factor)
        fields_fail(f, "%shigh_freq_factor must be above low_freq_factor %g, not %g", f->within,
                    (double)s->low_freq_factor, (double)s->high_freq_factor);
    if (!beside && !json_is_integer(fields_get(f, "original_max_position_embeddings")))
        fields_refuse(f, "original_max_position_embeddings", "a whole number from 1 to %d", MOST_POSITIONS);
}

/* Numbers that its kind does not need are only checked. beside: an original length outside the object. */
static void read_scaling(Fields *f, RopeScalingKind kind, const DecoderKind *family, int beside,
                         LlamaConfig *c)
{
    static const char *const numbers[] = {"factor",         "low_freq_factor", "high_freq_factor",
                                          "mscale",         "beta_slow",       "beta_fast",
                                          "mscale_all_dim", "attention_factor"};
    RopeScaling s = {.kind = kind, .original_max_seq = read_original(f, family, c, beside)};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        or_zero(f, numbers[i]);
    int yarn = kind == ROPE_SCALING_YARN, longrope = kind == ROPE_SCALING_LONGROPE;
    int untruncated = !fields_flag(f, "truncate", 1);
    if (kind == ROPE_SCALING_NONE)
        return;
    s.factor = yarn || longrope ? grown(f, &s, c) : above_zero(f, "factor", 1);
    if (kind == ROPE_SCALING_LINEAR)
        s.original_max_seq = 0;
    if (kind == ROPE_SCALING_DYNAMIC)
        s.original_max_seq = c->max_seq;
    if (kind == ROPE_SCALING_LLAMA3)
        read_llama3(f, &s, beside);
    if (yarn || longrope)
        s.attention_factor = above_zero(f, "attention_factor", 0);
    if (yarn) {
        s.beta_fast = or_zero(f, "beta_fast");
        s.beta_slow = or_zero(f, "beta_slow");
        s.mscale = or_zero(f, "mscale");
        s.mscale_all_dim = or_zero(f, "mscale_all_dim");
        s.untruncated = untruncated;
    }
    if (longrope && s.original_max_seq < 2)
        fields_fail(f, "%soriginal_max_position_embeddings must be at least 2 for longrope, not %d",
                    f->within, s.original_max_seq);
    c->rope_scaling = s;
    if (longrope)
        read_longrope(f, c);
}

static const char *theta_name(const DecoderKind *kind)
{
    return kind->theta_name ? kind->theta_name : "rope_theta";
}

static const char *partial_name(const DecoderKind *kind)
{
    return kind->partial_name ? kind->partial_name : "partial_rotary_factor";
}

/* The part of a head that turns, where the family has such a field, of this name. */
static void read_partial(Fields *f, const DecoderKind *kind, const char *name, LlamaConfig *c)
{
    if (!(kind->partial_rotary > 0)) {
        fields_only(f, name, 1, "all of a head is rotated here");
        return;
    }
    const json_t *value = fields_get(f, name);
    if (!value || json_is_null(value))
        return;
    c->partial_rotary = (float)fields_number(f, name, 1, 0, 1);
    int head_dim = c->head_dim ? c->head_dim : c->dim / c->heads,
        width = rotary_width(head_dim, c->partial_rotary);
    if (!f->failed && (c->partial_rotary <= 0 || width < 2 || width % 2))
        fields_fail(f, "%s%s %g of a head of %d is %d elements; an even number can turn", f->within, name,
                    (double)c->partial_rotary, head_dim, c->partial_rotary > 0 ? width : 0);
}

/* Its place in the table, or -1 with an error raised. */
static int read_type(Fields *f)
{
    const char *type = fields_text(f, "rope_type", fields_text(f, "type", "default"));
    const char *older = fields_text(f, "type", type);
    if (strcmp(older, type))
        fields_fail(f, "%srope_type is %s and type is %s; keep one", f->within, string_text(type).text,
                    string_text(older).text);
    for (int i = 0; i < TYPES; i++)
        if (!strcmp(types[i].name, type))
            return i;
    fields_refuse(f, json_object_get(f->object, "rope_type") ? "rope_type" : "type",
                  "default, linear, dynamic, yarn, longrope or llama3");
    return -1;
}

static void note_not_computed(Fields *f, const char *name, const char *type)
{
    snprintf(f->model->positions, sizeof f->model->positions,
             "%s.%s \"%s\" is not computed, so trained weights would see other positions", name,
             json_object_get(json_object_get(f->object, name), "rope_type") ? "rope_type" : "type", type);
    model_note(f->model,
               "Rotary positions are not scaled (%s): memory is exact, and training from random weights "
               "works, but not with trained weights.",
               type);
}

/* Positions of layers with windows: a base, and no stretch. */
static void read_local(Fields *f, LlamaConfig *c)
{
    int type = read_type(f);
    if (type >= 0 && types[type].kind != ROPE_SCALING_NONE)
        fields_fail(f, "%srope_type %s is not computed in layers with windows", f->within, types[type].name);
    c->local_theta = (float)fields_number(f, "rope_theta", (double)c->local_theta, 1, 1e12);
    fields_leftover(f, (const char *const[]){"factor", NULL});
}

static void read_object(Fields *f, const char *name, const DecoderKind *kind, double *theta, LlamaConfig *c);

/* One for layers that see all, one for those with windows. 0: it is not two objects. */
static int read_two(Fields *f, const char *name, const json_t *object, const DecoderKind *kind, double *theta,
                    LlamaConfig *c)
{
    const json_t *local = json_object_get(object, "sliding_attention");
    if (kind->local_theta == 0.0 || (!local && !json_object_get(object, "full_attention")))
        return 0;
    char within[64];
    Fields nested = {
        .file = f->file, .within = within, .object = object, .model = f->model, .failed = f->failed};
    snprintf(within, sizeof within, "%s.", name);
    read_object(&nested, "full_attention", kind, theta, c);
    fields_get(&nested, "sliding_attention");
    fields_leftover(&nested, (const char *const[]){NULL});
    f->failed = f->failed ? f->failed : nested.failed;
    if (!local || f->failed)
        return 1;
    snprintf(within, sizeof within, "%s.sliding_attention.", name);
    Fields inner = {.file = f->file, .within = within, .object = local, .model = f->model};
    if (json_is_object(local))
        read_local(&inner, c);
    else
        fields_fail(f, "%s.sliding_attention must be an object, not %s", name, value_text(local).text);
    f->failed = f->failed ? f->failed : inner.failed;
    return 1;
}

/* The nested object: how positions are stretched, and in newer files the base too. */
static void read_object(Fields *f, const char *name, const DecoderKind *kind, double *theta, LlamaConfig *c)
{
    static const char *const ignored[] = {"short_factor", "long_factor", "finetuned", NULL};
    const json_t *object = fields_get(f, name);
    if (!object || json_is_null(object))
        return;
    if (!json_is_object(object)) {
        fields_refuse(f, name, "an object or null");
        return;
    }
    if (read_two(f, name, object, kind, theta, c))
        return;
    char within[64];
    snprintf(within, sizeof within, "%s%s.", f->within, name);
    Fields nested = {
        .file = f->file, .within = within, .object = object, .model = f->model, .failed = f->failed};
    int type = read_type(&nested);
    int beside = fields_optional(f, "original_max_position_embeddings", 0, 0, MOST_POSITIONS);
    read_partial(&nested, kind, "partial_rotary_factor", c);
    if (type >= 0 && !nested.failed)
        read_scaling(&nested, types[type].kind, kind, beside, c);
    *theta = fields_number(&nested, "rope_theta", *theta, 1, 1e12);
    fields_leftover(&nested, ignored);
    f->failed = f->failed ? f->failed : nested.failed;
    if (type >= 0 && types[type].not_computed)
        note_not_computed(f, name, types[type].name);
}

void read_rotary(Fields *f, const DecoderKind *kind, LlamaConfig *c)
{
    double top = fields_number(f, theta_name(kind), kind->theta > 0 ? kind->theta : 10000, 1, 1e12),
           theta = top;
    c->partial_rotary =
        kind->partial_rotary > 0 && kind->partial_rotary < 1 ? (float)kind->partial_rotary : 0;
    if (kind->local_theta > 0)
        c->local_theta = (float)fields_number(f, "rope_local_base_freq", kind->local_theta, 1, 1e12);
    read_partial(f, kind, partial_name(kind), c);
    read_object(f, "rope_scaling", kind, &theta, c);
    read_object(f, "rope_parameters", kind, &theta, c);
    if (json_object_size(fields_get(f, "rope_scaling")) && json_object_size(fields_get(f, "rope_parameters")))
        fields_fail(f, "rope_scaling and rope_parameters say the same thing; keep one");
    if (fields_get(f, theta_name(kind)) && theta != top)
        fields_fail(f, "%s is %g, and %g in the nested object; keep one", theta_name(kind), top, theta);
    if (c->rope_scaling.kind == ROPE_SCALING_YARN && theta <= 1)
        fields_fail(f, "%s must be above 1 for yarn, not %g", theta_name(kind), theta);
    fields_optional(f, "original_max_position_embeddings", 0, 0, MOST_POSITIONS);
    if (kind->rope_interleaved)
        c->rope_interleaved = fields_flag(f, "rope_interleaved", kind->rope_interleaved > 0);
    else
        fields_must(f, "rope_interleaved", 0, "rotary positions turn pairs half a head apart here");
    fields_must(f, "use_mrope", 0, "positions of several axes are not computed");
    c->rope_theta = (float)theta;
    if (kind->local_theta < 0 && c->local_theta <= 0)
        c->local_theta = c->rope_theta;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* What is 0 has transformers' default, and is left out. */
static void put_number(json_t **object, const char *name, float value)
{
    if (value > 0)
        config_put(object, name, config_decimal(value));
}

static json_t *divisors(const float *list, int pairs)
{
    json_t *array = json_array();
    for (int i = 0; array && i < pairs; i++)
        if (json_array_append_new(array, config_decimal(list[i]))) {
            json_decref(array);
            array = NULL;
        }
    return array;
}

static json_t *scaling_json(const LlamaConfig *c)
{
    const RopeScaling *s = &c->rope_scaling;
    if (s->kind == ROPE_SCALING_NONE)
        return json_null();
    int type = 0;
    while (types[type].kind != s->kind)
        type++;
    json_t *object =
        json_pack("{s:s, s:o}", "rope_type", types[type].name, "factor", config_decimal(s->factor));
    put_number(&object, "low_freq_factor", s->low_freq_factor);
    put_number(&object, "high_freq_factor", s->high_freq_factor);
    put_number(&object, "attention_factor", s->attention_factor);
    put_number(&object, "beta_fast", s->beta_fast);
    put_number(&object, "beta_slow", s->beta_slow);
    put_number(&object, "mscale", s->mscale);
    put_number(&object, "mscale_all_dim", s->mscale_all_dim);
    if (s->untruncated)
        config_put(&object, "truncate", json_false());
    if (s->kind != ROPE_SCALING_LINEAR && s->kind != ROPE_SCALING_DYNAMIC)
        config_put(&object, "original_max_position_embeddings", json_integer(s->original_max_seq));
    if (s->kind == ROPE_SCALING_LONGROPE) {
        const RopeDivisors *by = s->divisors ? s->divisors : &c->rope_divisors;
        config_put(&object, "short_factor", divisors(by->of_short, turning_pairs(c)));
        config_put(&object, "long_factor", divisors(by->of_long, turning_pairs(c)));
    }
    return object;
}

void write_rotary(json_t **o, const DecoderKind *kind, const LlamaConfig *c)
{
    config_put(o, theta_name(kind), config_decimal(c->rope_theta > 0 ? c->rope_theta : 10000));
    config_put(o, "rope_scaling", scaling_json(c));
    if (c->rope_scaling.kind == ROPE_SCALING_LONGROPE) /* where Phi-3's readers look for it */
        config_put(o, "original_max_position_embeddings", json_integer(c->rope_scaling.original_max_seq));
    if (c->partial_rotary > 0 || kind->partial_name) /* whose default may be another part than all */
        config_put(o, partial_name(kind), config_decimal(c->partial_rotary > 0 ? c->partial_rotary : 1));
    if (c->rope_interleaved)
        config_put(o, "rope_interleaved", json_true());
}
