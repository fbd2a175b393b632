#!/usr/bin/env python3
"""What today's estimators say, beside brim's plan and what PyTorch and brim really take: docs/accuracy.md's tables.

usage: accuracy.py [--brim build/brim] [--threads 2] [--json] [CONFIGURATION ...]

Trains each configuration for a few fp32 AdamW steps with brim and with PyTorch (the plain models of
tests/parity/models.py) and asks accelerate and DeepSpeed for their estimates of the same modules. Then trains adapters
beside a frozen bench-llama-small, with brim and with PEFT and bitsandbytes on transformers' model. Then several cards: what is
published about their memory, PyTorch's tracker of FSDP2, and brim's plans; and two processes of each that really train.
What is not installed is left out with a note. Each tool runs in a process of its own.
"""
import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
STEPS = 3  # AdamW's states are there from the second on
MIB = 1 << 20

# brim's model, batch, seq; class and configuration in tests/parity/models.py
CONFIGURATIONS = {
    'mlp': (128, 0, 'MLP', dict(sizes=[784, 512, 512, 10])),
    'bert-tiny': (16, 128, 'BertForMaskedLM', dict(vocab=260, dim=256, layers=4, heads=4, ffn=1024)),
    'gpt2-tiny': (8, 128, 'GPT2LMHeadModel', dict(vocab=256, dim=256, layers=6, heads=4, ffn=1024)),
    'llama-tiny': (8, 128, 'LlamaForCausalLM', dict(vocab=256, dim=288, layers=6, heads=6, hidden=768)),
    'bench-llama-small': (2, 512, 'LlamaForCausalLM',
                          dict(vocab=32000, dim=768, layers=12, heads=12, hidden=2048)),
    'gpt2': (1, 1024, 'GPT2LMHeadModel', dict(vocab=50257, dim=768, layers=12, heads=12)),
}

# Adapters beside a frozen model, whose widths are multiples of 64: bitsandbytes' products on a CPU are wrong for others.
# Of each brim's options, and what is done in PyTorch: the base's type, quantised, prepared and checkpointed by PEFT.
ADAPTED = 'bench-llama-small'
ADAPTED_SIZE = (1, 256)
ADAPTERS = {
    'LoRA on fp32': ([], dict(dtype='float32')),
    'LoRA on bf16': (['--weights', 'bf16'], dict(dtype='bfloat16')),
    'QLoRA': (['--weights', 'bf16', '--quantize', 'nf4'], dict(dtype='bfloat16', quantized=True)),
    'QLoRA, prepared and checkpointed': (['--weights', 'bf16', '--quantize', 'nf4', '--checkpoint', 'blocks'],
                                         dict(dtype='bfloat16', quantized=True, prepared=True)),
}

# Several cards: of each brim's model, its size as in CONFIGURATIONS, numbers of cards, blocks recomputed; whether it is run too.
CARDS = 'llama-2-13b'
CARDS_SIZE = (1, 2048)
CONFIGURATIONS_OF_CARDS = {
    CARDS: (*CARDS_SIZE, 'LlamaForCausalLM', dict(vocab=32000, dim=5120, layers=40, heads=40, hidden=13824)),
}
SHARDED = [('llama-tiny', 2, False), ('llama-tiny', 2, True), (CARDS, 2, True), (CARDS, 8, True)]
RUN_CARDS = 'llama-tiny'


# ---- One tool, in a process of its own --------------------------------------------------------------------------------

def torch_model(name):
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.join(ROOT, 'tests', 'parity'))
    import models
    _, _, kind, config = {**CONFIGURATIONS, **CONFIGURATIONS_OF_CARDS}[name]
    return models, getattr(models, kind)(**config)


