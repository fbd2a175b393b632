/* --save and --resume, and the signals that stop a run between two steps. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "input_.h"
#include "levers_.h"
#include "lora.h"
#include "several.h"

/* ---- Signals --------------------------------------------------------------------------------- */

/* SIGPIPE, that nobody reads the output any more, only where what was learned would be lost. */
static const int stopping[] = {SIGINT, SIGTERM, SIGPIPE};
enum { STOPPING = sizeof stopping / sizeof stopping[0] };
static struct sigaction before[STOPPING];
static volatile sig_atomic_t stop_signal;
static int catching, together; /* of several ranks: what all of them have heard of */
static int heard;

/* The first asks; the second does what it would have done. But SIGPIPE comes with every line. */
static void on_stop(int number)
{
    static const char asked[] = "brim: stopping after this step; a second signal stops at once\n",
                      unread[] = "brim: nobody reads the output any more: stopping after this step\n";
    int error = errno;
    if (stop_signal && number == SIGPIPE)
        return;
    if (stop_signal) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    stop_signal = number;
    if (together) /* a launcher sends it too where another rank has failed */
        return;
    ssize_t written = number == SIGPIPE ? write(STDERR_FILENO, unread, sizeof unread - 1)
                                        : write(STDERR_FILENO, asked, sizeof asked - 1);
    (void)written; /* there is nobody to tell */
    errno = error;
}

static int caught(const Saving *saving, int number)
{
    return number != SIGPIPE || saving->options->save;
}

void saving_catch_signals(const Saving *saving)
{
    struct sigaction ours = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    stop_signal = heard = 0;
    together = has_ranks(saving->options);
    catching = 1;
    for (int i = 0; i < STOPPING; i++)
        if (caught(saving, stopping[i]) && !sigaction(stopping[i], NULL, &before[i]) &&
            before[i].sa_handler != SIG_IGN)
            sigaction(stopping[i], &ours, NULL);
}

void saving_release_signals(Saving *saving)
{
    for (int i = 0; i < STOPPING; i++)
        if (caught(saving, stopping[i]) && before[i].sa_handler != SIG_IGN)
            sigaction(stopping[i], &before[i], NULL);
    catching = 0;
    saving->signal = together ? heard : stop_signal;
}

void saving_ask(void)
{
    if (together && catching)
        context_ask_to_stop_(context_current(), stop_signal);
}

void saving_hear(void)
{
    if (together && catching && !heard && (heard = context_stopped_(context_current())) != 0 &&
        speaks_alone())
        fprintf(stderr, "brim: stopping after this step: a rank was asked to by a signal\n");
}

