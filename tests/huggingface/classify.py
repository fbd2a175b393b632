#!/usr/bin/env python3
"""Sequence classifiers of BERT's kind, against transformers and PEFT.

usage: classify.py BUILD (BUILD/tests/huggingface/driver and BUILD/brim compute what brim computes)

Of each family: logits, loss, every gradient, and the losses of steps of AdamW; files both ways, bit for bit. Then the
command: `brim train --init DIRECTORY --data labels.csv --export` of texts and of pairs of texts, with a masked checkpoint
and with one that is a classifier already: the loss and accuracy that it prints for the rows it holds out are those that
transformers finds with the export and its own tokenizer, cut and padded. Adapters of PEFT's task SEQ_CLS in and out.
Prints a line a case and "N passed, N failed".
"""
import csv
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM,
                          BertForSequenceClassification, DistilBertConfig, DistilBertForMaskedLM,
                          DistilBertForSequenceClassification, ModernBertConfig, ModernBertForMaskedLM,
                          ModernBertForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM,
                          RobertaForSequenceClassification, XLMRobertaConfig, XLMRobertaForSequenceClassification)

TOLERANCE = 2e-5
BUILD = sys.argv[1] if len(sys.argv) > 1 else 'build'
DRIVER = os.path.join(BUILD, 'tests/huggingface/driver')
NAMES = {'id2label': {0: 'bad', 1: 'so so', 2: 'good'}, 'label2id': {'bad': 0, 'so so': 1, 'good': 2}}
SMALL = dict(vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80,
             hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation='eager')
failures, passes = [], 0


def check(what, good, detail=''):
    global passes
    if good:
        passes += 1
    else:
        failures.append(what)
    print(f'  {"ok  " if good else "FAIL"} {what}{": " if detail else ""}{detail}', flush=True)


def run(program, *arguments, code=0):
    got = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if got.returncode != code:
        raise RuntimeError(f'{program} {" ".join(map(str, arguments))}\n{got.stderr}')
    return got


def randomised(model, seed=11):
    torch.manual_seed(seed)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.1 if p.dim() > 1 else 0.2) + (1 if p.dim() == 1 and 'weight' in n else 0))
    return model.eval()


def worst(ours, theirs):
    top = max(float(t.abs().max()) for t in theirs.values())
    return max(float((ours[n].float() - t).abs().max()) / max(float(t.abs().max()), 1e-3 * top) for n, t in theirs.items())


def bert(labels):
    return BertForSequenceClassification(BertConfig(**SMALL, max_position_embeddings=40, **labels))


def roberta(labels):
    return RobertaForSequenceClassification(RobertaConfig(**SMALL, max_position_embeddings=42, type_vocab_size=1, **labels))


def xlm_roberta(labels):
    return XLMRobertaForSequenceClassification(
        XLMRobertaConfig(**SMALL, max_position_embeddings=42, type_vocab_size=1, **labels))


def distilbert(labels):
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=97, dim=48, n_layers=2, n_heads=4, hidden_dim=80, max_position_embeddings=40, dropout=0.0,
                         attention_dropout=0.0, seq_classif_dropout=0.0, attn_implementation='eager', **labels))


MODERN = dict(num_hidden_layers=3, num_attention_heads=4, intermediate_size=40, local_attention=8, pad_token_id=0,
              attn_implementation='eager')


def modernbert(labels, **more):
    return ModernBertForSequenceClassification(
        ModernBertConfig(vocab_size=97, hidden_size=48, max_position_embeddings=40, **MODERN, **more, **labels))


def modernbert_mean(labels):
    return modernbert(labels, classifier_pooling='mean', classifier_bias=True, norm_bias=True)


FAMILIES = [('bert', bert), ('roberta', roberta), ('distilbert', distilbert), ('modernbert', modernbert),
            ('modernbert, the mean of tokens', modernbert_mean), ('xlm-roberta', xlm_roberta)]


