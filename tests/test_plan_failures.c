/* Memory may run out anywhere: every n-th allocation of a training, of a planning and of opening data fails
 * once, and each time that is an error with a message, with nothing left behind. */
#include <sys/stat.h>
#include <unistd.h>

#include <zlib.h>

#include "plan_support.h"

static Session session;

/* Tries n = 1, 2, … until a whole run needs fewer. `attempt` returns a status, and says why in `error`. */
typedef int (*Attempt)(char error[512]);

static void fail_each(const char *what, Attempt attempt, int at_least)
{
    char error[512] = "";
    uint64_t live = memtrack_process_live();
    for (int n = 1;; n++) {
        memtrack_fail_nth((uint64_t)n);
        error[0] = '\0';
        int status = attempt(error);
        int passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (memtrack_process_live() != live)
            fail_msg("%s: %lld bytes left when allocation %d failed (%s)", what,
                     (long long)(memtrack_process_live() - live), n, error);
        if (passed) {
            if (status)
                fail_msg("%s: fails without a failing allocation: %s", what, error);
            assert_true(n > at_least);
            return;
        }
        if (!status)
            continue; /* it could do without: the corpus keeps a larger block when shrinking it fails */
        if (status != ERROR_MEMORY && status != ERROR_HOST_MEMORY)
            fail_msg("%s: allocation %d failed, and the error is %d (%s)", what, n, status, error);
        if (strlen(error) < 10)
            fail_msg("%s: allocation %d failed, and the message is '%s'", what, n, error);
    }
}

/* The full form takes the whole data. The fast one takes a full step and, where micro-batches are
 * accumulated, one of a single sample: what comes after them allocates nothing else. */
static Case form_of(Case c)
{
    if (full_form())
        return c;
    c.accumulate = c.accumulate > 1 ? 2 : 1;
    c.samples = c.accumulate * CASE_BATCH + 1;
    return c;
}

/* ---- Training -------------------------------------------------------------------------------- */

static Plan planned;
static RunOptions options = {.threads = 1, .seed = 3, .quiet = 1};

static int run(char error[512])
{
    RunResult result;
    int status = plan_execute(case_script, &session, &options, &planned, &result);
    strcpy(error, result.error);
    assert_int_equal(status, result.status);
    assert_int_equal(result.memory.stats.live, 0);
    return status;
}

static void fail_training(const Case *c, int malloc_blocks)
{
    char name[128];
    session = (Session){.c = form_of(*c)};
    options.malloc_blocks = malloc_blocks;
    assert_int_equal(plan_script(case_script, &session, &options, &planned), 0);
    fail_each(case_text(c, name), run, 300);
    plan_free(&planned);
}

static void training_checkpointed_llama(void **state)
{
    (void)state;
    fail_training(&(Case){.family = MODEL_LLAMA,
                          .accumulate = 3,
                          .optimizer = "adamw",
                          .checkpoint = 1,
                          .epochs = 1,
                          .layers = 1},
                  0);
}

static void training_experts(void **state)
{
    (void)state;
    fail_training(&(Case){.family = MODEL_MIXTRAL,
                          .accumulate = 1,
                          .optimizer = "adamw",
                          .checkpoint = 1,
                          .balance = 0.1f,
                          .epochs = 1,
                          .layers = 1},
                  0);
}

static void training_bert_in_blocks_of_malloc(void **state)
{
    (void)state;
    fail_training(&(Case){.family = MODEL_BERT,
                          .accumulate = 3,
                          .optimizer = "rmsprop",
                          .dropout = 0.1f,
                          .epochs = 1,
                          .layers = 1},
                  1);
}

static void training_gpt2_eager(void **state)
{
    (void)state;
    fail_training(&(Case){.family = MODEL_GPT2,
                          .accumulate = 3,
                          .optimizer = "adam",
                          .attention = ATTENTION_EAGER,
                          .epochs = 1,
                          .layers = 1},
                  0);
}

static void training_encoders(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_ROBERTA, MODEL_DISTILBERT, MODEL_MODERNBERT};
    for (int i = 0; i < 3; i++)
        fail_training(&(Case){.family = families[i],
                              .accumulate = 1,
                              .optimizer = "sgd",
                              .checkpoint = !i,
                              .epochs = 1,
                              .layers = 1 + (i == 2)},
                      i == 1);
}

