/* What a model's config.json says survives reading it, training and exporting, field by field, whoever
 * thought of the field; and an export says which of its tokens begin and end a text. */
#include <stdarg.h>

#include "../io/io_.h"
#include "weights_support.h"

/* Fields that nobody here has thought of, and spellings that a reader of JSON forgets. */
#define ODD_MOST                                                                                             \
    "'id2label':{'0':'x','1':'\\u00e9'},'label2id':null,'transformers_version':'9.9.9','initializer_range':" \
    "0.0200,'model_max_length':1000000000000000019884624838656,'task_specific_params':{'a':{'b':[1,2.50,"    \
    "1E-3,null]}},'a_field_of_2031':null,'_name_or_path':'/home/x','bos_token_id':5,"                        \
    "'eos_token_id':[7,8],'unk_token_id':3,'use_cache':false"
#define ODD_ALL         ODD_MOST ",'pad_token_id':null"
#define ODD_BUT_PADDING "'num_experts':0," ODD_MOST

#define ODD "'num_experts':0," ODD_ALL /* a number that means something where there are experts */

typedef struct Kept {
    const char *config; /* with ' for " */
    const char *type;   /* how the file spells the weights' type, before and after a bf16 export */
} Kept;

static const Kept kept[] = {
    {"{'model_type':'llama','architectures':['LlamaForCausalLM'],'hidden_size':32,'num_attention_heads':4,"
     "'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,'rms_norm_eps':"
     "1e-"
     "05,"
     "'max_position_embeddings':64,'rope_theta':1e4,'rope_scaling':{'type':'dynamic','factor':2.0},"
     "'attention_dropout':0.10,'mlp_bias':null,'pretraining_tp':2,'torch_dtype':'float16'," ODD "}",
     "torch_dtype"},
    {"{'model_type':'llama','hidden_size':32,'num_attention_heads':4,'architectures':['LlamaForCausalLM'],"
     "'intermediate_size':48,'num_hidden_layers':1,'vocab_size':500,'rope_parameters':{'rope_type':'llama3',"
     "'factor':8.0,'low_freq_factor':1.0,'high_freq_factor':4.0,'original_max_position_embeddings':8192,"
     "'rope_theta':500000.0},'dtype':'float16'," ODD "}",
     "dtype"},
    {"{'model_type':'llama','hidden_size':32,'num_attention_heads':4,'architectures':['LlamaForCausalLM'],"
     "'intermediate_size':48,'num_hidden_layers':1,'vocab_size':500,'tie_word_embeddings':true,"
     "'rope_scaling':{'rope_type':'yarn','factor':4.0,'beta_fast':32,'mscale':0.707}," ODD "}",
     NULL},
    {"{'model_type':'mistral','hidden_size':32,'num_attention_heads':4,'architectures':['MistralForCausalLM']"
     ","
     "'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,'sliding_window':"
     "16,"
     "'max_position_embeddings':64,'dtype':'bfloat16'," ODD "}",
     "dtype"},
    {"{'model_type':'mistral','hidden_size':32,'num_attention_heads':4,'architectures':['MistralForCausalLM']"
     ","
     "'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,'sliding_window':"
     "null," ODD "}",
     NULL},
    {"{'model_type':'ministral','hidden_size':32,'num_attention_heads':4,'architectures':"
     "['MinistralForCausalLM'],'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':2,"
     "'vocab_size':500,'sliding_window':16,'layer_types':['sliding_attention','full_attention'],"
     "'max_position_embeddings':64," ODD "}",
     NULL},
    {"{'model_type':'qwen2','hidden_size':32,'num_attention_heads':4,'architectures':['Qwen2ForCausalLM'],"
     "'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':3,'vocab_size':500,"
     "'use_sliding_window':true,'sliding_window':16,'max_window_layers':1,'max_position_embeddings':64," ODD
     "}",
     NULL},
    {"{'model_type':'qwen2','hidden_size':32,'num_attention_heads':4,'architectures':['Qwen2ForCausalLM'],"
     "'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,"
     "'layer_types':['full_attention','full_attention'],'sliding_window':null," ODD "}",
     NULL},
    {"{'model_type':'roberta','hidden_size':32,'num_attention_heads':4,'architectures':['RobertaForMaskedLM']"
     ","
     "'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,'max_position_embeddings':66,'pad_token_"
     "id':1,"
     "'type_vocab_size':1,'classifier_dropout':null,'dtype':'float16'," ODD_BUT_PADDING "}",
     "dtype"},
    {"{'model_type':'xlm-roberta','hidden_size':32,'num_attention_heads':4,'architectures':["
     "'XLMRobertaForMaskedLM'],'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,"
     "'max_position_embeddings':66,'layer_norm_eps':1e-05," ODD_BUT_PADDING "}",
     NULL},
    {"{'model_type':'modernbert','hidden_size':32,'num_attention_heads':4,'architectures':["
     "'ModernBertForMaskedLM'],'intermediate_size':24,'num_hidden_layers':2,'vocab_size':500,'local_"
     "attention':8,"
     "'global_attn_every_n_layers':3,'global_rope_theta':1.6e5,'layer_norm_eps':1e-05,'reference_compile':"
     "true," ODD "}",
     NULL},
    {"{'model_type':'modernbert','hidden_size':32,'num_attention_heads':4,'architectures':["
     "'ModernBertForMaskedLM'],'intermediate_size':24,'num_hidden_layers':2,'vocab_size':500,'layer_types':["
     "'full_attention','sliding_attention'],'rope_parameters':{'full_attention':{'rope_theta':5e3,'rope_type'"
     ":"
     "'default'},'sliding_attention':null},'dtype':'float16'," ODD "}",
     "dtype"},
    {"{'model_type':'distilbert','dim':32,'n_heads':4,'architectures':['DistilBertForMaskedLM'],'hidden_dim':"
     "48,"
     "'n_layers':2,'vocab_size':500,'max_position_embeddings':64,'sinusoidal_pos_embds':true,'tie_weights_':"
     "true,"
     "'seq_classif_dropout':0.20," ODD "}",
     NULL},
    {"{'model_type':'mixtral','hidden_size':32,'num_attention_heads':4,'architectures':['MixtralForCausalLM']"
     ",'num_key_value_heads':2,'intermediate_size':24,'num_hidden_layers':2,'vocab_size':500,"
     "'num_local_experts':4,'num_experts_per_tok':1,'router_aux_loss_coef':0.020,'output_router_logits':"
     "false,"
     "'sliding_window':null,'router_jitter_noise':0.0,'torch_dtype':'bfloat16'," ODD "}",
     "torch_dtype"},
    {"{'model_type':'qwen3_moe','hidden_size':32,'num_attention_heads':4,'head_dim':8,'architectures':"
     "['Qwen3MoeForCausalLM'],'num_key_value_heads':2,'intermediate_size':48,'moe_intermediate_size':20,"
     "'num_hidden_layers':3,'vocab_size':500,'num_local_experts':4,'num_experts_per_tok':2,'norm_topk_prob':"
     "true,'mlp_only_layers':[0,9],'decoder_sparse_step':1,'router_aux_loss_coef':0.1,'output_router_logits':"
     "true,'max_window_layers':28," ODD_ALL "}",
     NULL},
    {"{'model_type':'qwen2_moe','hidden_size':32,'num_attention_heads':4,'architectures':"
     "['Qwen2MoeForCausalLM'],'num_key_value_heads':2,'intermediate_size':48,'moe_intermediate_size':20,"
     "'shared_expert_intermediate_size':28,'num_hidden_layers':3,'vocab_size':500,'num_experts':4,"
     "'num_experts_per_tok':2,'norm_topk_prob':false,'decoder_sparse_step':2,'router_aux_loss_coef':0.001,"
     "'sliding_window':0,'use_sliding_window':false,'max_window_layers':28," ODD_ALL "}",
     NULL},
    {"{'model_type':'qwen3','hidden_size':32,'num_attention_heads':4,'architectures':['Qwen3ForCausalLM'],"
     "'num_key_value_heads':2,'head_dim':8,'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,"
     "'use_sliding_window':false,'sliding_window':null,'max_window_layers':2,'attention_bias':false," ODD "}",
     NULL},
    {"{'model_type':'olmo2','hidden_size':32,'num_attention_heads':4,'architectures':['Olmo2ForCausalLM'],"
     "'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,'rope_theta':500000," ODD "}",
     NULL},
    {"{'model_type':'smollm3','hidden_size':32,'num_attention_heads':4,'architectures':['SmolLM3ForCausalLM']"
     ","
     "'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':4,'vocab_size':500,"
     "'no_rope_layers':[1,1,1,0],'no_rope_layer_interval':4,'layer_types':['full_attention','full_attention',"
     "'full_attention','full_attention'],'use_sliding_window':false," ODD "}",
     NULL},
    {"{'model_type':'granite','hidden_size':32,'num_attention_heads':4,'architectures':['GraniteForCausalLM']"
     ","
     "'num_key_value_heads':2,'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,"
     "'embedding_multiplier':12.0,'logits_scaling':8.0,'residual_multiplier':0.22,'attention_multiplier':"
     "0.015625,'tie_word_embeddings':true," ODD "}",
     NULL},
    {"{'model_type':'gpt_neox','hidden_size':32,'num_attention_heads':4,'architectures':"
     "['GPTNeoXForCausalLM'],'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,'hidden_act':"
     "'gelu_new','rotary_pct':0.50,'rotary_emb_base':1e4,'layer_norm_eps':1e-05,'attention_dropout':0.10,"
     "'use_parallel_residual':true," ODD "}",
     NULL},
    {"{'model_type':'bert','hidden_size':32,'num_attention_heads':4,'architectures':['BertForMaskedLM'],"
     "'intermediate_size':48,'num_hidden_layers':2,'vocab_size':500,'hidden_dropout_prob':0.1,"
     "'attention_probs_dropout_prob':0.1,'layer_norm_eps':1e-12,'classifier_dropout':null,"
     "'sentence_transformers':{'version':'4.0.1'},'gradient_checkpointing':false," ODD "}",
     NULL},
    {"{'model_type':'gpt2','n_embd':32,'n_head':4,'n_layer':2,'vocab_size':500,'n_ctx':5,'n_positions':64,"
     "'architectures':['GPT2LMHeadModel'],'attn_pdrop':0.1,'resid_pdrop':0.2,'embd_pdrop':0.2,"
     "'activation_function':'gelu_pytorch_tanh','summary_type':'cls_index'," ODD "}",
     NULL},
    {"{'model_type':'gpt2','hidden_size':32,'num_attention_heads':4,'num_hidden_layers':2,'vocab_size':500,"
     "'architectures':['GPT2LMHeadModel'],'n_inner':null,'reorder_and_upcast_attn':true," ODD "}",
     NULL},
};

