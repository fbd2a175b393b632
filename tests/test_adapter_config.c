/* adapter_config.json: every field of PEFT's LoraConfig acts, says nothing, or is refused by name; and what
 * acts means the modules, ranks and alphas that PEFT takes it for (lora/config.py). */
#include "../io/adapter_.h"
#include "lora_support.h"

static int read_config(AdapterConfig *config, const char *text)
{
    mkdir(at("a"), 0777);
    put_file(at("a/adapter_config.json"), text, strlen(text));
    return adapter_config_read(config, at("a"));
}

/* ---- Fields ---------------------------------------------------------------------------------- */

typedef enum Fate { ACTS, DESCRIBES, REFUSED } Fate;

/* set: a value other than the default. A field that acts is read with it; one that describes is, and nothing
 * comes of it; the others are refused by name, and `says` is what to do. */
static const struct {
    const char *name, *set;
    Fate fate;
    const char *says;
} fields[] = {
    {"alora_invocation_tokens", "[1, 2]", REFUSED, "train one without it"},
    {"alpha_pattern", "{\"q_proj\": 2.5}", ACTS, NULL},
    {"arrow_config", "{\"top_k\": 2}", REFUSED, "give one of the adapters"},
    {"auto_mapping", "{\"base_model_class\": \"X\"}", DESCRIBES, NULL},
    {"base_model_name_or_path", "\"org/name\"", ACTS, NULL},
    {"bias", "\"lora_only\"", ACTS, NULL},
    {"corda_config", "{\"verbose\": true}", REFUSED, "merge_and_unload"},
    {"ensure_weight_tying", "true", REFUSED, "merge_and_unload"},
    {"eva_config", "{\"rho\": 2.0}", REFUSED, "remove it from a copy"},
    {"exclude_modules", "[\"k_proj\"]", ACTS, NULL},
    {"fan_in_fan_out", "true", DESCRIBES, NULL},
    {"inference_mode", "true", DESCRIBES, NULL},
    {"init_lora_weights", "\"pissa_niter_16\"", REFUSED, "path_initial_model_for_weight_conversion"},
    {"kasa_config", "{\"beta\": 1.0}", REFUSED, "merge_and_unload"},
    {"layer_replication", "[[0, 4], [2, 5]]", REFUSED, "merge_and_unload"},
    {"layers_pattern", "\"layers\"", ACTS, NULL},
    {"layers_to_transform", "[1]", ACTS, NULL},
    {"loftq_config", "{\"loftq_bits\": 4}", REFUSED, "merge_and_unload"},
    {"lora_alpha", "16", ACTS, NULL},
    {"lora_bias", "true", REFUSED, "merge_and_unload"},
    {"lora_dropout", "0.5", ACTS, NULL},
    {"lora_ga_config", "{\"direction\": \"ArB2r\"}", REFUSED, "merge_and_unload"},
    {"megatron_config", "{\"a\": 1}", REFUSED, "merge_and_unload"},
    {"megatron_core", "\"other.core\"", REFUSED, "remove it from a copy"},
    {"modules_to_save", "[\"lm_head\"]", ACTS, NULL},
    {"monteclora_config", "{\"a\": 1}", REFUSED, "merge_and_unload"},
    {"peft_type", "\"ADALORA\"", REFUSED, "only \"LORA\""},
    {"peft_version", "\"0.9.0\"", DESCRIBES, NULL},
    {"qalora_group_size", "32", REFUSED, "remove it from a copy"},
    {"r", "16", ACTS, NULL},
    {"rank_pattern", "{\"q_proj\": 2}", ACTS, NULL},
    {"revision", "\"main\"", DESCRIBES, NULL},
    {"runtime_config", "{\"ephemeral_gpu_offload\": true}", REFUSED, "remove it from a copy"},
    {"target_modules", "[\"c_attn\"]", ACTS, NULL},
    {"target_parameters", "[\"experts.down_proj\"]", REFUSED, "merge_and_unload"},
    {"task_type", "\"TOKEN_CLS\"", REFUSED, "\"SEQ_CLS\" and null are"},
    {"trainable_token_indices", "[1]", REFUSED, "merge_and_unload"},
    {"use_bdlora", "{\"nblocks\": 2}", REFUSED, "merge_and_unload"},
    {"use_dora", "true", REFUSED, "merge_and_unload"},
    {"use_qalora", "true", REFUSED, "merge_and_unload"},
    {"use_rslora", "true", ACTS, NULL},
    {"velora_config", "{\"num_groups\": 4}", REFUSED, "remove the field from a copy"},
};

