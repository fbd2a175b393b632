"""Checkpoints of bitsandbytes against transformers itself, for check.py: brim reads what transformers quantised and saved, with
equal logits; adapters on it have PEFT's gradients, and what brim writes of them PEFT loads.

Widths are multiples of 64, and models are in training mode without dropout: with AVX-512 bitsandbytes 0.50.2 decodes blocks
that lie across rows wrongly, and rounds weights to bf16 in evaluation."""
import os
import tempfile
import warnings

import torch
from adapters import draw, loss_of, ours_name
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BitsAndBytesConfig, GPT2Config,
                          GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM)

TOLERANCE = 2e-5
SMALL = {'vocab_size': 61, 'max_position_embeddings': 64, 'initializer_range': 0.1}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SMALL, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=64, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0,
                                      embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.1))


def gpt_neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                            num_attention_heads=4))


def bert():
    return BertForMaskedLM(BertConfig(**SMALL, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                      num_attention_heads=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def four_bits(**more):
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.float32, **more)


CASES = [
    ('llama, nf4', llama, four_bits()),
    ('llama, nf4 with scales in 8 bit', llama, four_bits(bnb_4bit_use_double_quant=True)),
    ('llama, nf4 stored as bf16', llama, four_bits(bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage=torch.bfloat16)),
    ('llama, nf4 but for two kinds of modules', llama, four_bits(llm_int8_skip_modules=['lm_head', 'v_proj', 'model.layers.1.mlp'])),
    ('gpt2, nf4', gpt2, four_bits(bnb_4bit_use_double_quant=True)),
    ('gpt_neox, nf4', gpt_neox, four_bits(bnb_4bit_use_double_quant=True)),
    ('gpt_neox, int8', gpt_neox, BitsAndBytesConfig(load_in_8bit=True)),
    ('bert, nf4', bert, four_bits(bnb_4bit_use_double_quant=True)),
    ('llama, int8', llama, BitsAndBytesConfig(load_in_8bit=True)),
]


def quantise(make, config, folder):
    load = AutoModelForMaskedLM if make is bert else AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as source:
        make().save_pretrained(source)
        model = load.from_pretrained(source, quantization_config=config, device_map={'': 'cpu'}, dtype=torch.float32)
    model.save_pretrained(folder)
    return model.train()


def check_adapter(what, make, model, at, inputs, check, driver, worst):
    """bitsandbytes decodes to what its source was, fp32, so gradients are those of fp32 weights."""
    for p in model.parameters():
        p.requires_grad = False
    adapted = get_peft_model(model, LoraConfig(task_type=None if make is bert else 'CAUSAL_LM', r=3, lora_alpha=5,
                                               target_modules='all-linear', fan_in_fan_out=make is gpt2))
    draw(adapted, 7)
    adapted.save_pretrained(at['adapter'])
    driver(at['base'], at['in'], at['got'], '--quantized', '--adapter', at['adapter'], '--save-adapter', at['out'])
    ours = load_file(at['got'])
    logits, loss = loss_of(adapted.train(), inputs)
    loss.backward()
    _, r = worst({'': ours['logits']}, {'': logits.detach()})
    check(f'adapter on {what}: logits', r < TOLERANCE, f'relative {r:.2g}')
    theirs = {ours_name(n): p.grad for n, p in adapted.named_parameters() if p.grad is not None}
    mine = {n[5:]: g for n, g in ours.items() if n.startswith('grad.')}
    _, r = worst(mine, theirs) if mine.keys() == theirs.keys() else (0, 1)
    check(f'adapter on {what}: gradients of {len(theirs)} parameters', r < 10 * TOLERANCE, f'relative {r:.2g}')
    load = AutoModelForMaskedLM if make is bert else AutoModelForCausalLM
    again = PeftModel.from_pretrained(load.from_pretrained(at['base'], device_map={'': 'cpu'}), at['out']).train()
    with torch.no_grad():
        same = torch.equal(loss_of(again, inputs)[0], logits)
    check(f'adapter on {what}: written by brim, loaded by PEFT, the same logits', same)


def check_quantised(check, driver, worst, random_inputs):
    warnings.filterwarnings('ignore')
    for what, make, config in CASES:
        torch.manual_seed(3)
        with tempfile.TemporaryDirectory() as folder:
            at = {n: os.path.join(folder, n) for n in ('base', 'adapter', 'out', 'in', 'got')}
            model = quantise(make, config, at['base'])
            inputs = random_inputs(61, 2, 16, False)
            save_file(inputs, at['in'])
            with torch.no_grad():
                logits = loss_of(model, inputs)[0]
            for how in (['--quantized'], []):
                driver(at['base'], at['in'], at['got'], *how)
                _, r = worst({'': load_file(at['got'])['logits']}, {'': logits})
                check(f'{what}: logits, {"codes as they are" if how else "decoded"}', r < TOLERANCE, f'relative {r:.2g}')
            if 'in 8 bit' in what or make is not llama:
                check_adapter(what, make, model, at, inputs, check, driver, worst)
