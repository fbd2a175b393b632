/* The configurations that are written beside weights. */
#ifndef BRIM_CONFIG_MAKE_INTERNAL_H
#define BRIM_CONFIG_MAKE_INTERNAL_H

#include "../nn/nn.h"
#include "json_patch_.h"
#include "safetensors.h"

/* Whether transformers has such a model: an mlp it has not. NULL is none. */
int config_exists(const ModelPreset *preset);
/* A model's config.json. source: the directory that it came from, whose config.json stays but for what this
 * model has otherwise; NULL = none. tokenizer: the tokenizer.json that it was trained with, where that is not
 * the source's; NULL = the source's, or none. labels: what the classes of a classifier are called; NULL = as
 * the source says, or by number. Free the text with json_text_free. 0 or raises. */
int config_make(const ModelPreset *preset, SafetensorsType type, const char *source, const char *tokenizer,
                const char *const *labels, JsonText *out);
/* A generation_config.json for that tokenizer, which stops texts at its tokens; that of the source stays but
 * for those. Nothing for what writes no texts. */
int generation_make(const ModelPreset *preset, const char *source, const char *tokenizer, JsonText *out);
/* A tokenizer_config.json for it. */
int tokenizer_config_make(const char *tokenizer, JsonText *out);

#endif
