/* The command on a terminal: a pseudo-terminal, and a small one of our own that keeps what is on the screen.
 * The panel is drawn in place, leaves nothing behind, and gives the cursor back however the run ends. */
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <termios.h>

#include "../plan/plan.h"
#include "cli_support.h"

enum { ROWS = 80, COLUMNS = 200, OUTPUT = 1 << 24 };

typedef struct Session {
    char output[OUTPUT];
    size_t length;
    int code;                       /* as Outcome.code */
    char screen[ROWS][COLUMNS + 1]; /* ASCII runs only */
    int row, column, cursor_hidden;
} Session;

static Session session;

/* Long enough for a panel that is drawn ten times a second; and as many steps that are over at once. */
static const char *usual[] = {"brim",    "train", "--batch",       "6",  "--seq", "64",
                              "--steps", "12",    "--max-samples", "16", NULL};
static const char *brief[] = {"brim",    "train", "--batch",       "1",  "--seq", "16",
                              "--steps", "12",    "--max-samples", "16", NULL};

/* ---- The screen ------------------------------------------------------------------------------ */

static void new_line(Session *s)
{
    if (++s->row == ROWS) {
        memmove(s->screen[0], s->screen[1], sizeof s->screen[0] * (ROWS - 1));
        s->row--;
        memset(s->screen[s->row], ' ', COLUMNS);
    }
}

/* What follows ESC [; returns its end. */
static const char *escape(Session *s, const char *at)
{
    size_t length = strspn(at, "?0123456789;");
    int number = atoi(at);
    switch (at[length]) {
    case 'A':
        assert_true(number > 0 && number <= s->row);
        s->row -= number;
        break;
    case 'K':
        memset(s->screen[s->row] + s->column, ' ', (size_t)(COLUMNS - s->column));
        break;
    case 'J':
        assert_int_equal(s->column, 0);
        for (int row = s->row; row < ROWS; row++)
            memset(s->screen[row], ' ', COLUMNS);
        break;
    case 'l':
    case 'h':
        assert_memory_equal(at, "?25", 3);
        s->cursor_hidden = at[length] == 'l';
        break;
    case 'm':
        break;
    default:
        fail_msg("an escape that no one expects: %.*s", (int)length + 1, at);
    }
    return at + length;
}

static void play(Session *s)
{
    for (int row = 0; row < ROWS; row++) {
        memset(s->screen[row], ' ', COLUMNS);
        s->screen[row][COLUMNS] = '\0';
    }
    s->row = s->column = s->cursor_hidden = 0;
    for (const char *c = s->output; *c; c++) {
        if (*c == '\033' && c[1] == '[')
            c = escape(s, c + 2);
        else if (*c == '\r')
            s->column = 0;
        else if (*c == '\n')
            new_line(s);
        else if (((unsigned char)*c & 0xc0) != 0x80 && s->column < COLUMNS)
            s->screen[s->row][s->column++] = *c;
    }
}

static int on_screen(const Session *s, const char *text)
{
    for (int row = 0; row < ROWS; row++)
        if (strstr(s->screen[row], text))
            return 1;
    return 0;
}

/* ---- Running --------------------------------------------------------------------------------- */

typedef struct Terminal {
    int columns;
    const char *term, *locale, *no_colour;
    const char *press; /* typed when the panel shows the first steps */
} Terminal;

/* A quit leaves no core behind; what was printed before a key that is a signal is not thrown away. */
static void become_command(const Terminal *like, const char *const *arguments)
{
    struct termios settings;
    if (tcgetattr(0, &settings) == 0) {
        settings.c_lflag |= NOFLSH;
        tcsetattr(0, TCSANOW, &settings);
    }
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    setenv("TERM", like->term ? like->term : "xterm", 1);
    setenv("LC_ALL", like->locale ? like->locale : "C", 1);
    unsetenv("NO_COLOR");
    unsetenv("COLORTERM");
    if (like->no_colour)
        setenv("NO_COLOR", like->no_colour, 1);
    alarm(RUN_SECONDS);
    execv(command_path(), (char **)(uintptr_t)arguments);
    _exit(127);
}

