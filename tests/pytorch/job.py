"""One configuration: its flags, and what a child does with them."""
import argparse
import os
import sys

CARDS = {  # sm, processors, MiB
    't4': (75, 40, 15095), 'a100': (80, 108, 81153), 'rtx3090': (86, 82, 24135), 'rtx4090': (89, 128, 24081),
    'h100': (90, 132, 81090), 'h200': (90, 132, 143771)}


def parse(flags):
    p = argparse.ArgumentParser(prog='configuration')
    p.add_argument('--model', default='llama', help='of models.py')
    p.add_argument('--set', default='', help='k=v,… over its configuration')
    p.add_argument('--task', default='', choices=['', 'classify'])
    p.add_argument('--precision', default='bf16', choices=['fp32', 'bf16', 'fp16', 'bf16-autocast', 'fp16-autocast'])
    p.add_argument('--weights', default='', choices=['', 'fp32', 'bf16', 'fp16'], help="default: fp32 under autocast")
    p.add_argument('--attention', default='sdpa', choices=['sdpa', 'eager', 'flash'],
                   help="flash: flash_attention_2, with PyTorch's copy of the kernel in place of the package's")
    p.add_argument('--kernel', default='', choices=['', 'efficient'], help="PyTorch's memory-efficient kernel alone, heads repeated")
    p.add_argument('--cudnn', action='store_true', help="leave cuDNN's attention on")
    p.add_argument('--batch', type=int, default=3)
    p.add_argument('--seq', type=int, default=56)
    p.add_argument('--lengths', default='', help='a length for each micro-batch, in place of --seq')
    p.add_argument('--mask', default='none', choices=['none', 'ones', 'padding'])
    p.add_argument('--accumulate', type=int, default=1)
    p.add_argument('--steps', type=int, default=2)
    p.add_argument('--optimizer', default='adamw',
                   choices=['adamw', 'adamw-fused', 'adamw-loop', 'sgd', 'sgd-momentum', 'adamw8bit', 'paged-adamw8bit', 'adafactor', 'none'])
    p.add_argument('--clip', type=float, default=1.0)
    p.add_argument('--checkpoint', default='none', choices=['none', 'reentrant', 'no-reentrant'])
    p.add_argument('--dropout', type=float, default=None)
    p.add_argument('--lora', type=int, default=0, help='rank')
    p.add_argument('--targets', default='q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj')
    p.add_argument('--lora-dropout', type=float, default=0.0)
    p.add_argument('--lora-weights', default='fp32', choices=['fp32', 'model'], help='autocast_adapter_dtype')
    p.add_argument('--quantize', default='none', choices=['none', 'nf4', 'nf4-single', 'int8'])
    p.add_argument('--kbit-prepare', default='off', choices=['on', 'off'])
    p.add_argument('--hold', nargs='?', const='loop', default='none', choices=['none', 'step', 'loop'],
                   help='how long the script keeps `outputs`: not, to the end of its step, or to the next, as plain loops do')
    p.add_argument('--zero-keep', action='store_true', help='zero_grad(set_to_none=False)')
    p.add_argument('--loss', default='model', choices=['model', 'sum'], help='loop: of the model, or the sum of its logits without labels')
    p.add_argument('--sft', action='store_true', help="trl's SFTTrainer: what it does to the model")
    p.add_argument('--one-tensor', action='store_true', help='loop: one batch for all steps, and labels that are input_ids')
    p.add_argument('--last-step', action='store_true', help='the peaks of the last step alone, and what the model took before')
    p.add_argument('--script', default='loop', choices=['loop', 'trainer'])
    p.add_argument('--evaluate', type=int, default=0, help='trainer: evaluation batches after the last step')
    p.add_argument('--metrics', action='store_true', help='trainer: compute_metrics is given, so evaluation keeps the logits')
    p.add_argument('--save', action='store_true', help='trainer: a checkpoint is saved after each step')
    p.add_argument('--logging', type=int, default=500, help='trainer: logging_steps')
    p.add_argument('--eval-accumulation', type=int, default=0)
    p.add_argument('--ranks', type=int, default=1)
    p.add_argument('--parallel', default='none', choices=['none', 'ddp', 'fsdp2'])
    p.add_argument('--no-sync', action='store_true', help='loop: gradients are summed over ranks in the last micro-batch alone')
    p.add_argument('--find-unused', action='store_true', help='ddp: find_unused_parameters')
    p.add_argument('--bucket-view', action='store_true', help='ddp: gradient_as_bucket_view')
    p.add_argument('--static-graph', action='store_true', help='ddp')
    p.add_argument('--keep-buffers', action='store_true', help='ddp: broadcast_buffers=False')
    p.add_argument('--fsdp-type', default='', choices=['', 'bf16', 'fp16'], help="fsdp2: MixedPrecisionPolicy's param_dtype")
    p.add_argument('--fsdp-reduce', default='', choices=['', 'fp32', 'bf16', 'fp16'], help='fsdp2: its reduce_dtype')
    p.add_argument('--keep-gathered', action='store_true', help='fsdp2: reshard_after_forward=False')
    p.add_argument('--card', default='h200', choices=sorted(CARDS))
    p.add_argument('--total', type=int, default=0, help="the card's MiB, in place of its own")
    p.add_argument('--peaks', action='store_true', help='the peaks alone, without events')
    a = p.parse_args(flags)
    a.weights = a.weights or ('fp32' if a.precision.endswith('autocast') else a.precision)
    a.flags = ' '.join(flags)
    return a


