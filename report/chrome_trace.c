/* Trace events for Perfetto and Chrome: counters of live bytes, phases and steps as slices on two tracks. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "exports_.h"

enum { TRACK_STEPS = 1, TRACK_PHASES = 2 };

typedef struct Trace {
    const RunRecord *run;
    FILE *out;
    ReportText text;
    int failed; /* out of host memory */
    uint64_t live[RUN_COMPONENTS];
} Trace;

/* A text as JSON, valid until the next. */
static const char *quoted(Trace *t, const char *text)
{
    report_text_clear_(&t->text);
    report_text_quote_(&t->text, text);
    t->failed |= t->text.failed;
    return t->text.failed ? "\"\"" : t->text.text;
}

static void name(Trace *t, const char *what, int track, const char *text)
{
    fprintf(t->out, "{\"ph\":\"M\",\"name\":\"%s\",\"pid\":0,\"tid\":%d,\"args\":{\"name\":%s}},\n", what,
            track, quoted(t, text));
}

static void slice(Trace *t, int track, const char *text, uint64_t begin, uint64_t end, int64_t step)
{
    fprintf(t->out,
            "{\"ph\":\"X\",\"name\":%s,\"cat\":\"brim\",\"pid\":0,\"tid\":%d,\"ts\":%" PRIu64
            ",\"dur\":%" PRIu64 ",\"args\":{\"step\":%" PRId64 "}},\n",
            quoted(t, text), track, begin, end - begin, step);
}

static void counter(Trace *t, const char *text, uint64_t time, uint64_t value)
{
    char named[160] = "mem/live";
    if (text && snprintf(named, sizeof named, "mem/%s", text) >= (int)sizeof named)
        snprintf(named, sizeof named, "mem/component");
    fprintf(t->out,
            "{\"ph\":\"C\",\"name\":%s,\"pid\":0,\"ts\":%" PRIu64 ",\"args\":{\"value\":%" PRIu64 "}}",
            quoted(t, named), time, value);
}

static void component_counter(Trace *t, uint8_t component, uint64_t time)
{
    counter(t, report_run_component(t->run, component), time, t->live[component]);
    fputs(",\n", t->out);
}

static void slices(Trace *t)
{
    const RunRecord *run = t->run;
    RunSpan step = {.step = -1};
    char text[64];
    int open = 0;
    for (RunSpan span = {0}; report_span_next_(run, &span);) {
        const char *phase = report_run_phase(run, span.phase);
        int setup = !strcmp(phase, "setup"), ends = span.end == run->event_count;
        slice(t, TRACK_PHASES, phase, span.begin_us, span.end_us, setup ? 0 : span.step + 1);
        if (setup)
            continue;
        if (!open || span.step != step.step)
            step = span;
        open = 1;
        step.end_us = span.end_us;
        if (ends || run->events[span.end].step != span.step) {
            snprintf(text, sizeof text, "step %" PRId32, span.step + 1);
            slice(t, TRACK_STEPS, text, step.begin_us, step.end_us, span.step + 1);
        }
    }
}

static void counters(Trace *t)
{
    const RunRecord *run = t->run;
    for (size_t i = 0; i < run->event_count; i++) {
        const RunEvent *e = &run->events[i];
        if (e->kind != RUN_ALLOC)
            t->live[e->from] -= e->bytes;
        if (e->kind != RUN_FREE)
            t->live[e->component] += e->bytes;
        if (e->kind == RUN_RETAG)
            component_counter(t, e->from, e->time_us);
        component_counter(t, e->component, e->time_us);
        if (e->kind == RUN_RETAG)
            continue; /* live is what it was */
        counter(t, NULL, e->time_us, e->live);
        fputs(",\n", t->out);
    }
}

int report_chrome_trace(const RunRecord *run, FILE *out)
{
    Trace t = {.run = run, .out = out};
    errno = 0;
    fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", out);
    name(&t, "process_name", 0, run->model);
    name(&t, "thread_name", TRACK_STEPS, "steps");
    name(&t, "thread_name", TRACK_PHASES, "phases");
    slices(&t);
    counters(&t);
    /* JSON has no comma at the end: a last counter, of what is live then. */
    counter(&t, NULL, run->event_count ? run->events[run->event_count - 1].time_us : 0,
            run->event_count ? run->events[run->event_count - 1].live : 0);
    fputs("\n]}\n", out);
    report_text_free_(&t.text);
    if (t.failed)
        errno = ENOMEM;
    return t.failed ? -1 : report_finish_(out);
}
