#!/usr/bin/env python3
"""What bitsandbytes 0.50 makes of matrices in NF4 (with and without double quantisation) and int8: packed codes,
scales and decoded values, which tests/test_quantize.c compares bit for bit. Also its code books.

    python3 tests/precision/quantize.py     writes tests/precision/fixtures/quantize.safetensors

Needs torch and bitsandbytes (tools/python-env makes such an environment). Codes of double quantised scales are
not compared: bitsandbytes' 8-bit quantiser on the CPU does not take the nearest code."""
import pathlib

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
out = {}


def put(case, **tensors):
    out.update({f"{case}.{name}": tensor.contiguous() for name, tensor in tensors.items()})


def matrix(shape, dtype):
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(17)) * 0.05
    weights[0, :4] = torch.tensor([0.0, -0.0, 1e-3, -1e-3])
    weights[1, 0] = 0.9
    return weights.to(dtype)


def decode(codes, scales, shape):
    """By the definition: 0.50.2 on processors with AVX-512 decodes blocks that lie across rows wrongly."""
    halves = torch.stack([codes.reshape(-1) >> 4, codes.reshape(-1) & 15], 1).reshape(-1)
    values = bnb.get_4bit_type("nf4", device="cpu")[halves.long()]
    return (values * scales.repeat_interleave(64)[: values.numel()]).reshape(shape)


def nf4(case, weights, double):
    codes, state = bnb.quantize_4bit(weights, blocksize=64, compress_statistics=double, quant_type="nf4")
    scales = state.absmax
    if double:
        groups = state.state2.absmax.repeat_interleave(256)[: scales.numel()]
        scales = state.state2.code[scales.long()] * groups + state.offset
    put(case, w=weights, codes=codes, decoded=decode(codes, scales, weights.shape).to(weights.dtype), scales=state.absmax)
    if double:
        put(case, group_scales=state.state2.absmax, offset=state.offset.reshape(1))


# The last shape ends in a block of 60; in two of them blocks lie across rows.
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for shape in ((96, 128), (48, 80), (7, 36)):
        for double in (False, True):
            if dtype == torch.float32 or shape != (96, 128):
                kind = "nf4" if double else "nf4-plain"
                nf4(f"{kind}.{str(dtype)[6:]}.{shape[0]}x{shape[1]}", matrix(shape, dtype), double)

# Scales in three groups, the last one short; a group has 256.
nf4("nf4.float32.260x130", matrix((260, 130), torch.float32) * torch.linspace(0.1, 2, 260)[:, None], True)

edge = torch.zeros(2, 64)
edge[1] = -0.25
nf4("nf4-plain.edge", edge, False)

code = bnb.get_4bit_type("nf4", device="cpu")
ties = torch.zeros(1, 64)
ties[0, :15] = (code[:-1] + code[1:]) / 2
ties[0, 15] = 1
nf4("nf4-plain.ties", ties, False)

rows = (torch.randn(24, 64, generator=torch.Generator().manual_seed(5)) * 0.05).half()
codes, scales, _ = bnb.int8_vectorwise_quant(rows)
put("int8", w=rows, codes=codes, scales=scales, decoded=codes.float() * scales[:, None] / 127)

put("code", nf4=code, dynamic=bnb.create_dynamic_map(True))
save_file(out, pathlib.Path(__file__).parent / "fixtures" / "quantize.safetensors")
