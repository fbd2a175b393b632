#!/usr/bin/env python3
"""PyTorch's side of bench/attention: one causal attention in fp32, forward and backward.

usage: torch_attention.py THREADS WINDOW HEADS SIZE

Prints a JSON line that says what runs, then answers lines of stdin, "KIND TOKENS": {"ms": of one}. KIND: all, by
scaled_dot_product_attention; mask, the same with the window as a mask of tokens x tokens; flex, by flex_attention,
compiled, whose block mask leaves out blocks that no query sees: {} where that does not work.
"""
import json
import logging
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


class Attention:
    def __init__(self, window, heads, size):
        self.window, self.heads, self.size = window, heads, size
        self.masks, self.no_flex, self.flex = {}, None, None
        logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)  # that there is no GPU
        try:
            self.flex = torch.compile(flex_attention)
            self.step('flex', 512)
        except Exception as error:
            self.flex, self.no_flex = None, str(error).strip().split('\n')[0][:80]

    def mask(self, kind, tokens):
        """What says which keys are seen; made once."""
        if (kind, tokens) not in self.masks:
            def sees(b, h, q, k):
                return (k <= q) & (k > q - self.window)
            at = torch.arange(tokens)
            self.masks[kind, tokens] = (sees(0, 0, at[:, None], at[None, :]) if kind == 'mask' else
                                        create_block_mask(sees, None, None, tokens, tokens, device='cpu'))
        return self.masks[kind, tokens]

    def forward(self, kind, q, k, v):
        if kind == 'all':
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mask = self.mask(kind, q.shape[2])
        if kind == 'mask':
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.flex(q, k, v, block_mask=mask)

    def step(self, kind, tokens):
        q, k, v, gradient = (torch.randn(1, self.heads, tokens, self.size) for _ in range(4))
        for x in (q, k, v):
            x.requires_grad_()
        if kind != 'all':
            self.mask(kind, tokens)
        begin = time.perf_counter()
        self.forward(kind, q, k, v).backward(gradient)
        return 1e3 * (time.perf_counter() - begin)


def answer(line):
    print(json.dumps(line), flush=True)


def main():
    threads, window, heads, size = (int(word) for word in sys.argv[1:])
    torch.set_num_threads(threads)
    attention = Attention(window, heads, size)
    answer({'torch': torch.__version__, 'threads': torch.get_num_threads(), 'no_flex': attention.no_flex})
    for line in sys.stdin:
        kind, tokens = line.split()
        answer({} if kind == 'flex' and not attention.flex else {'ms': attention.step(kind, int(tokens))})


if __name__ == '__main__':
    main()
