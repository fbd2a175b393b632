#!/usr/bin/env python3
"""config.py: what PEFT's LoraConfig is, as JSON for tests/test_adapter_config.c: every field that adapter_config.json may
have, with its default; and which modules some configurations mean, with which rank and alpha."""
import dataclasses
import json

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

LLAMA = [f'model.layers.{i}.{m}' for i in (0, 1, 11)
         for m in ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'mlp.gate_proj',
                   'mlp.up_proj', 'mlp.down_proj')] + ['lm_head', 'model.embed_tokens']
GPT2 = [f'transformer.h.{i}.{m}' for i in (0, 1) for m in ('attn.c_attn', 'attn.c_proj', 'mlp.c_fc', 'mlp.c_proj')]
BERT = [f'bert.encoder.layer.{i}.{m}' for i in (0, 1)
        for m in ('attention.self.query', 'attention.self.value', 'attention.output.dense', 'intermediate.dense',
                  'output.dense')] + ['cls.predictions.transform.dense']
CONFIGS = [
    (LLAMA, {'target_modules': ['q_proj', 'v_proj']}),
    (LLAMA, {'target_modules': ['proj', 'self_attn.q_proj', 'model.layers.1.mlp.up_proj', 'lm_head']}),
    (LLAMA, {'target_modules': r'.*\.(q|k)_proj'}),
    (LLAMA, {'target_modules': r'model\.layers\.1\.self_attn\..*'}),
    (LLAMA, {'target_modules': r'(?P<all>model\.layers\.\d+)\.mlp\.(?!down).*'}),
    (LLAMA, {'target_modules': 'q_proj'}),
    (LLAMA, {'target_modules': ['q_proj', 'up_proj'], 'exclude_modules': ['model.layers.0.self_attn.q_proj', 'up_proj']}),
    (LLAMA, {'target_modules': ['q_proj', 'up_proj'], 'exclude_modules': r'.*\.1+\..*'}),
    (LLAMA, {'target_modules': ['q_proj', 'lm_head'], 'modules_to_save': ['lm_head']}),
    (LLAMA, {'target_modules': ['q_proj', 'up_proj'], 'modules_to_save': ['self_attn']}),
    (LLAMA, {'target_modules': ['q_proj', 'model.layers.0.mlp.up_proj'], 'layers_to_transform': [1]}),
    (LLAMA, {'target_modules': ['q_proj', 'lm_head'], 'layers_to_transform': 11}),
    (LLAMA, {'target_modules': ['q_proj'], 'layers_to_transform': [0, 1], 'layers_pattern': 'layers'}),
    (LLAMA, {'target_modules': ['q_proj'], 'layers_to_transform': [0, 1], 'layers_pattern': ['h', 'lay.*']}),
    (LLAMA, {'target_modules': ['q_proj'], 'layers_to_transform': [0], 'layers_pattern': 'h'}),
    (LLAMA, {'target_modules': ['q_proj', 'k_proj', 'v_proj'], 'rank_pattern': {'q_proj': 4, r'model\.layers\.1\..*': 2},
             'alpha_pattern': {'^model.layers.0.self_attn.k_proj': 16, 'layers.1.self_attn.(q|v)_proj': 3.5}}),
    (LLAMA, {'target_modules': ['q_proj', 'k_proj'], 'rank_pattern': {'proj': 3, 'self_attn': 5, 'model.layers.1.self_attn.k_proj': 7},
             'r': 64, 'lora_alpha': 32}),
    (GPT2, {'target_modules': ['c_attn', 'mlp.c_proj'], 'layers_to_transform': [1]}),
    (GPT2, {'target_modules': ['c_proj'], 'rank_pattern': {r'attn\.c_proj': 2}}),
    (BERT, {'target_modules': ['query', 'dense'], 'layers_to_transform': 0, 'layers_pattern': 'layer'}),
    (BERT, {'target_modules': ['output.dense'], 'exclude_modules': ['attention.output.dense']}),
]


def default(field):
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def match(keys, options):
    config = LoraConfig(**options)
    modules = []
    for key in keys:
        target = check_target_module_exists(config, key)
        if not target or type(target).__name__ == '_ExcludedModule':
            continue
        r = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), key), config.r)
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), key), config.lora_alpha)
        modules.append([key, r, alpha])
    return {'config': {'peft_type': 'LORA', **options}, 'of': keys, 'modules': modules}


fields = sorted((f.name, default(f)) for f in dataclasses.fields(LoraConfig))
print(json.dumps({'fields': [{'name': n, 'default': d} for n, d in fields],
                  'matches': [match(k, o) for k, o in CONFIGS]}, indent=0))