static void read_all(Session *s, int terminal, const char *press)
{
    struct pollfd ready = {.fd = terminal, .events = POLLIN};
    s->length = 0;
    while (poll(&ready, 1, 1000 * RUN_SECONDS) > 0) {
        ssize_t got = read(terminal, s->output + s->length, OUTPUT - 1 - s->length);
        if (got <= 0)
            break; /* the other side is closed */
        s->length += (size_t)got;
        assert_true(s->length < OUTPUT - 1);
        s->output[s->length] = '\0';
        if (press && strstr(s->output, "/s ")) {
            assert_int_equal(write(terminal, press, strlen(press)), strlen(press));
            press = NULL;
        }
    }
}

/* A script of the library's own, in this process's copy. */
static int talking_script(void *config)
{
    (void)config;
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
    for (int64_t step = 0; step < 5 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(MODEL_LLAMA, step, 0, 2);
        tensor_backward(nn_loss(model, &batch));
        brim_step(2 * SMALL_SEQ);
        if (step == 2)
            brim_say("after step %d", 3);
        tensor_scope_end(scope);
    }
    brim_say("at the end");
    return error_code();
}

static int run_talking(FILE *out, int panel, int quiet)
{
    return brim_run(
        talking_script, NULL,
        &(RunOptions){
            .threads = 1, .out = out, .panel = panel, .quiet = quiet, .steps = 5, .title = "talks"});
}

