/* The lines of a run log, one at a time: what each kind must have. */
#include <string.h>

#include "runlog_cross_.h"
#include "runlog_read_.h"

static const char *const column_names[RUN_COLUMNS] = {"kind", "time_us", "step",     "phase",  "component",
                                                      "from", "place",   "op",       "serial", "offset",
                                                      "end",  "bytes",   "requested"};

int report_line_columns_(const json_t *line, size_t at[RUN_COLUMNS])
{
    const json_t *columns = json_object_get(line, "columns");
    for (int c = 0; c < RUN_COLUMNS; c++) {
        size_t i = 0, count = json_array_size(columns);
        for (; i < count; i++) {
            const char *name = json_string_value(json_array_get(columns, i));
            if (name && !strcmp(name, column_names[c]))
                break;
        }
        if (i == count)
            return -1;
        at[c] = i;
    }
    return 0;
}

int report_line_row_(const json_t *row, const size_t at[RUN_COLUMNS], RunEvent *event)
{
    /* A step's number is shown from 1. */
    static const uint64_t limits[RUN_COLUMNS] = {
        RUN_EVENT_KINDS - 1, RUN_LIMIT, INT32_MAX - 1, UINT8_MAX, UINT8_MAX, UINT8_MAX, INT32_MAX,
        INT32_MAX,           RUN_LIMIT, RUN_LIMIT,     1,         RUN_LIMIT, RUN_LIMIT};
    uint64_t v[RUN_COLUMNS];
    for (int c = 0; c < RUN_COLUMNS; c++) {
        const json_t *value = json_array_get(row, at[c]);
        json_int_t number = json_integer_value(value);
        if (!json_is_integer(value) || number < 0 || (uint64_t)number > limits[c])
            return -1;
        v[c] = (uint64_t)number;
    }
    *event = (RunEvent){.kind = (uint8_t)v[0],
                        .time_us = v[1],
                        .step = (int32_t)v[2],
                        .phase = (uint8_t)v[3],
                        .component = (uint8_t)v[4],
                        .from = (uint8_t)v[5],
                        .path = (int32_t)v[6],
                        .op = (int32_t)v[7],
                        .serial = v[8],
                        .offset = v[9],
                        .end = (uint8_t)v[10],
                        .bytes = v[11],
                        .requested = v[12]};
    return v[11] == 0 || v[12] > v[11] ? -1 : 0;
}

/* ---- What each kind must have ---------------------------------------------------------------- */

static int check_names(const json_t *line)
{
    uint64_t from;
    return report_run_number_(line, "from", &from) && from <= INT32_MAX &&
                   json_is_array(json_object_get(line, "names"))
               ? 0
               : -1;
}

static int check_events(const json_t *line)
{
    size_t at[RUN_COLUMNS];
    return json_is_array(json_object_get(line, "rows")) && !report_line_columns_(line, at) ? 0 : -1;
}

static int check_outline(const json_t *line)
{
    const json_t *live = json_object_get(line, "live");
    for (size_t i = 0; i < json_array_size(live); i++) {
        const json_t *value = json_array_get(live, i);
        json_int_t number = json_integer_value(value);
        if (!json_is_integer(value) || number < 0 || (uint64_t)number > RUN_LIMIT)
            return -1;
    }
    return json_is_array(live) ? 0 : -1;
}

static int check_step(const json_t *line)
{
    uint64_t number;
    return report_run_number_(line, "step", &number) && report_run_number_(line, "peak_bytes", &number) ? 0
                                                                                                        : -1;
}

static int check_validation(const json_t *line)
{
    uint64_t number;
    return report_run_number_(line, "step", &number) ? 0 : -1;
}

static int check_end(const json_t *line)
{
    return json_is_string(json_object_get(line, "status")) ? 0 : -1;
}

int report_line_check_(const json_t *line)
{
    static const struct {
        const char *kind;
        int (*check)(const json_t *line);
    } kinds[] = {{"places", check_names},    {"ops", check_names}, {"events", check_events},
                 {"outline", check_outline}, {"step", check_step}, {"validation", check_validation},
                 {"end", check_end}};
    const char *kind = json_string_value(json_object_get(line, "kind"));
    if (!kind)
        return -1;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kind, kinds[i].kind))
            return kinds[i].check(line);
    return 0; /* of a later brim, or one without contents */
}
