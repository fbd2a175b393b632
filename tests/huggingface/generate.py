#!/usr/bin/env python3
"""Compares the texts that brim writes with those of transformers' generate.

usage: generate.py BUILD (BUILD/tests/huggingface/writer and BUILD/brim compute what brim computes)

Of a random model of each decoder family: logits through brim's cache, for prompts of awkward lengths read in awkward
chunks and then one token at a time up to the last position, beside those of transformers with use_cache; the tokens
that are the most probable, whole texts of them; where texts end. Of random logits: the distribution that temperature,
top-k and top-p leave, beside that of transformers' warpers one after the other, and the counts of brim's draws.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, DynamicCache, GenerationConfig
from transformers.generation.logits_process import (LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper,
                                                    TopPLogitsWarper)

from check import TOLERANCE, cases, check, failures, passed, randomised, worst

# Prompt, and tokens of it read at once; 0 = all positions.
CUTS = [(1, 1), (1, 512), (2, 1), (7, 3), (16, 16), (17, 16), (31, 512), (50, 7), (-1, 8), (0, 13), (0, 512)]


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(map(str, arguments))}\n{done.stderr}')
    return done.stdout


# ---- Logits ---------------------------------------------------------------------------------------------------------

def positions(config):
    return config.max_position_embeddings


@torch.no_grad()
def step_by_step(model, ids, prompt):
    """Logits of every position: of the prompt at once, then with transformers' own cache of one token after the other."""
    cache = DynamicCache(config=model.config)
    logits = [model(ids[:, :prompt], cache=cache, use_cache=True).logits]
    for t in range(prompt, ids.shape[1]):
        logits.append(model(ids[:, t:t + 1], cache=cache, use_cache=True).logits)
    return torch.cat(logits, 1)


def check_logits(name, model, config, directory, folder):
    length = positions(config)
    torch.manual_seed(21)
    ids = torch.randint(1, config.vocab_size, (3, length))
    given, got = os.path.join(folder, 'i.safetensors'), os.path.join(folder, 'o.safetensors')
    save_file({'ids': ids.int()}, given)
    theirs = step_by_step(model, ids, 7)
    absolute = relative = 0.0
    for prompt, chunk in CUTS:
        run(WRITER, 'logits', directory, given, got, prompt if prompt > 0 else length + prompt, chunk)
        a, r = worst({'': load_file(got)['logits']}, {'': theirs})
        absolute, relative = max(absolute, a), max(relative, r)
    check(f'{name}: logits of {length} tokens through the cache, {len(CUTS)} ways', relative < TOLERANCE,
          f'max abs {absolute:.2g}, relative {relative:.2g}')


# ---- Texts ----------------------------------------------------------------------------------------------------------

def written(directory, prompt, tokens, *more):
    out = run(BRIM, 'generate', '--model', directory, '--init', directory, '--prompt', prompt, '--tokens', tokens,
              '--temperature', 0, '--json', *more)
    return json.loads(out)['sequences'][0]


def generated(model, prompt, tokens, **more):
    ids = torch.tensor([list(prompt.encode())])
    # No position is left for what is read after the last one, so the length is not limited by the model's.
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
                         pad_token_id=0, use_cache=True, **more)
    return out[0, ids.shape[1]:].tolist()


def check_texts(name, model, config, directory):
    """Without a tokenizer a token is a byte, and these are below the vocabulary's 97."""
    length, same, total = positions(config), 0, 0
    model.generation_config = GenerationConfig()
    for prompt, chunk in (('A', 512), ('TO BE, OR', 4), ('0123456789' * 3, 7), ('?' * (length - 2), 16), ('!' * length, 9)):
        tokens = length - len(prompt) + 1
        ours, theirs = written(directory, prompt, tokens, '--prefill', chunk, '--ignore-eos'), generated(model, prompt, tokens)
        same += ours['tokens'] == theirs and ours['finish_reason'] == 'length'
        total += tokens
    check(f'{name}: 5 texts of the most probable tokens, {total} in all, up to the last position', same == 5)


def check_ends(name, model, directory):
    """A text ends where transformers ends it: a number in config.json, a list in generation_config.json."""
    whole = generated(model, 'TO BE', 30)
    once = [t for t in whole if t not in whole[:3]]
    end = once[0] if once else whole[3]
    path = os.path.join(directory, 'generation_config.json')
    if os.path.exists(path):
        os.remove(path)
    with open(os.path.join(directory, 'config.json')) as f:
        config = json.load(f)
    with open(os.path.join(directory, 'config.json'), 'w') as f:
        json.dump(dict(config, eos_token_id=end), f)
    ours = written(directory, 'TO BE', 30)
    good = ours['tokens'] == generated(model, 'TO BE', 30, eos_token_id=end) and ours['finish_reason'] == 'stop'
    good = good and ours['tokens'][-1] == end
    with open(path, 'w') as f:
        json.dump({'eos_token_id': [95, whole[2]]}, f)
    good = good and written(directory, 'TO BE', 30)['tokens'] == generated(model, 'TO BE', 30, eos_token_id=[95, whole[2]])
    good = good and written(directory, 'TO BE', 30, '--ignore-eos')['tokens'] == whole
    check(f'{name}: ends after eos_token_id, a number or a list, and goes on with --ignore-eos', good)


