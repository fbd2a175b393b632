/* The books of a card: what driver, kernels and cuBLAS take beside the reservation, counted by process where
 * the management library answers, by card where it does not; the same rows wherever they are shown. */
#include "cli_support.h"
#include "cuda_support.h"

#include "device/cuda_count.h"
#include "device/nvml.h"
#include "kernels/kernels.h"
#include "report/report.h"

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 32, "
    "\"intermediate_size\": 64, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"max_position_embeddings\": 64, "
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true}";

enum { MIB = 1 << 20, CONTEXT = 16 * MIB, KERNELS = 2 * MIB, LIBRARY = 8 * MIB, OTHERS = 300 * MIB };

/* ---- The command, with each kind of answer --------------------------------------------------- */

static Outcome *train(void)
{
    const char *log = in_folder("run.jsonl");
    unlink(log);
    const char *arguments[] = {"brim",      "train",
                               "--model",   in_folder("config.json"),
                               "--threads", "1",
                               "--log",     log,
                               "--batch",   "1",
                               "--seq",     "16",
                               "--steps",   "1",
                               "--device",  "cuda",
                               "--quiet",   "--max-samples",
                               "20",        NULL};
    return expect_code(run_command(arguments), 0);
}

/* Of the log's last line. */
static json_t *card_of_the_log(void)
{
    char *line = NULL;
    size_t size = 0;
    json_t *last = NULL, *card;
    FILE *file = fopen(in_folder("run.jsonl"), "r");
    assert_non_null(file);
    while (getline(&line, &size, file) > 0) {
        json_decref(last);
        last = json_loads(line, 0, NULL);
    }
    fclose(file);
    free(line);
    card = json_object_get(json_object_get(last, "memory"), "card");
    assert_non_null(card);
    json_incref(card);
    json_decref(last);
    return card;
}

static json_int_t bytes(const json_t *card, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "%s_bytes", name);
    const json_t *value = json_object_get(card, key);
    if (!json_is_integer(value))
        fail_msg("no %s", key);
    return json_integer_value(value);
}

/* The rows sum to what is used, each is what the stand-in took, and less than a piece is left over. */
static void check_rows(const json_t *card, const char *counter, json_int_t others, json_int_t context)
{
    assert_string_equal(json_string_value(json_object_get(card, "counted_by")), counter);
    assert_int_equal(bytes(card, "others"), others);
    assert_int_equal(bytes(card, "context"), context);
    assert_int_equal(bytes(card, "kernels"), KERNELS);
    assert_int_equal(bytes(card, "library"), LIBRARY);
    assert_true(bytes(card, "unaccounted") >= 0 && bytes(card, "unaccounted") < 2 * MIB);
    assert_int_equal(bytes(card, "reserved") + others + context + KERNELS + LIBRARY + bytes(card, "graphs") +
                         bytes(card, "unaccounted"),
                     bytes(card, "used"));
}

/* As in the closing table, in MiB. */
static void check_line(const Outcome *o, const json_t *card, const char *meaning)
{
    char expected[400], *to = expected;
    static const char *const names[] = {"reserved", "others", "context",    "kernels",
                                        "library",  "graphs", "unaccounted"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_int_t n = bytes(card, names[i]);
        if (n)
            to +=
                sprintf(to, "%s%s %s", i ? " + " : "On the card: ", names[i], report_size((uint64_t)n).text);
    }
    sprintf(to, " = used %s\nUsed: %s.\n", report_size((uint64_t)bytes(card, "used")).text, meaning);
    if (!strstr(o->out, expected))
        fail_msg("expected: %s\nfound: %s", expected, o->out);
}

static void each_counter(void **state)
{
    (void)state;
    static const struct {
        const char *answer, *counter;
        MemCardCounter of;
        json_int_t others, context;
    } cases[] = {
        {"", "process", MEM_CARD_PROCESS, 0, CONTEXT},
        {"host", "all", MEM_CARD_ALL, OTHERS, CONTEXT}, /* as in a container */
        {"collides", "all", MEM_CARD_ALL, OTHERS, CONTEXT},
        {"unsaid", "all", MEM_CARD_ALL, OTHERS, CONTEXT},
        {"refuses", "all", MEM_CARD_ALL, OTHERS, CONTEXT},
        {"blind", "driver", MEM_CARD_DRIVER, 0, OTHERS + CONTEXT},
        {NULL, "driver", MEM_CARD_DRIVER, 0, OTHERS + CONTEXT}, /* no library */
    };
    setenv("STAND_IN_OTHERS", "300", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].answer)
            setenv("STAND_IN_NVML", cases[i].answer, 1);
        else
            setenv("BRIM_NVML", "/nowhere/libnvidia-ml.so.1", 1);
        const Outcome *o = train();
        json_t *card = card_of_the_log();
        check_rows(card, cases[i].counter, cases[i].others, cases[i].context);
        check_line(o, card, report_card_meaning(cases[i].of));
        json_decref(card);
    }
    unsetenv("STAND_IN_NVML");
    unsetenv("STAND_IN_OTHERS");
    stand_in_environment();
}

/* The management library numbers all cards, and CUDA those that are visible: another program is on the first.
 */
