/* JSON for scripts: exact bytes, one object, the same memory object everywhere. */
#include <math.h>

#include "cli.h"

static void set_bytes(json_t *object, const char *key, uint64_t bytes)
{
    json_object_set_new(object, key, json_integer((json_int_t)bytes));
}

static json_t *books(const MemSummary *m)
{
    const MemStats *s = &m->stats;
    json_t *memory = json_object(), *components = json_object(), *groups = json_object();
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++) {
        json_t *one = json_object();
        set_bytes(one, "peak", s->own_peak[i]);
        set_bytes(one, "at_peak", s->at_peak[i]);
        json_object_set_new(components, memtrack_component_name((MemComponent)i), one);
    }
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        set_bytes(groups, memtrack_group_name((MemGroup)g), report_group(s->at_peak, (MemGroup)g));
    json_object_set_new(memory, "components", components);
    json_object_set_new(memory, "groups", groups);
    set_bytes(memory, "peak_bytes", s->peak);
    set_bytes(memory, "needs_bytes", s->needs);
    json_object_set_new(memory, "peak_at",
                        json_pack("{s:I, s:s, s:s, s:s}", "step", (json_int_t)s->peak_at.step + 1, "phase",
                                  memtrack_phase_name(s->peak_at.phase), "place", m->peak_path, "op",
                                  m->peak_op));
    if (m->process_peak) {
        json_t *process = json_object();
        set_bytes(process, "peak_bytes", m->process_peak);
        json_object_set_new(process, "unaccounted_bytes", json_integer((json_int_t)report_unaccounted(m)));
        json_object_set_new(memory, "process", process);
    }
    if (m->card.used) {
        json_t *card = json_object();
        json_object_set_new(card, "counted_by", json_string(report_card_counter(m->card.counter)));
        set_bytes(card, "used_bytes", m->card.used);
        set_bytes(card, "reserved_bytes", m->reserved ? m->reserved : m->stats.live);
#define X(id, name, whose) set_bytes(card, name "_bytes", m->card.id);
        MEM_CARD_ROWS(X)
#undef X
        json_object_set_new(card, "unaccounted_bytes", json_integer((json_int_t)report_card_unaccounted(m)));
        json_object_set_new(memory, "card", card);
    }
    return memory;
}

json_t *json_memory(const MemSummary *memory, const MemSummary *planned)
{
    json_t *object = books(memory);
    if (planned)
        json_object_set_new(object, "planned", books(planned));
    return object;
}

void json_clean(char *text)
{
    json_t *string = json_string(text);
    for (; !string && *text; text++)
        *text = (unsigned char)*text < 0x80 ? *text : '?';
    json_decref(string);
}

json_t *json_text(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    char clean[1024];
    snprintf(clean, sizeof clean, "%s", text);
    json_clean(clean);
    return json_string(clean);
}

json_t *json_number(double number)
{
    return isfinite(number) ? json_real(number) : json_null();
}

void json_print(json_t *object)
{
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', stdout);
    json_decref(object);
}
