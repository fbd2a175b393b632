#!/usr/bin/env python3
"""Writes the fixture of mixtures of experts: what transformers' own blocks, MixtralSparseMoeBlock and
Qwen3MoeSparseMoeBlock, and its load_balancing_loss_func compute, and their gradients.

usage: generate_experts.py OUTDIR [--dtype float64|float32]
"""
import argparse
import os

import numpy as np
import torch
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from fixture import Writer, attributes, integers, values

# batch, seq, width, hidden, experts, of a token, normalised; the experts of Mixtral always are
BLOCKS = [('mixtral', 1, 1, 8, 4, 4, 2, 1), ('mixtral', 2, 7, 17, 13, 5, 2, 1), ('mixtral', 1, 33, 16, 10, 8, 2, 1),
          ('mixtral', 1, 5, 3, 2, 3, 3, 1), ('qwen3', 2, 7, 17, 13, 5, 2, 0), ('qwen3', 1, 31, 12, 6, 16, 8, 1),
          ('qwen3', 3, 5, 7, 9, 4, 1, 0), ('qwen3', 3, 5, 7, 9, 4, 3, 1)]
# layers, batch, seq, experts, of a token, masked
BALANCES = [(1, 1, 1, 4, 2, 0), (2, 2, 7, 5, 2, 0), (3, 2, 9, 8, 3, 1), (2, 3, 5, 4, 3, 1), (1, 1, 31, 16, 1, 0)]


class Streams:
    def __init__(self, dtype):
        self.stream, self.dtype = 0, dtype

    def floats(self, *shape, scale=1.0):
        self.stream += 1
        return values(self.stream, shape, scale, 0.0)

    def tensor(self, x):
        return torch.from_numpy(x.copy()).to(self.dtype).requires_grad_()


def block_of(kind, width, hidden, experts, active, normalised):
    if kind == 'mixtral':
        config = MixtralConfig(hidden_size=width, intermediate_size=hidden, num_local_experts=experts,
                               num_experts_per_tok=active, num_attention_heads=1, num_key_value_heads=1)
        block = MixtralSparseMoeBlock
    else:
        config = Qwen3MoeConfig(hidden_size=width, moe_intermediate_size=hidden, num_experts=experts,
                                num_experts_per_tok=active, norm_topk_prob=bool(normalised), num_attention_heads=1,
                                num_key_value_heads=1)
        block = Qwen3MoeSparseMoeBlock
    config._experts_implementation = 'eager'
    return block(config)


def write_block(writer, streams, kind, batch, seq, width, hidden, experts, active, normalised):
    arrays = {'x': streams.floats(batch, seq, width), 'router': streams.floats(experts, width),
              'gate_up': streams.floats(experts, 2 * hidden, width), 'down': streams.floats(experts, width, hidden)}
    block = block_of(kind, width, hidden, experts, active, normalised).to(streams.dtype)
    x = streams.tensor(arrays['x'])
    parameters = {'router': block.gate.weight, 'gate_up': block.experts.gate_up_proj, 'down': block.experts.down_proj}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(arrays[name]))
    y = block(x)
    dy = streams.floats(batch, seq, width)
    y.backward(torch.from_numpy(dy).to(streams.dtype))
    writer.add('case', attributes('block', of=kind, active=active, normalise=normalised))
    for name, array in arrays.items():
        writer.add(name, array)
    writer.add('y', y.detach().numpy())
    writer.add('dy', dy)
    writer.add('grad.x', x.grad.numpy())
    for name, parameter in parameters.items():
        writer.add('grad.' + name, parameter.grad.numpy())


def write_balance(writer, streams, layers, batch, seq, experts, active, masked):
    logits = streams.floats(layers, batch * seq, experts, scale=3.0)
    tensors = [streams.tensor(layer) for layer in logits]
    streams.stream += 1
    mask = integers(streams.stream, (batch, seq), 3) > 0
    loss = load_balancing_loss_func(tuple(tensors), experts, active, torch.from_numpy(mask) if masked else None)
    loss.backward()
    writer.add('case', attributes('balance', active=active, masked=masked))
    writer.add('logits', logits)
    writer.add('mask', mask.astype(np.int32))
    writer.add('y', loss.detach().numpy().reshape(1))
    writer.add('grad.logits', np.stack([t.grad.numpy() for t in tensors]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('outdir')
    parser.add_argument('--dtype', choices=('float64', 'float32'), default='float64')
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(options.outdir, exist_ok=True)
    writer, streams = Writer(os.path.join(options.outdir, 'experts.bin')), Streams(getattr(torch, options.dtype))
    for block in BLOCKS:
        write_block(writer, streams, *block)
    for balance in BALANCES:
        write_balance(writer, streams, *balance)
    writer.write()


if __name__ == '__main__':
    main()
