"""The trainings of tests/gpu/pytorch, each in a process of its own: PyTorch as it is, on a card or on the stand-in of
tests/pytorch. A line of JSON for each is added to measured.jsonl in a folder; beside it lie the model's configuration and
PyTorch's own snapshot of all that was allocated.

usage: pytorch_jobs.py FOLDER SECONDS [--stand-in] [--only NAME,…]
"""
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ORACLE = os.environ.get('BRIM_PYTORCH_JOBS', os.path.join(HERE, '../pytorch'))
sys.path.insert(0, ORACLE)

LORA = '--lora 16 --targets q_proj,k_proj,v_proj,o_proj'
# name; GiB that it needs; flags of tests/pytorch/job.py; the same as options of brim; with what PyTorch must have beside
JOBS = [
    ('sdpa', 16, '--model llama-3.2-1b --batch 1 --seq 2048', '--batch 1 --seq 2048', ''),
    ('eager', 24, '--model llama-3.2-1b --batch 2 --seq 1024 --attention eager', '--batch 2 --seq 1024 --attention eager', ''),
    ('checkpoints', 20, '--model llama-3.2-1b --batch 4 --seq 1024 --checkpoint no-reentrant', '--batch 4 --seq 1024 --checkpoint blocks', ''),
    ('fused', 16, '--model llama-3.2-1b --batch 1 --seq 2048 --optimizer adamw-fused', '--batch 1 --seq 2048 --optimizer adamw-fused', ''),
    ('accumulate', 18, '--model llama-3.2-1b --batch 1 --seq 2048 --accumulate 2', '--batch 1 --seq 2048 --accumulate 2', ''),
    ('hold', 18, '--model llama-3.2-1b --batch 1 --seq 2048 --hold', '--batch 1 --seq 2048 --hold-outputs', ''),
    ('lora', 12, f'--model llama-3.2-1b --batch 2 --seq 2048 --precision bf16-autocast --weights bf16 --checkpoint no-reentrant {LORA}',
     '--batch 2 --seq 2048 --precision bf16-autocast --weights bf16 --checkpoint blocks --lora r=16,alpha=16,targets=q_proj,k_proj,v_proj,o_proj', 'peft'),
    ('nf4', 12, f'--model llama-3.2-1b --batch 2 --seq 1024 --precision bf16-autocast --weights bf16 --checkpoint reentrant --quantize nf4 --kbit-prepare on {LORA}',
     '--batch 2 --seq 1024 --precision bf16-autocast --weights bf16 --checkpoint reentrant --quantize nf4 --kbit-prepare on --lora r=16,alpha=16,targets=q_proj,k_proj,v_proj,o_proj', 'peft bitsandbytes'),
    ('trainer', 28, '--model llama-3.2-1b --batch 1 --seq 2048 --precision bf16-autocast --mask ones --script trainer',
     '--batch 1 --seq 2048 --precision bf16-autocast --script trainer', ''),
    ('gpt2', 12, '--model gpt2-base --batch 4 --seq 1024 --precision fp32 --dropout 0', '--batch 4 --seq 1024 --precision fp32', ''),
    ('bert', 8, '--model bert-base --batch 16 --seq 128 --precision bf16-autocast', '--batch 16 --seq 128 --precision bf16-autocast', ''),
    ('cudnn', 16, '--model llama-3.2-1b --batch 1 --seq 2048 --cudnn', '--batch 1 --seq 2048', ''),
    ('8b', 85, '--model llama-3.1-8b --batch 1 --seq 2048', '--batch 1 --seq 2048', ''),
]
LIMITED = 'checkpoints'  # of these once more, with a limit between what it allocates and what it reserves
FAST = ('llama-3.2-1b', 'llama-3.1-8b')  # whose weights are made on the card


def tiny(flags):
    """The same for the stand-in: its small model, and a batch that it allows."""
    words = flags.replace('llama-3.2-1b', 'llama').replace('llama-3.1-8b', 'llama').replace('gpt2-base', 'gpt2').replace('bert-base', 'bert').split()
    for name, most in (('--seq', 256), ('--batch', 4)):
        words[words.index(name) + 1] = str(min(int(words[words.index(name) + 1]), most))
    return words


