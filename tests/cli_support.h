/* What the tests of the command share: running build/brim (or what BRIM_COMMAND names) as a user would, files
 * to give it, and the shape of its JSON. */
#ifndef TEST_CLI_SUPPORT_H
#define TEST_CLI_SUPPORT_H

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "../memtrack/memtrack.h"
#include "support.h"

/* ---- Running --------------------------------------------------------------------------------- */

typedef struct Outcome {
    int code; /* of the exit; 128 + signal when it died of one */
    double processor_seconds;
    uint64_t resident_peak; /* bytes */
    char out[1 << 20], err[1 << 14];
} Outcome;

/* A command that hangs is ended; far beyond what any needs on a busy machine. */
enum { RUN_SECONDS = 400 };

static inline const char *command_path(void)
{
    const char *path = getenv("BRIM_COMMAND");
    path = path && path[0] ? path : "build/brim";
    if (access(path, X_OK))
        fail_msg("there is no %s: build it, or name it in BRIM_COMMAND", path);
    return path;
}

static inline void read_back(FILE *file, char *text, size_t size)
{
    rewind(file);
    size_t length = fread(text, 1, size - 1, file);
    if (length == size - 1)
        fail_msg("%zu bytes of output or more", length);
    text[length] = '\0';
    fclose(file);
}

/* What a command finds on its standard input. */
static const char *command_input __attribute__((unused)) = "/dev/null";

/* arguments[0] is replaced by the command; NULL ends them. */
static inline Outcome *run_command(const char **arguments)
{
    static Outcome outcome;
    FILE *out = tmpfile(), *err = tmpfile();
    assert_true(out && err);
    arguments[0] = command_path();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(open(command_input, O_RDONLY), 0);
        dup2(fileno(out), 1);
        dup2(fileno(err), 2);
        command_environment();
        alarm(RUN_SECONDS);
        execv(arguments[0], (char **)(uintptr_t)arguments);
        _exit(127);
    }
    int status = 0;
    struct rusage used;
    assert_true(child > 0 && wait4(child, &status, 0, &used) == child);
    outcome.processor_seconds = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                                1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    outcome.resident_peak = (uint64_t)used.ru_maxrss << 10;
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_back(out, outcome.out, sizeof outcome.out);
    read_back(err, outcome.err, sizeof outcome.err);
    return &outcome;
}

#define RUN(...) run_command((const char *[]){"brim", __VA_ARGS__, NULL})

static inline Outcome *expect_code(Outcome *outcome, int code)
{
    if (outcome->code != code)
        fail_msg("exit code %d, not %d\nstderr: %s\nstdout: %s", outcome->code, code, outcome->err,
                 outcome->out);
    return outcome;
}

