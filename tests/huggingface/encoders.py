"""Encoders beside BERT against transformers, for check.py: values and gradients, steps, files and adapters both ways, the command
with a tokenizer, and the published sizes on the meta device."""
import json
import os
import subprocess
import tempfile

import adapters
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sizes import brims
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (AutoModelForMaskedLM, CamembertConfig, CamembertForMaskedLM, DistilBertConfig,
                          DistilBertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM, RobertaConfig, RobertaForMaskedLM, RobertaModel, XLMRobertaConfig,
                          XLMRobertaForMaskedLM)

TOLERANCE = 2e-5
IGNORE = -100
SMALL = dict(vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
             max_position_embeddings=66, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1,
             layer_norm_eps=1e-5, attn_implementation='eager')
MODERN = dict(vocab_size=97, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=40,
              max_position_embeddings=64, local_attention=10, pad_token_id=3, bos_token_id=1, eos_token_id=2,
              cls_token_id=1, sep_token_id=2, attn_implementation='eager')
DISTIL = dict(vocab_size=97, dim=48, n_layers=3, n_heads=4, hidden_dim=80, max_position_embeddings=64, dropout=0.0,
              attention_dropout=0.0, attn_implementation='eager')


def cases():
    yield 'roberta', RobertaForMaskedLM, RobertaConfig(**SMALL)
    yield 'roberta, two types, three heads, another padding token', RobertaForMaskedLM, RobertaConfig(
        **{**SMALL, 'type_vocab_size': 2, 'num_attention_heads': 3, 'pad_token_id': 4, 'layer_norm_eps': 1e-12})
    yield 'xlm-roberta', XLMRobertaForMaskedLM, XLMRobertaConfig(**SMALL)
    yield 'camembert, one head', CamembertForMaskedLM, CamembertConfig(**{**SMALL, 'num_attention_heads': 1})
    yield 'distilbert', DistilBertForMaskedLM, DistilBertConfig(**DISTIL)
    yield 'distilbert, three heads, sines', DistilBertForMaskedLM, DistilBertConfig(
        **{**DISTIL, 'n_heads': 3, 'sinusoidal_pos_embds': True})
    yield 'modernbert', ModernBertForMaskedLM, ModernBertConfig(**MODERN)
    yield 'modernbert, all biases, one head, an odd window', ModernBertForMaskedLM, ModernBertConfig(
        **{**MODERN, 'num_attention_heads': 1, 'local_attention': 7}, attention_bias=True, mlp_bias=True, norm_bias=True,
        classifier_bias=True, global_attn_every_n_layers=2)
    yield 'modernbert, no bias of the decoder, layers and bases by version 5', ModernBertForMaskedLM, ModernBertConfig(
        **{**MODERN, 'local_attention': 34}, decoder_bias=False, norm_eps=1e-3, layer_types=[
            'sliding_attention', 'full_attention', 'sliding_attention', 'sliding_attention'], rope_parameters={
                'full_attention': {'rope_type': 'default', 'rope_theta': 500.0},
                'sliding_attention': {'rope_type': 'default', 'rope_theta': 77.0}})