def torch_batch(name, generator, size=None):
    import torch
    batch, seq, _, config = {**CONFIGURATIONS, **CONFIGURATIONS_OF_CARDS}[name]
    batch, seq = size or (batch, seq)
    if not seq:
        return (torch.rand(batch, config['sizes'][0], generator=generator),
                torch.randint(config['sizes'][-1], (batch,), generator=generator))
    tokens = torch.randint(config['vocab'], (batch, seq + 1), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def resident(field):
    with open('/proc/self/status') as f:
        return int(re.search(rf'^{field}:\s+(\d+)', f.read(), re.M).group(1)) * 1024


def tensor_bytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def tensors_peak(step):
    """The highest sum of what one step allocates and has not freed, as PyTorch's profiler records it."""
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    live = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == '[memory]':
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def run_torch(name, threads):
    """tensors: the highest sum of live tensors. process: parameters, and what the process grew by after they were made."""
    import torch
    torch.set_num_threads(threads)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    models, model = torch_model(name)
    models.initialise(model, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    inputs, labels = torch_batch(name, torch.Generator().manual_seed(1))

    def loss():
        return models.loss_of(model(inputs), labels)

    return {'version': torch.__version__, 'parameters': sum(p.numel() for p in model.parameters()),
            **train_torch(loss, optimizer, tensor_bytes(model.parameters()), tensor_bytes([inputs, labels]))}


def train_torch(loss, optimizer, weights, batch):
    import torch

    def step():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with open('/proc/self/clear_refs', 'w') as f:
        f.write('5')
    start = resident('VmRSS')
    for _ in range(STEPS):
        step()
    process = weights + resident('VmHWM') - start
    states = tensor_bytes(t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t))
    return {'tensors': weights + states + batch + tensors_peak(step), 'process': process}


def transformers_model(how):
    """transformers' model of ADAPTED, random; quantised by bitsandbytes as it is loaded, which is the way there is."""
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    config = CONFIGURATIONS[ADAPTED][3]
    dtype = getattr(torch, how['dtype'])
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=config['vocab'], hidden_size=config['dim'], num_hidden_layers=config['layers'],
        num_attention_heads=config['heads'], intermediate_size=config['hidden'], max_position_embeddings=ADAPTED_SIZE[1],
        use_cache=False)).to(dtype)
    if not how.get('quantized'):
        return model
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        return transformers.LlamaForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype))


def stored_bytes(model):
    """Parameters, and what bitsandbytes keeps beside those it has quantised."""
    total = 0
    for parameter in model.parameters():
        total += tensor_bytes([parameter])
        state = getattr(parameter, 'quant_state', None)
        if state is not None:
            nested = state.state2
            total += tensor_bytes([state.absmax, state.code, state.offset, nested.absmax, nested.code])
    return total


