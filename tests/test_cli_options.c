/* Every option that a command takes acts or is refused: what is printed, what is written or how it ends
 * differs from the same command without it. The few that do not are listed with the reason. */
#include "cli_support.h"

/* ---- Each option, with a value that is not its usual one ------------------------------------- */

typedef struct Trial {
    const char *option, *value; /* value NULL: a switch */
    const char *context[5];     /* beside it, and in the command that it is compared with */
} Trial;

static const Trial trials[] = {
    {"--model", "gpt2-tiny", {0}},
    {"--init", "@weights", {0}},
    {"--init-partial", NULL, {"--init", "@gpt2"}},
    {"--resize-vocab", "300", {"--init", "@weights"}},
    {"--lora", "r=2", {0}},
    {"--adapter", "@adapter", {0}},
    {"--adapter", "@adapter", {"--model", "@llama.json"}}, /* where no model is named yet: generate */
    {"--data", "@text", {0}},
    {"--check-data", NULL, {"--data", "@text"}},
    {"--invalid-utf8", "replace", {"--data", "@text"}},
    {"--pack", NULL, {"--data", "@pairs"}},
    {"--tokenizer", "@tokenizer", {"--data", "@text", "--vocab", "300"}},
    {"--vocab", "300", {0}},
    {"--batch", "3", {0}},
    {"--seq", "17", {0}},
    {"--accumulate", "2", {0}},
    {"--accumulate-apart", NULL, {"--accumulate", "2"}},
    {"--max-samples", "5", {0}},
    {"--steps", "3", {0}},
    {"--epochs", "2", {0}},
    {"--optimizer", "sgd", {0}},
    {"--lr", "0.5", {0}},
    {"--schedule", "constant", {0}},
    {"--warmup", "2", {0}},
    {"--weight-decay", "9", {0}},
    {"--clip", "0.01", {0}},
    {"--seed", "5", {0}},
    {"--threads", "1", {0}},
    {"--ranks", "2", {0}},
    {"--parallel", "zero2", {"--ranks", "2"}},
    {"--replicas", "2", {"--ranks", "4", "--parallel", "zero2"}},
    {"--replicate-below", "500", {"--ranks", "2", "--parallel", "zero3"}},
    {"--reduce", "library", {"--ranks", "2"}},
    {"--tensor", "2", {"--ranks", "2"}},
    {"--tensor", "2", {"--cards", "2"}},
    {"--sequence-parallel", NULL, {"--ranks", "2", "--tensor", "2"}},
    {"--gather", "block", {"--ranks", "2", "--parallel", "zero3"}},
    {"--stages", "2", {"--ranks", "2"}},
    {"--stages", "2", {"--cards", "2"}},
    {"--pipeline", "gpipe", {"--ranks", "2", "--stages", "2"}},
    {"--pipeline", "gpipe", {"--cards", "2", "--accumulate", "2"}},
    {"--rank", "1", {"--ranks", "2"}},
    {"--rank-timeout", "99", {"--ranks", "2"}},
    {"--transport", "mpi", {"--ranks", "2"}},
    {"--device", "cuda", {0}},
    {"--no-graph", NULL, {0}},
    {"--dropout", "0.5", {0}},
    {"--checkpoint", "blocks", {0}},
    {"--optimizer-in-backward", NULL, {0}},
    {"--loss-chunk", "4", {0}},
    {"--skip-unlabelled", NULL, {0}},
    {"--zero-grad", "keep", {0}},
    {"--attention", "eager", {0}},
    {"--precision", "bf16", {0}},
    {"--precision", "bf16-mixed", {"--lora", "r=4"}},
    {"--precision", "tf32", {"--device", "cuda"}},
    {"--grad-dtype", "32", {"--precision", "bf16"}},
    {"--rounding", "nearest", {"--precision", "bf16"}},
    {"--loss-scale", "256", {"--precision", "fp16-mixed"}},
    {"--weights", "bf16", {"--lora", "r=4"}},
    {"--quantize", "nf4", {"--lora", "r=4"}},
    {"--budget", "1MiB", {0}},
    {"--card", "t4", {0}},
    {"--cards", "2", {0}},
    {"--memory", "1GiB", {0}},
    {"--reserve", "3MiB", {0}},
    {"--save", "@new", {0}},
    {"--save-every", "3", {"--save", "@new", "--keep", "9"}},
    {"--keep", "1", {"--save", "@new", "--save-every", "1"}},
    {"--resume", "@none", {0}},
    {"--export", "@new", {0}},
    {"--export-dtype", "bf16", {"--export", "@new"}},
    {"--export-shard", "1MiB", {"--export", "@new"}},
    {"--merge", NULL, {"--export", "@new", "--lora", "r=2"}},
    {"--export-adapter", "@new", {"--lora", "r=2"}},
    {"--overwrite", NULL, {"--export", "@full"}},
    {"--every", "2", {0}},
    {"--evaluate-every", "1", {0}},
    {"--quiet", NULL, {0}},
    {"--json", NULL, {0}},
    {"--csv", NULL, {0}},
    {"--log", "@new", {0}},
    {"--run", "1", {0}},
    {"--four-ways", NULL, {0}},
    {"--approximate", NULL, {0}},
    {"--textbook", NULL, {0}},
    {"--inference", NULL, {0}},
    {"--prefill", "2", {0}},
    {"--framework", "pytorch", {0}},
    {"--versions", "torch=2.11", {"--framework", "pytorch"}},
    {"--script", "loop", {"--framework", "pytorch"}},
    {"--kbit-prepare", "on", {"--framework", "pytorch", "--lora", "r=4"}},
    {"--hold-outputs", NULL, {"--framework", "pytorch", "--script", "loop"}},
    {"--no-sync", NULL, {"--framework=pytorch", "--script=loop", "--ranks", "2"}},
    {"--evaluate", "2", {"--framework", "pytorch"}},
    {"--eval-accumulation", "1", {"--framework", "pytorch", "--evaluate", "2", "--metrics"}},
    {"--metrics", NULL, {"--framework", "pytorch", "--evaluate", "2"}},
    {"--longest", "9", {"--framework", "pytorch"}},
    {"--html", "@new", {"--framework", "pytorch"}},
    {"--alloc-conf", "max_split_size_mb:64", {"--framework", "pytorch"}},
    {"--sample", "5", {0}},
    {"--prompt", "xyz", {0}},
    {"--tokens", "3", {0}},
    {"--temperature", "5", {0}},
    {"--top-k", "1", {0}},
    {"--top-p", "0.1", {0}},
    {"--ignore-eos", NULL, {0}},
};

