#!/usr/bin/env python3
"""Compares models.py with Hugging Face's own classes, where transformers is installed (it is needed nowhere else).

Same names in the same order, same logits, loss and gradients in float32; prints a line a model, exits with 1 when one
differs. Last run with transformers 4.35.2.
"""
import sys

import torch
from transformers import (BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM)

import generate
import models


def huggingface(c):
    """Their model of a configuration of ours."""
    if 'types' in c:
        return BertForMaskedLM(BertConfig(
            vocab_size=c['vocab'], hidden_size=c['dim'], num_hidden_layers=c['layers'],
            num_attention_heads=c['heads'], intermediate_size=c['ffn'], max_position_embeddings=c['max_seq'],
            type_vocab_size=c['types'], layer_norm_eps=c['norm_eps']))
    if 'max_seq' in c:
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=c['vocab'], n_embd=c['dim'], n_layer=c['layers'], n_head=c['heads'], n_inner=c['ffn'],
            n_positions=c['max_seq'], layer_norm_epsilon=c['norm_eps']))
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=c['vocab'], hidden_size=c['dim'], num_hidden_layers=c['layers'], num_attention_heads=c['heads'],
        num_key_value_heads=c['kv_heads'], intermediate_size=c['hidden'], rms_norm_eps=c['norm_eps'],
        rope_theta=c['rope_theta'], tie_word_embeddings=bool(c['tied']), pad_token_id=None))


def main():
    torch.set_num_threads(1)
    failed = False
    for name, config, ours, inputs, labels in generate.model_cases():
        if name == 'mlp' or 'head_dim' in config or 'qkv_bias' in config:  # not in theirs, not in this version of theirs
            continue
        theirs = huggingface(config).eval()
        same = [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        arguments = {key: torch.from_numpy(x).long() for key, x in inputs.items()}
        target = torch.from_numpy(labels).long()
        generate.set_weights(ours)
        generate.set_weights(theirs)
        a = ours(**arguments)
        rename = {'ids': 'input_ids', 'types': 'token_type_ids', 'mask': 'attention_mask'}
        b = theirs(**{rename[key]: x for key, x in arguments.items()}).logits
        models.loss_of(a, target).backward()
        models.loss_of(b, target).backward()
        pairs = [(a, b)] + [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters())]
        worst = max(float((x - y).abs().max()) for x, y in pairs)
        failed |= not same or worst > 1e-6
        print(f'{name}: {"same names" if same else "names differ"}, largest difference {worst:.2g}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
