#!/usr/bin/env python3
"""What build/bench/load measures, with safetensors and PyTorch: a directory's weights into a float32 model that is
there already. usage: $(tools/python-env) bench/load.py DIRECTORY [rounds]
"""
import glob
import os
import sys
import time

import torch
from safetensors.torch import load_file


def resident(field):
    for line in open('/proc/self/status'):
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def main():
    torch.set_num_threads(os.cpu_count())
    files = sorted(glob.glob(os.path.join(sys.argv[1], '*.safetensors')))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    size = 0
    parameters = {}
    for path in files:
        for name, t in load_file(path).items():
            size += t.numel() * t.element_size()
            parameters[name] = torch.zeros(t.shape)
    t = None
    before = resident('VmRSS')
    open('/proc/self/clear_refs', 'w').write('5')
    best = 1e9
    for _ in range(rounds):
        start = time.perf_counter()
        for path in files:
            for name, t in load_file(path).items():  # as load_state_dict does
                parameters[name].copy_(t)
        best = min(best, time.perf_counter() - start)
        t = None
    print(f'{size / 2**20:.1f} MiB of weights in {best:.3f} s: {size / best / 1e9:.2f} GB/s; '
          f'resident before {before:.1f} MiB, highest while loading {resident("VmHWM"):.1f} MiB')


main()