def check_families():
    for name, kind, config in cases():
        # With its cache transformers sees all tokens through a window of one, and without it itself alone.
        if kind is BertForMaskedLM or getattr(config, 'sliding_window', None) == 1:
            continue
        model = randomised(kind(config), 11)
        with tempfile.TemporaryDirectory() as folder:
            directory = os.path.join(folder, 'theirs')
            model.save_pretrained(directory)
            if 'longrope' not in name:  # whose keys of both lists transformers' cache mixes: positions.py
                check_logits(name, model, config, directory, folder)
            check_texts(name, model, config, directory)
            check_ends(name, model, directory)


# ---- Draws ----------------------------------------------------------------------------------------------------------

SETTINGS = [(1.0, 0, 1.0), (0.7, 0, 1.0), (2.5, 0, 1.0), (1.0, 1, 1.0), (1.0, 5, 1.0), (0.3, 40, 1.0), (1.0, 5000, 1.0),
            (1.0, 0, 0.5), (1.0, 0, 0.9), (0.8, 0, 0.95), (1.0, 0, 1e-6), (1.0, 10, 0.5), (0.6, 50, 0.8), (3.0, 7, 0.999),
            (1e-3, 3, 0.9)]


def some_logits():
    """Rows of 203: smooth; many equal; impossible ones; halves and quarters whose sums are exactly top-p; all equal."""
    torch.manual_seed(8)
    smooth = torch.randn(4, 203) * 3
    equal = (torch.randn(4, 203) * 2).round()
    impossible = torch.where(torch.rand(2, 203) < 0.9, torch.tensor(float('-inf')), torch.randn(2, 203))
    halves = torch.full((1, 203), float('-inf'))
    halves[0, 10:14] = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    return torch.cat([smooth, equal, impossible, halves, torch.zeros(1, 203)])


def warpers(temperature, top_k, top_p):
    """As generate does: temperature, then top-k, then top-p."""
    out = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        out.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        out.append(TopPLogitsWarper(top_p))
    return out


def warped(logits, setting):
    """Which of equal logits top-p cuts off is left to torch.sort, which sorts equal ones in any order. Here it keeps the
    order, of tokens from the last to the first: so of equal ones the first tokens stay, which is brim's rule."""
    sort = torch.sort
    torch.sort = lambda *a, **k: sort(*a, stable=True, **k)
    try:
        return warpers(*setting)(None, logits.flip(-1)).softmax(-1).flip(-1)
    finally:
        torch.sort = sort


def sampled(logits, temperature, top_k, top_p, seed, draws):
    with tempfile.TemporaryDirectory() as folder:
        given, got = os.path.join(folder, 'i.safetensors'), os.path.join(folder, 'o.safetensors')
        save_file({'logits': logits.contiguous()}, given)
        run(WRITER, 'sample', given, got, temperature, top_k, top_p, seed, draws)
        out = load_file(got)
        return out['probabilities'], out['tokens'].long()


def check_distributions():
    logits, apart, wrong = some_logits(), 0.0, []
    for setting in SETTINGS:
        ours, theirs = sampled(logits, *setting, 1, 1)[0], warped(logits, setting)
        apart = max(apart, float((ours - theirs).abs().max()))
        as_it_is = warpers(*setting)(None, logits).softmax(-1)
        apart = max(apart, float((ours.sort(-1).values - as_it_is.sort(-1).values).abs().max()))
        # What underflows in one need not in the other; what is cut off is 0 in both.
        rows = ((ours == 0) != (theirs == 0)) & (torch.maximum(ours, theirs) > 1e-30)
        if rows.any():
            wrong.append(f'{setting}: rows {rows.any(1).nonzero().flatten().tolist()}')
    check(f'temperature, top-k, top-p: the same tokens are left as by the warpers, {len(SETTINGS)} settings, ties too',
          not wrong, '; '.join(wrong))
    check('temperature, top-k, top-p: with the same probabilities', apart < 2e-6, f'max abs {apart:.2g}')


def deviations(tokens, probabilities):
    """Chi squared of the counts of draws, as standard deviations of the normal distribution (Wilson and Hilferty); rare
    tokens are counted together."""
    expected = probabilities.double() * len(tokens)
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    if counts[expected == 0].sum() > 0:
        return float('inf')
    rare = expected < 5
    cells = [(float(counts[rare].sum()), float(expected[rare].sum()))] if float(expected[rare].sum()) > 1 else []
    cells += list(zip(counts[~rare].tolist(), expected[~rare].tolist()))
    free = len(cells) - 1
    if free < 1:
        return 0.0
    chi = sum((c - e) ** 2 / e for c, e in cells)
    return ((chi / free) ** (1 / 3) - (1 - 2 / (9 * free))) / (2 / (9 * free)) ** 0.5


def check_counts(draws=20000):
    logits, largest, cases_ = some_logits(), -9.0, 0
    for i, setting in enumerate(SETTINGS):
        tokens, theirs = sampled(logits, *setting, 100 + i, draws)[1], warped(logits, setting)
        for row in range(len(logits)):
            largest = max(largest, deviations(tokens[row], theirs[row]))
            cases_ += 1
    check(f'{draws} draws of each of {cases_} distributions, seeded: chi squared', largest < 4.2,
          f'the largest is {largest:.2f} standard deviations above its mean')


def main():
    global WRITER, BRIM
    build = sys.argv[1] if len(sys.argv) > 1 else 'build'
    WRITER, BRIM = os.path.join(build, 'tests/huggingface/writer'), os.path.join(build, 'brim')
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    check_families()
    check_distributions()
    check_counts()
    print(f'{passed()} passed, {len(failures)} failed')
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main()
