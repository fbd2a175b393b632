"""The allocator's events, with the phase of each and, when asked, the operation that was running."""
import json

import torch


def count():
    """How many events the allocator has counted so far."""
    stats = torch._C._cuda_memoryStats(0)['allocation']['all']
    return stats['allocated'] + stats['freed']


class Names:
    """The operation, and the module or the node of the graph that runs it, of each event: PyTorch's profiler sees the
    allocator's events as they happen, and unlike a dispatch mode it leaves the sequence as it is."""

    def __init__(self):
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self.open = []

    def watch(self, model):
        paths = {id(module): path for path, module in model.named_modules()}
        register = torch.nn.modules.module

        def enter(m, x):
            span = torch.profiler.record_function('module ' + (paths.get(id(m), type(m).__name__) or 'model'))
            span.__enter__()
            self.open.append(span)

        def leave(m, x, y):
            self.open.pop().__exit__(None, None, None)
        register.register_module_forward_pre_hook(enter)
        register.register_module_forward_hook(leave, always_call=True)

    def start(self):
        self.profiler.__enter__()

    def stop(self):
        """For each event of the allocator in order: ' OPERATION WHERE'."""
        self.profiler.__exit__(None, None, None)
        events = self.profiler.profiler.kineto_results.events()
        memory = [e for e in events if e.name() == '[memory]' and e.device_type() == torch.autograd.DeviceType.CUDA]
        threads = {}
        for e in events:
            if e.name() != '[memory]':
                threads.setdefault(e.start_thread_id(), []).append((e.start_ns(), -e.duration_ns(), e.name()))
        for spans in threads.values():
            spans.sort()
        at = {}  # thread: where in its spans, and those open
        for e in sorted(memory, key=lambda e: e.start_ns()):
            thread, now = e.start_thread_id(), e.start_ns()
            place = at.setdefault(thread, [0, []])
            spans = threads.get(thread, [])
            while place[0] < len(spans) and spans[place[0]][0] <= now:
                place[1].append(spans[place[0]])
                place[0] += 1
            place[1] = [s for s in place[1] if s[0] - s[1] >= now]
            yield self.named([s[2] for s in place[1]])

    @staticmethod
    def named(spans):
        operations = [s for s in spans if not s.startswith(('module ', 'autograd::', 'Optimizer', 'enumerate'))]
        nodes = [s.split(': ')[-1] for s in spans if s.startswith('autograd::')]
        modules = [s[7:] for s in spans if s.startswith('module ')]
        where = '@'.join(nodes[-1:] + modules[-1:]) or '-'
        return f' {">".join(operations[-2:]).replace(" ", "_") or "-"} {where}'


def in_order(frees):
    """Frees that follow each other, by number: the allocator is the same after them in any order, and autocast's cache of
    weights is emptied in the order of a hash of addresses, which differs from run to run."""
    frees.sort()
    lines = [f'f {number}{named}' for number, named in frees]
    frees.clear()
    return lines


class Recorder:
    def __init__(self, names=False):
        self.marks, self.names, self.last, self.left = [], Names() if names else None, '', 0
        torch.cuda.init()
        torch.cuda.memory._record_memory_history(max_entries=50_000_000, context=None, stacks='python')
        if names:
            self.names.start()
        self.base = count()

    def mark(self, phase):
        if self.last and phase.startswith(self.last):
            torch.cuda.reset_peak_memory_stats()
            self.last = ''
        if phase.endswith(' zero'):
            self.left = torch.cuda.memory_allocated()
        self.marks.append((count() - self.base, phase))

    def stop(self):
        """Lines of events, and the peaks."""
        stats = torch.cuda.memory_stats()
        trace = torch.cuda.memory._snapshot()['device_traces'][0]
        torch.cuda.memory._record_memory_history(enabled=None)
        self.peaks = {k: stats[k + '_bytes.all.peak'] for k in ('requested', 'allocated', 'reserved')}
        self.retries = stats['num_alloc_retries']
        return list(self.lines([e for e in trace if e['action'] in ('alloc', 'free_completed')]))

    def lines(self, events):
        numbers, serial, marks = {}, 0, iter(self.marks)
        mark = next(marks, None)
        names = list(self.names.stop()) if self.names else []
        if self.names and len(names) != len(events):
            yield f'# ops: the profiler saw {len(names)} events, the allocator {len(events)}: none is named'
            names = []
        frees, streams = [], {0: ''}
        for i, event in enumerate(events):
            named = names[i] if names else ''
            if frees and (event['action'] == 'alloc' or mark and mark[0] <= i):
                yield from in_order(frees)
            while mark and mark[0] <= i:
                yield '= ' + mark[1]
                mark = next(marks, None)
            if event['action'] == 'alloc':
                serial += 1
                numbers[event['addr']] = serial
                stream = streams.setdefault(event['stream'], f'@{len(streams)}')
                yield f"a {event['size']}{stream}{named}"
            else:
                frees.append((numbers.pop(event['addr']), named))
        yield from in_order(frees)
        while mark:
            yield '= ' + mark[1]
            mark = next(marks, None)


def header(**items):
    return [f'# {k} {json.dumps(v, sort_keys=True) if isinstance(v, (dict, list)) else v}' for k, v in items.items()]
