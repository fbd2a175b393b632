#!/usr/bin/env python3
"""PyTorch's side of the benchmark of experts: forward and backward of transformers' MixtralExperts, with softmax and
top-k but without the router's product, in milliseconds, the median of some rounds. The faster of two implementations is
taken; a third, batched_mm, gathers a matrix a token (8 GB for the largest shape)."""
import argparse
import os
import time

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
import torch  # noqa: E402
from transformers import MixtralConfig  # noqa: E402
from transformers.models.mixtral.modeling_mixtral import MixtralExperts  # noqa: E402


def median_of(implementation, o, dtype):
    config = MixtralConfig(hidden_size=o.width, intermediate_size=o.hidden, num_local_experts=o.experts,
                           num_experts_per_tok=o.active, num_attention_heads=1, num_key_value_heads=1)
    config._experts_implementation = implementation
    experts = MixtralExperts(config).to(dtype)
    with torch.no_grad():
        for p in experts.parameters():
            p.uniform_(-0.1, 0.1)
    x = torch.rand(o.rows, o.width).to(dtype).requires_grad_()
    logits = torch.randn(o.rows, o.experts).requires_grad_()
    dy, times = torch.rand(o.rows, o.width).to(dtype), []
    for _ in range(o.rounds + 1):
        for p in [x, logits, *experts.parameters()]:
            p.grad = None
        begin = time.perf_counter()
        weights, index = torch.topk(torch.softmax(logits, -1), o.active, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        experts(x, index, weights.to(dtype)).backward(dy)
        times.append(1e3 * (time.perf_counter() - begin))
    return sorted(times[1:])[o.rounds // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('rows', 'width', 'hidden', 'experts', 'active', 'threads', 'rounds'):
        parser.add_argument('--' + name, type=int, required=True)
    parser.add_argument('--dtype', default='float32')
    o = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(o.threads)
    best = None
    for implementation in ('eager', 'grouped_mm'):
        try:
            took = median_of(implementation, o, getattr(torch, o.dtype))
        except (RuntimeError, NotImplementedError, ValueError, KeyError):
            continue
        best = took if best is None else min(best, took)
    print(f'{best:.3f}' if best else '')


if __name__ == '__main__':
    main()
