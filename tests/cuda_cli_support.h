/* What the tests of the command on the made-up card share: a small model, and running it. */
#ifndef TEST_CUDA_CLI_SUPPORT_H
#define TEST_CUDA_CLI_SUPPORT_H

#include "cli_support.h"
#include "cuda_support.h"

static const char small_config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 32, "
    "\"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"max_position_embeddings\": 64, "
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true}";

enum { MOST = 40 };

/* brim COMMAND --model of the file above, and what is given. */
static inline Outcome *run_small(const char *command, const char *const *more)
{
    const char *arguments[MOST] = {"brim", command, "--model", in_folder("config.json"), "--threads", "1"};
    int count = 6;
    for (; *more; more++)
        arguments[count++] = *more;
    assert_true(count < MOST);
    return run_command(arguments);
}
#define SMALL(command, ...) run_small(command, (const char *const[]){__VA_ARGS__, NULL})
#define TRAIN(device, ...)                                                                                   \
    SMALL("train", "--device", device, "--batch", "2", "--seq", "16", "--max-samples", "40", "--json",       \
          __VA_ARGS__)

static inline json_t *json_of(Outcome *outcome)
{
    json_error_t error;
    json_t *root = json_loads(expect_code(outcome, 0)->out, 0, &error);
    if (!root)
        fail_msg("%s in: %s", error.text, outcome->out);
    return root;
}

static inline double number(const json_t *root, const char *key)
{
    return json_number_value(json_object_get(root, key));
}

static inline void small_begin(void)
{
    stand_in_environment();
    make_folder(NULL);
    make_file("config.json", small_config, sizeof small_config - 1);
}

#endif
