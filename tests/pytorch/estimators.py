#!/usr/bin/env python3
"""The estimators that people ask, beside what unmodified PyTorch allocates: a table of docs/accuracy.md, from the peaks of
real sizes in fixtures/sizes.

usage: estimators.py, with hf-mem where PYTHONPATH has it:
    python3 -m pip install --target build/hf-mem hf-mem==0.5.6
    PYTHONPATH=build/hf-mem $(tools/python-env) tests/pytorch/estimators.py

accelerate: "Training using Adam" (estimate_training_usage) of the weights' type. DeepSpeed: ZeRO-2 on one GPU
(estimate_zero2_model_states_mem_needs). Textbook: 16 bytes a parameter that is trained, 2 for one that is not.
hf-mem: its command reads headers of safetensors from the hub alone, so the functions that it calls on a header are given the
header that the checkpoint has; --experimental adds a cache of keys and values for batch x length. It means inference.
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
        yield head['name'][5:], head['flags'].split(), int(count), int(trainable), int(peaks['allocated'])


def hf_mem(flags):
    """Weights, and weights with the cache, of the checkpoint that the job reads: in 16 bit, if its weights are."""
    from hf_mem.safetensors import compute_safetensors_kv_cache_size, parse_safetensors_metadata
    import torch
    import job
    import models
    a = job.parse(flags)
    config, kind = models.make_config(a)
    with torch.device('meta'):
        model = kind._from_config(config)
    tied = set(model.all_tied_weights_keys) if hasattr(model, 'all_tied_weights_keys') else set()
    dtype = {'fp32': 'F32', 'bf16': 'BF16', 'fp16': 'F16'}[a.weights]
    header = {name: {'dtype': dtype, 'shape': list(t.shape)} for name, t in model.state_dict().items() if name not in tied}
    weights = parse_safetensors_metadata(raw_metadata={'Transformer': header}).bytes_count
    try:
        cache = compute_safetensors_kv_cache_size(config=model.config.to_dict(), cache_dtype=dtype, max_model_len=a.seq, batch_size=a.batch)
    except KeyError:  # GPT-2's names; and BERT has no such cache
        return weights, None
    return weights, None if a.model.startswith('bert') else weights + cache


def main():
    from accelerate.commands.estimate import estimate_training_usage
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    try:
        import hf_mem as _  # noqa: F401
        more = ' hf-mem | hf-mem, experimental |'
    except ImportError:
        more = ''
    print(f'| GiB | allocated | textbook | accelerate | DeepSpeed ZeRO-2 |{more}\n|---|---:|---:|---:|---:|{"---:|" * more.count("hf-mem")}')
    for name, flags, count, trainable, allocated in rows():
        half = 'fp32' not in flags and (not any('autocast' in f for f in flags) or '--weights' in flags)
        training = estimate_training_usage(count * (2 if half else 4), 'float16' if half else 'float32')
        values = (16 * trainable + 2 * (count - trainable), max(training.values()),
                  estimate_zero2_model_states_mem_needs(count, num_gpus_per_node=1, num_nodes=1, cpu_offload=False)[1],
                  *(hf_mem(flags) if more else ()))
        cells = ['-' if v is None else f'{v / GIB:.2f} ({100 * (v / allocated - 1):+.0f} %)' for v in values]
        print(f'| {name} | {allocated / GIB:.2f} |', ' | '.join(cells), '|')


if __name__ == '__main__':
    main()