def random_inputs(model, rows=6, length=40, seed=5):
    """Padded on the right with the model's padding token, which positions of RoBERTa leave out."""
    r = np.random.default_rng(seed)
    config = model.config
    mask = np.arange(length)[None] < r.integers(length // 3, length + 1, (rows, 1))
    ids = np.where(mask, r.integers(3, config.vocab_size, (rows, length)), config.pad_token_id)
    out = {'ids': ids, 'mask': mask, 'labels': r.integers(0, config.num_labels, rows)}
    if getattr(config, 'type_vocab_size', 1) > 1:
        out['types'] = np.arange(length)[None] >= r.integers(2, length, (rows, 1))
    return {k: torch.from_numpy(np.ascontiguousarray(v.astype(np.int32))) for k, v in out.items()}


def theirs_of(model, inputs, first=0, count=None):
    end = None if count is None else first + count
    given = {'input_ids': inputs['ids'][first:end].long(), 'attention_mask': inputs['mask'][first:end].long()}
    if 'types' in inputs:
        given['token_type_ids'] = inputs['types'][first:end].long()
    return model(**given, labels=inputs['labels'][first:end].long())


def check_model(name, make):
    for labels in (NAMES, {'num_labels': 2}):
        model = randomised(make(labels))
        title = f'{name}, {model.config.num_labels} classes'
        inputs = random_inputs(model)
        with tempfile.TemporaryDirectory() as folder:
            directory, given, got, saved = (os.path.join(folder, n) for n in ('theirs', 'i.safetensors', 'o.safetensors', 'saved'))
            model.save_pretrained(directory)
            save_file(inputs, given)
            run(DRIVER, directory, given, got, '--save', saved, *([] if labels is NAMES else ['--eager']))
            ours = load_file(got)
            out = theirs_of(model, inputs)
            out.loss.backward()
            gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            r = worst({'': ours['logits']}, {'': out.logits.detach()})
            check(f'{title}: logits', r < TOLERANCE, f'relative {r:.2g}')
            check(f'{title}: loss', abs(float(ours['loss']) - out.loss.item()) < TOLERANCE * out.loss.item())
            same = {'grad.' + n for n in gradients} == {n for n in ours if n.startswith('grad.')}
            check(f'{title}: gradients of the same {len(gradients)} names', same)
            r = worst({n: ours['grad.' + n] for n in gradients}, gradients) if same else 1
            check(f'{title}: all gradients', r < TOLERANCE, f'relative {r:.2g}')
            again, info = type(model).from_pretrained(saved, output_loading_info=True, attn_implementation='eager')
            clean = not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
            mine = again.state_dict()
            check(f'{title}: transformers loads what brim saved, with the same weights and labels',
                  clean and all(torch.equal(mine[n], t) for n, t in model.state_dict().items()) and
                  again.config.id2label == model.config.id2label and again.config.label2id == model.config.label2id)
            check_steps(title, model, directory, inputs, given, got)


def check_steps(title, model, directory, inputs, given, got, steps=3):
    """A few steps of AdamW: the loss before each."""
    rows = inputs['ids'].shape[0] // steps
    run(DRIVER, directory, given, got, '--steps', steps, '--batch', rows, '--lr', 1e-3)
    ours = load_file(got)['losses'].tolist()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    theirs = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = theirs_of(model, inputs, step * rows, rows).loss
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    worst_one = max(abs(a - b) / b for a, b in zip(ours, theirs))
    check(f'{title}: losses of {steps} steps of AdamW', worst_one < 1e-4, f'relative {worst_one:.2g}')


# ---- The command ----------------------------------------------------------------------------------------------------

WORDS = ('a the film play story of it was very quite seen heard told old new long short, "quoted" naïve; never again '
         'great fine lovely charming bright dull awful boring flat grim weak').split(' ')


def text_of(r, least, most):
    return ' '.join(r.choices(WORDS, k=r.randint(least, most)))


def tables(folder):
    """Texts with what a field has quotes for: commas, quotes, newlines."""
    r = random.Random(4)
    good = set('great fine lovely charming bright'.split())
    one, two, tabs = (os.path.join(folder, n) for n in ('one.csv', 'two.csv', 'tabs.tsv'))
    with open(one, 'w', newline='', encoding='utf-8-sig') as f:
        out = csv.writer(f)
        out.writerow(['label', 'number', 'text'])
        for i in range(60):
            text = text_of(r, 2, 24) + ('\n' if i % 5 == 0 else '') + (', indeed' if i % 3 == 0 else '')
            out.writerow([('good' if sum(w in good for w in text.split()) > 2 else 'bad') if i % 7 else 'so so', i, text])
    with open(two, 'w', newline='', encoding='utf-8') as f:
        out = csv.writer(f, lineterminator='\n')
        out.writerow(['sentence1', 'sentence2', 'label'])
        for i in range(60):
            out.writerow([text_of(r, 1, 30), text_of(r, 1, 30), i % 3])
    with open(tabs, 'w', newline='', encoding='utf-8') as f:
        out = csv.writer(f, delimiter='\t', lineterminator='\n')
        out.writerow(['sentence', 'label'])
        for i in range(41):
            out.writerow([text_of(r, 1, 30), i % 2])
    return one, two, tabs


def read_table(path):
    with open(path, newline='', encoding='utf-8-sig') as f:
        rows = list(csv.DictReader(f, delimiter='\t' if path.endswith('.tsv') else ','))
    first = [row.get('text') or row.get('sentence') or row.get('sentence1') or '' for row in rows]
    second = [row['sentence2'] for row in rows] if 'sentence2' in rows[0] else None
    return first, second, [row['label'] for row in rows]


def tokenizer_of(kind, folder):
    """WordPiece with BERT's template, or byte-level BPE with RoBERTa's post-processor."""
    special = {'bert': ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'], 'roberta': ['<s>', '<pad>', '</s>', '<unk>', '<mask>']}[kind if kind == 'roberta' else 'bert']
    if kind != 'roberta':
        t = Tokenizer(models.WordPiece(unk_token='[UNK]'))
        t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        t.train_from_iterator([' '.join(WORDS)] * 9, trainers.WordPieceTrainer(show_progress=False, vocab_size=97, special_tokens=special))
        t.post_processor = processors.TemplateProcessing(
            single='[CLS]:0 $A:0 [SEP]:0', pair='[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
        names = dict(pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]')
    else:
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.train_from_iterator([' '.join(WORDS)] * 9, trainers.BpeTrainer(show_progress=False, 
            vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        t.post_processor = processors.RobertaProcessing(('</s>', 2), ('<s>', 0))
        names = dict(pad_token='<pad>', unk_token='<unk>', cls_token='<s>', sep_token='</s>', mask_token='<mask>')
    PreTrainedTokenizerFast(tokenizer_object=t, **names).save_pretrained(folder)
    return t.get_vocab_size()


def checkpoint(kind, folder, masked, seed=3, **labels):
    vocab = tokenizer_of(kind, folder)
    small = {**SMALL, 'vocab_size': vocab}
    torch.manual_seed(seed)
    if kind == 'bert':
        config = BertConfig(**small, max_position_embeddings=40, **labels)
        model = BertForMaskedLM(config) if masked else BertForSequenceClassification(config)
    elif kind == 'distilbert':
        config = DistilBertConfig(vocab_size=vocab, dim=48, n_layers=2, n_heads=4, hidden_dim=80, max_position_embeddings=40,
                                  dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, **labels)
        model = DistilBertForMaskedLM(config) if masked else DistilBertForSequenceClassification(config)
    elif kind == 'modernbert':
        config = ModernBertConfig(vocab_size=vocab, hidden_size=48, max_position_embeddings=40, classifier_pooling='mean',
                                  **MODERN, **labels)
        model = ModernBertForMaskedLM(config) if masked else ModernBertForSequenceClassification(config)
    else:
        config = RobertaConfig(**small, max_position_embeddings=42, type_vocab_size=1, pad_token_id=1, **labels)
        model = RobertaForMaskedLM(config) if masked else RobertaForSequenceClassification(config)
    model.save_pretrained(folder)


def theirs_held_out(export, table, seq):
    """Loss and accuracy of the last twentieth of the rows."""
    first, second, labels = read_table(table)
    model = AutoModelForSequenceClassification.from_pretrained(export, attn_implementation='eager').eval()
    tokenizer = AutoTokenizer.from_pretrained(export)
    held = max(1, int(len(labels) * 0.05))
    batch = tokenizer(first[-held:], second[-held:] if second else None, truncation=True, max_length=seq,
                      padding='max_length', return_tensors='pt', return_token_type_ids=getattr(model.config, 'type_vocab_size', 1) > 1)
    wanted = torch.tensor([model.config.label2id[l] if l in model.config.label2id else int(l) for l in labels[-held:]])
    with torch.no_grad():
        logits = model(**batch).logits
    return float(F.cross_entropy(logits, wanted)), float((logits.argmax(1) == wanted).float().mean()), model.config


def check_command(kind, masked, table, seq, labels, what):
    name = f'{kind}, {what}'
    with tempfile.TemporaryDirectory() as folder:
        directory, out = os.path.join(folder, 'theirs'), os.path.join(folder, 'out')
        checkpoint(kind, directory, masked, **labels)
        got = run(os.path.join(BUILD, 'brim'), 'train', '--init', directory, '--data', table, '--seq', seq, '--batch', 7,
                  '--epochs', 2, '--lr', '1e-3', '--threads', 1, '--export', out, '--json', '--quiet')
        said = json.loads(got.stdout)
        loss, accuracy, config = theirs_held_out(out, table, seq)
        ours = said['validation']
        check(f'{name}: brim train --data {os.path.basename(table)}: the loss and accuracy of held-out rows in both',
              abs(ours['loss'] - loss) < TOLERANCE * loss and abs(ours['accuracy'] - accuracy) < 1e-6,
              f'{ours["loss"]:.6f} {loss:.6f}, accuracy {ours["accuracy"]:.3f}')
        check(f'{name}: planned as it ran', said['memory']['peak_bytes'] == said['memory']['planned']['peak_bytes'])
        check(f'{name}: a new classifier is said', ('The classifier is new' in got.stderr) == masked)
        return config


def check_commands(folder):
    one, two, tabs = tables(folder)
    config = check_command('bert', True, one, 20, {}, 'names of labels')
    check('bert: sorted names are written', config.id2label == {0: 'bad', 1: 'good', 2: 'so so'} and
          config.architectures == ['BertForSequenceClassification'] and
          config.problem_type == 'single_label_classification')
    config = check_command('bert', False, one, 40, NAMES, 'the names of a classifier')
    check('bert: the model\'s names stay', config.id2label == NAMES['id2label'])
    config = check_command('bert', True, two, 17, {}, 'pairs, cut')
    check('bert: numbers have transformers\' names', config.id2label == {i: f'LABEL_{i}' for i in range(3)})
    check_command('bert', True, two, 40, {}, 'pairs')
    check_command('bert', True, tabs, 24, {}, 'tabs, two numbers')
    check_command('distilbert', True, two, 17, {}, 'pairs, cut')
    check_command('modernbert', True, two, 17, {}, 'pairs, cut')
    check_command('modernbert', False, one, 40, NAMES, 'the names of a classifier')
    check_command('roberta', True, one, 33, {}, 'names of labels')
    check_command('roberta', True, two, 18, {}, 'pairs, cut')
    check_command('roberta', False, two, 40, {'num_labels': 3}, 'a classifier\'s pairs')


# ---- Adapters -------------------------------------------------------------------------------------------------------

def ours_name(name):
    for gone in ('base_model.model.', '.default', '.base_layer', '.modules_to_save'):
        name = name.replace(gone, '')
    return name


def check_adapter(name, make):
    base = randomised(make(NAMES))
    inputs = random_inputs(base)
    with tempfile.TemporaryDirectory() as folder:
        directory, theirs, ours, given, got = (os.path.join(folder, n) for n in
                                               ('base', 'adapter', 'ours', 'i.safetensors', 'o.safetensors'))
        base.save_pretrained(directory)
        save_file(inputs, given)
        model = get_peft_model(base, LoraConfig(task_type='SEQ_CLS', r=3, lora_alpha=5, init_lora_weights=False,
                                                target_modules={'distilbert': ['q_lin', 'v_lin'], 'modernbert': ['Wqkv', 'Wo']}.get(
                                                    name, ['query', 'value'])))
        with torch.no_grad():
            for n, p in model.named_parameters():
                if 'modules_to_save' in n:
                    p.add_(torch.randn_like(p) * 0.1)
        model.save_pretrained(theirs)
        model.eval()
        out = theirs_of(model, inputs)
        out.loss.backward()
        gradients = {ours_name(n): p.grad for n, p in model.named_parameters() if p.requires_grad}
        run(DRIVER, directory, given, got, '--adapter', theirs, '--save-adapter', ours)
        mine = load_file(got)
        r = worst({'': mine['logits']}, {'': out.logits.detach()})
        check(f'{name}: logits with PEFT\'s adapter and classifier', r < TOLERANCE, f'relative {r:.2g}')
        same = {'grad.' + n for n in gradients} == {n for n in mine if n.startswith('grad.')}
        r = worst({n: mine['grad.' + n] for n in gradients}, gradients) if same else 1
        check(f'{name}: gradients of the same {len(gradients)} names', same and r < TOLERANCE, f'relative {r:.2g}')
        a, b = (load_file(os.path.join(d, 'adapter_model.safetensors')) for d in (theirs, ours))
        check(f'{name}: written with the same {len(a)} names and values', a.keys() == b.keys() and
              all(torch.equal(a[n], b[n]) for n in a))
        written = json.load(open(os.path.join(ours, 'adapter_config.json')))
        check(f'{name}: and the same task', written['task_type'] == 'SEQ_CLS' and
              written['modules_to_save'] == ['classifier', 'score'])
        again = PeftModel.from_pretrained(type(base).from_pretrained(directory, attn_implementation='eager'), ours).eval()
        with torch.no_grad():
            check(f'{name}: PEFT computes the same with what brim wrote',
                  torch.equal(theirs_of(again, inputs).logits, out.logits.detach()))


def main():
    torch.set_num_threads(1)
    for name, make in FAMILIES:
        check_model(name, make)
    for name, make in FAMILIES[:4]:
        check_adapter(name, make)
    with tempfile.TemporaryDirectory() as folder:
        check_commands(folder)
    print(f'{passes} passed, {len(failures)} failed')
    return bool(failures)


sys.exit(main())
