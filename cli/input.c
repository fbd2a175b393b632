/* --data and --prompt from pipes, gzip files, directories; what a user should know of data, said once. */
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "../base/file_.h"
#include "../text/input_.h"
#include "input_.h"

/* A pipe is empty after the first plan, so what was read stays until the process ends. */
static struct {
    TextInput *data;
    char *prompt;
    const char *path, *noted, *checked; /* of data; of the last note; of a .bin whose ids were all read */
} kept;

const TextInput *input_of(const Options *o)
{
    if (kept.path && !strcmp(kept.path, o->data))
        return kept.data;
    if (error_code() || !text_input_needed(o->data))
        return NULL;
    TextInput *read = text_input_read(o->data);
    if (!read)
        return NULL;
    text_input_free(kept.data);
    kept.data = read;
    kept.path = o->data;
    return read;
}

void input_sum(const TextInput *input, uint64_t *bytes, uint32_t *crc32)
{
    size_t count = 0;
    const char *text = text_input_text(input, &count);
    *bytes = count;
    *crc32 = (uint32_t)crc32_z(0, (const Bytef *)text, count);
}

static int is_text_of_yours(const Options *o)
{
    return o->data && strcmp(o->data, "builtin") != 0 && !is_bin(o->data);
}

int replaces_invalid(const Options *o)
{
    return o->invalid_utf8 && !strcmp(o->invalid_utf8, "replace");
}

int check_data_options(const Options *o)
{
    if (o->invalid_utf8 && strcmp(o->invalid_utf8, "replace") && strcmp(o->invalid_utf8, "refuse"))
        return usage("--invalid-utf8 must be replace or refuse, not '%s'", o->invalid_utf8);
    if (o->invalid_utf8 && (!o->tokenizer || !is_text_of_yours(o)))
        return usage("--invalid-utf8 says what a tokenizer does with a text: it needs --tokenizer FILE and "
                     "--data TEXT");
    if (o->check_data && (!o->data || !is_bin(o->data)))
        return usage(
            "--check-data reads all ids of a .bin: it needs --data FILE.bin (a text that a tokenizer "
            "reads and JSON lines are looked at whole anyway)");
    if (o->resume && o->data && text_input_is_once(o->data))
        return usage(
            "--resume needs the same data, and a pipe cannot be read again: write the text to a file, and "
            "start the run with --data FILE");
    return 0;
}

/* Without the newline that `echo` puts behind it. */
static int take_prompt(void)
{
    size_t bytes = 0;
    TextInput *input = text_input_read("-");
    const char *text = input ? text_input_text(input, &bytes) : NULL;
    size_t length = text ? strlen(text) : 0;
    kept.prompt = text && length == bytes ? memtrack_host_strdup(NULL, text) : NULL;
    text_input_free(input);
    if (text && length < bytes)
        return usage("--prompt - has a byte 0 at %zu; a prompt is text", length);
    if (!kept.prompt)
        return text ? usage("--prompt -: no host memory to keep it") : (say_error(), EXIT_USAGE);
    if (length && kept.prompt[length - 1] == '\n')
        kept.prompt[length - 1] = '\0';
    return 0;
}

int read_prompt(Options *o)
{
    if (!o->prompt || strcmp(o->prompt, "-"))
        return 0;
    if (o->data && !strcmp(o->data, "-"))
        return usage("--data - and --prompt - would both read standard input: use one of the two");
    if (o->generate && o->ranks.tensor > 1)
        return usage("--prompt - excludes --tensor %d: of several ranks one has the standard input; --prompt "
                     "\"$(cat FILE)\" gives it to all",
                     o->ranks.tensor);
    if (!kept.prompt && take_prompt())
        return EXIT_USAGE;
    o->prompt = kept.prompt;
    return 0;
}

void say_data_note(const Options *o, const Loader *loader)
{
    const char *note = data_note(loader);
    if (!note[0] || !speaks_alone() || (kept.noted && !strcmp(kept.noted, o->data)))
        return;
    fprintf(stderr, "brim: note: %s\n", note);
    kept.noted = o->data;
}

static void show_progress(int64_t done, int64_t all, void *user)
{
    static const char bar[] = "########################################";
    enum { COLUMNS = sizeof bar - 1 };
    int full = all > 0 ? (int)(COLUMNS * done / all) : COLUMNS;
    fprintf(stderr, "\rchecking %s [%-*.*s] %3d %%%s", (const char *)user, COLUMNS, full, bar,
            all > 0 ? (int)(100 * done / all) : 100, done >= all ? "\n" : "");
}

int check_all_ids(const Options *o, int64_t vocab)
{
    char shown[FILE_LABEL];
    if (kept.checked && !strcmp(kept.checked, o->data))
        return ERROR_NONE;
    path_label(shown, o->data);
    kept.checked = o->data;
    return data_check_tokens(o->data, &(TokenOptions){.vocab = vocab},
                             isatty(STDERR_FILENO) ? show_progress : NULL, shown);
}
