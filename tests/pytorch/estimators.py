#!/usr/bin/env python3
"""The estimators that people ask, beside what unmodified PyTorch allocates: a table of docs/accuracy.md, from the peaks of
real sizes in fixtures/sizes.

usage: estimators.py

accelerate: "Training using Adam" (estimate_training_usage) of the weights' type. DeepSpeed: ZeRO-2 on one GPU
(estimate_zero2_model_states_mem_needs). Textbook: 16 bytes a parameter that is trained, 2 for one that is not.
"""
import gzip
import os

os.environ.setdefault('DS_ACCELERATOR', 'cpu')
HERE = os.path.dirname(os.path.abspath(__file__))
GIB = 1 << 30


def rows():
    folder = os.path.join(HERE, 'fixtures/sizes')
    for name in sorted(os.listdir(folder)):
        head = {}
        for line in gzip.open(os.path.join(folder, name), 'rt'):
            _, key, value = line.rstrip('\n').split(' ', 2) if line.count(' ') > 1 else ('', '', '')
            head[key] = value
        count, trainable = head['parameters'].split(' trainable=')
        peaks = dict(item.split('=') for item in head['peaks'].split())
        yield head['name'][5:], head['flags'], int(count), int(trainable), int(peaks['allocated'])


def main():
    from accelerate.commands.estimate import estimate_training_usage
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    print('| GiB | allocated | textbook | accelerate | DeepSpeed ZeRO-2 |\n|---|---:|---:|---:|---:|')
    for name, flags, count, trainable, allocated in rows():
        half = '--precision fp32' not in flags and ('autocast' not in flags or '--weights' in flags)
        training = estimate_training_usage(count * (2 if half else 4), 'float16' if half else 'float32')
        values = (16 * trainable + 2 * (count - trainable), max(training.values()),
                  estimate_zero2_model_states_mem_needs(count, num_gpus_per_node=1, num_nodes=1, cpu_offload=False)[1])
        cells = [f'{v / GIB:.2f} ({100 * (v / allocated - 1):+.0f} %)' for v in values]
        print(f'| {name} | {allocated / GIB:.2f} |', ' | '.join(cells), '|')


if __name__ == '__main__':
    main()