static inline int lines_starting(const char *text, const char *start)
{
    int count = 0;
    for (const char *at = text; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        count += !strncmp(at, start, strlen(start));
    return count;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static char folder[64];

static inline int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/brim-cli-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state)
{
    (void)state;
    char command[128];
    if (strncmp(folder, "/tmp/brim-cli-", 14))
        return -1;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* A path in the folder; four may be in use at once. */
static inline const char *in_folder(const char *name)
{
    static char paths[4][192];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static inline const char *make_file(const char *name, const void *bytes, size_t size)
{
    const char *path = in_folder(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* A config.json in the folder, of a family and small: a training takes a tenth of that of `brim models`'
 * least, and a plan a third. Its weights are more than 1 MiB. */
static inline const char *make_model(const char *family)
{
    char text[640], name[32];
    snprintf(name, sizeof name, "%s.json", family);
    int length = snprintf(
        text, sizeof text,
        "{\"model_type\": \"%s\", \"vocab_size\": %d, \"hidden_size\": 96, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"max_position_embeddings\": 256, "
        "\"%s\": 256}",
        family, strcmp(family, "bert") ? 256 : 260, strcmp(family, "gpt2") ? "intermediate_size" : "n_inner");
    return make_file(name, text, (size_t)length);
}

/* Words from a small vocabulary: something can be learned from it. */
static inline const char *make_text(const char *name, size_t size)
{
    static const char *const words[] = {"the ", "cat ", "sat ", "on ", "a ", "mat. "};
    static char text[1 << 16];
    size_t used = 0;
    for (uint32_t i = 0; used < size; i++) {
        const char *word = words[hash32(i) % COUNT(words)];
        for (; *word && used < size; word++)
            text[used++] = *word;
    }
    return make_file(name, text, size);
}

/* An IDX file of `count` images of 28 x 28, or of labels; `damage` bytes are cut off its end. */
static inline void make_idx(const char *directory, const char *name, int images, int count, size_t damage)
{
    static unsigned char bytes[16 + 784 * 256];
    char path[128];
    size_t header = images ? 16 : 8, body = (size_t)count * (images ? 784 : 1);
    assert_true(header + body <= sizeof bytes);
    const unsigned char head[16] = {
        0, 0, 8, (unsigned char)(images ? 3 : 1), 0, 0, 0, (unsigned char)count, 0, 0, 0, 28, 0, 0, 0, 28};
    memcpy(bytes, head, sizeof head);
    for (size_t i = 0; i < body; i++) {
        size_t sample = images ? i / 784 : i;
        unsigned label = hash32((uint32_t)sample) % 10;
        bytes[header + i] =
            (unsigned char)(images ? (i % 784 / 78 == label ? 200 : 0) + hash32((uint32_t)i) % 50 : label);
    }
    snprintf(path, sizeof path, "%s/%s", directory, name);
    make_file(path, bytes, header + body - damage);
}

static inline const char *make_images(const char *directory)
{
    const char *path = in_folder(directory);
    mkdir(path, 0700);
    make_idx(directory, "train-images-idx3-ubyte", 1, 100, 0);
    make_idx(directory, "train-labels-idx1-ubyte", 0, 100, 0);
    make_idx(directory, "t10k-images-idx3-ubyte", 1, 30, 0);
    make_idx(directory, "t10k-labels-idx1-ubyte", 0, 30, 0);
    return in_folder(directory);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static inline json_t *parse(const char *text)
{
    json_error_t error;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        fail_msg("%s at line %d: %s", error.text, error.line, text);
    return root;
}

/* Exactly these keys, named in one string with spaces between. */
static inline void assert_keys(const json_t *object, const char *keys)
{
    char wanted[256];
    size_t count = 0;
    assert_true(json_is_object(object));
    strcpy(wanted, keys);
    char *save = NULL;
    for (char *key = strtok_r(wanted, " ", &save); key; key = strtok_r(NULL, " ", &save), count++)
        if (!json_object_get(object, key))
            fail_msg("no \"%s\" among the keys; wanted are %s", key, keys);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        int known = 0;
        save = NULL;
        strcpy(wanted, keys);
        for (char *one = strtok_r(wanted, " ", &save); one; one = strtok_r(NULL, " ", &save))
            known |= !strcmp(one, key);
        if (!known)
            fail_msg("\"%s\" is not among the keys %s", key, keys);
    }
    assert_int_equal(json_object_size(object), count);
}

static inline json_int_t integer_at(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("\"%s\" is no integer", key);
    return json_integer_value(value);
}

static inline double real_at(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("\"%s\" is no number", key);
    return json_number_value(value);
}

static inline json_int_t sum_of(const json_t *object, const char *inner)
{
    json_int_t sum = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) sum +=
        inner ? integer_at(value, inner) : json_integer_value(value);
    return sum;
}

/* The memory object: its keys, and its sums. `process` and `planned` say whether it must have those. */
static inline void check_memory(const json_t *memory, int process, int planned)
{
    char keys[160];
    snprintf(keys, sizeof keys, "components groups peak_bytes needs_bytes peak_at%s%s",
             process ? " process" : "", planned ? " planned" : "");
    assert_keys(memory, keys);
    const json_t *components = json_object_get(memory, "components"),
                 *groups = json_object_get(memory, "groups");
    assert_keys(components,
                "parameter frozen master gradient optimizer activation activation_gradient temporary "
                "workspace input buffer kv_cache gathered communication");
    assert_keys(groups, "parameters gradients optimizer_states activations overhead");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)components, key, value)
    {
        assert_keys(value, "peak at_peak");
        assert_true(integer_at(value, "peak") >= integer_at(value, "at_peak"));
    }
    json_int_t peak = integer_at(memory, "peak_bytes");
    assert_true(peak > 0 && integer_at(memory, "needs_bytes") >= peak);
    assert_int_equal(sum_of(components, "at_peak"), peak);
    assert_int_equal(sum_of(groups, NULL), peak);
    assert_keys(json_object_get(memory, "peak_at"), "step phase place op");
    if (process) {
        assert_keys(json_object_get(memory, "process"), "peak_bytes unaccounted_bytes");
        assert_true(integer_at(json_object_get(memory, "process"), "peak_bytes") > 0);
    }
}

/* What a plan and a run must agree in. */
static inline void assert_same_memory(const json_t *a, const json_t *b)
{
    static const char *const keys[] = {"components", "groups", "peak_bytes", "needs_bytes", "peak_at"};
    for (size_t i = 0; i < COUNT(keys); i++)
        if (!json_equal(json_object_get(a, keys[i]), json_object_get(b, keys[i])))
            fail_msg("\"%s\" differ", keys[i]);
}

#endif