static json_t *peft(const char *part)
{
    json_t *root = json_load_file(fixed("config.json", "").text, 0, NULL), *out;
    assert_non_null(root);
    out = json_incref(json_object_get(root, part));
    json_decref(root);
    return out;
}

/* A configuration with one field of this value, which it takes. */
static char *with(const char *name, json_t *value)
{
    json_t *root = json_pack("{s:s, s:[s, s]}", "peft_type", "LORA", "target_modules", "q_proj", "v_proj");
    if (!strcmp(name, "layers_pattern") && !json_is_null(value))
        json_object_set_new(root, "layers_to_transform", json_integer(1));
    json_object_set_new(root, name, value);
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    json_decref(root);
    return text;
}

/* What the configuration is read as, but for where. */
static int same_meaning(const AdapterConfig *a, const AdapterConfig *b)
{
    const json_t *x[] = {a->targets, a->exclude, a->saved, a->ranks, a->alphas, a->layers, a->inside};
    const json_t *y[] = {b->targets, b->exclude, b->saved, b->ranks, b->alphas, b->layers, b->inside};
    int same = a->rank == b->rank && a->rslora == b->rslora && a->alpha == b->alpha &&
               a->dropout == b->dropout && a->bias == b->bias && a->all_linear == b->all_linear &&
               !a->base == !b->base;
    for (int i = 0; i < 7; i++)
        same &= (!x[i] && !y[i]) || json_equal((json_t *)x[i], (json_t *)y[i]);
    return same;
}

static void check_nothing(const char *name, json_t *value, const char *what, const AdapterConfig *plain)
{
    AdapterConfig config;
    char *text = with(name, value);
    int status = read_config(&config, text);
    if (!strcmp(name, "peft_type") && !strcmp(what, "null")) {
        assert_int_equal(status, ERROR_DATA);
        assert_error(ERROR_DATA, "peft_type is missing", "\"LORA\"");
    } else if (!strcmp(name, "target_modules") && !status) { /* then what is usual for the family */
        assert_null(config.targets);
    } else if (status) {
        fail_msg("%s, %s: %s", name, what, error_message());
    } else if (!same_meaning(&config, plain)) {
        fail_msg("%s, %s: it does something", name, what);
    }
    if (!status)
        adapter_config_free(&config);
    free(text); /* jansson's */
}

static void check_set(size_t i, const AdapterConfig *plain)
{
    AdapterConfig config;
    char *text = with(fields[i].name, json_loads(fields[i].set, JSON_DECODE_ANY, NULL));
    int status = read_config(&config, text);
    if (fields[i].fate == REFUSED) {
        if (status != ERROR_DATA)
            fail_msg("%s is not refused", fields[i].name);
        assert_error(ERROR_DATA, "adapter_config.json", fields[i].name, fields[i].says);
    } else if (status) {
        fail_msg("%s: %s", fields[i].name, error_message());
    } else {
        if (same_meaning(&config, plain) != (fields[i].fate == DESCRIBES))
            fail_msg("%s: %s", fields[i].name, fields[i].fate == ACTS ? "nothing comes of it" : "it acts");
        adapter_config_free(&config);
    }
    free(text);
}

/* At its default, null and set: every field that the PEFT of the fixtures has, and no other. */
static void test_every_field(void **state)
{
    (void)state;
    size_t k;
    json_t *all = peft("fields"), *one;
    AdapterConfig plain;
    assert_int_equal(
        read_config(&plain, "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\", \"v_proj\"]}"), 0);
    assert_int_equal(json_array_size(all), COUNT(fields));
    json_array_foreach(all, k, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        size_t i = 0;
        while (i < COUNT(fields) && strcmp(fields[i].name, name) != 0)
            i++;
        if (i == COUNT(fields))
            fail_msg("LoraConfig's %s is not known here", name);
        json_t *otherwise = json_deep_copy(json_object_get(one, "default"));
        if (!strcmp(name, "peft_type")) { /* which LoraConfig sets behind its fields */
            json_decref(otherwise);
            otherwise = json_string("LORA");
        }
        check_nothing(name, otherwise, "its default", &plain);
        check_nothing(name, json_null(), "null", &plain);
        check_set(i, &plain);
    }
    adapter_config_free(&plain);
    json_decref(all);
}

