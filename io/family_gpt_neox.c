/* GPT-NeoX and Pythia in files of others. Names, defaults and meanings are those of transformers'
 * GPTNeoXConfig, of version 4 (rotary_pct, rotary_emb_base) and of version 5 (rope_parameters). */
#include <string.h>

#include "family_decoder_.h"

/* Those from the third on, which is GPT-NeoX-20B's, are computed by tanh. */
static const char *const gelus[] = {"gelu",     "gelu_python",       "gelu_fast",
                                    "gelu_new", "gelu_pytorch_tanh", NULL};

static void read_gpt_neox(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    const char *act = fields_text(f, "hidden_act", gelus[0]);
    c->gelu_tanh = strcmp(act, gelus[0]) != 0 && strcmp(act, gelus[1]) != 0;
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 1);
    c->mlp_bias = 1;
    c->sequential = !fields_flag(f, "use_parallel_residual", 1);
    fields_get(f, "hidden_dropout_prob"); /* of the first files; transformers does not read them */
    fields_get(f, "attention_probs_dropout_prob");
    fields_only(f, "hidden_dropout", 0, "embeddings and branches have no dropout here");
}

static const DecoderKind gpt_neox = {.vocab = 50432,
                                     .dim = 6144,
                                     .hidden = 24576,
                                     .layers = 44,
                                     .heads = 64,
                                     .max_seq = 2048,
                                     .norm_eps = 1e-5,
                                     .partial_rotary = 0.25,
                                     .gates = gelus,
                                     .norm_eps_name = "layer_norm_eps",
                                     .theta_name = "rotary_emb_base",
                                     .partial_name = "rotary_pct",
                                     .plain_heads = 1};

static void write_gpt_neox(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder_as(o, &gpt_neox, c, "gpt_neox", "GPTNeoXForCausalLM");
    config_put(o, "hidden_act", json_string(gelus[c->gelu_tanh ? 2 : 0]));
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    config_put(o, "use_parallel_residual", json_boolean(!c->sequential));
    config_put(o, "hidden_dropout", json_real(0));
}

static int check_gpt_neox(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    const char *what = !c->mlp_bias                                      ? "no biases in the feed-forward"
                       : c->head_dim && c->head_dim * c->heads != c->dim ? "heads that are not dim together"
                       : c->window                                       ? "a window"
                                                                         : NULL;
    if (!what)
        return check_decoder_biases(preset, "GPT-NeoX", 1);
    return error_raise(ERROR_ARGUMENT, "io_write_config(): transformers has no GPT-NeoX with %s", what);
}

const FamilyFiles gpt_neox_files = {
    .types = {{"gpt_neox", "GPTNeoXForCausalLM", read_gpt_neox, &gpt_neox, NULL}},
    .write = write_gpt_neox,
    .check = check_gpt_neox,
    .names = {.prefix = "gpt_neox.",
              .tied = {{"lm_head.weight", "gpt_neox.embed_in.weight"}},
              .head = "embed_out.weight",
              .buffers = {"rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"},
              .other_heads = {"score.", "classifier.", "qa_outputs."}},
    .adapted = {"query_key_value"},
};
