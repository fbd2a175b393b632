"""Several ranks, of which this process is the first: DistributedDataParallel and FSDP2 over the stand-in's NCCL."""
import contextlib
import os

import torch
import torch.distributed as dist

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def join(a):
    """The process group; what launchers put into the environment is what Trainer looks at."""
    os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE=str(a.ranks), LOCAL_WORLD_SIZE=str(a.ranks),
                      MASTER_ADDR='localhost', MASTER_PORT='29500', TORCH_NCCL_ENABLE_MONITORING='0')
    torch.cuda.set_device(0)
    dist.init_process_group('nccl', store=dist.HashStore(), rank=0, world_size=a.ranks)


def policy(a):
    from torch.distributed.fsdp import MixedPrecisionPolicy
    if not a.fsdp_type:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=DTYPES[a.fsdp_type], reduce_dtype=DTYPES[a.fsdp_reduce] if a.fsdp_reduce else None)


def layers(model):
    """The decoder's layers: the longest list of modules."""
    return max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)


def shard(a, model):
    from torch.distributed.fsdp import fully_shard
    how = dict(mp_policy=policy(a), **({'reshard_after_forward': False} if a.keep_gathered else {}))
    for layer in layers(model):
        fully_shard(layer, **how)
    return fully_shard(model, **how)


def wrap(a, model):
    """The model as a plain loop makes it of several ranks."""
    if a.parallel == 'ddp':
        return torch.nn.parallel.DistributedDataParallel(
            model, device_ids=[0], find_unused_parameters=a.find_unused, gradient_as_bucket_view=a.bucket_view,
            static_graph=a.static_graph, broadcast_buffers=not a.keep_buffers)
    if a.parallel == 'fsdp2':
        return shard(a, model)
    return model


def synchronized(a, model, last):
    """DDP's gradients are summed over ranks in the last micro-batch alone, where the script says so."""
    if a.parallel == 'ddp' and a.no_sync and not last:
        return model.no_sync()
    if a.parallel == 'fsdp2' and a.no_sync:
        model.set_requires_gradient_sync(last)
    return contextlib.nullcontext()
