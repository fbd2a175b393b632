#!/usr/bin/env python3
"""Draws configurations over all options and random shapes: the held-out list, which rules are measured on and never made from.

usage: draw.py [SEED [COUNT]] > held-out.txt, or draw.py --ranks [SEED [COUNT]] > held-out-ranks.txt
"""
import random
import sys

LORA_TARGETS = {'gpt2': ['c_attn', 'c_attn,c_proj,c_fc'], 'bert': ['query,value', 'query,key,value,dense']}
DECODER_TARGETS = ['q_proj,v_proj', 'q_proj,k_proj,v_proj,o_proj', 'q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj', 'all-linear']


def shape(r, family):
    heads, dim = r.randint(2, 8), r.choice([16, 24, 32, 40, 48, 64, 64, 80, 96, 128])
    vocab, layers = r.randint(300, 3000), r.choice([1, 2, 2, 3])
    if family == 'gpt2':
        return dict(vocab_size=vocab, n_embd=heads * dim, n_head=heads, n_layer=layers, n_positions=2048)
    out = dict(vocab_size=vocab, hidden_size=heads * dim, num_attention_heads=heads, num_hidden_layers=layers,
               intermediate_size=r.randint(50, 500) * 2, max_position_embeddings=2048)
    if family != 'bert':
        out['num_key_value_heads'] = r.choice([k for k in range(1, heads + 1) if heads % k == 0])
        out['tie_word_embeddings'] = r.random() < 0.4
        if family == 'qwen3' or r.random() < 0.2:
            out['head_dim'] = r.choice([16, 32, 48, 64])
    if family == 'mistral':
        out['sliding_window'] = r.choice([16, 64, 4096])
    return out


def precision(r, card, trained_all):
    """Flags of the precision; weights of 16 bits under a loss scale only where they are frozen."""
    name = r.choice(['fp16-autocast', 'fp16-autocast', 'fp32', 'fp16'] if card == 't4' else
                    ['fp32', 'bf16', 'bf16', 'bf16-autocast', 'bf16-autocast', 'fp16-autocast'])
    flags = ['--precision', name]
    if name.endswith('autocast') and not trained_all:
        flags += ['--weights', r.choice(['fp32', name[:4]])]
    elif name == 'bf16-autocast' and r.random() < 0.3:
        flags += ['--weights', 'bf16']
    return name, flags


def adapters(r, family, card):
    flags = ['--lora', str(r.choice([4, 8, 16, 30])), '--targets', r.choice(LORA_TARGETS.get(family, DECODER_TARGETS))]
    flags += ['--lora-dropout', '0.1'] if r.random() < 0.4 else []
    if family not in LORA_TARGETS and r.random() < 0.5:
        flags += ['--quantize', r.choice(['nf4', 'nf4', 'nf4-single', 'int8'])]
        flags += ['--kbit-prepare', 'on'] if r.random() < 0.6 else []
    return flags


def draw(r):
    family = r.choice(['llama', 'llama', 'llama', 'qwen2', 'qwen3', 'mistral', 'gpt2', 'bert'])
    card = r.choice(['h200', 'h200', 'h200', 'a100', 'rtx4090', 't4'])
    lora = r.random() < 0.35
    name, flags = precision(r, card, not lora)
    flags = ['--model', family, '--card', card, *flags]
    flags += ['--set', ','.join(f'{k}={v}' for k, v in shape(r, family).items())]
    flags += ['--attention', r.choice(['sdpa', 'sdpa', 'eager'])]
    if lora:
        flags += adapters(r, family, card)
    elif family in ('bert', 'llama') and r.random() < 0.3:
        flags += ['--task', 'classify']
    batch, seq = (r.randint(5, 9), r.randint(640, 800)) if r.random() < 0.12 else (r.randint(1, 5), r.randint(8, 160))
    flags += ['--batch', str(batch), '--seq', str(seq), '--mask', r.choice(['none', 'none', 'ones', 'padding'])]
    flags += ['--checkpoint', r.choice(['none', 'none', 'no-reentrant', 'reentrant'])]
    flags += ['--accumulate', r.choice(['1', '1', '2', '3'])]
    flags += ['--dropout', '0'] if family in ('gpt2', 'bert') and r.random() < 0.4 else []
    trainer = r.random() < 0.3
    optimizers = ['adamw', 'adamw', 'adamw-fused', 'sgd', 'adamw8bit'] + ([] if trainer else ['adamw-loop', 'sgd-momentum'])
    flags += ['--optimizer', r.choice(optimizers)]
    if trainer:
        flags += ['--script', 'trainer']
        flags += ['--evaluate', str(r.randint(1, 3))] if r.random() < 0.3 else []
        flags += ['--metrics'] if '--evaluate' in flags and r.random() < 0.5 else []
    else:
        flags += ['--hold'] if r.random() < 0.3 else []
        flags += ['--clip', '0'] if r.random() < 0.2 else []
        flags += ['--zero-keep'] if r.random() < 0.1 else []
    return flags


def draw_ranks(r):
    """The same of several ranks, with what DDP and FSDP2 can be given; nothing that PyTorch itself refuses."""
    how = r.choice(['ddp', 'ddp', 'fsdp2'])
    flags = draw(r)
    while how == 'fsdp2' and {'trainer', 'reentrant', 'adamw8bit', '--quantize'} & set(flags):
        flags = draw(r)
    trainer, lora = 'trainer' in flags, '--lora' in flags
    flags += ['--ranks', str(r.choice([2, 3, 4, 8])), '--parallel', how]
    if not trainer:
        flags += ['--no-sync'] if r.random() < 0.5 else []
    if how == 'fsdp2':
        mixed = 'fp32' in flags or any(f.endswith('autocast') for f in flags)
        flags += ['--fsdp-type', 'bf16'] if mixed and 't4' not in flags and r.random() < 0.6 else []
        flags += ['--fsdp-reduce', 'fp32'] if '--fsdp-type' in flags and r.random() < 0.5 else []
        flags += ['--keep-gathered'] if r.random() < 0.2 else []
    elif not trainer:
        flags += ['--bucket-view'] if r.random() < 0.3 else []
        flags += ['--find-unused'] if 'reentrant' not in flags and r.random() < 0.3 else []
    elif lora and 'reentrant' in flags:
        flags[flags.index('reentrant')] = 'no-reentrant'
    return flags


def main():
    ranks = '--ranks' in sys.argv
    numbers = [int(x) for x in sys.argv[1:] if x != '--ranks']
    seed, count = numbers + [16, 32 if ranks else 64][len(numbers):]
    r = random.Random(seed)
    print(f'# Drawn by draw.py {"--ranks " if ranks else ""}{seed} {count}: only measured, never looked at while the rules are written.')
    for i in range(count):
        print(f'held-ranks-{i + 1:02d}' if ranks else f'held-{i + 1:02d}', *(draw_ranks if ranks else draw)(r))


if __name__ == '__main__':
    main()