def nvidia_smi():
    """MiB in use on the first card, or None."""
    try:
        said = subprocess.run(['nvidia-smi', '--query-gpu=memory.used', '--format=csv,noheader,nounits', '-i', '0'],
                              capture_output=True, text=True, timeout=10)
        return int(said.stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def outside(torch):
    """What the card has in use that PyTorch's allocator did not take."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def attention_kernels(torch):
    """The node that a causal scaled_dot_product_attention leaves, which names the kernel that PyTorch chose by itself."""
    try:
        return first_kernel(torch)
    except RuntimeError as e:
        if 'cudnn' not in str(e).lower():
            raise
        return 'cuDNN, which does not start here,'


def first_kernel(torch):
    q = torch.zeros(1, 4, 64, 64, dtype=torch.bfloat16, device='cuda', requires_grad=True)
    out = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    return type(out.grad_fn).__name__


def fill(torch, model):
    """Weights that give a loss that is a number, where they were made on the card; in place."""
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                p.normal_(0, 0.02)
        for b in model.buffers():
            if b.is_floating_point():
                b.fill_(0.01)


def measure(name, words, folder, stand_in, limit):
    """In a child: one training, and what PyTorch says of it."""
    import job
    import models
    a = job.parse(words)
    if stand_in:
        job.prepare_card(a.card)
    import torch
    if 'lora' in name or 'nf4' in name:
        import peft  # noqa: F401: before the record begins
    import recorder
    seen = {'name': name, 'before': nvidia_smi()}
    torch.cuda.init()
    torch.empty(1, device='cuda')
    torch.cuda.empty_cache()
    seen['context_at_start'] = outside(torch)
    device = torch.cuda.get_device_properties(0)
    total = torch.cuda.mem_get_info()[1]
    if limit:
        torch.cuda.set_per_process_memory_fraction((limit + 1024) / total)  # it is rounded down
    torch.cuda.reset_peak_memory_stats()
    record = recorder.Recorder()
    outcome = 'ran'
    try:
        model = job.make(a, record)
        models.answer_reads(a)
        if a.peaks and not stand_in:
            fill(torch, model)
        job.train(a, model, record)
        config = job.config_of(model)
    except torch.OutOfMemoryError as e:
        outcome, config = 'out of memory: ' + str(e).split('.')[0], None
    stats = torch.cuda.memory_stats()
    seen.update(outcome=outcome, capability=f'{device.major}.{device.minor}', card=device.name, processors=device.multi_processor_count,
                total=total, limit=limit, torch=torch.__version__, versions=job.versions(), after=nvidia_smi(),
                context_at_end=outside(torch), retries=stats['num_alloc_retries'])
    seen.update({k: stats[k + '_bytes.all.peak'] for k in ('requested', 'allocated', 'reserved')})
    if config:
        json.dump(config, open(os.path.join(folder, name + '.json'), 'w'), sort_keys=True)
    if not limit:
        torch.cuda.memory._dump_snapshot(os.path.join(folder, name + '.pickle'))
    return seen


def kernels(stand_in):
    import job
    if stand_in:
        job.prepare_card('h200')
    import torch
    return {'name': 'kernels', 'by_default': attention_kernels(torch), 'cudnn_enabled': torch.backends.cuda.cudnn_sdp_enabled(),
            'capability': '.'.join(map(str, torch.cuda.get_device_capability()))}


def in_a_child(work, seconds):
    """What work() returns, from a forked child, or what went wrong; at most so many seconds."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(2, 1)
        try:
            said = json.dumps(work())
        except BaseException as e:
            import traceback
            traceback.print_exc()
            said = json.dumps({'failed': f'{type(e).__name__}: {e}'[:300]})
        with os.fdopen(write, 'w') as pipe:
            pipe.write(said)
        os._exit(0)
    os.close(write)
    until = time.time() + seconds
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.time() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(read)
            return {'failed': f'stopped after its {seconds:.0f} seconds'}
        time.sleep(0.05)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return json.loads(text) if text else {'failed': 'ended without a word'}


def lacks(needs):
    import importlib.util
    return [module for module in needs.split() if importlib.util.find_spec(module) is None]


def torch_cards():
    import torch
    return torch.cuda.device_count()


def main():
    folder, seconds, stand_in = sys.argv[1], float(sys.argv[2]), '--stand-in' in sys.argv
    only = sys.argv[sys.argv.index('--only') + 1].split(',') if '--only' in sys.argv else None
    missing = lacks('torch transformers')
    if missing:
        print('there is no ' + ' and no '.join(missing))
        sys.exit(3)
    import oracle
    if stand_in:
        oracle.on_the_stand_in()
    until = time.time() + seconds
    import job
    asked = oracle.unasked()  # a process that asked for cards cannot be forked
    job.prepare()
    if not stand_in and not in_a_child(lambda: asked() or torch_cards(), 60):
        print('PyTorch sees no card')
        sys.exit(3)
    out = open(os.path.join(folder, 'measured.jsonl'), 'w')

    def write(row, **more):
        row = dict(row, **more)
        print(json.dumps(row), file=out, flush=True)
        sys.stderr.write(f"{row['name']}: {time.time() - until + seconds:.0f} s {row.get('failed', '')}\n")
    if not only or 'kernels' in only:
        write(in_a_child(lambda: asked() or kernels(stand_in), 60), name='kernels')
    total, done = None, {}
    jobs = [(name, needs, flags, options, beside, 0) for name, needs, flags, options, beside in JOBS]
    for name, needs, flags, options, beside, limit in jobs:
        if only and name not in only:
            continue
        left = until - time.time()
        missing = lacks(beside)
        row = dict(name=name, options=options, flags=flags)
        words = tiny(flags) if stand_in else flags.split() + ['--peaks'] * (any(model in flags for model in FAST) and '--quantize' not in flags)
        if stand_in:
            seq, batch = words[words.index('--seq') + 1], words[words.index('--batch') + 1]
            mine = options.split()
            mine[mine.index('--seq') + 1], mine[mine.index('--batch') + 1] = seq, batch
            row['options'] = ' '.join(mine)
        if missing:
            write(row, not_run='there is no ' + ' and no '.join(missing))
        elif name == 'cudnn' and stand_in:
            write(row, not_run='cuDNN does not start on the stand-in')
        elif left < 10:
            write(row, not_run='no time is left')
        elif total and not stand_in and needs << 30 > total:
            write(row, not_run=f'it needs {needs} GiB')
        else:
            seen = in_a_child(lambda: asked() or measure(name, words, folder, stand_in, 0), min(left, 90))
            total = seen.get('total', total)
            write(dict(row, **seen))
            done[name] = seen
            if name == LIMITED and seen.get('outcome') == 'ran':
                between = (seen['allocated'] + seen['reserved']) // 2 >> 21 << 21
                again = in_a_child(lambda: asked() or measure('limited', words, folder, stand_in, between),
                                   min(until - time.time(), 90))
                write(dict(row, **again), name='limited', of=LIMITED, limit=between)


if __name__ == '__main__':
    main()
