#!/usr/bin/env python3
"""generate.py OUTDIR: what PEFT computes for low-rank adapters, for tests/test_lora_parity.c and test_adapters*.c.

FAMILY/{config.json,model.safetensors}: a small random model in float32. FAMILY_CASE/: adapter_start/ as PEFT saves it;
run.safetensors: ids, labels, logits, the first step's gradients, the adapter after three steps of AdamW (lr 1e-2, no
decay), the logits of the merged model; run.json: the losses before each step and after the last. B is drawn, because 0
would leave A without a gradient; the case `init` keeps PEFT's 0."""
import copy
import json
import os
import sys
import warnings

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

warnings.filterwarnings('ignore')
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

CASES = [('llama', 'default', {}), ('llama', 'init', {}), ('llama', 'all', {'target_modules': 'all-linear'}),
         ('llama', 'all_rslora', {'target_modules': 'all-linear', 'use_rslora': True}),
         ('gpt2', 'default', {'fan_in_fan_out': True}),
         ('gpt2', 'all', {'target_modules': 'all-linear', 'fan_in_fan_out': True}),
         ('bert', 'default', {}), ('bert', 'all', {'target_modules': 'all-linear'}),
         # what a file may hold beside adapters, and what is refused: for tests/test_adapters*.c
         ('llama', 'head_saved', {'target_modules': ['q_proj', 'v_proj'], 'modules_to_save': ['lm_head']}),
         ('llama', 'bias_all', {'target_modules': ['q_proj'], 'bias': 'all'}),
         ('llama_tied', 'embed', {'target_modules': ['q_proj', 'embed_tokens']}),
         ('llama', 'dora', {'target_modules': ['q_proj', 'v_proj'], 'use_dora': True}),
         ('gpt2', 'bias_lora_only', {'target_modules': ['c_attn'], 'bias': 'lora_only', 'fan_in_fan_out': True})]


def base_model(family):
    torch.manual_seed(1)
    if family.startswith('llama'):
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=family == 'llama_tied', initializer_range=0.1))
    if family == 'gpt2':
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            initializer_range=0.1))
    return BertForMaskedLM(BertConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=0.1))


def run(family, case, more, out):
    folder = os.path.join(out, family + '_' + case)
    os.makedirs(folder, exist_ok=True)
    base = base_model(family)
    base.save_pretrained(os.path.join(out, family))
    torch.manual_seed(2)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0,
                                            task_type=None if family == 'bert' else 'CAUSAL_LM', **more))
    generator = torch.Generator().manual_seed(5)
    if case != 'init':
        with torch.no_grad():
            for name, p in model.named_parameters():
                if 'lora_B' in name or 'lora_embedding_A' in name:
                    p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    model.save_pretrained(os.path.join(folder, 'adapter_start'))
    ids = torch.randint(0, 96, (2, 16), generator=generator)
    labels = ids.clone()
    labels[0, :3] = -100
    if family == 'bert':
        labels = torch.where(torch.rand(2, 16, generator=generator) < 0.3, ids, -100)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(list(trained.values()), lr=1e-2, weight_decay=0.0)
    kept, losses = {'ids': ids.int(), 'labels': labels.int()}, []
    model.train()
    for step in range(4):
        answer = model(input_ids=ids, labels=labels)
        losses.append(answer.loss.item())
        if step == 0:
            kept['logits'] = answer.logits.detach().clone()
        if step == 3:
            break
        optimizer.zero_grad()
        answer.loss.backward()
        if step == 0:
            kept.update({'grad.' + name: p.grad.clone() for name, p in trained.items()})
        optimizer.step()
    kept.update({'after.' + name: p.detach().clone() for name, p in trained.items()})
    with torch.no_grad():
        kept['merged_logits'] = copy.deepcopy(model).merge_and_unload().eval()(input_ids=ids).logits
    save_file({name: t.contiguous() for name, t in kept.items()}, os.path.join(folder, 'run.safetensors'))
    with open(os.path.join(folder, 'run.json'), 'w') as f:
        json.dump({'losses': losses}, f, indent=1)


for family, case, more in CASES:
    run(family, case, more, sys.argv[1])