def run_peft(name, threads):
    """As run_torch, of adapters on every linear layer but the head."""
    import peft
    import torch
    torch.set_num_threads(threads)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    how = ADAPTERS[name][1]
    model = transformers_model(how)
    if how.get('prepared'):
        model = peft.prepare_model_for_kbit_training(model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules='all-linear',
                                                       task_type='CAUSAL_LM'))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    inputs, labels = torch_batch(ADAPTED, torch.Generator().manual_seed(1), ADAPTED_SIZE)

    def loss():
        logits = model(input_ids=inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    versions = {'version': peft.__version__}
    if how.get('quantized'):
        import bitsandbytes
        versions['bitsandbytes'] = bitsandbytes.__version__
    weights = stored_bytes(model)
    return {**versions, 'parameters': sum(p.numel() for p in trained), 'weights': weights,
            **train_torch(loss, optimizer, weights, tensor_bytes([inputs, labels]))}


def run_accelerate(name, _):
    """What `accelerate estimate-memory` prints as "Training using Adam": the largest entry of its dictionary."""
    import accelerate
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes
    total, _ = calculate_maximum_sizes(torch_model(name)[1])
    return {'version': accelerate.__version__,
            'fp32': max(estimate_training_usage(total, 'float32').values()),
            'fp16': max(estimate_training_usage(total, 'float16').values())}


def run_deepspeed(name, _):
    """One GPU, no offload: the GPU's share by estimate_zero{2,3}_model_states_mem_needs."""
    import deepspeed
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage3 import model_to_params
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2
    total, largest = model_to_params(torch_model(name)[1])
    return {'version': deepspeed.__version__, 'zero2': zero2(total, cpu_offload=False)[1],
            'zero3': zero3(total, largest, cpu_offload=False, cpu_offload_params=False)[1]}


def mesh_of(cards):
    from torch.distributed.device_mesh import init_device_mesh
    return init_device_mesh('cpu', (cards,))


def sharded_model(name, mesh, blocks):
    """By FSDP2, a group a block and one for the rest, as its documentation does."""
    import torch
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import fully_shard
    with torch.device('meta'):
        models, model = torch_model(name)
    layers = model.model.layers
    for i in range(len(layers)):
        if blocks:
            layers[i] = checkpoint_wrapper(layers[i])
        fully_shard(layers[i], mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device='cpu')
    return models, model, torch.optim.AdamW(model.parameters(), lr=3e-4)


def run_fsdp(how, threads):
    """What torchtitan's estimator does, on the CPU: FSDPMemTracker over fake tensors, one rank of a group that is not there.
    A dictionary of bytes at the peak by PyTorch's names of them."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.testing._internal.distributed.fake_pg import FakeStore
    name, cards, blocks = json.loads(how)
    torch.set_num_threads(threads)
    torch.distributed.init_process_group('fake', rank=0, world_size=cards, store=FakeStore())
    mesh = mesh_of(cards)  # outside of the fake mode: it looks at numbers
    with FakeTensorMode():
        models, model, optimizer = sharded_model(name, mesh, blocks)
        inputs, labels = (torch.zeros_like(x) for x in torch_batch(name, None))
        tracker = FSDPMemTracker(mod=model, optm=optimizer)
        tracker.track_inputs((inputs, labels))
        with tracker:
            for step in range(2):  # states are there from the second on
                if step:
                    tracker.reset_mod_stats()
                models.loss_of(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
        peak = next(iter(tracker.get_tracker_snapshot('peak').values()))
    return {'version': torch.__version__, **{getattr(key, 'value', key): value for key, value in peak.items()}}


def fsdp_rank(rank, cards, meeting, name, blocks, pipe):
    import torch
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method='file://' + meeting, rank=rank, world_size=cards)
    models, model, optimizer = sharded_model(name, mesh_of(cards), blocks)
    with torch.no_grad():
        for p in model.parameters():
            p.to_local().normal_(0, 0.02)
    inputs, labels = torch_batch(name, torch.Generator().manual_seed(rank))

    def step():
        models.loss_of(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):
        step()
    held = [p.to_local() for p in model.parameters()]
    held += [t.to_local() if hasattr(t, 'to_local') else t for state in optimizer.state.values() for t in state.values()]
    pipe.send(tensor_bytes(held + [inputs, labels]) + tensors_peak(step))
    torch.distributed.destroy_process_group()


def run_fsdp_ranks(how, _):
    """Two processes train over gloo: the highest sum of live tensors of the first."""
    import multiprocessing
    import torch
    name, cards, blocks = json.loads(how)
    os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=fsdp_rank, args=(r, cards, os.path.join(folder, 'meeting'), name, blocks, theirs))
                 for r in range(cards)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    if any(rank.exitcode for rank in ranks):
        sys.exit('a rank has failed')
    return {'version': torch.__version__, 'tensors': max(ours.recv() for _ in ranks)}


def run_deepspeed_cards(how, _):
    import deepspeed
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2
    total, largest, cards = json.loads(how)
    return {'version': deepspeed.__version__, 'zero2': zero2(total, cards, cpu_offload=False)[1],
            'zero3': zero3(total, largest, cards, cpu_offload=False, cpu_offload_params=False)[1]}


TOOLS = {'torch': run_torch, 'accelerate': run_accelerate, 'deepspeed': run_deepspeed}
MORE = ('adapters', 'cards')
CHILDREN = dict(TOOLS, peft=run_peft, fsdp=run_fsdp, fsdp_ranks=run_fsdp_ranks, deepspeed_cards=run_deepspeed_cards)


# ---- All of them ------------------------------------------------------------------------------------------------------

def ask(tool, name, threads, notes):
    command = [sys.executable, os.path.abspath(__file__), '--tool', tool, '--threads', str(threads), name]
    child = subprocess.run(command, env=dict(os.environ, OMP_WAIT_POLICY='passive'), capture_output=True, text=True)
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    why = (child.stderr.strip().splitlines() or ['no message'])[-1]
    note = f'{tool} is left out: {why}'
    if note not in notes:
        notes.append(note)
    return None


def brim(options, command, name, *more, size=None):
    batch, seq = size or {**CONFIGURATIONS, **CONFIGURATIONS_OF_CARDS}[name][:2]
    size = ['--batch', str(batch)] + (['--seq', str(seq)] if seq else [])
    env = {key: value for key, value in os.environ.items() if not key.startswith('OPENBLAS_')}
    child = subprocess.run([options.brim, command, '--model', name, *size, '--threads', str(options.threads), '--json',
                            *more], env=env, capture_output=True, text=True)
    if child.returncode:
        sys.exit(f'{options.brim} {command} {name}: {child.stderr.strip()}')
    return json.loads(child.stdout)


def textbook(name, parameters):
    """4 + 4 + 8 bytes a parameter, and activations: Korthikanti's sbh (34 + 5as/h) a layer, in 16 bit as it is stated;
    of the MLP every layer's output in fp32."""
    batch, seq, _, config = CONFIGURATIONS[name]
    if not seq:
        return 16 * parameters, 4 * batch * sum(config['sizes'][1:])
    layer = seq * batch * (34 * config['dim'] + 5 * config['heads'] * seq)
    return 16 * parameters, config['layers'] * layer


def brim_row(options, name, attention):
    more = ['--attention', attention] if attention else []
    plan = brim(options, 'plan', name, *more)
    run = brim(options, 'train', name, '--steps', str(STEPS), '--every', '1000', *more)['memory']
    return {'parameters': plan['parameters'], 'plan': plan['memory']['peak_bytes'],
            'needs': run['needs_bytes'], 'measured': run['peak_bytes'], 'process': run['process']['peak_bytes']}


def adapter_row(options, name, notes):
    more = ['--lora', 'r=16,alpha=32', *ADAPTERS[name][0]]
    plan = brim(options, 'plan', ADAPTED, *more, size=ADAPTED_SIZE)
    run = brim(options, 'train', ADAPTED, '--steps', str(STEPS), '--every', '1000', '--max-samples', '8', *more,
               size=ADAPTED_SIZE)['memory']
    parts = plan['memory']['components']
    return {'weights': parts['parameter']['peak'] + parts['frozen']['peak'], 'plan': plan['memory']['peak_bytes'],
            'needs': run['needs_bytes'], 'measured': run['peak_bytes'], 'process': run['process']['peak_bytes'],
            'peft': ask('peft', name, options.threads, notes)}


def sharded_row(options, name, cards, blocks, notes):
    more = ['--ranks', str(cards), '--parallel', 'zero3', '--threads', '1', '--gather', 'block',
            '--checkpoint', 'blocks' if blocks else 'none']
    how = json.dumps([name, cards, blocks])
    row = {'fsdp': ask('fsdp', how, options.threads, notes),
           'eager': brim(options, 'plan', name, '--attention', 'eager', *more)['memory'],
           'flash': brim(options, 'plan', name, *more)['memory']}
    if name == RUN_CARDS:
        row['ranks'] = ask('fsdp_ranks', how, options.threads, notes)
        run = brim(options, 'train', name, '--steps', '2', '--every', '1000', '--max-samples', '64', '--attention', 'eager', *more)
        row['run'] = run['memory']
    return row


def states_rows(options, notes):
    """Of CARDS: a title and bytes a card for 2 and 8 cards."""
    plan = brim(options, 'plan', CARDS)
    p, largest = plan['parameters'], CONFIGURATIONS_OF_CARDS[CARDS][3]['vocab'] * CONFIGURATIONS_OF_CARDS[CARDS][3]['dim']
    rows = {}
    for cards in (2, 8):
        deepspeed = ask('deepspeed_cards', json.dumps([p, largest, cards]), options.threads, notes) or {}
        found = [('textbook, (P + G + O) / N, 16 bytes', 16 * p // cards),
                 ('Megatron, fp32', 8 * p + 8 * p // cards), ('Megatron, bf16 with fp32 gradients', 6 * p + 12 * p // cards),
                 ('Megatron, 16-bit gradients', 4 * p + 16 * p // cards),
                 ('DeepSpeed, ZeRO-2', deepspeed.get('zero2')), ('DeepSpeed, ZeRO-3', deepspeed.get('zero3'))]
        for precision in ('fp32', 'bf16-mixed'):
            for strategy in ('zero1', 'zero2', 'zero3'):
                memory = brim(options, 'plan', CARDS, '--ranks', str(cards), '--parallel', strategy, '--threads', '1',
                              '--checkpoint', 'blocks', '--precision', precision)['memory']
                parts = memory['components']
                states = sum(parts[key]['peak'] for key in ('parameter', 'master', 'gradient', 'optimizer', 'gathered'))
                found.append((f'brim, {precision} {strategy}: own peaks of states', states))
                found.append((f'brim, {precision} {strategy}: the plan\'s peak', memory['peak_bytes']))
        for title, value in found:
            rows.setdefault(title, []).append(value)
    return rows


def measure(options, name, notes):
    sequences = CONFIGURATIONS[name][1] > 0
    flash = brim_row(options, name, 'flash' if sequences else None)
    states, activations = textbook(name, flash['parameters'])
    row = {'parameters': flash['parameters'], 'textbook': states + activations, 'flash': flash,
           'eager': brim_row(options, name, 'eager') if sequences else None}
    for tool in TOOLS:
        row[tool] = ask(tool, name, options.threads, notes)
    if row['torch'] and row['torch']['parameters'] != flash['parameters']:
        sys.exit(f"{name}: PyTorch's model has {row['torch']['parameters']:,} parameters, brim's {flash['parameters']:,}")
    return row


def cell(value):
    return '' if value is None else f'{value / MIB:,.1f}'


def of(row, tool, key):
    return row[tool][key] if row[tool] else None


ESTIMATES = [
    ('textbook', lambda r: r['textbook']),
    ('accelerate fp32', lambda r: of(r, 'accelerate', 'fp32')),
    ('accelerate fp16', lambda r: of(r, 'accelerate', 'fp16')),
    ('DeepSpeed ZeRO-2', lambda r: of(r, 'deepspeed', 'zero2')),
    ('DeepSpeed ZeRO-3', lambda r: of(r, 'deepspeed', 'zero3')),
]
PLANS = [
    ('brim, eager', lambda r: of(r, 'eager', 'plan')),
    ('brim, flash', lambda r: of(r, 'flash', 'plan')),
]
TAKEN = [
    ('PyTorch tensors', lambda r: of(r, 'torch', 'tensors')),
    ('PyTorch process', lambda r: of(r, 'torch', 'process')),
    ('brim, eager', lambda r: of(r, 'eager', 'measured')),
    ('brim, flash', lambda r: of(r, 'flash', 'measured')),
    ('its process', lambda r: of(r, 'flash', 'process')),
]


def markdown(heading, cells):
    print('| ' + ' | '.join(heading) + ' |')
    print('|---|' + '---:|' * (len(heading) - 1))
    for line in cells:
        print('| ' + ' | '.join(line) + ' |')
    print()


def percent(estimate, truth):
    return '' if estimate is None or truth is None else f'{100 * (estimate - truth) / truth:+.0f} %'


def ratio(ours, theirs):
    return '' if theirs is None else f'{ours / theirs:.2f}'


def size_text(name):
    batch, seq, _, _ = CONFIGURATIONS[name]
    return f'{name}, {batch}' + (f' x {seq}' if seq else '')


def tables(rows):
    markdown(['estimated, MiB', 'parameters'] + [title for title, _ in ESTIMATES + PLANS],
             [[size_text(name), f"{row['parameters']:,}"] + [cell(get(row)) for _, get in ESTIMATES + PLANS]
              for name, row in rows.items()])
    markdown(['taken, MiB'] + [title for title, _ in TAKEN],
             [[name] + [cell(get(row)) for _, get in TAKEN] for name, row in rows.items()])
    markdown(["estimate beside PyTorch's tensors"] + [title for title, _ in ESTIMATES],
             [[name] + [percent(get(row), of(row, 'torch', 'tensors')) for _, get in ESTIMATES]
              for name, row in rows.items()])
    markdown(['brim, bytes', 'planned', 'measured', 'apart', 'needs', 'process less needs'],
             [[f'{name}, {kind}' if row['eager'] else name, f"{b['plan']:,}", f"{b['measured']:,}", f"{b['measured'] - b['plan']:,}",
               f"{b['needs']:,}", f"{b['process'] - b['needs']:,}"]
              for name, row in rows.items() for kind, b in (('flash', row['flash']), ('eager', row['eager'])) if b])
    versions = {tool: row[tool]['version'] for row in rows.values() for tool in TOOLS if row[tool]}
    print(', '.join(f'{tool} {version}' for tool, version in versions.items()) or 'no other tool is installed')


def adapter_tables(rows):
    markdown(['adapters, MiB', 'PEFT weights', 'PEFT tensors', 'PEFT process', 'brim weights', 'brim planned',
              'its process', 'brim / PEFT tensors', 'brim / PEFT process'],
             [[name, cell(of(row, 'peft', 'weights')), cell(of(row, 'peft', 'tensors')),
               cell(of(row, 'peft', 'process')), cell(row['weights']), cell(row['plan']), cell(row['process']),
               ratio(row['measured'], of(row, 'peft', 'tensors')), ratio(row['process'], of(row, 'peft', 'process'))]
              for name, row in rows.items()])
    markdown(['brim, bytes', 'planned', 'measured', 'apart', 'needs', 'process less needs'],
             [[name, f"{row['plan']:,}", f"{row['measured']:,}", f"{row['measured'] - row['plan']:,}",
               f"{row['needs']:,}", f"{row['process'] - row['needs']:,}"] for name, row in rows.items()])
    versions = {tool: version for row in rows.values() if row['peft']
                for tool, version in (('peft', row['peft']['version']), ('bitsandbytes', row['peft'].get('bitsandbytes')))
                if version}
    print(', '.join(f'{tool} {version}' for tool, version in versions.items()) or 'PEFT is not installed')


def card_tables(states, rows):
    gib = [[title] + ['' if value is None else f'{value / 2**30:,.2f}' for value in values] for title, values in states.items()]
    markdown([f'{CARDS}, GiB a card', 'N = 2', 'N = 8'], gib)

    def parts(fsdp, *keys):
        return cell(sum(fsdp[key] for key in keys)) if fsdp else ''

    def ours(memory, *keys):
        return cell(sum(memory['components'][key]['at_peak'] for key in keys))

    lines = []
    for title, row in rows.items():
        f, b = row['fsdp'], row['eager']
        lines += [[title + ', FSDP2', cell(f and f['Total']), parts(f, 'Sharded Param'), parts(f, 'OptState'),
                   parts(f, 'Sharded Grad', 'Unsharded Grad'), parts(f, 'Unsharded Param', 'All Gather'),
                   parts(f, 'Activation'), parts(f, 'Temp', 'Reduce Scatter', 'Buffer', 'Inputs')],
                  [title + ', brim eager', cell(b['peak_bytes']), ours(b, 'parameter'), ours(b, 'optimizer'),
                   ours(b, 'gradient'), ours(b, 'gathered'), ours(b, 'activation'),
                   ours(b, 'activation_gradient', 'temporary', 'workspace', 'input', 'communication')]]
    markdown(['at the peak, MiB', 'peak', 'parts of weights', 'states', 'gradients', 'whole weights', 'activations', 'other'],
             lines)
    markdown(['two processes, MiB', 'FSDP2, tracked', 'FSDP2, over gloo', 'brim eager, planned', 'brim eager, over MPI'],
             [[title, cell(row['fsdp'] and row['fsdp']['Total']), cell(row['ranks'] and row['ranks']['tensors']),
               cell(row['eager']['peak_bytes']), cell(row['run']['peak_bytes'])]
              for title, row in rows.items() if 'run' in row])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('configuration', nargs='*', help=', '.join([*CONFIGURATIONS, *MORE]))
    parser.add_argument('--brim', default=os.path.join(ROOT, 'build', 'brim'))
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--tool', choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.configuration or [*CONFIGURATIONS, *MORE]
    if options.tool:
        print(json.dumps(CHILDREN[options.tool](names[0], options.threads)))
        return
    for name in names:
        if name not in CONFIGURATIONS and name not in MORE:
            parser.error(f"there is no '{name}'; there are {', '.join([*CONFIGURATIONS, *MORE])}")
    if not os.access(options.brim, os.X_OK):
        parser.error(f'{options.brim} is not there; run make first')
    rows, adapters, cards, states, notes = {}, {}, {}, {}, []
    for name in names:
        if name == 'adapters':
            for kind in ADAPTERS:
                print(f'{kind} …', file=sys.stderr)
                adapters[kind] = adapter_row(options, kind, notes)
        elif name == 'cards':
            states = states_rows(options, notes)
            for kind, count, blocks in SHARDED:
                title = f"{kind}, {count} cards" + (', blocks' if blocks else '')
                print(f'{title} …', file=sys.stderr)
                cards[title] = sharded_row(options, kind, count, blocks, notes)
        else:
            print(f'{name} …', file=sys.stderr)
            rows[name] = measure(options, name, notes)
    if options.json:
        print(json.dumps({'rows': rows, 'adapters': adapters, 'cards': cards, 'states': states, 'notes': notes}, indent=2))
        return
    if rows:
        tables(rows)
    if adapters:
        adapter_tables(adapters)
    if cards:
        card_tables(states, cards)
    for note in notes:
        print(note)


if __name__ == '__main__':
    main()
