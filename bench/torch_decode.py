#!/usr/bin/env python3
"""PyTorch's side of bench/decode: transformers' models, random weights in fp32, writing token by token with its cache.

usage: torch_decode.py MODEL THREADS    MODEL: gpt2, llama-3.2-1b or llama-tiny

Prints a JSON line that says what runs, then answers lines of stdin: "prefill N" reads a prompt of N tokens into an
empty cache, "step N" writes N tokens and forgets them again: {"ms": [one a token, or one in all]}. Only the logits of
the last position are computed.
"""
import json
import sys
import time

import torch
import transformers
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

MODELS = {
    'gpt2': (GPT2LMHeadModel, GPT2Config()),
    'llama-3.2-1b': (LlamaForCausalLM, LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, tie_word_embeddings=True, rope_theta=500000.0)),
    'llama-tiny': (LlamaForCausalLM, LlamaConfig(
        vocab_size=256, hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
        max_position_embeddings=4096)),
}


class Writer:
    def __init__(self, name):
        kind, config = MODELS[name]
        torch.nn.init.normal_ = lambda tensor, *a, **k: tensor.data.fill_(0.01)  # initialising takes longer than measuring
        config._attn_implementation = 'sdpa'
        self.model = kind(config).eval()
        self.vocab = config.vocab_size
        self.cache, self.token = DynamicCache(), 0

    def forward(self, ids):
        out = self.model(torch.tensor([ids]), cache=self.cache, use_cache=True, logits_to_keep=1)
        self.token = int(out.logits[0, -1].argmax())

    def prefill(self, count):
        self.cache = DynamicCache()
        begin = time.perf_counter()
        self.forward([(7 * i + 3) % self.vocab for i in range(count)])
        return [1e3 * (time.perf_counter() - begin)]

    def step(self, count):
        ms = []
        for _ in range(count):
            begin = time.perf_counter()
            self.forward([self.token])
            ms.append(1e3 * (time.perf_counter() - begin))
        self.cache.crop(-count)
        return ms


def main():
    torch.set_num_threads(int(sys.argv[2]))
    with torch.inference_mode():
        writer = Writer(sys.argv[1])
        print(json.dumps({'torch': torch.__version__, 'transformers': transformers.__version__,
                          'threads': torch.get_num_threads(), 'capability': torch.backends.cpu.get_cpu_capability(),
                          'parameters': sum(p.numel() for p in writer.model.parameters())}), flush=True)
        for line in sys.stdin:
            what, count = line.split()
            print(json.dumps({'ms': {'prefill': writer.prefill, 'step': writer.step}[what](int(count))}), flush=True)


if __name__ == '__main__':
    main()
