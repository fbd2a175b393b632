/* The panel as text: exact lines for a width, a codeset and colour; bars that are to scale; nothing wider
 * than the terminal. And the loss curve and the progress bar that go with it. */
#include <math.h>
#include <string.h>

#include "../report/panel.h"
#include "support.h"

static const uint64_t MIB = UINT64_C(1) << 20;

/* The middle of a training: 120 of 300 steps, 183.5 MiB at the peak. */
static PanelState usual_state(const LossCurve *loss)
{
    return (PanelState){.step = 120,
                        .steps = 300,
                        .elapsed = 13.4,
                        .left = 20.1,
                        .phase = MEM_PHASE_BACKWARD,
                        .live = {23 * MIB, 12 * MIB, 47 * MIB, 50 * MIB, 4 * MIB},
                        .peak = {23 * MIB, 1 * MIB, 47 * MIB, 108 * MIB, 4 * MIB},
                        .needs = 184 * MIB,
                        .rate = 9596.4,
                        .counted = "tokens",
                        .loss = loss};
}

/* Falls from 8 to 1 in 120 steps. */
static const LossCurve *usual_curve(void)
{
    static LossCurve curve;
    curve = (LossCurve){0};
    for (int i = 0; i < 120; i++)
        report_curve_add(&curve, 1 + 7 * pow(1 - i / 119.0, 2));
    return &curve;
}

static const PanelText *draw(const PanelState *state, int width, int utf8, int colour)
{
    static PanelText out;
    const PanelStyle style = {.width = width, .height = 24, .utf8 = utf8, .colour = colour};
    int lines = report_panel(state, &style, &out);
    assert_int_equal(lines, out.lines);
    return &out;
}

static void expect(const PanelState *state, int width, int utf8, const char *text)
{
    assert_string_equal(draw(state, width, utf8, 0)->text, text);
}

static void a_wide_panel_in_utf8(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    expect(
        &s, 100, 1,
        "\n"
        "step  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━────────────────────────────────────────────  120 of 300   40 %\n"
        "loss  ██▇▇▆▆▅▅▅▄▄▄▃▃▃▂▂▂▂▁▁▁▁▁▁▁▁▁▁                                             8.0000 → 1.0000\n"
        "peak  █████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒░░│  183.0 of 184.0 MiB\n"
        "now   █████████▚▚▚▚▚▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒░                   │  136.0 MiB backward\n"
        "      █ param  23.0  ▚ grad   1.0  ▓ optim  47.0  ▒ activ 108.0  ░ other   4.0 MiB\n"
        "        9,596 tokens/s    0:13 elapsed    0:20 left   │ needs 184.0 MiB\n");
}

static void a_usual_panel_in_ascii(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    expect(&s, 80, 0,
           "\n"
           "step  ====================--------------------------------  120 of 300   40 %\n"
           "loss  ##*++=--:::..._______                                 8.0000 -> 1.0000\n"
           "peak  PPPPPPGOOOOOOOOOOOOOAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAx|  183.0 of 184.0 MiB\n"
           "now   PPPPPPGGGGOOOOOOOOOOOOOAAAAAAAAAAAAAAx             |  136.0 MiB backward\n"
           "P param  23.0  G grad   1.0  O optim  47.0  A activ 108.0  x other   4.0 MiB\n"
           "        9,596 tokens/s    0:13 elapsed    0:20 left   | needs 184.0 MiB\n");
}

static void a_narrow_panel(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    expect(&s, 40, 0,
           "\n"
           "step  ========--------------    40 %\n"
           "loss  #*=-:.___               1.0000\n"
           "peak  PPPOOOOOAAAAAAAAAAAAx|  183.0 MiB\n"
           "now   PPPGOOOOOAAAAAAx     |  136.0 MiB\n"
           "P param G grad O optim A activ x other\n"
           "  9,596 tokens/s    0:20 left   | need\n");
}

