/* The steps of a run as one table of bounded length. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "html_.h"
#include "text_.h"

int steps_begin_(StepTable *table, json_t *run)
{
    *table = (StepTable){.stride = 1, .run = json_incref(run)};
    const json_t *components = json_object_get(run, "components");
    for (size_t i = 0; i < json_array_size(components) && i < STEP_COMPONENTS; i++) {
        const char *name = json_string_value(json_array_get(json_array_get(components, i), 0));
        table->names[table->name_count++] = name ? name : "";
    }
    table->rows = memtrack_host_alloc(NULL, STEP_ROWS * sizeof *table->rows);
    return table->rows ? 0 : -1;
}

void steps_end_(StepTable *table)
{
    memtrack_host_free(NULL, table->rows, STEP_ROWS * sizeof *table->rows);
    json_decref(table->run);
    *table = (StepTable){0};
}

/* `later` follows `row` directly. */
static void merge(StepRow *row, const StepRow *later)
{
    StepRow both = *row;
    if (later->peak > row->peak) {
        both.peak = later->peak;
        memcpy(both.at_peak, later->at_peak, sizeof both.at_peak);
    }
    both.last = later->last;
    both.loss += later->loss;
    both.losses += later->losses;
    both.tokens += later->tokens;
    both.seconds += later->seconds;
    both.lr = later->lr;
    both.live = later->live > row->live ? later->live : row->live;
    *row = both;
}

static void halve(StepTable *table)
{
    for (size_t i = 0; i < table->count / 2; i++) {
        StepRow row = table->rows[2 * i];
        merge(&row, &table->rows[2 * i + 1]);
        table->rows[i] = row;
    }
    table->count /= 2;
    table->stride *= 2;
}

static int64_t integer(const json_t *object, const char *key)
{
    return (int64_t)json_integer_value(json_object_get(object, key));
}

void steps_add_(StepTable *table, const json_t *step)
{
    const json_t *by = json_object_get(step, "components_at_peak"), *loss = json_object_get(step, "loss");
    StepRow row = {.first = integer(step, "step"),
                   .last = integer(step, "step"),
                   .losses = json_is_number(loss), /* a loss that is no number is null */
                   .loss = json_number_value(loss),
                   .lr = json_number_value(json_object_get(step, "lr")),
                   .tokens = integer(step, "tokens"),
                   .seconds = json_number_value(json_object_get(step, "seconds")),
                   .live = integer(step, "live_bytes"),
                   .peak = integer(step, "peak_bytes")};
    for (size_t i = 0; i < table->name_count; i++)
        row.at_peak[i] = integer(by, table->names[i]);
    StepRow *last = table->count ? &table->rows[table->count - 1] : NULL;
    if (last && last->last - last->first + 1 < table->stride) {
        merge(last, &row);
        return;
    }
    if (table->count == STEP_ROWS)
        halve(table);
    table->rows[table->count++] = row;
}

void steps_write_(const StepTable *table, FILE *out)
{
    fprintf(out,
            "{\"kind\":\"steps\",\"stride\":%" PRId64 ",\"columns\":[\"first\",\"last\",\"loss\",\"lr\","
            "\"tokens\",\"seconds\",\"live\",\"peak\"],\"components\":%zu,\"rows\":[",
            table->stride, table->name_count);
    for (size_t i = 0; i < table->count; i++) {
        const StepRow *r = &table->rows[i];
        fprintf(out, "%s[%" PRId64 ",%" PRId64 ",", i ? "," : "", r->first, r->last);
        fputs(report_number_(r->losses ? r->loss / (double)r->losses : NAN).text, out);
        fprintf(out, ",%s,%" PRId64 ",%s,%" PRId64 ",%" PRId64, report_number_(r->lr).text, r->tokens,
                report_number_(r->seconds).text, r->live, r->peak);
        for (size_t c = 0; c < table->name_count; c++)
            fprintf(out, ",%" PRId64, r->at_peak[c]);
        putc(']', out);
    }
    fputs("]}\n", out);
}
