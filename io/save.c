/* The configuration that transformers builds the same model from. Every field that decides something is
 * written, whatever transformers' default is. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "io_.h"
#include "export_.h"

/* ---- config.json ----------------------------------------------------------------------------- */

/* Without memory for it there is no object any more. */
static void put(json_t **object, const char *name, json_t *value)
{
    if (json_object_set_new(*object, name, value) != 0) {
        json_decref(*object);
        *object = NULL;
    }
}

/* A float as its shortest decimal: 1e-5, not 9.99999974e-06. */
static json_t *decimal(float value)
{
    char text[32];
    double shortest = (double)value;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (sscanf(text, "%lf", &shortest) == 1 && (float)shortest == value)
            break;
    }
    return json_real(shortest);
}

static json_t *rope_scaling(const RopeScaling *s)
{
    if (s->kind == ROPE_SCALING_NONE)
        return json_null();
    if (s->kind == ROPE_SCALING_LINEAR)
        return json_pack("{s:s, s:o}", "rope_type", "linear", "factor", decimal(s->factor));
    return json_pack("{s:s, s:o, s:o, s:o, s:i}", "rope_type", "llama3", "factor", decimal(s->factor),
                     "low_freq_factor", decimal(s->low_freq_factor), "high_freq_factor",
                     decimal(s->high_freq_factor), "original_max_position_embeddings", s->original_max_seq);
}

static void put_llama(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    /* Biases on q, k and v alone are Qwen2's; Llama has four or none. */
    int qwen2 = c->qkv_bias && !c->o_bias && !c->mlp_bias;
    put(o, "architectures", json_pack("[s]", qwen2 ? "Qwen2ForCausalLM" : "LlamaForCausalLM"));
    put(o, "model_type", json_string(qwen2 ? "qwen2" : "llama"));
    put(o, "vocab_size", json_integer(c->vocab));
    put(o, "hidden_size", json_integer(c->dim));
    put(o, "num_hidden_layers", json_integer(c->layers));
    put(o, "num_attention_heads", json_integer(c->heads));
    put(o, "num_key_value_heads", json_integer(c->kv_heads ? c->kv_heads : c->heads));
    if (c->head_dim)
        put(o, "head_dim", json_integer(c->head_dim));
    put(o, "intermediate_size", json_integer(c->hidden));
    put(o, "hidden_act", json_string("silu"));
    put(o, "max_position_embeddings", json_integer(nn_preset_max_seq(preset)));
    put(o, "rms_norm_eps", decimal(c->norm_eps > 0 ? c->norm_eps : 1e-5f));
    put(o, "rope_theta", decimal(c->rope_theta > 0 ? c->rope_theta : 10000));
    put(o, "rope_scaling", rope_scaling(&c->rope_scaling));
    put(o, "tie_word_embeddings", json_boolean(c->tied));
    put(o, "attention_dropout", json_real(0));
    if (qwen2) {
        put(o, "use_sliding_window", json_false());
        return;
    }
    put(o, "attention_bias", json_boolean(c->qkv_bias));
    put(o, "mlp_bias", json_boolean(c->mlp_bias));
}

static void put_gpt2(json_t **o, const ModelPreset *preset)
{
    const Gpt2Config *c = &preset->config.gpt2;
    put(o, "architectures", json_pack("[s]", "GPT2LMHeadModel"));
    put(o, "model_type", json_string("gpt2"));
    put(o, "vocab_size", json_integer(c->vocab));
    put(o, "n_embd", json_integer(c->dim));
    put(o, "n_layer", json_integer(c->layers));
    put(o, "n_head", json_integer(c->heads));
    put(o, "n_inner", json_integer(c->ffn ? c->ffn : 4 * c->dim));
    put(o, "n_positions", json_integer(nn_preset_max_seq(preset)));
    put(o, "activation_function", json_string("gelu_new"));
    put(o, "layer_norm_epsilon", decimal(c->norm_eps > 0 ? c->norm_eps : 1e-5f));
    put(o, "resid_pdrop", decimal(c->dropout));
    put(o, "embd_pdrop", decimal(c->dropout));
    put(o, "attn_pdrop", json_real(0));
    put(o, "tie_word_embeddings", json_true());
}

