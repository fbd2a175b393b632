#!/usr/bin/env python3
"""PEFT's side of the adapter benchmark: LoRA training steps on transformers' Llama with a bf16 base.

usage: peft_bench.py VOCAB,DIM,LAYERS,HEADS,HIDDEN [--batch N] [--seq N] [--rank 16] [--dropout 0] [--attn sdpa]
                     [--threads 2]

Prints a JSON line that says what runs. Then "step N" over stdin runs N steps and answers {"ms": [one a step], "loss":
last, "rss_peak_growth_mib": X}; "quit" ends. A step is forward, loss, backward, AdamW, zero_grad(set_to_none=True), all
on one fixed batch. Adapters are on every linear layer but the head, in fp32 (PEFT's default on a bf16 base).
rss_peak_growth_mib is the process's highest resident size so far less that after model, adapters and optimizer (without
states yet) were made. Whoever starts this sets the environment, as for torch_bench.py.
"""
import argparse
import gc
import json
import os
import sys
import time

os.environ.setdefault('HF_HUB_OFFLINE', '1')
import peft
import torch
import transformers

sys.dont_write_bytecode = True
from torch_bench import answer, reset_peak, resident_kib  # noqa: E402


class Bench:
    def __init__(self, o):
        vocab, dim, layers, heads, hidden = (int(n) for n in o.sizes.split(','))
        config = transformers.LlamaConfig(
            vocab_size=vocab, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=hidden, max_position_embeddings=max(2048, o.seq), use_cache=False)
        config._attn_implementation = o.attn
        torch.manual_seed(1)
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
        lora = peft.LoraConfig(r=o.rank, lora_alpha=2 * o.rank, lora_dropout=o.dropout,
                               target_modules='all-linear', task_type='CAUSAL_LM')
        self.model = peft.get_peft_model(model, lora).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trained, self.types = sum(p.numel() for p in trained), sorted({str(p.dtype) for p in trained})
        self.optimizer = torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.1)
        self.tokens = torch.randint(vocab, (o.batch, o.seq))
        self.loss = None
        gc.collect()
        reset_peak()
        self.start_kib = resident_kib('VmRSS')

    def step(self):
        loss = self.model(input_ids=self.tokens, labels=self.tokens).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.item()

    def run(self, steps):
        ms = []
        for _ in range(steps):
            begin = time.perf_counter()
            self.step()
            ms.append(round((time.perf_counter() - begin) * 1e3, 3))
        growth = (resident_kib('VmHWM') - self.start_kib) / 1024
        answer({'ms': ms, 'loss': self.loss, 'rss_peak_growth_mib': round(growth, 2)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('sizes')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--seq', type=int, default=256)
    parser.add_argument('--rank', type=int, default=16)
    parser.add_argument('--dropout', type=float, default=0)
    parser.add_argument('--attn', default='sdpa', choices=('eager', 'sdpa'))
    parser.add_argument('--threads', type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    answer({'torch': torch.__version__, 'transformers': transformers.__version__, 'peft': peft.__version__,
            'trained': bench.trained, 'types': bench.types, 'attn': options.attn})
    for line in sys.stdin:
        words = line.split()
        if words == ['quit']:
            break
        if len(words) == 2 and words[0] == 'step' and words[1].isdigit():
            bench.run(int(words[1]))
        elif words:
            answer({'error': 'expected "step N" or "quit"'})


if __name__ == '__main__':
    main()