def prepare():
    """What all cards share is imported once; none of it may touch CUDA, for PyTorch keeps a card's properties."""
    import torch
    import models
    torch.cuda._is_in_bad_fork = lambda: False  # the stand-in is as good in a child as before
    models.prepare()


def prepare_card(card):
    """The rest, in the process of a card: bitsandbytes asks what card there is."""
    sm, processors, total = CARDS[card]
    os.environ.update(STAND_IN_SM=str(sm), STAND_IN_PROCESSORS=str(processors), STAND_IN_MIB=str(total), STAND_IN_READ='0')
    import models
    models.prepare_card()


def config_of(model):
    import models
    config = models.inner(model).config.to_dict()
    return {k: v for k, v in config.items() if k not in ('_name_or_path', 'transformers_version', 'id2label', 'label2id')}


def versions():
    import importlib.metadata as metadata
    out = []
    for name in ('torch', 'transformers', 'peft', 'bitsandbytes', 'accelerate'):
        try:
            out.append(f'{name}={metadata.version(name)}')
        except metadata.PackageNotFoundError:
            pass
    return ' '.join(out)


def make(a, record):
    """The model, as the flags have it, and what must be known before it is made."""
    import torch
    import models
    import scripts
    torch.manual_seed(0)
    if not a.cudnn and hasattr(torch.backends.cuda, 'enable_cudnn_sdp'):
        torch.backends.cuda.enable_cudnn_sdp(False)
    if a.parallel != 'none':
        import ranks
        ranks.join(a)
    record.mark('model')
    if a.kernel:
        scripts.pin_efficient()
    if a.attention == 'flash':
        scripts.flash_attn()
    return models.make(a)


def train(a, model, record):
    if a.script == 'trainer':
        import trainer
        trainer.run(a, model, record)
    else:
        import loop
        loop.run(a, model, record)
    record.mark('end')


def run(name, a, names=False):
    sm, processors, total = CARDS[a.card]
    os.environ.update(STAND_IN_MIB=str(a.total or total))
    import torch
    import models
    import recorder
    record = recorder.Recorder(names)
    model = make(a, record)
    models.answer_reads(a)
    loaded = {'loaded': torch.cuda.memory_allocated()} if a.last_step else {}
    if a.last_step:
        record.last = f'step{a.steps - 1}'
    if record.names:
        record.names.watch(model)
    train(a, model, record)
    if a.last_step:
        loaded['left'] = record.left  # behind the last step, before zero_grad
    lines = record.stop()
    parameters = list(model.parameters())
    head = recorder.header(
        name=name, flags=a.flags, versions=versions(), card=f'{a.card} sm={sm} processors={processors} MiB={a.total or total}',
        config=config_of(model), model=type(models.inner(model)).__name__,
        parameters=f'{sum(p.numel() for p in parameters)} trainable={sum(p.numel() for p in parameters if p.requires_grad)}',
        peaks=' '.join(f'{k}={v}' for k, v in record.peaks.items()), retries=record.retries, **loaded)
    return '\n'.join(head + ([] if a.peaks or a.last_step else lines)) + '\n'