static void training_with_levers(void **state)
{
    (void)state;
    fail_training(&(Case){.family = MODEL_LLAMA,
                          .accumulate = 1,
                          .optimizer = "adamw",
                          .checkpoint = 1,
                          .in_backward = 1,
                          .chunk = 7,
                          .epochs = 1,
                          .layers = 1},
                  0);
    fail_training(&(Case){.family = MODEL_BERT,
                          .accumulate = 3,
                          .optimizer = "adam",
                          .keep_zeros = 1,
                          .chunk = 7,
                          .epochs = 1,
                          .layers = 1},
                  1);
    fail_training(&(Case){.family = MODEL_BERT,
                          .accumulate = 3,
                          .optimizer = "adamw",
                          .skip = 1,
                          .chunk = 7,
                          .epochs = 1,
                          .layers = 1},
                  0);
}

static void training_adapters(void **state)
{
    (void)state;
    fail_training(&(Case){.family = MODEL_LLAMA,
                          .accumulate = 3,
                          .optimizer = "adamw",
                          .checkpoint = 1,
                          .dropout = 0.1f,
                          .lora = "all",
                          .epochs = 1,
                          .layers = 1},
                  0);
}

static void training_beside_stored_weights(void **state)
{
    (void)state;
    fail_training(&(Case){.family = MODEL_GPT2,
                          .accumulate = 1,
                          .optimizer = "adamw",
                          .checkpoint = 1,
                          .weights = {.dtype = DTYPE_BF16, .quantized = DTYPE_NF4},
                          .lora = "c_attn",
                          .epochs = 1,
                          .layers = 1},
                  0);
}

static void training_mlp(void **state)
{
    (void)state;
    session = (Session){0};
    options.malloc_blocks = 0;
    Case c = {.family = MODEL_MLP, .accumulate = 3, .optimizer = "sgd-nesterov", .checkpoint = 1};
    char name[128];
    session.c = form_of(c);
    assert_int_equal(plan_script(case_script, &session, &options, &planned), 0);
    fail_each(case_text(&c, name), run, 100);
    plan_free(&planned);
}

/* ---- Planning -------------------------------------------------------------------------------- */

static int packed; /* the last planning */

static int plan(char error[512])
{
    Plan made;
    int status = plan_script(case_script, &session, &options, &made);
    strcpy(error, made.error);
    assert_int_equal(status, made.status);
    assert_int_equal(made.memory.stats.live, 0);
    packed = made.hints != NULL;
    plan_free(&made);
    return status;
}

static void fail_planning(const char *what, const Case *c, int at_least)
{
    session = (Session){.c = form_of(*c)};
    fail_each(what, plan, at_least);
}

static void planning(void **state)
{
    (void)state;
    fail_planning("planning",
                  &(Case){.family = MODEL_LLAMA,
                          .accumulate = 3,
                          .optimizer = "adamw",
                          .checkpoint = 1,
                          .epochs = 1,
                          .layers = 1},
                  300);
    fail_planning("planning bert",
                  &(Case){.family = MODEL_BERT,
                          .accumulate = 1,
                          .optimizer = "adam",
                          .dropout = 0.1f,
                          .epochs = 1,
                          .layers = 1},
                  300);
    fail_planning(
        "planning and packing",
        &(Case){.family = MODEL_GPT2, .accumulate = 3, .optimizer = "sgd", .checkpoint = 1, .epochs = 1},
        600);
    assert_true(packed);
}

/* Planned, printed and run: brim_run says 1, never more, whatever failed. */
static int plan_and_run(char error[512])
{
    strcpy(error, "brim_run keeps its errors to itself when quiet");
    int status = brim_run(case_script, &session, &options);
    assert_in_range(status, 0, 1);
    return status ? ERROR_MEMORY : 0;
}

static void planning_and_running(void **state)
{
    (void)state;
    options.malloc_blocks = 0;
    session.c =
        form_of((Case){.family = MODEL_MLP, .accumulate = 3, .optimizer = "adamw", .epochs = 1, .layers = 1});
    fail_each("planning and running", plan_and_run, 100);
}