/* Before the first step nothing is known but the need. */
static void an_empty_panel(void **state)
{
    (void)state;
    const LossCurve curve = {0};
    PanelState s = {.steps = 10, .left = -1, .needs = 184 * MIB, .loss = &curve, .counted = "samples"};
    expect(&s, 80, 0,
           "\n"
           "step  ----------------------------------------------------   0 of 10    0 %\n"
           "loss\n"
           "peak                                                     |    0.0 of 184.0 MiB\n"
           "now                                                      |    0.0 MiB setup\n"
           "P param   0.0  G grad   0.0  O optim   0.0  A activ   0.0  x other   0.0 MiB\n"
           "            - samples/s    0:00 elapsed    -:-- left   | needs 184.0 MiB\n");
}

static int count_of(const char *line, char glyph)
{
    int count = 0;
    for (; *line && *line != '\n'; line++)
        count += *line == glyph;
    return count;
}

static const char *line_of(const PanelText *panel, const char *label)
{
    const char *line = strstr(panel->text, label);
    if (!line)
        fail_msg("no '%s' in\n%s", label, panel->text);
    return line;
}

/* Each group's share of the bar is its share of the span, to a cell; the mark stands at the need. */
static void bars_are_to_scale(void **state)
{
    (void)state;
    static const char glyphs[] = "PGOAx";
    PanelState s = usual_state(NULL);
    s.limit = 300 * MIB;
    s.limit_is_budget = 1;
    for (int width = PANEL_NARROWEST; width <= 200; width += 7) {
        const PanelText *panel = draw(&s, width, 0, 0);
        const char *bar = line_of(panel, "peak  ") + 6, *mark = strchr(bar, '|'), *end = bar;
        end += strspn(bar, "PGOAx |.");
        while (end[-1] == ' ')
            end--;
        double cells = (double)(end - bar) - 1, span = 300 * (double)MIB;
        for (int g = 0; g < MEM_GROUP_COUNT; g++) {
            const char *after = mark > bar ? mark : end;
            int seen = 0;
            for (const char *c = bar; c < after; c++)
                seen += *c == glyphs[g];
            assert_true(fabs(seen - cells * (double)s.peak[g] / span) <= 1);
        }
        assert_true(fabs((double)(mark - bar) - cells * 184 / 300) <= 0.5);
    }
}

/* A limit far above the need is said in words: a bar of which nothing is full shows nothing. */
static void a_distant_limit_is_words(void **state)
{
    (void)state;
    PanelState s = usual_state(NULL);
    char without[PANEL_TEXT];
    strcpy(without, line_of(draw(&s, 120, 0, 0), "peak"));
    size_t length = strcspn(without, "\n") + 1;
    s.limit = 8192 * MIB;
    assert_memory_equal(without, line_of(draw(&s, 120, 0, 0), "peak"), length);
    line_of(draw(&s, 120, 0, 0), "| needs 184.0 MiB, 2.2 % of the 8.00 GiB free here\n");
    s.limit_is_budget = 1;
    line_of(draw(&s, 120, 0, 0), "| needs 184.0 MiB, 2.2 % of the budget of 8.00 GiB\n");
    line_of(draw(&s, 80, 0, 0), "| need: 2.2 % of 8.00 GiB\n");
}

static int columns_of(const char *line)
{
    int columns = 0;
    for (; *line != '\n'; line++) {
        if (*line == '\033')
            line += strcspn(line, "m");
        else
            columns += ((unsigned char)*line & 0xc0) != 0x80;
    }
    return columns;
}

static void check_columns(const PanelText *panel, int width)
{
    const char *line = panel->text;
    for (int i = 0; i < panel->lines; i++, line = strchr(line, '\n') + 1) {
        assert_int_equal(columns_of(line), panel->columns[i]);
        assert_true(panel->columns[i] < width);
    }
    assert_int_equal(*line, '\0');
}