/* ---- Each command ---------------------------------------------------------------------------- */

typedef struct Base {
    const char *arguments[14];
} Base;

#define SMALL "--threads", "2", "--batch", "2"
static const Base bases[] = {
    {{"plan", "@llama.json", SMALL, "--seq", "16"}},
    {{"plan", "bert-tiny", SMALL, "--seq", "16"}},
    {{"plan", "mlp", SMALL}},
    {{"plan", "gpt2-tiny", "--inference", SMALL, "--seq", "16"}},
    {{"plan", "--textbook"}},
    {{"compare", "@llama.json", SMALL, "--seq", "16"}},
    {{"fit", "@llama.json", SMALL, "--seq", "16", "--memory", "12MiB", "--reserve", "1MiB"}},
    {{"train", "@llama.json", SMALL, "--seq", "16", "--steps", "4", "--max-samples", "8"}},
    {{"generate", "--threads", "2", "--prompt", "The", "--tokens", "9", "--prefill", "3"}},
    {{"models"}},
    {{"gpus"}},
};

/* Where nothing differs, and why that is right. NULL is every command of that kind. */
static const struct {
    const char *command, *options, *why;
} exceptions[] = {
    {"plan compare fit",
     " --schedule --warmup --weight-decay --clip --seed --every --evaluate-every --quiet --data "
     "--max-samples --tokenizer --check-data --invalid-utf8 ",
     "they decide how a training goes and not what it needs; they are taken so that the command line of a "
     "training "
     "can be planned"},
    {"compare fit", " --lr --steps --epochs ",
     "the same: a plan's headline shows them, a table of many does not"},
    {"plan compare fit train", " --init ",
     "random weights and trained ones need the same; train: of @weights untrained"},
    {"plan compare fit", " --approximate ", "these models are read as they are"},
    {"fit", " --sample ", "a few tokens are written in less than the training needs"},
    {"generate", " --ignore-eos ", "a model without a generation_config.json has no end token"},
    {"generate", " --threads ", "a text does not depend on the number of threads"},
    {"train", " --threads ", "nor does a loss"},
    {"train", " --check-data --invalid-utf8 ", "nothing is wrong in this text"},
    {"train", " --rank-timeout ", "no rank keeps the others waiting"},
    {"train", " --transport ", "on the CPU there is one way to send"},
    {"train", " --overwrite ", "it is needed only where files of another model are in the way"},
    {"plan compare fit train", " --init-partial ", "the weights that it meets here are whole"},
};

