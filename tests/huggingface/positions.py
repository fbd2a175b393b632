#!/usr/bin/env python3
"""Compares stretched rotary positions with transformers': every way of stretching them, at lengths around the original one.

usage: positions.py BUILD (BUILD/tests/huggingface/driver, BUILD/tests/huggingface/writer and BUILD/brim)

Of random models of Llama, Mistral and Qwen2: logits, loss and every gradient of sequences of each length; the config.json
that brim writes, read by transformers, which then computes the same logits, bit for bit; texts of the most probable tokens
that pass the original length, beside those of transformers' generate.
"""
import os
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (GenerationConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)

import check
import generate
from check import TOLERANCE, randomised, theirs_of, worst

ORIGINAL = 32  # positions that were trained
SIZES = dict(vocab_size=97, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=80, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, attn_implementation='eager')
LENGTHS = (7, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL + 3, 127, 128)
SHORT = [1.0, 1.02, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0]
LONG = [1.0, 1.5, 2.25, 4.0, 7.5, 12.0, 20.0, 31.5]
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=ORIGINAL)
LONGROPE = dict(rope_type='longrope', short_factor=SHORT, long_factor=LONG, original_max_position_embeddings=ORIGINAL)

# Name, the fields of rope_scaling, rope_theta. Heads of 16: 8 pairs.
STRETCHES = [
    ('linear', dict(rope_type='linear', factor=2.5), 10000.0),
    ('dynamic', dict(rope_type='dynamic', factor=2.0), 10000.0),
    ('llama3', dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=ORIGINAL), 5000.0),
    ('yarn', YARN, 10000.0),
    ('yarn of wide ramp', dict(YARN, beta_fast=64.0, beta_slow=0.5, truncate=False), 5000.0),
    ('yarn, mscale', dict(YARN, factor=40.0, mscale=0.707, mscale_all_dim=1.25), 1e6),
    ('yarn, attention_factor', dict(YARN, attention_factor=1.5), 10000.0),
    ('yarn, no factor', dict(YARN, factor=None), 10000.0),
    ('yarn, no length', dict(rope_type='yarn', factor=2.0), 10000.0),
    ('longrope', LONGROPE, 10000.0),
    ('longrope, factor', dict(LONGROPE, factor=7.0), 10000.0),
    ('longrope, attention_factor', dict(LONGROPE, attention_factor=1.19), 500.0),
]
FAMILIES = [('llama', LlamaForCausalLM, LlamaConfig, {}), ('mistral', MistralForCausalLM, MistralConfig, {}),
            ('qwen2', Qwen2ForCausalLM, Qwen2Config, {}), ('llama, wide heads', LlamaForCausalLM, LlamaConfig, {'head_dim': 32})]


def cases():
    for i, (stretch, scaling, theta) in enumerate(STRETCHES):
        # Each family with some, and some with all.
        for j, (family, kind, config, more) in enumerate(FAMILIES):
            wide = 'head_dim' in more
            if (i + j) % 2 and stretch not in ('yarn', 'longrope') or wide and 'longrope' in stretch:
                continue
            sizes = dict(SIZES, **more)
            if family == 'mistral':
                sizes['sliding_window'] = None
            yield f'{family}, {stretch}', kind, config(**sizes, rope_parameters=dict(scaling, rope_theta=theta))


def values(name, model, directory, folder):
    """Largest differences over all lengths, relative to the largest element of a tensor."""
    given, got = os.path.join(folder, 'i.safetensors'), os.path.join(folder, 'o.safetensors')
    logits = gradients = losses = 0.0
    for length in LENGTHS:
        inputs = check.random_inputs(model.config.vocab_size, 3, length, False, seed=length)
        inputs['labels'][0, 0] = 1  # one at least
        save_file(inputs, given)
        check.driver(directory, given, got, *(('--eager',) if length % 2 else ()))
        ours, (theirs, loss, slopes) = load_file(got), theirs_of(model, inputs)
        logits = max(logits, worst({'': ours['logits']}, {'': theirs})[1])
        gradients = max(gradients, worst({n: ours['grad.' + n] for n in slopes}, slopes)[1])
        losses = max(losses, abs(float(ours['loss']) - loss) / loss)
    good = max(logits, gradients, losses) < TOLERANCE
    check.check(f'{name}: logits, loss and gradients of {len(LENGTHS)} lengths', good,
                f'relative {logits:.2g}, {losses:.2g} and {gradients:.2g}')


def written(name, kind, model, directory, folder):
    """brim's own config.json, of the model alone: nothing of the file that it came from is left in it."""
    given, got, saved = (os.path.join(folder, n) for n in ('i.safetensors', 'o.safetensors', 'saved'))
    check.driver(directory, given, got, '--save', saved, '--alone')
    again = kind.from_pretrained(saved, attn_implementation='eager').eval()
    ids = torch.arange(2 * ORIGINAL + 3)[None] % 97
    with torch.no_grad():
        same = all(torch.equal(again(ids[:, :n]).logits, model(ids[:, :n]).logits) for n in (ORIGINAL, 2 * ORIGINAL + 3))
    check.check(f'{name}: written by brim, read by transformers, bit for bit', same)


def texts(name, model, directory):
    """Beside forwards of the whole text: where longrope's original length is passed, a cache would keep keys of the short list,
    and brim reads the text again as transformers' Phi-3 does."""
    model.generation_config = GenerationConfig()
    same, total = 0, 0
    for prompt, tokens, chunk in (('TO BE', 60, 512), ('0123456789' * 3, 9, 7), ('?' * ORIGINAL, 5, 9), ('A' * (ORIGINAL + 5), 20, 8)):
        ids = torch.tensor([list(prompt.encode())])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
                                pad_token_id=0, use_cache=False)[0, ids.shape[1]:].tolist()
        ours = generate.written(directory, prompt, tokens, '--prefill', chunk, '--ignore-eos')['tokens']
        same += ours == theirs
        total += tokens
    check.check(f'{name}: 4 texts of the most probable tokens, {total} in all', same == 4)


def main():
    check.BUILD = sys.argv[1] if len(sys.argv) > 1 else 'build'
    check.DRIVER = os.path.join(check.BUILD, 'tests/huggingface/driver')
    generate.BRIM = os.path.join(check.BUILD, 'brim')
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    for name, kind, config in cases():
        model = randomised(kind(config), 11)
        with tempfile.TemporaryDirectory() as folder:
            directory = os.path.join(folder, 'theirs')
            model.save_pretrained(directory)
            values(name, model, directory, folder)
            written(name, kind, model, directory, folder)
            texts(name, model, directory)
    print(f'{check.passed()} passed, {len(check.failures)} failed')
    sys.exit(1 if check.failures else 0)


if __name__ == '__main__':
    main()