/* Whatever the sizes: no line reaches the last column, which some terminals wrap. */
static void lines_stay_within_the_terminal(void **state)
{
    (void)state;
    for (int shift = 0; shift < 60; shift++)
        for (int width = 0; width < 200; width++) {
            PanelState s = usual_state(usual_curve());
            s.needs = (UINT64_C(3) << shift) + 1;
            for (int g = 0; g < MEM_GROUP_COUNT; g++)
                s.live[g] = s.peak[g] = s.needs / 6;
            s.limit = s.needs * 2;
            s.step = s.steps = (int64_t)1 << shift;
            s.elapsed = s.left = s.rate = (double)s.needs;
            for (int card = 0; card < 2; card++) {
                s.card = card ? (MemCard){.used = s.needs + 4, .context = 1, .library = 2} : (MemCard){0};
                const PanelText *panel = draw(&s, width, 1, 1);
                if (width < PANEL_NARROWEST)
                    assert_int_equal(panel->lines, 0);
                if (width >= 80 && shift <= 40)
                    assert_int_equal(panel->lines, card ? PANEL_LINES : PANEL_LEAST);
                check_columns(panel, width);
            }
        }
}

static void too_low_for_a_panel(void **state)
{
    (void)state;
    PanelState s = usual_state(NULL);
    PanelText out;
    PanelStyle style = {.width = 80, .height = PANEL_LEAST + 1};
    assert_int_equal(report_panel(&s, &style, &out), 0);
    style.height++;
    assert_int_equal(report_panel(&s, &style, &out), PANEL_LEAST);
    s.card.used = s.needs; /* a card's line needs one more */
    assert_int_equal(report_panel(&s, &style, &out), PANEL_LEAST);
    style.height++;
    assert_int_equal(report_panel(&s, &style, &out), PANEL_LINES);
}

/* What nvidia-smi shows, and what it is made of, as far as there is room. */
static void a_card_has_a_line(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    assert_null(strstr(draw(&s, 120, 1, 0)->text, "card"));
    s.reserved = s.needs;
    s.card =
        (MemCard){MEM_CARD_PROCESS, 700 * MIB, .context = 480 * MIB, .kernels = 2 * MIB, .library = 33 * MIB};
    line_of(draw(&s, 120, 1, 0),
            "\ncard  used 700.0 MiB = reserved 184.0 + context 480.0 + kernels 2.0 + library "
            "33.0 + unaccounted 1.0\n");
    s.card.others = 100 * MIB;
    line_of(draw(&s, 120, 1, 0),
            " + others 100.0 + context 480.0 + kernels 2.0 + library 33.0 + unaccounted -99.0\n");
    line_of(draw(&s, 80, 1, 0), "\ncard  used 700.0 MiB, +516.0 beyond the reservation\n");
    line_of(draw(&s, 40, 0, 0), "\ncard  used 700.0 MiB\n");
    s.reserved = 0; /* each block is allocated: then it is what is live */
    line_of(draw(&s, 80, 0, 0), "used 700.0 MiB, +564.0 beyond");
}

/* Colour adds escapes and changes nothing else; ASCII is ASCII. */
static void colour_changes_no_character(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    for (int utf8 = 0; utf8 < 2; utf8++) {
        static PanelText painted;
        char stripped[PANEL_TEXT], *to = stripped;
        painted = *draw(&s, 100, utf8, 1);
        for (const char *c = painted.text; *c; c++) {
            if (*c == '\033')
                c += strcspn(c, "m");
            else
                *to++ = *c;
        }
        *to = '\0';
        assert_non_null(strchr(painted.text, '\033'));
        assert_string_equal(stripped, draw(&s, 100, utf8, 0)->text);
    }
    for (const char *c = draw(&s, 100, 0, 1)->text; *c; c++)
        assert_true((unsigned char)*c < 0x80);
}