/* Without arguments it is the script that runs. */
static Session *run_on_terminal(const Terminal *like, const char *const *arguments)
{
    int terminal, status;
    const struct winsize size = {.ws_row = ROWS, .ws_col = (unsigned short)like->columns};
    fflush(stdout);
    pid_t child = forkpty(&terminal, NULL, NULL, &size);
    if (child == 0 && !arguments) {
        setenv("TERM", "xterm", 1);
        setenv("LC_ALL", "C", 1);
        exit(run_talking(stdout, 1, 0));
    }
    if (child == 0)
        become_command(like, arguments);
    assert_true(child > 0);
    session.output[0] = '\0';
    read_all(&session, terminal, like->press);
    assert_int_equal(waitpid(child, &status, 0), child);
    close(terminal);
    session.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    play(&session);

    return &session;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

/* Afterwards the screen shows what a run without a terminal prints, but for the step lines. */
static void leaves_only_the_tables(void **state)
{
    (void)state;
    Session *s = run_on_terminal(&(Terminal){.columns = 120}, usual);
    assert_int_equal(s->code, 0);
    assert_non_null(strstr(s->output, "PPP"));
    assert_non_null(strstr(s->output, "of 12 "));
    assert_false(on_screen(s, "PPP") || on_screen(s, " elapsed ") || on_screen(s, "Each line"));
    assert_int_equal(s->cursor_hidden, 0);
    assert_true(on_screen(s, "llama-tiny  6,123,168 parameters"));
    assert_true(on_screen(s, "0 bytes apart"));
    Outcome *lines = expect_code(run_command(usual), 0);
    const char *table = strstr(lines->out, "\nparameters ");
    assert_non_null(table);
    int row = 0;
    while (strncmp(s->screen[row], "parameters ", 11))
        assert_true(++row < ROWS);
    for (table++; strncmp(table, "Reserved", 8); table = strchr(table, '\n') + 1)
        assert_memory_equal(s->screen[row++], table, strcspn(table, "\n"));
}

/* Elsewhere nothing changes: lines, and not one escape. */
static void no_panel_elsewhere(void **state)
{
    (void)state;
    static const Terminal terminals[] = {{.columns = 120, .term = "dumb"}, {.columns = 120, .term = ""}};
    for (size_t i = 0; i < COUNT(terminals); i++) {
        Session *s = run_on_terminal(&terminals[i], brief);
        assert_int_equal(s->code, 0);
        assert_null(strchr(s->output, '\033'));
        assert_true(on_screen(s, "Each line: loss") && on_screen(s, "step   12  loss"));
    }
    Outcome *o = expect_code(run_command(brief), 0);
    assert_null(strchr(o->out, '\033'));
    assert_int_equal(lines_starting(o->out, "step "), 12);
    const char *memory = strstr(o->out, "/s | param "); /* it is said when it changes */
    assert_non_null(memory);
    assert_null(strstr(memory + 1, "/s | param "));
}

/* How many columns of a row are written. */
static int row_columns(const Session *s, int row)
{
    int columns = COLUMNS;
    while (columns > 0 && s->screen[row][columns - 1] == ' ')
        columns--;
    return columns;
}

/* The row that begins so and those that continue it, two spaces in, as one text. */
static const char *joined(const Session *s, const char *start, int columns)
{
    static char all[4 * COLUMNS];
    int row = 0;
    while (strncmp(s->screen[row], start, strlen(start)))
        assert_true(++row < ROWS);
    all[0] = '\0';
    do {
        assert_true(row_columns(s, row) <= columns);
        snprintf(all + strlen(all), sizeof all - strlen(all), "%.*s", row_columns(s, row), s->screen[row]);
        row++;
    } while (!strncmp(s->screen[row], "  ", 2) && s->screen[row][2] != ' ');
    return all;
}

/* Lines break between phrases where the terminal ends, and say all that they say elsewhere. */
static void lines_break_between_phrases(void **state)
{
    (void)state;
    static const char *small[] = {"brim",    "train", "--batch",       "1",  "--seq", "16",
                                  "--steps", "2",     "--max-samples", "16", NULL};
    Session *s = run_on_terminal(&(Terminal){.columns = 80}, small);
    assert_int_equal(s->code, 0);
    assert_string_equal(
        joined(s, "llama-tiny  ", 80),
        "llama-tiny  6,123,168 parameters  fp32  AdamW  lr 0.002  no dropout  batch 1 x seq 16  "
        "flash attention  2 steps");
    assert_true(on_screen(s, "trained 4 + 4 + 8 = 16 bytes x 6,123,168"));
    const char *result = joined(s, "2 steps, ", 80);
    assert_non_null(strstr(result, " tokens/s; validation "));
    assert_non_null(strstr(result, "held out: loss "));
    assert_int_equal(result[strlen(result) - 1], ')');
}

static void too_narrow_is_lines(void **state)
{
    (void)state;
    Session *s = run_on_terminal(&(Terminal){.columns = 39}, brief);
    assert_int_equal(s->code, 0);
    assert_null(strstr(s->output, "\033[?25l"));
    assert_true(on_screen(s, "Each line: loss") && on_screen(s, "step   12  loss"));
}

static void colours_and_characters(void **state)
{
    (void)state;
    Session *s = run_on_terminal(&(Terminal){.columns = 100}, usual);
    assert_non_null(strstr(s->output, "\033[34mP"));
    for (const char *c = s->output; *c; c++)
        assert_true((unsigned char)*c < 0x80);
    s = run_on_terminal(&(Terminal){.columns = 100, .no_colour = "1", .locale = "C.UTF-8"}, usual);
    assert_non_null(strstr(s->output, "███"));
    for (const char *c = s->output; (c = strstr(c, "\033[")); c++)
        assert_true(c[2 + strspn(c + 2, "?0123456789")] != 'm');
    s = run_on_terminal(&(Terminal){.columns = 100, .no_colour = "", .term = "xterm-256color"}, usual);
    assert_non_null(strstr(s->output, "\033[38;5;31mP"));
}

/* Results of validations stay, above the panel. */
static void validations_stay(void **state)
{
    (void)state;
    static const char *const arguments[] = {
        "brim", "train",         "--batch", "1", "--seq", "16", "--steps", "12", "--evaluate-every",
        "3",    "--max-samples", "16",      NULL};
    Session *s = run_on_terminal(&(Terminal){.columns = 100}, arguments);
    int row = 0;
    while (strncmp(s->screen[row], "step    3  validation loss", 26))
        assert_true(++row < ROWS);
    assert_memory_equal(s->screen[row + 1], "step    6  validation loss", 26);
    assert_memory_equal(s->screen[row + 2], "step    9  validation loss", 26);
    assert_memory_equal(s->screen[row + 3], "     ", 5);
    assert_memory_equal(s->screen[row + 4], "12 steps, ", 10);
}

static const char *const endless[] = {"brim", "train",   "--batch", "1", "--seq",
                                      "16",   "--steps", "1000000", NULL};

/* A quit ends the process as ever, the cursor is back, and the prompt would stand below the panel. */
static void a_quit_gives_the_cursor_back(void **state)
{
    (void)state;
    Session *s = run_on_terminal(&(Terminal){.columns = 100, .press = "\034"}, endless);
    assert_int_equal(s->code, 128 + SIGQUIT);
    assert_non_null(strstr(s->output, "\033[?25l"));
    assert_int_equal(s->cursor_hidden, 0);
    int row = 0;
    while (!strstr(s->screen[row], " elapsed "))
        assert_true(++row < ROWS);
    assert_true(s->row > row);
}

/* An interrupt ends the run after its step: the tables stand there, and the cursor is back. */
static void an_interrupt_ends_with_the_tables(void **state)
{
    (void)state;
    Session *s = run_on_terminal(&(Terminal){.columns = 100, .press = "\003"}, endless);
    assert_int_equal(s->code, 128 + SIGINT);
    assert_non_null(strstr(s->output, "\033[?25l"));
    assert_int_equal(s->cursor_hidden, 0);
    assert_true(on_screen(s, "brim: stopping after this step"));
    assert_true(on_screen(s, "0 bytes apart"));
    assert_true(on_screen(s, "Stopped by SIGINT."));
}

/* A run that fails on the way: the panel goes, the error stays. */
static void an_error_gives_the_cursor_back(void **state)
{
    (void)state;
    static const char *const arguments[] = {"brim",    "train", "--batch", "1",         "--seq", "16",
                                            "--steps", "12",    "--log",   "/dev/full", NULL};
    Session *s = run_on_terminal(&(Terminal){.columns = 100}, arguments);
    assert_int_equal(s->code, 1);
    assert_int_equal(s->cursor_hidden, 0);
    assert_true(on_screen(s, "brim: cannot write the log"));
    assert_false(on_screen(s, " elapsed "));
}

/* A script may ask for the panel; what it says stays above. */
static void scripts_may_have_a_panel(void **state)
{
    (void)state;
    Session *s = run_on_terminal(&(Terminal){.columns = 100}, NULL);
    assert_int_equal(s->code, 0);
    assert_non_null(strstr(s->output, "\033[?25l"));
    assert_non_null(strstr(s->output, " of 5 "));
    assert_int_equal(s->cursor_hidden, 0);
    assert_memory_equal(s->screen[2], "after step 3   ", 15);
    assert_memory_equal(s->screen[3], "at the end   ", 13);
    assert_non_null(strstr(s->screen[5], " steps, "));
    assert_false(on_screen(s, " elapsed "));
}

/* Into a file go lines, whether a panel was asked for or not; nothing where the run is quiet. */
static void scripts_print_lines_into_files(void **state)
{
    (void)state;
    for (int quiet = 0; quiet < 2; quiet++) {
        char text[1 << 14];
        FILE *out = tmpfile();
        assert_int_equal(run_talking(out, 1, quiet), 0);
        read_back(out, text, sizeof text);
        assert_int_equal(lines_starting(text, "step "), quiet ? 0 : 5);
        assert_int_equal(lines_starting(text, "after step 3\n"), !quiet);
        assert_int_equal(lines_starting(text, "at the end\n"), !quiet);
        assert_null(strchr(text, '\033'));
    }
    brim_say("outside a run nothing is printed");
}

int main(void)
{
    command_environment();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_only_the_tables),         cmocka_unit_test(no_panel_elsewhere),
        cmocka_unit_test(lines_break_between_phrases),    cmocka_unit_test(too_narrow_is_lines),
        cmocka_unit_test(colours_and_characters),         cmocka_unit_test(validations_stay),
        cmocka_unit_test(a_quit_gives_the_cursor_back),   cmocka_unit_test(an_interrupt_ends_with_the_tables),
        cmocka_unit_test(an_error_gives_the_cursor_back), cmocka_unit_test(scripts_may_have_a_panel),
        cmocka_unit_test(scripts_print_lines_into_files),
    };
    return cmocka_run_group_tests_name("terminal", tests, NULL, NULL);
}
