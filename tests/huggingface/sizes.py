"""Parameters of published models: transformers builds each on its meta device from the published configuration, brim by name.

A row: brim's name, transformers' configuration class, the fields that its config.json has beside the defaults.
"""
import json
import os
import subprocess
import tempfile

import torch
import transformers


def qwen3(dim, layers, heads, hidden, tied=False):
    return dict(hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8, head_dim=128,
                intermediate_size=hidden, tie_word_embeddings=tied, max_position_embeddings=40960)


def olmo2(dim, layers, heads, hidden, kv_heads=None):
    return dict(vocab_size=100352, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv_heads, intermediate_size=hidden, max_position_embeddings=4096)


def granite(dim, hidden):
    return dict(vocab_size=49155, hidden_size=dim, num_hidden_layers=40, num_attention_heads=32, num_key_value_heads=8,
                intermediate_size=hidden, tie_word_embeddings=True)


def pythia(dim, layers, heads, vocab=50304):
    return dict(vocab_size=vocab, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
                intermediate_size=4 * dim)


PUBLISHED = [
    ('qwen3-0.6b', 'Qwen3', qwen3(1024, 28, 16, 3072, True)),
    ('qwen3-1.7b', 'Qwen3', qwen3(2048, 28, 16, 6144, True)),
    ('qwen3-4b', 'Qwen3', qwen3(2560, 36, 32, 9728, True)),
    ('qwen3-8b', 'Qwen3', qwen3(4096, 36, 32, 12288)),
    ('qwen3-14b', 'Qwen3', qwen3(5120, 40, 40, 17408)),
    ('qwen3-32b', 'Qwen3', qwen3(5120, 64, 64, 25600)),
    ('smollm3-3b', 'SmolLM3', dict(max_position_embeddings=65536)),
    ('olmo2-1b', 'Olmo2', olmo2(2048, 16, 16, 8192)),
    ('olmo2-7b', 'Olmo2', olmo2(4096, 32, 32, 11008)),
    ('olmo2-13b', 'Olmo2', olmo2(5120, 40, 40, 13824)),
    ('olmo2-32b', 'Olmo2', olmo2(5120, 64, 40, 27648, 8)),
    ('granite-3.1-2b', 'Granite', granite(2048, 8192)),
    ('qwen1.5-moe-a2.7b', 'Qwen2Moe', dict(max_position_embeddings=8192)),
    ('qwen2-57b-a14b', 'Qwen2Moe', dict(
        hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944,
        moe_intermediate_size=2560, shared_expert_intermediate_size=20480, num_experts=64, num_experts_per_tok=8,
        max_position_embeddings=131072)),
    ('granite-3.1-8b', 'Granite', granite(4096, 12800)),
    ('pythia-70m', 'GPTNeoX', pythia(512, 6, 8)),
    ('pythia-160m', 'GPTNeoX', pythia(768, 12, 12)),
    ('pythia-410m', 'GPTNeoX', pythia(1024, 24, 16)),
    ('pythia-1b', 'GPTNeoX', pythia(2048, 16, 8)),
    ('pythia-1.4b', 'GPTNeoX', pythia(2048, 24, 16)),
    ('pythia-2.8b', 'GPTNeoX', pythia(2560, 32, 32)),
    ('pythia-6.9b', 'GPTNeoX', pythia(4096, 32, 32, 50432)),
    ('pythia-12b', 'GPTNeoX', pythia(5120, 36, 40, 50688)),
    ('gpt-neox-20b', 'GPTNeoX', pythia(6144, 44, 64, 50432)),
]


# Families that are planned as another one, which says how many parameters they have otherwise.
NEAR = [
    ('Ministral3', {}), ('GptOss', dict(num_hidden_layers=24, num_local_experts=32)), ('GptOss', {}), ('Olmoe', {}),
    ('GraniteMoe', dict(hidden_size=1024, intermediate_size=512, num_hidden_layers=24, num_attention_heads=16,
                        num_key_value_heads=8, num_local_experts=32, num_experts_per_tok=8, tie_word_embeddings=True)),
    ('Phimoe', {}), ('Phimoe', dict(attention_bias=True, lm_head_bias=True)), ('Olmo', {}), ('StableLm', {}),
    ('StableLm', dict(use_qkv_bias=True, use_parallel_residual=True, qk_layernorm=True)), ('Glm', {}), ('Glm4', {}),
    ('Exaone4', dict(num_key_value_heads=8)),
]


def plan(build, *arguments):
    run = subprocess.run([os.path.join(build, 'brim'), 'plan', '--seq', '16', '--json', *arguments],
                         capture_output=True, text=True)
    if run.returncode not in (0, 1):
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout)


def brims(build, name):
    return plan(build, '--model', name)['parameters']


def parameters_of(config):
    with torch.device('meta'):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters())


def check_near(check, build):
    for kind, fields in NEAR:
        config = getattr(transformers, kind + 'Config')(**fields)
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            ours = plan(build, '--model', folder, '--approximate')
        near = ours['approximate']
        count, theirs = ours['parameters'] + near['parameters_more'], parameters_of(config)
        check(f'{near["model_type"]} planned as {near["planned_as"]}: parameters', count == theirs, f'{count} {theirs}')


def check_sizes(check, build):
    for name, kind, fields in PUBLISHED:
        theirs, ours = parameters_of(getattr(transformers, kind + 'Config')(**fields)), brims(build, name)
        check(f'{name}: parameters', ours == theirs, f'{ours} {theirs}')