/* Of 256 colours others than of eight, and each group one of its own. */
static void colours_are_distinct(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    static PanelText few, many;
    few = *draw(&s, 100, 1, PANEL_COLOURS_8);
    many = *draw(&s, 100, 1, PANEL_COLOURS_256);
    assert_null(strstr(few.text, "\033[38;5;"));
    assert_true(strstr(few.text, "▒") && !strstr(many.text, "▒")); /* no patterns, which many need not */
    const char *legend = strstr(many.text, "\n      \033[38;5;");
    char seen[MEM_GROUP_COUNT][16] = {{""}};
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        legend = strstr(legend + 1, "\033[38;5;");
        assert_non_null(legend);
        snprintf(seen[g], sizeof seen[g], "%.*s", (int)strcspn(legend + 1, "m"), legend + 1);
        for (int k = 0; k < g; k++)
            assert_string_not_equal(seen[k], seen[g]);
        legend += 2;
    }
}

/* While held-out data are read no step passes: the panel says so, where it would count down to nothing. */
static void evaluating_is_said(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    s.step = s.steps;
    s.left = 0;
    line_of(draw(&s, 80, 1, 0), "0:00 left");
    s.phase = MEM_PHASE_EVALUATE;
    for (int width = PANEL_NARROWEST; width < 120; width += 13) {
        line_of(draw(&s, width, 0, 0), "evaluating");
        assert_null(strstr(draw(&s, width, 0, 0)->text, "0:00 left"));
    }
}

/* At 80 columns the mark in the bars is explained with its size, whatever the limit. */
static void the_mark_is_explained(void **state)
{
    (void)state;
    PanelState s = usual_state(usual_curve());
    for (uint64_t gib = 1; gib < 5000; gib = gib * 3 + 7) {
        s.limit = gib << 30;
        s.rate = 123456;
        s.elapsed = s.left = 3599;
        const char *mark = line_of(draw(&s, 80, 0, 0), "| need");
        assert_true(mark[6] == 's' || mark[6] == ':');
    }
}

/* What changes from step to step moves nothing else. */
static void numbers_keep_their_places(void **state)
{
    (void)state;
    static const char *const marks[] = {" of 300", " MiB backward", " left"};
    PanelState s = usual_state(usual_curve()), later = s;
    later.step = 7;
    later.live[MEM_GROUP_ACTIVATIONS] = later.live[MEM_GROUP_OPTIMIZER_STATES] = 0;
    later.rate = 12345;
    later.left = 754;
    for (size_t i = 0; i < COUNT(marks); i++) {
        const PanelText *panel = draw(&s, 100, 0, 0);
        ptrdiff_t at = line_of(panel, marks[i]) - panel->text;
        panel = draw(&later, 100, 0, 0);
        assert_int_equal(line_of(panel, marks[i]) - panel->text, at);
    }
}

/* A run of any length fits: points become means of more steps, and their mean stays that of all. */
static void a_long_curve(void **state)
{
    (void)state;
    LossCurve c = {0};
    double sum = 0;
    int64_t steps = 100003;
    for (int64_t i = 0; i < steps; i++) {
        double loss = 2 + (double)(hash32((uint32_t)i) % 1000) / 1000;
        sum += loss;
        report_curve_add(&c, loss);
    }
    assert_true(c.count >= PANEL_POINTS / 2 && c.count < PANEL_POINTS);
    assert_int_equal(c.count * c.stride + c.pending, steps);
    double mean = c.sum;
    for (int i = 0; i < c.count; i++)
        mean += (double)c.mean[i] * (double)c.stride;
    assert_true(fabs(mean - sum) < 1e-6 * sum);
    assert_true(c.first == 2 + (double)(hash32(0) % 1000) / 1000);
    assert_true(c.last == 2 + (double)(hash32((uint32_t)steps - 1) % 1000) / 1000);
}

