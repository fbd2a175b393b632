#!/usr/bin/env python3
"""Five steps of AdamW with 8-bit states, in float32 numpy, which tests/test_optim_precision.c compares: parameters
after them, codes and scales. Codes are the nearest of bitsandbytes' dynamic ones, the lower of two; weight decay
comes before the update. (bitsandbytes' own quantiser on the CPU does not take the nearest code.)

    python3 tests/precision/adam8.py     writes tests/precision/fixtures/adam8.safetensors

Needs torch and bitsandbytes (tools/python-env makes such an environment)."""
import pathlib
import sys

import bitsandbytes.functional as bnb
import numpy as np
import torch
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here.parent / "parity"))
from fixture import values  # noqa: E402

f32 = np.float32
SIGNED = bnb.create_dynamic_map(signed=True).numpy().astype(f32)
UNSIGNED = bnb.create_dynamic_map(signed=False).numpy().astype(f32)
LR, BETA1, BETA2, EPS, DECAY = 0.01, 0.9, 0.95, 1e-8, 0.1
BLOCK, LEAST = 256, 4096


def encode(x, code):
    bounds = ((code[:-1] + code[1:]) * f32(0.5)).astype(f32)
    scales, codes = np.zeros(-(-x.size // BLOCK), f32), np.zeros(x.size, np.uint8)
    for b in range(scales.size):
        part = x[b * BLOCK:(b + 1) * BLOCK]
        scales[b] = np.abs(part).max()
        codes[b * BLOCK:b * BLOCK + part.size] = np.searchsorted(bounds, part / scales[b] if scales[b] else part * 0, side="left")
    return codes, scales


def decode(codes, scales, code):
    return code[codes] * np.repeat(scales, BLOCK)[:codes.size]


out = {"codes.signed": SIGNED, "codes.unsigned": UNSIGNED}
for i, n in enumerate((4095, 4096, 10003)):
    p = values(900 + i, n)
    m, v = np.zeros(n, f32), np.zeros(n, f32)
    for step in range(1, 6):
        g = values(1000 + 10 * i + step - 1, n, 0.01) * np.ldexp(f32(1), -(np.arange(n) // 256 % 5)).astype(f32)
        m = (m * f32(BETA1) + f32(1 - BETA1) * g).astype(f32)
        v = (v * f32(BETA2) + f32(1 - BETA2) * g * g).astype(f32)
        correction = np.sqrt(1 - BETA2**step)
        update = f32(LR / (1 - BETA1**step)) * m / (np.sqrt(v) / f32(correction) + f32(EPS))
        p = (p * f32(1 - LR * DECAY) - update).astype(f32)
        if n >= LEAST:
            (codes1, absmax1), (codes2, absmax2) = encode(m, SIGNED), encode(v, UNSIGNED)
            m, v = decode(codes1, absmax1, SIGNED), decode(codes2, absmax2, UNSIGNED)
    out[f"p{i}.after"] = p
    if n >= LEAST:
        out.update({f"p{i}.codes1": codes1, f"p{i}.codes2": codes2, f"p{i}.absmax1": absmax1, f"p{i}.absmax2": absmax2})
save_file(out, here / "fixtures" / "adam8.safetensors")