static int has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ' ') && (!at[length] || at[length] == ' '))
            return 1;
    return 0;
}

static int is_exception(const char *command, const char *option)
{
    for (size_t i = 0; i < COUNT(exceptions); i++)
        if (has_word(exceptions[i].command, command) && has_word(exceptions[i].options, option))
            return 1;
    return 0;
}

/* ---- Running --------------------------------------------------------------------------------- */

/* What a run printed and wrote, without what differs from run to run. */
typedef struct Result {
    int code;
    char text[1 << 17];
} Result;

enum { WITH, WITHOUT, PLAIN, RESULTS };

static int is_speed(const char *word, const char *next)
{
    return strstr(word, "/s") ||
           (next && (!strncmp(next, "tokens/s", 8) || !strncmp(next, "samples/s", 9) ||
                     !strncmp(next, "s,", 2) || !strncmp(next, "s;", 2) || !strcmp(next, "s")));
}

static void add_line(char *to, size_t size, char *line)
{
    char *words[256];
    int count = 0;
    if (!strncmp(line, "Reserved", 8) || strstr(line, "_per_second") || strstr(line, "process") ||
        strstr(line, "unaccounted") || strstr(line, "seconds"))
        return;
    for (char *w = strtok(line, " "); w && count < 255; w = strtok(NULL, " "))
        words[count++] = w;
    words[count] = NULL;
    size_t used = strlen(to);
    for (int i = 0; i < count && used < size; i++)
        if (!is_speed(words[i], words[i + 1]))
            used += (size_t)snprintf(to + used, size - used, "%s ", words[i]);
    if (used + 1 < size)
        strcat(to, "\n");
}

static void add_text(Result *result, char *text)
{
    for (char *line = text, *end; line && *line; line = end) {
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        add_line(result->text, sizeof result->text, line);
    }
}

/* Names of what was written. */
static void add_files(Result *result)
{
    char command[160], line[256];
    snprintf(command, sizeof command, "cd %s && find . -path './new*' | sed 's/[0-9]*$//' | sort", folder);
    FILE *list = popen(command, "r");
    assert_non_null(list);
    while (fgets(line, sizeof line, list))
        strncat(result->text, line, sizeof result->text - strlen(result->text) - 1);
    pclose(list);
}

/* "@text" is a file of that name in the folder. */
static const char *argument(const char *word)
{
    static char paths[16][192];
    static int next;
    if (!word || word[0] != '@')
        return word;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", folder, word + 1);
    return path;
}

static Result *run(const Base *base, const Trial *trial, int which)
{
    static Result results[RESULTS];
    Result *result = &results[which];
    int with = which == WITH;
    const char *arguments[32] = {"brim"};
    char command[128];
    int count = 1;
    snprintf(command, sizeof command, "rm -rf %s/new", folder);
    assert_int_equal(system(command), 0);
    for (int i = 0; base->arguments[i]; i++)
        arguments[count++] = argument(base->arguments[i]);
    for (int i = 0; i < 5 && trial->context[i]; i++)
        arguments[count++] = argument(trial->context[i]);
    if (with)
        arguments[count++] = trial->option;
    if (with && trial->value)
        arguments[count++] = argument(trial->value);
    Outcome *o = run_command(arguments);
    result->code = o->code;
    result->text[0] = '\0';
    if (o->code > 1)
        return result;
    add_text(result, o->out);
    add_text(result, o->err);
    add_files(result);
    return result;
}

