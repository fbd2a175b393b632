#!/usr/bin/env python3
"""PyTorch's side of the benchmark: training steps of the plain models in tests/parity/models.py, eager in fp32.

usage: torch_bench.py SHAPE [--steps N] [--threads 2] [--foreach] [--autocast] [--fused] [--sdpa] [--compile]

Prints a JSON line that says what runs. Without --steps, a driver then interleaves the sides over stdin: "step N" runs
N steps and answers {"ms": [one a step], "loss": last, "rss_peak_growth_mib": X}; "quit" ends. With --steps the answer
comes at once. A step is forward, loss, backward, AdamW, zero_grad(set_to_none=True), all on one fixed batch. --autocast:
forward and loss under torch.autocast("cpu", dtype=torch.bfloat16), weights in fp32. --sdpa: attention by
scaled_dot_product_attention. --compile: forward and loss by torch.compile, which needs a C++ compiler; where it fails,
they stay eager, and the first line says why.
rss_peak_growth_mib is the process's highest resident size so far less that after the model and the optimizer were
made. Whoever starts this sets the environment: OMP_WAIT_POLICY=passive, so that its threads sleep while another side is
measured; ATEN_CPU_CAPABILITY.
"""
import argparse
import json
import logging
import os
import re
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'parity'))
sys.dont_write_bytecode = True
import models  # noqa: E402

# class, configuration, batch, tokens a sample
SHAPES = {
    'mlp': (models.MLP, dict(sizes=[784, 512, 512, 10]), 128, 0),
    'bert-tiny': (models.BertForMaskedLM,
                  dict(vocab=8192, dim=256, layers=4, heads=4, ffn=1024, max_seq=128), 16, 128),
    'llama-tiny': (models.LlamaForCausalLM, dict(vocab=4096, dim=288, layers=6, heads=6, hidden=768), 8, 256),
    'gpt2-124m': (models.GPT2LMHeadModel, dict(vocab=50257, dim=768, layers=12, heads=12, max_seq=1024), 4, 64),
    'llama-small': (models.LlamaForCausalLM, dict(vocab=32000, dim=768, layers=12, heads=12, hidden=2048), 2, 512),
}


def batch_of(shape, generator):
    """(what the model is called with, labels)"""
    model, config, batch, seq = SHAPES[shape]
    if model is models.MLP:
        return (torch.rand(batch, config['sizes'][0], generator=generator),
                torch.randint(config['sizes'][-1], (batch,), generator=generator))
    tokens = torch.randint(config['vocab'], (batch, seq + 1), generator=generator)
    ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    if model is models.BertForMaskedLM:
        chosen = torch.rand(batch, seq, generator=generator) < 0.15
        labels = ids.masked_fill(~chosen, models.IGNORE)
    return ids, labels


def resident_kib(field):
    """VmRSS (now) or VmHWM (highest) of this process."""
    with open('/proc/self/status') as f:
        return int(re.search(rf'^{field}:\s+(\d+)', f.read(), re.M).group(1))


def reset_peak():
    with open('/proc/self/clear_refs', 'w') as f:
        f.write('5')


def products():
    """The library that serves the products, as this PyTorch was built."""
    found = re.search(r'BLAS_INFO=(\w+)', torch.__config__.show())
    return found.group(1) if found else None


def use_sdpa():
    """The models' attention is then PyTorch's own, which makes no mask of a causal one."""
    models.causal = lambda t, like: 'causal'
    models.attention = lambda q, k, v, added: F.scaled_dot_product_attention(q, k, v, is_causal=added == 'causal')


class Bench:
    def __init__(self, options):
        generator = torch.Generator().manual_seed(1)
        model, config, self.batch, self.seq = SHAPES[options.shape]
        if options.sdpa:
            use_sdpa()
        self.model = models.initialise(model(**config), seed=1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.1, foreach=options.foreach,
                                           fused=options.fused)
        self.input, self.labels = batch_of(options.shape, generator)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.loss, self.autocast = None, options.autocast
        self.forward, self.not_compiled = self.plain, None
        reset_peak()
        self.start_kib = resident_kib('VmRSS')
        if options.compile:
            self.compile()

    def plain(self):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=self.autocast):
            return models.loss_of(self.model(self.input), self.labels)

    def compile(self):
        logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)  # that there is no GPU
        self.forward = torch.compile(self.plain)
        try:
            self.forward().backward()
        except Exception as error:
            self.forward, self.not_compiled = self.plain, str(error).strip().split('\n')[0]
        self.optimizer.zero_grad(set_to_none=True)

    def step(self):
        loss = self.forward()
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


def answer(line):
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('shape', choices=SHAPES)
    parser.add_argument('--steps', type=int, default=0)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--foreach', action='store_true', default=None, help="AdamW's multi-tensor implementation")
    parser.add_argument('--autocast', action='store_true', help='bf16 by torch.autocast')
    parser.add_argument('--fused', action='store_true', default=None, help="AdamW's fused implementation")
    parser.add_argument('--sdpa', action='store_true')
    parser.add_argument('--compile', action='store_true')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    answer({'torch': torch.__version__, 'shape': options.shape, 'parameters': bench.parameters,
            'batch': bench.batch, 'seq': bench.seq, 'threads': torch.get_num_threads(),
            'cpu_capability': torch.backends.cpu.get_cpu_capability(), 'blas': products(),
            'foreach': bool(options.foreach), 'fused': bool(options.fused), 'sdpa': options.sdpa,
            'autocast': options.autocast, 'compiled': options.compile and not bench.not_compiled,
            'not_compiled': bench.not_compiled,
            'env': {key: os.environ.get(key) for key in ('OMP_WAIT_POLICY', 'ATEN_CPU_CAPABILITY')}})
    if options.steps:
        bench.run(options.steps)
        return
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
