/* transformers has no mlp: its weights are files of safetensors without a config.json. */
#include "family_.h"

const FamilyFiles mlp_files;
