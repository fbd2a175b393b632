#include "quant_codes_.h"

#include "quant_values_.h"

const float nf4_code[16] = {QUANT_NF4_VALUES};
const float dynamic_code[256] = {QUANT_DYNAMIC_VALUES};
const float dynamic_code_unsigned[256] = {QUANT_DYNAMIC_UNSIGNED_VALUES};
