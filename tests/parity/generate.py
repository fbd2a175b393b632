#!/usr/bin/env python3
"""Writes the parity fixtures: what PyTorch computes for brim's operations, models and optimizers.

usage: generate.py OUTDIR [--dtype float64|float32] [--check]

Inputs are float32; PyTorch computes in --dtype (float64, so that the reference carries no rounding of its own),
results are rounded to float32. --check also compares the models' gradients with finite
differences and says nothing when they agree.
"""
import argparse
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

import models
from fixture import Writer, attributes, integers, values

DTYPE = torch.float64


# ---- Operations ---------------------------------------------------------------------------------------------------

class Cases:
    """Writes cases: inputs, upstream gradient, output, gradients. Every float input is a leaf with a gradient."""

    def __init__(self, writer):
        self.writer, self.stream = writer, 0

    def floats(self, *shape, scale=1.0, offset=0.0):
        self.stream += 1
        return values(self.stream, shape, scale, offset)

    def ids(self, *shape, below):
        self.stream += 1
        return integers(self.stream, shape, below)

    def add(self, kind, inputs, compute, **items):
        """compute(**inputs as tensors) -> output; items become the attribute string."""
        tensors = {}
        for name, x in inputs.items():
            t = torch.from_numpy(x.copy())
            tensors[name] = t.to(DTYPE).requires_grad_() if x.dtype == np.float32 else t.long()
        y = compute(**tensors)
        y = y.reshape(1) if y.dim() == 0 else y
        dy = self.floats(*y.shape)
        y.backward(torch.from_numpy(dy).to(DTYPE))
        self.writer.add('case', attributes(kind, **items))
        for name, x in inputs.items():
            self.writer.add(name, x)
        self.writer.add('y', y.detach().numpy())
        self.writer.add('dy', dy)
        for name, t in tensors.items():
            if t.requires_grad:
                self.writer.add('grad.' + name, t.grad.numpy())


ACTIVATIONS = {
    'identity': lambda x: x,
    'gelu': lambda x: F.gelu(x),
    'gelu_tanh': lambda x: F.gelu(x, approximate='tanh'),
    'silu': lambda x: F.silu(x),
    'relu': lambda x: F.relu(x),
}


def linear_cases(cases):
    shapes = [((1, 1), 1), ((1, 7, 3), 31), ((7, 31), 33), ((1, 1, 33), 3), ((17, 31), 1), ((2, 7, 3), 33),
              ((17, 1), 3), ((3, 17), 31), ((2, 17, 33), 7), ((1, 31), 1)]
    n = 0
    for act, function in ACTIVATIONS.items():
        for bias in (0, 1):
            for in_out in (0, 1):
                for shape, out in (shapes[n % 10], shapes[(n + 3) % 10]):
                    width = shape[-1]
                    inputs = {'x': cases.floats(*shape),
                              'weight': cases.floats(*((width, out) if in_out else (out, width)))}
                    if bias:
                        inputs['bias'] = cases.floats(out)

                    def compute(x, weight, bias=None):
                        y = x @ (weight if in_out else weight.t())
                        return function(y if bias is None else y + bias)
                    cases.add('linear', inputs, compute, act=act, bias=bias, in_out=in_out)
                n += 1


def embedding_cases(cases):
    for shape, vocab, width in (((1,), 1, 1), ((2, 7), 33, 3), ((1, 17), 3, 31), ((7,), 1, 33), ((3, 17), 31, 1)):
        inputs = {'ids': cases.ids(*shape, below=vocab), 'table': cases.floats(vocab, width)}
        cases.add('embedding', inputs, lambda ids, table: F.embedding(ids, table))
    for batch, seq, rows, positions, width in ((1, 1, 1, 1, 1), (3, 7, 7, 9, 31), (2, 17, 17, 17, 3), (1, 31, 31, 33, 1),
                                               (3, 7, 1, 2, 31), (2, 17, 1, 1, 33)):
        cases.add('add_rows', {'x': cases.floats(batch, seq, width), 'table': cases.floats(positions, width)},
                  lambda x, table: (x.reshape(-1, rows, width) + table[:rows]).reshape(x.shape), rows=rows)