static void put_bert(json_t **o, const ModelPreset *preset)
{
    const BertConfig *c = &preset->config.bert;
    put(o, "architectures", json_pack("[s]", c->pooler ? "BertModel" : "BertForMaskedLM"));
    put(o, "model_type", json_string("bert"));
    put(o, "vocab_size", json_integer(c->vocab));
    put(o, "hidden_size", json_integer(c->dim));
    put(o, "num_hidden_layers", json_integer(c->layers));
    put(o, "num_attention_heads", json_integer(c->heads));
    put(o, "intermediate_size", json_integer(c->ffn ? c->ffn : 4 * c->dim));
    put(o, "hidden_act", json_string("gelu"));
    put(o, "max_position_embeddings", json_integer(nn_preset_max_seq(preset)));
    put(o, "type_vocab_size", json_integer(c->types ? c->types : 2));
    put(o, "layer_norm_eps", decimal(c->norm_eps > 0 ? c->norm_eps : 1e-12f));
    put(o, "hidden_dropout_prob", decimal(c->dropout));
    put(o, "attention_probs_dropout_prob", json_real(0));
    put(o, "position_embedding_type", json_string("absolute"));
    put(o, "tie_word_embeddings", json_true());
}

static int no_memory(const char *shown)
{
    return error_raise(ERROR_HOST_MEMORY, "%s: no host memory to write it", shown);
}

int json_write_temporary(const json_t *root, const char *path, size_t flags)
{
    FileWriter writer;
    if (file_begin(&writer, path) == 0) {
        file_put_json(&writer, root, JSON_INDENT(2) | JSON_REAL_PRECISION(9) | flags);
        file_put(&writer, "\n", 1);
    }
    return file_finish(&writer);
}

int json_write_file(const json_t *root, const char *path)
{
    int status = json_write_temporary(root, path, 0);
    return status ? status : file_publish(path);
}

static const char *torch_name(SafetensorsType type)
{
    return type == SAFETENSORS_F16 ? "float16" : type == SAFETENSORS_BF16 ? "bfloat16" : "float32";
}

/* Biases of q, k and v alone are Qwen2's, Llama has those of all four or none: others would be left out, or
 * made anew, by whoever loads them. */
static int check_biases(const LlamaConfig *c)
{
    if (!c->qkv_bias == !c->o_bias || (c->qkv_bias && !c->mlp_bias))
        return 0;
    return error_raise(ERROR_ARGUMENT,
                       "transformers has no Llama with %s: biases of q, k, v and o go "
                       "together, or those of q, k and v are alone (Qwen2)",
                       c->o_bias ? "o_bias but no qkv_bias" : "qkv_bias and mlp_bias but no o_bias");
}

int config_exists(const ModelPreset *preset)
{
    return preset && preset->family != MODEL_MLP;
}

json_t *config_make(const ModelPreset *preset, SafetensorsType type, const char *source)
{
    static void (*const writers[])(json_t **, const ModelPreset *) = {
        [MODEL_BERT] = put_bert, [MODEL_GPT2] = put_gpt2, [MODEL_LLAMA] = put_llama};
    if (!config_exists(preset)) {
        error_raise(ERROR_ARGUMENT,
                    "transformers has no mlp, so no config.json is written for one; its weights can be saved "
                    "without");
        return NULL;
    }
    if (preset->family == MODEL_LLAMA && check_biases(&preset->config.llama))
        return NULL;
    json_t *root = json_object();
    writers[preset->family](&root, preset);
    put(&root, "torch_dtype", json_string(torch_name(type)));
    if (!root)
        no_memory("config.json");
    else if (source && source_fields(source, root)) {
        json_decref(root);
        root = NULL;
    }
    return root;
}

int io_write_config(const ModelPreset *preset, const char *path, SafetensorsType type)
{
    if (!preset || !path)
        return error_raise(ERROR_ARGUMENT, "io_write_config: %s is NULL", preset ? "path" : "preset");
    json_t *root = config_make(preset, type, NULL);
    int status = root ? json_write_file(root, path) : error_code();
    json_decref(root);
    return status;
}

/* ---- Where it is written ---------------------------------------------------------------------- */

int io_check_directory(const char *directory)
{
    char shown[FILE_LABEL], path[PATH_BYTES];
    FileWriter writer;
    if (!directory)
        return error_raise(ERROR_ARGUMENT, "io_check_directory: directory is NULL");
    path_label(shown, directory);
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return error_raise(ERROR_FILE, "%s: cannot make the directory: %s", shown, strerror(errno));
    if (!path_is_directory(directory))
        return error_raise(ERROR_FILE, "%s is not a directory", shown);
    if (path_join(path, directory, "model.safetensors") || file_begin(&writer, path))
        return error_code();
    file_abandon(&writer);
    return 0;
}
