/* quantization_config of a config.json: what bitsandbytes made of the linear layers' weights. Names and
 * defaults are those of transformers' BitsAndBytesConfig. */
#include <stdio.h>
#include <string.h>

#include "io_.h"

/* How the products of other programs run; the codes are the same. */
static const char *const harmless[] = {"_load_in_4bit",
                                       "_load_in_8bit",
                                       "bnb_4bit_compute_dtype",
                                       "bnb_4bit_quant_storage",
                                       "llm_int8_enable_fp32_cpu_offload",
                                       "llm_int8_threshold",
                                       NULL};

static void skip_module(Fields *f, const json_t *name)
{
    char *to = f->model->not_quantized;
    size_t used = strlen(to), length = json_string_length(name);
    const char *text = json_string_value(name);
    if (!text || !text[0])
        fields_refuse(f, "llm_int8_skip_modules", "a list of names of modules, or null");
    else if (strpbrk(text, ",*+?()[]{}|^$\\"))
        fields_fail(f, "%sllm_int8_skip_modules has %s; names of modules are read, and no patterns",
                    f->within, string_text(text).text);
    else if (used + length + 2 > sizeof f->model->not_quantized)
        fields_fail(f, "%sllm_int8_skip_modules has more than %zu letters", f->within,
                    sizeof f->model->not_quantized);
    else
        sprintf(to + used, "%s%s", used ? "," : "", text);
}

static void read_skipped(Fields *f)
{
    const json_t *list = fields_get(f, "llm_int8_skip_modules"), *name;
    size_t i;
    if (list && !json_is_null(list) && !json_is_array(list))
        fields_refuse(f, "llm_int8_skip_modules", "a list of names of modules, or null");
    json_array_foreach((json_t *)list, i, name) skip_module(f, name);
}

static void read_bits(Fields *f)
{
    int four = fields_flag(f, "load_in_4bit", 0), eight = fields_flag(f, "load_in_8bit", 0);
    const char *type = fields_text(f, "bnb_4bit_quant_type", "fp4");
    int nested = fields_flag(f, "bnb_4bit_use_double_quant", 0);
    if (four == eight)
        fields_fail(f, "%sload_in_4bit and load_in_8bit are %s; one of them has to be true", f->within,
                    four ? "both true" : "both false");
    else if (four && strcmp(type, "nf4"))
        fields_refuse(f, "bnb_4bit_quant_type", "\"nf4\" (or take the file that is not quantised)");
    f->model->quantized = eight ? DTYPE_INT8 : nested ? DTYPE_NF4 : DTYPE_NF4_PLAIN;
    fields_must(f, "llm_int8_has_fp16_weight", 0,
                "weights that are quantised anew at every step are not computed");
}

void quantization_read(Fields *f)
{
    const json_t *object = fields_get(f, "quantization_config");
    if (!object || json_is_null(object) || (json_is_object(object) && !json_object_size(object)))
        return;
    if (!json_is_object(object)) {
        fields_refuse(f, "quantization_config", "an object or null");
        return;
    }
    Fields inner = {.file = f->file, .within = "quantization_config.", .object = object, .model = f->model};
    const char *method = fields_text(&inner, "quant_method", "");
    if (strcmp(method, "bitsandbytes"))
        fields_refuse(&inner, "quant_method",
                      "\"bitsandbytes\" (nf4 or int8; or take the file that is not quantised)");
    if (!inner.failed)
        read_bits(&inner);
    read_skipped(&inner);
    fields_leftover(&inner, harmless);
    f->failed = f->failed ? f->failed : inner.failed;
    if (!f->failed)
        model_note(f->model, "Its linear layers are quantised to %s.", dtype_name(f->model->quantized));
}