def norm_cases(cases):
    for shape, eps, offset in (((1, 1), 1.0, 0.0), ((1, 3), 1e-12, 0.0), ((7, 31), 1e-5, 0.0),
                               ((2, 17, 33), 1e-12, 0.0), ((17, 1), 1.0, 0.0), ((3, 7, 31), 1e-5, 4.0)):
        width = shape[-1]
        x = cases.floats(*shape, offset=offset)
        weight, bias = cases.floats(width, scale=0.5, offset=1.0), cases.floats(width)
        cases.add('layer_norm', {'x': x, 'weight': weight, 'bias': bias},
                  lambda x, weight, bias: F.layer_norm(x, (width,), weight, bias, eps), eps=eps)
        cases.add('rms_norm', {'x': x, 'weight': weight},
                  lambda x, weight: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight, eps=eps)


def elementwise_cases(cases):
    special = np.array([0, -0.0, 1e-6, -1e-6, 8, -8, 30, -30, 100, -100, 1, -1], np.float32)
    for name in ('gelu', 'gelu_tanh', 'silu', 'relu'):
        for shape in ((1,), (1, 31), (7, 33), (2, 17, 3)):
            x = cases.floats(*shape, scale=6.0)
            if x.size > 60:
                x.reshape(-1)[:special.size] = special
            cases.add(name, {'x': x}, ACTIVATIONS[name])
    for shape in ((1,), (7, 31), (2, 17, 3)):
        gate, up = cases.floats(*shape, scale=6.0), cases.floats(*shape)
        cases.add('swiglu', {'gate': gate, 'up': up}, lambda gate, up: F.silu(gate) * up)
    for shape in ((1,), (1, 33), (2, 7, 31)):
        a, b = cases.floats(*shape), cases.floats(*shape)
        cases.add('add', {'a': a, 'b': b}, lambda a, b: a + b, same=0)
        cases.add('mul', {'a': a, 'b': b}, lambda a, b: a * b, same=0)
        cases.add('add', {'a': a}, lambda a: a + a, same=1)
        cases.add('mul', {'a': a}, lambda a: a * a, same=1)
        cases.add('scale', {'x': a}, lambda x: x * -0.37, factor=-0.37)
        cases.add('sum', {'x': a}, lambda x: x.sum())
        cases.add('mean', {'x': a}, lambda x: x.mean())


def tanh_cases(cases):
    for shape in ((1,), (7, 33), (2, 17, 3)):
        x = cases.floats(*shape, scale=6.0)
        if x.size > 60:
            x.reshape(-1)[:12] = [0, -0.0, 1e-6, -1e-6, 8, -8, 30, -30, 100, -100, 1, -1]
        cases.add('tanh', {'x': x}, torch.tanh)
    cases.add('linear', {'x': cases.floats(7, 31), 'weight': cases.floats(5, 31), 'bias': cases.floats(5)},
              lambda x, weight, bias: torch.tanh(F.linear(x, weight, bias)), act='tanh', bias=1, in_out=0)


def gated_cases(cases):
    """Phi-3's and ModernBERT's order: what is activated comes first; and Gemma 2's caps."""
    acts = {name: ACTIVATIONS[name] for name in ('gelu', 'gelu_tanh', 'silu', 'relu')}
    for (act, function), shape in zip(acts.items(), ((7, 31), (2, 17, 3), (1, 33), (1,))):
        def compute(gate_up):
            gate, up = gate_up.chunk(2, dim=-1)
            return function(gate) * up
        cases.add('gated', {'gate': cases.floats(*shape, scale=6.0), 'up': cases.floats(*shape)},
                  lambda gate, up: function(gate) * up, act=act)
        cases.add('gated_packed', {'gate_up': cases.floats(*shape[:-1], 2 * shape[-1], scale=6.0)}, compute, act=act)
    for cap in (30.0, 0.5, 4.0):
        cases.add('softcap', {'x': cases.floats(7, 33, scale=6.0)}, lambda x: cap * torch.tanh(x / cap), cap=cap)
        logits, labels = cases.floats(7, 31, scale=9.0), cases.ids(7, below=31)
        labels[2] = -100
        cases.add('cross_entropy', {'logits': logits, 'labels': labels},
                  lambda logits, labels: 0.25 * F.cross_entropy(cap * torch.tanh(logits / cap), labels,
                                                                reduction='sum'),
                  ignore_index=-100, scale=0.25, softcap=cap)