/* A run that goes on has its own losses only, under its own steps. */
static void a_run_that_goes_on(void **state)
{
    (void)state;
    LossCurve c = {0};
    PanelState s = usual_state(&c);
    s.before = 100;
    for (int i = 0; i < 20; i++)
        report_curve_add(&c, i < 10 ? 2 : 1);
    const PanelText *panel = draw(&s, 80, 0, 0);
    size_t done = strspn(line_of(panel, "step  ") + 6, "=");
    const char *line = line_of(panel, "loss  ") + 6;
    size_t spaces = strspn(line, " "), shown = strcspn(line + spaces, " ");
    assert_true(done > 10 && spaces - done * 100 / 120 <= 1 && spaces + shown <= done + 1 && shown > 1);
}

/* A loss that is not a number is drawn as one that is not. */
static void a_loss_that_is_not_finite(void **state)
{
    (void)state;
    LossCurve c = {0};
    const double losses[] = {3, 2, NAN, 1, INFINITY, 1};
    PanelState s = usual_state(&c);
    s.steps = COUNT(losses);
    for (size_t i = 0; i < COUNT(losses); i++)
        report_curve_add(&c, losses[i]);
    const char *line = line_of(draw(&s, 80, 0, 0), "loss  ") + 6;
    assert_true(count_of(line, '!') > 0 && count_of(line, '#') > 0 && count_of(line, '_') > 0);
    report_curve_add(&c, NAN);
    line_of(draw(&s, 80, 0, 0), "3.0000 ->    nan");
}

static void a_progress_bar(void **state)
{
    (void)state;
    PanelText out;
    const PanelStyle style = {.width = 80, .height = 24};
    const ReportProgress twelve = {.label = "planning", .total = 12}, unknown = {.label = "reading"};
    report_progress_line(&twelve, 3, 4, &style, &out);
    assert_string_equal(out.text, "planning  ==========------------------------------   3 of 12   0:12 left");
    report_progress_line(&twelve, 0, 4, &style, &out);
    assert_non_null(strstr(out.text, " 0 of 12   -:-- left"));
    report_progress_line(&unknown, 3, 4, &style, &out);
    assert_string_equal(out.text, "reading  3   0:04");
    for (int width = 30; width < 100; width++) {
        report_progress_line(&twelve, 12, 4000, &(PanelStyle){.width = width}, &out);
        assert_true((int)strlen(out.text) < width);
    }
}

static void count_call(void *user)
{
    ++*(int *)user;
}

/* Called when an op begins, not when one ends. */
static void ops_can_be_watched(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    int calls = 0;
    memtrack_op_set(tracker, "before");
    memtrack_watch(tracker, count_call, &calls);
    memtrack_op_set(tracker, "linear");
    memtrack_op_set(tracker, NULL);
    memtrack_op_set(tracker, "norm");
    assert_int_equal(calls, 2);
    memtrack_watch(tracker, NULL, NULL);
    memtrack_op_set(tracker, "after");
    assert_int_equal(calls, 2);
    memtrack_destroy(tracker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wide_panel_in_utf8),
        cmocka_unit_test(a_usual_panel_in_ascii),
        cmocka_unit_test(a_narrow_panel),
        cmocka_unit_test(an_empty_panel),
        cmocka_unit_test(bars_are_to_scale),
        cmocka_unit_test(a_distant_limit_is_words),
        cmocka_unit_test(lines_stay_within_the_terminal),
        cmocka_unit_test(too_low_for_a_panel),
        cmocka_unit_test(a_card_has_a_line),
        cmocka_unit_test(colour_changes_no_character),
        cmocka_unit_test(colours_are_distinct),
        cmocka_unit_test(evaluating_is_said),
        cmocka_unit_test(the_mark_is_explained),
        cmocka_unit_test(numbers_keep_their_places),
        cmocka_unit_test(a_long_curve),
        cmocka_unit_test(a_run_that_goes_on),
        cmocka_unit_test(a_loss_that_is_not_finite),
        cmocka_unit_test(a_progress_bar),
        cmocka_unit_test(ops_can_be_watched),
    };
    return cmocka_run_group_tests_name("panel", tests, NULL, NULL);
}
