#!/usr/bin/env python3
"""qlora.py OUTDIR: what PEFT computes for adapters on a model that bitsandbytes quantised to NF4, for
tests/test_lora_parity.c. The files are generate.py's, but for the logits of a merged model.

qlora32/, qlora32_llama_all/: quantised from float32, so forward and backward decode to float32.
qlora/, qlora_llama_all/: quantised from bfloat16; backward rounds the decoded weights to bfloat16, which brim does not."""
import json
import os
import shutil
import sys
import tempfile
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

warnings.filterwarnings('ignore')
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
if torch.backends.cpu.get_cpu_capability() == 'AVX512':
    sys.exit('bitsandbytes 0.50.2 decodes blocks that lie across rows wrongly with AVX-512: take another processor')

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,
                         bnb_4bit_compute_dtype=torch.float32)


def train(model, ids, labels, folder):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(list(trained.values()), lr=1e-2, weight_decay=0.0)
    kept, losses = {'ids': ids.int(), 'labels': labels.int()}, []
    model.train()
    for step in range(4):
        answer = model(input_ids=ids, labels=labels)
        losses.append(answer.loss.item())
        if step == 0:
            kept['logits'] = answer.logits.detach().float()
        if step == 3:
            break
        optimizer.zero_grad()
        answer.loss.backward()
        if step == 0:
            kept.update({'grad.' + name: p.grad.clone() for name, p in trained.items()})
        optimizer.step()
    kept.update({'after.' + name: p.detach().clone() for name, p in trained.items()})
    save_file({name: t.contiguous() for name, t in kept.items()}, os.path.join(folder, 'run.safetensors'))
    with open(os.path.join(folder, 'run.json'), 'w') as f:
        json.dump({'losses': losses}, f)


def quantised(source, dtype, folder):
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=NF4, device_map={'': 'cpu'}, dtype=dtype)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    os.unlink(os.path.join(folder, 'generation_config.json'))
    return model


def main(out):
    source = tempfile.mkdtemp()
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1)).to(torch.bfloat16).save_pretrained(source)
    folder = os.path.join(out, 'qlora_llama_all')
    base = prepare_model_for_kbit_training(quantised(source, torch.bfloat16, os.path.join(out, 'qlora')),
                                           use_gradient_checkpointing=False)
    torch.manual_seed(2)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules='all-linear',
                                            task_type='CAUSAL_LM'))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'lora_B' in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    model.save_pretrained(os.path.join(folder, 'adapter_start'))
    ids = torch.randint(0, 96, (2, 16), generator=generator)
    labels = ids.clone()
    labels[0, :3] = -100
    train(model, ids, labels, folder)

    folder32 = os.path.join(out, 'qlora32_llama_all')
    base = quantised(source, torch.float32, os.path.join(out, 'qlora32'))
    model = PeftModel.from_pretrained(base, os.path.join(folder, 'adapter_start'), is_trainable=True)
    model.save_pretrained(os.path.join(folder32, 'adapter_start'))
    train(model, ids, labels, folder32)
    shutil.rmtree(source)


main(sys.argv[1])