def rope_cases(cases):
    for batch, seq, heads, head_dim, theta in ((1, 1, 1, 2, 10000.0), (2, 7, 3, 6, 10000.0), (1, 17, 2, 10, 500000.0),
                                               (1, 31, 1, 8, 10000.0)):
        def compute(x):
            cos, sin = models.rope_tables(seq, head_dim, theta, DTYPE)
            return models.heads_last(models.rope(models.heads_first(x, heads), cos, sin))
        cases.add('rope', {'x': cases.floats(batch, seq, heads * head_dim)}, compute, heads=heads, theta=theta)


def attention(q, k, v, mask, heads, kv_heads, causal, window=0, scale=0.0, softcap=0.0):
    """(B, T, heads*D) …; a row with no key left is zero. Windows and caps as transformers has them (masking_utils.py,
    Gemma 2)."""
    b, t, c = q.shape
    q, k, v = models.heads_first(q, heads), models.heads_first(k, kv_heads), models.heads_first(v, kv_heads)
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    allowed = torch.ones(b, 1, t, t, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    if window:
        ahead = torch.arange(t)[None, :] - torch.arange(t)[:, None]
        allowed = allowed & (ahead > -window if causal else ahead.abs() <= window // 2)
    if mask is not None:
        allowed = allowed & (mask[:, None, None, :] != 0)
    scores = q @ k.transpose(-1, -2) * (scale or 1 / math.sqrt(c // heads))
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    probs = scores.masked_fill(~allowed, -1e30).softmax(-1) * allowed
    return models.heads_last(probs @ v)


def attention_cases(cases):
    shapes = [  # batch, seq, heads, kv_heads, head_dim
        (1, 1, 1, 1, 1), (1, 7, 3, 3, 5), (2, 7, 6, 2, 8), (1, 17, 6, 2, 5), (2, 17, 3, 3, 8), (1, 5, 1, 1, 33)]
    plans = [(shape, causal, mask) for shape in shapes for causal in (0, 1) for mask in (0, 1)]
    plans += [((1, 131, 1, 1, 3), causal, mask) for causal, mask in ((0, 0), (1, 0), (1, 1))]  # several tiles
    for (batch, seq, heads, kv_heads, head_dim), causal, masked in plans:
        c, kv = heads * head_dim, kv_heads * head_dim
        inputs = {'q': cases.floats(batch, seq, c, scale=2.0), 'k': cases.floats(batch, seq, kv, scale=2.0),
                  'v': cases.floats(batch, seq, kv)}
        mask = None
        if masked:
            mask = (cases.ids(batch, seq, below=4) > 0).astype(np.int32)
            mask[0, :2] = 0  # causal rows 0 and 1 of sample 0 have no key left
            if batch > 1:
                mask[1, seq // 2:] = 0
        items = dict(heads=heads, kv_heads=kv_heads, causal=causal, mask=masked)

        def run(q, k, v, mask=None):
            return attention(q, k, v, mask, heads, kv_heads, causal)

        def run_packed(qkv, mask=None):
            return run(*qkv.chunk(3, -1), mask)
        extra = {} if mask is None else {'mask': mask}
        cases.add('attention', {**inputs, **extra}, run, **items, same=0)
        if heads == kv_heads and seq < 100:
            qkv = np.concatenate((inputs['q'], inputs['k'], inputs['v']), -1)
            cases.add('attention_packed', {'qkv': qkv, **extra}, run_packed, **items)
    cases.add('attention', {'q': cases.floats(2, 7, 15)}, lambda q: attention(q, q, q, None, 3, 3, True),
              heads=3, kv_heads=3, causal=1, mask=0, same=1)


def window_cases(cases):
    for batch, seq, heads, kv_heads, head_dim, causal, window, scale, softcap in (
            (2, 7, 4, 2, 5, 1, 3, 0.0, 0.0), (1, 17, 3, 1, 8, 0, 6, 0.0, 0.0), (1, 17, 2, 2, 4, 1, 2, 0.3, 0.0),
            (1, 9, 2, 1, 4, 1, 0, 0.0, 1.5), (1, 131, 1, 1, 3, 1, 65, 0.0, 2.0), (1, 131, 2, 1, 3, 0, 64, 0.0, 0.0)):
        c, kv = heads * head_dim, kv_heads * head_dim
        items = dict(heads=heads, kv_heads=kv_heads, causal=causal, mask=0, window=window, scale=scale, softcap=softcap)

        def run(q, k, v):
            return attention(q, k, v, None, heads, kv_heads, causal, window, scale, softcap)

        def run_packed(qkv):
            return run(*qkv.split((c, kv, kv), -1))
        cases.add('attention', {'q': cases.floats(batch, seq, c, scale=2.0), 'k': cases.floats(batch, seq, kv, scale=2.0),
                                'v': cases.floats(batch, seq, kv)}, run, **items, same=0)
        if seq < 100:
            cases.add('attention_packed', {'qkv': cases.floats(batch, seq, c + 2 * kv, scale=1.5)}, run_packed, **items)


def cross_entropy_cases(cases):
    for shape, classes, ignore, ignored, scale, spread in (
            ((1,), 1, -100, 0, 1.0, 1.0), ((7,), 31, -100, 3, 0.25, 1.0), ((2, 7), 33, -100, 5, 0.1, 60.0),
            ((17,), 3, -1, 2, 1.0, 1.0), ((1, 17), 33, 2, 0, 0.0625, 5.0), ((3,), 31, -100, 3, 1.0, 1.0)):
        logits, labels = cases.floats(*shape, classes, scale=spread), cases.ids(*shape, below=classes)
        if ignored:
            labels.reshape(-1)[::-1][:2 * ignored:2][:ignored] = ignore
        if ignored == labels.size:
            labels[:] = ignore

        def compute(logits, labels):
            return scale * F.cross_entropy(logits.reshape(-1, classes), labels.reshape(-1), ignore_index=ignore,
                                           reduction='sum')
        cases.add('cross_entropy', {'logits': logits, 'labels': labels}, compute, ignore_index=ignore, scale=scale)


def parts_cases(cases):
    """Rotary positions of parts of heads, of neighbours, beside columns that pass; RMS norms by 1 + weight."""
    for batch, seq, heads, head_dim, width, behind, beside in ((1, 7, 2, 6, 4, 0, 0), (2, 17, 3, 8, 8, 5, 0),
                                                               (1, 31, 2, 10, 6, 3, 1), (2, 7, 1, 8, 8, 0, 1)):
        def compute(x):
            cos, sin = models.rope_tables(seq, width, 10000.0, DTYPE)
            own = x[..., :heads * head_dim].reshape(batch, seq, heads, head_dim)
            order = torch.arange(width)
            if beside:
                order = order.reshape(-1, 2).T.reshape(-1)
            turned = models.rope(own[..., order].transpose(1, 2), cos, sin).transpose(1, 2)[..., order.argsort()]
            own = torch.cat((turned, own[..., width:]), -1).reshape(batch, seq, -1)
            return torch.cat((own, x[..., heads * head_dim:]), -1)
        cases.add('rope', {'x': cases.floats(batch, seq, heads * head_dim + behind)}, compute, heads=heads,
                  theta=10000.0, head_dim=head_dim, rotary_dim=width, interleaved=beside)
    for shape in ((1, 3), (7, 31), (2, 17, 33)):
        x, weight = cases.floats(*shape), cases.floats(shape[-1], scale=0.5)
        cases.add('rms_norm', {'x': x, 'weight': weight},
                  lambda x, weight: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + weight),
                  eps=1e-6, plus=1)


def gate_rows_cases(cases):
    for shape in ((1, 1), (7, 31), (2, 17, 33)):
        gate = cases.floats(*shape[:-1], 1, scale=6.0)
        special = np.array([0.0, -0.0, 30.0, -30.0, 100.0, -100.0], np.float32)[:gate.size // 2]
        gate.reshape(-1)[:special.size] = special
        cases.add('gate_rows', {'x': cases.floats(*shape), 'gate': gate}, lambda x, gate: x * torch.sigmoid(gate))


def mean_tokens_cases(cases):
    for batch, seq, width, masked in ((1, 1, 1, 0), (2, 7, 31, 0), (3, 5, 17, 1), (2, 17, 33, 1)):
        inputs = {'x': cases.floats(batch, seq, width)}
        if masked:
            inputs['mask'] = cases.ids(batch, seq, below=2)
            inputs['mask'][:, 0] = 1

        def compute(x, mask=None):
            if mask is None:
                return x.mean(1)
            return (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        cases.add('mean_tokens', inputs, compute, masked=masked)


def write_ops(path):
    writer = Writer(path)
    cases = Cases(writer)
    for group in (linear_cases, embedding_cases, norm_cases, elementwise_cases, rope_cases, attention_cases,
                  window_cases, cross_entropy_cases, tanh_cases, gated_cases, parts_cases,
                  gate_rows_cases, mean_tokens_cases):
        group(cases)
    writer.write()


# ---- Models -------------------------------------------------------------------------------------------------------

def set_weights(model):
    """Parameter p, element i: the formula of README.md; norm weights (1-D, named .weight) are 1 + value."""
    with torch.no_grad():
        for p, (name, parameter) in enumerate(model.named_parameters()):
            norm = parameter.dim() == 1 and name.endswith('.weight')
            parameter.copy_(torch.from_numpy(values(p, parameter.shape, 0.1, 1.0 if norm else 0.0)))


def some_ignored(labels, stream, keep_one_in):
    """All labels but about one in keep_one_in become -100."""
    return np.where(integers(stream, labels.shape, keep_one_in) == 0, labels, models.IGNORE).astype(np.int32)


def model_cases():
    """name, config, model, inputs (arrays, passed by name), labels"""
    config = dict(sizes='31-17-24-10')
    model = models.MLP([31, 17, 24, 10])
    yield 'mlp', config, model, {'features': values(1000, (9, 31))}, np.where(
        np.arange(9) == 4, models.IGNORE, integers(1001, (9,), 10)).astype(np.int32)

    config = dict(vocab=67, dim=24, layers=2, heads=3, ffn=40, max_seq=20, types=2, norm_eps=1e-12)
    ids = integers(1000, (3, 11), 67)
    mask = np.ones((3, 11), np.int32)
    mask[1, 7:] = 0
    mask[2, 1:] = 0
    types = (np.arange(11) >= np.array([[4], [3], [11]])).astype(np.int32)
    labels = np.where(mask, some_ignored(integers(1001, (3, 11), 67), 1002, 3), models.IGNORE).astype(np.int32)
    yield 'bert', config, models.BertForMaskedLM(**config), {'ids': ids, 'types': types, 'mask': mask}, labels

    config = dict(vocab=61, dim=24, layers=2, heads=3, ffn=80, max_seq=16, norm_eps=1e-5)
    labels = integers(1001, (2, 13), 61)
    labels[:, -1] = models.IGNORE
    labels[0, 3:5] = models.IGNORE
    yield 'gpt2', config, models.GPT2LMHeadModel(**config), {'ids': integers(1000, (2, 13), 61)}, labels

    config = dict(vocab=59, dim=32, layers=2, heads=4, kv_heads=4, hidden=44, norm_eps=1e-5, rope_theta=10000.0, tied=0)
    labels = integers(1001, (2, 17), 59)
    labels[:, -1] = models.IGNORE
    yield 'llama', config, models.LlamaForCausalLM(**config), {'ids': integers(1000, (2, 17), 59)}, labels

    config = dict(vocab=53, dim=48, layers=3, heads=6, kv_heads=2, hidden=40, norm_eps=1e-6,
                  rope_theta=500000.0, tied=1)
    labels = some_ignored(integers(1001, (1, 19), 53), 1002, 2)
    yield 'llama_gqa_tied', config, models.LlamaForCausalLM(**config), {'ids': integers(1000, (1, 19), 53)}, labels

    config = dict(vocab=31, dim=20, layers=1, heads=2, kv_heads=1, head_dim=6, hidden=33, norm_eps=1e-5,
                  rope_theta=10000.0, tied=0)
    labels = integers(1001, (2, 5), 31)
    yield 'llama_head_dim', config, models.LlamaForCausalLM(**config), {'ids': integers(1000, (2, 5), 31)}, labels

    config = dict(vocab=37, dim=24, layers=2, heads=6, kv_heads=2, hidden=36, norm_eps=1e-6,
                  rope_theta=1000000.0, tied=1, qkv_bias=1)
    labels = some_ignored(integers(1001, (2, 9), 37), 1002, 2)
    yield 'llama_qwen2', config, models.LlamaForCausalLM(**config), {'ids': integers(1000, (2, 9), 37)}, labels

    config = dict(vocab=29, dim=16, layers=1, heads=4, kv_heads=2, hidden=20, norm_eps=1e-5,
                  rope_theta=10000.0, tied=0, qkv_bias=1, o_bias=1, mlp_bias=1)
    labels = integers(1001, (2, 7), 29)
    yield 'llama_biases', config, models.LlamaForCausalLM(**config), {'ids': integers(1000, (2, 7), 29)}, labels


def check_gradients(name, model, loss):
    """A step along the gradient and back changes the loss by what the gradient says; so does each parameter alone."""
    parameters = list(model.named_parameters())
    for which in [parameters] + [[one] for one in parameters]:
        expected = sum(float(p.grad.pow(2).sum()) for _, p in which)
        h = 1e-6 / max(math.sqrt(expected), 1e-12)
        change = []
        for sign in (1, -1):
            with torch.no_grad():
                for _, p in which:
                    p.add_(p.grad, alpha=sign * h)
                change.append(float(loss()))
                for _, p in which:
                    p.sub_(p.grad, alpha=sign * h)
        measured = (change[0] - change[1]) / (2 * h)
        if abs(measured - expected) > 1e-5 * expected + 1e-12:
            sys.exit(f'{name}: {which[0][0]}: gradient {expected:g}, finite difference {measured:g}')


def write_models(folder, check):
    for name, config, model, inputs, labels in model_cases():
        model.to(DTYPE)
        set_weights(model)
        arguments = [torch.from_numpy(x).to(DTYPE) if x.dtype == np.float32 else torch.from_numpy(x).long()
                     for x in inputs.values()]
        target = torch.from_numpy(labels).long()
        logits = model(*arguments)
        loss = models.loss_of(logits, target)
        loss.backward()
        writer = Writer(os.path.join(folder, f'model_{name}.bin'))
        writer.add('config', attributes(name.split('_')[0], **config))
        for key, x in {**inputs, 'labels': labels}.items():
            writer.add(key, x)
        writer.add('logits', logits.detach().numpy())
        writer.add('loss', loss.detach().numpy())
        for key, parameter in model.named_parameters():
            writer.add('grad.' + key, parameter.grad.numpy())
        writer.write()
        if check:
            check_gradients(name, model, lambda: models.loss_of(model(*arguments), target))


# ---- Optimizers ---------------------------------------------------------------------------------------------------

STEPS, SHAPES = 20, ((33,), (7, 5))


def rate(kind, step, warmup, total, min_ratio):
    """What the learning rate is multiplied by at step 0, 1, …; after the warm-up, progress runs from 0 to 1."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    shape = {'constant': 1.0, 'linear': 1 - progress, 'cosine': 0.5 * (1 + math.cos(math.pi * progress))}[kind]
    return min_ratio + (1 - min_ratio) * shape


TORCH = {'sgd': torch.optim.SGD, 'rmsprop': torch.optim.RMSprop, 'adagrad': torch.optim.Adagrad,
         'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}
MOMENTUM = dict(lr=0.1, momentum=0.9)
NESTEROV = dict(lr=0.1, momentum=0.9, nesterov=1, weight_decay=0.05, decay_all=1)
ADAM = dict(lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8)
ADAMW = dict(**ADAM, weight_decay=0.1, decay_all=1)
ODD = dict(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.5, decay_all=1)

# Options are those of optim.h. decay_all 0: weight decay spares 1-dimensional parameters. group 1: the second parameter
# has a learning rate and a weight decay of its own.
OPTIMIZERS = [
    ('sgd', dict(lr=0.1)),
    ('sgd', dict(lr=0.1, weight_decay=0.05, decay_all=1)),
    ('sgd', MOMENTUM),
    ('sgd', NESTEROV),
    ('sgd', dict(MOMENTUM, dampening=0.3)),
    ('rmsprop', dict(lr=0.01, alpha=0.99, eps=1e-8)),
    ('rmsprop', dict(lr=0.01, alpha=0.9, eps=1e-6, momentum=0.9, weight_decay=0.05, decay_all=1)),
    ('adagrad', dict(lr=0.1)),
    ('adagrad', dict(lr=0.1, eps=1e-3, weight_decay=0.05, decay_all=1, clip=2.0)),
    ('adam', ADAM),
    ('adam', dict(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-8, weight_decay=0.1, decay_all=1)),
    ('adamw', ADAMW),
    ('adamw', ODD),
    ('adamw', dict(ADAMW, clip=1.0)),
    ('adamw', dict(ADAMW, clip=1000.0)),
    ('sgd', dict(NESTEROV, clip=0.5)),
    ('adamw', dict(ADAMW, schedule='cosine', warmup=0, total=20, min_ratio=0.0)),
    ('adamw', dict(ADAMW, schedule='cosine', warmup=5, total=16, min_ratio=0.1)),
    ('sgd', dict(MOMENTUM, schedule='linear', warmup=5, total=20, min_ratio=0.0)),
    ('adamw', dict(ADAMW, schedule='constant', warmup=5, total=0, min_ratio=0.0)),
    ('adamw', dict(ADAMW, decay_all=0)),
    ('sgd', dict(NESTEROV, decay_all=0)),
    ('adamw', dict(ADAMW, group=1, group_lr_scale=1.0, group_weight_decay=0.0)),
    ('sgd', dict(NESTEROV, group=1, group_lr_scale=0.5, group_weight_decay=0.2)),
    ('adamw', dict(ODD, clip=1.0, schedule='cosine', warmup=5, total=20, min_ratio=0.0, group=1, group_lr_scale=0.5,
                   group_weight_decay=0.0)),
]


def optimizer_gradient(step, p):
    """Of parameter p (0, 1) at step 0, 1, …"""
    return values(len(SHAPES) * (step + 1) + p, SHAPES[p])


def torch_optimizer(kind, parameters, options):
    """Built from options of optim.h, which this empties of what the constructor takes."""
    decay_all = options.pop('decay_all', 1)
    groups = [{'params': [p]} for p in parameters]
    if not decay_all:
        groups[0]['weight_decay'] = 0.0
    if options.pop('group', 0):
        groups[1]['lr'] = options['lr'] * options.pop('group_lr_scale')
        groups[1]['weight_decay'] = options.pop('group_weight_decay')
    if 'beta1' in options:
        options['betas'] = (options.pop('beta1'), options.pop('beta2'))
    if 'nesterov' in options:
        options['nesterov'] = bool(options['nesterov'])
    return TORCH[kind](groups, **options)


def trajectory(kind, options):
    """Parameter values after each step (STEPS, numel), learning rates of parameter 0, norms before clipping."""
    options = dict(options)
    clip, schedule = options.pop('clip', 0), options.pop('schedule', None)
    shape = [options.pop(key, 0) for key in ('warmup', 'total', 'min_ratio')]
    parameters = [torch.from_numpy(values(p, dims)).to(DTYPE).requires_grad_() for p, dims in enumerate(SHAPES)]
    optimizer = torch_optimizer(kind, parameters, options)
    scheduler = schedule and torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(schedule, step, *shape))
    after, rates, norms = [], [], []
    for step in range(STEPS):
        for p, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(optimizer_gradient(step, p)).to(DTYPE)
        if clip:
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, clip)))
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        if scheduler:
            scheduler.step()
        after.append(np.concatenate([p.detach().numpy().reshape(-1) for p in parameters]))
    return np.stack(after), np.array(rates), np.array(norms)


def write_optimizers(path):
    writer = Writer(path)
    writer.add('initial.0', values(0, SHAPES[0]))
    writer.add('initial.1', values(1, SHAPES[1]))
    writer.add('gradients', np.stack([np.concatenate([optimizer_gradient(step, p).reshape(-1) for p in (0, 1)])
                                      for step in range(STEPS)]))
    for kind, options in OPTIMIZERS:
        after, rates, norms = trajectory(kind, options)
        writer.add('case', attributes(kind, **options))
        writer.add('parameters', after)
        writer.add('lr', rates)
        if norms.size:
            writer.add('norm', norms)
    writer.write()


def main():
    global DTYPE
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('outdir')
    parser.add_argument('--dtype', choices=('float64', 'float32'), default='float64')
    parser.add_argument('--check', action='store_true')
    options = parser.parse_args()
    if options.check and options.dtype == 'float32':
        parser.error('--check needs float64')
    DTYPE = getattr(torch, options.dtype)
    torch.set_num_threads(1)
    os.makedirs(options.outdir, exist_ok=True)
    write_ops(os.path.join(options.outdir, 'ops.bin'))
    write_models(options.outdir, options.check)
    write_optimizers(os.path.join(options.outdir, 'optim.bin'))


if __name__ == '__main__':
    main()