/* The same command without the option. Most have nothing beside them: that is run once for each base. */
static Result *run_without(const Base *base, const Trial *trial)
{
    static const Base *plain_of;
    static Result *plain;
    if (trial->context[0])
        return run(base, trial, WITHOUT);
    if (plain_of != base)
        plain = run(base, trial, PLAIN);
    plain_of = base;
    return plain;
}

static void each_option_acts_or_is_refused(void **state)
{
    (void)state;
    int silent = 0, acted = 0;
    for (size_t b = 0; b < COUNT(bases); b++)
        for (size_t t = 0; t < COUNT(trials); t++) {
            const Base *base = &bases[b];
            const Trial *trial = &trials[t];
            Result *with = run(base, trial, WITH);
            assert_in_range(with->code, 0, 2);
            if (with->code == 2)
                continue;
            Result *without = run_without(base, trial);
            if (without->code) /* nothing can be said beside this context */
                continue;
            int same = with->code == without->code && !strcmp(with->text, without->text);
            int excused = is_exception(base->arguments[0], trial->option) ||
                          (has_word("--textbook --inference", trial->option) && base->arguments[1] &&
                           (!strcmp(base->arguments[1], trial->option) ||
                            (base->arguments[2] && !strcmp(base->arguments[2], trial->option))));
            if (same && !excused)
                print_message("# brim %s %s %s: nothing differs\n", base->arguments[0],
                              base->arguments[1] ? base->arguments[1] : "", trial->option);
            silent += same && !excused;
            acted += !same;
        }
    assert_int_equal(silent, 0);
    assert_true(acted > 100);
}

/* The table above has every option. */
static void each_option_is_tried(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("help", "options"), 0);
    int count = 0;
    for (char *line = strtok(o->out, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "  --", 4))
            continue;
        char option[64];
        snprintf(option, sizeof option, "%.*s", (int)strcspn(line + 2, " "), line + 2);
        int found = 0;
        for (size_t i = 0; i < COUNT(trials); i++)
            found |= !strcmp(trials[i].option, option);
        if (!found)
            fail_msg("%s is not tried", option);
        count++;
    }
    assert_true(count > 50);
}

static int make_files(void **state)
{
    if (make_folder(state))
        return -1;
    make_model("llama");
    const char *text = make_text("text", 20000);
    static const char pairs[] = "{\"prompt\": \"a\", \"completion\": \"bc\"}\n"
                                "{\"prompt\": \"de\", \"completion\": \"fghij\"}\n"
                                "{\"prompt\": \"\", \"completion\": \"klm\"}\n"
                                "{\"prompt\": \"n\", \"completion\": \"o\"}\n";
    make_file("pairs", pairs, sizeof pairs - 1);
    expect_code(RUN("tokenize", "--train", text, "--vocab", "300", "--out", in_folder("tokenizer")), 0);
    static const char *const models[][2] = {
        {"@llama.json", "weights"}, {"gpt2-tiny", "gpt2"}, {"@llama.json", "full"}};
    for (size_t i = 0; i < COUNT(models); i++)
        expect_code(RUN("train", argument(models[i][0]), SMALL, "--seq", "16", "--steps", "1",
                        "--max-samples", "8", "--lr", "0", "--export", in_folder(models[i][1])),
                    0);
    expect_code(RUN("train", in_folder("llama.json"), SMALL, "--seq", "16", "--steps", "1", "--max-samples",
                    "8", "--lora", "r=2", "--export-adapter", in_folder("adapter")),
                0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_option_is_tried),
                                       cmocka_unit_test(each_option_acts_or_is_refused)};
    return cmocka_run_group_tests_name("options", tests, make_files, remove_folder);
}