/* A field of a PEFT that is to come. */
static void test_unknown_fields(void **state)
{
    (void)state;
    static const char *const nothing[] = {"null", "false", "\"\"", "[]", "{}", "{\"a\": null, \"b\": false}"};
    static const char *const something[] = {"true", "1", "0", "\"x\"", "[0]", "{\"a\": 0}"};
    AdapterConfig config;
    char text[160];
    for (size_t i = 0; i < COUNT(nothing); i++) {
        snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"brand_new\": %s}", nothing[i]);
        assert_int_equal(read_config(&config, text), 0);
        adapter_config_free(&config);
        snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"brand_new\": %s}", something[i]);
        assert_int_equal(read_config(&config, text), ERROR_DATA);
        assert_error(ERROR_DATA, "the field \"brand_new\" is ",
                     "what it does is not known; remove it from a copy");
    }
}

/* Each message names field, value and what would work. */
static void test_wrong_values(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *says;
    } wrong[] = {
        {"'r': 0", "r must be a whole number from 1 to 65536, not 0"},
        {"'r': 4.5", "r must be a whole number from 1 to 65536, not 4.5"},
        {"'lora_alpha': 'x'", "lora_alpha must be a number from "},
        {"'lora_dropout': 1", "lora_dropout must be a probability, from 0 to below 1, not 1"},
        {"'bias': 'some'", "bias must be \"none\", \"all\" or \"lora_only\", not \"some\""},
        {"'use_rslora': 2", "use_rslora must be true or false, not 2"},
        {"'target_modules': []", "target_modules is empty: no module would have an adapter"},
        {"'target_modules': [1]", "target_modules must be a list of names, or one pattern, not a list"},
        {"'modules_to_save': 'lm_head'", "modules_to_save must be a list of names, not \"lm_head\""},
        {"'rank_pattern': {'q': 0}",
         "rank_pattern must be an object that maps patterns of module names to ranks"},
        {"'rank_pattern': {'q': 1.5}", "rank_pattern must be an object"},
        {"'alpha_pattern': [1]", "alpha_pattern must be an object that maps patterns"},
        {"'layers_to_transform': [0.5]",
         "layers_to_transform must be the number of a layer, or a list of them"},
        {"'layers_pattern': 'h'", "layers_pattern says nothing without layers_to_transform; remove it"},
        {"'target_modules': 'all-linear', 'layers_to_transform': 1",
         "layers_to_transform needs target_modules as a list, not as a pattern"},
        {"'init_lora_weights': 'olora'",
         "init_lora_weights is \"olora\", for which PEFT changes the weights"},
        {"'init_lora_weights': 'mica'", "init_lora_weights is \"mica\", which trains lora_A alone"},
        {"'init_lora_weights': 'x'", "init_lora_weights must be true, false, \"gaussian\", \"orthogonal\""},
        {"'base_model_name_or_path': 1", "base_model_name_or_path must be a string, not 1"},
    };
    AdapterConfig config;
    char text[256];
    for (size_t i = 0; i < COUNT(wrong); i++) {
        snprintf(text, sizeof text, "{'peft_type': 'LORA', %s}", wrong[i].fields);
        mkdir(at("a"), 0777);
        put_text("a/adapter_config.json", text);
        if (adapter_config_read(&config, at("a")) != ERROR_DATA)
            fail_msg("%s is read", wrong[i].fields);
        assert_error(ERROR_DATA, "adapter_config.json", wrong[i].says);
    }
}

/* ---- Modules --------------------------------------------------------------------------------- */

/* The module among PEFT's, [path, rank, alpha]; NULL: it has no adapter. */
static const json_t *expected_for(const json_t *modules, const char *path)
{
    size_t i;
    const json_t *module;
    json_array_foreach((json_t *)modules, i, module)
    {
        if (!strcmp(json_string_value(json_array_get(module, 0)), path))
            return module;
    }
    return NULL;
}

