#!/usr/bin/env python3
"""What PyTorch's own allocator does in training steps of Hugging Face models, without a GPU: the traces that the
prediction is compared with.

Unmodified torch, transformers, peft and bitsandbytes run on the CUDA runtime of stand-in/: real dispatch, real autograd, the
real caching allocator; kernels do nothing and device memory is only addresses. One process imports all and forks a child
for each configuration before CUDA is touched.

usage: oracle.py [--list FILE] [--only PATTERN] [--part N/M] [--out DIR] [--ops] [--check DIR] [--jobs N] [NAME FLAGS …]
"""
import argparse
import fnmatch
import gzip
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
STAND_IN = os.environ.get('BRIM_PYTORCH_STAND_IN', os.path.join(HERE, '../../build/pytorch-stand-in'))


def on_the_stand_in():
    """This process again, with the stand-in loaded before anything else."""
    if 'libpytorch-stand-in' in os.environ.get('LD_PRELOAD', ''):
        return
    library = os.path.join(STAND_IN, 'libpytorch-stand-in.so')
    if not os.path.exists(library):
        sys.exit(f'oracle: there is no stand-in at {STAND_IN}: stand-in/build makes it')
    os.environ['LD_PRELOAD'] = library
    os.environ['LD_LIBRARY_PATH'] = STAND_IN + ':' + os.environ.get('LD_LIBRARY_PATH', '')
    os.environ.update(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', DS_ACCELERATOR='cuda',
                      TRANSFORMERS_VERBOSITY='error', TQDM_DISABLE='1', KINETO_LOG_LEVEL='5', HF_HUB_DISABLE_PROGRESS_BARS='1',
                      PYTORCH_NVML_BASED_CUDA_CHECK='0', PYTHONWARNINGS='ignore')
    os.execv(sys.executable, [sys.executable, *sys.argv])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--list', default=os.path.join(HERE, 'configurations.txt'), help='a line a configuration: a name, flags')
    parser.add_argument('--only', action='append', default=[], help='names that match a pattern (* and ?), or contain it')
    parser.add_argument('--part', default='', help='M or N/M: every M-th configuration, from another start each day, or from the N-th')
    parser.add_argument('--out', default='', help='a folder for the traces')
    parser.add_argument('--ops', action='store_true', help='a second run names the operation of each event')
    parser.add_argument('--plain', action='store_true', help='traces as text, not compressed')
    parser.add_argument('--check', default='', help='a folder of traces to compare with')
    parser.add_argument('--known', action='store_true', help='only those that the folder of --check has')
    parser.add_argument('--apart', action='store_true', help='each child asks the card itself: PyTorch 2.10 takes no fork after that')
    parser.add_argument('--jobs', type=int, default=1)
    parser.add_argument('one', nargs=argparse.REMAINDER, help='one configuration: its name and flags')
    return parser.parse_args()


def unasked():
    """torch.cuda answers without asking the card, until what is returned is called."""
    import torch
    asking = torch.cuda.is_available, torch.cuda.device_count
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1

    def asked():
        torch.cuda.is_available, torch.cuda.device_count = asking
    return asked


def chosen(a):
    lines = [a.one] if a.one else [line.split() for line in open(a.list) if line.strip() and not line.startswith('#')]
    names = [line[0] for line in lines]
    for name in set(names):
        if names.count(name) > 1:
            sys.exit(f'oracle: two configurations are called {name}')
    if a.only:
        lines = [l for l in lines if any(fnmatch.fnmatch(l[0], p) or p in l[0] or p == '=' + l[0] for p in a.only)]
    if a.known:
        lines = [l for l in lines if os.path.exists(os.path.join(a.check, l[0] + '.tr.gz'))]
    if a.part:
        first, _, every = a.part.rpartition('/')
        every = int(every)
        lines = lines[int(first) - 1 if first else int(time.time() // 86400) % every::every]
    return lines


def in_a_child(work):
    """The text that work() returns, from a forked child, or None and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(2, 1)  # what libraries print is not the trace
        code = 1
        try:
            text = work().encode()
            with os.fdopen(write, 'wb') as pipe:
                pipe.write(text)
            code = 0
        except BaseException:  # whatever it was, the parent goes on with the next
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, 'rb') as pipe:
        text = pipe.read().decode()
    return text if os.waitpid(child, 0)[1] == 0 else None


def one(name, flags, a):
    """The trace of one configuration, as text."""
    import job
    options = job.parse(flags)

    def run(names=False):
        if a.apart:
            a.apart()
            job.prepare_card(options.card)
        return job.run(name, options, names)
    plain = in_a_child(run)
    if plain is None or not a.ops:
        return plain
    named = in_a_child(lambda: run(True))
    bare = '\n'.join(' '.join(l.split(' ')[:2]) if l[:1] in 'af' else l for l in (named or '').split('\n'))
    if bare == plain:
        return named
    return plain.replace('\n', '\n# ops: naming them changed the sequence, so none is named\n', 1)


def write(text, name, a):
    path = os.path.join(a.out, name + ('.tr' if a.plain or a.ops else '.tr.gz'))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    data = text.encode()
    with open(path, 'wb') as f:
        f.write(data if path.endswith('.tr') else gzip.compress(data, 9, mtime=0))


def differs(text, name, folder):
    """Where the trace is not the one in the folder: a sentence, or nothing."""
    path = os.path.join(folder, name + '.tr.gz')
    if not os.path.exists(path):
        return 'there is no such fixture'
    old, new = gzip.open(path, 'rt').read().split('\n'), text.split('\n')
    for i, (x, y) in enumerate(zip(old, new)):
        if x != y:
            return f'line {i + 1} was "{x[:90]}" and is "{y[:90]}"'
    return '' if len(old) == len(new) else f'there were {len(old)} lines and are {len(new)}'


def worker(lines, a, index):
    import job
    import models
    failed = 0
    for line in lines[index::a.jobs]:
        start = time.time()
        missing = models.missing(job.parse(line[1:]))
        if missing:
            sys.stderr.write(f'{line[0]:40s} not run: {missing}\n')
            continue
        text = one(line[0], line[1:], a)
        said = 'FAILED' if text is None else differs(text, line[0], a.check) if a.check else ''
        failed += bool(said)
        if text is not None and a.out:
            write(text, line[0], a)
        elif text is not None and not a.check:
            sys.stdout.write(text)
        sys.stderr.write(f'{line[0]:40s} {time.time() - start:6.1f} s {"" if text is None else text.count(chr(10))} lines {said}\n')
        sys.stderr.flush()
    return failed


def in_children(works):
    """What each returns, from 0 to 100, in a child of its own."""
    children = []
    for work in works:
        children.append(os.fork())
        if children[-1] == 0:
            code = 100
            try:
                code = min(work(), 100)
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def on_card(card, lines, a):
    if not a.apart:
        import job
        job.prepare_card(card)
    return sum(in_children([lambda i=i: worker(lines, a, i) for i in range(a.jobs)]))


def main():
    a = arguments()
    on_the_stand_in()
    lines = chosen(a)
    if not lines:
        sys.stderr.write('oracle: no configuration matches\n')
        return
    import job
    a.apart = a.apart and unasked()
    job.prepare()
    cards = {}
    for line in lines:
        cards.setdefault(job.parse(line[1:]).card, []).append(line)
    failed = sum(in_children([lambda: on_card(card, group, a)])[0] for card, group in cards.items())
    sys.exit(f'oracle: {failed} of {len(lines)} configurations failed or differ' if failed else 0)


if __name__ == '__main__':
    main()
