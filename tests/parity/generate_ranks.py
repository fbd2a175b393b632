#!/usr/bin/env python3
"""Writes ranks.bin: what PyTorch trains on two ranks, by DistributedDataParallel and by FSDP2 (fully_shard).

usage: generate_ranks.py OUTDIR [--dtype float64|float32]

Two processes, on the CPU, with gloo. The ranks have unequal numbers of labels. Both wrappers divide a sum of gradients
by the number of ranks: they compute a mean of means, as long as each rank's loss is a mean over its own labels. What
belongs to the mean over all labels is set here: a rank's loss is its sum over labels, times the number of ranks, divided
by the labels of the whole step on all ranks. The cases `means` leave that out, and are another training.
"""
import argparse
import multiprocessing
import os
import sys
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import models
from fixture import Writer, attributes, integers
from generate import set_weights

RANKS, STEPS = 2, 6
OPTIMIZER = dict(lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1)

# A name, the class and its configuration, micro-batches of a rank and step, their size, the norm gradients are cut to.
TRAININGS = [
    ('llama', models.LlamaForCausalLM,
     dict(vocab=59, dim=32, layers=2, heads=4, kv_heads=2, hidden=44, norm_eps=1e-5, rope_theta=10000.0, tied=0),
     1, (2, 17), 0.5),
    ('gpt2', models.GPT2LMHeadModel, dict(vocab=61, dim=24, layers=2, heads=3, ffn=80, max_seq=16, norm_eps=1e-5),
     2, (2, 13), 0.8),
]


def batches(vocab, micros, size):
    """ids and labels (steps, micro-batches of all ranks, B, T): rank r has the r-th `micros` of them. The second rank has
    fewer labels than the first, and other numbers of them in every step."""
    shape = (STEPS, RANKS * micros, *size)
    ids, labels = integers(1000, shape, vocab), integers(1001, shape, vocab)
    kept = integers(1002, shape, 12) < np.where(np.arange(RANKS * micros) < micros, 11, 3)[:, None, None]
    return ids, np.where(kept, labels, models.IGNORE).astype(np.int32)


def wrapped(model, way):
    if way == 'ddp':
        return DistributedDataParallel(model)
    mesh = init_device_mesh('cpu', (RANKS,))
    blocks = model.transformer.h if hasattr(model, 'transformer') else model.model.layers
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sync_gradients(model, way, last):
    """Gradients are summed over ranks in a step's last micro-batch."""
    if way == 'ddp':
        model.require_backward_grad_sync = last
    else:
        model.set_requires_gradient_sync(last)


def train(rank, dtype, training, way, scaled):
    """Losses of all ranks' labels before each step, and norms of gradients before they are cut."""
    _, kind, config, micros, size, clip = training
    model = kind(**config).to(dtype)
    set_weights(model)
    model = wrapped(model, way)
    o = OPTIMIZER
    optimizer = torch.optim.AdamW(model.parameters(), lr=o['lr'], betas=(o['beta1'], o['beta2']), eps=o['eps'],
                                  weight_decay=o['weight_decay'])
    ids, labels = (torch.from_numpy(x).long() for x in batches(config['vocab'], micros, size))
    losses, norms = [], []
    for step in range(STEPS):
        counted = int((labels[step] != models.IGNORE).sum())
        loss = torch.zeros((), dtype=torch.float64)
        for micro in range(micros):
            sync_gradients(model, way, micro + 1 == micros)
            own = labels[step, rank * micros + micro].reshape(-1)
            logits = model(ids[step, rank * micros + micro])
            total = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), own, ignore_index=models.IGNORE, reduction='sum')
            loss += total.detach().double() / counted
            (total * RANKS / counted if scaled else total / (own != models.IGNORE).sum() / micros).backward()
        dist.all_reduce(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        norm = norm.full_tensor() if hasattr(norm, 'full_tensor') else norm
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        norms.append(float(norm))
    return np.array(losses), np.array(norms)


def one_rank(rank, dtype, meeting, path):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method='file://' + meeting, rank=rank, world_size=RANKS)
    writer = Writer(path)
    for training in TRAININGS:
        name, _, config, micros, size, clip = training
        ids, labels = batches(config['vocab'], micros, size)
        writer.add('config', attributes(name, **config))
        writer.add('training', attributes('adamw', **OPTIMIZER, decay_all=1, clip=clip, micros=micros))
        writer.add('ids', ids)
        writer.add('labels', labels)
        for way, scaled in (('ddp', 1), ('fsdp', 1), ('ddp', 0)):
            losses, norms = train(rank, dtype, training, way, scaled)
            writer.add('case', attributes(way if scaled else 'means'))
            writer.add('losses', losses)
            writer.add('norms', norms)
    if rank == 0:
        writer.write()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('outdir')
    parser.add_argument('--dtype', choices=('float64', 'float32'), default='float64')
    options = parser.parse_args()
    os.makedirs(options.outdir, exist_ok=True)
    os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    path = os.path.join(options.outdir, 'ranks.bin')
    context = multiprocessing.get_context('fork')  # one import of PyTorch, which has started no thread yet
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=one_rank, args=(rank, getattr(torch, options.dtype),
                                                        os.path.join(folder, 'meeting'), path))
                 for rank in range(RANKS)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    if any(rank.exitcode for rank in ranks):
        sys.exit('generate_ranks.py: a rank has failed')


if __name__ == '__main__':
    main()