int saving_stopped(const Saving *saving)
{
    return saving && catching && (together ? heard : stop_signal) != 0 && !context_is_meta(context_current());
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* --save and --resume of one directory are a command that can be given again and again. */
static int may_start_anew(const Options *o)
{
    return same_file(o->save, o->resume);
}

static int find_newest(Saving *s)
{
    const Options *o = s->options;
    if (io_find_saved_run(o->resume, &s->from))
        return say_error();
    if (s->from.note[0])
        note("%s; resuming the save before it", s->from.note);
    if (s->from.path[0] || may_start_anew(o))
        return EXIT_DONE;
    complain("--resume %s: no saved run is there; leave --resume out to start a new run, or give --save %s "
             "too, which starts one and resumes it later",
             o->resume, o->resume);
    return EXIT_NO;
}

/* What rank 0 has found: it looks at all bytes, and before the others no directory is made. */
typedef struct Start {
    int64_t status;
    SavedRunFound from;
} Start;

static int find_start(Saving *s)
{
    const Options *o = s->options;
    if (!o->resume)
        return EXIT_DONE;
    Start mine = {.status = speaks_alone() ? find_newest(s) : EXIT_DONE};
    if (!has_ranks(o))
        return (int)mine.status;
    mine.from = s->from;
    size_t bytes = (size_t)o->ranks.size * sizeof mine;
    Start *all = memtrack_host_calloc(NULL, bytes);
    if (!all || ranks_gather(&o->ranks, &mine, sizeof mine, all)) {
        complain("--resume %s: rank 0 does not say where to begin", o->resume);
        mine.status = EXIT_NO;
    } else {
        mine = all[0];
    }
    s->from = mine.from;
    memtrack_host_free(NULL, all, bytes);
    return (int)mine.status;
}

/* What is newer than this run would stay the newest: another run's, or one that was gone back from. */
static int check_save(Saving *s)
{
    const Options *o = s->options;
    SavedRunFound newest;
    if (o->resume && may_start_anew(o))
        return EXIT_DONE; /* find_start has looked there */
    if (io_find_saved_run(o->save, &newest)) {
        if (s->from.path[0])
            return say_error();
        newest.path[0] = '\0';
        error_clear(); /* all are damaged: nothing to lose */
    }
    if (!newest.path[0] || (s->from.path[0] && newest.step <= s->from.step))
        return EXIT_DONE;
    if (s->from.path[0])
        fprintf(stderr,
                "brim: --save %s: a run of step %" PRId64 " is saved there, newer than step %" PRId64
                ", which is resumed; save into another directory\n",
                o->save, newest.step, s->from.step);
    else
        fprintf(stderr,
                "brim: --save %s: a run of step %" PRId64
                " is saved there already; add --resume %s to resume it, "
                "or save into another directory\n",
                o->save, newest.step, o->save);
    return EXIT_NO;
}

int saving_open(Saving *saving, const Options *options)
{
    *saving = (Saving){.options = options,
                       .lock = -1,
                       .export_lock = -1,
                       .adapter_lock = -1,
                       .saved = -1,
                       .input_count = -1};
    if (!speaks_alone()) /* rank 0 writes for all */
        return find_start(saving);
    saving->made_save = options->save && access(options->save, F_OK) != 0;
    saving->made_export = options->export && access(options->export, F_OK) != 0;
    saving->made_adapter = options->export_adapter && access(options->export_adapter, F_OK) != 0;
    if (options->save && (saving->lock = io_lock_saved_runs(options->save)) < 0)
        return say_error();
    if (options->export && !same_file(options->save, options->export) &&
        (saving->export_lock = io_lock_exports(options->export)) < 0)
        return say_error();
    if (options->export_adapter && !same_file(options->save, options->export_adapter) &&
        (saving->adapter_lock = io_lock_exports(options->export_adapter)) < 0)
        return say_error();
    return find_start(saving) || (options->save && check_save(saving)) ? EXIT_NO : EXIT_DONE;
}

int saving_log_number(const Saving *saving, const char *path)
{
    char kept[LOG_PATH];
    if (!saving_resumes(saving) || !path || access(path, F_OK) != 0)
        return 0;
    int number = 1;
    while (number < 10000 && snprintf(kept, sizeof kept, "%s.%d", path, number) < (int)sizeof kept &&
           access(kept, F_OK) == 0)
        number++;
    return number;
}

int saving_keep_log(const char *path, int rank, int number)
{
    char named[LOG_PATH], own[LOG_PATH], kept[LOG_PATH];
    if (!number || report_log_rank_path(own, sizeof own, path, rank) || access(own, F_OK) != 0)
        return EXIT_DONE;
    if (number < 10000 && snprintf(named, sizeof named, "%s.%d", path, number) < (int)sizeof named &&
        !report_log_rank_path(kept, sizeof kept, named, rank) && rename(own, kept) == 0) {
        note("the log of the earlier steps is now %s", kept);
        return EXIT_DONE;
    }
    complain("cannot rename %s, the log of the earlier steps", own);
    return EXIT_NO;
}

void saving_close(Saving *saving)
{
    /* Not if anything is in it, and under its lock: without, another run may be about to write there. */
    if (saving->made_export && saving->export_lock >= 0)
        rmdir(saving->options->export);
    if (saving->made_save && saving->lock >= 0)
        rmdir(saving->options->save);
    if (saving->made_adapter && saving->adapter_lock >= 0)
        rmdir(saving->options->export_adapter);
    io_unlock_saved_runs(saving->lock);
    io_unlock_saved_runs(saving->export_lock);
    io_unlock_saved_runs(saving->adapter_lock);
    saving->lock = saving->export_lock = saving->adapter_lock = -1;
}

/* ---- What must be the same ------------------------------------------------------------------- */

enum { SETTINGS = LEVERS_MAX + 2, SETTING_TEXT = 128, COMMAND_TEXT = 1024 };

typedef struct Settings {
    SavedRunSetting list[SETTINGS];
    char text[SETTINGS][SETTING_TEXT], command[COMMAND_TEXT];
    int count;
} Settings;

static void __attribute__((format(printf, 3, 4))) add(Settings *s, const char *name, const char *format, ...)
{
    va_list arguments;
    char *text = s->text[s->count];
    va_start(arguments, format);
    vsnprintf(text, SETTING_TEXT, format, arguments);
    va_end(arguments);
    json_clean(text);
    s->list[s->count++] = (SavedRunSetting){name, text};
}

/* The last part of a path, with or without a slash behind it. */
static void add_name(Settings *s, const char *name, const char *path)
{
    int end = (int)strlen(path), from;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (from = end; from > 0 && path[from - 1] != '/';)
        from--;
    add(s, name, "%.*s", end - from, path + from);
}

/* A saved run does not know how many ranks there were: what it wants again is a step's micro-batches, of all
 * of them. */
typedef struct LeverSettings {
    Settings *to;
    const Options *options;
} LeverSettings;

static void add_lever(void *user, const char *name, const char *value)
{
    const LeverSettings *s = user;
    if (!strcmp(name, "accumulate"))
        add(s->to, name, "%d", s->options->accumulate * data_ranks(s->options));
    else
        add(s->to, name, "%s", value);
}

/* Every setting that can change a bit of a weight; except the number of steps, and options that were not
 * given. */
static void fill_settings(Settings *s, const Options *o)
{
    size_t used = 0;
    s->count = 0;
    add(s, "model", "%s", o->model);
    add_name(s, "data", o->data);
    levers_saved(o, add_lever, &(LeverSettings){s, o});
    s->command[0] = '\0';
    for (int i = 0; i < o->argument_count && used < COMMAND_TEXT; i++)
        used +=
            (size_t)snprintf(s->command + used, COMMAND_TEXT - used, "%s%s", i ? " " : "", o->arguments[i]);
    json_clean(s->command);
}

/* A file that is read under this name or with one of these endings. */
static void add_input(Saving *s, const char *name, const char *path, const char *ending, const char *other)
{
    char *out = s->input_path[s->input_count];
    for (int i = 0; i < 2; i++)
        if (snprintf(out, SAVING_PATH, "%s%s", path, i ? other : ending) < SAVING_PATH &&
            access(out, F_OK) == 0) {
            s->inputs[s->input_count] = (SavedRunInput){.name = name, .path = out};
            if (!io_fingerprint(&s->inputs[s->input_count]))
                s->input_count++;
            return;
        }
}

/* A text of several files, as it was read. A pipe is not compared: it cannot be resumed. */
static void add_read_input(Saving *s, const Options *o)
{
    char *out = s->input_path[s->input_count];
    const TextInput *input = input_of(o);
    if (text_input_is_pipe(input) || snprintf(out, SAVING_PATH, "%s", o->data) >= SAVING_PATH)
        return;
    SavedRunInput *to = &s->inputs[s->input_count++];
    *to = (SavedRunInput){.name = "data", .path = out};
    input_sum(input, &to->bytes, &to->crc32);
}

/* The configuration beside a tokenizer names the token that ends a completion. */
static void add_end_token(Saving *s, const char *tokenizer)
{
    char path[SAVING_PATH];
    const char *slash = strrchr(tokenizer, '/');
    int folder = is_directory(tokenizer) ? (int)strlen(tokenizer) : slash ? (int)(slash - tokenizer) : 0;
    if (snprintf(path, sizeof path, "%.*s", folder ? folder : 1, folder ? tokenizer : ".") < SAVING_PATH)
        add_input(s, "tokenizer configuration", path, "/tokenizer_config.json", "/tokenizer_config.json");
}

/* Once, when the run has just read them. */
static void look_at_inputs(Saving *s)
{
    const Options *o = s->options;
    if (s->input_count >= 0 || context_is_meta(context_current()))
        return;
    s->input_count = 0;
    if (!reads_text(o)) {
        const char *directory = data_images_directory(o->data);
        char path[SAVING_PATH];
        if (directory && snprintf(path, sizeof path, "%s/train-", directory) < SAVING_PATH) {
            add_input(s, "images", path, "images-idx3-ubyte", "images-idx3-ubyte.gz");
            add_input(s, "labels", path, "labels-idx1-ubyte", "labels-idx1-ubyte.gz");
        }
    } else if (input_of(o) && (is_directory(o->data) || access(o->data, F_OK) != 0)) {
        add_read_input(s, o); /* a pipe, several files */
    } else if (strcmp(o->data, "builtin") != 0)
        add_input(s, "data", o->data, "", "");
    if (o->tokenizer)
        add_input(s, "tokenizer", o->tokenizer, is_directory(o->tokenizer) ? "/tokenizer.json" : "", "");
    if (o->tokenizer && is_pairs(o))
        add_end_token(s, o->tokenizer);
}

/* What the adapters' base is told by; looked at once, when the run is planned. */
static void look_at_base(Saving *s)
{
    const Options *o = s->options;
    if (!has_adapters(o) || !o->init || s->base.path)
        return;
    s->base = (SavedRunInput){.name = "base", .path = o->init};
    io_fingerprint(&s->base);
}

static SavedRun complete_run(const Saving *saving, const SavedRun *run, Settings *settings)
{
    SavedRun all = *run;
    fill_settings(settings, saving->options);
    all.settings = settings->list;
    all.setting_count = settings->count;
    all.inputs = saving->inputs;
    all.input_count = saving->input_count > 0 ? saving->input_count : 0;
    all.base = saving->base.path ? &saving->base : NULL;
    all.command = settings->command;
    all.keep = saving->options->keep;
    return all;
}

/* ---- In the script --------------------------------------------------------------------------- */

int saving_resumes(const Saving *saving)
{
    return saving && saving->from.path[0];
}

int64_t saving_load(Saving *saving, const SavedRun *run)
{
    Settings settings;
    SavedRunFound found;
    if (saving && (saving->options->save || saving_resumes(saving)) && !error_code())
        look_at_inputs(saving);
    if (saving && (saving->options->save || saving_resumes(saving)) && !error_code())
        look_at_base(saving);
    if (!saving_resumes(saving) || error_code())
        return 0;
    SavedRun all = complete_run(saving, run, &settings);
    if (io_load_run(saving->from.path, &all, &found))
        return 0;
    if (found.note[0] && !saving->noted++)
        note("%s", found.note);
    saving->saved = same_file(saving->options->save, saving->options->resume) ? found.step : -1;
    return found.step;
}

static int save(Saving *saving, const SavedRun *run)
{
    Settings settings;
    SavedRun all = complete_run(saving, run, &settings);
    saving->failed = io_save_run(saving->options->save, &all) != 0;
    if (!saving->failed)
        saving->saved = optim_steps(run->optimizer);
    brim_lap();
    return saving->failed;
}

static int saves(const Saving *saving)
{
    return saving && saving->options->save && !error_code() && !context_is_meta(context_current());
}

void saving_step(Saving *saving, const SavedRun *run, int64_t steps)
{
    if (!saves(saving))
        return;
    int64_t every = saving->options->save_every ? saving->options->save_every : (steps + 9) / 10;
    int64_t step = optim_steps(run->optimizer);
    if (step % every != 0 || step >= steps || !save(saving, run))
        return;
    if (speaks_alone())
        fprintf(stderr, "brim: step %" PRId64 " is not saved: %s; training continues\n", step,
                error_message());
    error_clear();
}

void saving_end(Saving *saving, const SavedRun *run)
{
    if (!saves(saving) || saving->saved == optim_steps(run->optimizer) || !save(saving, run))
        return;
    if (speaks_alone())
        fprintf(stderr, "brim: the end of the run is not saved: %s\n", error_message());
    error_clear();
}
