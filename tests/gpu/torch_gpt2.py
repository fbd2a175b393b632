#!/usr/bin/env python3
"""GPT-2 124M by PyTorch, as brim trains it: what tests/gpu/run puts beside brim's figures. Plain torch, nothing else.

usage: torch_gpt2.py [--precision fp32|tf32|bf16] [--way eager|compile] [--batch 32] [--seq 1024] [--steps 25]
                     [--device cuda|cpu] [--tiny]

Attention is scaled_dot_product_attention, the optimizer fused AdamW, bf16 is torch.autocast over fp32 weights; tf32 lets
products round their inputs. A step is forward, loss, backward, AdamW, zero_grad(set_to_none=True), on one fixed batch,
without a wait for the loss. Prints one JSON object: tokens a second by the median of the steps after the fifth (by
events of the card), peaks of the steps (max_memory_allocated, max_memory_reserved), versions and convention.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2)
                   for y in self.c_attn(self.ln_1(x)).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp_out(F.gelu(self.c_fc(self.ln_2(x)), approximate='tanh'))


class GPT2(nn.Module):
    """The head is the embedding's weight."""

    def __init__(self, vocab, width, layers, heads, positions):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(positions, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, ids, labels):
        x = self.wte(ids) + self.wpe.weight[:ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--precision', choices=('fp32', 'tf32', 'bf16'), default='bf16')
    parser.add_argument('--way', choices=('eager', 'compile'), default='eager')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--seq', type=int, default=1024)
    parser.add_argument('--steps', type=int, default=25)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--tiny', action='store_true', help='a small model and batch, to try the script')
    o = parser.parse_args()
    shape, batch, seq, steps = (50257, 768, 12, 12, 1024), o.batch, o.seq, o.steps
    if o.tiny:
        shape, batch, seq, steps = (256, 32, 2, 2, 64), 2, 16, 8
    torch.manual_seed(1)
    torch.set_float32_matmul_precision('high' if o.precision == 'tf32' else 'highest')
    card = o.device != 'cpu'
    model = GPT2(*shape).to(o.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
    tokens = torch.randint(shape[0], (batch, seq + 1), device=o.device)
    ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def loss_of():
        with torch.autocast(o.device, dtype=torch.bfloat16, enabled=o.precision == 'bf16'):
            return model(ids, labels)

    forward = torch.compile(loss_of) if o.way == 'compile' else loss_of
    begin = time.perf_counter()
    loss, marks = None, []
    for step in range(steps):
        if step == 5 and card:  # the first ones compile, and choose algorithms
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        marks.append(mark(card))
        loss = forward()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    marks.append(mark(card))
    if card:
        torch.cuda.synchronize()
        ms = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
    else:
        ms = [(b - a) * 1e3 for a, b in zip(marks, marks[1:])]
    median = statistics.median(ms[5:])
    print(json.dumps({
        'torch': torch.__version__, 'cuda': torch.version.cuda, 'card': torch.cuda.get_device_name() if card else 'cpu',
        'precision': o.precision, 'way': o.way, 'parameters': sum(p.numel() for p in model.parameters()),
        'batch': batch, 'seq': seq, 'steps': steps, 'loss': loss.item(), 'step_ms': round(median, 3),
        'tokens_per_second': round(batch * seq / median * 1e3), 'seconds_in_all': round(time.perf_counter() - begin, 1),
        'allocated_peak': torch.cuda.max_memory_allocated() if card else 0,
        'reserved_peak': torch.cuda.max_memory_reserved() if card else 0,
        'attention': 'scaled_dot_product_attention', 'optimizer': 'AdamW, fused'}))


def mark(card):
    if not card:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


if __name__ == '__main__':
    main()
