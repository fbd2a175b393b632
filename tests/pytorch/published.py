#!/usr/bin/env python3
"""The rows of published.txt on the stand-in, with the versions that they were measured with.

usage: published.py [--only TEXT] [--environment NAME] [--table [FILE]]

A line "@ SOURCE ENVIRONMENT UNIT FLAGS" says how the rows behind it were measured; a row is MODEL[:k=v,…] BxS ATTENTION BASE and
what was measured: allocated, reserved, and allocated before the first step, in UNIT or "-". Behind each row that was run is
"= ALLOCATED RESERVED LOADED" in bytes, which this script writes again. UNIT "left" is bytes that are allocated behind a step.
--table prints them in Markdown, without running, with what build/tests/test_pytorch_published said, in FILE.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FILE = os.path.join(HERE, 'published.txt')
BASES = {'none': '', 'nf4': '--quantize nf4 --kbit-prepare on', 'nf4-single': '--quantize nf4-single --kbit-prepare on',
         'nf4-unprepared': '--quantize nf4'}
ATTENTIONS = {'efficient': '--attention sdpa --kernel efficient'}
UNITS = {'MiB': 1 << 20, 'MB': 10 ** 6, 'bytes': 1, 'left': 1}


class Row:
    def __init__(self, line, section, at):
        words = line.split()
        self.model, self.shape, self.attention, self.base = words[:4]
        self.source, self.environment, self.unit, self.flags = section
        self.measured = [None if w == '-' else float(w) * UNITS[self.unit] for w in words[4:7]]
        self.measured += [None] * (3 - len(self.measured))
        self.line, self.at, self.oracle = line, at, None

    def configuration(self, name):
        model, _, settings = self.model.partition(':')
        batch, seq = self.shape.split('x')
        flags = [f'--model {model} --batch {batch} --seq {seq}', self.flags, BASES[self.base],
                 ATTENTIONS.get(self.attention, f'--attention {self.attention}'), f'--set {settings}' if settings else '']
        # A checkpoint is written and read only where it is quantized and not too large for that.
        if self.base == 'none' or re.search(r'-[7-9]b', model):
            flags.append('--peaks')
        return ' '.join([name] + [f for f in flags if f])


def read(lines):
    section, rows = None, []
    for at, line in enumerate(lines):
        if line.startswith('@ '):
            source, environment, unit, flags = (line.split(maxsplit=4) + [''])[1:5]
            section = source, environment, unit, flags.strip()
        elif line.startswith('= '):
            rows[-1].oracle = [int(w) for w in line.split()[1:4]]
        elif line.strip() and not line.startswith('#'):
            rows.append(Row(line, section, at))
    return rows


def run(rows, environment):
    """What the oracle says of each, in bytes."""
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as configurations, tempfile.TemporaryDirectory() as out:
        configurations.write('\n'.join(row.configuration(f'row{i}') for i, row in enumerate(rows)) + '\n')
        configurations.flush()
        subprocess.run(['tests/pytorch/run', os.environ.get('BUILD', 'build'), '--environment', environment, '--list',
                        configurations.name, '--out', out, '--plain'] + ['--apart'] * (environment == 'torch-2.10'), cwd=os.path.join(HERE, '../..'))
        for i, row in enumerate(rows):
            path = os.path.join(out, f'row{i}.tr')
            text = open(path).read() if os.path.exists(path) else ''
            peaks = re.search(r'allocated=(\d+) reserved=(\d+)', text)
            loaded = re.search(r'^# loaded (\d+)', text, re.M)
            left = re.search(r'^# left (\d+)', text, re.M)
            row.oracle = [int(left[1] if row.unit == 'left' and left else peaks[1]), int(peaks[2]), int(loaded[1]) if loaded else 0] if peaks else None


def against(ours, measured, digits=3):
    return f'{ours / (1 << 20):.2f} ({100 * (ours / measured - 1):+.{digits}f} %)'.replace('(-0.000', '(+0.000')


def table(rows, predictions):
    """Measured; the stand-in, and what it adds to the loaded model; the rules in C."""
    predicted = {}
    for line in open(predictions) if predictions else ():
        words = line.split()
        if len(words) == 9 and words[8] == '%':
            predicted[tuple(words[:5])] = [int(w) for w in words[5:7]]
    source = None
    for row in rows:
        if row.source != source:
            source = row.source
            print(f'\n**{source}**\n\n| MiB: model, batch x length, attention, base | allocated | stand-in | beside what was loaded | '
                  'rules | reserved | stand-in | rules |\n|---|---:|---:|---:|---:|---:|---:|---:|')
        allocated, reserved, loaded = row.measured
        c = predicted.get((row.source, row.model, row.shape, row.attention, row.base))
        text = [f'{row.model} {row.shape} {row.attention} {row.base}'.replace('none', '').strip(), f'{allocated / (1 << 20):.2f}']
        if row.oracle:
            beside = against(row.oracle[0] - row.oracle[2], allocated - loaded) if loaded else ''
            text += [against(row.oracle[0], allocated), beside.partition(' ')[2].strip('()')]
        else:
            text += ['', '']
        text += [against(c[0], allocated) if c else '', f'{reserved / (1 << 20):.0f}' if reserved else '']
        text += [against(row.oracle[1], reserved, 1) if reserved and row.oracle else '', against(c[1], reserved, 1) if reserved and c else '']
        print('| ' + ' | '.join(text) + ' |')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', default='', help='rows whose source and line contain this')
    parser.add_argument('--environment', default='', help='rows of this environment')
    parser.add_argument('--table', nargs='?', const='', default=None, metavar='FILE')
    a = parser.parse_args()
    lines = open(FILE).read().split('\n')
    rows = read(lines)
    if a.table is not None:
        return table(rows, a.table)
    chosen = [r for r in rows if a.only in f'{r.source} {r.line}' and (not a.environment or r.environment == a.environment)]
    for environment in sorted({r.environment for r in chosen if r.environment != '-'}):
        run([r for r in chosen if r.environment == environment], environment)
    lines = open(FILE).read().split('\n')  # it may have changed meanwhile
    done = {(r.source, r.line): r.oracle for r in chosen if r.oracle}
    after = {r.at: done.get((r.source, r.line), r.oracle) for r in read(lines)}
    out = []
    for at, line in enumerate(lines):
        if not line.startswith('= '):
            out.append(line)
        if after.get(at):
            out.append('= ' + ' '.join(str(n) for n in after[at]))
    open(FILE, 'w').write('\n'.join(out))
    for r in chosen:
        if r.oracle and r.measured[0]:
            print(f'{r.source} {r.model} {r.shape} {r.attention} {r.base}: {against(r.oracle[0], r.measured[0])}')


if __name__ == '__main__':
    main()