def inputs_of(config, rows, length, seed=5):
    """Rows of several lengths, padded on the right with the padding token, which is nowhere else."""
    r = np.random.default_rng(seed)
    pad, vocab = config.pad_token_id, config.vocab_size
    ids = r.integers(0, vocab - 1, (rows, length))
    ids += ids >= pad
    mask = np.arange(length)[None] < r.integers(max(1, length // 2), length + 1, (rows, 1))
    labels = np.where(mask & (r.random((rows, length)) < 0.6), r.integers(0, vocab, (rows, length)), IGNORE)
    out = {'ids': np.where(mask, ids, pad), 'labels': labels, 'mask': mask}
    if getattr(config, 'type_vocab_size', 0) > 1:
        out['types'] = np.arange(length)[None] >= r.integers(2, length, (rows, 1))
    return {k: torch.from_numpy(np.ascontiguousarray(v.astype(np.int32))) for k, v in out.items()}


def made(randomised, kind, config, seed):
    """Where the head is registered first, as XLM-RoBERTa's is, the tied parameter would go by its name there."""
    model = randomised(kind(config), seed)
    for name in [n for n in model._modules if n != model.base_model_prefix]:
        model._modules[name] = model._modules.pop(name)
    return model


def check_values(compare, randomised):
    for name, kind, config in cases():
        model = made(randomised, kind, config, 11)
        for length in (60, 17) if ',' in name else (64, 3):
            with tempfile.TemporaryDirectory() as folder:
                directory = os.path.join(folder, 'theirs')
                model.save_pretrained(directory)
                inputs = inputs_of(config, 4, length)
                extra = ('--eager', '--chunk', 37) if ',' in name else ()
                compare(f'{name}, {length} tokens', model, directory, inputs, folder, extra)


# ---- Files ----------------------------------------------------------------------------------------------------------

def check_stored(check, driver, worst, randomised):
    """A tied head stored a second time, buffers of older files, other heads, and the body without its prefix."""
    for name, kind, config in cases():
        if ',' in name:
            continue
        model, inputs = randomised(kind(config), 12), inputs_of(config, 2, 20)
        state = {n: t.contiguous().clone() for n, t in model.state_dict().items()}
        prefix = model.base_model_prefix + '.'
        head = {'distilbert': 'vocab_projector', 'modernbert': 'decoder'}.get(name, 'lm_head.decoder')
        table = 'embeddings.' + ('tok_embeddings' if name == 'modernbert' else 'word_embeddings')
        bare = {n.removeprefix(prefix): t for n, t in state.items()}
        bare[head + '.weight'] = state[f'{prefix}{table}.weight'].clone()
        bare['classifier.weight'] = torch.zeros(2, 48)
        if name != 'modernbert':
            bare['embeddings.position_ids'] = torch.arange(4)[None]
        if name not in ('distilbert', 'modernbert'):
            bare['lm_head.decoder.bias'] = state['lm_head.bias'].clone()
            bare['pooler.dense.weight'] = torch.zeros(48, 48)
        with tempfile.TemporaryDirectory() as folder:
            given, got = (os.path.join(folder, n) for n in ('i.safetensors', 'o.safetensors'))
            config.save_pretrained(folder)
            save_file(inputs, given)
            save_file(bare, os.path.join(folder, 'model.safetensors'), metadata={'format': 'pt'})
            driver(folder, given, got)
            with torch.no_grad():
                logits = model(input_ids=inputs['ids'].long(), attention_mask=inputs['mask'].long()).logits
            seen = inputs['mask'].bool()
            _, r = worst({'': load_file(got)['logits'][seen]}, {'': logits[seen]})
            check(f'{name}: without the prefix, with copies of tied tensors, buffers and other heads', r < TOLERANCE,
                  f'relative {r:.2g}')


def check_encoder(check, driver, worst, randomised):
    """The body alone, as sentence-transformers and AutoModel save it: hidden states and gradients."""
    config = RobertaConfig(**SMALL)
    model, inputs = randomised(RobertaModel(config), 13), inputs_of(config, 3, 30)
    hidden = model(input_ids=inputs['ids'].long(), attention_mask=inputs['mask'].long()).last_hidden_state
    torch.manual_seed(3)
    inputs['upstream'] = torch.randn_like(hidden) * inputs['mask'][:, :, None]
    (hidden * inputs['upstream']).sum().backward()
    with tempfile.TemporaryDirectory() as folder:
        given, got, saved = (os.path.join(folder, n) for n in ('i.safetensors', 'o.safetensors', 'saved'))
        model.save_pretrained(folder)
        save_file(inputs, given)
        driver(folder, given, got, '--encoder', '--save', saved)
        ours, seen = load_file(got), inputs['mask'].bool()
        _, r = worst({'': ours['logits'][seen]}, {'': hidden.detach()[seen]})
        check('roberta: hidden states of the body alone', r < TOLERANCE, f'relative {r:.2g}')
        theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        _, r = worst({n: ours['grad.roberta.' + n] for n in theirs}, theirs)
        check('roberta: gradients of the body alone', r < TOLERANCE, f'relative {r:.2g}')
        again, info = RobertaModel.from_pretrained(saved, output_loading_info=True)
        same = all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())
        check('roberta: the body saved by brim, loaded by transformers', same and not any(
            info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys')))


# ---- The command ----------------------------------------------------------------------------------------------------

def byte_tokenizer(path, special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        ['the cat sat on the mat ' * 3],
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    first, last = special[0], special[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{first} $A {last}', special_tokens=[(first, 0), (last, tokenizer.token_to_id(last))])
    tokenizer.save(path)
    return tokenizer


def check_command(check, build, driver, worst):
    """`brim train --init DIR --export` with masked tokens; transformers' logits with what it wrote are brim's."""
    rows = [('roberta', RobertaForMaskedLM, RobertaConfig(**{**SMALL, 'vocab_size': 300}), ['<s>', '<pad>', '</s>', '<mask>']),
            ('distilbert', DistilBertForMaskedLM, DistilBertConfig(**{**DISTIL, 'vocab_size': 300, 'pad_token_id': 1}),
             ['[CLS]', '[PAD]', '[SEP]', '[MASK]']),
            ('modernbert', ModernBertForMaskedLM, ModernBertConfig(**{**MODERN, 'vocab_size': 300, 'pad_token_id': 1}),
             ['[CLS]', '[PAD]', '[SEP]', '[MASK]'])]
    for name, kind, config, special in rows:
        with tempfile.TemporaryDirectory() as folder:
            at = {n: os.path.join(folder, n) for n in ('base', 'out', 'text.txt', 'i.safetensors', 'o.safetensors')}
            torch.manual_seed(2)
            kind(config).save_pretrained(at['base'])
            byte_tokenizer(os.path.join(at['base'], 'tokenizer.json'), special)
            with open(at['text.txt'], 'w', encoding='utf-8') as f:
                f.write('the cat sat on the mat, and what it saw there was a dog. ' * 40)
            run = subprocess.run([os.path.join(build, 'brim'), 'train', '--init', at['base'], '--data', at['text.txt'],
                                  '--tokenizer', os.path.join(at['base'], 'tokenizer.json'), '--seq', '24', '--batch', '4',
                                  '--steps', '40', '--lr', '2e-3', '--export', at['out'], '--json'],
                                 capture_output=True, text=True)
            if run.returncode:
                raise RuntimeError(run.stderr)
            said = json.loads(run.stdout)
            check(f'{name}: brim train --init with masked tokens learns', said['loss_last'] < 0.8 * said['loss_first'],
                  f'{said["loss_first"]:.3f} {said["loss_last"]:.3f}')
            model, info = kind.from_pretrained(at['out'], output_loading_info=True, attn_implementation='eager')
            inputs = inputs_of(config, 2, 24)
            save_file(inputs, at['i.safetensors'])
            driver(at['out'], at['i.safetensors'], at['o.safetensors'])
            with torch.no_grad():
                logits = model.eval()(input_ids=inputs['ids'].long(), attention_mask=inputs['mask'].long()).logits
            seen = inputs['mask'].bool()
            _, r = worst({'': load_file(at['o.safetensors'])['logits'][seen]}, {'': logits[seen]})
            clean = not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
            check(f'{name}: what the command exported, in transformers', clean and r < TOLERANCE and
                  model.config.pad_token_id == config.pad_token_id, f'relative {r:.2g}')


# ---- Adapters -------------------------------------------------------------------------------------------------------

def drawn(vocab, rows, length, _):
    inputs = inputs_of(RobertaConfig(vocab_size=vocab), rows, length)
    inputs['ids'] = torch.from_numpy(np.random.default_rng(6).integers(2, vocab, (rows, length)).astype(np.int32))
    return {n: t for n, t in inputs.items() if n in ('ids', 'labels')}


def roberta():
    return RobertaForMaskedLM(RobertaConfig(**{**SMALL, 'vocab_size': 61, 'attn_implementation': None}, initializer_range=0.1))


def distilbert():
    return DistilBertForMaskedLM(DistilBertConfig(**{**DISTIL, 'vocab_size': 61, 'attn_implementation': None},
                                                  initializer_range=0.1))


def modernbert():
    return ModernBertForMaskedLM(ModernBertConfig(**{**MODERN, 'vocab_size': 61, 'attn_implementation': None},
                                                  initializer_range=0.1))


ADAPTERS = [('roberta, all-linear', roberta, {'target_modules': 'all-linear', 'r': 4}),
            ('roberta, biases', roberta, {'target_modules': ['query', 'value'], 'bias': 'lora_only'}),
            ('distilbert, all-linear', distilbert, {'target_modules': 'all-linear', 'r': 3, 'lora_alpha': 5}),
            ('distilbert, biases', distilbert, {'target_modules': ['q_lin', 'v_lin'], 'bias': 'all'}),
            ('modernbert, all-linear', modernbert, {'target_modules': 'all-linear', 'r': 3}),
            ('modernbert, fused projections', modernbert, {'target_modules': ['Wqkv', 'Wi'], 'use_rslora': True})]


def check_adapters(check, driver, worst):
    for what, make, options in ADAPTERS:
        with tempfile.TemporaryDirectory() as folder:
            adapters.check_case(what, make, options, check, driver, worst, drawn, folder)
    for what, make in (('roberta', roberta), ('distilbert', distilbert), ('modernbert', modernbert)):
        with tempfile.TemporaryDirectory() as folder:
            adapters.check_trained(what, make, check, driver, drawn, folder)


# ---- Published sizes ------------------------------------------------------------------------------------------------

BASE = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
LARGE = dict(BASE, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
PUBLISHED = [('roberta-base', RobertaConfig(**BASE)), ('roberta-large', RobertaConfig(**LARGE)),
             ('distilroberta-base', RobertaConfig(**BASE, num_hidden_layers=6)),
             ('xlm-roberta-base', XLMRobertaConfig(**{**BASE, 'vocab_size': 250002})),
             ('xlm-roberta-large', XLMRobertaConfig(**{**LARGE, 'vocab_size': 250002})),
             ('distilbert-base', DistilBertConfig()), ('modernbert-base', ModernBertConfig()),
             ('modernbert-large', ModernBertConfig(hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
                                                   intermediate_size=2624))]


def check_sizes(check, build):
    for name, config in PUBLISHED:
        with torch.device('meta'):
            model = AutoModelForMaskedLM.from_config(config)
        theirs, ours = sum(p.numel() for p in model.parameters()), brims(build, name)
        check(f'{name}: parameters', ours == theirs, f'{ours} {theirs}')


def check_encoders(check, build, driver, worst, compare, randomised):
    check_values(compare, randomised)
    check_stored(check, driver, worst, randomised)
    check_encoder(check, driver, worst, randomised)
    check_command(check, build, driver, worst)
    check_adapters(check, driver, worst)
    check_sizes(check, build)