/* ---- Opening data ---------------------------------------------------------------------------- */

static char folder[] = "/tmp/brim-failures-XXXXXX";
static char text_path[64];
static const char *const image_files[] = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz",
                                          "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"};

static void write_idx(const char *name, int images, int count)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unsigned char header[16] = {
        0, 0, 8, (unsigned char)(images ? 3 : 1), 0, 0, 0, (unsigned char)count, 0, 0, 0, 4, 0,
        0, 0, 3}; /* 4 x 3 pixels */
    int body = images ? count * 12 : count;
    gzFile file = gzopen(path, strstr(name, ".gz") ? "wb" : "wbT");
    assert_non_null(file);
    gzwrite(file, header, images ? 16 : 8);
    for (int i = 0; i < body; i++)
        gzputc(file, images ? i * 7 % 256 : i % 5);
    assert_int_equal(gzclose(file), Z_OK);
}

static int make_files(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 4; i++)
        write_idx(image_files[i], i % 2 == 0, i < 2 ? 11 : 5);
    snprintf(text_path, sizeof text_path, "%s/text", folder);
    FILE *file = fopen(text_path, "w");
    for (int i = 0; i < 40; i++)
        fprintf(file, "line %d of a text\n", i);
    return fclose(file);
}

static int remove_files(void **state)
{
    (void)state;
    char path[128];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, image_files[i]);
        unlink(path);
    }
    unlink(text_path);
    return rmdir(folder);
}

static int meta_data;

/* Opens each kind of data, and reads a step of each. */
static int open_data(char error[512])
{
    Context *context = context_create(&(ContextOptions){.meta = meta_data, .threads = 1});
    if (!context) {
        strcpy(error, "no memory for a context");
        return ERROR_HOST_MEMORY;
    }
    Context *outside = context_use(context);
    for (int split = 0; split < 2 && !error_code(); split++) {
        Loader *loaders[] = {
            data_text(text_path,
                      &(TextOptions){.batch = 2, .seq = 16, .accumulate = 2, .split = (DataSplit)split}),
            data_text("builtin", &(TextOptions){.batch = 2,
                                                .seq = 16,
                                                .split = (DataSplit)split,
                                                .corpus_bytes = 999,
                                                .mask_probability = 0.2f}),
            data_images(folder, &(ImageOptions){.batch = 4, .split = (DataSplit)split}),
            case_table(&(Case){.accumulate = 1}, split),
        };
        for (size_t i = 0; i < COUNT(loaders); i++)
            for (const Batch *b; (b = data_next(loaders[i]));)
                assert_non_null(b->labels);
    }
    int status = error_code();
    strcpy(error, error_message());
    context_use(outside);
    context_destroy(context);
    return status;
}

static void data_loading(void **state)
{
    (void)state;
    meta_data = 0;
    fail_each("opening data", open_data, 40);
    meta_data = 1;
    fail_each("opening data on meta", open_data, 30);
}

static void test_no_script(void **state)
{
    (void)state;
    RunResult result;
    Plan plan;
    assert_int_equal(plan_script(NULL, NULL, NULL, &plan), ERROR_ARGUMENT);
    assert_string_equal(plan.error, "there is no script to run: it is NULL");
    assert_int_equal(plan_execute(NULL, NULL, NULL, &plan, &result), ERROR_ARGUMENT);
    assert_string_equal(result.error, "there is no script to run: it is NULL");
    assert_int_equal(brim_run(NULL, NULL, &(RunOptions){.quiet = 1}), 1);
    plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_script),
        cmocka_unit_test(training_checkpointed_llama),
        cmocka_unit_test(training_experts),
        cmocka_unit_test(training_bert_in_blocks_of_malloc),
        cmocka_unit_test(training_gpt2_eager),
        cmocka_unit_test(training_encoders),
        cmocka_unit_test(training_with_levers),
        cmocka_unit_test(training_adapters),
        cmocka_unit_test(training_beside_stored_weights),
        cmocka_unit_test(training_mlp),
        cmocka_unit_test(planning),
        cmocka_unit_test(planning_and_running),
        cmocka_unit_test_setup_teardown(data_loading, make_files, remove_files),
    };
    return cmocka_run_group_tests_name("plan failures", tests, NULL, NULL);
}