enum { KEPT = sizeof kept / sizeof kept[0] };

static void put_config(const char *path, const char *config)
{
    char text[4096];
    snprintf(text, sizeof text, "%s", config);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    put_file(at(path), text, strlen(text));
}

static char *config_text(const char *path)
{
    size_t n;
    return (char *)get_file(at(path), &n);
}

static void export_to(Module *model, const ModelPreset *preset, const WeightsSaving *how)
{
    if (io_save_weights(model, preset, at("out"), how))
        fail_msg("%s", error_message());
}

/* The source's text with other values for some fields; `type` may be added at its end. */
static void check_kept(const char *config, const char *type, const char *value, const char *more)
{
    char expected[4096], *got = config_text("out/config.json"), *end;
    snprintf(expected, sizeof expected, "%s", config);
    if (type) {
        char field[32];
        snprintf(field, sizeof field, "'%s':'", type);
        char *from = strstr(expected, field) + strlen(field), rest[4096];
        snprintf(rest, sizeof rest, "%s", strchr(from, '\''));
        snprintf(from, sizeof expected - (size_t)(from - expected), "%s%s", value, rest);
    } else {
        end = strrchr(expected, '}');
        snprintf(end, sizeof expected - (size_t)(end - expected), ",'torch_dtype': '%s'}", value);
    }
    if (more) { /* the vocabulary */
        char *from = strstr(expected, "'vocab_size':500");
        memcpy(from, more, strlen(more));
    }
    for (char *c = expected; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    assert_string_equal(got, expected);
    test_free(got);
}

static void test_every_family(void **state)
{
    (void)state;
    mkdir(at("in"), 0777);
    for (int i = 0; i < KEPT; i++) {
        IoModel found, again;
        Visit v = visit(&(ContextOptions){.threads = 1});
        put_config("in/config.json", kept[i].config);
        if (io_read_config(at("in"), &found))
            fail_msg("%s", error_message());
        char source[192];
        strcpy(source, at("in"));
        WeightsSaving how = {.source = source, .overwrite = 1};
        export_to(nn_model(&found.preset), &found.preset, &how);
        check_kept(kept[i].config, kept[i].type, "float32", NULL);
        assert_int_equal(io_read_config(at("out"), &again), 0);
        assert_memory_equal(&again.preset.config, &found.preset.config, sizeof found.preset.config);
        assert_string_equal(again.note, found.note);
        /* Dropout and attention are of a run. */
        ModelPreset other = found.preset;
        nn_preset_set_dropout(&other, 0.7f);
        nn_preset_set_attention(&other, ATTENTION_EAGER);
        how.type = SAFETENSORS_BF16;
        export_to(nn_model(&other), &other, &how);
        check_kept(kept[i].config, kept[i].type, "bfloat16", NULL);
        /* What training changed is what differs. */
        nn_preset_set_vocab(&other, 503);
        export_to(nn_model(&other), &other, &how);
        check_kept(kept[i].config, kept[i].type, "bfloat16", "'vocab_size':503");
        leave(v);
    }
}

/* ---- As a user would -------------------------------------------------------------------------- */

static void run_brim(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run_brim(const char *format, ...)
{
    char arguments[640], command[1024];
    const char *brim = getenv("BRIM_COMMAND");
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    snprintf(command, sizeof command, "%s %s >%s 2>&1", brim ? brim : "build/brim", arguments, at("log"));
    if (system(command)) {
        char *said = config_text("log");
        print_message("%s\n", said);
        test_free(said);
        fail_msg("%s", command);
    }
}

/* A masked model needs the tokens that hide others. */
static void put_data(int masked)
{
    char text[8192];
    for (size_t k = 0; k < sizeof text; k++)
        text[k] = masked ? "a fox, the end. "[k % 16] : (char)(k % 2 ? 0 : k * 7 % 50);
    put_file(at(masked ? "text.txt" : "text.bin"), text, sizeof text);
    if (masked)
        run_brim("tokenize --train %s --vocab 270 --special '[CLS],[SEP],[MASK]' --out %s", at("text.txt"),
                 at("in/tokenizer.json"));
}

/* Load, train, export. */
static void test_command(void **state)
{
    (void)state;
    mkdir(at("in"), 0777);
    for (int i = 0; i < KEPT; i++) {
        IoModel found;
        Visit v = visit(&(ContextOptions){.threads = 1});
        const char *config = kept[i].config;
        int masked = strstr(config, "ForMaskedLM") != NULL;
        put_config("in/config.json", config);
        assert_int_equal(io_read_config(at("in"), &found), 0);
        export_to(nn_model(&found.preset), &found.preset, &(WeightsSaving){.overwrite = 1});
        assert_int_equal(rename(at("out/model.safetensors"), at("in/model.safetensors")), 0);
        put_data(masked);
        /* Trained weights whose positions are not computed are refused: that is nothing to export. */
        if (!strstr(config, "'yarn'")) {
            run_brim("train --init %s --data %s --batch 2 --seq 8 --steps 2 --export %s --overwrite --quiet",
                     at("in"), at(masked ? "text.txt" : "text.bin"), at("out"));
            check_kept(config, kept[i].type, "float32", NULL);
        }
        unlink(at("in/tokenizer.json"));
        leave(v);
    }
}

/* Another head on the same body is replaced by the one that was trained; code that does not come along is not
 * named. Of another family's source nothing is kept. */
static void test_another_head(void **state)
{
    (void)state;
    static const struct {
        const char *config, *says[3];
    } cases[] = {
        {"{'model_type':'bert','architectures':['BertModel'],'hidden_size':32,'num_attention_heads':4,"
         "'num_hidden_layers':1,'intermediate_size':8,'vocab_size':50,'id2label':{'0':'a'}}",
         {"\"architectures\":[\"BertForMaskedLM\"]", "\"id2label\":{\"0\":\"a\"}"}},
        {"{'model_type':'mistral','hidden_size':32,'num_attention_heads':4,'num_key_value_heads':4,"
         "'num_hidden_layers':1,'intermediate_size':8,'vocab_size':50}",
         {"\"architectures\": [\"MistralForCausalLM\"]", "\"model_type\":\"mistral\""}},
        {"{'model_type':'llama','architectures':['MyModel'],'auto_map':{'AutoModel':'my.MyModel'},'hidden_"
         "size':32,"
         "'num_attention_heads':4,'num_hidden_layers':1,'intermediate_size':8,'vocab_size':50}",
         {"\"architectures\":[\"LlamaForCausalLM\"]", "\"auto_map\":{}"}},
    };
    mkdir(at("in"), 0777);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        IoModel found;
        put_config("in/config.json", cases[i].config);
        assert_int_equal(io_read_config(at("in"), &found), 0);
        export_to(nn_model(&found.preset), &found.preset,
                  &(WeightsSaving){.source = at("in"), .overwrite = 1});
        char *text = config_text("out/config.json");
        for (int k = 0; cases[i].says[k]; k++)
            if (!strstr(text, cases[i].says[k]))
                fail_msg("%s is not in %s", cases[i].says[k], text);
        test_free(text);
    }
    ModelPreset gpt2 = family(MODEL_GPT2);
    export_to(nn_model(&gpt2), &gpt2, &(WeightsSaving){.source = at("in"), .overwrite = 1});
    char *text = config_text("out/config.json");
    assert_non_null(strstr(text, "\"model_type\": \"gpt2\""));
    assert_null(strstr(text, "hidden_size"));
    test_free(text);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

typedef struct Ends {
    const char *tokenizer, *config; /* tokenizer.json; tokenizer_config.json beside it, NULL = none */
    const char *bos, *eos, *pad;    /* as JSON */
} Ends;

#define ADDED                                                                                                \
    "{'added_tokens':[{'id':4,'content':'<s>'},{'id':6,'content':'</s>'}],'model':{'vocab':{'a':0}}}"
static const Ends ends[] = {
    {ADDED, NULL, "4", "6", "null"},
    {ADDED, "{'bos_token':null,'eos_token':'a'}", "null", "0", "null"},
    {ADDED, "{'eos_token':{'content':'<s>','lstrip':false},'pad_token':'</s>','add_bos_token':true}", "4",
     "4", "6"},
    {ADDED, "{'eos_token':'<none>'}", "4", "null", "null"}, /* as it says, though it is no token */
    {"{'model':{'vocab':{'<|endoftext|>':0,'[PAD]':9}}}", NULL, "0", "0", "9"},
    {"{'model':{'vocab':[['<pad>',0],['</s>',-1.5],['x',-2]]}}", NULL, "null", "1", "0"},
    {"{'model':{'vocab':{'a':0,'b':1}}}", NULL, "null", "null", "null"},
};

static void check_id(const json_t *root, const char *name, const char *expected)
{
    const json_t *value = json_object_get(root, name);
    char text[32];
    assert_non_null(value);
    snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    assert_string_equal(json_is_null(value) ? "null" : text, expected);
}

static json_t *read_json(const char *path)
{
    json_t *root = json_read_file(at(path), path, "JSON", 1 << 20);
    if (!root)
        fail_msg("%s", error_message());
    return root;
}

/* pad: what the model itself says, whatever the tokenizer is; NULL = nothing. */
static void check_ends(const Ends *e, const char *path, int writes, const char *pad)
{
    json_t *root = read_json(path);
    if (writes) {
        check_id(root, "bos_token_id", e->bos);
        check_id(root, "eos_token_id", e->eos);
    } else {
        assert_null(json_object_get(root, "eos_token_id"));
    }
    check_id(root, "pad_token_id", pad ? pad : e->pad);
    json_decref(root);
}

/* Each family from nothing; then as a model whose source had another tokenizer. */
static void test_ends(void **state)
{
    (void)state;
    mkdir(at("in"), 0777);
    mkdir(at("tokens"), 0777);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        for (ModelFamily f = MODEL_BERT; (int)f < MODEL_FAMILY_COUNT; f++) {
            ModelPreset preset = family(f);
            int writes = nn_family(f)->writes;
            Visit v = visit(&(ContextOptions){.threads = 1});
            Module *model = nn_model(&preset);
            put_config("tokens/tokenizer.json", ends[i].tokenizer);
            unlink(at("tokens/tokenizer_config.json"));
            if (ends[i].config)
                put_config("tokens/tokenizer_config.json", ends[i].config);
            char command[256];
            snprintf(command, sizeof command, "rm -rf %s", at("out"));
            assert_int_equal(system(command), 0);
            export_to(model, &preset, &(WeightsSaving){.tokenizer = at("tokens")});
            check_ends(&ends[i], "out/config.json", writes, f == MODEL_ROBERTA ? "2" : NULL);
            assert_int_equal(access(at("out/generation_config.json"), F_OK) == 0, writes);
            if (writes)
                check_ends(&ends[i], "out/generation_config.json", writes, NULL);
            json_t *root = read_json("out/tokenizer_config.json");
            assert_string_equal(json_string_value(json_object_get(root, "tokenizer_class")),
                                "PreTrainedTokenizerFast");
            assert_int_equal(json_object_get(root, "eos_token") != NULL, strcmp(ends[i].eos, "null") != 0);
            json_decref(root);
            IoEndTokens found;
            assert_int_equal(io_read_end_tokens(at("out"), &found), 0);
            assert_int_equal(found.count, writes && strcmp(ends[i].eos, "null") != 0);
            leave(v);
        }
}

static void test_ends_of_another(void **state)
{
    (void)state;
    IoModel found;
    size_t n;
    mkdir(at("in"), 0777);
    mkdir(at("tokens"), 0777);
    put_config("in/config.json", kept[0].config);
    put_config("in/generation_config.json",
               "{'eos_token_id':[7,8],'do_sample':true,'temperature':0.6,'x':1e-05}");
    put_config("in/tokenizer.json", "{}");
    put_config("tokens/tokenizer.json", ADDED);
    assert_int_equal(io_read_config(at("in"), &found), 0);
    Module *model = nn_model(&found.preset);
    export_to(model, &found.preset, &(WeightsSaving){.source = at("in")}); /* its own tokenizer: as it says */
    char *text = (char *)get_file(at("out/generation_config.json"), &n);
    assert_non_null(strstr(text, "\"eos_token_id\":[7,8]"));
    test_free(text);
    export_to(model, &found.preset,
              &(WeightsSaving){.source = at("in"), .tokenizer = at("tokens"), .overwrite = 1});
    check_ends(&ends[0], "out/config.json", 1, NULL);
    check_ends(&ends[0], "out/generation_config.json", 1, NULL);
    json_t *root = read_json("out/config.json");
    check_id(root, "unk_token_id", "null"); /* would be another token */
    json_decref(root);
    text = (char *)get_file(at("out/generation_config.json"), &n);
    assert_non_null(strstr(text, "\"do_sample\":true,\"temperature\":0.6,\"x\":1e-05"));
    test_free(text);
    /* Without a tokenizer nobody may take the defaults of transformers for tokens. */
    ModelPreset preset = family(MODEL_LLAMA);
    export_to(nn_model(&preset), &preset, &(WeightsSaving){.overwrite = 1});
    root = read_json("out/config.json");
    check_id(root, "bos_token_id", "null");
    check_id(root, "eos_token_id", "null");
    json_decref(root);
}

static void test_no_memory(void **state)
{
    (void)state;
    IoModel found;
    mkdir(at("in"), 0777);
    mkdir(at("tokens"), 0777);
    put_config("in/config.json", kept[0].config);
    put_config("in/generation_config.json", "{'eos_token_id':3}");
    put_config("tokens/tokenizer.json", ADDED);
    assert_int_equal(io_read_config(at("in"), &found), 0);
    Module *model = nn_model(&found.preset);
    nn_parameters(model);
    char source[192], tokens[192];
    strcpy(source, at("in"));
    strcpy(tokens, at("tokens"));
    WeightsSaving how = {.source = source, .tokenizer = tokens, .overwrite = 1};
    int count = 1;
    for (int passed = 0; !passed; count++) {
        uint64_t live = memtrack_process_live();
        memtrack_fail_nth((uint64_t)count);
        int status = io_save_weights(model, &found.preset, at("out"), &how);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (status != (passed ? 0 : ERROR_HOST_MEMORY))
            fail_msg("%s", error_message());
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
    assert_true(count > 10);
    check_ends(&ends[0], "out/config.json", 1, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_every_family),    TEST(test_command),
                                       TEST(test_another_head),    TEST(test_ends),
                                       TEST(test_ends_of_another), TEST(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