static int compare_match(const json_t *match)
{
    AdapterConfig config;
    size_t i;
    const json_t *key;
    int adapted = 0;
    char *text = json_dumps(json_object_get(match, "config"), 0);
    if (read_config(&config, text))
        fail_msg("%s: %s", text, error_message());
    json_array_foreach(json_object_get(match, "of"), i, key)
    {
        AdapterPlace place = {.path = json_string_value(key), .family = "llama"};
        const json_t *expected = expected_for(json_object_get(match, "modules"), place.path);
        int rank = 0, target = adapter_targets(&config, &place);
        double alpha = 0;
        if (target != (expected != NULL))
            fail_msg("%s: %s is %s", text, place.path, target ? "adapted" : "left out");
        if (!target)
            continue;
        adapted++;
        assert_int_equal(adapter_strength(&config, place.path, &rank, &alpha), 0);
        if (rank != json_integer_value(json_array_get(expected, 1)) ||
            alpha != json_number_value(json_array_get(expected, 2)))
            fail_msg("%s: %s has rank %d and alpha %g", text, place.path, rank, alpha);
    }
    adapter_config_free(&config);
    free(text);
    return adapted;
}

static void test_modules_as_peft(void **state)
{
    (void)state;
    json_t *all = peft("matches"), *match;
    size_t i;
    int adapted = 0;
    json_array_foreach(all, i, match) adapted += compare_match(match);
    assert_true(json_array_size(all) >= 20);
    assert_int_equal(adapted, 72);
    json_decref(all);
}

/* What the family says where the file does not; every linear layer but the head. */
static void test_default_targets(void **state)
{
    (void)state;
    static const struct {
        AdapterPlace place;
        int usual, all;
    } places[] = {
        {{"model.layers.0.self_attn.q_proj", "llama", 0, 0}, 1, 1},
        {{"model.layers.0.self_attn.k_proj", "llama", 0, 0}, 0, 1},
        {{"lm_head", "llama", 0, 1}, 0, 0},
        {{"model.embed_tokens", "llama", 1, 0}, 0, 0},
        {{"transformer.h.0.attn.c_attn", "gpt2", 0, 0}, 1, 1},
        {{"transformer.h.0.attn.c_proj", "gpt2", 0, 0}, 0, 1},
        {{"bert.encoder.layer.0.attention.self.value", "bert", 0, 0}, 1, 1},
        {{"cls.predictions.transform.dense", "bert", 0, 0}, 0, 1},
        {{"0", "mlp", 0, 0}, 0, 1},
    };
    AdapterConfig usual, all;
    assert_int_equal(read_config(&usual, "{\"peft_type\": \"LORA\"}"), 0);
    assert_int_equal(read_config(&all, "{\"peft_type\": \"LORA\", \"target_modules\": \"All-Linear\"}"), 0);
    for (size_t i = 0; i < COUNT(places); i++) {
        assert_int_equal(adapter_targets(&usual, &places[i].place), places[i].usual);
        assert_int_equal(adapter_targets(&all, &places[i].place), places[i].all);
    }
    adapter_config_free(&usual);
    adapter_config_free(&all);
}

/* A pattern that does not compile, or does not end, is an error that names its field. */
static void test_wrong_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *says;
    } wrong[] = {
        {"\"target_modules\": \"(q_proj\"", "the pattern \"(q_proj\" in target_modules is not read: "},
        {"\"exclude_modules\": \"[\"", "the pattern \"[\" in exclude_modules is not read: "},
        {"\"target_modules\": \"(a|aa)*(?:x|y)\"", "in target_modules is not read: "},
        {"\"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"q_(\": 2}",
         "the pattern \"q_(\" in rank_pattern is not read: "},
        {"\"target_modules\": [\"q_proj\"], \"layers_to_transform\": 1, \"layers_pattern\": \"(\"",
         "in layers_pattern is not read: "},
    };
    const AdapterPlace place = {"model.layers.1.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.q_proj", "llama", 0, 0},
                       many = {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "llama", 0, 0};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        AdapterConfig config;
        char text[256];
        int rank;
        double alpha;
        snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", %s}", wrong[i].fields);
        assert_int_equal(read_config(&config, text), 0);
        int status = adapter_targets(&config, i == 2 ? &many : &place);
        if (status > 0)
            status = adapter_strength(&config, place.path, &rank, &alpha);
        assert_true(status != 0);
        assert_error(ERROR_DATA, "adapter_config.json", wrong[i].says, "a list of module names works too");
        adapter_config_free(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_field),     TEST(test_unknown_fields),  TEST(test_wrong_values),
        TEST(test_modules_as_peft), TEST(test_default_targets), TEST(test_wrong_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