static void the_right_card(void **state)
{
    (void)state;
    static const char *const visible[] = {"0", "1", "1,0", "MIG-1"};
    setenv("STAND_IN_CARDS", "3", 1);
    setenv("STAND_IN_OTHERS", "300", 1);
    setenv("STAND_IN_NVML", "host", 1);
    setenv("STAND_IN_MEMORY", "4096", 1);
    for (int i = 0; i < 4; i++) {
        int first = visible[i][0] == '0' || visible[i][0] == 'M';
        setenv("CUDA_VISIBLE_DEVICES", visible[i], 1);
        train();
        json_t *card = card_of_the_log();
        check_rows(card, "all", first ? OTHERS : 0, CONTEXT);
        json_decref(card);
    }
    unsetenv("CUDA_VISIBLE_DEVICES");
    unsetenv("STAND_IN_CARDS");
    unsetenv("STAND_IN_OTHERS");
    unsetenv("STAND_IN_NVML");
    unsetenv("STAND_IN_MEMORY");
}

/* ---- In this process ------------------------------------------------------------------------- */

static int nvml_started(void)
{
    void *library = dlopen(getenv("BRIM_NVML"), RTLD_NOW | RTLD_NOLOAD), *found;
    int (*started)(void);
    assert_non_null(library);
    found = dlsym(library, "stand_in_nvml_started");
    assert_non_null(found);
    memcpy(&started, &found, sizeof started);
    dlclose(library);
    return started();
}

static void open_card(CudaDevice *card)
{
    char why[1200];
    if (kernels_cuda_open(card, 0, why, sizeof why))
        fail_msg("%s", why);
}

/* Each context has a cuBLAS of its own; the driver's context and the kernels are there once. And whoever was
 * told of the card gives it back. */
static void contexts_share_a_card(void **state)
{
    (void)state;
    CudaDevice first, second;
    open_card(&first);
    CudaPointer memory = 0;
    assert_int_equal(cuda.alloc(&memory, 64 * MIB), 0);
    open_card(&second);
    CudaUse a = cuda_in_use(&first), b = cuda_in_use(&second);
    assert_int_equal(a.counter, CUDA_COUNTS_PROCESS);
    assert_int_equal(a.library, LIBRARY);
    assert_int_equal(b.library, LIBRARY); /* not what the first has allocated */
    assert_int_equal(b.context, CONTEXT);
    assert_int_equal(b.kernels, KERNELS);
    assert_int_equal(a.used, b.used);
    assert_int_equal(a.used, CONTEXT + KERNELS + 2 * LIBRARY + 64 * MIB);
    assert_int_equal(nvml_started(), 1);
    cuda.release(memory);
    cuda_close(&first);
    cuda_close(&second);
    assert_int_equal(nvml_started(), 0);
    assert_int_equal(cuda_in_use(&second).counter, CUDA_COUNTERS);
    setenv("STAND_IN_MODE", "exclusive", 1);
    char why[1200];
    assert_int_equal(kernels_cuda_open(&first, 0, why, sizeof why), -1);
    assert_int_equal(nvml_started(), 0);
    unsetenv("STAND_IN_MODE");
}

/* Others take and give while the card is opened: rows never wrap round, and the sum stays what is used. */
static void others_come_and_go(void **state)
{
    (void)state;
    CudaReading at[CUDA_MOMENTS], now = {.bytes = {0, 500, 700}, .known = 6};
    static const uint64_t all[CUDA_MOMENTS] = {300, 200, 250, 250, 240};
    for (int i = 0; i < CUDA_MOMENTS; i++)
        at[i] = (CudaReading){.bytes = {0, all[i], all[i]}, .known = i ? 6 : 2};
    CudaUse use = cuda_use_between(at, &now);
    assert_int_equal(use.counter, CUDA_COUNTS_CARD);
    assert_int_equal(use.others, 300);
    assert_int_equal(use.context, 0);
    assert_int_equal(use.kernels, 50);
    assert_int_equal(use.library, 0);
    MemSummary books = {.reserved = 100,
                        .card = {.used = use.used, .others = use.others, .kernels = use.kernels}};
    assert_int_equal(report_card_unaccounted(&books), 50);
    now.known = 4; /* the card's count is no longer told */
    use = cuda_use_between(at, &now);
    assert_int_equal(use.counter, CUDA_COUNTS_DRIVER);
    assert_int_equal(use.context, 200);
    assert_int_equal(use.used, 700);
    now.known = 0;
    use = cuda_use_between(at, &now);
    assert_int_equal(use.counter, CUDA_COUNTERS);
    assert_int_equal(use.used, 0);
}

/* Many programs on a card. */
static void what_is_not_a_card(void **state)
{
    (void)state;
    static const unsigned char uuid[16] = {1, 2, 3};
    uint64_t n = 7;
    assert_null(nvml_open(uuid));
    nvml_close(NULL);
    assert_int_equal(nvml_own(NULL, &n), -1);
    assert_int_equal(n, 0);
    assert_int_equal(nvml_all(NULL, &n), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_counter),          cmocka_unit_test(the_right_card),
        cmocka_unit_test(contexts_share_a_card), cmocka_unit_test(others_come_and_go),
        cmocka_unit_test(what_is_not_a_card),
    };
    setenv("STAND_IN_GUARD", "0", 1);
    stand_in_environment();
    setenv("STAND_IN_LIBRARY", "8", 1);
    make_folder(NULL);
    make_file("config.json", config, sizeof config - 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_folder(NULL);
    return failed;
}
