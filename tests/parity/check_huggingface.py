#!/usr/bin/env python3
"""Compares models.py with Hugging Face's own classes.

Same names in the same order, same logits, loss and gradients in float32; prints a line a model, exits with 1 when one
differs.
"""
import sys

import torch
import transformers
from transformers import (BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

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
            n_positions=c['max_seq'], layer_norm_epsilon=c['norm_eps'], bos_token_id=None, eos_token_id=None))
    shape = dict(
        vocab_size=c['vocab'], hidden_size=c['dim'], num_hidden_layers=c['layers'], num_attention_heads=c['heads'],
        num_key_value_heads=c['kv_heads'], intermediate_size=c['hidden'], rms_norm_eps=c['norm_eps'],
        rope_parameters={'rope_type': 'default', 'rope_theta': c['rope_theta']},
        tie_word_embeddings=bool(c['tied']), pad_token_id=None)
    if 'qkv_bias' in c and 'o_bias' not in c:
        return Qwen2ForCausalLM(Qwen2Config(**shape))
    return LlamaForCausalLM(LlamaConfig(
        **shape, head_dim=c.get('head_dim', c['dim'] // c['heads']), attention_bias=bool(c.get('o_bias')),
        mlp_bias=bool(c.get('mlp_bias'))))


def main():
    torch.set_num_threads(1)
    print(f'PyTorch {torch.__version__}, transformers {transformers.__version__}')
    failed = False
    for name, config, ours, inputs, labels in generate.model_cases():
        if name == 'mlp':  # not in theirs
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
        worst = max(float((x - y).detach().abs().max()) for x, y in pairs)
        failed |= not same or worst > 1e-6
        print(f'{name}: {"same names" if same else "names differ"}, largest difference {worst:.2g}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
